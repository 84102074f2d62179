import { call, i32, i64 } from '../../wasm/expr.ts';
import { shape } from '../float/vector.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import {
  algebra,
  asNumber,
  featureOf,
  formatOf,
  isOrdinary,
  isPacked,
  type Kind,
  PREFIX,
  sourceOf,
  widthOf,
} from './sse-float.ts';
import { bind, commit, imm8, isVex, loadLow, storeLow } from './sse-operands.ts';

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
      const predicate = i32.and(imm8(m, 2), i32.const(isVex() ? 31 : 7));
      if (isPacked(kind)) {
        const b = m.loadV(1);
        const mask = bind(m, call(m.lib.byName(`${shape(format)}.predicate`), m.loadV(0), b, predicate));
        commit(m);
        m.storeV(0, mask);
        return;
      }
      const bytes = widthOf(format);
      const b = loadLow(m, 1, bytes);
      const holds = bind(m, call(m.lib.byName(`${format.name}.predicate`), loadLow(m, 0, bytes), b, predicate));
      commit(m);
      storeLow(m, 0, i64.sub(i64.const(0), i64.extendI32U(holds)), bytes);
    },
  });
};

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
      const o = algebra(kind);
      const bytes = widthOf(format);
      const bBits = loadLow(m, 1, bytes);
      const aBits = loadLow(m, 0, bytes);
      const a = bind(m, asNumber(format, aBits));
      const b = bind(m, asNumber(format, bBits));
      const relation = m.let(
        i32.or(i32.or(o.lt(a, b), i32.shl(o.eq(a, b), i32.const(1))), i32.shl(o.lt(b, a), i32.const(2))),
      );
      m.f.if(i32.eqz(i32.and(isOrdinary(o, format, a), isOrdinary(o, format, b))), () => {
        m.f.set(relation, call(m.lib.byName(`${format.name}.compare`), aBits, bBits, i32.const(strict ? 1 : 0)));
        commit(m);
      });
      // RELATION: LESS 1, EQUAL 2, GREATER 4, UNORDERED 8; a byte of flags for each
      const flags = [
        [1, RFLAGS.CF],
        [2, RFLAGS.ZF],
        [8, RFLAGS.ZF | RFLAGS.PF | RFLAGS.CF],
      ] as const;
      const chosen = flags
        .map(([bit, value]) =>
          i32.and(i32.sub(i32.const(0), i32.ne(i32.and(relation.get, i32.const(bit)), i32.const(0))), i32.const(value)),
        )
        .reduce((x, y) => i32.or(x, y));
      m.flagsExplicit(i64.extendI32U(chosen));
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
