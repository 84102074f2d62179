/** Worked traces T1 to T7 and the counters P1 to P5 of nested-mmu.md 4.22 and 6.2. */
import { describe, expect, test } from 'vitest';
import { CR4 } from '../../arch/registers.ts';
import type { MmuCounters } from './counters.ts';
import { checkInvariants } from './invariants.ts';
import { ROLE } from './role.ts';
import { addSlot, deleteSlot } from './slots.ts';
import { FakeMachine, FLAT, longMode } from './testing/fake-engine.ts';
import { EPT_AD, TableBuilder } from './testing/tables.ts';
import type { MmuConfig } from './vm-mmu.ts';

const EPTP_AD = 0x5e;

/** A machine whose L1 has an EPT12 that maps nGPA 0x10000.. to GPA 0x200000.. (16 pages). */
function nestedMachine(config: Partial<MmuConfig> = {}) {
  const machine = new FakeMachine(config);
  const tables = new TableBuilder(machine, 16);
  const root = tables.eptRoot();
  for (let i = 0; i < 16; i += 1) tables.ept(root, 0x10000 + i * 4096, 0x200000 + i * 4096);
  return { machine, tables, root, eptp: root | EPTP_AD, cpu: machine.cpu };
}

/** What a stretch of work cost. */
function cost(machine: FakeMachine, work: () => void): MmuCounters {
  const { counters } = machine.vm;
  const before = { ...counters };
  work();
  const difference = { ...counters };
  for (const name of Object.keys(before) as (keyof MmuCounters)[]) {
    if (name !== 'rootHitPrevAt') difference[name] = counters[name] - before[name];
  }
  return difference;
}

/** What ten rounds cost behind two others. */
function steady(machine: FakeMachine, round: () => void): MmuCounters {
  round();
  round();
  return cost(machine, () => {
    for (let i = 0; i < 10; i += 1) round();
  });
}

/** What P1 forbids in the steady state. */
const REBUILDS = ['formatComputed', 'roleStore', 'rootAlloc', 'spAlloc', 'spLookup', 'syncSpte', 'syncPage'] as const;
const FLUSHES = ['tlbFlushAll', 'tlbFlushCurrent', 'tlbFlushGuest', 'tlbFlushGva', 'tlbFlushVmWide'] as const;

const all = (machine: FakeMachine): void =>
  checkInvariants(
    machine.vm,
    machine.vcpus.map((vcpu) => vcpu.mmu),
  );

describe('steady state', () => {
  test('P1: entry and exit with EPT12 and VPID rebuild, allocate, look up and flush nothing', () => {
    const { machine, cpu, eptp } = nestedMachine();
    const round = (): void => {
      cpu.read(0x1000);
      cpu.enterL2({ eptp, vpid: 7 });
      expect(cpu.access(0x10008, { write: true }).kind).toBe('ram');
      cpu.exitL2();
    };
    const spent = steady(machine, round);
    for (const name of [...REBUILDS, ...FLUSHES]) expect(spent[name], name).toBe(0);
    expect(spent.rootHitCurrent).toBe(20);
    expect(spent.roleSkip).toBe(30);
    all(machine);
  });

  test('P2: without VPID, exactly one FLUSH_GUEST each way and no shadow sync', () => {
    const { machine, cpu, eptp } = nestedMachine();
    const round = (): void => {
      cpu.read(0x1000);
      cpu.enterL2({ eptp });
      cpu.read(0x10008);
      cpu.exitL2();
    };
    round();
    cpu.read(0x1000);
    const spent = cost(machine, () => {
      for (let i = 0; i < 10; i += 1) round();
      cpu.read(0x1000);
    });
    for (const name of REBUILDS) expect(spent[name], name).toBe(0);
    expect(spent.tlbFlushGuest).toBe(20);
    expect(spent.tlbFlushCurrent + spent.tlbFlushAll + spent.tlbFlushVmWide).toBe(0);
  });

  test('P3: an L2 without EPT12 costs as little as one with it, after the first round trip', () => {
    const { machine, cpu, tables } = nestedMachine();
    const cr3 = tables.page();
    tables.linear(cr3, 0x7000, 0x300000);
    const round = (): void => {
      cpu.read(0x1000);
      cpu.enterL2({ vpid: 3, mode: longMode(cr3) });
      expect(cpu.read(0x7008)).toEqual({ kind: 'ram', host: machine.at(0x300008) * 4 });
      cpu.exitL2();
    };
    const spent = steady(machine, round);
    for (const name of [...REBUILDS, ...FLUSHES]) expect(spent[name], name).toBe(0);
    expect(spent.rootHitPrev).toBe(20);
    all(machine);
  });

  test('P3: two L2s whose control registers differ take turns, and no role is stored', () => {
    const { machine, cpu, eptp, tables } = nestedMachine();
    const cr3 = tables.page();
    tables.linear(cr3, 0x7000, 0x300000);
    const modes = [FLAT, longMode(0, { cr4: CR4.PAE | CR4.PGE | CR4.SMEP })];
    const round = (): void => {
      for (const [i, mode] of modes.entries()) {
        cpu.enterL2({ eptp, vpid: 7 + i, mode });
        expect(machine.cpu.mmu.gvaWalk.cpuRole.base & ROLE.LEVEL).toBe(i === 0 ? 0 : 4);
        cpu.exitL2();
      }
      // And one without EPT12, whose tables map to L1's memory
      cpu.enterL2({ vpid: 9, mode: longMode(cr3) });
      expect(cpu.read(0x7008)).toEqual({ kind: 'ram', host: machine.at(0x300008) * 4 });
      cpu.exitL2();
    };
    const spent = steady(machine, round);
    for (const name of [...REBUILDS, ...FLUSHES]) expect(spent[name], name).toBe(0);
    all(machine);
  });

  test('P4: cycling over four EPTPs allocates no root after the first cycle; with five, every switch misses', () => {
    for (const count of [4, 5]) {
      const { machine, cpu, tables } = nestedMachine();
      const eptps = Array.from({ length: count }, (_, i) => {
        const root = tables.eptRoot();
        tables.ept(root, 0x10000, 0x200000 + i * 4096);
        return root | EPTP_AD;
      });
      const cycle = (): void => {
        eptps.forEach((eptp, i) => {
          cpu.enterL2({ eptp, vpid: i + 1 });
          expect(cpu.read(0x10000)).toEqual({ kind: 'ram', host: machine.at(0x200000 + i * 4096) * 4 });
          cpu.exitL2();
        });
      };
      cpu.read(0);
      cycle();
      const spent = cost(machine, () => {
        cycle();
        cycle();
      });
      expect(spent.rootAlloc).toBe(count === 4 ? 0 : 10);
      expect(spent.rootMiss).toBe(count === 4 ? 0 : 10);
      expect(spent.spAlloc).toBe(0);
      all(machine);
    }
  });

  test.each([0, 1, 3, 8])('P4, parametrised: %i previous roots serve that many more EPTPs', (previousRoots) => {
    const { machine, cpu, tables } = nestedMachine({ previousRoots });
    const eptps = Array.from({ length: previousRoots + 1 }, () => tables.eptRoot() | EPTP_AD);
    const cycle = (): void => {
      for (const eptp of eptps) {
        cpu.enterL2({ eptp, vpid: 1 });
        cpu.mmu.reload();
        cpu.exitL2();
      }
    };
    cycle();
    expect(cost(machine, cycle).rootAlloc).toBe(0);
    eptps.push(tables.eptRoot() | EPTP_AD);
    cycle();
    expect(cost(machine, cycle).rootAlloc).toBe(eptps.length);
    all(machine);
  });

  test('P5: a switch does not depend on how many shadow pages there are', () => {
    const costs = [1, 300].map((pages) => {
      const { machine, cpu, tables, root, eptp } = nestedMachine();
      for (let i = 0; i < pages; i += 1) tables.ept(root, 0x4000_0000 + i * 2 ** 21, 0x200000);
      cpu.enterL2({ eptp, vpid: 1 });
      for (let i = 0; i < pages; i += 1) cpu.read(0x4000_0000 + i * 2 ** 21);
      cpu.exitL2();
      cpu.read(0);
      return cost(machine, () => {
        cpu.enterL2({ eptp, vpid: 1 });
        cpu.mmu.reload();
        cpu.exitL2();
        cpu.mmu.reload();
      });
    });
    const { rootHitPrevAt: _a, ...few } = costs[0]!;
    const { rootHitPrevAt: _b, ...many } = costs[1]!;
    expect(many).toEqual(few);
  });
});

describe('comparison modes', () => {
  test('reinit computes formats at every switch; shared frees, rebuilds and flushes roots; split does neither', () => {
    const spentBy = (mode: MmuConfig['mode']): MmuCounters => {
      const { machine, cpu, eptp, tables } = nestedMachine({ mode });
      const cr3 = tables.page();
      tables.linear(cr3, 0x1000, 0x200000);
      tables.linear(cr3, 0x10000, 0x200000);
      cpu.setMode(longMode(cr3));
      const round = (): void => {
        cpu.read(0x1000);
        cpu.enterL2({ eptp, vpid: 7, mode: FLAT });
        expect(cpu.read(0x10008)).toEqual({ kind: 'ram', host: machine.at(0x200008) * 4 });
        cpu.exitL2();
      };
      const spent = steady(machine, round);
      all(machine);
      return spent;
    };
    const split = spentBy('split');
    const reinit = spentBy('reinit');
    const shared = spentBy('shared');
    expect([split.formatComputed, split.rootAlloc, split.tlbFlushAll]).toEqual([0, 0, 0]);
    expect(reinit.formatComputed).toBeGreaterThanOrEqual(20);
    expect(reinit.rootAlloc).toBe(0);
    expect(shared.rootAlloc).toBeGreaterThanOrEqual(19);
    expect(shared.tlbFlushAll).toBeGreaterThanOrEqual(19);
  });

  test('force mode recomputes at every skip and finds nothing different', () => {
    const { machine, cpu, eptp } = nestedMachine({ force: true });
    for (let i = 0; i < 3; i += 1) {
      cpu.enterL2({ eptp, vpid: 7 });
      cpu.read(0x10000);
      cpu.exitL2();
      cpu.read(0x1000);
    }
    expect(machine.vm.counters.roleSkip).toBeGreaterThan(4);
  });
});

describe('worked traces', () => {
  test('T2: L1 edits an EPT12 leaf table freely after one fault; INVEPT makes L2 see what was taken away', () => {
    const { machine, cpu, tables, root, eptp } = nestedMachine();
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.access(0x10000, { write: true }).kind).toBe('ram');
    cpu.exitL2();
    const leaf = tables.eptEntry(root, 0x10000);
    const absent = tables.eptEntry(root, 0x30000);
    // The first store unsyncs the page, further ones cost nothing.
    const first = cpu.violations;
    cpu.store64(absent, 0x205000 | 7 | EPT_AD | 0x30);
    const second = cpu.violations;
    expect(second - first).toBe(1);
    cpu.store64(leaf, 0x200000 | 5 | EPT_AD | 0x30); // W taken away
    expect(cpu.violations - second).toBe(0);
    all(machine);
    // (a) made present: no INVEPT needed
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x30008)).toEqual({ kind: 'ram', host: machine.at(0x205008) * 4 });
    // (b) rights removed: L2 may go on for now
    expect(cpu.access(0x10000, { write: true }).kind).toBe('ram');
    cpu.exitL2();
    // (c) until INVEPT
    expect(cpu.mmu.invept(1, eptp, 0)).toBe('ok');
    cpu.enterL2({ eptp, vpid: 1 });
    const result = cpu.access(0x10000, { write: true });
    expect(result).toMatchObject({ kind: 'exit', exit: { reason: 48, guestPhysical: 0x10000 } });
    expect(result.kind === 'exit' && result.exit.qualification & 0x1ff).toBe(0x180 | 2 | (5 << 3));
    all(machine);
  });

  test('T3: L1 edits an upper EPT12 table; the shadow path goes at once, and the lower page is found again', () => {
    const { machine, cpu, tables, root, eptp } = nestedMachine();
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.read(0x10000);
    cpu.exitL2();
    const upper = tables.eptEntry(root, 0x10000, 2);
    const value = machine.peek(upper);
    const spent = cost(machine, () => {
      cpu.store64(upper, 0);
    });
    expect(spent.trackWrite).toBe(1);
    expect(spent.tlbFlushVmWide).toBe(1);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x10000).kind).toBe('exit');
    cpu.store64(upper, value);
    const again = cost(machine, () => {
      cpu.enterL2({ eptp, vpid: 1 });
      expect(cpu.read(0x10000).kind).toBe('ram');
      cpu.exitL2();
    });
    expect(again.spAlloc).toBe(0);
    all(machine);
  });

  test('T3: three writes to a table that nobody walks meanwhile end its shadowing', () => {
    const { machine, cpu, tables, root, eptp } = nestedMachine();
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.read(0x10000);
    cpu.exitL2();
    const upper = tables.eptEntry(root, 0x10000, 2);
    for (let i = 0; i < 2; i += 1) cpu.store64(upper + 8 * (i + 4), 0);
    expect(machine.vm.counters.flooded).toBe(0);
    cpu.store64(upper + 48, 0);
    expect(machine.vm.counters.flooded).toBe(1);
    all(machine);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x10000).kind).toBe('ram');
    all(machine);
  });

  test('T4: an unmapped nGPA is an EPT violation of L1, and needs no INVEPT once it is mapped', () => {
    const { machine, cpu, tables, root, eptp } = nestedMachine();
    cpu.enterL2({ eptp, vpid: 1 });
    const exit = cpu.read(0x50123);
    expect(exit).toMatchObject({ kind: 'exit', exit: { reason: 48, guestPhysical: 0x50123, linear: 0x50123 } });
    expect(exit.kind === 'exit' && exit.exit.qualification & 0x1ff).toBe(0x181);
    expect(cpu.nested.guestMode).toBe(false);
    cpu.store64(tables.eptEntry(root, 0x50000), 0x201000 | 7 | EPT_AD | 0x30);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x50123)).toEqual({ kind: 'ram', host: machine.at(0x201120) * 4 + 3 });
    all(machine);
  });

  test('T5: an nGPA that EPT12 maps to a device of L0 is MMIO with the L1-physical address, and L1 hears nothing', () => {
    const { machine, cpu, tables, root, eptp } = nestedMachine();
    tables.ept(root, 0x60000, 0xfee00000);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x60020)).toEqual({ kind: 'mmio', gpa: 0xfee00020 });
    expect(cpu.nested.guestMode).toBe(true);
    // The second access finds the marker.
    const spent = cost(machine, () => {
      expect(cpu.access(0x60024, { write: true })).toEqual({ kind: 'mmio', gpa: 0xfee00024 });
    });
    expect(spent.faultShadow).toBe(0);
    expect(cpu.nested.exits).toEqual([]);
    all(machine);
  });

  test('T6: two L2s with different EPTPs and VPIDs alternate without a flush', () => {
    const { machine, cpu, tables } = nestedMachine();
    const eptps = [0x200000, 0x201000].map((gpa) => {
      const root = tables.eptRoot();
      tables.ept(root, 0x10000, gpa);
      return root | EPTP_AD;
    });
    const round = (): void => {
      eptps.forEach((eptp, i) => {
        cpu.enterL2({ eptp, vpid: i + 1 });
        expect(cpu.read(0x10000)).toEqual({ kind: 'ram', host: machine.at(0x200000 + i * 4096) * 4 });
        cpu.exitL2();
        cpu.read(0);
      });
    };
    round();
    const spent = cost(machine, round);
    expect(spent.rootHitPrev).toBe(2);
    for (const name of FLUSHES) expect(spent[name], name).toBe(0);
  });

  test('T6 with one VPID02 for all, as upstream: every change of VPID flushes', () => {
    const { machine, cpu, eptp } = nestedMachine({ vpidTags: 'single' });
    const round = (): void => {
      for (const vpid of [1, 2]) {
        cpu.enterL2({ eptp, vpid });
        cpu.read(0x10000);
        cpu.exitL2();
      }
    };
    round();
    expect(cost(machine, round).tlbFlushGuest).toBe(2);
  });

  test('T7: a slot that goes away while another vCPU runs L2 is out of reach at every level', () => {
    const { machine, tables, root, eptp } = nestedMachine();
    const a = machine.cpu;
    const b = machine.addVcpu();
    const slot = addSlot(machine.vm, {
      id: 1,
      baseGfn: 0x8000,
      pages: 16,
      hostBase: 16,
      readOnly: false,
      dirtyLog: false,
    })!;
    tables.ept(root, 0x70000, 0x8000 * 4096);
    a.read(0x8000 * 4096);
    b.enterL2({ eptp, vpid: 1 });
    expect(b.read(0x70000).kind).toBe('ram');
    deleteSlot(machine.vm, slot);
    expect(b.mmu.requests & 1).toBe(1);
    expect(b.read(0x70000)).toEqual({ kind: 'mmio', gpa: 0x8000 * 4096 });
    expect(a.read(0x8000 * 4096)).toEqual({ kind: 'mmio', gpa: 0x8000 * 4096 });
    for (const { tlb } of [a, b]) {
      for (const entry of tlb.entries.values()) expect(entry.hostPage < 16 || entry.hostPage >= 32).toBe(true);
    }
    all(machine);
    addSlot(machine.vm, { id: 2, baseGfn: 0x8000, pages: 16, hostBase: 32, readOnly: false, dirtyLog: false });
    expect(b.read(0x70000)).toEqual({ kind: 'ram', host: 32 * 4096 });
  });
});
