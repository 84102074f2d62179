import { ARITHMETIC } from './arithmetic.ts';
import { BMI } from './bmi.ts';
import { CONTROL_TRANSFER } from './control-transfer.ts';
import { DATA_TRANSFER } from './data-transfer.ts';
import { DECIMAL } from './decimal.ts';
import type { Instruction } from './instruction.ts';
import { SHIFTS } from './shifts.ts';
import { VECTOR } from './sse.ts';
import { FMA_F16C } from './sse-fma.ts';
import { GATHER } from './sse-gather.ts';
import { STRINGS } from './strings.ts';
import { SYSTEM_ROWS } from './system-rows.ts';
import { X87 } from './x87.ts';

/** Every instruction of the machine. */
export const INSTRUCTIONS: readonly Instruction[] = [
  ...ARITHMETIC,
  ...DECIMAL,
  ...SHIFTS,
  ...BMI,
  ...DATA_TRANSFER,
  ...CONTROL_TRANSFER,
  ...STRINGS,
  ...SYSTEM_ROWS,
  ...VECTOR,
  ...FMA_F16C,
  ...GATHER,
  ...X87,
];
