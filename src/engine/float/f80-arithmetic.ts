import { Expr, f64, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { divideLong } from './divide.ts';
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
  RC,
  raise,
  returnIndefinite,
  roundingControl,
  SIGN,
  sign,
  TWO_VALUES,
  ZERO,
  ZERO64,
} from './f80-format.ts';
import { multiplyHigh } from './f80-round.ts';

/**
 * Addition, multiplication, division, square root, rounded as the control word says.
 *
 * Each function takes the short way when its operands are normal numbers; else it settles, in the manual's order of
 * precedence, NaNs, invalid operations, division by zero, denormal operands, zeros and infinities (SDM 1 8.6 "x87 FPU
 * Exception Synchronization" and 4.9.2 "Floating-Point Exception Priority").
 */
export function defineArithmetic(d: Definer): void {
  const round = (f: FunctionBuilder, ...args: Expr[]): void => {
    const sig = f.local(I64);
    const se = f.local(I32);
    d.pair(f, [sig, se], 'f80.round', ...args);
    f.ret(sig.get, se.get);
  };

  // (a, b, flip) → a + b, b with its sign inverted if flip is 8000h: a - b
  d.define('f80.addFlip', [...TWO_VALUES, I32], [I64, I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const flip = f.parameters[4]!;
    const aSign = f.local(I32);
    const bSign = f.local(I32);
    const aExp = f.local(I32);
    const bExp = f.local(I32);
    const hi = f.local(I64);
    const lo = f.local(I64);
    f.set(aExp, exponent(a.se.get));
    f.set(bExp, exponent(b.se.get));
    f.set(aSign, sign(a.se.get));
    f.set(bSign, i32.xor(sign(b.se.get), flip.get));
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      handleNaN(d, f, a, b);
      f.if(i32.and(isInfinite(a), i32.and(isInfinite(b), i32.ne(aSign.get, bSign.get))), () => returnIndefinite(f));
      handleDenormal(d, f, a, b);
      f.if(isInfinite(a), () => f.ret(INTEGER_BIT, i32.or(aSign.get, i32.const(EXPONENT))));
      f.if(isInfinite(b), () => f.ret(INTEGER_BIT, i32.or(bSign.get, i32.const(EXPONENT))));
      f.if(i32.and(isZero(a), isZero(b)), () => {
        const down = select(i32.eq(roundingControl(), i32.const(RC.DOWN)), i32.const(SIGN), ZERO);
        f.ret(ZERO64, select(i32.eq(aSign.get, bSign.get), aSign.get, down));
      });
      // A zero lies below everything.
      f.if(
        isZero(a),
        () => f.set(aExp, i32.const(-0x10000)),
        () => normalize(f, a.sig, aExp),
      );
      f.if(
        isZero(b),
        () => f.set(bExp, i32.const(-0x10000)),
        () => normalize(f, b.sig, bExp),
      );
    });
    sum(d, f, { sig: a.sig, exp: aExp, sign: aSign }, { sig: b.sig, exp: bExp, sign: bSign }, hi, lo, (zero) =>
      f.ret(ZERO64, zero),
    );
    round(f, aSign.get, aExp.get, hi.get, lo.get);
  });

  d.define('f80.add', TWO_VALUES, [I64, I32], (f) => {
    const r: [Local, Local] = [f.local(I64), f.local(I32)];
    d.pair(f, r, 'f80.addFlip', ...f.parameters.map((p) => p.get), ZERO);
    f.ret(r[0].get, r[1].get);
  });
  d.define('f80.sub', TWO_VALUES, [I64, I32], (f) => {
    const r: [Local, Local] = [f.local(I64), f.local(I32)];
    d.pair(f, r, 'f80.addFlip', ...f.parameters.map((p) => p.get), i32.const(SIGN));
    f.ret(r[0].get, r[1].get);
  });

  d.define('f80.mul', TWO_VALUES, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const aExp = f.let(exponent(a.se.get));
    const bExp = f.let(exponent(b.se.get));
    const product = f.let(sign(i32.xor(a.se.get, b.se.get)));
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      handleNaN(d, f, a, b);
      const infinite = i32.or(isInfinite(a), isInfinite(b));
      const zero = i32.or(isZero(a), isZero(b));
      f.if(i32.and(infinite, zero), () => returnIndefinite(f));
      handleDenormal(d, f, a, b);
      f.if(infinite, () => f.ret(INTEGER_BIT, i32.or(product.get, i32.const(EXPONENT))));
      f.if(zero, () => f.ret(ZERO64, product.get));
      normalize(f, a.sig, aExp);
      normalize(f, b.sig, bExp);
    });
    const { hi, lo, exp } = productOf(f, a.sig, aExp, b.sig, bExp);
    round(f, product.get, exp.get, hi.get, lo.get);
  });

  d.define('f80.div', TWO_VALUES, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const aExp = f.let(exponent(a.se.get));
    const bExp = f.let(exponent(b.se.get));
    const quotient = f.let(sign(i32.xor(a.se.get, b.se.get)));
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      handleNaN(d, f, a, b);
      f.if(i32.and(isInfinite(a), isInfinite(b)), () => returnIndefinite(f));
      f.if(i32.and(isZero(a), isZero(b)), () => returnIndefinite(f));
      f.if(i32.and(isZero(b), i32.eqz(isInfinite(a))), () => {
        raise(f, FSW.ZE);
        f.ret(INTEGER_BIT, i32.or(quotient.get, i32.const(EXPONENT)));
      });
      handleDenormal(d, f, a, b);
      f.if(isInfinite(a), () => f.ret(INTEGER_BIT, i32.or(quotient.get, i32.const(EXPONENT))));
      f.if(i32.or(isInfinite(b), isZero(a)), () => f.ret(ZERO64, quotient.get));
      normalize(f, a.sig, aExp);
      normalize(f, b.sig, bExp);
    });
    const { hi, lo, exp } = quotientOf(f, a.sig, aExp, b.sig, bExp);
    round(f, quotient.get, exp.get, hi.get, lo.get);
  });

  d.define('f80.sqrt', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const aExp = f.let(exponent(a.se.get));
    f.if(i32.or(isSpecial(a), sign(a.se.get)), () => {
      handleNaN(d, f, a);
      f.if(isZero(a), () => f.ret(ZERO64, sign(a.se.get)));
      f.if(sign(a.se.get), () => returnIndefinite(f));
      handleDenormal(d, f, a);
      f.if(isInfinite(a), () => f.ret(INTEGER_BIT, i32.const(EXPONENT)));
      normalize(f, a.sig, aExp);
    });
    // n = hi:lo = significand * 2^63 or 2^62 (so that the exponent is even): its root has 64 bits
    const odd = f.let(i32.and(i32.sub(aExp.get, i32.const(BIAS)), i32.const(1)));
    const shift = f.let(i64.sub(ONE64, flag(odd.get)));
    const hi = f.let(i64.shrU(a.sig.get, shift.get));
    const lo = f.let(select(odd.get, ZERO64, i64.shl(a.sig.get, i64.const(63))));
    const exp = f.let(i32.add(i32.shrS(i32.sub(aExp.get, i32.const(BIAS)), i32.const(1)), i32.const(BIAS)));
    // Estimate with 53 bits, from below so that the steps converge: one Newton step, then the last bit by trial.
    const estimate = f64.mul(f64.sqrt(f64.convertI64U(hi.get)), f64.const(4294967296));
    const root = f.local(I64);
    const top = f64.lt(estimate, f64.const(2 ** 64 - 2048));
    f.if(
      top,
      () => f.set(root, truncateU(estimate)),
      () => f.set(root, i64.const(-2048)),
    );
    const q = f.local(I64);
    const rest = f.local(I64);
    f.if(
      i64.ltU(hi.get, root.get),
      () => {
        d.pair(f, [q, rest], 'f80.divide128', hi.get, lo.get, root.get);
        // (root + q) / 2 without overflow, rounded up: never below the true root by more than the trial corrects
        f.set(
          root,
          i64.add(i64.add(i64.shrU(root.get, ONE64), i64.shrU(q.get, ONE64)), i64.and(i64.or(root.get, q.get), ONE64)),
        );
      },
      () => f.set(root, i64.add(hi.get, i64.shrU(i64.sub(ZERO64, hi.get), ONE64))),
    );
    // remainder = n - root²; correct root until 0 ≤ remainder ≤ 2 root
    const rHi = f.local(I64);
    const rLo = f.local(I64);
    const remainder = (): void => {
      f.set(rLo, i64.mul(root.get, root.get));
      f.set(rHi, d.call('f80.mulHigh', root.get, root.get));
      f.set(rHi, i64.sub(i64.sub(hi.get, rHi.get), flag(i64.ltU(lo.get, rLo.get))));
      f.set(rLo, i64.sub(lo.get, rLo.get));
    };
    f.loop((again) => {
      remainder();
      f.if(i64.ltS(rHi.get, ZERO64), () => {
        f.set(root, i64.sub(root.get, ONE64));
        f.br(again);
      });
      const tooSmall = i32.or(
        i64.gtU(rHi.get, i64.shrU(root.get, i64.const(63))),
        i32.and(i64.eq(rHi.get, i64.shrU(root.get, i64.const(63))), i64.gtU(rLo.get, i64.shl(root.get, ONE64))),
      );
      f.if(tooSmall, () => {
        f.set(root, i64.add(root.get, ONE64));
        f.br(again);
      });
    });
    // Above the half if remainder > root (n is an integer, root + 1/2 squared is not: never the half itself)
    const exact = i64.eqz(i64.or(rHi.get, rLo.get));
    const above = i32.or(i64.ne(rHi.get, ZERO64), i64.gtU(rLo.get, root.get));
    const below = select(above, i64.halves(1, 0x8000_0000), ONE64);
    round(f, ZERO, exp.get, root.get, select(exact, ZERO64, below));
  });
}

/** A number other than zero on its way through an addition: its significand's top bit is set. */
interface Term {
  readonly sig: Local;
  readonly exp: Local;
  readonly sign: Local;
}

/**
 * Adds two numbers: `a` becomes sign and exponent of the sum, `hi` and `lo` its significand as f80.round wants it.
 *
 * @param onZero  They cancel: leaves with a zero of this sign.
 */
export function sum(
  d: Definer,
  f: FunctionBuilder,
  a: Term,
  b: Term,
  hi: Local,
  lo: Local,
  onZero: (sign: Expr) => void,
): void {
  // The larger magnitude first
  const less = i32.or(
    i32.ltS(a.exp.get, b.exp.get),
    i32.and(i32.eq(a.exp.get, b.exp.get), i64.ltU(a.sig.get, b.sig.get)),
  );
  f.if(less, () => {
    const swap = (x: Local, y: Local): void => {
      const t = f.let(x.get);
      f.set(x, y.get);
      f.set(y, t.get);
      f.release(t);
    };
    swap(a.sig, b.sig);
    swap(a.exp, b.exp);
    swap(a.sign, b.sign);
  });
  const distance = f.let(i32.sub(a.exp.get, b.exp.get));
  f.if(
    i32.ltU(distance.get, i32.const(64)),
    () => {
      const n = f.let(i64.extendI32U(distance.get));
      f.set(hi, i64.shrU(b.sig.get, n.get));
      // In two steps, as a distance of 0 is a shift by 64
      f.set(lo, i64.shl(i64.shl(b.sig.get, ONE64), i64.sub(i64.const(63), n.get)));
    },
    () => d.pair(f, [hi, lo], 'f80.shiftJam', b.sig.get, ZERO64, distance.get),
  );
  f.if(
    i32.eq(a.sign.get, b.sign.get),
    () => {
      f.set(hi, i64.add(hi.get, a.sig.get));
      f.if(i64.ltU(hi.get, a.sig.get), () => {
        const lost = flag(i64.ne(i64.and(lo.get, ONE64), ZERO64));
        f.set(lo, i64.or(i64.or(i64.shrU(lo.get, ONE64), lost), i64.shl(hi.get, i64.const(63))));
        f.set(hi, i64.or(i64.shrU(hi.get, ONE64), INTEGER_BIT));
        f.set(a.exp, i32.add(a.exp.get, i32.const(1)));
      });
    },
    () => {
      f.set(hi, i64.sub(i64.sub(a.sig.get, hi.get), flag(i64.ne(lo.get, ZERO64))));
      f.set(lo, i64.sub(ZERO64, lo.get));
      f.if(i64.geS(hi.get, ZERO64), () => {
        f.if(i64.eqz(hi.get), () => {
          f.if(i64.eqz(lo.get), () =>
            onZero(select(i32.eq(roundingControl(), i32.const(RC.DOWN)), i32.const(SIGN), ZERO)),
          );
          f.set(hi, lo.get);
          f.set(lo, ZERO64);
          f.set(a.exp, i32.sub(a.exp.get, i32.const(64)));
        });
        const shift = f.let(i64.clz(hi.get));
        f.if(i64.ne(shift.get, ZERO64), () => {
          f.set(hi, i64.or(i64.shl(hi.get, shift.get), i64.shrU(lo.get, i64.sub(i64.const(64), shift.get))));
          f.set(lo, i64.shl(lo.get, shift.get));
          f.set(a.exp, i32.sub(a.exp.get, i32.wrap(shift.get)));
        });
      });
    },
  );
}

/** What f80.round wants of a product or quotient besides its sign. */
interface Unrounded {
  readonly hi: Local;
  readonly lo: Local;
  readonly exp: Local;
}

/** Multiplies two significands whose top bits are set. */
export function productOf(f: FunctionBuilder, a: Local, aExp: Local, b: Local, bExp: Local): Unrounded {
  const hi = f.let(multiplyHigh(f, a, b));
  const lo = f.let(i64.mul(a.get, b.get));
  const exp = f.let(i32.sub(i32.add(aExp.get, bExp.get), i32.const(BIAS - 1)));
  f.if(i64.geS(hi.get, ZERO64), () => {
    f.set(hi, i64.or(i64.shl(hi.get, ONE64), i64.shrU(lo.get, i64.const(63))));
    f.set(lo, i64.shl(lo.get, ONE64));
    f.set(exp, i32.sub(exp.get, i32.const(1)));
  });
  return { hi, lo, exp };
}

/** Divides two significands whose top bits are set. Changes `a`. */
export function quotientOf(f: FunctionBuilder, a: Local, aExp: Local, b: Local, bExp: Local): Unrounded {
  const exp = f.let(i32.add(i32.sub(aExp.get, bExp.get), i32.const(BIAS - 1)));
  const lo = f.local(I64);
  // The dividend's upper half must be below the divisor
  f.if(
    i64.geU(a.get, b.get),
    () => {
      f.set(lo, i64.shl(a.get, i64.const(63)));
      f.set(a, i64.shrU(a.get, ONE64));
      f.set(exp, i32.add(exp.get, i32.const(1)));
    },
    () => f.set(lo, ZERO64),
  );
  const hi = divideLong(f, a, lo, b);
  f.set(lo, halfway(f, a, b));
  return { hi, lo, exp };
}

/** Bits below a quotient: 0, below the half (1), the half, or above it, from the remainder of a division by `divisor`. */
export function halfway(f: FunctionBuilder, rest: Local, divisor: Local): Expr {
  const other = f.let(i64.sub(divisor.get, rest.get));
  const above = i64.gtU(rest.get, other.get);
  const half = i64.eq(rest.get, other.get);
  const below = flag(i64.ne(rest.get, ZERO64));
  return select(above, i64.halves(1, 0x8000_0000), select(half, INTEGER_BIT, below));
}

/** i64.trunc_f64_u, for values in range. */
const truncateU = (x: Expr): Expr => new Expr(I64, 0xb1, 0, x);
