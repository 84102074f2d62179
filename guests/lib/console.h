/* COM1, polled, and isa-debug-exit: all that a guest of ours asks of the platform. Works in 32 and 64-bit code. */
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __UINTPTR_TYPE__ uptr;

enum { COM1 = 0x3f8, COM1_LSR = COM1 + 5, LSR_THRE = 0x20, DEBUG_EXIT = 0xf4 };

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) {
  u8 value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

/* 115200 baud, 8 data bits, no parity: after reset a UART sends 5 bits, and some machines take that to the letter. */
static inline void console_start(void) {
  out8(COM1 + 1, 0);
  out8(COM1 + 3, 0x80);
  out8(COM1, 1);
  out8(COM1 + 1, 0);
  out8(COM1 + 3, 3);
}

static inline void put_char(char c) {
  while (!(in8(COM1_LSR) & LSR_THRE)) {
  }
  out8(COM1, c);
}

static inline void put(const char *text) {
  for (; *text; text++) put_char(*text);
}

static inline void put_hex(u64 value, int digits) {
  for (int shift = digits * 4 - 4; shift >= 0; shift -= 4) put_char("0123456789abcdef"[(value >> shift) & 15]);
}

static inline void put_decimal(u32 value) {
  char digits[10];
  int count = 0;
  do digits[count++] = '0' + value % 10;
  while (value /= 10);
  while (count) put_char(digits[--count]);
}

/* The process that runs the machine ends with status (code << 1) | 1. */
static inline _Noreturn void leave(u32 code) {
  out32(DEBUG_EXIT, code);
  for (;;) __asm__ volatile("cli; hlt"); /* no such device: stop here */
}
