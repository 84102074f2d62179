/**
 * Work that a vCPU must do before it runs again. The order in which it is done is that of nested-mmu.md 4.14 and of
 * these bits; `VcpuMmu.serviceRequests` does it.
 */
import { bits } from '../../base/bits.ts';

export const REQUEST = bits({
  FREE_OBSOLETE_ROOTS: 0,
  MMU_SYNC: 1,
  LOAD_PGD: 2,
  FLUSH_ALL: 3,
  FLUSH_CURRENT: 4,
  FLUSH_GUEST: 5,
});

/** Requests about the context in force: served before any switch to the other level (I17). */
export const LOCAL_REQUESTS = REQUEST.MMU_SYNC | REQUEST.FLUSH_CURRENT | REQUEST.FLUSH_GUEST;
