import { expect, test } from 'vitest';
import { SnapshotStore } from './snapshot-store.ts';

const SECTOR = 512;

/** A disk of 12.5 chunks of the snapshot's, each sector filled with its number. */
function disk() {
  const bytes = Uint8Array.from({ length: 100 * SECTOR }, (_, at) => at / SECTOR);
  let writes = 0;
  const under = {
    sizeBytes: bytes.length,
    readOnly: true,
    read: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
    write: () => {
      writes += 1;
    },
    flush: () => {},
  };
  return { snapshot: new SnapshotStore(under), bytes, writes: () => writes };
}

test('what is written is read again, what is not comes from below, and below nothing is written', () => {
  const { snapshot, bytes, writes } = disk();
  const model = bytes.slice();
  const before = bytes.slice();
  let random = 1;
  const next = (below: number) => {
    random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((random / 2 ** 32) * below);
  };
  for (let i = 0; i < 500; i += 1) {
    const sector = next(100);
    const length = (1 + next(Math.min(24, 100 - sector))) * SECTOR;
    const offset = sector * SECTOR;
    if (next(2) === 0) {
      const data = Uint8Array.from({ length }, () => next(256));
      snapshot.write(offset, data);
      model.set(data, offset);
    } else {
      const into = new Uint8Array(length);
      snapshot.read(offset, into);
      expect(Buffer.compare(into, model.subarray(offset, offset + length))).toBe(0);
    }
  }
  snapshot.flush();
  expect([snapshot.readOnly, snapshot.sizeBytes, writes()]).toEqual([false, bytes.length, 0]);
  expect(Buffer.compare(bytes, before)).toBe(0);
});
