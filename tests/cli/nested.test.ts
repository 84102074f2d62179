import { describe, expect, it } from 'vitest';
import { terrarium } from './run.ts';

/** What `terrarium nested --json` says, without what depends on the host's speed. */
interface Report {
  passed: boolean;
  seconds?: number;
  entries: number;
  exits: { exit: string; l1ToL0: number; l2ToL0: number; l2ToL1: number }[];
  scenarios: { name: string; trips: number; nsPerTrip: number; perTrip: Record<string, number> }[];
  modes: Record<string, { usPerTrip?: number; nsPerMmuSwitch?: number; perTrip: Record<string, number> }>;
}

function run(): Report {
  const { status, stdout, stderr } = terrarium(['nested', '--json', '-trips', '500']);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return JSON.parse(stdout) as Report;
}

describe('terrarium nested --json', () => {
  const report = run();

  it('has every L2 of the guest with the round trips that it was asked for', () => {
    expect(report.passed).toBe(true);
    expect(report.scenarios.length).toBeGreaterThanOrEqual(12);
    for (const { name, trips } of report.scenarios) expect([100, 1000], name).toContain(trips);
  });

  it('split keeps formats, roles, roots and TLB contexts over a switch; reinit and shared do not', () => {
    const { split, reinit, shared } = report.modes as Record<'split' | 'reinit' | 'shared', Report['modes'][string]>;
    const kept = ['formatComputed', 'roleStore', 'rootAlloc', 'spLookup', 'tlbFlushAll', 'tlbFlushCurrent'];
    for (const counter of [...kept, 'tlbFlushGuest']) expect(split.perTrip[counter], counter).toBe(0);
    expect(reinit.perTrip['formatComputed']).toBe(3);
    expect(shared.perTrip['rootAlloc']).toBe(2);
    expect(shared.perTrip['tlbFlushAll']).toBe(2);
  });

  it('exits that L1 took are as many as entries into L2', () => {
    expect(report.exits.reduce((sum, { l2ToL1 }) => sum + l2ToL1, 0)).toBe(report.entries);
    const cpuid = report.exits.find(({ exit }) => exit === 'CPUID')!;
    expect(cpuid.l2ToL0).toBe(0);
    expect(cpuid.l2ToL1).toBe(6000);
  });

  it('is the same in every run, but for what the clock on the wall measures', () => {
    const timeless = (one: Report): unknown => {
      delete one.seconds;
      for (const mode of Object.values(one.modes)) {
        delete mode.usPerTrip;
        delete mode.nsPerMmuSwitch;
      }
      return one;
    };
    expect(timeless(run())).toEqual(timeless(report));
  });
});

describe('terrarium nested, a mistake', () => {
  it.each([
    [['-trips', '7'], 'give a whole number of at least 100'],
    [['-frips'], 'Did you mean -trips?'],
    [['more'], 'takes no "more"'],
  ])('%j is one sentence and status 2', (args, says) => {
    const { status, stderr } = terrarium(['nested', ...args]);
    expect(stderr).toContain(says);
    expect(stderr.trim().split('\n').length).toBe(1);
    expect(status).toBe(2);
  });
});
