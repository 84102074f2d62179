/**
 * The 8259A pair of a PC: a master at ports 20H and 21H, a slave at A0H and A1H on the master's IR2, and the
 * edge/level control registers at 4D0H and 4D1H.
 *
 * Owns    requests, masks, priorities and the acknowledge cycle. Its output INTR goes to a function.
 * Knows   nothing of APICs: where INTR leads is the router's affair.
 *
 *   IR0..IR7 ─▶ master ── INTR ─▶
 *                 ▲ IR2
 *   IR8..IR15 ─▶ slave
 *
 * Source  Intel 8259A data sheet (231468), December 1988; ELCR: Intel 82371AB (PIIX4) data sheet, 4.2.5.
 * DEVIATION  an edge stays requested when its line falls before the acknowledge (the data sheet would then answer with
 *            the default IR7): devices here may pulse a line within one instruction. Level requests do follow the line.
 */
import { bits, has } from '../../base/bits.ts';
import type { AccessSize, PortDevice } from '../../contracts/device.ts';

/** "Initialization Command Words". ICW1 is known by its bit 4. */
const ICW1 = bits({ IC4: 0, SNGL: 1, LTIM: 3, ICW: 4 });
const ICW4 = bits({ AEOI: 1, SFNM: 4 });
/** "Operation Command Words". OCW3 is known by bit 3 with bit 4 clear. */
const OCW3 = bits({ RIS: 0, RR: 1, POLL: 2, OCW3: 3, SMM: 5, ESMM: 6 });
/** OCW2 bits 7:5. */
const OCW2 = {
  ROTATE_AEOI_CLEAR: 0,
  EOI: 1,
  NOP: 2,
  SPECIFIC_EOI: 3,
  ROTATE_AEOI_SET: 4,
  ROTATE_EOI: 5,
  SET_PRIORITY: 6,
  ROTATE_SPECIFIC_EOI: 7,
} as const;

const CASCADE = 2;
/** The default when nothing requests any more: "a default IR7". */
const SPURIOUS = 7;

/** The next byte at the odd port is this command word. */
type Expects = 'OCW1' | 'ICW2' | 'ICW3' | 'ICW4';

/** Everything an 8259A remembers: plain data, for snapshots. */
export interface PicChipState {
  irr: number;
  isr: number;
  imr: number;
  /** Levels of the eight lines. */
  lines: number;
  /** ELCR: lines that are level-triggered. */
  elcr: number;
  /** ICW2: bits 7:3 of the vectors. */
  vectorBase: number;
  /** The line with the highest priority; IR0 after initialization. */
  highest: number;
  expects: Expects;
  icw1: number;
  icw4: number;
  readsIsr: boolean;
  polls: boolean;
  specialMask: boolean;
  rotatesOnAeoi: boolean;
}

const initial = (): PicChipState => ({
  irr: 0,
  isr: 0,
  imr: 0,
  lines: 0,
  elcr: 0,
  vectorBase: 0,
  highest: 0,
  expects: 'OCW1',
  icw1: 0,
  icw4: 0,
  readsIsr: false,
  polls: false,
  specialMask: false,
  rotatesOnAeoi: false,
});

/** One 8259A. */
class Pic8259 implements PortDevice {
  state = initial();
  readonly #isMaster: boolean;
  readonly #changed: () => void;

  constructor(isMaster: boolean, changed: () => void) {
    this.#isMaster = isMaster;
    this.#changed = changed;
  }

  /** The line that INTR stands for, or -1. */
  request(): number {
    const s = this.state;
    const requested = this.#nearest(s.irr & ~s.imr);
    if (requested === 8) return -1;
    let blocking = s.isr;
    // "Special Mask Mode": what is masked does not block. "Special Fully Nested Mode": the slave may interrupt itself.
    if (s.specialMask) blocking &= ~s.imr;
    if (this.#isMaster && has(s.icw4, ICW4.SFNM)) blocking &= ~(1 << CASCADE);
    return requested < this.#nearest(blocking) ? (requested + s.highest) & 7 : -1;
  }

  setLine(line: number, level: boolean): void {
    const s = this.state;
    const mask = 1 << line;
    if (has(s.elcr, mask)) s.irr = level ? s.irr | mask : s.irr & ~mask;
    else if (level && !has(s.lines, mask)) s.irr |= mask;
    s.lines = level ? s.lines | mask : s.lines & ~mask;
  }

  /** "Interrupt Sequence": freezes priorities and takes the request. @returns the line, 7 if there was none. */
  acknowledge(): number {
    const line = this.request();
    if (line < 0) return SPURIOUS;
    const s = this.state;
    const mask = 1 << line;
    if (!has(s.elcr, mask)) s.irr &= ~mask;
    if (!has(s.icw4, ICW4.AEOI)) s.isr |= mask;
    else if (s.rotatesOnAeoi) s.highest = (line + 1) & 7;
    return line;
  }

  /** Bits that a level line may set in ELCR. */
  writeElcr(value: number): void {
    const s = this.state;
    s.elcr = value;
    s.irr = (s.irr & ~value) | (s.lines & value);
    this.#changed();
  }

  readPort(offset: number, _size: AccessSize): number {
    const s = this.state;
    if (s.polls) {
      s.polls = false;
      const line = this.request();
      if (line < 0) return 0;
      this.acknowledge();
      this.#changed();
      return 0x80 | line;
    }
    if (offset === 1) return s.imr;
    return s.readsIsr ? s.isr : s.irr;
  }

  writePort(offset: number, _size: AccessSize, value: number): void {
    const byte = value & 0xff;
    if (offset === 1) this.#writeOdd(byte);
    else if (has(byte, ICW1.ICW)) this.#writeIcw1(byte);
    else if (has(byte, OCW3.OCW3)) this.#writeOcw3(byte);
    else this.#writeOcw2(byte);
    this.#changed();
  }

  /** 0 for the line of highest priority among `lines`, 7 for the lowest, 8 for none. */
  #nearest(lines: number): number {
    if ((lines & 0xff) === 0) return 8;
    let distance = 0;
    while (((lines >>> ((distance + this.state.highest) & 7)) & 1) === 0) distance++;
    return distance;
  }

  /** The edge sense is reset: a line must fall and rise again to request. ELCR is another chip's register, and stays. */
  #writeIcw1(value: number): void {
    const { lines, elcr } = this.state;
    this.state = { ...initial(), lines, elcr, irr: lines & elcr, icw1: value, expects: 'ICW2' };
  }

  #writeOdd(value: number): void {
    const s = this.state;
    switch (s.expects) {
      case 'OCW1':
        s.imr = value;
        return;
      case 'ICW2':
        s.vectorBase = value & 0xf8;
        s.expects = !has(s.icw1, ICW1.SNGL) ? 'ICW3' : has(s.icw1, ICW1.IC4) ? 'ICW4' : 'OCW1';
        return;
      case 'ICW3': // which line the slave is on: soldered
        s.expects = has(s.icw1, ICW1.IC4) ? 'ICW4' : 'OCW1';
        return;
      case 'ICW4':
        s.icw4 = value;
        s.expects = 'OCW1';
        return;
    }
  }

  #writeOcw3(value: number): void {
    const s = this.state;
    if (has(value, OCW3.POLL)) s.polls = true;
    if (has(value, OCW3.RR)) s.readsIsr = has(value, OCW3.RIS);
    if (has(value, OCW3.ESMM)) s.specialMask = has(value, OCW3.SMM);
  }

  #writeOcw2(value: number): void {
    const s = this.state;
    const line = value & 7;
    switch (value >>> 5) {
      case OCW2.ROTATE_AEOI_CLEAR:
      case OCW2.ROTATE_AEOI_SET:
        s.rotatesOnAeoi = value >>> 5 === OCW2.ROTATE_AEOI_SET;
        return;
      case OCW2.EOI:
      case OCW2.ROTATE_EOI: {
        // In special mask mode a non-specific EOI does not clear what is masked ("Special Mask Mode").
        const distance = this.#nearest(s.specialMask ? s.isr & ~s.imr : s.isr);
        if (distance === 8) return;
        const served = (distance + s.highest) & 7;
        s.isr &= ~(1 << served);
        if (value >>> 5 === OCW2.ROTATE_EOI) s.highest = (served + 1) & 7;
        return;
      }
      case OCW2.SPECIFIC_EOI:
        s.isr &= ~(1 << line);
        return;
      case OCW2.ROTATE_SPECIFIC_EOI:
        s.isr &= ~(1 << line);
        s.highest = (line + 1) & 7;
        return;
      case OCW2.SET_PRIORITY:
        s.highest = (line + 1) & 7;
        return;
      default: // no operation
    }
  }
}

export interface PicState {
  master: PicChipState;
  slave: PicChipState;
}

export class PicPair {
  readonly #master: Pic8259;
  readonly #slave: Pic8259;
  readonly #output: (level: boolean) => void;
  #intr = false;

  /** @param output  Called when INTR changes, and with a low and a high when one request follows another. */
  constructor(output: (level: boolean) => void) {
    this.#output = output;
    this.#master = new Pic8259(true, () => this.#drive());
    this.#slave = new Pic8259(false, () => this.#drive());
  }

  get intr(): boolean {
    return this.#intr;
  }

  /** Ports 20H and 21H. */
  get master(): PortDevice {
    return this.#master;
  }

  /** Ports A0H and A1H. */
  get slave(): PortDevice {
    return this.#slave;
  }

  /** Ports 4D0H and 4D1H. IRQ0, 1, 2, 8 and 13 cannot be level-triggered. */
  readonly elcr: PortDevice = {
    readPort: (offset) => (offset === 0 ? this.#master : this.#slave).state.elcr,
    writePort: (offset, _size, value) =>
      offset === 0 ? this.#master.writeElcr(value & 0xf8) : this.#slave.writeElcr(value & 0xde),
  };

  /** @param irq  0 to 15; 2 is the cascade and leads nowhere. */
  setLine(irq: number, level: boolean): void {
    if (irq === CASCADE) return;
    if (irq < 8) this.#master.setLine(irq, level);
    else this.#slave.setLine(irq - 8, level);
    this.#drive();
  }

  /** The processor's INTA cycle. @returns the vector; that of IR7 or IR15 if the request has gone. */
  acknowledge(): number {
    let line = this.#master.acknowledge();
    let vector = this.#master.state.vectorBase + line;
    if (line === CASCADE) {
      line = this.#slave.acknowledge();
      vector = this.#slave.state.vectorBase + line;
    }
    if (this.#intr) {
      this.#intr = false;
      this.#output(false);
    }
    this.#drive();
    return vector;
  }

  reset(): void {
    for (const chip of [this.#master, this.#slave]) chip.state = { ...initial(), lines: chip.state.lines };
    this.#drive();
  }

  save(): PicState {
    return { master: { ...this.#master.state }, slave: { ...this.#slave.state } };
  }

  load(state: PicState): void {
    this.#master.state = { ...state.master };
    this.#slave.state = { ...state.slave };
    this.#intr = this.#master.request() >= 0;
  }

  /** The slave's INTR is the master's IR2, a line that follows it like a level; then the master's is the pair's. */
  #drive(): void {
    const master = this.#master.state;
    const cascade = 1 << CASCADE;
    const slaveRequests = this.#slave.request() >= 0;
    master.irr = slaveRequests ? master.irr | cascade : master.irr & ~cascade;
    master.lines = slaveRequests ? master.lines | cascade : master.lines & ~cascade;
    const intr = this.#master.request() >= 0;
    if (intr === this.#intr) return;
    this.#intr = intr;
    this.#output(intr);
  }
}
