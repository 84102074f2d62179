/**
 * Role words: everything that decides what a shadow page's entries look like, or how a guest table is read.
 *
 * Owns    the layout of the two words (`base`, `ext`) and the rules that feed them from registers.
 * Knows   nothing of a vCPU: registers come in as a snapshot, so that a role can be made for the level that is not
 *         running (nested-mmu.md 6.3 rows 9 and 11).
 * Never   contains MAXPHYADDR or CPUID facts; those are the capability epoch of format.ts (3.6).
 *
 * Source  nested-mmu.md 3.2 to 3.5, 9.2 ("put kind in the role word, to rule out bug 1").
 */

import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { ACC } from './access.ts';

/** Which manual the entries behind a role follow. DIRECT: no guest table at all, L0's own linear map (TDP). */
export const KIND = { DIRECT: 0, IA32: 1, EPT: 2, NPT: 3 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/*
 *  31   25 24  23   22   21 20  19    18    17    16    15    14   13   12   11      8   7    6  5    4     3   0
 * ┌───────┬───┬────┬────┬──────┬─────┬─────┬─────┬─────┬─────┬────┬────┬────┬─────────┬────┬───────┬─────┬───────┐
 * │  smm  │pse│gmet│mbec│ kind │pass │guest│ad   │smap │smep │wp  │nx  │inv │ access  │dir │quad   │4byte│ level │
 * └───────┴───┴────┴────┴──────┴─────┴─────┴─────┴─────┴─────┴────┴────┴────┴─────────┴────┴───────┴─────┴───────┘
 */
export const ROLE = {
  LEVEL: 0xf,
  HAS_4_BYTE_GPTE: 1 << 4,
  QUADRANT: 3 << 5,
  DIRECT: 1 << 7,
  ACCESS: 0xf << 8,
  INVALID: 1 << 12,
  EFER_NX: 1 << 13,
  CR0_WP: 1 << 14,
  SMEP_ANDNOT_WP: 1 << 15,
  SMAP_ANDNOT_WP: 1 << 16,
  AD_DISABLED: 1 << 17,
  GUEST_MODE: 1 << 18,
  PASSTHROUGH: 1 << 19,
  KIND: 3 << 20,
  MBEC: 1 << 22,
  GMET: 1 << 23,
  /** 32-bit paging only: decides what bit 7 of a PDE means, so shadow pages depend on it (docs/mmu-notes.md 3). */
  CR4_PSE: 1 << 24,
} as const;

export const ROLE_QUADRANT_SHIFT = 5;
export const ROLE_ACCESS_SHIFT = 8;
export const ROLE_KIND_SHIFT = 20;
export const ROLE_SMM_SHIFT = 25;

/** Extended role: facts that only a walker needs. VALID keeps an all-zero word from equalling a computed one. */
export const EXT = {
  VALID: 1 << 0,
  EXECONLY: 1 << 1,
  CR4_PSE: 1 << 2,
  CR4_PKE: 1 << 3,
  CR4_SMAP: 1 << 4,
  CR4_SMEP: 1 << 5,
  CR4_LA57: 1 << 6,
  EFER_LMA: 1 << 7,
  /** PFEC.F is reported. */
  HAS_PFERR_FETCH: 1 << 8,
} as const;

export const roleLevel = (role: number): number => role & ROLE.LEVEL;
export const roleKind = (role: number): Kind => ((role >>> ROLE_KIND_SHIFT) & 3) as Kind;
export const roleAccess = (role: number): number => (role >>> ROLE_ACCESS_SHIFT) & 0xf;
export const roleQuadrant = (role: number): number => (role >>> ROLE_QUADRANT_SHIFT) & 3;
export const isDirect = (role: number): boolean => (role & ROLE.DIRECT) !== 0;

const withLevel = (role: number, level: number): number => ((role & ~ROLE.LEVEL) | level) >>> 0;
const withKind = (role: number, kind: Kind): number => ((role & ~ROLE.KIND) | (kind << ROLE_KIND_SHIFT)) >>> 0;
const ACCESS_ALL = (ACC.ALL << ROLE_ACCESS_SHIFT) >>> 0;

/** Two words, filled in place: a role is computed on every nested transition and may not allocate. */
export interface RoleWords {
  base: number;
  ext: number;
}

/** cpu_role of an IA-32 walker: nested-mmu.md 3.2 "Feeding rule". `efer` must carry LMA, not only LME. */
export function calcCpuRole(
  out: RoleWords,
  cr0: number,
  cr4: number,
  efer: number,
  smm: boolean,
  guestMode: boolean,
): void {
  let base = ACCESS_ALL | (KIND.IA32 << ROLE_KIND_SHIFT);
  if (smm) base |= 1 << ROLE_SMM_SHIFT;
  if (guestMode) base |= ROLE.GUEST_MODE;
  let ext: number = EXT.VALID;
  if ((cr0 & CR0.PG) === 0) {
    out.base = (base | ROLE.DIRECT) >>> 0; // all other bits stay 0: they have no effect without paging
    out.ext = ext;
    return;
  }
  const wp = (cr0 & CR0.WP) !== 0;
  const smep = (cr4 & CR4.SMEP) !== 0;
  const smap = (cr4 & CR4.SMAP) !== 0;
  const pae = (cr4 & CR4.PAE) !== 0;
  const lma = (efer & EFER.LMA) !== 0;
  const la57 = lma && (cr4 & CR4.LA57) !== 0;
  if ((efer & EFER.NXE) !== 0) base |= ROLE.EFER_NX;
  if (wp) base |= ROLE.CR0_WP;
  if (smep && !wp) base |= ROLE.SMEP_ANDNOT_WP;
  if (smap && !wp) base |= ROLE.SMAP_ANDNOT_WP;
  if (!pae) base |= ROLE.HAS_4_BYTE_GPTE | ((cr4 & CR4.PSE) !== 0 ? ROLE.CR4_PSE : 0);
  base |= lma ? (la57 ? 5 : 4) : pae ? 3 : 2;
  if (smep) ext |= EXT.CR4_SMEP;
  if (smap) ext |= EXT.CR4_SMAP;
  if ((cr4 & CR4.PSE) !== 0) ext |= EXT.CR4_PSE;
  if (lma && (cr4 & CR4.PKE) !== 0) ext |= EXT.CR4_PKE;
  if (la57) ext |= EXT.CR4_LA57;
  if (lma) ext |= EXT.EFER_LMA;
  // SDM 3A 4.7: "… CR4.SMEP = 1, or both CR4.PAE = 1 and IA32_EFER.NXE = 1".
  if (smep || (pae && (efer & EFER.NXE) !== 0)) ext |= EXT.HAS_PFERR_FETCH;
  out.base = base >>> 0;
  out.ext = ext;
}

/** root_role of the direct map: no paging bit of the guest is in it, so that CR writes leave the root alone (3.3). */
export function tdpRootRole(cpuBase: number, tdpLevel: number): number {
  const kept = cpuBase & (ROLE.GUEST_MODE | (0x7f << ROLE_SMM_SHIFT));
  const fixed = ACCESS_ALL | ROLE.CR0_WP | ROLE.EFER_NX | ROLE.DIRECT | ROLE.AD_DISABLED;
  return withKind(kept | fixed | tdpLevel, KIND.DIRECT);
}

/**
 * root_role of shadow paging: at least PAE format. DEVIATION from nested-mmu.md 3.3, which forces efer_nx to 1: our SPTEs have
 * an X bit in any case (6.3 row 10 cannot happen), and a page made under EFER.NXE = 1 may hold what NXE = 0 reserves.
 */
export function shadowRootRole(cpuBase: number): number {
  return withLevel(cpuBase, Math.max(roleLevel(cpuBase), 3));
}

/** cpu_role of EPT12. No CR0, CR4 or EFER bit of anyone is in it (3.4, 6.3 row 8). */
export function eptRole(out: RoleWords, eptpLow: number, execOnly: boolean, mbec: boolean): void {
  let base = ACCESS_ALL | (KIND.EPT << ROLE_KIND_SHIFT) | ROLE.GUEST_MODE;
  base |= ((eptpLow >>> 3) & 7) + 1;
  if ((eptpLow & EPTP_AD) === 0) base |= ROLE.AD_DISABLED;
  if (mbec) base |= ROLE.MBEC;
  out.base = base >>> 0;
  out.ext = EXT.VALID | (execOnly ? EXT.EXECONLY : 0);
}

/** EPTP bit 6: "enable accessed and dirty flags for EPT". */
export const EPTP_AD = 1 << 6;

/**
 * cpu_role of NPT12, from L1's own host registers as VMCB01 has them (3.5): CR0 counts for PG only, since nested walks
 * are user accesses; SMAP and PKE do not exist for NPT.
 */
export function nptRole(out: RoleWords, cr0: number, cr4: number, efer: number, gmet: boolean): void {
  calcCpuRole(out, cr0 & CR0.PG, cr4 & ~(CR4.PKE | CR4.SMAP), efer, false, true);
  out.base = withKind(out.base, KIND.NPT);
  if (gmet) out.base = (out.base | ROLE.GMET) >>> 0;
}

/** root_role over NPT12: L0's own level, with a one-entry top level if that is deeper than L1's (1.1 "passthrough"). */
export function nptRootRole(cpuBase: number, l0Level: number): number {
  const role = withLevel(cpuBase, l0Level);
  return l0Level === 5 && roleLevel(cpuBase) === 4 ? (role | ROLE.PASSTHROUGH) >>> 0 : role;
}

/** Role of the table one level below `parent`, reached by entry `index` (5.1 "Child role"). */
export function childRole(parent: number, index: number, direct: boolean, access: number): number {
  let role = parent & ~(ROLE.LEVEL | ROLE.ACCESS | ROLE.DIRECT | ROLE.PASSTHROUGH | ROLE.QUADRANT);
  role |= (roleLevel(parent) - 1) | (access << ROLE_ACCESS_SHIFT);
  if (direct) role = (role | ROLE.DIRECT) & ~ROLE.HAS_4_BYTE_GPTE;
  // 1024 4-byte entries make two shadow tables: the low bit of the parent's index says which half.
  else if ((role & ROLE.HAS_4_BYTE_GPTE) !== 0) role |= (index & 1) << ROLE_QUADRANT_SHIFT;
  return role >>> 0;
}
