import type { GuestMemory } from '../../contracts/memory.ts';
import type { VirtioDevice } from './device.ts';
import { SegmentCursor, type Virtqueue } from './queue.ts';

const COPY_BYTES = 4096;
/** A request is filled up to here; "the device MAY write less" (5.4.6.2). */
const REQUEST_BYTES_MAX = 0x1_0000;

/** Entropy device. Source: VIRTIO 1.2, 5.4 "Entropy Device". */
export class VirtioRandom implements VirtioDevice {
  readonly name = 'virtio-rng';
  readonly id = 4;
  readonly classCode = 0x00_ff00;
  readonly features = 0;
  readonly queueSizes = [8];
  readonly configuration = new Uint8Array(0);
  readonly #memory: GuestMemory;
  readonly #fill: (into: Uint8Array) => void;
  readonly #buffer = new Uint8Array(COPY_BYTES);

  /** @param fill  Random bytes: the machine's own sequence, so that a run repeats. */
  constructor(wires: { memory: GuestMemory; fill: (into: Uint8Array) => void }) {
    this.#memory = wires.memory;
    this.#fill = wires.fill;
  }

  reset(): void {
    // Requests are over before the guest runs on.
  }

  serve(queue: Virtqueue): void {
    for (let chain = queue.pop(); chain; chain = queue.pop()) {
      const into = new SegmentCursor(this.#memory, chain.writable);
      const wanted = Math.min(into.left, REQUEST_BYTES_MAX);
      let done = 0;
      while (done < wanted) {
        const part = this.#buffer.subarray(0, Math.min(COPY_BYTES, wanted - done));
        this.#fill(part);
        const written = into.write(part);
        done += written;
        if (written < part.length) break;
      }
      queue.push(chain, done);
    }
  }
}
