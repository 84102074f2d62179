import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../arch/registers.ts';
import { EXIT } from '../core/exits.ts';
import { AT, TestMachine } from '../core/machine-testbed.ts';

/** DAA, DAS, AAA, AAS, AAM, AAD, SALC. Examples of SDM 2A 3.2 and of adjusted sums of all digits. */

function run(code: string, ax: number, flags = 0): { ax: number; cf: boolean; af: boolean; zf: boolean; sf: boolean } {
  const m = new TestMachine().realMode();
  m.code(`${code} f4`);
  m.setReg(0, 0xabcd_0000 | ax);
  m.setFlags(flags);
  expect(m.run()).toBe(EXIT.HLT);
  expect(m.reg(0) >>> 16).toBe(0xabcd);
  const after = m.cpu.rflags();
  const has = (flag: number): boolean => (after & flag) !== 0;
  return { ax: m.reg(0) & 0xffff, cf: has(RFLAGS.CF), af: has(RFLAGS.AF), zf: has(RFLAGS.ZF), sf: has(RFLAGS.SF) };
}

const bcd = (n: number): number => (Math.floor(n / 10) << 4) | (n % 10);

describe('packed', () => {
  it('ADD and DAA add two-digit numbers, SUB and DAS subtract them', () => {
    const m = new TestMachine().realMode();
    m.code('00d8 27 f4 28d8 2f f4'); // add al,bl; daa; hlt; sub al,bl; das; hlt
    for (let a = 0; a < 100; a += 7) {
      for (let b = 0; b < 100; b += 3) {
        m.rip = AT.CODE;
        for (const [result, carry] of [
          [(a + b) % 100, a + b > 99],
          [(a - b + 100) % 100, a < b],
        ] as const) {
          m.setReg(0, bcd(a));
          m.setReg(3, bcd(b));
          expect(m.run()).toBe(EXIT.HLT);
          expect([m.reg(0) & 0xff, m.cpu.rflags() & RFLAGS.CF]).toEqual([bcd(result), carry ? 1 : 0]);
          m.rip += 1;
        }
      }
    }
  });

  it('the examples of the manual', () => {
    expect(run('27', 0x00ae)).toMatchObject({ ax: 0x14, cf: true, af: true });
    expect(run('2f', 0x00ee)).toMatchObject({ ax: 0x88, cf: true, af: true, sf: true });
  });

  it('DAS keeps the borrow of the low digit', () => {
    expect(run('2f', 0x0000, RFLAGS.AF)).toMatchObject({ ax: 0xfa, cf: true, af: true });
    expect(run('27', 0x00fa, RFLAGS.AF)).toMatchObject({ ax: 0x60, cf: true });
  });
});

describe('unpacked', () => {
  it('AAA and AAS carry into AH', () => {
    expect(run('37', 0x010b)).toMatchObject({ ax: 0x0201, cf: true, af: true });
    expect(run('37', 0x0135)).toMatchObject({ ax: 0x0105, cf: false, af: false });
    expect(run('37', 0x00ff)).toMatchObject({ ax: 0x0205 });
    expect(run('3f', 0x02ff)).toMatchObject({ ax: 0x0109, cf: true, af: true });
    expect(run('3f', 0x0005, RFLAGS.AF)).toMatchObject({ ax: 0xfe0f, cf: true });
  });

  it('AAM and AAD in any base; base 0 is #DE', () => {
    expect(run('d40a', 0x003f)).toMatchObject({ ax: 0x0603, zf: false });
    expect(run('d410', 0x00a0)).toMatchObject({ ax: 0x0a00, zf: true });
    expect(run('d50a', 0x0603)).toMatchObject({ ax: 63 });
    expect(run('d507', 0x0209)).toMatchObject({ ax: 23 });
    const m = new TestMachine().realMode();
    m.code('d400');
    m.run();
    expect(m.stoppedAt).toBe(0);
  });

  it('SALC copies CF into AL and touches no flag', () => {
    expect(run('d6', 0x1234, RFLAGS.CF | RFLAGS.ZF)).toMatchObject({ ax: 0x12ff, cf: true, zf: true });
    expect(run('d6', 0x1234)).toMatchObject({ ax: 0x1200, cf: false });
  });
});

it('none of them exists in 64-bit mode', () => {
  for (const code of ['27', '2f', '37', '3f', 'd40a', 'd50a', 'd6']) {
    const m = new TestMachine().longMode();
    m.code(code);
    m.run();
    expect(m.stoppedAt).toBe(6);
  }
});
