import { effectiveOffset } from './address.ts';
import { type ExitReason, X } from './exits.ts';
import { gpr, REC, S } from './layout.ts';
import { isMemory, regField, rmField } from './operands.ts';
import type { Processor } from './processor.ts';

/**
 * What an exit tells of its instruction's operands: VM-exit instruction information and the displacement.
 *
 * Source  SDM 3C 27.2.1 "Basic VM-Exit Information", 27.2.5 "Information for VM Exits Due to Instruction Execution".
 */

/** Displacement for the exit qualification, in `low`, `high`; RIP-relative: plus RIP. 0 without a memory operand. */
function displacement(cpu: Processor, record: number): void {
  const disp = isMemory(cpu, record) ? cpu.i32[(record + REC.DISP) >>> 2]! : 0;
  cpu.low = disp >>> 0;
  cpu.high = disp < 0 ? 0xffff_ffff : 0;
  if (cpu.u16[(record + REC.BASE) >>> 1] !== S.RIP_PAGE) return;
  const sum = cpu.low + cpu.get(S.RIP_PAGE);
  cpu.high = (cpu.high + cpu.get(S.RIP_PAGE + 4) + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
  cpu.low = sum >>> 0;
}

/** Linear address of the memory operand into the exit record, without any check: those are the handler's. */
function setLinear(cpu: Processor, record: number): void {
  effectiveOffset(cpu, record);
  const cell = S.SEG_BASE + 8 * (cpu.aux(record) & 7);
  const sum = cpu.low + cpu.get(cell);
  const high = cpu.long ? (cpu.high + cpu.get(cell + 4) + (sum > 0xffff_ffff ? 1 : 0)) >>> 0 : 0;
  cpu.set64(X.LINEAR, sum >>> 0, high);
  cpu.set(X.LINEAR_VALID, 1);
}

/** Exit of an instruction with a register and a memory operand: displacement, address and information fields. */
export function memoryOperandExit(cpu: Processor, record: number, reason: ExitReason): number {
  displacement(cpu, record);
  const status = cpu.exitBefore(reason, record, cpu.low, cpu.high);
  cpu.set(X.INFO, instructionInformation(cpu, record));
  if (isMemory(cpu, record)) setLinear(cpu, record);
  return status;
}

/**
 * VM-exit instruction information: scaling 1:0, Reg1 6:3, address size 9:7, register 10, segment 17:15, index 21:18 and
 * invalid 22, base 26:23 and invalid 27, Reg2 31:28. SDM 3C 27.2.5, Tables 27-8 to 27-13.
 */
export function instructionInformation(cpu: Processor, record: number): number {
  const aux = cpu.aux(record);
  const reg2 = regField(cpu, record) << 28;
  if (!isMemory(cpu, record)) return (reg2 | (1 << 10) | (rmField(cpu, record) << 3)) >>> 0;
  const indexCell = cpu.u16[(record + REC.INDEX) >>> 1]!;
  const baseCell = cpu.u16[(record + REC.BASE) >>> 1]!;
  const number = (cell: number): number => (cell - gpr(0)) >>> 3;
  const isGpr = (cell: number): boolean => cell >= gpr(0) && cell <= gpr(15);
  let info = cpu.u8[record + REC.SCALE]! | (((aux >>> 4) & 3) << 7) | ((aux & 7) << 15) | reg2;
  info |= isGpr(indexCell) ? number(indexCell) << 18 : 1 << 22;
  info |= isGpr(baseCell) ? number(baseCell) << 23 : 1 << 27;
  return info >>> 0;
}

/** SGDT SIDT LGDT LIDT, SLDT STR LLDT LTR: identity, which is ModRM.reg, in bits 29:28. Tables 27-10, 27-11. */
export function descriptorTableExit(cpu: Processor, record: number, reason: ExitReason): number {
  const status = memoryOperandExit(cpu, record, reason);
  const wide = cpu.operandSize(record) !== 2 ? 1 << 11 : 0;
  cpu.set(X.INFO, ((cpu.get(X.INFO) & 0x0fff_ffff) | wide | ((regField(cpu, record) & 3) << 28)) >>> 0);
  return status;
}
