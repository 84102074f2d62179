import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, RFLAGS, RFLAGS_IOPL } from '../../arch/registers.ts';
import { ACCESS } from '../paging/access.ts';
import { AR, linear } from './address.ts';
import { EVENT, softwareInterrupt, throughVector } from './events.ts';
import type { Helper } from './helpers.ts';
import { gpr, REC, S, SEG, STATUS, segment } from './layout.ts';
import { isMemory, regField, settleRip } from './operands.ts';
import type { Processor } from './processor.ts';
import {
  Descriptor,
  fetchDescriptor,
  fetchUpper,
  isNull,
  loadNull,
  loadSegment,
  markAccessed,
  SYSTEM,
  selectorError,
  selectorOf,
} from './segments.ts';
import { frame, setStackPointer, stackWidth } from './stack.ts';
import { switchTaskTo, TASK_SOURCE } from './tasks.ts';
import { loadRealCode, returnFar } from './transfers.ts';
import { fetchStackPointer64, fetchStackSegmentFromTss } from './tss.ts';

/**
 * Far jumps and calls, call gates, software interrupts, BOUND.
 *
 * Source  SDM 2A "JMP—Jump", "CALL—Call Procedure", "INT n/INTO/INT3/INT1", "BOUND", "Operation";
 *         SDM 3A 5.8 "Privilege Level Checking When Transferring Program Control between Code Segments".
 */

const target = new Descriptor();
const gate = new Descriptor();
const stack = new Descriptor();

/** The far pointer's parts. */
let selector = 0;
let offsetLow = 0;
let offsetHigh = 0;

/** Reads the far pointer: of the instruction, or m16:16, m16:32, m16:64. NEXT or the status to leave with. */
function fetchPointer(cpu: Processor, record: number): number {
  if (!isMemory(cpu, record)) {
    offsetLow = cpu.get(record + REC.IMM);
    offsetHigh = 0;
    selector = cpu.get(record + REC.UPPER) & 0xffff;
    if (cpu.operandSize(record) === 2) offsetLow &= 0xffff;
    return STATUS.NEXT;
  }
  const bytes = cpu.operandSize(record);
  const status = linear(cpu, record, bytes + 2);
  if (status !== STATUS.NEXT) return status;
  const low = cpu.get(S.EA);
  const high = cpu.get(S.EA + 4);
  if (!cpu.read(low, high, bytes)) return cpu.accessStatus;
  offsetLow = cpu.low;
  offsetHigh = cpu.high;
  const at = low + bytes;
  if (!cpu.read(at >>> 0, at > 0xffff_ffff ? (high + 1) >>> 0 : high, 2)) return cpu.accessStatus;
  selector = cpu.low;
  return STATUS.NEXT;
}

/** Is the offset legal in the code segment `target`? */
function offsetIsLegal(cpu: Processor, low: number, high: number): boolean {
  return cpu.ia32e && target.rights & AR.L ? cpu.isCanonical(low, high) : low <= target.limit && high === 0;
}

/** L and D together are reserved in IA-32e mode. */
const isBadLong = (cpu: Processor): boolean => cpu.ia32e && (target.rights & (AR.L | AR.DB)) === (AR.L | AR.DB);

/** A far jump or call straight to a code segment: privilege stays. Checks; then `target` is it. */
function checkDirect(cpu: Processor): number {
  const { cpl } = cpu;
  const legal = target.isConforming ? target.dpl <= cpl : (selector & 3) <= cpl && target.dpl === cpl;
  if (!legal || isBadLong(cpu)) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!target.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  if (!offsetIsLegal(cpu, offsetLow, offsetHigh)) return cpu.fault(VECTOR.GP, 0);
  return markAccessed(cpu, target);
}

function enterCode(cpu: Processor, newSelector: number, cpl: number, low: number, high: number): number {
  loadSegment(cpu, SEG.CS, (newSelector & ~3) | cpl, target);
  cpu.set(S.CPL, cpl);
  cpu.modeChanged();
  return cpu.goTo(low, cpu.long ? high : 0);
}

function jumpReal(cpu: Processor): number {
  if (offsetLow > cpu.get(segment(SEG.CS) + SEG.LIMIT)) return cpu.fault(VECTOR.GP, 0);
  loadRealCode(cpu, selector);
  cpu.modeChanged();
  return cpu.goTo(offsetLow, 0);
}

/** Fetches what the far pointer's selector names: into `target`. */
function fetchTarget(cpu: Processor): number {
  if (isNull(selector)) return cpu.fault(VECTOR.GP, 0);
  return fetchDescriptor(cpu, target, selector);
}

/** Checks privilege and presence of a gate or TSS that `target` holds. */
function checkSystem(cpu: Processor): number {
  if (target.dpl < cpu.cpl || target.dpl < (selector & 3)) return cpu.fault(VECTOR.GP, selectorError(selector));
  return STATUS.NEXT;
}

/** Call gate: its target comes to `target`, its selector to `selector`, its offset to `offset…`. Not yet checked: DPL. */
function throughGate(cpu: Processor): number {
  gate.copy(target);
  const status = fetchUpper(cpu, gate, selector);
  if (status !== STATUS.NEXT) return status;
  if (!gate.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  selector = gate.low >>> 16;
  const wide = gate.type === SYSTEM.CALL;
  offsetLow = wide ? ((gate.low & 0xffff) | (gate.high & 0xffff_0000)) >>> 0 : gate.low & 0xffff;
  offsetHigh = cpu.ia32e ? gate.upper : 0;
  const fetched = fetchTarget(cpu);
  if (fetched !== STATUS.NEXT) return fetched;
  const long = (target.rights & (AR.L | AR.DB)) === AR.L;
  if (!target.isCode || target.dpl > cpu.cpl || (cpu.ia32e && !long)) {
    return cpu.fault(VECTOR.GP, selectorError(selector));
  }
  if (!target.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  return STATUS.NEXT;
}

const isCallGate = (cpu: Processor): boolean =>
  target.type === SYSTEM.CALL || (target.type === SYSTEM.CALL16 && !cpu.ia32e);
const isAvailableTss = (cpu: Processor): boolean =>
  !cpu.ia32e && (target.type === SYSTEM.TSS || target.type === SYSTEM.TSS16);

/** JMP and CALL to a TSS or a task gate. */
function toTask(cpu: Processor, record: number, source: 0 | 2): number {
  if (isAvailableTss(cpu)) {
    if (!target.present) return cpu.fault(VECTOR.NP, selectorError(selector));
    return switchTaskTo(cpu, record, selector, source);
  }
  if (cpu.ia32e || target.type !== SYSTEM.TASK_GATE) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!target.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  return switchTaskTo(cpu, record, target.low >>> 16, source);
}

export const jumpFarHelper: Helper = (cpu, record) => {
  let status = fetchPointer(cpu, record);
  if (status !== STATUS.NEXT) return status;
  if (!cpu.protectedMode || cpu.vm86) return jumpReal(cpu);
  status = fetchTarget(cpu);
  if (status !== STATUS.NEXT) return status;
  if (target.isSegment) {
    if (!target.isCode) return cpu.fault(VECTOR.GP, selectorError(selector));
    status = checkDirect(cpu);
    return status === STATUS.NEXT ? enterCode(cpu, selector, cpu.cpl, offsetLow, offsetHigh) : status;
  }
  status = checkSystem(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!isCallGate(cpu)) return toTask(cpu, record, TASK_SOURCE.JMP);
  status = throughGate(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!target.isConforming && target.dpl !== cpu.cpl) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!offsetIsLegal(cpu, offsetLow, offsetHigh)) return cpu.fault(VECTOR.GP, 0);
  status = markAccessed(cpu, target);
  return status === STATUS.NEXT ? enterCode(cpu, selector, cpu.cpl, offsetLow, offsetHigh) : status;
};

/** Pushes CS and the next RIP on the stack in force. NEXT: checked, to be written with `frame.write`. */
function pushReturn(cpu: Processor, record: number, bytes: number): void {
  frame.push(selectorOf(cpu, SEG.CS), 0, bytes);
  cpu.nextRip(record);
  frame.push(cpu.low, cpu.high, bytes);
}

/** Writes the return frame on the same stack and goes to the code segment in `target`. */
function callSameLevel(cpu: Processor, record: number, bytes: number): number {
  frame.beginCurrent(cpu);
  pushReturn(cpu, record, bytes);
  let status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!offsetIsLegal(cpu, offsetLow, offsetHigh)) return cpu.fault(VECTOR.GP, 0);
  status = markAccessed(cpu, target);
  if (status !== STATUS.NEXT) return status;
  frame.write(cpu);
  setStackPointer(cpu, frame.width, frame.spLow, frame.spHigh);
  return enterCode(cpu, selector, cpu.cpl, offsetLow, offsetHigh);
}

export const callFarHelper: Helper = (cpu, record) => {
  let status = fetchPointer(cpu, record);
  if (status !== STATUS.NEXT) return status;
  const bytes = cpu.operandSize(record);
  if (!cpu.protectedMode || cpu.vm86) {
    frame.beginCurrent(cpu);
    pushReturn(cpu, record, bytes);
    status = frame.prepare(cpu);
    if (status !== STATUS.NEXT) return status;
    if (offsetLow > cpu.get(segment(SEG.CS) + SEG.LIMIT)) return cpu.fault(VECTOR.GP, 0);
    frame.write(cpu);
    setStackPointer(cpu, frame.width, frame.spLow, 0);
    return jumpReal(cpu);
  }
  status = fetchTarget(cpu);
  if (status !== STATUS.NEXT) return status;
  if (target.isSegment) {
    if (!target.isCode) return cpu.fault(VECTOR.GP, selectorError(selector));
    status = checkDirect(cpu);
    return status === STATUS.NEXT ? callSameLevel(cpu, record, bytes) : status;
  }
  status = checkSystem(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!isCallGate(cpu)) return toTask(cpu, record, TASK_SOURCE.CALL);
  status = throughGate(cpu);
  if (status !== STATUS.NEXT) return status;
  const gateBytes = cpu.ia32e ? 8 : gate.type === SYSTEM.CALL ? 4 : 2;
  if (target.isConforming || target.dpl === cpu.cpl) return callSameLevel(cpu, record, gateBytes);
  return cpu.ia32e ? callInnerLong(cpu, record) : callInner(cpu, record, gateBytes);
};

/** Call gate to an inner level, IA-32e mode: RSP from the TSS, no parameters, SS becomes null. */
function callInnerLong(cpu: Processor, record: number): number {
  const cpl = target.dpl;
  let status = fetchStackPointer64(cpu, 4 + 8 * cpl);
  if (status !== STATUS.NEXT) return status;
  frame.begin64(cpu.low, cpu.high, cpl);
  frame.push(selectorOf(cpu, SEG.SS), 0, 8);
  frame.push(cpu.get(gpr(4)), cpu.get(gpr(4) + 4), 8);
  pushReturn(cpu, record, 8);
  status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!offsetIsLegal(cpu, offsetLow, offsetHigh)) return cpu.fault(VECTOR.GP, 0);
  status = markAccessed(cpu, target);
  if (status !== STATUS.NEXT) return status;
  frame.write(cpu);
  loadNull(cpu, SEG.SS, cpl, cpl);
  cpu.set64(gpr(4), frame.spLow, frame.spHigh);
  return enterCode(cpu, selector, cpl, offsetLow, offsetHigh);
}

const parameters = new Uint32Array(31);

/** Call gate to an inner level: SS:ESP from the TSS, parameters copied. */
function callInner(cpu: Processor, record: number, bytes: number): number {
  const cpl = target.dpl;
  let status = fetchStackSegmentFromTss(cpu, cpl, stack);
  if (status !== STATUS.NEXT) return status;
  const newSp = cpu.low;
  const newSs = cpu.high;
  const count = gate.high & 31;
  const oldWidth = stackWidth(cpu);
  const oldBase = cpu.get(segment(SEG.SS) + SEG.BASE);
  for (let i = 0; i < count; i += 1) {
    const at = (cpu.get(gpr(4)) + bytes * i) & (oldWidth === 2 ? 0xffff : -1);
    if (!cpu.read((oldBase + (at >>> 0)) >>> 0, 0, bytes)) return cpu.accessStatus;
    parameters[i] = cpu.low;
  }
  const width = stack.rights & AR.DB ? 4 : 2;
  frame.begin(
    width,
    stack.base,
    0,
    stack.limit,
    stack.rights,
    width === 2 ? newSp & 0xffff : newSp,
    0,
    cpl,
    selectorError(newSs),
  );
  frame.push(selectorOf(cpu, SEG.SS), 0, bytes);
  frame.push(cpu.get(gpr(4)), 0, bytes);
  for (let i = count - 1; i >= 0; i -= 1) frame.push(parameters[i]!, 0, bytes);
  pushReturn(cpu, record, bytes);
  status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  if (!offsetIsLegal(cpu, offsetLow, 0)) return cpu.fault(VECTOR.GP, 0);
  status = markAccessed(cpu, target);
  if (status === STATUS.NEXT) status = markAccessed(cpu, stack);
  if (status !== STATUS.NEXT) return status;
  frame.write(cpu);
  loadSegment(cpu, SEG.SS, newSs, stack);
  setStackPointer(cpu, width, frame.spLow, 0);
  return enterCode(cpu, selector, cpl, offsetLow, 0);
}

/** RET far, with the immediate's parameters dropped on both stacks. */
export const returnFarHelper: Helper = (cpu, record) => returnFar(cpu, record, cpu.get(record + REC.IMM) & 0xffff);

// ---- software interrupts ---------------------------------------------------------------------------------------------

const lengthOf = (cpu: Processor, record: number): number => cpu.u8[record + REC.LENGTH]!;

export const intN: Helper = (cpu, record) => {
  const vector = cpu.get(record + REC.IMM) & 0xff;
  settleRip(cpu, record);
  const length = lengthOf(cpu, record);
  if (cpu.vm86) {
    if (cpu.cr4 & CR4.VME) {
      const redirected = isRedirected(cpu, vector);
      if (redirected < 0) return cpu.accessStatus;
      if (redirected === 1) return redirectedInterrupt(cpu, vector, length);
    }
    if (cpu.iopl < 3) return cpu.fault(VECTOR.GP, 0);
  }
  return softwareInterrupt(cpu, vector, EVENT.SOFTWARE_INTERRUPT, length);
};

/** Interrupt redirection bit map of the TSS: 1 if the 8086 program's own handler is to run. SDM 3A 20.3.3. */
function isRedirected(cpu: Processor, vector: number): number {
  const base = cpu.get(segment(SEG.TR) + SEG.BASE);
  if (!cpu.read((base + 102) >>> 0, 0, 2, ACCESS.IMPLICIT)) return -1;
  const at = cpu.low - 32 + (vector >>> 3);
  if (at > cpu.get(segment(SEG.TR) + SEG.LIMIT)) return 0;
  if (!cpu.read((base + at) >>> 0, 0, 1, ACCESS.IMPLICIT)) return -1;
  return (cpu.low >>> (vector & 7)) & 1 ? 0 : 1;
}

function redirectedInterrupt(cpu: Processor, vector: number, length: number): number {
  if (!cpu.read(4 * vector, 0, 4)) return cpu.accessStatus;
  const ip = cpu.low & 0xffff;
  const cs = cpu.low >>> 16;
  let flags = cpu.rflags();
  const virtual = cpu.iopl < 3;
  if (virtual) flags = (flags & ~RFLAGS.IF) | RFLAGS_IOPL | (flags & RFLAGS.VIF ? RFLAGS.IF : 0);
  const before = cpu.get(S.RFLAGS);
  const status = throughVector(cpu, ip, cs, length, flags);
  if (status === STATUS.JUMP && virtual) {
    // IOPL below 3: VIF is cleared where IF would be
    cpu.set(S.RFLAGS, (cpu.get(S.RFLAGS) & ~RFLAGS.VIF) | (before & RFLAGS.IF));
  }
  return status;
}

export const int3: Helper = (cpu, record) => {
  settleRip(cpu, record);
  return softwareInterrupt(cpu, VECTOR.BP, EVENT.SOFTWARE_EXCEPTION, lengthOf(cpu, record));
};

export const int1: Helper = (cpu, record) => {
  settleRip(cpu, record);
  cpu.set64(S.FAULT_ADDRESS, 0, 0);
  return softwareInterrupt(cpu, VECTOR.DB, EVENT.PRIVILEGED_SOFTWARE, lengthOf(cpu, record));
};

export const into: Helper = (cpu, record) => {
  if (!(cpu.statusFlags() & RFLAGS.OF)) return cpu.goOn(record);
  settleRip(cpu, record);
  return softwareInterrupt(cpu, VECTOR.OF, EVENT.SOFTWARE_EXCEPTION, lengthOf(cpu, record));
};

/** BOUND: #BR if the index is below the first or above the second of two signed bounds in memory. */
export const bound: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const status = linear(cpu, record, 2 * bytes);
  if (status !== STATUS.NEXT) return status;
  const at = cpu.get(S.EA);
  const signed = (value: number): number => (bytes === 2 ? (value << 16) >> 16 : value | 0);
  if (!cpu.read(at, 0, bytes)) return cpu.accessStatus;
  const lower = signed(cpu.low);
  if (!cpu.read((at + bytes) >>> 0, 0, bytes)) return cpu.accessStatus;
  const upper = signed(cpu.low);
  const index = signed(cpu.get(gpr(regField(cpu, record))));
  return index < lower || index > upper ? cpu.fault(VECTOR.BR) : STATUS.NEXT;
};
