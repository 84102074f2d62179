/*
 * What guests/nested-vmx does in its loop `ept-cpuid`, with SVM and nested paging: for a machine that has no VMX to be
 * compared with. L2 executes CPUID, which exits; L1 saves and loads the general registers and goes on behind it.
 * Command line: marks=N prints a line after every N round trips, for ever.
 *
 * Source  APM 2 15 "Secure Virtual Machine"; the VMCB's layout is its appendix B.
 */
#include "../../guests/lib/frame.h"

enum { EFER = 0xc0000080, EFER_SVME = 1 << 12, VM_HSAVE_PA = 0xc0010117, EXIT_CPUID = 0x72 };
enum {
  INTERCEPT_3 = 0x00c, INTERCEPT_4 = 0x010, ASID = 0x058, EXIT_CODE = 0x070, NESTED_PAGING = 0x090, NESTED_CR3 = 0x0b0,
  SAVE_ES = 0x400, SAVE_CS = 0x410, SAVE_SS = 0x420, SAVE_DS = 0x430, SAVE_EFER = 0x4d0, SAVE_CR4 = 0x548,
  SAVE_CR3 = 0x550, SAVE_CR0 = 0x558, SAVE_DR7 = 0x560, SAVE_DR6 = 0x568, SAVE_RFLAGS = 0x570, SAVE_RIP = 0x578,
  SAVE_RSP = 0x5d8, SAVE_PAT = 0x668,
};
enum { PRESENT_WRITE_USER = 7, LARGE = 0x80, CODE_64 = 0xa9b, DATA = 0xc93 };

extern u64 pml4[512];
static u8 vmcb[4096] __attribute__((aligned(4096)));
static u8 host_save[4096] __attribute__((aligned(4096)));
static u8 stack[4096] __attribute__((aligned(16)));
static u64 npt_pml4[512] __attribute__((aligned(4096)));
static u64 npt_pdpt[512] __attribute__((aligned(4096)));
static u64 npt_directories[4][512] __attribute__((aligned(4096)));
static u64 registers[15];

void l2(void);
void enter(u64 *registers, void *vmcb);
__asm__(
    "l2: xor %ebp, %ebp\n"
    "1: xor %eax, %eax; cpuid; inc %rbp; jmp 1b\n"
    "enter:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi\n"
    "  mov %rsi, %rax\n"
    "  mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx; mov 32(%rdi), %rbp; mov 40(%rdi), %rsi\n"
    "  mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11; mov 88(%rdi), %r12\n"
    "  mov 96(%rdi), %r13; mov 104(%rdi), %r14; mov 112(%rdi), %r15; mov 48(%rdi), %rdi\n"
    "  clgi; vmrun; stgi\n"
    "  xchg %rdi, (%rsp)\n"
    "  mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi); mov %rbp, 32(%rdi); mov %rsi, 40(%rdi)\n"
    "  mov %r8, 56(%rdi); mov %r9, 64(%rdi); mov %r10, 72(%rdi); mov %r11, 80(%rdi); mov %r12, 88(%rdi)\n"
    "  mov %r13, 96(%rdi); mov %r14, 104(%rdi); mov %r15, 112(%rdi); popq 48(%rdi)\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "  ret\n");

void interrupt(struct frame *f) {
  put("svm-trips: an exception, vector ");
  put_decimal((u32)f->vector);
  put("\n");
  leave(1);
}

static void set32(int at, u32 value) { *(volatile u32 *)(vmcb + at) = value; }
static void set64(int at, u64 value) { *(volatile u64 *)(vmcb + at) = value; }
static u64 get64(int at) { return *(volatile u64 *)(vmcb + at); }
static void segment(int at, u16 selector, u16 attributes) {
  set32(at, selector | (u32)attributes << 16);
  set32(at + 4, ~0u);
  set64(at + 8, 0);
}

static u64 rdmsr(u32 index) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return low | (u64)high << 32;
}
static void wrmsr(u32 index, u64 value) {
  __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}

static u32 marks_of(const char *line) {
  u32 marks = 0;
  for (const char *c = line; *c; c++)
    if (c[0] == 'm' && c[1] == 'a' && c[5] == '=')
      for (c += 6; *c >= '0' && *c <= '9'; c++) marks = 10 * marks + (u32)(*c - '0');
  return marks ? marks : 10000;
}

void kernel(u32 magic, const u32 *info) {
  (void)magic;
  console_start();
  u32 marks = info[0] & 4 ? marks_of((const char *)(uptr)info[4]) : 10000;
  u32 eax = 0x80000001, ebx, ecx = 0, edx;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  if (!(ecx & 4)) {
    put("svm-trips: this processor has no SVM\n");
    leave(2);
  }
  wrmsr(EFER, rdmsr(EFER) | EFER_SVME);
  wrmsr(VM_HSAVE_PA, (uptr)host_save);

  npt_pml4[0] = (uptr)npt_pdpt | PRESENT_WRITE_USER;
  for (int i = 0; i < 4; i++) npt_pdpt[i] = (uptr)npt_directories[i] | PRESENT_WRITE_USER;
  for (int i = 0; i < 2048; i++) npt_directories[i / 512][i % 512] = (u64)i << 21 | PRESENT_WRITE_USER | LARGE;

  u64 cr0, cr4;
  __asm__ volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
  set32(INTERCEPT_3, 1 << 18); /* CPUID */
  set32(INTERCEPT_4, 1 << 0);  /* VMRUN, which must be intercepted */
  set32(ASID, 1);
  set64(NESTED_PAGING, 1);
  set64(NESTED_CR3, (uptr)npt_pml4);
  segment(SAVE_CS, 8, CODE_64);
  segment(SAVE_ES, 16, DATA);
  segment(SAVE_SS, 16, DATA);
  segment(SAVE_DS, 16, DATA);
  set64(SAVE_EFER, rdmsr(EFER));
  set64(SAVE_CR0, cr0);
  set64(SAVE_CR3, (uptr)pml4);
  set64(SAVE_CR4, cr4);
  set64(SAVE_DR6, 0xffff0ff0);
  set64(SAVE_DR7, 0x400);
  set64(SAVE_RFLAGS, 2);
  set64(SAVE_PAT, 0x0007040600070406);
  set64(SAVE_RSP, (uptr)(stack + sizeof stack));
  set64(SAVE_RIP, (uptr)l2);

  put("svm-trips: begins\n");
  for (u64 trips = 0;;) {
    enter(registers, vmcb);
    if (get64(EXIT_CODE) != EXIT_CPUID || registers[4] != trips) {
      put("svm-trips: exit 0x");
      put_hex(get64(EXIT_CODE), 16);
      put("\n");
      leave(1);
    }
    set64(SAVE_RIP, get64(SAVE_RIP) + 2);
    if (++trips % marks == 0) put("svm-trips: mark\n");
  }
}
