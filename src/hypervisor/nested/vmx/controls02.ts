/**
 * The engine's controls while L2 runs: those of vmcs12 with L0's own, which are few.
 *
 * Owns    the merge, and that it is done only when a control of vmcs12 has changed.
 *
 * Source  SDM 3C 24.6 "VM-Execution Control Fields", 25.1.3, 25.3; nested-mmu.md 4.10 step 2.
 */
import { CR0, CR4 } from '../../../arch/registers.ts';
import { PRIMARY, SECONDARY } from '../../../arch/vmx/controls.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { INTERCEPT } from '../../../engine/core/cpu.ts';
import { S } from '../../../engine/core/layout.ts';
import { announceAccessPage } from './apic-access.ts';
import type { MergedControls } from './merged-controls.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { noteReasons } from './turns.ts';
import { DIRTY } from './vmcs12.ts';

/** Control of L1 → instruction that leaves. */
const PRIMARY_INTERCEPTS: readonly (readonly [control: number, intercept: number])[] = [
  [PRIMARY.INVLPG_EXITING, INTERCEPT.INVLPG | INTERCEPT.INVPCID],
  [PRIMARY.MWAIT_EXITING, INTERCEPT.MWAIT],
  [PRIMARY.RDPMC_EXITING, INTERCEPT.RDPMC],
  [PRIMARY.RDTSC_EXITING, INTERCEPT.RDTSC | INTERCEPT.RDTSCP],
  [PRIMARY.MOV_DR_EXITING, INTERCEPT.MOV_DR],
  [PRIMARY.MONITOR_EXITING, INTERCEPT.MONITOR],
  [PRIMARY.PAUSE_EXITING, INTERCEPT.PAUSE],
  [PRIMARY.MONITOR_TRAP_FLAG, INTERCEPT.MONITOR_TRAP],
];
const SECONDARY_INTERCEPTS: readonly (readonly [control: number, intercept: number])[] = [
  [SECONDARY.DESCRIPTOR_TABLE_EXITING, INTERCEPT.DESCRIPTOR_TABLE],
  [SECONDARY.WBINVD_EXITING, INTERCEPT.WBINVD],
  [SECONDARY.PAUSE_LOOP_EXITING, INTERCEPT.PAUSE_LOOP],
];
/** Instructions that do not exist unless a control says so. */
const UNDEFINED_WITHOUT: readonly (readonly [control: number, intercept: number])[] = [
  [SECONDARY.ENABLE_RDTSCP, INTERCEPT.RDTSCP_UD],
  [SECONDARY.ENABLE_INVPCID, INTERCEPT.INVPCID_UD],
  [SECONDARY.ENABLE_XSAVES, INTERCEPT.XSAVES_UD],
];
/** L0's own: an idle L2 must not run on, and a task switch is always L1's. */
const ALWAYS = INTERCEPT.HLT | INTERCEPT.TASK_SWITCH;

/** What VMX operation fixes to 1 in L2's CR0 and CR4: SDM 3C 23.8, 26.3.1.1. */
export const fixedCr0 = (secondary: number): number =>
  ((secondary & SECONDARY.UNRESTRICTED_GUEST) !== 0 ? CR0.NE : CR0.NE | CR0.PE | CR0.PG) >>> 0;
export const FIXED_CR4 = CR4.VMXE;

/** Brings the control words, the engine's controls of L2 and its time-stamp counter up to date with vmcs12. */
export function mergeControls(n: NestedVmx): void {
  const { v } = n;
  // Changes before nearly every entry in some hypervisors, and costs nothing
  const usesOffset = (v.lo(FIELD.PRIMARY_CONTROLS) & PRIMARY.USE_TSC_OFFSETTING) !== 0;
  n.tsc.offsetLo = usesOffset ? v.lo(FIELD.TSC_OFFSET) : 0;
  n.tsc.offsetHi = usesOffset ? v.hi(FIELD.TSC_OFFSET) : 0;
  const { merged } = v;
  if ((v.dirty & DIRTY.CONTROLS) !== 0) {
    v.dirty &= ~DIRTY.CONTROLS;
    n.merges += 1;
    merge(n, merged);
  } else if (n.merged === merged) return;
  n.merged = merged;
  n.pin = merged.pin;
  n.primary = merged.primary;
  n.secondary = merged.secondary;
  n.tsc.isScaled = merged.isTscScaled;
  n.tsc.multiplierLo = merged.tscMultiplierLo;
  n.tsc.multiplierHi = merged.tscMultiplierHi;
  n.cpu.set(S.PLE_GAP, merged.pleGap);
  n.cpu.set(S.PLE_WINDOW, merged.pleWindow);
  announceAccessPage(n);
}

function merge(n: NestedVmx, merged: MergedControls): void {
  const { v } = n;
  const primary = v.lo(FIELD.PRIMARY_CONTROLS);
  const secondary = (primary & PRIMARY.ACTIVATE_SECONDARY_CONTROLS) !== 0 ? v.lo(FIELD.SECONDARY_CONTROLS) : 0;
  merged.pin = v.lo(FIELD.PIN_CONTROLS);
  merged.primary = primary;
  merged.secondary = secondary;
  const usesOffset = (primary & PRIMARY.USE_TSC_OFFSETTING) !== 0;
  merged.tscMultiplierLo = v.lo(FIELD.TSC_MULTIPLIER);
  merged.tscMultiplierHi = v.hi(FIELD.TSC_MULTIPLIER);
  // Hypervisors use it for guests of their own frequency, too: 1, with 48 fraction bits
  const isOne = merged.tscMultiplierLo === 0 && merged.tscMultiplierHi === 1 << 16;
  merged.isTscScaled = usesOffset && (secondary & SECONDARY.USE_TSC_SCALING) !== 0 && !isOne;
  merged.pleGap = v.lo(FIELD.PLE_GAP);
  merged.pleWindow = v.lo(FIELD.PLE_WINDOW);

  // All bits of a bitmap in a hole are set
  const msrBitmap = (primary & PRIMARY.USE_MSR_BITMAPS) !== 0 ? n.memory.offset(v.number(FIELD.MSR_BITMAP)) : -1;
  merged.msrBitmap = msrBitmap < 0 ? 1 : msrBitmap;

  noteReasons(merged);

  const into = merged.intercepts;
  into.exceptions = v.lo(FIELD.EXCEPTION_BITMAP);
  into.pageFaultMask = v.lo(FIELD.PAGE_FAULT_ERROR_CODE_MASK);
  into.pageFaultMatch = v.lo(FIELD.PAGE_FAULT_ERROR_CODE_MATCH);
  let instructions: number = ALWAYS;
  for (const [control, intercept] of PRIMARY_INTERCEPTS) if ((primary & control) !== 0) instructions |= intercept;
  for (const [control, intercept] of SECONDARY_INTERCEPTS) if ((secondary & control) !== 0) instructions |= intercept;
  for (const [control, intercept] of UNDEFINED_WITHOUT) if ((secondary & control) === 0) instructions |= intercept;
  into.instructions = instructions;

  // Bits that VMX fixes to 1 are L0's to watch; L2 reads them as they are.
  const fixed0 = fixedCr0(secondary);
  const mask0 = v.lo(FIELD.CR0_GUEST_HOST_MASK);
  into.cr0Mask = (mask0 | fixed0) >>> 0;
  into.cr0Shadow = ((v.lo(FIELD.CR0_READ_SHADOW) & mask0) | (fixed0 & ~mask0)) >>> 0;
  const mask4 = v.lo(FIELD.CR4_GUEST_HOST_MASK);
  into.cr4Mask = (mask4 | FIXED_CR4) >>> 0;
  into.cr4Shadow = ((v.lo(FIELD.CR4_READ_SHADOW) & mask4) | (FIXED_CR4 & ~mask4)) >>> 0;
  into.crAccess =
    ((primary & PRIMARY.CR3_LOAD_EXITING) !== 0 ? 1 : 0) |
    ((primary & PRIMARY.CR3_STORE_EXITING) !== 0 ? 2 : 0) |
    ((primary & PRIMARY.CR8_LOAD_EXITING) !== 0 ? 4 : 0) |
    ((primary & PRIMARY.CR8_STORE_EXITING) !== 0 ? 8 : 0);
  into.cr3TargetCount = v.lo(FIELD.CR3_TARGET_COUNT);
  for (let i = 0; i < 4; i += 1) {
    into.cr3Targets[2 * i] = v.lo(FIELD.CR3_TARGET_VALUE0 + i);
    into.cr3Targets[2 * i + 1] = v.hi(FIELD.CR3_TARGET_VALUE0 + i);
  }
}
