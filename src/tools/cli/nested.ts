/**
 * `terrarium nested`, the main job: boots the embedded L1 hypervisor, which runs its L2s, and reports what each switch
 * between the levels reused and why, and what the same switches cost in the three modes of the nested MMU.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EXIT_REASONS } from '../../arch/vmx/exit-reasons.ts';
import { UserError } from '../../base/assert.ts';
import { NestedVmx } from '../../hypervisor/nested/vmx/nested-vmx.ts';
import { Machine } from '../../machine/machine.ts';
import { ProgressLine } from './demo.ts';
import { readWhole } from './files.ts';
import { describeOptions, type OptionRow, parseOptions } from './option-table.ts';
import { dumpState } from './state-dump.ts';
import { STATUS } from './status.ts';
import { grouped, table, toJson } from './tables.ts';
import { packageFolder } from './version.ts';

interface NestedOptions {
  json: boolean;
  help: boolean;
  trips: number;
}

const OPTIONS: readonly OptionRow<NestedOptions>[] = [
  {
    names: ['json'],
    argument: null,
    default: '',
    help: 'The report as JSON, and nothing else.',
    take: (into) => {
      into.json = true;
    },
  },
  {
    names: ['trips'],
    argument: 'N',
    default: '10000',
    help: 'Round trips by which each mode is measured.',
    take: (into, text) => {
      const trips = Number(text);
      if (!Number.isInteger(trips) || trips < 100) {
        throw new UserError(`-trips ${text}: give a whole number of at least 100.`);
      }
      into.trips = trips;
    },
  },
  {
    names: ['h', 'help'],
    argument: null,
    default: '',
    help: 'This text.',
    take: (into) => {
      into.help = true;
    },
  },
];

const MODES = ['split', 'reinit', 'shared'] as const;
type Mode = (typeof MODES)[number];

/** Status with which the guest leaves when every check of its own held: isa-debug-exit of 0. */
const ALL_RIGHT = 1;
const WARM_UP = 2000;
const LIMIT_NS = 120_000_000_000;

type Counts = Record<string, number>;

interface Trip {
  readonly usPerTrip: number;
  readonly perTrip: Counts;
}

export async function nested(argv: readonly string[]): Promise<number> {
  const options: NestedOptions = { json: false, help: false, trips: 10_000 };
  const rest = parseOptions(OPTIONS, argv, options, 'nested');
  if (rest.length > 0) throw new UserError(`terrarium nested takes no "${rest[0]}".`);
  if (options.help) {
    process.stdout.write(`usage: terrarium nested [OPTION…]\n\n${describeOptions(OPTIONS)}`);
    return STATUS.DONE;
  }
  const path = fileURLToPath(new URL('guests/nested-vmx/nested-vmx.bin', packageFolder));
  if (!existsSync(path)) {
    throw new UserError(`${path} is missing: reinstall Terrarium, or run node scripts/build-guests.mjs nested-vmx.`);
  }
  const kernel = readWhole('nested', path);
  const printed: number[] = [];
  const progress = new ProgressLine(process.stdout, !options.json && process.stdout.isTTY === true);
  if (!options.json) process.stdout.write('An L1 hypervisor runs its L2 guests:\n\n');

  const machine = boot(kernel, 'split', 'trips=1000', (byte) => {
    printed.push(byte);
    if (!options.json) progress.print(byte);
  });
  const startMs = performance.now();
  while (machine.run(machine.nowNs + 2_000_000) !== 'ended' && machine.nowNs < LIMIT_NS) {
    const l1 = nestedOf(machine);
    progress.show(
      `${grouped(l1.entries)} entries into L2, ${grouped(machine.vcpus[0]!.core.instructions / 1e6)} M instructions`,
    );
    await new Promise((resolve) => setImmediate(resolve));
  }
  progress.clear();
  const seconds = (performance.now() - startMs) / 1000;
  const passed = machine.ending?.status === ALL_RIGHT;
  const modes = Object.fromEntries(MODES.map((mode) => [mode, measure(kernel, mode, options.trips)])) as Record<
    Mode,
    Trip
  >;

  const l1 = nestedOf(machine);
  const counters = numbers(machine.vcpus[0]!.mmu.vm.counters);
  const toL1 = exitsToL1(l1);
  if (options.json) {
    const output = Buffer.from(printed).toString('latin1');
    process.stdout.write(
      `${toJson({ passed, seconds, output, entries: l1.entries, exitsToL1: toL1, mmu: counters, modes })}\n`,
    );
  } else process.stdout.write(text(l1, seconds, toL1, counters, modes, passed));
  if (!passed && !options.json) process.stderr.write(`${dumpState(machine)}\n`);
  return passed ? STATUS.DONE : 1;
}

function boot(kernel: Uint8Array, mode: Mode, commandLine: string, print: (byte: number) => void): Machine {
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
  });
}

function nestedOf(machine: Machine): NestedVmx {
  const { nested: layer } = machine.vcpus[0]!;
  if (!(layer instanceof NestedVmx)) throw new Error('the machine of this command has VMX');
  return layer;
}

/** CPUID in an L2 with EPT and VPID, handled by L1: the round trip that the 2018 series was about. */
function measure(kernel: Uint8Array, mode: Mode, trips: number): Trip {
  const machine = boot(kernel, mode, `only=ept-cpuid trips=${WARM_UP + 2 * trips}`, () => {});
  const l1 = nestedOf(machine);
  const until = (entries: number): void => {
    while (l1.entries < entries && machine.run(machine.nowNs + 100_000) !== 'ended');
  };
  until(WARM_UP);
  const before = { ...numbers(machine.vcpus[0]!.mmu.vm.counters) };
  const from = l1.entries;
  const start = performance.now();
  until(from + trips);
  const us = (performance.now() - start) * 1000;
  const done = l1.entries - from;
  const after = numbers(machine.vcpus[0]!.mmu.vm.counters);
  const perTrip = Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, Math.round((100 * (value - before[name]!)) / done) / 100]),
  );
  return { usPerTrip: us / done, perTrip };
}

const numbers = (counters: object): Counts =>
  Object.fromEntries(
    Object.entries(counters).filter((entry): entry is [string, number] => typeof entry[1] === 'number'),
  );

function exitsToL1(l1: NestedVmx): Counts {
  const names = new Map(Object.entries(EXIT_REASONS).map(([name, number]) => [number as number, name]));
  const found: Counts = {};
  l1.exitsToL1.forEach((count, reason) => {
    if (count > 0) found[names.get(reason) ?? `reason ${reason}`] = count;
  });
  return found;
}

/** What the report says of each counter of the nested MMU, for one round trip: an exit and an entry. */
const WORDS: Readonly<Record<string, string>> = {
  formatComputed: 'page formats computed',
  roleStore: 'roles stored anew',
  roleSkip: 'roles found equal: nothing to do',
  rootHitCurrent: 'roots that were still current',
  rootHitPrev: 'roots found among the previous three',
  rootAlloc: 'roots allocated',
  spLookup: 'shadow pages looked up',
  tlbFlushAll: 'TLB flushes, all of it',
  tlbFlushCurrent: 'TLB flushes of a root',
  tlbFlushGuest: 'TLB flushes of linear mappings',
};

function text(
  l1: NestedVmx,
  seconds: number,
  toL1: Counts,
  counters: Counts,
  modes: Record<Mode, Trip>,
  passed: boolean,
): string {
  const reasons = Object.entries(toL1).sort((a, b) => b[1] - a[1]);
  const total = reasons.reduce((sum, [, count]) => sum + count, 0);
  const cost = MODES.map((mode) => [
    mode,
    modes[mode].usPerTrip.toFixed(2),
    (modes[mode].usPerTrip / modes.split.usPerTrip).toFixed(2),
  ]);
  const counted = Object.entries(WORDS).map(([name, words]) => [
    words,
    ...MODES.map((mode) => String(modes[mode].perTrip[name] ?? 0)),
  ]);
  return `
${grouped(l1.entries)} entries into L2 and ${grouped(total)} exits to L1 in ${seconds.toFixed(2)} s

Why L2 left for L1
${table([['exit', 'count'], ...reasons.map(([name, count]) => [name, grouped(count)])])}

What all these switches reused
  ${grouped(counters['roleSkip'] ?? 0)} times the paging roles were equal and nothing was rebuilt; ${grouped(counters['roleStore'] ?? 0)} times they were not
  ${grouped((counters['rootHitCurrent'] ?? 0) + (counters['rootHitPrev'] ?? 0))} times the root was there already; ${grouped(counters['rootAlloc'] ?? 0)} roots were allocated
  ${grouped(counters['formatComputed'] ?? 0)} page formats were computed, all told

One round trip L2 → L1 → L2 (CPUID, EPT and VPID), in the three modes
${table([['mode', 'µs', 'of split'], ...cost])}

Counted, not timed: per round trip
${table([['', ...MODES], ...counted])}

split is the design: two shadow MMUs behind a pointer. reinit computes formats at every switch, shared has one root
cache and one TLB context for all levels: both are how it was before the 2018 series.

${passed ? 'Every check that the guest made held.' : 'The guest FAILED.'}

Try next
  npx terrarium run -kernel guests/nested-vmx/nested-vmx.bin -device isa-debug-exit,iobase=0xf4,iosize=4 -nographic
  npx terrarium run -kernel … -machine nested-mmu=shared   the same in another mode
  node scripts/fetch-debian-kernel.mjs                     then boot Debian as L1: see README.md
  npx terrarium demo                                       the processor's demo
`;
}
