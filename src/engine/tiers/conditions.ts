import { type Expr, i32, i64 } from '../../wasm/expr.ts';
import { CC, RFLAGS } from '../isa/flags.ts';

/** Condition pairs after a comparison: O, B, E, BE, S, P, L, LE and their opposites. */
export const COMPARES: readonly ([(a: Expr, b: Expr) => Expr, (a: Expr, b: Expr) => Expr] | undefined)[] = [
  undefined,
  [i64.ltU, i64.geU],
  [i64.eq, i64.ne],
  [i64.leU, i64.gtU],
  undefined,
  undefined,
  [i64.ltS, i64.geS],
  [i64.leS, i64.gtS],
];

const extended = (value: Expr, bytes: number): Expr =>
  bytes === 8 ? value : (bytes === 4 ? i64.extend32S : bytes === 2 ? i64.extend16S : i64.extend8S)(value);

/**
 * A condition (i32) from flags of a known kind, or nothing if that is not simple. EXPLICIT's are all in `b`.
 *
 * @param known  CC_KIND, with the operands' size.
 */
export function knownCondition(code: number, known: number, a: Expr, b: Expr): Expr | undefined {
  const bytes = 1 << (known >>> CC.SIZE_SHIFT);
  const negate = (code & 1) !== 0;
  const test = (bit: number): Expr => i64.ne(i64.and(b, i64.const(bit)), i64.const(0));
  const either = (yes: Expr): Expr => (negate ? i32.eqz(yes) : yes);
  const zero = i64.const(0);
  switch (known & CC.CLASS_MASK) {
    case CC.SUB: {
      const compare = COMPARES[code >>> 1];
      if (compare) return compare[code & 1]!(a, b);
      if (code >>> 1 !== 4) return undefined;
      return (negate ? i64.geS : i64.ltS)(extended(i64.sub(a, b), bytes), zero);
    }
    case CC.ADD:
      if (code >>> 1 === 1) return (negate ? i64.geU : i64.ltU)(a, b);
      if (code >>> 1 === 2) return (negate ? i64.ne : i64.eq)(a, zero);
      if (code >>> 1 === 4) return (negate ? i64.geS : i64.ltS)(a, zero);
      return undefined;
    case CC.RESULT:
      switch (code >>> 1) {
        case 0:
          return either(test(0x800));
        case 1:
          return either(test(1));
        case 2:
          return (negate ? i64.ne : i64.eq)(a, zero);
        case 3:
          return either(i32.or(i64.eq(a, zero), test(1)));
        case 4:
          return (negate ? i64.geS : i64.ltS)(a, zero);
        case 6:
          return either(i32.ne(i64.ltS(a, zero), test(0x800)));
        case 7:
          return either(i32.or(i64.eq(a, zero), i32.ne(i64.ltS(a, zero), test(0x800))));
        default:
          return undefined;
      }
    default: {
      const { OF, CF, ZF, SF, PF } = RFLAGS;
      const less = i32.ne(test(SF), test(OF));
      return either(
        [test(OF), test(CF), test(ZF), test(CF | ZF), test(SF), test(PF), less, i32.or(test(ZF), less)][code >>> 1]!,
      );
    }
  }
}
