/* A virtual machine over /dev/kvm: what the micro-guests and Linux share. */
#ifndef SMALL_VMM_H
#define SMALL_VMM_H
#include <asm/unistd.h>
#include <linux/kvm.h>
#include "sys.h"

#define MAX_CPUS 8

typedef struct {
  int kvm, vm;
  u8 *ram;
  u64 ram_bytes;
  u32 cpus;
  u64 run_bytes;
} Vm;

typedef struct {
  Vm *vm;
  int fd;
  u32 id;
  struct kvm_run *run;
} Vcpu;

/** /dev/kvm, a VM and RAM from address 0 on. `irqchip`: PICs, I/O APIC, local APICs and PIT in the kernel. */
void open_vm(Vm *vm, u64 ram_bytes, u32 cpus, int irqchip);
void close_vm(Vm *vm);
void open_vcpu(Vm *vm, Vcpu *vcpu, u32 id);
void close_vcpu(Vcpu *vcpu);
/** KVM_RUN until it leaves for another reason than a signal. */
u32 enter(Vcpu *vcpu);
const char *exit_name(u32 reason);
/** Prints why a vCPU left that should not have, with its registers. */
void print_state(Vcpu *vcpu);

/** Modes a vCPU can start in, all flat. */
enum { MODE_REAL, MODE_PROTECTED, MODE_PAGED_32, MODE_PAE, MODE_LONG, MODES };
/** Puts the vCPU in that mode: GDT and page tables (identity, large pages) are written at `tables`, 8 pages of RAM. */
void set_mode(Vcpu *vcpu, int mode, u64 tables);

int bench(int argc, char **argv);
int trips(int argc, char **argv);
int run_linux(int argc, char **argv);

/** Changes the memory map of a running guest `rounds` times and looks at what it wrote; memory.c. */
int memory_map(u64 rounds);
/** What is done to the RAM of a running Linux. */
typedef struct {
  u64 every_ms;
  int log_dirty, page_out, merge;
} Disturbance;
void start_disturbing(Vm *vm, Disturbance what);
void print_disturbance(void);
/** A number from 1 to `most`, or the end. */
u64 number(const char *name, const char *text, u64 most);

/** What an OUT or IN of the guest means; devices.c. */
void devices_start(Vm *vm);
void port_access(Vcpu *vcpu);
_Noreturn void guest_ended(const char *how, int status);

/** Writes RSDP, XSDT, FADT, DSDT, FACS and MADT. Returns the RSDP's address. */
u64 write_acpi(Vm *vm);
#define PM1_EVENT_PORT 0x600
#define PM1_CONTROL_PORT 0x604
#endif
