import { call, type Expr, I32, I64, i32, i64, V128, v128 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../../wasm/module.ts';
import { GPR, gpr, PLACE, REC, REGION_ACCESS, S, STATUS, TLB } from '../../core/layout.ts';
import type { EngineMemory } from '../../core/memory.ts';
import { CC, RFLAGS } from '../../isa/flags.ts';
import { type FormContext, type Library, Semantics } from '../../isa/semantics.ts';
import { COMPARES, knownCondition } from '../conditions.ts';
import type { FlagUse } from './blocks.ts';
import type { RegionCalls } from './calls.ts';

/** What the instructions of a region share: locals that hold the guest's state, and the ways out. */
export class RegionFrame {
  readonly f: FunctionBuilder;
  readonly lib: Library;
  readonly memory: EngineMemory;
  readonly gpr: readonly Local[];
  /** Bit n: register n is read or written; written. */
  used = 0;
  written = 0;
  flagsWritten = false;
  readonly kind: Local;
  readonly a: Local;
  readonly b: Local;
  readonly budget: Local;
  readonly tlb: Local;
  readonly status: Local;
  readonly record: Local;
  /** CC_KIND as far as it is known where code is being generated. */
  known: number | undefined;
  exit!: Label;
  /** Leaves with S.ACCESS_STATUS at S.EXIT_RECORD. */
  slowExit!: Label;
  readonly calls: RegionCalls;

  constructor(f: FunctionBuilder, lib: Library, calls: RegionCalls, memory: EngineMemory) {
    this.calls = calls;
    this.f = f;
    this.lib = lib;
    this.memory = memory;
    this.gpr = Array.from({ length: 16 }, () => f.local(I64));
    this.a = f.local(I64);
    this.b = f.local(I64);
    this.kind = f.local(I32);
    this.budget = f.local(I32);
    this.tlb = f.local(I32);
    this.status = f.local(I32);
    this.record = f.local(I32);
  }

  read(index: number): Expr {
    this.used |= 1 << index;
    return this.gpr[index]!.get;
  }

  write(index: number, value: Expr): void {
    this.used |= 1 << index;
    this.written |= 1 << index;
    this.f.set(this.gpr[index]!, value);
  }

  /** Leaves the region with `status` (an i32) at a record. */
  leave(status: Expr, record: number): void {
    this.f.set(this.status, status);
    this.f.set(this.record, i32.const(record));
    this.f.br(this.exit);
  }

  /** The ways out around `body`. */
  ways(body: () => void): void {
    const { f } = this;
    const zero = i32.const(0);
    f.block((exit) => {
      this.exit = exit;
      f.block((slowExit) => {
        this.slowExit = slowExit;
        body();
      });
      f.set(this.status, i32.load(zero, S.ACCESS_STATUS));
      f.set(this.record, i32.load(zero, S.EXIT_RECORD));
    });
  }

  /** What the region has changed goes where everyone else looks for it. */
  spill(): void {
    const { f } = this;
    const zero = i32.const(0);
    for (let i = 0; i < 16; i += 1) if (this.written & (1 << i)) f.do(i64.store(zero, this.gpr[i]!.get, gpr(i)));
    if (this.flagsWritten) {
      f.do(i32.store(zero, this.kind.get, S.CC_KIND));
      f.do(i64.store(zero, this.a.get, S.CC_A));
      f.do(i64.store(zero, this.b.get, S.CC_B));
    }
    f.do(i32.store(zero, this.budget.get, S.BUDGET));
  }
}

/** Where branches go: the region knows its blocks. */
export interface Targets {
  /** To the branch target of this record, which ends its block. */
  taken(record: number): void;
  /** On behind a conditional branch. */
  notTaken(record: number): void;
  /** To a linear address, which is `offset` bytes behind the start of the page: i64 locals. */
  indirect(record: number, target: Local, offset: Local): void;
}

/** What reads CF only to keep it. */
const KEEPS_CARRY = new Set(['INC', 'DEC']);

/** Thrown while an instruction is tried: it is none for regions. */
export class NotInline extends Error {}

/** Semantics of one decoded instruction inside a region: its record's fields are constants, registers are locals. */
export class RegionSemantics extends Semantics {
  readonly #frame: RegionFrame;
  readonly #targets: Targets;
  readonly #at: number;
  readonly #depth: number;
  /** Nobody sees the flags it sets. */
  flagsDead = false;
  mnemonic = '';
  /** Notes what it does with them, when it is only tried. */
  use: FlagUse | undefined;

  constructor(frame: RegionFrame, context: FormContext, record: number, targets: Targets) {
    super(frame.f, frame.lib, context, i32.const(record));
    this.#frame = frame;
    this.#targets = targets;
    this.#at = record;
    this.#depth = frame.f.depth;
  }

  // ---- the record, folded -----------------------------------------------------------------------------------------

  override field32(offset: number): Expr {
    return i32.const(this.#frame.memory.u32[(this.#at + offset) >>> 2]!);
  }

  override immediate(): Expr {
    const { u32 } = this.#frame.memory;
    const at = (this.#at + REC.IMM) >>> 2;
    return i64.halves(u32[at]!, u32[at + 1]!);
  }

  override scale(): Expr {
    return i64.const(this.#frame.memory.u8[this.#at + REC.SCALE]!);
  }

  override nextOffset(): Expr {
    const { u8, u16 } = this.#frame.memory;
    return i64.const(u16[(this.#at + REC.OFFSET) >>> 1]! + u8[this.#at + REC.LENGTH]!);
  }

  override addressSum(): Expr {
    const { u8, u32, i32: signed } = this.#frame.memory;
    const at = this.#at >>> 2;
    const displacement = signed[at + (REC.DISP >>> 2)]!;
    let sum: Expr | undefined;
    const add = (part: Expr): void => {
      sum = sum ? i64.add(sum, part) : part;
    };
    const base = u32[at + (REC.BASE >>> 2)]!;
    if (base === this.#at + REC.IMM) add(this.immediate());
    else if (base !== S.ZERO) add(this.fixedLoad(i32.const(base), 0, 8));
    const index = u32[at + (REC.INDEX >>> 2)]!;
    if (index !== S.ZERO) {
      const value = this.fixedLoad(i32.const(index), 0, 8);
      const scale = u8[this.#at + REC.SCALE]!;
      add(scale === 0 ? value : i64.shl(value, i64.const(scale)));
    }
    if (displacement !== 0 || !sum) add(i64.const(displacement));
    return sum!;
  }

  override withSegment(sum: Expr): Expr {
    const segment = this.#frame.memory.u32[(this.#at + REC.SEG) >>> 2]!;
    return segment === S.ZERO ? sum : i64.add(sum, i64.load(i32.const(0), segment));
  }

  // ---- registers are locals -----------------------------------------------------------------------------------------

  override fixedLoad(address: Expr, offset: number, bytes: number, signed = false): Expr {
    const place = address.isConst ? address.imm + offset - GPR : -1;
    if (place < 0 || place >= 128) return super.fixedLoad(address, offset, bytes, signed);
    const whole = this.#frame.read(place >>> 3);
    const value = place & 7 ? i64.shrU(whole, i64.const(8 * (place & 7))) : whole;
    return signed ? this.signExtend(value, bytes) : this.zeroExtend(value, bytes);
  }

  override storeRegister(address: Expr, value: Expr, bytes: number): void {
    const place = address.isConst ? address.imm - GPR : -1;
    if (place < 0 || place >= 128) {
      super.storeRegister(address, value, bytes);
      return;
    }
    const index = place >>> 3;
    if (bytes >= 4) {
      this.#frame.write(index, this.zeroExtend(value, bytes));
      return;
    }
    const mask = bytes === 2 ? 0xffff : 0xff;
    const old = this.#frame.read(index);
    if (place & 7) {
      const part = i64.shl(i64.and(value, i64.const(0xff)), i64.const(8));
      this.#frame.write(index, i64.or(i64.and(old, i64.const(~0xff00)), part));
    } else this.#frame.write(index, i64.or(i64.and(old, i64.const(~mask)), i64.and(value, i64.const(mask))));
  }

  override reg(index: number): Expr {
    return this.#frame.read(index);
  }

  // ---- memory -------------------------------------------------------------------------------------------------------

  override tlb(): Expr {
    return this.#frame.tlb.get;
  }

  override setTlb(set: Expr): void {
    super.setTlb(set);
    this.f.set(this.#frame.tlb, i32.load(i32.const(0), S.TLB));
  }

  override get storeAccess(): number {
    return REGION_ACCESS;
  }

  /** Odd places are the interpreter's: nothing ever waits in SCRATCH. */
  override commit(): void {}

  #place(bytes: number, stack: boolean, signed = false): Expr {
    const kind = Math.log2(bytes) | (stack ? PLACE.STACK : 0) | (signed ? PLACE.SIGNED : 0);
    return i32.const(this.#at | kind);
  }

  #slowIf(failed: Expr): void {
    if (this.use) this.use.leaves = true;
    this.f.brIf(this.#frame.slowExit, failed, false);
  }

  override loadMemory(linear: Local, bytes: number, signed = false, stack = false, more = 0): Expr {
    if (more !== 0) return super.loadMemory(linear, bytes, signed, stack, more);
    const { f } = this;
    const extends_ = signed && bytes < 8;
    const entry = this.let(this.tlbEntry(linear.get));
    const value = f.local(I64);
    f.if(
      this.tlbHit(entry, linear, bytes, 0),
      () => f.set(value, this.fixedLoad(this.tlbHost(entry, linear, 0), 0, bytes, signed)),
      () => {
        f.set(value, call(this.#frame.calls.load, linear.get, this.#place(bytes, stack, extends_)));
        this.#slowIf(i32.load(i32.const(0), S.ACCESS_STATUS));
      },
      true,
    );
    f.release(entry);
    return value.get;
  }

  override storeMemory(linear: Local, value: Expr, bytes: number, stack = false, more = 0): void {
    if (more !== 0) {
      super.storeMemory(linear, value, bytes, stack, more);
      return;
    }
    const { f } = this;
    const entry = this.let(this.tlbEntry(linear.get));
    const bound = value.shape === 1 || value.isConst ? value : this.let(value).get;
    f.if(
      this.tlbHit(entry, linear, bytes, TLB.WRITE),
      () => f.do(storeOf(bytes)(this.tlbHost(entry, linear, TLB.WRITE), bound)),
      () => this.#slowIf(call(this.#frame.calls.store, linear.get, bound, this.#place(bytes, stack))),
      true,
    );
    f.release(entry);
  }

  override writable(linear: Local, bytes: number): Local {
    // Ten and sixteen bytes are not in a PLACE
    if (bytes > 8) return super.writable(linear, bytes);
    const { f } = this;
    const entry = this.let(this.tlbEntry(linear.get));
    const host = f.local(I32);
    f.if(
      this.tlbHit(entry, linear, bytes, TLB.WRITE),
      () => f.set(host, this.tlbHost(entry, linear, TLB.WRITE)),
      () => {
        f.set(host, call(this.#frame.calls.modify, linear.get, this.#place(bytes, false)));
        this.#slowIf(i32.eqz(host.get));
      },
      true,
    );
    f.release(entry);
    return host;
  }

  override loadMemoryV(linear: Local): Expr {
    const { f } = this;
    const entry = this.let(this.tlbEntry(linear.get));
    const value = f.local(V128);
    f.if(
      this.tlbHit(entry, linear, 16, 0),
      () => f.set(value, v128.load(this.tlbHost(entry, linear, 0))),
      () => {
        this.#slowIf(call(this.#frame.calls.loadWide, linear.get, i32.const(this.#at)));
        f.set(value, v128.load(i32.const(0), S.WIDE));
      },
      true,
    );
    f.release(entry);
    return value.get;
  }

  override storeMemoryV(linear: Local, value: Expr): void {
    const { f } = this;
    const bound = this.let(value);
    const entry = this.let(this.tlbEntry(linear.get));
    f.if(
      this.tlbHit(entry, linear, 16, TLB.WRITE),
      () => f.do(v128.store(this.tlbHost(entry, linear, TLB.WRITE), bound.get)),
      () => {
        f.do(v128.store(i32.const(0), bound.get, S.WIDE));
        this.#slowIf(call(this.#frame.calls.storeWide, linear.get, i32.const(this.#at)));
      },
      true,
    );
    f.release(entry);
  }

  // ---- flags --------------------------------------------------------------------------------------------------------

  protected override setLazyFlags(kind: number, a: Expr, b: Expr): void {
    const frame = this.#frame;
    if (this.use && this.f.depth === this.#depth) this.use.writes = true;
    if (this.flagsDead) return;
    frame.flagsWritten = true;
    this.f.set(frame.b, b);
    this.f.set(frame.a, a);
    this.f.set(frame.kind, i32.const(kind));
    frame.known = this.f.depth === this.#depth ? kind : undefined;
  }

  override flags(): Expr {
    if (this.use) this.use.reads = true;
    const { calls, kind, a, b } = this.#frame;
    return i64.extendI32U(call(calls.flags, kind.get, a.get, b.get));
  }

  /** From flags of a known kind without a call: they become a RESULT. */
  override flagsReplace(mask: number, bits: Expr): void {
    if (this.use) {
      this.use.keeps = true;
      return;
    }
    if (this.flagsDead) return;
    const { known, a, b } = this.#frame;
    const kindOf = (known ?? CC.EXPLICIT) & CC.CLASS_MASK;
    if (known === undefined || kindOf === CC.EXPLICIT) {
      super.flagsReplace(mask, bits);
      return;
    }
    const size = known >>> CC.SIZE_SHIFT;
    const top = 8 * (1 << size) - 1;
    const keeps = (flag: number): boolean => (mask & flag) === 0;
    let result = a.get;
    let others = i64.and(b.get, i64.const((RFLAGS.CF | RFLAGS.AF | RFLAGS.OF) & ~mask));
    if (kindOf !== CC.RESULT) {
      // x ± y = r
      const sub = kindOf === CC.SUB;
      const difference = this.let(i64.sub(a.get, b.get)).get;
      if (sub) result = this.signExtend(difference, 1 << size);
      const [x, y, r] = sub ? [a.get, b.get, difference] : [difference, b.get, a.get];
      others = i64.and(i64.xor(i64.xor(x, y), r), i64.const(RFLAGS.AF));
      if (keeps(RFLAGS.CF)) others = i64.or(others, i64.extendI32U(i64.ltU(a.get, b.get)));
      if (keeps(RFLAGS.OF)) {
        const signs = sub ? i64.and(i64.xor(x, y), i64.xor(x, r)) : i64.and(i64.xor(r, y), i64.xor(r, x));
        const overflow = i64.and(i64.shrU(signs, i64.const(top)), i64.const(1));
        others = i64.or(others, i64.shl(overflow, i64.const(11)));
      }
    }
    const kept = this.let(result);
    this.setLazyFlags(CC.RESULT | (size << CC.SIZE_SHIFT), kept.get, i64.or(others, bits));
  }

  override carry(): Expr {
    if (KEEPS_CARRY.has(this.mnemonic)) {
      if (this.use) this.use.keeps = true;
      if (this.flagsDead) return i64.const(0);
    } else if (this.use) this.use.reads = true;
    const { a, b, kind, known } = this.#frame;
    const below = i64.extendI32U(i64.ltU(a.get, b.get));
    const bit = i64.and(b.get, i64.const(1));
    if (known !== undefined) {
      const kindOf = known & CC.CLASS_MASK;
      return kindOf === CC.SUB || kindOf === CC.ADD ? below : bit;
    }
    const result = this.f.local(I64);
    // SUB and ADD are 1 and 2
    const compared = i32.and(i32.add(kind.get, i32.const(1)), i32.const(2));
    this.f.if(
      compared,
      () => this.f.set(result, below),
      () => this.f.set(result, bit),
    );
    return result.get;
  }

  override condition(code: number): Expr {
    if (this.use) this.use.reads = true;
    const { known, a, b, kind, calls } = this.#frame;
    const asked = call(calls.condition, i32.const(code), kind.get, a.get, b.get);
    if (known !== undefined) return knownCondition(code, known, a.get, b.get) ?? asked;
    const compare = COMPARES[code >>> 1];
    if (!compare) return asked;
    const result = this.f.local(I32);
    this.f.if(
      i32.eq(i32.and(kind.get, i32.const(CC.CLASS_MASK)), i32.const(CC.SUB)),
      () => this.f.set(result, compare[code & 1]!(a.get, b.get)),
      () => this.f.set(result, asked),
    );
    return result.get;
  }

  // ---- leaving ------------------------------------------------------------------------------------------------------

  leave(status: Expr): void {
    if (this.use) this.use.leaves = true;
    this.#frame.leave(status, this.#at);
  }

  override helper(): void {
    throw new NotInline();
  }

  override settled(): void {
    throw new NotInline();
  }

  override exitBefore(): void {
    throw new NotInline();
  }

  override retired(): Expr {
    const { budget, memory } = this.#frame;
    const left = i32.add(budget.get, i32.const(memory.u16[(this.#at + REC.REMAINING) >>> 1]!));
    return i64.sub(i64.load(i32.const(0), S.RETIRED_AT_END), i64.extendI32S(left));
  }

  override helperInstead(): void {
    this.leave(i32.const(STATUS.REDO));
  }

  override rarely(condition: Expr, _rare: () => void, usual?: () => void): void {
    this.f.if(condition, () => this.leave(i32.const(STATUS.REDO)));
    usual?.();
  }

  override implicitAddress(): void {
    throw new NotInline();
  }

  branch(): void {
    if (this.mode === 'general' || this.size === 2) throw new NotInline();
    this.#targets.taken(this.#at);
  }

  branchIf(condition: Expr): void {
    if (this.mode === 'general' || this.size === 2) throw new NotInline();
    this.f.if(condition, () => this.#targets.taken(this.#at));
    this.#targets.notTaken(this.#at);
  }

  override checkTarget(target: Local): void {
    if (!this.long) return;
    const shift = i64.load32U(i32.const(0), S.CANONICAL_SHIFT);
    const isOutside = i64.ne(i64.shrS(i64.shl(target.get, shift), shift), target.get);
    const raise = (): void => this.#slowIf(call(this.#frame.calls.canonical, target.get, i32.const(this.#at)));
    this.f.if(isOutside, raise, undefined, false);
  }

  #offsetOf(target: Local): Expr {
    return i64.sub(target.get, i64.load(i32.const(0), S.RIP_PAGE));
  }

  jump(target: Expr): void {
    const bound = this.let(target);
    const offset = this.let(this.#offsetOf(bound));
    // RET and CALL have checked their target already, before they changed RSP
    if (this.mnemonic === 'JMP') this.checkTarget(bound);
    this.#targets.indirect(this.#at, bound, offset);
  }
}

const storeOf = (bytes: number): typeof i64.store =>
  bytes === 1 ? i64.store8 : bytes === 2 ? i64.store16 : bytes === 4 ? i64.store32 : i64.store;

/** Loads what the region uses: goes before its body. */
export function prologue(frame: RegionFrame, f: FunctionBuilder): void {
  const zero = i32.const(0);
  for (let i = 0; i < 16; i += 1) if (frame.used & (1 << i)) f.set(frame.gpr[i]!, i64.load(zero, gpr(i)));
  f.set(frame.kind, i32.load(zero, S.CC_KIND));
  f.set(frame.a, i64.load(zero, S.CC_A));
  f.set(frame.b, i64.load(zero, S.CC_B));
  f.set(frame.tlb, i32.load(zero, S.TLB));
  f.set(frame.budget, i32.load(zero, S.BUDGET));
}

/** Stores what the region has changed, and leaves. */
export function epilogue(frame: RegionFrame): void {
  const { f } = frame;
  frame.spill();
  f.do(i32.store(i32.const(0), frame.record.get, S.EXIT_RECORD));
  f.ret(i32.or(frame.status.get, i32.const(STATUS.REGION)));
}
