/**
 * Who handles an exit of L2: L0 itself, L1, or L1 if one of its controls asked for it. A new exit reason does not
 * compile until someone decides.
 *
 * Owns    the decision; `because` is what the inspector shows beside each exit.
 * Knows   nothing of vmcs12's bitmaps: a route says which one to look at.
 *
 * Source  SDM 3C 25.1 "Instructions that Cause VM Exits", 25.2 "Other Causes of VM Exits"; the division of labour is
 *         KVM's (arch/x86/kvm/vmx/nested.c, 6.19).
 */
import type { ControlName } from './controls.ts';
import type { ExitReason } from './exit-reasons.ts';

/** A structure of vmcs12 in which L1 says, finer than by one bit, what it wants. */
export type ExitFilter =
  | 'exception bitmap'
  | 'I/O bitmaps'
  | 'MSR bitmaps'
  | 'CR masks'
  | 'XSS bitmap'
  | 'VMCS shadow bitmaps'
  | 'ENCLS bitmap'
  | 'ENCLV bitmap'
  | 'VM functions';

export type ExitRoute =
  | { readonly to: 'L0' | 'L1'; readonly because: string }
  | { readonly to: 'L1 if any'; readonly controls: readonly ControlName[]; readonly because: string }
  | { readonly to: 'L1 by filter'; readonly filter: ExitFilter; readonly because: string };

const UNCONDITIONAL = 'unconditional: SDM 3C 25.1.2';
const VMX_INSTRUCTION = 'every VMX instruction exits in non-root operation: SDM 3C 25.1.2; L1 emulates it for L2';

export const L2_EXIT_ROUTES = {
  EXCEPTION_OR_NMI: {
    to: 'L1 by filter',
    filter: 'exception bitmap',
    because: "L1's exception bitmap, and for #PF its error-code mask and match; an NMI of the host is L0's",
  },
  EXTERNAL_INTERRUPT: { to: 'L0', because: 'a device of the host interrupted; L1 hears of it if L0 injects' },
  TRIPLE_FAULT: { to: 'L1', because: 'unconditional: SDM 3C 25.2' },
  INIT_SIGNAL: { to: 'L1', because: 'INIT exits in non-root operation; L0 routes it as an event, not by this table' },
  STARTUP_IPI: { to: 'L1', because: 'SIPI exits in the wait-for-SIPI state: SDM 3C 25.2' },
  IO_SMI: { to: 'L0', because: 'there is no SMM below L1' },
  OTHER_SMI: { to: 'L0', because: 'there is no SMM below L1' },
  INTERRUPT_WINDOW: {
    to: 'L1 if any',
    controls: ['PRIMARY.INTERRUPT_WINDOW_EXITING'],
    because: 'L0 opens windows of its own',
  },
  NMI_WINDOW: { to: 'L1 if any', controls: ['PRIMARY.NMI_WINDOW_EXITING'], because: 'L0 opens windows of its own' },
  TASK_SWITCH: { to: 'L1', because: 'unconditional: SDM 3C 25.2' },
  CPUID: { to: 'L1', because: UNCONDITIONAL },
  GETSEC: { to: 'L1', because: UNCONDITIONAL },
  HLT: { to: 'L1 if any', controls: ['PRIMARY.HLT_EXITING'], because: 'SDM 3C 25.1.3' },
  INVD: { to: 'L1', because: UNCONDITIONAL },
  INVLPG: { to: 'L1 if any', controls: ['PRIMARY.INVLPG_EXITING'], because: 'SDM 3C 25.1.3' },
  RDPMC: { to: 'L1 if any', controls: ['PRIMARY.RDPMC_EXITING'], because: 'SDM 3C 25.1.3' },
  RDTSC: { to: 'L1 if any', controls: ['PRIMARY.RDTSC_EXITING'], because: 'SDM 3C 25.1.3' },
  RSM: { to: 'L0', because: '#UD outside SMM, which L0 raises in L2' },
  VMCALL: { to: 'L1', because: 'unconditional: SDM 3C 25.1.2; L2 calls its hypervisor, not L0' },
  VMCLEAR: { to: 'L1', because: VMX_INSTRUCTION },
  VMLAUNCH: { to: 'L1', because: VMX_INSTRUCTION },
  VMPTRLD: { to: 'L1', because: VMX_INSTRUCTION },
  VMPTRST: { to: 'L1', because: VMX_INSTRUCTION },
  VMREAD: {
    to: 'L1 by filter',
    filter: 'VMCS shadow bitmaps',
    because: 'with VMCS shadowing the VMREAD bitmap decides; else it exits always',
  },
  VMRESUME: { to: 'L1', because: VMX_INSTRUCTION },
  VMWRITE: {
    to: 'L1 by filter',
    filter: 'VMCS shadow bitmaps',
    because: 'with VMCS shadowing the VMWRITE bitmap decides; else it exits always',
  },
  VMXOFF: { to: 'L1', because: VMX_INSTRUCTION },
  VMXON: { to: 'L1', because: VMX_INSTRUCTION },
  CR_ACCESS: {
    to: 'L1 by filter',
    filter: 'CR masks',
    because: 'guest/host masks and read shadows, CR3 targets, and the CR3 and CR8 exiting controls',
  },
  DR_ACCESS: { to: 'L1 if any', controls: ['PRIMARY.MOV_DR_EXITING'], because: 'SDM 3C 25.1.3' },
  IO_INSTRUCTION: {
    to: 'L1 by filter',
    filter: 'I/O bitmaps',
    because: 'the I/O bitmaps if used, else unconditional I/O exiting',
  },
  RDMSR: { to: 'L1 by filter', filter: 'MSR bitmaps', because: 'without MSR bitmaps every RDMSR exits' },
  WRMSR: { to: 'L1 by filter', filter: 'MSR bitmaps', because: 'without MSR bitmaps every WRMSR exits' },
  INVALID_GUEST_STATE: { to: 'L0', because: 'L0 made vmcs02; checks of vmcs12 fail before it is entered' },
  MSR_LOADING: { to: 'L0', because: 'L0 loads the MSRs of vmcs12 itself and reports reason 34 from there' },
  MWAIT: { to: 'L1 if any', controls: ['PRIMARY.MWAIT_EXITING'], because: 'SDM 3C 25.1.3' },
  MONITOR_TRAP_FLAG: { to: 'L1 if any', controls: ['PRIMARY.MONITOR_TRAP_FLAG'], because: 'L0 may step for itself' },
  MONITOR: { to: 'L1 if any', controls: ['PRIMARY.MONITOR_EXITING'], because: 'SDM 3C 25.1.3' },
  PAUSE: {
    to: 'L1 if any',
    controls: ['PRIMARY.PAUSE_EXITING', 'SECONDARY.PAUSE_LOOP_EXITING'],
    because: 'L0 counts loops of its own',
  },
  MACHINE_CHECK_DURING_ENTRY: { to: 'L0', because: 'a machine check is of the host' },
  TPR_BELOW_THRESHOLD: { to: 'L1 if any', controls: ['PRIMARY.USE_TPR_SHADOW'], because: 'SDM 3C 29.1.2' },
  APIC_ACCESS: { to: 'L1 if any', controls: ['SECONDARY.VIRTUALIZE_APIC_ACCESSES'], because: 'SDM 3C 29.4' },
  VIRTUALIZED_EOI: { to: 'L1', because: "L0 uses no EOI-exit bitmap of its own for L2: the exit is L1's" },
  GDTR_IDTR_ACCESS: { to: 'L1 if any', controls: ['SECONDARY.DESCRIPTOR_TABLE_EXITING'], because: 'SDM 3C 25.1.3' },
  LDTR_TR_ACCESS: { to: 'L1 if any', controls: ['SECONDARY.DESCRIPTOR_TABLE_EXITING'], because: 'SDM 3C 25.1.3' },
  EPT_VIOLATION: { to: 'L0', because: 'L0 walks EPT12 first; a miss there becomes an exit to L1' },
  EPT_MISCONFIGURATION: { to: 'L0', because: 'L0 walks EPT12 first; a bad entry there becomes an exit to L1' },
  INVEPT: { to: 'L1', because: VMX_INSTRUCTION },
  RDTSCP: { to: 'L1 if any', controls: ['PRIMARY.RDTSC_EXITING'], because: 'SDM 3C 25.1.3' },
  PREEMPTION_TIMER: { to: 'L0', because: "L0 counts for L1 and for itself; L1's expiry is delivered as an event" },
  INVVPID: { to: 'L1', because: VMX_INSTRUCTION },
  WBINVD: { to: 'L1 if any', controls: ['SECONDARY.WBINVD_EXITING'], because: 'SDM 3C 25.1.3' },
  XSETBV: { to: 'L1', because: UNCONDITIONAL },
  APIC_WRITE: {
    to: 'L1',
    because: 'APIC-register virtualization of L2 is always on behalf of L1: SDM 3C 29.4.3',
  },
  RDRAND: { to: 'L1 if any', controls: ['SECONDARY.RDRAND_EXITING'], because: 'SDM 3C 25.1.3' },
  INVPCID: {
    to: 'L1 if any',
    controls: ['PRIMARY.INVLPG_EXITING'],
    because: 'INVPCID exits if it is enabled and INVLPG exiting is 1: SDM 3C 25.1.3',
  },
  VMFUNC: {
    to: 'L1 by filter',
    filter: 'VM functions',
    because: 'L0 does EPTP switching for L1; a leaf that is not enabled, or a bad entry of the list, is an exit',
  },
  ENCLS: { to: 'L1 by filter', filter: 'ENCLS bitmap', because: 'SDM 3C 25.1.3; not offered' },
  RDSEED: { to: 'L1 if any', controls: ['SECONDARY.RDSEED_EXITING'], because: 'SDM 3C 25.1.3' },
  PML_FULL: { to: 'L0', because: "L0 writes L1's log while it fills EPT02, and reports a full one from there" },
  XSAVES: { to: 'L1 by filter', filter: 'XSS bitmap', because: 'SDM 3C 25.1.3' },
  XRSTORS: { to: 'L1 by filter', filter: 'XSS bitmap', because: 'SDM 3C 25.1.3' },
  PCONFIG: { to: 'L0', because: 'not offered: #UD in L2' },
  SPP_EVENT: { to: 'L0', because: 'not offered to L1, not used by L0' },
  UMWAIT: {
    to: 'L1 if any',
    controls: ['SECONDARY.ENABLE_USER_WAIT_AND_PAUSE'],
    because: 'not offered; exits only together with RDTSC exiting',
  },
  TPAUSE: {
    to: 'L1 if any',
    controls: ['SECONDARY.ENABLE_USER_WAIT_AND_PAUSE'],
    because: 'not offered; exits only together with RDTSC exiting',
  },
  LOADIWKEY: { to: 'L1 if any', controls: ['TERTIARY.LOADIWKEY_EXITING'], because: 'not offered' },
  ENCLV: { to: 'L1 by filter', filter: 'ENCLV bitmap', because: 'not offered' },
  ENQCMD_PASID: { to: 'L0', because: 'not offered: #UD in L2' },
  ENQCMDS_PASID: { to: 'L0', because: 'not offered: #UD in L2' },
  BUS_LOCK: { to: 'L0', because: 'not offered to L1, not used by L0' },
  INSTRUCTION_TIMEOUT: { to: 'L0', because: 'not offered to L1, not used by L0' },
  SEAMCALL: { to: 'L0', because: 'no SEAM: #UD in L2' },
  TDCALL: { to: 'L0', because: 'no SEAM: #UD in L2' },
  RDMSRLIST: { to: 'L0', because: 'not offered: #UD in L2' },
  WRMSRLIST: { to: 'L0', because: 'not offered: #UD in L2' },
} as const satisfies Record<ExitReason, ExitRoute>;

export const exitRoute = (reason: ExitReason): ExitRoute => L2_EXIT_ROUTES[reason];
