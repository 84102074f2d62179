/**
 * The virtual APIC of L2 on the page that L1 keeps in its memory: TPR shadow, x2APIC mode, APIC-register
 * virtualization, virtual-interrupt delivery, posted interrupts.
 *
 * Owns    the guest interrupt status (RVI, SVI), and which accesses are virtualized and which leave.
 * Knows   accesses to the APIC-access page only as offsets: apic-access.ts brings them.
 *
 * Source  SDM 3C 29 "APIC Virtualization and Virtual Interrupts".
 */
import { mergePosted, wordAt } from '../../../arch/apic/image.ts';
import { APIC } from '../../../arch/apic/registers.ts';
import {
  deliverVirtualInterrupt as deliver,
  interruptStatus,
  isVirtualInterruptPending,
  requestVirtualInterrupt,
  rviOf,
  sviOf,
  virtualizeEoi,
  virtualizePpr,
} from '../../../arch/apic/virtual-interrupts.ts';
import { VECTOR } from '../../../arch/exceptions.ts';
import { PIN, PRIMARY, SECONDARY } from '../../../arch/vmx/controls.ts';
import { EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { gpr } from '../../../engine/core/layout.ts';
import type { NestedVmx } from './nested-vmx.ts';
import { raise } from './operands.ts';
import { vmExit } from './vm-exit.ts';

const TSC = 0x10;
/** x2APIC MSRs: SDM 3A 10.12.1.2. */
const X2APIC_FIRST = 0x800;
const X2APIC_LAST = 0x8ff;
const EXTERNAL_INTERRUPT = 0x8000_0000;

export const usesTprShadow = (n: NestedVmx): boolean => (n.primary & PRIMARY.USE_TPR_SHADOW) !== 0;
export const hasVid = (n: NestedVmx): boolean => (n.secondary & SECONDARY.VIRTUAL_INTERRUPT_DELIVERY) !== 0;
export const virtualizesRegisters = (n: NestedVmx): boolean =>
  (n.secondary & SECONDARY.APIC_REGISTER_VIRTUALIZATION) !== 0;

/** Index of the page's first word, or -1: VM entry checks the address, not that there is memory. */
const page = (n: NestedVmx): number => {
  const offset = n.memory.offset(n.v.number(FIELD.VIRTUAL_APIC_ADDRESS));
  return offset < 0 ? -1 : offset >>> 2;
};

/** A register of the virtual-APIC page. A hole reads as 0 here: nothing is pending in it. */
export function readRegister(n: NestedVmx, offset: number): number {
  const base = page(n);
  return base < 0 ? 0 : n.memory.words[wordAt(base, offset)]!;
}

export function writeRegister(n: NestedVmx, offset: number, value: number): void {
  n.memory.write32(n.v.number(FIELD.VIRTUAL_APIC_ADDRESS) + offset, value);
}

const status = (n: NestedVmx): number => n.v.lo(FIELD.GUEST_INTERRUPT_STATUS);

/** SDM 3C 29.2.1 "Evaluation of Pending Virtual Interrupts". */
function evaluate(n: NestedVmx): void {
  const base = page(n);
  n.hasVirtualInterrupt = base >= 0 && isVirtualInterruptPending(n.memory.words, base, status(n));
  if (n.hasVirtualInterrupt) n.vcpu.woken = true;
}

/** After VM entry: SDM 3C 26.3.2.5 "Updating Non-Register State", 26.7.7 "VM Exits Induced by the TPR Threshold". */
export function enterVirtualApic(n: NestedVmx): void {
  n.tprBelow = false;
  n.hasVirtualInterrupt = false;
  if (!usesTprShadow(n)) return;
  if (hasVid(n)) {
    const base = page(n);
    if (base >= 0) virtualizePpr(n.memory.words, base, status(n));
    evaluate(n);
  } else n.tprBelow = isBelowThreshold(n);
}

const vtpr = (n: NestedVmx): number => readRegister(n, APIC.TPR) & 0xff;
const isBelowThreshold = (n: NestedVmx): boolean => vtpr(n) >>> 4 < (n.v.lo(FIELD.TPR_THRESHOLD) & 15);

// ---- what follows a write: the instruction is over ---------------------------------------------------------------------

/** SDM 3C 29.1.2 "TPR Virtualization". */
export function tprVirtualization(n: NestedVmx): void {
  if (!hasVid(n)) {
    if (isBelowThreshold(n)) vmExit(n, EXIT_REASONS.TPR_BELOW_THRESHOLD);
    return;
  }
  const base = page(n);
  if (base >= 0) virtualizePpr(n.memory.words, base, status(n));
  evaluate(n);
}

/** SDM 3C 29.1.4 "EOI Virtualization". */
export function eoiVirtualization(n: NestedVmx): void {
  const base = page(n);
  if (base < 0) return;
  const vector = sviOf(status(n));
  n.v.set(FIELD.GUEST_INTERRUPT_STATUS, virtualizeEoi(n.memory.words, base, status(n)));
  const bitmap = n.v;
  const row = FIELD.EOI_EXIT_BITMAP0 + (vector >>> 6);
  const half = (vector & 32) !== 0 ? bitmap.hi(row) : bitmap.lo(row);
  if (((half >>> (vector & 31)) & 1) !== 0) vmExit(n, EXIT_REASONS.VIRTUALIZED_EOI, vector);
  else evaluate(n);
}

/** SDM 3C 29.1.5 "Self-IPI Virtualization". */
export function selfIpiVirtualization(n: NestedVmx, vector: number): void {
  const base = page(n);
  if (base < 0) return;
  n.v.set(FIELD.GUEST_INTERRUPT_STATUS, requestVirtualInterrupt(n.memory.words, base, status(n), vector));
  evaluate(n);
}

// ---- CR8 and MSRs --------------------------------------------------------------------------------------------------------

/** MOV CR8 of L2 that L1 does not intercept. False: there is no shadow, CR8 is L1's own APIC's. */
export function virtualizeCr8(n: NestedVmx, isLoad: boolean, register: number): boolean {
  if (!usesTprShadow(n)) return false;
  const { cpu, vcpu } = n;
  const cell = gpr(register);
  if (!isLoad) {
    cpu.set64(cell, vtpr(n) >>> 4, 0);
    vcpu.skip();
    return true;
  }
  const value = cpu.get(cell);
  if (value > 15 || (cpu.long && cpu.get(cell + 4) !== 0)) return raise(n, VECTOR.GP);
  writeRegister(n, APIC.TPR, value << 4);
  vcpu.skip();
  tprVirtualization(n);
  return true;
}

/** RDMSR or WRMSR that L1 does not intercept. False: L0's ordinary MSRs. */
export function virtualizeMsr(n: NestedVmx, isWrite: boolean): boolean {
  const index = n.cpu.get(gpr(1));
  if (index === TSC && !isWrite) {
    n.vcpu.tsc.read();
    n.tsc.apply(n.vcpu.tsc);
    return answer(n, n.vcpu.tsc.lo, n.vcpu.tsc.hi);
  }
  if (index < X2APIC_FIRST || index > X2APIC_LAST) return false;
  if ((n.secondary & SECONDARY.VIRTUALIZE_X2APIC_MODE) === 0) return false;
  const offset = (index & 0xff) << 4;
  return isWrite ? writeX2apic(n, offset) : readX2apic(n, offset);
}

function answer(n: NestedVmx, lo: number, hi: number): true {
  n.cpu.set64(gpr(0), lo, 0);
  n.cpu.set64(gpr(2), hi, 0);
  n.vcpu.skip();
  return true;
}

/** SDM 3C 29.5 "Virtualizing MSR-Based APIC Accesses". */
function readX2apic(n: NestedVmx, offset: number): boolean {
  if (!virtualizesRegisters(n) && offset !== APIC.TPR) return false;
  return answer(n, readRegister(n, offset), virtualizesRegisters(n) ? readRegister(n, offset + 4) : 0);
}

function writeX2apic(n: NestedVmx, offset: number): boolean {
  const lo = n.cpu.get(gpr(0));
  const hi = n.cpu.get(gpr(2));
  if (offset === APIC.TPR) {
    if (hi !== 0 || lo > 0xff) return raise(n, VECTOR.GP);
    writeRegister(n, offset, lo);
    n.vcpu.skip();
    tprVirtualization(n);
    return true;
  }
  if (!hasVid(n)) return false;
  if (offset === APIC.EOI) {
    if (hi !== 0 || lo !== 0) return raise(n, VECTOR.GP);
    writeRegister(n, offset, 0);
    n.vcpu.skip();
    eoiVirtualization(n);
    return true;
  }
  if (offset !== APIC.SELF_IPI) return false;
  if (hi !== 0 || lo > 0xff) return raise(n, VECTOR.GP);
  writeRegister(n, offset, lo);
  n.vcpu.skip();
  // Vectors below 16 are APIC-write exits: SDM 3C 29.5
  if (lo < 16) vmExit(n, EXIT_REASONS.APIC_WRITE, offset);
  else selfIpiVirtualization(n, lo);
  return true;
}

// ---- delivery --------------------------------------------------------------------------------------------------------------

/** L2 is open to interrupts: SDM 3C 29.2.2 "Virtual-Interrupt Delivery". True: one is on its way. */
export function deliverVirtualInterrupt(n: NestedVmx): boolean {
  if (!n.hasVirtualInterrupt || (n.primary & PRIMARY.INTERRUPT_WINDOW_EXITING) !== 0) return false;
  const base = page(n);
  if (base < 0) return false;
  const { vcpu } = n;
  const vector = rviOf(status(n));
  n.v.set(FIELD.GUEST_INTERRUPT_STATUS, deliver(n.memory.words, base, status(n)));
  n.hasVirtualInterrupt = false;
  vcpu.activity = 'running';
  vcpu.pendingEvent = (EXTERNAL_INTERRUPT | vector) >>> 0;
  vcpu.pendingError = 0;
  vcpu.pendingLength = 0;
  vcpu.pendingIsNew = false;
  evaluate(n);
  return true;
}

/** Layout of the posted-interrupt descriptor: PIR, then "outstanding notification". SDM 3C Table 29-1. */
const DESCRIPTOR = { ON_WORD: 32, ON: 1 } as const;

export const processesPosted = (n: NestedVmx): boolean => n.hasPin(PIN.PROCESS_POSTED_INTERRUPTS);

/** An acknowledged interrupt. True: it was the notification; SDM 3C 29.6 "Posted-Interrupt Processing". */
export function takesPosted(n: NestedVmx, vector: number): boolean {
  if (!processesPosted(n) || vector !== n.v.lo(FIELD.POSTED_INTERRUPT_NOTIFICATION_VECTOR)) return false;
  const descriptor = n.v.number(FIELD.POSTED_INTERRUPT_DESCRIPTOR);
  const pir = n.memory.offset(descriptor);
  const base = page(n);
  if (pir >= 0 && base >= 0) {
    n.memory.words[(pir + DESCRIPTOR.ON_WORD) >>> 2]! &= ~DESCRIPTOR.ON;
    n.vcpu.apic.endOfInterrupt();
    const highest = mergePosted(n.memory.words, base, n.memory.words, pir >>> 2);
    const old = status(n);
    if (highest > rviOf(old)) n.v.set(FIELD.GUEST_INTERRUPT_STATUS, interruptStatus(highest, sviOf(old)));
    evaluate(n);
  } else n.vcpu.apic.endOfInterrupt();
  return true;
}
