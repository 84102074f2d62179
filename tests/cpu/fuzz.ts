/**
 * `npm run fuzz:cpu`: the engine against the real processor of this machine, on fresh random cases without end.
 *
 * A round is some cases of every form alone and some short sequences, on the interpreter and on the compiler; its seed
 * is all that it is made of. The first difference ends it.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { EngineMachine } from './engine-machine.ts';
import { type Form, type FormRow, rowsOf } from './forms.ts';
import { type GeneratedCase, generateCases } from './generate.ts';
import { judge } from './known-differences.ts';
import { type Mismatch, randomOf, recordCases, replay, usable } from './lockstep.ts';
import { Oracle, processorName } from './oracle.ts';
import { DONE } from './protocol.ts';
import { Random } from './random.ts';
import { generateSequence, mayStandInSequence } from './sequences.ts';
import type { Vector } from './vectors.ts';

const HELP = `usage: npm run fuzz:cpu -- [options]
  --seconds N     stop after N seconds (default: never)
  --rounds N      stop after N rounds (default: never)
  --seed N        seed of the first round; the next ones count up (default: random)
  --forms REGEXP  only forms whose opcode or instruction matches, such as "SHLD" or "^VEX.*GATHER"
  --per-form N    cases of each form in a round (default: 4)
  --sequences N   short sequences in a round (default: 1000)
  --tier NAME     interpreter, compiler or both (default: both)
  --all           go on behind a difference, and tell all of them at the end of the round
`;

/** The user's mistake: one sentence. */
class UsageError extends Error {}

interface Options {
  readonly seconds: number;
  readonly rounds: number;
  readonly seed: number;
  readonly forms: RegExp;
  readonly perForm: number;
  readonly sequences: number;
  readonly tiers: readonly Tier[];
  readonly all: boolean;
}

type Tier = 'interpreter' | 'compiler';

function number(name: string, text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 0xffff_ffff) {
    throw new UsageError(`--${name} ${text}: a whole number from 0 to 4294967295 is wanted there.`);
  }
  return value;
}

function regexp(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch {
    throw new UsageError(`--forms ${text}: this is no regular expression.`);
  }
}

/** @returns  'help' if that was asked for. */
export function options(argv: readonly string[]): Options | 'help' {
  let values: Record<string, string | boolean | undefined>;
  try {
    values = parseArgs({
      args: [...argv],
      options: {
        seconds: { type: 'string' },
        rounds: { type: 'string' },
        seed: { type: 'string' },
        forms: { type: 'string' },
        'per-form': { type: 'string' },
        sequences: { type: 'string' },
        tier: { type: 'string' },
        all: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new UsageError(`${(error as Error).message.split('. ')[0]}. --help lists the options.`);
  }
  if (values['help']) return 'help';
  const numeric = (name: string, otherwise: number): number =>
    typeof values[name] === 'string' ? number(name, values[name]) : otherwise;
  const tier = values['tier'] ?? 'both';
  if (tier !== 'both' && tier !== 'interpreter' && tier !== 'compiler') {
    throw new UsageError(`--tier ${tier}: it is interpreter, compiler or both.`);
  }
  return {
    seconds: numeric('seconds', Number.POSITIVE_INFINITY),
    rounds: numeric('rounds', Number.POSITIVE_INFINITY),
    seed: numeric('seed', randomInt(1 << 30)),
    forms: regexp(String(values['forms'] ?? '')),
    perForm: numeric('per-form', 4),
    sequences: numeric('sequences', 1000),
    tiers: tier === 'both' ? ['interpreter', 'compiler'] : [tier],
    all: values['all'] === true,
  };
}

/** What was compared: one for each tier. */
interface Tally {
  cases: number;
  completed: number;
  sequences: number;
}

/** A compiler's machine keeps a module for each case: a new one now and then. */
const MACHINE_CASES = 10_000;
const machineOf = (tier: Tier): EngineMachine => new EngineMachine(() => true, { accel: tier });

/** Runs cases on the processor and on the tiers. */
export class Campaign {
  readonly oracle: Oracle;
  readonly tiers: readonly { readonly name: Tier; machine: EngineMachine; cases: number }[];
  readonly forms: readonly Form[];
  readonly leftOut = new Map<string, string>();
  readonly tally: Tally = { cases: 0, completed: 0, sequences: 0 };
  /** Usable cases by form. */
  readonly byForm = new Map<string, number>();
  /** What judge() does not explain, by tier. */
  readonly found: { readonly tier: Tier; readonly mismatch: Mismatch }[] = [];
  readonly explained = new Map<string, number>();

  constructor(oracle: Oracle, tiers: readonly Tier[], rows: readonly FormRow[]) {
    this.oracle = oracle;
    this.tiers = tiers.map((name) => ({ name, machine: machineOf(name), cases: 0 }));
    this.forms = usable(rows, this.leftOut);
  }

  async form(form: Form, count: number, seed: number): Promise<void> {
    const random = randomOf(form, seed);
    // Some cases touch what must stay: others take their place
    let wanted = count;
    for (let tries = 0; wanted > 0 && tries < 10; tries += 1) {
      const vectors = await recordCases(this.oracle, generateCases(form, wanted, random));
      this.#compare(vectors);
      wanted -= vectors.length;
      const name = `${form.row.opcode}  ${form.row.instruction}`;
      this.byForm.set(name, (this.byForm.get(name) ?? 0) + vectors.length);
    }
  }

  async sequences(count: number, seed: number): Promise<void> {
    const forms = this.forms.filter(mayStandInSequence);
    if (forms.length === 0) return;
    const random = new Random(seed);
    const made: GeneratedCase[] = [];
    for (let i = 0; i < count; i += 1) made.push(generateSequence(forms, random));
    const vectors = await recordCases(this.oracle, made);
    this.tally.sequences += vectors.length;
    this.#compare(vectors);
  }

  #compare(vectors: readonly Vector[]): void {
    this.tally.cases += vectors.length;
    this.tally.completed += vectors.filter(({ outcome }) => outcome.vector === DONE).length;
    for (const tier of this.tiers) {
      const { name } = tier;
      if (tier.cases > MACHINE_CASES) Object.assign(tier, { machine: machineOf(name), cases: 0 });
      tier.cases += vectors.length;
      const mismatches = replay(tier.machine, vectors);
      const { unexplained, explained } = judge(mismatches);
      for (const [why, times] of explained) this.explained.set(why, (this.explained.get(why) ?? 0) + times);
      for (const mismatch of unexplained) this.found.push({ tier: name, mismatch });
    }
  }
}

/** The state before, for whoever looks for the mistake. */
function describe({ tier, mismatch }: Campaign['found'][number]): string {
  const { case: one } = mismatch.vector;
  const hex = (value: bigint): string => value.toString(16);
  const gpr = Array.from(one.before.gpr.subarray(0, one.mode === 32 ? 8 : 16), hex).join(' ');
  const lines = [
    `${tier}: ${mismatch.report}`,
    `  at ${hex(one.before.rip)}, flags ${one.before.rflags.toString(16)}, RAX RCX RDX RBX RSP RBP RSI RDI …: ${gpr}`,
  ];
  if (one.fp) {
    const view = new DataView(one.before.fxsave.buffer, one.before.fxsave.byteOffset);
    const xmm = (i: number): string =>
      `${hex(view.getBigUint64(168 + 16 * i, true))}:${hex(view.getBigUint64(160 + 16 * i, true))}`;
    lines.push(
      `  MXCSR ${view.getUint32(24, true).toString(16)}, XMM ${Array.from({ length: 16 }, (_, i) => xmm(i)).join(' ')}`,
    );
  }
  return lines.join('\n');
}

const escaped = (text: string): string => (/^[\w.^$/-]*$/.test(text) ? text : `'${text.replace(/'/g, `'\\''`)}'`);

/** The command that finds the same again. */
function command(wanted: Options, seed: number): string {
  const { perForm, sequences, forms, tiers } = wanted;
  const parts = ['npm run fuzz:cpu --', `--seed ${seed} --rounds 1 --per-form ${perForm} --sequences ${sequences}`];
  if (forms.source !== '(?:)') parts.push(`--forms ${escaped(forms.source)}`);
  if (tiers.length === 1) parts.push(`--tier ${tiers[0]}`);
  return parts.join(' ');
}

async function round(
  campaign: Campaign,
  wanted: Options,
  seed: number,
  isOver: () => boolean,
  progress: () => void,
): Promise<boolean> {
  const stop = (): boolean => (!wanted.all && campaign.found.length > 0) || isOver();
  for (const form of campaign.forms) {
    await campaign.form(form, wanted.perForm, seed);
    progress();
    if (stop()) return false;
  }
  for (let done = 0; done < wanted.sequences; done += 250) {
    await campaign.sequences(Math.min(250, wanted.sequences - done), (seed ^ 0x5e9) + done * 0x10001);
    progress();
    if (stop()) return false;
  }
  return campaign.found.length === 0;
}

async function fuzz(wanted: Options): Promise<number> {
  const missing = Oracle.missing();
  if (missing) throw new UsageError(`There is no processor to compare with: ${missing}.`);
  const rows = rowsOf(wanted.forms);
  if (rows.length === 0) throw new UsageError(`--forms ${wanted.forms.source}: no form matches.`);
  const oracle = Oracle.start();
  const campaign = new Campaign(oracle, wanted.tiers, rows);
  if (campaign.forms.length === 0) {
    throw new UsageError(`--forms ${wanted.forms.source}: ${[...campaign.leftOut][0]!.join(': ')}.`);
  }
  console.log(
    `${processorName()}: ${campaign.forms.length} forms, ${campaign.leftOut.size} left out; first seed ${wanted.seed}`,
  );
  const start = Date.now();
  const deadline = start + wanted.seconds * 1000;
  let shown = 0;
  let interrupted = false;
  // Ctrl-C ends it as --seconds does: with what was done so far
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      interrupted = true;
    });
  }
  const isOver = (): boolean => interrupted || Date.now() >= deadline;
  let seed = wanted.seed;
  let rounds = 0;
  const status = (): string => {
    const { cases, sequences, completed } = campaign.tally;
    const seconds = Math.round((Date.now() - start) / 1000);
    return `${rounds} rounds, ${cases} cases (${sequences} sequences, ${completed} without exception), ${campaign.found.length} differences, ${seconds} s`;
  };
  const progress = (): void => {
    if (!process.stdout.isTTY || Date.now() - shown < 200) return;
    shown = Date.now();
    process.stdout.write(`\r\x1b[Kseed ${seed}: ${status()}`);
  };
  for (; rounds < wanted.rounds && !isOver(); rounds += 1, seed = (seed + 1) >>> 0) {
    if (!(await round(campaign, wanted, seed, isOver, progress))) break;
  }
  await oracle.stop();
  if (process.stdout.isTTY) process.stdout.write('\r\x1b[K');
  console.log(status());
  const each = wanted.perForm * Math.max(rounds, 1);
  const few = [...campaign.byForm].filter(([, count]) => count < each);
  if (each > 0) console.log(`${campaign.byForm.size - few.length} forms with ${each} cases or more`);
  if (few.length > 0 && few.length <= 10) console.log(`fewer: ${few.map(([form, n]) => `${form}: ${n}`).join('; ')}`);
  for (const [why, times] of campaign.explained) console.log(`known: ${times}× ${why}`);
  if (campaign.found.length === 0) return 0;
  const forms = new Map<string, number>();
  for (const found of campaign.found) {
    const key = `${found.tier} ${found.mismatch.form}`;
    const times = forms.get(key) ?? 0;
    if (times === 0) console.log(describe(found));
    forms.set(key, times + 1);
  }
  if (wanted.all) for (const [form, times] of forms) console.log(`${times}× ${form}`);
  console.log(`to repeat: ${command(wanted, seed)}`);
  return 1;
}

/** @returns  Exit status: 0 nothing found, 1 a difference, 2 used wrongly. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const wanted = options(argv);
    if (wanted !== 'help') return await fuzz(wanted);
    process.stdout.write(HELP);
    return 0;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`fuzz:cpu: ${error.message}`);
    return 2;
  }
}
