/**
 * What a way out of a guest and back costs, in every mode of the processor, with a check that the guest did its work.
 *
 * cpuid   the kernel's module answers; no user space
 * out     KVM_EXIT_IO to this program
 * hlt     KVM_EXIT_HLT to this program (there is no irqchip)
 * touch   writes a page after the other that nobody has touched: the host's memory management answers
 *
 * `trips` does one of them in 64-bit mode, between two lines from which a host can take its own time.
 */
#include "vmm.h"

#define CODE 0x1000
#define TABLES 0x4000
#define MADV_NOHUGEPAGE 15

#define SIZE(bits) extern const u8 cpuid_##bits[], out_##bits[], hlt_##bits[], touch_##bits[], end_##bits[]
SIZE(16);
SIZE(32);
SIZE(64);

enum { CPUID, OUT, HLT, TOUCH, KINDS };
static const char *const kind_names[KINDS] = {"cpuid", "out", "hlt", "touch"};
static const u8 *const code_16[] = {cpuid_16, out_16, hlt_16, touch_16, end_16};
static const u8 *const code_32[] = {cpuid_32, out_32, hlt_32, touch_32, end_32};
static const u8 *const code_64[] = {cpuid_64, out_64, hlt_64, touch_64, end_64};
static const struct {
  const char *name;
  const u8 *const *code;
  u64 touch_from, touch_most;
} modes[MODES] = {
    [MODE_REAL] = {"real", code_16, 0x20000, 0x80},
    [MODE_PROTECTED] = {"protected", code_32, 0x200000, 0x1000},
    [MODE_PAGED_32] = {"32-bit", code_32, 0x200000, 0x1000},
    [MODE_PAE] = {"PAE", code_32, 0x200000, 0x1000},
    [MODE_LONG] = {"long", code_64, 0x200000, 0x1000},
};

/**
 * @param marks  Print a line before the guest starts and one when it is done.
 * @returns      1 if the guest left as often as it should and left behind what it should.
 */
static int one(int mode, int kind, u64 count, int marks) {
  Vm vm;
  Vcpu vcpu;
  open_vm(&vm, 0x1400000, 1, 0);
  SYS(__NR_madvise, vm.ram, vm.ram_bytes, MADV_NOHUGEPAGE); /* touch is about pages of 4 KiB */
  open_vcpu(&vm, &vcpu, 0);
  struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[4];
  } cpuid = {.head.nent = 4,
             .entries = {{.function = 0, .eax = 1, .ebx = 0x11223344, .ecx = 2, .edx = 3},
                         {.function = 1, .eax = 0x600, .edx = 1 << 3 | 1 << 6},  /* PSE, PAE */
                         {.function = 0x80000000, .eax = 0x80000001},
                         {.function = 0x80000001, .edx = 1 << 29}}};         /* LM */
  must_ioctl(vcpu.fd, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
  set_mode(&vcpu, mode, TABLES);

  const u8 *const *code = modes[mode].code;
  u64 from = modes[mode].touch_from;
  if (kind == TOUCH && count > modes[mode].touch_most) count = modes[mode].touch_most;
  memcpy(vm.ram + CODE, code[kind], (u64)(code[kind + 1] - code[kind]));
  struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsi = count, .rdi = from, .rsp = 0x3000};
  must_ioctl(vcpu.fd, KVM_SET_REGS, &regs, "KVM_SET_REGS");

  u64 exits[2] = {0, 0}, sum = 0;
  if (marks) print("small-vmm: %s begins\n", kind_names[kind]);
  u64 ns = now_ns(), ticks = rdtsc();
  for (;;) {
    u32 reason = enter(&vcpu);
    struct kvm_run *run = vcpu.run;
    if (reason == KVM_EXIT_HLT) {
      exits[1]++;
    } else if (reason == KVM_EXIT_IO && run->io.port == 0x11) {
      exits[0]++;
      sum += *((u8 *)run + run->io.data_offset);
    } else if (reason == KVM_EXIT_IO && run->io.port == 0x10) {
      break;
    } else {
      print_state(&vcpu);
      print("%-10s %-6s FAILED\n", modes[mode].name, kind_names[kind]);
      return 0;
    }
  }
  ticks = rdtsc() - ticks;
  ns = now_ns() - ns;
  if (marks) print("small-vmm: %s ends\n", kind_names[kind]);

  int right = 1;
  if (kind == OUT) {
    u64 want = 0;
    for (u64 i = 1; i <= count; i++) want += i & 0xff;
    right = exits[0] == count && sum == want;
  } else if (kind == HLT) {
    right = exits[1] == count;
  } else if (kind == TOUCH) {
    for (u64 i = 0; i < count; i++) right &= *(u32 *)(vm.ram + from + i * 0x1000) == count - i;
  } else {
    must_ioctl(vcpu.fd, KVM_GET_REGS, &regs, "KVM_GET_REGS");
    right = (u32)regs.rbx == 0x11223344 && regs.rcx == 2 && regs.rdx == 3;
  }
  print("%-10s %-6s %6u times %8u ns %8u ticks each%s\n", modes[mode].name, kind_names[kind], count, ns / count,
        ticks / count, right ? "" : " WRONG");
  close_vcpu(&vcpu);
  close_vm(&vm);
  return right;
}

int bench(int argc, char **argv) {
  u64 count = number("bench", argc > 0 ? argv[0] : "2000", 1000000000);
  int right = 1;
  for (int mode = 0; mode < MODES; mode++)
    for (int kind = 0; kind < KINDS; kind++) right &= one(mode, kind, count, 0);
  print("small-vmm: bench %s\n", right ? "all right" : "WRONG");
  return right ? 0 : 1;
}

int trips(int argc, char **argv) {
  if (argc < 1) fail("trips wants a kind: cpuid, out, hlt or touch");
  u64 count = number("trips", argc > 1 ? argv[1] : "2000", 1000000000);
  for (int kind = 0; kind < KINDS; kind++)
    if (same(argv[0], kind_names[kind])) return one(MODE_LONG, kind, count, 1) ? 0 : 1;
  fail("no kind %s", argv[0]);
}
