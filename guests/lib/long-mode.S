/*
 * From the Multiboot entry (32-bit, no paging) to 64-bit mode: identity map of 4 GiB in 2 MiB pages, SSE on, an IDT
 * whose 256 stubs all go to `interrupt(frame)`, which must leave the FP state alone: it may be compiled with
 * target("general-regs-only"). Then calls `kernel(magic, info)`.
 * Source: SDM 3A 9.8.5 "Initializing IA-32e Mode".
 */
#include "multiboot.inc"
multiboot_header

#define CR0_MP 0x2
#define CR0_EM 0x4
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define CR4_OSFXSR 0x200
#define CR4_OSXMMEXCPT 0x400
#define EFER 0xc0000080
#define EFER_LME 0x100
#define PAGE_PRESENT_WRITE 0x3
#define PAGE_2M 0x83

  .text
  .code32
  .globl start
start:
  cli
  cld
  mov $stack_top, %esp
  mov %eax, %ebp            /* magic */
  mov %ebx, %esi            /* info */

  movl $(pdpt + PAGE_PRESENT_WRITE), pml4
  mov $pdpt, %edi
  mov $(directories + PAGE_PRESENT_WRITE), %eax
  mov $4, %ecx
1: mov %eax, (%edi)
  add $4096, %eax
  add $8, %edi
  loop 1b

  mov $directories, %edi
  mov $PAGE_2M, %eax
  mov $2048, %ecx
2: mov %eax, (%edi)
  add $0x200000, %eax
  add $8, %edi
  loop 2b

  mov %cr4, %eax
  or $(CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
  mov %eax, %cr4
  mov $pml4, %eax
  mov %eax, %cr3
  mov $EFER, %ecx
  rdmsr
  or $EFER_LME, %eax
  wrmsr
  mov %cr0, %eax
  and $~CR0_EM, %eax
  or $(CR0_PG | CR0_MP), %eax
  mov %eax, %cr0
  lgdt gdt_pointer
  ljmp $8, $start64

  .code64
start64:
  mov $16, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  xor %eax, %eax
  mov %eax, %fs
  mov %eax, %gs

  /* Gates: SDM 3A 6.14.1 "64-Bit Mode IDT". All stubs are below 4 GiB, so the upper half stays zero. */
  lea stubs(%rip), %rax
  lea idt(%rip), %rdi
  mov $256, %ecx
3: mov %ax, (%rdi)
  movw $8, 2(%rdi)
  movw $0x8e00, 4(%rdi)
  mov %rax, %rdx
  shr $16, %rdx
  mov %dx, 6(%rdi)
  add $16, %rax
  add $16, %rdi
  loop 3b
  lidt idt_pointer(%rip)

  fninit
  mov %ebp, %edi
  /* ESI is the info already */
  call kernel
  hlt

  /* 16 bytes each; those without an error code push 0, so that all frames look alike. */
  .balign 16
stubs:
  .set vector, 0
  .rept 256
  .balign 16
  .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21 && vector != 29 && vector != 30
  push $0
  .endif
  pushq $vector
  jmp common
  .set vector, vector + 1
  .endr

  .balign 16
common:
  push %rax
  push %rbx
  push %rcx
  push %rdx
  push %rsi
  push %rdi
  push %rbp
  push %r8
  push %r9
  push %r10
  push %r11
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, %rdi
  mov %rsp, %rbx
  and $-16, %rsp
  cld
  call interrupt
  mov %rbx, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %r11
  pop %r10
  pop %r9
  pop %r8
  pop %rbp
  pop %rdi
  pop %rsi
  pop %rdx
  pop %rcx
  pop %rbx
  pop %rax
  add $16, %rsp
  iretq

  .data
  .balign 8
gdt:
  .quad 0
  .quad 0x00af9b000000ffff   /* 08: 64-bit code */
  .quad 0x00cf93000000ffff   /* 10: data */
gdt_pointer:
  .word gdt_pointer - gdt - 1
  .quad gdt
idt_pointer:
  .word 4095
  .quad idt

  .globl idt, pml4, pdpt, directories, gdt
  .bss
  .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
directories: .skip 4 * 4096
idt: .skip 4096
  .skip 65536
stack_top:
  .section .note.GNU-stack, "", @progbits
