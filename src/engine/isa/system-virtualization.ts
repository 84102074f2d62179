import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, EFER } from '../../arch/registers.ts';
import { memoryOperandExit } from '../core/exit-information.ts';
import { EXIT, type ExitReason } from '../core/exits.ts';
import type { Helper } from '../core/helpers.ts';
import type { Processor } from '../core/processor.ts';
import { type Instruction, instruction } from './instruction.ts';

/**
 * VMX and SVM instructions: the engine knows when they are #UD, everything else is L0's.
 *
 * Source  SDM 3C 30 "VMX Instruction Reference"; 25.1.2 "Instructions That Cause VM Exits Unconditionally";
 *         APM 3 "VMRUN" and following.
 */

/** #UD whatever VMX operation says: real mode, virtual-8086 mode, compatibility mode. */
const vmxModeIsWrong = (cpu: Processor): boolean => !cpu.protectedMode || cpu.vm86 || (cpu.ia32e && !cpu.long);

/**
 * A VMX instruction: leaves with operands described. L0 checks the CPL (in non-root operation the exit comes first) and
 * whether the guest is in VMX operation.
 */
const vmx =
  (reason: ExitReason): Helper =>
  (cpu, record) => {
    if (!(cpu.cr4 & CR4.VMXE) || vmxModeIsWrong(cpu)) return cpu.fault(VECTOR.UD);
    return memoryOperandExit(cpu, record, reason);
  };

/** VMCALL and VMFUNC: also guests that have not set CR4.VMXE may call their hypervisor. */
const call =
  (reason: ExitReason): Helper =>
  (cpu, record) =>
    cpu.exitBefore(reason, record);

/** An SVM instruction: needs EFER.SVME and protected mode, and CPL 0. */
const svm =
  (reason: ExitReason): Helper =>
  (cpu, record) => {
    if (!(cpu.efer & EFER.SVME) || !cpu.protectedMode || cpu.vm86) return cpu.fault(VECTOR.UD);
    return cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : cpu.exitBefore(reason, record);
  };

const row = (name: string, form: string, operands: string, helper: Helper, feature?: 'vmx' | 'svm'): Instruction =>
  instruction({
    name,
    source: feature === 'svm' || name === 'VMMCALL' ? `APM 3 "${name}"` : `SDM 3C 30.3 "${name}"`,
    forms: { [form]: operands === '' ? name : `${name} ${operands}` },
    ...(feature === undefined ? {} : { feature }),
    execute(m) {
      m.helper(helper);
    },
  });

export const VIRTUALIZATION: readonly Instruction[] = [
  row('VMCALL', 'NP 0F 01 C1', '', call(EXIT.VMCALL)),
  row('VMFUNC', 'NP 0F 01 D4', '', call(EXIT.VMFUNC), 'vmx'),
  row('VMLAUNCH', 'NP 0F 01 C2', '', vmx(EXIT.VMLAUNCH), 'vmx'),
  row('VMRESUME', 'NP 0F 01 C3', '', vmx(EXIT.VMRESUME), 'vmx'),
  row('VMXOFF', 'NP 0F 01 C4', '', vmx(EXIT.VMXOFF), 'vmx'),
  row('VMREAD', 'NP 0F 78 /r', 'r/my, ry', vmx(EXIT.VMREAD), 'vmx'),
  row('VMWRITE', 'NP 0F 79 /r', 'ry, r/my', vmx(EXIT.VMWRITE), 'vmx'),
  row('VMPTRLD', 'NP 0F C7 /6:m', 'm64', vmx(EXIT.VMPTRLD), 'vmx'),
  row('VMPTRST', 'NP 0F C7 /7:m', 'm64', vmx(EXIT.VMPTRST), 'vmx'),
  row('VMCLEAR', '66 0F C7 /6:m', 'm64', vmx(EXIT.VMCLEAR), 'vmx'),
  row('VMXON', 'F3 0F C7 /6:m', 'm64', vmx(EXIT.VMXON), 'vmx'),
  row('INVEPT', '66 0F 38 80 /r:m', 'ry, m128', vmx(EXIT.INVEPT), 'vmx'),
  row('INVVPID', '66 0F 38 81 /r:m', 'ry, m128', vmx(EXIT.INVVPID), 'vmx'),

  row('VMMCALL', '0F 01 D9', '', call(EXIT.VMMCALL)),
  row('VMRUN', '0F 01 D8', '', svm(EXIT.VMRUN), 'svm'),
  row('VMLOAD', '0F 01 DA', '', svm(EXIT.VMLOAD), 'svm'),
  row('VMSAVE', '0F 01 DB', '', svm(EXIT.VMSAVE), 'svm'),
  row('STGI', '0F 01 DC', '', svm(EXIT.STGI), 'svm'),
  row('CLGI', '0F 01 DD', '', svm(EXIT.CLGI), 'svm'),
  row('SKINIT', '0F 01 DE', '', svm(EXIT.SKINIT), 'svm'),
  row('INVLPGA', '0F 01 DF', '', svm(EXIT.INVLPGA), 'svm'),
];
