/** EPT12 as L1 sees it: rights, misconfigurations, qualifications, A/D, PML, EPTP switching (nested-mmu.md 6.4, 4.15). */
import { describe, expect, test } from 'vitest';
import { SPTE } from '../../contracts/second-stage.ts';
import { PFEC, EPT_QUALIFICATION as Q } from './access.ts';
import { EPT_CAP } from './ept.ts';
import { checkInvariants } from './invariants.ts';
import { addSlot, deleteSlot, setDirtyLog, takeDirtyLog } from './slots.ts';
import { type Access, ALL_CAPS, FakeMachine, longMode } from './testing/fake-engine.ts';
import { EPT_AD, EPT_WB, PTE, TableBuilder } from './testing/tables.ts';
import type { MmuConfig } from './vm-mmu.ts';

const EPTP = 0x1e;
const EPTP_WITH_AD = 0x5e;
const READ: Access = {};
const WRITE: Access = { write: true };
const FETCH: Access = { fetch: true };

function nested(config: Partial<MmuConfig> = {}, bits = EPTP) {
  const machine = new FakeMachine(config);
  const tables = new TableBuilder(machine, 16);
  const root = tables.eptRoot();
  return { machine, tables, root, eptp: root + bits, cpu: machine.cpu };
}

const check = (machine: FakeMachine): void =>
  checkInvariants(
    machine.vm,
    machine.vcpus.map((vcpu) => vcpu.mmu),
  );

describe('EPT12 leaf rights', () => {
  const misc = 'misconfiguration';
  const perm = (access: number, rights: number): number => access | (rights << 3);
  // nested-mmu.md 6.4, "EPT12 leaf rights and the expected result for a final access"; X as offered and not.
  const matrix: readonly (readonly [string, number, unknown, unknown, unknown])[] = [
    ['---', 0, Q.READ, Q.WRITE, Q.FETCH],
    ['r--', 1, 'ok', perm(Q.WRITE, 1), perm(Q.FETCH, 1)],
    ['-w-', 2, misc, misc, misc],
    ['-wx', 6, misc, misc, misc],
    ['rw-', 3, 'ok', 'ok', perm(Q.FETCH, 3)],
    ['--x', 4, perm(Q.READ, 4), perm(Q.WRITE, 4), 'ok'],
    ['--x, not offered', 4, misc, misc, misc],
    ['r-x', 5, 'ok', perm(Q.WRITE, 5), 'ok'],
    ['rwx', 7, 'ok', 'ok', 'ok'],
  ];
  test.each(matrix)('%s', (name, rights, read, write, fetch) => {
    const capabilities = name.includes('not offered')
      ? { ...ALL_CAPS, ept: ALL_CAPS.ept & ~EPT_CAP.EXECUTE_ONLY }
      : ALL_CAPS;
    [READ, WRITE, FETCH].forEach((access, i) => {
      const { tables, root, eptp, cpu, machine } = nested({ capabilities });
      tables.ept(root, 0x10000, 0x200000, rights);
      cpu.enterL2({ eptp, vpid: 1 });
      const result = cpu.access(0x10123, access);
      const expected = [read, write, fetch][i];
      if (expected === 'ok') expect(result).toEqual({ kind: 'ram', host: machine.at(0x200123) * 4 + 3 });
      else if (expected === misc) {
        expect(result).toMatchObject({ kind: 'exit', exit: { reason: 49, qualification: 0, guestPhysical: 0x10123 } });
      } else {
        expect(result).toMatchObject({ kind: 'exit', exit: { reason: 48, guestPhysical: 0x10123, linear: 0x10123 } });
        expect(result.kind === 'exit' && result.exit.qualification & 0x1ff).toBe((expected as number) | 0x180);
      }
      check(machine);
    });
  });

  test('combine over all levels: the qualification has the AND', () => {
    const { tables, root, eptp, cpu, machine } = nested();
    tables.ept(root, 0x10000, 0x200000, 7);
    const upper = tables.eptEntry(root, 0x10000, 2);
    machine.poke64(upper, (machine.peek(upper) & ~7) | 5);
    cpu.enterL2({ eptp, vpid: 1 });
    const result = cpu.access(0x10000, WRITE);
    expect(result.kind === 'exit' && result.exit.qualification & 0x7f).toBe(Q.WRITE | (5 << 3));
  });

  test('with MBEC: fetches ask XU for user pages, and bit 6 is reported', () => {
    const { tables, root, eptp, cpu } = nested();
    const cr3 = 0x40000;
    // L2's tables, mapped one to one, with a user page and a supervisor page.
    const l2 = new TableBuilder(cpu.machine, 64);
    expect(l2.page()).toBe(cr3);
    l2.linear(cr3, 0x1000, 0x70000, PTE);
    l2.linear(cr3, 0x2000, 0x71000, PTE & ~4);
    for (let page = 64; page < 70; page += 1) tables.ept(root, page * 4096, page * 4096, 0x407);
    tables.ept(root, 0x70000, 0x200000, 0x405); // r-x, XU
    tables.ept(root, 0x71000, 0x201000, 0x401); // r--, XU only
    const fetch = (linear: number, user: boolean) => {
      cpu.enterL2({ eptp, vpid: 1, mbec: true, mode: longMode(cr3) });
      const result = cpu.access(linear, { fetch: true, user });
      if (result.kind !== 'exit') cpu.exitL2();
      return result.kind === 'exit' ? result.exit.qualification & 0xe7f : result.kind;
    };
    expect(fetch(0x1000, true)).toBe('ram');
    expect(fetch(0x1000, false)).toBe('ram'); // decided by the page: it is a user page
    expect(fetch(0x2000, false)).toBe(Q.FETCH | Q.READABLE | Q.USER_EXECUTABLE | Q.LINEAR_WRITABLE);
    tables.ept(root, 0x70000, 0x200000, 0x5); // X, no XU
    cpu.mmu.invept(2, 0, 0);
    machineForget(cpu.machine, root);
    expect(fetch(0x1000, true)).toBe(Q.FETCH | Q.READABLE | Q.EXECUTABLE | Q.LINEAR_USER | Q.LINEAR_WRITABLE);
  });
});

/** Tables were poked behind L0's back: tell it, as a device would. */
function machineForget(machine: FakeMachine, _root: number): void {
  for (let page = 16; page < 64; page += 1) {
    for (let i = 0; i < 512; i += 1)
      machine.dma64(page * 4096 + i * 8, machine.peek(page * 4096 + i * 8), machine.peek(page * 4096 + i * 8 + 4));
  }
}

describe('accesses to the tables of L2', () => {
  function paged(bits: number, leafBits = PTE) {
    const world = nested({}, bits);
    const { machine, tables, root } = world;
    const l2 = new TableBuilder(machine, 64);
    const cr3 = l2.page();
    const leaf = l2.linear(cr3, 0x1000, 0x70000, leafBits);
    for (let page = 64; page < 70; page += 1) tables.ept(root, page * 4096, page * 4096, 7 | EPT_AD);
    tables.ept(root, 0x70000, 0x200000, 7 | EPT_AD);
    const tablePage = leaf & ~0xfff;
    return { ...world, leaf, tablePage, mode: longMode(cr3) };
  }

  test.each([
    ['not there, A/D off: a read', EPTP, 0, PTE, READ, Q.READ],
    ['not there, A/D off, though the access is a write: still a read', EPTP, 0, PTE, WRITE, Q.READ],
    ['not there, A/D on: read and write', EPTP_WITH_AD, 0, PTE, READ, Q.READ | Q.WRITE],
    ['read-only, A/D on: read and write', EPTP_WITH_AD, 1, PTE, READ, Q.READ | Q.WRITE | Q.READABLE],
    ['read-only, A/D off, A to be set: read and write', EPTP, 1, PTE & ~0x20, READ, Q.READ | Q.WRITE | Q.READABLE],
    ['r-x, A/D off, D to be set', EPTP, 5, PTE & ~0x40, WRITE, Q.READ | Q.WRITE | Q.READABLE | Q.EXECUTABLE],
    ['read-only, A/D off, nothing to be set: allowed', EPTP, 1, PTE, WRITE, 'ok'],
  ] as const)('%s', (_name, bits, rights, leafBits, access, expected) => {
    const { machine, tables, root, eptp, cpu, leaf, tablePage, mode } = paged(bits, leafBits);
    tables.ept(root, tablePage, tablePage, rights === 0 ? 0 : rights | EPT_AD);
    if (rights === 0) machine.poke64(tables.eptEntry(root, tablePage), 0);
    cpu.enterL2({ eptp, vpid: 1, mode });
    const result = cpu.access(0x1010, access);
    if (expected === 'ok') expect(result.kind).toBe('ram');
    else {
      // Bit 7 set, bit 8 clear; the address is the entry's own, to the byte.
      expect(result).toMatchObject({
        kind: 'exit',
        exit: { reason: 48, qualification: expected | 0x80, guestPhysical: leaf, linear: 0x1010 },
      });
    }
    check(machine);
  });

  test('found by emulation give the same exit, and take nothing from an old hardware qualification', () => {
    const { machine, tables, root, eptp, cpu, leaf, tablePage, mode } = paged(EPTP);
    machine.poke64(tables.eptEntry(root, tablePage), 0);
    cpu.enterL2({ eptp, vpid: 1, mode });
    cpu.mmu.violation.qualification = 0xfff; // a stale report
    expect(cpu.mmu.translate(0x1010, 0, PFEC.W)).toBe(false);
    cpu.mmu.injectEmulatedFault();
    expect(cpu.nested.exits).toEqual([
      { reason: 48, qualification: Q.READ | 0x80, guestPhysical: leaf, linear: 0x1010 },
    ]);
  });

  test('an emulated final access reports bits 7, 8 and the rights of L2 own pages', () => {
    const { machine, tables, root, eptp, cpu, mode } = paged(EPTP);
    machine.poke64(tables.eptEntry(root, 0x70000), 0);
    cpu.enterL2({ eptp, vpid: 1, mode });
    expect(cpu.mmu.translate(0x1010, 0, PFEC.W)).toBe(false);
    cpu.mmu.injectEmulatedFault();
    expect(cpu.nested.exits[0]).toEqual({
      reason: 48,
      qualification: Q.WRITE | Q.LINEAR_VALID | Q.FINAL | Q.LINEAR_USER | Q.LINEAR_WRITABLE,
      guestPhysical: 0x70010,
      linear: 0x1010,
    });
  });

  test('bits 9 to 11 are not reported unless advanced exit information is offered', () => {
    const ept = ALL_CAPS.ept & ~EPT_CAP.ADVANCED_EXIT_INFORMATION;
    const { eptp, cpu } = nested({ capabilities: { ...ALL_CAPS, ept } });
    cpu.enterL2({ eptp, vpid: 1 });
    const result = cpu.access(0x10000, WRITE);
    expect(result.kind === 'exit' && result.exit.qualification).toBe(Q.WRITE | 0x180);
  });

  test('a #PF of L2 own tables is no exit', () => {
    const { cpu, eptp, mode } = paged(EPTP);
    cpu.enterL2({ eptp, vpid: 1, mode });
    expect(cpu.access(0x9000, { write: true, user: true })).toEqual({ kind: '#PF', code: 6, address: 0x9000 });
    expect(cpu.mmu.translate(0x9000, 0, PFEC.W | PFEC.U)).toBe(false);
    cpu.mmu.injectEmulatedFault();
    expect(cpu.nested.faults).toEqual([{ code: 6, address: 0x9000 }]);
  });
});

describe('accessed and dirty flags of EPT12', () => {
  const entries = (world: ReturnType<typeof nested>, ngpa: number): number[] =>
    [4, 3, 2, 1].map((level) => (world.machine.peek(world.tables.eptEntry(world.root, ngpa, level)) >> 8) & 3);

  function fresh(bits: number) {
    const world = nested({ prefetch: false }, bits);
    const { tables, root, machine } = world;
    tables.ept(root, 0x10000, 0x200000, 7);
    for (const level of [4, 3, 2, 1]) {
      const at = tables.eptEntry(root, 0x10000, level);
      machine.poke64(at, machine.peek(at) & ~EPT_AD);
    }
    return world;
  }

  test('on: A on every level for a read, D on the leaf for the first write, which L0 sees', () => {
    const world = fresh(EPTP_WITH_AD);
    const { cpu, eptp, machine } = world;
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.access(0x10000, READ);
    expect(entries(world, 0x10000)).toEqual([1, 1, 1, 1]);
    const before = cpu.violations;
    expect(cpu.access(0x10000, WRITE).kind).toBe('ram');
    expect(cpu.violations).toBe(before + 1);
    expect(entries(world, 0x10000)).toEqual([1, 1, 1, 3]);
    cpu.access(0x10000, WRITE);
    expect(cpu.violations).toBe(before + 1);
    check(machine);
  });

  test('off: L0 never writes to EPT12, and a read leaves W in force', () => {
    const world = fresh(EPTP);
    const { cpu, eptp } = world;
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.access(0x10000, READ);
    const before = cpu.violations;
    expect(cpu.access(0x10000, WRITE).kind).toBe('ram');
    expect(cpu.violations).toBe(before);
    expect(entries(world, 0x10000)).toEqual([0, 0, 0, 0]);
  });

  test('a refused access sets nothing', () => {
    const world = fresh(EPTP_WITH_AD);
    const { cpu, eptp, tables, root, machine } = world;
    const leaf = tables.eptEntry(root, 0x10000);
    machine.poke64(leaf, machine.peek(leaf) & ~2);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.access(0x10000, WRITE).kind).toBe('exit');
    expect(entries(world, 0x10000)).toEqual([0, 0, 0, 0]);
  });

  test('PML: page-aligned nGPAs downwards from the index, then PML_FULL, and nothing is set by the access that overflows', () => {
    const world = nested({ prefetch: false }, EPTP_WITH_AD);
    const { cpu, eptp, tables, root, machine } = world;
    for (let i = 0; i < 4; i += 1) tables.ept(root, 0x10000 + i * 4096, 0x200000 + i * 4096, 7);
    cpu.nested.usesPml = true;
    cpu.nested.pmlAddress = 0x300000;
    cpu.nested.pmlIndex = 1;
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.access(0x10123, WRITE);
    cpu.access(0x11fff, WRITE);
    cpu.access(0x10456, WRITE); // D is set already
    expect([machine.peek(0x300008), machine.peek(0x300000)]).toEqual([0x10000, 0x11000]);
    expect(cpu.nested.pmlIndex).toBe(0xffff);
    expect(cpu.access(0x12008, WRITE)).toMatchObject({ kind: 'exit', exit: { reason: 62, qualification: 0 } });
    expect(machine.peek(tables.eptEntry(root, 0x12000)) & EPT_AD).toBe(0x000);
    cpu.nested.pmlIndex = 511;
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.access(0x12008, WRITE).kind).toBe('ram');
    expect(machine.peek(0x300000 + 511 * 8)).toBe(0x12000);
  });

  test('PML and A/D updates are stores: code decoded from those bytes hears of them', () => {
    const world = nested({ prefetch: false }, EPTP_WITH_AD);
    const { cpu, eptp, tables, root, machine } = world;
    tables.ept(root, 0x10000, 0x200000, 7);
    cpu.nested.usesPml = true;
    cpu.nested.pmlAddress = 0x300000;
    cpu.nested.pmlIndex = 1;
    cpu.enterL2({ eptp, vpid: 1 });
    machine.stored.clear();
    cpu.access(0x10123, WRITE);
    expect(machine.stored.has(4 * machine.at(0x300008))).toBe(true);
    expect(machine.stored.has(4 * machine.at(tables.eptEntry(root, 0x10000)))).toBe(true);
  });
});

describe('large pages', () => {
  test('a 2 MiB EPT12 leaf over 2 MiB of backing is one leaf; a shadowed table inside splits it', () => {
    const { machine, tables, root, eptp, cpu } = nested();
    tables.ept2m(root, 0x4000_0000, 0x40_0000, 7);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.access(0x4000_5008, WRITE)).toEqual({ kind: 'ram', host: machine.at(0x40_5008) * 4 });
    const before = cpu.violations;
    cpu.access(0x4010_0000, WRITE);
    expect(cpu.violations).toBe(before);
    cpu.exitL2();
    // Now an EPT12 of a second L2 has its tables inside that page.
    const inside = new TableBuilder(machine, 0x410);
    const other = inside.eptRoot();
    inside.ept(other, 0x1000, 0x200000);
    cpu.enterL2({ eptp: other + EPTP, vpid: 2 });
    expect(cpu.read(0x1000).kind).toBe('ram');
    cpu.exitL2();
    check(machine);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.access(0x4000_5008, WRITE)).toEqual({ kind: 'ram', host: machine.at(0x40_5008) * 4 });
    // A store to the table inside, through L2's large page, is noticed.
    expect(machine.vm.counters.trackWrite).toBe(0);
    cpu.store64(0x4000_0000 + (other - 0x40_0000), 0);
    expect(machine.vm.counters.trackWrite).toBe(1);
    check(machine);
    cpu.exitL2();
    cpu.enterL2({ eptp: other + EPTP, vpid: 2 });
    expect(cpu.read(0x1000).kind).toBe('exit');
  });

  test('backing that is not aligned like the frames is mapped by 4 KiB pieces, with the same results', () => {
    const { machine, tables, root, eptp, cpu } = nested();
    addSlot(machine.vm, { id: 1, baseGfn: 0x8000, pages: 1024, hostBase: 777, readOnly: false, dirtyLog: false });
    tables.ept2m(root, 0x4000_0000, 0x8000 * 4096, 7);
    cpu.enterL2({ eptp, vpid: 1 });
    for (const offset of [0, 0x1008, 0x1f_f000]) {
      expect(cpu.access(0x4000_0000 + offset, WRITE)).toEqual({ kind: 'ram', host: 777 * 4096 + offset });
    }
    check(machine);
  });

  test('page sizes that L1 was not offered are misconfigurations', () => {
    const ept = ALL_CAPS.ept & ~(EPT_CAP.PAGE_2M | EPT_CAP.PAGE_1G);
    const { tables, root, eptp, cpu } = nested({ capabilities: { ...ALL_CAPS, ept } });
    tables.ept2m(root, 0x4000_0000, 0x40_0000, 7);
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x4000_0000)).toMatchObject({ kind: 'exit', exit: { reason: 49 } });
  });
});

describe('dirty logging', () => {
  test('sees writes through EPT01 and EPT02 once each, and again after the log was taken', () => {
    const { machine, tables, root, eptp, cpu } = nested();
    const slot = machine.vm.slots.byId(0)!;
    tables.ept(root, 0x10000, 0x200000, 7);
    cpu.access(0x300000, WRITE);
    setDirtyLog(machine.vm, slot, true);
    const dirty = (): number[] => {
      const log = takeDirtyLog(machine.vm, slot);
      return [...log].flatMap((word, i) =>
        [...Array(32).keys()].filter((bit) => (word >>> bit) & 1).map((bit) => i * 32 + bit),
      );
    };
    cpu.access(0x300000, WRITE);
    cpu.access(0x400000, READ);
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.access(0x10000, WRITE);
    expect(dirty().filter((gfn) => gfn >= 0x200)).toEqual([0x200, 0x300]);
    cpu.access(0x10000, READ);
    expect(dirty()).toEqual([]);
    cpu.access(0x10000, WRITE);
    expect(dirty()).toEqual([0x200]);
    cpu.exitL2();
    cpu.store64(tables.eptEntry(root, 0x50000), 0x201000 | 7 | EPT_WB); // a shadowed table is logged too
    expect(dirty()).toEqual([tables.eptEntry(root, 0x50000) >> 12]);
    check(machine);
  });
});

describe('EPTP switching', () => {
  function switching() {
    const world = nested({}, EPTP_WITH_AD);
    const { machine, tables, root, cpu } = world;
    const other = tables.eptRoot();
    tables.ept(root, 0x10000, 0x200000, 7);
    tables.ept(other, 0x10000, 0x201000, 7);
    machine.poke64(0x300000, root + EPTP_WITH_AD);
    machine.poke64(0x300008, other + EPTP); // no A/D: another role
    machine.poke64(0x300010, other + 0x1d); // memory type 5
    cpu.nested.eptpSwitching = true;
    cpu.nested.eptpListAddress = 0x300000;
    return { ...world, other };
  }

  test('goes to the other EPT12 and back, with its A/D bit, and back is a hit', () => {
    const { cpu, eptp, machine } = switching();
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.read(0x10000)).toEqual({ kind: 'ram', host: machine.at(0x200000) * 4 });
    expect(cpu.mmu.vmfunc(0, 1)).toBe('ok');
    expect(cpu.read(0x10000)).toEqual({ kind: 'ram', host: machine.at(0x201000) * 4 });
    expect(cpu.tlb.root.accessedDirty).toBe(false);
    const { rootAlloc } = machine.vm.counters;
    expect(cpu.mmu.vmfunc(0, 0)).toBe('ok');
    expect(cpu.read(0x10000)).toEqual({ kind: 'ram', host: machine.at(0x200000) * 4 });
    expect(cpu.tlb.root.accessedDirty).toBe(true);
    expect(machine.vm.counters.rootAlloc).toBe(rootAlloc);
    check(machine);
  });

  test.each([
    ['function 64', 64, 0, '#UD'],
    ['function 1', 1, 0, 'exit'],
    ['index 512', 0, 512, 'exit'],
    ['an illegal EPTP', 0, 2, 'exit'],
    ['an empty entry', 0, 3, 'exit'],
    ['the EPTP in force', 0, 0, 'ok'],
  ] as const)('%s', (_name, eax, ecx, result) => {
    const { cpu, eptp } = switching();
    cpu.enterL2({ eptp, vpid: 1 });
    cpu.read(0x10000);
    const root = cpu.mmu.guestMmu.roots.current.page;
    expect(cpu.mmu.vmfunc(eax, ecx)).toBe(result);
    expect(cpu.mmu.guestMmu.roots.current.page).toBe(root);
  });

  test('an unreadable list exits', () => {
    const { cpu, eptp } = switching();
    cpu.nested.eptpListAddress = 0xf000_0000;
    cpu.enterL2({ eptp, vpid: 1 });
    expect(cpu.mmu.vmfunc(0, 1)).toBe('exit');
  });
});

describe('INVEPT and INVVPID operands', () => {
  const { cpu } = nested();
  test.each([
    [1, 0x1001e, 0, 'ok'],
    [2, 0xffff_ffff, 0xffff_ffff, 'ok'],
    [0, 0x1001e, 0, 'fail 28'],
    [3, 0x1001e, 0, 'fail 28'],
    [1, 0x1001f, 0, 'fail 28'],
    [1, 0x1001e, 0x100, 'fail 28'],
  ] as const)('INVEPT type %i of EPTP low %i high %i: %s', (type, lo, hi, result) => {
    expect(cpu.mmu.invept(type, lo, hi)).toBe(result);
  });
  test.each([
    [0, 1, false, 0, 0, 'ok'],
    [0, 1, false, 0, 0x8000, 'fail 28'],
    [0, 1, false, 0, 0xffff_8000, 'ok'],
    [0, 0, false, 0, 0, 'fail 28'],
    [1, 1, false, 0, 0x8000, 'ok'],
    [1, 0, false, 0, 0, 'fail 28'],
    [2, 0, false, 0, 0, 'ok'],
    [3, 1, false, 0, 0, 'ok'],
    [3, 0, false, 0, 0, 'fail 28'],
    [4, 1, false, 0, 0, 'fail 28'],
    [1, 1, true, 0, 0, 'fail 28'],
  ] as const)('INVVPID type %i of VPID %i (more bits: %s), address %i:%i: %s', (type, vpid, more, lo, hi, result) => {
    expect(cpu.mmu.invvpid(type, vpid, more, lo, hi)).toBe(result);
  });
  test('an address is canonical by the width that the processor has, with CR4.LA57 clear too', () => {
    const wide = nested({ capabilities: { ...ALL_CAPS, linearAddressBits: 57 } }).cpu;
    expect(wide.mmu.invvpid(0, 1, false, 0, 0x8000)).toBe('ok');
    expect(wide.mmu.invvpid(0, 1, false, 0, 0xff00_0000)).toBe('ok');
    expect(wide.mmu.invvpid(0, 1, false, 0, 0x0100_0000)).toBe('fail 28');
    expect(wide.mmu.invpcid(0, 0, 0, 0, 0x8000)).toBe('ok');
    expect(wide.mmu.invpcid(0, 0, 0, 0, 0x0100_0000)).toBe('#GP');
  });
});

describe('reclaim', () => {
  test.each([32, 64, 200])(
    'keeps to a limit of %i shadow pages, spares roots, and nothing is lost but time',
    (pageLimit) => {
      const { machine, tables, root, eptp, cpu } = nested({ pageLimit });
      const count = 300;
      for (let i = 0; i < count; i += 1) tables.ept(root, 0x4000_0000 + i * 2 ** 21, 0x60_0000 + (i % 64) * 4096);
      for (let round = 0; round < 2; round += 1) {
        cpu.enterL2({ eptp, vpid: 1 });
        for (let i = 0; i < count; i += 1) {
          expect(cpu.read(0x4000_0000 + i * 2 ** 21)).toEqual({
            kind: 'ram',
            host: machine.at(0x60_0000 + (i % 64) * 4096) * 4,
          });
          expect(machine.vm.pages.used).toBeLessThanOrEqual(pageLimit);
        }
        cpu.exitL2();
        expect(cpu.read(0x1000).kind).toBe('ram');
        check(machine);
      }
      expect(machine.vm.counters.spReclaimed).toBeGreaterThan(count - pageLimit);
    },
  );

  test('of pages gives everything back when the slots go', () => {
    const { machine, tables, root, eptp, cpu } = nested();
    for (let i = 0; i < 50; i += 1) tables.ept(root, 0x4000_0000 + i * 2 ** 21, 0x60_0000);
    cpu.enterL2({ eptp, vpid: 1 });
    for (let i = 0; i < 50; i += 1) cpu.read(0x4000_0000 + i * 2 ** 21);
    cpu.exitL2();
    cpu.mmu.reload();
    const { pages } = machine.vm;
    const free = pages.freeCount;
    deleteSlot(machine.vm, machine.vm.slots.byId(0)!);
    for (const vcpu of machine.vcpus) vcpu.mmu.serviceRequests();
    expect(pages.used).toBe(0);
    expect(pages.freeCount).toBeGreaterThan(free + 50);
    expect(machine.vm.indirectPages).toBe(0);
  });
});

test('an EPT02 leaf is execute-only where EPT12 says so', () => {
  const { machine, tables, root, eptp, cpu } = nested();
  tables.ept(root, 0x10000, 0x200000, 4);
  cpu.enterL2({ eptp, vpid: 1 });
  cpu.access(0x10000, FETCH);
  const entry = [...cpu.tlb.entries.values()][0]!;
  expect(entry.spte & (SPTE.R | SPTE.W | SPTE.X)).toBe(SPTE.X);
  check(machine);
});
