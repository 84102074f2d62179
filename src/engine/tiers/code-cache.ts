import { CODE_TABLE, DECODING, LOOKUPS_ARE_SEEN, REC, SEEN_BY, STRETCH } from '../core/layout.ts';
import { type EngineMemory, RUN_MAX } from '../core/memory.ts';
import type { PageNotes } from '../core/module-source.ts';
import { DECODED, type Decoder, PSEUDO, REGION_SLOT } from '../decode/decoder.ts';
import type { TlbContexts } from '../paging/tlb.ts';
import type { CodePages } from '../paging/walk.ts';

/** A page whose bytes are written this often while it holds code is data for the moment: its code is dropped. */
export const WRITES_MAX = 256;

/** SDM 2A 2.3.11: the longest. */
export const INSTRUCTION_BYTES = 15;

/** An instruction that has been patched so often will be again: it is left to the interpreter, and its page is no data for that. */
const PATCHED = 2;
/** Bytes of a patched instruction behind its first: a kernel writes them by themselves. */
const PATCH_BYTES = 4;

export const isPatched = ({ patches }: CodePage, offset: number): boolean => (patches?.get(offset) ?? 0) >= PATCHED;

function isPatchedBefore(page: CodePage, offset: number): boolean {
  if (!page.patches) return false;
  for (let at = offset - PATCH_BYTES; at <= offset; at += 1) if (isPatched(page, at)) return true;
  return false;
}

export interface CodePage {
  readonly hostPage: number;
  readonly mode: number;
  /** Address of its CODE_TABLE. */
  readonly table: number;
  /** Record of the instruction at each offset, or 0: the table's. */
  readonly entries: Uint32Array;
  /** Compiled code that this page has a part in: whoever compiles sets it, and is told by `regions` when it no longer holds. */
  region: object | undefined;
  /** Where the page was, and the execute array in force, when a run of it became hot: a hint. */
  linearLow: number;
  linearHigh: number;
  execute: number;
  /** Runs that became hot since the region was made. */
  fresh: number;
  /** How often a region of this page was lost to changed bytes. */
  losses: number;
  /** By offset: how often an instruction was changed by itself, as by a kernel that patches a branch in and out. */
  patches: Map<number, number> | undefined;
  /** Offsets where L0's debugger wants to stop: tiers/breakpoints.ts. */
  breaks: ReadonlySet<number> | undefined;
  /** What `PageNotes` call it. */
  name: number;
  /** Offsets of runs that were hot in earlier runs of the machine. */
  known: Uint16Array | undefined;
  next: CodePage | undefined;
}

/** What the compiler tier does for the cache. */
export interface Regions {
  /** Bytes of the page's instruction at `offset` change: its region goes before anything else is done, if it has that. */
  lost(page: CodePage, offset: number): void;
  /** The page's region goes although its bytes are what they were. */
  release(page: CodePage): void;
  flushed(): void;
  /** The handler number that an entry of a region had before. */
  original(record: number): number;
}

/** What the interpreter does for the cache: an instruction and the one behind it may have one handler. */
export interface Fusions {
  /** The handler of the first alone. */
  plain(handler: number): number;
}

/** Notes that are taken of pages, and used. */
export interface NoteTaking {
  readonly notes: PageNotes;
  /** REC.HEAT of what is known to become hot. */
  readonly heat: number;
  /** REC.HEAT from which on a run is noted. */
  readonly heatMin: number;
}

/** Told of what is decoded, for who changes records: tiers/breakpoints.ts. */
export interface DecodedWatcher {
  /** There are new records of a page that has `breaks`. */
  decoded(page: CodePage): void;
  flushed(): void;
}

/**
 * Decoded code, by host page and mode word, and what invalidates it.
 *
 * Owns    the arena of records; which pages hold code; records going stale when bytes under them change.
 * Knows   nothing of linear addresses: the same page mapped twice has one copy (DESIGN.md 3.1).
 */
export class CodeCache implements CodePages {
  readonly #memory: EngineMemory;
  /** The first code page of each host page; one for each mode word hangs on it. */
  readonly #heads: (CodePage | undefined)[];
  /** Where the next table goes, unless one is free; above `#tablesUsed` none has ever been. */
  #tablesTop: number;
  #tablesUsed: number;
  readonly #freeTables: number[] = [];
  readonly #bytes = new Uint8Array(32);
  decoder!: Decoder;
  tlb!: TlbContexts;
  regions: Regions | undefined;
  /** Who makes one of two handlers. */
  fusions!: Fusions;
  watcher: DecodedWatcher | undefined;
  noting: NoteTaking | undefined;
  #listener: ((page: CodePage, first: number, count: number) => void) | undefined;
  readonly counters: {
    readonly decoded: number;
    pages: number;
    known: number;
    stale: number;
    droppedPages: number;
    flushes: number;
    crossings: number;
  };

  constructor(memory: EngineMemory) {
    this.#memory = memory;
    this.#heads = new Array<CodePage | undefined>(memory.u8.length >>> 12).fill(undefined);
    const { u32 } = memory;
    this.counters = {
      get decoded() {
        return u32[DECODING.COUNT >>> 2]!;
      },
      pages: 0,
      known: 0,
      stale: 0,
      droppedPages: 0,
      flushes: 0,
      crossings: 0,
    };
    u32[DECODING.TOP >>> 2] = memory.code;
    this.#tablesTop = memory.codeTables;
    this.#tablesUsed = memory.codeTables;
  }

  /** Told of each stretch that is decoded: its records from `first` on. */
  set listener(listener: (page: CodePage, first: number, count: number) => void) {
    this.#listener = listener;
    this.#memory.u32[LOOKUPS_ARE_SEEN >>> 2]! |= SEEN_BY.LOG;
  }

  get #top(): number {
    return this.#memory.u32[DECODING.TOP >>> 2]!;
  }

  holds(hostPage: number): boolean {
    return this.#memory.u32[(this.#memory.codeHeads >>> 2) + hostPage] !== 0;
  }

  /** Of both parts of records. */
  get usedBytes(): number {
    return ((this.#top - this.#memory.code) / REC.BYTES) * (REC.BYTES + REC.COLD_BYTES);
  }

  get freeRecords(): number {
    return (this.#memory.codeEnd - this.#top) / REC.BYTES;
  }

  /** The page that holds a record's code, if it still does. */
  pageAt(hostPage: number, mode: number): CodePage | undefined {
    let page = this.#heads[hostPage];
    while (page && page.mode !== mode) page = page.next;
    return page;
  }

  /** The first code page of a host page: others, of other mode words, hang on it. */
  firstAt(hostPage: number): CodePage | undefined {
    return this.#heads[hostPage];
  }

  /** Record for the instruction at a host address under a mode word: decoded now if it was not yet. */
  entry(host: number, mode: number): number {
    if (this.#tablesAreFull && !this.pageAt(host >>> 12, mode)) this.flush();
    const page = this.#page(host >>> 12, mode);
    const known = page.entries[host & 0xfff]!;
    if (known !== 0) return known;
    const record = this.#decodeRun(page, host);
    // It was patched
    const { i32, u32 } = this.#memory;
    const counts = u32[(page.table + CODE_TABLE.WAITS) >>> 2] === 0;
    if (page.known?.includes(host & 0xfff) && counts) i32[(record + REC.HEAT) >>> 2] = this.noting!.heat;
    return record;
  }

  #page(hostPage: number, mode: number): CodePage {
    const known = this.pageAt(hostPage, mode);
    if (known) return known;
    if (!this.holds(hostPage)) this.tlb.dropWriters(hostPage);
    const { u32 } = this.#memory;
    const table = this.#table();
    const head = (this.#memory.codeHeads >>> 2) + hostPage;
    u32[(table + CODE_TABLE.MODE) >>> 2] = mode;
    u32[(table + CODE_TABLE.NEXT) >>> 2] = u32[head]!;
    u32.fill(0, (table + CODE_TABLE.HEAT) >>> 2, (table + CODE_TABLE.BYTES) >>> 2);
    u32[head] = table;
    const page: CodePage = {
      hostPage,
      mode,
      table,
      entries: u32.subarray(table >>> 2, (table + CODE_TABLE.ENTRIES_BYTES) >>> 2),
      region: undefined,
      linearLow: 0,
      linearHigh: 0,
      execute: 0,
      fresh: 0,
      losses: 0,
      patches: undefined,
      breaks: undefined,
      name: 0,
      known: undefined,
      next: this.#heads[hostPage],
    };
    this.#heads[hostPage] = page;
    this.counters.pages += 1;
    if (this.noting) this.#recall(page, this.noting);
    return page;
  }

  /** What is known to become hot in a new page is decoded at once, in one order: so that it is compiled as it was before. */
  #recall(page: CodePage, { notes, heat }: NoteTaking): void {
    page.name = nameOf(this.#memory.u32, page);
    const known = notes.hot(page.name);
    // Whoever listens wants to hear of code when it first runs
    if (!known || this.#listener) return;
    page.known = known.offsets;
    this.#memory.u32[(page.table + CODE_TABLE.WAITS) >>> 2] = known.changes;
    this.counters.known += 1;
    for (const offset of known.offsets) {
      if (page.entries[offset] === 0 && this.#hasRoom) this.#decodeRun(page, page.hostPage * 4096 + offset);
    }
    if (known.changes === 0) this.#warm(page, heat);
  }

  #warm({ known, entries }: CodePage, heat: number): void {
    for (const offset of known!) {
      const record = entries[offset]!;
      if (record !== 0) this.#memory.i32[(record + REC.HEAT) >>> 2] = heat;
    }
  }

  /** Notes what is hot in a page. */
  #tell(page: CodePage, { notes, heatMin }: NoteTaking): void {
    const { u16, u32, i32 } = this.#memory;
    const { entries } = page;
    const offsets: number[] = [];
    for (let end = u32[(page.table + CODE_TABLE.STRETCHES) >>> 2]!; end !== 0; end = u32[(end + STRETCH.NEXT) >>> 2]!) {
      for (let record = u32[(end + STRETCH.FIRST) >>> 2]!; record < end; record += REC.BYTES) {
        if (i32[(record + REC.HEAT) >>> 2]! < heatMin && u16[record >>> 1]! < REGION_SLOT) continue;
        const offset = u16[(record + REC.OFFSET) >>> 1]!;
        if (entries[offset] === record) offsets.push(offset);
      }
    }
    if (offsets.length > 0) notes.note(page.name, offsets, u32[(page.table + CODE_TABLE.CHANGES) >>> 2]!);
  }

  /** Notes what is hot now. */
  tell(): void {
    const { noting } = this;
    if (!noting) return;
    for (const head of this.#heads) for (let page = head; page; page = page.next) this.#tell(page, noting);
  }

  /** An empty table. */
  #table(): number {
    const free = this.#freeTables.pop();
    if (free !== undefined) return free;
    const table = this.#tablesTop;
    this.#tablesTop += CODE_TABLE.BYTES;
    if (table < this.#tablesUsed) this.#memory.u8.fill(0, table, table + CODE_TABLE.ENTRIES_BYTES);
    else this.#tablesUsed = this.#tablesTop;
    return table;
  }

  /** There is no table for another page. */
  get #tablesAreFull(): boolean {
    return this.#freeTables.length === 0 && this.#tablesTop >= this.#memory.codeTablesEnd;
  }

  /** There is room for a whole run, and the parts of a crossing instruction. */
  get #hasRoom(): boolean {
    return this.#top + (RUN_MAX + 4) * REC.BYTES <= this.#memory.codeEnd;
  }

  /** Decodes from `host` on: decodeRun of quick-decode.ts. */
  #decodeRun(page: CodePage, host: number): number {
    const before = this.counters.decoded;
    const first = this.decoder.run(page.table, page.mode, host);
    if (first === 0) {
      this.flush();
      return this.entry(host, page.mode);
    }
    if (page.breaks) this.watcher!.decoded(page);
    this.#listener?.(page, first, this.counters.decoded - before);
    return first;
  }

  /** The decoder's part in that: DECODED and, from bit 8 on, the length. */
  decode(record: number, host: number, mode: number): number {
    const offset = host & 0xfff;
    const result = this.decoder.decode(record, this.#memory.u8, host, host - offset + 4096, offset, mode);
    if (result === DECODED.CROSSES) this.#crossing(record, host >>> 12, offset);
    return result | (this.decoder.length << 8);
  }

  /** An instruction is to run by itself: that before it does not run it along. */
  unfuse(record: number): void {
    const { u16 } = this.#memory;
    const before = record - REC.BYTES;
    if (before >= this.#memory.code) u16[before >>> 1] = this.fusions.plain(u16[before >>> 1]!);
  }

  #pseudo(record: number, handler: number, offset: number, link: number): void {
    const { u16, u32 } = this.#memory;
    u16[record >>> 1] = handler;
    u16[(record + REC.OFFSET) >>> 1] = offset;
    u16[(record + REC.REMAINING) >>> 1] = 0;
    u32[(record + REC.LINK) >>> 2] = link;
  }

  /**
   * An instruction over the page end takes three records: CROSS, the decoded instruction, PAGE_END. The bytes it was
   * decoded from stand in the CROSS record; length 0 there means not decoded yet.
   */
  #crossing(record: number, hostPage: number, offset: number): void {
    const { u8, u32 } = this.#memory;
    this.#pseudo(record, PSEUDO.CROSS, offset, 0);
    u8[record + REC.LENGTH] = 0;
    for (const part of [record, record + REC.BYTES]) u32[(part + REC.PLACE) >>> 2] = hostPage;
    this.#pseudo(record + 2 * REC.BYTES, PSEUDO.PAGE_END, offset, 0);
  }

  /**
   * Makes the record behind a CROSS record right for the bytes there are now.
   *
   * @param host    Host address of the instruction's first byte.
   * @param second  Host address of the next page's first byte.
   */
  cross(record: number, host: number, second: number, mode: number): void {
    const { u8, u16 } = this.#memory;
    const first = 4096 - (host & 0xfff);
    const bytes = this.#bytes;
    for (let i = 0; i < 15; i += 1) bytes[i] = i < first ? u8[host + i]! : u8[second + i - first]!;
    const length = u8[record + REC.LENGTH]!;
    if (length !== 0) {
      let same = true;
      for (let i = 0; i < length; i += 1) same &&= u8[record + REC.RA + i] === bytes[i];
      if (same) return;
    }
    this.counters.crossings += 1;
    const offset = host & 0xfff;
    this.decoder.decode(record + REC.BYTES, bytes, 0, 32, offset, mode);
    u8[record + REC.LENGTH] = this.decoder.length;
    for (let i = 0; i < 15; i += 1) u8[record + REC.RA + i] = bytes[i]!;
    u16[(record + REC.BYTES + REC.REMAINING) >>> 1] = u16[(record + REC.REMAINING) >>> 1]!;
    u16[(record + 2 * REC.BYTES + REC.OFFSET) >>> 1] = offset + this.decoder.length;
  }

  /** Copies records to where they are stepped through. */
  #copy(record: number, count: number): void {
    const { u8, stepRecords } = this.#memory;
    u8.copyWithin(stepRecords, record, record + count * REC.BYTES);
    const cold = record + REC.COLD;
    u8.copyWithin(stepRecords + REC.COLD, cold, cold + count * REC.COLD_BYTES);
  }

  /** Copies the first `count` instructions of the run at `record` to where they end with END. */
  stepRecords(record: number, count: number): number {
    const { u8, u16, stepRecords } = this.#memory;
    this.#copy(record, count);
    for (let i = 0; i < count; i += 1) {
      const copy = stepRecords + i * REC.BYTES;
      u16[(copy + REC.REMAINING) >>> 1] = count - i;
      if (u16[copy >>> 1]! >= REGION_SLOT) u16[copy >>> 1] = this.regions!.original(record + i * REC.BYTES);
      // The step may end between two that run as one
      u16[copy >>> 1] = this.fusions.plain(u16[copy >>> 1]!);
    }
    const last = stepRecords + (count - 1) * REC.BYTES;
    const end = u16[(last + REC.OFFSET) >>> 1]! + u8[last + REC.LENGTH]!;
    this.#pseudo(stepRecords + count * REC.BYTES, PSEUDO.END, end, 0);
    return stepRecords;
  }

  /** A copy of one instruction as a run of its own, with its handler and behind it an END. */
  aloneRecord(record: number, handler: number): number {
    const { u8, u16, stepRecords } = this.#memory;
    // What crosses a page has its decoded record and its PAGE_END behind it
    const records = handler === PSEUDO.CROSS ? 3 : 1;
    this.#copy(record, records);
    u16[stepRecords >>> 1] = handler;
    u16[(stepRecords + REC.REMAINING) >>> 1] = 1;
    const end = u16[(stepRecords + REC.OFFSET) >>> 1]! + u8[stepRecords + REC.LENGTH]!;
    if (records === 1) this.#pseudo(stepRecords + REC.BYTES, PSEUDO.END, end, 0);
    return stepRecords;
  }

  /** A copy of one record with the handler it had before it became a region's entry, and on to the next. */
  redo(record: number): number {
    const { u16, stepRecords } = this.#memory;
    if (u16[record >>> 1]! < REGION_SLOT) return record;
    this.#copy(record, 1);
    u16[stepRecords >>> 1] = this.fusions.plain(this.regions!.original(record));
    const next = record + REC.BYTES;
    this.#pseudo(stepRecords + REC.BYTES, PSEUDO.GOTO, u16[(next + REC.OFFSET) >>> 1]!, next);
    u16[(stepRecords + REC.BYTES + REC.REMAINING) >>> 1] = u16[(next + REC.REMAINING) >>> 1]!;
    return stepRecords;
  }

  // ---- invalidation -----------------------------------------------------------------------------------------------

  /** Bytes of a host page changed: what was decoded from them is stale. */
  written(host: number, bytes: number): void {
    let rest = bytes;
    let at = host;
    while (rest > 0) {
      const here = Math.min(rest, 4096 - (at & 0xfff));
      if (this.holds(at >>> 12)) this.#writtenInPage(at, here);
      at += here;
      rest -= here;
    }
  }

  #writtenInPage(host: number, bytes: number): void {
    const { u8, u16, u32 } = this.#memory;
    const hostPage = host >>> 12;
    const offset = host & 0xfff;
    for (let page = this.#heads[hostPage]; page; page = page.next) {
      const writes = (page.table + CODE_TABLE.WRITES) >>> 2;
      if (!isPatchedBefore(page, offset)) u32[writes]! += 1;
      if (u32[writes]! > WRITES_MAX || bytes > 256) {
        this.dropPage(hostPage);
        return;
      }
      for (let at = Math.max(0, offset - INSTRUCTION_BYTES + 1); at < offset + bytes; at += 1) {
        const record = page.entries[at]!;
        if (record === 0) continue;
        // A crossing instruction checks its bytes by itself
        if (u16[record >>> 1] === PSEUDO.CROSS) continue;
        if (at + u8[record + REC.LENGTH]! <= offset) continue;
        page.patches ??= new Map();
        page.patches.set(at, (page.patches.get(at) ?? 0) + 1);
        if (page.known) u32[(page.table + CODE_TABLE.PATCHED_HOT) >>> 2] = 1;
        if (isPatched(page, at)) u32[(page.table + CODE_TABLE.PATCHED) >>> 2] = 1;
        this.#stale(page, at, record);
      }
      const changes = (page.table + CODE_TABLE.CHANGES) >>> 2;
      const waits = (page.table + CODE_TABLE.WAITS) >>> 2;
      u32[changes]! += 1;
      if (u32[changes] === u32[waits]) {
        u32[waits] = 0;
        this.#warm(page, this.noting!.heat);
      }
    }
  }

  #stale(page: CodePage, at: number, record: number): void {
    if (page.region) this.regions!.lost(page, at);
    this.unfuse(record);
    this.#memory.u16[record >>> 1] = PSEUDO.STALE;
    page.entries[at] = 0;
    this.counters.stale += 1;
  }

  /** Drops all code of a host page; it can be written at full speed again. */
  dropPage(hostPage: number): void {
    for (let page = this.#heads[hostPage]; page; page = page.next) {
      if (this.noting) this.#tell(page, this.noting);
      for (let at = 0; at < 4096; at += 1) {
        const record = page.entries[at]!;
        if (record !== 0) this.#stale(page, at, record);
      }
      // Empty by now
      this.#freeTables.push(page.table);
    }
    this.#heads[hostPage] = undefined;
    this.#memory.u32[(this.#memory.codeHeads >>> 2) + hostPage] = 0;
    this.counters.droppedPages += 1;
  }

  /** Empties the cache. Only between instructions, with no record in hand. */
  flush(): void {
    this.counters.flushes += 1;
    this.tell();
    this.regions?.flushed();
    this.watcher?.flushed();
    this.#heads.fill(undefined);
    this.#memory.u8.fill(0, this.#memory.codeHeads, this.#memory.writers);
    this.#memory.u32[DECODING.TOP >>> 2] = this.#memory.code;
    this.#tablesTop = this.#memory.codeTables;
    this.#freeTables.length = 0;
    for (const { context } of this.tlb.names()) this.tlb.flushJumps(context);
  }
}

/** 53 bits of what a page holds, and of its mode word: two sums, each of every other word. */
function nameOf(u32: Uint32Array, { hostPage, mode }: CodePage): number {
  const first = hostPage << 10;
  let even = mode;
  let odd = 0x9e37_79b9;
  for (let at = first; at < first + 1024; at += 2) {
    even = Math.imul(even ^ u32[at]!, 0x85eb_ca6b);
    even ^= even >>> 15;
    odd = Math.imul(odd ^ u32[at + 1]!, 0xc2b2_ae35);
    odd ^= odd >>> 13;
  }
  return (even >>> 0) * 0x20_0000 + ((odd ^ (even >>> 7)) >>> 11);
}
