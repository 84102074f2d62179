import { describe, expect, test } from 'vitest';
import type { L1Physical } from '../../base/address.ts';
import { addSlot } from '../mmu/slots.ts';
import { FakeMachine } from '../mmu/testing/fake-engine.ts';
import { TableBuilder } from '../mmu/testing/tables.ts';
import { GuestRam } from './guest-ram.ts';

const at = (address: number): L1Physical => address as L1Physical;

function ram() {
  const machine = new FakeMachine({}, 8);
  const told: [number, number][] = [];
  // An adjacent slot whose backing lies elsewhere, and a read-only one after a hole.
  addSlot(machine.vm, { id: 1, baseGfn: 8, pages: 2, hostBase: 100, readOnly: false, dirtyLog: true });
  addSlot(machine.vm, { id: 2, baseGfn: 12, pages: 1, hostBase: 200, readOnly: true, dirtyLog: false });
  return { machine, told, memory: new GuestRam(machine.vm, (offset, bytes) => told.push([offset, bytes])) };
}

describe('guest RAM', () => {
  test('crosses adjacent slots, stops at a hole, and leaves the rest alone', () => {
    const { memory, machine } = ram();
    const bytes = Uint8Array.from({ length: 0x3000 }, (_, i) => i * 7);
    expect(memory.copyIn(at(0x7800), bytes)).toBe(0x2800);
    const back = new Uint8Array(0x3000).fill(0xee);
    expect(memory.copyOut(at(0x7800), back)).toBe(0x2800);
    expect(back.subarray(0, 0x2800)).toEqual(bytes.subarray(0, 0x2800));
    expect(back.subarray(0x2800).every((byte) => byte === 0xee)).toBe(true);
    expect(machine.memory.u8[100 * 4096]).toBe(bytes[0x800]);
    expect(machine.vm.slots.byId(1)!.isDirty(9)).toBe(true);
  });

  test('reads all ones in a hole, and swallows writes there and in ROM', () => {
    const { memory, told } = ram();
    expect(memory.read32(at(0xa000))).toBe(0xffff_ffff);
    expect(memory.read16(at(0x9fff))).toBe(0xff00);
    memory.write32(at(0xb000), 1);
    memory.write32(at(0xc000), 1);
    expect(memory.read32(at(0xc000))).toBe(0);
    expect(memory.copyIn(at(0xc000), Uint8Array.of(1, 2))).toBe(2);
    expect(told).toEqual([]);
  });

  test('tells of every write once per page, after the bytes are there', () => {
    const { memory, told } = ram();
    memory.write32(at(0x7ffe), 0x1122_3344);
    expect(told).toEqual([
      [(512 + 7) * 4096 + 0xffe, 2],
      [100 * 4096, 2],
    ]);
    expect(memory.read32(at(0x7ffe))).toBe(0x1122_3344);
  });

  test('a device that writes to a shadowed EPT12 table takes effect at once', () => {
    const machine = new FakeMachine();
    const memory = new GuestRam(machine.vm, () => {});
    const tables = new TableBuilder(machine, 16);
    const root = tables.eptRoot();
    const leaf = tables.ept(root, 0x10000, 0x200000);
    machine.cpu.enterL2({ eptp: root + 0x1e, vpid: 1 });
    expect(machine.cpu.read(0x10000).kind).toBe('ram');
    memory.write32(at(leaf), 0);
    expect(machine.cpu.read(0x10000).kind).toBe('exit');
  });
});
