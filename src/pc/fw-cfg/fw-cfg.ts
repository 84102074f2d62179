import { assert } from '../../base/assert.ts';
import { has, join64 } from '../../base/bits.ts';
import type { AccessSize, PortDevice } from '../../contracts/device.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ascii, ByteWriter } from '../bytes.ts';
import { physical } from '../layout.ts';

/** QEMU docs/specs/fw_cfg.rst and standard-headers/linux/qemu_fw_cfg.h: the keys there are. */
export const FW_CFG = {
  SIGNATURE: 0x00,
  ID: 0x01,
  UUID: 0x02,
  RAM_SIZE: 0x03,
  NOGRAPHIC: 0x04,
  NB_CPUS: 0x05,
  MACHINE_ID: 0x06,
  KERNEL_ADDR: 0x07,
  KERNEL_SIZE: 0x08,
  KERNEL_CMDLINE: 0x09,
  INITRD_ADDR: 0x0a,
  INITRD_SIZE: 0x0b,
  BOOT_DEVICE: 0x0c,
  NUMA: 0x0d,
  BOOT_MENU: 0x0e,
  MAX_CPUS: 0x0f,
  KERNEL_ENTRY: 0x10,
  KERNEL_DATA: 0x11,
  INITRD_DATA: 0x12,
  CMDLINE_ADDR: 0x13,
  CMDLINE_SIZE: 0x14,
  CMDLINE_DATA: 0x15,
  SETUP_ADDR: 0x16,
  SETUP_SIZE: 0x17,
  SETUP_DATA: 0x18,
  FILE_DIR: 0x19,
  FILE_FIRST: 0x20,
} as const;

/** ID register: the traditional interface is there, and DMA. */
const ID_TRADITIONAL = 1;
const ID_DMA = 2;

/** Control word of a DMA request; the selector is in bits 31:16. */
const DMA = { ERROR: 0x01, READ: 0x02, SKIP: 0x04, SELECT: 0x08, WRITE: 0x10 } as const;

const FILE_NAME_BYTES = 56;
const COPY_BYTES = 0x1_0000;
/** Read at the DMA address register: "QEMU CFG", big-endian. */
const DMA_SIGNATURE = ascii('QEMU CFG');

const OFFSET = { SELECTOR: 0, DATA: 1, DMA: 4 } as const;

/**
 * QEMU's firmware configuration device: numbered items and named files that the guest reads.
 * Source: QEMU docs/specs/fw_cfg.rst.
 *
 *   port    access
 *   0x510   selector, a word
 *   0x511   data, a byte per read; 0 behind an item's end or for an item that is not there
 *   0x514   address of a DMA request, high half, big-endian; reads "QEMU"
 *   0x518   low half; writing it starts the request; reads " CFG"
 *
 * Never writable: what a guest writes to the data port is dropped, a DMA write fails with ERROR.
 */
export class FwCfg implements PortDevice {
  readonly #memory: GuestMemory;
  readonly #items = new Map<number, Uint8Array>();
  readonly #files: { name: string; bytes: Uint8Array }[] = [];
  #selector = 0;
  #offset = 0;
  #dmaHigh = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.set(FW_CFG.SIGNATURE, ascii('QEMU'));
    this.set(FW_CFG.ID, new ByteWriter().u32(ID_TRADITIONAL | ID_DMA).done());
    this.set(FW_CFG.FILE_DIR, new ByteWriter().u32(0).done());
  }

  /** Puts an item, or another one in its place. */
  set(key: number, bytes: Uint8Array): void {
    this.#items.set(key, bytes);
  }

  /** Adds a named file. The directory stays sorted by name, as QEMU's is; keys follow the order. */
  addFile(name: string, bytes: Uint8Array): void {
    assert(name.length < FILE_NAME_BYTES, 'a fw_cfg file name is at most 55 characters long');
    const others = this.#files.filter((file) => file.name !== name);
    this.#files.length = 0;
    this.#files.push(...others, { name, bytes });
    this.#files.sort((a, b) => (a.name < b.name ? -1 : 1));
    const bigEndian = (value: number, size: number) =>
      Array.from({ length: size }, (_, i) => (value >>> (8 * (size - 1 - i))) & 0xff);
    const directory = new ByteWriter().bytes(bigEndian(this.#files.length, 4));
    this.#files.forEach((file, index) => {
      const key = FW_CFG.FILE_FIRST + index;
      this.#items.set(key, file.bytes);
      directory.bytes(bigEndian(file.bytes.length, 4)).bytes(bigEndian(key, 2)).u16(0).text(file.name, FILE_NAME_BYTES);
    });
    this.set(FW_CFG.FILE_DIR, directory.done());
  }

  reset(): void {
    this.#selector = 0;
    this.#offset = 0;
    this.#dmaHigh = 0;
  }

  readPort(offset: number, size: AccessSize): number {
    if (offset >= OFFSET.DMA) return this.#readSignature(offset - OFFSET.DMA, size);
    if (offset === OFFSET.DATA && size === 1) return this.#nextByte();
    return 0;
  }

  writePort(offset: number, size: AccessSize, value: number): void {
    if (offset === OFFSET.SELECTOR && size === 2) this.#select(value);
    else if (offset === OFFSET.DMA && size === 4) this.#dmaHigh = swap32(value);
    else if (offset === OFFSET.DMA + 4 && size === 4) {
      const request = join64(swap32(value), this.#dmaHigh & 0x1f_ffff);
      this.#dmaHigh = 0;
      this.#dma(request);
    }
  }

  #readSignature(at: number, size: AccessSize): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i -= 1) value = value * 256 + (DMA_SIGNATURE[at + i] ?? 0);
    return value;
  }

  #select(key: number): void {
    this.#selector = key;
    this.#offset = 0;
  }

  #nextByte(): number {
    const byte = this.#items.get(this.#selector)?.[this.#offset] ?? 0;
    this.#offset += 1;
    return byte;
  }

  /** A request is {control, length: u32; address: u64}, all big-endian; the device writes back `control`. */
  #dma(request: number): void {
    const at = physical(request);
    const control = swap32(this.#memory.read32(at));
    const length = swap32(this.#memory.read32(physical(request + 4)));
    const high = swap32(this.#memory.read32(physical(request + 8)));
    const address = join64(swap32(this.#memory.read32(physical(request + 12))), high & 0x1f_ffff);
    if (has(control, DMA.SELECT)) this.#select(control >>> 16);
    let done = true;
    if (has(control, DMA.READ)) done = this.#copyOut(address, length);
    else if (has(control, DMA.WRITE)) done = false;
    else if (has(control, DMA.SKIP)) this.#offset += length;
    this.#memory.write32(at, done ? 0 : swap32(DMA.ERROR));
  }

  /** Zeros behind the item's end. Stops with an error at a hole, so that a huge length costs nothing. */
  #copyOut(address: number, length: number): boolean {
    const item = this.#items.get(this.#selector) ?? new Uint8Array();
    const zeros = new Uint8Array(Math.min(length, COPY_BYTES));
    for (let done = 0; done < length; ) {
      const left = item.length - this.#offset;
      const bytes = Math.min(length - done, COPY_BYTES, left > 0 ? left : COPY_BYTES);
      const chunk = left > 0 ? item.subarray(this.#offset, this.#offset + bytes) : zeros.subarray(0, bytes);
      if (this.#memory.copyIn(physical(address + done), chunk) < bytes) return false;
      this.#offset += bytes;
      done += bytes;
    }
    return true;
  }
}

function swap32(value: number): number {
  return (((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0;
}
