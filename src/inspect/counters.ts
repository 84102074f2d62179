/** What a VM has counted, as plain data: instructions, exits by reason, MMU, TLB, code cache. A reader. */
import { EXIT_REASONS } from '../arch/vmx/exit-reasons.ts';
import { EXIT } from '../engine/core/exits.ts';
import { REGIONS_RETIRED } from '../engine/core/layout.ts';
import type { Engine } from '../engine/engine.ts';
import type { Vm } from '../hypervisor/vm/vm.ts';

/** The engine's names come first: those that only L1 ever sees are the manual's. */
const EXIT_NAMES: ReadonlyMap<number, string> = new Map(
  [...Object.entries(EXIT_REASONS), ...Object.entries(EXIT)].map(([name, reason]) => [reason, name]),
);

export const exitName = (reason: number): string => EXIT_NAMES.get(reason) ?? `REASON_${reason}`;

export interface VcpuCounters {
  readonly cpu: number;
  readonly instructions: number;
  /** By reason, most frequent first; reasons that never came are left out. */
  readonly exits: Readonly<Record<string, number>>;
}

export interface JitSnapshot {
  /** Regions alive, of one page of guest code or several, and the bytes of their WebAssembly. */
  readonly regions: number;
  readonly bytes: number;
  /** Bound on `bytes`: -accel …,tb-size=. */
  readonly bytesMax: number;
  /** Runs of an entry after which it is compiled: -accel …,threshold=. */
  readonly threshold: number;
  /** Since power-on: regions made; modules they came in; guest instructions and bytes of WebAssembly in them. */
  readonly compiled: number;
  readonly modules: number;
  readonly compiledInstructions: number;
  readonly compiledBytes: number;
  /** Guest instructions that ran in regions. */
  readonly retired: number;
  /** Regions that ended because their guest code changed; to make room. */
  readonly lost: number;
  readonly aged: number;
  /** Host milliseconds in the compiler: all, and the longest pause. 0 where nobody gave it a clock. */
  readonly ms: number;
  readonly longestMs: number;
  /** Calls of regions that lockstep has compared, and their instructions. */
  readonly lockstep: { readonly compared: number; readonly instructions: number } | undefined;
}

export interface CounterSnapshot {
  /** Virtual time since power-on. */
  readonly nowNs: number;
  readonly instructions: number;
  readonly exits: Readonly<Record<string, number>>;
  readonly cpus: readonly VcpuCounters[];
  readonly mmu: Readonly<Record<string, number>>;
  readonly tlb: Readonly<Record<string, number>>;
  readonly code: Readonly<Record<string, number>>;
  /** Compiled code; undefined while everything is interpreted. */
  readonly jit: JitSnapshot | undefined;
  /** MSRs that a guest asked for and the machine does not have: index → how often. */
  readonly refusedMsrs: Readonly<Record<string, number>>;
}

export function snapshotCounters(vm: Vm): CounterSnapshot {
  const cpus = vm.vcpus.map((vcpu) => ({
    cpu: vcpu.index,
    instructions: vm.retiredBy(vcpu),
    exits: byName(vcpu.exits),
  }));
  const total = new Float64Array(vm.vcpus[0]?.exits.length ?? 0);
  for (const vcpu of vm.vcpus)
    for (const [reason, count] of vcpu.exits.entries()) total[reason] = total[reason]! + count;
  const { rootHitPrevAt: _byDistance, ...mmu } = vm.mmu.counters;
  const { tlb } = vm.engine.processor;
  const { code } = vm.engine;
  return {
    nowNs: vm.clock.nowNs(),
    instructions: cpus.reduce((sum, { instructions }) => sum + instructions, 0),
    exits: byName(total),
    cpus,
    mmu: { ...mmu },
    tlb: { ...tlb.counters, contexts: [...tlb.names()].length },
    code: { ...code.counters, usedBytes: code.usedBytes },
    jit: jitOf(vm.engine),
    refusedMsrs: Object.fromEntries([...vm.refusedMsrs].map(([index, count]) => [`0x${index.toString(16)}`, count])),
  };
}

function jitOf({ compiler, lockstep, memory }: Engine): JitSnapshot | undefined {
  if (!compiler) return undefined;
  const { compiled, modules, instructions, bytes, lost, aged, ms, longestMs } = compiler.counters;
  return {
    ...compiler.alive,
    threshold: compiler.threshold,
    compiled,
    modules,
    compiledInstructions: instructions,
    compiledBytes: bytes,
    retired: memory.u32[REGIONS_RETIRED >>> 2]! + memory.u32[(REGIONS_RETIRED >>> 2) + 1]! * 2 ** 32,
    lost,
    aged,
    ms,
    longestMs,
    lockstep: lockstep && { compared: lockstep.counters.compared, instructions: lockstep.counters.instructions },
  };
}

function byName(counts: Float64Array): Record<string, number> {
  const found = [...counts.entries()].filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
  return Object.fromEntries(found.map(([reason, count]) => [exitName(reason), count]));
}
