/**
 * The time-stamp counter as L2 reads it: L1's, scaled and offset as vmcs12 says.
 *
 * Source  SDM 3C 25.3 "Changes to Instruction Behavior in VMX Non-Root Operation" (RDTSC), 24.6.5 "Time-Stamp Counter
 *         Offset and Multiplier".
 */
import type { VirtualTsc } from '../../irq/virtual-tsc.ts';

export class TscOfL2 {
  isScaled = false;
  multiplierLo = 0;
  multiplierHi = 0;
  offsetLo = 0;
  offsetHi = 0;

  /** Replaces L1's value in `lo`, `hi` by L2's. */
  apply(tsc: VirtualTsc): void {
    if (this.isScaled) this.#scale(tsc);
    const low = tsc.lo + this.offsetLo;
    tsc.lo = low >>> 0;
    tsc.hi = (tsc.hi + this.offsetHi + (low > 0xffff_ffff ? 1 : 0)) >>> 0;
  }

  /** (tsc × multiplier) >> 48 (the multiplier has 48 fraction bits), modulo 2^64: schoolbook with 16-bit digits, so that every sum is exact in a double. */
  #scale(tsc: VirtualTsc): void {
    const a0 = tsc.lo & 0xffff;
    const a1 = tsc.lo >>> 16;
    const a2 = tsc.hi & 0xffff;
    const a3 = tsc.hi >>> 16;
    const b0 = this.multiplierLo & 0xffff;
    const b1 = this.multiplierLo >>> 16;
    const b2 = this.multiplierHi & 0xffff;
    const b3 = this.multiplierHi >>> 16;
    let carry = Math.floor((a0 * b0) / 65_536);
    carry = Math.floor((carry + a0 * b1 + a1 * b0) / 65_536);
    carry = Math.floor((carry + a0 * b2 + a1 * b1 + a2 * b0) / 65_536);
    const d3 = carry + a0 * b3 + a1 * b2 + a2 * b1 + a3 * b0;
    const d4 = Math.floor(d3 / 65_536) + a1 * b3 + a2 * b2 + a3 * b1;
    const d5 = Math.floor(d4 / 65_536) + a2 * b3 + a3 * b2;
    const d6 = Math.floor(d5 / 65_536) + a3 * b3;
    // Digits from 48 / 16 = 3 on
    tsc.lo = ((d3 % 65_536) + (d4 % 65_536) * 65_536) >>> 0;
    tsc.hi = ((d5 % 65_536) + (d6 % 65_536) * 65_536) >>> 0;
  }
}
