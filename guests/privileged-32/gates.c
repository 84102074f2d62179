/* Interrupt, trap, task and call gates: SDM 3A 5.8 "Privilege Level Checking When Transferring Control", 6.12. */
#include "machine.h"

SNIPPET(user_int_kernel, "int $0x60");
SNIPPET(user_int3, "int3");
SNIPPET(user_into, "mov $0x7fffffff, %eax; inc %eax; into");
SNIPPET(user_bound, "mov $9, %eax; bound %eax, (%edi)");
SNIPPET(user_call_gate, "push $0x33; push $0x44; lcall $0x3b, $0; mov %esp, %ebx");
SNIPPET(user_call_absent, "lcall $0x6b, $0");
SNIPPET(user_call_kernel_gate, "lcall $0x73, $0");
SNIPPET(user_jump_gate, "ljmp $0x3b, $0");

static volatile u32 gate_cs, gate_ss, gate_parameter, gate_second, gate_old_cs;
extern const u8 gate_code[];
__asm__(".pushsection .text.snippets, \"ax\"\n"
        "gate_code: movl %cs, %eax; movl %eax, %ss:gate_cs; movl %ss, %eax; movl %eax, %ss:gate_ss\n"
        "  movl 4(%esp), %eax; movl %eax, %ss:gate_old_cs\n"
        "  movl 8(%esp), %eax; movl %eax, %ss:gate_parameter; movl 12(%esp), %eax; movl %eax, %ss:gate_second; lret $8\n.popsection");

static void set_call_gate(u32 selector, u32 handler, u32 type, u32 parameters) {
  gdt[selector / 8] = (handler & 0xffff) | CODE << 16 | (u64)parameters << 32 | (u64)type << 40 | (u64)(handler & 0xffff0000) << 32;
}

void gate_checks(void) {
  FAULTS("gates: INT n from ring 3 through a gate of DPL 0", user(user_int_kernel, 0), GP, 0x60 * 8 + 2);
  FAULTS("gates: INT3 from ring 3", user(user_int3, 0), BP, 0);
  check_value("gates: EIP is behind it", caught.frame.eip - (u32)user_int3, 1);
  check_value("gates: ring 3's CS and SS are in the frame", caught.frame.cs << 16 | caught.frame.ss, USER_CODE << 16 | USER_DATA);
  FAULTS("gates: INTO with OF", user(user_into, 0), OF, 0);
  static const u32 bounds[2] = {0, 8};
  FAULTS("gates: BOUND", user(user_bound, (u32)bounds), BR, 0);
  check_value("gates: #BR is a fault", caught.frame.eip - (u32)user_bound, 5);

  set_call_gate(CALL_GATE, (u32)gate_code, 0xec, 2);
  set_call_gate(ABSENT_GATE, (u32)gate_code, 0x6c, 2);
  set_call_gate(KERNEL_GATE, (u32)gate_code, 0x8c, 2);
  FAULTS("call gate: from ring 3 to ring 0 and back", user(user_call_gate, 0), VECTOR_DONE, 0);
  check_value("call gate: CPL 0 inside", gate_cs, CODE);
  check_value("call gate: on ring 0's stack", gate_ss, DATA);
  check_value("call gate: the parameters are copied", gate_parameter << 8 | gate_second, 0x4433);
  check_value("call gate: the return address is ring 3's", gate_old_cs & 0xffff, USER_CODE);
  check_value("call gate: RET 8 takes them off both stacks", caught.frame.esp - caught.frame.ebx, 0);
  FAULTS("call gate: not present", user(user_call_absent, 0), NP, ABSENT_GATE);
  FAULTS("call gate: of DPL 0 from ring 3", user(user_call_kernel_gate, 0), GP, KERNEL_GATE);
  FAULTS("call gate: a jump cannot raise the privilege", user(user_jump_gate, 0), GP, CODE);
  gate_parameter = 0;
  FAULTS("call gate: within ring 0 no stack is changed", __asm__ volatile("push $0x55; push $0x66; lcall $0x70, $0" : : : "eax", "memory"), NONE, 0);
  check_value("call gate: the parameters are where they were pushed", gate_parameter << 8 | gate_second, 0x6655);
}
