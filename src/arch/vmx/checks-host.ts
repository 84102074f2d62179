/**
 * VM-entry checks on the host-state area. A failure is VMfailValid with error 8, and nothing has changed.
 *
 * Not here: IA32_PERF_GLOBAL_CTRL, IA32_PKRS and CET state, whose load controls L0 does not offer.
 *
 * Source  SDM 3C 26.2.2 "Checks on Host Control Registers, MSRs, and SSP", 26.2.3 "Checks on Host Segment and
 *         Descriptor-Table Registers", 26.2.4 "Checks Related to Address-Space Size".
 */
import { fitsPhysical, memoryTypesAreLegal } from '../msrs.ts';
import { CR0, CR4, EFER } from '../registers.ts';
import { allows } from './capabilities.ts';
import {
  type CheckSection,
  canonical,
  check,
  FAILURE,
  forEach,
  hasExit,
  isCanonicalField,
  isIa32eGuest,
} from './checks.ts';
import { EXIT } from './controls.ts';
import { FIELD, type VmcsReader } from './fields.ts';

const is64BitHost = (v: VmcsReader): boolean => hasExit(v, EXIT.HOST_ADDRESS_SPACE_SIZE);

export const HOST_REGISTER_CHECKS = {
  section: '26.2.2 "Checks on Host Control Registers, MSRs, and SSP"',
  failure: FAILURE.HOST,
  rows: {
    'host CR0 is supported in VMX operation': check(
      ['HOST_CR0'],
      (v, c) => allows(v.lo(FIELD.HOST_CR0), c.vmx.cr0) && v.hi(FIELD.HOST_CR0) === 0,
    ),
    'host CR4 is supported in VMX operation': check(
      ['HOST_CR4'],
      (v, c) => allows(v.lo(FIELD.HOST_CR4), c.vmx.cr4) && v.hi(FIELD.HOST_CR4) === 0,
    ),
    'host CR4.CET needs CR0.WP': check(
      ['HOST_CR0', 'HOST_CR4'],
      (v) => (v.lo(FIELD.HOST_CR4) & CR4.CET) === 0 || (v.lo(FIELD.HOST_CR0) & CR0.WP) !== 0,
    ),
    'host CR3 is within the physical-address width': check(['HOST_CR3'], (v, c) =>
      fitsPhysical(v.hi(FIELD.HOST_CR3), c.physicalAddressBits),
    ),
    'host IA32_SYSENTER_ESP is canonical': canonical('HOST_IA32_SYSENTER_ESP'),
    'host IA32_SYSENTER_EIP is canonical': canonical('HOST_IA32_SYSENTER_EIP'),
    'host IA32_PAT has legal memory types': check(
      ['EXIT_CONTROLS', 'HOST_IA32_PAT'],
      (v) =>
        !hasExit(v, EXIT.LOAD_PAT) ||
        (memoryTypesAreLegal(v.lo(FIELD.HOST_IA32_PAT), true) && memoryTypesAreLegal(v.hi(FIELD.HOST_IA32_PAT), true)),
    ),
    'host IA32_EFER: reserved bits are 0': check(
      ['EXIT_CONTROLS', 'HOST_IA32_EFER'],
      (v, c) =>
        !hasExit(v, EXIT.LOAD_EFER) ||
        ((v.lo(FIELD.HOST_IA32_EFER) & ~c.eferAllowed) === 0 && v.hi(FIELD.HOST_IA32_EFER) === 0),
    ),
    'host IA32_EFER: LMA and LME are the host address-space size': check(['EXIT_CONTROLS', 'HOST_IA32_EFER'], (v) => {
      if (!hasExit(v, EXIT.LOAD_EFER)) return true;
      const both = EFER.LMA | EFER.LME;
      return (v.lo(FIELD.HOST_IA32_EFER) & both) === (is64BitHost(v) ? both : 0);
    }),
  },
} as const satisfies CheckSection;

export const HOST_SEGMENT_CHECKS = {
  section: '26.2.3 "Checks on Host Segment and Descriptor-Table Registers"',
  failure: FAILURE.HOST,
  rows: {
    ...forEach(['CS', 'SS', 'DS', 'ES', 'FS', 'GS', 'TR'], 'selector of the host has RPL 0 and TI 0', (register) => {
      const field = `HOST_${register}_SELECTOR` as const;
      const row = FIELD[field];
      return check([field], (v) => (v.lo(row) & 7) === 0);
    }),
    'host CS selector is not 0': check(['HOST_CS_SELECTOR'], (v) => v.lo(FIELD.HOST_CS_SELECTOR) !== 0),
    'host TR selector is not 0': check(['HOST_TR_SELECTOR'], (v) => v.lo(FIELD.HOST_TR_SELECTOR) !== 0),
    'host SS selector is not 0 in a 32-bit host': check(
      ['EXIT_CONTROLS', 'HOST_SS_SELECTOR'],
      (v) => is64BitHost(v) || v.lo(FIELD.HOST_SS_SELECTOR) !== 0,
    ),
    ...forEach(['FS', 'GS', 'GDTR', 'IDTR', 'TR'], 'base of the host is canonical', (register) =>
      canonical(`HOST_${register}_BASE`),
    ),
  },
} as const satisfies CheckSection;

export const HOST_ADDRESS_SPACE_CHECKS = {
  section: '26.2.4 "Checks Related to Address-Space Size"',
  failure: FAILURE.HOST,
  rows: {
    'outside IA-32e mode the guest is not in IA-32e mode either': check(
      ['ENTRY_CONTROLS'],
      (v, c) => c.lma || !isIa32eGuest(v),
      { alsoReads: 'mode' },
    ),
    'the host address-space size is the mode at VM entry': check(
      ['EXIT_CONTROLS'],
      (v, c) => c.lma === is64BitHost(v),
      { alsoReads: 'mode' },
    ),
    'a 32-bit host has no IA-32e mode guest': check(
      ['EXIT_CONTROLS', 'ENTRY_CONTROLS'],
      (v) => is64BitHost(v) || !isIa32eGuest(v),
    ),
    'a 32-bit host has CR4.PCIDE 0': check(
      ['EXIT_CONTROLS', 'HOST_CR4'],
      (v) => is64BitHost(v) || (v.lo(FIELD.HOST_CR4) & CR4.PCIDE) === 0,
    ),
    'a 32-bit host has RIP bits 63:32 0': check(
      ['EXIT_CONTROLS', 'HOST_RIP'],
      (v) => is64BitHost(v) || v.hi(FIELD.HOST_RIP) === 0,
    ),
    'a 64-bit host has CR4.PAE 1': check(
      ['EXIT_CONTROLS', 'HOST_CR4'],
      (v) => !is64BitHost(v) || (v.lo(FIELD.HOST_CR4) & CR4.PAE) !== 0,
    ),
    'a 64-bit host has a canonical RIP': check(
      ['EXIT_CONTROLS', 'HOST_RIP'],
      (v, c) => !is64BitHost(v) || isCanonicalField(v, c, FIELD.HOST_RIP),
    ),
  },
} as const satisfies CheckSection;
