/* GDT, TSS, IDT, ring 3 and the exception handler of the 64-bit suite. */
#include "machine.h"

u64 test_pdpt[512] __attribute__((aligned(4096)));
u64 test_pd[512] __attribute__((aligned(4096)));
u64 test_pt[512] __attribute__((aligned(4096)));
u64 frame_page[512] __attribute__((aligned(4096)));
volatile struct caught caught;
volatile u32 armed, interrupts, stepping, step_count;
volatile u64 interrupt_rip, steps[16];
void *resume[5];

static u8 ring0_stack[16384] __attribute__((aligned(16)));
static u8 ist_stack[8192] __attribute__((aligned(16)));
/* SDM 3A 7.7 "Task Management in 64-bit Mode": the 64-bit TSS. The I/O map follows: ports 0-7 are allowed, no more. */
static struct {
  u32 reserved0;
  u64 rsp[3], reserved1, ist[7], reserved2;
  u16 reserved3, io_map;
  u8 ports[3];
} __attribute__((packed)) tss;

static u64 new_gdt[10] __attribute__((aligned(16))) = {
    0,
    0x00af9b000000ffff, /* 08 kernel code, 64-bit */
    0x00cf93000000ffff, /* 10 kernel data */
    0x00cf9b000000ffff, /* 18 kernel code, 32-bit */
    0x00cffb000000ffff, /* 23 user code, 32-bit: SYSRET wants this order */
    0x00cff3000000ffff, /* 2b user data */
    0x00affb000000ffff, /* 33 user code, 64-bit */
    0, 0,               /* 38 task */
    0x000093000000000f, /* 48 data with a limit of 15 bytes, for 32-bit code */
};

__attribute__((target("general-regs-only"))) void interrupt(struct frame *frame) {
  if (frame->vector == VECTOR_IPI) {
    interrupts++;
    interrupt_rip = frame->rip;
    *(volatile u32 *)0xfee000b0 = 0;
    return;
  }
  if (frame->vector == DB && stepping) {
    if (step_count < 16) steps[step_count] = frame->rip;
    step_count++;
    caught.dr6 = READ(dr6);
    frame->rflags |= 0x10000; /* RF: go on past an instruction breakpoint */
    if (stepping == 2 || step_count >= 16) frame->rflags &= ~0x100ULL;
    return;
  }
  if (!armed) {
    put("unexpected ");
    put_event(frame->vector, frame->error);
    put(" at ");
    put_hex(frame->rip, 16);
    put(" CR2 ");
    put_hex(READ(cr2), 16);
    put("\n");
    leave(2);
  }
  armed = 0;
  caught.vector = frame->vector;
  caught.error = frame->error;
  caught.frame = *frame;
  caught.frame_address = (u64)&frame->rip;
  caught.cr2 = READ(cr2);
  caught.dr6 = READ(dr6);
  __asm__ volatile("mov %0, %%ss" : : "r"(KERNEL_DATA)); /* it is null after a change of privilege */
  __builtin_longjmp(resume, 1);
}

void set_gate(u32 vector, u64 handler, u32 type, u32 ist) {
  idt[vector * 2] = (handler & 0xffff) | KERNEL_CODE << 16 | (u64)ist << 32 | (u64)type << 40 | (handler & 0xffff0000) << 32;
  idt[vector * 2 + 1] = handler >> 32;
}

static u64 stub_of(u32 vector) { return (idt[vector * 2] & 0xffff) | (idt[vector * 2] >> 48 << 16); }

void self_ipi(u32 vector) {
  *(volatile u32 *)0xfee00300 = 0x44000 | vector; /* SDM 3A 10.6.1: shorthand self, assert */
}

void load_task(void) {
  new_gdt[7] &= ~(2ULL << 40);
  __asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");
}

void user(const void *snippet, u64 argument) {
  if (READ(cr4) >> 21 & 1) __asm__ volatile("stac"); /* SMAP: the copy is ours; IRETQ clears AC again */
  for (u32 i = 0; i < 256; i++) ((u8 *)USER_PAGE)[i] = ((const u8 *)snippet)[i];
  __asm__ volatile("pushq %0; pushq %1; pushq $0x202; pushq %2; pushq %3; mov %4, %%rdi; iretq"
                   : : "i"(USER_DATA), "r"(USER_STACK), "i"(USER_CODE), "r"(USER_PAGE), "r"(argument) : "rdi", "memory");
}

void kernel(u32 magic) {
  console_start();
  put("privileged behaviour in 64-bit mode\n");
  if (magic != 0x2badb002) leave(1);
  u64 base = (u64)&tss;
  tss.rsp[0] = (u64)(ring0_stack + sizeof ring0_stack);
  tss.ist[0] = (u64)(ist_stack + sizeof ist_stack);
  tss.io_map = 104;
  tss.ports[0] = 0;
  tss.ports[1] = tss.ports[2] = 0xff;
  new_gdt[7] = (sizeof tss - 1) | (base & 0xffffff) << 16 | 0x89ULL << 40 | (base >> 24 & 0xff) << 56;
  new_gdt[8] = base >> 32;
  struct { u16 limit; u64 base; } __attribute__((packed)) pointer = {sizeof new_gdt - 1, (u64)new_gdt};
  __asm__ volatile("lgdt %0" : : "m"(pointer));
  __asm__ volatile("lldt %w0" : : "r"(0));
  load_task();

  pml4[0] |= U;
  pdpt[0] |= U;
  directories[USER_PAGE >> 21] |= U;
  pml4[1] = (u64)test_pdpt | P | W | U;
  test_pdpt[0] = (u64)test_pd | P | W | U;
  test_pd[0] = (u64)test_pt | P | W | U;
  WRITE(cr3, pml4);

  set_gate(VECTOR_DONE, stub_of(VECTOR_DONE), 0xee, 0);
  set_gate(VECTOR_TRAP_GATE, stub_of(VECTOR_TRAP_GATE), 0xef, 0);
  set_gate(VECTOR_ABSENT, stub_of(VECTOR_ABSENT), 0x6e, 0);
  set_gate(BP, stub_of(BP), 0xee, 0);
  set_gate(DF, stub_of(DF), 0x8e, 1);
  *(volatile u32 *)0xfee000f0 = 0x1ff; /* APIC on */
  out8(0x21, 0xff), out8(0xa1, 0xff);

  paging_checks();
  protection_checks();
  exception_checks();
  system_call_checks();
  debug_checks();
  state_checks();
  interrupt_checks();
  control_register_checks();
  finish();
}
