/**
 * Guest-physical memory of L1 for devices, loaders and L0: the slots, no second stage.
 *
 * Owns    the copying across slot borders and the duty to tell: what is written here is heard by the shadow MMU and by
 *         whoever keeps translated code (nested-mmu.md 5.6 "Other agents writing guest memory").
 */
import type { L1Physical } from '../../base/address.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import type { VmMmu } from '../mmu/vm-mmu.ts';
import { guestStored } from '../mmu/zap.ts';
import type { MemorySlot } from './memory-slots.ts';

/** Told after the bytes are visible; `offset` is in linear memory, and the range lies within a page. */
export type WrittenHook = (offset: number, bytes: number) => void;

export class GuestRam implements GuestMemory {
  readonly #vm: VmMmu;
  readonly #written: WrittenHook;

  constructor(vm: VmMmu, written: WrittenHook) {
    this.#vm = vm;
    this.#written = written;
  }

  copyOut(from: L1Physical, into: Uint8Array): number {
    let done = 0;
    while (done < into.length) {
      const slot = this.#slotAt(from + done);
      if (slot === null) break;
      const offset = offsetIn(slot, from + done);
      const bytes = Math.min(into.length - done, bytesLeft(slot, from + done));
      into.set(this.#vm.host.u8.subarray(offset, offset + bytes), done);
      done += bytes;
    }
    return done;
  }

  copyIn(to: L1Physical, bytes: Uint8Array): number {
    let done = 0;
    while (done < bytes.length) {
      const at = to + done;
      const slot = this.#slotAt(at);
      if (slot === null) break;
      const count = Math.min(bytes.length - done, bytesLeft(slot, at));
      if (!slot.readOnly) {
        this.#vm.host.u8.set(bytes.subarray(done, done + count), offsetIn(slot, at));
        this.#tell(slot, at, count);
      }
      done += count;
    }
    return done;
  }

  read8(from: L1Physical): number {
    const slot = this.#slotAt(from);
    return slot === null ? 0xff : this.#vm.host.u8[offsetIn(slot, from)]!;
  }

  read16(from: L1Physical): number {
    return this.read8(from) | (this.read8((from + 1) as L1Physical) << 8);
  }

  read32(from: L1Physical): number {
    return (this.read16(from) | (this.read16((from + 2) as L1Physical) << 16)) >>> 0;
  }

  write8(to: L1Physical, value: number): void {
    this.#write(to, value, 1);
  }

  write16(to: L1Physical, value: number): void {
    this.#write(to, value, 2);
  }

  write32(to: L1Physical, value: number): void {
    this.#write(to, value, 4);
  }

  /** All bytes of a store are visible before anyone hears of it; a store across pages is two. */
  #write(to: number, value: number, bytes: number): void {
    for (let done = 0; done < bytes; ) {
      const at = to + done;
      const count = Math.min(bytes - done, 4096 - (at % 4096));
      const slot = this.#slotAt(at);
      if (slot !== null && !slot.readOnly) {
        const offset = offsetIn(slot, at);
        for (let i = 0; i < count; i += 1) this.#vm.host.u8[offset + i] = value >>> (8 * (done + i));
        this.#tell(slot, at, count);
      }
      done += count;
    }
  }

  #slotAt(address: number): MemorySlot | null {
    return this.#vm.slots.find(Math.floor(address / 4096));
  }

  /** Page by page; a long copy into a shadowed table is one misaligned write, which drops the shadow of that table. */
  #tell(slot: MemorySlot, at: number, count: number): void {
    for (let done = 0; done < count; ) {
      const bytes = Math.min(count - done, 4096 - ((at + done) % 4096));
      guestStored(this.#vm, at + done, bytes);
      this.#written(offsetIn(slot, at + done), bytes);
      done += bytes;
    }
  }
}

const offsetIn = (slot: MemorySlot, address: number): number =>
  slot.hostPage(Math.floor(address / 4096)) * 4096 + (address % 4096);

const bytesLeft = (slot: MemorySlot, address: number): number => (slot.lastGfn + 1) * 4096 - address;
