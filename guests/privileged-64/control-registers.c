/* Values that control registers do not take: SDM 3A 2.5 "Control Registers". Last, for a machine that takes them is lost. */
#include "machine.h"

#define REFUSED(what, register, value, vector_) \
  do {                                          \
    const u64 before_ = READ(register);         \
    FAULTS(what, WRITE(register, value), vector_, 0);\
    if (caught.vector == (u32)NONE) WRITE(register, before_); \
  } while (0)

void control_register_checks(void) {
  REFUSED("cr3: reserved bit 62", cr3, READ(cr3) | 1ULL << 62, GP);
  REFUSED("cr4: reserved bit 31", cr4, READ(cr4) | 1ULL << 31, GP);
  REFUSED("cr4: LA57 changed in long mode", cr4, READ(cr4) ^ 1 << 12, GP);
  REFUSED("cr8: value above 15", cr8, 16, GP);
  FAULTS("cr1 does not exist", __asm__ volatile(".byte 0x0f, 0x20, 0xc8" : : : "rax"), UD, 0);
  const u64 efer = read_msr(0xc0000080);
  FAULTS("efer: reserved bit 1", write_msr(0xc0000080, efer | 2), GP, 0);
  FAULTS("efer: LME changed while paging is on", write_msr(0xc0000080, efer & ~0x100ULL), GP, 0);
  write_msr(0xc0000080, efer);
  REFUSED("cr0: NW without CD", cr0, READ(cr0) | 1 << 29, GP);
  REFUSED("cr0: bit 32", cr0, READ(cr0) | 1ULL << 32, GP);
  REFUSED("cr4: PAE cleared in long mode", cr4, READ(cr4) & ~0x20ULL, GP);
  REFUSED("cr0: PG without PE", cr0, READ(cr0) & ~1ULL, GP);
  REFUSED("cr0: PG cleared in 64-bit mode", cr0, READ(cr0) & ~(1ULL << 31), GP);
}
