/**
 * What EPT and VPID offer, and which EPTPs are legal.
 *
 * Source  SDM 3C Appendix A.10 "VPID and EPT Capabilities"; 24.6.11 "Extended-Page-Table Pointer (EPTP)", Table 24-9;
 *         nested-mmu.md 3.12 "EPTP".
 */
import { bits } from '../../base/bits.ts';
import { fitsPhysical } from '../msrs.ts';

/** Low half of IA32_VMX_EPT_VPID_CAP. */
export const EPT_CAP = bits({
  EXECUTE_ONLY: 0,
  WALK_4: 6,
  WALK_5: 7,
  UNCACHEABLE: 8,
  WRITE_BACK: 14,
  PAGE_2M: 16,
  PAGE_1G: 17,
  INVEPT: 20,
  ACCESSED_DIRTY: 21,
  ADVANCED_EXIT_INFO: 22,
  SUPERVISOR_SHADOW_STACK: 23,
  INVEPT_SINGLE: 25,
  INVEPT_GLOBAL: 26,
});
/** High half. */
export const VPID_CAP = bits({
  INVVPID: 0,
  INDIVIDUAL_ADDRESS: 8,
  SINGLE_CONTEXT: 9,
  ALL_CONTEXT: 10,
  SINGLE_RETAINING_GLOBALS: 11,
});

/** SDM 3C 30.3 "INVEPT", "INVVPID": the register operand. */
export const INVEPT_TYPE = { SINGLE_CONTEXT: 1, GLOBAL: 2 } as const;
export const INVVPID_TYPE = {
  INDIVIDUAL_ADDRESS: 0,
  SINGLE_CONTEXT: 1,
  ALL_CONTEXT: 2,
  SINGLE_RETAINING_GLOBALS: 3,
} as const;
/** Whether the type is one that the capability MSR offers; any other is VMfail 28. `type` is the low half. */
export const inveptTypeIsOffered = (type: number, capLo: number): boolean =>
  (type === 1 || type === 2) && ((capLo >>> (24 + type)) & 1) !== 0;
export const invvpidTypeIsOffered = (type: number, capHi: number): boolean =>
  type >= 0 && type <= 3 && ((capHi >>> (8 + type)) & 1) !== 0;

export const EPTP = { MEMORY_TYPE: 0x7, WALK_LENGTH: 0x38, ACCESSED_DIRTY: 0x40, RESERVED: 0xf80 } as const;
export const EPTP_WALK_SHIFT = 3;

/** Number of levels that an EPTP asks for. */
export const eptpLevels = (lo: number): number => ((lo >>> EPTP_WALK_SHIFT) & 7) + 1;

export const eptpMemoryTypeIsOffered = (lo: number, capLo: number): boolean => {
  const type = lo & EPTP.MEMORY_TYPE;
  return (type === 0 && (capLo & EPT_CAP.UNCACHEABLE) !== 0) || (type === 6 && (capLo & EPT_CAP.WRITE_BACK) !== 0);
};
export const eptpWalkIsOffered = (lo: number, capLo: number): boolean => {
  const levels = eptpLevels(lo);
  return (levels === 4 && (capLo & EPT_CAP.WALK_4) !== 0) || (levels === 5 && (capLo & EPT_CAP.WALK_5) !== 0);
};
export const eptpAccessedDirtyIsOffered = (lo: number, capLo: number): boolean =>
  (lo & EPTP.ACCESSED_DIRTY) === 0 || (capLo & EPT_CAP.ACCESSED_DIRTY) !== 0;
export const eptpReservedAreZero = (lo: number, hi: number, physicalAddressBits: number): boolean =>
  (lo & EPTP.RESERVED) === 0 && fitsPhysical(hi, physicalAddressBits);

/** All four together: VM entry, INVEPT single-context, VMFUNC leaf 0. */
export const eptpIsLegal = (lo: number, hi: number, capLo: number, physicalAddressBits: number): boolean =>
  eptpMemoryTypeIsOffered(lo, capLo) &&
  eptpWalkIsOffered(lo, capLo) &&
  eptpAccessedDirtyIsOffered(lo, capLo) &&
  eptpReservedAreZero(lo, hi, physicalAddressBits);
