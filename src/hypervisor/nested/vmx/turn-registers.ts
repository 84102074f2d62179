import type { VmcsField } from '../../../arch/vmx/fields.ts';

/** What S.TURNS says of the level that runs, besides LOADS_VMCS. */
export const TURNS = { NONE: 0, L2_MAY_LEAVE: 1, L1_MAY_ENTER: 2 } as const;

/** Fields that an exit changes, or L1 before each entry, and a turn may find changed: it looks at them itself. */
export const MOVED: readonly VmcsField[] = ['GUEST_RSP', 'GUEST_RIP', 'GUEST_RFLAGS', 'PREEMPTION_TIMER_VALUE'];

/** Registers of both levels as they are at each turn of one vmcs12, for the MMU: turns.ts. */
export class TurnRegisters {
  cr0Of1 = 0;
  cr4Of1 = 0;
  eferOf1 = 0;
  pcidOf1 = 0;
  cr0Of2 = 0;
  cr4Of2 = 0;
  eferOf2 = 0;
  pcidOf2 = 0;
  /** The tag of L2's TLB entries. */
  tagOf2 = 0;
  /** `rightsKey` of each. */
  rightsOf1 = 0;
  rightsOf2 = 0;
}
