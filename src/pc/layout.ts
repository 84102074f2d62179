import type { L1Physical } from '../base/address.ts';

/**
 * Where everything of the platform is: one table of ports, physical addresses and interrupt lines.
 *
 * The shape is the classic PC with an Intel 440FX host bridge and a PIIX3/PIIX4: fixed ISA ports, four PCI
 * interrupts on IRQ 10 and 11 (so they reach the 8259 and the I/O APIC alike), ACPI blocks at 0x600.
 *
 *   0          ┌──────────────────────┐
 *              │ RAM                  │  boot data of the loaders: see BOOT
 *   0x9fc00    │ reserved (EBDA)      │
 *   0xa0000    │ VGA window, no RAM   │  nothing answers: reads as ones
 *   0xc0000    │ reserved (ROM area)  │
 *   0xe0000    │ ACPI tables          │  RAM, reported as reserved
 *   0xf0000    │ SMBIOS, BIOS routines│  RAM, reported as reserved
 *   0x100000   │ RAM, at most to 3 GiB│
 *   0xc0000000 │ PCI memory window    │
 *   0xfec00000 │ I/O APIC             │
 *   0xfed00000 │ HPET                 │
 *   0xfee00000 │ local APIC           │
 *   0xff000000 │ test device          │
 *   4 GiB      │ the rest of the RAM  │
 *              └──────────────────────┘
 */
export const PHYSICAL = {
  EBDA: 0x9fc00,
  VGA_WINDOW: 0xa0000,
  ROM_AREA: 0xc0000,
  ACPI_TABLES: 0xe0000,
  ACPI_TABLES_END: 0xf0000,
  SMBIOS: 0xf0000,
  SMBIOS_END: 0xff000,
  HIGH_MEMORY: 0x100000,
  PCI_WINDOW: 0xc000_0000,
  PCI_WINDOW_END: 0xfec0_0000,
  IO_APIC: 0xfec0_0000,
  HPET: 0xfed0_0000,
  LOCAL_APIC: 0xfee0_0000,
  TEST_DEVICE: 0xff00_0000,
  RAM_ABOVE_4G: 0x1_0000_0000,
} as const;

/** RAM below 4 GiB ends here at the latest. */
export const LOW_RAM_MAX = PHYSICAL.PCI_WINDOW;

/** First port and number of ports of every device at a fixed place. */
export const PORTS = {
  KEYBOARD_DATA: { first: 0x60, count: 1 },
  KEYBOARD_COMMAND: { first: 0x64, count: 1 },
  CMOS: { first: 0x70, count: 2 },
  POST: { first: 0x80, count: 1 },
  SYSTEM_CONTROL_A: { first: 0x92, count: 1 },
  SMI: { first: 0xb2, count: 2 },
  TEST_ECHO: { first: 0xe0, count: 4 },
  TEST_UNMAP: { first: 0xe4, count: 4 },
  DEBUG_BOCHS: { first: 0xe9, count: 1 },
  COM4: { first: 0x2e8, count: 8 },
  COM2: { first: 0x2f8, count: 8 },
  COM3: { first: 0x3e8, count: 8 },
  COM1: { first: 0x3f8, count: 8 },
  DEBUG_SEABIOS: { first: 0x402, count: 1 },
  FW_CFG: { first: 0x510, count: 12 },
  ACPI: { first: 0x600, count: 0x40 },
  PCI_CONFIG: { first: 0xcf8, count: 8 },
  TEST_IRQ: { first: 0x2000, count: 24 },
  /** Where the firmware's part puts I/O BARs, and where a guest may move them. */
  PCI_WINDOW: { first: 0xc000, count: 0x4000 },
} as const;

/**
 * Interrupt lines by ISA IRQ (0..15, at the 8259 pair and the I/O APIC) or GSI (16..23, I/O APIC only).
 * IRQ 0 is wired to I/O APIC pin 2, as the MADT says; that is the business of whoever gives out the lines.
 */
export const IRQ = {
  PIT: 0,
  KEYBOARD: 1,
  COM2: 3,
  COM1: 4,
  RTC: 8,
  SCI: 9,
  MOUSE: 12,
  /** PCI interrupt links A to D. */
  PCI_LINKS: [10, 11, 10, 11],
} as const;

/** Slots of a PCI bus. */
export const PCI_SLOTS = 32;

/** Link 0..3 of an interrupt pin (0 is INTA#): wired so that neighbours do not share. `_PRT` and the wires say this. */
export const pciLinkOf = (slot: number, pin: number): number => (slot + pin) % IRQ.PCI_LINKS.length;

/** I/O APIC pins, which are also the GSIs there are. */
export const IO_APIC_PINS = 24;

/** Values the FADT and the chipset agree on. */
export const ACPI_VALUES = {
  /** Written to the SMI command port. */
  ENABLE: 0xf1,
  DISABLE: 0xf0,
  /** SLP_TYP of the PIIX4's soft-off and suspend-to-RAM. */
  SLEEP_S3: 1,
  SLEEP_S4: 2,
  SLEEP_S5: 0,
  /** Written to port 0xcf9. */
  RESET: 0x06,
} as const;

/** Where loaders put what a kernel is handed, all in the first 640 KiB. */
export const BOOT = {
  GDT: 0x500,
  /** Linux boot_params ("zero page"), or the Multiboot information structure with all it points at. */
  INFO: 0x9000,
  INFO_END: 0x1_0000,
  /** PVH start info, its module list and memory map. */
  PVH: 0x6000,
  PVH_END: 0x9000,
  /** PML4, PDPT and four page directories: the first 4 GiB, identity-mapped. */
  PAGE_TABLES: 0x1_0000,
  /** Grows down from here; for entries that find a stack convenient. */
  STACK_TOP: 0x1_8000,
  COMMAND_LINE: 0x2_0000,
  COMMAND_LINE_END: 0x3_0000,
  SETUP_DATA: 0x3_0000,
  SETUP_DATA_END: 0x9_0000,
  /** GDT, and above it the Multiboot information, for a kernel that lies where these usually are. */
  SPARE: 0x9_0000,
  SPARE_END: PHYSICAL.EBDA,
} as const;

/** Less holds no kernel; more CPUs than this do not fit the ACPI tables' area. */
export const RAM_MIN = 2 * PHYSICAL.HIGH_MEMORY;
export const CPUS_MAX = 1024;

export const physical = (address: number): L1Physical => address as L1Physical;

export const lowRamBytes = (ramBytes: number): number => Math.min(ramBytes, LOW_RAM_MAX);
export const highRamBytes = (ramBytes: number): number => Math.max(0, ramBytes - LOW_RAM_MAX);

/** ACPI 6.4, 15 "System Address Map Interfaces", table 15-374 "Address Range Types". */
export const E820_TYPE = { RAM: 1, RESERVED: 2, ACPI_RECLAIM: 3, ACPI_NVS: 4 } as const;

export interface E820Entry {
  /** First byte; at most 2^52. */
  readonly base: number;
  readonly bytes: number;
  /** One of `E820_TYPE`. */
  readonly type: number;
}

/** The memory map that a kernel is told, in ascending order and without overlaps. */
export function e820Map(ramBytes: number): E820Entry[] {
  const { EBDA, VGA_WINDOW, ROM_AREA, HIGH_MEMORY, PCI_WINDOW_END, RAM_ABOVE_4G } = PHYSICAL;
  const span = (base: number, end: number, type: number): E820Entry => ({ base, bytes: end - base, type });
  const map = [
    span(0, EBDA, E820_TYPE.RAM),
    span(EBDA, VGA_WINDOW, E820_TYPE.RESERVED),
    span(ROM_AREA, HIGH_MEMORY, E820_TYPE.RESERVED), // the ACPI tables are in here
    span(HIGH_MEMORY, lowRamBytes(ramBytes), E820_TYPE.RAM),
    span(PCI_WINDOW_END, RAM_ABOVE_4G, E820_TYPE.RESERVED), // I/O APIC, HPET, local APIC, test device
    span(RAM_ABOVE_4G, RAM_ABOVE_4G + highRamBytes(ramBytes), E820_TYPE.RAM),
  ];
  return map.filter((entry) => entry.bytes > 0);
}
