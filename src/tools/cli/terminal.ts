import type { Writable } from 'node:stream';

const CHUNK_BYTES = 4096;

/**
 * Bytes on their way to stdout. They are collected while the guest runs and written between two slices; a reader that
 * is slower than the guest holds the guest back, so memory stays bounded.
 */
export class Output {
  readonly #stream: Writable;
  #buffer = new Uint8Array(CHUNK_BYTES);
  #used = 0;

  constructor(stream: Writable) {
    this.#stream = stream;
    // `| head` closes the pipe: nobody listens any more, which is no fault
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error;
      process.exit(0);
    });
  }

  byte(value: number): void {
    if (this.#used === this.#buffer.length) {
      const larger = new Uint8Array(2 * this.#used);
      larger.set(this.#buffer);
      this.#buffer = larger;
    }
    this.#buffer[this.#used++] = value;
  }

  text(text: string): void {
    for (const byte of new TextEncoder().encode(text)) this.byte(byte);
  }

  /** Comes back when the stream can take more. */
  async flush(): Promise<void> {
    if (this.#used === 0) return;
    const bytes = this.#buffer.slice(0, this.#used);
    this.#used = 0;
    if (!this.#stream.write(bytes)) await new Promise<void>((resolve) => this.#stream.once('drain', () => resolve()));
  }

  /** The same without waiting, for the way out. */
  flushNow(): void {
    if (this.#used > 0) this.#stream.write(this.#buffer.slice(0, this.#used));
    this.#used = 0;
  }
}

/**
 * stdin as the guest's keyboard. On a terminal: raw, so that every key reaches the guest; put back on every way out.
 *
 * Owns  the terminal's mode.
 */
export class Input {
  readonly isTerminal = process.stdin.isTTY === true;
  /** No more bytes can come. */
  ended = false;
  #started = false;

  start(received: (bytes: Uint8Array) => void, ended: () => void): void {
    this.#started = true;
    if (this.isTerminal) {
      process.stdin.setRawMode(true);
      process.on('exit', () => this.restore());
    }
    process.stdin.on('data', (chunk: Buffer) => received(new Uint8Array(chunk)));
    const end = () => {
      this.ended = true;
      ended();
    };
    process.stdin.on('end', end);
    process.stdin.on('error', end);
  }

  /** The terminal as it was; nothing is read any more. */
  restore(): void {
    if (!this.#started) return;
    this.#started = false;
    if (this.isTerminal) process.stdin.setRawMode(false);
    process.stdin.pause();
    process.stdin.unref?.();
  }
}
