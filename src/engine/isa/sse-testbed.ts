import { assert } from '../../base/assert.ts';
import { type Expr, I32, I64, i32, type ValType } from '../../wasm/expr.ts';
import { type FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { AUX, gpr, REC, S, TLB } from '../core/layout.ts';
import { defineFloat } from '../float/library.ts';
import type { Library } from './form-context.ts';
import type { Instruction, Operand } from './instruction.ts';
import { Semantics } from './semantics.ts';
import { defineSimd } from './sse-library.ts';

/**
 * For tests: runs single instructions straight from their rows, without decoder and dispatcher, and gives the machine
 * code of the same form for the real CPU. 64-bit mode; memory operands lie at [RSI] (and [RDI]), whose page is in the TLB.
 *
 * A case is 256 bytes, before and after alike: XMM0–2 (0), MM0–2 (48), RAX RCX RDX (72), 32 bytes of memory (96),
 * MXCSR (128), RFLAGS' status flags (132), vector + 1 of the exception or 0 (136). Byte 144: the immediate.
 * XMM3 (160), upper halves of YMM0–3 (176).
 */
export const CASE = {
  BYTES: 256,
  XMM: 0,
  MM: 48,
  GPR: 72,
  MEMORY: 96,
  MXCSR: 128,
  FLAGS: 132,
  FAULT: 136,
  IMM: 144,
  XMM3: 160,
  UPPER: 176,
} as const;

export interface Form {
  readonly instruction: Instruction;
  /** As in the row, and whether ModRM names memory. */
  readonly text: string;
  readonly memory: boolean;
  readonly code: Uint8Array;
  readonly name: string;
}

const RECORD = 0x3000;
const TLB_SET = 0x1_0000;
/** Linear and host address of the memory operand. */
const OPERAND = 0x3_0040;
const RSI = 6;
const RDI = 7;

interface Parsed {
  readonly operands: readonly Operand[];
  readonly numbers: readonly number[];
  readonly code: Uint8Array;
  readonly size: number;
}

function operandOf(text: string, memory: boolean, slot: number): Operand {
  const register = text.split('/')[0]!;
  const size = Number(/m(\d+)$/.exec(text)?.[1] ?? 0) / 8;
  if (text === '<XMM0>') return { kind: 'xmm', size: 16, slot: -1, fixed: S.XMM };
  if (text === 'imm8') return { kind: 'imm', size: 1, slot: -1, fixed: 0 };
  if (memory && /(^|\/)m\d*$/.test(text)) return { kind: 'mem', size, slot: -1, fixed: 0 };
  if (/^[xy]mmV?$/.test(register)) return { kind: 'xmm', size: register[0] === 'y' ? 32 : 16, slot, fixed: 0 };
  if (register === 'mm') return { kind: 'mm', size: 8, slot, fixed: 0 };
  const width = { rd: 4, rq: 8, rw: 2, r8: 1, r32: 4, r: size }[register];
  assert(width !== undefined, `the test bed knows the operand ${text}`);
  return { kind: 'gpr', size: width, slot, fixed: 0 };
}

/** A form for each operand size, as the decoder makes them. */
const widths = ([opcode, text]: [string, string]): [string, string][] =>
  text.includes('r/mv')
    ? [
        [`66 ${opcode}`, text.replace('r/mv', 'r/m16')],
        [opcode, text.replace('r/mv', 'r/m32')],
        [opcode.replace(' 0F', ' REX.W 0F'), text.replace('r/mv', 'r/m64')],
      ]
    : [[opcode, text]];

/** Three bytes of VEX with no extended registers: SDM 2A 2.3.5. `vvvv`: 0 for none. */
function vexPrefix(parts: readonly string[], vvvv: number): number[] {
  const map = parts.includes('0F3A') ? 3 : parts.includes('0F38') ? 2 : 1;
  const pp = parts.includes('66') ? 1 : parts.includes('F3') ? 2 : parts.includes('F2') ? 3 : 0;
  const w = parts.includes('W1') ? 0x80 : 0;
  return [0xc4, 0xe0 | map, w | ((~vvvv & 15) << 3) | (parts.includes('256') ? 4 : 0) | pp];
}

/** Operand k of a form gets register k + 1; a memory operand is [RSI]; an immediate follows per case. */
function parse(opcode: string, text: string, memory: boolean): Parsed | undefined {
  const names = text.includes(' ') ? text.slice(text.indexOf(' ') + 1).split(', ') : [];
  const tokens = opcode.split(' ');
  const modrm = tokens.find((token) => token.startsWith('/'));
  const canBeMemory = names.some((name) => /(^|\/)m\d*$/.test(name)) && !modrm?.endsWith(':r');
  const canBeRegister = !names.some((name) => /^m\d*$/.test(name)) && !modrm?.endsWith(':m');
  if (memory ? !canBeMemory : !canBeRegister) return undefined;
  const operands: Operand[] = [];
  let registers = 0;
  for (const name of names) {
    const operand = operandOf(name, memory, registers);
    operands.push(operand);
    if (operand.slot >= 0) registers++;
  }
  // Only RAX, RCX and RDX are part of a case
  const numbers = operands.map(({ kind }, i) => (kind === 'gpr' ? Math.min(i + 1, 2) : i + 1));
  const bytes: number[] = [];
  const vex = tokens[0]!.startsWith('VEX.') ? tokens[0]!.split('.') : undefined;
  const vvvvAt = names.findIndex((name) => name.endsWith('V'));
  if (vex) bytes.push(...vexPrefix(vex, vvvvAt + 1));
  for (const token of tokens) {
    if (token === 'REX.W') bytes.push(0x48);
    else if (/^[0-9A-F]{2}$/.test(token)) bytes.push(Number.parseInt(token, 16));
  }
  if (modrm) {
    const rmAt = names.findIndex((name) => /(^|\/)m\d*$/.test(name));
    const digit = /^\/([0-7])/.exec(modrm)?.[1];
    const plain = names.map((_, i) => i).filter((i) => i !== vvvvAt && i !== rmAt && operands[i]!.kind !== 'imm');
    const rmOperand = rmAt >= 0 ? rmAt : plain[digit !== undefined ? 0 : 1]!;
    const regOperand = plain[0]!;
    const reg = digit !== undefined ? Number(digit) : numbers[regOperand]!;
    bytes.push((memory ? 0 : 0xc0) | (reg << 3) | (memory ? RSI : numbers[rmOperand]!));
  }
  if (tokens.at(-1) === 'ib') bytes.push(0);
  const size = tokens.includes('REX.W') || vex?.includes('W1') ? 8 : 4;
  return { operands, numbers, code: Uint8Array.from(bytes), size };
}

class Bench extends Semantics {
  leave(status: Expr): void {
    this.f.ret(status);
  }

  branchIf(): void {
    assert(false, 'vector instructions do not branch');
  }

  branch(): void {
    this.branchIf();
  }

  jump(): void {
    this.branchIf();
  }
}

export class Testbed {
  readonly forms: readonly Form[];
  readonly memory: WebAssembly.Memory;
  readonly bytes: number;
  readonly #view: DataView;
  readonly #all: Uint8Array;
  readonly #run: readonly ((record: number) => number)[];
  readonly #parsed: readonly Parsed[];

  constructor(instructions: readonly Instruction[]) {
    const m = new ModuleBuilder();
    m.importMemory('env', 'memory', 8);
    const none = (name: string, params: ValType[], results: ValType[]): FunctionBuilder => {
      const f = m.func(name, params, results);
      f.unreachable();
      return f;
    };
    const slow = none('slow3', [I64, I64, I32], [I32]);
    const named: Record<string, FunctionBuilder> = { ...defineFloat(m), ...defineSimd(m) };
    const library: Library = {
      loadSlow: none('loadSlow', [I64, I32], [I64]),
      storeSlow: slow,
      modifySlow: none('modifySlow', [I64, I32], [I32]),
      commit: none('commit', [], []),
      loadWide: none('loadWide', [I64, I32], [I32]),
      storeWide: none('storeWide', [I64, I32], [I32]),
      flags: none('flags', [], [I32]),
      condition: none('condition', [I32], [I32]),
      carry: none('carry', [], [I32]),
      helper: none('helper', [I32, I32], [I32]),
      mulHighU: none('mulHighU', [I64, I64], [I64]),
      mulHighS: none('mulHighS', [I64, I64], [I64]),
      linear: none('linear', [I32, I32], [I32]),
      byName: (name) => {
        const f = named[name];
        assert(f !== undefined, `the library has ${name}`);
        return f;
      },
    };
    const forms: Form[] = [];
    const parsed: Parsed[] = [];
    for (const instruction of instructions) {
      for (const [opcode, text] of Object.entries(instruction.forms).flatMap(widths)) {
        for (const memory of [false, true]) {
          const p = parse(opcode, text, memory);
          if (!p) continue;
          const f = m.func(`form${forms.length}`, [I32], [I32], true);
          const context = {
            operands: p.operands,
            size: p.size,
            mode: 'long' as const,
            generalAddress: false,
            form: text,
            opcode: 0,
          };
          instruction.execute(new Bench(f, library, context, f.parameters[0]!.get));
          f.ret(i32.const(0));
          const name = `${opcode}: ${text}${memory ? ' (memory)' : ''}`;
          forms.push({ instruction, text, memory, code: p.code, name });
          parsed.push(p);
        }
      }
    }
    this.forms = forms;
    this.#parsed = parsed;
    const binary = m.finish();
    this.bytes = binary.length;
    this.memory = new WebAssembly.Memory({ initial: 8 + (REC.COLD >>> 16) });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(binary), { env: { memory: this.memory } });
    this.#run = forms.map((_, i) => instance.exports[`form${i}`] as (record: number) => number);
    this.#view = new DataView(this.memory.buffer);
    this.#all = new Uint8Array(this.memory.buffer);
    this.#prepare();
  }

  #prepare(): void {
    const view = this.#view;
    view.setUint32(S.TLB, TLB_SET, true);
    const entry = TLB_SET + ((OPERAND >>> 12) & (TLB.ENTRIES - 1)) * TLB.ENTRY_BYTES;
    for (const array of [0, TLB.WRITE]) view.setUint32(entry + array, OPERAND & ~0xfff, true);
    view.setUint32(S.CR4, 1 << 10, true); // OSXMMEXCPT
    for (const register of [RSI, RDI]) view.setUint32(gpr(register), OPERAND, true);
    view.setUint32(S.FTOP, 3, true);
  }

  /** x87 state as MMX instructions leave it: TOP, the eight "empty" bytes, sign and exponent of register `i`. */
  x87(i: number): { top: number; empty: bigint; exponent: number } {
    return {
      top: this.#view.getUint32(S.FTOP, true),
      empty: this.#view.getBigUint64(S.FEMPTY, true),
      exponent: this.#view.getUint16(S.FPR + 16 * i + 8, true),
    };
  }

  /** Before a form that should change it. */
  resetX87(): void {
    this.#view.setUint32(S.FTOP, 3, true);
    this.#view.setBigUint64(S.FEMPTY, 0x0101_0101_0101_0101n, true);
    for (let i = 0; i < 8; i++) this.#view.setUint16(S.FPR + 16 * i + 8, 0x3fff, true);
  }

  /** CR4.OSXMMEXCPT: whether unmasked exceptions are #XM. */
  set osxmmexcpt(on: boolean) {
    this.#view.setUint32(S.CR4, on ? 1 << 10 : 0, true);
  }

  /** Runs form `index` on the case `before`; the state afterwards goes to `after`. */
  run(index: number, before: Uint8Array, after: Uint8Array): void {
    const imm = before[CASE.IMM]!;
    const { operands, numbers, size } = this.#parsed[index]!;
    const view = this.#view;
    const all = this.#all;
    all.set(before.subarray(CASE.XMM, CASE.XMM + 48), S.XMM);
    for (let i = 0; i < 3; i++) {
      all.set(before.subarray(CASE.MM + 8 * i, CASE.MM + 8 * i + 8), S.FPR + 16 * i);
      all.set(before.subarray(CASE.GPR + 8 * i, CASE.GPR + 8 * i + 8), gpr(i));
    }
    all.set(before.subarray(CASE.XMM3, CASE.XMM3 + 16), S.XMM + 48);
    all.set(before.subarray(CASE.UPPER, CASE.UPPER + 64), S.YMMH);
    all.set(before.subarray(CASE.MEMORY, CASE.MEMORY + 32), OPERAND);
    const input = new DataView(before.buffer, before.byteOffset);
    view.setUint32(S.MXCSR, input.getUint32(CASE.MXCSR, true), true);
    view.setUint32(S.CC_KIND, 0, true);
    view.setUint32(S.CC_B, input.getUint32(CASE.FLAGS, true), true);
    view.setUint32(S.FAULT_VECTOR, 0xffff_ffff, true);
    all.fill(0, RECORD, RECORD + REC.BYTES);
    view.setUint16(RECORD + REC.BASE, gpr(RSI), true);
    view.setUint16(RECORD + REC.INDEX, S.ZERO, true);
    view.setUint16(RECORD + REC.SEG, S.ZERO, true);
    view.setInt32(RECORD + REC.IMM, (imm << 24) >> 24, true);
    view.setUint32(RECORD + REC.AUX, (size === 8 ? AUX.REX_W : 0) | (2 << AUX.ADDRESS_SIZE_SHIFT), true);
    operands.forEach(({ kind, slot }, i) => {
      const at = { xmm: S.XMM + 16 * numbers[i]!, mm: S.FPR + 16 * numbers[i]!, gpr: gpr(numbers[i]!) }[kind as 'mm'];
      if (at !== undefined && slot >= 0) view.setUint16(RECORD + [REC.RA, REC.RB, REC.RC][slot]!, at, true);
    });
    const status = this.#run[index]!(RECORD);
    after.set(all.subarray(S.XMM, S.XMM + 48), CASE.XMM);
    for (let i = 0; i < 3; i++) {
      after.set(all.subarray(S.FPR + 16 * i, S.FPR + 16 * i + 8), CASE.MM + 8 * i);
      after.set(all.subarray(gpr(i), gpr(i) + 8), CASE.GPR + 8 * i);
    }
    after.set(all.subarray(S.XMM + 48, S.XMM + 64), CASE.XMM3);
    after.set(all.subarray(S.YMMH, S.YMMH + 64), CASE.UPPER);
    after.set(all.subarray(OPERAND, OPERAND + 32), CASE.MEMORY);
    const output = new DataView(after.buffer, after.byteOffset);
    output.setUint32(CASE.MXCSR, view.getUint32(S.MXCSR, true), true);
    output.setUint32(CASE.FLAGS, view.getUint32(S.CC_B, true) & 0x8d5, true);
    output.setUint32(CASE.FAULT, status === 0 ? 0 : view.getUint32(S.FAULT_VECTOR, true) + 1, true);
  }
}
