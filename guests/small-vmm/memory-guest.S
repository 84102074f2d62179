/* The guest of memory.c. ECX: pages of each kind; 0x500: stop, 0x508: where its pages are, 0x510: passes. */
.section .rodata
.globl count_64, end_count_64
.code64
count_64:
1:  movq 0x508, %rdi
    movl %ecx, %edx
    movq %rdx, %rbx
    shlq $12, %rbx
    incq %rsi
2:  incq (%rdi)
    movq %rsi, (%rdi,%rbx)
    addq $0x1000, %rdi
    decl %edx
    jnz 2b
    movq %rsi, 0x510
    cmpb $0, 0x500
    je 1b
    outb %al, $0x10
end_count_64:
.section .note.GNU-stack,"",@progbits
