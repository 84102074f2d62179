import { describe, expect, test } from 'vitest';
import { MemorySlot, MemorySlots, type SlotConfig } from './memory-slots.ts';

const config = (change: Partial<SlotConfig> = {}): SlotConfig => ({
  id: 0,
  baseGfn: 0x1000,
  pages: 0x800,
  hostBase: 0x2000,
  readOnly: false,
  dirtyLog: false,
  ...change,
});

describe('memory slots', () => {
  test('are found by frame, at their edges and not beyond, above 4 GiB too', () => {
    const slots = new MemorySlots();
    const low = slots.add(config());
    const high = slots.add(config({ id: 1, baseGfn: 2 ** 32 + 5, pages: 3, hostBase: 9 }));
    for (const [gfn, slot] of [
      [0xfff, null],
      [0x1000, low],
      [0x17ff, low],
      [0x1800, null],
      [2 ** 32 + 4, null],
      [2 ** 32 + 5, high],
      [2 ** 32 + 7, high],
      [2 ** 32 + 8, null],
    ] as const) {
      expect(slots.find(gfn), gfn.toString(16)).toBe(slot);
    }
    expect(high!.hostPage(2 ** 32 + 7)).toBe(11);
  });

  test('that overlap, or share an id, are refused', () => {
    const slots = new MemorySlots();
    slots.add(config());
    expect(slots.add(config({ baseGfn: 0x9000 }))).toBeNull();
    expect(slots.add(config({ id: 1, baseGfn: 0x17ff, pages: 1 }))).toBeNull();
    expect(slots.add(config({ id: 1, baseGfn: 0x0, pages: 0x1001 }))).toBeNull();
    expect(slots.add(config({ id: 1, baseGfn: 0x0, pages: 0x1000 }))).not.toBeNull();
    expect(slots.generation).toBe(2);
  });

  test('that are invisible are missed by look-ups, but not by bookkeeping', () => {
    const slots = new MemorySlots();
    const slot = slots.add(config())!;
    slot.visible = false;
    expect(slots.find(0x1000)).toBeNull();
    expect(slots.findAny(0x1000)).toBe(slot);
    slots.remove(slot);
    expect(slots.findAny(0x1000)).toBeNull();
  });

  test.each([
    ['aligned with its backing', {}, 0x1234, 2],
    ['its last, partial 2 MiB', { pages: 0x7ff }, 0x1700, 1],
    ['its first, partial 2 MiB', { baseGfn: 0x1001, hostBase: 0x2001 }, 0x1100, 1],
    ['backing of another alignment', { hostBase: 0x2001 }, 0x1234, 1],
    ['dirty logging', { dirtyLog: true }, 0x1234, 1],
    ['a whole aligned GiB', { baseGfn: 0x40000, pages: 0x40000, hostBase: 0x80000 }, 0x51234, 3],
  ])('allow large pages as bounds and alignment do: %s', (_name, change, gfn, level) => {
    expect(new MemorySlot(config(change)).hostLevel(gfn)).toBe(level);
  });

  test('count the reasons against a large page', () => {
    const slot = new MemorySlot(config());
    slot.banLarge(0x1234, 1);
    slot.banLarge(0x1235, 1);
    slot.banLarge(0x1234, -1);
    expect(slot.hostLevel(0x13ff)).toBe(1);
    expect(slot.hostLevel(0x1400)).toBe(2);
    slot.banLarge(0x1235, -1);
    expect(slot.hostLevel(0x13ff)).toBe(2);
  });
});
