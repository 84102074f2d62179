/**
 * The I/O APIC's registers, and the layout of interrupt messages (MSI), as data.
 *
 * Source  Intel 82093AA I/O APIC data sheet (290566), May 1996, 3.0 "I/O APIC Registers"; EOI register: Intel I/O
 *         Controller Hub 9 data sheet, 13.5 "Advanced Programmable Interrupt Controller (APIC)";
 *         MSI: SDM 3A 10.11 "Message Signalled Interrupts".
 */
import { bits } from '../../base/bits.ts';

export const IO_APIC_DEFAULT_BASE = 0xfec0_0000;
export const IO_APIC_BYTES = 0x1000;
export const IO_APIC_PINS = 24;

/** Offsets of the registers that are memory. */
export const IO_APIC_WINDOW = { IOREGSEL: 0x00, IOWIN: 0x10, EOIR: 0x40 } as const;

/** Registers behind the window. An entry of the redirection table takes two, the low half first. */
export const IO_APIC_INDEX = { ID: 0x00, VERSION: 0x01, ARBITRATION: 0x02, REDIRECTION: 0x10 } as const;

/** Version 20H has the EOI register; bits 23:16 are the number of the last pin. */
export const IO_APIC_VERSION = 0x20 | ((IO_APIC_PINS - 1) << 16);
/** ID bits 27:24. */
export const IO_APIC_ID_MASK = 0x0f00_0000;

/** Low half of an entry. Bits 7:0 are the vector, 10:8 the delivery mode. High half: destination in bits 31:24. */
export const REDIRECTION = bits({
  LOGICAL: 11,
  DELIVERY_STATUS: 12,
  ACTIVE_LOW: 13,
  REMOTE_IRR: 14,
  LEVEL: 15,
  MASKED: 16,
});
export const REDIRECTION_LOW_WRITABLE = 0x0001_afff;
export const REDIRECTION_HIGH_WRITABLE = 0xff00_0000;

/** Address bits 31:20 of every message. */
export const MSI_ADDRESS_TOP = 0xfee;
/** SDM 3A 10.11.1 "Message Address Register Format": destination in bits 19:12. */
export const MSI_ADDRESS = bits({ LOGICAL: 2, REDIRECTION_HINT: 3 });
/** SDM 3A 10.11.2 "Message Data Register Format": vector in bits 7:0, delivery mode in 10:8. */
export const MSI_DATA = bits({ ASSERT: 14, LEVEL: 15 });
