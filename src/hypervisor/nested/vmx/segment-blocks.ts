/**
 * Segment and descriptor-table registers of vmcs12 as the engine's state has them, so that a switch copies one block.
 *
 * Owns    the blocks, and when they are made anew: after a field that they are made of has changed.
 * Knows   that GDTR, IDTR and the eight segments lie behind one another in the engine's state.
 *
 * Source  SDM 3C 26.3.2.2 "Loading Guest Segment Registers and Descriptor-Table Registers", 27.3.2 "Saving Segment
 *         Registers and Descriptor-Table Registers", 27.5.2 "Loading Host Segment and Descriptor-Table Registers".
 */
import { EXIT } from '../../../arch/vmx/controls.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { assert } from '../../../base/assert.ts';
import { S, SEG, segment } from '../../../engine/core/layout.ts';
import type { Processor } from '../../../engine/core/processor.ts';
import { DIRTY, type Vmcs12 } from './vmcs12.ts';

const FIRST = S.GDTR_BASE >>> 2;
assert(S.GDTR_BASE < S.IDTR_BASE && S.IDTR_LIMIT < S.SEGMENTS, 'GDTR and IDTR lie before the segments');

/** Index in a block of a cell of the state. */
const at = (cell: number): number => (cell >>> 2) - FIRST;

/** Access rights of 27.5.2. */
const HOST_RIGHTS = { CODE64: 0xa09b, CODE32: 0xc09b, DATA: 0xc093, TSS: 0x8b, UNUSABLE: 0x1_0000 } as const;
/** Host segments in the order of the HOST_…_SELECTOR fields; LDTR has none. */
const HOST_SEGMENTS = [SEG.ES, SEG.CS, SEG.SS, SEG.DS, SEG.FS, SEG.GS, SEG.TR] as const;

/** Guest segments, GDTR and IDTR into the registers. */
export function loadGuestSegments(v: Vmcs12, cpu: Processor): void {
  const block = v.guestBlock;
  if ((v.dirty & DIRTY.GUEST_BLOCK) !== 0) {
    v.dirty &= ~DIRTY.GUEST_BLOCK;
    for (let seg = SEG.ES; seg <= SEG.TR; seg += 1) {
      const cell = at(segment(seg));
      block[cell] = v.lo(FIELD.GUEST_ES_SELECTOR + seg);
      block[cell + SEG.ACCESS / 4] = v.lo(FIELD.GUEST_ES_ACCESS_RIGHTS + seg);
      block[cell + SEG.LIMIT / 4] = v.lo(FIELD.GUEST_ES_LIMIT + seg);
      block[cell + SEG.BASE / 4] = v.lo(FIELD.GUEST_ES_BASE + seg);
      block[cell + SEG.BASE / 4 + 1] = v.hi(FIELD.GUEST_ES_BASE + seg);
    }
    block[at(S.GDTR_BASE)] = v.lo(FIELD.GUEST_GDTR_BASE);
    block[at(S.GDTR_BASE) + 1] = v.hi(FIELD.GUEST_GDTR_BASE);
    block[at(S.GDTR_LIMIT)] = v.lo(FIELD.GUEST_GDTR_LIMIT);
    block[at(S.IDTR_BASE)] = v.lo(FIELD.GUEST_IDTR_BASE);
    block[at(S.IDTR_BASE) + 1] = v.hi(FIELD.GUEST_IDTR_BASE);
    block[at(S.IDTR_LIMIT)] = v.lo(FIELD.GUEST_IDTR_LIMIT);
  }
  cpu.u32.set(block, FIRST);
}

/** The registers into the fields, if they are not what the entry loaded. */
export function saveGuestSegments(v: Vmcs12, cpu: Processor): void {
  const { u32 } = cpu;
  const block = v.guestBlock;
  const first = FIRST;
  const words = block.length;
  let different = 0;
  for (let i = 0; i < words; i += 4) {
    different |=
      (u32[first + i]! ^ block[i]!) |
      (u32[first + i + 1]! ^ block[i + 1]!) |
      (u32[first + i + 2]! ^ block[i + 2]!) |
      (u32[first + i + 3]! ^ block[i + 3]!);
  }
  if (different === 0) return;
  for (let seg = SEG.ES; seg <= SEG.TR; seg += 1) {
    const cell = segment(seg);
    v.set(FIELD.GUEST_ES_SELECTOR + seg, cpu.u16[(cell + SEG.SELECTOR) >>> 1]!);
    v.set(FIELD.GUEST_ES_ACCESS_RIGHTS + seg, cpu.get(cell + SEG.ACCESS));
    v.set(FIELD.GUEST_ES_LIMIT + seg, cpu.get(cell + SEG.LIMIT));
    v.set(FIELD.GUEST_ES_BASE + seg, cpu.get(cell + SEG.BASE), cpu.get(cell + SEG.BASE + 4));
  }
  v.set(FIELD.GUEST_GDTR_BASE, cpu.get(S.GDTR_BASE), cpu.get(S.GDTR_BASE + 4));
  v.set(FIELD.GUEST_GDTR_LIMIT, cpu.get(S.GDTR_LIMIT));
  v.set(FIELD.GUEST_IDTR_BASE, cpu.get(S.IDTR_BASE), cpu.get(S.IDTR_BASE + 4));
  v.set(FIELD.GUEST_IDTR_LIMIT, cpu.get(S.IDTR_LIMIT));
}

/** Host segments, GDTR and IDTR into the registers: what is fixed, and selectors and bases of the host area. */
export function loadHostSegments(v: Vmcs12, cpu: Processor): void {
  const block = v.hostBlock;
  if ((v.dirty & DIRTY.HOST_BLOCK) !== 0) {
    v.dirty &= ~DIRTY.HOST_BLOCK;
    fillHostBlock(v, block);
  }
  cpu.u32.set(block, FIRST);
}

function fillHostBlock(v: Vmcs12, block: Uint32Array): void {
  const isLong = (v.lo(FIELD.EXIT_CONTROLS) & EXIT.HOST_ADDRESS_SPACE_SIZE) !== 0;
  for (let i = 0; i < HOST_SEGMENTS.length; i += 1) {
    const seg = HOST_SEGMENTS[i]!;
    const cell = at(segment(seg));
    const selector = v.lo(FIELD.HOST_ES_SELECTOR + i);
    block[cell] = selector;
    block[cell + SEG.LIMIT / 4] = seg === SEG.TR ? 0x67 : 0xffff_ffff;
    let rights: number = selector === 0 ? HOST_RIGHTS.UNUSABLE : HOST_RIGHTS.DATA;
    if (seg === SEG.CS) rights = isLong ? HOST_RIGHTS.CODE64 : HOST_RIGHTS.CODE32;
    else if (seg === SEG.TR) rights = HOST_RIGHTS.TSS;
    block[cell + SEG.ACCESS / 4] = rights;
  }
  base(v, block, segment(SEG.FS) + SEG.BASE, FIELD.HOST_FS_BASE);
  base(v, block, segment(SEG.GS) + SEG.BASE, FIELD.HOST_GS_BASE);
  base(v, block, segment(SEG.TR) + SEG.BASE, FIELD.HOST_TR_BASE);
  base(v, block, S.GDTR_BASE, FIELD.HOST_GDTR_BASE);
  base(v, block, S.IDTR_BASE, FIELD.HOST_IDTR_BASE);
  block[at(S.GDTR_LIMIT)] = 0xffff;
  block[at(S.IDTR_LIMIT)] = 0xffff;
  block[at(segment(SEG.LDTR)) + SEG.ACCESS / 4] = HOST_RIGHTS.UNUSABLE;
}

function base(v: Vmcs12, block: Uint32Array, cell: number, field: number): void {
  block[at(cell)] = v.lo(field);
  block[at(cell) + 1] = v.hi(field);
}
