import { describe, expect, test } from 'vitest';
import { CR4 } from '../../../arch/registers.ts';
import { EXIT } from '../../core/exits.ts';
import { S } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import type { Accelerator } from '../../core/memory.ts';
import { RFLAGS } from '../../isa/flags.ts';
import { stateText } from './fuzz-testbed.ts';

/**
 * Random programs on a stack whose pages lie here and there in RAM, some read-only, some missing, some barred by SMAP: PUSH, POP,
 * CALL, RET and operands [RSP + d] of all sizes, over page ends too, with RSP as an ordinary register in between. Both tiers end
 * each slice with the same registers, memory and marks in the page table.
 */

const PROGRAMS = Number(process.env['TERRARIUM_PROGRAMS'] ?? 6);
const SEED = Number(process.env['TERRARIUM_SEED'] ?? 1);
const SLICES = 60;
const BLOCKS = 14;

/** Linear: PAGES pages of 4 KiB by a table at TABLE; what is not mapped so is at its own address. */
const STACK = 0x40_0000;
const PAGES = 8;
const TABLE = 0x1e_0000;
const FRAMES = 0x20_0000;
/** Nothing but a slice's begin writes it: where RSP begins again. */
const TOP = 14;
/** And somewhere in the same pages. */
const BESIDE = 12;
const FREE = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13, 15];

class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = (seed * 2654435761) >>> 0;
  }
  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }
}

const le32 = (value: number): number[] => [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24];

/** One operation's bytes. */
function operation(r: Random): number[] {
  const a = r.pick(FREE);
  const b = r.pick(FREE);
  const short = (opcode: number, register: number): number[] => [0x40 | (register >> 3), opcode | (register & 7)];
  /** Prefixes, opcode and a memory operand: mostly [RSP + d], at times [R12 + d], which differs in REX.B only. */
  const memory = (
    opcode: readonly number[],
    reg: number,
    wide = r.below(2),
    prefix: readonly number[] = [],
  ): number[] => {
    const base = r.below(6) === 0 ? 1 : 0;
    const rex = 0x40 | (8 * wide) | (reg & 8 ? 4 : 0) | base;
    const far = r.below(8) === 0;
    const disp = far ? r.below(0x400) - 0x200 : r.below(64) - 16;
    const size = far ? le32(disp) : [disp & 255];
    return [...prefix, rex, ...opcode, (far ? 0x84 : 0x44) | ((reg & 7) << 3), 0x24, ...size];
  };
  const rm = (opcode: number, reg: number, to: number, wide = 1): number[] => [
    0x40 | (8 * wide) | (reg & 8 ? 4 : 0) | (to >> 3),
    opcode,
    0xc0 | ((reg & 7) << 3) | (to & 7),
  ];
  switch (r.below(36)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return short(0x50, r.below(8) === 0 ? 4 : a);
    case 4:
    case 5:
    case 6:
      return short(0x58, r.below(20) === 0 ? 4 : a);
    case 7:
      return r.below(2) ? [0x6a, r.below(256)] : [0x68, ...le32(r.below(2 ** 32))];
    case 8: // of two bytes
      return [0x66, ...short(r.pick([0x50, 0x58]), a)];
    case 9: // pushfq, popfq behind it
      return r.below(2) ? [0x9c] : [0x9c, 0x9d];
    case 10:
    case 11:
    case 12:
      return memory([r.pick([0x8b, 0x89, 0x8a, 0x88])], a);
    case 13:
      return memory([r.pick([0x89, 0x8b, 0x01, 0x3b])], a, 0, [0x66]);
    case 14:
      return memory([r.below(8) * 8 + r.below(4)], a);
    case 15: // movzx, movsx, cmovcc, imul, setcc
      return memory([0x0f, r.pick([0xb6, 0xb7, 0xbe, 0xbf, 0xaf, 0x40 + r.below(16), 0x90 + r.below(16)])], a);
    case 16: // xchg, xadd, cmpxchg, cmpxchg8b or 16b
      return r.pick([memory([0x87], a), memory([0x0f, r.pick([0xc0, 0xc1, 0xb0, 0xb1])], a), memory([0x0f, 0xc7], 1)]);
    case 17: // inc, dec, call's own operand not; not, neg
      return r.below(2) ? memory([r.pick([0xfe, 0xff])], r.below(2)) : memory([r.pick([0xf6, 0xf7])], 2 + r.below(2));
    case 18: // push and pop of memory
      return r.below(3) ? memory([0xff], 6) : memory([0x8f], 0);
    case 19: // bt, bts, btr, btc: by an index that stays in the neighbourhood, or by an immediate
      if (r.below(2)) return [...memory([0x0f, 0xba], 4 + r.below(4)), r.below(256)];
      return [
        0x48 | (a >> 3),
        0x81,
        0xe0 | (a & 7),
        ...le32(0x1_ffff),
        ...memory([0x0f, r.pick([0xa3, 0xab, 0xb3, 0xbb])], a),
      ];
    case 20: // shld, shifts by CL
      return r.below(2) ? [...memory([0x0f, 0xa4], a), r.below(64)] : memory([0xd3], r.pick([0, 1, 4, 5, 7]));
    case 21: // movdqu, movups, movq, movd, movss, movhps, paddd; movaps if it is aligned
      return r.pick([
        memory([0x0f, r.pick([0x6f, 0x7f])], r.below(4), 0, [0xf3]),
        memory([0x0f, r.pick([0x10, 0x11, 0x16, 0x17])], r.below(4), 0),
        memory([0x0f, r.pick([0x10, 0x11])], r.below(4), 0, [r.pick([0xf2, 0xf3])]),
        memory([0x0f, r.pick([0x6e, 0x7e, 0xd6])], r.below(4), r.below(2), [0x66]),
        memory([0x0f, r.pick([0x28, 0x29, 0xfe])], r.below(4), 0, r.pick([[], [0x66]])),
      ]);
    case 22: // fld and fstp of 4, 8 and 10 bytes, fild, fnstcw
      return r.pick([
        [...memory([r.pick([0xd9, 0xdd])], 0, 0), ...memory([r.pick([0xd9, 0xdd])], 3, 0)],
        [...memory([0xdb], 5, 0), ...memory([0xdb], 7, 0)],
        [...memory([0xdf], 5, 0), ...memory([0xdf], 7, 0)],
        memory([0xd9], 7, 0),
      ]);
    case 23: // ymm, masked moves of it
      return r.pick([
        [0xc5, 0xfe, r.pick([0x6f, 0x7f]), 0x44 | (r.below(4) << 3), 0x24, r.below(64)],
        [0xc4, 0xe2, r.pick([0x75, 0x71]), r.pick([0x2c, 0x2e]), 0x44 | (r.below(4) << 3), 0x24, r.below(64)],
      ]);
    case 24:
    case 25: // add, sub, and others of RSP and an immediate, in 64, 32 and 16 bits
      return r.pick([
        [0x48, 0x83, r.pick([0xc4, 0xec]), (r.below(16) * 8) & 0x7f],
        [0x48, 0x83, r.pick([0xc4, 0xec]), r.below(256)],
        [0x48, 0x83, r.pick([0xe4, 0xf4, 0xcc, 0xd4, 0xdc, 0xfc]), r.pick([0xf0, 0, 8, 0xfe])],
        [0x83, r.pick([0xc4, 0xec]), 8],
        [0x66, 0x83, r.pick([0xc4, 0xec]), 8],
        [0x48, 0x81, r.pick([0xc4, 0xec]), ...le32(r.pick([0x100, 0x1000, 0xffff_ff80]))],
      ]);
    case 26: // lea, inc, dec, xadd, xchg, cmpxchg, cmov, bts, not: RSP as any other
      return r.pick([
        [0x48, 0x8d, 0x64, 0x24, r.below(256)],
        rm(0xff, r.below(2), 4, r.below(2)),
        rm(0x8b, 4, r.pick([TOP, BESIDE]), r.below(2)),
        [...rm(0x8b, a, BESIDE), ...rm(0x87, a, 4)],
        [0x48 | (a >> 3 ? 4 : 0), 0x0f, 0xb1, 0xc4 | ((a & 7) << 3)],
        [...rm(0x8b, a, BESIDE), 0x48 | (a >> 3), 0x0f, 0x40 + r.below(16), 0xe0 | (a & 7)],
        [0x48, 0x0f, 0xba, r.pick([0xec, 0xf4, 0xfc, 0xe4]), 3 + r.below(8)],
        [...rm(0xf7, 2, 4), ...rm(0xf7, 2, 4)],
        [0x40, 0x80, 0xc4, 8], // add spl, 8
        [0x48, 0x63, 0xe4], // movsxd rsp, esp
        [0x48, 0x0f, 0xcc, 0x48, 0x0f, 0xcc], // bswap rsp, twice
      ]);
    case 27: // mov rbp, rsp; leave: with something in between
      return [0x48, 0x89, 0xe5, ...operation(r), 0xc9];
    case 28: // enter n, 0 or 1
      return [0x48, 0x89, 0xe5, 0xc8, r.below(4) * 16, 0, r.below(2)];
    case 29: {
      // call over; jmp on; over: something; ret, or ret n; on:
      const inner = operation(r);
      const back = r.below(2) ? [0xc3] : [0xc2, r.below(3) * 8, 0];
      return [0xe8, 2, 0, 0, 0, 0xeb, inner.length + back.length, ...inner, ...back];
    }
    case 30: // with the segment or the address in 32 bits
      return r.below(2) ? [0x67, ...memory([r.pick([0x8b, 0x89])], a)] : [0x64, ...memory([r.pick([0x8b, 0x89])], a)];
    case 31: // what regions call, or what they leave for
      return r.pick([[0xfc], [0x9e], [0x0f, 0xa2]]);
    case 33: // stac, clac
    case 34:
      return [0x0f, 0x01, r.pick([0xcb, 0xcb, 0xca])];
    case 32: // in other units: rsp and itself, scaled index
      return r.pick([
        memory([0x03], 4),
        [0x4a, 0x8b, 0x04 | ((a & 7) << 3), (0x24 & 0x3f) | 0x20],
        rm(0x39, 4, a),
        rm(0x01, 4, a),
      ]);
    default:
      return rm(r.pick([0x01, 0x29, 0x31, 0x89, 0x87]), a, b, r.below(2));
  }
}

function program(r: Random): number[] {
  const bytes: number[] = [];
  const labels: number[] = [];
  const jumps: { at: number; block: number }[] = [];
  for (let block = 0; block < BLOCKS; block += 1) {
    labels.push(bytes.length);
    // mov rsp, r14
    if (block === 0 || r.below(3) === 0) bytes.push(0x4c, 0x89, 0xf4);
    for (let i = 2 + r.below(12); i > 0; i -= 1) bytes.push(...operation(r));
    if (r.below(2)) {
      bytes.push(0x0f, 0x80 + r.below(16));
      jumps.push({ at: bytes.push(0, 0, 0, 0) - 4, block: r.below(BLOCKS) });
    }
  }
  bytes.push(0xe9);
  jumps.push({ at: bytes.push(0, 0, 0, 0) - 4, block: 0 });
  for (const { at, block } of jumps)
    for (const [i, byte] of le32(labels[block]! - (at + 4)).entries()) bytes[at + i] = byte;
  return bytes;
}

function machine(bytes: readonly number[], accel: Accelerator, threshold: number): TestMachine {
  const m = new TestMachine({ plan: { accel, jitThreshold: threshold, jitBatch: 1 } });
  m.longMode();
  // SMAP, for pages of the stack that are the user's: all else is not
  for (let i = 0; i < 2; i += 1) m.write32(AT.PD + 8 * i, (i << 21) | 0x83, 0);
  m.cpu.set(S.CR4, m.cpu.get(S.CR4) | CR4.SMAP);
  m.cpu.contextChanged();
  for (let vector = 0; vector < 32; vector += 1) m.write(AT.IDT + 16 * vector + 4, [1]);
  m.write32(AT.PD + 16, TABLE | 7, 0);
  m.write(AT.CODE + 0x10_0000, bytes);
  for (const register of FREE) m.setReg(register, Math.imul(register + 1, 0x9e3779b9) >>> 0, register);
  return m;
}

const entry = (page: number, rights: number): number => (FRAMES + 0x1000 * ((page * 5 + 3) % (2 * PAGES))) | rights;

/** What the host changes between slices; the guest goes on at the program's begin where something has stopped it. */
function prepare(
  m: TestMachine,
  again: boolean,
  rights: readonly number[] | undefined,
  top: number,
  beside: number,
  ac: boolean,
): void {
  if (rights) {
    for (const [page, r] of rights.entries()) m.write32(TABLE + 8 * page, r === 0 ? 0 : entry(page, r), 0);
    m.engine.processor.tlb.flushMatching(-1, -1, -1, -1);
  }
  m.setReg(TOP, top);
  m.setReg(BESIDE, beside);
  if (!again) return;
  m.setReg(4, top);
  m.setFlags(ac ? RFLAGS.AC : 0);
  m.rip = AT.CODE + 0x10_0000;
}

function stateOf(m: TestMachine): string {
  const entries = Array.from({ length: PAGES }, (_, page) => (m.read32(TABLE + 8 * page) & 0xfff).toString(16));
  const memory = [
    [FRAMES, FRAMES + 0x2000 * PAGES],
    [STACK - 0x1000, STACK],
  ] as const;
  return stateText(m, 16, memory, [`cr2=${m.cpu.get(S.CR2).toString(16)}`, ...entries]);
}

describe('the tiers agree on stacks', () => {
  test.each([
    ['compiler', 1],
    ['compiler', 3],
    ['lockstep', 1],
    ['lockstep', 2],
  ] as const)(
    `on ${PROGRAMS} random programs, by the %s after %i rounds (seed ${SEED})`,
    (accel, threshold) => {
      let compiled = 0;
      let whole = 0;
      for (let seed = SEED; seed < SEED + PROGRAMS; seed += 1) {
        const random = new Random(seed);
        const bytes = program(random);
        const one = machine(bytes, 'interpreter', 1);
        const other = machine(bytes, accel, threshold);
        let again = true;
        for (let slice = 0; slice < SLICES; slice += 1) {
          const budget = 1 + random.below(slice % 3 === 0 ? 40 : 1500);
          const rights =
            slice === 0 || random.below(4) === 0
              ? Array.from({ length: PAGES }, () =>
                  random.below(12) ? random.pick([7, 3, 3]) : random.pick([0, 5, 1]),
                )
              : undefined;
          const near = (): number =>
            STACK +
            0x1000 * (1 + random.below(PAGES - 1)) +
            (random.below(2) ? 8 * random.below(16) : random.below(0x1000) - 32);
          const [top, beside, ac] = [near(), near(), random.below(3) > 0];
          for (const m of [one, other]) prepare(m, again, rights, top, beside, ac);
          const before = stateOf(one);
          const reasons = [one.run(budget), other.run(budget)];
          expect(`${reasons[1]} ${stateOf(other)}`, `seed ${seed}, slice ${slice} of ${budget} from ${before}`).toBe(
            `${reasons[0]} ${stateOf(one)}`,
          );
          again = reasons[0] !== EXIT.BUDGET || one.stoppedAt >= 0;
          if (!again) whole += 1;
        }
        compiled += other.engine.compiler!.counters.compiled;
      }
      expect(compiled).toBeGreaterThan(PROGRAMS);
      // Not all programs stop at once
      expect(whole).toBeGreaterThan(PROGRAMS);
      if (process.env['TERRARIUM_PROGRAMS']) console.log(accel, threshold, { compiled, whole });
    },
    60_000 + 1000 * PROGRAMS,
  );
});
