import type { FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { defineArithmetic } from './f80-arithmetic.ts';
import { defineConversions } from './f80-convert.ts';
import { Definer, defineOperands } from './f80-format.ts';
import { defineRemainder } from './f80-remainder.ts';
import { defineRounding } from './f80-round.ts';
import { defineStack } from './f80-stack.ts';

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
  return d.functions;
}
