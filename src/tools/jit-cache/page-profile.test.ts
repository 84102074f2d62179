import { beforeEach, describe, expect, test } from 'vitest';
import { PageProfile } from './page-profile.ts';

const DAY = 86_400;
let now = 0;
beforeEach(() => {
  now = 1_000_000;
});
const open = (packed?: Uint8Array): PageProfile => new PageProfile(packed, () => now);
const offsetsOf = (profile: PageProfile, name: number): number[] | undefined => {
  const page = profile.hot(name);
  return page && [...page.offsets];
};
/** As large as the engine's. */
const NAME = 2 ** 53 - 1;

describe('what is known of pages', () => {
  test('is there in the next run, in ascending order and each offset once', () => {
    const profile = open();
    profile.note(NAME, [4095, 7], 0);
    profile.note(NAME, [7, 0, 0x300], 0);
    profile.note(1, [5], 0);
    const next = open(profile.pack(undefined));
    expect(next.size).toBe(2);
    expect(offsetsOf(next, NAME)).toEqual([0, 7, 0x300, 4095]);
    expect(offsetsOf(next, 1)).toEqual([5]);
    expect(offsetsOf(next, 2)).toBeUndefined();
  });

  test('has the changes of a page from when it was first noted', () => {
    const profile = open();
    profile.note(1, [5], 3);
    profile.note(1, [6], 4);
    expect(open(profile.pack(undefined)).hot(1)!.changes).toBe(3);
  });

  test('is told when it is asked for, and is news only where it was not known', () => {
    const profile = open();
    profile.beforeKeeping(() => profile.note(1, [5], 0));
    expect(profile.news).toBe(0);
    profile.ask();
    expect(profile.news).toBe(1);
    const next = open(profile.pack(undefined));
    expect(profile.news).toBe(0);
    next.note(1, [5], 0);
    expect(next.news).toBe(0);
    next.note(1, [6], 0);
    expect(next.news).toBe(1);
  });

  test('is written anew once a day where it is only used', () => {
    const profile = open();
    profile.note(1, [5], 0);
    const next = open(profile.pack(undefined));
    expect(offsetsOf(next, 1)).toEqual([5]);
    expect(next.news).toBe(0);
    now += DAY + 1;
    expect(offsetsOf(next, 1)).toEqual([5]);
    expect(next.news).toBe(1);
  });

  test('is what either of two processes has found out', () => {
    const [one, other] = [open(), open()];
    one.note(1, [5], 0);
    one.note(2, [6], 0);
    other.note(1, [4], 0);
    other.note(3, [7], 0);
    const both = open(one.pack(other.pack(undefined)));
    expect([1, 2, 3].map((name) => offsetsOf(both, name))).toEqual([[4, 5], [6], [7]]);
  });

  test('has at most a mebibyte: the pages that were met last stay', () => {
    const profile = open();
    const offsets = Array.from({ length: 4096 }, (_, i) => i);
    for (let name = 0; name < 200; name += 1) {
      now += 1;
      profile.note(name, offsets, 0);
    }
    now += 1;
    expect(offsetsOf(profile, 0)).toHaveLength(4096);
    const packed = profile.pack(undefined);
    expect(packed.length).toBeLessThanOrEqual(1 << 20);
    const next = open(packed);
    expect(next.size).toBeGreaterThan(100);
    expect(offsetsOf(next, 0)).toHaveLength(4096);
    expect(offsetsOf(next, 1)).toBeUndefined();
    expect(offsetsOf(next, 199)).toHaveLength(4096);
  });

  test('is left out where it cannot be: cut off, or no offset in a page', () => {
    const profile = open();
    profile.note(1, [5, 6], 0);
    profile.note(2, [7], 0);
    const packed = profile.pack(undefined);
    for (let length = 0; length < packed.length; length += 1) {
      const { size } = open(packed.subarray(0, length));
      expect(size).toBeLessThan(2);
    }
    packed[16] = 0xff; // the first offset
    packed[17] = 0xff;
    expect(offsetsOf(open(packed), 1)).toEqual([6]);
  });
});
