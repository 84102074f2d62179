import { bits, has } from '../../base/bits.ts';
import type { AccessSize, IrqLine, PortDevice } from '../../contracts/device.ts';

/** Status register, port 0x64 read. IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller". */
const STATUS = bits({ OBF: 0, IBF: 1, SYS: 2, COMMAND: 3, NOT_LOCKED: 4, AUX_OBF: 5, TIMEOUT: 6, PARITY: 7 });
/** Controller command byte. */
const CTR = bits({ KBD_INT: 0, AUX_INT: 1, SYS: 2, KBD_DISABLE: 4, AUX_DISABLE: 5, XLATE: 6 });
/** Output port. */
const OUTPUT = bits({ NOT_RESET: 0, A20: 1, OBF: 4, AUX_OBF: 5 });

const SELF_TEST_OK = 0x55;
const ACK = 0xfa;
const RESEND = 0xfe;

/**
 * Keyboard controller with one keyboard; no mouse is plugged into the auxiliary port.
 *
 *   port   read     write
 *   0x60   output   data for the keyboard, or for the last controller command
 *   0x64   status   controller command
 *
 * Owns    the reset and A20 wires that the PC put here for want of a better place.
 * Answers at once: IBF is never seen set.
 *
 * DEVIATION  The keyboard speaks scan code set 1 to the guest whatever CTR.XLATE says: `injectScancodes` takes set 1.
 */
export class I8042 {
  readonly data: PortDevice;
  readonly command: PortDevice;
  readonly #irq: IrqLine;
  readonly #auxIrq: IrqLine;
  readonly #reset: (reason: string) => void;
  readonly #a20: { enabled: boolean };
  readonly #output: { byte: number; aux: boolean }[] = [];
  #last = 0; // the output buffer keeps its value when read again
  #ctr = CTR.XLATE | CTR.SYS | CTR.KBD_INT;
  #expects = 0; // controller command that waits for its data byte
  #keyboardExpects = 0;
  #scanning = true;
  #leds = 0;

  constructor(wires: { irq: IrqLine; auxIrq: IrqLine; reset: (reason: string) => void; a20: { enabled: boolean } }) {
    this.#irq = wires.irq;
    this.#auxIrq = wires.auxIrq;
    this.#reset = wires.reset;
    this.#a20 = wires.a20;
    this.data = {
      readPort: (_offset: number, _size: AccessSize) => this.#readData(),
      writePort: (_offset: number, _size: AccessSize, value: number) => this.#writeData(value & 0xff),
    };
    this.command = {
      readPort: () => this.#status(),
      writePort: (_offset: number, _size: AccessSize, value: number) => this.#writeCommand(value & 0xff),
    };
  }

  /** Keys go down and up: scan code set 1, as a controller that translates delivers them. */
  injectScancodes(codes: Uint8Array): void {
    if (!this.#scanning || has(this.#ctr, CTR.KBD_DISABLE)) return;
    for (const byte of codes) this.#answer(byte);
  }

  /** Bit 0 Scroll Lock, bit 1 Num Lock, bit 2 Caps Lock. */
  get leds(): number {
    return this.#leds;
  }

  reset(): void {
    this.#output.length = 0;
    this.#ctr = CTR.XLATE | CTR.SYS | CTR.KBD_INT;
    this.#expects = 0;
    this.#keyboardExpects = 0;
    this.#scanning = true;
    this.#leds = 0;
    this.#drive();
  }

  #status(): number {
    const first = this.#output[0];
    return (
      STATUS.NOT_LOCKED |
      (has(this.#ctr, CTR.SYS) ? STATUS.SYS : 0) |
      (first ? STATUS.OBF : 0) |
      (first?.aux ? STATUS.AUX_OBF : 0)
    );
  }

  #readData(): number {
    const first = this.#output.shift();
    if (first) {
      this.#last = first.byte;
      this.#irq.set(false); // an edge for each byte
      this.#auxIrq.set(false);
      this.#drive();
    }
    return this.#last;
  }

  #answer(byte: number, aux = false): void {
    this.#output.push({ byte, aux });
    this.#drive();
  }

  #drive(): void {
    const first = this.#output[0];
    this.#irq.set(first !== undefined && !first.aux && has(this.#ctr, CTR.KBD_INT));
    this.#auxIrq.set(first?.aux === true && has(this.#ctr, CTR.AUX_INT));
  }

  #writeCommand(value: number): void {
    this.#expects = 0;
    switch (value) {
      case 0x20: // read the command byte
        this.#answer(this.#ctr);
        break;
      case 0xa7:
        this.#setCtr(this.#ctr | CTR.AUX_DISABLE);
        break;
      case 0xa8:
        this.#setCtr(this.#ctr & ~CTR.AUX_DISABLE);
        break;
      case 0xa9: // test the auxiliary interface: no error
      case 0xab: // test the keyboard interface: no error
        this.#answer(0x00);
        break;
      case 0xaa:
        this.#ctr |= CTR.SYS;
        this.#answer(SELF_TEST_OK);
        break;
      case 0xad:
        this.#setCtr(this.#ctr | CTR.KBD_DISABLE);
        break;
      case 0xae:
        this.#setCtr(this.#ctr & ~CTR.KBD_DISABLE);
        break;
      case 0xc0: // input port: keyboard not inhibited
        this.#answer(0x80);
        break;
      case 0xd0:
        this.#answer(this.#outputPort());
        break;
      case 0xdd:
        this.#a20.enabled = false;
        break;
      case 0xdf:
        this.#a20.enabled = true;
        break;
      case 0xe0: // test inputs: clock and data idle
        this.#answer(0x00);
        break;
      case 0x60: // these take a byte through port 0x60
      case 0xd1:
      case 0xd2:
      case 0xd3:
      case 0xd4:
        this.#expects = value;
        break;
      default:
        // 0xf0..0xff pulses the output lines whose bits are 0; bit 0 is the CPU's reset.
        if (value >= 0xf0 && !has(value, OUTPUT.NOT_RESET)) this.#reset('keyboard controller command');
    }
  }

  #setCtr(value: number): void {
    this.#ctr = value;
    this.#drive();
  }

  #outputPort(): number {
    const first = this.#output[0];
    return (
      0xc0 |
      OUTPUT.NOT_RESET |
      (this.#a20.enabled ? OUTPUT.A20 : 0) |
      (first && !first.aux ? OUTPUT.OBF : 0) |
      (first?.aux ? OUTPUT.AUX_OBF : 0)
    );
  }

  #writeData(value: number): void {
    const command = this.#expects;
    this.#expects = 0;
    switch (command) {
      case 0x60:
        this.#setCtr(value);
        break;
      case 0xd1:
        this.#a20.enabled = has(value, OUTPUT.A20);
        if (!has(value, OUTPUT.NOT_RESET)) this.#reset('keyboard controller output port');
        break;
      case 0xd2:
        this.#answer(value);
        break;
      case 0xd3:
        this.#answer(value, true);
        break;
      case 0xd4: // nobody is plugged in: the byte times out
        this.#answer(RESEND, true);
        break;
      default:
        this.#keyboard(value);
    }
  }

  /** IBM PS/2 Hardware Interface Technical Reference, "Keyboard Commands". */
  #keyboard(value: number): void {
    const command = this.#keyboardExpects;
    this.#keyboardExpects = 0;
    if (command !== 0 && value < 0x80) {
      if (command === 0xed) this.#leds = value & 7;
      this.#answer(ACK);
      if (command === 0xf0 && value === 0) this.#answer(has(this.#ctr, CTR.XLATE) ? 0x41 : 0x02);
      return;
    }
    switch (value) {
      case 0xed: // LEDs, scan code set, typematic rate: one more byte
      case 0xf0:
      case 0xf3:
        this.#keyboardExpects = value;
        this.#answer(ACK);
        break;
      case 0xee: // echo
        this.#answer(0xee);
        break;
      case 0xf2: // identify
        this.#answer(ACK);
        this.#answer(0xab);
        this.#answer(has(this.#ctr, CTR.XLATE) ? 0x41 : 0x83);
        break;
      case 0xf4:
        this.#scanning = true;
        this.#answer(ACK);
        break;
      case 0xf5:
        this.#scanning = false;
        this.#answer(ACK);
        break;
      case 0xf6: // defaults
      case 0xf7:
      case 0xf8:
      case 0xf9:
      case 0xfa:
        this.#answer(ACK);
        break;
      case 0xff: // reset: the basic assurance test passes
        this.#scanning = true;
        this.#leds = 0;
        this.#answer(ACK);
        this.#answer(0xaa);
        break;
      default:
        this.#answer(RESEND);
    }
  }
}

/**
 * System control port A, 0x92: bit 0 pulses the CPU's reset when it goes from 0 to 1, bit 1 is the A20 gate.
 * Source: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
 */
export class SystemControlPortA implements PortDevice {
  readonly #a20: { enabled: boolean };
  readonly #reset: (reason: string) => void;
  #resetBit = 0;

  constructor(wires: { reset: (reason: string) => void; a20: { enabled: boolean } }) {
    this.#a20 = wires.a20;
    this.#reset = wires.reset;
  }

  reset(): void {
    this.#resetBit = 0;
  }

  readPort(): number {
    return this.#resetBit | (this.#a20.enabled ? 2 : 0);
  }

  writePort(_offset: number, _size: AccessSize, value: number): void {
    this.#a20.enabled = has(value, 2);
    const rises = this.#resetBit === 0 && has(value, 1);
    this.#resetBit = value & 1;
    if (rises) this.#reset('system control port A');
  }
}
