import { CR0, CR4, RFLAGS } from '../../arch/registers.ts';
import { SPTE } from '../../contracts/second-stage.ts';
import { type Callee, call, type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local, ModuleBuilder } from '../../wasm/module.ts';
import {
  FILLS,
  FRAMES,
  HAS_JUMPS,
  JUMP_CACHE,
  PIECES,
  QUICK,
  S,
  TABLE_RIGHTS,
  TABLES,
  TLB,
  WALKS,
} from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { ACCESS } from './access.ts';
import { SEVERAL } from './tlb.ts';

/**
 * The walk that ends well, in WebAssembly: 64-bit tables over a second stage, all entries present with their accessed and
 * dirty bits set, the access allowed, and nothing about the page that a store would have to tell. It does what walk.ts
 * would do, and where it cannot it has changed nothing and walk.ts does it.
 *
 * Owns    nothing: caches and TLB are those of walk.ts, second-stage.ts and tlb.ts.
 * Never   faults, exits, or writes a table.
 *
 * Source  SDM 3A 4.5 "4-Level Paging and 5-Level Paging", 4.6 "Access Rights".
 */

const zero = i32.const(0);
const PAGE_MASK = i64.const(-4096);
/** Bits 51:12. */
const FRAME_MASK = i64.halves(0xffff_f000, 0x000f_ffff);

/** Bits of an entry of a paging structure. */
const ENTRY = { P: 1, W: 2, U: 4, A: 0x20, D: 0x40, PS: 0x80, G: 0x100 } as const;
/** Address bits of a large page's entry that must be clear: SDM 3A Tables 4-16, 4-18. Bit 12 is PAT. */
const RESERVED_2M = 0x1f_e000;
const RESERVED_1G = 0x3fff_e000;

const has = (word: Expr, bits: number): Expr => i32.and(word, i32.const(bits));
const lacks = (word: Expr, bits: number): Expr => i32.eqz(has(word, bits));

/** (guest-physical) → host address, and in the upper half the SPTE's lower one; 0 if no cache has it. */
function defineGuestPhysical(m: ModuleBuilder): Callee {
  const f = m.func('guestPhysical', [I64], [I64]);
  const physical = f.parameters[0]!;
  const frame = f.let(i32.wrap(i64.shrU(physical.get, i64.const(12))));
  f.if(i32.eqz(i32.wrap(i64.shrU(physical.get, i64.const(44)))), () => {
    const find = (cache: typeof FRAMES | typeof PIECES, number: Local, inside: number): void => {
      const index = i32.shl(i32.and(number.get, i32.const(cache.ENTRIES - 1)), i32.const(4));
      const at = f.let(index);
      const isKnown = i32.and(
        i32.eq(i32.load(at.get, cache.AT), number.get),
        i32.eq(i32.load(at.get, cache.AT + cache.ROOT), i32.load(zero, S.ROOT)),
      );
      f.if(isKnown, () => {
        const page = i32.shl(i32.load(at.get, cache.AT + cache.HOST), i32.const(12));
        const host = i32.add(page, i32.and(i32.wrap(physical.get), i32.const(inside)));
        const entry = i64.shl(i64.load32U(at.get, cache.AT + cache.SPTE), i64.const(32));
        f.ret(i64.or(entry, i64.extendI32U(host)));
      });
    };
    find(FRAMES, frame, 0xfff);
    f.set(frame, i32.shrU(frame.get, i32.const(9)));
    find(PIECES, frame, 0x1f_ffff);
  });
  f.ret(i64.const(0));
  return f;
}

/** Address (i32) of the paging-structure cache's entry for the table of level 1 or 2. */
function tableSlot(level: 1 | 2, linear: Local): Expr {
  const [shift, above, entries, at] =
    level === 1
      ? [21, i64.shrU(linear.get, i64.const(32)), TABLES.ENTRIES1, TABLES.AT]
      : [
          30,
          i64.shl(i64.shrU(linear.get, i64.const(32)), i64.const(2)),
          TABLES.ENTRIES2,
          TABLES.AT + TABLES.ENTRIES1 * TABLES.ENTRY_BYTES,
        ];
  // Of the lower half alone, as walk.ts has it
  const folded = i64.xor(i64.shrU(i64.and(linear.get, i64.halves(-1, 0)), i64.const(shift)), above);
  const index = i32.and(i32.wrap(folded), i32.const(entries - 1));
  return i32.add(i32.shl(index, i32.const(5)), i32.const(at));
}

/** (linear, ACCESS) → host address, and the TLB has the page; or 0: walk.ts is to be asked. */
export function defineQuickWalk(m: ModuleBuilder, memory: EngineMemory): FunctionBuilder {
  const guestPhysical = defineGuestPhysical(m);
  const f = m.func('quickWalk', [I64, I32], [I32]);
  const [linear, access] = f.parameters as [Local, Local];
  f.block((no) => {
    const quick = f.let(i32.load(zero, S.QUICK));
    f.brIf(no, i32.eqz(quick.get));
    const unused = i64.load32U(zero, S.CANONICAL_SHIFT);
    f.brIf(no, i64.ne(i64.shrS(i64.shl(linear.get, unused), unused), linear.get));
    const found = f.local(I64);
    const level = f.local(I32);
    const table = f.local(I32);
    const rights = f.local(I32);
    const entry = f.local(I64);
    const bits = f.local(I32);
    const keepTables = walkTables(f, guestPhysical, { no, quick, linear, found, level, table, rights, entry, bits });
    const allowed = judge(f, { no, access, rights, entry, bits });
    keepTables();

    // Second stage of the page
    const size = f.let(i64.sub(i64.shl(i64.const(1), i64.extendI32U(shiftOf(level))), i64.const(1)));
    const frame = i64.and(i64.and(entry.get, FRAME_MASK), i64.xor(size.get, i64.const(-1)));
    f.set(found, call(guestPhysical, i64.or(frame, i64.and(linear.get, size.get))));
    const spte = f.let(i32.wrap(i64.shrU(found.get, i64.const(32))));
    const isWrite = has(access.get, ACCESS.WRITE);
    const isFetch = has(access.get, ACCESS.FETCH);
    const needed = select(isFetch, i32.const(SPTE.X), select(isWrite, i32.const(SPTE.W), i32.const(SPTE.R)));
    f.brIf(no, i32.eqz(i32.and(spte.get, needed)));
    const host = f.let(i32.wrap(found.get));
    const page = f.let(i32.shl(i32.shrU(host.get, i32.const(12)), i32.const(2)));
    const holdsCode = f.let(i32.load(page.get, memory.codeHeads));
    const isOverCode = i32.and(i32.ne(holdsCode.get, zero), lacks(access.get, ACCESS.OVER_CODE));
    const isOdd = i32.or(has(spte.get, SPTE.TRACKED), isOverCode);
    f.brIf(no, i32.and(i32.ne(isWrite, zero), i32.ne(isOdd, zero)));

    const isGlobal = f.let(
      i32.and(i32.ne(has(bits.get, ENTRY.G), zero), i32.ne(has(i32.load(zero, S.CR4), CR4.PGE), zero)),
    );
    install(f, memory, { linear, access, host, page, holdsCode, isGlobal, allowed, spte });
    f.ret(host.get);
  });
  f.ret(zero);
  return f;
}

/** How far the part of an address that an entry of `level` does not translate goes. */
const shiftOf = (level: Local): Expr => i32.add(i32.mul(level.get, i32.const(9)), i32.const(3));

interface Walk {
  readonly no: Label;
  readonly quick: Local;
  readonly linear: Local;
  readonly found: Local;
  readonly level: Local;
  readonly table: Local;
  /** TABLE_RIGHTS of the entries used so far. */
  readonly rights: Local;
  readonly entry: Local;
  readonly bits: Local;
}

/**
 * From the lowest known table to the leaf: `entry` with its lower half in `bits`, `level` and `rights`. What is returned
 * emits the entries of the paging-structure cache for the tables that were found.
 */
function walkTables(f: FunctionBuilder, guestPhysical: Callee, w: Walk): () => void {
  const { no, quick, linear, found, level, table, rights, entry, bits } = w;
  const context = i64.shl(i64.load32U(zero, S.CONTEXT), i64.const(32));
  const tag1 = f.let(i64.or(context, i64.and(i64.shrU(linear.get, i64.const(21)), i64.halves(-1, 0xf))));
  const tag2 = f.let(i64.or(context, i64.and(i64.shrU(linear.get, i64.const(30)), i64.halves(-1, 0))));
  const slot1 = f.let(tableSlot(1, linear));
  const slot2 = f.let(tableSlot(2, linear));
  const isKnown = (slot: Local, tag: Local): Expr =>
    i32.and(i64.eq(i64.load(slot.get), tag.get), i32.eq(i32.load(slot.get, TABLES.EPOCH), i32.load(zero, WALKS.EPOCH)));
  const begin = (number: number, slot: Local): void => {
    f.set(level, i32.const(number));
    f.set(table, i32.load(slot.get, TABLES.HOST));
    f.set(rights, i32.load(slot.get, TABLES.RIGHTS));
  };
  /** Host address of the table that `entry` names. */
  const toTable = (): void => {
    const needed = f.let(select(has(quick.get, QUICK.WRITES_TABLES), i32.const(SPTE.R | SPTE.W), i32.const(SPTE.R)));
    f.set(found, call(guestPhysical, i64.and(entry.get, FRAME_MASK)));
    f.brIf(no, i32.ne(i32.and(i32.wrap(i64.shrU(found.get, i64.const(32))), needed.get), needed.get));
    f.release(needed);
    f.set(table, i32.wrap(found.get));
  };
  /** A table of level 1 or 2 that this walk has come to: its host address, or 0. */
  const seen = [slot1, slot2].map((slot, i) => ({
    slot,
    tag: i === 0 ? tag1 : tag2,
    table: f.let(zero),
    physical: f.local(I64),
    rights: f.local(I32),
  }));
  f.if(
    isKnown(slot1, tag1),
    () => begin(1, slot1),
    () =>
      f.if(
        isKnown(slot2, tag2),
        () => begin(2, slot2),
        () => {
          f.set(level, has(quick.get, QUICK.LEVELS));
          f.set(rights, i32.const(TABLE_RIGHTS.ALL));
          f.set(entry, i64.load(zero, S.CR3));
          toTable();
        },
      ),
  );
  f.block((leaf) => {
    f.loop((next) => {
      const index = i32.and(i32.wrap(i64.shrU(linear.get, i64.extendI32U(shiftOf(level)))), i32.const(511));
      f.set(entry, i64.load(i32.add(table.get, i32.shl(index, i32.const(3)))));
      f.set(bits, i32.wrap(entry.get));
      f.brIf(no, i32.ne(has(bits.get, ENTRY.P | ENTRY.A), i32.const(ENTRY.P | ENTRY.A)));
      f.brIf(no, i32.and(i32.wrap(i64.shrU(entry.get, i64.const(32))), i32.load(zero, S.QUICK_RESERVED)));
      f.set(rights, i32.and(rights.get, i32.or(bits.get, i32.const(~(ENTRY.W | ENTRY.U)))));
      // XD, which is reserved unless it is enabled
      f.if(i64.ltS(entry.get, i64.const(0)), () => f.set(rights, has(rights.get, ~TABLE_RIGHTS.EXECUTABLE)));
      f.brIf(leaf, i32.eq(level.get, i32.const(1)));
      f.if(has(bits.get, ENTRY.PS), () => {
        f.brIf(no, i32.gtU(level.get, i32.const(3)));
        f.if(
          i32.eq(level.get, i32.const(2)),
          () => f.brIf(no, has(bits.get, RESERVED_2M)),
          () => f.brIf(no, i32.or(lacks(quick.get, QUICK.GIGABYTE_PAGES), has(bits.get, RESERVED_1G))),
        );
        f.br(leaf);
      });
      toTable();
      f.set(level, i32.sub(level.get, i32.const(1)));
      seen.forEach((each, i) => {
        f.if(i32.eq(level.get, i32.const(1 + i)), () => {
          f.set(each.table, table.get);
          f.set(each.physical, i64.and(entry.get, FRAME_MASK));
          f.set(each.rights, rights.get);
        });
      });
      f.br(next);
    });
  });
  return () => {
    for (const { slot, tag, table: at, physical, rights: above } of seen) {
      f.if(at.get, () => {
        f.do(i64.store(slot.get, tag.get));
        f.do(i32.store(slot.get, i32.load(zero, WALKS.EPOCH), TABLES.EPOCH));
        f.do(i32.store(slot.get, at.get, TABLES.HOST));
        f.do(i64.store(slot.get, physical.get, TABLES.PHYSICAL));
        f.do(i32.store(slot.get, above.get, TABLES.RIGHTS));
      });
    }
  };
}

interface Leaf {
  readonly no: Label;
  readonly access: Local;
  readonly rights: Local;
  readonly entry: Local;
  readonly bits: Local;
}

/** Is the access allowed? What else is, for the TLB: reading and writing, as locals. */
function judge(f: FunctionBuilder, leaf: Leaf): { mayRead: Local; mayWrite: Local } {
  const { no, access, rights, entry, bits } = leaf;
  const cr4 = i32.load(zero, S.CR4);
  const isUserPage = f.let(has(rights.get, TABLE_RIGHTS.USER));
  const isUser = has(access.get, ACCESS.USER);
  // Protection keys that forbid nothing are the usual ones
  f.if(isUserPage.get, () =>
    f.if(has(cr4, CR4.PKE), () => {
      const key = f.let(i32.and(i32.wrap(i64.shrU(entry.get, i64.const(59))), i32.const(15)));
      f.brIf(no, i32.and(i32.shrU(i32.load(zero, S.PKRU), i32.shl(key.get, i32.const(1))), i32.const(3)));
      const keys = i32.or(i32.load(zero, WALKS.KEYS), i32.shl(i32.const(1), key.get));
      f.do(i32.store(zero, keys, WALKS.KEYS));
    }),
  );
  const mayRead = f.local(I32);
  const mayFetch = f.local(I32);
  f.if(
    isUser,
    () => {
      f.set(mayRead, isUserPage.get);
      f.set(mayFetch, isUserPage.get);
    },
    () => {
      f.set(mayRead, i32.or(i32.eqz(isUserPage.get), isSmapSuspended(access)));
      f.set(mayFetch, i32.or(i32.eqz(isUserPage.get), lacks(cr4, CR4.SMEP)));
    },
  );
  const ignoresWp = i32.and(i32.eqz(isUser), lacks(i32.load(zero, S.CR0), CR0.WP));
  const writable = i32.or(has(rights.get, TABLE_RIGHTS.WRITABLE), ignoresWp);
  const dirty = i32.ne(has(bits.get, ENTRY.D), zero);
  const mayWrite = f.let(i32.and(i32.and(i32.ne(mayRead.get, zero), i32.ne(writable, zero)), dirty));
  f.if(
    has(access.get, ACCESS.FETCH),
    () => f.brIf(no, i32.or(i32.eqz(mayFetch.get), lacks(rights.get, TABLE_RIGHTS.EXECUTABLE))),
    () =>
      f.if(
        has(access.get, ACCESS.WRITE),
        () => f.brIf(no, i32.eqz(mayWrite.get)),
        () => f.brIf(no, i32.eqz(mayRead.get)),
      ),
  );
  return { mayRead, mayWrite };
}

/** Not 0: a supervisor's access may go to a user page. SDM 3A 4.6 "Access Rights". */
function isSmapSuspended(access: Local): Expr {
  const byAc = i32.and(i32.ne(has(i32.load(zero, S.RFLAGS), RFLAGS.AC), zero), lacks(access.get, ACCESS.IMPLICIT));
  return i32.or(lacks(i32.load(zero, S.CR4), CR4.SMAP), byAc);
}

interface Translation {
  readonly linear: Local;
  readonly access: Local;
  readonly host: Local;
  /** 4 × host page. */
  readonly page: Local;
  readonly holdsCode: Local;
  readonly isGlobal: Local;
  readonly allowed: { readonly mayRead: Local; readonly mayWrite: Local };
  readonly spte: Local;
}

/** PageWalker.#install. */
function install(f: FunctionBuilder, memory: EngineMemory, t: Translation): void {
  const { linear, access, host, page, holdsCode, isGlobal, allowed, spte } = t;
  f.do(i64.store(zero, i64.add(i64.load(zero, WALKS.FILLS), i64.const(1)), WALKS.FILLS));
  const context = f.let(i32.load(zero, S.CONTEXT));
  const tag = f.let(i64.and(linear.get, PAGE_MASK));
  const addend = f.let(i32.sub(i32.and(host.get, i32.const(-4096)), i32.wrap(tag.get)));
  const index = i32.and(i32.wrap(i64.shrU(linear.get, i64.const(8))), i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES));
  const put = (at: Local, array: number): void => {
    f.do(i64.store(at.get, tag.get, array));
    f.do(i32.store(at.get, addend.get, array + TLB.ADDEND));
  };
  const set = f.let(i32.const(TLB.USER));
  f.if(lacks(access.get, ACCESS.USER), () => {
    f.set(set, i32.const(TLB.SUPERVISOR_SMAP));
    f.if(i32.or(has(access.get, ACCESS.FETCH), isSmapSuspended(access)), () => f.set(set, i32.const(TLB.SUPERVISOR)));
  });
  const at = f.let(i32.add(i32.add(context.get, index), i32.mul(set.get, i32.const(TLB.SET_BYTES))));
  const isFetch = has(access.get, ACCESS.FETCH);

  // TlbContexts.touchSet
  const noted = f.let(at.get);
  f.if(isFetch, () => f.set(noted, i32.add(at.get, i32.const(TLB.EXECUTE))));
  const dirty = i32.or(i32.load(context.get, FILLS.DIRTY), i32.shl(i32.const(1), set.get));
  f.do(i32.store(context.get, dirty, FILLS.DIRTY));
  const counter = f.let(i32.add(context.get, i32.shl(isGlobal.get, i32.const(2))));
  const count = f.let(i32.load(counter.get, FILLS.LOCAL));
  f.if(i32.leU(count.get, i32.const(FILLS.MAX)), () => {
    f.do(i32.store(counter.get, i32.add(count.get, i32.const(1)), FILLS.LOCAL));
    f.if(i32.ltU(count.get, i32.const(FILLS.MAX)), () => {
      const list = i32.add(context.get, i32.mul(isGlobal.get, i32.const(FILLS.GLOBAL_ENTRIES - FILLS.LOCAL_ENTRIES)));
      const word = i32.add(list, i32.shl(count.get, i32.const(2)));
      f.do(i32.store(word, i32.shrU(noted.get, i32.const(2)), FILLS.LOCAL_ENTRIES));
    });
  });

  f.if(
    isFetch,
    () => {
      // TlbContexts.touchLocalCode
      f.if(i32.eqz(isGlobal.get), () => {
        const jumps = i32.mul(i32.eqz(has(access.get, ACCESS.USER)), i32.const(JUMP_CACHE.STRIDE));
        const cache = f.let(i32.add(context.get, jumps));
        const hasJumps = TLB.SETS * TLB.SET_BYTES + JUMP_CACHE.HAS;
        f.do(i32.store(cache.get, i32.or(i32.load(cache.get, hasJumps), i32.const(HAS_JUMPS.LOCAL)), hasJumps));
      });
      put(at, TLB.EXECUTE);
    },
    () => {
      f.if(i32.and(i32.ne(allowed.mayRead.get, zero), has(spte.get, SPTE.R)), () => put(at, 0));
      const mayWrite = i32.and(allowed.mayWrite.get, i32.eq(has(spte.get, SPTE.W | SPTE.TRACKED), i32.const(SPTE.W)));
      f.if(i32.and(mayWrite, i32.eqz(holdsCode.get)), () => {
        put(at, TLB.WRITE);
        touchWriter(f, memory, at, page);
      });
    },
  );
}

/** TlbContexts.touchWriter for the write entry of the read entry at `at`. */
function touchWriter(f: FunctionBuilder, memory: EngineMemory, at: Local, page: Local): void {
  const mine = f.let(i32.shrU(i32.add(at.get, i32.const(TLB.WRITE)), i32.const(2)));
  const known = f.let(i32.load(page.get, memory.writers));
  f.if(i32.ne(known.get, mine.get), () => {
    f.block((done) => {
      f.if(known.get, () => {
        const isAnother = f.let(i32.eq(known.get, i32.const(SEVERAL)));
        f.if(i32.eqz(isAnother.get), () => {
          const entry = f.let(i32.shl(known.get, i32.const(2)));
          const low = f.let(i32.load(entry.get));
          const host = i32.add(low.get, i32.load(entry.get, TLB.ADDEND));
          f.set(isAnother, i32.and(i32.eqz(has(low.get, 0xfff)), i32.eq(host, i32.shl(page.get, i32.const(10)))));
        });
        f.if(isAnother.get, () => {
          f.do(i32.store(page.get, i32.const(SEVERAL), memory.writers));
          f.br(done);
        });
      });
      f.do(i32.store(page.get, mine.get, memory.writers));
    });
  });
}
