/** Debian's cloud kernel from the first instruction to the init process, on each machine: CPU seconds, ratios, and what one waits. */
import { MACHINES, machinesHere } from './lib/machines.mjs';
import { DEBIAN, READY, requireDebianKernel, table } from './lib/report.mjs';

export async function boot({ rounds, machines }) {
  requireDebianKernel();
  const names = machinesHere(machines, { starts: true });
  const seconds = Object.fromEntries(names.map((name) => [name, []]));
  const waited = {};
  let instructions = 0;
  for (let round = 0; round < rounds; round += 1) {
    for (const name of names) {
      if (round > 0 && MACHINES[name].slow) continue;
      const running = await MACHINES[name].start(DEBIAN);
      try {
        const ready = await running.line(READY);
        const cpuSeconds = (ready.cpuMs - running.loaderMs) / 1000;
        seconds[name].push(cpuSeconds);
        const wall = (ready.atMs - running.startedMs) / 1000;
        waited[name] = Math.min(wall, waited[name] ?? wall);
        if (name === 'interpreter') instructions = ready.instructions;
        console.log(
          `round ${round + 1}: ${MACHINES[name].label}: ${cpuSeconds.toFixed(2)} s, ${wall.toFixed(2)} s on the wall`,
        );
      } catch (error) {
        console.log(`round ${round + 1}: ${MACHINES[name].label}: ${error.message}`);
      } finally {
        await running.stop();
      }
    }
  }
  const least = Object.fromEntries(names.filter((n) => seconds[n].length > 0).map((n) => [n, Math.min(...seconds[n])]));
  const base = least.interpreter ?? Object.values(least)[0];
  console.log(
    table(
      ['machine', 'CPU s, least', 'of interpreter', 'wall s, least', 'all rounds'],
      Object.entries(least).map(([name, value]) => [
        MACHINES[name].label,
        value.toFixed(2),
        (value / base).toFixed(3),
        waited[name].toFixed(2),
        seconds[name].map((s) => s.toFixed(2)).join(' '),
      ]),
    ),
  );
  if (instructions > 0) console.log(`${(instructions / 1e6).toFixed(1)} M instructions on Terrarium`);
  const ratios = Object.fromEntries(Object.entries(least).map(([name, value]) => [name, round3(value / base)]));
  return { rounds, cpuSeconds: mapped(least), wallSeconds: mapped(waited), ratioToInterpreter: ratios, instructions };
}

const round3 = (x) => Math.round(x * 1000) / 1000;
const mapped = (o) => Object.fromEntries(Object.entries(o).map(([k, v]) => [k, round3(v)]));
