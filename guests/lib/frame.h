/* What `common` of long-mode.S pushed: SDM 3A 6.14.2 "64-Bit Mode Stack Frame", below it the general registers. */
#pragma once
#include "console.h"

struct frame {
  u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  u64 vector, error;
  u64 rip, cs, rflags, rsp, ss;
};
