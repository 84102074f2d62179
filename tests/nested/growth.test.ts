/** Round trips leave nothing behind: `npm run bench -- growth` says the same of a million. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { GuestRun } from './guest-run.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const WARM_UP = 4_000;
const TRIPS = 20_000;
/** What a test runner of its own does to the heap meanwhile; a trip that left one object behind would show 50 times it. */
const HEAP_BYTES = 400_000;

function inUse(run: GuestRun): Record<string, number> {
  const { pages } = run.machine.vm.mmu;
  const { processor, code } = run.machine.engine;
  return {
    shadowPages: pages.used,
    rootPages: pages.rootCount.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0),
    rootRecords: pages.rootCount.reduce((sum, count) => sum + count, 0),
    tlbContexts: [...processor.tlb.names()].length,
    decodedBytes: code.usedBytes,
  };
}

function heapBytes(): number {
  collect();
  collect();
  return process.memoryUsage().heapUsed;
}

describe(`${TRIPS} round trips leave nothing behind`, () => {
  test.each(['ept-cpuid', 'ept-only', 'vpid-only', 'alternate', 'invalidate', 'touch'])('%s', (only) => {
    const run = new GuestRun(`only=${only} trips=${2 * (WARM_UP + TRIPS)}`);
    run.until(() => run.nested.entries >= WARM_UP);
    const before = inUse(run);
    const heapBefore = heapBytes();
    run.until(() => run.nested.entries >= WARM_UP + TRIPS);
    expect(run.nested.entries).toBeGreaterThanOrEqual(WARM_UP + TRIPS);
    const heap = heapBytes() - heapBefore;
    const after = inUse(run);
    // The two counts may fall into different phases of a round: a root more or less, but not a root a trip
    for (const [name, count] of Object.entries(after)) expect(Math.abs(count - before[name]!), name).toBeLessThan(8);
    expect(heap).toBeLessThan(HEAP_BYTES);
  });
});
