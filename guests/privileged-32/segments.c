/* SDM 3A 3.4 "Logical and Linear Addresses", 5.3 "Limit Checking", 5.5 "Privilege Levels": loads and accesses. */
#include "machine.h"

SNIPPET(user_hlt, "hlt");
SNIPPET(user_cli, "cli");
SNIPPET(user_in_allowed, "in $3, %al");
SNIPPET(user_in_denied, "in $9, %al");
SNIPPET(user_kernel_ds, "mov $0x10, %eax; mov %eax, %ds");
SNIPPET(user_limited_ss, "mov $0x4b, %eax; mov %eax, %ss; mov %ss:12, %eax; mov %ss:13, %eax");
SNIPPET(user_null_ds, "xor %eax, %eax; mov %eax, %ds; mov (%edi), %eax");
SNIPPET(user_call_conforming, "push %cs; push $1f; ljmp $0x50, $conforming_code; 1:");
SNIPPET(user_jump_kernel, "ljmp $8, $conforming_code");
__asm__(".pushsection .text.snippets, \"ax\"\nconforming_code: mov %cs, %eax; lret\n.popsection");

static u32 word[4];

void segment_checks(void) {
  FAULTS("segments: DS beyond the GDT's limit", LOAD(ds, 0x88), GP, 0x88);
  FAULTS("segments: DS from a null LDT", LOAD(ds, 0x0c), GP, 0x0c);
  FAULTS("segments: DS not present", LOAD(ds, ABSENT_DATA), NP, ABSENT_DATA);
  FAULTS("segments: SS not present", LOAD(ss, ABSENT_DATA), SS, ABSENT_DATA);
  FAULTS("segments: SS null", LOAD(ss, 0), GP, 0);
  FAULTS("segments: SS with code", LOAD(ss, CODE), GP, CODE);
  FAULTS("segments: SS with RPL 3 in ring 0", LOAD(ss, USER_DATA), GP, USER_DATA & ~3);
  FAULTS("segments: DS with execute-only code", LOAD(ds, EXECUTE_ONLY), GP, EXECUTE_ONLY);
  FAULTS("segments: ES with readable code", LOAD(es, CODE), NONE, 0);
  FAULTS("segments: access through null ES", LOAD(es, 0); __asm__ volatile("mov %%es:0, %%eax" : : : "eax"), GP, 0);
  FAULTS("segments: store through CS", __asm__ volatile("mov %%eax, %%cs:(%0)" : : "r"(word) : "memory"), GP, 0);
  FAULTS("segments: last dword inside the limit", LOAD(es, LIMITED_DATA); __asm__ volatile("mov %%es:12, %%eax" : : : "eax"), NONE, 0);
  FAULTS("segments: dword over the limit", __asm__ volatile("mov %%es:13, %%eax" : : : "eax"), GP, 0);
  FAULTS("segments: expand-down, offset below the limit", LOAD(es, EXPAND_DOWN); __asm__ volatile("mov %%es:0xfff, %%al" : : : "eax"), GP, 0);
  FAULTS("segments: expand-down, offset above it", __asm__ volatile("mov %%es:0x1000, %%al" : : : "eax"), NONE, 0);
  LOAD(es, DATA);
  check_value("segments: a load sets the descriptor's accessed bit", gdt[EXPAND_DOWN / 8] >> 40 & 1, 1);
  FAULTS("ring 3: HLT", user(user_hlt, 0), GP, 0);
  FAULTS("ring 3: CLI with IOPL 0", user(user_cli, 0), GP, 0);
  FAULTS("ring 3: IN from a port that the TSS allows", user(user_in_allowed, 0), VECTOR_DONE, 0);
  FAULTS("ring 3: IN from a port that it denies", user(user_in_denied, 0), GP, 0);
  FAULTS("ring 3: DS with DPL 0", user(user_kernel_ds, 0), GP, DATA);
  FAULTS("ring 3: over the limit through SS", user(user_limited_ss, 0), SS, 0);
  FAULTS("ring 3: access through null DS", user(user_null_ds, (u32)word), GP, 0);
  FAULTS("ring 3: far jump to conforming code", user(user_call_conforming, 0), VECTOR_DONE, 0);
  check_value("ring 3: CPL stays 3 there", caught.frame.eax, CONFORMING | 3);
  FAULTS("ring 3: far jump to ring 0's code", user(user_jump_kernel, 0), GP, CODE);
  u16 value = USER_DATA & ~3;
  u8 adjusted;
  __asm__ volatile("arpl %w2, %0; setz %1" : "+r"(value), "=q"(adjusted) : "r"(3) : "cc");
  check_value("segments: ARPL raises the RPL", (u32)value << 8 | adjusted, USER_DATA << 8 | 1);
}
