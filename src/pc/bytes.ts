import { high32, low32 } from '../base/bits.ts';

/** Text as bytes. Characters beyond 0xff become `?`; UTF-8 is the caller's affair. */
export function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => {
    const code = character.charCodeAt(0);
    return code <= 0xff ? code : 0x3f;
  });
}

/** UTF-8, because `TextEncoder` is not part of the language. What a kernel's command line is encoded in. */
export function utf8(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code < 0x80) bytes.push(code);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 0x3f));
    else if (code < 0x1_0000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    else
      bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 0x3f), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
  }
  return Uint8Array.from(bytes);
}

/** A zero-terminated string, as C has it. */
export const cString = (text: string): Uint8Array => Uint8Array.from([...utf8(text), 0]);

/** Builds little-endian structures front to back. For set-up, not for hot paths. */
export class ByteWriter {
  readonly #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  u8(...values: number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff);
    return this;
  }

  u16(value: number): this {
    return this.u8(value, value >>> 8);
  }

  u32(value: number): this {
    return this.u8(value, value >>> 8, value >>> 16, value >>> 24);
  }

  /** @param value  A non-negative integer of at most 53 bits. */
  u64(value: number): this {
    return this.u32(low32(value)).u32(high32(value));
  }

  bytes(values: ArrayLike<number>): this {
    for (let i = 0; i < values.length; i += 1) this.#bytes.push(values[i]!);
    return this;
  }

  /** Text in a field of fixed length: cut off, or filled with `fill`. */
  text(text: string, bytes: number, fill = 0): this {
    const raw = ascii(text);
    for (let i = 0; i < bytes; i += 1) this.#bytes.push(raw[i] ?? fill);
    return this;
  }

  zeros(count: number): this {
    for (let i = 0; i < count; i += 1) this.#bytes.push(0);
    return this;
  }

  alignTo(bytes: number): this {
    while (this.#bytes.length % bytes !== 0) this.#bytes.push(0);
    return this;
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** A little-endian value of one, two or four bytes at `offset`; bytes beyond the end read as zero. */
export function readLittleEndian(bytes: Uint8Array, offset: number, size: number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i -= 1) value = value * 256 + (bytes[offset + i] ?? 0);
  return value;
}

/** Stores the low `size` bytes; what lies beyond the end is dropped. */
export function writeLittleEndian(bytes: Uint8Array, offset: number, size: number, value: number): void {
  for (let i = 0; i < size; i += 1) if (offset + i < bytes.length) bytes[offset + i] = (value >>> (8 * i)) & 0xff;
}
