/**
 * Where the engine is known not to do what the real processor does. Every row is a debt: a row that explains nothing
 * any more is named by the test, and is to be deleted with the change that pays it.
 */
import type { Mismatch } from './lockstep.ts';

export const KNOWN_DIFFERENCES: readonly { readonly why: string; explains(mismatch: Mismatch): boolean }[] = [
  {
    why: 'SHA from memory needs alignment by the manual (SDM 2A Table 2-21 "Type 4"), and AMD family 25 does not ask for it',
    explains: ({ form, report }) =>
      / SHA(1|256)\w+ xmm, xmm\/m128/.test(form) && / (none|#12|#14|#17) is right, #13 came$/.test(report),
  },
  {
    why: 'CALL r/m to a target that is not canonical, with a stack that cannot be written: AMD family 25 pushes first',
    explains: ({ form, report }) => /^FF \/2 .*CALL r\/mv/.test(form) && / #14 is right, #13 came$/.test(report),
  },
];

/** Mismatches that no row explains, how many each row does explain, and rows that explain none. */
export function judge(mismatches: readonly Mismatch[]): {
  unexplained: Mismatch[];
  explained: ReadonlyMap<string, number>;
  stale: string[];
} {
  const used = new Map<string, number>();
  const unexplained = mismatches.filter((mismatch) => {
    const row = KNOWN_DIFFERENCES.find(({ explains }) => explains(mismatch));
    if (row) used.set(row.why, (used.get(row.why) ?? 0) + 1);
    return row === undefined;
  });
  return {
    unexplained,
    explained: used,
    stale: KNOWN_DIFFERENCES.map(({ why }) => why).filter((why) => !used.has(why)),
  };
}
