import { assert } from '../../base/assert.ts';
import { has } from '../../base/bits.ts';
import type { AccessSize, IrqLine, MmioDevice, PortDevice } from '../../contracts/device.ts';
import { readLittleEndian, writeLittleEndian } from '../bytes.ts';
import type { PciAddressSpace } from './address-space.ts';
import { BAR_FLAGS, BARS, type BarKind, COMMAND, HEADER_MULTIFUNCTION, PCI, STATUS } from './registers.ts';

export interface PciIdentity {
  readonly name: string;
  readonly vendor: number;
  readonly device: number;
  /** Base class, subclass, programming interface: 0x060000 is a host bridge. */
  readonly classCode: number;
  readonly revision?: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
  /** 0 for none, 1 for INTA#. */
  readonly interruptPin?: number;
  readonly multifunction?: boolean;
}

interface Bar {
  readonly kind: BarKind;
  readonly bytes: number;
  readonly ports?: PortDevice;
  readonly memory?: MmioDevice;
  /** Where it is decoded now, -1 if nowhere. */
  mappedAt: number;
}

/**
 * One function's configuration space: the header, the BARs and a list of capabilities.
 * Source: PCI Local Bus Specification 3.0, chapter 6 "Configuration Space".
 *
 * Owns    which bits a guest can write, and moving the BARs' ranges when it does.
 * Knows   nothing of what the function does; that owner gets `changed` after each write.
 */
export class PciFunction {
  readonly identity: PciIdentity;
  readonly config = new Uint8Array(PCI.BYTES);
  /** Bits that a write changes. */
  readonly writable = new Uint8Array(PCI.BYTES);
  readonly #powerOn = new Uint8Array(PCI.BYTES);
  readonly #bars = new Map<number, Bar>();
  #space: PciAddressSpace | undefined;
  #line: IrqLine | undefined;
  #wantsInterrupt = false;
  #lastCapability: number = PCI.CAPABILITIES;
  #free: number = PCI.FIRST_FREE;
  #changed: (offset: number, size: AccessSize) => void = () => {};
  #beforeRead: (offset: number, size: AccessSize) => void = () => {};

  constructor(identity: PciIdentity) {
    this.identity = identity;
    this.#put(PCI.VENDOR_ID, 2, identity.vendor);
    this.#put(PCI.DEVICE_ID, 2, identity.device);
    this.#put(PCI.REVISION_ID, 1, identity.revision ?? 0);
    this.#put(PCI.CLASS_CODE, 3, identity.classCode);
    this.#put(PCI.HEADER_TYPE, 1, identity.multifunction ? HEADER_MULTIFUNCTION : 0);
    this.#put(PCI.SUBSYSTEM_VENDOR_ID, 2, identity.subsystemVendor ?? 0);
    this.#put(PCI.SUBSYSTEM_ID, 2, identity.subsystem ?? 0);
    this.#put(PCI.INTERRUPT_PIN, 1, identity.interruptPin ?? 0);
    const command = COMMAND.MASTER | COMMAND.PARITY | COMMAND.SERR | COMMAND.INTX_DISABLE;
    writeLittleEndian(this.writable, PCI.COMMAND, 2, command);
    this.writable[PCI.INTERRUPT_LINE] = 0xff;
  }

  /** Declares a BAR. A 64-bit one takes the next index as well. */
  addBar(index: number, kind: BarKind, bytes: number, device: { ports?: PortDevice; memory?: MmioDevice }): void {
    assert(bytes >= 16 && (bytes & (bytes - 1)) === 0, 'a BAR decodes a power of two');
    assert(index < BARS && !this.#bars.has(index), 'a BAR index is free');
    this.#bars.set(index, { kind, bytes, ...device, mappedAt: -1 });
    const at = PCI.BAR0 + 4 * index;
    this.#put(at, 4, BAR_FLAGS[kind]);
    writeLittleEndian(this.writable, at, 4, ~(bytes - 1) >>> 0);
    if (kind === 'memory64') writeLittleEndian(this.writable, at + 4, 4, 0xffff_ffff);
    this.writable[PCI.COMMAND]! |= kind === 'io' ? COMMAND.IO : COMMAND.MEMORY;
  }

  /**
   * Appends a capability and returns its offset.
   *
   * @param body      What follows the id and the link.
   * @param writable  Bits of the body that a guest can write; none if left out.
   */
  addCapability(id: number, body: Uint8Array, writable?: Uint8Array): number {
    const at = this.#free;
    this.#free = Math.ceil((at + 2 + body.length) / 4) * 4;
    assert(this.#free <= PCI.BYTES, 'capabilities fit the configuration space');
    this.#put(this.#lastCapability === PCI.CAPABILITIES ? PCI.CAPABILITIES : this.#lastCapability + 1, 1, at);
    this.#put(at, 1, id);
    this.#put(at + 1, 1, 0);
    this.config.set(body, at + 2);
    this.#powerOn.set(body, at + 2);
    if (writable) this.writable.set(writable, at + 2);
    this.#lastCapability = at;
    this.#put(PCI.STATUS, 2, readLittleEndian(this.#powerOn, PCI.STATUS, 2) | STATUS.CAPABILITIES);
    return at;
  }

  /** A device's own register: its value at power-on and what of it can be written. */
  addRegister(offset: number, size: AccessSize, value: number, writable: number): void {
    this.#put(offset, size, value);
    writeLittleEndian(this.writable, offset, size, writable);
  }

  /** Called after each write of the guest's. */
  onChange(changed: (offset: number, size: AccessSize) => void): void {
    this.#changed = changed;
  }

  /** Called before each read of the guest's, for registers that are windows to something else. */
  onRead(beforeRead: (offset: number, size: AccessSize) => void): void {
    this.#beforeRead = beforeRead;
  }

  /** Plugs the function in. */
  attach(space: PciAddressSpace, line: IrqLine | undefined): void {
    this.#space = space;
    this.#line = line;
  }

  /** The interrupt pin. What it does is visible in STATUS, and COMMAND.INTX_DISABLE holds it back. */
  readonly interrupt: IrqLine = {
    set: (level) => {
      this.#wantsInterrupt = level;
      this.#driveInterrupt();
    },
  };

  get command(): number {
    return readLittleEndian(this.config, PCI.COMMAND, 2);
  }

  /** BARs with their sizes, for whoever assigns addresses. */
  bars(): { index: number; kind: BarKind; bytes: number }[] {
    return Array.from(this.#bars, ([index, { kind, bytes }]) => ({ index, kind, bytes }));
  }

  /** Back to power-on: no BAR has an address, nothing is decoded. */
  reset(): void {
    this.config.set(this.#powerOn);
    this.#wantsInterrupt = false;
    this.#driveInterrupt();
    this.#mapBars();
  }

  read(offset: number, size: AccessSize): number {
    this.#beforeRead(offset, size);
    return readLittleEndian(this.config, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size && offset + i < PCI.BYTES; i += 1) {
      const mask = this.writable[offset + i]!;
      this.config[offset + i] = (this.config[offset + i]! & ~mask) | ((value >>> (8 * i)) & mask);
    }
    const barsEnd = PCI.BAR0 + 4 * BARS;
    if (offset < PCI.COMMAND + 2 && offset + size > PCI.COMMAND) {
      this.#driveInterrupt();
      this.#mapBars();
    } else if (offset < barsEnd && offset + size > PCI.BAR0) {
      this.#mapBars();
    }
    this.#changed(offset, size);
  }

  #put(offset: number, size: number, value: number): void {
    writeLittleEndian(this.config, offset, size, value);
    writeLittleEndian(this.#powerOn, offset, size, value);
  }

  #driveInterrupt(): void {
    if (this.#wantsInterrupt) this.config[PCI.STATUS]! |= STATUS.INTX;
    else this.config[PCI.STATUS]! &= ~STATUS.INTX;
    this.#line?.set(this.#wantsInterrupt && !has(this.command, COMMAND.INTX_DISABLE));
  }

  #address(index: number, bar: Bar): number {
    const low = readLittleEndian(this.config, PCI.BAR0 + 4 * index, 4);
    const high = bar.kind === 'memory64' ? readLittleEndian(this.config, PCI.BAR0 + 4 * index + 4, 4) : 0;
    return high * 2 ** 32 + (bar.kind === 'io' ? (low & ~0x3) >>> 0 : (low & ~0xf) >>> 0);
  }

  /** Gives up what has moved first, so that two BARs can swap places in two writes. */
  #mapBars(): void {
    if (!this.#space) return;
    for (const [index, bar] of this.#bars) {
      const enabled = has(this.command, bar.kind === 'io' ? COMMAND.IO : COMMAND.MEMORY);
      const wanted = enabled ? this.#address(index, bar) : -1;
      if (wanted === bar.mappedAt) continue;
      if (bar.mappedAt >= 0) {
        if (bar.kind === 'io') this.#space.unmapPorts(bar.mappedAt, bar.bytes);
        else this.#space.unmapMemory(bar.mappedAt, bar.bytes);
        bar.mappedAt = -1;
      }
      if (wanted < 0) continue;
      const name = `${this.identity.name} BAR${index}`;
      const mapped = bar.ports
        ? this.#space.mapPorts(wanted, bar.bytes, bar.ports, name)
        : bar.memory !== undefined && this.#space.mapMemory(wanted, bar.bytes, bar.memory, name);
      if (mapped) bar.mappedAt = wanted;
    }
  }
}
