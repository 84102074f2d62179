import { TWO_32 } from '../../base/bits.ts';
import { CONTEXT_BYTES, FILLS, HAS_JUMPS, JUMP_CACHE, RETURNS, S, TABLES, TLB, WALKS } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { type WriterScan, writerScan } from './writer-scan.ts';

/** In place of the one write entry of a host page: there may be several. */
export const SEVERAL = 0xffff_ffff;
const EMPTY = 0xffff_ffff;
/** The page that an entry's tag says, watched or not. */
const pageOf = (tag: number): number => (tag & ~TLB.WATCHED) >>> 0;
/** Groups of pages that the filter of a jump cache tells apart. */
const FILTER_BITS = 8 * JUMP_CACHE.FILTER_BYTES;
/**
 * Contexts that differ in their PCID only. Each has its own entries for pages that are global: a system that hands out six PCIDs
 * has its kernel's pages in six, and none of them in the host's caches. MEASURED on Debian's fork and exec: a context for each
 * PCID 0.90 s, three 0.82, two 0.80, one 0.76; two serve a kernel that changes CR3 at each system call.
 */
const PCIDS_MAX = 2;
/** Generations of a jump cache, above the mode word in a tag; all ones is no tag. */
const GENERATIONS = 0xf_ffff;

/**
 * The TLBs: one context for each (vCPU, VPID tag, root, PCID) seen lately. Making another one current is a store of its
 * address; nothing is flushed (DESIGN.md 3.1). The number of contexts is bounded; the least recently used is recycled.
 *
 * Owns    the contexts' memory, their names, and every way of dropping entries.
 * Knows   nothing of page tables: paging/walk.ts fills entries in.
 */
export class TlbContexts {
  readonly #memory: EngineMemory;
  readonly #scan: WriterScan;
  readonly count: number;
  readonly #vcpu: Int32Array;
  readonly #vpid: Int32Array;
  readonly #root: Float64Array;
  readonly #pcid: Int32Array;
  readonly #used: Float64Array;
  /** The one in force, and the one before it: levels take turns. */
  #last = 0;
  #before = 0;
  #tick = 0;
  /** Counters for the promises of DESIGN.md 6 and `info tlb`. */
  readonly counters: {
    contextSwitches: number;
    contextsMade: number;
    contextsRecycled: number;
    flushes: number;
    addressFlushes: number;
    readonly fills: number;
  };

  constructor(memory: EngineMemory) {
    this.#memory = memory;
    this.#scan = writerScan(memory.memory);
    const { u32 } = memory;
    this.counters = {
      contextSwitches: 0,
      contextsMade: 0,
      contextsRecycled: 0,
      flushes: 0,
      addressFlushes: 0,
      get fills(): number {
        return u32[WALKS.FILLS >>> 2]! + u32[(WALKS.FILLS + 4) >>> 2]! * TWO_32;
      },
    };
    this.count = memory.contextCount;
    this.#vcpu = new Int32Array(this.count).fill(-1);
    this.#vpid = new Int32Array(this.count);
    this.#root = new Float64Array(this.count);
    this.#pcid = new Int32Array(this.count);
    this.#used = new Float64Array(this.count);
  }

  address(context: number): number {
    return this.#memory.contexts + context * CONTEXT_BYTES;
  }

  /** Finds or makes the context of that name. */
  find(vcpu: number, vpid: number, root: number, pcid: number): number {
    const last = this.#last;
    if (this.#is(last, vcpu, vpid, root, pcid)) return last;
    const before = this.#before;
    this.#before = last;
    this.#tick += 1;
    this.counters.contextSwitches += 1;
    if (!this.#is(before, vcpu, vpid, root, pcid)) return this.#search(vcpu, vpid, root, pcid);
    return this.#use(before);
  }

  #search(vcpu: number, vpid: number, root: number, pcid: number): number {
    let oldest = 0;
    let others = 0;
    let oldestOther = -1;
    for (let i = 0; i < this.count; i += 1) {
      if (this.#is(i, vcpu, vpid, root, pcid)) return this.#use(i);
      if (this.#vcpu[i] === vcpu && this.#vpid[i] === vpid && this.#root[i] === root) {
        others += 1;
        if (oldestOther < 0 || this.#used[i]! < this.#used[oldestOther]!) oldestOther = i;
      }
      if (this.#used[i]! < this.#used[oldest]!) oldest = i;
    }
    if (others >= PCIDS_MAX) {
      // Global pages are all PCIDs'
      this.#flushLocal(oldestOther);
      this.#pcid[oldestOther] = pcid;
      return this.#use(oldestOther);
    }
    this.counters.contextsMade += 1;
    if (this.#vcpu[oldest] !== -1) {
      this.counters.contextsRecycled += 1;
      this.flush(oldest);
    } else {
      // Its first use: until then it costs no memory
      const at = this.address(oldest);
      const { u8 } = this.#memory;
      u8.fill(0xff, at, at + TLB.SETS * TLB.SET_BYTES);
      for (const user of [true, false]) {
        const jumps = this.jumps(oldest, user);
        u8.fill(0xff, jumps, jumps + JUMP_CACHE.BYTES);
      }
    }
    this.#vcpu[oldest] = vcpu;
    this.#vpid[oldest] = vpid;
    this.#root[oldest] = root;
    this.#pcid[oldest] = pcid;
    return this.#use(oldest);
  }

  #use(context: number): number {
    this.#used[context] = this.#tick;
    this.#last = context;
    return context;
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
    const { u32 } = this.#memory;
    const at = this.address(context) >>> 2;
    u32[at + (FILLS.DIRTY >>> 2)] = u32[at + (FILLS.DIRTY >>> 2)]! | (1 << set);
    const counter = at + ((global ? FILLS.GLOBAL : FILLS.LOCAL) >>> 2);
    const count = u32[counter]!;
    if (count > FILLS.MAX) return;
    if (count < FILLS.MAX) u32[at + ((global ? FILLS.GLOBAL_ENTRIES : FILLS.LOCAL_ENTRIES) >>> 2) + count] = entry;
    u32[counter] = count + 1;
  }

  /** Notes that a write entry was made for a host page. */
  touchWriter(entry: number, hostPage: number): void {
    const { u32 } = this.#memory;
    const at = (this.#memory.writers >>> 2) + hostPage;
    const known = u32[at]!;
    if (known === entry) return;
    u32[at] = known === 0 || (known !== SEVERAL && !this.#writes(known, hostPage)) ? entry : SEVERAL;
  }

  #writes(entry: number, hostPage: number): boolean {
    const { u32 } = this.#memory;
    const page = pageOf(u32[entry]!);
    return (page & 0xfff) === 0 && (page + u32[entry + 2]!) >>> 0 === (hostPage << 12) >>> 0;
  }

  #empty(entry: number): void {
    const { u32 } = this.#memory;
    u32[entry] = EMPTY;
    u32[entry + 1] = EMPTY;
  }

  /** Notes that a jump cache is about to get an entry for a linear address. */
  touchJumps(context: number, user: boolean, low: number): void {
    const { u32 } = this.#memory;
    const cache = this.jumps(context, user);
    const has = (cache + JUMP_CACHE.HAS) >>> 2;
    u32[has] = u32[has]! | HAS_JUMPS.ENTRIES;
    const page = (low >>> 12) & (FILTER_BITS - 1);
    const at = ((cache + JUMP_CACHE.FILTER) >>> 2) + (page >>> 5);
    u32[at] = u32[at]! | (1 << (page & 31));
  }

  /** Notes that code of a page that is not global is about to run: jump caches will have entries for it. */
  touchLocalCode(context: number, user: boolean): void {
    const { u32 } = this.#memory;
    const has = (this.jumps(context, user) + JUMP_CACHE.HAS) >>> 2;
    u32[has] = u32[has]! | HAS_JUMPS.LOCAL;
  }

  /** Calls in regions return by looking for where. */
  forgetReturns(): void {
    const { u8, u32 } = this.#memory;
    const epoch = (u32[RETURNS.EPOCH_AT >>> 2]! + 1) >>> 0;
    u32[RETURNS.EPOCH_AT >>> 2] = epoch;
    // All epochs have been: nothing may be left of the one that comes again
    if (epoch === 0) u8.fill(0xff, RETURNS.AT, RETURNS.AT + RETURNS.BYTES);
  }

  /** What walks have learnt from paging structures is to be forgotten, and what else depends on translations. */
  forgetTables(): void {
    this.forgetReturns();
    const { u8, u32 } = this.#memory;
    const epoch = (u32[WALKS.EPOCH >>> 2]! + 1) >>> 0;
    u32[WALKS.EPOCH >>> 2] = epoch;
    if (epoch !== 0) return;
    // All epochs have been: nothing may be left of the one that comes again
    u8.fill(0xff, TABLES.AT, TABLES.AT + (TABLES.ENTRIES1 + TABLES.ENTRIES2) * TABLES.ENTRY_BYTES);
  }

  /** Counts a fill. */
  filled(): void {
    const { u32 } = this.#memory;
    const at = WALKS.FILLS >>> 2;
    u32[at] = u32[at]! + 1;
    if (u32[at] === 0) u32[at + 1] = u32[at + 1]! + 1;
  }

  /** Empties one context. */
  flush(context: number): void {
    this.forgetTables();
    this.flushJumps(context);
    const { u8, u32 } = this.#memory;
    const base = this.address(context);
    const at = base >>> 2;
    const dirty = u32[at + (FILLS.DIRTY >>> 2)]!;
    if (dirty === 0) return;
    this.counters.flushes += 1;
    const locals = u32[at + (FILLS.LOCAL >>> 2)]!;
    const globals = u32[at + (FILLS.GLOBAL >>> 2)]!;
    if (locals <= FILLS.MAX && globals <= FILLS.MAX) {
      this.#forget(at + (FILLS.LOCAL_ENTRIES >>> 2), locals);
      this.#forget(at + (FILLS.GLOBAL_ENTRIES >>> 2), globals);
    } else {
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (dirty & (1 << set)) u8.fill(0xff, base + set * TLB.SET_BYTES, base + (set + 1) * TLB.SET_BYTES);
      }
    }
    u32[at + (FILLS.LOCAL >>> 2)] = 0;
    u32[at + (FILLS.GLOBAL >>> 2)] = 0;
    u32[at + (FILLS.DIRTY >>> 2)] = 0;
  }

  /** Drops what has been noted, `count` words from `first` on: a read and a write entry, or an execute entry. */
  #forget(first: number, count: number): void {
    const { u32 } = this.#memory;
    for (let i = first; i < first + count; i += 1) {
      const entry = u32[i]!;
      this.#empty(entry);
      // Behind an execute entry: one of another set, or of a jump cache. What is lost there is found again
      this.#empty(entry + (TLB.WRITE >>> 2));
    }
  }

  /** Empties one context of all but global pages. */
  #flushLocal(context: number): void {
    const { u32 } = this.#memory;
    const at = this.address(context) >>> 2;
    const count = u32[at + (FILLS.LOCAL >>> 2)]!;
    if (count > FILLS.MAX) {
      this.flush(context);
      return;
    }
    this.forgetTables();
    this.#flushLocalJumps(context, true);
    this.#flushLocalJumps(context, false);
    if (count === 0) return;
    this.counters.flushes += 1;
    this.#forget(at + (FILLS.LOCAL_ENTRIES >>> 2), count);
    u32[at + (FILLS.LOCAL >>> 2)] = 0;
  }

  #flushLocalJumps(context: number, user: boolean): void {
    const { u32 } = this.#memory;
    const has = (this.jumps(context, user) + JUMP_CACHE.HAS) >>> 2;
    if (!(u32[has]! & HAS_JUMPS.LOCAL)) return;
    this.#flushJumpCache(context, user);
    u32[has] = 0;
  }

  /** Empties the jump caches of one context: what is cached there depends on translations for fetching. */
  flushJumps(context: number): void {
    this.#flushJumpCache(context, true);
    this.#flushJumpCache(context, false);
  }

  #flushJumpCache(context: number, user: boolean): void {
    this.forgetReturns();
    const { u8, u32 } = this.#memory;
    const address = this.jumps(context, user);
    const has = (address + JUMP_CACHE.HAS) >>> 2;
    if (!(u32[has]! & HAS_JUMPS.ENTRIES)) return;
    u32[has] = u32[has]! & ~HAS_JUMPS.ENTRIES;
    let generation = u32[(address + JUMP_CACHE.GENERATION) >>> 2]! + 1;
    if (generation === GENERATIONS) {
      generation = 0;
      u8.fill(0xff, address, address + JUMP_CACHE.BYTES);
    }
    u32[(address + JUMP_CACHE.GENERATION) >>> 2] = generation;
    u8.fill(0, address + JUMP_CACHE.FILTER, address + JUMP_CACHE.FILTER + JUMP_CACHE.FILTER_BYTES);
    if (u32[S.JUMP_CACHE >>> 2] === address) u32[S.JUMP_TAG >>> 2] = this.jumpTag(context, user, u32[S.MODE >>> 2]!);
  }

  /** What entries of a jump cache carry besides their address: the mode word and the generation. */
  jumpTag(context: number, user: boolean, mode: number): number {
    const generation = this.#memory.u32[(this.jumps(context, user) + JUMP_CACHE.GENERATION) >>> 2]!;
    return (mode | (generation << JUMP_CACHE.GENERATION_SHIFT)) >>> 0;
  }

  /** Sets of a context that have had entries since its last flush, as bits. */
  #dirty(context: number): number {
    return this.#memory.u32[(this.address(context) + FILLS.DIRTY) >>> 2]!;
  }

  /** Address of a set. */
  set(context: number, set: number): number {
    return this.address(context) + set * TLB.SET_BYTES;
  }

  jumps(context: number, user: boolean): number {
    return this.address(context) + TLB.SETS * TLB.SET_BYTES + (user ? 0 : JUMP_CACHE.STRIDE);
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
    this.forgetTables();
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
    const dirty = this.#dirty(context);
    if (dirty === 0) return;
    const { u32 } = this.#memory;
    const page = (low & ~0xfff) >>> 0;
    const index = (low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    for (let set = 0; set < TLB.SETS; set += 1) {
      if (!(dirty & (1 << set))) continue;
      const base = this.set(context, set) + index;
      for (let array = 0; array < TLB.SET_BYTES; array += TLB.ARRAY_BYTES) {
        const entry = (base + array) >>> 2;
        if (pageOf(u32[entry]!) === page && u32[entry + 1] === high >>> 0) this.#empty(entry);
      }
    }
  }

  /** A linear page has a watchpoint, or has none any more: marks what the TLBs have of it for reading and writing. */
  markWatched(low: number, high: number, watched: boolean): void {
    const { u32 } = this.#memory;
    const page = (low & ~0xfff) >>> 0;
    const index = (low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    for (let i = 0; i < this.count; i += 1) {
      const dirty = this.#vcpu[i] === -1 ? 0 : this.#dirty(i);
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (!(dirty & (1 << set))) continue;
        const base = this.set(i, set) + index;
        for (const entry of [base >>> 2, (base + TLB.WRITE) >>> 2]) {
          if (pageOf(u32[entry]!) !== page || u32[entry + 1] !== high >>> 0) continue;
          u32[entry] = watched ? page | TLB.WATCHED : page;
        }
      }
    }
  }

  #dropJumps(context: number, user: boolean, low: number): void {
    const page = (low >>> 12) & (FILTER_BITS - 1);
    const at = ((this.jumps(context, user) + JUMP_CACHE.FILTER) >>> 2) + (page >>> 5);
    if ((this.#memory.u32[at]! >>> (page & 31)) & 1) this.#flushJumpCache(context, user);
  }

  /** Takes away every write entry for a host page: it begins to hold code, or to be tracked. */
  dropWriters(hostPage: number): void {
    const { u32 } = this.#memory;
    const at = (this.#memory.writers >>> 2) + hostPage;
    const known = u32[at]!;
    u32[at] = 0;
    if (known === 0) return;
    if (known !== SEVERAL) {
      if (this.#writes(known, hostPage)) this.#empty(known);
      return;
    }
    for (let i = 0; i < this.count; i += 1) {
      const dirty = this.#dirty(i);
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (!(dirty & (1 << set))) continue;
        this.#scan(this.set(i, set) + TLB.WRITE, hostPage);
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
        dirty: this.#dirty(i),
      };
    }
  }
}
