import { type Expr, I32, I64, i32, i64 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../../wasm/module.ts';
import { gpr, PLACE, POOL, REC, S, STATUS, TLB } from '../../core/layout.ts';
import type { EngineMemory } from '../../core/memory.ts';
import type { Library } from '../../isa/form-context.ts';
import type { Range, StackAccesses } from './stack-accesses.ts';

// Nodes of all regions
const ZERO = i32.const(0);
/** What memory has of the registers, by number. */
const LOADS = Array.from({ length: 16 }, (_, index) => i64.load(ZERO, gpr(index)));

/** The places of a region's POOL, as they are found while it is generated. */
export class Places {
  /** Unit of the first: behind the head with its table of pages. */
  readonly first: number;
  /** PLACEs: two words each. */
  readonly words: number[] = [];

  constructor(pages: number) {
    this.first = (POOL.MAPS + 4 * pages + 7) >>> POOL.UNIT_SHIFT;
  }

  /** @returns  Number of a new place: its unit in the pool. */
  add(record: number, word = 0): number {
    return this.first + (this.words.push(record, word) >>> 1) - 1;
  }
}

/**
 * What the instructions of a region share.
 *
 * Registers are in memory whenever the region may be left: changes are stored in front of what may leave. A local holds one from
 * where a block has asked for it to the end of the block; in an inner loop all the way round. MEASURED: with registers in locals
 * everywhere, 70 % of what TurboFan took went into their allocation, for all of them lived from each way in to each way out.
 *
 * Flags and budget, which nearly each block changes, are in locals from the way in to the one way out that stores them. MEASURED:
 * 3 to 5 % of a system's work, for little more of TurboFan's time.
 */
export class RegionFrame {
  readonly f: FunctionBuilder;
  readonly lib: Library;
  readonly memory: EngineMemory;
  readonly tlb: Local;
  /** Address of the POOL. */
  readonly pool: Local;
  readonly places: Places;
  /** In lockstep nearly nothing is in the TLB when a region begins. */
  lockstep = false;
  /** CC_KIND as far as it is known where code is being generated. */
  known: number | undefined;
  readonly #gpr: Local[];
  readonly #kind: Local;
  readonly #a: Local;
  readonly #b: Local;
  readonly #budget: Local;
  readonly #status: Local;
  /** The way out that all others lead to: S gets what is kept in locals. */
  exit: Label = 0;
  /** Of the block's own code, outside branches within an instruction. */
  #depth = 0;
  /** Bit n: the local of register n holds its value. */
  #held = 0;
  /** Bit n: and memory does not, yet. */
  #unsaved = 0;
  /** In a loop whose registers are in locals. */
  #inLoop = false;
  /** Bit n: the loop reads register n. */
  #used = 0;
  /** What the block has not charged of the run in which it ends. */
  #tail = 0;
  #stack: StackAccesses | undefined;
  /** What is added to a linear address of the block's stack accesses; by array: TLB.WRITE and others. */
  readonly #stackAddends: readonly Local[];
  /** Bits: they are there. */
  #stackKnown = 0;

  constructor(f: FunctionBuilder, lib: Library, memory: EngineMemory, places: Places) {
    this.f = f;
    this.lib = lib;
    this.memory = memory;
    this.pool = f.parameters[0]!;
    this.places = places;
    this.#gpr = [];
    for (let index = 0; index < 16; index += 1) this.#gpr.push(f.local(I64));
    this.#kind = f.local(I32);
    this.#a = f.local(I64);
    this.#b = f.local(I64);
    this.tlb = f.local(I32);
    this.#budget = f.local(I32);
    this.#status = f.local(I32);
    this.#stackAddends = [f.local(I32), f.local(I32)];
  }

  /** A block begins. */
  begin(stack: StackAccesses | undefined): void {
    this.#stack = stack;
    this.#stackKnown = 0;
    this.#held = 0;
    this.#depth = this.f.depth;
    this.known = undefined;
  }

  /** `body` generates a loop, in which registers stay in locals. */
  loop(body: () => void): void {
    const { f } = this;
    const at = f.code.length;
    this.#inLoop = true;
    this.#used = 0;
    body();
    this.#inLoop = false;
    f.insert(at, () => {
      for (let i = 0; i < 16; i += 1) if (this.#used & (1 << i)) f.set(this.#gpr[i]!, LOADS[i]!);
    });
  }

  // ---- registers ----------------------------------------------------------------------------------------------------

  read(index: number): Expr {
    const bit = 1 << index;
    const local = this.#gpr[index]!;
    this.#used |= bit;
    if (!this.#inLoop && (this.#held & bit) === 0) {
      const value = LOADS[index]!;
      // Where only one way through the block comes by, nothing is known for the others
      if (this.f.depth !== this.#depth) return value;
      this.f.set(local, value);
      this.#held |= bit;
    }
    return local.get;
  }

  write(index: number, value: Expr): void {
    const local = this.#gpr[index]!;
    this.f.set(local, value);
    if (this.f.depth === this.#depth) {
      this.#held |= 1 << index;
      this.#unsaved |= 1 << index;
    } else if ((this.#unsaved & (1 << index)) === 0) this.#save(index);
  }

  #save(index: number): void {
    this.f.do(i64.store(ZERO, this.#gpr[index]!.get, gpr(index)));
  }

  /** Registers are in memory from here on; on one way through an instruction, only there. */
  save(): void {
    for (let rest = this.#unsaved; rest !== 0; rest &= rest - 1) this.#save(31 - Math.clz32(rest & -rest));
    if (this.f.depth === this.#depth) this.#unsaved = 0;
  }

  // ---- flags --------------------------------------------------------------------------------------------------------

  get kind(): Expr {
    return this.known === undefined ? this.#kind.get : i32.const(this.known);
  }

  get a(): Expr {
    return this.#a.get;
  }

  get b(): Expr {
    return this.#b.get;
  }

  setFlags(kind: number, a: Expr, b: Expr): void {
    const { f } = this;
    f.set(this.#b, b);
    f.set(this.#a, a);
    if (this.known !== kind) f.set(this.#kind, i32.const(kind));
    this.known = f.depth === this.#depth ? kind : undefined;
  }

  /** Functions of the core find the flags in memory. */
  storeFlags(): void {
    const { f } = this;
    f.do(i32.store(ZERO, this.#kind.get, S.CC_KIND));
    f.do(i64.store(ZERO, this.#a.get, S.CC_A));
    f.do(i64.store(ZERO, this.#b.get, S.CC_B));
  }

  // ---- the stack's page ----------------------------------------------------------------------------------------------

  /** Where an access that the block has seen coming lies from RSP at its begin, with the range of all those of its array. */
  stackOffset(record: number, bytes: number, array: number): { offset: number; range: Range } | undefined {
    const offset = this.#stack?.offset(record, bytes, array);
    return offset === undefined ? undefined : { offset, range: this.#stack!.range(array)! };
  }

  /** What makes a host address of a linear one in that range, as far as that is known. */
  stackAddend(array: number): Expr | undefined {
    const i = array === TLB.WRITE ? 1 : 0;
    return this.#stackKnown & (1 << i) ? this.#stackAddends[i]!.get : undefined;
  }

  setStackAddend(array: number, addend: Expr): Expr {
    const i = array === TLB.WRITE ? 1 : 0;
    this.f.set(this.#stackAddends[i]!, addend);
    this.#stackKnown |= 1 << i;
    return this.#stackAddends[i]!.get;
  }

  /** Other rights hold from here on. */
  forgetStack(): void {
    this.#stack = undefined;
  }

  // ---- budget -------------------------------------------------------------------------------------------------------

  /**
   * Charges for the `count` instructions of a block; leaves for it, at `place`, if the whole run has no room, of which `tail` is
   * charged only where the block is left.
   */
  charge(count: number, tail: number, place: number): void {
    const { f } = this;
    this.#tail = tail;
    const rest = f.let(i32.sub(this.#budget.get, i32.const(count)));
    f.openIf(i32.ltS(rest.get, i32.const(tail)), false);
    this.goTo(place);
    f.close();
    f.set(this.#budget, rest.get);
    f.release(rest);
  }

  /** Instructions retired when the one at `record` begins: an i64. */
  retiredAt(record: number): Expr {
    const rest = this.memory.u16[(record + REC.REMAINING) >>> 1]! - this.#tail;
    const left = i32.add(this.#budget.get, i32.const(rest));
    return i64.sub(i64.load(i32.const(0), S.RETIRED_AT_END), i64.extendI32S(left));
  }

  // ---- ways out -----------------------------------------------------------------------------------------------------

  /** Leaves for a record whose run is not charged. */
  go(record: number): void {
    this.goTo(this.places.add(record));
  }

  goTo(place: number): void {
    this.#return(i32.const(STATUS.GO), place);
  }

  /** Leaves in front of the instruction at `record`, for which something is not in the TLB. */
  leaveForMiss(linear: Expr, access: number, record: number): void {
    this.f.do(i64.store(ZERO, linear, S.EA));
    this.leave(i32.const(STATUS.MISS), record, access);
  }

  /** Leaves with `status` (an i32) at a record of the run. */
  leave(status: Expr, record: number, access = 0): void {
    this.#return(status, this.places.add(record, this.#tail | (access << (8 * (PLACE.ACCESS - PLACE.TAIL)))));
  }

  #return(status: Expr, place: number): void {
    this.save();
    const where = STATUS.REGION | (place << STATUS.PLACE_SHIFT);
    this.out(status.isConst ? i32.const(status.imm | where) : i32.or(status, i32.const(where)));
  }

  /** Leaves with `status`; registers are in memory. */
  out(status: Expr): void {
    this.f.set(this.#status, status);
    this.f.br(this.exit);
  }

  // ---- ways in and out of the locals ----------------------------------------------------------------------------------

  /** The region begins, or goes on after something that has changed S. */
  load(): void {
    const { f } = this;
    const zero = i32.const(0);
    f.set(this.tlb, i32.load(zero, S.TLB));
    f.set(this.#budget, i32.load(zero, S.BUDGET));
    f.set(this.#kind, i32.load(zero, S.CC_KIND));
    f.set(this.#a, i64.load(zero, S.CC_A));
    f.set(this.#b, i64.load(zero, S.CC_B));
  }

  /** Flags and budget come to S. */
  store(): void {
    this.storeFlags();
    this.f.do(i32.store(i32.const(0), this.#budget.get, S.BUDGET));
  }

  /** Stands where `exit` leads to. */
  end(): void {
    this.store();
    this.f.ret(this.#status.get);
  }

  /** The record of a place: an i32. */
  recordOf(place: number): Expr {
    return i32.load(this.pool.get, (place << POOL.UNIT_SHIFT) + PLACE.RECORD);
  }

  /** Address of the table of the region's page with this number. */
  mapOf(page: number): Expr {
    return i32.load(this.pool.get, POOL.MAPS + 4 * page);
  }
}
