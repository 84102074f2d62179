/**
 * CPUID feature bits as rows, and what hangs on them: dependencies, CR4 and EFER bits.
 *
 * Names are those of Linux' /proc/cpuinfo; QEMU's spelling stands beside it where it differs. A row says what the
 * processor must be able to do before the bit may be shown ("CPUID offers exactly what works", DESIGN.md 4).
 *
 * Source  SDM 2A 3.2 "CPUID—CPU Identification"; APM 3 Appendix E "Obtaining Processor Information Via the CPUID
 *         Instruction"; levels: x86-64 psABI 3.1.1 "Processor Architecture", Table 3.1.
 */
import type { CR4, EFER } from './registers.ts';

export type CpuidRegister = 'eax' | 'ebx' | 'ecx' | 'edx';
export type Level = 'x86-64-v1' | 'x86-64-v2' | 'x86-64-v3' | 'x86-64-v4' | '';

/**
 * What must work for a bit to be shown. `base`: part of every build. `vmx`, `svm` and the rest of the second line
 * are L0's to grant, the others the engine's. `never`: the row is there so that the name is known.
 */
export type Capability =
  | 'base'
  | 'aes'
  | 'pclmul'
  | 'sha'
  | 'avx'
  | 'avx2'
  | 'fma'
  | 'f16c'
  | 'bmi'
  | 'adx'
  | 'la57'
  | 'xsavec'
  | 'xsaves'
  | 'rdpid'
  | 'clwb'
  | 'mwait'
  | 'movdiri'
  | 'cet'
  | 'sse4a'
  | 'lam'
  | 'lass'
  | 'gfni'
  | 'serialize'
  | 'fsrm'
  | 'vmx'
  | 'svm'
  | 'spec-ctrl'
  | 'arch-capabilities'
  | 'hypervisor-leaf'
  | 'live'
  | 'never';

export interface FeatureRow {
  readonly leaf: number;
  readonly subleaf: number;
  readonly register: CpuidRegister;
  readonly bit: number;
  readonly needs: Capability;
  readonly level: Level;
  /** Other spellings that `-cpu` accepts, QEMU's first; `-`, `_` and `.` are one character there and need none. */
  readonly aliases: readonly string[];
}

type Short = readonly [bit: number, needs: Capability, level?: Level, ...aliases: string[]];

/** Rows of one register. */
function register<const R extends Readonly<Record<string, Short>>>(
  leaf: number,
  subleaf: number,
  name: CpuidRegister,
  rows: R,
): { readonly [Name in keyof R]: FeatureRow } {
  const long = Object.entries(rows).map(([key, [bit, needs, level = '', ...aliases]]) => [
    key,
    { leaf, subleaf, register: name, bit, needs, level, aliases },
  ]);
  return Object.fromEntries(long) as { readonly [Name in keyof R]: FeatureRow };
}

export const FEATURES = {
  ...register(1, 0, 'edx', {
    fpu: [0, 'base', 'x86-64-v1'],
    vme: [1, 'base'],
    de: [2, 'base'],
    pse: [3, 'base'],
    tsc: [4, 'base'],
    msr: [5, 'base'],
    pae: [6, 'base'],
    mce: [7, 'base'],
    cx8: [8, 'base', 'x86-64-v1'],
    apic: [9, 'base'], // live: follows IA32_APIC_BASE.EN
    sep: [11, 'base'],
    mtrr: [12, 'base'],
    pge: [13, 'base'],
    mca: [14, 'base'],
    cmov: [15, 'base', 'x86-64-v1'],
    pat: [16, 'base'],
    pse36: [17, 'base'],
    pn: [18, 'never'],
    clflush: [19, 'base'],
    dts: [21, 'never', '', 'ds'],
    acpi: [22, 'never'],
    mmx: [23, 'base', 'x86-64-v1'],
    fxsr: [24, 'base', 'x86-64-v1'],
    sse: [25, 'base', 'x86-64-v1'],
    sse2: [26, 'base', 'x86-64-v1'],
    ss: [27, 'base'],
    ht: [28, 'live'], // more than one logical processor
    tm: [29, 'never'],
    pbe: [31, 'never'],
  }),
  ...register(1, 0, 'ecx', {
    pni: [0, 'base', 'x86-64-v2', 'sse3'],
    pclmulqdq: [1, 'pclmul'],
    dtes64: [2, 'never'],
    monitor: [3, 'mwait'],
    ds_cpl: [4, 'never'],
    vmx: [5, 'vmx'],
    smx: [6, 'never'],
    est: [7, 'never'],
    tm2: [8, 'never'],
    ssse3: [9, 'base', 'x86-64-v2'],
    cid: [10, 'never'],
    sdbg: [11, 'never'],
    fma: [12, 'fma', 'x86-64-v3'],
    cx16: [13, 'base', 'x86-64-v2'],
    xtpr: [14, 'never'],
    pdcm: [15, 'never'],
    pcid: [17, 'base'],
    dca: [18, 'never'],
    sse4_1: [19, 'base', 'x86-64-v2'],
    sse4_2: [20, 'base', 'x86-64-v2'],
    x2apic: [21, 'base'],
    movbe: [22, 'base', 'x86-64-v3'],
    popcnt: [23, 'base', 'x86-64-v2'],
    tsc_deadline_timer: [24, 'base', '', 'tsc-deadline'],
    aes: [25, 'aes'],
    xsave: [26, 'base', 'x86-64-v3'],
    osxsave: [27, 'live'], // follows CR4.OSXSAVE
    avx: [28, 'avx', 'x86-64-v3'],
    f16c: [29, 'f16c', 'x86-64-v3'],
    rdrand: [30, 'base'],
    hypervisor: [31, 'hypervisor-leaf'],
  }),
  ...register(6, 0, 'eax', {
    dtherm: [0, 'never'],
    ida: [1, 'never'],
    arat: [2, 'base'],
  }),
  ...register(7, 0, 'ebx', {
    fsgsbase: [0, 'base'],
    tsc_adjust: [1, 'base'],
    sgx: [2, 'never'],
    bmi1: [3, 'bmi', 'x86-64-v3'],
    hle: [4, 'never'],
    avx2: [5, 'avx2', 'x86-64-v3'],
    fdp_excptn_only: [6, 'base'],
    smep: [7, 'base'],
    bmi2: [8, 'bmi', 'x86-64-v3'],
    erms: [9, 'base'],
    invpcid: [10, 'base'],
    rtm: [11, 'never'],
    cqm: [12, 'never'],
    zero_fcs_fds: [13, 'base'],
    mpx: [14, 'never'],
    rdt_a: [15, 'never'],
    avx512f: [16, 'never', 'x86-64-v4'],
    avx512dq: [17, 'never', 'x86-64-v4'],
    rdseed: [18, 'base'],
    adx: [19, 'adx'],
    smap: [20, 'base'],
    avx512ifma: [21, 'never'],
    clflushopt: [23, 'clwb'],
    clwb: [24, 'clwb'],
    intel_pt: [25, 'never'],
    avx512cd: [28, 'never', 'x86-64-v4'],
    sha_ni: [29, 'sha'],
    avx512bw: [30, 'never', 'x86-64-v4'],
    avx512vl: [31, 'never', 'x86-64-v4'],
  }),
  ...register(7, 0, 'ecx', {
    avx512vbmi: [1, 'never'],
    umip: [2, 'base'],
    pku: [3, 'base'],
    ospke: [4, 'live'], // follows CR4.PKE
    waitpkg: [5, 'never'],
    shstk: [7, 'cet', '', 'cet-ss'],
    gfni: [8, 'gfni'],
    vaes: [9, 'never'],
    vpclmulqdq: [10, 'never'],
    la57: [16, 'la57'],
    rdpid: [22, 'rdpid'],
    bus_lock_detect: [24, 'never'],
    cldemote: [25, 'never'],
    movdiri: [27, 'movdiri'],
    movdir64b: [28, 'movdiri'],
    enqcmd: [29, 'never'],
    sgx_lc: [30, 'never'],
    pks: [31, 'never'],
  }),
  ...register(7, 0, 'edx', {
    fsrm: [4, 'fsrm'],
    uintr: [5, 'never'],
    md_clear: [10, 'spec-ctrl'],
    serialize: [14, 'serialize'],
    arch_lbr: [19, 'never'],
    ibt: [20, 'cet', '', 'cet-ibt'],
    spec_ctrl: [26, 'spec-ctrl'],
    stibp: [27, 'spec-ctrl', '', 'intel-stibp'],
    flush_l1d: [28, 'spec-ctrl'],
    arch_capabilities: [29, 'arch-capabilities'],
    ssbd: [31, 'spec-ctrl'],
  }),
  ...register(7, 1, 'eax', {
    avx_vnni: [4, 'never'],
    lass: [6, 'lass'],
    fzrm: [10, 'never'],
    fsrs: [11, 'never'],
    fsrc: [12, 'never'],
    fred: [17, 'never'],
    lkgs: [18, 'never'],
    lam: [26, 'lam'],
  }),
  ...register(7, 2, 'edx', {
    psfd: [0, 'never'],
    ipred_ctrl: [1, 'never'],
    rrsba_ctrl: [2, 'never'],
    bhi_ctrl: [4, 'spec-ctrl'],
  }),
  ...register(0xd, 1, 'eax', {
    xsaveopt: [0, 'base'],
    xsavec: [1, 'xsavec'],
    xgetbv1: [2, 'xsavec'],
    xsaves: [3, 'xsaves'],
  }),
  ...register(0x8000_0001, 0, 'edx', {
    syscall: [11, 'base', 'x86-64-v1'],
    nx: [20, 'base'],
    mmxext: [22, 'base'],
    fxsr_opt: [25, 'base'],
    pdpe1gb: [26, 'base'],
    rdtscp: [27, 'base'],
    lm: [29, 'base', 'x86-64-v1'],
    '3dnowext': [30, 'never'],
    '3dnow': [31, 'never'],
  }),
  ...register(0x8000_0001, 0, 'ecx', {
    lahf_lm: [0, 'base', 'x86-64-v2'],
    cmp_legacy: [1, 'live'],
    svm: [2, 'svm'],
    extapic: [3, 'never'],
    cr8_legacy: [4, 'base'],
    abm: [5, 'bmi', 'x86-64-v3', 'lzcnt'],
    sse4a: [6, 'sse4a'],
    misalignsse: [7, 'never'],
    '3dnowprefetch': [8, 'base'],
    osvw: [9, 'never'],
    ibs: [10, 'never'],
    xop: [11, 'never'],
    skinit: [12, 'never'],
    wdt: [13, 'never'],
    fma4: [16, 'never'],
    tce: [17, 'never'],
    nodeid_msr: [19, 'never'],
    tbm: [21, 'never'],
    topoext: [22, 'base'],
    perfctr_core: [23, 'never'],
    perfctr_nb: [24, 'never'],
    mwaitx: [29, 'never'],
  }),
  ...register(0x8000_0007, 0, 'edx', {
    nonstop_tsc: [8, 'base', '', 'invtsc', 'constant_tsc'],
  }),
  ...register(0x8000_0008, 0, 'ebx', {
    clzero: [0, 'never'],
    xsaveerptr: [2, 'base'],
    wbnoinvd: [9, 'never'],
    ibpb: [12, 'spec-ctrl'],
    ibrs: [14, 'spec-ctrl'],
    amd_stibp: [15, 'spec-ctrl'],
    amd_ssbd: [24, 'spec-ctrl'],
    virt_ssbd: [25, 'never'],
    ssb_no: [26, 'base', '', 'amd-no-ssb'],
    btc_no: [29, 'base'],
    ibpb_ret: [30, 'spec-ctrl'],
  }),
  ...register(0x8000_000a, 0, 'edx', {
    npt: [0, 'svm'],
    lbrv: [1, 'svm'],
    svm_lock: [2, 'svm'],
    nrip_save: [3, 'svm'],
    tsc_scale: [4, 'svm'],
    vmcb_clean: [5, 'svm'],
    flushbyasid: [6, 'svm'],
    decodeassists: [7, 'svm'],
    pausefilter: [10, 'svm'],
    pfthreshold: [12, 'svm'],
    avic: [13, 'never'],
    v_vmsave_vmload: [15, 'svm'],
    vgif: [16, 'svm'],
    gmet: [17, 'never'],
    x2avic: [18, 'never'],
    v_spec_ctrl: [20, 'never'],
    vnmi: [25, 'never'],
  }),
  ...register(0x8000_0021, 0, 'eax', {
    no_nested_data_bp: [0, 'never'],
    lfence_rdtsc: [2, 'base', '', 'lfence-always-serializing'],
    null_sel_clr_base: [6, 'base'],
    autoibrs: [8, 'spec-ctrl'],
    srso_no: [29, 'base'],
  }),
} as const satisfies Record<string, FeatureRow>;

export type FeatureName = keyof typeof FEATURES;
export const FEATURE_NAMES = Object.keys(FEATURES) as readonly FeatureName[];
export const featureRow = (name: FeatureName): FeatureRow => FEATURES[name];

/** A feature is shown only together with all of these; taking one away takes its dependants with it. */
export const FEATURE_REQUIRES: Partial<Readonly<Record<FeatureName, readonly FeatureName[]>>> = {
  sse: ['fxsr'],
  sse2: ['sse'],
  pni: ['sse2'],
  ssse3: ['pni'],
  sse4_1: ['ssse3'],
  sse4_2: ['sse4_1'],
  aes: ['sse2'],
  pclmulqdq: ['sse2'],
  sha_ni: ['ssse3'],
  gfni: ['sse2'],
  avx: ['xsave', 'sse4_2'],
  fma: ['avx'],
  f16c: ['avx'],
  avx2: ['avx'],
  vaes: ['avx', 'aes'],
  xsaveopt: ['xsave'],
  xsavec: ['xsave'],
  xgetbv1: ['xsave'],
  xsaves: ['xsavec', 'xgetbv1'],
  x2apic: ['apic'],
  tsc_deadline_timer: ['apic'],
  pcid: ['lm'],
  la57: ['lm'],
  pdpe1gb: ['lm'],
  lahf_lm: ['lm'],
  mca: ['mce'],
  bhi_ctrl: ['spec_ctrl'],
  autoibrs: ['ibrs'],
  arat: ['apic'],
  npt: ['svm'],
  lbrv: ['svm'],
  svm_lock: ['svm'],
  nrip_save: ['svm'],
  tsc_scale: ['svm'],
  vmcb_clean: ['svm'],
  flushbyasid: ['svm'],
  decodeassists: ['svm'],
  pausefilter: ['svm'],
  pfthreshold: ['pausefilter'],
  v_vmsave_vmload: ['svm', 'npt'],
  vgif: ['svm'],
};

/** Which feature gives a bit of CR4 its right to be 1; MOV to CR4 with any other bit set is #GP. SDM 3A 2.5. */
export const CR4_NEEDS: Readonly<Record<keyof typeof CR4, FeatureName | 'none'>> = {
  VME: 'vme',
  PVI: 'vme',
  TSD: 'tsc',
  DE: 'de',
  PSE: 'pse',
  PAE: 'pae',
  MCE: 'mce',
  PGE: 'pge',
  PCE: 'fpu', // RDPMC itself is older than CPUID's PMU leaves: every processor of ours has the bit
  OSFXSR: 'fxsr',
  OSXMMEXCPT: 'sse',
  UMIP: 'umip',
  LA57: 'la57',
  VMXE: 'vmx',
  SMXE: 'smx',
  FSGSBASE: 'fsgsbase',
  PCIDE: 'pcid',
  OSXSAVE: 'xsave',
  KL: 'none',
  SMEP: 'smep',
  SMAP: 'smap',
  PKE: 'pku',
  CET: 'shstk',
  PKS: 'pks',
  UINTR: 'uintr',
  LASS: 'lass',
  LAM_SUP: 'lam',
};

/** The same for EFER. LMA is not the guest's to write. */
export const EFER_NEEDS: Readonly<Record<keyof typeof EFER, FeatureName | 'none'>> = {
  SCE: 'syscall',
  LME: 'lm',
  LMA: 'lm',
  NXE: 'nx',
  SVME: 'svm',
  LMSLE: 'none',
  FFXSR: 'fxsr_opt',
  TCE: 'tce',
  MCOMMIT: 'none',
  INTWB: 'none',
  UAIE: 'none',
  AIBRSE: 'autoibrs',
};

export interface XsaveComponent {
  readonly name: string;
  readonly bit: number;
  /** Bytes in the extended region; 0 for what lies in the legacy region. */
  readonly size: number;
  /** Offset in the standard format; the compacted one packs enabled components from 576 on. */
  readonly offset: number;
  readonly in: 'XCR0' | 'IA32_XSS';
  readonly align64: boolean;
  readonly feature: FeatureName;
}

/**
 * SDM 1 13.4.2 "Extended Region of an XSAVE Area". PKRU lies at 832, as on AMD Zen 3: software learns the offset
 * from leaf 0xD, and without AVX-512 there is nothing between AVX and it.
 */
export const XSAVE_COMPONENTS: readonly XsaveComponent[] = [
  { name: 'x87', bit: 0, size: 0, offset: 0, in: 'XCR0', align64: false, feature: 'fpu' },
  { name: 'SSE', bit: 1, size: 0, offset: 160, in: 'XCR0', align64: false, feature: 'sse' },
  { name: 'AVX', bit: 2, size: 256, offset: 576, in: 'XCR0', align64: false, feature: 'avx' },
  { name: 'PKRU', bit: 9, size: 8, offset: 832, in: 'XCR0', align64: false, feature: 'pku' },
];
/** Legacy region and header: SDM 1 13.4. */
export const XSAVE_LEGACY_AND_HEADER_BYTES = 576;
