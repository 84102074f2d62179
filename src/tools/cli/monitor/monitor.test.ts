import { describe, expect, test } from 'vitest';
import type { RegisterSnapshot } from '../../../inspect/registers.ts';
import { formatDump, parseDumpFormat } from './dump.ts';
import { evaluate } from './expression.ts';
import { splitCommand } from './monitor.ts';

const registers = {
  gpr: Array.from({ length: 16 }, (_, n) => BigInt(n) * 0x1_0000_0001n),
  rip: 0xffff_ffff_8100_0000n,
  rflags: 0x202,
  cr0: 0x8005_0033,
  cr2: 1n,
  cr3: 0x1000n,
  cr4: 0xb0,
  dr: [7n, 0n, 0n, 0n, 0n, 0n, 0n, 0n],
  segments: [{ name: 'GS', base: 0xffff_8880_0000_0000n }],
} as unknown as RegisterSnapshot;

describe('an address in the monitor', () => {
  test.each([
    ['0x10', 0x10n],
    ['16+0x10*2', 48n],
    ['$rip', 0xffff_ffff_8100_0000n],
    ['$eip', 0x8100_0000n],
    ['$rcx', 0x1_0000_0001n],
    ['$ecx', 1n],
    ['$r15-1', 0xf_0000_000en],
    ['$cr3 + 8', 0x1008n],
    ['$dr0', 7n],
    ['$gs_base+0x10', 0xffff_8880_0000_0010n],
    ['-1', 0xffff_ffff_ffff_ffffn],
  ])('%s', (text, value) => {
    expect(evaluate(text, registers)).toBe(value);
  });

  test.each([
    ['', 'found the end'],
    ['$nosuch', 'no register $nosuch'],
    ['$r16', 'no register $r16'],
    ['1 2', 'expected + or -, found 2'],
    ['here', 'found h'],
    ['1+', 'found the end'],
  ])('"%s" is none', (text, message) => {
    expect(() => evaluate(text, registers)).toThrow(message);
  });
});

describe('the format of a dump', () => {
  test.each([
    ['/8xg', { count: 8, as: 'x', bytes: 8 }],
    ['/x', { count: 1, as: 'x', bytes: 4 }],
    ['/16', { count: 16, as: 'x', bytes: 4 }],
    ['/3c', { count: 3, as: 'c', bytes: 1 }],
    ['/2dh', { count: 2, as: 'd', bytes: 2 }],
    ['/2hd', { count: 2, as: 'd', bytes: 2 }],
  ])('%s', (text, format) => {
    expect(parseDumpFormat(text)).toEqual(format);
  });

  test.each(['/8i', '/0x', '/5000x', 'x', '/x8'])('%s is none', (text) => {
    expect(() => parseDumpFormat(text)).toThrow(/no format|expected a count/);
  });
});

describe('a dump', () => {
  const bytes = Uint8Array.from([0x48, 0x69, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x80]);
  const dump = (format: string, valid = 16) => formatDump(0x1000n, bytes, valid, parseDumpFormat(format));

  test('shows sixteen bytes a line, each value little-endian', () => {
    expect(dump('/2xg')).toBe('0000000000001000: 0x04030201ffff6948 0x800b0a0908070605');
    expect(dump('/4xw')).toBe('0000000000001000: 0xffff6948 0x04030201 0x08070605 0x800b0a09');
  });

  test('shows signed, unsigned, octal and characters', () => {
    expect(dump('/2dh')).toBe('0000000000001000: 26952 -1');
    expect(dump('/2uh')).toBe('0000000000001000: 26952 65535');
    expect(dump('/1ob')).toBe('0000000000001000: 0110');
    expect(dump('/3c')).toBe(`0000000000001000: 'H' 'i' '\\xff'`);
  });

  test('breaks off where memory does, and says where', () => {
    expect(dump('/4xw', 6)).toBe('0000000000001000: 0xffff6948\nCannot access memory at 0x1006');
    expect(dump('/4xw', 0)).toBe('Cannot access memory at 0x1000');
  });
});

test('a format may follow the command without a space', () => {
  expect(splitCommand('x/8xg $rsp + 8')).toEqual({ name: 'x', args: ['/8xg', '$rsp', '+', '8'] });
  expect(splitCommand('  info   registers -a ')).toEqual({ name: 'info', args: ['registers', '-a'] });
  expect(splitCommand('')).toEqual({ name: '', args: [] });
});
