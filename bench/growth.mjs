/**
 * What a million round trips between L1 and L2 leave behind: shadow pages, roots, TLB contexts, decoded code, the
 * JavaScript heap and the memory of the process, before and after. Nothing may grow; tests/nested/growth.test.ts says so
 * of fewer trips.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { checkout, dist } from './lib/machines.mjs';
import { table } from './lib/report.mjs';

/** Loops of guests/nested-vmx: round trips alone, VMPTRLD at each, INVEPT and INVVPID at each, EPT violations. */
const LOOPS = { 'ept-cpuid': 1_000_000, alternate: 250_000, invalidate: 250_000, touch: 250_000 };

export async function growth({ kernels = Object.keys(LOOPS) }) {
  const figures = {};
  for (const only of kernels) {
    const trips = LOOPS[only];
    const program = new URL('lib/growth-child.mjs', import.meta.url).pathname;
    const kernel = join(checkout, 'guests/nested-vmx/nested-vmx.bin');
    const options = JSON.stringify({ kernel, only, trips, dist });
    const result = spawnSync(process.execPath, ['--expose-gc', program, options], { encoding: 'utf8' });
    if (result.status !== 0) throw new Error(`${only}: ${result.stderr}`);
    const { before, after } = JSON.parse(result.stdout);
    figures[only] = { trips, before, after };
    const rows = Object.keys(before).map((name) => [name, before[name], after[name], after[name] - before[name]]);
    console.log(table([`${only}, ${trips} round trips`, 'before', 'after', 'change'], rows));
  }
  return { loops: figures };
}
