import type { FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { defineArithmetic } from './f80-arithmetic.ts';
import { defineConversions } from './f80-convert.ts';
import { defineFixed } from './f80-fixed.ts';
import { Definer, defineOperands } from './f80-format.ts';
import { defineLogarithms } from './f80-logarithm.ts';
import { defineRemainder } from './f80-remainder.ts';
import { defineRounding } from './f80-round.ts';
import { defineShortWays } from './f80-short.ts';
import { defineStack } from './f80-stack.ts';
import { defineTrigonometry } from './f80-trigonometry.ts';

/**
 * Double extended-precision arithmetic and the x87 register stack as functions of the core module. Names: `f80.…` take
 * and give values (f80-format.ts says how), `x87.…` work on the vCPU's state.
 */
export function defineF80(m: ModuleBuilder): Record<string, FunctionBuilder> {
  const d = new Definer(m);
  defineOperands(d);
  defineRounding(d);
  defineArithmetic(d);
  defineRemainder(d);
  defineConversions(d);
  defineStack(d);
  defineShortWays(d);
  defineFixed(d);
  defineLogarithms(d);
  defineTrigonometry(d);
  return d.functions;
}
