import { type Callee, I32 } from '../../wasm/expr.ts';
import { type FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';

/** What the code of a turn (S.TURNS, TURN in decode/decoder.ts) may call. */
export interface TurnLibrary {
  /** () → the six status flags. */
  readonly flags: Callee;
  /** (address of the TLB context) → data accesses are checked for alignment: core/mode.ts. */
  readonly derive: Callee;
  /** L0, in TypeScript: i32 → i32. */
  readonly ask: Callee;
}

/** (record) → TURN: the function that `build` fills. */
export function turnFunction(
  memory: WebAssembly.Memory,
  functions: Readonly<Record<keyof TurnLibrary, unknown>>,
  build: (f: FunctionBuilder, library: TurnLibrary) => void,
): (record: number) => number {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', 1);
  const library = {
    flags: m.importFunction('env', 'flags', [], [I32]),
    derive: m.importFunction('env', 'derive', [I32], [I32]),
    ask: m.importFunction('env', 'ask', [I32], [I32]),
  };
  build(m.func('turn', [I32], [I32], true), library);
  const env = { ...functions, memory } as unknown as Record<string, never>;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env });
  return exports['turn'] as (record: number) => number;
}
