/**
 * The local APIC's registers as data: where they are, who may touch them, which bits exist.
 *
 * Owns    offsets, MSR numbers, access rights and bit names. The MMIO path and the MSR path read the same rows.
 * Knows   nothing of state: `hypervisor/irq` keeps that, and nested virtualization reads L1's virtual-APIC page
 *         with the same offsets.
 *
 * Source  SDM 3A 10.4.1 "The Local APIC Block Diagram" (Table 10-1);
 *         SDM 3A 10.12.1.2 "x2APIC Register Address Space" (Table 10-6).
 */
import { bits } from '../../base/bits.ts';

/** `-`: the register does not exist in this mode. */
export type Access = 'r' | 'w' | 'rw' | '-';

/**
 * `count` registers of 32 bits, 16 bytes apart.
 *
 * `writable`: the bits a write can change. `readOnly`: bits that exist, keep their value and do no harm when written.
 * All others are reserved: a write through MMIO drops them, WRMSR answers #GP (SDM 3A 10.12.1.3 "Reserved Bit
 * Checking").
 */
type Row = readonly [
  offset: number,
  msr: number,
  count: number,
  xapic: Access,
  x2apic: Access,
  writable: number,
  readOnly: number,
];

// biome-ignore format: a table
export const APIC_REGISTERS = {
  //                  offset  MSR    n  xAPIC x2APIC  writable     read-only
  ID:                [0x020, 0x802, 1, 'rw', 'r',    0xff00_0000, 0],
  VERSION:           [0x030, 0x803, 1, 'r',  'r',    0,           0],
  TPR:               [0x080, 0x808, 1, 'rw', 'rw',   0x0000_00ff, 0],
  APR:               [0x090, 0x809, 1, 'r',  '-',    0,           0],
  PPR:               [0x0a0, 0x80a, 1, 'r',  'r',    0,           0],
  EOI:               [0x0b0, 0x80b, 1, 'w',  'w',    0,           0], // WRMSR of anything but 0: #GP
  RRD:               [0x0c0, 0x80c, 1, 'r',  '-',    0,           0],
  LDR:               [0x0d0, 0x80d, 1, 'rw', 'r',    0xff00_0000, 0],
  DFR:               [0x0e0, 0x80e, 1, 'rw', '-',    0xf000_0000, 0x0fff_ffff], // bits 27:0 read as ones
  SVR:               [0x0f0, 0x80f, 1, 'rw', 'rw',   0x0000_03ff, 0], // and bit 12 where VERSION bit 24 says so
  ISR:               [0x100, 0x810, 8, 'r',  'r',    0,           0],
  TMR:               [0x180, 0x818, 8, 'r',  'r',    0,           0],
  IRR:               [0x200, 0x820, 8, 'r',  'r',    0,           0],
  ESR:               [0x280, 0x828, 1, 'rw', 'rw',   0,           0], // a write latches; WRMSR of non-zero: #GP
  ICR:               [0x300, 0x830, 1, 'rw', 'rw',   0x000c_cfff, 0x0000_1000],
  ICR_HIGH:          [0x310, 0x831, 1, 'rw', '-',    0xff00_0000, 0], // x2APIC: bits 63:32 of MSR 830H
  LVT_TIMER:         [0x320, 0x832, 1, 'rw', 'rw',   0x0003_00ff, 0x0000_1000], // and bit 18 with TSC-deadline
  LVT_THERMAL:       [0x330, 0x833, 1, 'rw', 'rw',   0x0001_07ff, 0x0000_1000],
  LVT_PERFORMANCE:   [0x340, 0x834, 1, 'rw', 'rw',   0x0001_07ff, 0x0000_1000],
  LVT_LINT0:         [0x350, 0x835, 1, 'rw', 'rw',   0x0001_a7ff, 0x0000_5000],
  LVT_LINT1:         [0x360, 0x836, 1, 'rw', 'rw',   0x0001_a7ff, 0x0000_5000],
  LVT_ERROR:         [0x370, 0x837, 1, 'rw', 'rw',   0x0001_00ff, 0x0000_1000],
  INITIAL_COUNT:     [0x380, 0x838, 1, 'rw', 'rw',   0xffff_ffff, 0],
  CURRENT_COUNT:     [0x390, 0x839, 1, 'r',  'r',    0,           0],
  DIVIDE_CONFIG:     [0x3e0, 0x83e, 1, 'rw', 'rw',   0x0000_000b, 0],
  SELF_IPI:          [0x3f0, 0x83f, 1, '-',  'w',    0x0000_00ff, 0],
} as const satisfies Record<string, Row>;

export type ApicRegister = keyof typeof APIC_REGISTERS;

/** Offsets in bytes, as they are used in the register page and in a virtual-APIC page. */
export const APIC = Object.freeze(
  Object.fromEntries(Object.entries(APIC_REGISTERS).map(([name, row]) => [name, row[0]])),
) as { readonly [R in ApicRegister]: number };

/** What a lookup by address gives; one object per 16-byte slot, made once. */
export interface ApicSlot {
  readonly name: ApicRegister;
  readonly offset: number;
  readonly msr: number;
  readonly xapic: Access;
  readonly x2apic: Access;
  readonly writable: number;
  readonly readOnly: number;
}

/** The 64 slots of 16 bytes in which registers lie; `undefined` is reserved. Index: `offset >> 4` or `msr - 0x800`. */
export const APIC_SLOTS: readonly (ApicSlot | undefined)[] = (() => {
  const slots: (ApicSlot | undefined)[] = new Array(64).fill(undefined);
  for (const [name, [offset, msr, count, xapic, x2apic, writable, readOnly]] of Object.entries(APIC_REGISTERS)) {
    for (let i = 0; i < count; i++) {
      slots[(offset >> 4) + i] = {
        name: name as ApicRegister,
        offset: offset + i * 16,
        msr: msr + i,
        xapic,
        x2apic,
        writable,
        readOnly,
      };
    }
  }
  return slots;
})();

export const APIC_PAGE_BYTES = 4096;
export const APIC_DEFAULT_BASE = 0xfee0_0000;

/** SDM 3A 10.12.1.2 "x2APIC Register Address Space": MSRs 800H to 8FFH belong to the APIC, used or not. */
export const X2APIC_MSR_FIRST = 0x800;
export const X2APIC_MSR_LAST = 0x8ff;
export const IA32_APIC_BASE = 0x1b;
export const IA32_TSC_DEADLINE = 0x6e0;

/** SDM 3A 10.4.4 "Local APIC Status and Location"; bit 10: 10.12.1 "Detecting and Enabling x2APIC Mode". */
export const APIC_BASE = bits({ BSP: 8, EXTD: 10, EN: 11 });

/** SDM 3A 10.4.8 "Local APIC Version Register". 14H: an integrated APIC with six LVT entries. */
export const VERSION = { INTEGRATED: 0x14, MAX_LVT_SHIFT: 16, LVT_ENTRIES: 6, EOI_SUPPRESSION: 1 << 24 } as const;

/** SDM 3A 10.9 "Spurious Interrupt". Bits 7:0 are the spurious vector. */
export const SVR = bits({ ENABLE: 8, FOCUS_DISABLED: 9, SUPPRESS_EOI_BROADCAST: 12 });

/** SDM 3A 10.5.3 "Error Handling". */
export const ESR = bits({
  SEND_CHECKSUM: 0,
  RECEIVE_CHECKSUM: 1,
  SEND_ACCEPT: 2,
  RECEIVE_ACCEPT: 3,
  REDIRECTABLE_IPI: 4,
  SEND_ILLEGAL_VECTOR: 5,
  RECEIVE_ILLEGAL_VECTOR: 6,
  ILLEGAL_REGISTER: 7,
});

/** SDM 3A 10.5.1 "Local Vector Table". Bits 7:0 are the vector, 10:8 the delivery mode, 18:17 the timer mode. */
export const LVT = bits({ DELIVERY_STATUS: 12, ACTIVE_LOW: 13, REMOTE_IRR: 14, LEVEL: 15, MASKED: 16 });
export const LVT_TIMER_MODE_SHIFT = 17;

/** SDM 3A 10.5.4 "APIC Timer" (Table 10-2). 3 is reserved. */
export const TIMER_MODE = { ONE_SHOT: 0, PERIODIC: 1, TSC_DEADLINE: 2 } as const;

/** The LVT entries in the order of their offsets. All of them are masked by reset and by a software disable. */
export const LVT_REGISTERS = [
  'LVT_TIMER',
  'LVT_THERMAL',
  'LVT_PERFORMANCE',
  'LVT_LINT0',
  'LVT_LINT1',
  'LVT_ERROR',
] as const satisfies readonly ApicRegister[];

/** SDM 3A 10.6.1 "Interrupt Command Register (ICR)". */
export const ICR = bits({ LOGICAL: 11, DELIVERY_STATUS: 12, ASSERT: 14, LEVEL: 15 });
export const ICR_SHORTHAND_SHIFT = 18;
export const SHORTHAND = { NONE: 0, SELF: 1, ALL: 2, OTHERS: 3 } as const;

/** Bits 10:8 of ICR, LVT, I/O APIC entries and MSI data. SDM 3A 10.6.1; 11.11.2 "Message Data Register Format". */
export const DELIVERY = {
  FIXED: 0,
  LOWEST: 1,
  SMI: 2,
  REMOTE_READ: 3,
  NMI: 4,
  INIT: 5,
  STARTUP: 6,
  EXTINT: 7,
} as const;
export const deliveryMode = (word: number): number => (word >>> 8) & 7;

/** SDM 3A 10.6.2.2 "Logical Destination Mode": bits 31:28 of DFR. */
export const DFR_MODEL = { FLAT: 0xf, CLUSTER: 0 } as const;

/** SDM 3A 10.5.2 "Valid Interrupt Vectors": 0 to 15 are illegal. */
export const FIRST_LEGAL_VECTOR = 16;

/** SDM 3A 10.5.4 "APIC Timer": bits 3, 1 and 0 of the divide configuration; 111B divides by 1. */
export const divisorOf = (config: number): number => {
  const power = ((config & 3) | ((config >>> 1) & 4)) + 1;
  return power === 8 ? 1 : 1 << power;
};
