/**
 * Memory as gdb reads and writes it: linear addresses of the current vCPU, or guest-physical ones. Nothing is walked with
 * consequences, and devices are not reached: where there is no RAM, there is nothing.
 */
import type { L1Physical } from '../../base/address.ts';
import type { Vcpu } from '../../hypervisor/vcpu/vcpu.ts';
import { GuestView } from '../../inspect/guest-view.ts';

const PHYSICAL_MAX = 1n << 52n;

/** How many bytes were there, from the first on. */
export function readMemory(vcpu: Vcpu, physical: boolean, address: bigint, into: Uint8Array): number {
  const view = new GuestView(vcpu);
  if (!physical) return view.readLinear(address, into);
  return address >= PHYSICAL_MAX ? 0 : view.readPhysical(Number(address), into);
}

/** All or nothing. False: part of it is not mapped, or no RAM. */
export function writeMemory(vcpu: Vcpu, physical: boolean, address: bigint, bytes: Uint8Array): boolean {
  if (readMemory(vcpu, physical, address, new Uint8Array(bytes.length)) < bytes.length) return false;
  const view = new GuestView(vcpu);
  for (let done = 0; done < bytes.length; ) {
    const at = address + BigInt(done);
    const count = Math.min(bytes.length - done, 4096 - Number(at & 0xfffn));
    const to = physical ? view.behind(Number(at)) : view.translate(at)!.physical;
    vcpu.vm.ram.copyIn(to as L1Physical, bytes.subarray(done, done + count));
    done += count;
  }
  return true;
}
