import { assert } from '../../base/assert.ts';
import { type Callee, call, callIndirect, type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import { type FunctionBuilder, type Label, type Local, ModuleBuilder } from '../../wasm/module.ts';
import { JUMP_CACHE, REC, S, STATUS } from '../core/layout.ts';
import { jumpRelativeGeneral } from '../core/legacy-stack.ts';
import type { EngineMemory } from '../core/memory.ts';
import { instantiate, type ModuleSource } from '../core/module-source.ts';
import { PSEUDO, REGION_SLOT, TURN, TURN_SLOT, type Variant } from '../decode/decoder.ts';
import { MODE } from '../decode/mode.ts';
import { CC } from '../isa/flags.ts';
import type { Operand } from '../isa/instruction.ts';
import { type FormContext, type Library, Semantics } from '../isa/semantics.ts';
import { COMPARES, knownCondition } from './conditions.ts';
import { HOT } from './hot.ts';
import { type CoreImports, type CoreLibrary, defineLibrary, importLibrary, libraryImports } from './library.ts';
import { defineHandlerCall, defineRegionLoop } from './region-loop.ts';

/**
 * The interpreter: one WebAssembly function with a `loop` and a `br_table` over decoded records. Frequent forms stand in
 * its main switch, all others are functions of their own, made when first decoded and called through a table.
 *
 * Owns    dispatch, the exact instruction budget, links between records of a page.
 * Knows   nothing of what instructions mean: that is in isa/.
 *
 * Source  spec/wasm-engine.md A "Interpreter dispatch": why one switch. How large it may be: hot.ts, FUSED.
 */

/** Handlers outside the main switch whose functions are made together, when one of them first runs. */
const GROUP = 24;

/** Slots of the handler table: pseudo handlers and main-switch forms first, then the others. */
const TABLE_SLOTS = 16_384;

/** Static operands of a variant, as semantics see them. */
function operandsOf({ form, size, memory }: Variant): Operand[] {
  let slot = 0;
  return form.operands.map((operand): Operand => {
    const isMemory = memory && (operand.encoding === 'moffs' || operand.encoding === 'modrm.rm');
    const rule = isMemory ? operand.memorySize : operand.size;
    let bytes: number;
    if (typeof rule === 'number') bytes = rule;
    else if (rule === 'z') bytes = Math.min(size, 4);
    else bytes = size;
    // Immediates are extended to the operand size: what an instruction sees of them is its own width
    if (operand.kind === 'imm' && form.sized) bytes = Math.max(bytes, size);
    if (isMemory) return { kind: 'mem', size: bytes, slot: -1, fixed: 0 };
    if (operand.encoding === 'fixed') {
      const fixed =
        operand.kind === 'gpr'
          ? operand.register === -2
            ? S.ZERO - 0x80 + 1
            : S.ZERO - 0x80 + 8 * operand.register
          : operand.kind === 'xmm'
            ? S.XMM
            : 0;
      return { kind: operand.kind, size: bytes, slot: -1, fixed };
    }
    if (operand.kind === 'imm' || operand.kind === 'rel' || operand.kind === 'far') {
      return { kind: operand.kind, size: bytes, slot: -1, fixed: 0 };
    }
    const result: Operand = { kind: operand.kind, size: bytes, slot, fixed: 0 };
    slot += 1;
    return result;
  });
}

export const contextOf = (variant: Variant): FormContext => ({
  operands: operandsOf(variant),
  size: variant.size,
  mode: variant.mode,
  generalAddress: variant.generalAddress,
  form: `${variant.form.opcodeText}: ${variant.form.text}`,
  opcode: variant.form.opcode,
});

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

/** Where the main switch's code can go. */
interface Labels {
  readonly look: Label;
  readonly enter: Label;
  readonly left: Label;
}

/** Semantics of a form inside the main switch. */
class SwitchSemantics extends Semantics {
  readonly #labels: Labels;
  readonly #status: Local;
  readonly #record: Local;

  constructor(
    f: FunctionBuilder,
    lib: CoreLibrary,
    context: FormContext,
    record: Local,
    status: Local,
    labels: Labels,
  ) {
    super(f, lib, context, record.get);
    this.#labels = labels;
    this.#status = status;
    this.#record = record;
  }

  leave(status: Expr): void {
    this.f.set(this.#status, status);
    this.f.br(this.#labels.left);
  }

  /** After a comparison, the usual case, without a call. */
  override condition(code: number): Expr {
    const compare = COMPARES[code >>> 1];
    if (!compare) return super.condition(code);
    const a = i64.load(i32.const(0), S.CC_A);
    const b = i64.load(i32.const(0), S.CC_B);
    const result = this.f.local(I32);
    this.f.if(
      i32.eq(i32.and(i32.load(i32.const(0), S.CC_KIND), i32.const(CC.CLASS_MASK)), i32.const(CC.SUB)),
      () => this.f.set(result, compare[code & 1]!(a, b)),
      () => this.f.set(result, super.condition(code)),
    );
    return result.get;
  }

  branch(): void {
    const link = this.let(this.field32(REC.LINK));
    this.f.if(link.get, () => {
      this.f.set(this.#record, link.get);
      this.f.br(this.#labels.enter);
    });
    this.f.release(link);
    this.leave(i32.const(STATUS.LINKED));
  }

  branchIf(condition: Expr): void {
    this.f.if(condition, () => this.branch());
    this.f.set(this.#record, i32.add(this.record, i32.const(REC.BYTES)));
    this.f.br(this.#labels.enter);
  }

  jump(target: Expr): void {
    const bound = this.let(target);
    this.checkTarget(bound);
    this.f.do(i64.store(i32.const(0), bound.get, S.NEXT_LINEAR));
    this.f.br(this.#labels.look);
  }
}

/** Semantics of an instruction whose flags the next one, a Jcc, asks for: both are one case of the switch. */
class FusedSemantics extends SwitchSemantics {
  #known: { kind: number; a: Expr; b: Expr } | undefined;

  protected override setLazyFlags(kind: number, a: Expr, b: Expr): void {
    const second = this.let(b).get;
    this.#known = { kind, a: this.let(a).get, b: second };
    super.setLazyFlags(kind, this.#known.a, second);
  }

  override condition(code: number): Expr {
    assert(this.#known !== undefined, `${this.form}: it sets the flags`);
    const { kind, a, b } = this.#known;
    const result = knownCondition(code, kind, a, b);
    assert(result !== undefined, `${this.form}: condition ${code} is simple`);
    return result;
  }
}

/** Two instructions that have one case of the main switch between them. */
export interface Fusion {
  readonly first: Variant;
  /** What is behind it: another, or a Jcc with this condition. */
  readonly second: Variant | number;
}

/** What `run` returns besides STATUS values. */
export const RUN_BUDGET = 8;

export interface InterpreterExports {
  /** Runs from S.NEXT_LINEAR until something leaves: a STATUS, or RUN_BUDGET. The record is in S.EXIT_RECORD. */
  run(): number;
}

const isJcc = ({ form }: Variant): boolean => /^J[A-Z]+$/.test(form.mnemonic) && !NOT_JCC.has(form.mnemonic);
/** In place of a handler: a Jcc with the condition that is added. */
const JCC = REGION_SLOT;
const NOT_JCC = new Set(['JMP', 'JCXZ', 'JECXZ', 'JRCXZ']);

/** Name of a variant, as in the HOT table. */
export const variantName = ({ form, size, memory, mode }: Variant): string =>
  `${mode === 'long' ? '' : `${mode} `}${form.opcodeText}|${size}${memory ? 'm' : 'r'}`;

export class Interpreter {
  readonly #library: CoreLibrary;
  readonly #memory: EngineMemory;
  readonly #table: WebAssembly.Table;
  /** What modules that use the library import. */
  readonly #libraryImports: Record<string, unknown>;
  /** Runs of a record after which the compiler hears of it; 0: never. */
  readonly #heat: number;
  readonly #source: ModuleSource | undefined;
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
    this.#heat = heat;
    this.#source = modules;
    this.#memory = memory;
    const m = new ModuleBuilder();
    this.#library = defineLibrary(m, memory, (into) => ({ ...more(into), handler: defineHandlerCall(into) }));
    const run = m.func('run', [], [I32], true);
    this.#buildMissing(m);
    const regions = heat === 0 ? undefined : defineRegionLoop(m, memory, this.#library.byName('fillQuickly'));
    for (const [i, variant] of hotVariants.entries()) this.#hot.set(variantName(variant), PSEUDO.COUNT + i);
    this.#build(m, run, hotVariants, fusions, regions);
    this.mainBytes = run.code.length;
    m.table(TABLE_SLOTS);
    const env = {
      ...imports,
      missing: (record: number) => this.#make(memory.u16[record >>> 1]!),
      memory: memory.memory,
    };
    const instance = instantiate(m.finish(), { env }, modules);
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
    fusions.forEach(({ first, second }, i) => {
      const isBranch = typeof second === 'number';
      this.names.push(`${variantName(first)}, ${isBranch ? `Jcc ${second}` : variantName(second)}`);
      const behind = isBranch ? JCC + second : this.#hot.get(variantName(second))!;
      const begin = this.#hot.get(variantName(first))!;
      this.#begins[begin] = 1;
      this.#fused.set(begin * TABLE_SLOTS + behind, this.#firstFused + i);
    });
    this.#variants = [...new Array<undefined>(PSEUDO.COUNT), ...hotVariants, ...fusions.map(({ first }) => first)];
    for (const variant of warmVariants) this.#hot.set(variantName(variant), this.handler(variant));
  }

  readonly #variants: (Variant | undefined)[];
  /** Handlers from here to `hotCount` are of fused instructions; by the first handler × TABLE_SLOTS + what is behind it. */
  readonly #firstFused: number;
  readonly #fused = new Map<number, number>();

  /** The handler with which the record before that of `second` runs both, or the one that it has. */
  fused(first: number, second: number): number {
    // Asked for each instruction that is decoded
    if (first >= this.#firstFused || this.#begins[first] === 0) return first;
    const behind = this.#behind[second] ?? this.#learnBehind(second);
    return behind === 0 ? first : (this.#fused.get(first * TABLE_SLOTS + behind) ?? first);
  }

  /** What a handler is to the instruction before it: JCC and a condition, itself, or 0. */
  #learnBehind(second: number): number {
    const variant = this.#variants[second];
    let behind = 0;
    if (variant?.mode === 'long') {
      behind = variant.size !== 2 && isJcc(variant) ? JCC + (variant.form.opcode & 15) : second;
    }
    this.#behind[second] = behind;
    return behind;
  }
  readonly #behind: (number | undefined)[] = [];
  /** By handler: not 0 where it begins a pair. */
  readonly #begins = new Uint8Array(TABLE_SLOTS);

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
    this.#sketch ??= importLibrary(new ModuleBuilder(), this.#library);
    return this.#sketch;
  }
  #sketch: Library | undefined;

  /** A module that sees the library, the memory and nothing else, filled by `build`: its instance's exports. */
  module(build: (m: ModuleBuilder, lib: Library) => void): Record<string, unknown> {
    const m = new ModuleBuilder();
    build(m, importLibrary(m, this.#library));
    const instance = instantiate(m.finish(), { env: this.#libraryImports }, this.#source);
    this.#modules += 1;
    this.#collected.register(instance, undefined);
    return instance.exports;
  }

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

  /** Stands in the table for what is pending: (record) → status. */
  #buildMissing(m: ModuleBuilder): void {
    const f = m.func('missing', [I32], [I32], true);
    const [record] = f.parameters;
    f.do(call(this.#library.missing, record!.get));
    f.ret(callIndirect(I32, m.typeIndex([I32], [I32]), 0, i32.load16U(record!.get), record!.get));
  }

  #build(
    m: ModuleBuilder,
    f: FunctionBuilder,
    hot: readonly Variant[],
    fusions: readonly Fusion[],
    regions: Callee | undefined,
  ): void {
    const zero = i32.const(0);
    const lib = this.#library;
    const handlerType = m.typeIndex([I32], [I32]);
    const record = f.local(I32);
    const status = f.local(I32);
    const budget = f.local(I32);
    const leave = (value: number): void => {
      f.do(i32.store(zero, record.get, S.EXIT_RECORD));
      f.ret(i32.const(value));
    };
    f.loop((look) => {
      // Jump cache
      const linear = f.let(i64.load(zero, S.NEXT_LINEAR));
      const folded = i32.wrap(i64.xor(linear.get, i64.shrU(linear.get, i64.const(12))));
      const slot = f.let(
        i32.add(
          i32.load(zero, S.JUMP_CACHE),
          i32.shl(i32.and(folded, i32.const(JUMP_CACHE.ENTRIES - 1)), i32.const(JUMP_CACHE.ENTRY_SHIFT)),
        ),
      );
      const same = i32.and(
        i64.eq(i64.load(slot.get), linear.get),
        i32.eq(i32.load(slot.get, 12), i32.load(zero, S.JUMP_TAG)),
      );
      f.do(i64.store(zero, i64.and(linear.get, i64.const(-4096)), S.RIP_PAGE));
      f.if(
        same,
        () => f.set(record, i32.load(slot.get, 8)),
        () => {
          f.set(record, call(lib.lookup));
          f.if(i32.eqz(record.get), () => {
            f.do(i32.store(zero, zero, S.EXIT_RECORD));
            f.ret(i32.load(zero, S.ACCESS_STATUS));
          });
        },
      );
      f.release(linear);
      f.release(slot);
      f.loop((enter) => {
        f.set(budget, i32.sub(i32.load(zero, S.BUDGET), i32.load16U(record.get, REC.REMAINING)));
        f.if(
          i32.ltS(budget.get, zero),
          () => {
            const stepped = f.let(call(lib.stepTo, record.get));
            f.if(i32.eqz(stepped.get), () => leave(RUN_BUDGET));
            f.set(record, stepped.get);
            f.release(stepped);
          },
          () => f.do(i32.store(zero, budget.get, S.BUDGET)),
        );
        if (this.#heat !== 0) {
          const heat = f.let(i32.add(i32.load(record.get, REC.HEAT), i32.const(1)));
          f.do(i32.store(record.get, heat.get, REC.HEAT));
          f.if(i32.eq(heat.get, i32.const(this.#heat)), () => f.do(call(lib.hot, record.get)));
          f.release(heat);
        }
        f.loop((next) => {
          f.block((left) => {
            this.#switch(f, hot, fusions, { look, enter, left }, next, record, status, handlerType, leave, regions);
          });
          if (this.#heat !== 0) {
            f.if(i32.and(status.get, i32.const(STATUS.REGION)), () => {
              f.set(record, i32.load(zero, S.EXIT_RECORD));
              f.set(status, i32.and(status.get, i32.const(STATUS.REGION - 1)));
              f.brIf(next, i32.eq(status.get, i32.const(STATUS.RESUME)));
              f.brIf(enter, i32.eq(status.get, i32.const(STATUS.GO)));
              f.if(i32.eq(status.get, i32.const(STATUS.REDO)), () => {
                f.set(record, call(lib.redo, record.get));
                f.br(next);
              });
            });
          }
          // Something else than the next record
          f.if(i32.eq(status.get, i32.const(STATUS.ENTER)), () => {
            f.set(record, i32.add(record.get, i32.const(REC.BYTES)));
            f.br(enter);
          });
          f.if(i32.eq(status.get, i32.const(STATUS.LINKED)), () => {
            const link = f.let(i32.load(record.get, REC.LINK));
            f.if(link.get, () => {
              f.set(record, link.get);
              f.br(enter);
            });
            f.release(link);
            const target = i64.add(i64.load(zero, S.RIP_PAGE), i64.load32S(record.get, REC.EXTRA));
            f.do(i64.store(zero, target, S.NEXT_LINEAR));
            f.if(i32.eqz(i32.and(i32.load(zero, S.MODE), i32.const(MODE.LONG))), () =>
              f.do(i32.store(zero, zero, S.NEXT_LINEAR + 4)),
            );
            // A target in this page: the look-up makes the link
            f.if(i32.eqz(i32.and(i32.load(record.get, REC.EXTRA), i32.const(-4096))), () => {
              f.do(i32.store(zero, i32.add(record.get, i32.const(REC.LINK)), S.PENDING_LINK));
              f.set(record, call(lib.lookup));
              f.if(record.get, () => f.br(enter));
              f.do(i32.store(zero, zero, S.EXIT_RECORD));
              f.ret(i32.load(zero, S.ACCESS_STATUS));
            });
            f.br(look);
          });
          f.if(i32.eq(status.get, i32.const(STATUS.JUMP)), () => {
            // Not the last of its run: the instructions behind it do not run now
            f.do(
              i32.store(
                zero,
                i32.add(i32.load(zero, S.BUDGET), i32.sub(i32.load16U(record.get, REC.REMAINING), i32.const(1))),
                S.BUDGET,
              ),
            );
            f.br(look);
          });
          const isOffered = i32.and(
            i32.eq(status.get, i32.const(STATUS.EXIT_BEFORE)),
            i32.ne(i32.load(zero, S.TURNS), zero),
          );
          f.if(isOffered, () => {
            const turn = f.let(callIndirect(I32, handlerType, 0, i32.const(TURN_SLOT), record.get));
            f.brIf(look, i32.eq(turn.get, i32.const(TURN.DONE)));
            f.if(turn.get, () => {
              f.do(i32.store(zero, zero, S.EXIT_RECORD));
              f.ret(i32.const(RUN_BUDGET));
            });
            f.release(turn);
          });
          f.do(i32.store(zero, record.get, S.EXIT_RECORD));
          f.ret(status.get);
        });
      });
    });
    f.unreachable();
  }

  #switch(
    f: FunctionBuilder,
    hot: readonly Variant[],
    fusions: readonly Fusion[],
    labels: Labels,
    next: Label,
    record: Local,
    status: Local,
    handlerType: number,
    leave: (value: number) => void,
    regions: Callee | undefined,
  ): void {
    const zero = i32.const(0);
    const advance = (): void => {
      f.set(record, i32.add(record.get, i32.const(REC.BYTES)));
      f.br(next);
    };
    const cases: (() => void)[] = [];
    // The run was charged to its end; this record and what followed it do not run
    const refund = (): void => {
      const back = i32.add(i32.load(zero, S.BUDGET), i32.load16U(record.get, REC.REMAINING));
      f.do(i32.store(zero, back, S.BUDGET));
    };
    cases[PSEUDO.STALE] = () => {
      const here = i64.add(i64.load(zero, S.RIP_PAGE), i64.load16U(record.get, REC.OFFSET));
      f.do(i64.store(zero, here, S.NEXT_LINEAR));
      refund();
      // The look-up makes this record a GOTO to what it finds
      f.do(i32.store(zero, i32.add(record.get, i32.const(REC.LINK)), S.PENDING_LINK));
      f.set(record, call(this.#library.lookup));
      f.brIf(labels.enter, record.get);
      f.do(i32.store(zero, zero, S.EXIT_RECORD));
      f.ret(i32.load(zero, S.ACCESS_STATUS));
    };
    cases[PSEUDO.GOTO] = () => {
      refund();
      f.set(record, i32.load(record.get, REC.LINK));
      f.br(labels.enter);
    };
    cases[PSEUDO.END] = () => leave(RUN_BUDGET);
    cases[PSEUDO.RAISE] = () => {
      f.do(i32.store(zero, i32.load(record.get, REC.IMM), S.FAULT_VECTOR));
      f.do(i32.store(zero, zero, S.FAULT_ERROR));
      leave(STATUS.FAULT);
    };
    cases[PSEUDO.PAGE_END] = () => {
      const here = i64.add(i64.load(zero, S.RIP_PAGE), i64.load16U(record.get, REC.OFFSET));
      f.do(i64.store(zero, here, S.NEXT_LINEAR));
      f.if(i32.eqz(i32.and(i32.load(zero, S.MODE), i32.const(MODE.LONG))), () =>
        f.do(i32.store(zero, zero, S.NEXT_LINEAR + 4)),
      );
      f.br(labels.look);
    };
    cases[PSEUDO.CROSS] = () => {
      f.set(status, call(this.#library.cross, record.get));
      f.brIf(labels.left, status.get);
      advance();
    };
    hot.forEach((variant, i) => {
      cases[PSEUDO.COUNT + i] = () => {
        const semantics = new SwitchSemantics(f, this.#library, contextOf(variant), record, status, labels);
        variant.form.instruction.execute(semantics);
        if (!variant.form.instruction.terminator) advance();
        else f.unreachable();
      };
    });
    for (const { first, second } of fusions) {
      cases.push(() =>
        f.scope(() => {
          const next = (): void => f.set(record, i32.add(record.get, i32.const(REC.BYTES)));
          const context = contextOf(first);
          if (typeof second === 'number') {
            const both = new FusedSemantics(f, this.#library, context, record, status, labels);
            first.form.instruction.execute(both);
            next();
            both.branchIf(both.condition(second));
            f.unreachable();
          } else {
            const one = new SwitchSemantics(f, this.#library, context, record, status, labels);
            first.form.instruction.execute(one);
            next();
            const rest = new SwitchSemantics(f, this.#library, contextOf(second), record, status, labels);
            second.form.instruction.execute(rest);
            advance();
          }
        }),
      );
    }
    const targets: Label[] = [];
    if (this.#memory.profile !== 0) {
      const count = i32.add(i32.const(this.#memory.profile), i32.shl(i32.load16U(record.get), i32.const(2)));
      f.do(i32.store(count, i32.add(i32.load(count), i32.const(1))));
    }
    const nest = (i: number): void => {
      if (i < 0) {
        f.brTable(i32.load16U(record.get), targets, fallback!);
        return;
      }
      f.block((label) => {
        targets[i] = label;
        nest(i - 1);
      });
      cases[i]!();
    };
    let fallback: Label | undefined;
    f.block((label) => {
      fallback = label;
      nest(cases.length - 1);
    });
    if (regions) {
      f.if(i32.geU(i32.load16U(record.get), i32.const(REGION_SLOT)), () => {
        // They charge what they run by themselves
        refund();
        f.set(status, call(regions, record.get));
        f.br(labels.left);
      });
    }
    f.set(status, callIndirect(I32, handlerType, 0, i32.load16U(record.get), record.get));
    f.brIf(labels.left, status.get);
    advance();
  }
}

export { HOT };
