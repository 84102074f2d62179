import { setFlagsFromString } from 'node:v8';

/** Versions of Node whose V8 has the flag; V8 complains on stderr about one that it does not have. */
const HINTS_BY_FLAG = { from: 20, to: 23 } as const;

/**
 * Tells V8 what serves generated code: comes before the first module is made.
 *
 * `--wasm-tiering-budget`: TurboFan takes some 120 µs for an instruction of the guest, in the background but on processors
 * that the machine would like to have. What a region must run before that is ten times V8's default; MEASURED on a Debian
 * boot, where it saves a tenth of the CPU time, and a loop is at full speed after 20 ms all the same.
 *
 * `--experimental-wasm-branch-hinting` makes it honour the hints that wasm/module.ts writes: paths that are hardly ever taken,
 * and the register moves that they need, go out of the way.
 */
export function prepareV8(): void {
  setFlagsFromString('--wasm-tiering-budget=20000000');
  const node = Number.parseInt(process.versions.node, 10);
  if (node >= HINTS_BY_FLAG.from && node <= HINTS_BY_FLAG.to) setFlagsFromString('--experimental-wasm-branch-hinting');
}
