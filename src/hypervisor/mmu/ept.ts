/**
 * What makes an EPT entry or an EPT pointer illegal, and what L1 is offered.
 *
 * Source  nested-mmu.md 3.11, 3.12; SDM 3C 28.2.3.1 "EPT Misconfigurations", 24.6.11 "Extended-Page-Table Pointer
 *         (EPTP)", 26.2.1.1 "VM-Execution Control Fields"; SDM 3D A.10 "VPID and EPT Capabilities".
 */
import { bits } from '../../base/bits.ts';

/** IA32_VMX_EPT_VPID_CAP bits 31:0. */
export const EPT_CAP = bits({
  EXECUTE_ONLY: 0,
  WALK_4: 6,
  WALK_5: 7,
  UC: 8,
  WB: 14,
  PAGE_2M: 16,
  PAGE_1G: 17,
  INVEPT: 20,
  ACCESSED_DIRTY: 21,
  ADVANCED_EXIT_INFORMATION: 22,
  INVEPT_SINGLE: 25,
  INVEPT_ALL: 26,
});

/** IA32_VMX_EPT_VPID_CAP bits 63:32, as positions in the high half. */
export const VPID_CAP = bits({ INVVPID: 0, INDIVIDUAL: 8, SINGLE: 9, ALL: 10, SINGLE_RETAINING_GLOBALS: 11 });

/** EPT entry bits. */
export const EPT_ENTRY = bits({ R: 0, W: 1, X: 2, LARGE: 7, A: 8, D: 9, XU: 10 });

/**
 * Low six bits of a present entry that are a misconfiguration, as a 64-bit set: memory types 2, 3 and 7; write without
 * read; execute-only if it is not offered. Non-leaf entries have bits 6:3 reserved, so one set serves all levels.
 */
export function computeBadMtXwr(execOnly: boolean): { lo: number; hi: number } {
  const halves = [0, 0];
  for (let k = 0; k < 64; k += 1) {
    const type = k >> 3;
    const xwr = k & 7;
    const bad = type === 2 || type === 3 || type === 7 || xwr === 2 || xwr === 6 || (xwr === 4 && !execOnly);
    if (bad) halves[k >> 5] = (halves[k >> 5]! | (1 << (k & 31))) >>> 0;
  }
  return { lo: halves[0]!, hi: halves[1]! };
}

/** SDM 3C 26.2.1.1: what an EPTP from L1 must satisfy, for VM entry, INVEPT single-context and VMFUNC alike. */
export function checkEptp(lo: number, hi: number, eptCaps: number, physicalAddressBits: number): boolean {
  const type = lo & 7;
  if (type === 0 ? (eptCaps & EPT_CAP.UC) === 0 : type === 6 ? (eptCaps & EPT_CAP.WB) === 0 : true) return false;
  const walk = (lo >>> 3) & 7;
  if (walk === 3 ? (eptCaps & EPT_CAP.WALK_4) === 0 : walk === 4 ? (eptCaps & EPT_CAP.WALK_5) === 0 : true) {
    return false;
  }
  if ((lo & 0x40) !== 0 && (eptCaps & EPT_CAP.ACCESSED_DIRTY) === 0) return false;
  if ((lo & 0xf80) !== 0) return false;
  return hi < 2 ** (physicalAddressBits - 32);
}
