import assert from 'node:assert/strict';
import { test } from 'vitest';
import { BASE_CAPABILITIES, parseCpu } from '../../arch/cpu-models.ts';
import { CpuidPolicy } from '../../arch/cpuid.ts';
import { MSRS, msrIndex, msrRow, msrWriteIsLegal } from '../../arch/msrs.ts';
import { selfTestMsrWrites } from './firmware.ts';

test.each(['intel', 'amd'])('every MSR that the self-test writes takes the value on %s', (name) => {
  const model = new CpuidPolicy(parseCpu(name), { capabilities: BASE_CAPABILITIES, cpus: 1, apicId: 0 });
  const writes = selfTestMsrWrites(model.physicalAddressBits);
  for (const [index, hi, lo] of writes) {
    assert.equal(msrWriteIsLegal(msrRow(index)!, lo, hi, model), true, msrRow(index)!.name);
  }
  const fixed = MSRS.filter(({ name: msr }) => msr.startsWith('IA32_MTRR_FIX')).map(({ index }) => index);
  assert.deepEqual(
    fixed.filter((index) => !writes.some(([written]) => written === index)),
    [],
    'all fixed ranges are set',
  );
});

test('the one variable range is what lies between the low RAM and 4 GiB, uncached', () => {
  const value = (name: string) => {
    const [, hi, lo] = selfTestMsrWrites(46).find(([index]) => index === msrIndex(name))!;
    return [hi, lo];
  };
  assert.deepEqual(value('IA32_MTRR_PHYSBASE0'), [0, 0xc000_0000]);
  assert.deepEqual(value('IA32_MTRR_PHYSMASK0'), [0x3fff, 0xc000_0800]);
  assert.deepEqual(value('IA32_MTRR_DEF_TYPE'), [0, 0xc06]);
});
