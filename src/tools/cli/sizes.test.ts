import { describe, expect, test } from 'vitest';
import { UserError } from '../../base/assert.ts';
import { parseInteger, parseProperties, parseSize, parseSwitch } from './sizes.ts';

describe('sizes', () => {
  test.each([
    ['512M', 512 * 2 ** 20],
    ['2G', 2 ** 31],
    ['2g', 2 ** 31],
    ['64', 64 * 2 ** 20],
    ['1.5G', 1.5 * 2 ** 30],
    ['4096K', 4 * 2 ** 20],
    ['1T', 2 ** 40],
    ['16MiB', 16 * 2 ** 20],
    ['8192b', 8192],
    ['0', 0],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize('-m', text, 'm')).toBe(bytes);
  });

  test('a fraction of a byte is cut off', () => {
    expect(parseSize('-m', '3.9G', 'm')).toBe(Math.floor(3.9 * 2 ** 30));
  });

  test.each(['', 'abc', '-5', '12X', '0x10', '1e3', '1 2', 'M', '99999999999999T'])('"%s" is refused', (text) => {
    expect(() => parseSize('-m', text, 'm')).toThrow(UserError);
    expect(() => parseSize('-m', text, 'm')).toThrow(/^-m .*expected/);
  });
});

describe('whole numbers', () => {
  test('decimal, hexadecimal, both bounds inclusive', () => {
    expect(parseInteger('-x', '0xf4', 0, 0xf4)).toBe(0xf4);
    expect(parseInteger('-x', '0', 0, 0xf4)).toBe(0);
  });

  test.each(['245', '-1', '', '1.5', 'ten', '0x'])('"%s" is refused where 0 to 244 is asked for', (text) => {
    expect(() => parseInteger('-x', text, 0, 0xf4)).toThrow(/from 0 to 244/);
  });
});

test('on and off have the spellings of QEMU, and nothing else is either', () => {
  expect(['on', 'yes', 'true', ''].map((text) => parseSwitch('-x', text))).toEqual([true, true, true, true]);
  expect(['off', 'no', 'false'].map((text) => parseSwitch('-x', text))).toEqual([false, false, false]);
  expect(() => parseSwitch('-x', 'maybe')).toThrow('-x=maybe: expected on or off.');
});

describe('comma lists', () => {
  test('a first part without a name gets the one it stands for', () => {
    expect([...parseProperties('isa-debug-exit,iobase=0xf4,iosize=4', 'driver')]).toEqual([
      ['driver', 'isa-debug-exit'],
      ['iobase', '0xf4'],
      ['iosize', '4'],
    ]);
  });

  test('a doubled comma is one in a value, an equals sign after the first belongs to the value', () => {
    expect([...parseProperties('file=a,,b,serial=x=y')]).toEqual([
      ['file', 'a,b'],
      ['serial', 'x=y'],
    ]);
    expect([...parseProperties('file=a,,,serial=x')]).toEqual([
      ['file', 'a,'],
      ['serial', 'x'],
    ]);
  });

  test('a later part without a value is a name alone', () => {
    expect([...parseProperties('a=1,readonly', 'file')]).toEqual([
      ['a', '1'],
      ['readonly', ''],
    ]);
  });
});
