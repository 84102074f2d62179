/**
 * A growing byte buffer with WebAssembly's number encodings.
 *
 * Source  WebAssembly Core Specification 2.0, 5.2.2 "Integers" (LEB128) and 5.2.3 "Floating-Point".
 */
export class Bytes {
  buffer: Uint8Array;
  length = 0;

  constructor(capacity = 1024) {
    this.buffer = new Uint8Array(capacity);
  }

  reserve(count: number): void {
    if (this.length + count <= this.buffer.length) return;
    const grown = new Uint8Array(Math.max(this.buffer.length * 2, this.length + count));
    grown.set(this.buffer.subarray(0, this.length));
    this.buffer = grown;
  }

  byte(value: number): void {
    if (this.length === this.buffer.length) this.reserve(1);
    this.buffer[this.length++] = value;
  }

  /** Unsigned LEB128 of a value below 2^32. */
  u32(value: number): void {
    if (value >= 0 && value < 0x80) {
      this.byte(value);
      return;
    }
    let rest = value >>> 0;
    while (rest > 0x7f) {
      this.byte((rest & 0x7f) | 0x80);
      rest >>>= 7;
    }
    this.byte(rest);
  }

  /** Signed LEB128 of a 32-bit value. */
  s32(value: number): void {
    let rest = value | 0;
    for (;;) {
      const seven = rest & 0x7f;
      rest >>= 7;
      if ((rest === 0 && (seven & 0x40) === 0) || (rest === -1 && (seven & 0x40) !== 0)) {
        this.byte(seven);
        return;
      }
      this.byte(seven | 0x80);
    }
  }

  /** Signed LEB128 of a 64-bit value given as halves. */
  s64(low: number, high: number): void {
    let lo = low | 0;
    let hi = high | 0;
    for (;;) {
      const seven = lo & 0x7f;
      lo = (lo >>> 7) | (hi << 25);
      hi >>= 7;
      if ((lo === 0 && hi === 0 && (seven & 0x40) === 0) || (lo === -1 && hi === -1 && (seven & 0x40) !== 0)) {
        this.byte(seven);
        return;
      }
      this.byte(seven | 0x80);
    }
  }

  f64(value: number): void {
    this.reserve(8);
    new DataView(this.buffer.buffer).setFloat64(this.length, value, true);
    this.length += 8;
  }

  f32(value: number): void {
    this.reserve(4);
    new DataView(this.buffer.buffer).setFloat32(this.length, value, true);
    this.length += 4;
  }

  append(other: Bytes): void {
    this.reserve(other.length);
    this.buffer.set(other.buffer.subarray(0, other.length), this.length);
    this.length += other.length;
  }

  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** ASCII. */
  name(text: string): void {
    this.u32(text.length);
    for (let i = 0; i < text.length; i += 1) this.byte(text.charCodeAt(i));
  }

  /** Moves the bytes from `middle` on in front of those from `at` to there. */
  rotate(at: number, middle: number): void {
    const moved = this.buffer.slice(middle, this.length);
    this.buffer.copyWithin(at + moved.length, at, middle);
    this.buffer.set(moved, at);
  }

  /** What was written; nothing more is to be. */
  done(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}

/** Bytes that a number takes as an unsigned LEB128. */
export function u32Bytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;
}
