/**
 * INVLPG, INVPCID, INVEPT, INVVPID and VMFUNC leaf 0: the MMU's part. Privilege, operand reads and VMfail are the
 * caller's.
 *
 * Source  nested-mmu.md 4.9, 4.15, 4.16; SDM 3C 30.3 "VMX Instructions", 25.5.6 "VM Functions".
 */
import { isCanonical } from '../../arch/msrs.ts';
import { CR4 } from '../../arch/registers.ts';
import { checkEptp, EPT_CAP, VPID_CAP } from './ept.ts';
import { invalidatePcid } from './paging-registers.ts';
import { REQUEST } from './requests.ts';
import { isDirect, KIND, roleKind } from './role.ts';
import { FREE_ALL, FREE_CURRENT, freeGuestModeRoots, freeRoots } from './roots.ts';
import type { RootRecord } from './shadow-mmu.ts';
import { invalidateAddress } from './sync.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';

/** VMfail: "Invalid operand to INVEPT/INVVPID", error 28. */
export type InvResult = 'ok' | 'fail 28';
export type InvpcidResult = 'ok' | '#GP';
/** 'exit': reflect VM exit 59 (VMFUNC) to L1 with the original information. */
export type VmfuncResult = 'ok' | 'exit' | '#UD';

/**
 * An operand that is kept, not used at once, is canonical by the width that the processor has, whatever CR4.LA57 says:
 * Intel 335252 "5-Level Paging and 5-Level EPT", "Canonicality Checking".
 */
const mayBeAddress = (v: VcpuMmu, hi: number): boolean => isCanonical(hi, v.vm.formats.capabilities.linearAddressBits);

export function invlpg(v: VcpuMmu, lo: number, hi: number): void {
  if (!mayBeAddress(v, hi)) return;
  flushAddress(v, lo, hi);
  if (!shadowsCr3(v)) return;
  invalidateAddress(v, v.rootMmu, v.rootMmu.roots.current, lo, hi);
  for (const record of v.rootMmu.roots.previous) invalidateAddress(v, v.rootMmu, record, lo, hi);
  v.vm.commit();
}

/** Shadow tables of linear addresses are in force, so that forgetting an address concerns them. */
const shadowsCr3 = (v: VcpuMmu): boolean => v.mmu === v.rootMmu && !v.vm.config.tdp && !isDirect(v.rootMmu.rootRole);

function flushAddress(v: VcpuMmu, lo: number, hi: number): void {
  v.vm.counters.tlbFlushGva += 1;
  v.tlb.flushVpidAddress(v.currentTag(), lo >>> 0, hi >>> 0);
}

/** @param pcidLo, pcidHi  Low quadword of the descriptor. */
export function invpcid(
  v: VcpuMmu,
  type: number,
  pcidLo: number,
  pcidHi: number,
  lo: number,
  hi: number,
): InvpcidResult {
  if (type > 3 || pcidLo >>> 12 !== 0 || pcidHi !== 0) return '#GP';
  const pcide = (v.regs.cr4 & CR4.PCIDE) !== 0;
  const pcid = pcidLo;
  if (type <= 1 && !pcide && pcid !== 0) return '#GP';
  if (type === 0) {
    if (!mayBeAddress(v, hi)) return '#GP';
    flushAddress(v, lo, hi);
    if (!shadowsCr3(v)) return 'ok';
    const current = pcide ? v.regs.cr3Lo & 0xfff : 0;
    if (current === pcid) invalidateAddress(v, v.rootMmu, v.rootMmu.roots.current, lo, hi);
    for (const record of v.rootMmu.roots.previous) {
      if (!pcide || (record.pgdLo & 0xfff) === pcid) invalidateAddress(v, v.rootMmu, record, lo, hi);
    }
    v.vm.commit();
  } else if (type === 1) invalidatePcid(v, pcid);
  else v.requests |= REQUEST.FLUSH_GUEST;
  return 'ok';
}

/** L1 executes INVEPT; it acts on guest_mmu, although L1's own MMU is the current one (6.3 row 16). */
export function invept(v: VcpuMmu, type: number, lo: number, hi: number): InvResult {
  const { ept, physicalAddressBits } = v.vm.formats.capabilities;
  const roots = v.guestMmu.roots;
  if (type === 1 && (ept & EPT_CAP.INVEPT_SINGLE) !== 0) {
    if (!checkEptp(lo, hi, ept, physicalAddressBits)) return 'fail 28';
    let mask = sameEp4ta(v, roots.current, lo, hi) ? FREE_CURRENT : 0;
    for (let i = 0; i < roots.previous.length; i += 1) {
      if (sameEp4ta(v, roots.previous[i]!, lo, hi)) mask |= 2 << i;
    }
    freeRoots(v, v.guestMmu, mask);
    return 'ok';
  }
  if (type === 2 && (ept & EPT_CAP.INVEPT_ALL) !== 0) {
    freeRoots(v, v.guestMmu, FREE_ALL);
    return 'ok';
  }
  return 'fail 28';
}

/** Any A/D and memory-type bits: the tag of guest-physical mappings is EPTP bits 51:12. */
function sameEp4ta(v: VcpuMmu, record: RootRecord, lo: number, hi: number): boolean {
  if (record.page === 0) return false;
  const { pages, dummyRoot } = v.vm;
  // The dummy root has no role; in comparison mode `shared` EPT01's root is in the same cache.
  if (record.page !== dummyRoot && roleKind(pages.role[record.page]!) !== KIND.EPT) return false;
  return record.pgdHi === hi >>> 0 && (record.pgdLo ^ lo) >>> 12 === 0;
}

/**
 * L1 executes INVVPID.
 *
 * @param vpid      Bits 15:0 of the descriptor.
 * @param vpidRest  Whether any of its bits 63:16 is set.
 */
export function invvpid(v: VcpuMmu, type: number, vpid: number, vpidRest: boolean, lo: number, hi: number): InvResult {
  const caps = v.vm.formats.capabilities.vpid;
  const offered = [VPID_CAP.INDIVIDUAL, VPID_CAP.SINGLE, VPID_CAP.ALL, VPID_CAP.SINGLE_RETAINING_GLOBALS][type];
  if (offered === undefined || (caps & offered) === 0 || vpidRest) return 'fail 28';
  if (type !== 2 && vpid === 0) return 'fail 28';
  if (type === 0 && !mayBeAddress(v, hi)) return 'fail 28';
  const tag = v.tagOfVpid(vpid);
  if (v.vm.config.mode === 'shared' || type === 2) {
    v.vm.counters.tlbFlushAll += 1;
    v.tlb.flushAll();
  } else if (type === 0) {
    v.vm.counters.tlbFlushGva += 1;
    v.tlb.flushVpidAddress(tag, lo >>> 0, hi >>> 0);
  } else {
    v.vm.counters.tlbFlushGuest += 1;
    v.tlb.flushVpid(tag, type === 3);
  }
  // Without TDP, shadow pages of L2 are linear mappings (6.3 row 17). EPT02 is not touched, ever.
  if (!v.vm.config.tdp) freeGuestModeRoots(v, v.rootMmu);
  return 'ok';
}

/** EPTP switching by L2. */
export function vmfunc(v: VcpuMmu, eax: number, ecx: number): VmfuncResult {
  const { nested, vm } = v;
  if (eax >>> 0 > 63) return '#UD';
  if (eax !== 0 || !nested.eptpSwitching || ecx >>> 0 >= 512) return 'exit';
  if (!vm.readEntry(nested.eptpListAddress + 8 * ecx, 8)) return 'exit';
  const lo = vm.entryLo;
  const hi = vm.entryHi;
  const { ept, physicalAddressBits } = vm.formats.capabilities;
  if (!checkEptp(lo, hi, ept, physicalAddressBits)) return 'exit';
  if (lo === nested.eptPointerLo >>> 0 && hi === nested.eptPointerHi >>> 0) return 'ok';
  nested.setEptPointer(lo, hi);
  v.switchEptPointer();
  if (!nested.usesVpid) v.requests |= REQUEST.FLUSH_GUEST;
  return 'ok';
}
