/**
 * Virtual time. It advances with retired instructions and jumps to the next timer when all vCPUs are halted
 * (DESIGN.md 3.2), so equal runs see equal times. Host time never enters here.
 */
export interface Clock {
  /** Nanoseconds since power-on; integer, exact up to 2^53 (104 days). */
  nowNs(): number;
  /** A disarmed timer. `fire` runs between two guest instructions, with `nowNs()` ≥ its deadline. */
  createTimer(name: string, fire: () => void): Timer;
}

export interface Timer {
  /** Arms, or moves if armed. A deadline that has passed fires at the next instruction boundary. */
  arm(deadlineNs: number): void;
  disarm(): void;
  /** Deadline in ns, or -1 while disarmed. */
  readonly deadlineNs: number;
}

/** Wall-clock time of day as the guest's RTC should show it: given at start, then advanced by `Clock`. */
export interface WallTime {
  /** Milliseconds since 1970-01-01 UTC at `Clock.nowNs() === 0`. */
  readonly epochMs: number;
}
