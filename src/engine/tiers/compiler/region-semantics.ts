import { call, type Expr, I32, I64, i32, i64, NO_EXPR, v128 } from '../../../wasm/expr.ts';
import type { Local } from '../../../wasm/module.ts';
import { FILL_WRITE, GPR, REC, S, STATUS, TLB } from '../../core/layout.ts';
import { CC, RFLAGS } from '../../isa/flags.ts';
import type { FormContext } from '../../isa/form-context.ts';
import { Semantics } from '../../isa/semantics.ts';
import { COMPARES, knownCondition } from '../conditions.ts';
import type { FlagUse } from './blocks.ts';
import type { RegionFrame } from './region-frame.ts';

/** Where branches go: the region knows its blocks. */
export interface Targets {
  /** To the branch target of this record, which ends its block. */
  taken(record: number): void;
  /** On behind a conditional branch. */
  notTaken(record: number): void;
  /**
   * To a linear address, which is `offset` bytes behind the start of the page: i64 locals.
   *
   * @param from  Address on the stack that it is from, if it is a return address: an i32.
   */
  indirect(record: number, target: Local, offset: Local, from: Expr | undefined): void;
  /** The return address of the call at this record is on the stack, at `slot`: an i32. */
  called(record: number, slot: Expr): void;
}

/** What reads CF only to keep it. */
const KEEPS_CARRY = new Set(['INC', 'DEC']);

/** Thrown while an instruction is tried: it is none for regions. */
export class NotInline extends Error {}
const NOT_INLINE = new NotInline();

const NO_CONTEXT: FormContext = { operands: [], size: 0, mode: 'long', generalAddress: false, form: '', opcode: 0 };

/** Semantics of decoded instructions inside a region, one after the other: a record's fields are constants, registers are locals. */
export class RegionSemantics extends Semantics {
  readonly #frame: RegionFrame;
  readonly #targets: Targets;
  #at = 0;
  #depth = 0;
  /** Nobody sees the flags it sets. */
  #flagsDead = false;
  #mnemonic = '';
  /** Notes what an instruction does with them, when it is only tried. */
  use: FlagUse | undefined;

  constructor(frame: RegionFrame, targets: Targets) {
    super(frame.f, frame.lib, NO_CONTEXT, NO_EXPR);
    this.#frame = frame;
    this.#targets = targets;
  }

  /** The instruction at `record` is next. */
  begin(context: FormContext, mnemonic: string, record: number, flagsDead: boolean): void {
    this.restart(context);
    this.#mnemonic = mnemonic;
    this.#at = record;
    this.#depth = this.#frame.f.depth;
    this.#flagsDead = flagsDead;
  }

  // ---- the record, folded -----------------------------------------------------------------------------------------

  override field32(offset: number): Expr {
    return i32.const(this.#frame.memory.u32[(this.#at + offset) >>> 2]!);
  }

  override field16(offset: number): Expr {
    return i32.const(this.#frame.memory.u16[(this.#at + offset) >>> 1]!);
  }

  override extended(offset: number, whole: boolean): Expr {
    const { u32, i32: signed } = this.#frame.memory;
    const at = (this.#at + offset) >>> 2;
    return whole ? i64.halves(u32[at]!, u32[(this.#at + REC.UPPER) >>> 2]!) : i64.const(signed[at]!);
  }

  override scale(): Expr {
    return i64.const(this.#frame.memory.u8[this.#at + REC.SCALE]!);
  }

  override length(): Expr {
    return i64.const(this.#frame.memory.u8[this.#at + REC.LENGTH]!);
  }

  override nextOffset(): Expr {
    const { u8, u16 } = this.#frame.memory;
    return i64.const(u16[(this.#at + REC.OFFSET) >>> 1]! + u8[this.#at + REC.LENGTH]!);
  }

  override addressSum(): Expr {
    if (this.isFullOffset) return this.extended(REC.DISP, true);
    const { u8, u16, i32: signed } = this.#frame.memory;
    const displacement = signed[(this.#at + REC.DISP) >>> 2]!;
    const base = u16[(this.#at + REC.BASE) >>> 1]!;
    const index = u16[(this.#at + REC.INDEX) >>> 1]!;
    let sum: Expr | undefined;
    if (base !== S.ZERO) sum = this.fixedLoad(i32.const(base), 0, 8);
    if (index !== S.ZERO) {
      const value = this.fixedLoad(i32.const(index), 0, 8);
      const scale = u8[this.#at + REC.SCALE]!;
      const scaled = scale === 0 ? value : i64.shl(value, i64.const(scale));
      sum = sum ? i64.add(sum, scaled) : scaled;
    }
    if (sum && displacement === 0) return sum;
    return sum ? i64.add(sum, i64.const(displacement)) : i64.const(displacement);
  }

  override withSegment(sum: Expr): Expr {
    const segment = this.#frame.memory.u16[(this.#at + REC.SEG) >>> 1]!;
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
    this.#frame.forgetStack();
    this.f.set(this.#frame.tlb, i32.load(i32.const(0), S.TLB));
  }

  /** Odd places are the interpreter's: nothing ever waits in SCRATCH. */
  override commit(): void {}

  /**
   * Host address (i32) of `bytes` at `linear`, by the TLB. Where it does not serve, the region is left, and entered again if the
   * instruction is an entry, or the interpreter does the instruction: compiled code makes no calls, so that what it has in
   * registers can stay there.
   */
  #host(linear: Local, bytes: number, array: number): Expr {
    const frame = this.#frame;
    const stack = this.f.depth === this.#depth ? frame.stackOffset(this.#at, bytes, array) : undefined;
    const known = stack && frame.stackAddend(array);
    if (known) return i32.add(i32.wrap(linear.get), known);

    // All that the block does there must lie in the page
    const from = stack ? stack.range.first - stack.offset : 0;
    const span = stack ? stack.range.end - stack.range.first : bytes;
    const first = from === 0 ? linear : this.let(i64.add(linear.get, i64.const(from)));
    const entry = this.let(this.tlbEntry(first.get));
    const access = bytes | (array === TLB.WRITE ? FILL_WRITE : 0);
    frame.save();
    this.f.openIf(i32.eqz(this.tlbHit(entry, first, span, array)), false);
    if (frame.lockstep) {
      this.#redoUnless(call(this.lib.byName('fill'), linear.get, i32.const(access)));
      if (stack) this.#redoUnless(this.tlbHit(entry, first, span, array));
    } else {
      if (this.use) this.use.leaves = true;
      frame.leaveForMiss(linear.get, access, this.#at);
    }
    this.f.close();
    const addend = i32.load(entry.get, array + TLB.ADDEND);
    return i32.add(i32.wrap(linear.get), stack ? frame.setStackAddend(array, addend) : addend);
  }

  #redoUnless(usual: Expr): void {
    this.f.openIf(i32.eqz(usual), false);
    this.leave(i32.const(STATUS.REDO));
    this.f.close();
  }

  override loadMemory(linear: Local, bytes: number, signed = false): Expr {
    return this.let(this.fixedLoad(this.#host(linear, bytes, 0), 0, bytes, signed)).get;
  }

  override storeMemory(linear: Local, value: Expr, bytes: number): void {
    const bound = value.shape === 1 || value.isConst ? value : this.let(value).get;
    this.f.do(storeOf(bytes)(this.#host(linear, bytes, TLB.WRITE), bound));
  }

  override writable(linear: Local, bytes: number): Local {
    return this.let(this.#host(linear, bytes, TLB.WRITE));
  }

  /** A gather has changed its registers when a later element is not in the TLB: nothing to do anew. */
  override loadElement(): Expr {
    throw NOT_INLINE;
  }

  override probeElement(linear: Local, bytes: number): void {
    this.#host(linear, bytes, TLB.WRITE);
  }

  override loadMemoryV(linear: Local): Expr {
    return this.let(v128.load(this.#host(linear, 16, 0))).get;
  }

  override storeMemoryV(linear: Local, value: Expr): void {
    const bound = this.let(value);
    this.f.do(v128.store(this.#host(linear, 16, TLB.WRITE), bound.get));
  }

  override storeWide(): void {
    this.leave(i32.const(STATUS.REDO));
  }

  // ---- flags --------------------------------------------------------------------------------------------------------

  override get flagsAreUnseen(): boolean {
    return this.#flagsDead;
  }

  protected override setLazyFlags(kind: number, a: Expr, b: Expr): void {
    if (this.use && this.f.depth === this.#depth) this.use.writes = true;
    if (!this.#flagsDead) this.#frame.setFlags(kind, a, b);
  }

  override flags(): Expr {
    if (this.use) this.use.reads = true;
    this.#frame.storeFlags();
    return i64.extendI32U(call(this.lib.flags));
  }

  /** From flags of a known kind without a call: they become a RESULT. */
  override flagsReplace(mask: number, bits: Expr): void {
    if (this.use) {
      this.use.keeps = true;
      return;
    }
    if (this.#flagsDead) return;
    const { known, a, b } = this.#frame;
    const kindOf = (known ?? CC.EXPLICIT) & CC.CLASS_MASK;
    if (known === undefined || kindOf === CC.EXPLICIT) {
      super.flagsReplace(mask, bits);
      return;
    }
    const size = known >>> CC.SIZE_SHIFT;
    const top = 8 * (1 << size) - 1;
    const keeps = (flag: number): boolean => (mask & flag) === 0;
    let result = a;
    let others = i64.and(b, i64.const((RFLAGS.CF | RFLAGS.AF | RFLAGS.OF) & ~mask));
    if (kindOf !== CC.RESULT) {
      // x ± y = r
      const sub = kindOf === CC.SUB;
      const difference = this.let(i64.sub(a, b)).get;
      if (sub) result = this.signExtend(difference, 1 << size);
      const [x, y, r] = sub ? [a, b, difference] : [difference, b, a];
      others = i64.and(i64.xor(i64.xor(x, y), r), i64.const(RFLAGS.AF));
      if (keeps(RFLAGS.CF)) others = i64.or(others, i64.extendI32U(i64.ltU(a, b)));
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
    if (KEEPS_CARRY.has(this.#mnemonic)) {
      if (this.use) this.use.keeps = true;
      if (this.#flagsDead) return i64.const(0);
    } else if (this.use) this.use.reads = true;
    const { a, b, kind, known } = this.#frame;
    const below = i64.extendI32U(i64.ltU(a, b));
    const bit = i64.and(b, i64.const(1));
    if (known !== undefined) {
      const kindOf = known & CC.CLASS_MASK;
      return kindOf === CC.SUB || kindOf === CC.ADD ? below : bit;
    }
    const result = this.f.local(I64);
    // SUB and ADD are 1 and 2
    const compared = i32.and(i32.add(kind, i32.const(1)), i32.const(2));
    this.f.if(
      compared,
      () => this.f.set(result, below),
      () => this.f.set(result, bit),
    );
    return result.get;
  }

  override condition(code: number): Expr {
    if (this.use) this.use.reads = true;
    const { known, a, b, kind } = this.#frame;
    const asked = (): Expr => {
      this.#frame.storeFlags();
      return call(this.lib.condition, i32.const(code));
    };
    if (known !== undefined) return knownCondition(code, known, a, b) ?? asked();
    const compare = COMPARES[code >>> 1];
    if (!compare) return asked();
    const result = this.f.local(I32);
    this.f.if(
      i32.eq(i32.and(kind, i32.const(CC.CLASS_MASK)), i32.const(CC.SUB)),
      () => this.f.set(result, compare[code & 1]!(a, b)),
      () => this.f.set(result, asked()),
    );
    return result.get;
  }

  // ---- leaving ------------------------------------------------------------------------------------------------------

  leave(status: Expr): void {
    if (this.use) this.use.leaves = true;
    this.#frame.leave(status, this.#at);
  }

  override helper(): void {
    throw NOT_INLINE;
  }

  override settled(): void {
    throw NOT_INLINE;
  }

  override exitBefore(): void {
    throw NOT_INLINE;
  }

  override retired(): Expr {
    return this.#frame.retiredAt(this.#at);
  }

  override helperInstead(): void {
    this.leave(i32.const(STATUS.REDO));
  }

  override rarely(condition: Expr, _rare: () => void, usual?: () => void): void {
    this.f.if(condition, () => this.leave(i32.const(STATUS.REDO)));
    usual?.();
  }

  override implicitAddress(): void {
    throw NOT_INLINE;
  }

  branch(): void {
    if (this.mode === 'general' || this.size === 2) throw NOT_INLINE;
    this.#frame.save();
    if (this.#mnemonic === 'CALL') this.#targets.called(this.#at, i32.wrap(this.reg(4)));
    this.#targets.taken(this.#at);
  }

  branchIf(condition: Expr): void {
    if (this.mode === 'general' || this.size === 2) throw NOT_INLINE;
    this.#frame.save();
    this.f.openIf(condition);
    this.#targets.taken(this.#at);
    this.f.close();
    this.#targets.notTaken(this.#at);
  }

  /** What is canonical in 57 bits only is the interpreter's. */
  override checkTarget(target: Local): void {
    if (!this.long) return;
    const unused = i64.const(16);
    this.#redoUnless(i64.eq(i64.shrS(i64.shl(target.get, unused), unused), target.get));
  }

  #offsetOf(target: Local): Expr {
    return i64.sub(target.get, i64.load(i32.const(0), S.RIP_PAGE));
  }

  jump(target: Expr): void {
    const bound = this.let(target);
    const offset = this.let(this.#offsetOf(bound));
    // RET and CALL have checked their target already, before they changed RSP
    if (this.#mnemonic === 'JMP') this.checkTarget(bound);
    this.#frame.save();
    if (this.#mnemonic === 'CALL') this.#targets.called(this.#at, i32.wrap(this.reg(4)));
    const returns = this.#mnemonic === 'RET' && this.operands.length === 0;
    const from = returns ? i32.sub(i32.wrap(this.reg(4)), i32.const(this.size)) : undefined;
    this.#targets.indirect(this.#at, bound, offset, from);
  }
}

const storeOf = (bytes: number): typeof i64.store =>
  bytes === 1 ? i64.store8 : bytes === 2 ? i64.store16 : bytes === 4 ? i64.store32 : i64.store;
