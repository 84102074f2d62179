/**
 * The APIC-access page: L2's loads and stores to the page that L1 named reach the virtual-APIC page, or L1.
 *
 * Owns    which offsets are virtualized: SDM 3C 29.4.2, 29.4.3.
 * Knows   that in the MMU such a page is no memory for any L2 (`VmMmu.apicAccess`), so that every access leaves. L1 may give
 *         the page to an L2 as memory later (KVM frees it with the VM, and moves it when it swaps): the first access of that
 *         L2 makes memory of it. If another vCPU runs an L2 whose APIC-access page it is at that moment, the two share it:
 *         then loads and stores of the memory happen here. DEVIATION: instructions cannot be fetched from it then.
 *
 * Source  SDM 3C 29.4 "Virtualizing Memory-Mapped APIC Accesses"; Table 27-6 "Exit Qualification for APIC-Access VM
 *         Exits".
 */
import { APIC } from '../../../arch/apic/registers.ts';
import { SECONDARY } from '../../../arch/vmx/controls.ts';
import { EXIT_REASONS } from '../../../arch/vmx/exit-reasons.ts';
import { FIELD } from '../../../arch/vmx/fields.ts';
import { markApicAccess, unmarkApicAccess } from '../../mmu/slots.ts';
import type { NestedVmx } from './nested-vmx.ts';
import {
  eoiVirtualization,
  hasVid,
  readRegister,
  selfIpiVirtualization,
  tprVirtualization,
  usesTprShadow,
  virtualizesRegisters,
  writeRegister,
} from './virtual-apic.ts';
import { accessLength, takeVectoring, vmExit } from './vm-exit.ts';

/** Registers that "APIC-register virtualization" lets be written: SDM 3C 29.4.3.1. */
const WRITABLE: ReadonlySet<number> = new Set([
  APIC.ID,
  APIC.TPR,
  APIC.EOI,
  APIC.LDR,
  APIC.DFR,
  APIC.SVR,
  APIC.ESR,
  APIC.ICR,
  APIC.ICR_HIGH,
  APIC.LVT_TIMER,
  APIC.LVT_THERMAL,
  APIC.LVT_PERFORMANCE,
  APIC.LVT_LINT0,
  APIC.LVT_LINT1,
  APIC.LVT_ERROR,
  APIC.INITIAL_COUNT,
  APIC.DIVIDE_CONFIG,
]);
/** And those that it lets be read, besides ISR, TMR and IRR: SDM 3C 29.4.2. */
const READABLE: ReadonlySet<number> = new Set([...WRITABLE, APIC.VERSION]);
const isBitmap = (offset: number): boolean => offset >= APIC.ISR && offset < APIC.IRR + 0x80;

const usesAccessPage = (n: NestedVmx): boolean => (n.secondary & SECONDARY.VIRTUALIZE_APIC_ACCESSES) !== 0;
/** Is this L1-physical address on the running L2's APIC-access page? */
const isAccessPage = (n: NestedVmx, physical: number): boolean =>
  usesAccessPage(n) && physical - (physical % 4096) === n.v.number(FIELD.APIC_ACCESS_ADDRESS);

/** When controls are merged: the MMU must not map the page for L2. */
export function announceAccessPage(n: NestedVmx): void {
  if (usesAccessPage(n)) markApicAccess(n.vcpu.vm.mmu, n.v.number(FIELD.APIC_ACCESS_ADDRESS) / 4096);
}

/** The same, for whoever knows no more than that the vCPU may have a nested layer. */
export const runsOnAccessPage = (n: NestedVmx, physical: number): boolean => n.guestMode && isAccessPage(n, physical);

/**
 * An access of L2 to a page that is no APIC-access page of its own: it becomes memory. Every VMCS that is active has to
 * announce its page anew before it is entered.
 *
 * @returns  False: it is one, or none was ever there, or it has to stay one.
 */
export function becomesMemory(n: NestedVmx, physical: number): boolean {
  const { vm } = n.vcpu;
  const gfn = Math.floor(physical / 4096);
  if (!vm.mmu.apicAccess.has(gfn)) return false;
  if (vm.vcpus.some(({ nested }) => nested?.runsOnAccessPage(physical))) return false;
  unmarkApicAccess(vm.mmu, gfn);
  for (const { nested } of vm.vcpus) nested?.mergeAgain();
  return true;
}

/** SDM 3C 29.4.2 "Virtualizing Reads", 29.4.3.1 "Determining Whether a Write Access is Virtualized". */
function isVirtualized(n: NestedVmx, offset: number, write: boolean): boolean {
  if (!usesTprShadow(n) || (offset & 15) > 3) return false;
  const register = offset & ~3;
  if (register === APIC.TPR) return true;
  if (!write) return virtualizesRegisters(n) && (READABLE.has(register) || isBitmap(register));
  if (hasVid(n) && (register === APIC.EOI || register === APIC.ICR)) return true;
  return virtualizesRegisters(n) && WRITABLE.has(register);
}

/** An access that left because the MMU calls the page a device. True: it became an exit to L1. */
export function apicAccess(n: NestedVmx, physical: number, write: boolean): boolean {
  if (!isAccessPage(n, physical)) return false;
  const offset = physical % 4096;
  if (isVirtualized(n, offset, write)) return false;
  takeVectoring(n);
  const type = n.vcpu.pendingEvent !== 0 && !n.vcpu.pendingIsNew ? 3 : write ? 1 : 0;
  return vmExit(n, EXIT_REASONS.APIC_ACCESS, offset | (type << 12), 0, 0, 0, accessLength(n));
}

/** The load or store itself, of 1, 2 or 4 bytes within a register. */
export function readAccessPage(n: NestedVmx, physical: number, bytes: number): number {
  const offset = physical % 4096;
  const value = isAccessPage(n, physical) ? readRegister(n, offset & ~3) : n.memory.read32(physical - (physical % 4));
  const mask = bytes === 4 ? 0xffff_ffff : 2 ** (8 * bytes) - 1;
  return ((value >>> (8 * (offset & 3))) & mask) >>> 0;
}

export function writeAccessPage(n: NestedVmx, physical: number, bytes: number, value: number): void {
  const offset = physical % 4096;
  const shift = 8 * (offset & 3);
  const mask = ((bytes === 4 ? 0xffff_ffff : 2 ** (8 * bytes) - 1) << shift) >>> 0;
  const isApic = isAccessPage(n, physical);
  const old = isApic ? readRegister(n, offset & ~3) : n.memory.read32(physical - (physical % 4));
  const merged = ((old & ~mask) | ((value << shift) & mask)) >>> 0;
  if (!isApic) {
    n.memory.write32(physical - (physical % 4), merged);
    return;
  }
  writeRegister(n, offset & ~3, merged);
  n.apicWritten = offset & ~3;
}

/** SDM 3C 29.4.3.2 "APIC-Write Emulation": behind the instruction that wrote. */
export function apicWriteEmulation(n: NestedVmx): void {
  const offset = n.apicWritten;
  n.apicWritten = -1;
  if (offset < 0 || !n.guestMode) return;
  const value = readRegister(n, offset);
  switch (offset) {
    case APIC.TPR:
      writeRegister(n, offset, value & 0xff);
      tprVirtualization(n);
      return;
    case APIC.EOI:
      if (!hasVid(n)) break;
      writeRegister(n, offset, 0);
      eoiVirtualization(n);
      return;
    case APIC.ICR:
      if (!hasVid(n) || !isSelfIpi(value)) break;
      selfIpiVirtualization(n, value & 0xff);
      return;
    case APIC.ICR_HIGH:
      writeRegister(n, offset, (value & 0xff00_0000) >>> 0);
      return;
  }
  vmExit(n, EXIT_REASONS.APIC_WRITE, offset);
}

/** Fixed delivery, edge, to self, vector of at least 16, reserved bits 0: 29.4.3.2. */
const isSelfIpi = (icr: number): boolean => (icr & ~0xff & ~0x4000) >>> 0 === 0x4_0000 && (icr & 0xf0) !== 0;
