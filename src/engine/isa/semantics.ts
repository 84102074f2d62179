import { assert } from '../../base/assert.ts';
import { type Callee, call, type Expr, I32, I64, i32, i64, V128, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { type ExitReason, X } from '../core/exits.ts';
import { type Helper, helperNumber } from '../core/helpers.ts';
import { gpr, PROBE_ACCESS, REC, S, SCRATCH, STACK_ACCESS, STATUS, TLB, UNALIGNED_ACCESS } from '../core/layout.ts';
import { CC, RFLAGS_STATUS } from './flags.ts';
import type { Operand } from './instruction.ts';

/**
 * How addresses and stacks work where the form runs. `long`: 64-bit mode. `flat32`: 32-bit code and stack, CS SS DS ES
 * flat. `general`: everything else; every access goes through the segment checks in TypeScript.
 */
export type AddressMode = 'long' | 'flat32' | 'general';

/** Functions of the core module that instruction code calls. */
export interface Library {
  /** (linear, bytes) → value, zero-extended; S.ACCESS_STATUS tells whether it worked. */
  readonly loadSlow: Callee;
  /** (linear, value, bytes) → status */
  readonly storeSlow: Callee;
  /** (linear, bytes) → host address for reading and writing, or 0 with S.ACCESS_STATUS. May be SCRATCH: then commit. */
  readonly modifySlow: Callee;
  readonly commit: Callee;
  /** (linear, bytes) → status; bytes come to S.WIDE. */
  readonly loadWide: Callee;
  /** (linear, bytes) → status; bytes are taken from S.WIDE. */
  readonly storeWide: Callee;
  /** () → the six status flags as in RFLAGS */
  readonly flags: Callee;
  /** (condition 0–15) → 0 or 1 */
  readonly condition: Callee;
  /** () → CF as 0 or 1 */
  readonly carry: Callee;
  /** (helper number, record) → status: TypeScript. */
  readonly helper: Callee;
  /** (a, b) → high 64 bits of the unsigned, signed product */
  readonly mulHighU: Callee;
  readonly mulHighS: Callee;
  /** (record, access: bytes | write << 8) → status, linear address in S.EA: segment checks, all address sizes. */
  readonly linear: Callee;
  /** Others by name: divide, floating point, … */
  readonly byName: (name: string) => Callee;
}

/** What the dispatcher has to know of a form besides its code. */
export interface FormContext {
  readonly operands: readonly Operand[];
  /** Operand size in bytes: 1, 2, 4 or 8. */
  readonly size: number;
  readonly mode: AddressMode;
  /** The memory operand's address needs the general calculation (16-bit, 67h, FS/GS outside 64-bit mode …). */
  readonly generalAddress: boolean;
  /** The form's full name, for messages. */
  readonly form: string;
  /** Low bits of the opcode byte: the condition of Jcc, SETcc, CMOVcc. */
  readonly opcode: number;
}

const PAGE_MASK = i64.const(-4096);
const LOW_HALF = i64.halves(-1, 0);
const TLB_MASK = i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
const REGISTER_FIELDS = [REC.RA, REC.RB, REC.RC] as const;

/**
 * The words an instruction is written in. Values are WebAssembly expressions of type i64 unless said otherwise;
 * operands come sign-extended (`load`) or zero-extended (`loadU`). An expression is evaluated where it is used: bind
 * with `let` what is used twice or read before something is written.
 *
 * Order: everything that may fault comes before the first write of a register or of memory. The memory operand's
 * address is computed once, at its first use.
 */
export abstract class Semantics {
  readonly f: FunctionBuilder;
  readonly lib: Library;
  // Of the instruction that is being written: `restart` sets them
  operands!: readonly Operand[];
  size!: number;
  mode!: AddressMode;
  opcode!: number;
  #context!: FormContext;
  /** The record that runs: an i32. */
  readonly record: Expr;
  #address: Local | undefined;
  /** The general calculation has checked that the segment can be written. */
  #writeChecked = false;

  constructor(f: FunctionBuilder, lib: Library, context: FormContext, record: Expr) {
    this.f = f;
    this.lib = lib;
    this.record = record;
    this.restart(context);
  }

  /** The words are those of another instruction from here on. */
  protected restart(context: FormContext): void {
    this.operands = context.operands;
    this.size = context.size;
    this.mode = context.mode;
    this.opcode = context.opcode;
    this.#context = context;
    this.#address = undefined;
    this.#writeChecked = false;
  }

  /** The form's full name. */
  get form(): string {
    return this.#context.form;
  }

  /** Says of which form the invariant is, if it is broken. */
  #assert(condition: boolean, invariant: string): void {
    if (!condition) assert(false, `${this.form}: ${invariant}`);
  }

  /** Leaves the instruction with a status (an i32, one of STATUS). */
  abstract leave(status: Expr): void;
  /** Branch to the record's target if `condition` (i32), else on with the next instruction. Ends the form. */
  abstract branchIf(condition: Expr): void;
  /** Branch to the record's target. Ends the form. */
  abstract branch(): void;
  /** Near jump to an offset in the code segment, wrapped to the operand size. Ends the form. */
  abstract jump(target: Expr): void;

  get long(): boolean {
    return this.mode === 'long';
  }

  let(value: Expr): Local {
    return this.f.let(value);
  }

  // ---- fields of the record ---------------------------------------------------------------------------------------

  field32(offset: number): Expr {
    return i32.load(this.record, offset);
  }

  field16(offset: number): Expr {
    return i32.load16U(this.record, offset);
  }

  /** A field and, if `whole`, REC.UPPER above it; else sign-extended: an i64. */
  extended(offset: number, whole: boolean): Expr {
    if (!whole) return i64.load32S(this.record, offset);
    const upper = i64.shl(i64.load32U(this.record, REC.UPPER), i64.const(32));
    return i64.or(upper, i64.load32U(this.record, offset));
  }

  /** Binary logarithm of the scale: an i64. */
  scale(): Expr {
    return i64.load8U(this.record, REC.SCALE);
  }

  /** Address of the vector register that is the index of a VSIB operand: an i32. */
  vectorIndex(): Expr {
    return this.field16(REC.RC);
  }

  /** Base + index × scale + displacement: an i64. */
  addressSum(): Expr {
    if (this.isFullOffset) return this.extended(REC.DISP, true);
    const scaled = i64.shl(i64.load(this.field16(REC.INDEX)), this.scale());
    const base = i64.load(this.field16(REC.BASE));
    return i64.add(i64.add(base, scaled), this.extended(REC.DISP, false));
  }

  /** The memory operand is a full-size offset of 64 bits. */
  protected get isFullOffset(): boolean {
    const { operands } = this;
    for (let i = 0; i < operands.length; i += 1) if (operands[i]!.whole && operands[i]!.kind === 'mem') return true;
    return false;
  }

  /** `sum` with the base of the memory operand's segment added. */
  withSegment(sum: Expr): Expr {
    return i64.add(sum, i64.load(this.field16(REC.SEG)));
  }

  /** Bytes of the instruction: an i64. */
  length(): Expr {
    return i64.load8U(this.record, REC.LENGTH);
  }

  /** Offset of the next instruction from the start of the page: an i64. */
  nextOffset(): Expr {
    return i64.add(i64.extendI32U(this.field16(REC.OFFSET)), this.length());
  }

  /** Address of the register that operand `i` names: an i32. */
  registerAddress(i: number): Expr {
    const operand = this.operands[i]!;
    return operand.fixed !== 0 ? i32.const(operand.fixed) : this.field16(REGISTER_FIELDS[operand.slot]!);
  }

  isMemory(i: number): boolean {
    return this.operands[i]!.kind === 'mem';
  }

  sizeOf(i: number): number {
    return this.operands[i]!.size;
  }

  // ---- operands -------------------------------------------------------------------------------------------------

  /** Operand `i`, sign-extended from its size. */
  load(i: number): Expr {
    return this.#load(i, true);
  }

  /** Operand `i`, zero-extended. */
  loadU(i: number): Expr {
    return this.#load(i, false);
  }

  #load(i: number, signed: boolean): Expr {
    const operand = this.operands[i]!;
    switch (operand.kind) {
      case 'imm': {
        const value = this.extended(REC.IMM, operand.whole === true);
        return signed ? value : this.zeroExtend(value, operand.size);
      }
      case 'one':
        return i64.const(1);
      case 'mem':
        return this.loadMemory(this.address(), operand.size, signed);
      default:
        return this.fixedLoad(this.registerAddress(i), 0, operand.size, signed);
    }
  }

  /** Reads `bytes` of the state at a fixed address: an i64. */
  fixedLoad(address: Expr, offset: number, bytes: number, signed = false): Expr {
    switch (bytes) {
      case 1:
        return (signed ? i64.load8S : i64.load8U)(address, offset);
      case 2:
        return (signed ? i64.load16S : i64.load16U)(address, offset);
      case 4:
        return (signed ? i64.load32S : i64.load32U)(address, offset);
      default:
        return i64.load(address, offset);
    }
  }

  /** Writes the low bits of `value` to operand `i`. A 32-bit register write clears the upper half. */
  store(i: number, value: Expr): void {
    const operand = this.operands[i]!;
    if (operand.kind === 'mem') this.storeMemory(this.address(true), value, operand.size);
    else this.storeRegister(this.registerAddress(i), value, operand.size);
  }

  storeRegister(address: Expr, value: Expr, bytes: number): void {
    this.f.do(
      bytes === 1
        ? i64.store8(address, value)
        : bytes === 2
          ? i64.store16(address, value)
          : bytes === 4
            ? i64.store(address, i64.and(value, LOW_HALF))
            : i64.store(address, value),
    );
  }

  /**
   * Reads operand `i` (sign-extended), computes, writes it back; memory is translated once, for writing, so a fault
   * comes before anything changes. `compute` may set flags: nothing can fault after it.
   */
  modify(i: number, compute: (old: Expr) => Expr): void {
    const operand = this.operands[i]!;
    if (operand.kind !== 'mem') {
      const address = this.registerAddress(i);
      const old = this.let(this.fixedLoad(address, 0, operand.size, true));
      this.storeRegister(address, compute(old.get), operand.size);
      return;
    }
    const host = this.writable(this.address(true), operand.size);
    const old = this.let(this.fixedLoad(host.get, 0, operand.size, true));
    this.storeHost(host, compute(old.get), operand.size);
    this.commit(host);
  }

  /** General register by number, whole. */
  reg(index: number): Expr {
    return i64.load(i32.const(0), gpr(index));
  }

  setReg(index: number, value: Expr, bytes = 8): void {
    this.storeRegister(i32.const(gpr(index)), value, bytes);
  }

  /** Register part by number: AL is (0, 1). Sign- or zero-extended. */
  regPart(index: number, bytes: number, signed = false): Expr {
    return this.fixedLoad(i32.const(0), gpr(index), bytes, signed);
  }

  // ---- addresses ------------------------------------------------------------------------------------------------

  /** Offset part of the memory operand's address, before the segment base: what LEA gives. Not for general addresses. */
  effectiveAddress(): Expr {
    const sum = this.addressSum();
    return this.mode === 'long' ? sum : i64.and(sum, LOW_HALF);
  }

  get generalAddress(): boolean {
    return this.#context.generalAddress;
  }

  /**
   * Linear address of the memory operand: a local, computed at the first call.
   *
   * @param write  It will be written. The writing words ask for this themselves; saying it at once saves a second check.
   */
  address(write = false): Local {
    if (this.#address) {
      if (write) this.#checkWrite(this.#address);
      return this.#address;
    }
    if (this.#context.generalAddress) {
      this.#generalAddress(write);
      this.#address = this.let(i64.load(i32.const(0), S.EA));
      this.#writeChecked = write;
      return this.#address;
    }
    let sum = this.addressSum();
    if (this.mode === 'long') sum = this.withSegment(sum);
    else sum = i64.and(sum, LOW_HALF);
    this.#address = this.let(sum);
    return this.#address;
  }

  /**
   * The memory operand of a bit test: `unit` (i64) is added to the offset before it wraps and the segment is checked.
   * Comes instead of `address`.
   */
  displacedAddress(unit: Expr, write: boolean): void {
    this.#assert(this.#address === undefined, 'the address is displaced before it is used');
    if (this.#context.generalAddress) {
      this.f.do(i64.store(i32.const(0), unit, S.VALUE));
      this.#generalAddress(write, 0x200);
      this.#address = this.let(i64.load(i32.const(0), S.EA));
      this.#writeChecked = write;
      return;
    }
    const address = this.address();
    const sum = i64.add(address.get, unit);
    this.f.set(address, this.long ? sum : i64.and(sum, LOW_HALF));
  }

  /**
   * Sets `linear` to the address of an operand that no ModRM names, at `offset` (i64) in the record's segment, after the
   * checks of the segment: outside 64-bit mode.
   */
  implicitAddress(linear: Local, offset: Expr, write: boolean): void {
    this.f.do(i64.store(i32.const(0), offset, S.VALUE));
    this.#generalAddress(write, 0x200);
    this.f.set(linear, i64.load(i32.const(0), S.EA));
  }

  /**
   * Linear address of `bytes` at `offset` (i64) in a memory operand of several elements, each of which is checked for
   * itself. Comes instead of `address`.
   *
   * @param behind  The operand is one block: what lies behind its start is not wrapped to the address size.
   */
  elementAddress(offset: Expr, bytes: number, write = false, behind = false): Local {
    this.#assert(this.#address === undefined, 'its elements have addresses, not the operand');
    if (this.#context.generalAddress) {
      this.f.do(i64.store(i32.const(0), offset, S.VALUE));
      this.#generalAddress(write, behind ? 0x400 : 0x200, bytes);
      return this.let(i64.load(i32.const(0), S.EA));
    }
    const sum = i64.add(this.addressSum(), offset);
    return this.let(this.long ? this.withSegment(sum) : i64.and(sum, LOW_HALF));
  }

  /** Segment checks in TypeScript; leaves with their fault. The address is in S.EA. */
  #generalAddress(write: boolean, more = 0, bytes?: number): void {
    const operand = this.operands.find(({ kind }) => kind === 'mem');
    const access = (bytes ?? operand?.size ?? 0) | (write ? 0x100 : 0) | more;
    const status = this.let(call(this.lib.linear, this.record, i32.const(access)));
    this.f.if(status.get, () => this.leave(status.get));
    this.f.release(status);
  }

  /** `linear` is about to be written: if it is the memory operand's address, its segment must allow that. */
  #checkWrite(linear: Local): void {
    if (!this.#context.generalAddress || this.#writeChecked || linear !== this.#address) return;
    this.#generalAddress(true);
    this.#writeChecked = true;
  }

  /** TLB entry that `linear` indexes, in the set in force: an i32. `array`: 0 read, TLB.WRITE. */
  protected tlbEntry(linear: Expr): Expr {
    const index = i32.and(i32.wrap(i64.shrU(linear, i64.const(8))), TLB_MASK);
    return i32.add(this.tlb(), index);
  }

  /** The TLB set in force: an i32. */
  tlb(): Expr {
    return i32.load(i32.const(0), S.TLB);
  }

  /** Another TLB set comes into force: an i32. */
  setTlb(set: Expr): void {
    this.f.do(i32.store(i32.const(0), set, S.TLB));
  }

  /** Writes the `bytes` at S.WIDE to memory, wherever it is; leaves with the fault if it cannot. */
  storeWide(linear: Local, bytes: number): void {
    const status = this.let(call(this.lib.storeWide, linear.get, i32.const(bytes)));
    this.f.if(status.get, () => this.leave(status.get));
  }

  /** 1 if all `bytes` at `linear` are in the page that the entry is for. */
  protected tlbHit(entry: Local, linear: Local, bytes: number, array: number): Expr {
    const last = bytes === 1 ? linear.get : i64.add(linear.get, i64.const(bytes - 1));
    return i64.eq(i64.load(entry.get, array), i64.and(last, PAGE_MASK));
  }

  protected tlbHost(entry: Local, linear: Local, array: number): Expr {
    return i32.add(i32.wrap(linear.get), i32.load(entry.get, array + TLB.ADDEND));
  }

  /**
   * Leaves with the fault if `bytes` at an element's address cannot be written; comes before the first of several stores.
   * #AC is not checked.
   */
  probeElement(linear: Local, bytes: number): void {
    const entry = this.let(this.tlbEntry(linear.get));
    this.f.if(i32.eqz(this.tlbHit(entry, linear, bytes, TLB.WRITE)), () => {
      const host = call(this.lib.modifySlow, linear.get, i32.const(bytes | PROBE_ACCESS));
      this.f.if(i32.eqz(host), () => this.leave(i32.load(i32.const(0), S.ACCESS_STATUS)));
    });
    this.f.release(entry);
  }

  /** Writes an element that was probed. */
  storeElement(linear: Local, value: Expr, bytes: number): void {
    this.storeMemory(linear, value, bytes, false, UNALIGNED_ACCESS);
  }

  /** Reads an element of a gather or of a masked move: #AC is not checked (for gathers: MEASURED on AMD family 25). */
  loadElement(linear: Local, bytes: number): Expr {
    return this.loadMemory(linear, bytes, false, false, UNALIGNED_ACCESS);
  }

  /** Writes the low bytes of `value` at a host address. */
  storeHost(host: Local, value: Expr, bytes: number): void {
    this.f.do(
      bytes === 1
        ? i64.store8(host.get, value)
        : bytes === 2
          ? i64.store16(host.get, value)
          : bytes === 4
            ? i64.store32(host.get, value)
            : i64.store(host.get, value),
    );
  }

  /** Reads memory; leaves with the fault if it cannot. The value is in a local already. */
  loadMemory(linear: Local, bytes: number, signed = false, stack = false, more = 0): Expr {
    this.#assert(bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8, 'a scalar access has 1, 2, 4 or 8 bytes');
    const entry = this.let(this.tlbEntry(linear.get));
    const value = this.f.local(I64);
    this.f.if(
      this.tlbHit(entry, linear, bytes, 0),
      () => this.f.set(value, this.fixedLoad(this.tlbHost(entry, linear, 0), 0, bytes, signed)),
      () => {
        const slow = call(this.lib.loadSlow, linear.get, i32.const(bytes | (stack ? STACK_ACCESS : 0) | more));
        this.f.set(value, slow);
        this.f.if(i32.load(i32.const(0), S.ACCESS_STATUS), () => this.leave(i32.load(i32.const(0), S.ACCESS_STATUS)));
        if (signed && bytes < 8) this.f.set(value, this.signExtend(value.get, bytes));
      },
      true,
    );
    this.f.release(entry);
    return value.get;
  }

  /** Writes memory; leaves with the fault if it cannot, and then nothing was written. */
  storeMemory(linear: Local, value: Expr, bytes: number, stack = false, more = 0): void {
    this.#checkWrite(linear);
    this.#assert(bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8, 'a scalar access has 1, 2, 4 or 8 bytes');
    const entry = this.let(this.tlbEntry(linear.get));
    const bound = value.shape === 1 || value.isConst ? value : this.let(value).get;
    this.f.if(
      this.tlbHit(entry, linear, bytes, TLB.WRITE),
      () => {
        const host = this.tlbHost(entry, linear, TLB.WRITE);
        this.f.do(
          bytes === 1
            ? i64.store8(host, bound)
            : bytes === 2
              ? i64.store16(host, bound)
              : bytes === 4
                ? i64.store32(host, bound)
                : i64.store(host, bound),
        );
      },
      () => {
        const access = i32.const(bytes | (stack ? STACK_ACCESS : 0) | more);
        const status = this.let(call(this.lib.storeSlow, linear.get, bound, access));
        this.f.if(status.get, () => this.leave(status.get));
        this.f.release(status);
      },
      true,
    );
    this.f.release(entry);
  }

  /** Host address at which `bytes` at `linear` can be read and written: finish with `commit`. */
  writable(linear: Local, bytes: number): Local {
    this.#checkWrite(linear);
    const entry = this.let(this.tlbEntry(linear.get));
    const host = this.f.local(I32);
    this.f.if(
      this.tlbHit(entry, linear, bytes, TLB.WRITE),
      () => this.f.set(host, this.tlbHost(entry, linear, TLB.WRITE)),
      () => {
        this.f.set(host, call(this.lib.modifySlow, linear.get, i32.const(bytes)));
        this.f.if(i32.eqz(host.get), () => this.leave(i32.load(i32.const(0), S.ACCESS_STATUS)));
      },
      true,
    );
    this.f.release(entry);
    return host;
  }

  /** After the stores through `writable`: passes on what went to the scratch place. */
  commit(host: Local): void {
    this.f.if(i32.eq(host.get, i32.const(SCRATCH)), () => this.f.do(call(this.lib.commit)), undefined, false);
  }

  // ---- vectors --------------------------------------------------------------------------------------------------

  /** XMM operand, or 16 bytes of memory: a v128 in a local. `aligned`: #GP(0) unless on 16 bytes. */
  loadV(i: number, aligned = true): Expr {
    const operand = this.operands[i]!;
    if (operand.kind !== 'mem') return this.let(v128.load(this.registerAddress(i))).get;
    const linear = this.address();
    if (aligned) this.raiseIf(i64.ne(i64.and(linear.get, i64.const(15)), i64.const(0)), 13, 0);
    return this.loadMemoryV(linear);
  }

  loadMemoryV(linear: Local): Expr {
    const entry = this.let(this.tlbEntry(linear.get));
    const value = this.f.local(V128);
    this.f.if(
      this.tlbHit(entry, linear, 16, 0),
      () => this.f.set(value, v128.load(this.tlbHost(entry, linear, 0))),
      () => {
        const status = this.let(call(this.lib.loadWide, linear.get, i32.const(16)));
        this.f.if(status.get, () => this.leave(status.get));
        this.f.set(value, v128.load(i32.const(0), S.WIDE));
      },
      true,
    );
    return value.get;
  }

  storeV(i: number, value: Expr, aligned = true): void {
    const operand = this.operands[i]!;
    if (operand.kind !== 'mem') {
      this.f.do(v128.store(this.registerAddress(i), value));
      return;
    }
    const linear = this.address(true);
    if (aligned) this.raiseIf(i64.ne(i64.and(linear.get, i64.const(15)), i64.const(0)), 13, 0);
    this.storeMemoryV(linear, value);
  }

  storeMemoryV(linear: Local, value: Expr): void {
    this.#checkWrite(linear);
    const bound = this.let(value);
    const entry = this.let(this.tlbEntry(linear.get));
    this.f.if(
      this.tlbHit(entry, linear, 16, TLB.WRITE),
      () => this.f.do(v128.store(this.tlbHost(entry, linear, TLB.WRITE), bound.get)),
      () => {
        this.f.do(v128.store(i32.const(0), bound.get, S.WIDE));
        this.storeWide(linear, 16);
      },
      true,
    );
  }

  // ---- stack ----------------------------------------------------------------------------------------------------

  /** Pushes `bytes`; not in `general` mode, where pushes are helpers. RSP changes after the store. */
  push(value: Expr, bytes: number): void {
    this.#assert(this.mode !== 'general', 'stack accesses in general mode go through a helper');
    const bound = value.isConst ? value : this.let(value).get;
    const down = i64.sub(this.reg(4), i64.const(bytes));
    const top = this.let(this.long ? down : i64.and(down, LOW_HALF));
    this.storeMemory(top, bound, bytes, true);
    this.setReg(4, top.get);
  }

  /** Value on top of the stack, zero-extended; RSP stays. `offset` bytes further up. */
  peek(bytes: number, offset = 0): Expr {
    this.#assert(this.mode !== 'general', 'stack accesses in general mode go through a helper');
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

  /** Raises an exception if `condition` (i32). Error code 0 where the vector has one. */
  raiseIf(condition: Expr, vector: number, error = 0): void {
    this.f.if(condition, () => this.raise(vector, error), undefined, false);
  }

  raise(vector: number, error = 0): void {
    this.f.do(i32.store(i32.const(0), i32.const(vector), S.FAULT_VECTOR));
    this.f.do(i32.store(i32.const(0), i32.const(error), S.FAULT_ERROR));
    this.leave(i32.const(STATUS.FAULT));
  }

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

  // ---- widths ---------------------------------------------------------------------------------------------------

  signExtend(value: Expr, bytes: number): Expr {
    return bytes === 1
      ? i64.extend8S(value)
      : bytes === 2
        ? i64.extend16S(value)
        : bytes === 4
          ? i64.extend32S(value)
          : value;
  }

  zeroExtend(value: Expr, bytes: number): Expr {
    return bytes === 8 ? value : i64.and(value, bytes === 4 ? LOW_HALF : i64.const(bytes === 2 ? 0xffff : 0xff));
  }
}
