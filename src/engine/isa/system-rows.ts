import type { Instruction } from './instruction.ts';
import { STACK_LEGACY } from './stack-legacy.ts';
import { SYSTEM_INSTRUCTIONS } from './system.ts';
import { DEBUG_INSTRUCTIONS } from './system-debug.ts';
import { IDENTIFICATION } from './system-identification.ts';
import { PORT_INSTRUCTIONS } from './system-io.ts';
import { STATE_INSTRUCTIONS } from './system-state.ts';
import { VIRTUALIZATION } from './system-virtualization.ts';
import { FAR_TRANSFERS } from './transfers.ts';

/** Everything that is for operating systems, or that helpers do: one list for isa/index.ts. */
export const SYSTEM_ROWS: readonly Instruction[] = [
  ...FAR_TRANSFERS,
  ...STACK_LEGACY,
  ...SYSTEM_INSTRUCTIONS,
  ...IDENTIFICATION,
  ...PORT_INSTRUCTIONS,
  ...STATE_INSTRUCTIONS,
  ...DEBUG_INSTRUCTIONS,
  ...VIRTUALIZATION,
];
