/**
 * Where code of earlier runs was hot, as bytes to be kept and as what the engine asks for.
 *
 * Owns    the format, how many bytes it may have, what becomes of pages that nobody meets any more.
 * Knows   nothing of files, nor of what is hot.
 */
import type { HotPage, PageNotes } from '../../engine/core/module-source.ts';

/** All pages: a boot of Debian with a shell has 550 of them, with 10,000 runs. */
const BYTES_MAX = 1 << 20;
/** Name, seconds since 1970 when it was last met, changes, number of offsets; and the offsets, 2 bytes each. */
const HEAD_BYTES = 16;
const SECONDS_OF_DAY = 86_400;
const PAGE_BYTES = 4096;
const CHANGES_MAX = 0xffff;

interface Page extends HotPage {
  offsets: Uint16Array;
  used: number;
}
const NOTHING = new Uint16Array(0);

export class PageProfile implements PageNotes {
  readonly #pages: Map<number, Page>;
  readonly #now: () => number;
  readonly #tell: (() => void)[] = [];
  #news = 0;

  /** @param packed  As `pack` made it; what is wrong with it is left out. */
  constructor(packed: Uint8Array | undefined, now: () => number) {
    this.#now = now;
    this.#pages = packed ? unpack(packed) : new Map();
  }

  /** Pages that are known. */
  get size(): number {
    return this.#pages.size;
  }

  /** Changes that are not packed yet. */
  get news(): number {
    return this.#news;
  }

  hot(name: number): HotPage | undefined {
    const page = this.#pages.get(name);
    if (!page) return undefined;
    const now = this.#now();
    if (now - page.used > SECONDS_OF_DAY) this.#news += 1;
    page.used = now;
    return page;
  }

  note(name: number, more: readonly number[], changes: number): void {
    let page = this.#pages.get(name);
    if (!page) {
      page = { offsets: NOTHING, changes: Math.min(changes, CHANGES_MAX), used: this.#now() };
      this.#pages.set(name, page);
    }
    const { offsets } = page;
    if (more.every((offset) => offsets.includes(offset))) return;
    page.offsets = union(offsets, more);
    this.#news += 1;
  }

  beforeKeeping(tell: () => void): void {
    this.#tell.push(tell);
  }

  /** Has everyone note what is not noted yet. */
  ask(): void {
    for (const tell of this.#tell) tell();
  }

  /** What is known, together with what others have packed: the last used, as much as there may be. */
  pack(theirs: Uint8Array | undefined): Uint8Array {
    for (const [name, page] of theirs ? unpack(theirs) : []) {
      const own = this.#pages.get(name);
      if (!own) this.#pages.set(name, page);
      else {
        own.offsets = union(own.offsets, [...page.offsets]);
        own.used = Math.max(own.used, page.used);
      }
    }
    this.#news = 0;
    const sizeOf = (page: Page): number => HEAD_BYTES + 2 * page.offsets.length;
    let bytes = 0;
    const chosen: [number, Page][] = [];
    for (const [name, page] of [...this.#pages].sort(([, a], [, b]) => b.used - a.used)) {
      if (bytes + sizeOf(page) > BYTES_MAX) continue;
      bytes += sizeOf(page);
      chosen.push([name, page]);
    }
    const view = new DataView(new ArrayBuffer(bytes));
    let at = 0;
    for (const [name, { offsets, changes, used }] of chosen) {
      view.setFloat64(at, name, true);
      view.setUint32(at + 8, used, true);
      view.setUint16(at + 12, changes, true);
      view.setUint16(at + 14, offsets.length, true);
      at += HEAD_BYTES;
      for (const offset of offsets) {
        view.setUint16(at, offset, true);
        at += 2;
      }
    }
    return new Uint8Array(view.buffer);
  }
}

function unpack(bytes: Uint8Array): Map<number, Page> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pages = new Map<number, Page>();
  for (let at = 0; at + HEAD_BYTES <= bytes.length; ) {
    const name = view.getFloat64(at, true);
    const used = view.getUint32(at + 8, true);
    const changes = view.getUint16(at + 12, true);
    const count = view.getUint16(at + 14, true);
    at += HEAD_BYTES;
    if (at + 2 * count > bytes.length) break;
    const offsets: number[] = [];
    for (let i = 0; i < count; i += 1) offsets.push(view.getUint16(at + 2 * i, true));
    at += 2 * count;
    pages.set(name, { offsets: union(NOTHING, offsets), changes, used });
  }
  return pages;
}

/** In ascending order, each once, and none outside a page. */
function union(known: Uint16Array, more: readonly number[]): Uint16Array {
  const all = new Set(known);
  for (const offset of more) if (offset < PAGE_BYTES) all.add(offset);
  return all.size === known.length ? known : Uint16Array.from(all).sort();
}
