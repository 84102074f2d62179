/**
 * Records of guest page walkers: what a walker remembers (PageWalk), and what one walk finds (WalkRecord).
 * The walking itself is in walker.ts.
 *
 * Source  nested-mmu.md 3.1 "PageWalk", 4.6 "Output".
 */
import type { PageFormat } from './format.ts';
import type { RoleWords } from './role.ts';

/** `PageWalk.source` says nothing. */
export const NO_USE = -1;

/**
 * One guest page walker. `cpuRole` is the source data; `format` is derived from it and the capability epoch, and
 * replaced only when they change.
 */
export class PageWalk {
  readonly name: 'gvaWalkL1' | 'gvaWalkL2' | 'ngpaWalk';
  /** Reads EPT12 or NPT12 itself: no second stage behind it, and its faults are L1's business. */
  readonly secondStage: boolean;
  readonly cpuRole: RoleWords = { base: 0, ext: 0 };
  format: PageFormat | null = null;
  /** root_role of the shadow MMU while this is its walker; it moves with the walker, so a switch stores no role. */
  rootRole = 0;
  readonly record = new WalkRecord();
  /** Registers that `cpuRole` was last computed from, as i32, and for which use: from the same comes the same. */
  readonly source = { cr0: 0, cr4: 0, efer: 0, use: NO_USE };

  constructor(name: PageWalk['name']) {
    this.name = name;
    this.secondStage = name === 'ngpaWalk';
  }
}

/** Levels of guest tables: index 1 to 5 is used, 0 is not. */
const LEVELS = 6;

/** Result of one walk; reused by the next walk of the same walker. */
export class WalkRecord {
  ok = false;
  // ── when it went well ──
  /** L1-physical (or, of a GVA walker, whatever comes after the second stage): to the byte. */
  gpa = 0;
  /** The same before the second stage: guest-physical of the walker's own level. */
  guestPhysical = 0;
  /** Frame of `gpa`. */
  gfn = 0;
  /** Level of the leaf: 1 is 4 KiB. 0 when paging is off. */
  level = 0;
  /** Rights of the whole path; WRITE is missing while the leaf's D must still be set. */
  rights = 0;
  /** Rights of the guest's entries, before D took WRITE away: exit qualification bits 9 to 11. */
  rawRights = 0;
  /** Level of the top table. */
  startLevel = 0;
  /** Per level: L1-physical frame of the table, L1-physical address of the entry, the entry, rights above it. */
  readonly tableGfn = new Float64Array(LEVELS);
  readonly entryGpa = new Float64Array(LEVELS);
  /** Address of the entry in the walker's own guest-physical space. */
  readonly entryGuestPhysical = new Float64Array(LEVELS);
  readonly entryLo = new Uint32Array(LEVELS);
  readonly entryHi = new Uint32Array(LEVELS);
  readonly tableRights = new Uint8Array(LEVELS);
  readonly entryWritable = new Uint8Array(LEVELS);
  // ── when it did not ──
  /** PFEC bits. */
  errorCode = 0;
  /** Address given to the walker that refused: linear, or nGPA when `nestedFault`. */
  addressLo = 0;
  addressHi = 0;
  /** EPT12 or NPT12 refused: the fault is an exit to L1. */
  nestedFault = false;
  /** Linear address of the access and its validity, for the exit to L1. */
  linearLo = 0;
  linearHi = 0;
  /** EPT: exit qualification bits 0 to 6. */
  qualification = 0;
  /** GUEST_FINAL or GUEST_PAGE. */
  accessKind = 0;
  /** The PML log of L1 is full: the exit is PML_FULL. */
  pmlFull = false;
}
