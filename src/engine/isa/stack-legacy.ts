import { RFLAGS } from '../../arch/registers.ts';
import { i32, i64 } from '../../wasm/expr.ts';
import { segmentLinear } from '../core/address.ts';
import { popFlags, pushFlags } from '../core/flags.ts';
import type { Helper } from '../core/helpers.ts';
import { gpr, REC, S, SEG, STATUS } from '../core/layout.ts';
import { writeGpr } from '../core/operands.ts';
import type { Processor } from '../core/processor.ts';
import { frame, peekValue, setStackPointer, stackAt, stackWidth } from '../core/stack.ts';
import { type Instruction, instruction } from './instruction.ts';

/** Stack instructions that move several values or flags: PUSHA, POPA, PUSHF, POPF, ENTER. */

/** AX CX DX BX SP BP SI DI; SP as it was before. */
const pushAll: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  frame.beginCurrent(cpu);
  for (let i = 0; i < 8; i += 1) frame.push(cpu.get(gpr(i)), 0, bytes);
  const status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  frame.write(cpu);
  setStackPointer(cpu, frame.width, frame.spLow, 0);
  return STATUS.NEXT;
};

const popped = new Uint32Array(8);

/** DI SI BP (SP is skipped) BX DX CX AX. */
const popAll: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  for (let i = 0; i < 8; i += 1) {
    if (!peekValue(cpu, i * bytes, bytes)) return cpu.accessStatus;
    popped[7 - i] = cpu.low;
  }
  const width = stackWidth(cpu);
  stackAt(cpu, width, 8 * bytes);
  setStackPointer(cpu, width, cpu.low, 0);
  for (let i = 0; i < 8; i += 1) if (i !== 4) writeGpr(cpu, i, bytes, popped[i]!, 0);
  return STATUS.NEXT;
};

/** Reads entry `i` of the display that BP points behind into cpu.low, high. NEXT, or the status to leave with. */
function readDisplay(cpu: Processor, i: number, width: number, bytes: number): number {
  const bp = gpr(5);
  const sum = cpu.get(bp) - i * bytes;
  const low = width === 2 ? sum & 0xffff : sum >>> 0;
  const high = width === 8 ? (cpu.get(bp + 4) - (sum < 0 ? 1 : 0)) >>> 0 : 0;
  const status = segmentLinear(cpu, SEG.SS, low, high, bytes, false);
  if (status !== STATUS.NEXT) return status;
  return cpu.read(cpu.get(S.EA), cpu.get(S.EA + 4), bytes) ? STATUS.NEXT : cpu.accessStatus;
}

/** Can the stack take its `n`-th value from here? NEXT, or the status to leave with. */
function probePush(cpu: Processor, width: number, bytes: number, n: number): number {
  stackAt(cpu, width, -n * bytes);
  const status = segmentLinear(cpu, SEG.SS, cpu.low, cpu.high, bytes, true);
  if (status !== STATUS.NEXT) return status;
  return cpu.probeWrite(cpu.get(S.EA), cpu.get(S.EA + 4), bytes) ? STATUS.NEXT : cpu.accessStatus;
}

/** ENTER imm16, imm8: pushes BP and the display, BP = frame, SP = frame - size. SDM 2A, Operation. */
const enter: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const immediate = cpu.get(record + REC.IMM);
  const size = immediate & 0xffff;
  const level = (immediate >>> 16) & 31;
  const width = stackWidth(cpu);
  const bp = gpr(5);
  frame.beginCurrent(cpu);
  frame.push(cpu.get(bp), cpu.get(bp + 4), bytes);
  // The frame pointer is what SP will be after the first push
  stackAt(cpu, width, -bytes);
  const frameLow = cpu.low;
  const frameHigh = cpu.high;
  for (let i = 1; i < level; i += 1) {
    // Faults come in the order of the pushes, each of what was read just before it
    let status = probePush(cpu, width, bytes, i);
    if (status === STATUS.NEXT) status = readDisplay(cpu, i, width, bytes);
    if (status !== STATUS.NEXT) return status;
    frame.push(cpu.low, cpu.high, bytes);
  }
  if (level > 0) frame.push(frameLow, frameHigh, bytes);
  const status = frame.prepare(cpu);
  if (status !== STATUS.NEXT) return status;
  // The new top of the stack must be writable, though nothing is written there
  const oldLow = cpu.get(gpr(4));
  const oldHigh = cpu.get(gpr(4) + 4);
  setStackPointer(cpu, width, frame.spLow, frame.spHigh);
  stackAt(cpu, width, -size);
  const topLow = cpu.low;
  const topHigh = cpu.high;
  const checked = segmentLinear(cpu, SEG.SS, topLow, topHigh, bytes, true);
  const fits = checked === STATUS.NEXT && cpu.probeWrite(cpu.get(S.EA), cpu.get(S.EA + 4), bytes);
  if (!fits) {
    cpu.set64(gpr(4), oldLow, oldHigh);
    return cpu.accessStatus;
  }
  // The old display may lie where the new one goes: an entry is read when the ones before it are written
  frame.write(cpu, 0, 1);
  for (let i = 1; i < level; i += 1) {
    readDisplay(cpu, i, width, bytes);
    frame.replace(i, cpu.low, cpu.high);
    frame.write(cpu, i, i + 1);
  }
  if (level > 0) frame.write(cpu, level);
  setStackPointer(cpu, width, topLow, topHigh);
  writeGpr(cpu, 5, bytes, frameLow, frameHigh);
  return STATUS.NEXT;
};

const row = (
  name: string,
  source: string,
  forms: Readonly<Record<string, string>>,
  helper: Helper,
  terminator = false,
): Instruction =>
  instruction({
    name,
    source,
    forms,
    terminator,
    execute(m) {
      m.helper(helper);
    },
  });

export const STACK_LEGACY: readonly Instruction[] = [
  row('PUSHA/PUSHAD', 'SDM 2B 4.3 "PUSHA/PUSHAD—Push All General-Purpose Registers"', { '60 i64': 'PUSHA' }, pushAll),
  row('POPA/POPAD', 'SDM 2B 4.3 "POPA/POPAD—Pop All General-Purpose Registers"', { '61 i64': 'POPA' }, popAll),
  instruction({
    name: 'PUSHF',
    source: 'SDM 2B 4.3 "PUSHF/PUSHFD/PUSHFQ—Push EFLAGS Register Onto the Stack"',
    forms: { '9C d64': 'PUSHF' },
    execute(m) {
      if (!m.long) {
        m.helper(pushFlags);
        return;
      }
      const system = i32.and(i32.load(i32.const(0), S.RFLAGS), i32.const(~(RFLAGS.VM | RFLAGS.RF)));
      m.push(i64.or(m.flags(), i64.extendI32U(system)), m.size);
    },
  }),
  row('POPF', 'SDM 2B 4.3 "POPF/POPFD/POPFQ—Pop Stack Into EFLAGS Register"', { '9D d64': 'POPF' }, popFlags, true),
  row(
    'ENTER',
    'SDM 2A 3.2 "ENTER—Make Stack Frame for Procedure Parameters"',
    { 'C8 iw ib d64': 'ENTER imm16, imm8' },
    enter,
  ),
];
