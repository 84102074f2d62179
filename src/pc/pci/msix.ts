import { has } from '../../base/bits.ts';
import type { AccessSize, MmioDevice } from '../../contracts/device.ts';
import { ByteWriter, readLittleEndian, writeLittleEndian } from '../bytes.ts';
import type { PciFunction } from './function.ts';
import { CAPABILITY } from './registers.ts';

const ENTRY_BYTES = 16;
const ENTRY = { ADDRESS_LO: 0, ADDRESS_HI: 4, DATA: 8, CONTROL: 12 } as const;
const ENTRY_MASKED = 1;
/** Message Control: offset 2 in the capability. */
const CONTROL = { FUNCTION_MASK: 1 << 14, ENABLE: 1 << 15 } as const;

/** Where the pending bits start in the BAR; the table starts at 0. */
const PBA_OFFSET = 0x800;
export const MSIX_BAR_BYTES = 0x1000;
export const MSIX_VECTORS_MAX = PBA_OFFSET / ENTRY_BYTES;

/** Sends one message: a write of `data` to the address. */
export type DeliverMsi = (addressLo: number, addressHi: number, data: number) => void;

/**
 * MSI-X: the capability, the table and the pending bits, which share one BAR.
 * Source: PCI Local Bus Specification 3.0, 6.8.2 "MSI-X Capability and Table Structures".
 */
export class Msix implements MmioDevice {
  readonly vectors: number;
  readonly #function: PciFunction;
  readonly #capability: number;
  readonly #deliver: DeliverMsi;
  readonly #table: Uint8Array;
  readonly #pending: Uint8Array;

  constructor(owner: PciFunction, bar: number, vectors: number, deliver: DeliverMsi) {
    this.vectors = vectors;
    this.#function = owner;
    this.#deliver = deliver;
    this.#table = new Uint8Array(vectors * ENTRY_BYTES);
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    const body = new ByteWriter()
      .u16(vectors - 1)
      .u32(bar)
      .u32(PBA_OFFSET | bar);
    const writable = new ByteWriter().u16(CONTROL.ENABLE | CONTROL.FUNCTION_MASK).zeros(8);
    this.#capability = owner.addCapability(CAPABILITY.MSIX, body.done(), writable.done());
    owner.addBar(bar, 'memory32', MSIX_BAR_BYTES, { memory: this });
    this.reset();
  }

  get enabled(): boolean {
    return has(this.#control, CONTROL.ENABLE);
  }

  /** Every vector is masked after a reset. */
  reset(): void {
    this.#table.fill(0);
    this.#pending.fill(0);
    for (let vector = 0; vector < this.vectors; vector += 1) {
      this.#table[vector * ENTRY_BYTES + ENTRY.CONTROL] = ENTRY_MASKED;
    }
  }

  /** Sends the vector's message, now or when its mask goes. Vectors there are not are nobody's. */
  signal(vector: number): void {
    if (!this.enabled || vector >= this.vectors) return;
    if (this.#masked(vector)) {
      this.#pending[vector >> 3]! |= 1 << (vector & 7);
      return;
    }
    const at = vector * ENTRY_BYTES;
    const u32 = (field: number) => readLittleEndian(this.#table, at + field, 4);
    this.#deliver(u32(ENTRY.ADDRESS_LO), u32(ENTRY.ADDRESS_HI), u32(ENTRY.DATA));
  }

  /** The owner's configuration space was written: masks may have gone. */
  configurationChanged(): void {
    if (!this.enabled) return;
    for (let vector = 0; vector < this.vectors; vector += 1) this.#deliverPending(vector);
  }

  readMmio(offset: number, size: AccessSize): number {
    if (offset >= PBA_OFFSET) return readLittleEndian(this.#pending, offset - PBA_OFFSET, size);
    return readLittleEndian(this.#table, offset, size);
  }

  writeMmio(offset: number, size: AccessSize, value: number): void {
    if (offset >= this.#table.length) return; // the pending bits are read-only
    writeLittleEndian(this.#table, offset, size, value);
    this.#deliverPending(Math.floor(offset / ENTRY_BYTES));
  }

  get #control(): number {
    return readLittleEndian(this.#function.config, this.#capability + 2, 2);
  }

  #masked(vector: number): boolean {
    return (
      has(this.#control, CONTROL.FUNCTION_MASK) || has(this.#table[vector * ENTRY_BYTES + ENTRY.CONTROL]!, ENTRY_MASKED)
    );
  }

  #deliverPending(vector: number): void {
    const bit = 1 << (vector & 7);
    if (!has(this.#pending[vector >> 3]!, bit) || this.#masked(vector)) return;
    this.#pending[vector >> 3]! &= ~bit;
    this.signal(vector);
  }
}
