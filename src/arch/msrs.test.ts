import { expect, test } from 'vitest';
import { BASE_CAPABILITIES, parseCpu } from './cpu-models.ts';
import { CpuidPolicy } from './cpuid.ts';
import type { Capability } from './cpuid-features.ts';
import {
  EXCEPTION_NAMES,
  EXCEPTIONS,
  type ExceptionName,
  PUSHES_ERROR_CODE,
  secondException,
  VECTOR,
} from './exceptions.ts';
import { MSRS, msrExists, msrIndex, msrRow, msrWriteIsLegal } from './msrs.ts';
import { CR0_DEFINED, DR6_WRITABLE, RFLAGS, RFLAGS_DEFINED, RFLAGS_IOPL } from './registers.ts';

const capabilities = new Set<Capability>([...BASE_CAPABILITIES, 'vmx', 'svm']);
const cpu = (name: string) => new CpuidPolicy(parseCpu(name), { capabilities, cpus: 1, apicId: 0 });
const intel = cpu('intel');
const amd = cpu('amd');

/** `1b 200-20f`: hexadecimal indices and ranges. */
const indices = (list: string, base = 0): number[] =>
  list.split(' ').flatMap((part) => {
    const [first, last] = part.split('-').map((text) => Number.parseInt(text, 16));
    return Array.from({ length: (last ?? first!) - first! + 1 }, (_, n) => base + first! + n);
  });

test('indices and names are unique and ascend', () => {
  const all = MSRS.map((row) => row.index);
  expect(all).toEqual([...new Set(all)].sort((a, b) => a - b));
  expect(new Set(MSRS.map((row) => row.name)).size).toBe(MSRS.length);
  for (const row of MSRS) {
    if (row.exists === 'never') expect([row.name, row.because]).not.toEqual([row.name, '']);
    if (typeof row.reset !== 'string') for (const half of row.reset) expect(half).toBe(half >>> 0);
  }
});

test('every MSR that Linux and KVM touch (linux-guest.md 6) has a row', () => {
  const probed = [
    ...indices('1b 8b fe 200-20f 250 258 259 268-26f 277 2ff 34 3a ce 140 1a0 64e 174-176'),
    ...indices('10 48 c1-c8 e1 186-18d 1c4 1c5 1d9 309-30b 345 38d-390 3f1 3f2 560 561 570-572 580-587 600 d90'),
    ...indices('3b c4 e7 e8 122 19b 19c 1b0 1b2 480-492'),
    ...indices('80-84 100-103', 0xc000_0000),
    ...indices('0-7 10 15 1f 55 58 114 117 200-20b 1020 1028 1029', 0xc001_0000),
  ];
  for (const index of probed)
    expect([index.toString(16), msrRow(index) !== undefined]).toEqual([index.toString(16), true]);
});

test('the decompressor can read IA32_MISC_ENABLE on the Intel model; it does not exist on AMD', () => {
  expect(msrExists(msrRow(0x1a0)!, intel)).toBe(true);
  expect(msrExists(msrRow(0x1a0)!, amd)).toBe(false);
});

test('an unconditional read of the Linux boot lists exists on the model that makes it', () => {
  for (const index of indices('1b 8b fe 200-20f 250 258 259 268-26f 277 2ff 174-176 34 3a ce 140 1a0')) {
    expect([index.toString(16), msrExists(msrRow(index)!, intel)]).toEqual([index.toString(16), true]);
  }
  for (const index of [
    ...indices('1b 8b fe 200-20f 250 258 259 268-26f 277 2ff 174-176'),
    ...indices('80-84 100-103', 0xc000_0000),
    ...indices('0-3 7 10 15 1f 55 58 1020 1028 1029', 0xc001_0000),
  ]) {
    expect([index.toString(16), msrExists(msrRow(index)!, amd)]).toEqual([index.toString(16), true]);
  }
});

test('WRMSR is judged by reserved bits, canonical addresses, physical width and memory types', () => {
  const legal = (index: number, lo: number, hi = 0, model = intel) => msrWriteIsLegal(msrRow(index)!, lo, hi, model);
  const lstar = msrIndex('IA32_LSTAR');
  expect(legal(lstar, 0, 0xffff_8000)).toBe(true);
  expect(legal(lstar, 0, 0x0000_8000)).toBe(false);
  expect(legal(lstar, 0, 0x0000_7fff)).toBe(true);
  expect(legal(0x277, 0x0007_0406, 0x0007_0406)).toBe(true);
  expect(legal(0x277, 0x02)).toBe(false);
  expect(legal(0x250, 0x07)).toBe(false);
  expect(legal(0x200, 6, 0x3fff)).toBe(true);
  expect(legal(0x200, 6, 0x4000)).toBe(false);
  expect(legal(0x200, 6, 0x4000, amd)).toBe(true);
  expect(legal(0x2ff, 0xc06)).toBe(true);
  expect(legal(0x2ff, 0x100)).toBe(false);
  expect(legal(0xfe, 0)).toBe(false);
  expect(legal(msrIndex('IA32_TSC_AUX'), 1, 1)).toBe(false);
  expect(legal(0xc001_0010, 0xffff_ffff, 1, amd)).toBe(true);
});

test('IA32_SPEC_CTRL has the bits that CPUID announces, and exists where one of them is', () => {
  const legal = (model: string, lo: number) => msrWriteIsLegal(msrRow(0x48)!, lo, 0, cpu(model));
  expect([1, 2, 4, 0x400, 0x407, 8, 0x800].map((bits) => legal('intel', bits))).toEqual([
    ...[true, true, true, true, true],
    ...[false, false],
  ]);
  expect(legal('intel,-bhi-ctrl', 0x400)).toBe(false);
  expect([1, 2, 4].map((bits) => legal('amd', bits))).toEqual([true, true, false]);
  expect(legal('intel,-spec-ctrl,-stibp,-ssbd', 0)).toBe(false);
});

test('RFLAGS_DEFINED is the flags, IOPL and bit 1', () => {
  expect(Object.values(RFLAGS).reduce((all, bit) => all | bit, RFLAGS_IOPL)).toBe(RFLAGS_DEFINED);
  expect(CR0_DEFINED).toBe(0xe005_003f);
  expect(DR6_WRITABLE).toBe(0xe00f);
});

test('vectors, names and error codes agree', () => {
  for (const [name, row] of Object.entries(EXCEPTIONS)) {
    expect(EXCEPTION_NAMES[row.vector]).toBe(name as ExceptionName);
    expect(VECTOR[name.replace('#', '') as keyof typeof VECTOR]).toBe(row.vector);
  }
  expect(Object.keys(VECTOR).length).toBe(Object.keys(EXCEPTIONS).length);
  // 8, 10–14, 17 and 21 on Intel; 29 and 30 on AMD.
  expect(PUSHES_ERROR_CODE >>> 0).toBe(0x6022_7d00);
});

test('a second exception becomes #DF or a shutdown as SDM 3A Table 6-5 says', () => {
  const { DE, GP, PF, DF, UD, NMI } = VECTOR;
  expect([secondException(GP, GP), secondException(PF, GP), secondException(PF, PF)]).toEqual([1, 1, 1]);
  expect([secondException(GP, PF), secondException(UD, GP), secondException(NMI, PF)]).toEqual([0, 0, 0]);
  expect([secondException(DF, GP), secondException(DF, PF), secondException(DF, UD)]).toEqual([2, 2, 0]);
  expect([secondException(DE, UD), secondException(0x80, GP)]).toEqual([0, 0]);
});
