import assert from 'node:assert/strict';
import { test } from 'vitest';
import { RecordingLine } from '../testing/wires.ts';
import { FCR, IER, LCR, LSR, MCR, MSR } from './registers.ts';
import { Uart16550 } from './uart16550.ts';

function uart() {
  const irq = new RecordingLine();
  const sent: number[] = [];
  const device = new Uart16550({ irq, transmit: (byte) => sent.push(byte) });
  return {
    device,
    irq,
    sent,
    in: (offset: number) => device.readPort(offset, 1),
    out: (offset: number, value: number) => device.writePort(offset, 1, value),
  };
}

const bytes = (count: number) => Uint8Array.from({ length: count }, (_, i) => i);

test('Linux 8250 autoconfiguration finds a 16550A', () => {
  // The steps of drivers/tty/serial/8250/8250_port.c, autoconfig() and autoconfig_16550a().
  const u = uart();
  u.out(1, 0);
  assert.equal(u.in(1) & 0x0f, 0);
  u.out(1, 0x0f);
  assert.equal(u.in(1) & 0x0f, 0x0f);
  u.out(1, 0);
  u.out(4, MCR.LOOP | 0x0a);
  assert.equal(u.in(6) & 0xf0, MSR.DCD | MSR.CTS);
  u.out(4, 0);
  u.out(3, 0xbf);
  u.out(2, 0);
  u.out(3, 0);
  u.out(2, FCR.ENABLE);
  assert.equal(u.in(2) >> 6, 3, 'both FIFO bits: a 16550A');
  u.out(3, LCR.DLAB);
  assert.notEqual(u.in(2), 0, 'no EFR: not a 16650');
  u.out(2, FCR.ENABLE | 0x20);
  assert.equal(u.in(2) >> 5, 6, 'no 64-byte FIFO: not a 16750');
  u.out(3, 0);
  u.out(1, 0x40);
  assert.equal(u.in(1) & 0x40, 0, 'no UUE bit: not an XScale');
});

test('a written byte leaves at once and the transmitter stays empty', () => {
  const u = uart();
  for (const byte of [0x68, 0x69]) {
    assert.equal(u.in(5), LSR.THRE | LSR.TEMT);
    u.out(0, byte);
  }
  assert.deepEqual(u.sent, [0x68, 0x69]);
});

test('DLAB puts the divisor latch in front of data and interrupt enable', () => {
  const u = uart();
  u.out(3, LCR.DLAB | 3);
  u.out(0, 0x34);
  u.out(1, 0x12);
  assert.deepEqual([u.in(0), u.in(1)], [0x34, 0x12]);
  u.out(3, 3);
  assert.equal(u.in(1), 0);
  assert.deepEqual(u.sent, []);
});

test('a word written to the divisor latch fills both bytes', () => {
  const u = uart();
  u.out(3, LCR.DLAB);
  u.device.writePort(0, 2, 0x1234);
  assert.equal(u.device.readPort(0, 2), 0x1234);
});

test('nothing the host sends is lost, however much it is', () => {
  const u = uart();
  u.out(2, FCR.ENABLE);
  u.device.receive(bytes(200));
  const got: number[] = [];
  while ((u.in(5) & LSR.DR) !== 0) got.push(u.in(0));
  assert.deepEqual(got, [...bytes(200)]);
  assert.equal(u.in(0), 0, 'an empty receiver reads as 0');
});

test('resetting the receiver FIFO does not lose what was typed ahead', () => {
  const u = uart();
  u.out(2, FCR.ENABLE);
  u.device.receive(bytes(40));
  u.in(0);
  u.out(2, FCR.ENABLE | FCR.RESET_RECEIVER | FCR.RESET_TRANSMITTER);
  u.out(2, 0);
  u.out(2, FCR.ENABLE);
  assert.equal(u.device.unreadBytes, 39);
  assert.deepEqual(
    Array.from({ length: 39 }, () => u.in(0)),
    [...bytes(40)].slice(1),
  );
});

test('received data interrupt names the trigger level, below it the timeout', () => {
  const u = uart();
  u.out(2, FCR.ENABLE | 0x80); // trigger at 8
  u.out(1, IER.ERBFI);
  u.device.receive(bytes(7));
  assert.equal(u.irq.level, true);
  assert.equal(u.in(2), 0xcc);
  u.device.receive(bytes(1));
  assert.equal(u.in(2), 0xc4);
  for (let i = 0; i < 8; i += 1) u.in(0);
  assert.equal(u.in(2), 0xc1);
  assert.equal(u.irq.level, false);
});

test('transmitter empty interrupt comes with ETBEI, goes with IIR, comes back with the next byte', () => {
  const u = uart();
  u.out(1, IER.ETBEI);
  assert.equal(u.irq.level, true);
  assert.equal(u.in(2) & 0x0f, 0x2);
  assert.equal(u.irq.level, false);
  assert.equal(u.in(2) & 0x0f, 0x1);
  u.out(0, 0x41);
  assert.equal(u.irq.level, true);
  u.out(0, 0x42);
  assert.equal(u.irq.rises, 3, 'each byte is an edge, even if IIR was not read');
});

test('interrupts are identified by priority: line status, data, transmitter, modem', () => {
  const u = uart();
  u.out(2, FCR.ENABLE);
  u.out(4, MCR.LOOP);
  u.out(1, 0x0f);
  for (let i = 0; i < 17; i += 1) u.out(0, i); // the last one overruns
  assert.equal(u.in(2) & 0x0f, 0x6);
  assert.equal(u.in(5) & LSR.OE, LSR.OE);
  assert.equal(u.in(5) & LSR.OE, 0, 'reading LSR takes the overrun away');
  assert.equal(u.in(2) & 0x0f, 0x4);
  for (let i = 0; i < 16; i += 1) assert.equal(u.in(0), i);
  assert.equal(u.in(2) & 0x0f, 0x2);
  assert.equal(u.in(2) & 0x0f, 0x0, 'entering loopback moved the modem lines');
  u.in(6);
  assert.equal(u.in(2) & 0x0f, 0x1);
});

test('loopback carries bytes back, keeps them off the wire, and holds the host off', () => {
  const u = uart();
  u.out(2, FCR.ENABLE);
  u.out(4, MCR.LOOP);
  u.device.receive(Uint8Array.of(0x99));
  u.out(0, 0x55);
  assert.deepEqual([u.in(0), u.in(5) & LSR.DR], [0x55, 0]);
  assert.deepEqual(u.sent, []);
  u.out(4, 0);
  assert.equal(u.in(0), 0x99);
});

test('loopback feeds the modem outputs back and MSR tells what changed', () => {
  const u = uart();
  u.out(4, MCR.LOOP);
  u.in(6);
  for (const [output, input, change] of [
    [MCR.RTS, MSR.CTS, MSR.DCTS],
    [MCR.DTR, MSR.DSR, MSR.DDSR],
    [MCR.OUT2, MSR.DCD, MSR.DDCD],
  ] as const) {
    u.out(4, MCR.LOOP | output);
    assert.equal(u.in(6), input | change);
    assert.equal(u.in(6), input);
    u.out(4, MCR.LOOP);
    assert.equal(u.in(6), change);
  }
  u.out(4, MCR.LOOP | MCR.OUT1);
  assert.equal(u.in(6), MSR.RI, 'only the trailing edge of the ring indicator counts');
  u.out(4, MCR.LOOP);
  assert.equal(u.in(6), MSR.TERI);
});

test('without FIFOs one byte waits at a time and IIR shows no FIFO bits', () => {
  const u = uart();
  u.out(1, IER.ERBFI);
  u.device.receive(bytes(3));
  assert.equal(u.in(2), 0x04);
  assert.deepEqual([u.in(0), u.in(0), u.in(0)], [0, 1, 2]);
  assert.equal(u.irq.rises, 3);
});

test('a reset clears the registers and keeps what the host sent', () => {
  const u = uart();
  u.out(2, FCR.ENABLE);
  u.out(1, 0x0f);
  u.device.receive(bytes(20));
  u.device.reset();
  assert.deepEqual([u.in(1), u.in(2), u.in(3), u.in(4)], [0, 1, 0, 0]);
  assert.equal(u.device.unreadBytes, 20);
  assert.equal(u.irq.level, false);
});
