/**
 * A time-stamp counter on the virtual clock: ticks of a fixed frequency plus a 64-bit offset that WRMSR of
 * IA32_TIME_STAMP_COUNTER moves. Values are u32 halves.
 *
 * Source  SDM 3B 17.17 "Time-Stamp Counter".
 */
import { TWO_32 } from '../../base/bits.ts';
import type { Clock } from '../../contracts/clock.ts';
import { TickScale } from './ticks.ts';
import type { TscSource } from './wires.ts';

export class VirtualTsc implements TscSource {
  /** What `read` and `write` last saw. */
  lo = 0;
  hi = 0;
  /** Added to the ticks since power-on, modulo 2^64. Plain state, to be kept in a snapshot. */
  offsetLo = 0;
  offsetHi = 0;
  readonly #clock: Clock;
  readonly #scale: TickScale;

  constructor(clock: Clock, hertz: number) {
    this.#clock = clock;
    this.#scale = new TickScale(hertz);
  }

  /** Puts the counter's value now into `lo` and `hi`. */
  read(): void {
    const ticks = this.#scale.ticksAt(this.#clock.nowNs());
    const low = (ticks >>> 0) + this.offsetLo;
    this.lo = low >>> 0;
    this.hi = (Math.floor(ticks / TWO_32) + this.offsetHi + (low >= TWO_32 ? 1 : 0)) >>> 0;
  }

  /** Makes the counter read hi:lo now. Whoever times by it must be told: `LocalApic.tscChanged`. */
  write(lo: number, hi: number): void {
    const ticks = this.#scale.ticksAt(this.#clock.nowNs());
    const low = (lo >>> 0) - (ticks >>> 0);
    this.offsetLo = low >>> 0;
    this.offsetHi = ((hi >>> 0) - Math.floor(ticks / TWO_32) - (low < 0 ? 1 : 0)) >>> 0;
    this.lo = lo >>> 0;
    this.hi = hi >>> 0;
  }

  reachedAtNs(lo: number, hi: number): number {
    const now = this.#clock.nowNs();
    this.read();
    const low = (lo >>> 0) - this.lo;
    const high = (hi >>> 0) - this.hi - (low < 0 ? 1 : 0);
    if (high < 0 || (high === 0 && low === 0)) return now;
    const target = this.#scale.ticksAt(now) + high * TWO_32 + (low >>> 0);
    if (target > Number.MAX_SAFE_INTEGER) return -1;
    const at = this.#scale.nsAt(target);
    return at > Number.MAX_SAFE_INTEGER ? -1 : at;
  }
}
