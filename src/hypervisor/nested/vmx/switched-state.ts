/**
 * Control registers, SYSENTER's MSRs, segment and descriptor-table registers of vmcs12 as the engine's state has them: an
 * image of the guest's and one of the host's, so that a switch loads and compares one block.
 *
 * Owns    the images, and that they follow the fields they are made of.
 *
 * Source  SDM 3C 26.3.2.1, 26.3.2.2 "Loading Guest Segment Registers and Descriptor-Table Registers", 27.3.1, 27.3.2
 *         "Saving Segment Registers and Descriptor-Table Registers", 27.5.1, 27.5.2 "Loading Host Segment and
 *         Descriptor-Table Registers".
 */
import { CR4 } from '../../../arch/registers.ts';
import { EXIT } from '../../../arch/vmx/controls.ts';
import { FIELD, VMCS_FIELD_COUNT, VMCS_FIELD_NAMES, type VmcsField } from '../../../arch/vmx/fields.ts';
import { S, SEG, SWITCHED, segment } from '../../../engine/core/layout.ts';
import type { Processor } from '../../../engine/core/processor.ts';
import { PART_BYTES } from '../../../engine/core/state-image.ts';
import type { Vmcs12 } from './vmcs12.ts';

const SEGMENT_NAMES = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR'] as const;

/** Where a guest field is in the state, and how many words of it. */
type Place = readonly [field: VmcsField, cell: number, words: 1 | 2];

const GUEST_PLACES: readonly Place[] = [
  ['GUEST_CR0', S.CR0, 1],
  ['GUEST_CR3', S.CR3, 2],
  ['GUEST_CR4', S.CR4, 1],
  ['GUEST_IA32_SYSENTER_CS', S.SYSENTER_CS, 1],
  ['GUEST_IA32_SYSENTER_ESP', S.SYSENTER_ESP, 2],
  ['GUEST_IA32_SYSENTER_EIP', S.SYSENTER_EIP, 2],
  ['GUEST_GDTR_BASE', S.GDTR_BASE, 2],
  ['GUEST_GDTR_LIMIT', S.GDTR_LIMIT, 1],
  ['GUEST_IDTR_BASE', S.IDTR_BASE, 2],
  ['GUEST_IDTR_LIMIT', S.IDTR_LIMIT, 1],
  ...SEGMENT_NAMES.flatMap((name, seg): Place[] => [
    [`GUEST_${name}_SELECTOR`, segment(seg) + SEG.SELECTOR, 1],
    [`GUEST_${name}_ACCESS_RIGHTS`, segment(seg) + SEG.ACCESS, 1],
    [`GUEST_${name}_LIMIT`, segment(seg) + SEG.LIMIT, 1],
    [`GUEST_${name}_BASE`, segment(seg) + SEG.BASE, 2],
  ]),
];

/** By row: offset in an image of a guest field, or -1; and whether it has two words there. */
const OFFSET = new Int16Array(VMCS_FIELD_COUNT).fill(-1);
const IS_WIDE = new Uint8Array(VMCS_FIELD_COUNT);
/** Rows of the guest fields in each part of the block. */
const ROWS_OF_PART: readonly number[][] = Array.from({ length: SWITCHED.BYTES / PART_BYTES }, () => []);
for (const [field, cell, words] of GUEST_PLACES) {
  const row = FIELD[field];
  OFFSET[row] = cell - SWITCHED.FIRST;
  IS_WIDE[row] = words - 1;
  ROWS_OF_PART[Math.floor((cell - SWITCHED.FIRST) / PART_BYTES)]!.push(row);
}
const GUEST_ROWS = GUEST_PLACES.map(([field]) => FIELD[field]);

/** Is the host's image made of this row? */
export const isInHostImage = (row: number): boolean =>
  /^HOST_(CR[034]|IA32_SYSENTER_.*|.*_(SELECTOR|BASE))$/.test(VMCS_FIELD_NAMES[row]!) || row === FIELD.EXIT_CONTROLS;

/** A field has changed: so does the guest's image, if it is in it. */
export function followGuestField(v: Vmcs12, row: number): void {
  const offset = OFFSET[row]!;
  if (offset < 0) return;
  const at = (v.guestImage + offset) >>> 2;
  v.memory[at] = v.lo(row);
  if (IS_WIDE[row] !== 0) v.memory[at + 1] = v.hi(row);
}

export function fillGuestImage(v: Vmcs12): void {
  for (const row of GUEST_ROWS) followGuestField(v, row);
}

/** For checked builds: are the images what they would be if they were made anew? */
export function imagesAreFresh(v: Vmcs12, isHostMade: boolean): boolean {
  const first = v.guestImage >>> 2;
  const end = (v.hostImage + SWITCHED.BYTES) >>> 2;
  const before = v.memory.slice(first, end);
  fillGuestImage(v);
  if (isHostMade) fillHostImage(v);
  return before.every((word, i) => word === v.memory[first + i]);
}

/** The registers into the fields; only parts that are not what the entry loaded are looked at. */
export function saveSwitched(v: Vmcs12, cpu: Processor, differences: number): void {
  for (let bits = differences; bits !== 0; bits &= bits - 1) {
    for (const row of ROWS_OF_PART[31 - Math.clz32(bits & -bits)]!) {
      const cell = SWITCHED.FIRST + OFFSET[row]!;
      v.set(row, cpu.get(cell), IS_WIDE[row] !== 0 ? cpu.get(cell + 4) : 0);
    }
  }
}

// ---- host ------------------------------------------------------------------------------------------------------------

/** Access rights of 27.5.2. */
const HOST_RIGHTS = { CODE64: 0xa09b, CODE32: 0xc09b, DATA: 0xc093, TSS: 0x8b, UNUSABLE: 0x1_0000 } as const;
/** Host segments in the order of the HOST_…_SELECTOR fields; LDTR has none. */
const HOST_SEGMENTS = [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS, SEG.TR] as const;

/** Host fields of 64 bits that are copied as they are. */
const HOST_PLACES = [
  [FIELD.HOST_CR3, S.CR3],
  [FIELD.HOST_IA32_SYSENTER_ESP, S.SYSENTER_ESP],
  [FIELD.HOST_IA32_SYSENTER_EIP, S.SYSENTER_EIP],
  [FIELD.HOST_FS_BASE, segment(SEG.FS) + SEG.BASE],
  [FIELD.HOST_GS_BASE, segment(SEG.GS) + SEG.BASE],
  [FIELD.HOST_TR_BASE, segment(SEG.TR) + SEG.BASE],
  [FIELD.HOST_GDTR_BASE, S.GDTR_BASE],
  [FIELD.HOST_IDTR_BASE, S.IDTR_BASE],
] as const;

/** What is fixed, and what the host area says. */
export function fillHostImage(v: Vmcs12): void {
  const { memory, hostImage } = v;
  const put = (cell: number, value: number): void => {
    memory[(hostImage + cell - SWITCHED.FIRST) >>> 2] = value;
  };
  const isLong = (v.lo(FIELD.EXIT_CONTROLS) & EXIT.HOST_ADDRESS_SPACE_SIZE) !== 0;
  memory.fill(0, hostImage >>> 2, (hostImage + SWITCHED.BYTES) >>> 2);
  for (const [row, cell] of HOST_PLACES) {
    put(cell, v.lo(row));
    put(cell + 4, v.hi(row));
  }
  put(S.CR0, v.lo(FIELD.HOST_CR0));
  put(S.SYSENTER_CS, v.lo(FIELD.HOST_IA32_SYSENTER_CS));
  const cr4 = v.lo(FIELD.HOST_CR4);
  put(S.CR4, isLong ? cr4 | CR4.PAE : cr4 & ~CR4.PCIDE);
  HOST_SEGMENTS.forEach((seg, i) => {
    const cell = segment(seg);
    const selector = v.lo(FIELD.HOST_ES_SELECTOR + i);
    put(cell + SEG.SELECTOR, selector);
    put(cell + SEG.LIMIT, seg === SEG.TR ? 0x67 : 0xffff_ffff);
    let rights: number = selector === 0 ? HOST_RIGHTS.UNUSABLE : HOST_RIGHTS.DATA;
    if (seg === SEG.CS) rights = isLong ? HOST_RIGHTS.CODE64 : HOST_RIGHTS.CODE32;
    else if (seg === SEG.TR) rights = HOST_RIGHTS.TSS;
    put(cell + SEG.ACCESS, rights);
  });
  put(S.GDTR_LIMIT, 0xffff);
  put(S.IDTR_LIMIT, 0xffff);
  put(segment(SEG.LDTR) + SEG.ACCESS, HOST_RIGHTS.UNUSABLE);
}
