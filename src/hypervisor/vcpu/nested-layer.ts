import type { VirtualTsc } from '../irq/virtual-tsc.ts';

/** What nested virtualization adds to a vCPU: seams that hypervisor/nested fills. */
export interface NestedLayer {
  /**
   * An exit of the engine while this layer may care: L2 runs, or the instruction is a virtualization instruction.
   *
   * @returns  true if it was dealt with (state is consistent; run on).
   */
  exit(reason: number): boolean;
  /** Before events are delivered: everything that L1's controls make an exit between two instructions. True: look again. */
  beforeEvents(): boolean;
  readonly guestMode: boolean;
  /** L2 runs, and nothing of L1's is to be looked at before its next instruction, nor before the one behind that. */
  readonly isQuiet: boolean;
  /** L1 waits for L2's interrupt window, NMI window: the engine must come back when one may have opened. */
  readonly wantsInterruptWindow: boolean;
  readonly wantsNmiWindow: boolean;
  /** The engine's run is over: what was left for that. */
  afterRun(): void;
  /** Instructions after which `beforeEvents` must be asked again. */
  readonly instructionLimit: number;
  /** Interrupts are exits to L1, whatever L2's RFLAGS.IF. */
  readonly interruptsLeave: boolean;
  /** NMIs are exits to L1, although L2 has blocked its own. */
  readonly nmisLeave: boolean;
  /** Something other than an interrupt ends L2's inactive state. */
  readonly wakes: boolean;
  /** RDMSR or WRMSR of the running level is an exit to L1. */
  leavesForMsr(index: number, write: boolean): boolean;
  /** INIT or SIPI came. True: it was blocked, or became an exit to L1. */
  takesInit(): boolean;
  takesStartup(vector: number): boolean;
  /** An access of L2 to a page that is no memory. True: it became an exit to L1, or the page is memory now. */
  deviceExit(physical: number, write: boolean): boolean;
  /** L2 runs, and the address is on its APIC-access page. */
  runsOnAccessPage(physical: number): boolean;
  /** What the controls of each guest say is to be looked at again before it is entered. */
  mergeAgain(): void;
  /** The page is this layer's (an APIC-access page), and these are its loads and stores. */
  ownsDevicePage(physical: number): boolean;
  mmioRead(physical: number, bytes: number): number;
  mmioWrite(physical: number, bytes: number, value: number): void;
  /** The instruction that accessed it is over. */
  deviceDone(): void;
  /** Bits of CR0 and CR4 of the running level that L1 owns, and what they read as; 0 while L1 runs. */
  readonly cr0OfL1: number;
  readonly cr0ReadShadow: number;
  readonly cr4OfL1: number;
  readonly cr4ReadShadow: number;
  /** `tsc` has L1's value: make it that of the level that runs. */
  adjustTsc(tsc: VirtualTsc): void;
  /** And it ticks at another rate than L1's. */
  readonly scalesTsc: boolean;
  reset(): void;
}
