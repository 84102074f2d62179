/**
 * Whose is an exit of L2: the table of arch/vmx/exit-routes.ts, with the bitmaps that it names.
 *
 * Owns    the filters. Which reason goes where, and why, is the table's.
 *
 * Source  SDM 3C 25.1 "Instructions that Cause VM Exits", 25.5.6 "VM Functions"; exit-routes.ts.
 */
import { VECTOR } from '../../../arch/exceptions.ts';
import { CR0 } from '../../../arch/registers.ts';
import { controlMask, PRIMARY, SECONDARY } from '../../../arch/vmx/controls.ts';
import { EXIT_REASONS, exitReasonName } from '../../../arch/vmx/exit-reasons.ts';
import { type ExitRoute, L2_EXIT_ROUTES } from '../../../arch/vmx/exit-routes.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { EXIT, X } from '../../../engine/core/exits.ts';
import { gpr } from '../../../engine/core/layout.ts';
import { FIXED_CR4, fixedCr0 } from './controls02.ts';
import { isNotOffered, linkedVmcs, vmread, vmwrite } from './instructions.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { failInvalid, raise, reg2 } from './operands.ts';
import { virtualizeCr8, virtualizeMsr } from './virtual-apic.ts';
import { vmExitByException, vmExitByInstruction } from './vm-exit.ts';

/** What the table says, in arrays: 0 L0, 1 L1, 2 L1 if any control of the masks, 3 a filter decides. */
const TO = { L0: 0, L1: 1, IF_ANY: 2, FILTER: 3 } as const;
const COUNT = 80;
const kind = new Uint8Array(COUNT);
const pinMask = new Uint32Array(COUNT);
const primaryMask = new Uint32Array(COUNT);
const secondaryMask = new Uint32Array(COUNT);

for (let reason = 0; reason < COUNT; reason += 1) {
  const name = exitReasonName(reason);
  if (name === undefined) continue;
  const route: ExitRoute = L2_EXIT_ROUTES[name];
  if (route.to === 'L1 if any') {
    kind[reason] = TO.IF_ANY;
    for (const control of route.controls) {
      const mask = controlMask(control);
      if (control.startsWith('PIN.')) pinMask[reason]! |= mask;
      else if (control.startsWith('PRIMARY.')) primaryMask[reason]! |= mask;
      else if (control.startsWith('SECONDARY.')) secondaryMask[reason]! |= mask;
    }
  } else if (route.to === 'L1 by filter') kind[reason] = TO.FILTER;
  else kind[reason] = route.to === 'L1' ? TO.L1 : TO.L0;
}

/** Exits of this reason go to L1 as they are, whatever else is known of them. */
export function goesToL1(n: Pick<NestedVmx, 'pin' | 'primary' | 'secondary'>, reason: number): boolean {
  if (kind[reason] !== TO.IF_ANY) return kind[reason] === TO.L1;
  return (
    ((n.pin & pinMask[reason]!) | (n.primary & primaryMask[reason]!) | (n.secondary & secondaryMask[reason]!)) !== 0
  );
}

/** An exit of the engine while L2 runs. False: L0's own code deals with it. */
export function l2Exit(n: NestedVmx, reason: number): boolean {
  // An instruction of the other vendor
  if (reason === EXIT.VMMCALL) return raise(n, VECTOR.UD);
  if (reason >= COUNT) return false;
  switch (kind[reason]) {
    case TO.L1:
      if (isNotOffered(n, reason)) return raise(n, VECTOR.UD);
      return vmExitByInstruction(n, reason);
    case TO.IF_ANY: {
      const asked =
        (n.pin & pinMask[reason]!) | (n.primary & primaryMask[reason]!) | (n.secondary & secondaryMask[reason]!);
      if (asked === 0) return false;
      return vmExitByInstruction(n, reason);
    }
    case TO.FILTER:
      return byFilter(n, reason);
    default:
      return false;
  }
}

function byFilter(n: NestedVmx, reason: number): boolean {
  switch (reason) {
    case EXIT.EXCEPTION:
      // The engine has looked at the bitmap: only L1 asks for exceptions
      return vmExitByException(n);
    case EXIT.CR_ACCESS:
      return crAccess(n);
    case EXIT.IO:
      return wantsPort(n) ? vmExitByInstruction(n, reason) : false;
    case EXIT.RDMSR:
    case EXIT.WRMSR:
      return wantsMsr(n, n.cpu.get(gpr(1)), reason === EXIT.WRMSR)
        ? vmExitByInstruction(n, reason)
        : virtualizeMsr(n, reason === EXIT.WRMSR);
    case EXIT.VMREAD:
    case EXIT.VMWRITE:
      return vmcsAccess(n, reason);
    case EXIT.VMFUNC:
      return vmfunc(n);
    default:
      return vmExitByInstruction(n, reason);
  }
}

// ---- the filters -----------------------------------------------------------------------------------------------------------

/** SDM 3C 25.1.3: "use I/O bitmaps", else "unconditional I/O exiting". An access that wraps around always leaves. */
export function wantsPort(n: NestedVmx): boolean {
  if ((n.primary & PRIMARY.USE_IO_BITMAPS) === 0) return (n.primary & PRIMARY.UNCONDITIONAL_IO_EXITING) !== 0;
  const qualification = n.cpu.get(X.QUALIFICATION);
  const first = qualification >>> 16;
  const bytes = (qualification & 7) + 1;
  for (let port = first; port < first + bytes; port += 1) {
    if (port > 0xffff) return true;
    const bitmap = n.v.number(port < 0x8000 ? FIELD.IO_BITMAP_A : FIELD.IO_BITMAP_B);
    if (n.memory.bit(bitmap, port & 0x7fff)) return true;
  }
  return false;
}

/** SDM 3C 24.6.9 "MSR-Bitmap Address": low and high MSRs, read bitmaps, then write bitmaps, 1 KiB each. */
export function wantsMsr(n: NestedVmx, index: number, write: boolean): boolean {
  if ((n.primary & PRIMARY.USE_MSR_BITMAPS) === 0) return true;
  const high = index >= 0xc000_0000;
  if ((index & 0x1fff) !== (high ? index - 0xc000_0000 : index)) return true;
  const page = n.v.number(FIELD.MSR_BITMAP) + (write ? 2048 : 0) + (high ? 1024 : 0);
  return n.memory.bit(page, index & 0x1fff);
}

/**
 * Bits that L1's masks leave to L2 are L0's to see: those that VMX fixes are #GP(0) in L2, and without TDP L0 watches them all
 * (nested-mmu.md 1.3 state e). SDM 3C 25.1.3, 25.3.
 */
function crAccess(n: NestedVmx): boolean {
  const { cpu } = n;
  const qualification = cpu.get(X.QUALIFICATION);
  const register = qualification & 15;
  const access = (qualification >>> 4) & 3;
  const source = gpr((qualification >>> 8) & 15);
  if (register === 8) {
    const control = access === 0 ? PRIMARY.CR8_LOAD_EXITING : PRIMARY.CR8_STORE_EXITING;
    if ((n.primary & control) !== 0) return vmExitByInstruction(n, EXIT.CR_ACCESS);
    return virtualizeCr8(n, access === 0, (qualification >>> 8) & 15);
  }
  if (register === 3) {
    const control = access === 0 ? PRIMARY.CR3_LOAD_EXITING : PRIMARY.CR3_STORE_EXITING;
    if ((n.primary & control) === 0 || (access === 0 && isCr3Target(n, source))) return false;
    return vmExitByInstruction(n, EXIT.CR_ACCESS);
  }
  if (access === 0) {
    const value = cpu.get(source);
    const mask = register === 0 ? n.cr0OfL1 : n.cr4OfL1;
    const shadow = register === 0 ? n.cr0ReadShadow : n.cr4ReadShadow;
    if (((value ^ shadow) & mask) === 0) {
      const fixed = register === 0 ? fixedCr0(n.secondary) : FIXED_CR4;
      return (~value & ~mask & fixed) !== 0 ? raise(n, VECTOR.GP) : false;
    }
  }
  if (access === 3) {
    // LMSW: PE can only be set
    const word = qualification >>> 16;
    const raisesPe = (n.cr0OfL1 & word & ~n.cr0ReadShadow & CR0.PE) !== 0;
    if (!raisesPe && ((word ^ n.cr0ReadShadow) & n.cr0OfL1 & (CR0.MP | CR0.EM | CR0.TS)) === 0) return false;
  }
  return vmExitByInstruction(n, EXIT.CR_ACCESS);
}

/** SDM 3C 24.6.7 "CR3-Target Controls". */
function isCr3Target(n: NestedVmx, source: number): boolean {
  const low = n.cpu.get(source);
  const high = n.cpu.long ? n.cpu.get(source + 4) : 0;
  const count = n.v.lo(FIELD.CR3_TARGET_COUNT);
  for (let field = FIELD.CR3_TARGET_VALUE0; field < FIELD.CR3_TARGET_VALUE0 + count; field += 1) {
    if (n.v.lo(field) === low && n.v.hi(field) === high) return true;
  }
  return false;
}

/** SDM 3C 24.6.15 "VMCS Shadowing Bitmap Addresses"; 30.3 "VMREAD", "VMWRITE". */
function vmcsAccess(n: NestedVmx, reason: number): boolean {
  const { cpu } = n;
  if ((n.secondary & SECONDARY.VMCS_SHADOWING) === 0) return vmExitByInstruction(n, reason);
  const cell = reg2(n);
  const encoding = cpu.get(cell);
  const isWrite = reason === EXIT.VMWRITE;
  const bitmap = n.v.number(isWrite ? FIELD.VMWRITE_BITMAP : FIELD.VMREAD_BITMAP);
  if (encoding > 0x7fff || (cpu.long && cpu.get(cell + 4) !== 0) || n.memory.bit(bitmap, encoding)) {
    return vmExitByInstruction(n, reason);
  }
  if (cpu.cpl !== 0) return raise(n, VECTOR.GP);
  const shadow = linkedVmcs(n);
  if (shadow === undefined) return failInvalid(n);
  return isWrite ? vmwrite(n, shadow) : vmread(n, shadow);
}

/** SDM 3C 25.5.6.2 "General Operation of the VMFUNC Instruction", 25.5.6.3 "EPTP Switching". */
function vmfunc(n: NestedVmx): boolean {
  const { cpu, vcpu } = n;
  if ((n.secondary & SECONDARY.ENABLE_VM_FUNCTIONS) === 0) return raise(n, VECTOR.UD);
  const answer = vcpu.mmu.vmfunc(cpu.get(gpr(0)), cpu.get(gpr(1)));
  if (answer === '#UD') return raise(n, VECTOR.UD);
  if (answer === 'exit') return vmExitByInstruction(n, EXIT_REASONS.VMFUNC);
  vcpu.skip();
  return true;
}
