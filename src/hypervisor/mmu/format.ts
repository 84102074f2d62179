/**
 * Page formats: the immutable tables by which one guest table format is read and judged, interned VM-wide.
 *
 * Owns    the choice of which role bits matter for a format (the key), and the map from key to tables.
 * Never   reads a vCPU: equal key means equal tables, by construction (nested-mmu.md 4.1 rule 2, invariant I7).
 *
 * `smm`, `guest_mode` and `access` are not in the key, so that L1 and L2 in the same paging mode share one object, and a
 * mode flip that comes back is a look-up (2.5 item 3).
 */
import { ACC, PFEC } from './access.ts';
import type { MmuCounters } from './counters.ts';
import { computeBadMtXwr, EPT_CAP } from './ept.ts';
import { computePermissions, computePkruMask } from './permissions.ts';
import { computeReservedBits } from './reserved-bits.ts';
import { EXT, KIND, type Kind, ROLE, roleKind, roleLevel } from './role.ts';

export interface PageFormat {
  readonly key: number;
  readonly kind: Kind;
  readonly level: number;
  readonly permissions: Uint16Array;
  readonly pkruMask: number;
  readonly reservedLo: Uint32Array;
  readonly reservedHi: Uint32Array;
  /** EPT only: low six entry bits that are illegal. */
  readonly badMtXwrLo: number;
  readonly badMtXwrHi: number;
  /** EPT with MBEC but no execute-only: an entry with XU and without R is illegal too (nested-mmu.md 3.11). */
  readonly xuNeedsRead: boolean;
  readonly mbec: boolean;
  /** Bit 63 of an 8-byte entry is execute-disable. */
  readonly nx: boolean;
  readonly fourByte: boolean;
  readonly pse: boolean;
}

/** What CPUID and the VMX capability MSRs say. A change is a new epoch, never a role bit (3.6). */
export interface Capabilities {
  readonly physicalAddressBits: number;
  readonly gbPages: boolean;
  /** 48, or 57 with 5-level paging, whether or not it is in use. */
  readonly linearAddressBits: number;
  readonly amd: boolean;
  /** IA32_VMX_EPT_VPID_CAP as L1 sees it, low and high half. */
  readonly ept: number;
  readonly vpid: number;
}

const KEY = {
  LEVEL_SHIFT: 0,
  KIND_SHIFT: 3,
  NX: 1 << 5,
  WP: 1 << 6,
  SMEP: 1 << 7,
  SMAP: 1 << 8,
  PSE: 1 << 9,
  PKE: 1 << 10,
  EXECONLY: 1 << 11,
  MBEC: 1 << 12,
  GMET: 1 << 13,
  FOUR_BYTE: 1 << 14,
  EPOCH_SHIFT: 15,
} as const;

/** The bits of a role that change a format, and no others. */
export function formatKey(base: number, ext: number): number {
  const kind = roleKind(base);
  let key = (roleLevel(base) << KEY.LEVEL_SHIFT) | (kind << KEY.KIND_SHIFT);
  if (kind === KIND.EPT) {
    if ((ext & EXT.EXECONLY) !== 0) key |= KEY.EXECONLY;
    if ((base & ROLE.MBEC) !== 0) key |= KEY.MBEC;
    return key;
  }
  const fourByte = (base & ROLE.HAS_4_BYTE_GPTE) !== 0;
  if (fourByte) key |= KEY.FOUR_BYTE;
  else if ((base & ROLE.EFER_NX) !== 0) key |= KEY.NX;
  if (fourByte && (ext & EXT.CR4_PSE) !== 0) key |= KEY.PSE;
  if ((base & ROLE.GMET) !== 0) key |= KEY.GMET;
  // NPT walks are user accesses: WP, SMEP, SMAP and keys cannot matter.
  if (kind === KIND.NPT) return key;
  if ((base & ROLE.CR0_WP) !== 0) key |= KEY.WP;
  if ((ext & EXT.CR4_SMEP) !== 0) key |= KEY.SMEP;
  if ((ext & EXT.CR4_SMAP) !== 0) key |= KEY.SMAP;
  if ((ext & EXT.CR4_PKE) !== 0) key |= KEY.PKE;
  return key;
}

/** Makes the tables of one key. Pure: the only inputs are the key and the capabilities. */
export function computeFormat(key: number, caps: Capabilities): PageFormat {
  const kind = ((key >> KEY.KIND_SHIFT) & 3) as Kind;
  const level = key & 7;
  const has = (bit: number): boolean => (key & bit) !== 0;
  const execOnly = has(KEY.EXECONLY);
  const mbec = has(KEY.MBEC);
  const reserved = computeReservedBits({
    kind,
    level,
    physicalAddressBits: caps.physicalAddressBits,
    nx: has(KEY.NX),
    pse: has(KEY.PSE),
    gbPages: caps.gbPages,
    amd: caps.amd,
    ept2m: (caps.ept & EPT_CAP.PAGE_2M) !== 0,
    ept1g: (caps.ept & EPT_CAP.PAGE_1G) !== 0,
  });
  const badMtXwr = kind === KIND.EPT ? computeBadMtXwr(execOnly) : { lo: 0, hi: 0 };
  return Object.freeze({
    key,
    kind,
    level,
    permissions: computePermissions({
      ept: kind === KIND.EPT,
      mbec,
      gmet: has(KEY.GMET),
      nx: has(KEY.NX),
      wp: has(KEY.WP),
      smep: has(KEY.SMEP),
      smap: has(KEY.SMAP),
    }),
    pkruMask: computePkruMask(has(KEY.PKE), has(KEY.WP)),
    reservedLo: reserved.lo,
    reservedHi: reserved.hi,
    badMtXwrLo: badMtXwr.lo,
    badMtXwrHi: badMtXwr.hi,
    xuNeedsRead: mbec && !execOnly,
    mbec,
    nx: has(KEY.NX),
    fourByte: has(KEY.FOUR_BYTE),
    pse: has(KEY.PSE),
  });
}

/** The interning map of one VM. */
export class PageFormats {
  #formats = new Map<number, PageFormat>();
  #epoch = 0;
  #caps: Capabilities;
  readonly #counters: MmuCounters;
  /** `false` is the pre-series behaviour: every request computes. For comparison runs. */
  readonly #interning: boolean;

  constructor(caps: Capabilities, counters: MmuCounters, interning: boolean) {
    this.#caps = caps;
    this.#counters = counters;
    this.#interning = interning;
  }

  get capabilities(): Capabilities {
    return this.#caps;
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** New CPUID or VMX capabilities: every format made so far belongs to the past. */
  setCapabilities(caps: Capabilities): void {
    this.#caps = caps;
    this.#epoch += 1;
    this.#formats.clear();
  }

  intern(base: number, ext: number): PageFormat {
    const key = formatKey(base, ext) + this.#epoch * 2 ** KEY.EPOCH_SHIFT;
    const known = this.#interning ? this.#formats.get(key) : undefined;
    if (known !== undefined) {
      this.#counters.formatInternHit += 1;
      return known;
    }
    this.#counters.formatComputed += 1;
    const format = computeFormat(formatKey(base, ext), this.#caps);
    this.#formats.set(key, format);
    return format;
  }

  /** For `force` mode and tests: computes without looking or remembering, and counts nothing. */
  recompute(base: number, ext: number): PageFormat {
    return computeFormat(formatKey(base, ext), this.#caps);
  }
}

/** Do two formats judge every entry and every access alike? */
export function sameFormat(a: PageFormat, b: PageFormat): boolean {
  const same = (x: Uint16Array | Uint32Array, y: Uint16Array | Uint32Array): boolean =>
    x.length === y.length && x.every((value, i) => value === y[i]);
  return (
    a.key === b.key &&
    a.kind === b.kind &&
    a.level === b.level &&
    a.pkruMask === b.pkruMask &&
    a.badMtXwrLo === b.badMtXwrLo &&
    a.badMtXwrHi === b.badMtXwrHi &&
    a.xuNeedsRead === b.xuNeedsRead &&
    a.mbec === b.mbec &&
    a.nx === b.nx &&
    a.fourByte === b.fourByte &&
    a.pse === b.pse &&
    same(a.permissions, b.permissions) &&
    same(a.reservedLo, b.reservedLo) &&
    same(a.reservedHi, b.reservedHi)
  );
}

/** Is the entry there at all? Reserved bits of an absent entry mean nothing. */
export function entryPresent(format: PageFormat, lo: number): boolean {
  if (format.kind !== KIND.EPT) return (lo & 1) !== 0;
  return (lo & 7) !== 0 || (format.mbec && (lo & 0x400) !== 0);
}

/** A present entry that sets a reserved bit, or (EPT) is misconfigured. */
export function entryIllegal(format: PageFormat, lo: number, hi: number, level: number): boolean {
  const i = ((lo >>> 7) & 1) * 5 + level - 1;
  if (((lo & format.reservedLo[i]!) | (hi & format.reservedHi[i]!)) !== 0) return true;
  if (format.kind !== KIND.EPT) return false;
  const k = lo & 0x3f;
  if ((((k < 32 ? format.badMtXwrLo : format.badMtXwrHi) >>> (k & 31)) & 1) !== 0) return true;
  return format.xuNeedsRead && (lo & 0x401) === 0x400;
}

/** Rights that one entry leaves (3.7). Without MBEC, USER of an EPT entry is a copy of EXEC, so that ANDing works. */
export function entryRights(format: PageFormat, lo: number, hi: number): number {
  if (format.kind === KIND.EPT) {
    const exec = lo & 4 ? ACC.EXEC : 0;
    const userExec = format.mbec ? (lo & 0x400 ? ACC.USER : 0) : exec ? ACC.USER : 0;
    return (lo & 3) | exec | userExec;
  }
  const exec = format.nx && hi >>> 31 !== 0 ? 0 : ACC.EXEC;
  return ACC.READ | (lo & 2) | (lo & 4) | exec;
}

/**
 * 0, or the error code bits that say why the access faults (P, and PK for a protection key).
 *
 * @param pfec         W, U, F and IMPLICIT of the access.
 * @param pkey         Protection key of the leaf, bits 62:59.
 * @param pkru, acFlag The running level's live registers; neither is cached anywhere.
 */
export function permissionFault(
  format: PageFormat,
  rights: number,
  pkey: number,
  pfec: number,
  pkru: number,
  acFlag: boolean,
): number {
  const notSmap = acFlag && (pfec & PFEC.IMPLICIT) === 0 ? 8 : 0;
  const index = ((pfec & (PFEC.W | PFEC.U | PFEC.F)) | notSmap) >> 1;
  const denied = ((format.permissions[index]! >> rights) & 1) !== 0 ? PFEC.P : 0;
  if (format.pkruMask === 0) return denied;
  const domain = (pfec & (PFEC.W | PFEC.U | PFEC.F)) | ((rights & ACC.USER) !== 0 ? 8 : 0);
  const disabled = (pkru >>> (2 * pkey)) & 3 & (format.pkruMask >>> domain);
  // PK says what PKRU forbids, whatever else does: SDM 3A 4.7
  return disabled !== 0 ? PFEC.P | PFEC.PK : denied;
}
