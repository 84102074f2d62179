/**
 * The life of shadow pages: getting one, zapping it, making room, tracking guest writes to what it shadows.
 *
 * Owns    the accounting of shadowed guest tables (write tracking, large-page bans).
 * Never   gives a page back before a flush: `vm.bury`, then `vm.commit`.
 *
 * Source  nested-mmu.md 5.2 "Obtaining an SP", 5.5 "Zapping and lifetime", 5.6 "Guest writes to shadowed tables".
 */
import { assert } from '../../base/assert.ts';
import { isDirect, ROLE, roleLevel, roleQuadrant } from './role.ts';
import { ENTRIES } from './shadow-pages.ts';
import { dropLarge, dropSpte, hasGptes, isLink, untrack, writeProtect } from './spte.ts';
import type { VmMmu } from './vm-mmu.ts';

/** Whoever can re-read the guest entries of an unsync page; false if that cannot be done. sync.ts does the work. */
export interface Syncer {
  syncPage(page: number): boolean;
}

/** Finds or makes the shadow page of (gfn, role). Room was made before. */
export function getPage(vm: VmMmu, gfn: number, role: number, syncer: Syncer): number {
  const { pages, counters } = vm;
  counters.spLookup += 1;
  let next = 0;
  for (let page = pages.firstInHash(gfn); page !== 0; page = next) {
    next = pages.nextInHash(page);
    if (pages.gfn[page] !== gfn || vm.isObsolete(page)) continue;
    if (pages.role[page] !== role) {
      // An upper-level table must be write-protected: a page that counts on unsync may not stay (6.3 row 13).
      if (roleLevel(role) > 1 && hasGptes(role) && pages.unsync[page] !== 0) zapPage(vm, page);
      continue;
    }
    if (!isDirect(role)) {
      if (pages.unsync[page] !== 0 && !syncer.syncPage(page)) {
        zapPage(vm, page);
        continue;
      }
      pages.writeFlood[page] = 0;
    }
    return page;
  }
  counters.spAlloc += 1;
  if (pages.freeCount === 0) vm.commit();
  const page = pages.allocate(gfn, role, vm.validGeneration);
  if (hasGptes(role)) account(vm, page);
  return page;
}

/** A guest table is shadowed from now on: its writes matter. */
function account(vm: VmMmu, page: number): void {
  const gfn = vm.pages.gfn[page]!;
  const slot = vm.slots.findAny(gfn);
  assert(slot !== null, 'a shadowed guest table lies in a slot');
  vm.indirectPages += 1;
  slot.banLarge(gfn, 1);
  dropLarge(vm, slot, gfn);
  if (roleLevel(vm.pages.role[page]!) === 1) {
    writeProtect(vm, slot, gfn, 'shadowed');
    return;
  }
  const at = gfn - slot.baseGfn;
  slot.writeTrack[at] = slot.writeTrack[at]! + 1;
  if (slot.writeTrack[at] === 1) writeProtect(vm, slot, gfn, 'tracked');
}

function unaccount(vm: VmMmu, page: number): void {
  const gfn = vm.pages.gfn[page]!;
  const slot = vm.slots.findAny(gfn);
  assert(slot !== null, 'a slot outlives the shadow pages of its tables');
  vm.indirectPages -= 1;
  slot.banLarge(gfn, -1);
  if (roleLevel(vm.pages.role[page]!) === 1) return;
  const at = gfn - slot.baseGfn;
  slot.writeTrack[at] = slot.writeTrack[at]! - 1;
  if (slot.writeTrack[at] === 0) untrack(vm, slot, gfn);
}

/** Empties one entry; with TDP, an L2's page that loses its last parent goes with it, or the pool would fill up. */
export function zapEntry(vm: VmMmu, page: number, index: number, withChildren: boolean): void {
  const { pages } = vm;
  const at = page * ENTRIES + index;
  const lo = pages.lo[at]!;
  const child = isLink(lo) ? pages.hi[at]! : 0;
  dropSpte(vm, page, index);
  if (!withChildren || child === 0 || !vm.config.tdp) return;
  if ((pages.role[child]! & ROLE.GUEST_MODE) === 0) return;
  if (pages.parents[child] === 0 && pages.rootCount[child] === 0) zapPage(vm, child);
}

/** Kills a shadow page: nobody finds it, nothing hangs below it, nothing points to it. */
export function zapPage(vm: VmMmu, page: number): void {
  const { pages } = vm;
  if ((pages.role[page]! & ROLE.INVALID) !== 0) return;
  vm.counters.spZap += 1;
  zapUnsyncBelow(vm, page);
  for (let i = 0; i < ENTRIES; i += 1) if (pages.present(page, i)) zapEntry(vm, page, i, true);
  for (let node = pages.parents[page]!; node !== 0; node = pages.parents[page]!) {
    const spte = pages.lists.spte[node]!;
    dropSpte(vm, spte >>> 9, spte & 511);
  }
  if (hasGptes(pages.role[page]!)) unaccount(vm, page);
  pages.retire(page);
  pages.unsync[page] = 0;
  pages.role[page] = (pages.role[page]! | ROLE.INVALID) >>> 0;
  vm.weakened = true;
  if (pages.rootCount[page] === 0) vm.bury(page);
  else vm.requestFreeObsolete();
}

function zapUnsyncBelow(vm: VmMmu, page: number): void {
  const { pages } = vm;
  if (pages.unsyncChildren[page] === 0) return;
  for (let i = 0; i < ENTRIES; i += 1) {
    if (!pages.bitSet(page, i)) continue;
    const at = page * ENTRIES + i;
    if (!isLink(pages.lo[at]!)) continue;
    const child = pages.hi[at]!;
    if (pages.unsync[child] !== 0) zapPage(vm, child);
    else zapUnsyncBelow(vm, child);
  }
}

/** A root record lets go of its page. */
export function putRoot(vm: VmMmu, page: number): void {
  const { pages } = vm;
  pages.rootCount[page] = pages.rootCount[page]! - 1;
  if (pages.rootCount[page] === 0 && (pages.role[page]! & ROLE.INVALID) !== 0) vm.bury(page);
}

const ROOM = 5;
const ROOM_AFTER_RECLAIM = 25;

/** Makes sure that the next fault finds pages. Oldest first; roots stay. False: roots alone fill the quota. */
export function makeRoom(vm: VmMmu): boolean {
  const { pages } = vm;
  const limit = vm.config.pageLimit;
  if (pages.used + ROOM <= limit) return true;
  const goal = Math.min(ROOM_AFTER_RECLAIM, limit >> 1);
  const before = vm.counters.spZap;
  let page = pages.oldest;
  // Pages that are zapped along (parentless children) leave the FIFO: start again from its head after each one.
  while (page !== 0 && pages.used - vm.buried + goal > limit) {
    if (pages.rootCount[page] !== 0) {
      page = pages.nextNewer(page);
      continue;
    }
    zapPage(vm, page);
    page = pages.oldest;
  }
  vm.counters.spReclaimed += vm.counters.spZap - before;
  vm.commit();
  return pages.used + ROOM <= limit;
}

/** Everything of an older generation dies, oldest first. */
export function zapObsolete(vm: VmMmu): void {
  const { pages } = vm;
  let page = pages.oldest;
  while (page !== 0 && pages.generation[page] !== vm.validGeneration) {
    zapPage(vm, page);
    page = pages.oldest;
  }
}

/** All shadow pages of the VM become obsolete at once (4.18 "fast zap"). */
export function zapAllFast(vm: VmMmu): void {
  vm.validGeneration += 1;
  vm.invalidateSequence += 1;
  vm.requestFreeObsolete();
  zapObsolete(vm);
  vm.weakened = true;
  vm.commit();
}

/** Kills every shadow page of a guest table, so that it is ordinary memory again. */
export function unprotectGfn(vm: VmMmu, gfn: number): boolean {
  const { pages } = vm;
  let any = false;
  let page = pages.firstInHash(gfn);
  while (page !== 0) {
    const found = pages.gfn[page] === gfn && hasGptes(pages.role[page]!);
    if (found) {
      zapPage(vm, page);
      any = true;
      page = pages.firstInHash(gfn); // zapping changes the chain
    } else page = pages.nextInHash(page);
  }
  return any;
}

/** Third write in a row to an upper-level table that nobody walks: it is probably no table any more. */
const FLOOD = 3;

/**
 * Bytes of guest memory have changed and are visible: drops what was made from them.
 *
 * @param gpa    L1-physical address of the first byte.
 * @param bytes  1 to 64, within a page.
 * @param flood  Whether this counts as guest writing; L0's own A/D updates do not.
 */
export function trackWrite(vm: VmMmu, gpa: number, bytes: number, flood: boolean): void {
  if (vm.indirectPages === 0) return;
  const { pages, counters } = vm;
  const gfn = Math.floor(gpa / 4096);
  const offset = gpa % 4096;
  let tracked = false;
  let page = pages.firstInHash(gfn);
  while (page !== 0) {
    const role = pages.role[page]!;
    if (pages.gfn[page] !== gfn || !hasGptes(role)) {
      page = pages.nextInHash(page);
      continue;
    }
    tracked = true;
    if (flood && roleLevel(role) > 1) pages.writeFlood[page] = pages.writeFlood[page]! + 1;
    const flooded = pages.writeFlood[page]! >= FLOOD;
    if (flooded || misaligned(role, offset, bytes)) {
      if (flooded) counters.flooded += 1;
      zapPage(vm, page);
      page = pages.firstInHash(gfn);
      continue;
    }
    zapWritten(vm, page, role, offset);
    page = pages.nextInHash(page);
  }
  if (!tracked) return;
  counters.trackWrite += 1;
  vm.invalidateSequence += 1;
  vm.commit();
}

/** A store by the engine (to a TRACKED page) or by L0 to guest RAM: logged, and heard by whoever shadows the page. */
export function guestStored(vm: VmMmu, gpa: number, bytes: number): void {
  const gfn = Math.floor(gpa / 4096);
  vm.slots.find(gfn)?.markDirty(gfn);
  trackWrite(vm, gpa, bytes, true);
}

/** The same by where the bytes lie in linear memory; every slot that shows that page hears of it. */
export function hostStored(vm: VmMmu, hostOffset: number, bytes: number): void {
  for (const slot of vm.slots.all) {
    const page = Math.floor(hostOffset / 4096) - slot.hostBase;
    if (page < 0 || page >= slot.pages) continue;
    guestStored(vm, (slot.baseGfn + page) * 4096 + (hostOffset % 4096), bytes);
  }
}

/** Does the store touch more than one entry, or less than one word of it? A single byte at its start is no harm. */
function misaligned(role: number, offset: number, bytes: number): boolean {
  const size = (role & ROLE.HAS_4_BYTE_GPTE) !== 0 ? 4 : 8;
  if (bytes === 1 && (offset & (size - 1)) === 0) return false;
  return Math.floor(offset / size) !== Math.floor((offset + bytes - 1) / size) || bytes < 4;
}

function zapWritten(vm: VmMmu, page: number, role: number, offset: number): void {
  if ((role & ROLE.HAS_4_BYTE_GPTE) === 0) {
    zapEntry(vm, page, offset >>> 3, false);
    return;
  }
  // 1024 4-byte entries: a directory entry covers two shadow entries, and each shadow page sees one quadrant.
  const entry = offset >>> 2;
  const first = roleLevel(role) === 2 ? entry * 2 : entry;
  if (first >>> 9 !== roleQuadrant(role)) return;
  zapEntry(vm, page, first & 511, false);
  if (roleLevel(role) === 2) zapEntry(vm, page, (first & 511) + 1, false);
}
