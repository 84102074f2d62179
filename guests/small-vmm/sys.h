/* The little of Linux and of C that the VMM needs without a C library. Source: x86-64 psABI A.2.1 "Calling
 * Conventions" (system calls). */
#ifndef SMALL_VMM_SYS_H
#define SMALL_VMM_SYS_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/** Raw system call: a negative result is -errno. */
long sys(long number, long a, long b, long c, long d, long e, long f);
#define SYS(number, ...) SYS_(number, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_(number, a, b, c, d, e, f, ...) \
  sys(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

void *memset(void *to, int byte, u64 bytes);
void *memcpy(void *to, const void *from, u64 bytes);
u64 strlen(const char *text);
int same(const char *a, const char *b);

/** To stdout. Knows %s %d %u %x (u64 all of them) and a width with or without 0, as in %08x or %6u or %-8s. */
void print(const char *format, ...);
/** Says why on stderr's stdout and ends the process with status 1. */
_Noreturn void fail(const char *format, ...);
_Noreturn void end(int status);
/** ioctl that must succeed. */
long must_ioctl(int fd, u64 request, void *argument, const char *name);

u64 now_ns(void);
u64 seconds_since_1970(void);
static inline u64 rdtsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

/** Starts a thread that shares all with this one and never returns. */
void start_thread(void (*run)(void *), void *argument);

/** A lock that sleeps: 0 free, 1 held, 2 held and waited for. */
typedef struct {
  int state;
} Lock;
void lock(Lock *lock);
void unlock(Lock *lock);

/** Page-aligned fresh zeroed memory, aligned to 2 MiB if it is that large. */
u8 *allocate(u64 bytes);
#endif
