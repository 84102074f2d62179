/**
 * CPU models as data, and `-cpu NAME[,+feature…][,-feature…]`.
 *
 * Owns    names, family numbers, caches, address sizes and which features a model has by default.
 * Knows   nothing of leaves: `cpuid.ts` lays these rows out.
 */
import { UserError } from '../base/assert.ts';
import {
  type Capability,
  FEATURE_NAMES,
  FEATURE_REQUIRES,
  type FeatureName,
  featureRow,
  type Level,
} from './cpuid-features.ts';
import { FULL_OFFER } from './vmx/capabilities.ts';
import { offers, VMX_PART_NAMES, type VmxPart } from './vmx/offer-names.ts';

export type Vendor = 'intel' | 'amd';

export interface Cache {
  readonly type: 'data' | 'instruction' | 'unified';
  readonly level: 1 | 2 | 3;
  readonly bytes: number;
  readonly ways: number;
  readonly lineBytes: number;
  /** One for all cores of the package, or one per core. */
  readonly shared: boolean;
  readonly inclusive: boolean;
}

export interface CpuModel {
  readonly name: string;
  readonly vendor: Vendor;
  /** Leaf 0 EBX, EDX, ECX as text. */
  readonly vendorString: string;
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
  /** At most 47 characters. */
  readonly brand: string;
  readonly microcode: number;
  readonly physicalAddressBits: number;
  readonly linearAddressBits: number;
  readonly features: readonly FeatureName[];
  readonly caches: readonly Cache[];
}

/** What every build can do. A later engine passes more. */
export const BASE_CAPABILITIES: ReadonlySet<Capability> = new Set<Capability>([
  'base',
  'aes',
  'pclmul',
  'sha',
  'avx',
  'avx2',
  'fma',
  'f16c',
  'bmi',
  'adx',
  'rdpid',
  'clwb',
  'xsavec',
  'xsaves',
  'live',
  'hypervisor-leaf',
  'arch-capabilities',
  'spec-ctrl',
]);

const KIB = 1024;

/** L1 and L2 per core, one L3. What they hold is nobody's business here; glibc sizes its copies by them. */
const CACHES: readonly Cache[] = [
  { type: 'data', level: 1, bytes: 32 * KIB, ways: 8, lineBytes: 64, shared: false, inclusive: false },
  { type: 'instruction', level: 1, bytes: 32 * KIB, ways: 8, lineBytes: 64, shared: false, inclusive: false },
  { type: 'unified', level: 2, bytes: 512 * KIB, ways: 8, lineBytes: 64, shared: false, inclusive: true },
  { type: 'unified', level: 3, bytes: 8192 * KIB, ways: 16, lineBytes: 64, shared: true, inclusive: false },
];

/** x86-64-v3 and what both vendors add to it. */
const COMMON: readonly FeatureName[] = [
  'fpu',
  'vme',
  'de',
  'pse',
  'tsc',
  'msr',
  'pae',
  'mce',
  'cx8',
  'apic',
  'sep',
  'mtrr',
  'pge',
  'mca',
  'cmov',
  'pat',
  'pse36',
  'clflush',
  'mmx',
  'fxsr',
  'sse',
  'sse2',
  'ht',
  'pni',
  'ssse3',
  'cx16',
  'sse4_1',
  'sse4_2',
  'x2apic',
  'movbe',
  'popcnt',
  'xsave',
  'osxsave',
  'rdrand',
  'tsc_deadline_timer',
  'pcid',
  'arat',
  'fsgsbase',
  'tsc_adjust',
  'smep',
  'erms',
  'invpcid',
  'rdseed',
  'smap',
  'umip',
  'pku',
  'ospke',
  'xsaveopt',
  'xsavec',
  'xgetbv1',
  'xsaves',
  'syscall',
  'nx',
  'pdpe1gb',
  'rdtscp',
  'lm',
  'lahf_lm',
  '3dnowprefetch',
  'nonstop_tsc',
  'aes',
  'pclmulqdq',
  'avx',
  'fma',
  'f16c',
  'avx2',
  'bmi1',
  'bmi2',
  'abm',
  'adx',
  'clflushopt',
  'clwb',
  'rdpid',
  'sha_ni',
  'hypervisor',
];

/**
 * Bits for which the answer is "this machine does not speculate": with them Linux leaves page-table isolation, buffer
 * clearing, retpolines and the clearing of branch history off, and has no weakness to warn of. True of the hardware, so
 * no cheat.
 */
const NOT_VULNERABLE: Readonly<Record<Vendor, readonly FeatureName[]>> = {
  intel: ['arch_capabilities', 'spec_ctrl', 'stibp', 'ssbd', 'bhi_ctrl'],
  amd: [
    'ssb_no',
    'btc_no',
    'srso_no',
    'lfence_rdtsc',
    'null_sel_clr_base',
    'ibpb',
    'ibpb_ret',
    'ibrs',
    'amd_stibp',
    'autoibrs',
  ],
};

export const CPU_MODELS: readonly CpuModel[] = [
  {
    name: 'intel',
    vendor: 'intel',
    vendorString: 'GenuineIntel',
    // Skylake client: old enough for Linux to ask for no MSR that this machine lacks, and no model-specific erratum
    // of TSC-deadline or PERF_GLOBAL_CTRL applies at this microcode revision.
    family: 6,
    model: 0x5e,
    stepping: 3,
    brand: 'Terrarium x86-64 Processor (Intel)',
    microcode: 0xf0,
    physicalAddressBits: 46,
    linearAddressBits: 48,
    features: [...COMMON, 'ss', 'fdp_excptn_only', 'zero_fcs_fds', ...NOT_VULNERABLE.intel, 'vmx'],
    caches: CACHES,
  },
  {
    name: 'amd',
    vendor: 'amd',
    vendorString: 'AuthenticAMD',
    // Zen 2: Linux takes a Zen 1 for one with the errata "DIV0" and "FPDSS"
    family: 0x17,
    model: 0x31,
    stepping: 0,
    brand: 'Terrarium x86-64 Processor (AMD)',
    microcode: 0x0830_107c,
    physicalAddressBits: 48,
    linearAddressBits: 48,
    features: [
      ...COMMON,
      ...(['mmxext', 'fxsr_opt', 'cr8_legacy', 'cmp_legacy', 'topoext', 'xsaveerptr', 'sse4a'] as const),
      ...NOT_VULNERABLE.amd,
      ...(['svm', 'npt', 'lbrv', 'nrip_save', 'tsc_scale', 'vmcb_clean', 'flushbyasid', 'decodeassists'] as const),
      ...(['pausefilter', 'pfthreshold', 'v_vmsave_vmload', 'vgif'] as const),
    ],
    caches: CACHES,
  },
];

/** psABI levels as models: the features of that level and of those below, and what Linux boots on. */
const LEVELS: readonly Level[] = ['x86-64-v1', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4'];

/** What a level-named model has besides its level: without these no 64-bit system starts. */
const LEVEL_BASE: readonly FeatureName[] = [
  'fpu',
  'de',
  'pse',
  'tsc',
  'msr',
  'pae',
  'cx8',
  'apic',
  'mtrr',
  'pge',
  'cmov',
  'pat',
  'clflush',
  'ht',
  'syscall',
  'nx',
  'lm',
  'sep',
  'hypervisor',
];

const LEVEL_MODELS: readonly CpuModel[] = LEVELS.map((level, at) => {
  const upTo = LEVELS.slice(0, at + 1);
  const ofLevel = FEATURE_NAMES.filter((name) => upTo.includes(featureRow(name).level));
  return {
    ...CPU_MODELS[0]!,
    name: level,
    brand: `Terrarium ${level} Processor`,
    features: [
      ...new Set([...LEVEL_BASE, ...NOT_VULNERABLE.intel, ...ofLevel, ...(at >= 2 ? (['osxsave'] as const) : [])]),
    ],
  };
});

/** Everything that the build can do, Intel flavour: QEMU's `max`. LA57 stays off: Linux would use it (pitfall 9). */
const MAX: CpuModel = {
  ...CPU_MODELS[0]!,
  name: 'max',
  brand: 'Terrarium x86-64 Processor (max)',
  features: FEATURE_NAMES.filter((name) => {
    const { leaf, needs } = featureRow(name);
    const amdOnly = leaf === 0x8000_000a || leaf === 0x8000_0021 || (leaf === 0x8000_0008 && needs === 'base');
    const amdBits: readonly FeatureName[] = [
      'svm',
      'cmp_legacy',
      'topoext',
      'cr8_legacy',
      'mmxext',
      'fxsr_opt',
      'sse4a',
    ];
    return !amdOnly && !amdBits.includes(name) && name !== 'la57';
  }),
};

export const ALL_MODELS: readonly CpuModel[] = [...CPU_MODELS, MAX, ...LEVEL_MODELS];

/** What `-cpu` said. */
export interface CpuChoice {
  readonly model: CpuModel;
  readonly add: readonly FeatureName[];
  readonly remove: readonly FeatureName[];
  /** What an L1 is not offered of VMX; by default nothing is left out that works. */
  readonly vmxRemove?: readonly VmxPart[];
}

const PHYSICAL_BITS = { least: 36, most: 48 };

/**
 * Parses `intel,+vmx,-pku`; QEMU's `vmx=on` and `pku=off` mean the same, as does a bare `vmx`. `-`, `_` and `.` are
 * one character in names. `-vmx-mbec` and its like take something from what a hypervisor in the guest is offered;
 * `phys-bits=36` narrows physical addresses.
 *
 * @throws UserError naming the nearest match for an unknown model or feature.
 */
export function parseCpu(text: string): CpuChoice {
  const [wanted = '', ...changes] = text.split(',').map((part) => part.trim());
  let model = ALL_MODELS.find((candidate) => spelled(candidate.name) === spelled(wanted));
  if (model === undefined) {
    const names = ALL_MODELS.map((candidate) => candidate.name);
    const close = nearIfAny(wanted, names);
    throw new UserError(
      `-cpu ${wanted || '(nothing)'}: there is no such model.${close ? ` Did you mean ${close}?` : ''} ` +
        `Models are ${names.join(', ')}; max has all that this machine can do.`,
    );
  }
  const add = new Set<FeatureName>();
  const remove = new Set<FeatureName>();
  const vmxRemove = new Set<VmxPart>();
  for (const change of changes) {
    if (change === '') continue;
    const [, sign = '', name = '', value = ''] = /^([+-]?)([^=]*)=?(.*)$/.exec(change) ?? [];
    if (spelled(name) === 'physbits') {
      model = { ...model, physicalAddressBits: physicalBits(value) };
      continue;
    }
    if (value !== '' && value !== 'on' && value !== 'off') {
      throw new UserError(`-cpu: "${change}": a feature is on or off, not "${value}". Write +${name} or -${name}.`);
    }
    const on = value === 'off' ? false : value === 'on' ? true : sign !== '-';
    const part = VMX_PART_NAMES.find((candidate) => spelled(candidate) === spelled(name));
    if (part !== undefined) {
      if (on && !offers(FULL_OFFER, part)) {
        throw new UserError(`-cpu: +${part}: this machine's VMX does not offer that. Leave it out.`);
      }
      if (on) vmxRemove.delete(part);
      else vmxRemove.add(part);
      continue;
    }
    const feature = featureNamed(name);
    if (feature === undefined) {
      const names = [...SPELLINGS.keys(), ...VMX_PART_NAMES, 'phys-bits'];
      throw new UserError(`-cpu: there is no feature "${name}". Did you mean ${nearest(name, names)}?`);
    }
    (on ? add : remove).add(feature);
    (on ? remove : add).delete(feature);
  }
  return { model, add: [...add], remove: [...remove], vmxRemove: [...vmxRemove] };
}

function physicalBits(text: string): number {
  const { least, most } = PHYSICAL_BITS;
  const bits = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (bits >= least && bits <= most) return bits;
  throw new UserError(`-cpu: phys-bits=${text}: expected a number from ${least} to ${most}.`);
}

export const featureNamed = (name: string): FeatureName | undefined => SPELLINGS.get(spelled(name));

/**
 * The features a guest sees: the model's and the added ones, as far as the build can do them, less the removed ones
 * and whatever depended on them.
 *
 * @throws UserError if an added feature cannot be had: one that the user named must not vanish in silence.
 */
export function shownFeatures(choice: CpuChoice, capabilities: ReadonlySet<Capability>): ReadonlySet<FeatureName> {
  for (const name of choice.add) {
    const { needs } = featureRow(name);
    if (!capabilities.has(needs)) {
      throw new UserError(
        needs === 'never'
          ? `-cpu: this machine does not have ${name}. Leave +${name} out.`
          : `-cpu: +${name} needs "${needs}", which this build of the processor cannot do yet. Leave it out.`,
      );
    }
  }
  const shown = new Set(
    [...choice.model.features, ...choice.add].filter((name) => capabilities.has(featureRow(name).needs)),
  );
  for (const name of choice.remove) shown.delete(name);
  for (let before = -1; before !== shown.size; ) {
    before = shown.size;
    for (const name of shown) {
      if (FEATURE_REQUIRES[name]?.some((needed) => !shown.has(needed))) shown.delete(name);
    }
  }
  for (const name of choice.add) {
    if (!shown.has(name)) {
      throw new UserError(`-cpu: +${name} needs ${FEATURE_REQUIRES[name]?.join(', ')}. Add it, or leave ${name} out.`);
    }
  }
  return shown;
}

const spelled = (name: string): string => name.toLowerCase().replace(/[-_.]/g, '');

const SPELLINGS: ReadonlyMap<string, FeatureName> = new Map(
  FEATURE_NAMES.flatMap((name) =>
    [name, ...featureRow(name).aliases].map((text): readonly [string, FeatureName] => [spelled(text), name]),
  ),
);

/** The candidate with the smallest edit distance; the first of equals. */
export function nearest(wanted: string, candidates: readonly string[]): string {
  let best = '';
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const distance = editDistance(spelled(wanted), spelled(candidate));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** The nearest, if it is near: not more than a third of the letters are wrong. */
export function nearIfAny(wanted: string, candidates: readonly string[]): string | undefined {
  const best = nearest(wanted, candidates);
  const letters = Math.max(spelled(wanted).length, spelled(best).length);
  return editDistance(spelled(wanted), spelled(best)) * 3 <= letters + 1 ? best : undefined;
}

/** Edits and swaps of neighbours: typing errors. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      let distance = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) distance = Math.min(distance, before[j - 2]! + 1);
      next.push(distance);
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
