import { I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import {
  BIAS,
  clearStatus,
  type Definer,
  EXPONENT,
  exponent,
  FSW,
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
  QUIET_BIT,
  raise,
  returnIndefinite,
  SIGN,
  setResult,
  sign,
  TWO_VALUES,
  type Value,
  value,
  ZERO,
  ZERO64,
} from './f80-format.ts';
import { roundsUp } from './f80-round.ts';

/** FPREM, FPREM1, FSCALE, FXTRACT, FRNDINT, comparison and FXAM. */
export function defineRemainder(d: Definer): void {
  // (a, b, nearest) → remainder; quotient bits in C0 C3 C1, "incomplete" in C2.
  // SDM 2A "FPREM1—Partial Remainder", "FPREM—Partial Remainder"
  d.define('f80.remainder', [...TWO_VALUES, I32], [I64, I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const nearest = f.parameters[4]!;
    const aSign = f.let(sign(a.se.get));
    const aExp = f.let(exponent(a.se.get));
    const bExp = f.let(exponent(b.se.get));
    const result = value(f);
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      handleNaN(d, f, a, b);
      f.if(i32.or(isInfinite(a), isZero(b)), () => returnIndefinite(f));
      handleDenormal(d, f, a, b);
      f.if(i32.or(isZero(a), isInfinite(b)), () => clearStatus(f, FSW.C0 | FSW.C3));
      f.if(isZero(a), () => f.ret(ZERO64, aSign.get));
      normalize(f, a.sig, aExp);
      f.if(isInfinite(b), () => {
        d.pair(f, result, 'f80.round64', aSign.get, aExp.get, a.sig.get, ZERO64);
        f.ret(result.sig.get, result.se.get);
      });
      normalize(f, b.sig, bExp);
    });
    clearStatus(f, FSW.C0 | FSW.C3);
    const distance = f.let(i32.sub(aExp.get, bExp.get));
    const quotient = f.let(ZERO64);
    const step = f.local(I32);
    const twice = f.local(I32);
    f.if(
      i32.ltS(distance.get, ZERO),
      () => {
        // |a| < |b|: nothing to subtract, unless the nearest multiple is b itself
        f.if(i32.and(i32.and(nearest.get, i32.eq(distance.get, i32.const(-1))), i64.gtU(a.sig.get, b.sig.get)), () => {
          f.set(a.sig, i64.sub(i64.shl(b.sig.get, ONE64), a.sig.get));
          f.set(aSign, i32.xor(aSign.get, i32.const(SIGN)));
          f.set(quotient, ONE64);
        });
        f.set(bExp, aExp.get);
      },
      () => {
        // MEASURED on AMD Zen 4: an incomplete step takes off 32 to 63 bits, so that 32 divides what is left.
        f.set(
          step,
          select(
            i32.ltS(distance.get, i32.const(64)),
            distance.get,
            i32.or(i32.and(distance.get, i32.const(31)), i32.const(32)),
          ),
        );
        f.if(i64.geU(a.sig.get, b.sig.get), () => {
          f.set(a.sig, i64.sub(a.sig.get, b.sig.get));
          f.set(quotient, ONE64);
        });
        f.if(step.get, () => {
          const n = f.let(i64.extendI32U(step.get));
          const low = f.local(I64);
          const first = f.let(i64.shl(quotient.get, n.get));
          d.pair(
            f,
            [low, a.sig],
            'f80.divide128',
            i64.shrU(a.sig.get, i64.sub(i64.const(64), n.get)),
            i64.shl(a.sig.get, n.get),
            b.sig.get,
          );
          f.set(quotient, i64.or(first.get, low.get));
        });
        f.if(
          i32.ne(step.get, distance.get),
          () => {
            raise(f, FSW.C2);
            f.set(quotient, ZERO64);
            f.set(bExp, i32.add(bExp.get, i32.sub(distance.get, step.get)));
          },
          () => {
            f.if(nearest.get, () => {
              const other = f.let(i64.sub(b.sig.get, a.sig.get));
              f.set(
                twice,
                i32.or(
                  i64.gtU(a.sig.get, other.get),
                  i32.and(i64.eq(a.sig.get, other.get), i32.wrap(i64.and(quotient.get, ONE64))),
                ),
              );
              f.if(twice.get, () => {
                f.set(a.sig, other.get);
                f.set(aSign, i32.xor(aSign.get, i32.const(SIGN)));
                f.set(quotient, i64.add(quotient.get, ONE64));
              });
            });
          },
        );
      },
    );
    const q = f.let(i32.wrap(quotient.get));
    const bit = (at: number, name: number): void => f.if(i32.and(q.get, i32.const(1 << at)), () => raise(f, name));
    bit(0, FSW.C1);
    bit(1, FSW.C3);
    bit(2, FSW.C0);
    // A zero has the sign of the dividend.
    f.if(i64.eqz(a.sig.get), () => f.ret(ZERO64, sign(a.se.get)));
    const shift = f.let(i64.clz(a.sig.get));
    d.pair(
      f,
      result,
      'f80.round64',
      aSign.get,
      i32.sub(bExp.get, i32.wrap(shift.get)),
      i64.shl(a.sig.get, shift.get),
      ZERO64,
    );
    f.ret(result.sig.get, result.se.get);
  });

  // (a, b) → a * 2^trunc(b). SDM 2A "FSCALE—Scale"
  d.define('f80.scale', TWO_VALUES, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const aSign = f.let(sign(a.se.get));
    const aExp = f.let(exponent(a.se.get));
    const bExp = f.let(exponent(b.se.get));
    const bSign = f.let(sign(b.se.get));
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      handleNaN(d, f, a, b);
      f.if(isInfinite(b), () => {
        f.if(
          bSign.get,
          () => f.if(isInfinite(a), () => returnIndefinite(f)),
          () => f.if(isZero(a), () => returnIndefinite(f)),
        );
      });
      handleDenormal(d, f, a, b);
      f.if(isInfinite(a), () => f.ret(INTEGER_BIT, i32.or(aSign.get, i32.const(EXPONENT))));
      f.if(isZero(a), () => f.ret(ZERO64, aSign.get));
      f.if(isInfinite(b), () => {
        f.if(bSign.get, () => f.ret(ZERO64, aSign.get));
        f.ret(INTEGER_BIT, i32.or(aSign.get, i32.const(EXPONENT)));
      });
      normalize(f, a.sig, aExp);
    });
    const n = f.local(I32);
    f.if(
      i32.ltU(bExp.get, i32.const(BIAS)),
      () => f.set(n, ZERO),
      () => {
        const places = i32.sub(i32.const(BIAS + 63), bExp.get);
        f.set(
          n,
          select(
            i32.gtU(bExp.get, i32.const(BIAS + 15)),
            i32.const(0x1_0000),
            i32.wrap(i64.shrU(b.sig.get, i64.extendI32U(places))),
          ),
        );
        f.if(bSign.get, () => f.set(n, i32.sub(ZERO, n.get)));
      },
    );
    const result = value(f);
    d.pair(f, result, 'f80.round64', aSign.get, i32.add(aExp.get, n.get), a.sig.get, ZERO64);
    f.ret(result.sig.get, result.se.get);
  });

  // (i64) → the integer as a value
  d.define('f80.fromInteger', [I64], [I64, I32], (f) => {
    const v = fromInteger(f, f.parameters[0]!);
    f.ret(v.sig.get, v.se.get);
  });

  // (a) → significand of a; its exponent, a value too, in RESULT. SDM 2A "FXTRACT—Extract Exponent and Significand"
  d.define('f80.extract', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const exp = f.let(exponent(a.se.get));
    f.if(isSpecial(a), () => {
      // of a NaN, RESULT is the answer already: both parts are the NaN
      handleNaN(d, f, a);
      f.if(isZero(a), () => {
        raise(f, FSW.ZE);
        setResult(f, INTEGER_BIT, i32.const(SIGN | EXPONENT));
        f.ret(ZERO64, a.se.get);
      });
      f.if(isInfinite(a), () => {
        setResult(f, INTEGER_BIT, i32.const(EXPONENT));
        f.ret(a.sig.get, a.se.get);
      });
      handleDenormal(d, f, a);
      normalize(f, a.sig, exp);
    });
    const e = value(f);
    d.pair(f, e, 'f80.fromInteger', i64.extendI32S(i32.sub(exp.get, i32.const(BIAS))));
    setResult(f, e.sig.get, e.se.get);
    f.ret(a.sig.get, i32.or(sign(a.se.get), i32.const(BIAS)));
  });

  // (a) → integer by the rounding control. SDM 2A "FRNDINT—Round to Integer"
  d.define('f80.roundToInteger', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const aSign = f.let(sign(a.se.get));
    f.if(isSpecial(a), () => {
      handleNaN(d, f, a);
      handleDenormal(d, f, a);
      f.if(i32.or(isInfinite(a), isZero(a)), () => f.ret(a.sig.get, a.se.get));
    });
    const places = f.let(i32.sub(i32.const(BIAS + 63), exponent(a.se.get)));
    f.if(i32.leS(places.get, ZERO), () => f.ret(a.sig.get, a.se.get));
    const hi = f.local(I64);
    const lo = f.local(I64);
    d.pair(f, [hi, lo], 'f80.shiftJam', a.sig.get, ZERO64, places.get);
    f.if(i64.ne(lo.get, ZERO64), () => {
      raise(f, FSW.PE);
      f.if(roundsUp(f, aSign, i64.and(hi.get, ONE64), lo), () => {
        raise(f, FSW.C1);
        f.set(hi, i64.add(hi.get, ONE64));
      });
    });
    const result = value(f);
    d.pair(f, result, 'f80.fromInteger', hi.get);
    // 2^63 looks negative, and is right but for its sign.
    f.ret(result.sig.get, i32.or(aSign.get, exponent(result.se.get)));
  });

  // (a, b, quiet) → C0, C2, C3 of comparing a with b. quiet: QNaNs are no invalid operation.
  // SDM 2A "FCOM/FCOMP/FCOMPP—Compare Floating-Point Values", "FUCOM/FUCOMP/FUCOMPP"
  d.define('f80.compare', [...TWO_VALUES, I32], [I32], (f) => {
    const a = parameter(f, 0);
    const b = parameter(f, 1);
    const quiet = f.parameters[4]!;
    const aExp = f.let(exponent(a.se.get));
    const bExp = f.let(exponent(b.se.get));
    f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
      f.if(d.call('f80.nan', a.sig.get, a.se.get, b.sig.get, b.se.get), () => {
        f.if(i32.eqz(quiet.get), () => raise(f, FSW.IE));
        f.ret(i32.const(FSW.C0 | FSW.C2 | FSW.C3));
      });
      f.drop(d.call('f80.denormal', a.sig.get, a.se.get, b.sig.get, b.se.get));
      f.if(i32.and(isZero(a), isZero(b)), () => f.ret(i32.const(FSW.C3)));
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
    const negative = f.let(sign(a.se.get));
    f.if(i32.ne(negative.get, sign(b.se.get)), () => {
      f.ret(select(negative.get, i32.const(FSW.C0), ZERO));
    });
    f.if(i32.and(i32.eq(aExp.get, bExp.get), i64.eq(a.sig.get, b.sig.get)), () => f.ret(i32.const(FSW.C3)));
    const less = i32.or(
      i32.ltS(aExp.get, bExp.get),
      i32.and(i32.eq(aExp.get, bExp.get), i64.ltU(a.sig.get, b.sig.get)),
    );
    f.ret(select(i32.ne(less, i32.ne(negative.get, ZERO)), i32.const(FSW.C0), ZERO));
  });

  // (a, empty) → C0–C3 of FXAM, C1 the sign. SDM 2A "FXAM—Examine Floating-Point"
  d.define('f80.examine', [I64, I32, I32], [I32], (f) => {
    const a = parameter(f, 0);
    const empty = f.parameters[2]!;
    const c1 = f.let(i32.shrU(sign(a.se.get), i32.const(6)));
    const give = (bits: number): void => f.ret(i32.or(c1.get, i32.const(bits)));
    f.if(empty.get, () => give(FSW.C3 | FSW.C0));
    f.if(d.call('f80.unsupported', a.sig.get, a.se.get), () => give(0));
    f.if(d.call('f80.isNaN', a.sig.get, a.se.get), () => give(FSW.C0));
    f.if(isInfinite(a), () => give(FSW.C2 | FSW.C0));
    f.if(isZero(a), () => give(FSW.C3));
    f.if(d.call('f80.isDenormal', a.sig.get, a.se.get), () => give(FSW.C3 | FSW.C2));
    give(FSW.C2);
  });

  // (value) → the value as FLD m32 and m64 load it: SNaNs become quiet and are IE, denormals are DE. MEASURED on AMD
  // Zen 4: unlike other operations, a load takes place even if DE is not masked.
  d.define('f80.load', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    f.if(isSpecial(a), () => {
      f.if(i32.and(d.call('f80.isNaN', a.sig.get, a.se.get), i64.eqz(i64.and(a.sig.get, QUIET_BIT))), () => {
        raise(f, FSW.IE);
        f.ret(i64.or(a.sig.get, QUIET_BIT), a.se.get);
      });
      f.drop(d.call('f80.denormal', a.sig.get, a.se.get, a.sig.get, a.se.get));
    });
    f.ret(a.sig.get, i32.and(a.se.get, i32.const(0xffff)));
  });
}

/** An integer as a value: always exact. */
export function fromInteger(f: FunctionBuilder, integer: Local): Value {
  const negative = f.let(i64.shrS(integer.get, i64.const(63)));
  const magnitude = f.let(i64.sub(i64.xor(integer.get, negative.get), negative.get));
  const shift = f.let(i64.clz(magnitude.get));
  const se = i32.or(sign(i32.wrap(negative.get)), i32.sub(i32.const(BIAS + 63), i32.wrap(shift.get)));
  return {
    sig: f.let(i64.shl(magnitude.get, shift.get)),
    se: f.let(select(i64.eqz(magnitude.get), ZERO, se)),
  };
}
