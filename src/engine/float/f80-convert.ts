import { type Callee, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import {
  BIAS,
  callPair,
  type Definer,
  EXC,
  EXPONENT,
  exponent,
  FSW,
  flag,
  INTEGER_BIT,
  isZero,
  masked,
  NARROW_DENORMAL,
  normalize,
  ONE_VALUE,
  ONE64,
  parameter,
  QUIET_BIT,
  raise,
  roundingControl,
  sign,
  type Value,
  value,
  ZERO,
  ZERO64,
} from './f80-format.ts';
import { overflowsToInfinity, roundsUp } from './f80-round.ts';

/** Formats of memory. SDM 1 4.2.2 "Floating-Point Data Types", table 4-3. */
interface Narrow {
  readonly fractionBits: number;
  readonly exponentBits: number;
}
const F32: Narrow = { fractionBits: 23, exponentBits: 8 };
const F64: Narrow = { fractionBits: 52, exponentBits: 11 };

/** Pieces of a number in a narrower format; those without a local are to be used once or twice. */
function widenedParts(f: FunctionBuilder, bits: Local, { fractionBits, exponentBits }: Narrow) {
  const top = (1 << exponentBits) - 1;
  const exp = f.let(i32.and(i32.wrap(i64.shrU(bits.get, i64.const(fractionBits))), i32.const(top)));
  const negative = sign(i32.wrap(i64.shrU(bits.get, i64.const(fractionBits + exponentBits - 15))));
  return {
    exp,
    negative,
    isNormal: i32.ltU(i32.sub(exp.get, i32.const(1)), i32.const(top - 1)),
    /** The significand of a normal number. */
    whole: i64.or(i64.shl(bits.get, i64.const(63 - fractionBits)), INTEGER_BIT),
    se: i32.or(negative, i32.add(exp.get, i32.const(BIAS - (top >> 1)))),
  };
}

/** 4 or 8 bytes of memory as a value: f80.fromF32, f80.fromF64, with the frequent case written out. */
export function widened(f: FunctionBuilder, bits: Local, bytes: number, callee: Callee): Value {
  const into: Value = { sig: f.local(I64), se: f.local(I32) };
  const { isNormal, whole, se } = widenedParts(f, bits, bytes === 4 ? F32 : F64);
  f.if(
    isNormal,
    () => {
      f.set(into.sig, whole);
      f.set(into.se, se);
    },
    () => callPair(f, into, callee, bits.get),
  );
  return into;
}

/**
 * Conversions between double extended precision and the formats of memory: SDM 1 4.8 "Real Numbers and Floating-Point
 * Formats", 4.7 "BCD and Packed BCD Integers", 8.3.3 "Data Transfer Instructions".
 */
export function defineConversions(d: Definer): void {
  // (bits) → value, exactly. SNaNs stay, denormals carry NARROW_DENORMAL.
  const widen = (name: string, { fractionBits, exponentBits }: Narrow): void =>
    d.define(name, [I64], [I64, I32], (f) => {
      const [bits] = f.parameters as [Local];
      const top = (1 << exponentBits) - 1;
      const parts = widenedParts(f, bits, { fractionBits, exponentBits });
      const { exp, negative, whole } = parts;
      f.if(parts.isNormal, () => f.ret(whole, parts.se));
      f.if(exp.get, () => f.ret(whole, i32.or(negative, i32.const(EXPONENT))));
      const sig = f.let(i64.and(whole, i64.halves(-1, 0x7fff_ffff)));
      f.if(i64.eqz(sig.get), () => f.ret(ZERO64, negative));
      const shift = f.let(i64.clz(sig.get));
      f.ret(
        i64.shl(sig.get, shift.get),
        i32.or(
          i32.or(negative, i32.const(NARROW_DENORMAL)),
          i32.sub(i32.const(BIAS - (top >> 1) + 1), i32.wrap(shift.get)),
        ),
      );
    });
  widen('f80.fromF32', F32);
  widen('f80.fromF64', F64);

  // (value) → bits of the narrower format, rounded. What FST does: no DE.
  const narrow = (name: string, { fractionBits, exponentBits }: Narrow): void =>
    d.define(name, ONE_VALUE, [I64], (f) => {
      const a = parameter(f, 0);
      const top = (1 << exponentBits) - 1;
      const width = fractionBits + 1;
      const below = i64.const(64 - width);
      const negative = f.let(sign(a.se.get));
      const signBit = f.let(i64.shl(i64.extendI32U(negative.get), i64.const(fractionBits + exponentBits - 15)));
      const exp = f.let(exponent(a.se.get));
      const infinity = i64.halves(
        fractionBits >= 32 ? 0 : top << fractionBits,
        fractionBits >= 32 ? top << (fractionBits - 32) : 0,
      );
      const fraction = i64.shrU(i64.and(a.sig.get, i64.halves(-1, 0x7fff_ffff)), below);
      f.if(d.call('f80.unsupported', a.sig.get, a.se.get), () => {
        raise(f, FSW.IE);
        f.ret(i64.shl(i64.const(-1), i64.const(fractionBits - 1)));
      });
      f.if(i32.eq(exp.get, i32.const(EXPONENT)), () => {
        f.if(d.call('f80.isNaN', a.sig.get, a.se.get), () => {
          f.if(i64.eqz(i64.and(a.sig.get, QUIET_BIT)), () => raise(f, FSW.IE));
          f.set(a.sig, i64.or(a.sig.get, QUIET_BIT));
        });
        f.ret(i64.or(i64.or(signBit.get, infinity), fraction));
      });
      f.if(isZero(a), () => f.ret(signBit.get));
      normalize(f, a.sig, exp);
      f.set(exp, i32.sub(exp.get, i32.const(BIAS - (top >> 1))));
      const hi = f.local(I64);
      const lo = f.local(I64);
      const up = f.local(I64);
      const tiny = f.local(I32);
      /** Splits the significand into integer `hi` of `width` bits and `lo`, rounds into `hi`. */
      const round = (): void => {
        f.set(lo, i64.or(i64.shl(hi.get, i64.const(width)), flag(i64.ne(lo.get, ZERO64))));
        f.set(hi, i64.shrU(hi.get, below));
        f.set(up, i64.extendI32U(roundsUp(f, negative, i64.and(hi.get, ONE64), lo)));
        f.set(hi, i64.add(hi.get, up.get));
      };
      const carried = i64.ne(i64.shrU(hi.get, i64.const(width)), ZERO64);
      const inexact = (): void => {
        f.if(i64.ne(lo.get, ZERO64), () => {
          raise(f, FSW.PE);
          f.if(i32.wrap(up.get), () => raise(f, FSW.C1));
        });
      };
      f.set(hi, a.sig.get);
      f.if(i32.leS(exp.get, ZERO), () => {
        round();
        f.set(tiny, i32.or(i32.ltS(exp.get, ZERO), i32.eqz(carried)));
        // Unmasked, the destination stays as it is, and MEASURED on AMD Zen 4 there is no PE besides.
        f.if(i32.and(tiny.get, i32.eqz(masked(FSW.UE))), () => {
          raise(f, FSW.UE);
          f.ret(ZERO64);
        });
        d.pair(f, [hi, lo], 'f80.shiftJam', a.sig.get, ZERO64, i32.sub(i32.const(1), exp.get));
        round();
        inexact();
        f.if(i32.and(tiny.get, i64.ne(lo.get, ZERO64)), () => raise(f, FSW.UE));
        // A carry into the integer bit is the smallest normal number, as it should be.
        f.ret(i64.or(signBit.get, hi.get));
      });
      f.set(lo, ZERO64);
      round();
      f.if(carried, () => f.set(exp, i32.add(exp.get, i32.const(1))));
      f.if(i32.geS(exp.get, i32.const(top)), () => {
        raise(f, FSW.OE);
        f.if(i32.eqz(masked(FSW.OE)), () => f.ret(ZERO64));
        raise(f, FSW.PE);
        f.if(overflowsToInfinity(f, negative), () => {
          raise(f, FSW.C1);
          f.ret(i64.or(signBit.get, infinity));
        });
        f.ret(i64.or(signBit.get, i64.sub(infinity, ONE64)));
      });
      inexact();
      f.ret(
        i64.or(
          i64.or(signBit.get, i64.shl(i64.extendI32U(exp.get), i64.const(fractionBits))),
          i64.and(hi.get, i64.sub(i64.shl(ONE64, i64.const(fractionBits)), ONE64)),
        ),
      );
    });
  narrow('f80.toF32', F32);
  narrow('f80.toF64', F64);

  // (value, bits 16, 32 or 64, rounding control) → signed integer; IE and the indefinite if it does not fit.
  // SDM 2A "FIST/FISTP—Store Integer"
  d.define('f80.toInteger', [I64, I32, I32, I32], [I64], (f) => {
    const a = parameter(f, 0);
    const width = f.parameters[2]!;
    const control = f.parameters[3]!;
    const limit = f.let(i64.shl(ONE64, i64.extendI32U(i32.sub(width.get, i32.const(1)))));
    const negative = f.let(sign(a.se.get));
    const hi = f.local(I64);
    const lo = f.local(I64);
    const up = f.local(I32);
    const indefinite = (): void => {
      raise(f, FSW.IE);
      f.ret(i64.sub(ZERO64, limit.get));
    };
    const places = f.let(i32.sub(i32.const(BIAS + 63), exponent(a.se.get)));
    f.if(i32.or(i32.ltS(places.get, ZERO), d.call('f80.unsupported', a.sig.get, a.se.get)), indefinite);
    d.pair(f, [hi, lo], 'f80.shiftJam', a.sig.get, ZERO64, places.get);
    f.set(up, roundsUp(f, negative, i64.and(hi.get, ONE64), lo, control.get));
    f.set(hi, i64.add(hi.get, i64.extendI32U(up.get)));
    f.if(i64.gtU(hi.get, i64.sub(limit.get, flag(i32.eqz(negative.get)))), indefinite);
    f.if(i64.ne(lo.get, ZERO64), () => raise(f, select(up.get, i32.const(FSW.PE | FSW.C1), i32.const(FSW.PE))));
    f.ret(select(negative.get, i64.sub(ZERO64, hi.get), hi.get));
  });

  // (value) → packed BCD: 16 digits, then two digits and the sign. SDM 2A "FBSTP—Store BCD Integer and Pop"
  d.define('f80.toBcd', ONE_VALUE, [I64, I32], (f) => {
    const a = parameter(f, 0);
    const magnitude = f.local(I64);
    const digits = f.let(ZERO64);
    const count = f.let(ZERO);
    const high = f.local(I32);
    const before = f.let(i32.load(ZERO, EXC));
    f.set(magnitude, d.call('f80.toInteger', a.sig.get, a.se.get, i32.const(64), roundingControl()));
    f.if(i64.ltS(magnitude.get, ZERO64), () => f.set(magnitude, i64.sub(ZERO64, magnitude.get)));
    f.if(i64.geU(magnitude.get, i64.const(10 ** 18)), () => {
      f.do(i32.store(ZERO, i32.or(before.get, i32.const(FSW.IE)), EXC));
      f.ret(i64.halves(0, 0xc000_0000), i32.const(0xffff));
    });
    f.loop((again) => {
      const ten = i64.const(10);
      f.set(digits, i64.or(i64.shrU(digits.get, i64.const(4)), i64.shl(i64.remU(magnitude.get, ten), i64.const(60))));
      f.set(magnitude, i64.divU(magnitude.get, ten));
      f.set(count, i32.add(count.get, i32.const(1)));
      f.brIf(again, i32.ltU(count.get, i32.const(16)));
    });
    f.set(
      high,
      i32.wrap(
        i64.or(i64.shl(i64.divU(magnitude.get, i64.const(10)), i64.const(4)), i64.remU(magnitude.get, i64.const(10))),
      ),
    );
    f.ret(digits.get, i32.or(high.get, sign(a.se.get)));
  });

  // (16 digits, two digits and the sign) → value. Digits above 9 are undefined.
  // MEASURED on AMD Zen 4: they count with their value. SDM 2A "FBLD—Load Binary Coded Decimal"
  d.define('f80.fromBcd', [I64, I32], [I64, I32], (f) => {
    const [digits, high] = f.parameters as [Local, Local];
    const sum = f.let(ZERO64);
    const count = f.let(ZERO);
    const nibble = (at: number): void =>
      f.set(
        sum,
        i64.add(
          i64.mul(sum.get, i64.const(10)),
          i64.extendI32U(i32.and(i32.shrU(high.get, i32.const(at)), i32.const(15))),
        ),
      );
    nibble(4);
    nibble(0);
    f.loop((again) => {
      f.set(sum, i64.add(i64.mul(sum.get, i64.const(10)), i64.shrU(digits.get, i64.const(60))));
      f.set(digits, i64.shl(digits.get, i64.const(4)));
      f.set(count, i32.add(count.get, i32.const(1)));
      f.brIf(again, i32.ltU(count.get, i32.const(16)));
    });
    const result = value(f);
    d.pair(f, result, 'f80.fromInteger', sum.get);
    f.ret(result.sig.get, i32.or(result.se.get, sign(high.get)));
  });
}
