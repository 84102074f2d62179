import { describe, expect, it } from 'vitest';
import { APIC } from '../../arch/apic/registers.ts';
import { type Bench, type BenchOptions, bench } from './testbed.ts';

function chip(cpus: number, options: BenchOptions = {}): Bench {
  const b = bench({ cpus, ...options });
  for (const apic of b.chip.apics) apic.writeMmio(APIC.SVR, 4, 0x1ff);
  return b;
}

const ipi = (b: Bench, from: number, destination: number, low: number): void => {
  b.chip.apics[from]!.writeMmio(APIC.ICR_HIGH, 4, (destination << 24) >>> 0);
  b.chip.apics[from]!.writeMmio(APIC.ICR, 4, low);
};
/** Which processors have a request, and forgets them. */
const taken = (b: Bench): number[] =>
  b.chip.apics.flatMap((apic, cpu) => {
    if (apic.acknowledge() < 0) return [];
    if (apic.isX2apic) apic.writeMsr(0x80b, 0, 0);
    else apic.writeMmio(APIC.EOI, 4, 0);
    return [cpu];
  });
const toX2apic = (b: Bench, ...cpus: number[]): void => {
  for (const cpu of cpus) b.chip.apics[cpu]!.writeMsr(0x1b, 0xfee0_0c00 | (cpu === 0 ? 0x100 : 0), 0);
};

describe('xAPIC IPIs', () => {
  it('go to one physical ID, to all with FFH, and to nobody with an ID that is not there', () => {
    const b = chip(4);
    ipi(b, 0, 2, 0x40f1);
    expect(taken(b)).toEqual([2]);
    ipi(b, 1, 0xff, 0x40f1);
    expect(taken(b)).toEqual([0, 1, 2, 3]);
    ipi(b, 0, 9, 0x40f1);
    expect(taken(b)).toEqual([]);
  });

  it('go by shorthand to self, all, and all but self', () => {
    const b = chip(4);
    ipi(b, 2, 0, 0x4_40f1);
    expect(taken(b)).toEqual([2]);
    ipi(b, 2, 0, 0x8_40f1);
    expect(taken(b)).toEqual([0, 1, 2, 3]);
    ipi(b, 2, 0, 0xc_40f1);
    expect(taken(b)).toEqual([0, 1, 3]);
  });

  it('reach every processor that software gave the same ID', () => {
    const b = chip(3);
    b.chip.apics[1]!.writeMmio(APIC.ID, 4, 0x3300_0000);
    b.chip.apics[2]!.writeMmio(APIC.ID, 4, 0x3300_0000);
    ipi(b, 0, 0x33, 0xf1);
    expect(taken(b)).toEqual([1, 2]);
  });

  it('go to logical flat and cluster destinations', () => {
    const b = chip(4);
    for (const [cpu, apic] of b.chip.apics.entries()) apic.writeMmio(APIC.LDR, 4, (1 << (24 + cpu)) >>> 0);
    ipi(b, 0, 0b1010, 0x8f1);
    expect(taken(b)).toEqual([1, 3]);
    for (const [cpu, apic] of b.chip.apics.entries()) {
      apic.writeMmio(APIC.DFR, 4, 0);
      apic.writeMmio(APIC.LDR, 4, (((cpu >> 1) << 28) | (1 << (24 + (cpu & 1)))) >>> 0);
    }
    ipi(b, 0, 0x13, 0x8f1);
    expect(taken(b)).toEqual([2, 3]);
    ipi(b, 0, 0x02, 0x8f1);
    expect(taken(b)).toEqual([1]);
    ipi(b, 0, 0xff, 0x8f1);
    expect(taken(b)).toEqual([0, 1, 2, 3]);
  });

  it('ignore the trigger mode: a fixed IPI is an edge', () => {
    const b = chip(2);
    ipi(b, 0, 1, 0xc0f1);
    expect(b.chip.apics[1]!.readMmio(APIC.TMR + 0x70, 4)).toBe(0);
    expect(taken(b)).toEqual([1]);
  });

  it('start a second processor: INIT, its de-assertion, two start-up IPIs', () => {
    const b = chip(2);
    ipi(b, 0, 1, 0xc500); // INIT, level, assert
    ipi(b, 0, 1, 0x8500); // INIT level de-assert: nobody hears it
    ipi(b, 0, 1, 0x0609);
    ipi(b, 0, 1, 0x0609);
    expect(b.events).toEqual(['init 1', 'startup 1 0x9', 'startup 1 0x9']);
  });

  it('start all others by shorthand, as kvm-unit-tests do', () => {
    const b = chip(3);
    ipi(b, 0, 0, 0xc_4500);
    ipi(b, 0, 0, 0xc_0600);
    expect(b.events).toEqual(['init 1', 'init 2', 'startup 1 0x0', 'startup 2 0x0']);
  });

  it('make NMIs, and drop SMIs', () => {
    const b = chip(2);
    ipi(b, 0, 1, 0x400);
    ipi(b, 0, 1, 0x200);
    expect(b.events).toEqual(['nmi 1']);
    expect(taken(b)).toEqual([]);
  });
});

describe('x2APIC IPIs', () => {
  it('address 32-bit IDs, and all with FFFFFFFFH', () => {
    const b = chip(3, { apicIds: [0, 1, 0x1_0203] });
    toX2apic(b, 0, 1, 2);
    b.chip.apics[0]!.writeMsr(0x830, 0xf1, 0x1_0203);
    expect(taken(b)).toEqual([2]);
    b.chip.apics[0]!.writeMsr(0x830, 0xf1, 0x03);
    expect(taken(b)).toEqual([]);
    b.chip.apics[0]!.writeMsr(0x830, 0xf1, 0xff);
    expect(taken(b)).toEqual([]);
    b.chip.apics[0]!.writeMsr(0x830, 0xf1, 0xffff_ffff);
    expect(taken(b)).toEqual([0, 1, 2]);
  });

  it('address members of a cluster logically', () => {
    const b = chip(4, { apicIds: [0, 3, 0x10, 0x13] });
    toX2apic(b, 0, 1, 2, 3);
    b.chip.apics[0]!.writeMsr(0x830, 0x8f1, 0x0001_0009);
    expect(taken(b)).toEqual([2, 3]);
    b.chip.apics[0]!.writeMsr(0x830, 0x8f1, 0x0000_0008);
    expect(taken(b)).toEqual([1]);
  });

  it('broadcast also to processors that are still in xAPIC mode', () => {
    const b = chip(2);
    toX2apic(b, 0);
    b.chip.apics[0]!.writeMsr(0x830, 0x40cf, 0xffff_ffff);
    expect(taken(b)).toEqual([0, 1]);
    b.chip.apics[0]!.writeMsr(0x830, 0x40cf, 1);
    expect(taken(b)).toEqual([1]);
    b.chip.apics[1]!.writeMmio(APIC.LDR, 4, 0x0100_0000);
    b.chip.apics[0]!.writeMsr(0x830, 0x8cf, 0x0001_0001); // a cluster that no 8-bit destination can name
    expect(taken(b)).toEqual([]);
  });
});

describe('message signalled interrupts', () => {
  it('carry destination, mode, vector and trigger', () => {
    const b = chip(3);
    expect(b.chip.deliverMsi(0xfee0_2000, 0, 0x0041)).toBe(true);
    expect(taken(b)).toEqual([2]);
    expect(b.chip.deliverMsi(0xfeef_f000, 0, 0x0041)).toBe(true);
    expect(taken(b)).toEqual([0, 1, 2]);
    expect(b.chip.deliverMsi(0xfee0_1000, 0, 0x0400)).toBe(true);
    expect(b.events).toEqual(['nmi 1']);
    expect(b.chip.deliverMsi(0xfee0_1000, 0, 0xc051)).toBe(true);
    expect(b.chip.apics[1]!.readMmio(APIC.TMR + 0x20, 4)).toBe(1 << 17);
  });

  it('are refused elsewhere than at FEExxxxxH, as de-assertions, and when nobody is addressed', () => {
    const b = chip(1);
    expect(b.chip.deliverMsi(0xfed0_0000, 0, 0x41)).toBe(false);
    expect(b.chip.deliverMsi(0xfee0_0000, 0, 0x8041)).toBe(false);
    expect(b.chip.deliverMsi(0xfee0_7000, 0, 0x41)).toBe(false);
    expect(taken(b)).toEqual([]);
  });

  it('reach x2APIC processors by their low eight bits, and beyond them with the high address', () => {
    const b = chip(2, { apicIds: [0, 0x1_0203] });
    toX2apic(b, 0, 1);
    expect(b.chip.deliverMsi(0xfee0_3000, 0x0001_0200, 0x41)).toBe(true);
    expect(taken(b)).toEqual([1]);
  });
});

describe('routing', () => {
  it('leads line 0 to pin 2 and to IR0, and others to the pin and IR of their number', () => {
    const b = chip(1);
    b.chip.leaveAsFirmware();
    for (const [pin, vector] of [
      [2, 0x52],
      [4, 0x54],
      [0, 0x50],
    ] as const) {
      b.chip.ioApic.writeMmio(0, 4, 0x10 + pin * 2);
      b.chip.ioApic.writeMmio(0x10, 4, vector);
    }
    b.chip.line(0).set(true);
    expect(b.chip.acknowledge(0)).toBe(0x52);
    b.chip.apics[0]!.writeMmio(APIC.EOI, 4, 0);
    expect(b.chip.pic.master.readPort(0, 1)).toBe(0x01);
    b.chip.line(4).set(true);
    expect(b.chip.pic.master.readPort(0, 1)).toBe(0x11);
    expect(b.chip.acknowledge(0)).toBe(0x54);
    b.chip.line(19).set(true);
    b.chip.line(9).set(true);
    expect(b.chip.pic.slave.readPort(0, 1)).toBe(0x02);
  });

  it('joins lines 0 and 2 on pin 2, which rises with the first and falls with the last', () => {
    const b = chip(1);
    b.chip.ioApic.writeMmio(0, 4, 0x14);
    b.chip.ioApic.writeMmio(0x10, 4, 0x8052);
    const [zero, two] = [b.chip.line(0), b.chip.line(2)];
    for (const [first, second] of [
      [zero, two],
      [two, zero],
    ] as const) {
      first.set(true);
      second.set(true);
      first.set(false);
      expect(b.chip.acknowledge(0)).toBe(0x52);
      b.chip.apics[0]!.writeMmio(APIC.EOI, 4, 0);
      expect(b.chip.acknowledge(0)).toBe(0x52); // still asserted by the other
      second.set(false);
      b.chip.apics[0]!.writeMmio(APIC.EOI, 4, 0);
      expect(b.chip.hasInterrupt(0)).toBe(false);
    }
  });

  it('brings the 8259s to the boot processor through LINT0 as ExtINT, whatever TPR says', () => {
    const b = bench({ cpus: 2 });
    b.chip.leaveAsFirmware();
    b.chip.apics[0]!.cr8 = 15;
    b.chip.pic.master.writePort(1, 1, 0xef);
    const line = b.chip.line(4);
    const before = b.wakes[0]!;
    line.set(true);
    expect(b.wakes[0]).toBeGreaterThan(before);
    expect(b.chip.hasInterrupt(0)).toBe(true);
    expect(b.chip.hasInterrupt(1)).toBe(false);
    expect(b.chip.acknowledge(0)).toBe(0x0c);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(b.chip.apics[0]!.readMmio(APIC.ISR, 4)).toBe(0);
  });

  it('takes the 8259s before the local APIC', () => {
    const b = bench();
    b.chip.leaveAsFirmware();
    b.chip.pic.master.writePort(1, 1, 0xef);
    b.chip.apics[0]!.accept(0xf1, false);
    b.chip.line(4).set(true);
    expect([b.chip.acknowledge(0), b.chip.acknowledge(0)]).toEqual([0x0c, 0xf1]);
  });

  it('brings the 8259s through I/O APIC pin 0 to the processor that its entry names', () => {
    const b = chip(2);
    b.chip.leaveAsFirmware();
    b.chip.apics[0]!.writeMmio(APIC.LVT_LINT0, 4, 0x1_0700);
    b.chip.ioApic.writeMmio(0, 4, 0x11);
    b.chip.ioApic.writeMmio(0x10, 4, 0x0100_0000);
    b.chip.ioApic.writeMmio(0, 4, 0x10);
    b.chip.ioApic.writeMmio(0x10, 4, 0x0700);
    b.chip.pic.master.writePort(1, 1, 0xee);
    b.chip.line(4).set(true);
    b.chip.line(0).set(true);
    expect([b.chip.hasInterrupt(0), b.chip.hasInterrupt(1)]).toEqual([false, true]);
    expect(b.chip.acknowledge(1)).toBe(0x08); // IR0 before IR4
    expect(b.chip.hasInterrupt(1)).toBe(false);
    b.chip.pic.master.writePort(0, 1, 0x20);
    expect(b.chip.acknowledge(1)).toBe(0x0c);
  });

  it('makes NMIs of the 8259s where LINT0 is set so: the NMI watchdog', () => {
    const b = chip(1);
    b.chip.leaveAsFirmware();
    b.chip.apics[0]!.writeMmio(APIC.LVT_LINT0, 4, 0x400);
    b.chip.pic.master.writePort(1, 1, 0xfe);
    b.chip.line(0).set(true);
    expect(b.events).toEqual(['nmi 0']);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('raises IRQ 13 for the coprocessor until port F0H is written, or the chip is reset', () => {
    const b = bench();
    const rises = () => {
      b.chip.coprocessor.error();
      return b.chip.save().asserted[13];
    };
    expect(rises()).toBe(1);
    expect(rises()).toBe(1);
    b.chip.coprocessor.writePort(0, 1, 0);
    expect(b.chip.save().asserted[13]).toBe(0);
    expect(rises()).toBe(1);
    b.chip.reset();
    expect(b.chip.save().asserted[13]).toBe(0);
  });

  it('puts its devices on the bus where a PC has them', () => {
    const b = bench();
    const put: string[] = [];
    b.chip.attachTo({
      addPorts: (first, count, _device, name) => put.push(`${name} ${first.toString(16)}+${count}`),
      addMmio: (first, bytes, _device, name) => put.push(`${name} ${first.toString(16)}+${bytes}`),
      removePorts: () => {},
      removeMmio: () => {},
    });
    expect(put).toEqual([
      '8259 master 20+2',
      '8259 slave a0+2',
      '8259 ELCR 4d0+2',
      '8254 40+4',
      'port 61H 61+1',
      'coprocessor error f0+1',
      'I/O APIC fec00000+4096',
    ]);
  });
});

describe('a snapshot', () => {
  it('survives JSON and goes on as the original does', () => {
    const make = (): Bench => {
      const b = chip(2);
      b.chip.leaveAsFirmware();
      return b;
    };
    const original = make();
    const lineA = original.chip.line(14);
    original.chip.ioApic.writeMmio(0, 4, 0x10 + 28);
    original.chip.ioApic.writeMmio(0x10, 4, 0x8077);
    original.chip.pit.writePort(3, 1, 0x34);
    original.chip.pit.writePort(0, 1, 0xa9);
    original.chip.pit.writePort(0, 1, 0x04);
    original.chip.pic.master.writePort(1, 1, 0xfe);
    original.chip.apics[0]!.writeMmio(APIC.LVT_TIMER, 4, 0x2_00ee);
    original.chip.apics[0]!.writeMmio(APIC.INITIAL_COUNT, 4, 10_000);
    original.clock.to(123_456);
    lineA.set(true);

    const state = JSON.parse(JSON.stringify(original.chip.save()));
    const copy = bench({ cpus: 2 });
    const lineB = copy.chip.line(14);
    copy.clock.now = 123_456;
    copy.chip.load(state);
    expect(copy.chip.save()).toEqual(original.chip.save());

    const runs = [original, copy].map((b, index) => {
      const line = index === 0 ? lineA : lineB;
      const trace: string[] = [];
      for (let step = 0; step < 400; step++) {
        b.clock.to(b.clock.now + 9_973);
        const vector = b.chip.acknowledge(0);
        if (vector < 0) continue;
        trace.push(`${b.clock.now} ${vector}`);
        if (vector === 0x77) line.set(false);
        if (vector < 0x10) b.chip.pic.master.writePort(0, 1, 0x20);
        else b.chip.apics[0]!.writeMmio(APIC.EOI, 4, 0);
      }
      return trace;
    });
    expect(runs[0]!.length).toBeGreaterThan(100);
    expect(runs[0]!.some((line) => line.endsWith(' 119'))).toBe(true);
    expect(runs[0]!.some((line) => line.endsWith(' 8'))).toBe(true);
    expect(runs[1]).toEqual(runs[0]);
  });
});
