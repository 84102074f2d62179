/**
 * The I/O APIC: 24 pins, each with a redirection entry that says which message its interrupt is.
 *
 * Owns    entries, pin levels, Remote IRR. A message leaves through a function.
 * Knows   nothing of local APICs; an EOI comes as a vector.
 *
 *   offset 00H  IOREGSEL   10H  IOWIN   40H  EOIR        index 00H ID   01H VERSION   02H ARBITRATION   10H… entries
 *
 * A level entry's Remote IRR is set when its message was accepted and cleared by EOI of its vector; while it is set the
 * pin sends nothing, and if the pin is still asserted at EOI it sends again.
 *
 * Source  Intel 82093AA I/O APIC data sheet (290566), May 1996.
 * DEVIATION  from 3.2.4 "Interrupt Input Pin Polarity": bit 13 is kept and has no effect. A line here is "asserted" or
 *            not; which voltage that is on a board depends on firmware tables, and both sides would have to agree.
 */
import {
  IO_APIC_ID_MASK,
  IO_APIC_INDEX,
  IO_APIC_PINS,
  IO_APIC_VERSION,
  IO_APIC_WINDOW,
  REDIRECTION,
  REDIRECTION_HIGH_WRITABLE,
  REDIRECTION_LOW_WRITABLE,
} from '../../arch/apic/io-apic.ts';
import { DELIVERY, deliveryMode } from '../../arch/apic/registers.ts';
import { has } from '../../base/bits.ts';
import type { AccessSize, MmioDevice } from '../../contracts/device.ts';

/** @returns whether a local APIC took the message. */
export type SendMessage = (
  destination: number,
  logical: boolean,
  mode: number,
  vector: number,
  level: boolean,
) => boolean;

export interface IoApicState {
  id: number;
  select: number;
  low: number[];
  high: number[];
  /** Levels of the pins, one bit each. */
  pins: number;
}

export class IoApic implements MmioDevice {
  #id = 0;
  #select = 0;
  readonly #low = new Uint32Array(IO_APIC_PINS);
  readonly #high = new Uint32Array(IO_APIC_PINS);
  #pins = 0;
  readonly #send: SendMessage;

  constructor(send: SendMessage) {
    this.#send = send;
    this.reset();
  }

  /** Setting the level a pin already has does nothing. */
  setPin(pin: number, asserted: boolean): void {
    const mask = 1 << pin;
    if (has(this.#pins, mask) === asserted) return;
    this.#pins ^= mask;
    // 3.2.4 "Interrupt Mask": an edge on a masked pin is neither delivered nor held pending.
    if (asserted) this.#service(pin);
  }

  /** EOI of `vector`, broadcast by a local APIC or written to EOIR. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IO_APIC_PINS; pin++) {
      const entry = this.#low[pin]!;
      if (!has(entry, REDIRECTION.REMOTE_IRR) || (entry & 0xff) !== vector) continue;
      this.#low[pin] = entry & ~REDIRECTION.REMOTE_IRR;
      this.#serviceLevel(pin);
    }
  }

  /** Registers are 32 bits wide and 16 bytes apart; a narrower access reaches their low bytes. */
  readMmio(offset: number, size: AccessSize): number {
    const mask = size === 4 ? 0xffff_ffff : (1 << (size * 8)) - 1;
    let value = 0;
    if (offset === IO_APIC_WINDOW.IOREGSEL) value = this.#select;
    else if (offset === IO_APIC_WINDOW.IOWIN) value = this.#read(this.#select);
    return (value & mask) >>> 0;
  }

  writeMmio(offset: number, _size: AccessSize, value: number): void {
    if (offset === IO_APIC_WINDOW.IOREGSEL) this.#select = value & 0xff;
    else if (offset === IO_APIC_WINDOW.IOWIN) this.#write(this.#select, value);
    else if (offset === IO_APIC_WINDOW.EOIR) this.endOfInterrupt(value & 0xff);
  }

  /** The message of each entry, for an EOI-exit bitmap or the inspector: halves as the guest reads them. */
  entryLow(pin: number): number {
    return this.#low[pin]!;
  }

  entryHigh(pin: number): number {
    return this.#high[pin]!;
  }

  /** All entries masked. The pins keep the levels that devices gave them. */
  reset(): void {
    this.#id = 0;
    this.#select = 0;
    this.#low.fill(REDIRECTION.MASKED);
    this.#high.fill(0);
  }

  save(): IoApicState {
    return {
      id: this.#id,
      select: this.#select,
      low: Array.from(this.#low),
      high: Array.from(this.#high),
      pins: this.#pins,
    };
  }

  load(state: IoApicState): void {
    this.#id = state.id;
    this.#select = state.select;
    this.#low.set(state.low);
    this.#high.set(state.high);
    this.#pins = state.pins;
  }

  #read(index: number): number {
    if (index === IO_APIC_INDEX.ID || index === IO_APIC_INDEX.ARBITRATION) return this.#id;
    if (index === IO_APIC_INDEX.VERSION) return IO_APIC_VERSION;
    const pin = (index - IO_APIC_INDEX.REDIRECTION) >> 1;
    if (pin < 0 || pin >= IO_APIC_PINS) return 0;
    return (index & 1) === 0 ? this.#low[pin]! : this.#high[pin]!;
  }

  #write(index: number, value: number): void {
    if (index === IO_APIC_INDEX.ID) {
      this.#id = value & IO_APIC_ID_MASK; // and the arbitration ID, which is loaded with it
      return;
    }
    const pin = (index - IO_APIC_INDEX.REDIRECTION) >> 1;
    if (pin < 0 || pin >= IO_APIC_PINS) return;
    if ((index & 1) === 1) {
      this.#high[pin] = value & REDIRECTION_HIGH_WRITABLE;
      return;
    }
    // An entry that becomes edge-triggered loses its Remote IRR: how software ends interrupts where EOIR is missing.
    const kept = has(value, REDIRECTION.LEVEL) ? this.#low[pin]! & REDIRECTION.REMOTE_IRR : 0;
    this.#low[pin] = (value & REDIRECTION_LOW_WRITABLE) | kept;
    this.#serviceLevel(pin);
  }

  #serviceLevel(pin: number): void {
    if (has(this.#low[pin]!, REDIRECTION.LEVEL) && has(this.#pins, 1 << pin)) this.#service(pin);
  }

  /** The pin is asserted (level) or has just become so (edge). */
  #service(pin: number): void {
    const entry = this.#low[pin]!;
    if (has(entry, REDIRECTION.MASKED)) return;
    const mode = deliveryMode(entry);
    // 3.2.4 "Delivery Mode": SMI, NMI, INIT and ExtINT are edges whatever bit 15 says.
    const level = has(entry, REDIRECTION.LEVEL) && (mode === DELIVERY.FIXED || mode === DELIVERY.LOWEST);
    if (level && has(entry, REDIRECTION.REMOTE_IRR)) return;
    if (level) this.#low[pin] = entry | REDIRECTION.REMOTE_IRR; // before sending: EOI may come from within
    const taken = this.#send(this.#high[pin]! >>> 24, has(entry, REDIRECTION.LOGICAL), mode, entry & 0xff, level);
    if (level && !taken) this.#low[pin]! &= ~REDIRECTION.REMOTE_IRR;
  }
}
