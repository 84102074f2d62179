/**
 * L1's physical memory as the processor itself reads it: bitmaps, VMCS regions, MSR areas, APIC pages.
 *
 * Owns    the rule that a hole reads as all ones and swallows writes.
 * Never   allocates on a read; copies go through `GuestRam`, which tells shadow MMU and code cache.
 */
import type { L1Physical } from '../../../base/address.ts';
import type { VmMmu } from '../../mmu/vm-mmu.ts';
import type { GuestRam } from '../../vm/guest-ram.ts';

export class GuestPhysical {
  readonly #mmu: VmMmu;
  readonly ram: GuestRam;

  constructor(mmu: VmMmu, ram: GuestRam) {
    this.#mmu = mmu;
    this.ram = ram;
  }

  /** Offset in linear memory, or -1 in a hole. */
  offset(address: number): number {
    const slot = this.#mmu.slots.find(Math.floor(address / 4096));
    return slot === null ? -1 : slot.hostPage(Math.floor(address / 4096)) * 4096 + (address % 4096);
  }

  read8(address: number): number {
    const at = this.offset(address);
    return at < 0 ? 0xff : this.#mmu.host.u8[at]!;
  }

  /** 4-byte aligned. */
  read32(address: number): number {
    const at = this.offset(address);
    return at < 0 ? 0xffff_ffff : this.#mmu.host.u32[at >>> 2]!;
  }

  write32(address: number, value: number): void {
    this.ram.write32(address as L1Physical, value >>> 0);
  }

  /** Bit of a bitmap of bytes. A hole has all bits set. */
  bit(address: number, bit: number): boolean {
    return ((this.read8(address + (bit >>> 3)) >>> (bit & 7)) & 1) !== 0;
  }

  get words(): Uint32Array {
    return this.#mmu.host.u32;
  }
}
