import { assert } from '../../base/assert.ts';
import { I32, i32, v128 } from '../../wasm/expr.ts';
import { ModuleBuilder } from '../../wasm/module.ts';
import { SWITCHED } from './layout.ts';
import type { EngineMemory } from './memory.ts';

/** SWITCHED registers are compared by parts of this many bytes. */
export const PART_BYTES = 16;

/**
 * Images of the SWITCHED registers in linear memory: loaded and compared as one block, in WebAssembly, which is what a
 * switch of level needs of them.
 *
 * Knows   nothing of what the registers are for: who loads an image settles what depends on it.
 */
export interface StateImages {
  /** The image at that address into the registers. */
  load(image: number): void;
  /** A bit for each part in which registers and image differ. */
  differences(image: number): number;
}

export function stateImages({ memory }: EngineMemory): StateImages {
  assert(SWITCHED.BYTES % PART_BYTES === 0 && SWITCHED.BYTES <= 32 * PART_BYTES, 'every part has a bit');
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', 1);
  const state = i32.const(0);
  const load = m.func('load', [I32], [], true);
  const differences = m.func('differences', [I32], [I32], true);
  const from = load.parameters[0]!.get;
  const image = differences.parameters[0]!.get;
  let bits = i32.const(0);
  for (let at = 0; at < SWITCHED.BYTES; at += PART_BYTES) {
    load.do(v128.store(state, v128.load(from, at), SWITCHED.FIRST + at));
    const part = v128.xor(v128.load(state, SWITCHED.FIRST + at), v128.load(image, at));
    bits = i32.or(bits, i32.shl(v128.anyTrue(part), i32.const(at / PART_BYTES)));
  }
  differences.ret(bits);
  return new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } })
    .exports as unknown as StateImages;
}
