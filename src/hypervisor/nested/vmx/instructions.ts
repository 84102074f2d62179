/**
 * VMX instructions in VMX root operation: every exception, VMfailInvalid and VMfailValid, in the manual's order.
 *
 * Knows   that the engine has already raised #UD for real mode, virtual-8086 mode, compatibility mode and CR4.VMXE = 0.
 *
 * Source  SDM 3C 30.3 "VMX Instructions", 30.2 "Conventions", 23.7 "Enabling and Entering VMX Operation".
 */
import { VECTOR } from '../../../arch/exceptions.ts';
import { fitsPhysical } from '../../../arch/msrs.ts';
import { allows, type VmxCapabilities } from '../../../arch/vmx/capabilities.ts';
import { SECONDARY } from '../../../arch/vmx/controls.ts';
import { EPT_CAP, inveptTypeIsOffered, invvpidTypeIsOffered, VPID_CAP } from '../../../arch/vmx/ept.ts';
import { FIELD, FIELD_MASKS, fieldExists, fieldKind, fieldRow, VMCS_FIELD_COUNT } from '../../../arch/vmx/fields.ts';
import { EXIT, X } from '../../../engine/core/exits.ts';
import type { NestedVmx } from './nested-vmx.ts';
import {
  fail,
  failInvalid,
  isRegisterForm,
  operand,
  operandBytes,
  raise,
  readOperand,
  reg1,
  reg2,
  succeed,
  writeOperand,
} from './operands.ts';
import { vmEntry } from './vm-entry.ts';
import { REGION, SHADOW_VMCS, type Vmcs12 } from './vmcs12.ts';

const FEATURE_CONTROL = 0x3a;
/** Locked, and VMX outside SMX enabled: SDM 3C 23.7. */
const FEATURE_CONTROL_NEEDED = 0b101;

/** An exit of L1. False: not a matter of VMX. */
export function rootExit(n: NestedVmx, reason: number): boolean {
  switch (reason) {
    case EXIT.VMXON:
      return vmxon(n);
    case EXIT.VMCALL:
      if (!n.vmxOn) return false;
      return n.cpu.cpl !== 0 ? raise(n, VECTOR.GP) : fail(n, 1);
    case EXIT.CR_ACCESS:
      // Without TDP L0 watches more than the bits that VMX operation fixes
      return n.breaksFixedBits(n.cpu.get(X.QUALIFICATION)) ? raise(n, VECTOR.GP) : false;
    case EXIT.VMXOFF:
    case EXIT.VMCLEAR:
    case EXIT.VMPTRLD:
    case EXIT.VMPTRST:
    case EXIT.VMREAD:
    case EXIT.VMWRITE:
    case EXIT.VMLAUNCH:
    case EXIT.VMRESUME:
    case EXIT.INVEPT:
    case EXIT.INVVPID:
      if (!n.vmxOn || isNotOffered(n, reason)) return false; // #UD
      if (n.cpu.cpl !== 0) return raise(n, VECTOR.GP);
      return inRoot(n, reason);
    default:
      return false;
  }
}

function inRoot(n: NestedVmx, reason: number): boolean {
  switch (reason) {
    case EXIT.VMXOFF:
      return vmxoff(n);
    case EXIT.VMCLEAR:
      return vmclear(n);
    case EXIT.VMPTRLD:
      return vmptrld(n);
    case EXIT.VMPTRST:
      return vmptrst(n);
    case EXIT.VMREAD:
      return n.v.address < 0 ? failInvalid(n) : vmread(n, n.v);
    case EXIT.VMWRITE:
      return n.v.address < 0 ? failInvalid(n) : vmwrite(n, n.v);
    case EXIT.INVEPT:
      return invept(n);
    case EXIT.INVVPID:
      return invvpid(n);
    default:
      return vmEntry(n, reason === EXIT.VMLAUNCH);
  }
}

// ---- VMX operation -----------------------------------------------------------------------------------------------------

function vmxon(n: NestedVmx): boolean {
  const { cpu, vcpu, caps } = n;
  if (n.vmxOn) {
    if (cpu.cpl !== 0) return raise(n, VECTOR.GP);
    // The operand is not looked at: SDM 3C 30.3 "VMXON", Operation
    return fail(n, 15);
  }
  if (cpu.cpl !== 0 || !allows(cpu.cr0, caps.cr0) || !allows(cpu.cr4, caps.cr4)) return raise(n, VECTOR.GP);
  vcpu.msrs.read(FEATURE_CONTROL);
  if ((vcpu.msrs.lo & FEATURE_CONTROL_NEEDED) !== FEATURE_CONTROL_NEEDED) return raise(n, VECTOR.GP);
  if (!readOperand(n, 8)) return true;
  if (!isRegionAddress(n)) return failInvalid(n);
  const pointer = operandAddress();
  if (n.memory.read32(pointer) !== caps.offer.revision) return failInvalid(n);
  n.enterVmxOperation(pointer);
  return succeed(n);
}

/** Page-aligned and within the physical-address width. */
const isRegionAddress = (n: NestedVmx): boolean =>
  (operand[0]! & 0xfff) === 0 && fitsPhysical(operand[1]!, n.policy.physicalAddressBits);
const operandAddress = (): number => operand[1]! * 0x1_0000_0000 + operand[0]!;

function vmxoff(n: NestedVmx): boolean {
  n.cache.flush();
  n.vcpu.mmu.releaseGuestRoots();
  n.leaveVmxOperation();
  return succeed(n);
}

// ---- the current VMCS --------------------------------------------------------------------------------------------------

function vmclear(n: NestedVmx): boolean {
  if (!readOperand(n, 8)) return true;
  if (!isRegionAddress(n)) return fail(n, 2);
  const address = operandAddress();
  if (address === n.vmxonPointer) return fail(n, 3);
  const isCurrent = address === n.v.address;
  const v = n.cache.find(address);
  if (v === undefined) n.memory.write32(address + REGION.LAUNCHED, 0);
  else {
    n.cache.clear(v);
    n.vcpu.mmu.releaseVmcs12();
  }
  if (isCurrent) n.setCurrent(n.cache.none);
  return succeed(n);
}

function vmptrld(n: NestedVmx): boolean {
  if (!readOperand(n, 8)) return true;
  if (!isRegionAddress(n)) return fail(n, 9);
  const address = operandAddress();
  if (address === n.vmxonPointer) return fail(n, 10);
  const revision = n.memory.read32(address);
  const mayShadow = (n.caps.secondary.may & SECONDARY.VMCS_SHADOWING) !== 0;
  const isKnown =
    revision === n.caps.offer.revision || (mayShadow && revision === (n.caps.offer.revision | SHADOW_VMCS) >>> 0);
  if (!isKnown) return fail(n, 11);
  if (address !== n.v.address) {
    n.setCurrent(n.cache.take(address));
    n.vcpu.mmu.releaseVmcs12();
  }
  return succeed(n);
}

function vmptrst(n: NestedVmx): boolean {
  const { address } = n.v;
  operand[0] = address < 0 ? 0xffff_ffff : address >>> 0;
  operand[1] = address < 0 ? 0xffff_ffff : Math.floor(address / 0x1_0000_0000);
  return writeOperand(n, 8) ? succeed(n) : true;
}

/** Row of the field in register `cell`, or -1; sets `isHighAccess`. */
function fieldOf(n: NestedVmx, cell: number): number {
  const { cpu } = n;
  if (cpu.long && cpu.get(cell + 4) !== 0) return -1;
  const encoding = cpu.get(cell);
  const row = fieldRow(encoding);
  if (row < 0 || n.fieldExists[row] === 0) return -1;
  isHighAccess = (encoding & 1) !== 0;
  return row;
}
let isHighAccess = false;

/** By row: 1 if VMREAD and VMWRITE know the field. */
export const existingFields = (caps: VmxCapabilities): Uint8Array =>
  Uint8Array.from({ length: VMCS_FIELD_COUNT }, (_, row) => (fieldExists(row, caps.exists) ? 1 : 0));

/** VMREAD of the current VMCS, or, executed by L2, of the shadow VMCS. */
export function vmread(n: NestedVmx, v: Vmcs12): boolean {
  const { cpu } = n;
  const row = fieldOf(n, reg2(n));
  if (row < 0) return fail(n, 12);
  let lo = v.lo(row);
  let hi = v.hi(row);
  if (isHighAccess) {
    lo = hi;
    hi = 0;
  }
  const bytes = operandBytes(n);
  if (isRegisterForm(n)) cpu.set64(reg1(n), lo, bytes === 8 ? hi : 0);
  else {
    operand[0] = lo;
    operand[1] = hi;
    if (!writeOperand(n, bytes)) return true;
  }
  return succeed(n);
}

export function vmwrite(n: NestedVmx, v: Vmcs12): boolean {
  const { cpu } = n;
  const bytes = operandBytes(n);
  let lo: number;
  let hi: number;
  if (isRegisterForm(n)) {
    lo = cpu.get(reg1(n));
    hi = bytes === 8 ? cpu.get(reg1(n) + 4) : 0;
  } else {
    if (!readOperand(n, bytes)) return true;
    lo = operand[0]!;
    hi = operand[1]!;
  }
  const row = fieldOf(n, reg2(n));
  if (row < 0) return fail(n, 12);
  if (!n.caps.offer.vmwriteAnyField && fieldKind(row) === 'exit information') return fail(n, 13);
  if (isHighAccess) {
    hi = lo;
    lo = v.lo(row);
  }
  v.set(row, (lo & FIELD_MASKS[2 * row]!) >>> 0, (hi & FIELD_MASKS[2 * row + 1]!) >>> 0);
  return succeed(n);
}

// ---- invalidations -----------------------------------------------------------------------------------------------------

/** INVEPT or INVVPID, and the processor has none: SDM 3C 30.3, before anything else. In L2, too: 25.1.1. */
export const isNotOffered = ({ caps }: NestedVmx, reason: number): boolean =>
  (reason === EXIT.INVEPT && (caps.eptCap & EPT_CAP.INVEPT) === 0) ||
  (reason === EXIT.INVVPID && (caps.vpidCap & VPID_CAP.INVVPID) === 0);

function invept(n: NestedVmx): boolean {
  const { cpu, caps } = n;
  const type = cpu.get(reg2(n));
  const typeHigh = cpu.long ? cpu.get(reg2(n) + 4) : 0;
  if (typeHigh !== 0 || !inveptTypeIsOffered(type, caps.eptCap)) return fail(n, 28);
  if (!readOperand(n, 16)) return true;
  return n.vcpu.mmu.invept(type, operand[0]!, operand[1]!) === 'ok' ? succeed(n) : fail(n, 28);
}

function invvpid(n: NestedVmx): boolean {
  const { cpu, caps } = n;
  const type = cpu.get(reg2(n));
  const typeHigh = cpu.long ? cpu.get(reg2(n) + 4) : 0;
  if (typeHigh !== 0 || !invvpidTypeIsOffered(type, caps.vpidCap)) return fail(n, 28);
  if (!readOperand(n, 16)) return true;
  const rest = operand[0]! >>> 16 !== 0 || operand[1] !== 0;
  const done = n.vcpu.mmu.invvpid(type, operand[0]! & 0xffff, rest, operand[2]!, operand[3]!);
  return done === 'ok' ? succeed(n) : fail(n, 28);
}

/** The VMCS that the link pointer names, if any. */
export function linkedVmcs(n: NestedVmx): Vmcs12 | undefined {
  const { v } = n;
  if (v.lo(FIELD.VMCS_LINK_POINTER) === 0xffff_ffff && v.hi(FIELD.VMCS_LINK_POINTER) === 0xffff_ffff) return undefined;
  const address = v.number(FIELD.VMCS_LINK_POINTER);
  return n.cache.find(address) ?? n.cache.shadow(address);
}
