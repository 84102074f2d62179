/**
 * Which variants of instructions a Debian boot executes most: what src/engine/tiers/hot.ts was made from. Names are
 * those of the list there; `*` marks a variant that has a place in the main switch already.
 */

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { dist, startTerrarium } from './lib/machines.mjs';
import { DEBIAN, READY, requireDebianKernel, table } from './lib/report.mjs';

export async function hotForms({ top }) {
  requireDebianKernel();
  const { HOT } = await import(pathToFileURL(join(dist, 'engine/tiers/hot.js')).href);
  const inSwitch = new Set(HOT);
  const running = startTerrarium('interpreter', DEBIAN, { profile: true });
  await running.line(READY);
  const counts = await running.ask('profile', 'profile');
  await running.stop();
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  let sum = 0;
  const rows = counts.slice(0, top).map(([name, count], i) => {
    sum += count;
    const percent = (x) => `${((100 * x) / total).toFixed(2)} %`;
    return [`${inSwitch.has(name) ? '*' : ' '} ${name}`, i + 1, count, percent(count), percent(sum)];
  });
  console.log(table(['  variant', 'rank', 'executions', 'of all', 'up to here'], rows));
  const covered = counts.reduce((all, [name, count]) => all + (inSwitch.has(name) ? count : 0), 0);
  const share = Math.round((1000 * covered) / total) / 10;
  console.log(`${total} records executed, ${counts.length} handlers; ${share} % of them in the main switch`);
  return { executed: total, handlers: counts.length, percentInMainSwitch: share };
}
