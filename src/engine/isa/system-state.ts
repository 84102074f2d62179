import type { Helper } from '../core/helpers.ts';
import { fxrstor, fxsave, xrstor, xrstors, xsave, xsavec, xsaveopt, xsaves } from '../core/state-save.ts';
import { type Instruction, instruction } from './instruction.ts';

/** Saving and restoring of processor state. SDM 1 5.1.13, 5.8.3, 13 "Managing State Using the XSAVE Feature Set". */

const row = (
  name: string,
  source: string,
  forms: Readonly<Record<string, string>>,
  feature: string,
  helper: Helper,
): Instruction =>
  instruction({
    name,
    source,
    forms,
    feature,
    // CR0.EM counts for FXSAVE and FXRSTOR only; the XSAVE family looks at CR0.TS itself
    ...(name.startsWith('FX') ? { needs: 'x87' as const } : {}),
    execute(m) {
      m.helper(helper);
    },
  });

export const STATE_INSTRUCTIONS: readonly Instruction[] = [
  row(
    'FXSAVE',
    'SDM 2A 3.2 "FXSAVE—Save x87 FPU, MMX Technology, and SSE State"',
    { 'NP 0F AE /0:m': 'FXSAVE m512byte' },
    'fxsr',
    fxsave,
  ),
  row(
    'FXRSTOR',
    'SDM 2A 3.2 "FXRSTOR—Restore x87 FPU, MMX, XMM, and MXCSR State"',
    { 'NP 0F AE /1:m': 'FXRSTOR m512byte' },
    'fxsr',
    fxrstor,
  ),
  row('XSAVE', 'SDM 2D 6.1 "XSAVE—Save Processor Extended States"', { 'NP 0F AE /4:m': 'XSAVE m' }, 'xsave', xsave),
  row(
    'XRSTOR',
    'SDM 2D 6.1 "XRSTOR—Restore Processor Extended States"',
    { 'NP 0F AE /5:m': 'XRSTOR m' },
    'xsave',
    xrstor,
  ),
  row(
    'XSAVEOPT',
    'SDM 2D 6.1 "XSAVEOPT—Save Processor Extended States Optimized"',
    { 'NP 0F AE /6:m': 'XSAVEOPT m' },
    'xsaveopt',
    xsaveopt,
  ),
  row(
    'XSAVEC',
    'SDM 2D 6.1 "XSAVEC—Save Processor Extended States With Compaction"',
    { 'NP 0F C7 /4:m': 'XSAVEC m' },
    'xsavec',
    xsavec,
  ),
  row(
    'XSAVES',
    'SDM 2D 6.1 "XSAVES—Save Processor Extended States Supervisor"',
    { 'NP 0F C7 /5:m': 'XSAVES m' },
    'xsaves',
    xsaves,
  ),
  row(
    'XRSTORS',
    'SDM 2D 6.1 "XRSTORS—Restore Processor Extended States Supervisor"',
    { 'NP 0F C7 /3:m': 'XRSTORS m' },
    'xsaves',
    xrstors,
  ),
];
