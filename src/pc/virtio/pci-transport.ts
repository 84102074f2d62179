import { has } from '../../base/bits.ts';
import type { AccessSize, MmioDevice } from '../../contracts/device.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ByteWriter, readLittleEndian, writeLittleEndian } from '../bytes.ts';
import { PciFunction } from '../pci/function.ts';
import { type DeliverMsi, Msix } from '../pci/msix.ts';
import { CAPABILITY } from '../pci/registers.ts';
import type { VirtioDevice } from './device.ts';
import { Virtqueue } from './queue.ts';
import { COMMON, DEVICE_STATUS, FEATURE_HI, FEATURE_LO, ISR, NO_VECTOR, STRUCTURE } from './registers.ts';

const VENDOR = 0x1af4;
/** 4.1.2.1: "PCI Device ID … 0x1040 plus the Virtio Device ID". */
const DEVICE_BASE = 0x1040;

const MSIX_BAR = 1;
const BAR = 4;
/** Regions of the memory BAR, a page each. */
const REGION = { COMMON: 0x0000, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000, BYTES: 0x4000 } as const;
const REGION_BYTES = 0x1000;
const NOTIFY_MULTIPLIER = 4;

/** Offset of the window's data in the PCI configuration access capability, 4.1.4.9. */
const WINDOW = { BAR: 4, OFFSET: 8, LENGTH: 12, DATA: 16, BYTES: 20 } as const;

/**
 * A modern (non-transitional) virtio device on PCI. Source: VIRTIO 1.2, 4.1 "Virtio Over PCI Bus".
 *
 *   BAR 1   MSI-X table and pending bits
 *   BAR 4   0x0000 common configuration   0x1000 ISR   0x2000 device configuration   0x3000 notifications
 *
 * Requests are served when the driver notifies, before its next instruction: completions need no thread.
 */
export class VirtioPci implements MmioDevice {
  readonly pci: PciFunction;
  readonly #device: VirtioDevice;
  readonly #msix: Msix;
  readonly #queues: readonly Virtqueue[];
  readonly #window: number;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #driverFeatures = [0, 0];
  #configVector = NO_VECTOR;
  #status = 0;
  #queueSelect = 0;
  #isr = 0;

  constructor(device: VirtioDevice, memory: GuestMemory, deliverMsi: DeliverMsi) {
    this.#device = device;
    this.#queues = device.queueSizes.map((size) => new Virtqueue(memory, size));
    this.pci = new PciFunction({
      name: device.name,
      vendor: VENDOR,
      device: DEVICE_BASE + device.id,
      classCode: device.classCode,
      revision: 1,
      subsystemVendor: VENDOR,
      subsystem: 0x40, // 4.1.2.1: "0x40 or higher"
      interruptPin: 1,
    });
    this.#msix = new Msix(this.pci, MSIX_BAR, this.#queues.length + 1, deliverMsi);
    this.pci.addBar(BAR, 'memory64', REGION.BYTES, { memory: this });
    this.#addStructure(STRUCTURE.COMMON, REGION.COMMON, COMMON.BYTES);
    this.#addStructure(STRUCTURE.ISR, REGION.ISR, 1);
    if (device.configuration.length > 0) {
      this.#addStructure(STRUCTURE.DEVICE, REGION.DEVICE, device.configuration.length);
    }
    this.#addStructure(STRUCTURE.NOTIFY, REGION.NOTIFY, NOTIFY_MULTIPLIER * this.#queues.length, NOTIFY_MULTIPLIER);
    this.#window = this.#addWindow();
    this.pci.onChange((offset, size) => this.#configurationWritten(offset, size));
    this.pci.onRead((offset, size) => this.#configurationRead(offset, size));
  }

  /** A reset of the machine; the driver's own is a write of 0 to the status. */
  reset(): void {
    this.#resetDevice();
    this.#msix.reset();
  }

  readMmio(offset: number, size: AccessSize): number {
    const at = offset % REGION_BYTES;
    switch (offset - at) {
      case REGION.COMMON:
        return this.#readCommon(at, size);
      case REGION.ISR:
        return at === 0 ? this.#takeIsr() : 0;
      case REGION.DEVICE:
        return readLittleEndian(this.#device.configuration, at, size);
      default:
        return 0;
    }
  }

  writeMmio(offset: number, size: AccessSize, value: number): void {
    const at = offset % REGION_BYTES;
    if (offset - at === REGION.COMMON) this.#writeCommon(at, size, value);
    else if (offset - at === REGION.NOTIFY) this.#notify(Math.floor(at / NOTIFY_MULTIPLIER));
  }

  /** 4.1.4 `struct virtio_pci_cap`, without the two bytes that every capability starts with. */
  #addStructure(type: number, offset: number, bytes: number, multiplier?: number): number {
    const total = multiplier === undefined ? 16 : 20;
    const body = new ByteWriter().u8(total, type, BAR, 0, 0, 0).u32(offset).u32(bytes);
    if (multiplier !== undefined) body.u32(multiplier);
    return this.pci.addCapability(CAPABILITY.VENDOR, body.done());
  }

  /** 4.1.4.9 "PCI configuration access capability": a way to the BARs for who cannot reach memory. */
  #addWindow(): number {
    const body = new ByteWriter().u8(WINDOW.BYTES, STRUCTURE.PCI, 0, 0, 0, 0).zeros(12).done();
    const writable = new ByteWriter().u8(0, 0, 0xff, 0, 0, 0).u32(0xffff_ffff).u32(0xffff_ffff).u32(0xffff_ffff).done();
    return this.pci.addCapability(CAPABILITY.VENDOR, body, writable);
  }

  /** What the window shows: a naturally aligned register of our memory BAR, or nothing. */
  #windowTarget(): { at: number; size: AccessSize } | undefined {
    const { config } = this.pci;
    const size = readLittleEndian(config, this.#window + WINDOW.LENGTH, 4);
    const at = readLittleEndian(config, this.#window + WINDOW.OFFSET, 4);
    if (config[this.#window + WINDOW.BAR] !== BAR || (size !== 1 && size !== 2 && size !== 4)) return undefined;
    return at % size === 0 && at < REGION.BYTES ? { at, size } : undefined;
  }

  #touchesWindow(offset: number, size: AccessSize): boolean {
    const data = this.#window + WINDOW.DATA;
    return offset < data + 4 && offset + size > data;
  }

  #configurationWritten(offset: number, size: AccessSize): void {
    this.#msix.configurationChanged();
    const target = this.#touchesWindow(offset, size) ? this.#windowTarget() : undefined;
    if (!target) return;
    this.writeMmio(target.at, target.size, readLittleEndian(this.pci.config, this.#window + WINDOW.DATA, target.size));
  }

  #configurationRead(offset: number, size: AccessSize): void {
    const target = this.#touchesWindow(offset, size) ? this.#windowTarget() : undefined;
    if (!target) return;
    writeLittleEndian(this.pci.config, this.#window + WINDOW.DATA, 4, this.readMmio(target.at, target.size));
  }

  get #queue(): Virtqueue | undefined {
    return this.#queues[this.#queueSelect];
  }

  #readCommon(at: number, size: AccessSize): number {
    // Registers are read whole or, the 64-bit ones, in halves; anything else is the part that lies there.
    const aligned = at & ~3;
    const word = this.#commonWord(aligned);
    const value = word >>> (8 * (at - aligned));
    return size === 4 ? value >>> 0 : size === 2 ? value & 0xffff : value & 0xff;
  }

  #commonWord(at: number): number {
    const queue = this.#queue;
    switch (at) {
      case COMMON.DEVICE_FEATURE_SELECT:
        return this.#deviceFeatureSelect;
      case COMMON.DEVICE_FEATURE:
        return this.#offered(this.#deviceFeatureSelect);
      case COMMON.DRIVER_FEATURE_SELECT:
        return this.#driverFeatureSelect;
      case COMMON.DRIVER_FEATURE:
        return this.#driverFeatures[this.#driverFeatureSelect] ?? 0;
      case COMMON.CONFIG_MSIX_VECTOR:
        return this.#configVector | (this.#queues.length << 16);
      case COMMON.DEVICE_STATUS: // and CONFIG_GENERATION, which never changes, and QUEUE_SELECT
        return this.#status | (this.#queueSelect << 16);
      case COMMON.QUEUE_SIZE:
        return queue ? queue.size | (queue.msixVector << 16) : 0;
      case COMMON.QUEUE_ENABLE:
        return queue ? (queue.enabled ? 1 : 0) | (this.#queueSelect << 16) : 0;
      case COMMON.QUEUE_DESC:
        return (queue?.descriptors ?? 0) >>> 0;
      case COMMON.QUEUE_DESC + 4:
        return Math.floor((queue?.descriptors ?? 0) / 2 ** 32);
      case COMMON.QUEUE_DRIVER:
        return (queue?.available ?? 0) >>> 0;
      case COMMON.QUEUE_DRIVER + 4:
        return Math.floor((queue?.available ?? 0) / 2 ** 32);
      case COMMON.QUEUE_DEVICE:
        return (queue?.used ?? 0) >>> 0;
      case COMMON.QUEUE_DEVICE + 4:
        return Math.floor((queue?.used ?? 0) / 2 ** 32);
      default:
        return 0;
    }
  }

  #offered(half: number): number {
    if (half === 0) return this.#device.features | FEATURE_LO.INDIRECT_DESC | FEATURE_LO.EVENT_IDX;
    return half === 1 ? FEATURE_HI.VERSION_1 : 0;
  }

  #writeCommon(at: number, size: AccessSize, value: number): void {
    const queue = this.#queue;
    switch (at) {
      case COMMON.DEVICE_FEATURE_SELECT:
        this.#deviceFeatureSelect = value >>> 0;
        return;
      case COMMON.DRIVER_FEATURE_SELECT:
        this.#driverFeatureSelect = value >>> 0;
        return;
      case COMMON.DRIVER_FEATURE:
        if (this.#driverFeatureSelect < 2 && !has(this.#status, DEVICE_STATUS.FEATURES_OK)) {
          this.#driverFeatures[this.#driverFeatureSelect] = value >>> 0;
        }
        return;
      case COMMON.CONFIG_MSIX_VECTOR:
        this.#configVector = this.#vector(value);
        return;
      case COMMON.DEVICE_STATUS:
        this.#setStatus(value & 0xff);
        return;
      case COMMON.QUEUE_SELECT:
        this.#queueSelect = value & 0xffff;
        return;
      case COMMON.QUEUE_MSIX_VECTOR:
        if (queue) queue.msixVector = this.#vector(value);
        return;
    }
    if (!queue || queue.enabled) return; // 4.1.4.3.2: the driver configures a queue before it enables it
    const half = (old: number) =>
      at % 8 === 0 ? Math.floor(old / 2 ** 32) * 2 ** 32 + (value >>> 0) : (old >>> 0) + (value & 0xf_ffff) * 2 ** 32;
    switch (at) {
      case COMMON.QUEUE_SIZE: // a power of two, and not more than there is
        if (value >= 1 && value <= queue.sizeMax && (value & (value - 1)) === 0) queue.size = value;
        return;
      case COMMON.QUEUE_ENABLE:
        if (value === 1) {
          queue.eventIndex = has(this.#driverFeatures[0]!, FEATURE_LO.EVENT_IDX);
          queue.enabled = true;
        }
        return;
      case COMMON.QUEUE_DESC:
      case COMMON.QUEUE_DESC + 4:
        if (size === 4) queue.descriptors = half(queue.descriptors);
        return;
      case COMMON.QUEUE_DRIVER:
      case COMMON.QUEUE_DRIVER + 4:
        if (size === 4) queue.available = half(queue.available);
        return;
      case COMMON.QUEUE_DEVICE:
      case COMMON.QUEUE_DEVICE + 4:
        if (size === 4) queue.used = half(queue.used);
    }
  }

  /** 4.1.5.1.2.1: a vector that is not there reads back as NO_VECTOR. */
  #vector(value: number): number {
    return (value & 0xffff) < this.#msix.vectors ? value & 0xffff : NO_VECTOR;
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.#resetDevice();
      return;
    }
    let status = value | (this.#status & DEVICE_STATUS.NEEDS_RESET);
    if (has(value, DEVICE_STATUS.FEATURES_OK) && !has(this.#status, DEVICE_STATUS.FEATURES_OK)) {
      // 2.2.2, 6: only offered bits, and VERSION_1, or the bit reads back as 0.
      const extra = [0, 1].some((half) => (this.#driverFeatures[half]! & ~this.#offered(half)) !== 0);
      if (extra || !has(this.#driverFeatures[1]!, FEATURE_HI.VERSION_1)) status &= ~DEVICE_STATUS.FEATURES_OK;
    }
    this.#status = status;
  }

  #resetDevice(): void {
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#driverFeatures = [0, 0];
    this.#configVector = NO_VECTOR;
    this.#status = 0;
    this.#queueSelect = 0;
    this.#isr = 0;
    this.pci.interrupt.set(false);
    for (const queue of this.#queues) queue.reset();
    this.#device.reset();
  }

  #notify(index: number): void {
    const queue = this.#queues[index];
    if (!queue || !has(this.#status, DEVICE_STATUS.DRIVER_OK) || has(this.#status, DEVICE_STATUS.NEEDS_RESET)) return;
    this.#device.serve(queue, index);
    if (queue.takeInterruptNeed()) this.#interrupt(ISR.QUEUE, queue.msixVector);
    if (queue.broken) {
      this.#status |= DEVICE_STATUS.NEEDS_RESET;
      this.#interrupt(ISR.CONFIGURATION, this.#configVector);
    }
  }

  #interrupt(cause: number, vector: number): void {
    if (this.#msix.enabled) {
      if (vector !== NO_VECTOR) this.#msix.signal(vector);
      return;
    }
    this.#isr |= cause;
    this.pci.interrupt.set(true);
  }

  #takeIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.pci.interrupt.set(false);
    return isr;
  }
}
