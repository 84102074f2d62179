import { describe, expect, it } from 'vitest';
import { CR4, RFLAGS, RFLAGS_IOPL } from '../../arch/registers.ts';
import { INTERCEPT } from './cpu.ts';
import { EXIT, X } from './exits.ts';
import { SHADOW, shadowAt } from './flags.ts';
import { gpr, S } from './layout.ts';
import { AT, TestMachine } from './machine-testbed.ts';

/** System instructions whose plain cases are written out in isa/, and the others that are not: both ways one meaning. */

describe('RDTSC', () => {
  // nop; rdtsc; mov esi, eax; nop; nop; rdtscp; hlt
  const CODE = '90 0f31 89c6 90 90 0f01f9 f4';

  it.each([0, 1, 3])('tells the same time with %i ticks an instruction as when L0 is asked', (rate) => {
    const m = new TestMachine().longMode();
    m.code(CODE);
    m.tscRate = rate;
    m.tscHigh = 7;
    m.tsc = (instructions: number) => (instructions * (rate || 3) + 0xffff_ff00) >>> 0;
    m.vcpu.instructions = 1000;
    m.cpu.set(S.TSC_AUX, 0x55);
    expect(m.runOn()).toBe(EXIT.HLT);
    const per = rate || 3;
    const at = (count: number): number => 0xffff_ff00 + count * per;
    // L0's high half is that of its low half: only the line carries into it
    expect(m.reg(6)).toBe(at(1001) % 2 ** 32);
    expect(m.reg(0)).toBe(at(1005) % 2 ** 32);
    if (rate !== 0) expect(m.reg(2)).toBe(7 + (at(1005) >= 2 ** 32 && at(1000) < 2 ** 32 ? 1 : 0));
    expect(m.reg(1)).toBe(0x55);
  });

  it.each([1, 2, 3, 5])('counts instructions in runs of %i as in one', (budget) => {
    const m = new TestMachine().longMode();
    m.code(CODE);
    m.tscRate = 1;
    for (let i = 0; i < 20 && m.run(budget) === EXIT.BUDGET; i += 1);
    expect([m.reg(6), m.reg(0), m.cpu.get(X.REASON)]).toEqual([1, 5, EXIT.HLT]);
  });

  it('is #GP(0) at level 3 with CR4.TSD, and leaves if L0 wants it', () => {
    const m = new TestMachine().longMode(3);
    m.code('0f31 f4');
    m.tscRate = 1;
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.TSD);
    m.runOn();
    expect(m.stoppedAt).toBe(13);
    const n = new TestMachine().longMode();
    n.code('90 0f31 f4');
    n.tscRate = 1;
    n.vcpu.intercepts.instructions = INTERCEPT.RDTSC;
    expect(n.run()).toBe(EXIT.RDTSC);
    expect(n.rip).toBe(AT.CODE + 1);
  });

  it('RDTSCP is #UD where L0 has not enabled it', () => {
    const m = new TestMachine().longMode();
    m.code('0f01f9 f4');
    m.tscRate = 1;
    m.vcpu.intercepts.instructions = INTERCEPT.RDTSCP_UD;
    m.runOn();
    expect(m.stoppedAt).toBe(6);
  });
});

it('PAUSE leaves only if L0 wants it', () => {
  const m = new TestMachine().longMode();
  m.code('f390 f390 f4');
  expect(m.run()).toBe(EXIT.HLT);
  m.rip = AT.CODE;
  m.vcpu.intercepts.instructions = INTERCEPT.PAUSE;
  expect(m.run()).toBe(EXIT.PAUSE);
  expect(m.rip).toBe(AT.CODE);
});

describe('CLI and STI', () => {
  it('change IF at level 0, and shadow one instruction if IF was clear', () => {
    const m = new TestMachine().longMode();
    m.code('fb 90 90 fb fa f4');
    m.run(1);
    expect(m.cpu.get(S.RFLAGS) & RFLAGS.IF).toBe(RFLAGS.IF);
    expect(shadowAt(m.cpu, 1)).toBe(SHADOW.STI);
    expect(shadowAt(m.cpu, 2)).toBe(SHADOW.NONE);
    m.run(3);
    expect(shadowAt(m.cpu, 4)).toBe(SHADOW.NONE);
    m.run(1);
    expect(m.cpu.get(S.RFLAGS) & RFLAGS.IF).toBe(0);
  });

  it('STI ends the run behind the instruction it shadows, if L0 waits for a window', () => {
    const m = new TestMachine().longMode();
    m.code('90 fb 90 90 90 f4');
    m.vcpu.intercepts.interruptWindow = true;
    expect(m.run()).toBe(EXIT.BUDGET);
    expect([m.rip, m.vcpu.instructions]).toEqual([AT.CODE + 3, 3]);
  });

  it.each([
    { name: 'CLI', code: 'fa', before: RFLAGS.IF, after: 0 },
    { name: 'STI', code: 'fb', before: 0, after: RFLAGS.IF },
  ])('$name at level 3 is #GP(0) with IOPL 0 and does its work with IOPL 3', ({ code, before, after }) => {
    const m = new TestMachine().longMode(3);
    m.code(code);
    m.setFlags(before);
    m.runOn();
    expect(m.stoppedAt).toBe(13);
    const n = new TestMachine().longMode(3);
    n.code(`${code} 90`);
    n.setFlags(before | RFLAGS_IOPL);
    expect(n.run(1)).toBe(EXIT.BUDGET);
    expect([n.rip, n.cpu.get(S.RFLAGS) & RFLAGS.IF]).toEqual([AT.CODE + 1, after]);
  });
});

it('PUSHFQ pushes status and system flags together, without VM and RF', () => {
  const m = new TestMachine().longMode();
  // cmp eax, 1 with eax = 0: CF, AF, SF, PF; then pushfq; pop rbx; hlt
  m.code('83f801 9c 5b f4');
  m.setReg(0, 0);
  m.setFlags(RFLAGS.IF | RFLAGS.DF);
  expect(m.run()).toBe(EXIT.HLT);
  expect(m.reg(3)).toBe(RFLAGS.IF | RFLAGS.DF | RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.SF | 2);
});

it('IMUL of 64 bits sets CF and OF exactly where the product does not fit, next to 2^63 too', () => {
  const m = new TestMachine().longMode();
  m.code('480fafc3 0f92c1 f4');
  const root = 3037000499n;
  const values = [
    0n,
    1n,
    -1n,
    2n ** 31n,
    -(2n ** 31n),
    2n ** 32n,
    -(2n ** 32n),
    2n ** 62n,
    2n ** 63n - 1n,
    -(2n ** 63n),
  ];
  for (let i = -2n; i <= 2n; i += 1n) values.push(root + i, -root - i, 2n ** 32n + i);
  // Factors of numbers around 2^63
  for (const factor of [3n, 7n, 1234567n, 4294967291n]) {
    for (const near of [2n ** 63n - 1n, 2n ** 63n, 2n ** 63n + 1n])
      values.push(factor, near / factor, near / factor + 1n);
  }
  const half = (x: bigint): [number, number] => [Number(BigInt.asUintN(32, x)), Number(BigInt.asUintN(32, x >> 32n))];
  for (const a of values) {
    for (const b of values) {
      const [x, y] = [BigInt.asIntN(64, a), BigInt.asIntN(64, b)];
      m.rip = AT.CODE;
      m.setReg(0, ...half(x));
      m.setReg(3, ...half(y));
      m.setReg(1, 0);
      expect(m.run()).toBe(EXIT.HLT);
      expect([m.reg(0), m.cpu.get(gpr(0) + 4)]).toEqual(half(x * y));
      expect(m.reg(1), `${x} × ${y}`).toBe(BigInt.asIntN(64, x * y) === x * y ? 0 : 1);
    }
  }
});
