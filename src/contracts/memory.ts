import type { L1Physical } from '../base/address.ts';

/**
 * Guest-physical memory of L1 as devices, loaders and L0 see it: the memory slots, no second stage.
 *
 * Writes made here are seen by the engine at once: implementations tell it, so that translated code and
 * shadowed tables on the page are dropped (nested-mmu.md 5.6 "Other agents writing guest memory").
 */
export interface GuestMemory {
  /**
   * Copies out.
   *
   * @param from  First byte. Any alignment.
   * @param into  Where the bytes go; its length is how many are wanted.
   * @returns     How many bytes were copied. Fewer than `into.length` means the range ran into a hole; the
   *              rest of `into` is untouched. Crossing from one slot into an adjacent one is not a hole.
   * @throws      Never on account of `from`: guests choose it, and a hole is an answer.
   */
  copyOut(from: L1Physical, into: Uint8Array): number;
  /** Copies in; the same rules. Bytes for a read-only slot count as copied and are dropped. */
  copyIn(to: L1Physical, bytes: Uint8Array): number;
  /** Reads a little-endian value; a hole reads as all ones. */
  read8(from: L1Physical): number;
  read16(from: L1Physical): number;
  read32(from: L1Physical): number;
  /** Writes a little-endian value; a hole or a read-only slot swallows it. */
  write8(to: L1Physical, value: number): void;
  write16(to: L1Physical, value: number): void;
  write32(to: L1Physical, value: number): void;
}
