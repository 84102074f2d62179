import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { deliverableVector, endOfInterrupt, imagePriority, requestVector, serviceVector } from './image.ts';
import { APIC } from './registers.ts';
import {
  deliverVirtualInterrupt,
  interruptStatus,
  isVirtualInterruptPending,
  requestVirtualInterrupt,
  rviOf,
  sviOf,
  virtualizeEoi,
  virtualizePpr,
} from './virtual-interrupts.ts';

const BASE = 512;

describe('virtual-interrupt delivery', () => {
  it('follows the pseudocode of SDM 3C 29.2.2 and 29.1.4', () => {
    const words = new Uint32Array(2048);
    let status = requestVirtualInterrupt(words, BASE, 0, 0x41);
    status = requestVirtualInterrupt(words, BASE, status, 0x31);
    expect(status).toBe(interruptStatus(0x41, 0));
    expect(isVirtualInterruptPending(words, BASE, status)).toBe(true);
    status = deliverVirtualInterrupt(words, BASE, status);
    expect(status).toBe(interruptStatus(0x31, 0x41));
    expect(words[BASE + (APIC.PPR >> 2)]).toBe(0x40);
    expect(isVirtualInterruptPending(words, BASE, status)).toBe(false);
    status = virtualizeEoi(words, BASE, status);
    expect(status).toBe(interruptStatus(0x31, 0));
    expect(words[BASE + (APIC.PPR >> 2)]).toBe(0);
    status = deliverVirtualInterrupt(words, BASE, status);
    expect(status).toBe(interruptStatus(0, 0x31));
    expect(isVirtualInterruptPending(words, BASE, virtualizeEoi(words, BASE, status))).toBe(false);
  });

  it('takes the same interrupts in the same order as a real local APIC', () => {
    const action = fc.oneof(
      fc.record({ do: fc.constant('request' as const), vector: fc.integer({ min: 16, max: 255 }) }),
      fc.record({ do: fc.constant('tpr' as const), tpr: fc.integer({ min: 0, max: 255 }) }),
      fc.record({ do: fc.constant('take' as const) }),
      fc.record({ do: fc.constant('eoi' as const) }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const real = new Uint32Array(1024);
        const virtual = new Uint32Array(2048);
        let status = 0;
        for (const a of actions) {
          if (a.do === 'request') {
            requestVector(real, 0, a.vector, false);
            status = requestVirtualInterrupt(virtual, BASE, status, a.vector);
          } else if (a.do === 'tpr') {
            real[APIC.TPR >> 2] = a.tpr;
            virtual[BASE + (APIC.TPR >> 2)] = a.tpr;
            virtualizePpr(virtual, BASE, status);
          } else if (a.do === 'take') {
            const vector = deliverableVector(real, 0);
            expect(isVirtualInterruptPending(virtual, BASE, status)).toBe(vector >= 0);
            if (vector < 0) continue;
            expect(rviOf(status)).toBe(vector);
            serviceVector(real, 0, vector);
            status = deliverVirtualInterrupt(virtual, BASE, status);
            expect(sviOf(status)).toBe(vector);
          } else {
            const ended = endOfInterrupt(real, 0);
            if (ended >= 0) expect(sviOf(status)).toBe(ended);
            status = virtualizeEoi(virtual, BASE, status);
          }
          expect(virtual[BASE + (APIC.PPR >> 2)]).toBe(imagePriority(real, 0));
        }
      }),
    );
  });
});
