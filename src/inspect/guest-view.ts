/**
 * A debugger's view of a vCPU's address spaces: linear and guest-physical memory of the level that runs.
 *
 * Owns    a walk of the guest's tables, and of L1's EPT12 or NPT12 behind them, by reading only: no accessed or dirty
 *         bit is set, no TLB is consulted or filled, nothing faults.
 * Knows   neither rights of an access nor reserved bits: it says where bytes are, not who may touch them.
 *
 * Source  SDM 3A 4.3 to 4.5; SDM 3C 28.2.2 "EPT Translation Mechanism"; APM 2 15.25.5 "Nested Table Walk".
 */

import { CR0, CR4, EFER } from '../arch/registers.ts';
import type { L1Physical } from '../base/address.ts';
import { S } from '../engine/core/layout.ts';
import { KIND } from '../hypervisor/mmu/role.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';

/** A run of pages with the same rights. */
export interface Mapping {
  readonly linear: bigint;
  readonly bytes: bigint;
  readonly user: boolean;
  readonly writable: boolean;
  readonly executable: boolean;
}

/** A page that a linear address lies in. */
export interface Translation {
  /** Guest-physical address of the level that runs, to the byte. */
  readonly guestPhysical: number;
  /** What the second stage makes of it, -1 if that refuses; without one the same as `guestPhysical`. */
  readonly physical: number;
  readonly pageBytes: number;
}

interface Format {
  readonly levels: number;
  readonly entryBytes: 4 | 8;
  readonly kind: 'ia32' | 'ept';
  readonly root: number;
  readonly pageSizeExtension: boolean;
}

/** Entries that `mappings` looks at before it gives up: tables that contain themselves never end. */
const ENTRIES_MAX = 2_000_000;
const PRESENT = 1;
const WRITABLE = 2;
const USER = 4;
const LARGE = 0x80;

export class GuestView {
  readonly #vcpu: Vcpu;
  readonly #page = new Uint8Array(8);

  constructor(vcpu: Vcpu) {
    this.#vcpu = vcpu;
  }

  /** `null`: the guest's tables do not map it. */
  translate(linear: bigint): Translation | null {
    const format = this.#guestFormat();
    const address = BigInt.asUintN(64, linear);
    if (format === null) {
      const guestPhysical = Number(BigInt.asUintN(32, address));
      return { guestPhysical, physical: this.behind(guestPhysical), pageBytes: 4096 };
    }
    const found = this.#walk(format, address, (place) => this.behind(place));
    return found && { ...found, physical: this.behind(found.guestPhysical) };
  }

  /** Copies linear memory out; returns how many bytes were mapped RAM from the start on. */
  readLinear(linear: bigint, into: Uint8Array): number {
    return this.#read(into, (at) => this.translate(linear + BigInt(at))?.physical ?? -1, Number(linear & 0xfffn));
  }

  /** The same for guest-physical memory of the level that runs. */
  readPhysical(address: number, into: Uint8Array): number {
    return this.#read(into, (at) => this.behind(address + at), address % 4096);
  }

  #read(into: Uint8Array, physicalAt: (offset: number) => number, inPage: number): number {
    for (let done = 0; done < into.length; ) {
      const bytes = Math.min(into.length - done, 4096 - ((inPage + done) % 4096));
      const from = physicalAt(done);
      const copied = from < 0 ? 0 : this.#vcpu.vm.ram.copyOut(from as L1Physical, into.subarray(done, done + bytes));
      done += copied;
      if (copied < bytes) return done;
    }
    return into.length;
  }

  /** Everything mapped, in ascending order, neighbours of equal rights as one. `complete` is false if it was too much. */
  mappings(): { readonly list: readonly Mapping[]; readonly complete: boolean } {
    const format = this.#guestFormat();
    if (format === null) return { list: [], complete: true };
    const list: Mapping[] = [];
    let left = ENTRIES_MAX;
    const add = (linear: bigint, bytes: bigint, rights: number) => {
      const last = list.at(-1);
      const user = (rights & USER) !== 0;
      const writable = (rights & WRITABLE) !== 0;
      const executable = (rights & EXECUTABLE) !== 0;
      const joins =
        last !== undefined &&
        last.linear + last.bytes === linear &&
        last.user === user &&
        last.writable === writable &&
        last.executable === executable;
      if (joins) list[list.length - 1] = { ...last, bytes: last.bytes + bytes };
      else list.push({ linear, bytes, user, writable, executable });
    };
    const visit = (table: number, level: number, base: bigint, above: number): void => {
      const entries = format.entryBytes === 4 ? 1024 : level === 3 && format.levels === 3 ? 4 : 512;
      const span = spanOf(format, level);
      const whole = this.#table(format, table, level, entries);
      if (whole === null) return;
      for (let index = 0; index < entries && left > 0; index += 1) {
        left -= 1;
        const low = whole.getUint32(index * format.entryBytes, true);
        if ((low & PRESENT) === 0) continue;
        const high = format.entryBytes === 8 ? whole.getUint32(index * 8 + 4, true) : 0;
        let linear = base + BigInt(index) * span;
        if (level === format.levels && level >= 4) linear = BigInt.asUintN(64, BigInt.asIntN(9 * level + 12, linear));
        const rights = above & rightsOf(format, level, low, high);
        if (isLeaf(format, level, low)) add(linear, span, rights);
        else visit(frameOf(low, high), level - 1, linear, rights);
      }
    };
    visit(format.root, format.levels, 0n, WRITABLE | USER | EXECUTABLE);
    return { list, complete: left > 0 };
  }

  // ---- walking ------------------------------------------------------------------------------------------------------

  /** `null`: paging is off. */
  #guestFormat(): Format | null {
    const { state } = this.#vcpu;
    if ((state.u32(S.CR0) & CR0.PG) === 0) return null;
    const cr4 = state.u32(S.CR4);
    const cr3 = state.number(S.CR3) % 2 ** 52;
    const pageSizeExtension = (cr4 & CR4.PSE) !== 0;
    const root = cr3 - (cr3 % 4096);
    const common = { kind: 'ia32', root, pageSizeExtension } as const;
    if (state.u32(S.EFER) & EFER.LMA) return { ...common, levels: cr4 & CR4.LA57 ? 5 : 4, entryBytes: 8 };
    if (cr4 & CR4.PAE) return { ...common, levels: 3, entryBytes: 8 };
    return { ...common, levels: 2, entryBytes: 4, root: root % 2 ** 32 };
  }

  /** L1-physical address behind a guest-physical one of the level that runs; -1 if EPT12 or NPT12 does not map it. */
  behind(guestPhysical: number): number {
    const { mmu } = this.#vcpu;
    if (!mmu.mmuIsNested) return guestPhysical;
    const pointer = (mmu.nested.eptPointerHi & 0xf_ffff) * 2 ** 32 + (mmu.nested.eptPointerLo >>> 0);
    const kind = mmu.ngpaWalk.format?.kind === KIND.NPT ? 'ia32' : 'ept';
    const format: Format = {
      levels: 4,
      entryBytes: 8,
      kind,
      root: pointer - (pointer % 4096),
      pageSizeExtension: true,
    };
    return this.#walk(format, BigInt(guestPhysical), (place) => place)?.guestPhysical ?? -1;
  }

  #walk(format: Format, address: bigint, place: (guestPhysical: number) => number) {
    let table = format.root;
    for (let level = format.levels; level >= 1; level -= 1) {
      const span = spanOf(format, level);
      const wide = format.levels === 2 || format.levels === 3 ? BigInt.asUintN(32, address) : address;
      const index = Number((wide / span) % (format.entryBytes === 4 ? 1024n : 512n));
      const entry = this.#tableEntry(format, table, level, index, place);
      if (entry === null || (entry.low & (format.kind === 'ept' ? 7 : PRESENT)) === 0) return null;
      if (isLeaf(format, level, entry.low)) {
        const pageBytes = Number(span);
        const frame = leafFrame(format, level, entry.low, entry.high);
        return { guestPhysical: frame - (frame % pageBytes) + Number(address % span), pageBytes };
      }
      table = frameOf(entry.low, entry.high);
    }
    return null;
  }

  /** A table of the guest's as a whole. */
  #table(format: Format, table: number, level: number, entries: number): DataView | null {
    const bytes = new Uint8Array(entries * format.entryBytes);
    const view = new DataView(bytes.buffer);
    if (level === 3 && format.levels === 3) {
      const { state } = this.#vcpu;
      for (let index = 0; index < entries; index += 1) {
        view.setUint32(8 * index, state.u32(S.PDPTE + 8 * index), true);
        view.setUint32(8 * index + 4, state.high(S.PDPTE + 8 * index), true);
      }
      return view;
    }
    const at = this.behind(table);
    return at < 0 || this.#vcpu.vm.ram.copyOut(at as L1Physical, bytes) < bytes.length ? null : view;
  }

  #tableEntry(
    format: Format,
    table: number,
    level: number,
    index: number,
    place: (guestPhysical: number) => number,
  ): { low: number; high: number } | null {
    const { state, vm } = this.#vcpu;
    if (level === 3 && format.levels === 3) {
      // PDPTE registers, not memory: SDM 3A 4.4.1
      return { low: state.u32(S.PDPTE + 8 * index), high: state.high(S.PDPTE + 8 * index) };
    }
    const at = place(table + index * format.entryBytes);
    const bytes = this.#page.subarray(0, format.entryBytes).fill(0);
    if (at < 0 || vm.ram.copyOut(at as L1Physical, bytes) < bytes.length) return null;
    const word = (first: number) =>
      (bytes[first]! | (bytes[first + 1]! << 8) | (bytes[first + 2]! << 16) | (bytes[first + 3]! << 24)) >>> 0;
    return { low: word(0), high: format.entryBytes === 8 ? word(4) : 0 };
  }
}

const EXECUTABLE = 8;

const spanOf = (format: Format, level: number): bigint =>
  1n << BigInt(12 + (level - 1) * (format.entryBytes === 4 ? 10 : 9));

const frameOf = (low: number, high: number): number => (high & 0xf_ffff) * 2 ** 32 + ((low & ~0xfff) >>> 0);

/** PSE-36: bits 20:13 of a 4 MiB entry are address bits 39:32. */
const leafFrame = (format: Format, level: number, low: number, high: number): number =>
  format.entryBytes === 4 && level === 2
    ? ((low & 0xffc0_0000) >>> 0) + ((low >>> 13) & 0xff) * 2 ** 32
    : frameOf(low, high);

function isLeaf(format: Format, level: number, low: number): boolean {
  if (level === 1) return true;
  if ((low & LARGE) === 0) return false;
  if (format.entryBytes === 4) return format.pageSizeExtension;
  return level === 2 || (level === 3 && format.levels !== 3);
}

function rightsOf(format: Format, level: number, low: number, high: number): number {
  const executable = format.entryBytes === 8 && high & 0x8000_0000 ? 0 : EXECUTABLE;
  if (level === 3 && format.levels === 3) return WRITABLE | USER | EXECUTABLE; // PDPTEs have no rights
  return (low & (WRITABLE | USER)) | executable;
}
