/**
 * Interrupt priorities over a 4 KiB register image: IRR, ISR, TMR and PPR as pure functions.
 *
 * Owns    the bit arithmetic of SDM 3A 10.8 "Handling Interrupts". The image is the local APIC's own registers, or
 *         L1's virtual-APIC page wherever that lies in memory: `words` is any view, `base` the index of its first word.
 * Never   allocates, and never decides what an interrupt does: callers do.
 *
 *   vector 0x51 = 81   word 81 >> 5 = 2 of the eight   bit 81 & 31 = 17
 *   at byte offset REG + 2 * 16, because only the first four of every 16 bytes are used
 */
import { APIC, FIRST_LEGAL_VECTOR } from './registers.ts';

/** Index of the 32-bit word at byte `offset` of an image that starts at word `base`. */
export const wordAt = (base: number, offset: number): number => base + (offset >>> 2);

const vectorWord = (base: number, register: number, vector: number): number =>
  base + (register >>> 2) + ((vector >>> 5) << 2);

export const testVector = (words: Uint32Array, base: number, register: number, vector: number): boolean =>
  ((words[vectorWord(base, register, vector)]! >>> (vector & 31)) & 1) !== 0;

export function setVector(words: Uint32Array, base: number, register: number, vector: number): void {
  words[vectorWord(base, register, vector)]! |= 1 << (vector & 31);
}

export function clearVector(words: Uint32Array, base: number, register: number, vector: number): void {
  words[vectorWord(base, register, vector)]! &= ~(1 << (vector & 31));
}

/** The highest vector whose bit is set in ISR, TMR or IRR (`register` is the offset of its first word), or -1. */
export function highestVector(words: Uint32Array, base: number, register: number): number {
  for (let group = 7; group >= 0; group--) {
    const word = words[base + (register >>> 2) + (group << 2)]!;
    if (word !== 0) return (group << 5) + 31 - Math.clz32(word);
  }
  return -1;
}

/**
 * SDM 3A 10.8.3.1 "Task and Processor Priorities"; the same rule is SDM 3C 29.1.3 "PPR Virtualization" with VTPR and
 * SVI.
 *
 * @param inService  Highest vector in service, -1 or 0 for none.
 */
export const processorPriority = (taskPriority: number, inService: number): number =>
  inService > 0 && (inService & 0xf0) > (taskPriority & 0xf0) ? inService & 0xf0 : taskPriority & 0xff;

/** An interrupt is taken if its class is above the processor's. SDM 3A 10.8.3; SDM 3C 29.2.1 for RVI and VPPR. */
export const isDeliverable = (vector: number, priority: number): boolean => (vector & 0xf0) > (priority & 0xf0);

/** PPR from the image's TPR and ISR. */
export const imagePriority = (words: Uint32Array, base: number): number =>
  processorPriority(words[wordAt(base, APIC.TPR)]!, highestVector(words, base, APIC.ISR));

/** The vector that would be delivered now, or -1. */
export function deliverableVector(words: Uint32Array, base: number): number {
  const vector = highestVector(words, base, APIC.IRR);
  return vector >= FIRST_LEGAL_VECTOR && isDeliverable(vector, imagePriority(words, base)) ? vector : -1;
}

/** SDM 3A 10.8.4 "Interrupt Acceptance for Fixed Interrupts": IRR, and TMR as the message's trigger mode says. */
export function requestVector(words: Uint32Array, base: number, vector: number, level: boolean): void {
  setVector(words, base, APIC.IRR, vector);
  if (level) setVector(words, base, APIC.TMR, vector);
  else clearVector(words, base, APIC.TMR, vector);
}

/** The processor takes `vector`: from IRR to ISR. SDM 3A 10.8.4; SDM 3C 29.2.2 "Virtual-Interrupt Delivery". */
export function serviceVector(words: Uint32Array, base: number, vector: number): void {
  clearVector(words, base, APIC.IRR, vector);
  setVector(words, base, APIC.ISR, vector);
}

/** SDM 3A 10.8.5 "Signaling Interrupt Servicing Completion": takes the highest bit out of ISR. Returns it, or -1. */
export function endOfInterrupt(words: Uint32Array, base: number): number {
  const vector = highestVector(words, base, APIC.ISR);
  if (vector >= 0) clearVector(words, base, APIC.ISR, vector);
  return vector;
}

/**
 * SDM 3C 29.6 "Posted-Interrupt Processing": ORs a 256-bit PIR into IRR and clears it.
 *
 * @param pir  Eight consecutive words of `pirWords`, from index `pirBase`.
 * @returns    The highest vector that was posted, or -1.
 */
export function mergePosted(words: Uint32Array, base: number, pirWords: Uint32Array, pirBase: number): number {
  let highest = -1;
  for (let group = 0; group < 8; group++) {
    const posted = pirWords[pirBase + group]!;
    if (posted === 0) continue;
    pirWords[pirBase + group] = 0;
    words[wordAt(base, APIC.IRR) + (group << 2)]! |= posted;
    highest = (group << 5) + 31 - Math.clz32(posted);
  }
  return highest;
}
