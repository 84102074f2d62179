import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { type Definer, flag, ONE64, ZERO, ZERO64 } from './f80-format.ts';

/**
 * 128-bit fractions, in which the transcendental functions are computed: 62 to 64 bits more than a result has.
 *
 * A `Wide` (high, low) is a fraction of 2^128. Where it also has an exponent, its value is fraction * 2^exponent.
 * Products and quotients are truncated: each is less than 4 units of 2^-128 too small.
 */
export interface Wide {
  readonly hi: Local;
  readonly lo: Local;
}

export const wide = (f: FunctionBuilder, hi?: Expr, lo?: Expr): Wide => ({
  hi: hi ? f.let(hi) : f.local(I64),
  lo: lo ? f.let(lo) : f.local(I64),
});
export const pairOf = (w: Wide): readonly [Local, Local] => [w.hi, w.lo];

export const high = (x: bigint): Expr => i64.big(x >> 64n);
export const low = (x: bigint): Expr => i64.big(BigInt.asUintN(64, x));

/** a ← a + b */
export function addTo(f: FunctionBuilder, a: Wide, bHi: Expr, bLo: Expr): void {
  const lo = f.let(bLo);
  f.set(a.lo, i64.add(a.lo.get, lo.get));
  f.set(a.hi, i64.add(i64.add(a.hi.get, bHi), flag(i64.ltU(a.lo.get, lo.get))));
  f.release(lo);
}

/** a ← a - b */
export function subtractFrom(f: FunctionBuilder, a: Wide, bHi: Expr, bLo: Expr): void {
  const lo = f.let(bLo);
  const borrow = f.let(flag(i64.ltU(a.lo.get, lo.get)));
  f.set(a.lo, i64.sub(a.lo.get, lo.get));
  f.set(a.hi, i64.sub(i64.sub(a.hi.get, bHi), borrow.get));
  f.release(lo);
  f.release(borrow);
}

/** Shifts `a` (not 0) left until its top bit is set, and takes the places from `exponent`. */
export function normalizeWide(f: FunctionBuilder, a: Wide, exponent: Local): void {
  f.if(i64.eqz(a.hi.get), () => {
    f.set(a.hi, a.lo.get);
    f.set(a.lo, ZERO64);
    f.set(exponent, i32.sub(exponent.get, i32.const(64)));
  });
  const n = f.let(i64.clz(a.hi.get));
  f.if(i64.ne(n.get, ZERO64), () => {
    f.set(a.hi, i64.or(i64.shl(a.hi.get, n.get), i64.shrU(a.lo.get, i64.sub(i64.const(64), n.get))));
    f.set(a.lo, i64.shl(a.lo.get, n.get));
    f.set(exponent, i32.sub(exponent.get, i32.wrap(n.get)));
  });
  f.release(n);
}

/** Smallest change downwards. */
export const justBelow = (f: FunctionBuilder, a: Wide): void => subtractFrom(f, a, ZERO64, ONE64);

export const less = (aHi: Expr, aLo: Expr, bHi: Expr, bLo: Expr): Expr =>
  i32.or(i64.ltU(aHi, bHi), i32.and(i64.eq(aHi, bHi), i64.ltU(aLo, bLo)));

const FOUR = [I64, I64, I64, I64] as const;
const TWO = [I64, I64] as const;

/** 1/denominator(k), halved: the top bit stands for 1. */
const coefficient = (denominator: bigint): bigint => (1n << 127n) / denominator;

export function defineFixed(d: Definer): void {
  d.define('fx.mul', FOUR, TWO, (f) => {
    const [ah, al, bh, bl] = f.parameters as [Local, Local, Local, Local];
    const r = wide(f, d.call('f80.mulHigh', ah.get, bh.get), i64.mul(ah.get, bh.get));
    addTo(f, r, ZERO64, d.call('f80.mulHigh', ah.get, bl.get));
    addTo(f, r, ZERO64, d.call('f80.mulHigh', al.get, bh.get));
    f.ret(r.hi.get, r.lo.get);
  });

  // (n, d with n < d) → n / d, bit by bit
  d.define('fx.div', FOUR, TWO, (f) => {
    const [nh, nl, dh, dl] = f.parameters as [Local, Local, Local, Local];
    const n = { hi: nh, lo: nl };
    const q = wide(f, ZERO64, ZERO64);
    const count = f.let(i32.const(128));
    const out = f.local(I64);
    f.loop((again) => {
      f.set(out, i64.shrU(nh.get, i64.const(63)));
      f.set(nh, i64.or(i64.shl(nh.get, ONE64), i64.shrU(nl.get, i64.const(63))));
      f.set(nl, i64.shl(nl.get, ONE64));
      f.set(q.hi, i64.or(i64.shl(q.hi.get, ONE64), i64.shrU(q.lo.get, i64.const(63))));
      f.set(q.lo, i64.shl(q.lo.get, ONE64));
      const fits = i32.or(i32.wrap(out.get), i32.eqz(less(nh.get, nl.get, dh.get, dl.get)));
      f.if(fits, () => {
        subtractFrom(f, n, dh.get, dl.get);
        f.set(q.lo, i64.or(q.lo.get, ONE64));
      });
      f.set(count, i32.sub(count.get, i32.const(1)));
      f.brIf(again, count.get);
    });
    f.ret(q.hi.get, q.lo.get);
  });

  /** (z) → half of the sum of (±z)^k / denominator(k), by Horner's rule */
  const series = (name: string, terms: number, alternating: boolean, denominator: (k: number) => bigint): void =>
    d.define(name, TWO, TWO, (f) => {
      const [zh, zl] = f.parameters as [Local, Local];
      const last = coefficient(denominator(terms - 1));
      const p = wide(f, high(last), low(last));
      for (let k = terms - 2; k >= 0; k--) {
        d.pair(f, pairOf(p), 'fx.mul', p.hi.get, p.lo.get, zh.get, zl.get);
        const c = coefficient(denominator(k));
        if (alternating) {
          const next = wide(f, high(c), low(c));
          subtractFrom(f, next, p.hi.get, p.lo.get);
          f.set(p.hi, next.hi.get);
          f.set(p.lo, next.lo.get);
          f.release(next.hi);
          f.release(next.lo);
        } else addTo(f, p, high(c), low(c));
      }
      f.ret(p.hi.get, p.lo.get);
    });
  const factorial = (n: number): bigint => (n < 2 ? 1n : BigInt(n) * factorial(n - 1));
  // Terms left out are below 2^-84: z ≤ 0.617 for sine and cosine, 0.694 for exponentials, 0.0295 for the logarithm
  // and 2^-11.9 for the arc tangent.
  series('fx.sine', 13, true, (k) => factorial(2 * k + 1));
  series('fx.cosine', 14, true, (k) => factorial(2 * k));
  series('fx.exponential', 24, false, (k) => factorial(k + 1));
  series('fx.exponentialDown', 24, true, (k) => factorial(k + 1));
  series('fx.logarithm', 18, false, (k) => BigInt(2 * k + 1));
  series('fx.arcTangent', 9, true, (k) => BigInt(2 * k + 1));

  // (k 0–32) → atan(k/32)
  d.define('fx.arcTangentOf', [I32], TWO, (f) => {
    const [k] = f.parameters as [Local];
    const values = Array.from({ length: 33 }, (_, n) => arcTangent(BigInt(n), 32n));
    const hi = f.let(ZERO64);
    const lo = f.let(ZERO64);
    values.forEach((x, n) => {
      f.if(i32.eq(k.get, i32.const(n)), () => f.ret(high(x), low(x)));
    });
    f.ret(hi.get, lo.get);
  });

  // (hi, lo, exponent) → fraction without exponent: shifted right by -exponent ≥ 0
  d.define('fx.align', [I64, I64, I32], TWO, (f) => {
    const [hi, lo, exponent] = f.parameters as [Local, Local, Local];
    const r = wide(f);
    d.pair(f, pairOf(r), 'f80.shiftJam', hi.get, lo.get, i32.sub(ZERO, exponent.get));
    f.ret(r.hi.get, r.lo.get);
  });
}

/** atan(n/m) * 2^128 by Euler's series, for n ≤ m. */
function arcTangent(n: bigint, m: bigint): bigint {
  const GUARD = 40n;
  const squares = n * n + m * m;
  let term = ((n * m) << (128n + GUARD)) / squares;
  let sum = 0n;
  for (let k = 1n; term > 0n; k++) {
    sum += term;
    term = (term * 2n * k * n * n) / ((2n * k + 1n) * squares);
  }
  return sum >> GUARD;
}
