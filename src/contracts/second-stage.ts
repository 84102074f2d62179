/**
 * The tables that the engine walks behind the guest's own: EPT01, EPT02, or (L0 without TDP) the shadow tables.
 * L0 writes them, the engine only reads. This file is the format, and the only thing both sides share.
 *
 * A table is 512 entries; table `t` starts at index `t * 512` of both arrays. An entry is two unsigned halves.
 *
 *   lo   0 R   1 W   2 X (supervisor)   3 U (shadow paging: user; EPT with MBEC: user-executable)
 *        4 LEAF      5 MMIO (no RAM behind; lo/hi frame is the L1-physical frame)   6 TRACKED (store, then notify)
 *        7 GLOBAL    8 A   9 D   10 MMU-WRITABLE, 11 HOST-WRITABLE, 30 AD-DISABLED, 31 SPECIAL (L0's own)
 *        12..29 unused by the engine
 *   hi   non-leaf: table number.   leaf: host page number (offset in linear memory >> 12).   MMIO: L1-physical frame
 *
 * An entry is present if any of R, W, X, U is set or MMIO is set.
 */
export const SPTE = {
  R: 1 << 0,
  W: 1 << 1,
  X: 1 << 2,
  U: 1 << 3,
  LEAF: 1 << 4,
  MMIO: 1 << 5,
  TRACKED: 1 << 6,
  GLOBAL: 1 << 7,
  A: 1 << 8,
  D: 1 << 9,
  MMU_WRITABLE: 1 << 10,
  HOST_WRITABLE: 1 << 11,
  AD_DISABLED: 1 << 30,
} as const;

/** Any of these set: there is something to use. */
export const SPTE_PRESENT = SPTE.R | SPTE.W | SPTE.X | SPTE.U | SPTE.MMIO;

export interface SecondStageTables {
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
}

/** What the engine is told of the root it runs on. `id` is never reused while TLB entries of it may exist. */
export interface SecondStageRoot {
  /** Table number of the root. */
  table: number;
  /** Unique name of this root: the EP4TA of our hardware. 0 is "no root". */
  id: number;
  /** Levels to walk from the root: 3, 4 or 5. */
  levels: number;
  /** EPT accessed/dirty flags in force (EPTP bit 6 of what the root shadows). */
  accessedDirty: boolean;
  /** Mode-based execute control: U of a leaf says "executable for user-mode linear addresses". */
  mbec: boolean;
  /**
   * `true`: entries map *linear* addresses (shadow paging), the guest's own tables are not read by the engine and
   * every miss is an exit. `false`: entries map guest-physical addresses.
   */
  linear: boolean;
}
