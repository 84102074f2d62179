/** What the command line runs: one file that is made of src, and the code cache beside it. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const BUNDLE = 'tools/bundle/terrarium.cjs';
const CACHE = 'tools/bundle/terrarium.cache';

/** Runs `body`, which has `exports` and `script` of the bundle in a folder like dist; gives what it writes. */
function loaded(dist: string, body: string): string {
  const program = `
    import { loadScript } from ${JSON.stringify(join(ROOT, 'bin/bundle.mjs'))};
    const { exports, script } = await loadScript(${JSON.stringify(dist)});
    ${body}`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    encoding: 'utf8',
  });
  return stdout + stderr;
}
const REJECTED = 'console.log(script.cachedDataRejected);';

test('the code cache of the build is one that Node takes', () => {
  expect(loaded(join(ROOT, 'dist'), REJECTED)).toBe('false\n');
});

test("a stack trace of the command line's names files and lines of src", () => {
  const kernel = '{ name: "no kernel", bytes: new Uint8Array(64) }';
  const options = `{ cpu: "intel", cpus: 1, ramBytes: 2 ** 24, epochMs: 0, kernel: ${kernel} }`;
  const stack = loaded(
    join(ROOT, 'dist'),
    `try { new exports.Machine(${options}); } catch (error) { console.log(error.stack); }`,
  );
  const [, file, line] = /\n {4}at .*?(\/\S+\/src\/pc\/boot\/\S+\.ts):(\d+):\d+/.exec(stack) ?? [];
  expect(file, stack).toBeDefined();
  expect(readFileSync(file!, 'utf8').split('\n')[Number(line) - 1]).toContain('new UserError(');
  expect(stack).not.toContain('terrarium.cjs');
});

describe('a build elsewhere', () => {
  let dist: string;
  beforeAll(() => {
    dist = mkdtempSync(join(tmpdir(), 'terrarium-bundle-'));
    mkdirSync(join(dist, 'tools/bundle'), { recursive: true });
    for (const file of ['tools/v8-flags.js', BUNDLE]) copyFileSync(join(ROOT, 'dist', file), join(dist, file));
    writeFileSync(join(dist, 'package.json'), '{ "type": "module" }');
  });
  afterAll(() => rmSync(dist, { recursive: true }));
  const works = `${REJECTED} console.log(await exports.main(['info', 'limits', '--json']) === 0 ? 'works' : 'fails');`;

  test('works without a code cache', () => {
    expect(loaded(dist, works)).toMatch(/^undefined\n.*works\n$/s);
  });

  test('is not offered the code cache of another', () => {
    const cache = readFileSync(join(ROOT, 'dist', CACHE));
    cache.write('another build   ', 0, 'latin1');
    writeFileSync(join(dist, CACHE), cache);
    expect(loaded(dist, works)).toMatch(/^undefined\n.*works\n$/s);
  });

  test('works with a code cache that V8 refuses', () => {
    const cache = readFileSync(join(ROOT, 'dist', CACHE));
    writeFileSync(join(dist, CACHE), cache.subarray(0, cache.length >> 1));
    expect(loaded(dist, works)).toMatch(/^true\n.*works\n$/s);
  });
});
