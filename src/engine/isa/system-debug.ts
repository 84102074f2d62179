import { movFromDr, movToDr } from '../core/debug.ts';
import { type Instruction, instruction } from './instruction.ts';

/** Debug registers. SDM 2B 4.3 "MOV—Move to/from Debug Registers". */

export const MOV_TO_DR = instruction({
  name: 'MOV',
  source: 'SDM 2B 4.3 "MOV—Move to/from Debug Registers"',
  forms: { '0F 23 /r': 'MOV DRn, r/my' },
  terminator: true,
  execute(m) {
    m.helper(movToDr);
  },
});

export const MOV_FROM_DR = instruction({
  name: 'MOV',
  source: 'SDM 2B 4.3 "MOV—Move to/from Debug Registers"',
  forms: { '0F 21 /r': 'MOV r/my, DRn' },
  execute(m) {
    m.helper(movFromDr);
  },
});

export const DEBUG_INSTRUCTIONS: readonly Instruction[] = [MOV_TO_DR, MOV_FROM_DR];
