import { describe, expect, test } from 'vitest';
import { VirtualTsc } from '../../irq/virtual-tsc.ts';
import { TscOfL2 } from './l2-tsc.ts';

const MASK = (1n << 64n) - 1n;
const halves = (value: bigint): [number, number] => [Number(value & 0xffff_ffffn), Number(value >> 32n)];

describe("L2's time-stamp counter", () => {
  const values = [0n, 1n, 0xffff_ffffn, 0x1_0000_0000n, 0x1234_5678_9abc_def0n, MASK];
  const multipliers = [1n, 1n << 47n, 1n << 48n, 3n << 47n, 0xffff_0001_8000_7fffn, MASK];
  const offsets = [0n, 1n, MASK, 0x8000_0000_0000_0000n];

  test.each(multipliers)('is (TSC x %d) >> 48, plus the offset, modulo 2^64: SDM 3C 25.3', (multiplier) => {
    for (const value of values) {
      for (const offset of offsets) {
        const tsc = new VirtualTsc({ nowNs: () => 0, createTimer: () => ({ arm() {}, disarm() {} }) } as never, 1e9);
        [tsc.lo, tsc.hi] = halves(value);
        const l2 = new TscOfL2();
        l2.isScaled = true;
        [l2.multiplierLo, l2.multiplierHi] = halves(multiplier);
        [l2.offsetLo, l2.offsetHi] = halves(offset);
        l2.apply(tsc);
        const wanted = (((value * multiplier) >> 48n) + offset) & MASK;
        expect((BigInt(tsc.hi) << 32n) | BigInt(tsc.lo)).toBe(wanted);
      }
    }
  });
});
