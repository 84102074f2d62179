import { type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import {
  addTo,
  high,
  justBelow,
  less,
  low,
  normalizeWide,
  pairOf,
  subtractFrom,
  type Wide,
  wide,
} from './f80-fixed.ts';
import {
  BIAS,
  type Definer,
  EXC,
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
  raise,
  SIGN,
  setResult,
  sign,
  TWO_VALUES,
  value,
  ZERO,
  ZERO64,
} from './f80-format.ts';

/** π / 4 as a fraction of 2^128. */
const QUARTER_PI = 0xc90fdaa22168c234c4c6628b80dc1cd1n;
/** The π of argument reduction has 66 bits: SDM 1 8.3.8 "Approximation of Transcendental Functions", "Pi". */
const REDUCTION_PI = [i64.halves(0x2168c234, 0xc90fdaa2 | 0), i64.halves(0, 0xc000_0000 | 0)] as const;
/** Below 2^-50 the second term of a series is out of sight: x - x³/6 is just below x. */
const TINY = -50;

/** FSIN, FCOS, FSINCOS, FPTAN, FPATAN. Errors as in f80-logarithm.ts. */
export function defineTrigonometry(d: Definer): void {
  // (significand, exponent -1 ≤ e < 63 of x ≥ 1/2) → |x - n π/2| ≤ π/4 as a normalized fraction, exponent, and n with
  // bit 31 set if x is below n π/2. A remainder of 0 comes as 0.
  d.define('fx.reduce', [I64, I32], [I64, I64, I32, I32], (f) => {
    const [sig, e] = f.parameters as [Local, Local];
    const [piHi, piLo] = REDUCTION_PI;
    // fractions of 2: π/2 = 0.C90F…, x = sig * 2^e
    const rest = wide(f, sig.get, ZERO64);
    const n = f.let(ZERO);
    const exp = f.let(i32.const(1));
    f.if(i32.ltS(e.get, ZERO), () => {
      f.set(rest.lo, i64.shl(sig.get, i64.const(63)));
      f.set(rest.hi, i64.shrU(sig.get, ONE64));
      f.set(e, ZERO);
    });
    const out = f.let(ZERO64);
    f.loop((again) => {
      const fits = i32.or(i32.wrap(out.get), i32.eqz(less(rest.hi.get, rest.lo.get, piHi, piLo)));
      f.if(fits, () => {
        subtractFrom(f, rest, piHi, piLo);
        f.set(n, i32.or(n.get, i32.const(1)));
      });
      f.if(e.get, () => {
        f.set(e, i32.sub(e.get, i32.const(1)));
        f.set(n, i32.shl(n.get, i32.const(1)));
        f.set(out, i64.shrU(rest.hi.get, i64.const(63)));
        f.set(rest.hi, i64.or(i64.shl(rest.hi.get, ONE64), i64.shrU(rest.lo.get, i64.const(63))));
        f.set(rest.lo, i64.shl(rest.lo.get, ONE64));
        f.br(again);
      });
    });
    f.set(n, i32.and(n.get, i32.const(3)));
    const other = wide(f, piHi, piLo);
    subtractFrom(f, other, rest.hi.get, rest.lo.get);
    f.if(less(other.hi.get, other.lo.get, rest.hi.get, rest.lo.get), () => {
      f.set(rest.hi, other.hi.get);
      f.set(rest.lo, other.lo.get);
      f.set(n, i32.or(i32.and(i32.add(n.get, i32.const(1)), i32.const(3)), i32.const(0x8000_0000 | 0)));
    });
    f.if(i64.ne(i64.or(rest.hi.get, rest.lo.get), ZERO64), () => normalizeWide(f, rest, exp));
    f.ret(rest.hi.get, rest.lo.get, exp.get, n.get);
  });

  const quadruple = (f: FunctionBuilder, into: readonly Local[], name: string, ...args: Expr[]): void => {
    f.do(d.call(name, ...args));
    for (const local of [...into].reverse()) {
      f.code.byte(0x21);
      f.code.u32(local.index);
    }
  };
  const triple = quadruple;

  // (r, exponent) → sin r as normalized fraction and exponent
  d.define('fx.sin', [I64, I64, I32], [I64, I64, I32], (f) => {
    const [hi, lo, e] = f.parameters as [Local, Local, Local];
    const r = { hi, lo };
    f.if(
      i32.ltS(e.get, i32.const(TINY)),
      () => {
        f.if(i64.ne(i64.or(hi.get, lo.get), ZERO64), () => {
          justBelow(f, r);
          normalizeWide(f, r, e);
        });
      },
      () => {
        const z = wide(f);
        d.pair(f, pairOf(z), 'fx.mul', hi.get, lo.get, hi.get, lo.get);
        d.pair(f, pairOf(z), 'fx.align', z.hi.get, z.lo.get, i32.shl(e.get, i32.const(1)));
        d.pair(f, pairOf(z), 'fx.sine', z.hi.get, z.lo.get);
        d.pair(f, pairOf(r), 'fx.mul', hi.get, lo.get, z.hi.get, z.lo.get);
        f.set(e, i32.add(e.get, i32.const(1)));
        normalizeWide(f, r, e);
      },
    );
    f.ret(hi.get, lo.get, e.get);
  });

  // (r, exponent) → cos r as normalized fraction and exponent: between sqrt(1/2) and 1
  d.define('fx.cos', [I64, I64, I32], [I64, I64, I32], (f) => {
    const [hi, lo, e] = f.parameters as [Local, Local, Local];
    const z = wide(f, i64.const(-1), i64.const(-1));
    f.if(i32.geS(e.get, i32.const(-62)), () => {
      d.pair(f, pairOf(z), 'fx.mul', hi.get, lo.get, hi.get, lo.get);
      d.pair(f, pairOf(z), 'fx.align', z.hi.get, z.lo.get, i32.shl(e.get, i32.const(1)));
      d.pair(f, pairOf(z), 'fx.cosine', z.hi.get, z.lo.get);
      f.set(e, i32.const(1));
      normalizeWide(f, z, e);
      f.ret(z.hi.get, z.lo.get, e.get);
    });
    f.ret(z.hi.get, z.lo.get, ZERO);
  });

  interface Reduced {
    readonly hi: Local;
    readonly lo: Local;
    readonly e: Local;
    /** Quadrant: 0–3. */
    readonly n: Local;
    /** Sign (8000h or 0) of the reduced argument. */
    readonly negative: Local;
  }

  /** Common to all: special operands, C2, reduction. `zero` returns what the function gives for a zero. */
  const argument = (f: FunctionBuilder, zero: (a: { sig: Local; se: Local }) => void, special: () => void): Reduced => {
    const a = parameter(f, 0);
    const negative = f.let(sign(a.se.get));
    const exp = f.let(exponent(a.se.get));
    f.if(isSpecial(a), () => {
      f.if(d.call('f80.nan', a.sig.get, a.se.get, a.sig.get, a.se.get), special);
      f.if(isInfinite(a), () => {
        setResult(f, i64.halves(0, 0xc000_0000), i32.const(0xffff));
        raise(f, FSW.IE);
        special();
      });
      handleDenormal(d, f, a);
      f.if(isZero(a), () => zero(a));
      normalize(f, a.sig, exp);
    });
    f.if(i32.geS(exp.get, i32.const(BIAS + 63)), () => {
      raise(f, FSW.C2);
      f.ret(a.sig.get, a.se.get);
    });
    const r: Reduced = {
      hi: f.let(a.sig.get),
      lo: f.let(ZERO64),
      e: f.let(i32.sub(exp.get, i32.const(BIAS - 1))),
      n: f.let(ZERO),
      negative,
    };
    f.if(i32.geS(exp.get, i32.const(BIAS - 1)), () => {
      quadruple(f, [r.hi, r.lo, r.e, r.n], 'fx.reduce', a.sig.get, i32.sub(exp.get, i32.const(BIAS)));
      f.if(i32.ltS(r.n.get, ZERO), () => f.set(negative, i32.xor(negative.get, i32.const(SIGN))));
      // x = -|x|: quadrants count the other way
      f.if(sign(a.se.get), () => f.set(r.n, i32.sub(ZERO, r.n.get)));
      f.set(r.n, i32.and(r.n.get, i32.const(3)));
    });
    return r;
  };

  /** sin(r + (n + shift) π/2), rounded, into the pair. */
  const sinusoid = (f: FunctionBuilder, r: Reduced, shift: number): { sig: Local; se: Local } => {
    const t = [f.local(I64), f.local(I64), f.local(I32)] as const;
    const quadrant = f.let(i32.and(i32.add(r.n.get, i32.const(shift)), i32.const(3)));
    const negative = f.let(i32.shl(i32.shrU(quadrant.get, i32.const(1)), i32.const(15)));
    f.if(
      i32.and(quadrant.get, i32.const(1)),
      () => triple(f, t, 'fx.cos', r.hi.get, r.lo.get, r.e.get),
      () => {
        triple(f, t, 'fx.sin', r.hi.get, r.lo.get, r.e.get);
        f.set(negative, i32.xor(negative.get, r.negative.get));
      },
    );
    const result = value(f);
    d.pair(
      f,
      result,
      'f80.round64',
      negative.get,
      i32.add(t[2].get, i32.const(BIAS - 1)),
      t[0].get,
      i64.or(t[1].get, ONE64),
    );
    return result;
  };

  const returnRESULT =
    (f: FunctionBuilder): (() => void) =>
    () => {
      const r = value(f);
      d.pair(f, r, 'f80.extracted');
      f.ret(r.sig.get, r.se.get);
    };

  // SDM 2A "FSIN—Sine", "FCOS—Cosine"
  d.define('f80.fsin', ONE_VALUE, [I64, I32], (f) => {
    const r = argument(f, (a) => f.ret(ZERO64, sign(a.se.get)), returnRESULT(f));
    const result = sinusoid(f, r, 0);
    f.ret(result.sig.get, result.se.get);
  });
  d.define('f80.fcos', ONE_VALUE, [I64, I32], (f) => {
    const r = argument(f, () => f.ret(INTEGER_BIT, i32.const(BIAS)), returnRESULT(f));
    const result = sinusoid(f, r, 1);
    f.ret(result.sig.get, result.se.get);
  });

  // (x) → sine; the cosine is in RESULT. SDM 2A "FSINCOS—Sine and Cosine"
  d.define('f80.fsincos', ONE_VALUE, [I64, I32], (f) => {
    const zero = (a: { se: Local }): void => {
      setResult(f, INTEGER_BIT, i32.const(BIAS));
      f.ret(ZERO64, sign(a.se.get));
    };
    const r = argument(f, zero, returnRESULT(f));
    const cosine = sinusoid(f, r, 1);
    setResult(f, cosine.sig.get, cosine.se.get);
    const before = f.let(i32.load(ZERO, EXC));
    // C1 is about the sine
    f.do(i32.store(ZERO, i32.and(before.get, i32.const(~FSW.C1)), EXC));
    const sine = sinusoid(f, r, 0);
    f.ret(sine.sig.get, sine.se.get);
  });

  // (x) → tangent; 1 is in RESULT. SDM 2A "FPTAN—Partial Tangent"
  d.define('f80.fptan', ONE_VALUE, [I64, I32], (f) => {
    const one = (): void => setResult(f, INTEGER_BIT, i32.const(BIAS));
    const r = argument(
      f,
      (a) => {
        one();
        f.ret(ZERO64, sign(a.se.get));
      },
      returnRESULT(f),
    );
    one();
    const result = value(f);
    const odd = f.let(i32.and(r.n.get, i32.const(1)));
    f.if(i32.and(i32.ltS(r.e.get, i32.const(TINY)), i32.eqz(odd.get)), () => {
      // just above
      d.pair(
        f,
        result,
        'f80.round64',
        r.negative.get,
        i32.add(r.e.get, i32.const(BIAS - 1)),
        r.hi.get,
        i64.or(r.lo.get, ONE64),
      );
      f.ret(result.sig.get, result.se.get);
    });
    const s = [f.local(I64), f.local(I64), f.local(I32)] as const;
    const c = [f.local(I64), f.local(I64), f.local(I32)] as const;
    triple(f, s, 'fx.sin', r.hi.get, r.lo.get, r.e.get);
    triple(f, c, 'fx.cos', r.hi.get, r.lo.get, r.e.get);
    const q = wide(f);
    const e = f.local(I32);
    const divide = (n: readonly [Local, Local, Local], by: readonly [Local, Local, Local]): void => {
      // halve the dividend, so that it is below the divisor
      f.set(n[1], i64.or(i64.shrU(n[1].get, ONE64), i64.shl(n[0].get, i64.const(63))));
      f.set(n[0], i64.shrU(n[0].get, ONE64));
      d.pair(f, pairOf(q), 'fx.div', n[0].get, n[1].get, by[0].get, by[1].get);
      f.set(e, i32.add(i32.sub(n[2].get, by[2].get), i32.const(1)));
    };
    f.if(
      odd.get,
      () => {
        divide(c, s);
        f.set(r.negative, i32.xor(r.negative.get, i32.const(SIGN)));
      },
      () => divide(s, c),
    );
    normalizeWide(f, q, e);
    d.pair(
      f,
      result,
      'f80.round64',
      r.negative.get,
      i32.add(e.get, i32.const(BIAS - 1)),
      q.hi.get,
      i64.or(q.lo.get, ONE64),
    );
    f.ret(result.sig.get, result.se.get);
  });

  defineArcTangent(d, triple);
}

type Multiple = (f: FunctionBuilder, into: readonly Local[], name: string, ...args: Expr[]) => void;

function defineArcTangent(d: Definer, triple: Multiple): void {
  // (a, b, d ≥ 0): atan(a / (b 2^d)) for significands a and b with a ≤ b 2^d, as normalized fraction and exponent
  d.define('fx.atan', [I64, I64, I32], [I64, I64, I32], (f) => {
    const [a, b, distance] = f.parameters as [Local, Local, Local];
    const six = i64.const(6);
    const k = f.let(ZERO);
    const u = wide(f);
    const e = f.let(ZERO);
    const negative = f.let(ZERO);
    const z = wide(f);
    f.if(i32.ltU(distance.get, i32.const(8)), () => {
      const scaled = i64.shrU(i64.shrU(a.get, i64.extendI32U(distance.get)), six);
      const divisor = f.let(i64.shrU(b.get, six));
      f.set(k, i32.wrap(i64.divU(i64.add(i64.shl(scaled, i64.const(5)), i64.shrU(divisor.get, ONE64)), divisor.get)));
    });
    f.if(
      k.get,
      () => {
        // (32 a - k b) / (32 b + k a), with a and b scaled down by 2^6 so that all fits
        const n = f.let(i64.extendI32U(k.get));
        const shift = f.let(i64.add(i64.extendI32U(distance.get), six));
        const back = i64.sub(i64.const(64), shift.get);
        const scale = (hi: Expr, lo: Expr, by: Expr): Wide => {
          const l = f.let(lo);
          return wide(f, i64.add(i64.mul(hi, by), d.call('f80.mulHigh', l.get, by)), i64.mul(l.get, by));
        };
        const as = wide(f, i64.shrU(a.get, shift.get), i64.shl(a.get, back));
        const bs = wide(f, i64.shrU(b.get, six), i64.shl(b.get, i64.const(58)));
        const num = scale(as.hi.get, as.lo.get, i64.const(32));
        const kb = scale(bs.hi.get, bs.lo.get, n.get);
        const den = scale(bs.hi.get, bs.lo.get, i64.const(32));
        const ka = scale(as.hi.get, as.lo.get, n.get);
        addTo(f, den, ka.hi.get, ka.lo.get);
        f.set(negative, less(num.hi.get, num.lo.get, kb.hi.get, kb.lo.get));
        f.if(
          negative.get,
          () => {
            subtractFrom(f, kb, num.hi.get, num.lo.get);
            f.set(num.hi, kb.hi.get);
            f.set(num.lo, kb.lo.get);
          },
          () => subtractFrom(f, num, kb.hi.get, kb.lo.get),
        );
        d.pair(f, pairOf(u), 'fx.div', num.hi.get, num.lo.get, den.hi.get, den.lo.get);
        d.pair(f, pairOf(z), 'fx.mul', u.hi.get, u.lo.get, u.hi.get, u.lo.get);
        d.pair(f, pairOf(z), 'fx.arcTangent', z.hi.get, z.lo.get);
        d.pair(f, pairOf(u), 'fx.mul', u.hi.get, u.lo.get, z.hi.get, z.lo.get);
        // the series is a half
        addTo(f, u, u.hi.get, u.lo.get);
        d.pair(f, pairOf(z), 'fx.arcTangentOf', k.get);
        f.if(
          negative.get,
          () => subtractFrom(f, z, u.hi.get, u.lo.get),
          () => addTo(f, z, u.hi.get, u.lo.get),
        );
        normalizeWide(f, z, e);
        f.ret(z.hi.get, z.lo.get, e.get);
      },
      () => {
        d.pair(f, pairOf(u), 'fx.div', i64.shrU(a.get, ONE64), i64.shl(a.get, i64.const(63)), b.get, ZERO64);
        f.set(e, i32.sub(i32.const(1), distance.get));
        normalizeWide(f, u, e);
        f.if(i32.ltS(e.get, i32.const(TINY)), () => {
          justBelow(f, u);
          normalizeWide(f, u, e);
          f.ret(u.hi.get, u.lo.get, e.get);
        });
        d.pair(f, pairOf(z), 'fx.mul', u.hi.get, u.lo.get, u.hi.get, u.lo.get);
        d.pair(f, pairOf(z), 'fx.align', z.hi.get, z.lo.get, i32.shl(e.get, i32.const(1)));
        d.pair(f, pairOf(z), 'fx.arcTangent', z.hi.get, z.lo.get);
        d.pair(f, pairOf(u), 'fx.mul', u.hi.get, u.lo.get, z.hi.get, z.lo.get);
        f.set(e, i32.add(e.get, i32.const(1)));
        normalizeWide(f, u, e);
        f.ret(u.hi.get, u.lo.get, e.get);
      },
    );
    f.unreachable();
  });

  // (y, x) → the angle of the point (x, y). SDM 2A "FPATAN—Partial Arctangent"
  d.define('f80.fpatan', TWO_VALUES, [I64, I32], (f) => {
    const y = parameter(f, 0);
    const x = parameter(f, 1);
    const negative = f.let(sign(y.se.get));
    const left = f.let(sign(x.se.get));
    const yExp = f.let(exponent(y.se.get));
    const xExp = f.let(exponent(x.se.get));
    const result = value(f);
    const round = (exp: Expr, w: { hi: Local; lo: Local }): void => {
      d.pair(f, result, 'f80.round64', negative.get, exp, w.hi.get, i64.or(w.lo.get, ONE64));
      f.ret(result.sig.get, result.se.get);
    };
    /** π * n / 4 */
    const multiple = (n: bigint): void => {
      const w = wide(f);
      let fraction = QUARTER_PI;
      let exp = BIAS - 1;
      if (n === 3n) {
        fraction = (QUARTER_PI * 3n) >> 2n;
        exp += 2;
      } else exp += n === 4n ? 2 : n === 2n ? 1 : 0;
      f.set(w.hi, high(fraction));
      f.set(w.lo, low(fraction));
      round(i32.const(exp), w);
    };
    f.if(i32.or(isSpecial(y), isSpecial(x)), () => {
      handleNaN(d, f, y, x);
      handleDenormal(d, f, y, x);
      f.if(isInfinite(y), () => {
        f.if(i32.eqz(isInfinite(x)), () => multiple(2n));
        f.if(left.get, () => multiple(3n));
        multiple(1n);
      });
      f.if(i32.or(isInfinite(x), isZero(y)), () => {
        f.if(left.get, () => multiple(4n));
        f.ret(ZERO64, negative.get);
      });
      f.if(isZero(x), () => multiple(2n));
      normalize(f, x.sig, xExp);
      normalize(f, y.sig, yExp);
    });
    const steep = f.let(
      i32.or(i32.gtS(yExp.get, xExp.get), i32.and(i32.eq(yExp.get, xExp.get), i64.gtU(y.sig.get, x.sig.get))),
    );
    const t = wide(f);
    const e = f.local(I32);
    const distance = f.let(i32.sub(xExp.get, yExp.get));
    f.if(steep.get, () => f.set(distance, i32.sub(ZERO, distance.get)));
    triple(
      f,
      [t.hi, t.lo, e],
      'fx.atan',
      select(steep.get, x.sig.get, y.sig.get),
      select(steep.get, y.sig.get, x.sig.get),
      distance.get,
    );
    f.if(i32.or(steep.get, left.get), () => {
      // in quarters of 4: π is QUARTER_PI
      const angle = wide(f);
      const sum = wide(f, high(QUARTER_PI >> 1n), low(QUARTER_PI >> 1n));
      d.pair(f, pairOf(angle), 'f80.shiftJam', t.hi.get, t.lo.get, i32.sub(i32.const(2), e.get));
      f.if(
        steep.get,
        () =>
          f.if(
            left.get,
            () => addTo(f, sum, angle.hi.get, angle.lo.get),
            () => subtractFrom(f, sum, angle.hi.get, angle.lo.get),
          ),
        () => {
          f.set(sum.hi, high(QUARTER_PI));
          f.set(sum.lo, low(QUARTER_PI));
          subtractFrom(f, sum, angle.hi.get, angle.lo.get);
        },
      );
      f.set(t.hi, sum.hi.get);
      f.set(t.lo, sum.lo.get);
      f.set(e, i32.const(2));
      normalizeWide(f, t, e);
    });
    round(i32.add(e.get, i32.const(BIAS - 1)), t);
  });
}
