/* VMX on and off, VMCSs, and the run loop. SDM 3C 23.7, 24, 31 "Virtual-Machine Monitor Programming Considerations". */
#include "hypervisor.h"

#define FEATURE_CONTROL 0x3a
#define VMX_BASIC 0x480
#define CR0_FIXED0 0x486
#define CR4_FIXED0 0x488
#define PROCBASED_CTLS2 0x48b
#define TRUE_PINBASED 0x48d
#define EFER 0xc0000080
#define CR4_VMXE 0x2000

enum { SELECTOR_CODE = 8, SELECTOR_DATA = 16, SELECTOR_TSS = 24, REGIONS = 8 };

extern u64 idt[];
u64 offered_secondary;
static u8 regions[REGIONS + 1][4096] __attribute__((aligned(4096)));
static int used_regions;
static u64 vmxon_pointer;
static u32 tss[26] __attribute__((aligned(16)));
static u64 own_gdt[5] __attribute__((aligned(16)));
static u8 stacks[REGIONS][4096] __attribute__((aligned(16)));
static struct vm *current;

static inline u64 read_cr0(void) { u64 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline u64 read_cr4(void) { u64 v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }

_Noreturn void give_up(const char *why, u64 number) {
  put("nested-vmx: ");
  put(why);
  put(" 0x");
  put_hex(number, 16);
  put("\n");
  leave(1);
}

static void load_task_register(void) {
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) pointer = {sizeof own_gdt - 1, (uptr)own_gdt};
  u64 base = (uptr)tss;
  own_gdt[1] = 0x00af9b000000ffff;
  own_gdt[2] = 0x00cf93000000ffff;
  own_gdt[3] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
  own_gdt[4] = base >> 32;
  __asm__ volatile("lgdt %0; ltr %w1" : : "m"(pointer), "r"(SELECTOR_TSS) : "memory");
}

/* 0: VMX operation. 1: this processor has no VMX. */
int vmx_start(void) {
  u32 eax = 1, ebx, ecx, edx;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
  if (!(ecx & 1 << 5)) return 1;
  load_task_register();
  if (!(rdmsr(FEATURE_CONTROL) & 1)) wrmsr(FEATURE_CONTROL, 5);
  __asm__ volatile("mov %0, %%cr0" : : "r"(read_cr0() | rdmsr(CR0_FIXED0)));
  __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() | CR4_VMXE | rdmsr(CR4_FIXED0)));
  *(u32 *)regions[REGIONS] = (u32)rdmsr(VMX_BASIC);
  vmxon_pointer = (uptr)regions[REGIONS];
  if (vmxon(&vmxon_pointer)) give_up("VMXON failed", 0);
  offered_secondary = rdmsr(PROCBASED_CTLS2) >> 32;
  used_regions = 0;
  return 0;
}

void vmx_stop(void) {
  if (vmxoff()) give_up("VMXOFF failed", 0);
  __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() & ~(u64)CR4_VMXE));
}

/* `msr`: allowed-0 settings in the low half, allowed-1 in the high half. */
static void controls(enum field field, u32 msr, u32 wanted) {
  u64 allowed = rdmsr(msr);
  u32 value = (wanted | (u32)allowed) & (u32)(allowed >> 32);
  if ((value & wanted) != wanted) give_up("a control is not offered:", wanted & ~value);
  vmwrite(field, value);
}

static void guest_segment(int seg, u16 selector, u64 base, u32 limit, u32 rights) {
  vmwrite(GUEST_ES_SELECTOR + 2 * seg, selector);
  vmwrite(GUEST_ES_BASE + 2 * seg, base);
  vmwrite(GUEST_ES_LIMIT + 2 * seg, limit);
  vmwrite(GUEST_ES_RIGHTS + 2 * seg, rights);
}

void vm_load(struct vm *vm) {
  if (current == vm) return;
  if (vmptrld(&vm->vmcs)) give_up("VMPTRLD failed", vmread(VM_INSTRUCTION_ERROR));
  current = vm;
}

void vm_create(struct vm *vm, void (*rip)(void), u64 cr3) {
  if (used_regions == REGIONS) used_regions = 0;
  u8 *stack = stacks[used_regions];
  u8 *region = regions[used_regions++];
  for (int i = 0; i < 15; i++) vm->registers[i] = 0;
  vm->vmcs = (uptr)region;
  vm->launched = 0;
  current = 0;
  *(u32 *)region = (u32)rdmsr(VMX_BASIC);
  if (vmclear(&vm->vmcs)) give_up("VMCLEAR failed", 0);
  vm_load(vm);

  controls(PIN_CONTROLS, TRUE_PINBASED, 0);
  controls(PRIMARY_CONTROLS, TRUE_PINBASED + 1,
           PRIMARY_HLT_EXITING | PRIMARY_UNCONDITIONAL_IO_EXITING | PRIMARY_ACTIVATE_SECONDARY);
  controls(EXIT_CONTROLS, TRUE_PINBASED + 2, EXIT_HOST_64 | EXIT_SAVE_EFER | EXIT_LOAD_EFER | EXIT_ACKNOWLEDGE_INTERRUPT);
  controls(ENTRY_CONTROLS, TRUE_PINBASED + 3, ENTRY_IA32E_GUEST | ENTRY_LOAD_EFER);
  vmwrite(SECONDARY_CONTROLS, 0);
  vmwrite(EXCEPTION_BITMAP, 0xffffffff);
  vmwrite(VMCS_LINK_POINTER, ~0ull);

  vmwrite(HOST_CR0, read_cr0());
  vmwrite(HOST_CR3, read_cr3());
  vmwrite(HOST_CR4, read_cr4());
  vmwrite(HOST_EFER, rdmsr(EFER));
  for (int seg = ES; seg <= GS; seg++) vmwrite(HOST_ES_SELECTOR + 2 * seg, seg == CS ? SELECTOR_CODE : SELECTOR_DATA);
  vmwrite(HOST_ES_SELECTOR + 2 * FS, 0);
  vmwrite(HOST_ES_SELECTOR + 2 * GS, 0);
  vmwrite(HOST_TR_SELECTOR, SELECTOR_TSS);
  vmwrite(HOST_TR_BASE, (uptr)tss);
  vmwrite(HOST_GDTR_BASE, (uptr)own_gdt);
  vmwrite(HOST_IDTR_BASE, (uptr)idt);
  vmwrite(HOST_RIP, (uptr)vmx_exit);

  vmwrite(GUEST_CR0, read_cr0());
  vmwrite(GUEST_CR3, cr3);
  vmwrite(GUEST_CR4, read_cr4());
  vmwrite(GUEST_EFER, rdmsr(EFER));
  for (int seg = ES; seg <= GS; seg++) guest_segment(seg, SELECTOR_DATA, 0, ~0u, 0xc093);
  guest_segment(CS, SELECTOR_CODE, 0, ~0u, 0xa09b);
  guest_segment(LDTR, 0, 0, 0, 0x10000);
  guest_segment(TR, SELECTOR_TSS, (uptr)tss, 0x67, 0x8b);
  vmwrite(GUEST_GDTR_BASE, (uptr)own_gdt);
  vmwrite(GUEST_GDTR_LIMIT, sizeof own_gdt - 1);
  vmwrite(GUEST_IDTR_BASE, (uptr)idt);
  vmwrite(GUEST_IDTR_LIMIT, 4095);
  vmwrite(GUEST_DR7, 0x400);
  vmwrite(GUEST_RFLAGS, 2);
  vmwrite(GUEST_RSP, (uptr)(stack + sizeof stacks[0]));
  vmwrite(GUEST_RIP, (uptr)rip);
}

void secondary_controls(struct vm *vm, u32 wanted) {
  vm_load(vm);
  if (wanted & ~(u32)offered_secondary) give_up("a secondary control is not offered:", wanted & ~offered_secondary);
  vmwrite(SECONDARY_CONTROLS, wanted);
}

/* The same VMCS in 32-bit protected mode with PAE paging. */
void to_pae(struct vm *vm, void (*eip)(void), u64 cr3, const u64 *pdptes) {
  vm_load(vm);
  controls(ENTRY_CONTROLS, TRUE_PINBASED + 3, ENTRY_LOAD_EFER);
  vmwrite(GUEST_EFER, 0);
  vmwrite(GUEST_CR3, cr3);
  for (int i = 0; i < 4; i++) vmwrite(GUEST_PDPTE0 + 2 * i, pdptes[i]);
  guest_segment(CS, SELECTOR_CODE, 0, ~0u, 0xc09b);
  vmwrite(GUEST_RIP, (uptr)eip);
}

/* The same VMCS in real mode, paging off: needs EPT and "unrestricted guest". */
void to_real_mode(struct vm *vm, u16 segment) {
  vm_load(vm);
  controls(ENTRY_CONTROLS, TRUE_PINBASED + 3, ENTRY_LOAD_EFER);
  vmwrite(GUEST_EFER, 0);
  vmwrite(GUEST_CR0, read_cr0() & ~0x80000001ull);
  vmwrite(GUEST_CR4, CR4_VMXE);
  for (int seg = ES; seg <= GS; seg++) {
    guest_segment(seg, segment, (u64)segment << 4, 0xffff, seg == CS ? 0x9b : 0x93);
  }
  vmwrite(GUEST_RSP, 0xfff0);
  vmwrite(GUEST_RIP, 0);
  vmwrite(GUEST_IDTR_BASE, 0);
  vmwrite(GUEST_IDTR_LIMIT, 0x3ff);
}

u32 vm_run(struct vm *vm) {
  vm_load(vm);
  int failed = vmx_enter(vm->registers, vm->launched);
  if (failed) give_up("VM entry failed:", failed == 2 ? vmread(VM_INSTRUCTION_ERROR) : 0);
  u32 reason = (u32)vmread(EXIT_REASON);
  if (reason >> 31) give_up("VM entry failed after its checks, reason", reason);
  vm->launched = 1;
  return reason & 0xffff;
}
