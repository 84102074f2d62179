/**
 * The VMX capability MSRs, computed from the list of controls that L0 offers: a control that is not in the list
 * cannot be set, and no MSR can say otherwise.
 *
 * Source  SDM 3D Appendix A "VMX Capability Reporting Facility".
 */
import { assert } from '../../base/assert.ts';
import type { Halves } from '../msrs.ts';
import { CR0, CR4 } from '../registers.ts';
import {
  CONTROL_NAMES,
  type ControlName,
  type ControlWord,
  controlMask,
  DEFAULT1,
  DEFAULT1_NAMED,
  VMFUNC,
} from './controls.ts';
import { EPT_CAP, VPID_CAP } from './ept.ts';
import { type Exists, fieldEncoding, fieldExists, VMCS_FIELD_COUNT } from './fields.ts';

export interface VmxOffer {
  readonly controls: ReadonlySet<ControlName>;
  /** Mask of VM functions, `VMFUNC`. */
  readonly vmFunctions: number;
  /** Halves of IA32_VMX_EPT_VPID_CAP: `EPT_CAP` and `VPID_CAP`. Shown as far as EPT and VPID are offered. */
  readonly eptCap: number;
  readonly vpidCap: number;
  /** The preemption timer counts down once in 2^n TSC ticks. */
  readonly preemptionTimerShift: number;
  /** Bit n: activity state n can be entered; 0 (active) always can. */
  readonly activityStates: number;
  readonly cr3Targets: number;
  /** VMWRITE may write exit-information fields. */
  readonly vmwriteAnyField: boolean;
  /** Software events may be injected with instruction length 0. */
  readonly injectLengthZero: boolean;
  readonly revision: number;
}

/** DESIGN.md 5, "What L1 is offered". L0 passes the subset that works. */
export const FULL_OFFER: VmxOffer = {
  controls: new Set<ControlName>([
    'PIN.EXTERNAL_INTERRUPT_EXITING',
    'PIN.NMI_EXITING',
    'PIN.VIRTUAL_NMIS',
    'PIN.PREEMPTION_TIMER',
    'PIN.PROCESS_POSTED_INTERRUPTS',
    'PRIMARY.INTERRUPT_WINDOW_EXITING',
    'PRIMARY.USE_TSC_OFFSETTING',
    'PRIMARY.HLT_EXITING',
    'PRIMARY.INVLPG_EXITING',
    'PRIMARY.MWAIT_EXITING',
    'PRIMARY.RDPMC_EXITING',
    'PRIMARY.RDTSC_EXITING',
    'PRIMARY.CR3_LOAD_EXITING',
    'PRIMARY.CR3_STORE_EXITING',
    'PRIMARY.CR8_LOAD_EXITING',
    'PRIMARY.CR8_STORE_EXITING',
    'PRIMARY.USE_TPR_SHADOW',
    'PRIMARY.NMI_WINDOW_EXITING',
    'PRIMARY.MOV_DR_EXITING',
    'PRIMARY.UNCONDITIONAL_IO_EXITING',
    'PRIMARY.USE_IO_BITMAPS',
    'PRIMARY.MONITOR_TRAP_FLAG',
    'PRIMARY.USE_MSR_BITMAPS',
    'PRIMARY.MONITOR_EXITING',
    'PRIMARY.PAUSE_EXITING',
    'SECONDARY.VIRTUALIZE_APIC_ACCESSES',
    'SECONDARY.ENABLE_EPT',
    'SECONDARY.DESCRIPTOR_TABLE_EXITING',
    'SECONDARY.ENABLE_RDTSCP',
    'SECONDARY.VIRTUALIZE_X2APIC_MODE',
    'SECONDARY.ENABLE_VPID',
    'SECONDARY.WBINVD_EXITING',
    'SECONDARY.UNRESTRICTED_GUEST',
    'SECONDARY.APIC_REGISTER_VIRTUALIZATION',
    'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY',
    'SECONDARY.PAUSE_LOOP_EXITING',
    'SECONDARY.RDRAND_EXITING',
    'SECONDARY.ENABLE_INVPCID',
    'SECONDARY.ENABLE_VM_FUNCTIONS',
    'SECONDARY.VMCS_SHADOWING',
    'SECONDARY.RDSEED_EXITING',
    'SECONDARY.ENABLE_PML',
    'SECONDARY.ENABLE_XSAVES',
    'SECONDARY.MODE_BASED_EXECUTE_CONTROL',
    'SECONDARY.USE_TSC_SCALING',
    'EXIT.SAVE_DEBUG_CONTROLS',
    'EXIT.HOST_ADDRESS_SPACE_SIZE',
    'EXIT.ACKNOWLEDGE_INTERRUPT_ON_EXIT',
    'EXIT.SAVE_PAT',
    'EXIT.LOAD_PAT',
    'EXIT.SAVE_EFER',
    'EXIT.LOAD_EFER',
    'EXIT.SAVE_PREEMPTION_TIMER',
    'ENTRY.LOAD_DEBUG_CONTROLS',
    'ENTRY.IA32E_MODE_GUEST',
    'ENTRY.LOAD_PAT',
    'ENTRY.LOAD_EFER',
  ]),
  vmFunctions: VMFUNC.EPTP_SWITCHING,
  eptCap:
    EPT_CAP.EXECUTE_ONLY |
    EPT_CAP.WALK_4 |
    EPT_CAP.UNCACHEABLE |
    EPT_CAP.WRITE_BACK |
    EPT_CAP.PAGE_2M |
    EPT_CAP.PAGE_1G |
    EPT_CAP.INVEPT |
    EPT_CAP.ACCESSED_DIRTY |
    EPT_CAP.ADVANCED_EXIT_INFO |
    EPT_CAP.INVEPT_SINGLE |
    EPT_CAP.INVEPT_GLOBAL,
  vpidCap:
    VPID_CAP.INVVPID |
    VPID_CAP.INDIVIDUAL_ADDRESS |
    VPID_CAP.SINGLE_CONTEXT |
    VPID_CAP.ALL_CONTEXT |
    VPID_CAP.SINGLE_RETAINING_GLOBALS,
  // KVM gives the timer up if it would tick faster than 430 MHz (linux-guest.md 6, pitfall 3); hardware has 5.
  preemptionTimerShift: 5,
  activityStates: 0b1111,
  cr3Targets: 4,
  vmwriteAnyField: true,
  injectLengthZero: true,
  revision: 0x5456_4d31, // "TVM1" read from the top
};

/** A control that makes no sense without another; offering it alone would be our mistake. */
export const OFFER_REQUIRES: Partial<Readonly<Record<ControlName, ControlName>>> = {
  'SECONDARY.UNRESTRICTED_GUEST': 'SECONDARY.ENABLE_EPT',
  'SECONDARY.MODE_BASED_EXECUTE_CONTROL': 'SECONDARY.ENABLE_EPT',
  'SECONDARY.ENABLE_PML': 'SECONDARY.ENABLE_EPT',
  'SECONDARY.EPT_VIOLATION_VE': 'SECONDARY.ENABLE_EPT',
  'SECONDARY.VIRTUALIZE_X2APIC_MODE': 'PRIMARY.USE_TPR_SHADOW',
  'SECONDARY.APIC_REGISTER_VIRTUALIZATION': 'PRIMARY.USE_TPR_SHADOW',
  'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY': 'PRIMARY.USE_TPR_SHADOW',
  'PIN.PROCESS_POSTED_INTERRUPTS': 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY',
  'PIN.VIRTUAL_NMIS': 'PIN.NMI_EXITING',
  'PRIMARY.NMI_WINDOW_EXITING': 'PIN.VIRTUAL_NMIS',
  'EXIT.SAVE_PREEMPTION_TIMER': 'PIN.PREEMPTION_TIMER',
};

/** Bits that must be 1 and bits that may be 1, both unsigned. */
export interface AllowedBits {
  readonly must: number;
  readonly may: number;
}

export const allows = (value: number, { must, may }: AllowedBits): boolean =>
  (value & must) >>> 0 === must && (value & ~may) === 0;

export interface VmxCapabilities {
  readonly offer: VmxOffer;
  /** By the TRUE rules: default1 controls with a meaning may be 0. */
  readonly pin: AllowedBits;
  readonly primary: AllowedBits;
  readonly secondary: AllowedBits;
  readonly tertiary: AllowedBits;
  readonly exit: AllowedBits;
  readonly entry: AllowedBits;
  readonly cr0: AllowedBits;
  readonly cr4: AllowedBits;
  readonly eptCap: number;
  readonly vpidCap: number;
  readonly vmFunctions: number;
  /** For `fieldExists`. */
  readonly exists: ReadonlySet<Exists>;
  /** Halves of MSR 0x480–0x492, or `undefined`: RDMSR is #GP(0). */
  msr(index: number): Halves | undefined;
}

/** @param cr4Allowed  Bits of CR4 that CPUID allows: `CpuidPolicy.cr4Allowed`. */
export function vmxCapabilities(offer: VmxOffer, cr4Allowed: number): VmxCapabilities {
  for (const [control, needed] of Object.entries(OFFER_REQUIRES)) {
    const missing = offer.controls.has(control as ControlName) && !offer.controls.has(needed);
    assert(!missing, `${control} is offered only together with ${needed}`);
  }
  const controls = new Set(offer.controls);
  const names = [...controls];
  if (names.some((name) => name.startsWith('SECONDARY.'))) controls.add('PRIMARY.ACTIVATE_SECONDARY_CONTROLS');
  if (names.some((name) => name.startsWith('TERTIARY.'))) controls.add('PRIMARY.ACTIVATE_TERTIARY_CONTROLS');

  const offered = (word: ControlWord): number =>
    CONTROL_NAMES.filter((name) => name.startsWith(`${word}.`) && controls.has(name)).reduce(
      (mask, name) => (mask | controlMask(name)) >>> 0,
      0,
    );
  const withDefault1 = (word: keyof typeof DEFAULT1): AllowedBits => ({
    // What has a meaning but is not offered stays 1: it could not be switched off before it was defined either.
    must: (DEFAULT1[word] & ~(DEFAULT1_NAMED[word] & offered(word))) >>> 0,
    may: (DEFAULT1[word] | offered(word)) >>> 0,
  });
  const pin = withDefault1('PIN');
  const primary = withDefault1('PRIMARY');
  const exit = withDefault1('EXIT');
  const entry = withDefault1('ENTRY');
  const secondary = { must: 0, may: offered('SECONDARY') };
  const tertiary = { must: 0, may: offered('TERTIARY') };
  const cr0 = { must: (CR0.PE | CR0.NE | CR0.PG) >>> 0, may: 0xffff_ffff };
  const cr4 = { must: CR4.VMXE, may: (cr4Allowed | CR4.VMXE) >>> 0 };
  const hasEpt = controls.has('SECONDARY.ENABLE_EPT');
  const hasVpid = controls.has('SECONDARY.ENABLE_VPID');
  const eptCap = hasEpt ? offer.eptCap : 0;
  const vpidCap = hasVpid ? offer.vpidCap : 0;
  const vmFunctions = controls.has('SECONDARY.ENABLE_VM_FUNCTIONS') ? offer.vmFunctions : 0;
  const exists = new Set<Exists>(controls);
  if ((vmFunctions & VMFUNC.EPTP_SWITCHING) !== 0) exists.add('VMFUNC.EPTP_SWITCHING');

  const msrs = new Map<number, Halves>();
  const range = ({ must, may }: AllowedBits): Halves => [may, must];
  /** The old MSRs say that the whole default1 class is fixed to 1. */
  const compatible = (word: keyof typeof DEFAULT1, { may }: AllowedBits): Halves => [may, DEFAULT1[word]];
  msrs.set(0x480, basic(offer));
  msrs.set(0x481, compatible('PIN', pin));
  msrs.set(0x482, compatible('PRIMARY', primary));
  msrs.set(0x483, compatible('EXIT', exit));
  msrs.set(0x484, compatible('ENTRY', entry));
  msrs.set(0x485, misc(offer, controls));
  msrs.set(0x486, [0, cr0.must]);
  msrs.set(0x487, [0, cr0.may]);
  msrs.set(0x488, [0, cr4.must]);
  msrs.set(0x489, [0, cr4.may]);
  msrs.set(0x48a, [0, highestIndex(exists) << 1]);
  if (secondary.may !== 0) msrs.set(0x48b, range(secondary));
  if (hasEpt || hasVpid) msrs.set(0x48c, [vpidCap, eptCap]);
  msrs.set(0x48d, range(pin));
  msrs.set(0x48e, range(primary));
  msrs.set(0x48f, range(exit));
  msrs.set(0x490, range(entry));
  if (controls.has('SECONDARY.ENABLE_VM_FUNCTIONS')) msrs.set(0x491, [0, vmFunctions]);
  if (tertiary.may !== 0) msrs.set(0x492, [0, tertiary.may]);

  return {
    offer,
    pin,
    primary,
    secondary,
    tertiary,
    exit,
    entry,
    cr0,
    cr4,
    eptCap,
    vpidCap,
    vmFunctions,
    exists,
    msr: (index) => msrs.get(index),
  };
}

/** IA32_VMX_BASIC: 4096-byte regions, write-back, INS/OUTS information, TRUE controls. Appendix A.1. */
function basic({ revision }: VmxOffer): Halves {
  assert(revision >= 0 && revision < 0x8000_0000, 'bit 31 of a revision identifier is 0');
  const regionBytes = 4096;
  const writeBack = 6 << (50 - 32);
  const insOutsInformation = 1 << (54 - 32);
  const trueControls = 1 << (55 - 32);
  // Bit 56 stays 0: the deliver-error-code bit of an injected exception must fit its vector.
  return [regionBytes | writeBack | insOutsInformation | trueControls, revision];
}

/** IA32_VMX_MISC. Appendix A.6. */
function misc(offer: VmxOffer, controls: ReadonlySet<ControlName>): Halves {
  const storesLma = controls.has('SECONDARY.UNRESTRICTED_GUEST') ? 1 << 5 : 0;
  const activity = ((offer.activityStates >>> 1) & 7) << 6;
  return [
    0,
    (offer.preemptionTimerShift |
      storesLma |
      activity |
      (offer.cr3Targets << 16) |
      (offer.vmwriteAnyField ? 1 << 29 : 0) |
      (offer.injectLengthZero ? 1 << 30 : 0)) >>>
      0,
  ];
}

/** Bits 9:1 of the largest encoding index among the fields that exist: IA32_VMX_VMCS_ENUM, Appendix A.9. */
function highestIndex(exists: ReadonlySet<Exists>): number {
  let highest = 0;
  for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) {
    if (fieldExists(row, exists)) highest = Math.max(highest, (fieldEncoding(row) >>> 1) & 0x1ff);
  }
  return highest;
}

/** MSR lists of VM entry and exit should not be longer than this: 512 × (IA32_VMX_MISC[27:25] + 1). */
export const MSR_LIST_ENTRIES_MAX = 512;
