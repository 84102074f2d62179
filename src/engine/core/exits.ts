import { S } from './layout.ts';

/**
 * Why `run` came back. Intercepted instructions keep the SDM's basic exit reason (3D Appendix C) so that L0 can hand
 * them on; what hardware does not have is numbered from 0x100.
 */
export const EXIT = {
  EXCEPTION: 0,
  TRIPLE_FAULT: 2,
  INIT: 3,
  INTERRUPT_WINDOW: 7,
  NMI_WINDOW: 8,
  TASK_SWITCH: 9,
  CPUID: 10,
  HLT: 12,
  INVD: 13,
  INVLPG: 14,
  RDPMC: 15,
  RDTSC: 16,
  RSM: 17,
  VMCALL: 18,
  VMCLEAR: 19,
  VMLAUNCH: 20,
  VMPTRLD: 21,
  VMPTRST: 22,
  VMREAD: 23,
  VMRESUME: 24,
  VMWRITE: 25,
  VMXOFF: 26,
  VMXON: 27,
  CR_ACCESS: 28,
  DR_ACCESS: 29,
  IO: 30,
  RDMSR: 31,
  WRMSR: 32,
  MWAIT: 36,
  MONITOR: 39,
  PAUSE: 40,
  GDTR_IDTR: 46,
  LDTR_TR: 47,
  EPT_VIOLATION: 48,
  /** Access to a page that L0 marked MMIO: run it again with ALLOW.MMIO. */
  EPT_MISCONFIG: 49,
  INVEPT: 50,
  RDTSCP: 51,
  INVVPID: 53,
  WBINVD: 54,
  XSETBV: 55,
  RDRAND: 57,
  INVPCID: 58,
  VMFUNC: 59,
  RDSEED: 61,
  XSAVES: 63,
  XRSTORS: 64,
  VMRUN: 0x80,
  VMMCALL: 0x81,
  VMLOAD: 0x82,
  VMSAVE: 0x83,
  STGI: 0x84,
  CLGI: 0x85,
  SKINIT: 0x86,
  INVLPGA: 0x87,
  /** The budget is used up. RIP is the next instruction. */
  BUDGET: 0x100,
  /** The page fault of a shadow-paged guest (`root.linear`): L0 looks at it first. */
  SHADOW_FAULT: 0x101,
  /** The instruction allowed by `step` is done. */
  STEPPED: 0x102,
} as const;
export type ExitReason = (typeof EXIT)[keyof typeof EXIT];

/** The exit record: absolute addresses of u32 fields unless said otherwise. */
export const X = {
  REASON: S.EXIT,
  /** Bytes of the instruction that left. */
  LENGTH: S.EXIT + 0x04,
  /** Exit qualification, i64: laid out as SDM 3C 27.2.1 for the reasons hardware has. */
  QUALIFICATION: S.EXIT + 0x08,
  /** Guest-linear address, i64. */
  LINEAR: S.EXIT + 0x10,
  /** Guest-physical address, i64. */
  PHYSICAL: S.EXIT + 0x18,
  /** VM-exit instruction information: SDM 3C 27.2.5. */
  INFO: S.EXIT + 0x20,
  /** Event whose delivery was interrupted by the exit, as IDT-vectoring information: valid in bit 31. */
  VECTORING: S.EXIT + 0x24,
  VECTORING_ERROR: S.EXIT + 0x28,
  /** 1 if LINEAR is valid. */
  LINEAR_VALID: S.EXIT + 0x2c,
  /** Record of the instruction, for `step`. */
  RECORD: S.EXIT + 0x30,
  /** Bytes from the memory operand's segment base … free use by reason: port accesses keep their size here. */
  SIZE: S.EXIT + 0x34,
  /** Interruption information of EXIT.EXCEPTION: SDM 3C 24.9.2. */
  INTERRUPTION: S.EXIT + 0x38,
  INTERRUPTION_ERROR: S.EXIT + 0x3c,
} as const;
