import { type Expr, f32, f64, i32, i64, v128 } from '../../wasm/expr.ts';
import type { Label } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { DOUBLE, type Format, MXCSR } from '../float/format.ts';
import type { Semantics } from './semantics.ts';
import { vector } from './sse-operands.ts';

/**
 * When the host's own floating-point instruction is right, to the bit and to MXCSR, in words for one number (its bits, an
 * i64) and for a vector.
 *
 *   - RC is nearest, PE is already set and masked: then inexact results need no further notice;
 *   - the operands are zeros or normal (so neither DE nor DAZ, and no SNaN);
 *   - the result is finite and at least twice the smallest normal number. It then was not tiny even before the last
 *     rounding (so no UE, no FTZ), did not overflow, and no operand was a NaN or, but for division, an infinity. Or
 *     it is a zero that is exact: a sum (cancellation is always exact), a product or quotient of a zero.
 *
 * Everything else goes to the functions of float/library.ts, which also find out PE while it is not yet set.
 */

/** Runs `usual`, which leaves for the label when it is not sure, and then `other` in its place. */
export function unless(m: Semantics, usual: (unsure: Label) => void, other: () => void): void {
  m.f.block((done) => {
    m.f.block((unsure) => {
      usual(unsure);
      m.f.br(done);
    });
    other();
  });
}

const mxcsr = (bits: number): Expr => i32.and(i32.load(i32.const(0), S.MXCSR), i32.const(bits));
/** RC = nearest, PM and PE set: an i32. */
export const hostRounds = (): Expr => i32.eq(mxcsr(0x6000 | MXCSR.PM | MXCSR.PE), i32.const(MXCSR.PM | MXCSR.PE));
/** PM and PE set: whether something was rounded need not be found out. */
export const inexactIsOld = (): Expr => i32.eq(mxcsr(MXCSR.PM | MXCSR.PE), i32.const(MXCSR.PM | MXCSR.PE));

// ---- one number ---------------------------------------------------------------------------------------------------------

/** Reads a scalar as WebAssembly's own type, and its bits. */
export const asNumber = (format: Format, bits: Expr): Expr =>
  format === DOUBLE ? f64.reinterpretI64(bits) : f32.reinterpretI32(i32.wrap(bits));
export const asBits = (format: Format, value: Expr): Expr =>
  format === DOUBLE ? i64.reinterpretF64(value) : i64.extendI32U(i32.reinterpretF32(value));

/** Sign and exponent of a number: an i32. */
export const signAndExponent = (format: Format, bits: Expr): Expr =>
  format === DOUBLE
    ? i32.wrap(i64.shrU(bits, i64.const(format.fraction)))
    : i32.shrU(i32.wrap(bits), i32.const(format.fraction));
const exponent = (format: Format, bits: Expr): Expr =>
  i32.and(signAndExponent(format, bits), i32.const(format.exponentMax));

/** Leaves for `unsure` if the number is a zero or denormal. */
export const sureOfOperand = (m: Semantics, format: Format, bits: Expr, unsure: Label): void =>
  m.f.brIf(unsure, i32.eqz(exponent(format, bits)));

/** Leaves for `unsure` unless the number is finite and at least twice the smallest normal one. */
export const sureOfResult = (m: Semantics, format: Format, bits: Expr, unsure: Label): void =>
  m.f.brIf(unsure, i32.geU(i32.sub(exponent(format, bits), i32.const(2)), i32.const(format.exponentMax - 2)));

/** Leaves for `unsure` unless the number is a zero or normal. */
export function sureOfOrder(m: Semantics, format: Format, bits: Expr, unsure: Label): void {
  const normal = i32.ltU(i32.sub(exponent(format, bits), i32.const(1)), i32.const(format.exponentMax - 1));
  const magnitude = format === DOUBLE ? i64.shl(bits, i64.const(1)) : i64.shl(bits, i64.const(33));
  m.f.if(i32.eqz(normal), () => m.f.brIf(unsure, i64.ne(magnitude, i64.const(0))));
}

// ---- vectors ------------------------------------------------------------------------------------------------------------

/** Lane-wise words for a vector of numbers. */
export interface Algebra {
  readonly constant: (value: number) => Expr;
  readonly abs: (a: Expr) => Expr;
  readonly eq: (a: Expr, b: Expr) => Expr;
  readonly lt: (a: Expr, b: Expr) => Expr;
  readonly le: (a: Expr, b: Expr) => Expr;
  readonly ge: (a: Expr, b: Expr) => Expr;
  readonly add: (a: Expr, b: Expr) => Expr;
  readonly sub: (a: Expr, b: Expr) => Expr;
  readonly mul: (a: Expr, b: Expr) => Expr;
  readonly div: (a: Expr, b: Expr) => Expr;
  readonly sqrt: (a: Expr) => Expr;
}

function splat(format: Format, value: number): Expr {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < 16; i += format === DOUBLE ? 8 : 4) {
    if (format === DOUBLE) view.setFloat64(i, value, true);
    else view.setFloat32(i, value, true);
  }
  return vector(bytes);
}

export function algebraOf(format: Format): Algebra {
  const double = format === DOUBLE;
  return {
    constant: (value) => splat(format, value),
    abs: double ? v128.f64x2Abs : v128.f32x4Abs,
    eq: double ? v128.f64x2Eq : v128.f32x4Eq,
    lt: double ? v128.f64x2Lt : v128.f32x4Lt,
    le: double ? v128.f64x2Le : v128.f32x4Le,
    ge: double ? v128.f64x2Ge : v128.f32x4Ge,
    add: double ? v128.f64x2Add : v128.f32x4Add,
    sub: double ? v128.f64x2Sub : v128.f32x4Sub,
    mul: double ? v128.f64x2Mul : v128.f32x4Mul,
    div: double ? v128.f64x2Div : v128.f32x4Div,
    sqrt: double ? v128.f64x2Sqrt : v128.f32x4Sqrt,
  };
}

export const smallestNormal = (format: Format): number => 2 ** (1 - format.bias);

/** Lanes that are zeros, normal numbers or infinities, as masks. */
export function ordinaryLanes(format: Format, v: Expr): Expr {
  const o = algebraOf(format);
  return v128.or(o.ge(o.abs(v), o.constant(smallestNormal(format))), o.eq(v, o.constant(0)));
}

/** All lanes of a mask are set: an i32. */
export const allLanes = v128.i32x4AllTrue;

export type Operation = 'add' | 'sub' | 'mul' | 'div';

/** Whether the result of the host's operation on vectors is right: an i32. */
export function hostIsExact(format: Format, operation: Operation, a: Expr, b: Expr, result: Expr): Expr {
  const o = algebraOf(format);
  const zero = o.eq(result, o.constant(0));
  const isZero = (v: Expr): Expr => o.eq(v, o.constant(0));
  // When a result of zero is exact
  const exactZero =
    operation === 'mul'
      ? v128.and(zero, v128.or(isZero(a), isZero(b)))
      : operation === 'div'
        ? v128.and(zero, isZero(a))
        : zero;
  const inRange = v128.and(
    o.ge(o.abs(result), o.constant(2 * smallestNormal(format))),
    o.lt(o.abs(result), o.constant(Number.POSITIVE_INFINITY)),
  );
  const operands = v128.and(ordinaryLanes(format, a), ordinaryLanes(format, b));
  return i32.and(hostRounds(), allLanes(v128.and(v128.or(inRange, exactZero), operands)));
}
