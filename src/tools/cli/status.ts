/** Exit statuses of `terrarium`. isa-debug-exit gives odd ones; those of our own are even, so that the two never mix. */
export const STATUS = {
  /** The guest switched the machine off, or the user quit. */
  DONE: 0,
  /** A mistake in the command line or in a file given there. */
  USER_ERROR: 2,
  TRIPLE_FAULT: 4,
  /** The guest reset the machine, with -no-reboot. */
  RESET: 6,
  /** All CPUs wait for what can never come, and stdin has ended. */
  HALTED: 8,
  /** Our own mistake: EX_SOFTWARE of sysexits.h. */
  BUG: 70,
} as const;

export const STATUS_HELP = `Exit status:
  ${STATUS.DONE}      the guest switched the machine off, or Ctrl-a x
  ${STATUS.USER_ERROR}      a mistake in the command line or in a file named there
  ${STATUS.TRIPLE_FAULT}      a triple fault, with -no-reboot or the same twice
  ${STATUS.RESET}      a reset, with -no-reboot
  ${STATUS.HALTED}      all CPUs wait for what can never come, and stdin has ended
  ${STATUS.BUG}     a bug of Terrarium's
  odd    (N << 1) | 1 for an N written to isa-debug-exit
  128+n  ended by signal n
`;
