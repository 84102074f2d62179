import { assert } from '../../base/assert.ts';
import { call, type Expr, I32, I64, i32, i64, V128, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { gpr, PROBE_ACCESS, REC, S, SCRATCH, STACK_ACCESS, STATUS, TLB, UNALIGNED_ACCESS } from '../core/layout.ts';
import type { AddressMode, FormContext, Library } from './form-context.ts';
import type { Operand } from './instruction.ts';

const PAGE_MASK = i64.const(-4096);
export const LOW_HALF = i64.halves(-1, 0);
const TLB_MASK = i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
const REGISTER_FIELDS = [REC.RA, REC.RB, REC.RC] as const;

/**
 * The part of an instruction's words (semantics.ts) that reads and writes: fields of the record, operands, registers, memory.
 */
export abstract class AccessSemantics {
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
  protected assert(condition: boolean, invariant: string): void {
    if (!condition) assert(false, `${this.form}: ${invariant}`);
  }

  /** Leaves the instruction with a status (an i32, one of STATUS). */
  abstract leave(status: Expr): void;

  /** Raises an exception if `condition` (i32). Error code 0 where the vector has one. */
  raiseIf(condition: Expr, vector: number, error = 0): void {
    this.f.if(condition, () => this.raise(vector, error), undefined, false);
  }

  raise(vector: number, error = 0): void {
    this.f.do(i32.store(i32.const(0), i32.const(vector), S.FAULT_VECTOR));
    this.f.do(i32.store(i32.const(0), i32.const(error), S.FAULT_ERROR));
    this.leave(i32.const(STATUS.FAULT));
  }

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
    this.assert(this.#address === undefined, 'the address is displaced before it is used');
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
    this.assert(this.#address === undefined, 'its elements have addresses, not the operand');
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
    this.assert(bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8, 'a scalar access has 1, 2, 4 or 8 bytes');
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
    this.assert(bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8, 'a scalar access has 1, 2, 4 or 8 bytes');
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
