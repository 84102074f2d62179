import { bits } from '../../base/bits.ts';

/** The MC146818's fourteen registers, by their address in the RAM. */
export const RTC = {
  SECONDS: 0x0,
  SECONDS_ALARM: 0x1,
  MINUTES: 0x2,
  MINUTES_ALARM: 0x3,
  HOURS: 0x4,
  HOURS_ALARM: 0x5,
  DAY_OF_WEEK: 0x6,
  DAY_OF_MONTH: 0x7,
  MONTH: 0x8,
  YEAR: 0x9,
  A: 0xa,
  B: 0xb,
  C: 0xc,
  D: 0xd,
} as const;

/** Register A. Bits 6:4 select the divider, bits 3:0 the periodic rate. */
export const REG_A = bits({ UIP: 7 });
export const REG_A_DIVIDER = 0x70;
/** The divider for a 32.768 kHz time base. */
export const REG_A_DIVIDER_32K = 0x20;
export const REG_A_RATE = 0x0f;

export const REG_B = bits({ DSE: 0, HOURS_24: 1, DM: 2, SQWE: 3, UIE: 4, AIE: 5, PIE: 6, SET: 7 });
export const REG_C = bits({ UF: 4, AF: 5, PF: 6, IRQF: 7 });
export const REG_D = bits({ VRT: 7 });

/** What the PC's firmware keeps in the RAM behind the clock. QEMU's places, which SeaBIOS and OVMF know. */
export const CMOS = {
  SHUTDOWN: 0x0f,
  FLOPPIES: 0x10,
  DISKS: 0x12,
  EQUIPMENT: 0x14,
  BASE_MEMORY_KIB: 0x15, //         and 0x16
  EXTENDED_MEMORY_KIB: 0x17, //     and 0x18: above 1 MiB
  EXTENDED_MEMORY_KIB_2: 0x30, //   and 0x31: the same, as found by the self-test
  CENTURY: 0x32,
  ABOVE_16M_64KIB: 0x34, //         and 0x35
  ABOVE_4G_64KIB: 0x5b, //          up to 0x5d
  CPUS_MINUS_ONE: 0x5f,
} as const;
