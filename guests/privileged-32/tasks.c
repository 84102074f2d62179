/* SDM 3A 7.3 "Task Switching", table 7-1 and 7-2: by CALL, JMP, IRET and a task gate; links, busy bits, TS, faults. */
#include "machine.h"

enum { BUSY = 2, NT = 1 << 14, CR0_TS = 8 };
static u64 *idt_entry(u32 vector) {
  struct { u16 limit; u32 base; } __attribute__((packed)) pointer;
  __asm__("sidt %0" : "=m"(pointer));
  return (u64 *)pointer.base + vector;
}
static u32 access_of(u32 selector) { return gdt[selector / 8] >> 40 & 15; }

void task_checks(void) {
  __asm__ volatile("clts");
  prepare_other_task();
  check_value("task: ours is busy", access_of(TASK), 0xb);
  FAULTS("task: CALL of a TSS, and IRET back", __asm__ volatile("lcall $0x30, $0" : : : "memory"), NONE, 0);
  check_value("task: the other one ran", other_task_runs, 1);
  check_value("task: with NT set", other_task_flags & NT, NT);
  check_value("task: its link named ours", other_task.link & 0xffff, TASK);
  check_value("task: it is not busy any more", access_of(OTHER_TASK), 0x9);
  check_value("task: CR0.TS is set", READ(cr0) & CR0_TS, CR0_TS);
  check_value("task: its registers were saved: EIP is behind its IRET", other_task.eax, 0x1111);
  FAULTS("task: x87 after a switch", __asm__ volatile("fldz"), NM, 0);
  __asm__ volatile("clts");
  FAULTS("task: CALL again goes on behind the IRET", __asm__ volatile("lcall $0x30, $0" : : : "memory"), NONE, 0);
  check_value("task: the other one ran again", other_task_runs, 2);
  FAULTS("task: JMP to our own, busy one", __asm__ volatile("ljmp $0x28, $0"), GP, TASK);
  gdt[TASK_GATE / 8] = (u64)OTHER_TASK << 16 | (u64)0x85 << 40;
  FAULTS("task: CALL through a task gate in the GDT", __asm__ volatile("lcall $0x78, $0" : : : "memory"), NONE, 0);
  check_value("task: runs", other_task_runs, 3);

  *idt_entry(VECTOR_TASK) = (u64)OTHER_TASK << 16 | (u64)0x85 << 40;
  FAULTS("task: INT n through a task gate in the IDT", __asm__ volatile("int $0x81" : : : "memory"), NONE, 0);
  check_value("task: runs", other_task_runs, 4);

  gdt[OTHER_TASK / 8] &= ~(0x80ULL << 40);
  FAULTS("task: TSS not present", __asm__ volatile("lcall $0x30, $0"), NP, OTHER_TASK);
  gdt[OTHER_TASK / 8] |= 0x80ULL << 40;
  set_descriptor(OTHER_TASK, (u32)&other_task, 0x66, 0x89, 0);
  FAULTS("task: TSS with a limit below 67h", __asm__ volatile("lcall $0x30, $0"), TS, OTHER_TASK);
  prepare_other_task();
  const u32 runs = other_task_runs;
  *idt_entry(VECTOR_TASK) = (u64)DATA << 16 | (u64)0x85 << 40;
  FAULTS("task: a task gate to what is no TSS", __asm__ volatile("int $0x81"), GP, DATA);
  check_value("task: nothing ran", other_task_runs, runs);
  __asm__ volatile("clts");
}

/* What the task with its own tables does: reads through its LDT and its test page; or takes an error code and lets ours go on. */
extern const u8 space_code[], space_fault_code[];
static volatile u32 space_saw;
__asm__(".pushsection .text.snippets, \"ax\"\n"
        "space_code: mov %gs:0x40000008, %eax; mov %eax, space_saw; iret; jmp space_code\n"
        "space_fault_code: pop %eax; mov %eax, space_saw; addl $2, task+32; iret; jmp space_fault_code\n.popsection");

void task_space_checks(const char *const names[TASK_SPACE_NAMES], u32 cr3, volatile u32 *here, volatile u32 *there) {
  enum { HERE = 0x1111, THERE = 0x2222, NO_SELECTOR = 0xfff8, LAST = 1023 };
  task.cr3 = READ(cr3);
  here[0] = here[1] = here[LAST] = 0;
  here[2] = HERE;
  there[0] = 0x0000ffff; /* the LDT: flat data, not accessed yet */
  there[1] = 0x00cf9200;
  there[2] = THERE;
  set_descriptor(LDT, TEST_PAGE, 7, 0x82, 0);
  prepare_other_task();
  other_task.cr3 = cr3;
  other_task.ldt = LDT;
  other_task.gs = 4;
  other_task.esp = TEST_PAGE + 4096;
  other_task.eip = (u32)space_code;
  space_saw = 0;
  FAULTS(names[0], __asm__ volatile("lcall $0x30, $0" : : : "memory"), NONE, 0);
  check_value(names[1], space_saw, THERE);
  check_value(names[2], there[1] >> 8 & 1, 1);
  check_value(names[3], load(TEST_PAGE + 8), HERE);

  u64 *const gate = idt_entry(GP);
  const u64 handler = *gate;
  *gate = (u64)OTHER_TASK << 16 | (u64)0x85 << 40;
  other_task.eip = (u32)space_fault_code;
  FAULTS(names[4], __asm__ volatile("mov %0, %%fs" : : "r"(NO_SELECTOR) : "memory"), NONE, 0);
  *gate = handler;
  check_value(names[5], space_saw, NO_SELECTOR);
  check_value(names[6], there[LAST] << 16 | here[LAST], (u32)NO_SELECTOR << 16);
}
