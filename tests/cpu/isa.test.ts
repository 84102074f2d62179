import { describe, expect, test } from 'vitest';
import { INSTRUCTIONS } from '../../src/engine/isa/index.ts';
import { EngineMachine } from './engine-machine.ts';
import { record, replay } from './lockstep.ts';
import { Oracle } from './oracle.ts';

const COUNT = Number(process.env['TERRARIUM_CASES'] ?? 40);
const SEED = Number(process.env['TERRARIUM_SEED'] ?? 1);
const ONLY = process.env['TERRARIUM_FORMS'];

describe.skipIf(Oracle.missing())('every form that user mode can run', () => {
  test.each(['interpreter', 'compiler'] as const)(
    `does what the processor of this machine does (${COUNT} cases a form, seed ${SEED}) by the %s`,
    async (accel) => {
      const rows = INSTRUCTIONS.flatMap((row) =>
        Object.entries(row.forms).map(([opcode, instruction]) => ({ opcode, instruction })),
      ).filter(({ opcode, instruction }) => !ONLY || `${opcode} ${instruction}`.includes(ONLY));
      const oracle = Oracle.start();
      const made = await record(oracle, rows, COUNT, SEED);
      await oracle.stop();
      const machine = new EngineMachine(() => true, { accel });
      const found = replay(machine, made.vectors);
      const byForm = new Map<string, number>();
      for (const { form } of found) byForm.set(form, (byForm.get(form) ?? 0) + 1);
      const first = new Set<string>();
      const reports: string[] = [];
      for (const { form, report } of found) {
        if (first.has(form)) continue;
        first.add(form);
        reports.push(`${byForm.get(form)}× ${report}`);
      }
      console.log(`${made.vectors.length} vectors, ${found.length} mismatches in ${byForm.size} forms`);
      expect(reports.join('\n')).toBe('');
    },
  );
});
