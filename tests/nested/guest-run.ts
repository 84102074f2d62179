import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ComparisonMode } from '../../src/hypervisor/mmu/vm-mmu.ts';
import { NestedVmx } from '../../src/hypervisor/nested/vmx/nested-vmx.ts';
import { Machine } from '../../src/machine/machine.ts';

/** A machine with the guest nested-vmx, run as far as a test wants. */
export class GuestRun {
  readonly machine: Machine;
  readonly nested: NestedVmx;
  output = '';

  constructor(commandLine: string, mode: ComparisonMode = 'split', force = false) {
    const path = fileURLToPath(new URL('../../guests/nested-vmx/nested-vmx.bin', import.meta.url));
    this.machine = new Machine({
      cpu: 'intel,+vmx',
      ramBytes: 64 << 20,
      cpus: 1,
      kernel: { name: 'nested-vmx', bytes: new Uint8Array(readFileSync(path)) },
      commandLine,
      serial: [
        (byte) => {
          this.output += String.fromCharCode(byte);
        },
      ],
      debugExit: { iobase: 0xf4, iosize: 4 },
      epochMs: 1_700_000_000_000,
      reboot: false,
      nestedMmu: mode,
      force,
    });
    const { nested } = this.machine.vcpus[0]!;
    if (!(nested instanceof NestedVmx)) throw new Error('this CPU has VMX');
    this.nested = nested;
  }

  /** Runs in steps of a tenth of a virtual millisecond until `done`, or to the end. */
  until(done: () => boolean): this {
    const { machine } = this;
    while (!done()) {
      const result = machine.run(machine.nowNs + 100_000);
      if (result === 'ended') break;
      if (result === 'idle') machine.advanceTo(machine.nextDeadlineNs);
    }
    return this;
  }

  /** Counters of the MMU and of the TLBs now, to be compared. */
  counters(): Record<string, number> {
    const { mmu } = this.machine.vm;
    const { rootHitPrevAt: _, ...plain } = mmu.counters;
    const tlb = this.machine.engine.processor.tlb.counters;
    return {
      ...plain,
      contextsMade: tlb.contextsMade,
      contextFlushes: tlb.flushes,
      merges: this.nested.merges,
      entries: this.nested.entries,
    };
  }

  /** What changed over `entries` round trips, after `warmUp`. */
  over(warmUp: number, entries: number): Record<string, number> {
    this.until(() => this.nested.entries >= warmUp);
    const before = this.counters();
    this.until(() => this.nested.entries >= warmUp + entries);
    const after = this.counters();
    return Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - before[name]!]));
  }
}
