/**
 * Changes of a guest's memory map while the guest runs: what it wrote must be there whatever is done under it.
 *
 * counted  the guest adds 1 to each of these pages in every pass; where there is no memory slot, or a read-only one,
 *          KVM asks this program instead (KVM_EXIT_MMIO), which does the same access
 * given    the guest writes the number of the pass to each; this program gives these pages back (MADV_DONTNEED)
 *
 * Source   Linux, Documentation/virt/kvm/api.rst 4.35 "KVM_SET_USER_MEMORY_REGION", 4.8 "KVM_GET_DIRTY_LOG".
 */
#include "vmm.h"

#define RAM_BYTES 0x200000ul
#define CODE 0x1000
#define TABLES 0x4000
/** Cells in RAM that guest and this program share; memory-guest.S knows them too. */
#define STOP 0x500
#define HOME 0x508
#define PASSES 0x510
#define COUNTED 32ul
#define PAGES (2 * COUNTED)
#define BYTES (PAGES * 0x1000)
#define SLOT 1
#define STEP_NS 2000000
#define MADV_DONTNEED 4
#define MADV_MERGEABLE 12
#define MADV_PAGEOUT 21

extern const u8 count_64[], end_count_64[];

static const u64 homes[2] = {0x40000000, 0x50000000};
static Vm vm;
static Vcpu vcpu;
static Lock content; /* over `memory` while it moves */
static u8 *memory;
static volatile u64 asked_reads, asked_writes, ended;

static void run_guest(void *unused) {
  (void)unused;
  struct kvm_run *run = vcpu.run;
  for (;;) {
    u32 reason = enter(&vcpu);
    if (reason == KVM_EXIT_IO && run->io.port == 0x10) break;
    u64 at = run->mmio.phys_addr;
    u64 offset = at - homes[at >= homes[1]];
    if (reason != KVM_EXIT_MMIO || at < homes[0] || offset >= BYTES) {
      print_state(&vcpu);
      fail("memory: the guest left with address %x", at);
    }
    lock(&content);
    if (run->mmio.is_write) memcpy(memory + offset, run->mmio.data, run->mmio.len), asked_writes++;
    else memcpy(run->mmio.data, memory + offset, run->mmio.len), asked_reads++;
    unlock(&content);
  }
  ended = 1;
  for (;;) SYS(__NR_pause);
}

static void set_slot(u64 home, u64 bytes, u32 flags) {
  struct kvm_userspace_memory_region region = {
      .slot = SLOT, .flags = flags, .guest_phys_addr = home, .memory_size = bytes, .userspace_addr = (u64)memory};
  must_ioctl(vm.vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

static void sleep_ns(u64 ns) {
  u64 time[2] = {ns / 1000000000, ns % 1000000000};
  SYS(__NR_nanosleep, time, 0);
}

static volatile u64 *cell(u64 at) { return (volatile u64 *)(vm.ram + at); }

/** Until the guest has begun and ended a pass since. @returns  Whether it did within two seconds. */
static int lets_it_run(void) {
  u64 from = *cell(PASSES);
  for (int i = 0; i < 1000; i++) {
    sleep_ns(STEP_NS);
    if (*cell(PASSES) >= from + 2) return 1;
  }
  return 0;
}

static u64 dirty_pages(Vm *of, u32 slot, u64 bytes, u64 *bitmap) {
  struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
  must_ioctl(of->vm, KVM_GET_DIRTY_LOG, &log, "KVM_GET_DIRTY_LOG");
  u64 count = 0;
  for (u64 i = 0; i < bytes / 0x1000; i++) count += bitmap[i / 64] >> i % 64 & 1;
  return count;
}

static int wrong;
static void expect(int right, const char *what) {
  if (!right) print("WRONG: %s\n", what), wrong++;
}

int memory_map(u64 rounds) {
  open_vm(&vm, RAM_BYTES, 1, 0);
  open_vcpu(&vm, &vcpu, 0);
  struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[2];
  } cpuid = {.head.nent = 2, .entries = {{.function = 0x80000000, .eax = 0x80000001},
                                         {.function = 0x80000001, .edx = 1 << 29}}};
  must_ioctl(vcpu.fd, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
  set_mode(&vcpu, MODE_LONG, TABLES);
  memcpy(vm.ram + CODE, count_64, (u64)(end_count_64 - count_64));
  memory = allocate(BYTES);
  SYS(__NR_madvise, memory, BYTES, MADV_MERGEABLE);
  set_slot(homes[0], BYTES, 0);
  *cell(HOME) = homes[0];
  struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsp = 0x3000, .rcx = COUNTED};
  must_ioctl(vcpu.fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");
  start_thread(run_guest, 0);
  expect(lets_it_run(), "the guest runs");

  u64 dirty = 0;
  for (u64 round = 0; round < rounds; round++) {
    u64 bitmap[PAGES / 64], from = homes[round & 1], to = homes[~round & 1];

    set_slot(from, BYTES, KVM_MEM_LOG_DIRTY_PAGES);
    for (int i = 0; i < 3; i++) {
      expect(lets_it_run(), "it runs while its writes are logged");
      u64 count = dirty_pages(&vm, SLOT, BYTES, bitmap);
      /* KVM kicks a vCPU on another processor out of the guest, and does not wait until it has emptied its PML buffer */
      if (count < PAGES) sleep_ns(STEP_NS), count = dirty_pages(&vm, SLOT, BYTES, bitmap);
      expect(count == PAGES, "it wrote every page in a whole pass, and the log has them");
      dirty += count;
    }
    set_slot(from, BYTES, 0);
    expect(lets_it_run(), "it runs when logging ends");

    u64 reads = asked_reads;
    set_slot(from, 0, 0);
    expect(lets_it_run() && asked_reads > reads, "without its slot it asks this program");

    lock(&content);
    u8 *copy = allocate(BYTES);
    memcpy(copy, memory, BYTES);
    SYS(__NR_munmap, memory, BYTES);
    memory = copy;
    unlock(&content);
    set_slot(from, BYTES, KVM_MEM_READONLY);
    sleep_ns(STEP_NS);
    reads = asked_reads;
    u64 writes = asked_writes;
    expect(lets_it_run() && asked_writes > writes && asked_reads <= reads + 1, "in a read-only slot it asks for writes alone");
    set_slot(from, 0, 0);
    set_slot(from, BYTES, 0);
    expect(lets_it_run(), "it runs with its slot back");
    writes = asked_writes;
    expect(lets_it_run() && asked_writes == writes, "and asks nobody");

    set_slot(to, BYTES, 0);
    *cell(HOME) = to;
    expect(lets_it_run() && lets_it_run(), "it runs where its slot has gone");
    SYS(__NR_madvise, memory, BYTES, MADV_MERGEABLE);
    SYS(__NR_madvise, memory + COUNTED * 0x1000, COUNTED * 0x1000, MADV_DONTNEED);
    expect(lets_it_run(), "it runs after pages were taken away");
    long paged_out = SYS(__NR_madvise, memory, BYTES, MADV_PAGEOUT);
    expect(paged_out == 0 && lets_it_run(), "it runs after its pages went to swap");
  }
  *(volatile u8 *)(vm.ram + STOP) = 1;
  for (int i = 0; i < 1000 && !ended; i++) sleep_ns(STEP_NS);
  expect(ended != 0, "the guest ends");
  u64 passes = *cell(PASSES);
  for (u64 i = 0; i < PAGES && !wrong; i++) {
    u64 value = *(u64 *)(memory + i * 0x1000);
    if (value != passes) print("WRONG: page %u has %u, not %u\n", i, value, passes), wrong++;
  }
  print("small-vmm: memory %s: %u rounds, %u passes over %u pages, %u dirty, %u reads and %u writes asked for\n",
        wrong ? "WRONG" : "all right", rounds, passes, PAGES, dirty, asked_reads, asked_writes);
  return wrong != 0;
}

static struct {
  Vm *vm;
  Disturbance what;
  u64 rounds, dirty;
} disturbed;

/** Thread: does to a running Linux what migration and memory pressure do. */
static void disturb(void *unused) {
  (void)unused;
  Vm *of = disturbed.vm;
  u64 *bitmap = (u64 *)allocate(of->ram_bytes / 0x8000);
  struct kvm_userspace_memory_region ram = {.memory_size = of->ram_bytes, .userspace_addr = (u64)of->ram};
  for (;;) {
    sleep_ns(disturbed.what.every_ms * 1000000);
    u64 round = disturbed.rounds++;
    if (disturbed.what.log_dirty) {
      ram.flags = round % 2 ? 0 : KVM_MEM_LOG_DIRTY_PAGES;
      if (!ram.flags) disturbed.dirty += dirty_pages(of, 0, of->ram_bytes, bitmap);
      must_ioctl(of->vm, KVM_SET_USER_MEMORY_REGION, &ram, "KVM_SET_USER_MEMORY_REGION");
    }
    if (disturbed.what.page_out) SYS(__NR_madvise, of->ram, of->ram_bytes, MADV_PAGEOUT);
  }
}

void start_disturbing(Vm *of, Disturbance what) {
  disturbed.vm = of;
  disturbed.what = what;
  if (what.merge) SYS(__NR_madvise, of->ram, of->ram_bytes, MADV_MERGEABLE);
  if (what.every_ms) start_thread(disturb, 0);
}

void print_disturbance(void) {
  if (!disturbed.rounds) return;
  print("small-vmm: disturbed %u times, %u dirty pages\n", disturbed.rounds, disturbed.dirty);
}
