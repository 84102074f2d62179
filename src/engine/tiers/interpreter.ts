import { assert } from '../../base/assert.ts';
import { type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import { type FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { FUSIONS, S, STATUS } from '../core/layout.ts';
import { jumpRelativeGeneral } from '../core/legacy-stack.ts';
import type { EngineMemory } from '../core/memory.ts';
import { instantiate, type ModuleSource } from '../core/module-source.ts';
import { PSEUDO, REGION_SLOT, TURN_SLOT, type Variant } from '../decode/decoder.ts';
import type { Library } from '../isa/form-context.ts';
import { Semantics } from '../isa/semantics.ts';
import { coreModule, type Fusion } from './core-module.ts';
import { HOT } from './hot.ts';
import { type CoreImports, ImportedLibrary, type LibraryFunctions, libraryImports } from './library.ts';
import { contextOf, variantName } from './variants.ts';

/**
 * The interpreter: one WebAssembly function with a `loop` and a `br_table` over decoded records. Frequent forms stand in
 * its main switch, all others are functions of their own, made when first decoded and called through a table.
 *
 * Owns    handler numbers, and the functions behind them.
 * Knows   nothing of what instructions mean: that is in isa/; nor how records are dispatched: core-module.ts.
 */

/** Handlers outside the main switch whose functions are made together, when one of them first runs. */
const GROUP = 24;

/** Semantics of a form that is a function: (record) → status. */
class FunctionSemantics extends Semantics {
  leave(status: Expr): void {
    this.f.ret(status);
  }

  branch(): void {
    if (this.mode === 'general' || this.size === 2) this.helper(jumpRelativeGeneral);
    else this.f.ret(i32.const(STATUS.LINKED));
  }

  branchIf(condition: Expr): void {
    if (this.mode === 'general' || this.size === 2) {
      this.f.if(condition, () => this.helper(jumpRelativeGeneral));
      this.f.ret(i32.const(STATUS.ENTER));
    } else this.f.ret(select(condition, i32.const(STATUS.LINKED), i32.const(STATUS.ENTER)));
  }

  jump(target: Expr): void {
    const bound = this.let(target);
    this.checkTarget(bound);
    this.f.do(i64.store(i32.const(0), bound.get, S.NEXT_LINEAR));
    this.f.ret(i32.const(STATUS.JUMP));
  }
}

export interface InterpreterExports {
  /** Runs from S.NEXT_LINEAR until something leaves: a STATUS, or RUN_BUDGET. The record is in S.EXIT_RECORD. */
  run(): number;
}

const isJcc = ({ form }: Variant): boolean => /^J[A-Z]+$/.test(form.mnemonic) && !NOT_JCC.has(form.mnemonic);
/** In place of a handler: a Jcc with the condition that is added. */
const JCC = REGION_SLOT;
const NOT_JCC = new Set(['JMP', 'JCXZ', 'JECXZ', 'JRCXZ']);

export class Interpreter {
  readonly #library: LibraryFunctions;
  readonly #table: WebAssembly.Table;
  /** What modules that use the library import. */
  readonly #libraryImports: Record<string, unknown>;
  readonly #source: ModuleSource | undefined;
  readonly #memory: EngineMemory;
  readonly #hot = new Map<string, number>();
  readonly exports: Record<string, unknown>;
  readonly run: () => number;
  #next: number;
  /** Names by handler number, for profiles and dumps. */
  readonly names: string[] = [];
  /** Handler numbers below this are cases of the main switch. */
  readonly hotCount: number;
  /** Bytes of the main function's body. */
  readonly mainBytes: number;

  constructor(
    memory: EngineMemory,
    imports: Omit<CoreImports, 'missing'>,
    hotVariants: readonly Variant[],
    fusions: readonly Fusion[],
    warmVariants: readonly Variant[],
    more: (m: ModuleBuilder) => Record<string, FunctionBuilder>,
    heat = 0,
    modules?: ModuleSource,
  ) {
    this.#source = modules;
    this.#memory = memory;
    for (const [i, variant] of hotVariants.entries()) this.#hot.set(variantName(variant), PSEUDO.COUNT + i);
    const core = coreModule({ memory, hot: hotVariants, fusions, heat }, more, modules);
    this.#library = core.functions;
    this.mainBytes = core.mainBytes;
    const env = {
      ...imports,
      missing: (record: number) => this.#make(memory.u16[record >>> 1]!),
      memory: memory.memory,
    };
    const instance = instantiate(core.bytes, { env }, modules);
    this.exports = instance.exports;
    this.run = instance.exports['run'] as () => number;
    this.#table = instance.exports['table'] as WebAssembly.Table;
    this.#libraryImports = libraryImports(this.#library, memory.memory, instance.exports);
    this.#firstFused = PSEUDO.COUNT + hotVariants.length;
    this.#next = this.#firstFused + fusions.length;
    this.hotCount = this.#next;
    for (const name of Object.keys(PSEUDO)) this.names.push(name);
    this.names.length = PSEUDO.COUNT;
    for (const variant of hotVariants) this.names.push(variantName(variant));
    const firsts = new Map<number, number>();
    const numberOf = (numbers: Map<number, number>, key: number): number => {
      const known = numbers.get(key) ?? numbers.size + 1;
      assert(known < 1 << FUSIONS.FIRST_SHIFT, 'the pairs fit in their table');
      numbers.set(key, known);
      return known;
    };
    fusions.forEach(({ first, second }, i) => {
      const isBranch = typeof second === 'number';
      this.names.push(`${variantName(first)}, ${isBranch ? `Jcc ${second}` : variantName(second)}`);
      const behind = isBranch ? JCC + second : this.#hot.get(variantName(second))!;
      const begin = this.#hot.get(variantName(first))!;
      const { u8, u16, fusions: at } = memory;
      u8[at + FUSIONS.FIRST + begin] = numberOf(firsts, begin);
      const pair = (numberOf(firsts, begin) << FUSIONS.FIRST_SHIFT) | numberOf(this.#seconds, behind);
      u16[((at + FUSIONS.PAIRS) >>> 1) + pair] = this.#firstFused + i;
    });
    this.#variants = [...new Array<undefined>(PSEUDO.COUNT), ...hotVariants, ...fusions.map(({ first }) => first)];
    for (let number: number = PSEUDO.COUNT; number < this.#firstFused; number += 1) this.#learnSecond(number);
    for (const variant of warmVariants) this.#hot.set(variantName(variant), this.handler(variant));
  }

  readonly #variants: (Variant | undefined)[];
  /** Handlers from here to `hotCount` are of fused instructions. */
  readonly #firstFused: number;

  /** What code that is decoded finds in FUSIONS about a handler: which pairs it can be the second of. */
  #learnSecond(handler: number): void {
    const variant = this.#variants[handler];
    if (variant?.mode !== 'long') return;
    const behind = variant.size !== 2 && isJcc(variant) ? JCC + (variant.form.opcode & 15) : handler;
    this.#memory.u8[this.#memory.fusions + FUSIONS.SECOND + handler] = this.#seconds.get(behind) ?? 0;
  }
  /** JCC and a condition, or another's handler: its number as the second of pairs. */
  readonly #seconds = new Map<number, number>();

  /** Handler of the instruction alone. */
  plain(handler: number): number {
    if (handler < this.#firstFused || handler >= this.hotCount) return handler;
    return this.#hot.get(variantName(this.#variants[handler]!))!;
  }

  /** What a handler number stands for; nothing for pseudo handlers. */
  variant(handler: number): Variant | undefined {
    return this.#variants[handler];
  }

  /** The library as such modules see it, for code that is only tried. */
  get sketch(): Library {
    if (!this.#sketch) {
      this.#sketch = new ImportedLibrary(this.#library);
      this.#sketch.serve(new ModuleBuilder());
    }
    return this.#sketch.library;
  }
  #sketch: ImportedLibrary | undefined;

  /** A module that sees the library, the memory and nothing else, filled by `build`: its instance's exports. */
  module(build: (m: ModuleBuilder, lib: Library) => void): Record<string, unknown> {
    const m = new ModuleBuilder();
    assert(!this.#building, 'one module is built at a time');
    this.#building = true;
    this.#imported ??= new ImportedLibrary(this.#library);
    this.#imported.serve(m);
    build(m, this.#imported.library);
    this.#building = false;
    const instance = instantiate(m.finish(), { env: this.#libraryImports }, this.#source);
    this.#modules += 1;
    this.#collected.register(instance, undefined);
    return instance.exports;
  }

  #imported: ImportedLibrary | undefined;
  #building = false;

  /**
   * Modules that the host has not collected yet. V8 before Node 24 has two memory maps for each, of which a process may have
   * 65,530 on Linux (spec/wasm-engine.md B); it collects, and says so, only while nothing runs.
   */
  get modules(): number {
    return this.#modules;
  }
  #modules = 0;
  readonly #collected = new FinalizationRegistry(() => {
    this.#modules -= 1;
  });

  /** Puts a function, (record) → status, behind a handler number; null takes it away. */
  setHandler(number: number, f: unknown): void {
    this.#table.set(number, f);
  }

  /** Handler number for a variant. If it is not in the main switch, its function is made when it first runs. */
  handler(variant: Variant): number {
    const hot = variant.generalAddress ? undefined : this.#hot.get(variantName(variant));
    if (hot !== undefined) return hot;
    return this.#pend(variant);
  }

  #pend(variant: Variant): number {
    const number = this.#next++;
    assert(number < TURN_SLOT, 'there are slots for all forms');
    this.#variants[number] = variant;
    this.#learnSecond(number);
    this.setHandler(number, this.exports['missing']);
    this.#pending.add(number);
    this.names[number] = `${variantName(variant)}${variant.generalAddress ? ' general' : ''} ${variant.form.text}`;
    return number;
  }

  /**
   * Handler number of a function that does what `number` stands for, also where that has its place in the main switch. The
   * function is made: what stands for a pending one knows it by the record, which may be a region's entry by now.
   */
  outOfLine(number: number): number {
    let made = number;
    if (number < this.hotCount) {
      made = this.#outOfLine.get(number) ?? this.#pend(this.#variants[number]!);
      this.#outOfLine.set(number, made);
    }
    if (this.#pending.has(made)) this.#make(made);
    return made;
  }
  readonly #outOfLine = new Map<number, number>();

  /** Handlers that have not run yet. */
  readonly #pending = new Set<number>();

  /** Makes the function of a handler, and those of its group: a module for each would be dear. */
  #make(wanted: number): void {
    const first = wanted - ((wanted - this.hotCount) % GROUP);
    const numbers: number[] = [];
    for (let number = first; number < first + GROUP; number += 1) {
      if (this.#pending.delete(number)) numbers.push(number);
    }
    const exports = this.module((m, lib) => {
      for (const number of numbers) {
        const variant = this.#variants[number]!;
        const f = m.func(`f${number}`, [I32], [I32], true);
        variant.form.instruction.execute(new FunctionSemantics(f, lib, contextOf(variant), f.parameters[0]!.get));
        f.ret(i32.const(STATUS.NEXT));
      }
    });
    for (const number of numbers) this.setHandler(number, exports[`f${number}`]);
  }
}

export { HOT };
