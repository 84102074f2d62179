/**
 * The mode word: everything besides its bytes that decides what an instruction means. Decoded code is kept per
 * physical page and mode word. S.MODE holds the word in force; core/mode.ts computes it.
 */
export const MODE = {
  /** 64-bit mode: CS.L with EFER.LMA. */
  LONG: 1 << 0,
  /** 32-bit code and stack, CS SS DS ES flat (base 0, limit 4 GiB, usable, writable where they must be). */
  FLAT32: 1 << 1,
  /** Default operand and address size is 32 bits (CS.D). */
  DEFAULT32: 1 << 2,
  /** CR0.PE clear. */
  REAL: 1 << 3,
  VM86: 1 << 4,
  /** CPL 3: for what the decoder already knows to be privileged. */
  USER: 1 << 5,
  /** CR0.EM, CR0.TS, CR0.MP. */
  EM: 1 << 6,
  TS: 1 << 7,
  MP: 1 << 8,
  OSFXSR: 1 << 9,
  /** CR4.OSXSAVE and XCR0 has SSE and AVX. */
  AVX: 1 << 10,
  /** Exactly one instruction at a time: RFLAGS.TF, an armed breakpoint, or a code segment with a limit below 4 GiB. */
  STEP: 1 << 11,
} as const;
