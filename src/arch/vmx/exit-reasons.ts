/**
 * Basic exit reasons, VM-instruction errors and the layouts of exit qualifications.
 *
 * Source  SDM 3C Appendix C "VMX Basic Exit Reasons", 30.4 "VM Instruction Error Numbers", 27.2.1 "Basic VM-Exit
 *         Information" (Tables 27-1 to 27-7). Reasons 78 and 79 are of a later edition and stand for completeness.
 */
import { bits } from '../../base/bits.ts';

/** SDM 3C Appendix C. 35, 38, 42 and 71 have no meaning. */
export const EXIT_REASONS = {
  EXCEPTION_OR_NMI: 0,
  EXTERNAL_INTERRUPT: 1,
  TRIPLE_FAULT: 2,
  INIT_SIGNAL: 3,
  STARTUP_IPI: 4,
  IO_SMI: 5,
  OTHER_SMI: 6,
  INTERRUPT_WINDOW: 7,
  NMI_WINDOW: 8,
  TASK_SWITCH: 9,
  CPUID: 10,
  GETSEC: 11,
  HLT: 12,
  INVD: 13,
  INVLPG: 14,
  RDPMC: 15,
  RDTSC: 16,
  RSM: 17,
  VMCALL: 18,
  VMCLEAR: 19,
  VMLAUNCH: 20,
  VMPTRLD: 21,
  VMPTRST: 22,
  VMREAD: 23,
  VMRESUME: 24,
  VMWRITE: 25,
  VMXOFF: 26,
  VMXON: 27,
  CR_ACCESS: 28,
  DR_ACCESS: 29,
  IO_INSTRUCTION: 30,
  RDMSR: 31,
  WRMSR: 32,
  INVALID_GUEST_STATE: 33,
  MSR_LOADING: 34,
  MWAIT: 36,
  MONITOR_TRAP_FLAG: 37,
  MONITOR: 39,
  PAUSE: 40,
  MACHINE_CHECK_DURING_ENTRY: 41,
  TPR_BELOW_THRESHOLD: 43,
  APIC_ACCESS: 44,
  VIRTUALIZED_EOI: 45,
  GDTR_IDTR_ACCESS: 46,
  LDTR_TR_ACCESS: 47,
  EPT_VIOLATION: 48,
  EPT_MISCONFIGURATION: 49,
  INVEPT: 50,
  RDTSCP: 51,
  PREEMPTION_TIMER: 52,
  INVVPID: 53,
  WBINVD: 54,
  XSETBV: 55,
  APIC_WRITE: 56,
  RDRAND: 57,
  INVPCID: 58,
  VMFUNC: 59,
  ENCLS: 60,
  RDSEED: 61,
  PML_FULL: 62,
  XSAVES: 63,
  XRSTORS: 64,
  PCONFIG: 65,
  SPP_EVENT: 66,
  UMWAIT: 67,
  TPAUSE: 68,
  LOADIWKEY: 69,
  ENCLV: 70,
  ENQCMD_PASID: 72,
  ENQCMDS_PASID: 73,
  BUS_LOCK: 74,
  INSTRUCTION_TIMEOUT: 75,
  SEAMCALL: 76,
  TDCALL: 77,
  RDMSRLIST: 78,
  WRMSRLIST: 79,
} as const;

export type ExitReason = keyof typeof EXIT_REASONS;

/** Upper bits of the exit-reason field: SDM 3C Table 24-14. */
export const EXIT_REASON_FLAGS = bits({
  BUS_LOCK: 26,
  ENCLAVE: 27,
  PENDING_MTF: 28,
  FROM_ROOT: 29,
  ENTRY_FAILURE: 31,
});

const NAMES: readonly (ExitReason | undefined)[] = Array.from({ length: 80 }, (_, number) =>
  (Object.keys(EXIT_REASONS) as ExitReason[]).find((name) => EXIT_REASONS[name] === number),
);
/** Name of the basic reason (bits 15:0), or `undefined`. */
export const exitReasonName = (reason: number): ExitReason | undefined => NAMES[reason & 0xffff];

/** SDM 3C 30.4 "VM Instruction Error Numbers", Table 30-1. */
export const VM_INSTRUCTION_ERRORS = {
  1: 'VMCALL executed in VMX root operation',
  2: 'VMCLEAR with invalid physical address',
  3: 'VMCLEAR with VMXON pointer',
  4: 'VMLAUNCH with non-clear VMCS',
  5: 'VMRESUME with non-launched VMCS',
  6: 'VMRESUME after VMXOFF (VMXOFF and VMXON between VMLAUNCH and VMRESUME)',
  7: 'VM entry with invalid control field(s)',
  8: 'VM entry with invalid host-state field(s)',
  9: 'VMPTRLD with invalid physical address',
  10: 'VMPTRLD with VMXON pointer',
  11: 'VMPTRLD with incorrect VMCS revision identifier',
  12: 'VMREAD/VMWRITE from/to unsupported VMCS component',
  13: 'VMWRITE to read-only VMCS component',
  15: 'VMXON executed in VMX root operation',
  16: 'VM entry with invalid executive-VMCS pointer',
  17: 'VM entry with non-launched executive VMCS',
  18: 'VM entry with executive-VMCS pointer not VMXON pointer',
  19: 'VMCALL with non-clear VMCS',
  20: 'VMCALL with invalid VM-exit control fields',
  22: 'VMCALL with incorrect MSEG revision identifier',
  23: 'VMXOFF under dual-monitor treatment of SMIs and SMM',
  24: 'VMCALL with invalid SMM-monitor features',
  25: 'VM entry with invalid VM-execution control fields in executive VMCS',
  26: 'VM entry with events blocked by MOV SS',
  28: 'Invalid operand to INVEPT/INVVPID',
} as const;
export type VmInstructionError = keyof typeof VM_INSTRUCTION_ERRORS;

/** Exit qualification of reason 33: SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State". */
export const ENTRY_FAILURE_QUALIFICATION = { DEFAULT: 0, PDPTE: 2, NMI: 3, LINK_POINTER: 4 } as const;

/** A field of an exit qualification: bits `lsb + width - 1 : lsb`. All that have a layout lie in the low half. */
export interface QualificationField {
  readonly lsb: number;
  readonly width: number;
}
const at = (lsb: number, width = 1): QualificationField => ({ lsb, width });

/** Reasons without a row have a whole value or 0: a linear address (INVLPG), a displacement (VMREAD …), an offset. */
export const QUALIFICATION_LAYOUTS = {
  /** Table 27-1, for debug exceptions; for #PF the qualification is the linear address. */
  DEBUG_EXCEPTION: { B0: at(0), B1: at(1), B2: at(2), B3: at(3), BLD: at(11), BD: at(13), BS: at(14), RTM: at(16) },
  /** Table 27-2. Source: 0 CALL, 1 IRET, 2 JMP, 3 task gate in IDT. */
  TASK_SWITCH: { SELECTOR: at(0, 16), SOURCE: at(30, 2) },
  /** Table 27-3. Access: 0 MOV to CR, 1 MOV from CR, 2 CLTS, 3 LMSW. */
  CR_ACCESS: { CR: at(0, 4), ACCESS: at(4, 2), LMSW_MEMORY: at(6), GPR: at(8, 4), LMSW_SOURCE: at(16, 16) },
  /** Table 27-4. */
  DR_ACCESS: { DR: at(0, 3), FROM_DR: at(4), GPR: at(8, 4) },
  /** Table 27-5. Size: 0, 1, 3 for 1, 2, 4 bytes. */
  IO_INSTRUCTION: { SIZE: at(0, 3), IN: at(3), STRING: at(4), REP: at(5), IMMEDIATE: at(6), PORT: at(16, 16) },
  /** Table 27-6. Type: 0 read, 1 write, 2 fetch, 3 event delivery; 10, 15 guest-physical. */
  APIC_ACCESS: { OFFSET: at(0, 12), TYPE: at(12, 4), ASYNCHRONOUS: at(16) },
  /** Table 27-7. USER_EXECUTABLE counts with MBEC; the three LINEAR_ bits with advanced exit information. */
  EPT_VIOLATION: {
    READ: at(0),
    WRITE: at(1),
    FETCH: at(2),
    READABLE: at(3),
    WRITABLE: at(4),
    EXECUTABLE: at(5),
    USER_EXECUTABLE: at(6),
    LINEAR_VALID: at(7),
    FINAL: at(8),
    LINEAR_USER: at(9),
    LINEAR_WRITABLE: at(10),
    LINEAR_NX: at(11),
    NMI_UNBLOCKING: at(12),
    SHADOW_STACK: at(13),
    SUPERVISOR_SHADOW_STACK: at(14),
    GUEST_PAGING_VERIFICATION: at(15),
    ASYNCHRONOUS: at(16),
  },
  PML_FULL: { NMI_UNBLOCKING: at(12) },
  STARTUP_IPI: { VECTOR: at(0, 8) },
  VIRTUALIZED_EOI: { VECTOR: at(0, 8) },
  APIC_WRITE: { OFFSET: at(0, 12) },
} as const satisfies Record<string, Readonly<Record<string, QualificationField>>>;

export const qualificationField = (qualification: number, { lsb, width }: QualificationField): number =>
  (qualification >>> lsb) & (2 ** width - 1);

/** A qualification as the inspector shows it: names of the fields that are not 0. */
export function describeQualification(layout: keyof typeof QUALIFICATION_LAYOUTS, qualification: number): string {
  const fields: Readonly<Record<string, QualificationField>> = QUALIFICATION_LAYOUTS[layout];
  return Object.entries(fields)
    .map(([name, field]): readonly [string, number, number] => [
      name,
      qualificationField(qualification, field),
      field.width,
    ])
    .filter(([, value]) => value !== 0)
    .map(([name, value, width]) => (width === 1 ? name : `${name}=${value}`))
    .join(' ');
}
