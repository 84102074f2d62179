/**
 * A hash over everything that vCPUs did, for comparing runs that should be the same: every exit to L0 with its place in
 * the instruction count, and all registers there. A reader.
 */
import { EXIT } from '../engine/core/exits.ts';
import { gpr, S } from '../engine/core/layout.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';
import type { VcpuWatcher } from '../hypervisor/vcpu/watcher.ts';

/** Two independent 32-bit hashes, side by side: FNV-1a over words, and a multiplicative one. */
class WordHash {
  #a = 0x811c9dc5;
  #b = 0x9e3779b9;

  add(word: number): void {
    this.#a = Math.imul(this.#a ^ word, 0x01000193);
    this.#a ^= this.#a >>> 15;
    this.#b = (Math.imul(this.#b, 0x85ebca6b) + word) | 0;
    this.#b ^= this.#b >>> 13;
  }

  get text(): string {
    const digits = (value: number): string => (value >>> 0).toString(16).padStart(8, '0');
    return digits(this.#a) + digits(this.#b);
  }
}

export class TraceHash implements VcpuWatcher {
  readonly #hash = new WordHash();
  readonly #every: number;
  /** Exits seen, and stops between them. */
  exits = 0;
  stops = 0;

  /** @param every  Besides exits, the registers are taken when a vCPU has run a multiple of so many instructions. */
  constructor(every = Number.POSITIVE_INFINITY) {
    this.#every = every;
  }

  limit({ core }: Vcpu): number {
    return this.#every === Number.POSITIVE_INFINITY ? this.#every : this.#every - (core.instructions % this.#every);
  }

  left(vcpu: Vcpu, reason: number): void {
    const { core, state } = vcpu;
    // A budget's end is not the guest's doing, unless this hash asked for it
    if (reason === EXIT.BUDGET) {
      if (core.instructions % this.#every !== 0) return;
      this.stops += 1;
    } else this.exits += 1;
    const hash = this.#hash;
    hash.add(vcpu.index);
    hash.add(reason);
    hash.add(core.instructions % 0x1_0000_0000);
    hash.add(Math.floor(core.instructions / 0x1_0000_0000));
    hash.add(vcpu.engine.processor.rflags());
    for (let at = gpr(0); at <= S.RIP + 4; at += 4) hash.add(state.u32(at));
  }

  get text(): string {
    return this.#hash.text;
  }
}

/** A hash of memory. */
export function hashWords(words: Uint32Array): string {
  const hash = new WordHash();
  for (let i = 0; i < words.length; i += 1) {
    const word = words[i]!;
    if (word === 0) continue;
    hash.add(i);
    hash.add(word);
  }
  return hash.text;
}
