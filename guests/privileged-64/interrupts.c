/* When an interrupt is taken: IF and its shadows, CR8, HLT, NMI blocking. SDM 3A 6.8 "Enabling and Disabling Interrupts". */
#include "machine.h"

void interrupt_checks(void) {
  u64 first;
  interrupts = 0;
  self_ipi(VECTOR_IPI);
  __asm__ volatile("nop; nop; nop");
  check_value("interrupts: none while IF = 0", interrupts, 0);
  __asm__ volatile("lea 1f(%%rip), %0; sti; 1: nop; nop; cli" : "=&r"(first) : : "memory");
  check_value("interrupts: STI lets one more instruction pass", (u64)interrupts << 8 | (interrupt_rip - first), 0x101);
  interrupts = 0;
  self_ipi(VECTOR_IPI);
  __asm__ volatile("sti; cli; nop; nop");
  check_value("interrupts: none between STI and CLI", interrupts, 0);
  __asm__ volatile("lea 1f(%%rip), %0; mov %%ss, %%eax; sti; nop; cli" "\n1:" : "=&r"(first) : : "rax", "memory");
  check_value("interrupts: the pending one comes later", interrupts, 1);
  interrupts = 0;
  __asm__ volatile("lea 1f(%%rip), %0; mov %%ss, %%ecx; sti; movl %1, (%2); 1: mov %%ecx, %%ss; nop; nop; cli" : "=&r"(first) : "r"(0x44000 | VECTOR_IPI), "r"(0xfee00300UL) : "rcx", "memory");
  check("interrupts: MOV to SS holds them back for one instruction", interrupts == 1 && interrupt_rip - first != 2);
  interrupts = 0;
  WRITE(cr8, 5);
  self_ipi(VECTOR_IPI); /* class 5 */
  __asm__ volatile("sti; nop; nop; nop; cli");
  check_value("cr8: class 5 holds back vector 51h", interrupts, 0);
  check_value("cr8: is the TPR's upper half", *(volatile u32 *)0xfee00080, 0x50);
  __asm__ volatile("sti; mov %0, %%cr8; nop; nop; cli" : : "r"(4ULL) : "memory");
  check_value("cr8: class 4 lets it through", interrupts, 1);
  WRITE(cr8, 0);
  interrupts = 0;
  self_ipi(VECTOR_IPI);
  __asm__ volatile("sti; hlt; cli");
  check_value("hlt: is left by an interrupt that waits already", interrupts, 1);

  /* By destination: the shorthand "self" is for fixed interrupts only. */
  *(volatile u32 *)0xfee00310 = *(volatile u32 *)0xfee00020;
  FAULTS("nmi: comes although IF = 0", *(volatile u32 *)0xfee00300 = 0x4400; for (volatile int i = 0; i < 100; i++) {}, NMI, 0);
}
