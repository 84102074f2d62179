/**
 * Roots: finding the one for an address space, building it, letting go of it.
 *
 * Owns    the root caches of both shadow MMUs and `rootCount`.
 * Never   syncs or flushes on a switch: who needs that asks for it (nested-mmu.md 4.2).
 *
 * Source  nested-mmu.md 4.2 "Root lookup and fast switch", 4.3 "Freeing roots", 4.4 "Load root".
 */
import { SPTE } from '../../contracts/second-stage.ts';
import { REQUEST } from './requests.ts';
import { isDirect, KIND, ROLE, ROLE_QUADRANT_SHIFT, roleKind, roleLevel } from './role.ts';
import type { RootRecord, ShadowMmu } from './shadow-mmu.ts';
import { ENTRIES } from './shadow-pages.ts';
import { syncRoots } from './sync.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { pgdHi, pgdLo } from './walker.ts';
import { getPage, makeRoom, putRoot } from './zap.ts';

/** Bit 0: the current root; bit 1 + i: previous root i. */
export const FREE_CURRENT = 1;
export const FREE_ALL = -1;

function usable(v: VcpuMmu, record: RootRecord, lo: number, hi: number, role: number): boolean {
  const { pages } = v.vm;
  return (
    record.page !== 0 &&
    pages.special[record.page] === 0 &&
    pages.role[record.page] === role &&
    (isDirect(role) || (record.pgdLo === lo && record.pgdHi === hi))
  );
}

/** The address space is now `pgd`: takes a root seen before, or leaves none, to be built by `load`. */
export function newPgd(v: VcpuMmu, lo: number, hi: number): void {
  const m = v.mmu;
  const { counters, pages } = v.vm;
  const role = m.rootRole;
  const cache = m.roots;
  lo >>>= 0;
  hi >>>= 0;
  if (cache.current.page !== 0 && pages.special[cache.current.page] !== 0) freeRoots(v, m, FREE_CURRENT);
  let hit = false;
  if (cache.current.page !== 0) {
    hit = usable(v, cache.current, lo, hi, role);
    if (hit) counters.rootHitCurrent += 1;
    for (let i = 0; !hit && i < cache.previous.length; i += 1) {
      cache.swap(i);
      hit = usable(v, cache.current, lo, hi, role);
      if (hit) countPrevious(v, i);
    }
    if (!hit) freeRoots(v, m, FREE_CURRENT);
  } else {
    for (let i = 0; !hit && i < cache.previous.length; i += 1) {
      if (!usable(v, cache.previous[i]!, lo, hi, role)) continue;
      hit = true;
      countPrevious(v, i);
      cache.swap(i);
      // The hole moves to the end: the others stay in order of use.
      for (let j = i; j + 1 < cache.previous.length; j += 1) {
        const record = cache.previous[j]!;
        cache.previous[j] = cache.previous[j + 1]!;
        cache.previous[j + 1] = record;
      }
    }
  }
  if (!hit) {
    counters.rootMiss += 1;
    return;
  }
  v.requests |= REQUEST.LOAD_PGD;
  if (v.vm.config.syncOnSwitch) v.requests |= REQUEST.MMU_SYNC | REQUEST.FLUSH_CURRENT;
  if (!isDirect(role)) pages.writeFlood[cache.current.page] = 0;
}

/** Would `newPgd` find the root among those used before? There is a current one, which is not it. */
export function hasPrevious(v: VcpuMmu, m: ShadowMmu, lo: number, hi: number): boolean {
  const { current, previous } = m.roots;
  if (current.page === 0 || v.vm.pages.special[current.page] !== 0) return false;
  const role = m.rootRole;
  for (let i = 0; i < previous.length; i += 1) if (usable(v, previous[i]!, lo, hi, role)) return true;
  return false;
}

function countPrevious(v: VcpuMmu, i: number): void {
  const { counters } = v.vm;
  counters.rootHitPrev += 1;
  counters.rootHitPrevAt[i] = counters.rootHitPrevAt[i]! + 1;
}

function release(v: VcpuMmu, m: ShadowMmu, record: RootRecord): void {
  const { vm } = v;
  const { page } = record;
  if (page === 0) return;
  vm.counters.rootFree += 1;
  if (page === m.paeRoot) {
    for (let i = 0; i < 4; i += 1) {
      const at = page * ENTRIES + i;
      if (vm.pages.lo[at] === 0) continue;
      const child = vm.pages.hi[at]!;
      vm.pages.lo[at] = 0;
      vm.pages.hi[at] = 0;
      putRoot(vm, child);
    }
  } else if (page !== vm.dummyRoot) putRoot(vm, page);
  record.page = 0;
  record.pgdLo = 0;
  record.pgdHi = 0;
}

/** Lets go of the selected roots. Their pages stay in the hash unless they are dead. */
export function freeRoots(v: VcpuMmu, m: ShadowMmu, mask: number): void {
  if ((mask & FREE_CURRENT) !== 0) release(v, m, m.roots.current);
  const { previous } = m.roots;
  for (let i = 0; i < previous.length; i += 1) if ((mask & (2 << i)) !== 0) release(v, m, previous[i]!);
  // A dead page whose last root this was must not wait in memory for some later fault.
  if (v.vm.buried > 0) v.vm.commit();
}

/** INVVPID without TDP: shadow pages of L2 are linear mappings. Called while L1 runs (4.3). */
export function freeGuestModeRoots(v: VcpuMmu, m: ShadowMmu): void {
  const { pages } = v.vm;
  m.roots.previous.forEach((record, i) => {
    if (record.page === 0) return;
    const special = pages.special[record.page] !== 0;
    if (special || (pages.role[record.page]! & ROLE.GUEST_MODE) !== 0) freeRoots(v, m, 2 << i);
  });
}

function obsolete(v: VcpuMmu, record: RootRecord): boolean {
  if (record.page === 0) return false;
  return v.vm.pages.special[record.page] !== 0 || v.vm.isObsolete(record.page);
}

/** Roots of either MMU that are dead, or whose freshness nobody can tell. */
export function freeObsoleteRoots(v: VcpuMmu): void {
  for (const m of [v.rootMmu, v.guestMmu]) {
    let mask = obsolete(v, m.roots.current) ? FREE_CURRENT : 0;
    m.roots.previous.forEach((record, i) => {
      if (obsolete(v, record)) mask |= 2 << i;
    });
    if (mask !== 0) freeRoots(v, m, mask);
  }
}

/** Builds the root of the current MMU and loads it. False: no room for it. */
export function load(v: VcpuMmu): boolean {
  const { vm } = v;
  const m = v.mmu;
  if (!makeRoom(vm)) return false;
  const role = m.rootRole;
  vm.counters.rootAlloc += 1;
  const record = m.roots.current;
  if (roleLevel(role) === 3) loadPae(v, m, role);
  else if (isDirect(role)) {
    record.page = getPage(vm, 0, role, v);
    hold(v, record.page);
  } else {
    const lo = pgdLo(v, m.w);
    const hi = pgdHi(v, m.w);
    const gfn = (hi & 0xf_ffff) * 0x10_0000 + (lo >>> 12);
    record.pgdLo = lo;
    record.pgdHi = hi;
    if (vm.slots.find(gfn) === null) record.page = vm.dummyRoot;
    else {
      record.page = getPage(vm, gfn, role, v);
      hold(v, record.page);
    }
  }
  syncRoots(v);
  vm.commit();
  loadIntoEngine(v);
  v.flushCurrent();
  return true;
}

function hold(v: VcpuMmu, page: number): void {
  v.vm.pages.rootCount[page] = v.vm.pages.rootCount[page]! + 1;
}

const LINK = SPTE.R | SPTE.W | SPTE.X | SPTE.U;

/** Four level-2 pages under a root of four entries: paging off, 32-bit and PAE paging without TDP. */
function loadPae(v: VcpuMmu, m: ShadowMmu, role: number): void {
  const { vm } = v;
  const { pages } = vm;
  if (m.paeRoot === 0) m.paeRoot = pages.allocateSpecial();
  const guestLevel = roleLevel(m.w.cpuRole.base);
  m.roots.current.page = m.paeRoot;
  m.roots.current.pgdLo = isDirect(role) ? 0 : v.regs.cr3Lo >>> 0;
  m.roots.current.pgdHi = 0;
  for (let i = 0; i < 4; i += 1) {
    const at = m.paeRoot * ENTRIES + i;
    pages.lo[at] = 0;
    pages.hi[at] = 0;
    let gfn: number;
    let child = ((role & ~ROLE.LEVEL) | 2) >>> 0;
    if (isDirect(role)) gfn = i * 0x4_0000;
    else if (guestLevel === 3) {
      if ((v.regs.pdptrLo(i) & 1) === 0) continue;
      gfn = (v.regs.pdptrHi(i) & 0xf_ffff) * 0x10_0000 + (v.regs.pdptrLo(i) >>> 12);
    } else {
      gfn = v.regs.cr3Lo >>> 12;
      child = (child | (i << ROLE_QUADRANT_SHIFT)) >>> 0;
    }
    if (!isDirect(role) && vm.slots.find(gfn) === null) continue;
    const page = getPage(vm, gfn, child, v);
    hold(v, page);
    pages.lo[at] = LINK;
    pages.hi[at] = page;
  }
}

/** Tells the engine which tables to walk. */
export function loadIntoEngine(v: VcpuMmu): void {
  const m = v.mmu;
  const { page } = m.roots.current;
  if (page === 0) return;
  const role = m.rootRole;
  const kind = roleKind(role);
  const root = m.descriptor;
  root.table = page;
  root.id = v.vm.pages.serial[page]!;
  root.levels = roleLevel(role);
  root.accessedDirty = kind === KIND.EPT && (role & ROLE.AD_DISABLED) === 0;
  root.mbec = (role & ROLE.MBEC) !== 0;
  root.linear = kind === KIND.IA32;
  v.tlb.loadRoot(root);
}
