import { has, low32 } from '../../base/bits.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';
import type { AccessSize, IrqLine, PortDevice, PowerControl } from '../../contracts/device.ts';
import { ACPI_VALUES } from '../layout.ts';
import { PM, PM1_CNT, PM1_CNT_SLP_TYP_SHIFT, PM1_EN, PM1_STS } from './registers.ts';

const NS_PER_SECOND = 1_000_000_000;
/** ACPI 6.4, 4.8.2.1 "Power Management Timer". */
export const PM_TIMER_HZ = 3_579_545;

/** Ticks of the PM timer since power-on. Split at the second: `ns * 3579545` would not fit 53 bits for long. */
export function pmTimerTicks(nowNs: number): number {
  const seconds = Math.floor(nowNs / NS_PER_SECOND);
  return seconds * PM_TIMER_HZ + Math.floor(((nowNs - seconds * NS_PER_SECOND) * PM_TIMER_HZ) / NS_PER_SECOND);
}

/** The first virtual time at which the timer has reached `ticks`. */
function nsOfPmTimer(ticks: number): number {
  const seconds = Math.floor(ticks / PM_TIMER_HZ);
  return seconds * NS_PER_SECOND + Math.ceil(((ticks - seconds * PM_TIMER_HZ) * NS_PER_SECOND) / PM_TIMER_HZ);
}

/**
 * ACPI's fixed hardware: PM1 event and control blocks, the PM timer and one (empty) block of general-purpose events.
 * Source: ACPI 6.4, 4.8 "ACPI Register Model"; Intel 82371AB (PIIX4) data sheet, 7.2.
 *
 *   offset  bytes  register
 *     0x0     2    PM1_STS   write 1 to clear
 *     0x2     2    PM1_EN
 *     0x4     2    PM1_CNT   SLP_EN reads as 0
 *     0x8     4    PM_TMR    3.579545 MHz; 24 or 32 bits
 *     0xc     2    GPE_STS   nothing ever sets one
 *     0xe     2    GPE_EN
 *
 * TMR_STS is not stored: bit 23 (or 31) of the timer has toggled since it was last cleared, or it has not.
 */
export class PowerManagement implements PortDevice {
  readonly #clock: Clock;
  readonly #sci: IrqLine;
  readonly #power: PowerControl;
  readonly #timer: Timer;
  readonly #halfTicks: number; // between two toggles of the timer's highest bit
  readonly #timerMask: number;
  readonly #suspend: (() => void) | undefined;
  #status = 0; // without TMR
  #enable = 0;
  #control = 0;
  #gpeEnable = 0;
  #clearedAtTicks = 0;

  constructor(wires: {
    clock: Clock;
    sci: IrqLine;
    power: PowerControl;
    timerBits: 24 | 32;
    /** The guest asked for S3: stop the CPUs until the platform's `wake`. Left out: S3 is not offered. */
    suspend?: (() => void) | undefined;
  }) {
    this.#clock = wires.clock;
    this.#sci = wires.sci;
    this.#power = wires.power;
    this.#suspend = wires.suspend;
    this.#halfTicks = 2 ** (wires.timerBits - 1);
    this.#timerMask = wires.timerBits === 32 ? 0xffff_ffff : 0x00ff_ffff;
    this.#timer = wires.clock.createTimer('acpi pm timer', () => this.#driveSci());
  }

  reset(): void {
    this.#status = 0;
    this.#enable = 0;
    this.#control = 0;
    this.#gpeEnable = 0;
    this.#clearedAtTicks = pmTimerTicks(this.#clock.nowNs());
    this.#driveSci();
  }

  /** Somebody presses the power button for less than four seconds. */
  pressPowerButton(): void {
    this.#status |= PM1_STS.PWRBTN;
    this.#driveSci();
  }

  /** The RTC's interrupt is a wake-up event as well, ACPI 6.4, 4.8.2.4 "Real Time Clock Alarm". */
  rtcAlarm(): void {
    this.#status |= PM1_STS.RTC;
    this.#driveSci();
  }

  /** Has an enabled event come that ends S3? */
  get wakePending(): boolean {
    return has(this.#status, this.#enable & (PM1_EN.PWRBTN | PM1_EN.SLPBTN | PM1_EN.RTC));
  }

  /** Back from S3: says so in WAK_STS. */
  wake(): void {
    this.#status |= PM1_STS.WAK;
    this.#driveSci();
  }

  /** The SMI handler that firmware would have: it turns ACPI mode on and off. */
  smiCommand(value: number): void {
    if (value === ACPI_VALUES.ENABLE) this.#control |= PM1_CNT.SCI_EN;
    else if (value === ACPI_VALUES.DISABLE) this.#control &= ~PM1_CNT.SCI_EN;
    this.#driveSci();
  }

  readPort(offset: number, size: AccessSize): number {
    if (size === 4 && offset === PM.PM_TMR) return this.#timerValue();
    let value = 0;
    for (let i = 0; i < size; i += 1) value += this.#readByte(offset + i) * 256 ** i;
    return value;
  }

  /** Registers are 16 bits wide; a byte access changes its half, a word at an even offset all of it at once. */
  writePort(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; ) {
      const at = offset + i;
      const whole = (at & 1) === 0 && size - i >= 2;
      const part = whole ? (value >>> (8 * i)) & 0xffff : (value >>> (8 * i)) & 0xff;
      if (whole) this.#writeRegister(at, part, 0xffff);
      else this.#writeRegister(at & ~1, (at & 1) === 0 ? part : part << 8, (at & 1) === 0 ? 0x00ff : 0xff00);
      i += whole ? 2 : 1;
    }
    this.#driveSci();
  }

  #timerValue(): number {
    return (low32(pmTimerTicks(this.#clock.nowNs())) & this.#timerMask) >>> 0;
  }

  #readByte(at: number): number {
    if (at >= PM.PM_TMR && at < PM.PM_TMR + 4) return (this.#timerValue() >>> (8 * (at - PM.PM_TMR))) & 0xff;
    return (this.#register(at & ~1) >> (8 * (at & 1))) & 0xff;
  }

  #register(at: number): number {
    switch (at) {
      case PM.PM1_STS:
        return this.#status | (this.#timerToggled() ? PM1_STS.TMR : 0);
      case PM.PM1_EN:
        return this.#enable;
      case PM.PM1_CNT:
        return this.#control;
      case PM.GPE_EN:
        return this.#gpeEnable;
      default:
        return 0;
    }
  }

  #writeRegister(at: number, value: number, mask: number): void {
    switch (at) {
      case PM.PM1_STS:
        this.#status &= ~value;
        if (has(value, PM1_STS.TMR)) this.#clearedAtTicks = pmTimerTicks(this.#clock.nowNs());
        break;
      case PM.PM1_EN:
        this.#enable = (this.#enable & ~mask) | (value & mask);
        break;
      case PM.PM1_CNT:
        this.#writeControl((this.#control & ~mask) | (value & mask));
        break;
      case PM.GPE_EN:
        this.#gpeEnable = (this.#gpeEnable & ~mask) | (value & mask);
        break;
    }
  }

  #writeControl(value: number): void {
    this.#control = value & ~(PM1_CNT.SLP_EN | PM1_CNT.GBL_RLS);
    if (!has(value, PM1_CNT.SLP_EN)) return;
    const type = (value >> PM1_CNT_SLP_TYP_SHIFT) & 7;
    if (type === ACPI_VALUES.SLEEP_S5) this.#power.powerOff(0);
    else if (type === ACPI_VALUES.SLEEP_S3 && this.#suspend) this.#suspend();
  }

  #timerToggled(): boolean {
    const now = pmTimerTicks(this.#clock.nowNs());
    return Math.floor(now / this.#halfTicks) > Math.floor(this.#clearedAtTicks / this.#halfTicks);
  }

  #driveSci(): void {
    const status = this.#register(PM.PM1_STS);
    this.#sci.set(has(this.#control, PM1_CNT.SCI_EN) && has(status, this.#enable));
    if (has(this.#enable, PM1_EN.TMR) && !has(status, PM1_STS.TMR)) {
      const now = pmTimerTicks(this.#clock.nowNs());
      this.#timer.arm(nsOfPmTimer((Math.floor(now / this.#halfTicks) + 1) * this.#halfTicks));
    } else {
      this.#timer.disarm();
    }
  }
}
