import { describe, expect, test } from 'vitest';
import { JUMP_CACHE, S, TLB } from '../core/layout.ts';
import { EngineMemory } from '../core/memory.ts';
import { TlbContexts } from './tlb.ts';

/** What paging/walk.ts and engine.ts do with the contexts, by hand. */
class Bench {
  readonly memory = new EngineMemory({ contexts: 4, codeBytes: 0x1_0000, ramBytes: 0x40_0000, vcpus: 1 });
  readonly tlb = new TlbContexts(this.memory);
  context = this.tlb.find(0, 0, 1, 0);

  #entry(set: number, array: number, page: number): number {
    const index = (page >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    return (this.tlb.set(this.context, set) + array + index) >>> 2;
  }

  #put(entry: number, page: number, hostPage: number): void {
    const { u32 } = this.memory;
    u32[entry] = page;
    u32[entry + 1] = 0;
    u32[entry + 2] = (hostPage << 12) - page;
  }

  data(page: number, hostPage: number, global = false, set: number = TLB.SUPERVISOR): void {
    const read = this.#entry(set, 0, page);
    const write = this.#entry(set, TLB.WRITE, page);
    this.tlb.touchSet(this.context, set, read, global);
    this.#put(read, page, hostPage);
    this.#put(write, page, hostPage);
    this.tlb.touchWriter(write, hostPage);
  }

  code(page: number, hostPage: number, global = false): void {
    const entry = this.#entry(TLB.SUPERVISOR, TLB.EXECUTE, page);
    if (!global) this.tlb.touchLocalCode(this.context, false);
    this.tlb.touchSet(this.context, TLB.SUPERVISOR, entry, global);
    this.#put(entry, page, hostPage);
  }

  jump(page: number): void {
    const { u32 } = this.memory;
    const slot = this.tlb.jumps(this.context, false);
    u32[slot >>> 2] = page;
    u32[(slot + JUMP_CACHE.TAG) >>> 2] = this.tlb.jumpTag(this.context, false, 0);
    this.tlb.touchJumps(this.context, false, page);
  }

  has(array: number, page: number, set: number = TLB.SUPERVISOR): boolean {
    return this.memory.u32[this.#entry(set, array, page)] === page;
  }

  get jumpHits(): boolean {
    const slot = this.tlb.jumps(this.context, false);
    return this.memory.u32[(slot + JUMP_CACHE.TAG) >>> 2] === this.tlb.jumpTag(this.context, false, 0);
  }
}

describe('a flush of what is not global', () => {
  test('keeps global pages, and drops the others, for reading, writing and fetching', () => {
    const b = new Bench();
    b.data(0x1000, 600, true);
    b.data(0x2000, 601);
    b.code(0x3000, 602, true);
    b.code(0x4000, 603);
    b.tlb.flushLocal(0, 0, 0);
    expect([b.has(0, 0x1000), b.has(TLB.WRITE, 0x1000), b.has(TLB.EXECUTE, 0x3000)]).toEqual([true, true, true]);
    expect([b.has(0, 0x2000), b.has(TLB.WRITE, 0x2000), b.has(TLB.EXECUTE, 0x4000)]).toEqual([false, false, false]);
  });

  test('drops what came after the last one, and global pages with a full flush later', () => {
    const b = new Bench();
    b.data(0x1000, 600, true);
    b.tlb.flushLocal(0, 0, 0);
    b.data(0x2000, 601);
    b.tlb.flushLocal(0, 0, 0);
    expect([b.has(0, 0x1000), b.has(0, 0x2000)]).toEqual([true, false]);
    b.tlb.flush(b.context);
    expect(b.has(0, 0x1000)).toBe(false);
  });

  test('drops every local page after more fills than are remembered', () => {
    const b = new Bench();
    for (let page = 0; page < 4000; page += 1) b.data((page << 12) >>> 0, 512 + (page & 511), page % 3 === 0);
    b.tlb.flushLocal(0, 0, 0);
    for (let page = 0; page < 4000; page += 1) if (page % 3 !== 0) expect(b.has(0, page << 12)).toBe(false);
  });

  test('keeps the jump cache if only global code ran, and empties it otherwise', () => {
    const b = new Bench();
    b.code(0x3000, 602, true);
    b.jump(0x3000);
    b.tlb.flushLocal(0, 0, 0);
    expect(b.jumpHits).toBe(true);
    b.code(0x4000, 603);
    b.jump(0x4000);
    b.tlb.flushLocal(0, 0, 0);
    expect(b.jumpHits).toBe(false);
  });

  test('empties the jump cache for local code whose execute entry an INVLPG of another page left', () => {
    const b = new Bench();
    b.code(0x4000, 603);
    b.code(0x5000, 604);
    b.jump(0x5000);
    b.tlb.flushAddress(0, 0, -1, 0x5000, 0);
    b.jump(0x4000);
    expect(b.jumpHits).toBe(true);
    b.tlb.flushLocal(0, 0, 0);
    expect(b.jumpHits).toBe(false);
  });

  test('is of one PCID where one is named', () => {
    const b = new Bench();
    b.data(0x2000, 601);
    const first = b.context;
    b.context = b.tlb.find(0, 0, 1, 7);
    b.data(0x2000, 601);
    b.tlb.flushLocal(0, 0, 7);
    expect(b.has(0, 0x2000)).toBe(false);
    b.context = first;
    expect(b.has(0, 0x2000)).toBe(true);
  });
});

test('a third PCID gets the context least lately used, with its global pages only, and no flush of the old one', () => {
  const b = new Bench();
  const first = b.context;
  b.data(0x1000, 600, true);
  b.data(0x2000, 601);
  b.code(0x4000, 603);
  b.jump(0x4000);
  // Of another VPID: none of theirs
  const guest = b.tlb.find(0, 5, 1, 0);
  const second = b.tlb.find(0, 0, 1, 1);
  b.context = second;
  b.data(0x2000, 604);
  b.context = b.tlb.find(0, 0, 1, 2);
  expect(b.context).toBe(first);
  expect([b.has(0, 0x1000), b.has(0, 0x2000), b.has(TLB.EXECUTE, 0x4000), b.jumpHits]).toEqual([
    true,
    false,
    false,
    false,
  ]);
  b.data(0x2000, 605);
  b.tlb.flushLocal(0, 0, 0);
  b.tlb.flushLocal(0, 0, 1);
  expect(b.has(0, 0x2000)).toBe(true);
  b.context = b.tlb.find(0, 0, 1, 0);
  expect(b.context).toBe(second);
  expect(b.has(0, 0x2000)).toBe(false);
  b.context = b.tlb.find(0, 0, 1, 2);
  expect(b.has(0, 0x2000)).toBe(true);
  b.tlb.flushAddress(0, 0, -1, 0x1000, 0);
  expect(b.has(0, 0x1000)).toBe(false);
  expect([guest, b.tlb.find(0, 5, 1, 0)]).not.toContain(first);
  expect(b.tlb.find(0, 5, 1, 0)).toBe(guest);
});

test('INVLPG of a page empties the jump cache although its execute entry has gone to another page', () => {
  const b = new Bench();
  b.code(0x4000, 603);
  b.jump(0x4000);
  const rival = 0x4000 + TLB.ENTRIES * 4096;
  b.code(rival, 604);
  b.tlb.flushAddress(0, 0, -1, 0x9000, 0);
  expect(b.jumpHits).toBe(true);
  b.tlb.flushAddress(0, 0, -1, 0x4000, 0);
  expect(b.jumpHits).toBe(false);
  expect(b.has(TLB.EXECUTE, rival)).toBe(true);
});

test('a flush of the jump cache in force changes the tag that generated code compares with', () => {
  const b = new Bench();
  const { u32 } = b.memory;
  u32[S.JUMP_CACHE >>> 2] = b.tlb.jumps(b.context, false);
  u32[S.MODE >>> 2] = 0x25;
  b.jump(0x4000);
  const before = u32[S.JUMP_TAG >>> 2]!;
  b.tlb.flushJumps(b.context);
  expect(u32[S.JUMP_TAG >>> 2]).toBe(b.tlb.jumpTag(b.context, false, 0x25));
  expect(u32[S.JUMP_TAG >>> 2]).not.toBe(before);
});

test('a page that begins to hold code loses all its write entries: one, or several in two contexts', () => {
  const b = new Bench();
  b.data(0x1000, 600);
  b.tlb.dropWriters(600);
  expect([b.has(0, 0x1000), b.has(TLB.WRITE, 0x1000)]).toEqual([true, false]);
  b.data(0x1000, 600);
  b.data(0x7000, 600, false, TLB.USER);
  const first = b.context;
  b.context = b.tlb.find(0, 3, 1, 0);
  b.data(0x5000, 600);
  b.tlb.dropWriters(600);
  expect(b.has(TLB.WRITE, 0x5000)).toBe(false);
  b.context = first;
  expect([b.has(TLB.WRITE, 0x1000), b.has(TLB.WRITE, 0x7000, TLB.USER)]).toEqual([false, false]);
});

test('a write entry that went to another page does not hide the one there is', () => {
  const b = new Bench();
  b.data(0x1000, 600);
  b.data(0x1000 + TLB.ENTRIES * 4096, 601);
  b.data(0x6000, 600);
  b.tlb.dropWriters(600);
  expect([b.has(TLB.WRITE, 0x6000), b.has(TLB.WRITE, 0x1000 + TLB.ENTRIES * 4096)]).toEqual([false, true]);
});

test('a recycled context has nothing of the one before', () => {
  const b = new Bench();
  b.data(0x1000, 600, true);
  b.jump(0x1000);
  const first = b.context;
  for (let vpid = 1; vpid <= 4; vpid += 1) b.context = b.tlb.find(0, vpid, 1, 0);
  expect(b.context).toBe(first);
  expect([b.has(0, 0x1000), b.jumpHits]).toEqual([false, false]);
});
