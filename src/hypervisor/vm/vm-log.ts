import type { NumberedCheck } from '../../arch/vmx/checks.ts';
import type { Vcpu } from '../vcpu/vcpu.ts';

/**
 * Who wants to hear what happens in a VM, and never changes any of it: `-d`. What nobody wants is not there, and costs a
 * look at most; no call comes from where instructions run.
 */
export interface VmLog {
  /** The engine has left for this EXIT; L0 has not looked at it yet. */
  exit?: ((vcpu: Vcpu, reason: number) => void) | undefined;
  /** The MMU has dealt with an access: what came of it. */
  pageFault?: ((vcpu: Vcpu, access: number, result: string) => void) | undefined;
  /** L1 has entered L2. */
  nestedEntry?: ((vcpu: Vcpu) => void) | undefined;
  /** L2 has exited to L1, with a reason that may say that the entry has failed; exit information is in VMCS12. */
  nestedExit?: ((vcpu: Vcpu, reason: number) => void) | undefined;
  /** L1's VM entry was refused or has failed. */
  entryRefused?: ((vcpu: Vcpu, check: NumberedCheck) => void) | undefined;
  /** A vCPU is being reset, or has got INIT; registers are still the old ones. */
  reset?: ((vcpu: Vcpu, init: boolean) => void) | undefined;
  /** An MSR that does not exist, or a value that it does not take. */
  msrRefused?: ((vcpu: Vcpu, index: number, write: boolean) => void) | undefined;
  tripleFault?: ((vcpu: Vcpu) => void) | undefined;
}
