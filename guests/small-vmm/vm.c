/**
 * VMs and vCPUs: thin over the KVM API (Linux, Documentation/virt/kvm/api.rst).
 *
 * Owns    the state that a mode of the processor needs: segments, control registers, page tables.
 */
#include "vmm.h"

#define CR0_PE 0x1
#define CR0_ET 0x10
#define CR0_NE 0x20
#define CR0_WP 0x10000
#define CR0_PG 0x80000000
#define CR4_PSE 0x10
#define CR4_PAE 0x20
#define EFER_LME 0x100
#define EFER_LMA 0x400
#define PTE_PRESENT_WRITABLE_USER 0x7
#define PDE_LARGE 0x80
#define HUGE 0x200000ul
#define TSS_ADDRESS 0xfffbd000ul
#define IDENTITY_MAP_ADDRESS 0xfffbc000ul
#define MADV_HUGEPAGE 14

void open_vm(Vm *vm, u64 ram_bytes, u32 cpus, int irqchip) {
  long fd = SYS(__NR_open, "/dev/kvm", 2 | 02000000);
  if (fd < 0) fail("/dev/kvm: error %d", -fd);
  vm->kvm = (int)fd;
  long version = must_ioctl(vm->kvm, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION");
  if (version != 12) fail("KVM API version %d, 12 is wanted", version);
  vm->vm = (int)must_ioctl(vm->kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
  vm->cpus = cpus;
  vm->ram_bytes = ram_bytes;
  vm->run_bytes = (u64)must_ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
  u64 identity = IDENTITY_MAP_ADDRESS;
  must_ioctl(vm->vm, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS, "KVM_SET_TSS_ADDR");
  must_ioctl(vm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity, "KVM_SET_IDENTITY_MAP_ADDR");
  if (irqchip) {
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    must_ioctl(vm->vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
    must_ioctl(vm->vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
  }
  vm->ram = allocate(ram_bytes);
  if (ram_bytes >= 64 * HUGE) SYS(__NR_madvise, vm->ram, ram_bytes, MADV_HUGEPAGE);
  struct kvm_userspace_memory_region ram = {.memory_size = ram_bytes, .userspace_addr = (u64)vm->ram};
  must_ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &ram, "KVM_SET_USER_MEMORY_REGION");
}

void close_vm(Vm *vm) {
  SYS(__NR_close, vm->vm);
  SYS(__NR_close, vm->kvm);
  SYS(__NR_munmap, vm->ram, vm->ram_bytes);
}

void open_vcpu(Vm *vm, Vcpu *vcpu, u32 id) {
  vcpu->vm = vm;
  vcpu->id = id;
  vcpu->fd = (int)must_ioctl(vm->vm, KVM_CREATE_VCPU, (void *)(u64)id, "KVM_CREATE_VCPU");
  long run = SYS(__NR_mmap, 0, vm->run_bytes, 3, 1, vcpu->fd, 0);
  if (run < 0 && run > -4096) fail("mmap of kvm_run: error %d", -run);
  vcpu->run = (struct kvm_run *)run;
}

void close_vcpu(Vcpu *vcpu) {
  SYS(__NR_munmap, vcpu->run, vcpu->vm->run_bytes);
  SYS(__NR_close, vcpu->fd);
}

u32 enter(Vcpu *vcpu) {
  for (;;) {
    long result = SYS(__NR_ioctl, vcpu->fd, KVM_RUN, 0);
    if (result >= 0) return vcpu->run->exit_reason;
    if (result != -4 && result != -11) { /* EINTR, EAGAIN */
      print_state(vcpu);
      fail("KVM_RUN: error %d", -result);
    }
  }
}

const char *exit_name(u32 reason) {
  static const char *const names[] = {
      [KVM_EXIT_UNKNOWN] = "UNKNOWN",         [KVM_EXIT_EXCEPTION] = "EXCEPTION",
      [KVM_EXIT_IO] = "IO",                   [KVM_EXIT_HYPERCALL] = "HYPERCALL",
      [KVM_EXIT_DEBUG] = "DEBUG",             [KVM_EXIT_HLT] = "HLT",
      [KVM_EXIT_MMIO] = "MMIO",               [KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
      [KVM_EXIT_SHUTDOWN] = "SHUTDOWN",       [KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
      [KVM_EXIT_INTR] = "INTR",               [KVM_EXIT_SET_TPR] = "SET_TPR",
      [KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",   [KVM_EXIT_NMI] = "NMI",
      [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR", [KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
  };
  return reason < sizeof names / sizeof *names && names[reason] ? names[reason] : "?";
}

void print_state(Vcpu *vcpu) {
  struct kvm_regs r;
  struct kvm_sregs s;
  struct kvm_run *run = vcpu->run;
  print("small-vmm: vCPU %u: KVM_EXIT_%s (%u)\n", (u64)vcpu->id, exit_name(run->exit_reason), (u64)run->exit_reason);
  if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
    print("  hardware entry failure reason %x\n", (u64)run->fail_entry.hardware_entry_failure_reason);
  if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    print("  suberror %u\n", (u64)run->internal.suberror);
    for (u32 i = 0; i < run->internal.ndata && i < 16; i++) print("  data[%u] %x\n", (u64)i, (u64)run->internal.data[i]);
  }
  must_ioctl(vcpu->fd, KVM_GET_REGS, &r, "KVM_GET_REGS");
  must_ioctl(vcpu->fd, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
  print("  rip %016x rflags %08x rsp %016x rbp %016x\n", r.rip, r.rflags, r.rsp, r.rbp);
  print("  rax %016x rbx %016x rcx %016x rdx %016x\n", r.rax, r.rbx, r.rcx, r.rdx);
  print("  rsi %016x rdi %016x r8 %016x r9 %016x\n", r.rsi, r.rdi, r.r8, r.r9);
  print("  cr0 %08x cr2 %016x cr3 %016x cr4 %08x efer %x\n", s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
  print("  cs %04x base %x limit %x type %x; ss %04x; tr %04x type %x\n", (u64)s.cs.selector, s.cs.base,
        (u64)s.cs.limit, (u64)s.cs.type, (u64)s.ss.selector, (u64)s.tr.selector, (u64)s.tr.type);
}

static void write64(Vm *vm, u64 at, u64 value) { *(u64 *)(vm->ram + at) = value; }
static void write32(Vm *vm, u64 at, u32 value) { *(u32 *)(vm->ram + at) = value; }

/** `count` entries of 2 MiB pages from address 0 on. */
static void map_huge(Vm *vm, u64 directory, u64 count) {
  for (u64 i = 0; i < count; i++) write64(vm, directory + i * 8, i * HUGE | PDE_LARGE | PTE_PRESENT_WRITABLE_USER);
}

void set_mode(Vcpu *vcpu, int mode, u64 tables) {
  Vm *vm = vcpu->vm;
  struct kvm_sregs s;
  must_ioctl(vcpu->fd, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
  if (mode == MODE_REAL) {
    s.cs.base = 0;
    s.cs.selector = 0;
    must_ioctl(vcpu->fd, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
    return;
  }
  memset(vm->ram + tables, 0, 0x8000);
  u64 gdt = tables + 0x7000, root = tables;
  struct kvm_segment code = {.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .g = 1, .db = 1};
  struct kvm_segment data = {.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .g = 1, .db = 1};
  if (mode == MODE_LONG) code.db = 0, code.l = 1;
  write64(vm, gdt + 0x10, mode == MODE_LONG ? 0x00af9b000000fffful : 0x00cf9b000000fffful);
  write64(vm, gdt + 0x18, 0x00cf93000000fffful);
  s.cs = code;
  s.ds = s.es = s.fs = s.gs = s.ss = data;
  s.gdt.base = gdt;
  s.gdt.limit = 0x1f;
  s.idt.base = 0;
  s.idt.limit = 0;
  s.cr0 = CR0_PE | CR0_ET | CR0_NE;
  if (mode == MODE_PAGED_32) {
    for (u32 i = 0; i < 1024; i++) write32(vm, root + i * 4, i << 22 | PDE_LARGE | PTE_PRESENT_WRITABLE_USER);
    s.cr4 = CR4_PSE;
  } else if (mode == MODE_PAE) {
    for (u64 i = 0; i < 4; i++) write64(vm, root + i * 8, (tables + 0x1000 + i * 0x1000) | 1);
    map_huge(vm, tables + 0x1000, 4 * 512);
    s.cr4 = CR4_PAE;
  } else if (mode == MODE_LONG) {
    write64(vm, root, (tables + 0x1000) | PTE_PRESENT_WRITABLE_USER);
    for (u64 i = 0; i < 4; i++)
      write64(vm, tables + 0x1000 + i * 8, (tables + 0x2000 + i * 0x1000) | PTE_PRESENT_WRITABLE_USER);
    map_huge(vm, tables + 0x2000, 4 * 512);
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME | EFER_LMA;
  }
  if (mode != MODE_PROTECTED) {
    s.cr0 |= CR0_PG | CR0_WP;
    s.cr3 = root;
  }
  must_ioctl(vcpu->fd, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
}

u64 number(const char *name, const char *text, u64 most) {
  u64 value = 0;
  const char *at = text;
  for (; *at >= '0' && *at <= '9' && value <= most; at++) value = value * 10 + (u64)(*at - '0');
  if (*at || !value || value > most) fail("%s wants a number from 1 to %u, not %s", name, most, text);
  return value;
}

int vmm_main(int argc, char **argv) {
  if (argc >= 2 && same(argv[1], "bench")) return bench(argc - 2, argv + 2);
  if (argc >= 2 && same(argv[1], "trips")) return trips(argc - 2, argv + 2);
  if (argc >= 2 && same(argv[1], "memory")) return memory_map(argc >= 3 ? number("memory", argv[2], 100000) : 4);
  if (argc >= 2 && same(argv[1], "run")) return run_linux(argc - 2, argv + 2);
  print("usage: vmm bench [COUNT]\n"
        "         micro-guests in every mode; COUNT exits each (default 2000)\n"
        "       vmm trips KIND [COUNT]\n"
        "         one micro-guest in 64-bit mode: cpuid, out, hlt or touch\n"
        "       vmm memory [ROUNDS]\n"
        "         changes a guest's memory map while it writes there (default 4 rounds)\n"
        "       vmm run --kernel BZIMAGE [--initrd FILE] [--append TEXT] [--mem MIB] [--smp N]\n"
        "               [--log-dirty MS] [--page-out MS] [--merge 1]\n"
        "         (turns dirty logging on or off, or asks for its RAM to be swapped out, each MS; lets KSM merge it)\n"
        "         boots Linux; Ctrl-] ends it. Status 0: power-off, 3: reset, 4: triple fault, 1: an error\n");
  return 2;
}
