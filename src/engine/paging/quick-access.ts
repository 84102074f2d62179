import { type Callee, call, type Expr, I32, I64, i32, i64, memoryCopy, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { S, TLB } from '../core/layout.ts';
import { ACCESS } from './access.ts';

/**
 * Accesses that the TLB in force did not answer, in WebAssembly: where a quick walk finds the page, or both pages, they are
 * done; all else is TypeScript's.
 *
 * Owns  what becomes of an access over a page border whose pages are both ordinary.
 */

/** The imports behind them; S.EA has the address, S.VALUE the value. */
export interface SlowAccesses {
  readonly load: Callee;
  readonly store: Callee;
  readonly modify: Callee;
  readonly loadWide: Callee;
  readonly storeWide: Callee;
}

/** The parameters of Library.loadSlow, storeSlow, modifySlow, loadWide, storeWide; `bytes` has access bits above bit 7. */
export interface QuickAccesses {
  readonly loadSlow: FunctionBuilder;
  readonly storeSlow: FunctionBuilder;
  readonly modifySlow: FunctionBuilder;
  readonly loadWide: FunctionBuilder;
  readonly storeWide: FunctionBuilder;
  /** (linear, ACCESS without FETCH) → host address by the TLB set in force or a quick walk; 0 if neither has it. */
  readonly quickPage: FunctionBuilder;
}

const zero = i32.const(0);
const PAGE_MASK = i64.const(-4096);

/** ACCESS bits of a data access at the level in force. */
export const accessBits = (write: boolean): Expr =>
  i32.or(
    i32.const(write ? ACCESS.WRITE : 0),
    select(i32.eq(i32.load(zero, S.CPL), i32.const(3)), i32.const(ACCESS.USER), zero),
  );

export function defineQuickAccesses(
  define: (
    name: string,
    params: readonly (typeof I32 | typeof I64)[],
    results: readonly (typeof I32 | typeof I64)[],
  ) => FunctionBuilder,
  walk: Callee,
  /** (host address, bytes) → 0 if a store there is for TypeScript, as there is code. */
  storable: Callee,
  slow: SlowAccesses,
): QuickAccesses {
  const quickPage = define('quickPage', [I64, I32], [I32]);
  {
    const f = quickPage;
    const [linear, access] = f.parameters as [Local, Local];
    const index = i32.and(i32.wrap(i64.shrU(linear.get, i64.const(8))), i32.const((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES));
    const array = select(i32.and(access.get, i32.const(ACCESS.WRITE)), i32.const(TLB.WRITE), zero);
    const entry = f.let(i32.add(i32.add(i32.load(zero, S.TLB), index), array));
    f.if(i64.eq(i64.load(entry.get), i64.and(linear.get, PAGE_MASK)), () =>
      f.ret(i32.add(i32.wrap(linear.get), i32.load(entry.get, TLB.ADDEND))),
    );
    f.ret(call(walk, linear.get, access.get));
  }
  /** Not 0: the next page is in the same 4 GiB, at whose end a segment may end. */
  const goesOn = (linear: Local): Expr => i32.ltU(i32.wrap(linear.get), i32.const(0xffff_f000));
  const nextPage = (linear: Local): Expr => i64.add(i64.and(linear.get, PAGE_MASK), i64.const(4096));
  const offsetOf = (linear: Local): Expr => i32.and(i32.wrap(linear.get), i32.const(0xfff));
  const bytesOf = (access: Local): Expr => i32.and(access.get, i32.const(0xff));
  const isInPage = (linear: Local, access: Local): Expr =>
    i32.leU(i32.add(offsetOf(linear), bytesOf(access)), i32.const(4096));

  const loadSlow = define('loadSlow', [I64, I32], [I64]);
  {
    const f = loadSlow;
    const [linear, access] = f.parameters as [Local, Local];
    const host = f.local(I32);
    f.if(
      isInPage(linear, access),
      () => {
        f.set(host, call(walk, linear.get, accessBits(false)));
        f.if(host.get, () => {
          f.do(i32.store(zero, zero, S.ACCESS_STATUS));
          const bytes = f.let(bytesOf(access));
          f.if(i32.eq(bytes.get, i32.const(8)), () => f.ret(i64.load(host.get)));
          f.if(i32.eq(bytes.get, i32.const(4)), () => f.ret(i64.load32U(host.get)));
          f.if(i32.eq(bytes.get, i32.const(1)), () => f.ret(i64.load8U(host.get)));
          f.ret(i64.load16U(host.get));
        });
      },
      () => {
        f.if(goesOn(linear), () => f.set(host, call(quickPage, linear.get, accessBits(false))));
        f.if(host.get, () => {
          const second = f.let(call(quickPage, nextPage(linear), accessBits(false)));
          f.if(second.get, () => {
            f.do(i32.store(zero, zero, S.ACCESS_STATUS));
            // The last eight bytes of one page, the first eight of the other
            const before = f.let(i64.shl(i64.extendI32U(i32.and(host.get, i32.const(7))), i64.const(3)));
            const low = i64.shrU(i64.load(i32.and(host.get, i32.const(-8))), before.get);
            const high = i64.shl(i64.load(second.get), i64.sub(i64.const(64), before.get));
            const unused = i64.extendI32U(i32.sub(i32.const(64), i32.shl(bytesOf(access), i32.const(3))));
            f.ret(i64.shrU(i64.shl(i64.or(low, high), unused), unused));
          });
        });
      },
    );
    f.do(i64.store(zero, linear.get, S.EA));
    f.do(i32.store(zero, call(slow.load, access.get), S.ACCESS_STATUS));
    f.ret(i64.load(zero, S.VALUE));
  }

  const storeSlow = define('storeSlow', [I64, I64, I32], [I32]);
  {
    const f = storeSlow;
    const [linear, value, access] = f.parameters as [Local, Local, Local];
    const host = f.local(I32);
    f.if(
      isInPage(linear, access),
      () => {
        f.set(host, call(walk, linear.get, i32.or(accessBits(true), i32.const(ACCESS.OVER_CODE))));
        const bytes = f.let(bytesOf(access));
        f.if(host.get, () => f.set(host, select(call(storable, host.get, bytes.get), host.get, zero)));
        f.if(host.get, () => {
          f.if(i32.eq(bytes.get, i32.const(8)), () => {
            f.do(i64.store(host.get, value.get));
            f.ret(zero);
          });
          f.if(i32.eq(bytes.get, i32.const(4)), () => {
            f.do(i64.store32(host.get, value.get));
            f.ret(zero);
          });
          f.if(
            i32.eq(bytes.get, i32.const(1)),
            () => f.do(i64.store8(host.get, value.get)),
            () => f.do(i64.store16(host.get, value.get)),
          );
          f.ret(zero);
        });
      },
      () => {
        f.if(goesOn(linear), () => f.set(host, call(quickPage, linear.get, accessBits(true))));
        f.if(host.get, () => {
          const second = f.let(call(quickPage, nextPage(linear), accessBits(true)));
          f.if(second.get, () => {
            const left = f.let(bytesOf(access));
            f.loop((again) => {
              f.do(i64.store8(host.get, value.get));
              f.set(value, i64.shrU(value.get, i64.const(8)));
              f.set(host, i32.add(host.get, i32.const(1)));
              f.if(i32.eqz(i32.and(host.get, i32.const(0xfff))), () => f.set(host, second.get));
              f.set(left, i32.sub(left.get, i32.const(1)));
              f.brIf(again, left.get);
            });
            f.ret(zero);
          });
        });
      },
    );
    f.do(i64.store(zero, linear.get, S.EA));
    f.do(i64.store(zero, value.get, S.VALUE));
    f.ret(call(slow.store, access.get));
  }

  const modifySlow = define('modifySlow', [I64, I32], [I32]);
  {
    const f = modifySlow;
    const [linear, access] = f.parameters as [Local, Local];
    f.if(isInPage(linear, access), () => {
      const host = f.let(call(walk, linear.get, accessBits(true)));
      f.if(host.get, () => f.ret(host.get));
    });
    f.do(i64.store(zero, linear.get, S.EA));
    f.ret(call(slow.modify, access.get));
  }

  const wide = (name: 'loadWide' | 'storeWide'): FunctionBuilder => {
    const f = define(name, [I64, I32], [I32]);
    const [linear, access] = f.parameters as [Local, Local];
    const write = name === 'storeWide';
    f.if(isInPage(linear, access), () => {
      const host = f.let(call(walk, linear.get, accessBits(write)));
      f.if(host.get, () => {
        const [to, from] = write ? [host.get, i32.const(S.WIDE)] : [i32.const(S.WIDE), host.get];
        f.do(memoryCopy(to, from, bytesOf(access)));
        f.ret(zero);
      });
    });
    f.do(i64.store(zero, linear.get, S.EA));
    f.ret(call(slow[name], access.get));
    return f;
  };
  return { loadSlow, storeSlow, modifySlow, loadWide: wide('loadWide'), storeWide: wide('storeWide'), quickPage };
}
