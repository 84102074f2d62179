/**
 * Bits that name rights and accesses. Positions are written here and nowhere else.
 *
 * Source  nested-mmu.md 3.7, 3.14; SDM 3A 4.7 "Page-Fault Exceptions"; SDM 3C 27.2.1, Table "Exit Qualification for
 *         EPT Violations".
 */

/** Rights that remain, one bit each. For EPT with MBEC, USER is "executable for user-mode linear addresses". */
export const ACC = { READ: 1, WRITE: 2, USER: 4, EXEC: 8, ALL: 15 } as const;

/**
 * Page-fault error code bits 0 to 6, and above bit 15 the access facts that travel with them inside L0. For EPT walks U
 * means "user-mode linear address" (MBEC), never "read".
 */
export const PFEC = {
  P: 1 << 0,
  W: 1 << 1,
  U: 1 << 2,
  RSVD: 1 << 3,
  F: 1 << 4,
  PK: 1 << 5,
  /** The access is to the translation of a linear address. */
  GUEST_FINAL: 1 << 16,
  /** The access is to one of the guest's paging structures. */
  GUEST_PAGE: 1 << 17,
  /** Implicit supervisor access (descriptor tables, TSS): EFLAGS.AC does not exempt it from SMAP. */
  IMPLICIT: 1 << 18,
} as const;

/** What a guest may see of it. */
export const PFEC_ARCHITECTURAL = 0xffff;

/** Exit qualification of an EPT violation. */
export const EPT_QUALIFICATION = {
  READ: 1 << 0,
  WRITE: 1 << 1,
  FETCH: 1 << 2,
  READABLE: 1 << 3,
  WRITABLE: 1 << 4,
  EXECUTABLE: 1 << 5,
  USER_EXECUTABLE: 1 << 6,
  LINEAR_VALID: 1 << 7,
  FINAL: 1 << 8,
  LINEAR_USER: 1 << 9,
  LINEAR_WRITABLE: 1 << 10,
  LINEAR_EXECUTE_DISABLE: 1 << 11,
  NMI_UNBLOCKING: 1 << 12,
} as const;
