import { describe, expect, test } from 'vitest';
import { record, replay } from './lockstep.ts';
import { Oracle } from './oracle.ts';
import { type CpuOutcome, DONE } from './protocol.ts';
import { decodeVectors, encodeVectors } from './vectors.ts';

const ROWS = [
  { opcode: '01 /r', instruction: 'ADD r/mv, rv' },
  { opcode: 'F3 0F 58 /r', instruction: 'ADDSS xmm, xmm/m32' },
  { opcode: '0F A2', instruction: 'CPUID' },
  { opcode: 'XX', instruction: 'NONSENSE' },
];

describe.skipIf(Oracle.missing())('replaying what the real processor did', () => {
  test('accepts the same outcomes, names each difference of others, and takes a throw for a failure', async () => {
    const oracle = Oracle.start();
    const made = await record(oracle, ROWS, 100, 1);
    await oracle.stop();
    expect([...made.leftOut.keys()]).toEqual(['0F A2  CPUID', 'XX  NONSENSE']);
    const { vectors } = decodeVectors(encodeVectors(made.header, made.vectors));
    expect(vectors.length).toBeGreaterThan(180);

    const outcomes = new Map(vectors.map((vector) => [vector.case, vector.outcome]));
    const perfect = { run: (one: object) => outcomes.get(one as never)! };
    expect(replay(perfect, vectors)).toEqual([]);

    const wrongCarry = (outcome: CpuOutcome) => ({
      ...outcome,
      after: { ...outcome.after, rflags: outcome.after.rflags ^ 1 },
    });
    const adds = vectors.filter(({ form }) => form.includes('ADD r'));
    const reports = replay({ run: (one) => wrongCarry(perfect.run(one)) }, adds);
    expect(reports.length).toBe(adds.length);
    expect(reports[0]!.report).toMatch(/^01 \/r {2}ADD r\/mv, rv \[[0-9a-f]+, (64|32)-bit\]: RFLAGS: 0x/);

    const faultless = replay({ run: (one) => ({ ...perfect.run(one), vector: DONE }) }, vectors);
    expect(faultless.length).toBe(vectors.filter(({ outcome }) => outcome.vector !== DONE).length);
    expect(faultless[0]!.report).toMatch(/exception: #1[34] is right, none came/);

    const thrown = replay(
      {
        run: () => {
          throw new Error('no');
        },
      },
      vectors.slice(0, 1),
    );
    expect(thrown[0]!.report).toContain('it threw no');
  });
});
