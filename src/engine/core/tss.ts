import { VECTOR } from '../../arch/exceptions.ts';
import { ACCESS } from '../paging/access.ts';
import { SEG, STATUS, segment } from './layout.ts';
import type { Processor } from './processor.ts';
import {
  checkStackSegment,
  type Descriptor,
  isNull,
  rightsOf,
  SYSTEM,
  selectorError,
  selectorOf,
  tableAddress,
} from './segments.ts';

/**
 * What the processor reads from the current TSS outside task switches: inner stacks and the I/O permission map.
 *
 * Source  SDM 3A 7.2.1 "Task-State Segment (TSS)", 7.7 "Task Management in 64-bit Mode"; SDM 1 19.5.2
 *         "I/O Permission Bit Map".
 */

const TR_BASE = segment(SEG.TR) + SEG.BASE;
const TR_LIMIT = segment(SEG.TR) + SEG.LIMIT;

const isTss32 = (cpu: Processor): boolean => (rightsOf(cpu, SEG.TR) & 8) !== 0;

function readTss(cpu: Processor, offset: number, bytes: number): boolean {
  tableAddress(cpu, TR_BASE, offset);
  return cpu.read(cpu.low, cpu.high, bytes, ACCESS.IMPLICIT);
}

/** RSPn or ISTn of a 64-bit TSS, into `low`, `high`. Must be canonical: #SS(0) (checked by the first push as well). */
export function fetchStackPointer64(cpu: Processor, offset: number): number {
  if (offset + 7 > cpu.get(TR_LIMIT)) return cpu.fault(VECTOR.TS, selectorError(selectorOf(cpu, SEG.TR)));
  if (!readTss(cpu, offset, 8)) return cpu.accessStatus;
  if (!cpu.isCanonical(cpu.low, cpu.high)) return cpu.fault(VECTOR.SS, 0);
  return STATUS.NEXT;
}

/** SSn:ESPn for privilege `cpl`, checked: descriptor in `into`, ESP in `low`, selector in `high`. */
export function fetchStackSegmentFromTss(cpu: Processor, cpl: number, into: Descriptor): number {
  const is32 = isTss32(cpu);
  const offset = is32 ? 4 + 8 * cpl : 2 + 4 * cpl;
  const bytes = is32 ? 4 : 2;
  const trError = selectorError(selectorOf(cpu, SEG.TR));
  if (offset + bytes + 1 > cpu.get(TR_LIMIT)) return cpu.fault(VECTOR.TS, trError);
  if (!readTss(cpu, offset, bytes)) return cpu.accessStatus;
  const sp = cpu.low;
  if (!readTss(cpu, offset + bytes, 2)) return cpu.accessStatus;
  const selector = cpu.low;
  if (isNull(selector)) return cpu.fault(VECTOR.TS, 0);
  const status = checkStackSegment(cpu, into, selector, cpl, VECTOR.TS);
  if (status !== STATUS.NEXT) return status;
  cpu.low = sp;
  cpu.high = selector;
  return STATUS.NEXT;
}

/**
 * Does the I/O permission bit map of the TSS allow the port? Called only where CPL > IOPL or in virtual-8086 mode.
 *
 * @returns NEXT if so, #GP(0) if not, or the status of a failed read.
 */
export function portAllowed(cpu: Processor, port: number, bytes: number): number {
  const rights = rightsOf(cpu, SEG.TR);
  const isTss = (rights & 0x1_000d) === (SYSTEM.TSS & 0xd);
  const limit = cpu.get(TR_LIMIT);
  if (!isTss || limit < 103) return cpu.fault(VECTOR.GP, 0);
  if (!readTss(cpu, 102, 2)) return cpu.accessStatus;
  const at = cpu.low + (port >>> 3);
  if (at + 1 > limit) return cpu.fault(VECTOR.GP, 0);
  if (!readTss(cpu, at, 2)) return cpu.accessStatus;
  const mask = ((1 << bytes) - 1) << (port & 7);
  return cpu.low & mask ? cpu.fault(VECTOR.GP, 0) : STATUS.NEXT;
}
