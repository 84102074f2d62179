/**
 * The bits of the control, flag, debug and state-component registers, as masks.
 *
 * Every register here is used in its low 32 bits only, so masks are numbers; where a register has named bits above
 * bit 31 (CR3, CR4.FRED) those stand in a `…_HIGH` table, which is about the upper half.
 *
 * Source  SDM 3A 2.5 "Control Registers", 2.2.1 "Extended Feature Enable Register", 2.3 "System Flags and Fields in the
 *         EFLAGS Register", 17.2 "Debug Registers"; SDM 1 10.2.3 "MXCSR Control and Status Register", 13.1
 *         "XSAVE-Supported Features and State-Component Bitmaps"; APM 2 3.1.7 "Extended Feature Enable Register".
 */
import { bits } from '../base/bits.ts';

/** SDM 3A 2.5 "Control Registers", Figure 2-7. Bits not named are reserved; bits 63:32 are MBZ. */
export const CR0 = bits({ PE: 0, MP: 1, EM: 2, TS: 3, ET: 4, NE: 5, WP: 16, AM: 18, NW: 29, CD: 30, PG: 31 });

/** All bits of CR0 that have a meaning. MOV to CR0 ignores the others below bit 32; VM entry wants them as they were. */
export const CR0_DEFINED = Object.values(CR0).reduce((all, mask) => (all | mask) >>> 0, 0);

/** CR3: what MOV to CR3 takes besides the page-table base. With CR4.PCIDE bits 11:0 are the PCID instead. */
export const CR3 = bits({ PWT: 3, PCD: 4 });
/** Upper half of CR3. NOFLUSH is bit 63 of the *source* of MOV to CR3 under CR4.PCIDE and is never stored. */
export const CR3_HIGH = bits({ LAM_U57: 29, LAM_U48: 30, NOFLUSH: 31 });
export const CR3_PCID = 0xfff;

/** SDM 3A 2.5 "Control Registers". Which of them a processor has, `CR4_NEEDS` in cpuid-features.ts says. */
export const CR4 = bits({
  VME: 0,
  PVI: 1,
  TSD: 2,
  DE: 3,
  PSE: 4,
  PAE: 5,
  MCE: 6,
  PGE: 7,
  PCE: 8,
  OSFXSR: 9,
  OSXMMEXCPT: 10,
  UMIP: 11,
  LA57: 12,
  VMXE: 13,
  SMXE: 14,
  FSGSBASE: 16,
  PCIDE: 17,
  OSXSAVE: 18,
  KL: 19,
  SMEP: 20,
  SMAP: 21,
  PKE: 22,
  CET: 23,
  PKS: 24,
  UINTR: 25,
  LASS: 27,
  LAM_SUP: 28,
});

/** IA32_EFER, MSR 0xC000_0080. SVME to AIBRSE exist on AMD only: APM 2 3.1.7. LMA is read-only to WRMSR. */
export const EFER = bits({
  SCE: 0,
  LME: 8,
  LMA: 10,
  NXE: 11,
  SVME: 12,
  LMSLE: 13,
  FFXSR: 14,
  TCE: 15,
  MCOMMIT: 17,
  INTWB: 18,
  UAIE: 20,
  AIBRSE: 21,
});

/** SDM 3A 2.3 "System Flags and Fields in the EFLAGS Register". */
export const RFLAGS = bits({
  CF: 0,
  FIXED1: 1, // reads as 1 always
  PF: 2,
  AF: 4,
  ZF: 6,
  SF: 7,
  TF: 8,
  IF: 9,
  DF: 10,
  OF: 11,
  NT: 14,
  RF: 16,
  VM: 17,
  AC: 18,
  VIF: 19,
  VIP: 20,
  ID: 21,
});
export const RFLAGS_IOPL = 0x3000;
export const RFLAGS_IOPL_SHIFT = 12;
/** CF PF AF ZF SF OF: what arithmetic writes. */
export const RFLAGS_STATUS = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;
/** Bits of RFLAGS that may be 1. All others are 0, bit 1 is 1. */
export const RFLAGS_DEFINED = 0x003f_7fd7;

/**
 * SDM 3A 17.2.3 "Debug Status Register (DR6)". BLD and RTM are active low: a #DB clears them.
 * Bits not named read as `DR6_FIXED1` says.
 */
export const DR6 = bits({ B0: 0, B1: 1, B2: 2, B3: 3, BLD: 11, BD: 13, BS: 14, BT: 15, RTM: 16 });
export const DR6_RESET = 0xffff_0ff0;
/** Bits of DR6 that always read 1 on a processor without bus-lock detection and without RTM. */
export const DR6_FIXED1 = 0xffff_0ff0;
/** Bits that a write to DR6 can change on such a processor. */
export const DR6_WRITABLE = DR6.B0 | DR6.B1 | DR6.B2 | DR6.B3 | DR6.BD | DR6.BS | DR6.BT;

/** SDM 3A 17.2.4 "Debug Control Register (DR7)". RWn is at 16 + 4n, LENn at 18 + 4n, two bits each. */
export const DR7 = bits({
  L0: 0,
  G0: 1,
  L1: 2,
  G1: 3,
  L2: 4,
  G2: 5,
  L3: 6,
  G3: 7,
  LE: 8,
  GE: 9,
  FIXED1: 10,
  RTM: 11,
  GD: 13,
});
export const DR7_RESET = 0x400;
/** Bits of DR7 that always read 0 on a processor without RTM: 11, 12, 14, 15. */
export const DR7_FIXED0 = 0xd800;
/** L0–L3 and G0–G3: any breakpoint on. */
export const DR7_ENABLES = 0xff;
export const dr7ReadWrite = (dr7: number, breakpoint: number): number => (dr7 >>> (16 + 4 * breakpoint)) & 3;
export const dr7Length = (dr7: number, breakpoint: number): number => (dr7 >>> (18 + 4 * breakpoint)) & 3;
/** RWn values. */
export const DR7_RW = { EXECUTE: 0, WRITE: 1, IO: 2, READ_WRITE: 3 } as const;

/** XCR0 and IA32_XSS together: SDM 1 13.1. Which register holds which bit, `XSAVE_COMPONENTS` says. */
export const XCR0 = bits({
  X87: 0,
  SSE: 1,
  AVX: 2,
  BNDREGS: 3,
  BNDCSR: 4,
  OPMASK: 5,
  ZMM_HI256: 6,
  HI16_ZMM: 7,
  PT: 8,
  PKRU: 9,
  PASID: 10,
  CET_U: 11,
  CET_S: 12,
  HDC: 13,
  UINTR: 14,
  LBR: 15,
  HWP: 16,
  TILECFG: 17,
  TILEDATA: 18,
});

/** SDM 1 10.2.3 "MXCSR Control and Status Register". RC is bits 14:13. */
export const MXCSR = bits({
  IE: 0,
  DE: 1,
  ZE: 2,
  OE: 3,
  UE: 4,
  PE: 5,
  DAZ: 6,
  IM: 7,
  DM: 8,
  ZM: 9,
  OM: 10,
  UM: 11,
  PM: 12,
  FZ: 15,
});
export const MXCSR_RC_SHIFT = 13;
export const MXCSR_RESET = 0x1f80;
/** MXCSR_MASK as FXSAVE writes it: setting any other bit is #GP. */
export const MXCSR_MASK = 0xffff;

/** x87 control word, SDM 1 8.1.5. PC is bits 9:8, RC bits 11:10; bit 6 reads as 1. */
export const FCW = bits({ IM: 0, DM: 1, ZM: 2, OM: 3, UM: 4, PM: 5, FIXED1: 6, X: 12 });
/** After RESET; FNINIT leaves 0x37f. */
export const FCW_RESET = 0x40;
export const FCW_INIT = 0x37f;
/** x87 status word, SDM 1 8.1.3. TOP is bits 13:11. */
export const FSW = bits({
  IE: 0,
  DE: 1,
  ZE: 2,
  OE: 3,
  UE: 4,
  PE: 5,
  SF: 6,
  ES: 7,
  C0: 8,
  C1: 9,
  C2: 10,
  C3: 14,
  B: 15,
});
export const FSW_TOP_SHIFT = 11;

/** Error code of #PF: SDM 3A 4.7 "Page-Fault Exceptions". */
export const PF_ERROR = bits({ P: 0, WR: 1, US: 2, RSVD: 3, ID: 4, PK: 5, SS: 6, HLAT: 7, SGX: 15 });

/** Error code of a fault about a selector: SDM 3A 6.13 "Error Code". */
export const SELECTOR_ERROR = bits({ EXT: 0, IDT: 1, TI: 2 });

/** IA32_APIC_BASE: SDM 3A 10.4.4 "Local APIC Status and Location". The base is bits MAXPHYADDR-1:12. */
export const APIC_BASE = bits({ BSP: 8, EXTD: 10, EN: 11 });

/** IA32_FEATURE_CONTROL: SDM 3C 23.7 "Enabling and Entering VMX Operation". */
export const FEATURE_CONTROL = bits({ LOCK: 0, VMX_IN_SMX: 1, VMX_OUTSIDE_SMX: 2, SGX_LC: 17, SGX: 18, LMCE: 20 });

/** IA32_DEBUGCTL: SDM 3B 17.4.1. */
export const DEBUGCTL = bits({
  LBR: 0,
  BTF: 1,
  BUS_LOCK_DETECT: 2,
  TR: 6,
  BTS: 7,
  BTINT: 8,
  BTS_OFF_OS: 9,
  BTS_OFF_USR: 10,
  FREEZE_LBRS_ON_PMI: 11,
  FREEZE_PERFMON_ON_PMI: 12,
  FREEZE_WHILE_SMM: 14,
  RTM: 15,
});

/** IA32_MISC_ENABLE: SDM 4 Table 2-2. XD_DISABLE is bit 34: bit 2 of the upper half. */
export const MISC_ENABLE = bits({
  FAST_STRINGS: 0,
  BTS_UNAVAILABLE: 11,
  PEBS_UNAVAILABLE: 12,
  MONITOR: 18,
  LIMIT_CPUID: 22,
});
