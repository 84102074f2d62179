import { has } from '../../base/bits.ts';
import type { Clock, Timer, WallTime } from '../../contracts/clock.ts';
import type { IrqLine } from '../../contracts/device.ts';
import { BytePorts } from '../byte-ports.ts';
import { highRamBytes, lowRamBytes } from '../layout.ts';
import { calendarTime, secondsSinceEpoch } from './calendar.ts';
import { CMOS, REG_A, REG_A_DIVIDER, REG_A_DIVIDER_32K, REG_A_RATE, REG_B, REG_C, REG_D, RTC } from './registers.ts';

const NS_PER_SECOND = 1_000_000_000;
/** Data sheet, "Update Cycle": UIP goes high this long before the registers change. */
const UPDATE_WARNING_NS = 244_000;
const CRYSTAL_HZ = 32_768;
const ALARM_DONT_CARE = 0xc0;

/**
 * Real-time clock with 128 bytes of RAM, behind the index and data ports 0x70 and 0x71.
 * Source: Motorola MC146818 data sheet, 1984; the PC's use of the RAM as QEMU and SeaBIOS have it.
 *
 * Owns    which second it is for the guest, the three interrupt causes and the RAM.
 * Keeps   no ticking state: the second is computed from the clock, and flags are found by asking what has passed
 *         since they were last looked at. The timer runs only for an interrupt that is enabled and not yet flagged.
 * Owns    the NMI mask, which the PC put into bit 7 of the index port: PIIX4 data sheet, 4.3.5 "Real Time Clock Index".
 */
export class Mc146818 extends BytePorts {
  protected readonly registers = 2;
  readonly #ram = new Uint8Array(128);
  readonly #clock: Clock;
  readonly #irq: IrqLine;
  readonly #timer: Timer;
  readonly #maskNmi: (masked: boolean) => void;
  readonly #epochNs: { seconds: number; ns: number };
  #index = 0;
  #adjustSeconds = 0; // guest's second minus the host's
  #flags = 0; // register C without IRQF
  #seenNs = 0; // flags are complete up to here

  constructor(wires: {
    clock: Clock;
    wallTime: WallTime;
    irq: IrqLine;
    ramBytes: number;
    cpus: number;
    maskNmi?: (masked: boolean) => void;
  }) {
    super();
    this.#maskNmi = wires.maskNmi ?? (() => {});
    this.#clock = wires.clock;
    this.#irq = wires.irq;
    this.#timer = wires.clock.createTimer('rtc', () => this.#update());
    const seconds = Math.floor(wires.wallTime.epochMs / 1000);
    this.#epochNs = { seconds, ns: Math.floor((wires.wallTime.epochMs - seconds * 1000) * 1_000_000) };
    this.#seenNs = wires.clock.nowNs();
    this.#ram[RTC.A] = REG_A_DIVIDER_32K | 6; // 1024 Hz, as firmware leaves it
    this.#ram[RTC.B] = REG_B.HOURS_24;
    this.#ram[RTC.D] = REG_D.VRT;
    this.#describeMachine(wires.ramBytes, wires.cpus);
    this.#storeTime();
  }

  /** The RESET pin: interrupts and their flags go, time and RAM stay (data sheet, "RESET"). */
  reset(): void {
    this.#ram[RTC.B]! &= ~(REG_B.PIE | REG_B.AIE | REG_B.UIE | REG_B.SQWE);
    this.#flags = 0;
    this.#seenNs = this.#clock.nowNs();
    this.#index = 0;
    this.#maskNmi(false);
    this.#update();
  }

  /**
   * What the firmware does first after a reset: if the guest left a shutdown code, it wants to go on at the
   * real-mode address it stored at 0040:0067. Reading the code clears it.
   */
  takeShutdownCode(): number {
    const code = this.#ram[CMOS.SHUTDOWN]!;
    this.#ram[CMOS.SHUTDOWN] = 0;
    return code;
  }

  protected read(offset: number): number {
    if (offset === 0) return 0xff; // the index register is write-only
    switch (this.#index) {
      case RTC.SECONDS:
      case RTC.MINUTES:
      case RTC.HOURS:
      case RTC.DAY_OF_WEEK:
      case RTC.DAY_OF_MONTH:
      case RTC.MONTH:
      case RTC.YEAR:
      case CMOS.CENTURY:
        if (this.#runs) this.#storeTime();
        return this.#ram[this.#index]!;
      case RTC.A:
        return this.#ram[RTC.A]! | (this.#updateInProgress() ? REG_A.UIP : 0);
      case RTC.C:
        return this.#takeFlags();
      default:
        return this.#ram[this.#index]!;
    }
  }

  protected write(offset: number, value: number): void {
    if (offset === 0) {
      this.#index = value & 0x7f;
      this.#maskNmi((value & 0x80) !== 0);
      return;
    }
    this.#findFlags(); // with the old settings
    switch (this.#index) {
      case RTC.SECONDS:
      case RTC.MINUTES:
      case RTC.HOURS:
      case RTC.DAY_OF_WEEK:
      case RTC.DAY_OF_MONTH:
      case RTC.MONTH:
      case RTC.YEAR:
      case CMOS.CENTURY:
        if (this.#runs) this.#storeTime();
        this.#ram[this.#index] = value;
        if (this.#runs) this.#loadTime();
        break;
      case RTC.A:
        this.#changeRunning(() => (this.#ram[RTC.A] = value & ~REG_A.UIP));
        break;
      case RTC.B:
        this.#changeRunning(() => (this.#ram[RTC.B] = has(value, REG_B.SET) ? value & ~REG_B.UIE : value));
        break;
      case RTC.C:
      case RTC.D:
        break; // read-only
      default:
        this.#ram[this.#index] = value;
    }
    this.#update();
  }

  /** Time passes unless SET holds the registers or the divider is held in reset (DV2:DV1 = 11). */
  get #runs(): boolean {
    return !has(this.#ram[RTC.B]!, REG_B.SET) && (this.#ram[RTC.A]! & 0x60) !== 0x60;
  }

  /** Around a write to A or B: a clock that stops keeps its registers, one that starts goes on from them. */
  #changeRunning(write: () => void): void {
    const ran = this.#runs;
    if (ran) this.#storeTime();
    write();
    if (!ran && this.#runs) this.#loadTime();
  }

  #hostSecond(atNs: number): number {
    return this.#epochNs.seconds + Math.floor((atNs + this.#epochNs.ns) / NS_PER_SECOND);
  }

  #guestSecond(atNs: number): number {
    return this.#hostSecond(atNs) + this.#adjustSeconds;
  }

  /** Virtual time at which the guest's second after the one at `atNs` begins. */
  #nextSecondNs(atNs: number): number {
    return (Math.floor((atNs + this.#epochNs.ns) / NS_PER_SECOND) + 1) * NS_PER_SECOND - this.#epochNs.ns;
  }

  #updateInProgress(): boolean {
    const now = this.#clock.nowNs();
    return this.#runs && this.#nextSecondNs(now) - now <= UPDATE_WARNING_NS;
  }

  #encode(value: number): number {
    return has(this.#ram[RTC.B]!, REG_B.DM) ? value : Math.floor(value / 10) * 16 + (value % 10);
  }

  #decode(value: number): number {
    return has(this.#ram[RTC.B]!, REG_B.DM) ? value : (value >> 4) * 10 + (value & 0xf);
  }

  #encodeHour(hour: number): number {
    if (has(this.#ram[RTC.B]!, REG_B.HOURS_24)) return this.#encode(hour);
    return this.#encode(hour % 12 === 0 ? 12 : hour % 12) | (hour >= 12 ? 0x80 : 0);
  }

  #decodeHour(value: number): number {
    if (has(this.#ram[RTC.B]!, REG_B.HOURS_24)) return this.#decode(value);
    return (this.#decode(value & 0x7f) % 12) + (has(value, 0x80) ? 12 : 0);
  }

  #storeTime(): void {
    const time = calendarTime(this.#guestSecond(this.#clock.nowNs()));
    this.#ram[RTC.SECONDS] = this.#encode(time.second);
    this.#ram[RTC.MINUTES] = this.#encode(time.minute);
    this.#ram[RTC.HOURS] = this.#encodeHour(time.hour);
    this.#ram[RTC.DAY_OF_WEEK] = this.#encode(time.weekday);
    this.#ram[RTC.DAY_OF_MONTH] = this.#encode(time.day);
    this.#ram[RTC.MONTH] = this.#encode(time.month);
    this.#ram[RTC.YEAR] = this.#encode(((time.year % 100) + 100) % 100);
    this.#ram[CMOS.CENTURY] = this.#encode(Math.floor(time.year / 100) & 0xff);
  }

  #loadTime(): void {
    const seconds = secondsSinceEpoch({
      year: this.#decode(this.#ram[CMOS.CENTURY]!) * 100 + this.#decode(this.#ram[RTC.YEAR]!),
      month: this.#decode(this.#ram[RTC.MONTH]!),
      day: this.#decode(this.#ram[RTC.DAY_OF_MONTH]!),
      hour: this.#decodeHour(this.#ram[RTC.HOURS]!),
      minute: this.#decode(this.#ram[RTC.MINUTES]!),
      second: this.#decode(this.#ram[RTC.SECONDS]!),
    });
    this.#adjustSeconds = seconds - this.#hostSecond(this.#clock.nowNs());
  }

  /** Crystal cycles between periodic interrupts, 0 for none. Data sheet, table 5, column 32.768 kHz. */
  #periodCycles(): number {
    const rate = this.#ram[RTC.A]! & REG_A_RATE;
    if (rate === 0 || (this.#ram[RTC.A]! & REG_A_DIVIDER) !== REG_A_DIVIDER_32K) return 0;
    return 2 ** (rate < 3 ? rate + 6 : rate - 1);
  }

  /** Number of whole periods since power-on; a flag is due whenever it grows. */
  #periods(atNs: number, cycles: number): number {
    const seconds = Math.floor(atNs / NS_PER_SECOND);
    const rest = atNs - seconds * NS_PER_SECOND;
    return Math.floor((seconds * CRYSTAL_HZ + Math.floor((rest * CRYSTAL_HZ) / NS_PER_SECOND)) / cycles);
  }

  /** First virtual time at which `periods` have passed: rounded up, so that `#periods` of it agrees. */
  #periodNs(periods: number, cycles: number): number {
    const total = periods * cycles;
    const seconds = Math.floor(total / CRYSTAL_HZ);
    return seconds * NS_PER_SECOND + Math.ceil(((total - seconds * CRYSTAL_HZ) * NS_PER_SECOND) / CRYSTAL_HZ);
  }

  /** The guest's first second after `second` that matches the alarm, or -1 if none ever does. */
  #nextAlarm(second: number): number {
    const wants = (at: number, decode: (value: number) => number, now: number) =>
      (this.#ram[at]! & ALARM_DONT_CARE) === ALARM_DONT_CARE || decode(this.#ram[at]!) === now;
    const plain = (value: number) => this.#decode(value);
    const day = 86_400;
    let at = second + 1;
    while (at <= second + day) {
      const ofDay = ((at % day) + day) % day;
      if (!wants(RTC.HOURS_ALARM, (value) => this.#decodeHour(value), Math.floor(ofDay / 3600))) {
        at += 3600 - (ofDay % 3600);
      } else if (!wants(RTC.MINUTES_ALARM, plain, Math.floor(ofDay / 60) % 60)) {
        at += 60 - (ofDay % 60);
      } else if (!wants(RTC.SECONDS_ALARM, plain, ofDay % 60)) {
        at += 1;
      } else {
        return at;
      }
    }
    return -1;
  }

  /** Sets the flags of what has happened since the last look. They are set whether or not enabled. */
  #findFlags(): void {
    const now = this.#clock.nowNs();
    const cycles = this.#periodCycles();
    if (cycles > 0 && this.#periods(now, cycles) > this.#periods(this.#seenNs, cycles)) this.#flags |= REG_C.PF;
    if (this.#runs) {
      const before = this.#guestSecond(this.#seenNs);
      const second = this.#guestSecond(now);
      if (second > before) {
        this.#flags |= REG_C.UF;
        const alarm = this.#nextAlarm(before);
        if (alarm >= 0 && alarm <= second) this.#flags |= REG_C.AF;
      }
    }
    this.#seenNs = now;
  }

  #takeFlags(): number {
    this.#findFlags();
    const value = this.#flags | (this.#asserted() ? REG_C.IRQF : 0);
    this.#flags = 0;
    this.#update();
    return value;
  }

  /** PF, AF and UF sit at the bits of PIE, AIE and UIE. */
  #asserted(): boolean {
    return has(this.#flags, this.#ram[RTC.B]! & (REG_B.PIE | REG_B.AIE | REG_B.UIE));
  }

  #update(): void {
    this.#findFlags();
    this.#irq.set(this.#asserted());
    const next = this.#nextEventNs();
    if (next < 0) this.#timer.disarm();
    else this.#timer.arm(next);
  }

  /** When the next enabled flag, not set yet, will be. -1 for never, or if the line is high anyway. */
  #nextEventNs(): number {
    if (this.#asserted()) return -1;
    const enabled = this.#ram[RTC.B]!;
    const now = this.#seenNs;
    const cycles = this.#periodCycles();
    let next = -1;
    const consider = (atNs: number) => {
      if (next < 0 || atNs < next) next = atNs;
    };
    if (has(enabled, REG_B.PIE) && cycles > 0) consider(this.#periodNs(this.#periods(now, cycles) + 1, cycles));
    if (this.#runs && has(enabled, REG_B.UIE)) consider(this.#nextSecondNs(now));
    if (this.#runs && has(enabled, REG_B.AIE)) {
      const second = this.#guestSecond(now);
      const alarm = this.#nextAlarm(second);
      if (alarm >= 0) consider(this.#nextSecondNs(now) + (alarm - second - 1) * NS_PER_SECOND);
    }
    return next;
  }

  /** Memory sizes and the number of CPUs, where firmware and small guests look for them. */
  #describeMachine(ramBytes: number, cpus: number): void {
    const low = lowRamBytes(ramBytes);
    const put = (at: number, bytes: number, value: number) => {
      for (let i = 0; i < bytes; i += 1) this.#ram[at + i] = Math.floor(value / 256 ** i) & 0xff;
    };
    const aboveMiB = Math.min(Math.max(0, Math.floor(low / 1024) - 1024), 0xffff);
    put(CMOS.EQUIPMENT, 1, 0x06); // a mathematics coprocessor and a PS/2 pointing device port
    put(CMOS.BASE_MEMORY_KIB, 2, 640);
    put(CMOS.EXTENDED_MEMORY_KIB, 2, aboveMiB);
    put(CMOS.EXTENDED_MEMORY_KIB_2, 2, aboveMiB);
    put(CMOS.ABOVE_16M_64KIB, 2, Math.min(Math.max(0, Math.floor(low / 65_536) - 256), 0xffff));
    put(CMOS.ABOVE_4G_64KIB, 3, Math.floor(highRamBytes(ramBytes) / 65_536));
    put(CMOS.CPUS_MINUS_ONE, 1, cpus - 1);
  }
}
