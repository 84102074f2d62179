/*
 * A small L1 hypervisor and its L2s: each scenario drives round trips of one kind and checks what L2 saw.
 * Command line: trips=N round trips each (1000), only=NAME one scenario, cycles TSC ticks per round trip as well, marks=N a
 * line after every N round trips of a plain loop, from which a host can take its own time.
 */
#include "../lib/frame.h"
#include "hypervisor.h"

void l2_cpuid(void), l2_vmcall(void), l2_port(void), l2_touch(void), l2_functions(void), l2_spin(void), l2_read(void);
void l2_halt(void), l2_pae(void);
extern char l2_real[], l2_real_end[];

static u32 trips = 1000, marks;
static const char *only;
static int shows_cycles;
static volatile u64 switched[4][512] __attribute__((aligned(4096)));

void interrupt(struct frame *f) { give_up("an exception in L1, vector", f->vector); }

static int equal(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b || (!*a && *b == ' ');
}

static void want(const char *what, u64 got, u64 wanted) {
  if (got == wanted) return;
  put("  ");
  put(what);
  put(": ");
  put_hex(got, 16);
  put(", wanted ");
  put_hex(wanted, 16);
  put("\n");
  leave(1);
}

static void report(const char *name, u32 count, u64 ticks) {
  put(name);
  put(": ");
  put_decimal(count);
  put(" round trips");
  if (shows_cycles) {
    put(", ");
    put_decimal((u32)(ticks / count));
    put(" ticks each");
  }
  put("\n");
}

/* L2 executes one instruction over and over that exits for `reason`. */
static void loop(const char *name, struct vm *vm, u32 reason, u32 per_round) {
  u64 start = rdtsc();
  for (u32 i = 0; i < trips; i++) {
    want("exit reason", vm_run(vm), reason);
    vm_skip();
    if (marks && (i + 1) % marks == 0) put("nested-vmx: mark\n");
  }
  u64 ticks = rdtsc() - start;
  want("rounds that L2 counted", (u32)vm->registers[RBP] & 0xffff, ((trips - 1) / per_round) & 0xffff);
  report(name, trips, ticks);
}

static void ept_vm(struct vm *vm, void (*code)(void), int which, u64 vpid) {
  vm_create(vm, code, (uptr)l2_pml4);
  secondary_controls(vm, SECONDARY_ENABLE_EPT | (vpid ? SECONDARY_ENABLE_VPID : 0));
  vmwrite(EPT_POINTER, ept_identity(which));
  vmwrite(VPID, vpid);
}

static struct vm one, two;

static void ept_cpuid(void) { ept_vm(&one, l2_cpuid, 0, 1); loop("EPT and VPID, CPUID", &one, EXIT_CPUID, 1); }
static void ept_vmcall(void) { ept_vm(&one, l2_vmcall, 0, 1); loop("EPT and VPID, VMCALL", &one, EXIT_VMCALL, 1); }
static void ept_port(void) { ept_vm(&one, l2_port, 0, 1); loop("EPT and VPID, port I/O", &one, EXIT_IO, 2); }
static void ept_only(void) { ept_vm(&one, l2_cpuid, 0, 0); loop("EPT without VPID, CPUID", &one, EXIT_CPUID, 1); }

static void plain(void) {
  vm_create(&one, l2_cpuid, (uptr)l2_pml4);
  secondary_controls(&one, 0);
  loop("neither EPT nor VPID, CPUID", &one, EXIT_CPUID, 1);
}

static void vpid_only(void) {
  vm_create(&one, l2_cpuid, (uptr)l2_pml4);
  secondary_controls(&one, SECONDARY_ENABLE_VPID);
  vmwrite(VPID, 3);
  loop("VPID without EPT, CPUID", &one, EXIT_CPUID, 1);
}

static void pae(void) {
  vm_create(&one, l2_cpuid, (uptr)l2_pml4);
  secondary_controls(&one, 0);
  to_pae(&one, l2_pae, (uptr)pae_pdpt, pae_pdpt);
  loop("PAE paging without EPT, CPUID", &one, EXIT_CPUID, 1);
}

static void pae_ept(void) {
  ept_vm(&one, l2_cpuid, 0, 4);
  to_pae(&one, l2_pae, 0, pae_pdpt);
  loop("PAE paging with EPT, CPUID", &one, EXIT_CPUID, 1);
}

static void real_mode(void) {
  enum { SEGMENT = 0x0800 };
  u8 *place = (u8 *)(uptr)(SEGMENT << 4);
  __asm__("" : "+r"(place));
  for (char *from = l2_real; from != l2_real_end; from++) *place++ = (u8)*from;
  ept_vm(&one, l2_cpuid, 0, 5);
  secondary_controls(&one, SECONDARY_ENABLE_EPT | SECONDARY_ENABLE_VPID | SECONDARY_UNRESTRICTED_GUEST);
  to_real_mode(&one, SEGMENT);
  u64 start = rdtsc();
  for (u32 i = 0; i < trips; i++) {
    want("exit reason", vm_run(&one), EXIT_VMCALL);
    want("BP of L2", one.registers[RBP] & 0xffff, (i + 1) & 0xffff);
    vm_skip();
  }
  report("real mode (unrestricted), VMCALL", trips, rdtsc() - start);
}

/* L2 writes to pages that L1 maps when it hears of them, and takes away again. */
static void touch(void) {
  ept_vm(&one, l2_touch, 0, 1);
  vmwrite(EPT_POINTER, ept_identity(0) | EPTP_ACCESSED_DIRTY);
  one.registers[RSI] = TOUCHED;
  one.registers[RDX] = TOUCH_PAGES;
  u32 violations = 0, rounds = 0;
  u64 start = rdtsc();
  while (violations < trips) {
    u32 reason = vm_run(&one);
    if (reason == EXIT_EPT_VIOLATION) {
      u64 address = vmread(GUEST_PHYSICAL_ADDRESS);
      want("address of the violation", address, TOUCHED + 4096ull * (violations % TOUCH_PAGES));
      want("qualification", vmread(EXIT_QUALIFICATION) & 0x1bf, 0x182);
      ept_map(0, address, (uptr)touch_frames[violations % TOUCH_PAGES], EPT_ALL);
      violations++;
      continue;
    }
    want("exit reason", reason, EXIT_VMCALL);
    vm_skip();
    for (u32 i = 0; i < TOUCH_PAGES; i++) {
      u64 entry = *ept_leaf(0, TOUCHED + 4096ull * i);
      want("accessed and dirty", entry & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED | EPT_DIRTY);
      want("what L2 wrote", *(u64 *)touch_frames[i], (u64)rounds * TOUCH_PAGES + i);
      ept_map(0, TOUCHED + 4096ull * i, 0, 0);
    }
    rounds++;
    if (invept(1, ept_identity(0) | EPTP_ACCESSED_DIRTY)) give_up("INVEPT failed", 0);
  }
  report("page touching, EPT violation", violations, rdtsc() - start);
  for (u32 i = 0; i < TOUCH_PAGES; i++) ept_map(0, TOUCHED + 4096ull * i, 0, 0);
  invept(2, 0);
}

/* EPTs 0 to 3 map the same address to pages of their own. */
static void map_switched(void) {
  for (int i = 0; i < 4; i++) {
    switched[i][0] = 1ull << (16 * i);
    ept_map(i, TOUCHED, (uptr)switched[i], EPT_ALL);
  }
}

static u64 eptp_list[512] __attribute__((aligned(4096)));

static void functions(void) {
  map_switched();
  ept_vm(&one, l2_functions, 0, 1);
  secondary_controls(&one, SECONDARY_ENABLE_EPT | SECONDARY_ENABLE_VPID | SECONDARY_ENABLE_VM_FUNCTIONS);
  for (int i = 0; i < 4; i++) eptp_list[i] = ept_identity(i);
  vmwrite(EPTP_LIST_ADDRESS, (uptr)eptp_list);
  vmwrite(VM_FUNCTION_CONTROLS, 1);
  u32 switches = trips & ~3u;
  one.registers[RSI] = TOUCHED;
  one.registers[RDX] = switches;
  u64 start = rdtsc();
  want("exit reason", vm_run(&one), EXIT_VMCALL);
  u64 ticks = rdtsc() - start;
  want("sum of the four pages", one.registers[R8], switches / 4 * 0x0001000100010001ull);
  report("EPTP switching (VMFUNC)", switches, ticks);
  /* Beyond the list, and a leaf that does not exist: exits */
  vm_skip();
  one.registers[RDX] = 0;
  eptp_list[0] = 0;
  want("exit reason", vm_run(&one), EXIT_VMFUNC);
}

/* Two L2s with EPT and VPID of their own, in turn. */
static void alternate(void) {
  map_switched();
  ept_vm(&one, l2_read, 0, 1);
  one.registers[RSI] = TOUCHED;
  ept_vm(&two, l2_read, 1, 2);
  two.registers[RSI] = TOUCHED;
  u64 start = rdtsc();
  for (u32 i = 0; i < trips; i++) {
    struct vm *vm = i & 1 ? &two : &one;
    want("exit reason", vm_run(vm), EXIT_VMCALL);
    vm_skip();
    want("what L2 read", vm->registers[R8], switched[i & 1][0]);
  }
  report("two L2s in turn, VMCALL", trips, rdtsc() - start);
}

/* L1 changes where a page is, invalidates, and L2 must see it. */
static void invalidate(void) {
  map_switched();
  ept_vm(&one, l2_read, 0, 1);
  one.registers[RSI] = TOUCHED;
  u64 start = rdtsc();
  for (u32 i = 0; i < trips; i++) {
    ept_map(0, TOUCHED, (uptr)switched[i & 3], EPT_READ);
    if (i & 1 ? invept(2, 0) : invept(1, ept_identity(0))) give_up("INVEPT failed", 0);
    if (invvpid(i & 3, i & 2 ? 1 : 1, TOUCHED)) give_up("INVVPID failed", i);
    want("exit reason", vm_run(&one), EXIT_VMCALL);
    vm_skip();
    want("what L2 read", one.registers[R8], switched[i & 3][0]);
  }
  report("INVEPT and INVVPID, VMCALL", trips, rdtsc() - start);
}

static void preemption(void) {
  ept_vm(&one, l2_spin, 0, 1);
  vmwrite(PIN_CONTROLS, vmread(PIN_CONTROLS) | PIN_PREEMPTION_TIMER);
  u32 shift = rdmsr(0x485) & 31, few = trips / 10;
  u64 start = rdtsc();
  for (u32 i = 0; i < few; i++) {
    u64 before = rdtsc();
    vmwrite(PREEMPTION_TIMER_VALUE, 100);
    want("exit reason", vm_run(&one), EXIT_PREEMPTION_TIMER);
    if ((rdtsc() - before) >> shift < 99) give_up("the timer was early", rdtsc() - before);
  }
  report("VMX-preemption timer", few, rdtsc() - start);
}

static void halt(void) {
  ept_vm(&one, l2_halt, 0, 1);
  u64 start = rdtsc();
  for (u32 i = 0; i < trips; i++) {
    want("exit reason", vm_run(&one), i & 1 ? EXIT_VMCALL : EXIT_HLT);
    vm_skip();
  }
  report("HLT and VMCALL", trips, rdtsc() - start);
}

static const struct {
  const char *name;
  void (*run)(void);
} scenarios[] = {
    {"ept-cpuid", ept_cpuid}, {"ept-vmcall", ept_vmcall}, {"ept-port", ept_port},   {"ept-only", ept_only},
    {"plain", plain},         {"vpid-only", vpid_only},   {"pae", pae},             {"pae-ept", pae_ept},
    {"real", real_mode},      {"touch", touch},           {"functions", functions}, {"alternate", alternate},
    {"invalidate", invalidate}, {"preemption", preemption}, {"halt", halt},
};

/* `at` begins with `name`: the number behind it. */
static void number_of(const char *name, const char *at, u32 *into) {
  while (*name && *name == *at) name++, at++;
  if (*name) return;
  for (*into = 0; *at >= '0' && *at <= '9'; at++) *into = 10 * *into + (u32)(*at - '0');
}

/* Multiboot Specification 3.3: flag 2 says that the command line's address is at 16. */
static void options(const u32 *info) {
  if (!(info[0] & 4)) return;
  for (const char *c = (const char *)(uptr)info[4]; *c; c++) {
    if (equal("cycles", c)) shows_cycles = 1;
    if (c[0] == 'o' && c[1] == 'n' && c[2] == 'l' && c[3] == 'y' && c[4] == '=') only = c + 5;
    number_of("trips=", c, &trips);
    number_of("marks=", c, &marks);
  }
}

void kernel(u32 magic, const u32 *info) {
  (void)magic;
  console_start();
  options(info);
  if (vmx_start()) {
    put("nested-vmx: this processor has no VMX\n");
    leave(2);
  }
  tables_start();
  for (u32 i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    if (!only || equal(scenarios[i].name, only)) scenarios[i].run();
  }
  vmx_stop();
  put("nested-vmx: done\n");
  leave(0);
}
