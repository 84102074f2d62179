/* A virtual machine of this hypervisor, and what is shared by all of them. */
#pragma once
#include "vmx.h"

struct vm {
  u64 vmcs __attribute__((aligned(8)));
  u64 registers[15];
  int launched;
};
enum reg { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* vm.c */
extern u64 offered_secondary;
int vmx_start(void);
void vmx_stop(void);
/* A VMCS for 64-bit code at `rip` on the tables `cr3`. */
void vm_create(struct vm *vm, void (*rip)(void), u64 cr3);
/* Changes the controls of the current VMCS. */
void secondary_controls(struct vm *vm, u32 controls);
void to_pae(struct vm *vm, void (*eip)(void), u64 cr3, const u64 *pdptes);
void to_real_mode(struct vm *vm, u16 segment);
/* Runs to the next exit; returns the basic reason, or leaves the machine with a message. */
u32 vm_run(struct vm *vm);
void vm_load(struct vm *vm);
static inline void vm_skip(void) { vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH)); }
_Noreturn void give_up(const char *why, u64 number);

/* tables.c */
void tables_start(void);
u64 ept_identity(int which);
void ept_map(int which, u64 address, u64 frame, u64 rights);
u64 *ept_leaf(int which, u64 address);
extern u64 l2_pml4[512], pae_pdpt[4];
enum { EPT_COUNT = 5, TOUCHED_BASE_SHIFT = 32, TOUCH_PAGES = 256 };
#define TOUCHED (1ull << TOUCHED_BASE_SHIFT)
extern u8 touch_frames[TOUCH_PAGES][4096];
