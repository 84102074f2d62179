/** Where the time of a Debian boot goes, by V8's sampling profiler: self time of functions, by file and name. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bundlePath, sourceMapper } from '../bin/bundle.mjs';
import { MACHINES, startTerrarium } from './lib/machines.mjs';
import { DEBIAN, READY, requireDebianKernel, table } from './lib/report.mjs';

/** The first row that fits "FILE name" of a function; what V8 itself does has no file. */
const CATEGORIES = [
  ['guest code (WebAssembly)', /^wasm:/],
  ['TLB misses and page walks', /src\/(engine\/paging|hypervisor\/mmu)|core\/processor\.ts (translate|access|lookup)/],
  ['finding code: jumps that leave a page', /src\/engine\/(engine\.ts #(lookup|cross|stepTo)|tiers\/code-cache)/],
  ['decoding', /src\/engine\/(decode|isa|tiers\/(library|interpreter|hot))/],
  ['compiling to WebAssembly', /src\/(engine\/tiers\/compiler|wasm)\/|^ ?(Module|Instance)$/],
  ['helpers of instructions', /src\/engine\//],
  ['nested virtualization', /src\/hypervisor\/nested\//],
  ['interrupt controllers', /src\/hypervisor\/irq\/|src\/arch\/apic/],
  ['exits', /src\/(hypervisor|arch)\//],
  ['devices', /src\/(pc|machine)\//],
  ['garbage collection', /^ \(garbage collector\)/],
  ['V8: its compilers, crossings between JS and WebAssembly', /^ \(program\)|^ js-to-wasm|^ wasm-to-js/],
  ['idle', /^ \(idle\)/],
  ['the bench itself, Node', /./],
];

export async function profile({ machines }) {
  requireDebianKernel();
  const figures = {};
  for (const accel of ['interpreter', 'compiler'].filter((name) => machines.includes(name) && MACHINES[name].here())) {
    const folder = mkdtempSync(join(tmpdir(), 'terrarium-profile-'));
    try {
      const running = startTerrarium(accel, DEBIAN, {}, ['--cpu-prof', `--cpu-prof-dir=${folder}`]);
      await running.line(READY);
      await running.stop('end');
      const file = readdirSync(folder).find((name) => name.endsWith('.cpuprofile'));
      figures[accel] = show(accel, JSON.parse(readFileSync(join(folder, file), 'utf8')));
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
  return figures;
}

function show(accel, { nodes, samples, timeDeltas }) {
  const self = new Map();
  samples.forEach((id, i) => {
    self.set(id, (self.get(id) ?? 0) + timeDeltas[i]);
  });
  const byCategory = new Map();
  const byFunction = new Map();
  const sourceOf = sourceMapper(bundlePath());
  for (const { id, callFrame } of nodes) {
    const time = self.get(id) ?? 0;
    const inBundle = callFrame.url.endsWith(bundlePath());
    const file = (inBundle && sourceOf(callFrame.lineNumber + 1, callFrame.columnNumber + 1)) || callFrame.url;
    const where = `${file.replace(/:\d+:\d+$/, '')} ${callFrame.functionName || '(anonymous)'}`;
    const [category] = CATEGORIES.find(([, pattern]) => pattern.test(where));
    byCategory.set(category, (byCategory.get(category) ?? 0) + time);
    const name = `${callFrame.functionName || '(anonymous)'} ${file.replace(/^.*src\//, '').slice(0, 50)}`;
    byFunction.set(name, (byFunction.get(name) ?? 0) + time);
  }
  const total = [...byCategory.values()].reduce((sum, time) => sum + time, 0);
  const percent = (time) => Math.round((1000 * time) / total) / 10;
  const rows = [...byCategory]
    .sort(([, a], [, b]) => b - a)
    .map(([name, time]) => [name, `${percent(time).toFixed(1)} %`]);
  console.log(table([`${MACHINES[accel].label}: where`, 'of the time'], rows));
  const top = [...byFunction].sort(([, a], [, b]) => b - a).slice(0, 25);
  console.log(
    `\n${table(
      ['function (self time)', ''],
      top.map(([name, time]) => [name, `${percent(time).toFixed(1)} %`]),
    )}\n`,
  );
  return Object.fromEntries([...byCategory].map(([name, time]) => [name, percent(time)]));
}
