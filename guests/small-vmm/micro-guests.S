/* Micro-guests, once for each size of code. ESI: how often; EDI: where to touch. They say they are done with OUT 0x10,
 * and what they count in user space with OUT 0x11. */
.macro guests bits
.globl cpuid_\bits, out_\bits, hlt_\bits, touch_\bits, end_\bits
cpuid_\bits:
1:  xorl %eax, %eax
    xorl %ecx, %ecx
    cpuid
    decl %esi
    jnz 1b
    outb %al, $0x10
out_\bits:
1:  movl %esi, %eax
    outb %al, $0x11
    decl %esi
    jnz 1b
    outb %al, $0x10
hlt_\bits:
1:  hlt
    decl %esi
    jnz 1b
    outb %al, $0x10
touch_\bits:
1:
.if \bits == 16
    movl %edi, %eax
    shrl $4, %eax
    movw %ax, %ds
    movl %esi, %ds:(0)
.elseif \bits == 32
    movl %esi, (%edi)
.else
    movl %esi, (%rdi)
.endif
    addl $0x1000, %edi
    decl %esi
    jnz 1b
    outb %al, $0x10
end_\bits:
.endm

.section .rodata
.code16
guests 16
.code32
guests 32
.code64
guests 64
.section .note.GNU-stack,"",@progbits
