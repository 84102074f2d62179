/**
 * The MMU of one vCPU: two shadow MMUs, walkers of three kinds, and two pointers that say which are in force.
 *
 *                 mmu        gvaWalk     engine's root                  second stage of walks
 *   L1 runs       rootMmu    gvaWalkL1   EPT01 (or shadow of CR3)       none
 *   L2, EPT12     guestMmu   gvaWalkL2   EPT02, the shadow of EPT12     ngpaWalk reads EPT12
 *   L2, no EPT12  rootMmu    gvaWalkL2   EPT01' (guest_mode=1)          none
 *
 * A nested entry or exit moves the pointers. Nothing is rebuilt unless the role words, computed anew each time, differ
 * from those remembered (nested-mmu.md 4.1).
 *
 * Owns    the pointers, the roles, the requests and the order they are served in.
 * Never   reads registers of a level that does not run.
 */
import { assert } from '../../base/assert.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import { fetchTranslation } from './emulation.ts';
import { EPT_CAP } from './ept.ts';
import * as faults from './faults.ts';
import { sameFormat } from './format.ts';
import * as invalidate from './invalidate.ts';
import { NO_USE, PageWalk } from './page-walk.ts';
import * as pagingRegisters from './paging-registers.ts';
import {
  type EngineViolation,
  type FaultResult,
  type NestedPort,
  noViolation,
  type TlbPort,
  type VcpuRegs,
} from './ports.ts';
import { LOCAL_REQUESTS, REQUEST } from './requests.ts';
import { calcCpuRole, eptRole, ROLE, type RoleWords, roleLevel, shadowRootRole, tdpRootRole } from './role.ts';
import * as roots from './roots.ts';
import { RootCache, ShadowMmu } from './shadow-mmu.ts';
import { syncPage, syncRoots, unsyncPreviousRoots } from './sync.ts';
import type { VmMmu } from './vm-mmu.ts';
import type { WalkContext } from './walker.ts';
import { guestStored, hostStored, type Syncer } from './zap.ts';

/** TLB tag of L1, and of an L2 that has no VPID. Tag n > 0 is VPID n of VMCS12. */
export const TAG_L1 = 0;
/** `source.use` of a walker that walks for L2 in `guestMmu`: see `initMmu`. */
const USE_NESTED = 3;
/** Walkers for guests of L1 whose control registers differ. */
const WALKS_OF_L2 = 4;

export class VcpuMmu implements WalkContext, Syncer {
  readonly vm: VmMmu;
  readonly regs: VcpuRegs;
  readonly tlb: TlbPort;
  readonly nested: NestedPort;
  readonly gvaWalkL1 = new PageWalk('gvaWalkL1');
  /** Of the L2 that runs, or ran last: one of `walksOfL2`. */
  gvaWalkL2 = new PageWalk('gvaWalkL2');
  /** An L2 finds its walker as its registers left it, whatever other guests of L1 have run since. Latest first. */
  readonly walksOfL2: PageWalk[] = [this.gvaWalkL2];
  readonly ngpaWalk = new PageWalk('ngpaWalk');
  readonly rootMmu: ShadowMmu;
  readonly guestMmu: ShadowMmu;
  /** The MMU whose root the engine runs on and whose fault handler fixes faults. */
  mmu: ShadowMmu;
  /** Who translates linear addresses of the running level. */
  gvaWalk: PageWalk;
  requests = 0;
  /** Where the last result 'mmio' lies. `table`: a paging structure in a read-only slot, whose A or D cannot be set. */
  readonly mmio = { gpa: BORN_DOUBLE, write: false, table: false, linearLo: BORN_DOUBLE, linearHi: BORN_DOUBLE };
  /** For callers that have no report object of their own. */
  readonly violation: EngineViolation = noViolation();
  /** VMCS12.VPID of the last entry that had one, where VPIDs share something. */
  lastVpid = 0;
  readonly #role: RoleWords = { base: 0, ext: 0 };
  /** From equal registers follow equal roles, without a look at them: not where they are computed for comparison. */
  readonly #trustsSource: boolean;
  /** A switch may find roots and roles as they were: tables of both stages, each level's under tags of its own. */
  readonly mayFindAll: boolean;
  /** What `ngpaWalk` has its role of: the EPT pointer's lower half and the use of MBEC; -1: another role was loaded. */
  #eptLo = -1;
  #eptMbec = false;
  #loadedTag = -1;
  #retryRipLo = -1;
  #retryRipHi = -1;
  #retryAddress = -1;

  constructor(vm: VmMmu, regs: VcpuRegs, tlb: TlbPort, nested: NestedPort) {
    this.vm = vm;
    this.regs = regs;
    this.tlb = tlb;
    this.nested = nested;
    this.#trustsSource = !vm.config.force && vm.config.mode !== 'reinit';
    const { mode, tdp, vpidTags, syncOnSwitch } = vm.config;
    this.mayFindAll = this.#trustsSource && mode === 'split' && tdp && vpidTags !== 'single' && !syncOnSwitch;
    const own = new RootCache(vm.config.previousRoots);
    this.rootMmu = new ShadowMmu('rootMmu', own, this.gvaWalkL1);
    const other = vm.config.mode === 'shared' ? own : new RootCache(vm.config.previousRoots);
    this.guestMmu = new ShadowMmu('guestMmu', other, this.ngpaWalk);
    this.mmu = this.rootMmu;
    this.gvaWalk = this.gvaWalkL1;
    // Where all is to be as before the series, there is one
    const walks = this.#trustsSource && mode === 'split' ? WALKS_OF_L2 : 1;
    while (this.walksOfL2.length < walks) this.walksOfL2.push(new PageWalk('gvaWalkL2'));
    vm.vcpus.push(this);
    this.initMmu();
  }

  /** Second stage of L1 in force. Not the same as "L2 runs". */
  get mmuIsNested(): boolean {
    return this.mmu === this.guestMmu;
  }

  // ── 4.1 init and re-init, with the "did the source data change?" check ──

  /** After any change of CR0, CR4, EFER, on nested transitions, on restore. */
  initMmu(): void {
    const { regs } = this;
    const { guestMode } = this.nested;
    const isNested = this.mmuIsNested;
    const cr0 = regs.cr0 | 0;
    const cr4 = regs.cr4 | 0;
    const efer = regs.efer | 0;
    const use = (guestMode ? 1 : 0) | (isNested ? 2 : 0) | (regs.smm ? 4 : 0);
    if (this.gvaWalk === this.gvaWalkL2) this.#takeWalkOfL2(cr0, cr4, efer, use);
    const w = isNested ? this.gvaWalk : this.rootMmu.w;
    const { source } = w;
    if (source.cr0 === cr0 && source.cr4 === cr4 && source.efer === efer && source.use === use && this.#trustsSource) {
      this.vm.counters.roleSkip += 1;
      return;
    }
    const cpu = this.#role;
    calcCpuRole(cpu, cr0, cr4, efer, regs.smm, guestMode);
    if (isNested) this.#initWalker(w, cpu, w.rootRole);
    else {
      const { tdp, tdpLevels } = this.vm.config;
      this.#initWalker(w, cpu, tdp ? tdpRootRole(cpu.base, tdpLevels) : shadowRootRole(cpu.base));
    }
    source.cr0 = cr0;
    source.cr4 = cr4;
    source.efer = efer;
    source.use = use;
  }

  /** Both words and the root role equal: nothing to do, and in `force` mode proof that there was nothing to do. */
  #initWalker(w: PageWalk, cpu: RoleWords, rootRole: number): void {
    const { counters, formats, config } = this.vm;
    const same = w.cpuRole.base === cpu.base && w.cpuRole.ext === cpu.ext;
    if (same && w.rootRole === rootRole && config.mode !== 'reinit') {
      counters.roleSkip += 1;
      if (config.force && w.format !== null && roleLevel(cpu.base) > 0) {
        assert(
          sameFormat(w.format, formats.recompute(cpu.base, cpu.ext)),
          `a skipped init of ${w.name} changes nothing`,
        );
      }
      return;
    }
    counters.roleStore += 1;
    w.cpuRole.base = cpu.base;
    w.cpuRole.ext = cpu.ext;
    w.rootRole = rootRole;
    // Paging off: the format is not consulted.
    if (roleLevel(cpu.base) > 0) w.format = formats.intern(cpu.base, cpu.ext);
  }

  #initShadowEpt(): void {
    const { nested } = this;
    const execOnly = (this.vm.formats.capabilities.ept & EPT_CAP.EXECUTE_ONLY) !== 0;
    const cpu = this.#role;
    eptRole(cpu, nested.eptPointerLo, execOnly, nested.usesMbec);
    this.#initWalker(this.ngpaWalk, cpu, cpu.base);
    this.#eptLo = nested.eptPointerLo;
    this.#eptMbec = nested.usesMbec;
    this.newPgd(nested.eptPointerLo, nested.eptPointerHi); // always, also when the role is unchanged
  }

  // ── nested transitions ──

  /** The walker that these registers were last in force with; `undefined`: none. */
  #findWalkOfL2(cr0: number, cr4: number, efer: number, use: number): PageWalk | undefined {
    for (let i = 0; i < this.walksOfL2.length; i += 1) {
      const w = this.walksOfL2[i]!;
      const { source } = w;
      if (source.cr0 === cr0 && source.cr4 === cr4 && source.efer === efer && source.use === use) return w;
    }
    return undefined;
  }

  /** The walker of the L2 that runs, or that which none has used for longest. */
  #takeWalkOfL2(cr0: number, cr4: number, efer: number, use: number): void {
    const { walksOfL2 } = this;
    const w = this.#findWalkOfL2(cr0, cr4, efer, use) ?? walksOfL2[walksOfL2.length - 1]!;
    this.#useWalkOfL2(w);
    if (!this.mmuIsNested) this.rootMmu.w = w;
  }

  #useWalkOfL2(w: PageWalk): void {
    const { walksOfL2 } = this;
    let at = walksOfL2.indexOf(w);
    for (; at > 0; at -= 1) walksOfL2[at] = walksOfL2[at - 1]!;
    walksOfL2[0] = w;
    this.gvaWalkL2 = w;
    this.gvaWalk = w;
  }

  /** Entry to an L2 that runs on EPT12. Before L2's CR0, CR4, EFER are used. */
  nestedEptInit(): void {
    assert(!this.mmuIsNested, 'nestedEptInit runs once per entry');
    this.mmu = this.guestMmu;
    this.gvaWalk = this.gvaWalkL2;
    this.#switchedShared();
    this.#initShadowEpt();
  }

  /** Entry to an L2 whose tables map to L1-physical addresses: root_mmu follows the other walker. */
  nestedEnterWithoutEpt(): void {
    assert(!this.mmuIsNested, 'an L2 without EPT12 runs on root_mmu');
    this.gvaWalk = this.gvaWalkL2;
    this.rootMmu.w = this.gvaWalkL2;
    this.#switchedShared();
  }

  /** Back to L1. Also when there was no EPT12, and after a failed entry; running it twice is harmless. */
  nestedEptUninit(): void {
    if (this.gvaWalk === this.gvaWalkL1) return;
    this.mmu = this.rootMmu;
    this.gvaWalk = this.gvaWalkL1;
    this.rootMmu.w = this.gvaWalkL1;
    // An entry that fails may never load a CR3: the engine must not stay on L2's root.
    this.requests |= REQUEST.LOAD_PGD;
    this.#switchedShared();
  }

  /**
   * Entry with EPT12 and VPID, where the steps of an entry (`nestedEptInit`, `loadCr3`, `transitionTlbFlush`) would find the
   * roles of an entry before, and its root in the cache. False: nothing was done.
   *
   * @param cr0  And the others: L2's, in force from here on.
   */
  enterAsBefore(cr0: number, cr4: number, efer: number): boolean {
    const { nested, guestMmu, gvaWalkL2, vm } = this;
    const lo = nested.eptPointerLo;
    if (!this.mayFindAll || this.requests !== 0 || !nested.usesEpt || !nested.usesVpid) return false;
    const { source } = gvaWalkL2;
    const isWalkOther = source.cr0 !== (cr0 | 0) || source.cr4 !== (cr4 | 0) || source.efer !== (efer | 0);
    if (isWalkOther || source.use !== USE_NESTED || lo !== this.#eptLo) return this.#enterAnother(cr0, cr4, efer);
    const { current } = guestMmu.roots;
    if (nested.usesMbec !== this.#eptMbec || current.pgdLo !== lo || current.pgdHi !== nested.eptPointerHi)
      return false;
    if (!this.#isLoaded(guestMmu, this.ngpaWalk.rootRole)) return false;
    this.mmu = guestMmu;
    this.gvaWalk = gvaWalkL2;
    vm.counters.roleSkip += 2;
    vm.counters.rootHitCurrent += 1;
    this.tlb.loadRoot(guestMmu.descriptor);
    return true;
  }

  /** The same where another L2 ran last: its walker may be there still, and its root among the previous ones. */
  #enterAnother(cr0: number, cr4: number, efer: number): boolean {
    const { nested, guestMmu, vm } = this;
    const lo = nested.eptPointerLo;
    const hi = nested.eptPointerHi;
    const isRoleOther = this.#eptLo === -1 || ((lo ^ this.#eptLo) & 0xfff) !== 0;
    if (isRoleOther || nested.usesMbec !== this.#eptMbec) return false;
    const w = this.#findWalkOfL2(cr0 | 0, cr4 | 0, efer | 0, USE_NESTED);
    if (w === undefined) return false;
    const { current } = guestMmu.roots;
    const isCurrent = current.pgdLo === lo && current.pgdHi === hi && this.#isLoaded(guestMmu, this.ngpaWalk.rootRole);
    if (!isCurrent && !roots.hasPrevious(this, guestMmu, lo, hi)) return false;
    this.mmu = guestMmu;
    this.#useWalkOfL2(w);
    vm.counters.roleSkip += 2;
    this.#eptLo = lo;
    if (isCurrent) {
      vm.counters.rootHitCurrent += 1;
      this.tlb.loadRoot(guestMmu.descriptor);
    } else {
      this.newPgd(lo, hi);
      this.#take(REQUEST.LOAD_PGD);
      roots.loadIntoEngine(this);
    }
    return true;
  }

  /** Exit to an L1 that runs as before the entry: as above, of `nestedEptUninit`, `loadCr3` and `transitionTlbFlush`. */
  returnAsBefore(cr0: number, cr4: number, efer: number): boolean {
    const { nested, rootMmu, gvaWalkL1, vm } = this;
    if (!this.mayFindAll || this.requests !== 0 || !nested.usesVpid || this.gvaWalk === gvaWalkL1) return false;
    const { source } = gvaWalkL1;
    if (source.cr0 !== (cr0 | 0) || source.cr4 !== (cr4 | 0) || source.efer !== (efer | 0)) return false;
    if (source.use !== 0 || !this.#isLoaded(rootMmu, gvaWalkL1.rootRole)) return false;
    this.mmu = rootMmu;
    this.gvaWalk = gvaWalkL1;
    rootMmu.w = gvaWalkL1;
    vm.counters.roleSkip += 1;
    vm.counters.rootHitCurrent += 1;
    this.tlb.loadRoot(rootMmu.descriptor);
    return true;
  }

  /** The current root is good for that role, and the MMU's descriptor describes it. */
  #isLoaded({ roots: { current }, descriptor }: ShadowMmu, role: number): boolean {
    const { pages } = this.vm;
    const { page } = current;
    return (
      page !== 0 &&
      pages.special[page] === 0 &&
      pages.role[page] === role &&
      descriptor.table === page &&
      descriptor.id === pages.serial[page]
    );
  }

  /** Comparison mode `shared`: one cache, emptied at each switch, as kvm_mmu_unload did before the series. */
  #switchedShared(): void {
    if (this.vm.config.mode === 'shared') roots.freeRoots(this, this.mmu, roots.FREE_ALL);
  }

  /** 4.11. After the level has changed: requests refer to the context being entered. */
  transitionTlbFlush(isEntry: boolean): void {
    const { nested, vm } = this;
    if (vm.config.mode === 'shared') {
      this.requests |= REQUEST.FLUSH_ALL;
      return;
    }
    if (!nested.usesVpid) {
      this.requests |= REQUEST.FLUSH_GUEST;
      return;
    }
    // With one tag for all of L1's VPIDs, a change of VPID is a change of meaning. So it is without TDP: shadow pages are
    // linear mappings, and those of a CR3 serve all VPIDs.
    const isShared = vm.config.vpidTags === 'single' || !vm.config.tdp;
    if (isEntry && isShared && nested.vpid !== this.lastVpid) {
      this.lastVpid = nested.vpid;
      this.requests |= REQUEST.FLUSH_GUEST;
    }
    // Tags are unique: the root's id tells L1 from L2 under TDP, and the tag does without.
  }

  /** The tag that the engine's TLB knows the running level by. */
  currentTag(): number {
    const { nested, vm } = this;
    if (vm.config.mode === 'shared' || !nested.guestMode || !nested.usesVpid) return TAG_L1;
    return this.tagOfVpid(nested.vpid);
  }

  tagOfVpid(vpid: number): number {
    return this.vm.config.vpidTags === 'single' ? 1 : vpid;
  }

  /**
   * VMCLEAR of an active VMCS12, VMPTRLD away from the current one (4.17): the roots stay, for they are EPTP's and not the
   * VMCS's, unless the configuration wants upstream's rule. docs/mmu-notes.md 2.
   */
  releaseVmcs12(): void {
    if (!this.vm.config.keepRootsOnRelease) this.releaseGuestRoots();
  }

  /** VMXOFF, reset: L1 has no guests any more. */
  releaseGuestRoots(): void {
    roots.freeRoots(this, this.guestMmu, roots.FREE_ALL);
  }

  // ── roots and requests ──

  newPgd(lo: number, hi: number): void {
    roots.newPgd(this, lo, hi);
  }

  /** The heavy hammer: no root survives, in either MMU. */
  resetContext(): void {
    roots.freeRoots(this, this.rootMmu, roots.FREE_ALL);
    roots.freeRoots(this, this.guestMmu, roots.FREE_ALL);
    this.initMmu();
  }

  /** RESET and INIT: L1's context, nothing cached. Registers have their initial values already. */
  reset(): void {
    this.nestedEptUninit();
    this.releaseGuestRoots();
    this.resetContext();
    this.requests |= REQUEST.FLUSH_ALL;
  }

  invalidateRoles(): void {
    for (const w of [this.gvaWalkL1, ...this.walksOfL2, this.ngpaWalk]) {
      w.cpuRole.ext = 0;
      w.source.use = NO_USE;
      w.rootRole = (w.rootRole | ROLE.INVALID) >>> 0;
      w.format = null;
    }
    this.#eptLo = -1;
    roots.freeRoots(this, this.rootMmu, roots.FREE_ALL);
    roots.freeRoots(this, this.guestMmu, roots.FREE_ALL);
    if (this.mmuIsNested) this.#initShadowEpt();
    this.initMmu();
  }

  /** Right before the engine runs. False: no shadow pages are left (a configuration mistake). */
  reload(): boolean {
    this.serviceRequests();
    // Building a root may make room, and making room may kill roots of other vCPUs, never this one.
    if (this.mmu.roots.current.page === 0 && !roots.load(this)) return false;
    this.loadTag();
    this.vm.commit();
    return true;
  }

  /** Tells the engine the tag of the level that runs. */
  loadTag(): void {
    const tag = this.currentTag();
    if (tag === this.#loadedTag) return;
    this.#loadedTag = tag;
    this.tlb.setVpid(tag);
  }

  /** In the order of 4.14. */
  serviceRequests(): void {
    if (this.requests === 0) return;
    if (this.#take(REQUEST.FREE_OBSOLETE_ROOTS)) roots.freeObsoleteRoots(this);
    if (this.#take(REQUEST.MMU_SYNC)) this.#sync();
    if (this.#take(REQUEST.LOAD_PGD)) roots.loadIntoEngine(this);
    if (this.#take(REQUEST.FLUSH_ALL)) {
      this.requests &= ~REQUEST.FLUSH_CURRENT;
      this.vm.counters.tlbFlushAll += 1;
      this.tlb.flushAll();
    }
    if (this.#take(REQUEST.FLUSH_CURRENT)) this.flushCurrent();
    if (this.#take(REQUEST.FLUSH_GUEST)) this.flushGuest();
  }

  /** Before a switch of level: requests about the context being left are served in it, or they would hit the other. */
  serviceLocalRequests(): void {
    if ((this.requests & LOCAL_REQUESTS) === 0) return;
    if (this.#take(REQUEST.MMU_SYNC)) this.#sync();
    if (this.#take(REQUEST.FLUSH_CURRENT)) this.flushCurrent();
    if (this.#take(REQUEST.FLUSH_GUEST)) this.flushGuest();
  }

  #take(request: number): boolean {
    if ((this.requests & request) === 0) return false;
    this.requests &= ~request;
    return true;
  }

  #sync(): void {
    syncRoots(this);
    this.vm.commit();
  }

  flushCurrent(): void {
    const { page } = this.mmu.roots.current;
    this.vm.counters.tlbFlushCurrent += 1;
    if (!this.vm.config.tdp) this.tlb.flushVpid(this.currentTag(), false);
    else if (page !== 0) this.tlb.flushRoot(this.vm.pages.serial[page]!);
  }

  /** Linear and combined mappings of the running level's tag. Shadow tables are linear mappings too. */
  flushGuest(): void {
    if (!this.vm.config.tdp) {
      this.#sync();
      roots.freeRoots(this, this.rootMmu, unsyncPreviousRoots(this, this.rootMmu));
    }
    this.vm.counters.tlbFlushGuest += 1;
    this.tlb.flushVpid(this.currentTag(), false);
  }

  // ── faults ──

  handleEptViolation(fault: EngineViolation): FaultResult {
    return faults.handleEptViolation(this, fault);
  }

  handlePageFault(lo: number, hi: number, access: number): FaultResult {
    return faults.handlePageFault(this, lo, hi, access);
  }

  /**
   * Translates a linear address of the running level for emulation; sets A and D as an access does.
   *
   * @param access  PFEC.W, U, F, IMPLICIT.
   * @returns       Whether `gvaWalk.record` holds a translation. If not, it holds the fault: `injectEmulatedFault`.
   */
  translate(lo: number, hi: number, access: number): boolean {
    return fetchTranslation(this, lo, hi, access);
  }

  /** The fault that `translate` left in the record, to whoever must hear of it. */
  injectEmulatedFault(): void {
    faults.injectFault(this, this.gvaWalk.record, 0, false);
  }

  /** One retry per instruction and address: a second fault at the same place must be solved otherwise. */
  mayRetry(address: number): boolean {
    const { ripLo, ripHi } = this.regs;
    if (this.#retryRipLo === ripLo && this.#retryRipHi === ripHi && this.#retryAddress === address) return false;
    this.#retryRipLo = ripLo;
    this.#retryRipHi = ripHi;
    this.#retryAddress = address;
    return true;
  }

  /** Bytes at an L1-physical address were stored, by the engine to a TRACKED page or by L0 itself. */
  trackWrite(gpa: number, bytes: number): void {
    guestStored(this.vm, gpa, bytes);
  }

  /** The same by offset in linear memory: what an engine knows that stored through L2's address. */
  trackWriteHost(hostOffset: number, bytes: number): void {
    hostStored(this.vm, hostOffset, bytes);
  }

  syncPage(page: number): boolean {
    return syncPage(this, page);
  }

  // ── registers and instructions ──

  loadCr3(lo: number, hi: number, nestedEpt: boolean, reloadPdptrs: boolean): pagingRegisters.Cr3Result {
    return pagingRegisters.loadCr3(this, lo, hi, nestedEpt, reloadPdptrs);
  }

  writeCr3(lo: number, hi: number): boolean {
    return pagingRegisters.writeCr3(this, lo, hi);
  }

  readPdptrs(cr3Lo: number): pagingRegisters.PdptrResult {
    return pagingRegisters.readPdptrs(this, cr3Lo);
  }

  loadPdptrs(cr3Lo: number): pagingRegisters.PdptrResult {
    return pagingRegisters.loadPdptrs(this, cr3Lo);
  }

  cr0Written(old: number): void {
    pagingRegisters.cr0Written(this, old);
  }

  cr4Written(old: number): void {
    pagingRegisters.cr4Written(this, old);
  }

  eferWritten(old: number): void {
    pagingRegisters.eferWritten(this, old);
  }

  invlpg(lo: number, hi: number): void {
    invalidate.invlpg(this, lo, hi);
  }

  invpcid(type: number, pcidLo: number, pcidHi: number, lo: number, hi: number): invalidate.InvpcidResult {
    return invalidate.invpcid(this, type, pcidLo, pcidHi, lo, hi);
  }

  invept(type: number, eptpLo: number, eptpHi: number): invalidate.InvResult {
    return invalidate.invept(this, type, eptpLo, eptpHi);
  }

  invvpid(type: number, vpid: number, vpidRest: boolean, lo: number, hi: number): invalidate.InvResult {
    return invalidate.invvpid(this, type, vpid, vpidRest, lo, hi);
  }

  vmfunc(eax: number, ecx: number): invalidate.VmfuncResult {
    return invalidate.vmfunc(this, eax, ecx);
  }

  /** VMFUNC changed VMCS12.EPT_POINTER: role (A/D bit, walk length) and root follow. */
  switchEptPointer(): void {
    this.#initShadowEpt();
  }
}
