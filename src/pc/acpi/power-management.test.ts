import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ManualClock, RecordingLine } from '../testing/wires.ts';
import { PowerManagement, pmTimerTicks } from './power-management.ts';
import { PM, PM1_CNT, PM1_STS } from './registers.ts';

function pm(timerBits: 24 | 32 = 24, suspend?: () => void) {
  const clock = new ManualClock();
  const sci = new RecordingLine();
  const offs: number[] = [];
  const power = { powerOff: (status: number) => void offs.push(status), reset: () => {} };
  const device = new PowerManagement({ clock, sci, power, timerBits, suspend });
  return { clock, sci, offs, device };
}

test('the timer counts 3,579,545 ticks a second, without drift after a century', () => {
  assert.equal(pmTimerTicks(1_000_000_000), 3_579_545);
  assert.equal(pmTimerTicks(999_999_999), 3_579_544);
  assert.equal(pmTimerTicks(100 * 86_400e9), 100 * 86_400 * 3_579_545);
});

test('a 24-bit timer wraps at 2^24, a 32-bit one does not', () => {
  const [narrow, wide] = [pm(24), pm(32)];
  for (const one of [narrow, wide]) one.clock.advance(5e9);
  assert.equal(narrow.device.readPort(PM.PM_TMR, 4), 5 * 3_579_545 - 2 ** 24);
  assert.equal(wide.device.readPort(PM.PM_TMR, 4), 5 * 3_579_545);
  assert.equal(wide.device.readPort(PM.PM_TMR + 1, 1), ((5 * 3_579_545) >> 8) & 0xff);
});

test('the SMI command turns ACPI mode on and off', () => {
  const { device } = pm();
  device.smiCommand(0xf1);
  assert.equal(device.readPort(PM.PM1_CNT, 2) & PM1_CNT.SCI_EN, PM1_CNT.SCI_EN);
  device.smiCommand(0xf0);
  assert.equal(device.readPort(PM.PM1_CNT, 2) & PM1_CNT.SCI_EN, 0);
});

test('the power button raises the SCI while it is enabled and until it is cleared', () => {
  const { device, sci } = pm();
  device.pressPowerButton();
  assert.equal(sci.level, false);
  device.writePort(PM.PM1_EN, 2, PM1_STS.PWRBTN);
  assert.equal(sci.level, false, 'not in ACPI mode yet');
  device.smiCommand(0xf1);
  assert.equal(sci.level, true);
  device.writePort(PM.PM1_STS, 2, PM1_STS.PWRBTN);
  assert.equal(sci.level, false);
});

test('a byte written to the enable register leaves the other half', () => {
  const { device } = pm();
  device.writePort(PM.PM1_EN, 2, 0x0521);
  device.writePort(PM.PM1_EN + 1, 1, 0x01);
  assert.equal(device.readPort(PM.PM1_EN, 2), 0x0121);
  assert.equal(device.readPort(PM.PM1_STS, 4), 0x0121_0000, 'both registers in one dword');
});

test('TMR_STS comes when the highest bit toggles, and its SCI at that moment', () => {
  const { device, sci, clock } = pm();
  device.smiCommand(0xf1);
  device.writePort(PM.PM1_EN, 2, PM1_STS.TMR);
  clock.advance(2.343e9); // 2^23 ticks are 2.3435 s
  assert.equal(sci.level, false);
  clock.advance(0.001e9);
  assert.equal(sci.level, true);
  device.writePort(PM.PM1_STS, 2, PM1_STS.TMR);
  assert.equal(sci.level, false);
  clock.advance(2.4e9);
  assert.equal(sci.rises, 2);
});

test('SLP_TYP 0 with SLP_EN turns the machine off; other types and SLP_TYP alone do not', () => {
  const { device, offs } = pm();
  device.writePort(PM.PM1_CNT, 2, 0);
  device.writePort(PM.PM1_CNT, 2, PM1_CNT.SLP_EN | (1 << 10));
  assert.deepEqual(offs, []);
  device.writePort(PM.PM1_CNT, 2, PM1_CNT.SLP_EN);
  assert.deepEqual(offs, [0]);
});

test('S3 suspends, an enabled event is pending for the wake-up, and WAK_STS tells of it', () => {
  let suspended = 0;
  const { device } = pm(24, () => {
    suspended += 1;
  });
  device.writePort(PM.PM1_EN, 2, PM1_STS.RTC);
  device.writePort(PM.PM1_CNT, 2, PM1_CNT.SLP_EN | (1 << 10));
  assert.equal(suspended, 1);
  assert.equal(device.wakePending, false);
  device.rtcAlarm();
  assert.equal(device.wakePending, true);
  device.wake();
  assert.equal(device.readPort(PM.PM1_STS, 2) & PM1_STS.WAK, PM1_STS.WAK);
});
