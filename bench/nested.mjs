/**
 * What a switch between L1 and L2 costs in each mode of the nested MMU: `split` (the design), `reinit` (formats computed
 * anew at each switch) and `shared` (one root cache, emptied at each switch), as hypervisor/mmu/vm-mmu.ts has them.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { checkout, dist } from './lib/machines.mjs';
import { table } from './lib/report.mjs';

const MODES = ['split', 'reinit', 'shared'];
/** Loops of guests/nested-vmx: its command line's `only=`. */
const LOOPS = { 'ept-cpuid': 'EPT and VPID', 'ept-only': 'EPT without VPID', 'vpid-only': 'VPID without EPT' };
const TRIPS = 20_000;

export async function nested({ rounds }) {
  const kernel = join(checkout, 'guests/nested-vmx/nested-vmx.bin');
  if (!existsSync(kernel)) {
    console.log('guests/nested-vmx is not here: nothing to measure');
    return undefined;
  }
  const figures = {};
  const rows = [];
  for (const [only, label] of Object.entries(LOOPS)) {
    const least = {};
    for (let round = 0; round < rounds; round += 1) {
      for (const mode of MODES) {
        const one = measure({ kernel, only, mode, trips: TRIPS, dist });
        const before = least[mode];
        least[mode] = {
          usPerTrip: Math.min(one.usPerTrip, before?.usPerTrip ?? Number.POSITIVE_INFINITY),
          nsPerSwitch: Math.min(one.nsPerSwitch, before?.nsPerSwitch ?? Number.POSITIVE_INFINITY),
          counts: one.counts,
        };
      }
    }
    for (const mode of MODES) {
      const { usPerTrip, nsPerSwitch } = least[mode];
      const ratio = (key) => (least[mode][key] / least.split[key]).toFixed(2);
      rows.push([
        `${label}: ${mode}`,
        usPerTrip.toFixed(2),
        ratio('usPerTrip'),
        nsPerSwitch.toFixed(0),
        ratio('nsPerSwitch'),
      ]);
    }
    figures[only] = Object.fromEntries(MODES.map((mode) => [mode, rounded(least[mode])]));
  }
  console.log(table(['CPUID in L2, CPU time', 'µs a round trip', 'of split', 'ns an MMU switch', 'of split'], rows));
  for (const [only, modes] of Object.entries(figures)) {
    for (const mode of MODES) console.log(`${only} ${mode}, counted a trip: ${JSON.stringify(modes[mode].counts)}`);
  }
  return { rounds, trips: TRIPS, loops: figures };
}

function measure(options) {
  const program = new URL('lib/nested-child.mjs', import.meta.url).pathname;
  const result = spawnSync(process.execPath, [program, JSON.stringify(options)], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${options.only} ${options.mode}: ${result.stderr}`);
  return JSON.parse(result.stdout);
}

const rounded = ({ usPerTrip, nsPerSwitch, counts }) => ({
  usPerTrip: Math.round(usPerTrip * 100) / 100,
  nsPerSwitch: Math.round(nsPerSwitch),
  counts,
});
