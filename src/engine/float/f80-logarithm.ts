import { type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { addTo, high, justBelow, low, normalizeWide, pairOf, subtractFrom, type Wide, wide } from './f80-fixed.ts';
import {
  BIAS,
  type Definer,
  EXPONENT,
  exponent,
  FSW,
  flag,
  handleDenormal,
  handleNaN,
  INTEGER_BIT,
  isInfinite,
  isSpecial,
  isZero,
  normalize,
  ONE_VALUE,
  ONE64,
  parameter,
  raise,
  returnIndefinite,
  SIGN,
  sign,
  TWO_VALUES,
  type Value,
  value,
  ZERO,
  ZERO64,
} from './f80-format.ts';

/** Fractions of 2^128. */
const LN2 = 0xb17217f7d1cf79abc9e3b39803f2f6afn;
/** log2(e) / 2 */
const HALF_LOG2E = 0xb8aa3b295c17f0bbbe87fed0691d3e88n;

/**
 * F2XM1, FYL2X and FYL2XP1. SDM 1 8.3.8 "Approximation of Transcendental Functions": errors below 1 ulp. Here the value
 * before rounding is right to 2^-80 of itself or better, so all but one result of some ten thousand is the correctly
 * rounded one.
 */
export function defineLogarithms(d: Definer): void {
  const round = (f: FunctionBuilder, negative: Expr, exp: Expr, w: Wide): void => {
    const r = value(f);
    d.pair(f, r, 'f80.round64', negative, exp, w.hi.get, w.lo.get);
    f.ret(r.sig.get, r.se.get);
  };

  // (x) → 2^x - 1. SDM 2A "F2XM1—Compute 2^x–1"
  d.define('f80.f2xm1', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const negative = f.let(sign(a.se.get));
    const exp = f.let(exponent(a.se.get));
    f.if(isSpecial(a), () => {
      handleNaN(d, f, a);
      handleDenormal(d, f, a);
      f.if(isZero(a), () => f.ret(ZERO64, negative.get));
      f.if(isInfinite(a), () => {
        f.if(negative.get, () => f.ret(INTEGER_BIT, i32.const(SIGN | BIAS)));
        f.ret(INTEGER_BIT, i32.const(EXPONENT));
      });
      normalize(f, a.sig, exp);
    });
    f.if(i32.geS(exp.get, i32.const(BIAS)), () => {
      raise(f, FSW.PE);
      f.if(i32.and(i32.eq(exp.get, i32.const(BIAS)), i64.eq(a.sig.get, INTEGER_BIT)), () => {
        // 2 - 1 and 1/2 - 1. MEASURED on AMD Zen 4: both count as inexact, the first as rounded up.
        f.if(negative.get, () => f.ret(INTEGER_BIT, i32.const(SIGN | (BIAS - 1))));
        raise(f, FSW.C1);
        f.ret(INTEGER_BIT, i32.const(BIAS));
      });
      // outside of the domain. MEASURED on AMD Zen 4: the operand comes back.
      f.ret(a.sig.get, a.se.get);
    });
    const y = wide(f);
    const e = f.let(i32.sub(exp.get, i32.const(BIAS - 1)));
    d.pair(f, pairOf(y), 'fx.mul', a.sig.get, ZERO64, high(LN2), low(LN2));
    normalizeWide(f, y, e);
    const z = wide(f);
    d.pair(f, pairOf(z), 'fx.align', y.hi.get, y.lo.get, e.get);
    f.if(
      negative.get,
      () => d.pair(f, pairOf(z), 'fx.exponentialDown', z.hi.get, z.lo.get),
      () => d.pair(f, pairOf(z), 'fx.exponential', z.hi.get, z.lo.get),
    );
    d.pair(f, pairOf(y), 'fx.mul', y.hi.get, y.lo.get, z.hi.get, z.lo.get);
    f.set(e, i32.add(e.get, i32.const(1)));
    normalizeWide(f, y, e);
    f.set(y.lo, i64.or(y.lo.get, ONE64));
    round(f, negative.get, i32.add(e.get, i32.const(BIAS - 1)), y);
  });

  // (g as a normalized 64-bit fraction, exponent, sign): |log2(1 + g)| as a normalized fraction; its exponent is in
  // cell EXPONENT_CELL. -0.293 < g < 0.415. The sign is that of g.
  d.define('fx.log2OnePlus', [I64, I32, I32], [I64, I64, I32], (f) => {
    const [g, e, negative] = f.parameters as [Local, Local, Local];
    const quarter = wide(f);
    d.pair(f, pairOf(quarter), 'f80.shiftJam', g.get, ZERO64, i32.sub(i32.const(2), e.get));
    const divisor = wide(f, INTEGER_BIT, ZERO64);
    f.if(
      negative.get,
      () => subtractFrom(f, divisor, quarter.hi.get, quarter.lo.get),
      () => addTo(f, divisor, quarter.hi.get, quarter.lo.get),
    );
    // g / (2 + g), with both a quarter
    const q = wide(f);
    d.pair(
      f,
      pairOf(q),
      'fx.div',
      i64.shrU(g.get, i64.const(2)),
      i64.shl(g.get, i64.const(62)),
      divisor.hi.get,
      divisor.lo.get,
    );
    normalizeWide(f, q, e);
    const z = wide(f);
    d.pair(f, pairOf(z), 'fx.mul', q.hi.get, q.lo.get, q.hi.get, q.lo.get);
    d.pair(f, pairOf(z), 'fx.align', z.hi.get, z.lo.get, i32.shl(e.get, i32.const(1)));
    d.pair(f, pairOf(z), 'fx.logarithm', z.hi.get, z.lo.get);
    d.pair(f, pairOf(q), 'fx.mul', q.hi.get, q.lo.get, z.hi.get, z.lo.get);
    d.pair(f, pairOf(q), 'fx.mul', q.hi.get, q.lo.get, high(HALF_LOG2E), low(HALF_LOG2E));
    f.set(e, i32.add(e.get, i32.const(3)));
    normalizeWide(f, q, e);
    f.ret(q.hi.get, q.lo.get, e.get);
  });

  const triple = (f: FunctionBuilder, into: readonly [Local, Local, Local], name: string, ...args: Expr[]): void => {
    f.do(d.call(name, ...args));
    for (const local of [into[2], into[1], into[0]]) {
      f.code.byte(0x21);
      f.code.u32(local.index);
    }
  };

  /** y times a logarithm, rounded. `exact` (i32): the logarithm is. MEASURED on AMD Zen 4: PE comes all the same. */
  const times = (f: FunctionBuilder, t: Wide, e: Local, negative: Expr, y: Value, yExp: Local, exact: Local): void => {
    const product = wide(f);
    d.pair(f, pairOf(product), 'fx.mul', t.hi.get, t.lo.get, y.sig.get, ZERO64);
    const p = f.let(i32.add(e.get, i32.sub(yExp.get, i32.const(BIAS - 1))));
    normalizeWide(f, product, p);
    f.set(product.lo, i64.or(product.lo.get, flag(i32.eqz(exact.get))));
    raise(f, FSW.PE);
    round(f, negative, i32.add(p.get, i32.const(BIAS - 1)), product);
  };

  // (y, x) → y * log2(x). SDM 2A "FYL2X—Compute y * log2x"
  d.define('f80.fyl2x', TWO_VALUES, [I64, I32], (f) => {
    const y = parameter(f, 0);
    const x = parameter(f, 1);
    const negative = f.let(sign(y.se.get));
    const yExp = f.let(exponent(y.se.get));
    const xExp = f.let(exponent(x.se.get));
    const isOne = i32.and(i32.eq(x.se.get, i32.const(BIAS)), i64.eq(x.sig.get, INTEGER_BIT));
    f.if(i32.or(i32.or(isSpecial(y), isSpecial(x)), sign(x.se.get)), () => {
      handleNaN(d, f, y, x);
      f.if(i32.and(i32.ne(sign(x.se.get), ZERO), i32.eqz(isZero(x))), () => returnIndefinite(f));
      f.if(i32.and(isInfinite(x), isZero(y)), () => returnIndefinite(f));
      f.if(i32.and(isZero(x), isZero(y)), () => returnIndefinite(f));
      f.if(i32.and(isInfinite(y), isOne), () => returnIndefinite(f));
      f.if(i32.and(isZero(x), i32.eqz(isInfinite(y))), () => {
        raise(f, FSW.ZE);
        f.ret(INTEGER_BIT, i32.xor(negative.get, i32.const(SIGN | EXPONENT)));
      });
      handleDenormal(d, f, y, x);
      const below = i32.shl(i32.ltS(xExp.get, i32.const(BIAS)), i32.const(15));
      f.if(isInfinite(y), () => f.ret(INTEGER_BIT, i32.or(i32.xor(negative.get, below), i32.const(EXPONENT))));
      f.if(isInfinite(x), () => f.ret(INTEGER_BIT, i32.or(negative.get, i32.const(EXPONENT))));
      f.if(isZero(y), () => f.ret(ZERO64, i32.xor(negative.get, below)));
      normalize(f, x.sig, xExp);
      normalize(f, y.sig, yExp);
    });
    f.if(i32.and(i32.eq(xExp.get, i32.const(BIAS)), i64.eq(x.sig.get, INTEGER_BIT)), () => f.ret(ZERO64, negative.get));
    // x = 2^n * (1 + g), with 1 + g between sqrt(1/2) and sqrt(2)
    const n = f.let(i32.sub(xExp.get, i32.const(BIAS)));
    const g = f.local(I64);
    const gNegative = f.let(i64.gtU(x.sig.get, i64.halves(0xf9de6484 | 0, 0xb504f333 | 0)));
    f.if(
      gNegative.get,
      () => {
        f.set(n, i32.add(n.get, i32.const(1)));
        f.set(g, i64.sub(ZERO64, x.sig.get));
      },
      () => f.set(g, i64.shl(i64.sub(x.sig.get, INTEGER_BIT), ONE64)),
    );
    const exact = f.let(i64.eqz(g.get));
    const t = wide(f, ZERO64, ZERO64);
    const e = f.let(ZERO);
    f.if(i32.eqz(exact.get), () => {
      const shift = f.let(i64.clz(g.get));
      triple(
        f,
        [t.hi, t.lo, e],
        'fx.log2OnePlus',
        i64.shl(g.get, shift.get),
        i32.sub(ZERO, i32.wrap(shift.get)),
        gNegative.get,
      );
    });
    const resultNegative = f.let(i32.shl(gNegative.get, i32.const(15)));
    f.if(n.get, () => {
      // fixed point with 16 integer bits: |n| plus or minus the logarithm
      const nNegative = f.let(i32.shrU(n.get, i32.const(31)));
      const whole = f.let(select(nNegative.get, i32.sub(ZERO, n.get), n.get));
      const sum = wide(f, i64.shl(i64.extendI32U(whole.get), i64.const(48)), ZERO64);
      d.pair(f, pairOf(t), 'f80.shiftJam', t.hi.get, t.lo.get, i32.sub(i32.const(16), e.get));
      f.if(
        i32.eq(nNegative.get, gNegative.get),
        () => addTo(f, sum, t.hi.get, t.lo.get),
        () => subtractFrom(f, sum, t.hi.get, t.lo.get),
      );
      f.set(e, i32.const(16));
      normalizeWide(f, sum, e);
      f.set(t.hi, sum.hi.get);
      f.set(t.lo, sum.lo.get);
      f.set(resultNegative, i32.shl(nNegative.get, i32.const(15)));
    });
    times(f, t, e, i32.xor(negative.get, resultNegative.get), y, yExp, exact);
  });

  // (y, x) → y * log2(x + 1). SDM 2A "FYL2XP1—Compute y * log2(x +1)"
  d.define('f80.fyl2xp1', TWO_VALUES, [I64, I32], (f) => {
    const y = parameter(f, 0);
    const x = parameter(f, 1);
    const negative = f.let(sign(y.se.get));
    const xNegative = f.let(sign(x.se.get));
    const yExp = f.let(exponent(y.se.get));
    const xExp = f.let(exponent(x.se.get));
    const result = f.let(i32.xor(negative.get, xNegative.get));
    const given = { sig: f.let(y.sig.get), se: f.let(y.se.get) };
    f.if(i32.or(isSpecial(y), isSpecial(x)), () => {
      handleNaN(d, f, y, x);
      f.if(i32.and(isInfinite(x), i32.or(isZero(y), i32.ne(xNegative.get, ZERO))), () => returnIndefinite(f));
      f.if(i32.and(isInfinite(y), isZero(x)), () => returnIndefinite(f));
      handleDenormal(d, f, y, x);
      f.if(i32.or(isInfinite(x), isInfinite(y)), () => f.ret(INTEGER_BIT, i32.or(result.get, i32.const(EXPONENT))));
      f.if(i32.or(isZero(x), isZero(y)), () => f.ret(ZERO64, result.get));
      normalize(f, x.sig, xExp);
      normalize(f, y.sig, yExp);
    });
    const e = f.let(i32.sub(xExp.get, i32.const(BIAS - 1)));
    const t = wide(f);
    const exact = f.let(ZERO);
    // Outside of the domain, -(1 - sqrt(1/2)) to sqrt(2) - 1, the result is undefined. MEASURED on AMD Zen 4: up to -1
    // x comes back, the rest is computed; here from 1 + x with 64 bits.
    const limit = select(
      xNegative.get,
      i64.halves(0x0c4336f7, 0x95f61998 | 0),
      i64.halves(0xe7799211 | 0, 0xd413cccf | 0),
    );
    const outside = i32.or(i32.geS(e.get, ZERO), i32.and(i32.eq(e.get, i32.const(-1)), i64.gtU(x.sig.get, limit)));
    f.if(outside, () => {
      f.if(i32.and(i32.ne(xNegative.get, ZERO), i32.gtS(e.get, ZERO)), () => {
        raise(f, FSW.PE);
        f.ret(x.sig.get, x.se.get);
      });
      const w = f.local(I64);
      const below = f.let(i64.extendI32U(i32.sub(ZERO, e.get)));
      f.if(
        xNegative.get,
        () => {
          // as a fraction of 1
          f.set(w, i64.sub(ZERO64, i64.shrU(x.sig.get, below.get)));
          f.set(xExp, i32.sub(i32.const(BIAS - 1), i32.wrap(i64.clz(w.get))));
          f.set(w, i64.shl(w.get, i64.clz(w.get)));
        },
        () =>
          f.if(
            i32.gtS(e.get, ZERO),
            () => {
              // x ≥ 1
              const one = f.let(
                select(
                  i32.gtS(e.get, i32.const(64)),
                  ZERO64,
                  i64.shrU(INTEGER_BIT, i64.extendI32U(i32.sub(e.get, i32.const(1)))),
                ),
              );
              f.set(w, i64.add(x.sig.get, one.get));
              f.if(i64.geS(w.get, ZERO64), () => {
                f.set(w, i64.or(i64.shrU(w.get, ONE64), INTEGER_BIT));
                f.set(xExp, i32.add(xExp.get, i32.const(1)));
              });
            },
            () => {
              f.set(w, i64.add(INTEGER_BIT, i64.shrU(x.sig.get, i64.add(below.get, ONE64))));
              f.set(xExp, i32.const(BIAS));
            },
          ),
      );
      const r = value(f);
      d.pair(f, r, 'f80.fyl2x', given.sig.get, given.se.get, w.get, xExp.get);
      f.ret(r.sig.get, r.se.get);
    });
    f.if(
      i32.ltS(e.get, i32.const(-140)),
      () => {
        // log2(1 + x) = x / ln 2, as far as one can see
        d.pair(f, pairOf(t), 'fx.mul', x.sig.get, ZERO64, high(HALF_LOG2E), low(HALF_LOG2E));
        f.set(e, i32.add(e.get, i32.const(1)));
        f.if(
          xNegative.get,
          () => {},
          () => justBelow(f, t),
        );
        normalizeWide(f, t, e);
      },
      () => triple(f, [t.hi, t.lo, e], 'fx.log2OnePlus', x.sig.get, e.get, xNegative.get),
    );
    times(f, t, e, result.get, y, yExp, exact);
  });
}
