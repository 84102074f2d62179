/*
 * Into L2 and back, and what the L2s run. SDM 3C 26 "VM Entries", 27 "VM Exits".
 */
#define HOST_RSP 0x6c14

  .text
  .code64
  .globl vmx_enter, vmx_exit
/* int vmx_enter(u64 *registers, int resume) */
vmx_enter:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  push %rdi
  mov $HOST_RSP, %eax
  vmwrite %rsp, %rax
  test %esi, %esi
  mov 0(%rdi), %rax
  mov 8(%rdi), %rcx
  mov 16(%rdi), %rdx
  mov 24(%rdi), %rbx
  mov 32(%rdi), %rbp
  mov 40(%rdi), %rsi
  mov 56(%rdi), %r8
  mov 64(%rdi), %r9
  mov 72(%rdi), %r10
  mov 80(%rdi), %r11
  mov 88(%rdi), %r12
  mov 96(%rdi), %r13
  mov 104(%rdi), %r14
  mov 112(%rdi), %r15
  mov 48(%rdi), %rdi
  jnz 1f
  vmlaunch
  jmp 2f
1: vmresume
2: mov $1, %eax
  jc 3f
  mov $2, %eax
3: pop %rdi
  jmp 4f

vmx_exit:
  xchg %rdi, (%rsp)
  mov %rax, 0(%rdi)
  mov %rcx, 8(%rdi)
  mov %rdx, 16(%rdi)
  mov %rbx, 24(%rdi)
  mov %rbp, 32(%rdi)
  mov %rsi, 40(%rdi)
  mov %r8, 56(%rdi)
  mov %r9, 64(%rdi)
  mov %r10, 72(%rdi)
  mov %r11, 80(%rdi)
  mov %r12, 88(%rdi)
  mov %r13, 96(%rdi)
  mov %r14, 104(%rdi)
  mov %r15, 112(%rdi)
  popq 48(%rdi)
  xor %eax, %eax
4: pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

/* ---- what L2 runs in 64-bit mode. RBX counts rounds. ---- */
  .globl l2_cpuid, l2_vmcall, l2_port, l2_touch, l2_functions, l2_spin, l2_read, l2_halt
l2_cpuid:
  xor %ebp, %ebp
1: xor %eax, %eax
  cpuid
  inc %rbp
  jmp 1b

l2_vmcall:
  xor %ebp, %ebp
1: vmcall
  inc %rbp
  jmp 1b

l2_port:
  xor %ebp, %ebp
1: mov %ebp, %eax
  out %al, $0x80
  in $0x80, %al
  inc %rbp
  jmp 1b

/* Writes RBP to page after page from RSI on, RDX of them, then calls. */
l2_touch:
  mov %rsi, %rdi
  mov %rdx, %rcx
1: mov %rbp, (%rdi)
  add $4096, %rdi
  inc %rbp
  dec %rcx
  jnz 1b
  vmcall
  jmp l2_touch

/* VMFUNC leaf 0: EPTP 0, 1, 2, 3, 0 …, RDX times; sums in R8 what (RSI) holds under each; then calls. */
l2_functions:
  xor %r8d, %r8d
  xor %ebx, %ebx
1: mov %ebx, %ecx
  xor %eax, %eax
  .byte 0x0f, 0x01, 0xd4 /* vmfunc */
  add (%rsi), %r8
  inc %ebx
  and $3, %ebx
  dec %rdx
  jnz 1b
  vmcall
  jmp l2_functions

/* Reads (RSI) into R8 and calls. */
l2_read:
1: mov (%rsi), %r8
  vmcall
  jmp 1b

l2_spin:
1: inc %rbp
  jmp 1b

l2_halt:
  hlt
  vmcall
  jmp l2_halt

/* ---- 32-bit protected mode with PAE paging ---- */
  .code32
  .globl l2_pae
l2_pae:
  xor %ebp, %ebp
1: xor %eax, %eax
  cpuid
  inc %ebp
  jmp 1b

/* ---- real mode, copied below 1 MiB: CS:IP is 0800:0000 ---- */
  .code16
  .globl l2_real, l2_real_end
l2_real:
  xor %bp, %bp
1: push %bp
  pop %bx
  inc %bp
  mov %cs, %ax
  mov %ax, %ds
  mov %bp, l2_real_word - l2_real
  vmcall
  jmp 1b
l2_real_word: .word 0
l2_real_end:
  .section .note.GNU-stack, "", @progbits
