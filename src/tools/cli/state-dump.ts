import { hexBytes } from '../../base/format.ts';
import { GuestView } from '../../inspect/guest-view.ts';
import { formatRegisters } from '../../inspect/register-text.ts';
import { snapshotRegisters } from '../../inspect/registers.ts';
import type { Machine } from '../../machine/machine.ts';

const CODE_BYTES = 16;

/** Every CPU's registers and the bytes at its instruction pointer, for a guest that ended badly. */
export function dumpState(machine: Machine): string {
  return machine.vcpus
    .filter((vcpu) => vcpu.activity !== 'wait for SIPI')
    .map((vcpu) => {
      const registers = snapshotRegisters(vcpu);
      const code = new Uint8Array(CODE_BYTES);
      const start = registers.mode === '64-bit' ? registers.rip : registers.rip + registers.segments[1]!.base;
      const found = new GuestView(vcpu).readLinear(start, code);
      const text = found === 0 ? 'not mapped' : hexBytes(code.subarray(0, found));
      return `${formatRegisters(registers)}\nCode at the instruction pointer: ${text}`;
    })
    .join('\n\n');
}
