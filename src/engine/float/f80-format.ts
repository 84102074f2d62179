import { assert } from '../../base/assert.ts';
import { bits } from '../../base/bits.ts';
import { type Callee, call, type Expr, I32, I64, i32, i64, type ValType } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';

/**
 * Double extended-precision values while functions work on them: a pair of an i64 significand (with its explicit
 * integer bit) and an i32 that holds the exponent in bits 0–14 and the sign in bit 15. Bit 16 of the latter marks a
 * value that was a denormal before its conversion from a narrower format made it normal: using it is a DE.
 *
 * Functions that give a value have two results, significand first. Exceptions, C0–C3 and the like are collected in the
 * cell EXC as bits of the status word; who calls clears it before and merges it into S.FSW after (f80-stack.ts).
 *
 * Source  SDM 1 8.1.3 "x87 FPU Status Register", 4.2.2 "Floating-Point Data Types".
 */
export const FSW = bits({
  IE: 0,
  DE: 1,
  ZE: 2,
  OE: 3,
  UE: 4,
  PE: 5,
  SF: 6,
  ES: 7,
  C0: 8,
  C1: 9,
  C2: 10,
  C3: 14,
  B: 15,
});
/** Exceptions found before an instruction computes: if unmasked, its operands stay as they are. */
export const PRE_EXCEPTIONS = FSW.IE | FSW.DE | FSW.ZE;
export const EXCEPTIONS = PRE_EXCEPTIONS | FSW.OE | FSW.UE | FSW.PE;

/** Control word. SDM 1 8.1.5 "x87 FPU Control Word". Masks have the places of the exceptions in the status word. */
export const FCW = { PC_SHIFT: 8, RC_SHIFT: 10, INIT: 0x37f } as const;
/** Rounding control. */
export const RC = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

/** Cells in S.FLOAT_SCRATCH. */
export const EXC = S.FLOAT_SCRATCH;
/** Value found by a function that says only whether there is one. */
const RESULT_SIG = S.FLOAT_SCRATCH + 8;
const RESULT_SE = S.FLOAT_SCRATCH + 16;

export const BIAS = 0x3fff;
export const SIGN = 0x8000;
export const EXPONENT = 0x7fff;
export const NARROW_DENORMAL = 0x1_0000;
/** Added to the exponent of a result that underflows unmasked, taken from one that overflows. SDM 1 8.5.4, 8.5.5. */
export const EXPONENT_ADJUST = 0x6000;

export const INTEGER_BIT = i64.halves(0, 0x8000_0000);
export const QUIET_BIT = i64.halves(0, 0x4000_0000);
export const ZERO = i32.const(0);
export const ZERO64 = i64.const(0);
export const ONE64 = i64.const(1);

export interface Value {
  readonly sig: Local;
  readonly se: Local;
}

/** Functions of this library that others call, by name. */
export type Functions = Record<string, FunctionBuilder>;

/** What the files of this library share while they define their functions. */
export class Definer {
  readonly #module: ModuleBuilder;
  readonly functions: Functions = {};

  constructor(module: ModuleBuilder) {
    this.#module = module;
  }

  define(
    name: string,
    params: readonly ValType[],
    results: readonly ValType[],
    body: (f: FunctionBuilder) => void,
  ): void {
    const f = this.#module.func(name, params, results);
    this.functions[name] = f;
    body(f);
  }

  get(name: string): FunctionBuilder {
    const f = this.functions[name];
    assert(f !== undefined, `${name} is defined before it is used`);
    return f;
  }

  call(name: string, ...args: Expr[]): Expr {
    return call(this.get(name), ...args);
  }

  /** Calls a function that gives a value, or any pair. */
  pair(f: FunctionBuilder, into: readonly [Local, Local] | Value, name: string, ...args: Expr[]): void {
    callPair(f, into, this.get(name), ...args);
  }
}

/** Calls a function with two results and puts them into two locals. */
export function callPair(
  f: FunctionBuilder,
  into: readonly [Local, Local] | Value,
  callee: Callee,
  ...args: Expr[]
): void {
  const [first, second] = 'sig' in into ? [into.sig, into.se] : into;
  f.do(call(callee, ...args));
  for (const local of [second, first]) {
    f.code.byte(0x21);
    f.code.u32(local.index);
  }
}

export const value = (f: FunctionBuilder): Value => ({ sig: f.local(I64), se: f.local(I32) });

/** Parameters of a function, in fours: (aSig, aSe, bSig, bSe …). */
export const parameter = (f: FunctionBuilder, index: number): Value => ({
  sig: f.parameters[2 * index]!,
  se: f.parameters[2 * index + 1]!,
});
export const ONE_VALUE: readonly ValType[] = [I64, I32];
export const TWO_VALUES: readonly ValType[] = [I64, I32, I64, I32];

/** Sets bits in EXC. */
export const raise = (f: FunctionBuilder, what: number | Expr): void =>
  f.do(i32.store(ZERO, i32.or(i32.load(ZERO, EXC), typeof what === 'number' ? i32.const(what) : what), EXC));

export const exc = (): Expr => i32.load(ZERO, EXC);
export const controlWord = (): Expr => i32.load16U(ZERO, S.FCW);
export const roundingControl = (): Expr => i32.and(i32.shrU(controlWord(), i32.const(FCW.RC_SHIFT)), i32.const(3));
export const masked = (exception: number): Expr => i32.and(controlWord(), i32.const(exception));

export const setResult = (f: FunctionBuilder, sig: Expr, se: Expr): void => {
  f.do(i64.store(ZERO, sig, RESULT_SIG));
  f.do(i32.store(ZERO, se, RESULT_SE));
};
export const returnResult = (f: FunctionBuilder): void => f.ret(i64.load(ZERO, RESULT_SIG), i32.load(ZERO, RESULT_SE));

export const exponent = (se: Expr): Expr => i32.and(se, i32.const(EXPONENT));
export const sign = (se: Expr): Expr => i32.and(se, i32.const(SIGN));
export const flag = (condition: Expr): Expr => i64.extendI32U(condition);

/** The QNaN that answers invalid operations. SDM 1 4.8.3.7 "QNaN Floating-Point Indefinite". */
export const INDEFINITE = { sig: i64.halves(0, 0xc000_0000), se: i32.const(0xffff) } as const;
export const returnIndefinite = (f: FunctionBuilder): void => {
  raise(f, FSW.IE);
  f.ret(INDEFINITE.sig, INDEFINITE.se);
};

/** 1 if the pair is an infinity, given that it is neither a NaN nor unsupported. */
export const isInfinite = (v: Value): Expr => i32.eq(exponent(v.se.get), i32.const(EXPONENT));
export const isZero = (v: Value): Expr => i64.eqz(v.sig.get);

/** Anything but a normal number: 1 for those that need a look at the special cases. */
export const isSpecial = (v: Value): Expr =>
  i32.or(
    i32.geU(i32.sub(i32.and(v.se.get, i32.const(EXPONENT | NARROW_DENORMAL)), i32.const(1)), i32.const(EXPONENT - 1)),
    i64.geS(v.sig.get, ZERO64),
  );

/** NaNs, unsupported encodings, denormals: the same questions for every operation. */
export function defineOperands(d: Definer): void {
  // 1 if the value is unsupported: a pseudo-NaN, pseudo-infinity or unnormal. SDM 1 8.2.2 "Unsupported Double
  // Extended-Precision Floating-Point Encodings and Pseudo-Denormals"
  d.define('f80.unsupported', ONE_VALUE, [I32], (f) => {
    const a = parameter(f, 0);
    f.ret(i32.and(i32.ne(exponent(a.se.get), ZERO), i64.geS(a.sig.get, ZERO64)));
  });

  d.define('f80.isNaN', ONE_VALUE, [I32], (f) => {
    const a = parameter(f, 0);
    f.ret(i32.and(i32.eq(exponent(a.se.get), i32.const(EXPONENT)), i64.gtU(a.sig.get, INTEGER_BIT)));
  });

  // 1 if one of the operands is a NaN or unsupported: then the answer is in RESULT, and IE is raised where due.
  // SDM 1 4.8.3.5 "Operating on SNaNs and QNaNs", table 4-7; MEASURED on AMD Zen 4: of two NaNs with equal
  // significands the positive one.
  d.define('f80.nan', TWO_VALUES, [I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const pick = value(f);
    f.if(i32.or(d.call('f80.unsupported', a.sig.get, a.se.get), d.call('f80.unsupported', b.sig.get, b.se.get)), () => {
      raise(f, FSW.IE);
      setResult(f, INDEFINITE.sig, INDEFINITE.se);
      f.ret(i32.const(1));
    });
    const aNaN = f.let(d.call('f80.isNaN', a.sig.get, a.se.get));
    const bNaN = f.let(d.call('f80.isNaN', b.sig.get, b.se.get));
    f.if(i32.eqz(i32.or(aNaN.get, bNaN.get)), () => f.ret(ZERO));
    const signaling = (v: Value, nan: Local): Expr => i32.and(nan.get, i64.eqz(i64.and(v.sig.get, QUIET_BIT)));
    f.if(i32.or(signaling(a, aNaN), signaling(b, bNaN)), () => raise(f, FSW.IE));
    const take = (v: Value): void => {
      f.set(pick.sig, v.sig.get);
      f.set(pick.se, v.se.get);
    };
    take(a);
    f.if(i32.eqz(aNaN.get), () => take(b));
    f.if(i32.and(aNaN.get, bNaN.get), () => {
      f.if(i64.gtU(b.sig.get, a.sig.get), () => take(b));
      f.if(i32.and(i64.eq(b.sig.get, a.sig.get), i32.eqz(sign(b.se.get))), () => take(b));
    });
    setResult(f, i64.or(pick.sig.get, QUIET_BIT), i32.and(pick.se.get, i32.const(0xffff)));
    f.ret(i32.const(1));
  });

  d.define('f80.isDenormal', ONE_VALUE, [I32], (f) => {
    const a = parameter(f, 0);
    f.ret(
      i32.or(
        i32.ne(i32.and(a.se.get, i32.const(NARROW_DENORMAL)), ZERO),
        i32.and(i32.eqz(exponent(a.se.get)), i64.ne(a.sig.get, ZERO64)),
      ),
    );
  });

  // Raises DE if an operand is denormal: 1 if that is not masked, and the operation ends.
  d.define('f80.denormal', TWO_VALUES, [I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    f.if(i32.or(d.call('f80.isDenormal', a.sig.get, a.se.get), d.call('f80.isDenormal', b.sig.get, b.se.get)), () => {
      raise(f, FSW.DE);
      f.ret(i32.eqz(masked(FSW.DE)));
    });
    f.ret(ZERO);
  });
}

/** Brings a denormal (or pseudo-denormal) to a significand with integer bit and an exponent that may be below 1. */
export function normalize(f: FunctionBuilder, sig: Local, exp: Local): void {
  f.if(i32.eqz(exp.get), () => f.set(exp, i32.const(1)));
  f.if(i64.geS(sig.get, ZERO64), () => {
    const shift = f.let(i64.clz(sig.get));
    f.set(sig, i64.shl(sig.get, shift.get));
    f.set(exp, i32.sub(exp.get, i32.wrap(shift.get)));
    f.release(shift);
  });
}

/** NaNs of both operands: returns the answer if one is. */
export function handleNaN(d: Definer, f: FunctionBuilder, a: Value, b: Value = a): void {
  f.if(d.call('f80.nan', a.sig.get, a.se.get, b.sig.get, b.se.get), () => returnResult(f));
}

/** Denormal operands: returns if DE is not masked. */
export function handleDenormal(d: Definer, f: FunctionBuilder, a: Value, b: Value = a): void {
  f.if(d.call('f80.denormal', a.sig.get, a.se.get, b.sig.get, b.se.get), () => f.ret(ZERO64, ZERO));
}

/** Clears bits of the status word now: for instructions that set C0, C2 and C3 by EXC. */
export const clearStatus = (f: FunctionBuilder, bits: number): void =>
  f.do(i32.store16(ZERO, i32.and(i32.load16U(ZERO, S.FSW), i32.const(~bits)), S.FSW));
