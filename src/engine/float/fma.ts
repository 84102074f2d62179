import { call, type Expr, I32, I64, i32, i64, select, V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { c, infinity, loadMxcsr, n, RC, raise, rounding } from './format.ts';
import {
  type Core,
  denormalFlag,
  invalid,
  isNan,
  isZero,
  multiplyWide,
  normalise,
  signed,
  signOf,
  unpack,
} from './softfloat.ts';
import { lane, lanes, shape, withLane } from './vector.ts';

/**
 * x·y + z with one rounding.
 *
 * Source  SDM 1 14.5.2 "Fused-Multiply-ADD (FMA) Numeric Behavior".
 */

/** What is negated before the addition: bits of the functions' last operands. */
export const NEGATE = { PRODUCT: 1, ADDEND: 2 } as const;

/** An unsigned number of 128 bits, in two locals. */
interface Wide {
  readonly high: Local;
  readonly low: Local;
}

/** Shifts right by `distance` ≥ 0, any size; what falls out is or'ed into bit 0. */
function shiftWideRightJam(f: FunctionBuilder, { high, low }: Wide, distance: Local): void {
  const lost = f.let(i64.const(0));
  const keepLost = (bits: Expr): void => f.set(lost, i64.or(lost.get, bits));
  f.if(i32.gtU(distance.get, n(63)), () => {
    keepLost(low.get);
    f.set(low, high.get);
    f.set(high, i64.const(0));
    f.set(distance, i32.sub(distance.get, n(64)));
    f.if(i32.gtU(distance.get, n(63)), () => {
      keepLost(low.get);
      f.set(low, i64.const(0));
      f.set(distance, n(0));
    });
  });
  f.if(distance.get, () => {
    const by = f.let(i64.extendI32U(distance.get));
    const back = f.let(i64.sub(i64.const(64), by.get));
    keepLost(i64.shl(low.get, back.get));
    f.set(low, i64.or(i64.shrU(low.get, by.get), i64.shl(high.get, back.get)));
    f.set(high, i64.shrU(high.get, by.get));
  });
  f.set(low, i64.or(low.get, i64.extendI32U(i64.ne(lost.get, i64.const(0)))));
}

/** Moves the leading bit to bit 126 and takes that from the exponent. Not of zero. */
function normaliseWide(f: FunctionBuilder, { high, low }: Wide, exponent: Local): void {
  f.if(i64.eqz(high.get), () => {
    f.set(high, low.get);
    f.set(low, i64.const(0));
    f.set(exponent, i32.sub(exponent.get, n(64)));
  });
  f.if(
    i64.ltS(high.get, i64.const(0)),
    () => {
      const one = f.let(n(1));
      shiftWideRightJam(f, { high, low }, one);
      f.set(exponent, i32.add(exponent.get, n(1)));
    },
    () => {
      const by = f.let(i64.sub(i64.clz(high.get), i64.const(1)));
      f.if(i64.ne(by.get, i64.const(0)), () => {
        f.set(high, i64.or(i64.shl(high.get, by.get), i64.shrU(low.get, i64.sub(i64.const(64), by.get))));
        f.set(low, i64.shl(low.get, by.get));
        f.set(exponent, i32.sub(exponent.get, i32.wrap(by.get)));
      });
    },
  );
}

const below = (a: Wide, b: Wide): Expr =>
  i32.or(i64.ltU(a.high.get, b.high.get), i32.and(i64.eq(a.high.get, b.high.get), i64.ltU(a.low.get, b.low.get)));

/** (x, y, z, NEGATE bits) → ±(x·y) ± z. */
function defineScalar(m: ModuleBuilder, { format, round, nan }: Core): FunctionBuilder {
  const f = m.func(`${format.name}.fma`, [I64, I64, I64, I32], [I64]);
  const [a, b, d, negate] = f.parameters as [Local, Local, Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  const z = unpack(f, format, d, mxcsr);
  const bit = (mask: number): Expr => i32.ne(i32.and(negate.get, n(mask)), n(0));
  const signP = f.let(i32.xor(i32.xor(signOf(format, a.get), signOf(format, b.get)), bit(NEGATE.PRODUCT)));
  const signZ = f.let(i32.xor(signOf(format, d.get), bit(NEGATE.ADDEND)));
  const max = n(format.exponentMax);
  const isMax = ({ exponent }: typeof x): Expr => i32.eq(exponent.get, max);
  f.if(i32.or(i32.or(isMax(x), isMax(y)), isMax(z)), () => {
    // The first NaN of multiplicand, multiplier, addend
    f.if(i32.or(isNan(format, x), isNan(format, y)), () => {
      f.if(isNan(format, z), () => f.drop(call(nan, d.get, d.get)));
      f.ret(call(nan, a.get, b.get));
    });
    f.if(isNan(format, z), () => f.ret(call(nan, d.get, d.get)));
    const infinite = i32.or(isMax(x), isMax(y));
    f.if(infinite, () => {
      f.if(i32.or(isZero(x), isZero(y)), () => invalid(f, format));
      f.if(i32.and(isMax(z), i32.ne(signP.get, signZ.get)), () => invalid(f, format));
    });
    raise(f, denormalFlag(x, y, z));
    f.ret(signed(format, select(isMax(z), signZ.get, signP.get), c(infinity(format))));
  });
  raise(f, denormalFlag(x, y, z));
  const exponent = f.local(I32);
  const sum: Wide = { high: f.local(I64), low: f.local(I64) };
  const other: Wide = { high: f.local(I64), low: f.local(I64) };
  const finish = (sign: Expr): void => {
    const sticky = i64.extendI32U(i64.ne(sum.low.get, i64.const(0)));
    f.ret(call(round, sign, exponent.get, i64.or(sum.high.get, sticky)));
  };
  f.if(i32.or(isZero(x), isZero(y)), () => {
    f.if(isZero(z), () => {
      const down = i32.eq(rounding(mxcsr.get), n(RC.DOWN));
      f.ret(signed(format, select(i32.eq(signP.get, signZ.get), signP.get, down), i64.const(0)));
    });
    const r = normalise(f, format, z);
    f.ret(call(round, signZ.get, r.exponent.get, r.sig.get));
  });
  // Significands have their leading bits at 62; the product's is at 125 or 124 and goes to 126
  const p = normalise(f, format, x);
  const q = normalise(f, format, y);
  const product = multiplyWide(f, p.sig, q.sig);
  f.set(sum.high, product.high.get);
  f.set(sum.low, product.low.get);
  f.set(exponent, i32.sub(i32.add(p.exponent.get, q.exponent.get), n(format.bias - 2)));
  normaliseWide(f, sum, exponent);
  f.if(isZero(z), () => finish(signP.get));
  const r = normalise(f, format, z);
  f.set(other.high, r.sig.get);
  f.set(other.low, i64.const(0));
  const distance = f.let(i32.sub(exponent.get, r.exponent.get));
  const swaps = i32.or(i32.ltS(distance.get, n(0)), i32.and(i32.eqz(distance.get), below(sum, other)));
  f.if(swaps, () => {
    const swap = f.local(I64);
    for (const [one, two] of [
      [sum.high, other.high],
      [sum.low, other.low],
    ] as const) {
      f.set(swap, one.get);
      f.set(one, two.get);
      f.set(two, swap.get);
    }
    f.set(exponent, r.exponent.get);
    f.set(distance, i32.sub(n(0), distance.get));
    const sign = f.let(signP.get);
    f.set(signP, signZ.get);
    f.set(signZ, sign.get);
  });
  shiftWideRightJam(f, other, distance);
  const borrow = f.local(I64);
  f.if(
    i32.eq(signP.get, signZ.get),
    () => {
      f.set(sum.low, i64.add(sum.low.get, other.low.get));
      f.set(borrow, i64.extendI32U(i64.ltU(sum.low.get, other.low.get)));
      f.set(sum.high, i64.add(i64.add(sum.high.get, other.high.get), borrow.get));
    },
    () => {
      f.set(borrow, i64.extendI32U(i64.ltU(sum.low.get, other.low.get)));
      f.set(sum.low, i64.sub(sum.low.get, other.low.get));
      f.set(sum.high, i64.sub(i64.sub(sum.high.get, other.high.get), borrow.get));
      // Exact cancellation gives -0 only when rounding down.
      f.if(i64.eqz(i64.or(sum.high.get, sum.low.get)), () =>
        f.ret(signed(format, i32.eq(rounding(mxcsr.get), n(RC.DOWN)), i64.const(0))),
      );
    },
  );
  normaliseWide(f, sum, exponent);
  finish(signP.get);
  return f;
}

/** (x, y, z, NEGATE of the even lanes, of the odd lanes) → lane by lane. */
function defineLanes(m: ModuleBuilder, core: Core, scalar: FunctionBuilder): FunctionBuilder {
  const { format } = core;
  const f = m.func(`${shape(format)}.fma`, [V128, V128, V128, I32, I32], [V128]);
  const [a, b, d, even, odd] = f.parameters as [Local, Local, Local, Local, Local];
  const result = f.let(a.get);
  for (let i = 0; i < lanes(format); i++) {
    const [x, y, z] = [a, b, d].map(({ get }) => lane(format, get, i)) as [Expr, Expr, Expr];
    f.set(result, withLane(format, result.get, i, call(scalar, x, y, z, (i & 1 ? odd : even).get)));
  }
  f.ret(result.get);
  return f;
}

/** f32.fma, f32x4.fma, and so on. */
export function defineFma(m: ModuleBuilder, core: Core): FunctionBuilder[] {
  const scalar = defineScalar(m, core);
  return [scalar, defineLanes(m, core, scalar)];
}
