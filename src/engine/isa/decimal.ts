import { VECTOR } from '../../arch/exceptions.ts';
import { RFLAGS, RFLAGS_STATUS } from '../../arch/registers.ts';
import type { Helper } from '../core/helpers.ts';
import { gpr, REC, STATUS } from '../core/layout.ts';
import type { Processor } from '../core/processor.ts';
import { helperInstruction, type Instruction } from './instruction.ts';

/**
 * Decimal arithmetic, which 64-bit mode has given up. SDM 1 5.1.3 "Decimal Arithmetic Instructions".
 *
 * Flags that the manual leaves undefined are 0, or follow AL as the defined ones do.
 */

const AX = gpr(0) >>> 1;

/** SF, ZF and PF of a byte. */
function byteFlags(value: number): number {
  let parity = value ^ (value >>> 4);
  parity ^= parity >>> 2;
  parity ^= parity >>> 1;
  return (value & 0x80 ? RFLAGS.SF : 0) | (value === 0 ? RFLAGS.ZF : 0) | (parity & 1 ? 0 : RFLAGS.PF);
}

/** Stores AX, and the flags of AL with `carries` (CF, AF). */
function finish(cpu: Processor, ax: number, carries: number): number {
  cpu.u16[AX] = ax;
  cpu.setRflags((cpu.rflags() & ~RFLAGS_STATUS) | byteFlags(ax & 0xff) | carries);
  return STATUS.NEXT;
}

const lowDigitOff = (ax: number, flags: number): boolean => (ax & 15) > 9 || (flags & RFLAGS.AF) !== 0;

/** DAA (`sign` 1) and DAS (-1). */
const adjustPacked =
  (sign: 1 | -1): Helper =>
  (cpu) => {
    const ax = cpu.u16[AX]!;
    const old = ax & 0xff;
    const flags = cpu.rflags();
    const carried = (flags & RFLAGS.CF) !== 0;
    let al = old;
    let carries = 0;
    if (lowDigitOff(al, flags)) {
      al += 6 * sign;
      carries = RFLAGS.AF;
      // DAS keeps this borrow even if the high digit needs nothing
      if (carried || (sign < 0 && al < 0)) carries |= RFLAGS.CF;
    }
    if (old > 0x99 || carried) {
      al += 0x60 * sign;
      carries |= RFLAGS.CF;
    }
    return finish(cpu, (ax & 0xff00) | (al & 0xff), carries);
  };

/** AAA (`sign` 1) and AAS (-1). */
const adjustUnpacked =
  (sign: 1 | -1): Helper =>
  (cpu) => {
    let ax = cpu.u16[AX]!;
    let carries = 0;
    if (lowDigitOff(ax, cpu.rflags())) {
      ax += 0x106 * sign;
      carries = RFLAGS.AF | RFLAGS.CF;
    }
    return finish(cpu, ax & 0xff0f, carries);
  };

const base = (cpu: Processor, record: number): number => cpu.get(record + REC.IMM) & 0xff;

const aam: Helper = (cpu, record) => {
  const divisor = base(cpu, record);
  if (divisor === 0) return cpu.fault(VECTOR.DE);
  const al = cpu.u16[AX]! & 0xff;
  return finish(cpu, (Math.floor(al / divisor) << 8) | (al % divisor), 0);
};

const aad: Helper = (cpu, record) => {
  const ax = cpu.u16[AX]!;
  return finish(cpu, ((ax & 0xff) + (ax >>> 8) * base(cpu, record)) & 0xff, 0);
};

/** SALC: AL = CF ? FFH : 0. No flags. */
const salc: Helper = (cpu) => {
  cpu.u8[gpr(0)] = cpu.rflags() & RFLAGS.CF ? 0xff : 0;
  return STATUS.NEXT;
};

export const DECIMAL: readonly Instruction[] = [
  helperInstruction('DAA', 'SDM 2A 3.2 "DAA—Decimal Adjust AL After Addition"', { '27 i64': 'DAA' }, adjustPacked(1)),
  helperInstruction(
    'DAS',
    'SDM 2A 3.2 "DAS—Decimal Adjust AL After Subtraction"',
    { '2F i64': 'DAS' },
    adjustPacked(-1),
  ),
  helperInstruction('AAA', 'SDM 2A 3.2 "AAA—ASCII Adjust After Addition"', { '37 i64': 'AAA' }, adjustUnpacked(1)),
  helperInstruction(
    'AAS',
    'SDM 2A 3.2 "AAS—ASCII Adjust AL After Subtraction"',
    { '3F i64': 'AAS' },
    adjustUnpacked(-1),
  ),
  helperInstruction('AAM', 'SDM 2A 3.2 "AAM—ASCII Adjust AX After Multiply"', { 'D4 ib i64': 'AAM imm8' }, aam),
  helperInstruction('AAD', 'SDM 2A 3.2 "AAD—ASCII Adjust AX Before Division"', { 'D5 ib i64': 'AAD imm8' }, aad),
  helperInstruction(
    'SALC',
    'APM 3 appendix A, table A-1: opcode D6H, named by no manual of Intel',
    { 'D6 i64': 'SALC' },
    salc,
  ),
];
