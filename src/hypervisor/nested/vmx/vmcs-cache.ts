/**
 * The VMCSs of L1 that are active: as a processor may, L0 keeps them in the engine's memory until VMCLEAR, VMXOFF, or
 * until another one needs the place, so that VMPTRLD of an active VMCS moves a pointer. Shadow VMCSs stay where they are.
 *
 * Owns    which block holds which VMCS, and that a VMCS that is let go is in its region first.
 *
 * Source  SDM 3C 24.1 "Overview", 24.10 "VMCS Types: Ordinary and Shadow", 24.11.1 "Software Use of Virtual-Machine
 *         Control Structures".
 */
import { VMCS_BLOCKS } from '../../../engine/core/memory.ts';
import type { GuestPhysical } from './guest-physical.ts';
import { REGION, SHADOW_VMCS, shadowVmcs, Vmcs12 } from './vmcs12.ts';

/** Shadow VMCSs that are known: one for each ordinary one, at most. */
const SHADOWS = VMCS_BLOCKS;

export class VmcsCache {
  /** Stands for "there is no current VMCS": its address is -1. */
  readonly none: Vmcs12;
  readonly #memory: GuestPhysical;
  readonly #revision: number;
  /** Most recently current first. */
  readonly #active: Vmcs12[];
  /** Most recently made first. */
  readonly #shadows: Vmcs12[] = [];

  /** @param cells  Address of each VMCS_CELLS block. */
  constructor(memory: GuestPhysical, cells: (block: number) => number, revision: number) {
    this.#memory = memory;
    this.#revision = revision;
    this.none = new Vmcs12(memory, cells(0), revision);
    this.#active = Array.from({ length: VMCS_BLOCKS - 1 }, (_, i) => new Vmcs12(memory, cells(i + 1), revision));
  }

  /** The VMCS at that address, if it is here. */
  find(address: number): Vmcs12 | undefined {
    const at = indexOf(this.#active, address);
    return at < 0 ? undefined : this.#active[at];
  }

  /** VMPTRLD: the VMCS at that address, read from its region if it is not here. */
  take(address: number): Vmcs12 {
    const active = this.#active;
    let at = indexOf(active, address);
    if (at < 0 && (this.#memory.read32(address + REGION.REVISION) & SHADOW_VMCS) !== 0) {
      const shadow = this.shadow(address);
      if (shadow !== undefined) return shadow;
    }
    if (at < 0) at = indexOf(active, -1);
    if (at < 0) at = active.length - 1;
    const v = active[at]!;
    if (v.address !== address) {
      v.flush();
      v.load(address);
    }
    for (; at > 0; at -= 1) active[at] = active[at - 1]!;
    active[0] = v;
    return v;
  }

  /** The shadow VMCS at that address; undefined where there is no RAM. */
  shadow(address: number): Vmcs12 | undefined {
    const shadows = this.#shadows;
    const at = indexOf(shadows, address);
    if (at >= 0) return shadows[at];
    const made = shadowVmcs(this.#memory, address, this.#revision);
    if (made === undefined) return undefined;
    if (shadows.length === SHADOWS) shadows.pop();
    shadows.unshift(made);
    return made;
  }

  /** VMCLEAR: what is here goes into the region and is forgotten. */
  clear(v: Vmcs12): void {
    v.launched = false;
    v.flush();
    v.address = -1;
  }

  /** VMXOFF: all into their regions. */
  flush(): void {
    for (const v of this.#active) v.flush();
  }

  /** Forgets all. */
  drop(): void {
    for (const v of this.#active) v.address = -1;
    this.#shadows.length = 0;
  }
}

function indexOf(list: readonly Vmcs12[], address: number): number {
  for (let i = 0; i < list.length; i += 1) if (list[i]!.address === address) return i;
  return -1;
}
