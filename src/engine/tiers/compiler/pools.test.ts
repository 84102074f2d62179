import { expect, test } from 'vitest';
import { EngineMemory, REGION_POOL_BYTES } from '../../core/memory.ts';
import { Pools } from './pools.ts';

const pools = (): Pools =>
  new Pools(new EngineMemory({ contexts: 1, codeBytes: 1 << 16, ramBytes: 1 << 16, vcpus: 1, accel: 'compiler' }));

test('pieces in use do not overlap, and what is given back is taken again', () => {
  const all = pools();
  const sizes = [40, 64, 65, 200, 5000, 1];
  const taken = sizes.map((bytes) => ({ bytes, at: all.take(bytes) }));
  for (const a of taken) {
    for (const b of taken) expect(a === b || a.at + a.bytes <= b.at || b.at + b.bytes <= a.at).toBe(true);
  }
  all.give(taken[3]!.at);
  expect(all.take(190)).toBe(taken[3]!.at);
});

test('what is full has room again for any size when nothing is in use', () => {
  const all = pools();
  const taken: number[] = [];
  while (all.hasRoom(1 << 16)) taken.push(all.take(1 << 16));
  expect(taken.length * (1 << 16)).toBeGreaterThan(REGION_POOL_BYTES * 0.9);
  all.give(taken.pop()!);
  expect(all.hasRoom(1 << 20)).toBe(false);
  for (const pool of taken) all.give(pool);
  expect(all.hasRoom(1 << 20)).toBe(true);
});
