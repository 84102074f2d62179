/**
 * The ACPI tables that a Linux without PCI needs to find its local APICs, the I/O APIC and the way to switch off.
 *
 * Source  ACPI 6.5, 5.2.5.3 "Root System Description Pointer (RSDP) Structure", 5.2.9 "Fixed ACPI Description Table
 *         (FADT)", 5.2.12 "Multiple APIC Description Table (MADT)", 20.2 "AML Grammar Definition".
 */
#include "vmm.h"

#define RSDP 0xe0000ul
#define TABLES 0xe0040ul
#define HEADER 36
#define LOCAL_APIC 0xfee00000u
#define IO_APIC 0xfec00000u
#define SCI 9

static u8 *at;
static u8 *ram;

static void put(u64 value, u32 bytes) {
  for (u32 i = 0; i < bytes; i++) *at++ = (u8)(value >> i * 8);
}
static void put_text(const char *text) {
  while (*text) *at++ = (u8)*text++;
}
static u8 sum(const u8 *from, u64 bytes) {
  u8 total = 0;
  while (bytes--) total = (u8)(total + *from++);
  return total;
}

static u8 *header(const char *signature, u8 revision) {
  at = ram + (((u64)(at - ram) + 63) & ~63ul);
  u8 *table = at;
  put_text(signature);
  put(0, 4);
  put(revision, 1);
  put(0, 1);
  put_text("TERRARSMALLVMM");
  put(1, 4);
  put_text("TERR");
  put(1, 4);
  return table;
}
static u64 finish(u8 *table) {
  u64 length = (u64)(at - table);
  table[4] = (u8)length;
  table[5] = (u8)(length >> 8);
  table[9] = (u8)-sum(table, length);
  return (u64)(table - ram);
}

/** Name (_S5_, Package (2) {5, 5}): which sleep type switches off. */
static const u8 aml[] = {0x08, '_', 'S', '5', '_', 0x12, 0x06, 0x02, 0x0a, 0x05, 0x0a, 0x05};

static u64 write_fadt(u64 dsdt, u64 facs) {
  u8 *table = header("FACP", 6);
  u8 *fields = table;
  at = fields + 276;
  memset(fields + HEADER, 0, 276 - HEADER);
  *(u32 *)(fields + 36) = (u32)facs;
  *(u32 *)(fields + 40) = (u32)dsdt;
  *(u16 *)(fields + 46) = SCI;
  *(u32 *)(fields + 56) = PM1_EVENT_PORT;
  *(u32 *)(fields + 64) = PM1_CONTROL_PORT;
  fields[88] = 4;                   /* PM1_EVT_LEN */
  fields[89] = 2;                   /* PM1_CNT_LEN */
  *(u16 *)(fields + 96) = 0xffff;   /* no C2 */
  *(u16 *)(fields + 98) = 0xffff;   /* no C3 */
  fields[108] = 0x32;               /* CENTURY in CMOS */
  *(u16 *)(fields + 109) = 1 | 4;   /* IAPC_BOOT_ARCH: LEGACY_DEVICES; no 8042, no VGA */
  *(u32 *)(fields + 112) = 1 | 1 << 4 | 1 << 5; /* WBINVD; no power or sleep button */
  return finish(table);
}

static u64 write_madt(u32 cpus) {
  u8 *table = header("APIC", 4);
  put(LOCAL_APIC, 4);
  put(1, 4); /* PCAT_COMPAT: there are PICs too */
  for (u32 i = 0; i < cpus; i++) {
    put(0x0800 | (u64)i << 16 | (u64)i << 24, 4);
    put(1, 4);
  }
  put(0x0c01, 2);
  put(cpus, 2);
  put(IO_APIC, 4);
  put(0, 4);
  put(0x0a02, 2); /* IRQ 0 is GSI 2 */
  put(0, 2);
  put(2, 4);
  put(0, 2);
  put(0x0a02, 2); /* the SCI is a level, active high */
  put(SCI << 8, 2);
  put(SCI, 4);
  put(0xd, 2);
  return finish(table);
}

u64 write_acpi(Vm *vm) {
  ram = vm->ram;
  at = ram + TABLES;
  put_text("FACS");
  put(64, 4);
  at += 56;
  u8 *table = header("DSDT", 2);
  for (u32 i = 0; i < sizeof aml; i++) put(aml[i], 1);
  u64 fadt = write_fadt(finish(table), TABLES);
  u64 madt = write_madt(vm->cpus);
  table = header("XSDT", 1);
  put(fadt, 8);
  put(madt, 8);
  u64 xsdt = finish(table);
  at = ram + RSDP;
  put_text("RSD PTR ");
  put(0, 1);
  put_text("TERRAR");
  put(2, 1);
  put(0, 4);
  put(36, 4);
  put(xsdt, 8);
  put(0, 4);
  ram[RSDP + 8] = (u8)-sum(ram + RSDP, 20);
  ram[RSDP + 32] = (u8)-sum(ram + RSDP, 36);
  return RSDP;
}
