import { VECTOR } from '../../arch/exceptions.ts';
import { CR0, DR6, RFLAGS } from '../../arch/registers.ts';
import { ACCESS } from '../paging/access.ts';
import { AR } from './address.ts';
import { CR_ACCESS, checkTaskCr3, setCr3 } from './control-registers.ts';
import { INTERCEPT } from './cpu.ts';
import { deliverFault } from './events.ts';
import { EXIT, X } from './exits.ts';
import { ALLOW, gpr, REC, S, SEG, STATUS, segment, TASK } from './layout.ts';
import type { Processor } from './processor.ts';
import {
  checkDataSegment,
  checkStackSegment,
  Descriptor,
  fetchDescriptor,
  isNull,
  loadLdtr,
  loadNull,
  loadSegment,
  markAccessed,
  rightsOf,
  SYSTEM,
  selectorError,
  selectorOf,
  setSegment,
  writeTypeByte,
} from './segments.ts';
import { codeTargetIsLegal, pushValue } from './stack.ts';

/**
 * Hardware task switches, as 32-bit protected mode has them.
 *
 * Owns    the two TSS images, busy bits, NT and the link, and the order: everything that can be refused in the old
 *         task, then the save, then the load; a fault after that is the new task's. PDPTEs that could not be loaded are
 *         refused in the old one: 7.3 says of CR3 that "an attempt will be made to handle the error in the prior
 *         execution environment". A CR3 that does not change is not loaded: 4.4.1, 4.10.4.1.
 * Knows   that L0 may have to be asked in the middle of the load, by an exit: for a page that its tables do not have yet, or
 *         for CR3. The old task's instruction is over then, and S.TASK says what is left to do: `finishTask`, before anything
 *         else runs. Up to the load everything can be done again.
 * Never   runs in IA-32e mode.
 *
 * Source  SDM 3A 7.3 "Task Switching", Tables 7-1 and 7-2; 7.2 "Task Management Data Structures";
 *         SDM 3C 25.4.2 "Treatment of Task Switches", Table 27-2 "Exit Qualification for Task Switch".
 */

/** Who asks. The numbers are bits 31:30 of the exit qualification. */
export const TASK_SOURCE = { CALL: 0, IRET: 1, JMP: 2, GATE: 3 } as const;

/** The event that goes through a task gate. */
export interface TaskEvent {
  readonly type: number;
  readonly vector: number;
  readonly hasError: boolean;
  readonly error: number;
  /** Bytes of the instruction, for software events; else 0. */
  readonly length: number;
  /** The saved EFLAGS have RF set. */
  readonly setsRf: boolean;
}

const tss = new Descriptor();
const scratch = new Descriptor();

/** Offsets in a 32-bit TSS. SDM 3A Figure 7-2. */
const TSS32 = { LINK: 0, CR3: 28, EIP: 32, EFLAGS: 36, EAX: 40, ES: 72, LDT: 96, TRAP: 100, LIMIT: 103 } as const;
/** Offsets in a 16-bit TSS. SDM 3A Figure 7-10. */
const TSS16 = { LINK: 0, IP: 14, FLAGS: 16, AX: 18, ES: 34, LDT: 42, LIMIT: 43 } as const;

/** Checks the selector and descriptor of the task to go to. `busy`: an IRET wants a busy one, others an available one. */
function checkTss(cpu: Processor, selector: number, source: number): number {
  const vector = source === TASK_SOURCE.IRET ? VECTOR.TS : VECTOR.GP;
  const error = selectorError(selector);
  if (selector & 4 || isNull(selector)) return cpu.fault(vector, error);
  const status = fetchDescriptor(cpu, tss, selector, vector);
  if (status !== STATUS.NEXT) return status;
  const wanted = source === TASK_SOURCE.IRET ? SYSTEM.TSS16_BUSY : SYSTEM.TSS16;
  if (tss.isSegment || (tss.type & ~8) !== wanted) return cpu.fault(vector, error);
  if (!tss.present) return cpu.fault(VECTOR.NP, error);
  if (tss.limit < (tss.type & 8 ? TSS32.LIMIT : TSS16.LIMIT)) return cpu.fault(VECTOR.TS, error);
  return STATUS.NEXT;
}

/** Far JMP or CALL to a TSS or through a task gate; the selector's privilege has been checked. */
export function switchTaskTo(cpu: Processor, record: number, selector: number, source: 0 | 2): number {
  cpu.nextRip(record);
  return switchTask(cpu, selector, source, cpu.low, 0, cpu.u8[record + REC.LENGTH]!, undefined);
}

/** IRET with NT set: back to the task that the link names. */
export function switchTaskByReturn(cpu: Processor, record: number): number {
  const link = cpu.get(segment(SEG.TR) + SEG.BASE);
  if (!cpu.read(link, 0, 2, ACCESS.IMPLICIT)) return cpu.accessStatus;
  const selector = cpu.low;
  cpu.nextRip(record);
  return switchTask(cpu, selector, TASK_SOURCE.IRET, cpu.low, RFLAGS.NT, cpu.u8[record + REC.LENGTH]!, undefined);
}

/** A task gate in the IDT; its type and privilege have been checked. */
export function switchTaskThroughGate(cpu: Processor, selector: number, event: TaskEvent): number {
  const eip = (cpu.get(S.RIP) + event.length) >>> 0;
  return switchTask(cpu, selector, TASK_SOURCE.GATE, eip, 0, event.length, event);
}

function switchTask(
  cpu: Processor,
  selector: number,
  source: number,
  eip: number,
  clearedFlags: number,
  length: number,
  event: TaskEvent | undefined,
): number {
  let status = checkTss(cpu, selector, source);
  if (status !== STATUS.NEXT) return status;
  if (cpu.vcpu.intercepts.instructions & INTERCEPT.TASK_SWITCH && !(cpu.get(S.ALLOW) & ALLOW.INTERCEPT)) {
    cpu.set(X.REASON, EXIT.TASK_SWITCH);
    cpu.set(X.LENGTH, length);
    cpu.set64(X.QUALIFICATION, (selector | (source << 30)) >>> 0, 0);
    cpu.set(X.VECTORING, 0);
    cpu.set(X.LINEAR_VALID, 0);
    return STATUS.EXIT_BEFORE;
  }

  const oldTr = segment(SEG.TR);
  const oldIs32 = (rightsOf(cpu, SEG.TR) & 8) !== 0;
  const oldBase = cpu.get(oldTr + SEG.BASE);
  const oldSelector = selectorOf(cpu, SEG.TR);
  const newIs32 = (tss.type & 8) !== 0;
  const newBase = tss.base;
  const size = newIs32 ? TSS32.LIMIT + 1 : TSS16.LIMIT + 1;
  const nests = source === TASK_SOURCE.CALL || source === TASK_SOURCE.GATE;

  // Everything that the switch touches must be there: the old task takes these faults
  const oldSize = oldIs32 ? TSS32.ES + 24 : TSS16.ES + 8;
  if (!cpu.probeWrite(oldBase, 0, oldSize, ACCESS.IMPLICIT)) return cpu.accessStatus;
  if (!cpu.probeWrite(newBase, 0, nests ? 2 : 1, nests ? ACCESS.IMPLICIT : ACCESS.IMPLICIT)) return cpu.accessStatus;
  if (!readImage(cpu, newBase, size)) return cpu.accessStatus;
  const image = newIs32 ? readTask32() : readTask16();
  const changesCr3 = newIs32 && (cpu.cr0 & CR0.PG) !== 0 && image.cr3 !== cpu.get(S.CR3);
  if (changesCr3) {
    status = checkTaskCr3(cpu, image.cr3);
    if (status !== STATUS.NEXT) return status;
  }

  // The old task's descriptor: JMP and IRET free it
  if (source === TASK_SOURCE.JMP || source === TASK_SOURCE.IRET) {
    status = fetchDescriptor(cpu, scratch, oldSelector, VECTOR.TS);
    if (status !== STATUS.NEXT) return status;
    scratch.high &= ~0x200;
    status = writeTypeByte(cpu, scratch);
    if (status !== STATUS.NEXT) return status;
  }

  let flags = (cpu.rflags() & ~clearedFlags) >>> 0;
  if (event?.setsRf) flags = (flags | RFLAGS.RF) >>> 0;
  saveTask(cpu, oldBase, oldIs32, eip, flags);
  if (nests) cpu.write(newBase, 0, 2, oldSelector, 0, ACCESS.IMPLICIT);
  if (source !== TASK_SOURCE.IRET) {
    tss.high |= 0x200;
    status = writeTypeByte(cpu, tss);
    if (status !== STATUS.NEXT) return status;
  }
  loadSegment(cpu, SEG.TR, selector, tss);
  cpu.set(S.CR0, cpu.cr0 | CR0.TS);

  beginTask(cpu, image, newIs32, nests, changesCr3, event);
  status = finishTask(cpu);
  if (status !== STATUS.FAULT || event !== undefined) return status;
  // The new task takes its faults at its own RIP; on the way through a gate `deliver` does that
  return deliverFault(cpu) === STATUS.JUMP ? STATUS.JUMP : STATUS.EXIT;
}

// ---- the images ------------------------------------------------------------------------------------------------------

const bytes = new Uint8Array(TSS32.LIMIT + 1);
const part = new Uint8Array(64);

function readImage(cpu: Processor, base: number, size: number): boolean {
  for (let done = 0; done < size; done += 64) {
    const count = Math.min(64, size - done);
    if (!cpu.copyFrom((base + done) >>> 0, 0, count, part, ACCESS.IMPLICIT)) return false;
    bytes.set(part.subarray(0, count), done);
  }
  return true;
}

const at16 = (offset: number): number => bytes[offset]! | (bytes[offset + 1]! << 8);
const at32 = (offset: number): number => (at16(offset) | (at16(offset + 2) << 16)) >>> 0;

/** A task's registers as its TSS has them. */
interface TaskImage {
  cr3: number;
  eip: number;
  flags: number;
  readonly registers: Uint32Array;
  /** ES CS SS DS FS GS */
  readonly selectors: Uint16Array;
  ldt: number;
  trap: boolean;
}

const image: TaskImage = {
  cr3: 0,
  eip: 0,
  flags: 0,
  registers: new Uint32Array(8),
  selectors: new Uint16Array(6),
  ldt: 0,
  trap: false,
};

function readTask32(): TaskImage {
  image.cr3 = at32(TSS32.CR3);
  image.eip = at32(TSS32.EIP);
  image.flags = at32(TSS32.EFLAGS);
  for (let i = 0; i < 8; i += 1) image.registers[i] = at32(TSS32.EAX + 4 * i);
  for (let i = 0; i < 6; i += 1) image.selectors[i] = at16(TSS32.ES + 4 * i);
  image.ldt = at16(TSS32.LDT);
  image.trap = (bytes[TSS32.TRAP]! & 1) !== 0;
  return image;
}

function readTask16(): TaskImage {
  image.eip = at16(TSS16.IP);
  image.flags = at16(TSS16.FLAGS);
  for (let i = 0; i < 8; i += 1) image.registers[i] = (0xffff_0000 | at16(TSS16.AX + 2 * i)) >>> 0;
  for (let i = 0; i < 4; i += 1) image.selectors[i] = at16(TSS16.ES + 2 * i);
  image.selectors[SEG.FS] = 0;
  image.selectors[SEG.GS] = 0;
  image.ldt = at16(TSS16.LDT);
  image.trap = false;
  return image;
}

/** Writes the dynamic fields of the old task. Its pages have been probed. */
function saveTask(cpu: Processor, base: number, is32: boolean, eip: number, flags: number): void {
  const put = (offset: number, size: number, value: number): void => {
    cpu.write((base + offset) >>> 0, 0, size, value, 0, ACCESS.IMPLICIT);
  };
  if (is32) {
    put(TSS32.EIP, 4, eip);
    put(TSS32.EFLAGS, 4, flags);
    for (let i = 0; i < 8; i += 1) put(TSS32.EAX + 4 * i, 4, cpu.get(gpr(i)));
    for (let i = 0; i < 6; i += 1) put(TSS32.ES + 4 * i, 2, selectorOf(cpu, i));
  } else {
    put(TSS16.IP, 2, eip);
    put(TSS16.FLAGS, 2, flags);
    for (let i = 0; i < 8; i += 1) put(TSS16.AX + 2 * i, 2, cpu.get(gpr(i)));
    for (let i = 0; i < 4; i += 1) put(TSS16.ES + 2 * i, 2, selectorOf(cpu, i));
  }
}

/** Makes the new task the running one, without what memory must be asked for. SDM 3A 7.3, step 11. */
function beginTask(
  cpu: Processor,
  task: TaskImage,
  is32: boolean,
  nests: boolean,
  changesCr3: boolean,
  event: TaskEvent | undefined,
): void {
  let flags = task.flags;
  if (nests) flags |= RFLAGS.NT;
  if (!is32) flags &= 0xffff;
  cpu.setRflags(flags);
  for (let i = 0; i < 8; i += 1) cpu.set64(gpr(i), task.registers[i]!, 0);
  cpu.set64(S.RIP, task.eip, 0);
  const cpl = flags & RFLAGS.VM ? 3 : task.selectors[SEG.CS]! & 3;
  cpu.set(S.CPL, cpl);
  // Selectors first, hidden parts unusable: that is what a fault in the middle leaves
  for (let seg = 0; seg < 6; seg += 1) loadNull(cpu, seg, task.selectors[seg]!, cpl);
  setSegment(cpu, SEG.LDTR, task.ldt, 0, 0, 0, AR.UNUSABLE | SYSTEM.LDT);
  const dr7 = S.DR + 56;
  cpu.set(dr7, cpu.get(dr7) & ~0x55);
  let pending = TASK.PENDING | (task.trap ? TASK.TRAPS : 0);
  if (changesCr3) pending |= TASK.LOADS_CR3;
  if (event) pending |= TASK.BY_EVENT | (event.hasError ? TASK.ERROR : 0) | (event.type << 8) | event.vector;
  cpu.set(S.TASK, pending >>> 0);
  cpu.set(S.TASK_ERROR, event ? event.error : 0);
  cpu.set(S.TASK_CR3, task.cr3);
}

/**
 * What is left of a task switch: CR3, LDTR, the segments, the event's error code. SDM 3A 7.3, steps 11 to 15.
 *
 * @returns  JUMP    done
 *           FAULT   S.FAULT_*, which is the new task's: with what is loaded so far, and the other segments unusable
 *           EXIT    L0 is asked for something; then once more
 */
export function finishTask(cpu: Processor): number {
  const status = loadTask(cpu, cpu.get(S.TASK));
  if (status !== STATUS.EXIT_BEFORE) cpu.set(S.TASK, 0);
  else cpu.modeChanged();
  return status === STATUS.EXIT_BEFORE ? STATUS.EXIT : status;
}

function loadTask(cpu: Processor, pending: number): number {
  let status = pending & TASK.LOADS_CR3 ? loadTaskCr3(cpu, pending) : STATUS.NEXT;
  if (pending & TASK.CR3_REFUSED) status = cpu.fault(VECTOR.GP, 0);
  const vm86 = (cpu.get(S.RFLAGS) & RFLAGS.VM) !== 0;
  if (status === STATUS.NEXT) status = loadTaskLdt(cpu, selectorOf(cpu, SEG.LDTR));
  if (status === STATUS.NEXT) status = vm86 ? loadVm86Segments(cpu) : loadTaskSegments(cpu);
  cpu.modeChanged();
  if (status !== STATUS.NEXT) return status;
  const eip = cpu.get(S.RIP);
  if (!codeTargetIsLegal(cpu, eip, 0)) return cpu.fault(VECTOR.GP, 0);
  const errorBytes = rightsOf(cpu, SEG.TR) & 8 ? 4 : 2;
  if (pending & TASK.ERROR && !pushValue(cpu, cpu.get(S.TASK_ERROR), 0, errorBytes)) {
    return cpu.accessStatus;
  }
  if (pending & TASK.TRAPS) cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) | DR6.BT);
  return cpu.goTo(eip, 0);
}

function loadTaskCr3(cpu: Processor, pending: number): number {
  const cr3 = cpu.get(S.TASK_CR3);
  const watched = (cpu.vcpu.intercepts.crAccess & CR_ACCESS.CR3_LOAD) !== 0;
  if (watched) {
    cpu.set(X.REASON, EXIT.TASK_CR3);
    cpu.set64(X.QUALIFICATION, cr3, 0);
    cpu.set(X.VECTORING, 0);
    cpu.set(X.LINEAR_VALID, 0);
  }
  const status = watched ? STATUS.EXIT_BEFORE : setCr3(cpu, cr3, 0);
  if (watched || status === STATUS.NEXT) cpu.set(S.TASK, (pending & ~TASK.LOADS_CR3) >>> 0);
  return status;
}

function loadTaskLdt(cpu: Processor, selector: number): number {
  const status = loadLdtr(cpu, selector);
  if (status !== STATUS.FAULT || cpu.get(S.FAULT_VECTOR) === VECTOR.PF) return status;
  return cpu.fault(VECTOR.TS, selectorError(selector));
}

function loadVm86Segments(cpu: Processor): number {
  for (let seg = 0; seg < 6; seg += 1) {
    const selector = selectorOf(cpu, seg);
    setSegment(cpu, seg, selector, selector << 4, 0, 0xffff, 0xf3);
  }
  return STATUS.NEXT;
}

function loadTaskSegments(cpu: Processor): number {
  const { cpl } = cpu;
  const ss = selectorOf(cpu, SEG.SS);
  if (isNull(ss)) return cpu.fault(VECTOR.TS, 0);
  let status = checkStackSegment(cpu, scratch, ss, cpl, VECTOR.TS);
  if (status === STATUS.NEXT) status = markAccessed(cpu, scratch);
  if (status !== STATUS.NEXT) return status;
  loadSegment(cpu, SEG.SS, ss, scratch);

  const cs = selectorOf(cpu, SEG.CS);
  if (isNull(cs)) return cpu.fault(VECTOR.TS, 0);
  status = fetchDescriptor(cpu, scratch, cs, VECTOR.TS);
  if (status !== STATUS.NEXT) return status;
  const legal = scratch.isCode && (scratch.isConforming ? scratch.dpl <= cpl : scratch.dpl === cpl);
  if (!legal) return cpu.fault(VECTOR.TS, selectorError(cs));
  if (!scratch.present) return cpu.fault(VECTOR.NP, selectorError(cs));
  status = markAccessed(cpu, scratch);
  if (status !== STATUS.NEXT) return status;
  loadSegment(cpu, SEG.CS, cs, scratch);

  for (const seg of [SEG.DS, SEG.ES, SEG.FS, SEG.GS]) {
    const selector = selectorOf(cpu, seg);
    if (isNull(selector)) continue;
    status = checkDataSegment(cpu, scratch, selector, cpl, VECTOR.TS);
    if (status === STATUS.NEXT) status = markAccessed(cpu, scratch);
    if (status !== STATUS.NEXT) return status;
    loadSegment(cpu, seg, selector, scratch);
  }
  return STATUS.NEXT;
}
