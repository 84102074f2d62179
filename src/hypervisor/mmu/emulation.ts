/**
 * Linear addresses as L0's own emulation sees them.
 *
 * Source  nested-mmu.md 1.3 "Emulation is always by the current walker", 3.8 "CR0.WP pass-through".
 */
import { PFEC } from './access.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { walk } from './walker.ts';

/**
 * Walks for the running level. Roles are brought up to date first: a guest-owned CR0.WP, or any paging bit that changed
 * without an exit, is then seen (6.3 row 26), and with interned formats it costs a compare.
 */
export function fetchTranslation(v: VcpuMmu, lo: number, hi: number, access: number): boolean {
  v.initMmu();
  return walk(v, v.gvaWalk, lo, hi, (access & ~PFEC.GUEST_PAGE) | PFEC.GUEST_FINAL, v.gvaWalk.record);
}
