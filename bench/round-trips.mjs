/**
 * A guest leaves for its hypervisor and comes back, by CPU time of the machine under both: the same images on Terrarium,
 * and on Bochs (VMX) and QEMU TCG (SVM).
 *
 *   bare    a loop of our own: guests/nested-vmx, or bench/guest/svm-trips.c where there is no VMX
 *   linux   Debian's kernel with its KVM: CPUID handled in the kernel's module, OUT in user space (guests/small-vmm)
 *   l3      KVM in KVM: CPUID in the guest of the inner one. Every exit of L3 is several of L2. Bochs needs hours for its
 *           two boots on a busy host: --machines without it
 */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildGuest, GUESTS } from '../scripts/build-guests.mjs';
import { fetchDebianKernel } from '../scripts/fetch-debian-kernel.mjs';
import { checkout, MACHINES, machinesHere } from './lib/machines.mjs';
import { table } from './lib/report.mjs';

export const PATHS = ['bare', 'linux', 'l3'];

/** Round trips between two lines; and how many such measurements, of which the least counts. */
const TRIPS = { bare: 20_000, cpuid: 20_000, out: 4_000, l3: 10_000 };
const MEASUREMENTS = { bare: 12, cpuid: 6, out: 5, l3: 5 };
/**
 * Round trips before the first measurement, on every machine: code has then run often enough for the compiler tier
 * (`threshold=`, 10,000 by default), and V8 has had its say. Of `bare` the first measurements are that.
 */
const WARM_UP = { cpuid: 60_000, out: 40_000, l3: 60_000 };
/** Bochs takes minutes for a boot in a boot. */
const SECONDS = { bare: 300, linux: 1_800, l3: 7_200 };

const cache = process.env.TERRARIUM_CACHE ?? join(checkout, '.cache');
const QUIET = 'console=ttyS0,115200 cryptomgr.notests quiet';

// Not checked in, for nothing but this starts it
GUESTS['svm-trips'] = {
  bits: 64,
  sources: ['lib/long-mode.S', '../bench/guest/svm-trips.c'],
  flags: ['-m64', '-mno-red-zone', '-mcmodel=small', '-march=x86-64', '-mgeneral-regs-only'],
};

export async function roundTrips({ rounds, machines, kernels = PATHS }) {
  const names = machinesHere(machines);
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-trips-'));
  const least = {};
  try {
    const guests = prepare(folder, kernels);
    for (let round = 0; round < rounds; round += 1) {
      for (const path of kernels) {
        for (const name of names) {
          if (MACHINES[name].slow && round > 0) continue;
          for (const [what, us] of Object.entries(await measure(path, name, guests))) {
            least[what] ??= {};
            least[what][name] = Math.min(us, least[what][name] ?? Number.POSITIVE_INFINITY);
            console.log(`${what}, ${MACHINES[name].label}: ${us.toFixed(2)} µs`);
          }
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const of = (us, interpreter) => (interpreter === undefined ? '' : ` (${(us / interpreter).toFixed(2)})`);
  const rows = Object.entries(least).map(([what, us]) => [
    what,
    ...names.map((name) => (name in us ? us[name].toFixed(2) + of(us[name], us.interpreter) : '')),
  ]);
  console.log(table(['µs of CPU a round trip (of interpreter)', ...names.map((name) => MACHINES[name].label)], rows));
  const rounded = (us) => Object.fromEntries(Object.entries(us).map(([name, n]) => [name, Math.round(n * 100) / 100]));
  return { rounds, loops: Object.fromEntries(Object.entries(least).map(([what, us]) => [what, rounded(us)])) };
}

// ---- images ------------------------------------------------------------------------------------------------------------

function prepare(folder, paths) {
  const guests = {
    vmx: join(checkout, 'guests/nested-vmx/nested-vmx.bin'),
    svm: join(folder, 'svm-trips.bin'),
  };
  writeFileSync(guests.svm, buildGuest('svm-trips'));
  if (!paths.includes('linux') && !paths.includes('l3')) return guests;
  const debian = (name, script, adds) => {
    const trips = join(folder, name);
    writeFileSync(trips, script);
    chmodSync(trips, 0o755);
    const vmm = join(checkout, 'guests/small-vmm/small-vmm.bin');
    return fetchDebianKernel({
      flavour: 'cloud',
      load: ['kvm-intel', 'kvm-amd'],
      adds: [{ host: vmm, guest: '/vmm' }, { host: trips, guest: '/trips' }, ...adds],
      packages: [],
      takes: [],
      strip: 'none',
      bare: true,
      name,
      cache: join(cache, 'debian'),
      refresh: false,
    });
  };
  const l2 = debian('trips-l2', script({ cpuid: [TRIPS.l3, MEASUREMENTS.l3, WARM_UP.l3] }), []);
  guests.linux = debian(
    'trips-l1',
    script({
      cpuid: [TRIPS.cpuid, MEASUREMENTS.cpuid, WARM_UP.cpuid],
      out: [TRIPS.out, MEASUREMENTS.out, WARM_UP.out],
    }),
    [],
  );
  guests.l3 = debian(
    'trips-l1-of-l2',
    `#!/bin/sh
exec /vmm run --kernel /l2/vmlinuz --initrd /l2/initramfs.cpio --mem 256 --append "${QUIET} TERRARIUM_RUN=/trips"
`,
    [
      { host: l2.kernel, guest: '/l2/vmlinuz' },
      { host: l2.initramfs, guest: '/l2/initramfs.cpio' },
    ],
  );
  return guests;
}

const script = (kinds) => `#!/bin/sh
${Object.entries(kinds)
  .map(
    ([kind, [trips, times, warmUp]]) =>
      `/vmm trips ${kind} ${warmUp}\nfor i in $(seq ${times}); do /vmm trips ${kind} ${trips}; done`,
  )
  .join('\n')}
`;

// ---- measuring -----------------------------------------------------------------------------------------------------------

/** @returns  What was measured → µs. */
async function measure(path, name, guests) {
  if (path === 'bare') {
    const hasVmx = name !== 'qemu';
    const append = `only=ept-cpuid trips=4000000000 marks=${TRIPS.bare}`;
    const running = await MACHINES[name].start({ kernel: hasVmx ? guests.vmx : guests.svm, append, ramMiB: 64 });
    try {
      return { 'own L1, CPUID': await bare(running) };
    } finally {
      await running.stop();
    }
  }
  const { kernel, initramfs } = guests[path];
  const guest = { kernel, initrd: initramfs, append: `${QUIET} TERRARIUM_RUN=/trips`, ramMiB: 1024, mark: 'small-vmm' };
  const running = await MACHINES[name].start(guest);
  try {
    if (path === 'l3') return { 'L3 through two KVMs, CPUID': await linux(running, 'cpuid', 'l3', SECONDS.l3) };
    return {
      'Linux and KVM, CPUID': await linux(running, 'cpuid', 'cpuid', SECONDS.linux),
      'Linux, KVM and its user, OUT': await linux(running, 'out', 'out', SECONDS.linux),
    };
  } finally {
    await running.stop();
  }
}

async function bare(running) {
  let least = Number.POSITIVE_INFINITY;
  let before = await running.line('mark', SECONDS.bare);
  for (let i = 0; i < MEASUREMENTS.bare; i += 1) {
    const after = await running.line('mark', SECONDS.bare);
    least = Math.min(least, after.cpuMs - before.cpuMs);
    before = after;
  }
  return (least * 1000) / TRIPS.bare;
}

async function linux(running, kind, what, seconds) {
  await running.line(`small-vmm: ${kind} ends`, seconds); // the warm-up
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < MEASUREMENTS[what]; i += 1) {
    const begins = await running.line(`small-vmm: ${kind} begins`, seconds);
    const ends = await running.line(`small-vmm: ${kind} ends`, seconds);
    least = Math.min(least, ends.cpuMs - begins.cpuMs);
  }
  return (least * 1000) / TRIPS[what];
}
