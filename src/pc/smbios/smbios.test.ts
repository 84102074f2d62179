import assert from 'node:assert/strict';
import { test } from 'vitest';
import { readLittleEndian } from '../bytes.ts';
import { physical } from '../layout.ts';
import { plugged } from '../testing/platform.ts';

const GIB = 2 ** 30;
const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0) & 0xff;
const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);

interface Structure {
  readonly handle: number;
  readonly get: (offset: number, size: number) => number;
  readonly length: number;
  readonly string: (offset: number) => string;
}

/** Finds an entry point as Linux does, by a scan of the F segment in steps of 16, and walks the table. */
function read(options: Parameters<typeof plugged>[0] = {}) {
  const machine = plugged(options);
  const memory = (at: number, bytes: number) => {
    const into = new Uint8Array(bytes);
    assert.equal(machine.memory.copyOut(physical(at), into), bytes);
    return into;
  };
  const find = (anchor: string) => {
    for (let at = 0xf0000; at < 0x100000; at += 16) if (text(memory(at, anchor.length)) === anchor) return at;
    throw new Error(`no ${anchor}`);
  };
  const entry = memory(find('_SM_'), 0x1f);
  const entry3 = memory(find('_SM3_'), 0x18);
  const at = readLittleEndian(entry, 0x18, 4);
  const table = memory(at, readLittleEndian(entry, 0x16, 2));
  const found = new Map<number, Structure[]>();
  const types: number[] = [];
  let longest = 0;
  for (let offset = 0; offset < table.length; ) {
    const [type, length] = [table[offset]!, table[offset + 1]!];
    const start = offset;
    let end = offset + length;
    while (table[end] !== 0 || table[end + 1] !== 0) end += 1;
    const strings = text(table.subarray(offset + length, end)).split('\0');
    offset = end + 2;
    longest = Math.max(longest, offset - start);
    types.push(type);
    const structure: Structure = {
      handle: readLittleEndian(table, start + 2, 2),
      length,
      get: (field, size) => readLittleEndian(table, start + field, size),
      string: (field) => strings[table[start + field]! - 1] ?? '',
    };
    found.set(type, [...(found.get(type) ?? []), structure]);
  }
  return { ...machine, entry, entry3, at, table, types, longest, of: (type: number) => found.get(type) ?? [] };
}

test('both entry points are found by a scan, their checksums hold, and they tell of one table', () => {
  const { entry, entry3, table, at, types, longest } = read();
  assert.deepEqual([sum(entry), sum(entry.subarray(0x10)), sum(entry3)], [0, 0, 0]);
  assert.deepEqual([entry[5], entry[6], entry[7], entry[0x1e]], [0x1f, 2, 8, 0x28]);
  assert.equal(text(entry.subarray(0x10, 0x15)), '_DMI_');
  assert.deepEqual([entry3[6], entry3[7], entry3[8]], [0x18, 3, 0]);
  assert.deepEqual([readLittleEndian(entry3, 0x10, 4), readLittleEndian(entry3, 0x0c, 4)], [at, table.length]);
  assert.equal(readLittleEndian(entry, 0x1c, 2), types.length);
  assert.equal(readLittleEndian(entry, 0x08, 2), longest);
});

test('the structures that every system must have are there, in order, and 127 ends them', () => {
  assert.deepEqual(read().types, [0, 1, 3, 4, 16, 17, 19, 32, 127]);
});

test('handles are unique, and those that refer to the memory array name it', () => {
  const { of, types } = read({ ramBytes: 4 * GIB });
  const handles = [...new Set(types)].flatMap((type) => of(type).map(({ handle }) => handle));
  assert.equal(new Set(handles).size, types.length);
  const [array] = of(16);
  assert.deepEqual(
    [...of(17).map((device) => device.get(4, 2)), ...of(19).map((range) => range.get(0x0c, 2))],
    [array!.handle, array!.handle, array!.handle],
  );
});

test('lengths are those of the versions announced', () => {
  const { of } = read();
  const lengths = [0, 1, 3, 4, 16, 17, 19, 32, 127].map((type) => of(type)[0]!.length);
  assert.deepEqual(lengths, [0x18, 0x1b, 0x16, 0x30, 0x17, 0x28, 0x1f, 0x0b, 4]);
});

test('RAM reads as devices of at most 16 GiB and as the ranges it answers at', () => {
  const { of } = read({ ramBytes: 40 * GIB });
  assert.deepEqual(
    of(17).map((device) => device.get(0x0c, 2)),
    [16384, 16384, 8192],
  );
  assert.equal(of(16)[0]!.get(0x0d, 2), 3);
  assert.deepEqual(
    of(19).map((range) => [range.get(4, 4) * 1024, (range.get(8, 4) + 1) * 1024]),
    [
      [0, 3 * GIB],
      [4 * GIB, 41 * GIB],
    ],
  );
});

test('the processor is the one that CPUID tells of, with its cores', () => {
  const processor = {
    manufacturer: 'GenuineIntel',
    version: 'A processor',
    signature: 0x506e3,
    features: 0x78bfbff,
    megahertz: 1000,
  };
  const cpu = read({ cpus: 3, processor }).of(4)[0]!;
  assert.deepEqual([cpu.string(7), cpu.string(0x10)], ['GenuineIntel', 'A processor']);
  assert.deepEqual([cpu.get(8, 4), cpu.get(0x0c, 4), cpu.get(0x16, 2)], [0x506e3, 0x78bfbff, 1000]);
  assert.deepEqual([cpu.get(0x23, 1), cpu.get(0x25, 1), cpu.get(0x2a, 2)], [3, 3, 3]);
  assert.equal(read({ cpus: 300 }).of(4)[0]!.get(0x23, 1), 0xff, 'more than a byte holds');
  assert.equal(read({ cpus: 300 }).of(4)[0]!.get(0x2a, 2), 300);
});

test('the UUID has its first three fields little-endian, and without one is zero', () => {
  const uuid = Uint8Array.from({ length: 16 }, (_, at) => at + 1);
  const bytes = (options: object) =>
    Array.from({ length: 16 }, (_, at) =>
      read(options)
        .of(1)[0]!
        .get(8 + at, 1),
    );
  assert.deepEqual(bytes({ uuid }), [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16]);
  assert.deepEqual(bytes({}), new Array(16).fill(0));
});

test('fw_cfg has the entry point and the table as files', () => {
  const { bus, entry, table } = read();
  const select = (key: number) => bus.out(0x510, key, 2);
  const next = (count: number) => Uint8Array.from({ length: count }, () => bus.in(0x511));
  const big = (bytes: Uint8Array) => bytes.reduce((value, byte) => value * 256 + byte, 0);
  select(0x19);
  const files = Array.from({ length: big(next(4)) }, () => {
    const row = next(64);
    return {
      bytes: big(row.subarray(0, 4)),
      key: big(row.subarray(4, 6)),
      name: text(row.subarray(8)).replace(/\0+$/, ''),
    };
  });
  const file = (name: string) => {
    const found = files.find((one) => one.name === name)!;
    select(found.key);
    return next(found.bytes);
  };
  assert.deepEqual(file('etc/smbios/smbios-anchor'), entry);
  assert.deepEqual(file('etc/smbios/smbios-tables'), table);
});
