import { assert } from '../../base/assert.ts';
import { has } from '../../base/bits.ts';
import type { AccessSize, IrqLine, PortDevice } from '../../contracts/device.ts';
import { IRQ, PCI_SLOTS, PHYSICAL, PORTS, pciLinkOf } from '../layout.ts';
import type { PciAddressSpace } from './address-space.ts';
import type { PciFunction } from './function.ts';
import { COMMAND, PCI } from './registers.ts';

const ADDRESS_ENABLE = 0x8000_0000;
const OFFSET = { ADDRESS: 0, RESET_CONTROL: 1, DATA: 4 } as const;
/** Reset control register 0xcf9, 82371AB (PIIX4) data sheet 4.2.6.1: bit 1 hard or soft, bit 2 starts it. */
const RESET_CPU = 0x4;
const RESET_HARD = 0x2;

/**
 * PCI bus 0 and configuration mechanism 1.
 * Source: PCI Local Bus Specification 3.0, 3.2.2.3.2 "Software Generation of Configuration Transactions".
 *
 *   0xcf8  dword   bit 31 enable, 23:16 bus, 15:11 slot, 10:8 function, 7:2 register
 *   0xcf9  byte    reset control register
 *   0xcfc  byte, word or dword of the addressed register; ones where there is no function
 */
export class PciBus implements PortDevice {
  readonly #functions = new Map<number, PciFunction>(); // by slot * 8 + function
  readonly #space: PciAddressSpace;
  readonly #line: (gsi: number) => IrqLine;
  readonly #reset: (reason: string) => void;
  #address = 0;
  #resetControl = 0;

  constructor(wires: {
    space: PciAddressSpace;
    irq: (gsi: number) => IrqLine;
    reset: (reason: string) => void;
  }) {
    this.#space = wires.space;
    this.#line = wires.irq;
    this.#reset = wires.reset;
  }

  /** Plugs a function in. Its interrupt pin goes where `_PRT` says. */
  add(slot: number, number: number, pciFunction: PciFunction): void {
    const at = slot * 8 + number;
    assert(slot < PCI_SLOTS && number < 8 && !this.#functions.has(at), 'a PCI slot is free');
    this.#functions.set(at, pciFunction);
    const pin = pciFunction.identity.interruptPin ?? 0;
    pciFunction.attach(this.#space, pin > 0 ? this.#line(this.#gsi(slot, pin)) : undefined);
  }

  /** First slot that has nothing in it. */
  freeSlot(): number {
    let slot = 0;
    while (this.#functions.has(slot * 8)) slot += 1;
    assert(slot < PCI_SLOTS, 'there is a free PCI slot');
    return slot;
  }

  /**
   * What firmware does after a reset: gives each BAR an address, each interrupt pin its line, and turns decoding on.
   * Larger BARs come first, so that natural alignment wastes nothing.
   */
  assignResources(): void {
    let ports: number = PORTS.PCI_WINDOW.first;
    let memory: number = PHYSICAL.PCI_WINDOW;
    for (const pciFunction of this.#functions.values()) pciFunction.reset();
    const bars = Array.from(this.#functions.values()).flatMap((owner) =>
      owner.bars().map((bar) => ({ owner, ...bar })),
    );
    bars.sort((a, b) => b.bytes - a.bytes);
    for (const { owner, index, kind, bytes } of bars) {
      const at = kind === 'io' ? ports : memory;
      owner.write(PCI.BAR0 + 4 * index, 4, at);
      if (kind === 'io') ports += bytes;
      else memory += bytes;
    }
    assert(memory <= PHYSICAL.PCI_WINDOW_END, 'all BARs fit the PCI window');
    assert(ports <= PORTS.PCI_WINDOW.first + PORTS.PCI_WINDOW.count, 'all I/O BARs fit the port window');
    for (const [at, pciFunction] of this.#functions) {
      const pin = pciFunction.identity.interruptPin ?? 0;
      if (pin > 0) pciFunction.write(PCI.INTERRUPT_LINE, 1, this.#gsi(at >> 3, pin));
      pciFunction.write(PCI.COMMAND, 2, COMMAND.IO | COMMAND.MEMORY | COMMAND.MASTER);
    }
  }

  reset(): void {
    this.#address = 0;
    this.#resetControl = 0;
    this.assignResources();
  }

  readPort(offset: number, size: AccessSize): number {
    if (offset >= OFFSET.DATA) {
      const addressed = this.#addressed();
      return addressed ? addressed.read(this.#register(offset), size) : ones(size);
    }
    if (offset === OFFSET.ADDRESS && size === 4) return this.#address;
    if (offset === OFFSET.RESET_CONTROL && size === 1) return this.#resetControl;
    return ones(size);
  }

  writePort(offset: number, size: AccessSize, value: number): void {
    if (offset >= OFFSET.DATA) this.#addressed()?.write(this.#register(offset), size, value);
    else if (offset === OFFSET.ADDRESS && size === 4) this.#address = (value & ~0x7f00_0003) >>> 0;
    else if (offset === OFFSET.RESET_CONTROL && size === 1) {
      this.#resetControl = value & RESET_HARD;
      if (has(value, RESET_CPU)) this.#reset('reset control register 0xcf9');
    }
  }

  #gsi(slot: number, pin: number): number {
    return IRQ.PCI_LINKS[pciLinkOf(slot, pin - 1)]!;
  }

  #register(offset: number): number {
    return (this.#address & 0xfc) + (offset - OFFSET.DATA);
  }

  #addressed(): PciFunction | undefined {
    if (!has(this.#address, ADDRESS_ENABLE) || (this.#address & 0x00ff_0000) !== 0) return undefined;
    return this.#functions.get((this.#address >>> 8) & 0xff);
  }
}

const ones = (size: AccessSize): number => 256 ** size - 1;
