import type { Virtqueue } from './queue.ts';

/** What a kind of virtio device is, apart from how it is plugged in. */
export interface VirtioDevice {
  readonly name: string;
  /** VIRTIO 1.2, 5 "Device Types". */
  readonly id: number;
  /** PCI class, subclass and interface. */
  readonly classCode: number;
  /** Its own feature bits, 31:0. The transport adds the common ones. */
  readonly features: number;
  /** Sizes of its queues, each a power of two. */
  readonly queueSizes: readonly number[];
  /** Bytes of its configuration structure. */
  readonly configuration: Uint8Array;
  /** The driver has put requests into a queue: serve all of them. */
  serve(queue: Virtqueue, index: number): void;
  reset(): void;
}
