/* The processor as the 32-bit suite sees it: descriptors, the way to ring 3, and how an exception is caught. */
#pragma once
#include "../lib/suite.h"

enum { VECTOR_DONE = 0x80, VECTOR_TASK = 0x81 };
enum {
  CODE = 0x08, DATA = 0x10, USER_CODE = 0x1b, USER_DATA = 0x23, TASK = 0x28, OTHER_TASK = 0x30, CALL_GATE = 0x38, ABSENT_DATA = 0x40,
  LIMITED_DATA = 0x48, CONFORMING = 0x50, EXECUTE_ONLY = 0x58, EXPAND_DOWN = 0x60, ABSENT_GATE = 0x68, KERNEL_GATE = 0x70, TASK_GATE = 0x78, LDT = 0x80
};
extern u64 gdt[17];
#define TEST_PAGE 0x40000000u
/* SDM 3A 7.2.1 "Task-State Segment (TSS)". */
struct task {
  u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
  u16 trap, io_map;
  u8 ports[16];
} __attribute__((packed));
extern struct task task, other_task;

struct frame {
  u32 edi, esi, ebp, esp_unused, ebx, edx, ecx, eax;
  u32 gs, fs, es, ds;
  u32 vector, error;
  u32 eip, cs, eflags, esp, ss;
  u32 v86_es, v86_ds, v86_fs, v86_gs;
};
struct caught {
  u32 vector, error, cr2;
  struct frame frame;
};
#include "../lib/catch.h"
#define LOAD(segment, selector) __asm__ volatile("mov %0, %%" #segment : : "r"((u32)(selector)) : "memory")

static inline u32 load(u32 address) { u32 v; __asm__ volatile("mov (%1), %0" : "=r"(v) : "r"(address) : "memory"); return v; }
static inline void store(u32 address, u32 value) { __asm__ volatile("mov %1, (%0)" : : "r"(address), "r"(value) : "memory"); }
static inline void write_msr(u32 msr, u32 value) { __asm__ volatile("wrmsr" : : "c"(msr), "a"(value), "d"(0)); }
static inline u32 read_msr(u32 msr) { u32 low; __asm__ volatile("rdmsr" : "=a"(low) : "c"(msr) : "edx"); return low; }
struct leaf { u32 a, b, c, d; };
static inline struct leaf cpuid(u32 leaf) {
  struct leaf r;
  __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
  return r;
}

/* Runs code in ring 3 with EDI = argument; it ends with INT 80h or a fault. */
void user(const void *code, u32 argument);
#define SNIPPET(name, text) \
  extern const u8 name[];   \
  __asm__(".pushsection .text.snippets, \"ax\"\n" #name ":\n" text "\n int $0x80\n .popsection")
void set_gate(u32 vector, u32 handler, u32 type);
u32 stub_of(u32 vector);
void set_descriptor(u32 selector, u32 base, u32 limit, u32 access, u32 flags);
/* A task that counts, tells what it saw, and returns by IRET; again and again. */
void prepare_other_task(void);
extern volatile u32 other_task_runs, other_task_flags;

void paging_checks(void);
void segment_checks(void);
void gate_checks(void);
void task_checks(void);
/* A task with a CR3 of its own, in whose tables TEST_PAGE is another page: `there`, and not `here`. */
enum { TASK_SPACE_NAMES = 7 };
void task_space_checks(const char *const names[TASK_SPACE_NAMES], u32 cr3, volatile u32 *here, volatile u32 *there);
void virtual_8086_checks(void);
