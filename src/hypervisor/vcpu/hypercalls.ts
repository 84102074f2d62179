import { gpr } from '../../engine/core/layout.ts';
import type { Vcpu } from './vcpu.ts';

/** KVM's hypercall numbers and errors. */
const HYPERCALL = { SEND_IPI: 10, ENOSYS: -1000, EPERM: -1 } as const;

/**
 * A call to L0, with KVM's numbers and registers. None is advertised in CPUID; guests that call without asking get
 * KVM's answers. Linux `Documentation/virt/kvm/x86/hypercalls.rst`.
 */
export function hypercall(vcpu: Vcpu): void {
  const { state, vm } = vcpu;
  let result: number = HYPERCALL.ENOSYS;
  if (state.cpl !== 0) result = HYPERCALL.EPERM;
  else if (state.gprLow(0) === HYPERCALL.SEND_IPI) {
    result = 0;
    const first = state.gprLow(2);
    const bitmap = [state.gprLow(3), state.gprHigh(3), state.gprLow(1), state.gprHigh(1)];
    for (let bit = 0; bit < 128; bit += 1) {
      if (!((bitmap[bit >>> 5]! >>> (bit & 31)) & 1) || first + bit >= vm.vcpus.length) continue;
      vm.irq.sendIpi(vcpu.index, state.gprLow(6) & 0x7ff, first + bit, true);
      result += 1;
    }
  }
  state.setU64(gpr(0), result, result < 0 ? 0xffff_ffff : 0);
  vcpu.skip();
}
