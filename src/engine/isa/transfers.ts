import { call, type Expr, i32 } from '../../wasm/expr.ts';
import { bound, callFarHelper, int1, int3, intN, into, jumpFarHelper, returnFarHelper } from '../core/far.ts';
import { syscall, sysenter, sysexit, sysret } from '../core/fast-calls.ts';
import { AUX, STATUS } from '../core/layout.ts';
import { iret } from '../core/transfers.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/** Far transfers, interrupts and fast system calls. SDM 1 5.1.7 "Control Transfer Instructions", 5.20. */

/** What the function of quick-transfers.ts does; behind it comes the helper, where that does not. */
function quickly(m: Semantics, name: string, ...parameters: Expr[]): void {
  m.settled();
  m.f.if(call(m.lib.byName(name), ...parameters), () => m.leave(i32.const(STATUS.JUMP)));
}

export const JMP_FAR = instruction({
  name: 'JMP',
  source: 'SDM 2A 3.2 "JMP—Jump"',
  forms: { 'EA far i64': 'JMP far', 'FF /5:m': 'JMP m' },
  terminator: true,
  execute(m) {
    m.helper(jumpFarHelper);
  },
});

export const CALL_FAR = instruction({
  name: 'CALL',
  source: 'SDM 2A 3.2 "CALL—Call Procedure"',
  forms: { '9A far i64': 'CALL far', 'FF /3:m': 'CALL m' },
  terminator: true,
  execute(m) {
    m.helper(callFarHelper);
  },
});

export const RET_FAR = instruction({
  name: 'RETF',
  source: 'SDM 2B 4.3 "RET—Return From Procedure"',
  forms: { CB: 'RETF', 'CA iw': 'RETF imm16' },
  terminator: true,
  execute(m) {
    m.helper(returnFarHelper);
  },
});

export const IRET = instruction({
  name: 'IRET',
  source: 'SDM 2A 3.2 "IRET/IRETD/IRETQ—Interrupt Return"',
  forms: { CF: 'IRET' },
  terminator: true,
  execute(m) {
    if (m.long && m.size === 8) quickly(m, 'quickIret');
    m.helper(iret);
  },
});

export const INT = instruction({
  name: 'INT',
  source: 'SDM 2A 3.2 "INT n/INTO/INT3/INT1—Call to Interrupt Procedure"',
  forms: { 'CD ib': 'INT imm8' },
  terminator: true,
  execute(m) {
    m.helper(intN);
  },
});

export const INT3 = instruction({
  name: 'INT3',
  source: 'SDM 2A 3.2 "INT n/INTO/INT3/INT1—Call to Interrupt Procedure"',
  forms: { CC: 'INT3' },
  terminator: true,
  execute(m) {
    m.helper(int3);
  },
});

export const INT1 = instruction({
  name: 'INT1',
  source: 'SDM 2A 3.2 "INT n/INTO/INT3/INT1—Call to Interrupt Procedure"',
  forms: { F1: 'INT1' },
  terminator: true,
  execute(m) {
    m.helper(int1);
  },
});

export const INTO = instruction({
  name: 'INTO',
  source: 'SDM 2A 3.2 "INT n/INTO/INT3/INT1—Call to Interrupt Procedure"',
  forms: { 'CE i64': 'INTO' },
  terminator: true,
  execute(m) {
    m.helper(into);
  },
});

export const BOUND = instruction({
  name: 'BOUND',
  source: 'SDM 2A 3.2 "BOUND—Check Array Index Against Bounds"',
  forms: { '62 /r:m i64': 'BOUND rv, m' },
  execute(m) {
    m.helper(bound);
  },
});

export const SYSCALL = instruction({
  name: 'SYSCALL',
  source: 'SDM 2B 4.3 "SYSCALL—Fast System Call"',
  forms: { '0F 05': 'SYSCALL' },
  feature: 'syscall',
  terminator: true,
  execute(m) {
    if (m.long) quickly(m, 'quickSyscall', m.nextRip());
    m.helper(syscall);
  },
});

export const SYSRET = instruction({
  name: 'SYSRET',
  source: 'SDM 2B 4.3 "SYSRET—Return From Fast System Call"',
  forms: { '0F 07': 'SYSRET' },
  feature: 'syscall',
  terminator: true,
  execute(m) {
    if (m.long) m.f.if(m.auxHas(AUX.REX_W), () => quickly(m, 'quickSysret'));
    m.helper(sysret);
  },
});

export const SYSENTER = instruction({
  name: 'SYSENTER',
  source: 'SDM 2B 4.3 "SYSENTER—Fast System Call"',
  forms: { '0F 34': 'SYSENTER' },
  feature: 'sep',
  terminator: true,
  execute(m) {
    m.helper(sysenter);
  },
});

export const SYSEXIT = instruction({
  name: 'SYSEXIT',
  source: 'SDM 2B 4.3 "SYSEXIT—Fast Return from Fast System Call"',
  forms: { '0F 35': 'SYSEXIT' },
  feature: 'sep',
  terminator: true,
  execute(m) {
    m.helper(sysexit);
  },
});

export const FAR_TRANSFERS: readonly Instruction[] = [
  JMP_FAR,
  CALL_FAR,
  RET_FAR,
  IRET,
  INT,
  INT3,
  INT1,
  INTO,
  BOUND,
  SYSCALL,
  SYSRET,
  SYSENTER,
  SYSEXIT,
];
