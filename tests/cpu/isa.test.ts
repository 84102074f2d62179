/** The same as `npm run fuzz:cpu`, one round with a fixed seed. For more: fuzz:cpu --rounds 1 --per-form N. */
import { describe, expect, test } from 'vitest';
import { rowsOf } from './forms.ts';
import { Campaign } from './fuzz.ts';
import { Oracle } from './oracle.ts';

const CASES = 20;
const SEQUENCES = 2000;
const SEED = 1;

describe.skipIf(Oracle.missing())('every form that user mode can run', () => {
  test.each(['interpreter', 'compiler'] as const)(
    `does what the processor of this machine does, alone and in short sequences: %s`,
    async (tier) => {
      const oracle = Oracle.start();
      const campaign = new Campaign(oracle, [tier], rowsOf(/(?:)/));
      for (const form of campaign.forms) await campaign.form(form, CASES, SEED);
      await campaign.sequences(SEQUENCES, SEED);
      await oracle.stop();
      const { tally, forms, found } = campaign;
      console.log(`${forms.length} forms, ${tally.cases} cases, ${tally.sequences} of them sequences`);
      expect(forms.length).toBeGreaterThan(1500);
      expect(tally.completed).toBeGreaterThan(tally.cases / 2);
      expect(found.map(({ mismatch }) => mismatch.report).join('\n')).toBe('');
    },
  );
});
