export { RFLAGS, RFLAGS_IOPL_SHIFT, RFLAGS_STATUS } from '../../arch/registers.ts';

/**
 * Lazy flags: what the flags would be computed from, in S.CC_KIND, CC_A and CC_B. CC_KIND is a class plus
 * log2(operand bytes) << 4. A and B are sign-extended to 64 bits: that keeps both signed and unsigned order, so a
 * condition after a comparison is one compare without looking at the size.
 *
 *   EXPLICIT   B: the six flags as in RFLAGS
 *   SUB        flags of A - B: sub, cmp; and, or, xor, test with A = result, B = 0 (AF undefined there)
 *   ADD        A: the result, B: one addend
 *   RESULT     A: the result, for ZF SF PF; B: CF AF OF as in RFLAGS
 */
export const CC = { EXPLICIT: 0, SUB: 1, ADD: 2, RESULT: 3, CLASS_MASK: 3, SIZE_SHIFT: 4 } as const;

/** Condition codes, in the order of the opcode's low four bits. SDM 2D B.1.4.7 "Condition Test (tttn) Field". */
export const CONDITIONS = [
  'O',
  'NO',
  'B',
  'AE',
  'E',
  'NE',
  'BE',
  'A',
  'S',
  'NS',
  'P',
  'NP',
  'L',
  'GE',
  'LE',
  'G',
] as const;
