/**
 * The embedded L1 hypervisor (guests/nested-vmx) as a thing to measure: the round trip L2 → L1 → L2 in a mode of the
 * nested MMU, and of it the MMU's part alone. `terrarium nested` and bench/nested.mjs show the same figures.
 */
import { NestedVmx } from '../../hypervisor/nested/vmx/nested-vmx.ts';
import { Machine } from '../../machine/machine.ts';

export const MODES = ['split', 'reinit', 'shared'] as const;
export type Mode = (typeof MODES)[number];

export type Counts = Readonly<Record<string, number>>;

export interface RoundTrip {
  /** Of the clock that was passed, for one trip: an exit to L1 and an entry. */
  readonly usPerTrip: number;
  /** The MMU's part of one switch of level: its calls alone, in a loop. */
  readonly nsPerMmuSwitch: number;
  /** What the MMU counted, for one trip. */
  readonly perTrip: Counts;
}

export interface RoundTripOptions {
  readonly kernel: Uint8Array;
  readonly mode: Mode;
  /** Which of the guest's loops: its command line's `only=`. */
  readonly only: string;
  readonly trips: number;
  /** Time in µs, from any origin. */
  readonly clock: () => number;
  readonly accel?: 'interpreter' | 'compiler';
}

/** Trips before the figures count: code is decoded, and V8 has compiled what is hot. */
const WARM_UP = 4000;
/** Switches of level by which the MMU's part is measured. */
const SWITCHES = 20_000;
/** Parts of a measurement: the least counts, as disturbances by others only add. */
const ROUNDS = 5;
const SLICE_NS = 100_000;

export function bootL1(
  kernel: Uint8Array,
  mode: Mode,
  commandLine: string,
  print: (byte: number) => void,
  accel: 'interpreter' | 'compiler' = 'interpreter',
): Machine {
  return new Machine({
    cpu: 'intel,+vmx',
    ramBytes: 64 * 2 ** 20,
    cpus: 1,
    kernel: { name: 'nested-vmx.bin', bytes: kernel },
    commandLine,
    serial: [print],
    debugExit: { iobase: 0xf4, iosize: 4 },
    epochMs: Date.UTC(2026, 0, 1), // the same in every run
    reboot: false,
    nestedMmu: mode,
    accel,
  });
}

export function nestedOf(machine: Machine): NestedVmx {
  const { nested: layer } = machine.vcpus[0]!;
  if (!(layer instanceof NestedVmx)) throw new Error('the machine of this command has VMX');
  return layer;
}

/** Those of the MMU's counters that are plain numbers. */
export const mmuCounts = (machine: Machine): Counts =>
  Object.fromEntries(
    Object.entries(machine.vcpus[0]!.mmu.vm.counters).filter(
      (entry): entry is [string, number] => typeof entry[1] === 'number',
    ),
  );

/** By counter, what was added, divided by `by`; to two digits. */
export const perTrip = (before: Counts, after: Counts, by: number): Counts =>
  Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, Math.round((100 * (value - before[name]!)) / by) / 100]),
  );

export function measureRoundTrip({ kernel, mode, only, trips, clock, accel }: RoundTripOptions): RoundTrip {
  // Enough trips that the guest is not done before we are
  const machine = bootL1(kernel, mode, `only=${only} trips=${WARM_UP + 2 * trips + 50_000}`, () => {}, accel);
  const l1 = nestedOf(machine);
  const until = (done: () => boolean, sliceNs = SLICE_NS): void => {
    while (!done()) {
      if (machine.run(machine.nowNs + sliceNs) === 'ended') throw new Error('the guest ended before it was measured');
    }
  };
  until(() => l1.entries >= WARM_UP);
  const before = mmuCounts(machine);
  const first = l1.entries;
  let usPerTrip = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round += 1) {
    const from = l1.entries;
    const start = clock();
    until(() => l1.entries >= from + trips / ROUNDS);
    usPerTrip = Math.min(usPerTrip, (clock() - start) / (l1.entries - from));
  }
  const counts = perTrip(before, mmuCounts(machine), l1.entries - first);
  // A trip takes the same time each time: slices of a fixed length could all end in L2
  until(() => !l1.guestMode, 1);
  return { usPerTrip, nsPerMmuSwitch: mmuSwitchNs(machine, clock), perTrip: counts };
}

/** ns of the MMU's part of one switch. Ends this machine's usefulness for anything else. */
function mmuSwitchNs(machine: Machine, clock: () => number): number {
  const l1 = nestedOf(machine);
  const { mmu } = machine.vcpus[0]!;
  const { cr3Lo, cr3Hi } = mmu.regs;
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round += 1) {
    const start = clock();
    for (let i = 0; i < SWITCHES / 2; i += 1) mmuEntryAndExit(l1, cr3Lo, cr3Hi);
    least = Math.min(least, clock() - start);
  }
  return (least * 1000) / SWITCHES;
}

/**
 * What vm-entry.ts and vm-exit.ts ask of the MMU for one entry and one exit, in their order. L1 and L2 of the guest
 * have the same CR0, CR4 and EFER, so that L1's serve for both.
 */
function mmuEntryAndExit(l1: NestedVmx, cr3Lo: number, cr3Hi: number): void {
  const { usesEpt, vcpu } = l1;
  const { mmu } = vcpu;
  const { cr0, cr4, efer } = mmu.regs;
  mmu.serviceLocalRequests();
  l1.guestMode = true;
  if (!mmu.enterAsBefore(cr0, cr4, efer)) {
    mmu.transitionTlbFlush(true);
    if (usesEpt) mmu.nestedEptInit();
    else mmu.nestedEnterWithoutEpt();
    mmu.loadCr3(cr3Lo, cr3Hi, usesEpt, true);
  }
  mmu.reload();
  mmu.serviceLocalRequests();
  l1.guestMode = false;
  if (!mmu.returnAsBefore(cr0, cr4, efer)) {
    mmu.nestedEptUninit();
    mmu.loadCr3(cr3Lo, cr3Hi, false, true);
    mmu.transitionTlbFlush(false);
  }
  mmu.reload();
}
