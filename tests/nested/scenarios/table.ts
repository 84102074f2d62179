/**
 * What real hypervisors show on this machine: one row a scenario. Each says what it saw and fails on what it should
 * not have seen.
 */
import { machineScenarios, optionScenarios } from './kvm-options.ts';
import { guestScenarios } from './l2-guests.ts';
import { memoryScenarios } from './memory.ts';
import { otherHypervisors } from './other-hypervisors.ts';

export interface Scenario {
  readonly name: string;
  /** A sentence that could be false. */
  readonly shows: string;
  /** Short enough for every push. */
  readonly ci?: true;
  run(say: (line: string) => void): void;
}

export const SCENARIOS: readonly Scenario[] = [
  ...optionScenarios,
  ...machineScenarios,
  ...guestScenarios,
  ...memoryScenarios,
  ...otherHypervisors,
];
