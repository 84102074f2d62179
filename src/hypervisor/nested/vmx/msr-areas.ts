/**
 * The MSR-load and MSR-store areas.
 *
 * Source  SDM 3C 26.4 "Loading MSRs", 27.4 "Saving MSRs", 27.6 "Loading MSRs"; Table 24-15 "Format of an MSR Entry".
 */

import { MSR_LIST_ENTRIES_MAX } from '../../../arch/vmx/capabilities.ts';
import { MSR_LOAD_CHECKS, MSR_STORE_CHECKS, msrEntryFailure } from '../../../arch/vmx/entry-checks.ts';
import type { NestedVmx } from './nested-vmx.ts';

const ENTRY_BYTES = 16;
// Of a list longer than IA32_VMX_MISC[27:25] allows, the first entry too many fails, as KVM has it
const entry = { index: 0, reserved: 0, lo: 0, hi: 0 };

function fetch(n: NestedVmx, address: number): void {
  entry.index = n.memory.read32(address);
  entry.reserved = n.memory.read32(address + 4);
  entry.lo = n.memory.read32(address + 8);
  entry.hi = n.memory.read32(address + 12);
}

/** @returns  0, or the number of the entry that failed, from 1. */
export function loadMsrs(n: NestedVmx, address: number, count: number): number {
  for (let i = 0; i < count; i += 1) {
    if (i >= MSR_LIST_ENTRIES_MAX) return i + 1;
    fetch(n, address + ENTRY_BYTES * i);
    if (msrEntryFailure(MSR_LOAD_CHECKS, entry, n.policy) !== undefined) return i + 1;
    const { efer } = n.cpu;
    if (!n.vcpu.msrs.write(entry.index, entry.lo, entry.hi)) return i + 1;
    if (n.cpu.efer !== efer) n.vcpu.mmu.eferWritten(efer);
  }
  return 0;
}

/** False: VMX abort. IA32_TIME_STAMP_COUNTER is stored as L1 reads it. */
export function storeMsrs(n: NestedVmx, address: number, count: number): boolean {
  const { msrs } = n.vcpu;
  for (let i = 0; i < count; i += 1) {
    const at = address + ENTRY_BYTES * i;
    if (i >= MSR_LIST_ENTRIES_MAX) return false;
    fetch(n, at);
    if (msrEntryFailure(MSR_STORE_CHECKS, entry, n.policy) !== undefined || !msrs.read(entry.index)) return false;
    n.memory.write32(at + 8, msrs.lo);
    n.memory.write32(at + 12, msrs.hi);
  }
  return true;
}
