/**
 * One counter of an 8254: the counting element as arithmetic on the tick at which it was loaded.
 *
 * Owns    the six modes, gate, null count, and OUT as a function of time. Nothing counts.
 * Knows   nothing of ports, latches or lines: `pit.ts` has those. Ticks are those of the 1.193182 MHz clock since
 *         power-on; a write at tick w is loaded by the clock pulse w + 1, as the data sheet's diagrams draw it.
 *
 *   mode 0, N = 4   tick  w   w+1  +2   +3   +4   +5
 *                   CE        4    3    2    1    0     FFFF …
 *                   OUT   0   0    0    0    0    1     1
 *
 * Source  Intel 82C54 data sheet (231244), October 1994, "Mode Definitions".
 */

/** Plain data, for snapshots. Ticks and counts are integers. */
export interface PitCounterState {
  mode: number;
  bcd: boolean;
  /** Initial count of the current period, 1 to 65536 (10000 in BCD); 0 before one was written. */
  count: number;
  /** Written, not yet in the counting element; 0 for none. Modes 1 and 5 wait for the gate, 2 and 3 for a reload. */
  next: number;
  /** Modes 2 and 3: the tick at which `next` is taken. */
  nextAt: number;
  /** A count runs, or its loading pulse is due. */
  loaded: boolean;
  /** Tick of the clock pulse that loaded `count`, as far as phase goes: mode 3 may put it before power-on. */
  from: number;
  /** OUT until that tick. */
  before: boolean;
  /** Ticks counted when the gate (modes 0 and 4) or the first byte of a count (mode 0) stopped it, or -1. */
  stopped: number;
  gate: boolean;
}

export class PitCounter {
  state: PitCounterState = initial(0, false, true);

  /** A control word: the counter waits for a count, with OUT at its initial level. */
  program(mode: number, bcd: boolean): void {
    this.state = initial(mode > 5 ? mode & 3 : mode, bcd, this.state.gate);
  }

  /** The count is complete. @param value  As written, 0 to FFFFH; 0 is the largest count. */
  load(value: number, now: number): void {
    this.#advance(now);
    const s = this.state;
    const count = (s.bcd ? fromBcd(value) : value) || this.#modulus();
    switch (s.mode) {
      case 0:
      case 4:
        s.count = count;
        this.#start(now, s.mode === 4);
        s.stopped = s.gate ? -1 : 0;
        return;
      case 1:
      case 5:
        s.next = count;
        return;
      default:
        if (s.loaded && now >= s.from) {
          s.next = count;
          s.nextAt = this.#reloadAfter(now);
        } else {
          s.count = count;
          s.next = 0;
          if (s.gate) this.#start(now, true);
        }
    }
  }

  /** Mode 0: "writing the first byte disables counting. OUT is set low immediately." */
  firstByte(now: number): void {
    const s = this.state;
    if (s.mode !== 0 || !s.loaded) return;
    if (s.stopped < 0) s.stopped = Math.max(now - s.from, 0);
    if (s.stopped >= s.count) s.loaded = false;
  }

  setGate(level: boolean, now: number): void {
    if (this.state.gate === level) return;
    this.#advance(now);
    const s = this.state;
    s.gate = level;
    if (s.mode === 0 || s.mode === 4) {
      if (!s.loaded) return;
      if (!level) {
        s.stopped = Math.max(now - s.from, 0);
      } else if (s.stopped >= 0) {
        s.from = now - s.stopped; // the next clock pulse counts
        s.stopped = -1;
      }
      return;
    }
    if (!level) {
      if (s.mode === 2 || s.mode === 3) s.loaded = false; // OUT is set high at once; modes 1 and 5 run on
      return;
    }
    if (s.next !== 0) s.count = s.next;
    s.next = 0;
    if (s.count !== 0) this.#start(now, this.output(now));
  }

  /** The OUT pin at tick `now`. */
  output(now: number): boolean {
    this.#advance(now);
    const s = this.state;
    if (!s.loaded) return s.mode !== 0;
    if (s.stopped < 0 && now < s.from) return s.before;
    const elapsed = this.#elapsed(now);
    switch (s.mode) {
      case 0:
      case 1:
        return elapsed >= s.count;
      case 2:
        return elapsed % s.count !== s.count - 1;
      case 3:
        return elapsed % s.count < highHalf(s.count);
      default:
        return elapsed !== s.count;
    }
  }

  /**
   * When OUT changes next, by itself.
   *
   * @returns  A tick > `now`, or -1 if OUT stays until the guest does something. OUT may be found unchanged there
   *           (a count that was loaded late): the caller looks at `output` and asks again.
   */
  nextChange(now: number): number {
    this.#advance(now);
    const s = this.state;
    if (!s.loaded || s.stopped >= 0) return -1;
    if (now < s.from) return s.from;
    const elapsed = now - s.from;
    // "A count of 1 is illegal" in modes 2 and 3: OUT rests, until another count is taken.
    if (s.count === 1 && (s.mode === 2 || s.mode === 3)) return s.next !== 0 ? s.nextAt : -1;
    switch (s.mode) {
      case 0:
      case 1:
        return elapsed < s.count ? s.from + s.count : -1;
      case 2: {
        const phase = elapsed % s.count;
        return now + (phase < s.count - 1 ? s.count - 1 - phase : 1);
      }
      case 3: {
        const phase = elapsed % s.count;
        const high = highHalf(s.count);
        return now + (phase < high ? high - phase : s.count - phase);
      }
      default:
        return elapsed < s.count ? s.from + s.count : elapsed === s.count ? now + 1 : -1;
    }
  }

  /** The counting element at tick `now`, as it is read: 16 bits, BCD if so programmed. */
  value(now: number): number {
    this.#advance(now);
    const s = this.state;
    if (s.count === 0) return 0;
    const modulus = this.#modulus();
    const elapsed = s.loaded ? Math.max(this.#elapsed(now), 0) : 0;
    let value = s.count - elapsed;
    if (s.mode === 2) {
      value = s.count - (elapsed % s.count);
    } else if (s.mode === 3) {
      const phase = elapsed % s.count;
      const high = highHalf(s.count);
      value = s.count - (s.count & 1) - 2 * (phase < high ? phase : phase - high);
    }
    value = ((value % modulus) + modulus) % modulus;
    return s.bcd ? toBcd(value) : value;
  }

  /** Status bit 6: "the last count written has not been loaded into the counting element". */
  isNull(now: number): boolean {
    this.#advance(now);
    const s = this.state;
    return s.next !== 0 || !s.loaded || (s.stopped < 0 && now < s.from);
  }

  /** The next clock pulse loads `count`. */
  #start(now: number, before: boolean): void {
    const s = this.state;
    s.before = before;
    s.from = now + 1;
    s.loaded = true;
    s.next = 0;
    s.stopped = -1;
  }

  /** Modes 2 and 3: when "the end of the current counting cycle" (mode 3: half-cycle) comes. */
  #reloadAfter(now: number): number {
    const s = this.state;
    const phase = (now - s.from) % s.count;
    const high = highHalf(s.count);
    return now + (s.mode === 3 && phase < high ? high - phase : s.count - phase);
  }

  /** Modes 2 and 3: takes the next count in, once its time has come. */
  #advance(now: number): void {
    const s = this.state;
    if (s.next === 0 || !s.loaded || s.mode === 1 || s.mode === 5 || now < s.nextAt) return;
    const intoLowHalf = s.mode === 3 && (s.nextAt - s.from) % s.count !== 0;
    s.from = s.nextAt - (intoLowHalf ? highHalf(s.next) : 0);
    s.count = s.next;
    s.next = 0;
  }

  #elapsed(now: number): number {
    const s = this.state;
    return s.stopped >= 0 ? s.stopped : now - s.from;
  }

  #modulus(): number {
    return this.state.bcd ? 10_000 : 0x1_0000;
  }
}

const initial = (mode: number, bcd: boolean, gate: boolean): PitCounterState => ({
  mode,
  bcd,
  count: 0,
  next: 0,
  nextAt: 0,
  loaded: false,
  from: 0,
  before: mode !== 0,
  stopped: -1,
  gate,
});

/** Clocks for which OUT of mode 3 is high: one more than it is low if the count is odd. */
const highHalf = (count: number): number => (count + 1) >>> 1;

const fromBcd = (value: number): number =>
  (value >>> 12) * 1000 + ((value >>> 8) & 0xf) * 100 + ((value >>> 4) & 0xf) * 10 + (value & 0xf);

const toBcd = (value: number): number =>
  (Math.floor(value / 1000) << 12) |
  ((Math.floor(value / 100) % 10) << 8) |
  ((Math.floor(value / 10) % 10) << 4) |
  (value % 10);
