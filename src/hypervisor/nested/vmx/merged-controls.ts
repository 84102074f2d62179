import { type InterceptControls, noIntercepts } from '../../../engine/core/cpu.ts';

/** What controls02.ts makes of the controls of one vmcs12: stays with it until one of them changes. */
export class MergedControls {
  pin = 0;
  primary = 0;
  secondary = 0;
  isTscScaled = false;
  tscMultiplierLo = 0;
  tscMultiplierHi = 0;
  pleGap = 0;
  pleWindow = 0;
  /** As S.MSR_BITMAP has it while L2 runs. */
  msrBitmap = 1;
  /** Exits that are L1's whatever else is known of them, by reason: 64 bits. See turns.ts. */
  turnReasonsLo = 0;
  turnReasonsHi = 0;
  readonly intercepts: InterceptControls = noIntercepts();
}
