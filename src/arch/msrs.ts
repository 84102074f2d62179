/**
 * Every MSR the machine knows: where its state lives, on which model it exists, what it holds after RESET and what
 * WRMSR may put into it. An index without a row, and a row that does not exist on the model, is #GP(0).
 *
 * Owns    the rules that are the same for every writer (WRMSR, VM-entry MSR load, VMCS guest-state checks).
 * Never   holds a value: `owner` says who does.
 *
 * Source  SDM 4 2 "Model-Specific Registers"; APM 2 Appendix A "MSR Cross-Reference". Which ones Linux and KVM touch:
 *         spec/linux-guest.md 6 "MSRs touched".
 */
import type { FeatureName } from './cpuid-features.ts';
import { EFER } from './registers.ts';

/** `engine`: in the vCPU's architectural state. `apic`: the local APIC. `hypervisor`: kept or computed by L0. */
export type MsrOwner = 'engine' | 'apic' | 'hypervisor';
/**
 * On which model: a vendor, a CPUID feature that must be shown (of several, any), or nowhere (the row is there to say
 * why not).
 */
export type MsrPresence = 'both' | 'intel' | 'amd' | 'never' | FeatureName | readonly FeatureName[];
/** A rule beyond the mask. WRMSR of a value that breaks it is #GP(0). */
export type MsrRule =
  | 'any'
  | 'canonical'
  | 'physical'
  | 'memory types'
  | 'one memory type'
  | 'speculation control'
  | 'owner decides';

/** Two u32 halves, upper first, as one writes them: `[hi, lo]`. */
export type Halves = readonly [hi: number, lo: number];

export interface MsrRow {
  readonly index: number;
  readonly name: string;
  readonly owner: MsrOwner;
  readonly exists: MsrPresence;
  /** After RESET. `model`: computed from the CPU description by its owner. */
  readonly reset: Halves | 'model';
  /** Bits that WRMSR can change. `read-only`: WRMSR is #GP(0). `write-only`: RDMSR is #GP(0). */
  readonly writable: Halves | 'read-only' | 'write-only';
  /** What writing 1 to another bit does. `ignored`: the bit keeps its value. Covers registers that swallow writes. */
  readonly others: '#GP' | 'ignored';
  readonly rule: MsrRule;
  readonly because: string;
}

const ALL: Halves = [0xffff_ffff, 0xffff_ffff];
const LOW: Halves = [0, 0xffff_ffff];
const NONE: Halves = [0, 0];
/** Bits 51:12; what lies above MAXPHYADDR the rule `physical` refuses. */
const FRAME: Halves = [0x000f_ffff, 0xffff_f000];

/**
 * SDM 4 Table 2-2, IA32_ARCH_CAPABILITIES: RDCL_NO 0, IBRS_ALL 1, SKIP_L1DFL_VMENTRY 3, SSB_NO 4, MDS_NO 5,
 * PSCHANGE_MC_NO 6, TAA_NO 8, SBDR_SSDP_NO 13, FBSDP_NO 14, PSDP_NO 15, BHI_NO 20, PBRSB_NO 24, GDS_NO 26, RFDS_NO 27,
 * ITS_NO 62.
 */
const NOT_VULNERABLE: Halves = [0x4000_0000, 0x0d10_e17b];

interface Options {
  readonly reset?: Halves | 'model';
  readonly rule?: MsrRule;
  readonly others?: 'ignored';
  readonly because?: string;
}

const msr = (
  index: number,
  name: string,
  owner: MsrOwner,
  exists: MsrPresence,
  writable: MsrRow['writable'],
  { reset = NONE, rule = 'any', others, because = '' }: Options = {},
): MsrRow => ({ index, name, owner, exists, reset, writable, others: others ?? '#GP', rule, because });

/** Reads 0, swallows every write. What QEMU and KVM do for chipset registers that only firmware gives a meaning. */
const dummy = (index: number, name: string, exists: MsrPresence, because: string): MsrRow =>
  msr(index, name, 'hypervisor', exists, NONE, { others: 'ignored', because });

/** #GP on every model: probed with rdmsr_safe, and absence is the true answer. */
const absent = (first: number, count: number, name: string, because: string): readonly MsrRow[] =>
  range(count, (n) =>
    msr(first + n, count === 1 ? name : `${name}+${n}`, 'hypervisor', 'never', 'read-only', { because }),
  );

const range = (count: number, row: (n: number) => MsrRow): readonly MsrRow[] =>
  Array.from({ length: count }, (_, n) => row(n));

/** Number of variable-range MTRRs: IA32_MTRRCAP.VCNT. */
export const MTRR_VARIABLE_COUNT = 8;
const FIXED_MTRRS: readonly (readonly [number, string])[] = [
  [0x250, 'IA32_MTRR_FIX64K_00000'],
  [0x258, 'IA32_MTRR_FIX16K_80000'],
  [0x259, 'IA32_MTRR_FIX16K_A0000'],
  ...Array.from({ length: 8 }, (_, n): readonly [number, string] => [
    0x268 + n,
    `IA32_MTRR_FIX4K_${(0xc0000 + n * 0x8000).toString(16).toUpperCase()}`,
  ]),
];

/** WB, WT, UC-, UC, twice: SDM 3A 11.12.4 "Programming the PAT". */
export const PAT_RESET: Halves = [0x0007_0406, 0x0007_0406];

/** Bits of IA32_SPEC_CTRL and the features that give them: SDM 4 Table 2-2; APM 2 3.2.9 "Speculation Control MSRs". */
const SPEC_CTRL: readonly (readonly [bit: number, ...FeatureName[]])[] = [
  [0, 'spec_ctrl', 'ibrs'],
  [1, 'stibp', 'amd_stibp'],
  [2, 'ssbd', 'amd_ssbd'],
  [10, 'bhi_ctrl'],
];

/** By ascending index. */
export const MSRS: readonly MsrRow[] = [
  msr(0x10, 'IA32_TIME_STAMP_COUNTER', 'hypervisor', 'tsc', ALL),
  msr(0x17, 'IA32_PLATFORM_ID', 'hypervisor', 'intel', 'read-only', {
    because: 'bits 52:50 choose a microcode update: 0. Xen reads it before it can take a #GP',
  }),
  msr(0x1b, 'IA32_APIC_BASE', 'apic', 'apic', [0x000f_ffff, 0xffff_fd00], {
    reset: 'model',
    rule: 'owner decides',
    because: 'the legal changes of EN and EXTD are a state machine: SDM 3A 10.12.5 "x2APIC State Transitions"',
  }),
  msr(0x34, 'MSR_SMI_COUNT', 'hypervisor', 'intel', 'read-only', { because: 'there are no SMIs: 0' }),
  msr(0x3a, 'IA32_FEATURE_CONTROL', 'hypervisor', 'vmx', [0, 0x7], {
    rule: 'owner decides',
    because: 'once LOCK is set, WRMSR is #GP until RESET',
  }),
  msr(0x3b, 'IA32_TSC_ADJUST', 'hypervisor', 'tsc_adjust', ALL),
  msr(0x48, 'IA32_SPEC_CTRL', 'engine', ['spec_ctrl', 'ibrs'], LOW, {
    rule: 'speculation control',
    because: 'bits are kept and do nothing: nothing here speculates',
  }),
  msr(0x49, 'IA32_PRED_CMD', 'hypervisor', ['spec_ctrl', 'ibpb'], 'write-only'),
  msr(0x79, 'IA32_BIOS_UPDT_TRIG', 'hypervisor', 'intel', 'write-only', {
    because: 'a microcode update is accepted and changes nothing',
  }),
  msr(0x8b, 'IA32_BIOS_SIGN_ID', 'hypervisor', 'both', ALL, {
    reset: 'model',
    rule: 'owner decides',
    because: 'the microcode revision; software writes 0, executes CPUID and reads: writes are swallowed',
  }),
  ...absent(0xc1, 8, 'IA32_PMC0', 'no performance monitoring: CPUID leaf 0xA is 0'),
  msr(0xce, 'MSR_PLATFORM_INFO', 'hypervisor', 'intel', 'read-only', { because: 'no CPUID faulting, no turbo: 0' }),
  ...absent(0xe1, 1, 'IA32_UMWAIT_CONTROL', 'WAITPKG is not offered'),
  ...absent(0xe7, 2, 'IA32_MPERF', 'CPUID.6:ECX[0] is 0'),
  msr(0xfe, 'IA32_MTRRCAP', 'hypervisor', 'mtrr', 'read-only', { reset: [0, 0x500 + MTRR_VARIABLE_COUNT] }),
  msr(0x10a, 'IA32_ARCH_CAPABILITIES', 'hypervisor', 'arch_capabilities', 'read-only', {
    reset: NOT_VULNERABLE,
    because: 'nothing here speculates',
  }),
  msr(0x10b, 'IA32_FLUSH_CMD', 'hypervisor', 'flush_l1d', 'write-only'),
  ...absent(0x122, 1, 'IA32_TSX_CTRL', 'no TSX'),
  msr(0x140, 'MSR_MISC_FEATURES_ENABLES', 'hypervisor', 'intel', NONE, {
    because: 'bit 0 would be CPUID faulting, which MSR_PLATFORM_INFO[31] does not offer',
  }),
  msr(0x174, 'IA32_SYSENTER_CS', 'engine', 'sep', LOW, {
    others: 'ignored',
    because: 'bits 63:32 are not kept: SDM 4 Table 2-2 gives the register 16 bits and Linux writes 32',
  }),
  msr(0x175, 'IA32_SYSENTER_ESP', 'engine', 'sep', ALL, { rule: 'canonical' }),
  msr(0x176, 'IA32_SYSENTER_EIP', 'engine', 'sep', ALL, { rule: 'canonical' }),
  msr(0x179, 'IA32_MCG_CAP', 'hypervisor', 'mca', 'read-only', { because: 'no banks, no MCG_CTL: 0 is legal' }),
  msr(0x17a, 'IA32_MCG_STATUS', 'hypervisor', 'mca', [0, 0x7]),
  ...absent(0x186, 8, 'IA32_PERFEVTSEL0', 'no performance monitoring'),
  ...absent(0x19b, 2, 'IA32_THERM_INTERRUPT', 'no thermal monitor'),
  msr(0x1a0, 'IA32_MISC_ENABLE', 'hypervisor', 'intel', [0x4, 0x00c5_0089], {
    reset: [0, 0x1801],
    others: 'ignored',
    because:
      'fast strings on, BTS and PEBS unavailable; the other named bits are kept and do nothing. Linux reads it before ' +
      'it has an IDT: it must exist',
  }),
  ...absent(0x1b0, 3, 'IA32_ENERGY_PERF_BIAS', 'CPUID.6 offers neither EPB nor package thermal status'),
  ...absent(0x1c4, 2, 'IA32_XFD', 'no extended feature disable: CPUID.(0xD,1):EAX[4] is 0'),
  msr(0x1d9, 'IA32_DEBUGCTL', 'engine', 'both', [0, 0x3], {
    because: 'LBR is accepted and records nothing; BTF works; a trap-message or BTS bit is #GP',
  }),
  msr(0x1db, 'MSR_LASTBRANCHFROMIP', 'hypervisor', 'amd', 'read-only'),
  msr(0x1dc, 'MSR_LASTBRANCHTOIP', 'hypervisor', 'amd', 'read-only'),
  msr(0x1dd, 'MSR_LASTINTFROMIP', 'hypervisor', 'amd', 'read-only'),
  msr(0x1de, 'MSR_LASTINTTOIP', 'hypervisor', 'amd', 'read-only'),
  ...range(2 * MTRR_VARIABLE_COUNT, (n) =>
    n % 2 === 0
      ? msr(0x200 + n, `IA32_MTRR_PHYSBASE${n / 2}`, 'hypervisor', 'mtrr', [FRAME[0], FRAME[1] | 0xff], {
          rule: 'one memory type',
        })
      : msr(0x200 + n, `IA32_MTRR_PHYSMASK${(n - 1) / 2}`, 'hypervisor', 'mtrr', [FRAME[0], FRAME[1] | 0x800], {
          rule: 'physical',
        }),
  ),
  ...FIXED_MTRRS.map(([index, name]) => msr(index, name, 'hypervisor', 'mtrr', ALL, { rule: 'memory types' })),
  msr(0x277, 'IA32_PAT', 'engine', 'pat', ALL, { reset: PAT_RESET, rule: 'memory types' }),
  msr(0x2ff, 'IA32_MTRR_DEF_TYPE', 'hypervisor', 'mtrr', [0, 0xcff], { rule: 'one memory type' }),
  ...absent(0x309, 3, 'IA32_FIXED_CTR0', 'no performance monitoring'),
  ...absent(0x345, 1, 'IA32_PERF_CAPABILITIES', 'CPUID.1:ECX.PDCM is 0'),
  ...absent(0x38d, 4, 'IA32_FIXED_CTR_CTRL', 'no performance monitoring'),
  ...absent(0x3f1, 2, 'IA32_PEBS_ENABLE', 'no performance monitoring'),
  ...range(19, (n) =>
    msr(0x480 + n, `VMX capability ${(0x480 + n).toString(16)}`, 'hypervisor', 'vmx', 'read-only', {
      reset: 'model',
      because: 'computed by vmx/capabilities.ts; 0x491 and 0x492 only where the controls they describe exist',
    }),
  ),
  ...absent(0x560, 2, 'IA32_RTIT_OUTPUT_BASE', 'no processor trace'),
  ...absent(0x570, 3, 'IA32_RTIT_CTL', 'no processor trace'),
  ...absent(0x580, 8, 'IA32_RTIT_ADDR0_A', 'no processor trace'),
  ...absent(0x600, 1, 'IA32_DS_AREA', 'no debug store'),
  ...absent(0x64e, 1, 'MSR_PPERF', "perf's msr PMU probes it with rdmsr_safe"),
  msr(0x6e0, 'IA32_TSC_DEADLINE', 'apic', 'tsc_deadline_timer', ALL, { rule: 'owner decides' }),
  ...range(0x100, (n) =>
    msr(0x800 + n, `x2APIC ${n.toString(16).padStart(2, '0')}0H`, 'apic', 'x2apic', ALL, {
      reset: 'model',
      rule: 'owner decides',
      because: '#GP outside x2APIC mode; the registers are rows of apic/registers.ts',
    }),
  ),
  ...absent(0xd90, 1, 'IA32_BNDCFGS', 'no MPX'),
  msr(0xda0, 'IA32_XSS', 'engine', 'xsaves', NONE, { because: 'no supervisor state component exists' }),

  msr(
    0xc000_0080,
    'IA32_EFER',
    'engine',
    'lm',
    [0, EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE | EFER.SVME | EFER.FFXSR | EFER.TCE | EFER.AIBRSE],
    {
      rule: 'owner decides',
      because: 'which bits are legal, EFER_NEEDS says; LME cannot change while CR0.PG is 1; a written LMA is ignored',
    },
  ),
  msr(0xc000_0081, 'IA32_STAR', 'engine', 'syscall', ALL),
  msr(0xc000_0082, 'IA32_LSTAR', 'engine', 'lm', ALL, { rule: 'canonical' }),
  msr(0xc000_0083, 'IA32_CSTAR', 'engine', 'lm', ALL, { rule: 'canonical' }),
  msr(0xc000_0084, 'IA32_FMASK', 'engine', 'syscall', LOW, {
    others: 'ignored',
    because: 'bits 63:32 read 0; neither manual promises #GP',
  }),
  msr(0xc000_0100, 'IA32_FS_BASE', 'engine', 'lm', ALL, { rule: 'canonical' }),
  msr(0xc000_0101, 'IA32_GS_BASE', 'engine', 'lm', ALL, { rule: 'canonical' }),
  msr(0xc000_0102, 'IA32_KERNEL_GS_BASE', 'engine', 'lm', ALL, { rule: 'canonical' }),
  msr(0xc000_0103, 'IA32_TSC_AUX', 'engine', 'rdtscp', LOW),
  msr(0xc000_0104, 'MSR_AMD64_TSC_RATIO', 'hypervisor', 'tsc_scale', [0xff, 0xffff_ffff], { reset: [1, 0] }),

  ...range(4, (n) => dummy(0xc001_0000 + n, `PERFEVTSEL${n}`, 'amd', 'Linux probes the counters; writes do not stick')),
  ...range(4, (n) => dummy(0xc001_0004 + n, `PERFCTR${n}`, 'amd', 'Linux probes the counters; writes do not stick')),
  dummy(0xc001_0010, 'SYSCFG', 'amd', 'no fixed DRAM ranges, no memory encryption'),
  msr(0xc001_0015, 'HWCR', 'hypervisor', 'amd', NONE, {
    reset: [0, 0x0100_0000],
    others: 'ignored',
    because: 'TscFreqSel is 1: the counter runs at P0 frequency; Linux reports a firmware bug otherwise',
  }),
  dummy(0xc001_001f, 'NB_CFG', 'amd', 'Linux sets EnableCf8ExtCfg'),
  dummy(0xc001_0055, 'INTPENDING', 'amd', 'no C1E'),
  dummy(0xc001_0058, 'MMIO_CONF_BASE', 'amd', 'configuration space is found through ACPI'),
  msr(0xc001_0114, 'VM_CR', 'hypervisor', 'svm', [0, 0x1f], {
    rule: 'owner decides',
    because: 'SVMDIS cannot change while LOCK is set: APM 2 15.30.1',
  }),
  msr(0xc001_0117, 'VM_HSAVE_PA', 'hypervisor', 'svm', FRAME, { rule: 'physical' }),
  ...absent(0xc001_0200, 12, 'PERF_CTL0', 'CPUID.PerfCtrExtCore is 0'),
  dummy(0xc001_1020, 'LS_CFG', 'amd', 'errata switches'),
  dummy(0xc001_1021, 'IC_CFG', 'amd', 'errata switches'),
  dummy(0xc001_1022, 'DC_CFG', 'amd', 'errata switches'),
  dummy(0xc001_1028, 'FP_CFG', 'amd', 'errata switches'),
  msr(0xc001_1029, 'DE_CFG', 'hypervisor', 'amd', [0, 0x2], {
    reset: [0, 0x2],
    others: 'ignored',
    because: 'LFENCE is dispatch serializing; Linux sets the bit and reads it back',
  }),
].sort((a, b) => a.index - b.index);

const BY_INDEX: ReadonlyMap<number, MsrRow> = new Map(MSRS.map((row) => [row.index, row]));

/** The row, or `undefined`: #GP(0) on every model. `index` is unsigned, as ECX holds it. */
export const msrRow = (index: number): MsrRow | undefined => BY_INDEX.get(index);

/** Index by name, for code that names an MSR. Throws at load time if the name has no row: our mistake. */
export function msrIndex(name: string): number {
  const row = MSRS.find((candidate) => candidate.name === name);
  if (row === undefined) throw new Error(`no MSR row is called ${name}`);
  return row.index;
}

/** What RDMSR and WRMSR need to know of the model. `CpuidPolicy` is one. */
export interface MsrModel {
  readonly vendor: 'intel' | 'amd';
  has(feature: FeatureName): boolean;
  readonly physicalAddressBits: number;
  readonly linearAddressBits: number;
}

export function msrExists(row: MsrRow, model: MsrModel): boolean {
  if (typeof row.exists === 'object') return row.exists.some((feature) => model.has(feature));
  switch (row.exists) {
    case 'both':
      return true;
    case 'never':
      return false;
    case 'intel':
    case 'amd':
      return row.exists === model.vendor;
    default:
      return model.has(row.exists);
  }
}

/**
 * Judges a WRMSR by the row alone: existence, read-only, reserved bits, canonical and memory-type rules.
 * `owner decides` rows pass here once their reserved bits do; the owner has the last word.
 *
 * @returns Whether WRMSR does not fault on account of the row.
 */
export function msrWriteIsLegal(row: MsrRow, lo: number, hi: number, model: MsrModel): boolean {
  if (row.writable === 'read-only' || !msrExists(row, model)) return false;
  if (row.writable === 'write-only') return true;
  if (row.others === '#GP' && ((lo & ~row.writable[1]) !== 0 || (hi & ~row.writable[0]) !== 0)) return false;
  switch (row.rule) {
    case 'any':
    case 'owner decides':
      return true;
    case 'canonical':
      return isCanonical(hi, model.linearAddressBits);
    case 'physical':
      return fitsPhysical(hi, model.physicalAddressBits);
    case 'memory types':
      return memoryTypesAreLegal(lo, row.name === 'IA32_PAT') && memoryTypesAreLegal(hi, row.name === 'IA32_PAT');
    case 'speculation control':
      return (lo & ~specCtrlBits(model)) === 0;
    case 'one memory type':
      return isMemoryType(lo & 0xff, false) && fitsPhysical(hi, model.physicalAddressBits);
  }
}

/** Bits of the low half that may be 1 in a value which WRMSR takes, where the high half is 0 and no rule asks for more. */
export function writableLow({ writable, rule }: MsrRow, model: MsrModel): number {
  if (rule === 'speculation control') return specCtrlBits(model);
  return typeof writable === 'string' ? 0xffff_ffff : writable[1];
}

function specCtrlBits(model: MsrModel): number {
  const known = specCtrlOf.get(model);
  if (known !== undefined) return known;
  let mask = 0;
  for (const [bit, ...features] of SPEC_CTRL) if (features.some((name) => model.has(name))) mask |= 1 << bit;
  specCtrlOf.set(model, mask);
  return mask;
}
/** Hypervisors write the register at each exit of their guests. */
const specCtrlOf = new WeakMap<MsrModel, number>();

/** Bits 63:`bits`-1 are all equal. `hi` is the upper half. `bits` is 48 or 57: SDM 1 3.3.7.1 "Canonical Addressing". */
export const isCanonical = (hi: number, bits: number): boolean => {
  const top = hi >> (bits - 33);
  return top === 0 || top === -1;
};

/** No bit at or above MAXPHYADDR. `bits` is 33 to 52. */
export const fitsPhysical = (hi: number, bits: number): boolean => hi >>> (bits - 32) === 0;

/** UC 0, WC 1, WT 4, WP 5, WB 6, and in the PAT UC- 7: SDM 3A 11.11, Table 11-8; 11.12.4, Table 11-10. */
export const isMemoryType = (type: number, inPat: boolean): boolean =>
  type === 0 || type === 1 || (type >= 4 && type <= 6) || (inPat && type === 7);

/** All four bytes of one half. */
export const memoryTypesAreLegal = (half: number, inPat: boolean): boolean =>
  isMemoryType(half & 0xff, inPat) &&
  isMemoryType((half >>> 8) & 0xff, inPat) &&
  isMemoryType((half >>> 16) & 0xff, inPat) &&
  isMemoryType(half >>> 24, inPat);
