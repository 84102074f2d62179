import { VECTOR } from '../../arch/exceptions.ts';
import { CR4 } from '../../arch/registers.ts';
import { effectiveOffset, linear } from '../core/address.ts';
import { flushLinear, loadMachineStatusWord, visibleCr0 } from '../core/control-registers.ts';
import { INTERCEPT } from '../core/cpu.ts';
import { descriptorTableExit, memoryOperandExit } from '../core/exit-information.ts';
import { EXIT } from '../core/exits.ts';
import { SHADOW, setShadow } from '../core/flags.ts';
import type { Helper } from '../core/helpers.ts';
import { intercepts } from '../core/intercepts.ts';
import { gpr, S, SEG, STATUS } from '../core/layout.ts';
import { isMemory, opcodeOf, readRm, regField, rmField, setBase, writeGpr, writeRm } from '../core/operands.ts';
import type { Processor } from '../core/processor.ts';
import {
  type Inspection,
  inspectSelector,
  loadLdtr,
  loadSegmentRegister,
  loadTaskRegister,
  selectorOf,
} from '../core/segments.ts';
import { dropBytes, peekValue, pushValue } from '../core/stack.ts';

/** Helpers of the rows in system.ts. SDM 2 as each row says; interception: SDM 3C 25.1. */

// ---- segment registers -----------------------------------------------------------------------------------------------

/** MOV Sreg, r/m16. */
export const moveToSegment: Helper = (cpu, record) => {
  const seg = regField(cpu, record);
  if (seg > SEG.GS || seg === SEG.CS) return cpu.fault(VECTOR.UD);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  const status = loadSegmentRegister(cpu, seg, cpu.low);
  if (status !== STATUS.NEXT) return status;
  if (seg === SEG.SS) setShadow(cpu, record, SHADOW.MOV_SS);
  return cpu.goOn(record);
};

/** MOV r/m, Sreg: 16 bits in memory, zero-extended in a register. */
export const moveFromSegment: Helper = (cpu, record) => {
  const seg = regField(cpu, record) & 7;
  if (seg > SEG.GS) return cpu.fault(VECTOR.UD);
  return storeSelector(cpu, record, selectorOf(cpu, seg));
};

/** Stores a 16-bit selector as MOV, SLDT and STR do. */
function storeSelector(cpu: Processor, record: number, selector: number): number {
  return writeRm(cpu, record, isMemory(cpu, record) ? 2 : cpu.operandSize(record), selector, 0);
}

/** Segment register that PUSH or POP names in its opcode: 06 0E 16 1E, 0F A0, 0F A8; POP is one more. */
const stackSegment = (cpu: Processor, record: number): number => (opcodeOf(cpu, record) >>> 3) & 7;

export const pushSegment: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const selector = selectorOf(cpu, stackSegment(cpu, record));
  // A 32-bit push writes 16 bits and leaves the others: SDM 2B "PUSH", Operation. In 64-bit mode zero-extended
  if (bytes !== 4) return pushValue(cpu, selector, 0, bytes) ? STATUS.NEXT : cpu.accessStatus;
  if (!peekValue(cpu, -4, 4)) {
    // Only a write may be allowed there: then it is a plain push
    return pushValue(cpu, selector, 0, 4) ? STATUS.NEXT : cpu.accessStatus;
  }
  return pushValue(cpu, ((cpu.low & 0xffff_0000) | selector) >>> 0, 0, 4) ? STATUS.NEXT : cpu.accessStatus;
};

export const popSegment: Helper = (cpu, record) => {
  const seg = stackSegment(cpu, record);
  const bytes = cpu.operandSize(record);
  if (!peekValue(cpu, 0, bytes)) return cpu.accessStatus;
  // SP moves by the width of the old SS
  const selector = cpu.low & 0xffff;
  const spLow = cpu.get(gpr(4));
  const spHigh = cpu.get(gpr(4) + 4);
  dropBytes(cpu, bytes);
  const status = loadSegmentRegister(cpu, seg, selector);
  if (status !== STATUS.NEXT) {
    cpu.set64(gpr(4), spLow, spHigh);
    return status;
  }
  if (seg === SEG.SS) setShadow(cpu, record, SHADOW.MOV_SS);
  return cpu.goOn(record);
};

/** LDS LES LFS LGS LSS: segment by opcode. */
export const loadFarPointer: Helper = (cpu, record) => {
  const opcode = opcodeOf(cpu, record);
  const seg =
    opcode === 0xc5 ? SEG.DS : opcode === 0xc4 ? SEG.ES : opcode === 0xb2 ? SEG.SS : opcode === 0xb4 ? SEG.FS : SEG.GS;
  const bytes = cpu.operandSize(record);
  let status = linear(cpu, record, bytes + 2);
  if (status !== STATUS.NEXT) return status;
  const at = cpu.get(S.EA);
  const high = cpu.get(S.EA + 4);
  if (!cpu.read(at, high, bytes)) return cpu.accessStatus;
  const offsetLow = cpu.low;
  const offsetHigh = cpu.high;
  const next = at + bytes;
  if (!cpu.read(next >>> 0, next > 0xffff_ffff ? (high + 1) >>> 0 : high, 2)) return cpu.accessStatus;
  status = loadSegmentRegister(cpu, seg, cpu.low);
  if (status !== STATUS.NEXT) return status;
  writeGpr(cpu, regField(cpu, record), bytes, offsetLow, offsetHigh);
  return cpu.goOn(record);
};

// ---- descriptor tables -----------------------------------------------------------------------------------------------

/** CR4.UMIP: SGDT, SIDT, SLDT, STR and SMSW above level 0 are #GP(0). */
const umipRefuses = (cpu: Processor): boolean => (cpu.cr4 & CR4.UMIP) !== 0 && cpu.cpl !== 0;

const isRealOrVm86 = (cpu: Processor): boolean => !cpu.protectedMode || cpu.vm86;

/** SGDT, SIDT (0F 01 /0, /1). */
export const storeTable: Helper = (cpu, record) => {
  if (umipRefuses(cpu)) return cpu.fault(VECTOR.GP, 0);
  const idt = (regField(cpu, record) & 7) === 1;
  if (intercepts(cpu, INTERCEPT.DESCRIPTOR_TABLE)) return descriptorTableExit(cpu, record, EXIT.GDTR_IDTR);
  const status = linear(cpu, record, (cpu.long ? 10 : 6) | 0x100);
  if (status !== STATUS.NEXT) return status;
  const base = idt ? S.IDTR_BASE : S.GDTR_BASE;
  const limit = cpu.get(idt ? S.IDTR_LIMIT : S.GDTR_LIMIT);
  const bytes = cpu.long ? 10 : 6;
  for (let i = 0; i < 2; i += 1) image[i] = limit >>> (8 * i);
  for (let i = 0; i < 8; i += 1) image[2 + i] = cpu.u8[base + i]!;
  return cpu.copyTo(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, image) ? STATUS.NEXT : cpu.accessStatus;
};

/** LGDT, LIDT (0F 01 /2, /3). */
export const loadTable: Helper = (cpu, record) => {
  if (cpu.cpl !== 0 || cpu.vm86) return cpu.fault(VECTOR.GP, 0);
  const idt = (regField(cpu, record) & 7) === 3;
  if (intercepts(cpu, INTERCEPT.DESCRIPTOR_TABLE)) return descriptorTableExit(cpu, record, EXIT.GDTR_IDTR);
  const bytes = cpu.long ? 10 : 6;
  const status = linear(cpu, record, bytes);
  if (status !== STATUS.NEXT) return status;
  if (!cpu.copyFrom(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, image)) return cpu.accessStatus;
  let low = (image[2]! | (image[3]! << 8) | (image[4]! << 16) | (image[5]! << 24)) >>> 0;
  const high = cpu.long ? (image[6]! | (image[7]! << 8) | (image[8]! << 16) | (image[9]! << 24)) >>> 0 : 0;
  if (cpu.long && !cpu.canBeBase(high)) return cpu.fault(VECTOR.GP, 0);
  if (!cpu.long && cpu.operandSize(record) === 2) low &= 0xff_ffff;
  cpu.set64(idt ? S.IDTR_BASE : S.GDTR_BASE, low, high);
  cpu.set(idt ? S.IDTR_LIMIT : S.GDTR_LIMIT, image[0]! | (image[1]! << 8));
  return STATUS.NEXT;
};

const image = new Uint8Array(64);

/** SLDT, STR (0F 00 /0, /1). */
export const storeTaskOrLdt: Helper = (cpu, record) => {
  if (isRealOrVm86(cpu)) return cpu.fault(VECTOR.UD);
  if (umipRefuses(cpu)) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.DESCRIPTOR_TABLE)) return descriptorTableExit(cpu, record, EXIT.LDTR_TR);
  const seg = (regField(cpu, record) & 7) === 1 ? SEG.TR : SEG.LDTR;
  return storeSelector(cpu, record, selectorOf(cpu, seg));
};

/** LLDT, LTR (0F 00 /2, /3). */
export const loadTaskOrLdt: Helper = (cpu, record) => {
  if (isRealOrVm86(cpu)) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.DESCRIPTOR_TABLE)) return descriptorTableExit(cpu, record, EXIT.LDTR_TR);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  return (regField(cpu, record) & 7) === 3 ? loadTaskRegister(cpu, cpu.low) : loadLdtr(cpu, cpu.low);
};

/** Sets ZF alone. */
function setZf(cpu: Processor, zf: boolean): void {
  cpu.setRflags((cpu.rflags() & ~0x40) | (zf ? 0x40 : 0));
}

/** VERR, VERW (0F 00 /4, /5). */
export const verify: Helper = (cpu, record) => {
  if (isRealOrVm86(cpu)) return cpu.fault(VECTOR.UD);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  const status = inspectSelector(cpu, cpu.low, (regField(cpu, record) & 7) === 5 ? 'VERW' : 'VERR');
  return conclude(cpu, status);
};

function conclude(cpu: Processor, status: number): number {
  if (status !== STATUS.NEXT && status !== STATUS.JUMP) return status;
  setZf(cpu, status === STATUS.NEXT);
  return STATUS.NEXT;
}

function inspect(cpu: Processor, record: number, what: Inspection): number {
  if (isRealOrVm86(cpu)) return cpu.fault(VECTOR.UD);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  const status = inspectSelector(cpu, cpu.low, what);
  if (status === STATUS.NEXT) writeGpr(cpu, regField(cpu, record), cpu.operandSize(record), cpu.low, 0);
  return conclude(cpu, status);
}

export const lar: Helper = (cpu, record) => inspect(cpu, record, 'LAR');
export const lsl: Helper = (cpu, record) => inspect(cpu, record, 'LSL');

/** ARPL: raises the RPL of the first operand to that of the second. */
export const arpl: Helper = (cpu, record) => {
  if (isRealOrVm86(cpu)) return cpu.fault(VECTOR.UD);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  const selector = cpu.low;
  const rpl = cpu.get(gpr(regField(cpu, record))) & 3;
  const lower = (selector & 3) < rpl;
  const status = writeRm(cpu, record, 2, lower ? (selector & ~3) | rpl : selector, 0);
  if (status !== STATUS.NEXT) return status;
  setZf(cpu, lower);
  return STATUS.NEXT;
};

// ---- machine status --------------------------------------------------------------------------------------------------

export const smsw: Helper = (cpu, record) => {
  if (umipRefuses(cpu)) return cpu.fault(VECTOR.GP, 0);
  return writeRm(cpu, record, isMemory(cpu, record) ? 2 : cpu.operandSize(record), visibleCr0(cpu), 0);
};

export const lmsw: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (!readRm(cpu, record, 2)) return cpu.accessStatus;
  return loadMachineStatusWord(cpu, record, cpu.low, isMemory(cpu, record));
};

// ---- translations and caches -----------------------------------------------------------------------------------------

/** INVLPG: no limit, type or canonical check; a non-canonical address does nothing. */
export const invlpg: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  effectiveOffset(cpu, record);
  const seg = cpu.aux(record) & 7;
  const sum = cpu.low + cpu.get(S.SEG_BASE + 8 * seg);
  const low = sum >>> 0;
  const high = cpu.long ? (cpu.high + cpu.get(S.SEG_BASE + 8 * seg + 4) + (sum > 0xffff_ffff ? 1 : 0)) >>> 0 : 0;
  if (intercepts(cpu, INTERCEPT.INVLPG)) return cpu.exitBefore(EXIT.INVLPG, record, low, high);
  if (cpu.isCanonical(low, high)) cpu.tlb.flushAddress(cpu.vcpu.index, cpu.vcpu.vpid, -1, low, high);
  return cpu.goOn(record);
};

/** INVPCID types. SDM 2A "INVPCID—Invalidate Process-Context Identifier". */
const INVPCID = { ADDRESS: 0, CONTEXT: 1, ALL: 2, ALL_BUT_GLOBAL: 3 } as const;

export const invpcid: Helper = (cpu, record) => {
  if (cpu.vcpu.intercepts.instructions & INTERCEPT.INVPCID_UD) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.INVPCID)) return memoryOperandExit(cpu, record, EXIT.INVPCID);
  const register = gpr(regField(cpu, record));
  const type = cpu.get(register);
  if (type > INVPCID.ALL_BUT_GLOBAL || (cpu.long && cpu.get(register + 4) !== 0)) return cpu.fault(VECTOR.GP, 0);
  const status = linear(cpu, record, 16);
  if (status !== STATUS.NEXT) return status;
  if (!cpu.copyFrom(cpu.get(S.EA), cpu.get(S.EA + 4), 16, image)) return cpu.accessStatus;
  const word = (i: number): number =>
    (image[i]! | (image[i + 1]! << 8) | (image[i + 2]! << 16) | (image[i + 3]! << 24)) >>> 0;
  const pcid = word(0);
  if (pcid > 0xfff || word(4) !== 0) return cpu.fault(VECTOR.GP, 0);
  if (type <= INVPCID.CONTEXT && pcid !== 0 && !(cpu.cr4 & CR4.PCIDE)) return cpu.fault(VECTOR.GP, 0);
  if (type === INVPCID.ADDRESS) {
    if (!cpu.canBeBase(word(12))) return cpu.fault(VECTOR.GP, 0);
    cpu.tlb.flushAddress(cpu.vcpu.index, cpu.vcpu.vpid, pcid, word(8), word(12));
  } else if (type === INVPCID.ALL) flushLinear(cpu);
  else cpu.tlb.flushLocal(cpu.vcpu.index, cpu.vcpu.vpid, type === INVPCID.CONTEXT ? pcid : -1);
  return cpu.goOn(record);
};

export const wbinvd: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  return intercepts(cpu, INTERCEPT.WBINVD) ? cpu.exitBefore(EXIT.WBINVD, record) : STATUS.NEXT;
};

/** INVD leaves always; nothing is cached here that could be lost. */
export const invd: Helper = (cpu, record) =>
  cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : cpu.exitBefore(EXIT.INVD, record);

// ---- bases -----------------------------------------------------------------------------------------------------------

/** WRFSBASE and WRGSBASE of a base that is not canonical in 48 bits: F3 0F AE /2, /3. */
export const writeBase: Helper = (cpu, record) => {
  const register = gpr(rmField(cpu, record));
  const high = cpu.operandSize(record) === 8 ? cpu.get(register + 4) : 0;
  if (!cpu.canBeBase(high)) return cpu.fault(VECTOR.GP, 0);
  setBase(cpu, regField(cpu, record) & 1 ? SEG.GS : SEG.FS, cpu.get(register), high);
  return STATUS.NEXT;
};
