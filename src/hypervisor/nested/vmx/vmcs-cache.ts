/**
 * The VMCSs of L1 that are active: as a processor may, L0 keeps them in the engine's memory until VMCLEAR, VMXOFF, or
 * until another one needs the place, so that VMPTRLD of an active VMCS moves a pointer. Shadow VMCSs stay where they are.
 *
 * Owns    which block holds which VMCS, that a VMCS that is let go is in its region first, and what the engine knows of all
 *         that (VMCS_LIST).
 *
 * Source  SDM 3C 24.1 "Overview", 24.10 "VMCS Types: Ordinary and Shadow", 24.11.1 "Software Use of Virtual-Machine
 *         Control Structures".
 */
import { assert } from '../../../base/assert.ts';
import type { CpuState } from '../../../engine/core/cpu.ts';
import { LOADS_VMCS, S, VMCS_LIST } from '../../../engine/core/layout.ts';
import { VMCS_BLOCKS } from '../../../engine/core/memory.ts';
import type { GuestPhysical } from './guest-physical.ts';
import { TURNS } from './turn-registers.ts';
import { DIRTY, REGION, SHADOW_VMCS, shadowVmcs, Vmcs12 } from './vmcs12.ts';

/** Shadow VMCSs that are known: one for each ordinary one, at most. They stand behind those in VMCS_LIST. */
const SHADOWS = VMCS_BLOCKS;
const ORDINARY = VMCS_BLOCKS - 1;
assert(ORDINARY + SHADOWS <= VMCS_LIST.ENTRIES, 'VMCS_LIST has room for all');
assert(VMCS_LIST.LAUNCHED === REGION.LAUNCHED, 'the engine knows where the launch state is');

export class VmcsCache {
  /** Stands for "there is no current VMCS": its address is -1. */
  readonly none: Vmcs12;
  readonly #memory: GuestPhysical;
  readonly #revision: number;
  readonly #active: readonly Vmcs12[];
  /** The oldest is the next to be replaced. */
  readonly #shadows: (Vmcs12 | undefined)[] = new Array<undefined>(SHADOWS).fill(undefined);
  #shadowsMade = 0;
  /** Of the vCPU, when there is one. */
  state!: CpuState;

  /** @param cells  Address of each VMCS_CELLS block. */
  constructor(memory: GuestPhysical, cells: (block: number) => number, revision: number) {
    this.#memory = memory;
    this.#revision = revision;
    this.none = new Vmcs12(memory, cells(0), revision, -1);
    this.#active = Array.from({ length: ORDINARY }, (_, i) => new Vmcs12(memory, cells(i + 1), revision, i));
  }

  /** The VMCS at that address, if it is here and no shadow VMCS. */
  find(address: number): Vmcs12 | undefined {
    const active = this.#active;
    for (let i = 0; i < active.length; i += 1) if (active[i]!.address === address) return active[i];
    return undefined;
  }

  /** The one that S.VMCS names. */
  at(cells: number): Vmcs12 {
    const of = (v: Vmcs12 | undefined): boolean => v?.cells === cells;
    return this.#active.find(of) ?? this.#shadows.find(of) ?? this.none;
  }

  /** VMPTRLD: the VMCS at that address, read from its region if it is not here. */
  take(address: number): Vmcs12 {
    let v = this.find(address);
    if (v === undefined && (this.#memory.read32(address + REGION.REVISION) & SHADOW_VMCS) !== 0) {
      v = this.shadow(address);
    }
    if (v === undefined) {
      v = this.#leastRecent();
      v.flush();
      v.load(address);
      this.#list(v);
    }
    this.#touch(v);
    return v;
  }

  /** One without a VMCS, or else that which has not been current for longest. */
  #leastRecent(): Vmcs12 {
    let least = this.#active[0]!;
    for (const v of this.#active) {
      if (v.address < 0) return v;
      if (this.#lastUse(v) < this.#lastUse(least)) least = v;
    }
    return least;
  }

  #lastUse(v: Vmcs12): number {
    return this.state.number(entryOf(v) + VMCS_LIST.LAST);
  }

  #touch(v: Vmcs12): void {
    const clock = this.state.number(S.VMPTRLD_CLOCK) + 1;
    for (const at of [S.VMPTRLD_CLOCK, entryOf(v) + VMCS_LIST.LAST]) {
      this.state.setU64(at, clock >>> 0, Math.floor(clock / 0x1_0000_0000));
    }
  }

  /** The shadow VMCS at that address; undefined where there is no RAM. */
  shadow(address: number): Vmcs12 | undefined {
    const shadows = this.#shadows;
    for (let i = 0; i < SHADOWS; i += 1) if (shadows[i]?.address === address) return shadows[i];
    const number = this.#shadowsMade % SHADOWS;
    const made = shadowVmcs(this.#memory, address, this.#revision, ORDINARY + number);
    if (made === undefined) return undefined;
    this.#shadowsMade += 1;
    shadows[number] = made;
    this.#list(made);
    return made;
  }

  /** Is the way into and out of that VMCS prepared (turns.ts)? */
  isReady(v: Vmcs12): boolean {
    return v.place >= 0 && (this.state.u32(entryOf(v) + VMCS_LIST.TURNS) & TURNS.L1_MAY_ENTER) !== 0;
  }

  setReady(v: Vmcs12, ready: boolean): void {
    if (v.place < 0) return;
    this.state.setU32(entryOf(v) + VMCS_LIST.TURNS, ready ? LOADS_VMCS | TURNS.L1_MAY_ENTER : LOADS_VMCS);
  }

  /** Tells the engine of a VMCS that has come, or gone. */
  #list(v: Vmcs12): void {
    const { state } = this;
    const entry = entryOf(v);
    const region = v.address < 0 ? -1 : this.#memory.offset(v.address);
    state.setU64(entry + VMCS_LIST.ADDRESS, v.address >>> 0, Math.floor(v.address / 0x1_0000_0000) >>> 0);
    state.setU32(entry + VMCS_LIST.CELLS, region < 0 ? 0 : v.cells);
    state.setU32(entry + VMCS_LIST.REGION, Math.max(region, 0));
    state.setU32(entry + VMCS_LIST.IDENTIFIER, (this.#revision | (v.isShadow ? SHADOW_VMCS : 0)) >>> 0);
    this.setReady(v, false);
  }

  /** The controls of each count as changed. */
  mergeAgain(): void {
    for (const v of this.#active) {
      v.dirty |= DIRTY.CONTROLS;
      this.setReady(v, false);
    }
  }

  /** VMCLEAR: what is here goes into the region and is forgotten. */
  clear(v: Vmcs12): void {
    v.launched = false;
    v.flush();
    this.#forget(v);
  }

  #forget(v: Vmcs12): void {
    v.address = -1;
    this.#list(v);
  }

  /** VMXOFF: all into their regions. */
  flush(): void {
    for (const v of this.#active) v.flush();
  }

  /** Forgets all. */
  drop(): void {
    for (const v of this.#active) this.#forget(v);
    for (let number = 0; number < SHADOWS; number += 1) {
      this.#shadows[number] = undefined;
      this.state.setU32(VMCS_LIST.AT + (ORDINARY + number) * VMCS_LIST.ENTRY_BYTES + VMCS_LIST.CELLS, 0);
    }
  }
}

/** Address of its entry in VMCS_LIST. */
const entryOf = ({ place }: Vmcs12): number => VMCS_LIST.AT + place * VMCS_LIST.ENTRY_BYTES;
