import { ARITHMETIC } from './arithmetic.ts';
import { CONTROL_TRANSFER } from './control-transfer.ts';
import { DATA_TRANSFER } from './data-transfer.ts';
import type { Instruction } from './instruction.ts';
import { SHIFTS } from './shifts.ts';
import { VECTOR } from './sse.ts';
import { STACK_LEGACY } from './stack-legacy.ts';
import { STRINGS } from './strings.ts';
import { SYSTEM_ROWS } from './system-rows.ts';
import { SYSTEM_INSTRUCTIONS } from './system.ts';
import { IDENTIFICATION } from './system-identification.ts';
import { PORT_INSTRUCTIONS } from './system-io.ts';
import { STATE_INSTRUCTIONS } from './system-state.ts';
import { FAR_TRANSFERS } from './transfers.ts';
import { X87 } from './x87.ts';

/** Every instruction of the machine. */
export const INSTRUCTIONS: readonly Instruction[] = [
  ...ARITHMETIC,
  ...SHIFTS,
  ...DATA_TRANSFER,
  ...CONTROL_TRANSFER,
  ...STRINGS,
  ...SYSTEM_ROWS,
  ...STACK_LEGACY,
  ...FAR_TRANSFERS,
  ...SYSTEM_INSTRUCTIONS,
  ...IDENTIFICATION,
  ...PORT_INSTRUCTIONS,
  ...STATE_INSTRUCTIONS,
  ...VECTOR,
  ...X87,
];
