/**
 * GDB's remote serial protocol below its commands: packets, checksums, acknowledgements, escapes.
 *
 * Knows   no command.
 * Source  Debugging with GDB, appendix E "GDB Remote Serial Protocol": E.1 "Overview", E.11 "Packet Acknowledgment".
 */

/** What came in: a command; an acknowledgement or a request to send again; Ctrl-C; a packet that was damaged. */
export type Received =
  | { readonly kind: 'command'; readonly text: string }
  | { readonly kind: 'ack' | 'resend' | 'break' | 'damaged' };

/** Most bytes of a command, escapes included: told to gdb as PacketSize. */
export const PACKET_BYTES_MAX = 0x4000;

const DOLLAR = 0x24;
const HASH = 0x23;
const ESCAPE = 0x7d;
const BREAK = 0x03;

/** Cuts a stream of bytes into what it means. A command's text has a character a byte. */
export class PacketReader {
  /** Between packets; in one; at the first and at the second digit of its checksum. */
  #state: 'between' | 'in' | 'first' | 'second' = 'between';
  #text = '';
  #bytes = 0;
  #sum = 0;
  #escaped = false;
  #checksum = '';

  /** Hands on each thing as it is complete. */
  feed(bytes: Uint8Array, received: (what: Received) => void): void {
    for (const byte of bytes) {
      switch (this.#state) {
        case 'between':
          if (byte === DOLLAR) this.#begin();
          else if (byte === 0x2b) received({ kind: 'ack' });
          else if (byte === 0x2d) received({ kind: 'resend' });
          else if (byte === BREAK) received({ kind: 'break' });
          break;
        case 'in':
          this.#inside(byte);
          break;
        case 'first':
          this.#checksum = String.fromCharCode(byte);
          this.#state = 'second';
          break;
        case 'second':
          this.#checksum += String.fromCharCode(byte);
          this.#state = 'between';
          received(this.#isGood() ? { kind: 'command', text: this.#text } : { kind: 'damaged' });
      }
    }
  }

  #begin(): void {
    this.#state = 'in';
    this.#text = '';
    this.#bytes = 0;
    this.#sum = 0;
    this.#escaped = false;
  }

  #inside(byte: number): void {
    if (byte === HASH) {
      this.#state = 'first';
      return;
    }
    // The beginning of another one: the end of this one was lost
    if (byte === DOLLAR) {
      this.#begin();
      return;
    }
    this.#bytes += 1;
    this.#sum = (this.#sum + byte) & 0xff;
    if (this.#bytes > PACKET_BYTES_MAX) return;
    if (!this.#escaped && byte === ESCAPE) this.#escaped = true;
    else {
      this.#text += String.fromCharCode(this.#escaped ? byte ^ 0x20 : byte);
      this.#escaped = false;
    }
  }

  #isGood(): boolean {
    return (
      /^[\da-f]{2}$/i.test(this.#checksum) &&
      Number.parseInt(this.#checksum, 16) === this.#sum &&
      this.#bytes <= PACKET_BYTES_MAX &&
      !this.#escaped
    );
  }
}

/** A packet around a text that has a character a byte. */
export function packet(text: string): Uint8Array {
  const bytes: number[] = [DOLLAR];
  let sum = 0;
  const put = (byte: number) => {
    bytes.push(byte);
    sum = (sum + byte) & 0xff;
  };
  for (let i = 0; i < text.length; i += 1) {
    const byte = text.charCodeAt(i) & 0xff;
    // "*" would begin a run length
    if (byte === DOLLAR || byte === HASH || byte === ESCAPE || byte === 0x2a) {
      put(ESCAPE);
      put(byte ^ 0x20);
    } else put(byte);
  }
  bytes.push(HASH, ...[...sum.toString(16).padStart(2, '0')].map((digit) => digit.charCodeAt(0)));
  return Uint8Array.from(bytes);
}

export const hexOf = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

/** `null` if it is not a whole number of bytes in hexadecimal. */
export function bytesOf(hex: string): Uint8Array | null {
  if (!/^([\da-f]{2})*$/i.test(hex)) return null;
  return Uint8Array.from(hex.match(/../g) ?? [], (digits) => Number.parseInt(digits, 16));
}
