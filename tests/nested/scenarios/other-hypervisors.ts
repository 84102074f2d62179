/** Hypervisors that are not ours, from Debian's packages: QEMU over L1's KVM, and Xen as L1. */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect } from 'vitest';
import { debian, packageFile } from '../../boot/debian.ts';
import { COMPLAINTS, image, L1, l2Files } from './l1.ts';
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

/** On microvm the guest restarts once: its firmware is in ROM at the reset vector, where KVM emulates nothing. */
const QEMU_MACHINES = [
  { type: 'microvm', seabios: false, restarts: true },
  { type: 'pc', seabios: true, restarts: false },
  { type: 'q35', seabios: true, restarts: false },
] as const;

const XEN_BIN = '/usr/lib/xen-4.17/bin';
const XEN_TOOLS = {
  flavour: 'generic',
  modules: ['xenfs', 'xen-privcmd', 'xen-evtchn', 'xen-gntdev'],
  packages: ['xen-utils-4.17'],
  takes: ['xl', 'xenstored', 'xenconsoled', 'xenconsole', 'xen-init-dom0']
    .map((name) => `${XEN_BIN}/${name}`)
    .concat('/lib/x86_64-linux-gnu/libgcc_s.so.1'),
} as const;
/** What /etc/init.d/xen of xen-utils-common does. Xen keeps at most 128 characters that are typed at once. */
const XEN_DAEMONS = [
  'mount -t xenfs xenfs /proc/xen; mkdir /var; ln -s /run /var/run',
  'cd /var; mkdir -p lib/xenstored lib/xen log/xen lock /run/xen; cd',
  `export PATH=$PATH:${XEN_BIN}`,
  'xenstored --pid-file /run/xenstored.pid',
  'xen-init-dom0',
  'xenconsoled --pid-file=/run/xenconsoled.pid',
];

/** Xen on the machine itself, as a Multiboot kernel, with a dom0 at its shell. */
function startXen(
  say: (line: string) => void,
  dom0: { readonly kernel: Uint8Array; readonly initramfs: Uint8Array },
  dom0MiB: number,
  ramBytes = 1024 * 2 ** 20,
) {
  const xen = gunzipSync(readFileSync(packageFile('xen-hypervisor-4.17-amd64', 'boot/xen-4.17-amd64.gz')));
  const l1 = new L1(
    say,
    {
      ramBytes,
      modules: [
        { bytes: dom0.kernel, commandLine: 'vmlinuz console=hvc0 cryptomgr.notests' },
        { bytes: dom0.initramfs, commandLine: 'initrd' },
      ],
    },
    new Uint8Array(xen),
    dom0.initramfs,
    `console=com1 com1=115200,8n1 loglvl=all noreboot dom0_mem=${dom0MiB}M`,
  );
  const boot = l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
  l1.shell.waitFor('~ #');
  l1.cost('dom0 at its shell');
  expect(boot).not.toMatch(/Panic|Xen BUG|\(XEN\).*WARN/);
  return { l1, boot };
}

export const otherHypervisors: readonly Scenario[] = [
  ...QEMU_MACHINES.map(
    ({ type, seabios, restarts }): Scenario => ({
      name: `qemu-${type}`,
      shows: `Debian's QEMU starts Debian on its machine ${type} with -accel kvm in L1`,
      run(say) {
        const l1 = L1.boot(say, { ...QEMU, files: l2Files('cloud') }, { ramBytes: 1536 * 2 ** 20 });
        say(l1.run('qemu-system-x86_64 --version').split('\n')[0]!);
        l1.shell.type(
          `qemu-system-x86_64 -M ${type} -accel kvm -cpu host -smp 2 -m 256 -nographic -nodefaults ` +
            '-serial mon:stdio -kernel /l2/vmlinuz -initrd /l2/initramfs.cpio ' +
            '-append "console=ttyS0,115200 cryptomgr.notests quiet"',
        );
        const boot = l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
        expect(boot.includes('SeaBIOS')).toBe(seabios);
        l1.shell.waitFor('~ #');
        l1.cost('L2 at its shell');
        l1.exerciseL2(2);
        say(l1.run('dmesg | grep -E "DMI:|Hypervisor detected"').trim());
        if (restarts) {
          l1.shell.type('reboot -f');
          l1.shell.waitFor('reboot: Restarting system');
          expect(l1.shell.waitFor('TERRARIUM-INIT-READY', 120)).not.toMatch(/emulation failure|KVM internal error/);
          l1.shell.waitFor('~ #');
          expect(l1.run('nproc')).toBe('2\n');
        }
        l1.shell.type('poweroff -f');
        l1.shell.waitFor('reboot: Power down');
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
      const { l1, boot } = startXen(say, debian('generic', 'l2-inner', ['--bare']), 512);
      say(boot.match(/Xen version.*/)![0]);
      say(boot.match(/VMX: Supported advanced features:[\s\S]*?HVM: HAP page sizes.*/)![0].replaceAll(/\(XEN\) /g, ''));
      expect(boot).toContain('HVM: VMX enabled');
      expect(l1.run('cat /sys/hypervisor/type').trim()).toBe('xen');
      l1.expectQuiet();
    },
  },
  {
    name: 'xen-domu',
    // Debian's Xen is built without shadow paging: hap=0 is refused
    shows: 'Debian is a PVH domain of Xen with two CPUs, with EPT',
    run(say) {
      const files = l2Files('generic');
      const { l1 } = startXen(say, image({ ...XEN_TOOLS, files }), 1024, 2048 * 2 ** 20);
      for (const command of XEN_DAEMONS) l1.run(command);
      const config = {
        name: 'domu',
        type: 'pvh',
        memory: 256,
        vcpus: 2,
        kernel: '/l2/vmlinuz',
        ramdisk: '/l2/initramfs.cpio',
        extra: 'console=hvc0 cryptomgr.notests quiet',
        on_reboot: 'destroy',
      };
      for (const [name, value] of Object.entries(config)) {
        l1.run(`echo '${name}=${JSON.stringify(value)}' >> domu.cfg`);
      }
      l1.shell.type('xl create -c domu.cfg');
      const boot = l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
      expect(boot).not.toMatch(COMPLAINTS);
      l1.shell.waitFor('~ #');
      l1.cost('domU at its shell');
      l1.exerciseL2(2);
      say(l1.run('dmesg | grep -E "Hypervisor detected|Booting paravirtualized"').trim());
      // What the domain says last need not reach its console: xl destroys it as soon as it is down
      l1.shell.type('poweroff -f');
      l1.shell.waitFor('poweroff -f');
      l1.shell.waitFor('~ #');
      l1.run('sleep 2');
      expect(l1.run('cat /var/log/xen/xl-domu.log')).toMatch(/has shut down, reason code 0 [\s\S]*Done\. Exiting now/);
      expect(l1.run('xl list').match(/^Domain-0 |^domu /gm)).toEqual(['Domain-0 ']);
      l1.cost('domU exercised and ended');
      l1.expectQuiet();
    },
  },
];
