/**
 * The local APIC's timer: one-shot, periodic and TSC-deadline.
 *
 * Owns    the moment of the next expiry. Nothing counts: the current count is computed from the clock when it is read.
 * Knows   its three registers in the APIC's image, and a callback for "expired"; not what an interrupt is.
 *
 *                       ┌────────┐  write INITIAL_COUNT ≠ 0, or IA32_TSC_DEADLINE ≠ 0   ┌─────────┐
 *                       │  idle  │──────────────────────────────────────────────────▶│ running │◀─┐ periodic:
 *                       └────────┘◀──────────────────────────────────────────────────└─────────┘──┘ expiry += period
 *                                    one-shot or deadline expiry; write 0; mode to or from TSC-deadline
 *
 * Source  SDM 3A 10.5.4 "APIC Timer"; 10.5.4.1 "TSC-Deadline Mode".
 */

import { APIC, divisorOf, LVT, LVT_TIMER_MODE_SHIFT, TIMER_MODE } from '../../arch/apic/registers.ts';
import { has } from '../../base/bits.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';
import type { TickScale } from './ticks.ts';
import type { TscSource } from './wires.ts';

const W_LVT = APIC.LVT_TIMER >>> 2;
const W_INITIAL = APIC.INITIAL_COUNT >>> 2;
const W_DIVIDE = APIC.DIVIDE_CONFIG >>> 2;

const IDLE = -1;

export interface ApicTimerState {
  /** Bus tick of the next expiry of the count modes, or -1. */
  expiryTick: number;
  /** IA32_TSC_DEADLINE; 0 while disarmed. */
  deadlineLo: number;
  deadlineHi: number;
}

export class ApicTimer {
  #expiryTick = IDLE;
  #deadlineLo = 0;
  #deadlineHi = 0;
  readonly #words: Uint32Array;
  readonly #clock: Clock;
  readonly #bus: TickScale;
  readonly #tsc: TscSource;
  readonly #timer: Timer;
  readonly #expired: () => void;

  /** @param expired  Called once per expiry, or once for several that passed together: IRR has one bit. */
  constructor(wires: {
    name: string;
    words: Uint32Array;
    clock: Clock;
    bus: TickScale;
    tsc: TscSource;
    expired: () => void;
  }) {
    this.#words = wires.words;
    this.#clock = wires.clock;
    this.#bus = wires.bus;
    this.#tsc = wires.tsc;
    this.#expired = wires.expired;
    this.#timer = wires.clock.createTimer(wires.name, () => this.#sync());
  }

  get deadlineLo(): number {
    this.#settle();
    return this.#deadlineLo;
  }

  get deadlineHi(): number {
    this.#settle();
    return this.#deadlineHi;
  }

  /** Ignored outside TSC-deadline mode. A time that has passed expires at once. */
  writeDeadline(lo: number, hi: number): void {
    if (this.#mode() !== TIMER_MODE.TSC_DEADLINE) return;
    this.#settle();
    this.#deadlineLo = lo >>> 0;
    this.#deadlineHi = hi >>> 0;
    this.#sync();
  }

  /** Starts the count, or stops it with 0. Ignored in TSC-deadline mode. */
  writeInitialCount(count: number): void {
    if (this.#mode() === TIMER_MODE.TSC_DEADLINE) return;
    this.#settle();
    this.#words[W_INITIAL] = count;
    this.#expiryTick = count === 0 ? IDLE : this.#nowTick() + (count >>> 0) * divisorOf(this.#words[W_DIVIDE]!);
    this.#sync();
  }

  /** Remaining counts, rounded up: a count stays until its last tick has passed. 0 when idle. */
  currentCount(): number {
    this.#settle();
    if (this.#expiryTick === IDLE) return 0;
    return Math.ceil((this.#expiryTick - this.#nowTick()) / divisorOf(this.#words[W_DIVIDE]!));
  }

  /** The remaining counts are kept, and pass at the new rate. */
  writeDivide(config: number): void {
    const count = this.currentCount();
    this.#words[W_DIVIDE] = config;
    if (this.#expiryTick !== IDLE) this.#expiryTick = this.#nowTick() + count * divisorOf(config);
    this.#sync();
  }

  /** A change between one-shot and periodic lets the count run on; to or from TSC-deadline disarms the timer. */
  writeLvt(value: number): void {
    this.#settle();
    const before = this.#mode();
    this.#words[W_LVT] = value;
    const after = this.#mode();
    if ((before === TIMER_MODE.TSC_DEADLINE) !== (after === TIMER_MODE.TSC_DEADLINE)) {
      this.#words[W_INITIAL] = 0;
      this.#disarm();
    }
    this.#sync();
  }

  /** The counter behind `TscSource` was written or its rate changed. */
  tscChanged(): void {
    this.#sync();
  }

  /** Reset and INIT. The image has been cleared by the caller. */
  reset(): void {
    this.#disarm();
    this.#timer.disarm();
  }

  save(): ApicTimerState {
    return { expiryTick: this.#expiryTick, deadlineLo: this.#deadlineLo, deadlineHi: this.#deadlineHi };
  }

  load(state: ApicTimerState): void {
    this.#expiryTick = state.expiryTick;
    this.#deadlineLo = state.deadlineLo;
    this.#deadlineHi = state.deadlineHi;
    this.#arm();
  }

  #mode(): number {
    return (this.#words[W_LVT]! >>> LVT_TIMER_MODE_SHIFT) & 3;
  }

  #nowTick(): number {
    return this.#bus.ticksAt(this.#clock.nowNs());
  }

  #disarm(): void {
    this.#expiryTick = IDLE;
    this.#deadlineLo = 0;
    this.#deadlineHi = 0;
  }

  #sync(): void {
    this.#settle();
    this.#arm();
  }

  /** Lets what has passed happen. Every access does this first, so that no read sees a time before the clock's. */
  #settle(): void {
    if (this.#mode() === TIMER_MODE.TSC_DEADLINE) {
      if ((this.#deadlineLo | this.#deadlineHi) === 0) return;
      const at = this.#tsc.reachedAtNs(this.#deadlineLo, this.#deadlineHi);
      if (at < 0 || at > this.#clock.nowNs()) return;
      this.#disarm();
      this.#expired();
      return;
    }
    if (this.#expiryTick === IDLE) return;
    const now = this.#nowTick();
    if (now < this.#expiryTick) return;
    if (this.#mode() === TIMER_MODE.PERIODIC) {
      const period = this.#words[W_INITIAL]! * divisorOf(this.#words[W_DIVIDE]!);
      this.#expiryTick += period * (Math.floor((now - this.#expiryTick) / period) + 1);
    } else {
      this.#expiryTick = IDLE;
    }
    this.#expired();
  }

  /** A masked entry needs no event: the count is computed, and a halted machine is not woken for nothing. */
  #arm(): void {
    if (has(this.#words[W_LVT]!, LVT.MASKED)) {
      this.#timer.disarm();
    } else if (this.#mode() === TIMER_MODE.TSC_DEADLINE) {
      const armed = (this.#deadlineLo | this.#deadlineHi) !== 0;
      const at = armed ? this.#tsc.reachedAtNs(this.#deadlineLo, this.#deadlineHi) : -1;
      if (at >= 0) this.#timer.arm(at);
      else this.#timer.disarm();
    } else if (this.#expiryTick === IDLE) {
      this.#timer.disarm();
    } else {
      this.#timer.arm(this.#bus.nsAt(this.#expiryTick));
    }
  }
}
