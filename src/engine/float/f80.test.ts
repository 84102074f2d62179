import { expect, test } from 'vitest';
import { S } from '../core/layout.ts';
import { X87Testbed } from '../isa/x87-testbed.ts';

/**
 * The transcendental functions against exact arithmetic: their results are the correctly rounded ones. Special cases
 * and everything else are compared with a real processor in isa/x87.test.ts.
 */
const PLACES = 420n;
const ONE = 1n << PLACES;
const mul = (a: bigint, b: bigint): bigint => (a * b) >> PLACES;
const div = (a: bigint, b: bigint): bigint => (a << PLACES) / b;

/** Sum of a series whose terms `next` derives, until they vanish. */
function series(first: bigint, next: (term: bigint, k: bigint) => bigint): bigint {
  let sum = 0n;
  let term = first;
  for (let k = 1n; term !== 0n && term !== -1n; k++) {
    sum += term;
    term = next(term, k);
  }
  return sum;
}
/** 2 atanh(f), a logarithm. */
function twiceAtanh(f: bigint): bigint {
  const z = mul(f, f);
  let sum = 0n;
  let power = f;
  for (let k = 1n; power !== 0n && power !== -1n; k += 2n) {
    sum += power / k;
    power = mul(power, z);
  }
  return 2n * sum;
}
const LN2 = twiceAtanh(ONE / 3n);
function ln(x: bigint): bigint {
  let n = 0n;
  let m = x;
  for (; m >= 2n * ONE; n++) m >>= 1n;
  for (; m < ONE; n--) m <<= 1n;
  return twiceAtanh(div(m - ONE, m + ONE)) + n * LN2;
}
const sine = (x: bigint): bigint => {
  const z = mul(x, x);
  return series(x, (term, k) => -mul(term, z) / (2n * k * (2n * k + 1n)));
};
const cosine = (x: bigint): bigint => {
  const z = mul(x, x);
  return series(ONE, (term, k) => -mul(term, z) / (2n * k * (2n * k - 1n)));
};
/** Euler's series, for |x| ≤ 1. */
const arcTangent = (x: bigint): bigint => {
  const d = ONE + mul(x, x);
  const r = div(mul(x, x), d);
  return series(div(x, d), (term, k) => (mul(term, r) * 2n * k) / (2n * k + 1n));
};
const PI = 4n * (4n * arcTangent(ONE / 5n) - arcTangent(ONE / 239n));
/** The π of argument reduction. */
const PI66 = (0xc90fdaa22168c234cn << PLACES) >> 66n;

/** sin(x + shift π/2) */
function sinusoid(x: bigint, shift: number): bigint {
  const half = PI66 / 2n;
  let n = x / half;
  let r = x - n * half;
  if (r > half / 2n) {
    r -= half;
    n++;
  } else if (r < -half / 2n) {
    r += half;
    n--;
  }
  const quadrant = (Number(((n % 4n) + 4n) % 4n) + shift) & 3;
  const value = quadrant & 1 ? cosine(r) : sine(r);
  return quadrant & 2 ? -value : value;
}

const abs = (x: bigint): bigint => (x < 0n ? -x : x);
function angle(y: bigint, x: bigint): bigint {
  const steep = abs(y) > abs(x);
  const acute = steep ? PI / 2n - arcTangent(div(abs(x), abs(y))) : arcTangent(div(abs(y), abs(x)));
  const whole = x < 0n ? PI - acute : acute;
  return y < 0n ? -whole : whole;
}

type Number80 = readonly [significand: bigint, signExponent: number];
function exactly([significand, se]: Number80): bigint {
  const shift = BigInt((se & 0x7fff) - 0x3fff - 63) + PLACES;
  const magnitude = shift >= 0n ? BigInt.asUintN(64, significand) << shift : BigInt.asUintN(64, significand) >> -shift;
  return se & 0x8000 ? -magnitude : magnitude;
}

type Unary = (sig: bigint, se: number) => [bigint, number];
type Binary = (ySig: bigint, ySe: number, xSig: bigint, xSe: number) => [bigint, number];
const NAMES = ['f80.f2xm1', 'f80.fyl2x', 'f80.fyl2xp1', 'f80.fsin', 'f80.fcos', 'f80.fptan', 'f80.fpatan'];
const bed = new X87Testbed([], NAMES);
const fn = <T>(name: string): T => bed.exports[`export ${name}`] as T;
bed.view.setUint16(S.FCW, 0x37f, true);

let seed = 12345;
const below = (limit: number): number => {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return (seed >>> 0) % limit;
};
const significand = (): bigint => (BigInt(below(2 ** 32)) << 32n) | BigInt(below(2 ** 32)) | 0x8000_0000_0000_0000n;
/** Exponent from `lowest` to `highest`, of either sign. */
const number = (lowest: number, highest: number, signed = true): Number80 => [
  significand(),
  (0x3fff + lowest + below(highest - lowest + 1)) | (signed ? below(2) << 15 : 0),
];

/** Distance from the exact value, in units of the last place of the result. */
function error(result: Number80, exact: bigint): number {
  const ulp = 1n << (BigInt((result[1] & 0x7fff) - 0x3fff - 63) + PLACES);
  return Number((abs(exactly(result) - exact) * 1_000_000n) / ulp) / 1_000_000;
}

function worst(cases: number, run: () => readonly [Number80, bigint]): number {
  let max = 0;
  for (let i = 0; i < cases; i++) {
    const [result, exact] = run();
    max = Math.max(max, error(result, exact));
  }
  return max;
}

const unary = (name: string, argument: () => Number80, exact: (x: bigint) => bigint): void => {
  test(`${name} gives the number nearest to the exact value`, () => {
    const max = worst(150, () => {
      const x = argument();
      return [fn<Unary>(`f80.${name}`)(...x), exact(exactly(x))];
    });
    expect(max).toBeLessThanOrEqual(0.5);
    expect(max).toBeGreaterThan(0.4);
  });
};
const binary = (
  name: string,
  arguments_: () => [Number80, Number80],
  exact: (y: bigint, x: bigint) => bigint,
): void => {
  test(`${name} gives the number nearest to the exact value`, () => {
    const max = worst(150, () => {
      const [y, x] = arguments_();
      return [fn<Binary>(`f80.${name}`)(...y, ...x), exact(exactly(y), exactly(x))];
    });
    expect(max).toBeLessThanOrEqual(0.5);
    expect(max).toBeGreaterThan(0.4);
  });
};

unary(
  'f2xm1',
  () => number(below(3) ? -6 : -70, -1),
  (x) => {
    const y = mul(x, LN2);
    return series(y, (term, k) => mul(term, y) / (k + 1n));
  },
);
unary(
  'fsin',
  () => number(below(3) ? -6 : -60, below(3) ? 2 : 62),
  (x) => sinusoid(x, 0),
);
unary(
  'fcos',
  () => number(below(3) ? -6 : -30, below(3) ? 2 : 62),
  (x) => sinusoid(x, 1),
);
unary(
  'fptan',
  () => number(below(3) ? -6 : -60, below(3) ? 2 : 62),
  (x) => div(sinusoid(x, 0), sinusoid(x, 1)),
);
binary(
  'fyl2x',
  () => [number(-4, 4), number(-4, 4, false)],
  (y, x) => mul(y, div(ln(x), LN2)),
);
binary(
  'fyl2xp1',
  () => [number(-4, 4), number(below(3) ? -6 : -70, -3)],
  (y, x) => mul(y, div(ln(ONE + x), LN2)),
);
binary('fpatan', () => [number(-8, 8), number(-8, 8)], angle);
