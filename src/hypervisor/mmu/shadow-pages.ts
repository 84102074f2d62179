/**
 * The pool of shadow pages: tables that the engine walks, and what L0 remembers of each.
 *
 * Owns    identity (gfn, role), the hash, the FIFO of active pages, parent lists, unsync flags and bitmaps.
 * Knows   nothing of slots, reverse maps or TLBs; spte.ts and zap.ts use this.
 *
 * A shadow page's number is its table number in contracts/second-stage.ts. Page 0 is never handed out, so that 0 can
 * mean "none". All state is in typed arrays: a fault allocates nothing.
 *
 * Source  nested-mmu.md 5.1, 5.2.
 */
import { assert } from '../../base/assert.ts';
import type { SecondStageTables } from '../../contracts/second-stage.ts';
import { SPTE_PRESENT } from '../../contracts/second-stage.ts';
import { SpteLists } from './spte-lists.ts';

export const ENTRIES = 512;
const BITMAP_WORDS = ENTRIES / 32;
const HASH_SIZE = 4096;

/** Children differ in the low bits of their gfn, direct children in multiples of 512: fold both in. */
const hashOf = (gfn: number): number => (gfn ^ Math.floor(gfn / 512)) & (HASH_SIZE - 1);

export class ShadowPages {
  readonly capacity: number;
  /** Entries, `page * 512 + index`. Replaced by `rebind` when linear memory grows. */
  lo: Uint32Array;
  hi: Uint32Array;
  readonly gfn: Float64Array;
  readonly role: Uint32Array;
  readonly rootCount: Int32Array;
  readonly parents: Uint32Array;
  readonly unsync: Uint8Array;
  readonly unsyncChildren: Uint16Array;
  readonly unsyncBitmap: Uint32Array;
  readonly writeFlood: Uint8Array;
  readonly generation: Uint32Array;
  /** Unique name of this allocation; what the engine's TLB knows a root by. */
  readonly serial: Uint32Array;
  /** Roots without a guest table behind: PAE roots, the dummy root. Not hashed, not counted, never reclaimed. */
  readonly special: Uint8Array;
  /** Indirect pages: frame and rights of the guest entry when the SPTE was made. */
  readonly shadowedGfn: Float64Array;
  readonly shadowedAccess: Uint8Array;
  readonly lists: SpteLists;
  /** Pages in use, special ones not counted. */
  used = 0;

  readonly #hashHead = new Int32Array(HASH_SIZE);
  readonly #hashNext: Int32Array;
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  #oldest = 0;
  #newest = 0;
  readonly #free: Int32Array;
  #freeCount = 0;
  #serials = 0;

  constructor(capacity: number, tables: SecondStageTables) {
    assert(tables.lo.length >= capacity * ENTRIES, 'the tables have room for every shadow page');
    assert(capacity * ENTRIES < 2 ** 32, 'an SPTE index fits 32 bits');
    this.capacity = capacity;
    this.lo = tables.lo;
    this.hi = tables.hi;
    this.gfn = new Float64Array(capacity);
    this.role = new Uint32Array(capacity);
    this.rootCount = new Int32Array(capacity);
    this.parents = new Uint32Array(capacity);
    this.unsync = new Uint8Array(capacity);
    this.unsyncChildren = new Uint16Array(capacity);
    this.unsyncBitmap = new Uint32Array(capacity * BITMAP_WORDS);
    this.writeFlood = new Uint8Array(capacity);
    this.generation = new Uint32Array(capacity);
    this.serial = new Uint32Array(capacity);
    this.special = new Uint8Array(capacity);
    this.shadowedGfn = new Float64Array(capacity * ENTRIES);
    this.shadowedAccess = new Uint8Array(capacity * ENTRIES);
    this.lists = new SpteLists();
    this.#hashNext = new Int32Array(capacity);
    this.#older = new Int32Array(capacity);
    this.#newer = new Int32Array(capacity);
    this.#free = new Int32Array(capacity);
    for (let page = capacity - 1; page >= 1; page -= 1) this.#free[this.#freeCount++] = page;
  }

  /** The same tables at a new place: linear memory grew and its old views are detached. */
  rebind(tables: SecondStageTables): void {
    this.lo = tables.lo;
    this.hi = tables.hi;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** First page of the hash bucket of `gfn`; go on with `nextInHash`. 0 ends. */
  firstInHash(gfn: number): number {
    return this.#hashHead[hashOf(gfn)]!;
  }

  nextInHash(page: number): number {
    return this.#hashNext[page]!;
  }

  /** The page that has been active longest, or 0. */
  get oldest(): number {
    return this.#oldest;
  }

  nextNewer(page: number): number {
    return this.#newer[page]!;
  }

  /** An empty, hashed, active page. The caller made sure that one is free. */
  allocate(gfn: number, role: number, generation: number): number {
    const page = this.#take();
    this.gfn[page] = gfn;
    this.role[page] = role;
    this.generation[page] = generation;
    this.used += 1;
    const bucket = hashOf(gfn);
    this.#hashNext[page] = this.#hashHead[bucket]!;
    this.#hashHead[bucket] = page;
    this.#older[page] = this.#newest;
    this.#newer[page] = 0;
    if (this.#newest === 0) this.#oldest = page;
    else this.#newer[this.#newest] = page;
    this.#newest = page;
    return page;
  }

  allocateSpecial(): number {
    const page = this.#take();
    this.special[page] = 1;
    this.role[page] = 0;
    return page;
  }

  /** Takes a page out of the hash and the FIFO: nobody finds it any more, its users may still run on it. */
  retire(page: number): void {
    const bucket = hashOf(this.gfn[page]!);
    let at = this.#hashHead[bucket]!;
    if (at === page) this.#hashHead[bucket] = this.#hashNext[page]!;
    else {
      while (this.#hashNext[at] !== page) at = this.#hashNext[at]!;
      this.#hashNext[at] = this.#hashNext[page]!;
    }
    const older = this.#older[page]!;
    const newer = this.#newer[page]!;
    if (older === 0) this.#oldest = newer;
    else this.#newer[older] = newer;
    if (newer === 0) this.#newest = older;
    else this.#older[newer] = older;
  }

  /** Gives a retired page back. Only after a flush: no TLB may know its serial or its address. */
  free(page: number): void {
    assert(this.rootCount[page] === 0, 'a freed page is no root');
    assert(this.parents[page] === 0, 'a freed page has no parents');
    this.used -= 1;
    this.#free[this.#freeCount++] = page;
  }

  present(page: number, index: number): boolean {
    return (this.lo[page * ENTRIES + index]! & SPTE_PRESENT) !== 0;
  }

  #take(): number {
    assert(this.#freeCount > 0, 'a fault never runs out of shadow pages: room is made before it starts');
    const page = this.#free[--this.#freeCount]!;
    const from = page * ENTRIES;
    this.lo.fill(0, from, from + ENTRIES);
    this.hi.fill(0, from, from + ENTRIES);
    this.unsyncBitmap.fill(0, page * BITMAP_WORDS, (page + 1) * BITMAP_WORDS);
    this.rootCount[page] = 0;
    this.parents[page] = 0;
    this.unsync[page] = 0;
    this.unsyncChildren[page] = 0;
    this.writeFlood[page] = 0;
    this.special[page] = 0;
    this.serial[page] = ++this.#serials;
    return page;
  }

  // ── unsync marks: an unsync page is reachable from every root above it through set bits (I11) ──

  bitSet(page: number, index: number): boolean {
    return ((this.unsyncBitmap[page * BITMAP_WORDS + (index >>> 5)]! >>> (index & 31)) & 1) !== 0;
  }

  clearBit(page: number, index: number): void {
    const word = page * BITMAP_WORDS + (index >>> 5);
    const mask = 1 << (index & 31);
    if ((this.unsyncBitmap[word]! & mask) === 0) return;
    this.unsyncBitmap[word] = this.unsyncBitmap[word]! & ~mask;
    this.unsyncChildren[page] = this.unsyncChildren[page]! - 1;
  }

  /** Something below entry `index` of `page` is unsync: says so here and all the way up. */
  markEntry(page: number, index: number): void {
    const word = page * BITMAP_WORDS + (index >>> 5);
    const mask = 1 << (index & 31);
    if ((this.unsyncBitmap[word]! & mask) !== 0) return;
    this.unsyncBitmap[word] = this.unsyncBitmap[word]! | mask;
    this.unsyncChildren[page] = this.unsyncChildren[page]! + 1;
    if (this.unsyncChildren[page] === 1) this.markParents(page);
  }

  markParents(page: number): void {
    for (let node = this.parents[page]!; node !== 0; node = this.lists.next[node]!) {
      const spte = this.lists.spte[node]!;
      this.markEntry(spte >>> 9, spte & 511);
    }
  }
}
