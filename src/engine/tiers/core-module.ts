import { assert } from '../../base/assert.ts';
import { type Callee, call, callIndirect, type Expr, I32, i32, i64 } from '../../wasm/expr.ts';
import { type FunctionBuilder, type Label, type Local, ModuleBuilder } from '../../wasm/module.ts';
import { helpersAsked } from '../core/helpers.ts';
import { JUMP_CACHE, REC, S, STATUS } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import type { ModuleSource } from '../core/module-source.ts';
import { PSEUDO, REGION_SLOT, TURN, TURN_SLOT, type Variant } from '../decode/decoder.ts';
import { MODE } from '../decode/mode.ts';
import { CC } from '../isa/flags.ts';
import type { FormContext } from '../isa/form-context.ts';
import { Semantics } from '../isa/semantics.ts';
import { COMPARES, knownCondition } from './conditions.ts';
import { type CoreLibrary, defineLibrary, type LibraryFunctions } from './library.ts';
import { defineHandlerCall, defineRegionLoop } from './region-loop.ts';
import { contextOf, variantName } from './variants.ts';

/**
 * The core module: the interpreter's one function, and the library that all generated code calls.
 *
 * Owns    dispatch as WebAssembly; what the module depends on, so that a host may have it from an earlier run.
 * Knows   nothing of what instructions mean: that is in isa/.
 *
 * Source  spec/wasm-engine.md A "Interpreter dispatch": why one switch. How large it may be: hot.ts, FUSED.
 */

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

/** All that the core module depends on, in one build. */
export interface CorePlan {
  readonly memory: EngineMemory;
  /** Forms in the main switch. */
  readonly hot: readonly Variant[];
  readonly fusions: readonly Fusion[];
  /** Runs of a record after which the compiler hears of it; 0: never. */
  readonly heat: number;
}

export interface CoreModule {
  readonly bytes: Uint8Array;
  readonly functions: LibraryFunctions;
  /** Bytes of the main function's body. */
  readonly mainBytes: number;
}

/** Slots of the handler table: pseudo handlers and main-switch forms first, then the others. */
const TABLE_SLOTS = 16_384;

/** Generates the core module, unless `source` has it. */
export function coreModule(
  plan: CorePlan,
  more: (m: ModuleBuilder) => Record<string, FunctionBuilder>,
  source: ModuleSource | undefined,
): CoreModule {
  const name = source ? nameOf(plan) : '';
  const known = source?.recall(name);
  if (known) {
    const { functions, mainBytes } = JSON.parse(known.about) as About;
    const signatures = functions.map(([name, params, results]) => [name, { params, results }] as const);
    return { bytes: known.bytes, functions: new Map(signatures), mainBytes };
  }
  const before = helpersAsked();
  const core = new CoreBuilder(plan, more).build();
  // Numbers of helpers are those of this run alone
  if (helpersAsked() === before) {
    const functions = [...core.functions].map(([name, { params, results }]) => [name, params, results] as const);
    const about: About = { functions, mainBytes: core.mainBytes };
    source?.keep(name, { bytes: core.bytes, about: JSON.stringify(about) });
  }
  return core;
}

interface About {
  readonly functions: readonly (readonly [string, Callee['params'], Callee['results']])[];
  readonly mainBytes: number;
}

function nameOf({ memory, hot, fusions, heat }: CorePlan): string {
  const places = Object.values(memory).filter((value) => typeof value === 'number');
  const pairs = fusions.map(({ first, second }) => [
    variantName(first),
    typeof second === 'number' ? second : variantName(second),
  ]);
  return JSON.stringify(['core', places, heat, hot.map(variantName), pairs]);
}

class CoreBuilder {
  readonly #plan: CorePlan;
  readonly #m = new ModuleBuilder();
  readonly #lib: CoreLibrary;

  constructor(plan: CorePlan, more: (m: ModuleBuilder) => Record<string, FunctionBuilder>) {
    this.#plan = plan;
    this.#lib = defineLibrary(this.#m, plan.memory, (into) => ({ ...more(into), handler: defineHandlerCall(into) }));
  }

  build(): CoreModule {
    const { heat, memory } = this.#plan;
    const run = this.#m.func('run', [], [I32], true);
    this.#missing();
    const regions = heat === 0 ? undefined : defineRegionLoop(this.#m, memory, this.#lib.byName('fillQuickly'));
    this.#run(run, regions);
    this.#m.table(TABLE_SLOTS);
    return { bytes: this.#m.finish(), functions: this.#lib.functions, mainBytes: run.code.length };
  }

  /** Stands in the table for what is pending: (record) → status. */
  #missing(): void {
    const m = this.#m;
    const f = m.func('missing', [I32], [I32], true);
    const [record] = f.parameters;
    f.do(call(this.#lib.missing, record!.get));
    f.ret(callIndirect(I32, m.typeIndex([I32], [I32]), 0, i32.load16U(record!.get), record!.get));
  }

  #run(f: FunctionBuilder, regions: Callee | undefined): void {
    const m = this.#m;
    const zero = i32.const(0);
    const lib = this.#lib;
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
        if (this.#plan.heat !== 0) {
          const heat = f.let(i32.add(i32.load(record.get, REC.HEAT), i32.const(1)));
          f.do(i32.store(record.get, heat.get, REC.HEAT));
          f.if(i32.eq(heat.get, i32.const(this.#plan.heat)), () => f.do(call(lib.hot, record.get)));
          f.release(heat);
        }
        f.loop((next) => {
          f.block((left) => {
            this.#switch(f, { look, enter, left }, next, record, status, handlerType, leave, regions);
          });
          if (this.#plan.heat !== 0) {
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
            const target = i64.add(i64.load(zero, S.RIP_PAGE), i64.load32S(record.get, REC.TARGET));
            f.do(i64.store(zero, target, S.NEXT_LINEAR));
            f.if(i32.eqz(i32.and(i32.load(zero, S.MODE), i32.const(MODE.LONG))), () =>
              f.do(i32.store(zero, zero, S.NEXT_LINEAR + 4)),
            );
            // A target in this page: the look-up makes the link
            f.if(i32.eqz(i32.and(i32.load(record.get, REC.TARGET), i32.const(-4096))), () => {
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
    labels: Labels,
    next: Label,
    record: Local,
    status: Local,
    handlerType: number,
    leave: (value: number) => void,
    regions: Callee | undefined,
  ): void {
    const zero = i32.const(0);
    const { hot, fusions } = this.#plan;
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
      f.set(record, call(this.#lib.lookup));
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
      f.set(status, call(this.#lib.cross, record.get));
      f.brIf(labels.left, status.get);
      advance();
    };
    hot.forEach((variant, i) => {
      cases[PSEUDO.COUNT + i] = () => {
        const semantics = new SwitchSemantics(f, this.#lib, contextOf(variant), record, status, labels);
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
            const both = new FusedSemantics(f, this.#lib, context, record, status, labels);
            first.form.instruction.execute(both);
            next();
            both.branchIf(both.condition(second));
            f.unreachable();
          } else {
            const one = new SwitchSemantics(f, this.#lib, context, record, status, labels);
            first.form.instruction.execute(one);
            next();
            const rest = new SwitchSemantics(f, this.#lib, contextOf(second), record, status, labels);
            second.form.instruction.execute(rest);
            advance();
          }
        }),
      );
    }
    const targets: Label[] = [];
    if (this.#plan.memory.profile !== 0) {
      const count = i32.add(i32.const(this.#plan.memory.profile), i32.shl(i32.load16U(record.get), i32.const(2)));
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
