/**
 * VM-entry checks on guest control registers, MSRs, descriptor tables, RIP, RFLAGS, non-register state and PDPTEs.
 * A failure is a VM exit with reason 33 and bit 31 set.
 *
 * Not here: IA32_PERF_GLOBAL_CTRL, IA32_BNDCFGS, IA32_RTIT_CTL, IA32_LBR_CTL, IA32_PKRS, UINV and CET state, whose
 * load controls L0 does not offer; SMM.
 *
 * Source  SDM 3C 26.3.1.1 "Checks on Guest Control Registers, Debug Registers, and MSRs", 26.3.1.3 "Checks on Guest
 *         Descriptor-Table Registers", 26.3.1.4 "Checks on Guest RIP, RFLAGS, and SSP", 26.3.1.5 "Checks on Guest
 *         Non-Register State", 26.3.1.6 "Checks on Guest Page-Directory-Pointer-Table Entries".
 */

import { VECTOR } from '../exceptions.ts';
import { fitsPhysical, memoryTypesAreLegal } from '../msrs.ts';
import { CR0, CR4, DEBUGCTL, EFER, RFLAGS, RFLAGS_DEFINED } from '../registers.ts';
import { allows } from './capabilities.ts';
import {
  type CheckSection,
  canonical,
  check,
  type EntryContext,
  FAILURE,
  forEach,
  hasEntry,
  hasGuestCr0,
  hasSecondary,
  hasVirtualNmis,
  isIa32eGuest,
  isPaeGuest,
  isUnrestricted,
  SECONDARY_WORDS,
} from './checks.ts';
import {
  ACCESS_RIGHTS,
  ACTIVITY,
  accessDpl,
  ENTRY,
  INTERRUPTIBILITY,
  INTERRUPTION,
  INTERRUPTION_TYPE,
  interruptionType,
  interruptionVector,
  PENDING_DEBUG,
  SECONDARY,
} from './controls.ts';
import { ENTRY_FAILURE_QUALIFICATION } from './exit-reasons.ts';
import { FIELD, type VmcsReader } from './fields.ts';

const TWO_32 = 0x1_0000_0000;
const loadsDebugControls = (v: VmcsReader): boolean => hasEntry(v, ENTRY.LOAD_DEBUG_CONTROLS);
const loadsEfer = (v: VmcsReader): boolean => hasEntry(v, ENTRY.LOAD_EFER);

export const GUEST_CONTROL_REGISTER_CHECKS = {
  section: '26.3.1.1 "Checks on Guest Control Registers, Debug Registers, and MSRs"',
  failure: FAILURE.GUEST,
  rows: {
    'guest CR0 is supported in VMX operation; an unrestricted guest may clear PE and PG': check(
      [...SECONDARY_WORDS, 'GUEST_CR0'],
      (v, c) => {
        const free = isUnrestricted(v) ? CR0.PE | CR0.PG : 0;
        return allows(v.lo(FIELD.GUEST_CR0) | free, c.vmx.cr0) && v.hi(FIELD.GUEST_CR0) === 0;
      },
    ),
    'guest CR0.PG needs CR0.PE': check(['GUEST_CR0'], (v) => !hasGuestCr0(v, CR0.PG) || hasGuestCr0(v, CR0.PE)),
    'guest CR4 is supported in VMX operation': check(
      ['GUEST_CR4'],
      (v, c) => allows(v.lo(FIELD.GUEST_CR4), c.vmx.cr4) && v.hi(FIELD.GUEST_CR4) === 0,
    ),
    'guest CR4.CET needs CR0.WP': check(
      ['GUEST_CR0', 'GUEST_CR4'],
      (v) => (v.lo(FIELD.GUEST_CR4) & CR4.CET) === 0 || hasGuestCr0(v, CR0.WP),
    ),
    'guest IA32_DEBUGCTL: reserved bits are 0': check(
      ['ENTRY_CONTROLS', 'GUEST_IA32_DEBUGCTL'],
      (v, c) =>
        !loadsDebugControls(v) ||
        ((v.lo(FIELD.GUEST_IA32_DEBUGCTL) & ~c.debugctlAllowed) === 0 && v.hi(FIELD.GUEST_IA32_DEBUGCTL) === 0),
    ),
    'an IA-32e mode guest has CR0.PG and CR4.PAE': check(
      ['ENTRY_CONTROLS', 'GUEST_CR0', 'GUEST_CR4'],
      (v) => !isIa32eGuest(v) || (hasGuestCr0(v, CR0.PG) && (v.lo(FIELD.GUEST_CR4) & CR4.PAE) !== 0),
    ),
    'a guest outside IA-32e mode has CR4.PCIDE 0': check(
      ['ENTRY_CONTROLS', 'GUEST_CR4'],
      (v) => isIa32eGuest(v) || (v.lo(FIELD.GUEST_CR4) & CR4.PCIDE) === 0,
    ),
    'guest CR3 is within the physical-address width': check(['GUEST_CR3'], (v, c) =>
      fitsPhysical(v.hi(FIELD.GUEST_CR3), c.physicalAddressBits),
    ),
    'guest DR7: bits 63:32 are 0': check(
      ['ENTRY_CONTROLS', 'GUEST_DR7'],
      (v) => !loadsDebugControls(v) || v.hi(FIELD.GUEST_DR7) === 0,
    ),
    'guest IA32_SYSENTER_ESP is canonical': canonical('GUEST_IA32_SYSENTER_ESP'),
    'guest IA32_SYSENTER_EIP is canonical': canonical('GUEST_IA32_SYSENTER_EIP'),
    'guest IA32_PAT has legal memory types': check(
      ['ENTRY_CONTROLS', 'GUEST_IA32_PAT'],
      (v) =>
        !hasEntry(v, ENTRY.LOAD_PAT) ||
        (memoryTypesAreLegal(v.lo(FIELD.GUEST_IA32_PAT), true) &&
          memoryTypesAreLegal(v.hi(FIELD.GUEST_IA32_PAT), true)),
    ),
    'guest IA32_EFER: reserved bits are 0': check(
      ['ENTRY_CONTROLS', 'GUEST_IA32_EFER'],
      (v, c) =>
        !loadsEfer(v) || ((v.lo(FIELD.GUEST_IA32_EFER) & ~c.eferAllowed) === 0 && v.hi(FIELD.GUEST_IA32_EFER) === 0),
    ),
    'guest IA32_EFER.LMA is the IA-32e mode guest control': check(
      ['ENTRY_CONTROLS', 'GUEST_IA32_EFER'],
      (v) => !loadsEfer(v) || ((v.lo(FIELD.GUEST_IA32_EFER) & EFER.LMA) !== 0) === isIa32eGuest(v),
    ),
    'guest IA32_EFER.LME is LMA while CR0.PG is 1': check(['ENTRY_CONTROLS', 'GUEST_CR0', 'GUEST_IA32_EFER'], (v) => {
      if (!loadsEfer(v) || !hasGuestCr0(v, CR0.PG)) return true;
      const efer = v.lo(FIELD.GUEST_IA32_EFER);
      return ((efer & EFER.LMA) !== 0) === ((efer & EFER.LME) !== 0);
    }),
  },
} as const satisfies CheckSection;

export const GUEST_DESCRIPTOR_TABLE_CHECKS = {
  section: '26.3.1.3 "Checks on Guest Descriptor-Table Registers"',
  failure: FAILURE.GUEST,
  rows: {
    ...forEach(['GDTR', 'IDTR'], 'base is canonical', (register) => canonical(`GUEST_${register}_BASE`)),
    ...forEach(['GDTR', 'IDTR'], 'limit has bits 31:16 0', (register) => {
      const field = `GUEST_${register}_LIMIT` as const;
      const row = FIELD[field];
      return check([field], (v) => v.lo(row) <= 0xffff);
    }),
  },
} as const satisfies CheckSection;

const is64BitCode = (v: VmcsReader): boolean =>
  isIa32eGuest(v) && (v.lo(FIELD.GUEST_CS_ACCESS_RIGHTS) & ACCESS_RIGHTS.L) !== 0;
const entryInfo = (v: VmcsReader): number => v.lo(FIELD.ENTRY_INTERRUPTION_INFO);
/** Type of the event to inject, or -1. */
const injectedType = (v: VmcsReader): number =>
  (entryInfo(v) & INTERRUPTION.VALID) !== 0 ? interruptionType(entryInfo(v)) : -1;
const hasFlag = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.GUEST_RFLAGS) & mask) !== 0;

const RIP_FIELDS = ['ENTRY_CONTROLS', 'GUEST_CS_ACCESS_RIGHTS', 'GUEST_RIP'] as const;

export const GUEST_RIP_RFLAGS_CHECKS = {
  section: '26.3.1.4 "Checks on Guest RIP, RFLAGS, and SSP"',
  failure: FAILURE.GUEST,
  rows: {
    'guest RIP: bits 63:32 are 0 outside 64-bit code': check(
      RIP_FIELDS,
      (v) => is64BitCode(v) || v.hi(FIELD.GUEST_RIP) === 0,
    ),
    'guest RIP: bits beyond the linear-address width are identical in 64-bit code': check(RIP_FIELDS, (v, c) => {
      // "Bits 63:N must be identical": N itself is the width, so this is one bit weaker than canonical.
      if (!is64BitCode(v)) return true;
      const top = v.hi(FIELD.GUEST_RIP) >> (c.linearAddressBits - 32);
      return top === 0 || top === -1;
    }),
    'guest RFLAGS: reserved bits are 0 and bit 1 is 1': check(
      ['GUEST_RFLAGS'],
      (v) =>
        v.hi(FIELD.GUEST_RFLAGS) === 0 &&
        (v.lo(FIELD.GUEST_RFLAGS) & ~RFLAGS_DEFINED) === 0 &&
        hasFlag(v, RFLAGS.FIXED1),
    ),
    'guest RFLAGS.VM is 0 in IA-32e mode and while CR0.PE is 0': check(
      ['ENTRY_CONTROLS', 'GUEST_CR0', 'GUEST_RFLAGS'],
      (v) => !hasFlag(v, RFLAGS.VM) || (!isIa32eGuest(v) && hasGuestCr0(v, CR0.PE)),
    ),
    'guest RFLAGS.IF is 1 if an external interrupt is injected': check(
      ['ENTRY_INTERRUPTION_INFO', 'GUEST_RFLAGS'],
      (v) => injectedType(v) !== INTERRUPTION_TYPE.EXTERNAL_INTERRUPT || hasFlag(v, RFLAGS.IF),
    ),
  },
} as const satisfies CheckSection;

const activity = (v: VmcsReader): number => v.lo(FIELD.GUEST_ACTIVITY_STATE);
const blocks = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.GUEST_INTERRUPTIBILITY_STATE) & mask) !== 0;
const SHADOW = INTERRUPTIBILITY.BLOCKING_BY_STI | INTERRUPTIBILITY.BLOCKING_BY_MOV_SS;
const STATE = ['GUEST_INTERRUPTIBILITY_STATE'] as const;
const INJECTION_AND_STATE = ['ENTRY_INTERRUPTION_INFO', 'GUEST_INTERRUPTIBILITY_STATE'] as const;
const PENDING_DEFINED =
  PENDING_DEBUG.B0 |
  PENDING_DEBUG.B1 |
  PENDING_DEBUG.B2 |
  PENDING_DEBUG.B3 |
  PENDING_DEBUG.ENABLED_BREAKPOINT |
  PENDING_DEBUG.BS;
const isSingleStepDue = (v: VmcsReader): boolean =>
  (blocks(v, SHADOW) || activity(v) === ACTIVITY.HLT) &&
  hasFlag(v, RFLAGS.TF) &&
  (v.lo(FIELD.GUEST_IA32_DEBUGCTL) & DEBUGCTL.BTF) === 0;
const BS_FIELDS = [
  'GUEST_PENDING_DEBUG_EXCEPTIONS',
  'GUEST_INTERRUPTIBILITY_STATE',
  'GUEST_ACTIVITY_STATE',
  'GUEST_RFLAGS',
  'GUEST_IA32_DEBUGCTL',
] as const;
const hasLink = (v: VmcsReader): boolean =>
  v.lo(FIELD.VMCS_LINK_POINTER) !== 0xffff_ffff || v.hi(FIELD.VMCS_LINK_POINTER) !== 0xffff_ffff;
const linkAddress = (v: VmcsReader): number => v.hi(FIELD.VMCS_LINK_POINTER) * TWO_32 + v.lo(FIELD.VMCS_LINK_POINTER);
const LINK = { qualification: ENTRY_FAILURE_QUALIFICATION.LINK_POINTER } as const;

export const GUEST_NON_REGISTER_CHECKS = {
  section: '26.3.1.5 "Checks on Guest Non-Register State"',
  failure: FAILURE.GUEST,
  rows: {
    'activity state is one that the processor supports': check(
      ['GUEST_ACTIVITY_STATE'],
      (v, c) => activity(v) <= 3 && ((c.vmx.offer.activityStates >>> activity(v)) & 1) !== 0,
    ),
    'activity state HLT needs SS.DPL 0': check(
      ['GUEST_ACTIVITY_STATE', 'GUEST_SS_ACCESS_RIGHTS'],
      (v) => activity(v) !== ACTIVITY.HLT || accessDpl(v.lo(FIELD.GUEST_SS_ACCESS_RIGHTS)) === 0,
    ),
    'blocking by STI or MOV SS needs the active state': check(
      ['GUEST_ACTIVITY_STATE', 'GUEST_INTERRUPTIBILITY_STATE'],
      (v) => !blocks(v, SHADOW) || activity(v) === ACTIVITY.ACTIVE,
    ),
    'activity state allows the event that is injected': check(
      ['ENTRY_INTERRUPTION_INFO', 'GUEST_ACTIVITY_STATE'],
      (v) => injectedType(v) < 0 || wakes(activity(v), injectedType(v), interruptionVector(entryInfo(v))),
    ),
    'interruptibility state: reserved bits are 0': check(
      STATE,
      // Bit 4, enclave interruption, is reserved as well: SGX is not offered.
      (v) => v.lo(FIELD.GUEST_INTERRUPTIBILITY_STATE) <= 0xf,
    ),
    'blocking by STI and by MOV SS exclude each other': check(
      STATE,
      (v) => !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_STI) || !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_MOV_SS),
    ),
    'blocking by STI needs RFLAGS.IF': check(
      ['GUEST_INTERRUPTIBILITY_STATE', 'GUEST_RFLAGS'],
      (v) => !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_STI) || hasFlag(v, RFLAGS.IF),
    ),
    'injecting an external interrupt needs no blocking by STI or MOV SS': check(
      INJECTION_AND_STATE,
      (v) => injectedType(v) !== INTERRUPTION_TYPE.EXTERNAL_INTERRUPT || !blocks(v, SHADOW),
    ),
    'injecting an NMI needs no blocking by MOV SS': check(
      INJECTION_AND_STATE,
      (v) => injectedType(v) !== INTERRUPTION_TYPE.NMI || !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_MOV_SS),
    ),
    'blocking by SMI is 0 outside SMM': check(STATE, (v) => !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_SMI)),
    'injecting a virtual NMI needs no blocking by NMI': check(
      ['PIN_CONTROLS', ...INJECTION_AND_STATE],
      (v) =>
        !hasVirtualNmis(v) || injectedType(v) !== INTERRUPTION_TYPE.NMI || !blocks(v, INTERRUPTIBILITY.BLOCKING_BY_NMI),
    ),
    'pending debug exceptions: reserved bits are 0': check(
      ['GUEST_PENDING_DEBUG_EXCEPTIONS'],
      (v) =>
        (v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) & ~PENDING_DEFINED) === 0 &&
        v.hi(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) === 0,
    ),
    'pending debug exceptions: BS is 1 where a single-step trap is due': check(
      BS_FIELDS,
      (v) => !isSingleStepDue(v) || (v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG.BS) !== 0,
    ),
    'pending debug exceptions: BS is 0 where no single-step trap can be due': check(
      BS_FIELDS,
      (v) =>
        (!blocks(v, SHADOW) && activity(v) !== ACTIVITY.HLT) ||
        isSingleStepDue(v) ||
        (v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG.BS) === 0,
    ),
    'VMCS link pointer is page-aligned': check(
      ['VMCS_LINK_POINTER'],
      (v) => !hasLink(v) || (v.lo(FIELD.VMCS_LINK_POINTER) & 0xfff) === 0,
      LINK,
    ),
    'VMCS link pointer is within the physical-address width': check(
      ['VMCS_LINK_POINTER'],
      (v, c) => !hasLink(v) || fitsPhysical(v.hi(FIELD.VMCS_LINK_POINTER), c.physicalAddressBits),
      LINK,
    ),
    'VMCS link pointer: the region has our revision, and the shadow bit as VMCS shadowing says': check(
      [...SECONDARY_WORDS, 'VMCS_LINK_POINTER'],
      (v, c) => {
        if (!hasLink(v)) return true;
        const shadow = hasSecondary(v, SECONDARY.VMCS_SHADOWING) ? 0x8000_0000 : 0;
        return c.readPhysical32(linkAddress(v)) >>> 0 === c.vmx.offer.revision + shadow;
      },
      { ...LINK, alsoReads: { memoryIf: hasLink } },
    ),
    'VMCS link pointer is not the current VMCS': check(
      ['VMCS_LINK_POINTER'],
      (v, c) => !hasLink(v) || linkAddress(v) !== c.currentVmcs,
      { ...LINK, alsoReads: 'mode' },
    ),
  },
} as const satisfies CheckSection;

/** "If the valid bit is 1, the interruptibility and activity state are such that the event can be delivered." */
function wakes(state: number, type: number, vector: number): boolean {
  switch (state) {
    case ACTIVITY.HLT:
      if (type === INTERRUPTION_TYPE.HARDWARE_EXCEPTION) return vector === VECTOR.DB || vector === VECTOR.MC;
      return (
        type === INTERRUPTION_TYPE.EXTERNAL_INTERRUPT ||
        type === INTERRUPTION_TYPE.NMI ||
        type === INTERRUPTION_TYPE.OTHER_EVENT
      );
    case ACTIVITY.SHUTDOWN:
      return type === INTERRUPTION_TYPE.NMI || (type === INTERRUPTION_TYPE.HARDWARE_EXCEPTION && vector === VECTOR.MC);
    case ACTIVITY.WAIT_FOR_SIPI:
      return false;
    default:
      return true;
  }
}

const PDPTE_PRESENT = 1;
/** Bits 2:1 and 8:5; above MAXPHYADDR is judged by `fitsPhysical`. SDM 3A 4.4.1, Table 4-8. */
const PDPTE_RESERVED = 0x1e6;
export const pdpteIsLegal = (lo: number, hi: number, physicalAddressBits: number): boolean =>
  (lo & PDPTE_PRESENT) === 0 || ((lo & PDPTE_RESERVED) === 0 && fitsPhysical(hi, physicalAddressBits));

const usesEpt = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.ENABLE_EPT);
const hasPdptesInMemory = (v: VmcsReader): boolean => isPaeGuest(v) && !usesEpt(v);
const PDPTE_FIELDS = ['ENTRY_CONTROLS', 'GUEST_CR0', 'GUEST_CR4', ...SECONDARY_WORDS] as const;

export const GUEST_PDPTE_CHECKS = {
  section: '26.3.1.6 "Checks on Guest Page-Directory-Pointer-Table Entries"',
  failure: { ...FAILURE.GUEST, qualification: ENTRY_FAILURE_QUALIFICATION.PDPTE },
  rows: {
    ...forEach(['PDPTE0', 'PDPTE1', 'PDPTE2', 'PDPTE3'], 'of a PAE guest with EPT has no reserved bit', (register) => {
      const field = `GUEST_${register}` as const;
      const row = FIELD[field];
      return check(
        [...PDPTE_FIELDS, field],
        (v, c) => !isPaeGuest(v) || !usesEpt(v) || pdpteIsLegal(v.lo(row), v.hi(row), c.physicalAddressBits),
      );
    }),
    'the PDPTEs that CR3 of a PAE guest without EPT points to have no reserved bit': check(
      [...PDPTE_FIELDS, 'GUEST_CR3'],
      (v, c) => !hasPdptesInMemory(v) || pdptesInMemoryAreLegal(v, c),
      { alsoReads: { memoryIf: hasPdptesInMemory } },
    ),
  },
} as const satisfies CheckSection;

function pdptesInMemoryAreLegal(v: VmcsReader, c: EntryContext): boolean {
  // PAE paging takes CR3[31:5]; the upper half is ignored.
  const table = (v.lo(FIELD.GUEST_CR3) & ~31) >>> 0;
  for (let entry = 0; entry < 4; entry += 1) {
    const lo = c.readPhysical32(table + 8 * entry);
    const hi = c.readPhysical32(table + 8 * entry + 4);
    if (!pdpteIsLegal(lo, hi, c.physicalAddressBits)) return false;
  }
  return true;
}
