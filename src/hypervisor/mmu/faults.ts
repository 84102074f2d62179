/**
 * What to do about a fault that the engine reports, or that emulation finds: fix the shadow, name a device, or tell L1.
 *
 * Owns    the order "L0 first, then L1" and the exit qualifications that L1 sees.
 * Knows   the engine only by its report; state is as before the instruction.
 *
 * Source  nested-mmu.md 4.12 "EPT violation / misconfiguration from the engine", 4.19 "#PF in L1/L2";
 *         SDM 3C 27.2.1 "Basic VM-Exit Information", 28.2.3 "EPT-Induced VM Exits".
 */
import { high32, join64, low32 } from '../../base/bits.ts';
import { SPTE } from '../../contracts/second-stage.ts';
import { framesAt } from '../vm/memory-slots.ts';
import { ACC, EPT_QUALIFICATION, PFEC, PFEC_ARCHITECTURAL } from './access.ts';
import { EPT_CAP } from './ept.ts';
import { fastWrite, fetch, findSpte, mapDirect, type SptePlace, slotOf } from './fetch.ts';
import type { WalkRecord } from './page-walk.ts';
import { type EngineViolation, EXIT_REASON, type FaultResult } from './ports.ts';
import { EXT, KIND, ROLE, roleKind, roleLevel } from './role.ts';
import { dropSpte, isMmio, MMIO_GENERATIONS, mmioGeneration, mmioRights } from './spte.ts';
import { invalidateAddress } from './sync.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { walk } from './walker.ts';
import { makeRoom, unprotectGfn } from './zap.ts';

const place: SptePlace = { page: 0, index: 0, level: 0, lo: 0, hi: 0 };

/** An EPT violation, or an access to an MMIO marker. */
export function handleEptViolation(v: VcpuMmu, f: EngineViolation): FaultResult {
  const q = EPT_QUALIFICATION;
  let access = 0;
  if ((f.qualification & q.WRITE) !== 0) access |= PFEC.W;
  if ((f.qualification & q.FETCH) !== 0) access |= PFEC.F;
  const tableAccess = (f.qualification & (q.LINEAR_VALID | q.FINAL)) === q.LINEAR_VALID;
  access |= tableAccess ? PFEC.GUEST_PAGE : PFEC.GUEST_FINAL;
  const lo = low32(f.gpa);
  const hi = high32(f.gpa);
  let result = knownAnswer(v, lo, hi, access, f);
  if (result === null && v.mmu === v.guestMmu) {
    if (v.guestMmu.w.format!.mbec && !tableAccess && (f.qualification & q.LINEAR_USER) !== 0) access |= PFEC.U;
    result = shadowFault(v, lo, hi, access, f);
  } else result ??= directFault(v, Math.floor(f.gpa / 4096), f.gpa, access, f);
  if (result === 'mmio' && tableAccess) result = tableWithoutRam(v, f);
  return done(v, result);
}

/**
 * The guest's tables lead to where there is no RAM: no entry is present there (as KVM has it), so the running level gets a
 * #PF. DEVIATION from hardware, which would read ones from the bus, and fault with RSVD.
 */
function tableWithoutRam(v: VcpuMmu, f: EngineViolation): FaultResult {
  // A table in a read-only slot whose A or D the engine wants to set: it is there, and the instruction must be emulated.
  if (v.translate(f.linearLo, f.linearHi, f.access)) return 'mmio';
  injectFault(v, v.gvaWalk.record, 0, false);
  return 'reflected';
}

/** A fault of a linear address under L0's shadow paging. `kind`: PFEC.W, U, F and IMPLICIT. */
export function handlePageFault(v: VcpuMmu, lo: number, hi: number, kind: number): FaultResult {
  const access = (kind & (PFEC.W | PFEC.U | PFEC.F | PFEC.IMPLICIT)) | PFEC.GUEST_FINAL;
  const f = v.violation;
  f.gpa = 0;
  f.linearLo = lo >>> 0;
  f.linearHi = hi >>> 0;
  f.qualification = 0;
  f.mmio = false; // whether it was a marker, the tables themselves tell
  const known = knownAnswer(v, lo, hi, access, f);
  if (known !== null) return done(v, known);
  if (roleLevel(v.mmu.w.cpuRole.base) === 0) return done(v, directFault(v, lo >>> 12, lo >>> 0, access, f));
  return done(v, shadowFault(v, lo >>> 0, hi >>> 0, access, f));
}

/** Nothing that lost rights, and no dead page, outlives the fault. */
function done(v: VcpuMmu, result: FaultResult): FaultResult {
  v.vm.commit();
  return result;
}

/** Answers that the SPTE itself gives: a current MMIO marker, a tracked page, W that L0 may simply grant. */
function knownAnswer(v: VcpuMmu, lo: number, hi: number, access: number, f: EngineViolation): FaultResult | null {
  const { vm } = v;
  findSpte(v, lo, hi, place);
  const write = (access & PFEC.W) !== 0;
  if (isMmio(place.lo)) {
    const current = mmioGeneration(place.lo) === vm.slots.generation % MMIO_GENERATIONS;
    if (current && mmioAllows(v, mmioRights(place.lo), access)) {
      return mmio(v, place.hi * 4096 + (lo & 0xfff), access, f);
    }
    dropSpte(vm, place.page, place.index);
    return null;
  }
  if (!write || (place.lo & SPTE.LEAF) === 0) return null;
  if ((place.lo & SPTE.TRACKED) !== 0) {
    if (!v.mayRetry(lo)) return 'tracked';
    // The guest's page walker sets A or D in a shadowed table: it is cheaper to stop shadowing. Otherwise the engine knew
    // an entry from before the page was tracked, and does not know it any more.
    if ((access & PFEC.GUEST_PAGE) !== 0) {
      const inside = Math.floor(join64(lo, hi & 0xf_ffff) / 4096) % framesAt(place.level);
      for (const gfn of vm.gfnsOfHostPage(place.hi + inside)) unprotectGfn(vm, gfn);
    }
    return 'retry';
  }
  if ((place.lo & SPTE.R) === 0 || (access & PFEC.F) !== 0) return null;
  return fastWrite(v, place) ? 'retry' : null;
}

/** Would the rights that the marker carries let this access through? IA-32 rules are left to a full walk. */
function mmioAllows(v: VcpuMmu, rights: number, access: number): boolean {
  if (roleKind(v.mmu.rootRole) === KIND.IA32 && roleLevel(v.mmu.w.cpuRole.base) !== 0) return false;
  if ((access & PFEC.F) !== 0) return (rights & ACC.EXEC) !== 0;
  return (rights & ((access & PFEC.W) !== 0 ? ACC.WRITE : ACC.READ)) !== 0;
}

function mmio(v: VcpuMmu, gpa: number, access: number, f: EngineViolation): FaultResult {
  v.vm.counters.mmio += 1;
  v.mmio.gpa = gpa;
  v.mmio.write = (access & PFEC.W) !== 0;
  v.mmio.table = (access & PFEC.GUEST_PAGE) !== 0;
  v.mmio.linearLo = f.linearLo;
  v.mmio.linearHi = f.linearHi;
  return 'mmio';
}

/** EPT01, or paging off without TDP: the address is L1-physical. */
function directFault(v: VcpuMmu, gfn: number, gpa: number, access: number, f: EngineViolation): FaultResult {
  const { vm } = v;
  vm.counters.faultDirect += 1;
  if (!makeRoom(vm)) return 'no-pages';
  const slot = slotOf(v, gfn);
  const result = mapDirect(v, gfn, slot, (access & PFEC.W) !== 0);
  return result === 'mmio' ? mmio(v, gpa, access, f) : result;
}

/** EPT02, or a shadow of CR3's tables: the guest's tables decide first. */
function shadowFault(v: VcpuMmu, lo: number, hi: number, access: number, f: EngineViolation): FaultResult {
  const { vm, mmu } = v;
  vm.counters.faultShadow += 1;
  const r = mmu.w.record;
  if (!walk(v, mmu.w, lo, hi, access, r)) {
    if (mmu === v.guestMmu) {
      r.linearLo = f.linearLo;
      r.linearHi = f.linearHi;
    }
    injectFault(v, r, f.qualification, true);
    return 'reflected';
  }
  if (!makeRoom(vm)) return 'no-pages';
  const slot = slotOf(v, r.gfn);
  const write = (access & PFEC.W) !== 0;
  const rights = writeThroughReadOnly(v, r.rights, access, slot !== null);
  const result = fetch(v, lo, hi, r, rights, slot, write);
  return result === 'mmio' ? mmio(v, r.gpa, access, f) : result;
}

/**
 * CR0.WP = 0: a supervisor may write through a read-only entry. The engine runs shadow tables with WP taken as 1, so
 * the entry becomes writable and supervisor-only until someone else needs it (5.4).
 */
function writeThroughReadOnly(v: VcpuMmu, rights: number, access: number, hasSlot: boolean): number {
  const { base, ext } = v.mmu.w.cpuRole;
  if (roleKind(base) !== KIND.IA32 || (base & ROLE.CR0_WP) !== 0 || !hasSlot) return rights;
  if ((access & (PFEC.W | PFEC.U)) !== PFEC.W || (rights & ACC.WRITE) !== 0) return rights;
  let given = (rights | ACC.WRITE) & ~ACC.USER;
  if ((ext & EXT.CR4_SMEP) !== 0) given &= ~ACC.EXEC;
  return given;
}

/**
 * A walk was refused: #PF to the running level, or an EPT exit to L1.
 *
 * @param hardware  The engine's exit qualification; only meaningful if `fromHardware`.
 * @param fromHardware  The engine found the fault. If emulation did, the engine's last qualification is stale, and bits
 *                      7 to 11 come from the walk (6.3 row 30).
 */
export function injectFault(v: VcpuMmu, r: WalkRecord, hardware: number, fromHardware: boolean): void {
  v.vm.counters.reflected += 1;
  if (r.nestedFault) {
    injectEpt(v, r, hardware, fromHardware);
    return;
  }
  if ((r.errorCode & (PFEC.P | PFEC.RSVD)) === PFEC.P) {
    // Hardware forgets the address too; without this the guest's handler might retry forever (6.3 row 22).
    v.vm.counters.tlbFlushGva += 1;
    v.tlb.flushVpidAddress(v.currentTag(), r.addressLo, r.addressHi);
    if (v.mmu === v.rootMmu && roleKind(v.mmu.rootRole) === KIND.IA32) {
      invalidateAddress(v, v.mmu, v.mmu.roots.current, r.addressLo, r.addressHi);
      v.vm.commit();
    }
  }
  v.nested.injectPageFault(r.errorCode & PFEC_ARCHITECTURAL, r.addressLo, r.addressHi);
}

function injectEpt(v: VcpuMmu, r: WalkRecord, hardware: number, fromHardware: boolean): void {
  const q = EPT_QUALIFICATION;
  const address = r.addressHi * 0x1_0000_0000 + r.addressLo;
  const keep = fromHardware ? hardware & q.NMI_UNBLOCKING : 0;
  if (r.pmlFull) {
    r.pmlFull = false;
    v.nested.exitForEpt(EXIT_REASON.PML_FULL, keep, address, r.linearLo, r.linearHi);
    return;
  }
  invalidateInSameEp4ta(v, r.addressLo, r.addressHi);
  if ((r.errorCode & PFEC.RSVD) !== 0) {
    v.nested.exitForEpt(EXIT_REASON.EPT_MISCONFIGURATION, 0, address, r.linearLo, r.linearHi);
    return;
  }
  const advanced = (v.vm.formats.capabilities.ept & EPT_CAP.ADVANCED_EXIT_INFORMATION) !== 0;
  const linearRights = q.LINEAR_USER | q.LINEAR_WRITABLE | q.LINEAR_EXECUTE_DISABLE;
  let qualification = r.qualification | keep;
  if (fromHardware) {
    qualification |= hardware & (q.LINEAR_VALID | q.FINAL);
    if (advanced && (hardware & q.FINAL) !== 0) qualification |= hardware & linearRights;
  } else {
    qualification |= q.LINEAR_VALID;
    if ((r.accessKind & PFEC.GUEST_FINAL) !== 0) {
      qualification |= q.FINAL;
      if (advanced) {
        if ((r.rawRights & ACC.USER) !== 0) qualification |= q.LINEAR_USER;
        if ((r.rawRights & ACC.WRITE) !== 0) qualification |= q.LINEAR_WRITABLE;
        if ((r.rawRights & ACC.EXEC) === 0) qualification |= q.LINEAR_EXECUTE_DISABLE;
      }
    }
  }
  v.nested.exitForEpt(EXIT_REASON.EPT_VIOLATION, qualification, address, r.linearLo, r.linearHi);
}

/** An EPT violation invalidates mappings of its address made with that EP4TA: SDM 3C 28.3.3.1. */
function invalidateInSameEp4ta(v: VcpuMmu, lo: number, hi: number): void {
  const { current, previous } = v.guestMmu.roots;
  invalidateAddress(v, v.guestMmu, current, lo, hi);
  for (const record of previous) {
    if (record.page === 0 || v.vm.pages.special[record.page] !== 0) continue;
    if (roleKind(v.vm.pages.role[record.page]!) !== KIND.EPT) continue; // comparison mode `shared`
    if (record.pgdHi !== current.pgdHi || (record.pgdLo ^ current.pgdLo) >>> 12 !== 0) continue;
    invalidateAddress(v, v.guestMmu, record, lo, hi);
  }
  v.vm.commit();
}
