import { describe, expect, test } from 'vitest';
import { snapshotRegisters } from '../../src/inspect/registers.ts';
import { GuestRun } from './guest-run.ts';

/** Everything that a run leaves behind: registers, time, counts, what was printed. */
function outcome(run: GuestRun): unknown {
  const { machine, nested, output } = run;
  const vcpu = machine.vcpus[0]!;
  return {
    output,
    nowNs: machine.nowNs,
    instructions: vcpu.core.instructions,
    exits: [...vcpu.exits],
    toL1: [...nested.exitsToL1],
    kept: [...nested.exitsKept],
    counters: run.counters(),
    registers: snapshotRegisters(vcpu),
  };
}

/** Who watches is told of each exit before L0 has looked at it: no exit is dealt with on the spot. */
const WATCHER = { limit: () => Number.POSITIVE_INFINITY, left() {} };

describe('a switch between levels that L0 deals with on the spot', () => {
  test.each(['split', 'reinit', 'shared'] as const)('is seen by nobody: mode %s', (mode) => {
    const runs = [false, true].map((isWatched) => {
      const run = new GuestRun('trips=300', mode);
      if (isWatched) run.machine.vm.watcher = WATCHER;
      return outcome(run.until(() => false));
    });
    expect(runs[0]).toEqual(runs[1]);
  });

  test('is seen by nobody who stops in the middle of a trip', () => {
    const runs = [false, true].map((isWatched) => {
      const run = new GuestRun('only=ept-cpuid trips=100000');
      if (isWatched) run.machine.vm.watcher = WATCHER;
      const { machine } = run;
      const seen: unknown[] = [];
      run.until(() => run.nested.entries >= 200);
      for (let i = 0; i < 50; i += 1) {
        machine.run(machine.nowNs + 777 + 13 * i);
        seen.push([machine.nowNs, machine.vcpus[0]!.core.instructions, run.nested.guestMode, run.nested.entries]);
      }
      // And this is about what it says it is
      expect(run.nested.turns > 0).toBe(!isWatched);
      return [seen, outcome(run)];
    });
    expect(runs[0]).toEqual(runs[1]);
  });
});
