/**
 * The way from L2 back to L1.
 *
 * Owns    the exit-information fields and the steps of nested-mmu.md 4.13.
 *
 * Source  SDM 3C 27 "VM Exits", 26.8 "VM-Entry Failures During or After Loading Guest State", 27.7 "VMX Aborts".
 */
import { EXIT as EXIT_CONTROL, PIN } from '../../../arch/vmx/controls.ts';
import { EXIT_REASON_FLAGS, EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { X } from '../../../engine/core/exits.ts';
import { REC, S } from '../../../engine/core/layout.ts';
import { REQUEST } from '../../mmu/requests.ts';
import { stopEvents } from './events.ts';
import { loadMsrs, storeMsrs } from './msr-areas.ts';
import { type NestedVmx, SWITCH_NS } from './nested-vmx.ts';
import { loadHostControlRegisters, loadHostState, rightsKey, saveGuestState } from './state-areas.ts';
import { preventTurns } from './turns.ts';
import { REGION } from './vmcs12.ts';

const VALID = 0x8000_0000;
const ERROR_VALID = 1 << 11;
/** SDM 3C 27.7 "VMX Aborts". */
const ABORT = { SAVING_MSRS: 1, HOST_PDPTES: 2, LOADING_MSRS: 4 } as const;

/**
 * An exit that no instruction caused, or whose information the caller writes afterwards.
 *
 * @param length  Instruction length, or 0.
 */
export function vmExit(
  n: NestedVmx,
  reason: number,
  qualificationLo = 0,
  qualificationHi = 0,
  interruption = 0,
  interruptionError = 0,
  length = 0,
  information = 0,
): true {
  const { v, vcpu, cpu } = n;
  const { mmu } = vcpu;
  v.put(FIELD.EXIT_REASON, reason);
  v.put(FIELD.EXIT_QUALIFICATION, qualificationLo, qualificationHi);
  v.put(FIELD.EXIT_INTERRUPTION_INFO, interruption);
  if ((interruption & ERROR_VALID) !== 0) v.put(FIELD.EXIT_INTERRUPTION_ERROR_CODE, interruptionError);
  v.put(FIELD.EXIT_INSTRUCTION_LENGTH, length);
  v.put(FIELD.EXIT_INSTRUCTION_INFO, information);
  if (vcpu.pendingEvent === 0) v.put(FIELD.IDT_VECTORING_INFO, 0);
  else saveVectoring(n);
  const injected = v.lo(FIELD.ENTRY_INTERRUPTION_INFO);
  if ((injected & VALID) !== 0) v.set(FIELD.ENTRY_INTERRUPTION_INFO, injected & ~VALID);

  mmu.serviceLocalRequests(); // they are about L2
  stopEvents(n);
  vcpu.stallNs += SWITCH_NS;
  saveGuestState(n);
  n.rightsByTag[mmu.currentTag()] = rightsKey(cpu);
  const stored = v.lo(FIELD.EXIT_MSR_STORE_COUNT);
  if (stored !== 0 && !storeMsrs(n, v.number(FIELD.EXIT_MSR_STORE_ADDRESS), stored)) return abort(n, ABORT.SAVING_MSRS);
  // With virtual NMIs, blocking in L2 was virtual; an NMI that exits is being handled by L1
  const byNmi = (reason & 0xffff) === EXIT_REASONS.EXCEPTION_OR_NMI && ((interruption >>> 8) & 7) === 2;
  if (byNmi) cpu.set(S.NMI_BLOCKED, 1);
  else if ((n.pin & PIN.VIRTUAL_NMIS) !== 0) cpu.set(S.NMI_BLOCKED, 0);
  n.exitsToL1[reason & 0xff] = n.exitsToL1[reason & 0xff]! + 1;
  vcpu.vm.log?.nestedExit?.(vcpu, reason);
  return returnToL1(n);
}

/** An event whose delivery the exit interrupted; exceptions that L0 found and nobody has judged are dropped by callers. */
function saveVectoring(n: NestedVmx): void {
  const { v, vcpu } = n;
  if (vcpu.pendingIsNew) v.put(FIELD.IDT_VECTORING_INFO, 0);
  else {
    v.put(FIELD.IDT_VECTORING_INFO, vcpu.pendingEvent);
    if ((vcpu.pendingEvent & ERROR_VALID) !== 0) v.put(FIELD.IDT_VECTORING_ERROR_CODE, vcpu.pendingError);
    if (((vcpu.pendingEvent >>> 8) & 7) >= 4) v.put(FIELD.EXIT_INSTRUCTION_LENGTH, vcpu.pendingLength);
  }
  vcpu.pendingEvent = 0;
}

/** SDM 3C 26.8: only reason and qualification are written, no guest state is saved. */
export function entryFailure(n: NestedVmx, reason: number, qualification: number): true {
  const { v, vcpu } = n;
  v.put(FIELD.EXIT_REASON, (reason | EXIT_REASON_FLAGS.ENTRY_FAILURE) >>> 0);
  v.put(FIELD.EXIT_QUALIFICATION, qualification);
  if (n.guestMode) vcpu.mmu.serviceLocalRequests();
  n.exitsToL1[reason] = n.exitsToL1[reason]! + 1;
  vcpu.vm.log?.nestedExit?.(vcpu, (reason | EXIT_REASON_FLAGS.ENTRY_FAILURE) >>> 0);
  return returnToL1(n);
}

/** nested-mmu.md 4.13, steps 3 to 8. */
function returnToL1(n: NestedVmx): true {
  const { v, vcpu, cpu } = n;
  const { mmu } = vcpu;
  preventTurns(n);
  n.guestMode = false;
  n.openVmcs();
  vcpu.activity = 'running';
  vcpu.core.intercepts = n.l1Intercepts;
  loadHostControlRegisters(n);
  if (!n.tdp) vcpu.shadowIntercepts();
  if (!mmu.returnAsBefore(cpu.cr0, cpu.cr4, cpu.efer)) {
    mmu.nestedEptUninit();
    const loaded = mmu.loadCr3(v.lo(FIELD.HOST_CR3), v.hi(FIELD.HOST_CR3), false, true);
    if (loaded !== 'ok') return abort(n, ABORT.HOST_PDPTES);
    mmu.transitionTlbFlush(false);
  }
  if (rightsKey(cpu) !== n.rightsOfL1 && n.rightsOfL1 !== -1) mmu.requests |= REQUEST.FLUSH_GUEST;
  loadHostState(n);
  vcpu.core.context = -1;
  const loaded = v.lo(FIELD.EXIT_MSR_LOAD_COUNT);
  if (loaded !== 0 && loadMsrs(n, v.number(FIELD.EXIT_MSR_LOAD_ADDRESS), loaded) !== 0) {
    return abort(n, ABORT.LOADING_MSRS);
  }
  return true;
}

/** The processor goes into the shutdown state. */
function abort(n: NestedVmx, indicator: number): true {
  n.memory.write32(n.v.address + REGION.ABORT, indicator);
  n.vcpu.vm.tripleFault(n.vcpu);
  return true;
}

/** The instruction that left goes to L1 with all that the engine recorded of it. */
export function vmExitByInstruction(n: NestedVmx, reason: number): true {
  const { cpu, v } = n;
  const info = HAS_INFORMATION[reason] === 1 ? cpu.get(X.INFO) : 0;
  const linearLo = cpu.get(X.LINEAR);
  const linearHi = cpu.get(X.LINEAR + 4);
  const hasLinear = cpu.get(X.LINEAR_VALID) !== 0;
  takeVectoring(n);
  if (hasLinear) v.put(FIELD.GUEST_LINEAR_ADDRESS, linearLo, linearHi);
  return vmExit(n, reason, cpu.get(X.QUALIFICATION), cpu.get(X.QUALIFICATION + 4), 0, 0, cpu.get(X.LENGTH), info);
}

/** Exits with VM-exit instruction information: SDM 3C 27.2.5. */
export const HAS_INFORMATION = new Uint8Array(256);
for (const reason of [
  EXIT_REASONS.VMCLEAR,
  EXIT_REASONS.VMPTRLD,
  EXIT_REASONS.VMPTRST,
  EXIT_REASONS.VMREAD,
  EXIT_REASONS.VMWRITE,
  EXIT_REASONS.VMXON,
  EXIT_REASONS.IO_INSTRUCTION,
  EXIT_REASONS.GDTR_IDTR_ACCESS,
  EXIT_REASONS.LDTR_TR_ACCESS,
  EXIT_REASONS.INVEPT,
  EXIT_REASONS.INVVPID,
  EXIT_REASONS.RDRAND,
  EXIT_REASONS.RDSEED,
  EXIT_REASONS.INVPCID,
  EXIT_REASONS.XSAVES,
  EXIT_REASONS.XRSTORS,
])
  HAS_INFORMATION[reason] = 1;

/** The event that the engine was delivering when it left, for the IDT-vectoring fields. */
export function takeVectoring(n: NestedVmx): void {
  const { cpu, vcpu } = n;
  const vectoring = cpu.get(X.VECTORING);
  if ((vectoring & VALID) === 0) return;
  vcpu.pendingEvent = vectoring;
  vcpu.pendingError = cpu.get(X.VECTORING_ERROR);
  vcpu.pendingLength = cpu.get(X.LENGTH);
  vcpu.pendingIsNew = false;
}

/** An exception of L2 that L1's bitmap intercepts, as the engine reports it. */
export function vmExitByException(n: NestedVmx): true {
  const { cpu } = n;
  takeVectoring(n);
  return vmExit(
    n,
    EXIT_REASONS.EXCEPTION_OR_NMI,
    cpu.get(X.QUALIFICATION),
    cpu.get(X.QUALIFICATION + 4),
    cpu.get(X.INTERRUPTION),
    cpu.get(X.INTERRUPTION_ERROR),
    cpu.get(X.LENGTH),
  );
}

/**
 * Length of the instruction whose memory access left. Processors report it, although SDM 3C 27.2.5 lists it for no exit
 * of this kind; hypervisors use it to skip what they have emulated.
 */
export function accessLength(n: NestedVmx): number {
  const record = n.cpu.get(S.EXIT_RECORD);
  return n.vcpu.pendingEvent !== 0 || record === 0 ? 0 : n.cpu.u8[record + REC.LENGTH]!;
}

/** EPT violation, EPT misconfiguration, PML full. */
export function vmExitForEpt(
  n: NestedVmx,
  reason: number,
  qualification: number,
  physical: number,
  linearLo: number,
  linearHi: number,
): void {
  const { v } = n;
  v.put(FIELD.GUEST_PHYSICAL_ADDRESS, physical % 0x1_0000_0000, Math.floor(physical / 0x1_0000_0000));
  if ((qualification & 0x80) !== 0) v.put(FIELD.GUEST_LINEAR_ADDRESS, linearLo, linearHi);
  vmExit(n, reason, qualification, 0, 0, 0, accessLength(n));
}

/** "Acknowledge interrupt on exit". */
export const acknowledges = (n: NestedVmx): boolean =>
  (n.v.lo(FIELD.EXIT_CONTROLS) & EXIT_CONTROL.ACKNOWLEDGE_INTERRUPT_ON_EXIT) !== 0;
