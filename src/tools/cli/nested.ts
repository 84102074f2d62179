/**
 * `terrarium nested`, the main job: boots the embedded L1 hypervisor, which runs its L2s, and reports what each switch
 * between the levels reused and why, and what the same switches cost in the three modes of the nested MMU.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UserError } from '../../base/assert.ts';
import type { NestedVmx } from '../../hypervisor/nested/vmx/nested-vmx.ts';
import { exitName } from '../../inspect/counters.ts';
import type { Machine } from '../../machine/machine.ts';
import { HELP, json } from './common-options.ts';
import { ProgressLine } from './demo.ts';
import { readWhole } from './files.ts';
import {
  bootL1,
  type Counts,
  MODES,
  type Mode,
  measureRoundTrip,
  mmuCounts,
  nestedOf,
  perTrip,
  type RoundTrip,
} from './nested-measure.ts';
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
  json('The report'),
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
  HELP,
];

/** Status with which the guest leaves when every check of its own held: isa-debug-exit of 0. */
const ALL_RIGHT = 1;
const LIMIT_NS = 120_000_000_000;

/** What one of L1's guests did, and what the switches to it and back reused. */
interface Scenario {
  readonly name: string;
  readonly trips: number;
  /** Virtual time: the same in every run. */
  readonly nsPerTrip: number;
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
  const progress = new ProgressLine(process.stdout, !options.json && process.stdout.isTTY === true);
  if (!options.json) process.stdout.write('An L1 hypervisor runs its L2 guests:\n\n');

  const startMs = performance.now();
  const scenarios = new Scenarios();
  const machine = bootL1(kernel, 'split', 'trips=1000', (byte) => {
    scenarios.print(byte);
    if (!options.json) progress.print(byte);
  });
  scenarios.watch(machine);
  while (machine.run(machine.nowNs + 2_000_000) !== 'ended' && machine.nowNs < LIMIT_NS) {
    const l1 = nestedOf(machine);
    progress.show(
      `${grouped(l1.entries)} entries into L2, ${grouped(machine.vcpus[0]!.core.instructions / 1e6)} M instructions`,
    );
    await new Promise((resolve) => setImmediate(resolve));
  }
  const seconds = (performance.now() - startMs) / 1000;
  const passed = machine.ending?.status === ALL_RIGHT;
  const modes = {} as Record<Mode, RoundTrip>;
  for (const mode of MODES) {
    progress.show(`measuring ${grouped(options.trips)} round trips in mode ${mode}`);
    await new Promise((resolve) => setImmediate(resolve));
    const clock = (): number => performance.now() * 1000;
    modes[mode] = measureRoundTrip({ kernel, mode, only: 'ept-cpuid', trips: options.trips, clock });
  }
  progress.clear();

  const l1 = nestedOf(machine);
  const report: Report = {
    passed,
    seconds,
    output: scenarios.output,
    entries: l1.entries,
    exits: exitsByLevel(machine, l1),
    scenarios: scenarios.done,
    mmu: mmuCounts(machine),
    modes,
  };
  process.stdout.write(options.json ? `${toJson(report)}\n` : text(report));
  if (!passed && !options.json) process.stderr.write(`${dumpState(machine)}\n`);
  return passed ? STATUS.DONE : 1;
}

/** L1 prints a line when it is done with one of its guests: the counters are read there. */
class Scenarios {
  readonly done: Scenario[] = [];
  output = '';
  #machine: Machine | undefined;
  #line = '';
  #before: Counts = {};
  #ns = 0;

  watch(machine: Machine): void {
    this.#machine = machine;
    this.#mark(machine);
  }

  print(byte: number): void {
    const character = String.fromCharCode(byte);
    this.output += character;
    if (character !== '\n') {
      this.#line += character;
      return;
    }
    const told = /^(.+): (\d+) round trips/.exec(this.#line);
    this.#line = '';
    const machine = this.#machine;
    if (!machine) return;
    if (told) {
      const trips = Number(told[2]);
      this.done.push({
        name: told[1]!,
        trips,
        nsPerTrip: Math.round((machine.vm.clock.nowNs() - this.#ns) / trips),
        perTrip: perTrip(this.#before, mmuCounts(machine), trips),
      });
    }
    this.#mark(machine);
  }

  #mark(machine: Machine): void {
    this.#before = mmuCounts(machine);
    this.#ns = machine.vm.clock.nowNs();
  }
}

/** Who left for whom, and how often. */
interface LevelExits {
  readonly exit: string;
  readonly l1ToL0: number;
  /** L2's that L0 dealt with, so that L1 never heard of them. */
  readonly l2ToL0: number;
  readonly l2ToL1: number;
}

function exitsByLevel(machine: Machine, l1: NestedVmx): LevelExits[] {
  const found: LevelExits[] = [];
  machine.vcpus[0]!.exits.forEach((count, reason) => {
    const l2ToL0 = l1.exitsKept[reason]!;
    const l2ToL1 = l1.exitsToL1[reason] ?? 0;
    // What L1 is told can have another name, or none, in the engine: what is left over is L1's own
    const l1ToL0 = Math.max(0, count - l2ToL0 - l2ToL1);
    if (count + l2ToL1 > 0) found.push({ exit: exitName(reason), l1ToL0, l2ToL0, l2ToL1 });
  });
  const all = ({ l1ToL0, l2ToL0, l2ToL1 }: LevelExits): number => l1ToL0 + l2ToL0 + l2ToL1;
  return found.sort((a, b) => all(b) - all(a));
}

interface Report {
  readonly passed: boolean;
  readonly seconds: number;
  readonly output: string;
  readonly entries: number;
  readonly exits: readonly LevelExits[];
  readonly scenarios: readonly Scenario[];
  readonly mmu: Counts;
  readonly modes: Readonly<Record<Mode, RoundTrip>>;
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

const sum = (counts: Counts, ...names: string[]): number => names.reduce((all, name) => all + (counts[name] ?? 0), 0);

/** A figure for one trip: 0, 2, 1.99; a dot instead of nothing. */
const each = (value: number): string => (value === 0 ? '·' : String(value));

function scenarioTable(scenarios: readonly Scenario[]): string {
  const rows = scenarios.map(({ name, trips, nsPerTrip, perTrip: counts }) => [
    name,
    grouped(trips),
    grouped(nsPerTrip),
    each(sum(counts, 'roleSkip')),
    each(sum(counts, 'roleStore')),
    each(sum(counts, 'rootHitCurrent')),
    each(sum(counts, 'rootHitPrev')),
    each(sum(counts, 'rootAlloc')),
    each(sum(counts, 'tlbFlushAll', 'tlbFlushCurrent', 'tlbFlushGuest')),
  ]);
  const heading = [
    'L2',
    'trips',
    'virtual ns',
    'role =',
    'role ≠',
    'root same',
    'root cached',
    'root new',
    'TLB flushed',
  ];
  return table([heading, ...rows]);
}

function text({ seconds, exits, scenarios, mmu, modes, passed, entries }: Report): string {
  const total = exits.reduce((all, { l2ToL1 }) => all + l2ToL1, 0);
  const cost = MODES.map((mode) => [
    mode,
    modes[mode].usPerTrip.toFixed(2),
    (modes[mode].usPerTrip / modes.split.usPerTrip).toFixed(2),
    grouped(modes[mode].nsPerMmuSwitch),
    (modes[mode].nsPerMmuSwitch / modes.split.nsPerMmuSwitch).toFixed(1),
  ]);
  const counted = Object.entries(WORDS).map(([name, words]) => [
    words,
    ...MODES.map((mode) => String(modes[mode].perTrip[name] ?? 0)),
  ]);
  const levels = exits.map(({ exit, l1ToL0, l2ToL0, l2ToL1 }) => [
    exit,
    ...[l1ToL0, l2ToL0, l2ToL1].map((count) => (count === 0 ? '·' : grouped(count))),
  ]);
  return `
${grouped(entries)} entries into L2 and ${grouped(total)} exits to L1 in ${seconds.toFixed(2)} s

Exits, by who left and who dealt with it
${table([['exit', 'L1 → L0', 'L2 → L0', 'L2 → L1'], ...levels])}

What the switches to each L2 and back reused, per round trip
${scenarioTable(scenarios)}
  role =       paging roles were equal: no format computed, nothing rebuilt (role ≠: they were stored anew)
  root same    the shadow or EPT root was still the current one (cached: among the previous three; new: allocated)
  TLB flushed  linear mappings dropped: none where L1 gave L2 a VPID

One round trip L2 → L1 → L2 (CPUID, EPT and VPID) in the three modes of the nested MMU
${table([['mode', 'µs', 'of split', 'MMU ns a switch', 'of split'], ...cost])}

Counted, not timed: per round trip
${table([['', ...MODES], ...counted])}

split is the design: two shadow MMUs behind a pointer. reinit computes formats at every switch, shared has one root
cache and one TLB context for all levels: both are how it was before the 2018 series. In all ${grouped(entries)} switches
above split computed ${grouped(sum(mmu, 'formatComputed'))} page formats and allocated ${grouped(sum(mmu, 'rootAlloc'))} roots.

${passed ? 'Every check that the guest made held.' : 'The guest FAILED.'}

Try next
  npx terrarium run -kernel guests/nested-vmx/nested-vmx.bin -device isa-debug-exit,iobase=0xf4,iosize=4 -nographic
  npx terrarium run -kernel … -machine nested-mmu=shared   the same in another mode
  node scripts/fetch-debian-kernel.mjs                     then boot Debian as L1: see README.md
  npx terrarium demo                                       the processor's demo
`;
}
