import { S } from '../../engine/core/layout.ts';
import type { Engine, EngineDebug } from '../../engine/engine.ts';
import type { Watchpoint } from '../../engine/paging/watchpoints.ts';
import type { Vcpu } from '../vcpu/vcpu.ts';

/** Which accesses of a range stop the machine. */
export type WatchKind = 'write' | 'read' | 'access';

export type StopCause =
  | { readonly kind: 'breakpoint'; readonly address: bigint }
  | { readonly kind: 'watchpoint'; readonly watch: WatchKind; readonly address: bigint }
  | { readonly kind: 'step' };

export interface DebugStop {
  readonly vcpu: Vcpu;
  readonly cause: StopCause;
}

/** Where a vCPU was told to make a step. */
interface Start {
  readonly instructions: number;
  readonly deliveries: number;
  readonly rip: bigint;
  readonly guestMode: boolean;
}

/**
 * L0's debugger of a VM, which the guest cannot see: breakpoints, watchpoints, steps. While there is one, `Vm.run` comes
 * back 'paused' in front of an instruction with a breakpoint, or behind a step or an access; called again it goes on
 * there, in the middle of the round, and everything happens as if it had not stopped.
 *
 * Owns    why the machine has stopped, which vCPUs make a step, which are held.
 * Knows   levels not at all: an address is meant in whichever level executes or accesses it.
 *
 * A step ends where the vCPU is between two instructions again: behind the next one, behind the exit of L2 or the entry
 * into it that came of it, in front of the first instruction of a handler.
 */
export class VmDebugger {
  readonly #engine: Engine;
  readonly #debug: EngineDebug;
  readonly #breakpoints = new Map<bigint, { readonly low: number; readonly high: number }>();
  readonly #watchpoints = new Map<string, Watchpoint>();
  readonly #namesOf = new WeakMap<Watchpoint, readonly [watch: WatchKind, address: bigint]>();
  readonly #steps = new Map<Vcpu, Start>();
  readonly #held = new Set<Vcpu>();
  /** Why `Vm.run` came back 'paused'; until it is called again. */
  stop: DebugStop | null = null;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.#debug = engine.attachDebugger();
  }

  // ---- for whoever debugs ----------------------------------------------------------------------------------------------

  setBreakpoint(address: bigint): void {
    this.#breakpoints.set(address, halves(address));
    this.#debug.breakpoints.set([...this.#breakpoints.values()]);
  }

  clearBreakpoint(address: bigint): void {
    if (this.#breakpoints.delete(address)) this.#debug.breakpoints.set([...this.#breakpoints.values()]);
  }

  setWatchpoint(watch: WatchKind, address: bigint, bytes: number): void {
    const name = `${watch} ${address} ${bytes}`;
    if (this.#watchpoints.has(name)) return;
    const range = { ...halves(address), bytes, reads: watch !== 'write', writes: watch !== 'read' };
    this.#watchpoints.set(name, range);
    this.#namesOf.set(range, [watch, address]);
    this.#debug.watchpoints.add(range);
  }

  clearWatchpoint(watch: WatchKind, address: bigint, bytes: number): void {
    const name = `${watch} ${address} ${bytes}`;
    const range = this.#watchpoints.get(name);
    if (!range) return;
    this.#watchpoints.delete(name);
    this.#debug.watchpoints.remove(range);
  }

  /** How the machine goes on at the next `Vm.run`: these make one step, those do not run at all, all others run. */
  prepare(steps: readonly Vcpu[], held: readonly Vcpu[]): void {
    this.#steps.clear();
    this.#held.clear();
    for (const vcpu of steps) {
      this.#debug.breakpoints.pass(vcpu.core);
      this.#steps.set(vcpu, whereIs(vcpu));
    }
    for (const vcpu of held) this.#held.add(vcpu);
  }

  /** No stop from here on. */
  detach(): void {
    for (const range of this.#watchpoints.values()) this.#debug.watchpoints.remove(range);
    this.#watchpoints.clear();
    this.#breakpoints.clear();
    this.#debug.watchpoints.hit = null;
    this.prepare([], []);
    this.stop = null;
    this.#engine.detachDebugger();
  }

  // ---- for the VM ------------------------------------------------------------------------------------------------------

  /** Instructions that the vCPU may run until `pauses` is asked again. */
  limit(vcpu: Vcpu): number {
    return this.#steps.has(vcpu) ? 1 : Number.POSITIVE_INFINITY;
  }

  isHeld(vcpu: Vcpu): boolean {
    return this.#held.has(vcpu);
  }

  /** The engine has stopped the vCPU at a breakpoint, or for a watchpoint that `pauses` finds. */
  reached(vcpu: Vcpu): void {
    if (this.#debug.watchpoints.hit === null) {
      this.#stop(vcpu, { kind: 'breakpoint', address: this.#debug.breakpoints.address(vcpu.core) });
    }
  }

  /** The vCPU is between two instructions: does the machine stop here? */
  pauses(vcpu: Vcpu): boolean {
    if (this.stop !== null) return true;
    if (vcpu.switchesTask) return false;
    const { watchpoints } = this.#debug;
    const { hit } = watchpoints;
    if (hit !== null) {
      watchpoints.hit = null;
      const [watch, address] = this.#namesOf.get(hit)!;
      this.#stop(vcpu, { kind: 'watchpoint', watch, address });
      return true;
    }
    const start = this.#steps.get(vcpu);
    if (start === undefined || !hasMoved(vcpu, start)) return false;
    this.#stop(vcpu, { kind: 'step' });
    return true;
  }

  #stop(vcpu: Vcpu, cause: StopCause): void {
    this.stop = { vcpu, cause };
    this.prepare([], []);
  }
}

const halves = (address: bigint): { low: number; high: number } => ({
  low: Number(BigInt.asUintN(32, address)),
  high: Number(BigInt.asUintN(64, address) >> 32n),
});

const isGuest = ({ nested }: Vcpu): boolean => nested?.guestMode ?? false;

const whereIs = (vcpu: Vcpu): Start => ({
  instructions: vcpu.core.instructions,
  deliveries: vcpu.deliveries,
  rip: vcpu.state.big(S.RIP),
  guestMode: isGuest(vcpu),
});

const hasMoved = (vcpu: Vcpu, start: Start): boolean =>
  vcpu.core.instructions !== start.instructions ||
  vcpu.deliveries !== start.deliveries ||
  isGuest(vcpu) !== start.guestMode ||
  vcpu.state.big(S.RIP) !== start.rip;
