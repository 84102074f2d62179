import type { Processor } from './processor.ts';

/**
 * An instruction, or a part of one, in TypeScript: rare or intricate ones. Returns a STATUS.
 *
 * @param cpu     The processor; registers of the running vCPU through `get`/`set` with S.* and GPR addresses.
 * @param record  Address of the decoded instruction: REC and AUX fields.
 */
export type Helper = (cpu: Processor, record: number) => number;

/** How often a number was asked for: code in which none is does not depend on the order in which helpers got theirs. */
export const helpersAsked = (): number => asked;
let asked = 0;

const numbers = new Map<Helper, number>();
/** In order of their numbers. */
export const HELPERS: Helper[] = [];

/** Number by which generated code calls `helper`. */
export function helperNumber(helper: Helper): number {
  asked += 1;
  const known = numbers.get(helper);
  if (known !== undefined) return known;
  numbers.set(helper, HELPERS.length);
  return HELPERS.push(helper) - 1;
}
