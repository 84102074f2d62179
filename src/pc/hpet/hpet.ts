import { has, high32, join64, low32, TWO_32 } from '../../base/bits.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';
import type { AccessSize, IrqLine, MmioDevice } from '../../contracts/device.ts';
import {
  BLOCK_ID,
  TIMER_CONFIGURATION as CONFIG,
  CONFIGURATION,
  HPET,
  HPET_TIMER,
  PERIOD_FEMTOSECONDS,
  PERIOD_NS,
  TIMER_WRITABLE,
} from './registers.ts';

const TIMERS = 3;
/** I/O APIC inputs a timer may be routed to: 20..23, which no other device of ours uses. */
const ROUTES = 0x00f0_0000;
/** Events further away than this are not armed: 2^52 ns is 52 days. Looked at again then. */
const FAR_TICKS = 2 ** 52 / PERIOD_NS;

/**
 * Where interrupts of the HPET go. `line(gsi)` for I/O APIC inputs; with legacy replacement timer 0 takes the PIT's
 * place at IRQ 0 and timer 1 the RTC's at IRQ 8.
 */
export interface HpetWires {
  readonly clock: Clock;
  readonly line: (gsi: number) => IrqLine;
  /** IRQ 0 and IRQ 8 as ISA interrupts. */
  readonly legacyLines: readonly [IrqLine, IrqLine];
  /** Legacy replacement goes on or off: the PIT and the RTC lose or regain their lines. */
  readonly onLegacyReplacement: (on: boolean) => void;
  /** A write of `data` to an address below 4 GiB: a message-signalled interrupt. */
  readonly deliverMsi: (address: number, data: number) => void;
}

/** One comparator. 64-bit values as two unsigned halves. */
class Comparator {
  config = CONFIG.PERIODIC_CAPABLE | CONFIG.SIZE_64_CAPABLE | CONFIG.FSB_CAPABLE;
  lo = 0xffff_ffff;
  hi = 0xffff_ffff;
  /** What a periodic timer adds. */
  periodLo = 0;
  periodHi = 0;
  fsbLo = 0;
  fsbHi = 0;
  /** The low half was just written with VALUE_SET. */
  highFollows = false;
  /** Ticks since the counter's base when the comparator was last looked at: an event lies in (seen, now]. */
  seen = 0;
}

/**
 * High Precision Event Timer: a 64-bit counter of 100 MHz and three comparators, all periodic-capable.
 * Source: IA-PC HPET Specification 1.0a, October 2004.
 *
 * The counter is not stored while it runs: it is `base + (now - since) / 10 ns`.
 * A timer with FSB_ENABLE sends a message instead of moving a line, whatever its type and route (2.3.9.2.3).
 */
export class Hpet implements MmioDevice {
  readonly #wires: HpetWires;
  readonly #timers = Array.from({ length: TIMERS }, () => new Comparator());
  readonly #alarms: readonly Timer[];
  readonly #lines = new Map<number, IrqLine[]>(); // per GSI one source per timer
  readonly #raised: (IrqLine | undefined)[] = [];
  #configuration = 0;
  #status = 0;
  #baseLo = 0;
  #baseHi = 0;
  #sinceNs = 0;

  constructor(wires: HpetWires) {
    this.#wires = wires;
    this.#alarms = this.#timers.map((_, n) => wires.clock.createTimer(`hpet ${n}`, () => this.#evaluate()));
  }

  reset(): void {
    const legacy = has(this.#configuration, CONFIGURATION.LEGACY_ROUTE);
    this.#configuration = 0;
    this.#status = 0;
    this.#baseLo = 0;
    this.#baseHi = 0;
    this.#timers.forEach((timer, n) => {
      Object.assign(timer, new Comparator());
      this.#lower(n);
      this.#alarms[n]!.disarm();
    });
    if (legacy) this.#wires.onLegacyReplacement(false);
  }

  readMmio(offset: number, size: AccessSize): number {
    if (size === 4 && offset % 4 === 0) return this.#read(offset);
    const word = this.#read(offset & ~3);
    const value = word >>> (8 * (offset & 3));
    return size === 1 ? value & 0xff : value & 0xffff;
  }

  /** "Software must access registers as 32 or 64 bits" (2.3): narrower writes are dropped. */
  writeMmio(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || offset % 4 !== 0) return;
    this.#catchUp();
    this.#write(offset, value >>> 0);
    this.#evaluate();
  }

  get #running(): boolean {
    return has(this.#configuration, CONFIGURATION.ENABLE);
  }

  /** Ticks since the base was set. */
  #elapsed(): number {
    return this.#running ? Math.floor((this.#wires.clock.nowNs() - this.#sinceNs) / PERIOD_NS) : 0;
  }

  #counterLo(elapsed: number): number {
    return low32(this.#baseLo + low32(elapsed));
  }

  #counterHi(elapsed: number): number {
    const carry = this.#baseLo + low32(elapsed) >= TWO_32 ? 1 : 0;
    return low32(this.#baseHi + high32(elapsed) + carry);
  }

  #read(offset: number): number {
    switch (offset) {
      case HPET.CAPABILITIES:
        return BLOCK_ID;
      case HPET.CAPABILITIES + 4:
        return PERIOD_FEMTOSECONDS;
      case HPET.CONFIGURATION:
        return this.#configuration;
      case HPET.INTERRUPT_STATUS:
        return this.#status;
      case HPET.MAIN_COUNTER:
        return this.#counterLo(this.#elapsed());
      case HPET.MAIN_COUNTER + 4:
        return this.#counterHi(this.#elapsed());
    }
    const timer = this.#timers[Math.floor((offset - HPET.TIMER0) / HPET.TIMER_STRIDE)];
    if (offset < HPET.TIMER0 || !timer) return 0;
    this.#catchUp(); // a periodic comparator reads as the next match
    switch (offset % HPET.TIMER_STRIDE) {
      case HPET_TIMER.CONFIGURATION:
        return timer.config;
      case HPET_TIMER.CONFIGURATION + 4:
        return ROUTES;
      case HPET_TIMER.COMPARATOR:
        return timer.lo;
      case HPET_TIMER.COMPARATOR + 4:
        return timer.hi;
      case HPET_TIMER.FSB_ROUTE:
        return timer.fsbLo;
      case HPET_TIMER.FSB_ROUTE + 4:
        return timer.fsbHi;
      default:
        return 0;
    }
  }

  #write(offset: number, value: number): void {
    switch (offset) {
      case HPET.CONFIGURATION:
        this.#configure(value);
        return;
      case HPET.INTERRUPT_STATUS: // write 1 to clear
        this.#status &= ~value;
        for (let n = 0; n < TIMERS; n += 1) if (has(value, 1 << n)) this.#lower(n);
        return;
      case HPET.MAIN_COUNTER:
        this.#setCounter(value, this.#counterHi(this.#elapsed()));
        return;
      case HPET.MAIN_COUNTER + 4:
        this.#setCounter(this.#counterLo(this.#elapsed()), value);
        return;
    }
    const n = Math.floor((offset - HPET.TIMER0) / HPET.TIMER_STRIDE);
    const timer = this.#timers[n];
    if (offset < HPET.TIMER0 || !timer) return;
    switch (offset % HPET.TIMER_STRIDE) {
      case HPET_TIMER.CONFIGURATION:
        this.#configureTimer(n, timer, value);
        break;
      case HPET_TIMER.COMPARATOR:
        this.#setComparator(timer, 'lo', value);
        break;
      case HPET_TIMER.COMPARATOR + 4:
        this.#setComparator(timer, 'hi', has(timer.config, CONFIG.MODE_32) ? 0 : value);
        break;
      case HPET_TIMER.FSB_ROUTE:
        timer.fsbLo = value;
        break;
      case HPET_TIMER.FSB_ROUTE + 4:
        timer.fsbHi = value;
        break;
    }
    this.#markSeen(timer);
  }

  #setCounter(lo: number, hi: number): void {
    this.#baseLo = lo;
    this.#baseHi = hi;
    this.#sinceNs = this.#wires.clock.nowNs();
    for (const timer of this.#timers) this.#markSeen(timer);
  }

  #configure(value: number): void {
    const legacy = has(this.#configuration, CONFIGURATION.LEGACY_ROUTE);
    const elapsed = this.#elapsed();
    this.#setCounter(this.#counterLo(elapsed), this.#counterHi(elapsed)); // it goes on from where it stopped
    this.#configuration = value & (CONFIGURATION.ENABLE | CONFIGURATION.LEGACY_ROUTE);
    const legacyNow = has(value, CONFIGURATION.LEGACY_ROUTE);
    if (legacy !== legacyNow) {
      for (let n = 0; n < TIMERS; n += 1) this.#lower(n); // held lines would be another's from now on
      this.#wires.onLegacyReplacement(legacyNow);
    }
  }

  #configureTimer(n: number, timer: Comparator, value: number): void {
    const before = timer.config;
    timer.config = (timer.config & ~TIMER_WRITABLE) | (value & TIMER_WRITABLE);
    const route = (timer.config >> CONFIG.ROUTE_SHIFT) & 0x1f;
    if (route !== 0 && !has(ROUTES, 1 << route)) {
      timer.config &= ~(0x1f << CONFIG.ROUTE_SHIFT); // "will not read back what was written"
    }
    if (!has(timer.config, CONFIG.PERIODIC)) timer.config &= ~CONFIG.VALUE_SET;
    if (has(timer.config, CONFIG.MODE_32)) {
      timer.hi = 0;
      timer.periodHi = 0;
    }
    if (before !== timer.config) this.#lower(n);
    if (has(timer.config, CONFIG.INT_ENABLE)) this.#raiseIfLevel(n, timer);
  }

  /**
   * 2.3.9.2.2 "Periodic Mode": a write sets the period; one with VALUE_SET before it sets the comparator itself.
   * VALUE_SET clears itself with that write. The high half that follows, as the second part of a 64-bit write, goes
   * where the low half went.
   */
  #setComparator(timer: Comparator, half: 'lo' | 'hi', value: number): void {
    const periodic = has(timer.config, CONFIG.PERIODIC);
    const setsValue = has(timer.config, CONFIG.VALUE_SET) || (half === 'hi' && timer.highFollows);
    if (!periodic || setsValue) timer[half] = value;
    if (periodic) timer[half === 'lo' ? 'periodLo' : 'periodHi'] = value;
    timer.highFollows = half === 'lo' && setsValue;
    timer.config &= ~CONFIG.VALUE_SET;
  }

  #markSeen(timer: Comparator): void {
    timer.seen = this.#elapsed();
  }

  /** Ticks from `seen` up to the comparator, modulo the timer's width, 1..2^width. */
  #distance(timer: Comparator): number {
    const seenLo = this.#counterLo(timer.seen);
    const lo = timer.lo - seenLo;
    if (has(timer.config, CONFIG.MODE_32)) return lo > 0 ? lo : lo + TWO_32;
    const hi = low32(timer.hi - this.#counterHi(timer.seen) - (lo < 0 ? 1 : 0));
    const distance = hi * TWO_32 + low32(lo);
    return distance > 0 ? distance : 2 ** 64;
  }

  /** Finds matches that have happened; their interrupts are raised. Several of one timer count as one. */
  #catchUp(): void {
    if (!this.#running) return;
    const now = this.#elapsed();
    this.#timers.forEach((timer, n) => {
      const matchAt = timer.seen + this.#distance(timer);
      timer.seen = now;
      if (matchAt > now) return;
      const narrow = has(timer.config, CONFIG.MODE_32);
      const period = join64(timer.periodLo, narrow ? 0 : timer.periodHi & 0x1f_ffff);
      if (has(timer.config, CONFIG.PERIODIC) && period > 0) {
        const next = matchAt + (Math.floor((now - matchAt) / period) + 1) * period;
        timer.lo = this.#counterLo(next);
        timer.hi = narrow ? 0 : this.#counterHi(next);
      }
      this.#match(n, timer);
    });
  }

  #match(n: number, timer: Comparator): void {
    if (has(timer.config, CONFIG.FSB_ENABLE)) {
      if (has(timer.config, CONFIG.INT_ENABLE)) this.#wires.deliverMsi(timer.fsbHi, timer.fsbLo);
    } else if (has(timer.config, CONFIG.LEVEL)) {
      this.#status |= 1 << n;
      if (has(timer.config, CONFIG.INT_ENABLE)) this.#raiseIfLevel(n, timer);
    } else if (has(timer.config, CONFIG.INT_ENABLE)) {
      const line = this.#lineOf(n, timer);
      line.set(true);
      line.set(false);
    }
  }

  #raiseIfLevel(n: number, timer: Comparator): void {
    if (!has(timer.config, CONFIG.LEVEL) || has(timer.config, CONFIG.FSB_ENABLE) || !has(this.#status, 1 << n)) return;
    this.#raised[n] = this.#lineOf(n, timer);
    this.#raised[n].set(true);
  }

  #lower(n: number): void {
    this.#raised[n]?.set(false);
    this.#raised[n] = undefined;
  }

  #lineOf(n: number, timer: Comparator): IrqLine {
    if (n < 2 && has(this.#configuration, CONFIGURATION.LEGACY_ROUTE)) return this.#wires.legacyLines[n as 0 | 1];
    const gsi = (timer.config >> CONFIG.ROUTE_SHIFT) & 0x1f;
    let sources = this.#lines.get(gsi);
    if (!sources) this.#lines.set(gsi, (sources = this.#timers.map(() => this.#wires.line(gsi))));
    return sources[n]!;
  }

  #evaluate(): void {
    this.#catchUp();
    this.#timers.forEach((timer, n) => {
      const alarm = this.#alarms[n]!;
      if (!this.#running || !has(timer.config, CONFIG.INT_ENABLE)) {
        alarm.disarm();
        return;
      }
      const elapsed = this.#elapsed();
      const ticks = Math.min(this.#distance(timer), FAR_TICKS);
      alarm.arm(this.#sinceNs + (elapsed + ticks) * PERIOD_NS);
    });
  }
}
