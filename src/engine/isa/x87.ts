import type { Instruction } from './instruction.ts';
import { X87_ARITHMETIC } from './x87-arithmetic.ts';
import { X87_COMPARE } from './x87-compare.ts';
import { X87_CONTROL } from './x87-control.ts';
import { X87_TRANSCENDENTAL } from './x87-transcendental.ts';
import { X87_TRANSFER } from './x87-transfer.ts';

/** Opcodes D8–DF and 9B. SDM 1 chapter 8 "Programming with the x87 FPU". */
export const X87: readonly Instruction[] = [
  ...X87_ARITHMETIC,
  ...X87_TRANSFER,
  ...X87_COMPARE,
  ...X87_TRANSCENDENTAL,
  ...X87_CONTROL,
];
