/**
 * Debian with its unmodified KVM as L1: our own small hypervisor (guests/small-vmm) runs micro-guests in every mode of
 * the processor there, and boots the same Debian as L2 to a shell.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { debian, missing, Shell } from '../boot/debian.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const VMM = join(ROOT, 'guests/small-vmm/small-vmm.bin');
const COMMAND_LINE = 'console=ttyS0,115200 cryptomgr.notests quiet';
const MODES = ['real', 'protected', '32-bit', 'PAE', 'long'];
const KINDS = ['cpuid', 'out', 'hlt', 'touch'];

/** What L1 or L2 prints when something under it is wrong. */
const COMPLAINTS = /WARNING: CPU|BUG:|Oops|Call Trace|unchecked MSR|soft lockup|kvm.*(unhandled|error|failed)/i;

/** An L1 with kvm_intel loaded, /vmm, and in /l2 what it boots. */
function l1(options: { readonly cpus?: number } = {}): Shell {
  const inner = '.cache/debian/cloud';
  debian('cloud', 'l2-inner', ['--bare']);
  const hash = createHash('sha256').update(readFileSync(VMM)).digest('hex').slice(0, 8);
  const { kernel, initramfs } = debian('cloud', `l1-${hash}`, [
    ...['--bare', '--module', 'kvm-intel'],
    ...['--add', `${VMM}:/vmm`],
    ...['--add', `${join(ROOT, inner, 'vmlinuz')}:/l2/vmlinuz`],
    ...['--add', `${join(ROOT, inner, 'l2-inner.cpio')}:/l2/initramfs.cpio`],
  ]);
  const shell = new Shell(
    { ramBytes: 1024 << 20, kernel: { name: 'vmlinuz', bytes: kernel }, commandLine: COMMAND_LINE, ...options },
    initramfs,
  );
  shell.waitFor('TERRARIUM-INIT-READY');
  shell.waitFor('~ #');
  expect(shell.command('chmod +x /vmm')).toMatch(/<0>$/);
  return shell;
}

function expectBench(printed: string): void {
  const lines = printed.split('\n').filter((line) => line.includes(' ticks each'));
  expect(lines.map((line) => line.split(/ +/).slice(0, 2).join(' '))).toEqual(
    MODES.flatMap((mode) => KINDS.map((kind) => `${mode} ${kind}`)),
  );
  expect(printed).not.toMatch(/WRONG|FAILED/);
  expect(printed).toContain('small-vmm: bench all right\n');
  expect(printed).toMatch(/<0>$/);
}

describe.skipIf(missing())("Debian's KVM", () => {
  test('offers what we grant, and micro-guests run: with EPT, without unrestricted guest, with shadow paging', () => {
    const shell = l1();
    const parameters = 'cd /sys/module/kvm_intel/parameters; grep . ept unrestricted_guest vpid; cd';
    expect(shell.command(parameters)).toContain('ept:Y\nunrestricted_guest:Y\nvpid:Y\n');
    expectBench(shell.command('/vmm bench 50'));
    for (const [option, granted] of [
      ['unrestricted_guest=0', 'ept:Y\nunrestricted_guest:N\nvpid:Y\n'],
      ['ept=0 vpid=0', 'ept:N\nunrestricted_guest:N\nvpid:N\n'],
    ] as const) {
      shell.command(`rmmod kvm_intel; modprobe kvm_intel ${option}`);
      expect(shell.command(parameters)).toContain(granted);
      expectBench(shell.command('/vmm bench 50'));
    }
    expect(shell.command('dmesg')).not.toMatch(COMPLAINTS);
  });

  test.each([
    { cpus: 1, l2Cpus: 1, option: 'ept=1' },
    { cpus: 1, l2Cpus: 2, option: 'ept=1' },
    { cpus: 2, l2Cpus: 2, option: 'ept=1' },
    { cpus: 1, l2Cpus: 1, option: 'ept=0' },
  ])('an L1 with $cpus CPUs and kvm_intel.$option boots Debian with $l2Cpus to a shell', ({ cpus, l2Cpus, option }) => {
    const shell = l1({ cpus });
    shell.command(`rmmod kvm_intel; modprobe kvm_intel ${option}`);
    const files = '--kernel /l2/vmlinuz --initrd /l2/initramfs.cpio';
    shell.type(`/vmm run ${files} --mem 256 --smp ${l2Cpus} --append "${COMMAND_LINE}"`);
    const boot = shell.waitFor('TERRARIUM-INIT-READY', 120) + shell.waitFor('~ #');
    expect(boot).not.toMatch(COMPLAINTS);
    expect(shell.command('nproc')).toContain(`\n${l2Cpus}\n`);
    expect(shell.command('grep -c hypervisor /proc/cpuinfo')).toContain(`\n${l2Cpus}\n`);
    expect(shell.command('dmesg | grep "Hypervisor detected"')).toContain('KVM');
    const forks = 'i=0; while [ $i -lt 20 ]; do /bin/true; i=$((i+1)); done; echo forked $i';
    expect(shell.command(forks, 120)).toContain('forked 20');
    expect(shell.command('dmesg')).not.toMatch(COMPLAINTS);
    shell.type('poweroff -f');
    shell.waitFor('small-vmm: power-off');
    shell.waitFor('~ #');
    expect(shell.command('dmesg')).not.toMatch(COMPLAINTS);
    shell.type('poweroff');
    shell.end();
    expect(shell.machine.ending).toMatchObject({ kind: 'power-off', status: 0 });
  });
});
