import { assert } from '../../../base/assert.ts';
import { type EngineMemory, LOCKSTEP, LOCKSTEP_PAGES } from '../../core/memory.ts';
import { ACCESS } from '../../paging/access.ts';
import type { WalkJournal } from '../../paging/walk.ts';
import type { LockstepKernel } from './kernel.ts';

/** A byte of memory in which two runs differ. */
export interface ByteDifference {
  readonly host: number;
  readonly before: number;
  readonly first: number;
  readonly second: number;
}

/**
 * What guest memory and the TLB were before a piece of code ran, so that it can be taken back and run a second time.
 *
 * Owns    images of the pages that a run writes, the TLB entries that it fills.
 * Knows   nothing of registers.
 *
 * Every way to write a page begins with a translation for writing that the walk finishes: `begin` takes all write entries
 * out of the TLB that were made since the last one, so that no store is missed and the stores themselves run as they are.
 */
export class Journal implements WalkJournal {
  readonly #memory: EngineMemory;
  readonly #kernel: LockstepKernel;
  /** By host page: generation in which it was noted, and its number. */
  readonly #noted: Uint32Array;
  readonly #number: Uint32Array;
  #generation = 0;
  #recording = false;
  #second = false;
  /** Write entries filled since the last `begin`. */
  #open = new Uint32Array(64);
  #openCount = 0;
  /** Entries filled by this run: address and what was there, four words each. */
  #entries = new Uint32Array(256);
  #entryWords = 0;
  /** Words of tables and bits that the first run's walks set in them, two words each. */
  #marks = new Uint32Array(256);
  #markWords = 0;
  /** Pages noted; those of the first run are the front. Their addresses and images are in linear memory. */
  #count = 0;
  #firstCount = 0;

  constructor(memory: EngineMemory, kernel: LockstepKernel) {
    this.#memory = memory;
    this.#kernel = kernel;
    this.#noted = new Uint32Array(memory.u8.length >>> 12);
    this.#number = new Uint32Array(memory.u8.length >>> 12);
  }

  // ---- what the walk tells ----------------------------------------------------------------------------------------

  entry(address: number, forWriting: boolean): void {
    if (forWriting) {
      if (this.#openCount === this.#open.length) this.#open = doubled(this.#open);
      this.#open[this.#openCount++] = address;
    }
    if (!this.#recording || this.#second) return;
    const { u32 } = this.#memory;
    const at = address >>> 2;
    if (this.#entryWords === this.#entries.length) this.#entries = doubled(this.#entries);
    const entries = this.#entries;
    entries[this.#entryWords] = address;
    entries[this.#entryWords + 1] = u32[at]!;
    entries[this.#entryWords + 2] = u32[at + 1]!;
    entries[this.#entryWords + 3] = u32[at + 2]!;
    this.#entryWords += 4;
  }

  page(host: number): void {
    if (!this.#recording) return;
    const page = host >>> 12;
    if (this.#noted[page] === this.#generation) return;
    this.#noted[page] = this.#generation;
    const number = this.#count++;
    assert(number < LOCKSTEP_PAGES, 'a counted number of instructions writes fewer pages than there are images');
    this.#number[page] = number;
    this.#memory.u32[((this.#memory.lockstep + LOCKSTEP.HOSTS) >>> 2) + number] = page << 12;
    this.#kernel.note(number);
  }

  mark(host: number, bits: number, access: number): void {
    if (!this.#recording) return;
    this.page(host);
    if (!this.#second) {
      if (this.#markWords === this.#marks.length) this.#marks = doubled(this.#marks);
      this.#marks[this.#markWords] = host;
      this.#marks[this.#markWords + 1] = bits;
      this.#markWords += 2;
      return;
    }
    // The first run knew where its code was; the second may have looked again. That is no difference.
    if (!(access & ACCESS.FETCH)) return;
    const number = this.#number[host >>> 12]!;
    const { u32 } = this.#memory;
    const image = (this.#before(number) + (host & 0xfff)) >>> 2;
    u32[image] = u32[image]! | bits;
    if (number >= this.#firstCount) return;
    const first = (this.#first(number) + (host & 0xfff)) >>> 2;
    u32[first] = u32[first]! | bits;
  }

  // ---- two runs ---------------------------------------------------------------------------------------------------

  /** From here on everything can be taken back. */
  begin(): void {
    const { u32 } = this.#memory;
    for (let i = 0; i < this.#openCount; i += 1) {
      const at = this.#open[i]! >>> 2;
      u32[at] = 0xffff_ffff;
      u32[at + 1] = 0xffff_ffff;
    }
    this.#openCount = 0;
    this.#entryWords = 0;
    this.#markWords = 0;
    this.#count = 0;
    this.#generation = (this.#generation + 1) >>> 0;
    if (this.#generation === 0) {
      this.#noted.fill(0);
      this.#generation = 1;
    }
    this.#recording = true;
    this.#second = false;
  }

  /** Keeps what the first run wrote, and takes it back. */
  again(): void {
    const { u32 } = this.#memory;
    this.#firstCount = this.#count;
    if (this.#count > 0) this.#kernel.takeBack(this.#count);
    const entries = this.#entries;
    for (let i = this.#entryWords - 4; i >= 0; i -= 4) {
      const at = entries[i]! >>> 2;
      u32[at] = entries[i + 1]!;
      u32[at + 1] = entries[i + 2]!;
      u32[at + 2] = entries[i + 3]!;
    }
    this.#openCount = 0;
    this.#second = true;
  }

  /**
   * The first run left in front of an instruction for which it had walked the tables already: what it marked in them on the
   * way is no difference, and stays as the second run has it.
   */
  leftBefore(): void {
    const { u32 } = this.#memory;
    for (let i = 0; i < this.#markWords; i += 2) {
      const host = this.#marks[i]!;
      const bits = this.#marks[i + 1]!;
      const first = (this.#first(this.#number[host >>> 12]!) + (host & 0xfff)) >>> 2;
      u32[first] = (u32[first]! & ~bits) | (u32[host >>> 2]! & bits);
    }
  }

  /** Ends the second run. Does memory differ from what the first one made of it? */
  differs(): boolean {
    this.#recording = false;
    return this.#count > 0 && this.#kernel.pagesDiffer(this.#firstCount, this.#count) !== 0;
  }

  /** The bytes that differ, at most `limit`. */
  differences(limit: number): ByteDifference[] {
    const found: ByteDifference[] = [];
    const { u8 } = this.#memory;
    for (let i = 0; i < this.#count; i += 1) {
      const before = this.#before(i);
      const first = i < this.#firstCount ? this.#first(i) : before;
      const host = this.#host(i);
      for (let at = 0; at < 4096 && found.length < limit; at += 1) {
        if (u8[first + at] === u8[host + at]) continue;
        found.push({ host: host + at, before: u8[before + at]!, first: u8[first + at]!, second: u8[host + at]! });
      }
    }
    return found;
  }

  /** Guest memory as it was at `begin`. */
  takeBack(): void {
    this.#recording = false;
    const { u8 } = this.#memory;
    for (let i = 0; i < this.#count; i += 1) u8.copyWithin(this.#host(i), this.#before(i), this.#before(i) + 4096);
  }

  #host(number: number): number {
    return this.#memory.u32[((this.#memory.lockstep + LOCKSTEP.HOSTS) >>> 2) + number]!;
  }

  #before(number: number): number {
    return this.#memory.lockstep + LOCKSTEP.BEFORE + number * 4096;
  }

  #first(number: number): number {
    return this.#memory.lockstep + LOCKSTEP.FIRST + number * 4096;
  }
}

function doubled(array: Uint32Array): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(2 * array.length);
  larger.set(array);
  return larger;
}
