import { describe, expect, it } from 'vitest';
import { isBroadcast, logicalX2apicId, matchesX2apicLogical, matchesXapicLogical } from './destination.ts';

const FLAT = 0xffff_ffff;
const CLUSTER = 0x0fff_ffff;

describe('logical destinations', () => {
  it('match any common bit in the flat model', () => {
    let wrong = 0;
    for (let id = 0; id < 256; id++) {
      for (let destination = 0; destination < 256; destination++) {
        if (matchesXapicLogical((id << 24) >>> 0, FLAT, destination) !== ((id & destination) !== 0)) wrong++;
      }
    }
    expect(wrong).toBe(0);
  });

  it('match members of the same cluster in the cluster model', () => {
    const ldr = 0x3400_0000; // cluster 3, member 2
    expect(matchesXapicLogical(ldr, CLUSTER, 0x34)).toBe(true);
    expect(matchesXapicLogical(ldr, CLUSTER, 0x3f)).toBe(true);
    expect(matchesXapicLogical(ldr, CLUSTER, 0x3b)).toBe(false);
    expect(matchesXapicLogical(ldr, CLUSTER, 0x24)).toBe(false);
    expect(matchesXapicLogical(0xf400_0000, CLUSTER, 0xf4)).toBe(true);
  });

  it('derive from the x2APIC ID: sixteen members to a cluster', () => {
    expect(logicalX2apicId(0)).toBe(0x0000_0001);
    expect(logicalX2apicId(0x25)).toBe(0x0002_0020);
    expect(matchesX2apicLogical(logicalX2apicId(0x2f), 0x0002_8000)).toBe(true);
    expect(matchesX2apicLogical(logicalX2apicId(0x2f), 0x0002_7fff)).toBe(false);
    expect(matchesX2apicLogical(logicalX2apicId(0x2f), 0x0001_8000)).toBe(false);
  });

  it('broadcast with all ones of the width they were written in', () => {
    expect(isBroadcast(0xff, false)).toBe(true);
    expect(isBroadcast(0xff, true)).toBe(false);
    expect(isBroadcast(0xffff_ffff, true)).toBe(true);
  });
});
