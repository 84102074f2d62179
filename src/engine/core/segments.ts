import { VECTOR } from '../../arch/exceptions.ts';
import { BORN_DOUBLE, TWO_32 } from '../../base/bits.ts';
import { ACCESS } from '../paging/access.ts';
import { AR } from './address.ts';
import { S, SEG, STATUS, segment } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * Descriptors, and what loading a segment register checks.
 *
 * Owns    the translation of descriptors to the access rights, limit and base of a segment register.
 * Never   changes a segment register before everything about it is checked.
 *
 * Source  SDM 3A 3.4 "Logical and Linear Addresses", 3.5 "System Descriptor Types", 5.5 "Privilege Levels" to 5.8.
 */

/** Types of system descriptors. SDM 3A 3.5, Table 3-2. */
export const SYSTEM = {
  TSS16: 1,
  LDT: 2,
  TSS16_BUSY: 3,
  CALL16: 4,
  TASK_GATE: 5,
  INTERRUPT16: 6,
  TRAP16: 7,
  TSS: 9,
  TSS_BUSY: 11,
  CALL: 12,
  INTERRUPT: 14,
  TRAP: 15,
} as const;

/** A descriptor as fetched, and where it lies. One object, overwritten by each fetch. */
export class Descriptor {
  /** Bits 31:0 and 63:32 */
  low = BORN_DOUBLE;
  high = BORN_DOUBLE;
  /** Bits 95:64 of a 16-byte system descriptor: the base's upper half, or a gate's offset. */
  upper = BORN_DOUBLE;
  /** Its linear address. */
  atLow = BORN_DOUBLE;
  atHigh = BORN_DOUBLE;

  /** Access rights as a segment register holds them. */
  get rights(): number {
    return (this.high >>> 8) & 0xf0ff;
  }
  get type(): number {
    return (this.high >>> 8) & 0xf;
  }
  get dpl(): number {
    return (this.high >>> 13) & 3;
  }
  get present(): boolean {
    return (this.high & 0x8000) !== 0;
  }
  /** Code or data. */
  get isSegment(): boolean {
    return (this.high & 0x1000) !== 0;
  }
  get isCode(): boolean {
    return (this.high & 0x1800) === 0x1800;
  }
  get isConforming(): boolean {
    return (this.high & 0x1c00) === 0x1c00;
  }
  get isWritableData(): boolean {
    return (this.high & 0x1a00) === 0x1200;
  }
  /** Limit in bytes. */
  get limit(): number {
    const raw = (this.low & 0xffff) | (this.high & 0xf_0000);
    return this.high & 0x80_0000 ? ((raw << 12) | 0xfff) >>> 0 : raw;
  }
  get base(): number {
    return ((this.low >>> 16) | ((this.high & 0xff) << 16) | (this.high & 0xff00_0000)) >>> 0;
  }

  copy(from: Descriptor): void {
    this.low = from.low;
    this.high = from.high;
    this.upper = from.upper;
    this.atLow = from.atLow;
    this.atHigh = from.atHigh;
  }
}

/** Error code of a fault about a selector. */
export const selectorError = (selector: number): number => selector & 0xfffc;
export const isNull = (selector: number): boolean => (selector & 0xfffc) === 0;

/** Reads `bytes` of a system table at the base in `baseCell` plus `offset`. False: S.ACCESS_STATUS has the status. */
export function readTable(cpu: Processor, baseCell: number, offset: number, bytes: number): boolean {
  tableAddress(cpu, baseCell, offset);
  return cpu.read(cpu.low, cpu.high, bytes, ACCESS.IMPLICIT);
}

/** Linear address of base + offset, in `low`, `high`. */
export function tableAddress(cpu: Processor, baseCell: number, offset: number): void {
  const sum = cpu.get(baseCell) + offset;
  cpu.low = sum >>> 0;
  cpu.high = cpu.ia32e ? (cpu.get(baseCell + 4) + (sum >= TWO_32 ? 1 : 0)) >>> 0 : 0;
}

/**
 * Fetches the 8-byte descriptor of a selector that is not null.
 *
 * @param vector  Fault if the selector lies outside its table: #GP, or #TS during a task or stack switch.
 * @returns       NEXT, or the status to leave with.
 */
export function fetchDescriptor(
  cpu: Processor,
  into: Descriptor,
  selector: number,
  vector: number = VECTOR.GP,
): number {
  let baseCell: number = S.GDTR_BASE;
  let limit = cpu.get(S.GDTR_LIMIT);
  if (selector & 4) {
    const ldtr = segment(SEG.LDTR);
    if (cpu.get(ldtr + SEG.ACCESS) & AR.UNUSABLE) return cpu.fault(vector, selectorError(selector));
    baseCell = ldtr + SEG.BASE;
    limit = cpu.get(ldtr + SEG.LIMIT);
  }
  if ((selector | 7) > limit) return cpu.fault(vector, selectorError(selector));
  tableAddress(cpu, baseCell, selector & 0xfff8);
  into.atLow = cpu.low;
  into.atHigh = cpu.high;
  if (!cpu.read(cpu.low, cpu.high, 8, ACCESS.IMPLICIT)) return cpu.accessStatus;
  into.low = cpu.low;
  into.high = cpu.high;
  into.upper = 0;
  return STATUS.NEXT;
}

/**
 * In IA-32e mode, reads the second half of a 16-byte system descriptor. Its type field must be 0: #GP(selector).
 * SDM 3A 3.5.2 "Segment Descriptor Tables in IA-32e Mode".
 */
export function fetchUpper(cpu: Processor, into: Descriptor, selector: number): number {
  if (!cpu.ia32e) return STATUS.NEXT;
  const limit = selector & 4 ? cpu.get(segment(SEG.LDTR) + SEG.LIMIT) : cpu.get(S.GDTR_LIMIT);
  if ((selector & 0xfff8) + 15 > limit) return cpu.fault(VECTOR.GP, selectorError(selector));
  const sum = into.atLow + 8;
  const high = (into.atHigh + (sum >= TWO_32 ? 1 : 0)) >>> 0;
  if (!cpu.read(sum >>> 0, high, 8, ACCESS.IMPLICIT)) return cpu.accessStatus;
  if (cpu.high & 0x1f00) return cpu.fault(VECTOR.GP, selectorError(selector));
  into.upper = cpu.low;
  return STATUS.NEXT;
}

/** Writes the byte with type, S, DPL and P back to the table. */
export function writeTypeByte(cpu: Processor, descriptor: Descriptor): number {
  const sum = descriptor.atLow + 5;
  const high = (descriptor.atHigh + (sum >= TWO_32 ? 1 : 0)) >>> 0;
  if (!cpu.write(sum >>> 0, high, 1, (descriptor.high >>> 8) & 0xff, 0, ACCESS.IMPLICIT)) return cpu.accessStatus;
  return STATUS.NEXT;
}

/** Sets the accessed bit of a code or data descriptor, in the table and in `descriptor`. */
export function markAccessed(cpu: Processor, descriptor: Descriptor): number {
  if (descriptor.high & 0x100) return STATUS.NEXT;
  descriptor.high |= 0x100;
  return writeTypeByte(cpu, descriptor);
}

/** Fills a segment register from a checked descriptor. */
export function loadSegment(cpu: Processor, seg: number, selector: number, descriptor: Descriptor): void {
  setSegment(cpu, seg, selector, descriptor.base, descriptor.upper, descriptor.limit, descriptor.rights);
}

export function setSegment(
  cpu: Processor,
  seg: number,
  selector: number,
  baseLow: number,
  baseHigh: number,
  limit: number,
  rights: number,
): void {
  const at = segment(seg);
  cpu.u16[(at + SEG.SELECTOR) >>> 1] = selector;
  cpu.set(at + SEG.ACCESS, rights);
  cpu.set(at + SEG.LIMIT, limit);
  cpu.set64(at + SEG.BASE, baseLow, baseHigh);
}

export const selectorOf = (cpu: Processor, seg: number): number => cpu.u16[(segment(seg) + SEG.SELECTOR) >>> 1]!;
export const rightsOf = (cpu: Processor, seg: number): number => cpu.get(segment(seg) + SEG.ACCESS);

/** A null selector: unusable. SS keeps the CPL as its DPL, as VMCS guest state has it (SDM 3C 26.3.1.2). */
export function loadNull(cpu: Processor, seg: number, selector: number, cpl = 0): void {
  setSegment(cpu, seg, selector, 0, 0, 0, AR.UNUSABLE | (seg === SEG.SS ? cpl << AR.DPL_SHIFT : 0));
}

/** Segment load in real-address mode (limit stays, as "unreal mode" knows) and in virtual-8086 mode. */
export function loadRealSegment(cpu: Processor, seg: number, selector: number): void {
  const at = segment(seg);
  if (cpu.vm86) setSegment(cpu, seg, selector, selector << 4, 0, 0xffff, 0xf3);
  else
    setSegment(
      cpu,
      seg,
      selector,
      selector << 4,
      0,
      cpu.get(at + SEG.LIMIT),
      (cpu.get(at + SEG.ACCESS) & 0xf000) | 0x93,
    );
}

const scratch = new Descriptor();

/**
 * Checks a selector for SS at privilege `cpl` and fetches its descriptor. The null selector is the caller's.
 *
 * @param vector  #GP for loads and returns, #TS for stacks that come from a TSS.
 */
export function checkStackSegment(
  cpu: Processor,
  into: Descriptor,
  selector: number,
  cpl: number,
  vector: number = VECTOR.GP,
): number {
  const status = fetchDescriptor(cpu, into, selector, vector);
  if (status !== STATUS.NEXT) return status;
  if ((selector & 3) !== cpl || into.dpl !== cpl || !into.isWritableData) {
    return cpu.fault(vector, selectorError(selector));
  }
  if (!into.present) return cpu.fault(VECTOR.SS, selectorError(selector));
  return STATUS.NEXT;
}

/** Checks a selector that is not null for DS, ES, FS or GS and fetches its descriptor. */
export function checkDataSegment(
  cpu: Processor,
  into: Descriptor,
  selector: number,
  cpl: number,
  vector: number = VECTOR.GP,
): number {
  const status = fetchDescriptor(cpu, into, selector, vector);
  if (status !== STATUS.NEXT) return status;
  const unreadable = (into.high & 0x1a00) === 0x1800;
  const tooPrivileged = !into.isConforming && ((selector & 3) > into.dpl || cpl > into.dpl);
  if (!into.isSegment || unreadable || tooPrivileged) return cpu.fault(vector, selectorError(selector));
  if (!into.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  return STATUS.NEXT;
}

/**
 * MOV, POP and LxS to DS, ES, FS, GS or SS. `modeChanged` is called here; the caller goes on with `cpu.goOn`.
 * SDM 2B "MOV—Move", "Operation".
 */
export function loadSegmentRegister(cpu: Processor, seg: number, selector: number): number {
  if (!cpu.protectedMode || cpu.vm86) {
    loadRealSegment(cpu, seg, selector);
    cpu.modeChanged();
    return STATUS.NEXT;
  }
  const { cpl } = cpu;
  if (isNull(selector)) {
    if (seg === SEG.SS && !(cpu.long && cpl < 3 && (selector & 3) === cpl)) return cpu.fault(VECTOR.GP, 0);
    loadNull(cpu, seg, selector, cpl);
    cpu.modeChanged();
    return STATUS.NEXT;
  }
  let status =
    seg === SEG.SS ? checkStackSegment(cpu, scratch, selector, cpl) : checkDataSegment(cpu, scratch, selector, cpl);
  if (status !== STATUS.NEXT) return status;
  status = markAccessed(cpu, scratch);
  if (status !== STATUS.NEXT) return status;
  loadSegment(cpu, seg, selector, scratch);
  cpu.modeChanged();
  return STATUS.NEXT;
}

/**
 * After a return to an outer level: data segments that the new level may not use become null.
 * SDM 2B "RET—Return from Procedure", "RETURN-TO-OUTER-PRIVILEGE-LEVEL".
 */
export function dropInnerSegments(cpu: Processor, cpl: number): void {
  for (let seg: number = SEG.ES; seg <= SEG.GS; seg += 1) {
    if (seg === SEG.CS || seg === SEG.SS) continue;
    const rights = rightsOf(cpu, seg);
    if (rights & AR.UNUSABLE) continue;
    const conforming = (rights & (AR.CODE | AR.CONFORMING)) === (AR.CODE | AR.CONFORMING);
    if (conforming || (rights & AR.DPL) >>> AR.DPL_SHIFT >= cpl) continue;
    // The base outlives the selector: kernels that keep theirs in GS rely on it in 64-bit mode
    cpu.u16[(segment(seg) + SEG.SELECTOR) >>> 1] = 0;
    cpu.set(segment(seg) + SEG.ACCESS, rights | AR.UNUSABLE);
  }
}

/** LLDT. */
export function loadLdtr(cpu: Processor, selector: number): number {
  if (isNull(selector)) {
    setSegment(cpu, SEG.LDTR, selector, 0, 0, 0, AR.UNUSABLE | SYSTEM.LDT);
    return STATUS.NEXT;
  }
  if (selector & 4) return cpu.fault(VECTOR.GP, selectorError(selector));
  let status = fetchDescriptor(cpu, scratch, selector);
  if (status !== STATUS.NEXT) return status;
  if (scratch.isSegment || scratch.type !== SYSTEM.LDT) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!scratch.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  status = fetchUpper(cpu, scratch, selector);
  if (status !== STATUS.NEXT) return status;
  if (cpu.ia32e && !cpu.canBeBase(scratch.upper)) return cpu.fault(VECTOR.GP, selectorError(selector));
  loadSegment(cpu, SEG.LDTR, selector, scratch);
  return STATUS.NEXT;
}

/** LTR. */
export function loadTaskRegister(cpu: Processor, selector: number): number {
  if (isNull(selector)) return cpu.fault(VECTOR.GP, 0);
  if (selector & 4) return cpu.fault(VECTOR.GP, selectorError(selector));
  let status = fetchDescriptor(cpu, scratch, selector);
  if (status !== STATUS.NEXT) return status;
  const available = scratch.type === SYSTEM.TSS || (scratch.type === SYSTEM.TSS16 && !cpu.ia32e);
  if (scratch.isSegment || !available) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!scratch.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  status = fetchUpper(cpu, scratch, selector);
  if (status !== STATUS.NEXT) return status;
  if (cpu.ia32e && !cpu.canBeBase(scratch.upper)) return cpu.fault(VECTOR.GP, selectorError(selector));
  scratch.high |= 0x200;
  status = writeTypeByte(cpu, scratch);
  if (status !== STATUS.NEXT) return status;
  loadSegment(cpu, SEG.TR, selector, scratch);
  return STATUS.NEXT;
}

/** What LAR, LSL, VERR and VERW ask of a selector. */
export type Inspection = 'LAR' | 'LSL' | 'VERR' | 'VERW';

const LAR_TYPES = 0b0001_1010_0011_1110; // 1 2 3 4 5 9 11 12
const LSL_TYPES = 0b0000_1010_0000_1110; // 1 2 3 9 11
const LAR_TYPES_LONG = 0b0001_1010_0000_0100; // 2 9 11 12
const LSL_TYPES_LONG = 0b0000_1010_0000_0100; // 2 9 11

/**
 * Is the selector visible and of a legal type? Result in `low`: what LAR or LSL load.
 *
 * @returns NEXT if ZF is to be 1, JUMP (no jump: "no") if it is to be 0, else a fault or exit of the table's memory.
 */
export function inspectSelector(cpu: Processor, selector: number, what: Inspection): number {
  if (isNull(selector)) return STATUS.JUMP;
  const status = fetchDescriptor(cpu, scratch, selector);
  if (status === STATUS.FAULT && cpu.get(S.FAULT_VECTOR) === VECTOR.GP) return STATUS.JUMP;
  if (status !== STATUS.NEXT) return status;
  const d = scratch;
  const isVerify = what === 'VERR' || what === 'VERW';
  if (!d.isSegment) {
    if (isVerify) return STATUS.JUMP;
    const types = what === 'LAR' ? (cpu.ia32e ? LAR_TYPES_LONG : LAR_TYPES) : cpu.ia32e ? LSL_TYPES_LONG : LSL_TYPES;
    if (!((types >>> d.type) & 1)) return STATUS.JUMP;
  }
  if (!d.isConforming && (cpu.cpl > d.dpl || (selector & 3) > d.dpl)) return STATUS.JUMP;
  if (what === 'VERR' && (d.high & 0x0a00) === 0x0800) return STATUS.JUMP;
  if (what === 'VERW' && !d.isWritableData) return STATUS.JUMP;
  cpu.low = what === 'LAR' ? (d.high & 0x00ff_ff00) >>> 0 : d.limit;
  return STATUS.NEXT;
}
