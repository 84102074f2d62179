import { expect, it } from 'vitest';
import { CR0, EFER } from '../../arch/registers.ts';
import { AR } from './address.ts';
import { EXIT, X } from './exits.ts';
import { ALLOW, S, SEG } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';

/**
 * Random system instructions over random descriptors, gates and stacks, in every mode: nothing may throw, and at each stop
 * the state is one that a processor can be in (SDM 3C 26.3.1 "Checks on the Guest State Area" is a list of such).
 */

/** First bytes; random operand bytes follow. */
const OPCODES =
  '0f00 0f01 0f02 0f03 0f05 0f06 0f07 0f08 0f09 0f20 0f21 0f22 0f23 0f30 0f31 0f32 0f34 0f35 0fa0 0fa1 0fa2 0fa8 0fa9 ' +
  '0fae 0fb2 0fb4 0fb5 0fc7 0f78 0f79 06 07 0e 16 17 1e 1f 60 61 62 63 6c 6d 6e 6f 8c 8e 9a 9c 9d c4 c5 c8 ca cb cc cd ' +
  'ce cf e4 e5 e6 e7 ea ec ed ee ef f1 f4 fa fb ff 660f38 c9 cf cf 48cf ca 8e 9d 0f22';

/** A small generator of its own: runs repeat. Parameters of Numerical Recipes. */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed;
  }
  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
  of<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

const hex = (byte: number): string => byte.toString(16).padStart(2, '0');

function randomMachine(random: Random): TestMachine {
  const m = new TestMachine();
  const mode = random.below(5);
  if (mode === 0) m.realMode();
  else if (mode < 3) m.protectedMode(mode === 1 ? 0 : 3);
  else m.longMode(mode === 3 ? 0 : 3);
  for (let selector = 0x50; selector < 0x200; selector += 8) {
    const base = random.of([AT.DATA, AT.TSS2, AT.CODE]) & 0xffff;
    const high = (random.below(256) << 8) | (random.below(16) << 20) | random.below(3);
    m.descriptor(selector, (random.below(0x1_0000) | (base << 16)) >>> 0, high);
  }
  m.write32(AT.TSS2 + 32, AT.DATA, 2, 1, 2, 3, 4, AT.IST1, 6, 7, 8);
  m.write32(AT.TSS2 + 72, SEL.DATA, SEL.CODE32, SEL.DATA, SEL.DATA, 0, 0, 0, 0);
  for (let i = 0; i < 8; i += 1) m.gate(0x20 + i, 0x50 + 8 * random.below(50), AT.HLTS, random.below(0x1_0000));
  for (const vector of [6, 8, 13, 14]) {
    m.gate(vector, random.of([SEL.CODE64, SEL.CODE32]), AT.CODE + random.below(300), 0x8e00 | random.below(2));
  }
  const opcodes = OPCODES.split(' ');
  let code = '';
  for (let i = 0; i < 100; i += 1) {
    if (random.below(6) === 0) code += random.of(['66', 'f3', 'f2', '67', '48', '64']);
    code += random.of(opcodes);
    for (let n = random.below(5); n > 0; n -= 1) {
      code += hex(
        random.below(3) === 0 ? random.below(256) : random.of([0, 8, 0x10, 0x18, 0x50, 0x58, 0xc0, 0xd8, 0xe0]),
      );
    }
  }
  m.code(code);
  m.code(code, AT.DATA);
  m.cpu.set(S.CR4, m.cpu.cr4 | random.of([0, 0x2000, 0x20, 0x1_0000, 8]));
  for (let i = 0; i < 16; i += 1) {
    if (i === 4) continue;
    const low = random.below(2) === 0 ? AT.DATA + random.below(0x1000) : random.below(0x200);
    m.setReg(i, random.below(8) === 0 ? random.below(2 ** 32) : low, random.below(8) === 0 ? random.below(2 ** 32) : 0);
  }
  const selectors = [SEL.CODE32, SEL.DATA, SEL.USER32, SEL.USER_DATA, SEL.USER64, 0x58, 0x60];
  for (let at = AT.STACK - 256; at < AT.STACK + 64; at += 4) {
    m.write32(
      at,
      random.below(3) !== 0 ? random.of(selectors) : random.of([AT.CODE + random.below(200), random.below(2 ** 32)]),
    );
  }
  m.setFlags(random.below(4) === 0 ? random.below(0x40_0000) & ~0x2_0000 : 2);
  return m;
}

/** What no guest can bring about. */
function expectPossible(m: TestMachine, context: string): void {
  const { cpu } = m;
  const { cr0, efer, cpl } = cpu;
  expect(!(cr0 & CR0.PG) || (cr0 & CR0.PE) !== 0, `${context}: PG without PE`).toBe(true);
  expect((efer & EFER.LMA) !== 0, `${context}: LMA is LME with PG`).toBe(
    (efer & EFER.LME) !== 0 && (cr0 & CR0.PG) !== 0,
  );
  expect(cpu.get(S.RFLAGS) & 0x8000_802a, `${context}: fixed flags`).toBe(2);
  if (!cpu.protectedMode) expect(cpl, `${context}: CPL of real mode`).toBe(0);
  else if (cpu.vm86) {
    expect(cpl, `${context}: CPL of virtual-8086 mode`).toBe(3);
    expect(cpu.ia32e, `${context}: virtual-8086 mode in IA-32e mode`).toBe(false);
    for (let seg = 0; seg < 6; seg += 1)
      expect(m.rights(seg), `${context}: segment ${seg} of virtual-8086 mode`).toBe(0xf3);
  } else {
    // A task switch that faulted may leave CS unusable; that is delivered before the next instruction
    const cs = m.rights(SEG.CS);
    if (cs & AR.UNUSABLE || m.selector(SEG.CS) === 0) return;
    expect(m.selector(SEG.CS) & 3, `${context}: RPL of CS`).toBe(cpl);
    expect(cs & (AR.S | AR.CODE | AR.P | AR.ACCESSED), `${context}: CS is present, accessed code`).toBe(0x99);
    if (cpu.ia32e) expect(cs & (AR.L | AR.DB), `${context}: L with D`).not.toBe(AR.L | AR.DB);
    const ss = m.rights(SEG.SS);
    if (!(ss & AR.UNUSABLE) && (m.selector(SEG.SS) & 0xfffc) !== 0) {
      expect((ss & AR.DPL) >>> AR.DPL_SHIFT, `${context}: DPL of SS`).toBe(cpl);
    }
  }
}

it('random system instructions never throw and never reach an impossible state', { timeout: 60_000 }, () => {
  const seen = new Set<number>();
  for (let seed = 1; seed <= Number(process.env['SYSTEM_FUZZ'] ?? 60); seed += 1) {
    const random = new Random(seed * 7919);
    const m = randomMachine(random);
    for (let stop = 0; stop < 60; stop += 1) {
      const reason = m.run(20);
      seen.add(reason);
      expectPossible(m, `seed ${seed}, stop ${stop}, RIP ${m.rip.toString(16)}`);
      if (reason === EXIT.TRIPLE_FAULT || reason === EXIT.EPT_VIOLATION) break;
      if (reason === EXIT.IO) m.engine.step(m.vcpu, ALLOW.PORT);
      else if (reason !== EXIT.BUDGET) m.rip += m.cpu.get(X.LENGTH);
    }
  }
  // The programs got somewhere
  expect([EXIT.BUDGET, EXIT.IO, EXIT.HLT, EXIT.TRIPLE_FAULT].every((reason) => seen.has(reason))).toBe(true);
});
