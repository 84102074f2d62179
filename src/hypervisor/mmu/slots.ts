/**
 * Changes of memory slots, as the shadow pages must live through them.
 *
 * Owns    the order: make the slot invisible, zap, flush, and only then let the memory go (nested-mmu.md 4.18, I16).
 *
 * Source  nested-mmu.md 4.18 "Memory slots and other VM-wide changes", 5.7 "Dirty logging and aging".
 */
import type { MemorySlot, SlotConfig } from '../vm/memory-slots.ts';
import { dropLarge, dropRmap, MMIO_GENERATIONS, writeProtect } from './spte.ts';
import type { VmMmu } from './vm-mmu.ts';
import { zapAllFast } from './zap.ts';

/** @returns `null` if it overlaps another slot or its id is taken. */
export function addSlot(vm: VmMmu, config: SlotConfig): MemorySlot | null {
  const slot = vm.slots.add(config);
  if (slot === null) return null;
  vm.invalidateSequence += 1;
  // Nothing to zap: the new generation makes MMIO markers stale. But a generation that comes round again would not.
  if (vm.slots.generation % MMIO_GENERATIONS === 0) zapAllFast(vm);
  else {
    vm.requestFreeObsolete(); // a dummy root may now have memory
    vm.weakened = true; // an engine that keeps device pages must forget them
    vm.commit();
  }
  return slot;
}

/** After this no vCPU can reach the backing of the slot at any level. */
export function deleteSlot(vm: VmMmu, slot: MemorySlot): void {
  slot.visible = false;
  zapAllFast(vm);
  vm.slots.remove(slot);
}

/** The same backing at another place. `null`: the new place is taken; the slot is gone all the same. */
export function moveSlot(vm: VmMmu, slot: MemorySlot, baseGfn: number): MemorySlot | null {
  const { id, pages, hostBase, readOnly, dirtyLog } = slot;
  deleteSlot(vm, slot);
  return addSlot(vm, { id, baseGfn, pages, hostBase, readOnly, dirtyLog });
}

export function setReadOnly(vm: VmMmu, slot: MemorySlot, readOnly: boolean): void {
  if (slot.readOnly === readOnly) return;
  slot.readOnly = readOnly;
  // HOST_WRITABLE and TRACKED of every SPTE follow from the flag: they are made anew.
  zapAllFast(vm);
}

/** With logging on, pages are 4 KiB and lose W until the next write, in all tables: EPT01, EPT02, shadows. */
export function setDirtyLog(vm: VmMmu, slot: MemorySlot, on: boolean): void {
  slot.setDirtyLog(on);
  if (!on) return;
  for (let gfn = slot.baseGfn; gfn <= slot.lastGfn; gfn += 1) {
    if (gfn === slot.baseGfn || gfn % 512 === 0) dropLarge(vm, slot, gfn);
    writeProtect(vm, slot, gfn, 'logged');
  }
  vm.commit();
}

/** Hands out the log and starts a new one: pages that were dirty lose W again. */
export function takeDirtyLog(vm: VmMmu, slot: MemorySlot): Uint32Array {
  const log = slot.dirty.slice();
  slot.dirty.fill(0);
  for (let word = 0; word < log.length; word += 1) {
    for (let bits = log[word]!; bits !== 0; bits &= bits - 1) {
      writeProtect(vm, slot, slot.baseGfn + word * 32 + 31 - Math.clz32(bits & -bits), 'logged');
    }
  }
  vm.commit();
  return log;
}

/** `gfn` becomes an APIC-access page: no mapping of it survives, and no large page may cover it. */
export function markApicAccess(vm: VmMmu, gfn: number): void {
  if (vm.apicAccess.has(gfn)) return;
  vm.apicAccess.add(gfn);
  const slot = vm.slots.find(gfn);
  if (slot === null) return;
  slot.banLarge(gfn, 1);
  dropLarge(vm, slot, gfn);
  dropRmap(vm, slot, gfn, 1);
  vm.commit();
}

/** And is memory again, for an L2 too. The markers that say otherwise go with everything else: this is rare. */
export function unmarkApicAccess(vm: VmMmu, gfn: number): void {
  vm.apicAccess.delete(gfn);
  vm.slots.find(gfn)?.banLarge(gfn, -1);
  zapAllFast(vm);
}
