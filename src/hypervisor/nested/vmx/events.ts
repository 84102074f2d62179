/**
 * What is due between two instructions of L2, in the manual's order of priority.
 *
 * Owns    monitor trap flag, pending debug exceptions, the VMX-preemption timer, interrupt and NMI windows, and which
 *         events of L1 (interrupts, NMI, INIT, SIPI) become exits.
 * Knows   that an event which VM entry injects, or whose delivery was interrupted, goes before all of them.
 *
 * Source  SDM 3C 25.2 "Other Causes of VM Exits", 25.5.1 "VMX-Preemption Timer", 25.5.2 "Monitor Trap Flag", 26.7
 *         "Special Features of VM Entry"; 3A 6.9 "Priority Among Simultaneous Exceptions and Interrupts".
 */
import { RFLAGS } from '../../../arch/registers.ts';
import { ACTIVITY, EXIT as EXIT_CONTROL, PIN, PRIMARY } from '../../../arch/vmx/controls.ts';
import { EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { S } from '../../../engine/core/layout.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { deliverVirtualInterrupt, enterVirtualApic, takesPosted } from './virtual-apic.ts';
import { acknowledges, vmExit } from './vm-exit.ts';

const VALID = 0x8000_0000;
const TYPE = { EXTERNAL: 0 << 8, NMI: 2 << 8, EXCEPTION: 3 << 8 } as const;
const VECTOR_DB = 1;
const VECTOR_PF = 14;
const MOV_SS = 2;

/** After VM entry: arms timers and looks at the activity state. */
export function startEvents(n: NestedVmx): void {
  const { v, vcpu } = n;
  const { instructions } = vcpu.core;
  n.mtfAfter = -1;
  // With an injected event the trap comes before the handler's first instruction: 25.5.2
  if ((n.primary & PRIMARY.MONITOR_TRAP_FLAG) !== 0)
    n.mtfAfter = vcpu.pendingEvent !== 0 ? instructions - 1 : instructions;
  startPreemptionTimer(n);
  n.cpu.set64(S.PAUSE_FIRST, 0, 0);
  const activity = v.lo(FIELD.GUEST_ACTIVITY_STATE);
  if (vcpu.pendingEvent !== 0 || activity === ACTIVITY.ACTIVE) vcpu.activity = 'running';
  else if (activity === ACTIVITY.HLT) vcpu.activity = 'halted';
  else vcpu.activity = activity === ACTIVITY.SHUTDOWN ? 'shutdown' : 'wait for SIPI';
  vcpu.woken = true;
  enterVirtualApic(n);
  if (n.initHeld) {
    n.initHeld = false;
    vcpu.initPending = true;
  }
}

/** Before VM exit saves state. */
export function stopEvents(n: NestedVmx): void {
  n.mtfAfter = -1;
  n.mtfPending = false;
  n.tprBelow = false;
  if (n.hasPin(PIN.PREEMPTION_TIMER)) {
    if ((n.v.lo(FIELD.EXIT_CONTROLS) & EXIT_CONTROL.SAVE_PREEMPTION_TIMER) !== 0) {
      n.v.set(FIELD.PREEMPTION_TIMER_VALUE, preemptionTimerValue(n));
    }
    n.preemptionTimer.disarm();
    n.preemptionExpired = false;
  }
}

// ---- VMX-preemption timer ------------------------------------------------------------------------------------------------

function startPreemptionTimer(n: NestedVmx): void {
  if (!n.hasPin(PIN.PREEMPTION_TIMER)) return;
  const value = n.v.lo(FIELD.PREEMPTION_TIMER_VALUE);
  const tick = n.preemptionTickNs;
  const { clock } = n.vcpu.vm;
  n.preemptionExpired = value === 0;
  n.preemptionDeadlineNs = (Math.floor(clock.nowNs() / tick) + value) * tick;
  if (value !== 0) n.preemptionTimer.arm(n.preemptionDeadlineNs);
}

function preemptionTimerValue(n: NestedVmx): number {
  if (n.preemptionExpired) return 0;
  const tick = n.preemptionTickNs;
  return Math.max(0, Math.round(n.preemptionDeadlineNs / tick) - Math.floor(n.vcpu.vm.clock.nowNs() / tick));
}

// ---- exceptions that L0 found --------------------------------------------------------------------------------------------

/** SDM 3C 25.2: the exception bitmap, for #PF with the error-code mask and match. */
function interceptsException(n: NestedVmx, vector: number, error: number): boolean {
  const { exceptions, pageFaultMask, pageFaultMatch } = n.merged.intercepts;
  const bit = ((exceptions >>> vector) & 1) !== 0;
  if (vector !== VECTOR_PF) return bit;
  return bit === ((error & pageFaultMask) >>> 0 === pageFaultMatch >>> 0);
}

/** An exception raised by L0 in L2. True: it became an exit. */
function judgeNewException(n: NestedVmx): boolean {
  const { vcpu } = n;
  const vector = vcpu.pendingEvent & 0xff;
  if (!interceptsException(n, vector, vcpu.pendingError)) return false;
  const info = vcpu.pendingEvent;
  const error = vcpu.pendingError;
  const hasPayload = vector === VECTOR_DB || vector === VECTOR_PF;
  // SDM 3C 27.2.4: the event under delivery, which L1 will inject again
  vcpu.pendingEvent = vcpu.overtakenEvent;
  vcpu.pendingError = vcpu.overtakenError;
  vcpu.pendingLength = vcpu.overtakenLength;
  vcpu.pendingIsNew = false;
  return vmExit(
    n,
    EXIT_REASONS.EXCEPTION_OR_NMI,
    hasPayload ? vcpu.pendingPayloadLo : 0,
    hasPayload ? vcpu.pendingPayloadHi : 0,
    info,
    error,
  );
}

// ---- the order -----------------------------------------------------------------------------------------------------------

const isMtfDue = (n: NestedVmx): boolean => n.mtfPending || (n.mtfAfter >= 0 && n.vcpu.core.instructions > n.mtfAfter);

/** True: there was an exit, or something else changed: look again. */
export function beforeEvents(n: NestedVmx): boolean {
  const { vcpu, cpu } = n;
  const { activity } = vcpu;
  if (vcpu.pendingEvent !== 0) {
    const isTrap = vcpu.pendingIsNew && (vcpu.pendingEvent & 0xff) === VECTOR_DB;
    if (!isTrap || !isMtfDue(n)) {
      if (vcpu.pendingIsNew && judgeNewException(n)) return true;
      // The monitor trap is due before the handler's first instruction
      if (n.mtfAfter >= 0) n.mtfAfter = vcpu.core.instructions - 1;
      return false;
    }
    // The trap flag goes before the single-step trap, which stays pending
    n.pendingDebug |= vcpu.pendingPayloadLo;
    vcpu.pendingEvent = 0;
  }
  if (activity === 'wait for SIPI') return false;
  if (isMtfDue(n)) return vmExit(n, EXIT_REASONS.MONITOR_TRAP_FLAG);
  if (n.tprBelow && activity !== 'shutdown') return vmExit(n, EXIT_REASONS.TPR_BELOW_THRESHOLD);
  if (n.pendingDebug !== 0 && activity !== 'shutdown') {
    const bits = n.pendingDebug;
    n.pendingDebug = 0;
    vcpu.activity = 'running';
    vcpu.raiseDebug(bits);
    return true;
  }
  if (n.preemptionExpired) return vmExit(n, EXIT_REASONS.PREEMPTION_TIMER);
  const shadow = vcpu.shadow();
  const nmiFree = shadow !== MOV_SS && cpu.get(S.NMI_BLOCKED) === 0;
  if (nmiFree && (n.primary & PRIMARY.NMI_WINDOW_EXITING) !== 0) return vmExit(n, EXIT_REASONS.NMI_WINDOW);
  if (vcpu.nmiPending && n.hasPin(PIN.NMI_EXITING) && shadow !== MOV_SS && (n.virtualNmis || nmiFree)) {
    vcpu.nmiPending = false;
    return vmExit(n, EXIT_REASONS.EXCEPTION_OR_NMI, 0, 0, (VALID | TYPE.NMI | 2) >>> 0);
  }
  if (activity === 'shutdown' || shadow !== 0) return false;
  const isOpen = (cpu.get(S.RFLAGS) & RFLAGS.IF) !== 0;
  if (isOpen && (n.primary & PRIMARY.INTERRUPT_WINDOW_EXITING) !== 0) return vmExit(n, EXIT_REASONS.INTERRUPT_WINDOW);
  if (n.hasPin(PIN.EXTERNAL_INTERRUPT_EXITING) && vcpu.vm.irq.hasInterrupt(vcpu.index)) return externalInterrupt(n);
  return isOpen && deliverVirtualInterrupt(n);
}

/** With no event and no interrupt pending: is there nothing that `beforeEvents` or `instructionLimit` would look at? */
export function isQuiet(n: NestedVmx): boolean {
  return (
    n.mtfAfter < 0 &&
    !n.mtfPending &&
    !n.tprBelow &&
    n.pendingDebug === 0 &&
    !n.preemptionExpired &&
    !n.hasVirtualInterrupt &&
    (n.primary & (PRIMARY.NMI_WINDOW_EXITING | PRIMARY.INTERRUPT_WINDOW_EXITING)) === 0
  );
}

function externalInterrupt(n: NestedVmx): boolean {
  const { vcpu } = n;
  let info = 0;
  if (acknowledges(n)) {
    const vector = vcpu.vm.irq.acknowledge(vcpu.index);
    if (vector < 0 || takesPosted(n, vector)) return true;
    info = (VALID | TYPE.EXTERNAL | vector) >>> 0;
  }
  return vmExit(n, EXIT_REASONS.EXTERNAL_INTERRUPT, 0, 0, info);
}

/** Instructions that L2 may run before `beforeEvents` must look again. */
export function instructionLimit(n: NestedVmx): number {
  if (n.mtfAfter >= 0) return 1;
  if (n.cpu.get(S.SHADOW_KIND) !== 0 && n.vcpu.shadow() !== 0) {
    const windows = PRIMARY.INTERRUPT_WINDOW_EXITING | PRIMARY.NMI_WINDOW_EXITING;
    if ((n.primary & windows) !== 0 || n.vcpu.nmiPending || n.vcpu.vm.irq.hasInterrupt(n.vcpu.index)) return 1;
    if (n.hasVirtualInterrupt) return 1;
  }
  return Number.POSITIVE_INFINITY;
}

/** Does anything end an inactive state of L2 that L1's interrupts do not? */
export function wakes(n: NestedVmx): boolean {
  // Asked of vCPUs that do not run now: their registers are not in the engine
  const { activity, state } = n.vcpu;
  if (activity === 'wait for SIPI') return false;
  if (n.preemptionExpired || isMtfDue(n)) return true;
  if ((n.primary & PRIMARY.NMI_WINDOW_EXITING) !== 0 && state.u32(S.NMI_BLOCKED) === 0) return true;
  if (activity === 'shutdown') return n.vcpu.nmiPending;
  if (n.tprBelow || n.pendingDebug !== 0) return true;
  const isOpen = (state.u32(S.RFLAGS) & RFLAGS.IF) !== 0;
  return isOpen && ((n.primary & PRIMARY.INTERRUPT_WINDOW_EXITING) !== 0 || n.hasVirtualInterrupt);
}

// ---- INIT and SIPI -------------------------------------------------------------------------------------------------------

/** SDM 3C 23.8, 25.2: INIT is blocked in root operation, and an exit outside it. True: the vCPU does not do it. */
export function takesInit(n: NestedVmx): boolean {
  if (!n.vmxOn) return false;
  n.vcpu.initPending = false;
  if (!n.guestMode || n.vcpu.activity === 'wait for SIPI') n.initHeld = true;
  else {
    dropNewException(n);
    vmExit(n, EXIT_REASONS.INIT_SIGNAL);
  }
  return true;
}

/** True: not for the vCPU's own start-up. */
export function takesStartup(n: NestedVmx, vector: number): boolean {
  if (n.vcpu.activity === 'wait for SIPI') vmExit(n, EXIT_REASONS.STARTUP_IPI, vector);
  return true;
}

/** A fault that L0 found is found again when the instruction runs again. */
function dropNewException(n: NestedVmx): void {
  if (n.vcpu.pendingIsNew) n.vcpu.pendingEvent = 0;
}
