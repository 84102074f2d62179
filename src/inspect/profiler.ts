/** Which guest code is hot: the instruction pointer at exact instruction counts, so that two runs give the same profile. */
import { S } from '../engine/core/layout.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';
import type { VcpuWatcher } from '../hypervisor/vcpu/watcher.ts';
import type { SymbolTable } from './symbols.ts';

export type Level = 'L1' | 'L2';

interface Place {
  readonly level: Level;
  readonly cpl: number;
  readonly rip: bigint;
  samples: number;
}

/** A line of the report. */
export interface ProfileRow {
  readonly level: Level;
  readonly cpl: number;
  readonly name: string;
  readonly samples: number;
  /** Of all samples, 0 to 1. */
  readonly share: number;
}

export class Profiler implements VcpuWatcher {
  readonly #every: number;
  readonly #places = new Map<string, Place>();
  /** By vCPU: instructions at the next sample. */
  readonly #next: number[] = [];
  readonly #lstar: Record<Level, bigint> = { L1: 0n, L2: 0n };
  samples = 0;

  /** @param every  A sample each time that a vCPU's instruction count is a multiple of this. */
  constructor(every: number) {
    this.#every = every;
  }

  limit({ core }: Vcpu): number {
    return this.#every - (core.instructions % this.#every);
  }

  left(vcpu: Vcpu): void {
    const { core, state, index } = vcpu;
    if (core.instructions < (this.#next[index] ?? this.#every)) return;
    this.#next[index] = (Math.floor(core.instructions / this.#every) + 1) * this.#every;
    this.samples += 1;
    const level: Level = vcpu.nested?.guestMode ? 'L2' : 'L1';
    const cpl = state.u32(S.CPL);
    const lstar = state.big(S.LSTAR);
    if (lstar !== 0n) this.#lstar[level] = lstar;
    const rip = state.big(S.RIP);
    const key = `${level} ${cpl} ${rip}`;
    const place = this.#places.get(key);
    if (place) place.samples += 1;
    else this.#places.set(key, { level, cpl, rip, samples: 1 });
  }

  /** IA32_LSTAR as last seen on a level, or 0. */
  lstar(level: Level): bigint {
    return this.#lstar[level];
  }

  /** By function, the most frequent first. Kernels have tables; what runs at CPL 3 is one line a level. */
  rows(symbols: Readonly<Partial<Record<Level, SymbolTable>>>): ProfileRow[] {
    const byName = new Map<string, { level: Level; cpl: number; name: string; samples: number }>();
    for (const { level, cpl, rip, samples } of this.#places.values()) {
      const name = symbols[level]?.find(rip)?.name ?? (cpl === 3 ? '[user]' : `0x${rip.toString(16)}`);
      const key = `${level} ${cpl} ${name}`;
      const row = byName.get(key);
      if (row) row.samples += samples;
      else byName.set(key, { level, cpl, name, samples });
    }
    return [...byName.values()]
      .sort((a, b) => b.samples - a.samples || (a.name < b.name ? -1 : 1))
      .map((row) => ({ ...row, share: row.samples / this.samples }));
  }
}

/** "Collapsed stacks", a line a function: flamegraph.pl and speedscope read them. */
export const collapsed = (rows: readonly ProfileRow[]): string =>
  rows.map(({ level, cpl, name, samples }) => `${level};cpl${cpl};${name.replaceAll(' ', '_')} ${samples}\n`).join('');
