import type { Expr } from '../../wasm/expr.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { bind, ZERO_VECTOR } from './sse-operands.ts';
import { loadHalf, storeYmm } from './sse-vex.ts';

/** Words for rows that exist as VEX only. */

export const row = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  feature: string,
  execute: (m: Semantics) => void,
): Instruction => instruction({ name, source: `SDM 2 "${name}—${title}"`, forms, needs: 'avx', feature, execute });

/** Applies `half` to one or both halves of the source operands and writes operand 0. */
export function halves(
  m: Semantics,
  wide: boolean,
  sources: readonly number[],
  compute: (half: 0 | 1, ...v: Expr[]) => Expr,
): void {
  const low = sources.map((i) => loadHalf(m, i, 0));
  const high = wide ? sources.map((i) => loadHalf(m, i, 1)) : [];
  const first = bind(m, compute(0, ...low));
  const second = wide ? bind(m, compute(1, ...high)) : ZERO_VECTOR;
  storeYmm(m, first, second);
}

/** Both lengths of a form `VEX.{L}.66.0F38.W0 xx /r`: `NAME v, v, v/m`. */
export const both = (
  name: string,
  title: string,
  opcode: string,
  operands: string,
  feature: string,
  execute: (m: Semantics, wide: boolean) => void,
): Instruction[] =>
  ([false, true] as const).map((wide) =>
    row(
      name,
      title,
      {
        [`VEX.${wide ? '256' : '128'}.66.${opcode}`]: `${name} ${wide ? operands.replace(/xmm/g, 'ymm').replace(/m128/g, 'm256') : operands}`,
      },
      feature,
      (m) => execute(m, wide),
    ),
  );
