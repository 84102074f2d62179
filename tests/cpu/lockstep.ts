/**
 * Compares a machine of ours with the real processor, on fresh cases or on recorded ones.
 *
 * A machine is whatever runs one case: the interpreter, the compiler, or both through an adapter. What it is asked:
 * map the pages of protocol.ts (HIGH aliases too) with `untouchedMemory()`, put the windows and the code there, load
 * the state at CPL 3 (64-bit or 32-bit flat code; CR4.OSFXSR, OSXMMEXCPT, FSGSBASE, CR0.NE and AM set, IOPL 0), run
 * exactly one instruction, a REP to its end, and tell what came of it. That a branch's target cannot be fetched may be
 * told as #PF there or not at all.
 */
import { differences } from './compare.ts';
import { type Form, type FormRow, parseForm } from './forms.ts';
import { type GeneratedCase, generateCases, leftOut } from './generate.ts';
import { settleArea } from './generate-state.ts';
import { Oracle, processorFlags, processorName } from './oracle.ts';
import { type CpuCase, type CpuOutcome, PAGES, SYSTEM_CALL, settleFetch, TIMEOUT } from './protocol.ts';
import { Random } from './random.ts';
import type { Vector, VectorHeader } from './vectors.ts';

const HOST_OWN = PAGES.HIGH + (1n << 32n);
/** Forms that make several accesses in an order of the processor's own. */
const OWN_ORDER =
  /MASKMOV(Q|DQU) [a-z]+, [a-z]+$|FRSTOR|FLDENV|ENTER|PUSHA|MOVS[BWDQ]? |MOVS$|CMPS|\bm80|X(SAVE|RSTOR)/;

export interface Machine {
  run(one: CpuCase): CpuOutcome;
}

export interface Mismatch {
  readonly form: string;
  /** Code in hex, mode, and what differs: enough to find the mistake without running anything. */
  readonly report: string;
  readonly vector: Vector;
}

/** Cases made of `rows` with the real processor's outcomes. Those that cannot be compared are dropped. */
export async function record(
  oracle: Oracle,
  rows: readonly FormRow[],
  casesPerForm: number,
  seed: number,
): Promise<{ vectors: Vector[]; leftOut: Map<string, string>; header: VectorHeader }> {
  const vectors: Vector[] = [];
  const skipped = new Map<string, string>();
  for (const form of usable(rows, skipped)) {
    vectors.push(...(await recordCases(oracle, generateCases(form, casesPerForm, randomOf(form, seed)))));
  }
  const recorded = new Date().toISOString().slice(0, 10);
  return { vectors, leftOut: skipped, header: { version: 1, processor: processorName(), recorded, seed } };
}

/** The cases of a form do not change when another is added before it. */
export const randomOf = (form: Form, seed: number): Random =>
  new Random(seed ^ hash(form.row.opcode + form.row.instruction));

/** The cases with the real processor's outcomes. Those that cannot be compared are dropped. */
export async function recordCases(oracle: Oracle, made: readonly GeneratedCase[]): Promise<Vector[]> {
  const vectors: Vector[] = [];
  const outcomes = await oracle.run(made.map((one) => one.case));
  made.forEach(({ form, undefinedFlags, undefinedStatus, case: one, savesAt }, i) => {
    const outcome = outcomes[i]!;
    if (savesAt !== undefined && !settleArea(form, one.before, outcome, savesAt)) return;
    if (outcome.stray || outcome.fpChanged || outcome.vector === TIMEOUT || outcome.vector === SYSTEM_CALL) return;
    // What is up there is the host's: its kernel, and the oracle's own code and stack.
    if (outcome.cr2 >= HOST_OWN) return;
    vectors.push({ form, undefinedFlags, undefinedStatus, case: one, outcome });
  });
  return vectors;
}

/** Rows that can be compared; the others go to `skipped`, by name, with the reason. */
export function usable(rows: readonly FormRow[], skipped: Map<string, string>): Form[] {
  const forms: Form[] = [];
  const flags = processorFlags();
  for (const row of rows) {
    const form = parseForm(row);
    const missing = row.feature && !flags.has(row.feature) ? `this processor has no ${row.feature}` : undefined;
    const why = typeof form === 'string' ? form : (leftOut(form) ?? missing);
    if (why !== undefined) skipped.set(`${row.opcode}  ${row.instruction}`, why);
    else forms.push(form as Form);
  }
  return forms;
}

/** Runs the vectors on `machine`. A machine that throws has failed that vector. */
export function replay(machine: Machine, vectors: readonly Vector[]): Mismatch[] {
  const found: Mismatch[] = [];
  for (const vector of vectors) {
    const { case: one, outcome, form, undefinedFlags, undefinedStatus } = vector;
    let lines: string[];
    try {
      const actual = machine.run(one);
      settleFetch(one, actual);
      lines = differences(one, outcome, actual, {
        undefinedFlags,
        undefinedStatus,
        sequence: one.instructions !== undefined,
        ownOrder: OWN_ORDER.test(form),
        mmx: /\bmm\b/.test(form),
      });
    } catch (error) {
      lines = [`it threw ${error instanceof Error ? error.message : String(error)}`];
    }
    if (lines.length === 0) continue;
    const code = Buffer.from(one.code).toString('hex');
    found.push({ form, vector, report: `${form} [${code}, ${one.mode}-bit]: ${lines.slice(0, 6).join('; ')}` });
  }
  return found;
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

export { Oracle };
