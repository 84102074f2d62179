/**
 * Makes dist/tools/bundle/terrarium.cjs, one file of all that src/tools/bundle.ts leads to, and beside it terrarium.cache,
 * what V8 compiles of it in a short run, and terrarium.modules, WebAssembly that each start needs (src/tools/jit-cache).
 * bin/bundle.mjs loads them, and says what they are good for.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { rolldown } from 'rolldown';
import { bundlePath, cachePath, HEADER, loadScript, modulesPath, NAME_LENGTH, nameOf } from '../bin/bundle.mjs';

const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

/** A file that is all ASCII is read as Latin-1: in no time, and half as long in memory. */
const toAscii = (text) =>
  text.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** The bundle of what `entry` leads to, a function around it, and its map. */
export async function bundle(entry, path) {
  const build = await rolldown({ input: entry, platform: 'node' });
  const { output } = await build.generate({ file: path, format: 'cjs', sourcemap: 'hidden', codeSplitting: false });
  const [{ code, map }] = output;
  // A class of a module is `var` to the bundler, which V8 reads at each use; what is `const` it takes for granted
  const text = toAscii(code).replace(/^var (?=[\w$]+ = class\b)/gm, 'const ');
  const name = createHash('sha256').update(text).digest('hex').slice(0, NAME_LENGTH);
  const made = {
    text: `${HEADER}${name}\n(function (exports, require, module, __filename) {\n${text}\n})\n//# sourceMappingURL=terrarium.cjs.map\n`,
    map: JSON.stringify({ ...map, mappings: `;;${map.mappings}` }), // two lines come before the code
  };
  await build.close();
  return made;
}

/** What a run needs of the command line, the processor and the hypervisor. */
async function shortRun(main) {
  const exit = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4'];
  const silent = ['-serial', 'null', '-monitor', 'none', '-jit-cache', 'off'];
  for (const guest of ['demo', 'nested-vmx'])
    for (const accel of ['interpreter', 'compiler']) {
      const kernel = join(checkout, 'guests', guest, `${guest}.bin`);
      await main(['run', '-kernel', kernel, '-accel', accel, ...exit, ...silent]);
    }
}

/** There is the old file or the new one at each moment: someone may be running it. */
function replace(path, content) {
  writeFileSync(`${path}.new`, content);
  renameSync(`${path}.new`, path);
}

async function writeCache() {
  const { exports, script } = await loadScript();
  // What has run once would be forgotten by and by
  setFlagsFromString('--no-flush-bytecode');
  await shortRun(exports.main);
  setFlagsFromString('--flush-bytecode');
  const name = Buffer.from(nameOf(readFileSync(bundlePath(), 'latin1')), 'latin1');
  replace(cachePath(), Buffer.concat([name, script.createCachedData()]));
}

/** The core modules of machines as most are: 512 MiB, one CPU. Others make theirs. */
async function writeModules() {
  const { exports } = await loadScript();
  const { JitCache, Machine } = exports;
  const cache = JitCache.record();
  for (const accel of ['interpreter', 'compiler']) {
    let machine;
    for (const guest of ['nested-vmx', 'demo', 'demo', 'demo', 'demo']) {
      machine = new Machine({
        cpu: 'intel,+vmx',
        cpus: 1,
        ramBytes: 512 * 2 ** 20,
        kernel: { name: guest, bytes: readFileSync(join(checkout, 'guests', guest, `${guest}.bin`)) },
        debugExit: { iobase: 0xf4, iosize: 4 },
        epochMs: 0,
        reboot: false,
        accel,
        jitModules: cache,
      });
      while (machine.run(Math.max(machine.nowNs, machine.nextDeadlineNs) + 5e6) !== 'ended')
        await new Promise((resolve) => setImmediate(resolve));
    }
    // V8's own threads may have something in hand; and what they have made goes with the machine
    await new Promise((resolve) => setTimeout(resolve, 300));
    cache.finish();
    if (machine.ending.kind !== 'debug-exit') throw new Error(machine.ending.message);
  }
}

async function writeBundle() {
  const path = bundlePath();
  const { text, map } = await bundle(join(checkout, 'src/tools/bundle.ts'), path);
  mkdirSync(dirname(path), { recursive: true });
  replace(path, text);
  replace(`${path}.map`, map);
  // In a process of its own: V8 is to see it for the first time
  rmSync(cachePath(), { force: true });
  const program = fileURLToPath(import.meta.url);
  const env = { ...process.env, NODE_OPTIONS: '' };
  const { status } = spawnSync(process.execPath, [program, 'cache'], { stdio: 'inherit', env });
  if (status !== 0) throw new Error('the code cache was not made');
  rmSync(modulesPath(), { force: true });
  const modules = spawnSync(process.execPath, [program, 'modules'], { stdio: 'inherit', env });
  if (modules.status !== 0) throw new Error('the modules were not made');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === 'cache') await writeCache();
  else if (process.argv[2] === 'modules') await writeModules();
  else await writeBundle();
}
