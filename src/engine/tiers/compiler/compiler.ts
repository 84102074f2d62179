import { assert } from '../../../base/assert.ts';
import { I32 } from '../../../wasm/expr.ts';
import { FunctionBuilder, ModuleBuilder } from '../../../wasm/module.ts';
import { PLACE_ENTRY_SHIFT, REC, S } from '../../core/layout.ts';
import { type EngineMemory, REGIONS_MAX } from '../../core/memory.ts';
import { PSEUDO, REGION_SLOT } from '../../decode/decoder.ts';
import type { CodeCache, CodePage, Regions } from '../code-cache.ts';
import { contextOf, type Interpreter } from '../interpreter.ts';
import { type Decoded, type FlagUse, KIND, type Reader } from './blocks.ts';
import { defineRegionCalls, type RegionCalls } from './calls.ts';
import { type Plan, planRegion, RegionBuilder } from './region.ts';
import { NotInline, RegionFrame, RegionSemantics, type Targets } from './region-semantics.ts';

/** A live region. */
interface Region {
  readonly page: CodePage;
  readonly slot: number;
  readonly bytes: number;
  /** Entry records and the handlers they had. */
  readonly originals: ReadonlyMap<number, number>;
  readonly records: readonly number[];
}

/** Runs of the engine after which waiting pages are compiled, however few. */
const ROUNDS = 8;
/** No further page is compiled at once when those before it have this many instructions: some 25 µs each. */
const PAUSE_INSTRUCTIONS = 400;
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

export const COMPILER_DEFAULTS: CompilerOptions = { threshold: 32_000, batch: 16, bytesMax: 24 << 20 };

/** Instructions whose code looks at registers where regions do not keep them. */
const ELSEWHERE = new Set(['LAHF', 'SAHF']);

/**
 * The compiler tier: pages whose runs are hot become regions, one WebAssembly function each.
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
  /** By handler number; null: stays out. */
  readonly #decoded: (Decoded | null | undefined)[] = [];
  readonly #originals = new Map<number, number>();
  #bytes = 0;
  readonly counters = { compiled: 0, modules: 0, instructions: 0, bytes: 0, lost: 0, aged: 0, ms: 0, longestMs: 0 };
  /** The host's clock for `counters.ms`, if anyone wants to know. */
  clock: () => number = () => 0;
  /** What stands in the handler table for a region's function, if it is not to run alone. */
  guard: ((slot: number, f: unknown) => unknown) | undefined;

  constructor(memory: EngineMemory, interpreter: Interpreter, code: CodeCache, options: CompilerOptions) {
    this.memory = memory;
    this.#interpreter = interpreter;
    this.#code = code;
    this.#options = options;
  }

  /** Regions alive, the bytes of their code, and how many of those there may be. */
  get alive(): { readonly regions: number; readonly bytes: number; readonly bytesMax: number } {
    return { regions: this.#regions.size, bytes: this.#bytes, bytesMax: this.#options.bytesMax };
  }

  get threshold(): number {
    return this.#options.threshold;
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
    page.fresh += 1;
    const region = page.region as Region | undefined;
    if (page.fresh <= 0 || (region && page.fresh * 8 < region.records.length)) {
      // Not worth it yet: it counts again later
      i32[(record + REC.HEAT) >>> 2] = this.#options.threshold >>> 1;
      return;
    }
    this.#queue.add(page);
    if (this.#queue.size >= this.#options.batch) this.compile();
  }

  /** Some pages wait, and have waited long enough for others to come along. */
  get due(): boolean {
    if (this.#queue.size === 0) return false;
    this.#rounds += 1;
    return this.#rounds > ROUNDS;
  }
  #rounds = 0;

  /** Compiles what waits. */
  compile(): void {
    const start = this.clock();
    const plans: Plan[] = [];
    let instructions = 0;
    for (const page of this.#queue) {
      if (instructions >= PAUSE_INSTRUCTIONS) break;
      this.#queue.delete(page);
      if (this.#code.pageAt(page.hostPage, page.mode) !== page) continue;
      if (page.region) this.#drop(page.region as Region);
      const plan = planRegion(this, page, Math.max(1, this.#options.threshold >>> 3));
      if (!plan) continue;
      plans.push(plan);
      for (const { count } of plan.blocks) instructions += count;
    }
    // What is left has waited already
    this.#rounds = this.#queue.size === 0 ? 0 : ROUNDS;
    if (plans.length > 0) this.#build(plans);
    const took = this.clock() - start;
    this.counters.ms += took;
    this.counters.longestMs = Math.max(this.counters.longestMs, took);
  }

  #build(plans: readonly Plan[]): void {
    const sizes: number[] = [];
    const slots = plans.map(() => this.#slot());
    const exports = this.#interpreter.module((m, lib) => {
      const calls = defineRegionCalls(m, lib);
      plans.forEach((plan, i) => {
        const f = m.func(`r${i}`, [I32], [I32], true);
        new RegionBuilder(this, plan, lib, calls, f, this.#map(slots[i]!)).build();
        sizes.push(f.code.length);
      });
    });
    this.counters.modules += 1;
    for (const [i, plan] of plans.entries()) this.#install(plan, slots[i]!, exports[`r${i}`], sizes[i]!);
  }

  /** A free slot; the oldest regions go if there is none, or no room. */
  #slot(): number {
    while (
      this.#bytes > this.#options.bytesMax ||
      (this.#free.length === 0 && this.#nextSlot === REGION_SLOT + REGIONS_MAX)
    ) {
      this.counters.aged += 1;
      const [oldest] = this.#regions.values();
      assert(oldest !== undefined, 'there are more slots than a batch needs');
      this.#drop(oldest);
    }
    return this.#free.pop() ?? this.#nextSlot++;
  }

  #map(slot: number): number {
    return this.memory.regionMaps + (slot - REGION_SLOT) * 4096;
  }

  #install({ page, blocks }: Plan, slot: number, f: unknown, bytes: number): void {
    const { u8, u16, u32 } = this.memory;
    const map = this.#map(slot);
    u8.fill(0, map, map + 4096);
    this.#interpreter.setHandler(slot, this.guard ? this.guard(slot, f) : f);
    const originals = new Map<number, number>();
    blocks.forEach(({ record, offset, entry }, number) => {
      if (!entry) return;
      originals.set(record, u16[record >>> 1]!);
      this.#originals.set(record, u16[record >>> 1]!);
      u16[record >>> 1] = slot;
      if (number < 255) u8[map + offset] = number + 1;
      u32[(record + REC.PLACE) >>> 2] = (page.hostPage | (number << PLACE_ENTRY_SHIFT)) >>> 0;
    });
    const region: Region = { page, slot, bytes, originals, records: blocks.map(({ record }) => record) };
    page.region = region;
    page.fresh = 0;
    this.#regions.set(slot, region);
    this.#bytes += bytes;
    this.counters.compiled += 1;
    this.counters.bytes += bytes;
    for (const { count } of blocks) this.counters.instructions += count;
  }

  // ---- the end of regions -------------------------------------------------------------------------------------------

  #drop(region: Region): void {
    const { u16 } = this.memory;
    for (const [record, handler] of region.originals) {
      if (u16[record >>> 1] === region.slot) u16[record >>> 1] = handler;
      this.#originals.delete(record);
    }
    this.#regions.delete(region.slot);
    this.#interpreter.setHandler(region.slot, null);
    this.#free.push(region.slot);
    this.#bytes -= region.bytes;
    region.page.region = undefined;
  }

  lost(page: CodePage): void {
    const region = page.region as Region;
    this.#drop(region);
    this.counters.lost += 1;
    page.losses += 1;
    // Back-off: each loss doubles what it takes
    page.fresh = 1 - (1 << Math.min(page.losses, BACK_OFF_MAX));
    // They have to earn it again
    for (const record of region.records) this.memory.i32[(record + REC.HEAT) >>> 2] = 0;
  }

  flushed(): void {
    for (const region of [...this.#regions.values()]) this.#drop(region);
    this.#queue.clear();
  }

  original(record: number): number {
    return this.#originals.get(record) ?? PSEUDO.STALE;
  }

  // ---- Reader -------------------------------------------------------------------------------------------------------

  decoded(record: number): Decoded | undefined {
    let handler = this.memory.u16[record >>> 1]!;
    if (handler >= REGION_SLOT) handler = this.original(record);
    if (handler < PSEUDO.COUNT) return undefined;
    let known = this.#decoded[handler];
    if (known === undefined) {
      known = this.#try(handler, record);
      this.#decoded[handler] = known;
    }
    return known ?? undefined;
  }

  #sketchCalls: RegionCalls | undefined;

  /** Generates the instruction once, for nothing, to see whether it can be. */
  #try(handler: number, record: number): Decoded | null {
    const variant = this.#interpreter.variant(handler);
    if (!variant || variant.generalAddress || variant.mode === 'general') return null;
    const { instruction, mnemonic } = variant.form;
    if (ELSEWHERE.has(instruction.name)) return null;
    let kind: number = KIND.PLAIN;
    const flags: FlagUse = { reads: false, keeps: false, writes: false, leaves: false };
    const call = mnemonic === 'CALL';
    const targets: Targets = {
      taken: () => {
        kind = call ? KIND.CALL : Math.max(kind, KIND.BRANCH);
      },
      notTaken: () => {
        kind = KIND.CONDITIONAL;
      },
      indirect: () => {
        kind = KIND.INDIRECT;
      },
    };
    try {
      const f = new FunctionBuilder('trial', [I32], [I32]);
      const lib = this.#interpreter.sketch;
      this.#sketchCalls ??= defineRegionCalls(new ModuleBuilder(), lib);
      const frame = new RegionFrame(f, lib, this.#sketchCalls, this.memory);
      frame.ways(() => {
        const semantics = new RegionSemantics(frame, contextOf(variant), record, targets);
        semantics.use = flags;
        semantics.mnemonic = mnemonic;
        instruction.execute(semantics);
      });
    } catch (error) {
      if (error instanceof NotInline) return null;
      throw error;
    }
    if (instruction.terminator && kind === KIND.PLAIN) return null;
    return { kind, variant, flags };
  }
}
