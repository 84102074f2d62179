import { call, type Expr, F64, f32, f64, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import {
  type Binary,
  c,
  DOUBLE,
  type Format,
  fractionMask,
  indefinite,
  infinity,
  loadMxcsr,
  MXCSR,
  n,
  quietBit,
  RC,
  raise,
  rounding,
  shiftRightJam,
  signMask,
} from './format.ts';

/**
 * Binary floating point to the last bit and flag: add, subtract, multiply, divide, square root.
 *
 * Every operation takes and gives bit patterns (i64, see Format), obeys MXCSR (RC, DAZ, FTZ, UM) and or's what it
 * raised into RAISED; `float.commit` then decides what becomes of it. Inside, a number is (sign, biased exponent,
 * significand) with the significand's leading bit at 62 and a sticky bit 0; `round` is the only place where results are
 * rounded, and it is the same text for both formats.
 *
 * Sources  IEEE 754-2008; SDM 1 4.8 "Real Numbers and Floating-Point Formats", 4.9 "Overview of Floating-Point
 * Exceptions", 11.5 "SSE, SSE2, and SSE3 Exceptions".
 */
const LEAD = 62;

export interface Parts {
  readonly bits: Local;
  readonly exponent: Local;
  readonly fraction: Local;
}

/** Takes an operand apart; with DAZ a denormal becomes a zero of its sign. */
export function unpack(f: FunctionBuilder, format: Binary, bits: Local, mxcsr: Local): Parts {
  const exponent = f.let(i32.and(i32.wrap(i64.shrU(bits.get, i64.const(format.fraction))), n(format.exponentMax)));
  const fraction = f.let(i64.and(bits.get, c(fractionMask(format))));
  f.if(i32.and(i32.eqz(exponent.get), i32.ne(i32.and(mxcsr.get, n(MXCSR.DAZ)), n(0))), () => {
    f.set(fraction, i64.const(0));
    f.set(bits, i64.and(bits.get, c(signMask(format))));
  });
  return { bits, exponent, fraction };
}

export const signOf = (format: Binary, bits: Expr): Expr =>
  i32.and(i32.wrap(i64.shrU(bits, i64.const(format.signBit))), n(1));
export const isZero = ({ exponent, fraction }: Parts): Expr =>
  i64.eqz(i64.or(i64.extendI32U(exponent.get), fraction.get));
const isDenormal = ({ exponent, fraction }: Parts): Expr =>
  i32.and(i32.eqz(exponent.get), i64.ne(fraction.get, i64.const(0)));
export const isNan = (format: Binary, { exponent, fraction }: Parts): Expr =>
  i32.and(i32.eq(exponent.get, n(format.exponentMax)), i64.ne(fraction.get, i64.const(0)));
/** DE if one of the operands is denormal, else 0. After DAZ nothing is. */
export const denormalFlag = (...operands: Parts[]): Expr =>
  i32.shl(
    operands.map(isDenormal).reduce((a, b) => i32.or(a, b)),
    n(1),
  );
export const signed = (format: Binary, sign: Expr, magnitude: Expr): Expr =>
  i64.or(i64.shl(i64.extendI32U(sign), i64.const(format.signBit)), magnitude);

/** Significand with its leading bit at 62 and the exponent to go with it, also of a denormal. Not of zero. */
export function normalise(f: FunctionBuilder, format: Binary, parts: Parts): { exponent: Local; sig: Local } {
  const exponent = f.let(parts.exponent.get);
  const sig = f.let(i64.shl(parts.fraction.get, i64.const(LEAD - format.fraction)));
  f.if(
    exponent.get,
    () => f.set(sig, i64.or(sig.get, c(1n << BigInt(LEAD)))),
    () => {
      const shift = f.let(i64.sub(i64.clz(sig.get), i64.const(1)));
      f.set(sig, i64.shl(sig.get, shift.get));
      f.set(exponent, i32.sub(n(1), i32.wrap(shift.get)));
      f.release(shift);
    },
  );
  return { exponent, sig };
}

/** Functions that the others are made of. */
export interface Core {
  readonly format: Format;
  /** (sign, biased exponent, significand with bit 62 set) → bits. Raises OE, UE, PE. */
  readonly round: FunctionBuilder;
  /** (a, b), at least one a NaN → the NaN that SSE gives. Raises IE for a signalling one. */
  readonly nan: FunctionBuilder;
}

/**
 * Rounds and packs. Tininess is detected after rounding (SDM 1 4.9.1.5): a result is tiny if it would lie below the
 * smallest normal number were the exponent unbounded. Masked: UE only if also inexact, and FTZ makes it a zero, which
 * is inexact. Unmasked: UE whenever tiny, and no result; after an unmasked UE or OE, PE tells of the rounding to an
 * unbounded exponent (so the real CPU; SDM 1 4.9.1.5 and 4.9.1.4 speak of the x87's scaled result).
 *
 * To half precision the rounding control is a parameter, and FTZ has no say (SDM 2D "VCVTPS2PH").
 */
export function defineRound(m: ModuleBuilder, format: Binary): FunctionBuilder {
  const half = format.name === 'f16';
  const f = m.func(`${format.name}.round`, half ? [I32, I32, I64, I32] : [I32, I32, I64], [I64]);
  const [sign, exponent, sig] = f.parameters as [Local, Local, Local];
  const low = LEAD - format.fraction;
  const middle = 1n << BigInt(low - 1);
  const mask = 2n * middle - 1n;
  const mxcsr = f.let(loadMxcsr());
  const rc = f.let(half ? f.parameters[3]!.get : rounding(mxcsr.get));
  const increment = f.let(c(middle));
  f.if(rc.get, () => {
    // Away from zero is UP for positive and DOWN for negative numbers: RC.UP - sign.
    f.set(increment, select(i32.eq(rc.get, i32.sub(n(RC.UP), sign.get)), c(mask), i64.const(0)));
  });
  const tiny = f.local(I32);
  f.set(tiny, n(0));
  f.if(i32.leS(exponent.get, n(0)), () => {
    // At exponent 0 rounding may still carry up to the smallest normal number, and then it is not tiny.
    f.set(tiny, i32.or(i32.ltS(exponent.get, n(0)), i64.geS(i64.add(sig.get, increment.get), i64.const(0))));
    f.if(tiny.get, () => {
      f.if(i32.eqz(i32.and(mxcsr.get, n(MXCSR.UM))), () => {
        const inexact = i64.ne(i64.and(sig.get, c(mask)), i64.const(0));
        raise(f, i32.or(n(MXCSR.UE), i32.shl(inexact, n(5))));
        f.ret(i64.const(0));
      });
      if (half) return;
      f.if(i32.and(mxcsr.get, n(MXCSR.FTZ)), () => {
        raise(f, MXCSR.UE | MXCSR.PE);
        f.ret(signed(format, sign.get, i64.const(0)));
      });
    });
    const distance = f.let(i32.sub(n(1), exponent.get));
    f.set(sig, shiftRightJam(sig, distance));
    f.set(exponent, n(1));
  });
  const rest = f.let(i64.and(sig.get, c(mask)));
  f.if(i64.ne(rest.get, i64.const(0)), () => raise(f, i32.or(n(MXCSR.PE), i32.shl(tiny.get, n(4)))));
  f.set(sig, i64.shrU(i64.add(sig.get, increment.get), i64.const(low)));
  f.if(i32.and(i32.eqz(rc.get), i64.eq(rest.get, c(middle))), () => f.set(sig, i64.and(sig.get, i64.const(-2))));
  // The significand's leading bit adds one to the exponent field, and so does a carry out of it.
  const result = f.let(
    i64.add(i64.shl(i64.extendI32U(i32.sub(exponent.get, n(1))), i64.const(format.fraction)), sig.get),
  );
  f.if(i64.geU(result.get, c(infinity(format))), () => {
    raise(f, i32.or(n(MXCSR.OE), i32.shl(i32.ne(i32.and(mxcsr.get, n(MXCSR.OM)), n(0)), n(5))));
    f.set(result, select(i64.eqz(increment.get), c(infinity(format) - 1n), c(infinity(format))));
  });
  f.ret(signed(format, sign.get, result.get));
  return f;
}

/** SDM 1 Table 4-7 "Rules for Handling NaNs", SSE column: the first operand if it is a NaN, else the second; quieted. */
function defineNan(m: ModuleBuilder, format: Format): FunctionBuilder {
  const f = m.func(`${format.name}.nan`, [I64, I64], [I64]);
  const [a, b] = f.parameters as [Local, Local];
  const magnitude = (x: Expr): Expr => i64.and(x, c(signMask(format) - 1n));
  const nan = (x: Expr): Expr => i64.gtU(magnitude(x), c(infinity(format)));
  const signalling = (x: Expr): Expr => i32.and(nan(x), i64.eqz(i64.and(x, c(quietBit(format)))));
  f.if(i32.or(signalling(a.get), signalling(b.get)), () => raise(f, MXCSR.IE));
  f.ret(i64.or(select(nan(a.get), a.get, b.get), c(quietBit(format))));
  return f;
}

export function defineCore(m: ModuleBuilder, format: Format): Core {
  return { format, round: defineRound(m, format), nan: defineNan(m, format) };
}

export function invalid(f: FunctionBuilder, format: Format): void {
  raise(f, MXCSR.IE);
  f.ret(c(indefinite(format)));
}

/** The value as WebAssembly's own type. */
export const native = (format: Format, bits: Expr): Expr =>
  format === DOUBLE ? f64.reinterpretI64(bits) : f32.reinterpretI32(i32.wrap(bits));
export const bitsOf = (format: Format, value: Expr): Expr =>
  format === DOUBLE ? i64.reinterpretF64(value) : i64.extendI32U(i32.reinterpretF32(value));
export const ops = (format: Format): typeof f64 | typeof f32 => (format === DOUBLE ? f64 : f32);

const smallest = (format: Format): number => 2 ** (1 - format.bias);

/**
 * The short way with the host's own arithmetic, in RC = nearest. It is taken only when operands are zero or normal and
 * the result is normal with an exponent above the lowest (so it was not tiny before the last rounding either) or a zero
 * that is exact; then the result is right, OE, UE, DE, IE, ZE are not raised, and what is left to find is PE:
 * `inexact` gives an i32, 1 if the rounded result differs from the true one, or leaves the label if it cannot tell.
 */
function shortcut(
  f: FunctionBuilder,
  format: Format,
  operands: readonly Local[],
  compute: (values: Expr[]) => Expr,
  inexact: (values: Local[], result: Local, giveUp: () => void) => Expr,
): void {
  const o = ops(format);
  f.block((slow) => {
    f.brIf(slow, rounding(loadMxcsr()));
    const values = operands.map((bits) => f.let(native(format, bits.get)));
    const result = f.let(compute(values.map(({ get }) => get)));
    const least = o.const(smallest(format));
    for (const { get } of values) {
      f.brIf(slow, i32.eqz(i32.or(o.ge(o.abs(get), least), o.eq(get, o.const(0)))));
    }
    f.brIf(slow, i32.eqz(o.ge(o.abs(result.get), o.const(2 * smallest(format)))));
    f.brIf(slow, o.eq(o.abs(result.get), o.const(Number.POSITIVE_INFINITY)));
    f.if(
      inexact(values, result, () => f.br(slow)),
      () => raise(f, MXCSR.PE),
    );
    f.ret(bitsOf(format, result.get));
  });
}

/** Significant bits of a normal double: 53 less the zeros at the end of the significand. An i64. */
const significant = (value: Expr): Expr =>
  i64.sub(i64.const(53), i64.ctz(i64.or(i64.reinterpretF64(value), c(1n << 52n))));

/**
 * Whether a product a·b of doubles is exact, from the lengths p and q of the odd parts of a and b: their product is
 * odd and has p+q-1 or p+q bits, so it fits 53 bits if p+q ≤ 53 and does not if p+q ≥ 55. At 54 `giveUp`.
 */
function productInexact(f: FunctionBuilder, a: Expr, b: Expr, giveUp: () => void): Expr {
  const length = f.let(i64.add(significant(a), significant(b)));
  f.if(i64.eq(length.get, i64.const(54)), giveUp);
  return i64.gtU(length.get, i64.const(54));
}

/** (a, b, subtract: 0 or 1) → a ± b. */
function defineAdd({ format, round, nan }: Core, m: ModuleBuilder): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.addOrSubtract`, [I64, I64, I32], [I64]);
  const [a, b, subtract] = f.parameters as [Local, Local, Local];
  const flip = i64.shl(i64.extendI32U(subtract.get), i64.const(format.signBit));
  // Knuth's TwoSum: s + e = a + b exactly, in any order of magnitudes, barring overflow. So inexact means e ≠ 0.
  const negated = f.let(i64.xor(b.get, flip));
  shortcut(
    f,
    format,
    [a, negated],
    ([x, y]) => o.add(x!, y!),
    ([x, y], s) => {
      const yy = f.let(o.sub(s.get, x!.get));
      const e = o.add(o.sub(x!.get, o.sub(s.get, yy.get)), o.sub(y!.get, yy.get));
      return o.ne(e, o.const(0));
    },
  );
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  const signX = f.let(signOf(format, a.get));
  const signY = f.let(i32.xor(signOf(format, b.get), subtract.get));
  const max = n(format.exponentMax);
  f.if(i32.or(i32.eq(x.exponent.get, max), i32.eq(y.exponent.get, max)), () => {
    f.if(i32.or(isNan(format, x), isNan(format, y)), () => f.ret(call(nan, a.get, b.get)));
    f.if(i32.and(i32.eq(x.exponent.get, y.exponent.get), i32.ne(signX.get, signY.get)), () => invalid(f, format));
    raise(f, denormalFlag(x, y));
    f.ret(signed(format, select(i32.eq(x.exponent.get, max), signX.get, signY.get), c(infinity(format))));
  });
  raise(f, denormalFlag(x, y));
  const widen = (p: Parts): Local =>
    f.let(
      i64.shl(
        i64.or(p.fraction.get, i64.shl(i64.extendI32U(i32.ne(p.exponent.get, n(0))), i64.const(format.fraction))),
        i64.const(LEAD - format.fraction),
      ),
    );
  const big = widen(x);
  const small = widen(y);
  const scale = (p: Parts): Expr => i32.or(p.exponent.get, i32.eqz(p.exponent.get));
  const exponent = f.let(scale(x));
  const distance = f.let(i32.sub(exponent.get, scale(y)));
  const magnitude = (e: Local): Expr => i64.and(e.get, c(signMask(format) - 1n));
  f.if(i64.ltU(magnitude(a), magnitude(b)), () => {
    const swap = f.let(big.get);
    f.set(big, small.get);
    f.set(small, swap.get);
    f.set(exponent, scale(y));
    f.set(distance, i32.sub(n(0), distance.get));
    const sign = f.let(signX.get);
    f.set(signX, signY.get);
    f.set(signY, sign.get);
  });
  f.set(small, shiftRightJam(small, distance));
  const sum = f.local(I64);
  f.if(
    i32.eq(signX.get, signY.get),
    () => {
      f.set(sum, i64.add(big.get, small.get));
      f.if(i64.ltS(sum.get, i64.const(0)), () => {
        f.set(sum, i64.or(i64.shrU(sum.get, i64.const(1)), i64.and(sum.get, i64.const(1))));
        f.set(exponent, i32.add(exponent.get, n(1)));
      });
    },
    () => {
      f.set(sum, i64.sub(big.get, small.get));
      // Exact cancellation gives -0 only when rounding down.
      f.if(i64.eqz(sum.get), () => f.set(signX, i32.eq(rounding(mxcsr.get), n(RC.DOWN))));
    },
  );
  f.if(i64.eqz(sum.get), () => f.ret(signed(format, signX.get, i64.const(0))));
  const shift = f.let(i64.sub(i64.clz(sum.get), i64.const(1)));
  f.ret(call(round, signX.get, i32.sub(exponent.get, i32.wrap(shift.get)), i64.shl(sum.get, shift.get)));
  return f;
}

/** High 64 bits of an unsigned product and whether the low ones are not zero, into locals. */
export function multiplyWide(f: FunctionBuilder, a: Local, b: Local): { high: Local; low: Local } {
  const low32 = (x: Expr): Expr => i64.and(x, i64.halves(-1, 0));
  const high32 = (x: Expr): Expr => i64.shrU(x, i64.const(32));
  const ll = f.let(i64.mul(low32(a.get), low32(b.get)));
  const lh = f.let(i64.mul(low32(a.get), high32(b.get)));
  const hl = f.let(i64.mul(high32(a.get), low32(b.get)));
  const middle = f.let(i64.add(i64.add(low32(lh.get), low32(hl.get)), high32(ll.get)));
  const high = f.let(
    i64.add(
      i64.add(i64.mul(high32(a.get), high32(b.get)), high32(middle.get)),
      i64.add(high32(lh.get), high32(hl.get)),
    ),
  );
  return { high, low: f.let(i64.mul(a.get, b.get)) };
}

function defineMultiply({ format, round, nan }: Core, m: ModuleBuilder): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.mul`, [I64, I64], [I64]);
  const [a, b] = f.parameters as [Local, Local];
  shortcut(
    f,
    format,
    [a, b],
    ([x, y]) => o.mul(x!, y!),
    ([x, y], p, giveUp) =>
      format === DOUBLE
        ? productInexact(f, x!.get, y!.get, giveUp)
        : f64.ne(f64.mul(f64.promote(x!.get), f64.promote(y!.get)), f64.promote(p.get)), // 24 + 24 bits fit 53
  );
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  const sign = f.let(i32.xor(signOf(format, a.get), signOf(format, b.get)));
  const max = n(format.exponentMax);
  f.if(i32.or(i32.eq(x.exponent.get, max), i32.eq(y.exponent.get, max)), () => {
    f.if(i32.or(isNan(format, x), isNan(format, y)), () => f.ret(call(nan, a.get, b.get)));
    f.if(i32.or(isZero(x), isZero(y)), () => invalid(f, format));
    raise(f, denormalFlag(x, y));
    f.ret(signed(format, sign.get, c(infinity(format))));
  });
  raise(f, denormalFlag(x, y));
  f.if(i32.or(isZero(x), isZero(y)), () => f.ret(signed(format, sign.get, i64.const(0))));
  const p = normalise(f, format, x);
  const q = normalise(f, format, y);
  f.set(p.sig, i64.shl(p.sig.get, i64.const(1)));
  const { high, low } = multiplyWide(f, p.sig, q.sig);
  const exponent = f.let(i32.sub(i32.add(p.exponent.get, q.exponent.get), n(format.bias)));
  f.set(high, i64.or(high.get, i64.extendI32U(i64.ne(low.get, i64.const(0)))));
  // 2^61 ≤ high < 2^63: a product of two numbers in [1, 2) is in [1, 4).
  f.if(
    i64.geU(high.get, c(1n << 62n)),
    () => f.set(exponent, i32.add(exponent.get, n(1))),
    () => f.set(high, i64.shl(high.get, i64.const(1))),
  );
  f.ret(call(round, sign.get, exponent.get, high.get));
  return f;
}

/** sig62 as a double in [1, 2): exact, as both formats have at most 53 bits. */
const asUnit = (sig53: Expr, exponent = 1023n): Expr =>
  f64.reinterpretI64(i64.or(i64.and(sig53, c((1n << 52n) - 1n)), c(exponent << 52n)));

function defineDivide({ format, round, nan }: Core, m: ModuleBuilder): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.div`, [I64, I64], [I64]);
  const [a, b] = f.parameters as [Local, Local];
  shortcut(
    f,
    format,
    [a, b],
    ([x, y]) => o.div(x!, y!),
    ([x, y], q, giveUp) => {
      if (format !== DOUBLE) {
        return f64.ne(f64.mul(f64.promote(q.get), f64.promote(y!.get)), f64.promote(x!.get));
      }
      // Exact means q·b = a, and a has 53 bits: so then q·b is an exact product. If it is one, compare; its exponent
      // is a's within one, so that it cannot overflow, and it is compared with a only if a is not near underflow.
      f.if(f64.lt(f64.abs(x!.get), f64.const(2 ** -1000)), giveUp);
      return i32.or(productInexact(f, q.get, y!.get, giveUp), f64.ne(f64.mul(q.get, y!.get), x!.get));
    },
  );
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  const sign = f.let(i32.xor(signOf(format, a.get), signOf(format, b.get)));
  const max = n(format.exponentMax);
  f.if(i32.or(isNan(format, x), isNan(format, y)), () => f.ret(call(nan, a.get, b.get)));
  f.if(i32.eq(x.exponent.get, max), () => {
    f.if(i32.eq(y.exponent.get, max), () => invalid(f, format));
    raise(f, denormalFlag(y));
    f.ret(signed(format, sign.get, c(infinity(format))));
  });
  f.if(i32.eq(y.exponent.get, max), () => {
    raise(f, denormalFlag(x));
    f.ret(signed(format, sign.get, i64.const(0)));
  });
  f.if(isZero(y), () => {
    f.if(isZero(x), () => invalid(f, format));
    raise(f, MXCSR.ZE);
    f.ret(signed(format, sign.get, c(infinity(format))));
  });
  raise(f, denormalFlag(x, y));
  f.if(isZero(x), () => f.ret(signed(format, sign.get, i64.const(0))));
  const p = normalise(f, format, x);
  const q = normalise(f, format, y);
  const exponent = f.let(i32.add(i32.sub(p.exponent.get, q.exponent.get), n(format.bias)));
  const dividend = f.let(i64.shrU(p.sig.get, i64.const(10)));
  const divisor = f.let(i64.shrU(q.sig.get, i64.const(10)));
  const ratio = f.let(f64.div(asUnit(dividend.get), asUnit(divisor.get)));
  f.if(i64.ltU(dividend.get, divisor.get), () => {
    f.set(dividend, i64.shl(dividend.get, i64.const(1)));
    f.set(exponent, i32.sub(exponent.get, n(1)));
    f.set(ratio, f64.add(ratio.get, ratio.get));
  });
  // 1 ≤ dividend / divisor < 2 and the host's quotient is the nearest double: as an integer of 53 bits it is the true
  // quotient's floor or one more. The remainder says which: its size is below 2^53, so modulo 2^64 is enough.
  const quotient = f.let(i64.or(i64.and(i64.reinterpretF64(ratio.get), c((1n << 52n) - 1n)), c(1n << 52n)));
  const rest = f.let(i64.sub(i64.shl(dividend.get, i64.const(52)), i64.mul(quotient.get, divisor.get)));
  f.if(i64.ltS(rest.get, i64.const(0)), () => {
    f.set(quotient, i64.sub(quotient.get, i64.const(1)));
    f.set(rest, i64.add(rest.get, divisor.get));
  });
  // Ten more bits and the sticky one: rest < divisor < 2^53, so rest · 2^10 < 2^63.
  f.set(rest, i64.shl(rest.get, i64.const(10)));
  const more = i64.divU(rest.get, divisor.get);
  const sticky = i64.extendI32U(i64.ne(i64.remU(rest.get, divisor.get), i64.const(0)));
  f.ret(call(round, sign.get, exponent.get, i64.or(i64.add(i64.shl(quotient.get, i64.const(10)), more), sticky)));
  return f;
}

function defineSqrt({ format, round, nan }: Core, m: ModuleBuilder): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.sqrt`, [I64], [I64]);
  const [a] = f.parameters as [Local];
  shortcut(
    f,
    format,
    [a],
    ([x]) => o.sqrt(x!),
    ([x], r, giveUp) => {
      if (format !== DOUBLE) return f64.ne(f64.mul(f64.promote(r.get), f64.promote(r.get)), f64.promote(x!.get));
      f.if(f64.lt(x!.get, f64.const(2 ** -1000)), giveUp);
      return i32.or(productInexact(f, r.get, r.get, giveUp), f64.ne(f64.mul(r.get, r.get), x!.get));
    },
  );
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  f.if(isNan(format, x), () => f.ret(call(nan, a.get, a.get)));
  f.if(isZero(x), () => f.ret(a.get));
  f.if(signOf(format, a.get), () => invalid(f, format));
  f.if(i32.eq(x.exponent.get, n(format.exponentMax)), () => f.ret(a.get));
  raise(f, denormalFlag(x));
  const { exponent, sig } = normalise(f, format, x);
  f.set(exponent, i32.sub(exponent.get, n(format.bias)));
  const odd = f.let(i32.and(exponent.get, n(1)));
  f.set(sig, i64.shrU(sig.get, i64.const(10)));
  const root = f.local(F64);
  f.set(root, f64.sqrt(select(odd.get, asUnit(sig.get, 1024n), asUnit(sig.get))));
  // As in division: the root of a number in [1, 4) as an integer of 53 bits, nearest; made the floor by its remainder,
  // which lies in [0, 2·root]. The root of an integer is never halfway: (r + 1/2)² = r² + r + 1/4.
  const integer = f.let(i64.or(i64.and(i64.reinterpretF64(root.get), c((1n << 52n) - 1n)), c(1n << 52n)));
  const rest = f.let(
    i64.sub(i64.shl(sig.get, i64.extendI32U(i32.add(odd.get, n(52)))), i64.mul(integer.get, integer.get)),
  );
  f.if(i64.ltS(rest.get, i64.const(0)), () => {
    f.set(integer, i64.sub(integer.get, i64.const(1)));
    f.set(rest, i64.add(rest.get, i64.add(i64.shl(integer.get, i64.const(1)), i64.const(1))));
  });
  const above = i64.shl(i64.extendI32U(i64.gtU(rest.get, integer.get)), i64.const(9));
  const sticky = i64.extendI32U(i64.ne(rest.get, i64.const(0)));
  f.ret(
    call(
      round,
      n(0),
      i32.add(i32.shrS(exponent.get, n(1)), n(format.bias)),
      i64.or(i64.shl(integer.get, i64.const(10)), i64.or(above, sticky)),
    ),
  );
  return f;
}

/** add, sub, mul, div, sqrt of one format, by name. */
export function defineArithmetic(m: ModuleBuilder, core: Core): FunctionBuilder[] {
  const { name } = core.format;
  const either = defineAdd(core, m);
  const variant = (suffix: string, subtract: number): FunctionBuilder => {
    const f = m.func(`${name}.${suffix}`, [I64, I64], [I64]);
    f.ret(call(either, f.parameters[0]!.get, f.parameters[1]!.get, n(subtract)));
    return f;
  };
  return [variant('add', 0), variant('sub', 1), defineMultiply(core, m), defineDivide(core, m), defineSqrt(core, m)];
}
