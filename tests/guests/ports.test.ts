/** IN and OUT that happen on the spot are the same as those that leave for L0 first: in time, order and all that comes of them. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { EXIT } from '../../src/engine/core/exits.ts';
import type { Accelerator } from '../../src/engine/core/memory.ts';
import { snapshotCounters } from '../../src/inspect/counters.ts';
import { snapshotRegisters } from '../../src/inspect/registers.ts';
import { hashWords } from '../../src/inspect/trace-hash.ts';
import { Machine } from '../../src/machine/machine.ts';

const GUESTS = fileURLToPath(new URL('../../guests', import.meta.url));
/** Who watches is told of each exit: none is dealt with on the spot. */
const WATCHER = { limit: () => Number.POSITIVE_INFINITY, left() {} };

function run(guest: string, accel: Accelerator, cpus: number, isWatched: boolean) {
  const serial: number[] = [];
  const machine = new Machine({
    cpu: 'intel,+vmx',
    cpus,
    ramBytes: 64 << 20,
    kernel: { name: guest, bytes: new Uint8Array(readFileSync(`${GUESTS}/${guest}/${guest}.bin`)) },
    debugExit: { iobase: 0xf4, iosize: 4 },
    epochMs: 1_700_000_000_000,
    reboot: false,
    accel,
    jitThreshold: 5,
    serial: [(byte) => serial.push(byte, machine.vm.clock.nowNs(), snapshotCounters(machine.vm).instructions)],
  });
  if (isWatched) machine.vm.watcher = WATCHER;
  let runs = 0;
  const { engine } = machine;
  const inner = engine.run.bind(engine);
  engine.run = (vcpu, budget) => {
    runs += 1;
    return inner(vcpu, budget);
  };
  for (let result = machine.run(1e6); result !== 'ended'; result = machine.run(machine.nowNs + 1e6)) {
    if (result === 'idle') machine.advanceTo(Math.max(machine.nowNs + 1e6, machine.nextDeadlineNs));
  }
  return {
    runs,
    ports: machine.vcpus.reduce((sum, { exits }) => sum + exits[EXIT.IO]!, 0),
    same: {
      end: `${machine.ending!.kind} ${machine.ending!.status}`,
      nowNs: machine.nowNs,
      instructions: machine.vcpus.map(({ core }) => core.instructions),
      exits: machine.vcpus.map(({ exits }) => [...exits]),
      serial,
      registers: machine.vcpus.map(snapshotRegisters),
      memory: hashWords(engine.memory.u32.subarray(engine.memory.ram >>> 2)),
    },
  };
}

describe('a run whose ports are reached on the spot is the run where each access leaves', () => {
  test.each([
    ['demo', 1],
    ['demo', 2],
    ['privileged-64', 1],
    ['privileged-32', 1],
    ['nested-vmx', 1],
  ] as const)('%s with %i CPUs', (guest, cpus) => {
    const leaves = run(guest, 'interpreter', cpus, true);
    expect(leaves.ports).toBeGreaterThan(200);
    for (const accel of ['interpreter', 'compiler', 'lockstep'] as const) {
      const direct = run(guest, accel, cpus, false);
      expect(direct.same).toEqual(leaves.same);
      // Each access was a run and a step of its own
      expect(direct.runs).toBeLessThan(leaves.runs - direct.ports);
    }
  });
});
