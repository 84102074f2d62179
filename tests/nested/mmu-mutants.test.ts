/** mmu-mutants.mjs takes minutes and runs by hand: that each of its edits can still be made is seen here. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const MMU = join(import.meta.dirname, '../../src/hypervisor/mmu');
const mutants: readonly { test: string; file: string; find: string; replace: string }[] = JSON.parse(
  readFileSync(join(import.meta.dirname, 'mmu-mutants.json'), 'utf8'),
);
const history = readdirSync(MMU)
  .filter((name) => name.startsWith('history'))
  .map((name) => readFileSync(join(MMU, name), 'utf8').replaceAll('"', "'"))
  .join('\n');

test.each(mutants)('mutant of "$test": its text stands once in $file, and its test exists', ({ test, file, find }) => {
  const source = readFileSync(join(MMU, file), 'utf8');
  expect(source.split(find).length - 1).toBe(1);
  expect(history.includes(`'${test}`)).toBe(true);
});
