import { EXIT_REASONS } from '../../arch/vmx/exit-reasons.ts';
import { S } from './layout.ts';

/**
 * Why `run` came back. Intercepted instructions keep the SDM's basic exit reason (3D Appendix C) so that L0 can hand
 * them on; what hardware does not have is numbered from 0x100.
 */
export const EXIT = {
  EXCEPTION: EXIT_REASONS.EXCEPTION_OR_NMI,
  TRIPLE_FAULT: EXIT_REASONS.TRIPLE_FAULT,
  INIT: EXIT_REASONS.INIT_SIGNAL,
  INTERRUPT_WINDOW: EXIT_REASONS.INTERRUPT_WINDOW,
  NMI_WINDOW: EXIT_REASONS.NMI_WINDOW,
  TASK_SWITCH: EXIT_REASONS.TASK_SWITCH,
  CPUID: EXIT_REASONS.CPUID,
  HLT: EXIT_REASONS.HLT,
  INVD: EXIT_REASONS.INVD,
  INVLPG: EXIT_REASONS.INVLPG,
  RDPMC: EXIT_REASONS.RDPMC,
  RDTSC: EXIT_REASONS.RDTSC,
  RSM: EXIT_REASONS.RSM,
  VMCALL: EXIT_REASONS.VMCALL,
  VMCLEAR: EXIT_REASONS.VMCLEAR,
  VMLAUNCH: EXIT_REASONS.VMLAUNCH,
  VMPTRLD: EXIT_REASONS.VMPTRLD,
  VMPTRST: EXIT_REASONS.VMPTRST,
  VMREAD: EXIT_REASONS.VMREAD,
  VMRESUME: EXIT_REASONS.VMRESUME,
  VMWRITE: EXIT_REASONS.VMWRITE,
  VMXOFF: EXIT_REASONS.VMXOFF,
  VMXON: EXIT_REASONS.VMXON,
  CR_ACCESS: EXIT_REASONS.CR_ACCESS,
  DR_ACCESS: EXIT_REASONS.DR_ACCESS,
  IO: EXIT_REASONS.IO_INSTRUCTION,
  RDMSR: EXIT_REASONS.RDMSR,
  WRMSR: EXIT_REASONS.WRMSR,
  MWAIT: EXIT_REASONS.MWAIT,
  MONITOR: EXIT_REASONS.MONITOR,
  PAUSE: EXIT_REASONS.PAUSE,
  GDTR_IDTR: EXIT_REASONS.GDTR_IDTR_ACCESS,
  LDTR_TR: EXIT_REASONS.LDTR_TR_ACCESS,
  EPT_VIOLATION: EXIT_REASONS.EPT_VIOLATION,
  /** Access to a page that L0 marked MMIO: run it again with ALLOW.MMIO. */
  EPT_MISCONFIG: EXIT_REASONS.EPT_MISCONFIGURATION,
  INVEPT: EXIT_REASONS.INVEPT,
  RDTSCP: EXIT_REASONS.RDTSCP,
  INVVPID: EXIT_REASONS.INVVPID,
  WBINVD: EXIT_REASONS.WBINVD,
  XSETBV: EXIT_REASONS.XSETBV,
  RDRAND: EXIT_REASONS.RDRAND,
  INVPCID: EXIT_REASONS.INVPCID,
  VMFUNC: EXIT_REASONS.VMFUNC,
  RDSEED: EXIT_REASONS.RDSEED,
  XSAVES: EXIT_REASONS.XSAVES,
  XRSTORS: EXIT_REASONS.XRSTORS,
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
  /** The page fault of a shadow-paged guest (`root.linear`): L0 looks at it first. X.QUALIFICATION: PFEC.P, RSVD, ACCESS bits. */
  SHADOW_FAULT: 0x101,
  /** The instruction allowed by `step` is done. */
  STEPPED: 0x102,
  /** An x87 instruction finds an unmasked exception with CR0.NE clear: FERR# is asserted, and the processor waits. */
  FERR: 0x103,
  /** L0's debugger stops the vCPU: in front of an instruction with a breakpoint, or behind one that hit a watchpoint. */
  DEBUGGER: 0x104,
  /** Never leaves `run`: the instruction accesses a page with a watchpoint, and is to be run by itself. */
  WATCHED: 0x105,
  /** A task switch is about to load the CR3 of the new task, in X.QUALIFICATION, and L0 watches CR3: it loads it, and runs on. */
  TASK_CR3: 0x106,
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
  /** Of EPT_VIOLATION and EPT_MISCONFIG on the way through the guest's tables: what access that was, as ACCESS bits. */
  ACCESS: S.EXIT + 0x40,
} as const;
