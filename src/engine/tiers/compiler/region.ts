import { assert } from '../../../base/assert.ts';
import { I32, i32, i64 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../../wasm/module.ts';
import { REC, S, STATUS } from '../../core/layout.ts';
import type { Library } from '../../isa/semantics.ts';
import type { CodePage } from '../code-cache.ts';
import { contextOf } from '../interpreter.ts';
import {
  type Block,
  findBlocks,
  flagsAreDead,
  follow,
  type Item,
  KIND,
  markDispatch,
  nestLoops,
  type Reader,
  targetOf,
} from './blocks.ts';
import type { RegionCalls } from './calls.ts';
import { epilogue, prologue, RegionFrame, RegionSemantics, type Targets } from './region-semantics.ts';

/** A sequence of items under construction: what can be branched to. */
interface Level {
  readonly item: Item;
  readonly labels: Label[];
  loop: Label;
  current: number;
}

/** What came of a page: the entries, in the order of their numbers, for those that are entries. */
export interface Plan {
  readonly page: CodePage;
  readonly blocks: readonly Block[];
  readonly root: Item;
}

/** Chooses what of a page is compiled. Undefined: nothing. */
export function planRegion(reader: Reader, page: CodePage, heatMin: number): Plan | undefined {
  const blocks = findBlocks(reader, page, heatMin);
  if (blocks.length === 0) return undefined;
  const numbers = new Map(blocks.map((block, i) => [block.record, i]));
  const edges: (readonly [number, number])[] = [];
  blocks.forEach((block, from) => {
    const to = (record: number): void => {
      const number = record === 0 ? undefined : numbers.get(record);
      if (number !== undefined) edges.push([from, number]);
    };
    const last = block.record + (block.count - 1) * REC.BYTES;
    const { kind } = reader.decoded(last)!;
    if (kind === KIND.CALL) {
      const callee = numbers.get(targetOf(reader, page, last));
      if (callee !== undefined) blocks[callee]!.entry = true;
    }
    if (kind === KIND.BRANCH || kind === KIND.CONDITIONAL) to(targetOf(reader, page, last));
    if (kind === KIND.PLAIN || kind === KIND.CONDITIONAL) to(follow(reader.memory, last + REC.BYTES));
  });
  const root = nestLoops(blocks.length, edges);
  // Outside loops, and at their heads, code is entered from wherever; inside, only where it is left
  const heads = (item: Item, inLoop: boolean): void => {
    item.items!.forEach((inner, i) => {
      if (inner.items) heads(inner, true);
      else if (!inLoop || (i === 0 && inner.first === item.first)) blocks[inner.first]!.entry = true;
    });
  };
  heads(root, false);
  markDispatch(root, edges, (i) => blocks[i]!.entry);
  return { page, blocks, root };
}

/** Generates the function of a region: (record) → status. */
export class RegionBuilder implements Targets {
  readonly #reader: Reader;
  readonly #plan: Plan;
  readonly #f: FunctionBuilder;
  readonly #frame: RegionFrame;
  readonly #entry: Local;
  readonly #numbers: ReadonlyMap<number, number>;
  readonly #levels: Level[] = [];
  readonly #map: number;

  /** @param map  Address of the region's table: block number + 1 by page offset. */
  constructor(reader: Reader, plan: Plan, lib: Library, calls: RegionCalls, f: FunctionBuilder, map: number) {
    this.#map = map;
    this.#reader = reader;
    this.#plan = plan;
    this.#f = f;
    this.#frame = new RegionFrame(f, lib, calls, reader.memory);
    this.#entry = f.local(I32);
    this.#numbers = new Map(plan.blocks.map((block, i) => [block.record, i]));
  }

  build(): void {
    const f = this.#f;
    this.#frame.ways(() => {
      f.loop((top) => {
        this.#level(this.#plan.root, top);
        f.unreachable();
      });
    });
    epilogue(this.#frame);
    // What is loaded at the entry is known only now
    const body = f.code.done();
    f.code.length = 0;
    prologue(this.#frame, f, f.parameters[0]!, this.#entry);
    f.code.raw(body);
  }

  /** A sequence inside the loop at `loop`. */
  #level(item: Item, loop: Label): void {
    const f = this.#f;
    const items = item.items!;
    const level: Level = { item, labels: [], loop, current: -1 };
    this.#levels.push(level);
    const nest = (at: number): void => {
      if (at < 0) {
        if (item.dispatch) this.#dispatch(level);
        return;
      }
      f.block((label) => {
        level.labels[at] = label;
        nest(at - 1);
      });
      level.current = at;
      const inner = items[at]!;
      if (inner.items) f.loop((again) => this.#level(inner, again));
      else this.#block(inner.first);
    };
    nest(items.length - 1);
    this.#levels.pop();
  }

  #dispatch({ item, labels }: Level): void {
    const f = this.#f;
    const targets: Label[] = [];
    item.items!.forEach(({ first, last }, i) => {
      for (let at = first; at <= last; at += 1) targets.push(labels[i]!);
    });
    const index = item.first === 0 ? this.#entry.get : i32.sub(this.#entry.get, i32.const(item.first));
    f.brTable(index, targets, labels[0]!);
  }

  #block(number: number): void {
    const f = this.#f;
    const frame = this.#frame;
    const { memory } = this.#reader;
    const block = this.#plan.blocks[number]!;
    const run = memory.u16[(block.record + REC.REMAINING) >>> 1]!;
    f.set(frame.budget, i32.sub(i32.load(i32.const(0), S.BUDGET), i32.const(run)));
    f.if(i32.ltS(frame.budget.get, i32.const(0)), () => frame.leave(i32.const(STATUS.GO), block.record));
    f.do(i32.store(i32.const(0), frame.budget.get, S.BUDGET));
    frame.known = undefined;
    let at = block.record;
    let kind: number = KIND.PLAIN;
    const end = block.record + block.count * REC.BYTES;
    for (let i = 0; i < block.count; i += 1) {
      const decoded = this.#reader.decoded(at);
      assert(decoded !== undefined, 'a block consists of what can be compiled');
      kind = decoded.kind;
      f.scope(() => {
        const semantics = new RegionSemantics(frame, contextOf(decoded.variant), at, this);
        semantics.mnemonic = decoded.variant.form.mnemonic;
        semantics.flagsDead = flagsAreDead(this.#reader, at, end);
        decoded.variant.form.instruction.execute(semantics);
      });
      at += REC.BYTES;
    }
    if (kind === KIND.PLAIN) this.#flow(at);
  }

  /** Goes on at a record of the run that has been charged, or at what follows its end. */
  #flow(record: number): void {
    const { memory } = this.#reader;
    const number = this.#numbers.get(record);
    if (number !== undefined) {
      // It charges the rest of the run once more
      this.#refund(memory.u16[(record + REC.REMAINING) >>> 1]!);
      this.#jump(number);
      return;
    }
    const after = follow(memory, record);
    const other = after === record ? undefined : this.#numbers.get(after);
    if (other === undefined) {
      this.#frame.leave(i32.const(STATUS.RESUME), record);
      return;
    }
    // What was charged for a run whose rest has changed since
    const back = memory.u16[(record + REC.REMAINING) >>> 1]!;
    if (back !== 0) this.#refund(back);
    this.#jump(other);
  }

  #refund(count: number): void {
    const zero = i32.const(0);
    this.#f.do(i32.store(zero, i32.add(i32.load(zero, S.BUDGET), i32.const(count)), S.BUDGET));
  }

  #jump(number: number): void {
    const f = this.#f;
    for (let i = this.#levels.length - 1; i >= 0; i -= 1) {
      const { item, labels, loop, current } = this.#levels[i]!;
      if (number < item.first || number > item.last) continue;
      const at = item.items!.findIndex(({ first, last }) => number >= first && number <= last);
      if (at > current) {
        if (item.items![at]!.dispatch) f.set(this.#entry, i32.const(number));
        f.br(labels[at]!);
      } else {
        assert(item.dispatch || number === item.first, 'a loop without dispatcher is entered at its head');
        if (item.dispatch) f.set(this.#entry, i32.const(number));
        f.br(loop);
      }
      return;
    }
    assert(false, 'the outermost level holds all blocks');
  }

  taken(record: number): void {
    const target = targetOf(this.#reader, this.#plan.page, record);
    const number = target === 0 ? undefined : this.#numbers.get(target);
    if (number === undefined) this.#frame.leave(i32.const(STATUS.LINKED), record);
    else if (this.#reader.decoded(record)!.kind === KIND.CALL) {
      this.#f.set(this.#entry, i32.const(number));
      this.#f.br(this.#levels[0]!.loop);
    } else this.#jump(number);
  }

  notTaken(record: number): void {
    const next = record + REC.BYTES;
    const after = follow(this.#reader.memory, next);
    const number = after === 0 ? undefined : this.#numbers.get(after);
    if (number !== undefined) this.#jump(number);
    else this.#frame.leave(i32.const(STATUS.GO), next);
  }

  indirect(record: number, target: Local, offset: Local): void {
    const f = this.#f;
    f.if(i64.ltU(offset.get, i64.const(4096)), () => {
      f.set(this.#entry, i32.load8U(i32.wrap(offset.get), this.#map));
      f.if(this.#entry.get, () => {
        f.set(this.#entry, i32.sub(this.#entry.get, i32.const(1)));
        f.br(this.#levels[0]!.loop);
      });
    });
    f.do(i64.store(i32.const(0), target.get, S.NEXT_LINEAR));
    this.#frame.leave(i32.const(STATUS.JUMP), record);
  }
}
