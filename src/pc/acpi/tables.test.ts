import assert from 'node:assert/strict';
import { test } from 'vitest';
import type { L1Physical } from '../../base/address.ts';
import { readLittleEndian } from '../bytes.ts';
import { physical } from '../layout.ts';
import { SparseMemory } from '../testing/wires.ts';
import * as aml from './aml.ts';
import { dsdtBody } from './dsdt.ts';
import { type AcpiOptions, writeAcpiTables } from './tables.ts';

const OPTIONS: AcpiOptions = { cpus: 3, serialPorts: [1, 2], timerBits: 24, hpet: true, suspendToRam: false };

const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0) & 0xff;
const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);

/** Reads the tables as a kernel does: RSDP, XSDT, then each table by signature. */
function tables(options: Partial<AcpiOptions> = {}) {
  const memory = new SparseMemory(2 ** 20);
  const rsdpAt = writeAcpiTables(memory, { ...OPTIONS, ...options });
  const get = (at: number, bytes: number) => {
    const into = new Uint8Array(bytes);
    assert.equal(memory.copyOut(at as L1Physical, into), bytes);
    return into;
  };
  const tableAt = (at: number) => get(at, memory.read32(physical(at + 4)));
  const rsdp = get(rsdpAt, 36);
  const xsdt = tableAt(readLittleEndian(rsdp, 24, 4));
  const rsdt = tableAt(readLittleEndian(rsdp, 16, 4));
  const listed = new Map<string, Uint8Array>();
  const order: number[] = [];
  for (let at = 36; at < xsdt.length; at += 8) {
    order.push(readLittleEndian(xsdt, at, 4));
    const table = tableAt(order.at(-1)!);
    listed.set(text(table.subarray(0, 4)), table);
  }
  const fadt = listed.get('FACP')!;
  return {
    rsdpAt,
    rsdp,
    rsdt,
    xsdt,
    order,
    listed,
    fadt,
    dsdt: tableAt(readLittleEndian(fadt, 40, 4)),
    facsAt: readLittleEndian(fadt, 36, 4),
    facs: get(readLittleEndian(fadt, 36, 4), 64),
    madt: listed.get('APIC')!,
  };
}

test('the root pointer is found by a scan in steps of 16 and both its checksums hold', () => {
  const t = tables();
  assert.equal(t.rsdpAt % 16, 0);
  assert.ok(t.rsdpAt >= 0xe0000 && t.rsdpAt < 0x100000);
  assert.equal(text(t.rsdp.subarray(0, 8)), 'RSD PTR ');
  assert.deepEqual([sum(t.rsdp.subarray(0, 20)), sum(t.rsdp)], [0, 0]);
});

test('every table sums to zero, and RSDT and XSDT list the same ones', () => {
  const t = tables();
  for (const table of [t.rsdt, t.xsdt, t.dsdt, ...t.listed.values()])
    assert.equal(sum(table), 0, text(table.subarray(0, 4)));
  assert.deepEqual([...t.listed.keys()], ['FACP', 'APIC', 'HPET']);
  assert.deepEqual(
    t.order.map((_, i) => readLittleEndian(t.rsdt, 36 + 4 * i, 4)),
    t.order,
  );
});

test('the FADT names the blocks that the chipset decodes, the timer among them', () => {
  const { fadt, facs, facsAt } = tables();
  const u = (at: number, size: number) => readLittleEndian(fadt, at, size);
  assert.deepEqual([u(46, 2), u(48, 4), u(52, 1), u(53, 1)], [9, 0xb2, 0xf1, 0xf0], 'SCI, SMI port and its commands');
  assert.deepEqual([u(56, 4), u(64, 4), u(76, 4), u(80, 4)], [0x600, 0x604, 0x608, 0x60c]);
  assert.deepEqual([u(208, 1), u(209, 1), u(212, 4)], [1, 32, 0x608], 'the same in X_PM_TMR_BLK');
  assert.deepEqual([u(116, 1), u(120, 4), u(128, 1)], [1, 0xcf9, 6], 'reset register');
  assert.equal(u(112, 4) & (1 << 10), 1 << 10, 'RESET_REG_SUP');
  assert.equal(u(112, 4) & (1 << 8), 0, 'a 24-bit timer');
  assert.equal(readLittleEndian(tables({ timerBits: 32 }).fadt, 112, 4) & (1 << 8), 1 << 8);
  assert.deepEqual([text(facs.subarray(0, 4)), facsAt % 64], ['FACS', 0]);
});

test('the MADT lists each CPU, the I/O APIC and the overrides', () => {
  const { madt } = tables();
  const entries: number[][] = [];
  for (let at = 44; at < madt.length; at += madt[at + 1]!) entries.push([...madt.subarray(at, at + madt[at + 1]!)]);
  assert.deepEqual(
    entries.filter(([type]) => type === 0).map((entry) => [entry[3], entry[4]]),
    [
      [0, 1],
      [1, 1],
      [2, 1],
    ],
  );
  assert.deepEqual(
    entries.filter(([type]) => type === 2).map((entry) => [entry[3], entry[4], entry[8]]),
    [
      [0, 2, 0],
      [9, 9, 0x0d],
      [10, 10, 0x0d],
      [11, 11, 0x0d],
    ],
  );
  assert.deepEqual(entries.find(([type]) => type === 1)!.slice(4, 8), [0, 0, 0xc0, 0xfe]);
});

test('CPUs from APIC id 255 on have x2APIC structures', () => {
  const { madt } = tables({ cpus: 257 });
  const types = new Map<number, number>();
  for (let at = 44; at < madt.length; at += madt[at + 1]!) types.set(madt[at]!, (types.get(madt[at]!) ?? 0) + 1);
  assert.deepEqual([types.get(0), types.get(9), types.get(10)], [255, 2, 1]);
});

test('a machine without an HPET has no HPET table and no device for it', () => {
  const t = tables({ hpet: false });
  assert.equal(t.listed.has('HPET'), false);
  assert.equal(text(t.dsdt).includes('HPET'), false);
});

test('AML integers take their shortest form', () => {
  assert.deepEqual(aml.integer(0), [0x00]);
  assert.deepEqual(aml.integer(1), [0x01]);
  assert.deepEqual(aml.integer(2), [0x0a, 2]);
  assert.deepEqual(aml.integer(0x100), [0x0b, 0, 1]);
  assert.deepEqual(aml.integer(0xfec0_0000), [0x0c, 0, 0, 0xc0, 0xfe]);
});

test('AML package lengths count themselves, at each edge of their encoding', () => {
  const lengthOf = (content: number) => {
    const [first, ...rest] = aml
      .scope(
        '\\',
        Array.from({ length: content }, () => 0xa3),
      )
      .slice(1); // past ScopeOp
    const more = first! >> 6;
    let length = more === 0 ? first! & 0x3f : first! & 0xf;
    for (let i = 0; i < more; i += 1) length |= rest[i]! << (4 + 8 * i);
    return { more, length };
  };
  const name = 2; // "\" and the null name
  assert.deepEqual(lengthOf(0x3e - name), { more: 0, length: 0x3f });
  assert.deepEqual(lengthOf(0x3f - name), { more: 1, length: 0x41 });
  assert.deepEqual(lengthOf(0xffd - name), { more: 1, length: 0xfff });
  assert.deepEqual(lengthOf(0xffe - name), { more: 2, length: 0x1001 });
});

test('AML names and EISA ids are encoded as the ACPI specification shows', () => {
  assert.equal(text(Uint8Array.from(aml.nameString('\\_S5'))), '\\_S5_');
  assert.deepEqual(aml.nameString('_SB.PCI0')[0], 0x2e, 'DualNamePrefix');
  assert.deepEqual(aml.nameString('_SB.PCI0.ISA').slice(0, 2), [0x2f, 3], 'MultiNamePrefix');
  assert.deepEqual(aml.eisaId('PNP0A03'), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
  assert.throws(() => aml.nameString('toolong1'), /AML name segment/);
});

test('the DSDT offers S3 only where somebody can suspend', () => {
  const has = (suspendToRam: boolean) =>
    text(dsdtBody({ cpus: 1, serialPorts: [1], hpet: true, suspendToRam })).includes('_S3_');
  assert.deepEqual([has(true), has(false)], [true, false]);
});
