import { gpr, REC, S, TLB } from '../../core/layout.ts';
import type { Variant } from '../../decode/decoder.ts';
import type { FormContext } from '../../isa/form-context.ts';
import { type Block, KIND, type Reader } from './blocks.ts';

/**
 * Which accesses of a block go to the stack at a known distance from one another: PUSH, POP, CALL, RET, and operands
 * [RSP + displacement], as long as RSP moves by constants. One look into the TLB serves all of them if it finds that they lie in
 * one page.
 */
export class StackAccesses {
  /** By array of the TLB (0, TLB.WRITE): from the first byte to behind the last, from RSP where the block begins. */
  readonly reads: Range | undefined;
  readonly writes: Range | undefined;
  readonly #offsets: ReadonlyMap<number, Offsets>;

  constructor({ offsets, reads, writes }: Found) {
    this.#offsets = offsets;
    this.reads = rangeOf(reads);
    this.writes = rangeOf(writes);
  }

  /** Those of a block, if there are any that can share. */
  static of(reader: Reader, block: Block): StackAccesses | undefined {
    const found = scan(reader, block);
    return found && new StackAccesses(found);
  }

  /** Where in the range of its array the access of the instruction at `record` begins; undefined: in none. */
  offset(record: number, bytes: number, array: number): number | undefined {
    const range = this.range(array);
    if (!range) return undefined;
    const offsets = this.#offsets.get(record);
    const offset = array === TLB.WRITE ? offsets?.write : offsets?.read;
    return offset !== undefined && offset >= range.first && offset + bytes <= range.end ? offset : undefined;
  }

  range(array: number): Range | undefined {
    return array === TLB.WRITE ? this.writes : this.reads;
  }
}

/** From RSP where the block begins, of what one instruction reads and writes. */
interface Offsets {
  readonly read: number | undefined;
  readonly write: number | undefined;
}

export interface Range {
  readonly first: number;
  readonly end: number;
}

/** The larger a range, the more often a page ends in it. */
const RANGE_MAX = 256;

/** Of accesses in their order, as many as fit; one alone is better off without. */
function rangeOf(accesses: readonly Range[]): Range | undefined {
  let first = Number.POSITIVE_INFINITY;
  let end = Number.NEGATIVE_INFINITY;
  let count = 0;
  for (const access of accesses) {
    const low = Math.min(first, access.first);
    const high = Math.max(end, access.end);
    if (high - low > RANGE_MAX) break;
    first = low;
    end = high;
    count += 1;
  }
  return count > 1 ? { first, end } : undefined;
}

const RSP = gpr(4);
/** Instructions that only read a memory operand in the first place. */
const READS_FIRST = /^(CMP|TEST|BT|PUSH|CALL|JMP|I?MUL|I?DIV|NOP|U?COMIS[SD])$/;
/** An index in a register moves the address: SDM 2A 3.2 "BT—Bit Test". */
const INDEXES_BITS = /^BT[SRC]?$/;
/** Move RSP by more than this file knows, or to somewhere else. */
const MOVES_STACK = /^(PUSH.|POP.|LEAVE|ENTER|IRET)/;
const REGISTER_FIELDS = [REC.RA, REC.RB, REC.RC] as const;

/** What is to be known of an instruction, whatever its record says. */
export interface StackUse {
  /** Bytes that it pushes or, less than 0, pops into a register or RIP. */
  readonly pushes: number;
  /** Its memory operand: bytes, or 0 if it is not where its address says, and whether it is only read. */
  readonly bytes: number;
  readonly reads: boolean;
  /** Fields of the record that name general registers. */
  readonly registers: readonly number[];
  /** 1 or -1: it adds an immediate to a register in 64 bits, or subtracts it. */
  readonly adds: number;
  /** RSP may be anything behind it. */
  readonly loses: boolean;
}

export function stackUseOf(variant: Variant, { operands }: FormContext): StackUse {
  const { mnemonic } = variant.form;
  const place = operands.findIndex(({ kind }) => kind === 'mem');
  const isMemory = variant.memory && place >= 0;
  const takesImmediate = operands[0]?.kind === 'gpr' && operands[1]?.kind === 'imm' && variant.size === 8;
  const pops = mnemonic === 'RET' || (mnemonic === 'POP' && !isMemory);
  const isPush = mnemonic === 'PUSH' || mnemonic === 'CALL';
  const isElsewhere = INDEXES_BITS.test(mnemonic) && operands[1]?.kind === 'gpr';
  const isStacks = isPush || mnemonic === 'POP' || mnemonic === 'RET';
  return {
    pushes: isPush ? variant.size : pops ? -variant.size : 0,
    bytes: isMemory && !isStacks && !isElsewhere ? operands[place]!.size : 0,
    reads: place > 0 || READS_FIRST.test(mnemonic),
    registers: operands
      .filter(({ kind, slot }) => kind === 'gpr' && slot >= 0)
      .map(({ slot }) => REGISTER_FIELDS[slot]!),
    adds: takesImmediate && mnemonic === 'ADD' ? 1 : takesImmediate && mnemonic === 'SUB' ? -1 : 0,
    loses:
      variant.mode !== 'long' ||
      variant.generalAddress ||
      MOVES_STACK.test(mnemonic) ||
      (mnemonic === 'POP' && isMemory) ||
      operands.some(({ kind, fixed }) => kind === 'gpr' && fixed === RSP),
  };
}

/** The accesses of a block, or nothing if there are less than two. */
function scan(reader: Reader, { record, code }: Block): Found | undefined {
  const { u16, i32 } = reader.memory;
  let found: Found | undefined;
  let rsp = 0;
  for (let i = 0, at = record; i < code.length; i += 1, at += REC.BYTES) {
    const { kind, stack } = code[i]!;
    if (kind === KIND.CALLED) break;
    let read: number | undefined;
    let write: number | undefined;
    let bytes = 8;
    let moves = 0;
    let { loses } = stack;
    if (stack.pushes > 0) {
      moves = -stack.pushes;
      bytes = stack.pushes;
      write = rsp + moves;
    } else if (stack.pushes < 0) {
      moves = bytes = -stack.pushes;
      read = rsp;
      loses ||= stack.registers.length > 0 && u16[(at + REC.RA) >>> 1] === RSP;
    } else {
      if (stack.bytes > 0 && stack.bytes <= 16 && !loses && isOnStack(u16, at)) {
        bytes = stack.bytes;
        const where = rsp + i32[(at + REC.DISP) >>> 2]!;
        if (stack.reads) read = where;
        else write = where;
      }
      for (const field of stack.registers) {
        if (u16[(at + field) >>> 1] !== RSP) continue;
        if (stack.adds === 0) loses = true;
        else moves = stack.adds * i32[(at + REC.IMM) >>> 2]!;
      }
    }
    if (read !== undefined || write !== undefined) {
      found ??= { offsets: new Map(), reads: [], writes: [] };
      found.offsets.set(at, { read, write });
      if (read !== undefined) found.reads.push({ first: read, end: read + bytes });
      if (write !== undefined) found.writes.push({ first: write, end: write + bytes });
    }
    if (loses) break;
    rsp += moves;
  }
  return found && found.offsets.size > 1 ? found : undefined;
}

/** [RSP + displacement], in a flat segment. */
const isOnStack = (u16: Uint16Array, at: number): boolean =>
  u16[(at + REC.BASE) >>> 1] === RSP && u16[(at + REC.INDEX) >>> 1] === S.ZERO && u16[(at + REC.SEG) >>> 1] === S.ZERO;

interface Found {
  readonly offsets: Map<number, Offsets>;
  readonly reads: Range[];
  readonly writes: Range[];
}
