/** A chip on a bench for the unit tests: a clock that the test moves, and a record of what reached the vCPUs. */
import type { Clock, Timer } from '../../contracts/clock.ts';
import { IrqChip, type IrqChipOptions } from './irq-chip.ts';
import { VirtualTsc } from './virtual-tsc.ts';
import type { ApicFeatures, CpuSink } from './wires.ts';

class BenchTimer implements Timer {
  deadlineNs = -1;
  readonly fire: () => void;

  constructor(fire: () => void) {
    this.fire = fire;
  }

  arm(deadlineNs: number): void {
    this.deadlineNs = deadlineNs;
  }

  disarm(): void {
    this.deadlineNs = -1;
  }
}

export class BenchClock implements Clock {
  now = 0;
  readonly timers: BenchTimer[] = [];

  nowNs(): number {
    return this.now;
  }

  createTimer(_name: string, fire: () => void): Timer {
    const timer = new BenchTimer(fire);
    this.timers.push(timer);
    return timer;
  }

  /** Moves to `ns`, and fires every timer at its own deadline on the way. */
  to(ns: number): void {
    for (;;) {
      let next: BenchTimer | undefined;
      for (const timer of this.timers) {
        if (timer.deadlineNs < 0 || timer.deadlineNs > ns) continue;
        if (next === undefined || timer.deadlineNs < next.deadlineNs) next = timer;
      }
      if (next === undefined) break;
      this.now = Math.max(this.now, next.deadlineNs);
      next.disarm();
      next.fire();
    }
    this.now = ns;
  }

  /** Moves to `ns` in one step and fires what is due then: a run loop that comes late. */
  jump(ns: number): void {
    this.now = ns;
    for (const timer of this.timers) {
      if (timer.deadlineNs < 0 || timer.deadlineNs > ns) continue;
      timer.disarm();
      timer.fire();
    }
  }

  /** How many timers are armed. */
  get armed(): number {
    return this.timers.filter((timer) => timer.deadlineNs >= 0).length;
  }
}

export const ALL_FEATURES: ApicFeatures = {
  x2apic: true,
  tscDeadline: true,
  suppressEoiBroadcast: true,
  physicalAddressBits: 40,
};

export interface Bench {
  clock: BenchClock;
  chip: IrqChip;
  /** `nmi 0`, `init 1`, `startup 1 0x9f`, in order; wakes are only counted. */
  events: string[];
  wakes: number[];
  tsc: VirtualTsc[];
}

/** All features, unless said otherwise; everything else as `IrqChip` takes it. */
export type BenchOptions = Partial<Omit<IrqChipOptions, 'features'>> & { features?: Partial<ApicFeatures> };

export function bench(options: BenchOptions = {}): Bench {
  const cpus = options.cpus ?? 1;
  const clock = new BenchClock();
  const events: string[] = [];
  const wakes: number[] = new Array(cpus).fill(0);
  const sink: CpuSink = {
    nmi: (cpu) => events.push(`nmi ${cpu}`),
    init: (cpu) => events.push(`init ${cpu}`),
    startup: (cpu, vector) => events.push(`startup ${cpu} 0x${vector.toString(16)}`),
    wake: (cpu) => {
      wakes[cpu]! += 1;
    },
  };
  const tsc = Array.from({ length: cpus }, () => new VirtualTsc(clock, 1_000_000_000));
  const { features, ...rest } = options;
  const chip = new IrqChip({ clock, sink, tsc, ...rest, cpus, features: { ...ALL_FEATURES, ...features } });
  return { clock, chip, events, wakes, tsc };
}
