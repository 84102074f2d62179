import { describe, expect, it } from 'vitest';
import { APIC } from '../../arch/apic/registers.ts';
import { type Bench, bench } from './support.testing.ts';

const write = (b: Bench, offset: number, value: number, cpu = 0): void =>
  b.chip.apics[cpu]!.writeMmio(offset, 4, value >>> 0);
const read = (b: Bench, offset: number, cpu = 0): number => b.chip.apics[cpu]!.readMmio(offset, 4);

/** Software-enabled, as every kernel does first. */
function enabled(options: Parameters<typeof bench>[0] = {}): Bench {
  const b = bench(options);
  for (const apic of b.chip.apics) apic.writeMmio(APIC.SVR, 4, 0x1ff);
  return b;
}

describe('local APIC', () => {
  it('delivers a self-IPI, holds it in service, and ends it with EOI', () => {
    const b = enabled();
    write(b, APIC.ICR, 0x0004_00f1);
    expect(b.chip.hasInterrupt(0)).toBe(true);
    expect(b.chip.acknowledge(0)).toBe(0xf1);
    expect(read(b, APIC.PPR)).toBe(0xf0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    write(b, APIC.EOI, 0);
    expect(read(b, APIC.PPR)).toBe(0);
  });
});
