/* SDM 3B 17.2 "Debug Registers", 17.3 "Debug Exceptions": single steps, breakpoints, watchpoints, and what delays them. */
#include "machine.h"

enum { DR6_B0 = 1, DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR7_L0 = 1, DR7_GD = 1 << 13 };
static volatile u64 watched[2] __attribute__((aligned(16)));

static u64 dr6_after(void) {
  u64 value = caught.dr6;
  WRITE(dr6, 0xffff0ff0);
  return value & 0xf00f;
}

static void single_steps(void) {
  u64 first;
  stepping = 1, step_count = 0;
  __asm__ volatile("lea 1f(%%rip), %0; pushfq; orq $0x100, (%%rsp); popfq; 1: nop; nop; pushfq; andq $~0x100, (%%rsp); popfq; nop" : "=&r"(first) : : "memory", "cc");
  stepping = 0;
  check_value("step: TF traps behind each instruction, POPF that sets it excepted", step_count, 5);
  check_value("step: the first one is behind the first NOP", steps[0] - first, 1);
  check_value("step: DR6.BS", dr6_after(), DR6_BS);
  stepping = 1, step_count = 0;
  __asm__ volatile("lea 1f(%%rip), %0; mov %%ss, %%eax; pushfq; orq $0x100, (%%rsp); popfq; 1: mov %%eax, %%ss; nop; nop; pushfq; andq $~0x100, (%%rsp); popfq" : "=&r"(first) : : "rax", "memory", "cc");
  stepping = 0;
  check_value("step: none behind MOV to SS", steps[0] - first, 3);
  dr6_after();
  stepping = 2, step_count = 0;
  __asm__ volatile("lea 1f(%%rip), %0; mov %1, %%rdi; mov $3, %%ecx; xor %%eax, %%eax; pushfq; orq $0x100, (%%rsp); popfq; 1: rep stosb; nop" : "=&r"(first) : "r"((u64)frame_page) : "rax", "rcx", "rdi", "memory", "cc");
  stepping = 0;
  check_value("step: a REP instruction is stepped in each iteration, at its own RIP", steps[0] - first, 0);
  dr6_after();
  FAULTS("int1: F1 is #DB", __asm__ volatile(".byte 0xf1"), DB, 0);
  dr6_after();
}

static void breakpoints(void) {
  WRITE(dr0, watched);
  WRITE(dr7, 0x400 | DR7_L0 | 1 << 16 | 3 << 18); /* write, 4 bytes */
  stepping = 1, step_count = 0;
  u64 next;
  __asm__ volatile("lea 1f(%%rip), %1; movl $5, %0; 1: nop" : "=m"(watched[0]), "=r"(next));
  check_value("watch: a store traps", step_count, 1);
  check_value("watch: behind the store", steps[0] - next, 0);
  check_value("watch: DR6.B0", dr6_after(), DR6_B0);
  step_count = 0;
  (void)watched[0];
  check_value("watch: a load does not match a write watchpoint", step_count, 0);
  ((volatile u32 *)watched)[1] = 1;
  check_value("watch: nor does the next dword", step_count, 0);
  __asm__ volatile("movw $1, %0" : "=m"(*((volatile u8 *)watched + 3)));
  check_value("watch: a store that overlaps does", step_count, 1);
  dr6_after();
  WRITE(dr7, 0x400 | DR7_L0 | 3 << 16 | 3 << 18);
  step_count = 0;
  (void)watched[0];
  check_value("watch: read or write", step_count, 1);
  dr6_after();

  extern const u8 break_here[];
  WRITE(dr0, break_here);
  WRITE(dr7, 0x400 | DR7_L0);
  step_count = 0;
  __asm__ volatile("nop; break_here: nop; nop");
  check_value("breakpoint: an instruction breakpoint is a fault, RF passes it", step_count << 8 | (steps[0] == (u64)break_here), 0x101);
  dr6_after();
  WRITE(dr7, 0x400);
  stepping = 0;

  WRITE(dr7, 0x400 | DR7_GD);
  FAULTS("dr: DR7.GD makes access to a debug register #DB", READ(dr0), DB, 0);
  check_value("dr: DR6.BD", dr6_after() & DR6_BD, DR6_BD);
  check_value("dr: and GD is clear in the handler", READ(dr7), 0x400);
  WRITE(cr4, READ(cr4) | 8);
  FAULTS("dr: DR4 with CR4.DE", __asm__ volatile("mov %%dr4, %%rax" : : : "rax"), UD, 0);
  WRITE(cr4, READ(cr4) & ~8ULL);
  FAULTS("dr: DR4 is DR6 without CR4.DE", __asm__ volatile("mov %%dr4, %%rax" : : : "rax"), NONE, 0);
  FAULTS("dr: upper half of DR7", WRITE(dr7, 1ULL << 32 | 0x400), GP, 0);
  FAULTS("dr: upper half of DR6", WRITE(dr6, 1ULL << 32), GP, 0);
  WRITE(dr7, 0);
  check_value("dr: reserved bits of DR7 read as they must", READ(dr7), 0x400);
}

void debug_checks(void) {
  single_steps();
  breakpoints();
}
