/**
 * A VMCS of L1: in the engine's memory while it is active (vmcs-cache.ts), so that VMREAD and VMWRITE need not leave, and in
 * L1's memory while it is not.
 *
 * Owns    our layout of a VMCS region, the launch state, and which entry checks are due again because a field changed.
 * Knows   that generated code writes fields too, and notes them in DIRTY: `absorb` before any of this is asked for.
 *
 *   region   0  revision identifier (bit 31: shadow VMCS)     SDM 3C 24.2 "Format of the VMCS Region"
 *            4  VMX-abort indicator
 *            8  launch state: 1 after a VMLAUNCH
 *           64  8 bytes for each row of arch/vmx/fields.ts
 *
 * A shadow VMCS is never entered, and nobody asks what of it has changed: it stays in its region, where generated code reaches
 * it as well, so that a hypervisor that fills one and lets it go again before each entry copies nothing. (Stores into a region
 * that go past the processor's instructions are undefined, SDM 3C 24.11.1, and so is what else a page with a region is for.)
 */
import { GUEST_CHECKS, VMX_CHECKS } from '../../../arch/vmx/entry-checks.ts';
import {
  FIELD,
  FIELD_MASKS,
  fieldKind,
  VMCS_FIELD_COUNT,
  VmcsImage,
  type VmcsReader,
} from '../../../arch/vmx/fields.ts';
import type { L1Physical } from '../../../base/address.ts';
import { assert } from '../../../base/assert.ts';
import { VMCS_CELLS } from '../../../engine/core/layout.ts';
import type { GuestPhysical } from './guest-physical.ts';
import { MergedControls } from './merged-controls.ts';
import { fillGuestImage, followGuestField, isInHostImage } from './switched-state.ts';
import { MOVED, TurnRegisters } from './turn-registers.ts';

export const REGION = { REVISION: 0, ABORT: 4, LAUNCHED: 8, FIELDS: 64 } as const;
export const SHADOW_VMCS = 0x8000_0000;

/** Address of a row in a region. */
export const rowAddress = (region: number, row: number): number => region + REGION.FIELDS + 8 * row;
/** Bytes of a region, which starts on a page. */
const REGION_BYTES = 4096;

/** What must be recomputed because a field changed. */
export const DIRTY = { CONTROLS: 1, HOST_IMAGE: 2, ALL: 3 } as const;

/** Control fields that the merge does not read: written by hypervisors before nearly every entry. */
const NOT_MERGED: ReadonlySet<number> = new Set([
  FIELD.ENTRY_INTERRUPTION_INFO,
  FIELD.ENTRY_EXCEPTION_ERROR_CODE,
  FIELD.ENTRY_INSTRUCTION_LENGTH,
  FIELD.TPR_THRESHOLD,
  FIELD.TSC_OFFSET,
  FIELD.ENTRY_MSR_LOAD_COUNT,
  FIELD.EXIT_MSR_LOAD_COUNT,
  FIELD.EXIT_MSR_STORE_COUNT,
]);

function groupsOf(row: number): number {
  const controls = fieldKind(row) === 'control' && !NOT_MERGED.has(row) ? DIRTY.CONTROLS : 0;
  return isInHostImage(row) ? controls | DIRTY.HOST_IMAGE : controls;
}

const GROUP = Uint8Array.from({ length: VMCS_FIELD_COUNT }, (_, row) => groupsOf(row));

/** Offset of a row's cell in a VMCS_CELLS block: 0 means "leaves" in the engine's map. */
export const cellOf = (row: number): number => 8 * (row + 1);
assert(cellOf(VMCS_FIELD_COUNT) <= VMCS_CELLS.DIRTY, 'all fields have cells');

/** By row: a turn may have seen another value than `absorb`. */
const IS_MOVED = new Uint8Array(VMCS_FIELD_COUNT);
for (const field of MOVED) IS_MOVED[FIELD[field]] = 1;

const DIRTY_WORDS = VMCS_CELLS.DIRTY_BYTES / 4;

/** Where the block of a shadow VMCS begins: its cells are the region's. */
const CELLS_IN_REGION = rowAddress(0, 0) - cellOf(0);
assert(CELLS_IN_REGION + VMCS_CELLS.DIRTY + VMCS_CELLS.DIRTY_BYTES <= REGION_BYTES, 'a region has room for the block');

export class Vmcs12 implements VmcsReader {
  /** Its place in VMCS_LIST, or -1: it has none. */
  readonly place: number;
  /** L1-physical address of the current VMCS, or -1: there is none (FFFFFFFF_FFFFFFFFH). */
  address = -1;
  launched = false;
  /** VM entry refuses it. */
  isShadow = false;
  readonly #isInRegion: boolean;
  dirty: number = DIRTY.ALL;
  readonly merged = new MergedControls();
  readonly turn = new TurnRegisters();
  /** Address of the VMCS_CELLS block. */
  readonly cells: number;
  readonly image: VmcsImage;
  readonly #words: Uint32Array;
  /** Their values as `absorb` has last seen them, or `load`. */
  readonly #known: Uint32Array;
  /** A bit for each cell, as the engine writes it. */
  readonly #changed: Uint32Array;
  /** Addresses of what switched-state.ts makes of fields. */
  readonly guestImage: number;
  readonly hostImage: number;
  /** The linear memory. */
  readonly memory: Uint32Array;
  /** Mode at the last entry whose checks all passed, or -1: rows that read it need not be looked at in the same. */
  judgedMode = -1;
  readonly vmxSuspects = VMX_CHECKS.suspects();
  readonly guestSuspects = GUEST_CHECKS.suspects();
  readonly #l1: GuestPhysical;
  readonly #revision: number;
  readonly #staging = new Uint8Array(REGION.FIELDS + 8 * VMCS_FIELD_COUNT);
  readonly #stagingWords = new DataView(this.#staging.buffer);

  /**
   * @param cells  Address of a VMCS_CELLS block in linear memory.
   * @param place  In VMCS_LIST.
   * @param region  The block is in the region of the shadow VMCS at this L1-physical address, or -1.
   */
  constructor(memory: GuestPhysical, cells: number, revision: number, place: number, region = -1) {
    this.place = place;
    this.#isInRegion = region >= 0;
    this.isShadow = this.#isInRegion;
    this.address = region;
    this.#l1 = memory;
    this.#revision = revision;
    this.memory = memory.words;
    this.cells = cells;
    this.guestImage = cells + VMCS_CELLS.GUEST;
    this.hostImage = cells + VMCS_CELLS.HOST;
    const first = (cells + cellOf(0)) >>> 2;
    this.#words = memory.words.subarray(first, first + 2 * VMCS_FIELD_COUNT);
    // Of a shadow VMCS nobody asks
    const known = first + (VMCS_CELLS.KNOWN >>> 2);
    this.#known = region < 0 ? memory.words.subarray(known, known + 2 * VMCS_FIELD_COUNT) : this.#words;
    this.image = new VmcsImage(this.#words);
    const dirty = (cells + VMCS_CELLS.DIRTY) >>> 2;
    this.#changed = memory.words.subarray(dirty, dirty + DIRTY_WORDS);
  }

  lo(row: number): number {
    return this.#words[2 * row]!;
  }

  hi(row: number): number {
    return this.#words[2 * row + 1]!;
  }

  /** A value of at most 53 bits: addresses. */
  number(row: number): number {
    return this.#words[2 * row + 1]! * 0x1_0000_0000 + this.#words[2 * row]!;
  }

  /** Stores what fits the field's width, without a note: exit information, which no entry looks at. */
  put(row: number, lo: number, hi = 0): void {
    this.#words[2 * row] = lo;
    this.#words[2 * row + 1] = hi;
  }

  /** Stores what the field's width keeps, and notes that it has changed. */
  set(row: number, lo: number, hi = 0): void {
    const words = this.#words;
    if (words[2 * row] === lo >>> 0 && words[2 * row + 1] === hi >>> 0) return;
    this.image.write(row, lo, hi);
    this.#changed[(row + 1) >>> 5]! |= 1 << ((row + 1) & 31);
  }

  /**
   * Brings up to date what depends on fields: which checks are due, what must be merged. A field that has been changed and
   * changed back is none: hypervisors do so on their way between two guests.
   */
  absorb(): void {
    const changed = this.#changed;
    const words = this.#words;
    const known = this.#known;
    for (let word = 0; word < DIRTY_WORDS; word += 1) {
      let bits = changed[word]!;
      if (bits === 0) continue;
      changed[word] = 0;
      while (bits !== 0) {
        const bit = bits & -bits;
        bits ^= bit;
        const row = 32 * word + 30 - Math.clz32(bit);
        const isSame = known[2 * row] === words[2 * row] && known[2 * row + 1] === words[2 * row + 1];
        if (isSame && IS_MOVED[row] === 0) continue;
        known[2 * row] = words[2 * row]!;
        known[2 * row + 1] = words[2 * row + 1]!;
        VMX_CHECKS.suspect(this.vmxSuspects, row);
        GUEST_CHECKS.suspect(this.guestSuspects, row);
        this.dirty |= GROUP[row]!;
        followGuestField(this, row);
      }
    }
  }

  /** Reads the region. */
  load(address: number): void {
    const memory = this.#l1;
    this.address = address;
    this.isShadow = memory.read32(address) >>> 31 !== 0;
    this.launched = memory.read32(address + REGION.LAUNCHED) === 1;
    // A region is within one page
    const at = memory.offset(address + REGION.FIELDS);
    const words = this.#words;
    for (let word = 0; word < words.length; word += 1) {
      words[word] = (at < 0 ? 0xffff_ffff : memory.words[(at >>> 2) + word]!) & FIELD_MASKS[word]!;
    }
    VMX_CHECKS.suspectAll(this.vmxSuspects);
    GUEST_CHECKS.suspectAll(this.guestSuspects);
    this.#known.set(words);
    this.#changed.fill(0);
    this.dirty = DIRTY.ALL;
    this.judgedMode = -1;
    fillGuestImage(this);
  }

  /** Puts it into its region. */
  flush(): void {
    if (this.address < 0 || this.#isInRegion) return;
    const words = this.#stagingWords;
    words.setUint32(REGION.REVISION, (this.#revision | (this.isShadow ? SHADOW_VMCS : 0)) >>> 0, true);
    words.setUint32(REGION.ABORT, this.#l1.read32(this.address + REGION.ABORT), true);
    words.setUint32(REGION.LAUNCHED, this.launched ? 1 : 0, true);
    for (let word = 0; word < 2 * VMCS_FIELD_COUNT; word += 1) {
      words.setUint32(REGION.FIELDS + 4 * word, this.#words[word]!, true);
    }
    this.#l1.ram.copyIn(this.address as L1Physical, this.#staging);
  }
}

/** The shadow VMCS at that address, or undefined where there is no RAM. */
export function shadowVmcs(memory: GuestPhysical, region: number, revision: number, place: number): Vmcs12 | undefined {
  const at = memory.offset(region);
  return at < 0 ? undefined : new Vmcs12(memory, at + CELLS_IN_REGION, revision, place, region);
}
