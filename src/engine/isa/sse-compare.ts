import { call, type Expr, f32, f64, I32, i32, i64, select, V128, v128 } from '../../wasm/expr.ts';
import { RELATION } from '../float/convert.ts';
import { DOUBLE, type Format } from '../float/format.ts';
import { shape } from '../float/vector.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import { featureOf, formatOf, isPacked, type Kind, PREFIX, sourceOf, widthOf } from './sse-float.ts';
import { algebraOf, allLanes, asNumber, ordinaryLanes, sureOfOrder, unless } from './sse-host.ts';
import { commit, imm8, isVex, loadLow, storeLow, ZERO_VECTOR } from './sse-operands.ts';

/** Floating-point comparisons: CMPxx, COMISx, UCOMISx. */

/** CMPxx: the legacy forms know the first eight predicates. SDM 2A 3.2 Table 3-1. */
const compare = (kind: Kind): Instruction => {
  const format = formatOf(kind);
  const name = `CMP${kind.toUpperCase()}`;
  return instruction({
    name,
    source: `SDM 2A 3.2 "${name}"`,
    forms: { [`${PREFIX[kind]} 0F C2 /r ib`]: `${name} xmm, ${sourceOf(kind)}, imm8` },
    needs: 'sse',
    feature: featureOf(kind),
    execute(m) {
      const which = m.load(2);
      const mask = isVex() ? 31 : 7;
      const predicate = i32.and(imm8(m, 2), i32.const(mask));
      // Of numbers that are ordered the low three bits ask all there is to ask
      const known = which.isConst ? which.imm & 7 : undefined;
      if (isPacked(kind)) {
        const b = m.loadV(1);
        const a = m.loadV(0);
        const result = m.f.local(V128);
        const byLibrary = (): void => {
          m.f.set(result, call(m.lib.byName(`${shape(format)}.predicate`), a, b, predicate));
          commit(m);
        };
        if (known === undefined) byLibrary();
        else {
          m.f.set(result, lanesThat(format, known, a, b));
          const plain = allLanes(v128.and(ordinaryLanes(format, a), ordinaryLanes(format, b)));
          m.f.if(i32.eqz(plain), byLibrary);
        }
        m.storeV(0, result.get);
        return;
      }
      const bytes = widthOf(format);
      const b = loadLow(m, 1, bytes);
      const a = loadLow(m, 0, bytes);
      const holds = m.f.local(I32);
      const byLibrary = (): void => {
        m.f.set(holds, call(m.lib.byName(`${format.name}.predicate`), a, b, predicate));
        commit(m);
      };
      if (known === undefined) byLibrary();
      else {
        unless(
          m,
          (unsure) => {
            sureOfOrder(m, format, a, unsure);
            sureOfOrder(m, format, b, unsure);
            m.f.set(holds, numberThat(format, known, a, b));
          },
          byLibrary,
        );
      }
      storeLow(m, 0, i64.sub(i64.const(0), i64.extendI32U(holds.get)), bytes);
    },
  });
};

/** The low three bits of a predicate, of numbers that are no NaNs: equal, less, less or equal, never, and their opposites. */
function lanesThat(format: Format, predicate: number, a: Expr, b: Expr): Expr {
  const o = algebraOf(format);
  const positive = [o.eq(a, b), o.lt(a, b), o.le(a, b), ZERO_VECTOR][predicate & 3]!;
  return predicate & 4 ? v128.not(positive) : positive;
}
function numberThat(format: Format, predicate: number, a: Expr, b: Expr): Expr {
  const o = format === DOUBLE ? f64 : f32;
  const [p, q] = [asNumber(format, a), asNumber(format, b)];
  const positive = [o.eq(p, q), o.lt(p, q), o.le(p, q), i32.const(0)][predicate & 3]!;
  return predicate & 4 ? i32.eqz(positive) : positive;
}

/** COMISx and UCOMISx: ZF PF CF as after FCOMI; OF SF AF clear. `strict`: a QNaN raises IE too. */
const ordered = (kind: 'ss' | 'sd', strict: boolean): Instruction => {
  const format = formatOf(kind);
  const name = `${strict ? '' : 'U'}COMIS${kind === 'ss' ? 'S' : 'D'}`;
  return instruction({
    name,
    source: `SDM 2 "${name}"`,
    forms: { [`${kind === 'ss' ? 'NP' : '66'} 0F ${strict ? '2F' : '2E'} /r`]: `${name} xmm, ${sourceOf(kind)}` },
    needs: 'sse',
    feature: featureOf(kind),
    execute(m) {
      const o = format === DOUBLE ? f64 : f32;
      const bytes = widthOf(format);
      const b = loadLow(m, 1, bytes);
      const a = loadLow(m, 0, bytes);
      const flags = m.f.local(I32);
      unless(
        m,
        (unsure) => {
          sureOfOrder(m, format, a, unsure);
          sureOfOrder(m, format, b, unsure);
          const [p, q] = [asNumber(format, a), asNumber(format, b)];
          m.f.set(flags, i32.or(o.lt(p, q), i32.shl(o.eq(p, q), i32.const(Math.log2(RFLAGS.ZF)))));
        },
        () => {
          const relation = m.let(call(m.lib.byName(`${format.name}.compare`), a, b, i32.const(strict ? 1 : 0)));
          commit(m);
          const is = (which: number): Expr => i32.eq(relation.get, i32.const(which));
          const unordered = select(is(RELATION.UNORDERED), i32.const(RFLAGS.ZF | RFLAGS.PF | RFLAGS.CF), i32.const(0));
          m.f.set(flags, select(is(RELATION.EQUAL), i32.const(RFLAGS.ZF), i32.or(unordered, is(RELATION.LESS))));
        },
      );
      m.flagsExplicit(i64.extendI32U(flags.get));
    },
  });
};

export const SSE_COMPARE: readonly Instruction[] = [
  compare('ps'),
  compare('pd'),
  compare('ss'),
  compare('sd'),
  ordered('ss', false),
  ordered('sd', false),
  ordered('ss', true),
  ordered('sd', true),
];
