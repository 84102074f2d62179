import { call, type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { defineEstimate } from './approximate.ts';
import { defineCompare, defineConversions, defineMinMax } from './convert.ts';
import { defineFma } from './fma.ts';
import { DOUBLE, type Format, n, SINGLE } from './format.ts';
import { defineHalf } from './half.ts';
import { type Core, defineArithmetic, defineCore } from './softfloat.ts';
import { defineAddSubtract, defineCommit, defineDot, defineLanewise, defineStops, defineWideDot } from './vector.ts';

/**
 * Floating point of SSE, AVX and FMA as functions of the core module.
 *
 *   f32.add, f64.add … sub mul div sqrt min max     bits (i64) → bits
 *   f32.compare       (a, b, strict) → RELATION
 *   f32.predicate     (a, b, CMPxx predicate 0–31) → 0 or 1
 *   f32.toI32, .toI64 (bits, RC) → integer; f32.fromI64
 *   f32.to.f64, f64.to.f32; f32.rcp, f32.rsqrt (estimates)
 *   f32.roundInt      (bits, RC, suppress PE)
 *   f32.fma           (x, y, z, NEGATE) → ±(x·y) ± z, rounded once
 *   f16.to.f32, f32.to.f16 (bits, RC)
 *   f32x4.add …       the same on v128, lane by lane; f32x4.predicate gives masks
 *   float.commit      () → status: ends an instruction, see vector.ts
 *
 * All read MXCSR and collect exceptions in RAISED. The caller commits before it writes its destination.
 */
export function defineFloat(m: ModuleBuilder): Record<string, FunctionBuilder> {
  const stops = defineStops(m);
  const functions: FunctionBuilder[] = [defineCommit(m), stops];
  const single = defineCore(m, SINGLE);
  const double = defineCore(m, DOUBLE);
  for (const core of [single, double]) {
    const compare = defineCompare(m, core);
    functions.push(compare);
    const scalars = [
      ...defineArithmetic(m, core),
      defineMinMax(m, core, 'min'),
      defineMinMax(m, core, 'max'),
      definePredicate(m, core, compare),
    ];
    functions.push(...scalars);
    for (const scalar of scalars) functions.push(defineVector(m, core.format, scalar));
    const named = (name: string): FunctionBuilder => scalars.find((f) => f.name === `${core.format.name}.${name}`)!;
    functions.push(
      defineAddSubtract(m, core.format, named('add'), named('sub')),
      defineDot(m, core.format, named('mul'), named('add'), stops),
      ...(core === single ? [defineWideDot(m, core.format, named('mul'), named('add'), stops)] : []),
      ...defineFma(m, core),
    );
  }
  const conversions = defineConversions(m, single, double);
  functions.push(...conversions, ...defineHalf(m, single));
  for (const scalar of conversions.filter(({ name }) => name.endsWith('.roundInt'))) {
    functions.push(defineVector(m, scalar.name.startsWith('f32') ? SINGLE : DOUBLE, scalar));
  }
  for (const estimate of [defineEstimate(m, 'rcp'), defineEstimate(m, 'rsqrt')]) {
    functions.push(estimate, defineVector(m, SINGLE, estimate));
  }
  return Object.fromEntries(functions.map((f) => [f.name, f]));
}

function defineVector(m: ModuleBuilder, format: Format, scalar: FunctionBuilder): FunctionBuilder {
  const name = scalar.name.slice(4);
  const unary = ['sqrt', 'roundInt', 'rcp', 'rsqrt'].includes(name);
  return defineLanewise(m, format, name, unary ? 1 : 2, scalar, name === 'predicate' ? 'masks' : 'values');
}

/**
 * The sixteen predicates as sets of RELATION, one nibble each from EQ_OQ on, and which of them raise IE for a QNaN; 16
 * to 31 are the same with the other answer to a QNaN. SDM 2A 3.2 Table 3-1 "Comparison Predicate for CMPPD and CMPPS".
 */
const PREDICATES: readonly (readonly [name: string, relations: number, strict: 0 | 1])[] = [
  ['EQ_OQ', 0b0010, 0],
  ['LT_OS', 0b0001, 1],
  ['LE_OS', 0b0011, 1],
  ['UNORD_Q', 0b1000, 0],
  ['NEQ_UQ', 0b1101, 0],
  ['NLT_US', 0b1110, 1],
  ['NLE_US', 0b1100, 1],
  ['ORD_Q', 0b0111, 0],
  ['EQ_UQ', 0b1010, 0],
  ['NGE_US', 0b1001, 1],
  ['NGT_US', 0b1011, 1],
  ['FALSE_OQ', 0b0000, 0],
  ['NEQ_OQ', 0b0101, 0],
  ['GE_OS', 0b0110, 1],
  ['GT_OS', 0b0100, 1],
  ['TRUE_UQ', 0b1111, 0],
];

function definePredicate(m: ModuleBuilder, core: Core, compare: FunctionBuilder): FunctionBuilder {
  const f = m.func(`${core.format.name}.predicate`, [I64, I64, I32], [I32]);
  const [a, b, predicate] = f.parameters as [Local, Local, Local];
  const sets = PREDICATES.reduce((all, [, set], i) => all | (BigInt(set) << BigInt(4 * i)), 0n);
  const strict = PREDICATES.reduce((all, [, , bit], i) => all | (bit << i), 0);
  const low = i32.and(predicate.get, n(15));
  const isStrict: Expr = i32.and(i32.xor(i32.shrU(n(strict), low), i32.shrU(predicate.get, n(4))), n(1));
  const set = i32.wrap(i64.shrU(i64.big(sets), i64.shl(i64.extendI32U(low), i64.const(2))));
  f.ret(i32.ne(i32.and(call(compare, a.get, b.get, isStrict), set), n(0)));
  return f;
}
