/**
 * What the MMU needs of its neighbours, and nothing more. Types only: the engine and the vCPU implement these, tests
 * have fakes for them.
 *
 * The rules of the engine's side are nested-mmu.md chapter 7. Those that shape these calls:
 *   - A TRACKED leaf has W clear. The engine performs a store to it as if W were set, then calls `trackWriteHost`
 *     before the next access by anyone. (If it reports a violation instead, `handleEptViolation` answers 'tracked'.)
 *   - An MMIO leaf is reported to `handleEptViolation` with `mmio` set, on every access: its generation may be old.
 *   - A fault leaves no TLB entry for its address behind.
 *   - Under a linear root (shadow paging) the engine runs with CR0.WP taken as 1.
 */
import { BORN_DOUBLE } from '../../base/bits.ts';
import type { SecondStageRoot } from '../../contracts/second-stage.ts';

/** Registers of the level that runs, as its own instructions would read them (after masks and shadows). */
export interface VcpuRegs {
  readonly cr0: number;
  readonly cr3Lo: number;
  readonly cr3Hi: number;
  readonly cr4: number;
  /** With LMA. */
  readonly efer: number;
  readonly pkru: number;
  /** EFLAGS.AC. */
  readonly ac: boolean;
  readonly cpl: number;
  readonly smm: boolean;
  readonly ripLo: number;
  readonly ripHi: number;
  setCr3(lo: number, hi: number): void;
  pdptrLo(index: number): number;
  pdptrHi(index: number): number;
  setPdptr(index: number, lo: number, hi: number): void;
}

/** Flushes and roots of one vCPU. A flush takes effect before its next guest instruction. */
export interface TlbPort {
  /** Everything of this vCPU, all tags and roots. */
  flushAll(): void;
  /** Linear, combined and guest-physical mappings made through root `rootId`, for every tag. */
  flushRoot(rootId: number): void;
  /** Linear and combined mappings of a tag, through any root. */
  flushVpid(tag: number, keepGlobals: boolean): void;
  /** The same for one linear address, all PCIDs, globals included. */
  flushVpidAddress(tag: number, lo: number, hi: number): void;
  /** The same for the non-global mappings of one PCID. */
  flushVpidPcid(tag: number, pcid: number): void;
  /** The root to run on from the next instruction. The object is reused by the caller: copy what is kept. */
  loadRoot(root: SecondStageRoot): void;
  setVpid(tag: number): void;
}

/** Of the whole VM: every entry of every vCPU dies (a generation counter will do). */
export interface VmTlbPort {
  flushVmWide(): void;
  /** L0 has stored to guest RAM, at a host address: code decoded from there no longer holds. */
  stored(host: number, bytes: number): void;
  /** Makes vCPUs that run leave the engine, so that they see their requests. */
  kick(): void;
}

/**
 * Linear memory, in which guest RAM lies. Getters, because growing memory replaces the buffer.
 */
export interface HostMemory {
  readonly u32: Uint32Array;
  readonly u8: Uint8Array;
}

/** What nested VMX knows of the current VMCS12, and the exits it makes for us. */
export interface NestedPort {
  readonly guestMode: boolean;
  /** "Enable EPT" of the current VMCS12. */
  readonly usesEpt: boolean;
  /** "Mode-based execute control for EPT". */
  readonly usesMbec: boolean;
  /** "Enable VPID". */
  readonly usesVpid: boolean;
  readonly vpid: number;
  readonly eptPointerLo: number;
  readonly eptPointerHi: number;
  setEptPointer(lo: number, hi: number): void;
  /** VM functions: bit 0 of the VM-function controls, and the EPTP-list address. */
  readonly eptpSwitching: boolean;
  readonly eptpListAddress: number;
  /** "Enable PML", with its page and its index. */
  readonly usesPml: boolean;
  readonly pmlAddress: number;
  pmlIndex: number;
  /** VM exit to L1: reason 48, 49 or 62. The linear address is valid iff qualification bit 7. */
  exitForEpt(reason: number, qualification: number, guestPhysical: number, linearLo: number, linearHi: number): void;
  /** #PF into the running level, or the exit to L1 that L1's exception bitmap asks for. */
  injectPageFault(errorCode: number, linearLo: number, linearHi: number): void;
}

/** Basic exit reasons, SDM 3D Appendix C. */
export const EXIT_REASON = { EPT_VIOLATION: 48, EPT_MISCONFIGURATION: 49, PML_FULL: 62 } as const;

/** An EPT violation or a miss of an MMIO leaf, as the engine reports it. One object per vCPU, reused. */
export interface EngineViolation {
  /** Guest-physical address of the running level, to the byte. */
  gpa: number;
  /** Exit qualification bits 0 to 12, with bits 9 to 11 always filled in for a final access. */
  qualification: number;
  linearLo: number;
  linearHi: number;
  /** The leaf found was an MMIO marker. */
  mmio: boolean;
  /**
   * PFEC.W, U, F and IMPLICIT of the access to the linear address. They matter in one case only: a guest paging structure
   * lies where there is no RAM, and the #PF must say what the access was.
   */
  access: number;
}

export const noViolation = (): EngineViolation => ({
  gpa: BORN_DOUBLE,
  qualification: 0,
  linearLo: BORN_DOUBLE,
  linearHi: BORN_DOUBLE,
  mmio: false,
  access: 0,
});

/**
 * What became of a fault.
 *   retry      run the instruction again
 *   mmio       no RAM there (or a write to a read-only slot): `vcpu.mmio` says where; emulate
 *   tracked    a store to a write-tracked page: perform it, then `trackWrite`
 *   reflected  L1 got an exit, or the running level a #PF; the port has been called
 *   no-pages   the shadow-page quota is used up by roots alone: a configuration mistake
 */
export type FaultResult = 'retry' | 'mmio' | 'tracked' | 'reflected' | 'no-pages';
