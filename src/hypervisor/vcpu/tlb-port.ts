import type { SecondStageRoot } from '../../contracts/second-stage.ts';
import type { EngineVcpu } from '../../engine/core/cpu.ts';
import type { Engine } from '../../engine/engine.ts';
import type { TlbPort } from '../mmu/ports.ts';

/** The flush primitives of nested-mmu.md 7.5, on the engine's TLB contexts. */
export class EngineTlb implements TlbPort {
  readonly #engine: Engine;
  readonly #vcpu: EngineVcpu;

  constructor(engine: Engine, vcpu: EngineVcpu) {
    this.#engine = engine;
    this.#vcpu = vcpu;
  }

  flushAll(): void {
    const { processor } = this.#engine;
    processor.tlb.flushMatching(this.#vcpu.index, -1, -1, -1);
    processor.walker.flushPhysical();
  }

  flushRoot(rootId: number): void {
    const { processor } = this.#engine;
    processor.tlb.flushMatching(this.#vcpu.index, -1, rootId, -1);
    processor.walker.flushPhysical();
  }

  flushVpid(tag: number, _keepGlobals: boolean): void {
    // Globals may always be dropped too: SDM 3A 4.10.4.1
    this.#engine.processor.tlb.flushMatching(this.#vcpu.index, tag, -1, -1);
  }

  flushVpidAddress(tag: number, lo: number, hi: number): void {
    this.#engine.processor.tlb.flushAddress(this.#vcpu.index, tag, -1, lo, hi);
  }

  flushVpidPcid(tag: number, pcid: number): void {
    this.#engine.processor.tlb.flushMatching(this.#vcpu.index, tag, -1, pcid);
  }

  loadRoot(root: SecondStageRoot): void {
    this.#engine.loadRoot(this.#vcpu, root);
  }

  setVpid(tag: number): void {
    this.#engine.setVpid(this.#vcpu, tag);
  }
}
