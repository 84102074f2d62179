import { expect, test } from 'vitest';
import { VECTOR } from './sse.ts';
import { casesOf, digest } from './sse-cases.ts';
import { CASE, Testbed } from './sse-testbed.ts';
import recorded from './sse-vectors.json' with { type: 'json' };

/**
 * `sse-vectors.json` holds, for each form, a digest of what a real processor (named there) made of the cases that
 * sse-cases.ts derives from the form's name: XMM, MM and general registers, memory, MXCSR, status flags, exception. To
 * see a difference and not only that there is one, compare the form with tests/cpu's oracle.
 */
const bed = new Testbed(VECTOR);
const digests: Readonly<Record<string, string>> = recorded.digests;

/** Estimates differ between processors, and hints have no effect to record. */
const NOT_RECORDED = /RCP|RSQRT|PREFETCH/;

function runForm(index: number, cases: Uint8Array): Uint8Array {
  const results = cases.slice();
  for (let at = 0; at < cases.length; at += CASE.BYTES) {
    bed.run(index, cases.subarray(at, at + CASE.BYTES), results.subarray(at, at + CASE.BYTES));
  }
  return results;
}

const formIndex = (text: RegExp, memory = false): number => {
  const index = bed.forms.findIndex((form) => text.test(form.text) && form.memory === memory);
  expect(index, String(text)).toBeGreaterThanOrEqual(0);
  return index;
};

test('every recorded vector form gives what the real processor gave', () => {
  const wrong: string[] = [];
  let compared = 0;
  bed.forms.forEach(({ name }, i) => {
    if (NOT_RECORDED.test(name)) return;
    compared++;
    const ours = digest(runForm(i, casesOf(name, recorded.cases)))
      .toString(16)
      .padStart(8, '0');
    if (ours !== digests[name]) wrong.push(name);
  });
  expect(wrong).toEqual([]);
  expect(compared).toBe(Object.keys(digests).length);
}, 60_000);

/** One case with zeros but for what `fill` sets. */
function caseOf(fill: (view: DataView) => void): Uint8Array {
  const one = new Uint8Array(CASE.BYTES);
  const view = new DataView(one.buffer);
  view.setUint32(CASE.MXCSR, 0x1f80, true);
  fill(view);
  return one;
}

test('estimates are within 1.5 · 2^-12 of the truth and raise nothing', () => {
  for (const [text, truth] of [
    [/^RCPSS/, (x: number) => 1 / x],
    [/^RSQRTSS/, (x: number) => 1 / Math.sqrt(x)],
  ] as const) {
    const index = formIndex(text);
    for (let i = 0; i < 5000; i++) {
      const x = Math.fround(2 ** ((i % 200) - 100) * (1 + i / 5000));
      const after = runForm(
        index,
        caseOf((view) => view.setFloat32(CASE.XMM + 32, x, true)),
      );
      const view = new DataView(after.buffer);
      expect(Math.abs(view.getFloat32(CASE.XMM + 16, true) / truth(x) - 1)).toBeLessThanOrEqual(1.5 / 4096);
      expect(view.getUint32(CASE.MXCSR, true)).toBe(0x1f80);
    }
  }
});

test('an unmasked exception is #XM, or #UD with CR4.OSXMMEXCPT clear, and leaves the destination', () => {
  const index = formIndex(/^DIVSD/);
  const one = caseOf((view) => {
    view.setFloat64(CASE.XMM + 16, 1, true);
    view.setUint32(CASE.MXCSR, 0x1d80, true); // ZM clear
  });
  for (const [on, vector] of [
    [true, 19],
    [false, 6],
  ] as const) {
    bed.osxmmexcpt = on;
    const view = new DataView(runForm(index, one).buffer);
    expect(view.getUint32(CASE.FAULT, true) - 1).toBe(vector);
    expect(view.getFloat64(CASE.XMM + 16, true)).toBe(1);
    expect(view.getUint32(CASE.MXCSR, true)).toBe(0x1d84);
  }
  bed.osxmmexcpt = true;
});

test('an MMX instruction makes TOP 0 and all tags valid, a written register gets exponent ffffH, EMMS empties all', () => {
  const valid = { top: 0, empty: 0n };
  bed.forms.forEach(({ instruction, text, memory }, i) => {
    if (instruction.needs !== 'mmx' || text === 'EMMS') return;
    // CVTPI2Px from memory touches no MMX register and leaves the x87 state alone.
    if (/^CVTPI2P/.test(text) && memory) return;
    bed.resetX87();
    runForm(
      i,
      caseOf(() => {}),
    );
    const { exponent, ...state } = bed.x87(1);
    expect(state, text).toEqual(valid);
    const writes = text.split(' ')[1]!.startsWith('mm') && !memory && !/^MASKMOV/.test(text);
    if (writes) expect(exponent, text).toBe(0xffff);
  });
  runForm(
    formIndex(/^EMMS$/),
    caseOf(() => {}),
  );
  expect(bed.x87(1).empty).toBe(0x0101_0101_0101_0101n);
});

test('the short way of scalar arithmetic agrees with the long way on random operands', () => {
  // PE set and masked takes the host's arithmetic; with PE clear the library finds the same value.
  for (const text of [/^ADDSD/, /^MULSD/, /^DIVSD/, /^SQRTSD/, /^ADDSS/, /^MULSS/, /^DIVSS/, /^SUBPS/, /^MULPD/]) {
    const index = formIndex(text);
    const cases = casesOf(`short ${text}`, 300);
    const view = new DataView(cases.buffer);
    for (let at = 0; at < cases.length; at += CASE.BYTES) view.setUint32(at + CASE.MXCSR, 0x1fa0, true);
    const short = runForm(index, cases);
    for (let at = 0; at < cases.length; at += CASE.BYTES) view.setUint32(at + CASE.MXCSR, 0x1f80, true);
    const long = runForm(index, cases);
    for (let at = 0; at < cases.length; at += CASE.BYTES) {
      expect(short.subarray(at, at + 48)).toEqual(long.subarray(at, at + 48));
    }
  }
});
