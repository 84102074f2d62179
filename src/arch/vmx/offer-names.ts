/**
 * QEMU's names for parts of the VMX offer, `-cpu intel,-vmx-mbec`, and an offer with some of them taken away.
 *
 * Owns    which control or capability bit each name means.
 * Never   adds to an offer: what L0 cannot keep has no name that brings it.
 *
 * Source  the names are those that `qemu-system-x86_64 -cpu help` lists, `vmx-mbec` that of later releases. QEMU calls
 *         two types of INVVPID "invept"; here they have their own name.
 */
import { OFFER_REQUIRES, type VmxOffer } from './capabilities.ts';
import { ACTIVITY, type ControlName, VMFUNC } from './controls.ts';
import { EPT_CAP, VPID_CAP } from './ept.ts';

type Part =
  | { readonly control: ControlName }
  | { readonly eptCap: number }
  | { readonly vpidCap: number }
  | { readonly activity: number }
  | { readonly vmFunction: number }
  | { readonly flag: 'vmwriteAnyField' | 'injectLengthZero' };

export const VMX_PARTS = {
  'vmx-intr-exit': { control: 'PIN.EXTERNAL_INTERRUPT_EXITING' },
  'vmx-nmi-exit': { control: 'PIN.NMI_EXITING' },
  'vmx-vnmi': { control: 'PIN.VIRTUAL_NMIS' },
  'vmx-preemption-timer': { control: 'PIN.PREEMPTION_TIMER' },
  'vmx-posted-intr': { control: 'PIN.PROCESS_POSTED_INTERRUPTS' },
  'vmx-vintr-pending': { control: 'PRIMARY.INTERRUPT_WINDOW_EXITING' },
  'vmx-tsc-offset': { control: 'PRIMARY.USE_TSC_OFFSETTING' },
  'vmx-hlt-exit': { control: 'PRIMARY.HLT_EXITING' },
  'vmx-invlpg-exit': { control: 'PRIMARY.INVLPG_EXITING' },
  'vmx-mwait-exit': { control: 'PRIMARY.MWAIT_EXITING' },
  'vmx-rdpmc-exit': { control: 'PRIMARY.RDPMC_EXITING' },
  'vmx-rdtsc-exit': { control: 'PRIMARY.RDTSC_EXITING' },
  'vmx-cr3-load-noexit': { control: 'PRIMARY.CR3_LOAD_EXITING' },
  'vmx-cr3-store-noexit': { control: 'PRIMARY.CR3_STORE_EXITING' },
  'vmx-cr8-load-exit': { control: 'PRIMARY.CR8_LOAD_EXITING' },
  'vmx-cr8-store-exit': { control: 'PRIMARY.CR8_STORE_EXITING' },
  'vmx-flexpriority': { control: 'PRIMARY.USE_TPR_SHADOW' },
  'vmx-vnmi-pending': { control: 'PRIMARY.NMI_WINDOW_EXITING' },
  'vmx-movdr-exit': { control: 'PRIMARY.MOV_DR_EXITING' },
  'vmx-io-exit': { control: 'PRIMARY.UNCONDITIONAL_IO_EXITING' },
  'vmx-io-bitmap': { control: 'PRIMARY.USE_IO_BITMAPS' },
  'vmx-mtf': { control: 'PRIMARY.MONITOR_TRAP_FLAG' },
  'vmx-msr-bitmap': { control: 'PRIMARY.USE_MSR_BITMAPS' },
  'vmx-monitor-exit': { control: 'PRIMARY.MONITOR_EXITING' },
  'vmx-pause-exit': { control: 'PRIMARY.PAUSE_EXITING' },
  'vmx-apicv-xapic': { control: 'SECONDARY.VIRTUALIZE_APIC_ACCESSES' },
  'vmx-ept': { control: 'SECONDARY.ENABLE_EPT' },
  'vmx-desc-exit': { control: 'SECONDARY.DESCRIPTOR_TABLE_EXITING' },
  'vmx-rdtscp-exit': { control: 'SECONDARY.ENABLE_RDTSCP' },
  'vmx-apicv-x2apic': { control: 'SECONDARY.VIRTUALIZE_X2APIC_MODE' },
  'vmx-vpid': { control: 'SECONDARY.ENABLE_VPID' },
  'vmx-wbinvd-exit': { control: 'SECONDARY.WBINVD_EXITING' },
  'vmx-unrestricted-guest': { control: 'SECONDARY.UNRESTRICTED_GUEST' },
  'vmx-apicv-register': { control: 'SECONDARY.APIC_REGISTER_VIRTUALIZATION' },
  'vmx-apicv-vid': { control: 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY' },
  'vmx-ple': { control: 'SECONDARY.PAUSE_LOOP_EXITING' },
  'vmx-rdrand-exit': { control: 'SECONDARY.RDRAND_EXITING' },
  'vmx-invpcid-exit': { control: 'SECONDARY.ENABLE_INVPCID' },
  'vmx-vmfunc': { control: 'SECONDARY.ENABLE_VM_FUNCTIONS' },
  'vmx-shadow-vmcs': { control: 'SECONDARY.VMCS_SHADOWING' },
  'vmx-rdseed-exit': { control: 'SECONDARY.RDSEED_EXITING' },
  'vmx-pml': { control: 'SECONDARY.ENABLE_PML' },
  'vmx-xsaves': { control: 'SECONDARY.ENABLE_XSAVES' },
  'vmx-mbec': { control: 'SECONDARY.MODE_BASED_EXECUTE_CONTROL' },
  'vmx-tsc-scaling': { control: 'SECONDARY.USE_TSC_SCALING' },
  'vmx-exit-nosave-debugctl': { control: 'EXIT.SAVE_DEBUG_CONTROLS' },
  'vmx-exit-load-perf-global-ctrl': { control: 'EXIT.LOAD_PERF_GLOBAL_CTRL' },
  'vmx-exit-ack-intr': { control: 'EXIT.ACKNOWLEDGE_INTERRUPT_ON_EXIT' },
  'vmx-exit-save-pat': { control: 'EXIT.SAVE_PAT' },
  'vmx-exit-load-pat': { control: 'EXIT.LOAD_PAT' },
  'vmx-exit-save-efer': { control: 'EXIT.SAVE_EFER' },
  'vmx-exit-load-efer': { control: 'EXIT.LOAD_EFER' },
  'vmx-exit-save-preemption-timer': { control: 'EXIT.SAVE_PREEMPTION_TIMER' },
  'vmx-entry-noload-debugctl': { control: 'ENTRY.LOAD_DEBUG_CONTROLS' },
  'vmx-entry-ia32e-mode': { control: 'ENTRY.IA32E_MODE_GUEST' },
  'vmx-entry-load-perf-global-ctrl': { control: 'ENTRY.LOAD_PERF_GLOBAL_CTRL' },
  'vmx-entry-load-pat': { control: 'ENTRY.LOAD_PAT' },
  'vmx-entry-load-efer': { control: 'ENTRY.LOAD_EFER' },
  'vmx-ept-execonly': { eptCap: EPT_CAP.EXECUTE_ONLY },
  'vmx-page-walk-5': { eptCap: EPT_CAP.WALK_5 },
  'vmx-ept-2mb': { eptCap: EPT_CAP.PAGE_2M },
  'vmx-ept-1gb': { eptCap: EPT_CAP.PAGE_1G },
  'vmx-invept': { eptCap: EPT_CAP.INVEPT },
  'vmx-invept-single-context': { eptCap: EPT_CAP.INVEPT_SINGLE },
  'vmx-invept-all-context': { eptCap: EPT_CAP.INVEPT_GLOBAL },
  'vmx-eptad': { eptCap: EPT_CAP.ACCESSED_DIRTY },
  'vmx-ept-advanced-exitinfo': { eptCap: EPT_CAP.ADVANCED_EXIT_INFO },
  'vmx-invvpid': { vpidCap: VPID_CAP.INVVPID },
  'vmx-invvpid-single-addr': { vpidCap: VPID_CAP.INDIVIDUAL_ADDRESS },
  'vmx-invvpid-single-context': { vpidCap: VPID_CAP.SINGLE_CONTEXT },
  'vmx-invvpid-all-context': { vpidCap: VPID_CAP.ALL_CONTEXT },
  'vmx-invvpid-single-context-noglobals': { vpidCap: VPID_CAP.SINGLE_RETAINING_GLOBALS },
  'vmx-activity-hlt': { activity: ACTIVITY.HLT },
  'vmx-activity-shutdown': { activity: ACTIVITY.SHUTDOWN },
  'vmx-activity-wait-sipi': { activity: ACTIVITY.WAIT_FOR_SIPI },
  'vmx-eptp-switching': { vmFunction: VMFUNC.EPTP_SWITCHING },
  'vmx-vmwrite-vmexit-fields': { flag: 'vmwriteAnyField' },
  'vmx-zero-len-inject': { flag: 'injectLengthZero' },
} as const satisfies Readonly<Record<string, Part>>;

export type VmxPart = keyof typeof VMX_PARTS;
export const VMX_PART_NAMES = Object.keys(VMX_PARTS) as readonly VmxPart[];

/** Whether the offer has it. */
export function offers(offer: VmxOffer, name: VmxPart): boolean {
  const part: Part = VMX_PARTS[name];
  if ('control' in part) return offer.controls.has(part.control);
  if ('eptCap' in part) return (offer.eptCap & part.eptCap) !== 0;
  if ('vpidCap' in part) return (offer.vpidCap & part.vpidCap) !== 0;
  if ('activity' in part) return ((offer.activityStates >>> part.activity) & 1) !== 0;
  if ('vmFunction' in part) return (offer.vmFunctions & part.vmFunction) !== 0;
  return offer[part.flag];
}

/** The offer without these parts, and without the controls that make no sense without them. */
export function offerWithout(offer: VmxOffer, names: Iterable<VmxPart>): VmxOffer {
  const controls = new Set(offer.controls);
  const left = { ...offer, controls };
  for (const name of names) {
    const part: Part = VMX_PARTS[name];
    if ('control' in part) controls.delete(part.control);
    else if ('eptCap' in part) left.eptCap &= ~part.eptCap;
    else if ('vpidCap' in part) left.vpidCap &= ~part.vpidCap;
    else if ('activity' in part) left.activityStates &= ~(1 << part.activity);
    else if ('vmFunction' in part) left.vmFunctions &= ~part.vmFunction;
    else left[part.flag] = false;
  }
  for (let before = -1; before !== controls.size; ) {
    before = controls.size;
    for (const name of controls) {
      const needed = OFFER_REQUIRES[name];
      if (needed !== undefined && !controls.has(needed)) controls.delete(name);
    }
  }
  return left;
}
