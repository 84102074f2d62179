/**
 * A guest that is a hypervisor (guests/nested-vmx), in one mode of the nested MMU, in a process of its own.
 *
 * argv[2]   JSON: kernel, only (which of the guest's loops), mode, trips, dist.
 * stdout    one line of JSON: usPerTrip (a whole L2→L1→L2 round trip), nsPerSwitch (the MMU's part of one switch of
 *           level, its calls alone), counts (what the MMU counted over the trips).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const { kernel, only, mode, trips, dist } = JSON.parse(process.argv[2]);
const { Machine } = await import(pathToFileURL(join(dist, 'machine/machine.js')).href);

const WARM_UP = 4_000;
const SWITCHES = 100_000;

const machine = new Machine({
  cpu: 'intel,+vmx',
  ramBytes: 64 * 2 ** 20,
  cpus: 1,
  kernel: { name: 'nested-vmx', bytes: new Uint8Array(readFileSync(kernel)) },
  commandLine: `only=${only} trips=${trips + WARM_UP + 50_000}`,
  debugExit: { iobase: 0xf4, iosize: 4 },
  epochMs: Date.UTC(2026, 0, 1),
  reboot: false,
  nestedMmu: mode,
});
const [vcpu] = machine.vcpus;
const { nested, mmu } = vcpu;

function until(done) {
  while (!done()) {
    if (machine.run(machine.nowNs + 100_000) === 'ended') throw new Error(`the guest ended: ${machine.ending.message}`);
  }
}

const cpuUs = () => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

until(() => nested.entries >= WARM_UP);
const before = { us: cpuUs(), entries: nested.entries, counts: { ...mmu.vm.counters } };
until(() => nested.entries >= before.entries + trips);
const passed = nested.entries - before.entries;
const usPerTrip = (cpuUs() - before.us) / passed;
const counts = {};
for (const [name, value] of Object.entries(mmu.vm.counters)) {
  const change = (value - before.counts[name]) / passed;
  if (typeof value === 'number' && change > 0.01) counts[name] = Math.round(change * 100) / 100;
}

/**
 * What vm-entry.ts and vm-exit.ts ask of the MMU for one entry and one exit, in their order. L1 and L2 of the guest
 * have the same CR0, CR4 and EFER, so that L1's serve for both.
 */
function entryAndExit(cr3Lo, cr3Hi) {
  const { usesEpt } = nested;
  mmu.serviceLocalRequests();
  nested.guestMode = true;
  mmu.transitionTlbFlush(true);
  if (usesEpt) mmu.nestedEptInit();
  else mmu.nestedEnterWithoutEpt();
  mmu.initMmu();
  mmu.loadCr3(cr3Lo, cr3Hi, usesEpt, true);
  mmu.reload();
  mmu.serviceLocalRequests();
  nested.guestMode = false;
  mmu.nestedEptUninit();
  mmu.initMmu();
  mmu.loadCr3(cr3Lo, cr3Hi, false, true);
  mmu.transitionTlbFlush(false);
  mmu.reload();
}

until(() => !nested.guestMode);
const { cr3Lo, cr3Hi } = mmu.regs;
let least = Number.POSITIVE_INFINITY;
for (let round = 0; round < 4; round += 1) {
  const start = cpuUs();
  for (let i = 0; i < SWITCHES / 2; i += 1) entryAndExit(cr3Lo, cr3Hi);
  least = Math.min(least, cpuUs() - start);
}
process.stdout.write(`${JSON.stringify({ usPerTrip, nsPerSwitch: (least * 1000) / SWITCHES, counts })}\n`);
