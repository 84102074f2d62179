import assert from 'node:assert/strict';
import { test } from 'vitest';
import { RecordingLine } from '../testing/wires.ts';
import { I8042, SystemControlPortA } from './i8042.ts';

function controller() {
  const irq = new RecordingLine();
  const auxIrq = new RecordingLine();
  const resets: string[] = [];
  const a20 = { enabled: true };
  const device = new I8042({ irq, auxIrq, a20, reset: (reason) => resets.push(reason) });
  return {
    device,
    irq,
    auxIrq,
    resets,
    a20,
    status: () => device.command.readPort(0, 1),
    command: (value: number) => device.command.writePort(0, 1, value),
    data: (value: number) => device.data.writePort(0, 1, value),
    read: () => device.data.readPort(0, 1),
    /** All bytes that wait. */
    drain: () => {
      const got: number[] = [];
      while ((device.command.readPort(0, 1) & 1) !== 0) got.push(device.data.readPort(0, 1));
      return got;
    },
  };
}

test('the self-test and the interface tests pass', () => {
  const c = controller();
  c.command(0xaa);
  assert.equal(c.status() & 0x05, 0x05, 'output full, system flag');
  assert.deepEqual(c.drain(), [0x55]);
  c.command(0xab);
  c.command(0xa9);
  assert.deepEqual(c.drain(), [0, 0]);
});

test('the command byte reads back as written', () => {
  const c = controller();
  c.command(0x60);
  c.data(0x03);
  c.command(0x20);
  assert.deepEqual(c.drain(), [0x03]);
});

test('the keyboard resets, identifies itself and takes its LEDs', () => {
  const c = controller();
  c.data(0xff);
  assert.deepEqual(c.drain(), [0xfa, 0xaa]);
  c.data(0xf2);
  assert.deepEqual(c.drain(), [0xfa, 0xab, 0x41]);
  c.data(0xed);
  c.data(0x05);
  assert.deepEqual(c.drain(), [0xfa, 0xfa]);
  assert.equal(c.device.leds, 5);
  c.data(0x00);
  assert.deepEqual(c.drain(), [0xfe], 'an unknown command is to be sent again');
});

test('each injected scan code is an edge on IRQ 1, in order', () => {
  const c = controller();
  c.device.injectScancodes(Uint8Array.of(0x1e, 0x9e));
  assert.equal(c.irq.level, true);
  assert.deepEqual([c.read(), c.irq.level, c.read(), c.irq.level], [0x1e, true, 0x9e, false]);
  assert.equal(c.irq.rises, 2);
});

test('a disabled keyboard says nothing, a masked interrupt does not rise', () => {
  const c = controller();
  c.command(0xad);
  c.device.injectScancodes(Uint8Array.of(0x1e));
  assert.deepEqual(c.drain(), []);
  c.command(0xae);
  c.command(0x60);
  c.data(0x40);
  c.device.injectScancodes(Uint8Array.of(0x1e));
  assert.equal(c.irq.level, false);
  assert.deepEqual(c.drain(), [0x1e]);
});

test('the auxiliary loop answers with its own status bit and IRQ 12', () => {
  const c = controller();
  c.command(0x60);
  c.data(0x43);
  c.command(0xd3);
  c.data(0x5a);
  assert.equal(c.status() & 0x21, 0x21);
  assert.equal(c.auxIrq.level, true);
  assert.equal(c.irq.level, false);
  assert.deepEqual(c.drain(), [0x5a]);
});

test('commands 0xfe and 0xf0 reset the machine, 0xff does not', () => {
  const c = controller();
  c.command(0xff);
  assert.deepEqual(c.resets, []);
  c.command(0xfe);
  c.command(0xf0);
  assert.equal(c.resets.length, 2);
});

test('the output port moves A20 and tells where it is', () => {
  const c = controller();
  c.command(0xd1);
  c.data(0x01);
  assert.equal(c.a20.enabled, false);
  c.command(0xd0);
  assert.equal(c.drain()[0]! & 0x03, 0x01);
  c.command(0xdf);
  assert.equal(c.a20.enabled, true);
});

test('port 0x92 moves A20 and resets when bit 0 rises', () => {
  const a20 = { enabled: true };
  const resets: string[] = [];
  const port = new SystemControlPortA({ a20, reset: (reason) => resets.push(reason) });
  assert.equal(port.readPort(), 2);
  port.writePort(0, 1, 0);
  assert.equal(a20.enabled, false);
  port.writePort(0, 1, 3);
  port.writePort(0, 1, 3);
  assert.deepEqual([resets.length, a20.enabled], [1, true]);
});
