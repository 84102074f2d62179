import { call, type Expr, f32, f64, I64, i32, i64, select, V128, v128 } from '../../wasm/expr.ts';
import type { Label, Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { DOUBLE, type Format, RC, SINGLE } from '../float/format.ts';
import { shape } from '../float/vector.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import {
  algebraOf,
  allLanes,
  asBits,
  asNumber,
  hostIsExact,
  hostRounds,
  inexactIsOld,
  type Operation,
  ordinaryLanes,
  signAndExponent,
  sureOfOperand,
  sureOfOrder,
  sureOfResult,
  unless,
} from './sse-host.ts';
import { bind, commit, imm8, loadLow, storeLow, vector } from './sse-operands.ts';

/**
 * Floating-point arithmetic of SSE, SSE2, SSE3 and SSE4.1: the host's own instruction where that is exact (sse-host.ts),
 * else functions of float/library.ts.
 */
export const PREFIX = { ps: 'NP', pd: '66', ss: 'F3', sd: 'F2' } as const;
export type Kind = keyof typeof PREFIX;
export const formatOf = (kind: Kind): Format => (kind.endsWith('d') ? DOUBLE : SINGLE);
export const isPacked = (kind: Kind): boolean => kind.startsWith('p');
export const featureOf = (kind: Kind): string => (kind.endsWith('d') ? 'sse2' : 'sse');
/** Source operand in the instruction column. */
export const sourceOf = (kind: Kind): string =>
  ({ ps: 'xmm/m128', pd: 'xmm/m128', ss: 'xmm/m32', sd: 'xmm/m64' })[kind];

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
      if (isPacked(kind)) {
        const b = m.loadV(1);
        const a = m.loadV(0);
        m.storeV(0, combine(m, format, operation, a, b));
        return;
      }
      const bytes = widthOf(format);
      const o = format === DOUBLE ? f64 : f32;
      const b = loadLow(m, 1, bytes);
      const a = loadLow(m, 0, bytes);
      const result = m.let(asBits(format, o[operation](asNumber(format, a), asNumber(format, b))));
      unless(
        m,
        (unsure) => {
          m.f.brIf(unsure, i32.eqz(hostRounds()));
          sureOfOperand(m, format, a, unsure);
          sureOfOperand(m, format, b, unsure);
          sureOfResult(m, format, result.get, unsure);
        },
        () => {
          m.f.set(result, call(m.lib.byName(`${format.name}.${operation}`), a, b));
          commit(m);
        },
      );
      storeLow(m, 0, result.get, bytes);
    },
  });
};

/** Adds, subtracts … lanes with the host if that is exact, else by the library: a local. */
function combine(m: Semantics, format: Format, operation: Operation, a: Expr, b: Expr): Expr {
  const result = m.let(algebraOf(format)[operation](a, b));
  m.f.if(i32.eqz(hostIsExact(format, operation, a, b, result.get)), () => {
    m.f.set(result, call(m.lib.byName(`${shape(format)}.${operation}`), a, b));
    commit(m);
  });
  return result.get;
}

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
      // A root is never tiny or too large, and that of a negative number is a NaN
      if (isPacked(kind)) {
        const o = algebraOf(format);
        const a = m.loadV(1);
        const result = m.let(o.sqrt(a));
        const good = v128.and(
          ordinaryLanes(format, a),
          v128.and(o.ge(result.get, o.constant(0)), o.lt(result.get, o.constant(Number.POSITIVE_INFINITY))),
        );
        m.f.if(i32.eqz(i32.and(hostRounds(), allLanes(good))), () => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.sqrt`), a));
          commit(m);
        });
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const a = loadLow(m, 1, bytes);
      const result = m.let(asBits(format, (format === DOUBLE ? f64 : f32).sqrt(asNumber(format, a))));
      unless(
        m,
        (unsure) => {
          m.f.brIf(unsure, i32.eqz(hostRounds()));
          // Positive and normal
          const above = i32.sub(signAndExponent(format, a), i32.const(1));
          m.f.brIf(unsure, i32.geU(above, i32.const(format.exponentMax - 1)));
        },
        () => {
          m.f.set(result, call(m.lib.byName(`${format.name}.sqrt`), a));
          commit(m);
        },
      );
      storeLow(m, 0, result.get, bytes);
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
        const plain = allLanes(v128.and(ordinaryLanes(format, a), ordinaryLanes(format, b)));
        m.f.if(i32.eqz(plain), () => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.${which}`), a, b));
          commit(m);
        });
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const o = format === DOUBLE ? f64 : f32;
      const b = loadLow(m, 1, bytes);
      const a = loadLow(m, 0, bytes);
      const [p, q] = which === 'min' ? [a, b] : [b, a];
      const result = m.let(select(o.lt(asNumber(format, p), asNumber(format, q)), a, b));
      unless(
        m,
        (unsure) => {
          sureOfOrder(m, format, a, unsure);
          sureOfOrder(m, format, b, unsure);
        },
        () => {
          m.f.set(result, call(m.lib.byName(`${format.name}.${which}`), a, b));
          commit(m);
        },
      );
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
      m.storeV(0, combine(m, formatOf(kind), operation, bind(m, even), bind(m, odd)));
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
      const flipped = bind(
        m,
        v128.xor(b, vector(Uint8Array.from({ length: 16 }, (_, i) => (i % (2 * bytes) === bytes - 1 ? 0x80 : 0)))),
      );
      const result = m.let(algebraOf(format).add(a, flipped));
      m.f.if(i32.eqz(hostIsExact(format, 'add', a, flipped, result.get)), () => {
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
      const control = m.load(2);
      const imm = imm8(m, 2);
      const rc = m.let(i32.and(imm, i32.const(RC.ZERO)));
      m.f.if(i32.and(imm, i32.const(4)), () =>
        m.f.set(rc, i32.and(i32.shrU(i32.load(i32.const(0), S.MXCSR), i32.const(13)), i32.const(3))),
      );
      const quiet = i32.and(i32.shrU(imm, i32.const(3)), i32.const(1));
      const bytes = widthOf(format);
      const a = isPacked(kind) ? m.loadV(1) : loadLow(m, 1, bytes);
      const known = control.isConst && (control.imm & 4) === 0 ? control.imm & 3 : undefined;
      const name = isPacked(kind) ? shape(format) : format.name;
      const slow = call(m.lib.byName(`${name}.roundInt`), a, rc.get, quiet);
      const result = m.f.local(isPacked(kind) ? V128 : I64);
      const byLibrary = (): void => {
        m.f.set(result, slow);
        commit(m);
      };
      if (known === undefined) byLibrary();
      else {
        const isQuiet = (control.imm & 8) !== 0;
        unless(m, (unsure) => roundByHost(m, kind, known, isQuiet, a, result, unsure), byLibrary);
      }
      if (isPacked(kind)) m.storeV(0, result.get);
      else storeLow(m, 0, result.get, bytes);
    },
  });
};

/** The host's four roundings in the order of RC. */
const ROUNDINGS = {
  f32: [f32.nearest, f32.floor, f32.ceil, f32.trunc],
  f64: [f64.nearest, f64.floor, f64.ceil, f64.trunc],
  f32x4: [v128.f32x4Nearest, v128.f32x4Floor, v128.f32x4Ceil, v128.f32x4Trunc],
  f64x2: [v128.f64x2Nearest, v128.f64x2Floor, v128.f64x2Ceil, v128.f64x2Trunc],
} as const;

/** Zeros and normal numbers: NaNs may be signalling, and DAZ makes zeros of denormals. */
function roundByHost(
  m: Semantics,
  kind: Kind,
  rc: number,
  isQuiet: boolean,
  a: Expr,
  result: Local,
  unsure: Label,
): void {
  const format = formatOf(kind);
  const round = (value: Expr): Expr =>
    isPacked(kind) ? ROUNDINGS[format === DOUBLE ? 'f64x2' : 'f32x4'][rc]!(value) : ROUNDINGS[format.name][rc]!(value);
  let same: Expr;
  if (isPacked(kind)) {
    m.f.brIf(unsure, i32.eqz(allLanes(ordinaryLanes(format, a))));
    m.f.set(result, round(a));
    same = allLanes(algebraOf(format).eq(result.get, a));
  } else {
    sureOfOrder(m, format, a, unsure);
    m.f.set(result, asBits(format, round(asNumber(format, a))));
    same = i64.eq(result.get, a);
  }
  if (!isQuiet) m.f.brIf(unsure, i32.eqz(i32.or(inexactIsOld(), same)));
}

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
