/* Sets up a stack and hands over what the loader left in EAX and EBX. */
#include "../lib/multiboot.inc"
multiboot_header

  .text
  .globl start
start:
  cli
  cld
  mov $stack_top, %esp
  push %ebx
  push %eax
  call hello
  hlt

  .bss
  .balign 16
  .skip 4096
stack_top:
  .section .note.GNU-stack, "", @progbits
