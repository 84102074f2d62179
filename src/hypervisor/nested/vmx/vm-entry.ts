/**
 * VMLAUNCH and VMRESUME: checks in the manual's order, then the way into L2 in the MMU's order.
 *
 * Owns    the steps of nested-mmu.md 4.10 and what each failure leaves behind: VMfail changes nothing, a failure of guest
 *         state or MSR loading loads L1's host state (reason 33 or 34 with bit 31).
 *
 * Source  SDM 3C 26 "VM Entries"; 30.3 "VMLAUNCH/VMRESUME".
 */
import { INTERRUPTION, INTERRUPTION_TYPE, interruptionType, PENDING_DEBUG } from '../../../arch/vmx/controls.ts';
import { GUEST_CHECKS, VMX_CHECKS } from '../../../arch/vmx/entry-checks.ts';
import { ENTRY_FAILURE_QUALIFICATION, EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { assert } from '../../../base/assert.ts';
import { S } from '../../../engine/core/layout.ts';
import type { Processor } from '../../../engine/core/processor.ts';
import { REQUEST } from '../../mmu/requests.ts';
import { mergeControls } from './controls02.ts';
import { startEvents } from './events.ts';
import { loadMsrs } from './msr-areas.ts';
import { type NestedVmx, SWITCH_NS, UNKNOWN_RIGHTS } from './nested-vmx.ts';
import { fail, failInvalid } from './operands.ts';
import { isPae, loadGuestControlRegisters, loadGuestPdptes, loadGuestState, rightsKey } from './state-areas.ts';
import { imagesAreFresh } from './switched-state.ts';
import { type L1Before, prepareTurns, preventTurns } from './turns.ts';
import { entryFailure } from './vm-exit.ts';
import { DIRTY } from './vmcs12.ts';

const SHADOW_MOV_SS = 2;

export function vmEntry(n: NestedVmx, isLaunch: boolean): boolean {
  const { v, vcpu, cpu, context } = n;
  if (v.address < 0 || v.isShadow) return failInvalid(n);
  if (vcpu.shadow() === SHADOW_MOV_SS) return fail(n, 26);
  if (isLaunch && v.launched) return fail(n, 4);
  if (!isLaunch && !v.launched) return fail(n, 5);

  preventTurns(n);
  v.absorb();
  const mode = cpu.ia32e ? 1 : 0;
  const sameMode = v.judgedMode === mode;
  context.lma = cpu.ia32e;
  context.currentVmcs = v.address;
  const badControl = VMX_CHECKS.firstFailureAmong(v.vmxSuspects, v, context, sameMode);
  if (badControl !== undefined) {
    n.lastFailedCheck = badControl;
    vcpu.vm.log?.entryRefused?.(vcpu, badControl);
    return fail(n, badControl.failure.kind === 'VMfail' ? badControl.failure.error : 7);
  }
  // From here on the instruction is over: what follows ends in L2, or in L1's host state
  vcpu.retire();
  mergeControls(n);
  const badState = GUEST_CHECKS.firstFailureAmong(v.guestSuspects, v, context, sameMode);
  if (badState !== undefined) {
    n.lastFailedCheck = badState;
    vcpu.vm.log?.entryRefused?.(vcpu, badState);
    const { failure } = badState;
    return entryFailure(
      n,
      EXIT_REASONS.INVALID_GUEST_STATE,
      failure.kind === 'entry failure' ? failure.qualification : 0,
    );
  }
  v.judgedMode = mode;
  if (n.vcpu.vm.options.force) assertSkipsAreUnobservable(n);
  noteL1(cpu);
  if (!enterL2(n)) return true;
  const msrs = v.lo(FIELD.ENTRY_MSR_LOAD_COUNT);
  if (msrs !== 0) {
    const failed = loadMsrs(n, v.number(FIELD.ENTRY_MSR_LOAD_ADDRESS), msrs);
    if (failed !== 0) return entryFailure(n, EXIT_REASONS.MSR_LOADING, failed);
  }
  if (isLaunch) v.launched = true;
  n.entries += 1;
  injectOnEntry(n);
  startEvents(n);
  vcpu.stallNs += SWITCH_NS;
  vcpu.vm.log?.nestedEntry?.(vcpu);
  prepareTurns(n, l1);
  return true;
}

/** L1 as it is before the entry, for turns.ts. */
const l1: L1Before = { isLong: false, cr0: 0, cr4: 0, efer: 0, patLo: 0, patHi: 0, quick: 0, quickReserved: 0 };
function noteL1(cpu: Processor): void {
  l1.isLong = cpu.long;
  l1.cr0 = cpu.cr0;
  l1.cr4 = cpu.cr4;
  l1.efer = cpu.efer;
  l1.patLo = cpu.get(S.PAT);
  l1.patHi = cpu.get(S.PAT + 4);
  l1.quick = cpu.get(S.QUICK);
  l1.quickReserved = cpu.get(S.QUICK_RESERVED);
}

/** Checked builds: neither a check that was not made nor an image that was not made anew would have told otherwise. */
function assertSkipsAreUnobservable(n: NestedVmx): void {
  const { v, context } = n;
  assert(
    VMX_CHECKS.firstFailure(v, context) === undefined,
    'controls and host state that were not judged again are good',
  );
  assert(GUEST_CHECKS.firstFailure(v, context) === undefined, 'guest state that was not judged again is good');
  assert(imagesAreFresh(v, (v.dirty & DIRTY.HOST_IMAGE) === 0), 'images follow their fields');
}

/** nested-mmu.md 4.10, steps 4 and 5: pointers first, then registers, then CR3. */
function enterL2(n: NestedVmx): boolean {
  const { vcpu, cpu } = n;
  const { mmu } = vcpu;
  mmu.serviceLocalRequests(); // they are about L1
  n.rightsOfL1 = rightsKey(cpu);
  n.guestMode = true;
  n.openVmcs();
  vcpu.core.intercepts = n.merged.intercepts;
  loadGuestControlRegisters(n);
  if (!n.tdp) vcpu.shadowIntercepts();
  if (!mmu.enterAsBefore(cpu.cr0, cpu.cr4, cpu.efer) && !loadCr3(n)) return false;
  if (n.usesEpt && isPae(cpu)) loadGuestPdptes(n);
  loadGuestState(n);
  // Entries of this tag were made for other meanings of the same tables: SDM 3A 4.10 leaves the choice to us
  const key = rightsKey(cpu);
  const known = n.rightsByTag[mmu.currentTag()]!;
  if (known !== UNKNOWN_RIGHTS && known !== key) mmu.requests |= REQUEST.FLUSH_GUEST;
  vcpu.core.context = -1;
  return true;
}

/** The MMU's steps. False: the entry has failed. */
function loadCr3(n: NestedVmx): boolean {
  const { v } = n;
  const { mmu } = n.vcpu;
  const { usesEpt } = n;
  mmu.transitionTlbFlush(true);
  if (usesEpt) mmu.nestedEptInit();
  else mmu.nestedEnterWithoutEpt();
  const loaded = mmu.loadCr3(v.lo(FIELD.GUEST_CR3), v.hi(FIELD.GUEST_CR3), usesEpt, true);
  if (loaded === 'ok') return true;
  const { PDPTE, DEFAULT } = ENTRY_FAILURE_QUALIFICATION;
  entryFailure(n, EXIT_REASONS.INVALID_GUEST_STATE, loaded === 'pdptes' ? PDPTE : DEFAULT);
  return false;
}

/** SDM 3C 26.6 "Event Injection", 26.7.3 "Delivery of Pending Debug Exceptions after VM Entry". */
function injectOnEntry(n: NestedVmx): void {
  const { v, vcpu, cpu } = n;
  const info = v.lo(FIELD.ENTRY_INTERRUPTION_INFO);
  let pending = v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) & (0xf | PENDING_DEBUG.BS);
  if ((v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS) & (PENDING_DEBUG.ENABLED_BREAKPOINT | PENDING_DEBUG.BS)) === 0) {
    pending = 0;
  }
  n.pendingDebug = 0;
  cpu.set(S.PENDING_DEBUG, 0);
  n.mtfPending = false;
  if ((info & INTERRUPTION.VALID) !== 0) {
    // Pending debug exceptions are lost if what is injected is a software event or an exception other than these
    const type = interruptionType(info);
    if (type === INTERRUPTION_TYPE.OTHER_EVENT) n.mtfPending = true;
    else {
      vcpu.pendingEvent = info;
      vcpu.pendingError = v.lo(FIELD.ENTRY_EXCEPTION_ERROR_CODE);
      vcpu.pendingLength = v.lo(FIELD.ENTRY_INSTRUCTION_LENGTH);
      vcpu.pendingIsNew = false;
    }
    const keeps = type === INTERRUPTION_TYPE.EXTERNAL_INTERRUPT || type === INTERRUPTION_TYPE.NMI;
    if (!keeps && type !== INTERRUPTION_TYPE.OTHER_EVENT) pending = 0;
  }
  if (pending === 0) return;
  // Blocked by MOV SS: due behind the next instruction, which is how the engine keeps them
  if (vcpu.shadow() === SHADOW_MOV_SS) cpu.set(S.PENDING_DEBUG, pending);
  else n.pendingDebug = pending;
}
