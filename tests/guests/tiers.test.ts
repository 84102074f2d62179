import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('a run is the same on every tier, to the last byte, exit, register and word of memory', () => {
  test.each([
    ['demo', []],
    ['demo', ['--smp', '2', '--every', '99991']],
    ['privileged-64', []],
    ['privileged-32', []],
    ['privileged-64', ['--tdp', 'off', '--every', '997']],
    ['nested-vmx', ['--cpu', 'intel,+vmx', '--every', '9973']],
  ])('%s %j', (name, more) => {
    const script = ['scripts/compare-tiers.mjs', '--kernel', `guests/${name}/${name}.bin`, ...more];
    const tiers = ['--tiers', 'interpreter,compiler:1,compiler:500,lockstep:50'];
    const { stdout, stderr, status } = spawnSync('node', [...script, ...tiers], {
      cwd: root,
      encoding: 'utf8',
      timeout: 600_000,
    });
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^end +debug-exit 1\n/);
    // Of that each tier took part there is no doubt
    expect(stdout).toMatch(/interpreter: the same \(.*compiled 0,/);
    expect(stdout).toMatch(/compiler:1: the same \(.*compiled [1-9]/);
    expect(stdout).toMatch(/compiler:500: the same \(.*compiled [1-9]/);
    expect(stdout).toMatch(/lockstep:50: the same \(.*compared [1-9]/);
  });
});
