/* SDM 3A 4.3 "32-Bit Paging" with 4 KiB and 4 MiB pages, 4.4 "PAE Paging"; and SYSENTER, which needs no paging. */
#include "machine.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, LARGE = 0x80, CR0_WP = 1 << 16, CR4_PSE = 0x10, CR4_PAE = 0x20 };
#define CR0_PG (1u << 31)
static u32 directory[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u64 pae_pointers[4] __attribute__((aligned(32)));
static u64 pae_directory[512] __attribute__((aligned(4096)));
static u64 pae_high_directory[512] __attribute__((aligned(4096)));
static u64 pae_table[512] __attribute__((aligned(4096)));
static u32 page[1024] __attribute__((aligned(4096)));
/* Another address space of each format, which differs in the test page. */
static u32 other_directory[1024] __attribute__((aligned(4096)));
static u32 other_table[1024] __attribute__((aligned(4096)));
static u64 other_pae_pointers[4] __attribute__((aligned(32)));
static u64 other_pae_directory[512] __attribute__((aligned(4096)));
static u64 other_pae_table[512] __attribute__((aligned(4096)));
static u32 other_page[1024] __attribute__((aligned(4096)));

SNIPPET(user_load, "mov (%edi), %eax");
SNIPPET(user_store, "mov %eax, (%edi)");
SNIPPET(user_sysenter, "sysenter");
extern const u8 sysenter_entry[];
static volatile u32 sysenter_esp, sysenter_cs;
__asm__(".pushsection .text.snippets, \"ax\"\nsysenter_entry: mov %esp, %ss:sysenter_esp; mov %cs, %eax; mov %eax, %ss:sysenter_cs; int $0x80\n.popsection");

static void flush(void) { __asm__ volatile("invlpg (%0)" : : "r"(TEST_PAGE) : "memory"); }

/* The same for both formats: `entry` sets the test page's table entry. */
static void rights(const char *const names[], void (*entry)(u32 flags)) {
  WRITE(cr0, READ(cr0) | CR0_WP);
  entry(0);
  PAGE_FAULTS(names[0], load(TEST_PAGE + 4), 0, TEST_PAGE + 4);
  entry(P);
  PAGE_FAULTS(names[1], store(TEST_PAGE, 1), 3, TEST_PAGE);
  WRITE(cr0, READ(cr0) & ~CR0_WP);
  FAULTS(names[2], store(TEST_PAGE, 1), NONE, 0);
  WRITE(cr0, READ(cr0) | CR0_WP);
  entry(P | W);
  PAGE_FAULTS(names[3], user(user_load, TEST_PAGE), 5, TEST_PAGE);
  PAGE_FAULTS(names[4], user(user_store, TEST_PAGE), 7, TEST_PAGE);
  entry(P | W | U);
  FAULTS(names[5], user(user_store, TEST_PAGE), VECTOR_DONE, 0);
}

static void entry_32(u32 flags) {
  table[0] = flags ? (u32)page | flags : 0;
  flush();
}
static void entry_pae(u32 flags) {
  pae_table[0] = flags ? (u32)page | flags : 0;
  flush();
}

static void sysenter(void) {
  if (!(cpuid(1).d >> 11 & 1)) {
    not_offered("sysenter");
    return;
  }
  write_msr(0x174, 0);
  FAULTS("sysenter: #GP while IA32_SYSENTER_CS is null", user(user_sysenter, 0), GP, 0);
  write_msr(0x174, CODE);
  write_msr(0x175, task.esp0 - 64);
  write_msr(0x176, (u32)sysenter_entry);
  FAULTS("sysenter: arrives", user(user_sysenter, 0), VECTOR_DONE, 0);
  check_value("sysenter: ESP from the MSR", task.esp0 - sysenter_esp, 64);
  check_value("sysenter: CS from the MSR", sysenter_cs, CODE);
  static const u8 end[] = {0xcd, 0x80};
  FAULTS("sysexit: goes to EDX in ring 3", __asm__ volatile("sysexit" : : "c"(task.esp0), "d"(end)), VECTOR_DONE, 0);
  check_value("sysexit: CS and SS are the MSR's + 16 and + 24, RPL 3", caught.frame.cs << 16 | caught.frame.ss, (CODE + 16 + 3) << 16 | (CODE + 24 + 3));
}

void paging_checks(void) {
  sysenter();
  /* 4 MiB pages, all for ring 3 too: its code and stack are in the kernel's image. */
  for (u32 i = 0; i < 16; i++) directory[i] = i << 22 | LARGE | U | W | P;
  directory[TEST_PAGE >> 22] = (u32)table | U | W | P;
  WRITE(cr4, READ(cr4) | CR4_PSE);
  WRITE(cr3, directory);
  WRITE(cr0, READ(cr0) | CR0_PG);
  check("paging 32: on", READ(cr0) >> 31);
  static const char *const names_32[] = {"paging 32: load, not present", "paging 32: supervisor store to a read-only page, CR0.WP = 1", "paging 32: the same, CR0.WP = 0", "paging 32: user load from a supervisor page", "paging 32: user store to a supervisor page", "paging 32: user store to a user page"};
  rights(names_32, entry_32);
  check_value("paging 32: A and D", table[0] & (A | D), A | D);
  check_value("paging 32: A in the PDE, and no D, for it points to a table", directory[TEST_PAGE >> 22] & (A | D), A);
  for (u32 i = 0; i < 16; i++) other_directory[i] = directory[i];
  other_directory[TEST_PAGE >> 22] = (u32)other_table | U | W | P;
  other_table[0] = (u32)other_page | U | W | P;
  static const char *const tasks_32[TASK_SPACE_NAMES] = {"paging 32: CALL of a task with another CR3", "paging 32: it ran in its own tables", "paging 32: its LDT was read through them", "paging 32: IRET goes back to ours", "paging 32: a fault through a task gate to it", "paging 32: it got the error code", "paging 32: on a stack that ours do not have"};
  task_space_checks(tasks_32, (u32)other_directory, page, other_page);
  directory[17] = 0 | LARGE | W | P | 1 << 21;
  PAGE_FAULTS("paging 32: reserved bit 21 of a 4 MiB PDE", load(17u << 22), 9, 17u << 22);
  WRITE(cr0, READ(cr0) & ~CR0_PG);

  if (!(cpuid(1).d >> 6 & 1)) {
    not_offered("paging PAE");
    return;
  }
  for (u32 i = 0; i < 32; i++) pae_directory[i] = (u64)i << 21 | LARGE | U | W | P;
  pae_directory[32] = LARGE | W | P | 1 << 20;
  pae_high_directory[0] = (u32)pae_table | U | W | P;
  pae_pointers[0] = (u32)pae_directory | P;
  pae_pointers[1] = (u32)pae_high_directory | P; /* 1 GiB: TEST_PAGE */
  WRITE(cr4, READ(cr4) | CR4_PAE);
  WRITE(cr3, pae_pointers);
  WRITE(cr0, READ(cr0) | CR0_PG);
  check("paging PAE: on", READ(cr0) >> 31);
  static const char *const names_pae[] = {"paging PAE: load, not present", "paging PAE: supervisor store to a read-only page, CR0.WP = 1", "paging PAE: the same, CR0.WP = 0", "paging PAE: user load from a supervisor page", "paging PAE: user store to a supervisor page", "paging PAE: user store to a user page"};
  rights(names_pae, entry_pae);
  PAGE_FAULTS("paging PAE: reserved bit 20 of a 2 MiB PDE", load(32u << 21), 9, 32u << 21);
  other_pae_pointers[0] = pae_pointers[0];
  other_pae_pointers[1] = (u32)other_pae_directory | P;
  other_pae_directory[0] = (u32)other_pae_table | U | W | P;
  other_pae_table[0] = (u32)other_page | U | W | P;
  static const char *const tasks_pae[TASK_SPACE_NAMES] = {"paging PAE: CALL of a task with another CR3", "paging PAE: it ran in its own tables", "paging PAE: its LDT was read through them", "paging PAE: IRET goes back to ours", "paging PAE: a fault through a task gate to it", "paging PAE: it got the error code", "paging PAE: on a stack that ours do not have"};
  task_space_checks(tasks_pae, (u32)other_pae_pointers, page, other_page);
  pae_table[0] = (u32)page | P | 1ULL << 60;
  flush();
  PAGE_FAULTS("paging PAE: reserved bit 60 of a PTE", load(TEST_PAGE), 9, TEST_PAGE);
  pae_pointers[2] = (u32)pae_directory | P | W;
  FAULTS("paging PAE: reserved bit 1 of a PDPTE is #GP when CR3 is loaded", WRITE(cr3, pae_pointers), GP, 0);
  pae_pointers[2] = 0;
  FAULTS("paging PAE: and nothing without it", WRITE(cr3, pae_pointers), NONE, 0);
  pae_pointers[1] = 0;
  entry_pae(P | W);
  FAULTS("paging PAE: PDPTEs are registers: a change in memory waits for CR3", load(TEST_PAGE), NONE, 0);
  WRITE(cr3, pae_pointers);
  PAGE_FAULTS("paging PAE: then it counts", load(TEST_PAGE), 0, TEST_PAGE);
  if (cpuid(0x80000001).d >> 20 & 1) {
    pae_pointers[1] = (u32)pae_high_directory | P;
    WRITE(cr3, pae_pointers);
    *(u8 *)page = 0xc3;
    pae_table[0] = (u32)page | P | 1ULL << 63;
    flush();
    PAGE_FAULTS("paging PAE: bit 63 is reserved while EFER.NXE = 0", load(TEST_PAGE), 9, TEST_PAGE);
    write_msr(0xc0000080, read_msr(0xc0000080) | 0x800);
    PAGE_FAULTS("paging PAE: fetch from an NX page", __asm__ volatile("call *%0" : : "r"(TEST_PAGE) : "memory"), 0x11, TEST_PAGE);
    write_msr(0xc0000080, read_msr(0xc0000080) & ~0x800u);
  } else {
    not_offered("paging PAE: NX");
  }
  WRITE(cr0, READ(cr0) & ~CR0_PG);
}
