import { VECTOR } from '../../arch/exceptions.ts';
import { TWO_32 } from '../../base/bits.ts';
import { AUX, REC, S, SEG, STATUS, segment } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * From a memory operand to a linear address, with every check that segmentation makes.
 *
 * Owns    the address arithmetic of all three address sizes and the segment checks of all four modes.
 * Never   translates: paging comes after.
 *
 * Source  SDM 3A 5.3 "Limit Checking", 5.4 "Type Checking", 3.4.4 "Segment Loading Instructions in IA-32e Mode";
 *         SDM 1 3.7.5 "Specifying an Offset", 3.3.7.1 "Canonical Addressing".
 */

/** Bits of a segment's access rights as VMCS fields hold them. SDM 3C 24.4.1, Table 24-2. */
export const AR = {
  ACCESSED: 1 << 0,
  /** Data: writable. Code: readable. */
  WRITABLE: 1 << 1,
  READABLE: 1 << 1,
  EXPAND_DOWN: 1 << 2,
  CONFORMING: 1 << 2,
  CODE: 1 << 3,
  TYPE: 0xf,
  /** Code or data, not a system descriptor. */
  S: 1 << 4,
  DPL_SHIFT: 5,
  DPL: 3 << 5,
  P: 1 << 7,
  L: 1 << 13,
  /** D of a code segment, B of a stack or expand-down segment. */
  DB: 1 << 14,
  G: 1 << 15,
  UNUSABLE: 1 << 16,
} as const;

/** Offset part of the memory operand of `record`, wrapped to its address size, in `low` and `high`. */
export function effectiveOffset(cpu: Processor, record: number): void {
  const scale = cpu.u8[record + REC.SCALE]!;
  const base = cpu.u16[(record + REC.BASE) >>> 1]!;
  const index = cpu.u16[(record + REC.INDEX) >>> 1]!;
  const disp = cpu.i32[(record + REC.DISP) >>> 2]!;
  const size = (cpu.aux(record) >>> AUX.ADDRESS_SIZE_SHIFT) & 3;
  const indexLow = cpu.get(index);
  const sum = cpu.get(base) + ((indexLow << scale) >>> 0) + (disp >>> 0);
  cpu.low = sum >>> 0;
  cpu.high = 0;
  if (size === 0) cpu.low &= 0xffff;
  else if (size === 2) {
    const indexHigh = (cpu.get(index + 4) << scale) | (scale === 0 ? 0 : indexLow >>> (32 - scale));
    cpu.high = (cpu.get(base + 4) + (indexHigh >>> 0) + (disp < 0 ? 0xffff_ffff : 0) + Math.floor(sum / TWO_32)) >>> 0;
  }
}

/**
 * Linear address of the memory operand of `record`, into S.EA.
 *
 * @param access  Bytes of the operand (0: unknown, checked as one byte), plus 0x100 for a write, 0x200 if S.VALUE is
 *                to be added to the offset, 0x400 if that is done behind the wrap to the address size.
 */
export function linear(cpu: Processor, record: number, access: number): number {
  effectiveOffset(cpu, record);
  if (access & 0x600) {
    const sum = cpu.low + cpu.get(S.VALUE);
    const size = access & 0x400 ? (cpu.long ? 2 : 1) : (cpu.aux(record) >>> AUX.ADDRESS_SIZE_SHIFT) & 3;
    cpu.low = size === 0 ? sum & 0xffff : sum >>> 0;
    cpu.high = size === 2 ? (cpu.high + cpu.get(S.VALUE + 4) + (sum >= TWO_32 ? 1 : 0)) >>> 0 : 0;
  }
  return segmentLinear(cpu, cpu.aux(record) & 7, cpu.low, cpu.high, access & 0xff, (access & 0x100) !== 0);
}

function refuse(cpu: Processor, seg: number): number {
  cpu.fault(seg === SEG.SS ? VECTOR.SS : VECTOR.GP, 0);
  cpu.set(S.ACCESS_STATUS, STATUS.FAULT);
  return STATUS.FAULT;
}

/** Linear address of `bytes` at an offset in a segment, into S.EA; #GP(0) or #SS(0) if the segment does not allow it. */
export function segmentLinear(
  cpu: Processor,
  seg: number,
  low: number,
  high: number,
  bytes: number,
  write: boolean,
): number {
  if (cpu.long) {
    const cell = S.SEG_BASE + 8 * seg;
    const sum = low + cpu.get(cell);
    const first = sum >>> 0;
    const firstHigh = (high + cpu.get(cell + 4) + (sum >= TWO_32 ? 1 : 0)) >>> 0;
    if (!cpu.isCanonical(first, firstHigh)) return refuse(cpu, seg);
    if (bytes > 1 && first + bytes > TWO_32 && !cpu.isCanonical(0, (firstHigh + 1) >>> 0)) return refuse(cpu, seg);
    cpu.set64(S.EA, first, firstHigh);
    return STATUS.NEXT;
  }
  const at = segment(seg);
  const access = cpu.get(at + SEG.ACCESS);
  const checked = cpu.protectedMode && !cpu.vm86;
  if (checked) {
    if (access & AR.UNUSABLE) return refuse(cpu, seg);
    if (write ? (access & (AR.CODE | AR.WRITABLE)) !== AR.WRITABLE : (access & (AR.CODE | AR.READABLE)) === AR.CODE) {
      return refuse(cpu, seg);
    }
  }
  const down = checked && (access & (AR.CODE | AR.EXPAND_DOWN)) === AR.EXPAND_DOWN;
  if (!inLimit(cpu.get(at + SEG.LIMIT), access, down, low, bytes)) return refuse(cpu, seg);
  cpu.set64(S.EA, (low + cpu.get(at + SEG.BASE)) >>> 0, 0);
  return STATUS.NEXT;
}

/** Do all `bytes` at `low` lie in the segment? SDM 3A 5.3 "Limit Checking". */
export function inLimit(limit: number, access: number, expandDown: boolean, low: number, bytes: number): boolean {
  const last = low + (bytes > 1 ? bytes - 1 : 0);
  if (expandDown) return low > limit && last <= (access & AR.DB ? 0xffff_ffff : 0xffff);
  return last <= limit;
}
