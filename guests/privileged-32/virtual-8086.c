/* SDM 3B 20.2 "Virtual-8086 Mode": entry by IRET, addresses, what faults with IOPL 0 and 3, the frame of an exit. */
#include "machine.h"

/* 16-bit code at 1000:0, data in the segment 2000. */
#define V86_CODE 0x10000
#define V86_DATA ((volatile u16 *)0x20000)
#define CODE_16(name, text)                                             \
  extern const u8 name[], name##_end[];                                 \
  __asm__(".pushsection .text.snippets, \"ax\"\n.code16\n" #name ": " text "\n" #name "_end:\n.code32\n.popsection")

CODE_16(v86_store, "mov $0x1234, %ax; mov %ax, (0x10); mov %cs, %ax; mov %ax, (0x12); hlt");
CODE_16(v86_cli, "cli; hlt");
CODE_16(v86_int, "int $0x21; hlt");
CODE_16(v86_int3, "int3; hlt");
CODE_16(v86_pushf, "pushf; hlt");
CODE_16(v86_segment, "mov $0xffff, %ax; mov %ax, %ds; movb $0x77, (0x18); hlt");
CODE_16(v86_limit, "mov $0xffff, %bx; mov (%bx), %ax; hlt");
CODE_16(v86_wide, "movl $0x10000, %ebx; movb (%ebx), %al; hlt");
CODE_16(v86_in_allowed, "in $3, %al; hlt");
CODE_16(v86_in_denied, "in $9, %al; hlt");
CODE_16(v86_lgdt, "lgdt (0); hlt");
CODE_16(v86_lldt, "lldt %ax; hlt");
CODE_16(v86_far, "ljmp $0x1000, $9f - v86_far; hlt; 9: mov $0x5678, %ax; mov %ax, (0x14); hlt");

static void run(const u8 *from, const u8 *end, u32 iopl) {
  for (u32 i = 0; from + i < end; i++) ((volatile u8 *)V86_CODE)[i] = from[i];
  __asm__ volatile("push $0; push $0; push $0x2000; push $0x2000; push $0x3000; push $0xfffe; push %0; push $0x1000; push $0; iret"
                   : : "r"(0x20002 | iopl << 12) : "memory");
}
#define RUN(name, iopl) run(name, name##_end, iopl)

void virtual_8086_checks(void) {
  FAULTS("v8086: HLT ends it with #GP", RUN(v86_store, 0), GP, 0);
  check_value("v8086: EFLAGS.VM in the frame", caught.frame.eflags & 0x20000, 0x20000);
  check_value("v8086: CS and SS in the frame", caught.frame.cs << 16 | caught.frame.ss, 0x10003000);
  check_value("v8086: DS in the frame", caught.frame.v86_ds, 0x2000);
  check_value("v8086: the handler has DS null", caught.frame.ds, 0);
  check_value("v8086: the store went to 2000:10", V86_DATA[8], 0x1234);
  check_value("v8086: and CS reads as it was set", V86_DATA[9], 0x1000);
  FAULTS("v8086: CLI with IOPL 0", RUN(v86_cli, 0), GP, 0);
  check_value("v8086: faults at the CLI", caught.frame.eip, 0);
  FAULTS("v8086: CLI with IOPL 3 goes on to the HLT", RUN(v86_cli, 3), GP, 0);
  check_value("v8086: which is at 1", caught.frame.eip, 1);
  FAULTS("v8086: INT n with IOPL 0", RUN(v86_int, 0), GP, 0);
  FAULTS("v8086: INT n with IOPL 3 needs a gate of DPL 3", RUN(v86_int, 3), GP, 0x21 * 8 + 2);
  FAULTS("v8086: INT3 needs no IOPL", RUN(v86_int3, 0), BP, 0);
  FAULTS("v8086: PUSHF with IOPL 0", RUN(v86_pushf, 0), GP, 0);
  check_value("v8086: faults at the PUSHF", caught.frame.eip, 0);
  FAULTS("v8086: a store to FFFF:18", RUN(v86_segment, 0), GP, 0);
  check_value("v8086: goes above 1 MiB", *(volatile u8 *)0x100008, 0x77); /* our Multiboot header: read already */
  check_value("v8086: DS became FFFF without a descriptor", caught.frame.v86_ds, 0xffff);
  FAULTS("v8086: a word at offset FFFF is over the limit", RUN(v86_limit, 0), GP, 0);
  check_value("v8086: at the MOV", caught.frame.eip, 3);
  FAULTS("v8086: so is offset 10000 with a 32-bit address", RUN(v86_wide, 0), GP, 0);
  check_value("v8086: at that MOV", caught.frame.eip, 6);
  FAULTS("v8086: IN asks the I/O map whatever the IOPL", RUN(v86_in_denied, 3), GP, 0);
  check_value("v8086: at the IN", caught.frame.eip, 0);
  FAULTS("v8086: IN from an allowed port", RUN(v86_in_allowed, 0), GP, 0);
  check_value("v8086: comes to the HLT", caught.frame.eip, 2);
  FAULTS("v8086: LGDT", RUN(v86_lgdt, 0), GP, 0);
  FAULTS("v8086: LLDT does not exist", RUN(v86_lldt, 0), UD, 0);
  FAULTS("v8086: a far jump loads CS like real mode", RUN(v86_far, 0), GP, 0);
  check_value("v8086: it arrived", V86_DATA[10], 0x5678);
}
