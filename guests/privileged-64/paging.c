/* SDM 3A 4.5 "4-Level Paging and 5-Level Paging", 4.6 "Access Rights", 4.7 "Page-Fault Exceptions", 4.10 "Caching". */
#include "machine.h"

SNIPPET(user_load, "mov (%rdi), %rax");
SNIPPET(user_store, "mov %rax, (%rdi)");
SNIPPET(user_call, "call *%rdi");

enum { CR0_WP = 1 << 16, CR4_PGE = 1 << 7, CR4_PCIDE = 1 << 17, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, CR4_PKE = 1 << 22 };
enum { ERROR_P = 1, ERROR_W = 2, ERROR_U = 4, ERROR_RSVD = 8, ERROR_I = 16, ERROR_PK = 32 };

static void map(u64 entry) {
  test_pt[0] = entry;
  invlpg(TEST_PAGE);
}

static void rights(void) {
  const u64 frame = (u64)frame_page;
  map(0);
  PAGE_FAULTS("paging: load, page not present", load(TEST_PAGE + 8), 0, TEST_PAGE + 8);
  PAGE_FAULTS("paging: store, page not present", store(TEST_PAGE + 16, 1), ERROR_W, TEST_PAGE + 16);
  PAGE_FAULTS("paging: fetch, page not present", call_at(TEST_PAGE), read_msr(0xc0000080) >> 11 & 1 ? ERROR_I : 0, TEST_PAGE);
  PAGE_FAULTS("paging: user load, page not present", user(user_load, TEST_PAGE), ERROR_U, TEST_PAGE);
  map(frame | P | W);
  PAGE_FAULTS("paging: user load from a supervisor page", user(user_load, TEST_PAGE), ERROR_U | ERROR_P, TEST_PAGE);
  PAGE_FAULTS("paging: user store to a supervisor page", user(user_store, TEST_PAGE), ERROR_U | ERROR_P | ERROR_W, TEST_PAGE);
  map(frame | P | U);
  FAULTS("paging: user load from a read-only page", user(user_load, TEST_PAGE), VECTOR_DONE, 0);
  PAGE_FAULTS("paging: user store to a read-only page", user(user_store, TEST_PAGE), ERROR_U | ERROR_P | ERROR_W, TEST_PAGE);
  WRITE(cr0, READ(cr0) & ~(u64)CR0_WP);
  FAULTS("paging: supervisor store to a read-only page, CR0.WP = 0", store(TEST_PAGE, 1), NONE, 0);
  WRITE(cr0, READ(cr0) | CR0_WP);
  map(frame | P | U);
  PAGE_FAULTS("paging: supervisor store to a read-only page, CR0.WP = 1", store(TEST_PAGE, 1), ERROR_P | ERROR_W, TEST_PAGE);
  test_pd[0] &= ~(u64)W;
  map(frame | P | W | U);
  PAGE_FAULTS("paging: read-only in the PDE alone", store(TEST_PAGE, 1), ERROR_P | ERROR_W, TEST_PAGE);
  test_pd[0] |= W;
  map(frame | P | W);
  PAGE_FAULTS("paging: an access over the end of the page names the next page", load(TEST_PAGE + 0xffc), 0, TEST_PAGE + 0x1000);
  store(TEST_PAGE, 0);
}

static void accessed_dirty(void) {
  const u64 frame = (u64)frame_page;
  test_pd[0] &= ~(u64)A;
  map(frame | P | W);
  load(TEST_PAGE);
  check_value("paging: a load sets A in the PTE, not D", test_pt[0] & (A | D), A);
  check_value("paging: and A in the PDE", test_pd[0] & A, A);
  store(TEST_PAGE, 1);
  check_value("paging: a store sets D", test_pt[0] & (A | D), A | D);
  map(frame | P);
  TRY(store(TEST_PAGE, 1));
  check_value("paging: a store that faults does not set D", test_pt[0] & D, 0);
  test_pd[1] = LARGE | P | W;
  invlpg(TEST_PAGE + 0x200000);
  load(TEST_PAGE + 0x200000);
  store(TEST_PAGE + 0x200000 + 0x3000, load(TEST_PAGE + 0x200000 + 0x3000));
  check_value("paging: A and D in a 2 MiB PDE", test_pd[1] & (A | D), A | D);
  if (cpuid(0x80000001, 0).d >> 26 & 1) {
    test_pdpt[1] = LARGE | P | W;
    frame_page[5] = 0x1122334455667788;
    check_value("paging: a 1 GiB page", load(TEST_PAGE + 0x40000000 + (u64)&frame_page[5]), 0x1122334455667788);
    test_pdpt[1] = LARGE | P | W | 0x2000;
    invlpg(TEST_PAGE + 0x40000000);
    PAGE_FAULTS("paging: reserved bit 13 of a 1 GiB PDPTE", load(TEST_PAGE + 0x40000000), ERROR_P | ERROR_RSVD, TEST_PAGE + 0x40000000);
  } else {
    not_offered("paging: 1 GiB pages");
  }
  test_pd[1] = LARGE | P | W | 0x2000;
  invlpg(TEST_PAGE + 0x200000);
  PAGE_FAULTS("paging: reserved bit 13 of a 2 MiB PDE", load(TEST_PAGE + 0x200000), ERROR_P | ERROR_RSVD, TEST_PAGE + 0x200000);
  map(frame | P | 1ULL << 51);
  PAGE_FAULTS("paging: reserved bit 51 of a PTE", load(TEST_PAGE), ERROR_P | ERROR_RSVD, TEST_PAGE);
  map(frame | 1ULL << 51);
  PAGE_FAULTS("paging: a reserved bit without P does not count", load(TEST_PAGE), 0, TEST_PAGE);
}

static void no_execute(void) {
  const u64 frame = (u64)frame_page;
  ((u8 *)frame_page)[0] = 0xc3; /* RET */
  map(frame | P | W);
  FAULTS("nx: fetch from an ordinary page", call_at(TEST_PAGE), NONE, 0);
  map(frame | P | W | NX);
  PAGE_FAULTS("nx: bit 63 is reserved while EFER.NXE = 0", load(TEST_PAGE), ERROR_P | ERROR_RSVD, TEST_PAGE);
  write_msr(0xc0000080, read_msr(0xc0000080) | 0x800);
  FAULTS("nx: load from an NX page", load(TEST_PAGE), NONE, 0);
  PAGE_FAULTS("nx: fetch from an NX page", call_at(TEST_PAGE), ERROR_P | ERROR_I, TEST_PAGE);
  map(frame | P | W | U | NX);
  PAGE_FAULTS("nx: user fetch", user(user_call, TEST_PAGE), ERROR_P | ERROR_I | ERROR_U, TEST_PAGE);
  map(0);
  PAGE_FAULTS("nx: with NXE, a fetch from an absent page has I/D set", call_at(TEST_PAGE), ERROR_I, TEST_PAGE);
}

static void canonical(void) {
  const u64 hole = 0x0000900000000000;
  FAULTS("canonical: load from the hole", load(hole), GP, 0);
  FAULTS("canonical: store over its border", store(0x00007ffffffffffe, 0), GP, 0);
  FAULTS("canonical: through RBP it is #SS", __asm__ volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; pop %%rbp" : : "r"(hole) : "rax"), SS, 0);
  FAULTS("canonical: WRMSR of FS base", write_msr(0xc0000100, hole), GP, 0);
  FAULTS("canonical: INVLPG of a non-canonical address does nothing", invlpg(hole), NONE, 0);
}

static void supervisor_mode(void) {
  const u64 frame = (u64)frame_page;
  const struct leaf seven = cpuid(7, 0);
  ((u8 *)frame_page)[0] = 0xc3;
  map(frame | P | W | U);
  if (seven.b >> 7 & 1) {
    WRITE(cr4, READ(cr4) | CR4_SMEP);
    PAGE_FAULTS("smep: supervisor fetch from a user page", call_at(TEST_PAGE), ERROR_P | ERROR_I, TEST_PAGE);
    FAULTS("smep: user fetch from a user page", user(user_call, TEST_PAGE), VECTOR_DONE, 0);
    WRITE(cr4, READ(cr4) & ~(u64)CR4_SMEP);
    FAULTS("smep: off again", call_at(TEST_PAGE), NONE, 0);
  } else {
    not_offered("smep");
  }
  if (seven.b >> 20 & 1) {
    WRITE(cr4, READ(cr4) | CR4_SMAP);
    PAGE_FAULTS("smap: supervisor load from a user page", load(TEST_PAGE), ERROR_P, TEST_PAGE);
    PAGE_FAULTS("smap: supervisor store to a user page", store(TEST_PAGE, 0xc3), ERROR_P | ERROR_W, TEST_PAGE);
    FAULTS("smap: STAC allows it", __asm__ volatile("stac" : : : "memory"); load(TEST_PAGE), NONE, 0);
    __asm__ volatile("clac");
    PAGE_FAULTS("smap: CLAC forbids it again", load(TEST_PAGE), ERROR_P, TEST_PAGE);
    FAULTS("smap: user load from a user page", user(user_load, TEST_PAGE), VECTOR_DONE, 0);
    WRITE(cr4, READ(cr4) & ~(u64)CR4_SMAP);
  } else {
    not_offered("smap");
  }
  if (seven.c >> 3 & 1) {
    map(frame | P | W | U | 5ULL << 59);
    WRITE(cr4, READ(cr4) | CR4_PKE);
    const u32 access_disable = 1u << 10, write_disable = 2u << 10;
    u32 rights;
#define SET_PKRU(value) __asm__ volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory")
    SET_PKRU(access_disable);
    PAGE_FAULTS("pku: load with access disabled", load(TEST_PAGE), ERROR_P | ERROR_PK, TEST_PAGE);
    PAGE_FAULTS("pku: user load with access disabled", user(user_load, TEST_PAGE), ERROR_P | ERROR_PK | ERROR_U, TEST_PAGE);
    FAULTS("pku: fetches are not concerned", call_at(TEST_PAGE), NONE, 0);
    SET_PKRU(write_disable);
    FAULTS("pku: load with writes disabled", load(TEST_PAGE), NONE, 0);
    PAGE_FAULTS("pku: store with writes disabled", store(TEST_PAGE, 0xc3), ERROR_P | ERROR_W | ERROR_PK, TEST_PAGE);
    WRITE(cr0, READ(cr0) & ~(u64)CR0_WP);
    FAULTS("pku: supervisor store with writes disabled, CR0.WP = 0", store(TEST_PAGE, 0xc3), NONE, 0);
    WRITE(cr0, READ(cr0) | CR0_WP);
    __asm__ volatile("rdpkru" : "=a"(rights) : "c"(0) : "rdx");
    check_value("pku: RDPKRU", rights, write_disable);
    FAULTS("pku: RDPKRU with ECX = 1", __asm__ volatile("rdpkru" : : "c"(1) : "rax", "rdx"), GP, 0);
    SET_PKRU(0);
    WRITE(cr4, READ(cr4) & ~(u64)CR4_PKE);
    FAULTS("pku: RDPKRU with CR4.PKE = 0", __asm__ volatile("rdpkru" : : "c"(0) : "rax", "rdx"), UD, 0);
  } else {
    not_offered("pku");
  }
}

static void contexts(void) {
  const u64 cr3 = READ(cr3);
  if (!(cpuid(1, 0).c >> 17 & 1)) {
    not_offered("pcid");
    return;
  }
  WRITE(cr3, cr3 | 8); /* PCD: bit 3 is part of a PCID once PCIDE is set */
  FAULTS("pcid: CR4.PCIDE with CR3[11:0] not zero", WRITE(cr4, READ(cr4) | CR4_PCIDE), GP, 0);
  WRITE(cr3, cr3);
  WRITE(cr4, READ(cr4) | CR4_PCIDE);
  const u64 frame = (u64)frame_page;
  map(frame | P | W);
  WRITE(cr3, cr3 | 1);
  frame_page[1] = 77;
  check_value("pcid: memory through PCID 1", load(TEST_PAGE + 8), 77);
  test_pt[0] = 0;
  WRITE(cr3, cr3 | 1); /* bit 63 clear: this PCID's entries go */
  PAGE_FAULTS("pcid: MOV to CR3 without bit 63 flushes its PCID", load(TEST_PAGE), 0, TEST_PAGE);
  FAULTS("pcid: MOV to CR3 with bit 63", WRITE(cr3, cr3 | 2 | 1ULL << 63), NONE, 0);
  check_value("pcid: bit 63 does not stay in CR3", READ(cr3), cr3 | 2);
  if (cpuid(7, 0).b >> 10 & 1) {
    struct { u64 pcid, address; } descriptor = {1, TEST_PAGE};
#define INVPCID(type) __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"((u64)(type)) : "memory")
    WRITE(cr3, cr3 | 1);
    map(frame | P | W);
    load(TEST_PAGE);
    test_pt[0] = 0;
    INVPCID(0);
    PAGE_FAULTS("invpcid: type 0 flushes one address", load(TEST_PAGE), 0, TEST_PAGE);
    for (u64 type = 1; type <= 3; type++) {
      test_pt[0] = frame | P | W;
      load(TEST_PAGE);
      test_pt[0] = 0;
      INVPCID(type);
      static const char *const names[] = {"", "invpcid: type 1 flushes one context", "invpcid: type 2 flushes all", "invpcid: type 3 flushes all but global"};
      PAGE_FAULTS(names[type], load(TEST_PAGE), 0, TEST_PAGE);
    }
    FAULTS("invpcid: type 4", INVPCID(4), GP, 0);
    descriptor.pcid = 0x1000;
    FAULTS("invpcid: reserved bits of the descriptor", INVPCID(1), GP, 0);
    descriptor.pcid = 1;
    descriptor.address = 0x0000900000000000;
    FAULTS("invpcid: non-canonical address", INVPCID(0), GP, 0);
  } else {
    not_offered("invpcid");
  }
  WRITE(cr3, cr3);
  WRITE(cr4, READ(cr4) & ~(u64)CR4_PCIDE);
}

static void global_pages(void) {
  const u64 frame = (u64)frame_page;
  WRITE(cr4, READ(cr4) | CR4_PGE);
  map(frame | P | W | G);
  load(TEST_PAGE);
  test_pt[0] = 0;
  WRITE(cr4, READ(cr4) & ~(u64)CR4_PGE);
  PAGE_FAULTS("global: a change of CR4.PGE flushes global pages too", load(TEST_PAGE), 0, TEST_PAGE);
}

void paging_checks(void) {
  WRITE(cr0, READ(cr0) | CR0_WP);
  rights();
  accessed_dirty();
  no_execute();
  canonical();
  supervisor_mode();
  contexts();
  global_pages();
}
