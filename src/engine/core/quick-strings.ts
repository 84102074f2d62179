import { type Callee, call, type Expr, I32, I64, i32, i64, memoryCopy, memoryFill, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../wasm/module.ts';
import { ACCESS } from '../paging/access.ts';
import { S } from './layout.ts';

/**
 * What one step of MOVS and STOS does upwards in memory that has nothing odd about it, in WebAssembly: as many elements as
 * stay in a page on both sides, as strings.ts has it.
 */

const zero = i32.const(0);
/** Up to here a loop is quicker than memory.fill. MEASURED on Node 20. */
const SHORT = 64;

type Define = (
  name: string,
  params: readonly (typeof I32 | typeof I64)[],
  results: readonly (typeof I32 | typeof I64)[],
) => FunctionBuilder;

const accessBits = (write: boolean): Expr =>
  i32.or(
    i32.const(write ? ACCESS.WRITE : 0),
    select(i32.eq(i32.load(zero, S.CPL), i32.const(3)), i32.const(ACCESS.USER), zero),
  );

/**
 * Defines quickMove (from, to, count, log) and quickFill (to, value, count, log), of elements of 1 << log bytes: how many
 * are done, an i64; 0 if that is for the helper.
 *
 * @param page  (linear, ACCESS) → host address or 0
 */
export function defineQuickStrings(define: Define, page: Callee): void {
  const move = define('quickMove', [I64, I64, I64, I32], [I64]);
  {
    const f = move;
    const [from, to, count, log] = f.parameters as [Local, Local, Local, Local];
    f.block((no) => {
      const most = f.let(count.get);
      f.set(most, least(f, most, room(from, log)));
      f.set(most, least(f, most, room(to, log)));
      f.brIf(no, i64.eqz(most.get));
      const source = f.let(call(page, from.get, accessBits(false)));
      f.brIf(no, i32.eqz(source.get));
      const target = f.let(call(page, to.get, accessBits(true)));
      f.brIf(no, i32.eqz(target.get));
      const bytes = f.let(i32.shl(i32.wrap(most.get), log.get));
      // Upwards over itself, what was written is read again
      const distance = i32.sub(i32.sub(target.get, source.get), i32.const(1));
      f.brIf(no, i32.ltU(distance, i32.sub(bytes.get, i32.const(1))));
      f.do(memoryCopy(target.get, source.get, bytes.get));
      f.ret(most.get);
    });
    f.ret(i64.const(0));
  }

  const fill = define('quickFill', [I64, I64, I64, I32], [I64]);
  {
    const f = fill;
    const [to, value, count, log] = f.parameters as [Local, Local, Local, Local];
    f.block((no) => {
      const most = f.let(count.get);
      f.set(most, least(f, most, room(to, log)));
      f.brIf(no, i64.eqz(most.get));
      const target = f.let(call(page, to.get, accessBits(true)));
      f.brIf(no, i32.eqz(target.get));
      const bytes = f.let(i32.shl(i32.wrap(most.get), log.get));
      fillBytes(f, target, value, bytes, log);
      f.ret(most.get);
    });
    f.ret(i64.const(0));
  }
}

/** Whole elements from an address to the end of its page: an i64. */
const room = (linear: Local, log: Local): Expr =>
  i64.extendI32U(i32.shrU(i32.sub(i32.const(4096), i32.and(i32.wrap(linear.get), i32.const(0xfff))), log.get));

function least(f: FunctionBuilder, a: Local, b: Expr): Expr {
  const other = f.let(b);
  return select(i64.ltU(a.get, other.get), a.get, other.get);
}

/** `bytes` at a host address become copies of the low 1 << log bytes of `value`. */
function fillBytes(f: FunctionBuilder, at: Local, value: Local, bytes: Local, log: Local): void {
  // The value in all of 64 bits
  const whole = f.let(value.get);
  const spread = (mask: number, copies: Expr): void => {
    f.if(i32.eq(log.get, i32.const(mask)), () => f.set(whole, copies));
  };
  spread(0, i64.mul(i64.and(value.get, i64.const(0xff)), i64.halves(0x0101_0101, 0x0101_0101)));
  spread(1, i64.mul(i64.and(value.get, i64.const(0xffff)), i64.halves(0x0001_0001, 0x0001_0001)));
  spread(2, i64.mul(i64.and(value.get, i64.halves(-1, 0)), i64.halves(1, 1)));
  const end = f.let(i32.add(at.get, bytes.get));
  const isSame = i64.eq(i64.mul(i64.and(whole.get, i64.const(0xff)), i64.halves(0x0101_0101, 0x0101_0101)), whole.get);
  f.block((done) => {
    f.if(i32.gtU(bytes.get, i32.const(SHORT)), () =>
      f.if(isSame, () => {
        f.do(memoryFill(at.get, i32.and(i32.wrap(whole.get), i32.const(0xff)), bytes.get));
        f.br(done);
      }),
    );
    upTo(f, at, end, 8, () => f.do(i64.store(at.get, whole.get)), done);
    upTo(f, at, end, 4, () => f.do(i64.store32(at.get, whole.get)), done);
    upTo(f, at, end, 2, () => f.do(i64.store16(at.get, whole.get)), done);
    upTo(f, at, end, 1, () => f.do(i64.store8(at.get, whole.get)), done);
  });
}

/** Stores `step` bytes as long as so many are left; to `done` at the end. */
function upTo(f: FunctionBuilder, at: Local, end: Local, step: number, store: () => void, done: Label): void {
  f.loop((again) => {
    f.if(i32.geU(i32.sub(end.get, at.get), i32.const(step)), () => {
      store();
      f.set(at, i32.add(at.get, i32.const(step)));
      f.br(again);
    });
  });
  f.brIf(done, i32.eq(at.get, end.get));
}
