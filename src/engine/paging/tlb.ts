import { CONTEXT_BYTES, JUMP_CACHE, S, TLB } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';

/** Fills that a context remembers; after more than that a flush has to empty its arrays whole. */
const JOURNAL = 2048;
/** In a journal: the page is global. */
const GLOBAL = 0x8000_0000;
/** In place of the one write entry of a host page: there may be several. */
const SEVERAL = 0xffff_ffff;
const EMPTY = 0xffff_ffff;
/** Words of a filter of pages that a jump cache has entries for: a bit for each of 4096 groups of pages. */
const FILTER = 128;
/** Generations of a jump cache, above the mode word in a tag; all ones is no tag. */
const GENERATIONS = 0xf_ffff;
const GENERATION_SHIFT = 12;
/** A jump cache has entries; it may have some for pages that are not global, now or from its context's execute entries. */
const HAS = { ENTRIES: 1, LOCAL: 2 } as const;

/**
 * The TLBs: one context for each (vCPU, VPID tag, root, PCID) seen lately. Making another one current is a store of its
 * address; nothing is flushed (DESIGN.md 3.1). The number of contexts is bounded; the least recently used is recycled.
 *
 * Owns    the contexts' memory, their names, and every way of dropping entries.
 * Knows   nothing of page tables: paging/walk.ts fills entries in.
 */
export class TlbContexts {
  readonly #memory: EngineMemory;
  readonly count: number;
  readonly #vcpu: Int32Array;
  readonly #vpid: Int32Array;
  readonly #root: Float64Array;
  readonly #pcid: Int32Array;
  /** Sets that hold anything since their last flush. */
  readonly #dirty: Uint8Array;
  readonly #used: Float64Array;
  /** Entries filled since the last flush, as u32 indices, and GLOBAL; a write entry is noted as its read entry. */
  readonly #journal: Uint32Array;
  readonly #journaled: Uint16Array;
  /** By host page: u32 index of its write entry, if there may be one, or SEVERAL. */
  readonly #writer: Uint32Array;
  // Per jump cache, 2 × context + (user ? 0 : 1)
  /** Flushing one is a new generation: entries of another are no hits. */
  readonly #generation: Uint32Array;
  /** Pages that it may have entries for. */
  readonly #filter: Uint32Array;
  /** HAS bits. */
  readonly #has: Uint8Array;
  #last = 0;
  #tick = 0;
  /** Another number after each flush of anything: what was learnt from paging structures before is to be forgotten. */
  epoch = 0;
  /** Counters for the promises of DESIGN.md 6 and `info tlb`. */
  readonly counters = {
    contextSwitches: 0,
    contextsMade: 0,
    contextsRecycled: 0,
    flushes: 0,
    addressFlushes: 0,
    fills: 0,
  };

  constructor(memory: EngineMemory) {
    this.#memory = memory;
    this.count = memory.contextCount;
    this.#vcpu = new Int32Array(this.count).fill(-1);
    this.#vpid = new Int32Array(this.count);
    this.#root = new Float64Array(this.count);
    this.#pcid = new Int32Array(this.count);
    this.#dirty = new Uint8Array(this.count);
    this.#used = new Float64Array(this.count);
    this.#journal = new Uint32Array(this.count * JOURNAL);
    this.#journaled = new Uint16Array(this.count);
    this.#writer = new Uint32Array(memory.u8.length >>> 12);
    this.#generation = new Uint32Array(2 * this.count);
    this.#filter = new Uint32Array(2 * this.count * FILTER);
    this.#has = new Uint8Array(2 * this.count);
  }

  address(context: number): number {
    return this.#memory.contexts + context * CONTEXT_BYTES;
  }

  /** Finds or makes the context of that name. */
  find(vcpu: number, vpid: number, root: number, pcid: number): number {
    const last = this.#last;
    if (this.#is(last, vcpu, vpid, root, pcid)) return last;
    this.#tick += 1;
    this.counters.contextSwitches += 1;
    let oldest = 0;
    for (let i = 0; i < this.count; i += 1) {
      if (this.#is(i, vcpu, vpid, root, pcid)) {
        this.#used[i] = this.#tick;
        this.#last = i;
        return i;
      }
      if (this.#used[i]! < this.#used[oldest]!) oldest = i;
    }
    this.counters.contextsMade += 1;
    if (this.#vcpu[oldest] !== -1) {
      this.counters.contextsRecycled += 1;
      this.flush(oldest);
    } else {
      // Its first use: until then it costs no memory
      const at = this.address(oldest);
      this.#memory.u8.fill(0xff, at, at + CONTEXT_BYTES);
    }
    this.#vcpu[oldest] = vcpu;
    this.#vpid[oldest] = vpid;
    this.#root[oldest] = root;
    this.#pcid[oldest] = pcid;
    this.#used[oldest] = this.#tick;
    this.#last = oldest;
    return oldest;
  }

  #is(context: number, vcpu: number, vpid: number, root: number, pcid: number): boolean {
    return (
      this.#vcpu[context] === vcpu &&
      this.#root[context] === root &&
      this.#vpid[context] === vpid &&
      this.#pcid[context] === pcid
    );
  }

  /**
   * Notes that a set (0–2) got an entry.
   *
   * @param entry  u32 index of the entry: of the one for reading, where there is one for writing too.
   */
  touchSet(context: number, set: number, entry: number, global: boolean): void {
    this.#dirty[context] = this.#dirty[context]! | (1 << set);
    const count = this.#journaled[context]!;
    if (count > JOURNAL) return;
    if (count < JOURNAL) this.#journal[context * JOURNAL + count] = global ? entry | GLOBAL : entry;
    this.#journaled[context] = count + 1;
  }

  /** Notes that a write entry was made for a host page. */
  touchWriter(entry: number, hostPage: number): void {
    const known = this.#writer[hostPage]!;
    if (known === entry) return;
    this.#writer[hostPage] = known === 0 || (known !== SEVERAL && !this.#writes(known, hostPage)) ? entry : SEVERAL;
  }

  #writes(entry: number, hostPage: number): boolean {
    const { u32 } = this.#memory;
    return (u32[entry]! & 0xfff) === 0 && (u32[entry]! + u32[entry + 2]!) >>> 0 === (hostPage << 12) >>> 0;
  }

  #empty(entry: number): void {
    const { u32 } = this.#memory;
    u32[entry] = EMPTY;
    u32[entry + 1] = EMPTY;
  }

  /** Notes that a jump cache is about to get an entry for a linear address. */
  touchJumps(context: number, user: boolean, low: number): void {
    const cache = 2 * context + (user ? 0 : 1);
    this.#has[cache] = this.#has[cache]! | HAS.ENTRIES;
    const page = (low >>> 12) & (32 * FILTER - 1);
    const at = cache * FILTER + (page >>> 5);
    this.#filter[at] = this.#filter[at]! | (1 << (page & 31));
  }

  /** Notes that code of a page that is not global is about to run: jump caches will have entries for it. */
  touchLocalCode(context: number, user: boolean): void {
    const cache = 2 * context + (user ? 0 : 1);
    this.#has[cache] = this.#has[cache]! | HAS.LOCAL;
  }

  /** Empties one context. */
  flush(context: number): void {
    this.epoch += 1;
    this.flushJumps(context);
    const dirty = this.#dirty[context]!;
    if (dirty === 0) return;
    this.counters.flushes += 1;
    const { u8 } = this.#memory;
    const count = this.#journaled[context]!;
    if (count <= JOURNAL) {
      for (let i = context * JOURNAL; i < context * JOURNAL + count; i += 1) this.#forget(this.#journal[i]! & ~GLOBAL);
    } else {
      const base = this.address(context);
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (dirty & (1 << set)) u8.fill(0xff, base + set * TLB.SET_BYTES, base + (set + 1) * TLB.SET_BYTES);
      }
    }
    this.#journaled[context] = 0;
    this.#dirty[context] = 0;
  }

  /** Drops what a journal has noted: a read and a write entry, or an execute entry. */
  #forget(entry: number): void {
    this.#empty(entry);
    // Behind an execute entry: one of another set, or of a jump cache. What is lost there is found again
    this.#empty(entry + (TLB.WRITE >>> 2));
  }

  /** Empties one context of all but global pages. */
  #flushLocal(context: number): void {
    this.epoch += 1;
    const count = this.#journaled[context]!;
    if (count > JOURNAL) {
      this.flush(context);
      return;
    }
    this.#flushLocalJumps(context, true);
    this.#flushLocalJumps(context, false);
    if (count === 0) return;
    this.counters.flushes += 1;
    const first = context * JOURNAL;
    let kept = first;
    for (let i = first; i < first + count; i += 1) {
      const entry = this.#journal[i]!;
      if (entry & GLOBAL) {
        this.#journal[kept] = entry;
        kept += 1;
      } else this.#forget(entry);
    }
    this.#journaled[context] = kept - first;
  }

  #flushLocalJumps(context: number, user: boolean): void {
    const cache = 2 * context + (user ? 0 : 1);
    if (!(this.#has[cache]! & HAS.LOCAL)) return;
    this.#flushJumpCache(context, user);
    this.#has[cache] = 0;
  }

  /** Empties the jump caches of one context: what is cached there depends on translations for fetching. */
  flushJumps(context: number): void {
    this.#flushJumpCache(context, true);
    this.#flushJumpCache(context, false);
  }

  #flushJumpCache(context: number, user: boolean): void {
    const cache = 2 * context + (user ? 0 : 1);
    if (!(this.#has[cache]! & HAS.ENTRIES)) return;
    this.#has[cache] = this.#has[cache]! & ~HAS.ENTRIES;
    const { u8, u32 } = this.#memory;
    const address = this.jumps(context, user);
    let generation = this.#generation[cache]! + 1;
    if (generation === GENERATIONS) {
      generation = 0;
      u8.fill(0xff, address, address + JUMP_CACHE.BYTES);
    }
    this.#generation[cache] = generation;
    this.#filter.fill(0, cache * FILTER, (cache + 1) * FILTER);
    if (u32[S.JUMP_CACHE >>> 2] === address) u32[S.JUMP_TAG >>> 2] = this.jumpTag(context, user, u32[S.MODE >>> 2]!);
  }

  /** What entries of a jump cache carry besides their address: the mode word and the generation. */
  jumpTag(context: number, user: boolean, mode: number): number {
    return (mode | (this.#generation[2 * context + (user ? 0 : 1)]! << GENERATION_SHIFT)) >>> 0;
  }

  /** Address of a set. */
  set(context: number, set: number): number {
    return this.address(context) + set * TLB.SET_BYTES;
  }

  jumps(context: number, user: boolean): number {
    return this.address(context) + TLB.SETS * TLB.SET_BYTES + (user ? 0 : JUMP_CACHE.BYTES);
  }

  // ---- the flush primitives of nested-mmu.md 7.5. -1 as a name means "any". ---------------------------------------

  /** Drops everything whose name matches. */
  flushMatching(vcpu: number, vpid: number, root: number, pcid: number): void {
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] === -1) continue;
      if (vcpu !== -1 && this.#vcpu[i] !== vcpu) continue;
      if (vpid !== -1 && this.#vpid[i] !== vpid) continue;
      if (root !== -1 && this.#root[i] !== root) continue;
      if (pcid !== -1 && this.#pcid[i] !== pcid) continue;
      this.flush(i);
    }
  }

  /** Drops all but global pages of every context of that name. `pcid` -1: any. SDM 3A 4.10.2.4 "Global Pages". */
  flushLocal(vcpu: number, vpid: number, pcid: number): void {
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] !== vcpu || this.#vpid[i] !== vpid || (pcid !== -1 && this.#pcid[i] !== pcid)) continue;
      this.#flushLocal(i);
    }
  }

  /** Drops one linear page in every context whose vCPU and VPID (and PCID, unless -1) match. */
  flushAddress(vcpu: number, vpid: number, pcid: number, low: number, high: number): void {
    this.counters.addressFlushes += 1;
    this.epoch += 1;
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] !== vcpu || (vpid !== -1 && this.#vpid[i] !== vpid)) continue;
      if (pcid !== -1 && this.#pcid[i] !== pcid) continue;
      this.dropPage(i, low, high);
    }
  }

  /** Drops one linear page of one context. */
  dropPage(context: number, low: number, high: number): void {
    this.#dropJumps(context, true, low);
    this.#dropJumps(context, false, low);
    const dirty = this.#dirty[context]!;
    if (dirty === 0) return;
    const { u32 } = this.#memory;
    const page = (low & ~0xfff) >>> 0;
    const index = (low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    for (let set = 0; set < TLB.SETS; set += 1) {
      if (!(dirty & (1 << set))) continue;
      const base = this.set(context, set) + index;
      for (let array = 0; array < TLB.SET_BYTES; array += TLB.ARRAY_BYTES) {
        const entry = (base + array) >>> 2;
        if (u32[entry] === page && u32[entry + 1] === high >>> 0) this.#empty(entry);
      }
    }
  }

  #dropJumps(context: number, user: boolean, low: number): void {
    const page = (low >>> 12) & (32 * FILTER - 1);
    const at = (2 * context + (user ? 0 : 1)) * FILTER + (page >>> 5);
    if ((this.#filter[at]! >>> (page & 31)) & 1) this.#flushJumpCache(context, user);
  }

  /** Takes away every write entry for a host page: it begins to hold code, or to be tracked. */
  dropWriters(hostPage: number): void {
    const known = this.#writer[hostPage]!;
    this.#writer[hostPage] = 0;
    if (known === 0) return;
    if (known !== SEVERAL) {
      if (this.#writes(known, hostPage)) this.#empty(known);
      return;
    }
    for (let i = 0; i < this.count; i += 1) {
      const dirty = this.#dirty[i]!;
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (!(dirty & (1 << set))) continue;
        const start = (this.set(i, set) + TLB.WRITE) >>> 2;
        const end = start + TLB.ARRAY_BYTES / 4;
        for (let entry = start; entry < end; entry += 4) if (this.#writes(entry, hostPage)) this.#empty(entry);
      }
    }
  }

  /** Contexts in use, for `info tlb`. */
  *names(): Generator<{ context: number; vcpu: number; vpid: number; root: number; pcid: number; dirty: number }> {
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] === -1) continue;
      yield {
        context: i,
        vcpu: this.#vcpu[i]!,
        vpid: this.#vpid[i]!,
        root: this.#root[i]!,
        pcid: this.#pcid[i]!,
        dirty: this.#dirty[i]!,
      };
    }
  }
}
