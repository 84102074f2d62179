/**
 * Boots a bzImage: what a boot loader and a BIOS would leave behind, and a thread for each vCPU.
 *
 * Source  Linux, Documentation/arch/x86/boot.rst "32-bit Boot Protocol", "64-bit Boot Protocol", and zero-page.rst.
 */
#include "vmm.h"

#define ZERO_PAGE 0x7000ul
#define TABLES 0x8000ul
#define COMMAND_LINE 0x20000ul
#define COMMAND_LINE_BYTES 2048
#define LOW_RAM_END 0x9fc00ul
#define BIOS 0xe0000ul
#define ONE_MIB 0x100000ul
#define RAM_LIMIT_MIB 3072
#define MAX_CPUID 256
#define MSR_MISC_ENABLE 0x1a0

/** Offsets in the zero page, which from 0x1f1 on is the image's setup header. */
enum {
  ACPI_RSDP = 0x070, E820_COUNT = 0x1e8, SETUP_SECTS = 0x1f1, BOOT_FLAG = 0x1fe, HEADER_JUMP = 0x201, MAGIC = 0x202,
  VERSION = 0x206, TYPE_OF_LOADER = 0x210, RAMDISK_IMAGE = 0x218, RAMDISK_SIZE = 0x21c, CMD_LINE_PTR = 0x228,
  XLOADFLAGS = 0x236, PREF_ADDRESS = 0x258, INIT_SIZE = 0x260, E820_TABLE = 0x2d0,
};
#define XLF_KERNEL_64 1

static const struct {
  const char *kernel, *initrd, *append;
} defaults = {0, 0, "console=ttyS0"};

static int open_file(const char *path, u64 *bytes) {
  long fd = SYS(__NR_open, path, 0);
  if (fd < 0) fail("%s: error %d", path, -fd);
  *bytes = (u64)SYS(__NR_lseek, fd, 0, 2);
  return (int)fd;
}

static void read_at(int fd, void *to, u64 bytes, u64 from) {
  while (bytes) {
    long done = SYS(__NR_pread64, fd, to, bytes, from);
    if (done <= 0) fail("cannot read the whole file: %d", done);
    to = (u8 *)to + done;
    from += (u64)done;
    bytes -= (u64)done;
  }
}

static u8 *e820(u8 *zero_page, u64 from, u64 to, u32 type) {
  u8 *entry = zero_page + E820_TABLE + 20 * zero_page[E820_COUNT]++;
  *(u64 *)entry = from;
  *(u64 *)(entry + 8) = to - from;
  *(u32 *)(entry + 16) = type;
  return entry;
}

/** @returns  Where the kernel starts, in `mode`. */
static u64 load(Vm *vm, const char *kernel, const char *initrd, const char *append, int *mode) {
  u64 bytes;
  int fd = open_file(kernel, &bytes);
  u8 *page = vm->ram + ZERO_PAGE;
  u8 *head = vm->ram + TABLES; /* for a moment */
  if (bytes < 0x1000) fail("%s is no kernel", kernel);
  read_at(fd, head, 0x400, 0);
  if (*(u32 *)(head + MAGIC) != 0x53726448 || *(u16 *)(head + VERSION) < 0x20c) fail("%s is no bzImage", kernel);
  *mode = *(u16 *)(head + XLOADFLAGS) & XLF_KERNEL_64 ? MODE_LONG : MODE_PROTECTED;
  memcpy(page + SETUP_SECTS, head + SETUP_SECTS, (u64)(MAGIC + head[HEADER_JUMP] - SETUP_SECTS));
  u64 setup = ((head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) + 1ul) * 512;
  u64 start = *(u64 *)(page + PREF_ADDRESS), room = *(u32 *)(page + INIT_SIZE);
  if (start + room > vm->ram_bytes) fail("the kernel needs %u MiB", (start + room) >> 20);
  read_at(fd, vm->ram + start, bytes - setup, setup);
  SYS(__NR_close, fd);

  if (initrd) {
    fd = open_file(initrd, &bytes);
    u64 at = (vm->ram_bytes - bytes) & ~0xffful;
    if (bytes > vm->ram_bytes || at < start + room) fail("%s does not fit", initrd);
    read_at(fd, vm->ram + at, bytes, 0);
    SYS(__NR_close, fd);
    *(u32 *)(page + RAMDISK_IMAGE) = (u32)at;
    *(u32 *)(page + RAMDISK_SIZE) = (u32)bytes;
  }
  if (strlen(append) >= COMMAND_LINE_BYTES) fail("the command line is too long");
  memcpy(vm->ram + COMMAND_LINE, append, strlen(append) + 1);
  *(u32 *)(page + CMD_LINE_PTR) = COMMAND_LINE;
  page[TYPE_OF_LOADER] = 0xff;
  *(u64 *)(page + ACPI_RSDP) = write_acpi(vm);
  e820(page, 0, LOW_RAM_END, 1);
  e820(page, LOW_RAM_END, 0xa0000, 2);
  e820(page, BIOS, ONE_MIB, 2);
  e820(page, ONE_MIB, vm->ram_bytes, 1);
  return *mode == MODE_LONG ? start + 0x200 : start;
}

static struct {
  struct kvm_cpuid2 head;
  struct kvm_cpuid_entry2 entries[MAX_CPUID];
} cpuid;

/** What KVM supports, with this vCPU's place among the others. */
static void set_cpuid(Vcpu *vcpu) {
  Vm *vm = vcpu->vm;
  u32 shift = 0;
  while (1u << shift < vm->cpus) shift++;
  cpuid.head.nent = MAX_CPUID;
  must_ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
  int deadline = SYS(__NR_ioctl, vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  for (u32 i = 0; i < cpuid.head.nent; i++) {
    struct kvm_cpuid_entry2 *e = &cpuid.entries[i];
    if (e->function == 1) {
      e->ebx = (e->ebx & 0xffff) | vm->cpus << 16 | vcpu->id << 24;
      e->ecx |= 1u << 31 | (deadline ? 1u << 24 : 0);
      if (vm->cpus > 1) e->edx |= 1u << 28;
    } else if (e->function == 0xb || e->function == 0x1f) {
      e->eax = e->index == 0 ? 0 : e->index == 1 ? shift : 0;
      e->ebx = e->index == 0 ? 1 : e->index == 1 ? vm->cpus : 0;
      e->ecx = e->index | (e->index < 2 ? (e->index + 1) << 8 : 0);
      e->edx = vcpu->id;
    }
  }
  must_ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
}

static void run_vcpu(void *argument) {
  Vcpu *vcpu = argument;
  for (;;) {
    switch (enter(vcpu)) {
      case KVM_EXIT_IO: port_access(vcpu); break;
      case KVM_EXIT_MMIO: /* nobody answers */
        if (!vcpu->run->mmio.is_write) memset(vcpu->run->mmio.data, 0xff, 8);
        break;
      case KVM_EXIT_SHUTDOWN:
        print_state(vcpu);
        guest_ended("triple fault", 4);
      case KVM_EXIT_SYSTEM_EVENT: guest_ended("system event", 3);
      default:
        print_state(vcpu);
        guest_ended("cannot go on", 1);
    }
  }
}

int run_linux(int argc, char **argv) {
  static Vm vm;
  static Vcpu vcpus[MAX_CPUS];
  const char *kernel = defaults.kernel, *initrd = defaults.initrd, *append = defaults.append;
  u64 mib = 256, cpus = 1;
  Disturbance disturbance = {0};
  int mode;
  for (int i = 0; i < argc; i += 2) {
    if (i + 1 == argc) fail("%s wants a value", argv[i]);
    char *value = argv[i + 1];
    if (same(argv[i], "--kernel")) kernel = value;
    else if (same(argv[i], "--initrd")) initrd = value;
    else if (same(argv[i], "--append")) append = value;
    else if (same(argv[i], "--mem")) mib = number("--mem", value, RAM_LIMIT_MIB);
    else if (same(argv[i], "--smp")) cpus = number("--smp", value, MAX_CPUS);
    else if (same(argv[i], "--log-dirty")) disturbance.log_dirty = 1, disturbance.every_ms = number("--log-dirty", value, 10000);
    else if (same(argv[i], "--page-out")) disturbance.page_out = 1, disturbance.every_ms = number("--page-out", value, 10000);
    else if (same(argv[i], "--merge")) disturbance.merge = (int)number("--merge", value, 1);
    else fail("no option %s", argv[i]);
  }
  if (!kernel) fail("--kernel is missing");
  open_vm(&vm, mib << 20, (u32)cpus, 1);
  u64 entry = load(&vm, kernel, initrd, append, &mode);
  for (u32 i = 0; i < cpus; i++) {
    open_vcpu(&vm, &vcpus[i], i);
    set_cpuid(&vcpus[i]);
    struct {
      struct kvm_msrs head;
      struct kvm_msr_entry entries[1];
    } msrs = {.head.nmsrs = 1, .entries = {{.index = MSR_MISC_ENABLE, .data = 1}}}; /* fast strings */
    must_ioctl(vcpus[i].fd, KVM_SET_MSRS, &msrs, "KVM_SET_MSRS");
  }
  set_mode(&vcpus[0], mode, TABLES);
  struct kvm_regs regs = {.rip = entry, .rsi = ZERO_PAGE, .rflags = 2};
  must_ioctl(vcpus[0].fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");
  devices_start(&vm);
  start_disturbing(&vm, disturbance);
  for (u32 i = 1; i < cpus; i++) start_thread(run_vcpu, &vcpus[i]);
  run_vcpu(&vcpus[0]);
  return 1;
}
