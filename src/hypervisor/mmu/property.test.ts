/**
 * Random worlds against the oracle (nested-mmu.md 6.4, own test 1): L1 edits EPT12 by stores, L2 stores too, devices write,
 * L1 invalidates, slots come and go; L2 accesses.
 *
 * Unit of truth: a refusal must be exactly what a walk of current memory gives. A success must be what a walk of memory
 * gave at some moment since the last INVEPT of that EPTP: the "allowed stale set".
 *
 * MMU_FUZZ_STEPS sets the length (default 3000 per seed), MMU_FUZZ_SEEDS a list of seeds: by default three that never
 * change and one that always does, and that a failure names. MMU_FUZZ_SHOW prints what was done in which state.
 */
import { afterAll, describe, expect, test, vi } from 'vitest';
import { checkInvariants } from './invariants.ts';
import type { OracleWorld } from './oracle.ts';
import { compose } from './oracle.ts';
import { addSlot, deleteSlot, setDirtyLog, takeDirtyLog } from './slots.ts';
import { type Access, describeResult, FakeMachine, type FakeVcpu, HOST_BASE } from './testing/fake-engine.ts';
import { Random } from './testing/random.ts';
import { type Doing, stateOf, Tally } from './testing/tally.ts';
import type { MmuConfig } from './vm-mmu.ts';

const STEPS = Number(process.env['MMU_FUZZ_STEPS'] ?? 3000);
const FIXED_SEEDS = [1, 2, 3];
const SEEDS = process.env['MMU_FUZZ_SEEDS']?.split(',').map(Number) ?? [...FIXED_SEEDS, Date.now() >>> 0];
const tally = new Tally();
afterAll(() => {
  if (process.env['MMU_FUZZ_SHOW']) console.log('EPT02, seeds', SEEDS, tally.counts, tally.total);
});

// Long runs are asked for by environment; and a busy machine is no failure.
vi.setConfig({ testTimeout: 600_000 });

/** L1-physical frames that serve as tables: two roots, two PDPTs, two PDs, three PTs, and now and then as another kind. */
const TABLES = Array.from({ length: 9 }, (_, i) => 16 + i);
const homeLevel = (table: number): number => [4, 4, 3, 3, 2, 2, 1, 1, 1][table - 16]!;
const EPTPS = [16 * 4096 + 0x5e, 16 * 4096 + 0x1e, 17 * 4096 + 0x5e];
/** Few indices, so that edits hit what is used: PDPT 0–1, PD 0–1, PT 0, 1 and 9. */
const PROBES = [0, 1].flatMap((pdpt) =>
  [0, 1].flatMap((pd) => [0, 1, 9].map((pt) => pdpt * 2 ** 30 + pd * 2 ** 21 + pt * 4096 + 8)),
);
const ACCESSES: readonly Access[] = [{}, { write: true }, { fetch: true }];
const EXTRA_SLOT = { id: 1, baseGfn: 0x4000, pages: 4, hostBase: 16, readOnly: false, dirtyLog: false };

class Fuzz {
  readonly machine: FakeMachine;
  readonly random: Random;
  /** eptp → probe and access → results that some moment since the last INVEPT gave. */
  readonly allowed = new Map<number, Set<string>[]>();
  /** The same, as memory is now. */
  readonly current = new Map<number, string[]>();
  readonly seen = { ram: 0, mmio: 0, violation: 0, misconfiguration: 0, stale: 0 };

  /** Results of the accesses, for comparing runs. */
  readonly trace: string[] = [];
  /** Everything is invalidated before each access, so that nothing is stale. */
  readonly #exact: boolean;

  constructor(seed: number, config: Partial<MmuConfig>, exact = false) {
    this.#exact = exact;
    this.random = new Random(seed);
    this.machine = new FakeMachine({ pageLimit: 96, ...config });
    this.machine.addVcpu();
    for (const table of TABLES)
      for (let i = 0; i < 40; i += 1) this.edit((gpa, lo, hi) => this.machine.poke64(gpa, lo, hi), table);
    for (const eptp of EPTPS) this.allowed.set(eptp, []);
    this.remember(true);
  }

  /** An entry for a table whose home is `level`; one in 24 is of any kind, so that levels mix. */
  entry(level = 1): [number, number] {
    const { random } = this;
    if (level > 1 && !random.oneIn(24)) {
      const next = TABLES.filter((table) => homeLevel(table) === level - 1);
      return [random.pick(next) * 4096 + random.pick([7, 7, 7, 7, 5, 1]) + random.pick([0, 0x300]), 0];
    }
    const kind = level === 1 && !random.oneIn(8) ? 6 : random.below(12);
    const ad = random.pick([0, 0x100, 0x300, 0x300]);
    if (kind < 5) return [random.pick(TABLES) * 4096 + 7 + ad, 0]; // a table, or a leaf that is itself a table
    if (kind < 6) return [random.pick(TABLES) * 4096 + random.pick([1, 3, 5]) + ad, 0];
    if (kind < 9)
      return [
        (random.pick([64, 65, 66, 600, 0x4000, 0x4001]) * 4096 + random.pick([7, 7, 3, 5, 1, 4]) + ad + 0x30) >>> 0,
        0,
      ];
    if (kind < 10) return [random.pick([0, 0x20_0000, 0x40_0000]) + random.pick([7, 5, 3]) + 0xb0 + ad, 0]; // 2 MiB
    if (kind < 11)
      return random.pick([
        [0xfee0_0037, 0],
        [0xfee0_0031, 0],
        [0x3_0037, 0x200],
        [0x40002, 0],
        [0x4001f, 0],
      ] as [number, number][]);
    return [0, 0];
  }

  edit(store: (gpa: number, lo: number, hi: number) => void, table = this.tableToEdit()): void {
    const [lo, hi] = this.entry(homeLevel(table));
    store(table * 4096 + this.random.pick([0, 0, 1, 1, 9, 2]) * 8, lo >>> 0, hi);
  }

  /** Mostly leaf tables: stores to upper ones take effect at once, and leave nothing stale to judge. */
  tableToEdit(): number {
    return this.random.oneIn(4) ? this.random.pick(TABLES) : 22 + this.random.below(3);
  }

  /** Notes what every probe gives now; `fresh` forgets the past. */
  remember(fresh: boolean, only?: number): void {
    for (const eptp of EPTPS) {
      const world = this.world(eptp);
      const now: string[] = [];
      const sets = this.allowed.get(eptp)!;
      PROBES.forEach((probe, p) => {
        ACCESSES.forEach((access, a) => {
          const result = compose(world, BigInt(probe), {
            write: false,
            user: false,
            fetch: false,
            implicit: false,
            ...access,
          });
          const text = describeResult(result, probe);
          const at = p * ACCESSES.length + a;
          now[at] = text;
          if ((fresh && (only === undefined || only === eptp)) || sets[at] === undefined) sets[at] = new Set();
          sets[at]!.add(text);
        });
      });
      this.current.set(eptp, now);
    }
  }

  world(eptp: number): OracleWorld {
    const world = this.machine.cpu.world();
    return {
      ...world,
      cr0: { pg: false, wp: false },
      ept: { eptp: BigInt(eptp), execOnly: true, mbec: false, pages2m: true, pages1g: true },
    };
  }

  /** One access by the L2 that runs on `cpu`, judged. */
  probe(cpu: FakeVcpu, doing: 'access' | 'store'): void {
    const { random } = this;
    const eptp = cpu.nested.eptPointerHi * 2 ** 32 + cpu.nested.eptPointerLo;
    const p = random.below(PROBES.length);
    const a = doing === 'store' ? 1 : random.below(ACCESSES.length);
    const probe = PROBES[p]!;
    const at = p * ACCESSES.length + a;
    const [lo, hi] = this.entry(random.oneIn(3) ? 2 : 1);
    if (this.#exact) {
      expect(cpu.mmu.invept(2, 0, 0)).toBe('ok');
      cpu.tlb.flushAll();
    }
    const result = doing === 'store' ? cpu.store64(probe, lo >>> 0, hi) : cpu.access(probe, ACCESSES[a]);
    const text = describeResult(result, probe);
    const now = this.current.get(eptp)![at]!;
    this.trace.push(text);
    if (this.#exact) expect(text).toBe(now);
    if (result.kind === 'exit') {
      expect(text).toBe(now);
      this.seen[result.exit.reason === 49 ? 'misconfiguration' : 'violation'] += 1;
    } else {
      expect([...this.allowed.get(eptp)![at]!]).toContain(text);
      this.seen[result.kind as 'ram' | 'mmio'] += 1;
      if (text !== now) this.seen.stale += 1;
    }
    if (doing === 'store') this.remember(false);
  }

  step(): void {
    const { random, machine } = this;
    const cpu = random.oneIn(4) ? machine.vcpus[1]! : machine.vcpus[0]!;
    const inL2 = cpu.nested.guestMode;
    const kind = random.below(100);
    this.act(cpu, inL2, kind);
    const doing: Doing = kind < 53 ? 'access' : kind < 82 ? 'edit' : kind >= 86 && kind < 92 ? 'invalidation' : 'other';
    // Accesses are L2's; everything else is done by whoever runs afterwards
    tally.add(doing === 'access' ? 'c' : stateOf(cpu), doing);
  }

  act(cpu: FakeVcpu, inL2: boolean, kind: number): void {
    const { random, machine } = this;
    const { vm } = machine;
    if (kind < 50) {
      if (!inL2) this.enter(cpu);
      this.probe(cpu, 'access');
    } else if (kind < 53) {
      if (!inL2) this.enter(cpu);
      this.probe(cpu, 'store');
    } else if (kind < 80) {
      if (inL2) cpu.exitL2();
      if (random.oneIn(8)) {
        const table = this.tableToEdit();
        const [lo, hi] = this.entry(homeLevel(table));
        const half = random.pick([0, 4, 8, 72, 12]);
        cpu.store32(table * 4096 + half, half % 8 === 0 ? lo >>> 0 : hi);
      } else this.edit((gpa, lo, hi) => cpu.store64(gpa, lo, hi));
      this.remember(false);
    } else if (kind < 82) {
      this.edit((gpa, lo, hi) => machine.dma64(gpa, lo, hi));
      this.remember(false);
    } else if (kind < 86) {
      if (inL2) cpu.exitL2();
      this.enter(cpu);
    } else if (kind < 92) this.invalidate();
    else if (kind < 94) {
      const slot = vm.slots.byId(1);
      if (slot === undefined) addSlot(vm, { ...EXTRA_SLOT, hostBase: random.pick([16, 32]) });
      else deleteSlot(vm, slot); // kills everything; an addition kills nothing
      this.remember(slot !== undefined);
    } else if (kind < 96) {
      const slot = vm.slots.byId(0)!;
      if (slot.dirtyLog) takeDirtyLog(vm, slot);
      setDirtyLog(vm, slot, random.oneIn(2));
    } else if (inL2) cpu.exitL2();
  }

  enter(cpu: FakeVcpu): void {
    const eptp = this.random.pick(EPTPS);
    cpu.enterL2(this.random.oneIn(3) ? { eptp } : { eptp, vpid: 1 + this.random.below(2) });
  }

  /** INVEPT acts on the logical processor that executes it; both do, so that the past is over. */
  invalidate(): void {
    for (const cpu of this.machine.vcpus) if (cpu.nested.guestMode) cpu.exitL2();
    const one = this.random.oneIn(2);
    const eptp = this.random.pick(EPTPS);
    for (const { mmu } of this.machine.vcpus) expect(mmu.invept(one ? 1 : 2, one ? eptp : 0, 0)).toBe('ok');
    if (!one) this.remember(true);
    else for (const other of EPTPS) if ((other ^ eptp) >>> 12 === 0) this.remember(true, other);
  }
}

function run(seed: number, config: Partial<MmuConfig>, steps = STEPS): Fuzz {
  const fuzz = new Fuzz(seed, config);
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

describe('EPT02 under random edits, invalidations and accesses', () => {
  test.each(SEEDS)('gives what the oracle allows, and keeps the invariants (seed %i)', (seed) => {
    const { seen, machine } = run(seed, {});
    if (process.env['MMU_FUZZ_SHOW']) console.log(seed, seen, machine.vm.counters);
    // The world must have been worth the trouble; whether a new one is, is not known before.
    if (!FIXED_SEEDS.includes(seed)) return;
    for (const kind of ['ram', 'mmio', 'violation', 'misconfiguration', 'stale'] as const) {
      expect(seen[kind], kind).toBeGreaterThan(0);
    }
  });

  test.each([
    ['mode reinit', { mode: 'reinit' }],
    ['mode shared', { mode: 'shared' }],
    ['force', { force: true }],
    ['no previous roots', { previousRoots: 0 }],
    ['eight previous roots', { previousRoots: 8 }],
    ['no prefetch', { prefetch: false }],
    ['sync and flush on every switch', { syncOnSwitch: true }],
    ['one VPID02', { vpidTags: 'single' }],
    ['few pages', { pageLimit: 40 }],
  ] as const)('does so with %s', (_name, config) => {
    run(11, config, Math.ceil(STEPS / 4));
  });
});

/** Own test 2 of 6.4: with everything invalidated before each access, no setting may change what the guests see. */
describe('equivalence', () => {
  const trace = (config: Partial<MmuConfig>): string[] => {
    const fuzz = new Fuzz(79, config, true);
    for (let i = 0; i < STEPS / 3; i += 1) fuzz.step();
    return fuzz.trace;
  };
  const reference = trace({});

  test('has something to compare', () => {
    const kinds = new Set(reference.map((line) => line.split(' ')[0]));
    for (const kind of ['ram', 'mmio', 'violation']) expect(kinds).toContain(kind);
  });

  test.each([
    ['forced re-initialisation', { mode: 'reinit' }],
    ['one root cache', { mode: 'shared' }],
    ['checked skips', { force: true }],
    ['sync and flush on every switch', { syncOnSwitch: true }],
    ['no previous roots', { previousRoots: 0 }],
    ['no prefetch', { prefetch: false }],
    ['few pages', { pageLimit: 40 }],
    ['roots freed at each release', { keepRootsOnRelease: false }],
  ] as const)('%s shows the guests the same', (_name, config) => {
    expect(trace(config)).toEqual(reference);
  });
});

test('the host pages of this world do not overlap', () => {
  expect(EXTRA_SLOT.hostBase + 16 + EXTRA_SLOT.pages).toBeLessThan(HOST_BASE);
});
