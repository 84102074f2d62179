import { linear } from './address.ts';
import type { Helper } from './helpers.ts';
import { AUX, GPR, gpr, REC, S, STATUS } from './layout.ts';
import type { Processor } from './processor.ts';
import { nearJump, popValue, pushValue } from './stack.ts';

/**
 * Near transfers and stack instructions where generated code does not handle them: 16-bit stacks, segments that are not
 * flat, 16-bit operands. SDM 1 6.2 "Stacks", 6.4.1 "Near CALL and RET Operation".
 */

/** Pushes S.VALUE. */
export const pushGeneral: Helper = (cpu, record) =>
  pushValue(cpu, cpu.get(S.VALUE), cpu.get(S.VALUE + 4), cpu.operandSize(record)) ? STATUS.NEXT : cpu.accessStatus;

function writeRegister(cpu: Processor, address: number, low: number, high: number, bytes: number): void {
  if (bytes === 2) cpu.u16[address >>> 1] = low;
  else cpu.set64(address, low, bytes === 8 ? high : 0);
}

/** POP of a register. */
export const popGeneral: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  if (!popValue(cpu, bytes)) return cpu.accessStatus;
  writeRegister(cpu, cpu.u16[(record + REC.RA) >>> 1]!, cpu.low, cpu.high, bytes);
  return STATUS.NEXT;
};

/** POP of memory, all modes: the address is computed with RSP already moved. */
export const popOperandGeneral: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const oldLow = cpu.get(gpr(4));
  const oldHigh = cpu.get(gpr(4) + 4);
  if (!popValue(cpu, bytes)) return cpu.accessStatus;
  const { low, high } = cpu;
  let status = linear(cpu, record, bytes | (1 << 8));
  if (status === STATUS.NEXT && cpu.write(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, low, high)) return STATUS.NEXT;
  if (status === STATUS.NEXT) status = cpu.accessStatus;
  cpu.set64(gpr(4), oldLow, oldHigh);
  return status;
};

export const leaveGeneral: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const oldLow = cpu.get(gpr(4));
  const oldHigh = cpu.get(gpr(4) + 4);
  // The stack size decides how much of EBP becomes ESP
  if (cpu.stackBytes() === 2) cpu.u16[gpr(4) >>> 1] = cpu.u16[gpr(5) >>> 1]!;
  else if (cpu.stackBytes() === 4) cpu.set64(gpr(4), cpu.get(gpr(5)), 0);
  else cpu.copy64(gpr(4), gpr(5));
  if (!popValue(cpu, bytes)) {
    cpu.set64(gpr(4), oldLow, oldHigh);
    return cpu.accessStatus;
  }
  writeRegister(cpu, gpr(5), cpu.low, cpu.high, bytes);
  return STATUS.NEXT;
};

/** Jump to S.VALUE. */
export const jumpGeneral: Helper = (cpu, record) => nearJump(cpu, record, cpu.get(S.VALUE), cpu.get(S.VALUE + 4));

/** Target of a relative branch, into cpu.low, high: EXTRA is relative to the page, as is the linear address. */
function relativeTarget(cpu: Processor, record: number): void {
  cpu.nextRip(record);
  const displacement = cpu.i32[(record + REC.IMM) >>> 2]!;
  const low = cpu.low + displacement;
  cpu.low = low >>> 0;
  // 66 before a near branch of 64-bit mode: AMD honours it (APM 3 table B-4), Intel does not
  if (cpu.operandSize(record) === 2 && (!cpu.long || cpu.features.vendor === 'amd')) {
    cpu.low &= 0xffff;
    cpu.high = 0;
  } else if (cpu.long) cpu.high = (cpu.high + Math.floor(low / 0x1_0000_0000)) >>> 0;
}

export const jumpRelativeGeneral: Helper = (cpu, record) => {
  relativeTarget(cpu, record);
  return nearJump(cpu, record, cpu.low, cpu.high);
};

function callTo(cpu: Processor, record: number, low: number, high: number): number {
  const bytes = cpu.operandSize(record);
  const oldLow = cpu.get(gpr(4));
  const oldHigh = cpu.get(gpr(4) + 4);
  cpu.nextRip(record);
  if (!pushValue(cpu, cpu.low, cpu.high, bytes)) return cpu.accessStatus;
  const status = nearJump(cpu, record, low, high);
  // A push below the stack pointer is not seen if the jump faults
  if (status !== STATUS.JUMP) cpu.set64(gpr(4), oldLow, oldHigh);
  return status;
}

export const callRelativeGeneral: Helper = (cpu, record) => {
  relativeTarget(cpu, record);
  return callTo(cpu, record, cpu.low, cpu.high);
};

/** CALL to S.VALUE. */
export const callGeneral: Helper = (cpu, record) => callTo(cpu, record, cpu.get(S.VALUE), cpu.get(S.VALUE + 4));

export const returnGeneral: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const oldLow = cpu.get(gpr(4));
  const oldHigh = cpu.get(gpr(4) + 4);
  if (!popValue(cpu, bytes)) return cpu.accessStatus;
  const status = nearJump(cpu, record, cpu.low, cpu.high);
  if (status !== STATUS.JUMP) {
    cpu.set64(gpr(4), oldLow, oldHigh);
    return status;
  }
  // RET imm16 drops parameters; the plain form has immediate 0
  const extra = cpu.get(record + REC.IMM) & 0xffff;
  const stack = cpu.stackBytes();
  if (stack === 2) cpu.u16[gpr(4) >>> 1] = cpu.u16[gpr(4) >>> 1]! + extra;
  else {
    const low = cpu.get(gpr(4)) + extra;
    cpu.set64(gpr(4), low, stack === 4 ? 0 : cpu.get(gpr(4) + 4) + (low >= 0x1_0000_0000 ? 1 : 0));
  }
  return status;
};

/** LOOPNE, LOOPE, LOOP, JrCXZ: opcodes E0–E3; the address size decides the counter. */
export const loop: Helper = (cpu, record) => {
  const opcode = (cpu.get(record + REC.EXTRA) >>> 8) & 3;
  const size = (cpu.aux(record) >>> AUX.ADDRESS_SIZE_SHIFT) & 3;
  const at = gpr(1);
  let low = size === 0 ? cpu.u16[at >>> 1]! : cpu.get(at);
  let high = size === 2 ? cpu.get(at + 4) : 0;
  if (opcode !== 3) {
    if (low === 0) {
      low = size === 0 ? 0xffff : 0xffff_ffff;
      if (size === 2) high = (high - 1) >>> 0;
    } else low -= 1;
  }
  const zero = low === 0 && high === 0;
  let taken: boolean;
  if (opcode === 3) taken = zero;
  else {
    taken = !zero;
    if (opcode !== 2) {
      const zf = (cpu.statusFlags() & 0x40) !== 0;
      taken &&= zf === (opcode === 1);
    }
  }
  if (taken) {
    relativeTarget(cpu, record);
    const status = nearJump(cpu, record, cpu.low, cpu.high);
    if (status !== STATUS.JUMP) return status;
  }
  if (opcode !== 3) {
    if (size === 0) cpu.u16[at >>> 1] = low;
    else cpu.set64(at, low, high);
  }
  return taken ? STATUS.JUMP : STATUS.ENTER;
};

/** AL = [rBX + AL]: the record's memory operand is rBX; AL is added before the address size wraps. */
export const xlat: Helper = (cpu, record) => {
  const al = cpu.u8[GPR]!;
  // The decoder set BASE to rBX and nothing else: add AL through DISP for this one calculation
  cpu.set(record + REC.DISP, al);
  const status = linear(cpu, record, 1);
  cpu.set(record + REC.DISP, 0);
  if (status !== STATUS.NEXT) return status;
  if (!cpu.read(cpu.get(S.EA), cpu.get(S.EA + 4), 1)) return cpu.accessStatus;
  cpu.u8[GPR] = cpu.low;
  return STATUS.NEXT;
};
