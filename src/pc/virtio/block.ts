import { assert } from '../../base/assert.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ascii, ByteWriter, readLittleEndian } from '../bytes.ts';
import type { VirtioDevice } from './device.ts';
import { type Chain, SegmentCursor, type Virtqueue } from './queue.ts';
import { FEATURE_LO } from './registers.ts';

/** What a disk is made of. All calls are synchronous; one that throws becomes an I/O error for the guest. */
export interface BlockStore {
  /** A multiple of 512. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Fills `into` from `offset` on; the range is inside the disk. */
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  /** What was written before survives the machine's end. */
  flush(): void;
}

/** VIRTIO 1.2, 5.2.6 "Device Operation": request types and status. */
const REQUEST = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, WRITE_ZEROES: 13 } as const;
const STATUS = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;
const HEADER_BYTES = 16;
const ID_BYTES = 20;
const SECTOR_BYTES = 512;
const QUEUE_SIZE = 256;
/** 5.2.4: data segments per request: the queue's size without header and status. */
const SEGMENTS_MAX = QUEUE_SIZE - 2;
const COPY_BYTES = 0x1_0000;
/** Of DISCARD and WRITE_ZEROES: {u64 sector, u32 sectors, u32 flags}. */
const RANGE_BYTES = 16;
const RANGE_UNMAP = 1;
/** 5.2.4: at most so many ranges and sectors a request. Zeros are written, so that a request must not take long. */
const RANGES_MAX = 64;
const DISCARD_SECTORS_MAX = 1 << 22;
const ZEROES_SECTORS_MAX = 1 << 15;

/**
 * Block device. Source: VIRTIO 1.2, 5.2 "Block Device".
 *
 * Makes no assumption on how a request is cut into descriptors (2.7.4.3 "Message Framing"): the header is the first 16
 * bytes the device may read, the status the last byte it may write.
 */
export class VirtioBlock implements VirtioDevice {
  readonly name = 'virtio-blk';
  readonly id = 2;
  readonly classCode = 0x01_0000;
  readonly features: number;
  readonly queueSizes = [QUEUE_SIZE];
  readonly configuration: Uint8Array;
  readonly #store: BlockStore;
  readonly #memory: GuestMemory;
  readonly #serial: Uint8Array;
  readonly #header = new Uint8Array(HEADER_BYTES);
  readonly #buffer = new Uint8Array(COPY_BYTES);

  /** @param serial  What GET_ID answers: at most 20 characters. */
  constructor(wires: { memory: GuestMemory; store: BlockStore; serial?: string }) {
    assert(wires.store.sizeBytes % SECTOR_BYTES === 0, 'a disk consists of whole sectors');
    this.#memory = wires.memory;
    this.#store = wires.store;
    this.#serial = new ByteWriter().bytes(ascii(wires.serial ?? '').subarray(0, ID_BYTES)).done();
    this.features =
      FEATURE_LO.BLK_SEG_MAX |
      FEATURE_LO.BLK_BLK_SIZE |
      FEATURE_LO.BLK_FLUSH |
      (wires.store.readOnly ? FEATURE_LO.BLK_RO : FEATURE_LO.BLK_DISCARD | FEATURE_LO.BLK_WRITE_ZEROES);
    // 5.2.4: capacity, size_max, seg_max, geometry, blk_size; topology, writeback and queues are not offered; limits of
    // DISCARD (sectors, ranges, alignment) and of WRITE_ZEROES (sectors, ranges, whether it may unmap)
    this.configuration = new ByteWriter()
      .u64(wires.store.sizeBytes / SECTOR_BYTES)
      .u32(0)
      .u32(SEGMENTS_MAX)
      .zeros(4)
      .u32(SECTOR_BYTES)
      .zeros(12)
      .u32(DISCARD_SECTORS_MAX)
      .u32(RANGES_MAX)
      .u32(1)
      .u32(ZEROES_SECTORS_MAX)
      .u32(RANGES_MAX)
      .u8(0, 0, 0, 0)
      .done();
  }

  reset(): void {
    // A request is over before the guest runs on: there is nothing to take back.
  }

  serve(queue: Virtqueue): void {
    for (let chain = queue.pop(); chain; chain = queue.pop()) {
      const written = this.#serveOne(chain);
      if (written < 0) {
        queue.broken = true; // no room for a status: nothing can be said
        return;
      }
      queue.push(chain, written);
    }
  }

  /** Returns how many bytes were written into the chain, or -1 if it cannot even hold a status. */
  #serveOne(chain: Chain): number {
    const out = new SegmentCursor(this.#memory, chain.readable);
    const into = new SegmentCursor(this.#memory, chain.writable);
    const room = into.left - 1;
    if (room < 0) return -1;
    let status: number = STATUS.IOERR;
    if (out.read(this.#header) === HEADER_BYTES) {
      const type = readLittleEndian(this.#header, 0, 4);
      const sectorHigh = readLittleEndian(this.#header, 12, 4);
      const sector = sectorHigh * 2 ** 32 + readLittleEndian(this.#header, 8, 4);
      status = this.#perform(type, sector * SECTOR_BYTES, out, into, room);
    }
    into.skip(into.left - 1);
    into.write(Uint8Array.of(status));
    return room + 1;
  }

  #perform(type: number, offset: number, out: SegmentCursor, into: SegmentCursor, room: number): number {
    try {
      switch (type) {
        case REQUEST.IN:
          return this.#read(offset, into, room);
        case REQUEST.OUT:
          return this.#write(offset, out);
        case REQUEST.DISCARD:
        case REQUEST.WRITE_ZEROES:
          return this.#ranges(type, out);
        case REQUEST.FLUSH:
          this.#store.flush();
          return STATUS.OK;
        case REQUEST.GET_ID: {
          const id = new Uint8Array(Math.min(ID_BYTES, room));
          id.set(this.#serial.subarray(0, id.length));
          return into.write(id) === id.length ? STATUS.OK : STATUS.IOERR;
        }
        default:
          return STATUS.UNSUPP;
      }
    } catch {
      return STATUS.IOERR; // the host's disk failed, not the machine
    }
  }

  #inside(offset: number, bytes: number): boolean {
    return bytes % SECTOR_BYTES === 0 && offset + bytes <= this.#store.sizeBytes;
  }

  #read(offset: number, into: SegmentCursor, bytes: number): number {
    if (!this.#inside(offset, bytes)) return STATUS.IOERR;
    for (let done = 0; done < bytes; ) {
      const part = this.#buffer.subarray(0, Math.min(COPY_BYTES, bytes - done));
      this.#store.read(offset + done, part);
      if (into.write(part) < part.length) return STATUS.IOERR;
      done += part.length;
    }
    return STATUS.OK;
  }

  /**
   * 5.2.6.2 "Device Requirements: Device Operation". What is discarded keeps its content, which is one of those it may
   * have: a file of the host cannot be punched from here.
   */
  #ranges(type: number, out: SegmentCursor): number {
    const zeroes = type === REQUEST.WRITE_ZEROES;
    const count = out.left / RANGE_BYTES;
    if (this.#store.readOnly || !Number.isInteger(count) || count === 0 || count > RANGES_MAX) return STATUS.IOERR;
    const ranges = new Uint8Array(out.left);
    if (out.read(ranges) < ranges.length) return STATUS.IOERR;
    const found: { offset: number; bytes: number }[] = [];
    for (let at = 0; at < ranges.length; at += RANGE_BYTES) {
      const flags = readLittleEndian(ranges, at + 12, 4);
      if ((flags & ~(zeroes ? RANGE_UNMAP : 0)) !== 0) return STATUS.UNSUPP;
      const sectors = readLittleEndian(ranges, at + 8, 4);
      const sector = readLittleEndian(ranges, at + 4, 4) * 2 ** 32 + readLittleEndian(ranges, at, 4);
      const range = { offset: sector * SECTOR_BYTES, bytes: sectors * SECTOR_BYTES };
      if (!this.#inside(range.offset, range.bytes)) return STATUS.IOERR;
      if (sectors > (zeroes ? ZEROES_SECTORS_MAX : DISCARD_SECTORS_MAX)) return STATUS.IOERR;
      found.push(range);
    }
    if (zeroes) {
      this.#buffer.fill(0);
      for (const { offset, bytes } of found) {
        for (let done = 0; done < bytes; done += COPY_BYTES) {
          this.#store.write(offset + done, this.#buffer.subarray(0, Math.min(COPY_BYTES, bytes - done)));
        }
      }
    }
    return STATUS.OK;
  }

  #write(offset: number, out: SegmentCursor): number {
    const bytes = out.left;
    if (this.#store.readOnly || !this.#inside(offset, bytes)) return STATUS.IOERR;
    for (let done = 0; done < bytes; ) {
      const part = this.#buffer.subarray(0, Math.min(COPY_BYTES, bytes - done));
      if (out.read(part) < part.length) return STATUS.IOERR;
      this.#store.write(offset + done, part);
      done += part.length;
    }
    return STATUS.OK;
  }
}
