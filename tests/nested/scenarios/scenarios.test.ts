/**
 * Runs the scenarios of table.ts: those for CI, or those that SCENARIOS names ("all" for every one).
 * `npm run scenarios -- NAME…` sets it and shows what they say.
 */
import { expect, test } from 'vitest';
import { missing } from '../../boot/debian.ts';
import { SCENARIOS } from './table.ts';

const wanted = (process.env['SCENARIOS'] ?? '').split(/[ ,]+/).filter(Boolean);
const names = SCENARIOS.map(({ name }) => name);

if (wanted.length === 1 && wanted[0] === 'list') {
  test('list', () => {
    for (const { name, shows, ci } of SCENARIOS) console.log(`${name}${ci ? ' (CI)' : ''}: ${shows}`);
  });
} else {
  const chosen = SCENARIOS.filter(
    ({ name, ci }) => wanted.includes(name) || wanted.includes('all') || (wanted.length === 0 && ci),
  );
  test.skipIf(missing()).each(chosen)(
    '$name: $shows',
    ({ name, run }) => {
      run((line) => console.log(`${name}: ${line}`));
    },
    7_200_000,
  );
  test('the names exist', () => {
    expect(wanted.filter((name) => name !== 'all' && !names.includes(name))).toEqual([]);
  });
}
