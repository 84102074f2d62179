/**
 * Random guest tables against the oracle, in every paging format: L0's shadow paging with its allowed stale set, L1 and L2
 * under TDP, L2 under EPT12 with and without A/D and MBEC; and the software walkers, which may never be stale.
 *
 * MMU_FUZZ_STEPS and MMU_FUZZ_SEEDS as in property.test.ts.
 */
import { afterAll, describe, expect, test, vi } from 'vitest';
import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { PFEC } from './access.ts';
import { checkInvariants } from './invariants.ts';
import { compose, type OracleResult } from './oracle.ts';
import { type Access, describeResult, FakeMachine, type FakeVcpu, type PagingMode } from './testing/fake-engine.ts';
import { Random } from './testing/random.ts';
import { TableBuilder } from './testing/tables.ts';
import { type Doing, stateOf, Tally } from './testing/tally.ts';
import type { MmuConfig } from './vm-mmu.ts';

const STEPS = Number(process.env['MMU_FUZZ_STEPS'] ?? 2000);
const SEEDS = (process.env['MMU_FUZZ_SEEDS'] ?? `1,2,${Date.now() >>> 0}`).split(',').map(Number);
const tally = new Tally();
afterAll(() => {
  if (process.env['MMU_FUZZ_SHOW']) console.log('linear addresses, seeds', SEEDS, tally.counts, tally.total);
});

vi.setConfig({ testTimeout: 600_000 });

type Format = '32-bit' | 'PAE' | '4-level' | '5-level';
type Setting = 'shadow' | 'shadow, as L2' | 'TDP' | 'TDP, as L2' | 'EPT12' | 'EPT12 with A/D' | 'EPT12 with MBEC';

/** Frames of guest tables, by home level: two roots, then the others. */
const ROOTS = [16, 17];
const HOME: Readonly<Record<Format, Readonly<Record<number, readonly number[]>>>> = {
  '32-bit': { 2: ROOTS, 1: [22, 23, 24] },
  PAE: { 3: ROOTS, 2: [20, 21], 1: [22, 23, 24] },
  '4-level': { 4: ROOTS, 3: [18, 19], 2: [20, 21], 1: [22, 23, 24] },
  '5-level': { 5: ROOTS, 4: [25, 26], 3: [18, 19], 2: [20, 21], 1: [22, 23, 24] },
};
const INDICES: Readonly<Record<Format, readonly number[]>> = {
  '32-bit': [0, 1, 513],
  PAE: [0, 1, 9],
  '4-level': [0, 1, 9],
  '5-level': [0, 1, 9],
};
const ACCESSES: readonly Access[] = [false, true].flatMap((user) => [
  { user },
  { user, write: true },
  { user, fetch: true },
]);

class LinearFuzz {
  readonly machine: FakeMachine;
  readonly cpu: FakeVcpu;
  /** Runs with paging off and does the stores, as another processor of L1 would. */
  readonly writer: FakeVcpu;
  readonly random: Random;
  readonly format: Format;
  readonly setting: Setting;
  readonly probes: readonly number[];
  readonly eptp: number = 0;
  readonly #ept: TableBuilder;
  mode: PagingMode;
  #vpid = 1;
  /** cr3 → probe and access → results since the last flush. Shadow paging only. */
  readonly allowed = new Map<number, Set<string>[]>();
  readonly seen = { ram: 0, mmio: 0, '#PF': 0, exit: 0, stale: 0 };

  constructor(seed: number, format: Format, setting: Setting, config: Partial<MmuConfig> = {}) {
    this.random = new Random(seed * 7919 + 1);
    this.format = format;
    this.setting = setting;
    const shadow = setting.startsWith('shadow');
    this.machine = new FakeMachine({ tdp: !shadow, pageLimit: 128, ...config });
    this.cpu = this.machine.cpu;
    this.writer = this.machine.addVcpu();
    const pages = INDICES[format].map((index) => index * 4096 + 8);
    const large = format === '32-bit' ? [0, 2 ** 22, 2 ** 31] : [0, 2 ** 21, 2 ** 30, 2 ** 30 + 2 ** 21];
    this.probes = large.flatMap((base) => pages.map((page) => base + page));
    this.#ept = new TableBuilder(this.machine, 1024);
    if (setting.startsWith('EPT12')) {
      const root = this.#ept.eptRoot();
      this.eptp = root | (setting.includes('A/D') ? 0x5e : 0x1e);
      for (const page of [...Array(32).keys(), 64, 65, 66, 600]) this.#mapEpt(page, 0x407);
    }
    for (const level of Object.keys(HOME[format])) {
      for (const table of HOME[format][Number(level)]!) for (let i = 0; i < 12; i += 1) this.edit(table, 'poke');
    }
    this.mode = this.randomMode();
    if (setting.endsWith('L2')) cpuEnters(this.cpu, this.mode, 1);
    else if (this.eptp === 0) this.cpu.setMode(this.mode);
    else cpuEnters(this.cpu, this.mode, 1, this.eptp, setting.includes('MBEC'));
    this.remember(true);
  }

  #mapEpt(page: number, rights: number): void {
    const at = this.#ept.eptEntry(this.eptp & ~0xfff, page * 4096);
    this.machine.dma64(at, (page * 4096) | rights | this.random.pick([0, 0x100, 0x300]) | 0x30);
  }

  randomMode(): PagingMode {
    const { random, format } = this;
    const flag = (bit: number): number => (random.oneIn(2) ? bit : 0);
    const long = format.endsWith('level');
    // Shadow paging does not offer protection keys, and tests its own PCID handling in 4-level mode.
    const tdp = !this.setting.startsWith('shadow');
    return {
      cr0: CR0.PE | CR0.PG | flag(CR0.WP),
      cr4:
        (format === '32-bit' ? flag(CR4.PSE) : CR4.PAE) |
        flag(CR4.SMEP) |
        flag(CR4.SMAP) |
        (format === '5-level' ? CR4.LA57 : 0) |
        (long && tdp ? flag(CR4.PKE) : 0) |
        (long ? CR4.PCIDE : 0),
      efer: (long ? EFER.LME | EFER.LMA : 0) | flag(EFER.NXE),
      cr3: this.cr3(random.pick(ROOTS)),
    };
  }

  cr3(root: number): number {
    return root * 4096 + (this.format.endsWith('level') ? root - 15 : 0); // PCID 1 or 2
  }

  homeLevel(table: number): number {
    return Number(Object.entries(HOME[this.format]).find(([, tables]) => tables.includes(table))![0]);
  }

  entry(level: number): [number, number] {
    const { random, format } = this;
    const wide = format !== '32-bit';
    const rights = random.pick([7, 7, 7, 3, 5, 1]) | random.pick([0, 0x20, 0x60, 0x60]);
    const hi = wide && random.oneIn(6) ? 0x8000_0000 : wide && random.oneIn(8) ? random.below(16) << 27 : 0;
    if (random.oneIn(12)) return [0, 0];
    if (wide && random.oneIn(24)) return [0x40000 | rights, 0x200]; // beyond MAXPHYADDR
    if (format === 'PAE' && level === 3) return [random.pick(HOME[format][2]!) * 4096 + 1, 0];
    if (level === 2 && random.oneIn(5)) {
      const base = wide ? random.pick([0, 0x20_0000, 0x40_0000]) : random.pick([0, 0x40_0000]);
      return [(base | 0x80 | rights | (random.oneIn(8) ? 0x2_0000 : 0)) >>> 0, hi];
    }
    if (level > 1 && !random.oneIn(16)) return [random.pick(HOME[format][level - 1]!) * 4096 + rights, hi];
    return [(random.pick([64, 65, 66, 600, 0xfee00, ...HOME[format][1]!]) * 4096 + rights) >>> 0, hi];
  }

  edit(table: number, how: 'poke' | 'store' | 'dma'): void {
    const { machine, random, format } = this;
    const level = this.homeLevel(table);
    // The first CR3 must load: PDPTEs are legal to begin with.
    const [lo, hi] = format === 'PAE' && level === 3 && how === 'poke' ? [20 * 4096 + 1, 0] : this.entry(level);
    const indices =
      format === '32-bit' && level === 2 ? [0, 1, 512] : format === 'PAE' && level === 3 ? [0, 1] : INDICES[format];
    const top = format.endsWith('level') && level >= 4 ? 0 : random.pick(indices);
    const at = table * 4096 + top * (format === '32-bit' ? 4 : 8);
    if (format === '32-bit') {
      if (how === 'poke') machine.poke32(at, lo);
      else this.writer.store32(at, lo);
    } else if (how === 'poke') machine.poke64(at, lo >>> 0, hi >>> 0);
    else if (how === 'dma') machine.dma64(at, lo >>> 0, hi >>> 0);
    else this.writer.store64(at, lo >>> 0, hi >>> 0);
  }

  /** What every probe gives now, under each CR3. PDPTE registers are those of the current one. */
  remember(fresh: boolean, only = -1): void {
    if (!this.setting.startsWith('shadow')) return;
    const world = this.cpu.world();
    for (const root of ROOTS) {
      const cr3 = this.cr3(root);
      if (this.format === 'PAE' && cr3 !== this.cpu.regs.cr3Lo) continue;
      let sets = this.allowed.get(cr3);
      if (sets === undefined || (fresh && (only === -1 || only === cr3))) this.allowed.set(cr3, (sets = []));
      this.probes.forEach((probe, p) => {
        ACCESSES.forEach((access, a) => {
          const full = { write: false, user: false, fetch: false, implicit: false, ...access };
          const text = describeResult(compose({ ...world, cr3: BigInt(cr3) }, BigInt(probe), full), probe);
          (sets![p * ACCESSES.length + a] ??= new Set()).add(text);
        });
      });
    }
  }

  probe(): void {
    const { random, cpu } = this;
    const shadow = this.setting.startsWith('shadow');
    const p = random.below(this.probes.length);
    const a = random.below(ACCESSES.length);
    const probe = this.probes[p]!;
    // Under TDP the engine's own linear TLB may be stale as hardware's is: that is not what is judged here.
    if (!shadow) cpu.tlb.flushAll();
    const now = describeResult(cpu.oracle(probe, ACCESSES[a]), probe);
    const result = cpu.access(probe, ACCESSES[a]);
    const text = describeResult(result, probe);
    this.seen[result.kind] += 1;
    if (result.kind === '#PF' || result.kind === 'exit' || !shadow) expect(text).toBe(now);
    else {
      expect([...this.allowed.get(cpu.regs.cr3Lo)![p * ACCESSES.length + a]!]).toContain(text);
      if (text !== now) this.seen.stale += 1;
    }
    if (result.kind === 'exit') cpuEnters(cpu, this.mode, this.#vpid, this.eptp, this.setting.includes('MBEC'));
  }

  /** The software walker of whoever runs, on current memory. */
  translate(): void {
    const { random, cpu } = this;
    const probe = random.pick(this.probes);
    const access = random.pick(ACCESSES);
    const now = describeResult(cpu.oracle(probe, access), probe);
    const bits = (access.write ? PFEC.W : 0) | (access.user ? PFEC.U : 0) | (access.fetch ? PFEC.F : 0);
    const ok = cpu.mmu.translate(probe, 0, bits);
    const r = cpu.mmu.gvaWalk.record;
    let result: OracleResult;
    if (ok) {
      const slot = this.machine.vm.slots.find(r.gfn);
      result =
        slot === null ? { kind: 'mmio', gpa: r.gpa } : { kind: 'ram', hostPage: slot.hostPage(r.gfn), gpa: r.gpa };
    } else if (!r.nestedFault) result = { kind: '#PF', code: r.errorCode, address: BigInt(r.addressLo) };
    else if ((r.errorCode & PFEC.RSVD) !== 0) result = { kind: 'misconfiguration', ngpa: r.addressLo };
    else {
      const final = (r.accessKind & PFEC.GUEST_FINAL) !== 0 ? 0x180 : 0x80;
      result = { kind: 'violation', qualification: r.qualification | final, ngpa: r.addressLo };
    }
    expect(describeResult(result, probe), 'software walk').toBe(now);
  }

  step(): void {
    const kind = this.random.below(100);
    const state = stateOf(this.cpu);
    this.act(kind);
    const doing: Doing = kind < 60 ? 'access' : kind < 82 ? 'edit' : kind < 95 || kind >= 97 ? 'invalidation' : 'other';
    tally.add(state, doing);
  }

  act(kind: number): void {
    const { random, cpu, format } = this;
    if (kind < 50) this.probe();
    else if (kind < 60) this.translate();
    else if (kind < 82) {
      const levels = Object.keys(HOME[format]);
      const level = random.oneIn(3) ? Number(random.pick(levels)) : 1;
      this.edit(random.pick(HOME[format][level]!), random.oneIn(6) ? 'dma' : 'store');
      this.remember(false);
    } else if (kind < 90) {
      const cr3 = this.cr3(random.pick(ROOTS));
      const noFlush = format.endsWith('level') && random.oneIn(2);
      // A PAE root whose PDPTEs are refused: the write faults and changes nothing.
      if (!cpu.writeCr3(cr3, noFlush)) return;
      this.mode = { ...this.mode, cr3 };
      // Without PCIDs every CR3 write flushes everything; with them, that PCID.
      if (!noFlush) this.remember(true, format.endsWith('level') ? cr3 : -1);
      else this.remember(false);
    } else if (kind < 95) {
      const probe = random.pick(this.probes);
      cpu.mmu.invlpg(probe, 0);
      const sets = this.allowed.get(cpu.regs.cr3Lo);
      const p = this.probes.indexOf(probe);
      for (let a = 0; a < ACCESSES.length && sets !== undefined; a += 1) sets[p * ACCESSES.length + a] = new Set();
      this.remember(false);
    } else if (kind < 97) {
      // A VM entry whose PDPTEs are illegal fails; that is nested VMX's affair.
      if (format === 'PAE' && this.eptp === 0 && cpu.mmu.loadPdptrs(cpu.regs.cr3Lo) !== 'ok') return;
      this.mode = { ...this.randomMode(), cr3: cpu.regs.cr3Lo };
      if (this.eptp !== 0 || this.setting.endsWith('L2')) {
        cpu.exitL2();
        cpuEnters(cpu, this.mode, this.#vpid, this.eptp, this.setting.includes('MBEC'));
      } else cpu.setMode(this.mode);
      // The vCPU flushes with a mode change: both address spaces start anew.
      cpu.mmu.resetContext();
      cpu.tlb.flushAll();
      cpu.regs.pkru = random.next();
      cpu.regs.ac = random.oneIn(2);
      this.remember(true);
    } else if (this.setting === 'shadow, as L2') {
      if (format === 'PAE' && cpu.mmu.loadPdptrs(cpu.regs.cr3Lo) !== 'ok') return;
      this.mode = { ...this.mode, cr3: cpu.regs.cr3Lo };
      cpu.exitL2();
      // A VPID that never ran has no translations
      this.#vpid += 1;
      cpuEnters(cpu, this.mode, this.#vpid);
      this.remember(true);
    } else if (this.eptp !== 0) {
      cpu.exitL2();
      const page = random.pick([...HOME[format][1]!, ...(HOME[format][2] ?? []), 64, 65, 600, 16]);
      this.#mapEpt(page, random.pick([0x407, 7, 5, 1, 3, 0x401, 0x403, 4, 0, 0x400]));
      expect(cpu.mmu.invept(2, 0, 0)).toBe('ok');
      cpuEnters(cpu, this.mode, this.#vpid, this.eptp, this.setting.includes('MBEC'));
    }
  }
}

function cpuEnters(cpu: FakeVcpu, mode: PagingMode, vpid: number, eptp = 0, mbec = false): void {
  cpu.enterL2(eptp === 0 ? { mode, vpid } : { mode, vpid, eptp, mbec });
}

const SHADOW: readonly Setting[] = ['shadow', 'shadow, as L2'];
const TDP: readonly Setting[] = ['TDP', 'TDP, as L2', 'EPT12', 'EPT12 with A/D', 'EPT12 with MBEC'];

function run(fuzz: LinearFuzz, seed: number, steps: number): LinearFuzz {
  const mmus = fuzz.machine.vcpus.map((vcpu) => vcpu.mmu);
  for (let i = 0; i < steps; i += 1) {
    try {
      fuzz.step();
      if (i % 16 === 0) checkInvariants(fuzz.machine.vm, mmus);
    } catch (error) {
      throw new Error(`seed ${seed}, step ${i}: ${(error as Error).message}`, { cause: error });
    }
  }
  return fuzz;
}

describe.each([...SHADOW, ...TDP])('%s', (setting) => {
  // Shadow paging of 5 levels would need a 5-level shadow of everything here; 4 levels say the same.
  const formats: readonly Format[] = ['32-bit', 'PAE', '4-level', '5-level'];
  test.each(setting.startsWith('shadow') ? formats.slice(0, 3) : formats)(
    '%s tables give what the oracle allows',
    (format) => {
      const total = { ram: 0, '#PF': 0, mmio: 0, exit: 0, stale: 0 };
      for (const seed of SEEDS) {
        const fuzz = run(new LinearFuzz(seed, format, setting), seed, STEPS / 4);
        for (const kind of Object.keys(total) as (keyof typeof total)[]) total[kind] += fuzz.seen[kind];
      }
      if (process.env['MMU_FUZZ_SHOW']) console.log(setting, format, total);
      expect(total.ram).toBeGreaterThan(0);
      expect(total['#PF']).toBeGreaterThan(0);
      if (setting.startsWith('EPT12')) expect(total.exit).toBeGreaterThan(0);
    },
  );
});

describe.each([
  ['mode reinit', { mode: 'reinit' }],
  ['mode shared', { mode: 'shared' }],
  ['no previous roots', { previousRoots: 0 }],
  ['force', { force: true }],
] as const)('with %s', (_name, config) => {
  test.each(['shadow', 'shadow, as L2', 'EPT12 with A/D'] as const)('%s gives the same', (setting) => {
    for (const format of ['32-bit', 'PAE', '4-level'] as const) {
      const { seen } = run(new LinearFuzz(9, format, setting, config), 9, STEPS / 10);
      expect(seen.ram).toBeGreaterThan(0);
    }
  });
});
