import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ManualClock, RecordingLine } from '../testing/wires.ts';
import { Hpet } from './hpet.ts';
import { CONFIGURATION, HPET, TIMER_CONFIGURATION as T } from './registers.ts';

function hpet() {
  const clock = new ManualClock();
  const lines = new Map<number, RecordingLine>();
  const line = (gsi: number) => {
    let one = lines.get(gsi);
    if (!one) lines.set(gsi, (one = new RecordingLine()));
    return one;
  };
  const legacy = [new RecordingLine(), new RecordingLine()] as const;
  const replaced: boolean[] = [];
  const messages: number[][] = [];
  const device = new Hpet({
    clock,
    line,
    legacyLines: legacy,
    onLegacyReplacement: (on) => replaced.push(on),
    deliverMsi: (...message) => messages.push(message),
  });
  const read = (at: number) => device.readMmio(at, 4);
  const write = (at: number, value: number) => device.writeMmio(at, 4, value);
  const timer = (n: number) => HPET.TIMER0 + n * HPET.TIMER_STRIDE;
  return { clock, line, legacy, replaced, messages, device, read, write, timer };
}

test('capabilities tell three 64-bit timers, legacy replacement and 10 ns', () => {
  const h = hpet();
  assert.equal(h.read(0), 0x8086_a201);
  assert.equal(h.read(4), 10_000_000);
});

test('the counter stands still until it is enabled, and keeps its value when stopped', () => {
  const h = hpet();
  h.clock.advance(1000);
  assert.equal(h.read(HPET.MAIN_COUNTER), 0);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  h.clock.advance(12_345);
  assert.equal(h.read(HPET.MAIN_COUNTER), 1234);
  h.write(HPET.CONFIGURATION, 0);
  h.clock.advance(1000);
  assert.equal(h.read(HPET.MAIN_COUNTER), 1234);
});

test('the counter carries from its low into its high half', () => {
  const h = hpet();
  h.write(HPET.MAIN_COUNTER, 0xffff_fff0);
  h.write(HPET.MAIN_COUNTER + 4, 0xffff_ffff);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  h.clock.advance(150);
  assert.deepEqual([h.read(HPET.MAIN_COUNTER), h.read(HPET.MAIN_COUNTER + 4)], [0xffff_ffff, 0xffff_ffff]);
  h.clock.advance(10);
  assert.deepEqual([h.read(HPET.MAIN_COUNTER), h.read(HPET.MAIN_COUNTER + 4)], [0, 0]);
});

test('a one-shot timer matches once, at its comparator', () => {
  const h = hpet();
  h.write(h.timer(2), T.INT_ENABLE | (20 << T.ROUTE_SHIFT));
  h.write(h.timer(2) + 8, 1000);
  h.write(h.timer(2) + 12, 0);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  h.clock.advance(9999);
  assert.equal(h.line(20).rises, 0);
  h.clock.advance(1);
  assert.deepEqual(h.line(20).edges, [true, false]);
  h.clock.advance(1e9);
  assert.equal(h.line(20).rises, 1);
});

test("Linux's way to a periodic timer: VALUE_SET, comparator, period", () => {
  const h = hpet();
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE | CONFIGURATION.LEGACY_ROUTE);
  h.write(h.timer(0), T.INT_ENABLE | T.PERIODIC | T.VALUE_SET | T.MODE_32);
  h.write(h.timer(0) + 8, 5000);
  h.write(h.timer(0) + 8, 2000);
  assert.equal(h.read(h.timer(0)) & T.VALUE_SET, 0, 'VALUE_SET clears itself');
  h.clock.advance(49_999);
  assert.equal(h.legacy[0].rises, 0);
  h.clock.advance(1);
  assert.equal(h.legacy[0].rises, 1);
  assert.equal(h.read(h.timer(0) + 8), 7000, 'the comparator shows the next match');
  h.clock.advance(3 * 20_000);
  assert.equal(h.legacy[0].rises, 4);
});

test('a 64-bit write with VALUE_SET, as two halves, sets both halves of the comparator', () => {
  const h = hpet();
  h.write(h.timer(0), T.PERIODIC | T.VALUE_SET);
  h.write(h.timer(0) + 8, 0x1111);
  h.write(h.timer(0) + 12, 0x2222);
  h.write(h.timer(0) + 8, 0x3333);
  h.write(h.timer(0) + 12, 0);
  assert.deepEqual([h.read(h.timer(0) + 8), h.read(h.timer(0) + 12)], [0x1111, 0x2222]);
});

test('a level interrupt stays until its status bit is written', () => {
  const h = hpet();
  h.write(h.timer(1), T.INT_ENABLE | T.LEVEL | (21 << T.ROUTE_SHIFT));
  h.write(h.timer(1) + 8, 100);
  h.write(h.timer(1) + 12, 0);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  h.clock.advance(1000);
  assert.deepEqual([h.line(21).level, h.read(HPET.INTERRUPT_STATUS)], [true, 2]);
  h.write(HPET.INTERRUPT_STATUS, 2);
  assert.deepEqual([h.line(21).level, h.read(HPET.INTERRUPT_STATUS)], [false, 0]);
});

test('legacy replacement takes IRQ 0 and 8 for timers 0 and 1 and says so', () => {
  const h = hpet();
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE | CONFIGURATION.LEGACY_ROUTE);
  for (const n of [0, 1]) {
    h.write(h.timer(n), T.INT_ENABLE | T.MODE_32);
    h.write(h.timer(n) + 8, 100);
  }
  h.clock.advance(1000);
  assert.deepEqual([h.legacy[0].rises, h.legacy[1].rises], [1, 1]);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  assert.deepEqual(h.replaced, [true, false]);
});

test('a 32-bit timer matches again each time the low half comes round', () => {
  const h = hpet();
  h.write(HPET.MAIN_COUNTER, 0xffff_ff00);
  h.write(h.timer(0), T.INT_ENABLE | T.MODE_32 | (20 << T.ROUTE_SHIFT));
  h.write(h.timer(0) + 8, 0x10);
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  h.clock.advance(0x110 * 10);
  assert.equal(h.line(20).rises, 1);
  h.clock.advance(2 ** 32 * 10);
  assert.equal(h.line(20).rises, 2);
});

test('a route that the I/O APIC input mask does not offer reads back as 0', () => {
  const h = hpet();
  h.write(h.timer(0), 3 << T.ROUTE_SHIFT);
  assert.equal((h.read(h.timer(0)) >> T.ROUTE_SHIFT) & 0x1f, 0);
  h.write(h.timer(0), 23 << T.ROUTE_SHIFT);
  assert.equal((h.read(h.timer(0)) >> T.ROUTE_SHIFT) & 0x1f, 23);
});

test('a comparator centuries away arms the clock within its exact range', () => {
  const h = hpet();
  h.write(h.timer(0), T.INT_ENABLE | (20 << T.ROUTE_SHIFT));
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
  assert.ok(Number.isSafeInteger(h.clock.nextNs));
});

test('a reset stops the counter and gives the legacy lines back', () => {
  const h = hpet();
  h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE | CONFIGURATION.LEGACY_ROUTE);
  h.clock.advance(1000);
  h.device.reset();
  assert.deepEqual([h.read(HPET.MAIN_COUNTER), h.read(HPET.CONFIGURATION), h.clock.nextNs], [0, 0, -1]);
  assert.deepEqual(h.replaced, [true, false]);
});

test('a timer with FSB_ENABLE sends messages, once a match, and moves no line, be it level-triggered or not', () => {
  for (const type of [0, T.LEVEL]) {
    const h = hpet();
    assert.equal(h.read(h.timer(1)) & T.FSB_CAPABLE, T.FSB_CAPABLE);
    h.write(h.timer(1) + 0x10, 0x4041); // data
    h.write(h.timer(1) + 0x14, 0xfee0_1000); // address
    h.write(h.timer(1), T.INT_ENABLE | T.PERIODIC | T.VALUE_SET | T.FSB_ENABLE | type | (20 << T.ROUTE_SHIFT));
    h.write(h.timer(1) + 8, 100);
    h.write(h.timer(1) + 12, 0);
    h.write(HPET.CONFIGURATION, CONFIGURATION.ENABLE);
    h.clock.advance(999);
    assert.deepEqual(h.messages, []);
    h.clock.advance(1);
    assert.deepEqual(h.messages, [[0xfee0_1000, 0x4041]]);
    h.clock.advance(2000);
    assert.equal(h.messages.length, 3);
    assert.equal(h.line(20).rises, 0);
    h.write(h.timer(1), T.PERIODIC | T.FSB_ENABLE | type);
    h.clock.advance(2000);
    assert.equal(h.messages.length, 3, 'not without INT_ENABLE');
  }
});
