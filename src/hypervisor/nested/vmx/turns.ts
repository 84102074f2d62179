/**
 * Turns: switches of level that L0 prepares, so that they happen while the engine's run goes on. After an entry whose L2 is plain
 * (EPT and VPID, 64-bit mode, no event, no window, no MSR areas …) turn-code.ts may do the exit, and the next entry, and so on,
 * as long as neither level changes more than general registers. Everything else goes through vm-exit.ts and vm-entry.ts.
 *
 * Owns    which entries are plain; L0's own part of a turn: who runs, the MMU's pointers, the TLB context, counters, time.
 * Knows   that who watches, debugs or waits is to see each exit: then there are no turns.
 *
 * Source  nested-mmu.md 4.10, 4.13: the steps, of which a turn leaves out those that find everything as it was.
 */
import { CR4, EFER, RFLAGS } from '../../../arch/registers.ts';
import { ACTIVITY, ENTRY, EXIT as EXIT_CONTROL, PIN, PRIMARY } from '../../../arch/vmx/controls.ts';
import { GUEST_CHECKS, VMX_CHECKS } from '../../../arch/vmx/entry-checks.ts';
import { EXIT_REASONS as R } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { WINDOW } from '../../../engine/core/cpu.ts';
import { X } from '../../../engine/core/exits.ts';
import { gpr, LOADS_VMCS, S, SEG, segment } from '../../../engine/core/layout.ts';
import type { Engine } from '../../../engine/engine.ts';
import type { Vcpu } from '../../vcpu/vcpu.ts';
import { mergeControls } from './controls02.ts';
import type { MergedControls } from './merged-controls.ts';
import { type NestedVmx, SWITCH_NS } from './nested-vmx.ts';
import { goesToL1, wantsMsr, wantsPort } from './routes.ts';
import { CR0_KEPT, rightsKey } from './state-areas.ts';
import { buildTurn, DR7_OF_EXIT, RUNS_ON, TURN } from './turn-code.ts';
import { TURNS } from './turn-registers.ts';
import { enterVirtualApic } from './virtual-apic.ts';

const DR7 = S.DR + 56;
const DR7_ENABLES = 0xff;
const VALID = 0x8000_0000;
const CS_LONG = 1 << 13;

/** Those that L1 gets if a bitmap says so: `leave` looks. */
const BY_BITMAP: readonly number[] = [R.IO_INSTRUCTION, R.RDMSR, R.WRMSR];
/** Exits by instructions that L1 gets as they are, if it gets them. */
const REASONS: readonly number[] = [
  ...[R.CPUID, R.INVD, R.INVLPG, R.RDPMC, R.RDTSC, R.VMCALL, R.VMCLEAR, R.VMLAUNCH, R.VMPTRLD, R.VMPTRST, R.VMRESUME],
  ...[R.VMXOFF, R.VMXON, R.MWAIT, R.MONITOR, R.PAUSE, R.INVEPT, R.RDTSCP, R.INVVPID, R.WBINVD, R.XSETBV],
  ...BY_BITMAP,
];

/** Gives the engine the code; `running` is the vCPU that runs. */
export function installTurns(engine: Engine, running: () => Vcpu): void {
  engine.installTurn(buildTurn, (isEntry) => {
    const n = running().nested as NestedVmx;
    return isEntry !== 0 ? enter(n) : leave(n);
  });
}

/** What REASONS are L1's under vmcs12's controls: as TURN.REASONS has them. After a merge. */
export function noteReasons(merged: MergedControls): void {
  let lo = 0;
  let hi = 0;
  for (const reason of REASONS) {
    if (!goesToL1(merged, reason) && !BY_BITMAP.includes(reason)) continue;
    if (reason < 32) lo |= 1 << reason;
    else hi |= 1 << (reason - 32);
  }
  merged.turnReasonsLo = lo;
  merged.turnReasonsHi = hi;
}

/** The next exit and the next entry of the current VMCS go the whole way. */
export function preventTurns(n: NestedVmx): void {
  n.cache.setReady(n.v, false);
  n.allowTurns();
}

// ---- after an entry ------------------------------------------------------------------------------------------------------

/** What vm-entry.ts has seen of L1 before it went: CR0 and CR4 are still in vmcs12's host area if L1 is plain. */
export interface L1Before {
  isLong: boolean;
  cr0: number;
  cr4: number;
  efer: number;
  patLo: number;
  patHi: number;
  quick: number;
  quickReserved: number;
}

/** L2 is about to run after an entry that went the whole way: prepares turns if it is plain. */
export function prepareTurns(n: NestedVmx, l1: L1Before): void {
  const { v, vcpu, cpu } = n;
  if (!isPlainL2(n) || !isPlainL1(n, l1)) return;
  const { turn } = v;
  turn.cr0Of1 = l1.cr0;
  turn.cr4Of1 = l1.cr4;
  turn.eferOf1 = l1.efer;
  turn.pcidOf1 = (l1.cr4 & CR4.PCIDE) !== 0 ? v.lo(FIELD.HOST_CR3) & 0xfff : 0;
  turn.cr0Of2 = cpu.cr0;
  turn.cr4Of2 = cpu.cr4;
  turn.eferOf2 = cpu.efer;
  turn.pcidOf2 = (cpu.cr4 & CR4.PCIDE) !== 0 ? cpu.get(S.CR3) & 0xfff : 0;
  turn.rightsOf1 = n.rightsOfL1;
  turn.rightsOf2 = rightsKey(cpu);
  turn.tagOf2 = vcpu.mmu.currentTag();
  n.rightsByTag[turn.tagOf2] = turn.rightsOf2;

  const at = v.cells;
  cpu.set(RUNS_ON, at);
  cpu.set(at + TURN.TURNS_1, n.loadsVmcs ? TURNS.L1_MAY_ENTER | LOADS_VMCS : TURNS.L1_MAY_ENTER);
  cpu.set(at + TURN.COST, SWITCH_NS / vcpu.vm.options.nsPerInstruction);
  cpu.set64(at + TURN.REASONS, n.merged.turnReasonsLo, n.merged.turnReasonsHi);
  cpu.set(at + TURN.CR0_1, l1.cr0);
  cpu.set(at + TURN.CR4_1, l1.cr4);
  cpu.set(at + TURN.EFER_1, l1.efer);
  cpu.set64(at + TURN.PAT_1, l1.patLo, l1.patHi);
  cpu.set(at + TURN.QUICK_1, l1.quick);
  cpu.set(at + TURN.QUICK_1 + 4, l1.quickReserved);
  cpu.set(at + TURN.EFER_2, cpu.efer);
  cpu.copy64(at + TURN.PAT_2, S.PAT);
  cpu.copy64(at + TURN.DR7_2, DR7);
  cpu.set(at + TURN.DEBUGCTL_2, cpu.get(S.DEBUGCTL));
  cpu.set(at + TURN.KNOWS_TSC, n.tsc.isScaled ? 0 : 0xffff_ffff);
  cpu.set64(at + TURN.TSC_OFFSET, n.tsc.offsetLo, n.tsc.offsetHi);
  n.cache.setReady(v, true);
  cpu.set(S.TURNS, TURNS.L2_MAY_LEAVE);
}

/** Nothing of L2 is to be looked at between two instructions, and its exit would save what its entry loads. */
function isPlainL2(n: NestedVmx): boolean {
  const { v, vcpu, cpu } = n;
  const exit = v.lo(FIELD.EXIT_CONTROLS);
  const entry = v.lo(FIELD.ENTRY_CONTROLS);
  const looked = PRIMARY.MONITOR_TRAP_FLAG | PRIMARY.NMI_WINDOW_EXITING | PRIMARY.INTERRUPT_WINDOW_EXITING;
  if ((n.primary & looked) !== 0 || !vcpu.mmu.mayFindAll || vcpu.vm.options.force || !n.usesEpt || !n.usesVpid)
    return false;
  if ((exit & EXIT_CONTROL.SAVE_PREEMPTION_TIMER) !== 0) return false;
  if (!cpu.ia32e || (cpu.get(segment(SEG.CS) + SEG.ACCESS) & CS_LONG) === 0) return false;
  if (vcpu.pendingEvent !== 0 || n.mtfPending || n.pendingDebug !== 0 || vcpu.activity !== 'running' || n.initHeld) {
    return false;
  }
  if (v.dirty !== 0 || v.judgedMode !== 1 || (v.lo(FIELD.ENTRY_INTERRUPTION_INFO) & VALID) !== 0) return false;
  const counts = FIELD.ENTRY_MSR_LOAD_COUNT;
  if ((v.lo(counts) | v.lo(FIELD.EXIT_MSR_STORE_COUNT) | v.lo(FIELD.EXIT_MSR_LOAD_COUNT)) !== 0) return false;
  if (v.lo(FIELD.GUEST_ACTIVITY_STATE) !== ACTIVITY.ACTIVE) return false;
  if ((v.lo(FIELD.GUEST_INTERRUPTIBILITY_STATE) | v.lo(FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS)) !== 0) return false;
  const isSame = (field: number, cell: number): boolean => v.lo(field) === cpu.get(cell) && v.hi(field) === 0;
  if ((cpu.get(DR7) & DR7_ENABLES) !== 0) return false;
  // What an entry does not load L2 has of L1; turn-code.ts sees to it that L1 has left it as an exit does
  const isAsLoaded = cpu.get(DR7) === DR7_OF_EXIT && cpu.get(S.DEBUGCTL) === 0;
  if ((entry & ENTRY.LOAD_DEBUG_CONTROLS) === 0 && !isAsLoaded) return false;
  const savesDebug = (exit & EXIT_CONTROL.SAVE_DEBUG_CONTROLS) !== 0;
  const isDebugSame = isSame(FIELD.GUEST_DR7, DR7) && isSame(FIELD.GUEST_IA32_DEBUGCTL, S.DEBUGCTL);
  if (savesDebug && !isDebugSame) return false;
  if ((exit & EXIT_CONTROL.SAVE_EFER) !== 0 && !isSame(FIELD.GUEST_IA32_EFER, S.EFER)) return false;
  if ((entry & ENTRY.IA32E_MODE_GUEST) === 0) return false;
  const savesPat = (exit & EXIT_CONTROL.SAVE_PAT) !== 0;
  const pat = FIELD.GUEST_IA32_PAT;
  return !savesPat || (v.lo(pat) === cpu.get(S.PAT) && v.hi(pat) === cpu.get(S.PAT + 4));
}

/** An exit would load what L1 had before the entry. */
function isPlainL1(n: NestedVmx, l1: L1Before): boolean {
  const { v, cpu } = n;
  const exit = v.lo(FIELD.EXIT_CONTROLS);
  if (!l1.isLong || (exit & EXIT_CONTROL.HOST_ADDRESS_SPACE_SIZE) === 0) return false;
  if (!Number.isInteger(SWITCH_NS / n.vcpu.vm.options.nsPerInstruction)) return false;
  if (((v.lo(FIELD.HOST_CR0) ^ l1.cr0) & ~CR0_KEPT) !== 0 || v.lo(FIELD.HOST_CR4) !== l1.cr4) return false;
  const loads = (exit & EXIT_CONTROL.LOAD_EFER) !== 0;
  const efer = loads ? v.lo(FIELD.HOST_IA32_EFER) : cpu.efer | EFER.LMA | EFER.LME;
  if (efer >>> 0 !== l1.efer) return false;
  const loadsPat = (exit & EXIT_CONTROL.LOAD_PAT) !== 0;
  const patLo = loadsPat ? v.lo(FIELD.HOST_IA32_PAT) : cpu.get(S.PAT);
  const patHi = loadsPat ? v.hi(FIELD.HOST_IA32_PAT) : cpu.get(S.PAT + 4);
  return patLo === l1.patLo && patHi === l1.patHi;
}

// ---- L0's part of a turn ---------------------------------------------------------------------------------------------------

/** Somebody is to see this exit, or something waits for a look between two instructions. */
function isSeen(vcpu: Vcpu): boolean {
  const { vm } = vcpu;
  return (
    vm.watcher !== undefined ||
    vm.debugger !== undefined ||
    vm.log !== undefined ||
    vm.stopped ||
    vcpu.pendingEvent !== 0 ||
    vcpu.nmiPending ||
    vcpu.initPending ||
    vcpu.sipiVector >= 0 ||
    vcpu.mmu.requests !== 0 ||
    vm.mmu.weakened
  );
}

/** Settles the count of instructions: `retired` of them have, of what the run has left. */
function account(n: NestedVmx, retired: number): void {
  const { vcpu, cpu } = n;
  const { core } = vcpu;
  const left = cpu.i32[S.BUDGET >>> 2]!;
  core.instructions += core.slice - left + retired;
  core.slice = left - retired - cpu.get(n.v.cells + TURN.COST);
  vcpu.stallNs += SWITCH_NS;
}

/** The level that runs from here on, for the engine. The address of its TLB context. */
function settle(n: NestedVmx, pcid: number, waits: boolean): number {
  const { vcpu, cpu } = n;
  n.turns += 1;
  const { core } = vcpu;
  const { intercepts } = core;
  intercepts.nmiWindow = false;
  intercepts.interruptWindow = waits;
  if (!waits) vcpu.woken = false;
  cpu.set(S.INTERCEPTED, waits ? intercepts.instructions | WINDOW : intercepts.instructions);
  vcpu.mmu.loadTag();
  const { tlb } = cpu;
  core.context = tlb.find(core.index, core.vpid, core.root.id, pcid);
  cpu.set(S.ROOT, core.root.id);
  cpu.aligning = false;
  return tlb.address(core.context);
}

/** Does L1's bitmap ask for this port or MSR? */
const isWanted = (n: NestedVmx, reason: number): boolean =>
  reason === R.IO_INSTRUCTION ? wantsPort(n) : wantsMsr(n, n.cpu.get(gpr(1)), reason === R.WRMSR);

function leave(n: NestedVmx): number {
  const { vcpu, cpu } = n;
  const { turn } = n.v;
  if (isSeen(vcpu) || n.pendingDebug !== 0 || n.mtfPending || n.preemptionExpired || cpu.walker.watching) return 0;
  const reason = cpu.get(X.REASON);
  if (reason >= R.IO_INSTRUCTION && reason <= R.WRMSR && !isWanted(n, reason)) return 0;
  if (!vcpu.mmu.returnAsBefore(turn.cr0Of1, turn.cr4Of1, turn.eferOf1)) return 0;
  account(n, 0);
  if (n.preemptionIsLate) n.preemptionIsLate = false;
  else if ((n.pin & PIN.PREEMPTION_TIMER) !== 0) n.preemptionTimer.disarm();
  n.tprBelow = false;
  vcpu.exits[reason] = vcpu.exits[reason]! + 1;
  n.exitsToL1[reason] = n.exitsToL1[reason]! + 1;
  n.guestMode = false;
  vcpu.core.intercepts = n.l1Intercepts;
  return settle(n, turn.pcidOf1, vcpu.vm.irq.hasInterrupt(vcpu.index));
}

/** The checks that are due although no field has changed. */
function passes(n: NestedVmx): boolean {
  const { v, context } = n;
  context.lma = true;
  context.currentVmcs = v.address;
  return (
    VMX_CHECKS.firstFailureAmong(v.vmxSuspects, v, context, true) === undefined &&
    GUEST_CHECKS.firstFailureAmong(v.guestSuspects, v, context, true) === undefined
  );
}

function enter(n: NestedVmx): number {
  const { cpu, vcpu } = n;
  if ((cpu.get(S.VMPTRLDS) | cpu.get(S.VMCLEARS)) !== 0) n.follow();
  if (isSeen(vcpu) || n.initHeld || cpu.walker.watching) return 0;
  const { v } = n;
  // Those of the VMCS that was current at the last entry, if this is another one
  if (n.merged !== v.merged) mergeControls(n);
  const waits = vcpu.vm.irq.hasInterrupt(vcpu.index);
  if (waits && mayInterrupt(n)) return 0;
  const isTimed = (n.pin & PIN.PREEMPTION_TIMER) !== 0;
  if (isTimed && preemptionNs(n) <= SOON_SWITCHES * SWITCH_NS) return 0;
  // Rows that read memory are due each time
  if (!passes(n)) return 0;
  enterVirtualApic(n);
  const { turn } = v;
  if (n.tprBelow || n.hasVirtualInterrupt || n.rightsByTag[turn.tagOf2] !== turn.rightsOf2) return 0;
  if (!vcpu.mmu.enterAsBefore(turn.cr0Of2, turn.cr4Of2, turn.eferOf2)) return 0;
  account(n, 1);
  if (isTimed) startTimer(n);
  vcpu.exits[R.VMRESUME] = vcpu.exits[R.VMRESUME]! + 1;
  n.entries += 1;
  n.rightsOfL1 = turn.rightsOf1;
  n.guestMode = true;
  vcpu.core.intercepts = n.merged.intercepts;
  return settle(n, turn.pcidOf2, waits);
}

/** An interrupt that waits would be delivered behind the entry, or leave. */
const mayInterrupt = (n: NestedVmx): boolean =>
  (n.v.lo(FIELD.GUEST_RFLAGS) & RFLAGS.IF) !== 0 || n.hasPin(PIN.EXTERNAL_INTERRUPT_EXITING);

/** The VMX-preemption timer does not end before. */
const preemptionNs = (n: NestedVmx): number => (n.v.lo(FIELD.PREEMPTION_TIMER_VALUE) - 1) * n.preemptionTickNs;
/** What ends sooner than after so many switches is left to an entry that looks at everything. */
const SOON_SWITCHES = 4;

/** Behind `account`: the VMX-preemption timer has been started by this entry. */
function startTimer(n: NestedVmx): void {
  const { vcpu, cpu } = n;
  const { core, vm } = vcpu;
  n.preemptionIsLate = true;
  n.preemptionSinceInstructions = core.instructions;
  n.preemptionSinceStallNs = vcpu.stallNs - SWITCH_NS;
  // It counts from before the instruction, and the switch
  if (preemptionNs(n) > core.slice * vm.options.nsPerInstruction + 2 * SWITCH_NS) return;
  // It may end before the run does: the run ends where it would end if the timer had been there when it began
  afterRun(n);
  const more = core.slice - vm.instructionsUntil(n.preemptionDeadlineNs);
  if (more <= 0) return;
  const end = core.instructions + core.slice - more;
  core.slice -= more;
  cpu.i32[S.BUDGET >>> 2] = cpu.i32[S.BUDGET >>> 2]! - more;
  // The turn takes its cost off, too
  const charged = end + cpu.get(n.v.cells + TURN.COST);
  cpu.set64(S.RETIRED_AT_END, charged >>> 0, Math.floor(charged / 0x1_0000_0000));
}

/** The run is over: what a turn has left for now. */
export function afterRun(n: NestedVmx): void {
  if (!n.preemptionIsLate) return;
  n.preemptionIsLate = false;
  const { vcpu, v } = n;
  const { clock, options } = vcpu.vm;
  const instructions = vcpu.core.instructions - n.preemptionSinceInstructions;
  const since = instructions * options.nsPerInstruction + vcpu.stallNs - n.preemptionSinceStallNs;
  const tick = n.preemptionTickNs;
  const ticks = Math.floor((clock.nowNs() - since) / tick) + v.lo(FIELD.PREEMPTION_TIMER_VALUE);
  n.preemptionDeadlineNs = ticks * tick;
  n.preemptionTimer.arm(n.preemptionDeadlineNs);
}
