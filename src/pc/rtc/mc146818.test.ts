import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ManualClock, RecordingLine } from '../testing/wires.ts';
import { calendarTime, secondsSinceEpoch } from './calendar.ts';
import { Mc146818 } from './mc146818.ts';
import { CMOS, REG_A, REG_B, REG_C, RTC } from './registers.ts';

const SECOND = 1_000_000_000;

function rtc(epochMs = Date.UTC(2026, 10, 22, 12, 34, 56, 250), ramBytes = 256 * 2 ** 20, cpus = 2) {
  const clock = new ManualClock();
  const irq = new RecordingLine();
  const masks: boolean[] = [];
  const maskNmi = (masked: boolean) => masks.push(masked);
  const device = new Mc146818({ clock, wallTime: { epochMs }, irq, ramBytes, cpus, maskNmi });
  const read = (register: number) => {
    device.writePort(0, 1, register);
    return device.readPort(1, 1);
  };
  const write = (register: number, value: number) => {
    device.writePort(0, 1, register);
    device.writePort(1, 1, value);
  };
  const date = () =>
    [CMOS.CENTURY, RTC.YEAR, RTC.MONTH, RTC.DAY_OF_MONTH, RTC.HOURS, RTC.MINUTES, RTC.SECONDS]
      .map((register) => read(register).toString(16).padStart(2, '0'))
      .join(' ');
  return { clock, irq, device, read, write, date, masks };
}

test('bit 7 of the index port masks NMIs and is no part of the index; a reset lets them through', () => {
  const r = rtc();
  r.write(0x40, 0x5a);
  r.device.writePort(0, 1, 0xc0);
  assert.equal(r.device.readPort(1, 1), 0x5a);
  r.device.reset();
  assert.deepEqual(r.masks, [false, true, false]);
});

test('the calendar agrees with the host on every kind of year', () => {
  for (const iso of [
    '1970-01-01T00:00:00Z',
    '1969-12-31T23:59:59Z',
    '2000-02-29T12:00:00Z',
    '1900-03-01T00:00:00Z',
    '2026-11-22T12:34:56Z',
    '2100-02-28T23:59:59Z',
    '2400-12-31T00:00:00Z',
  ]) {
    const host = new Date(iso);
    const time = calendarTime(host.getTime() / 1000);
    assert.deepEqual(time, {
      year: host.getUTCFullYear(),
      month: host.getUTCMonth() + 1,
      day: host.getUTCDate(),
      weekday: host.getUTCDay() + 1,
      hour: host.getUTCHours(),
      minute: host.getUTCMinutes(),
      second: host.getUTCSeconds(),
    });
    assert.equal(secondsSinceEpoch(time), host.getTime() / 1000);
  }
});

test('the clock shows wall time in BCD and goes on with virtual time', () => {
  const r = rtc();
  assert.equal(r.date(), '20 26 11 22 12 34 56');
  assert.equal(r.read(RTC.DAY_OF_WEEK), 1, 'a Sunday');
  r.clock.advance(749_999_999);
  assert.equal(r.date(), '20 26 11 22 12 34 56');
  r.clock.advance(1);
  assert.equal(r.date(), '20 26 11 22 12 34 57');
});

test('binary and 12-hour modes show the same moment', () => {
  const r = rtc();
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.DM);
  assert.deepEqual([r.read(RTC.HOURS), r.read(RTC.MINUTES), r.read(RTC.YEAR)], [12, 34, 26]);
  r.write(RTC.B, 0);
  assert.equal(r.read(RTC.HOURS), 0x92, 'noon is 12 PM');
  const midnight = rtc(Date.UTC(2026, 0, 1, 0, 5, 0));
  midnight.write(RTC.B, 0);
  assert.equal(midnight.read(RTC.HOURS), 0x12, 'midnight is 12 AM');
});

test('a guest sets the time with SET, and the clock goes on from there', () => {
  const r = rtc();
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.SET);
  for (const [register, value] of [
    [CMOS.CENTURY, 0x19],
    [RTC.YEAR, 0x99],
    [RTC.MONTH, 0x12],
    [RTC.DAY_OF_MONTH, 0x31],
    [RTC.HOURS, 0x23],
    [RTC.MINUTES, 0x59],
    [RTC.SECONDS, 0x59],
  ] as const) {
    r.write(register, value);
  }
  r.clock.advance(10 * SECOND);
  assert.equal(r.date(), '19 99 12 31 23 59 59', 'SET holds the time');
  r.write(RTC.B, REG_B.HOURS_24);
  r.clock.advance(SECOND);
  assert.equal(r.date(), '20 00 01 01 00 00 00');
});

test('UIP warns 244 µs before the update', () => {
  const r = rtc(0);
  r.clock.advanceTo(SECOND - 244_001);
  assert.equal(r.read(RTC.A) & REG_A.UIP, 0);
  r.clock.advanceTo(SECOND - 244_000);
  assert.equal(r.read(RTC.A) & REG_A.UIP, REG_A.UIP);
  r.clock.advanceTo(SECOND);
  assert.equal(r.read(RTC.A) & REG_A.UIP, 0);
});

test('periodic interrupts come at the selected rate, one per reading of register C', () => {
  for (const [rate, hz] of [
    [6, 1024],
    [15, 2],
    [3, 8192],
    [1, 256],
    [2, 128],
  ] as const) {
    const r = rtc(0);
    r.write(RTC.A, 0x20 | rate);
    r.write(RTC.B, REG_B.HOURS_24 | REG_B.PIE);
    r.read(RTC.C);
    let interrupts = 0;
    while (r.clock.nextNs >= 0 && r.clock.nextNs <= SECOND) {
      r.clock.advanceTo(r.clock.nextNs);
      assert.equal(r.irq.level, true);
      assert.equal(r.read(RTC.C) & (REG_C.IRQF | REG_C.PF), REG_C.IRQF | REG_C.PF);
      assert.equal(r.irq.level, false);
      interrupts += 1;
    }
    assert.equal(interrupts, hz);
  }
});

test('an interrupt that nobody acknowledges comes once', () => {
  const r = rtc(0);
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.PIE);
  r.clock.advance(5 * SECOND);
  assert.equal(r.irq.rises, 1);
  assert.equal(r.clock.nextNs, -1);
});

test('the update-ended interrupt comes with each new second', () => {
  const r = rtc();
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.UIE);
  r.clock.advance(749_999_999);
  assert.equal(r.irq.level, false);
  r.clock.advance(1);
  assert.equal(r.irq.level, true);
  assert.equal(r.read(RTC.C) & REG_C.UF, REG_C.UF);
  r.clock.advance(SECOND);
  assert.equal(r.irq.rises, 2);
});

test("the alarm matches to the second, and a don't-care byte matches always", () => {
  const r = rtc();
  r.write(RTC.HOURS_ALARM, 0xff);
  r.write(RTC.MINUTES_ALARM, 0x35);
  r.write(RTC.SECONDS_ALARM, 0x00);
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.AIE);
  r.clock.advance(3 * SECOND + 749_999_999);
  assert.equal(r.irq.level, false);
  r.clock.advance(1);
  assert.equal(r.irq.level, true, '12:35:00');
  assert.equal(r.read(RTC.C) & REG_C.AF, REG_C.AF);
  assert.equal(r.clock.nextNs, (3600 + 3) * SECOND + 750_000_000, 'again an hour later');
});

test('flags are set although their interrupts are off', () => {
  const r = rtc();
  r.read(RTC.C);
  r.clock.advance(SECOND);
  assert.equal(r.read(RTC.C), REG_C.PF | REG_C.UF);
  assert.equal(r.irq.rises, 0);
});

test('SET clears the update interrupt enable, as the data sheet says', () => {
  const r = rtc();
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.SET | REG_B.UIE);
  assert.equal(r.read(RTC.B) & REG_B.UIE, 0);
});

test('an alarm that can never match arms nothing', () => {
  const r = rtc();
  r.write(RTC.HOURS_ALARM, 0x77);
  r.write(RTC.B, REG_B.HOURS_24 | REG_B.AIE);
  assert.equal(r.clock.nextNs, -1);
});

test("the RAM describes memory and CPUs in QEMU's places", () => {
  const word = (r: ReturnType<typeof rtc>, at: number) => r.read(at) | (r.read(at + 1) << 8);
  const small = rtc(0, 32 * 2 ** 20, 1);
  assert.deepEqual(
    [word(small, 0x15), word(small, 0x17), word(small, 0x30), word(small, 0x34)],
    [640, 31_744, 31_744, 256],
  );
  const large = rtc(0, 5 * 2 ** 30, 4);
  assert.deepEqual(
    [word(large, 0x17), word(large, 0x34), word(large, 0x5b), large.read(0x5d)],
    [0xffff, 0xbf00, 0x8000, 0],
  );
  assert.equal(large.read(0x5f), 3);
});

test('plain RAM keeps what is written, also across a reset', () => {
  const r = rtc();
  r.write(0x40, 0xa5);
  r.device.reset();
  assert.equal(r.read(0x40), 0xa5);
  r.write(CMOS.SHUTDOWN, 0x0a);
  assert.equal(r.device.takeShutdownCode(), 0x0a);
  assert.equal(r.device.takeShutdownCode(), 0);
});
