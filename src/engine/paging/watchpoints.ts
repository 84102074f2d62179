import { TWO_32 } from '../../base/bits.ts';
import type { TlbContexts } from './tlb.ts';

/** A range of linear addresses, in any address space, whose accesses L0's debugger wants to see. */
export interface Watchpoint {
  readonly low: number;
  readonly high: number;
  readonly bytes: number;
  readonly reads: boolean;
  readonly writes: boolean;
}

/**
 * Watchpoints of L0's debugger: what the debug registers are to the guest, in any number, and out of its sight.
 *
 *   trapping   generated code runs. An access to a page with a watchpoint leaves before anything has changed: its TLB
 *              entries are kept, and marked so that no fast path finds them. The engine then runs the instruction by itself
 *   else       that instruction runs, or L0 acts for the guest: each access is noted, and `hit` says which came first
 *
 * Owns    the ranges, the marks in the TLB.
 * Never   changes what the guest sees: translations are made, kept and dropped as they are without.
 */
export class Watchpoints {
  readonly #tlb: TlbContexts;
  readonly #list: Watchpoint[] = [];
  trapping = false;
  hit: Watchpoint | null = null;

  constructor(tlb: TlbContexts) {
    this.#tlb = tlb;
  }

  get any(): boolean {
    return this.#list.length > 0;
  }

  add(watchpoint: Watchpoint): void {
    this.#list.push(watchpoint);
    this.#mark(watchpoint);
  }

  remove(watchpoint: Watchpoint): void {
    const at = this.#list.indexOf(watchpoint);
    if (at >= 0) this.#list.splice(at, 1);
    this.#mark(watchpoint);
  }

  #mark({ low, high, bytes }: Watchpoint): void {
    const last = low + bytes - 1;
    for (let page = low - (low % 4096); page <= last; page += 4096) {
      const upper = page >= TWO_32 ? (high + 1) >>> 0 : high;
      this.#tlb.markWatched(page >>> 0, upper, this.isWatched(page >>> 0, upper));
    }
  }

  /** Has the page of a linear address a watchpoint? */
  isWatched(low: number, high: number): boolean {
    const page = (low & ~0xfff) >>> 0;
    for (const watchpoint of this.#list) {
      const distance = from(watchpoint, page, high);
      if (distance > -4096 && distance < watchpoint.bytes) return true;
    }
    return false;
  }

  /** An access of `bytes` at a linear address has happened. */
  note(low: number, high: number, bytes: number, write: boolean): void {
    if (this.hit !== null) return;
    for (const watchpoint of this.#list) {
      if (!(write ? watchpoint.writes : watchpoint.reads)) continue;
      const distance = from(watchpoint, low, high);
      if (distance > -bytes && distance < watchpoint.bytes) {
        this.hit = watchpoint;
        return;
      }
    }
  }
}

/** How far an address is behind the watchpoint's first: exact where it is near. */
const from = ({ low, high }: Watchpoint, atLow: number, atHigh: number): number =>
  ((atHigh >>> 0) - high) * TWO_32 + ((atLow >>> 0) - low);
