import { gpr, REC, S, TLB } from '../../core/layout.ts';
import { contextOf } from '../variants.ts';
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

  constructor(reader: Reader, block: Block) {
    const found = scan(reader, block);
    this.#offsets = found.offsets;
    this.reads = rangeOf(found.reads);
    this.writes = rangeOf(found.writes);
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
/** Move RSP by more than this file knows, or to somewhere else. */
const MOVES_STACK = /^(PUSH.|POP.|LEAVE|ENTER|IRET)/;

function scan(
  reader: Reader,
  { record, count }: Block,
): { offsets: ReadonlyMap<number, Offsets>; reads: Range[]; writes: Range[] } {
  const { u32, i32 } = reader.memory;
  const offsets = new Map<number, Offsets>();
  const reads: Range[] = [];
  const writes: Range[] = [];
  let rsp = 0;
  for (let at = record; at < record + count * REC.BYTES; at += REC.BYTES) {
    const { kind, variant } = reader.decoded(at)!;
    const { mnemonic } = variant.form;
    if (variant.mode !== 'long' || variant.generalAddress || kind === KIND.CALLED) break;
    let read: number | undefined;
    let write: number | undefined;
    let bytes = variant.size;
    let moves = 0;
    let known = !MOVES_STACK.test(mnemonic);
    const onStack =
      variant.memory &&
      u32[(at + REC.BASE) >>> 2] === RSP &&
      u32[(at + REC.INDEX) >>> 2] === S.ZERO &&
      u32[(at + REC.SEG) >>> 2] === S.ZERO;
    if (mnemonic === 'PUSH' || mnemonic === 'CALL') {
      moves = -bytes;
      write = rsp + moves;
    } else if (mnemonic === 'RET') read = rsp;
    else if (mnemonic === 'POP') {
      moves = bytes;
      if (!variant.memory) read = rsp;
      known = !variant.memory && u32[(at + REC.RA) >>> 2] !== RSP;
    } else {
      const { operands } = contextOf(variant);
      const place = operands.findIndex((operand) => operand.kind === 'mem');
      if (onStack && place >= 0) {
        bytes = operands[place]!.size;
        const where = rsp + i32[(at + REC.DISP) >>> 2]!;
        if (place > 0 || READS_FIRST.test(mnemonic)) read = where;
        else write = where;
      }
      const registers = operands.map(({ kind: what, slot, fixed }) =>
        what !== 'gpr' ? 0 : fixed !== 0 ? fixed : u32[(at + [REC.RA, REC.RB, REC.RC][slot]!) >>> 2]!,
      );
      if (registers.includes(RSP)) {
        const isMove = registers[0] === RSP && operands[1]?.kind === 'imm' && variant.size === 8;
        const amount = i32[(at + REC.IMM) >>> 2]!;
        if (isMove && mnemonic === 'ADD') moves = amount;
        else if (isMove && mnemonic === 'SUB') moves = -amount;
        else known = false;
      }
    }
    if (bytes >= 1 && bytes <= 16) {
      if (read !== undefined) reads.push({ first: read, end: read + bytes });
      if (write !== undefined) writes.push({ first: write, end: write + bytes });
      offsets.set(at, { read, write });
    }
    if (!known) break;
    rsp += moves;
  }
  return { offsets, reads, writes };
}
