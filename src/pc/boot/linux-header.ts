/**
 * Linux's boot_params ("zero page") and the setup header in it, by offset in the zero page.
 * Source: Linux Documentation/arch/x86/boot.rst "The Real-Mode Kernel Header", zero-page.rst.
 * In a bzImage the header is at the same offsets from the start of the file.
 */
export const ZERO_PAGE = {
  ACPI_RSDP_ADDR: 0x070,
  EXT_RAMDISK_IMAGE: 0x0c0,
  EXT_RAMDISK_SIZE: 0x0c4,
  EXT_CMD_LINE_PTR: 0x0c8,
  E820_ENTRIES: 0x1e8,
  HEADER: 0x1f1,
  SETUP_SECTS: 0x1f1,
  VID_MODE: 0x1fa,
  BOOT_FLAG: 0x1fe,
  JUMP: 0x200,
  HEADER_MAGIC: 0x202,
  VERSION: 0x206,
  TYPE_OF_LOADER: 0x210,
  LOADFLAGS: 0x211,
  CODE32_START: 0x214,
  RAMDISK_IMAGE: 0x218,
  RAMDISK_SIZE: 0x21c,
  HEAP_END_PTR: 0x224,
  CMD_LINE_PTR: 0x228,
  INITRD_ADDR_MAX: 0x22c,
  KERNEL_ALIGNMENT: 0x230,
  RELOCATABLE_KERNEL: 0x234,
  XLOADFLAGS: 0x236,
  CMDLINE_SIZE: 0x238,
  SETUP_DATA: 0x250,
  PREF_ADDRESS: 0x258,
  INIT_SIZE: 0x260,
  E820_TABLE: 0x2d0,
  BYTES: 0x1000,
} as const;

export const E820_ENTRIES_MAX = 128;

export const BOOT_FLAG = 0xaa55;
export const HEADER_MAGIC = 0x5372_6448; // "HdrS"
export const LOADER_UNDEFINED = 0xff;
export const LOADFLAG = { LOADED_HIGH: 0x01, CAN_USE_HEAP: 0x80 } as const;
export const XLOADFLAG = { KERNEL_64: 0x01 } as const;

/** Before the protocol could say, `initrd_addr_max` and `cmdline_size` were these. */
export const OLD_INITRD_ADDR_MAX = 0x37ff_ffff;
export const OLD_CMDLINE_SIZE = 255;

/** "The 64-bit entry point is at 0x200 from the start of the loaded kernel." */
export const ENTRY_64_OFFSET = 0x200;
