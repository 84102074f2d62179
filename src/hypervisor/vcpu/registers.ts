import { RFLAGS } from '../../arch/registers.ts';
import type { CpuState } from '../../engine/core/cpu.ts';
import { S } from '../../engine/core/layout.ts';
import type { VcpuRegs } from '../mmu/ports.ts';

/** The MMU's view of the registers of the level that runs. */
export class MmuRegisters implements VcpuRegs {
  readonly #state: CpuState;
  readonly smm = false;

  constructor(state: CpuState) {
    this.#state = state;
  }

  get cr0(): number {
    return this.#state.u32(S.CR0);
  }
  get cr3Lo(): number {
    return this.#state.u32(S.CR3);
  }
  get cr3Hi(): number {
    return this.#state.high(S.CR3);
  }
  get cr4(): number {
    return this.#state.u32(S.CR4);
  }
  get efer(): number {
    return this.#state.u32(S.EFER);
  }
  get pkru(): number {
    return this.#state.u32(S.PKRU);
  }
  get ac(): boolean {
    return (this.#state.u32(S.RFLAGS) & RFLAGS.AC) !== 0;
  }
  get cpl(): number {
    return this.#state.cpl;
  }
  get ripLo(): number {
    return this.#state.u32(S.RIP);
  }
  get ripHi(): number {
    return this.#state.high(S.RIP);
  }
  setCr3(lo: number, hi: number): void {
    this.#state.setU64(S.CR3, lo, hi);
  }
  pdptrLo(index: number): number {
    return this.#state.u32(S.PDPTE + 8 * index);
  }
  pdptrHi(index: number): number {
    return this.#state.high(S.PDPTE + 8 * index);
  }
  setPdptr(index: number, lo: number, hi: number): void {
    this.#state.setU64(S.PDPTE + 8 * index, lo, hi);
  }
}
