/**
 * An interrupt frame on a page that is also a page table, which L0 shadows and therefore watches. After a few stores L0 gives
 * the shadow up, and with it the mapping of the stack: the rest of the frame must arrive all the same.
 *
 * Found by kvm-unit-tests' eventinj ("int 33 with shadowed stack") under `-machine tdp=off`: RFLAGS, CS and RIP were lost.
 */
import { expect, test } from 'vitest';
import { AT, L1Machine } from './l1-machine.ts';

const TABLE = 0x9_0000;
const VECTOR = 0x33;
const imm64 = (value: number) => [...Array(8).keys()].map((byte) => Math.floor(value / 2 ** (8 * byte)) % 256);

test.each([true, false])('an interrupt frame on a page table arrives whole (TDP: %s)', (tdp) => {
  const m = new L1Machine({ tdp });
  m.restart();
  m.write64(AT.PML4 + 8, TABLE | 7);
  m.write64(TABLE, TABLE | 7);
  const code = [
    ...[0x48, 0xb8, ...imm64(2 ** 39)], // mov rax, an address that the table translates at every level
    ...[0xc7, 0x40, 0x08, 0, 0, 0, 0], // mov dword [rax + 8], 0
    ...[0x48, 0xbc, ...imm64(TABLE + 0xfff)], // mov rsp
    ...[0xcd, VECTOR],
  ];
  expect(m.run(code)).toMatchObject({ vector: VECTOR });
  const frame = [0xfc8, 0xfd0, 0xfd8, 0xfe0, 0xfe8].map((offset) => m.read32(TABLE + offset));
  expect(frame).toEqual([AT.CODE + code.length, 8, frame[2], TABLE + 0xfff, 16]);
  expect(frame[2]! & 0xffff_f02a).toBe(2);
});
