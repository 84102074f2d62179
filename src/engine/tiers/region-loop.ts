import { type Callee, call, callIndirect, type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import {
  EXIT_SLOT,
  JUMP_CACHE,
  PLACE,
  PLACE_ENTRY_SHIFT,
  POOL,
  REC,
  REGIONS_GENERATION,
  REGIONS_RETIRED,
  RETURNS,
  S,
  STATUS,
} from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { REGION_SLOT } from '../decode/decoder.ts';
import { jumpSlot } from './find-code.ts';

/** (handler, record) → status: an instruction by its handler, which is a function, for code outside the core module. */
export function defineHandlerCall(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('handler', [I32, I32], [I32]);
  const [handler, record] = f.parameters;
  f.ret(callIndirect(I32, m.typeIndex([I32], [I32]), 0, handler!.get, record!.get));
  return f;
}

/** What a region's function takes for the block that an entry record stands for: its number + 1. */
const numberOf = (record: Local): Expr =>
  i32.add(i32.shrU(i32.load(record.get, REC.PLACE), i32.const(PLACE_ENTRY_SHIFT)), i32.const(1));

/**
 * (record) → status with REGION: runs the region whose entry `record` is, and those that it jumps to, until one leaves for
 * something else. The budget is not charged for the run at `record`, nor is it, after a GO, for the run there.
 *
 * Owns    chaining by return (DESIGN.md 4.4): regions know nothing of each other, so that none has to be patched.
 *
 * What it needs of a region stands in the jump cache's entry (JUMP_CACHE.ENTRY): each record is a line of its own, which is
 * hardly ever in the cache.
 */
export function defineRegionLoop(m: ModuleBuilder, memory: EngineMemory, fill: Callee): Callee {
  const f = m.func('regions', [I32], [I32]);
  const record = f.parameters[0]!;
  const type = m.typeIndex([I32, I32], [I32]);
  const zero = i32.const(0);
  const region = f.let(i32.load16U(record.get));
  const number = f.let(numberOf(record));
  const status = f.local(I32);
  const pool = f.local(I32);
  /** The PLACE that the region says it has left at, or 0. */
  const place = f.local(I32);
  const linear = f.let(i64.const(0));
  /** Of the jump cache, if `record` comes from there, or 0. */
  const slot = f.local(I32);
  const retired = i64.sub(i64.load(zero, S.RETIRED_AT_END), i64.extendI32S(i32.load(zero, S.BUDGET)));
  const before = f.let(retired);
  /** Retired when a walk was last asked for. */
  const missedAt = f.let(i64.const(-1));
  /** Counts what has run; `rest` is charged, and has not. */
  const count = (rest: Expr): void => {
    const ran = i64.sub(i64.sub(retired, before.get), i64.extendI32S(rest));
    f.do(i64.store(zero, i64.add(i64.load(zero, REGIONS_RETIRED), ran), REGIONS_RETIRED));
  };
  const isStatus = (value: number): Expr => i32.eq(status.get, i32.const(value | STATUS.REGION));
  const poolOf = i32.shl(i32.sub(region.get, i32.const(REGION_SLOT)), i32.const(2));
  f.loop((again) => {
    f.set(pool, i32.load(poolOf, memory.regionPools));
    f.loop((returned) => {
      f.set(status, callIndirect(I32, type, 0, region.get, pool.get, number.get));
      f.if(isStatus(STATUS.RETURNED), () => {
        const entry = f.let(i32.load(zero, EXIT_SLOT));
        f.set(pool, i32.load(entry.get, RETURNS.POOL));
        f.set(number, i32.load(entry.get, RETURNS.ENTRY));
        f.set(region, i32.load16U(pool.get, POOL.SLOT));
        f.br(returned);
      });
    });
    f.block((miss) => {
      f.block((found) => {
        f.set(record, i32.load(zero, S.EXIT_RECORD));
        f.set(slot, i32.load(zero, EXIT_SLOT));
        f.brIf(found, isStatus(STATUS.FOUND));
        f.set(place, i32.shrU(status.get, i32.const(STATUS.PLACE_SHIFT)));
        f.set(status, i32.and(status.get, i32.const((1 << STATUS.PLACE_SHIFT) - 1)));
        f.set(slot, zero);
        f.block((elsewhere) => {
          // A region has looked itself for where a JUMP goes
          f.brIf(elsewhere, i32.eqz(isStatus(STATUS.ACROSS)));
          f.set(linear, i64.load(zero, S.NEXT_LINEAR));
          f.set(slot, jumpSlot(linear));
          f.brIf(elsewhere, i64.ne(i64.load(slot.get), linear.get));
          f.brIf(elsewhere, i32.ne(i32.load(slot.get, JUMP_CACHE.TAG), i32.load(zero, S.JUMP_TAG)));
          f.set(record, i32.load(slot.get, JUMP_CACHE.RECORD));
          f.do(i64.store(zero, i64.and(linear.get, i64.const(-4096)), S.RIP_PAGE));
          f.br(found);
        });
        f.if(place.get, () => {
          f.set(place, i32.add(pool.get, i32.shl(place.get, i32.const(POOL.UNIT_SHIFT))));
          f.set(record, i32.load(place.get, PLACE.RECORD));
          f.do(i32.store(zero, record.get, S.EXIT_RECORD));
          const budget = i32.sub(i32.load(zero, S.BUDGET), i32.load16U(place.get, PLACE.TAIL));
          f.do(i32.store(zero, budget, S.BUDGET));
        });
        f.if(
          isStatus(STATUS.MISS),
          () => {
            const now = f.let(i64.sub(retired, i64.extendI32U(i32.load16U(record.get, REC.REMAINING))));
            // Two operands of one instruction may drive each other out of the TLB for ever
            const isFirst = f.let(i64.ne(now.get, missedAt.get));
            f.set(missedAt, now.get);
            f.set(region, i32.load16U(record.get));
            f.if(i32.and(i32.geU(region.get, i32.const(REGION_SLOT)), isFirst.get), () => {
              f.if(call(fill, i64.load(zero, S.EA), i32.load16U(place.get, PLACE.ACCESS)), () => {
                // The region charges the run once more
                const budget = i32.add(i32.load(zero, S.BUDGET), i32.load16U(record.get, REC.REMAINING));
                f.do(i32.store(zero, budget, S.BUDGET));
                f.set(number, numberOf(record));
                f.br(again);
              });
            });
            f.set(status, i32.const(STATUS.REDO | STATUS.REGION));
            f.br(miss);
          },
          undefined,
          false,
        );
        f.if(isStatus(STATUS.LINKED), () => {
          const link = f.let(i32.load(record.get, REC.LINK));
          f.brIf(miss, i32.eqz(link.get));
          f.set(record, link.get);
          f.set(slot, zero);
          f.br(found);
        });
        f.if(isStatus(STATUS.ACROSS), () => f.set(status, i32.const(STATUS.LINKED | STATUS.REGION)));
        f.br(miss);
      });
      // In lockstep the entry may have been used for something else since
      const isSame = i32.eq(i32.load(slot.get, JUMP_CACHE.RECORD), record.get);
      const isKnown = i32.eq(i32.load(slot.get, JUMP_CACHE.REGIONS), i32.load(zero, REGIONS_GENERATION));
      f.if(i32.and(isSame, isKnown), () => {
        f.set(region, i32.load16U(slot.get, JUMP_CACHE.ENTRY));
        f.set(number, i32.load16U(slot.get, JUMP_CACHE.ENTRY + 2));
        f.br(again);
      });
      f.set(region, i32.load16U(record.get));
      f.if(i32.geU(region.get, i32.const(REGION_SLOT)), () => {
        f.set(number, numberOf(record));
        f.if(isSame, () => {
          f.do(i32.store16(slot.get, region.get, JUMP_CACHE.ENTRY));
          f.do(i32.store16(slot.get, number.get, JUMP_CACHE.ENTRY + 2));
          f.do(i32.store(slot.get, i32.load(zero, REGIONS_GENERATION), JUMP_CACHE.REGIONS));
        });
        f.br(again);
      });
      f.do(i32.store(zero, record.get, S.EXIT_RECORD));
      count(zero);
      f.ret(i32.const(STATUS.GO | STATUS.REGION));
    });
  });
  // What a GO leads to is not charged; the instruction that jumps, or leaves when it is done, has run
  const rest = f.let(i32.load16U(i32.load(zero, S.EXIT_RECORD), REC.REMAINING));
  const isDone = i32.or(isStatus(STATUS.JUMP), i32.or(isStatus(STATUS.LINKED), isStatus(STATUS.EXIT)));
  f.set(rest, select(isStatus(STATUS.GO), zero, i32.sub(rest.get, isDone)));
  count(rest.get);
  f.ret(status.get);
  return f;
}
