import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TickScale } from './ticks.ts';

describe('ticks on the virtual clock', () => {
  it('are floor(ns × f / 10⁹), exactly, and nsAt is the first ns of a tick', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1_193_182, 1_000_000_000, 24_000_000, 14_318_180, 2_500_000_000, 32_768),
        fc.integer({ min: 0, max: 2 ** 50 }),
        (hertz, ns) => {
          const scale = new TickScale(hertz);
          const ticks = scale.ticksAt(ns);
          expect(BigInt(ticks)).toBe((BigInt(ns) * BigInt(hertz)) / 1_000_000_000n);
          const first = scale.nsAt(ticks);
          expect(first).toBeLessThanOrEqual(ns);
          expect(scale.ticksAt(first)).toBe(ticks);
          if (first > 0) expect(scale.ticksAt(first - 1)).toBeLessThan(ticks);
        },
      ),
    );
  });
});
