/**
 * What the manual leaves undefined after an instruction, so that it is not compared.
 *
 * Source  SDM 2 "Flags Affected" of each instruction's page; APM 3 appendix F "Instruction Effects on RFLAGS".
 */

const CF = 1 << 0;
const PF = 1 << 2;
const AF = 1 << 4;
const ZF = 1 << 6;
const SF = 1 << 7;
const OF = 1 << 11;
export const STATUS_FLAGS = CF | PF | AF | ZF | SF | OF;

/** Condition bits of the x87 status word. */
const C0 = 1 << 8;
const C1 = 1 << 9;
const C2 = 1 << 10;
const C3 = 1 << 14;

/** Mnemonic → RFLAGS bits that are undefined whatever the operands. */
const ALWAYS: Readonly<Record<string, number>> = {
  AAA: OF | SF | ZF | PF,
  AAS: OF | SF | ZF | PF,
  AAD: OF | AF | CF,
  AAM: OF | AF | CF,
  DAA: OF,
  DAS: OF,
  AND: AF,
  OR: AF,
  XOR: AF,
  TEST: AF,
  ANDN: AF | PF,
  BEXTR: AF | SF | PF,
  BLSI: AF | PF,
  BLSMSK: AF | PF,
  BLSR: AF | PF,
  BZHI: AF | PF,
  LZCNT: OF | SF | PF | AF,
  TZCNT: OF | SF | PF | AF,
  BSF: CF | OF | SF | AF | PF,
  BSR: CF | OF | SF | AF | PF,
  BT: OF | SF | AF | PF,
  BTS: OF | SF | AF | PF,
  BTR: OF | SF | AF | PF,
  BTC: OF | SF | AF | PF,
  MUL: SF | ZF | AF | PF,
  IMUL: SF | ZF | AF | PF,
  DIV: STATUS_FLAGS,
  IDIV: STATUS_FLAGS,
};

/**
 * Flags of shifts and rotations, which hang on the masked count.
 *
 * @param bits   Operand size.
 * @param count  The count as given, not yet masked.
 */
export function undefinedAfterShift(mnemonic: string, bits: number, count: number): number {
  const masked = count & (bits === 64 ? 63 : 31);
  if (masked === 0) return 0;
  const overflow = masked === 1 ? 0 : OF;
  switch (mnemonic) {
    case 'ROL':
    case 'ROR':
    case 'RCL':
    case 'RCR':
      return overflow;
    case 'SHL':
    case 'SAL':
    case 'SHR':
      return overflow | AF | (masked >= bits ? CF : 0);
    case 'SAR':
      return overflow | AF;
    case 'SHLD':
    case 'SHRD':
      return masked > bits ? STATUS_FLAGS : overflow | AF;
    default:
      return 0;
  }
}

export const SHIFTS: ReadonlySet<string> = new Set([
  'ROL',
  'ROR',
  'RCL',
  'RCR',
  'SHL',
  'SAL',
  'SHR',
  'SAR',
  'SHLD',
  'SHRD',
]);

export const undefinedFlags = (mnemonic: string): number => ALWAYS[mnemonic] ?? 0;

/** Mnemonics that define all four of C0–C3 or leave them alone; the other x87 instructions define C1 only. */
const DEFINE_ALL =
  /^(FXAM|FU?COMP?P?|FICOMP?|FTST|FPREM1?|FRSTOR|FLDENV|FN?INIT|FLDCW|FU?COMIP?|FN?CLEX|FN?STCW|FN?STSW|FNOP|EMMS)$/;
/** FLDCW, FNOP, FNSTCW, FNCLEX … leave C0–C3 "undefined" in the manual's words. */
const UNDEFINE_ALL = /^(FLDCW|FN?STCW|FN?CLEX|FNOP|FN?STSW|FFREE|FINCSTP|FDECSTP|FWAIT)$/;

/** x87 status word bits that are undefined after `mnemonic`. SDM 1 8.1.3.2 "Condition Code Flags", table 8-1. */
export function undefinedStatus(mnemonic: string): number {
  if (!mnemonic.startsWith('F')) return 0;
  if (mnemonic === 'FFREE' || UNDEFINE_ALL.test(mnemonic)) return C0 | C1 | C2 | C3;
  if (DEFINE_ALL.test(mnemonic)) return 0;
  if (/^F(INCSTP|DECSTP)$/.test(mnemonic)) return C0 | C2 | C3;
  return C0 | C2 | C3;
}
