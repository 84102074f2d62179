import { type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { productOf, quotientOf, sum } from './f80-arithmetic.ts';
import {
  controlWord,
  type Definer,
  EXC,
  EXPONENT,
  exc,
  exponent,
  FSW,
  INTEGER_BIT,
  isSpecial,
  ONE64,
  SIGN,
  sign,
  TWO_VALUES,
  type Value,
  ZERO,
  ZERO64,
} from './f80-format.ts';
import { roundsUp } from './f80-round.ts';
import { registerAddress, unmasked } from './f80-stack.ts';

/**
 * The four operations from operands to the register they go to, in one function each:
 *
 *   x87.add, x87.sub, x87.mul, x87.div   (number of the destination's register, a, b) → 1 done, 0 nothing has happened
 *
 * Nothing happens if an exception would be raised that is not masked: f80.add … and x87.result then tell which. Normal
 * numbers with full precision, results well inside the range and PM set stay within the function.
 */
export function defineShortWays(d: Definer): void {
  for (const operation of ['add', 'sub', 'mul', 'div'] as const) {
    d.define(`x87.${operation}`, [I32, ...TWO_VALUES], [I32], (f) => {
      const [destination, aSig, aSe, bSig, bSe] = f.parameters as [Local, Local, Local, Local, Local];
      const [a, b]: Value[] = [
        { sig: aSig, se: aSe },
        { sig: bSig, se: bSe },
      ];
      const store = (sig: Expr, se: Expr, status: Expr): void => {
        const address = registerAddress(destination.get);
        f.do(i64.store(address, sig, S.FPR));
        f.do(i32.store16(address, se, S.FPR + 8));
        f.do(i32.store16(ZERO, i32.or(i32.and(i32.load16U(ZERO, S.FSW), i32.const(~FSW.C1)), status), S.FSW));
        f.ret(i32.const(1));
      };
      f.block((long) => {
        // PC = 64 bits, PM
        f.brIf(long, i32.ne(i32.and(controlWord(), i32.const(0x120)), i32.const(0x120)));
        f.brIf(long, i32.or(isSpecial(a!), isSpecial(b!)));
        shortWay(d, f, operation, a!, b!, long, store);
      });
      const result = { sig: f.local(I64), se: f.local(I32) };
      f.do(i32.store(ZERO, ZERO, EXC));
      d.pair(f, result, `f80.${operation}`, aSig.get, aSe.get, bSig.get, bSe.get);
      f.if(unmasked(exc()), () => f.ret(ZERO));
      store(result.sig.get, result.se.get, exc());
    });
  }
}

/** Of normal numbers. Branches to `long` before anything has happened if the result is near the end of the range. */
function shortWay(
  d: Definer,
  f: FunctionBuilder,
  operation: 'add' | 'sub' | 'mul' | 'div',
  a: Value,
  b: Value,
  long: Label,
  store: (sig: Expr, se: Expr, status: Expr) => void,
): void {
  const aExp = f.let(exponent(a.se.get));
  const bExp = f.let(exponent(b.se.get));
  // `long` wants its operands as they came
  const aSig = f.let(a.sig.get);
  const bSig = f.let(b.sig.get);
  const negative = f.local(I32);
  let hi = f.local(I64);
  let lo = f.local(I64);
  let exp = aExp;
  if (operation === 'add' || operation === 'sub') {
    f.set(negative, sign(a.se.get));
    const flip = i32.const(operation === 'sub' ? SIGN : 0);
    const bSign = f.let(sign(i32.xor(b.se.get, flip)));
    const terms = [
      { sig: aSig, exp: aExp, sign: negative },
      { sig: bSig, exp: bExp, sign: bSign },
    ] as const;
    sum(d, f, ...terms, hi, lo, (zero) => store(ZERO64, zero, ZERO));
  } else {
    f.set(negative, sign(i32.xor(a.se.get, b.se.get)));
    ({ hi, lo, exp } = (operation === 'mul' ? productOf : quotientOf)(f, aSig, aExp, bSig, bExp));
  }
  // So that it stays inside if it is rounded up, too
  f.brIf(long, i32.geU(i32.sub(exp.get, i32.const(1)), i32.const(EXPONENT - 2)));
  const status = f.let(ZERO);
  f.if(i64.ne(lo.get, ZERO64), () => {
    const up = f.let(roundsUp(f, negative, i64.and(hi.get, ONE64), lo));
    f.set(hi, i64.add(hi.get, i64.extendI32U(up.get)));
    f.if(i64.eqz(hi.get), () => {
      f.set(hi, INTEGER_BIT);
      f.set(exp, i32.add(exp.get, i32.const(1)));
    });
    f.set(status, select(up.get, i32.const(FSW.PE | FSW.C1), i32.const(FSW.PE)));
  });
  store(hi.get, i32.or(negative.get, exp.get), status.get);
}
