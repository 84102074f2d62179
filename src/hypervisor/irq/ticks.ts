/**
 * A counter that runs at a fixed frequency on the virtual clock, without drift.
 *
 * Ticks and nanoseconds are converted by one reduced fraction and never added up from rounded periods, so that the
 * n-th tick is where it belongs after days as after microseconds. All results are exact integers below 2^53.
 */
import { assert } from '../../base/assert.ts';

const NS_PER_SECOND = 1_000_000_000;

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

export class TickScale {
  /** Ticks per `#per` ns. */
  readonly #ticks: number;
  readonly #per: number;

  constructor(hertz: number) {
    assert(Number.isInteger(hertz) && hertz > 0, 'a frequency is a positive whole number of hertz');
    const divisor = gcd(hertz, NS_PER_SECOND);
    this.#ticks = hertz / divisor;
    this.#per = NS_PER_SECOND / divisor;
    assert(this.#ticks * this.#per < Number.MAX_SAFE_INTEGER, 'a remainder times the ratio fits in 53 bits');
  }

  /** Ticks that have passed at `ns`, rounded down. */
  ticksAt(ns: number): number {
    const rest = ns % this.#per;
    return ((ns - rest) / this.#per) * this.#ticks + Math.floor((rest * this.#ticks) / this.#per);
  }

  /** The first ns at which `ticksAt` gives at least `ticks`. */
  nsAt(ticks: number): number {
    const rest = ticks % this.#ticks;
    return ((ticks - rest) / this.#ticks) * this.#per + Math.ceil((rest * this.#per) / this.#ticks);
  }
}
