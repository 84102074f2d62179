import type { SecondStageRoot, SecondStageTables } from '../../contracts/second-stage.ts';
import type { TlbContexts } from '../paging/tlb.ts';
import { gpr, S, SEG, STATE, STATE_BYTES, segment } from './layout.ts';
import type { EngineMemory } from './memory.ts';

/**
 * What the engine asks of L0 while an instruction runs. Everything else leaves `run` as an exit.
 */
export interface EngineHost {
  /** Reads a device page; only after L0 allowed it for this instruction. `physical` is L1-physical. 1, 2 or 4 bytes. */
  mmioRead(physical: number, bytes: number): number;
  mmioWrite(physical: number, bytes: number, value: number): void;
  portRead(port: number, bytes: number): number;
  portWrite(port: number, bytes: number, value: number): void;
  /**
   * IN or OUT as the instruction after so many: true if it happens on the spot, nobody hearing of it before. Then `portRead` or
   * `portWrite` follows, and `closesPort`. False: the instruction leaves.
   */
  opensPort(instructions: number): boolean;
  /** It has happened: instructions of the run under way that come behind it before L0 is to look. */
  closesPort(): number;
  /** A store to a page that L0 tracks has happened: nested-mmu.md 7.7. */
  trackWrite(hostAddress: number, bytes: number): void;
  /** Time-stamp counter as the running guest reads it, at instruction count `instructions`: low half; high in `tscHigh`. */
  tsc(instructions: number): number;
  readonly tscHigh: number;
  /**
   * RDMSR at CPL 0, on the spot: true if L0 has done it, with the value in `msrLow`, `msrHigh`. False: the instruction
   * leaves. What a processor's MSR bitmaps are for.
   */
  msrRead(index: number): boolean;
  readonly msrLow: number;
  readonly msrHigh: number;
  /** WRMSR likewise; of MSRs whose change is over when it is stored. */
  msrWrite(index: number, low: number, high: number): boolean;
  /** Under a linear root, whose tables lead from linear addresses: may the four PDPTEs at `cr3` be loaded? */
  pdptesLegal(cr3: number): boolean;
  /** Ticks of that counter an instruction, if it is a whole number as long as a run lasts, else 0. */
  readonly tscRate: number;
  /** Ticks of the counter since power-on at an instruction count, without what a level adds to it or scales it by. */
  ticks(instructions: number): number;
}

/** Interception by L0: which instructions and events leave the guest. One object per vCPU, read live. */
export interface InterceptControls {
  /** Bit n: exception vector n. */
  exceptions: number;
  /** #PF is intercepted if (error & mask) == match, else if not: SDM 3C 25.2. */
  pageFaultMask: number;
  pageFaultMatch: number;
  /** Set of INTERCEPT bits. */
  instructions: number;
  cr0Mask: number;
  cr0Shadow: number;
  cr4Mask: number;
  cr4Shadow: number;
  /** CR3-load exiting, CR3-store exiting, CR8-load, CR8-store: bits 0–3. */
  crAccess: number;
  /** CR3-target values, as pairs of halves; `cr3TargetCount` of them are valid. */
  cr3Targets: Uint32Array;
  cr3TargetCount: number;
  /** Leave when the guest can take an interrupt, an NMI. */
  interruptWindow: boolean;
  nmiWindow: boolean;
}

/** Instructions that L0 can have intercepted by choice; what always leaves is not here. */
export const INTERCEPT = {
  HLT: 1 << 0,
  INVLPG: 1 << 1,
  MWAIT: 1 << 2,
  RDPMC: 1 << 3,
  RDTSC: 1 << 4,
  MOV_DR: 1 << 5,
  MONITOR: 1 << 6,
  PAUSE: 1 << 7,
  DESCRIPTOR_TABLE: 1 << 8,
  RDTSCP: 1 << 9,
  WBINVD: 1 << 10,
  RDRAND: 1 << 11,
  INVPCID: 1 << 12,
  RDSEED: 1 << 13,
  /** RDTSCP, INVPCID, XSAVES are #UD although CPUID has them. */
  RDTSCP_UD: 1 << 15,
  INVPCID_UD: 1 << 16,
  XSAVES_UD: 1 << 17,
  /** Monitor trap flag: L0 runs instruction by instruction; debug traps stay pending. */
  MONITOR_TRAP: 1 << 18,
  /** PAUSE leaves at level 0 when a loop of it has taken too long: S.PLE_*. */
  PAUSE_LOOP: 1 << 20,
  /** UMIP-like descriptor-table exits cover SGDT, SIDT, SLDT, STR: see DESCRIPTOR_TABLE. Task switches always leave. */
  TASK_SWITCH: 1 << 19,
} as const;

/** In S.INTERCEPTED: L0 waits for an interrupt or NMI window; it waits for one that IF does not shut. */
export const WINDOW = 0x8000_0000;
export const NMI_WINDOW = 0x4000_0000;

export const noIntercepts = (): InterceptControls => ({
  exceptions: 0,
  pageFaultMask: 0,
  pageFaultMatch: 0,
  instructions: INTERCEPT.HLT,
  cr0Mask: 0,
  cr0Shadow: 0,
  cr4Mask: 0,
  cr4Shadow: 0,
  crAccess: 0,
  cr3Targets: new Uint32Array(8),
  cr3TargetCount: 0,
  interruptWindow: false,
  nmiWindow: false,
});

/** From RFLAGS to EFER there is all that the mode word, the TLB set and the segment bases depend on, and little else. */
const isDerivedFrom = (address: number): boolean => address >= S.RFLAGS && address <= S.EFER;

/**
 * One vCPU's state block, wherever it is: at STATE while the vCPU is the engine's current one, else parked.
 *
 * Owns  the translation of the layout's absolute addresses to where the block is now.
 */
export class CpuState {
  readonly index: number;
  readonly home: number;
  readonly #memory: EngineMemory;
  /** Add to an S.* address to get this vCPU's. 0 while current. */
  delta: number;
  /** A register was written here that the engine derives state from: `Processor.modeChanged` before the next instruction. */
  touched = true;

  constructor(memory: EngineMemory, index: number) {
    this.#memory = memory;
    this.index = index;
    this.home = memory.parked + index * STATE_BYTES;
    this.delta = this.home - STATE;
  }

  u32(address: number): number {
    return this.#memory.u32[(address + this.delta) >>> 2]!;
  }

  setU32(address: number, value: number): void {
    if (isDerivedFrom(address)) this.touched = true;
    this.#memory.u32[(address + this.delta) >>> 2] = value;
  }

  u16(address: number): number {
    return this.#memory.u16[(address + this.delta) >>> 1]!;
  }

  setU16(address: number, value: number): void {
    if (isDerivedFrom(address)) this.touched = true;
    this.#memory.u16[(address + this.delta) >>> 1] = value;
  }

  u8(address: number): number {
    return this.#memory.u8[address + this.delta]!;
  }

  setU8(address: number, value: number): void {
    if (isDerivedFrom(address)) this.touched = true;
    this.#memory.u8[address + this.delta] = value;
  }

  /** High half of the i64 at `address`. */
  high(address: number): number {
    return this.u32(address + 4);
  }

  setU64(address: number, low: number, high: number): void {
    this.setU32(address, low);
    this.setU32(address + 4, high);
  }

  /** An i64 that is known to fit 53 bits: physical addresses, counts. */
  number(address: number): number {
    return this.u32(address + 4) * 0x1_0000_0000 + this.u32(address);
  }

  /** For tools: the whole 64 bits. */
  big(address: number): bigint {
    return (BigInt(this.u32(address + 4)) << 32n) | BigInt(this.u32(address));
  }

  gprLow(index: number): number {
    return this.u32(gpr(index));
  }

  gprHigh(index: number): number {
    return this.u32(gpr(index) + 4);
  }

  setGpr(index: number, low: number, high: number): void {
    this.setU64(gpr(index), low, high);
  }

  /** Writes a 32-bit result: the upper half becomes 0. */
  setGpr32(index: number, low: number): void {
    this.setU64(gpr(index), low, 0);
  }

  selector(seg: number): number {
    return this.u16(segment(seg) + SEG.SELECTOR);
  }

  access(seg: number): number {
    return this.u32(segment(seg) + SEG.ACCESS);
  }

  limit(seg: number): number {
    return this.u32(segment(seg) + SEG.LIMIT);
  }

  get cpl(): number {
    return this.u32(S.CPL);
  }

  /** The block as bytes, for whatever its owner does with them. */
  bytes(): Uint8Array {
    this.touched = true;
    return this.#memory.u8.subarray(STATE + this.delta, STATE + this.delta + STATE_BYTES);
  }
}

/** What the engine keeps of a vCPU outside its state block. */
export interface EngineVcpu {
  readonly index: number;
  readonly state: CpuState;
  /** L0 puts another object here when it switches to another guest of the same vCPU. */
  intercepts: InterceptControls;
  /** The second stage in force; L0 sets it with `engine.loadRoot`. */
  root: SecondStageRoot;
  /** TLB tag in force: VPID or ASID. */
  vpid: number;
  /** TLB context in force, or -1: its name has changed, and the next `run` finds it. */
  context: number;
  /** Instructions retired since power-on, up to the last time `run` came back. */
  instructions: number;
  /** Number of instructions given to the `run` under way, to compute the count inside it. */
  slice: number;
}

export interface EngineTables {
  tables: SecondStageTables;
  tlb: TlbContexts;
}
