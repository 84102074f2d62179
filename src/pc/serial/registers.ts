import { bits } from '../../base/bits.ts';

/** Interrupt Enable Register, offset 1. */
export const IER = bits({ ERBFI: 0, ETBEI: 1, ELSI: 2, EDSSI: 3 });

/** Interrupt Identification Register, offset 2, read: bits 3:0. Bits 7:6 say whether the FIFOs are on. */
export const IIR = {
  MODEM_STATUS: 0x0,
  NONE: 0x1,
  TRANSMITTER_EMPTY: 0x2,
  RECEIVED_DATA: 0x4,
  LINE_STATUS: 0x6,
  CHARACTER_TIMEOUT: 0xc,
} as const;
export const IIR_FIFOS_ENABLED = 0xc0;

/** FIFO Control Register, offset 2, write. Bits 7:6 are the receiver's trigger level. */
export const FCR = bits({ ENABLE: 0, RESET_RECEIVER: 1, RESET_TRANSMITTER: 2, DMA_MODE: 3 });
export const FCR_TRIGGER_BYTES = [1, 4, 8, 14] as const;

/** Line Control Register, offset 3. */
export const LCR = bits({ STB: 2, PEN: 3, EPS: 4, STICK: 5, BREAK: 6, DLAB: 7 });

/** Modem Control Register, offset 4. */
export const MCR = bits({ DTR: 0, RTS: 1, OUT1: 2, OUT2: 3, LOOP: 4 });

/** Line Status Register, offset 5, read-only. */
export const LSR = bits({
  DR: 0, //   a received byte waits
  OE: 1, //   overrun: a byte was lost
  PE: 2, //   parity error
  FE: 3, //   framing error
  BI: 4, //   break
  THRE: 5, // the transmitter takes another byte
  TEMT: 6, // and has sent all it had
});

/** Modem Status Register, offset 6: the low half says what changed since it was last read. */
export const MSR = bits({ DCTS: 0, DDSR: 1, TERI: 2, DDCD: 3, CTS: 4, DSR: 5, RI: 6, DCD: 7 });
export const MSR_CHANGES = MSR.DCTS | MSR.DDSR | MSR.TERI | MSR.DDCD;
