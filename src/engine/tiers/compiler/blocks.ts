import { CODE_TABLE, REC, STRETCH } from '../../core/layout.ts';
import type { EngineMemory } from '../../core/memory.ts';
import { PSEUDO, type Variant } from '../../decode/decoder.ts';
import type { FormContext } from '../../isa/form-context.ts';
import type { CodePage } from '../code-cache.ts';
import type { StackUse } from './stack-accesses.ts';

/** What an instruction is to the compiler. */
export const KIND = {
  /** Not compiled: the interpreter runs it. */
  OUT: 0,
  PLAIN: 1,
  /** Jcc, JMP, CALL with a target in the record. */
  BRANCH: 2,
  CONDITIONAL: 3,
  CALL: 4,
  /** Its target is a value. */
  INDIRECT: 5,
  /** Its handler is called, with the guest's state where the interpreter has it. */
  CALLED: 6,
} as const;

export interface Decoded {
  readonly kind: number;
  /** It is a CALL, whatever its kind: what is behind it will be returned to. */
  readonly calls: boolean;
  readonly variant: Variant;
  /** Of CALLED: the handler that is a function. */
  readonly handler: number;
  readonly flags: FlagUse;
  readonly context: FormContext;
  readonly stack: StackUse;
}

/** What an instruction does with the status flags, as found by generating it once. */
export interface FlagUse {
  reads: boolean;
  /** It looks at some only to leave them as they are. */
  keeps: boolean;
  /** All of them, whatever its operands. */
  writes: boolean;
  /** It can leave the region, and then they are seen. */
  leaves: boolean;
}

/** A piece of a run: starts where code can be entered, ends with a branch, a call, another block, or what is not compiled. */
export interface Block {
  /** First record. */
  readonly record: number;
  /** Its page, by its place in the region's list of pages. */
  page: number;
  readonly offset: number;
  /** The instructions that are compiled. */
  readonly code: Decoded[];
  /** It can be entered from outside. */
  entry: boolean;
}

/** Most instructions of one page in a region. */
const INSTRUCTIONS_MAX = 600;
/** Most blocks of one page. */
const BLOCKS_MAX = 400;

/** How a page's records look to the compiler. */
export interface Reader {
  readonly memory: EngineMemory;
  /** Undefined for pseudo records and what stays out. */
  decoded(record: number): Decoded | undefined;
}

/** Of each instruction of a block: nothing sees the flags that it leaves, for the block sets them anew first. */
export function deadFlags(code: readonly Decoded[]): boolean[] {
  const dead = new Array<boolean>(code.length);
  let isDead = false;
  for (let i = code.length - 1; i >= 0; i -= 1) {
    dead[i] = isDead;
    const { flags, kind } = code[i]!;
    if (flags.reads || flags.leaves || kind !== KIND.PLAIN) isDead = false;
    else if (flags.writes && !flags.keeps) isDead = true;
  }
  return dead;
}

/** The last record of a block. */
export const lastOf = ({ record, code }: Block): number => record + (code.length - 1) * REC.BYTES;

/** Record of the branch target in the same page, or 0. */
export function targetOf(reader: Reader, page: CodePage, record: number): number {
  const extra = reader.memory.i32[(record + REC.TARGET) >>> 2]!;
  return extra >= 0 && extra < 4096 ? page.entries[extra]! : 0;
}

/** Where the run goes on at `record`: through GOTO records, or 0 if that is not known. */
export function follow(memory: EngineMemory, record: number): number {
  let at = record;
  for (let hops = 0; hops < 4; hops += 1) {
    if (memory.u16[at >>> 1] !== PSEUDO.GOTO) return at;
    at = memory.u32[(at + REC.LINK) >>> 2]!;
    if (at === 0) return 0;
  }
  return 0;
}

/**
 * The hot blocks of a page, in the order of their addresses.
 *
 * @param heatMin  Entered this often as a run, or found to follow a block that was.
 */
export function findBlocks(reader: Reader, page: CodePage, heatMin: number): Block[] {
  const { memory } = reader;
  const { u8, u16, u32, i32 } = memory;
  const { entries } = page;
  const hot: number[] = [];
  for (let end = u32[(page.table + CODE_TABLE.STRETCHES) >>> 2]!; end !== 0; end = u32[(end + STRETCH.NEXT) >>> 2]!) {
    for (let record = u32[(end + STRETCH.FIRST) >>> 2]!; record < end; record += REC.BYTES) {
      if (i32[(record + REC.HEAT) >>> 2]! < heatMin) continue;
      if (entries[u16[(record + REC.OFFSET) >>> 1]!] === record) hot.push(record);
    }
  }
  hot.sort(
    (a, b) =>
      i32[(b + REC.HEAT) >>> 2]! - i32[(a + REC.HEAT) >>> 2]! ||
      u16[(a + REC.OFFSET) >>> 1]! - u16[(b + REC.OFFSET) >>> 1]!,
  );
  const waiting = new Set(hot);
  // Heads first: a block ends where another starts
  const heads = new Map<number, Block>();
  const blocks: Block[] = [];
  let instructions = 0;
  const add = (record: number, entry: boolean): void => {
    const known = heads.get(record);
    if (known) {
      known.entry ||= entry;
      return;
    }
    if (blocks.length >= BLOCKS_MAX || instructions >= INSTRUCTIONS_MAX) return;
    let decoded = reader.decoded(record);
    if (!decoded) return;
    const code: Decoded[] = [];
    const block: Block = { record, page: 0, offset: u16[(record + REC.OFFSET) >>> 1]!, code, entry };
    heads.set(record, block);
    blocks.push(block);
    // Behind what is not compiled, and behind calls, the region is entered again
    for (let at = record; ; decoded = reader.decoded(at)) {
      if (!decoded) {
        // It may have been patched since
        const now = entries[u16[(at + REC.OFFSET) >>> 1]!] || at;
        const next = follow(memory, now + REC.BYTES);
        const goesOn = u16[(now + REC.REMAINING) >>> 1]! > 1 || next !== now + REC.BYTES;
        if (u16[now >>> 1]! >= PSEUDO.COUNT && goesOn && next !== 0) add(next, true);
        break;
      }
      instructions += 1;
      code.push(decoded);
      const { kind } = decoded;
      if (decoded.calls) {
        const back = entries[u16[(at + REC.OFFSET) >>> 1]! + u8[at + REC.LENGTH]!];
        if (back) add(back, true);
      } else if (kind === KIND.CALLED && !decoded.variant.form.instruction.terminator) {
        const next = follow(memory, at + REC.BYTES);
        if (next !== 0) add(next, true);
      }
      if (kind !== KIND.PLAIN) break;
      at += REC.BYTES;
      if (heads.has(at) || waiting.has(at)) break;
    }
  };
  for (const record of hot) add(record, false);
  // Some have found their heads only after the blocks that run into them
  for (const { record, code } of blocks) {
    for (let i = 1; i < code.length; i += 1) if (heads.has(record + i * REC.BYTES)) code.length = i;
  }
  return blocks.sort((a, b) => a.offset - b.offset || a.record - b.record);
}

/** A loop of the region: blocks `first` to `last`, or (without `items`) one block. */
export interface Item {
  readonly first: number;
  last: number;
  /** Parts of a loop, in order. */
  readonly items: Item[] | undefined;
  /** It can be entered elsewhere than at its first block. */
  dispatch: boolean;
}

/**
 * Loops as intervals of blocks in address order: each backward edge makes one from its target to its source. Crossing
 * ones are joined, so they nest.
 *
 * @param edges  Pairs of block numbers, from and to; calls are not among them.
 */
export function nestLoops(count: number, edges: readonly number[]): Item {
  /** By first block: the last one, or -1. */
  const ends = new Int32Array(count).fill(-1);
  for (let i = 0; i < edges.length; i += 2) {
    const from = edges[i]!;
    const to = edges[i + 1]!;
    if (to <= from && from > ends[to]!) ends[to] = from;
  }
  for (let changed = true; changed; ) {
    changed = false;
    for (let outer = 0; outer < count; outer += 1) {
      for (let inner = outer + 1; inner <= ends[outer]!; inner += 1) {
        if (ends[inner]! <= ends[outer]!) continue;
        ends[outer] = ends[inner]!;
        changed = true;
      }
    }
  }
  return { first: 0, last: count - 1, items: itemsOf(ends, 0, count - 1, -1), dispatch: true };
}

/** @param skip  The loop at this block is what is being taken apart. */
function itemsOf(ends: Int32Array, first: number, last: number, skip: number): Item[] {
  const items: Item[] = [];
  for (let at = first; at <= last; ) {
    const end = at === skip ? -1 : ends[at]!;
    if (end < 0) items.push({ first: at, last: at, items: undefined, dispatch: false });
    else items.push({ first: at, last: end, items: itemsOf(ends, at, end, at), dispatch: false });
    at = Math.max(at, end) + 1;
  }
  return items;
}

/** The part of a loop that has the block. */
export function partWith({ items }: Item, block: number): number {
  let low = 0;
  for (let high = items!.length - 1; low < high; ) {
    const middle = (low + high) >>> 1;
    if (items![middle]!.last < block) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Marks the loops in `item` that need a dispatcher: entered from outside, or by an entry, behind their first block. */
export function markDispatch(item: Item, edges: readonly number[], blocks: readonly Block[]): void {
  for (const inner of item.items!) {
    if (!inner.items) continue;
    const { first, last } = inner;
    for (let at = first + 1; at <= last && !inner.dispatch; at += 1) inner.dispatch = blocks[at]!.entry;
    for (let i = 0; i < edges.length && !inner.dispatch; i += 2) {
      const from = edges[i]!;
      const to = edges[i + 1]!;
      inner.dispatch = to > first && to <= last && (from < first || from > last);
    }
    markDispatch(inner, edges, blocks);
  }
}
