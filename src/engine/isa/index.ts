import { ARITHMETIC } from './arithmetic.ts';
import { CONTROL_TRANSFER } from './control-transfer.ts';
import { DATA_TRANSFER } from './data-transfer.ts';
import type { Instruction } from './instruction.ts';
import { SHIFTS } from './shifts.ts';
import { STRINGS } from './strings.ts';

/** Every instruction of the machine. */
export const INSTRUCTIONS: readonly Instruction[] = [
  ...ARITHMETIC,
  ...SHIFTS,
  ...DATA_TRANSFER,
  ...CONTROL_TRANSFER,
  ...STRINGS,
];
