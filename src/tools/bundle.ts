/** What the bundle gives: scripts/bundle.mjs makes one file of this and all behind it, bin/bundle.mjs loads that. */
export { snapshotCounters } from '../inspect/counters.ts';
export { Machine } from '../machine/machine.ts';
export { main } from './cli/main.ts';
export { measureRoundTrip } from './cli/nested-measure.ts';
export { nameBuild } from './jit-cache/build-name.ts';
export { JitCache } from './jit-cache/jit-cache.ts';
export { once } from './v8-flags.ts';
