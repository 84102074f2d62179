import { VECTOR } from '../../arch/exceptions.ts';
import {
  CR4,
  DR6,
  DR6_FIXED1,
  DR6_WRITABLE,
  DR7,
  DR7_ENABLES,
  DR7_FIXED0,
  DR7_RW,
  dr7Length,
  dr7ReadWrite,
  RFLAGS,
} from '../../arch/registers.ts';
import { INTERCEPT } from './cpu.ts';
import { raiseDebug } from './events.ts';
import { EXIT } from './exits.ts';
import { SHADOW, shadowAt } from './flags.ts';
import type { Helper } from './helpers.ts';
import { intercepts } from './intercepts.ts';
import { gpr, S, SEG, STATUS, segment } from './layout.ts';
import { regField, rmField } from './operands.ts';
import { PENDING } from './pending-debug.ts';
import type { Processor } from './processor.ts';

/**
 * Debug registers, breakpoints and single-stepping.
 *
 * Owns    DR0–DR7 and S.PENDING_DEBUG. The run loop asks `debugArmed`; if so it runs one instruction at a time between
 *         `debugBefore` and `debugAfter`.
 *
 * Source  SDM 3B 17.2 "Debug Registers", 17.3 "Debug Exceptions"; SDM 2B "MOV—Move to/from Debug Registers".
 */

const DR = (number: number): number => S.DR + 8 * number;
const DR6_AT = DR(6);
const DR7_AT = DR(7);

/** Is there anything that has to be looked at around each instruction? */
export function debugArmed(cpu: Processor): boolean {
  return (
    (cpu.get(S.RFLAGS) & RFLAGS.TF) !== 0 ||
    (cpu.get(DR7_AT) & DR7_ENABLES) !== 0 ||
    (cpu.get(S.PENDING_DEBUG) & PENDING.DR6_BITS) !== 0
  );
}

const isEnabled = (dr7: number, n: number): boolean => ((dr7 >>> (2 * n)) & 3) !== 0;

/** Instructions retired at this boundary. */
const now = (cpu: Processor): number => cpu.vcpu.instructions + cpu.vcpu.slice - cpu.i32[S.BUDGET >>> 2]!;

/**
 * Instruction breakpoints at the instruction about to run. NEXT: run it; else the status of the #DB.
 * Suppressed by RF, and right after a MOV or POP to SS: SDM 3B 17.3.1.1.
 */
export function debugBefore(cpu: Processor): number {
  const due = cpu.get(S.PENDING_DEBUG) & PENDING.DR6_BITS;
  cpu.set(S.PENDING_DEBUG, due);
  watchData(cpu);
  if (shadowAt(cpu, now(cpu)) === SHADOW.MOV_SS) return STATUS.NEXT;
  if (due !== 0) {
    // Of the instruction before, or loaded by L0
    cpu.set(S.PENDING_DEBUG, 0);
    return raiseDebug(cpu, due);
  }
  const dr7 = cpu.get(DR7_AT);
  if (!(dr7 & DR7_ENABLES) || cpu.get(S.RFLAGS) & RFLAGS.RF) return STATUS.NEXT;
  const base = segment(SEG.CS) + SEG.BASE;
  const low = cpu.long ? cpu.get(S.RIP) : (cpu.get(S.RIP) + cpu.get(base)) >>> 0;
  const high = cpu.long ? cpu.get(S.RIP + 4) : 0;
  let hit = 0;
  for (let n = 0; n < 4; n += 1) {
    if (!isEnabled(dr7, n) || dr7ReadWrite(dr7, n) !== DR7_RW.EXECUTE || dr7Length(dr7, n) !== 0) continue;
    if (cpu.get(DR(n)) === low && cpu.get(DR(n) + 4) === high) hit |= 1 << n;
  }
  return hit === 0 ? STATUS.NEXT : raiseDebug(cpu, hit);
}

/**
 * Traps behind an instruction: single step, data and I/O breakpoints, task switches.
 *
 * @param trap  TF was set when the instruction began.
 * @returns     NEXT, or the status of the #DB.
 */
export function debugAfter(cpu: Processor, trap: boolean): number {
  const pending = cpu.get(S.PENDING_DEBUG);
  if (!(pending & (PENDING.RF_LOADED | PENDING.NO_STEP))) cpu.set(S.RFLAGS, cpu.get(S.RFLAGS) & ~RFLAGS.RF);
  let bits = pending & PENDING.DR6_BITS;
  if (shadowAt(cpu, now(cpu)) === SHADOW.MOV_SS) {
    // Held until the instruction behind MOV SS is done; a single-step trap is lost
    cpu.set(S.PENDING_DEBUG, bits);
    return STATUS.NEXT;
  }
  cpu.set(S.PENDING_DEBUG, 0);
  if (trap && !(pending & PENDING.NO_STEP)) bits |= DR6.BS;
  if (intercepts(cpu, INTERCEPT.MONITOR_TRAP)) {
    // The monitor trap comes first, and takes what was due along: SDM 3C 25.5.2 "Monitor Trap Flag"
    cpu.set(S.PENDING_DEBUG, bits);
    return STATUS.NEXT;
  }
  return bits === 0 ? STATUS.NEXT : raiseDebug(cpu, bits);
}

/** Notes the data breakpoints that an access of `bytes` at a linear address hits. */
export function noteDataAccess(cpu: Processor, low: number, high: number, bytes: number, write: boolean): void {
  const dr7 = cpu.get(DR7_AT);
  let hit = 0;
  for (let n = 0; n < 4; n += 1) {
    const when = dr7ReadWrite(dr7, n);
    if (when !== DR7_RW.READ_WRITE && !(write && when === DR7_RW.WRITE)) continue;
    const size = breakpointBytes(dr7, n);
    const start = (cpu.get(DR(n)) & ~(size - 1)) >>> 0;
    // Ranges of at most 64 bytes overlap only within 2^32 of each other
    if (cpu.get(DR(n) + 4) === high && low < start + size && start < low + bytes) hit |= 1 << n;
  }
  notePending(cpu, dr7, hit);
}

/** Notes the I/O breakpoints that an access to a port hits. CR4.DE is needed for them. */
export function notePortAccess(cpu: Processor, port: number, bytes: number): void {
  const dr7 = cpu.get(DR7_AT);
  if (!(dr7 & DR7_ENABLES) || !(cpu.cr4 & CR4.DE)) return;
  let hit = 0;
  for (let n = 0; n < 4; n += 1) {
    if (dr7ReadWrite(dr7, n) !== DR7_RW.IO) continue;
    const size = breakpointBytes(dr7, n);
    const start = (cpu.get(DR(n)) & ~(size - 1)) >>> 0;
    if (port < start + size && start < port + bytes) hit |= 1 << n;
  }
  notePending(cpu, dr7, hit);
}

/** B bits are reported for conditions that hold even if not enabled, but only together with an enabled one. */
function notePending(cpu: Processor, dr7: number, hit: number): void {
  let enabled = 0;
  for (let n = 0; n < 4; n += 1) if (isEnabled(dr7, n)) enabled |= 1 << n;
  if (hit & enabled) cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) | hit);
}

/** LENn: 1, 2, 8, 4 bytes. */
const breakpointBytes = (dr7: number, n: number): number => [1, 2, 8, 4][dr7Length(dr7, n)]!;

/**
 * Sees to it that data accesses are seen while a data breakpoint is enabled: the walker leaves no TLB entries for them.
 * Looked at again whenever DR7 changes, before each single step, and when a vCPU begins to run.
 */
export function watchData(cpu: Processor): void {
  const dr7 = cpu.get(DR7_AT);
  let watches = false;
  if (dr7 & DR7_ENABLES) {
    for (let n = 0; n < 4; n += 1) watches ||= isEnabled(dr7, n) && (dr7ReadWrite(dr7, n) & 1) !== 0;
  }
  const { context } = cpu.vcpu;
  if (watches && !(cpu.walker.watching && watchedContext === context)) cpu.tlb.flush(context);
  watchedContext = context;
  cpu.walker.watching = watches;
}

/** TLB context that was emptied when watching began in it. */
let watchedContext = -1;

// ---- MOV DR ----------------------------------------------------------------------------------------------------------

/** Number of the register after the aliases of DR4 and DR5, or -1 for #UD. */
function resolve(cpu: Processor, number: number): number {
  if (number > 7) return -1;
  if (number === 4 || number === 5) return cpu.cr4 & CR4.DE ? -1 : number + 2;
  return number;
}

/** Checks before both directions. NEXT or the status to leave with. */
function checkAccess(cpu: Processor, record: number, direction: number): number {
  const field = regField(cpu, record);
  if (resolve(cpu, field) < 0) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.MOV_DR)) {
    // SDM 3C Table 27-4 "Exit Qualification for MOV DR"
    return cpu.exitBefore(EXIT.DR_ACCESS, record, field | (direction << 4) | (rmField(cpu, record) << 8));
  }
  if (cpu.get(DR7_AT) & DR7.GD) {
    cpu.set64(S.FAULT_ADDRESS, DR6.BD, 0);
    return cpu.fault(VECTOR.DB);
  }
  return STATUS.NEXT;
}

/** Writes DR6 and DR7 with their fixed bits, the others whole. */
export function setDr(cpu: Processor, number: number, low: number, high: number): void {
  if (number === 6) cpu.set64(DR6_AT, ((low & DR6_WRITABLE) | DR6_FIXED1) >>> 0, 0);
  else if (number === 7) cpu.set64(DR7_AT, ((low & ~DR7_FIXED0) | DR7.FIXED1) >>> 0, 0);
  else cpu.set64(DR(number), low, high);
}

export const movToDr: Helper = (cpu, record) => {
  const status = checkAccess(cpu, record, 0);
  if (status !== STATUS.NEXT) return status;
  const number = resolve(cpu, regField(cpu, record));
  const register = gpr(rmField(cpu, record));
  const low = cpu.get(register);
  const high = cpu.long ? cpu.get(register + 4) : 0;
  if (number >= 6 && high !== 0) return cpu.fault(VECTOR.GP, 0);
  setDr(cpu, number, low, high);
  watchData(cpu);
  cpu.modeChanged();
  return cpu.goOn(record);
};

export const movFromDr: Helper = (cpu, record) => {
  const status = checkAccess(cpu, record, 1);
  if (status !== STATUS.NEXT) return status;
  const at = DR(resolve(cpu, regField(cpu, record)));
  cpu.set64(gpr(rmField(cpu, record)), cpu.get(at), cpu.long ? cpu.get(at + 4) : 0);
  return STATUS.NEXT;
};
