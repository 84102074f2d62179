/**
 * A guest that is a hypervisor (guests/nested-vmx), in one mode of the nested MMU, in a process of its own.
 *
 * argv[2]   JSON: kernel, only (which of the guest's loops), mode, trips, dist.
 * stdout    one line of JSON, as tools/cli/nested-measure.ts measures it, by CPU time: usPerTrip (a whole L2→L1→L2
 *           round trip), nsPerSwitch (the MMU's part of one switch of level), counts (the MMU's, for one trip).
 */
import { readFileSync } from 'node:fs';
import { loadBundle } from '../../bin/bundle.mjs';

const { kernel, only, mode, trips, dist, accel } = JSON.parse(process.argv[2]);
const { measureRoundTrip } = await loadBundle(dist);

const { usPerTrip, nsPerMmuSwitch, perTrip } = measureRoundTrip({
  kernel: new Uint8Array(readFileSync(kernel)),
  only,
  mode,
  trips,
  accel,
  clock: () => {
    const { user, system } = process.cpuUsage();
    return user + system;
  },
});
const counts = Object.fromEntries(Object.entries(perTrip).filter(([, count]) => count !== 0));
process.stdout.write(`${JSON.stringify({ usPerTrip, nsPerSwitch: nsPerMmuSwitch, counts })}\n`);
