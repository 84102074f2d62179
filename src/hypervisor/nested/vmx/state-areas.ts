/**
 * The guest-state and host-state areas of vmcs12, to and from the engine's registers.
 *
 * Owns    which bits of CR0, RFLAGS and the segment registers a switch leaves alone.
 * Knows   nothing of the MMU: CR3 is loaded by `VcpuMmu.loadCr3`, in the order of nested-mmu.md 4.10 and 4.13.
 *
 * Source  SDM 3C 26.3.2 "Loading Guest State", 27.3 "Saving Guest State", 27.5 "Loading Host State".
 */
import { CR0, CR4, EFER, RFLAGS } from '../../../arch/registers.ts';
import { ACTIVITY, ENTRY, EXIT, INTERRUPTIBILITY, SECONDARY } from '../../../arch/vmx/controls.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { gpr, S } from '../../../engine/core/layout.ts';
import { PENDING } from '../../../engine/core/pending-debug.ts';
import type { Processor } from '../../../engine/core/processor.ts';
import type { Vcpu } from '../../vcpu/vcpu.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { fillHostImage, saveSwitched } from './switched-state.ts';
import { DIRTY, type Vmcs12 } from './vmcs12.ts';

const RSP = gpr(4);
const DR7 = S.DR + 56;
/** Bits of CR0 that neither VM entry nor VM exit changes, of those that this processor has: 26.3.2.1, 27.5.1. */
export const CR0_KEPT = (CR0.ET | CR0.CD | CR0.NW) >>> 0;

/** Loads an image of switched-state.ts, all but the bits of CR0 that stay: nested transitions have checked it. */
function loadSwitched(n: NestedVmx, image: number): void {
  const { cpu } = n;
  const kept = cpu.cr0 & CR0_KEPT;
  n.images.load(image);
  cpu.set(S.CR0, ((cpu.cr0 & ~CR0_KEPT) | kept) >>> 0);
}

/**
 * What decides how a TLB entry is to be read besides the tables: the engine stores rights as they were when it filled
 * an entry in. If this word differs from when the tag was last in force, its linear mappings go.
 */
export function rightsKey(cpu: Processor): number {
  const { cr0, cr4, efer } = cpu;
  return (
    (((cr0 >>> 16) & 1) |
      ((cr0 >>> 31) << 1) |
      ((efer & EFER.NXE) !== 0 ? 4 : 0) |
      ((efer & EFER.LMA) !== 0 ? 8 : 0) |
      ((cr4 & 0x7f_ffff) << 4)) >>>
    0
  );
}

// ---- guest -----------------------------------------------------------------------------------------------------------

/**
 * SDM 3C 26.3.2.1 "Loading Guest Control Registers, Debug Registers, and MSRs", as far as the MMU waits for it, and what
 * comes with it in one block: SYSENTER's MSRs, 26.3.2.2.
 */
export function loadGuestControlRegisters(n: NestedVmx): void {
  const { cpu, v } = n;
  const entry = v.lo(FIELD.ENTRY_CONTROLS);
  loadSwitched(n, v.guestImage);
  let { efer } = cpu;
  if ((entry & ENTRY.LOAD_EFER) !== 0) efer = v.lo(FIELD.GUEST_IA32_EFER);
  else {
    const isLong = (entry & ENTRY.IA32E_MODE_GUEST) !== 0;
    efer = isLong ? efer | EFER.LMA : efer & ~EFER.LMA;
    if ((cpu.cr0 & CR0.PG) !== 0) efer = isLong ? efer | EFER.LME : efer & ~EFER.LME;
  }
  cpu.set(S.EFER, efer);
}

export function loadGuestPdptes(n: NestedVmx): void {
  const { cpu, v } = n;
  for (let i = 0; i < 4; i += 1) cpu.set64(S.PDPTE + 8 * i, v.lo(FIELD.GUEST_PDPTE0 + i), v.hi(FIELD.GUEST_PDPTE0 + i));
}

/** The rest of 26.3.2, and the non-register state of 26.3.2.5 that is kept in registers of the engine. */
export function loadGuestState(n: NestedVmx): void {
  const { cpu, v } = n;
  const entry = v.lo(FIELD.ENTRY_CONTROLS);
  if ((entry & ENTRY.LOAD_DEBUG_CONTROLS) !== 0) {
    cpu.set64(DR7, (v.lo(FIELD.GUEST_DR7) & 0xffff_2fff) | 0x400, 0);
    cpu.set(S.DEBUGCTL, v.lo(FIELD.GUEST_IA32_DEBUGCTL));
  }
  if ((entry & ENTRY.LOAD_PAT) !== 0) cpu.set64(S.PAT, v.lo(FIELD.GUEST_IA32_PAT), v.hi(FIELD.GUEST_IA32_PAT));
  cpu.set(S.CPL, (v.lo(FIELD.GUEST_SS_ACCESS_RIGHTS) >>> 5) & 3);
  cpu.set64(RSP, v.lo(FIELD.GUEST_RSP), v.hi(FIELD.GUEST_RSP));
  cpu.set64(S.RIP, v.lo(FIELD.GUEST_RIP), v.hi(FIELD.GUEST_RIP));
  cpu.setRflags(v.lo(FIELD.GUEST_RFLAGS));
  loadInterruptibility(n, v.lo(FIELD.GUEST_INTERRUPTIBILITY_STATE));
}

/** Blocking by STI or MOV SS holds for the next instruction; blocking by NMI until IRET. */
function loadInterruptibility(n: NestedVmx, state: number): void {
  const { cpu } = n;
  const sti = (state & INTERRUPTIBILITY.BLOCKING_BY_STI) !== 0;
  const movSs = (state & INTERRUPTIBILITY.BLOCKING_BY_MOV_SS) !== 0;
  const now = n.vcpu.core.instructions;
  cpu.set(S.SHADOW_KIND, sti ? 1 : movSs ? 2 : 0);
  cpu.set64(S.SHADOW_AT, now >>> 0, Math.floor(now / 0x1_0000_0000));
  cpu.set(S.NMI_BLOCKED, (state & INTERRUPTIBILITY.BLOCKING_BY_NMI) !== 0 ? 1 : 0);
}

function activityOf({ activity }: Vcpu): number {
  if (activity === 'running') return ACTIVITY.ACTIVE;
  if (activity === 'halted') return ACTIVITY.HLT;
  return activity === 'shutdown' ? ACTIVITY.SHUTDOWN : ACTIVITY.WAIT_FOR_SIPI;
}

/** SDM 3C 27.3 "Saving Guest State". */
export function saveGuestState(n: NestedVmx): void {
  const { cpu, v } = n;
  const exit = v.lo(FIELD.EXIT_CONTROLS);
  const differences = n.images.differences(v.guestImage);
  if (differences !== 0) saveSwitched(v, cpu, differences);
  if ((exit & EXIT.SAVE_DEBUG_CONTROLS) !== 0) {
    v.set(FIELD.GUEST_DR7, cpu.get(DR7));
    v.set(FIELD.GUEST_IA32_DEBUGCTL, cpu.get(S.DEBUGCTL));
  }
  if ((exit & EXIT.SAVE_PAT) !== 0) save(v, cpu, FIELD.GUEST_IA32_PAT, S.PAT);
  if ((exit & EXIT.SAVE_EFER) !== 0) v.set(FIELD.GUEST_IA32_EFER, cpu.efer);
  // IA32_VMX_MISC[5]: the control follows EFER.LMA
  if ((n.secondary & SECONDARY.UNRESTRICTED_GUEST) !== 0) {
    const entry = v.lo(FIELD.ENTRY_CONTROLS) & ~ENTRY.IA32E_MODE_GUEST;
    v.set(FIELD.ENTRY_CONTROLS, cpu.ia32e ? entry | ENTRY.IA32E_MODE_GUEST : entry);
  }
  save(v, cpu, FIELD.GUEST_RSP, RSP);
  save(v, cpu, FIELD.GUEST_RIP, S.RIP);
  v.set(FIELD.GUEST_RFLAGS, cpu.rflags());
  v.set(FIELD.GUEST_ACTIVITY_STATE, activityOf(n.vcpu));
  const shadow = n.vcpu.shadow();
  v.set(
    FIELD.GUEST_INTERRUPTIBILITY_STATE,
    (shadow === 1 ? INTERRUPTIBILITY.BLOCKING_BY_STI : 0) |
      (shadow === 2 ? INTERRUPTIBILITY.BLOCKING_BY_MOV_SS : 0) |
      (cpu.get(S.NMI_BLOCKED) !== 0 ? INTERRUPTIBILITY.BLOCKING_BY_NMI : 0),
  );
  savePendingDebug(n, shadow);
  if ((n.secondary & SECONDARY.ENABLE_EPT) !== 0 && isPae(cpu)) {
    for (let i = 0; i < 4; i += 1) save(v, cpu, FIELD.GUEST_PDPTE0 + i, S.PDPTE + 8 * i);
  }
}

const save = (v: Vmcs12, cpu: Processor, field: number, cell: number): void =>
  v.set(field, cpu.get(cell), cpu.get(cell + 4));

export const isPae = (cpu: Processor): boolean => (cpu.cr0 & CR0.PG) !== 0 && (cpu.cr4 & CR4.PAE) !== 0 && !cpu.ia32e;

/** SDM 3C 27.3.4 "Saving Non-Register State": traps that were due and are not delivered. */
function savePendingDebug(n: NestedVmx, shadow: number): void {
  const { cpu } = n;
  let bits = (cpu.get(S.PENDING_DEBUG) & PENDING.DR6_BITS & 0x400f) | n.pendingDebug;
  if (shadow !== 0 && (cpu.get(S.RFLAGS) & RFLAGS.TF) !== 0 && (cpu.get(S.DEBUGCTL) & 2) === 0) bits |= 1 << 14;
  if ((bits & 0xf) !== 0) bits |= 1 << 12;
  n.v.set(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS, bits);
  n.pendingDebug = 0;
}

// ---- host ------------------------------------------------------------------------------------------------------------

/**
 * SDM 3C 27.5.1 "Loading Host Control Registers, Debug Registers, MSRs", as far as the MMU waits for it, and what comes
 * with it in one block: SYSENTER's MSRs, 27.5.2.
 */
export function loadHostControlRegisters(n: NestedVmx): void {
  const { cpu, v } = n;
  const exit = v.lo(FIELD.EXIT_CONTROLS);
  const isLong = (exit & EXIT.HOST_ADDRESS_SPACE_SIZE) !== 0;
  let { efer } = cpu;
  if ((exit & EXIT.LOAD_EFER) !== 0) efer = v.lo(FIELD.HOST_IA32_EFER);
  else efer = isLong ? efer | EFER.LMA | EFER.LME : efer & ~(EFER.LMA | EFER.LME);
  cpu.set(S.EFER, efer);
  if ((v.dirty & DIRTY.HOST_IMAGE) !== 0) {
    v.dirty &= ~DIRTY.HOST_IMAGE;
    fillHostImage(v);
  }
  loadSwitched(n, v.hostImage);
}

/** 27.5.1 to 27.5.5 behind the control registers. */
export function loadHostState(n: NestedVmx): void {
  const { cpu, v } = n;
  const exit = v.lo(FIELD.EXIT_CONTROLS);
  cpu.set64(DR7, 0x400, 0);
  cpu.set(S.DEBUGCTL, 0);
  if ((exit & EXIT.LOAD_PAT) !== 0) cpu.set64(S.PAT, v.lo(FIELD.HOST_IA32_PAT), v.hi(FIELD.HOST_IA32_PAT));
  cpu.set(S.CPL, 0);
  cpu.set64(RSP, v.lo(FIELD.HOST_RSP), v.hi(FIELD.HOST_RSP));
  cpu.set64(S.RIP, v.lo(FIELD.HOST_RIP), v.hi(FIELD.HOST_RIP));
  cpu.setRflags(RFLAGS.FIXED1);
  cpu.set(S.SHADOW_KIND, 0);
  cpu.set(S.PENDING_DEBUG, 0);
}
