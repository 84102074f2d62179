import { describe, expect, test } from 'vitest';
import { REGIONS_RETIRED } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';

const plan = { accel: 'compiler', jitThreshold: 3, jitBatch: 1 } as const;

/** Counts for ever: three instructions a round, the second of which only its handler can run. */
function counting(): TestMachine {
  const m = new TestMachine({ plan });
  m.longMode();
  m.code(`
    ffc0       ; next: inc eax
    9f         ; lahf
    ebfb       ; jmp next
  `);
  m.rip = AT.CODE;
  return m;
}

const retired = (m: TestMachine): number => m.cpu.get(REGIONS_RETIRED);

describe('regions', () => {
  test('are told how many instructions they have run, called handlers among them', () => {
    const m = counting();
    m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
    const before = retired(m);
    m.engine.run(m.vcpu, 3000);
    expect(retired(m) - before).toBe(3000);
    expect(m.reg(0) & 0xffff_00ff).toBe((3300 / 3) & 0xff);
  });

  test('in lockstep leave two instructions in a row that they would call to the interpreter', () => {
    const m = new TestMachine({ plan: { ...plan, accel: 'lockstep' } });
    m.longMode();
    m.code(`
      ffc0       ; next: inc eax
      9f9f       ; lahf; lahf: the second is where a block begins
      ebfa       ; jmp next
    `);
    m.rip = AT.CODE;
    for (let i = 0; i < 4; i += 1) m.engine.run(m.vcpu, 100);
    expect(m.vcpu.instructions).toBe(400);
    expect(m.engine.lockstep!.counters.compared).toBeGreaterThan(0);
  });

  test('call the handler of their first instruction, which has not run yet', () => {
    const m = new TestMachine({ plan: { ...plan, jitThreshold: 1 } });
    m.longMode();
    m.code('9f 90 ebfc'); // next: lahf; nop; jmp next
    m.setReg(0, 0xffff);
    m.rip = AT.CODE;
    m.engine.run(m.vcpu, 30);
    expect(m.engine.compiler!.counters.compiled).toBe(1);
    expect(m.reg(0)).toBe(0x02ff);
  });

  test('stay behind a call of a handler that changes their own code', () => {
    const m = new TestMachine({ plan });
    m.longMode();
    // stosb over the immediate behind it, by a handler, in each round
    m.code(`
      488d3d04000000 ; next: lea rdi, [rip + 4]
      aa             ; stosb
      6683c300       ; add bx, 0
      ffc0           ; inc eax
      ffc9           ; dec ecx
      75ee           ; jnz next
      f4             ; hlt
    `);
    m.setReg(1, 200);
    m.rip = AT.CODE;
    m.engine.run(m.vcpu, 10_000);
    expect(m.reg(3)).toBe(expectedSum(200));
    expect(m.engine.compiler!.counters.lost).toBeGreaterThan(0);
  });

  test('are not made while the host has as many modules as it can bear', () => {
    const m = counting();
    let modules = 16_000;
    Object.defineProperty(m.engine.interpreter, 'modules', { get: () => modules });
    for (let i = 0; i < 20; i += 1) m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBe(0);
    modules = 0;
    for (let i = 0; i < 20; i += 1) m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
  });
});

/** What BX has after `rounds`: each adds AL, sign-extended, which counts up. */
function expectedSum(rounds: number): number {
  let sum = 0;
  for (let al = 0; al < rounds; al += 1) sum += (al << 24) >> 24;
  return sum & 0xffff;
}
