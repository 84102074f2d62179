/**
 * Invariants I1 to I14 of nested-mmu.md 6.1 that hold of the MMU's own state, as functions. They walk everything, so they
 * run in tests and in the checked build, never on a hot path. Each throws `InvariantError` with its number.
 *
 * Not here, because they need a history or a machine: I1 and I3 (stale sets: the property tests, with oracle.ts as I4),
 * I9's "the other MMU's roots do not change", I15 to I17.
 */
import { assert } from '../../base/assert.ts';
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import { LEAF_LEVELS } from '../vm/memory-slots.ts';
import { ACC } from './access.ts';
import { EPT_ENTRY } from './ept.ts';
import { entryIllegal, entryPresent, entryRights, sameFormat } from './format.ts';
import type { PageWalk } from './page-walk.ts';
import {
  calcCpuRole,
  eptRole,
  isDirect,
  KIND,
  ROLE,
  roleAccess,
  roleKind,
  roleLevel,
  roleQuadrant,
  shadowRootRole,
  tdpRootRole,
} from './role.ts';
import type { RootRecord, ShadowMmu } from './shadow-mmu.ts';
import { ENTRIES } from './shadow-pages.ts';
import { hasGptes, isLeaf, isLink, isMmio, spteAccess, spteGfn, spteRights } from './spte.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import type { VmMmu } from './vm-mmu.ts';
import { pgdHi, pgdLo } from './walker.ts';

/** Everything below, for a VM and its vCPUs, between two guest instructions. */
export function checkInvariants(vm: VmMmu, vcpus: readonly VcpuMmu[]): void {
  for (const v of vcpus) {
    checkSkipIsForce(v);
    checkPointers(v);
    checkRootMatches(v);
    checkIsolation(v);
  }
  checkLists(vm);
  checkRights(vm);
  checkUnsync(vm);
  checkRootCounts(vm, vcpus);
  for (const v of vcpus) checkSynced(v);
}

/** Active pages, oldest first. */
function* active(vm: VmMmu): Generator<number> {
  for (let page = vm.pages.oldest; page !== 0; page = vm.pages.nextNewer(page)) yield page;
}

/** I5: what a forced re-initialisation from the current registers would store is what is stored. I7 along the way. */
export function checkSkipIsForce(v: VcpuMmu): void {
  const { regs, nested, vm } = v;
  const { tdp, tdpLevels } = vm.config;
  const cpu = { base: 0, ext: 0 };
  calcCpuRole(cpu, regs.cr0, regs.cr4, regs.efer, regs.smm, nested.guestMode);
  const w = v.gvaWalk;
  assert(
    w.cpuRole.base === cpu.base && w.cpuRole.ext === cpu.ext,
    'I5: the running walker has the role of the registers',
  );
  if (!v.mmuIsNested) {
    const root = tdp ? tdpRootRole(cpu.base, tdpLevels) : shadowRootRole(cpu.base);
    assert(v.rootMmu.w === w, 'I5: root_mmu serves the walker of whoever runs');
    assert(v.rootMmu.rootRole === root, 'I5: root_mmu has the root role of the registers');
  } else {
    const execOnly = (vm.formats.capabilities.ept & 1) !== 0;
    eptRole(cpu, nested.eptPointerLo, execOnly, nested.usesMbec);
    const { base, ext } = v.ngpaWalk.cpuRole;
    assert(base === cpu.base && ext === cpu.ext, 'I5: the EPT12 walker has the role of the EPTP');
    assert(v.guestMmu.rootRole === cpu.base, 'I5: guest_mmu has the root role of the EPTP');
    checkFormat(vm, v.ngpaWalk);
  }
  checkFormat(vm, w);
}

/** I7: the format follows from the role and the epoch alone. */
function checkFormat(vm: VmMmu, w: PageWalk): void {
  const { base, ext } = w.cpuRole;
  if (roleLevel(base) === 0) return;
  assert(
    w.format !== null && sameFormat(w.format, vm.formats.recompute(base, ext)),
    `I7: ${w.name} has its role's format`,
  );
}

/** I6 */
export function checkPointers(v: VcpuMmu): void {
  const { nested } = v;
  const nestedMmu = nested.guestMode && nested.usesEpt;
  assert(v.mmuIsNested === nestedMmu, 'I6: guest_mmu is in force exactly while L2 runs on EPT12');
  assert(v.gvaWalk === (nested.guestMode ? v.gvaWalkL2 : v.gvaWalkL1), 'I6: gvaWalk belongs to the running level');
}

/** I8, at engine entry. */
export function checkRootMatches(v: VcpuMmu): void {
  const { vm, mmu } = v;
  const { current } = mmu.roots;
  if (current.page === 0 || vm.pages.special[current.page] !== 0) return;
  if (v.requests !== 0) return; // not yet at engine entry
  assert(vm.pages.role[current.page] === mmu.rootRole, 'I8: the current root has the root role');
  assert(!vm.isObsolete(current.page), 'I8: the current root is not obsolete');
  if (isDirect(mmu.rootRole)) return;
  assert(
    current.pgdLo === pgdLo(v, mmu.w) && current.pgdHi === pgdHi(v, mmu.w),
    'I8: an indirect root is labelled with the pgd in force',
  );
}

/** I9: pages reachable from a root agree with it about whose they are. */
export function checkIsolation(v: VcpuMmu): void {
  const { vm } = v;
  const shared = vm.config.mode === 'shared';
  const visit = (page: number, guestMode: number): void => {
    const role = vm.pages.role[page]!;
    assert((role & ROLE.GUEST_MODE) === guestMode, 'I9: tables of L1 and of L2 do not mix');
    for (let i = 0; i < ENTRIES; i += 1) {
      const at = page * ENTRIES + i;
      if (isLink(vm.pages.lo[at]!)) visit(vm.pages.hi[at]!, guestMode);
    }
  };
  for (const m of shared ? [v.rootMmu] : [v.rootMmu, v.guestMmu]) {
    for (const record of allRecords(m)) {
      if (record.page === 0 || vm.pages.special[record.page] !== 0) continue;
      const role = vm.pages.role[record.page]!;
      if (!shared && m === v.guestMmu) assert(roleKind(role) === KIND.EPT, 'I9: guest_mmu has roots of EPT12 only');
      if (!shared && m === v.rootMmu) assert(roleKind(role) !== KIND.EPT, 'I9: root_mmu has no root of EPT12');
      visit(record.page, role & ROLE.GUEST_MODE);
    }
  }
}

const allRecords = (m: ShadowMmu): RootRecord[] => [m.roots.current, ...m.roots.previous];

/** I10: one valid page per name; links and parent lists, leaves and reverse maps are mutual. */
export function checkLists(vm: VmMmu): void {
  const { pages, slots } = vm;
  const names = new Set<string>();
  const parents = new Map<number, number>();
  let leaves = 0;
  for (const page of active(vm)) {
    const name = `${pages.gfn[page]}/${pages.role[page]}`;
    assert(!names.has(name) || vm.isObsolete(page), 'I10: at most one valid shadow page per frame and role');
    names.add(name);
    for (let i = 0; i < ENTRIES; i += 1) {
      const at = page * ENTRIES + i;
      const lo = pages.lo[at]!;
      if (isLink(lo)) {
        const child = pages.hi[at]!;
        assert((pages.role[child]! & ROLE.INVALID) === 0, 'I10: no link leads to a dead page');
        assert(pages.lists.includes(pages.parents, child, at), 'I10: a child knows its parents');
        parents.set(child, (parents.get(child) ?? 0) + 1);
      } else if (isLeaf(lo)) {
        const gfn = spteGfn(vm, page, i);
        const level = roleLevel(pages.role[page]!);
        const slot = slots.findAny(gfn);
        assert(slot !== null, 'I10: a leaf maps a frame of a slot');
        assert(pages.hi[at] === slot.hostPage(gfn), 'I10: a leaf maps the backing of its frame');
        assert(
          pages.lists.includes(slot.rmap[level - 1]! as Uint32Array, slot.indexAt(gfn, level), at),
          'I10: a leaf is in the reverse map',
        );
        leaves += 1;
      }
    }
  }
  for (const page of active(vm)) {
    assert(lengthOf(vm, pages.parents[page]!) === (parents.get(page) ?? 0), 'I10: a parent list has no strangers');
  }
  let mapped = 0;
  for (const slot of slots.all) {
    for (let level = 1; level <= LEAF_LEVELS; level += 1) {
      for (const head of slot.rmap[level - 1]!) mapped += lengthOf(vm, head);
    }
  }
  assert(mapped === leaves, 'I10: reverse maps have no strangers');
}

function lengthOf(vm: VmMmu, head: number): number {
  let length = 0;
  for (let node = head; node !== 0; node = vm.pages.lists.next[node]!) length += 1;
  return length;
}

/** I2 as far as SPTEs show it, and I14: what L0 never writes. */
export function checkRights(vm: VmMmu): void {
  const { pages, slots } = vm;
  for (const page of active(vm)) {
    const role = pages.role[page]!;
    const level = roleLevel(role);
    for (let i = 0; i < ENTRIES; i += 1) {
      const lo = pages.lo[page * ENTRIES + i]!;
      if ((lo & SPTE_PRESENT) === 0) {
        assert(lo === 0, 'I14: an absent SPTE is zero');
        continue;
      }
      assert(level > 1 || !isLink(lo), 'I14: level 1 has no links');
      assert(level <= LEAF_LEVELS || isLink(lo), 'I14: no leaf above 1 GiB');
      if (!isLeaf(lo)) continue;
      const gfn = spteGfn(vm, page, i);
      const slot = slots.findAny(gfn)!;
      const rights = spteRights(spteAccess(vm, page, i)) | (roleKind(role) === KIND.IA32 ? SPTE.R : 0);
      const given = lo & (SPTE.R | SPTE.W | SPTE.X | SPTE.U);
      assert((given & ~rights) === 0, 'I2: an SPTE grants no more than the guest tables left');
      assert((lo & (SPTE.W | SPTE.TRACKED)) === 0 || !slot.readOnly, 'I2: no write to a read-only slot');
      assert((lo & SPTE.W) === 0 || (lo & SPTE.MMU_WRITABLE) !== 0, 'I14: W implies MMU-writable');
      assert((lo & SPTE.W) === 0 || (lo & SPTE.TRACKED) === 0, 'I14: a tracked page is not writable');
      if (level === 1) {
        const tracked = slot.writeTrack[gfn - slot.baseGfn] !== 0;
        assert(!tracked || (lo & SPTE.W) === 0, 'I2: no W on a tracked frame');
      } else {
        const frames = 512 ** (level - 1);
        assert(gfn % frames === 0 && pages.hi[page * ENTRIES + i]! % frames === 0, 'I14: large leaves are aligned');
        const ban = slot.disallowLarge[level - 2]![slot.indexAt(gfn, level)];
        assert(ban === 0, 'I2: no large page over a shadowed table');
      }
    }
  }
}

/** I11: unsync pages are level 1 and can be found from above; the accounts of shadowed tables are right. */
export function checkUnsync(vm: VmMmu): void {
  const { pages, slots } = vm;
  const track = new Map<number, number>();
  const unsync: number[] = [];
  let indirect = 0;
  for (const page of active(vm)) {
    const role = pages.role[page]!;
    if (hasGptes(role)) indirect += 1;
    if (hasGptes(role) && roleLevel(role) > 1) track.set(pages.gfn[page]!, (track.get(pages.gfn[page]!) ?? 0) + 1);
    if (pages.unsync[page] !== 0) {
      assert(roleLevel(role) === 1, 'I11: only level-1 pages are unsync');
      unsync.push(pages.gfn[page]!);
    }
    let set = 0;
    for (let i = 0; i < ENTRIES; i += 1) if (pages.bitSet(page, i)) set += 1;
    assert(set === pages.unsyncChildren[page], 'I11: unsyncChildren counts the bits');
    if (pages.unsync[page] === 0 && pages.unsyncChildren[page] === 0) continue;
    for (let node = pages.parents[page]!; node !== 0; node = pages.lists.next[node]!) {
      const spte = pages.lists.spte[node]!;
      assert(pages.bitSet(spte >>> 9, spte & 511), 'I11: every parent of an unsync page says so');
    }
  }
  for (const gfn of unsync) assert(!track.has(gfn), 'I11: no page of a tracked frame is unsync');
  assert(indirect === vm.indirectPages, 'I11: indirectPages counts pages with guest entries');
  for (const slot of slots.all) {
    for (let i = 0; i < slot.pages; i += 1) {
      const count = track.get(slot.baseGfn + i) ?? 0;
      assert(slot.writeTrack[i] === count, 'I11: tracked exactly while a page of level > 1 shadows the frame');
    }
  }
}

/** I12 */
export function checkRootCounts(vm: VmMmu, vcpus: readonly VcpuMmu[]): void {
  const count = new Map<number, number>();
  const add = (page: number): void => void count.set(page, (count.get(page) ?? 0) + 1);
  for (const v of vcpus) {
    for (const m of vm.config.mode === 'shared' ? [v.rootMmu] : [v.rootMmu, v.guestMmu]) {
      for (const { page } of allRecords(m)) {
        if (page === 0 || page === vm.dummyRoot) continue;
        if (page !== m.paeRoot) add(page);
        else
          for (let i = 0; i < 4; i += 1)
            if (vm.pages.lo[page * ENTRIES + i] !== 0) add(vm.pages.hi[page * ENTRIES + i]!);
      }
    }
  }
  for (const page of active(vm)) {
    assert(vm.pages.rootCount[page] === (count.get(page) ?? 0), 'I12: rootCount counts the records that name a page');
  }
}

/**
 * I13, for every level-1 page that claims to be in sync: no SPTE grants more than the guest's current entry.
 * (An in-sync page's table cannot have been written by the guest. Bytes that an agent changed behind L0's back break it.)
 */
export function checkSynced(v: VcpuMmu): void {
  const { vm } = v;
  const { pages } = vm;
  for (const page of active(vm)) {
    const role = pages.role[page]!;
    if (!hasGptes(role) || roleLevel(role) !== 1 || pages.unsync[page] !== 0 || vm.isObsolete(page)) continue;
    const w = [v.ngpaWalk, v.gvaWalkL1, ...v.walksOfL2].find(
      (walker) => ((walker.rootRole ^ role) & ~(ROLE.LEVEL | ROLE.ACCESS | ROLE.QUADRANT | ROLE.PASSTHROUGH)) === 0,
    );
    if (w === undefined || w.format === null) continue;
    const fourByte = (role & ROLE.HAS_4_BYTE_GPTE) !== 0;
    for (let i = 0; i < ENTRIES; i += 1) {
      const lo = pages.lo[page * ENTRIES + i]!;
      if ((lo & SPTE_PRESENT) === 0 || isMmio(lo)) continue;
      const offset = fourByte ? roleQuadrant(role) * 2048 + i * 4 : i * 8;
      assert(vm.readEntry(pages.gfn[page]! * 4096 + offset, fourByte ? 4 : 8), 'I13: a shadowed table is in memory');
      assert(entryPresent(w.format, vm.entryLo), 'I13: a synced SPTE has a present guest entry');
      assert(!entryIllegal(w.format, vm.entryLo, vm.entryHi, 1), 'I13: a synced SPTE has a legal guest entry');
      let acc = roleAccess(role) & entryRights(w.format, vm.entryLo, vm.entryHi);
      const dirty = w.format.kind === KIND.EPT ? EPT_ENTRY.D : 1 << 6;
      if ((role & ROLE.AD_DISABLED) === 0 && (vm.entryLo & dirty) === 0) acc &= ~ACC.WRITE;
      // CR0.WP = 0: W traded for U (5.4).
      const supervisorOnly = (lo & (SPTE.W | SPTE.U)) === SPTE.W && (role & ROLE.CR0_WP) === 0;
      const extra = roleKind(role) === KIND.IA32 ? SPTE.R | (supervisorOnly ? SPTE.W : 0) : 0;
      const given = lo & (SPTE.R | SPTE.W | SPTE.X | SPTE.U);
      assert((given & ~(spteRights(acc) | extra)) === 0, 'I13: a synced SPTE grants no more than the guest entry');
    }
  }
}
