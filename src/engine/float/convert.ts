import { call, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { c, infinity, loadMxcsr, MXCSR, n, RC, raise, shiftRightJam, signMask } from './format.ts';
import { bitsOf, type Core, denormalFlag, isNan, isZero, native, normalise, ops, signOf, unpack } from './softfloat.ts';

/**
 * Conversions and roundings to integers.
 *
 * Sources  SDM 1 4.9.1 "Floating-Point Exception Conditions", Table 11-1 "Masked Responses of SSE/SSE2/SSE3
 * Instructions to Invalid Arithmetic Operations"; SDM 2A 3.2 "CVT…", SDM 2B 4.3 "ROUNDPD".
 */

/** Integer indefinite: SDM 1 4.2.1.1. 32-bit results stand zero-extended in the i64. */
const INTEGER_INDEFINITE = { 4: 0x8000_0000n, 8: 1n << 63n } as const;

/** (bits, rounding control) → integer of `bytes`. Raises IE or PE, never DE; DAZ makes a denormal an exact zero. */
function defineToInteger(m: ModuleBuilder, { format }: Core, bytes: 4 | 8): FunctionBuilder {
  const f = m.func(`${format.name}.toI${8 * bytes}`, [I64, I32], [I64]);
  const [a, rc] = f.parameters as [Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  f.if(isZero(x), () => f.ret(i64.const(0)));
  const sign = f.let(signOf(format, a.get));
  const { exponent, sig } = normalise(f, format, x);
  f.set(exponent, i32.sub(exponent.get, n(format.bias)));
  const outOfRange = (): void => {
    raise(f, MXCSR.IE);
    f.ret(c(INTEGER_INDEFINITE[bytes]));
  };
  // -2^63 is in range and the indefinite value at once; exponent 62 is the last that fits a magnitude of 63 bits.
  f.if(i32.gtS(exponent.get, n(62)), () => {
    if (bytes === 8) {
      f.if(i64.eq(a.get, c(signMask(format) | (BigInt(format.bias + 63) << BigInt(format.fraction)))), () =>
        f.ret(c(1n << 63n)),
      );
    }
    outOfRange();
  });
  // Below 1/4 a sticky bit says all there is to say.
  f.if(i32.ltS(exponent.get, n(-1)), () => {
    f.set(sig, i64.const(1));
    f.set(exponent, n(-1));
  });
  const shift = f.let(i64.extendI32U(i32.sub(n(62), exponent.get)));
  const whole = f.let(i64.shrU(sig.get, shift.get));
  const unit = f.let(i64.shl(i64.const(1), shift.get));
  const rest = f.let(i64.and(sig.get, i64.sub(unit.get, i64.const(1))));
  const half = i64.shrU(unit.get, i64.const(1));
  const up = f.local(I32);
  f.set(
    up,
    i32.or(i64.gtU(rest.get, half), i32.and(i64.eq(rest.get, half), i32.wrap(i64.and(whole.get, i64.const(1))))),
  );
  f.if(rc.get, () => f.set(up, i32.eq(rc.get, i32.sub(n(RC.UP), sign.get))));
  f.set(up, i32.and(up.get, i64.ne(rest.get, i64.const(0))));
  f.set(whole, i64.add(whole.get, i64.extendI32U(up.get)));
  const limit = (1n << BigInt(8 * bytes - 1)) - 1n;
  f.if(i64.gtU(whole.get, i64.add(c(limit), i64.extendI32U(sign.get))), outOfRange);
  f.if(i64.ne(rest.get, i64.const(0)), () => raise(f, MXCSR.PE));
  const value = select(sign.get, i64.sub(i64.const(0), whole.get), whole.get);
  f.ret(bytes === 4 ? i64.and(value, i64.halves(-1, 0)) : value);
  return f;
}

/** Signed integer → bits, rounded by MXCSR. */
function defineFromInteger(m: ModuleBuilder, { format, round }: Core): FunctionBuilder {
  const f = m.func(`${format.name}.fromI64`, [I64], [I64]);
  const [value] = f.parameters as [Local];
  f.if(i64.eqz(value.get), () => f.ret(i64.const(0)));
  const sign = f.let(i32.wrap(i64.shrU(value.get, i64.const(63))));
  const magnitude = f.let(select(sign.get, i64.sub(i64.const(0), value.get), value.get));
  const zeros = f.let(i64.clz(magnitude.get));
  const exponent = f.let(i32.sub(n(format.bias + 63), i32.wrap(zeros.get)));
  f.set(magnitude, i64.shl(magnitude.get, zeros.get));
  const one = f.let(n(1));
  f.ret(call(round, sign.get, exponent.get, shiftRightJam(magnitude, one)));
  return f;
}

/** One format to the other: widening is exact, narrowing rounds. A NaN keeps the top of its payload. */
function defineConvert(m: ModuleBuilder, from: Core, to: Core): FunctionBuilder {
  const f = m.func(`${from.format.name}.to.${to.format.name}`, [I64], [I64]);
  const [a] = f.parameters as [Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, from.format, a, mxcsr);
  const sign = f.let(signOf(from.format, a.get));
  const signBits = i64.shl(i64.extendI32U(sign.get), i64.const(to.format.signBit));
  f.if(i32.eq(x.exponent.get, n(from.format.exponentMax)), () => {
    f.if(isNan(from.format, x), () => {
      const quiet = f.let(call(from.nan, a.get, a.get));
      const payload = i64.shl(quiet.get, i64.const(63 - from.format.fraction + 1));
      // The payload's top at bit 63, then down to the other fraction's place.
      const fraction = i64.shrU(payload, i64.const(64 - to.format.fraction));
      f.ret(i64.or(i64.or(signBits, c(infinity(to.format))), fraction));
    });
    f.ret(i64.or(signBits, c(infinity(to.format))));
  });
  f.if(isZero(x), () => f.ret(signBits));
  raise(f, denormalFlag(x));
  const { exponent, sig } = normalise(f, from.format, x);
  const rebias = to.format.bias - from.format.bias;
  f.ret(call(to.round, sign.get, i32.add(exponent.get, n(rebias)), sig.get));
  return f;
}

/**
 * (bits, rounding control, 1: without PE) → rounded to an integer in the same format. WebAssembly's four roundings are
 * IEEE 754's, zero results keep their sign; DE is not raised (SDM 2B "ROUNDPD").
 */
function defineRoundToInteger(m: ModuleBuilder, { format, nan }: Core): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.roundInt`, [I64, I32, I32], [I64]);
  const [a, rc, quiet] = f.parameters as [Local, Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  f.if(isNan(format, x), () => f.ret(call(nan, a.get, a.get)));
  const value = f.let(native(format, a.get));
  const result = f.let(o.nearest(value.get));
  f.if(i32.eq(rc.get, n(RC.DOWN)), () => f.set(result, o.floor(value.get)));
  f.if(i32.eq(rc.get, n(RC.UP)), () => f.set(result, o.ceil(value.get)));
  f.if(i32.eq(rc.get, n(RC.ZERO)), () => f.set(result, o.trunc(value.get)));
  f.if(i32.and(o.ne(result.get, value.get), i32.eqz(quiet.get)), () => raise(f, MXCSR.PE));
  f.ret(bitsOf(format, result.get));
  return f;
}

export function defineConversions(m: ModuleBuilder, single: Core, double: Core): FunctionBuilder[] {
  const each = (core: Core): FunctionBuilder[] => [
    defineToInteger(m, core, 4),
    defineToInteger(m, core, 8),
    defineFromInteger(m, core),
    defineRoundToInteger(m, core),
  ];
  return [...each(single), ...each(double), defineConvert(m, single, double), defineConvert(m, double, single)];
}

/** How two numbers stand: one bit each, so that a predicate is a set of them. */
export const RELATION = { LESS: 1, EQUAL: 2, GREATER: 4, UNORDERED: 8 } as const;

/** (a, b, 1: a QNaN raises IE too) → one of RELATION. SDM 1 4.8.3.4 "NaNs". */
export function defineCompare(m: ModuleBuilder, { format, nan }: Core): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.compare`, [I64, I64, I32], [I32]);
  const [a, b, strict] = f.parameters as [Local, Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  f.if(i32.or(isNan(format, x), isNan(format, y)), () => {
    f.drop(call(nan, a.get, b.get));
    f.if(strict.get, () => raise(f, MXCSR.IE));
    f.ret(n(RELATION.UNORDERED));
  });
  raise(f, denormalFlag(x, y));
  const p = f.let(native(format, a.get));
  const q = f.let(native(format, b.get));
  f.ret(
    select(o.lt(p.get, q.get), n(RELATION.LESS), select(o.gt(p.get, q.get), n(RELATION.GREATER), n(RELATION.EQUAL))),
  );
  return f;
}

/**
 * MINxx and MAXxx: SDM 2B 4.3 "MINPD". Not IEEE's: the second operand unless the first is strictly less (greater); so
 * also for two zeros and for any NaN, which always raises IE.
 */
export function defineMinMax(m: ModuleBuilder, { format }: Core, which: 'min' | 'max'): FunctionBuilder {
  const o = ops(format);
  const f = m.func(`${format.name}.${which}`, [I64, I64], [I64]);
  const [a, b] = f.parameters as [Local, Local];
  const mxcsr = f.let(loadMxcsr());
  const x = unpack(f, format, a, mxcsr);
  const y = unpack(f, format, b, mxcsr);
  f.if(i32.or(isNan(format, x), isNan(format, y)), () => {
    raise(f, MXCSR.IE);
    f.ret(b.get);
  });
  raise(f, denormalFlag(x, y));
  const first = (which === 'min' ? o.lt : o.gt)(native(format, a.get), native(format, b.get));
  f.ret(select(first, a.get, b.get));
  return f;
}
