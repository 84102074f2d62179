import { type Expr, I32, I64, i32, i64, select, V128, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { defineCrypto } from './sse-crypto.ts';
import { lanes8, vector, ZERO_VECTOR } from './sse-operands.ts';

/**
 * Integer vector operations that are too long to be written into each form: functions of the core module.
 *
 *   crc32             (crc, data, bytes) → crc
 *   pcmpstr           (a, b, length of a, of b, control byte) → IntRes2
 *   aes.enc …, clmul, sha1.rnds4, sha256.rnds2: sse-crypto.ts
 *   pcmpstr.implicit  (v, control byte) → length of a zero-terminated string
 */
export function defineSimd(m: ModuleBuilder): Record<string, FunctionBuilder> {
  const functions = [defineCrc32(m), defineStringCompare(m), defineImplicitLength(m), ...defineCrypto(m)];
  return Object.fromEntries(functions.map((f) => [f.name, f]));
}

/** The polynomial 11EDC6F41H with its bits reversed: SDM 2A 3.2 "CRC32—Accumulate CRC32 Value". */
const CRC32C = 0x82f6_3b78;

/** What eight steps of the division make of a low byte in which only `bit` is set. */
function crcOfBit(bit: number): number {
  let crc = 1 << bit;
  for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? CRC32C : 0);
  return crc >>> 0;
}

/**
 * The division is linear: a byte's effect is the sum of its bits' effects, which are constants and do not wait for each
 * other. Data above the crc is shifted down as the division goes, so that one i64 holds both.
 */
function defineCrc32(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('crc32', [I32, I64, I32], [I32]);
  const [crc, data, bytes] = f.parameters as [Local, Local, Local];
  const x = f.let(i64.xor(data.get, i64.extendI32U(crc.get)));
  f.loop((top) => {
    const terms = Array.from({ length: 8 }, (_, bit) =>
      i64.and(i64.sub(i64.const(0), i64.and(i64.shrU(x.get, i64.const(bit)), i64.const(1))), i64.const(crcOfBit(bit))),
    );
    const sum = (from: number, to: number): Expr =>
      to - from === 1 ? terms[from]! : i64.xor(sum(from, (from + to) / 2), sum((from + to) / 2, to));
    f.set(x, i64.xor(i64.shrU(x.get, i64.const(8)), sum(0, 8)));
    f.set(bytes, i32.sub(bytes.get, i32.const(1)));
    f.brIf(top, bytes.get);
  });
  f.ret(i32.wrap(x.get));
  return f;
}

/** Control byte of PCMPxSTRx. SDM 2B 4.1 "Imm8 Control Byte Operation". */
const CONTROL = { WORDS: 1, SIGNED: 2, AGGREGATION_SHIFT: 2, POLARITY_SHIFT: 4 } as const;

const words = (control: Local): Expr => i32.and(control.get, i32.const(CONTROL.WORDS));

function defineImplicitLength(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('pcmpstr.implicit', [V128, I32], [I32]);
  const [v, control] = f.parameters as [Local, Local];
  const zeros = f.let(
    select(
      words(control),
      i32.or(v128.i16x8Bitmask(v128.i16x8Eq(v.get, ZERO_VECTOR)), i32.const(1 << 8)),
      i32.or(v128.i8x16Bitmask(v128.i8x16Eq(v.get, ZERO_VECTOR)), i32.const(1 << 16)),
    ),
  );
  f.ret(i32.ctz(zeros.get));
  return f;
}

/**
 * PCMPxSTRx up to IntRes2. SDM 2B 4.1.3 "Aggregation Operation", 4.1.4 "Polarity", 4.1.6 "Valid/Invalid Override of
 * Comparisons". IntRes1 is made column by column: element i of the first string against the whole second string.
 */
function defineStringCompare(m: ModuleBuilder): FunctionBuilder {
  const f = m.func('pcmpstr', [V128, V128, I32, I32, I32], [I32]);
  const [a, b, lengthA, lengthB, control] = f.parameters as [Local, Local, Local, Local, Local];
  const wide = f.let(words(control));
  const elements = f.let(i32.shrU(i32.const(16), wide.get));
  const all = f.let(i32.sub(i32.shl(i32.const(1), elements.get), i32.const(1)));
  const valid = (length: Local): Local => f.let(i32.sub(i32.shl(i32.const(1), length.get), i32.const(1)));
  const validA = valid(lengthA);
  const validB = valid(lengthB);
  // Signed order is unsigned order of the numbers with their sign bits flipped; equality does not mind.
  f.if(i32.and(control.get, i32.const(CONTROL.SIGNED)), () => {
    const flip = select(wide.get, vector(lanes8((i) => (i & 1 ? 0x80 : 0))), vector(lanes8(() => 0x80)));
    const bound = f.let(flip);
    f.set(a, v128.xor(a.get, bound.get));
    f.set(b, v128.xor(b.get, bound.get));
  });
  f.do(v128.store(i32.const(0), a.get, S.WIDE));
  /** Mask of b's elements for which `compare` holds against element `index` of a. */
  const against = (
    index: Expr,
    compareBytes: (x: Expr, y: Expr) => Expr,
    compareWords: (x: Expr, y: Expr) => Expr,
  ): Local =>
    f.ifValue(
      wide.get,
      () => v128.i16x8Bitmask(compareWords(b.get, v128.load16Splat(i32.shl(index, i32.const(1)), S.WIDE))),
      () => v128.i8x16Bitmask(compareBytes(b.get, v128.load8Splat(index, S.WIDE))),
      I32,
    );
  const result = f.let(i32.const(0));
  const i = f.let(i32.const(0));
  const aggregation = i32.and(i32.shrU(control.get, i32.const(CONTROL.AGGREGATION_SHIFT)), i32.const(3));
  f.block((done) => {
    f.block((ordered) => {
      f.block((each) => {
        f.block((ranges) => {
          f.block((any) => f.brTable(aggregation, [any, ranges, each], ordered));
          f.loop((top) => {
            f.brIf(done, i32.geU(i.get, lengthA.get));
            const equal = against(i.get, v128.i8x16Eq, v128.i16x8Eq);
            f.set(result, i32.or(result.get, i32.and(equal.get, validB.get)));
            f.set(i, i32.add(i.get, i32.const(1)));
            f.br(top);
          });
        });
        f.loop((top) => {
          const upper = i32.add(i.get, i32.const(1));
          f.brIf(done, i32.geU(upper, lengthA.get));
          const above = against(i.get, v128.i8x16GeU, v128.i16x8GeU);
          const below = against(upper, v128.i8x16LeU, v128.i16x8LeU);
          f.set(result, i32.or(result.get, i32.and(i32.and(above.get, below.get), validB.get)));
          f.set(i, i32.add(i.get, i32.const(2)));
          f.br(top);
        });
      });
      const equal = f.let(
        select(wide.get, v128.i16x8Bitmask(v128.i16x8Eq(a.get, b.get)), v128.i8x16Bitmask(v128.i8x16Eq(a.get, b.get))),
      );
      const both = i32.and(validA.get, validB.get);
      const neither = i32.xor(i32.or(validA.get, validB.get), i32.const(-1));
      f.set(result, i32.and(i32.or(i32.and(equal.get, both), neither), all.get));
      f.br(done);
    });
    f.set(result, all.get);
    f.loop((top) => {
      f.brIf(done, i32.geU(i.get, lengthA.get));
      const equal = against(i.get, v128.i8x16Eq, v128.i16x8Eq);
      // What would lie beyond the second operand's register counts as equal.
      const open = i32.or(i32.and(equal.get, validB.get), i32.xor(all.get, i32.const(-1)));
      f.set(result, i32.and(result.get, i32.shrS(open, i.get)));
      f.set(i, i32.add(i.get, i32.const(1)));
      f.br(top);
    });
  });
  const polarity = i32.and(i32.shrU(control.get, i32.const(CONTROL.POLARITY_SHIFT)), i32.const(3));
  f.if(i32.eq(polarity, i32.const(1)), () => f.set(result, i32.xor(result.get, all.get)));
  f.if(i32.eq(polarity, i32.const(3)), () => f.set(result, i32.xor(result.get, validB.get)));
  f.ret(result.get);
  return f;
}
