/**
 * What a real processor did, recorded: so that CI compares the engine with one on any machine.
 *
 * To record again (on an x86-64 Linux with gcc), after forms were added or the generator was changed:
 *   TERRARIUM_RECORD=1 npx vitest run --project system tests/cpu/vectors
 */
import { existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ACCELERATORS } from '../../src/engine/core/memory.ts';
import { EngineMachine } from './engine-machine.ts';
import { rowsOf } from './forms.ts';
import { judge } from './known-differences.ts';
import { record, recordCases, replay, usable } from './lockstep.ts';
import { Oracle } from './oracle.ts';
import { Random } from './random.ts';
import { generateSequence, mayStandInSequence } from './sequences.ts';
import { readVectors, writeVectors } from './vectors.ts';

const FILE = fileURLToPath(new URL('vectors/user.bin.gz', import.meta.url));
/** With these the file stays near 2.5 MB; isa.test.ts and fuzz:cpu ask the real processor for many more. */
const CASES_PER_FORM = 4;
const SEQUENCES = 600;
const SEED = 20261122;

test.runIf(process.env['TERRARIUM_RECORD'])('vectors are recorded', async () => {
  const rows = rowsOf(/(?:)/);
  const oracle = Oracle.start();
  const { header, vectors } = await record(oracle, rows, CASES_PER_FORM, SEED);
  const forms = usable(rows, new Map()).filter(mayStandInSequence);
  const random = new Random(SEED);
  const sequences = Array.from({ length: SEQUENCES }, () => generateSequence(forms, random));
  vectors.push(...(await recordCases(oracle, sequences)));
  await oracle.stop();
  mkdirSync(fileURLToPath(new URL('vectors', import.meta.url)), { recursive: true });
  writeVectors(FILE, header, vectors);
  console.log(`${vectors.length} vectors of ${header.processor}`);
});

test.skipIf(!existsSync(FILE)).each(ACCELERATORS)('the %s does what the recorded processor did', (accel) => {
  const { header, vectors } = readVectors(FILE);
  const found = replay(new EngineMachine(() => true, { accel }), vectors);
  console.log(`${vectors.length} vectors of ${header.processor}, recorded ${header.recorded}: ${found.length} differ`);
  expect(vectors.length).toBeGreaterThan(6500);
  expect(vectors.filter(({ case: one }) => one.instructions).length).toBeGreaterThan(500);
  const { unexplained, explained, stale } = judge(found);
  for (const [why, times] of explained) console.log(`known: ${times}× ${why}`);
  for (const why of stale) console.log(`known-differences.ts, to be deleted: ${why}`);
  expect(unexplained.map(({ report }) => report).join('\n')).toBe('');
});
