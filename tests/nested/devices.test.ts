/**
 * Pages of devices under the guest's own tables: with a second stage of L0's, and with L0 shadowing the tables.
 *
 * Found by kvm-unit-tests' smptest under `-machine tdp=off`: a device page seen twice made L0 map its physical address as if
 * that were the linear one, over whatever lay there.
 */
import { expect, test } from 'vitest';
import { CR4 } from '../../src/arch/registers.ts';
import { S, SEG, segment } from '../../src/engine/core/layout.ts';
import { AT, L1Machine, USER_PAGE } from './l1-machine.ts';

const LINEAR = 0x40_0000;
const DEVICE = 0xfed0_0000;

test.each([true, false])('a device is read at its physical address each time, and nowhere else (TDP: %s)', (tdp) => {
  const seen: number[] = [];
  const devices = {
    portRead: () => 0,
    portWrite() {},
    mmioRead(at: number) {
      seen.push(at);
      return 0x1234;
    },
    mmioWrite(at: number) {
      seen.push(-at);
    },
  };
  const m = new L1Machine({ tdp, devices });
  m.restart();
  const table = 0x9_0000;
  m.write64(AT.PML4 + 0x2010, table | 7);
  m.write64(table, DEVICE + 7);
  m.write64(table + 8, 0x30_0007); // RAM beside it
  m.write32(0x30_0000, 0x5678);
  const at = (address: number) => [address & 0xff, (address >>> 8) & 0xff, (address >>> 16) & 0xff, address >>> 24];
  const read = (address: number) => [0xa1, ...at(address), 0, 0, 0, 0];
  const write = (address: number) => [0xa3, ...at(address), 0, 0, 0, 0];
  const twice = [...read(LINEAR), ...read(LINEAR), ...write(LINEAR), ...write(LINEAR), ...read(LINEAR)];
  expect(m.run(twice)).toMatchObject({ vector: -1 });
  expect(seen).toEqual([DEVICE, DEVICE, -DEVICE, -DEVICE, DEVICE]);
  expect(m.vcpu.state.gprLow(0)).toBe(0x1234);
  m.restart();
  expect(m.run(read(LINEAR + 0x1000))).toMatchObject({ vector: -1 });
  expect(m.vcpu.state.gprLow(0)).toBe(0x5678);
  // The device's physical address is no linear address of this guest
  m.restart();
  expect(m.run(read(DEVICE))).toMatchObject({ vector: 14, error: 0 });
});

test('without TDP there are no protection keys: shadow entries cannot carry them', () => {
  for (const tdp of [true, false]) {
    const { vcpu } = new L1Machine({ tdp });
    expect(vcpu.policy.has('pku')).toBe(tdp);
  }
});

const HOLE = 0x80_0000; // behind the end of RAM
test.each([true, false])('a page fault by a table where there is no RAM says what the access was (TDP: %s)', (tdp) => {
  const m = new L1Machine({ tdp });
  m.restart();
  m.write64(AT.PML4 + 0x2010, HOLE | 7);
  const imm = (address: number) => [address & 0xff, (address >>> 8) & 0xff, (address >>> 16) & 0xff, address >>> 24];
  const [load, store] = [
    [0x8b, 0x18],
    [0x89, 0x18],
  ]; // mov ebx, [rax]; mov [rax], ebx
  const fetch = [0xff, 0xe0]; // jmp rax
  for (const [access, error] of [
    [load, 0],
    [store, 2],
    [fetch, 0x10],
    [fetch, 0x10],
    [load, 0],
  ] as const) {
    m.restart();
    expect(m.run([0xb8, ...imm(LINEAR), ...access])).toMatchObject({ vector: 14, error });
    expect(m.vcpu.state.u32(S.CR2)).toBe(LINEAR);
  }
});

test.each([true, false])('EFLAGS.AC lets no descriptor be read from a user page under SMAP (TDP: %s)', (tdp) => {
  const m = new L1Machine({ tdp });
  m.restart();
  const { state, engine, mmu } = m.vcpu;
  m.write64(USER_PAGE + 8, 0x0000_ffff, 0x00cf_9300);
  state.setU32(S.CR4, (state.u32(S.CR4) | CR4.SMAP) >>> 0);
  const ldtr = segment(SEG.LDTR);
  state.setU32(ldtr + SEG.ACCESS, 0x82);
  state.setU32(ldtr + SEG.LIMIT, 0xff);
  state.setU64(ldtr + SEG.BASE, USER_PAGE, 0);
  engine.processor.contextChanged();
  mmu.initMmu();
  const stac = [0x0f, 0x01, 0xcb];
  // stac; mov eax, [USER_PAGE + 8]: allowed. mov eax, 0ch; mov ds, ax: not
  const code = [...stac, 0x8b, 0x04, 0x25, 0x08, 0, 0x20, 0, 0xb8, 0x0c, 0, 0, 0, 0x8e, 0xd8];
  expect(m.run(code)).toMatchObject({ vector: 14, error: 1 });
  expect(state.u32(S.CR2)).toBe(USER_PAGE + 8);
});
