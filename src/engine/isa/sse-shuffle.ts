import { call, type Expr, i32, i64, select, v128 } from '../../wasm/expr.ts';
import { AUX, S } from '../core/layout.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import {
  bind,
  enterMmx,
  IOTA,
  imm8,
  isVex,
  lanes8,
  loadLow,
  loadMm,
  lowHalf,
  lowVector,
  maskDwords,
  maskWords,
  selectDwords,
  selectWords,
  storeMm,
  vector,
  ZERO_VECTOR,
} from './sse-operands.ts';

/** Bitwise logic on floating-point registers, shuffles, insertions and extractions, blends, extensions, text. */

const row = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  feature: string,
  execute: (m: Semantics) => void,
  needs: 'sse' | 'mmx' = 'sse',
): Instruction => instruction({ name, source: `SDM 2 "${name}—${title}"`, forms, feature, needs, execute });

const shuffle = (a: Expr, b: Expr, byte: (i: number) => number): Expr => v128.shuffle(a, b, lanes8(byte));
/** Two XMM operands in, one out. */
const binary =
  (compute: (a: Expr, b: Expr, m: Semantics) => Expr) =>
  (m: Semantics): void => {
    const b = m.loadV(1);
    m.storeV(0, compute(m.loadV(0), b, m));
  };

const logic = (name: string, opcode: string, compute: (a: Expr, b: Expr) => Expr): Instruction[] =>
  (['PS', 'PD'] as const).map((suffix) =>
    row(
      `${name}${suffix}`,
      'Bitwise Logical Operation of Packed Floating-Point Values',
      { [`${suffix === 'PS' ? 'NP' : '66'} 0F ${opcode} /r`]: `${name}${suffix} xmm, xmm/m128` },
      suffix === 'PS' ? 'sse' : 'sse2',
      binary(compute),
    ),
  );

/** UNPCKxPx: elements of the low (high) halves in turn. */
const unpack = (name: string, prefix: string, opcode: string, bytes: 4 | 8, high: boolean): Instruction =>
  row(
    name,
    `Unpack and Interleave ${high ? 'High' : 'Low'} Packed Floating-Point Values`,
    { [`${prefix} 0F ${opcode} /r`]: `${name} xmm, xmm/m128` },
    bytes === 4 ? 'sse' : 'sse2',
    binary((a, b) =>
      shuffle(a, b, (i) => {
        const element = Math.floor(i / (2 * bytes)) + (high ? 8 / bytes : 0);
        return element * bytes + (i % bytes) + 16 * (Math.floor(i / bytes) & 1);
      }),
    ),
  );

// ---- shuffles by an immediate -----------------------------------------------------------------------------------

const SHUFFLES: readonly Instruction[] = [
  row(
    'SHUFPS',
    'Packed Interleave Shuffle of Quadruplets of Single Precision Values',
    { 'NP 0F C6 /r ib': 'SHUFPS xmm, xmm/m128, imm8' },
    'sse',
    (m) => {
      const b = m.loadV(1);
      const selection = bind(m, selectDwords(imm8(m, 2)));
      const fromA = v128.swizzle(m.loadV(0), selection);
      m.storeV(
        0,
        shuffle(fromA, v128.swizzle(b, selection), (i) => (i < 8 ? i : i + 16)),
      );
    },
  ),
  row(
    'SHUFPD',
    'Packed Interleave Shuffle of Pairs of Double Precision Values',
    { '66 0F C6 /r ib': 'SHUFPD xmm, xmm/m128, imm8' },
    'sse2',
    (m) => {
      const b = m.loadV(1);
      const a = m.loadV(0);
      const imm = imm8(m, 2);
      const pick = (v: Expr, bit: number): Expr =>
        select(i32.and(imm, i32.const(bit)), v128.i64x2Extract(v, 1), v128.i64x2Extract(v, 0));
      m.storeV(0, v128.i64x2Replace(v128.i64x2Splat(pick(a, 1)), 1, pick(b, 2)));
    },
  ),
  row('PSHUFD', 'Shuffle Packed Doublewords', { '66 0F 70 /r ib': 'PSHUFD xmm, xmm/m128, imm8' }, 'sse2', (m) => {
    const source = m.loadV(1);
    m.storeV(0, v128.swizzle(source, selectDwords(imm8(m, 2))));
  }),
  row('PSHUFLW', 'Shuffle Packed Low Words', { 'F2 0F 70 /r ib': 'PSHUFLW xmm, xmm/m128, imm8' }, 'sse2', (m) => {
    const source = m.loadV(1);
    const moved = v128.swizzle(source, selectWords(imm8(m, 2)));
    m.storeV(
      0,
      shuffle(moved, source, (i) => (i < 8 ? i : i + 16)),
    );
  }),
  row('PSHUFHW', 'Shuffle Packed High Words', { 'F3 0F 70 /r ib': 'PSHUFHW xmm, xmm/m128, imm8' }, 'sse2', (m) => {
    const source = m.loadV(1);
    const upper = v128.i8x16Add(selectWords(imm8(m, 2)), vector(lanes8(() => 8)));
    m.storeV(
      0,
      shuffle(source, v128.swizzle(source, upper), (i) => (i < 8 ? i : i + 16)),
    );
  }),
  row(
    'PSHUFW',
    'Shuffle Packed Words',
    { 'NP 0F 70 /r ib': 'PSHUFW mm, mm/m64, imm8' },
    'sse',
    (m) => {
      const source = loadMm(m, 1);
      const result = bind(m, v128.swizzle(source, selectWords(imm8(m, 2))));
      enterMmx(m);
      storeMm(m, 0, lowHalf(result));
    },
    'mmx',
  ),
  row('PALIGNR', 'Packed Align Right', { '66 0F 3A 0F /r ib': 'PALIGNR xmm, xmm/m128, imm8' }, 'ssse3', (m) => {
    const b = m.loadV(1);
    const imm = imm8(m, 2);
    const count = v128.i8x16Splat(select(i32.gtU(imm, i32.const(32)), i32.const(32), imm));
    // Selectors outside 0–15 give zero, so each part of the 32 bytes contributes only where the window is over it.
    const from = bind(m, v128.i8x16Add(IOTA, count));
    const low = v128.swizzle(b, from);
    const high = v128.swizzle(m.loadV(0), v128.i8x16Sub(from, vector(lanes8(() => 16))));
    m.storeV(0, v128.or(low, high));
  }),
  row(
    'PALIGNR',
    'Packed Align Right',
    { 'NP 0F 3A 0F /r ib': 'PALIGNR mm, mm/m64, imm8' },
    'ssse3',
    (m) => {
      const b = loadMm(m, 1);
      const imm = imm8(m, 2);
      const both = shuffle(b, loadMm(m, 0), (i) => (i < 8 ? i : i + 8));
      const count = v128.i8x16Splat(select(i32.gtU(imm, i32.const(16)), i32.const(16), imm));
      const result = bind(m, v128.swizzle(both, v128.i8x16Add(IOTA, count)));
      enterMmx(m);
      storeMm(m, 0, lowHalf(result));
    },
    'mmx',
  ),
];

// ---- single elements --------------------------------------------------------------------------------------------

/** Lane `index` (an i32 below the number of lanes) of `v`, zero-extended: an i64. */
function extract(v: Expr, bytes: 1 | 2 | 4 | 8, index: Expr): Expr {
  // Bring the lane to the bottom: selectors above 15 at the top only touch what is cut off below.
  const from = v128.i8x16Add(IOTA, v128.i8x16Splat(i32.mul(index, i32.const(bytes))));
  const low = v128.i64x2Extract(v128.swizzle(v, from), 0);
  return bytes === 8 ? low : i64.and(low, bytes === 4 ? i64.halves(-1, 0) : i64.const(2 ** (8 * bytes) - 1));
}

/** `v` with lane `index` replaced by the low bytes of `value`. */
function insert(m: Semantics, v: Expr, bytes: 1 | 2 | 4 | 8, index: Expr, value: Expr): Expr {
  const lane = vector(lanes8((i) => Math.floor(i / bytes)));
  const mask = v128.i8x16Eq(lane, v128.i8x16Splat(index));
  const narrow = i32.wrap(value);
  const all =
    bytes === 1
      ? v128.i8x16Splat(narrow)
      : bytes === 2
        ? v128.i16x8Splat(narrow)
        : bytes === 4
          ? v128.i32x4Splat(narrow)
          : v128.i64x2Splat(value);
  return bind(m, v128.bitselect(all, v, mask));
}

const index = (m: Semantics, i: number, mask: number): Expr => bind(m, i32.and(imm8(m, i), i32.const(mask)));

const pinsr = (name: string, forms: Record<string, string>, bytes: 1 | 2 | 4 | 8, feature: string): Instruction =>
  row(name, 'Insert Integer', forms, feature, (m) => {
    const value = bind(m, m.isMemory(1) ? m.loadMemory(m.address(), bytes) : m.loadU(1));
    m.storeV(0, insert(m, m.loadV(0), bytes, index(m, 2, 16 / bytes - 1), value));
  });
const pextr = (name: string, forms: Record<string, string>, bytes: 1 | 2 | 4 | 8, feature = 'sse4_1'): Instruction =>
  row(name, 'Extract Integer', forms, feature, (m) => {
    const value = bind(m, extract(m.loadV(1), bytes, index(m, 2, 16 / bytes - 1)));
    if (m.isMemory(0)) m.storeMemory(m.address(), value, bytes);
    else m.store(0, value);
  });

const ELEMENTS: readonly Instruction[] = [
  pinsr('PINSRW', { '66 0F C4 /r ib': 'PINSRW xmm, r32/m16, imm8' }, 2, 'sse2'),
  pinsr('PINSRB', { '66 0F 3A 20 /r ib': 'PINSRB xmm, r32/m8, imm8' }, 1, 'sse4_1'),
  pinsr('PINSRD', { '66 W0 0F 3A 22 /r ib': 'PINSRD xmm, r/m32, imm8' }, 4, 'sse4_1'),
  pinsr('PINSRQ', { '66 REX.W 0F 3A 22 /r ib': 'PINSRQ xmm, r/m64, imm8' }, 8, 'sse4_1'),
  pextr('PEXTRW', { '66 0F C5 /r:r ib': 'PEXTRW rd, xmm, imm8' }, 2, 'sse2'),
  pextr('PEXTRB', { '66 0F 3A 14 /r ib': 'PEXTRB r32/m8, xmm, imm8' }, 1),
  pextr('PEXTRW', { '66 0F 3A 15 /r ib': 'PEXTRW r32/m16, xmm, imm8' }, 2),
  pextr('PEXTRD', { '66 W0 0F 3A 16 /r ib': 'PEXTRD r/m32, xmm, imm8' }, 4),
  pextr('PEXTRQ', { '66 REX.W 0F 3A 16 /r ib': 'PEXTRQ r/m64, xmm, imm8' }, 8),
  pextr('EXTRACTPS', { '66 0F 3A 17 /r ib': 'EXTRACTPS r/m32, xmm, imm8' }, 4),
  row(
    'PINSRW',
    'Insert Word',
    { 'NP 0F C4 /r ib': 'PINSRW mm, r32/m16, imm8' },
    'sse',
    (m) => {
      const value = bind(m, m.isMemory(1) ? m.loadMemory(m.address(), 2) : m.loadU(1));
      const result = insert(m, loadMm(m, 0), 2, index(m, 2, 3), value);
      enterMmx(m);
      storeMm(m, 0, lowHalf(result));
    },
    'mmx',
  ),
  row(
    'PEXTRW',
    'Extract Word',
    { 'NP 0F C5 /r:r ib': 'PEXTRW rd, mm, imm8' },
    'sse',
    (m) => {
      const value = bind(m, extract(loadMm(m, 1), 2, index(m, 2, 3)));
      enterMmx(m);
      m.store(0, value);
    },
    'mmx',
  ),
  // The immediate: bits 7:6 choose the source's dword (of a register), 5:4 the place, 3:0 what becomes zero.
  row(
    'INSERTPS',
    'Insert Scalar Single Precision Value',
    { '66 0F 3A 21 /r ib': 'INSERTPS xmm, xmm/m32, imm8' },
    'sse4_1',
    (m) => {
      const imm = imm8(m, 2);
      const value = m.isMemory(1)
        ? m.loadMemory(m.address(), 4)
        : bind(m, extract(m.loadV(1), 4, i32.shrU(imm, i32.const(6))));
      const place = i32.and(i32.shrU(imm, i32.const(4)), i32.const(3));
      m.storeV(0, v128.andnot(insert(m, m.loadV(0), 4, place, value), maskDwords(imm)));
    },
  ),
];

// ---- blends -----------------------------------------------------------------------------------------------------

const blend = (name: string, opcode: string, mask: (imm: Expr) => Expr): Instruction =>
  row(name, 'Blend', { [`66 0F 3A ${opcode} /r ib`]: `${name} xmm, xmm/m128, imm8` }, 'sse4_1', (m) => {
    const b = m.loadV(1);
    m.storeV(0, v128.bitselect(b, m.loadV(0), mask(imm8(m, 2))));
  });
const maskQwords = (imm: Expr): Expr =>
  v128.i64x2Replace(
    v128.i64x2Splat(i64.sub(i64.const(0), i64.extendI32U(i32.and(imm, i32.const(1))))),
    1,
    i64.sub(i64.const(0), i64.extendI32U(i32.and(i32.shrU(imm, i32.const(1)), i32.const(1)))),
  );

/** By the sign bits of XMM0's elements. */
const blendVariable = (name: string, opcode: string, signs: (mask: Expr) => Expr): Instruction =>
  row(name, 'Variable Blend', { [`66 0F 38 ${opcode} /r`]: `${name} xmm, xmm/m128, <XMM0>` }, 'sse4_1', (m) => {
    const b = m.loadV(1);
    m.storeV(0, v128.bitselect(b, m.loadV(0), signs(m.loadV(2))));
  });

const BLENDS: readonly Instruction[] = [
  blend('BLENDPS', '0C', maskDwords),
  blend('BLENDPD', '0D', maskQwords),
  blend('PBLENDW', '0E', maskWords),
  blendVariable('PBLENDVB', '10', (mask) => v128.i8x16ShrS(mask, i32.const(7))),
  blendVariable('BLENDVPS', '14', (mask) => v128.i32x4ShrS(mask, i32.const(31))),
  blendVariable('BLENDVPD', '15', (mask) => v128.i64x2ShrS(mask, i32.const(63))),
];

// ---- extensions -------------------------------------------------------------------------------------------------

const byteToWord = { S: v128.i16x8ExtendLowI8x16S, Z: v128.i16x8ExtendLowI8x16U };
const wordToDword = { S: v128.i32x4ExtendLowI16x8S, Z: v128.i32x4ExtendLowI16x8U };
const dwordToQword = { S: v128.i64x2ExtendLowI32x4S, Z: v128.i64x2ExtendLowI32x4U };

/** PMOVSXxx, PMOVZXxx: the low elements, widened. */
const EXTENSIONS: readonly Instruction[] = (['S', 'Z'] as const).flatMap((kind) => {
  const base = kind === 'S' ? 0x20 : 0x30;
  const bw = byteToWord[kind];
  const wd = wordToDword[kind];
  const dq = dwordToQword[kind];
  const steps = [
    ['BW', 0, 8, bw],
    ['BD', 1, 4, (v: Expr) => wd(bw(v))],
    ['BQ', 2, 2, (v: Expr) => dq(wd(bw(v)))],
    ['WD', 3, 8, wd],
    ['WQ', 4, 4, (v: Expr) => dq(wd(v))],
    ['DQ', 5, 8, dq],
  ] as const;
  return steps.map(([suffix, offset, bytes, widen]) => {
    const name = `PMOV${kind}X${suffix}`;
    const opcode = (base + offset).toString(16).toUpperCase();
    return row(
      name,
      kind === 'S' ? 'Packed Move With Sign Extend' : 'Packed Move With Zero Extend',
      { [`66 0F 38 ${opcode} /r`]: `${name} xmm, xmm/m${8 * bytes}` },
      'sse4_1',
      (m) => m.storeV(0, widen(lowVector(loadLow(m, 1, bytes)))),
    );
  });
});

// ---- the rest of SSE4 -------------------------------------------------------------------------------------------

const flagWhere = (condition: Expr, flag: number): Expr => i32.mul(condition, i32.const(flag));

/** Index of the first or last set bit of `bits`, or `none`. */
function indexOf(bits: Expr, last: Expr, none: Expr): Expr {
  const first = i32.ctz(bits);
  const highest = i32.sub(i32.const(31), i32.clz(bits));
  return select(bits, select(last, highest, first), none);
}

/** PCMPxSTRx. SDM 2B 4.1 "Imm8 Control Byte Operation for PCMPESTRI / PCMPESTRM / PCMPISTRI / PCMPISTRM". */
const strings = (name: string, opcode: string, explicit: boolean, mask: boolean): Instruction =>
  row(
    name,
    `Packed Compare ${explicit ? 'Explicit' : 'Implicit'} Length Strings, Return ${mask ? 'Mask' : 'Index'}`,
    { [`66 0F 3A ${opcode} /r ib`]: `${name} xmm, xmm/m128, imm8` },
    'sse4_2',
    (m) => {
      const b = m.loadV(1, false);
      const a = m.loadV(0);
      const control = imm8(m, 2);
      const words = i32.and(control, i32.const(1));
      const elements = bind(m, i32.shrU(i32.const(16), words));
      /** |RAX| or |EAX|, at most the number of elements. */
      const explicitLength = (register: number): Expr => {
        const whole = m.reg(register);
        const value = bind(m, select(m.auxHas(AUX.REX_W), whole, i64.extend32S(whole)));
        const size = bind(m, select(i64.ltS(value, i64.const(0)), i64.sub(i64.const(0), value), value));
        const limit = i64.extendI32U(elements);
        return bind(m, i32.wrap(select(i64.gtU(size, limit), limit, size)));
      };
      const implicitLength = (v: Expr): Expr => bind(m, call(m.lib.byName('pcmpstr.implicit'), v, control));
      const lengthA = explicit ? explicitLength(0) : implicitLength(a);
      const lengthB = explicit ? explicitLength(2) : implicitLength(b);
      const result = bind(m, call(m.lib.byName('pcmpstr'), a, b, lengthA, lengthB, control));
      const option = i32.and(control, i32.const(0x40));
      if (mask) {
        const bytes = v128.i8x16Splat(result);
        const high = v128.i8x16Splat(i32.shrU(result, i32.const(8)));
        const weights = vector(lanes8((i) => 1 << (i & 7)));
        const spread = shuffle(bytes, high, (i) => (i < 8 ? i : i + 16));
        const byteMask = v128.i8x16Eq(v128.and(spread, weights), weights);
        const expanded = select(words, maskWords(result), byteMask);
        const value = select(option, expanded, lowVector(i64.extendI32U(result)));
        m.f.do(v128.store(i32.const(S.XMM), value));
        if (isVex()) m.f.do(v128.store(i32.const(S.YMMH), ZERO_VECTOR));
      } else {
        m.setReg(1, i64.extendI32U(indexOf(result, option, elements)), 4);
      }
      const flags = [
        flagWhere(i32.ne(result, i32.const(0)), RFLAGS.CF),
        flagWhere(i32.ltU(lengthB, elements), RFLAGS.ZF),
        flagWhere(i32.ltU(lengthA, elements), RFLAGS.SF),
        flagWhere(i32.and(result, i32.const(1)), RFLAGS.OF),
      ].reduce((x, y) => i32.or(x, y));
      m.flagsExplicit(i64.extendI32U(flags));
    },
  );

const crc32 = (forms: Record<string, string>, bytes: (m: Semantics) => number): Instruction =>
  instruction({
    name: 'CRC32',
    source: 'SDM 2A 3.2 "CRC32—Accumulate CRC32 Value"',
    forms,
    feature: 'sse4_2',
    execute(m) {
      const data = bind(m, m.loadU(1));
      const crc = i32.wrap(m.loadU(0));
      m.store(0, i64.extendI32U(call(m.lib.byName('crc32'), crc, data, i32.const(bytes(m)))));
    },
  });

const REST: readonly Instruction[] = [
  row('PTEST', 'Logical Compare', { '66 0F 38 17 /r': 'PTEST xmm, xmm/m128' }, 'sse4_1', (m) => {
    const b = m.loadV(1);
    const a = m.loadV(0);
    const zero = i32.eqz(v128.anyTrue(v128.and(a, b)));
    const carry = i32.eqz(v128.anyTrue(v128.andnot(b, a)));
    m.flagsExplicit(i64.extendI32U(i32.or(flagWhere(zero, RFLAGS.ZF), flagWhere(carry, RFLAGS.CF))));
  }),
  row(
    'PHMINPOSUW',
    'Packed Horizontal Word Minimum',
    { '66 0F 38 41 /r': 'PHMINPOSUW xmm, xmm/m128' },
    'sse4_1',
    (m) => {
      const source = m.loadV(1);
      // Value above, index below: the least is the first of the least.
      const keyed = Array.from({ length: 8 }, (_, i) =>
        i32.or(i32.shl(v128.i16x8ExtractU(source, i), i32.const(3)), i32.const(i)),
      );
      const least = m.let(keyed[0]!);
      for (const key of keyed.slice(1)) {
        const other = bind(m, key);
        m.f.set(least, select(i32.ltU(other, least.get), other, least.get));
      }
      const result = i32.or(
        i32.shrU(least.get, i32.const(3)),
        i32.shl(i32.and(least.get, i32.const(7)), i32.const(16)),
      );
      m.storeV(0, lowVector(i64.extendI32U(result)));
    },
  ),
  row(
    'MPSADBW',
    'Compute Multiple Packed Sums of Absolute Difference',
    { '66 0F 3A 42 /r ib': 'MPSADBW xmm, xmm/m128, imm8' },
    'sse4_1',
    (m) => {
      const b = m.loadV(1);
      const imm = imm8(m, 2);
      const window = bind(
        m,
        v128.swizzle(m.loadV(0), v128.i8x16Add(IOTA, v128.i8x16Splat(i32.and(imm, i32.const(4))))),
      );
      const block = i32.shl(i32.and(imm, i32.const(3)), i32.const(2));
      const four = bind(m, v128.swizzle(b, v128.i8x16Add(IOTA, v128.i8x16Splat(block))));
      const difference = (k: number): Expr => {
        const moved = v128.i16x8ExtendLowI8x16U(shuffle(window, window, (i) => (i + k) & 15));
        const byte = v128.i16x8Splat(v128.i8x16ExtractU(four, k));
        return v128.i16x8Abs(v128.i16x8Sub(moved, byte));
      };
      const sum = [0, 1, 2, 3].map(difference).reduce((x, y) => v128.i16x8Add(x, y));
      m.storeV(0, sum);
    },
  ),
];

export const SSE_SHUFFLE: readonly Instruction[] = [
  ...logic('AND', '54', v128.and),
  ...logic('ANDN', '55', (a, b) => v128.andnot(b, a)),
  ...logic('OR', '56', v128.or),
  ...logic('XOR', '57', v128.xor),
  unpack('UNPCKLPS', 'NP', '14', 4, false),
  unpack('UNPCKHPS', 'NP', '15', 4, true),
  unpack('UNPCKLPD', '66', '14', 8, false),
  unpack('UNPCKHPD', '66', '15', 8, true),
  ...SHUFFLES,
  ...ELEMENTS,
];
export const SSE41_SHUFFLE: readonly Instruction[] = [...BLENDS, ...EXTENSIONS, ...REST];
export const SSE42_TEXT: readonly Instruction[] = [
  strings('PCMPESTRM', '60', true, true),
  strings('PCMPESTRI', '61', true, false),
  strings('PCMPISTRM', '62', false, true),
  strings('PCMPISTRI', '63', false, false),
  crc32({ 'F2 0F 38 F0 /r': 'CRC32 rd, r/m8' }, () => 1),
  crc32({ 'F2 0F 38 F1 /r': 'CRC32 rd, r/mv' }, (m) => m.sizeOf(1)),
];
