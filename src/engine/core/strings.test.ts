import { describe, expect, test } from 'vitest';
import { INTERRUPTION } from './events.ts';
import { EXIT } from './exits.ts';
import { gpr, S } from './layout.ts';
import { AT, TestMachine } from './machine-testbed.ts';

/** Repeated string instructions do many elements at once: they must end as the manual's loop of single ones does. */

const BYTES = 0x3000;
const OPCODES = { movs: 0xa4, cmps: 0xa6, stos: 0xaa, lods: 0xac, scas: 0xae };
type Name = keyof typeof OPCODES;

class Random {
  #state = 1;
  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
}

/** SDM 2B 4.3 "REP/REPE/REPZ/REPNE/REPNZ", element by element, over `memory`. */
function reference(name: Name, memory: Uint8Array, r: number[], bytes: number, down: boolean, seek: boolean): void {
  const step = down ? -bytes : bytes;
  const accumulator = Uint8Array.of(1, 2, 3, 4, 1, 2, 3, 4);
  while (r[1]! > 0) {
    const from = r[6]!;
    const to = r[7]!;
    const source = name === 'stos' || name === 'scas' ? accumulator.slice(0, bytes) : memory.slice(from, from + bytes);
    const target = memory.slice(to, to + bytes);
    if (name === 'movs' || name === 'stos') memory.set(source, to);
    if (name === 'movs' || name === 'cmps' || name === 'lods') r[6] = from + step;
    if (name !== 'lods') r[7] = to + step;
    r[1] = r[1]! - 1;
    if (name === 'lods') accumulator.set(source);
    if ((name === 'cmps' || name === 'scas') && source.every((byte, i) => byte === target[i]) === seek) return;
  }
}

describe.each(Object.keys(OPCODES) as Name[])('REP %s', (name) => {
  test('does what its elements do one by one, for overlaps, directions and sizes', () => {
    const random = new Random();
    const m = new TestMachine().longMode();
    for (let round = 0; round < 300; round += 1) {
      const [log, down, seek] = [random.below(4), random.below(2) === 1, random.below(2) === 1];
      const bytes = 1 << log;
      // Few values, so that comparisons go on for a while
      const kinds = round % 3 === 0 ? 256 : 1 + (round % 3);
      const memory = Uint8Array.from({ length: BYTES }, () => (random.below(200) === 0 ? 9 : 1 + random.below(kinds)));
      const near = 0x1000 + random.below(0x1000);
      const [rsi, rdi] = [near, round % 2 === 0 ? near - 24 + random.below(48) : 0x1000 + random.below(0x1000)];
      const registers = [0x04030201, random.below(round % 5 === 0 ? 3 : 400), 0, 0, 0, 0, rsi, rdi];
      m.write(AT.DATA, memory);
      m.setReg(0, 0x04030201, 0x04030201);
      m.setReg(1, registers[1]!);
      m.setReg(6, AT.DATA + rsi);
      m.setReg(7, AT.DATA + rdi);
      m.setFlags(down ? 0x402 : 2);
      const prefixes = log === 1 ? [0x66] : [];
      const opcode = OPCODES[name] + (log === 0 ? 0 : 1);
      m.write(AT.CODE, [...prefixes, seek ? 0xf2 : 0xf3, ...(log === 3 ? [0x48] : []), opcode, 0xf4]);
      m.rip = AT.CODE;
      m.engine.run(m.vcpu, 100_000);
      reference(name, memory, registers, bytes, down, seek);
      const what = `round ${round}: ${bytes} bytes${down ? ' down' : ''}, RSI ${rsi}, RDI ${rdi}`;
      expect([m.reg(1), m.reg(6) - AT.DATA, m.reg(7) - AT.DATA], what).toEqual([1, 6, 7].map((i) => registers[i]));
      const { u8, ram } = m.engine.memory;
      expect(Buffer.compare(u8.subarray(ram + AT.DATA, ram + AT.DATA + BYTES), memory), what).toBe(0);
    }
  }, 60_000);

  test.each(['RSI', 'RDI'] as const)(
    'stops in front of the element of [%s] that faults, and goes on there',
    (pointer) => {
      const isSource = pointer === 'RSI';
      if (isSource ? name === 'stos' || name === 'scas' : name === 'lods') return;
      const EDGE = 0x20_0000;
      const entry = AT.PD + 8;
      for (const [log, into] of [
        [0, 0],
        [1, 1],
        [2, 3],
        [3, 0],
        [3, 5],
      ] as const) {
        const bytes = 1 << log;
        const m = new TestMachine().longMode();
        m.fill(0x1f_0000, 0x2_0000, 1); // all alike, so that comparisons go on
        m.write32(entry, 0, 0);
        const [done, count] = [37, 60];
        const start = EDGE - done * bytes - into; // `into` bytes of the element that faults are before the edge
        const other = 0x1f_4000;
        m.setReg(0, 0x0101_0101, 0x0101_0101);
        m.setReg(1, count);
        m.setReg(6, isSource ? start : other);
        m.setReg(7, isSource ? other : start);
        if (name === 'movs' || name === 'stos') m.fill(isSource ? other : start, EDGE - start, 0xee);
        m.setFlags(2);
        m.write(AT.CODE, [
          ...(log === 1 ? [0x66] : []),
          0xf3,
          ...(log === 3 ? [0x48] : []),
          OPCODES[name] + (log === 0 ? 0 : 1),
          0xf4,
        ]);
        m.rip = AT.CODE;
        expect(m.run(100_000)).toBe(EXIT.HLT);
        expect([m.stoppedAt, m.cpu.get(S.CR2)], `${bytes}`).toEqual([14, EDGE]);
        const moved = done * bytes;
        const source = (isSource ? start : other) + (name === 'stos' || name === 'scas' ? 0 : moved);
        const target = (isSource ? other : start) + (name === 'lods' ? 0 : moved);
        expect([m.reg(1), m.reg(6), m.reg(7)], `${bytes}`).toEqual([count - done, source, target]);
        // RIP is the instruction's, and of the element that faulted nothing is stored
        expect(m.read32(m.reg(4) + 8)).toBe(AT.CODE);
        const stored = (isSource ? other : start) + moved;
        if (name === 'movs' || name === 'stos') {
          expect(m.read8(stored - 1)).toBe(1);
          if (!isSource && into > 0) expect(m.read8(stored)).toBe(0xee);
        }
        m.write32(entry, EDGE | 0x87, 0);
        m.setReg(4, AT.STACK);
        m.rip = AT.CODE;
        expect(m.run(100_000)).toBe(EXIT.HLT);
        const rest = (count - done) * bytes;
        expect([m.stoppedAt, m.reg(1), m.reg(6), m.reg(7)]).toEqual([
          -1,
          0,
          source + (name === 'stos' || name === 'scas' ? 0 : rest),
          target + (name === 'lods' ? 0 : rest),
        ]);
      }
    },
  );
});

describe.each(Object.keys(OPCODES) as Name[])('an interrupt in the middle of REP %s', (name) => {
  const reads = name !== 'stos' && name !== 'scas';
  const writes = name === 'movs' || name === 'stos';
  const both = name !== 'lods';

  test.each([false, true])('finds registers and memory as far as it got, and IRET goes on there: down %s', (down) => {
    const m = new TestMachine().longMode();
    const [source, target, count, bytes] = [0x20_0ff8, 0x24_0ff8, 5000, 4];
    m.fill(source - count * bytes, 2 * count * bytes, 1);
    m.fill(target - count * bytes, 2 * count * bytes, writes ? 0xee : 1);
    m.setReg(0, 0x0101_0101);
    m.setReg(1, count);
    m.setReg(6, source);
    m.setReg(7, target);
    m.setFlags(down ? 0x602 : 0x202);
    m.write(AT.CODE, [0xf3, OPCODES[name] + 1, 0xf4]);
    const handler = AT.HLTS + 16 * 0x80;
    m.write(handler, [0x48, 0xcf]); // iretq
    let interrupts = 0;
    for (; m.rip === AT.CODE; interrupts += 1) {
      const done = count - m.reg(1);
      const moved = (down ? -bytes : bytes) * done;
      expect([m.reg(6), m.reg(7)]).toEqual([reads ? source + moved : source, both ? target + moved : target]);
      if (writes && done > 0) {
        const step = down ? -bytes : bytes;
        expect([m.read32(target + moved - step), m.read32(target + moved)]).toEqual([0x0101_0101, 0xeeee_eeee]);
      }
      expect(m.engine.inject(m.vcpu, (INTERRUPTION.VALID | 0x80) >>> 0, 0, 0)).toBe(EXIT.BUDGET);
      expect([m.rip, m.read32(m.reg(4))]).toEqual([handler, AT.CODE]);
      m.run(1);
      expect([m.rip, m.reg(1)]).toEqual([AT.CODE, count - done]);
      m.run(1);
    }
    expect(interrupts).toBeGreaterThan(4);
    expect([m.rip, m.reg(1)]).toEqual([AT.CODE + 2, 0]);
    const all = (down ? -bytes : bytes) * count;
    expect([m.reg(6), m.reg(7)]).toEqual([reads ? source + all : source, both ? target + all : target]);
  });
});

describe('DIV and IDIV by 64-bit divisors', () => {
  const cases: [bigint, bigint][] = [];
  const random = new Random();
  const word = (): bigint => {
    const value = (BigInt(random.below(2 ** 32)) << 32n) | BigInt(random.below(2 ** 32));
    return [value, value >> BigInt(random.below(64)), (1n << 64n) - 1n, 1n << 63n, (1n << 64n) - (value >> 40n)][
      random.below(5)
    ]!;
  };
  for (let i = 0; i < 3000; i += 1) cases.push([(word() << 64n) | word(), word()]);

  test.each([false, true])('give the quotient and remainder of exact arithmetic, or #DE (signed: %s)', (signed) => {
    const m = new TestMachine().longMode();
    const { u32 } = m.engine.memory;
    m.code(signed ? '48f7fb f4' : '48f7f3 f4');
    const halves = (x: bigint): [number, number] => [Number(x & 0xffff_ffffn), Number((x >> 32n) & 0xffff_ffffn)];
    const big = (i: number): bigint => BigInt(u32[gpr(i) >>> 2]!) | (BigInt(u32[(gpr(i) >>> 2) + 1]!) << 32n);
    const as = (bits: number, x: bigint): bigint => (signed ? BigInt.asIntN(bits, x) : BigInt.asUintN(bits, x));
    let divided = 0;
    for (const [dividend, divisor] of cases) {
      // Every second one fits
      const n = divided % 2 === 0 && divisor !== 0n ? (as(64, divisor) * as(64, dividend)) >> 1n : dividend;
      const [a, b] = [as(128, n), as(64, divisor)];
      const quotient = b === 0n ? 0n : a / b;
      const fits = b !== 0n && as(64, quotient) === quotient;
      m.setReg(0, ...halves(n));
      m.setReg(2, ...halves(n >> 64n));
      m.setReg(3, ...halves(divisor));
      m.setReg(4, AT.STACK);
      m.rip = AT.CODE;
      m.engine.run(m.vcpu, 10);
      const what = `${a} / ${b}`;
      expect(m.stoppedAt === 0, what).toBe(!fits);
      if (!fits) continue;
      divided += 1;
      expect([as(64, big(0)), as(64, big(2))], what).toEqual([quotient, a % b]);
    }
    expect(divided).toBeGreaterThan(500);
  });
});
