/* GDT, IDT, TSSs, ring 3 and the exception handler of the 32-bit suite. */
#include "machine.h"

u64 gdt[17] __attribute__((aligned(16))) = {
    [CODE / 8] = 0x00cf9b000000ffff,
    [DATA / 8] = 0x00cf93000000ffff,
    [USER_CODE / 8] = 0x00cffb000000ffff,
    [USER_DATA / 8] = 0x00cff3000000ffff,
    [ABSENT_DATA / 8] = 0x00cf13000000ffff,
    [LIMITED_DATA / 8] = 0x0040f3000000000f, /* of ring 3, which ring 0 may use too */
    [CONFORMING / 8] = 0x00cf9f000000ffff,
    [EXECUTE_ONLY / 8] = 0x00cf99000000ffff,
    [EXPAND_DOWN / 8] = 0x0040970000000fff, /* offsets from 1000h up are inside */
};
static u64 idt[256] __attribute__((aligned(16)));
struct task task, other_task;
volatile struct caught caught;
volatile u32 armed, other_task_runs, other_task_flags;
void *resume[5];
static u8 ring0_stack[8192] __attribute__((aligned(16)));
static u8 user_stack[8192] __attribute__((aligned(16)));
static u8 task_stack[8192] __attribute__((aligned(16)));
extern const u8 stubs[];

void interrupt(struct frame *frame) {
  if (!armed) {
    put("unexpected ");
    put_event(frame->vector, frame->error);
    put(" at ");
    put_hex(frame->eip, 8);
    put(" CR2 ");
    put_hex(READ(cr2), 8);
    put("\n");
    leave(2);
  }
  armed = 0;
  caught.vector = frame->vector;
  caught.error = frame->error;
  caught.cr2 = READ(cr2);
  caught.frame = *frame;
  LOAD(fs, DATA);
  LOAD(gs, DATA);
  __builtin_longjmp(resume, 1);
}

u32 stub_of(u32 vector) { return (u32)stubs + 16 * vector; }

void set_gate(u32 vector, u32 handler, u32 type) {
  idt[vector] = (handler & 0xffff) | CODE << 16 | (u64)type << 40 | (u64)(handler & 0xffff0000) << 32;
}

void set_descriptor(u32 selector, u32 base, u32 limit, u32 access, u32 flags) {
  gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

void user(const void *code, u32 argument) {
  __asm__ volatile("mov %0, %%eax; mov %%eax, %%ds; mov %%eax, %%es; push %%eax; push %1; push $2; push %2; push %3; mov %4, %%edi; iret"
                   : : "i"(USER_DATA), "r"(user_stack + sizeof user_stack), "i"(USER_CODE), "r"(code), "r"(argument) : "eax", "edi", "memory");
}

/* The other task: entered with its own registers; counts, notes EFLAGS, and goes back by IRET with NT set. */
extern const u8 other_task_code[];
__asm__(".pushsection .text.snippets, \"ax\"\n"
        "other_task_code: pushf; popl other_task_flags; incl other_task_runs; iret; jmp other_task_code\n.popsection");

void prepare_other_task(void) {
  u8 *bytes = (u8 *)&other_task;
  for (u32 i = 0; i < sizeof other_task; i++) bytes[i] = 0;
  other_task.cr3 = READ(cr3);
  other_task.eip = (u32)other_task_code;
  other_task.eflags = 2;
  other_task.eax = 0x1111;
  other_task.esp = (u32)(task_stack + sizeof task_stack);
  other_task.cs = CODE;
  other_task.ss = other_task.ds = other_task.es = other_task.fs = other_task.gs = DATA;
  other_task.io_map = sizeof other_task;
  set_descriptor(OTHER_TASK, (u32)&other_task, sizeof other_task - 1, 0x89, 0);
}

void kernel(u32 magic) {
  console_start();
  put("privileged behaviour in 32-bit protected mode\n");
  if (magic != 0x2badb002) leave(1);
  for (u32 i = 0; i < 256; i++) set_gate(i, stub_of(i), 0x8e);
  set_gate(VECTOR_DONE, stub_of(VECTOR_DONE), 0xee);
  set_gate(BP, stub_of(BP), 0xee);
  set_gate(OF, stub_of(OF), 0xee);
  struct { u16 limit; u32 base; } __attribute__((packed)) pointer = {sizeof idt - 1, (u32)idt};
  __asm__ volatile("lidt %0" : : "m"(pointer));
  task.esp0 = (u32)(ring0_stack + sizeof ring0_stack);
  task.ss0 = DATA;
  task.io_map = 104;
  task.ports[1] = 0xff; /* ports 8-15 denied */
  for (u32 i = 2; i < sizeof task.ports; i++) task.ports[i] = 0xff;
  set_descriptor(TASK, (u32)&task, sizeof task - 1, 0x89, 0);
  __asm__ volatile("lldt %w0; ltr %w1" : : "r"(0), "r"(TASK));

  segment_checks();
  gate_checks();
  task_checks();
  virtual_8086_checks();
  paging_checks();
  finish();
}
