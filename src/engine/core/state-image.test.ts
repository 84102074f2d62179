import { beforeEach, expect, it } from 'vitest';
import { S, SEG, SWITCHED, segment } from './layout.ts';
import { EngineMemory } from './memory.ts';
import { PART_BYTES, type StateImages, stateImages } from './state-image.ts';

const IMAGE = 0x4_0000;

let memory: EngineMemory;
let images: StateImages;
beforeEach(() => {
  memory = new EngineMemory({ contexts: 1, codeBytes: 0x1_0000, ramBytes: 0x1000, vcpus: 1 });
  images = stateImages(memory);
  for (let at = 0; at < SWITCHED.BYTES; at += 4) memory.u32[(IMAGE + at) >>> 2] = 0x1000_0000 + at;
});

it('loading an image gives every register of the block its word, and no other', () => {
  const { u32 } = memory;
  u32[(SWITCHED.FIRST - 4) >>> 2] = 1;
  u32[(SWITCHED.FIRST + SWITCHED.BYTES) >>> 2] = 2;
  images.load(IMAGE);
  expect(u32[S.CR4 >>> 2]).toBe(0x1000_0000 + S.CR4 - SWITCHED.FIRST);
  expect(u32[(segment(SEG.TR) + SEG.BASE) >>> 2]).toBe(0x1000_0000 + segment(SEG.TR) + SEG.BASE - SWITCHED.FIRST);
  expect(u32[(SWITCHED.FIRST - 4) >>> 2]).toBe(1);
  expect(u32[(SWITCHED.FIRST + SWITCHED.BYTES) >>> 2]).toBe(2);
  expect(images.differences(IMAGE)).toBe(0);
});

it('a register that differs in one bit sets the bit of its part and no other', () => {
  images.load(IMAGE);
  for (let at = 0; at < SWITCHED.BYTES; at += 4) {
    const word = (SWITCHED.FIRST + at) >>> 2;
    memory.u32[word] = memory.u32[word]! ^ 0x8000_0000;
    expect(images.differences(IMAGE)).toBe(1 << Math.floor(at / PART_BYTES));
    memory.u32[word] = memory.u32[word]! ^ 0x8000_0000;
  }
});
