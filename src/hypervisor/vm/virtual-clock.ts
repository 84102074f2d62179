import { assert } from '../../base/assert.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';

class VirtualTimer implements Timer {
  deadlineNs = -1;
  readonly name: string;
  readonly fire: () => void;
  readonly #clock: VirtualClock;

  constructor(clock: VirtualClock, name: string, fire: () => void) {
    this.#clock = clock;
    this.name = name;
    this.fire = fire;
  }

  arm(deadlineNs: number): void {
    const before = this.deadlineNs;
    this.deadlineNs = Math.max(0, Math.ceil(deadlineNs));
    this.#clock.changed(before, this.deadlineNs);
  }

  disarm(): void {
    const before = this.deadlineNs;
    if (before === -1) return;
    this.deadlineNs = -1;
    this.#clock.changed(before, -1);
  }
}

/**
 * Virtual time: the start of the scheduling round plus what the running vCPU has executed in it (DESIGN.md 3.2).
 *
 * Owns  the timers and the order in which they fire: by deadline, then by creation.
 */
export class VirtualClock implements Clock {
  /** Time at which the round under way began. */
  roundNs = BORN_DOUBLE;
  /** Nanoseconds that the running vCPU is into its part of the round. */
  elapsedNs: () => number = () => 0;
  readonly #timers: VirtualTimer[] = [];
  #nextDeadline = Number.POSITIVE_INFINITY;
  #stale = false;

  constructor() {
    this.roundNs = 0;
  }

  nowNs(): number {
    return this.roundNs + this.elapsedNs();
  }

  createTimer(name: string, fire: () => void): Timer {
    const timer = new VirtualTimer(this, name, fire);
    this.#timers.push(timer);
    return timer;
  }

  /** A timer's deadline is another; -1: none. */
  changed(before: number, deadlineNs: number): void {
    if (before === this.#nextDeadline) this.#stale = true;
    if (deadlineNs !== -1 && deadlineNs < this.#nextDeadline) this.#nextDeadline = deadlineNs;
  }

  /** Earliest deadline, or Infinity. */
  get nextDeadlineNs(): number {
    return this.#stale ? this.#earliest() : this.#nextDeadline;
  }

  #earliest(): number {
    this.#stale = false;
    let next = Number.POSITIVE_INFINITY;
    for (const { deadlineNs } of this.#timers) if (deadlineNs !== -1 && deadlineNs < next) next = deadlineNs;
    this.#nextDeadline = next;
    return next;
  }

  /** Fires every timer whose deadline has come. A timer that arms itself again in the past fires once more. */
  fireDue(): void {
    if (this.nextDeadlineNs <= this.nowNs()) this.#fireDue();
  }

  #fireDue(): void {
    for (let rounds = 0; this.nextDeadlineNs <= this.nowNs(); rounds += 1) {
      assert(rounds < 100_000, 'timers that fire arm themselves for later');
      const due = this.nextDeadlineNs;
      for (const timer of this.#timers) {
        if (timer.deadlineNs !== due) continue;
        timer.disarm();
        timer.fire();
        break;
      }
    }
  }

  /** Armed timers, for `info`. */
  armed(): { name: string; deadlineNs: number }[] {
    return this.#timers
      .filter(({ deadlineNs }) => deadlineNs !== -1)
      .map(({ name, deadlineNs }) => ({ name, deadlineNs }));
  }
}
