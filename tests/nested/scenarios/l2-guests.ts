/** Guests under L1: 32-bit kernels, two at once, stopped ones, and hypervisors of their own. */
import { expect } from 'vitest';
import { debian } from '../../boot/debian.ts';
import { expectBench } from './kvm-options.ts';
import { COMPLAINTS, image, L1, l2Files } from './l1.ts';
import type { Scenario } from './table.ts';

const KERNELS_32 = ['686', '686-pae'] as const;
const QUIET = 'console=ttyS0,115200 cryptomgr.notests quiet';

/** What tells the two apart: without PAE the kernel knows no NX and reaches 4 GiB. */
function expect32Bit(l1: L1, flavour: (typeof KERNELS_32)[number]): string {
  const name = l1.run('uname -rm').trim();
  expect(name).toMatch(flavour === '686' ? /-686 i686$/ : /-686-pae i686$/);
  return name;
}

const loop = (name: string, times: number): string =>
  `${QUIET} TERRARIUM_RUN=\\"i=0; while [ \\$i -lt ${times} ]; do echo ${name} \\$i; i=\\$((i+1)); usleep 20000; done\\"`;
const printedBy = (name: string, text: string): number[] =>
  [...text.matchAll(new RegExp(`^${name} (\\d+)$`, 'gm'))].map((match) => Number(match[1]));
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

export const guestScenarios: readonly Scenario[] = [
  {
    name: '32-bit-l1',
    shows: "Debian's 32-bit kernels, without PAE and with it, run on the machine itself",
    run(say) {
      for (const flavour of KERNELS_32) {
        const { kernel, initramfs } = debian(flavour, 'l2-inner', ['--bare']);
        const l1 = new L1(say, {}, kernel, initramfs);
        l1.shell.waitFor('TERRARIUM-INIT-READY', 120);
        l1.shell.waitFor('~ #');
        say(expect32Bit(l1, flavour));
        l1.cost(flavour);
        l1.expectQuiet();
        l1.powerOff();
      }
    },
  },
  ...(['ept=1', 'ept=0'] as const).map(
    (option): Scenario => ({
      name: `32-bit-l2-${option.replace('=', '')}`,
      shows: `Debian's 32-bit kernels, without PAE and with it, are L2s under kvm_intel ${option}`,
      run(say) {
        const l1 = L1.boot(say, { files: KERNELS_32.flatMap((flavour) => l2Files(flavour, `/${flavour}`)) });
        l1.loadKvm(option);
        for (const flavour of KERNELS_32) {
          l1.startL2('--mem 256', { folder: `/${flavour}` });
          say(expect32Bit(l1, flavour));
          l1.exerciseL2();
          l1.endL2();
          l1.cost(`${flavour} with ${option}`);
        }
        l1.powerOff();
      },
    }),
  ),
  {
    name: 'two',
    shows: 'two L2s take turns to the end, one of them stopped and continued by L1 on its way',
    run(say) {
      const l1 = L1.boot(say);
      const TIMES = 40;
      const until = (condition: string): string => `until ${condition}; do usleep 10000; done`;
      for (const name of ['one', 'two']) {
        const files = '--kernel /l2/vmlinuz --initrd /l2/initramfs.cpio --mem 192';
        l1.shell.type(`/vmm run ${files} --append "${loop(name, TIMES)}" < /dev/null > /tmp/${name} & ${name}=$!`);
      }
      const other = l1.run(`${until('grep -q "^one 10" /tmp/one')}; kill -STOP $one; grep -c "^two" /tmp/two`, 200);
      say(`when one was stopped at line 10, two was at ${other.trim()}`);
      expect(Number(other)).toBeGreaterThan(2);
      expect(Number(other)).toBeLessThan(TIMES);
      l1.run(
        `cp /tmp/one /tmp/stopped; ${until('grep -q power-off /tmp/two')}; sleep 1; cmp /tmp/stopped /tmp/one`,
        200,
      );
      l1.run(`kill -CONT $one; ${until('grep -q power-off /tmp/one')}`, 200);
      l1.cost('two L2s');
      for (const name of ['one', 'two']) {
        const printed = l1.run(`cat /tmp/${name}`).replaceAll('\r', '');
        expect(printedBy(name, printed), name).toEqual(upTo(TIMES));
        expect(printed).toContain('small-vmm: power-off');
        expect(printed).not.toMatch(COMPLAINTS);
      }
      l1.expectQuiet();
      l1.powerOff();
    },
  },
  {
    name: 'l3',
    shows: "an L2 Debian loads kvm_intel and runs micro-guests, and Debian again, as L3, with L1's EPT and without",
    run(say) {
      const { path } = image({ files: l2Files('cloud', '/l2') });
      const [[kernel]] = l2Files('cloud') as [[string, string]];
      const l1 = L1.boot(
        say,
        {
          files: [
            [kernel, '/l2/vmlinuz'],
            [path, '/l2/initramfs.cpio'],
          ],
        },
        { ramBytes: 2048 * 2 ** 20 },
      );
      for (const option of ['ept=1', 'ept=0']) {
        l1.loadKvm(option);
        l1.startL2('--mem 768');
        l1.run('chmod +x /vmm');
        expect(l1.run('cat /sys/module/kvm_intel/parameters/ept').trim()).toBe(option === 'ept=1' ? 'Y' : 'N');
        l1.cost(`L2 with kvm_intel under ${option}`);
        expectBench(l1.run('/vmm bench 20', 300));
        l1.cost('micro-guests as L3');
        if (option === 'ept=1') {
          l1.startL2('--mem 192', { seconds: 300 });
          l1.exerciseL2();
          l1.endL2();
          l1.cost('Debian as L3');
        }
        l1.endL2();
      }
      l1.powerOff();
    },
  },
];
