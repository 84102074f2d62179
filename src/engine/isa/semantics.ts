import { call, type Expr, i32, i64 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { type ExitReason, X } from '../core/exits.ts';
import { type Helper, helperNumber } from '../core/helpers.ts';
import { REC, S, STATUS } from '../core/layout.ts';
import { AccessSemantics, LOW_HALF } from './access-semantics.ts';
import { CC, RFLAGS_STATUS } from './flags.ts';

/**
 * The words an instruction is written in. Values are WebAssembly expressions of type i64 unless said otherwise;
 * operands come sign-extended (`load`) or zero-extended (`loadU`). An expression is evaluated where it is used: bind
 * with `let` what is used twice or read before something is written.
 *
 * Order: everything that may fault comes before the first write of a register or of memory. The memory operand's
 * address is computed once, at its first use.
 */
export abstract class Semantics extends AccessSemantics {
  /** Branch to the record's target if `condition` (i32), else on with the next instruction. Ends the form. */
  abstract branchIf(condition: Expr): void;
  /** Branch to the record's target. Ends the form. */
  abstract branch(): void;
  /** Near jump to an offset in the code segment, wrapped to the operand size. Ends the form. */
  abstract jump(target: Expr): void;

  // ---- stack ----------------------------------------------------------------------------------------------------

  /** Pushes `bytes`; not in `general` mode, where pushes are helpers. RSP changes after the store. */
  push(value: Expr, bytes: number): void {
    this.assert(this.mode !== 'general', 'stack accesses in general mode go through a helper');
    const bound = value.isConst ? value : this.let(value).get;
    const down = i64.sub(this.reg(4), i64.const(bytes));
    const top = this.let(this.long ? down : i64.and(down, LOW_HALF));
    this.storeMemory(top, bound, bytes, true);
    this.setReg(4, top.get);
  }

  /** Value on top of the stack, zero-extended; RSP stays. `offset` bytes further up. */
  peek(bytes: number, offset = 0): Expr {
    this.assert(this.mode !== 'general', 'stack accesses in general mode go through a helper');
    const up = offset === 0 ? this.reg(4) : i64.add(this.reg(4), i64.const(offset));
    return this.loadMemory(this.let(this.long ? up : i64.and(up, LOW_HALF)), bytes, false, true);
  }

  /** Moves RSP up by `bytes` (a number or an i64). */
  drop(bytes: number | Expr): void {
    const up = i64.add(this.reg(4), typeof bytes === 'number' ? i64.const(bytes) : bytes);
    this.setReg(4, up, this.long ? 8 : 4);
  }

  // ---- flags ----------------------------------------------------------------------------------------------------

  /** Nothing sees the flags that the instruction sets: what is dear about them may be left out. */
  get flagsAreUnseen(): boolean {
    return false;
  }

  #setFlags(kind: number, bytes: number, a: Expr, b: Expr): void {
    const log = bytes === 8 ? 3 : bytes >>> 1;
    this.setLazyFlags(kind | (log << CC.SIZE_SHIFT), a, b);
  }

  /** `b` first: it may be made of the flags there were. */
  protected setLazyFlags(kind: number, a: Expr, b: Expr): void {
    this.f.do(i64.store(i32.const(0), b, S.CC_B));
    this.f.do(i64.store(i32.const(0), a, S.CC_A));
    this.f.do(i32.store(i32.const(0), i32.const(kind), S.CC_KIND));
  }

  /** Flags of `a - b`, both sign-extended. */
  flagsSub(a: Expr, b: Expr, bytes = this.size): void {
    this.#setFlags(CC.SUB, bytes, a, b);
  }

  /** Flags of a logical result (sign-extended): CF and OF clear. */
  flagsLogic(result: Expr, bytes = this.size): void {
    this.#setFlags(CC.SUB, bytes, result, i64.const(0));
  }

  /** Flags of `result = addend + …`, both sign-extended. */
  flagsAdd(result: Expr, addend: Expr, bytes = this.size): void {
    this.#setFlags(CC.ADD, bytes, result, addend);
  }

  /** ZF, SF, PF of `result` (sign-extended); CF, AF, OF as bits of `others`. */
  flagsResult(result: Expr, others: Expr, bytes = this.size): void {
    this.#setFlags(CC.RESULT, bytes, result, others);
  }

  /** All six flags as bits of `flags` (i64; other bits are ignored). */
  flagsExplicit(flags: Expr): void {
    this.#setFlags(CC.EXPLICIT, 1, i64.const(0), flags);
  }

  /** The flags of `mask` become those bits of `bits` (an i64, which has no others); the rest stays. */
  flagsReplace(mask: number, bits: Expr): void {
    this.flagsExplicit(i64.or(i64.and(this.flags(), i64.const(RFLAGS_STATUS & ~mask)), bits));
  }

  /** The six status flags as they are now: an i64. */
  flags(): Expr {
    return i64.extendI32U(call(this.lib.flags));
  }

  /** CF as 0 or 1: an i64. */
  carry(): Expr {
    return i64.extendI32U(call(this.lib.carry));
  }

  /** Condition code 0–15: an i32. */
  condition(code: number): Expr {
    return call(this.lib.condition, i32.const(code));
  }

  // ---- leaving --------------------------------------------------------------------------------------------------

  /** Leaves to L0 in front of the instruction, of which its length is all there is to say. Ends the form. */
  exitBefore(reason: ExitReason): void {
    const zero = i32.const(0);
    this.f.do(i32.store(zero, i32.const(reason), X.REASON));
    this.f.do(i32.store(zero, i32.load8U(this.record, REC.LENGTH), X.LENGTH));
    this.f.do(i64.store(zero, i64.const(0), X.QUALIFICATION));
    this.f.do(i32.store(zero, zero, X.VECTORING));
    this.f.do(i32.store(zero, zero, X.LINEAR_VALID));
    this.leave(i32.const(STATUS.EXIT_BEFORE));
  }

  /** The rest of the instruction is a TypeScript helper. Ends the form. */
  helper(helper: Helper): void {
    this.leave(call(this.lib.helper, i32.const(helperNumber(helper)), this.record));
  }

  /** The instruction is `helper`'s after all: for a branch of a form whose frequent cases are written out. */
  helperInstead(helper: Helper): void {
    this.leave(call(this.lib.helper, i32.const(helperNumber(helper)), this.record));
  }

  /**
   * Where an instruction has a frequent case that is written out and a rare one: nothing of it has happened before. A
   * region leaves the rare one to the interpreter.
   */
  rarely(condition: Expr, rare: () => void, usual?: () => void): void {
    this.f.if(condition, rare, usual);
  }

  /** Registers and flags are where functions of the core and helpers look for them. */
  settled(): void {}

  /** The instruction has done a part and begins again: in 64-bit mode. */
  again(): void {
    const own = i64.sub(this.nextRip(), this.length());
    this.f.do(i64.store(i32.const(0), own, S.NEXT_LINEAR));
    this.leave(i32.const(STATUS.JUMP));
  }

  /** A field of the record's AUX word: an i32. */
  aux(shift: number, width: number): Expr {
    return i32.and(i32.shrU(this.field32(REC.AUX), i32.const(shift)), i32.const((1 << width) - 1));
  }

  auxHas(mask: number): Expr {
    return i32.and(this.field32(REC.AUX), i32.const(mask));
  }

  /** Non-zero (i32) if L0 wants one of these instructions: INTERCEPT bits, WINDOW. */
  intercepted(bits: number): Expr {
    return i32.and(i32.load(i32.const(0), S.INTERCEPTED), i32.const(bits));
  }

  /** Instructions retired when this one begins: an i64. */
  retired(): Expr {
    const left = i64.add(i64.extendI32S(i32.load(i32.const(0), S.BUDGET)), i64.load16U(this.record, REC.REMAINING));
    return i64.sub(i64.load(i32.const(0), S.RETIRED_AT_END), left);
  }

  /** RIP of the instruction behind this one; not in `general` mode. */
  nextRip(): Expr {
    const next = i64.add(i64.load(i32.const(0), S.RIP_PAGE), this.nextOffset());
    return this.long ? next : i64.and(next, LOW_HALF);
  }

  /** #GP(0) unless `target` is canonical (64-bit mode). */
  checkTarget(target: Local): void {
    if (!this.long) return;
    const shift = i64.load32U(i32.const(0), S.CANONICAL_SHIFT);
    const extended = i64.shrS(i64.shl(target.get, shift), shift);
    this.raiseIf(i64.ne(extended, target.get), 13, 0);
  }
}
