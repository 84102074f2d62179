/**
 * Memory slots: which ranges of L1-physical frames have RAM behind them, and where in linear memory that RAM lies.
 *
 * Owns    the slots, their flags, dirty bitmaps and the slot generation; per slot the heads of the reverse maps, the
 *         write-track counts and the large-page bans that hypervisor/mmu keeps in them.
 * Knows   nothing of shadow pages: whoever changes a slot goes through VmMmu (mmu/slots.ts), which zaps first.
 *
 * Source  nested-mmu.md 1.1 "slot", 3.1, 4.18, 5.3, 5.7.
 */
import { assert } from '../../base/assert.ts';

/** What an owner says of a slot. */
export interface SlotConfig {
  readonly id: number;
  /** First L1-physical frame. */
  readonly baseGfn: number;
  readonly pages: number;
  /** First host page: offset in linear memory >> 12. Large pages need it congruent to `baseGfn` modulo 512. */
  readonly hostBase: number;
  readonly readOnly: boolean;
  readonly dirtyLog: boolean;
}

/** Levels of leaf entries: 4 KiB, 2 MiB, 1 GiB. */
export const LEAF_LEVELS = 3;

/** Frames that a leaf of `level` maps. */
export const framesAt = (level: number): number => 512 ** (level - 1);

export class MemorySlot {
  readonly id: number;
  readonly baseGfn: number;
  readonly pages: number;
  readonly hostBase: number;
  readOnly: boolean;
  dirtyLog: boolean;
  /** `false` while it is being deleted: look-ups for new mappings miss it, bookkeeping still finds it. */
  visible = true;
  /** One bit per frame; empty unless `dirtyLog` was ever on. */
  dirty: Uint32Array;
  /** Heads of the lists of leaf SPTEs, `[level - 1][frame]`; 0 is the empty list. */
  readonly rmap: readonly Uint32Array[];
  /** Number of shadowed tables of level > 1 in this frame: the frame may not be mapped writable. */
  readonly writeTrack: Uint16Array;
  /** `[level - 2][large frame]`: number of reasons why no large page may cover it. */
  readonly disallowLarge: readonly Uint32Array[];

  constructor(config: SlotConfig) {
    assert(config.pages > 0 && config.baseGfn >= 0, 'a slot has at least one page and no negative frame');
    this.id = config.id;
    this.baseGfn = config.baseGfn;
    this.pages = config.pages;
    this.hostBase = config.hostBase;
    this.readOnly = config.readOnly;
    this.dirtyLog = config.dirtyLog;
    this.dirty = new Uint32Array(config.dirtyLog ? Math.ceil(config.pages / 32) : 0);
    this.rmap = [1, 2, 3].map((level) => new Uint32Array(this.indexAt(this.lastGfn, level) + 1));
    this.writeTrack = new Uint16Array(config.pages);
    this.disallowLarge = [2, 3].map((level) => new Uint32Array(this.indexAt(this.lastGfn, level) + 1));
  }

  get lastGfn(): number {
    return this.baseGfn + this.pages - 1;
  }

  contains(gfn: number): boolean {
    return gfn >= this.baseGfn && gfn < this.baseGfn + this.pages;
  }

  /** Which element of a per-level array stands for `gfn`. */
  indexAt(gfn: number, level: number): number {
    if (level === 1) return gfn - this.baseGfn;
    const frames = framesAt(level);
    return Math.floor(gfn / frames) - Math.floor(this.baseGfn / frames);
  }

  hostPage(gfn: number): number {
    return this.hostBase + (gfn - this.baseGfn);
  }

  /** Largest leaf level by which `gfn` may be mapped: slot bounds, alignment of the backing, bans, dirty logging. */
  hostLevel(gfn: number): number {
    if (this.dirtyLog) return 1;
    for (let level = LEAF_LEVELS; level > 1; level -= 1) {
      const frames = framesAt(level);
      const first = gfn - (gfn % frames);
      if (first < this.baseGfn || first + frames > this.baseGfn + this.pages) continue;
      if ((this.hostBase - this.baseGfn) % frames !== 0) continue;
      if (this.disallowLarge[level - 2]![this.indexAt(gfn, level)] !== 0) continue;
      return level;
    }
    return 1;
  }

  banLarge(gfn: number, by: 1 | -1): void {
    for (let level = 2; level <= LEAF_LEVELS; level += 1) {
      const at = this.indexAt(gfn, level);
      this.disallowLarge[level - 2]![at] = this.disallowLarge[level - 2]![at]! + by;
    }
  }

  markDirty(gfn: number): void {
    if (!this.dirtyLog) return;
    const at = gfn - this.baseGfn;
    this.dirty[at >>> 5] = this.dirty[at >>> 5]! | (1 << (at & 31));
  }

  isDirty(gfn: number): boolean {
    const at = gfn - this.baseGfn;
    return this.dirty.length !== 0 && ((this.dirty[at >>> 5]! >>> (at & 31)) & 1) !== 0;
  }

  setDirtyLog(on: boolean): void {
    this.dirtyLog = on;
    if (on && this.dirty.length === 0) this.dirty = new Uint32Array(Math.ceil(this.pages / 32));
  }
}

export class MemorySlots {
  /** Sorted by `baseGfn`; never overlapping. */
  readonly all: MemorySlot[] = [];
  /** Counts every change; an MMIO SPTE of an older generation proves nothing. */
  generation = 0;
  #last: MemorySlot | null = null;

  /** The visible slot that holds `gfn`, or null: MMIO. */
  find(gfn: number): MemorySlot | null {
    const slot = this.findAny(gfn);
    return slot?.visible ? slot : null;
  }

  /** The same, including a slot that is on its way out; for bookkeeping only. */
  findAny(gfn: number): MemorySlot | null {
    const last = this.#last;
    if (last?.contains(gfn)) return last;
    let low = 0;
    let high = this.all.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const slot = this.all[middle]!;
      if (gfn < slot.baseGfn) high = middle - 1;
      else if (gfn > slot.lastGfn) low = middle + 1;
      else {
        this.#last = slot;
        return slot;
      }
    }
    return null;
  }

  byId(id: number): MemorySlot | undefined {
    return this.all.find((slot) => slot.id === id);
  }

  /** @returns `null` if the range overlaps another slot, or the id is taken: an owner's mistake, said as a value. */
  add(config: SlotConfig): MemorySlot | null {
    const end = config.baseGfn + config.pages;
    if (this.all.some((slot) => slot.id === config.id)) return null;
    if (this.all.some((slot) => config.baseGfn <= slot.lastGfn && slot.baseGfn < end)) return null;
    const slot = new MemorySlot(config);
    this.all.push(slot);
    this.all.sort((a, b) => a.baseGfn - b.baseGfn);
    this.#last = null;
    this.generation += 1;
    return slot;
  }

  remove(slot: MemorySlot): void {
    const at = this.all.indexOf(slot);
    assert(at >= 0, 'a slot that is removed was there');
    this.all.splice(at, 1);
    this.#last = null;
    this.generation += 1;
  }
}
