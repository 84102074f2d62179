import fc from 'fast-check';
import { expect, it } from 'vitest';
import { deliverableVector } from '../../arch/apic/image.ts';
import { APIC, LVT_REGISTERS } from '../../arch/apic/registers.ts';
import { type Bench, bench } from './testbed.ts';

const u32 = fc.oneof(fc.integer({ min: 0, max: 0xffff_ffff }), fc.integer({ min: 0, max: 0x1_ffff }), fc.constant(0));
const cpu = fc.integer({ min: 0, max: 2 });

/** Anything a guest or a device can do to the chip. */
const action = fc.oneof(
  fc.record({ do: fc.constant('mmio' as const), cpu, offset: fc.integer({ min: 0, max: 0x3ff }), value: u32 }),
  fc.record({
    do: fc.constant('msr' as const),
    cpu,
    index: fc.integer({ min: 0x800, max: 0x83f }),
    value: u32,
    high: u32,
  }),
  fc.record({ do: fc.constant('base' as const), cpu, bits: fc.constantFrom(0, 0x800, 0xc00, 0x400) }),
  fc.record({ do: fc.constant('deadline' as const), cpu, value: u32, high: fc.constantFrom(0, 0, 1, 0xffff_ffff) }),
  fc.record({ do: fc.constant('ioapic' as const), index: fc.integer({ min: 0, max: 0x41 }), value: u32 }),
  fc.record({ do: fc.constant('eoir' as const), value: u32 }),
  fc.record({
    do: fc.constant('port' as const),
    port: fc.constantFrom(0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x43, 0x61, 0x4d0, 0x4d1),
    value: fc.integer({ min: 0, max: 0xff }),
  }),
  fc.record({ do: fc.constant('line' as const), gsi: fc.integer({ min: 0, max: 23 }), level: fc.boolean() }),
  fc.record({ do: fc.constant('msi' as const), low: u32, data: u32 }),
  fc.record({ do: fc.constant('nmi' as const), level: fc.boolean() }),
  fc.record({ do: fc.constant('init' as const), cpu }),
  fc.record({ do: fc.constant('take' as const), cpu }),
  fc.record({ do: fc.constant('cr8' as const), cpu, value: fc.integer({ min: 0, max: 15 }) }),
  fc.record({ do: fc.constant('time' as const), ns: fc.integer({ min: 0, max: 50_000 }) }),
);
type Action = typeof action extends fc.Arbitrary<infer A> ? A : never;

function apply(b: Bench, lines: readonly { set(level: boolean): void }[], a: Action): void {
  const { chip } = b;
  const port = (at: number) => {
    const { pic, pit } = chip;
    if (at >= 0x4d0) return [pic.elcr, at - 0x4d0] as const;
    if (at >= 0xa0) return [pic.slave, at - 0xa0] as const;
    if (at === 0x61) return [pit.port61, 0] as const;
    return at >= 0x40 ? ([pit, at - 0x40] as const) : ([pic.master, at - 0x20] as const);
  };
  switch (a.do) {
    case 'mmio':
      chip.apics[a.cpu]!.writeMmio(a.offset & ~3, 4, a.value);
      chip.apics[a.cpu]!.readMmio(a.offset, 1);
      chip.apics[a.cpu]!.readMmio(a.offset & ~3, 4);
      return;
    case 'msr':
      chip.apics[a.cpu]!.writeMsr(a.index, a.value, a.index === 0x830 ? a.high : 0);
      chip.apics[a.cpu]!.readMsr(a.index);
      return;
    case 'base':
      chip.apics[a.cpu]!.writeMsr(0x1b, (0xfee0_0000 | a.bits) >>> 0, 0);
      return;
    case 'deadline':
      chip.apics[a.cpu]!.writeMsr(0x6e0, a.value, a.high);
      return;
    case 'ioapic':
      chip.ioApic.writeMmio(0, 4, a.index);
      chip.ioApic.writeMmio(0x10, 4, a.value);
      return;
    case 'eoir':
      chip.ioApic.writeMmio(0x40, 4, a.value);
      return;
    case 'port': {
      const [device, offset] = port(a.port);
      device.writePort(offset, 1, a.value);
      const read = device.readPort(offset, 1);
      expect(read >= 0 && read <= 0xff, `port ${a.port.toString(16)} reads ${read}`).toBe(true);
      return;
    }
    case 'line':
      lines[a.gsi]!.set(a.level);
      return;
    case 'msi':
      chip.deliverMsi((0xfee0_0000 | (a.low & 0xf_ffff)) >>> 0, 0, a.data);
      return;
    case 'nmi':
      chip.setNmi(a.level);
      return;
    case 'init':
      chip.apics[a.cpu]!.init();
      return;
    case 'take': {
      const waits = chip.hasInterrupt(a.cpu);
      expect(chip.acknowledge(a.cpu) >= 0).toBe(waits);
      return;
    }
    case 'cr8':
      chip.apics[a.cpu]!.cr8 = a.value;
      return;
    case 'time':
      b.clock.to(b.clock.now + a.ns);
  }
}

/** What holds of the chip whenever no access is under way. */
function check(b: Bench): void {
  for (const apic of b.chip.apics) {
    const { words } = apic;
    expect(apic.pendingVector()).toBe(apic.isEnabled ? deliverableVector(words, 0) : -1);
    expect(words[APIC.IRR >>> 2]! & 0xffff, 'no vector below 16 is ever requested').toBe(0);
    if (!apic.isSoftwareEnabled) {
      for (const name of LVT_REGISTERS) expect(words[APIC[name] >>> 2]! & 0x1_0000, name).not.toBe(0);
    }
  }
  for (let pin = 0; pin < 24; pin++) {
    const low = b.chip.ioApic.entryLow(pin);
    if ((low & 0x4000) !== 0) expect(low & 0x8000, 'Remote IRR belongs to level entries').not.toBe(0);
  }
  for (const timer of b.clock.timers) {
    if (timer.deadlineNs >= 0) expect(Number.isSafeInteger(timer.deadlineNs)).toBe(true);
  }
}

it('the chip keeps its invariants and never throws, whatever guests and devices do', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
      const b = bench({ cpus: 3 });
      b.chip.leaveAsFirmware();
      for (const apic of b.chip.apics) apic.writeMmio(APIC.SVR, 4, 0x1ff);
      const lines = Array.from({ length: 24 }, (_, gsi) => b.chip.line(gsi));
      for (const a of actions) {
        apply(b, lines, a);
        check(b);
      }
      expect(JSON.parse(JSON.stringify(b.chip.save()))).toEqual(b.chip.save());
    }),
    { numRuns: 150 },
  );
});
