import { describe, expect, test } from 'vitest';
import { ALL_MODELS, BASE_CAPABILITIES, nearest, parseCpu, shownFeatures } from './cpu-models.ts';
import { CpuidPolicy, xsaveBytes, xsaveCompactBytes } from './cpuid.ts';
import {
  type Capability,
  FEATURE_NAMES,
  FEATURE_REQUIRES,
  FEATURES,
  featureRow,
  XSAVE_COMPONENTS,
} from './cpuid-features.ts';
import { CR4, EFER, XCR0 } from './registers.ts';

const options = { capabilities: BASE_CAPABILITIES, cpus: 1, apicId: 0 };
const policy = (text: string, extra: object = {}) => new CpuidPolicy(parseCpu(text), { ...options, ...extra });
const leaf = (cpu: CpuidPolicy, number: number, subleaf = 0) => {
  const row = cpu.find(number, subleaf);
  return [...cpu.values.subarray(4 * row, 4 * row + 4)];
};
const text = (values: readonly number[]) =>
  values.map((word) => String.fromCharCode(...[0, 8, 16, 24].map((at) => (word >>> at) & 255))).join('');

test('no two features share a bit or a spelling', () => {
  const places = FEATURE_NAMES.map((name) => {
    const { leaf: at, subleaf, register, bit } = featureRow(name);
    return `${at}.${subleaf}.${register}.${bit}`;
  });
  expect(new Set(places).size).toBe(places.length);
  const spellings = FEATURE_NAMES.flatMap((name) => [name as string, ...featureRow(name).aliases]).map((name) =>
    name.replace(/[-_.]/g, ''),
  );
  expect(new Set(spellings).size).toBe(spellings.length);
});

test.each(['intel', 'amd'])('every feature that %s shows has its bit set and no other bit is set', (model) => {
  const cpu = policy(model);
  cpu.setLive(CR4.OSXSAVE | CR4.PKE, 1, 0, true);
  for (const name of FEATURE_NAMES) {
    const row = featureRow(name);
    const value = leaf(cpu, row.leaf, row.subleaf)[['eax', 'ebx', 'ecx', 'edx'].indexOf(row.register)]!;
    if (name === 'ht' || name === 'cmp_legacy') continue; // one processor
    if (row.leaf > leaf(cpu, row.leaf >= 0x8000_0000 ? 0x8000_0000 : 0)[0]!) continue; // beyond the range
    expect([name, (value >>> row.bit) & 1]).toEqual([name, cpu.has(name) ? 1 : 0]);
  }
});

test('the default models are complete x86-64-v3 processors and show no feature that the engine lacks', () => {
  for (const model of ['intel', 'amd']) {
    const cpu = policy(model);
    for (const name of FEATURE_NAMES) {
      const { level, needs } = featureRow(name);
      if (/v[123]$/.test(level)) expect([name, cpu.has(name)]).toEqual([name, true]);
      if (!BASE_CAPABILITIES.has(needs)) expect([name, cpu.has(name)]).toEqual([name, false]);
    }
  }
});

test('vmx appears with the capability, on Intel only, and -vmx takes it away', () => {
  const capabilities = new Set<Capability>([...BASE_CAPABILITIES, 'vmx', 'svm']);
  expect(policy('intel', { capabilities }).has('vmx')).toBe(true);
  expect(policy('intel').has('vmx')).toBe(false);
  expect(policy('intel,-vmx', { capabilities }).has('vmx')).toBe(false);
  expect(policy('amd', { capabilities }).has('vmx')).toBe(false);
  expect(policy('amd', { capabilities }).has('svm')).toBe(true);
  expect((leaf(policy('amd', { capabilities }), 0x8000_000a)[3]! & 1) !== 0).toBe(true);
  expect(policy('amd,-svm', { capabilities }).has('npt')).toBe(false);
});

test('leaf 7 says which sub-leaves it has: the last one with a bit in it', () => {
  expect(leaf(policy('intel'), 7)[0]).toBe(2);
  expect(leaf(policy('intel'), 7, 2)).toEqual([0, 0, 0, 1 << 4]); // BHI_CTRL
  expect(leaf(policy('intel,-bhi-ctrl'), 7)[0]).toBe(0);
  expect(leaf(policy('intel,-bhi-ctrl'), 7, 2)).toEqual([0, 0, 0, 0]);
});

test('vendor, brand and version read as text and numbers', () => {
  const cpu = policy('intel');
  const [max, b, c, d] = leaf(cpu, 0);
  expect(max).toBe(0xd);
  expect(text([b!, d!, c!])).toBe('GenuineIntel');
  expect(leaf(cpu, 1)[0]).toBe(0x506e3);
  expect(leaf(policy('amd'), 1)[0]).toBe(0x830f10);
  const brand = text([0, 1, 2].flatMap((part) => leaf(cpu, 0x8000_0002 + part)));
  expect(brand.replace(/\0+$/, '')).toBe('Terrarium x86-64 Processor (Intel)');
  expect(text(leaf(cpu, 0x4000_0000).slice(1))).toBe('TerrariumHV\0');
  expect(leaf(policy('intel,-hypervisor'), 1)[2]! >>> 31).toBe(0);
});

test('a leaf above the maximum answers as the highest basic leaf on Intel and as zeros on AMD', () => {
  const intel = policy('intel');
  expect(leaf(intel, 0x15)).toEqual(leaf(intel, 0xd));
  expect(leaf(intel, 0x9000_0000, 1)).toEqual(leaf(intel, 0xd, 1));
  expect(leaf(intel, 8)).toEqual([0, 0, 0, 0]);
  expect(leaf(policy('amd'), 0x15)).toEqual([0, 0, 0, 0]);
});

test('OSXSAVE, OSPKE and APIC follow the live state', () => {
  const cpu = policy('intel');
  expect((leaf(cpu, 1)[2]! >>> 27) & 1).toBe(0);
  cpu.setLive(CR4.OSXSAVE, 1, 0, false);
  expect((leaf(cpu, 1)[2]! >>> 27) & 1).toBe(1);
  expect((leaf(cpu, 1)[3]! >>> 9) & 1).toBe(0);
  expect((leaf(cpu, 7)[2]! >>> 4) & 1).toBe(0);
  cpu.setLive(CR4.PKE, 1, 0, true);
  expect((leaf(cpu, 7)[2]! >>> 4) & 1).toBe(1);
});

describe('leaf 0xD', () => {
  test('sub-leaf 0 EBX follows XCR0, ECX is the maximum', () => {
    const cpu = policy('intel');
    expect(leaf(cpu, 0xd)).toEqual([XCR0.X87 | XCR0.SSE | XCR0.AVX | XCR0.PKRU, 576, 840, 0]);
    cpu.setLive(CR4.OSXSAVE, XCR0.X87 | XCR0.SSE | XCR0.AVX, 0, true);
    expect(leaf(cpu, 0xd)[1]).toBe(832);
    cpu.setLive(CR4.OSXSAVE, XCR0.X87 | XCR0.SSE | XCR0.PKRU, 0, true);
    expect(leaf(cpu, 0xd)[1]).toBe(840);
    expect(leaf(cpu, 0xd, 9)).toEqual([8, 832, 0, 0]);
    expect(leaf(cpu, 0xd, 2)).toEqual([256, 576, 0, 0]);
    expect(leaf(policy('intel,-avx'), 0xd, 2)).toEqual([0, 0, 0, 0]);
    expect(leaf(policy('intel,-avx'), 0xd)[0]).toBe(XCR0.X87 | XCR0.SSE | XCR0.PKRU);
  });

  test('sub-leaf 1 EBX is 0 without XSAVEC and XSAVES, and the compacted size with them', () => {
    const xcr0 = XCR0.X87 | XCR0.SSE | XCR0.PKRU;
    const plain = policy('intel,-xsavec,-xgetbv1');
    plain.setLive(CR4.OSXSAVE, xcr0, 0, true);
    expect(leaf(plain, 0xd, 1)).toEqual([1, 0, 0, 0]);
    const compact = policy('intel');
    compact.setLive(CR4.OSXSAVE, xcr0, 0, true);
    expect(leaf(compact, 0xd, 1).slice(0, 2)).toEqual([15, 584]);
    compact.setLive(CR4.OSXSAVE, xcr0 | XCR0.AVX, 0, true);
    expect(leaf(compact, 0xd, 1)[1]).toBe(840);
  });

  test('components do not overlap in the standard format', () => {
    let end = 576;
    for (const part of XSAVE_COMPONENTS.filter(({ bit }) => bit >= 2)) {
      expect(part.offset).toBeGreaterThanOrEqual(end);
      end = part.offset + part.size;
    }
    expect(xsaveBytes(0xffff)).toBe(end);
    expect(xsaveCompactBytes(0xffff)).toBe(576 + 256 + 8);
  });

  test('XSETBV refuses x87 off, upper bits and what is not offered', () => {
    const cpu = policy('intel');
    expect(cpu.xcr0IsLegal(3, 0)).toBe(true);
    expect(cpu.xcr0IsLegal(2, 0)).toBe(false);
    expect(cpu.xcr0IsLegal(5, 0)).toBe(false);
    expect(cpu.xcr0IsLegal(7, 0)).toBe(true);
    expect(policy('intel,-avx').xcr0IsLegal(7, 0)).toBe(false);
    expect(cpu.xcr0IsLegal(1, 1)).toBe(false);
  });
});

test('topology: four cores of one thread have x2APIC ids at the package level shift 2', () => {
  const cpu = policy('intel', { cpus: 4, apicId: 3 });
  expect(leaf(cpu, 0xb, 0)).toEqual([0, 1, 0x100, 3]);
  expect(leaf(cpu, 0xb, 1)).toEqual([2, 4, 0x201, 3]);
  expect(leaf(cpu, 1)[1]! >>> 16).toBe((3 << 8) | 4);
  expect((leaf(cpu, 4, 0)[0]! >>> 26) + 1).toBe(4);
  expect((leaf(cpu, 4, 3)[0]! >>> 14) & 0xfff).toBe(3);
  expect(leaf(policy('amd', { cpus: 4, apicId: 3 }), 0x8000_0008)[2]).toBe(0x2003);
});

test('cache leaves multiply out to the size of the row', () => {
  for (const [model, number] of [
    ['intel', 4],
    ['amd', 0x8000_001d],
  ] as const) {
    const cpu = policy(model);
    cpu.model.caches.forEach((cache, at) => {
      const [, ebx, ecx] = leaf(cpu, number, at);
      expect(((ebx! >>> 22) + 1) * ((ebx! & 0xfff) + 1) * (ecx! + 1)).toBe(cache.bytes);
    });
    expect(leaf(cpu, number, cpu.model.caches.length)[0]).toBe(0);
  }
});

test('CR4 and EFER allow what the features allow', () => {
  const cpu = policy('intel');
  expect(cpu.cr4Allowed & CR4.SMEP).not.toBe(0);
  expect(cpu.cr4Allowed & (CR4.VMXE | CR4.LA57 | CR4.CET | CR4.SMXE)).toBe(0);
  expect(policy('intel,-smep').cr4Allowed & CR4.SMEP).toBe(0);
  expect(cpu.eferAllowed).toBe(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE);
  expect(policy('amd').eferAllowed & EFER.FFXSR).not.toBe(0);
});

describe('-cpu', () => {
  test('takes QEMU spellings, +, -, =on and =off', () => {
    const choice = parseCpu('intel,+tsc-deadline,-sse4.2,pcid=off,smep=on,umip');
    expect(choice.add).toEqual(['tsc_deadline_timer', 'smep', 'umip']);
    expect(choice.remove).toEqual(['sse4_2', 'pcid']);
  });

  test('narrows physical addresses, within what the machine can do', () => {
    expect(policy('intel,phys-bits=36').physicalAddressBits).toBe(36);
    expect(leaf(policy('intel,phys-bits=36'), 0x8000_0008)[0]! & 0xff).toBe(36);
    for (const bits of ['35', '49', '', 'x', '4e1']) {
      expect(() => parseCpu(`intel,phys-bits=${bits}`)).toThrow(/a number from 36 to 48/);
    }
  });

  test('takes parts of VMX away by the names that QEMU has for them, and adds none that does not work', () => {
    expect(parseCpu('intel,-vmx-mbec,vmx-pml=off').vmxRemove).toEqual(['vmx-mbec', 'vmx-pml']);
    expect(parseCpu('intel,-vmx-mbec,+vmx-mbec').vmxRemove).toEqual([]);
    expect(() => parseCpu('intel,+vmx-page-walk-5')).toThrow(/does not offer/);
    expect(() => parseCpu('intel,-vmx-mbek')).toThrow(/Did you mean vmx-mbec\?/);
  });

  test('names the nearest match for an unknown model or feature', () => {
    expect(() => parseCpu('intle')).toThrow(/Did you mean intel\?/);
    expect(() => parseCpu('amd,+smpe')).toThrow(/Did you mean smep\?/);
    expect(() => parseCpu('amd,smep=1')).toThrow(/on or off/);
    expect(nearest('x', ['abc', 'xy'])).toBe('xy');
  });

  test('refuses to add what cannot be had, and drops dependants of what is removed', () => {
    expect(() => policy('intel,+gfni')).toThrow(/cannot do yet/);
    expect(() => policy('intel,+sgx')).toThrow(/does not have sgx/);
    expect(() => policy('intel,-sse4_1,+sse4_2')).toThrow(/needs sse4_1/);
    expect(policy('intel,-ssse3').has('sse4_2')).toBe(false);
    expect(leaf(policy('intel,-xsave'), 0)[0]).toBe(0xb);
    expect(policy('intel,-xsave').xcr0Allowed).toBe(0);
  });

  test('every model can be built with every capability', () => {
    const capabilities = new Set(FEATURE_NAMES.map((name) => featureRow(name).needs));
    for (const model of ALL_MODELS) {
      const shown = shownFeatures({ model, add: [], remove: [] }, capabilities);
      for (const name of shown) for (const needed of FEATURE_REQUIRES[name] ?? []) expect(shown.has(needed)).toBe(true);
      expect(() => new CpuidPolicy({ model, add: [], remove: [] }, options)).not.toThrow();
    }
    expect(Object.keys(FEATURES).length).toBeGreaterThan(150);
  });
});
