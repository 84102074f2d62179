import { mkdtempSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { BlockFile } from './block-file.ts';

let folder: string;
let image: string;
let told: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'terrarium-'));
  image = join(folder, 'disk.img');
  writeFileSync(
    image,
    Uint8Array.from({ length: 4096 }, (_, at) => at & 0xff),
  );
  told = [];
});
afterEach(() => rmSync(folder, { recursive: true }));
const open = (path: string, readOnly = false) => new BlockFile(path, readOnly, (sentence) => told.push(sentence));

test('what is written is in the file, what is read comes from it', () => {
  const disk = open(image);
  expect(disk.sizeBytes).toBe(4096);
  const sector = new Uint8Array(512);
  disk.read(512, sector);
  expect(sector[3]).toBe(3);
  disk.write(1024, new Uint8Array(512).fill(7));
  disk.flush();
  expect(readFileSync(image)[1024]).toBe(7);
  disk.close();
  expect(told).toEqual([]);
});

test('a disk that shrinks under the guest is an error of each access, told once', () => {
  const disk = open(image);
  truncateSync(image, 1024);
  const sector = new Uint8Array(512);
  disk.read(512, sector);
  expect(() => disk.read(1024, sector)).toThrow('it ends at byte 1024');
  expect(() => disk.read(2048, sector)).toThrow();
  expect(told).toHaveLength(1);
  expect(told[0]).toMatch(/disk.img could not be read: it ends at byte 1024.*the guest sees an I\/O error/);
  disk.close();
});

test('a disk that is deleted under the guest stays readable: the host keeps it until it is closed', () => {
  const disk = open(image);
  unlinkSync(image);
  disk.read(0, new Uint8Array(512));
  disk.close();
});

test('writing to a read-only disk fails', () => {
  const disk = open(image, true);
  expect(disk.readOnly).toBe(true);
  expect(() => disk.write(0, new Uint8Array(512))).toThrow();
  expect(told).toHaveLength(1);
  disk.close();
});

test.each([
  ['no such file', () => join(folder, 'nosuch'), /cannot be opened for writing: there is no such file/],
  ['a directory', () => folder, /it is a directory/],
  [
    'an empty file',
    () => {
      writeFileSync(image, '');
      return image;
    },
    /whole sectors of 512 bytes, found 0 bytes/,
  ],
  [
    'a file that is not whole sectors',
    () => {
      writeFileSync(image, new Uint8Array(1000));
      return image;
    },
    /found 1000 bytes/,
  ],
])('%s is refused in a sentence', (_name, path, message) => {
  expect(() => open(path())).toThrow(message);
});
