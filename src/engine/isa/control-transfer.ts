import { i32, i64 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { callGeneral, callRelativeGeneral, jumpGeneral, loop, returnGeneral } from '../core/legacy-stack.ts';
import { CONDITIONS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';

/** Near jumps, calls and returns. SDM 1 5.1.7 "Control Transfer Instructions". Far ones: isa/transfers.ts. */

const conditional = (base: number, head: string, operand: string): Record<string, string> =>
  Object.fromEntries(
    CONDITIONS.map((cc, i) => [
      head.replace('*', (base + i).toString(16).toUpperCase().padStart(2, '0')),
      `J${cc} ${operand}`,
    ]),
  );

export const JCC = instruction({
  name: 'Jcc',
  source: 'SDM 2A 3.2 "Jcc—Jump if Condition Is Met"',
  forms: { ...conditional(0x70, '* cb', 'rel8'), ...conditional(0x80, '0F * cz f64', 'relz') },
  terminator: true,
  execute(m) {
    m.branchIf(m.condition(m.opcode & 15));
  },
});

export const JMP = instruction({
  name: 'JMP',
  source: 'SDM 2A 3.2 "JMP—Jump"',
  forms: { 'EB cb': 'JMP rel8', 'E9 cz f64': 'JMP relz' },
  terminator: true,
  execute(m) {
    m.branch();
  },
});

export const JMP_INDIRECT = instruction({
  name: 'JMP',
  source: 'SDM 2A 3.2 "JMP—Jump"',
  forms: { 'FF /4 f64': 'JMP r/mv' },
  terminator: true,
  execute(m) {
    const target = m.let(m.loadU(0));
    if (m.mode === 'general') {
      m.f.do(i64.store(i32.const(0), target.get, S.VALUE));
      m.helper(jumpGeneral);
    } else m.jump(target.get);
  },
});

export const CALL = instruction({
  name: 'CALL',
  source: 'SDM 2A 3.2 "CALL—Call Procedure"',
  forms: { 'E8 cz f64': 'CALL relz' },
  terminator: true,
  execute(m) {
    if (m.mode === 'general') {
      m.helper(callRelativeGeneral);
      return;
    }
    m.push(m.nextRip(), m.size);
    m.branch();
  },
});

export const CALL_INDIRECT = instruction({
  name: 'CALL',
  source: 'SDM 2A 3.2 "CALL—Call Procedure"',
  forms: { 'FF /2 f64': 'CALL r/mv' },
  terminator: true,
  execute(m) {
    const target = m.let(m.loadU(0));
    if (m.mode === 'general') {
      m.f.do(i64.store(i32.const(0), target.get, S.VALUE));
      m.helper(callGeneral);
      return;
    }
    m.checkTarget(target);
    m.push(m.nextRip(), m.size);
    m.jump(target.get);
  },
});

export const RET = instruction({
  name: 'RET',
  source: 'SDM 2B 4.3 "RET—Return From Procedure"',
  forms: { 'C3 f64': 'RET', 'C2 iw f64': 'RET imm16' },
  terminator: true,
  execute(m) {
    if (m.mode === 'general') {
      m.helper(returnGeneral);
      return;
    }
    const target = m.let(m.peek(m.size));
    m.checkTarget(target);
    m.drop(m.operands.length === 0 ? m.size : i64.add(i64.const(m.size), m.loadU(0)));
    m.jump(target.get);
  },
});

/** LOOPcc, JrCXZ: the counter has the address size. */
export const LOOP = instruction({
  name: 'LOOPcc',
  source: 'SDM 2A 3.2 "LOOP/LOOPcc—Loop According to ECX Counter"',
  forms: { 'E0 cb f64': 'LOOPNE rel8', 'E1 cb f64': 'LOOPE rel8', 'E2 cb f64': 'LOOP rel8', 'E3 cb f64': 'JrCXZ rel8' },
  terminator: true,
  execute(m) {
    m.helper(loop);
  },
});

export const CONTROL_TRANSFER: readonly Instruction[] = [JCC, JMP, JMP_INDIRECT, CALL, CALL_INDIRECT, RET, LOOP];
