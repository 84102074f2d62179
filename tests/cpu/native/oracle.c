/*
 * Runs one x86 instruction (or a short sequence) at a time on the real processor and reports the state after it.
 *
 * How      The whole loop lives in a signal handler: it stores what the signal frame says of the case that has just
 *          ended, writes the next case into the same frame and returns. The kernel then loads every register (XRSTOR
 *          and IRET), in 64-bit or compatibility mode. The instruction is followed by INT3s, so it always ends in a
 *          signal; nothing is stepped with TF, which PUSHF would see.
 * Owns     the pages below, fixed so that recorded vectors repeat. All of them appear a second time at HIGH, so that
 *          addresses and return addresses above 4 GiB are tried too.
 *
 *            CODE   10000000  2 pages RWX, filled with CC;    then unmapped
 *            DATA   20000000  2 pages RW, before it unmapped; then unmapped at 20002000
 *            RODATA 20003000  1 page  R                        then unmapped
 *            STACK  30000000  1 page  RW, before it unmapped; then unmapped
 *
 * Sandbox  A seccomp filter lets only code above 4 GiB (this program) do the four system calls it needs. A system
 *          call by tested code is SIGSYS, which is reported as vector 255. A case that does not end is ended by a
 *          timer (vector 254).
 * Needs    Linux 5.9 or later on x86-64 (FSGSBASE in user mode). No libc: tested code may change FS, so there is no
 *          thread-local storage here.
 *
 * Protocol, little-endian, on standard input and output; see protocol.ts, which is the other side:
 *
 *   case     u32 size of this record; u16 flags (1 32-bit, 2 has FXSAVE image, 4 has upper halves of YMM);
 *            u8 code bytes; u8 windows; u64 code address; u64 gpr[16]; u64 rflags; u64 fs base; u64 gs base;
 *            u8 code[64]; [u8 fxsave[512]]; [u8 ymmh[256]]; windows x { u32 address; u32 length; bytes }
 *   outcome  u32 size; u16 flags (1 stray writes, 2, 4 as above, 8 FP state changed though the case had none);
 *            u8 vector; u8 windows; u32 error code; u32 0; u64 cr2; u64 rip; u64 gpr[16]; u64 rflags; u64 fs base;
 *            u64 gs base; [fxsave]; [ymmh]; windows x { u32 address; u32 length; bytes }
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

#define HIGH 0x7e0000000000UL
#define CODE 0x10000000UL
#define DATA 0x20000000UL
#define RODATA 0x20003000UL
#define STACK 0x30000000UL
#define PAGE 4096UL

enum { CASE_32 = 1, CASE_FP = 2, CASE_YMM = 4 };
enum { OUT_STRAY = 1, OUT_FP = 2, OUT_YMM = 4, OUT_FP_CHANGED = 8 };
enum { VECTOR_TIMEOUT = 254, VECTOR_SYSCALL = 255 };

/* linux/arch/x86/include/uapi/asm/sigcontext.h: struct sigcontext_64, and ucontext.h around it. */
struct sigcontext {
  u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  u16 cs, gs, fs, ss;
  u64 err, trapno, oldmask, cr2;
  u8 *fpstate;
  u64 reserved[8];
};
struct ucontext {
  u64 flags;
  struct ucontext *link;
  u64 stack[3];
  struct sigcontext mc;
};
#define UC_SIGCONTEXT_SS 2
#define UC_STRICT_RESTORE_SS 4

struct kernel_sigaction {
  void *handler;
  u64 flags;
  void (*restorer)(void);
  u64 mask;
};

struct case_head {
  u32 size;
  u16 flags;
  u8 code_bytes, windows;
  u64 code_address, gpr[16], rflags, fs_base, gs_base;
  u8 code[64];
};
struct outcome_head {
  u32 size;
  u16 flags;
  u8 vector, windows;
  u32 error_code, zero;
  u64 cr2, rip, gpr[16], rflags, fs_base, gs_base;
};

static s64 syscall6(s64 number, s64 a, s64 b, s64 c, s64 d, s64 e, s64 f) {
  s64 result;
  register s64 r10 __asm__("r10") = d;
  register s64 r8 __asm__("r8") = e;
  register s64 r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define CALL(n, a, b, c) syscall6(n, (s64)(a), (s64)(b), (s64)(c), 0, 0, 0)
enum { SYS_read = 0, SYS_write = 1, SYS_mmap = 9, SYS_mprotect = 10, SYS_rt_sigaction = 13, SYS_mremap = 25,
       SYS_setitimer = 38, SYS_sigaltstack = 131, SYS_prctl = 157, SYS_exit_group = 231 };

/* gcc may call these by itself. */
void *memcpy(void *to, const void *from, u64 count) {
  void *result = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  return result;
}
void *memset(void *to, int value, u64 count) {
  void *result = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
  return result;
}

static void die(const char *why) {
  u64 length = 0;
  while (why[length]) length++;
  CALL(SYS_write, 2, why, length);
  CALL(SYS_exit_group, 2, 0, 0);
  __builtin_unreachable();
}

#define BUFFER (1 << 20)
#define RECORD_MAX (1 << 16)
static u8 in[BUFFER + RECORD_MAX] __attribute__((aligned(64)));
static u8 out[BUFFER + RECORD_MAX] __attribute__((aligned(64)));
static u32 in_at, in_end, out_end;
static u8 signal_stack[1 << 16] __attribute__((aligned(64)));
static u8 base_data[3 * PAGE] __attribute__((aligned(64))); /* DATA (2 pages), STACK: what untouched memory holds */
static u8 base_fxsave[512] __attribute__((aligned(64)));
static const struct case_head *current;
static u32 ended, ended_at_last_tick;

static u64 read_fs(void) { u64 v; __asm__ volatile("rdfsbase %0" : "=r"(v)); return v; }
static u64 read_gs(void) { u64 v; __asm__ volatile("rdgsbase %0" : "=r"(v)); return v; }
static void write_fs(u64 v) { __asm__ volatile("wrfsbase %0" : : "r"(v)); }
static void write_gs(u64 v) { __asm__ volatile("wrgsbase %0" : : "r"(v)); }
static void load_data_segments(void) { __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b)); }

/* The pattern of untouched memory; protocol.ts computes the same. */
static void fill_pattern(u8 *to, u64 count, u32 seed) {
  for (u64 i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    to[i] = seed >> 24;
  }
}

static void flush_out(void) {
  for (u32 at = 0; at < out_end;) {
    s64 written = CALL(SYS_write, 1, out + at, out_end - at);
    if (written == -4) continue; /* EINTR */
    if (written <= 0) CALL(SYS_exit_group, 0, 0, 0);
    at += written;
  }
  out_end = 0;
}

/* The next whole record, or the end of the program. */
static const struct case_head *next_case(void) {
  for (;;) {
    u32 have = in_end - in_at;
    if (have >= sizeof(struct case_head)) {
      const struct case_head *head = (const void *)(in + in_at);
      if (head->size < sizeof *head || head->size > RECORD_MAX) die("oracle: a record has an impossible size\n");
      if (head->size <= have) {
        in_at += head->size;
        return head;
      }
    }
    if (in_at) {
      for (u32 i = 0; i < have; i++) in[i] = in[in_at + i];
      in_at = 0;
      in_end = have;
    }
    flush_out();
    s64 got = CALL(SYS_read, 0, in + in_end, BUFFER - in_end);
    if (got == -4) continue;
    if (got < 0) die("oracle: standard input cannot be read\n");
    if (got == 0) CALL(SYS_exit_group, 0, 0, 0);
    in_end += got;
  }
}

static const u8 *windows_of(const struct case_head *head) {
  return (const u8 *)(head + 1) + (head->flags & CASE_FP ? 512 : 0) + (head->flags & CASE_YMM ? 256 : 0);
}

static int in_writable(u64 address, u64 length) {
  return (address >= DATA && address + length <= DATA + 2 * PAGE) ||
         (address >= STACK && address + length <= STACK + PAGE);
}

static u64 *const *gpr_slots(struct sigcontext *mc, u64 *slots[16]) {
  u64 *all[16] = {&mc->rax, &mc->rcx, &mc->rdx, &mc->rbx, &mc->rsp, &mc->rbp, &mc->rsi, &mc->rdi,
                  &mc->r8,  &mc->r9,  &mc->r10, &mc->r11, &mc->r12, &mc->r13, &mc->r14, &mc->r15};
  for (int i = 0; i < 16; i++) slots[i] = all[i];
  return slots;
}

static u64 xstate_bv_of(const u8 *fp) { return *(const u64 *)(fp + 512); }
#define YMM_OFFSET 576 /* CPUID.(EAX=0DH,ECX=2):EBX, fixed in the standard format */

static const u8 zeros[256];
static int differs(const u8 *a, const u8 *b, u64 count) {
  for (u64 i = 0; i < count; i += 8) if (*(const u64 *)(a + i) != *(const u64 *)(b + i)) return 1;
  return 0;
}

/* Puts the frame's FP state into the report. XSTATE_BV = 0 for a component means its initial state. */
static void report_fp(const u8 *fp, u8 *to) {
  u64 bv = xstate_bv_of(fp);
  memcpy(to, fp, 512);
  if (!(bv & 1)) {
    memcpy(to, base_fxsave, 24);
    memset(to + 32, 0, 128);
  }
  if (!(bv & 2)) memset(to + 160, 0, 256);
  memset(to + 416, 0, 96); /* available to software: the kernel's own words */
}

static int fp_is_base(const u8 *fp) {
  u8 image[512] __attribute__((aligned(16)));
  report_fp(fp, image);
  u64 difference = 0;
  for (int i = 32; i < 416; i += 8) difference |= *(u64 *)(image + i) ^ *(const u64 *)(base_fxsave + i);
  difference |= *(u32 *)(image + 24) ^ *(const u32 *)(base_fxsave + 24); /* MXCSR */
  difference |= *(u32 *)image ^ *(const u32 *)base_fxsave;               /* FCW, FSW, FTW; not FOP, FIP, FDP */
  return difference == 0;
}

/* Restores a region to its pattern; tells whether anything outside the windows (already restored) differed. */
static int restore(u8 *live, const u8 *base, u64 count) {
  u64 stray = 0;
  const u64 *b = (const u64 *)base;
  u64 *l = (u64 *)live;
  for (u64 i = 0; i < count / 8; i += 4) {
    u64 d = (l[i] ^ b[i]) | (l[i + 1] ^ b[i + 1]) | (l[i + 2] ^ b[i + 2]) | (l[i + 3] ^ b[i + 3]);
    if (d) {
      stray = 1;
      for (int k = 0; k < 4; k++) l[i + k] = b[i + k];
    }
  }
  return stray != 0;
}

static void end_case(struct ucontext *uc, u8 vector) {
  const struct case_head *head = current;
  struct sigcontext *mc = &uc->mc;
  struct outcome_head *result = (void *)(out + out_end);
  u8 *at = (u8 *)(result + 1);
  u64 *slots[16];
  gpr_slots(mc, slots);

  result->flags = head->flags & (OUT_FP | OUT_YMM);
  result->vector = vector;
  result->windows = head->windows;
  result->error_code = mc->err;
  result->zero = 0;
  result->cr2 = mc->cr2;
  result->rip = mc->rip;
  for (int i = 0; i < 16; i++) result->gpr[i] = *slots[i];
  result->rflags = mc->eflags;
  result->fs_base = read_fs();
  result->gs_base = read_gs();
  load_data_segments();

  if (head->flags & CASE_FP) {
    report_fp(mc->fpstate, at);
    at += 512;
  } else if (!fp_is_base(mc->fpstate)) {
    result->flags |= OUT_FP_CHANGED;
  }
  if (head->flags & CASE_YMM) {
    if (xstate_bv_of(mc->fpstate) & 4) memcpy(at, mc->fpstate + YMM_OFFSET, 256);
    else memset(at, 0, 256);
    at += 256;
  }

  const u8 *window = windows_of(head);
  for (int i = 0; i < head->windows; i++) {
    u32 address = ((const u32 *)window)[0], length = ((const u32 *)window)[1];
    memcpy(at, window, 8);
    memcpy(at + 8, (void *)(u64)address, length);
    at += 8 + length;
    window += 8 + length;
  }
  window = windows_of(head);
  for (int i = 0; i < head->windows; i++) {
    u32 address = ((const u32 *)window)[0], length = ((const u32 *)window)[1];
    const u8 *base = address >= STACK ? base_data + 2 * PAGE + (address - STACK) : base_data + (address - DATA);
    memcpy((void *)(u64)address, base, length);
    window += 8 + length;
  }
  int stray = restore((u8 *)DATA, base_data, 2 * PAGE) | restore((u8 *)STACK, base_data + 2 * PAGE, PAGE);
  u64 low = head->code_address & 0xffffffffUL;
  for (int i = 0; i < head->code_bytes; i++) {
    u8 *byte = (u8 *)low + i;
    if ((u64)byte < CODE + 2 * PAGE) *byte = 0xcc;
  }
  if (stray) result->flags |= OUT_STRAY;

  result->size = at - (u8 *)result;
  out_end += result->size;
  if (out_end >= BUFFER) flush_out();
  ended++;
}

static void begin_case(struct ucontext *uc, const struct case_head *head) {
  struct sigcontext *mc = &uc->mc;
  u64 *slots[16];
  gpr_slots(mc, slots);
  current = head;

  u64 low = head->code_address & 0xffffffffUL;
  if (low < CODE || low >= CODE + 2 * PAGE || head->code_bytes > sizeof head->code) die("oracle: a case's code is outside CODE\n");
  for (int i = 0; i < head->code_bytes; i++) {
    u8 *byte = (u8 *)low + i;
    if ((u64)byte < CODE + 2 * PAGE) *byte = head->code[i];
  }
  for (int i = 0; i < 16; i++) *slots[i] = head->gpr[i];
  mc->rip = head->code_address;
  mc->eflags = head->rflags;
  mc->cs = head->flags & CASE_32 ? 0x23 : 0x33;
  mc->ss = 0x2b;
  uc->flags |= UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;

  const u8 *image = (const u8 *)(head + 1);
  u8 *fp = mc->fpstate;
  memcpy(fp, head->flags & CASE_FP ? image : base_fxsave, 416);
  /* Components that are as after reset are not in use for the processor either: SDM 1 13.6. */
  u64 bv = 0;
  if (differs(fp, base_fxsave, 24) || differs(fp + 32, base_fxsave + 32, 128)) bv |= 1;
  if (differs(fp + 160, base_fxsave + 160, 256)) bv |= 2;
  if (head->flags & CASE_YMM) {
    memcpy(fp + YMM_OFFSET, image + (head->flags & CASE_FP ? 512 : 0), 256);
    if (differs(fp + YMM_OFFSET, zeros, 256)) bv |= 4;
  }
  *(u64 *)(fp + 512) = bv;

  const u8 *window = windows_of(head);
  for (int i = 0; i < head->windows; i++) {
    u32 address = ((const u32 *)window)[0], length = ((const u32 *)window)[1];
    if (!in_writable(address, length)) die("oracle: a window is outside DATA and STACK\n");
    memcpy((void *)(u64)address, window + 8, length);
    window += 8 + length;
  }
  write_fs(head->fs_base);
  write_gs(head->gs_base);
}

static void on_signal(int number, void *info, struct ucontext *uc) {
  (void)info;
  /*
   * The kernel clears DF and TF for a handler, but leaves AC: our own unaligned accesses must not fault. And it takes
   * NT and ID of the next case from here, not from the frame: what one case has set, the next must not see.
   */
  __asm__ volatile("pushfq; andl $~0x244000, (%%rsp); popfq" : : : "cc", "memory");
  if (number == 26) { /* SIGVTALRM: has the same case been running since the last tick? */
    u64 rip = uc->mc.rip & 0xffffffffUL;
    int inside = uc->mc.rip < HIGH + CODE + 2 * PAGE && rip >= CODE && rip < CODE + 2 * PAGE;
    if (!current || !inside || ended != ended_at_last_tick) {
      ended_at_last_tick = ended;
      return;
    }
    end_case(uc, VECTOR_TIMEOUT);
  } else if (current) {
    end_case(uc, number == 31 ? VECTOR_SYSCALL : uc->mc.trapno); /* 31: SIGSYS */
  }
  load_data_segments();
  begin_case(uc, next_case());
}

void restorer(void) __attribute__((visibility("hidden")));
__asm__(".text\n.globl restorer\n.hidden restorer\nrestorer:\n  mov $15, %eax\n  syscall\n"); /* rt_sigreturn */

static void map(u64 address, u64 bytes, u64 protection) {
  enum { MAP_SHARED = 1, MAP_FIXED = 16, MAP_ANONYMOUS = 32, MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2 };
  u64 got = syscall6(SYS_mmap, address, bytes, protection, MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
  if (got != address) die("oracle: a fixed page cannot be mapped\n");
  /* An old size of 0 makes a second mapping of the same shared pages: mremap(2). */
  got = syscall6(SYS_mremap, address, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, HIGH + address, 0);
  if (got != HIGH + address) die("oracle: the high alias cannot be mapped\n");
}

/* Only code above 4 GiB and below the aliases' range may call, and only what the loop needs. */
static void sandbox(void) {
  struct filter { u16 code; u8 yes, no; u32 k; };
  enum { LOAD = 0x20, EQUAL = 0x15, RETURN = 0x06 };
  const u32 allow = 0x7fff0000, trap = 0x00030000;
  struct filter program[] = {
    {LOAD, 0, 0, 4},            /* seccomp_data.arch */
    {EQUAL, 0, 9, 0xc000003e},  /* AUDIT_ARCH_X86_64 */
    {LOAD, 0, 0, 12},           /* instruction_pointer, upper half */
    {EQUAL, 7, 0, 0},           /* below 4 GiB: tested code */
    {EQUAL, 6, 0, HIGH >> 32},  /* the high alias of it */
    {LOAD, 0, 0, 0},            /* nr */
    {EQUAL, 3, 0, SYS_read},
    {EQUAL, 2, 0, SYS_write},
    {EQUAL, 1, 0, 15},
    {EQUAL, 0, 1, SYS_exit_group},
    {RETURN, 0, 0, allow},
    {RETURN, 0, 0, trap},
  };
  struct { u16 length; struct filter *program; } set = {sizeof program / sizeof program[0], program};
  if (CALL(SYS_prctl, 38, 1, 0)) die("oracle: PR_SET_NO_NEW_PRIVS failed\n");
  if (CALL(SYS_prctl, 22, 2, &set)) die("oracle: the seccomp filter was refused\n");
}

__attribute__((force_align_arg_pointer, used)) static void run(const u64 *stack) {
  /* The auxiliary vector follows argv and envp: AT_HWCAP2 (26) bit 1 says FSGSBASE may be used. */
  const u64 *at = stack + stack[0] + 2;
  while (*at) at++;
  u64 hwcap2 = 0;
  for (at++; at[0]; at += 2) if (at[0] == 26) hwcap2 = at[1];
  if (!(hwcap2 & 2)) die("oracle: this kernel does not let user code use RDFSBASE (Linux 5.9 or later does)\n");

  map(CODE, 2 * PAGE, 7);
  map(DATA, 2 * PAGE, 3);
  map(RODATA, PAGE, 3);
  map(STACK, PAGE, 3);
  memset((void *)CODE, 0xcc, 2 * PAGE);
  fill_pattern(base_data, 3 * PAGE, 1);
  memcpy((void *)DATA, base_data, 2 * PAGE);
  memcpy((void *)STACK, base_data + 2 * PAGE, PAGE);
  fill_pattern((u8 *)RODATA, PAGE, 2);
  CALL(SYS_mprotect, RODATA, PAGE, 1);
  CALL(SYS_mprotect, HIGH + RODATA, PAGE, 1);

  /* Touched now, or the first access is a fault with P = 0 even where only the right to write is missing. */
  static const u64 pages[] = {CODE, CODE + PAGE, DATA, DATA + PAGE, RODATA, STACK};
  for (u64 i = 0; i < sizeof pages / sizeof pages[0]; i++) {
    *(volatile u8 *)pages[i];
    *(volatile u8 *)(HIGH + pages[i]);
  }

  memset(base_fxsave, 0, sizeof base_fxsave);
  *(u16 *)base_fxsave = 0x37f;
  *(u32 *)(base_fxsave + 24) = 0x1f80;
  *(u32 *)(base_fxsave + 28) = 0xffff;

  struct { void *base; u64 flags; u64 size; } alternate = {signal_stack, 0, sizeof signal_stack};
  CALL(SYS_sigaltstack, &alternate, 0, 0);
  enum { SA_SIGINFO = 4, SA_ONSTACK = 0x08000000, SA_RESTORER = 0x04000000, SA_RESTART = 0x10000000 };
  struct kernel_sigaction action = {(void *)on_signal, SA_SIGINFO | SA_ONSTACK | SA_RESTORER | SA_RESTART, restorer, ~0UL};
  const int signals[] = {4, 5, 7, 8, 11, 26, 31}; /* ILL TRAP BUS FPE SEGV VTALRM SYS */
  for (u64 i = 0; i < sizeof signals / sizeof signals[0]; i++)
    syscall6(SYS_rt_sigaction, signals[i], (s64)&action, 0, 8, 0, 0);
  u64 interval[4] = {0, 100000, 0, 100000};
  CALL(SYS_setitimer, 1, interval, 0);
  sandbox();
  __asm__ volatile("int3");
  die("oracle: the first trap was not taken\n");
}

__asm__(".text\n.globl _start\n_start:\n  mov %rsp, %rdi\n  call run\n");
