import { describe, expect, test } from 'vitest';
import { cpuOption, matches, parseSections, parseSubTests, verdictOf } from './kvm-unit-tests.mjs';

test('sections have their keys, without quotes; comments and disabled sections have none', () => {
  const text = `# comment\n#[off]\n#file = off.flat\n[one]\nfile = one.flat\ntest_args = "-a b*"\nqemu_params = -cpu max \\\n -m 4g\n[two]\nfile = two.flat\n`;
  expect(parseSections(text)).toEqual([
    { name: 'one', file: 'one.flat', test_args: '-a b*', qemu_params: '-cpu max   -m 4g' },
    { name: 'two', file: 'two.flat' },
  ]);
});

test('sub-tests are those of the table of that name, and those that main asks for', () => {
  const source = `if (test_wanted("first", argv, argc)) {}
struct other_test other_tests[] = {\n\t{ "wrong" },\n};
struct x_test x_tests[] = {\n\t/* a */\n\t{ "with spaces", NULL,\n\t\tmore },\n\tTEST(word),\n\t{ NULL },\n};\n`;
  expect(parseSubTests('x', source)).toEqual(['first', 'with_spaces', 'word']);
});

test('a pattern has its star at either end', () => {
  expect(['abc', 'ab', 'b'].map((name) => matches(name, 'ab*'))).toEqual([true, true, false]);
  expect(['abc', 'ab', 'b'].map((name) => matches(name, '*b'))).toEqual([false, true, true]);
  expect(['abc', 'ac'].map((name) => matches(name, '*b*'))).toEqual([true, false]);
  expect(['abc', 'ab'].map((name) => matches(name, 'ab'))).toEqual([false, true]);
});

test('of a CPU the features are kept, and who makes it', () => {
  expect(cpuOption('Skylake-Server,host-phys-bits,+vmx,-vmx-mbec')).toBe('intel,+vmx,-vmx-mbec');
  expect(cpuOption('IvyBridge,phys-bits=36,host-phys-bits=off')).toBe('intel,phys-bits=36');
  expect(cpuOption('max,+svm')).toBe('amd,+svm');
  expect(cpuOption('Opteron_G1,vendor=AuthenticAMD')).toBe('amd');
});

describe('a run that ends', () => {
  const end = (rest) => verdictOf({ status: 1, timedOut: false, output: '', errors: '', ...rest });
  test('with a report that failed has failed, and the first is named', () => {
    const output = 'PASS: a\nFAIL: b is 3\nFAIL: c\nSUMMARY: 3 tests, 2 unexpected failures\n';
    expect(end({ status: 3, output })).toEqual({ verdict: 'FAIL', pass: 1, fail: 2, skip: 0, note: 'b is 3' });
  });
  test('well after skipping everything has been skipped', () => {
    expect(end({ output: 'SKIP: no such feature\nSUMMARY: 0 tests\n' })).toMatchObject({
      verdict: 'SKIP',
      note: 'no such feature',
    });
    expect(end({ output: 'PASS: a\nSKIP: b\n' }).verdict).toBe('PASS');
  });
  test('without having found its test has failed', () => {
    expect(end({ output: "FAIL: command line didn't match any tests!\n" }).verdict).toBe('FAIL');
  });
  test('because the command line was refused has been skipped, and says why', () => {
    expect(end({ status: 2, errors: 'terrarium: -cpu: +svm needs "svm".\n' })).toMatchObject({
      verdict: 'SKIP',
      note: '-cpu: +svm needs "svm".',
    });
  });
  test('otherwise than by its own will has crashed or was cut off', () => {
    expect(end({ status: 4 }).verdict).toBe('CRASH');
    expect(end({ status: 127 }).verdict).toBe('ABORT');
    expect(end({ status: 'signal SIGKILL', timedOut: true }).verdict).toBe('TIMEOUT');
  });
});
