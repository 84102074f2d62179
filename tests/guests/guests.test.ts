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
