import assert from 'node:assert/strict';
import { test } from 'vitest';
import type { AccessSize } from '../../contracts/device.ts';
import { plugged } from '../testing/platform.ts';
import { RecordingLine, TestBus } from '../testing/wires.ts';
import { PciAddressSpace } from './address-space.ts';
import { PciBus } from './bus.ts';
import { PciFunction } from './function.ts';
import { Msix } from './msix.ts';

const RAM = 256 * 2 ** 20;

/** A bus with one function that has a BAR of each kind. */
function bus() {
  const outer = new TestBus();
  const line = new RecordingLine();
  const resets: string[] = [];
  const space = new PciAddressSpace(outer, RAM);
  const pci = new PciBus({ space, irq: () => line, reset: (reason) => resets.push(reason) });
  outer.addPorts(0xcf8, 8, pci, 'pci');
  const echo = {
    readPort: (offset: number) => offset,
    writePort: () => {},
    readMmio: (offset: number) => offset + 0x100,
    writeMmio: () => {},
  };
  const device = new PciFunction({
    name: 'echo',
    vendor: 0x1234,
    device: 0x5678,
    classCode: 0xff_0000,
    interruptPin: 1,
  });
  device.addBar(0, 'io', 32, { ports: echo });
  device.addBar(1, 'memory32', 4096, { memory: echo });
  device.addBar(2, 'memory64', 8192, { memory: echo });
  pci.add(3, 0, device);
  pci.assignResources();
  const select = (slot: number, register: number) =>
    outer.out(0xcf8, (0x8000_0000 | (slot << 11) | (register & 0xfc)) >>> 0, 4);
  const read = (register: number, size: AccessSize = 4) => {
    select(3, register);
    return outer.in(0xcfc + (register & 3), size);
  };
  const write = (register: number, value: number, size: AccessSize = 4) => {
    select(3, register);
    outer.out(0xcfc + (register & 3), value, size);
  };
  return { outer, line, resets, pci, device, select, read, write };
}

test("mechanism 1 is found by Linux's check", () => {
  // arch/x86/pci/direct.c, pci_check_type1()
  const { bus: outer } = plugged();
  outer.out(0xcfb, 0x01);
  outer.out(0xcf8, 0x8000_0000, 4);
  assert.equal(outer.in(0xcf8, 4), 0x8000_0000);
  assert.equal(outer.in(0xcfc, 2), 0x8086);
});

test("the chipset is a 440FX with a PIIX3 and a PIIX4's power management", () => {
  const { config } = plugged();
  assert.deepEqual([config.read(0, 0, 0), config.read(0, 0, 8) >>> 8], [0x1237_8086, 0x06_0000]);
  assert.deepEqual([config.read(1, 0, 0), config.read(1, 0, 0x0e, 1)], [0x7000_8086, 0x80]);
  assert.equal(config.read(1, 3, 0), 0x7113_8086);
  assert.equal(config.read(1, 3, 0x40), 0x601, 'PMBASE');
  assert.equal(config.read(31, 0, 0), 0xffff_ffff, 'an empty slot');
  assert.equal(config.read(1, 1, 0, 2), 0xffff);
});

test('configuration reads work in all widths and at each byte, and need the enable bit', () => {
  const b = bus();
  assert.deepEqual([b.read(0, 2), b.read(2, 2), b.read(1, 1), b.read(3, 1)], [0x1234, 0x5678, 0x12, 0x56]);
  b.outer.out(0xcf8, 3 << 11, 4);
  assert.equal(b.outer.in(0xcfc, 4), 0xffff_ffff);
});

test('a BAR shows its size when ones are written, and moves its device when an address is', () => {
  const b = bus();
  b.write(0x04, 0, 2); // decoding off, as Linux does
  for (const [register, size] of [
    [0x10, 0xffff_ffe1],
    [0x14, 0xffff_f000],
    [0x18, 0xffff_e004],
    [0x1c, 0xffff_ffff],
    [0x20, 0],
  ] as const) {
    b.write(register, 0xffff_ffff);
    assert.equal(b.read(register), size);
  }
  b.write(0x10, 0xd000);
  b.write(0x14, 0xd000_0000);
  b.write(0x18, 0x0000_0000);
  b.write(0x1c, 0x0000_0010); // above 4 GiB
  assert.equal(b.outer.in(0xd005), 0xff, 'not decoded yet');
  b.write(0x04, 3, 2);
  assert.equal(b.outer.in(0xd005), 5);
  assert.equal(b.outer.read(0xd000_0004), 0x104);
  assert.equal(b.outer.read(0x10_0000_0008), 0x108);
});

test("firmware's part gives every BAR a place of its own, naturally aligned", () => {
  const b = bus();
  assert.equal(b.read(0x18) & ~0xf, 0xc000_0000 | 0);
  assert.equal(b.read(0x14), 0xc000_2000);
  assert.equal(b.read(0x10), 0xc001);
  assert.equal(b.read(0x04, 2) & 7, 7);
  assert.equal(b.read(0x3c, 1), 11, 'slot 3, INTA#: link D');
});

test('a BAR put over RAM, over a fixed device or over another BAR is not decoded', () => {
  const b = bus();
  const mapped = () => b.outer.memory.map((one) => one.first);
  for (const at of [0x0010_0000, 0xfec0_0000, 0xfee0_0000, 0xc000_0000, 0xffff_f000]) {
    b.write(0x14, at);
    assert.deepEqual(mapped(), [0xc000_0000]);
  }
  b.write(0x14, 0xc100_0000);
  assert.equal(mapped().length, 2);
  b.write(0x10, 0x3f8);
  assert.deepEqual(
    b.outer.ports.map((one) => one.first),
    [0xcf8],
  );
});

test('only writable bits change', () => {
  const b = bus();
  b.write(0x00, 0);
  b.write(0x04, 0xffff_ffff);
  b.write(0x34, 0xff, 1);
  assert.equal(b.read(0x00), 0x5678_1234);
  assert.equal(b.read(0x04), 0x0000_0547);
  assert.equal(b.read(0x34, 1), 0);
});

test('the interrupt pin shows in STATUS and INTX_DISABLE holds it back', () => {
  const b = bus();
  b.device.interrupt.set(true);
  assert.deepEqual([b.line.level, b.read(0x06, 2) & 8], [true, 8]);
  b.write(0x04, 0x0407, 2);
  assert.deepEqual([b.line.level, b.read(0x06, 2) & 8], [false, 8]);
  b.write(0x04, 0x0007, 2);
  b.device.interrupt.set(false);
  assert.deepEqual([b.line.level, b.read(0x06, 2) & 8], [false, 0]);
});

test('port 0xcf9 resets when bit 2 is written, and a dword to 0xcf8 does not touch it', () => {
  const b = bus();
  b.outer.out(0xcf9, 0x02);
  b.outer.out(0xcf8, 0xffff_ffff, 4);
  assert.deepEqual(b.resets, []);
  b.outer.out(0xcf9, 0x06);
  assert.equal(b.resets.length, 1);
  assert.equal(b.outer.in(0xcf9), 0x02);
});

test('a reset takes moved BARs back to where firmware puts them', () => {
  const b = bus();
  b.write(0x14, 0xd000_0000);
  b.pci.reset();
  assert.deepEqual(
    b.outer.memory.map((one) => one.first).sort((x, y) => x - y),
    [0xc000_0000, 0xc000_2000],
  );
});

test('MSI-X delivers, holds back what is masked and delivers it later', () => {
  const messages: number[][] = [];
  const owner = new PciFunction({ name: 'msix', vendor: 1, device: 1, classCode: 0 });
  const msix = new Msix(owner, 1, 3, (...message) => messages.push(message));
  const control = owner.config[0x34]! + 2;
  assert.equal(owner.read(control, 2), 2, 'table size minus one');
  for (let vector = 0; vector < 3; vector += 1) {
    msix.writeMmio(vector * 16, 4, 0xfee0_1000);
    msix.writeMmio(vector * 16 + 8, 4, 0x40 + vector);
  }
  msix.writeMmio(0x0c, 4, 0);
  msix.signal(0);
  assert.deepEqual(messages, [], 'not enabled');
  owner.write(control, 2, 0x8000);
  msix.signal(0);
  msix.signal(1); // masked since the reset
  msix.signal(7); // not there
  assert.deepEqual(messages, [[0xfee0_1000, 0, 0x40]]);
  assert.equal(msix.readMmio(0x800, 4), 2);
  msix.writeMmio(0x1c, 4, 0);
  assert.deepEqual(messages[1], [0xfee0_1000, 0, 0x41]);
  assert.equal(msix.readMmio(0x800, 4), 0);
  owner.write(control, 2, 0xc000);
  msix.signal(0);
  assert.equal(messages.length, 2);
  owner.write(control, 2, 0x8000);
  msix.configurationChanged();
  assert.equal(messages.length, 3);
});
