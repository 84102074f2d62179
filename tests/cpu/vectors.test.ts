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
import { INSTRUCTIONS } from '../../src/engine/isa/index.ts';
import { EngineMachine } from './engine-machine.ts';
import { judge } from './known-differences.ts';
import { record, replay } from './lockstep.ts';
import { Oracle } from './oracle.ts';
import { readVectors, writeVectors } from './vectors.ts';

const FILE = fileURLToPath(new URL('vectors/user.bin.gz', import.meta.url));
/** With these the file stays near 2 MB; isa.test.ts asks the real processor for many more where there is one. */
const CASES_PER_FORM = 6;

test.runIf(process.env['TERRARIUM_RECORD'])('vectors are recorded', async () => {
  const rows = INSTRUCTIONS.flatMap(({ forms }) =>
    Object.entries(forms).map(([opcode, instruction]) => ({ opcode, instruction })),
  );
  const oracle = Oracle.start();
  const { header, vectors } = await record(oracle, rows, CASES_PER_FORM, 20261122);
  await oracle.stop();
  mkdirSync(fileURLToPath(new URL('vectors', import.meta.url)), { recursive: true });
  writeVectors(FILE, header, vectors);
  console.log(`${vectors.length} vectors of ${header.processor}`);
});

test.skipIf(!existsSync(FILE)).each(ACCELERATORS)('the %s does what the recorded processor did', (accel) => {
  const { header, vectors } = readVectors(FILE);
  const found = replay(new EngineMachine(() => true, { accel }), vectors);
  console.log(`${vectors.length} vectors of ${header.processor}, recorded ${header.recorded}: ${found.length} differ`);
  expect(vectors.length).toBeGreaterThan(1000);
  const { unexplained, stale } = judge(found);
  for (const why of stale) console.log(`known-differences.ts, to be deleted: ${why}`);
  expect(unexplained.map(({ report }) => report).join('\n')).toBe('');
});
