import { call, type Expr, f32, f64, i32, i64, v128 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { DOUBLE, type Format, RC, SINGLE } from '../float/format.ts';
import { shape } from '../float/vector.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { bind, commit, imm8, loadLow, storeLow, vector } from './sse-operands.ts';

/**
 * Floating-point arithmetic of SSE, SSE2, SSE3 and SSE4.1.
 *
 * Each form first tries the host's own instruction. That is exact, to the bit and to MXCSR, when
 *
 *   - RC is nearest, PE is already set and masked: then inexact results need no further notice;
 *   - the operands are zeros or normal (so neither DE nor DAZ, and no SNaN);
 *   - the result is finite and at least twice the smallest normal number. It then was not tiny even before the last
 *     rounding (so no UE, no FTZ), did not overflow, and no operand was a NaN or, but for division, an infinity. Or
 *     it is a zero that is exact: a sum (cancellation is always exact), a product or quotient of a zero.
 *
 * Everything else goes to the functions of float/library.ts, which also find out PE while it is not yet set.
 */
export const PREFIX = { ps: 'NP', pd: '66', ss: 'F3', sd: 'F2' } as const;
export type Kind = keyof typeof PREFIX;
export const formatOf = (kind: Kind): Format => (kind.endsWith('d') ? DOUBLE : SINGLE);
export const isPacked = (kind: Kind): boolean => kind.startsWith('p');
export const featureOf = (kind: Kind): string => (kind.endsWith('d') ? 'sse2' : 'sse');
/** Source operand in the instruction column. */
export const sourceOf = (kind: Kind): string =>
  ({ ps: 'xmm/m128', pd: 'xmm/m128', ss: 'xmm/m32', sd: 'xmm/m64' })[kind];

/** Lane-wise words in which the conditions above are written, for a vector or for one number. */
interface Algebra {
  readonly constant: (value: number) => Expr;
  readonly abs: (a: Expr) => Expr;
  readonly eq: (a: Expr, b: Expr) => Expr;
  readonly lt: (a: Expr, b: Expr) => Expr;
  readonly ge: (a: Expr, b: Expr) => Expr;
  readonly and: (a: Expr, b: Expr) => Expr;
  readonly or: (a: Expr, b: Expr) => Expr;
  /** All lanes: an i32. */
  readonly all: (a: Expr) => Expr;
  readonly add: (a: Expr, b: Expr) => Expr;
  readonly sub: (a: Expr, b: Expr) => Expr;
  readonly mul: (a: Expr, b: Expr) => Expr;
  readonly div: (a: Expr, b: Expr) => Expr;
  readonly sqrt: (a: Expr) => Expr;
}

function splat(format: Format, value: number): Expr {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < 16; i += format === DOUBLE ? 8 : 4) {
    if (format === DOUBLE) view.setFloat64(i, value, true);
    else view.setFloat32(i, value, true);
  }
  return vector(bytes);
}

const vectorAlgebra = (format: Format): Algebra => {
  const double = format === DOUBLE;
  return {
    constant: (value) => splat(format, value),
    abs: double ? v128.f64x2Abs : v128.f32x4Abs,
    eq: double ? v128.f64x2Eq : v128.f32x4Eq,
    lt: double ? v128.f64x2Lt : v128.f32x4Lt,
    ge: double ? v128.f64x2Ge : v128.f32x4Ge,
    and: v128.and,
    or: v128.or,
    all: v128.i32x4AllTrue,
    add: double ? v128.f64x2Add : v128.f32x4Add,
    sub: double ? v128.f64x2Sub : v128.f32x4Sub,
    mul: double ? v128.f64x2Mul : v128.f32x4Mul,
    div: double ? v128.f64x2Div : v128.f32x4Div,
    sqrt: double ? v128.f64x2Sqrt : v128.f32x4Sqrt,
  };
};
const scalarAlgebra = (format: Format): Algebra => {
  const o = format === DOUBLE ? f64 : f32;
  const { abs, eq, lt, ge, add, sub, mul, div, sqrt } = o;
  return {
    abs,
    eq,
    lt,
    ge,
    add,
    sub,
    mul,
    div,
    sqrt,
    constant: o.const,
    and: i32.and,
    or: i32.or,
    all: (a) => a,
  };
};

const smallestNormal = (format: Format): number => 2 ** (1 - format.bias);
const lasting = (bits: number): Expr => i32.and(i32.load(i32.const(0), S.MXCSR), i32.const(bits));
/** RC = nearest, PM and PE set. */
export const hostRounds = (): Expr => i32.eq(lasting(0x7020), i32.const(0x1020));
/** A zero or a normal number or an infinity. */
export const isOrdinary = (o: Algebra, format: Format, value: Expr): Expr =>
  o.or(o.ge(o.abs(value), o.constant(smallestNormal(format))), o.eq(value, o.constant(0)));
const isInRange = (o: Algebra, format: Format, result: Expr): Expr =>
  o.and(
    o.ge(o.abs(result), o.constant(2 * smallestNormal(format))),
    o.lt(o.abs(result), o.constant(Number.POSITIVE_INFINITY)),
  );
export const algebra = (kind: Kind): Algebra =>
  isPacked(kind) ? vectorAlgebra(formatOf(kind)) : scalarAlgebra(formatOf(kind));

type Operation = 'add' | 'sub' | 'mul' | 'div';

/** When a result of zero is exact. */
const exactZero: Readonly<Record<Operation, (o: Algebra, a: Expr, b: Expr) => Expr | undefined>> = {
  add: () => undefined,
  sub: () => undefined,
  mul: (o, a, b) => o.or(o.eq(a, o.constant(0)), o.eq(b, o.constant(0))),
  div: (o, a) => o.eq(a, o.constant(0)),
};

export function hostIsExact(kind: Kind, operation: Operation, a: Expr, b: Expr, result: Expr): Expr {
  const o = algebra(kind);
  const format = formatOf(kind);
  const zero = o.eq(result, o.constant(0));
  const reason = exactZero[operation](o, a, b);
  const good = o.or(isInRange(o, format, result), reason ? o.and(zero, reason) : zero);
  return i32.and(hostRounds(), o.all(o.and(good, o.and(isOrdinary(o, format, a), isOrdinary(o, format, b)))));
}

/** Reads a scalar as WebAssembly's own type, and its bits. */
export const asNumber = (format: Format, bits: Expr): Expr =>
  format === DOUBLE ? f64.reinterpretI64(bits) : f32.reinterpretI32(i32.wrap(bits));
export const asBits = (format: Format, value: Expr): Expr =>
  format === DOUBLE ? i64.reinterpretF64(value) : i64.extendI32U(i32.reinterpretF32(value));
export const widthOf = (format: Format): 4 | 8 => (format === DOUBLE ? 8 : 4);

const TITLES: Readonly<Record<string, string>> = {
  add: 'ADD',
  sub: 'SUB',
  mul: 'MUL',
  div: 'DIV',
  sqrt: 'SQRT',
  min: 'MIN',
  max: 'MAX',
};

const arithmetic = (kind: Kind, operation: Operation, opcode: string): Instruction => {
  const format = formatOf(kind);
  const name = `${TITLES[operation]}${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2 "${name}"`,
    forms: { [`${PREFIX[kind]} 0F ${opcode} /r`]: `${name} xmm, ${sourceOf(kind)}` },
    needs: 'sse',
    feature: featureOf(kind),
    execute(m) {
      const o = algebra(kind);
      if (isPacked(kind)) {
        const b = m.loadV(1);
        const a = m.loadV(0);
        const result = m.let(o[operation](a, b));
        m.f.if(i32.eqz(hostIsExact(kind, operation, a, b, result.get)), () => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.${operation}`), a, b));
          commit(m);
        });
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const bBits = loadLow(m, 1, bytes);
      const aBits = loadLow(m, 0, bytes);
      const b = bind(m, asNumber(format, bBits));
      const a = bind(m, asNumber(format, aBits));
      const result = bind(m, o[operation](a, b));
      const bits = m.let(asBits(format, result));
      m.f.if(i32.eqz(hostIsExact(kind, operation, a, b, result)), () => {
        m.f.set(bits, call(m.lib.byName(`${format.name}.${operation}`), aBits, bBits));
        commit(m);
      });
      storeLow(m, 0, bits.get, bytes);
    },
  });
};

const squareRoot = (kind: Kind): Instruction => {
  const format = formatOf(kind);
  const name = `SQRT${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2B 4.3 "${name}"`,
    forms: { [`${PREFIX[kind]} 0F 51 /r`]: `${name} xmm, ${sourceOf(kind)}` },
    needs: 'sse',
    feature: featureOf(kind),
    execute(m) {
      const o = algebra(kind);
      // A root is never tiny or too large, and that of a negative number is a NaN.
      const exact = (a: Expr, result: Expr): Expr =>
        i32.and(
          hostRounds(),
          o.all(
            o.and(
              isOrdinary(o, format, a),
              o.and(o.ge(result, o.constant(0)), o.lt(result, o.constant(Number.POSITIVE_INFINITY))),
            ),
          ),
        );
      if (isPacked(kind)) {
        const a = m.loadV(1);
        const result = m.let(o.sqrt(a));
        m.f.if(i32.eqz(exact(a, result.get)), () => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.sqrt`), a));
          commit(m);
        });
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const aBits = loadLow(m, 1, bytes);
      const a = bind(m, asNumber(format, aBits));
      const result = bind(m, o.sqrt(a));
      const bits = m.let(asBits(format, result));
      m.f.if(i32.eqz(exact(a, result)), () => {
        m.f.set(bits, call(m.lib.byName(`${format.name}.sqrt`), aBits));
        commit(m);
      });
      storeLow(m, 0, bits.get, bytes);
    },
  });
};

/** MINxx, MAXxx: the first operand if it is strictly less (greater), else the second. Exact, whatever RC is. */
const extreme = (kind: Kind, which: 'min' | 'max', opcode: string): Instruction => {
  const format = formatOf(kind);
  const name = `${TITLES[which]}${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2B 4.1 "${name}"`,
    forms: { [`${PREFIX[kind]} 0F ${opcode} /r`]: `${name} xmm, ${sourceOf(kind)}` },
    needs: 'sse',
    feature: featureOf(kind),
    execute(m) {
      const o = algebra(kind);
      const plain = (a: Expr, b: Expr): Expr => o.all(o.and(isOrdinary(o, format, a), isOrdinary(o, format, b)));
      if (isPacked(kind)) {
        const b = m.loadV(1);
        const a = m.loadV(0);
        // pmin(x, y) = y < x ? y : x
        const host = {
          f32min: v128.f32x4Pmin,
          f32max: v128.f32x4Pmax,
          f64min: v128.f64x2Pmin,
          f64max: v128.f64x2Pmax,
        }[`${format.name}${which}` as const];
        const result = m.let(host(b, a));
        m.f.if(i32.eqz(plain(a, b)), () => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.${which}`), a, b));
          commit(m);
        });
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const b = loadLow(m, 1, bytes);
      const a = loadLow(m, 0, bytes);
      const result = m.let(call(m.lib.byName(`${format.name}.${which}`), a, b));
      commit(m);
      storeLow(m, 0, result.get, bytes);
    },
  });
};

/** RCPxS, RSQRTxS: see float/approximate.ts. They raise nothing. */
const estimate = (kind: 'ps' | 'ss', which: 'rcp' | 'rsqrt', opcode: string): Instruction => {
  const name = `${which.toUpperCase()}${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2B 4.3 "${name}"`,
    forms: { [`${PREFIX[kind]} 0F ${opcode} /r`]: `${name} xmm, ${sourceOf(kind)}` },
    needs: 'sse',
    feature: 'sse',
    execute(m) {
      if (kind === 'ps') m.storeV(0, call(m.lib.byName(`f32x4.${which}`), m.loadV(1)));
      else storeLow(m, 0, call(m.lib.byName(`f32.${which}`), loadLow(m, 1, 4)), 4);
    },
  });
};

const KINDS = ['ps', 'pd', 'ss', 'sd'] as const;
const each = (make: (kind: Kind) => Instruction): Instruction[] => KINDS.map(make);

export const SSE_ARITHMETIC: readonly Instruction[] = [
  ...each((kind) => arithmetic(kind, 'add', '58')),
  ...each((kind) => arithmetic(kind, 'mul', '59')),
  ...each((kind) => arithmetic(kind, 'sub', '5C')),
  ...each((kind) => arithmetic(kind, 'div', '5E')),
  ...each(squareRoot),
  ...each((kind) => extreme(kind, 'min', '5D')),
  ...each((kind) => extreme(kind, 'max', '5F')),
  estimate('ps', 'rcp', '53'),
  estimate('ss', 'rcp', '53'),
  estimate('ps', 'rsqrt', '52'),
  estimate('ss', 'rsqrt', '52'),
];

// ---- SSE3 -------------------------------------------------------------------------------------------------------

/** Operand vectors of a horizontal operation: even lanes of a then b, and odd ones. */
export function evenAndOdd(format: Format, a: Expr, b: Expr): [Expr, Expr] {
  const bytes = widthOf(format);
  const pick = (odd: number): Expr =>
    v128.shuffle(
      a,
      b,
      Uint8Array.from({ length: 16 }, (_, i) => (2 * Math.floor(i / bytes) + odd) * bytes + (i % bytes)),
    );
  return [pick(0), pick(1)];
}

/** Adds or subtracts lanes with the host if that is exact, else by the library. A local. */
function combine(m: Semantics, kind: 'ps' | 'pd', operation: 'add' | 'sub', a: Expr, b: Expr): Expr {
  const result = m.let(algebra(kind)[operation](a, b));
  m.f.if(i32.eqz(hostIsExact(kind, operation, a, b, result.get)), () => {
    m.f.set(result, call(m.lib.byName(`${shape(formatOf(kind))}.${operation}`), a, b));
    commit(m);
  });
  return result.get;
}

const horizontal = (kind: 'ps' | 'pd', operation: 'add' | 'sub', opcode: string): Instruction => {
  const name = `H${TITLES[operation]}${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}—Packed ${kind === 'ps' ? 'Single' : 'Double'} Precision Horizontal ${operation}"`,
    forms: { [`${kind === 'ps' ? 'F2' : '66'} 0F ${opcode} /r`]: `${name} xmm, xmm/m128` },
    needs: 'sse',
    feature: 'pni',
    execute(m) {
      const b = m.loadV(1);
      const a = m.loadV(0);
      const [even, odd] = evenAndOdd(formatOf(kind), a, b);
      m.storeV(0, combine(m, kind, operation, bind(m, even), bind(m, odd)));
    },
  });
};

/** ADDSUBxx: even lanes are subtracted. That is adding with the sign flipped, but for NaNs. */
const addSubtract = (kind: 'ps' | 'pd'): Instruction => {
  const name = `ADDSUB${kind.toUpperCase()}`;
  const format = formatOf(kind);
  const bytes = widthOf(format);
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}"`,
    forms: { [`${kind === 'ps' ? 'F2' : '66'} 0F D0 /r`]: `${name} xmm, xmm/m128` },
    needs: 'sse',
    feature: 'pni',
    execute(m) {
      const b = m.loadV(1);
      const a = m.loadV(0);
      const o = algebra(kind);
      const flipped = bind(
        m,
        v128.xor(b, vector(Uint8Array.from({ length: 16 }, (_, i) => (i % (2 * bytes) === bytes - 1 ? 0x80 : 0)))),
      );
      const result = m.let(o.add(a, flipped));
      m.f.if(i32.eqz(hostIsExact(kind, 'add', a, flipped, result.get)), () => {
        m.f.set(result, call(m.lib.byName(`${shape(format)}.addsub`), a, b));
        commit(m);
      });
      m.storeV(0, result.get);
    },
  });
};

export const SSE3_ARITHMETIC: readonly Instruction[] = [
  horizontal('pd', 'add', '7C'),
  horizontal('ps', 'add', '7C'),
  horizontal('pd', 'sub', '7D'),
  horizontal('ps', 'sub', '7D'),
  addSubtract('pd'),
  addSubtract('ps'),
];

// ---- SSE4.1 -----------------------------------------------------------------------------------------------------

/** ROUNDxx: bit 2 of the immediate takes RC from MXCSR, bit 3 keeps PE quiet. SDM 2B 4.3 Table 4-19. */
const roundToInteger = (kind: Kind, opcode: string): Instruction => {
  const name = `ROUND${kind.toUpperCase()}`;
  const format = formatOf(kind);
  return instruction({
    name,
    source: `SDM 2B 4.3 "${name}"`,
    forms: { [`66 0F 3A ${opcode} /r ib`]: `${name} xmm, ${sourceOf(kind)}, imm8` },
    needs: 'sse',
    feature: 'sse4_1',
    execute(m) {
      const imm = imm8(m, 2);
      const rc = m.let(i32.and(imm, i32.const(RC.ZERO)));
      m.f.if(i32.and(imm, i32.const(4)), () =>
        m.f.set(rc, i32.and(i32.shrU(i32.load(i32.const(0), S.MXCSR), i32.const(13)), i32.const(3))),
      );
      const quiet = i32.and(i32.shrU(imm, i32.const(3)), i32.const(1));
      if (isPacked(kind)) {
        const a = m.loadV(1);
        const result = bind(m, call(m.lib.byName(`${shape(format)}.roundInt`), a, rc.get, quiet));
        commit(m);
        m.storeV(0, result);
        return;
      }
      const bytes = widthOf(format);
      const a = loadLow(m, 1, bytes);
      const result = bind(m, call(m.lib.byName(`${format.name}.roundInt`), a, rc.get, quiet));
      commit(m);
      storeLow(m, 0, result, bytes);
    },
  });
};

/** DPPS, DPPD: products of the chosen lanes, their sum to the chosen lanes: in the library, as it checks in between. */
const dotProduct = (kind: 'ps' | 'pd', opcode: string): Instruction => {
  const name = `DP${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}—Dot Product of Packed ${kind === 'ps' ? 'Single' : 'Double'} Precision Values"`,
    forms: { [`66 0F 3A ${opcode} /r ib`]: `${name} xmm, xmm/m128, imm8` },
    needs: 'sse',
    feature: 'sse4_1',
    execute(m) {
      const b = m.loadV(1);
      const a = m.loadV(0);
      const result = bind(m, call(m.lib.byName(`${shape(formatOf(kind))}.dot`), a, b, imm8(m, 2)));
      commit(m);
      m.storeV(0, result);
    },
  });
};

export const SSE41_ARITHMETIC: readonly Instruction[] = [
  roundToInteger('ps', '08'),
  roundToInteger('pd', '09'),
  roundToInteger('ss', '0A'),
  roundToInteger('sd', '0B'),
  dotProduct('ps', '40'),
  dotProduct('pd', '41'),
];
