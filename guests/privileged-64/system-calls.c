/* SYSCALL and SYSRET, SYSENTER, SWAPGS, the FS and GS bases. SDM 3A 5.8.7 and 5.8.8 "Fast System Calls". */
#include "machine.h"

enum { EFER = 0xc0000080, STAR = 0xc0000081, LSTAR, CSTAR, FMASK, FS_BASE = 0xc0000100, GS_BASE, KERNEL_GS_BASE, SYSENTER_CS = 0x174, SYSENTER_ESP, SYSENTER_EIP };
#define HOLE 0x0000900000000000UL

SNIPPET(user_syscall, "mov %rsp, %rbx; syscall\n nop");
SNIPPET(user_sysenter, "mov %rsp, %rcx; lea 1f(%rip), %rdx; sysenter; 1:");
SNIPPET(user_rdfsbase, "rdfsbase %rax");

static volatile u64 at_entry[8];
extern const u8 system_entry[], system_return[], sysenter_entry[];
__asm__(".pushsection .text\n"
        "system_entry: mov %rcx, at_entry(%rip); mov %r11, at_entry+8(%rip); mov %rsp, at_entry+16(%rip)\n"
        "  pushq $0; pop %rax; mov %cs, %eax; mov %rax, at_entry+24(%rip); mov %ss, %eax; mov %rax, at_entry+32(%rip)\n"
        "  pushfq; pop %rax; mov %rax, at_entry+40(%rip)\n"
        "  int $0x80\n"
        "system_return: sysretq\n"
        "sysenter_entry: mov %rsp, at_entry+16(%rip); mov %cs, %eax; mov %rax, at_entry+24(%rip); int $0x80\n"
        ".popsection");

void system_call_checks(void) {
  write_msr(EFER, read_msr(EFER) & ~1ULL);
  FAULTS("syscall: #UD with EFER.SCE = 0", user(user_syscall, 0), UD, 0);
  write_msr(EFER, read_msr(EFER) | 1);
  write_msr(STAR, (u64)(USER_CODE_32 & ~3) << 48 | (u64)KERNEL_CODE << 32);
  write_msr(LSTAR, (u64)system_entry);
  write_msr(FMASK, 0x200 | 0x400);
  FAULTS("syscall: arrives", user(user_syscall, 0), VECTOR_DONE, 0);
  check_value("syscall: RCX is the next RIP", at_entry[0], USER_PAGE + 5);
  check_value("syscall: R11 is RFLAGS with IF", at_entry[1] & 0x600, 0x200);
  check_value("syscall: RSP is the user's still", at_entry[2], USER_STACK);
  check_value("syscall: CS and SS come from STAR", at_entry[3] << 16 | at_entry[4], KERNEL_CODE << 16 | KERNEL_DATA);
  check_value("syscall: FMASK has cleared IF", at_entry[5] & 0x200, 0);
  FAULTS("syscall: LSTAR takes no non-canonical address", write_msr(LSTAR, HOLE), GP, 0);

  static const u8 done[] = {0xcd, 0x80};
  ((u8 *)USER_PAGE)[0] = done[0], ((u8 *)USER_PAGE)[1] = done[1];
  FAULTS("sysret: goes to RCX in ring 3", __asm__ volatile("jmp system_return" : : "c"(USER_PAGE), "d"(0) : "r11", "memory"), VECTOR_DONE, 0);
  check_value("sysret: CS and SS of ring 3", caught.frame.cs << 16 | caught.frame.ss, (u64)USER_CODE << 16 | USER_DATA);
  check_value("sysret: RIP", caught.frame.rip, USER_PAGE + 2);

  const struct leaf vendor = cpuid(0, 0);
  write_msr(SYSENTER_CS, KERNEL_CODE);
  write_msr(SYSENTER_ESP, USER_STACK - 0x100);
  write_msr(SYSENTER_EIP, (u64)sysenter_entry);
  if (vendor.b == 0x756e6547) { /* "Genu" */
    FAULTS("sysenter: arrives", user(user_sysenter, 0), VECTOR_DONE, 0);
    check_value("sysenter: RSP from the MSR", at_entry[2], USER_STACK - 0x100);
    check_value("sysenter: CS from the MSR", at_entry[3], KERNEL_CODE);
    write_msr(SYSENTER_CS, 0);
    FAULTS("sysenter: #GP while the MSR's selector is null", user(user_sysenter, 0), GP, 0);
  } else {
    FAULTS("sysenter: #UD in long mode on AMD", user(user_sysenter, 0), UD, 0);
  }

  write_msr(GS_BASE, 0x1111);
  write_msr(KERNEL_GS_BASE, 0x2222);
  __asm__ volatile("swapgs");
  check_value("swapgs: exchanges the bases", read_msr(GS_BASE) << 16 | read_msr(KERNEL_GS_BASE), 0x22221111);
  if (cpuid(7, 0).b & 1) {
    FAULTS("fsgsbase: #UD with CR4.FSGSBASE = 0", user(user_rdfsbase, 0), UD, 0);
    WRITE(cr4, READ(cr4) | 1 << 16);
    FAULTS("fsgsbase: RDFSBASE in ring 3", user(user_rdfsbase, 0), VECTOR_DONE, 0);
    __asm__ volatile("wrfsbase %0" : : "r"(0x123456789abcULL));
    check_value("fsgsbase: WRFSBASE is what the MSR reads", read_msr(FS_BASE), 0x123456789abc);
    FAULTS("fsgsbase: WRGSBASE of a non-canonical address", __asm__ volatile("wrgsbase %0" : : "r"(HOLE)), GP, 0);
    WRITE(cr4, READ(cr4) & ~(1ULL << 16));
  } else {
    not_offered("fsgsbase");
  }
  FAULTS("msr: one that does not exist", read_msr(0x12345678), GP, 0);
}
