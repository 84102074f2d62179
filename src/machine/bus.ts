import { assert } from '../base/assert.ts';
import type { AccessSize, Bus, MmioDevice, PortDevice } from '../contracts/device.ts';
import type { DeviceSpace } from '../hypervisor/vm/io.ts';

interface Range<Device> {
  readonly first: number;
  readonly end: number;
  readonly device: Device;
  readonly name: string;
}

/**
 * Ports and physical ranges of devices, and what is behind the others: reads are all ones, writes go nowhere, as on a
 * bus where nobody answers.
 *
 * Owns  the splitting of accesses that are unaligned or run over a device's end.
 */
export class MachineBus implements Bus, DeviceSpace {
  /** One entry a port: index into #portRanges plus 1, or 0. */
  readonly #ports = new Uint16Array(0x1_0000);
  readonly #portRanges: (Range<PortDevice> | undefined)[] = [];
  readonly #mmio: Range<MmioDevice>[] = [];
  /** Accesses that nobody answered, by port or page: for `info`. */
  readonly unclaimed = new Map<string, number>();
  /** Told of each. */
  onUnclaimed: ((space: 'port' | 'memory', at: number, write: boolean) => void) | undefined;

  addPorts(first: number, count: number, device: PortDevice, name: string): void {
    assert(first >= 0 && first + count <= 0x1_0000, `${name}: ports are 16 bits`);
    const index = this.#portRanges.push({ first, end: first + count, device, name });
    for (let port = first; port < first + count; port += 1) {
      assert(this.#ports[port] === 0, `${name}: port 0x${port.toString(16)} is free`);
      this.#ports[port] = index;
    }
  }

  removePorts(first: number, count: number): void {
    const index = this.#portRanges.findIndex((range) => range?.first === first && range.end === first + count);
    if (index < 0) return;
    this.#portRanges[index] = undefined;
    this.#ports.fill(0, first, first + count);
  }

  addMmio(first: number, bytes: number, device: MmioDevice, name: string): void {
    const range = { first, end: first + bytes, device, name };
    for (const other of this.#mmio) {
      assert(range.end <= other.first || other.end <= range.first, `${name} does not overlap ${other.name}`);
    }
    this.#mmio.push(range);
  }

  removeMmio(first: number, bytes: number): void {
    const index = this.#mmio.findIndex((range) => range.first === first && range.end === first + bytes);
    if (index >= 0) this.#mmio.splice(index, 1);
  }

  portRead(port: number, bytes: number): number {
    const range = this.#portRanges[this.#ports[port]! - 1];
    if (range && port + bytes <= range.end) {
      return range.device.readPort(port - range.first, bytes as AccessSize) >>> 0;
    }
    if (bytes > 1) {
      let value = 0;
      for (let i = 0; i < bytes; i += 1) value += this.portRead((port + i) & 0xffff, 1) * 2 ** (8 * i);
      return value;
    }
    this.#note('port', port, false);
    return 0xff;
  }

  portWrite(port: number, bytes: number, value: number): void {
    const range = this.#portRanges[this.#ports[port]! - 1];
    if (range && port + bytes <= range.end) {
      const mask = bytes === 4 ? 0xffff_ffff : (1 << (8 * bytes)) - 1;
      range.device.writePort(port - range.first, bytes as AccessSize, (value & mask) >>> 0);
    } else if (bytes > 1) {
      for (let i = 0; i < bytes; i += 1) this.portWrite((port + i) & 0xffff, 1, (value >>> (8 * i)) & 0xff);
    } else this.#note('port', port, true);
  }

  mmioRead(physical: number, bytes: number): number {
    const range = this.#at(physical);
    if (range && physical + bytes <= range.end && physical % bytes === 0) {
      return range.device.readMmio(physical - range.first, bytes as AccessSize) >>> 0;
    }
    if (bytes > 1) {
      let value = 0;
      for (let i = 0; i < bytes; i += 1) value += this.mmioRead(physical + i, 1) * 2 ** (8 * i);
      return value;
    }
    if (!range) this.#note('memory', physical, false);
    return range ? range.device.readMmio(physical - range.first, 1) : 0xff;
  }

  mmioWrite(physical: number, bytes: number, value: number): void {
    const range = this.#at(physical);
    if (range && physical + bytes <= range.end && physical % bytes === 0) {
      range.device.writeMmio(physical - range.first, bytes as AccessSize, value >>> 0);
    } else if (bytes > 1) {
      for (let i = 0; i < bytes; i += 1) this.mmioWrite(physical + i, 1, (value >>> (8 * i)) & 0xff);
    } else this.#note('memory', physical, true);
  }

  #at(physical: number): Range<MmioDevice> | undefined {
    for (const range of this.#mmio) if (physical >= range.first && physical < range.end) return range;
    return undefined;
  }

  #note(space: 'port' | 'memory', at: number, write: boolean): void {
    const place = space === 'port' ? `port ${at.toString(16)}` : `page ${Math.floor(at / 4096).toString(16)}`;
    this.unclaimed.set(place, (this.unclaimed.get(place) ?? 0) + 1);
    this.onUnclaimed?.(space, at, write);
  }

  /** What is where, for `info mtree`. */
  *ranges(): Generator<{ space: 'port' | 'memory'; first: number; end: number; name: string }> {
    for (const range of this.#portRanges) {
      if (range) yield { space: 'port', first: range.first, end: range.end, name: range.name };
    }
    for (const { first, end, name } of this.#mmio) yield { space: 'memory', first, end, name };
  }
}
