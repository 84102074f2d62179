import { describe, expect, test } from 'vitest';
import { CR0, CR4 } from '../../arch/registers.ts';
import { EFFECTS, type Effect, type EffectEvent } from './effect-matrix.ts';
import { checkInvariants } from './invariants.ts';
import { REQUEST } from './requests.ts';
import { addSlot, deleteSlot } from './slots.ts';
import { ALL_CAPS, type EnterOptions, FakeMachine, type FakeVcpu, longMode } from './testing/fake-engine.ts';
import { TableBuilder } from './testing/tables.ts';

/** L1 in 4-level mode with two address spaces, two EPT12s, and an L2 that has run under each; L1 runs, nothing is pending. */
function scene(tdp: boolean) {
  const machine = new FakeMachine({ tdp });
  const tables = new TableBuilder(machine, 16);
  const { cpu } = machine;
  const cr3 = [tables.page(), tables.page()];
  for (const root of cr3) for (let page = 0; page < 512; page += 1) tables.linear(root, page * 4096, page * 4096);
  const eptps = [tables.eptRoot() + 0x1e, tables.eptRoot() + 0x1e];
  for (const eptp of eptps) for (let page = 0; page < 128; page += 1) tables.ept(eptp - 0x1e, page * 4096, page * 4096);
  machine.poke64(0x300000, eptps[1]!);
  cpu.nested.eptpSwitching = true;
  cpu.nested.eptpListAddress = 0x300000;
  cpu.setMode({ ...longMode(cr3[1]!), cr4: CR4.PAE | CR4.SMEP });
  cpu.read(0x1000);
  cpu.writeCr3(cr3[0]!);
  cpu.read(0x1000);
  const mode = longMode(cr3[0]!);
  const visit = (options: EnterOptions): void => {
    cpu.enterL2(options);
    cpu.read(0x1000);
    cpu.exitL2();
    cpu.read(0x1000);
  };
  if (tdp) for (const eptp of [...eptps, eptps[0]!]) visit({ eptp, vpid: 1, mode });
  visit({ vpid: 1, mode });
  return { machine, cpu, cr3, eptps, mode };
}

type Scene = ReturnType<typeof scene>;

/** How each event is made: what comes before it, and the event. */
const EVENTS: Record<EffectEvent, { before?: (s: Scene) => void; event: (s: Scene) => void }> = {
  'MOV CR3': { event: ({ cpu, cr3 }) => void cpu.writeCr3(cr3[1]!) },
  'MOV CR3, no flush': {
    before: (s) => {
      changeCr4(s.cpu, s.cpu.regs.cr4 | CR4.PCIDE);
      s.cpu.read(0x1000);
    },
    event: ({ cpu, cr3 }) => void cpu.writeCr3(cr3[1]! + 1, true),
  },
  'CR4.SMEP 1 to 0': { event: ({ cpu }) => changeCr4(cpu, cpu.regs.cr4 & ~CR4.SMEP) },
  'CR4.PGE toggled': { event: ({ cpu }) => changeCr4(cpu, cpu.regs.cr4 ^ CR4.PGE) },
  'CR4.PCIDE set': { event: ({ cpu }) => changeCr4(cpu, cpu.regs.cr4 | CR4.PCIDE) },
  'CR0.WP cleared': {
    event: ({ cpu }) => {
      const old = cpu.regs.cr0;
      cpu.regs.cr0 &= ~CR0.WP;
      cpu.mmu.cr0Written(old);
    },
  },
  INVLPG: { event: ({ cpu }) => cpu.mmu.invlpg(0x1000, 0) },
  'VM entry, EPT12, VPID': { event: ({ cpu, eptps, mode }) => cpu.enterL2({ eptp: eptps[0]!, vpid: 1, mode }) },
  'VM entry, EPT12, no VPID': { event: ({ cpu, eptps, mode }) => cpu.enterL2({ eptp: eptps[0]!, mode }) },
  'VM entry, no EPT12, VPID': { event: ({ cpu, mode }) => cpu.enterL2({ vpid: 1, mode }) },
  'VM entry, VPID': { event: ({ cpu, mode }) => cpu.enterL2({ vpid: 1, mode }) },
  'VM entry, another VPID': { event: ({ cpu, mode }) => cpu.enterL2({ vpid: 2, mode }) },
  'VM entry, no VPID': { event: ({ cpu, mode }) => cpu.enterL2({ mode }) },
  'VM exit, EPT12, VPID': {
    before: ({ cpu, eptps, mode }) => enterAndRun(cpu, { eptp: eptps[0]!, vpid: 1, mode }),
    event: ({ cpu }) => cpu.exitL2(),
  },
  'VM exit, EPT12, no VPID': {
    before: ({ cpu, eptps, mode }) => enterAndRun(cpu, { eptp: eptps[0]!, mode }),
    event: ({ cpu }) => cpu.exitL2(),
  },
  'VMFUNC EPTP switch, VPID': {
    before: ({ cpu, eptps, mode }) => enterAndRun(cpu, { eptp: eptps[0]!, vpid: 1, mode }),
    event: ({ cpu }) => expect(cpu.mmu.vmfunc(0, 0)).toBe('ok'),
  },
  'VMFUNC EPTP switch, no VPID': {
    before: ({ cpu, eptps, mode }) => enterAndRun(cpu, { eptp: eptps[0]!, mode }),
    event: ({ cpu }) => expect(cpu.mmu.vmfunc(0, 0)).toBe('ok'),
  },
  'INVEPT single': { event: ({ cpu, eptps }) => expect(cpu.mmu.invept(1, eptps[0]!, 0)).toBe('ok') },
  'INVEPT global': { event: ({ cpu }) => expect(cpu.mmu.invept(2, 0, 0)).toBe('ok') },
  'INVVPID single': { event: ({ cpu }) => expect(cpu.mmu.invvpid(1, 1, false, 0, 0)).toBe('ok') },
  'VMCS12 released': { event: ({ cpu }) => cpu.mmu.releaseVmcs12() },
  VMXOFF: { event: ({ cpu }) => cpu.mmu.releaseGuestRoots() },
  'slot deleted': {
    before: ({ machine }) =>
      void addSlot(machine.vm, { id: 1, baseGfn: 0x8000, pages: 1, hostBase: 16, readOnly: false, dirtyLog: false }),
    event: ({ machine, cpu }) => {
      deleteSlot(machine.vm, machine.vm.slots.byId(1)!);
      expect(cpu.tlb.entries.size).toBe(0);
      cpu.mmu.serviceRequests();
    },
  },
  'CPUID changed': { event: ({ machine }) => machine.vm.setCapabilities({ ...ALL_CAPS, physicalAddressBits: 39 }) },
};

function changeCr4(cpu: FakeVcpu, cr4: number): void {
  const old = cpu.regs.cr4;
  cpu.regs.cr4 = cr4;
  cpu.mmu.cr4Written(old);
}

function enterAndRun(cpu: FakeVcpu, options: EnterOptions): void {
  cpu.enterL2(options);
  cpu.read(0x1000);
}

/** Pages named by the records of one MMU. */
const named = (cache: { current: { page: number }; previous: readonly { page: number }[] }): number[] =>
  [cache.current, ...cache.previous].map(({ page }) => page).filter((page) => page !== 0);

/** What happened, in the matrix's words. */
function observe(s: Scene, event: () => void): Pick<Effect, 'mmu' | 'walker' | 'roots' | 'sync' | 'tlb'> {
  const { cpu, machine } = s;
  const { mmu } = cpu;
  const { counters, pages } = machine.vm;
  const wasMmu = mmu.mmu;
  const wasWalker = mmu.gvaWalk;
  const r = named(mmu.rootMmu.roots);
  const g = named(mmu.guestMmu.roots);
  const first = mmu.guestMmu.roots.current.page;
  const before = { ...counters };
  const guestRoots = new Set(r.filter((page) => (pages.role[page]! & (1 << 18)) !== 0));
  cpu.tlb.log.length = 0;
  event();
  const switched =
    counters.rootHitCurrent + counters.rootHitPrev + counters.rootMiss >
    before.rootHitCurrent + before.rootHitPrev + before.rootMiss;
  const lost = (was: number[], now: number[]): number[] => was.filter((page) => !now.includes(page));
  const lostR = lost(r, named(mmu.rootMmu.roots));
  const lostG = lost(g, named(mmu.guestMmu.roots));
  let roots: Effect['roots'] = switched ? 'switched' : 'none';
  if (lostR.length > 0 && lostR.length === r.length && lostG.length > 0 && lostG.length === g.length)
    roots = 'all freed';
  else if (lostR.length > 0 && lostR.length === r.length) roots = 'all of R freed';
  else if (lostR.length > 0 && lostR.every((page) => guestRoots.has(page))) roots = 'L2 ones of R freed';
  else if (lostR.length > 0) roots = 'current of R freed';
  else if (lostG.length > 0 && lostG.length === g.length) roots = 'all of G freed';
  else if (lostG.length === 1 && lostG[0] === first) roots = 'matching of G freed';
  const { requests } = mmu;
  let tlb: Effect['tlb'] = 'none';
  if ((requests & REQUEST.FLUSH_ALL) !== 0 || counters.tlbFlushVmWide > before.tlbFlushVmWide) tlb = 'all';
  else if ((requests & REQUEST.FLUSH_GUEST) !== 0) tlb = 'guest';
  else if ((requests & REQUEST.FLUSH_CURRENT) !== 0) tlb = 'current';
  else if (cpu.tlb.log.some((line) => line.startsWith('address'))) tlb = 'address';
  else if (cpu.tlb.log.includes('vpid 1')) tlb = 'tag';
  let sync: Effect['sync'] = 'none';
  if ((requests & REQUEST.MMU_SYNC) !== 0) sync = 'current';
  else if (!machine.vm.config.tdp && (requests & REQUEST.FLUSH_GUEST) !== 0) sync = 'current';
  else if (!machine.vm.config.tdp && tlb === 'address') sync = 'address';
  const moved = (was: unknown, now: unknown, out: string, back: string): string =>
    was === now ? 'stays' : now === mmu.guestMmu || now === mmu.gvaWalkL2 ? out : back;
  return {
    mmu: moved(wasMmu, mmu.mmu, 'R to G', 'G to R') as Effect['mmu'],
    walker: moved(wasWalker, mmu.gvaWalk, 'L1 to L2', 'L2 to L1') as Effect['walker'],
    roots,
    sync,
    tlb,
  };
}

describe('effect matrix', () => {
  test.each(EFFECTS.map((effect) => [effect.event, effect.l0, effect] as const))('%s (L0: %s)', (event, l0, effect) => {
    const s = scene(l0 === 'TDP');
    const { before, event: make } = EVENTS[event];
    before?.(s);
    const { mmu, walker, roots, sync, tlb } = effect;
    expect(observe(s, () => make(s))).toEqual({ mmu, walker, roots, sync, tlb });
    // And whatever it was, the machine goes on.
    s.cpu.mmu.reload();
    expect(s.cpu.read(0x1000)).toEqual({ kind: 'ram', host: s.machine.at(0x1000) * 4 });
    checkInvariants(s.machine.vm, [s.cpu.mmu]);
  });
});
