/* Multiboot entry of the 32-bit suite, and the 256 stubs through which every exception goes to `interrupt(frame)`. */
#include "../lib/multiboot.inc"
multiboot_header

  .text
  .globl start, stubs
start:
  cli
  cld
  mov $stack_top, %esp
  mov %eax, %edi
  lgdt gdt_pointer
  ljmp $8, $1f
1: mov $16, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov %eax, %fs
  mov %eax, %gs
  push %edi
  call kernel
  hlt

  .balign 16
stubs:
  .set vector, 0
  .rept 256
  .balign 16
  .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17
  push $0
  .endif
  push $vector
  jmp common
  .set vector, vector + 1
  .endr

  .balign 16
common:
  push %ds
  push %es
  push %fs
  push %gs
  pusha
  mov $16, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %esp, %eax
  push %eax
  call interrupt
  pop %eax
  popa
  pop %gs
  pop %fs
  pop %es
  pop %ds
  add $8, %esp
  iret

  .data
gdt_pointer:
  .word 17 * 8 - 1
  .long gdt

  .bss
  .balign 16
  .skip 16384
stack_top:
  .section .note.GNU-stack, "", @progbits
