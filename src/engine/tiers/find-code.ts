import { type Callee, call, type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local, ModuleBuilder } from '../../wasm/module.ts';
import { CODE_TABLE, HAS_JUMPS, JUMP_CACHE, LOOKUPS_ARE_SEEN, REC, S, TLB } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { PSEUDO } from '../decode/decoder.ts';
import { MODE } from '../decode/mode.ts';
import { ACCESS } from '../paging/access.ts';
import { INSTRUCTION_BYTES, WRITES_MAX } from './code-cache.ts';

/**
 * From a linear address to decoded code, in WebAssembly, as far as the TLB and the code cache know it already; all else is
 * asked of TypeScript.
 *
 * Owns  nothing: it reads what paging/tlb.ts and tiers/code-cache.ts keep, and fills the jump cache as engine.ts does.
 */

const zero = i32.const(0);
const PAGE_MASK = i64.const(-4096);

/** Host address (i32) for fetching at `linear` (an i64 local); to `otherwise` if the TLB does not have it. */
function fetchHost(f: FunctionBuilder, linear: Local, otherwise: Label): Local {
  const index = i32.and(i32.wrap(i64.shrU(linear.get, i64.const(8))), i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES));
  const entry = f.let(i32.add(i32.load(zero, S.EXECUTE), index));
  f.brIf(otherwise, i64.ne(i64.load(entry.get), i64.and(linear.get, PAGE_MASK)));
  return f.let(i32.add(i32.wrap(linear.get), i32.load(entry.get, TLB.ADDEND)));
}

/** Address of the jump cache's slot for `linear` (an i64 local): an i32. */
export function jumpSlot(linear: Local): Expr {
  const folded = i32.wrap(i64.xor(linear.get, i64.shrU(linear.get, i64.const(12))));
  return i32.add(
    i32.load(zero, S.JUMP_CACHE),
    i32.shl(i32.and(folded, i32.const(JUMP_CACHE.ENTRIES - 1)), i32.const(JUMP_CACHE.ENTRY_SHIFT)),
  );
}

/** () → record for S.NEXT_LINEAR, or 0 with S.ACCESS_STATUS. The jump cache has been asked. */
export function defineLookup(
  m: ModuleBuilder,
  memory: EngineMemory,
  walk: Callee,
  decodeRun: Callee,
  slow: Callee,
): Callee {
  const f = m.func('lookup', [], [I32]);
  f.block((otherwise) => {
    f.brIf(otherwise, i32.load(zero, LOOKUPS_ARE_SEEN));
    const mode = f.let(i32.load(zero, S.MODE));
    // Outside 64-bit mode the code segment has a limit
    f.brIf(otherwise, i32.eqz(i32.and(mode.get, i32.const(MODE.LONG))));
    const linear = f.let(i64.load(zero, S.NEXT_LINEAR));
    const host = f.local(I32);
    f.block((found) => {
      f.block((miss) => {
        f.set(host, fetchHost(f, linear, miss).get);
        f.br(found);
      });
      const user = i32.eq(i32.load(zero, S.CPL), i32.const(3));
      const access = select(user, i32.const(ACCESS.FETCH | ACCESS.USER), i32.const(ACCESS.FETCH));
      f.set(host, call(walk, linear.get, access));
      f.brIf(otherwise, i32.eqz(host.get));
    });
    const pageTables = i32.shl(i32.shrU(host.get, i32.const(12)), i32.const(2));
    const table = f.let(i32.load(pageTables, memory.codeHeads));
    f.loop((next) => {
      f.brIf(otherwise, i32.eqz(table.get));
      f.if(i32.ne(i32.load(table.get, CODE_TABLE.MODE), mode.get), () => {
        f.set(table, i32.load(table.get, CODE_TABLE.NEXT));
        f.br(next);
      });
    });
    const offset = i32.shl(i32.and(host.get, i32.const(4095)), i32.const(2));
    const record = f.let(i32.load(i32.add(table.get, offset), CODE_TABLE.ENTRIES));
    f.if(i32.eqz(record.get), () => {
      f.brIf(otherwise, i32.load(table.get, CODE_TABLE.PATCHED_HOT));
      f.set(record, call(decodeRun, table.get, mode.get, host.get));
    });
    f.brIf(otherwise, i32.eqz(record.get));
    f.do(i64.store(zero, i64.and(linear.get, PAGE_MASK), S.RIP_PAGE));

    const link = f.let(i32.load(zero, S.PENDING_LINK));
    f.if(link.get, () => {
      f.do(i32.store(zero, zero, S.PENDING_LINK));
      f.do(i32.store(link.get, record.get));
      const owner = f.let(i32.sub(link.get, i32.const(REC.LINK)));
      f.if(i32.eq(i32.load16U(owner.get), i32.const(PSEUDO.STALE)), () =>
        f.do(i32.store16(owner.get, i32.const(PSEUDO.GOTO))),
      );
    });

    const slot = f.let(jumpSlot(linear));
    f.do(i64.store(slot.get, linear.get));
    f.do(i32.store(slot.get, record.get, JUMP_CACHE.RECORD));
    f.do(i32.store(slot.get, i32.load(zero, S.JUMP_TAG), JUMP_CACHE.TAG));
    f.do(i32.store(slot.get, zero, JUMP_CACHE.REGIONS));
    // TlbContexts.touchJumps
    const cache = f.let(i32.load(zero, S.JUMP_CACHE));
    const has = i32.or(i32.load(cache.get, JUMP_CACHE.HAS), i32.const(HAS_JUMPS.ENTRIES));
    f.do(i32.store(cache.get, has, JUMP_CACHE.HAS));
    const page = f.let(i32.wrap(i64.shrU(linear.get, i64.const(12))));
    const group = i32.and(i32.shrU(page.get, i32.const(3)), i32.const(JUMP_CACHE.FILTER_BYTES - 1));
    const word = f.let(i32.add(cache.get, group));
    const bit = i32.shl(i32.const(1), i32.and(page.get, i32.const(7)));
    f.do(i32.store8(word.get, i32.or(i32.load8U(word.get, JUMP_CACHE.FILTER), bit), JUMP_CACHE.FILTER));
    f.ret(record.get);
  });
  f.ret(call(slow));
  return f;
}

/**
 * (record) → status: is the record behind this CROSS, of an instruction over a page end, right for the bytes there are now?
 * CodeCache.cross knows what stands where.
 */
export function defineCross(m: ModuleBuilder, slow: Callee): Callee {
  const f = m.func('cross', [I32], [I32]);
  const record = f.parameters[0]!;
  f.block((otherwise) => {
    f.brIf(otherwise, i32.eqz(i32.and(i32.load(zero, S.MODE), i32.const(MODE.LONG))));
    const left = f.let(i32.load8U(record.get, REC.LENGTH));
    f.brIf(otherwise, i32.eqz(left.get));
    const page = f.let(i64.load(zero, S.RIP_PAGE));
    const offset = f.let(i32.load16U(record.get, REC.OFFSET));
    const linear = f.let(i64.add(page.get, i64.extendI32U(offset.get)));
    const at = fetchHost(f, linear, otherwise);
    f.set(linear, i64.add(page.get, i64.const(4096)));
    const second = fetchHost(f, linear, otherwise);
    const known = f.let(record.get);
    f.loop((again) => {
      f.brIf(otherwise, i32.ne(i32.load8U(at.get), i32.load8U(known.get, REC.RA)));
      f.set(at, i32.add(at.get, i32.const(1)));
      f.if(i32.eqz(i32.and(at.get, i32.const(4095))), () => f.set(at, second.get));
      f.set(known, i32.add(known.get, i32.const(1)));
      f.set(left, i32.sub(left.get, i32.const(1)));
      f.brIf(again, left.get);
    });
    f.ret(zero);
  });
  f.ret(call(slow, record.get));
  return f;
}

/**
 * (host address, bytes) → 1 if a store within a page changes no instruction that is decoded; it is counted where CodeCache would
 * count it. 0: CodeCache.written is to know of it.
 */
export function defineStorable(m: ModuleBuilder, memory: EngineMemory): Callee {
  const f = m.func('storable', [I32, I32], [I32]);
  const [host, bytes] = f.parameters as [Local, Local];
  const head = f.let(i32.load(i32.shl(i32.shrU(host.get, i32.const(12)), i32.const(2)), memory.codeHeads));
  f.if(i32.eqz(head.get), () => f.ret(i32.const(1)));
  const offset = f.let(i32.and(host.get, i32.const(4095)));
  const end = f.let(i32.add(offset.get, bytes.get));
  const most = i32.const(INSTRUCTION_BYTES - 1);
  const first = f.let(select(i32.gtU(offset.get, most), i32.sub(offset.get, most), zero));
  const table = f.let(head.get);
  const at = f.local(I32);
  const record = f.local(I32);
  f.block((other) => {
    f.loop((next) => {
      f.brIf(other, i32.load(table.get, CODE_TABLE.PATCHED));
      // The last change that its page waits for
      const changes = i32.add(i32.load(table.get, CODE_TABLE.CHANGES), i32.const(1));
      f.brIf(other, i32.eq(changes, i32.load(table.get, CODE_TABLE.WAITS)));
      f.brIf(other, i32.geU(i32.load(table.get, CODE_TABLE.WRITES), i32.const(WRITES_MAX)));
      f.set(at, first.get);
      f.loop((again) => {
        f.set(record, i32.load(i32.add(table.get, i32.shl(at.get, i32.const(2))), CODE_TABLE.ENTRIES));
        f.if(record.get, () => {
          const isBehind = i32.gtU(i32.add(at.get, i32.load8U(record.get, REC.LENGTH)), offset.get);
          // A crossing instruction checks its bytes by itself
          const isOwn = i32.ne(i32.load16U(record.get), i32.const(PSEUDO.CROSS));
          f.brIf(other, i32.and(isBehind, isOwn));
        });
        f.set(at, i32.add(at.get, i32.const(1)));
        f.brIf(again, i32.ltU(at.get, end.get));
      });
      f.set(table, i32.load(table.get, CODE_TABLE.NEXT));
      f.brIf(next, table.get);
    });
    f.set(table, head.get);
    f.loop((next) => {
      for (const count of [CODE_TABLE.WRITES, CODE_TABLE.CHANGES])
        f.do(i32.store(table.get, i32.add(i32.load(table.get, count), i32.const(1)), count));
      f.set(table, i32.load(table.get, CODE_TABLE.NEXT));
      f.brIf(next, table.get);
    });
    f.ret(i32.const(1));
  });
  f.ret(zero);
  return f;
}
