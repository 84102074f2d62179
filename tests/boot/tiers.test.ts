/** Debian's boot is the same run on every tier, and lockstep finds nothing in it. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { COMPILER_DEFAULTS } from '../../src/engine/tiers/compiler/compiler.ts';
import { debian, missing, Shell } from './debian.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const CLOUD = '.cache/debian/cloud';
/** Nanoseconds for which a thread has been on a CPU: the first number. proc(5). On a busy host the wall's clock tells nothing. */
const SCHEDSTAT = '/proc/thread-self/schedstat';
const threadMs = (): number => Number(readFileSync(SCHEDSTAT, 'latin1').split(' ')[0]) / 1e6;

describe.skipIf(missing())("Debian's boot", () => {
  test.each([
    ['interpreter,compiler,lockstep:500', '1'],
    ['interpreter,compiler:100', '2'],
  ])('on %s with %s CPUs is one and the same, to the last byte, exit, register and word of memory', (tiers, cpus) => {
    debian('cloud', 'initramfs');
    const options = ['--kernel', `${CLOUD}/vmlinuz`, '--initrd', `${CLOUD}/initramfs.cpio`, '--memory', '256'];
    const append = 'console=ttyS0 panic=-1 quiet cryptomgr.notests';
    const script = ['scripts/compare-tiers.mjs', ...options, '--append', append, '--smp', cpus, '--tiers', tiers];
    const ran = spawnSync('node', [...script, '--until', 'TERRARIUM-INIT-READY'], { cwd: root, encoding: 'utf8' });
    expect({ status: ran.status, stderr: ran.stderr }, ran.stdout).toEqual({ status: 0, stderr: '' });
    const [instructions] = /(?<=^instructions +)\d+/m.exec(ran.stdout)!;
    expect(Number(instructions)).toBeGreaterThan(3e8);
    for (const tier of tiers.split(',').slice(1))
      expect(ran.stdout).toMatch(new RegExp(`^${tier}: the same .*compiled [1-9]`, 'm'));
    if (tiers.includes('lockstep')) expect(ran.stdout).toMatch(/^lockstep:500: .*compared [1-9]\d{5}/m);
  });

  test.skipIf(!existsSync(SCHEDSTAT)).each([
    [COMPILER_DEFAULTS.threshold, 80],
    [200, 400],
  ])('is never held up for 50 ms by compiling: threshold %d', (jitThreshold, regions) => {
    const { kernel, initramfs } = debian('cloud', 'initramfs');
    const shell = new Shell(
      {
        kernel: { name: 'vmlinuz', bytes: kernel },
        commandLine: 'console=ttyS0 panic=-1 quiet cryptomgr.notests',
        accel: 'compiler',
        jitThreshold,
      },
      initramfs,
    );
    const compiler = shell.machine.engine.compiler!;
    compiler.clock = threadMs;
    shell.waitFor('TERRARIUM-INIT-READY');
    const { compiled, modules, ms, longestMs } = compiler.counters;
    console.log(
      `${compiled} regions in ${modules} pauses of ${ms.toFixed(0)} ms, the longest ${longestMs.toFixed(1)} ms`,
    );
    expect(compiled).toBeGreaterThan(regions);
    expect(longestMs).toBeGreaterThan(0);
    expect(longestMs).toBeLessThan(50);
  });
});
