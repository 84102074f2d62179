/**
 * A turn in WebAssembly: L2 leaves for L1 by an instruction, or L1 resumes it, and nothing but general registers, RIP and RFLAGS
 * is other than it was at the last entry. vm-exit.ts and vm-entry.ts would then move the same state to the same places and find
 * nothing to check or to merge.
 *
 * Owns    the moves, and that nothing has changed where a turn is refused.
 * Knows   what turns.ts has prepared (TURN), and asks it for what L0 keeps outside the engine's memory.
 *
 * Source  SDM 3C 26.3.2 "Loading Guest State", 27.2 "Recording VM-Exit Information and Updating VM-entry Control Fields", 27.3
 *         "Saving Guest State", 27.5 "Loading Host State".
 */
import { RFLAGS, RFLAGS_DEFINED } from '../../../arch/registers.ts';
import { FIELD, type VmcsField } from '../../../arch/vmx/fields.ts';
import { assert } from '../../../base/assert.ts';
import { EXIT, X } from '../../../engine/core/exits.ts';
import { gpr, REC, S, SEG, SWITCHED, segment, VMCS_CELLS } from '../../../engine/core/layout.ts';
import type { TurnLibrary } from '../../../engine/core/turn.ts';
import { TURN as ANSWER } from '../../../engine/decode/decoder.ts';
import { MODE } from '../../../engine/decode/mode.ts';
import { call, type Expr, I32, i32, i64, select, v128 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../../wasm/module.ts';
import { CR0_KEPT } from './state-areas.ts';
import { MOVED, TURNS } from './turn-registers.ts';
import { HAS_INFORMATION } from './vm-exit.ts';
import { cellOf } from './vmcs12.ts';

/** The VMCS_CELLS block of the VMCS that L2 runs on: u32. */
export const RUNS_ON = S.TURN;

const at = (offset: number): number => VMCS_CELLS.TURN + offset;
/** What turns.ts prepares, in the block of each VMCS: u32 unless said otherwise. Numbers say which level's. */
export const TURN = {
  /** What S.TURNS is to be behind an exit. */
  TURNS_1: at(0x00),
  /** Instructions' worth of virtual time that a switch takes. */
  COST: at(0x04),
  /** Bit n: exits of this reason are L1's, and nothing has to be asked about them. i64 */
  REASONS: at(0x08),
  CR0_1: at(0x10),
  CR4_1: at(0x14),
  EFER_1: at(0x18),
  EFER_2: at(0x1c),
  PAT_1: at(0x20), // i64
  PAT_2: at(0x28), // i64
  DR7_2: at(0x30), // i64
  DEBUGCTL_2: at(0x38),
  /** All bits if generated code may know L2's time-stamp counter where it knows L1's, and the other way round; else 0. */
  KNOWS_TSC: at(0x3c),
  /** S.QUICK and S.QUICK_RESERVED. */
  QUICK_1: at(0x40), // 2 × u32
  QUICK_2: at(0x48), // 2 × u32
  /** What `NestedVmx.openVmcs` says for L2. */
  VMCS_2: at(0x50),
  VMREAD_BITMAP_2: at(0x54),
  VMWRITE_BITMAP_2: at(0x58),
  MSR_BITMAP_2: at(0x5c),
  /** L2's time-stamp counter less L1's. i64 */
  TSC_OFFSET: at(0x60),
} as const;
assert(TURN.TSC_OFFSET + 8 <= VMCS_CELLS.HOST, 'a block has room for what is prepared');

const zero = i32.const(0);
const none = i64.const(0);
const get = (cell: number): Expr => i32.load(zero, cell);
const get64 = (cell: number): Expr => i64.load(zero, cell);
const RSP = gpr(4);
const SHADOW_MOV_SS = 2;
const DR7 = S.DR + 56;
/** SDM 3C 27.5.1. */
export const DR7_OF_EXIT = 0x400;
/** RFLAGS of L2 that need no look at what they arm: no single steps, no alignment checks, no virtual-8086 mode. */
const PLAIN_FLAGS = RFLAGS_DEFINED & ~(RFLAGS.TF | RFLAGS.AC | RFLAGS.VM | RFLAGS.VIF | RFLAGS.VIP);

/**
 * The function for TURN_SLOT. It asks L0 (1: for an entry, 0: for an exit) whether the level may change, as far as L0 sees. Then it
 * has, for L0: the answer is the address of the new level's TLB context; else 0. S.BUDGET is meanwhile as if the run had ended in
 * front of the instruction.
 */
export function buildTurn(f: FunctionBuilder, library: TurnLibrary): void {
  new TurnBuilder(f, library).build();
}

class TurnBuilder {
  readonly #f: FunctionBuilder;
  readonly #library: TurnLibrary;
  readonly #record: Expr;
  readonly #cells: Local;
  /** The budget as it was found, and without what the instruction's run was charged. */
  readonly #charged: Local;
  readonly #left: Local;

  constructor(f: FunctionBuilder, library: TurnLibrary) {
    this.#f = f;
    this.#library = library;
    this.#record = f.parameters[0]!.get;
    this.#cells = f.local(I32);
    this.#charged = f.let(get(S.BUDGET));
    this.#left = f.let(i32.add(this.#charged.get, i32.load16U(this.#record, REC.REMAINING)));
  }

  build(): void {
    const f = this.#f;
    f.if(i32.eq(get(S.TURNS), i32.const(TURNS.L2_MAY_LEAVE)), () => {
      f.set(this.#cells, get(RUNS_ON));
      this.#leave();
    });
    f.set(this.#cells, get(S.VMCS));
    this.#enter();
  }

  // ---- the parts -----------------------------------------------------------------------------------------------------

  #put(cell: number, value: Expr): void {
    this.#f.do(i32.store(zero, value, cell));
  }
  #put64(cell: number, value: Expr): void {
    this.#f.do(i64.store(zero, value, cell));
  }
  #field(name: VmcsField): Expr {
    return i64.load(this.#cells.get, cellOf(FIELD[name]));
  }
  #low(name: VmcsField): Expr {
    return i32.load(this.#cells.get, cellOf(FIELD[name]));
  }
  #turn(offset: number): Expr {
    return i32.load(this.#cells.get, offset);
  }
  #turn64(offset: number): Expr {
    return i64.load(this.#cells.get, offset);
  }

  #unless(condition: Expr): void {
    this.#f.if(condition, () => this.#f.ret(i32.const(ANSWER.NO)), undefined, false);
  }

  /** The instruction is the one behind that which set S.SHADOW_KIND: `Vcpu.shadow`. */
  #isShadowed(): Expr {
    const now = i64.sub(get64(S.RETIRED_AT_END), i64.extendI32S(this.#left.get));
    return i64.eq(get64(S.SHADOW_AT), now);
  }

  /** `Vmcs12.put`. */
  #record64(name: VmcsField, value: Expr): void {
    this.#f.do(i64.store(this.#cells.get, value, cellOf(FIELD[name])));
  }
  #record32(name: VmcsField, value: Expr): void {
    this.#record64(name, i64.extendI32U(value));
  }

  /** `Vmcs12.set`. */
  #save(name: VmcsField, value: Expr): void {
    const f = this.#f;
    f.scope(() => {
      const now = f.let(value);
      f.if(i64.ne(this.#field(name), now.get), () => {
        this.#record64(name, now.get);
        const { word, bit } = dirtyBit(name);
        const dirty = i32.load(this.#cells.get, word);
        f.do(i32.store(this.#cells.get, i32.or(dirty, i32.const(bit)), word));
      });
    });
  }

  /** `loadSwitched`: the image at this offset of the block. */
  #loadImage(offset: number): void {
    const f = this.#f;
    const kept = f.let(i32.and(get(S.CR0), i32.const(CR0_KEPT)));
    for (let part = 0; part < SWITCHED.BYTES; part += 16) {
      f.do(v128.store(zero, v128.load(this.#cells.get, offset + part), SWITCHED.FIRST + part));
    }
    this.#put(S.CR0, i32.or(i32.and(get(S.CR0), i32.const(~CR0_KEPT)), kept.get));
    f.release(kept);
  }

  /** `Processor.setRflags` of a value that is not computed here. */
  #setFlags(value: Expr): void {
    const f = this.#f;
    f.scope(() => {
      const flags = f.let(value);
      this.#put64(S.CC_B, i64.extendI32U(i32.and(flags.get, i32.const(0x8d5))));
      this.#put(S.CC_KIND, zero);
      this.#put(S.RFLAGS, i32.or(i32.and(flags.get, i32.const(0x3f_7700)), i32.const(RFLAGS.FIXED1)));
      const isDown = i32.and(flags.get, i32.const(RFLAGS.DF));
      this.#put64(S.DIRECTION, select(isDown, i64.const(-1), i64.const(1)));
    });
  }

  /** Asks L0, with a budget that it can count with, and that it may shorten. The address of the TLB context. */
  #ask(isEntry: number): Local {
    const f = this.#f;
    this.#put(S.BUDGET, this.#left.get);
    const context = f.let(call(this.#library.ask, i32.const(isEntry)));
    f.if(
      i32.eqz(context.get),
      () => {
        this.#put(S.BUDGET, this.#charged.get);
        f.ret(i32.const(ANSWER.NO));
      },
      undefined,
      false,
    );
    f.set(this.#left, get(S.BUDGET));
    return context;
  }

  #keep(quick: number): void {
    this.#f.do(i32.store(this.#cells.get, get(S.QUICK), quick));
    this.#f.do(i32.store(this.#cells.get, get(S.QUICK_RESERVED), quick + 4));
  }

  /** `VirtualTsc` has gone on by what the switch takes, and the other level reads it otherwise. */
  #moveTsc(offset: Expr): void {
    const f = this.#f;
    const rate = f.let(i32.and(get(S.TSC_RATE), this.#turn(TURN.KNOWS_TSC)));
    const ticks = i64.mul(i64.extendI32U(rate.get), i64.extendI32U(this.#turn(TURN.COST)));
    this.#put64(S.TSC_BASE, i64.add(i64.add(get64(S.TSC_BASE), ticks), offset));
    this.#put(S.TSC_RATE, rate.get);
    f.release(rate);
  }

  /** What `Engine.run` does before it runs, and the end. */
  #goOn(context: Local, rip: Expr, quick: number, retired: number, turns: Expr): void {
    const f = this.#f;
    const to = f.let(rip);
    this.#put64(S.RIP, to.get);
    this.#put64(S.NEXT_LINEAR, to.get);
    f.drop(call(this.#library.derive, context.get));
    this.#put(S.QUICK, this.#turn(quick));
    this.#put(S.QUICK_RESERVED, this.#turn(quick + 4));
    const cost = this.#turn(TURN.COST);
    this.#put64(S.RETIRED_AT_END, i64.sub(get64(S.RETIRED_AT_END), i64.extendI32U(cost)));
    const rest = f.let(i32.sub(i32.sub(this.#left.get, cost), i32.const(retired)));
    this.#put(S.BUDGET, rest.get);
    this.#put(S.TURNS, turns);
    f.ret(select(i32.gtS(rest.get, zero), i32.const(ANSWER.DONE), i32.const(ANSWER.OVER)));
  }

  // ---- from L2 to L1 ---------------------------------------------------------------------------------------------------

  #leave(): void {
    const f = this.#f;
    const reason = f.let(get(X.REASON));
    const bit = (bits: Expr): Expr => i32.wrap(i64.and(i64.shrU(bits, i64.extendI32U(reason.get)), i64.const(1)));
    this.#unless(i32.geU(reason.get, i32.const(64)));
    this.#unless(i32.eqz(bit(this.#turn64(TURN.REASONS))));
    this.#unless(i32.ltS(get(X.VECTORING), zero));
    this.#unless(i32.ltS(this.#low('ENTRY_INTERRUPTION_INFO'), zero));
    this.#unless(i32.or(get(S.PENDING_DEBUG), get(S.NMI_BLOCKED)));
    this.#unless(i32.and(i32.ne(get(S.SHADOW_KIND), zero), this.#isShadowed()));
    this.#unless(i32.eqz(i32.and(get(S.MODE), i32.const(MODE.LONG))));
    this.#unless(
      i32.or(
        i32.or(i32.ne(get(S.EFER), this.#turn(TURN.EFER_2)), i32.ne(get(S.DEBUGCTL), this.#turn(TURN.DEBUGCTL_2))),
        i32.or(i64.ne(get64(DR7), this.#turn64(TURN.DR7_2)), i64.ne(get64(S.PAT), this.#turn64(TURN.PAT_2))),
      ),
    );
    let differences = i32.const(0);
    for (let part = 0; part < SWITCHED.BYTES; part += 16) {
      const image = v128.load(this.#cells.get, VMCS_CELLS.GUEST + part);
      const pair = v128.xor(v128.load(zero, SWITCHED.FIRST + part), image);
      differences = i32.or(differences, v128.anyTrue(pair));
    }
    this.#unless(differences);
    const context = this.#ask(0);

    this.#record32('EXIT_REASON', reason.get);
    this.#record64('EXIT_QUALIFICATION', get64(X.QUALIFICATION));
    this.#record64('EXIT_INTERRUPTION_INFO', none);
    this.#record32('EXIT_INSTRUCTION_LENGTH', get(X.LENGTH));
    const hasInformation = bit(i64.halves(informationBits(0), informationBits(32)));
    this.#record32('EXIT_INSTRUCTION_INFO', select(hasInformation, get(X.INFO), zero));
    this.#record64('IDT_VECTORING_INFO', none);
    f.if(get(X.LINEAR_VALID), () => this.#record64('GUEST_LINEAR_ADDRESS', get64(X.LINEAR)));

    this.#save('GUEST_RSP', get64(RSP));
    this.#save('GUEST_RIP', i64.add(get64(S.RIP_PAGE), i64.load16U(this.#record, REC.OFFSET)));
    this.#save('GUEST_RFLAGS', i64.extendI32U(i32.or(get(S.RFLAGS), call(this.#library.flags))));
    for (const name of CLEARED) this.#save(name, none);

    this.#keep(TURN.QUICK_2);
    for (const [cell, kept] of OPENED) f.do(i32.store(this.#cells.get, get(cell), kept));
    for (const [cell] of OPENED) this.#put(cell, cell === S.VMCS ? this.#cells.get : zero);

    this.#loadImage(VMCS_CELLS.HOST);
    this.#put(S.EFER, this.#turn(TURN.EFER_1));
    this.#put64(S.PAT, this.#turn64(TURN.PAT_1));
    this.#put64(DR7, i64.const(DR7_OF_EXIT));
    this.#put(S.DEBUGCTL, zero);
    this.#put(S.SHADOW_KIND, zero);
    this.#put(S.CPL, zero);
    this.#put64(RSP, this.#field('HOST_RSP'));
    this.#setFlags(i32.const(RFLAGS.FIXED1));
    this.#moveTsc(i64.sub(none, this.#turn64(TURN.TSC_OFFSET)));
    this.#goOn(context, this.#field('HOST_RIP'), TURN.QUICK_1, 0, this.#turn(TURN.TURNS_1));
  }

  /** A word of DIRTY without the bits of MOVED. */
  #others(word: number): Expr {
    const dirty = i32.load(this.#cells.get, VMCS_CELLS.DIRTY + 4 * word);
    const moved = MOVED_BITS[word]!;
    return moved === 0 ? dirty : i32.and(dirty, i32.const(~moved));
  }

  /** Goes on where each field of that word has the value that L0 has seen last. */
  #unlessKnown(word: number): void {
    const f = this.#f;
    const bits = f.let(this.#others(word));
    f.if(bits.get, () =>
      f.loop((again) => {
        const cell = f.let(i32.add(this.#cells.get, i32.shl(i32.ctz(bits.get), i32.const(3))));
        const known = i64.load(cell.get, VMCS_CELLS.KNOWN + 256 * word);
        this.#unless(i64.ne(i64.load(cell.get, 256 * word), known));
        f.set(bits, i32.and(bits.get, i32.sub(bits.get, i32.const(1))));
        f.brIf(again, bits.get);
        f.release(cell);
      }),
    );
    f.release(bits);
  }

  // ---- from L1 to L2 ---------------------------------------------------------------------------------------------------

  #enter(): void {
    const f = this.#f;
    this.#unless(i32.eqz(i32.and(get(S.TURNS), i32.const(TURNS.L1_MAY_ENTER))));
    this.#unless(i32.ne(get(X.REASON), i32.const(EXIT.VMRESUME)));
    this.#unless(get(S.CPL));
    this.#unless(i32.and(i32.eq(get(S.SHADOW_KIND), i32.const(SHADOW_MOV_SS)), this.#isShadowed()));
    this.#unless(
      i32.or(
        i32.or(i32.ne(get(S.CR0), this.#turn(TURN.CR0_1)), i32.ne(get(S.CR4), this.#turn(TURN.CR4_1))),
        i32.or(i32.ne(get(S.EFER), this.#turn(TURN.EFER_1)), i64.ne(get64(S.PAT), this.#turn64(TURN.PAT_1))),
      ),
    );
    const hasDebug = i64.ne(get64(DR7), i64.const(DR7_OF_EXIT));
    this.#unless(i32.or(hasDebug, get(S.DEBUGCTL)));
    // Of what has been written, only what is judged here, or is what L0 knows
    let others = i32.const(0);
    for (let word = 0; word < VMCS_CELLS.DIRTY_BYTES / 4; word += 1) others = i32.or(others, this.#others(word));
    f.if(
      others,
      () => {
        for (let word = 0; word < VMCS_CELLS.DIRTY_BYTES / 4; word += 1) this.#unlessKnown(word);
      },
      undefined,
      false,
    );
    const rip = f.let(this.#field('GUEST_RIP'));
    // With five levels more is canonical: that is for who judges all
    this.#unless(i64.ne(i64.shrS(i64.shl(rip.get, i64.const(16)), i64.const(16)), rip.get));
    const flags = f.let(this.#field('GUEST_RFLAGS'));
    this.#unless(i64.ne(i64.and(flags.get, i64.const(~PLAIN_FLAGS)), i64.const(0)));
    this.#unless(i64.eqz(i64.and(flags.get, i64.const(RFLAGS.FIXED1))));
    const context = this.#ask(1);

    for (let part = 0; part < VMCS_CELLS.DIRTY_BYTES; part += 8) {
      f.do(i64.store(this.#cells.get, none, VMCS_CELLS.DIRTY + part));
    }
    this.#keep(TURN.QUICK_1);
    for (const [cell, kept] of OPENED) this.#put(cell, this.#turn(kept));
    this.#put(RUNS_ON, this.#cells.get);
    this.#loadImage(VMCS_CELLS.GUEST);
    this.#put(S.EFER, this.#turn(TURN.EFER_2));
    this.#put64(S.PAT, this.#turn64(TURN.PAT_2));
    this.#put64(DR7, this.#turn64(TURN.DR7_2));
    this.#put(S.DEBUGCTL, this.#turn(TURN.DEBUGCTL_2));
    const rights = get(segment(SEG.SS) + SEG.ACCESS);
    this.#put(S.CPL, i32.and(i32.shrU(rights, i32.const(5)), i32.const(3)));
    this.#put64(RSP, this.#field('GUEST_RSP'));
    this.#setFlags(i32.wrap(flags.get));
    // Behind VMRESUME, which retires
    const now = i64.sub(get64(S.RETIRED_AT_END), i64.extendI32S(i32.sub(this.#left.get, i32.const(1))));
    this.#put64(S.SHADOW_AT, now);
    this.#put(S.SHADOW_KIND, zero);
    this.#put(S.NMI_BLOCKED, zero);
    this.#put(S.PENDING_DEBUG, zero);
    this.#put64(S.PAUSE_FIRST, none);
    this.#moveTsc(this.#turn64(TURN.TSC_OFFSET));
    this.#goOn(context, rip.get, TURN.QUICK_2, 1, i32.const(TURNS.L2_MAY_LEAVE));
  }
}

/** What `openVmcs` opens, and where L2's is kept. */
const OPENED = [
  [S.VMCS, TURN.VMCS_2],
  [S.VMREAD_BITMAP, TURN.VMREAD_BITMAP_2],
  [S.VMWRITE_BITMAP, TURN.VMWRITE_BITMAP_2],
  [S.MSR_BITMAP, TURN.MSR_BITMAP_2],
] as const;

/** Non-register state of an L2 that runs, and that nothing waits for. */
const CLEARED: readonly VmcsField[] = [
  'GUEST_ACTIVITY_STATE',
  'GUEST_INTERRUPTIBILITY_STATE',
  'GUEST_PENDING_DEBUG_EXCEPTIONS',
];

/** Offset in the block of the word with a field's dirty bit, and the bit. */
function dirtyBit(name: VmcsField): { word: number; bit: number } {
  const cell = FIELD[name] + 1;
  assert(cellOf(FIELD[name]) === 8 * cell, 'a bit for each cell');
  return { word: VMCS_CELLS.DIRTY + 4 * (cell >>> 5), bit: 1 << (cell & 31) };
}

/** By word of DIRTY: the bits of MOVED. */
const MOVED_BITS: readonly number[] = Array.from({ length: VMCS_CELLS.DIRTY_BYTES / 4 }, (_, i) =>
  MOVED.map(dirtyBit).reduce((bits, { word, bit }) => (word === VMCS_CELLS.DIRTY + 4 * i ? bits | bit : bits), 0),
);

/** HAS_INFORMATION of 32 reasons. */
const informationBits = (from: number): number =>
  Array.from({ length: 32 }, (_, i) => i).reduce((bits, i) => bits | (HAS_INFORMATION[from + i]! << i), 0);
