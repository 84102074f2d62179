/**
 * Reproducible randomness, and values of the kinds in which instructions go wrong: all bits equal, one bit, the ends
 * of each width's range, and every class of floating-point number.
 */

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in 0 … 2^32-1: Mulberry32. */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** Uniform in 0 … count-1. */
  below(count: number): number {
    return Math.floor((this.u32() / 0x1_0000_0000) * count);
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }
}

const MASK_64 = (1n << 64n) - 1n;

/** A 64-bit value with something interesting in its low `bits`. */
export function integer(random: Random, bits = random.pick([8, 16, 32, 64])): bigint {
  const width = BigInt(bits);
  const half = 1n << (width - 1n);
  const low = (() => {
    switch (random.below(6)) {
      case 0:
        return random.pick([0n, 1n, -1n, half, half - 1n, half + 1n, -2n, 2n]);
      case 1:
        return 1n << BigInt(random.below(bits));
      case 2:
        return BigInt(random.below(20)) - 5n;
      case 3:
        return random.u64() >> BigInt(random.below(64));
      default:
        return random.u64();
    }
  })();
  const mask = (1n << width) - 1n;
  const upper = random.pick([0n, MASK_64, random.u64()]) & ~mask;
  return (upper | (low & mask)) & MASK_64;
}

/** Exponent and mantissa widths of the IEEE 754 binary interchange formats. */
export interface FloatFormat {
  readonly exponent: number;
  readonly mantissa: number;
}
export const FLOAT_32: FloatFormat = { exponent: 8, mantissa: 23 };
export const FLOAT_64: FloatFormat = { exponent: 11, mantissa: 52 };

/** Bits of a floating-point number of any class. */
export function float(random: Random, { exponent, mantissa }: FloatFormat): bigint {
  const sign = BigInt(random.below(2)) << BigInt(exponent + mantissa);
  const exponentMax = (1n << BigInt(exponent)) - 1n;
  const bias = exponentMax >> 1n;
  const mantissaMask = (1n << BigInt(mantissa)) - 1n;
  const fraction = () =>
    random.pick([0n, 1n, mantissaMask, 1n << BigInt(random.below(mantissa)), random.u64(), random.u64()]) &
    mantissaMask;
  const make = (e: bigint, m: bigint) => sign | (e << BigInt(mantissa)) | m;
  const quiet = 1n << BigInt(mantissa - 1);
  switch (random.below(12)) {
    case 0:
      return make(0n, 0n);
    case 1:
      return make(0n, fraction()); // denormal or zero
    case 2:
      return make(exponentMax, 0n); // infinity
    case 3:
      return make(exponentMax, quiet | fraction());
    case 4:
      return make(exponentMax, (fraction() & ~quiet) | 1n); // signalling NaN
    case 5:
      return make(1n, fraction()); // smallest normal numbers
    case 6:
      return make(exponentMax - 1n, fraction()); // largest
    case 7: // where conversions to integers overflow
      return make(
        bias + BigInt(random.pick([7, 8, 15, 16, 31, 32, 62, 63, 64].filter((e) => BigInt(e) <= bias))),
        fraction(),
      );
    case 8:
      return make(BigInt(random.u32()) % exponentMax, fraction());
    default: // near 1, so that two of them interact
      return make(bias + BigInt(random.below(64) - 32), fraction());
  }
}

/** The ten bytes of an x87 register: SDM 1 8.2.2 "Unsupported Double Extended-Precision … Encodings" included. */
export function extended(random: Random): { mantissa: bigint; signExponent: number } {
  const sign = random.below(2) << 15;
  const integerBit = 1n << 63n;
  const fraction = () =>
    random.pick([0n, 1n, integerBit - 1n, 1n << BigInt(random.below(63)), random.u64(), random.u64()]) &
    (integerBit - 1n);
  const make = (exponent: number, mantissa: bigint) => ({ mantissa, signExponent: sign | exponent });
  switch (random.below(14)) {
    case 0:
      return make(0, 0n);
    case 1:
      return make(0, fraction()); // denormal
    case 2:
      return make(0, integerBit | fraction()); // pseudo-denormal
    case 3:
      return make(0x7fff, integerBit); // infinity
    case 4:
      return make(0x7fff, integerBit | (1n << 62n) | fraction());
    case 5:
      return make(0x7fff, integerBit | (fraction() & ~(1n << 62n)) | 1n); // signalling NaN
    case 6:
      return make(random.pick([0x7fff, 1 + random.below(0x7ffe)]), fraction()); // unsupported: integer bit missing
    case 7:
      return make(random.pick([1, 2, 0x7ffe, 0x7ffd]), integerBit | fraction());
    case 8:
      return make(0x3fff + random.pick([14, 15, 16, 30, 31, 32, 62, 63, 64]), integerBit | fraction());
    case 9: {
      // A small integer or half of one: rounding to integers, exact results.
      const value = BigInt(1 + random.below(1000));
      const length = value.toString(2).length;
      return make(0x3fff + length - 1 - random.below(3), value << BigInt(64 - length));
    }
    case 10:
      return make(random.below(0x7fff), integerBit | fraction());
    default:
      return make(0x3fff + random.below(128) - 64, integerBit | fraction());
  }
}
