import { CONTEXT_BYTES, JUMP_CACHE, TLB } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';

/** Dirty bits of a context: which parts hold anything since their last flush. */
const JUMPS_USER = 1 << 3;
const JUMPS_SUPERVISOR = 1 << 4;

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
  readonly #dirty: Uint8Array;
  readonly #used: Float64Array;
  #tick = 0;
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
  }

  address(context: number): number {
    return this.#memory.contexts + context * CONTEXT_BYTES;
  }

  /** Finds or makes the context of that name. */
  find(vcpu: number, vpid: number, root: number, pcid: number): number {
    this.#tick += 1;
    this.counters.contextSwitches += 1;
    let oldest = 0;
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] === vcpu && this.#root[i] === root && this.#vpid[i] === vpid && this.#pcid[i] === pcid) {
        this.#used[i] = this.#tick;
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
    return oldest;
  }

  /** Notes that a set (0–2) got an entry. */
  touchSet(context: number, set: number): void {
    this.#dirty[context] = this.#dirty[context]! | (1 << set);
  }

  touchJumps(context: number, user: boolean): void {
    this.#dirty[context] = this.#dirty[context]! | (user ? JUMPS_USER : JUMPS_SUPERVISOR);
  }

  /** Empties one context. */
  flush(context: number): void {
    const dirty = this.#dirty[context]!;
    if (dirty === 0) return;
    this.counters.flushes += 1;
    const { u8 } = this.#memory;
    const base = this.address(context);
    for (let set = 0; set < TLB.SETS; set += 1) {
      if (dirty & (1 << set)) u8.fill(0xff, base + set * TLB.SET_BYTES, base + (set + 1) * TLB.SET_BYTES);
    }
    this.#dirty[context] = dirty & (JUMPS_USER | JUMPS_SUPERVISOR);
    this.flushJumps(context);
  }

  /** Empties the jump caches of one context: what is cached there depends on execute entries and on the mode. */
  flushJumps(context: number): void {
    const dirty = this.#dirty[context]!;
    const { u8 } = this.#memory;
    const jumps = this.address(context) + TLB.SETS * TLB.SET_BYTES;
    if (dirty & JUMPS_USER) u8.fill(0xff, jumps, jumps + JUMP_CACHE.BYTES);
    if (dirty & JUMPS_SUPERVISOR) u8.fill(0xff, jumps + JUMP_CACHE.BYTES, jumps + 2 * JUMP_CACHE.BYTES);
    this.#dirty[context] = dirty & 7;
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

  /** Drops one linear page in every context whose vCPU and VPID (and PCID, unless -1) match. */
  flushAddress(vcpu: number, vpid: number, pcid: number, low: number, high: number): void {
    this.counters.addressFlushes += 1;
    for (let i = 0; i < this.count; i += 1) {
      if (this.#vcpu[i] !== vcpu || (vpid !== -1 && this.#vpid[i] !== vpid)) continue;
      if (pcid !== -1 && this.#pcid[i] !== pcid) continue;
      if (this.#dirty[i] !== 0) this.dropPage(i, low, high);
    }
  }

  /** Drops one linear page of one context. */
  dropPage(context: number, low: number, high: number): void {
    const { u32 } = this.#memory;
    const page = (low & ~0xfff) >>> 0;
    const index = (low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    for (let set = 0; set < TLB.SETS; set += 1) {
      const base = this.set(context, set) + index;
      for (let array = 0; array < TLB.SET_BYTES; array += TLB.ARRAY_BYTES) {
        const entry = (base + array) >>> 2;
        if (u32[entry] === page && u32[entry + 1] === high >>> 0) {
          u32[entry] = 0xffff_ffff;
          u32[entry + 1] = 0xffff_ffff;
          if (array === TLB.EXECUTE) this.flushJumps(context);
        }
      }
    }
  }

  /** Takes away every write entry for a host page: it begins to hold code, or to be tracked. */
  dropWriters(hostPage: number): void {
    const { u32, i32 } = this.#memory;
    for (let i = 0; i < this.count; i += 1) {
      const dirty = this.#dirty[i]!;
      for (let set = 0; set < TLB.SETS; set += 1) {
        if (!(dirty & (1 << set))) continue;
        const start = (this.set(i, set) + TLB.WRITE) >>> 2;
        const end = start + TLB.ARRAY_BYTES / 4;
        for (let entry = start; entry < end; entry += 4) {
          if ((u32[entry]! & 0xfff) === 0 && (u32[entry]! + i32[entry + 2]!) >>> 0 === hostPage) {
            u32[entry] = 0xffff_ffff;
            u32[entry + 1] = 0xffff_ffff;
          }
        }
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
