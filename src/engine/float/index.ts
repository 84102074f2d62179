import type { FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { defineSimd } from '../isa/sse-library.ts';
import { defineF80 } from './f80.ts';
import { defineFloat } from './library.ts';

/** All floating-point and vector functions of the core module, by name. */
export const defineFloatLibrary = (m: ModuleBuilder): Record<string, FunctionBuilder> => ({
  ...defineFloat(m),
  ...defineF80(m),
  ...defineSimd(m),
});
