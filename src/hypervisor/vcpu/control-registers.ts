/**
 * Accesses to control registers that leave and are L0's: CR8, whose other face is the local APIC, and, without TDP, all that
 * changes what the running level's tables mean.
 *
 * Owns    what L0 watches for its shadow paging, in whichever level runs, on top of what L1 watches in L2.
 *
 * Source  nested-mmu.md 1.3 states b and e, 4.7, 4.8; SDM 3C 25.1.3, 25.3 "Changes to Instruction Behavior in VMX Non-Root
 *         Operation".
 */
import { CR0 } from '../../arch/registers.ts';
import { setCr0, setCr4 } from '../../engine/core/control-registers.ts';
import { INTERCEPT } from '../../engine/core/cpu.ts';
import { X } from '../../engine/core/exits.ts';
import { S, STATUS, TASK } from '../../engine/core/layout.ts';
import { loadsPdptrs } from '../mmu/paging-registers.ts';
import type { Vcpu } from './vcpu.ts';

/** Exit qualification, bits 5:4. SDM 3C Table 27-3. */
const ACCESS = { TO: 0, LMSW: 3 } as const;
/** Bits of CR0 that LMSW loads; PE it can only set. */
const LMSW_BITS = CR0.MP | CR0.EM | CR0.TS;

/** A CR access of the running level that L1 has no part in. */
export function crAccess(vcpu: Vcpu): void {
  const { state, apic, mmu, engine } = vcpu;
  const qualification = state.u32(X.QUALIFICATION);
  const register = (qualification >>> 8) & 15;
  const access = (qualification >>> 4) & 3;
  const low = state.gprLow(register);
  const high = engine.processor.long ? state.gprHigh(register) : 0;
  switch (qualification & 15) {
    case 0: {
      const value = access === ACCESS.LMSW ? loadedByLmsw(state.u32(S.CR0), qualification >>> 16) : low;
      writePaging(vcpu, 0, value, access === ACCESS.TO ? high : 0);
      return;
    }
    case 3:
      // Shadow paging: CR3 names the tables that L0 shadows. Only loads leave.
      if (mmu.writeCr3(low, high)) vcpu.skip();
      else vcpu.raise(13, 0);
      return;
    case 4:
      writePaging(vcpu, 4, low, high);
      return;
    default:
      if (access !== ACCESS.TO) state.setGpr(register, apic.cr8, 0);
      else if (low > 15 || high !== 0) {
        vcpu.raise(13, 0);
        return;
      } else apic.cr8 = low;
      vcpu.skip();
  }
}

/**
 * A task switch loads CR3. Its PDPTEs were legal before the old task was saved; if that has overwritten them, the new task gets
 * #GP(0): the engine raises it, for it knows what the switch was on the way to.
 */
export function taskLoadsCr3(vcpu: Vcpu): void {
  const { state, mmu } = vcpu;
  if (mmu.writeCr3(state.u32(X.QUALIFICATION), 0)) return;
  state.setU32(S.TASK, (state.u32(S.TASK) | TASK.CR3_REFUSED) >>> 0);
}

function loadedByLmsw(cr0: number, source: number): number {
  const takes = LMSW_BITS | (source & CR0.PE);
  return ((cr0 & ~takes) | (source & takes)) >>> 0;
}

/** CR0 or CR4 under L0's shadow paging. Bits that L1 owns keep their value: SDM 3C 25.3 "MOV to CR0", "MOV to CR4". */
function writePaging(vcpu: Vcpu, register: 0 | 4, value: number, high: number): void {
  const { state, mmu, nested } = vcpu;
  const cpu = vcpu.engine.processor;
  const write = register === 0 ? setCr0 : setCr4;
  const cr0 = state.u32(S.CR0);
  const cr4 = state.u32(S.CR4);
  const efer = state.u32(S.EFER);
  const old = register === 0 ? cr0 : cr4;
  const owned = (register === 0 ? nested?.cr0OfL1 : nested?.cr4OfL1) ?? 0;
  if (write(cpu, ((value & ~owned) | (old & owned)) >>> 0, high) !== STATUS.NEXT) {
    vcpu.raiseFault();
    return;
  }
  // The engine walks L0's tables here and has no use for PDPTEs: they are L0's to load, or to refuse
  if (loadsPdptrs(cr0, state.u32(S.CR0), cr4, state.u32(S.CR4), efer) && mmu.loadPdptrs(state.u32(S.CR3)) !== 'ok') {
    write(cpu, old, 0);
    vcpu.raise(13, 0);
    return;
  }
  if (register === 0) mmu.cr0Written(old);
  else mmu.cr4Written(old);
  shadowIntercepts(vcpu);
  vcpu.skip();
}

/**
 * Without TDP, whatever changes what the tables of the running level mean leaves: L1's, and L2's, of which L1 need not hear.
 * After each change of level, of CR0 and of CR4; what L1 shows L2 in bits of its own stays as L1 has it.
 */
export function shadowIntercepts(vcpu: Vcpu): void {
  if (vcpu.vm.options.tdp) return;
  const { intercepts } = vcpu.core;
  const { state, nested } = vcpu;
  const own0 = nested?.cr0OfL1 ?? 0;
  const own4 = nested?.cr4OfL1 ?? 0;
  intercepts.cr0Mask = (~CR0.TS | own0) >>> 0; // TS: task switches set it without an exit
  intercepts.cr0Shadow = ((state.u32(S.CR0) & ~own0) | ((nested?.cr0ReadShadow ?? 0) & own0)) >>> 0;
  intercepts.cr4Mask = 0xffff_ffff;
  intercepts.cr4Shadow = ((state.u32(S.CR4) & ~own4) | ((nested?.cr4ReadShadow ?? 0) & own4)) >>> 0;
  intercepts.crAccess |= 1;
  // A load of a CR3-target value leaves, too: it is no exit to L1
  intercepts.cr3TargetCount = 0;
  intercepts.instructions |= INTERCEPT.INVLPG | INTERCEPT.INVPCID;
}
