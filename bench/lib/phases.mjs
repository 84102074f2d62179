/** Debian with a script of ours in it: between two lines of COM1 the CPU time of the machine under it. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fetchDebianKernel } from '../../scripts/fetch-debian-kernel.mjs';
import { checkout, MACHINES, machinesHere } from './machines.mjs';
import { table } from './report.mjs';

const cache = process.env.TERRARIUM_CACHE ?? join(checkout, '.cache');
export const QUIET = 'console=ttyS0,115200 cryptomgr.notests quiet';
const MARK = 'BENCH-PHASE';

/** Kernel and initial file system with `script` as /bench, which the kernel's TERRARIUM_RUN starts. */
export function debianWith(folder, name, script, { adds = [], load = [] } = {}) {
  const file = join(folder, name);
  writeFileSync(file, script);
  chmodSync(file, 0o755);
  return fetchDebianKernel({
    flavour: 'cloud',
    load,
    adds: [{ host: file, guest: '/bench' }, ...adds],
    strip: 'none',
    bare: true,
    name,
    cache: join(cache, 'debian'),
    refresh: false,
  });
}

/** Lines of a script that say where a phase begins and ends. */
export const begins = (phase) => `echo ${MARK} ${phase} begins`;
export const ends = (phase) => `echo ${MARK} ${phase} ends`;

/** Runs the guest on each machine, and tells CPU seconds by phase, and seconds on the wall: the least of the rounds. */
export async function measurePhases({ rounds, machines, guest: described, phases, seconds }) {
  const end = phases.at(-1);
  const guest = { ...described, last: end.to ?? `${MARK} ${end.name} ends` };
  const names = machinesHere(machines, { starts: true });
  const least = Object.fromEntries(phases.map(({ name }) => [name, {}]));
  const waited = Object.fromEntries(phases.map(({ name }) => [name, {}]));
  for (let round = 0; round < rounds; round += 1) {
    for (const machine of names) {
      if (round > 0 && MACHINES[machine].slow) continue;
      const running = await MACHINES[machine].start(guest);
      try {
        for (const { name, from = `${MARK} ${name} begins`, to = `${MARK} ${name} ends` } of phases) {
          const before = await running.line(from, seconds);
          const after = await running.line(to, seconds);
          const took = (after.cpuMs - before.cpuMs) / 1000;
          const wall = (after.atMs - before.atMs) / 1000;
          least[name][machine] = Math.min(took, least[name][machine] ?? took);
          waited[name][machine] = Math.min(wall, waited[name][machine] ?? wall);
          console.log(`round ${round + 1}: ${name}, ${MACHINES[machine].label}: ${took.toFixed(2)} s`);
        }
      } catch (error) {
        console.log(`round ${round + 1}: ${MACHINES[machine].label}: ${error.message}`);
      } finally {
        await running.stop();
      }
    }
  }
  const cell = (times, machine) => {
    if (!(machine in times)) return '';
    const ratio = 'qemu' in times ? ` (${(times[machine] / times.qemu).toFixed(2)})` : '';
    return times[machine].toFixed(2) + ratio;
  };
  const show = (what, seconds) =>
    console.log(
      table(
        [`${what} s, least (of QEMU TCG)`, ...names.map((name) => MACHINES[name].label)],
        Object.entries(seconds).map(([phase, times]) => [phase, ...names.map((name) => cell(times, name))]),
      ),
    );
  show('CPU', least);
  show('wall', waited);
  const round3 = (x) => Math.round(x * 1000) / 1000;
  const rounded = (o) => Object.fromEntries(Object.entries(o).map(([key, value]) => [key, round3(value)]));
  const all = (seconds) => Object.fromEntries(Object.entries(seconds).map(([phase, o]) => [phase, rounded(o)]));
  return { rounds, cpuSeconds: all(least), wallSeconds: all(waited) };
}
