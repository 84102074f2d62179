/**
 * One loop of guests/nested-vmx in a process of its own (node --expose-gc).
 *
 * argv[2]   JSON: kernel, only, trips, dist.
 * stdout    one line of JSON: {before, after}, what is in use after 10,000 trips and after `trips` more.
 */
import { readFileSync } from 'node:fs';
import { loadBundle } from '../../bin/bundle.mjs';

const { kernel, only, trips, dist } = JSON.parse(process.argv[2]);
const { Machine } = await loadBundle(dist);

const WARM_UP = 10_000;

const machine = new Machine({
  cpu: 'intel,+vmx',
  ramBytes: 64 * 2 ** 20,
  cpus: 1,
  kernel: { name: 'nested-vmx', bytes: new Uint8Array(readFileSync(kernel)) },
  commandLine: `only=${only} trips=${trips + 2 * WARM_UP}`,
  debugExit: { iobase: 0xf4, iosize: 4 },
  epochMs: Date.UTC(2026, 0, 1),
  reboot: false,
});
const [vcpu] = machine.vcpus;

function until(entries) {
  while (vcpu.nested.entries < entries) {
    if (machine.run(machine.nowNs + 1_000_000) === 'ended') throw new Error(machine.ending.message);
  }
}

function inUse() {
  globalThis.gc();
  globalThis.gc();
  const { pages } = vcpu.mmu.vm;
  const { processor, code } = machine.engine;
  const { heapUsed, external, arrayBuffers, rss } = process.memoryUsage();
  return {
    'shadow pages': pages.used,
    'pages held as roots': pages.rootCount.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0),
    'records that name a root': pages.rootCount.reduce((sum, count) => sum + count, 0),
    'TLB contexts': [...processor.tlb.names()].length,
    'TLB contexts recycled': processor.tlb.counters.contextsRecycled,
    'bytes of decoded code': code.usedBytes,
    'KiB of JavaScript heap': Math.round(heapUsed / 1024),
    'KiB of array buffers': Math.round((external + arrayBuffers) / 1024),
    'MiB resident': Math.round(rss / 2 ** 20),
  };
}

until(WARM_UP);
const before = inUse();
until(vcpu.nested.entries + trips);
process.stdout.write(`${JSON.stringify({ before, after: inUse() })}\n`);
