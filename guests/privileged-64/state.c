/* FXSAVE and XSAVE: SDM 1 10.5 "FXSAVE and FXRSTOR Instructions", 13 "Managing State Using the XSAVE Feature Set". */
#include "machine.h"

static u8 area[4096] __attribute__((aligned(64)));

static void fxsave(void) {
  FAULTS("fxsave: address not on 16 bytes", __asm__ volatile("fxsave %0" : "=m"(area[8])), GP, 0);
  FAULTS("fxrstor: reserved bit of MXCSR", {
    __asm__ volatile("fxsave %0" : "=m"(area));
    area[27] = 0x80;
    __asm__ volatile("fxrstor %0" : : "m"(area));
  }, GP, 0);
  area[27] = 0;
  u64 pattern = 0x0123456789abcdef, back = 0;
  __asm__ volatile("movq %1, %%xmm7; fxsave %0; pxor %%xmm7, %%xmm7; fxrstor %0; movq %%xmm7, %2" : "+m"(area), "+r"(pattern), "=r"(back) : : "memory");
  check_value("fxsave: XMM7 goes out and comes back", back, pattern);
  check_value("fxsave: and lies at offset 272", *(u64 *)(area + 272), pattern);
  u8 tags;
  __asm__ volatile("fninit; fld1; fldz; fxsave %0" : "=m"(area));
  tags = area[4];
  check_value("fxsave: the abridged tag word after two pushes", tags, 0xc0);
  __asm__ volatile("fninit");
}

static u64 read_xcr0(void) {
  u32 low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (u64)high << 32 | low;
}
#define XSETBV(index, value) __asm__ volatile("xsetbv" : : "a"((u32)(value)), "d"((u32)((u64)(value) >> 32)), "c"(index))

static void xsave(void) {
  if (!(cpuid(1, 0).c >> 26 & 1)) {
    not_offered("xsave");
    return;
  }
  FAULTS("xsave: XGETBV with CR4.OSXSAVE = 0", read_xcr0(), UD, 0);
  WRITE(cr4, READ(cr4) | 1 << 18);
  check_value("xsave: CPUID.OSXSAVE follows CR4", cpuid(1, 0).c >> 27 & 1, 1);
  check_value("xsave: XCR0 after reset", read_xcr0(), 1);
  FAULTS("xsave: XCR0 without x87", XSETBV(0, 2), GP, 0);
  FAULTS("xsave: XCR0 with a component that does not exist", XSETBV(0, 1ULL << 62 | 3), GP, 0);
  FAULTS("xsave: AVX without SSE", XSETBV(0, 5), GP, 0);
  FAULTS("xsave: XCR1", XSETBV(1, 3), GP, 0);
  FAULTS("xsave: x87 and SSE", XSETBV(0, 3), NONE, 0);
  check_value("xsave: the size for them, CPUID.(0DH, 0).EBX", cpuid(13, 0).b, 576);
  u64 pattern = 0xfedcba9876543210, back = 0;
#define XSAVE(mask) __asm__ volatile("xsave %0" : "+m"(area) : "a"(mask), "d"(0) : "memory")
#define XRSTOR(mask) __asm__ volatile("xrstor %0" : : "m"(area), "a"(mask), "d"(0) : "memory")
  for (u32 i = 0; i < sizeof area; i++) area[i] = 0;
  __asm__ volatile("movq %0, %%xmm3" : : "r"(pattern));
  XSAVE(3);
  check_value("xsave: XSTATE_BV names SSE", *(u64 *)(area + 512) & 2, 2);
  __asm__ volatile("pxor %%xmm3, %%xmm3" : :);
  XRSTOR(3);
  __asm__ volatile("movq %%xmm3, %0" : "=r"(back));
  check_value("xsave: XMM3 comes back", back, pattern);
  *(u64 *)(area + 512) &= ~2ULL;
  XRSTOR(2);
  __asm__ volatile("movq %%xmm3, %0" : "=r"(back));
  check_value("xsave: a component not in XSTATE_BV is initialised", back, 0);
  FAULTS("xsave: address not on 64 bytes", __asm__ volatile("xsave %0" : "+m"(area[16]) : "a"(3), "d"(0)), GP, 0);
  *(u64 *)(area + 512) = 1ULL << 62;
  FAULTS("xrstor: XSTATE_BV beyond XCR0", XRSTOR(3), GP, 0);
  *(u64 *)(area + 512) = 3;
  *(u64 *)(area + 528) = 1;
  FAULTS("xrstor: reserved bytes of the header", XRSTOR(3), GP, 0);
  WRITE(cr0, READ(cr0) | 8);
  FAULTS("xsave: #NM with CR0.TS", XSAVE(3), NM, 0);
  __asm__ volatile("clts");
  WRITE(cr4, READ(cr4) & ~(1ULL << 18));
}

static u8 compact[1024] __attribute__((aligned(64)));
SNIPPET(user_xsaves, "xor %edx, %edx; mov $3, %eax; xsaves (%rdi)");
SNIPPET(user_xrstors, "xor %edx, %edx; mov $3, %eax; xrstors (%rdi)");

static void xsaves(void) {
  if (!(cpuid(1, 0).c >> 26 & 1) || !(cpuid(13, 1).a >> 3 & 1)) {
    not_offered("xsaves");
    return;
  }
#define XSAVES(mask) __asm__ volatile("xsaves %0" : "+m"(compact) : "a"(mask), "d"(0) : "memory")
#define XRSTORS(mask) __asm__ volatile("xrstors %0" : : "m"(compact), "a"(mask), "d"(0) : "memory")
  FAULTS("xsaves: without CR4.OSXSAVE", XSAVES(3), UD, 0);
  WRITE(cr4, READ(cr4) | 1 << 18);
  XSETBV(0, 3);
  check_value("xsaves: the size for x87 and SSE, CPUID.(0DH, 1).EBX", cpuid(13, 1).b, 576);
  check_value("xsaves: IA32_XSS after reset", read_msr(0xda0), 0);
  FAULTS("xsaves: IA32_XSS with a component that does not exist", write_msr(0xda0, 1ULL << 62), GP, 0);
  u64 pattern = 0xfedcba9876543210, back = 0;
  for (u32 i = 0; i < sizeof compact; i++) compact[i] = 0xcc;
  __asm__ volatile("fninit; movq %0, %%xmm3" : : "r"(pattern));
  XSAVES(3);
  check_value("xsaves: XSTATE_BV names SSE", *(u64 *)(compact + 512) & 2, 2);
  check_value("xsaves: XCOMP_BV says compacted, x87 and SSE", *(u64 *)(compact + 520), 1ULL << 63 | 3);
  check_value("xsaves: the rest of the header is as it was", *(u64 *)(compact + 528), 0xcccccccccccccccc);
  for (u32 i = 528; i < 576; i++) compact[i] = 0;
  check_value("xsaves: XMM3 is in its place", *(u64 *)(compact + 160 + 48), pattern);
  __asm__ volatile("pxor %%xmm3, %%xmm3" : :);
  XRSTORS(3);
  __asm__ volatile("movq %%xmm3, %0" : "=r"(back));
  check_value("xrstors: XMM3 comes back", back, pattern);
  FAULTS("xsaves: address not on 64 bytes", __asm__ volatile("xsaves %0" : "+m"(compact[16]) : "a"(3), "d"(0)), GP, 0);
  FAULTS("xsaves: in ring 3", user(user_xsaves, (u64)compact), GP, 0);
  FAULTS("xrstors: in ring 3", user(user_xrstors, (u64)compact), GP, 0);
  *(u64 *)(compact + 520) = 1ULL << 63 | 7;
  FAULTS("xrstors: XCOMP_BV beyond XCR0", XRSTORS(3), GP, 0);
  *(u64 *)(compact + 520) = 1ULL << 63 | 1;
  FAULTS("xrstors: XSTATE_BV beyond XCOMP_BV", XRSTORS(3), GP, 0);
  *(u64 *)(compact + 520) = 0;
  FAULTS("xrstors: the standard form", XRSTORS(3), GP, 0);
  *(u64 *)(compact + 520) = 1ULL << 63 | 3;
  *(u64 *)(compact + 528) = 1;
  FAULTS("xrstors: reserved bytes of the header", XRSTORS(3), GP, 0);
  WRITE(cr0, READ(cr0) | 8);
  FAULTS("xsaves: #NM with CR0.TS", XSAVES(3), NM, 0);
  __asm__ volatile("clts");
  WRITE(cr4, READ(cr4) & ~(1ULL << 18));
}

void state_checks(void) {
  fxsave();
  xsave();
  xsaves();
}
