/**
 * Virtual interrupts on a virtual-APIC page, as VMX's "virtual-interrupt delivery" does them: the pseudocode of the
 * manual as pure functions over a register image and the guest interrupt status.
 *
 * Owns    VPPR, VIRR, VISR and the new value of the guest interrupt status field (RVI in bits 7:0, SVI in 15:8).
 * Never   decides about exits: EOI-exit bitmap, TPR threshold and interrupt windows are the caller's.
 *
 * Source  SDM 3C 29.1 "Virtual APIC State", 29.2 "Evaluation and Delivery of Virtual Interrupts".
 */
import { clearVector, highestVector, isDeliverable, processorPriority, setVector, wordAt } from './image.ts';
import { APIC } from './registers.ts';

export const rviOf = (status: number): number => status & 0xff;
export const sviOf = (status: number): number => (status >>> 8) & 0xff;
export const interruptStatus = (rvi: number, svi: number): number => (svi << 8) | rvi;

/** SDM 3C 29.1.3 "PPR Virtualization": after VM entry, TPR virtualization and EOI virtualization. */
export function virtualizePpr(words: Uint32Array, base: number, status: number): void {
  words[wordAt(base, APIC.PPR)] = processorPriority(words[wordAt(base, APIC.TPR)]! & 0xff, sviOf(status));
}

/** SDM 3C 29.2.1 "Evaluation of Pending Virtual Interrupts": whether a virtual interrupt is recognized. */
export const isVirtualInterruptPending = (words: Uint32Array, base: number, status: number): boolean =>
  isDeliverable(rviOf(status), words[wordAt(base, APIC.PPR)]!);

/** SDM 3C 29.2.2 "Virtual-Interrupt Delivery" of vector RVI. @returns the new guest interrupt status. */
export function deliverVirtualInterrupt(words: Uint32Array, base: number, status: number): number {
  const vector = rviOf(status);
  setVector(words, base, APIC.ISR, vector);
  words[wordAt(base, APIC.PPR)] = vector & 0xf0;
  clearVector(words, base, APIC.IRR, vector);
  return interruptStatus(Math.max(highestVector(words, base, APIC.IRR), 0), vector);
}

/** SDM 3C 29.1.4 "EOI Virtualization", up to the EOI-exit bitmap: the vector that ended is SVI of `status`. */
export function virtualizeEoi(words: Uint32Array, base: number, status: number): number {
  clearVector(words, base, APIC.ISR, sviOf(status));
  const next = interruptStatus(rviOf(status), Math.max(highestVector(words, base, APIC.ISR), 0));
  virtualizePpr(words, base, next);
  return next;
}

/** SDM 3C 29.1.5 "Self-IPI Virtualization"; a posted vector does the same. @returns the new guest interrupt status. */
export function requestVirtualInterrupt(words: Uint32Array, base: number, status: number, vector: number): number {
  setVector(words, base, APIC.IRR, vector);
  return interruptStatus(Math.max(rviOf(status), vector), sviOf(status));
}
