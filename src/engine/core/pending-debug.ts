import { DR6 } from '../../arch/registers.ts';

/** What S.PENDING_DEBUG holds: bits of DR6 for a trap that is due, and notes about the boundary behind an instruction. */
export const PENDING = {
  /** An event was delivered, or SYSCALL cleared TF: this boundary has no single-step trap. */
  NO_STEP: 1 << 30,
  /** RF was loaded by the instruction itself: it counts for the next one. */
  RF_LOADED: 1 << 29,
  /** The IRET that faulted had unblocked NMIs: bit 12 of interruption information. SDM 3C 27.2.3. */
  NMI_UNBLOCKED: 1 << 28,
  DR6_BITS: DR6.B0 | DR6.B1 | DR6.B2 | DR6.B3 | DR6.BS | DR6.BT,
} as const;
