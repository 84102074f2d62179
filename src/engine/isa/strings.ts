import type { Helper } from '../core/helpers.ts';
import { cmps, lods, movs, scas, stos } from '../core/strings.ts';
import { type Instruction, instruction } from './instruction.ts';

/** String instructions: SDM 1 5.1.8. Port strings are in isa/system-io.ts. */
const row = (name: string, source: string, opcode: number, helper: Helper): Instruction =>
  instruction({
    name,
    source,
    forms: {
      // The byte form's operand size does not follow the prefixes
      [`${opcode.toString(16).toUpperCase()}`]: `${name}B m8`,
      [`${(opcode + 1).toString(16).toUpperCase()}`]: name,
    },
    execute: (m) => m.helper(helper),
  });

export const STRINGS: readonly Instruction[] = [
  row('MOVS', 'SDM 2B 4.3 "MOVS/MOVSB/MOVSW/MOVSD/MOVSQ—Move Data From String to String"', 0xa4, movs),
  row('STOS', 'SDM 2B 4.3 "STOS/STOSB/STOSW/STOSD/STOSQ—Store String"', 0xaa, stos),
  row('LODS', 'SDM 2A 3.2 "LODS/LODSB/LODSW/LODSD/LODSQ—Load String"', 0xac, lods),
  row('CMPS', 'SDM 2A 3.2 "CMPS/CMPSB/CMPSW/CMPSD/CMPSQ—Compare String Operands"', 0xa6, cmps),
  row('SCAS', 'SDM 2B 4.3 "SCAS/SCASB/SCASW/SCASD—Scan String"', 0xae, scas),
];
