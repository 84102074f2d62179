/* EPTs and page tables of the L2s. SDM 3C 28.3 "The Extended Page Table Mechanism (EPT)"; 3A 4.4, 4.5. */
#include "hypervisor.h"

extern u64 directories[4 * 512]; /* L1's: 2 MiB pages, identity of 4 GiB */

/* Each EPT: identity of 4 GiB in 2 MiB pages, and from 4 GiB on one table of 4 KiB pages that tests fill. */
static u64 ept_pml4[EPT_COUNT][512] __attribute__((aligned(4096)));
static u64 ept_pdpt[EPT_COUNT][512] __attribute__((aligned(4096)));
static u64 ept_identity_directories[4][512] __attribute__((aligned(4096)));
static u64 ept_directory[EPT_COUNT][512] __attribute__((aligned(4096)));
static u64 ept_table[EPT_COUNT][512] __attribute__((aligned(4096)));

/* L2's: the same 4 GiB, and 2 MiB pages from 4 GiB on. */
u64 l2_pml4[512] __attribute__((aligned(4096)));
static u64 l2_pdpt[512] __attribute__((aligned(4096)));
static u64 l2_directory[512] __attribute__((aligned(4096)));
u64 pae_pdpt[4] __attribute__((aligned(4096)));
u8 touch_frames[TOUCH_PAGES][4096] __attribute__((aligned(4096)));

void tables_start(void) {
  for (int i = 0; i < 2048; i++) {
    ept_identity_directories[i / 512][i % 512] = (u64)i << 21 | EPT_ALL | EPT_WRITE_BACK | EPT_LARGE;
  }
  for (int which = 0; which < EPT_COUNT; which++) {
    ept_pml4[which][0] = (uptr)ept_pdpt[which] | EPT_ALL;
    for (int i = 0; i < 4; i++) ept_pdpt[which][i] = (uptr)ept_identity_directories[i] | EPT_ALL;
    ept_pdpt[which][4] = (uptr)ept_directory[which] | EPT_ALL;
    ept_directory[which][0] = (uptr)ept_table[which] | EPT_ALL;
  }
  l2_pml4[0] = (uptr)l2_pdpt | 3;
  for (int i = 0; i < 4; i++) {
    l2_pdpt[i] = (uptr)(directories + 512 * i) | 3;
    pae_pdpt[i] = (uptr)(directories + 512 * i) | 1;
  }
  l2_pdpt[4] = (uptr)l2_directory | 3;
  for (int i = 0; i < 512; i++) l2_directory[i] = TOUCHED + ((u64)i << 21) + 0x83;
}

u64 ept_identity(int which) { return (uptr)ept_pml4[which] | EPTP_WRITE_BACK | EPTP_WALK_4; }

u64 *ept_leaf(int which, u64 address) { return &ept_table[which][(address >> 12) & 511]; }

void ept_map(int which, u64 address, u64 frame, u64 rights) {
  *(volatile u64 *)ept_leaf(which, address) = rights ? frame | rights | EPT_WRITE_BACK : 0;
}
