/**
 * Short random sequences of instructions, as cases: what one leaves behind (flags, MXCSR, upper halves, x87 tags, lazy
 * state of the engine) meets the next one.
 *
 * Owns    which forms may stand in a sequence and in which order, so that nothing undefined is looked at.
 */
import type { Form } from './forms.ts';
import { freeInstruction, type GeneratedCase, SEQUENCE_WINDOW, usesFp, usesYmm } from './generate.ts';
import { floatingState } from './generate-fp.ts';
import { type CpuCase, freshState, PAGES } from './protocol.ts';
import { integer, type Random } from './random.ts';

const LENGTH_MAX = 6;
const CODE_MAX = 60;

/**
 * Branches, what uses RSP, RSI, RDI or tables in memory, what only faults, what shows x87 bits left undefined, and what is
 * in known-differences.ts.
 */
const NOT_IN_SEQUENCES =
  /^(SHA(1|256)|J|CALL|RET|LOOP|INT|SYS|IRET|HLT|STI$|CLI$|IN$|OUT$|INS|OUTS|PUSH|POP(?!CNT)|ENTER|LEAVE|(MOVS|STOS|LODS|SCAS|CMPS)[BWDQ]?$|XLAT|V?MASKMOV(Q|DQU)$|FN?STSW|FN?STENV|FLDENV|FN?SAVE|FRSTOR|BOUND|UD|WR|RD|SWAPGS|LTR|LLDT|L[GI]DT|LMSW|INV|WBINVD|CLTS|MOV ?CR|CLAC|STAC|X(SAVE|RSTOR|GETBV|SETBV)|FX|MONITOR|MWAIT|CPUID|PAUSE)/;
const READS_FLAGS = /^(CMOV|SET|ADC$|SBB$|RC[LR]$|LAHF|CMC|DA[AS]|AA[AS]|AD[CO]X|FCMOV|SALC|RO[LR]$|SH|SA)/;

export const mayStandInSequence = (form: Form): boolean => !NOT_IN_SEQUENCES.test(form.mnemonic);

/** One sequence of `forms` (mayStandInSequence of each), which repeats for the same random numbers. */
export function generateSequence(forms: readonly Form[], random: Random): GeneratedCase {
  const mode = random.chance(75) ? 64 : 32;
  const high = mode === 64 && random.chance(30);
  const state = freshState();
  state.rip = BigInt(PAGES.CODE + 0x800) + (high ? PAGES.HIGH : 0n);
  for (let i = 0; i < (mode === 64 ? 16 : 8); i++)
    state.gpr[i] = mode === 64 ? integer(random) : integer(random) & 0xffff_ffffn;
  state.rflags = 0x202 | (random.u32() & 0x8d5);
  const parts: Uint8Array[] = [];
  const names: string[] = [];
  let length = 0;
  let flags = 0;
  let status = 0;
  let fp = false;
  let ymm = false;
  const wanted = 2 + random.below(LENGTH_MAX - 1);
  for (let tries = 0; parts.length < wanted && tries < 100; tries++) {
    const form = random.pick(forms);
    if (flags !== 0 && READS_FLAGS.test(form.mnemonic)) continue;
    const made = freeInstruction(form, mode, state.rip + BigInt(length), random);
    if (!made || length + made.code.length > CODE_MAX) continue;
    if (parts.length === 0 && usesFp(form)) floatingState(form, state, random);
    parts.push(made.code);
    names.push(`${form.row.opcode}  ${form.row.instruction}`);
    length += made.code.length;
    flags |= made.undefinedFlags;
    status |= made.undefinedStatus;
    fp ||= usesFp(form);
    ymm ||= usesYmm(form);
  }
  const window = { address: SEQUENCE_WINDOW.address, bytes: new Uint8Array(SEQUENCE_WINDOW.bytes) };
  for (let at = 0; at < window.bytes.length; at += 8) {
    const value = integer(random);
    for (let i = 0; i < 8; i++) window.bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
  }
  const code = Uint8Array.from(parts.flatMap((part) => [...part]));
  const one: CpuCase = { mode, code, instructions: parts.length, before: state, memory: [window], fp: fp || ymm, ymm };
  return { form: names.join(' ; '), undefinedFlags: flags, undefinedStatus: status, case: one };
}
