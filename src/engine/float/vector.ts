import { call, type Expr, I32, i32, i64, V128, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { S, STATUS } from '../core/layout.ts';
import { DOUBLE, type Format, MXCSR, MXCSR_MASK_SHIFT, n, RAISED, STATE_BASE } from './format.ts';

/**
 * The operations on whole XMM registers, lane by lane, and the end of every SSE floating-point instruction.
 */

export const lanes = (format: Format): number => (format === DOUBLE ? 2 : 4);
export const shape = (format: Format): string => `${format.name}x${lanes(format)}`;

/** A lane's bits as an i64. */
export const lane = (format: Format, v: Expr, i: number): Expr =>
  format === DOUBLE ? v128.i64x2Extract(v, i) : i64.extendI32U(v128.i32x4Extract(v, i));
export const withLane = (format: Format, v: Expr, i: number, bits: Expr): Expr =>
  format === DOUBLE ? v128.i64x2Replace(v, i, bits) : v128.i32x4Replace(v, i, i32.wrap(bits));

/** A function on vectors that applies `scalar` to each lane (operands beyond the vectors are passed on to each). */
export function defineLanewise(
  m: ModuleBuilder,
  format: Format,
  name: string,
  vectors: 1 | 2,
  scalar: FunctionBuilder,
  results: 'values' | 'masks' = 'values',
): FunctionBuilder {
  const rest = scalar.params.slice(vectors);
  const f = m.func(`${shape(format)}.${name}`, [...Array<typeof V128>(vectors).fill(V128), ...rest], [V128]);
  const inputs = f.parameters.slice(0, vectors);
  const others = f.parameters.slice(vectors).map(({ get }) => get);
  const result = f.local(V128);
  f.set(result, inputs[0]!.get);
  for (let i = 0; i < lanes(format); i++) {
    const value = call(scalar, ...inputs.map(({ get }) => lane(format, get, i)), ...others);
    const bits = results === 'values' ? value : i64.sub(i64.const(0), i64.extendI32U(value));
    f.set(result, withLane(format, result.get, i, bits));
  }
  f.ret(result.get);
  return f;
}

/** (a, b) → even lanes subtracted, odd lanes added: ADDSUBPS, ADDSUBPD. */
export function defineAddSubtract(
  m: ModuleBuilder,
  format: Format,
  add: FunctionBuilder,
  subtract: FunctionBuilder,
): FunctionBuilder {
  const f = m.func(`${shape(format)}.addsub`, [V128, V128], [V128]);
  const [a, b] = f.parameters as [Local, Local];
  const result = f.let(a.get);
  for (let i = 0; i < lanes(format); i++) {
    const value = call(i & 1 ? add : subtract, lane(format, a.get, i), lane(format, b.get, i));
    f.set(result, withLane(format, result.get, i, value));
  }
  f.ret(result.get);
  return f;
}

/**
 * (a, b, immediate) → DPPS, DPPD: products of the lanes that bits 7:4 choose (else +0), summed in pairs, to the lanes
 * that bits 3:0 choose. Each stage is an operation of its own: what it raises unmasked keeps the next from running.
 * SDM 2A 3.2 "DPPS—Dot Product of Packed Single Precision Values", "SIMD Floating-Point Exceptions".
 */
export function defineDot(
  m: ModuleBuilder,
  format: Format,
  multiply: FunctionBuilder,
  add: FunctionBuilder,
  stops: FunctionBuilder,
): FunctionBuilder {
  const f = m.func(`${shape(format)}.dot`, [V128, V128, I32], [V128]);
  const [a, b, imm] = f.parameters as [Local, Local, Local];
  const [result] = dots(f, format, [[a, b]], imm, multiply, add, stops);
  f.ret(result!.get);
  return f;
}

/** (a, b, upper a, upper b, immediate) → VDPPS's lower half; the upper one is left in S.WIDE. Stages are of both halves. */
export function defineWideDot(
  m: ModuleBuilder,
  format: Format,
  multiply: FunctionBuilder,
  add: FunctionBuilder,
  stops: FunctionBuilder,
): FunctionBuilder {
  const f = m.func(`${shape(format)}.wideDot`, [V128, V128, V128, V128, I32], [V128]);
  const [a, b, c, d, imm] = f.parameters as [Local, Local, Local, Local, Local];
  const halves: [Local, Local][] = [
    [a, b],
    [c, d],
  ];
  const [low, high] = dots(f, format, halves, imm, multiply, add, stops);
  f.do(v128.store(STATE_BASE, high!.get, S.WIDE));
  f.ret(low!.get);
  return f;
}

function dots(
  f: FunctionBuilder,
  format: Format,
  halves: readonly (readonly [Local, Local])[],
  imm: Local,
  multiply: FunctionBuilder,
  add: FunctionBuilder,
  stops: FunctionBuilder,
): Local[] {
  const bit = (i: number): Expr => i32.and(i32.shrU(imm.get, n(i)), n(1));
  const check = (): void => f.if(call(stops), () => f.ret(halves[0]![0].get));
  const products = halves.map(([a, b]) =>
    Array.from({ length: lanes(format) }, (_, i) => {
      const product = f.let(i64.const(0));
      f.if(bit(4 + i), () => f.set(product, call(multiply, lane(format, a.get, i), lane(format, b.get, i))));
      return product;
    }),
  );
  check();
  const pairs = products.map((of) => {
    const sums: Local[] = [];
    for (let i = 0; i < of.length; i += 2) sums.push(f.let(call(add, of[i]!.get, of[i + 1]!.get)));
    return sums;
  });
  check();
  return pairs.map((of, half) => {
    const sum = of.length === 1 ? of[0]! : f.let(call(add, of[0]!.get, of[1]!.get));
    const result = f.let(halves[half]![0].get);
    for (let i = 0; i < lanes(format); i++) {
      const mask = i64.sub(i64.const(0), i64.extendI32U(bit(i)));
      f.set(result, withLane(format, result.get, i, i64.and(sum.get, mask)));
    }
    return result;
  });
}

/**
 * Ends an instruction: what was raised goes to MXCSR; unmasked, it becomes #XM (or #UD) and the destination must stay.
 * () → status.
 *
 * An unmasked IE, DE or ZE in any lane is detected before results are computed, so that OE, UE and PE are then not
 * reported for any. SDM 1 11.5.3 "Handling SIMD Floating-Point Exceptions in Software" and 11.5.2.
 */
export function defineCommit(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('float.commit', [], [I32]);
  const raised = f.let(i32.load(STATE_BASE, RAISED));
  f.if(i32.eqz(raised.get), () => f.ret(n(STATUS.NEXT)));
  f.do(i32.store(STATE_BASE, n(0), RAISED));
  const mxcsr = f.let(i32.load(STATE_BASE, S.MXCSR));
  const unmasked = f.let(i32.xor(i32.shrU(mxcsr.get, n(MXCSR_MASK_SHIFT)), n(-1)));
  const before = MXCSR.IE | MXCSR.DE | MXCSR.ZE;
  f.if(i32.and(i32.and(raised.get, unmasked.get), n(before)), () => f.set(raised, i32.and(raised.get, n(before))));
  f.do(i32.store(STATE_BASE, i32.or(mxcsr.get, raised.get), S.MXCSR));
  f.if(i32.eqz(i32.and(i32.and(raised.get, unmasked.get), n(0x3f))), () => f.ret(n(STATUS.NEXT)));
  const xm = i32.and(i32.shrU(i32.load(STATE_BASE, S.CR4), n(10)), n(1));
  f.do(i32.store(STATE_BASE, i32.add(n(6), i32.mul(xm, n(13))), S.FAULT_VECTOR));
  f.do(i32.store(STATE_BASE, n(0), S.FAULT_ERROR));
  f.ret(n(STATUS.FAULT));
  return f;
}

/**
 * Ends a stage of an instruction that checks between its steps (DPPS): 1 if what was raised is unmasked and stops it;
 * else it goes to MXCSR, where it stays even if a later stage is stopped.
 */
export function defineStops(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('float.stops', [], [I32]);
  const raised = f.let(i32.load(STATE_BASE, RAISED));
  const mxcsr = f.let(i32.load(STATE_BASE, S.MXCSR));
  const unmasked = i32.xor(i32.shrU(mxcsr.get, n(MXCSR_MASK_SHIFT)), n(-1));
  f.if(i32.and(i32.and(raised.get, unmasked), n(0x3f)), () => f.ret(n(1)));
  f.do(i32.store(STATE_BASE, i32.or(mxcsr.get, raised.get), S.MXCSR));
  f.do(i32.store(STATE_BASE, n(0), RAISED));
  f.ret(n(0));
  return f;
}
