/**
 * Which part of DESIGN.md 5's offer L0 can keep: what is not in here, the capability MSRs do not show.
 */
import type { FeatureName } from '../../../arch/cpuid-features.ts';
import { FULL_OFFER, type VmxCapabilities, type VmxOffer, vmxCapabilities } from '../../../arch/vmx/capabilities.ts';
import type { ControlName } from '../../../arch/vmx/controls.ts';
import { offerWithout, type VmxPart } from '../../../arch/vmx/offer-names.ts';

/** Without TDP there is no second stage that L0 could shadow EPT12 on. */
const NEEDS_TDP: ReadonlySet<ControlName> = new Set<ControlName>([
  'SECONDARY.ENABLE_EPT',
  'SECONDARY.UNRESTRICTED_GUEST',
  'SECONDARY.ENABLE_PML',
  'SECONDARY.MODE_BASED_EXECUTE_CONTROL',
  'SECONDARY.ENABLE_VM_FUNCTIONS',
]);

/** Controls about an instruction that the processor may not have. */
const ABOUT: readonly (readonly [feature: FeatureName, part: VmxPart])[] = [
  ['rdtscp', 'vmx-rdtscp-exit'],
  ['invpcid', 'vmx-invpcid-exit'],
  ['xsaves', 'vmx-xsaves'],
  ['rdrand', 'vmx-rdrand-exit'],
  ['rdseed', 'vmx-rdseed-exit'],
];

/** The parts that CPUID leaves nothing to do. */
export const partsWithout = (has: (feature: FeatureName) => boolean): VmxPart[] =>
  ABOUT.filter(([feature]) => !has(feature)).map(([, part]) => part);

/** @param without  What the user took away. */
export function nestedOffer(tdp: boolean, without: readonly VmxPart[] = []): VmxOffer {
  const controls = new Set([...FULL_OFFER.controls].filter((name) => tdp || !NEEDS_TDP.has(name)));
  return offerWithout({ ...FULL_OFFER, controls, vmFunctions: tdp ? FULL_OFFER.vmFunctions : 0 }, without);
}

export const nestedCapabilities = (
  tdp: boolean,
  cr4Allowed: number,
  without: readonly VmxPart[] = [],
): VmxCapabilities => vmxCapabilities(nestedOffer(tdp, without), cr4Allowed);
