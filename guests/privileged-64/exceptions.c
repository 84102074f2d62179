/* SDM 3A chapter 6 "Interrupt and Exception Handling": each fault's vector, error code and RIP; double faults; IST. */
#include "machine.h"

SNIPPET(user_unaligned, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rdi), %rax");

static void arithmetic(void) {
  FAULTS("#DE: division by zero", __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx"), DE, 0);
  FAULTS("#DE: quotient too large", __asm__ volatile("div %%ecx" : : "a"(0), "d"(2), "c"(2)), DE, 0);
  FAULTS("#DE: most negative by -1", __asm__ volatile("idiv %%ecx" : : "a"(0x80000000), "d"(-1), "c"(-1)), DE, 0);
  FAULTS("#UD: UD2", __asm__ volatile("ud2"), UD, 0);
  FAULTS("#UD: LOCK on a register", __asm__ volatile(".byte 0xf0, 0x01, 0xc0"), UD, 0);
  FAULTS("#UD: LOCK on MOV", __asm__ volatile(".byte 0xf0, 0x89, 0x00" : : "a"(frame_page)), UD, 0);
  FAULTS("#UD: PUSH ES in 64-bit mode", __asm__ volatile(".byte 0x06"), UD, 0);
  FAULTS("#UD: LDS in 64-bit mode", __asm__ volatile(".byte 0xc5, 0x00"), UD, 0);
  FAULTS("#UD: MOV to CS", __asm__ volatile(".byte 0x8e, 0xc8" : : "a"(8)), UD, 0);
  FAULTS("#GP: an instruction of 16 bytes", __asm__ volatile(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90"), GP, 0);
  FAULTS("#BP: INT3 of one byte", __asm__ volatile("int3"), BP, 0);
  FAULTS("#BP: INT 3 of two bytes", __asm__ volatile(".byte 0xcd, 0x03"), BP, 0);
}

static void alignment(void) {
  WRITE(cr0, READ(cr0) | 1 << 18);
  FAULTS("#AC: an unaligned load in ring 3 with CR0.AM and AC", user(user_unaligned, USER_PAGE + 0x1000), AC, 0);
  WRITE(cr0, READ(cr0) & ~(1ULL << 18));
  FAULTS("#AC: not without CR0.AM", user(user_unaligned, USER_PAGE + 0x1000), VECTOR_DONE, 0);
}

static void floating_point(void) {
  WRITE(cr0, READ(cr0) | 8);
  FAULTS("#NM: x87 with CR0.TS", __asm__ volatile("fldz"), NM, 0);
  FAULTS("#NM: SSE with CR0.TS", __asm__ volatile("movaps %%xmm0, %%xmm0" : :), NM, 0);
  FAULTS("#NM: FWAIT with CR0.TS and MP", __asm__ volatile("fwait"), NM, 0);
  __asm__ volatile("clts");
  FAULTS("#NM: CLTS ends it", __asm__ volatile("fninit"), NONE, 0);
  WRITE(cr0, (READ(cr0) | 4) & ~2ULL);
  FAULTS("#NM: x87 with CR0.EM", __asm__ volatile("fldz"), NM, 0);
  FAULTS("#UD: SSE with CR0.EM", __asm__ volatile("movaps %%xmm0, %%xmm0" : :), UD, 0);
  FAULTS("#UD: MMX with CR0.EM", __asm__ volatile("movq %%mm0, %%mm0" : :), UD, 0);
  WRITE(cr0, (READ(cr0) & ~4ULL) | 2 | 0x20);
  WRITE(cr4, READ(cr4) & ~0x200ULL);
  FAULTS("#UD: SSE with CR4.OSFXSR = 0", __asm__ volatile("movaps %%xmm0, %%xmm0" : :), UD, 0);
  WRITE(cr4, READ(cr4) | 0x200);
  u16 control = 0x37b; /* division by zero unmasked */
  FAULTS("#MF: comes with the next waiting instruction", __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st; nop; fwait" : : "m"(control)), MF, 0);
  __asm__ volatile("fninit");
  u32 mxcsr = 0x1f80 & ~0x200u;
  FAULTS("#XM: division by zero unmasked in MXCSR", __asm__ volatile("ldmxcsr %0; xorps %%xmm1, %%xmm1; pcmpeqd %%xmm0, %%xmm0; psrld $25, %%xmm0; pslld $23, %%xmm0; divss %%xmm1, %%xmm0" : : "m"(mxcsr)), XM, 0);
  WRITE(cr4, READ(cr4) & ~0x400ULL);
  FAULTS("#UD: the same with CR4.OSXMMEXCPT = 0", __asm__ volatile("divss %%xmm1, %%xmm0" : :), UD, 0);
  WRITE(cr4, READ(cr4) | 0x400);
  mxcsr = 0x1f80;
  __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
  FAULTS("#GP: LDMXCSR with a reserved bit", __asm__ volatile("ldmxcsr %0" : : "m"((u32){0x80001f80})), GP, 0);
  FAULTS("#GP: MOVAPS of an unaligned address", __asm__ volatile("movaps %0, %%xmm0" : : "m"(*(const char *)((u64)frame_page + 8))), GP, 0);
}

static void double_faults(void) {
  const u64 old = idt[GP * 2];
  idt[GP * 2] &= ~(1ULL << 47); /* not present: #NP while delivering #GP */
  FAULTS("#DF: #GP whose gate is not present", *(volatile u64 *)0x0000900000000000, DF, 0);
  idt[GP * 2] = old;
  const u64 page_fault = idt[PF * 2];
  idt[PF * 2] &= ~(1ULL << 47);
  test_pt[0] = 0;
  invlpg(TEST_PAGE);
  FAULTS("#DF: #PF whose gate is not present", load(TEST_PAGE), DF, 0);
  idt[PF * 2] = page_fault;
  const u64 divide = idt[DE * 2];
  idt[DE * 2] &= ~(1ULL << 47);
  FAULTS("#DF: #DE whose gate is not present is two contributory faults", __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx"), DF, 0);
  idt[DE * 2] = divide;
  const u64 undefined = idt[UD * 2];
  idt[UD * 2] &= ~(1ULL << 47);
  FAULTS("#NP: #UD is benign, so its absent gate is #NP alone, with EXT", __asm__ volatile("ud2"), NP, UD * 8 + 3);
  idt[UD * 2] = undefined;
  /* A stack that cannot be pushed to: the page fault cannot be delivered, and the IST of #DF saves the day. */
  FAULTS("#DF: delivery to a stack that is not mapped", __asm__ volatile("mov %0, %%rsp; ud2" : : "r"(TEST_PAGE + 0x800) : "memory"), DF, 0);
  u64 rsp = caught.frame.rsp;
  check_value("ist: the interrupted RSP is in the frame", rsp, TEST_PAGE + 0x800);
  FAULTS("stack: an odd RSP", __asm__ volatile("mov %%rsp, %%rbx; and $-16, %%rbx; lea -5(%%rbx), %%rsp; ud2" : : : "rbx", "memory"), UD, 0);
  check_value("stack: is aligned for the frame, which keeps the odd one", caught.frame.rsp & 15, 11);
  check_value("stack: RIP's place, five quadwords below an aligned one", caught.frame_address & 15, 8);
}

void exception_checks(void) {
  arithmetic();
  alignment();
  floating_point();
  double_faults();
}
