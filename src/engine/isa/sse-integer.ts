import { type Expr, i32, i64, select, v128 } from '../../wasm/expr.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import {
  bind,
  enterMmx,
  imm8,
  lanes8,
  lanes16,
  lanes32,
  loadLow,
  loadMm,
  lowHalf,
  storeMm,
  vector,
  ZERO_VECTOR,
} from './sse-operands.ts';

/**
 * Packed integers: the operations that MMX has on 64 and SSE2 (SSSE3, SSE4.1) on 128 bits. Each is written once, as a
 * function of two vectors; for MMX both halves of the vectors hold the operand and the low half is the result.
 */
type Binary = (a: Expr, b: Expr) => Expr;

/** Where the low and high results lie when both operands have 64 bits only. */
interface PackedRow {
  readonly name: string;
  /** Behind the mandatory prefix. */
  readonly opcode: string;
  readonly title: string;
  /** CPUID feature of the MMX form; none if there is no such form. */
  readonly mm?: string;
  /** CPUID feature of the XMM form. */
  readonly xmm?: string;
  readonly compute: (m: Semantics, a: Expr, b: Expr) => Expr;
  /** The MMX form's own way to its 64 bits, where "the low half" is not it. */
  readonly computeMm?: (m: Semantics, a: Expr, b: Expr) => Expr;
  /** Bytes of the MMX form's memory operand. */
  readonly mmBytes?: 4 | 8;
}

const plain =
  (compute: Binary): PackedRow['compute'] =>
  (m, a, b) =>
    bind(m, compute(a, b));

const row = (
  name: string,
  opcode: string,
  title: string,
  compute: Binary,
  mm: string | undefined = 'mmx',
  xmm = 'sse2',
): PackedRow => ({ name, opcode, title, xmm, ...(mm === '' ? {} : { mm }), compute: plain(compute) });

const shuffle = (a: Expr, b: Expr, byte: (i: number) => number): Expr => v128.shuffle(a, b, lanes8(byte));
/** Low halves of a and b side by side: what a 64-bit operation that goes across lanes works on. */
const join = (a: Expr, b: Expr): Expr => shuffle(a, b, (i) => (i < 8 ? i : i + 8));

/** `interleave(bytes, high)`: PUNPCKL… and PUNPCKH…. */
const interleave =
  (bytes: number, high: boolean): Binary =>
  (a, b) =>
    shuffle(a, b, (i) => {
      const element = Math.floor(i / (2 * bytes)) + (high ? 8 / bytes : 0);
      const fromB = Math.floor(i / bytes) & 1;
      return element * bytes + (i % bytes) + 16 * fromB;
    });
const unpack = (name: string, opcode: string, bytes: number, high: boolean): PackedRow => ({
  name,
  opcode,
  title: high
    ? 'PUNPCKHBW/PUNPCKHWD/PUNPCKHDQ/PUNPCKHQDQ—Unpack High Data'
    : 'PUNPCKLBW/PUNPCKLWD/PUNPCKLDQ/PUNPCKLQDQ—Unpack Low Data',
  ...(bytes < 8 ? { mm: 'mmx' } : {}),
  xmm: 'sse2',
  compute: plain(interleave(bytes, high)),
  // Both halves of a and b are the operand: the high result of 64 bits is the upper half of the low one of 128.
  ...(high
    ? {
        computeMm: (m, a, b) =>
          bind(
            m,
            shuffle(interleave(bytes, false)(a, b), a, (i) => (i & 7) + 8),
          ),
      }
    : {}),
  mmBytes: high ? 8 : 4,
});
const pack = (name: string, opcode: string, title: string, narrow: Binary, mm = 'mmx', xmm = 'sse2'): PackedRow => ({
  ...row(name, opcode, title, narrow, mm, xmm),
  computeMm: (m, a, b) => {
    const both = bind(m, join(a, b));
    return narrow(both, both);
  },
});

/** Even and odd elements of a then b, joined by `combine`: PHADD…, PHSUB…. */
const horizontal = (name: string, opcode: string, bytes: number, combine: Binary, title: string): PackedRow => {
  const part =
    (odd: number): Binary =>
    (a, b) =>
      shuffle(a, b, (i) => (2 * Math.floor(i / bytes) + odd) * bytes + (i % bytes));
  const compute: Binary = (a, b) => combine(part(0)(a, b), part(1)(a, b));
  return {
    ...row(name, opcode, title, compute, 'ssse3', 'ssse3'),
    computeMm: (m, a, b) => {
      const both = bind(m, join(a, b));
      return compute(both, both);
    },
  };
};

const highWords = (low: Expr, high: Expr): Expr => shuffle(low, high, (i) => 4 * (i >> 1) + 2 + (i & 1));
const mulHigh =
  (low: Binary, high: Binary): Binary =>
  (a, b) =>
    highWords(low(a, b), high(a, b));
/** Dwords 0 and 2 of both, to 64-bit products. */
const evenProducts =
  (multiply: Binary): Binary =>
  (a, b) => {
    const even = (v: Expr): Expr => shuffle(v, v, (i) => (i < 4 ? i : i < 8 ? i + 4 : i));
    return multiply(even(a), even(b));
  };

/** |a - b| of unsigned bytes, summed over each eight. */
const sumOfDifferences: PackedRow['compute'] = (m, a, b) => {
  const difference = v128.or(v128.i8x16SubSatU(a, b), v128.i8x16SubSatU(b, a));
  const quads = bind(m, v128.i32x4ExtAddPairwiseI16x8U(v128.i16x8ExtAddPairwiseI8x16U(difference)));
  const sums = v128.i64x2Add(quads, v128.i64x2ShrU(quads, i32.const(32)));
  return v128.and(sums, vector(lanes32((i) => (i & 1 ? 0 : -1))));
};

/** Products of a's unsigned and b's signed bytes, added in pairs with saturation. */
const multiplyAddBytes: PackedRow['compute'] = (_m, a, b) => {
  const eight = i32.const(8);
  const even = v128.i16x8Mul(v128.and(a, vector(lanes16(() => 0xff))), v128.i16x8ShrS(v128.i16x8Shl(b, eight), eight));
  const odd = v128.i16x8Mul(v128.i16x8ShrU(a, eight), v128.i16x8ShrS(b, eight));
  return v128.i16x8AddSatS(even, odd);
};

/** WebAssembly saturates -1 · -1 to 0x7fff; PMULHRSW gives 0x8000. */
const multiplyRound: Binary = (a, b) => {
  const least = vector(lanes16(() => 0x8000));
  const both = v128.and(v128.i16x8Eq(a, least), v128.i16x8Eq(b, least));
  return v128.xor(v128.i16x8Q15MulrSatS(a, b), both);
};

/** b's sign applied to a. */
const sign =
  (bytes: number, subtract: Binary, less: Binary, different: Binary): Binary =>
  (a, b) => {
    void bytes;
    const negative = less(b, ZERO_VECTOR);
    return v128.and(subtract(v128.xor(a, negative), negative), different(b, ZERO_VECTOR));
  };

const ADD = 'PADDB/PADDW/PADDD/PADDQ—Add Packed Integers';
const ADDS = 'PADDSB/PADDSW—Add Packed Signed Integers with Signed Saturation';
const ADDUS = 'PADDUSB/PADDUSW—Add Packed Unsigned Integers With Unsigned Saturation';
const SUB = 'PSUBB/PSUBW/PSUBD—Subtract Packed Integers';
const SUBS = 'PSUBSB/PSUBSW—Subtract Packed Signed Integers with Signed Saturation';
const SUBUS = 'PSUBUSB/PSUBUSW—Subtract Packed Unsigned Integers With Unsigned Saturation';
const CMPEQ = 'PCMPEQB/PCMPEQW/PCMPEQD—Compare Packed Data for Equal';
const CMPGT = 'PCMPGTB/PCMPGTW/PCMPGTD—Compare Packed Signed Integers for Greater Than';
const PACKSS = 'PACKSSWB/PACKSSDW—Pack With Signed Saturation';
const AVG = 'PAVGB/PAVGW—Average Packed Integers';
const PABS = 'PABSB/PABSW/PABSD/PABSQ—Packed Absolute Value';
const PSIGN = 'PSIGNB/PSIGNW/PSIGND—Packed SIGN';

const PACKED: readonly PackedRow[] = [
  unpack('PUNPCKLBW', '0F 60', 1, false),
  unpack('PUNPCKLWD', '0F 61', 2, false),
  unpack('PUNPCKLDQ', '0F 62', 4, false),
  pack('PACKSSWB', '0F 63', PACKSS, v128.i8x16NarrowS),
  row('PCMPGTB', '0F 64', CMPGT, v128.i8x16GtS),
  row('PCMPGTW', '0F 65', CMPGT, v128.i16x8GtS),
  row('PCMPGTD', '0F 66', CMPGT, v128.i32x4GtS),
  pack('PACKUSWB', '0F 67', 'PACKUSWB—Pack With Unsigned Saturation', v128.i8x16NarrowU),
  unpack('PUNPCKHBW', '0F 68', 1, true),
  unpack('PUNPCKHWD', '0F 69', 2, true),
  unpack('PUNPCKHDQ', '0F 6A', 4, true),
  pack('PACKSSDW', '0F 6B', PACKSS, v128.i16x8NarrowS),
  unpack('PUNPCKLQDQ', '0F 6C', 8, false),
  unpack('PUNPCKHQDQ', '0F 6D', 8, true),
  row('PCMPEQB', '0F 74', CMPEQ, v128.i8x16Eq),
  row('PCMPEQW', '0F 75', CMPEQ, v128.i16x8Eq),
  row('PCMPEQD', '0F 76', CMPEQ, v128.i32x4Eq),
  row('PADDQ', '0F D4', ADD, v128.i64x2Add, 'sse2'),
  row('PMULLW', '0F D5', 'PMULLW—Multiply Packed Signed Integers and Store Low Result', v128.i16x8Mul),
  row('PSUBUSB', '0F D8', SUBUS, v128.i8x16SubSatU),
  row('PSUBUSW', '0F D9', SUBUS, v128.i16x8SubSatU),
  row('PMINUB', '0F DA', 'PMINUB/PMINUW—Minimum of Packed Unsigned Integers', v128.i8x16MinU, 'sse'),
  row('PAND', '0F DB', 'PAND—Logical AND', v128.and),
  row('PADDUSB', '0F DC', ADDUS, v128.i8x16AddSatU),
  row('PADDUSW', '0F DD', ADDUS, v128.i16x8AddSatU),
  row('PMAXUB', '0F DE', 'PMAXUB/PMAXUW—Maximum of Packed Unsigned Integers', v128.i8x16MaxU, 'sse'),
  row('PANDN', '0F DF', 'PANDN—Logical AND NOT', (a, b) => v128.andnot(b, a)),
  row('PAVGB', '0F E0', AVG, v128.i8x16AvgrU, 'sse'),
  row('PAVGW', '0F E3', AVG, v128.i16x8AvgrU, 'sse'),
  row(
    'PMULHUW',
    '0F E4',
    'PMULHUW—Multiply Packed Unsigned Integers and Store High Result',
    mulHigh(v128.i32x4ExtMulLowU, v128.i32x4ExtMulHighU),
    'sse',
  ),
  row(
    'PMULHW',
    '0F E5',
    'PMULHW—Multiply Packed Signed Integers and Store High Result',
    mulHigh(v128.i32x4ExtMulLowS, v128.i32x4ExtMulHighS),
  ),
  row('PSUBSB', '0F E8', SUBS, v128.i8x16SubSatS),
  row('PSUBSW', '0F E9', SUBS, v128.i16x8SubSatS),
  row('PMINSW', '0F EA', 'PMINSB/PMINSW—Minimum of Packed Signed Integers', v128.i16x8MinS, 'sse'),
  row('POR', '0F EB', 'POR—Bitwise Logical OR', v128.or),
  row('PADDSB', '0F EC', ADDS, v128.i8x16AddSatS),
  row('PADDSW', '0F ED', ADDS, v128.i16x8AddSatS),
  row('PMAXSW', '0F EE', 'PMAXSB/PMAXSW/PMAXSD/PMAXSQ—Maximum of Packed Signed Integers', v128.i16x8MaxS, 'sse'),
  row('PXOR', '0F EF', 'PXOR—Logical Exclusive OR', v128.xor),
  row(
    'PMULUDQ',
    '0F F4',
    'PMULUDQ—Multiply Packed Unsigned Doubleword Integers',
    evenProducts(v128.i64x2ExtMulLowU),
    'sse2',
  ),
  row('PMADDWD', '0F F5', 'PMADDWD—Multiply and Add Packed Integers', v128.i32x4DotI16x8S),
  {
    ...row('PSADBW', '0F F6', 'PSADBW—Compute Sum of Absolute Differences', v128.or, 'sse'),
    compute: sumOfDifferences,
  },
  row('PSUBB', '0F F8', SUB, v128.i8x16Sub),
  row('PSUBW', '0F F9', SUB, v128.i16x8Sub),
  row('PSUBD', '0F FA', SUB, v128.i32x4Sub),
  row('PSUBQ', '0F FB', 'PSUBQ—Subtract Packed Quadword Integers', v128.i64x2Sub, 'sse2'),
  row('PADDB', '0F FC', ADD, v128.i8x16Add),
  row('PADDW', '0F FD', ADD, v128.i16x8Add),
  row('PADDD', '0F FE', ADD, v128.i32x4Add),
];

const HADD = 'PHADDW/PHADDD—Packed Horizontal Add';
const HSUB = 'PHSUBW/PHSUBD—Packed Horizontal Subtract';

const PACKED_SSSE3: readonly PackedRow[] = [
  {
    name: 'PSHUFB',
    opcode: '0F 38 00',
    title: 'PSHUFB—Packed Shuffle Bytes',
    mm: 'ssse3',
    xmm: 'ssse3',
    // swizzle gives zero for any selector above 15, so that bit 7 alone must survive besides the index.
    compute: (_m, a, b) => v128.swizzle(a, v128.and(b, vector(lanes8(() => 0x8f)))),
    computeMm: (_m, a, b) => v128.swizzle(a, v128.and(b, vector(lanes8(() => 0x87)))),
  },
  horizontal('PHADDW', '0F 38 01', 2, v128.i16x8Add, HADD),
  horizontal('PHADDD', '0F 38 02', 4, v128.i32x4Add, HADD),
  horizontal('PHADDSW', '0F 38 03', 2, v128.i16x8AddSatS, 'PHADDSW—Packed Horizontal Add and Saturate'),
  {
    ...row('PMADDUBSW', '0F 38 04', 'PMADDUBSW—Multiply and Add Packed Signed and Unsigned Bytes', v128.or),
    mm: 'ssse3',
    xmm: 'ssse3',
    compute: multiplyAddBytes,
  },
  horizontal('PHSUBW', '0F 38 05', 2, v128.i16x8Sub, HSUB),
  horizontal('PHSUBD', '0F 38 06', 4, v128.i32x4Sub, HSUB),
  horizontal('PHSUBSW', '0F 38 07', 2, v128.i16x8SubSatS, 'PHSUBSW—Packed Horizontal Subtract and Saturate'),
  row('PSIGNB', '0F 38 08', PSIGN, sign(1, v128.i8x16Sub, v128.i8x16LtS, v128.i8x16Ne), 'ssse3', 'ssse3'),
  row('PSIGNW', '0F 38 09', PSIGN, sign(2, v128.i16x8Sub, v128.i16x8LtS, v128.i16x8Ne), 'ssse3', 'ssse3'),
  row('PSIGND', '0F 38 0A', PSIGN, sign(4, v128.i32x4Sub, v128.i32x4LtS, v128.i32x4Ne), 'ssse3', 'ssse3'),
  row('PMULHRSW', '0F 38 0B', 'PMULHRSW—Packed Multiply High With Round and Scale', multiplyRound, 'ssse3', 'ssse3'),
  row('PABSB', '0F 38 1C', PABS, (_a, b) => v128.i8x16Abs(b), 'ssse3', 'ssse3'),
  row('PABSW', '0F 38 1D', PABS, (_a, b) => v128.i16x8Abs(b), 'ssse3', 'ssse3'),
  row('PABSD', '0F 38 1E', PABS, (_a, b) => v128.i32x4Abs(b), 'ssse3', 'ssse3'),
];

const MINMAX = 'Minimum or Maximum of Packed Integers (PMINSB … PMAXUD)';
const sse41 = (name: string, opcode: string, title: string, compute: Binary): PackedRow =>
  row(name, opcode, title, compute, '', 'sse4_1');

const PACKED_SSE41: readonly PackedRow[] = [
  sse41('PMULDQ', '0F 38 28', 'PMULDQ—Multiply Packed Doubleword Integers', evenProducts(v128.i64x2ExtMulLowS)),
  sse41('PCMPEQQ', '0F 38 29', 'PCMPEQQ—Compare Packed Qword Data for Equal', v128.i64x2Eq),
  sse41('PACKUSDW', '0F 38 2B', 'PACKUSDW—Pack With Unsigned Saturation', v128.i16x8NarrowU),
  sse41('PMINSB', '0F 38 38', MINMAX, v128.i8x16MinS),
  sse41('PMINSD', '0F 38 39', MINMAX, v128.i32x4MinS),
  sse41('PMINUW', '0F 38 3A', MINMAX, v128.i16x8MinU),
  sse41('PMINUD', '0F 38 3B', MINMAX, v128.i32x4MinU),
  sse41('PMAXSB', '0F 38 3C', MINMAX, v128.i8x16MaxS),
  sse41('PMAXSD', '0F 38 3D', MINMAX, v128.i32x4MaxS),
  sse41('PMAXUW', '0F 38 3E', MINMAX, v128.i16x8MaxU),
  sse41('PMAXUD', '0F 38 3F', MINMAX, v128.i32x4MaxU),
  sse41('PMULLD', '0F 38 40', 'PMULLD/PMULLQ—Multiply Packed Integers and Store Low Result', v128.i32x4Mul),
];

const PACKED_SSE42: readonly PackedRow[] = [
  row('PCMPGTQ', '0F 38 37', 'PCMPGTQ—Compare Packed Data for Greater Than', v128.i64x2GtS, '', 'sse4_2'),
];

const mmForm = (r: PackedRow): Instruction =>
  instruction({
    name: r.name,
    source: `SDM 2B 4.3 "${r.title}"`,
    forms: { [`NP ${r.opcode} /r`]: `${r.name} mm, mm/m${8 * (r.mmBytes ?? 8)}` },
    needs: 'mmx',
    feature: r.mm!,
    execute(m) {
      const b = loadMm(m, 1, r.mmBytes ?? 8);
      const a = loadMm(m, 0);
      const result = bind(m, (r.computeMm ?? r.compute)(m, a, b));
      enterMmx(m);
      storeMm(m, 0, lowHalf(result));
    },
  });

const xmmForm = (r: PackedRow): Instruction =>
  instruction({
    name: r.name,
    source: `SDM 2B 4.3 "${r.title}"`,
    forms: { [`66 ${r.opcode} /r`]: `${r.name} xmm, xmm/m128` },
    needs: 'sse',
    feature: r.xmm!,
    execute(m) {
      const b = m.loadV(1);
      m.storeV(0, r.compute(m, m.loadV(0), b));
    },
  });

// ---- shifts -----------------------------------------------------------------------------------------------------

interface ShiftRow {
  readonly name: string;
  /** By an XMM or MMX operand. */
  readonly opcode: string;
  /** By an immediate. */
  readonly immediate: string;
  readonly bits: 16 | 32 | 64;
  readonly arithmetic: boolean;
  readonly shift: Binary;
}

const SHIFTS: readonly ShiftRow[] = [
  { name: 'PSRLW', opcode: '0F D1', immediate: '0F 71 /2', bits: 16, arithmetic: false, shift: v128.i16x8ShrU },
  { name: 'PSRLD', opcode: '0F D2', immediate: '0F 72 /2', bits: 32, arithmetic: false, shift: v128.i32x4ShrU },
  { name: 'PSRLQ', opcode: '0F D3', immediate: '0F 73 /2', bits: 64, arithmetic: false, shift: v128.i64x2ShrU },
  { name: 'PSRAW', opcode: '0F E1', immediate: '0F 71 /4', bits: 16, arithmetic: true, shift: v128.i16x8ShrS },
  { name: 'PSRAD', opcode: '0F E2', immediate: '0F 72 /4', bits: 32, arithmetic: true, shift: v128.i32x4ShrS },
  { name: 'PSLLW', opcode: '0F F1', immediate: '0F 71 /6', bits: 16, arithmetic: false, shift: v128.i16x8Shl },
  { name: 'PSLLD', opcode: '0F F2', immediate: '0F 72 /6', bits: 32, arithmetic: false, shift: v128.i32x4Shl },
  { name: 'PSLLQ', opcode: '0F F3', immediate: '0F 73 /6', bits: 64, arithmetic: false, shift: v128.i64x2Shl },
];

/** Counts beyond the element give zeros, or copies of the sign. `count`: an i64 in a local. */
function shifted(m: Semantics, row: ShiftRow, value: Expr, count: Expr): Expr {
  const most = i64.const(row.bits - 1);
  const beyond = i64.gtU(count, most);
  if (row.arithmetic) return row.shift(value, i32.wrap(select(beyond, most, count)));
  return bind(m, select(beyond, ZERO_VECTOR, row.shift(value, i32.wrap(count))));
}

const SHIFT_TITLE = (name: string): string =>
  name.startsWith('PSLL')
    ? 'PSLLW/PSLLD/PSLLQ—Shift Packed Data Left Logical'
    : name.startsWith('PSRL')
      ? 'PSRLW/PSRLD/PSRLQ—Shift Packed Data Right Logical'
      : 'PSRAW/PSRAD/PSRAQ—Shift Packed Data Right Arithmetic';

const shiftMm = (r: ShiftRow): Instruction =>
  instruction({
    name: r.name,
    source: `SDM 2B 4.3 "${SHIFT_TITLE(r.name)}"`,
    forms: {
      [`NP ${r.opcode} /r`]: `${r.name} mm, mm/m64`,
      [`NP ${r.immediate}:r ib`]: `${r.name} mm, imm8`,
    },
    needs: 'mmx',
    feature: 'mmx',
    execute(m) {
      const count = m.operands[1]!.kind === 'imm' ? bind(m, i64.extendI32U(imm8(m, 1))) : loadLow(m, 1, 8);
      const result = bind(m, shifted(m, r, loadMm(m, 0), count));
      enterMmx(m);
      storeMm(m, 0, lowHalf(result));
    },
  });

const shiftXmm = (r: ShiftRow): Instruction =>
  instruction({
    name: r.name,
    source: `SDM 2B 4.3 "${SHIFT_TITLE(r.name)}"`,
    forms: {
      [`66 ${r.opcode} /r`]: `${r.name} xmm, xmm/m128`,
      [`66 ${r.immediate}:r ib`]: `${r.name} xmm, imm8`,
    },
    needs: 'sse',
    feature: 'sse2',
    execute(m) {
      const count = m.operands[1]!.kind === 'imm' ? bind(m, i64.extendI32U(imm8(m, 1))) : bind(m, lowHalf(m.loadV(1)));
      m.storeV(0, shifted(m, r, m.loadV(0), count));
    },
  });

/** Shift of the whole register by bytes: a selection that runs out of the register selects zeros. */
const shiftBytes = (name: 'PSLLDQ' | 'PSRLDQ', digit: number): Instruction =>
  instruction({
    name,
    source: `SDM 2B 4.3 "${name}—Shift Double Quadword ${name === 'PSLLDQ' ? 'Left' : 'Right'} Logical"`,
    forms: { [`66 0F 73 /${digit}:r ib`]: `${name} xmm, imm8` },
    needs: 'sse',
    feature: 'sse2',
    execute(m) {
      const imm = imm8(m, 1);
      const count = v128.i8x16Splat(select(i32.gtU(imm, i32.const(16)), i32.const(16), imm));
      const iota = vector(lanes8((i) => i));
      const from = (name === 'PSLLDQ' ? v128.i8x16Sub : v128.i8x16Add)(iota, count);
      m.storeV(0, v128.swizzle(m.loadV(0), from));
    },
  });

export const MMX_INTEGER: readonly Instruction[] = [
  ...PACKED.filter((r) => r.mm !== undefined).map(mmForm),
  ...SHIFTS.map(shiftMm),
];
export const SSE2_INTEGER: readonly Instruction[] = [
  ...PACKED.map(xmmForm),
  ...SHIFTS.map(shiftXmm),
  shiftBytes('PSRLDQ', 3),
  shiftBytes('PSLLDQ', 7),
];
export const SSSE3_INTEGER: readonly Instruction[] = [...PACKED_SSSE3.map(mmForm), ...PACKED_SSSE3.map(xmmForm)];
export const SSE41_INTEGER: readonly Instruction[] = PACKED_SSE41.map(xmmForm);
export const SSE42_INTEGER: readonly Instruction[] = PACKED_SSE42.map(xmmForm);
