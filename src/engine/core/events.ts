import { EXCEPTION_NAMES, EXCEPTIONS, pushesErrorCode, secondException, VECTOR } from '../../arch/exceptions.ts';
import { CR0, DR6, DR6_WRITABLE, DR7, RFLAGS } from '../../arch/registers.ts';
import { TWO_32 } from '../../base/bits.ts';
import { AR } from './address.ts';
import { EXIT, X } from './exits.ts';
import { gpr, S, SEG, STATUS, segment, TASK } from './layout.ts';
import { PENDING } from './pending-debug.ts';
import type { Processor } from './processor.ts';
import {
  Descriptor,
  fetchDescriptor,
  isNull,
  loadNull,
  loadSegment,
  markAccessed,
  readTable,
  rightsOf,
  SYSTEM,
  selectorError,
  selectorOf,
  setSegment,
} from './segments.ts';
import { frame, setStackPointer } from './stack.ts';
import { finishTask, switchTaskThroughGate } from './tasks.ts';
import { fetchStackPointer64, fetchStackSegmentFromTss } from './tss.ts';

/**
 * Delivery of exceptions and interrupts: interception, gates, stacks, and what a fault on the way becomes.
 *
 * Owns    the order: intercept → CR2, DR6 → gate → stack → commit; double and triple faults; IDT-vectoring information.
 * Never   decides whether an interrupt is due: L0 injects.
 *
 *   status of everything here   JUMP         delivered, go on at S.NEXT_LINEAR
 *                               EXIT_BEFORE  S.EXIT says why; nothing has changed but CR2 or DR6 of the event
 *
 * Source  SDM 3A 6 "Interrupt and Exception Handling", 20.1.4 "Interrupt and Exception Handling" (real mode), 20.3
 *         (virtual-8086); SDM 3C 25.2 "Other Causes of VM Exits", 26.6.1 "Vectored-Event Injection",
 *         27.2.2, 27.2.4 (interruption and IDT-vectoring information).
 */

/** Interruption type, bits 10:8 of interruption information. SDM 3C Table 24-13, 24-16. */
export const EVENT = {
  EXTERNAL: 0,
  NMI: 2,
  EXCEPTION: 3,
  SOFTWARE_INTERRUPT: 4,
  /** INT1 */
  PRIVILEGED_SOFTWARE: 5,
  /** INT3, INTO */
  SOFTWARE_EXCEPTION: 6,
} as const;

/** Interruption information: SDM 3C 24.8.3, Table 24-13. */
export const INTERRUPTION = {
  VECTOR: 0xff,
  TYPE_SHIFT: 8,
  ERROR_VALID: 1 << 11,
  NMI_UNBLOCKED: 1 << 12,
  VALID: 0x8000_0000,
} as const;

const DR6_AT = S.DR + 48;

const isSoftware = (type: number): boolean => type >= EVENT.SOFTWARE_INTERRUPT;

/** Exceptions whose saved RFLAGS have RF set: faults, except debug exceptions. SDM 3A 6.8.3, SDM 3B 17.3.1.1. */
let setsRf = 0;
for (const name of EXCEPTION_NAMES) {
  if (name === undefined) continue;
  const { vector, type } = EXCEPTIONS[name];
  if (type === 'fault') setsRf |= 1 << vector;
}
const SETS_RF = setsRf;

/** Faults whose error code has an EXT bit: #TS #NP #SS #GP. */
const HAS_EXT = (1 << VECTOR.TS) | (1 << VECTOR.NP) | (1 << VECTOR.SS) | (1 << VECTOR.GP);

/** Delivers the fault in S.FAULT_*; RIP is the faulting instruction's. */
export function deliverFault(cpu: Processor): number {
  const vector = cpu.get(S.FAULT_VECTOR);
  // SDM 1 8.7.2 "MS-DOS Compatibility Sub-mode": no #MF, but a pin that a PC wires to IRQ 13
  if (vector === VECTOR.MF && (cpu.get(S.CR0) & CR0.NE) === 0) {
    cpu.set(X.REASON, EXIT.FERR);
    cpu.set(X.VECTORING, 0);
    return STATUS.EXIT_BEFORE;
  }
  const hasError = cpu.protectedMode && pushesErrorCode(vector);
  return deliver(cpu, vector, EVENT.EXCEPTION, hasError, cpu.get(S.FAULT_ERROR), 0, false);
}

/** Raises an exception at the current RIP. */
export function raise(cpu: Processor, vector: number, error = 0): number {
  cpu.fault(vector, error);
  return deliverFault(cpu);
}

/**
 * A debug exception of trap class, or of an instruction breakpoint: RIP is where the handler returns to.
 *
 * @param dr6  Bits of DR6 that describe it: B0–B3, BD, BS, BT.
 */
export function raiseDebug(cpu: Processor, dr6: number): number {
  cpu.set64(S.FAULT_ADDRESS, dr6, 0);
  return raise(cpu, VECTOR.DB);
}

/**
 * Injects what L0 says, as VM entry does: interruption information, error code, instruction length for software
 * events. Not subject to the exception bitmap itself, but what goes wrong on the way is.
 */
export function injectEvent(cpu: Processor, information: number, error: number, length: number): number {
  const type = (information >>> INTERRUPTION.TYPE_SHIFT) & 7;
  const hasError = (information & INTERRUPTION.ERROR_VALID) !== 0;
  return deliver(cpu, information & INTERRUPTION.VECTOR, type, hasError, error, isSoftware(type) ? length : 0, true);
}

/** INT n, INT3, INTO, INT1 behind their own checks: RIP is the instruction's, `length` its bytes. */
export function softwareInterrupt(cpu: Processor, vector: number, type: number, length: number): number {
  return deliver(cpu, vector, type, false, 0, length, false);
}

/** Goes on with a task switch that L0 was asked about in the middle: JUMP, or one of the exits above. */
export function resumeTaskSwitch(cpu: Processor): number {
  const task = cpu.get(S.TASK);
  if (task & TASK.BY_EVENT) {
    const type = (task >>> INTERRUPTION.TYPE_SHIFT) & 7;
    return deliver(cpu, task & 0xff, type, (task & TASK.ERROR) !== 0, cpu.get(S.TASK_ERROR), 0, true, true);
  }
  const status = finishTask(cpu);
  return status === STATUS.FAULT ? deliverFault(cpu) : status;
}

/** @param switching  The event's task gate has been gone through, all but the end: `resumeTaskSwitch`. */
function deliver(
  cpu: Processor,
  vector: number,
  type: number,
  hasError: boolean,
  error: number,
  length: number,
  injected: boolean,
  switching = false,
): number {
  const nmiUnblocked = (cpu.get(S.PENDING_DEBUG) & PENDING.NMI_UNBLOCKED) !== 0;
  cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) & ~PENDING.NMI_UNBLOCKED);
  // What is being delivered when something goes wrong, and what that was on the way to: for IDT-vectoring information
  let vectoring = 0;
  let vectoringError = 0;
  let vectoringLength = 0;
  for (;;) {
    if (!injected && isIntercepted(cpu, vector, type, error)) {
      exceptionExit(cpu, vector, type, hasError, error, length);
      if (nmiUnblocked && vectoring === 0 && vector !== VECTOR.DF) {
        cpu.set(X.INTERRUPTION, cpu.get(X.INTERRUPTION) | INTERRUPTION.NMI_UNBLOCKED);
      }
      // A double fault that leaves is not said to have come on the way of anything: SDM 3C 27.2.4
      const isAlone = vectoring === 0 || vector === VECTOR.DF;
      cpu.set(X.VECTORING, isAlone ? 0 : vectoring);
      cpu.set(X.VECTORING_ERROR, vectoringError);
      if (!isAlone) cpu.set(X.LENGTH, vectoringLength);
      return STATUS.EXIT_BEFORE;
    }
    if (type === EVENT.EXCEPTION && !injected) loadFaultRegisters(cpu, vector);
    const told = cpu.onDelivery?.(vector, type, hasError, error);
    const status = switching ? finishTask(cpu) : enter(cpu, vector, type, hasError, error, length);
    // What leaves in the middle comes again
    if (status === STATUS.JUMP || status === STATUS.FAULT) told?.();
    if (status === STATUS.EXIT) return status;
    switching = false;
    if (status === STATUS.JUMP) {
      cpu.set(S.SHADOW_KIND, 0);
      // An instruction that faulted has hit no data breakpoint; INT1 is the #DB of what a MOV SS before it held back
      const held = cpu.get(S.PENDING_DEBUG) & PENDING.DR6_BITS;
      const isDebug = type === EVENT.PRIVILEGED_SOFTWARE && !injected;
      if (isDebug && held !== 0) cpu.set(DR6_AT, (cpu.get(DR6_AT) & ~0xf) | held);
      // What a new task's T bit has noted is not the old one's
      const noted = cpu.get(S.PENDING_DEBUG) & (type === EVENT.EXCEPTION || isDebug ? DR6.BT : ~0);
      cpu.set(S.PENDING_DEBUG, noted | PENDING.NO_STEP);
      if (type === EVENT.NMI) cpu.set(S.NMI_BLOCKED, 1);
      return status;
    }
    vectoring =
      (vector | (type << INTERRUPTION.TYPE_SHIFT) | (hasError ? INTERRUPTION.ERROR_VALID : 0) | INTERRUPTION.VALID) >>>
      0;
    vectoringError = hasError ? error : 0;
    vectoringLength = length;
    if (status !== STATUS.FAULT) {
      cpu.set(X.VECTORING, vectoring);
      cpu.set(X.VECTORING_ERROR, vectoringError);
      cpu.set(X.LENGTH, length);
      return status;
    }
    // Only exceptions combine; anything else delivers the second one serially
    const second = cpu.get(S.FAULT_VECTOR);
    let secondError = cpu.get(S.FAULT_ERROR);
    const external = type <= EVENT.EXCEPTION || type === EVENT.PRIVILEGED_SOFTWARE;
    if (external && (HAS_EXT >>> second) & 1) secondError |= 1;
    const becomes = type === EVENT.EXCEPTION ? secondException(vector, second) : 0;
    if (becomes !== 0 && isIntercepted(cpu, second, EVENT.EXCEPTION, secondError)) {
      exceptionExit(cpu, second, EVENT.EXCEPTION, pushesErrorCode(second), secondError, 0);
      cpu.set(X.VECTORING, vectoring);
      cpu.set(X.VECTORING_ERROR, vectoringError);
      return STATUS.EXIT_BEFORE;
    }
    if (becomes === 2) {
      cpu.set(X.REASON, EXIT.TRIPLE_FAULT);
      cpu.set(X.LENGTH, 0);
      cpu.set64(X.QUALIFICATION, 0, 0);
      cpu.set(X.VECTORING, 0);
      return STATUS.EXIT_BEFORE;
    }
    vector = becomes === 1 ? VECTOR.DF : second;
    type = EVENT.EXCEPTION;
    hasError = cpu.protectedMode && pushesErrorCode(vector);
    error = becomes === 1 ? 0 : secondError;
    length = 0;
    injected = false;
  }
}

/** SDM 3C 25.2 "Other Causes of VM Exits", "Exceptions". */
function isIntercepted(cpu: Processor, vector: number, type: number, error: number): boolean {
  if (type !== EVENT.EXCEPTION && type < EVENT.PRIVILEGED_SOFTWARE) return false;
  const { exceptions, pageFaultMask, pageFaultMatch } = cpu.vcpu.intercepts;
  const bit = ((exceptions >>> vector) & 1) !== 0;
  if (vector !== VECTOR.PF) return bit;
  return bit === ((error & pageFaultMask) >>> 0 === pageFaultMatch >>> 0);
}

function exceptionExit(
  cpu: Processor,
  vector: number,
  type: number,
  hasError: boolean,
  error: number,
  length: number,
): void {
  cpu.set(X.REASON, EXIT.EXCEPTION);
  cpu.set(X.LENGTH, length);
  cpu.set64(X.QUALIFICATION, 0, 0);
  if (type === EVENT.EXCEPTION && (vector === VECTOR.PF || vector === VECTOR.DB)) {
    cpu.copy64(X.QUALIFICATION, S.FAULT_ADDRESS);
  }
  cpu.set(X.LINEAR_VALID, 0);
  cpu.set(
    X.INTERRUPTION,
    (vector | (type << INTERRUPTION.TYPE_SHIFT) | (hasError ? INTERRUPTION.ERROR_VALID : 0) | INTERRUPTION.VALID) >>> 0,
  );
  cpu.set(X.INTERRUPTION_ERROR, hasError ? error : 0);
}

/** CR2 of a page fault; DR6 and DR7.GD of a debug exception. They change even if the delivery then fails. */
function loadFaultRegisters(cpu: Processor, vector: number): void {
  if (vector === VECTOR.PF) cpu.copy64(S.CR2, S.FAULT_ADDRESS);
  else if (vector === VECTOR.DB) {
    cpu.set(DR6_AT, (cpu.get(DR6_AT) & ~0xf) | (cpu.get(S.FAULT_ADDRESS) & DR6_WRITABLE));
    const dr7 = S.DR + 56;
    cpu.set(dr7, cpu.get(dr7) & ~DR7.GD);
  }
}

// ---- through the table -----------------------------------------------------------------------------------------------

const gate = new Descriptor();
const code = new Descriptor();
const stack = new Descriptor();

/** Flags to push: RF set for faults. */
function savedFlags(cpu: Processor, vector: number, type: number): number {
  const flags = cpu.rflags();
  return type === EVENT.EXCEPTION && vector < 32 && (SETS_RF >>> vector) & 1 ? (flags | RFLAGS.RF) >>> 0 : flags;
}

/** RIP to push: behind the instruction for software events. In `low`, `high`. */
function savedRip(cpu: Processor, length: number): void {
  const low = cpu.get(S.RIP) + length;
  cpu.low = low >>> 0;
  cpu.high = cpu.long ? (cpu.get(S.RIP + 4) + (low >= TWO_32 ? 1 : 0)) >>> 0 : 0;
}

function enter(cpu: Processor, vector: number, type: number, hasError: boolean, error: number, length: number): number {
  if (!cpu.protectedMode) return enterReal(cpu, vector, length);
  const long = cpu.ia32e;
  const gateError = 8 * vector + 2;
  const size = long ? 16 : 8;
  if (vector * size + size - 1 > cpu.get(S.IDTR_LIMIT)) return cpu.fault(VECTOR.GP, gateError);
  if (!readTable(cpu, S.IDTR_BASE, vector * size, 8)) return cpu.accessStatus;
  gate.low = cpu.low;
  gate.high = cpu.high;
  gate.upper = 0;
  if (long) {
    if (!readTable(cpu, S.IDTR_BASE, vector * size + 8, 8)) return cpu.accessStatus;
    gate.upper = cpu.low;
  }
  const gateType = gate.isSegment ? -1 : gate.type;
  const isGate =
    gateType === SYSTEM.INTERRUPT ||
    gateType === SYSTEM.TRAP ||
    (!long && (gateType === SYSTEM.INTERRUPT16 || gateType === SYSTEM.TRAP16 || gateType === SYSTEM.TASK_GATE));
  if (!isGate) return cpu.fault(VECTOR.GP, gateError);
  const checksDpl = type === EVENT.SOFTWARE_INTERRUPT || type === EVENT.SOFTWARE_EXCEPTION;
  if (checksDpl && gate.dpl < cpu.cpl) return cpu.fault(VECTOR.GP, gateError);
  if (!gate.present) return cpu.fault(VECTOR.NP, gateError);
  if (gateType === SYSTEM.TASK_GATE) {
    return switchTaskThroughGate(cpu, gate.low >>> 16, {
      type,
      vector,
      hasError,
      error,
      length,
      setsRf: type === EVENT.EXCEPTION && vector < 32 && ((SETS_RF >>> vector) & 1) !== 0,
    });
  }

  const selector = gate.low >>> 16;
  if (isNull(selector)) return cpu.fault(VECTOR.GP, 0);
  let status = fetchDescriptor(cpu, code, selector);
  if (status !== STATUS.NEXT) return status;
  if (!code.isCode || code.dpl > cpu.cpl) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (long && (code.rights & (AR.L | AR.DB)) !== AR.L) return cpu.fault(VECTOR.GP, selectorError(selector));
  if (!code.present) return cpu.fault(VECTOR.NP, selectorError(selector));
  status = markAccessed(cpu, code);
  if (status !== STATUS.NEXT) return status;

  const inner = !code.isConforming && code.dpl < cpu.cpl;
  if (cpu.vm86 && (!inner || code.dpl !== 0)) return cpu.fault(VECTOR.GP, selectorError(selector));
  const disables = gateType === SYSTEM.INTERRUPT || gateType === SYSTEM.INTERRUPT16;
  const newCpl = inner ? code.dpl : cpu.cpl;
  const flags = savedFlags(cpu, vector, type);
  return long
    ? enterLong(cpu, selector, inner, newCpl, flags, disables, hasError, error, length)
    : enterLegacy(cpu, selector, gateType >= 8, inner, newCpl, flags, disables, hasError, error, length);
}

/** RFLAGS in the handler. SDM 3A 6.12.1.2 "Flag Usage By Exception- or Interrupt-Handler Procedure". */
function handlerFlags(cpu: Processor, disables: boolean): void {
  const cleared = RFLAGS.TF | RFLAGS.VM | RFLAGS.RF | RFLAGS.NT | (disables ? RFLAGS.IF : 0);
  cpu.set(S.RFLAGS, cpu.get(S.RFLAGS) & ~cleared);
}

/** SDM 3A 6.14 "Exception and Interrupt Handling in 64-bit Mode". */
function enterLong(
  cpu: Processor,
  selector: number,
  inner: boolean,
  newCpl: number,
  flags: number,
  disables: boolean,
  hasError: boolean,
  error: number,
  length: number,
): number {
  const ripLow = ((gate.low & 0xffff) | (gate.high & 0xffff_0000)) >>> 0;
  const ripHigh = gate.upper;
  if (!cpu.isCanonical(ripLow, ripHigh)) return cpu.fault(VECTOR.GP, 0);
  const ist = gate.high & 7;
  const oldSpLow = cpu.get(gpr(4));
  const oldSpHigh = cpu.get(gpr(4) + 4);
  let spLow = oldSpLow;
  let spHigh = oldSpHigh;
  if (ist !== 0 || inner) {
    const status = fetchStackPointer64(cpu, ist !== 0 ? 0x1c + 8 * ist : 4 + 8 * newCpl);
    if (status !== STATUS.NEXT) return status;
    spLow = cpu.low;
    spHigh = cpu.high;
  }
  frame.begin64((spLow & ~0xf) >>> 0, spHigh, newCpl);
  const oldSs = selectorOf(cpu, SEG.SS);
  frame.push(oldSs, 0, 8);
  frame.push(oldSpLow, oldSpHigh, 8);
  frame.push(flags, 0, 8);
  frame.push(selectorOf(cpu, SEG.CS), 0, 8);
  savedRip(cpu, length);
  frame.push(cpu.low, cpu.high, 8);
  if (hasError) frame.push(error, 0, 8);
  const status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  frame.write(cpu);

  loadSegment(cpu, SEG.CS, (selector & ~3) | newCpl, code);
  if (inner) loadNull(cpu, SEG.SS, newCpl, newCpl);
  cpu.set(S.CPL, newCpl);
  cpu.set64(gpr(4), frame.spLow, frame.spHigh);
  handlerFlags(cpu, disables);
  cpu.modeChanged();
  return cpu.goTo(ripLow, ripHigh);
}

/** SDM 3A 6.12.1 "Exception- or Interrupt-Handler Procedures"; from virtual-8086 mode 20.3.1. */
function enterLegacy(
  cpu: Processor,
  selector: number,
  is32: boolean,
  inner: boolean,
  newCpl: number,
  flags: number,
  disables: boolean,
  hasError: boolean,
  error: number,
  length: number,
): number {
  const bytes = is32 ? 4 : 2;
  const target = is32 ? ((gate.low & 0xffff) | (gate.high & 0xffff_0000)) >>> 0 : gate.low & 0xffff;
  const { vm86 } = cpu;
  let newSs = 0;
  if (inner) {
    let status = fetchStackSegmentFromTss(cpu, newCpl, stack);
    if (status !== STATUS.NEXT) return status;
    newSs = cpu.high;
    const newSp = cpu.low;
    status = markAccessed(cpu, stack);
    if (status !== STATUS.NEXT) return status;
    const width = stack.rights & AR.DB ? 4 : 2;
    frame.begin(
      width,
      stack.base,
      0,
      stack.limit,
      stack.rights,
      width === 2 ? newSp & 0xffff : newSp,
      0,
      newCpl,
      selectorError(newSs),
    );
    if (vm86) {
      frame.push(selectorOf(cpu, SEG.GS), 0, bytes);
      frame.push(selectorOf(cpu, SEG.FS), 0, bytes);
      frame.push(selectorOf(cpu, SEG.DS), 0, bytes);
      frame.push(selectorOf(cpu, SEG.ES), 0, bytes);
    }
    frame.push(selectorOf(cpu, SEG.SS), 0, bytes);
    frame.push(cpu.get(gpr(4)), 0, bytes);
  } else frame.beginCurrent(cpu);
  frame.push(flags, 0, bytes);
  frame.push(selectorOf(cpu, SEG.CS), 0, bytes);
  savedRip(cpu, length);
  frame.push(cpu.low, 0, bytes);
  if (hasError) frame.push(error, 0, bytes);
  const status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  if (target > code.limit) return cpu.fault(VECTOR.GP, 0);
  frame.write(cpu);

  if (vm86) {
    for (const seg of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) loadNull(cpu, seg, 0);
  }
  if (inner) loadSegment(cpu, SEG.SS, newSs, stack);
  setStackPointer(cpu, frame.width, frame.spLow, 0);
  loadSegment(cpu, SEG.CS, (selector & ~3) | newCpl, code);
  cpu.set(S.CPL, newCpl);
  handlerFlags(cpu, disables);
  cpu.modeChanged();
  return cpu.goTo(target, 0);
}

/** Real-address mode: SDM 3A 20.1.4 "Interrupt and Exception Handling". */
function enterReal(cpu: Processor, vector: number, length: number): number {
  if (4 * vector + 3 > cpu.get(S.IDTR_LIMIT)) return cpu.fault(VECTOR.GP, 0);
  if (!readTable(cpu, S.IDTR_BASE, 4 * vector, 4)) return cpu.accessStatus;
  return throughVector(cpu, cpu.low & 0xffff, cpu.low >>> 16, length, cpu.rflags());
}

/** Pushes FLAGS, CS, IP of 16 bits and goes to a real-mode vector; `flags` are the ones pushed. */
export function throughVector(cpu: Processor, ip: number, cs: number, length: number, flags: number): number {
  frame.beginCurrent(cpu);
  frame.push(flags, 0, 2);
  frame.push(selectorOf(cpu, SEG.CS), 0, 2);
  savedRip(cpu, length);
  frame.push(cpu.low, 0, 2);
  const status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  if (ip > cpu.get(segment(SEG.CS) + SEG.LIMIT)) return cpu.fault(VECTOR.GP, 0);
  frame.write(cpu);
  setStackPointer(cpu, frame.width, frame.spLow, 0);
  const vm86 = cpu.vm86;
  setSegment(
    cpu,
    SEG.CS,
    cs,
    (cs << 4) >>> 0,
    0,
    cpu.get(segment(SEG.CS) + SEG.LIMIT),
    vm86 ? 0xf3 : (rightsOf(cpu, SEG.CS) & 0xf000) | 0x9b,
  );
  cpu.set(S.RFLAGS, cpu.get(S.RFLAGS) & ~(RFLAGS.IF | RFLAGS.TF | RFLAGS.AC | RFLAGS.RF));
  cpu.modeChanged();
  return cpu.goTo(ip, 0);
}
