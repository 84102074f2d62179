import { type Expr, I32, I64, i32, i64 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../../wasm/module.ts';
import { GPR, gpr, REC, REGION_ACCESS, S, STATUS } from '../../core/layout.ts';
import type { EngineMemory } from '../../core/memory.ts';
import { CC } from '../../isa/flags.ts';
import { type FormContext, type Library, Semantics } from '../../isa/semantics.ts';
import { COMPARES } from '../interpreter.ts';
import type { FlagUse } from './blocks.ts';

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

  constructor(f: FunctionBuilder, lib: Library, memory: EngineMemory) {
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

  /** Flags go where the core's functions look for them. */
  spillFlags(): void {
    const zero = i32.const(0);
    this.f.do(i32.store(zero, this.kind.get, S.CC_KIND));
    this.f.do(i64.store(zero, this.a.get, S.CC_A));
    this.f.do(i64.store(zero, this.b.get, S.CC_B));
  }
}

/** Where branches go: the region knows its blocks. */
export interface Targets {
  /** To the branch target of this record, which ends its block. */
  taken(record: number): void;
  /** On behind a conditional branch. */
  notTaken(record: number): void;
  /** To a linear address: a local. */
  indirect(record: number, target: Local): void;
}

/** What reads flags only to keep some of them. */
const KEEPS_FLAGS = new Set(['ROL', 'ROR', 'RCL', 'RCR']);

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

  override get storeAccess(): number {
    return REGION_ACCESS;
  }

  /** A device may have ended the run. */
  override afterSlowAccess(): void {
    this.f.set(this.#frame.budget, i32.load(i32.const(0), S.BUDGET));
  }

  /** Odd places are the interpreter's: nothing ever waits in SCRATCH. */
  override commit(): void {}

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
    if (this.flagsDead && KEEPS_FLAGS.has(this.mnemonic)) return i64.const(0);
    this.#frame.spillFlags();
    return super.flags();
  }

  override carry(): Expr {
    if (this.use) this.use.reads = true;
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
    const { known } = this.#frame;
    if (known !== undefined) {
      const direct = this.#direct(code, known);
      if (direct) return direct;
      this.#frame.spillFlags();
      return super.condition(code);
    }
    const compare = COMPARES[code >>> 1];
    if (!compare) {
      this.#frame.spillFlags();
      return super.condition(code);
    }
    const { a, b, kind } = this.#frame;
    const result = this.f.local(I32);
    this.f.if(
      i32.eq(i32.and(kind.get, i32.const(CC.CLASS_MASK)), i32.const(CC.SUB)),
      () => this.f.set(result, compare[code & 1]!(a.get, b.get)),
      () => {
        this.#frame.spillFlags();
        this.f.set(result, super.condition(code));
      },
    );
    return result.get;
  }

  /** The condition from flags of a known kind, or nothing if that is not simple. */
  #direct(code: number, known: number): Expr | undefined {
    const { a, b } = this.#frame;
    const bytes = 1 << (known >>> CC.SIZE_SHIFT);
    const negate = (code & 1) !== 0;
    const test = (bit: number): Expr => i64.ne(i64.and(b.get, i64.const(bit)), i64.const(0));
    const either = (yes: Expr): Expr => (negate ? i32.eqz(yes) : yes);
    const zero = i64.const(0);
    switch (known & CC.CLASS_MASK) {
      case CC.SUB: {
        const compare = COMPARES[code >>> 1];
        if (compare) return compare[code & 1]!(a.get, b.get);
        if (code >>> 1 !== 4) return undefined;
        return (negate ? i64.geS : i64.ltS)(this.signExtend(i64.sub(a.get, b.get), bytes), zero);
      }
      case CC.ADD:
        if (code >>> 1 === 1) return (negate ? i64.geU : i64.ltU)(a.get, b.get);
        if (code >>> 1 === 2) return (negate ? i64.ne : i64.eq)(a.get, zero);
        if (code >>> 1 === 4) return (negate ? i64.geS : i64.ltS)(a.get, zero);
        return undefined;
      case CC.RESULT:
        switch (code >>> 1) {
          case 0:
            return either(test(0x800));
          case 1:
            return either(test(1));
          case 2:
            return (negate ? i64.ne : i64.eq)(a.get, zero);
          case 3:
            return either(i32.or(i64.eq(a.get, zero), test(1)));
          case 4:
            return (negate ? i64.geS : i64.ltS)(a.get, zero);
          case 6:
            return either(i32.ne(i64.ltS(a.get, zero), test(0x800)));
          case 7:
            return either(i32.or(i64.eq(a.get, zero), i32.ne(i64.ltS(a.get, zero), test(0x800))));
          default:
            return undefined;
        }
      default:
        return undefined;
    }
  }

  // ---- leaving ------------------------------------------------------------------------------------------------------

  leave(status: Expr): void {
    if (this.use) this.use.leaves = true;
    this.#frame.leave(status, this.#at);
  }

  override helper(): void {
    throw new NotInline();
  }

  override helperInstead(): void {
    this.leave(i32.const(STATUS.REDO));
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

  jump(target: Expr): void {
    const bound = this.let(target);
    this.checkTarget(bound);
    this.f.do(i64.store(i32.const(0), bound.get, S.NEXT_LINEAR));
    this.#targets.indirect(this.#at, bound);
  }
}

/** Loads what the region uses: goes before its body. */
export function prologue(frame: RegionFrame, f: FunctionBuilder, record: Local, entry: Local): void {
  const zero = i32.const(0);
  for (let i = 0; i < 16; i += 1) if (frame.used & (1 << i)) f.set(frame.gpr[i]!, i64.load(zero, gpr(i)));
  f.set(frame.kind, i32.load(zero, S.CC_KIND));
  f.set(frame.a, i64.load(zero, S.CC_A));
  f.set(frame.b, i64.load(zero, S.CC_B));
  f.set(frame.tlb, i32.load(zero, S.TLB));
  // The run was charged by the dispatcher; its block charges itself
  f.set(frame.budget, i32.add(i32.load(zero, S.BUDGET), i32.load16U(record.get, REC.REMAINING)));
  f.set(entry, i32.shrU(i32.load(record.get, REC.PLACE), i32.const(20)));
}

/** Stores what the region has changed. */
export function epilogue(frame: RegionFrame): void {
  const { f } = frame;
  const zero = i32.const(0);
  for (let i = 0; i < 16; i += 1) if (frame.written & (1 << i)) f.do(i64.store(zero, frame.gpr[i]!.get, gpr(i)));
  if (frame.flagsWritten) frame.spillFlags();
  f.do(i32.store(zero, frame.record.get, S.EXIT_RECORD));
  f.ret(i32.or(frame.status.get, i32.const(STATUS.REGION)));
}
