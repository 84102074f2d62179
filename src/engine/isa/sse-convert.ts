import { call, type Expr, f32, f64, i32, i64, v128 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { DOUBLE, type Format, RC, SINGLE, truncSatI32, truncSatI64 } from '../float/format.ts';
import { lane, withLane } from '../float/vector.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { widthOf } from './sse-float.ts';
import {
  algebraOf,
  allLanes,
  asBits,
  asNumber,
  hostRounds,
  inexactIsOld,
  ordinaryLanes,
  sureOfOrder,
  unless,
} from './sse-host.ts';
import {
  bind,
  commit,
  enterMmx,
  lanes32,
  loadLow,
  lowVector,
  storeLow,
  storeMm,
  vector,
  ZERO_VECTOR,
} from './sse-operands.ts';

/**
 * Conversions: CVTxx2xx and CVTTxx2xx. SDM 2A 3.2. A conversion that is exact by its types takes the host's own
 * instruction; the others ask the library, but for the scalar ones whose short way is provable.
 */
const mxcsrRc = (): Expr => i32.and(i32.shrU(i32.load(i32.const(0), S.MXCSR), i32.const(13)), i32.const(3));
const rcOf = (truncate: boolean): Expr => (truncate ? i32.const(RC.ZERO) : mxcsrRc());
const low32 = (e: Expr): Expr => i64.and(e, i64.halves(-1, 0));
const lane32 = (v: Expr, i: number): Expr => i64.extendI32S(v128.i32x4Extract(v, i));

const row = (
  name: string,
  opcode: string,
  operands: string,
  execute: (m: Semantics) => void,
  feature = 'sse2',
  needs: 'sse' | 'mmx' = 'sse',
): Instruction =>
  instruction({
    name,
    source: `SDM 2A 3.2 "${name}"`,
    forms: { [opcode]: `${name} ${operands}` },
    needs,
    feature,
    execute,
  });

// ---- scalar integer → floating point ----------------------------------------------------------------------------

const fromInteger = (format: Format): Instruction => {
  const name = format === DOUBLE ? 'CVTSI2SD' : 'CVTSI2SS';
  const prefix = format === DOUBLE ? 'F2' : 'F3';
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}"`,
    forms: {
      [`${prefix} W0 0F 2A /r`]: `${name} xmm, r/m32`,
      [`${prefix} REX.W 0F 2A /r`]: `${name} xmm, r/m64`,
    },
    needs: 'sse',
    feature: format === DOUBLE ? 'sse2' : 'sse',
    execute(m) {
      const bytes = widthOf(format);
      const value = bind(m, m.load(1));
      if (format === DOUBLE && m.sizeOf(1) === 4) {
        storeLow(m, 0, i64.reinterpretF64(f64.convertI64S(value)), 8);
        return;
      }
      const host = format === DOUBLE ? f64.convertI64S(value) : f32.convertI64S(value);
      const result = m.let(asBits(format, host));
      // So small that it is exact
      const limit = 2 ** (format.fraction + 1);
      const small = i64.leU(i64.add(value, i64.const(limit)), i64.const(2 * limit));
      m.f.if(i32.eqz(i32.or(small, hostRounds())), () => {
        m.f.set(result, call(m.lib.byName(`${format.name}.fromI64`), value));
        commit(m);
      });
      storeLow(m, 0, result.get, bytes);
    },
  });
};

// ---- scalar floating point → integer ----------------------------------------------------------------------------

const toInteger = (format: Format, truncate: boolean): Instruction => {
  const name = `CVT${truncate ? 'T' : ''}${format === DOUBLE ? 'SD' : 'SS'}2SI`;
  const prefix = format === DOUBLE ? 'F2' : 'F3';
  const source = format === DOUBLE ? 'xmm/m64' : 'xmm/m32';
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}"`,
    forms: {
      [`${prefix} W0 0F ${truncate ? '2C' : '2D'} /r`]: `${name} rd, ${source}`,
      [`${prefix} REX.W 0F ${truncate ? '2C' : '2D'} /r`]: `${name} rq, ${source}`,
    },
    needs: 'sse',
    feature: format === DOUBLE ? 'sse2' : 'sse',
    execute(m) {
      const bits = loadLow(m, 1, widthOf(format));
      const bytes = m.sizeOf(0) as 4 | 8;
      // Truncated by the host, which saturates. In range (a NaN is not) the integer is right, and only PE can be raised: not
      // if nothing was cut off, and without notice if PE is set and masked.
      const o = format === DOUBLE ? f64 : f32;
      const value = bind(m, asNumber(format, bits));
      const rounded = truncate ? value : bind(m, o.nearest(value));
      const whole = bytes === 8 ? m.let(truncSatI64(rounded)) : m.let(i64.extendI32S(truncSatI32(rounded)));
      const limit = o.const(2 ** (8 * bytes - 1));
      unless(
        m,
        (unsure) => {
          if (!truncate) m.f.brIf(unsure, mxcsrRc());
          m.f.brIf(unsure, i32.eqz(i32.and(o.lt(rounded, limit), o.ge(rounded, o.neg(limit)))));
          const back = format === DOUBLE ? f64.convertI64S(whole.get) : f32.convertI64S(whole.get);
          m.f.if(i32.eqz(inexactIsOld()), () => m.f.brIf(unsure, o.ne(back, value)));
        },
        () => {
          m.f.set(whole, call(m.lib.byName(`${format.name}.toI${8 * bytes}`), bits, rcOf(truncate)));
          commit(m);
        },
      );
      m.store(0, whole.get);
    },
  });
};

// ---- between the formats ----------------------------------------------------------------------------------------

const widen = row('CVTSS2SD', 'F3 0F 5A /r', 'xmm, xmm/m32', (m) => {
  const bits = loadLow(m, 1, 4);
  const result = m.let(asBits(DOUBLE, f64.promote(asNumber(SINGLE, bits))));
  unless(
    m,
    (unsure) => sureOfOrder(m, SINGLE, bits, unsure),
    () => {
      m.f.set(result, call(m.lib.byName('f32.to.f64'), bits));
      commit(m);
    },
  );
  storeLow(m, 0, result.get, 8);
});

const narrow = row('CVTSD2SS', 'F2 0F 5A /r', 'xmm, xmm/m64', (m) => {
  const bits = loadLow(m, 1, 8);
  const value = bind(m, asNumber(DOUBLE, bits));
  const result = m.let(asBits(SINGLE, f32.demote(value)));
  // Well inside the single format's range nothing but PE can happen; and a zero stays one.
  const size = f64.abs(value);
  const inside = i32.or(
    i32.and(f64.ge(size, f64.const(2 ** -125)), f64.lt(size, f64.const(2 ** 127))),
    f64.eq(value, f64.const(0)),
  );
  m.f.if(i32.eqz(i32.and(hostRounds(), inside)), () => {
    m.f.set(result, call(m.lib.byName('f64.to.f32'), bits));
    commit(m);
  });
  storeLow(m, 0, result.get, 4);
});

/** Converts lanes one by one, `convert` from lane i of the source to bits of `format`'s width in lane i of the result. */
function lanewise(count: number, to: Format, convert: (i: number) => Expr): Expr {
  let result = ZERO_VECTOR;
  for (let i = 0; i < count; i++) result = withLane(to, result, i, convert(i));
  return result;
}

/** Source of a packed conversion that reads the low half only: XMM or 8 bytes of memory, as a vector. */
const lowSource = (m: Semantics, i: number): Expr => bind(m, lowVector(loadLow(m, i, 8)));

/** The host's result if `good` (an i32 made of it) says that it is right, else that of the library. */
function byHost(m: Semantics, host: Expr, good: (result: Expr) => Expr, byLibrary: () => Expr): void {
  const result = m.let(host);
  m.f.if(i32.eqz(good(result.get)), () => {
    m.f.set(result, byLibrary());
    commit(m);
  });
  m.storeV(0, result.get);
}

/** Whether lanes (whole numbers, after rounding) fit 32 bits, and nothing was cut off that PE would tell. */
function wholeLanes(format: Format, source: Expr, rounded: Expr, back: Expr): Expr {
  const o = algebraOf(format);
  const inRange = allLanes(o.lt(o.abs(rounded), o.constant(2 ** 31)));
  return i32.and(inRange, i32.or(inexactIsOld(), allLanes(o.eq(back, source))));
}

const PACKED: readonly Instruction[] = [
  row('CVTPS2PD', 'NP 0F 5A /r', 'xmm, xmm/m64', (m) => {
    const source = lowSource(m, 1);
    byHost(
      m,
      v128.f64x2PromoteLowF32x4(source),
      () => allLanes(ordinaryLanes(SINGLE, source)),
      () => lanewise(2, DOUBLE, (i) => call(m.lib.byName('f32.to.f64'), lane(SINGLE, source, i))),
    );
  }),
  row('CVTPD2PS', '66 0F 5A /r', 'xmm, xmm/m128', (m) => {
    const source = m.loadV(1);
    const o = algebraOf(DOUBLE);
    // As in CVTSD2SS
    const inside = v128.or(
      v128.and(o.ge(o.abs(source), o.constant(2 ** -125)), o.lt(o.abs(source), o.constant(2 ** 127))),
      o.eq(source, o.constant(0)),
    );
    byHost(
      m,
      v128.f32x4DemoteZeroF64x2(source),
      () => i32.and(hostRounds(), allLanes(inside)),
      () => lanewise(2, SINGLE, (i) => call(m.lib.byName('f64.to.f32'), lane(DOUBLE, source, i))),
    );
  }),
  row('CVTDQ2PS', 'NP 0F 5B /r', 'xmm, xmm/m128', (m) => {
    const source = m.loadV(1);
    // So small that they are exact, or -2^31, which is its own magnitude
    const small = v128.i32x4LeS(v128.i32x4Abs(source), vector(lanes32(() => 1 << 24)));
    byHost(
      m,
      v128.f32x4ConvertI32x4S(source),
      () => i32.or(hostRounds(), allLanes(small)),
      () => lanewise(4, SINGLE, (i) => call(m.lib.byName('f32.fromI64'), lane32(source, i))),
    );
  }),
  row('CVTDQ2PD', 'F3 0F E6 /r', 'xmm, xmm/m64', (m) => m.storeV(0, v128.f64x2ConvertLowI32x4S(lowSource(m, 1)))),
  ...[false, true].flatMap((truncate) => {
    const t = truncate ? 'T' : '';
    const nearest = truncate ? i32.const(1) : i32.eqz(mxcsrRc());
    return [
      row(`CVT${t}PS2DQ`, `${truncate ? 'F3' : '66'} 0F 5B /r`, 'xmm, xmm/m128', (m) => {
        const source = m.loadV(1);
        const rounded = truncate ? source : bind(m, v128.f32x4Nearest(source));
        byHost(
          m,
          v128.i32x4TruncSatF32x4S(rounded),
          (whole) => i32.and(nearest, wholeLanes(SINGLE, source, rounded, v128.f32x4ConvertI32x4S(whole))),
          () => lanewise(4, SINGLE, (i) => call(m.lib.byName('f32.toI32'), lane(SINGLE, source, i), rcOf(truncate))),
        );
      }),
      row(`CVT${t}PD2DQ`, `${truncate ? '66' : 'F2'} 0F E6 /r`, 'xmm, xmm/m128', (m) => {
        const source = m.loadV(1);
        const rounded = truncate ? source : bind(m, v128.f64x2Nearest(source));
        byHost(
          m,
          v128.i32x4TruncSatF64x2SZero(rounded),
          (whole) => i32.and(nearest, wholeLanes(DOUBLE, source, rounded, v128.f64x2ConvertLowI32x4S(whole))),
          () => lanewise(2, SINGLE, (i) => call(m.lib.byName('f64.toI32'), lane(DOUBLE, source, i), rcOf(truncate))),
        );
      }),
    ];
  }),
];

// ---- with MMX registers -----------------------------------------------------------------------------------------

/** Two dwords of results into an MMX register. */
function finishMm(m: Semantics, first: Expr, second: Expr): void {
  const low = bind(m, first);
  const high = bind(m, second);
  commit(m);
  enterMmx(m);
  storeMm(m, 0, i64.or(low32(low), i64.shl(high, i64.const(32))));
}

const dword = (value: Expr, i: number): Expr => (i === 0 ? i64.extend32S(value) : i64.shrS(value, i64.const(32)));

const MMX: readonly Instruction[] = [
  row(
    'CVTPI2PS',
    'NP 0F 2A /r',
    'xmm, mm/m64',
    (m) => {
      const source = loadLow(m, 1, 8);
      const result = [0, 1].map((i) => bind(m, call(m.lib.byName('f32.fromI64'), dword(source, i))));
      commit(m);
      if (!m.isMemory(1)) enterMmx(m);
      storeLow(m, 0, i64.or(result[0]!, i64.shl(result[1]!, i64.const(32))), 8);
    },
    'sse',
    'mmx',
  ),
  row(
    'CVTPI2PD',
    '66 0F 2A /r',
    'xmm, mm/m64',
    (m) => {
      const source = bind(m, lowVector(loadLow(m, 1, 8)));
      if (!m.isMemory(1)) enterMmx(m);
      m.storeV(0, v128.f64x2ConvertLowI32x4S(source));
    },
    'sse2',
    'mmx',
  ),
  ...[false, true].flatMap((truncate) => {
    const t = truncate ? 'T' : '';
    const opcode = truncate ? '2C' : '2D';
    return [
      row(
        `CVT${t}PS2PI`,
        `NP 0F ${opcode} /r`,
        'mm, xmm/m64',
        (m) => {
          const source = lowSource(m, 1);
          const rc = bind(m, rcOf(truncate));
          const convert = (i: number): Expr => call(m.lib.byName('f32.toI32'), lane(SINGLE, source, i), rc);
          finishMm(m, convert(0), convert(1));
        },
        'sse',
        'mmx',
      ),
      row(
        `CVT${t}PD2PI`,
        `66 0F ${opcode} /r`,
        'mm, xmm/m128',
        (m) => {
          const source = m.loadV(1);
          const rc = bind(m, rcOf(truncate));
          const convert = (i: number): Expr => call(m.lib.byName('f64.toI32'), lane(DOUBLE, source, i), rc);
          finishMm(m, convert(0), convert(1));
        },
        'sse2',
        'mmx',
      ),
    ];
  }),
];

export const SSE_CONVERT: readonly Instruction[] = [
  fromInteger(SINGLE),
  fromInteger(DOUBLE),
  toInteger(SINGLE, false),
  toInteger(SINGLE, true),
  toInteger(DOUBLE, false),
  toInteger(DOUBLE, true),
  widen,
  narrow,
  ...PACKED,
  ...MMX,
];
