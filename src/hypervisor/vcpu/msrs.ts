import type { CpuidPolicy } from '../../arch/cpuid.ts';
import {
  MSRS,
  type MsrRow,
  MTRR_VARIABLE_COUNT,
  msrExists,
  msrIndex,
  msrRow,
  msrWriteIsLegal,
} from '../../arch/msrs.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import { LocalApic } from '../irq/local-apic.ts';
import type { VirtualTsc } from '../irq/virtual-tsc.ts';

/** MSRs whose write is over when the value is kept: nobody else waits for it. */
const PLAIN = new Set(
  (
    [
      'IA32_SPEC_CTRL',
      'IA32_PRED_CMD',
      'IA32_SYSENTER_CS',
      'IA32_SYSENTER_ESP',
      'IA32_SYSENTER_EIP',
      'IA32_STAR',
      'IA32_LSTAR',
      'IA32_CSTAR',
      'IA32_FMASK',
      'IA32_FS_BASE',
      'IA32_GS_BASE',
      'IA32_KERNEL_GS_BASE',
      'IA32_TSC_AUX',
    ] as const
  ).map(msrIndex),
);

const TSC = 0x10;
const FEATURE_CONTROL = 0x3a;
const TSC_ADJUST = 0x3b;
const MTRRCAP = 0xfe;

/** The engine's part: MSRs that live in the processor's state. Returns false for #GP. */
export interface EngineMsrs {
  read(index: number): boolean;
  write(index: number, lo: number, hi: number): boolean;
  lo: number;
  hi: number;
}

/** MSRs whose value some other part of L0 computes (VMX capabilities). `undefined`: not its business; 'absent': #GP. */
export type MsrOverride = (index: number) => readonly [lo: number, hi: number] | 'absent' | undefined;

/**
 * RDMSR and WRMSR of one vCPU: the rows of arch/msrs.ts decide what exists and what may be written; values live with
 * the row's owner.
 */
export class VcpuMsrs {
  lo = BORN_DOUBLE;
  hi = BORN_DOUBLE;
  readonly #values = new Map<number, Uint32Array>();
  readonly #policy: CpuidPolicy;
  readonly #apic: LocalApic;
  readonly #tsc: VirtualTsc;
  readonly #engine: EngineMsrs;
  override: MsrOverride = () => undefined;

  constructor(policy: CpuidPolicy, apic: LocalApic, tsc: VirtualTsc, engine: EngineMsrs) {
    this.#policy = policy;
    this.#apic = apic;
    this.#tsc = tsc;
    this.#engine = engine;
    this.reset();
  }

  reset(): void {
    for (const row of MSRS) {
      if (row.owner !== 'hypervisor' || row.reset === 'model') continue;
      this.#values.set(row.index, Uint32Array.of(row.reset[1], row.reset[0]));
    }
    this.#values.set(MTRRCAP, Uint32Array.of(0x500 | MTRR_VARIABLE_COUNT, 0));
  }

  /** The value does not depend on the time, which inside a run is only known to who asks for it. */
  static readIsPlain(index: number): boolean {
    return index !== TSC && !LocalApic.ownsMsr(index);
  }

  static writeIsPlain(index: number): boolean {
    return PLAIN.has(index);
  }

  /** Into `lo`, `hi`; false is #GP(0). */
  read(index: number): boolean {
    if (LocalApic.ownsMsr(index)) {
      if (!this.#apic.readMsr(index)) return false;
      this.lo = this.#apic.msrLo;
      this.hi = this.#apic.msrHi;
      return true;
    }
    const row = msrRow(index);
    if (!row || row.writable === 'write-only' || !msrExists(row, this.#policy)) return false;
    const override = this.override(index);
    if (override === 'absent') return false;
    if (override) {
      [this.lo, this.hi] = override;
      return true;
    }
    if (row.owner === 'engine') {
      if (!this.#engine.read(index)) return false;
      this.lo = this.#engine.lo;
      this.hi = this.#engine.hi;
      return true;
    }
    if (index === TSC) {
      this.#tsc.read();
      this.lo = this.#tsc.lo;
      this.hi = this.#tsc.hi;
      return true;
    }
    const value = this.#values.get(index);
    this.lo = value?.[0] ?? 0;
    this.hi = value?.[1] ?? 0;
    return true;
  }

  /** False is #GP(0), and nothing has changed. */
  write(index: number, lo: number, hi: number): boolean {
    if (LocalApic.ownsMsr(index)) return this.#apic.writeMsr(index, lo, hi);
    const row = msrRow(index);
    if (!row || !msrWriteIsLegal(row, lo, hi, this.#policy)) return false;
    if (row.owner === 'engine') return this.#engine.write(index, lo, hi);
    if (index === TSC) {
      this.#writeTsc(lo, hi);
      return true;
    }
    const value = this.#valueOf(row);
    if (index === FEATURE_CONTROL && value[0]! & 1) return false;
    if (index === TSC_ADJUST) {
      // SDM 3B 17.17.3: the counter moves by what the adjustment moves
      const [oldLo, oldHi] = [value[0]!, value[1]!];
      this.#tsc.read();
      const low = this.#tsc.lo + lo - oldLo;
      const carry = Math.floor(low / 0x1_0000_0000);
      this.#tsc.write(low >>> 0, (this.#tsc.hi + hi - oldHi + carry) >>> 0);
      this.#apic.tscChanged();
    }
    if (row.writable === 'write-only') return true;
    value[0] = this.#merge(row, value[0]!, lo, 1);
    value[1] = this.#merge(row, value[1]!, hi, 0);
    return true;
  }

  #writeTsc(lo: number, hi: number): void {
    this.#tsc.read();
    const adjust = this.#values.get(TSC_ADJUST);
    if (adjust) {
      const low = adjust[0]! + lo - this.#tsc.lo;
      adjust[1] = (adjust[1]! + hi - this.#tsc.hi + Math.floor(low / 0x1_0000_0000)) >>> 0;
      adjust[0] = low >>> 0;
    }
    this.#tsc.write(lo, hi);
    this.#apic.tscChanged();
  }

  #valueOf(row: MsrRow): Uint32Array {
    const known = this.#values.get(row.index);
    if (known) return known;
    const made = new Uint32Array(2);
    this.#values.set(row.index, made);
    return made;
  }

  #merge(row: MsrRow, old: number, value: number, half: 0 | 1): number {
    if (typeof row.writable === 'string') return old;
    const mask = row.writable[half];
    return ((old & ~mask) | (value & mask)) >>> 0;
  }
}
