import { assert } from '../../base/assert.ts';
import { type Callee, call, type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import { type FunctionBuilder, LateImports, type Local, type ModuleBuilder } from '../../wasm/module.ts';
import { FILL_WRITE, REC, S, TLB } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { defineQuickStrings } from '../core/quick-strings.ts';
import { defineQuickTransfers } from '../core/quick-transfers.ts';
import { buildDecodeRun, buildQuickDecode } from '../decode/quick-decode.ts';
import { divideLong } from '../float/divide.ts';
import { CC } from '../isa/flags.ts';
import type { Library } from '../isa/form-context.ts';
import { accessBits, defineQuickAccesses } from '../paging/quick-access.ts';
import { defineQuickWalk } from '../paging/quick-walk.ts';
import { defineCross, defineLookup, defineStorable } from './find-code.ts';
import { buildCompareElements, COMPARE_PARAMETERS } from './string-kernels.ts';

/**
 * Functions of the core module that instruction code calls, and the imports behind them.
 *
 * Owns  the calling convention between generated code and TypeScript: 64-bit values go through S.EA and S.VALUE, as a
 *       BigInt would cost five times the call (spec/wasm-engine.md E).
 */

/** What TypeScript provides to the core module. */
export interface CoreImports {
  /** Loads `bytes` at S.EA into S.VALUE. Status. */
  load(bytes: number): number;
  /** Stores S.VALUE. Status. */
  store(bytes: number): number;
  /** Host address for modifying `bytes` at S.EA, or 0 with S.ACCESS_STATUS; SCRATCH if `commit` must follow. */
  modify(bytes: number): number;
  commit(): void;
  loadWide(bytes: number): number;
  storeWide(bytes: number): number;
  helper(number: number, record: number): number;
  linear(record: number, access: number): number;
  /** Record for S.NEXT_LINEAR, or 0 with S.ACCESS_STATUS. */
  lookup(): number;
  /** The budget does not reach the end of the run that starts at `record`: record to go on with, or 0. */
  stepTo(record: number): number;
  /** Decodes the instruction at a host address into a record: CodeCache.decode. */
  decode(record: number, host: number, mode: number): number;
  /** Checks, and decodes again if need be, the instruction that crosses a page. Status. */
  cross(record: number): number;
  /** The run at `record` has become hot. */
  hot(record: number): void;
  /** Record that runs the instruction of `record` in the interpreter, whose run is charged. */
  redo(record: number): number;
  /** The handler of `record` has no function yet: makes it. */
  missing(record: number): void;
}

export interface CoreLibrary extends Library {
  readonly lookup: Callee;
  readonly stepTo: Callee;
  readonly cross: Callee;
  readonly hot: Callee;
  readonly redo: Callee;
  readonly missing: Callee;
  readonly functions: LibraryFunctions;
}

/** The core module's exported functions, to import them into other modules. */
export type LibraryFunctions = ReadonlyMap<string, Pick<Callee, 'params' | 'results'>>;

const IMPORTS: readonly [name: keyof CoreImports, params: number[], results: number[]][] = [
  ['load', [I32], [I32]],
  ['store', [I32], [I32]],
  ['modify', [I32], [I32]],
  ['commit', [], []],
  ['loadWide', [I32], [I32]],
  ['storeWide', [I32], [I32]],
  ['helper', [I32, I32], [I32]],
  ['linear', [I32, I32], [I32]],
  ['lookup', [], [I32]],
  ['stepTo', [I32], [I32]],
  ['decode', [I32, I32, I32], [I32]],
  ['cross', [I32], [I32]],
  ['hot', [I32], []],
  ['redo', [I32], [I32]],
  ['missing', [I32], []],
];

const zero = i32.const(0);
type Types = readonly (typeof I32 | typeof I64)[];

/** Declares the imports and defines the functions in the core module. `more` adds others (floating point). */
export function defineLibrary(
  m: ModuleBuilder,
  memory: EngineMemory,
  more: (m: ModuleBuilder) => Record<string, FunctionBuilder>,
): CoreLibrary {
  const imports = new Map<string, Callee>();
  for (const [name, params, results] of IMPORTS) {
    imports.set(name, m.importFunction('env', name, params as Types, results as Types));
  }
  m.importMemory('env', 'memory', 1);
  const js = (name: keyof CoreImports): Callee => imports.get(name)!;
  const functions = new Map<string, FunctionBuilder>();
  const define = (name: string, params: Types, results: Types, body: (f: FunctionBuilder) => void): FunctionBuilder => {
    const f = m.func(name, params, results, true);
    body(f);
    functions.set(name, f);
    return f;
  };

  const quickWalk = defineQuickWalk(m, memory);
  const declare = (name: string, params: Types, results: Types): FunctionBuilder =>
    define(name, params, results, () => {});
  const quick = defineQuickAccesses(declare, quickWalk, defineStorable(m, memory), {
    load: js('load'),
    store: js('store'),
    modify: js('modify'),
    loadWide: js('loadWide'),
    storeWide: js('storeWide'),
  });
  const { loadSlow, modifySlow, quickPage } = quick;
  define('commit', [], [], (f) => f.do(call(js('commit'))));
  define('helper', [I32, I32], [I32], (f) => f.ret(call(js('helper'), ...f.parameters.map((p) => p.get))));
  define('linear', [I32, I32], [I32], (f) => f.ret(call(js('linear'), ...f.parameters.map((p) => p.get))));

  const bytesOf = (access: Local): Expr => i32.and(access.get, i32.const(0xff));
  const isWrite = (access: Local): Expr => i32.and(access.get, i32.const(FILL_WRITE));
  /** Not 0: the TLB has all bytes of an access. */
  const serves = (linear: Local, access: Local): Expr => {
    const index = i32.and(i32.wrap(i64.shrU(linear.get, i64.const(8))), i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES));
    const entry = i32.add(i32.add(i32.load(zero, S.TLB), index), select(isWrite(access), i32.const(TLB.WRITE), zero));
    const last = i64.add(linear.get, i64.extendI32U(i32.sub(bytesOf(access), i32.const(1))));
    return i64.eq(i64.load(entry), i64.and(last, i64.const(-4096)));
  };
  /** (linear, bytes, and FILL_WRITE) → 1: the TLB has it now. What TypeScript would have to look at stays as it is. */
  define('fillQuickly', [I64, I32], [I32], (f) => {
    const [linear, access] = f.parameters as [Local, Local];
    f.drop(call(quickPage, linear.get, select(isWrite(access), accessBits(true), accessBits(false))));
    f.ret(serves(linear, access));
  });
  /** The same by all means: in lockstep walks are TypeScript's. */
  define('fill', [I64, I32], [I32], (f) => {
    const [linear, access] = f.parameters as [Local, Local];
    const most = select(i32.gtU(bytesOf(access), i32.const(8)), i32.const(8), bytesOf(access));
    f.if(
      isWrite(access),
      () => f.drop(call(modifySlow, linear.get, most)),
      () => f.drop(call(loadSlow, linear.get, most)),
    );
    f.ret(serves(linear, access));
  });

  /** Offset part of the record's memory operand, by its address size. */
  define('effective', [I32], [I64], (f) => {
    const [record] = f.parameters;
    const scaled = i64.shl(i64.load(i32.load16U(record!.get, REC.INDEX)), i64.load8U(record!.get, REC.SCALE));
    const sum = i64.add(
      i64.add(i64.load(i32.load16U(record!.get, REC.BASE)), scaled),
      i64.load32S(record!.get, REC.DISP),
    );
    const size = f.let(i32.and(i32.shrU(i32.load(record!.get, REC.AUX), i32.const(4)), i32.const(3)));
    const mask = select(
      i32.eq(size.get, i32.const(2)),
      i64.const(-1),
      select(size.get, i64.halves(-1, 0), i64.const(0xffff)),
    );
    f.ret(i64.and(sum, mask));
  });

  // ---- flags, as isa/flags.ts defines the lazy ones -------------------------------------------------------------------
  const kind = i32.load(zero, S.CC_KIND);
  const a = i64.load(zero, S.CC_A);
  const b = i64.load(zero, S.CC_B);
  const classOf = i32.and(kind, i32.const(CC.CLASS_MASK));
  const bits = i32.shl(i32.const(8), i32.shrU(kind, i32.const(CC.SIZE_SHIFT)));

  const flags = define('flags', [], [I32], (f) => {
    f.if(i32.eqz(classOf), () => f.ret(i32.and(i32.wrap(b), i32.const(0x8d5))));
    const r = f.let(a);
    const others = f.let(i32.wrap(b));
    f.if(i32.ne(classOf, i32.const(CC.RESULT)), () => {
      const x = f.let(a);
      const y = f.let(b);
      const carry = f.local(I32);
      const top = f.local(I64); // sign bit tells overflow
      f.if(
        i32.eq(classOf, i32.const(CC.SUB)),
        () => {
          f.set(r, i64.sub(x.get, y.get));
          f.set(carry, i64.ltU(x.get, y.get));
          f.set(top, i64.and(i64.xor(x.get, y.get), i64.xor(x.get, r.get)));
        },
        () => {
          // r = a, one addend = b, the other r - b
          const o = f.let(i64.sub(r.get, y.get));
          f.set(carry, i64.ltU(r.get, y.get));
          f.set(top, i64.and(i64.xor(r.get, y.get), i64.xor(r.get, o.get)));
          f.set(x, o.get);
        },
      );
      const overflow = i32.and(i32.wrap(i64.shrU(top.get, i64.extendI32U(i32.sub(bits, i32.const(1))))), i32.const(1));
      const adjust = i32.and(i32.wrap(i64.xor(i64.xor(x.get, y.get), r.get)), i32.const(0x10));
      f.set(others, i32.or(i32.or(carry.get, i32.shl(overflow, i32.const(11))), adjust));
    });
    // Result bits of the operand's width, at the top
    const wide64 = f.let(i64.shl(r.get, i64.extendI32U(i32.sub(i32.const(64), bits))));
    const z = i32.shl(i64.eqz(wide64.get), i32.const(6));
    const s = i32.shl(i64.ltS(wide64.get, i64.const(0)), i32.const(7));
    const even = i32.xor(i32.and(i32.popcnt(i32.and(i32.wrap(r.get), i32.const(0xff))), i32.const(1)), i32.const(1));
    const p = i32.shl(even, i32.const(2));
    f.ret(i32.or(i32.or(i32.and(others.get, i32.const(0x811)), z), i32.or(s, p)));
  });

  define('carry', [], [I32], (f) => {
    f.if(i32.eq(classOf, i32.const(CC.SUB)), () => f.ret(i64.ltU(a, b)));
    f.if(i32.eq(classOf, i32.const(CC.ADD)), () => f.ret(i64.ltU(a, b)));
    f.ret(i32.and(i32.wrap(b), i32.const(1)));
  });

  /** Condition code → 0 or 1. After a comparison it is one compare. */
  define('condition', [I32], [I32], (f) => {
    const [code] = f.parameters;
    f.if(i32.eq(classOf, i32.const(CC.SUB)), () => {
      f.block((other) => {
        const compares: (() => ReturnType<typeof i64.eq>)[] = [
          () => i64.ltU(a, b), // B
          () => i64.geU(a, b), // AE
          () => i64.eq(a, b), // E
          () => i64.ne(a, b),
          () => i64.leU(a, b), // BE
          () => i64.gtU(a, b),
        ];
        const signed: (() => ReturnType<typeof i64.eq>)[] = [
          () => i64.ltS(a, b),
          () => i64.geS(a, b),
          () => i64.leS(a, b),
          () => i64.gtS(a, b),
        ];
        for (const [i, compare] of compares.entries())
          f.if(i32.eq(code!.get, i32.const(2 + i)), () => f.ret(compare()));
        for (const [i, compare] of signed.entries()) f.if(i32.eq(code!.get, i32.const(12 + i)), () => f.ret(compare()));
        f.br(other);
      });
    });
    const word = f.let(call(flags));
    const has = (mask: number) => i32.ne(i32.and(word.get, i32.const(mask)), zero);
    const less = i32.ne(has(0x80), has(0x800));
    const base = f.local(I32);
    const pairs = [
      () => has(0x800),
      () => has(1),
      () => has(0x40),
      () => has(0x41),
      () => has(0x80),
      () => has(4),
      () => less,
      () => i32.or(has(0x40), less),
    ];
    f.block((done) => {
      pairs.forEach((pair, i) => {
        f.if(i32.eq(i32.shrU(code!.get, i32.const(1)), i32.const(i)), () => {
          f.set(base, pair());
          f.br(done);
        });
      });
    });
    f.ret(i32.xor(base.get, i32.and(code!.get, i32.const(1))));
  });

  // ---- wide arithmetic ------------------------------------------------------------------------------------------------
  const low32 = i64.halves(-1, 0);
  const mulHighU = define('mulHighU', [I64, I64], [I64], (f) => {
    const [x, y] = f.parameters;
    const xl = f.let(i64.and(x!.get, low32));
    const xh = f.let(i64.shrU(x!.get, i64.const(32)));
    const yl = f.let(i64.and(y!.get, low32));
    const yh = f.let(i64.shrU(y!.get, i64.const(32)));
    const mid = f.let(i64.add(i64.mul(xh.get, yl.get), i64.shrU(i64.mul(xl.get, yl.get), i64.const(32))));
    const mid2 = f.let(i64.add(i64.mul(xl.get, yh.get), i64.and(mid.get, low32)));
    f.ret(
      i64.add(i64.add(i64.mul(xh.get, yh.get), i64.shrU(mid.get, i64.const(32))), i64.shrU(mid2.get, i64.const(32))),
    );
  });
  define('mulHighS', [I64, I64], [I64], (f) => {
    const [x, y] = f.parameters;
    const sign = (v: typeof x) => i64.shrS(v!.get, i64.const(63));
    const high = call(mulHighU, x!.get, y!.get);
    f.ret(i64.sub(i64.sub(high, i64.and(sign(x), y!.get)), i64.and(sign(y), x!.get)));
  });

  define('quotient', [], [I64], (f) => f.ret(i64.load(zero, S.VALUE)));
  define('remainder', [], [I64], (f) => f.ret(i64.load(zero, S.EA)));
  /** (low, high, divisor) → 1 if the quotient fits 64 bits; quotient in S.VALUE, remainder in S.EA. divisor ≠ 0. */
  const divide128U = define('divide128U', [I64, I64, I64], [I32], (f) => {
    const [low, high, divisor] = f.parameters;
    f.if(i64.geU(high!.get, divisor!.get), () => f.ret(zero));
    f.if(i64.eqz(high!.get), () => {
      const q = f.let(i64.divU(low!.get, divisor!.get));
      f.do(i64.store(zero, q.get, S.VALUE));
      f.do(i64.store(zero, i64.sub(low!.get, i64.mul(q.get, divisor!.get)), S.EA));
      f.ret(i32.const(1));
    });
    const shift = f.let(i64.clz(divisor!.get));
    const spilled = i64.shrU(i64.shrU(low!.get, i64.const(1)), i64.xor(shift.get, i64.const(63)));
    f.set(divisor!, i64.shl(divisor!.get, shift.get));
    f.set(high!, i64.or(i64.shl(high!.get, shift.get), spilled));
    f.set(low!, i64.shl(low!.get, shift.get));
    const quotient = divideLong(f, high!, low!, divisor!);
    f.do(i64.store(zero, quotient.get, S.VALUE));
    f.do(i64.store(zero, i64.shrU(high!.get, shift.get), S.EA));
    f.ret(i32.const(1));
  });
  define('divide128S', [I64, I64, I64], [I32], (f) => {
    const [low, high, divisor] = f.parameters;
    const negative = f.let(i64.shrS(high!.get, i64.const(63)));
    const divisorSign = f.let(i64.shrS(divisor!.get, i64.const(63)));
    // Magnitudes: x ^ s - s over 128 bits
    f.if(i64.ne(negative.get, i64.const(0)), () => {
      f.set(low!, i64.sub(i64.const(0), low!.get));
      f.set(high!, i64.sub(i64.xor(high!.get, i64.const(-1)), i64.const(0)));
      f.if(i64.eqz(low!.get), () => f.set(high!, i64.add(high!.get, i64.const(1))));
    });
    f.set(divisor!, i64.sub(i64.xor(divisor!.get, divisorSign.get), divisorSign.get));
    f.if(i32.eqz(call(divide128U, low!.get, high!.get, divisor!.get)), () => f.ret(zero));
    const q = f.let(i64.load(zero, S.VALUE));
    const sign = f.let(i64.xor(negative.get, divisorSign.get));
    const r = i64.load(zero, S.EA);
    f.do(i64.store(zero, i64.sub(i64.xor(r, negative.get), negative.get), S.EA));
    f.do(i64.store(zero, i64.sub(i64.xor(q.get, sign.get), sign.get), S.VALUE));
    // Fits: below 2^63, or exactly 2^63 when the result is negative
    const limit = i64.halves(0, 0x8000_0000);
    f.ret(i32.or(i64.geS(q.get, i64.const(0)), i32.and(i64.eq(q.get, limit), i64.ne(sign.get, i64.const(0)))));
  });

  defineQuickTransfers(declare, m, flags, quickPage, quickWalk);
  defineQuickStrings(declare, quickPage);
  const quickDecode = m.func('quickDecode', [I32, I32, I32, I32, I32], [I32], true);
  buildQuickDecode(quickDecode, memory);
  const decodeRun = m.func('decodeRun', [I32, I32, I32], [I32], true);
  buildDecodeRun(decodeRun, memory, quickDecode, js('decode'));
  define('compareElements', [...COMPARE_PARAMETERS], [I32], buildCompareElements);

  for (const [name, f] of Object.entries(more(m))) {
    m.export(name, f);
    functions.set(name, f);
  }

  return {
    ...libraryOf((name) => {
      const f = functions.get(name);
      assert(f !== undefined, `the core library has a function ${name}`);
      return f;
    }),
    lookup: defineLookup(m, memory, quickWalk, decodeRun, js('lookup')),
    stepTo: js('stepTo'),
    cross: defineCross(m, js('cross')),
    hot: js('hot'),
    redo: js('redo'),
    missing: js('missing'),
    functions,
  };
}

/** Functions that are members of a Library, besides being there by name. */
const MEMBERS: Readonly<Record<Exclude<keyof Library, 'byName'>, true>> = {
  loadSlow: true,
  storeSlow: true,
  modifySlow: true,
  commit: true,
  loadWide: true,
  storeWide: true,
  flags: true,
  condition: true,
  carry: true,
  helper: true,
  mulHighU: true,
  mulHighS: true,
  linear: true,
};

function libraryOf(byName: (name: string) => Callee): Library {
  const members = Object.keys(MEMBERS).map((name) => [name, byName(name)] as const);
  return { ...(Object.fromEntries(members) as Record<keyof typeof MEMBERS, Callee>), byName };
}

/**
 * The same functions seen from another module, which imports those that it calls: V8 compiles a wrapper for each signature
 * among a module's imports, whether or not it will be used, with TurboFan (MEASURED: with all of the library imported that
 * was a third of the time of a module). Through a table no function would be imported, but a table keeps its importers
 * alive for ever: V8 before Node 24 has it know them (MEASURED: none of 1000 instances was collected).
 */
export class ImportedLibrary {
  readonly library: Library;
  readonly #late = new LateImports();

  constructor(functions: LibraryFunctions) {
    const callees = new Map<string, Callee>();
    for (const [name, short] of namesOf(functions)) {
      const { params, results } = functions.get(name)!;
      callees.set(name, this.#late.add('env', short, params, results));
    }
    this.library = libraryOf((name) => {
      const callee = callees.get(name);
      assert(callee !== undefined, 'the core library has every function that is asked for');
      return callee;
    });
  }

  /** Code that is generated from here on is of `m`, to whose end it serves no other module. */
  serve(m: ModuleBuilder): void {
    m.importMemory('env', 'memory', 1);
    m.awaitImports();
    this.#late.serve(m);
  }
}

/** Names under which other modules import the functions of a library. */
function namesOf(functions: LibraryFunctions): ReadonlyMap<string, string> {
  let names = namesByLibrary.get(functions);
  if (!names) {
    names = new Map([...functions.keys()].map((name, slot) => [name, slot.toString(36)]));
    namesByLibrary.set(functions, names);
  }
  return names;
}
const namesByLibrary = new WeakMap<LibraryFunctions, ReadonlyMap<string, string>>();

/** What such a module's imports are bound to. */
export function libraryImports(
  functions: LibraryFunctions,
  memory: WebAssembly.Memory,
  exports: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const env: Record<string, unknown> = { memory };
  for (const [name, short] of namesOf(functions)) env[short] = exports[name];
  return env;
}
