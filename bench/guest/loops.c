/*
 * The loop suite's guest: takes a line "KERNEL COUNT" on COM1, says "go", runs that kernel COUNT times and says
 * "done RESULT". The kernels are the demo's workloads and those below; a kernel is named by how its name begins.
 * Every run of a kernel is the same instructions: each sets up what it reads.
 */
#include "../../guests/lib/console.h"
#include "../../guests/lib/frame.h"
/* frame.h has the types of workloads.h already */
struct workload {
  const char *name;
  u64 (*run)(void);
  u64 expected;
};
extern const struct workload workloads[];
extern const int workload_count;

__attribute__((target("general-regs-only"))) void interrupt(struct frame *frame) {
  put("exception ");
  put_decimal(frame->vector);
  put(" at ");
  put_hex(frame->rip, 16);
  put("\n");
  leave(2);
}

/* A ring through 1 MiB in an order that no prefetcher guesses: one load a step, each waits for the one before. */
static u64 pointers(void) {
  enum { SLOTS = 1 << 17 };
  static u64 *ring[SLOTS];
  static int ready;
  if (!ready) {
    /* Steps of an odd number visit every slot of a power of two */
    u32 at = 0;
    for (u32 i = 0; i < SLOTS; i++) {
      u32 next = (at + 48271) & (SLOTS - 1);
      ring[at] = (u64 *)&ring[next];
      at = next;
    }
    ready = 1;
  }
  u64 **p = &ring[0];
  for (u32 i = 0; i < SLOTS; i++) p = (u64 **)*p;
  return (u64)(p - &ring[0]);
}

static u8 source[1 << 16], target[1 << 16];

/* memcpy as C libraries have it without vectors: 8 bytes a step, four steps a turn. */
static u64 copy(void) {
  for (int round = 0; round < 16; round++) {
    const u64 *from = (const u64 *)source;
    u64 *to = (u64 *)target;
    for (u32 i = 0; i < sizeof source / 8; i += 4) {
      u64 a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];
      __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d)); /* no vectors, no REP MOVS */
      to[i] = a, to[i + 1] = b, to[i + 2] = c, to[i + 3] = d;
    }
    __asm__ volatile("" : : : "memory");
  }
  return target[100];
}

/* REP MOVSB: what kernels copy with. */
static u64 movs(void) {
  for (int round = 0; round < 16; round++) {
    void *to = target, *from = source;
    u64 count = sizeof source;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  }
  return target[200];
}

/* A byte code: an indirect jump an operation, as in interpreters and virtual calls. */
__attribute__((noinline)) static u64 op_add(u64 x) { return x + 0x9e3779b9; }
__attribute__((noinline)) static u64 op_rotate(u64 x) { return (x << 7) | (x >> 57); }
__attribute__((noinline)) static u64 op_xor(u64 x) { return x ^ (x >> 11); }
__attribute__((noinline)) static u64 op_multiply(u64 x) { return x * 5; }
static u64 dispatch(void) {
  static u64 (*const volatile operations[])(u64) = {op_add, op_rotate, op_xor, op_multiply};
  u64 x = 1;
  for (u32 i = 0; i < 50000; i++) x = operations[(x ^ i) & 3](x);
  return x;
}

static const struct workload own[] = {
    {"pointers", pointers, 0},
    {"copy", copy, 0},
    {"movs", movs, 0},
    {"dispatch", dispatch, 0},
};

static int begins(const char *text, const char *word) {
  for (; *word; word++, text++)
    if (*text != *word) return 0;
  return 1;
}

static const struct workload *find(const char *word) {
  for (int i = 0; i < workload_count; i++)
    if (begins(workloads[i].name, word)) return &workloads[i];
  for (u32 i = 0; i < sizeof own / sizeof own[0]; i++)
    if (begins(own[i].name, word)) return &own[i];
  return 0;
}

static char take_char(void) {
  while (!(in8(COM1_LSR) & 1)) __asm__ volatile("pause");
  return in8(COM1);
}

void kernel(u32 magic) {
  (void)magic;
  console_start();
  for (u32 i = 0; i < sizeof source; i++) source[i] = i * 7 + (i >> 8);
  put("loops\n");
  for (;;) {
    char word[16];
    u32 length = 0, count = 0;
    for (char c; (c = take_char()) != ' ';)
      if (length < sizeof word - 1) word[length++] = c;
    word[length] = 0;
    for (char c; (c = take_char()) != '\n';) count = count * 10 + (c - '0');
    const struct workload *workload = find(word);
    if (!workload) {
      put("done unknown\n");
      continue;
    }
    put("go\n");
    u64 result = 0;
    for (u32 i = 0; i < count; i++) result = workload->run();
    put("done ");
    put_hex(result, 16);
    put("\n");
  }
}
