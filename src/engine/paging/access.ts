/** What an access is, for the page walk. Bits as in the page-fault error code where it has one. */
export const ACCESS = {
  READ: 0,
  WRITE: 1 << 1,
  USER: 1 << 2,
  FETCH: 1 << 4,
  /** Supervisor access by the processor itself (descriptor tables, TSS, …): EFLAGS.AC does not exempt it from SMAP. */
  IMPLICIT: 1 << 8,
  /** For quickWalk: who writes deals with code that is decoded from the page. */
  OVER_CODE: 1 << 9,
} as const;

/** Page-fault error code. SDM 3A 4.7 "Page-Fault Exceptions". */
export const PFEC = { P: 1, W: 2, U: 4, RSVD: 8, F: 16, PK: 32 } as const;

/** Answers of `translate` that are not host addresses. */
export const TRANSLATE = {
  /** The status to leave with is in S.ACCESS_STATUS. */
  FAULT: -1,
  /** A device page; its L1-physical address is in the walker's `physical`. */
  MMIO: -2,
} as const;
