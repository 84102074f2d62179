/**
 * A shadow MMU: the roots the engine can run on for one purpose, and the walker of what they shadow.
 *
 *   rootMmu    no second stage of L1 in force: EPT01, or (L0 without TDP) the shadow of CR3's tables
 *   guestMmu   the shadow of EPT12
 *
 * Source  nested-mmu.md 1.2, 3.1 "ShadowMmu", 4.2.
 */
import type { SecondStageRoot } from '../../contracts/second-stage.ts';
import type { PageWalk } from './page-walk.ts';

/** A root and what it was made for: the label stays with the root (6.3 row 2). `page` 0 is "none". */
export interface RootRecord {
  page: number;
  pgdLo: number;
  pgdHi: number;
}

const emptyRecord = (): RootRecord => ({ page: 0, pgdLo: 0, pgdHi: 0 });

/** The root in use and those used before it, most recent first. */
export class RootCache {
  current: RootRecord = emptyRecord();
  readonly previous: RootRecord[];

  constructor(previousRoots: number) {
    this.previous = Array.from({ length: previousRoots }, emptyRecord);
  }

  /** Exchanges the current record with a previous one: two stores, no copy. */
  swap(i: number): void {
    const record = this.current;
    this.current = this.previous[i]!;
    this.previous[i] = record;
  }
}

export class ShadowMmu {
  readonly name: 'rootMmu' | 'guestMmu';
  roots: RootCache;
  /** The walker of the tables being shadowed; of a direct MMU, the GVA walker of whoever runs. */
  w: PageWalk;
  /** A root of four entries for 32-bit and PAE formats; made on demand, 0 until then. */
  paeRoot = 0;
  /** What the engine is told; reused. */
  readonly descriptor: SecondStageRoot = {
    table: 0,
    id: 0,
    levels: 4,
    accessedDirty: false,
    mbec: false,
    linear: false,
  };

  constructor(name: ShadowMmu['name'], roots: RootCache, w: PageWalk) {
    this.name = name;
    this.roots = roots;
    this.w = w;
  }

  /** Role that a root of this MMU gets. */
  get rootRole(): number {
    return this.w.rootRole;
  }
}
