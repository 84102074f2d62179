import { type Expr, I32, i32, i64, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';

/** The loop of repeated CMPS and SCAS over host memory, for core/strings.ts. */
export interface StringKernels {
  /**
   * Compares elements until two are equal (`way` SEEK_EQUAL) or differ, or `count` are compared.
   *
   * @param left   Host address of the first element; with FIXED that of the only one.
   * @param step   Bytes from one element to the next: the element's size, or less than zero.
   * @returns      How many were compared.
   */
  compareElements(left: number, right: number, count: number, step: number, way: number): number;
}

export const SEEK_EQUAL = 1;
export const FIXED = 2;

type Vectors = readonly [splat: (x: Expr) => Expr, equal: (a: Expr, b: Expr) => Expr];
type Element = readonly [bytes: number, load: (address: Expr) => Expr, vectors: Vectors];

const ELEMENTS: readonly Element[] = [
  [1, (at) => i64.load8U(at), [(x) => v128.i8x16Splat(i32.wrap(x)), v128.i8x16Eq]],
  [2, (at) => i64.load16U(at), [(x) => v128.i16x8Splat(i32.wrap(x)), v128.i16x8Eq]],
  [4, (at) => i64.load32U(at), [(x) => v128.i32x4Splat(i32.wrap(x)), v128.i32x4Eq]],
  [8, (at) => i64.load(at), [v128.i64x2Splat, v128.i64x2Eq]],
];

/** Sixteen bytes at a time as long as they do not decide, upwards; then one element at a time. */
export function buildCompareElements(f: FunctionBuilder): void {
  const [left, right, count, step, way] = f.parameters as [Local, Local, Local, Local, Local];
  const zero = i32.const(0);
  const seek = f.let(i32.and(way.get, i32.const(SEEK_EQUAL)));
  const leftStep = f.let(i32.mul(step.get, i32.eqz(i32.and(way.get, i32.const(FIXED)))));
  const done = f.let(zero);
  const advance = (leftBy: Expr, rightBy: Expr): void => {
    f.set(left, i32.add(left.get, leftBy));
    f.set(right, i32.add(right.get, rightBy));
  };
  const forward = i32.gtS(step.get, zero);
  const size = f.let(i32.sub(i32.xor(step.get, i32.shrS(step.get, i32.const(31))), i32.shrS(step.get, i32.const(31))));
  for (const [bytes, load, [splat, equal]] of ELEMENTS) {
    f.if(i32.eq(size.get, i32.const(bytes)), () => {
      f.if(forward, () => {
        const lanes = i32.const(16 / bytes);
        const first = f.let(splat(load(left.get)));
        f.block((decided) => {
          f.loop((again) => {
            f.brIf(decided, i32.ltU(i32.sub(count.get, done.get), lanes));
            f.if(leftStep.get, () => f.set(first, v128.load(left.get)));
            const same = f.let(equal(first.get, v128.load(right.get)));
            f.brIf(decided, v128.anyTrue(v128.xor(same.get, v128.i32x4Splat(i32.sub(seek.get, i32.const(1))))));
            advance(i32.mul(leftStep.get, lanes), i32.const(16));
            f.set(done, i32.add(done.get, lanes));
            f.br(again);
          });
        });
        f.if(i32.eq(done.get, count.get), () => f.ret(done.get));
      });
      f.loop((again) => {
        f.set(done, i32.add(done.get, i32.const(1)));
        f.if(i32.eq(i64.eq(load(left.get), load(right.get)), seek.get), () => f.ret(done.get));
        f.if(i32.eq(done.get, count.get), () => f.ret(done.get));
        advance(leftStep.get, step.get);
        f.br(again);
      });
    });
  }
  f.unreachable();
}

export const COMPARE_PARAMETERS = [I32, I32, I32, I32, I32] as const;
