/** Builds guest tables in a FakeMachine's memory. Table pages come from a bump allocator below `top`. */
import type { FakeMachine } from './fake-engine.ts';

export const EPT_RWX = 7;
/** Upper entries leave every right, XU included. */
const EPT_TABLE = 0x707;
export const EPT_AD = 0x300;
/** Write-back leaf. */
export const EPT_WB = 6 << 3;
export const PTE = 0x67; // P RW US A D

export class TableBuilder {
  readonly machine: FakeMachine;
  #next: number;

  /** @param firstPage  L1-physical frame from which tables are taken, upwards. */
  constructor(machine: FakeMachine, firstPage: number) {
    this.machine = machine;
    this.#next = firstPage;
  }

  page(): number {
    const page = this.#next;
    this.#next += 1;
    for (let i = 0; i < 1024; i += 2) this.machine.poke64(page * 4096 + i * 4, 0, 0);
    return page * 4096;
  }

  /** An EPT12 root of 4 (or 5) levels. */
  eptRoot(): number {
    return this.page();
  }

  /** L1-physical address of the entry of `ngpa` at `level`, making tables on the way. */
  eptEntry(root: number, ngpa: number, level = 1, levels = 4, rights = EPT_TABLE): number {
    return this.#entry(root, ngpa, level, levels, rights);
  }

  #entry(root: number, address: number, level: number, levels: number, bits: number): number {
    let table = root;
    for (let l = levels; ; l -= 1) {
      const at = table + (Math.floor(address / 2 ** (12 + 9 * (l - 1))) % 512) * 8;
      if (l === level) return at;
      let entry = this.machine.peek(at);
      if ((entry & 7) === 0) {
        entry = this.page() | bits;
        this.machine.poke64(at, entry, 0);
      }
      table = (entry & ~0xfff) >>> 0;
    }
  }

  /** Maps one nGPA page. */
  ept(root: number, ngpa: number, gpa: number, rights = EPT_RWX | EPT_AD, levels = 4): number {
    const at = this.eptEntry(root, ngpa, 1, levels);
    this.machine.poke64(at, ((gpa & ~0xfff) | rights | EPT_WB) >>> 0, Math.floor(gpa / 2 ** 32));
    return at;
  }

  /** Maps one 2 MiB page. */
  ept2m(root: number, ngpa: number, gpa: number, rights = EPT_RWX | EPT_AD): number {
    const at = this.eptEntry(root, ngpa, 2);
    this.machine.poke64(at, (gpa | rights | EPT_WB | 0x80) >>> 0, Math.floor(gpa / 2 ** 32));
    return at;
  }

  /** Maps one linear page by 8-byte tables. `place` turns a guest table address into where it lies (L2 tables). */
  linear(root: number, linear: number, gpa: number, bits = PTE, levels = 4): number {
    const at = this.#entry(root, linear, 1, levels, PTE);
    this.machine.poke64(at, ((gpa & ~0xfff) | bits) >>> 0, Math.floor(gpa / 2 ** 32));
    return at;
  }

  /** Address of an 8-byte entry, making tables above it. */
  linearEntry(root: number, linear: number, level: number, levels = 4): number {
    return this.#entry(root, linear, level, levels, PTE);
  }

  /** Maps one linear page by 4-byte tables. */
  linear32(root: number, linear: number, gpa: number, bits = PTE): number {
    const pde = root + (linear >>> 22) * 4;
    if ((this.machine.peek(pde) & 1) === 0) this.machine.poke32(pde, this.page() | PTE);
    const at = ((this.machine.peek(pde) & ~0xfff) >>> 0) + ((linear >>> 12) & 0x3ff) * 4;
    this.machine.poke32(at, ((gpa & ~0xfff) | bits) >>> 0);
    return at;
  }
}
