/**
 * Operands of VMX instructions: memory with every check of segmentation and paging, registers by the exit's
 * instruction information, and the three ways to end.
 *
 * Owns    VMsucceed, VMfailInvalid, VMfailValid: SDM 3C 30.2 "Conventions".
 * Knows   that the instruction just left the engine: its record is still there, and its level's translations are in
 *         force.
 */
import { RFLAGS } from '../../../arch/registers.ts';
import type { VmInstructionError } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { linear } from '../../../engine/core/address.ts';
import { X } from '../../../engine/core/exits.ts';
import { ALLOW, gpr, S, STATUS } from '../../../engine/core/layout.ts';
import type { NestedVmx } from './nested-vmx.ts';

const STATUS_FLAGS = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

function finish(n: NestedVmx, flags: number): true {
  const { cpu } = n;
  cpu.setRflags((cpu.rflags() & ~STATUS_FLAGS) | flags);
  n.vcpu.skip();
  return true;
}

export const succeed = (n: NestedVmx): true => finish(n, 0);
export const failInvalid = (n: NestedVmx): true => finish(n, RFLAGS.CF);

/** VMfail(n): VMfailValid if there is a current VMCS to hold the number. */
export function fail(n: NestedVmx, error: VmInstructionError): true {
  if (n.v.address < 0) return failInvalid(n);
  n.v.put(FIELD.VM_INSTRUCTION_ERROR, error);
  return finish(n, RFLAGS.ZF);
}

export function raise(n: NestedVmx, vector: number, error = 0): true {
  n.vcpu.raise(vector, error);
  return true;
}

/** What an access to an operand left behind: an exception of the level that runs, or an exit that L0 deals with. */
function accessFailed(n: NestedVmx, status: number): false {
  const { cpu, vcpu } = n;
  if (status === STATUS.FAULT) vcpu.raiseFault();
  else vcpu.handle(cpu.get(X.REASON));
  return false;
}

/** 16 bytes of the last operand that `readOperand` read, as u32. */
export const operand = new Uint32Array(4);
const bytes16 = new Uint8Array(operand.buffer);

/** Reads the memory operand into `operand`. False: the instruction is over, or will be run again. */
export function readOperand(n: NestedVmx, bytes: 4 | 8 | 16): boolean {
  const { cpu } = n;
  operand.fill(0);
  const checked = linear(cpu, cpu.get(S.EXIT_RECORD), bytes);
  if (checked !== STATUS.NEXT) return accessFailed(n, checked);
  cpu.set(S.ALLOW, ALLOW.MMIO);
  const done = cpu.copyFrom(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, bytes16);
  cpu.set(S.ALLOW, 0);
  return done || accessFailed(n, cpu.accessStatus);
}

/** Writes the low `bytes` of `operand` to the memory operand. */
export function writeOperand(n: NestedVmx, bytes: 4 | 8): boolean {
  const { cpu } = n;
  const checked = linear(cpu, cpu.get(S.EXIT_RECORD), bytes | 0x100);
  if (checked !== STATUS.NEXT) return accessFailed(n, checked);
  cpu.set(S.ALLOW, ALLOW.MMIO);
  const done = cpu.copyTo(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, bytes16);
  cpu.set(S.ALLOW, 0);
  return done || accessFailed(n, cpu.accessStatus);
}

/** SDM 3C 27.2.5, Tables 27-9, 27-13: Reg1 6:3, register form 10, Reg2 31:28. */
export const isRegisterForm = (n: NestedVmx): boolean => (n.cpu.get(X.INFO) & (1 << 10)) !== 0;
export const reg1 = (n: NestedVmx): number => gpr((n.cpu.get(X.INFO) >>> 3) & 15);
export const reg2 = (n: NestedVmx): number => gpr(n.cpu.get(X.INFO) >>> 28);
/** Operand size of VMREAD, VMWRITE, INVEPT, INVVPID: it follows the mode, not prefixes. */
export const operandBytes = (n: NestedVmx): 4 | 8 => (n.cpu.long ? 8 : 4);
