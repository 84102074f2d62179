import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOf, hexOf, PACKET_BYTES_MAX, PacketReader, packet, type Received } from './packets.ts';

const bytes = (text: string): Uint8Array => Uint8Array.from(text, (character) => character.charCodeAt(0));

/** A packet as it is sent, its escapes written by hand. */
const raw = (text: string): string => {
  const sum = bytes(text).reduce((all, byte) => (all + byte) & 0xff, 0);
  return `$${text}#${sum.toString(16).padStart(2, '0')}`;
};

function read(...chunks: (string | Uint8Array)[]): Received[] {
  const reader = new PacketReader();
  const found: Received[] = [];
  for (const chunk of chunks)
    reader.feed(typeof chunk === 'string' ? bytes(chunk) : chunk, (received) => found.push(received));
  return found;
}

describe('what a stream of bytes says', () => {
  test('is a command if the checksum is that of its bytes', () => {
    expect(read('$g#67')).toEqual([{ kind: 'command', text: 'g' }]);
    expect(read('$#00')).toEqual([{ kind: 'command', text: '' }]);
    expect(read('$g#68')).toEqual([{ kind: 'damaged' }]);
    expect(read('$g#6x')).toEqual([{ kind: 'damaged' }]);
  });

  test('is the same however it is cut', () => {
    const stream = `+${raw('m1000,8')}-\x03$g#67`;
    const whole = read(stream);
    expect(whole.map(({ kind }) => kind)).toEqual(['ack', 'command', 'resend', 'break', 'command']);
    expect(read(...stream)).toEqual(whole);
  });

  test('has its escapes resolved behind the checksum', () => {
    expect(read(raw('X0,3:}]}\x03}\x04'))).toEqual([{ kind: 'command', text: 'X0,3:}#$' }]);
    expect(read(raw('X0,1:}'))).toEqual([{ kind: 'damaged' }]);
  });

  test('is Ctrl-C only between packets', () => {
    expect(read(raw('X0,1:\x03'))).toEqual([{ kind: 'command', text: 'X0,1:\x03' }]);
  });

  test('loses a packet that another one interrupts, and noise between packets', () => {
    expect(read('xx$m100$g#67\r\n')).toEqual([{ kind: 'command', text: 'g' }]);
  });

  test('is damaged if it is longer than was agreed, and the next packet is whole', () => {
    expect(read(`$${'a'.repeat(PACKET_BYTES_MAX + 1)}#00$g#67`).map(({ kind }) => kind)).toEqual([
      'damaged',
      'command',
    ]);
  });
});

test('what is put into a packet comes out of it, whatever bytes it has', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (data) => {
      const text = String.fromCharCode(...data);
      expect(read(packet(text))).toEqual([{ kind: 'command', text }]);
    }),
  );
  expect(packet('a*b')).toEqual(bytes('$a}\nb#4a'));
});

test('bytes are written in hexadecimal and read again', () => {
  expect(hexOf(Uint8Array.of(0, 0xab, 16))).toBe('00ab10');
  expect(bytesOf('00AB10')).toEqual(Uint8Array.of(0, 0xab, 16));
  expect(bytesOf('')).toEqual(Uint8Array.of());
  expect(bytesOf('0')).toBeNull();
  expect(bytesOf('0g')).toBeNull();
});
