import { describe, expect, it } from 'vitest';
import { APIC } from '../../arch/apic/registers.ts';
import { type Bench, bench } from './testbed.ts';

const select = (b: Bench, index: number): void => b.chip.ioApic.writeMmio(0x00, 4, index);
const read = (b: Bench, index: number): number => {
  select(b, index);
  return b.chip.ioApic.readMmio(0x10, 4);
};
const write = (b: Bench, index: number, value: number): void => {
  select(b, index);
  b.chip.ioApic.writeMmio(0x10, 4, value >>> 0);
};
const entry = (b: Bench, pin: number, low: number, high = 0): void => {
  write(b, 0x10 + pin * 2, low);
  write(b, 0x11 + pin * 2, high);
};
const eoi = (b: Bench, cpu = 0): void => b.chip.apics[cpu]!.writeMmio(APIC.EOI, 4, 0);

const LEVEL = 0x8000;
const MASKED = 0x1_0000;
const REMOTE_IRR = 0x4000;

function chip(cpus = 1): Bench {
  const b = bench({ cpus });
  for (const apic of b.chip.apics) apic.writeMmio(APIC.SVR, 4, 0x1ff);
  return b;
}

describe('I/O APIC registers', () => {
  it('reads version 20H with 24 pins, and does not let it be written', () => {
    const b = chip();
    expect(read(b, 1)).toBe(0x0017_0020);
    write(b, 1, 0xffff_ffff);
    expect(read(b, 1)).toBe(0x0017_0020);
  });

  it('takes an ID in bits 27:24 and shows it as the arbitration ID, which is read-only', () => {
    const b = chip();
    write(b, 0, 0xffff_ffff);
    expect(read(b, 0)).toBe(0x0f00_0000);
    expect(read(b, 2)).toBe(0x0f00_0000);
    write(b, 2, 0);
    expect(read(b, 2)).toBe(0x0f00_0000);
  });

  it('has every entry masked after reset, and keeps only the bits that exist', () => {
    const b = chip();
    for (let pin = 0; pin < 24; pin++) {
      expect(read(b, 0x10 + pin * 2)).toBe(MASKED);
      entry(b, pin, 0xffff_ffff, 0xffff_ffff);
      expect(read(b, 0x10 + pin * 2)).toBe(0x0001_afff);
      expect(read(b, 0x11 + pin * 2)).toBe(0xff00_0000);
    }
    b.chip.reset();
    expect(read(b, 0x10)).toBe(MASKED);
  });

  it('reads 0 behind an index or an offset that does not exist', () => {
    const b = chip();
    expect(read(b, 0x03)).toBe(0);
    expect(read(b, 0x40)).toBe(0);
    expect(b.chip.ioApic.readMmio(0x20, 4)).toBe(0);
    write(b, 0x40, 0xffff_ffff);
  });
});

describe('an edge pin', () => {
  it('sends once per rising edge and leaves TMR clear', () => {
    const b = chip();
    entry(b, 14, 0x76);
    const line = b.chip.line(14);
    line.set(true);
    line.set(true);
    expect(b.chip.acknowledge(0)).toBe(0x76);
    eoi(b);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    line.set(false);
    line.set(true);
    expect(b.chip.acknowledge(0)).toBe(0x76);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(0);
    expect(b.chip.apics[0]!.readMmio(APIC.TMR + 0x30, 4)).toBe(0);
  });

  it('loses an edge that comes while it is masked', () => {
    const b = chip();
    entry(b, 14, MASKED | 0x81);
    const line = b.chip.line(14);
    line.set(true);
    line.set(false);
    entry(b, 14, 0x81);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    line.set(true);
    expect(b.chip.acknowledge(0)).toBe(0x81);
  });
});

describe('a level pin', () => {
  it('sets Remote IRR and TMR, coalesces while it is set, and clears at EOI', () => {
    const b = chip();
    entry(b, 14, LEVEL | 0x98);
    const line = b.chip.line(14);
    line.set(true);
    expect(read(b, 0x10 + 28)).toBe(LEVEL | REMOTE_IRR | 0x98);
    expect(b.chip.acknowledge(0)).toBe(0x98);
    expect(b.chip.apics[0]!.readMmio(APIC.TMR + 0x40, 4)).toBe(1 << 24);
    line.set(false);
    line.set(true);
    line.set(false);
    eoi(b);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(read(b, 0x10 + 28)).toBe(LEVEL | 0x98);
  });

  it('sends again at EOI while it is still asserted', () => {
    const b = chip();
    entry(b, 14, LEVEL | 0x9a);
    const line = b.chip.line(14);
    line.set(true);
    for (let i = 0; i < 3; i++) {
      expect(b.chip.acknowledge(0)).toBe(0x9a);
      eoi(b);
    }
    line.set(false);
    expect(b.chip.acknowledge(0)).toBe(0x9a);
    eoi(b);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('is looked at again when it is unmasked', () => {
    const b = chip();
    entry(b, 14, MASKED | LEVEL | 0x82);
    const line = b.chip.line(14);
    line.set(true);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    entry(b, 14, LEVEL | 0x82);
    expect(b.chip.acknowledge(0)).toBe(0x82);
    entry(b, 14, MASKED | LEVEL | 0x82);
    eoi(b);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    entry(b, 14, LEVEL | 0x82);
    expect(b.chip.acknowledge(0)).toBe(0x82);
  });

  it('ends by EOIR, and by becoming an edge pin', () => {
    const b = chip();
    entry(b, 14, LEVEL | 0x83);
    const line = b.chip.line(14);
    line.set(true);
    line.set(false);
    b.chip.ioApic.writeMmio(0x40, 4, 0x84);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(REMOTE_IRR);
    b.chip.ioApic.writeMmio(0x40, 4, 0x83);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(0);
    line.set(true);
    entry(b, 14, MASKED | 0x83);
    entry(b, 14, MASKED | LEVEL | 0x83);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(0);
  });

  it('keeps Remote IRR over a change of its destination', () => {
    const b = chip(2);
    entry(b, 14, LEVEL | 0x84);
    const line = b.chip.line(14);
    line.set(true);
    line.set(false);
    write(b, 0x11 + 28, 0x0100_0000);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(REMOTE_IRR);
    b.chip.acknowledge(0);
    eoi(b);
    line.set(true);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(b.chip.acknowledge(1)).toBe(0x84);
  });

  it('has no Remote IRR if no local APIC takes its message', () => {
    const b = chip();
    entry(b, 14, LEVEL | 0x84, 0x0500_0000);
    b.chip.line(14).set(true);
    expect(read(b, 0x10 + 28) & REMOTE_IRR).toBe(0);
  });

  it('stays asserted until the last of the devices that share it lets go', () => {
    const b = chip();
    entry(b, 18, LEVEL | 0x85);
    const [one, two] = [b.chip.line(18), b.chip.line(18)];
    one.set(true);
    two.set(true);
    one.set(false);
    expect(b.chip.acknowledge(0)).toBe(0x85);
    eoi(b);
    expect(b.chip.acknowledge(0)).toBe(0x85);
    two.set(false);
    eoi(b);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });
});

describe('delivery modes of a pin', () => {
  it('are NMI, INIT and ExtINT as edges, also where bit 15 says level', () => {
    const b = chip(2);
    entry(b, 20, LEVEL | 0x400, 0x0100_0000);
    const line = b.chip.line(20);
    line.set(true);
    line.set(false);
    entry(b, 20, 0x500, 0x0100_0000);
    line.set(true);
    expect(b.events).toEqual(['nmi 1', 'init 1']);
    expect(read(b, 0x10 + 40) & REMOTE_IRR).toBe(0);
  });

  it('reach a logical destination as a whole', () => {
    const b = chip(4);
    for (const [cpu, apic] of b.chip.apics.entries()) apic.writeMmio(APIC.LDR, 4, (1 << (24 + cpu)) >>> 0);
    entry(b, 14, 0x800 | LEVEL | 0x86, 0x0d00_0000);
    b.chip.line(14).set(true);
    expect([0, 1, 2, 3].map((cpu) => b.chip.acknowledge(cpu))).toEqual([0x86, -1, 0x86, 0x86]);
  });

  it('choose the processor with the lowest priority', () => {
    const b = chip(3);
    b.chip.apics[0]!.cr8 = 3;
    b.chip.apics[1]!.cr8 = 1;
    b.chip.apics[2]!.cr8 = 2;
    entry(b, 14, 0x100 | 0x71, 0xff00_0000);
    const line = b.chip.line(14);
    line.set(true);
    expect([0, 1, 2].map((cpu) => b.chip.acknowledge(cpu))).toEqual([-1, 0x71, -1]);
    line.set(false);
    line.set(true); // processor 1 is now in class 7
    expect([0, 1, 2].map((cpu) => b.chip.acknowledge(cpu))).toEqual([-1, -1, 0x71]);
  });
});
