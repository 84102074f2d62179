import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const hasGcc = !spawnSync('gcc', ['--version']).error && process.arch === 'x64';

describe('the guests of our own', () => {
  test('are what their sources and the manifest say', () => {
    const result = spawnSync('node', ['scripts/build-guests.mjs', '--check'], { cwd: root, encoding: 'utf8' });
    expect(result.stderr).toBe('');
    expect(result.status).toBe(0);
    console.log(result.stdout.trim());
  });

  test.skipIf(!hasGcc)("the demo's expected sums are what the real processor computes", () => {
    const folder = mkdtempSync(join(tmpdir(), 'terrarium-'));
    const binary = join(folder, 'native');
    const sources = ['guests/demo/native.c', 'guests/demo/workloads.c'];
    const built = spawnSync('gcc', ['-O1', '-o', binary, ...sources], { cwd: root, encoding: 'utf8' });
    expect(built.stderr).toBe('');
    const native = spawnSync(binary, { encoding: 'utf8' }).stdout.trim().split('\n');
    rmSync(folder, { recursive: true });
    const expected = readFileSync(join(root, 'guests/demo/expected.txt'), 'utf8');
    expect(native.length).toBe(8);
    for (const line of native) expect(expected).toContain(`${line} ok\n`);
  });
});

describe('terrarium runs each of them, and they print what they must', () => {
  const EXIT = 'isa-debug-exit,iobase=0xf4,iosize=0x4';

  test.each([
    ['hello-multiboot', ['-append', 'exit=7'], 15],
    ['demo', [], 1],
    ['privileged-64', [], 1],
    ['privileged-32', [], 1],
    ['privileged-32', ['-machine', 'tdp=off'], 1],
    ['nested-vmx', ['-cpu', 'intel,+vmx'], 1],
  ])('%s %j', (name, extra, status) => {
    const kernel = `guests/${name}/${name}.bin`;
    const options = ['run', '-kernel', kernel, '-nographic', '-no-reboot', '-device', EXIT, ...extra];
    const result = spawnSync('node', ['bin/terrarium.mjs', ...options], { cwd: root, encoding: 'utf8', input: '' });
    const expected = readFileSync(join(root, `guests/${name}/expected.txt`), 'utf8');
    expect(result.stdout.replaceAll('\r', '')).toBe(expected);
    expect(result.status).toBe(status);
  });
});
