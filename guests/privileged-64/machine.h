/* The processor as the 64-bit suite sees it: registers, the way to ring 3, and how an exception is caught. */
#pragma once
#include "../lib/frame.h"
#include "../lib/suite.h"

enum { VECTOR_DONE = 0x80, VECTOR_IPI = 0x51, VECTOR_KERNEL_ONLY = 0x60, VECTOR_TRAP_GATE = 0x61, VECTOR_ABSENT = 0x62 };
enum { KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, CODE_32 = 0x18, USER_CODE_32 = 0x23, USER_DATA = 0x2b, USER_CODE = 0x33, TASK = 0x38, LIMITED_DATA = 0x48 };

/* 16 MiB: the 2 MiB that ring 3 may use. */
#define USER_PAGE 0x1000000UL
#define USER_STACK (USER_PAGE + 0x1ff000)
#define USER_VARIABLES ((volatile u64 *)(USER_PAGE + 0x100000))
/* Linear addresses with page tables of the suite's own: PML4 slot 1. */
#define TEST_PAGE 0x8000000000UL

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, LARGE = 0x80, G = 0x100 };
#define NX (1UL << 63)

extern u64 pml4[512], pdpt[512], directories[2048], idt[512];
extern u64 test_pdpt[512], test_pd[512], test_pt[512], frame_page[512];

struct caught {
  u32 vector;
  u64 error, cr2, dr6;
  struct frame frame;
  u64 frame_address; /* of the processor's part: RIP and what is above */
};
#include "../lib/catch.h"

static inline u64 read_msr(u32 msr) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return (u64)high << 32 | low;
}
static inline void write_msr(u32 msr, u64 value) {
  __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
struct leaf { u32 a, b, c, d; };
static inline struct leaf cpuid(u32 leaf, u32 sub) {
  struct leaf r;
  __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
  return r;
}
static inline void invlpg(u64 address) { __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory"); }
static inline u64 load(u64 address) { u64 v; __asm__ volatile("mov (%1), %0" : "=r"(v) : "r"(address) : "memory"); return v; }
static inline void store(u64 address, u64 value) { __asm__ volatile("mov %1, (%0)" : : "r"(address), "r"(value) : "memory"); }
static inline void call_at(u64 address) { __asm__ volatile("call *%0" : : "r"(address) : "memory", "rax", "rcx", "r11"); }

/* Copies the snippet to the user's page and runs it in ring 3, with RDI = argument. It ends with INT 80h or a fault. */
void user(const void *snippet, u64 argument);
/* Ring-3 code between two labels; position-independent, because it is copied. */
#define SNIPPET(name, text) \
  extern const u8 name[];   \
  __asm__(".pushsection .text\n" #name ":\n" text "\n int $0x80\n .skip 16, 0x90\n .popsection")

void set_gate(u32 vector, u64 handler, u32 type, u32 ist);
void self_ipi(u32 vector);
/* LTR of the suite's TSS, busy or not. */
void load_task(void);
extern volatile u32 interrupts;
extern volatile u64 interrupt_rip;
/* #DB is counted and returned from while set: the RIPs come to steps[]. */
extern volatile u32 stepping, step_count;
extern volatile u64 steps[16];

void paging_checks(void);
void protection_checks(void);
void exception_checks(void);
void system_call_checks(void);
void debug_checks(void);
void state_checks(void);
void interrupt_checks(void);
void control_register_checks(void);
