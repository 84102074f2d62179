import { describe, expect, test } from 'vitest';
import { S } from '../engine/core/layout.ts';
import { KIND } from '../hypervisor/mmu/role.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';
import { GuestView } from './guest-view.ts';

const RAM_BYTES = 0x40_0000;

/** RAM with tables in it, and the few registers that a walk reads. Reading is all that is possible. */
function guest(registers: { cr0: number; cr3: number; cr4: number; efer: number }, eptPointer = 0, npt = false) {
  const bytes = new Uint8Array(RAM_BYTES);
  const view = new DataView(bytes.buffer);
  const pdpte = new Map<number, number>();
  const values = new Map<number, number>([
    [S.CR0, registers.cr0],
    [S.CR3, registers.cr3],
    [S.CR4, registers.cr4],
    [S.EFER, registers.efer],
  ]);
  const vcpu = {
    state: {
      u32: (at: number) => pdpte.get(at) ?? values.get(at) ?? 0,
      number: (at: number) => values.get(at) ?? 0,
      high: () => 0,
    },
    mmu: {
      mmuIsNested: eptPointer !== 0,
      nested: { eptPointerLo: eptPointer, eptPointerHi: 0 },
      ngpaWalk: { format: { kind: npt ? KIND.NPT : KIND.EPT } },
    },
    vm: {
      ram: {
        copyOut: (from: number, into: Uint8Array) => {
          const part = bytes.subarray(from, Math.min(from + into.length, RAM_BYTES));
          into.set(part);
          return part.length;
        },
      },
    },
  } as unknown as Vcpu;
  return {
    view: new GuestView(vcpu),
    bytes,
    entry8: (at: number, low: number, high = 0) => {
      view.setUint32(at, low, true);
      view.setUint32(at + 4, high, true);
    },
    entry4: (at: number, low: number) => view.setUint32(at, low, true),
    pdpte: (index: number, low: number) => pdpte.set(S.PDPTE + 8 * index, low),
  };
}

const LONG = { cr0: 0x8000_0001, cr3: 0x1000, cr4: 0x20, efer: 0x500 };
const NX = 0x8000_0000;

/** PML4 at 0x1000, and under it 0x5000 at the linear address `ffff800000003000`, 2 MiB behind, 1 GiB at 0x40000000. */
function longGuest() {
  const g = guest(LONG);
  g.entry8(0x1000 + 8 * 256, 0x2003); // PML4[256]: supervisor
  g.entry8(0x2000, 0x3003);
  g.entry8(0x3000, 0x4003);
  g.entry8(0x4000 + 8 * 3, 0x5001, NX);
  g.entry8(0x4000 + 8 * 4, 0x6001, NX);
  g.entry8(0x3000 + 8, 0x20_0083); // 2 MiB, writable
  g.entry8(0x1000, 0x7007);
  g.entry8(0x7000 + 8, 0x4000_0087); // 1 GiB, user
  return g;
}

describe('a walk of the guest tables', () => {
  test('finds pages of 4 KiB, 2 MiB and 1 GiB in 64-bit mode', () => {
    const { view } = longGuest();
    expect(view.translate(0xffff_8000_0000_3abcn)).toEqual({
      guestPhysical: 0x5abc,
      physical: 0x5abc,
      pageBytes: 4096,
    });
    expect(view.translate(0xffff_8000_0020_1234n)).toMatchObject({ guestPhysical: 0x20_1234, pageBytes: 2 ** 21 });
    expect(view.translate(0x4abc_def0n)).toMatchObject({ guestPhysical: 0x4abc_def0, pageBytes: 2 ** 30 });
    expect(view.translate(0xffff_8000_0000_5000n)).toBeNull();
    expect(view.translate(0xffff_8080_0000_0000n)).toBeNull();
  });

  test('lists what is mapped: canonical, in order, equal neighbours joined', () => {
    const { list, complete } = longGuest().view.mappings();
    expect(complete).toBe(true);
    expect(list).toEqual([
      { linear: 0x4000_0000n, bytes: 2n ** 30n, user: true, writable: true, executable: true },
      { linear: 0xffff_8000_0000_3000n, bytes: 0x2000n, user: false, writable: false, executable: false },
      { linear: 0xffff_8000_0020_0000n, bytes: 2n ** 21n, user: false, writable: true, executable: true },
    ]);
  });

  test('reads 32-bit tables, with 4 MiB pages only under CR4.PSE', () => {
    for (const [cr4, expected] of [
      [0x10, 0x0040_1234],
      [0, 0x5234],
    ] as const) {
      const g = guest({ cr0: 0x8000_0001, cr3: 0x1000, cr4, efer: 0 });
      g.entry4(0x1000 + 4 * 3, 0x40_0083);
      g.entry4(0x40_0000 - 4, 0);
      g.entry4(0x1000 + 4 * 2, 0x2003);
      g.entry4(0x2000 + 4, 0x5003);
      expect(g.view.translate(0x0080_1234n)?.guestPhysical).toBe(0x5234);
      if (cr4) expect(g.view.translate(0x00c0_1234n)?.guestPhysical).toBe(expected);
      else expect(g.view.translate(0x00c0_1234n)).toBeNull();
    }
  });

  test('takes PAE roots from the PDPTE registers, not from memory', () => {
    const g = guest({ cr0: 0x8000_0001, cr3: 0x1000, cr4: 0x20, efer: 0 });
    g.pdpte(3, 0x2001);
    g.entry8(0x2000, 0x3003);
    g.entry8(0x3000, 0x5003);
    expect(g.view.translate(0xc000_0010n)?.guestPhysical).toBe(0x5010);
    expect(g.view.translate(0x10n)).toBeNull();
    expect(g.view.mappings().list).toEqual([
      { linear: 0xc000_0000n, bytes: 4096n, user: false, writable: true, executable: true },
    ]);
  });

  test('is the identity without paging', () => {
    const { view } = guest({ cr0: 1, cr3: 0, cr4: 0, efer: 0 });
    expect(view.translate(0x1_0000_1234n)?.guestPhysical).toBe(0x1234);
    expect(view.mappings()).toEqual({ list: [], complete: true });
  });

  test.each([
    ['EPT', false, 7, 0x10_0087],
    ['NPT', true, 7, 0x10_0087],
  ])('goes through %s for every table and for the page', (_name, npt, table, _leaf) => {
    // nGPA n is at L1-physical n + 0x200000: one 2 MiB page
    const g = guest(LONG, 0x10_0000, npt);
    g.entry8(0x10_0000, 0x10_1000 | table);
    g.entry8(0x10_1000, 0x10_2000 | table);
    g.entry8(0x10_2000, 0x20_0000 | 0x80 | table);
    g.entry8(0x20_1000, 0x2003);
    g.entry8(0x20_2000, 0x3003);
    g.entry8(0x20_3000, 0x4003);
    g.entry8(0x20_4000, 0x5003);
    g.entry8(0x20_4000 + 8, 0x20_0003); // an nGPA that the second stage does not map
    g.bytes.set([1, 2, 3], 0x20_5ffd);
    expect(g.view.translate(0x10n)).toEqual({ guestPhysical: 0x5010, physical: 0x20_5010, pageBytes: 4096 });
    expect(g.view.translate(0x1010n)).toEqual({ guestPhysical: 0x20_0010, physical: -1, pageBytes: 4096 });
    const three = new Uint8Array(6);
    expect(g.view.readLinear(0xffdn, three)).toBe(3); // the next page is behind the hole
    expect([...three]).toEqual([1, 2, 3, 0, 0, 0]);
  });

  test('ends in tables that contain themselves', () => {
    const g = guest(LONG);
    for (let n = 0; n < 512; n += 1) g.entry8(0x1000 + 8 * n, 0x1003);
    expect(g.view.mappings().complete).toBe(false);
  });

  test('changes nothing', () => {
    const g = longGuest();
    const before = g.bytes.slice();
    g.view.translate(0xffff_8000_0000_3abcn);
    g.view.mappings();
    g.view.readLinear(0xffff_8000_0000_3000n, new Uint8Array(64));
    expect(Buffer.compare(g.bytes, before)).toBe(0);
  });
});

test('reading stops where memory does', () => {
  const { view, bytes } = guest({ cr0: 1, cr3: 0, cr4: 0, efer: 0 });
  bytes[RAM_BYTES - 1] = 7;
  const into = new Uint8Array(4);
  expect(view.readPhysical(RAM_BYTES - 1, into)).toBe(1);
  expect([...into]).toEqual([7, 0, 0, 0]);
});
