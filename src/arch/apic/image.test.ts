import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  clearVector,
  deliverableVector,
  endOfInterrupt,
  highestVector,
  imagePriority,
  mergePosted,
  processorPriority,
  requestVector,
  serviceVector,
  setVector,
  testVector,
} from './image.ts';
import { APIC } from './registers.ts';

const BASE = 1024; // the second page of a larger view: offsets must not assume that an image starts at 0
const image = (): Uint32Array => new Uint32Array(3 * 1024);
const vectors = fc.uniqueArray(fc.integer({ min: 16, max: 255 }), { maxLength: 12 });

describe('priorities over a register image', () => {
  it('finds the highest vector of any set, and -1 of none', () => {
    fc.assert(
      fc.property(vectors, (set) => {
        const words = image();
        for (const vector of set) setVector(words, BASE, APIC.IRR, vector);
        expect(highestVector(words, BASE, APIC.IRR)).toBe(set.length === 0 ? -1 : Math.max(...set));
        for (let vector = 0; vector < 256; vector++) {
          expect(testVector(words, BASE, APIC.IRR, vector)).toBe(set.includes(vector));
        }
        for (const vector of set) clearVector(words, BASE, APIC.IRR, vector);
        expect(words.every((word) => word === 0)).toBe(true);
      }),
    );
  });

  it('puts vector 51H at bit 17 of the word at byte offset 20H of its register', () => {
    const words = image();
    setVector(words, BASE, APIC.IRR, 0x51);
    expect(words[BASE + (0x220 >> 2)]).toBe(1 << 17);
  });

  it('computes PPR as SDM 3A 10.8.3.1 does', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), vectors, (tpr, inService) => {
        const words = image();
        words[BASE + (APIC.TPR >> 2)] = tpr;
        for (const vector of inService) setVector(words, BASE, APIC.ISR, vector);
        const isrv = Math.max(0, ...inService);
        const expected = tpr >> 4 >= isrv >> 4 ? tpr : isrv & 0xf0;
        expect(imagePriority(words, BASE)).toBe(expected);
      }),
    );
    expect(processorPriority(0x3f, 0x3a)).toBe(0x3f); // equal classes: the sub-class is TPR's
    expect(processorPriority(0x2f, 0x3a)).toBe(0x30);
  });

  it('lets through exactly the highest request, if its class is above PPR', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), vectors, vectors, (tpr, requested, inService) => {
        const words = image();
        words[BASE + (APIC.TPR >> 2)] = tpr;
        for (const vector of inService) setVector(words, BASE, APIC.ISR, vector);
        for (const vector of requested) requestVector(words, BASE, vector, false);
        const threshold = Math.max(tpr >> 4, ...inService.map((vector) => vector >> 4));
        const open = requested.filter((vector) => vector >> 4 > threshold);
        expect(deliverableVector(words, BASE)).toBe(open.length === 0 ? -1 : Math.max(...open));
      }),
    );
  });

  it('serves nested interrupts in order of class, and ends them in reverse', () => {
    fc.assert(
      fc.property(vectors, (requested) => {
        const words = image();
        const served: number[] = [];
        for (const vector of [...requested].sort((a, b) => a - b)) {
          requestVector(words, BASE, vector, false);
          const next = deliverableVector(words, BASE);
          if (next >= 0) {
            serviceVector(words, BASE, next);
            served.push(next);
          }
        }
        for (let i = 1; i < served.length; i++) expect(served[i]! >> 4).toBeGreaterThan(served[i - 1]! >> 4);
        while (served.length > 0) expect(endOfInterrupt(words, BASE)).toBe(served.pop());
        expect(endOfInterrupt(words, BASE)).toBe(-1);
      }),
    );
  });

  it('keeps in TMR the trigger mode of the last acceptance', () => {
    const words = image();
    requestVector(words, BASE, 0x79, true);
    expect(testVector(words, BASE, APIC.TMR, 0x79)).toBe(true);
    serviceVector(words, BASE, 0x79);
    endOfInterrupt(words, BASE);
    expect(testVector(words, BASE, APIC.TMR, 0x79)).toBe(true);
    requestVector(words, BASE, 0x79, false);
    expect(testVector(words, BASE, APIC.TMR, 0x79)).toBe(false);
  });

  it('merges a posted-interrupt request and clears it', () => {
    const words = image();
    const pir = new Uint32Array(10);
    pir[2 + 1] = 1 << 5; // 0x25
    pir[2 + 7] = 0x8000_0001; // 0xe0, 0xff
    requestVector(words, BASE, 0x80, false);
    expect(mergePosted(words, BASE, pir, 2)).toBe(0xff);
    expect([0x25, 0x80, 0xe0, 0xff].every((vector) => testVector(words, BASE, APIC.IRR, vector))).toBe(true);
    expect(pir.every((word) => word === 0)).toBe(true);
    expect(mergePosted(words, BASE, pir, 2)).toBe(-1);
  });
});
