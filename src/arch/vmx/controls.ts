/**
 * The bits of the six VMX control words, with the names of the SDM.
 *
 * A name that occurs in two words (LOAD_PAT on entry and on exit) is told apart by its word: `EXIT.LOAD_PAT`.
 *
 * Source  SDM 3C 24.6 "VM-Execution Control Fields", 24.7 "VM-Exit Control Fields", 24.8 "VM-Entry Control Fields";
 *         Appendix A "VMX Capability Reporting Facility" for the default1 class.
 */
import { bits } from '../../base/bits.ts';

const PIN_POSITIONS = {
  EXTERNAL_INTERRUPT_EXITING: 0,
  NMI_EXITING: 3,
  VIRTUAL_NMIS: 5,
  PREEMPTION_TIMER: 6,
  PROCESS_POSTED_INTERRUPTS: 7,
} as const;

const PRIMARY_POSITIONS = {
  INTERRUPT_WINDOW_EXITING: 2,
  USE_TSC_OFFSETTING: 3,
  HLT_EXITING: 7,
  INVLPG_EXITING: 9,
  MWAIT_EXITING: 10,
  RDPMC_EXITING: 11,
  RDTSC_EXITING: 12,
  CR3_LOAD_EXITING: 15,
  CR3_STORE_EXITING: 16,
  ACTIVATE_TERTIARY_CONTROLS: 17,
  CR8_LOAD_EXITING: 19,
  CR8_STORE_EXITING: 20,
  USE_TPR_SHADOW: 21,
  NMI_WINDOW_EXITING: 22,
  MOV_DR_EXITING: 23,
  UNCONDITIONAL_IO_EXITING: 24,
  USE_IO_BITMAPS: 25,
  MONITOR_TRAP_FLAG: 27,
  USE_MSR_BITMAPS: 28,
  MONITOR_EXITING: 29,
  PAUSE_EXITING: 30,
  ACTIVATE_SECONDARY_CONTROLS: 31,
} as const;

const SECONDARY_POSITIONS = {
  VIRTUALIZE_APIC_ACCESSES: 0,
  ENABLE_EPT: 1,
  DESCRIPTOR_TABLE_EXITING: 2,
  ENABLE_RDTSCP: 3,
  VIRTUALIZE_X2APIC_MODE: 4,
  ENABLE_VPID: 5,
  WBINVD_EXITING: 6,
  UNRESTRICTED_GUEST: 7,
  APIC_REGISTER_VIRTUALIZATION: 8,
  VIRTUAL_INTERRUPT_DELIVERY: 9,
  PAUSE_LOOP_EXITING: 10,
  RDRAND_EXITING: 11,
  ENABLE_INVPCID: 12,
  ENABLE_VM_FUNCTIONS: 13,
  VMCS_SHADOWING: 14,
  ENABLE_ENCLS_EXITING: 15,
  RDSEED_EXITING: 16,
  ENABLE_PML: 17,
  EPT_VIOLATION_VE: 18,
  CONCEAL_VMX_FROM_PT: 19,
  ENABLE_XSAVES: 20,
  PASID_TRANSLATION: 21,
  MODE_BASED_EXECUTE_CONTROL: 22,
  SUB_PAGE_WRITE_PERMISSIONS: 23,
  PT_USES_GUEST_PHYSICAL: 24,
  USE_TSC_SCALING: 25,
  ENABLE_USER_WAIT_AND_PAUSE: 26,
  ENABLE_PCONFIG: 27,
  ENABLE_ENCLV_EXITING: 28,
  VMM_BUS_LOCK_DETECTION: 30,
  INSTRUCTION_TIMEOUT: 31,
} as const;

/** 64 bits wide; all bits defined so far are in the low half. */
const TERTIARY_POSITIONS = {
  LOADIWKEY_EXITING: 0,
  ENABLE_HLAT: 1,
  EPT_PAGING_WRITE: 2,
  GUEST_PAGING_VERIFICATION: 3,
  IPI_VIRTUALIZATION: 4,
  ENABLE_MSR_LIST: 6,
  VIRTUALIZE_SPEC_CTRL: 7,
} as const;

const EXIT_POSITIONS = {
  SAVE_DEBUG_CONTROLS: 2,
  HOST_ADDRESS_SPACE_SIZE: 9,
  LOAD_PERF_GLOBAL_CTRL: 12,
  ACKNOWLEDGE_INTERRUPT_ON_EXIT: 15,
  SAVE_PAT: 18,
  LOAD_PAT: 19,
  SAVE_EFER: 20,
  LOAD_EFER: 21,
  SAVE_PREEMPTION_TIMER: 22,
  CLEAR_BNDCFGS: 23,
  CONCEAL_VMX_FROM_PT: 24,
  CLEAR_RTIT_CTL: 25,
  CLEAR_LBR_CTL: 26,
  CLEAR_UINV: 27,
  LOAD_CET: 28,
  LOAD_PKRS: 29,
  SAVE_PERF_GLOBAL_CTRL: 30,
  ACTIVATE_SECONDARY_CONTROLS: 31,
} as const;

const ENTRY_POSITIONS = {
  LOAD_DEBUG_CONTROLS: 2,
  IA32E_MODE_GUEST: 9,
  ENTRY_TO_SMM: 10,
  DEACTIVATE_DUAL_MONITOR: 11,
  LOAD_PERF_GLOBAL_CTRL: 13,
  LOAD_PAT: 14,
  LOAD_EFER: 15,
  LOAD_BNDCFGS: 16,
  CONCEAL_VMX_FROM_PT: 17,
  LOAD_RTIT_CTL: 18,
  LOAD_UINV: 19,
  LOAD_CET: 20,
  LOAD_LBR_CTL: 21,
  LOAD_PKRS: 22,
} as const;

export const PIN = bits(PIN_POSITIONS);
export const PRIMARY = bits(PRIMARY_POSITIONS);
export const SECONDARY = bits(SECONDARY_POSITIONS);
export const TERTIARY = bits(TERTIARY_POSITIONS);
export const EXIT = bits(EXIT_POSITIONS);
export const ENTRY = bits(ENTRY_POSITIONS);

/** All words by name; the name of a word is the prefix of its controls. */
export const CONTROL_WORDS = { PIN, PRIMARY, SECONDARY, TERTIARY, EXIT, ENTRY } as const;
export type ControlWord = keyof typeof CONTROL_WORDS;
export type ControlName = { [W in ControlWord]: `${W}.${keyof (typeof CONTROL_WORDS)[W] & string}` }[ControlWord];

/** Bits that read 1 in the non-TRUE capability MSRs because they are reserved or were so once: Appendix A.2. */
export const DEFAULT1 = {
  PIN: 0x16,
  PRIMARY: 0x0401_e172,
  EXIT: 0x0003_6dff,
  ENTRY: 0x0000_11ff,
} as const;

/** Members of the default1 class that have a meaning: the TRUE capability MSRs allow them to be 0. */
export const DEFAULT1_NAMED = {
  PIN: 0,
  PRIMARY: PRIMARY.CR3_LOAD_EXITING | PRIMARY.CR3_STORE_EXITING,
  EXIT: EXIT.SAVE_DEBUG_CONTROLS,
  ENTRY: ENTRY.LOAD_DEBUG_CONTROLS,
} as const;

export function controlMask(name: ControlName): number {
  const [word, bit] = name.split('.') as [ControlWord, string];
  return (CONTROL_WORDS[word] as Readonly<Record<string, number>>)[bit]!;
}

export const CONTROL_NAMES: readonly ControlName[] = Object.entries(CONTROL_WORDS).flatMap(([word, bitsOfWord]) =>
  Object.keys(bitsOfWord).map((bit) => `${word}.${bit}` as ControlName),
);

/** IA32_VMX_VMFUNC and the VM-function controls field: SDM 3C 24.6.14. */
export const VMFUNC = bits({ EPTP_SWITCHING: 0 });

/** Interruption-information fields: SDM 3C 24.8.3, 24.9.2, 24.9.3. Vector is 7:0, type 10:8. */
export const INTERRUPTION = bits({ DELIVER_ERROR_CODE: 11, NMI_UNBLOCKING: 12, VALID: 31 });
export const INTERRUPTION_TYPE = {
  EXTERNAL_INTERRUPT: 0,
  RESERVED: 1,
  NMI: 2,
  HARDWARE_EXCEPTION: 3,
  SOFTWARE_INTERRUPT: 4,
  PRIVILEGED_SOFTWARE_EXCEPTION: 5,
  SOFTWARE_EXCEPTION: 6,
  OTHER_EVENT: 7,
} as const;
export const interruptionType = (info: number): number => (info >>> 8) & 7;
export const interruptionVector = (info: number): number => info & 0xff;

/** SDM 3C Table 24-3 "Format of Interruptibility State". */
export const INTERRUPTIBILITY = bits({
  BLOCKING_BY_STI: 0,
  BLOCKING_BY_MOV_SS: 1,
  BLOCKING_BY_SMI: 2,
  BLOCKING_BY_NMI: 3,
  ENCLAVE_INTERRUPTION: 4,
});
/** SDM 3C 24.4.2 "Guest Non-Register State". */
export const ACTIVITY = { ACTIVE: 0, HLT: 1, SHUTDOWN: 2, WAIT_FOR_SIPI: 3 } as const;
/** SDM 3C Table 24-4 "Format of Pending-Debug-Exceptions". */
export const PENDING_DEBUG = bits({ B0: 0, B1: 1, B2: 2, B3: 3, BLD: 11, ENABLED_BREAKPOINT: 12, BS: 14, RTM: 16 });

/** SDM 3C Table 24-2 "Format of Access Rights". Type is 3:0, DPL 6:5. */
export const ACCESS_RIGHTS = bits({ S: 4, P: 7, AVL: 12, L: 13, DB: 14, G: 15, UNUSABLE: 16 });
export const ACCESS_RIGHTS_RESERVED = 0xfffe_0f00;
export const accessType = (rights: number): number => rights & 15;
export const accessDpl = (rights: number): number => (rights >>> 5) & 3;
