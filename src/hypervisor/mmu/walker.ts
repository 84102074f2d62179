/**
 * Walks guest tables: linear address to guest-physical, and nested guest-physical to L1-physical through EPT12.
 *
 * Owns    the order of the checks, the accessed and dirty updates, the fault record.
 * Knows   nothing of shadow pages and TLBs. What it reads now is the truth; nothing of a walk is kept.
 * Never   raises an exception or an exit: it fills a record, because only the caller knows who must hear of it.
 *
 * Source  nested-mmu.md 4.6; SDM 3A 4.3 to 4.8; SDM 3C 28.2.2 to 28.2.5.
 */
import { high32, join64, low32 } from '../../base/bits.ts';
import { ACC, EPT_QUALIFICATION, PFEC } from './access.ts';
import { EPT_ENTRY } from './ept.ts';
import { entryIllegal, entryPresent, entryRights, type PageFormat, permissionFault } from './format.ts';
import type { PageWalk, WalkRecord } from './page-walk.ts';
import type { NestedPort, VcpuRegs } from './ports.ts';
import { EXT, KIND, ROLE, roleLevel } from './role.ts';
import { entryIndex } from './table-index.ts';
import type { VmMmu } from './vm-mmu.ts';
import { trackWrite } from './zap.ts';

/** What a walk needs of its vCPU. */
export interface WalkContext {
  readonly vm: VmMmu;
  readonly regs: VcpuRegs;
  readonly nested: NestedPort;
  readonly ngpaWalk: PageWalk;
  /** EPT12 or NPT12 is in force: addresses of a GVA walker are nGPAs. */
  readonly mmuIsNested: boolean;
}

/** IA-32 accessed and dirty bits; EPT has them at 8 and 9. */
const IA32_A = 1 << 5;
const IA32_D = 1 << 6;

/** Bits 51:12 of an entry or pointer, as an address. */
const frameAddress = (lo: number, hi: number): number => join64((lo & ~0xfff) >>> 0, hi & 0xf_ffff);

/** CR3, EPTP or nCR3, half by half: what the walker's tables hang on. */
export const pgdLo = (c: WalkContext, w: PageWalk): number =>
  (w.secondStage ? c.nested.eptPointerLo : c.regs.cr3Lo) >>> 0;
export const pgdHi = (c: WalkContext, w: PageWalk): number =>
  (w.secondStage ? c.nested.eptPointerHi : c.regs.cr3Hi) >>> 0;

/** The table walked has A and D bits. */
const hasAccessedDirty = (w: PageWalk): boolean => (w.cpuRole.base & ROLE.AD_DISABLED) === 0;

/**
 * Walks one address.
 *
 * @param access  PFEC.W, U, F, IMPLICIT, and GUEST_FINAL or GUEST_PAGE. U of an EPT walk: user-mode linear address.
 * @param r       Filled in; by convention `w.record`.
 * @returns       `r.ok`
 */
export function walk(c: WalkContext, w: PageWalk, lo: number, hi: number, access: number, r: WalkRecord): boolean {
  r.nestedFault = false;
  r.pmlFull = false;
  r.ok = false;
  r.addressLo = lo >>> 0;
  r.addressHi = hi >>> 0;
  if (!w.secondStage) {
    r.linearLo = lo >>> 0;
    r.linearHi = hi >>> 0;
  }
  r.accessKind = access & (PFEC.GUEST_FINAL | PFEC.GUEST_PAGE);
  const level = roleLevel(w.cpuRole.base);
  if (level === 0) return walkUnpaged(c, w, lo, access, r);
  // A mismatch of an entry between reading and updating it starts over; single-threaded, once is enough in practice.
  for (let attempt = 0; attempt < 4; attempt += 1) {
    const outcome = walkTables(c, w, lo, hi, access, r, level);
    if (outcome !== RETRY) return outcome === DONE;
  }
  return fault(w, r, access, 0, 0);
}

const DONE = 0;
const FAULT = 1;
const RETRY = 2;

/** CR0.PG = 0: linear is guest-physical. Every linear address counts as user-mode (SDM 3C 27.2.1, note to the table). */
function walkUnpaged(c: WalkContext, w: PageWalk, lo: number, access: number, r: WalkRecord): boolean {
  r.level = 0;
  r.startLevel = 0;
  r.rights = ACC.ALL;
  r.rawRights = ACC.ALL;
  return finish(c, w, lo >>> 0, access, ACC.ALL, r);
}

/** The final address through the second stage, if there is one. */
function finish(
  c: WalkContext,
  w: PageWalk,
  guestPhysical: number,
  access: number,
  rights: number,
  r: WalkRecord,
): boolean {
  r.guestPhysical = guestPhysical;
  if (w.secondStage || !c.mmuIsNested) r.gpa = guestPhysical;
  else {
    const user = (rights & ACC.USER) !== 0 ? PFEC.U : 0;
    const kind = c.ngpaWalk.format?.kind === KIND.NPT ? PFEC.U : c.ngpaWalk.format?.mbec ? user : 0;
    if (!second(c, guestPhysical, (access & (PFEC.W | PFEC.F)) | kind | PFEC.GUEST_FINAL, r)) return false;
    r.gpa = c.ngpaWalk.record.gpa;
  }
  r.gfn = Math.floor(r.gpa / 4096);
  r.ok = true;
  return true;
}

/** nGPA to GPA; on refusal the record tells what L1 must hear. */
function second(c: WalkContext, ngpa: number, access: number, r: WalkRecord): boolean {
  const n = c.ngpaWalk.record;
  if (walk(c, c.ngpaWalk, low32(ngpa), high32(ngpa), access, n)) return true;
  r.nestedFault = true;
  r.errorCode = n.errorCode;
  r.addressLo = n.addressLo;
  r.addressHi = n.addressHi;
  r.qualification = n.qualification;
  r.accessKind = n.accessKind;
  r.pmlFull = n.pmlFull;
  return false;
}

/**
 * How the processor touches a table of the level above: SDM 3C 28.2.4 "Accessed and Dirty Flags for EPT": with them on,
 * "any access by the processor to guest paging-structure entries as writes". NPT: always a user write.
 */
function tableAccess(c: WalkContext, update: boolean): number {
  const n = c.ngpaWalk;
  if (n.format?.kind === KIND.NPT) return PFEC.U | PFEC.W | PFEC.GUEST_PAGE;
  return (update || hasAccessedDirty(n) ? PFEC.W : 0) | PFEC.GUEST_PAGE;
}

/** Where an entry of the walker's tables lies in L1-physical space; -1 if the second stage refuses. */
function entryPlace(c: WalkContext, w: PageWalk, guestPhysical: number, update: boolean, r: WalkRecord): number {
  if (w.secondStage || !c.mmuIsNested) return guestPhysical;
  return second(c, guestPhysical, tableAccess(c, update), r) ? c.ngpaWalk.record.gpa : -1;
}

function walkTables(
  c: WalkContext,
  w: PageWalk,
  lo: number,
  hi: number,
  access: number,
  r: WalkRecord,
  startLevel: number,
): number {
  const format = w.format!;
  const { vm } = c;
  const entryBytes = format.fourByte ? 4 : 8;
  let level = startLevel;
  let table = frameAddress(pgdLo(c, w), pgdHi(c, w));
  if (format.kind !== KIND.EPT && level === 2) table = (pgdLo(c, w) & ~0xfff) >>> 0;
  r.startLevel = level;
  if (level === 3 && format.kind === KIND.IA32) {
    // PDPTE registers, not memory (SDM 3A 4.4.1). They have no rights.
    const i = lo >>> 30;
    if ((c.regs.pdptrLo(i) & 1) === 0) return refuse(w, r, access, 0, 0);
    table = frameAddress(c.regs.pdptrLo(i), c.regs.pdptrHi(i));
    level = 2;
  }
  let rights: number = ACC.ALL;
  let entryLo = 0;
  let entryHi = 0;
  for (;;) {
    const index = format.fourByte ? (level === 2 ? lo >>> 22 : (lo >>> 12) & 0x3ff) : entryIndex(lo, hi, level);
    const guestPhysical = table + index * entryBytes;
    const place = entryPlace(c, w, guestPhysical, false, r);
    if (place < 0) return FAULT;
    if (!vm.readEntry(place, entryBytes)) return refuse(w, r, access, 0, 0); // no RAM: as if not present
    entryLo = vm.entryLo;
    entryHi = vm.entryHi;
    r.tableGfn[level] = Math.floor(place / 4096);
    r.entryGpa[level] = place;
    r.entryGuestPhysical[level] = guestPhysical;
    r.entryLo[level] = entryLo;
    r.entryHi[level] = entryHi;
    r.entryWritable[level] = vm.entryWritable ? 1 : 0;
    r.tableRights[level] = rights;
    const own = entryRights(format, entryLo, entryHi);
    if (!entryPresent(format, entryLo)) return refuse(w, r, access, 0, rights & own);
    if (entryIllegal(format, entryLo, entryHi, level)) return refuse(w, r, access, PFEC.RSVD | PFEC.P, 0);
    rights &= own;
    if (isLeafEntry(format, entryLo, level)) break;
    table = frameAddress(entryLo, entryHi);
    level -= 1;
  }
  r.level = level;
  const pkey = (entryHi >>> 27) & 0xf;
  const err = permissionFault(format, rights, pkey, access, c.regs.pkru, c.regs.ac);
  if (err !== 0) return refuse(w, r, access, err, rights);
  r.rawRights = rights;
  r.rights = rights;
  const leafAddress = leafPage(format, entryLo, entryHi, level, lo) + (lo & 0xfff);
  // Before A and D: an access that the second stage refuses leaves no trace here.
  if (!finish(c, w, leafAddress, access, rights, r)) return FAULT;
  if (!hasAccessedDirty(w)) return DONE;
  const ept = format.kind === KIND.EPT;
  const a = ept ? EPT_ENTRY.A : IA32_A;
  const d = ept ? EPT_ENTRY.D : IA32_D;
  const write = (access & PFEC.W) !== 0;
  if (!write && (entryLo & d) === 0) r.rights &= ~ACC.WRITE;
  r.ok = false;
  const outcome = updateAccessedDirty(c, w, r, level, a, d, write, entryBytes);
  if (outcome === DONE) r.ok = true;
  return outcome;
}

function isLeafEntry(format: PageFormat, lo: number, level: number): boolean {
  if (level === 1) return true;
  if ((lo & 0x80) === 0) return false;
  // 32-bit paging: bit 7 of a PDE is a size bit only with CR4.PSE. PML4Es and PML5Es with it were refused before.
  return format.fourByte ? format.pse : level <= 3;
}

/** First byte of the 4 KiB frame of a leaf that the address lies in. */
function leafPage(format: PageFormat, entryLo: number, entryHi: number, level: number, lo: number): number {
  if (format.fourByte) {
    if (level === 1) return (entryLo & ~0xfff) >>> 0;
    // PSE-36: bits 16:13 are address bits 35:32.
    return join64(((entryLo & 0xffc0_0000) | (lo & 0x003f_f000)) >>> 0, (entryLo >>> 13) & 0xf);
  }
  const high = entryHi & 0xf_ffff;
  if (level === 1) return join64((entryLo & ~0xfff) >>> 0, high);
  const inside = level === 2 ? 0x001f_f000 : 0x3fff_f000;
  const kept = level === 2 ? 0xffe0_0000 : 0xc000_0000;
  return join64(((entryLo & kept) | (lo & inside)) >>> 0, high);
}

/** Sets A on every level, and D on the leaf for a write. */
function updateAccessedDirty(
  c: WalkContext,
  w: PageWalk,
  r: WalkRecord,
  leaf: number,
  a: number,
  d: number,
  write: boolean,
  entryBytes: number,
): number {
  const { vm } = c;
  const top = r.startLevel === 3 && w.format!.kind === KIND.IA32 ? 2 : r.startLevel;
  for (let level = top; level >= leaf; level -= 1) {
    const old = r.entryLo[level]!;
    const wanted = (old | a | (level === leaf && write ? d : 0)) >>> 0;
    if (wanted === old || r.entryWritable[level] === 0) continue; // a table in ROM keeps its bits
    // L2's tables: the update is a write through EPT12. With EPT A/D on, the walk has asked for that already.
    if (!w.secondStage && c.mmuIsNested && !hasAccessedDirty(c.ngpaWalk)) {
      const gpa = r.gpa;
      if (entryPlace(c, w, r.entryGuestPhysical[level]!, true, r) < 0) return FAULT;
      r.gpa = gpa;
    }
    const setsDirty = level === leaf && write && (old & d) === 0;
    if (setsDirty && w.secondStage && !logNestedPml(c, r)) return FAULT;
    const place = r.entryGpa[level]!;
    if (!vm.readEntry(place, entryBytes)) return RETRY;
    if (vm.entryLo !== old || vm.entryHi !== r.entryHi[level]) return RETRY;
    storeWord(vm, place, wanted);
    r.entryLo[level] = wanted;
    // Tables that this walker's own shadow was made from gain rights only; every other shadow of the page must hear.
    if (!w.secondStage) trackWrite(vm, place, entryBytes, false);
  }
  return DONE;
}

/** A store by L0 to guest RAM, low half of an entry; the page becomes dirty. */
function storeWord(vm: VmMmu, gpa: number, value: number): void {
  const gfn = Math.floor(gpa / 4096);
  const slot = vm.slots.find(gfn)!;
  const at = slot.hostPage(gfn) * 1024 + ((gpa % 4096) >>> 2);
  vm.host.u32[at] = value;
  vm.remote.stored(4 * at, 4);
  slot.markDirty(gfn);
}

/**
 * SDM 3C 28.2.6 "Page-Modification Logging": before D of an EPT12 leaf is set, the nGPA goes to L1's log; a full log is
 * an exit instead. The address logged has bits 11:0 clear.
 */
function logNestedPml(c: WalkContext, r: WalkRecord): boolean {
  const { nested, vm } = c;
  if (!nested.usesPml) return true;
  const index = nested.pmlIndex & 0xffff;
  if (index > 511) {
    r.pmlFull = true;
    r.nestedFault = true;
    r.errorCode = 0;
    r.qualification = 0;
    return false;
  }
  const place = nested.pmlAddress + 8 * index;
  const gfn = Math.floor(place / 4096);
  const slot = vm.slots.find(gfn);
  if (slot !== null && !slot.readOnly) {
    const at = slot.hostPage(gfn) * 1024 + ((place % 4096) >>> 2);
    vm.host.u32[at] = (r.addressLo & ~0xfff) >>> 0;
    vm.host.u32[at + 1] = r.addressHi;
    vm.remote.stored(4 * at, 8);
    slot.markDirty(gfn);
    trackWrite(vm, place, 8, false);
  }
  nested.pmlIndex = (index - 1) & 0xffff;
  return true;
}

function refuse(w: PageWalk, r: WalkRecord, access: number, code: number, rights: number): number {
  fault(w, r, access, code, rights);
  return FAULT;
}

/** Fills the fault part of the record. `rights`: AND over all entries used, the failing one included. */
function fault(w: PageWalk, r: WalkRecord, access: number, code: number, rights: number): false {
  const ept = w.format?.kind === KIND.EPT;
  const fetch = ept || (w.cpuRole.ext & EXT.HAS_PFERR_FETCH) !== 0 ? access & PFEC.F : 0;
  r.ok = false;
  r.errorCode = code | (access & (PFEC.W | PFEC.U)) | fetch;
  r.nestedFault = w.secondStage;
  r.qualification = 0;
  if (ept && (code & PFEC.RSVD) === 0) {
    const q = EPT_QUALIFICATION;
    const write = (access & PFEC.W) !== 0;
    // Table accesses that count as writes set bits 0 and 1 both.
    if ((access & PFEC.F) !== 0) r.qualification = q.FETCH;
    else if (write) r.qualification = q.WRITE | ((access & PFEC.GUEST_PAGE) !== 0 ? q.READ : 0);
    else r.qualification = q.READ;
    r.qualification |= (rights & (ACC.READ | ACC.WRITE)) << 3;
    if ((rights & ACC.EXEC) !== 0) r.qualification |= q.EXECUTABLE;
    if (w.format!.mbec && (rights & ACC.USER) !== 0) r.qualification |= q.USER_EXECUTABLE;
  }
  return false;
}
