/* What sys.h promises. */
#include "sys.h"
#include <asm/unistd.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <stdarg.h>

#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22
#define STACK_BYTES 0x10000
#define HUGE 0x200000ul

long sys(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

void *memset(void *to, int byte, u64 bytes) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
  return to;
}

void *memcpy(void *to, const void *from, u64 bytes) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
  return to;
}

u64 strlen(const char *text) {
  u64 length = 0;
  while (text[length]) length++;
  return length;
}

int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static int number(char *to, u64 value, u32 base) {
  char digits[24];
  int count = 0;
  do digits[count++] = "0123456789abcdef"[value % base];
  while (value /= base);
  for (int i = 0; i < count; i++) to[i] = digits[count - 1 - i];
  to[count] = 0;
  return count;
}

static void print_list(const char *format, va_list list) {
  char out[1024];
  u64 used = 0;
  for (; *format && used < sizeof out - 64; format++) {
    if (*format != '%') {
      out[used++] = *format;
      continue;
    }
    char text[32], *what = text, fill = ' ';
    int left = 0;
    u64 width = 0;
    format++;
    if (*format == '-') left = 1, format++;
    if (*format == '0') fill = '0';
    while (*format >= '0' && *format <= '9') width = width * 10 + (u64)(*format++ - '0');
    if (*format == 's') {
      what = va_arg(list, char *);
    } else if (*format == 'x') {
      number(text, va_arg(list, u64), 16);
    } else if (*format == 'd') {
      long value = va_arg(list, long);
      text[0] = '-';
      number(text + (value < 0), (u64)(value < 0 ? -value : value), 10);
    } else {
      number(text, va_arg(list, u64), 10);
    }
    u64 length = strlen(what);
    if (length > 900) length = 900;
    for (u64 i = length; !left && i < width && used < sizeof out; i++) out[used++] = fill;
    for (u64 i = 0; i < length && used < sizeof out; i++) out[used++] = what[i];
    for (u64 i = length; left && i < width && used < sizeof out; i++) out[used++] = ' ';
  }
  SYS(__NR_write, 1, out, used);
}

void print(const char *format, ...) {
  va_list list;
  va_start(list, format);
  print_list(format, list);
  va_end(list);
}

_Noreturn void end(int status) {
  for (;;) SYS(__NR_exit_group, status);
}

_Noreturn void fail(const char *format, ...) {
  va_list list;
  va_start(list, format);
  print("small-vmm: ");
  print_list(format, list);
  print("\n");
  end(1);
}

long must_ioctl(int fd, u64 request, void *argument, const char *name) {
  long result = SYS(__NR_ioctl, fd, request, argument);
  if (result < 0) fail("%s: error %d", name, -result);
  return result;
}

static u64 clock(int which, u64 per_second) {
  long time[2] = {0, 0};
  SYS(__NR_clock_gettime, which, time);
  return (u64)time[0] * per_second + (per_second > 1 ? (u64)time[1] : 0);
}
u64 now_ns(void) { return clock(1, 1000000000); }
u64 seconds_since_1970(void) { return clock(0, 1); }

/* clone() gives the child a stack of its own: it finds there what to run and with what. */
__asm__(
    "clone_and_run:\n" /* flags, top of stack */
    "  mov $56, %eax\n"
    "  syscall\n"
    "  test %rax, %rax\n"
    "  jnz 1f\n"
    "  xor %ebp, %ebp\n"
    "  pop %rax\n"
    "  pop %rdi\n"
    "  call *%rax\n"
    "  ud2\n"
    "1: ret\n");
long clone_and_run(u64 flags, void *stack);

void start_thread(void (*run)(void *), void *argument) {
  u64 *top = (u64 *)(allocate(STACK_BYTES) + STACK_BYTES - 32);
  top[0] = (u64)run;
  top[1] = (u64)argument;
  long result = clone_and_run(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, top);
  if (result < 0) fail("clone: error %d", -result);
}

void lock(Lock *lock) {
  int expected = 0;
  if (__atomic_compare_exchange_n(&lock->state, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  while (__atomic_exchange_n(&lock->state, 2, __ATOMIC_ACQUIRE))
    SYS(__NR_futex, &lock->state, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2);
}

void unlock(Lock *lock) {
  if (__atomic_exchange_n(&lock->state, 0, __ATOMIC_RELEASE) == 2)
    SYS(__NR_futex, &lock->state, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

u8 *allocate(u64 bytes) {
  u64 extra = bytes >= HUGE ? HUGE : 0;
  long at = SYS(__NR_mmap, 0, bytes + extra, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
  if (at < 0 && at > -4096) fail("no memory for %u bytes", bytes);
  return (u8 *)(extra ? ((u64)at + HUGE - 1) & ~(HUGE - 1) : (u64)at);
}

/* The kernel enters with argc and argv on the stack. */
int vmm_main(int argc, char **argv);
__attribute__((used)) static void entered(long *stack) { end(vmm_main((int)stack[0], (char **)(stack + 1))); }
__asm__(
    ".globl _start\n"
    "_start:\n"
    "  xor %ebp, %ebp\n"
    "  mov %rsp, %rdi\n"
    "  and $-16, %rsp\n"
    "  call entered\n");
