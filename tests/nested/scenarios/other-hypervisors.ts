/** Hypervisors that are not ours, from Debian's packages: QEMU over L1's KVM, and Xen as L1. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect } from 'vitest';
import { debian, packageFile } from '../../boot/debian.ts';
import { L1, l2Files } from './l1.ts';
import type { Scenario } from './table.ts';

const QEMU = {
  packages: ['qemu-system-x86'],
  takes: [
    '/usr/bin/qemu-system-x86_64',
    '/usr/share/seabios/bios-256k.bin',
    '/usr/share/qemu/bios-microvm.bin',
    '/usr/share/qemu/qboot.rom',
    '/usr/share/qemu/linuxboot_dma.bin',
    '/usr/share/qemu/kvmvapic.bin',
  ],
};

/** How each ends. microvm is ended by QEMU's own key: a guest's reset leaves it in its firmware (with other peers, too). */
const QEMU_MACHINES = [
  { type: 'microvm', end: '\u0001x', last: 'QEMU: Terminated', seabios: false },
  { type: 'pc', end: 'poweroff -f', last: 'reboot: Power down', seabios: true },
  { type: 'q35', end: 'poweroff -f', last: 'reboot: Power down', seabios: true },
] as const;

export const otherHypervisors: readonly Scenario[] = [
  ...QEMU_MACHINES.map(
    ({ type, end, last, seabios }): Scenario => ({
      name: `qemu-${type}`,
      shows: `Debian's QEMU starts Debian on its machine ${type} with -accel kvm in L1`,
      run(say) {
        const l1 = L1.boot(say, { ...QEMU, files: l2Files('cloud') }, { ramBytes: 1536 * 2 ** 20 });
        say(l1.run('qemu-system-x86_64 --version').split('\n')[0]!);
        l1.shell.type(
          `qemu-system-x86_64 -M ${type} -accel kvm -cpu host -smp 2 -m 256 -nographic -nodefaults -no-reboot ` +
            '-serial mon:stdio -kernel /l2/vmlinuz -initrd /l2/initramfs.cpio ' +
            '-append "console=ttyS0,115200 cryptomgr.notests quiet"',
        );
        const boot = l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
        expect(boot.includes('SeaBIOS')).toBe(seabios);
        l1.shell.waitFor('~ #');
        l1.cost('L2 at its shell');
        l1.exerciseL2(2);
        say(l1.run('dmesg | grep -E "DMI:|Hypervisor detected"').trim());
        l1.shell.type(end);
        l1.shell.waitFor(last);
        l1.shell.waitFor('~ #');
        l1.cost('L2 exercised and ended');
        l1.expectQuiet();
        l1.powerOff();
      },
    }),
  ),
  {
    name: 'xen-dom0',
    shows: 'Xen starts as a Multiboot kernel, finds VMX whole, and runs Debian as its dom0',
    run(say) {
      const xen = gunzipSync(readFileSync(packageFile('xen-hypervisor-4.17-amd64', 'boot/xen-4.17-amd64.gz')));
      const dom0 = debian('generic', 'l2-inner', ['--bare']);
      const l1 = new L1(
        say,
        {
          modules: [
            { bytes: dom0.kernel, commandLine: 'vmlinuz console=hvc0 cryptomgr.notests' },
            { bytes: dom0.initramfs, commandLine: 'initrd' },
          ],
        },
        new Uint8Array(xen),
        dom0.initramfs,
        'console=com1 com1=115200,8n1 loglvl=all noreboot dom0_mem=512M',
      );
      const boot = l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
      l1.shell.waitFor('~ #');
      l1.cost('dom0 at its shell');
      say(boot.match(/Xen version.*/)![0]);
      say(boot.match(/VMX: Supported advanced features:[\s\S]*?HVM: HAP page sizes.*/)![0].replaceAll(/\(XEN\) /g, ''));
      expect(boot).toContain('HVM: VMX enabled');
      expect(boot).not.toMatch(/Panic|Xen BUG|\(XEN\).*WARN/);
      expect(l1.run('cat /sys/hypervisor/type').trim()).toBe('xen');
      l1.expectQuiet();
    },
  },
];
