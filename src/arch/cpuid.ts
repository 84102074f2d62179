/**
 * CPUID as a table: a CPU choice in, four numbers per leaf out.
 *
 * Owns    the layout of every leaf, and the few bits that follow live state (OSXSAVE, OSPKE, APIC, leaf 0xD sizes).
 * Knows   no guest: whose CR4 and XCR0 those are, the caller says.
 * Never   allocates after construction.
 *
 * Leaves 0x15 and 0x16 are left out on purpose: a frequency that is not the true tick rate slows the guest's clock by
 * that factor, and without the leaves Linux calibrates (linux-guest.md 6, pitfall 3).
 *
 * Source  SDM 2A 3.2 "CPUID—CPU Identification", Table 3-8; APM 3 Appendix E.
 */
import { assert } from '../base/assert.ts';
import { type Cache, type CpuChoice, type CpuModel, shownFeatures } from './cpu-models.ts';
import {
  type Capability,
  CR4_NEEDS,
  EFER_NEEDS,
  FEATURE_NAMES,
  type FeatureName,
  featureRow,
  XSAVE_COMPONENTS,
  XSAVE_LEGACY_AND_HEADER_BYTES,
} from './cpuid-features.ts';
import type { MsrModel } from './msrs.ts';
import { CR4, EFER } from './registers.ts';

export interface Topology {
  /** Logical processors of the machine: all in one package. */
  readonly cpus: number;
  readonly threadsPerCore?: number;
  /** Of this processor. */
  readonly apicId: number;
}

export interface CpuidOptions extends Topology {
  readonly capabilities: ReadonlySet<Capability>;
  /** ASIDs that SVM offers: leaf 0x8000000A EBX. */
  readonly asids?: number;
}

type Regs = [eax: number, ebx: number, ecx: number, edx: number];
interface Leaf {
  readonly leaf: number;
  /** -1: the leaf does not look at ECX. */
  readonly subleaf: number;
  readonly regs: Regs;
}

const REGISTER_AT = { eax: 0, ebx: 1, ecx: 2, edx: 3 } as const;
/** Our own signature. A hypervisor's name would promise its paravirtual interface. */
export const HYPERVISOR_SIGNATURE = 'TerrariumHV';

export class CpuidPolicy implements MsrModel {
  readonly model: CpuModel;
  readonly vendor: 'intel' | 'amd';
  readonly features: ReadonlySet<FeatureName>;
  readonly physicalAddressBits: number;
  readonly linearAddressBits: number;
  /** EAX, EBX, ECX, EDX of row n at 4n. Row 0 is zeros. */
  readonly values: Uint32Array;
  /** Bits of CR4 that may be 1, of EFER likewise, and of XCR0. */
  readonly cr4Allowed: number;
  readonly eferAllowed: number;
  readonly xcr0Allowed: number;

  readonly #leaves: Uint32Array;
  readonly #subleaves: Int32Array;
  readonly #count: number;
  readonly #outOfRange: number;
  readonly #leaf1: number;
  readonly #leaf7: number;
  readonly #xsave: number;
  readonly #maxBasic: number;
  /** What `setLive` was told. */
  #live = { cr4: -1, xcr0: 0, xss: 0, apicEnabled: false };

  constructor(choice: CpuChoice, options: CpuidOptions) {
    const features = shownFeatures(choice, options.capabilities);
    this.model = choice.model;
    this.vendor = choice.model.vendor;
    this.features = features;
    this.physicalAddressBits = choice.model.physicalAddressBits;
    this.linearAddressBits = features.has('la57') ? 57 : choice.model.linearAddressBits;
    this.cr4Allowed = allowed(CR4, CR4_NEEDS, features);
    this.eferAllowed = allowed(EFER, EFER_NEEDS, features);
    this.xcr0Allowed = features.has('xsave')
      ? XSAVE_COMPONENTS.filter((part) => part.in === 'XCR0' && features.has(part.feature)).reduce(
          (mask, part) => mask | (1 << part.bit),
          0,
        )
      : 0;

    const rows = layOut(choice.model, features, options, this.xcr0Allowed, this.linearAddressBits);
    const zeros: Leaf = { leaf: 0xffff_ffff, subleaf: -1, regs: [0, 0, 0, 0] };
    const all = [zeros, ...rows];
    this.#count = all.length;
    this.#leaves = Uint32Array.from(all, (row) => row.leaf);
    this.#subleaves = Int32Array.from(all, (row) => row.subleaf);
    this.values = Uint32Array.from(all.flatMap((row) => row.regs));
    this.#maxBasic = this.values[4 * this.#exact(0, 0)]!;
    // SDM: a leaf above the maximum answers as the highest basic leaf; APM 3 E.3: reserved functions answer 0.
    this.#outOfRange = this.vendor === 'intel' ? -1 : 0;
    this.#leaf1 = this.#exact(1, 0);
    this.#leaf7 = this.#exact(7, 0);
    this.#xsave = features.has('xsave') ? this.#exact(0xd, 0) : 0;
    this.setLive(0, 1, 0, true);
  }

  has(feature: FeatureName): boolean {
    return this.features.has(feature);
  }

  /**
   * Row for a leaf and sub-leaf, both unsigned: the answer is `values[4 * row]` … `values[4 * row + 3]`. Total: an
   * unknown leaf has an answer too.
   */
  find(leaf: number, subleaf: number): number {
    const exact = this.#exact(leaf, subleaf);
    if (exact !== 0 || this.#outOfRange === 0) return exact;
    // Intel: only leaves outside every range fall back; a gap inside a range is zeros.
    if (leaf <= this.#maxBasic || (leaf >= 0x8000_0000 && leaf <= 0x8000_0008)) return 0;
    if (leaf >= 0x4000_0000 && leaf <= 0x4fff_ffff && this.features.has('hypervisor')) return 0;
    return this.#exact(this.#maxBasic, subleaf);
  }

  /**
   * Brings the bits that follow live state up to date. Call it when one of these changes, or before `find`.
   *
   * @param xss  Low half of IA32_XSS.
   */
  setLive(cr4: number, xcr0: number, xss: number, apicEnabled: boolean): void {
    const live = this.#live;
    if (live.cr4 === cr4 && live.xcr0 === xcr0 && live.xss === xss && live.apicEnabled === apicEnabled) return;
    this.#live = { cr4, xcr0, xss, apicEnabled };
    const { values, features } = this;
    const ecx1 = 4 * this.#leaf1 + 2;
    const edx1 = 4 * this.#leaf1 + 3;
    values[ecx1] = (values[ecx1]! & ~OSXSAVE) | (features.has('xsave') && (cr4 & CR4.OSXSAVE) !== 0 ? OSXSAVE : 0);
    values[edx1] = (values[edx1]! & ~APIC) | (features.has('apic') && apicEnabled ? APIC : 0);
    if (this.#leaf7 !== 0) {
      const ecx7 = 4 * this.#leaf7 + 2;
      values[ecx7] = (values[ecx7]! & ~OSPKE) | (features.has('pku') && (cr4 & CR4.PKE) !== 0 ? OSPKE : 0);
    }
    if (this.#xsave !== 0) {
      values[4 * this.#xsave + 1] = xsaveBytes(xcr0);
      // Leaf 0xD, sub-leaf 1 follows sub-leaf 0. "If EAX[3] is enumerated as 0 and EAX[1] as 1, EBX enumerates the
      // size for XCR0; if both are 0, EBX enumerates zero."
      values[4 * (this.#xsave + 1) + 1] = features.has('xsaves')
        ? xsaveCompactBytes(xcr0 | xss)
        : features.has('xsavec')
          ? xsaveCompactBytes(xcr0)
          : 0;
    }
  }

  /** XSETBV: SDM 2C "XSETBV", SDM 1 13.3. x87 always, AVX only with SSE. */
  xcr0IsLegal(lo: number, hi: number): boolean {
    if (hi !== 0 || (lo & ~this.xcr0Allowed) !== 0 || (lo & 1) === 0) return false;
    return (lo & 4) === 0 || (lo & 2) !== 0;
  }

  #exact(leaf: number, subleaf: number): number {
    for (let row = 1; row < this.#count; row += 1) {
      if (this.#leaves[row] !== leaf) continue;
      const wanted = this.#subleaves[row]!;
      if (wanted === -1 || wanted === subleaf) return row;
    }
    return 0;
  }
}

const OSXSAVE = 1 << featureRow('osxsave').bit;
const APIC = 1 << featureRow('apic').bit;
const OSPKE = 1 << featureRow('ospke').bit;

/** Standard format: up to the end of the last enabled component. SDM 1 13.4.2. */
export function xsaveBytes(xcr0: number): number {
  let bytes = XSAVE_LEGACY_AND_HEADER_BYTES;
  for (const { bit, offset, size } of XSAVE_COMPONENTS) {
    if (bit >= 2 && (xcr0 & (1 << bit)) !== 0) bytes = Math.max(bytes, offset + size);
  }
  return bytes;
}

/** Compacted format: enabled components packed, those with `align64` on a 64-byte boundary. SDM 1 13.4.3. */
export function xsaveCompactBytes(enabled: number): number {
  let bytes = XSAVE_LEGACY_AND_HEADER_BYTES;
  for (const { bit, size, align64 } of XSAVE_COMPONENTS) {
    if (bit < 2 || (enabled & (1 << bit)) === 0) continue;
    if (align64) bytes = Math.ceil(bytes / 64) * 64;
    bytes += size;
  }
  return bytes;
}

function allowed<const R extends Readonly<Record<string, number>>>(
  register: R,
  needs: Readonly<Record<keyof R, FeatureName | 'none'>>,
  shown: ReadonlySet<FeatureName>,
): number {
  let mask = 0;
  for (const [name, bit] of Object.entries(register)) {
    const need = needs[name as keyof R];
    if (need !== 'none' && shown.has(need)) mask |= bit;
  }
  return mask >>> 0;
}

/** Bits needed to number `count` things. */
const widthOf = (count: number): number => Math.ceil(Math.log2(Math.max(1, count)));

function layOut(
  model: CpuModel,
  features: ReadonlySet<FeatureName>,
  options: CpuidOptions,
  xcr0: number,
  linearAddressBits: number,
): Leaf[] {
  const { cpus, apicId, threadsPerCore = 1 } = options;
  assert(cpus >= 1 && cpus % threadsPerCore === 0, 'every core of the package has the same number of threads');
  const intel = model.vendor === 'intel';
  const cores = cpus / threadsPerCore;
  const threadShift = widthOf(threadsPerCore);
  const packageShift = threadShift + widthOf(cores);

  const rows: Leaf[] = [];
  const put = (leaf: number, subleaf: number, eax: number, ebx: number, ecx: number, edx: number): void => {
    rows.push({ leaf, subleaf, regs: [eax >>> 0, ebx >>> 0, ecx >>> 0, edx >>> 0] });
  };
  const featureBits = (leaf: number, subleaf: number): Regs => {
    const regs: Regs = [0, 0, 0, 0];
    for (const name of FEATURE_NAMES) {
      const row = featureRow(name);
      if (row.leaf !== leaf || row.subleaf !== subleaf || !features.has(name)) continue;
      regs[REGISTER_AT[row.register]] |= 1 << row.bit;
    }
    return regs;
  };

  const vendor = words(model.vendorString);
  const extended7 = [2, 1].find((subleaf) => featureBits(7, subleaf).some((register) => register !== 0)) ?? 0;
  const maxBasic = features.has('xsave') ? 0xd : features.has('x2apic') ? 0xb : 7;
  put(0, -1, maxBasic, vendor[0]!, vendor[2]!, vendor[1]!);

  const signature = versionOf(model);
  const one = featureBits(1, 0);
  const many = cpus > 1;
  if (!many) one[3] &= ~(1 << featureRow('ht').bit);
  const clflushLine = features.has('clflush') ? 8 << 8 : 0;
  put(1, -1, signature, (apicId << 24) | ((many ? 1 << packageShift : 0) << 16) | clflushLine | one[1], one[2], one[3]);

  // "No TLB or cache descriptors here: see leaf 4", 64-byte prefetch.
  if (intel) put(2, -1, 0x00fe_ff01, 0xf0, 0, 0);
  if (intel) {
    model.caches.forEach((cache, at) => {
      const sharing = cache.shared ? 1 << packageShift : 1 << threadShift;
      const [eax, ebx, ecx, edx] = cacheLeaf(cache, sharing);
      put(4, at, eax | ((Math.max(1, 1 << widthOf(cores)) - 1) << 26), ebx, ecx, edx);
    });
  }
  const six = featureBits(6, 0);
  put(6, -1, ...six);
  const seven = featureBits(7, 0);
  put(7, 0, extended7, seven[1], seven[2], seven[3]);
  for (let subleaf = 1; subleaf <= extended7; subleaf += 1) put(7, subleaf, ...featureBits(7, subleaf));

  if (features.has('x2apic')) {
    put(0xb, 0, threadShift, threadsPerCore, 0x100, apicId);
    put(0xb, 1, packageShift, cpus, 0x201, apicId);
    // ECX echoes the sub-leaf; beyond the last level EAX and EBX are 0. Two more levels cover every reader.
    put(0xb, 2, 0, 0, 2, apicId);
    put(0xb, 3, 0, 0, 3, apicId);
  }
  if (features.has('xsave')) {
    put(0xd, 0, xcr0, xsaveBytes(1), xsaveBytes(xcr0), 0);
    put(0xd, 1, featureBits(0xd, 1)[0], 0, 0, 0);
    for (const part of XSAVE_COMPONENTS) {
      if (part.bit < 2 || (xcr0 & (1 << part.bit)) === 0) continue;
      put(0xd, part.bit, part.size, part.offset, (part.in === 'IA32_XSS' ? 1 : 0) | (part.align64 ? 2 : 0), 0);
    }
  }

  if (features.has('hypervisor')) {
    const name = words(HYPERVISOR_SIGNATURE);
    put(0x4000_0000, -1, 0x4000_0000, name[0]!, name[1]!, name[2]!);
  }

  const maxExtended = intel ? 0x8000_0008 : 0x8000_0021;
  put(
    0x8000_0000,
    -1,
    maxExtended,
    ...(intel ? ([0, 0, 0] as const) : ([vendor[0]!, vendor[2]!, vendor[1]!] as const)),
  );
  const ext1 = featureBits(0x8000_0001, 0);
  if (!many) ext1[2] &= ~(1 << featureRow('cmp_legacy').bit);
  // APM 3 E.4.2: on AMD, EDX repeats leaf 1 in bits 9:0, 17:12, 24:23.
  if (!intel) ext1[3] |= one[3] & 0x0183_f3ff;
  put(0x8000_0001, -1, intel ? 0 : signature, 0, ext1[2], ext1[3]);
  const brand = words(model.brand.padEnd(48, '\0'));
  for (let part = 0; part < 3; part += 1) {
    put(0x8000_0002 + part, -1, brand[4 * part]!, brand[4 * part + 1]!, brand[4 * part + 2]!, brand[4 * part + 3]!);
  }
  amdCaches(model, put);
  put(0x8000_0007, -1, 0, 0, 0, featureBits(0x8000_0007, 0)[3]);
  const eight = featureBits(0x8000_0008, 0);
  const sizes = (linearAddressBits << 8) | model.physicalAddressBits;
  put(0x8000_0008, -1, sizes, eight[1], intel ? 0 : (packageShift << 12) | (cpus - 1), 0);
  if (!intel) {
    if (features.has('svm')) put(0x8000_000a, -1, 1, options.asids ?? 0x8000, 0, featureBits(0x8000_000a, 0)[3]);
    if (features.has('topoext')) {
      model.caches.forEach((cache, at) => {
        const [eax, ebx, ecx, edx] = cacheLeaf(cache, cache.shared ? cpus : threadsPerCore);
        put(0x8000_001d, at, eax, ebx, ecx, edx & 3);
      });
      put(0x8000_001d, model.caches.length, 0, 0, 0, 0);
      put(0x8000_001e, -1, apicId, ((threadsPerCore - 1) << 8) | (apicId >>> threadShift), 0, 0);
    }
    put(0x8000_0021, -1, featureBits(0x8000_0021, 0)[0], 0, 0, 0);
  }
  return rows;
}

/** Leaf 1 EAX: extended family and model only where the base fields are full. */
export function versionOf({ family, model, stepping }: CpuModel): number {
  const extendedFamily = family >= 15 ? family - 15 : 0;
  return (extendedFamily << 20) | ((model >>> 4) << 16) | (Math.min(family, 15) << 8) | ((model & 15) << 4) | stepping;
}

/** Leaf 4, and 0x8000001D, which is the same but for EAX[31:26]. `sharing`: logical processors behind one cache. */
function cacheLeaf(cache: Cache, sharing: number): Regs {
  const type = { data: 1, instruction: 2, unified: 3 }[cache.type];
  const sets = cache.bytes / (cache.ways * cache.lineBytes);
  const selfInitializing = 1 << 8;
  return [
    type | (cache.level << 5) | selfInitializing | ((sharing - 1) << 14),
    ((cache.ways - 1) << 22) | (cache.lineBytes - 1),
    sets - 1,
    cache.inclusive ? 2 : 0,
  ];
}

/** Leaves 0x80000005 and 0x80000006: APM 3 E.4.4 and E.4.5. Intel has only the L2 word of the latter. */
function amdCaches(
  model: CpuModel,
  put: (leaf: number, subleaf: number, eax: number, ebx: number, ecx: number, edx: number) => void,
): void {
  const at = (level: number, type: Cache['type']): Cache | undefined =>
    model.caches.find((cache) => cache.level === level && cache.type === type);
  const l1 = (cache: Cache | undefined): number =>
    cache === undefined ? 0 : ((cache.bytes / 1024) << 24) | (cache.ways << 16) | (1 << 8) | cache.lineBytes;
  const waysCode: Readonly<Record<number, number>> = { 1: 1, 2: 2, 4: 4, 8: 6, 16: 8, 32: 10 };
  const l2 = at(2, 'unified');
  const l3 = at(3, 'unified');
  const l2Word =
    l2 === undefined ? 0 : ((l2.bytes / 1024) << 16) | (waysCode[l2.ways]! << 12) | (1 << 8) | l2.lineBytes;
  if (model.vendor === 'intel') {
    put(0x8000_0006, -1, 0, 0, ((l2Word >>> 16) << 16) | (l2Word & 0xf000) | (l2Word & 0xff), 0);
    return;
  }
  const tlb = 0xff40_ff40; // 64 entries, fully associative, for instructions and data
  put(0x8000_0005, -1, tlb, tlb, l1(at(1, 'data')), l1(at(1, 'instruction')));
  const l2Tlb = 0x6400_6400; // 1024 entries, 8 ways
  const l3Word =
    l3 === undefined ? 0 : ((l3.bytes / (512 * 1024)) << 18) | (waysCode[l3.ways]! << 12) | (1 << 8) | l3.lineBytes;
  put(0x8000_0006, -1, l2Tlb, l2Tlb, l2Word, l3Word);
}

/** Text as little-endian words. */
function words(text: string): readonly number[] {
  const out: number[] = [];
  for (let at = 0; at < text.length; at += 4) {
    let word = 0;
    for (let byte = 3; byte >= 0; byte -= 1) word = word * 256 + (text.charCodeAt(at + byte) || 0);
    out.push(word);
  }
  return out;
}
