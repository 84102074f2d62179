/**
 * Every VMCS field, and the dense row number under which code reads it.
 *
 * Owns    encodings and which capability makes a field exist.
 * Knows   nothing of values: a `VmcsReader` has them.
 *
 * An encoding already implies width and kind. Both are written out all the same, so that one wrong digit cannot pass:
 * `vmx.test.ts` derives them again and compares.
 *
 * Source  SDM 3C Appendix B "Field Encoding in VMCS"; 24.11.2 "VMREAD, VMWRITE, and Encodings of VMCS Fields".
 */
import type { ControlName } from './controls.ts';

export type Width = 'u16' | 'u64' | 'u32' | 'natural';
export type Kind = 'control' | 'exit information' | 'guest' | 'host';
/** What the processor must support for the field to exist: "This field exists only on processors that support …". */
export type Exists = 'always' | 'never' | ControlName | 'VMFUNC.EPTP_SWITCHING';

type FieldRow = readonly [encoding: number, width: Width, kind: Kind, existsIf: Exists | readonly Exists[]];

/** In the order of their encodings. A list in the last column: any of these. */
export const VMCS_FIELDS = {
  VPID: [0x0000, 'u16', 'control', 'SECONDARY.ENABLE_VPID'],
  POSTED_INTERRUPT_NOTIFICATION_VECTOR: [0x0002, 'u16', 'control', 'PIN.PROCESS_POSTED_INTERRUPTS'],
  EPTP_INDEX: [0x0004, 'u16', 'control', 'SECONDARY.EPT_VIOLATION_VE'],
  HLAT_PREFIX_SIZE: [0x0006, 'u16', 'control', 'TERTIARY.ENABLE_HLAT'],
  LAST_PID_POINTER_INDEX: [0x0008, 'u16', 'control', 'TERTIARY.IPI_VIRTUALIZATION'],
  GUEST_ES_SELECTOR: [0x0800, 'u16', 'guest', 'always'],
  GUEST_CS_SELECTOR: [0x0802, 'u16', 'guest', 'always'],
  GUEST_SS_SELECTOR: [0x0804, 'u16', 'guest', 'always'],
  GUEST_DS_SELECTOR: [0x0806, 'u16', 'guest', 'always'],
  GUEST_FS_SELECTOR: [0x0808, 'u16', 'guest', 'always'],
  GUEST_GS_SELECTOR: [0x080a, 'u16', 'guest', 'always'],
  GUEST_LDTR_SELECTOR: [0x080c, 'u16', 'guest', 'always'],
  GUEST_TR_SELECTOR: [0x080e, 'u16', 'guest', 'always'],
  GUEST_INTERRUPT_STATUS: [0x0810, 'u16', 'guest', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY'],
  PML_INDEX: [0x0812, 'u16', 'guest', 'SECONDARY.ENABLE_PML'],
  GUEST_UINV: [0x0814, 'u16', 'guest', ['EXIT.CLEAR_UINV', 'ENTRY.LOAD_UINV']],
  HOST_ES_SELECTOR: [0x0c00, 'u16', 'host', 'always'],
  HOST_CS_SELECTOR: [0x0c02, 'u16', 'host', 'always'],
  HOST_SS_SELECTOR: [0x0c04, 'u16', 'host', 'always'],
  HOST_DS_SELECTOR: [0x0c06, 'u16', 'host', 'always'],
  HOST_FS_SELECTOR: [0x0c08, 'u16', 'host', 'always'],
  HOST_GS_SELECTOR: [0x0c0a, 'u16', 'host', 'always'],
  HOST_TR_SELECTOR: [0x0c0c, 'u16', 'host', 'always'],
  IO_BITMAP_A: [0x2000, 'u64', 'control', 'always'],
  IO_BITMAP_B: [0x2002, 'u64', 'control', 'always'],
  MSR_BITMAP: [0x2004, 'u64', 'control', 'PRIMARY.USE_MSR_BITMAPS'],
  EXIT_MSR_STORE_ADDRESS: [0x2006, 'u64', 'control', 'always'],
  EXIT_MSR_LOAD_ADDRESS: [0x2008, 'u64', 'control', 'always'],
  ENTRY_MSR_LOAD_ADDRESS: [0x200a, 'u64', 'control', 'always'],
  EXECUTIVE_VMCS_POINTER: [0x200c, 'u64', 'control', 'always'],
  PML_ADDRESS: [0x200e, 'u64', 'control', 'SECONDARY.ENABLE_PML'],
  TSC_OFFSET: [0x2010, 'u64', 'control', 'always'],
  VIRTUAL_APIC_ADDRESS: [0x2012, 'u64', 'control', 'PRIMARY.USE_TPR_SHADOW'],
  APIC_ACCESS_ADDRESS: [0x2014, 'u64', 'control', 'SECONDARY.VIRTUALIZE_APIC_ACCESSES'],
  POSTED_INTERRUPT_DESCRIPTOR: [0x2016, 'u64', 'control', 'PIN.PROCESS_POSTED_INTERRUPTS'],
  VM_FUNCTION_CONTROLS: [0x2018, 'u64', 'control', 'SECONDARY.ENABLE_VM_FUNCTIONS'],
  EPT_POINTER: [0x201a, 'u64', 'control', 'SECONDARY.ENABLE_EPT'],
  EOI_EXIT_BITMAP0: [0x201c, 'u64', 'control', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY'],
  EOI_EXIT_BITMAP1: [0x201e, 'u64', 'control', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY'],
  EOI_EXIT_BITMAP2: [0x2020, 'u64', 'control', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY'],
  EOI_EXIT_BITMAP3: [0x2022, 'u64', 'control', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY'],
  EPTP_LIST_ADDRESS: [0x2024, 'u64', 'control', 'VMFUNC.EPTP_SWITCHING'],
  VMREAD_BITMAP: [0x2026, 'u64', 'control', 'SECONDARY.VMCS_SHADOWING'],
  VMWRITE_BITMAP: [0x2028, 'u64', 'control', 'SECONDARY.VMCS_SHADOWING'],
  VE_INFORMATION_ADDRESS: [0x202a, 'u64', 'control', 'SECONDARY.EPT_VIOLATION_VE'],
  XSS_EXITING_BITMAP: [0x202c, 'u64', 'control', 'SECONDARY.ENABLE_XSAVES'],
  ENCLS_EXITING_BITMAP: [0x202e, 'u64', 'control', 'SECONDARY.ENABLE_ENCLS_EXITING'],
  SUB_PAGE_PERMISSION_TABLE_POINTER: [0x2030, 'u64', 'control', 'SECONDARY.SUB_PAGE_WRITE_PERMISSIONS'],
  TSC_MULTIPLIER: [0x2032, 'u64', 'control', 'SECONDARY.USE_TSC_SCALING'],
  TERTIARY_CONTROLS: [0x2034, 'u64', 'control', 'PRIMARY.ACTIVATE_TERTIARY_CONTROLS'],
  ENCLV_EXITING_BITMAP: [0x2036, 'u64', 'control', 'SECONDARY.ENABLE_ENCLV_EXITING'],
  LOW_PASID_DIRECTORY_ADDRESS: [0x2038, 'u64', 'control', 'SECONDARY.PASID_TRANSLATION'],
  HIGH_PASID_DIRECTORY_ADDRESS: [0x203a, 'u64', 'control', 'SECONDARY.PASID_TRANSLATION'],
  SHARED_EPT_POINTER: [0x203c, 'u64', 'control', 'never'],
  PCONFIG_EXITING_BITMAP: [0x203e, 'u64', 'control', 'SECONDARY.ENABLE_PCONFIG'],
  HLAT_POINTER: [0x2040, 'u64', 'control', 'TERTIARY.ENABLE_HLAT'],
  PID_POINTER_TABLE_ADDRESS: [0x2042, 'u64', 'control', 'TERTIARY.IPI_VIRTUALIZATION'],
  SECONDARY_EXIT_CONTROLS: [0x2044, 'u64', 'control', 'EXIT.ACTIVATE_SECONDARY_CONTROLS'],
  SPEC_CTRL_MASK: [0x204a, 'u64', 'control', 'TERTIARY.VIRTUALIZE_SPEC_CTRL'],
  SPEC_CTRL_SHADOW: [0x204c, 'u64', 'control', 'TERTIARY.VIRTUALIZE_SPEC_CTRL'],
  GUEST_PHYSICAL_ADDRESS: [0x2400, 'u64', 'exit information', 'SECONDARY.ENABLE_EPT'],
  VMCS_LINK_POINTER: [0x2800, 'u64', 'guest', 'always'],
  GUEST_IA32_DEBUGCTL: [0x2802, 'u64', 'guest', 'always'],
  GUEST_IA32_PAT: [0x2804, 'u64', 'guest', ['ENTRY.LOAD_PAT', 'EXIT.SAVE_PAT']],
  GUEST_IA32_EFER: [0x2806, 'u64', 'guest', ['ENTRY.LOAD_EFER', 'EXIT.SAVE_EFER']],
  GUEST_IA32_PERF_GLOBAL_CTRL: [0x2808, 'u64', 'guest', ['ENTRY.LOAD_PERF_GLOBAL_CTRL', 'EXIT.SAVE_PERF_GLOBAL_CTRL']],
  GUEST_PDPTE0: [0x280a, 'u64', 'guest', 'SECONDARY.ENABLE_EPT'],
  GUEST_PDPTE1: [0x280c, 'u64', 'guest', 'SECONDARY.ENABLE_EPT'],
  GUEST_PDPTE2: [0x280e, 'u64', 'guest', 'SECONDARY.ENABLE_EPT'],
  GUEST_PDPTE3: [0x2810, 'u64', 'guest', 'SECONDARY.ENABLE_EPT'],
  GUEST_IA32_BNDCFGS: [0x2812, 'u64', 'guest', ['ENTRY.LOAD_BNDCFGS', 'EXIT.CLEAR_BNDCFGS']],
  GUEST_IA32_RTIT_CTL: [0x2814, 'u64', 'guest', ['ENTRY.LOAD_RTIT_CTL', 'EXIT.CLEAR_RTIT_CTL']],
  GUEST_IA32_LBR_CTL: [0x2816, 'u64', 'guest', ['ENTRY.LOAD_LBR_CTL', 'EXIT.CLEAR_LBR_CTL']],
  GUEST_IA32_PKRS: [0x2818, 'u64', 'guest', 'ENTRY.LOAD_PKRS'],
  HOST_IA32_PAT: [0x2c00, 'u64', 'host', 'EXIT.LOAD_PAT'],
  HOST_IA32_EFER: [0x2c02, 'u64', 'host', 'EXIT.LOAD_EFER'],
  HOST_IA32_PERF_GLOBAL_CTRL: [0x2c04, 'u64', 'host', 'EXIT.LOAD_PERF_GLOBAL_CTRL'],
  HOST_IA32_PKRS: [0x2c06, 'u64', 'host', 'EXIT.LOAD_PKRS'],
  PIN_CONTROLS: [0x4000, 'u32', 'control', 'always'],
  PRIMARY_CONTROLS: [0x4002, 'u32', 'control', 'always'],
  EXCEPTION_BITMAP: [0x4004, 'u32', 'control', 'always'],
  PAGE_FAULT_ERROR_CODE_MASK: [0x4006, 'u32', 'control', 'always'],
  PAGE_FAULT_ERROR_CODE_MATCH: [0x4008, 'u32', 'control', 'always'],
  CR3_TARGET_COUNT: [0x400a, 'u32', 'control', 'always'],
  EXIT_CONTROLS: [0x400c, 'u32', 'control', 'always'],
  EXIT_MSR_STORE_COUNT: [0x400e, 'u32', 'control', 'always'],
  EXIT_MSR_LOAD_COUNT: [0x4010, 'u32', 'control', 'always'],
  ENTRY_CONTROLS: [0x4012, 'u32', 'control', 'always'],
  ENTRY_MSR_LOAD_COUNT: [0x4014, 'u32', 'control', 'always'],
  ENTRY_INTERRUPTION_INFO: [0x4016, 'u32', 'control', 'always'],
  ENTRY_EXCEPTION_ERROR_CODE: [0x4018, 'u32', 'control', 'always'],
  ENTRY_INSTRUCTION_LENGTH: [0x401a, 'u32', 'control', 'always'],
  TPR_THRESHOLD: [0x401c, 'u32', 'control', 'PRIMARY.USE_TPR_SHADOW'],
  SECONDARY_CONTROLS: [0x401e, 'u32', 'control', 'PRIMARY.ACTIVATE_SECONDARY_CONTROLS'],
  PLE_GAP: [0x4020, 'u32', 'control', 'SECONDARY.PAUSE_LOOP_EXITING'],
  PLE_WINDOW: [0x4022, 'u32', 'control', 'SECONDARY.PAUSE_LOOP_EXITING'],
  INSTRUCTION_TIMEOUT_CONTROL: [0x4024, 'u32', 'control', 'SECONDARY.INSTRUCTION_TIMEOUT'],
  VM_INSTRUCTION_ERROR: [0x4400, 'u32', 'exit information', 'always'],
  EXIT_REASON: [0x4402, 'u32', 'exit information', 'always'],
  EXIT_INTERRUPTION_INFO: [0x4404, 'u32', 'exit information', 'always'],
  EXIT_INTERRUPTION_ERROR_CODE: [0x4406, 'u32', 'exit information', 'always'],
  IDT_VECTORING_INFO: [0x4408, 'u32', 'exit information', 'always'],
  IDT_VECTORING_ERROR_CODE: [0x440a, 'u32', 'exit information', 'always'],
  EXIT_INSTRUCTION_LENGTH: [0x440c, 'u32', 'exit information', 'always'],
  EXIT_INSTRUCTION_INFO: [0x440e, 'u32', 'exit information', 'always'],
  GUEST_ES_LIMIT: [0x4800, 'u32', 'guest', 'always'],
  GUEST_CS_LIMIT: [0x4802, 'u32', 'guest', 'always'],
  GUEST_SS_LIMIT: [0x4804, 'u32', 'guest', 'always'],
  GUEST_DS_LIMIT: [0x4806, 'u32', 'guest', 'always'],
  GUEST_FS_LIMIT: [0x4808, 'u32', 'guest', 'always'],
  GUEST_GS_LIMIT: [0x480a, 'u32', 'guest', 'always'],
  GUEST_LDTR_LIMIT: [0x480c, 'u32', 'guest', 'always'],
  GUEST_TR_LIMIT: [0x480e, 'u32', 'guest', 'always'],
  GUEST_GDTR_LIMIT: [0x4810, 'u32', 'guest', 'always'],
  GUEST_IDTR_LIMIT: [0x4812, 'u32', 'guest', 'always'],
  GUEST_ES_ACCESS_RIGHTS: [0x4814, 'u32', 'guest', 'always'],
  GUEST_CS_ACCESS_RIGHTS: [0x4816, 'u32', 'guest', 'always'],
  GUEST_SS_ACCESS_RIGHTS: [0x4818, 'u32', 'guest', 'always'],
  GUEST_DS_ACCESS_RIGHTS: [0x481a, 'u32', 'guest', 'always'],
  GUEST_FS_ACCESS_RIGHTS: [0x481c, 'u32', 'guest', 'always'],
  GUEST_GS_ACCESS_RIGHTS: [0x481e, 'u32', 'guest', 'always'],
  GUEST_LDTR_ACCESS_RIGHTS: [0x4820, 'u32', 'guest', 'always'],
  GUEST_TR_ACCESS_RIGHTS: [0x4822, 'u32', 'guest', 'always'],
  GUEST_INTERRUPTIBILITY_STATE: [0x4824, 'u32', 'guest', 'always'],
  GUEST_ACTIVITY_STATE: [0x4826, 'u32', 'guest', 'always'],
  GUEST_SMBASE: [0x4828, 'u32', 'guest', 'always'],
  GUEST_IA32_SYSENTER_CS: [0x482a, 'u32', 'guest', 'always'],
  PREEMPTION_TIMER_VALUE: [0x482e, 'u32', 'guest', 'PIN.PREEMPTION_TIMER'],
  HOST_IA32_SYSENTER_CS: [0x4c00, 'u32', 'host', 'always'],
  CR0_GUEST_HOST_MASK: [0x6000, 'natural', 'control', 'always'],
  CR4_GUEST_HOST_MASK: [0x6002, 'natural', 'control', 'always'],
  CR0_READ_SHADOW: [0x6004, 'natural', 'control', 'always'],
  CR4_READ_SHADOW: [0x6006, 'natural', 'control', 'always'],
  CR3_TARGET_VALUE0: [0x6008, 'natural', 'control', 'always'],
  CR3_TARGET_VALUE1: [0x600a, 'natural', 'control', 'always'],
  CR3_TARGET_VALUE2: [0x600c, 'natural', 'control', 'always'],
  CR3_TARGET_VALUE3: [0x600e, 'natural', 'control', 'always'],
  EXIT_QUALIFICATION: [0x6400, 'natural', 'exit information', 'always'],
  IO_RCX: [0x6402, 'natural', 'exit information', 'always'],
  IO_RSI: [0x6404, 'natural', 'exit information', 'always'],
  IO_RDI: [0x6406, 'natural', 'exit information', 'always'],
  IO_RIP: [0x6408, 'natural', 'exit information', 'always'],
  GUEST_LINEAR_ADDRESS: [0x640a, 'natural', 'exit information', 'always'],
  GUEST_CR0: [0x6800, 'natural', 'guest', 'always'],
  GUEST_CR3: [0x6802, 'natural', 'guest', 'always'],
  GUEST_CR4: [0x6804, 'natural', 'guest', 'always'],
  GUEST_ES_BASE: [0x6806, 'natural', 'guest', 'always'],
  GUEST_CS_BASE: [0x6808, 'natural', 'guest', 'always'],
  GUEST_SS_BASE: [0x680a, 'natural', 'guest', 'always'],
  GUEST_DS_BASE: [0x680c, 'natural', 'guest', 'always'],
  GUEST_FS_BASE: [0x680e, 'natural', 'guest', 'always'],
  GUEST_GS_BASE: [0x6810, 'natural', 'guest', 'always'],
  GUEST_LDTR_BASE: [0x6812, 'natural', 'guest', 'always'],
  GUEST_TR_BASE: [0x6814, 'natural', 'guest', 'always'],
  GUEST_GDTR_BASE: [0x6816, 'natural', 'guest', 'always'],
  GUEST_IDTR_BASE: [0x6818, 'natural', 'guest', 'always'],
  GUEST_DR7: [0x681a, 'natural', 'guest', 'always'],
  GUEST_RSP: [0x681c, 'natural', 'guest', 'always'],
  GUEST_RIP: [0x681e, 'natural', 'guest', 'always'],
  GUEST_RFLAGS: [0x6820, 'natural', 'guest', 'always'],
  GUEST_PENDING_DEBUG_EXCEPTIONS: [0x6822, 'natural', 'guest', 'always'],
  GUEST_IA32_SYSENTER_ESP: [0x6824, 'natural', 'guest', 'always'],
  GUEST_IA32_SYSENTER_EIP: [0x6826, 'natural', 'guest', 'always'],
  GUEST_IA32_S_CET: [0x6828, 'natural', 'guest', 'ENTRY.LOAD_CET'],
  GUEST_SSP: [0x682a, 'natural', 'guest', 'ENTRY.LOAD_CET'],
  GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR: [0x682c, 'natural', 'guest', 'ENTRY.LOAD_CET'],
  HOST_CR0: [0x6c00, 'natural', 'host', 'always'],
  HOST_CR3: [0x6c02, 'natural', 'host', 'always'],
  HOST_CR4: [0x6c04, 'natural', 'host', 'always'],
  HOST_FS_BASE: [0x6c06, 'natural', 'host', 'always'],
  HOST_GS_BASE: [0x6c08, 'natural', 'host', 'always'],
  HOST_TR_BASE: [0x6c0a, 'natural', 'host', 'always'],
  HOST_GDTR_BASE: [0x6c0c, 'natural', 'host', 'always'],
  HOST_IDTR_BASE: [0x6c0e, 'natural', 'host', 'always'],
  HOST_IA32_SYSENTER_ESP: [0x6c10, 'natural', 'host', 'always'],
  HOST_IA32_SYSENTER_EIP: [0x6c12, 'natural', 'host', 'always'],
  HOST_RSP: [0x6c14, 'natural', 'host', 'always'],
  HOST_RIP: [0x6c16, 'natural', 'host', 'always'],
  HOST_IA32_S_CET: [0x6c18, 'natural', 'host', 'EXIT.LOAD_CET'],
  HOST_SSP: [0x6c1a, 'natural', 'host', 'EXIT.LOAD_CET'],
  HOST_IA32_INTERRUPT_SSP_TABLE_ADDR: [0x6c1c, 'natural', 'host', 'EXIT.LOAD_CET'],
} as const satisfies Record<string, FieldRow>;

export type VmcsField = keyof typeof VMCS_FIELDS;

/** By row number. */
export const VMCS_FIELD_NAMES = Object.keys(VMCS_FIELDS) as readonly VmcsField[];
export const VMCS_FIELD_COUNT = VMCS_FIELD_NAMES.length;

/** Row number by name: `FIELD.GUEST_CR0`. What hot code uses in place of encodings. */
export const FIELD = Object.freeze(Object.fromEntries(VMCS_FIELD_NAMES.map((name, row) => [name, row]))) as {
  readonly [Name in VmcsField]: number;
};

const rowOf = (row: number): FieldRow => VMCS_FIELDS[VMCS_FIELD_NAMES[row]!];
export const fieldEncoding = (row: number): number => rowOf(row)[0];
export const fieldWidth = (row: number): Width => rowOf(row)[1];
export const fieldKind = (row: number): Kind => rowOf(row)[2];

/** Whether VMREAD and VMWRITE know the field, given what L1 is offered. */
export function fieldExists(row: number, offered: ReadonlySet<Exists>): boolean {
  const existsIf: Exists | readonly Exists[] = rowOf(row)[3];
  if (existsIf === 'always') return true;
  return typeof existsIf === 'string' ? offered.has(existsIf) : existsIf.some((one) => offered.has(one));
}

/** Bits 31:15 and 12 of an encoding are reserved. */
const ENCODING_LIMIT = 0x8000;
/** Row by encoding with the access type (bit 0) cleared; -1: no such field. */
const ROW_OF = new Int16Array(ENCODING_LIMIT).fill(-1);
VMCS_FIELD_NAMES.forEach((name, row) => {
  ROW_OF[VMCS_FIELDS[name][0]] = row;
});

/**
 * Row of an encoding as VMREAD and VMWRITE take it, or -1. An odd encoding means the upper half of a 64-bit field:
 * -1 for the other widths. `encoding` is the low half; the caller has checked that the upper half is 0.
 */
export function fieldRow(encoding: number): number {
  if (encoding < 0 || encoding >= ENCODING_LIMIT) return -1;
  const row = ROW_OF[encoding & ~1]!;
  return (encoding & 1) !== 0 && encoding >>> 13 !== 1 ? -1 : row;
}

/** Reading one VMCS without allocation. Both halves are unsigned; 16- and 32-bit fields have `hi` 0. */
export interface VmcsReader {
  lo(row: number): number;
  hi(row: number): number;
}

/** A VMCS as an array of u32, two for each row. */
export class VmcsImage implements VmcsReader {
  readonly words: Uint32Array;

  /** @param words  Where the fields are; at least two for each row. */
  constructor(words: Uint32Array = new Uint32Array(2 * VMCS_FIELD_COUNT)) {
    this.words = words;
  }

  lo(row: number): number {
    return this.words[2 * row]!;
  }

  hi(row: number): number {
    return this.words[2 * row + 1]!;
  }

  /** Stores what the field's width keeps. */
  write(row: number, lo: number, hi: number): void {
    const { words } = this;
    words[2 * row] = lo & FIELD_MASKS[2 * row]!;
    words[2 * row + 1] = hi & FIELD_MASKS[2 * row + 1]!;
  }

  copyFrom(other: VmcsImage): void {
    this.words.set(other.words);
  }
}

/** What a field's width keeps of a value, two words for each row. Natural width is 64: the processor supports Intel 64. */
export const FIELD_MASKS = Uint32Array.from({ length: 2 * VMCS_FIELD_COUNT }, (_, word) => {
  const width = VMCS_FIELDS[VMCS_FIELD_NAMES[word >>> 1]!][1];
  if ((word & 1) !== 0) return width === 'u64' || width === 'natural' ? 0xffff_ffff : 0;
  return width === 'u16' ? 0xffff : 0xffff_ffff;
});
