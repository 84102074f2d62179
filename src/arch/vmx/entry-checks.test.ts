import { describe, expect, test } from 'vitest';
import { BASE_CAPABILITIES, parseCpu } from '../cpu-models.ts';
import { CpuidPolicy } from '../cpuid.ts';
import type { Capability } from '../cpuid-features.ts';
import { CR4, EFER } from '../registers.ts';
import { FULL_OFFER, type VmxOffer, vmxCapabilities } from './capabilities.ts';
import type { EntryContext } from './checks.ts';
import {
  type EntryCheckName,
  GUEST_CHECKS,
  MSR_LOAD_CHECKS,
  MSR_STORE_CHECKS,
  msrEntryFailure,
  VMX_CHECKS,
  vmEntryChecks,
} from './entry-checks.ts';
import { EPT_CAP } from './ept.ts';
import { FIELD, VMCS_FIELD_NAMES, type VmcsField, type VmcsReader } from './fields.ts';
import {
  BAD_PDPTE_TABLE,
  CURRENT_VMCS,
  type FieldValues,
  PDPTE_TABLE,
  PLAIN_VMCS,
  SHADOW_VMCS,
  setFields,
  VALID_VMCS,
  type ValidVmcs,
  VIRTUAL_APIC_PAGE,
  validVmcs,
} from './valid-vmcs.ts';

interface Counterexample {
  /** The valid VMCS that is changed. */
  readonly from: ValidVmcs;
  /** The one mutation. */
  readonly set: FieldValues;
  readonly context?: { readonly lma?: boolean; readonly accessedDirty?: boolean };
  /** A check that says the same with fewer words and comes first: then this one can never be the first to fail. */
  readonly behind?: EntryCheckName;
}

/** What to change in a valid VMCS to break one check. A check without one does not compile. */
export const COUNTEREXAMPLES: Record<EntryCheckName, Counterexample> = {
  'pin-based controls: reserved bits are as IA32_VMX_TRUE_PINBASED_CTLS says': {
    from: 'pae',
    set: { PIN_CONTROLS: 0x12 },
  },
  'primary controls: reserved bits are as IA32_VMX_TRUE_PROCBASED_CTLS says': {
    from: 'pae',
    set: { PRIMARY_CONTROLS: 0x0400_6173 },
  },
  'secondary controls, if activated: reserved bits are 0': { from: 'paeEpt', set: { SECONDARY_CONTROLS: 0x0080_0002 } },
  'CR3-target count is at most 4': { from: 'pae', set: { CR3_TARGET_COUNT: 5 } },
  'I/O bitmap A is page-aligned': { from: 'long', set: { IO_BITMAP_A: 0x5800 } },
  'I/O bitmap A is within the physical-address width': { from: 'long', set: { IO_BITMAP_A: 0x4000_0000_0000n } },
  'I/O bitmap B is page-aligned': { from: 'long', set: { IO_BITMAP_B: 0x5800 } },
  'I/O bitmap B is within the physical-address width': { from: 'long', set: { IO_BITMAP_B: 0x4000_0000_0000n } },
  'MSR bitmap is page-aligned': { from: 'long', set: { MSR_BITMAP: 0x5800 } },
  'MSR bitmap is within the physical-address width': { from: 'long', set: { MSR_BITMAP: 0x4000_0000_0000n } },
  'virtual-APIC address is page-aligned': { from: 'long', set: { VIRTUAL_APIC_ADDRESS: 0x5800 } },
  'virtual-APIC address is within the physical-address width': {
    from: 'long',
    set: { VIRTUAL_APIC_ADDRESS: 0x4000_0000_0000n },
  },
  'TPR threshold: bits 31:4 are 0 without virtual-interrupt delivery': {
    from: 'tprShadow',
    set: { TPR_THRESHOLD: 0x10 },
  },
  'TPR threshold is at most VTPR[7:4] without APIC-access virtualization': {
    from: 'tprShadow',
    set: { TPR_THRESHOLD: 6 },
  },
  'virtual NMIs need NMI exiting': { from: 'pae', set: { PIN_CONTROLS: 0x36 } },
  'NMI-window exiting needs virtual NMIs': { from: 'pae', set: { PRIMARY_CONTROLS: 0x0440_6172 } },
  'APIC-access address is page-aligned': { from: 'long', set: { APIC_ACCESS_ADDRESS: 0x9001 } },
  'APIC-access address is within the physical-address width': {
    from: 'long',
    set: { APIC_ACCESS_ADDRESS: 0x4000_0000_0000n },
  },
  'x2APIC virtualization, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow': {
    from: 'paeEpt',
    set: { SECONDARY_CONTROLS: 0x102 },
  },
  'x2APIC mode and APIC accesses are not both virtualized': {
    from: 'tprShadow',
    set: { PRIMARY_CONTROLS: 0x8420_6172, SECONDARY_CONTROLS: 0x11 },
  },
  'virtual-interrupt delivery needs external-interrupt exiting': { from: 'long', set: { PIN_CONTROLS: 0xfe } },
  'posted interrupts need virtual-interrupt delivery': { from: 'pae', set: { PIN_CONTROLS: 0x96 } },
  'posted interrupts need acknowledge interrupt on exit': { from: 'long', set: { EXIT_CONTROLS: 0x002b_6fff } },
  'posted-interrupt notification vector is at most 255': {
    from: 'long',
    set: { POSTED_INTERRUPT_NOTIFICATION_VECTOR: 0x100 },
  },
  'posted-interrupt descriptor is 64-byte aligned': { from: 'long', set: { POSTED_INTERRUPT_DESCRIPTOR: 0xa020 } },
  'posted-interrupt descriptor is within the physical-address width': {
    from: 'long',
    set: { POSTED_INTERRUPT_DESCRIPTOR: 0x4000_0000_0000n },
  },
  'VPID is not 0': { from: 'long', set: { VPID: 0 } },
  'EPTP: the memory type is offered': { from: 'paeEpt', set: { EPT_POINTER: 0xb01c } },
  'EPTP: the page-walk length is offered': { from: 'paeEpt', set: { EPT_POINTER: 0xb026 } },
  'EPTP: accessed and dirty flags only if offered': {
    from: 'paeEpt',
    set: { EPT_POINTER: 0xb05e },
    context: { accessedDirty: false },
  },
  'EPTP: reserved bits are 0': { from: 'paeEpt', set: { EPT_POINTER: 0xb09e } },
  'PML needs EPT': { from: 'paeEpt', set: { SECONDARY_CONTROLS: 0x2_0000 } },
  'PML address is page-aligned': { from: 'long', set: { PML_ADDRESS: 0xc010 } },
  'PML address is within the physical-address width': { from: 'long', set: { PML_ADDRESS: 0x4000_0000_0000n } },
  'unrestricted guest needs EPT': { from: 'paeEpt', set: { SECONDARY_CONTROLS: 0x80 } },
  'mode-based execute control needs EPT': { from: 'paeEpt', set: { SECONDARY_CONTROLS: 0x40_0000 } },
  'VM-function controls: reserved bits are 0': { from: 'long', set: { VM_FUNCTION_CONTROLS: 3 } },
  'EPTP switching needs EPT': { from: 'paeEpt', set: { SECONDARY_CONTROLS: 0x2000, VM_FUNCTION_CONTROLS: 1 } },
  'EPTP-list address is page-aligned': { from: 'long', set: { EPTP_LIST_ADDRESS: 0x5800 } },
  'EPTP-list address is within the physical-address width': {
    from: 'long',
    set: { EPTP_LIST_ADDRESS: 0x4000_0000_0000n },
  },
  'VMREAD bitmap is page-aligned': { from: 'long', set: { VMREAD_BITMAP: 0x5800 } },
  'VMREAD bitmap is within the physical-address width': { from: 'long', set: { VMREAD_BITMAP: 0x4000_0000_0000n } },
  'VMWRITE bitmap is page-aligned': { from: 'long', set: { VMWRITE_BITMAP: 0x5800 } },
  'VMWRITE bitmap is within the physical-address width': { from: 'long', set: { VMWRITE_BITMAP: 0x4000_0000_0000n } },
  '#VE information address is page-aligned': { from: 'long', set: { VE_INFORMATION_ADDRESS: 0x5800 } },
  '#VE information address is within the physical-address width': {
    from: 'long',
    set: { VE_INFORMATION_ADDRESS: 0x4000_0000_0000n },
  },
  'exit controls: reserved bits are as IA32_VMX_TRUE_EXIT_CTLS says': {
    from: 'pae',
    set: { EXIT_CONTROLS: 0x002b_6ffb + 0x100_0000 },
  },
  'saving the preemption timer needs the preemption timer': { from: 'pae', set: { EXIT_CONTROLS: 0x006b_efff } },
  'exit MSR-store area is 16-byte aligned': { from: 'long', set: { EXIT_MSR_STORE_ADDRESS: 0x8008 } },
  'exit MSR-store area is within the physical-address width': {
    from: 'long',
    set: { EXIT_MSR_STORE_ADDRESS: 0x3fff_ffff_fff0n, EXIT_MSR_STORE_COUNT: 2 },
  },
  'exit MSR-load area is 16-byte aligned': { from: 'long', set: { EXIT_MSR_LOAD_ADDRESS: 0x8008 } },
  'exit MSR-load area is within the physical-address width': {
    from: 'long',
    set: { EXIT_MSR_LOAD_ADDRESS: 0x3fff_ffff_fff0n, EXIT_MSR_LOAD_COUNT: 2 },
  },
  'entry controls: reserved bits are as IA32_VMX_TRUE_ENTRY_CTLS says': {
    from: 'pae',
    set: { ENTRY_CONTROLS: 0x15fb },
  },
  'event injection: the interruption type is not reserved': {
    from: 'pae',
    set: { ENTRY_INTERRUPTION_INFO: 0x8000_0120 },
  },
  'event injection: the vector fits the type': { from: 'pae', set: { ENTRY_INTERRUPTION_INFO: 0x8000_0203 } },
  'event injection: an error code is delivered exactly if the exception has one': {
    from: 'pae',
    set: { ENTRY_INTERRUPTION_INFO: 0x8000_030d },
  },
  'event injection: bits 30:12 are 0': { from: 'pae', set: { ENTRY_INTERRUPTION_INFO: 0x8000_1020 } },
  'event injection: bits 31:16 of the error code are 0': {
    from: 'pae',
    set: { ENTRY_INTERRUPTION_INFO: 0x8000_0b0d, ENTRY_EXCEPTION_ERROR_CODE: 0x1_0000 },
  },
  'event injection: the instruction length of a software event is at most 15, and not 0 unless offered': {
    from: 'pae',
    set: { ENTRY_INTERRUPTION_INFO: 0x8000_0480, ENTRY_INSTRUCTION_LENGTH: 16 },
  },
  'entry MSR-load area is 16-byte aligned': { from: 'long', set: { ENTRY_MSR_LOAD_ADDRESS: 0x8008 } },
  'entry MSR-load area is within the physical-address width': {
    from: 'long',
    set: { ENTRY_MSR_LOAD_ADDRESS: 0x3fff_ffff_fff0n, ENTRY_MSR_LOAD_COUNT: 2 },
  },
  'host CR0 is supported in VMX operation': { from: 'pae', set: { HOST_CR0: 0x8000_0013 } },
  'host CR4 is supported in VMX operation': { from: 'pae', set: { HOST_CR4: 0x20 } },
  'host CR3 is within the physical-address width': { from: 'pae', set: { HOST_CR3: 0x4000_0000_0000n } },
  'host IA32_SYSENTER_ESP is canonical': { from: 'pae', set: { HOST_IA32_SYSENTER_ESP: 0x8000_0000_0000n } },
  'host IA32_SYSENTER_EIP is canonical': { from: 'pae', set: { HOST_IA32_SYSENTER_EIP: 0x8000_0000_0000n } },
  'host IA32_PAT has legal memory types': { from: 'pae', set: { HOST_IA32_PAT: 2 } },
  'host IA32_EFER: reserved bits are 0': { from: 'pae', set: { HOST_IA32_EFER: 0x1d01 } },
  'host IA32_EFER: LMA and LME are the host address-space size': { from: 'pae', set: { HOST_IA32_EFER: 0x901 } },
  'CS selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_CS_SELECTOR: 0x0b } },
  'SS selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_SS_SELECTOR: 0x0b } },
  'DS selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_DS_SELECTOR: 0x0b } },
  'ES selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_ES_SELECTOR: 0x0b } },
  'FS selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_FS_SELECTOR: 0x0b } },
  'GS selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_GS_SELECTOR: 0x0b } },
  'TR selector of the host has RPL 0 and TI 0': { from: 'pae', set: { HOST_TR_SELECTOR: 0x2c } },
  'host CS selector is not 0': { from: 'pae', set: { HOST_CS_SELECTOR: 0 } },
  'host TR selector is not 0': { from: 'pae', set: { HOST_TR_SELECTOR: 0 } },
  'host SS selector is not 0 in a 32-bit host': {
    from: 'host32',
    set: { HOST_SS_SELECTOR: 0 },
    context: { lma: false },
  },
  'FS base of the host is canonical': { from: 'pae', set: { HOST_FS_BASE: 0x8000_0000_0000n } },
  'GS base of the host is canonical': { from: 'pae', set: { HOST_GS_BASE: 0x8000_0000_0000n } },
  'GDTR base of the host is canonical': { from: 'pae', set: { HOST_GDTR_BASE: 0x8000_0000_0000n } },
  'IDTR base of the host is canonical': { from: 'pae', set: { HOST_IDTR_BASE: 0x8000_0000_0000n } },
  'TR base of the host is canonical': { from: 'pae', set: { HOST_TR_BASE: 0x8000_0000_0000n } },
  'outside IA-32e mode the guest is not in IA-32e mode either': {
    from: 'host32',
    set: { ENTRY_CONTROLS: 0x13fb },
    context: { lma: false },
  },
  'the host address-space size is the mode at VM entry': { from: 'pae', set: {}, context: { lma: false } },
  'a 32-bit host has no IA-32e mode guest': {
    from: 'host32',
    set: { ENTRY_CONTROLS: 0x13fb },
    context: { lma: false },
    behind: 'outside IA-32e mode the guest is not in IA-32e mode either',
  },
  'a 32-bit host has CR4.PCIDE 0': { from: 'host32', set: { HOST_CR4: 0x2_2000 }, context: { lma: false } },
  'a 32-bit host has RIP bits 63:32 0': { from: 'host32', set: { HOST_RIP: 0x1_0000_0000 }, context: { lma: false } },
  'a 64-bit host has CR4.PAE 1': { from: 'pae', set: { HOST_CR4: 0x2000 } },
  'a 64-bit host has a canonical RIP': { from: 'pae', set: { HOST_RIP: 0x8000_0000_0000n } },
  'guest CR0 is supported in VMX operation; an unrestricted guest may clear PE and PG': {
    from: 'pae',
    set: { GUEST_CR0: 0x8000_0011 },
  },
  'guest CR0.PG needs CR0.PE': { from: 'real', set: { GUEST_CR0: 0x8000_0030 } },
  'guest CR4 is supported in VMX operation': { from: 'pae', set: { GUEST_CR4: 0x20 } },
  'host CR4.CET needs CR0.WP': { from: 'pae', set: { HOST_CR4: 0x80_2020 } },
  'guest CR4.CET needs CR0.WP': { from: 'pae', set: { GUEST_CR4: 0x80_2020 } },
  'guest IA32_DEBUGCTL: reserved bits are 0': { from: 'long', set: { GUEST_IA32_DEBUGCTL: 0x4 } },
  'an IA-32e mode guest has CR0.PG and CR4.PAE': { from: 'long', set: { GUEST_CR4: 0x2000 } },
  'a guest outside IA-32e mode has CR4.PCIDE 0': { from: 'pae', set: { GUEST_CR4: 0x2_2020 } },
  'guest CR3 is within the physical-address width': { from: 'pae', set: { GUEST_CR3: 0x4000_0000_0000n } },
  'guest DR7: bits 63:32 are 0': { from: 'long', set: { GUEST_DR7: 0x1_0000_0400 } },
  'guest IA32_SYSENTER_ESP is canonical': { from: 'pae', set: { GUEST_IA32_SYSENTER_ESP: 0x8000_0000_0000n } },
  'guest IA32_SYSENTER_EIP is canonical': { from: 'pae', set: { GUEST_IA32_SYSENTER_EIP: 0x8000_0000_0000n } },
  'guest IA32_PAT has legal memory types': { from: 'long', set: { GUEST_IA32_PAT: 0x0300_0000_0000_0000n } },
  'guest IA32_EFER: reserved bits are 0': { from: 'long', set: { GUEST_IA32_EFER: 0xd03 } },
  'guest IA32_EFER.LMA is the IA-32e mode guest control': { from: 'long', set: { GUEST_IA32_EFER: 0x801 } },
  'guest IA32_EFER.LME is LMA while CR0.PG is 1': { from: 'long', set: { GUEST_IA32_EFER: 0xc01 } },
  'TR selector has TI 0': { from: 'pae', set: { GUEST_TR_SELECTOR: 0x2c } },
  'LDTR selector has TI 0 if usable': { from: 'pae', set: { GUEST_LDTR_SELECTOR: 0x34 } },
  'SS selector has the RPL of CS unless unrestricted': { from: 'pae', set: { GUEST_CS_SELECTOR: 0x0b } },
  'CS base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_CS_BASE: 0x1_0010 } },
  'SS base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_SS_BASE: 0x1_0010 } },
  'DS base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_DS_BASE: 0x1_0010 } },
  'ES base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_ES_BASE: 0x1_0010 } },
  'FS base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_FS_BASE: 0x1_0010 } },
  'GS base is the selector times 16 in virtual-8086 mode': { from: 'v8086', set: { GUEST_GS_BASE: 0x1_0010 } },
  'TR base is canonical': { from: 'pae', set: { GUEST_TR_BASE: 0x8000_0000_0000n } },
  'FS base is canonical': { from: 'pae', set: { GUEST_FS_BASE: 0x8000_0000_0000n } },
  'GS base is canonical': { from: 'pae', set: { GUEST_GS_BASE: 0x8000_0000_0000n } },
  'LDTR base is canonical if usable': { from: 'pae', set: { GUEST_LDTR_BASE: 0x8000_0000_0000n } },
  'CS base has bits 63:32 0': { from: 'pae', set: { GUEST_CS_BASE: 0x1_0000_0000 } },
  'SS base has bits 63:32 0 if usable': { from: 'pae', set: { GUEST_SS_BASE: 0x1_0000_0000 } },
  'DS base has bits 63:32 0 if usable': { from: 'pae', set: { GUEST_DS_BASE: 0x1_0000_0000 } },
  'ES base has bits 63:32 0 if usable': { from: 'pae', set: { GUEST_ES_BASE: 0x1_0000_0000 } },
  'CS limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_CS_LIMIT: 0xfffe } },
  'SS limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_SS_LIMIT: 0xfffe } },
  'DS limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_DS_LIMIT: 0xfffe } },
  'ES limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_ES_LIMIT: 0xfffe } },
  'FS limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_FS_LIMIT: 0xfffe } },
  'GS limit is 0xffff in virtual-8086 mode': { from: 'v8086', set: { GUEST_GS_LIMIT: 0xfffe } },
  'CS access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_CS_ACCESS_RIGHTS: 0x93 } },
  'SS access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_SS_ACCESS_RIGHTS: 0x93 } },
  'DS access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_DS_ACCESS_RIGHTS: 0x93 } },
  'ES access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_ES_ACCESS_RIGHTS: 0x93 } },
  'FS access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_FS_ACCESS_RIGHTS: 0x93 } },
  'GS access rights are 0xf3 in virtual-8086 mode': { from: 'v8086', set: { GUEST_GS_ACCESS_RIGHTS: 0x93 } },
  'CS type is accessed code; an unrestricted guest may have 3': {
    from: 'pae',
    set: { GUEST_CS_ACCESS_RIGHTS: 0xc093 },
  },
  'SS type is accessed writable data if usable': { from: 'pae', set: { GUEST_SS_ACCESS_RIGHTS: 0xc091 } },
  'DS type is accessed if usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0xc092 } },
  'ES type is accessed if usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0xc092 } },
  'FS type is accessed if usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0xc092 } },
  'GS type is accessed if usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0xc092 } },
  'DS type is readable if code and usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0xc099 } },
  'ES type is readable if code and usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0xc099 } },
  'FS type is readable if code and usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0xc099 } },
  'GS type is readable if code and usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0xc099 } },
  'CS is a code or data descriptor': { from: 'pae', set: { GUEST_CS_ACCESS_RIGHTS: 0xc08b } },
  'SS is a code or data descriptor if usable': { from: 'pae', set: { GUEST_SS_ACCESS_RIGHTS: 0xc083 } },
  'DS is a code or data descriptor if usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0xc083 } },
  'ES is a code or data descriptor if usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0xc083 } },
  'FS is a code or data descriptor if usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0xc083 } },
  'GS is a code or data descriptor if usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0xc083 } },
  'CS DPL is 0 for type 3': { from: 'real', set: { GUEST_CS_ACCESS_RIGHTS: 0xb3 } },
  'CS DPL is that of SS for non-conforming code': { from: 'pae', set: { GUEST_CS_ACCESS_RIGHTS: 0xc0fb } },
  'CS DPL is at most that of SS for conforming code': { from: 'pae', set: { GUEST_CS_ACCESS_RIGHTS: 0xc0ff } },
  'SS DPL is its RPL unless unrestricted': { from: 'pae', set: { GUEST_SS_SELECTOR: 0x13, GUEST_CS_SELECTOR: 0x0b } },
  'SS DPL is 0 if CS has type 3 or CR0.PE is 0': { from: 'real', set: { GUEST_SS_ACCESS_RIGHTS: 0xb3 } },
  'DS DPL is at least its RPL unless conforming or unrestricted': { from: 'pae', set: { GUEST_DS_SELECTOR: 0x13 } },
  'ES DPL is at least its RPL unless conforming or unrestricted': { from: 'pae', set: { GUEST_ES_SELECTOR: 0x13 } },
  'FS DPL is at least its RPL unless conforming or unrestricted': { from: 'pae', set: { GUEST_FS_SELECTOR: 0x13 } },
  'GS DPL is at least its RPL unless conforming or unrestricted': { from: 'pae', set: { GUEST_GS_SELECTOR: 0x13 } },
  'CS is present': { from: 'pae', set: { GUEST_CS_ACCESS_RIGHTS: 0xc01b } },
  'SS is present if usable': { from: 'pae', set: { GUEST_SS_ACCESS_RIGHTS: 0xc013 } },
  'DS is present if usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0xc013 } },
  'ES is present if usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0xc013 } },
  'FS is present if usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0xc013 } },
  'GS is present if usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0xc013 } },
  'CS access rights: reserved bits are 0': { from: 'pae', set: { GUEST_CS_ACCESS_RIGHTS: 0xc19b } },
  'SS access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_SS_ACCESS_RIGHTS: 0xc893 } },
  'DS access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0xc893 } },
  'ES access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0xc893 } },
  'FS access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0xc893 } },
  'GS access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0xc893 } },
  'CS D/B is 0 in 64-bit code': { from: 'long', set: { GUEST_CS_ACCESS_RIGHTS: 0xe09b } },
  'CS granularity fits its limit': { from: 'pae', set: { GUEST_CS_LIMIT: 0xffff_fffe } },
  'SS granularity fits its limit if usable': { from: 'pae', set: { GUEST_SS_ACCESS_RIGHTS: 0x4093 } },
  'DS granularity fits its limit if usable': { from: 'pae', set: { GUEST_DS_ACCESS_RIGHTS: 0x4093 } },
  'ES granularity fits its limit if usable': { from: 'pae', set: { GUEST_ES_ACCESS_RIGHTS: 0x4093 } },
  'FS granularity fits its limit if usable': { from: 'pae', set: { GUEST_FS_ACCESS_RIGHTS: 0x4093 } },
  'GS granularity fits its limit if usable': { from: 'pae', set: { GUEST_GS_ACCESS_RIGHTS: 0x4093 } },
  'TR type is a busy TSS, of 64 bits in IA-32e mode': { from: 'long', set: { GUEST_TR_ACCESS_RIGHTS: 0x83 } },
  'TR is a system descriptor': { from: 'pae', set: { GUEST_TR_ACCESS_RIGHTS: 0x9b } },
  'TR is present': { from: 'pae', set: { GUEST_TR_ACCESS_RIGHTS: 0x0b } },
  'TR access rights: reserved bits are 0': { from: 'pae', set: { GUEST_TR_ACCESS_RIGHTS: 0x18b } },
  'TR granularity fits its limit': { from: 'pae', set: { GUEST_TR_LIMIT: 0x10_0000 } },
  'TR is usable': { from: 'pae', set: { GUEST_TR_ACCESS_RIGHTS: 0x1_008b } },
  'LDTR type is 2 if usable': { from: 'pae', set: { GUEST_LDTR_ACCESS_RIGHTS: 0x83 } },
  'LDTR is a system descriptor if usable': { from: 'pae', set: { GUEST_LDTR_ACCESS_RIGHTS: 0x92 } },
  'LDTR is present if usable': { from: 'pae', set: { GUEST_LDTR_ACCESS_RIGHTS: 0x02 } },
  'LDTR access rights: reserved bits are 0 if usable': { from: 'pae', set: { GUEST_LDTR_ACCESS_RIGHTS: 0x182 } },
  'LDTR granularity fits its limit if usable': { from: 'pae', set: { GUEST_LDTR_LIMIT: 0x10_0000 } },
  'GDTR base is canonical': { from: 'pae', set: { GUEST_GDTR_BASE: 0x8000_0000_0000n } },
  'GDTR limit has bits 31:16 0': { from: 'pae', set: { GUEST_GDTR_LIMIT: 0x1_0000 } },
  'IDTR base is canonical': { from: 'pae', set: { GUEST_IDTR_BASE: 0x8000_0000_0000n } },
  'IDTR limit has bits 31:16 0': { from: 'pae', set: { GUEST_IDTR_LIMIT: 0x1_0000 } },
  'guest RIP: bits 63:32 are 0 outside 64-bit code': { from: 'pae', set: { GUEST_RIP: 0x1_0000_0000 } },
  'guest RIP: bits beyond the linear-address width are identical in 64-bit code': {
    from: 'long',
    set: { GUEST_RIP: 0x1_0000_0000_0000n },
  },
  'guest RFLAGS: reserved bits are 0 and bit 1 is 1': { from: 'pae', set: { GUEST_RFLAGS: 0x200 } },
  'guest RFLAGS.VM is 0 in IA-32e mode and while CR0.PE is 0': { from: 'v8086', set: { ENTRY_CONTROLS: 0x13fb } },
  'guest RFLAGS.IF is 1 if an external interrupt is injected': {
    from: 'pae',
    set: { ENTRY_INTERRUPTION_INFO: 0x8000_0020, GUEST_RFLAGS: 0x2 },
  },
  'activity state is one that the processor supports': { from: 'pae', set: { GUEST_ACTIVITY_STATE: 4 } },
  'activity state HLT needs SS.DPL 0': { from: 'v8086', set: { GUEST_ACTIVITY_STATE: 1 } },
  'blocking by STI or MOV SS needs the active state': {
    from: 'pae',
    set: { GUEST_ACTIVITY_STATE: 1, GUEST_INTERRUPTIBILITY_STATE: 2 },
  },
  'activity state allows the event that is injected': {
    from: 'pae',
    set: { GUEST_ACTIVITY_STATE: 2, ENTRY_INTERRUPTION_INFO: 0x8000_0020 },
  },
  'interruptibility state: reserved bits are 0': { from: 'pae', set: { GUEST_INTERRUPTIBILITY_STATE: 0x10 } },
  'blocking by STI and by MOV SS exclude each other': { from: 'pae', set: { GUEST_INTERRUPTIBILITY_STATE: 3 } },
  'blocking by STI needs RFLAGS.IF': { from: 'pae', set: { GUEST_INTERRUPTIBILITY_STATE: 1, GUEST_RFLAGS: 2 } },
  'injecting an external interrupt needs no blocking by STI or MOV SS': {
    from: 'pae',
    set: { GUEST_INTERRUPTIBILITY_STATE: 1, ENTRY_INTERRUPTION_INFO: 0x8000_0020 },
  },
  'injecting an NMI needs no blocking by MOV SS': {
    from: 'pae',
    set: { GUEST_INTERRUPTIBILITY_STATE: 2, ENTRY_INTERRUPTION_INFO: 0x8000_0202 },
  },
  'blocking by SMI is 0 outside SMM': { from: 'pae', set: { GUEST_INTERRUPTIBILITY_STATE: 4 } },
  'injecting a virtual NMI needs no blocking by NMI': {
    from: 'long',
    set: { GUEST_INTERRUPTIBILITY_STATE: 8, ENTRY_INTERRUPTION_INFO: 0x8000_0202 },
  },
  'pending debug exceptions: reserved bits are 0': { from: 'pae', set: { GUEST_PENDING_DEBUG_EXCEPTIONS: 0x10 } },
  'pending debug exceptions: BS is 1 where a single-step trap is due': {
    from: 'pae',
    set: { GUEST_INTERRUPTIBILITY_STATE: 2, GUEST_RFLAGS: 0x102 },
  },
  'pending debug exceptions: BS is 0 where no single-step trap can be due': {
    from: 'pae',
    set: { GUEST_ACTIVITY_STATE: 1, GUEST_PENDING_DEBUG_EXCEPTIONS: 0x4000 },
  },
  'VMCS link pointer is page-aligned': { from: 'pae', set: { VMCS_LINK_POINTER: SHADOW_VMCS + 8 } },
  'VMCS link pointer is within the physical-address width': {
    from: 'pae',
    set: { VMCS_LINK_POINTER: 0x4000_0000_0000n },
  },
  'VMCS link pointer: the region has our revision, and the shadow bit as VMCS shadowing says': {
    from: 'long',
    set: { VMCS_LINK_POINTER: PLAIN_VMCS },
  },
  'VMCS link pointer is not the current VMCS': { from: 'pae', set: { VMCS_LINK_POINTER: CURRENT_VMCS } },
  'PDPTE0 of a PAE guest with EPT has no reserved bit': { from: 'paeEpt', set: { GUEST_PDPTE0: 0x1003 } },
  'PDPTE1 of a PAE guest with EPT has no reserved bit': { from: 'paeEpt', set: { GUEST_PDPTE1: 0x1003 } },
  'PDPTE2 of a PAE guest with EPT has no reserved bit': { from: 'paeEpt', set: { GUEST_PDPTE2: 0x1003 } },
  'PDPTE3 of a PAE guest with EPT has no reserved bit': { from: 'paeEpt', set: { GUEST_PDPTE3: 0x1003 } },
  'the PDPTEs that CR3 of a PAE guest without EPT points to have no reserved bit': {
    from: 'pae',
    set: { GUEST_CR3: BAD_PDPTE_TABLE },
  },
};

/** Everything the checks speak of, so that each row can be reached; CET for the sake of one row. */
const OFFER: VmxOffer = {
  ...FULL_OFFER,
  controls: new Set([...FULL_OFFER.controls, 'SECONDARY.EPT_VIOLATION_VE' as const]),
};
const CR4_ALLOWED = CR4.PAE | CR4.PCIDE | CR4.CET | CR4.VME;

const MEMORY: ReadonlyMap<number, number> = new Map([
  [VIRTUAL_APIC_PAGE + 0x80, 0x5f],
  [SHADOW_VMCS, OFFER.revision + 0x8000_0000],
  [PLAIN_VMCS, OFFER.revision],
  [CURRENT_VMCS, OFFER.revision],
  [PDPTE_TABLE, 0x1001],
  [BAD_PDPTE_TABLE + 24, 0x1001],
  [BAD_PDPTE_TABLE + 28, 0x4000],
]);

function context({ lma = true, accessedDirty = true }: Counterexample['context'] = {}): EntryContext {
  const offer = accessedDirty ? OFFER : { ...OFFER, eptCap: OFFER.eptCap & ~EPT_CAP.ACCESSED_DIRTY };
  return {
    vmx: vmxCapabilities(offer, CR4_ALLOWED),
    physicalAddressBits: 46,
    linearAddressBits: 48,
    eferAllowed: EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE,
    debugctlAllowed: 3,
    lma,
    currentVmcs: CURRENT_VMCS,
    readPhysical32: (address) => MEMORY.get(address) ?? 0,
  };
}

const ALL_CHECKS = [...VMX_CHECKS.checks, ...GUEST_CHECKS.checks];
const firstFailure = (v: VmcsReader, c: EntryContext) =>
  (VMX_CHECKS.firstFailure(v, c) ?? GUEST_CHECKS.firstFailure(v, c))?.name;

test.each(Object.keys(VALID_VMCS) as ValidVmcs[])('the valid VMCS "%s" passes every check', (which) => {
  const c = context({ lma: which !== 'host32' });
  const broken = vmEntryChecks(validVmcs(which), c).filter(({ holds }) => !holds);
  expect(broken.map(({ name }) => name)).toEqual([]);
});

test('every check has a counterexample and every name occurs once', () => {
  const names = ALL_CHECKS.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  expect(Object.keys(COUNTEREXAMPLES).sort()).toEqual([...names].sort());
});

describe('its counterexample fails the check', () => {
  for (const [name, { from, set, context: wanted, behind }] of Object.entries(COUNTEREXAMPLES)) {
    test(name, () => {
      const c = context(wanted);
      const mutated = setFields(validVmcs(from), set);
      expect(ALL_CHECKS.find((row) => row.name === name)!.holds(mutated, c)).toBe(false);
      expect(firstFailure(mutated, c)).toBe(behind ?? name);
    });
  }
});

test('a check reads only the fields it lists, and each of them somewhere', () => {
  const seen = ALL_CHECKS.map(() => new Set<VmcsField>());
  const recorder = (image: VmcsReader, into: Set<VmcsField>): VmcsReader => ({
    lo: (row) => {
      into.add(VMCS_FIELD_NAMES[row]!);
      return image.lo(row);
    },
    hi: (row) => {
      into.add(VMCS_FIELD_NAMES[row]!);
      return image.hi(row);
    },
  });
  const images = [
    ...(Object.keys(VALID_VMCS) as ValidVmcs[]).map((which) => validVmcs(which)),
    ...Object.values(COUNTEREXAMPLES).map(({ from, set }) => setFields(validVmcs(from), set)),
    // Paths that no counterexample takes: an exception in real-address mode.
    setFields(validVmcs('real'), { ENTRY_INTERRUPTION_INFO: 0x8000_030d }),
  ];
  const contexts = [context(), context({ lma: false })];
  for (const image of images) {
    for (const [at, row] of ALL_CHECKS.entries()) {
      for (const c of contexts) row.holds(recorder(image, seen[at]!), c);
    }
  }
  for (const [at, row] of ALL_CHECKS.entries()) {
    expect([row.name, [...seen[at]!].sort()]).toEqual([row.name, [...row.reads].sort()]);
  }
});

test('judging only suspects gives the same answer as judging everything', () => {
  const c = context();
  const image = validVmcs('long');
  const suspects = VMX_CHECKS.suspects();
  expect(VMX_CHECKS.firstFailureAmong(suspects, image, c)).toBe(undefined);
  expect(suspects.every((due) => due === 0)).toBe(true);
  setFields(image, { VPID: 0, HOST_CR3: 1n << 60n });
  VMX_CHECKS.suspect(suspects, FIELD.VPID);
  VMX_CHECKS.suspect(suspects, FIELD.HOST_CR3);
  expect(VMX_CHECKS.firstFailureAmong(suspects, image, c)?.name).toBe('VPID is not 0');
  setFields(image, { VPID: 1 });
  VMX_CHECKS.suspect(suspects, FIELD.VPID);
  const second = VMX_CHECKS.firstFailureAmong(suspects, image, c);
  expect(second?.name).toBe('host CR3 is within the physical-address width');
  expect(second?.failure).toEqual({ kind: 'VMfail', error: 8 });
  // A failure stays a suspect without another write.
  expect(VMX_CHECKS.firstFailureAmong(suspects, image, c)?.name).toBe(second?.name);
  // Memory and mode are looked at although no field changed.
  const tpr = validVmcs('tprShadow');
  const due = VMX_CHECKS.suspects();
  expect(VMX_CHECKS.firstFailureAmong(due, tpr, c)).toBe(undefined);
  expect(VMX_CHECKS.firstFailureAmong(due, tpr, { ...c, readPhysical32: () => 0 })?.name).toMatch(/VTPR/);
});

test('real-address mode delivers no error codes, and only an unrestricted guest is in it', () => {
  const inject = (which: ValidVmcs, info: number) =>
    firstFailure(setFields(validVmcs(which), { ENTRY_INTERRUPTION_INFO: info }), context());
  expect(inject('real', 0x8000_030d)).toBe(undefined);
  expect(inject('real', 0x8000_0b0d)).toMatch(/error code is delivered/);
  expect(inject('pae', 0x8000_0b0d)).toBe(undefined);
  expect(inject('pae', 0x8000_0b06)).toMatch(/error code is delivered/);
});

test('an unusable segment register may hold anything but TR and CS', () => {
  for (const register of ['SS', 'DS', 'ES', 'FS', 'GS', 'LDTR'] as const) {
    const image = setFields(validVmcs('pae'), { [`GUEST_${register}_ACCESS_RIGHTS`]: 0x1_0f00 });
    // SS.DPL counts even so: it is the CPL.
    expect(firstFailure(image, context())).toBe(undefined);
  }
});

test('the edges of widths: the last canonical and physical addresses pass, the next do not', () => {
  const judge = (set: FieldValues) => firstFailure(setFields(validVmcs('long'), set), context());
  expect(judge({ GUEST_CR3: 0x3fff_ffff_f000n })).toBe(undefined);
  expect(judge({ GUEST_CR3: 0x4000_0000_0000n })).toMatch(/CR3/);
  expect(judge({ GUEST_FS_BASE: 0x7fff_ffff_ffffn })).toBe(undefined);
  expect(judge({ GUEST_FS_BASE: 0xffff_8000_0000_0000n })).toBe(undefined);
  expect(judge({ GUEST_FS_BASE: 0xffff_7fff_ffff_ffffn })).toMatch(/FS base/);
  // RIP is judged one bit weaker: 63:48 are equal here, though bit 47 differs.
  expect(judge({ GUEST_RIP: 0x0000_8000_0000_0000n })).toBe(undefined);
  expect(judge({ EXIT_MSR_LOAD_ADDRESS: 0x3fff_ffff_fff0n })).toBe(undefined);
});

test('after a valid entry, marking just the mutated fields finds the same culprit for every counterexample', () => {
  for (const { from, set, context: wanted } of Object.values(COUNTEREXAMPLES)) {
    const c = context({ ...wanted, lma: from !== 'host32' });
    const after = context(wanted);
    for (const list of [VMX_CHECKS, GUEST_CHECKS]) {
      const image = validVmcs(from);
      const suspects = list.suspects();
      expect(list.firstFailureAmong(suspects, image, c)).toBe(undefined);
      setFields(image, set);
      for (const field of Object.keys(set) as VmcsField[]) list.suspect(suspects, FIELD[field]);
      // A capability is no field and no mode: it never changes under a VMCS. Start over there.
      if (wanted?.accessedDirty === false) list.suspectAll(suspects);
      expect(list.firstFailureAmong(suspects, image, after)?.name).toBe(list.firstFailure(image, after)?.name);
    }
  }
});

test('what a failing check means: VMfail 7, VMfail 8, or exit reason 33 with its qualification', () => {
  const failure = (name: EntryCheckName) => ALL_CHECKS.find((row) => row.name === name)!.failure;
  expect(failure('VPID is not 0')).toEqual({ kind: 'VMfail', error: 7 });
  expect(failure('host TR selector is not 0')).toEqual({ kind: 'VMfail', error: 8 });
  expect(failure('TR is usable')).toEqual({ kind: 'entry failure', reason: 33, qualification: 0 });
  expect(failure('VMCS link pointer is page-aligned')).toEqual({
    kind: 'entry failure',
    reason: 33,
    qualification: 4,
  });
  expect(failure('PDPTE2 of a PAE guest with EPT has no reserved bit')).toEqual({
    kind: 'entry failure',
    reason: 33,
    qualification: 2,
  });
});

test('an MSR list may not name FS_BASE, an x2APIC register or what WRMSR refuses', () => {
  const capabilities = new Set<Capability>([...BASE_CAPABILITIES, 'vmx']);
  const cpu = new CpuidPolicy(parseCpu('intel'), { capabilities, cpus: 1, apicId: 0 });
  const load = (index: number, lo = 0, hi = 0, reserved = 0) =>
    msrEntryFailure(MSR_LOAD_CHECKS, { index, reserved, lo, hi }, cpu);
  expect(load(0xc000_0082)).toBe(undefined);
  expect(load(0xc000_0082, 0, 0, 1)).toMatch(/63:32/);
  expect(load(0xc000_0100)).toMatch(/FS_BASE/);
  expect(load(0x80b)).toMatch(/x2APIC/);
  expect(load(0x79)).toMatch(/microcode/);
  expect(load(0x9b)).toMatch(/SMM/);
  expect(load(0xc000_0082, 0, 0x8000)).toMatch(/WRMSR/);
  expect(load(0x480)).toMatch(/WRMSR/);
  expect(load(0xdead)).toMatch(/WRMSR/);
  const store = (index: number) => msrEntryFailure(MSR_STORE_CHECKS, { index, reserved: 0, lo: 0, hi: 0 }, cpu);
  expect(store(0x480)).toBe(undefined);
  expect([store(0x9e), store(0x830), store(0x79)].every((name) => name !== undefined)).toBe(true);
});
