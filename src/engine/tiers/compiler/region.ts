import { assert } from '../../../base/assert.ts';
import { call, type Expr, I32, I64, i32, i64 } from '../../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../../wasm/module.ts';
import { EXIT_SLOT, JUMP_CACHE, PLACE, POOL, REC, REGIONS_GENERATION, RETURNS, S, STATUS } from '../../core/layout.ts';
import { PSEUDO } from '../../decode/decoder.ts';
import { MODE } from '../../decode/mode.ts';
import type { Library } from '../../isa/form-context.ts';
import type { CodePage } from '../code-cache.ts';
import { jumpSlot } from '../find-code.ts';
import {
  type Block,
  deadFlags,
  findBlocks,
  follow,
  type Item,
  KIND,
  lastOf,
  markDispatch,
  nestLoops,
  partWith,
  type Reader,
  targetOf,
} from './blocks.ts';
import { Places, RegionFrame } from './region-frame.ts';
import { RegionSemantics, type Targets } from './region-semantics.ts';
import { StackAccesses } from './stack-accesses.ts';

/** A sequence of items under construction: what can be branched to. */
interface Level {
  readonly item: Item;
  readonly labels: Label[];
  loop: Label;
  current: number;
}

/** A larger loop is that of a program, a hypervisor's: what leaves the region in the middle of it comes back before its head. */
const LEAN_INSTRUCTIONS = 40;
/** Registers stay in locals in loops of up to this many instructions. */
const LOOP_INSTRUCTIONS = 100;

/** What came of some pages: the entries, in the order of their numbers, for those that are entries. */
export interface Plan {
  readonly pages: readonly CodePage[];
  readonly blocks: readonly Block[];
  readonly root: Item;
  /** By record: which block it begins. */
  readonly numbers: ReadonlyMap<number, number>;
  /** Branches that leave their page for a block of the plan: record → block number. */
  readonly links: ReadonlyMap<number, number>;
  readonly instructions: number;
}

/** Blocks of a page, and the records of their branches to other pages. */
export interface PagePlan {
  readonly page: CodePage;
  readonly blocks: readonly Block[];
  readonly leaving: readonly number[];
  readonly instructions: number;
}

/** Chooses what of a page is compiled. Undefined: nothing. */
export function planPage(reader: Reader, page: CodePage, heatMin: number): PagePlan | undefined {
  const { u16, i32 } = reader.memory;
  const blocks = findBlocks(reader, page, heatMin);
  if (blocks.length === 0) return undefined;
  const leaving: number[] = [];
  let instructions = 0;
  for (const block of blocks) {
    instructions += block.code.length;
    const last = lastOf(block);
    const { kind } = block.code.at(-1)!;
    if (kind === KIND.BRANCH || kind === KIND.CONDITIONAL || kind === KIND.CALL) {
      const extra = i32[(last + REC.TARGET) >>> 2]!;
      if (extra < 0 || extra >= 4096) leaving.push(last);
    }
    if (kind === KIND.PLAIN && u16[(last + REC.BYTES) >>> 1] === PSEUDO.PAGE_END) leaving.push(last + REC.BYTES);
  }
  return { page, blocks, leaving, instructions };
}

/**
 * Joins pages to a region; their plans are of no use for another.
 *
 * @param resolve  Record that a branch to another page leads to, or 0.
 */
export function planRegion(
  reader: Reader,
  plans: readonly PagePlan[],
  resolve: (page: CodePage, record: number) => number,
): Plan {
  const pages = plans.map(({ page }) => page);
  const blocks: Block[] = [];
  const numbers = new Map<number, number>();
  let instructions = 0;
  for (let page = 0; page < plans.length; page += 1) {
    instructions += plans[page]!.instructions;
    for (const block of plans[page]!.blocks) {
      block.page = page;
      numbers.set(block.record, blocks.push(block) - 1);
    }
  }
  const links = new Map<number, number>();
  for (const { page, leaving } of plans) {
    for (const record of leaving) {
      const number = numbers.get(resolve(page, record));
      if (number === undefined) continue;
      links.set(record, number);
      blocks[number]!.entry = true;
    }
  }
  const edges: number[] = [];
  for (let from = 0; from < blocks.length; from += 1) {
    const block = blocks[from]!;
    const last = lastOf(block);
    const { kind } = block.code.at(-1)!;
    if (kind !== KIND.PLAIN) {
      const target = targetOf(reader, pages[block.page]!, last);
      const number = target === 0 ? undefined : numbers.get(target);
      if (number !== undefined) {
        if (kind === KIND.CALL) blocks[number]!.entry = true;
        else if (kind === KIND.BRANCH || kind === KIND.CONDITIONAL) edges.push(from, number);
      }
    }
    if (kind === KIND.PLAIN || kind === KIND.CONDITIONAL) {
      const after = follow(reader.memory, last + REC.BYTES);
      const number = after === 0 ? undefined : numbers.get(after);
      if (number !== undefined) edges.push(from, number);
    }
  }
  const root = nestLoops(blocks.length, edges);
  markEntries(root, blocks, false);
  markDispatch(root, edges, blocks);
  return { pages, blocks, root, numbers, links, instructions };
}

/** Outside loops, in large ones, and at their heads, code is entered from wherever; inside, only where it is left. */
function markEntries(item: Item, blocks: readonly Block[], inLoop: boolean): void {
  for (const inner of item.items!) {
    if (inner.items) markEntries(inner, blocks, instructionsOf(blocks, inner) <= LEAN_INSTRUCTIONS);
    else if (!inLoop || inner.first === item.first) blocks[inner.first]!.entry = true;
  }
}

function instructionsOf(blocks: readonly Block[], { first, last }: Item): number {
  let instructions = 0;
  for (let at = first; at <= last; at += 1) instructions += blocks[at]!.code.length;
  return instructions;
}

/**
 * Generates the function of a region: (address of its POOL, number + 1 of the block to enter) → status. It is entered with
 * nothing charged for the run there.
 */
export class RegionBuilder implements Targets {
  readonly #reader: Reader;
  readonly #plan: Plan;
  readonly #f: FunctionBuilder;
  readonly #frame: RegionFrame;
  readonly #semantics: RegionSemantics;
  /** Number + 1 of the block that the dispatchers lead to. */
  readonly #entry: Local;
  readonly #numbers: ReadonlyMap<number, number>;
  readonly #levels: Level[] = [];
  /** Instructions may be called: else the interpreter has to run them. Not so in lockstep. */
  readonly #mayCall: boolean;
  readonly #lib: Library;
  /** Of the instruction to call: its handler, its record, what is charged for the run that goes on behind it. */
  readonly #handler: Local;
  readonly #called: Local;
  readonly #back: Local;
  /** Of the block that is being generated. */
  #page = 0;
  #endsInCall = false;
  #calls!: Label;

  constructor(reader: Reader, plan: Plan, lib: Library, f: FunctionBuilder, mayCall: boolean) {
    this.#mayCall = mayCall;
    this.#lib = lib;
    this.#reader = reader;
    this.#plan = plan;
    this.#f = f;
    const places = new Places(plan.pages.length);
    for (const { record } of plan.blocks) places.add(record);
    this.#frame = new RegionFrame(f, lib, reader.memory, places);
    this.#frame.lockstep = !mayCall;
    this.#semantics = new RegionSemantics(this.#frame, this);
    this.#entry = f.local(I32);
    this.#handler = f.local(I32);
    this.#called = f.local(I32);
    this.#back = f.local(I32);
    this.#numbers = plan.numbers;
  }

  /** @returns  The places of its POOL. */
  build(): Places {
    const f = this.#f;
    f.set(this.#entry, f.parameters[1]!.get);
    const body = (): void => f.loop((top) => this.#level(this.#plan.root, top));
    f.block((exit) => {
      this.#frame.exit = exit;
      if (!this.#callsOut()) {
        this.#frame.load();
        body();
      } else {
        f.loop((again) => {
          this.#frame.load();
          f.block((calls) => {
            this.#calls = calls;
            body();
            f.unreachable();
          });
          this.#call(again);
        });
      }
      f.unreachable();
    });
    this.#frame.end();
    return this.#frame.places;
  }

  /** Some instruction of the region is called. */
  #callsOut(): boolean {
    return this.#mayCall && this.#plan.blocks.some(({ code }) => code.at(-1)!.kind === KIND.CALLED);
  }

  /** Runs the instruction at #called through its handler, and enters the region again behind it. */
  #call(again: Label): void {
    const f = this.#f;
    const zero = i32.const(0);
    const status = f.local(I32);
    this.#frame.store();
    f.set(status, call(this.#lib.byName('handler'), this.#handler.get, this.#called.get));
    f.do(i32.store(zero, this.#called.get, S.EXIT_RECORD));
    f.if(i32.eq(status.get, i32.const(STATUS.ENTER)), () => {
      // The end of a run: what follows charges for itself
      f.set(this.#back, zero);
      f.set(status, zero);
    });
    f.if(status.get, () => f.ret(i32.or(status.get, i32.const(STATUS.REGION))));
    // Nothing to go on with: no block, or it has changed
    f.if(i32.or(i32.eqz(this.#entry.get), i32.eqz(i32.load8U(this.#frame.pool.get, POOL.ALIVE))), () => {
      f.do(i32.store(zero, i32.add(this.#called.get, i32.const(REC.BYTES)), S.EXIT_RECORD));
      f.ret(i32.const(STATUS.RESUME | STATUS.REGION));
    });
    f.do(i32.store(zero, i32.add(i32.load(zero, S.BUDGET), this.#back.get), S.BUDGET));
    f.br(again);
  }

  /** A sequence inside the loop at `loop`. */
  #level(item: Item, loop: Label): void {
    const f = this.#f;
    const items = item.items!;
    const level: Level = { item, labels: [], loop, current: -1 };
    this.#levels.push(level);
    // What is behind an item is branched to from in front of it: a block around all that comes before each
    for (let at = items.length - 1; at >= 0; at -= 1) level.labels[at] = f.open();
    if (item.dispatch) this.#dispatch(level);
    for (let at = 0; at < items.length; at += 1) {
      f.close();
      level.current = at;
      const inner = items[at]!;
      if (!inner.items) this.#block(inner.first);
      else if (this.#isSmall(inner)) this.#frame.loop(() => f.loop((again) => this.#level(inner, again)));
      else f.loop((again) => this.#level(inner, again));
    }
    this.#levels.pop();
  }

  /** A loop without loops, of few instructions. */
  #isSmall(item: Item): boolean {
    return !item.items!.some((inner) => inner.items) && instructionsOf(this.#plan.blocks, item) <= LOOP_INSTRUCTIONS;
  }

  #dispatch({ item, labels }: Level): void {
    const f = this.#f;
    const targets: Label[] = [];
    for (let at = item.first, part = 0; at <= item.last; at += 1) {
      if (at > item.items![part]!.last) part += 1;
      targets.push(labels[part]!);
    }
    f.brTable(i32.sub(this.#entry.get, i32.const(item.first + 1)), targets, labels[0]!);
  }

  #block(number: number): void {
    const f = this.#f;
    const frame = this.#frame;
    const semantics = this.#semantics;
    const { memory } = this.#reader;
    const block = this.#plan.blocks[number]!;
    this.#page = block.page;
    const { code } = block;
    const last = code.at(-1)!;
    this.#endsInCall = last.kind === KIND.CALL;
    // What is called may count on it that its run is charged
    const run = memory.u16[(block.record + REC.REMAINING) >>> 1]!;
    const count = last.kind === KIND.CALLED ? run : code.length;
    frame.begin(StackAccesses.of(this.#reader, block));
    frame.charge(count, run - count, frame.places.first + number);
    const dead = deadFlags(code);
    let at = block.record;
    for (let i = 0; i < code.length; i += 1, at += REC.BYTES) {
      const decoded = code[i]!;
      if (decoded.kind === KIND.CALLED) {
        this.#callOut(at, decoded.handler, decoded.variant.form.instruction.terminator === true);
        return;
      }
      const outer = f.enterScope();
      semantics.begin(decoded.context, decoded.variant.form.mnemonic, at, dead[i]!);
      decoded.variant.form.instruction.execute(semantics);
      f.leaveScope(outer);
    }
    if (last.kind !== KIND.PLAIN) return;
    frame.save();
    this.#flow(at);
  }

  /** The instruction at `record` runs through its handler. */
  #callOut(record: number, handler: number, ends: boolean): void {
    const f = this.#f;
    if (!this.#mayCall) {
      // Its record may be an entry of this very region
      this.#frame.leave(i32.const(STATUS.REDO), record);
      return;
    }
    const next = ends ? undefined : this.#next(record + REC.BYTES);
    this.#frame.save();
    const place = this.#frame.places.add(record, handler);
    f.set(this.#handler, i32.load16U(this.#frame.pool.get, (place << POOL.UNIT_SHIFT) + PLACE.HANDLER));
    f.set(this.#called, this.#frame.recordOf(place));
    f.set(this.#entry, i32.const(next ? next.number + 1 : 0));
    f.set(this.#back, i32.const(next ? next.back : 0));
    f.br(this.#calls);
  }

  /** The block that goes on at a record of the run that has been charged, and what it will charge once more. */
  #next(record: number): { number: number; back: number } | undefined {
    const { memory } = this.#reader;
    const back = memory.u16[(record + REC.REMAINING) >>> 1]!;
    const number = this.#numbers.get(record);
    if (number !== undefined) return { number, back };
    const after = follow(memory, record);
    const other = after === record ? undefined : this.#numbers.get(after);
    // What was charged for a run whose rest has changed since
    return other === undefined ? undefined : { number: other, back };
  }

  /** Goes on at a record that is not charged. */
  #flow(record: number): void {
    const { memory } = this.#reader;
    const next = this.#next(record);
    if (next) {
      this.#jump(next.number);
      return;
    }
    const number = this.#plan.links.get(record);
    if (number !== undefined && memory.u16[record >>> 1] === PSEUDO.PAGE_END) {
      this.#across(number, i64.const(memory.u16[(record + REC.OFFSET) >>> 1]!));
    }
    this.#frame.go(record);
  }

  #jump(number: number): void {
    const f = this.#f;
    for (let i = this.#levels.length - 1; i >= 0; i -= 1) {
      const { item, labels, loop, current } = this.#levels[i]!;
      if (number < item.first || number > item.last) continue;
      const at = partWith(item, number);
      if (at > current) {
        if (item.items![at]!.dispatch) f.set(this.#entry, i32.const(number + 1));
        f.br(labels[at]!);
      } else {
        assert(item.dispatch || number === item.first, 'a loop without dispatcher is entered at its head');
        if (item.dispatch) f.set(this.#entry, i32.const(number + 1));
        f.br(loop);
      }
      return;
    }
    assert(false, 'the outermost level holds all blocks');
  }

  /** A jump that made no edge when loops were found: from the outermost level. */
  #jumpOver(number: number): void {
    const f = this.#f;
    const { item, labels, loop, current } = this.#levels[0]!;
    const at = partWith(item, number);
    const target = item.items![at]!;
    const ahead = at > current && (target.dispatch || number === target.first);
    if (!ahead || target.dispatch) f.set(this.#entry, i32.const(number + 1));
    f.br(ahead ? labels[at]! : loop);
  }

  /** Where the jump cache has its entry for a linear address, if it has one: a condition, and the entry's address. */
  #cached(linear: Local): { hit: Expr; slot: Local } {
    const zero = i32.const(0);
    const slot = this.#f.let(jumpSlot(linear));
    const hit = i32.and(
      i64.eq(i64.load(slot.get), linear.get),
      i32.eq(i32.load(slot.get, JUMP_CACHE.TAG), i32.load(zero, S.JUMP_TAG)),
    );
    return { hit, slot };
  }

  #enterPage(linear: Local): void {
    this.#f.do(i64.store(i32.const(0), i64.and(linear.get, i64.const(-4096)), S.RIP_PAGE));
  }

  /** To a block in another page, if that page is still where it was; else on behind this. */
  #across(number: number, distance: Expr): void {
    const f = this.#f;
    f.scope(() => {
      const linear = f.local(I64);
      const sum = i64.add(i64.load(i32.const(0), S.RIP_PAGE), distance);
      f.set(linear, this.#isLong ? sum : i64.and(sum, i64.halves(-1, 0)));
      const { hit, slot } = this.#cached(linear);
      const record = this.#frame.recordOf(this.#frame.places.first + number);
      const isThere = i32.and(hit, i32.eq(i32.load(slot.get, JUMP_CACHE.RECORD), record));
      const go = (): void => {
        this.#enterPage(linear);
        this.#jumpOver(number);
      };
      f.if(isThere, go, undefined, true);
    });
  }

  get #isLong(): boolean {
    return (this.#plan.pages[0]!.mode & MODE.LONG) !== 0;
  }

  taken(record: number): void {
    const linked = this.#plan.links.get(record);
    if (linked !== undefined) {
      this.#across(linked, i64.const(this.#reader.memory.i32[(record + REC.TARGET) >>> 2]!));
      this.#leaveLinked(record);
      return;
    }
    const target = targetOf(this.#reader, this.#plan.pages[this.#page]!, record);
    const number = target === 0 ? undefined : this.#numbers.get(target);
    if (number === undefined) this.#leaveLinked(record);
    else if (this.#endsInCall) this.#jumpOver(number);
    else this.#jump(number);
  }

  /** Leaves for the target of the branch at `record`, which is no block here. */
  #leaveLinked(record: number): void {
    const extra = this.#reader.memory.i32[(record + REC.TARGET) >>> 2]!;
    const isAcross = extra < 0 || extra >= 4096;
    // The record's own line is hardly ever in the cache
    if (isAcross) {
      const zero = i32.const(0);
      const linear = i64.add(i64.load(zero, S.RIP_PAGE), i64.const(extra));
      this.#f.do(i64.store(zero, this.#isLong ? linear : i64.and(linear, i64.halves(-1, 0)), S.NEXT_LINEAR));
    }
    this.#frame.leave(i32.const(isAcross ? STATUS.ACROSS : STATUS.LINKED), record);
  }

  notTaken(record: number): void {
    const next = record + REC.BYTES;
    const after = follow(this.#reader.memory, next);
    const number = after === 0 ? undefined : this.#numbers.get(after);
    if (number !== undefined) this.#jump(number);
    else this.#frame.go(next);
  }

  /** The entry of RETURNS for an address on the stack: both are i32. */
  #returnTo(slot: Expr): Local {
    const index = i32.and(slot, i32.const((RETURNS.ENTRIES - 1) << 3));
    return this.#f.let(i32.add(i32.const(RETURNS.AT), i32.shl(index, i32.const(RETURNS.ENTRY_SHIFT - 3))));
  }

  called(record: number, slot: Expr): void {
    // In lockstep a region runs alone
    if (this.#frame.lockstep) return;
    const { u8, u16 } = this.#reader.memory;
    const page = this.#plan.pages[this.#page]!;
    // Where it will return from, the page's table of blocks says the same for less
    const isDirect = this.#reader.decoded(record)!.kind === KIND.CALL;
    if (isDirect && targetOf(this.#reader, page, record) !== 0) return;
    const offset = u16[(record + REC.OFFSET) >>> 1]! + u8[record + REC.LENGTH]!;
    const number = this.#numbers.get(page.entries[offset] ?? 0);
    if (number === undefined) return;
    const f = this.#f;
    const zero = i32.const(0);
    const entry = this.#returnTo(slot);
    const linear = i64.add(i64.load(zero, S.RIP_PAGE), i64.const(offset));
    f.do(i64.store(entry.get, this.#isLong ? linear : i64.and(linear, i64.halves(-1, 0)), RETURNS.LINEAR));
    f.do(i64.store(entry.get, i64.load(zero, S.JUMP_CACHE), RETURNS.UNDER));
    f.do(i32.store(entry.get, this.#frame.pool.get, RETURNS.POOL));
    f.do(i32.store(entry.get, i32.const(number + 1), RETURNS.ENTRY));
    f.do(i32.store(entry.get, i32.load(zero, RETURNS.EPOCH_AT), RETURNS.EPOCH));
    f.release(entry);
  }

  /** Where the call was made from that the stack has the return address of at `slot`, if a region knows. */
  #return(target: Local, slot: Expr, top: Label): void {
    const f = this.#f;
    const zero = i32.const(0);
    const entry = this.#returnTo(slot);
    const isKnown = i32.and(
      i64.eq(i64.load(entry.get, RETURNS.LINEAR), target.get),
      i32.and(
        i64.eq(i64.load(entry.get, RETURNS.UNDER), i64.load(zero, S.JUMP_CACHE)),
        i32.eq(i32.load(entry.get, RETURNS.EPOCH), i32.load(zero, RETURNS.EPOCH_AT)),
      ),
    );
    const go = (): void => {
      this.#enterPage(target);
      f.set(this.#entry, i32.load(entry.get, RETURNS.ENTRY));
      f.brIf(top, i32.eq(i32.load(entry.get, RETURNS.POOL), this.#frame.pool.get));
      f.do(i32.store(zero, entry.get, EXIT_SLOT));
      this.#frame.out(i32.const(STATUS.RETURNED | STATUS.REGION));
    };
    f.if(isKnown, go, undefined, true);
    f.release(entry);
  }

  indirect(record: number, target: Local, offset: Local, from: Expr | undefined): void {
    const f = this.#f;
    const zero = i32.const(0);
    const top = this.#levels[0]!.loop;
    f.if(i64.ltU(offset.get, i64.const(4096)), () => {
      const at = i32.shl(i32.wrap(offset.get), i32.const(1));
      f.set(this.#entry, i32.load16U(i32.add(at, this.#frame.mapOf(this.#page))));
      f.brIf(top, this.#entry.get);
    });
    if (from && !this.#frame.lockstep) this.#return(target, from, top);
    const { hit, slot } = this.#cached(target);
    f.if(hit, () => {
      this.#enterPage(target);
      if (this.#plan.pages.length > 1) {
        const isKnown = i32.eq(i32.load(slot.get, JUMP_CACHE.REGIONS), i32.load(zero, REGIONS_GENERATION));
        const isHere = i32.eq(i32.load16U(slot.get, JUMP_CACHE.ENTRY), i32.load16U(this.#frame.pool.get, POOL.SLOT));
        f.if(i32.and(isHere, isKnown), () => {
          f.set(this.#entry, i32.load16U(slot.get, JUMP_CACHE.ENTRY + 2));
          f.br(top);
        });
      }
      f.do(i32.store(zero, i32.load(slot.get, JUMP_CACHE.RECORD), S.EXIT_RECORD));
      f.do(i32.store(zero, slot.get, EXIT_SLOT));
      this.#frame.out(i32.const(STATUS.FOUND | STATUS.REGION));
    });
    f.release(slot);
    f.do(i64.store(zero, target.get, S.NEXT_LINEAR));
    this.#frame.leave(i32.const(STATUS.JUMP), record);
  }
}
