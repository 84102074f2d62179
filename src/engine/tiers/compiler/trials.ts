import { I32 } from '../../../wasm/expr.ts';
import { FunctionBuilder } from '../../../wasm/module.ts';
import type { EngineMemory } from '../../core/memory.ts';
import type { Variant } from '../../decode/decoder.ts';
import type { FormContext, Library } from '../../isa/form-context.ts';
import { type FlagUse, KIND } from './blocks.ts';
import { Places, RegionFrame } from './region-frame.ts';
import { NotInline, RegionSemantics, type Targets } from './region-semantics.ts';

/** Generates an instruction once, for nothing, to see what it is to regions. One function, which is never made, takes them all. */
export class Trials implements Targets {
  readonly #memory: EngineMemory;
  readonly #library: Library;
  #frame: RegionFrame | undefined;
  #semantics!: RegionSemantics;
  #kind: number = KIND.PLAIN;

  constructor(memory: EngineMemory, library: Library) {
    this.#memory = memory;
    this.#library = library;
  }

  /** @returns  Its kind and what it does with the flags, or undefined: it is none for regions. */
  of(variant: Variant, context: FormContext, record: number): { kind: number; flags: FlagUse } | undefined {
    const { instruction, mnemonic } = variant.form;
    const frame = this.#frame ?? this.#begin();
    const flags: FlagUse = { reads: false, keeps: false, writes: false, leaves: false };
    this.#kind = KIND.PLAIN;
    this.#semantics.use = flags;
    frame.f.code.length = 0;
    frame.begin(undefined);
    const outer = frame.f.enterScope();
    try {
      this.#semantics.begin(context, mnemonic, record, false);
      instruction.execute(this.#semantics);
    } catch (error) {
      if (!(error instanceof NotInline)) throw error;
      // The function ends somewhere in the middle
      this.#frame = undefined;
      return undefined;
    }
    frame.f.leaveScope(outer);
    let kind = this.#kind;
    if (instruction.terminator && kind === KIND.PLAIN) return undefined;
    if (kind === KIND.BRANCH && mnemonic === 'CALL') kind = KIND.CALL;
    return { kind, flags };
  }

  #begin(): RegionFrame {
    const f = new FunctionBuilder('trial', [I32], [I32]);
    this.#frame = new RegionFrame(f, this.#library, this.#memory, new Places(1));
    this.#semantics = new RegionSemantics(this.#frame, this);
    return this.#frame;
  }

  // ---- where branches go: a CALL leaves no other trace, a conditional branch is seen by both ----------------------------

  taken(): void {
    this.#kind = Math.max(this.#kind, KIND.BRANCH);
  }

  notTaken(): void {
    this.#kind = KIND.CONDITIONAL;
  }

  indirect(): void {
    this.#kind = KIND.INDIRECT;
  }

  called(): void {}
}
