import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { EXIT_REASONS } from '../../src/arch/vmx/exit-reasons.ts';
import { GuestRun } from './guest-run.ts';

const EXPECTED = readFileSync(fileURLToPath(new URL('../../guests/nested-vmx/expected.txt', import.meta.url)), 'utf8');

describe('guest nested-vmx prints what it must', () => {
  test.each([
    ['split', false],
    ['split', true],
    ['reinit', false],
    ['shared', false],
  ] as const)('mode %s, force %s', (mode, force) => {
    const run = new GuestRun('trips=1000', mode, force).until(() => false);
    expect(run.output.replaceAll('\r', '')).toBe(EXPECTED);
    expect(run.machine.ending?.status).toBe(1);
  });
});

/** nested-mmu.md 6.2. Everything that a switch could cost, and must not. */
const REBUILDS = {
  formatComputed: 0,
  formatInternHit: 0,
  roleStore: 0,
  rootAlloc: 0,
  rootMiss: 0,
  rootFree: 0,
  spAlloc: 0,
  spLookup: 0,
  spZap: 0,
  syncPage: 0,
  syncSpte: 0,
  contextsMade: 0,
  merges: 0,
  faultShadow: 0,
};
const FLUSHES = { tlbFlushAll: 0, tlbFlushCurrent: 0, tlbFlushGuest: 0, tlbFlushGva: 0, tlbFlushVmWide: 0 };
const TRIPS = 10_000;

describe('what 10^4 round trips cost', () => {
  test('P1: with EPT12 and VPID nothing is rebuilt, looked up or flushed', () => {
    const cost = new GuestRun('only=ept-cpuid trips=12000').over(500, TRIPS);
    expect(cost['entries']).toBeGreaterThanOrEqual(TRIPS);
    expect(cost).toMatchObject({ ...REBUILDS, ...FLUSHES, contextFlushes: 0 });
  });

  test('P2: without VPID one flush of linear mappings each way, and nothing else', () => {
    const cost = new GuestRun('only=ept-only trips=12000').over(500, TRIPS);
    expect(cost).toMatchObject({ ...REBUILDS, ...FLUSHES, tlbFlushGuest: 2 * cost['entries']! });
  });

  test('P3: without EPT12 the second root is found again: the same as P1', () => {
    const cost = new GuestRun('only=vpid-only trips=12000').over(500, TRIPS);
    expect(cost).toMatchObject({ ...REBUILDS, ...FLUSHES, contextFlushes: 0 });
  });

  test('P4: two EPTPs in turn hit the previous root', () => {
    const cost = new GuestRun('only=alternate trips=12000').over(500, TRIPS);
    // VMPTRLD of an active VMCS keeps guest_mmu's roots, which are EPTP's: docs/mmu-notes.md 2; and what was merged stays with it
    expect(cost).toMatchObject({ ...REBUILDS, ...FLUSHES, contextFlushes: 0 });
    expect(cost['rootHitPrev']).toBe(cost['entries']);
  });

  test('VMPTRLD of an active VMCS, and entry into a guest that was entered before, are dealt with on the spot', () => {
    const run = new GuestRun('only=alternate trips=12000');
    run.until(() => run.nested.entries >= 500);
    const { exits } = run.machine.vcpus[0]!;
    const counts = () => [run.nested.turns, run.nested.entries, exits[EXIT_REASONS.VMPTRLD]!];
    const before = counts();
    run.until(() => run.nested.entries >= 10_000);
    const [turns, entries, loads] = counts().map((n, i) => n - before[i]!);
    expect(loads).toBeGreaterThanOrEqual(entries! - 1);
    // An entry whose run ends before the next exit is none of them
    expect(turns).toBeGreaterThan(1.9 * entries!);
  });

  test('P4: VMFUNC among four EPTPs allocates no root after the first cycle', () => {
    const run = new GuestRun('only=functions trips=4000').until(() => false);
    expect(run.counters()).toMatchObject({ rootHitPrev: expect.any(Number) });
    // L1's own root, and one for each of the four EPTPs
    expect(run.counters()['rootAlloc']).toBeLessThanOrEqual(8);
    expect(run.counters()['rootHitPrev']).toBeGreaterThan(3900);
  });

  test('P5: the number of shadow pages does not matter', () => {
    const run = new GuestRun('trips=2000');
    run.until(() => run.output.includes('preemption timer'));
    expect(run.counters()['spAlloc']).toBeGreaterThan(20);
    const cost = run.over(run.nested.entries + 200, 1000);
    expect(cost).toMatchObject({ ...REBUILDS, ...FLUSHES });
  });

  test('for comparison: reinit computes formats at each switch and shared allocates roots', () => {
    const reinit = new GuestRun('only=ept-cpuid trips=3000', 'reinit').over(500, 2000);
    // The window may begin or end in the middle of a round trip
    expect(reinit['roleStore']).toBeGreaterThanOrEqual(2 * reinit['entries']! - 2);
    const shared = new GuestRun('only=ept-cpuid trips=3000', 'shared').over(500, 2000);
    expect(shared['rootAlloc']).toBeGreaterThanOrEqual(2 * shared['entries']! - 2);
    expect(shared['tlbFlushAll']).toBeGreaterThanOrEqual(2 * shared['entries']! - 2);
  });
});
