/**
 * Making, replacing and dropping single SPTEs, with the bookkeeping that hangs on each: reverse maps, parent lists,
 * write protection.
 *
 * Owns    the content of SPTEs and the mutuality of SPTEs and lists (I10).
 * Never   flushes: what takes rights away sets `vm.weakened`, and whoever was asked to do the whole thing commits.
 *
 * Source  nested-mmu.md 3.13, 5.2 "Linking", 5.3, 5.4.
 */
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import { LEAF_LEVELS, type MemorySlot } from '../vm/memory-slots.ts';
import { ACC } from './access.ts';
import { KIND, ROLE, roleAccess, roleKind, roleLevel } from './role.ts';
import { ENTRIES } from './shadow-pages.ts';
import type { VmMmu } from './vm-mmu.ts';

const RIGHTS = SPTE.R | SPTE.W | SPTE.X | SPTE.U;

/** An MMIO SPTE carries the guest's rights in bits 15:12 and the slot generation in 29:16, both unused by the engine. */
const MMIO_RIGHTS_SHIFT = 12;
const MMIO_GENERATION_SHIFT = 16;
export const MMIO_GENERATIONS = 1 << 14;

export const isLeaf = (lo: number): boolean => (lo & (SPTE.LEAF | SPTE.MMIO)) === SPTE.LEAF;
export const isMmio = (lo: number): boolean => (lo & SPTE.MMIO) !== 0;
export const isLink = (lo: number): boolean => (lo & SPTE_PRESENT) !== 0 && (lo & (SPTE.LEAF | SPTE.MMIO)) === 0;
export const mmioRights = (lo: number): number => (lo >>> MMIO_RIGHTS_SHIFT) & 0xf;
export const mmioGeneration = (lo: number): number => (lo >>> MMIO_GENERATION_SHIFT) & (MMIO_GENERATIONS - 1);

/** ACC and SPTE bits: READ and WRITE sit alike, X and U do not. */
export const spteRights = (acc: number): number =>
  (acc & (ACC.READ | ACC.WRITE)) | (acc & ACC.EXEC ? SPTE.X : 0) | (acc & ACC.USER ? SPTE.U : 0);

/** First frame that entry `index` of `page` maps. */
export function spteGfn(vm: VmMmu, page: number, index: number): number {
  const { pages } = vm;
  const role = pages.role[page]!;
  if ((role & ROLE.DIRECT) === 0) return pages.shadowedGfn[page * ENTRIES + index]!;
  return pages.gfn[page]! + index * 512 ** (roleLevel(role) - 1);
}

/** Rights that the guest's tables leave to entry `index`. */
export function spteAccess(vm: VmMmu, page: number, index: number): number {
  const role = vm.pages.role[page]!;
  return (role & ROLE.DIRECT) === 0 ? vm.pages.shadowedAccess[page * ENTRIES + index]! : roleAccess(role);
}

/** Does this page shadow guest entries? */
export const hasGptes = (role: number): boolean => (role & (ROLE.DIRECT | ROLE.PASSTHROUGH)) === 0;

/** How an SPTE is being made. */
export const MAKE = {
  /** The fault was a write: D may be set and a logged page becomes dirty. */
  WRITE_FAULT: 1,
  /** Nobody asked for this one: no other page may lose its protection for it. */
  PREFETCH: 2,
  /** A sync is re-making it: must not unsync other pages. */
  SYNCHRONIZING: 4,
} as const;

/** Result of `makeLeaf`, besides the low half: the page is protected although the rights include W. */
export interface MadeSpte {
  lo: number;
  protected: boolean;
}
const made: MadeSpte = { lo: 0, protected: false };

/** Low half of a leaf SPTE. May mark shadow pages of `gfn` unsync: before the entry is visible, as 5.3 demands. */
export function makeLeaf(vm: VmMmu, page: number, gfn: number, acc: number, slot: MemorySlot, how: number): MadeSpte {
  const role = vm.pages.role[page]!;
  let lo = SPTE.LEAF | SPTE.A | (spteRights(acc) & ~SPTE.W);
  if (roleKind(role) === KIND.IA32) lo |= SPTE.R;
  if ((role & ROLE.AD_DISABLED) !== 0) lo |= SPTE.AD_DISABLED;
  if (!slot.readOnly) lo |= SPTE.HOST_WRITABLE;
  made.protected = false;
  if ((acc & ACC.WRITE) !== 0 && !slot.readOnly) {
    if (roleLevel(role) === 1 && slot.writeTrack[gfn - slot.baseGfn] !== 0) {
      lo |= SPTE.TRACKED;
      made.protected = true;
    } else if (roleLevel(role) === 1 && !tryToUnsync(vm, gfn, how)) {
      made.protected = true;
    } else if (slot.dirtyLog && (how & MAKE.WRITE_FAULT) === 0) {
      lo |= SPTE.MMU_WRITABLE;
    } else {
      lo |= SPTE.W | SPTE.D | SPTE.MMU_WRITABLE;
      slot.markDirty(gfn);
    }
  }
  made.lo = lo >>> 0;
  return made;
}

/** Lets `gfn` be written although level-1 pages shadow it: they become unsync. False if that is not allowed now. */
function tryToUnsync(vm: VmMmu, gfn: number, how: number): boolean {
  const { pages } = vm;
  if (vm.indirectPages === 0) return true;
  for (let page = pages.firstInHash(gfn); page !== 0; page = pages.nextInHash(page)) {
    if (pages.gfn[page] !== gfn || !hasGptes(pages.role[page]!) || pages.unsync[page] !== 0) continue;
    if ((how & (MAKE.PREFETCH | MAKE.SYNCHRONIZING)) !== 0) return false;
    pages.unsync[page] = 1;
    pages.markParents(page);
  }
  return true;
}

/** Installs a leaf. Replaces what was there, and records what the guest's entry said. */
export function installLeaf(
  vm: VmMmu,
  page: number,
  index: number,
  lo: number,
  hostPage: number,
  gfn: number,
  acc: number,
): void {
  const { pages } = vm;
  const at = page * ENTRIES + index;
  const old = pages.lo[at]!;
  let inPlace = false;
  if ((old & SPTE_PRESENT) !== 0) {
    inPlace = isLeaf(old) && pages.hi[at] === hostPage && spteGfn(vm, page, index) === gfn;
    if (!inPlace) dropSpte(vm, page, index);
    else if ((old & RIGHTS & ~lo) !== 0 || (old & ~lo & SPTE.TRACKED) !== 0) vm.weakened = true;
  }
  record(vm, page, index, gfn, acc);
  pages.lo[at] = lo;
  pages.hi[at] = hostPage;
  if (inPlace) return;
  const slot = vm.slots.findAny(gfn)!;
  const level = roleLevel(pages.role[page]!);
  pages.lists.push(slot.rmap[level - 1]!, slot.indexAt(gfn, level), at);
}

/** Marks a frame without RAM. Whatever was mapped there is zapped first (6.3 row 37). */
export function installMmio(vm: VmMmu, page: number, index: number, gfn: number, acc: number): void {
  const { pages } = vm;
  const at = page * ENTRIES + index;
  if ((pages.lo[at]! & SPTE_PRESENT) !== 0) dropSpte(vm, page, index);
  record(vm, page, index, gfn, acc);
  const generation = vm.slots.generation % MMIO_GENERATIONS;
  const bits = (acc << MMIO_RIGHTS_SHIFT) | (generation << MMIO_GENERATION_SHIFT);
  pages.lo[at] = (SPTE.MMIO | SPTE.LEAF | bits) >>> 0;
  pages.hi[at] = gfn;
}

function record(vm: VmMmu, page: number, index: number, gfn: number, acc: number): void {
  const { pages } = vm;
  if ((pages.role[page]! & ROLE.DIRECT) !== 0) return;
  pages.shadowedGfn[page * ENTRIES + index] = gfn;
  pages.shadowedAccess[page * ENTRIES + index] = acc;
}

/** Makes entry `index` of `parent` point to `child`. A link to something else, or a leaf, gives way. */
export function link(vm: VmMmu, parent: number, index: number, child: number): void {
  const { pages } = vm;
  const at = parent * ENTRIES + index;
  const old = pages.lo[at]!;
  if ((old & SPTE_PRESENT) !== 0) {
    if (isLink(old) && pages.hi[at] === child) return;
    dropSpte(vm, parent, index);
  }
  pages.lists.push(pages.parents, child, at);
  // All-permissive: rights are in the leaves, and in the role of the child.
  pages.lo[at] = RIGHTS;
  pages.hi[at] = child;
  if (pages.unsync[child] !== 0 || pages.unsyncChildren[child] !== 0) pages.markEntry(parent, index);
}

/** Empties an entry and undoes its bookkeeping. The child of a link lives on. */
export function dropSpte(vm: VmMmu, page: number, index: number): void {
  const { pages } = vm;
  const at = page * ENTRIES + index;
  const lo = pages.lo[at]!;
  if ((lo & SPTE_PRESENT) === 0) return;
  if (isLink(lo)) {
    pages.lists.remove(pages.parents, pages.hi[at]!, at);
    pages.clearBit(page, index);
  } else if (!isMmio(lo)) {
    const gfn = spteGfn(vm, page, index);
    const level = roleLevel(pages.role[page]!);
    const slot = vm.slots.findAny(gfn)!;
    pages.lists.remove(slot.rmap[level - 1]!, slot.indexAt(gfn, level), at);
  }
  pages.lo[at] = 0;
  pages.hi[at] = 0;
  vm.weakened = true;
}

/** Drops every large-page SPTE that covers `gfn`. */
export function dropLarge(vm: VmMmu, slot: MemorySlot, gfn: number): void {
  for (let level = 2; level <= LEAF_LEVELS; level += 1) dropRmap(vm, slot, gfn, level);
}

/** Drops every leaf SPTE of `level` that maps `gfn`. */
export function dropRmap(vm: VmMmu, slot: MemorySlot, gfn: number, level: number): void {
  const heads = slot.rmap[level - 1]!;
  const at = slot.indexAt(gfn, level);
  for (let node = heads[at]!; node !== 0; node = heads[at]!) {
    const spte = vm.pages.lists.spte[node]!;
    dropSpte(vm, spte >>> 9, spte & 511);
  }
}

/**
 * Takes W from every 4 KiB SPTE of `gfn`.
 *
 * @param why  'tracked': upper-level table, stores must be notified. 'shadowed': level-1 table, the next store unsyncs.
 *             'logged': dirty log, the next store is noted and W comes back.
 * @returns    Whether anything changed.
 */
export function writeProtect(
  vm: VmMmu,
  slot: MemorySlot,
  gfn: number,
  why: 'tracked' | 'shadowed' | 'logged',
): boolean {
  const { pages } = vm;
  const { lists } = pages;
  let changed = false;
  for (let node = slot.rmap[0]![slot.indexAt(gfn, 1)]!; node !== 0; node = lists.next[node]!) {
    const at = lists.spte[node]!;
    const lo = pages.lo[at]!;
    let now = lo & ~SPTE.W;
    if (why !== 'logged') now &= ~SPTE.MMU_WRITABLE;
    const wouldWrite = (lo & SPTE.HOST_WRITABLE) !== 0 && (spteAccess(vm, at >>> 9, at & 511) & ACC.WRITE) !== 0;
    if (why === 'tracked' && wouldWrite) now |= SPTE.TRACKED;
    if (now === (lo | 0)) continue;
    pages.lo[at] = now >>> 0;
    if ((lo & SPTE.W) !== 0) {
      vm.weakened = true;
      changed = true;
    }
  }
  return changed;
}

/** `gfn` is no shadowed table any more: the next store faults once, and gets W. */
export function untrack(vm: VmMmu, slot: MemorySlot, gfn: number): void {
  const { pages } = vm;
  for (let node = slot.rmap[0]![slot.indexAt(gfn, 1)]!; node !== 0; node = pages.lists.next[node]!) {
    const at = pages.lists.spte[node]!;
    pages.lo[at] = pages.lo[at]! & ~SPTE.TRACKED;
  }
}
