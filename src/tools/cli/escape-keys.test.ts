import { expect, test } from 'vitest';
import { EscapeKeys } from './escape-keys.ts';
import { LineEditor } from './line-editor.ts';

const bytes = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
const feed = (keys: EscapeKeys, text: string) =>
  keys.feed(bytes(text)).map((part) => (typeof part === 'string' ? `<${part}>` : String.fromCharCode(...part)));

test('what is typed passes through untouched', () => {
  expect(feed(new EscapeKeys(), 'ls\x03\x1b[A')).toEqual(['ls\x03\x1b[A']);
  expect(feed(new EscapeKeys(), '')).toEqual([]);
});

test('Ctrl-a and a key are actions, in their place', () => {
  expect(feed(new EscapeKeys(), 'ab\x01ccd\x01hx\x01x')).toEqual(['ab', '<monitor>', 'cd', '<help>', 'x', '<quit>']);
});

test('a Ctrl-a at the end of a chunk waits for the next', () => {
  const keys = new EscapeKeys();
  expect(feed(keys, 'a\x01')).toEqual(['a']);
  expect(feed(keys, 'xb')).toEqual(['<quit>', 'b']);
});

test('Ctrl-a twice is one Ctrl-a, and an unknown key is swallowed', () => {
  expect(feed(new EscapeKeys(), '\x01\x01a\x01zb')).toEqual(['\x01', 'a', 'b']);
});

test('the line editor takes back characters, forgets the line, and recalls earlier ones', () => {
  const lines: string[] = [];
  let echo = '';
  const editor = new LineEditor('> ', (text) => {
    echo += text;
  });
  const type = (text: string) => editor.feed(bytes(text), (line) => lines.push(line));
  type('infx\x7fo\r');
  type('wrong\x15right\n');
  type('dropped\x03kept\r');
  type('\x1b[A\x1b[A\x1b[B!\r');
  type('\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r');
  type('\x1bOP\x1b[3~plain\r');
  expect(lines).toEqual(['info', 'right', 'kept', 'kept!', 'info', 'Pplain']);
  expect(echo).toContain('infx\b \bo\n');
});
