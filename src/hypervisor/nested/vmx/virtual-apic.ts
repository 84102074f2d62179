/**
 * The virtual APIC of L2: TPR shadow, x2APIC virtualization, virtual-interrupt delivery, posted interrupts, on the
 * virtual-APIC page that L1 keeps in its memory.
 *
 * Source  SDM 3C 29 "APIC Virtualization and Virtual Interrupts".
 */

import { wordAt } from '../../../arch/apic/image.ts';
import { APIC } from '../../../arch/apic/registers.ts';
import { VECTOR } from '../../../arch/exceptions.ts';
import { PRIMARY, SECONDARY } from '../../../arch/vmx/controls.ts';
import { EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { gpr } from '../../../engine/core/layout.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { raise } from './operands.ts';
import { vmExit } from './vm-exit.ts';

const TSC = 0x10;

const usesTprShadow = (n: NestedVmx): boolean => (n.primary & PRIMARY.USE_TPR_SHADOW) !== 0;
const hasVid = (n: NestedVmx): boolean => (n.secondary & SECONDARY.VIRTUAL_INTERRUPT_DELIVERY) !== 0;

/** First word of the virtual-APIC page, or -1: VM entry has checked the address, not that there is memory. */
const page = (n: NestedVmx): number => {
  const offset = n.memory.offset(n.v.number(FIELD.VIRTUAL_APIC_ADDRESS));
  return offset < 0 ? -1 : offset >>> 2;
};

const vtpr = (n: NestedVmx): number => {
  const base = page(n);
  return base < 0 ? 0 : n.memory.words[wordAt(base, APIC.TPR)]! & 0xff;
};

/** After VM entry: SDM 3C 26.7.7 "VM Exits Induced by the TPR Threshold", 26.3.2.5 "Updating Non-Register State". */
export function enterVirtualApic(n: NestedVmx): void {
  n.tprBelow = false;
  n.hasVirtualInterrupt = false;
  if (!usesTprShadow(n)) return;
  if (!hasVid(n)) n.tprBelow = isBelowThreshold(n);
}

const isBelowThreshold = (n: NestedVmx): boolean => vtpr(n) >>> 4 < (n.v.lo(FIELD.TPR_THRESHOLD) & 15);

/** MOV CR8 of L2 that L1 does not intercept. False: there is no shadow, CR8 is L1's own APIC's. */
export function virtualizeCr8(n: NestedVmx, isLoad: boolean, register: number): boolean {
  if (!usesTprShadow(n)) return false;
  const { cpu, vcpu } = n;
  const base = page(n);
  const cell = gpr(register);
  if (!isLoad) {
    cpu.set64(cell, vtpr(n) >>> 4, 0);
    vcpu.skip();
    return true;
  }
  const value = cpu.get(cell);
  if (value > 15 || (cpu.long && cpu.get(cell + 4) !== 0)) return raise(n, VECTOR.GP);
  if (base >= 0) n.memory.write32(n.v.number(FIELD.VIRTUAL_APIC_ADDRESS) + APIC.TPR, value << 4);
  vcpu.skip();
  tprVirtualization(n);
  return true;
}

/** SDM 3C 29.1.2 "TPR Virtualization": after VTPR was written; the instruction is over. */
function tprVirtualization(n: NestedVmx): void {
  if (!hasVid(n) && isBelowThreshold(n)) vmExit(n, EXIT_REASONS.TPR_BELOW_THRESHOLD);
}

/** An MSR access that L1 does not intercept. False: L0's ordinary MSRs. */
export function virtualizeMsr(n: NestedVmx, isWrite: boolean): boolean {
  const { cpu, vcpu } = n;
  const index = cpu.get(gpr(1));
  if (index !== TSC || isWrite) return false;
  vcpu.tsc.read();
  n.tsc.apply(vcpu.tsc);
  cpu.set64(gpr(0), vcpu.tsc.lo, 0);
  cpu.set64(gpr(2), vcpu.tsc.hi, 0);
  vcpu.skip();
  return true;
}

export function deliverVirtualInterrupt(_n: NestedVmx): boolean {
  return false;
}

export function takesPosted(_n: NestedVmx): boolean {
  return false;
}
