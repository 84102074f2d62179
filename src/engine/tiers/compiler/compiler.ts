import { assert } from '../../../base/assert.ts';
import { TWO_32 } from '../../../base/bits.ts';
import { I32 } from '../../../wasm/expr.ts';
import {
  CODE_TABLE,
  PLACE_ENTRY_SHIFT,
  POOL,
  REC,
  REGIONS_GENERATION,
  REGIONS_RETIRED,
  S,
  TLB,
} from '../../core/layout.ts';
import { type EngineMemory, REGION_MAP_BYTES, REGION_PAGES_MAX, REGIONS_MAX } from '../../core/memory.ts';
import type { PageNotes } from '../../core/module-source.ts';
import { PSEUDO, REGION_SLOT, type Variant } from '../../decode/decoder.ts';
import { MODE } from '../../decode/mode.ts';
import { type CodeCache, type CodePage, isPatched, type NoteTaking, type Regions } from '../code-cache.ts';
import type { Interpreter } from '../interpreter.ts';
import { contextOf } from '../variants.ts';
import { type Decoded, type FlagUse, KIND, type Reader } from './blocks.ts';
import { Pools } from './pools.ts';
import { type PagePlan, type Plan, planPage, planRegion, RegionBuilder } from './region.ts';
import type { Places } from './region-frame.ts';
import { stackUseOf } from './stack-accesses.ts';
import { Trials } from './trials.ts';

/** A live region. */
interface Region {
  readonly pages: readonly CodePage[];
  readonly maps: readonly number[];
  readonly slot: number;
  /** Address of its POOL. */
  readonly pool: number;
  readonly bytes: number;
  /** What regions had run when it was made: instructions. */
  readonly born: number;
  /** By block: its record, the handler that had, and where a map has its number, or 0. */
  readonly records: readonly number[];
  readonly handlers: readonly number[];
  readonly places: readonly number[];
  /** Host addresses of instructions that it goes around: what is patched again and again. */
  readonly without: ReadonlySet<number>;
}

/** Runs of the engine after which waiting pages are compiled, however few. */
const ROUNDS = 8;
/** No further region is compiled at once when those before it have this many instructions. MEASURED: 12 ms at most. */
const PAUSE_INSTRUCTIONS = 1000;
/** What a run must be entered less often, as a power of two, where it is known to become hot. */
const EARLY_SHIFT = 7;
/**
 * So many runs of known pages must have become hot to be worth a pause. MEASURED against 4: a third to two fifths fewer modules,
 * of which small ones take as long to make; later starts of a boot and of an L2's take 3 to 5 % less.
 */
const KNOWN_RUNS = 40;
/** Pages that jump to each other are one region while it has no more instructions than this. */
const REGION_INSTRUCTIONS = 300;
/** Nothing is compiled while there are so many modules: the host has dropped ones to collect first. */
const MODULES_MAX = 16_000;
/** A loss after regions have run this many instructions is none to hold back for. */
const LONG_LIFE = 500e6;
/** Losses of a page's regions that count for its back-off. */
const BACK_OFF_MAX = 10;

export interface CompilerOptions {
  /** Runs entered this often are compiled. */
  readonly threshold: number;
  /** Pages compiled together. */
  readonly batch: number;
  /** Most bytes of WebAssembly alive: the oldest regions go first. */
  readonly bytesMax: number;
}

export const COMPILER_DEFAULTS: CompilerOptions = { threshold: 10_000, batch: 64, bytesMax: 24 << 20 };

const patchedOf = (page: CodePage): number[] =>
  [...(page.patches?.keys() ?? [])].filter((offset) => isPatched(page, offset)).map((at) => page.hostPage * 4096 + at);

/** Of a region's function. */
const PARAMETERS = [I32, I32] as const;
const RESULTS = [I32] as const;
/** That an instruction of the guest takes, more than the most regions need. */
const CODE_BYTES = 96;

const NOTHING: ReadonlySet<number> = new Set();

/** What is the same for all records of a variant. */
function factsOf(variant: Variant): Pick<Decoded, 'context' | 'stack' | 'calls'> {
  const context = contextOf(variant);
  return { context, stack: stackUseOf(variant, context), calls: variant.form.mnemonic === 'CALL' };
}

/** Instructions whose code looks at registers where regions do not keep them, or writes what lockstep does not know of. */
const ELSEWHERE = new Set(['LAHF', 'SAHF', 'VMPTRLD', 'VMCLEAR']);

/**
 * The compiler tier: hot runs become regions, one WebAssembly function for the pages that call each other.
 *
 * Owns    which pages are compiled, the handler slots of regions, their end when bytes change or room is needed.
 * Knows   nothing of how a region is generated (region.ts), nor of when runs are hot (the interpreter counts).
 */
export class Compiler implements Regions, Reader {
  readonly memory: EngineMemory;
  readonly #interpreter: Interpreter;
  readonly #code: CodeCache;
  readonly #options: CompilerOptions;
  readonly #queue = new Set<CodePage>();
  /** By slot, oldest first. */
  readonly #regions = new Map<number, Region>();
  readonly #free: number[] = [];
  #nextSlot = REGION_SLOT;
  /** All zero, as those are that were never used. */
  readonly #freeMaps: number[] = [];
  readonly #pools: Pools;
  readonly #trials: Trials;
  #nextMap = 0;
  /** By handler number; null: stays out. */
  readonly #decoded: (Decoded | null | undefined)[] = [];
  #bytes = 0;
  readonly counters = {
    compiled: 0,
    pages: 0,
    modules: 0,
    instructions: 0,
    bytes: 0,
    lost: 0,
    aged: 0,
    ms: 0,
    longestMs: 0,
  };
  /** The host's clock for `counters.ms`, if anyone wants to know. */
  clock: () => number = () => 0;
  /** Regions may call handlers of instructions that are not for them. Not in lockstep: what those do cannot be taken back. */
  mayCall = true;
  /** What stands in the handler table for a region's function, if it is not to run alone. */
  guard: ((slot: number, f: unknown) => unknown) | undefined;

  constructor(memory: EngineMemory, interpreter: Interpreter, code: CodeCache, options: CompilerOptions) {
    this.memory = memory;
    this.#interpreter = interpreter;
    this.#code = code;
    this.#options = options;
    this.#pools = new Pools(memory);
    this.#trials = new Trials(memory, interpreter.sketch);
    // No entry of a jump cache is right at first
    memory.u32[REGIONS_GENERATION >>> 2] = 1;
  }

  /** Regions alive, the bytes of their code, and how many of those there may be. */
  get alive(): { readonly regions: number; readonly bytes: number; readonly bytesMax: number } {
    return { regions: this.#regions.size, bytes: this.#bytes, bytesMax: this.#options.bytesMax };
  }

  get threshold(): number {
    return this.#options.threshold;
  }

  /** What is known to be hot is compiled early: it costs little where native code is known, too. */
  noting(notes: PageNotes): NoteTaking {
    return { notes, heat: this.#options.threshold - this.#early, heatMin: this.#heatMin };
  }

  get #early(): number {
    return Math.max(1, this.#options.threshold >>> EARLY_SHIFT);
  }

  /** What is entered this often is compiled along with what is hot. */
  get #heatMin(): number {
    return Math.max(1, this.#options.threshold >>> 3);
  }

  // ---- what to compile --------------------------------------------------------------------------------------------

  /** The interpreter has entered a run for the threshold-th time. */
  hot(record: number): void {
    const { u16, u32, i32 } = this.memory;
    if (record < this.memory.code) return; // stepping
    const handler = u16[record >>> 1]!;
    if (handler < PSEUDO.COUNT || handler >= REGION_SLOT) return;
    const hostPage = u32[(record + REC.PLACE) >>> 2]! & ((1 << PLACE_ENTRY_SHIFT) - 1);
    const page = this.#code.pageAt(hostPage, u32[S.MODE >>> 2]!);
    if (!page || page.entries[u16[(record + REC.OFFSET) >>> 1]!] !== record) return;
    if (isPatched(page, u16[(record + REC.OFFSET) >>> 1]!)) return;
    const region = page.region as Region | undefined;
    // Met in the middle of a loop of its region: at the loop's head that is entered
    if (page.known && region?.records.includes(record)) return;
    page.fresh += 1;
    page.linearLow = u32[S.RIP_PAGE >>> 2]!;
    page.linearHigh = u32[(S.RIP_PAGE >>> 2) + 1]!;
    page.execute = u32[S.EXECUTE >>> 2]!;
    if (page.fresh <= 0 || (region && page.fresh * 8 * region.pages.length < region.records.length)) {
      // Not worth it yet: it counts again later
      i32[(record + REC.HEAT) >>> 2] = this.#options.threshold >>> 1;
      return;
    }
    this.#queue.add(page);
    if (page.known) {
      this.#knownRuns += 1;
      // A loop does not wait for others to come along: it counts again
      if (!region) i32[(record + REC.HEAT) >>> 2] = this.#options.threshold - this.#early;
    }
    if (this.#queue.size >= this.#options.batch || this.#knownRuns >= KNOWN_RUNS) this.compile();
  }

  /** Some pages wait, and have waited long enough for others to come along. */
  get due(): boolean {
    if (this.#queue.size === 0) return false;
    this.#rounds += 1;
    return this.#rounds > ROUNDS;
  }
  #rounds = 0;

  /** Known runs that have become hot since something was compiled. */
  #knownRuns = 0;

  /** Compiles what waits. */
  compile(): void {
    this.#knownRuns = 0;
    if (this.#interpreter.modules >= MODULES_MAX) {
      this.#rounds = 0;
      return;
    }
    const start = this.clock();
    const waiting = new Map<CodePage, PagePlan>();
    for (const page of this.#queue) {
      this.#queue.delete(page);
      if (this.#code.pageAt(page.hostPage, page.mode) !== page) continue;
      if (page.region) this.#takeApart(page.region as Region, waiting);
      this.#planned(page, waiting);
    }
    this.#attract(waiting);
    const neighbours = this.#neighbours(waiting);
    const plans: Plan[] = [];
    let instructions = 0;
    for (const first of waiting.values()) {
      if (!waiting.has(first.page)) continue;
      if (instructions >= PAUSE_INSTRUCTIONS) {
        this.#queue.add(first.page);
        continue;
      }
      const plan = planRegion(this, this.#group(first, waiting, neighbours), this.#resolve);
      plans.push(plan);
      instructions += plan.instructions;
    }
    // What is left has waited already
    this.#rounds = this.#queue.size === 0 ? 0 : ROUNDS;
    if (plans.length > 0) this.#build(plans);
    const took = this.clock() - start;
    this.counters.ms += took;
    this.counters.longestMs = Math.max(this.counters.longestMs, took);
  }

  /** Pages that waiting ones jump to, and that will be hot soon, come along. */
  #attract(waiting: Map<CodePage, PagePlan>): void {
    const { i32 } = this.memory;
    let instructions = 0;
    for (const plan of waiting.values()) {
      instructions += plan.instructions;
      for (const record of plan.leaving) {
        if (instructions >= PAUSE_INSTRUCTIONS) return;
        const target = this.#resolve(plan.page, record);
        if (target === 0 || i32[(target + REC.HEAT) >>> 2]! < this.#options.threshold >>> 1) continue;
        const page = this.#pageOf(target, plan.page.mode);
        if (!page || page.region || page.fresh < 0 || waiting.has(page)) continue;
        page.linearLow = this.#linearLow;
        page.linearHigh = this.#linearHigh;
        page.execute = plan.page.execute;
        this.#planned(page, waiting);
      }
    }
  }

  /** Ends a region; its pages wait to be compiled, together. */
  #takeApart(region: Region, waiting: Map<CodePage, PagePlan>): void {
    this.#drop(region);
    for (const page of region.pages) this.#planned(page, waiting);
  }

  #planned(page: CodePage, waiting: Map<CodePage, PagePlan>): void {
    this.#queue.delete(page);
    if (waiting.has(page) || this.#code.pageAt(page.hostPage, page.mode) !== page) return;
    const plan = planPage(this, page, this.#heatMin);
    if (plan) waiting.set(page, plan);
  }

  /** Which of the waiting pages jump to which, or the other way round. */
  #neighbours(waiting: ReadonlyMap<CodePage, PagePlan>): Map<PagePlan, Set<PagePlan>> {
    const neighbours = new Map<PagePlan, Set<PagePlan>>();
    for (const plan of waiting.values()) neighbours.set(plan, new Set());
    for (const plan of waiting.values()) {
      for (const record of plan.leaving) {
        const target = this.#resolve(plan.page, record);
        const page = target === 0 ? undefined : this.#pageOf(target, plan.page.mode);
        const other = page && waiting.get(page);
        if (!other || other === plan) continue;
        neighbours.get(plan)!.add(other);
        neighbours.get(other)!.add(plan);
      }
    }
    return neighbours;
  }

  /** Takes a page, its neighbours and theirs out of `waiting`, as many as a region holds. */
  #group(first: PagePlan, waiting: Map<CodePage, PagePlan>, neighbours: Map<PagePlan, Set<PagePlan>>): PagePlan[] {
    const group = [first];
    waiting.delete(first.page);
    let instructions = first.instructions;
    for (const plan of group) {
      for (const other of neighbours.get(plan)!) {
        if (!waiting.has(other.page) || instructions + other.instructions > REGION_INSTRUCTIONS) continue;
        instructions += other.instructions;
        waiting.delete(other.page);
        group.push(other);
      }
    }
    return group;
  }

  #pageOf(record: number, mode: number): CodePage | undefined {
    const hostPage = this.memory.u32[(record + REC.PLACE) >>> 2]! & ((1 << PLACE_ENTRY_SHIFT) - 1);
    return this.#code.pageAt(hostPage, mode);
  }

  /** Record that a branch of `page` to another page leads to, or 0: as the TLB had it, so only likely. */
  readonly #resolve = (page: CodePage, record: number): number => {
    const { u16, u32, i32 } = this.memory;
    const isEnd = u16[record >>> 1] === PSEUDO.PAGE_END;
    const distance = isEnd ? u16[(record + REC.OFFSET) >>> 1]! : i32[(record + REC.TARGET) >>> 2]!;
    const sum = page.linearLow + distance;
    const low = sum >>> 0;
    const long = (page.mode & MODE.LONG) !== 0;
    const high = long ? (page.linearHigh + Math.floor(sum / 0x1_0000_0000)) >>> 0 : 0;
    const index = (low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    const entry = (page.execute + index) >>> 2;
    this.#linearLow = (low & ~0xfff) >>> 0;
    this.#linearHigh = high;
    if (u32[entry] !== (low & ~0xfff) >>> 0 || u32[entry + 1] !== high) return 0;
    const host = (low + u32[entry + 2]!) >>> 0;
    return this.#code.pageAt(host >>> 12, page.mode)?.entries[host & 0xfff] ?? 0;
  };

  /** Where the page is that `#resolve` looked for last. */
  #linearLow = 0;
  #linearHigh = 0;

  #build(plans: readonly Plan[]): void {
    const sizes: number[] = [];
    const places: Places[] = [];
    const exports = this.#interpreter.module((m, lib) => {
      for (const plan of plans) {
        const f = m.func(`r${sizes.length}`, PARAMETERS, RESULTS, true, plan.instructions * CODE_BYTES);
        places.push(new RegionBuilder(this, plan, lib, f, this.mayCall).build());
        sizes.push(f.code.length);
      }
    });
    this.counters.modules += 1;
    for (const [i, plan] of plans.entries()) this.#install(plan, places[i]!, exports[`r${i}`], sizes[i]!);
  }

  /** Makes room for a region of so many pages, with so many bytes of POOL; the oldest ones go if there is none. */
  #makeRoom(pages: number, bytes: number): void {
    while (
      this.#bytes > this.#options.bytesMax ||
      (this.#free.length === 0 && this.#nextSlot === REGION_SLOT + REGIONS_MAX) ||
      this.#freeMaps.length + REGION_PAGES_MAX - this.#nextMap < pages ||
      !this.#pools.hasRoom(bytes)
    ) {
      this.counters.aged += 1;
      const [oldest] = this.#regions.values();
      assert(oldest !== undefined, 'there are more places than a batch needs');
      this.#drop(oldest);
    }
  }

  #install({ pages, blocks, instructions }: Plan, { first, words }: Places, f: unknown, bytes: number): void {
    const { u8, u16, u32 } = this.memory;
    const poolBytes = (first << POOL.UNIT_SHIFT) + 4 * words.length;
    this.#makeRoom(pages.length, poolBytes);
    const slot = this.#free.pop() ?? this.#nextSlot++;
    const maps = pages.map(() => this.#freeMaps.pop() ?? this.memory.regionMaps + this.#nextMap++ * REGION_MAP_BYTES);
    const pool = this.#pools.take(poolBytes);
    u16[(pool + POOL.SLOT) >>> 1] = slot;
    u8[pool + POOL.ALIVE] = 1;
    u32[(pool + POOL.FIRST) >>> 2] = first;
    u32.set(maps, (pool + POOL.MAPS) >>> 2);
    u32.set(words, (pool + (first << POOL.UNIT_SHIFT)) >>> 2);
    u32[this.#poolOf(slot)] = pool;
    this.#interpreter.setHandler(slot, this.guard ? this.guard(slot, f) : f);
    const records: number[] = [];
    const handlers: number[] = [];
    const places: number[] = [];
    for (let number = 0; number < blocks.length; number += 1) {
      const { record, page, offset, entry } = blocks[number]!;
      const place = entry ? maps[page]! + 2 * offset : 0;
      records.push(record);
      handlers.push(u16[record >>> 1]!);
      places.push(place);
      if (!entry) continue;
      u16[record >>> 1] = slot;
      u16[place >>> 1] = number + 1;
      u32[(record + REC.PLACE) >>> 2] = (pages[page]!.hostPage | (number << PLACE_ENTRY_SHIFT)) >>> 0;
    }
    const without = pages.some(({ patches }) => patches) ? new Set(pages.flatMap(patchedOf)) : NOTHING;
    const born = this.#retired;
    const region: Region = { pages, maps, slot, pool, bytes, born, records, handlers, places, without };
    for (const page of pages) {
      page.region = region;
      page.fresh = 0;
    }
    const notes = this.#code.noting?.notes;
    if (notes)
      for (const { page, offset } of blocks)
        notes.note(pages[page]!.name, [offset], u32[(pages[page]!.table + CODE_TABLE.CHANGES) >>> 2]!);
    this.#regions.set(slot, region);
    this.#bytes += bytes;
    this.counters.compiled += 1;
    this.counters.pages += pages.length;
    this.counters.bytes += bytes;
    this.counters.instructions += instructions;
  }

  /** Where the address of a region's POOL is: an index of words. */
  #poolOf(slot: number): number {
    return (this.memory.regionPools >>> 2) + slot - REGION_SLOT;
  }

  // ---- the end of regions -------------------------------------------------------------------------------------------

  #drop(region: Region): void {
    const { u8, u16 } = this.memory;
    const { records, handlers, places } = region;
    for (let i = 0; i < records.length; i += 1) {
      const record = records[i]!;
      if (places[i] === 0) continue;
      if (u16[record >>> 1] === region.slot) u16[record >>> 1] = handlers[i]!;
      u16[places[i]! >>> 1] = 0;
    }
    u8[region.pool + POOL.ALIVE] = 0;
    this.#pools.give(region.pool);
    this.memory.u32[REGIONS_GENERATION >>> 2]! += 1;
    this.#code.tlb.forgetReturns();
    this.#regions.delete(region.slot);
    this.#interpreter.setHandler(region.slot, null);
    this.#free.push(region.slot);
    for (const map of region.maps) this.#freeMaps.push(map);
    this.#bytes -= region.bytes;
    for (const page of region.pages) page.region = undefined;
  }

  lost(page: CodePage, offset: number): void {
    const region = page.region as Region;
    if (region.without.has(page.hostPage * 4096 + offset)) return;
    this.#drop(region);
    this.counters.lost += 1;
    // Back-off: each early loss doubles what it takes
    const early = this.#retired - region.born < LONG_LIFE;
    page.losses = early ? page.losses + 1 : 0;
    page.fresh = 1 - (1 << Math.min(page.losses, BACK_OFF_MAX));
    // They have to earn it again; half of it where nothing has changed, and little of it all if the region was good for long
    const { threshold } = this.#options;
    const most = threshold - (threshold >>> 3);
    this.memory.i32[(page.table + CODE_TABLE.HEAT) >>> 2] = early ? 0 : most;
    const { i32, u32 } = this.memory;
    for (const record of region.records) {
      const changed = (u32[(record + REC.PLACE) >>> 2]! & ((1 << PLACE_ENTRY_SHIFT) - 1)) === page.hostPage;
      i32[(record + REC.HEAT) >>> 2] = !early ? most : changed ? 0 : threshold >>> 1;
    }
  }

  /** Instructions that regions have run. */
  get #retired(): number {
    const { u32 } = this.memory;
    return u32[REGIONS_RETIRED >>> 2]! + u32[(REGIONS_RETIRED + 4) >>> 2]! * TWO_32;
  }

  release(page: CodePage): void {
    const region = page.region as Region;
    this.#drop(region);
    for (const each of region.pages) each.fresh = 0;
    for (const record of region.records) this.memory.i32[(record + REC.HEAT) >>> 2] = this.#options.threshold >>> 1;
  }

  flushed(): void {
    for (const region of [...this.#regions.values()]) this.#drop(region);
    this.#queue.clear();
  }

  /** The handler that an entry of a region had. */
  original(record: number): number {
    const { u16, u32 } = this.memory;
    const number = u32[(record + REC.PLACE) >>> 2]! >>> PLACE_ENTRY_SHIFT;
    return this.#regions.get(u16[record >>> 1]!)?.handlers[number] ?? PSEUDO.STALE;
  }

  // ---- Reader -------------------------------------------------------------------------------------------------------

  decoded(record: number): Decoded | undefined {
    let handler = this.memory.u16[record >>> 1]!;
    if (handler >= REGION_SLOT) handler = this.original(record);
    if (handler < PSEUDO.COUNT || this.#isPatched(record)) return undefined;
    let known = this.#decoded[handler];
    if (known === undefined) {
      known = this.#try(handler, record);
      this.#decoded[handler] = known;
    }
    return known ?? undefined;
  }

  /** It is one to go around. Then that before it must not run it along, in whatever a region leaves of it. */
  #isPatched(record: number): boolean {
    const { u16, u32 } = this.memory;
    const offset = u16[(record + REC.OFFSET) >>> 1]!;
    const hostPage = u32[(record + REC.PLACE) >>> 2]! & ((1 << PLACE_ENTRY_SHIFT) - 1);
    for (let page = this.#code.firstAt(hostPage); page; page = page.next) {
      if (page.entries[offset] !== record || !isPatched(page, offset)) continue;
      this.#code.unfuse(record);
      return true;
    }
    return false;
  }

  /** Generates the instruction once, for nothing, to see whether it can be: else its handler is called. */
  #try(handler: number, record: number): Decoded | null {
    const variant = this.#interpreter.variant(handler);
    if (!variant || variant.mode === 'general') return null;
    return this.#tryInline(handler, variant, record) ?? this.#called(handler, variant);
  }

  #called(handler: number, variant: Variant): Decoded {
    const { calls, context, stack } = factsOf(variant);
    const flags: FlagUse = { reads: true, keeps: false, writes: false, leaves: true };
    return { kind: KIND.CALLED, calls, variant, handler: this.#interpreter.outOfLine(handler), flags, context, stack };
  }

  #tryInline(handler: number, variant: Variant, record: number): Decoded | undefined {
    if (variant.generalAddress || ELSEWHERE.has(variant.form.instruction.name)) return undefined;
    const { calls, context, stack } = factsOf(variant);
    const trial = this.#trials.of(variant, context, record);
    if (!trial) return undefined;
    const { kind, flags } = trial;
    return { kind, calls, variant, handler, flags, context, stack };
  }
}
