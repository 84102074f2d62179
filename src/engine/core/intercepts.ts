import { ALLOW, S } from './layout.ts';
import type { Processor } from './processor.ts';

/** Does L0 want this instruction? Not if it is letting it run by `step`. `bit`: of INTERCEPT. */
export const intercepts = (cpu: Processor, bit: number): boolean =>
  (cpu.vcpu.intercepts.instructions & bit) !== 0 && !(cpu.get(S.ALLOW) & ALLOW.INTERCEPT);
