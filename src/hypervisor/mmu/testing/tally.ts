/**
 * How often a random test was in which state, and did what there; printed by MMU_FUZZ_SHOW.
 *
 * The letters are those of nested-mmu.md 1.3. There is no f: this machine has no system-management mode.
 */
import type { FakeVcpu } from './fake-engine.ts';

/**
 * a, b   L1 runs, with and without TDP      c  L2 runs on EPT12
 * d, e   L2 runs without EPT12, with and without TDP
 * g      L1 runs again after an L2 did
 */
export type State = 'a' | 'b' | 'c' | 'd' | 'e' | 'g';
export type Doing = 'access' | 'edit' | 'invalidation' | 'other';

export function stateOf(cpu: FakeVcpu): State {
  const { tdp } = cpu.machine.vm.config;
  const { guestMode, usesEpt } = cpu.nested;
  if (guestMode) return usesEpt ? 'c' : tdp ? 'd' : 'e';
  if (cpu.entries > 0) return 'g';
  return tdp ? 'a' : 'b';
}

export class Tally {
  readonly counts = new Map<State, Record<Doing, number>>();

  /** @param state  Where it was done: an access that exits ends in another state than it began in. */
  add(state: State, doing: Doing): void {
    let row = this.counts.get(state);
    if (row === undefined) this.counts.set(state, (row = { access: 0, edit: 0, invalidation: 0, other: 0 }));
    row[doing] += 1;
  }

  get total(): number {
    let sum = 0;
    for (const row of this.counts.values()) for (const n of Object.values(row)) sum += n;
    return sum;
  }
}
