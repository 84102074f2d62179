/* What this hypervisor needs of VMX: encodings, controls and instructions. SDM 3C 24, 30; Appendices A to C. */
#pragma once
#include "../lib/console.h"

enum field {
  VPID = 0x0000,
  GUEST_ES_SELECTOR = 0x0800, /* CS SS DS FS GS LDTR TR follow, 2 apart */
  HOST_ES_SELECTOR = 0x0c00,
  HOST_TR_SELECTOR = 0x0c0c,
  PML_INDEX = 0x0812,
  PML_ADDRESS = 0x200e,
  VM_FUNCTION_CONTROLS = 0x2018,
  EPT_POINTER = 0x201a,
  EPTP_LIST_ADDRESS = 0x2024,
  GUEST_PHYSICAL_ADDRESS = 0x2400,
  VMCS_LINK_POINTER = 0x2800,
  GUEST_EFER = 0x2806,
  GUEST_PDPTE0 = 0x280a,
  HOST_EFER = 0x2c02,
  PIN_CONTROLS = 0x4000,
  PRIMARY_CONTROLS = 0x4002,
  EXCEPTION_BITMAP = 0x4004,
  EXIT_CONTROLS = 0x400c,
  ENTRY_CONTROLS = 0x4012,
  ENTRY_INTERRUPTION_INFO = 0x4016,
  SECONDARY_CONTROLS = 0x401e,
  VM_INSTRUCTION_ERROR = 0x4400,
  EXIT_REASON = 0x4402,
  EXIT_INTERRUPTION_INFO = 0x4404,
  EXIT_INSTRUCTION_LENGTH = 0x440c,
  GUEST_ES_LIMIT = 0x4800,
  GUEST_GDTR_LIMIT = 0x4810,
  GUEST_IDTR_LIMIT = 0x4812,
  GUEST_ES_RIGHTS = 0x4814,
  GUEST_ACTIVITY_STATE = 0x4826,
  PREEMPTION_TIMER_VALUE = 0x482e,
  EXIT_QUALIFICATION = 0x6400,
  GUEST_CR0 = 0x6800,
  GUEST_CR3 = 0x6802,
  GUEST_CR4 = 0x6804,
  GUEST_ES_BASE = 0x6806,
  GUEST_GDTR_BASE = 0x6816,
  GUEST_IDTR_BASE = 0x6818,
  GUEST_DR7 = 0x681a,
  GUEST_RSP = 0x681c,
  GUEST_RIP = 0x681e,
  GUEST_RFLAGS = 0x6820,
  HOST_CR0 = 0x6c00,
  HOST_CR3 = 0x6c02,
  HOST_CR4 = 0x6c04,
  HOST_TR_BASE = 0x6c0a,
  HOST_GDTR_BASE = 0x6c0c,
  HOST_IDTR_BASE = 0x6c0e,
  HOST_RSP = 0x6c14,
  HOST_RIP = 0x6c16,
};

enum segment { ES, CS, SS, DS, FS, GS, LDTR, TR };

enum reason {
  EXIT_EXCEPTION = 0,
  EXIT_INTERRUPT = 1,
  EXIT_CPUID = 10,
  EXIT_HLT = 12,
  EXIT_VMCALL = 18,
  EXIT_IO = 30,
  EXIT_EPT_VIOLATION = 48,
  EXIT_EPT_MISCONFIGURATION = 49,
  EXIT_PREEMPTION_TIMER = 52,
  EXIT_VMFUNC = 59,
  EXIT_PML_FULL = 62,
};

#define PIN_EXTERNAL_INTERRUPT_EXITING (1u << 0)
#define PIN_PREEMPTION_TIMER (1u << 6)
#define PRIMARY_HLT_EXITING (1u << 7)
#define PRIMARY_UNCONDITIONAL_IO_EXITING (1u << 24)
#define PRIMARY_ACTIVATE_SECONDARY (1u << 31)
#define SECONDARY_ENABLE_EPT (1u << 1)
#define SECONDARY_ENABLE_VPID (1u << 5)
#define SECONDARY_UNRESTRICTED_GUEST (1u << 7)
#define SECONDARY_ENABLE_VM_FUNCTIONS (1u << 13)
#define SECONDARY_ENABLE_PML (1u << 17)
#define EXIT_HOST_64 (1u << 9)
#define EXIT_ACKNOWLEDGE_INTERRUPT (1u << 15)
#define EXIT_SAVE_EFER (1u << 20)
#define EXIT_LOAD_EFER (1u << 21)
#define ENTRY_IA32E_GUEST (1u << 9)
#define ENTRY_LOAD_EFER (1u << 15)

#define EPT_READ 1
#define EPT_WRITE 2
#define EPT_EXECUTE 4
#define EPT_ALL 7
#define EPT_WRITE_BACK (6 << 3)
#define EPT_LARGE 0x80
#define EPT_ACCESSED 0x100
#define EPT_DIRTY 0x200
#define EPTP_WRITE_BACK 6
#define EPTP_WALK_4 (3 << 3)
#define EPTP_ACCESSED_DIRTY 0x40

static inline u64 rdmsr(u32 index) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (u64)high << 32 | low;
}
static inline void wrmsr(u32 index, u64 value) {
  __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}
static inline u64 rdtsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

/* 0: VMsucceed, 1: VMfailInvalid, 2: VMfailValid. */
#define VMX_RESULT "setc %%al; setz %%ah; movzbl %%ah, %%ecx; movzbl %%al, %%eax; lea (%%rax,%%rcx,2), %%eax"
static inline int vmxon(u64 *pointer) {
  int result;
  __asm__ volatile("vmxon %1; " VMX_RESULT : "=&a"(result) : "m"(*pointer) : "rcx", "cc", "memory");
  return result;
}
static inline int vmxoff(void) {
  int result;
  __asm__ volatile("vmxoff; " VMX_RESULT : "=&a"(result) : : "rcx", "cc", "memory");
  return result;
}
static inline int vmclear(u64 *pointer) {
  int result;
  __asm__ volatile("vmclear %1; " VMX_RESULT : "=&a"(result) : "m"(*pointer) : "rcx", "cc", "memory");
  return result;
}
static inline int vmptrld(u64 *pointer) {
  int result;
  __asm__ volatile("vmptrld %1; " VMX_RESULT : "=&a"(result) : "m"(*pointer) : "rcx", "cc", "memory");
  return result;
}
static inline int vmwrite(u64 field, u64 value) {
  int result;
  __asm__ volatile("vmwrite %1, %2; " VMX_RESULT : "=&a"(result) : "r"(value), "r"(field) : "rcx", "cc", "memory");
  return result;
}
static inline u64 vmread(u64 field) {
  u64 value = 0;
  __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc", "memory");
  return value;
}
struct descriptor {
  u64 low, high;
};
static inline int invept(u64 type, u64 eptp) {
  struct descriptor d = {eptp, 0};
  int result;
  __asm__ volatile("invept %1, %2; " VMX_RESULT : "=&a"(result) : "m"(d), "r"(type) : "rcx", "cc", "memory");
  return result;
}
static inline int invvpid(u64 type, u64 vpid, u64 address) {
  struct descriptor d = {vpid, address};
  int result;
  __asm__ volatile("invvpid %1, %2; " VMX_RESULT : "=&a"(result) : "m"(d), "r"(type) : "rcx", "cc", "memory");
  return result;
}

/* enter.S: RAX RCX RDX RBX RBP RSI RDI R8…R15. 0: L2 left; 1, 2: VMfail. */
int vmx_enter(u64 *registers, int resume);
extern char vmx_exit[];
