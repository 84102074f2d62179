import { call, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { c, HALF, infinity, loadMxcsr, MXCSR, n, quietBit, raise, SINGLE } from './format.ts';
import { type Core, defineRound, denormalFlag, isNan, isZero, normalise, signed, signOf, unpack } from './softfloat.ts';

/**
 * Half precision, to and from which F16C converts.
 *
 * Source  SDM 1 14.4 "Half-Precision Floating-Point Conversion"; SDM 2D 6.1 "VCVTPH2PS", "VCVTPS2PH".
 */

/** (bits) → bits. Exact; a denormal is no exception and DAZ has no say: only a signalling NaN raises IE. */
function defineToSingle(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('f16.to.f32', [I64], [I64]);
  const [a] = f.parameters as [Local];
  const noDaz = f.let(n(0));
  const x = unpack(f, HALF, a, noDaz);
  const sign = f.let(signOf(HALF, a.get));
  const widen = BigInt(SINGLE.fraction - HALF.fraction);
  f.if(i32.eq(x.exponent.get, n(HALF.exponentMax)), () => {
    const fraction = f.let(i64.shl(x.fraction.get, i64.const(Number(widen))));
    f.if(isNan(HALF, x), () => {
      f.if(i64.eqz(i64.and(a.get, c(quietBit(HALF)))), () => raise(f, MXCSR.IE));
      f.set(fraction, i64.or(fraction.get, c(quietBit(SINGLE))));
    });
    f.ret(signed(SINGLE, sign.get, i64.or(c(infinity(SINGLE)), fraction.get)));
  });
  f.if(isZero(x), () => f.ret(signed(SINGLE, sign.get, i64.const(0))));
  const { exponent, sig } = normalise(f, HALF, x);
  const biased = i64.extendI32U(i32.add(exponent.get, n(SINGLE.bias - HALF.bias)));
  // The leading bit at 62 goes to bit 23, where it would count as one of the exponent
  const fraction = i64.and(i64.shrU(sig.get, i64.const(62 - SINGLE.fraction)), c((1n << BigInt(SINGLE.fraction)) - 1n));
  f.ret(signed(SINGLE, sign.get, i64.or(i64.shl(biased, i64.const(SINGLE.fraction)), fraction)));
  return f;
}

/** (bits, rounding control) → bits. */
function defineFromSingle(m: ModuleBuilder, { nan }: Core): FunctionBuilder {
  const round = defineRound(m, HALF);
  const f = m.func('f32.to.f16', [I64, I32], [I64]);
  const [a, rc] = f.parameters as [Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, SINGLE, a, mxcsr);
  const sign = f.let(signOf(SINGLE, a.get));
  f.if(i32.eq(x.exponent.get, n(SINGLE.exponentMax)), () => {
    const fraction = f.let(i64.const(0));
    f.if(isNan(SINGLE, x), () => {
      const quiet = i64.and(call(nan, a.get, a.get), c((1n << BigInt(SINGLE.fraction)) - 1n));
      f.set(fraction, i64.shrU(quiet, i64.const(SINGLE.fraction - HALF.fraction)));
    });
    f.ret(signed(HALF, sign.get, i64.or(c(infinity(HALF)), fraction.get)));
  });
  f.if(isZero(x), () => f.ret(signed(HALF, sign.get, i64.const(0))));
  raise(f, denormalFlag(x));
  const { exponent, sig } = normalise(f, SINGLE, x);
  f.ret(call(round, sign.get, i32.add(exponent.get, n(HALF.bias - SINGLE.bias)), sig.get, rc.get));
  return f;
}

export const defineHalf = (m: ModuleBuilder, single: Core): FunctionBuilder[] => [
  defineToSingle(m),
  defineFromSingle(m, single),
];
