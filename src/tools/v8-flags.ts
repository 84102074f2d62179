import { setFlagsFromString } from 'node:v8';

const NODE = Number.parseInt(process.versions.node, 10);

/** Versions of Node whose V8 has the flag; V8 complains on stderr about one that it does not have. */
const HINTS_BY_FLAG = { from: 20, to: 23 } as const;

/** The one that it was measured on. */
const LAZY_VALIDATION = { node: 20 } as const;

/**
 * Tells V8 what serves generated code: comes before the first module is made.
 *
 * `--wasm-tiering-budget`: TurboFan takes some 120 µs for an instruction of the guest, in the background but on processors
 * that the machine would like to have. What a region must run before that is ten times V8's default; MEASURED on a Debian
 * boot, where it saves a tenth of the CPU time, and a loop is at full speed after 20 ms all the same.
 *
 * `--interrupt-budget`: TurboFan on our TypeScript, functions that hardly matter among them, is a fifth of a boot's CPU time
 * by V8's default. MEASURED: twice the default saves 4 % of all, and the boot is over no later.
 *
 * `--semi-space-growth-factor`: all that a start makes stays, and a young generation of 1 MiB is copied ten times until it has
 * grown. MEASURED: 20 ms of a start.
 *
 * `--wasm-lazy-validation`: a function is looked at when it is first called, as it is compiled then anyway. Else all functions of
 * a module are when the module is made, by all of V8's threads, for which the machine waits. MEASURED: 1 % of a boot and of the
 * syscall phases.
 *
 * `--experimental-wasm-branch-hinting` makes it honour the hints that wasm/module.ts writes: paths that are hardly ever taken,
 * and the register moves that they need, go out of the way.
 */
export function prepareV8(): void {
  setFlagsFromString('--wasm-tiering-budget=20000000');
  setFlagsFromString('--semi-space-growth-factor=16');
  if (NODE === BUDGET.node) setBudget(BUDGET.bytes);
  if (NODE === LAZY_VALIDATION.node) setFlagsFromString('--wasm-lazy-validation');
  if (NODE >= HINTS_BY_FLAG.from && NODE <= HINTS_BY_FLAG.to) setFlagsFromString('--experimental-wasm-branch-hinting');
}

/** Bytecode that a function runs before V8 looks whether to optimize it, of one version's V8; and for what runs once. */
const BUDGET = { node: 20, bytes: 135_168, once: 1_000_000 } as const;

const setBudget = (bytes: number): void => setFlagsFromString(`--interrupt-budget=${bytes}`);
let budget: number = BUDGET.bytes;

function withBudget<T>(bytes: number, f: () => T): T {
  if (NODE !== BUDGET.node || budget === bytes) return f();
  const before = budget;
  budget = bytes;
  setBudget(bytes);
  try {
    return f();
  } finally {
    budget = before;
    setBudget(before);
  }
}

/**
 * Runs what a start needs and a run does not: tables, the generated core. V8 would optimize the busiest of it, and be done
 * when it is over. MEASURED on a start: 60 ms of CPU.
 */
export const once = <T>(make: () => T): T => withBudget(BUDGET.once, make);

/** Runs what compares V8's flags with those of another run. */
export const asInRun = <T>(f: () => T): T => withBudget(BUDGET.bytes, f);
