/** Native code of earlier runs: who finds it, and that nothing else of a run depends on it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestFolder, root, terrarium } from './run.ts';

const CHILD = fileURLToPath(new URL('jit-cache-child.mjs', import.meta.url));
const isKnown = process.versions.node.startsWith('20.');

interface Told {
  /** Times, counts, output, trace. */
  readonly same: unknown;
  readonly contents: { readonly path: string; readonly modules: number };
  readonly found: {
    readonly hits: number;
    readonly misses: number;
    readonly refused: number;
    readonly recalled: number;
  };
  readonly counters: { readonly taken: number; readonly writes: number };
  /** Pages that earlier runs knew, what was left to the interpreter, and digests of the modules that were asked for. */
  readonly known: number;
  readonly interpreted: number;
  readonly asked: readonly string[];
}

const parsed = (stdout: string): Told => JSON.parse(stdout) as Told;

function runs(folder: string, more: readonly string[] = [], env: Record<string, string> = {}): Told {
  const { stdout, stderr } = spawnSync(process.execPath, [CHILD, folder, ...more], {
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...process.env, ...env },
  });
  expect(stderr).toBe('');
  return parsed(stdout);
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'terrarium-jit-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe.runIf(isKnown)('native code of earlier runs', () => {
  let without: Told['same'];
  beforeAll(() => {
    without = runs('off').same;
  });

  test('is there for the second process, which runs as the first and as one without', () => {
    const first = runs(folder);
    expect(first.found).toMatchObject({ hits: 0, refused: 0 });
    expect(first.counters.taken).toBeGreaterThan(2); // the core, and regions
    const second = runs(folder);
    expect(second.contents.modules).toBe(first.counters.taken);
    expect(second.found).toMatchObject({ hits: second.contents.modules, refused: 0 });
    expect(second.found.hits + second.found.misses).toBe(first.found.misses);
    expect(first.same).toEqual(without);
    expect(second.same).toEqual(without);
    expect(readdirSync(folder).map((name) => join(folder, name))).toEqual([second.contents.path]);
  });

  test('is written while a guest runs, too', () => {
    const killed = runs(folder, ['', 'demo', 'killed']);
    expect(killed.same).toEqual(without);
    expect(killed.counters.writes).toBeGreaterThan(0);
    const { found, same } = runs(folder);
    expect(found.hits).toBeGreaterThan(2);
    expect(same).toEqual(without);
  });

  test.each(['privileged-64', 'privileged-32', 'nested-vmx'])(
    'changes nothing about a guest that does what is rare: %s',
    (guest) => {
      const { same } = runs('off', ['', guest]);
      const first = runs(folder, ['', guest]);
      const second = runs(folder, ['', guest]);
      expect(first.same).toEqual(same);
      expect(second.same).toEqual(same);
      expect(second.found.recalled).toBeGreaterThan(first.found.recalled);
    },
  );

  describe('that knew what is hot', () => {
    const again = (guest = 'demo') => runs(folder, ['', guest, 'pages']);

    test('makes later ones compile early, and soon each the same modules as that before it', () => {
      const [first, second, third, fourth] = [again(), again(), again(), again()];
      expect([first.known, first.contents.modules]).toEqual([0, 0]);
      expect(second.known).toBeGreaterThan(0);
      expect(second.interpreted).toBeLessThan(first.interpreted / 2);
      // What is compiled shows what belongs to it
      expect(fourth.asked).toEqual(third.asked);
      expect(fourth.interpreted).toBe(third.interpreted);
      expect(fourth.found).toMatchObject({ refused: 0 });
      expect(fourth.found.hits).toBeGreaterThan(second.found.hits);
      for (const { same } of [first, second, third, fourth]) expect(same).toEqual(without);
    });

    test.each(['privileged-64', 'privileged-32', 'nested-vmx'])('changes nothing about a guest: %s', (guest) => {
      const { same } = runs('off', ['', guest]);
      for (let n = 0; n < 3; n += 1) expect(again(guest).same).toEqual(same);
    });

    test('is of no harm to another guest', () => {
      again('nested-vmx');
      expect(again().same).toEqual(without);
    });

    test('is not asked where the file is damaged', () => {
      const { contents } = again();
      const bytes = readFileSync(contents.path);
      for (let at = 88 + 112 * bytes.readUInt32LE(48); at < bytes.length; at += 20) bytes[at]! ^= 0x10;
      writeFileSync(contents.path, bytes);
      const told = again();
      expect(told.known).toBe(0);
      expect(told.same).toEqual(without);
      expect(again().known).toBeGreaterThan(0);
    });

    test('is what either of two processes at once has found out', async () => {
      const start = (guest: string) =>
        spawn(process.execPath, [CHILD, folder, '', guest, 'pages'], { stdio: ['ignore', 'pipe', 'inherit'] });
      await Promise.all(['demo', 'nested-vmx'].map((guest) => outputOf(start(guest))));
      expect(again().known).toBeGreaterThan(0);
      expect(again('nested-vmx').known).toBeGreaterThan(0);
    });
  });

  describe('is left alone', () => {
    let path: string;
    let modules: number;
    beforeEach(() => {
      const { contents, counters } = runs(folder);
      path = contents.path;
      modules = counters.taken;
    });
    /** Where the last native code ends: src/tools/jit-cache/cache-file.ts. */
    const endOfCode = (bytes: Buffer): number => {
      const [header, row, lengths] = [88, 112, 96];
      const rows = bytes.readUInt32LE(48);
      let at = header + row * rows;
      let end = 0;
      for (let n = 0; n < rows; n += 1) {
        const code = bytes.readUInt32LE(header + n * row + lengths + 4);
        at += bytes.readUInt32LE(header + n * row + lengths) + code;
        if (code > 0) end = at;
      }
      return end;
    };
    const isAsWithout = (told: Told) => {
      expect(told.same).toEqual(without);
      return expect(told.found);
    };

    test('where it is damaged, and replaced', () => {
      const bytes = readFileSync(path);
      const indexBytes = 88 + 112 * bytes.readUInt32LE(48);
      for (let at = indexBytes; at < bytes.length; at += 500) bytes[at]! ^= 0x10;
      writeFileSync(path, bytes);
      const told = runs(folder);
      isAsWithout(told).toMatchObject({ hits: 0, refused: modules });
      expect(told.counters.taken).toBeGreaterThan(2);
      isAsWithout(runs(folder)).toMatchObject({ hits: told.counters.taken });
    });

    test('where one module is damaged: the others serve', () => {
      const bytes = readFileSync(path);
      bytes[endOfCode(bytes) - 1]! ^= 1;
      writeFileSync(path, bytes);
      isAsWithout(runs(folder)).toMatchObject({ hits: modules - 1, refused: 1 });
    });

    test.each([0, 40, 87, 88, 300])('where the file ends after %i bytes', (bytes) => {
      truncateSync(path, bytes);
      isAsWithout(runs(folder)).toMatchObject({ hits: 0, refused: 0 });
    });

    test('where the file ends in the middle of a module: those before it serve', () => {
      truncateSync(path, endOfCode(readFileSync(path)) - 10);
      isAsWithout(runs(folder)).toMatchObject({ hits: modules - 1, refused: 0 });
    });

    test('where the index is damaged', () => {
      const bytes = readFileSync(path);
      bytes[100]! ^= 1;
      writeFileSync(path, bytes);
      isAsWithout(runs(folder)).toMatchObject({ hits: 0, refused: 0 });
    });

    test('where it is something else', () => {
      writeFileSync(path, 'not a file of ours\n'.repeat(100));
      isAsWithout(runs(folder)).toMatchObject({ hits: 0, refused: 0 });
    });

    test('where others may have written it', () => {
      chmodSync(path, 0o666);
      isAsWithout(runs(folder)).toMatchObject({ hits: 0, refused: 0 });
    });

    test('where V8 may be another one by an option of Node', () => {
      const told = runs(folder, [], { NODE_OPTIONS: '--disable-wasm-trap-handler' });
      isAsWithout(told).toMatchObject({ hits: 0, refused: 0 });
      expect(told.contents.path).not.toBe(path);
    });

    test('where V8 has other flags that it tells from code, and both kinds are kept', () => {
      const told = runs(folder, [], { NODE_OPTIONS: '--max-semi-space-size=4' });
      isAsWithout(told).toMatchObject({ hits: 0, refused: 0 });
      expect(existsSync(path)).toBe(true);
    });
  });

  test('is whole when two processes write it at once', async () => {
    const both = [0, 1].map(() => spawn(process.execPath, [CHILD, folder], { stdio: ['ignore', 'pipe', 'inherit'] }));
    const told = await Promise.all(both.map(async (child) => parsed(await outputOf(child))));
    for (const { same, counters } of told) {
      expect(same).toEqual(without);
      expect(counters.writes).toBe(1);
    }
    const { found, same, contents } = runs(folder);
    expect(same).toEqual(without);
    expect(found).toMatchObject({ hits: contents.modules, refused: 0 });
    expect(found.hits).toBeGreaterThanOrEqual(Math.min(...told.map(({ counters }) => counters.taken)));
    expect(readdirSync(folder)).toHaveLength(1);
  });

  test('has no more bytes than it may', () => {
    const { contents } = runs(folder, ['30000']);
    expect(statSync(contents.path).size).toBeLessThanOrEqual(30_000);
    const { found, same } = runs(folder, ['30000']);
    expect(found.hits + found.recalled).toBeGreaterThan(0);
    expect(same).toEqual(without);
  });

  test('is not there, and not missed, where nothing can be written', () => {
    const told = runs('/dev/null/terrarium');
    expect(told.same).toEqual(without);
    expect(told.counters.writes).toBe(0);
  });
});

describe('the core module that comes with the build', () => {
  const program = (body: string): string => {
    const file = join(folder, 'program.mjs');
    const bundle = JSON.stringify(join(root, 'bin/bundle.mjs'));
    writeFileSync(file, `import { loadBundle } from ${bundle};\nconst all = await loadBundle();\n${body}`);
    const { stdout, stderr } = spawnSync(process.execPath, [file], { encoding: 'utf8' });
    return stdout + stderr;
  };
  const MACHINE = '{ cpu: "intel", cpus: 1, ramBytes: 2 ** 29, epochMs: 0, accel';

  test.each(['interpreter', 'compiler'])('is what a machine generates, byte by byte: %s', (accel) => {
    const output = program(`
      let generated;
      const jitModules = {
        recall: () => undefined,
        keep: (...what) => { generated = what; },
        find: () => undefined,
        made: () => {},
      };
      new all.Machine(${MACHINE}: '${accel}', jitModules });
      const [name, { bytes, about }] = generated;
      const built = all.JitCache.open().recall(name);
      console.log(built.about === about, Buffer.from(bytes).equals(built.bytes), bytes.length > 50_000);`);
    expect(output).toBe('true true true\n');
  });

  test.runIf(isKnown).each(['interpreter', 'compiler'])('has native code: %s', (accel) => {
    const output = program(`
      const jitModules = all.JitCache.open();
      new all.Machine(${MACHINE}: '${accel}', jitModules });
      console.log(JSON.stringify(jitModules.counters));`);
    expect(JSON.parse(output)).toMatchObject({ recalled: 1, hits: 1, refused: 0 });
  });

  test('is not needed', () => {
    const output = program(`
      all.nameBuild('another', '/nowhere');
      const jitModules = all.JitCache.open();
      new all.Machine(${MACHINE}: 'compiler', jitModules });
      console.log(JSON.stringify(jitModules.counters));`);
    expect(JSON.parse(output)).toMatchObject({ recalled: 0, hits: 0, refused: 0 });
  });
});

describe('terrarium run', () => {
  const demo = join(root, 'guests/demo/demo.bin');
  const EXIT = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4', '-rtc', 'base=2026-01-01'];
  const HOT = ['-kernel', demo, ...EXIT, '-accel', 'compiler,threshold=500'];
  const files = () => readdirSync(folder).filter((name) => name.endsWith('.jit'));

  test('keeps native code in the folder that -jit-cache names, and prints the same with it', () => {
    const first = terrarium(['run', ...HOT, '-jit-cache', folder]);
    expect(files()).toHaveLength(isKnown ? 1 : 0);
    const second = terrarium(['run', ...HOT, '-jit-cache', folder]);
    const off = terrarium(['run', ...HOT, '-jit-cache', 'off']);
    expect(first.status).toBe(1);
    expect(second).toEqual(first);
    expect(off).toEqual(first);
  });

  test('makes no file with -jit-cache off, on the interpreter, or in lockstep', () => {
    const XDG_CACHE_HOME = folder;
    for (const more of [
      ['-jit-cache', 'off'],
      ['-accel', 'interpreter'],
      ['-accel', 'lockstep,from=1000000000'],
    ]) {
      const command = [join(root, 'bin/terrarium.mjs'), 'run', ...HOT, ...more];
      const { status } = spawnSync(process.execPath, command, { env: { ...process.env, XDG_CACHE_HOME } });
      expect({ more, status }).toEqual({ more, status: 1 });
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  test('tells in "info jit" what was there', () => {
    const ask = ['run', ...HOT, '-jit-cache', folder, '-S', '-monitor', 'stdio'];
    terrarium(['run', ...HOT, '-jit-cache', folder]);
    const { stdout } = terrarium(ask, 'info jit\nquit\n');
    if (!isKnown) expect(stdout).not.toContain('-jit-cache');
    else {
      expect(stdout).toContain(`in ${folder}/`);
      expect(stdout).toMatch(/asked for +[1-9]\d* modules: [1-9]\d* found, \d+ not, 0 of no use/);
    }
  });

  test.runIf(isKnown).each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    'keeps it in $XDG_CACHE_HOME/terrarium by default, also when %s ends it',
    async (signal) => {
      const { folder: guests, path } = guestFolder();
      try {
        const command = [join(root, 'bin/terrarium.mjs'), 'run', '-kernel', path('waitsForTicks'), '-monitor', 'none'];
        const env = { ...process.env, XDG_CACHE_HOME: folder };
        const child = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'ignore'] });
        // Ticks come as fast as they can, for nobody types: V8 compiles the core
        setTimeout(() => child.kill(signal), 3_000);
        await outputOf(child);
        expect(readdirSync(join(folder, 'terrarium'))).toHaveLength(1);
      } finally {
        rmSync(guests, { recursive: true });
      }
    },
  );

  test('wants to know where', () => {
    const { status, stderr } = terrarium(['run', '-kernel', demo, '--jit-cache=']);
    expect({ status, stderr }).toEqual({
      status: 2,
      stderr: 'terrarium: -jit-cache lacks its folder: write -jit-cache DIR, on or off.\n',
    });
  });
});

async function outputOf(child: ChildProcess): Promise<string> {
  let text = '';
  child.stdout!.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1');
  });
  await new Promise((resolve) => child.on('close', resolve));
  return text;
}
