import { linear } from './address.ts';
import { AUX, gpr, REC, S, SEG, STATUS, segment } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * Operands of instructions that are TypeScript helpers: what ModRM names, through the record's AUX fields.
 */

/** Number in ModRM.reg with REX.R: 0–15. */
export const regField = (cpu: Processor, record: number): number => (cpu.aux(record) >>> AUX.REG_SHIFT) & 15;
/** Number in ModRM.rm with REX.B, if it names a register: 0–15. */
export const rmField = (cpu: Processor, record: number): number => (cpu.aux(record) >>> AUX.RM_SHIFT) & 15;
export const isMemory = (cpu: Processor, record: number): boolean => (cpu.aux(record) & AUX.MEMORY) !== 0;
/** Last opcode byte. */
export const opcodeOf = (cpu: Processor, record: number): number => (cpu.get(record + REC.EXTRA) >>> 8) & 0xff;

/** Reads the r/m operand into `low`, `high`. False: S.ACCESS_STATUS has the status. */
export function readRm(cpu: Processor, record: number, bytes: number): boolean {
  if (isMemory(cpu, record)) {
    if (linear(cpu, record, bytes) !== STATUS.NEXT) return false;
    return cpu.read(cpu.get(S.EA), cpu.get(S.EA + 4), bytes);
  }
  const at = gpr(rmField(cpu, record));
  cpu.low = bytes === 2 ? cpu.u16[at >>> 1]! : cpu.get(at);
  cpu.high = bytes === 8 ? cpu.get(at + 4) : 0;
  return true;
}

/** Writes the r/m operand. NEXT, or the status to leave with. */
export function writeRm(cpu: Processor, record: number, bytes: number, low: number, high: number): number {
  if (isMemory(cpu, record)) {
    const status = linear(cpu, record, bytes | 0x100);
    if (status !== STATUS.NEXT) return status;
    return cpu.write(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, low, high) ? STATUS.NEXT : cpu.accessStatus;
  }
  writeGpr(cpu, rmField(cpu, record), bytes, low, high);
  return STATUS.NEXT;
}

/** Writes 2, 4 or 8 bytes of a general register; 4 clear the upper half. */
export function writeGpr(cpu: Processor, index: number, bytes: number, low: number, high: number): void {
  if (bytes === 2) cpu.u16[gpr(index) >>> 1] = low;
  else cpu.set64(gpr(index), low, bytes === 8 ? high : 0);
}

/** RDX:RAX = value, upper halves clear: what RDTSC, RDMSR, XGETBV and the like load. */
export function setEdxEax(cpu: Processor, low: number, high: number): void {
  cpu.set64(gpr(0), low, 0);
  cpu.set64(gpr(2), high, 0);
}

/** RIP of `record` into S.RIP, for events that the instruction itself delivers. */
export function settleRip(cpu: Processor, record: number): void {
  cpu.ripOf(record);
  cpu.set64(S.RIP, cpu.low, cpu.high);
}

/** Base of FS or GS changed in 64-bit mode: into the segment register and the cell that addresses use. */
export function setBase(cpu: Processor, seg: typeof SEG.FS | typeof SEG.GS, low: number, high: number): void {
  cpu.set64(segment(seg) + SEG.BASE, low, high);
  cpu.set64(S.SEG_BASE + 8 * seg, low, high);
}
