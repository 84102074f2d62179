/**
 * VM-entry checks on the control fields. A failure is VMfailValid with error 7, and nothing has changed.
 *
 * Not here: checks on controls that L0 never offers (SPP, HLAT, processor trace, SMM, secondary exit controls): setting
 * one of those already breaks the reserved-bits row of its word.
 *
 * Source  SDM 3C 26.2.1 "Checks on VMX Controls".
 */
import { fitsPhysical } from '../msrs.ts';
import { CR0 } from '../registers.ts';
import { allows } from './capabilities.ts';
import {
  type CheckSection,
  check,
  type EntryContext,
  FAILURE,
  hasExit,
  hasGuestCr0,
  hasPin,
  hasPrimary,
  hasSecondary,
  hasVirtualInterruptDelivery,
  hasVirtualNmis,
  isPageAligned,
  isUnrestricted,
  SECONDARY_WORDS,
  secondary,
} from './checks.ts';
import {
  EXIT,
  INTERRUPTION,
  INTERRUPTION_TYPE,
  interruptionType,
  interruptionVector,
  PIN,
  PRIMARY,
  SECONDARY,
  VMFUNC,
} from './controls.ts';
import { eptpAccessedDirtyIsOffered, eptpMemoryTypeIsOffered, eptpReservedAreZero, eptpWalkIsOffered } from './ept.ts';
import { FIELD, type VmcsField, type VmcsReader } from './fields.ts';

const isPhysical = (v: VmcsReader, c: EntryContext, field: number): boolean =>
  fitsPhysical(v.hi(field), c.physicalAddressBits);

/** "If control X is 1, address Y is 4-KByte aligned" and "does not set bits beyond the physical-address width". */
const alignedIf = (reads: readonly VmcsField[], field: VmcsField, isOn: (v: VmcsReader) => boolean) => {
  const row = FIELD[field];
  return check([...reads, field], (v) => !isOn(v) || isPageAligned(v, row));
};
const physicalIf = (reads: readonly VmcsField[], field: VmcsField, isOn: (v: VmcsReader) => boolean) => {
  const row = FIELD[field];
  return check([...reads, field], (v, c) => !isOn(v) || isPhysical(v, c, row));
};

const PRIMARY_WORD = ['PRIMARY_CONTROLS'] as const;
const usesIoBitmaps = (v: VmcsReader): boolean => hasPrimary(v, PRIMARY.USE_IO_BITMAPS);
const usesMsrBitmaps = (v: VmcsReader): boolean => hasPrimary(v, PRIMARY.USE_MSR_BITMAPS);
const usesTprShadow = (v: VmcsReader): boolean => hasPrimary(v, PRIMARY.USE_TPR_SHADOW);
const virtualizesApicAccesses = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.VIRTUALIZE_APIC_ACCESSES);
const comparesVtpr = (v: VmcsReader): boolean =>
  usesTprShadow(v) && !virtualizesApicAccesses(v) && !hasVirtualInterruptDelivery(v);
const postsInterrupts = (v: VmcsReader): boolean => hasPin(v, PIN.PROCESS_POSTED_INTERRUPTS);
const usesEpt = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.ENABLE_EPT);
const usesPml = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.ENABLE_PML);
const shadowsVmcs = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.VMCS_SHADOWING);
const hasVe = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.EPT_VIOLATION_VE);
const hasVmFunctions = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.ENABLE_VM_FUNCTIONS);
const switchesEptp = (v: VmcsReader): boolean =>
  hasVmFunctions(v) && (v.lo(FIELD.VM_FUNCTION_CONTROLS) & VMFUNC.EPTP_SWITCHING) !== 0;

const EPT_FIELDS = [...SECONDARY_WORDS, 'EPT_POINTER'] as const;
const VMFUNC_FIELDS = [...SECONDARY_WORDS, 'VM_FUNCTION_CONTROLS'] as const;
const TPR_THRESHOLD_FIELDS = [...SECONDARY_WORDS, 'TPR_THRESHOLD'] as const;
const VTPR_OFFSET = 0x80;

export const EXECUTION_CONTROL_CHECKS = {
  section: '26.2.1.1 "VM-Execution Control Fields"',
  failure: FAILURE.CONTROLS,
  rows: {
    'pin-based controls: reserved bits are as IA32_VMX_TRUE_PINBASED_CTLS says': check(['PIN_CONTROLS'], (v, c) =>
      allows(v.lo(FIELD.PIN_CONTROLS), c.vmx.pin),
    ),
    'primary controls: reserved bits are as IA32_VMX_TRUE_PROCBASED_CTLS says': check(PRIMARY_WORD, (v, c) =>
      allows(v.lo(FIELD.PRIMARY_CONTROLS), c.vmx.primary),
    ),
    'secondary controls, if activated: reserved bits are 0': check(SECONDARY_WORDS, (v, c) =>
      allows(secondary(v), c.vmx.secondary),
    ),
    'CR3-target count is at most 4': check(
      ['CR3_TARGET_COUNT'],
      (v, c) => v.lo(FIELD.CR3_TARGET_COUNT) <= c.vmx.offer.cr3Targets,
    ),
    'I/O bitmap A is page-aligned': alignedIf(PRIMARY_WORD, 'IO_BITMAP_A', usesIoBitmaps),
    'I/O bitmap A is within the physical-address width': physicalIf(PRIMARY_WORD, 'IO_BITMAP_A', usesIoBitmaps),
    'I/O bitmap B is page-aligned': alignedIf(PRIMARY_WORD, 'IO_BITMAP_B', usesIoBitmaps),
    'I/O bitmap B is within the physical-address width': physicalIf(PRIMARY_WORD, 'IO_BITMAP_B', usesIoBitmaps),
    'MSR bitmap is page-aligned': alignedIf(PRIMARY_WORD, 'MSR_BITMAP', usesMsrBitmaps),
    'MSR bitmap is within the physical-address width': physicalIf(PRIMARY_WORD, 'MSR_BITMAP', usesMsrBitmaps),
    'virtual-APIC address is page-aligned': alignedIf(PRIMARY_WORD, 'VIRTUAL_APIC_ADDRESS', usesTprShadow),
    'virtual-APIC address is within the physical-address width': physicalIf(
      PRIMARY_WORD,
      'VIRTUAL_APIC_ADDRESS',
      usesTprShadow,
    ),
    'TPR threshold: bits 31:4 are 0 without virtual-interrupt delivery': check(
      TPR_THRESHOLD_FIELDS,
      (v) => !usesTprShadow(v) || hasVirtualInterruptDelivery(v) || v.lo(FIELD.TPR_THRESHOLD) < 16,
    ),
    'TPR threshold is at most VTPR[7:4] without APIC-access virtualization': check(
      [...TPR_THRESHOLD_FIELDS, 'VIRTUAL_APIC_ADDRESS'],
      (v, c) => !comparesVtpr(v) || (v.lo(FIELD.TPR_THRESHOLD) & 15) <= virtualTprClass(v, c),
      { alsoReads: { memoryIf: comparesVtpr } },
    ),
    'virtual NMIs need NMI exiting': check(['PIN_CONTROLS'], (v) => !hasVirtualNmis(v) || hasPin(v, PIN.NMI_EXITING)),
    'NMI-window exiting needs virtual NMIs': check(
      ['PIN_CONTROLS', 'PRIMARY_CONTROLS'],
      (v) => !hasPrimary(v, PRIMARY.NMI_WINDOW_EXITING) || hasVirtualNmis(v),
    ),
    'APIC-access address is page-aligned': alignedIf(SECONDARY_WORDS, 'APIC_ACCESS_ADDRESS', virtualizesApicAccesses),
    'APIC-access address is within the physical-address width': physicalIf(
      SECONDARY_WORDS,
      'APIC_ACCESS_ADDRESS',
      virtualizesApicAccesses,
    ),
    'x2APIC virtualization, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow': check(
      SECONDARY_WORDS,
      (v) =>
        usesTprShadow(v) ||
        !hasSecondary(
          v,
          SECONDARY.VIRTUALIZE_X2APIC_MODE |
            SECONDARY.APIC_REGISTER_VIRTUALIZATION |
            SECONDARY.VIRTUAL_INTERRUPT_DELIVERY,
        ),
    ),
    'x2APIC mode and APIC accesses are not both virtualized': check(
      SECONDARY_WORDS,
      (v) => !hasSecondary(v, SECONDARY.VIRTUALIZE_X2APIC_MODE) || !virtualizesApicAccesses(v),
    ),
    'virtual-interrupt delivery needs external-interrupt exiting': check(
      ['PIN_CONTROLS', ...SECONDARY_WORDS],
      (v) => !hasVirtualInterruptDelivery(v) || hasPin(v, PIN.EXTERNAL_INTERRUPT_EXITING),
    ),
    'posted interrupts need virtual-interrupt delivery': check(
      ['PIN_CONTROLS', ...SECONDARY_WORDS],
      (v) => !postsInterrupts(v) || hasVirtualInterruptDelivery(v),
    ),
    'posted interrupts need acknowledge interrupt on exit': check(
      ['PIN_CONTROLS', 'EXIT_CONTROLS'],
      (v) => !postsInterrupts(v) || hasExit(v, EXIT.ACKNOWLEDGE_INTERRUPT_ON_EXIT),
    ),
    'posted-interrupt notification vector is at most 255': check(
      ['PIN_CONTROLS', 'POSTED_INTERRUPT_NOTIFICATION_VECTOR'],
      (v) => !postsInterrupts(v) || v.lo(FIELD.POSTED_INTERRUPT_NOTIFICATION_VECTOR) <= 255,
    ),
    'posted-interrupt descriptor is 64-byte aligned': check(
      ['PIN_CONTROLS', 'POSTED_INTERRUPT_DESCRIPTOR'],
      (v) => !postsInterrupts(v) || (v.lo(FIELD.POSTED_INTERRUPT_DESCRIPTOR) & 0x3f) === 0,
    ),
    'posted-interrupt descriptor is within the physical-address width': physicalIf(
      ['PIN_CONTROLS'],
      'POSTED_INTERRUPT_DESCRIPTOR',
      postsInterrupts,
    ),
    'VPID is not 0': check(
      [...SECONDARY_WORDS, 'VPID'],
      (v) => !hasSecondary(v, SECONDARY.ENABLE_VPID) || v.lo(FIELD.VPID) !== 0,
    ),
    'EPTP: the memory type is offered': check(
      EPT_FIELDS,
      (v, c) => !usesEpt(v) || eptpMemoryTypeIsOffered(v.lo(FIELD.EPT_POINTER), c.vmx.eptCap),
    ),
    'EPTP: the page-walk length is offered': check(
      EPT_FIELDS,
      (v, c) => !usesEpt(v) || eptpWalkIsOffered(v.lo(FIELD.EPT_POINTER), c.vmx.eptCap),
    ),
    'EPTP: accessed and dirty flags only if offered': check(
      EPT_FIELDS,
      (v, c) => !usesEpt(v) || eptpAccessedDirtyIsOffered(v.lo(FIELD.EPT_POINTER), c.vmx.eptCap),
    ),
    'EPTP: reserved bits are 0': check(
      EPT_FIELDS,
      (v, c) =>
        !usesEpt(v) || eptpReservedAreZero(v.lo(FIELD.EPT_POINTER), v.hi(FIELD.EPT_POINTER), c.physicalAddressBits),
    ),
    'PML needs EPT': check(SECONDARY_WORDS, (v) => !usesPml(v) || usesEpt(v)),
    'PML address is page-aligned': alignedIf(SECONDARY_WORDS, 'PML_ADDRESS', usesPml),
    'PML address is within the physical-address width': physicalIf(SECONDARY_WORDS, 'PML_ADDRESS', usesPml),
    'unrestricted guest needs EPT': check(SECONDARY_WORDS, (v) => !isUnrestricted(v) || usesEpt(v)),
    'mode-based execute control needs EPT': check(
      SECONDARY_WORDS,
      (v) => !hasSecondary(v, SECONDARY.MODE_BASED_EXECUTE_CONTROL) || usesEpt(v),
    ),
    'VM-function controls: reserved bits are 0': check(
      VMFUNC_FIELDS,
      (v, c) =>
        !hasVmFunctions(v) ||
        ((v.lo(FIELD.VM_FUNCTION_CONTROLS) & ~c.vmx.vmFunctions) === 0 && v.hi(FIELD.VM_FUNCTION_CONTROLS) === 0),
    ),
    'EPTP switching needs EPT': check(VMFUNC_FIELDS, (v) => !switchesEptp(v) || usesEpt(v)),
    'EPTP-list address is page-aligned': alignedIf(VMFUNC_FIELDS, 'EPTP_LIST_ADDRESS', switchesEptp),
    'EPTP-list address is within the physical-address width': physicalIf(
      VMFUNC_FIELDS,
      'EPTP_LIST_ADDRESS',
      switchesEptp,
    ),
    'VMREAD bitmap is page-aligned': alignedIf(SECONDARY_WORDS, 'VMREAD_BITMAP', shadowsVmcs),
    'VMREAD bitmap is within the physical-address width': physicalIf(SECONDARY_WORDS, 'VMREAD_BITMAP', shadowsVmcs),
    'VMWRITE bitmap is page-aligned': alignedIf(SECONDARY_WORDS, 'VMWRITE_BITMAP', shadowsVmcs),
    'VMWRITE bitmap is within the physical-address width': physicalIf(SECONDARY_WORDS, 'VMWRITE_BITMAP', shadowsVmcs),
    '#VE information address is page-aligned': alignedIf(SECONDARY_WORDS, 'VE_INFORMATION_ADDRESS', hasVe),
    '#VE information address is within the physical-address width': physicalIf(
      SECONDARY_WORDS,
      'VE_INFORMATION_ADDRESS',
      hasVe,
    ),
  },
} as const satisfies CheckSection;

/** VTPR[7:4]. The address was found aligned and within the width by the rows before. */
function virtualTprClass(v: VmcsReader, c: EntryContext): number {
  const page = v.hi(FIELD.VIRTUAL_APIC_ADDRESS) * 0x1_0000_0000 + v.lo(FIELD.VIRTUAL_APIC_ADDRESS);
  return (c.readPhysical32(page + VTPR_OFFSET) >>> 4) & 15;
}

/** "Bits 3:0 of the address are 0"; entries of 16 bytes. */
const msrAreaIsAligned = (v: VmcsReader, count: number, address: number): boolean =>
  v.lo(count) === 0 || (v.lo(address) & 15) === 0;
/** First and last byte, `address + count * 16 - 1`, within the width. Exact: both terms are below 2^53 there. */
const msrAreaIsPhysical = (v: VmcsReader, c: EntryContext, count: number, address: number): boolean => {
  if (v.lo(count) === 0) return true;
  if (!isPhysical(v, c, address)) return false;
  return v.hi(address) * 0x1_0000_0000 + v.lo(address) + v.lo(count) * 16 - 1 < 2 ** c.physicalAddressBits;
};

export const EXIT_CONTROL_CHECKS = {
  section: '26.2.1.2 "VM-Exit Control Fields"',
  failure: FAILURE.CONTROLS,
  rows: {
    'exit controls: reserved bits are as IA32_VMX_TRUE_EXIT_CTLS says': check(['EXIT_CONTROLS'], (v, c) =>
      allows(v.lo(FIELD.EXIT_CONTROLS), c.vmx.exit),
    ),
    'saving the preemption timer needs the preemption timer': check(
      ['PIN_CONTROLS', 'EXIT_CONTROLS'],
      (v) => !hasExit(v, EXIT.SAVE_PREEMPTION_TIMER) || hasPin(v, PIN.PREEMPTION_TIMER),
    ),
    'exit MSR-store area is 16-byte aligned': check(['EXIT_MSR_STORE_COUNT', 'EXIT_MSR_STORE_ADDRESS'], (v) =>
      msrAreaIsAligned(v, FIELD.EXIT_MSR_STORE_COUNT, FIELD.EXIT_MSR_STORE_ADDRESS),
    ),
    'exit MSR-store area is within the physical-address width': check(
      ['EXIT_MSR_STORE_COUNT', 'EXIT_MSR_STORE_ADDRESS'],
      (v, c) => msrAreaIsPhysical(v, c, FIELD.EXIT_MSR_STORE_COUNT, FIELD.EXIT_MSR_STORE_ADDRESS),
    ),
    'exit MSR-load area is 16-byte aligned': check(['EXIT_MSR_LOAD_COUNT', 'EXIT_MSR_LOAD_ADDRESS'], (v) =>
      msrAreaIsAligned(v, FIELD.EXIT_MSR_LOAD_COUNT, FIELD.EXIT_MSR_LOAD_ADDRESS),
    ),
    'exit MSR-load area is within the physical-address width': check(
      ['EXIT_MSR_LOAD_COUNT', 'EXIT_MSR_LOAD_ADDRESS'],
      (v, c) => msrAreaIsPhysical(v, c, FIELD.EXIT_MSR_LOAD_COUNT, FIELD.EXIT_MSR_LOAD_ADDRESS),
    ),
  },
} as const satisfies CheckSection;

const isInjecting = (v: VmcsReader): boolean => (v.lo(FIELD.ENTRY_INTERRUPTION_INFO) & INTERRUPTION.VALID) !== 0;
const delivers = (v: VmcsReader): boolean =>
  (v.lo(FIELD.ENTRY_INTERRUPTION_INFO) & INTERRUPTION.DELIVER_ERROR_CODE) !== 0;
/** #DF, #TS, #NP, #SS, #GP, #PF, #AC: the list of the section, which #CP is not on while CET is not offered. */
const ERROR_CODE_VECTORS = (1 << 8) | (0x1f << 10) | (1 << 17);
const ENTRY_INFO_RESERVED = 0x7fff_f000;
const INFO = ['ENTRY_INTERRUPTION_INFO'] as const;

export const ENTRY_CONTROL_CHECKS = {
  section: '26.2.1.3 "VM-Entry Control Fields"',
  failure: FAILURE.CONTROLS,
  rows: {
    'entry controls: reserved bits are as IA32_VMX_TRUE_ENTRY_CTLS says': check(['ENTRY_CONTROLS'], (v, c) =>
      allows(v.lo(FIELD.ENTRY_CONTROLS), c.vmx.entry),
    ),
    'event injection: the interruption type is not reserved': check(INFO, (v, c) => {
      if (!isInjecting(v)) return true;
      const type = interruptionType(v.lo(FIELD.ENTRY_INTERRUPTION_INFO));
      if (type === INTERRUPTION_TYPE.OTHER_EVENT) return (c.vmx.primary.may & PRIMARY.MONITOR_TRAP_FLAG) !== 0;
      return type !== INTERRUPTION_TYPE.RESERVED;
    }),
    'event injection: the vector fits the type': check(INFO, (v) => {
      if (!isInjecting(v)) return true;
      const info = v.lo(FIELD.ENTRY_INTERRUPTION_INFO);
      const vector = interruptionVector(info);
      switch (interruptionType(info)) {
        case INTERRUPTION_TYPE.NMI:
          return vector === 2;
        case INTERRUPTION_TYPE.HARDWARE_EXCEPTION:
          return vector <= 31;
        case INTERRUPTION_TYPE.OTHER_EVENT:
          return vector === 0;
        default:
          return true;
      }
    }),
    'event injection: an error code is delivered exactly if the exception has one': check(
      ['ENTRY_INTERRUPTION_INFO', 'GUEST_CR0', ...SECONDARY_WORDS],
      (v) => !isInjecting(v) || delivers(v) === shouldDeliver(v),
    ),
    'event injection: bits 30:12 are 0': check(
      INFO,
      (v) => !isInjecting(v) || (v.lo(FIELD.ENTRY_INTERRUPTION_INFO) & ENTRY_INFO_RESERVED) === 0,
    ),
    'event injection: bits 31:16 of the error code are 0': check(
      ['ENTRY_INTERRUPTION_INFO', 'ENTRY_EXCEPTION_ERROR_CODE'],
      (v) => !isInjecting(v) || !delivers(v) || v.lo(FIELD.ENTRY_EXCEPTION_ERROR_CODE) <= 0xffff,
    ),
    'event injection: the instruction length of a software event is at most 15, and not 0 unless offered': check(
      ['ENTRY_INTERRUPTION_INFO', 'ENTRY_INSTRUCTION_LENGTH'],
      (v, c) => {
        if (!isInjecting(v)) return true;
        const type = interruptionType(v.lo(FIELD.ENTRY_INTERRUPTION_INFO));
        const isSoftware = type >= INTERRUPTION_TYPE.SOFTWARE_INTERRUPT && type <= INTERRUPTION_TYPE.SOFTWARE_EXCEPTION;
        if (!isSoftware) return true;
        const length = v.lo(FIELD.ENTRY_INSTRUCTION_LENGTH);
        return length <= 15 && (length !== 0 || c.vmx.offer.injectLengthZero);
      },
    ),
    'entry MSR-load area is 16-byte aligned': check(['ENTRY_MSR_LOAD_COUNT', 'ENTRY_MSR_LOAD_ADDRESS'], (v) =>
      msrAreaIsAligned(v, FIELD.ENTRY_MSR_LOAD_COUNT, FIELD.ENTRY_MSR_LOAD_ADDRESS),
    ),
    'entry MSR-load area is within the physical-address width': check(
      ['ENTRY_MSR_LOAD_COUNT', 'ENTRY_MSR_LOAD_ADDRESS'],
      (v, c) => msrAreaIsPhysical(v, c, FIELD.ENTRY_MSR_LOAD_COUNT, FIELD.ENTRY_MSR_LOAD_ADDRESS),
    ),
  },
} as const satisfies CheckSection;

/** "… is 1 if and only if …": real-address mode pushes no error codes, which only an unrestricted guest can be in. */
function shouldDeliver(v: VmcsReader): boolean {
  const info = v.lo(FIELD.ENTRY_INTERRUPTION_INFO);
  const inRealMode = isUnrestricted(v) && !hasGuestCr0(v, CR0.PE);
  const vector = interruptionVector(info);
  return (
    !inRealMode &&
    interruptionType(info) === INTERRUPTION_TYPE.HARDWARE_EXCEPTION &&
    vector < 32 &&
    ((ERROR_CODE_VECTORS >>> vector) & 1) !== 0
  );
}
