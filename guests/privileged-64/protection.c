/* SDM 3A chapter 5 "Protection": rings, segments, gates, ports; and the way to compatibility mode and back. */
#include "machine.h"

SNIPPET(user_hlt, "hlt");
SNIPPET(user_cli, "cli");
SNIPPET(user_in_allowed, "in $5, %al");
SNIPPET(user_in_denied, "in $9, %al");
SNIPPET(user_in_straddling, "in $7, %ax");
SNIPPET(user_cr, "mov %cr0, %rax");
SNIPPET(user_lgdt, "lgdt (%rdi)");
SNIPPET(user_rdmsr, "mov $0x10, %ecx; rdmsr");
SNIPPET(user_invlpg, "invlpg (%rdi)");
SNIPPET(user_wbinvd, "wbinvd");
SNIPPET(user_int_kernel, "int $0x60");
SNIPPET(user_int_trap, "int $0x61");
SNIPPET(user_int_absent, "int $0x62");
SNIPPET(user_int3, "int3");
SNIPPET(user_popf, "pushf; pop %rax; or $0x3200, %rax; xor $0x200, %rax; push %rax; popf; pushf; pop %rax; mov %rax, (%rdi)");
SNIPPET(user_load_kernel_ss, "mov $0x10, %eax; mov %eax, %ss");
SNIPPET(user_load_kernel_ds, "mov $0x10, %eax; mov %eax, %ds");
SNIPPET(user_sgdt, "sgdt 0x100000(%rip)");

#define USER_POPF (USER_PAGE + 0x100000)

static void privileged_instructions(void) {
  FAULTS("ring 3: HLT", user(user_hlt, 0), GP, 0);
  FAULTS("ring 3: CLI", user(user_cli, 0), GP, 0);
  FAULTS("ring 3: MOV from CR0", user(user_cr, 0), GP, 0);
  FAULTS("ring 3: LGDT", user(user_lgdt, USER_PAGE), GP, 0);
  FAULTS("ring 3: RDMSR", user(user_rdmsr, 0), GP, 0);
  FAULTS("ring 3: INVLPG", user(user_invlpg, USER_PAGE), GP, 0);
  FAULTS("ring 3: WBINVD", user(user_wbinvd, 0), GP, 0);
  FAULTS("ring 3: IN from a port that the TSS allows", user(user_in_allowed, 0), VECTOR_DONE, 0);
  FAULTS("ring 3: IN from a port that it denies", user(user_in_denied, 0), GP, 0);
  FAULTS("ring 3: IN of a word whose second port it denies", user(user_in_straddling, 0), GP, 0);
  FAULTS("ring 3: POPF ends", user(user_popf, USER_POPF), VECTOR_DONE, 0);
  check_value("ring 3: POPF changes neither IOPL nor IF", *(volatile u64 *)USER_POPF & 0x3200, 0x200);
  if (cpuid(7, 0).c >> 2 & 1) {
    WRITE(cr4, READ(cr4) | 1 << 11);
    FAULTS("umip: SGDT in ring 3", user(user_sgdt, 0), GP, 0);
    WRITE(cr4, READ(cr4) & ~(1ULL << 11));
    FAULTS("umip: off again", user(user_sgdt, 0), VECTOR_DONE, 0);
  } else {
    not_offered("umip");
  }
}

static void gates(void) {
  FAULTS("gates: INT n from ring 3 through a gate of DPL 0", user(user_int_kernel, 0), GP, VECTOR_KERNEL_ONLY * 8 + 2);
  FAULTS("gates: INT n through a gate that is not present", user(user_int_absent, 0), NP, VECTOR_ABSENT * 8 + 2);
  FAULTS("gates: INT3 from ring 3 through a gate of DPL 3", user(user_int3, 0), BP, 0);
  check_value("gates: RIP of a trap is behind the instruction", caught.frame.rip, USER_PAGE + 1);
  check_value("gates: CS and SS of ring 3 are on the stack", caught.frame.cs << 16 | caught.frame.ss, (u64)USER_CODE << 16 | USER_DATA);
  check_value("gates: so is RSP", caught.frame.rsp, USER_STACK);
  FAULTS("gates: through a trap gate", user(user_int_trap, 0), VECTOR_TRAP_GATE, 0);
  u64 flags;
  /* A trap gate leaves IF, an interrupt gate clears it; both clear TF, NT, RF: SDM 3A 6.12.1.3. */
  static volatile u64 seen;
  extern const u8 note_flags[];
  __asm__ volatile(".pushsection .text.aside, \"ax\"\nnote_flags: pushfq; popq %0; iretq\n.popsection" : "=m"(seen));
  set_gate(0x63, (u64)note_flags, 0x8f, 0);
  set_gate(0x64, (u64)note_flags, 0x8e, 0);
  __asm__ volatile("pushfq; orq $0x4200, (%%rsp); popfq; int $0x63; pushfq; popq %0; pushq $2; popfq" : "=r"(flags) : : "memory");
  check_value("gates: a trap gate keeps IF and clears NT", seen & 0x4300, 0x200);
  check_value("gates: IRET brings both back", flags & 0x4200, 0x4200);
  __asm__ volatile("sti; int $0x64; cli" : : : "memory");
  check_value("gates: an interrupt gate clears IF", seen & 0x200, 0);
  idt[0x65 * 2] = idt[0x65 * 2 + 1] = 0;
  FAULTS("gates: an empty descriptor", __asm__ volatile("int $0x65"), GP, 0x65 * 8 + 2);
  set_gate(0x65, (u64)note_flags, 0x8e, 0);
  idt[0x65 * 2] = (idt[0x65 * 2] & ~0xffff0000ULL) | KERNEL_DATA << 16;
  FAULTS("gates: a gate to a data segment", __asm__ volatile("int $0x65"), GP, KERNEL_DATA);
  idt[0x65 * 2] = (idt[0x65 * 2] & ~0xffff0000ULL) | CODE_32 << 16;
  FAULTS("gates: a gate to a 32-bit segment", __asm__ volatile("int $0x65"), GP, CODE_32);
  struct { u16 limit; u64 base; } __attribute__((packed)) old, small;
  __asm__ volatile("sidt %0" : "=m"(old));
  small = old;
  small.limit = 0x50 * 16 - 1;
  __asm__ volatile("lidt %0" : : "m"(small));
  FAULTS("gates: a vector beyond the IDT's limit", __asm__ volatile("int $0x66"), GP, 0x66 * 8 + 2);
  __asm__ volatile("lidt %0" : : "m"(old));
}

static void segments(void) {
#define LOAD(segment, selector) __asm__ volatile("mov %0, %%" #segment : : "r"((u32)(selector)))
  FAULTS("segments: DS null", LOAD(ds, 0), NONE, 0);
  FAULTS("segments: DS beyond the GDT", LOAD(ds, 0x1000), GP, 0x1000);
  FAULTS("segments: DS from the LDT, which is null", LOAD(ds, 0x0c), GP, 0x0c);
  FAULTS("segments: DS with a TSS", LOAD(ds, TASK), GP, TASK);
  FAULTS("segments: SS with code", LOAD(ss, KERNEL_CODE), GP, KERNEL_CODE);
  FAULTS("segments: SS with RPL 3 in ring 0", LOAD(ss, USER_DATA), GP, USER_DATA & ~3);
  FAULTS("segments: SS null in 64-bit ring 0", LOAD(ss, 0), NONE, 0);
  LOAD(ss, KERNEL_DATA);
  LOAD(ds, KERNEL_DATA);
  FAULTS("segments: ring 3 loads SS with DPL 0", user(user_load_kernel_ss, 0), GP, KERNEL_DATA);
  FAULTS("segments: ring 3 loads DS with DPL 0", user(user_load_kernel_ds, 0), GP, KERNEL_DATA);
  FAULTS("segments: LTR of a busy TSS", __asm__ volatile("ltr %w0" : : "r"(TASK)), GP, TASK);
  FAULTS("segments: LTR of null", __asm__ volatile("ltr %w0" : : "r"(0)), GP, 0);
  if (caught.vector == (u32)NONE) load_task(); /* what follows needs one */
  FAULTS("segments: LLDT of a data segment", __asm__ volatile("lldt %w0" : : "r"(KERNEL_DATA)), GP, KERNEL_DATA);
  u32 value = 0;
  u8 zero;
#define ASK(instruction, selector) __asm__ volatile(instruction " %2, %0; setz %1" : "+r"(value), "=q"(zero) : "r"((u32)(selector)) : "cc")
  ASK("lar", KERNEL_CODE);
  check_value("segments: LAR of the code segment", zero ? value & 0x00f0ff00 : 0, 0x00a09b00);
  ASK("lsl", LIMITED_DATA);
  check_value("segments: LSL of the limited segment", zero ? value : ~0u, 15);
  ASK("lar", 0x1000);
  check_value("segments: LAR beyond the GDT clears ZF", zero, 0);
  __asm__ volatile("verw %w1; setz %0" : "=q"(zero) : "r"(KERNEL_CODE) : "cc");
  check_value("segments: VERW of code clears ZF", zero, 0);
}

static void returns(void) {
  /* IRETQ with a frame of the suite's own. */
#define IRET(ss, rsp, flags, cs, rip) \
  __asm__ volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq" : : "r"((u64)(ss)), "r"((u64)(rsp)), "r"((u64)(flags)), "r"((u64)(cs)), "r"((u64)(rip)) : "memory")
  FAULTS("iret: to a non-canonical RIP", IRET(KERNEL_DATA, USER_STACK, 2, KERNEL_CODE, 0x0000900000000000), GP, 0);
  FAULTS("iret: CS null", IRET(KERNEL_DATA, USER_STACK, 2, 0, USER_PAGE), GP, 0);
  FAULTS("iret: CS is data", IRET(KERNEL_DATA, USER_STACK, 2, KERNEL_DATA, USER_PAGE), GP, KERNEL_DATA);
  FAULTS("iret: to ring 3 with SS of ring 0", IRET(KERNEL_DATA, USER_STACK, 2, USER_CODE, USER_PAGE), GP, KERNEL_DATA);
  FAULTS("iret: to ring 3 with SS null", IRET(0, USER_STACK, 2, USER_CODE, USER_PAGE), GP, 0);
  FAULTS("iret: with NT set", __asm__ volatile("pushfq; orq $0x4000, (%%rsp); popfq; iretq" : : : "memory"), GP, 0);
  __asm__ volatile("pushq $2; popfq");
}

/* Far return to a 32-bit segment: its code runs with limits and 32-bit addresses. */
extern const u8 compat_entry[];
__asm__(".pushsection .text\n"
        ".code32\ncompat_entry:\n"
        "  inc %eax\n" /* 40h: a REX prefix in 64-bit mode */
        "  mov $0xfffffff0, %ebx\n"
        "  lea 0x20(%ebx), %ecx\n" /* wraps to 10h */
        "  mov $0x48, %dx\n"
        "  mov %edx, %es\n"
        "  cmp $1, %edi\n"
        "  je 1f\n"
        "  mov %es:0xc, %edx\n"
        "  jmp 2f\n"
        "1: mov %es:0xd, %edx\n"
        "2: mov $0x10, %edx\n"
        "  mov %edx, %es\n"
        "  ljmp $8, $3f\n"
        ".code64\n"
        "3: ret\n.popsection");

static void compatibility(void) {
  u64 eax = 0x1111111100000041, ecx = ~0ULL;
#define COMPAT(which) \
  __asm__ volatile("lea 9f(%%rip), %%rdx; push %%rdx; push $0x18; lea compat_entry(%%rip), %%rdx; push %%rdx; lretq; 9:" : "+a"(eax), "+c"(ecx) : "D"((u64)(which)) : "rbx", "rdx", "memory", "cc")
  FAULTS("compatibility mode: runs and comes back", COMPAT(0), NONE, 0);
  check_value("compatibility mode: 40h is INC EAX", (u32)eax, 0x42);
  check_value("compatibility mode: addresses wrap at 32 bits", (u32)ecx, 0x10);
  FAULTS("compatibility mode: a load over the segment's limit", COMPAT(1), GP, 0);
  check_value("compatibility mode: CS of the fault", caught.frame.cs, CODE_32);
  LOAD(es, KERNEL_DATA);
}

void protection_checks(void) {
  privileged_instructions();
  gates();
  segments();
  returns();
  compatibility();
}
