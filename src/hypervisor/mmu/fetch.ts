/**
 * Builds the shadow path of one address: EPT02 from a walk of EPT12, shadow tables from a walk of CR3's, EPT01 from
 * nothing but the slots.
 *
 * Owns    which shadow pages a path goes through, and the rights of its leaf.
 * Knows   that room for the pages was made before, and that the walk is fresh: nothing may run in between.
 *
 * Source  nested-mmu.md 5.4 "Building mappings", 4.12 state a/d step 4.
 */
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import { framesAt, type MemorySlot } from '../vm/memory-slots.ts';
import { ACC } from './access.ts';
import { EPT_ENTRY } from './ept.ts';
import { entryIllegal, entryPresent, entryRights } from './format.ts';
import type { WalkRecord } from './page-walk.ts';
import type { FaultResult } from './ports.ts';
import { REQUEST } from './requests.ts';
import { childRole, isDirect, KIND, ROLE, roleAccess, roleLevel, roleQuadrant } from './role.ts';
import { ENTRIES } from './shadow-pages.ts';
import { installLeaf, installMmio, isLink, link, MAKE, makeLeaf } from './spte.ts';
import { syncBelow } from './sync.ts';
import { entryIndex } from './table-index.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { getPage } from './zap.ts';

/** Frames above this do not fit an MMIO marker; such accesses fault every time. */
const MMIO_FRAMES = 2 ** 32;

/** First shadow page of the path of an address, or 0: the root must be replaced first. */
function firstPage(v: VcpuMmu, lo: number): number {
  const m = v.mmu;
  const { pages } = v.vm;
  const { page } = m.roots.current;
  if (page === 0 || page === v.vm.dummyRoot) return 0;
  if (page !== m.paeRoot) return v.vm.isObsolete(page) ? 0 : page;
  const at = page * ENTRIES + (lo >>> 30);
  const child = pages.lo[at] === 0 ? 0 : pages.hi[at]!;
  return child !== 0 && v.vm.isObsolete(child) ? 0 : child;
}

/** Descends one level: keeps the child that is there if it is the one wanted (6.3 row 24), or finds or makes it. */
function childPage(v: VcpuMmu, parent: number, index: number, gfn: number, role: number): number {
  const { vm } = v;
  const { pages } = vm;
  const at = parent * ENTRIES + index;
  if (isLink(pages.lo[at]!)) {
    const child = pages.hi[at]!;
    if (pages.gfn[child] === gfn && pages.role[child] === role) return child;
  }
  const child = getPage(vm, gfn, role, v);
  // Before it is linked: the guest need not flush when it makes an entry present (6.3 row 25).
  if (!isDirect(role) && pages.unsyncChildren[child] !== 0) syncBelow(v, child);
  link(vm, parent, index, child);
  return child;
}

/**
 * Maps what a walk of the shadowed tables found.
 *
 * @param lo, hi  The address given to the walk: linear, or nGPA.
 * @param rights  Final rights of the path; more than `r.rights` only for CR0.WP = 0 (`writeThroughReadOnly`).
 */
export function fetch(
  v: VcpuMmu,
  lo: number,
  hi: number,
  r: WalkRecord,
  rights: number,
  slot: MemorySlot | null,
  write: boolean,
): FaultResult {
  const { vm } = v;
  const { pages } = vm;
  let page = firstPage(v, lo);
  if (page === 0) {
    v.requests |= REQUEST.FREE_OBSOLETE_ROOTS;
    return 'retry';
  }
  let level = roleLevel(pages.role[page]!);
  for (; level > r.level; level -= 1) {
    const index = entryIndex(lo, hi, level);
    pages.writeFlood[page] = 0;
    const role = childRole(pages.role[page]!, index, false, r.tableRights[level - 1]!);
    page = childPage(v, page, index, r.tableGfn[level - 1]!, role);
  }
  pages.writeFlood[page] = 0;
  return mapLeaf(v, page, lo, hi, r.gfn, Math.min(r.level, slot?.hostLevel(r.gfn) ?? 1), rights, slot, write);
}

/** Maps an L1-physical frame one to one: EPT01, or a linear address while paging is off and L0 has no TDP. */
export function mapDirect(v: VcpuMmu, gfn: number, slot: MemorySlot | null, write: boolean): FaultResult {
  const lo = (gfn * 4096) >>> 0;
  const hi = Math.floor(gfn / 0x10_0000);
  const page = firstPage(v, lo);
  if (page === 0) {
    v.requests |= REQUEST.FREE_OBSOLETE_ROOTS;
    return 'retry';
  }
  return mapLeaf(v, page, lo, hi, gfn, slot?.hostLevel(gfn) ?? 1, ACC.ALL, slot, write);
}

/** From `page` down to the leaf at `goal`, by direct pages: the guest's page is larger than what may be mapped. */
function mapLeaf(
  v: VcpuMmu,
  start: number,
  lo: number,
  hi: number,
  gfn: number,
  goal: number,
  rights: number,
  slot: MemorySlot | null,
  write: boolean,
): FaultResult {
  const { vm } = v;
  const { pages } = vm;
  let page = start;
  let level = roleLevel(pages.role[page]!);
  for (; level > goal; level -= 1) {
    const index = entryIndex(lo, hi, level);
    const role = childRole(pages.role[page]!, index, true, rights);
    page = childPage(v, page, index, gfn - (gfn % framesAt(level)), role);
  }
  const index = entryIndex(lo, hi, level);
  if (slot === null) {
    if (gfn < MMIO_FRAMES) installMmio(vm, page, index, gfn, rights);
    return 'mmio';
  }
  const first = gfn - (gfn % framesAt(level));
  const { lo: spte } = makeLeaf(vm, page, first, rights, slot, write ? MAKE.WRITE_FAULT : 0);
  installLeaf(vm, page, index, spte, slot.hostPage(first), first, rights);
  if (level === 1 && vm.config.prefetch) prefetch(v, page, index);
  return write && slot.readOnly ? 'mmio' : 'retry';
}

/** Neighbours in the same level-1 page, 8 aligned entries, whose guest entries are ready to be used. */
function prefetch(v: VcpuMmu, page: number, index: number): void {
  const { vm } = v;
  const { pages } = vm;
  const role = pages.role[page]!;
  if (isDirect(role)) return;
  const format = v.mmu.w.format!;
  const ept = format.kind === KIND.EPT;
  const fourByte = format.fourByte;
  const useAd = (role & ROLE.AD_DISABLED) === 0;
  const a = ept ? EPT_ENTRY.A : 1 << 5;
  const d = ept ? EPT_ENTRY.D : 1 << 6;
  const table = pages.gfn[page]! * 4096 + (fourByte ? roleQuadrant(role) * 2048 : 0);
  for (let i = index & ~7; i <= (index | 7); i += 1) {
    if ((pages.lo[page * ENTRIES + i]! & SPTE_PRESENT) !== 0) continue;
    if (!vm.readEntry(table + i * (fourByte ? 4 : 8), fourByte ? 4 : 8)) return;
    const { entryLo, entryHi } = vm;
    if (!entryPresent(format, entryLo) || entryIllegal(format, entryLo, entryHi, 1)) continue;
    if (useAd && (entryLo & a) === 0) continue;
    const gfn = (fourByte ? 0 : (entryHi & 0xf_ffff) * 0x10_0000) + (entryLo >>> 12);
    let access = roleAccess(role) & entryRights(format, entryLo, entryHi);
    if (useAd && (entryLo & d) === 0) access &= ~ACC.WRITE;
    const slot = slotOf(v, gfn);
    if (access === 0 || slot === null) continue;
    const { lo } = makeLeaf(vm, page, gfn, access, slot, MAKE.PREFETCH);
    installLeaf(vm, page, i, lo, slot.hostPage(gfn), gfn, access);
    vm.counters.prefetched += 1;
  }
}

/** Memory behind a frame as the running level has it. */
export function slotOf(v: VcpuMmu, gfn: number): MemorySlot | null {
  const { apicAccess, slots } = v.vm;
  if (apicAccess.size !== 0 && v.nested.guestMode && apicAccess.has(gfn)) return null;
  return slots.find(gfn);
}

/** Where the shadow path of an address ends; filled in by `findSpte`. */
export interface SptePlace {
  page: number;
  index: number;
  level: number;
  lo: number;
  hi: number;
}

/** Follows the current root as the engine does. `lo` of the result is 0 if nothing is there. */
export function findSpte(v: VcpuMmu, lo: number, hi: number, out: SptePlace): void {
  const { pages } = v.vm;
  const m = v.mmu;
  out.page = m.roots.current.page;
  out.level = roleLevel(m.rootRole);
  out.lo = 0;
  out.hi = 0;
  if (out.page === 0) return;
  for (;;) {
    out.index = entryIndex(lo, hi, out.level);
    const at = out.page * ENTRIES + out.index;
    out.lo = pages.lo[at]!;
    out.hi = pages.hi[at]!;
    if (!isLink(out.lo) || out.level === 1) return;
    out.page = out.hi;
    out.level -= 1;
  }
}

/** A write fault on a leaf that lacks nothing but W, which L0 may grant without asking anyone: dirty logging. */
export function fastWrite(v: VcpuMmu, place: SptePlace): boolean {
  const { vm } = v;
  const need = SPTE.LEAF | SPTE.MMU_WRITABLE | SPTE.HOST_WRITABLE;
  if ((place.lo & need) !== need || (place.lo & (SPTE.W | SPTE.MMIO)) !== 0) return false;
  const at = place.page * ENTRIES + place.index;
  vm.pages.lo[at] = (place.lo | SPTE.W | SPTE.D) >>> 0;
  const gfn =
    (vm.pages.role[place.page]! & ROLE.DIRECT) !== 0
      ? vm.pages.gfn[place.page]! + place.index * framesAt(place.level)
      : vm.pages.shadowedGfn[at]!;
  vm.slots.find(gfn)?.markDirty(gfn);
  return true;
}
