/**
 * Pages of devices under the guest's own tables: with a second stage of L0's, and with L0 shadowing the tables.
 *
 * Found by kvm-unit-tests' smptest under `-machine tdp=off`: a device page seen twice made L0 map its physical address as if
 * that were the linear one, over whatever lay there.
 */
import { expect, test } from 'vitest';
import { AT, L1Machine } from './l1-machine.ts';

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
