import { type Expr, f32, f64, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { c, indefinite, infinity, n, quietBit, SINGLE, signMask } from './format.ts';

/**
 * RCPxS and RSQRTxS: estimates with a relative error of at most 1.5 · 2^-12. They raise nothing and ignore MXCSR:
 * denormals are zeros, tiny results are zero. SDM 2B 4.3 "RCPPS", "RSQRTPS".
 *
 * Which estimate is up to the processor (the manual says so, and processors differ). Ours: the operand's upper twelve
 * fraction bits name an interval; the result for its middle, rounded to twelve fraction bits. The error is below
 * 2^-13 from the interval and 2^-13 from rounding.
 */
export function defineEstimate(m: ModuleBuilder, which: 'rcp' | 'rsqrt'): FunctionBuilder {
  const f = m.func(`f32.${which}`, [I64], [I64]);
  const [a] = f.parameters as [Local];
  const sign = f.let(i64.and(a.get, c(signMask(SINGLE))));
  const magnitude = f.let(i64.xor(a.get, sign.get));
  const signedValue = (value: bigint): Expr => i64.or(sign.get, c(value));
  f.if(i64.gtU(magnitude.get, c(infinity(SINGLE))), () => f.ret(i64.or(a.get, c(quietBit(SINGLE)))));
  f.if(i64.ltU(magnitude.get, c(1n << 23n)), () => f.ret(signedValue(infinity(SINGLE))));
  if (which === 'rsqrt') f.if(i64.ne(sign.get, i64.const(0)), () => f.ret(c(indefinite(SINGLE))));
  f.if(i64.eq(magnitude.get, c(infinity(SINGLE))), () => f.ret(sign.get));
  const middle = i64.or(i64.and(magnitude.get, c(~0x7ffn)), c(0x400n));
  const value = f.let(f64.promote(f32.reinterpretI32(i32.wrap(middle))));
  const estimate = f64.div(f64.const(1), which === 'rcp' ? value.get : f64.sqrt(value.get));
  const rounded = f.let(
    f64.reinterpretI64(i64.and(i64.add(i64.reinterpretF64(estimate), c(1n << 39n)), c(-(1n << 40n)))),
  );
  const tiny = f64.lt(rounded.get, f64.const(2 ** -126));
  const bits = i32.reinterpretF32(f32.demote(rounded.get));
  f.ret(i64.or(sign.get, i64.extendI32U(select(tiny, n(0), bits))));
  return f;
}
