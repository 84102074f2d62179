/**
 * The reference walk: composes the guest's tables, EPT12 and the slots as the manuals say, from nothing but memory and
 * registers. No shadow page, no role, no format table, no cache; nothing here is shared with the walkers it judges.
 *
 * Slow and plain on purpose: 64-bit entries are BigInt, rights are booleans, and every rule is an `if` under the sentence
 * it comes from. It changes nothing: accessed and dirty bits that an access would set are taken as set.
 *
 * Source  nested-mmu.md I4; SDM 3A chapter 4 "Paging"; SDM 3C 28.2 "The Extended Page Table Mechanism (EPT)".
 */

/** Memory and registers, as plain as they come. */
export interface OracleWorld {
  /** Eight bytes of L1-physical memory (four if `bytes` is 4), or null in a hole. */
  read(gpa: number, bytes: 4 | 8): bigint | null;
  /** What lies at an L1-physical frame. */
  frame(gfn: number): { readonly hostPage: number; readonly readOnly: boolean } | null;
  readonly physicalAddressBits: number;
  readonly gbPages: boolean;
  readonly cr0: { readonly pg: boolean; readonly wp: boolean };
  readonly cr3: bigint;
  readonly cr4: {
    readonly pse: boolean;
    readonly pae: boolean;
    readonly la57: boolean;
    readonly smep: boolean;
    readonly smap: boolean;
    readonly pke: boolean;
  };
  readonly efer: { readonly lma: boolean; readonly nxe: boolean };
  readonly pkru: number;
  readonly ac: boolean;
  readonly pdptrs: readonly bigint[];
  /** EPT12 in force, or null. */
  readonly ept: {
    readonly eptp: bigint;
    readonly execOnly: boolean;
    readonly mbec: boolean;
    readonly pages2m: boolean;
    readonly pages1g: boolean;
  } | null;
}

export interface OracleAccess {
  readonly write: boolean;
  readonly user: boolean;
  readonly fetch: boolean;
  readonly implicit: boolean;
}

export type OracleResult =
  | { readonly kind: 'ram'; readonly hostPage: number; readonly gpa: number }
  | { readonly kind: 'mmio'; readonly gpa: number }
  | { readonly kind: '#PF'; readonly code: number; readonly address: bigint }
  /** `qualification`: bits 0 to 8. */
  | { readonly kind: 'violation'; readonly qualification: number; readonly ngpa: number }
  | { readonly kind: 'misconfiguration'; readonly ngpa: number };

type Refusal = Exclude<OracleResult, { kind: 'ram' }>;
interface EptRights {
  readonly gpa: number;
}
interface Rights {
  read: boolean;
  write: boolean;
  exec: boolean;
  user: boolean;
}

const bit = (value: bigint, at: number): boolean => ((value >> BigInt(at)) & 1n) === 1n;
const field = (value: bigint, high: number, low: number): bigint =>
  (value >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);

/** Where one access of the running level ends. */
export function compose(w: OracleWorld, linear: bigint, access: OracleAccess): OracleResult {
  const guest = w.cr0.pg ? walkGuest(w, linear, access) : { address: Number(linear & 0xffff_ffffn), user: true };
  if ('kind' in guest) return guest;
  const end = secondStage(w, guest.address, {
    read: !access.write && !access.fetch,
    write: access.write,
    fetch: access.fetch,
    userLinear: guest.user,
    table: false,
  });
  if ('kind' in end) return end;
  if ('updates' in guest && guest.updates !== undefined) {
    for (const entry of guest.updates) {
      const refusal = tableUpdate(w, entry);
      if (refusal !== null) return refusal;
    }
  }
  return place(w, end.gpa, access.write);
}

function place(w: OracleWorld, gpa: number, write: boolean): OracleResult {
  const frame = w.frame(Math.floor(gpa / 4096));
  if (frame === null || (write && frame.readOnly)) return { kind: 'mmio', gpa };
  return { kind: 'ram', hostPage: frame.hostPage, gpa };
}

// ── the guest's own tables ──

interface GuestEnd {
  readonly address: number;
  readonly user: boolean;
  /** Addresses of entries in which A or D would be set. */
  readonly updates?: readonly number[];
}

function walkGuest(w: OracleWorld, linear: bigint, access: OracleAccess): GuestEnd | Refusal {
  const { cr4, efer } = w;
  let code = 0;
  if (access.write) code |= 2;
  if (access.user) code |= 4;
  // "instruction-fetch flag: … CR4.SMEP = 1, or CR4.PAE = 1 and IA32_EFER.NXE = 1"
  if (access.fetch && (cr4.smep || (cr4.pae && efer.nxe))) code |= 16;
  const fault = (more: number): Refusal => ({ kind: '#PF', code: code | more, address: linear });
  const nx = efer.nxe && cr4.pae;
  let levels: number;
  let table: number;
  if (efer.lma) {
    levels = cr4.la57 ? 5 : 4;
    table = Number(field(w.cr3, 51, 12)) * 4096;
  } else if (cr4.pae) {
    const pdpte = w.pdptrs[Number(field(linear, 31, 30))]!;
    if (!bit(pdpte, 0)) return fault(0);
    levels = 2;
    table = Number(field(pdpte, 51, 12)) * 4096;
  } else {
    levels = 2;
    table = Number(field(w.cr3, 31, 12)) * 4096;
  }
  const wide = cr4.pae;
  const rights: Rights = { read: true, write: true, exec: true, user: true };
  const updates: number[] = [];
  for (let level = levels; ; level -= 1) {
    const low = wide ? 12 + 9 * (level - 1) : 12 + 10 * (level - 1);
    const index = Number(field(linear, low + (wide ? 8 : 9), low));
    const at = table + index * (wide ? 8 : 4);
    const through = secondStage(w, at, { read: true, write: eptAd(w), fetch: false, userLinear: false, table: true });
    if ('kind' in through) return through;
    const entry = w.read(through.gpa, wide ? 8 : 4);
    if (entry === null || !bit(entry, 0)) return fault(0);
    const large = bit(entry, 7) && level > 1 && (wide ? level <= 3 : cr4.pse);
    if (guestReserved(w, entry, level, wide, nx)) return fault(1 | 8);
    rights.write &&= bit(entry, 1);
    rights.user &&= bit(entry, 2);
    rights.exec &&= !(nx && wide && bit(entry, 63));
    const last = level === 1 || large;
    const ro = w.frame(Math.floor(through.gpa / 4096))!.readOnly;
    if ((!bit(entry, 5) || (last && access.write && !bit(entry, 6))) && !ro) updates.push(at);
    if (!last) {
      table = Number(field(entry, wide ? 51 : 31, 12)) * 4096;
      continue;
    }
    const refusal = guestRefuses(w, rights, access, Number(field(entry, 62, 59)));
    if (refusal !== 0) return fault(refusal);
    return { address: guestFrame(entry, level, wide, linear), user: rights.user, updates };
  }
}

function guestFrame(entry: bigint, level: number, wide: boolean, linear: bigint): number {
  const inside = wide ? 12 + 9 * (level - 1) : level === 1 ? 12 : 22;
  const offset = Number(linear & ((1n << BigInt(inside)) - 1n));
  if (!wide && level === 2)
    return Number(field(entry, 16, 13)) * 2 ** 32 + Number(field(entry, 31, 22)) * 2 ** 22 + offset;
  return Number(field(entry, 51, inside)) * 2 ** inside + offset;
}

function guestReserved(w: OracleWorld, entry: bigint, level: number, wide: boolean, nx: boolean): boolean {
  const size = bit(entry, 7);
  if (!wide) return level === 2 && size && w.cr4.pse && field(entry, 21, 17) !== 0n;
  // Long mode ignores 62:52; PAE reserves 62:MAXPHYADDR.
  const top = w.efer.lma ? 51 : 62;
  if (w.physicalAddressBits <= top && field(entry, top, w.physicalAddressBits) !== 0n) return true;
  if (!nx && bit(entry, 63)) return true;
  if (level >= 4) return size;
  if (level === 3 && size) return !w.gbPages || field(entry, 29, 13) !== 0n;
  return level === 2 && size && field(entry, 20, 13) !== 0n;
}

/** 0, or the error-code bits of the refusal. SDM 3A 4.6.1 "Determination of Access Rights". */
function guestRefuses(w: OracleWorld, r: Rights, a: OracleAccess, key: number): number {
  let allowed: boolean;
  if (a.user) allowed = r.user && (a.fetch ? r.exec : !a.write || r.write);
  else if (a.fetch) allowed = r.exec && !(r.user && w.cr4.smep);
  else allowed = (!a.write || r.write || !w.cr0.wp) && !(r.user && w.cr4.smap && (a.implicit || !w.ac));
  // SDM 3A 4.6.2 "Protection Keys": user pages, data accesses. 4.7: PK tells of them, whatever else forbids the access.
  if (w.cr4.pke && w.efer.lma && r.user && !a.fetch) {
    const disabled = w.pkru >>> (2 * key);
    if ((disabled & 1) !== 0 || ((disabled & 2) !== 0 && a.write && (a.user || w.cr0.wp))) return 1 | 32;
  }
  return allowed ? 0 : 1;
}

// ── EPT12 ──

interface EptAccess {
  readonly read: boolean;
  readonly write: boolean;
  readonly fetch: boolean;
  readonly userLinear: boolean;
  /** To a guest paging structure. */
  readonly table: boolean;
}

const eptAd = (w: OracleWorld): boolean => w.ept !== null && bit(w.ept.eptp, 6);

/** Setting A or D in a guest entry reads and writes it. */
function tableUpdate(w: OracleWorld, at: number): Refusal | null {
  const end = secondStage(w, at, { read: true, write: true, fetch: false, userLinear: false, table: true });
  return 'kind' in end ? end : null;
}

function secondStage(w: OracleWorld, ngpa: number, a: EptAccess): EptRights | Refusal {
  const { ept } = w;
  if (ept === null) return { gpa: ngpa };
  const { mbec } = ept;
  const address = BigInt(ngpa);
  let qualification = (a.read ? 1 : 0) | (a.write ? 2 : 0) | (a.fetch ? 4 : 0) | 0x80 | (a.table ? 0 : 0x100);
  let table = Number(field(ept.eptp, 51, 12)) * 4096;
  let and = mbec ? 0x407n : 7n;
  for (let level = Number(field(ept.eptp, 5, 3)) + 1; ; level -= 1) {
    const low = 12 + 9 * (level - 1);
    const entry = w.read(table + Number(field(address, low + 8, low)) * 8, 8) ?? 0n;
    const present = (entry & (mbec ? 0x407n : 7n)) !== 0n;
    if (!present) return { kind: 'violation', qualification, ngpa };
    const large = level > 1 && bit(entry, 7);
    if (eptMisconfigured(w, ept, entry, level, level === 1 || large)) return { kind: 'misconfiguration', ngpa };
    and &= entry;
    if (level > 1 && !large) {
      table = Number(field(entry, 51, 12)) * 4096;
      continue;
    }
    const exec = mbec && a.userLinear ? bit(and, 10) : bit(and, 2);
    if ((a.read && !bit(and, 0)) || (a.write && !bit(and, 1)) || (a.fetch && !exec)) {
      qualification |= Number(and & 7n) << 3;
      if (mbec && bit(and, 10)) qualification |= 1 << 6;
      return { kind: 'violation', qualification, ngpa };
    }
    return { gpa: Number(field(entry, 51, low)) * 2 ** low + Number(field(address, low - 1, 0)) };
  }
}

/** SDM 3C 28.2.3.1 "EPT Misconfigurations". */
function eptMisconfigured(
  w: OracleWorld,
  ept: NonNullable<OracleWorld['ept']>,
  entry: bigint,
  level: number,
  leaf: boolean,
): boolean {
  const r = bit(entry, 0);
  if (!r && bit(entry, 1)) return true;
  if (!r && !ept.execOnly && (bit(entry, 2) || (ept.mbec && bit(entry, 10)))) return true;
  if (w.physicalAddressBits < 52 && field(entry, 51, w.physicalAddressBits) !== 0n) return true;
  if (level >= 4) return field(entry, 7, 3) !== 0n;
  if (!leaf) return field(entry, 6, 3) !== 0n;
  if (level === 3 && (!ept.pages1g || field(entry, 29, 12) !== 0n)) return true;
  if (level === 2 && (!ept.pages2m || field(entry, 20, 12) !== 0n)) return true;
  const type = field(entry, 5, 3);
  return type === 2n || type === 3n || type === 7n;
}
