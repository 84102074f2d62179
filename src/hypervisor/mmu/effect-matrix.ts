/**
 * What each event does to pointers, walkers, roots, shadow pages and TLB: nested-mmu.md 4.21 as data. The test performs every
 * event and compares; the inspector can show a row beside an event.
 *
 * `roots`, `sync` and `tlb` speak of the MMU named in `of`. "none" is a promise, not an omission.
 */

export interface Effect {
  readonly event: string;
  readonly l0: 'TDP' | 'shadow';
  /** Which way `mmu` moves. */
  readonly mmu: 'stays' | 'R to G' | 'G to R';
  /** Which way `gvaWalk` moves. */
  readonly walker: 'stays' | 'L1 to L2' | 'L2 to L1';
  /** What happens to roots at the event itself (`switched`: newPgd, found or to be built). */
  readonly roots:
    | 'none'
    | 'switched'
    | 'current of R freed'
    | 'all of R freed'
    | 'matching of G freed'
    | 'all of G freed'
    | 'all freed'
    | 'L2 ones of R freed';
  /** Requests and flushes that are due before the next instruction. */
  readonly sync: 'none' | 'current' | 'address';
  readonly tlb: 'none' | 'guest' | 'current' | 'address' | 'tag' | 'all';
  readonly because: string;
}

export const EFFECTS = [
  {
    event: 'MOV CR3',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'guest',
    because: '4.7: a direct root does not depend on CR3',
  },
  {
    event: 'MOV CR3',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'switched',
    sync: 'current',
    tlb: 'current',
    because: '4.7: CR3 is the pgd of the shadow',
  },
  {
    event: 'MOV CR3, no flush',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '4.7: bit 63 with CR4.PCIDE',
  },
  {
    event: 'CR4.SMEP 1 to 0',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'none',
    because: '4.8: root_role has no paging bit of the guest',
  },
  {
    event: 'CR4.PGE toggled',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'guest',
    because: 'SDM 3A 4.10.4.1',
  },
  {
    event: 'CR0.WP cleared',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'none',
    because: '4.8: another format, nothing else',
  },
  {
    event: 'CR0.WP cleared',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all of R freed',
    sync: 'none',
    tlb: 'current',
    because: '4.8, the trap: a parked root of another role would come back unsynced',
  },
  {
    event: 'CR4.PCIDE set',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all of R freed',
    sync: 'none',
    tlb: 'none',
    because: '6.3 row 34',
  },
  {
    event: 'INVLPG',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'address',
    because: '4.9',
  },
  {
    event: 'INVLPG',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'address',
    tlb: 'address',
    because: '4.9',
  },
  {
    event: 'VM entry, EPT12, VPID',
    l0: 'TDP',
    mmu: 'R to G',
    walker: 'L1 to L2',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '4.10, 4.11',
  },
  {
    event: 'VM entry, EPT12, no VPID',
    l0: 'TDP',
    mmu: 'R to G',
    walker: 'L1 to L2',
    roots: 'switched',
    sync: 'none',
    tlb: 'guest',
    because: '4.11: guest-physical mappings survive',
  },
  {
    event: 'VM entry, no EPT12, VPID',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'L1 to L2',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '1.3 state d: another root, by role.guest_mode',
  },
  {
    event: 'VM entry, VPID',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'L1 to L2',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '1.3 state e',
  },
  {
    event: 'VM entry, no VPID',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'L1 to L2',
    roots: 'switched',
    sync: 'current',
    tlb: 'guest',
    because: '4.14: FLUSH_GUEST syncs without TDP',
  },
  {
    event: 'VM exit, EPT12, VPID',
    l0: 'TDP',
    mmu: 'G to R',
    walker: 'L2 to L1',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '4.13',
  },
  {
    event: 'VM exit, EPT12, no VPID',
    l0: 'TDP',
    mmu: 'G to R',
    walker: 'L2 to L1',
    roots: 'switched',
    sync: 'none',
    tlb: 'guest',
    because: '4.13, 4.11',
  },
  {
    event: 'VMFUNC EPTP switch, VPID',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'switched',
    sync: 'none',
    tlb: 'none',
    because: '4.15: mappings carry EP4TA',
  },
  {
    event: 'VMFUNC EPTP switch, no VPID',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'switched',
    sync: 'none',
    tlb: 'guest',
    because: '4.15',
  },
  {
    event: 'INVEPT single',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'matching of G freed',
    sync: 'none',
    tlb: 'none',
    because: '4.16: sync and flush happen at the next load',
  },
  {
    event: 'INVEPT global',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all of G freed',
    sync: 'none',
    tlb: 'none',
    because: '4.16',
  },
  {
    event: 'INVVPID single',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'tag',
    because: '4.16: never touches EPT02',
  },
  {
    event: 'INVVPID single',
    l0: 'shadow',
    mmu: 'stays',
    walker: 'stays',
    roots: 'L2 ones of R freed',
    sync: 'none',
    tlb: 'tag',
    because: '4.16: shadow pages are linear mappings',
  },
  {
    event: 'VMCS12 released',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'none',
    sync: 'none',
    tlb: 'none',
    because: '4.17 relaxed as 2.5 item 6 has it: roots are EPTP’s, and every invalidation reaches them',
  },
  {
    event: 'VMXOFF',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all of G freed',
    sync: 'none',
    tlb: 'none',
    because: '4.17: L1 has no guests any more',
  },
  {
    event: 'slot deleted',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all freed',
    sync: 'none',
    tlb: 'all',
    because: '4.18',
  },
  {
    event: 'CPUID changed',
    l0: 'TDP',
    mmu: 'stays',
    walker: 'stays',
    roots: 'all freed',
    sync: 'none',
    tlb: 'all',
    because: '3.6 epoch rule',
  },
] as const satisfies readonly Effect[];

export type EffectEvent = (typeof EFFECTS)[number]['event'];
