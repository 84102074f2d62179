import { describe, expect, it } from 'vitest';
import { APIC_REGISTERS, APIC_SLOTS, divisorOf, ICR, LVT } from './registers.ts';

describe('the table of local APIC registers', () => {
  it('gives each register the MSR that its offset implies', () => {
    // SDM 3A 10.12.1.2: MSR = 800H + (offset >> 4).
    for (const [name, [offset, msr]] of Object.entries(APIC_REGISTERS)) {
      expect(msr, name).toBe(0x800 + (offset >> 4));
      expect(offset % 16, name).toBe(0);
    }
  });

  it('has no two registers in one slot, and leaves the reserved slots empty', () => {
    const taken = Object.values(APIC_REGISTERS).reduce((sum, row) => sum + row[2], 0);
    expect(APIC_SLOTS.filter((slot) => slot !== undefined)).toHaveLength(taken);
    for (const offset of [0x000, 0x010, 0x040, 0x050, 0x060, 0x070, 0x290, 0x2f0, 0x3a0, 0x3d0]) {
      expect(APIC_SLOTS[offset >> 4], offset.toString(16)).toBeUndefined();
    }
  });

  it('never calls a bit both writable and read-only', () => {
    for (const [name, row] of Object.entries(APIC_REGISTERS)) expect(row[5] & row[6], name).toBe(0);
    expect(APIC_REGISTERS.ICR[6]).toBe(ICR.DELIVERY_STATUS);
    expect(APIC_REGISTERS.LVT_LINT0[6]).toBe(LVT.DELIVERY_STATUS | LVT.REMOTE_IRR);
  });

  it('divides by 2, 4 … 128 and 1', () => {
    expect([0, 1, 2, 3, 8, 9, 10, 11].map(divisorOf)).toEqual([2, 4, 8, 16, 32, 64, 128, 1]);
  });
});
