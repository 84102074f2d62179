/**
 * One vCPU's local APIC, in xAPIC and x2APIC mode.
 *
 * Owns    the register image, IA32_APIC_BASE, the LINT pins, and which vector the vCPU would take next.
 * Knows   the other APICs only through `ApicFabric`, the vCPU only through `CpuSink`, time only through `ApicTimer`.
 * Never   raises an exception: MSR accesses answer `false`, and the caller makes that a #GP(0).
 *
 *   IA32_APIC_BASE      EN=0 EXTD=0        EN=1 EXTD=0          EN=1 EXTD=1          EN=0 EXTD=1
 *                       disabled  ────────▶ xAPIC  ────────────▶ x2APIC               invalid: #GP
 *                           ▲ ◀──────────────┘                     │
 *                           └──────────────────────────────────────┘          all other moves: #GP
 *
 * Source  SDM 3A chapter 10 "Advanced Programmable Interrupt Controller (APIC)"; the picture is Figure 10-27
 *         "Local x2APIC State Transitions with IA32_APIC_BASE, INIT, and Reset".
 */
import { logicalX2apicId } from '../../arch/apic/destination.ts';
import {
  deliverableVector,
  endOfInterrupt,
  highestVector,
  imagePriority,
  requestVector,
  serviceVector,
  testVector,
} from '../../arch/apic/image.ts';
import {
  APIC,
  APIC_BASE,
  APIC_DEFAULT_BASE,
  APIC_PAGE_BYTES,
  APIC_SLOTS,
  type ApicSlot,
  DELIVERY,
  deliveryMode,
  ESR,
  FIRST_LEGAL_VECTOR,
  IA32_APIC_BASE,
  IA32_TSC_DEADLINE,
  ICR_SHORTHAND_SHIFT,
  LVT,
  LVT_REGISTERS,
  LVT_TIMER_MODE_SHIFT,
  SHORTHAND,
  SVR,
  TIMER_MODE,
  VERSION,
  X2APIC_MSR_FIRST,
  X2APIC_MSR_LAST,
} from '../../arch/apic/registers.ts';
import { BORN_DOUBLE, has, low32, TWO_32 } from '../../base/bits.ts';
import type { Clock } from '../../contracts/clock.ts';
import type { AccessSize } from '../../contracts/device.ts';
import { ApicTimer, type ApicTimerState } from './apic-timer.ts';
import type { TickScale } from './ticks.ts';
import type { ApicFabric, ApicFeatures, CpuSink, TscSource } from './wires.ts';

const W = Object.freeze(Object.fromEntries(Object.entries(APIC).map(([name, offset]) => [name, offset >>> 2]))) as {
  readonly [R in keyof typeof APIC]: number;
};

/** Nothing answers on the bus. */
const FLOATING = 0xffff_ffff;

export interface LocalApicState {
  words: number[];
  baseLo: number;
  baseHi: number;
  pendingErrors: number;
  lintLevels: number;
  timer: ApicTimerState;
}

export class LocalApic {
  /** Number of the vCPU. */
  readonly cpu: number;
  /** The initial APIC ID, as CPUID reports it; the x2APIC ID for good. */
  readonly initialId: number;
  /** The register page: the layout of a virtual-APIC page. Computed registers (PPR, CURRENT_COUNT) are not in it. */
  readonly words = new Uint32Array(APIC_PAGE_BYTES / 4);
  /** What `readMsr` found. */
  msrLo = BORN_DOUBLE;
  msrHi = 0;

  #baseLo = 0;
  #baseHi = 0;
  /** Errors since the last write of ESR: the latch behind the register. */
  #pendingErrors = 0;
  /** Levels of LINT0 (bit 0) and LINT1 (bit 1). LINT0 in ExtINT mode looks at the fabric instead. */
  #lintLevels = 0;
  /** What `pendingVector` answers; computed when IRR, ISR, TPR or the mode changes. */
  #deliverable = -1;
  readonly #features: ApicFeatures;
  readonly #fabric: ApicFabric;
  readonly #sink: CpuSink;
  readonly #timer: ApicTimer;

  constructor(wires: {
    cpu: number;
    initialId: number;
    features: ApicFeatures;
    fabric: ApicFabric;
    sink: CpuSink;
    clock: Clock;
    bus: TickScale;
    tsc: TscSource;
  }) {
    this.cpu = wires.cpu;
    this.initialId = wires.initialId;
    this.#features = wires.features;
    this.#fabric = wires.fabric;
    this.#sink = wires.sink;
    this.#timer = new ApicTimer({
      name: `APIC timer ${wires.cpu}`,
      words: this.words,
      clock: wires.clock,
      bus: wires.bus,
      tsc: wires.tsc,
      expired: () => this.#deliverLocal(this.words[W.LVT_TIMER]!),
    });
    this.reset();
  }

  // What the vCPU asks.

  /** The highest fixed vector that the processor's priority lets through, or -1. */
  pendingVector(): number {
    return this.#deliverable;
  }

  /**
   * The vCPU takes `pendingVector()`: it is now in service. Asking and taking are one step here, so that TPR cannot rise
   * in between and the spurious vector of SVR (SDM 3A 10.9 "Spurious Interrupt") never appears.
   *
   * @returns that vector, or -1 if there is none.
   */
  acknowledge(): number {
    const vector = this.#deliverable;
    if (vector < 0) return -1;
    serviceVector(this.words, 0, vector);
    this.#evaluate();
    return vector;
  }

  /** Whether an 8259's INTR reaches the processor: through LINT0 as ExtINT, or directly while the APIC is disabled. */
  acceptsExternal(): boolean {
    if (!this.isEnabled) return true;
    const lvt = this.words[W.LVT_LINT0]!;
    return !has(lvt, LVT.MASKED) && deliveryMode(lvt) === DELIVERY.EXTINT;
  }

  /** CR8: TPR bits 7:4. SDM 3A 10.8.6.1 "Interaction of Task Priorities between CR8 and APIC". */
  get cr8(): number {
    return this.words[W.TPR]! >>> 4;
  }

  set cr8(value: number) {
    this.words[W.TPR] = (value & 0xf) << 4;
    this.#evaluate();
  }

  /** Processor priority: PPR. */
  get priority(): number {
    return imagePriority(this.words, 0);
  }

  /** IA32_APIC_BASE.EN. CPUID.1:EDX[9] shows it. */
  get isEnabled(): boolean {
    return has(this.#baseLo, APIC_BASE.EN);
  }

  /** SVR bit 8, in an APIC that is enabled globally. */
  get isSoftwareEnabled(): boolean {
    return this.isEnabled && has(this.words[W.SVR]!, SVR.ENABLE);
  }

  get isX2apic(): boolean {
    return has(this.#baseLo, APIC_BASE.EXTD);
  }

  get isBsp(): boolean {
    return has(this.#baseLo, APIC_BASE.BSP);
  }

  /** Physical address of the register page, or -1 while no page answers: disabled, or x2APIC. */
  get mmioBase(): number {
    if (!this.isEnabled || this.isX2apic) return -1;
    return this.#baseHi * TWO_32 + ((this.#baseLo & ~0xfff) >>> 0);
  }

  // Register accesses.

  /**
   * Reads from the register page. SDM 3A 10.4.1: registers are to be read with aligned 32-bit loads; bytes and words
   * inside the four bytes of a register are answered too, the other twelve read 0.
   */
  readMmio(offset: number, size: AccessSize): number {
    const mask = size === 4 ? 0xffff_ffff : (1 << (size * 8)) - 1;
    if (this.mmioBase < 0) return (FLOATING & mask) >>> 0;
    if ((offset & 0xf) + size > 4) return 0;
    const slot = APIC_SLOTS[offset >>> 4];
    if (slot === undefined || !slot.xapic.includes('r')) {
      if (slot === undefined || slot.xapic === '-') this.#error(ESR.ILLEGAL_REGISTER);
      return 0;
    }
    return ((this.#read(slot) >>> ((offset & 3) * 8)) & mask) >>> 0;
  }

  /** Writes to the register page; all but aligned 32-bit stores are dropped. */
  writeMmio(offset: number, size: AccessSize, value: number): void {
    if (this.mmioBase < 0 || size !== 4 || (offset & 0xf) !== 0) return;
    const slot = APIC_SLOTS[offset >>> 4];
    if (slot === undefined || !slot.xapic.includes('w')) {
      if (slot === undefined || slot.xapic === '-') this.#error(ESR.ILLEGAL_REGISTER);
      return;
    }
    this.#write(slot, value & this.#writable(slot), 0);
  }

  /** IA32_APIC_BASE, IA32_TSC_DEADLINE and 800H to 8FFH are this object's. */
  static ownsMsr(index: number): boolean {
    return (
      index === IA32_APIC_BASE || index === IA32_TSC_DEADLINE || (index >= X2APIC_MSR_FIRST && index <= X2APIC_MSR_LAST)
    );
  }

  /** @returns whether the MSR could be read, into `msrLo` and `msrHi`; `false` is #GP(0). */
  readMsr(index: number): boolean {
    this.msrHi = 0;
    if (index === IA32_APIC_BASE) {
      this.msrLo = this.#baseLo;
      this.msrHi = this.#baseHi;
      return true;
    }
    if (index === IA32_TSC_DEADLINE) {
      if (!this.#features.tscDeadline) return false;
      this.msrLo = this.#timer.deadlineLo;
      this.msrHi = this.#timer.deadlineHi;
      return true;
    }
    const slot = APIC_SLOTS[index - X2APIC_MSR_FIRST];
    if (!this.isX2apic || slot === undefined || !slot.x2apic.includes('r')) return false;
    this.msrLo = this.#read(slot);
    if (slot.offset === APIC.ICR) this.msrHi = this.words[W.ICR_HIGH]!;
    return true;
  }

  /** @returns whether the write was legal; `false` is #GP(0), and nothing has changed. */
  writeMsr(index: number, lo: number, hi: number): boolean {
    if (index === IA32_APIC_BASE) return this.#writeBase(lo >>> 0, hi >>> 0);
    if (index === IA32_TSC_DEADLINE) {
      if (this.#features.tscDeadline) this.#timer.writeDeadline(lo, hi);
      return this.#features.tscDeadline;
    }
    const slot = APIC_SLOTS[index - X2APIC_MSR_FIRST];
    if (!this.isX2apic || slot === undefined || !slot.x2apic.includes('w')) return false;
    const writable = this.#writable(slot);
    if ((lo & ~(writable | slot.readOnly)) !== 0) return false;
    if (hi !== 0 && slot.offset !== APIC.ICR) return false;
    this.#write(slot, lo & writable, hi >>> 0);
    return true;
  }

  // What arrives from outside.

  /**
   * A fixed or lowest-priority interrupt message. SDM 3A 10.8.4 "Interrupt Acceptance for Fixed Interrupts".
   *
   * @returns whether it went into IRR, newly or once more.
   */
  accept(vector: number, level: boolean): boolean {
    if (!this.isSoftwareEnabled) return false;
    if (vector < FIRST_LEGAL_VECTOR) {
      this.#error(ESR.RECEIVE_ILLEGAL_VECTOR);
      return false;
    }
    requestVector(this.words, 0, vector, level);
    this.#evaluate();
    return true;
  }

  /** The level of LINT0 (8259 INTR) or LINT1 (NMI). */
  setLint(pin: 0 | 1, asserted: boolean): void {
    const was = ((this.#lintLevels >>> pin) & 1) !== 0;
    if (was === asserted) return;
    this.#lintLevels ^= 1 << pin;
    if (!asserted) return;
    if (this.isEnabled) this.#deliverLint(pin);
    else if (pin === 1)
      this.#sink.nmi(this.cpu); // SDM 3A 10.4.3: without an APIC, LINT1 is the NMI pin
    else this.#sink.wake(this.cpu); //              and LINT0 is INTR
  }

  /** A performance counter overflowed. The entry masks itself: SDM 3B 18.6.3.5.8 "Generating an Interrupt on Overflow". */
  raisePerformance(): void {
    const lvt = this.words[W.LVT_PERFORMANCE]!;
    this.words[W.LVT_PERFORMANCE] = lvt | LVT.MASKED;
    this.#deliverLocal(lvt);
  }

  raiseThermal(): void {
    this.#deliverLocal(this.words[W.LVT_THERMAL]!);
  }

  /** The vCPU's TSC was written, so that a deadline lies elsewhere in time. */
  tscChanged(): void {
    this.#timer.tscChanged();
  }

  /** Power-up and RESET#. SDM 3A 10.4.7.1 "Local APIC State After Power-Up or Reset". */
  reset(): void {
    this.#baseLo = (APIC_DEFAULT_BASE | APIC_BASE.EN | (this.cpu === 0 ? APIC_BASE.BSP : 0)) >>> 0;
    this.#baseHi = 0;
    this.#clear(this.#idInMode());
  }

  /** SDM 3A 10.4.7.3 "Local APIC State After an INIT Reset": as reset, but the ID and IA32_APIC_BASE stay. */
  init(): void {
    this.#clear(this.words[W.ID]!);
  }

  save(): LocalApicState {
    return {
      words: Array.from(this.words),
      baseLo: this.#baseLo,
      baseHi: this.#baseHi,
      pendingErrors: this.#pendingErrors,
      lintLevels: this.#lintLevels,
      timer: this.#timer.save(),
    };
  }

  load(state: LocalApicState): void {
    this.words.set(state.words);
    this.#baseLo = state.baseLo;
    this.#baseHi = state.baseHi;
    this.#pendingErrors = state.pendingErrors;
    this.#lintLevels = state.lintLevels;
    this.#timer.load(state.timer);
    this.#evaluate();
  }

  // Below: one register each.

  #read(slot: ApicSlot): number {
    switch (slot.offset) {
      case APIC.PPR:
        return this.priority;
      case APIC.APR:
        return this.#arbitrationPriority();
      case APIC.CURRENT_COUNT:
        return this.#timer.currentCount();
      default:
        return this.words[slot.offset >>> 2]!;
    }
  }

  /** @param value  Already without reserved and read-only bits. */
  #write(slot: ApicSlot, value: number, high: number): void {
    const at = slot.offset >>> 2;
    switch (slot.offset) {
      case APIC.TPR:
        this.words[W.TPR] = value;
        this.#evaluate();
        return;
      case APIC.EOI:
        this.endOfInterrupt();
        return;
      case APIC.DFR:
        this.words[W.DFR] = value | 0x0fff_ffff;
        return;
      case APIC.SVR:
        this.#writeSpurious(value);
        return;
      case APIC.ESR:
        this.words[W.ESR] = this.#pendingErrors;
        this.#pendingErrors = 0;
        return;
      case APIC.ICR:
        this.words[W.ICR] = value;
        if (this.isX2apic) this.words[W.ICR_HIGH] = high;
        this.#sendIpi(value);
        return;
      case APIC.SELF_IPI:
        this.#sendIpi(value | (SHORTHAND.SELF << ICR_SHORTHAND_SHIFT));
        return;
      case APIC.LVT_TIMER:
        this.#timer.writeLvt(value | this.#forcedMask());
        return;
      case APIC.LVT_LINT0:
      case APIC.LVT_LINT1:
        this.#writeLint(slot.offset === APIC.LVT_LINT0 ? 0 : 1, value);
        return;
      case APIC.LVT_THERMAL:
      case APIC.LVT_PERFORMANCE:
      case APIC.LVT_ERROR:
        this.words[at] = value | this.#forcedMask();
        return;
      case APIC.INITIAL_COUNT:
        this.#timer.writeInitialCount(value);
        return;
      case APIC.DIVIDE_CONFIG:
        this.#timer.writeDivide(value);
        return;
      default:
        this.words[at] = value;
    }
  }

  /** The writable bits of a register on this CPU: two depend on what CPUID and VERSION offer. */
  #writable(slot: ApicSlot): number {
    if (slot.offset === APIC.SVR && this.#features.suppressEoiBroadcast) {
      return slot.writable | SVR.SUPPRESS_EOI_BROADCAST;
    }
    if (slot.offset === APIC.LVT_TIMER && this.#features.tscDeadline) {
      return slot.writable | (TIMER_MODE.TSC_DEADLINE << LVT_TIMER_MODE_SHIFT);
    }
    return slot.writable;
  }

  /** SDM 3A 10.4.7.2: while the APIC is software-disabled, attempts to clear an LVT mask bit are ignored. */
  #forcedMask(): number {
    return this.isSoftwareEnabled ? 0 : LVT.MASKED;
  }

  #writeSpurious(value: number): void {
    this.words[W.SVR] = value;
    if (has(value, SVR.ENABLE)) return;
    for (const name of LVT_REGISTERS) {
      if (name === 'LVT_TIMER') this.#timer.writeLvt(this.words[W.LVT_TIMER]! | LVT.MASKED);
      else this.words[W[name]]! |= LVT.MASKED;
    }
  }

  /** SDM 3A 10.4.3 "Enabling or Disabling the Local APIC"; 10.12.5 "x2APIC State Transitions". */
  #writeBase(lo: number, hi: number): boolean {
    const { x2apic, physicalAddressBits } = this.#features;
    const known = APIC_BASE.BSP | APIC_BASE.EN | (x2apic ? APIC_BASE.EXTD : 0);
    if ((lo & 0xfff & ~known) !== 0) return false;
    if (hi >= 2 ** (physicalAddressBits - 32)) return false;
    const was = this.#baseLo & (APIC_BASE.EN | APIC_BASE.EXTD);
    const becomes = lo & (APIC_BASE.EN | APIC_BASE.EXTD);
    if (becomes === APIC_BASE.EXTD) return false;
    if (was === 0 && has(becomes, APIC_BASE.EXTD)) return false;
    if (has(was, APIC_BASE.EXTD) && becomes === APIC_BASE.EN) return false;

    this.#baseLo = lo;
    this.#baseHi = hi;
    if (was === becomes) return true;
    if (becomes === 0) {
      // "Prior initialization to the APIC may be lost." TPR lives on as CR8.
      const taskPriority = this.words[W.TPR]!;
      this.#clear(this.#idInMode());
      this.words[W.TPR] = taskPriority;
    } else if (has(becomes, APIC_BASE.EXTD)) {
      // 10.12.5.1: from xAPIC mode everything is kept but the ID, which is now the x2APIC ID, and what follows from it.
      this.words[W.ID] = this.#idInMode();
      this.words[W.LDR] = logicalX2apicId(this.initialId);
      this.words[W.ICR_HIGH] = 0;
    } else {
      this.words[W.ID] = this.#idInMode();
    }
    this.#evaluate();
    return true;
  }

  #idInMode(): number {
    return this.isX2apic ? this.initialId : low32(this.initialId << 24);
  }

  #clear(id: number): void {
    this.words.fill(0);
    this.words[W.ID] = id;
    this.words[W.VERSION] =
      VERSION.INTEGRATED |
      ((VERSION.LVT_ENTRIES - 1) << VERSION.MAX_LVT_SHIFT) |
      (this.#features.suppressEoiBroadcast ? VERSION.EOI_SUPPRESSION : 0);
    this.words[W.DFR] = 0xffff_ffff;
    this.words[W.SVR] = 0xff;
    for (const name of LVT_REGISTERS) this.words[W[name]] = LVT.MASKED;
    if (this.isX2apic) this.words[W.LDR] = logicalX2apicId(this.initialId);
    this.#pendingErrors = 0;
    this.#timer.reset();
    this.#evaluate();
  }

  /** SDM 3A 10.6.2.4 "Lowest Priority Delivery Mode": the formula of the arbitration priority register. */
  #arbitrationPriority(): number {
    const task = this.words[W.TPR]!;
    const requested = Math.max(highestVector(this.words, 0, APIC.IRR), 0) & 0xf0;
    const inService = Math.max(highestVector(this.words, 0, APIC.ISR), 0) & 0xf0;
    if ((task & 0xf0) >= requested && (task & 0xf0) > inService) return task;
    return Math.max(task & 0xf0, inService, requested);
  }

  /** A write to EOI. */
  endOfInterrupt(): void {
    const vector = endOfInterrupt(this.words, 0);
    if (vector < 0) return;
    this.#evaluate();
    if (!testVector(this.words, 0, APIC.TMR, vector)) return;
    for (const pin of [0, 1] as const) {
      const lvt = this.words[W.LVT_LINT0 + pin * 4]!;
      if (!has(lvt, LVT.REMOTE_IRR) || (lvt & 0xff) !== vector) continue;
      this.words[W.LVT_LINT0 + pin * 4] = lvt & ~LVT.REMOTE_IRR;
      if (((this.#lintLevels >>> pin) & 1) !== 0) this.#deliverLint(pin);
    }
    if (!has(this.words[W.SVR]!, SVR.SUPPRESS_EOI_BROADCAST)) this.#fabric.broadcastEoi(vector);
  }

  #sendIpi(icr: number): void {
    const mode = deliveryMode(icr);
    if ((mode === DELIVERY.FIXED || mode === DELIVERY.LOWEST) && (icr & 0xff) < FIRST_LEGAL_VECTOR) {
      this.#error(ESR.SEND_ILLEGAL_VECTOR);
    }
    const high = this.words[W.ICR_HIGH]!;
    this.#fabric.sendIpi(this.cpu, icr, this.isX2apic ? high : high >>> 24, this.isX2apic);
  }

  #writeLint(pin: 0 | 1, value: number): void {
    const at = W.LVT_LINT0 + pin * 4;
    const remoteIrr = has(value, LVT.LEVEL) ? this.words[at]! & LVT.REMOTE_IRR : 0;
    this.words[at] = value | remoteIrr | this.#forcedMask();
    const lvt = this.words[at]!;
    if (((this.#lintLevels >>> pin) & 1) === 0) return;
    const mode = deliveryMode(lvt);
    if (mode === DELIVERY.EXTINT || (mode === DELIVERY.FIXED && has(lvt, LVT.LEVEL))) this.#deliverLint(pin);
  }

  /** Pin `pin` is asserted, newly or still. */
  #deliverLint(pin: 0 | 1): void {
    const at = W.LVT_LINT0 + pin * 4;
    const lvt = this.words[at]!;
    if (has(lvt, LVT.MASKED)) return;
    // 10.5.1 "Trigger Mode": the bit counts for fixed mode only.
    if (deliveryMode(lvt) !== DELIVERY.FIXED || !has(lvt, LVT.LEVEL)) {
      this.#deliverLocal(lvt);
    } else if (!has(lvt, LVT.REMOTE_IRR) && this.accept(lvt & 0xff, true)) {
      this.words[at] = lvt | LVT.REMOTE_IRR;
    }
  }

  /** SDM 3A 10.5.1 "Local Vector Table": the delivery modes of an entry. */
  #deliverLocal(lvt: number): void {
    if (has(lvt, LVT.MASKED)) return;
    switch (deliveryMode(lvt)) {
      case DELIVERY.FIXED:
        this.accept(lvt & 0xff, false);
        return;
      case DELIVERY.NMI:
        this.#sink.nmi(this.cpu);
        return;
      case DELIVERY.INIT:
        this.#sink.init(this.cpu);
        return;
      case DELIVERY.EXTINT:
        this.#sink.wake(this.cpu);
        return;
      default: // SMI: this machine has no SMM. The rest is reserved.
    }
  }

  /** SDM 3A 10.5.3 "Error Handling": the first error since ESR was written raises the interrupt. */
  #error(bit: number): void {
    const isFirst = this.#pendingErrors === 0;
    this.#pendingErrors |= bit;
    if (isFirst) this.#deliverLocal(this.words[W.LVT_ERROR]!);
  }

  #evaluate(): void {
    this.#deliverable = this.isEnabled ? deliverableVector(this.words, 0) : -1;
    if (this.#deliverable >= 0) this.#sink.wake(this.cpu);
  }
}
