import type { FeatureName } from '../../arch/cpuid-features.ts';
import { VECTOR } from '../../arch/exceptions.ts';
import { type MsrModel, msrIndex, msrRow, msrWriteIsLegal } from '../../arch/msrs.ts';
import { CR4 } from '../../arch/registers.ts';
import { setEfer } from './control-registers.ts';
import { S, SEG, STATUS, segment } from './layout.ts';
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
    ] as const
  ).map(([name, cell, wide]) => [msrIndex(name), { cell, wide }]),
);

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
