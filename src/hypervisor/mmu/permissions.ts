/**
 * Permission tables: for each kind of access, the set of rights combinations that fault.
 *
 * Owns    the rules of SDM 3A 4.6 "Access Rights" and of EPT rights, folded into 16 words of 16 bits.
 * Knows   nothing of CPL or EFLAGS: those arrive in the error code and in the index.
 *
 * Source  nested-mmu.md 3.8, 3.9; SDM 3A 4.6.1 "Determination of Access Rights", 4.6.2 "Protection Keys";
 *         SDM 3C 28.2.3.2 "EPT Violations".
 */
import { ACC, PFEC } from './access.ts';

export interface PermissionControls {
  /** EPT rights instead of IA-32 rights. */
  readonly ept: boolean;
  readonly mbec: boolean;
  /** NPT with GMET: U/S decides execution by the supervisor, and no longer plain access. */
  readonly gmet: boolean;
  readonly nx: boolean;
  readonly wp: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}

/** Bit 3 of the error code's place in the index: SMAP is suspended for this access (RSVD never gets here). */
const NOT_SMAP = 1 << 3;

/** Which rights combinations fault, per access. Index: error code bits 4:1, bit 3 replaced by "SMAP suspended". */
export function computePermissions(c: PermissionControls): Uint16Array {
  const table = new Uint16Array(16);
  for (let index = 0; index < 16; index += 1) {
    const pfec = index << 1;
    const w = (pfec & PFEC.W) !== 0;
    const u = (pfec & PFEC.U) !== 0;
    const f = (pfec & PFEC.F) !== 0;
    const smapSuspended = (pfec & NOT_SMAP) !== 0;
    for (let acc = 0; acc < 16; acc += 1) {
      const user = (acc & ACC.USER) !== 0;
      const exec = (acc & ACC.EXEC) !== 0;
      let fault = !w && !f && (acc & ACC.READ) === 0;
      if (c.ept) {
        fault ||= w && (acc & ACC.WRITE) === 0;
        fault ||= f && !(c.mbec && u ? user : exec);
      } else {
        const supervisorOnUser = !u && user;
        fault ||= w && (acc & ACC.WRITE) === 0 && (c.wp || u);
        fault ||= u && !user && !c.gmet;
        fault ||= f && c.nx && !exec;
        fault ||= f && (c.smep || c.gmet) && supervisorOnUser;
        fault ||= c.smap && supervisorOnUser && !f && !smapSuspended;
      }
      if (fault) table[index] = table[index]! | (1 << acc);
    }
  }
  return table;
}

/**
 * Which PKRU bits matter: 16 two-bit domains, starting at the bit number that is the error code with bit 3 replaced by
 * "user page". Low bit: access-disable counts. High bit: write-disable counts.
 */
export function computePkruMask(pke: boolean, wp: boolean): number {
  if (!pke) return 0;
  let mask = 0;
  for (let pfec = 0; pfec < 32; pfec += 2) {
    const pageUser = (pfec & 8) !== 0;
    if ((pfec & PFEC.F) !== 0 || !pageUser) continue;
    mask |= 1 << pfec;
    if ((pfec & PFEC.W) !== 0 && ((pfec & PFEC.U) !== 0 || wp)) mask |= 2 << pfec;
  }
  return mask >>> 0;
}
