import { CR0, CR4, EFER, RFLAGS, RFLAGS_IOPL } from '../../arch/registers.ts';
import { BORN_DOUBLE, TWO_32 } from '../../base/bits.ts';
import { MODE } from '../decode/mode.ts';
import { CC } from '../isa/flags.ts';
import { ACCESS, TRANSLATE } from '../paging/access.ts';
import { TlbContexts } from '../paging/tlb.ts';
import { type CodePages, PageWalker } from '../paging/walk.ts';
import type { StringKernels } from '../tiers/string-kernels.ts';
import { type EngineHost, type EngineVcpu, INTERCEPT, NMI_WINDOW, WINDOW } from './cpu.ts';
import { noteDataAccess } from './debug.ts';
import { EXIT, type ExitReason, X } from './exits.ts';
import { ALLOW, AUX, GPR, gpr, REC, S, SCRATCH, SEG, STATUS, segment } from './layout.ts';
import { EngineMemory, type MemoryPlan } from './memory.ts';
import { type DeriveMode, deriveMode } from './mode.ts';

/** Instructions that are #UD, whatever L0 lets run. */
const UNDEFINED = INTERCEPT.RDTSCP_UD | INTERCEPT.INVPCID_UD | INTERCEPT.XSAVES_UD;

/** What the processor offers: decides which bits are reserved and which instructions exist. */
export interface ProcessorFeatures {
  physicalBits: number;
  gigabytePages: boolean;
  /** CR4 bits that may be set. */
  cr4: number;
  /** EFER bits that may be set. */
  efer: number;
  /** XCR0 bits that may be set. */
  xcr0: number;
  /** 'intel' and 'amd' differ in SYSCALL in compatibility mode, SYSENTER in long mode, far returns of 64-bit offsets, … */
  vendor: 'intel' | 'amd';
  /** CPUID features by Linux' name: instructions with a `feature` that is missing are #UD. */
  has: (feature: string) => boolean;
}

/**
 * The processor as TypeScript helpers see it: the running vCPU's registers (always at STATE), linear memory accesses with
 * all checks, and the ways an instruction can end. No exceptions: accesses return false with the fault recorded, and the
 * helper returns `STATUS.FAULT` (or the status in `status`).
 *
 * Owns    the running vCPU's derived state: mode word, TLB set, jump cache, segment bases as addresses use them.
 * Knows   nothing of VMX, of devices, or of who handles an exit.
 */
export class Processor {
  readonly memory: EngineMemory;
  readonly tlb: TlbContexts;
  readonly walker: PageWalker;
  readonly host: EngineHost;
  readonly features: ProcessorFeatures;
  /** For generated code; what is not derived there, `modeChanged` sets. */
  readonly deriveMode: DeriveMode;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  vcpu!: EngineVcpu;
  /** Told of an event that is about to be delivered; what it returns is called if it was delivered, or faulted on the way. */
  onDelivery: ((vector: number, type: number, hasError: boolean, error: number) => () => void) | undefined;
  /** Loops of the generated core. */
  strings!: StringKernels;
  /** Result of the last read: low and high half. */
  low = BORN_DOUBLE;
  high = BORN_DOUBLE;
  /** CR0.AM and RFLAGS.AC are set and CPL is 3: data accesses must be aligned. */
  aligning = false;
  /**
   * The #GP(0) just recorded is an access that no segment could hold: not canonical, or over the end of a 4 GiB segment.
   * It is #SS(0) if the access was through SS, which only the caller knows: `outsideStack`.
   */
  outside = false;

  constructor(memory: EngineMemory, host: EngineHost, features: ProcessorFeatures, code: CodePages) {
    this.memory = memory;
    this.host = host;
    this.features = features;
    this.deriveMode = deriveMode(memory.memory, features.has('zero_fcs_fds') ? 0xffff : 0);
    this.tlb = new TlbContexts(memory);
    this.walker = new PageWalker(memory, this.tlb, host, code);
    this.walker.physicalBits = features.physicalBits;
    this.walker.gigabytePages = features.gigabytePages;
    this.u8 = memory.u8;
    this.u16 = memory.u16;
    this.u32 = memory.u32;
    this.i32 = memory.i32;
  }

  static memory(plan: MemoryPlan): EngineMemory {
    return new EngineMemory(plan);
  }

  // ---- fields of the state ----------------------------------------------------------------------------------------

  get(address: number): number {
    return this.u32[address >>> 2]!;
  }

  set(address: number, value: number): void {
    this.u32[address >>> 2] = value;
  }

  set64(address: number, low: number, high: number): void {
    this.u32[address >>> 2] = low;
    this.u32[(address >>> 2) + 1] = high;
  }

  copy64(to: number, from: number): void {
    this.u32[to >>> 2] = this.u32[from >>> 2]!;
    this.u32[(to >>> 2) + 1] = this.u32[(from >>> 2) + 1]!;
  }

  get cpl(): number {
    return this.u32[S.CPL >>> 2]!;
  }
  get cr0(): number {
    return this.u32[S.CR0 >>> 2]!;
  }
  get cr4(): number {
    return this.u32[S.CR4 >>> 2]!;
  }
  get efer(): number {
    return this.u32[S.EFER >>> 2]!;
  }
  /** 64-bit mode (not compatibility mode). */
  get long(): boolean {
    return (this.u32[S.MODE >>> 2]! & MODE.LONG) !== 0;
  }
  /** IA-32e mode, compatibility mode included. */
  get ia32e(): boolean {
    return (this.efer & EFER.LMA) !== 0;
  }
  /** 32-bit code with flat segments. */
  get flat(): boolean {
    return (this.u32[S.MODE >>> 2]! & MODE.FLAT32) !== 0;
  }
  get protectedMode(): boolean {
    return (this.cr0 & CR0.PE) !== 0;
  }
  get vm86(): boolean {
    return (this.u32[S.RFLAGS >>> 2]! & RFLAGS.VM) !== 0;
  }
  get iopl(): number {
    return (this.u32[S.RFLAGS >>> 2]! & RFLAGS_IOPL) >>> 12;
  }

  /** RFLAGS with the lazy flags computed. */
  rflags(): number {
    return (this.u32[S.RFLAGS >>> 2]! | this.statusFlags()) >>> 0;
  }

  /** The six status flags. The wasm core's `flags` does the same; this is for helpers. */
  statusFlags(): number {
    const kind = this.u32[S.CC_KIND >>> 2]!;
    const size = kind >>> CC.SIZE_SHIFT;
    const aLow = this.i32[S.CC_A >>> 2]!;
    const aHigh = this.i32[(S.CC_A + 4) >>> 2]!;
    const bLow = this.i32[S.CC_B >>> 2]!;
    const bHigh = this.i32[(S.CC_B + 4) >>> 2]!;
    let flags = 0;
    let rLow: number;
    let rHigh: number;
    switch (kind & CC.CLASS_MASK) {
      case CC.EXPLICIT:
        return bLow & 0x8d5;
      case CC.SUB: {
        rLow = (aLow - bLow) | 0;
        rHigh = (aHigh - bHigh - (aLow >>> 0 < bLow >>> 0 ? 1 : 0)) | 0;
        const below = aHigh >>> 0 < bHigh >>> 0 || (aHigh === bHigh && aLow >>> 0 < bLow >>> 0);
        const less = aHigh < bHigh || (aHigh === bHigh && aLow >>> 0 < bLow >>> 0);
        if (below) flags |= RFLAGS.CF;
        flags |= (aLow ^ bLow ^ rLow) & RFLAGS.AF;
        const sign = size === 3 ? rHigh < 0 : ((rLow >>> ((8 << size) - 1)) & 1) !== 0;
        if (sign !== less) flags |= RFLAGS.OF;
        break;
      }
      case CC.ADD: {
        rLow = aLow;
        rHigh = aHigh;
        // the other addend
        const oLow = (aLow - bLow) | 0;
        const oHigh = (aHigh - bHigh - (aLow >>> 0 < bLow >>> 0 ? 1 : 0)) | 0;
        if (rHigh >>> 0 < bHigh >>> 0 || (rHigh === bHigh && rLow >>> 0 < bLow >>> 0)) flags |= RFLAGS.CF;
        flags |= (rLow ^ bLow ^ oLow) & RFLAGS.AF;
        const top = size === 3 ? 31 : (8 << size) - 1;
        const r = size === 3 ? rHigh : rLow;
        const b = size === 3 ? bHigh : bLow;
        const o = size === 3 ? oHigh : oLow;
        if ((((r ^ b) & (r ^ o)) >>> top) & 1) flags |= RFLAGS.OF;
        break;
      }
      default:
        rLow = aLow;
        rHigh = aHigh;
        flags = bLow & (RFLAGS.CF | RFLAGS.AF | RFLAGS.OF);
    }
    const masked = size === 3 ? rLow | rHigh : size === 2 ? rLow : rLow & (size === 1 ? 0xffff : 0xff);
    if (masked === 0) flags |= RFLAGS.ZF;
    if (size === 3 ? rHigh < 0 : ((rLow >>> ((8 << size) - 1)) & 1) !== 0) flags |= RFLAGS.SF;
    let parity = rLow & 0xff;
    parity ^= parity >>> 4;
    if (!((0x6996 >>> (parity & 15)) & 1)) flags |= RFLAGS.PF;
    return flags;
  }

  /** Sets RFLAGS whole, as the architecture has it. Callers mask what may change; `modeChanged` follows if VM, AC or TF did. */
  setRflags(value: number): void {
    this.set64(S.CC_B, value & 0x8d5, 0);
    this.set(S.CC_KIND, CC.EXPLICIT);
    this.set(S.RFLAGS, (value & 0x3f_7700) | RFLAGS.FIXED1);
    const down = value & RFLAGS.DF ? 0xffff_ffff : 0;
    this.set64(S.DIRECTION, down === 0 ? 1 : down, down);
  }

  // ---- linear memory ----------------------------------------------------------------------------------------------

  /** ACCESS bits of an ordinary data access now. */
  get dataAccess(): number {
    return this.cpl === 3 ? ACCESS.USER : 0;
  }

  /**
   * Reads 1, 2, 4 or 8 bytes at a linear address into `low`, `high`. `access`: `dataAccess`, or ACCESS.IMPLICIT for
   * descriptor tables, TSS and the like. False: S.ACCESS_STATUS has the status to leave with.
   */
  read(low: number, high: number, bytes: number, access = this.dataAccess): boolean {
    if (this.walker.watching) this.#watch(low, high, bytes, access);
    if (this.aligning && this.misaligned(low, high, bytes, access)) return false;
    if ((low & 0xfff) + bytes > 4096) return this.#readAcross(low, high, bytes, access);
    const host = this.translate(low, high, access);
    if (host === TRANSLATE.FAULT) return false;
    this.walker.watchpoints?.note(low, high, bytes, false);
    if (host >= 0) this.readHost(host, bytes);
    else this.#readDevice(this.walker.physical, bytes);
    return true;
  }

  /** Reads 1, 2, 4 or 8 bytes at a host address into `low`, `high`. */
  readHost(host: number, bytes: number): void {
    const { u8, u32 } = this;
    if (bytes >= 4 && (host & 3) === 0) {
      this.low = u32[host >>> 2]!;
      this.high = bytes === 8 ? u32[(host >>> 2) + 1]! : 0;
      return;
    }
    this.high = 0;
    if (bytes === 1) this.low = u8[host]!;
    else if (bytes === 2) this.low = u8[host]! | (u8[host + 1]! << 8);
    else {
      this.low = (u8[host]! | (u8[host + 1]! << 8) | (u8[host + 2]! << 16) | (u8[host + 3]! << 24)) >>> 0;
      if (bytes === 8) {
        this.high = (u8[host + 4]! | (u8[host + 5]! << 8) | (u8[host + 6]! << 16) | (u8[host + 7]! << 24)) >>> 0;
      }
    }
  }

  #readDevice(physical: number, bytes: number): void {
    this.high = 0;
    if (bytes === 8) {
      this.low = this.host.mmioRead(physical, 4) >>> 0;
      this.high = this.host.mmioRead(physical + 4, 4) >>> 0;
    } else this.low = this.host.mmioRead(physical, bytes) >>> 0;
  }

  /** Notes the data breakpoints that an access hits; the processor's own table accesses do not count. */
  #watch(low: number, high: number, bytes: number, access: number): void {
    if (!(access & ACCESS.IMPLICIT)) noteDataAccess(this, low, high, bytes, (access & ACCESS.WRITE) !== 0);
  }

  readonly #bytes = new Uint8Array(64);

  #readAcross(low: number, high: number, bytes: number, access: number): boolean {
    if (!this.copyFrom(low, high, bytes, this.#bytes, access)) return false;
    const b = this.#bytes;
    this.low = (b[0]! | (bytes > 1 ? b[1]! << 8 : 0) | (bytes > 2 ? (b[2]! << 16) | (b[3]! << 24) : 0)) >>> 0;
    this.high = bytes === 8 ? (b[4]! | (b[5]! << 8) | (b[6]! << 16) | (b[7]! << 24)) >>> 0 : 0;
    return true;
  }

  /** Writes 1, 2, 4 or 8 bytes. False: nothing was written, S.ACCESS_STATUS has the status. */
  write(low: number, high: number, bytes: number, valueLow: number, valueHigh = 0, access = this.dataAccess): boolean {
    if (this.walker.watching) this.#watch(low, high, bytes, access | ACCESS.WRITE);
    if (this.aligning && this.misaligned(low, high, bytes, access)) return false;
    if ((low & 0xfff) + bytes > 4096) {
      const b = this.#bytes;
      for (let i = 0; i < bytes; i += 1) b[i] = i < 4 ? valueLow >>> (8 * i) : valueHigh >>> (8 * (i - 4));
      return this.copyTo(low, high, bytes, b, access);
    }
    const host = this.translate(low, high, access | ACCESS.WRITE);
    if (host === TRANSLATE.FAULT) return false;
    this.walker.watchpoints?.note(low, high, bytes, true);
    if (host >= 0) {
      this.writeHost(host, bytes, valueLow, valueHigh);
      if (this.walker.oddPage) this.walker.stored(host, bytes);
      return true;
    }
    const { physical } = this.walker;
    if (bytes === 8) {
      this.host.mmioWrite(physical, 4, valueLow);
      this.host.mmioWrite(physical + 4, 4, valueHigh);
    } else this.host.mmioWrite(physical, bytes, valueLow);
    return true;
  }

  /** Writes at a host address that `translate` gave for a page without code. */
  writeHost(host: number, bytes: number, low: number, high: number): void {
    const { u8, u32 } = this;
    if (bytes >= 4 && (host & 3) === 0) {
      u32[host >>> 2] = low;
      if (bytes === 8) u32[(host >>> 2) + 1] = high;
      return;
    }
    for (let i = 0; i < bytes; i += 1) u8[host + i] = i < 4 ? low >>> (8 * i) : high >>> (8 * (i - 4));
  }

  /** Checks that `bytes` (at most a page) can be written, filling the TLB; nothing is written. */
  probeWrite(low: number, high: number, bytes: number, access = this.dataAccess): boolean {
    if (this.aligning && this.misaligned(low, high, bytes, access)) return false;
    if ((low & 0xfff) + bytes > 4096 && this.#overEnd(low, high, bytes, access)) return false;
    if (this.translate(low, high, access | ACCESS.WRITE) === TRANSLATE.FAULT) return false;
    if ((low & 0xfff) + bytes <= 4096) return true;
    const next = ((low | 0xfff) + 1) >>> 0;
    return this.translate(next, next === 0 ? (high + 1) >>> 0 : high, access | ACCESS.WRITE) !== TRANSLATE.FAULT;
  }

  /** Copies at most 64 bytes out of linear memory, over a page border if need be. */
  copyFrom(low: number, high: number, bytes: number, into: Uint8Array, access = this.dataAccess): boolean {
    if (this.walker.watching) this.#watch(low, high, bytes, access);
    if (this.aligning && this.misaligned(low, high, bytes, access)) return false;
    const first = Math.min(bytes, 4096 - (low & 0xfff));
    if (first < bytes && this.#overEnd(low, high, bytes, access)) return false;
    const a = this.translate(low, high, access);
    if (a === TRANSLATE.FAULT) return false;
    const device = this.walker.physical;
    let b = 0;
    let device2 = 0;
    if (first < bytes) {
      const next = ((low | 0xfff) + 1) >>> 0;
      b = this.translate(next, next === 0 ? (high + 1) >>> 0 : high, access);
      if (b === TRANSLATE.FAULT) return false;
      device2 = this.walker.physical;
    }
    this.walker.watchpoints?.note(low, high, bytes, false);
    for (let i = 0; i < bytes; i += 1) {
      if (i < first) into[i] = a >= 0 ? this.u8[a + i]! : this.host.mmioRead(device + i, 1);
      else into[i] = b >= 0 ? this.u8[b + i - first]! : this.host.mmioRead(device2 + i - first, 1);
    }
    return true;
  }

  /** Copies at most 64 bytes into linear memory; both pages are translated before anything is written. */
  copyTo(low: number, high: number, bytes: number, from: Uint8Array, access = this.dataAccess): boolean {
    if (this.walker.watching) this.#watch(low, high, bytes, access | ACCESS.WRITE);
    if (this.aligning && this.misaligned(low, high, bytes, access)) return false;
    const first = Math.min(bytes, 4096 - (low & 0xfff));
    if (first < bytes && this.#overEnd(low, high, bytes, access)) return false;
    const a = this.translate(low, high, access | ACCESS.WRITE);
    if (a === TRANSLATE.FAULT) return false;
    let { physical, oddPage } = this.walker;
    let b = 0;
    let second = 0;
    let secondOdd = 0;
    if (first < bytes) {
      const next = ((low | 0xfff) + 1) >>> 0;
      b = this.translate(next, next === 0 ? (high + 1) >>> 0 : high, access | ACCESS.WRITE);
      if (b === TRANSLATE.FAULT) return false;
      second = this.walker.physical;
      secondOdd = this.walker.oddPage;
    }
    this.walker.watchpoints?.note(low, high, bytes, true);
    if (a >= 0) for (let i = 0; i < first; i += 1) this.u8[a + i] = from[i]!;
    else for (let i = 0; i < first; i += 1) this.host.mmioWrite(physical + i, 1, from[i]!);
    if (oddPage && a >= 0) {
      this.walker.physical = physical;
      this.walker.oddPage = oddPage;
      this.walker.stored(a, first);
    }
    if (first < bytes) {
      physical = second;
      oddPage = secondOdd;
      if (b >= 0) for (let i = first; i < bytes; i += 1) this.u8[b + i - first] = from[i]!;
      else for (let i = first; i < bytes; i += 1) this.host.mmioWrite(physical + i - first, 1, from[i]!);
      if (oddPage && b >= 0) {
        this.walker.physical = physical;
        this.walker.oddPage = oddPage;
        this.walker.stored(b, bytes - first);
      }
    }
    return true;
  }

  /** Data accesses are neither watched nor checked for alignment. */
  get accessesAreFree(): boolean {
    return !this.aligning && !this.walker.watching;
  }

  /** Host address for reading at a canonical address if the TLB has it, else 0. */
  known(low: number, high: number, access: number): number {
    return this.walker.known(this.vcpu, low, high, access);
  }

  /** Host address, or a TRANSLATE answer. Non-canonical addresses are #GP(0) (or #SS: callers that know say so). */
  translate(low: number, high: number, access: number): number {
    if (this.ia32e && !this.isCanonical(low, high)) {
      this.#isOutside();
      return TRANSLATE.FAULT;
    }
    return this.walker.translate(this.vcpu, low, high, access);
  }

  #isOutside(): void {
    this.fault(13, 0);
    this.outside = true;
    this.set(S.ACCESS_STATUS, STATUS.FAULT);
  }

  /** The failed access was through SS: a #GP(0) for what no segment holds is #SS(0). SDM 3A 6.15 "Interrupt 12". */
  outsideStack(): void {
    if (this.outside) this.set(S.FAULT_VECTOR, 12);
    this.outside = false;
  }

  /**
   * Does an access over a page border go over the end of the canonical addresses, or of a flat 4 GiB segment? MEASURED on
   * AMD family 25: before either page is translated. SDM 3A 5.3 "Limit Checking" leaves the latter to the processor.
   */
  #overEnd(low: number, high: number, bytes: number, access: number): boolean {
    if (low + bytes <= 0x1_0000_0000 || access & ACCESS.IMPLICIT) return false;
    if (this.long ? this.isCanonical(low, high) === this.isCanonical(0, (high + 1) >>> 0) : !this.flat) return false;
    this.#isOutside();
    return true;
  }

  /**
   * #AC(0) for a data access at CPL 3 that is not aligned; ask only while `aligning`. SDM 3A 6.15 "Interrupt 17—Alignment
   * Check Exception (#AC)", table 6-7. MEASURED on AMD family 25: behind #GP and #SS, ahead of page faults, and 16-byte
   * operands must be aligned on 16 bytes; those of 32 bytes, too (family 26). True also if there is one of those ahead.
   */
  misaligned(low: number, high: number, bytes: number, access: number): boolean {
    if (!(access & ACCESS.USER) || access & ACCESS.FETCH) return false;
    if (this.ia32e && !this.isCanonical(low, high)) {
      this.#isOutside();
      return true;
    }
    if ((low & 0xfff) + bytes > 4096 && this.#overEnd(low, high, bytes, access)) return true;
    const unit = bytes === 10 ? 8 : bytes === 32 ? 16 : bytes;
    // Areas of other sizes are checked by who knows what they consist of
    if ((unit & (unit - 1)) !== 0 || !(low & (unit - 1))) return false;
    this.fault(17, 0);
    this.set(S.ACCESS_STATUS, STATUS.FAULT);
    return true;
  }

  isCanonical(_low: number, high: number): boolean {
    const top = (high | 0) >> (this.cr4 & CR4.LA57 ? 24 : 15);
    return top === 0 || top === -1;
  }

  /**
   * Canonical for what is kept, not used at once: bases of segments and tables, INVPCID's operand. The width is what the
   * processor has, whatever CR4.LA57 says: Intel 335252 "5-Level Paging and 5-Level EPT", "Canonicality Checking".
   */
  canBeBase(high: number): boolean {
    const top = (high | 0) >> (this.features.cr4 & CR4.LA57 ? 24 : 15);
    return top === 0 || top === -1;
  }

  // ---- ways to end ------------------------------------------------------------------------------------------------

  /** Records a fault; the helper returns what this returns. */
  fault(vector: number, error = 0): number {
    this.set(S.FAULT_VECTOR, vector);
    this.set(S.FAULT_ERROR, error);
    return STATUS.FAULT;
  }

  /** The status of a failed access. */
  get accessStatus(): number {
    return this.u32[S.ACCESS_STATUS >>> 2]!;
  }

  /** Records an exit to L0 in front of the instruction `record`. */
  exitBefore(reason: ExitReason, record: number, qualificationLow = 0, qualificationHigh = 0): number {
    this.set(X.REASON, reason);
    this.set(X.LENGTH, this.u8[record + REC.LENGTH]!);
    this.set64(X.QUALIFICATION, qualificationLow, qualificationHigh);
    this.set(X.VECTORING, 0);
    this.set(X.LINEAR_VALID, 0);
    return STATUS.EXIT_BEFORE;
  }

  /** Offset in the code segment of the instruction `record`, as halves in low, high. */
  ripOf(record: number): void {
    const offset = this.u16[(record + REC.OFFSET) >>> 1]!;
    let low = this.get(S.RIP_PAGE) + offset;
    let high = this.get(S.RIP_PAGE + 4);
    if (!this.long) {
      low = (low - this.get(segment(SEG.CS) + SEG.BASE)) >>> 0;
      high = 0;
    }
    this.low = low;
    this.high = high;
  }

  /** RIP of the instruction behind `record`, as halves in low, high; wrapped as the mode says. */
  nextRip(record: number): void {
    this.ripOf(record);
    const low = this.low + this.u8[record + REC.LENGTH]!;
    this.low = low >>> 0;
    if (this.long) {
      if (low >= 0x1_0000_0000) this.high = (this.high + 1) >>> 0;
    } else if (!(this.get(segment(SEG.CS) + SEG.ACCESS) & 0x4000)) this.low &= 0xffff;
  }

  /** Goes on at RIP = halves in the (new) code segment: S.RIP and S.NEXT_LINEAR. */
  goTo(low: number, high: number): number {
    this.set64(S.RIP, low, high);
    if (this.long) this.set64(S.NEXT_LINEAR, low, high);
    else this.set64(S.NEXT_LINEAR, (low + this.get(segment(SEG.CS) + SEG.BASE)) >>> 0, 0);
    return STATUS.JUMP;
  }

  /** Goes on behind `record`, after looking again at the mode: for whatever changed it. */
  goOn(record: number): number {
    this.nextRip(record);
    return this.goTo(this.low, this.high);
  }

  // ---- derived state ----------------------------------------------------------------------------------------------

  /**
   * Makes the TLB context of (vCPU, VPID, root, PCID) the one in force, then `modeChanged`. Call after changing CR3's
   * PCID, CR4.PCIDE, the root or the VPID, or anything that `modeChanged` looks at.
   */
  contextChanged(): void {
    const { vcpu } = this;
    const pcid = this.cr4 & CR4.PCIDE ? this.get(S.CR3) & 0xfff : 0;
    vcpu.context = this.tlb.find(vcpu.index, vcpu.vpid, vcpu.root.id, pcid);
    this.modeChanged();
  }

  /**
   * Recomputes what depends on CPL, CR0, CR4, EFER, RFLAGS.{VM,AC,TF}, CS, SS, DS, ES: the mode word, the TLB set, the
   * jump cache, the segment bases. Call after changing any of them; helpers that call it return JUMP.
   */
  modeChanged(): void {
    const { vcpu } = this;
    this.aligning = this.deriveMode(this.tlb.address(vcpu.context)) !== 0;
    this.walker.modeChanged(vcpu, this.aligning);
  }

  // ---- for other files of the engine ------------------------------------------------------------------------------

  /** Bytes of the stack pointer in force: 2, 4 or 8. */
  stackBytes(): 2 | 4 | 8 {
    if (this.long) return 8;
    return this.get(segment(SEG.SS) + SEG.ACCESS) & 0x4000 ? 4 : 2;
  }

  gprAddress(index: number): number {
    return gpr(index);
  }

  aux(record: number): number {
    return this.get(record + REC.AUX);
  }

  /** Bytes of the instruction's operand size. */
  operandSize(record: number): number {
    return 1 << ((this.aux(record) >>> AUX.OPERAND_SIZE_SHIFT) & 3);
  }

  /** Instructions given to the run under way, and what generated code knows of them. BUDGET is the caller's to set. */
  setSlice(count: number): void {
    const { vcpu } = this;
    vcpu.slice = count;
    const end = vcpu.instructions + count;
    this.set64(S.RETIRED_AT_END, end >>> 0, Math.floor(end / TWO_32));
  }

  /** Behind the instruction under way, the last of its run, come at most `count` more, and what time it is L0 has to tell. */
  shorten(count: number): void {
    const { i32, vcpu } = this;
    const more = i32[S.BUDGET >>> 2]! - count;
    if (more > 0) {
      this.setSlice(vcpu.slice - more);
      i32[S.BUDGET >>> 2] = count;
    }
    this.set(S.TSC_RATE, 0);
  }

  /** Lays open to generated code what L0 has said about this run: which instructions leave. The time is asked for first. */
  beginRun(): void {
    const { intercepts } = this.vcpu;
    const free = (this.get(S.ALLOW) & ALLOW.INTERCEPT) !== 0;
    const windows = intercepts.nmiWindow ? WINDOW | NMI_WINDOW : intercepts.interruptWindow ? WINDOW : 0;
    this.set(S.INTERCEPTED, (free ? intercepts.instructions & UNDEFINED : intercepts.instructions) | windows);
    this.set(S.TSC_RATE, 0);
  }

  /** L0 has told the time, `low` and `high` at an instruction count: in the rest of the run generated code knows it. */
  layOpenTsc(instructions: number, low: number, high: number): void {
    const rate = this.host.tscRate;
    this.set(S.TSC_RATE, rate);
    const ticks = instructions * rate;
    const base = low - (ticks % TWO_32);
    this.set64(S.TSC_BASE, base >>> 0, high - Math.floor(ticks / TWO_32) - (base < 0 ? 1 : 0));
  }

  /** Instructions retired when the instruction `record` begins. */
  instructionsAt(record: number): number {
    const remaining = this.u16[(record + REC.REMAINING) >>> 1]!;
    return this.vcpu.instructions + this.vcpu.slice - this.i32[S.BUDGET >>> 2]! - remaining;
  }
}

export { EXIT, GPR, SCRATCH };
