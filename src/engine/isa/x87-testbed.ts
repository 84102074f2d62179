import { call, type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { type FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { AUX, REC, S, STATUS, TLB } from '../core/layout.ts';
import { defineF80 } from '../float/f80.ts';
import type { FormContext, Library } from './form-context.ts';
import type { Instruction, Operand } from './instruction.ts';
import { Semantics } from './semantics.ts';

/**
 * Runs single x87 instructions without decoder and tiers: a module with one function for each form, a memory with one
 * page of "guest" mapped by hand. For tests, and for comparison with a real CPU.
 */
export class X87Testbed {
  readonly memory = new WebAssembly.Memory({ initial: 4 + (REC.COLD >>> 16) });
  readonly u8 = new Uint8Array(this.memory.buffer);
  readonly view = new DataView(this.memory.buffer);
  /** Functions of the library that the module exports under their names. */
  readonly exports: Readonly<Record<string, unknown>>;
  readonly #forms = new Map<number, () => number>();

  constructor(rows: readonly Instruction[], exported: readonly string[] = []) {
    const m = new ModuleBuilder();
    m.importMemory('env', 'memory', 1);
    const functions = defineF80(m);
    const lib = library(m, functions);
    const forms: [string, string, FunctionBuilder][] = [];
    for (const row of rows) {
      for (const [opcode, text] of Object.entries(row.forms)) {
        const f = m.func(`form ${forms.length}`, [], [I32], true);
        const context: FormContext = {
          operands: operandsOf(text),
          size: 4,
          mode: 'long',
          generalAddress: false,
          form: text,
          opcode: 0,
        };
        row.execute(new Testing(f, lib, context, i32.const(RECORD)));
        f.ret(i32.const(STATUS.NEXT));
        forms.push([opcode, text, f]);
      }
    }
    for (const name of exported) {
      const target = functions[name]!;
      const f = m.func(`export ${name}`, target.params, target.results, true);
      f.ret(call(target, ...f.parameters.map(({ get }) => get)));
    }
    const instance = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory: this.memory } });
    this.exports = instance.exports;
    forms.forEach(([opcode], i) => {
      for (const key of keysOf(opcode)) this.#forms.set(key, instance.exports[`form ${i}`] as () => number);
    });
    this.#prepare();
  }

  #prepare(): void {
    const set = 0x1_0000;
    this.view.setUint32(S.TLB, set, true);
    for (const array of [set, set + TLB.WRITE]) {
      const entry = array + ((LINEAR >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES));
      this.view.setUint32(entry, LINEAR, true);
      this.view.setUint32(entry + TLB.ADDEND, HOST - LINEAR, true);
    }
    for (const field of [REC.BASE, REC.INDEX, REC.SEG]) this.view.setUint16(RECORD + field, S.ZERO, true);
    this.view.setUint32(RECORD + REC.DISP, LINEAR, true);
    this.view.setUint32(RECORD + REC.AUX, 2 << AUX.OPERAND_SIZE_SHIFT, true);
  }

  has(opcode: number, modRM: number): boolean {
    return this.#forms.has((opcode << 8) | formByte(modRM)) || this.#forms.has(WHOLE | (opcode << 8) | modRM);
  }

  /** Runs an instruction; its memory operand is at HOST. Gives a STATUS. */
  run(opcode: number, modRM: number): number {
    this.view.setInt32(RECORD + REC.EXTRA, (opcode << 8) | modRM, true);
    const form = this.#forms.get(WHOLE | (opcode << 8) | modRM) ?? this.#forms.get((opcode << 8) | formByte(modRM));
    if (!form) throw new Error(`no form has the opcode ${opcode.toString(16)} ${modRM.toString(16)}`);
    return form();
  }
}

const RECORD = 0x2200;
/** The AUX word of the record: operand size. */
export const RECORD_AUX = RECORD + REC.AUX;
const LINEAR = 0x5000;
/** Where the memory operand lies. */
export const HOST = 0x3_0000;

/** A key for all ModRM bytes of a form: memory has one, register operands are told apart only by `reg`. */
const formByte = (modRM: number): number => (modRM >= 0xc0 ? modRM & 0xf8 : modRM & 0x38);

/** Marks keys of forms whose ModRM byte is fixed. */
const WHOLE = 0x1_0000;

/** Opcode column → keys. A fixed ModRM byte wins over a digit. */
function keysOf(opcode: string): number[] {
  const [first, second] = opcode.split(' ') as [string, string | undefined];
  const high = Number.parseInt(first, 16) << 8;
  if (!second) return [WHOLE | high];
  const digit = /^\/(\d):([mr])$/.exec(second);
  if (!digit) return [WHOLE | high | Number.parseInt(second, 16)];
  return [high | (Number(digit[1]) << 3) | (digit[2] === 'r' ? 0xc0 : 0)];
}

const operandsOf = (text: string): Operand[] =>
  (text.split(' ').slice(1).join('').match(/[^,]+/g) ?? []).map((word) => {
    const memory = /^m(\d*)$/.exec(word);
    return memory
      ? { kind: 'mem', size: Number(memory[1]) / 8, slot: -1, fixed: 0 }
      : { kind: 'sti', size: 10, slot: 0, fixed: 0 };
  });

class Testing extends Semantics {
  override leave(status: Expr): void {
    this.f.ret(status);
  }
  override branchIf(): void {}
  override branch(): void {}
  override jump(): void {}
}

/** Flags are what CC_B says; accesses never miss. */
function library(m: ModuleBuilder, functions: Readonly<Record<string, FunctionBuilder>>): Library {
  const missing = (
    name: string,
    params: readonly (typeof I32 | typeof I64)[],
    results: readonly (typeof I32 | typeof I64)[],
  ): FunctionBuilder => {
    const f = m.func(name, params, results);
    f.unreachable();
    return f;
  };
  const condition = m.func('condition', [I32], [I32]);
  const code = condition.parameters[0]!;
  const flags = i32.wrap(i64.load(i32.const(0), S.CC_B));
  const masks = [0x800, 1, 0x40, 0x41, 0x80, 4];
  const mask = masks.reduceRight<Expr>(
    (rest, bits, i) => i32.or(rest, i32.mul(i32.const(bits), i32.eq(i32.shrU(code.get, i32.const(1)), i32.const(i)))),
    i32.const(0),
  );
  condition.ret(i32.xor(i32.ne(i32.and(flags, mask), i32.const(0)), i32.and(code.get, i32.const(1))));
  return {
    loadSlow: missing('loadSlow', [I64, I32], [I64]),
    storeSlow: missing('storeSlow', [I64, I64, I32], [I32]),
    modifySlow: missing('modifySlow', [I64, I32], [I32]),
    commit: missing('commit', [], []),
    loadWide: missing('loadWide', [I64, I32], [I32]),
    storeWide: missing('storeWide', [I64, I32], [I32]),
    flags: missing('flags', [], [I32]),
    condition,
    carry: missing('carry', [], [I32]),
    helper: missing('helper', [I32, I32], [I32]),
    mulHighU: missing('mulHighU', [I64, I64], [I64]),
    mulHighS: missing('mulHighS', [I64, I64], [I64]),
    linear: missing('linear', [I32, I32], [I32]),
    byName: (name) => functions[name]!,
  };
}
