import type { Vcpu } from './vcpu.ts';

/**
 * Watches the vCPUs of a VM on their way through the engine: profilers, trace hashes. The guest cannot see it: a run that
 * ends early for a watcher goes on where it ended.
 */
export interface VcpuWatcher {
  /** Instructions that the vCPU may run until `left` is called at the latest; at least 1. */
  limit(vcpu: Vcpu): number;
  /** The engine came back with this EXIT; registers and the instruction count are exact. L0 has not looked at it yet. */
  left(vcpu: Vcpu, reason: number): void;
}
