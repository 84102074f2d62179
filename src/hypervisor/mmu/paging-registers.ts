/**
 * Writes of CR0, CR3, CR4 and EFER, and what they cost: which walker is compared, which roots go, which flush is due.
 *
 * Owns    the decisions of nested-mmu.md 4.7, 4.8 and 4.20. Freeing roots and choosing formats are separate matters: under
 *         TDP no write frees a root.
 * Knows   that the vCPU has stored the new value before `…Written` is called, and that it raises the exceptions.
 */

import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { high32, low32 } from '../../base/bits.ts';
import { PFEC } from './access.ts';
import { REQUEST } from './requests.ts';
import { pdpteReserved } from './reserved-bits.ts';
import { isDirect } from './role.ts';
import { FREE_ALL, FREE_CURRENT, freeRoots } from './roots.ts';
import type { VcpuMmu } from './vcpu-mmu.ts';
import { walk } from './walker.ts';

export type PdptrResult = 'ok' | 'reserved' | 'unreadable' | 'nested fault';
export type Cr3Result = 'ok' | 'illegal' | 'pdptes';

export function isPaePaging(cr0: number, cr4: number, efer: number): boolean {
  return (cr0 & CR0.PG) !== 0 && (cr4 & CR4.PAE) !== 0 && (efer & EFER.LMA) === 0;
}

/** 63:MAXPHYADDR of CR3; bit 63 of a MOV source is dealt with before. */
const cr3Legal = (v: VcpuMmu, hi: number): boolean => hi >>> (v.vm.formats.capabilities.physicalAddressBits - 32) === 0;

/** MOV to CR3 that L0 sees, by the running level. False: #GP(0), nothing has changed. */
export function writeCr3(v: VcpuMmu, lo: number, hi: number): boolean {
  const { regs } = v;
  const pcide = (regs.cr4 & CR4.PCIDE) !== 0;
  const noFlush = pcide && hi >>> 31 !== 0;
  const high = (pcide ? hi & 0x7fff_ffff : hi) >>> 0;
  const low = lo >>> 0;
  const pcid = pcide ? low & 0xfff : 0;
  const pae = isPaePaging(regs.cr0, regs.cr4, regs.efer);
  const changed = low !== regs.cr3Lo >>> 0 || high !== regs.cr3Hi >>> 0;
  if (changed || pae) {
    if (!cr3Legal(v, high)) return false;
    if (pae && v.loadPdptrs(low) !== 'ok') return false;
    regs.setCr3(low, high);
    // Only an MMU that shadows CR3's tables has CR3 as its pgd: under EPT12 this is L2's affair (6.3 row 38).
    if (changed && v.mmu === v.rootMmu && !isDirect(v.rootMmu.rootRole)) v.newPgd(low, high);
  }
  if (!noFlush) invalidatePcid(v, pcid);
  return true;
}

/** Every non-global translation of a PCID of the running level. */
export function invalidatePcid(v: VcpuMmu, pcid: number): void {
  if (v.vm.config.tdp) {
    v.requests |= REQUEST.FLUSH_GUEST;
    return;
  }
  const pcide = (v.regs.cr4 & CR4.PCIDE) !== 0;
  const current = pcide ? v.regs.cr3Lo & 0xfff : 0;
  if (current === pcid) v.requests |= REQUEST.MMU_SYNC | REQUEST.FLUSH_CURRENT;
  else v.tlb.flushVpidPcid(v.currentTag(), pcid);
  if (!pcide) return;
  let mask = 0;
  v.rootMmu.roots.previous.forEach((record, i) => {
    if (record.page !== 0 && (record.pgdLo & 0xfff) === pcid) mask |= 2 << i;
  });
  freeRoots(v, v.rootMmu, mask);
}

/**
 * CR3 on a nested transition or a restore (4.10 step d, 4.13 step 7). CR0, CR4 and EFER are the new level's already, and
 * so are the pointers.
 */
export function loadCr3(v: VcpuMmu, lo: number, hi: number, nestedEpt: boolean, reloadPdptrs: boolean): Cr3Result {
  const { regs } = v;
  if (!cr3Legal(v, hi)) return 'illegal';
  const pae = isPaePaging(regs.cr0, regs.cr4, regs.efer);
  if (pae && !nestedEpt && reloadPdptrs && v.loadPdptrs(lo) !== 'ok') return 'pdptes';
  regs.setCr3(lo >>> 0, hi >>> 0);
  v.initMmu();
  if (!nestedEpt) v.newPgd(lo, hi);
  return 'ok';
}

const scratch = new Uint32Array(8);

/** Into `scratch`, and are they legal? The read is a read, also under EPT A/D (9.1 item 5). */
export function readPdptrs(v: VcpuMmu, cr3Lo: number): PdptrResult {
  const { vm } = v;
  let address = (cr3Lo & ~0x1f) >>> 0;
  if (v.mmuIsNested) {
    if (!walk(v, v.ngpaWalk, low32(address), high32(address), PFEC.GUEST_PAGE, v.ngpaWalk.record))
      return 'nested fault';
    address = v.ngpaWalk.record.gpa;
  }
  const bits = vm.formats.capabilities.physicalAddressBits;
  for (let i = 0; i < 4; i += 1) {
    if (!vm.readEntry(address + 8 * i, 8)) return 'unreadable';
    if (pdpteReserved(vm.entryLo, vm.entryHi, bits)) return 'reserved';
    scratch[2 * i] = vm.entryLo;
    scratch[2 * i + 1] = vm.entryHi;
  }
  return 'ok';
}

/** SDM 3A 4.4.1 "PDPTE Registers": all four are loaded, or none. */
export function loadPdptrs(v: VcpuMmu, cr3Lo: number): PdptrResult {
  const { vm, regs } = v;
  const result = readPdptrs(v, cr3Lo);
  if (result !== 'ok') return result;
  let changed = false;
  for (let i = 0; i < 4; i += 1) {
    changed ||= scratch[2 * i] !== regs.pdptrLo(i) >>> 0 || scratch[2 * i + 1] !== regs.pdptrHi(i) >>> 0;
  }
  if (!vm.config.tdp && changed) freeRoots(v, v.mmu, FREE_CURRENT);
  for (let i = 0; i < 4; i += 1) regs.setPdptr(i, scratch[2 * i]!, scratch[2 * i + 1]!);
  v.requests |= REQUEST.LOAD_PGD;
  return 'ok';
}

/** Does this change of CR0 or CR4 load the PDPTE registers? SDM 3A 4.4.1. The vCPU asks before it commits the change. */
export function loadsPdptrs(oldCr0: number, cr0: number, oldCr4: number, cr4: number, efer: number): boolean {
  if ((cr0 & CR0.PG) === 0 || (cr4 & CR4.PAE) === 0 || (efer & EFER.LME) !== 0) return false;
  const in0 = CR0.PG | CR0.CD | CR0.NW;
  const in4 = CR4.PGE | CR4.PSE | CR4.PAE | CR4.SMEP;
  return ((oldCr0 ^ cr0) & in0) !== 0 || ((oldCr4 ^ cr4) & in4) !== 0;
}

/** The walker compares; an indirect root_mmu whose role changed loses its roots, for they would be found unsynced. */
function rolesChanged(v: VcpuMmu): void {
  const before = v.rootMmu.rootRole;
  v.initMmu();
  if (v.mmu !== v.rootMmu || v.vm.config.tdp || v.rootMmu.rootRole === before) return;
  freeRoots(v, v.rootMmu, FREE_ALL);
  v.requests |= REQUEST.FLUSH_CURRENT;
}

/** `v.regs.cr0` has the new value. */
export function cr0Written(v: VcpuMmu, old: number): void {
  const changed = old ^ v.regs.cr0;
  if ((changed & (CR0.PG | CR0.WP)) === 0) return;
  if ((changed & CR0.PG) === 0 && (v.regs.cr0 & CR0.PG) === 0) return; // WP while paging is off
  if ((old & CR0.PG) !== 0 && (v.regs.cr0 & CR0.PG) === 0) v.requests |= REQUEST.FLUSH_GUEST;
  rolesChanged(v);
}

/** `v.regs.cr4` has the new value. */
export function cr4Written(v: VcpuMmu, old: number): void {
  const now = v.regs.cr4;
  const changed = old ^ now;
  if ((changed & (CR4.PSE | CR4.PAE | CR4.LA57 | CR4.SMEP | CR4.SMAP | CR4.PKE)) !== 0) rolesChanged(v);
  if ((changed & CR4.PGE) !== 0 || (old & ~now & CR4.PCIDE) !== 0) v.requests |= REQUEST.FLUSH_GUEST;
  // Stale previous roots could be taken by a CR3 load that does not flush (6.3 row 34).
  if ((now & ~old & CR4.PCIDE) !== 0 && !v.vm.config.tdp && v.mmu === v.rootMmu) freeRoots(v, v.rootMmu, FREE_ALL);
  // Architectural: the current PCID's translations. With TDP they carry the running level's tag.
  if ((changed & CR4.PAE) !== 0 || (now & ~old & CR4.SMEP) !== 0) {
    v.requests |= v.vm.config.tdp ? REQUEST.FLUSH_GUEST : REQUEST.MMU_SYNC | REQUEST.FLUSH_CURRENT;
  }
}

/** `v.regs.efer` has the new value. */
export function eferWritten(v: VcpuMmu, old: number): void {
  if (((old ^ v.regs.efer) & (EFER.NXE | EFER.LMA)) !== 0) rolesChanged(v);
}
