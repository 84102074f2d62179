import { type Expr, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';

/**
 * Divides hi:lo by `divisor`, whose top bit is set and which is above `hi`. The remainder is left in `hi`.
 *
 * Source  Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D, with two digits of 32 bits.
 *
 * @returns  The quotient.
 */
export function divideLong(f: FunctionBuilder, hi: Local, lo: Local, divisor: Local): Local {
  const s32 = i64.const(32);
  const zero = i64.const(0);
  const low = i64.halves(-1, 0);
  const dh = f.let(i64.shrU(divisor.get, s32));
  const dl = f.let(i64.and(divisor.get, low));
  const quotient = f.let(zero);
  const digit = (next: Expr): void => {
    const q = f.let(i64.divU(hi.get, dh.get));
    const rest = f.let(i64.sub(hi.get, i64.mul(q.get, dh.get)));
    const part = f.let(next);
    f.loop((again) => {
      const tooBig = i32.or(
        i64.ne(i64.shrU(q.get, s32), zero),
        i64.gtU(i64.mul(q.get, dl.get), i64.or(i64.shl(rest.get, s32), part.get)),
      );
      f.if(tooBig, () => {
        f.set(q, i64.sub(q.get, i64.const(1)));
        f.set(rest, i64.add(rest.get, dh.get));
        f.brIf(again, i64.eqz(i64.shrU(rest.get, s32)));
      });
    });
    f.set(hi, i64.sub(i64.or(i64.shl(hi.get, s32), part.get), i64.mul(q.get, divisor.get)));
    f.set(quotient, i64.or(i64.shl(quotient.get, s32), q.get));
    f.release(q);
    f.release(rest);
    f.release(part);
  };
  digit(i64.shrU(lo.get, s32));
  digit(i64.and(lo.get, low));
  return quotient;
}
