import { REC } from '../../core/layout.ts';
import type { EngineMemory } from '../../core/memory.ts';
import { PSEUDO, type Variant } from '../../decode/decoder.ts';
import type { FormContext } from '../../isa/semantics.ts';
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
  readonly page: number;
  readonly offset: number;
  /** Instructions compiled. */
  count: number;
  /** It can be entered from outside. */
  entry: boolean;
  readonly heat: number;
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

/** Nothing sees the flags that the instruction at `record` leaves: the block, which ends at `end`, sets them anew first. */
export function flagsAreDead(reader: Reader, record: number, end: number): boolean {
  for (let at = record + REC.BYTES; at < end; at += REC.BYTES) {
    const { flags, kind } = reader.decoded(at)!;
    if (flags.reads || flags.leaves || kind !== KIND.PLAIN) return false;
    if (flags.writes && !flags.keeps) return true;
  }
  return false;
}

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
 * @param number   The page's place in its region.
 * @param heatMin  Entered this often as a run, or found to follow a block that was.
 */
export function findBlocks(reader: Reader, page: CodePage, number: number, heatMin: number): Block[] {
  const { memory } = reader;
  const { u8, u16, i32 } = memory;
  const { entries } = page;
  const hot: number[] = [];
  for (let at = 0; at < 4096; at += 1) {
    const record = entries[at]!;
    if (record !== 0 && i32[(record + REC.HEAT) >>> 2]! >= heatMin) hot.push(record);
  }
  hot.sort((a, b) => i32[(b + REC.HEAT) >>> 2]! - i32[(a + REC.HEAT) >>> 2]!);
  // Heads first: a block ends where another starts
  const heads = new Map<number, Block>();
  let instructions = 0;
  const add = (record: number, entry: boolean, heat: number): void => {
    const known = heads.get(record);
    if (known) {
      known.entry ||= entry;
      return;
    }
    if (heads.size >= BLOCKS_MAX || instructions >= INSTRUCTIONS_MAX) return;
    if (!reader.decoded(record)) return;
    const block: Block = { record, page: number, offset: u16[(record + REC.OFFSET) >>> 1]!, count: 0, entry, heat };
    heads.set(record, block);
    // Behind what is not compiled, and behind calls, the region is entered again
    let at = record;
    for (;;) {
      const decoded = reader.decoded(at);
      if (!decoded) {
        // It may have been patched since
        const now = entries[u16[(at + REC.OFFSET) >>> 1]!] || at;
        const next = follow(memory, now + REC.BYTES);
        const goesOn = u16[(now + REC.REMAINING) >>> 1]! > 1 || next !== now + REC.BYTES;
        if (u16[now >>> 1]! >= PSEUDO.COUNT && goesOn && next !== 0) add(next, true, heat);
        break;
      }
      instructions += 1;
      if (decoded.kind === KIND.CALL || decoded.variant.form.mnemonic === 'CALL') {
        const back = entries[u16[(at + REC.OFFSET) >>> 1]! + u8[at + REC.LENGTH]!];
        if (back) add(back, true, heat);
      } else if (decoded.kind === KIND.CALLED && !decoded.variant.form.instruction.terminator) {
        const next = follow(memory, at + REC.BYTES);
        if (next !== 0) add(next, true, heat);
      }
      if (decoded.kind !== KIND.PLAIN) break;
      at += REC.BYTES;
      if (heads.has(at)) break;
    }
  };
  for (const record of hot) add(record, false, i32[(record + REC.HEAT) >>> 2]!);
  const blocks = [...heads.values()].sort((a, b) => a.offset - b.offset || a.record - b.record);
  for (const block of blocks) {
    let at = block.record;
    for (;;) {
      const decoded = reader.decoded(at);
      if (!decoded) break;
      block.count += 1;
      at += REC.BYTES;
      if (decoded.kind !== KIND.PLAIN || heads.has(at)) break;
    }
  }
  return blocks;
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
 * @param edges  Pairs (from, to) of block numbers; calls are not among them.
 */
export function nestLoops(count: number, edges: readonly (readonly [number, number])[]): Item {
  const lastOf = new Map<number, number>();
  for (const [from, to] of edges) if (to <= from) lastOf.set(to, Math.max(lastOf.get(to) ?? 0, from));
  const starts = [...lastOf.keys()].sort((a, b) => a - b);
  for (let changed = true; changed; ) {
    changed = false;
    for (const outer of starts) {
      for (const inner of starts) {
        const end = lastOf.get(outer)!;
        const innerEnd = lastOf.get(inner)!;
        if (inner > outer && inner <= end && innerEnd > end) {
          lastOf.set(outer, innerEnd);
          changed = true;
        }
      }
    }
  }
  const build = (from: number, to: number, skip: number): Item[] => {
    const items: Item[] = [];
    for (let at = from; at <= to; ) {
      const last = at === skip ? undefined : lastOf.get(at);
      if (last === undefined) {
        items.push({ first: at, last: at, items: undefined, dispatch: false });
        at += 1;
      } else {
        items.push({ first: at, last, items: build(at, last, at), dispatch: false });
        at = last + 1;
      }
    }
    return items;
  };
  return { first: 0, last: count - 1, items: build(0, count - 1, -1), dispatch: true };
}

/** Marks the loops that need a dispatcher: entered from outside, or by an entry, behind their first block. */
export function markDispatch(
  root: Item,
  edges: readonly (readonly [number, number])[],
  isEntry: (block: number) => boolean,
): void {
  const visit = (item: Item): void => {
    for (const inner of item.items ?? []) {
      if (!inner.items) continue;
      const { first, last } = inner;
      for (let at = first + 1; at <= last; at += 1) inner.dispatch ||= isEntry(at);
      for (const [from, to] of edges) inner.dispatch ||= to > first && to <= last && (from < first || from > last);
      visit(inner);
    }
  };
  visit(root);
}
