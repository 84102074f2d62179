/**
 * Native code of WebAssembly modules, out of V8 and into it, by V8's functions for its own tests.
 *
 * Knows   which V8 it may ask what: a wrong question ends the process.
 *
 * MEASURED on V8 11.3 (Node 20.20.2): code is refused under other flags, by another version, or on a processor with other
 * features. It is not compared with the module's bytes, and whether V8 catches accesses outside a memory with signals is
 * not looked at: the caller sees to both. `--allow-natives-syntax` counts among the flags: it is set at both times.
 */
import { setFlagsFromString } from 'node:v8';
import { asInRun } from '../v8-flags.ts';

export interface NativeCode {
  /** TurboFan code of a module with these exports of an instance; undefined: it has none. */
  of(module: object, exports: Exports): ArrayBuffer | undefined;
  /** The module that these are the code and the bytes of; undefined: V8 does not take the code. */
  module(code: ArrayBuffer, bytes: Uint8Array): object | undefined;
  /** How many of an instance's exports, all made in its module, have TurboFan code. */
  optimized(exports: Exports): number;
}

type Exports = Readonly<Record<string, unknown>>;

/** The version of Node whose V8 is known. */
const NODE = 20;

/** A function of V8's, for one use: what is compiled again later would not have the syntax. */
function withNative<T>(name: string, parameters: readonly string[], use: (f: (...args: unknown[]) => unknown) => T): T {
  return asInRun(() => {
    setFlagsFromString('--allow-natives-syntax');
    try {
      return use(new Function(...parameters, `return %${name}(${parameters.join(', ')})`) as never);
    } finally {
      setFlagsFromString('--no-allow-natives-syntax');
    }
  });
}

/** Undefined where it is not known to work. */
export function nativeCode(): NativeCode | undefined {
  if (Number.parseInt(process.versions.node, 10) !== NODE) return undefined;
  const optimized = (exports: Exports): number =>
    withNative('IsTurboFanFunction', ['f'], (f) => {
      let count = 0;
      for (const name in exports) if (typeof exports[name] === 'function' && f(exports[name])) count += 1;
      return count;
    });
  return {
    of: (module, exports) => {
      // V8 would end the process
      if (optimized(exports) === 0) return undefined;
      return withNative('SerializeWasmModule', ['module'], (f) => {
        const code = f(module);
        return code instanceof ArrayBuffer ? code : undefined;
      });
    },
    module: (code, bytes) =>
      withNative('DeserializeWasmModule', ['code', 'bytes'], (f) => f(code, bytes) as object | undefined),
    optimized,
  };
}
