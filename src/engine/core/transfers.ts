import { VECTOR } from '../../arch/exceptions.ts';
import { DR7_ENABLES, RFLAGS, RFLAGS_IOPL } from '../../arch/registers.ts';
import { AR } from './address.ts';
import type { Helper } from './helpers.ts';
import { S, SEG, STATUS } from './layout.ts';
import { PENDING } from './pending-debug.ts';
import type { Processor } from './processor.ts';
import {
  checkStackSegment,
  Descriptor,
  dropInnerSegments,
  fetchDescriptor,
  isNull,
  loadNull,
  loadSegment,
  markAccessed,
  rightsOf,
  selectorError,
  setSegment,
} from './segments.ts';
import { dropBytes, peekValue, setStackPointer, topOfStack } from './stack.ts';
import { switchTaskByReturn } from './tasks.ts';

/**
 * Far returns: RET far and IRET in every mode.
 *
 * Owns    the checks of a return's code and stack segment, and what of RFLAGS IRET may change.
 *
 * Source  SDM 2A "IRET/IRETD/IRETQ—Interrupt Return", 2B "RET—Return From Procedure", "Operation";
 *         SDM 3A 5.8.6 "Returning from a Called Procedure", 20.2 "Virtual-8086 Mode".
 */

const code = new Descriptor();
const stack = new Descriptor();

/** Popped values of the return under way. */
let ipLow = 0;
let ipHigh = 0;
let csSelector = 0;
let flags = 0;
let spLow = 0;
let spHigh = 0;
let ssSelector = 0;

const pop = (cpu: Processor, slot: number, bytes: number): boolean => peekValue(cpu, slot * bytes, bytes);

/** RIP and CS, and `slots - 2` more of which the third is RFLAGS. */
function popFrame(cpu: Processor, bytes: number, withFlags: boolean): boolean {
  if (!pop(cpu, 0, bytes)) return false;
  ipLow = cpu.low;
  ipHigh = cpu.high;
  if (!pop(cpu, 1, bytes)) return false;
  csSelector = cpu.low & 0xffff;
  if (!withFlags) return true;
  if (!pop(cpu, 2, bytes)) return false;
  flags = cpu.low;
  return true;
}

/** The outer stack pointer, `offset` bytes up. */
function popStack(cpu: Processor, offset: number, bytes: number): boolean {
  if (!peekValue(cpu, offset, bytes)) return false;
  spLow = cpu.low;
  spHigh = cpu.high;
  if (!peekValue(cpu, offset + bytes, bytes)) return false;
  ssSelector = cpu.low & 0xffff;
  return true;
}

/** RIP, CS, RFLAGS, RSP, SS at a host address. */
function readFrame64(cpu: Processor, host: number): void {
  cpu.readHost(host, 8);
  ipLow = cpu.low;
  ipHigh = cpu.high;
  cpu.readHost(host + 8, 8);
  csSelector = cpu.low & 0xffff;
  cpu.readHost(host + 16, 8);
  flags = cpu.low;
  cpu.readHost(host + 24, 8);
  spLow = cpu.low;
  spHigh = cpu.high;
  cpu.readHost(host + 32, 8);
  ssSelector = cpu.low & 0xffff;
}

/** Checks the code segment that a return names; its descriptor comes to `code`. */
function checkReturnCode(cpu: Processor): number {
  if (isNull(csSelector)) return cpu.fault(VECTOR.GP, 0);
  const status = fetchDescriptor(cpu, code, csSelector);
  if (status !== STATUS.NEXT) return status;
  const rpl = csSelector & 3;
  const legal =
    code.isCode &&
    rpl >= cpu.cpl &&
    (code.isConforming ? code.dpl <= rpl : code.dpl === rpl) &&
    !(cpu.ia32e && (code.rights & (AR.L | AR.DB)) === (AR.L | AR.DB));
  if (!legal) return cpu.fault(VECTOR.GP, selectorError(csSelector));
  if (!code.present) return cpu.fault(VECTOR.NP, selectorError(csSelector));
  return STATUS.NEXT;
}

const isLongCode = (cpu: Processor): boolean => cpu.ia32e && (code.rights & AR.L) !== 0;

/** Is the popped instruction pointer inside the segment in `code`? */
function checkReturnTarget(cpu: Processor): number {
  const legal = isLongCode(cpu) ? cpu.isCanonical(ipLow, ipHigh) : ipLow <= code.limit && ipHigh === 0;
  return legal ? STATUS.NEXT : cpu.fault(VECTOR.GP, 0);
}

/** Checks the stack segment of a return to `rpl`; the null selector is legal for 64-bit code above level 3. */
function checkReturnStack(cpu: Processor, rpl: number): number {
  if (isNull(ssSelector)) {
    return isLongCode(cpu) && rpl !== 3 && (ssSelector & 3) === rpl ? STATUS.NEXT : cpu.fault(VECTOR.GP, 0);
  }
  const status = checkStackSegment(cpu, stack, ssSelector, rpl);
  return status === STATUS.NEXT ? markAccessed(cpu, stack) : status;
}

/** Loads the popped CS (and SS, if `withStack`) and goes there. Everything is checked. */
function completeReturn(cpu: Processor, withStack: boolean, drop: number): number {
  const rpl = csSelector & 3;
  const outer = rpl > cpu.cpl;
  if (withStack) {
    if (isNull(ssSelector)) loadNull(cpu, SEG.SS, ssSelector, rpl);
    else loadSegment(cpu, SEG.SS, ssSelector, stack);
    const width = isLongCode(cpu) ? 8 : rightsOf(cpu, SEG.SS) & AR.DB ? 4 : 2;
    setStackPointer(cpu, width, spLow, spHigh);
  } else dropBytes(cpu, drop);
  loadSegment(cpu, SEG.CS, csSelector, code);
  cpu.set(S.CPL, rpl);
  if (outer) dropInnerSegments(cpu, rpl);
  cpu.modeChanged();
  return cpu.goTo(ipLow, cpu.long ? ipHigh : 0);
}

// ---- RET far ---------------------------------------------------------------------------------------------------------

/** RET far, dropping `extra` bytes of parameters. */
export function returnFar(cpu: Processor, record: number, extra: number): number {
  const bytes = cpu.operandSize(record);
  if (!popFrame(cpu, bytes, false)) return cpu.accessStatus;
  if (!cpu.protectedMode || cpu.vm86) {
    if (ipLow > limitOfCode(cpu)) return cpu.fault(VECTOR.GP, 0);
    dropBytes(cpu, 2 * bytes + extra);
    loadRealCode(cpu, csSelector);
    cpu.modeChanged();
    return cpu.goTo(ipLow, 0);
  }
  let status = checkReturnCode(cpu);
  if (status !== STATUS.NEXT) return status;
  const outer = (csSelector & 3) > cpu.cpl;
  if (outer) {
    if (!popStack(cpu, 2 * bytes + extra, bytes)) return cpu.accessStatus;
    status = checkReturnStack(cpu, csSelector & 3);
    if (status !== STATUS.NEXT) return status;
  }
  status = checkReturnTarget(cpu);
  if (status === STATUS.NEXT) status = markAccessed(cpu, code);
  if (status !== STATUS.NEXT) return status;
  status = completeReturn(cpu, outer, 2 * bytes + extra);
  if (outer && extra !== 0) dropBytes(cpu, extra);
  return status;
}

const limitOfCode = (cpu: Processor): number => cpu.get(S.SEGMENTS + SEG.BYTES * SEG.CS + SEG.LIMIT);

/** CS in real-address and virtual-8086 mode: the limit stays. */
export function loadRealCode(cpu: Processor, selector: number): void {
  const rights = cpu.vm86 ? 0xf3 : (rightsOf(cpu, SEG.CS) & 0xf000) | 0x9b;
  setSegment(cpu, SEG.CS, selector, (selector << 4) >>> 0, 0, cpu.vm86 ? 0xffff : limitOfCode(cpu), rights);
}

// ---- IRET ------------------------------------------------------------------------------------------------------------

/** Flags that IRET of any size and level changes; IF, IOPL, VIF, VIP, VM depend. */
const IRET16 =
  RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.TF | RFLAGS.DF | RFLAGS.OF | RFLAGS.NT;
export const IRET32 = IRET16 | RFLAGS.RF | RFLAGS.AC | RFLAGS.ID;

/**
 * Loads RFLAGS from a popped image. RF is kept only while breakpoints are armed: nobody else can see it, and the next
 * instruction would have to clear it.
 */
export function loadFlags(cpu: Processor, image: number, mask: number): void {
  const kept = cpu.get(S.DR + 56) & DR7_ENABLES ? mask : mask & ~RFLAGS.RF;
  cpu.setRflags((cpu.rflags() & ~mask) | (image & kept));
  if (image & kept & RFLAGS.RF) cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) | PENDING.RF_LOADED);
}

function returnFlagsMask(cpu: Processor, bytes: number): number {
  let mask = bytes === 2 ? IRET16 : IRET32;
  if (cpu.cpl <= cpu.iopl) mask |= RFLAGS.IF;
  if (cpu.cpl === 0) mask |= RFLAGS_IOPL | (bytes === 2 ? 0 : RFLAGS.VIF | RFLAGS.VIP);
  return mask;
}

export const iret: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const status = returnFromInterrupt(cpu, record, bytes);
  // SDM 3A 6.7.1 "Handling Multiple NMIs": an IRET unblocks NMIs even if it faults
  if (status !== STATUS.EXIT_BEFORE && cpu.get(S.NMI_BLOCKED) !== 0) {
    cpu.set(S.NMI_BLOCKED, 0);
    if (status === STATUS.FAULT) cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) | PENDING.NMI_UNBLOCKED);
  }
  return status;
};

function returnFromInterrupt(cpu: Processor, record: number, bytes: number): number {
  if (!cpu.protectedMode) return iretReal(cpu, bytes);
  if (cpu.vm86) {
    return cpu.iopl === 3 ? iretReal(cpu, bytes) : cpu.fault(VECTOR.GP, 0);
  }
  if (cpu.get(S.RFLAGS) & RFLAGS.NT) return cpu.ia32e ? cpu.fault(VECTOR.GP, 0) : switchTaskByReturn(cpu, record);
  // 64-bit mode pops five values whatever the levels are; where they lie is looked up once
  const top = bytes === 8 ? topOfStack(cpu, 40) : 0;
  if (top !== 0) readFrame64(cpu, top);
  else if (!popFrame(cpu, bytes, true)) return cpu.accessStatus;
  if (flags & RFLAGS.VM && bytes === 4 && cpu.cpl === 0 && !cpu.ia32e) return iretToVm86(cpu);
  let status = checkReturnCode(cpu);
  if (status !== STATUS.NEXT) return status;
  const withStack = (csSelector & 3) > cpu.cpl || cpu.long;
  if (withStack) {
    if (top === 0 && !popStack(cpu, 3 * bytes, bytes)) return cpu.accessStatus;
    status = checkReturnStack(cpu, csSelector & 3);
    if (status !== STATUS.NEXT) return status;
  }
  status = checkReturnTarget(cpu);
  if (status === STATUS.NEXT) status = markAccessed(cpu, code);
  if (status !== STATUS.NEXT) return status;
  loadFlags(cpu, flags, returnFlagsMask(cpu, bytes));
  return completeReturn(cpu, withStack, 3 * bytes);
}

function iretReal(cpu: Processor, bytes: number): number {
  if (!popFrame(cpu, bytes, true)) return cpu.accessStatus;
  if (ipLow > limitOfCode(cpu)) return cpu.fault(VECTOR.GP, 0);
  dropBytes(cpu, 3 * bytes);
  let mask = (bytes === 2 ? IRET16 : IRET32) | RFLAGS.IF;
  // In virtual-8086 mode IOPL, VIF and VIP stay, and so does VM
  if (!cpu.vm86) mask |= RFLAGS_IOPL | (bytes === 2 ? 0 : RFLAGS.VIF | RFLAGS.VIP);
  loadRealCode(cpu, csSelector);
  loadFlags(cpu, flags, mask);
  cpu.modeChanged();
  return cpu.goTo(ipLow, 0);
}

const VM86_SEGMENTS = [SEG.ES, SEG.DS, SEG.FS, SEG.GS] as const;
const vm86Selectors = new Uint16Array(4);

/** SDM 2A IRET, "RETURN-TO-VIRTUAL-8086-MODE". */
function iretToVm86(cpu: Processor): number {
  if (!popStack(cpu, 12, 4)) return cpu.accessStatus;
  for (let i = 0; i < 4; i += 1) {
    if (!peekValue(cpu, 20 + 4 * i, 4)) return cpu.accessStatus;
    vm86Selectors[i] = cpu.low;
  }
  if (ipLow > 0xffff) return cpu.fault(VECTOR.GP, 0);
  loadFlags(cpu, flags, IRET32 | RFLAGS.IF | RFLAGS_IOPL | RFLAGS.VM | RFLAGS.VIF | RFLAGS.VIP);
  setSegment(cpu, SEG.CS, csSelector, csSelector << 4, 0, 0xffff, 0xf3);
  setSegment(cpu, SEG.SS, ssSelector, ssSelector << 4, 0, 0xffff, 0xf3);
  for (let i = 0; i < 4; i += 1) {
    setSegment(cpu, VM86_SEGMENTS[i]!, vm86Selectors[i]!, vm86Selectors[i]! << 4, 0, 0xffff, 0xf3);
  }
  setStackPointer(cpu, 4, spLow, 0);
  cpu.set(S.CPL, 3);
  cpu.modeChanged();
  return cpu.goTo(ipLow, 0);
}
