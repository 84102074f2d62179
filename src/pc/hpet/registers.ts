/** IA-PC HPET Specification 1.0a, 2.3.1 "Register Overview". Offsets from the block's base. */
export const HPET = {
  CAPABILITIES: 0x000,
  CONFIGURATION: 0x010,
  INTERRUPT_STATUS: 0x020,
  MAIN_COUNTER: 0x0f0,
  TIMER0: 0x100,
  TIMER_STRIDE: 0x20,
  BYTES: 0x400,
} as const;

/** Within a timer's block. */
export const HPET_TIMER = { CONFIGURATION: 0x00, COMPARATOR: 0x08, FSB_ROUTE: 0x10 } as const;

/** 2.3.5 "General Configuration Register". */
export const CONFIGURATION = { ENABLE: 1 << 0, LEGACY_ROUTE: 1 << 1 } as const;

/** 2.3.8 "Timer N Configuration and Capabilities Register", bits 31:0. INT_ROUTE is bits 13:9. */
export const TIMER_CONFIGURATION = {
  LEVEL: 1 << 1,
  INT_ENABLE: 1 << 2,
  PERIODIC: 1 << 3,
  PERIODIC_CAPABLE: 1 << 4,
  SIZE_64_CAPABLE: 1 << 5,
  VALUE_SET: 1 << 6,
  MODE_32: 1 << 8,
  ROUTE_SHIFT: 9,
  FSB_ENABLE: 1 << 14,
  FSB_CAPABLE: 1 << 15,
} as const;
export const TIMER_WRITABLE = 0x0000_7f4e;

/** 10 ns a tick: 100 MHz. */
export const PERIOD_NS = 10;
export const PERIOD_FEMTOSECONDS = PERIOD_NS * 1_000_000;

/**
 * General capabilities, bits 31:0 (2.3.4), which the ACPI table repeats: vendor 0x8086, legacy replacement, a 64-bit
 * counter, three comparators, revision 1.
 */
export const BLOCK_ID = 0x8086_a201;
/** Shortest period that loses no interrupt, for the ACPI table. */
export const PERIODIC_TICKS_MIN = 100;
