import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { touchedMiB } from './touched-memory.mjs';

const PAGES = 777; // of 64 KiB

test.skipIf(!existsSync('/proc/self/smaps'))('what is touched of a WebAssembly memory is told, and no more', () => {
  const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES });
  const bytes = PAGES * 65536;
  const u8 = new Uint8Array(memory.buffer);
  const before = touchedMiB(bytes);
  expect(before).toBeLessThan(3);
  for (let at = 0; at < 20 << 20; at += 4096) u8[at] = 1;
  expect(touchedMiB(bytes) - before).toBeGreaterThan(19);
  expect(touchedMiB(bytes) - before).toBeLessThan(24);
  expect(touchedMiB(bytes + 4096)).toBeUndefined();
});
