import { type L1Physical, pageStart } from '../../base/address.ts';
import type { AccessSize, IrqLine, MmioDevice, PortDevice, PowerControl } from '../../contracts/device.ts';
import { BytePorts } from '../byte-ports.ts';
import { readLittleEndian, writeLittleEndian } from '../bytes.ts';

/** A port that prints. `answer` is what reading gives: Bochs' port 0xe9 says 0xe9 to tell that it is there. */
export class DebugConsole extends BytePorts {
  protected readonly registers = 1;
  readonly #answer: number;
  readonly #print: (byte: number) => void;

  constructor(answer: number, print: (byte: number) => void) {
    super();
    this.#answer = answer;
    this.#print = print;
  }

  protected read(): number {
    return this.#answer;
  }

  protected write(_offset: number, value: number): void {
    this.#print(value);
  }
}

/** QEMU's isa-debug-exit: a write ends the machine with status `(value << 1) | 1`, so never with 0. */
export class DebugExit implements PortDevice {
  readonly #power: PowerControl;

  constructor(power: PowerControl) {
    this.#power = power;
  }

  readPort(): number {
    return 0;
  }

  /** A process's status has eight bits; what does not fit is dropped, as the host would. */
  writePort(_offset: number, _size: AccessSize, value: number): void {
    this.#power.powerOff(((value << 1) | 1) & 0xff);
  }
}

/** Port 0x80: firmware's progress codes, and what everybody writes to in order to wait. Keeps the last one. */
export class PostPort extends BytePorts {
  protected readonly registers = 1;
  #code = 0;

  protected read(): number {
    return this.#code;
  }

  protected write(_offset: number, value: number): void {
    this.#code = value;
  }
}

/** pc-testdev's echo register at 0xe0: four bytes that read back as they were written, in any width. */
export class TestEcho implements PortDevice {
  readonly #bytes = new Uint8Array(4);

  readPort(offset: number, size: AccessSize): number {
    return readLittleEndian(this.#bytes, offset, size);
  }

  writePort(offset: number, size: AccessSize, value: number): void {
    writeLittleEndian(this.#bytes, offset, size, value);
  }
}

/** pc-testdev's port 0xe4: the page at the written address loses its mapping in L0, and keeps its content. */
export class TestUnmap implements PortDevice {
  readonly #unmap: (page: L1Physical) => void;

  constructor(unmap: (page: L1Physical) => void) {
    this.#unmap = unmap;
  }

  readPort(): number {
    return 0;
  }

  writePort(_offset: number, size: AccessSize, value: number): void {
    if (size === 4) this.#unmap(pageStart(value >>> 0) as L1Physical);
  }
}

/** pc-testdev's ports 0x2000..0x2017: a byte written to port n sets interrupt line n to that level. */
export class TestIrqLines implements PortDevice {
  readonly #lines: readonly IrqLine[];

  constructor(lines: readonly IrqLine[]) {
    this.#lines = lines;
  }

  readPort(): number {
    return 0;
  }

  writePort(offset: number, _size: AccessSize, value: number): void {
    this.#lines[offset]?.set(value !== 0);
  }
}

export const TEST_MEMORY_BYTES = 0x1_0000;

/** pc-testdev's device memory: reads back what was written, but every access is an exit. */
export class TestMemory implements MmioDevice {
  readonly #bytes = new Uint8Array(TEST_MEMORY_BYTES);

  readMmio(offset: number, size: AccessSize): number {
    return readLittleEndian(this.#bytes, offset, size);
  }

  writeMmio(offset: number, size: AccessSize, value: number): void {
    writeLittleEndian(this.#bytes, offset, size, value);
  }
}
