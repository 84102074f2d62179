/**
 * A run under a debugger that stops wherever chance says is the run without it: every exit with its instruction count and
 * registers, the console and its times, registers and RAM at the end.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { VmDebugger, type WatchKind } from '../../src/hypervisor/vm/debugger.ts';
import { snapshotRegisters } from '../../src/inspect/registers.ts';
import { hashWords, TraceHash } from '../../src/inspect/trace-hash.ts';
import { Machine } from '../../src/machine/machine.ts';
import { root } from './run.ts';
import { GUESTS, tinyGuest } from './tiny-guest.ts';

interface Case {
  readonly guest: string;
  readonly accel: 'interpreter' | 'compiler' | 'lockstep';
  readonly cpus?: number;
  readonly tdp?: boolean;
  readonly nsPerInstruction?: number;
}

function kernelOf(guest: string): Uint8Array {
  if (guest === 'timerInterrupts' || guest === 'taskSwitches') return tinyGuest(GUESTS[guest]);
  return new Uint8Array(readFileSync(join(root, `guests/${guest}/${guest}.bin`)));
}

const SLICE_NS = 50_000;
const STOPS = 6_000;

/** Sets and takes away breakpoints and watchpoints at random, at places where the guest has been. */
class Meddler {
  readonly stops = { breakpoint: 0, watchpoint: 0, step: 0 };
  readonly #machine: Machine;
  readonly #debugger: VmDebugger;
  readonly #places: bigint[] = [];
  readonly #breakpoints: bigint[] = [];
  readonly #watchpoints: [WatchKind, bigint, number][] = [];
  #left = STOPS;
  #seed: number;

  constructor(machine: Machine, seed: number) {
    this.#machine = machine;
    this.#seed = seed;
    this.#debugger = new VmDebugger(machine.engine);
    machine.vm.debugger = this.#debugger;
    this.stepSomething();
  }

  #random(below: number): number {
    this.#seed = (Math.imul(this.#seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#seed / 2 ** 32) * below);
  }

  stepSomething(): void {
    const { vcpus } = this.#machine;
    if (this.#left > 0) this.#debugger.prepare([vcpus[this.#random(vcpus.length)]!], []);
  }

  paused(): void {
    const { vcpu, cause } = this.#debugger.stop!;
    this.stops[cause.kind] += 1;
    this.#left -= 1;
    if (this.#left === 0) {
      this.#debugger.detach();
      this.#machine.vm.debugger = undefined;
      return;
    }
    const { rip, mode, gpr, segments } = snapshotRegisters(vcpu);
    const linear = (address: bigint) => (mode === '64-bit' ? BigInt.asUintN(64, address) : BigInt.asUintN(32, address));
    this.#places.push(linear(mode === '64-bit' ? rip : rip + segments[1]!.base));
    if (this.#places.length > 300) this.#places.shift();
    const place = this.#places[this.#random(this.#places.length)]!;
    switch (this.#random(16)) {
      case 0:
        this.#debugger.setBreakpoint(place);
        this.#breakpoints.push(place);
        if (this.#breakpoints.length > 5) this.#debugger.clearBreakpoint(this.#breakpoints.shift()!);
        break;
      case 1: {
        const old = this.#breakpoints.pop();
        if (old !== undefined) this.#debugger.clearBreakpoint(old);
        break;
      }
      case 2: {
        const kind = (['write', 'read', 'access'] as const)[this.#random(3)]!;
        const range: [WatchKind, bigint, number] = [
          kind,
          linear(gpr[this.#random(8)]! + BigInt(this.#random(64) - 32)),
          1 + this.#random(16),
        ];
        this.#debugger.setWatchpoint(...range);
        this.#watchpoints.push(range);
        if (this.#watchpoints.length > 3) this.#debugger.clearWatchpoint(...this.#watchpoints.shift()!);
        break;
      }
      case 3: {
        const old = this.#watchpoints.pop();
        if (old) this.#debugger.clearWatchpoint(...old);
      }
    }
    const others = this.#machine.vcpus.filter((other) => other === vcpu || this.#random(4) === 0);
    // Now and then it runs freely, to a breakpoint or to the end of the slice
    this.#debugger.prepare(this.#random(64) > 0 ? others : [], []);
  }
}

function run({ guest, accel, cpus = 1, tdp = true, nsPerInstruction = 1 }: Case, seed?: number) {
  const output = createHash('sha256');
  const stamp = new Float64Array(2);
  const machine = new Machine({
    cpu: 'intel',
    cpus,
    ramBytes: 64 << 20,
    tdp,
    nsPerInstruction,
    kernel: { name: guest, bytes: kernelOf(guest) },
    debugExit: { iobase: 0xf4, iosize: 4 },
    epochMs: 1_700_000_000_000,
    reboot: false,
    accel,
    jitThreshold: 5,
    serial: [
      (byte) => {
        stamp[0] = byte;
        stamp[1] = machine.vm.clock.nowNs();
        output.update(new Uint8Array(stamp.buffer));
      },
    ],
  });
  const trace = new TraceHash(9973);
  machine.vm.watcher = trace;
  const meddler = seed === undefined ? undefined : new Meddler(machine, seed);
  let until = 0;
  let result: ReturnType<Machine['run']> = 'time';
  while (result !== 'ended') {
    if (result !== 'paused') until = machine.nowNs + SLICE_NS;
    result = machine.run(until);
    if (result === 'paused') meddler!.paused();
    else meddler?.stepSomething();
    if (result === 'idle') machine.advanceTo(Math.max(until, machine.nextDeadlineNs));
  }
  return {
    stops: meddler?.stops,
    same: {
      end: `${machine.ending!.kind} ${machine.ending!.status}`,
      nowNs: machine.nowNs,
      instructions: machine.vcpus.map(({ core }) => core.instructions),
      trace: `${trace.text} of ${trace.exits} exits and ${trace.stops} stops`,
      serial: output.digest('hex'),
      registers: machine.vcpus.map(snapshotRegisters),
      memory: hashWords(machine.engine.memory.u32.subarray(machine.engine.memory.ram >>> 2)),
    },
  };
}

describe('a debugger that stops anywhere, steps and watches changes nothing', () => {
  test.each<Case>([
    { guest: 'demo', accel: 'interpreter' },
    { guest: 'demo', accel: 'compiler', cpus: 2 },
    { guest: 'privileged-64', accel: 'compiler' },
    { guest: 'privileged-64', accel: 'interpreter', tdp: false },
    { guest: 'privileged-32', accel: 'interpreter' },
    { guest: 'privileged-32', accel: 'lockstep' },
    { guest: 'privileged-32', accel: 'interpreter', tdp: false },
    { guest: 'taskSwitches', accel: 'interpreter', tdp: false, nsPerInstruction: 100 },
    { guest: 'taskSwitches', accel: 'compiler', tdp: false, nsPerInstruction: 100 },
    { guest: 'taskSwitches', accel: 'compiler', nsPerInstruction: 100 },
    { guest: 'nested-vmx', accel: 'compiler' },
    { guest: 'nested-vmx', accel: 'interpreter' },
    { guest: 'timerInterrupts', accel: 'interpreter', nsPerInstruction: 100 },
    { guest: 'timerInterrupts', accel: 'compiler', nsPerInstruction: 100 },
  ])('$guest, $accel, cpus $cpus, tdp $tdp', (what) => {
    const plain = run(what);
    expect(plain.same.end).toMatch(/^(debug-exit 1|power-off 0)$/);
    for (const seed of [1, 2]) {
      const { same, stops } = run(what, seed);
      expect(same, `seed ${seed}`).toEqual(plain.same);
      expect(stops!.step).toBeGreaterThan(2_000);
      expect(stops!.breakpoint).toBeGreaterThan(5);
      expect(stops!.watchpoint).toBeGreaterThan(0);
    }
  });
});
