/**
 * The 8254 programmable interval timer at ports 40H to 43H, and port 61H, which gates its third counter.
 *
 * Owns    control words, byte order, latches, and the timer that drives the lines of counter 0.
 * Knows   counting only through `PitCounter`.
 *
 *   port   read                          write
 *   40H    counter 0: IRQ0               its count
 *   41H    counter 1: memory refresh     its count
 *   42H    counter 2: speaker            its count
 *   43H    (nothing drives the bus)      control word, counter-latch or read-back command
 *
 * Source  Intel 82C54 data sheet (231244), October 1994; port 61H: Intel 82371AB (PIIX4) data sheet, 4.3.4 "NMI Status
 *         and Control Register".
 */
import { bits, has } from '../../base/bits.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';
import type { AccessSize, IrqLine, PortDevice } from '../../contracts/device.ts';
import { PitCounter, type PitCounterState } from './pit-counter.ts';
import { TickScale } from './ticks.ts';

export const PIT_HERTZ = 1_193_182;

/** "Control Word Format", RW bits 5:4. */
const ACCESS = { LATCH: 0, LSB: 1, MSB: 2, LSB_MSB: 3 } as const;
/** "Read-Back Command Format": SC = 11. Bits 5 and 4 are active low. */
const READ_BACK = bits({ NO_COUNT: 5, NO_STATUS: 4 });

/** Port 61H. */
export const NMI_SC = bits({
  TIM_CNT2_EN: 0, // gate of counter 2
  SPKR_DAT_EN: 1,
  PCI_SERR_EN: 2,
  IOCHK_NMI_EN: 3,
  REF_TOGGLE: 4, // changes with every memory refresh
  TMR2_OUT_STS: 5,
});
const NMI_SC_WRITABLE = 0x0f;

/** A PC's firmware programs counter 1 to ask for a memory refresh every 18 ticks, 15.086 µs. */
const REFRESH_TICKS = 18;

/** Byte order and latches of one counter: plain data, for snapshots. */
export interface PitPortState {
  access: number;
  /** LSB_MSB: the next access is the second of its pair. */
  readsHigh: boolean;
  writesHigh: boolean;
  /** First byte of a count whose second has not come. */
  writtenLow: number;
  /** Latched count, or -1. */
  latched: number;
  /** Latched status, or -1. It is read before a latched count. */
  status: number;
}

export interface PitState {
  counters: PitCounterState[];
  ports: PitPortState[];
  control61: number;
}

const initialPort = (): PitPortState => ({
  access: ACCESS.LSB_MSB,
  readsHigh: false,
  writesHigh: false,
  writtenLow: 0,
  latched: -1,
  status: -1,
});

export class Pit implements PortDevice {
  readonly #counters = [new PitCounter(), new PitCounter(), new PitCounter()] as const;
  #ports = [initialPort(), initialPort(), initialPort()];
  #control61 = 0;
  /** Tick up to which OUT of counter 0 has been put on the line. */
  #drivenTick = 0;
  readonly #clock: Clock;
  readonly #scale = new TickScale(PIT_HERTZ);
  readonly #timer: Timer;
  readonly #irq0: IrqLine;

  constructor(wires: { clock: Clock; irq0: IrqLine }) {
    this.#clock = wires.clock;
    this.#irq0 = wires.irq0;
    this.#timer = wires.clock.createTimer('PIT counter 0', () => this.#drive());
    this.reset();
  }

  readPort(offset: number, _size: AccessSize): number {
    const counter = this.#counters[offset];
    const port = this.#ports[offset];
    if (counter === undefined || port === undefined) return 0xff;
    if (port.status >= 0) {
      const status = port.status;
      port.status = -1;
      return status;
    }
    const value = port.latched >= 0 ? port.latched : counter.value(this.#now());
    const isLast = port.access !== ACCESS.LSB_MSB || port.readsHigh;
    const isHigh = port.access === ACCESS.MSB || port.readsHigh;
    if (port.access === ACCESS.LSB_MSB) port.readsHigh = !port.readsHigh;
    if (isLast) port.latched = -1;
    return (isHigh ? value >>> 8 : value) & 0xff;
  }

  writePort(offset: number, _size: AccessSize, value: number): void {
    const byte = value & 0xff;
    if (offset === 3) this.#writeControl(byte);
    else this.#writeCount(offset, byte);
    if (offset === 0 || offset === 3) this.#drive();
  }

  /** Port 61H: speaker, gate of counter 2, and what software times itself by. */
  readonly port61: PortDevice = {
    readPort: () => {
      const now = this.#now();
      return (
        this.#control61 |
        (Math.floor(now / REFRESH_TICKS) % 2 === 1 ? NMI_SC.REF_TOGGLE : 0) |
        (this.#counters[2].output(now) ? NMI_SC.TMR2_OUT_STS : 0)
      );
    },
    writePort: (_offset, _size, value) => {
      this.#control61 = value & NMI_SC_WRITABLE;
      this.#counters[2].setGate(has(value, NMI_SC.TIM_CNT2_EN), this.#now());
    },
  };

  /** What the loudspeaker hears: counter 2 if it is let through. NON-SPEC: for a front end that makes sound. */
  get speakerLevel(): boolean {
    return has(this.#control61, NMI_SC.SPKR_DAT_EN) && this.#counters[2].output(this.#now());
  }

  /** Counters 0 and 1 have their gates tied high; counter 2's is port 61H bit 0. */
  reset(): void {
    this.#ports = [initialPort(), initialPort(), initialPort()];
    this.#control61 = 0;
    this.#counters.forEach((counter, index) => {
      counter.state.gate = index !== 2;
      counter.program(0, false); // undefined by the data sheet; mode 0 keeps OUT low, so that power-on is no edge
    });
    this.#drive();
  }

  save(): PitState {
    return {
      counters: this.#counters.map((counter) => ({ ...counter.state })),
      ports: this.#ports.map((port) => ({ ...port })),
      control61: this.#control61,
    };
  }

  load(state: PitState): void {
    this.#counters.forEach((counter, index) => {
      counter.state = { ...state.counters[index]! };
    });
    this.#ports = state.ports.map((port) => ({ ...port }));
    this.#control61 = state.control61;
    this.#drive();
  }

  #now(): number {
    return this.#scale.ticksAt(this.#clock.nowNs());
  }

  #writeControl(word: number): void {
    const select = word >>> 6;
    if (select === 3) {
      for (let index = 0; index < 3; index++) {
        if (!has(word, 2 << index)) continue;
        if (!has(word, READ_BACK.NO_COUNT)) this.#latchCount(index);
        if (!has(word, READ_BACK.NO_STATUS)) this.#latchStatus(index);
      }
      return;
    }
    const access = (word >>> 4) & 3;
    if (access === ACCESS.LATCH) {
      this.#latchCount(select);
      return;
    }
    this.#ports[select] = { ...initialPort(), access };
    this.#counters[select]!.program((word >>> 1) & 7, has(word, 1));
  }

  /** "If a counter is latched and then, some time later, latched again before the count is read, the second … is ignored." */
  #latchCount(index: number): void {
    const port = this.#ports[index]!;
    if (port.latched < 0) port.latched = this.#counters[index]!.value(this.#now());
  }

  /** "Status Byte": OUT, null count, and bits 5:0 of the control word. */
  #latchStatus(index: number): void {
    const port = this.#ports[index]!;
    if (port.status >= 0) return;
    const counter = this.#counters[index]!;
    const now = this.#now();
    port.status =
      (counter.output(now) ? 0x80 : 0) |
      (counter.isNull(now) ? 0x40 : 0) |
      (port.access << 4) |
      (counter.state.mode << 1) |
      (counter.state.bcd ? 1 : 0);
  }

  #writeCount(index: number, byte: number): void {
    const port = this.#ports[index]!;
    const counter = this.#counters[index]!;
    const now = this.#now();
    if (port.access === ACCESS.LSB) counter.load(byte, now);
    else if (port.access === ACCESS.MSB) counter.load(byte << 8, now);
    else if (port.writesHigh) {
      port.writesHigh = false;
      counter.load(port.writtenLow | (byte << 8), now);
    } else {
      port.writesHigh = true;
      port.writtenLow = byte;
      counter.firstByte(now);
    }
  }

  /**
   * Puts OUT of counter 0 on its line, and arms the timer for its next change. A run loop that comes late by whole
   * periods makes one edge of them: the controllers' requests have one bit.
   */
  #drive(): void {
    const counter = this.#counters[0];
    const now = this.#now();
    const missed = this.#drivenTick < now ? counter.nextChange(this.#drivenTick) : -1;
    const level = counter.output(now);
    if (level && missed >= 0 && missed < now) this.#irq0.set(false);
    this.#irq0.set(level);
    this.#drivenTick = now;
    const change = counter.nextChange(now);
    if (change < 0) this.#timer.disarm();
    else this.#timer.arm(this.#scale.nsAt(change));
  }
}
