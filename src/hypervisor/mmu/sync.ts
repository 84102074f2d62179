/**
 * Sync: makes level-1 shadow pages whose guest tables were written freely agree with those tables again.
 *
 * Owns    the unsync state of pages. A page is synced only while its guest table is write-protected.
 * Never   grants more than the guest's current entry; never unsyncs another page while syncing one.
 *
 * Source  nested-mmu.md 4.5, 4.9 "INVLPG", 5.2 "Linking".
 */
import { low32 } from '../../base/bits.ts';
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import { ACC } from './access.ts';
import { EPT_ENTRY } from './ept.ts';
import { entryIllegal, entryPresent, entryRights } from './format.ts';
import { isDirect, KIND, ROLE, ROLE_QUADRANT_SHIFT, roleAccess, roleLevel, roleQuadrant } from './role.ts';
import type { RootRecord, ShadowMmu } from './shadow-mmu.ts';
import { ENTRIES } from './shadow-pages.ts';
import { dropSpte, installMmio, isLink, isMmio, MAKE, makeLeaf, spteGfn, writeProtect } from './spte.ts';
import { entryIndex } from './table-index.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { zapPage } from './zap.ts';

/** Role bits in which a page may differ from its root and still be read by the root's format. */
const FREE_BITS = ROLE.LEVEL | ROLE.ACCESS | (3 << ROLE_QUADRANT_SHIFT) | ROLE.PASSTHROUGH;

/** The current root of the current MMU tells the truth after this. */
export function syncRoots(v: VcpuMmu): void {
  const m = v.mmu;
  const { page } = m.roots.current;
  if (isDirect(m.rootRole) || page === 0 || page === v.vm.dummyRoot) return;
  if (page !== m.paeRoot) {
    syncBelow(v, page);
    return;
  }
  for (let i = 0; i < 4; i += 1) {
    const at = page * ENTRIES + i;
    if (v.vm.pages.lo[at] !== 0) syncBelow(v, v.vm.pages.hi[at]!);
  }
}

/** Previous roots that may hold stale entries are given up: cheaper than syncing what may never be used again. */
export function unsyncPreviousRoots(v: VcpuMmu, m: ShadowMmu): number {
  const { pages } = v.vm;
  let mask = 0;
  m.roots.previous.forEach((record, i) => {
    if (record.page === 0) return;
    if (pages.unsync[record.page] !== 0 || pages.unsyncChildren[record.page] !== 0) mask |= 2 << i;
  });
  return mask;
}

/** Syncs every unsync page that `page` leads to. */
export function syncBelow(v: VcpuMmu, page: number): void {
  const { vm } = v;
  const { pages } = vm;
  if (pages.unsync[page] !== 0) syncOne(v, page);
  if (pages.unsyncChildren[page] === 0) return;
  for (let i = 0; i < ENTRIES; i += 1) {
    if (!pages.bitSet(page, i)) continue;
    const at = page * ENTRIES + i;
    if (!isLink(pages.lo[at]!)) {
      pages.clearBit(page, i);
      continue;
    }
    const child = pages.hi[at]!;
    syncBelow(v, child);
    // A child that could not be synced is dead, and its link and its bit went with it.
    if (pages.unsync[child] === 0 && pages.unsyncChildren[child] === 0) pages.clearBit(page, i);
  }
}

/** Protects the guest table again, then reads it. */
function syncOne(v: VcpuMmu, page: number): void {
  const { vm } = v;
  const gfn = vm.pages.gfn[page]!;
  const slot = vm.slots.findAny(gfn);
  if (slot !== null) writeProtect(vm, slot, gfn, 'shadowed');
  vm.pages.unsync[page] = 0;
  if (!syncPage(v, page)) zapPage(vm, page);
}

/** Re-reads every guest entry behind a present SPTE. False: the page is of another kind, or the table is gone. */
export function syncPage(v: VcpuMmu, page: number): boolean {
  const { pages, counters } = v.vm;
  const role = pages.role[page]!;
  if (isDirect(role) || ((role ^ v.mmu.rootRole) & ~FREE_BITS) !== 0) return false;
  counters.syncPage += 1;
  for (let i = 0; i < ENTRIES; i += 1) {
    if ((pages.lo[page * ENTRIES + i]! & SPTE_PRESENT) !== 0 && !syncSpte(v, page, i)) return false;
  }
  return true;
}

/** Brings one present level-1 SPTE down to what the guest's entry now says. False: the entry cannot be read. */
export function syncSpte(v: VcpuMmu, page: number, index: number): boolean {
  const { vm } = v;
  const { pages } = vm;
  const at = page * ENTRIES + index;
  if ((pages.lo[at]! & SPTE_PRESENT) === 0) return true;
  vm.counters.syncSpte += 1;
  const role = pages.role[page]!;
  const fourByte = (role & ROLE.HAS_4_BYTE_GPTE) !== 0;
  const offset = fourByte ? roleQuadrant(role) * 2048 + index * 4 : index * 8;
  if (!vm.readEntry(pages.gfn[page]! * 4096 + offset, fourByte ? 4 : 8)) return false;
  const { entryLo, entryHi } = vm;
  const format = v.mmu.w.format!;
  const ept = format.kind === KIND.EPT;
  const useAd = (role & ROLE.AD_DISABLED) === 0;
  const a = ept ? EPT_ENTRY.A : 1 << 5;
  const d = ept ? EPT_ENTRY.D : 1 << 6;
  if (!entryPresent(format, entryLo) || (useAd && (entryLo & a) === 0) || entryIllegal(format, entryLo, entryHi, 1)) {
    dropSpte(vm, page, index);
    return true;
  }
  const gfn = (fourByte ? 0 : (entryHi & 0xf_ffff) * 0x10_0000) + (entryLo >>> 12);
  let access = roleAccess(role) & entryRights(format, entryLo, entryHi);
  if (useAd && (entryLo & d) === 0) access &= ~ACC.WRITE;
  if (access === 0 || gfn !== spteGfn(vm, page, index)) {
    dropSpte(vm, page, index);
    return true;
  }
  const slot = vm.slots.find(gfn);
  if (isMmio(pages.lo[at]!)) {
    if (slot === null) installMmio(vm, page, index, gfn, access);
    else dropSpte(vm, page, index);
    return true;
  }
  if (access === pages.shadowedAccess[at]) return true;
  if (slot === null) {
    dropSpte(vm, page, index);
    return true;
  }
  const { lo } = makeLeaf(vm, page, gfn, access, slot, MAKE.SYNCHRONIZING);
  if ((pages.lo[at]! & ~lo & (SPTE_PRESENT | SPTE.TRACKED)) !== 0) vm.weakened = true;
  pages.shadowedAccess[at] = access;
  pages.lo[at] = lo;
  return true;
}

/**
 * The guest asked for one address to be forgotten: descends from a root, and re-reads that single entry in every
 * unsync page on the way (4.9). Synced pages need nothing: their tables could not be written.
 */
export function invalidateAddress(v: VcpuMmu, m: ShadowMmu, record: RootRecord, lo: number, hi: number): void {
  const { vm } = v;
  const { pages } = vm;
  let { page } = record;
  if (page === 0 || page === vm.dummyRoot) return;
  let level: number;
  if (page === m.paeRoot) {
    const at = page * ENTRIES + (low32(lo) >>> 30);
    if (pages.lo[at] === 0) return;
    page = pages.hi[at]!;
    level = 2;
  } else level = roleLevel(pages.role[page]!);
  for (;;) {
    const index = entryIndex(lo, hi, level);
    const at = page * ENTRIES + index;
    const spte = pages.lo[at]!;
    if ((spte & SPTE_PRESENT) === 0) return;
    if (pages.unsync[page] !== 0) {
      const readable = ((pages.role[page]! ^ v.mmu.rootRole) & ~FREE_BITS) === 0;
      if (!readable || !syncSpte(v, page, index)) dropSpte(vm, page, index);
      return;
    }
    if (!isLink(spte) || pages.unsyncChildren[page] === 0) return;
    page = pages.hi[at]!;
    level -= 1;
  }
}
