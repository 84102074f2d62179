import type { AccessSize, PortDevice } from '../contracts/device.ts';

/**
 * A device whose registers are single bytes, as on the ISA bus: a wider access becomes one cycle per byte, in
 * ascending order. A cycle beyond the last register finds nobody and reads as ones.
 */
export abstract class BytePorts implements PortDevice {
  protected abstract readonly registers: number;
  protected abstract read(offset: number): number;
  protected abstract write(offset: number, value: number): void;

  readPort(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = 0; i < size; i += 1) {
      const byte = offset + i < this.registers ? this.read(offset + i) : 0xff;
      value |= (byte & 0xff) << (8 * i);
    }
    return value >>> 0;
  }

  writePort(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i += 1) {
      if (offset + i < this.registers) this.write(offset + i, (value >>> (8 * i)) & 0xff);
    }
  }
}
