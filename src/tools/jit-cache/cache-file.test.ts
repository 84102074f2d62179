import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CacheFile, type CacheFileOptions } from './cache-file.ts';

const digest = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('binary');
const key = (name: string): string => digest(Buffer.from(name));
const bytesOf = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);
const DAY = 86_400;

let folder: string;
let now = 0;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'terrarium-cache-file-'));
  now = 1_000_000;
});
afterEach(() => rmSync(folder, { recursive: true }));

const name = 'a'.repeat(32);
const open = (more: Partial<CacheFileOptions> = {}): CacheFile =>
  new CacheFile({
    path: join(folder, `${name}.jit`),
    identity: key('this build'),
    digest,
    bytesMax: 1e6,
    now: () => now,
    ...more,
  });
const write = (file: CacheFile): number => [...file.write()].length;
const put = (file: CacheFile, what: string, bytes = 1000, functions = 1): void =>
  file.put(key(what), bytesOf(bytes, what.charCodeAt(0)), bytesOf(bytes, what.charCodeAt(0) ^ 0xff), functions);
const has = (file: CacheFile, what: string): boolean => file.code(key(what)) !== undefined;

describe('a file of modules', () => {
  test('gives bytes and code of what was put into it, before and after it is written, and in another process', () => {
    const file = open();
    put(file, 'module');
    const wire = bytesOf(1000, 'm'.charCodeAt(0));
    const code = bytesOf(1000, 'm'.charCodeAt(0) ^ 0xff);
    const isThere = (each: CacheFile) => {
      expect(each.wire(key('module'))).toEqual(wire);
      expect(new Uint8Array(each.code(key('module'))!)).toEqual(code);
      expect(each.functions(key('module'))).toBe(1);
      expect(each.functions(key('another'))).toBe(-1);
    };
    isThere(file);
    write(file);
    isThere(file);
    isThere(open());
  });

  test('has at most as many bytes as it may: what was used last stays', () => {
    const file = open({ bytesMax: 8000 });
    for (const what of ['a', 'b', 'c']) {
      now += 100;
      put(file, what);
      write(file);
    }
    now += 100;
    expect(has(file, 'a')).toBe(true); // is used
    put(file, 'd');
    write(file);
    expect(['a', 'b', 'c', 'd'].map((what) => has(open({ bytesMax: 8000 }), what))).toEqual([true, false, true, true]);
  });

  test('is not written where nothing is new, but once a day for the time of use', () => {
    const first = open();
    put(first, 'a');
    write(first);
    const second = open();
    expect(has(second, 'a')).toBe(true);
    expect(second.news).toBe(0);
    now += DAY + 1;
    expect(has(second, 'a')).toBe(true);
    expect(second.news).toBe(1);
  });

  test('tells what another process has written under a name meanwhile', () => {
    const [one, other] = [open(), open()];
    expect(one.latest(key('a'))).toBeUndefined();
    put(other, 'a');
    write(other);
    expect(one.functions(key('a'))).toBe(-1);
    expect(one.latest(key('a'))).toEqual(bytesOf(1000, 'a'.charCodeAt(0)));
    expect(one.latest(key('b'))).toBeUndefined();
  });

  test('of two processes has what either has put into it, and the code of more functions', () => {
    const [one, other] = [open(), open()];
    put(one, 'a', 1000, 1);
    put(one, 'b', 1000, 5);
    put(other, 'a', 1000, 3);
    put(other, 'b', 1000, 2);
    put(other, 'c');
    write(one);
    write(other);
    const after = open();
    expect(['a', 'b', 'c'].map((what) => after.functions(key(what)))).toEqual([3, 5, 1]);
    // The one that wrote first has its old file, as long as it wants
    expect(has(one, 'b')).toBe(true);
  });

  test('is written in pieces; what comes meanwhile is written the next time', () => {
    const file = open({ bytesMax: 1e8 });
    for (const what of ['a', 'b', 'c']) put(file, what, 400_000);
    const work = file.write();
    expect(work.next().done).toBe(false);
    put(file, 'd');
    for (const _piece of work);
    expect(has(open(), 'd')).toBe(false);
    expect(has(file, 'd')).toBe(true);
    expect(file.news).toBe(1);
    write(file);
    expect(['a', 'b', 'c', 'd'].every((what) => has(open(), what))).toBe(true);
  });

  test('does not give what was of no use, nor takes it from another', () => {
    const file = open();
    put(file, 'a', 1000, 9);
    put(file, 'b');
    write(file);
    const other = open();
    other.forget(key('a'));
    expect(has(other, 'a')).toBe(false);
    put(other, 'a', 1000, 1);
    write(other);
    expect(open().functions(key('a'))).toBe(1);
    expect(has(open(), 'b')).toBe(true);
  });

  test('of another build is not read, and the oldest of those are taken away', () => {
    const others = [1, 2, 3, 4, 5].map((n) => join(folder, `${String(n).repeat(32)}.jit`));
    for (const [age, path] of others.entries()) {
      writeFileSync(path, '');
      utimesSync(path, now - age, now - age);
    }
    const left = `${join(folder, name)}.jit.1`;
    writeFileSync(left, '');
    utimesSync(left, now - 2 * DAY, now - 2 * DAY);
    writeFileSync(join(folder, 'notes.txt'), 'of the user');
    const file = open();
    put(file, 'a');
    write(file);
    expect(others.map((path) => existsSync(path))).toEqual([true, true, true, false, false]);
    expect(existsSync(left)).toBe(false);
    expect(existsSync(join(folder, 'notes.txt'))).toBe(true);
    expect(open({ identity: key('another build') }).modules).toBe(0);
  });

  test('that cannot be written leaves nothing behind, and is not tried again', () => {
    const path = join(folder, `${name}.jit`);
    mkdirSync(path);
    const file = open();
    put(file, 'a');
    write(file);
    expect(readdirSync(folder)).toEqual([`${name}.jit`]);
    expect(file.news).toBe(0);
    expect(has(file, 'a')).toBe(true);
  });
});
