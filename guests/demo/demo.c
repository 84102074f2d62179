/*
 * The guest that `npm start` shows: enters 64-bit mode (lib/long-mode.S), takes exceptions and timer interrupts, and
 * runs workloads whose results are known from a real processor. One line a check; status 0 if all are right.
 */
#include "../lib/console.h"
#include "../lib/frame.h"
#include "workloads.h"

enum { PIC1 = 0x20, PIC2 = 0xa0, PIC_EOI = 0x20, PIT_CHANNEL0 = 0x40, PIT_COMMAND = 0x43, PIT_HZ = 1193182 };
enum { VECTOR_PIC = 0x20, VECTOR_APIC_TIMER = 0x40, VECTOR_SPURIOUS = 0xff };
enum { BREAKPOINT = 3, PAGE_FAULT = 14 };

static volatile u32 pit_ticks, apic_ticks, breakpoints, page_faults;
static volatile u64 fault_address, fault_error;
static u32 wrong;

/* Local APIC registers: SDM 3A 10.4.1 "The Local APIC Block Diagram". */
static volatile u32 *const apic = (volatile u32 *)0xfee00000;
enum { APIC_EOI = 0xb0 / 4, APIC_SVR = 0xf0 / 4, APIC_TIMER = 0x320 / 4, APIC_COUNT = 0x380 / 4, APIC_DIVIDE = 0x3e0 / 4 };

__attribute__((target("general-regs-only"))) void interrupt(struct frame *frame) {
  switch (frame->vector) {
    case BREAKPOINT:
      breakpoints++;
      return;
    case PAGE_FAULT:
      page_faults++;
      __asm__ volatile("mov %%cr2, %0" : "=r"(fault_address));
      fault_error = frame->error;
      frame->rip = frame->rbx; /* the check put the place to go on there */
      return;
    case VECTOR_PIC:
      pit_ticks++;
      out8(PIC1, PIC_EOI);
      return;
    case VECTOR_APIC_TIMER:
      apic_ticks++;
      apic[APIC_EOI] = 0;
      return;
    case VECTOR_SPURIOUS:
      return;
  }
  put("unexpected exception ");
  put_decimal(frame->vector);
  put(", error ");
  put_hex(frame->error, 4);
  put(", at ");
  put_hex(frame->rip, 16);
  put("\n");
  leave(2);
}

static void verdict(int right) {
  put(right ? " ok\n" : " WRONG\n");
  if (!right) wrong++;
}

static void exceptions(void) {
  __asm__ volatile("int3");
  put("exceptions: breakpoint");
  verdict(breakpoints == 1);

  u64 address = 1ULL << 32; /* the identity map ends here */
  __asm__ volatile("lea 1f(%%rip), %%rbx\n mov %%rax, (%0)\n1:" : : "r"(address) : "rbx", "memory");
  put("exceptions: page fault on a write at 4 GiB");
  verdict(page_faults == 1 && fault_address == address && fault_error == 2);
}

static void pit(void) {
  static const u8 set_up[][2] = {{PIC1, 0x11}, {PIC2, 0x11}, {PIC1 + 1, VECTOR_PIC}, {PIC2 + 1, VECTOR_PIC + 8}, {PIC1 + 1, 4},
                                 {PIC2 + 1, 2}, {PIC1 + 1, 1}, {PIC2 + 1, 1}, {PIC1 + 1, 0xfe}, {PIC2 + 1, 0xff}};
  for (u32 i = 0; i < sizeof set_up / 2; i++) out8(set_up[i][0], set_up[i][1]);
  const u32 divisor = PIT_HZ / 1000;
  out8(PIT_COMMAND, 0x34); /* channel 0, both bytes, mode 2 */
  out8(PIT_CHANNEL0, divisor & 255);
  out8(PIT_CHANNEL0, divisor >> 8);
  while (pit_ticks < 10) __asm__ volatile("sti; hlt; cli");
  out8(PIC1 + 1, 0xff);
  put("timer: 10 interrupts of the PIT through the PIC");
  verdict(pit_ticks == 10);
}

static void apic_timer(void) {
  apic[APIC_SVR] = 0x100 | VECTOR_SPURIOUS;
  apic[APIC_DIVIDE] = 3;                      /* by 16 */
  apic[APIC_TIMER] = 1 << 17 | VECTOR_APIC_TIMER; /* periodic */
  apic[APIC_COUNT] = 10000;
  while (apic_ticks < 10) __asm__ volatile("sti; hlt; cli");
  apic[APIC_TIMER] = 1 << 16;
  put("timer: 10 interrupts of the local APIC's timer");
  verdict(apic_ticks == 10);
}

void kernel(u32 magic) {
  console_start();
  put("terrarium demo: a guest in 64-bit mode\n");
  if (magic != 0x2badb002) {
    put("started by no Multiboot loader\n");
    leave(1);
  }
  exceptions();
  pit();
  apic_timer();
  for (int i = 0; i < workload_count; i++) {
    u64 result = workloads[i].run();
    put(workloads[i].name);
    put(": ");
    put_hex(result, 16);
    verdict(result == workloads[i].expected);
  }
  if (wrong) {
    put_decimal(wrong);
    put(" results are WRONG\n");
  } else {
    put("all results are right\n");
  }
  leave(wrong ? 1 : 0);
}
