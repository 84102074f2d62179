import assert from 'node:assert/strict';
import { test } from 'vitest';
import { physical } from './layout.ts';
import { plugged } from './testing/platform.ts';

test('the ports of a PC answer where Linux looks for them', () => {
  const { bus } = plugged({ serial: [() => {}, () => {}] });
  assert.equal(bus.in(0x3fd), 0x60);
  assert.equal(bus.in(0x2fd), 0x60);
  assert.equal(bus.in(0x3ed), 0xff, 'no COM3');
  bus.out(0x70, 0x0d);
  assert.equal(bus.in(0x71), 0x80);
  assert.equal(bus.in(0x64) & 0x14, 0x14);
  assert.equal(bus.in(0xe9), 0xe9);
  assert.equal(bus.in(0x402), 0xe9);
  assert.equal(bus.read(0xfed0_0004), 10_000_000);
  bus.out(0x510, 0x05, 2);
  assert.equal(bus.in(0x511), 2, 'two CPUs');
});

test('serial bytes go out, come in, and raise IRQ 4', () => {
  const out: number[] = [];
  const { bus, platform, irq } = plugged({ serial: [(byte) => out.push(byte)] });
  bus.out(0x3f8, 0x41);
  bus.out(0x3f9, 1);
  platform.serial[0]!.receive(Uint8Array.of(0x42));
  assert.deepEqual([out, irq(4).level, bus.in(0x3f8)], [[0x41], true, 0x42]);
});

test('COM1 and COM3 share IRQ 4: it stays high while either wants it', () => {
  const { bus, platform, irq } = plugged({ serial: [() => {}, () => {}, () => {}] });
  for (const base of [0x3f8, 0x3e8]) bus.out(base + 1, 1);
  platform.serial[0]!.receive(Uint8Array.of(1));
  platform.serial[2]!.receive(Uint8Array.of(2));
  bus.in(0x3f8);
  assert.equal(irq(4).level, true);
  bus.in(0x3e8);
  assert.equal(irq(4).level, false);
});

test('ACPI power-off: enable by SMI, SLP_EN with the type of \\_S5', () => {
  const { bus, said } = plugged();
  bus.out(0xb2, 0xf1);
  assert.equal(bus.in(0x604, 2) & 1, 1);
  bus.out(0x604, 0x2000, 2);
  assert.deepEqual(said.powerOff, [0]);
});

test('each way to reset the machine reaches the power control', () => {
  const { bus, said } = plugged();
  bus.out(0x64, 0xfe);
  bus.out(0x92, 0x01);
  bus.out(0xcf9, 0x06);
  assert.equal(said.resets.length, 3);
});

test('isa-debug-exit ends with (code << 1) | 1 at its port only', () => {
  const { bus, said } = plugged({ debugExit: { iobase: 0xf4, iosize: 4 } });
  for (const code of [0, 1, 77, 127]) bus.out(0xf4, code, 4);
  assert.deepEqual(said.powerOff, [1, 3, 155, 255]);
  const without = plugged();
  without.bus.out(0xf4, 0, 4);
  assert.deepEqual(without.said.powerOff, []);
});

test('the test device echoes in all widths, keeps memory, unmaps pages and drives lines', () => {
  const unmapped: number[] = [];
  const { bus, irq } = plugged({ testDevice: true }, { unmapPage: (page) => unmapped.push(page) });
  bus.out(0xe0, 0x1234_5678, 4);
  assert.deepEqual([bus.in(0xe0), bus.in(0xe1), bus.in(0xe0, 2), bus.in(0xe0, 4)], [0x78, 0x56, 0x5678, 0x1234_5678]);
  bus.out(0xe0, 0x99);
  assert.equal(bus.in(0xe0, 4), 0x1234_5699);
  bus.out(0xe4, 0x8123_4567, 4);
  assert.deepEqual(unmapped, [0x8123_4000]);
  bus.write(0xff00_fffc, 0xdead_beef);
  assert.deepEqual([bus.read(0xff00_fffc), bus.read(0xff00_fffd, 1)], [0xdead_beef, 0xbe]);
  bus.out(0x200e, 1);
  assert.equal(irq(14).level, true);
  bus.out(0x200e, 0);
  assert.equal(irq(14).level, false);
  assert.equal(plugged().bus.in(0xe0), 0xff, 'absent unless asked for');
});

test('debug text goes to its sink from both ports', () => {
  const text: number[] = [];
  const { bus } = plugged({ debugText: (byte) => text.push(byte) });
  bus.out(0xe9, 0x41);
  bus.out(0x402, 0x42);
  assert.deepEqual(text, [0x41, 0x42]);
});

test('HPET legacy replacement blocks the PIT and takes IRQ 8 from the RTC', () => {
  const { bus, clock, irq, said } = plugged();
  bus.out(0x70, 0x0b);
  bus.out(0x71, 0x42); // periodic interrupts
  bus.write(0xfed0_0010, 2);
  clock.advance(1e9);
  assert.equal(irq(8).level, false);
  assert.deepEqual(said.pitBlocked, [true]);
  bus.write(0xfed0_0010, 0);
  assert.equal(irq(8).level, true, 'what the RTC wanted all along');
});

test('a reset takes every device back, and ACPI tables are there again', () => {
  const { bus, memory, platform, irq } = plugged();
  bus.out(0x3fb, 0x1b);
  bus.out(0xb2, 0xf1);
  bus.out(0x64, 0x20);
  bus.write(0xfed0_0010, 1);
  memory.copyIn(physical(platform.rsdp!), new Uint8Array(64));
  platform.reset();
  assert.deepEqual([bus.in(0x3fb), bus.in(0x604, 2), bus.in(0x64) & 1, bus.read(0xfed0_0010)], [0, 0, 0, 0]);
  assert.equal(memory.read32(physical(platform.rsdp!)), 0x2044_5352, '"RSD "');
  assert.equal(irq(1).level, false);
});

test('real-mode vectors, the BIOS data area and the reset vector are there before any kernel', () => {
  const { memory } = plugged({ serial: [() => {}, () => {}] });
  const routine = (vector: number) =>
    memory.read16(physical(4 * vector + 2)) * 16 + memory.read16(physical(4 * vector));
  assert.equal(memory.read8(physical(routine(0x21))), 0xcf, 'iret');
  assert.notEqual(routine(0x08), routine(0x09));
  assert.notEqual(routine(0x09), routine(0x70));
  assert.deepEqual(
    [0x400, 0x402, 0x404].map((at) => memory.read16(physical(at))),
    [0x3f8, 0x2f8, 0],
  );
  assert.deepEqual([memory.read16(physical(0x40e)), memory.read16(physical(0x413))], [0x9fc0, 639]);
  assert.equal(memory.read8(physical(0xffff0)), 0xba);
});

test('after a reset with a shutdown code the guest goes on at its own vector', () => {
  const { bus, memory, platform } = plugged();
  assert.equal(platform.reset(), null);
  memory.write16(physical(0x467), 0x1234);
  memory.write16(physical(0x469), 0x5678);
  bus.out(0x70, 0x0f);
  bus.out(0x71, 0x0a);
  assert.deepEqual(platform.reset(), { segment: 0x5678, offset: 0x1234 });
  assert.equal(platform.reset(), null, 'the code is used up');
  assert.equal(memory.read16(physical(0x467)), 0, 'and an ordinary boot starts from clean data areas');
});

test('S3: the RTC alarm wakes, and the FACS says where', () => {
  let asleep = false;
  const suspend = () => {
    asleep = true;
  };
  const { bus, clock, memory, platform } = plugged({}, { suspend });
  memory.write32(physical(platform.rsdp! + 0x40 + 12), 0x0009_a000);
  bus.out(0x602, 0x0400, 2); // RTC_EN
  for (const [register, value] of [
    [0x01, 0xff],
    [0x03, 0xff],
    [0x05, 0xff],
    [0x0b, 0x22],
  ] as const) {
    bus.out(0x70, register);
    bus.out(0x71, value);
  }
  bus.out(0x604, 0x2400, 2);
  assert.equal(asleep, true);
  assert.equal(platform.wakePending, false);
  clock.advance(2e9);
  assert.equal(platform.wakePending, true);
  assert.equal(platform.wakeUp(), 0x0009_a000);
  assert.equal(bus.in(0x600, 2) & 0x8000, 0x8000);
});

test('a machine that cannot be is refused, and the largest one that can is not', () => {
  assert.throws(() => plugged({ ramBytes: 2 ** 20 }), /1 MiB of RAM, but it takes at least 2 MiB/);
  assert.throws(() => plugged({ cpus: 0 }), /expected 1 to 1024/);
  assert.throws(() => plugged({ cpus: 1025 }), /expected 1 to 1024/);
  plugged({ ramBytes: 2 * 2 ** 20, cpus: 1024 });
});

test('no access of any width to any port or device page makes an exception', () => {
  const { bus, clock } = plugged({
    testDevice: true,
    debugExit: { iobase: 0xf4, iosize: 4 },
    drives: [{ store: { sizeBytes: 512, readOnly: false, read: () => {}, write: () => {}, flush: () => {} } }],
    random: (into) => into.fill(1),
  });
  let seed = 12_345; // a linear congruential generator: the test repeats
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const sizes = [1, 2, 4] as const;
  for (let i = 0; i < 60_000; i += 1) {
    const size = sizes[random(3)]!;
    const ports = bus.ports[random(bus.ports.length)]!;
    const port = ports.first + random(ports.count);
    if (port + size <= ports.first + ports.count) {
      const value = random(4) === 0 ? 0 : random(256 ** size);
      bus.out(port, value, size);
      const read = bus.in(port, size);
      assert.ok(Number.isInteger(read) && read >= 0 && read < 256 ** size, `port ${port.toString(16)} reads ${read}`);
    }
    const memory = bus.memory[random(bus.memory.length)];
    if (memory) {
      const at = memory.first + size * random(Math.min(memory.count, 0x4000) / size);
      bus.write(at, random(3) === 0 ? random(16) : random(256 ** size), size);
      const read = bus.read(at, size);
      assert.ok(Number.isInteger(read) && read >= 0 && read < 256 ** size, `${memory.name} reads ${read}`);
    }
    if (i % 64 === 0) clock.advance(random(1e6));
  }
});
