import type { FeatureName } from '../../arch/cpuid-features.ts';
import { VECTOR } from '../../arch/exceptions.ts';
import { type MsrModel, msrExists, msrIndex, msrRow, msrWriteIsLegal, writableLow } from '../../arch/msrs.ts';
import { CR4 } from '../../arch/registers.ts';
import { assert } from '../../base/assert.ts';
import { setEfer } from './control-registers.ts';
import type { CpuState } from './cpu.ts';
import { OPEN_MSR, OPEN_MSRS, openMsrSlot, S, SEG, STATUS, segment } from './layout.ts';
import { setBase } from './operands.ts';
import type { Processor } from './processor.ts';

/**
 * The MSRs that live in the vCPU's state. RDMSR and WRMSR leave to L0; for rows whose owner is `engine` it calls these.
 *
 * Source  SDM 4 2 "Model-Specific Registers"; legality is arch/msrs.ts.
 */

/** 32-bit cells have their upper half read as 0 and not written. */
const CELLS: ReadonlyMap<number, { readonly cell: number; readonly wide: boolean }> = new Map(
  (
    [
      ['IA32_EFER', S.EFER, false],
      ['IA32_STAR', S.STAR, true],
      ['IA32_LSTAR', S.LSTAR, true],
      ['IA32_CSTAR', S.CSTAR, true],
      ['IA32_FMASK', S.FMASK, false],
      ['IA32_FS_BASE', segment(SEG.FS) + SEG.BASE, true],
      ['IA32_GS_BASE', segment(SEG.GS) + SEG.BASE, true],
      ['IA32_KERNEL_GS_BASE', S.KERNEL_GS_BASE, true],
      ['IA32_TSC_AUX', S.TSC_AUX, false],
      ['IA32_SYSENTER_CS', S.SYSENTER_CS, false],
      ['IA32_SYSENTER_ESP', S.SYSENTER_ESP, true],
      ['IA32_SYSENTER_EIP', S.SYSENTER_EIP, true],
      ['IA32_PAT', S.PAT, true],
      ['IA32_XSS', S.XSS, false],
      ['IA32_DEBUGCTL', S.DEBUGCTL, false],
      ['IA32_SPEC_CTRL', S.SPEC_CTRL, false],
    ] as const
  ).map(([name, cell, wide]) => [msrIndex(name), { cell, wide }]),
);

/** What a hypervisor reads and writes around each run of its guest. */
const OPEN = [
  ['IA32_SPEC_CTRL', S.SPEC_CTRL, OPEN_MSR.READ | OPEN_MSR.WRITE],
  ['IA32_PRED_CMD', S.WRITE_ONLY_MSR, OPEN_MSR.WRITE],
  ['IA32_DEBUGCTL', S.DEBUGCTL, OPEN_MSR.READ],
] as const;

/** Lays OPEN_MSRS open in a state block, as far as the model has them. */
export function layOpenMsrs(state: CpuState, model: MsrModel): void {
  for (const [name, cell, access] of OPEN) {
    const row = msrRow(msrIndex(name))!;
    if (!msrExists(row, model)) continue;
    assert(row.index < 0x2000, 'its bits are in the first half of a bitmap');
    const slot = OPEN_MSRS.AT + OPEN_MSRS.SLOT_BYTES * openMsrSlot(row.index);
    const taken = state.u32(slot + OPEN_MSRS.CELL) !== 0 && state.u32(slot + OPEN_MSRS.INDEX) !== row.index;
    assert(!taken, 'two open MSRs have two slots');
    state.setU32(slot + OPEN_MSRS.INDEX, row.index);
    state.setU32(slot + OPEN_MSRS.CELL, cell);
    state.setU32(slot + OPEN_MSRS.WRITABLE, (access & OPEN_MSR.WRITE) !== 0 ? writableLow(row, model) : 0);
    state.setU32(slot + OPEN_MSRS.ACCESS, access);
  }
}

const EFER_INDEX = msrIndex('IA32_EFER');
const FS_BASE = msrIndex('IA32_FS_BASE');
const GS_BASE = msrIndex('IA32_GS_BASE');

/** Is this MSR kept here? */
export const isEngineMsr = (index: number): boolean => CELLS.has(index);

/** Reads an MSR that is kept here into `low`, `high`; false if it is not. */
export function engineMsrRead(cpu: Processor, index: number): boolean {
  const place = CELLS.get(index);
  if (place === undefined) return false;
  cpu.low = cpu.get(place.cell);
  cpu.high = place.wide ? cpu.get(place.cell + 4) : 0;
  return true;
}

/**
 * Writes an MSR that is kept here, with the checks of WRMSR.
 *
 * @returns NEXT, or FAULT with #GP(0) recorded: for an illegal value, or an MSR that is not kept here.
 */
export function engineMsrWrite(cpu: Processor, index: number, low: number, high: number): number {
  const place = CELLS.get(index);
  const row = msrRow(index);
  if (place === undefined || row === undefined) return cpu.fault(VECTOR.GP, 0);
  if (index === EFER_INDEX) return setEfer(cpu, low, high);
  if (!msrWriteIsLegal(row, low, high, modelOf(cpu))) return cpu.fault(VECTOR.GP, 0);
  if (index === FS_BASE || index === GS_BASE) setBase(cpu, index === FS_BASE ? SEG.FS : SEG.GS, low, high);
  else if (place.wide) cpu.set64(place.cell, low, high);
  else cpu.set(place.cell, low);
  return STATUS.NEXT;
}

let model: MsrModel | undefined;
let modelFor: Processor | undefined;

/** What the rows ask of the model; made once for each processor. */
function modelOf(cpu: Processor): MsrModel {
  if (model === undefined || modelFor !== cpu) {
    modelFor = cpu;
    model = {
      vendor: cpu.features.vendor,
      has: (feature: FeatureName) => cpu.features.has(feature),
      physicalAddressBits: cpu.features.physicalBits,
      // What the processor has, not what CR4.LA57 says: see Processor.canBeBase
      linearAddressBits: cpu.features.cr4 & CR4.LA57 ? 57 : 48,
    };
  }
  return model;
}
