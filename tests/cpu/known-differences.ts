/**
 * Where the engine is known not to do what the real processor does. Every row is a debt: a row that explains nothing
 * any more is named by the test, and is to be deleted with the change that pays it.
 */
import type { Mismatch } from './lockstep.ts';

export const KNOWN_DIFFERENCES: readonly { readonly why: string; explains(mismatch: Mismatch): boolean }[] = [];

/** Mismatches that no row explains, and rows that explain none. */
export function judge(mismatches: readonly Mismatch[]): { unexplained: Mismatch[]; stale: string[] } {
  const used = new Set<string>();
  const unexplained = mismatches.filter((mismatch) => {
    const row = KNOWN_DIFFERENCES.find(({ explains }) => explains(mismatch));
    if (row) used.add(row.why);
    return row === undefined;
  });
  return { unexplained, stale: KNOWN_DIFFERENCES.map(({ why }) => why).filter((why) => !used.has(why)) };
}
