import { has } from '../../base/bits.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { physical } from '../layout.ts';
import { AVAIL_NO_INTERRUPT, DESCRIPTOR } from './registers.ts';

/** A piece of guest memory that a request consists of. */
export interface Segment {
  readonly address: number;
  readonly bytes: number;
}

/** One request: what the device may read, then what it may write. */
export interface Chain {
  readonly head: number;
  readonly readable: readonly Segment[];
  readonly writable: readonly Segment[];
}

/** A ring index goes round at 2^16. */
const ring16 = (value: number): number => value & 0xffff;

/**
 * A split virtqueue. Source: VIRTIO 1.2, 2.7 "Split Virtqueues".
 *
 * Owns    the walk of descriptors, direct and indirect, and the two rings.
 * Never   believes the guest: a chain that loops, points outside the table or puts a readable piece behind a writable
 *         one makes the queue `broken`, and its device asks for a reset.
 */
export class Virtqueue {
  readonly sizeMax: number;
  readonly #memory: GuestMemory;
  size: number;
  enabled = false;
  msixVector = 0xffff;
  /** Descriptor table, available ring ("driver area"), used ring ("device area"). */
  descriptors = 0;
  available = 0;
  used = 0;
  broken = false;
  eventIndex = false;
  #nextAvailable = 0;
  #nextUsed = 0;
  #signalledUsed = 0; // used index when the driver was last interrupted

  constructor(memory: GuestMemory, sizeMax: number) {
    this.#memory = memory;
    this.sizeMax = sizeMax;
    this.size = sizeMax;
  }

  reset(): void {
    this.size = this.sizeMax;
    this.enabled = false;
    this.msixVector = 0xffff;
    this.descriptors = 0;
    this.available = 0;
    this.used = 0;
    this.broken = false;
    this.eventIndex = false;
    this.#nextAvailable = 0;
    this.#nextUsed = 0;
    this.#signalledUsed = 0;
  }

  /** The next request, or undefined if the driver has made none or the queue is broken. */
  pop(): Chain | undefined {
    if (!this.enabled || this.broken) return undefined;
    const waiting = ring16(this.#memory.read16(physical(this.available + 2)) - this.#nextAvailable);
    if (waiting === 0) {
      // Ask to be told of the next one. Nothing can come in between: the guest does not run meanwhile.
      if (this.eventIndex) this.#memory.write16(physical(this.used + 4 + 8 * this.size), this.#nextAvailable);
      return undefined;
    }
    if (waiting > this.size) return this.#break(); // "more buffers than there are descriptors"
    const slot = this.#nextAvailable % this.size;
    const head = this.#memory.read16(physical(this.available + 4 + 2 * slot));
    this.#nextAvailable = ring16(this.#nextAvailable + 1);
    return this.#walk(head);
  }

  /** Gives a request back. `written` is how many bytes the device wrote into it. */
  push(chain: Chain, written: number): void {
    const at = this.used + 4 + 8 * (this.#nextUsed % this.size);
    this.#memory.write32(physical(at), chain.head);
    this.#memory.write32(physical(at + 4), written);
    this.#nextUsed = ring16(this.#nextUsed + 1);
    this.#memory.write16(physical(this.used + 2), this.#nextUsed);
  }

  /** After some `push`: does the driver want an interrupt? 2.7.10 "Available Buffer Notification Suppression". */
  takeInterruptNeed(): boolean {
    const before = this.#signalledUsed;
    const now = this.#nextUsed;
    if (now === before) return false;
    this.#signalledUsed = now;
    if (!this.eventIndex) return !has(this.#memory.read16(physical(this.available)), AVAIL_NO_INTERRUPT);
    const event = this.#memory.read16(physical(this.available + 4 + 2 * this.size));
    return ring16(now - event - 1) < ring16(now - before);
  }

  #break(): undefined {
    this.broken = true;
    return undefined;
  }

  #walk(head: number): Chain | undefined {
    const readable: Segment[] = [];
    const writable: Segment[] = [];
    let table = this.descriptors;
    let entries = this.size;
    let index = head;
    let indirect = false;
    let left = this.size; // a chain may have as many pieces as the queue has descriptors, indirect or not
    for (;;) {
      if (index >= entries || left === 0) return this.#break();
      left -= 1;
      const at = table + DESCRIPTOR.BYTES * index;
      const high = this.#memory.read32(physical(at + 4));
      if (high >= 2 ** 20) return this.#break(); // beyond 52 bits
      const address = high * 2 ** 32 + this.#memory.read32(physical(at));
      const bytes = this.#memory.read32(physical(at + 8));
      const flags = this.#memory.read16(physical(at + 12));
      const next = this.#memory.read16(physical(at + 14));
      if (has(flags, DESCRIPTOR.INDIRECT)) {
        // 2.7.5.3: one level, the last of its chain, whole descriptors.
        if (indirect || has(flags, DESCRIPTOR.NEXT) || bytes === 0 || bytes % DESCRIPTOR.BYTES !== 0)
          return this.#break();
        indirect = true;
        table = address;
        entries = bytes / DESCRIPTOR.BYTES;
        index = 0;
        left = this.size;
        continue;
      }
      if (has(flags, DESCRIPTOR.WRITE)) writable.push({ address, bytes });
      else if (writable.length > 0) return this.#break();
      else readable.push({ address, bytes });
      if (!has(flags, DESCRIPTOR.NEXT)) return { head, readable, writable };
      index = next;
    }
  }
}

/**
 * A list of segments as one run of bytes with a position. Copies stop at the end, or where guest memory has a hole.
 */
export class SegmentCursor {
  readonly #memory: GuestMemory;
  readonly #segments: readonly Segment[];
  #index = 0;
  #offset = 0;

  constructor(memory: GuestMemory, segments: readonly Segment[]) {
    this.#memory = memory;
    this.#segments = segments;
  }

  /** Bytes from the position to the end. */
  get left(): number {
    let sum = -this.#offset;
    for (let i = this.#index; i < this.#segments.length; i += 1) sum += this.#segments[i]!.bytes;
    return sum;
  }

  /** Copies out of the guest; returns how many bytes it got. */
  read(into: Uint8Array): number {
    return this.#each(into, (address, part) => this.#memory.copyOut(physical(address), part));
  }

  /** Copies into the guest. */
  write(bytes: Uint8Array): number {
    return this.#each(bytes, (address, part) => this.#memory.copyIn(physical(address), part));
  }

  skip(bytes: number): void {
    let left = bytes;
    while (left > 0 && this.#index < this.#segments.length) {
      const step = Math.min(left, this.#segments[this.#index]!.bytes - this.#offset);
      this.#advance(step);
      left -= step;
    }
  }

  #advance(bytes: number): void {
    this.#offset += bytes;
    if (this.#offset < this.#segments[this.#index]!.bytes) return;
    this.#index += 1;
    this.#offset = 0;
  }

  #each(buffer: Uint8Array, copy: (address: number, part: Uint8Array) => number): number {
    let done = 0;
    while (done < buffer.length && this.#index < this.#segments.length) {
      const segment = this.#segments[this.#index]!;
      const bytes = Math.min(buffer.length - done, segment.bytes - this.#offset);
      const copied = bytes === 0 ? 0 : copy(segment.address + this.#offset, buffer.subarray(done, done + bytes));
      done += copied;
      if (copied < bytes) return done;
      this.#advance(bytes);
    }
    return done;
  }
}
