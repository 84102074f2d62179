import { expect, test } from 'vitest';
import { S, STATE, STATE_BYTES } from './layout.ts';

test('no two cells of the state begin at the same place, and all lie in it', () => {
  const cells = Object.entries(S);
  const places = new Map<number, string[]>();
  for (const [name, at] of cells) places.set(at, [...(places.get(at) ?? []), name]);
  expect([...places.values()].filter((names) => names.length > 1)).toEqual([]);
  for (const [name, at] of cells) expect([name, at >= STATE && at < STATE + STATE_BYTES]).toEqual([name, true]);
});
