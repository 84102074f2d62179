import { describe, expect, test } from 'vitest';
import { EXIT } from '../../core/exits.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import type { Accelerator } from '../../core/memory.ts';
import type { HotPage, ModuleSource, PageNotes } from '../../core/module-source.ts';
import { stateText } from './fuzz-testbed.ts';

/**
 * Random programs over two pages of code, with loops, calls, returns, jumps through registers and stores into their own
 * code, run by both tiers in slices of random length: registers, flags, RIP and memory must be the same after each.
 */

const PROGRAMS = Number(process.env['TERRARIUM_PROGRAMS'] ?? 8);
const SEED = Number(process.env['TERRARIUM_SEED'] ?? 1);
const SLICES = 60;
/** In the middle of a page: programs are some 3000 bytes long. */
const CODE = AT.DATA + 0x2800;
const BLOCKS = 36;
const FUNCTIONS = 6;

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

/** Registers that programs compute with: not RSP, R8 (data), R9 (code), R14, R15. */
const FREE = [0, 1, 2, 3, 5, 6, 7, 10, 11, 12, 13];

class Program {
  readonly bytes: number[] = [];
  readonly #random: Random;
  readonly #labels: number[] = [];
  readonly #fixups: { at: number; block: number }[] = [];
  /** Places of immediates that other instructions may overwrite. */
  readonly #patchable: number[] = [];

  constructor(random: Random) {
    this.#random = random;
    for (let block = 0; block < BLOCKS + FUNCTIONS; block += 1) this.#block(block);
    for (const { at, block } of this.#fixups) this.#write32(at, this.#labels[block]! - (at + 4));
  }

  #write32(at: number, value: number): void {
    for (let i = 0; i < 4; i += 1) this.bytes[at + i] = (value >>> (8 * i)) & 255;
  }
  #emit(...bytes: number[]): void {
    this.bytes.push(...bytes);
  }
  #to(block: number): void {
    this.#fixups.push({ at: this.bytes.length, block });
    this.#emit(0, 0, 0, 0);
  }

  #block(block: number): void {
    const r = this.#random;
    // Some blocks far away, so that both pages and their border are used
    if (r.below(5) === 0) for (let i = r.below(200); i > 0; i -= 1) this.#emit(0x90);
    this.#labels[block] = this.bytes.length;
    for (let i = 1 + r.below(6); i > 0; i -= 1) this.#operation();
    if (block >= BLOCKS) {
      this.#emit(0xc3);
      return;
    }
    if (r.below(3) === 0) {
      this.#emit(0xe8);
      this.#to(BLOCKS + r.below(FUNCTIONS));
    }
    // cmp a, b; jcc near block; jmp anywhere or fall
    this.#rm(0x39, r.pick(FREE), r.pick(FREE), r.below(2));
    if (r.below(2)) {
      this.#emit(0x0f, 0x80 + r.below(16));
      this.#to(Math.max(0, Math.min(BLOCKS - 1, block - 3 + r.below(7))));
    }
    const way = r.below(8);
    if (way < 3) {
      this.#emit(0xe9);
      this.#to(r.below(BLOCKS));
    } else if (way === 3) {
      // lea r11, [rip + block]; jmp r11
      this.#emit(0x4c, 0x8d, 0x1d);
      this.#to(r.below(BLOCKS));
      this.#emit(0x41, 0xff, 0xe3);
    }
    if (block === BLOCKS - 1) {
      this.#emit(0xe9);
      this.#to(0);
    }
  }

  /** opcode /r between registers: reg, rm. */
  #rm(opcode: number, reg: number, rm: number, wide: number): void {
    this.#emit(
      0x40 | (wide ? 8 : 0) | (reg & 8 ? 4 : 0) | (rm & 8 ? 1 : 0),
      opcode,
      0xc0 | ((reg & 7) << 3) | (rm & 7),
    );
  }

  #operation(): void {
    const r = this.#random;
    const a = r.pick(FREE);
    const b = r.pick(FREE);
    const wide = r.below(2);
    const disp = r.below(0x1000) - 8;
    switch (r.below(21)) {
      case 0:
      case 1:
      case 2: // add or adc sbb and sub xor cmp, any width
        if (r.below(4) === 0) this.#emit(0x66);
        this.#rm(r.below(8) * 8 + (r.below(4) ? 1 : 0), a, b, wide);
        break;
      case 3: // group 1 with imm8: may be overwritten
        this.#emit(0x48 | (a & 8 ? 1 : 0), 0x83, 0xc0 | (r.below(8) << 3) | (a & 7));
        this.#patchable.push(this.bytes.length);
        this.#emit(r.below(256));
        break;
      case 4: // shifts and rotates by imm8, 1, CL
        this.#rm(r.pick([0xd1, 0xd3]), r.below(8), a, wide);
        break;
      case 5:
        this.#rm(0xc1, r.pick([0, 1, 4, 5, 7]), a, wide);
        this.#emit(r.below(64));
        break;
      case 6: // inc dec not neg mul imul
        if (r.below(2)) this.#rm(0xff, r.below(2), a, wide);
        else this.#rm(0xf7, 2 + r.below(4), a, wide);
        break;
      case 7: // setcc, cmovcc
        if (r.below(2)) this.#emit(0x0f, 0x90 + r.below(16), 0xc0 | (a & 3) | (r.below(2) * 4));
        else
          this.#emit(
            0x48 | (a & 8 ? 4 : 0) | (b & 8 ? 1 : 0),
            0x0f,
            0x40 + r.below(16),
            0xc0 | ((a & 7) << 3) | (b & 7),
          );
        break;
      case 8: // movzx, movsx
        this.#emit(
          0x48 | (a & 8 ? 4 : 0) | (b & 8 ? 1 : 0),
          0x0f,
          r.pick([0xb6, 0xb7, 0xbe, 0xbf]),
          0xc0 | ((a & 7) << 3) | (b & 7),
        );
        break;
      case 9: // AH and the like
        this.#emit(r.pick([0x00, 0x28, 0x30, 0x88, 0x86]), 0xc0 | (r.below(8) << 3) | r.below(4));
        break;
      case 10:
      case 11: // load
        this.#emit(0x41 | (wide ? 8 : 0) | (a & 8 ? 4 : 0), 0x8b, 0x80 | ((a & 7) << 3));
        this.#emit32(disp);
        break;
      case 12:
      case 13: // store, at times over the end of the page
        this.#emit(0x41 | (wide ? 8 : 0) | (a & 8 ? 4 : 0), r.pick([0x89, 0x01, 0x31, 0x88]), 0x80 | ((a & 7) << 3));
        this.#emit32(disp);
        break;
      case 14: // push, pop
        this.#push(a, 0x50);
        this.#operation();
        this.#push(b, 0x58);
        break;
      case 15: // lea with index
        this.#emit(
          0x48 | (a & 8 ? 4 : 0) | (b & 8 ? 2 : 0),
          0x8d,
          0x44 | ((a & 7) << 3),
          (r.below(4) << 6) | ((b & 7) << 3) | 1,
          r.below(128),
        );
        break;
      case 16: // bt, bts; xchg; imul
        if (r.below(2))
          this.#emit(
            0x48 | (a & 8 ? 4 : 0) | (b & 8 ? 1 : 0),
            0x0f,
            r.pick([0xa3, 0xab, 0xaf]),
            0xc0 | ((a & 7) << 3) | (b & 7),
          );
        else this.#rm(0x87, a, b, 1);
        break;
      case 17: // a byte over an immediate of this program: mov [r9 + disp32], al
        if (this.#patchable.length > 0 && r.below(3) > 0) {
          this.#emit(0x41, 0x88, 0x81);
          this.#emit32(r.pick(this.#patchable));
        } else this.#emit(r.pick([0xf5, 0xf8, 0xf9]));
        break;
      case 19: // what regions call: lahf, sahf, pushf and pop, cld
        switch (r.below(4)) {
          case 0:
            this.#emit(0x9f);
            break;
          case 1:
            this.#emit(0x9e);
            break;
          case 2:
            this.#emit(0x9c);
            this.#push(a, 0x58);
            break;
          default:
            this.#emit(0xfc);
        }
        break;
      case 18: // movaps-like: movdqu xmm0, [r8 + disp]; paddd; movdqu [r8 + disp], xmm1
        this.#emit(0xf3, 0x41, 0x0f, 0x6f, 0x80);
        this.#emit32(disp);
        this.#emit(0x66, 0x0f, 0xfe, 0xc8, 0xf3, 0x41, 0x0f, 0x7f, 0x88);
        this.#emit32(disp + 16);
        break;
      default: // mov imm
        this.#emit(0x40 | (a & 8 ? 1 : 0), 0xb8 | (a & 7));
        this.#emit32(r.below(2 ** 32));
    }
  }

  #push(register: number, opcode: number): void {
    this.#emit(0x40 | (register & 8 ? 1 : 0), opcode | (register & 7));
  }

  #emit32(value: number): void {
    this.#emit(value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24);
  }
}

/** Says of each page that it is hot in places of its own choice, some of them in the middle of instructions. */
class Claims implements ModuleSource, PageNotes {
  readonly pages = this;
  readonly #random: Random;
  noted = 0;
  constructor(random: Random) {
    this.#random = random;
  }
  hot(): HotPage {
    const offsets = Uint16Array.from({ length: 30 }, () => this.#random.below(4096)).sort();
    return { offsets, changes: this.#random.below(3) };
  }
  note(): void {
    this.noted += 1;
  }
  beforeKeeping(): void {}
  recall(): undefined {}
  keep(): void {}
  find(): undefined {}
  made(): void {}
}

/** Compiled at once, or with what became hot since: then both pages are one region. */
function machine(program: Program, accel: Accelerator, threshold = 1, jitModules?: ModuleSource): TestMachine {
  const jitBatch = threshold === 3 ? 1 : 64;
  const m = new TestMachine({
    plan: { accel, jitThreshold: threshold, jitBatch, ...(jitModules ? { jitModules } : {}) },
  });
  m.longMode();
  m.write(CODE, program.bytes);
  for (const register of FREE) m.setReg(register, Math.imul(register + 1, 0x9e3779b9) >>> 0, register);
  m.setReg(8, AT.DATA);
  m.setReg(9, CODE);
  m.rip = CODE;
  return m;
}

const stateOf = (m: TestMachine): string => stateText(m, 8, [[AT.DATA, AT.DATA + 0x6000]]);

describe('the compiler agrees with the interpreter', () => {
  test.each([
    ['compiler', 1],
    ['compiler', 3],
    ['compiler', 40],
    ['lockstep', 1],
    ['lockstep', 3],
  ] as const)(
    `on ${PROGRAMS} random programs, by the %s after %i rounds (seed ${SEED})`,
    (accel, threshold) => {
      let compiled = 0;
      let lost = 0;
      let pages = 0;
      let compared = 0;
      for (let seed = SEED; seed < SEED + PROGRAMS; seed += 1) {
        const random = new Random(seed);
        const program = new Program(random);
        const one = machine(program, 'interpreter');
        const other = machine(program, accel, threshold);
        for (let slice = 0; slice < SLICES; slice += 1) {
          const budget = 1 + random.below(slice % 3 === 0 ? 20 : 3000);
          const before = stateOf(one);
          const reasons = [one.engine.run(one.vcpu, budget), other.engine.run(other.vcpu, budget)];
          expect(`${reasons[1]} ${stateOf(other)}`, `seed ${seed}, slice ${slice} of ${budget} from ${before}`).toBe(
            `${reasons[0]} ${stateOf(one)}`,
          );
          if (reasons[0] !== EXIT.BUDGET) break;
        }
        compiled += other.engine.compiler!.counters.compiled;
        compared += other.engine.lockstep?.counters.compared ?? 0;
        lost += other.engine.compiler!.counters.lost;
        pages += other.engine.compiler!.counters.pages;
      }
      expect(compiled).toBeGreaterThan(0);
      if (threshold !== 3) expect(pages).toBeGreaterThan(compiled);
      if (threshold < 40) expect(lost).toBeGreaterThan(0);
      if (accel === 'lockstep') expect(compared).toBeGreaterThan(1000);
    },
    60_000,
  );

  test(`on ${PROGRAMS} random programs that it knows something wrong about (seed ${SEED})`, () => {
    let compiled = 0;
    for (let seed = SEED; seed < SEED + PROGRAMS; seed += 1) {
      const random = new Random(seed);
      const program = new Program(random);
      const claims = new Claims(new Random(seed));
      const one = machine(program, 'interpreter');
      const other = machine(program, 'compiler', 100, claims);
      for (let slice = 0; slice < SLICES; slice += 1) {
        const budget = 1 + random.below(slice % 3 === 0 ? 20 : 3000);
        const reasons = [one.engine.run(one.vcpu, budget), other.engine.run(other.vcpu, budget)];
        expect(`${reasons[1]} ${stateOf(other)}`, `seed ${seed}, slice ${slice} of ${budget}`).toBe(
          `${reasons[0]} ${stateOf(one)}`,
        );
        if (reasons[0] !== EXIT.BUDGET) break;
      }
      expect(other.engine.code.counters.known).toBeGreaterThan(0);
      compiled += other.engine.compiler!.counters.compiled;
      if (other.engine.compiler!.counters.compiled > 0) expect(claims.noted).toBeGreaterThan(0);
    }
    expect(compiled).toBeGreaterThan(0);
  });

  test.each([0, 1, 3])('on a loop that changes its next instruction in every round (threshold %i)', (threshold) => {
    const plan = { accel: threshold === 0 ? 'interpreter' : 'compiler', jitThreshold: threshold, jitBatch: 1 } as const;
    const m = new TestMachine({ plan });
    m.longMode();
    m.code(`
      b964000000    ; mov ecx, 100
      31c0 31db     ; xor eax, eax; xor ebx, ebx
      880502000000  ; next: mov [rip + 2], al
      83c300        ; add ebx, 0: the immediate is what was stored
      ffc0 ffc9     ; inc eax; dec ecx
      75f1 f4       ; jnz next; hlt
    `);
    m.rip = AT.CODE;
    m.engine.run(m.vcpu, 1000);
    expect(m.reg(3)).toBe(4950);
    // Regions go around it from the second round on
    if (threshold > 0) expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
  });
});
