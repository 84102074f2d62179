/**
 * Historical bugs of nested-mmu.md 6.3 in which one level's settings were taken for another's. As in history.test.ts: each
 * by its row number, and its edits in tests/nested/mmu-mutants.json. Rows 4, 9, 11 and 31 were bugs of nested NPT: here
 * are what they mean for EPT, and the part of NPT that exists.
 */
import { describe, expect, test } from 'vitest';
import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { PFEC, EPT_QUALIFICATION as Q } from './access.ts';
import { checkInvariants } from './invariants.ts';
import { REQUEST } from './requests.ts';
import { EXT, eptRole, isDirect, KIND, nptRole, type RoleWords, roleKind, roleLevel, shadowRootRole } from './role.ts';
import { ALL_CAPS, FakeMachine, FLAT, legacyMode, longMode, type PagingMode, paeMode } from './testing/fake-engine.ts';
import { EPT_WB, PTE, TableBuilder } from './testing/tables.ts';
import type { MmuConfig } from './vm-mmu.ts';

const WRITE = { write: true };
const FETCH = { fetch: true };
const EPTP = 0x1e;

function world(config: Partial<MmuConfig> = {}) {
  const machine = new FakeMachine(config);
  const tables = new TableBuilder(machine, 16);
  return { machine, tables, cpu: machine.cpu };
}
const check = (machine: FakeMachine): void =>
  checkInvariants(
    machine.vm,
    machine.vcpus.map((vcpu) => vcpu.mmu),
  );
const ram = (machine: FakeMachine, gpa: number) => ({ kind: 'ram', host: machine.at(gpa) * 4 + (gpa & 3) });

/** One address, mapped by tables of each format to a page of its own. */
function everyFormat(tables: TableBuilder, machine: FakeMachine): readonly (readonly [PagingMode, number])[] {
  const [two, pae, four] = [tables.page(), tables.page(), tables.page()];
  tables.linear32(two, 0x1000, 0x200000);
  tables.linear(pae, 0x1000, 0x210000, PTE, 3);
  machine.poke64(pae, machine.peek(pae) & ~0x66); // PDPTEs have neither rights nor A
  tables.linear(four, 0x1000, 0x220000);
  return [
    [FLAT, 0x1000],
    [legacyMode(two), 0x200000],
    [paeMode(pae), 0x210000],
    [longMode(four), 0x220000],
  ];
}

describe('what belongs to which level', () => {
  // Mutants: root_mmu is still the current one when the EPTP is taken; EPT12 has IA-32's kind. Seen: the second EPT12 is not
  // entered; the execute-only page is readable.
  test('row 1: the settings of EPT12 go to guest_mmu, their kind is in the key, and L1 translates as before', () => {
    const { machine, tables, cpu } = world();
    const cr3 = tables.page();
    tables.linear(cr3, 0x1000, 0x200000);
    const [a, b] = [tables.eptRoot(), tables.eptRoot()];
    tables.ept(a, 0x10000, 0x300000, 4);
    tables.ept(b, 0x10000, 0x310000);
    cpu.setMode(longMode(cr3));
    expect(cpu.read(0x1000)).toEqual(ram(machine, 0x200000));
    const before = { ...cpu.mmu.gvaWalkL1.cpuRole };
    const { id } = cpu.mmu.rootMmu.descriptor;
    for (const [root, page] of [
      [a, 0x300000],
      [b, 0x310000],
    ] as const) {
      cpu.enterL2({ eptp: root + EPTP, vpid: 1 });
      expect(roleKind(cpu.mmu.ngpaWalk.cpuRole.base)).toBe(KIND.EPT);
      expect(cpu.access(0x10000, FETCH)).toEqual(ram(machine, page));
      if (root === a) expect(cpu.read(0x10000).kind).toBe('exit');
      else cpu.exitL2();
      expect(cpu.read(0x1000)).toEqual(ram(machine, 0x200000));
      expect(cpu.mmu.gvaWalkL1.cpuRole).toEqual(before);
      expect(cpu.mmu.rootMmu.descriptor.id).toBe(id);
    }
    check(machine);
  });

  // Mutant: the four-entry root is not made. Seen: nothing can be mapped.
  test('row 4: levels whose tables start with four entries have a root of their own, in every order', () => {
    const { machine, tables, cpu } = world({ tdp: false });
    const formats = everyFormat(tables, machine);
    for (const [l1, l1Page] of formats) {
      for (const [l2, l2Page] of formats) {
        cpu.setMode(l1);
        expect(cpu.read(0x1000)).toEqual(ram(machine, l1Page));
        cpu.enterL2({ vpid: 1, mode: l2 });
        expect(cpu.read(0x1000)).toEqual(ram(machine, l2Page));
        cpu.exitL2();
        expect(cpu.read(0x1000)).toEqual(ram(machine, l1Page));
        check(machine);
      }
    }
    // Of an L1 in PAE paging NPT12 has three levels; L0's root over it is four or five deep all the same
    const role: RoleWords = { base: 0, ext: 0 };
    nptRole(role, CR0.PE | CR0.PG, CR4.PAE, EFER.NXE, false);
    expect(roleLevel(role.base)).toBe(3);
  });

  // Mutant: the role is computed anew on entries only. Seen: L1 has no format to read its tables by.
  test.each([true, false])("row 9: L1's walker is made from L1's registers, also if L2 ran first (TDP: %s)", (tdp) => {
    const { machine, tables, cpu } = world({ tdp });
    const formats = everyFormat(tables, machine);
    for (const [l1, l1Page] of formats) {
      for (const [l2] of formats) {
        cpu.setMode(l1);
        cpu.enterL2({ vpid: 1, mode: l2 });
        // What a restored state is like: L2 runs, and nothing is known of L1 but its registers
        machine.vm.setCapabilities({ ...ALL_CAPS, physicalAddressBits: 39 });
        machine.vm.setCapabilities(ALL_CAPS);
        cpu.read(0x1000);
        cpu.exitL2();
        cpu.tlb.flushAll();
        expect(cpu.read(0x1000)).toEqual(ram(machine, l1Page));
        expect(cpu.mmu.translate(0x1000, 0, PFEC.W)).toBe(true);
        expect(cpu.mmu.gvaWalk.record.gpa).toBe(l1Page);
        check(machine);
      }
    }
  });

  // Mutant: whether a fetch is reported is decided by NX of another level. Seen: code 16 without NX and SMEP.
  test('row 11: a refused fetch is reported by the rules of the tables that refused it', () => {
    const { tables, cpu } = world();
    const cr3 = tables.page();
    tables.linear(cr3, 0x9000, 0x70000);
    const root = tables.eptRoot();
    for (let page = 16; page < 32; page += 1) tables.ept(root, page * 4096, page * 4096);
    tables.ept(root, 0x70000, 0x200000, 3); // rw-
    for (const nx of [false, true]) {
      for (const smep of [false, true]) {
        const mode = longMode(cr3, {
          cr4: CR4.PAE | (smep ? CR4.SMEP : 0),
          efer: EFER.LME | EFER.LMA | (nx ? EFER.NXE : 0),
        });
        cpu.enterL2({ eptp: root + EPTP, vpid: 1, mode });
        const user = { fetch: true, user: true };
        expect(cpu.access(0x1000, user)).toEqual({ kind: '#PF', code: nx || smep ? 0x14 : 4, address: 0x1000 });
        // The same found by emulation, whose walker is the one that had the bug
        expect(cpu.mmu.translate(0x1000, 0, PFEC.F | PFEC.U)).toBe(false);
        cpu.mmu.injectEmulatedFault();
        expect(cpu.nested.faults.at(-1)).toEqual({ code: nx || smep ? 0x14 : 4, address: 0x1000 });
        const refused = cpu.access(0x9000, user); // by EPT12, which has X whatever L2 has
        expect(refused.kind === 'exit' && refused.exit.qualification & 0x3f).toBe(Q.FETCH | (3 << 3));
      }
    }
    // NPT12: the host state of L1 decides
    const role: RoleWords = { base: 0, ext: 0 };
    for (const [efer, cr4, expected] of [
      [EFER.LMA, CR4.PAE, false],
      [EFER.LMA | EFER.NXE, CR4.PAE, true],
      [EFER.LMA, CR4.PAE | CR4.SMEP, true],
    ] as const) {
      nptRole(role, CR0.PE | CR0.PG, cr4, efer, false);
      expect((role.ext & EXT.HAS_PFERR_FETCH) !== 0).toBe(expected);
    }
  });

  // Mutant: the direct map is made under the current root without a look at it. Seen: nobody asks for a new root.
  test.each([true, false])('row 28: a fault handled when the root has gone maps nothing (TDP: %s)', (tdp) => {
    const { machine, tables, cpu } = world({ tdp });
    const root = tables.eptRoot();
    tables.ept(root, 0x10000, 0x200000);
    cpu.enterL2(tdp ? { eptp: root + EPTP, vpid: 1 } : { vpid: 1 });
    cpu.read(0x10000);
    cpu.exitL2();
    // A handler began under L2's MMU, and something in it made L2 exit: L1's roots are not loaded yet
    cpu.mmu.resetContext();
    expect(cpu.mmu.mmu.roots.current.page).toBe(0);
    const { pages } = machine.vm;
    const report = {
      gpa: 0x300000,
      qualification: Q.READ | 0x180,
      linearLo: 0x300000,
      linearHi: 0,
      mmio: false,
      access: 0,
    };
    const result = tdp ? cpu.mmu.handleEptViolation(report) : cpu.mmu.handlePageFault(0x300000, 0, 0);
    expect(result).toBe('retry');
    expect(cpu.mmu.requests & REQUEST.FREE_OBSOLETE_ROOTS).not.toBe(0);
    expect(Array.from(pages.lo.subarray(0, 512)).every((entry) => entry === 0)).toBe(true);
    expect(cpu.read(0x300000)).toEqual(ram(machine, 0x300000));
    check(machine);
  });
});

describe('what L1 is told', () => {
  // Mutants: bits 3 to 5 are those of the last level alone; they are shifted wrongly; "readable" comes from another right.
  // Seen: other qualifications.
  test('row 29: bits 3 to 5 of the qualification are R, W and X of all levels together', () => {
    for (let upper = 1; upper < 8; upper += 1) {
      for (let leaf = 1; leaf < 8; leaf += 1) {
        const { machine, tables, cpu } = world({ prefetch: false });
        const root = tables.eptRoot();
        tables.ept(root, 0x10000, 0x200000, leaf);
        const above = tables.eptEntry(root, 0x10000, 2);
        machine.poke64(above, (machine.peek(above) & ~7) | upper);
        const illegal = (rights: number): boolean => (rights & 3) === 2;
        for (const [access, asked, bit] of [
          [{}, 1, Q.READ],
          [WRITE, 2, Q.WRITE],
          [FETCH, 4, Q.FETCH],
        ] as const) {
          cpu.enterL2({ eptp: root + EPTP, vpid: 1 });
          const result = cpu.access(0x10000, access);
          if (illegal(upper) || illegal(leaf)) {
            expect(result).toMatchObject({ kind: 'exit', exit: { reason: 49 } });
          } else if ((upper & leaf & asked) !== 0) {
            expect(result.kind).toBe('ram');
            cpu.exitL2();
          } else {
            expect(result).toMatchObject({ kind: 'exit', exit: { reason: 48 } });
            expect(result.kind === 'exit' && result.exit.qualification & 0x7f).toBe(bit | ((upper & leaf) << 3));
          }
        }
      }
    }
  });

  // Mutant: an emulated fault is injected with the qualification of the last hardware exit. Seen: bits 8 to 11 of that.
  test('row 30: a fault found by emulation has nothing of an earlier exit', () => {
    const { tables, cpu } = world();
    const root = tables.eptRoot();
    cpu.enterL2({ eptp: root + EPTP, vpid: 1 });
    cpu.mmu.violation.qualification = 0x1fff;
    expect(cpu.mmu.translate(0x10010, 0, PFEC.W)).toBe(false);
    cpu.mmu.injectEmulatedFault();
    // Paging off: linear addresses count as user-mode, writable and executable
    expect(cpu.nested.exits).toEqual([
      {
        reason: 48,
        qualification: Q.WRITE | 0x180 | Q.LINEAR_USER | Q.LINEAR_WRITABLE,
        guestPhysical: 0x10010,
        linear: 0x10010,
      },
    ]);
  });

  // Mutants: EPT12 is judged by IA-32's rules; NPT12's role has SMAP and PKE. Seen: an exit; two roles.
  test('row 31: PKRU, SMAP and SMEP of a level do not apply to the second stage', () => {
    const { machine, tables, cpu } = world();
    const cr3 = tables.page();
    tables.linear(cr3, 0x1000, 0x70000, PTE & ~4); // L2's own pages are the supervisor's: no rule of L2's refuses
    const root = tables.eptRoot();
    for (let page = 16; page < 40; page += 1) tables.ept(root, page * 4096, page * 4096, 0x307);
    const leaf = tables.ept(root, 0x70000, 0x200000);
    machine.poke64(leaf, machine.peek(leaf) | EPT_WB, 0x7800_0000); // bits 62:59, a key to IA-32, are ignored
    const cr4 = CR4.PAE | CR4.SMEP | CR4.SMAP | CR4.PKE;
    cpu.enterL2({ eptp: root + EPTP, vpid: 1, mode: longMode(cr3, { cr4 }) });
    cpu.regs.pkru = 0xffff_ffff;
    for (const access of [{}, WRITE, FETCH]) expect(cpu.access(0x1000, access)).toEqual(ram(machine, 0x200000));
    for (const access of [0, PFEC.W, PFEC.F]) expect(cpu.mmu.translate(0x1000, 0, access)).toBe(true);
    cpu.exitL2();
    const [plain, noisy]: RoleWords[] = [
      { base: 0, ext: 0 },
      { base: 0, ext: 0 },
    ];
    nptRole(plain!, CR0.PE | CR0.PG, CR4.PAE, EFER.LMA, false);
    nptRole(noisy!, CR0.PE | CR0.PG | CR0.WP, CR4.PAE | CR4.SMAP | CR4.PKE, EFER.LMA, false);
    expect(noisy).toEqual(plain);
    const role: RoleWords = { base: 0, ext: 0 };
    eptRole(role, EPTP, true, false);
    expect(machine.vm.formats.intern(role.base, role.ext).pkruMask).toBe(0);
    check(machine);
  });

  // Mutants: WP counts while paging is off; the direct root has a paging bit of the guest. Seen: more pages and roots.
  test('row 36: settings that mean nothing to the tables cost no pages', () => {
    for (const tdp of [true, false]) {
      const { machine, tables, cpu } = world({ tdp });
      const cr3 = tables.page();
      tables.linear(cr3, 0x1000, 0x200000);
      const noise = (base: PagingMode): PagingMode[] =>
        [0, CR0.WP].flatMap((wp) =>
          [0, CR4.SMEP | CR4.SMAP | CR4.PSE].map((cr4) => ({
            ...base,
            cr0: (base.cr0 & ~CR0.WP) | wp,
            cr4: base.cr4 | cr4,
          })),
        );
      const visit = (modes: readonly PagingMode[]): number => {
        cpu.setMode(modes[0]!);
        cpu.read(0x1000);
        const before = machine.vm.counters.spAlloc;
        for (const mode of modes) {
          cpu.setMode(mode);
          cpu.read(0x1000);
        }
        return machine.vm.counters.spAlloc - before;
      };
      expect(visit(noise(FLAT)), 'paging off').toBe(0);
      if (tdp) expect(visit([...noise(longMode(cr3)), ...noise(FLAT)]), 'TDP').toBe(0);
      expect(isDirect(shadowRootRole(cpu.mmu.gvaWalkL1.cpuRole.base))).toBe(!tdp || cpu.regs.cr0 >>> 31 === 0);
      check(machine);
    }
  });
});
