import { type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { divideLong } from './divide.ts';
import {
  controlWord,
  type Definer,
  EXPONENT,
  EXPONENT_ADJUST,
  FSW,
  flag,
  INTEGER_BIT,
  masked,
  ONE64,
  RC,
  raise,
  roundingControl,
  ZERO,
  ZERO64,
} from './f80-format.ts';

/**
 * 128-bit integers as pairs (high, low), and the rounding of every result.
 *
 * An exact result arrives as sign, exponent (biased, unbounded) and a 128-bit significand with its top bit set; bit 0
 * is sticky: it stands for all that lies below.
 *
 * Source  SDM 1 4.8.4 "Rounding", 8.5.4 "Numeric Overflow Exception (#O)", 8.5.5 "Numeric Underflow Exception (#U)",
 *         8.5.6 "Inexact-Result (Precision) Exception (#P)", 8.1.5.2 "Precision Control Field".
 */
export function defineRounding(d: Definer): void {
  // (a, b) → upper half of the unsigned product
  d.define('f80.mulHigh', [I64, I64], [I64], (f) => {
    const [a, b] = f.parameters as [Local, Local];
    f.ret(multiplyHigh(f, a, b));
  });

  // (high, low, n ≥ 0) → shifted right by n, what falls out ORed into bit 0
  d.define('f80.shiftJam', [I64, I64, I32], [I64, I64], (f) => {
    const [hi, lo, count] = f.parameters as [Local, Local, Local];
    f.if(i32.eqz(count.get), () => f.ret(hi.get, lo.get));
    f.if(i32.geU(count.get, i32.const(128)), () => f.ret(ZERO64, flag(i64.ne(i64.or(hi.get, lo.get), ZERO64))));
    f.if(i32.geU(count.get, i32.const(64)), () => {
      f.if(i32.eq(count.get, i32.const(64)), () => f.ret(ZERO64, i64.or(hi.get, flag(i64.ne(lo.get, ZERO64)))));
      const n = f.let(i64.extendI32U(i32.sub(count.get, i32.const(64))));
      const lost = i64.or(i64.shl(hi.get, i64.sub(i64.const(64), n.get)), lo.get);
      f.ret(ZERO64, i64.or(i64.shrU(hi.get, n.get), flag(i64.ne(lost, ZERO64))));
    });
    const n = f.let(i64.extendI32U(count.get));
    const up = f.let(i64.sub(i64.const(64), n.get));
    f.ret(
      i64.shrU(hi.get, n.get),
      i64.or(i64.or(i64.shl(hi.get, up.get), i64.shrU(lo.get, n.get)), flag(i64.ne(i64.shl(lo.get, up.get), ZERO64))),
    );
  });

  // (high < d, low, d with its top bit set) → (quotient, remainder) of the 128-bit dividend.
  d.define('f80.divide128', [I64, I64, I64], [I64, I64], (f) => {
    const [hi, lo, divisor] = f.parameters as [Local, Local, Local];
    const quotient = divideLong(f, hi, lo, divisor);
    f.ret(quotient.get, hi.get);
  });

  const roundParameters = [I32, I32, I64, I64] as const;

  // (sign, exponent, high, low, bits) → value with that many significand bits: every case.
  d.define('f80.roundTo', [...roundParameters, I32], [I64, I32], (f) => {
    const [sign, exp, hi, lo, width] = f.parameters as [Local, Local, Local, Local, Local];
    const bits = f.let(i64.extendI32U(width.get));
    const ulp = f.let(i64.shl(ONE64, i64.sub(i64.const(64), bits.get)));
    const increment = f.local(I64);
    const sum = f.local(I64);
    const tiny = f.local(I32);
    /** Moves the bits below the precision from `hi` to `lo`. */
    const split = (): void => {
      f.if(i32.ltU(width.get, i32.const(64)), () => {
        f.set(lo, i64.or(i64.shl(hi.get, bits.get), flag(i64.ne(lo.get, ZERO64))));
        f.set(hi, i64.and(hi.get, i64.sub(ZERO64, ulp.get)));
      });
    };
    const addIncrement = (): void => {
      f.set(increment, select(roundsUp(f, sign, i64.and(hi.get, ulp.get), lo), ulp.get, ZERO64));
      f.set(sum, i64.add(hi.get, increment.get));
    };
    const inexact = (): void => {
      f.if(i64.ne(lo.get, ZERO64), () =>
        raise(f, select(i64.eqz(increment.get), i32.const(FSW.PE), i32.const(FSW.PE | FSW.C1))),
      );
    };
    f.if(i32.leS(exp.get, ZERO), () => {
      // Tiny is decided after rounding, as if the exponent had no bound.
      const wideHi = f.let(hi.get);
      const wideLo = f.let(lo.get);
      split();
      addIncrement();
      const carries = i32.and(i64.ne(increment.get, ZERO64), i64.eqz(sum.get));
      f.set(tiny, i32.or(i32.ltS(exp.get, ZERO), i32.eqz(carries)));
      f.set(hi, wideHi.get);
      f.set(lo, wideLo.get);
      f.if(
        masked(FSW.UE),
        () => {
          d.pair(f, [hi, lo], 'f80.shiftJam', hi.get, lo.get, i32.sub(i32.const(1), exp.get));
          split();
          addIncrement();
          inexact();
          f.if(i32.and(tiny.get, i64.ne(lo.get, ZERO64)), () => raise(f, FSW.UE));
          f.ret(sum.get, i32.or(sign.get, i64.ltS(sum.get, ZERO64)));
        },
        () => {
          f.if(tiny.get, () => {
            raise(f, FSW.UE);
            f.set(exp, i32.add(exp.get, i32.const(EXPONENT_ADJUST)));
            // FSCALE may be so far below that even this does not help
            f.if(i32.leS(exp.get, ZERO), () => {
              raise(f, FSW.PE);
              f.ret(ZERO64, sign.get);
            });
          });
        },
      );
    });
    split();
    addIncrement();
    f.if(i32.and(i64.ne(increment.get, ZERO64), i64.eqz(sum.get)), () => {
      f.set(sum, INTEGER_BIT);
      f.set(exp, i32.add(exp.get, i32.const(1)));
    });
    f.if(i32.geS(exp.get, i32.const(EXPONENT)), () => {
      raise(f, FSW.OE);
      f.if(i32.eqz(masked(FSW.OE)), () => {
        f.set(exp, i32.sub(exp.get, i32.const(EXPONENT_ADJUST)));
        f.if(i32.ltS(exp.get, i32.const(EXPONENT)), () => {
          inexact();
          f.ret(sum.get, i32.or(sign.get, exp.get));
        });
        // FSCALE may be so far above that even this does not help
        raise(f, FSW.PE | FSW.C1);
        f.ret(INTEGER_BIT, i32.or(sign.get, i32.const(EXPONENT)));
      });
      raise(f, FSW.PE);
      f.if(overflowsToInfinity(f, sign), () => {
        raise(f, FSW.C1);
        f.ret(INTEGER_BIT, i32.or(sign.get, i32.const(EXPONENT)));
      });
      f.ret(i64.sub(ZERO64, ulp.get), i32.or(sign.get, i32.const(EXPONENT - 1)));
    });
    inexact();
    f.ret(sum.get, i32.or(sign.get, exp.get));
  });

  /** With 64 bits, and an exponent that stays in range. */
  const roundFast = (f: FunctionBuilder, sign: Local, exp: Local, hi: Local, lo: Local): void => {
    f.if(i64.eqz(lo.get), () => f.ret(hi.get, i32.or(sign.get, exp.get)));
    f.if(
      roundsUp(f, sign, i64.and(hi.get, ONE64), lo),
      () => {
        raise(f, FSW.PE | FSW.C1);
        f.set(hi, i64.add(hi.get, ONE64));
        f.if(i64.eqz(hi.get), () => {
          f.set(hi, INTEGER_BIT);
          f.set(exp, i32.add(exp.get, i32.const(1)));
        });
      },
      () => raise(f, FSW.PE),
    );
    f.ret(hi.get, i32.or(sign.get, exp.get));
  };
  const inRange = (exp: Local): Expr => i32.ltU(i32.sub(exp.get, i32.const(1)), i32.const(EXPONENT - 2));

  // (sign, exponent, high, low) → value with the full 64 bits
  d.define('f80.round64', roundParameters, [I64, I32], (f) => {
    const [sign, exp, hi, lo] = f.parameters as [Local, Local, Local, Local];
    const value = f.local(I64);
    const se = f.local(I32);
    f.if(inRange(exp), () => roundFast(f, sign, exp, hi, lo));
    d.pair(f, [value, se], 'f80.roundTo', sign.get, exp.get, hi.get, lo.get, i32.const(64));
    f.ret(value.get, se.get);
  });

  // (sign, exponent, high, low) → value with the precision that the control word asks for.
  // MEASURED on AMD Zen 4: the reserved precision control 01B gives 64 bits.
  d.define('f80.round', roundParameters, [I64, I32], (f) => {
    const [sign, exp, hi, lo] = f.parameters as [Local, Local, Local, Local];
    const value = f.local(I64);
    const se = f.local(I32);
    const full = f.let(i32.and(controlWord(), i32.const(0x100)));
    f.if(i32.and(inRange(exp), i32.ne(full.get, ZERO)), () => roundFast(f, sign, exp, hi, lo));
    const narrow = select(i32.and(controlWord(), i32.const(0x200)), i32.const(53), i32.const(24));
    const width = select(full.get, i32.const(64), narrow);
    d.pair(f, [value, se], 'f80.roundTo', sign.get, exp.get, hi.get, lo.get, width);
    f.ret(value.get, se.get);
  });
}

/** Upper half of an unsigned product. */
export function multiplyHigh(f: FunctionBuilder, a: Local, b: Local): Expr {
  const low = i64.halves(-1, 0);
  const s32 = i64.const(32);
  const al = f.let(i64.and(a.get, low));
  const ah = f.let(i64.shrU(a.get, s32));
  const bl = f.let(i64.and(b.get, low));
  const bh = f.let(i64.shrU(b.get, s32));
  const mid = f.let(i64.add(i64.mul(ah.get, bl.get), i64.shrU(i64.mul(al.get, bl.get), s32)));
  const mid2 = f.let(i64.add(i64.mul(al.get, bh.get), i64.and(mid.get, low)));
  return i64.add(i64.mul(ah.get, bh.get), i64.add(i64.shrU(mid.get, s32), i64.shrU(mid2.get, s32)));
}

/** 1 if the magnitude is to be increased: `odd` (i64) is the last bit kept, `rest` the bits below it. */
export function roundsUp(f: FunctionBuilder, sign: Local, odd: Expr, rest: Local, control?: Expr): Expr {
  const result = f.local(I32);
  const rc = f.let(control ?? roundingControl());
  f.if(
    i32.eqz(rc.get),
    () =>
      f.set(
        result,
        i32.and(i64.ltS(rest.get, ZERO64), i32.or(i64.ne(i64.shl(rest.get, ONE64), ZERO64), i64.ne(odd, ZERO64))),
      ),
    () =>
      f.set(
        result,
        i32.and(i64.ne(rest.get, ZERO64), i32.eq(rc.get, select(sign.get, i32.const(RC.DOWN), i32.const(RC.UP)))),
      ),
  );
  return result.get;
}

/** 1 if a masked overflow gives an infinity, 0 if the largest finite number. SDM 1 table 4-11. */
export function overflowsToInfinity(f: FunctionBuilder, sign: Local): Expr {
  const rc = f.let(roundingControl());
  return i32.or(i32.eqz(rc.get), i32.eq(rc.get, select(sign.get, i32.const(RC.DOWN), i32.const(RC.UP))));
}
