import type { BlockStore } from '../../pc/virtio/block.ts';

const CHUNK_BYTES = 4096;

/** A disk whose writes are kept in memory: what lies under it stays as it is. */
export class SnapshotStore implements BlockStore {
  readonly sizeBytes: number;
  readonly readOnly = false;
  readonly #under: BlockStore;
  readonly #written = new Map<number, Uint8Array>();

  constructor(under: BlockStore) {
    this.#under = under;
    this.sizeBytes = under.sizeBytes;
  }

  read(offset: number, into: Uint8Array): void {
    this.#pieces(offset, into.length, (chunk, at, from, bytes) => {
      const written = this.#written.get(chunk);
      const part = into.subarray(from, from + bytes);
      if (written) part.set(written.subarray(at, at + bytes));
      else this.#under.read(chunk * CHUNK_BYTES + at, part);
    });
  }

  write(offset: number, from: Uint8Array): void {
    this.#pieces(offset, from.length, (chunk, at, source, bytes) => {
      let written = this.#written.get(chunk);
      if (!written) {
        const start = chunk * CHUNK_BYTES;
        written = new Uint8Array(Math.min(CHUNK_BYTES, this.sizeBytes - start));
        if (bytes < written.length) this.#under.read(start, written);
        this.#written.set(chunk, written);
      }
      written.set(from.subarray(source, source + bytes), at);
    });
  }

  flush(): void {
    // It ends with the machine
  }

  #pieces(
    offset: number,
    length: number,
    take: (chunk: number, at: number, from: number, bytes: number) => void,
  ): void {
    for (let done = 0; done < length; ) {
      const chunk = Math.floor((offset + done) / CHUNK_BYTES);
      const at = (offset + done) % CHUNK_BYTES;
      const bytes = Math.min(length - done, CHUNK_BYTES - at);
      take(chunk, at, done, bytes);
      done += bytes;
    }
  }
}
