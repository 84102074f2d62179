import { bits } from '../../base/bits.ts';

/** Offsets in a type 0 configuration header. PCI Local Bus Specification 3.0, 6.1 "Configuration Space Organization". */
export const PCI = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CLASS_CODE: 0x09,
  HEADER_TYPE: 0x0e,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  CAPABILITIES: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
  FIRST_FREE: 0x40,
  BYTES: 0x100,
} as const;

export const COMMAND = bits({ IO: 0, MEMORY: 1, MASTER: 2, PARITY: 6, SERR: 8, INTX_DISABLE: 10 });
export const STATUS = bits({ INTX: 3, CAPABILITIES: 4 });

export const HEADER_MULTIFUNCTION = 0x80;
export const BARS = 6;

/** Low bits of a BAR, 6.2.5.1 "Address Maps". */
export const BAR_FLAGS = { memory32: 0x0, memory64: 0x4, io: 0x1 } as const;
export type BarKind = keyof typeof BAR_FLAGS;

/** Capability ids, PCI Code and ID Assignment. */
export const CAPABILITY = { VENDOR: 0x09, MSIX: 0x11 } as const;
