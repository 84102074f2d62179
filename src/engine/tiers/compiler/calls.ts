import { type Callee, call, I32, I64, i32, i64, type ValType } from '../../../wasm/expr.ts';
import type { ModuleBuilder } from '../../../wasm/module.ts';
import { S } from '../../core/layout.ts';
import type { Library } from '../../isa/semantics.ts';

/**
 * Functions that each module of regions has for itself: what is rare in compiled code, told once and called directly. A
 * call through the library's table is several times the code, in WebAssembly and more so in what V8 makes of it.
 *
 * `place` is a PLACE word. What fails leaves S.ACCESS_STATUS and S.EXIT_RECORD, for the region's slow exit.
 */
export interface RegionCalls {
  /** (linear, place) → value, extended as `place` says */
  readonly load: Callee;
  /** (linear, value, place) → status */
  readonly store: Callee;
  /** (linear, place) → host address, or 0 */
  readonly modify: Callee;
  /** (linear, place) → status; S.WIDE */
  readonly loadWide: Callee;
  readonly storeWide: Callee;
  /** (target, place) → 0, or 1: #GP(0) */
  readonly canonical: Callee;
  /** (code, kind, a, b) → 0 or 1 */
  readonly condition: Callee;
  /** (kind, a, b) → the status flags */
  readonly flags: Callee;
}

export function defineRegionCalls(m: ModuleBuilder, lib: Library): RegionCalls {
  const forward = (name: string, target: string, params: ValType[], result: ValType): Callee => {
    const f = m.func(name, params, [result]);
    f.ret(call(lib.byName(target), ...f.parameters.map((p) => p.get)));
    return f;
  };
  /** The last three parameters are the lazy flags. */
  const withFlags = (name: string, target: Callee, first: ValType[]): Callee => {
    const f = m.func(name, [...first, I32, I64, I64], [I32]);
    const [kind, a, b] = f.parameters.slice(first.length);
    const zero = i32.const(0);
    f.do(i32.store(zero, kind!.get, S.CC_KIND));
    f.do(i64.store(zero, a!.get, S.CC_A));
    f.do(i64.store(zero, b!.get, S.CC_B));
    f.ret(call(target, ...f.parameters.slice(0, first.length).map((p) => p.get)));
    return f;
  };
  return {
    load: forward('load', 'regionLoad', [I64, I32], I64),
    store: forward('store', 'regionStore', [I64, I64, I32], I32),
    modify: forward('modify', 'regionModify', [I64, I32], I32),
    loadWide: forward('loadWide', 'regionLoadWide', [I64, I32], I32),
    storeWide: forward('storeWide', 'regionStoreWide', [I64, I32], I32),
    canonical: forward('canonical', 'regionCanonical', [I64, I32], I32),
    condition: withFlags('condition', lib.condition, [I32]),
    flags: withFlags('flags', lib.flags, []),
  };
}
