/**
 * A guest of our own from the bundle, with native code of earlier runs in a folder.
 *
 * argv[2]   the folder, or "off".  argv[3]   bytes that the cache may have, or "".  argv[4]   the guest, if it is not the demo.
 *           argv[5]   "killed": nothing is written at the end, but in the middle; the process runs for a second.
 *           "pages": what was hot in earlier runs is known, too.
 * stdout    one line of JSON: counters and contents of the cache, and what must be the same with every cache.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { loadBundle } from '../../bin/bundle.mjs';
import { TraceHash } from '../../dist/inspect/trace-hash.js';

const [folder, bytesMax, name = 'demo', how] = process.argv.slice(2);
const { JitCache, Machine, nameBuild, once, snapshotCounters } = await loadBundle();
// Without what came with it: all that is found is of earlier runs
nameBuild('a build', '/nowhere');
const pace = how === 'killed' ? { lookMs: 20, modules: 3, anyMs: 1e9 } : undefined;
const limit = bytesMax ? Number(bytesMax) : undefined;
const cache = folder === 'off' ? undefined : JitCache.open({ folder, bytesMax: limit, pages: how === 'pages', pace });
const contents = cache?.contents;
/** Digests of the modules that were asked for. */
const asked = [];
const find = cache?.find.bind(cache);
if (cache) {
  cache.find = (bytes) => {
    asked.push(createHash('sha256').update(bytes).digest('hex'));
    return find(bytes);
  };
}
const guest = new URL(`../../guests/${name}/${name}.bin`, import.meta.url);
let output = '';
const machine = once(
  () =>
    new Machine({
      cpu: 'intel,+vmx',
      cpus: 1,
      ramBytes: 64 * 2 ** 20,
      kernel: { name, bytes: new Uint8Array(readFileSync(guest)) },
      debugExit: { iobase: 0xf4, iosize: 4 },
      epochMs: 0,
      accel: 'compiler',
      jitThreshold: 500,
      ...(cache ? { jitModules: cache } : {}),
      serial: [
        (byte) => {
          output += `${byte}@${machine.vm.clock.nowNs()} `;
        },
      ],
    }),
);
const trace = new TraceHash(99_991);
machine.vm.watcher = trace;
cache?.start();
let result = 'time';
while (result !== 'ended') {
  result = machine.run(machine.nowNs + 5e6);
  // V8's own threads hand over what they have compiled
  await new Promise((resolve) => setTimeout(resolve, 2));
}
const { instructions, exits, code, jit } = snapshotCounters(machine.vm);
const same = {
  status: machine.ending.status,
  nowNs: machine.nowNs,
  instructions,
  exits,
  output: createHash('sha256').update(output).digest('hex'),
  trace: trace.text,
};
const found = { ...cache?.counters };
if (how === 'killed') await new Promise((resolve) => setTimeout(resolve, 1_000));
else cache?.finish();
const interpreted = instructions - jit.retired;
const told = { same, contents, found, counters: cache?.counters, known: code.known, interpreted, asked };
console.log(JSON.stringify(told));
process.exit(0);
