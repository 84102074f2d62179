import type { Bus, MmioDevice, PortDevice } from '../../contracts/device.ts';
import { highRamBytes, PHYSICAL, PORTS } from '../layout.ts';

interface Range {
  readonly first: number;
  readonly count: number;
}

/** Above this no BAR is mapped: x86-64 guests here have at least 39 physical address bits. */
const MEMORY_END = 2 ** 39;

const overlap = (a: Range, b: Range): boolean => a.first < b.first + b.count && b.first < a.first + a.count;
const inside = (inner: Range, outer: Range): boolean =>
  inner.first >= outer.first && inner.first + inner.count <= outer.first + outer.count;

/**
 * Where BARs may be. A guest can write any address into a BAR; what would lie over RAM, over a device at a fixed
 * place or over another BAR is simply not decoded, and the guest sees ones there. That keeps the bus's promise that
 * ranges never overlap.
 */
export class PciAddressSpace {
  readonly #bus: Bus;
  readonly #memoryWindows: readonly Range[];
  readonly #ports: Range[] = [];
  readonly #memory: Range[] = [];

  constructor(bus: Bus, ramBytes: number) {
    const above = PHYSICAL.RAM_ABOVE_4G + highRamBytes(ramBytes);
    this.#bus = bus;
    this.#memoryWindows = [
      { first: PHYSICAL.PCI_WINDOW, count: PHYSICAL.PCI_WINDOW_END - PHYSICAL.PCI_WINDOW },
      { first: above, count: MEMORY_END - above },
    ];
  }

  /** Maps if it can be; says whether it did. */
  mapPorts(first: number, count: number, device: PortDevice, name: string): boolean {
    const range = { first, count };
    if (!inside(range, PORTS.PCI_WINDOW) || this.#ports.some((other) => overlap(range, other))) return false;
    this.#ports.push(range);
    this.#bus.addPorts(first, count, device, name);
    return true;
  }

  mapMemory(first: number, bytes: number, device: MmioDevice, name: string): boolean {
    const range = { first, count: bytes };
    if (!this.#memoryWindows.some((window) => inside(range, window))) return false;
    if (this.#memory.some((other) => overlap(range, other))) return false;
    this.#memory.push(range);
    this.#bus.addMmio(first, bytes, device, name);
    return true;
  }

  unmapPorts(first: number, count: number): void {
    this.#forget(this.#ports, first);
    this.#bus.removePorts(first, count);
  }

  unmapMemory(first: number, bytes: number): void {
    this.#forget(this.#memory, first);
    this.#bus.removeMmio(first, bytes);
  }

  #forget(ranges: Range[], first: number): void {
    const at = ranges.findIndex((range) => range.first === first);
    if (at >= 0) ranges.splice(at, 1);
  }
}
