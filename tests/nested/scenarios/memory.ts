/** What L1 does to the memory of its guests while they run. */
import { expect } from 'vitest';
import { L1 } from './l1.ts';
import type { Scenario } from './table.ts';

/** Sum over files of /sys or lines of /proc/vmstat. */
const vmstat = (l1: L1, name: string): number => Number(l1.run(`grep "^${name} " /proc/vmstat`).split(' ')[1]);

/** In L2: a file of random bytes, whose sum must stay what it was. */
const makeFile = (l1: L1, mib: number): string =>
  l1.run(`dd if=/dev/urandom of=/tmp/random bs=1M count=${mib} 2>/dev/null; md5sum /tmp/random`, 300);
const sumFile = (l1: L1): string => l1.run('md5sum /tmp/random', 300);

export const memoryScenarios: readonly Scenario[] = [
  ...[
    { name: 'memory-map', options: {}, ci: true as const, parameters: ['', 'ept=0', 'pml=0', 'eptad=0'] },
    { name: 'memory-map-tdp-off', options: { tdp: false }, parameters: [''] },
    { name: 'memory-map-smp', options: { cpus: 2 }, parameters: ['', 'ept=0'] },
  ].map(
    ({ name, options, parameters, ...ci }): Scenario => ({
      name,
      ...ci,
      shows: 'a guest loses nothing while L1 logs, deletes, protects, moves, replaces and swaps its memory',
      run(say) {
        const l1 = L1.boot(say, {}, options);
        for (const parameter of parameters) {
          l1.loadKvm(parameter);
          const printed = l1.run('/vmm memory 3');
          say(printed.trim());
          expect(printed).toContain('small-vmm: memory all right: 3 rounds');
          l1.cost(`memory map with "${parameter}"`);
        }
        l1.expectQuiet();
        l1.powerOff();
      },
    }),
  ),
  {
    name: 'dirty-log',
    shows: 'Debian runs as L2 while L1 turns dirty logging on and off every 10 ms',
    run(say) {
      const l1 = L1.boot(say);
      for (const option of ['', 'pml=0', 'ept=0']) {
        l1.loadKvm(option);
        l1.startL2('--mem 256 --smp 2 --log-dirty 10');
        l1.exerciseL2(2);
        // KVM passes x86-64-v3 on, and L2's XSETBV works: Linux would leave AVX out otherwise
        expect(l1.run('grep -c " fma .* avx .* bmi1 avx2 .* bmi2 " /proc/cpuinfo')).toBe('2\n');
        const sum = makeFile(l1, 16);
        expect(sumFile(l1)).toBe(sum);
        const [, times, pages] = l1.endL2().match(/disturbed (\d+) times, (\d+) dirty pages/)!;
        say(`"${option}": ${times} changes, ${pages} dirty pages`);
        expect(Number(times)).toBeGreaterThan(50);
        expect(Number(pages)).toBeGreaterThan(1000);
        l1.cost(`L2 with "${option}"`);
      }
      l1.powerOff();
    },
  },
  {
    name: 'swap',
    shows: 'Debian is an L2 whose RAM L1 swaps out again and again, and keeps its files',
    run(say) {
      const l1 = L1.boot(say, { modules: ['kvm-intel', 'lzo-rle', 'zram'] }, { ramBytes: 512 * 2 ** 20 });
      l1.run('echo 400M > /sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0');
      for (const option of ['', 'ept=0']) {
        l1.loadKvm(option);
        const [out, back] = [vmstat(l1, 'pswpout'), vmstat(l1, 'pswpin')];
        l1.startL2('--mem 192 --page-out 200');
        const sum = makeFile(l1, 24);
        l1.run('sleep 1');
        expect(sumFile(l1)).toBe(sum);
        l1.exerciseL2();
        l1.endL2();
        const swapped = [vmstat(l1, 'pswpout') - out, vmstat(l1, 'pswpin') - back] as const;
        say(`"${option}": ${swapped[0]} pages went to swap, ${swapped[1]} came back`);
        expect(swapped[0]).toBeGreaterThan(10_000);
        expect(swapped[1]).toBeGreaterThan(5_000);
        l1.cost(`L2 with "${option}"`);
      }
      l1.powerOff();
    },
  },
  {
    name: 'ksm',
    shows: "Debian is an L2 whose equal pages L1's KSM merges, and keeps its files",
    run(say) {
      const l1 = L1.boot(say);
      l1.run('cd /sys/kernel/mm/ksm; echo 5000 > pages_to_scan; echo 20 > sleep_millisecs; echo 1 > run; cd');
      for (const option of ['', 'ept=0']) {
        l1.loadKvm(option);
        l1.startL2('--mem 192 --merge 1');
        // Two equal files, so that there is something to merge; then one of them changes
        const sum = makeFile(l1, 8);
        l1.run('cp /tmp/random /tmp/same; sleep 5');
        l1.run('dd if=/dev/zero of=/tmp/same bs=1M count=4 conv=notrunc');
        expect(sumFile(l1)).toBe(sum);
        l1.exerciseL2();
        l1.endL2();
        const merged = Number(l1.run('cat /sys/kernel/mm/ksm/full_scans'));
        say(`"${option}": ${merged} full scans, ${vmstat(l1, 'cow_ksm')} pages copied because they were written to`);
        expect(merged).toBeGreaterThan(1);
        expect(vmstat(l1, 'cow_ksm')).toBeGreaterThan(1000);
        l1.cost(`L2 with "${option}"`);
      }
      l1.powerOff();
    },
  },
];
