/**
 * What a switch costs, counted rather than timed (nested-mmu.md 9.3): the promises P1 to P5 are zeros in here.
 * Plain numbers in one object per VM, so that counting is an increment and a snapshot is a copy.
 */
export interface MmuCounters {
  formatComputed: number;
  formatInternHit: number;
  roleSkip: number;
  roleStore: number;
  rootHitCurrent: number;
  /** Hits in any previous root; `rootHitPrevAt[i]` says which. */
  rootHitPrev: number;
  readonly rootHitPrevAt: number[];
  rootMiss: number;
  rootAlloc: number;
  rootFree: number;
  spAlloc: number;
  spLookup: number;
  spZap: number;
  spReclaimed: number;
  syncPage: number;
  syncSpte: number;
  tlbFlushAll: number;
  tlbFlushCurrent: number;
  tlbFlushGuest: number;
  tlbFlushGva: number;
  tlbFlushVmWide: number;
  trackWrite: number;
  flooded: number;
  faultDirect: number;
  faultShadow: number;
  reflected: number;
  mmio: number;
  prefetched: number;
}

export function createCounters(): MmuCounters {
  return {
    formatComputed: 0,
    formatInternHit: 0,
    roleSkip: 0,
    roleStore: 0,
    rootHitCurrent: 0,
    rootHitPrev: 0,
    rootHitPrevAt: new Array<number>(16).fill(0),
    rootMiss: 0,
    rootAlloc: 0,
    rootFree: 0,
    spAlloc: 0,
    spLookup: 0,
    spZap: 0,
    spReclaimed: 0,
    syncPage: 0,
    syncSpte: 0,
    tlbFlushAll: 0,
    tlbFlushCurrent: 0,
    tlbFlushGuest: 0,
    tlbFlushGva: 0,
    tlbFlushVmWide: 0,
    trackWrite: 0,
    flooded: 0,
    faultDirect: 0,
    faultShadow: 0,
    reflected: 0,
    mmio: 0,
    prefetched: 0,
  };
}
