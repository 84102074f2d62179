import { call, type Expr, i32, i64, select, V128, v128 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { DOUBLE, RC, SINGLE } from '../float/format.ts';
import { lane, withLane } from '../float/vector.ts';
import { RFLAGS } from './flags.ts';
import type { Instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { SSE_COMPARE } from './sse-compare.ts';
import { SSE_CONVERT } from './sse-convert.ts';
import { CRYPTO } from './sse-crypto.ts';
import { SSE_ARITHMETIC, SSE3_ARITHMETIC, SSE41_ARITHMETIC } from './sse-float.ts';
import { SSE2_INTEGER, SSE41_INTEGER, SSE42_INTEGER, SSSE3_INTEGER } from './sse-integer.ts';
import { SSE_MOVE } from './sse-move.ts';
import {
  bind,
  commit,
  imm8,
  lanes8,
  lanes32,
  loadLow,
  lowHalf,
  lowVector,
  maskDwords,
  vector,
  ZERO_VECTOR,
} from './sse-operands.ts';
import { SSE_SHUFFLE, SSE41_SHUFFLE, SSE42_TEXT } from './sse-shuffle.ts';
import { loadHalf, storeYmm, type VexSpec, vexRows } from './sse-vex.ts';
import { both, halves, row } from './sse-vex-words.ts';

/** AVX and AVX2. Most rows are legacy rows seen through sse-vex.ts; the rest, which exist as VEX only, follow. */

/** Legacy forms without a VEX form, and those whose VEX.256 form is not "the same on each half" (written below). */
const NONE = /^(SHA|CVT.*PI|CVTPI|PBLENDVB|BLENDVP)/;
const OWN_WIDE = /^(PTEST|MOVMSK|PMOVMSKB|PMOV[SZ]X|CVTDQ2PD|CVTPS2PD|CVTT?PD2|CVTPD2PS|MOVDDUP)/;

/** One source only: no VEX.vvvv. */
const TWO =
  /^(PABS|PSHUF[DHL]|PMOV[SZ]X|PTEST|PHMINPOSUW|SQRTP|RCPP|RSQRTP|ROUNDP|CVT(?!SI2|SS2SD|SD2SS)|U?COMIS|MOV(?!SS|SD|LP|HP|HLPS|LHPS)|MOVS[LH]DUP|LDDQU|P?EXTR|PCMP.STR|PMOVMSKB|AESIMC|AESKEYGEN|MASKMOV|LDMXCSR|STMXCSR)/;
const SCALAR =
  /^((ADD|SUB|MUL|DIV|SQRT|MIN|MAX|RCP|RSQRT|ROUND|CMP)S[SD]|U?COMIS|CVT(SI2|SS2|SD2|TSS2|TSD2)|MOVS[SD]$)/;

/** Integer instructions have their 256-bit forms from AVX2. */
const INTEGER = /^(P(?!CLMUL|CMP.STR|HMINPOS|INSR|EXTR|TEST)|MPSADBW|MOVNTDQA)/;
const WIDE_MOVES = /^(MOV([AU]P|DQ|NTP|NTDQ|S[LH]DUP)|LDDQU)/;
const NOT_WIDE =
  /^(MOV(D\/|Q|L|H|NTI)|P?(INS|EXT)R|INSERTPS|EXTRACTPS|DPP[SD]|AES|PCLMUL|PCMP.STR|PHMINPOS|MASKMOV|..MXCSR)/;

function specOf({ name }: Instruction): VexSpec {
  const scalar = SCALAR.test(name);
  const narrow = scalar || NOT_WIDE.test(name) || OWN_WIDE.test(name) || (/^MOV/.test(name) && !WIDE_MOVES.test(name));
  const shift = /^PS(LL|RL|RA)[WDQ]$/.test(name);
  const immediateShift = { SHUFPD: 2, BLENDPS: 4, BLENDPD: 2, MPSADBW: 3 }[name];
  return {
    three: !TWO.test(name),
    ...(narrow ? {} : { wide: INTEGER.test(name) ? ('avx2' as const) : ('avx' as const) }),
    ...(scalar ? { ignoresLength: true } : {}),
    ...(shift ? { shared: [1] } : {}),
    ...(immediateShift === undefined ? {} : { immediateShift }),
    ...(/^(MOVAP|MOVDQA|MOVNT)/.test(name) ? { aligned: true } : {}),
  };
}

/** A legacy move to memory or between registers names its forms in one row: VEX treats them apart. */
function split(row: Instruction): Instruction[] {
  return Object.entries(row.forms).map(([opcode, text]) => ({ ...row, forms: { [opcode]: text } }));
}

/** VMOVSS, VMOVSD: three operands between registers, two with memory. */
const scalarMove = (row: Instruction): Instruction[] => {
  const [opcode, text] = Object.entries(row.forms)[0]!;
  const memory: Instruction = { ...row, forms: { [`${opcode}:m`]: text.replace(/xmm\/m/g, 'm') } };
  const register: Instruction = { ...row, forms: { [`${opcode}:r`]: text.replace(/xmm\/m\d+/g, 'xmm') } };
  // Opcode 11 names its destination in r/m also where that is a register
  const store = text.split(' ')[1]!.startsWith('xmm/');
  return [
    ...vexRows(memory, { three: false, ignoresLength: true }),
    ...vexRows(store ? { ...register, forms: { [`${opcode}:r`]: text } } : register, {
      three: true,
      ignoresLength: true,
    }),
  ];
};

/** VMOVLPx, VMOVHPx: loads take the other half from vvvv. */
const isHalfLoad = (text: string): boolean => /^MOV[LH]P. xmm, m64/.test(text);

const LEGACY: readonly Instruction[] = [
  ...SSE_MOVE,
  ...SSE_ARITHMETIC,
  ...SSE_COMPARE,
  ...SSE_CONVERT,
  ...SSE_SHUFFLE,
  ...SSE2_INTEGER,
  ...SSE3_ARITHMETIC,
  ...SSSE3_INTEGER,
  ...SSE41_ARITHMETIC,
  ...SSE41_INTEGER,
  ...SSE41_SHUFFLE,
  ...SSE42_INTEGER,
  ...SSE42_TEXT,
  ...CRYPTO,
].filter(
  (row) => row.needs === 'sse' && !NONE.test(row.name) && row.name !== 'CRC32' && Object.keys(row.forms).length > 0,
);

const DERIVED: readonly Instruction[] = LEGACY.flatMap((row) => {
  if (Object.values(row.forms).some((text) => /\bmm\b/.test(text))) return [];
  return split(row).flatMap((one) => {
    const text = Object.values(one.forms)[0]!;
    if (one.name === 'MOVSS' || one.name === 'MOVSD') return scalarMove(one);
    if (/^MOV[LH]P/.test(one.name)) return vexRows(one, { three: isHalfLoad(text) });
    const spec = specOf(one);
    // A shift by an immediate reads no vector but its source
    if (spec.shared && text.endsWith('imm8')) return vexRows(one, { three: true, wide: 'avx2' });
    return vexRows(one, spec);
  });
});

// ---- VEX only ---------------------------------------------------------------------------------------------------

const shuffle = (a: Expr, b: Expr, byte: (i: number) => number): Expr => v128.shuffle(a, b, lanes8(byte));
const signs32 = (v: Expr): Expr => v128.i32x4ShrS(v, i32.const(31));
const signs64 = (v: Expr): Expr => v128.i64x2ShrS(v, i32.const(63));
const signs8 = (v: Expr): Expr => v128.i8x16ShrS(v, i32.const(7));

/** Mask operand of VBLENDVxx in the immediate's upper four bits. */
const blendVariable = (name: string, opcode: string, signs: (v: Expr) => Expr): Instruction[] =>
  ([false, true] as const).map((wide) => {
    const v = wide ? 'ymm' : 'xmm';
    return row(
      name,
      'Variable Blend',
      {
        [`VEX.${wide ? 256 : 128}.66.0F3A.W0 ${opcode} /r ib`]: `${name} ${v}, ${v}V, ${v}/m${wide ? 256 : 128}, imm8`,
      },
      wide && name === 'VPBLENDVB' ? 'avx2' : 'avx',
      (m) => {
        const number = i32.and(i32.shrU(imm8(m, 3), i32.const(4)), i32.const(m.long ? 15 : 7));
        const mask = bind(m, i32.shl(number, i32.const(4)));
        halves(m, wide, [1, 2], (half, a, b) => v128.bitselect(b!, a!, signs(v128.load(mask, half ? S.YMMH : S.XMM))));
      },
    );
  });

/** Four dwords picked by the low two bits of each dword of `control`. */
function permuteDwords(source: Expr, control: Expr): Expr {
  const start = v128.i32x4Shl(v128.and(control, vector(lanes32(() => 3))), i32.const(2));
  const spread = shuffle(start, start, (i) => i & ~3);
  return v128.swizzle(source, v128.i8x16Add(spread, vector(lanes8((i) => i & 3))));
}
/** Two qwords picked by bit 1 of each qword of `control`. */
function permuteQwords(source: Expr, control: Expr): Expr {
  const start = v128.i8x16Shl(v128.and(control, vector(lanes8((i) => (i & 7 ? 0 : 2)))), i32.const(2));
  const spread = shuffle(start, start, (i) => i & ~7);
  return v128.swizzle(source, v128.i8x16Add(spread, vector(lanes8((i) => i & 7))));
}
/** The control vector that an immediate of two bits a dword stands for. */
const dwordControl = (imm: Expr): Expr =>
  [0, 1, 2, 3]
    .map((i) => i32.shrU(imm, i32.const(2 * i)))
    .reduce((v, bits, i) => v128.i32x4Replace(v, i, bits), ZERO_VECTOR);
const qwordControl = (imm: Expr, half: 0 | 1): Expr =>
  [0, 1]
    .map((i) => i64.shl(i64.extendI32U(i32.shrU(imm, i32.const(i + 2 * half))), i64.const(1)))
    .reduce((v, bits, i) => v128.i64x2Replace(v, i, bits), ZERO_VECTOR);

const PERMUTE: readonly Instruction[] = [
  ...both(
    'VPERMILPS',
    'Permute In-Lane of Quadruples of Single Precision Values',
    '0F38.W0 0C /r',
    'xmm, xmmV, xmm/m128',
    'avx',
    (m, wide) => halves(m, wide, [1, 2], (_half, a, control) => permuteDwords(a!, control!)),
  ),
  ...both(
    'VPERMILPD',
    'Permute In-Lane of Pairs of Double Precision Values',
    '0F38.W0 0D /r',
    'xmm, xmmV, xmm/m128',
    'avx',
    (m, wide) => halves(m, wide, [1, 2], (_half, a, control) => permuteQwords(a!, control!)),
  ),
  ...both(
    'VPERMILPS',
    'Permute In-Lane of Quadruples of Single Precision Values',
    '0F3A.W0 04 /r ib',
    'xmm, xmm/m128, imm8',
    'avx',
    (m, wide) => {
      const control = bind(m, dwordControl(imm8(m, 2)));
      halves(m, wide, [1], (_half, a) => permuteDwords(a!, control));
    },
  ),
  ...both(
    'VPERMILPD',
    'Permute In-Lane of Pairs of Double Precision Values',
    '0F3A.W0 05 /r ib',
    'xmm, xmm/m128, imm8',
    'avx',
    (m, wide) => {
      const imm = imm8(m, 2);
      halves(m, wide, [1], (half, a) => permuteQwords(a!, qwordControl(imm, half)));
    },
  ),
  ...(['VPERMD', 'VPERMPS'] as const).map((name) =>
    row(
      name,
      'Permute Doublewords',
      { [`VEX.256.66.0F38.W0 ${name === 'VPERMD' ? '36' : '16'} /r`]: `${name} ymm, ymmV, ymm/m256` },
      'avx2',
      (m) => {
        const low = loadHalf(m, 2, 0);
        const high = loadHalf(m, 2, 1);
        const pick = (control: Expr): Expr => {
          const upper = v128.i32x4ShrS(v128.i32x4Shl(control, i32.const(29)), i32.const(31));
          return v128.bitselect(permuteDwords(high, control), permuteDwords(low, control), upper);
        };
        const first = bind(m, pick(loadHalf(m, 1, 0)));
        storeYmm(m, first, bind(m, pick(loadHalf(m, 1, 1))));
      },
    ),
  ),
  ...(['VPERMQ', 'VPERMPD'] as const).map((name) =>
    row(
      name,
      'Permute Quadwords',
      { [`VEX.256.66.0F3A.W1 ${name === 'VPERMQ' ? '00' : '01'} /r ib`]: `${name} ymm, ymm/m256, imm8` },
      'avx2',
      (m) => {
        const low = loadHalf(m, 1, 0);
        const high = loadHalf(m, 1, 1);
        const imm = imm8(m, 2);
        const qword = (k: number): Expr => {
          const bit = (b: number): Expr => i32.and(imm, i32.const(1 << (2 * k + b)));
          const from = (v: Expr): Expr => select(bit(0), v128.i64x2Extract(v, 1), v128.i64x2Extract(v, 0));
          return select(bit(1), from(high), from(low));
        };
        const pair = (k: number): Expr => bind(m, v128.i64x2Replace(v128.i64x2Splat(qword(k)), 1, qword(k + 1)));
        const first = pair(0);
        storeYmm(m, first, pair(2));
      },
    ),
  ),
  ...(['VPERM2F128', 'VPERM2I128'] as const).map((name) =>
    row(
      name,
      'Permute 128-Bit Halves',
      { [`VEX.256.66.0F3A.W0 ${name === 'VPERM2F128' ? '06' : '46'} /r ib`]: `${name} ymm, ymmV, ymm/m256, imm8` },
      name === 'VPERM2F128' ? 'avx' : 'avx2',
      (m) => {
        const sources = [loadHalf(m, 1, 0), loadHalf(m, 1, 1), loadHalf(m, 2, 0), loadHalf(m, 2, 1)] as const;
        const imm = imm8(m, 3);
        const pick = (shift: number): Expr => {
          const bit = (b: number): Expr => i32.and(imm, i32.const(1 << (shift + b)));
          const chosen = select(bit(1), select(bit(0), sources[3], sources[2]), select(bit(0), sources[1], sources[0]));
          return bind(m, select(bit(3), ZERO_VECTOR, chosen));
        };
        const first = pick(0);
        storeYmm(m, first, pick(4));
      },
    ),
  ),
];

// ---- halves and broadcasts --------------------------------------------------------------------------------------

const insertHalf = (name: string, opcode: string, feature: string): Instruction =>
  row(
    name,
    'Insert Packed Values',
    { [`VEX.256.66.0F3A.W0 ${opcode} /r ib`]: `${name} ymm, ymmV, xmm/m128, imm8` },
    feature,
    (m) => {
      const value = loadHalf(m, 2, 0);
      const low = loadHalf(m, 1, 0);
      const high = loadHalf(m, 1, 1);
      const upper = bind(m, i32.and(imm8(m, 3), i32.const(1)));
      const first = bind(m, select(upper, low, value));
      storeYmm(m, first, select(upper, value, high));
    },
  );
const extractHalf = (name: string, opcode: string, feature: string): Instruction =>
  row(
    name,
    'Extract Packed Values',
    { [`VEX.256.66.0F3A.W0 ${opcode} /r ib`]: `${name} xmm/m128, ymm, imm8` },
    feature,
    (m) => {
      const value = bind(m, select(i32.and(imm8(m, 2), i32.const(1)), loadHalf(m, 1, 1), loadHalf(m, 1, 0)));
      if (m.isMemory(0)) m.storeMemoryV(m.address(), value);
      else storeYmm(m, value);
    },
  );

const broadcast = (
  name: string,
  opcode: string,
  source: string,
  bytes: 1 | 2 | 4 | 8,
  feature: string,
  lengths: readonly boolean[],
): Instruction[] =>
  lengths.map((wide) =>
    row(
      name,
      'Load with Broadcast',
      { [`VEX.${wide ? 256 : 128}.66.0F38.W0 ${opcode} /r`]: `${name} ${wide ? 'ymm' : 'xmm'}, ${source}` },
      feature,
      (m) => {
        const value = loadLow(m, 1, bytes);
        const narrow = i32.wrap(value);
        const all = bind(
          m,
          bytes === 1
            ? v128.i8x16Splat(narrow)
            : bytes === 2
              ? v128.i16x8Splat(narrow)
              : bytes === 4
                ? v128.i32x4Splat(narrow)
                : v128.i64x2Splat(value),
        );
        storeYmm(m, all, wide ? all : ZERO_VECTOR);
      },
    ),
  );

const EITHER = [false, true];
const HALVES: readonly Instruction[] = [
  insertHalf('VINSERTF128', '18', 'avx'),
  insertHalf('VINSERTI128', '38', 'avx2'),
  extractHalf('VEXTRACTF128', '19', 'avx'),
  extractHalf('VEXTRACTI128', '39', 'avx2'),
  ...broadcast('VBROADCASTSS', '18', 'xmm/m32', 4, 'avx', EITHER),
  ...broadcast('VBROADCASTSD', '19', 'xmm/m64', 8, 'avx', [true]),
  ...broadcast('VPBROADCASTB', '78', 'xmm/m8', 1, 'avx2', EITHER),
  ...broadcast('VPBROADCASTW', '79', 'xmm/m16', 2, 'avx2', EITHER),
  ...broadcast('VPBROADCASTD', '58', 'xmm/m32', 4, 'avx2', EITHER),
  ...broadcast('VPBROADCASTQ', '59', 'xmm/m64', 8, 'avx2', EITHER),
  ...(['VBROADCASTF128', 'VBROADCASTI128'] as const).map((name) =>
    row(
      name,
      'Load with Broadcast',
      { [`VEX.256.66.0F38.W0 ${name === 'VBROADCASTF128' ? '1A' : '5A'} /r:m`]: `${name} ymm, m128` },
      name === 'VBROADCASTF128' ? 'avx' : 'avx2',
      (m) => {
        const value = loadHalf(m, 1, 0);
        storeYmm(m, value, value);
      },
    ),
  ),
  row('VZEROUPPER', 'Zero Upper Bits of YMM Registers', { 'VEX.128.0F.WIG 77': 'VZEROUPPER' }, 'avx', (m) =>
    zeroRegisters(m, false),
  ),
  row('VZEROALL', 'Zero All YMM Registers', { 'VEX.256.0F.WIG 77': 'VZEROALL' }, 'avx', (m) => zeroRegisters(m, true)),
];

/** Outside 64-bit mode only the first eight. */
function zeroRegisters(m: Semantics, all: boolean): void {
  for (let i = 0; i < (m.long ? 16 : 8); i++) {
    if (all) m.f.do(v128.store(i32.const(0), ZERO_VECTOR, S.XMM + 16 * i));
    m.f.do(v128.store(i32.const(0), ZERO_VECTOR, S.YMMH + 16 * i));
  }
}

// ---- variable shifts, blends, tests -----------------------------------------------------------------------------

const variableShift = (
  name: string,
  opcode: string,
  bytes: 4 | 8,
  shift: 'left' | 'right' | 'arithmetic',
): Instruction[] =>
  both(
    name,
    'Variable Bit Shift',
    `0F38.${bytes === 8 ? 'W1' : 'W0'} ${opcode} /r`,
    'xmm, xmmV, xmm/m128',
    'avx2',
    (m, wide) => {
      const element = (value: Expr, count: Expr): Expr => {
        if (bytes === 8) {
          const moved = shift === 'left' ? i64.shl(value, count) : i64.shrU(value, count);
          return select(i64.gtU(count, i64.const(63)), i64.const(0), moved);
        }
        const beyond = i32.gtU(count, i32.const(31));
        if (shift === 'arithmetic') return i32.shrS(value, select(beyond, i32.const(31), count));
        const moved = shift === 'left' ? i32.shl(value, count) : i32.shrU(value, count);
        return select(beyond, i32.const(0), moved);
      };
      halves(m, wide, [1, 2], (_half, a, counts) => {
        let result = ZERO_VECTOR;
        for (let i = 0; i < 16 / bytes; i++) {
          result =
            bytes === 8
              ? v128.i64x2Replace(result, i, element(v128.i64x2Extract(a!, i), v128.i64x2Extract(counts!, i)))
              : v128.i32x4Replace(result, i, element(v128.i32x4Extract(a!, i), v128.i32x4Extract(counts!, i)));
        }
        return result;
      });
    },
  );

/** ZF if (a AND b) has no bit of `mask`, CF if (NOT a AND b) has none; over both halves. */
const testRow = (name: string, opcode: string, mask: Expr | undefined, lengths: readonly boolean[]): Instruction[] =>
  lengths.map((wide) => {
    const v = wide ? 'ymm' : 'xmm';
    return row(
      name,
      'Packed Bit Test',
      {
        [`VEX.${wide ? 256 : 128}.66.0F38.${mask ? 'W0' : 'WIG'} ${opcode} /r`]: `${name} ${v}, ${v}/m${wide ? 256 : 128}`,
      },
      'avx',
      (m) => {
        const parts = (wide ? ([0, 1] as const) : ([0] as const)).map((half) => {
          const b = loadHalf(m, 1, half);
          const a = loadHalf(m, 0, half);
          const masked = (e: Expr): Expr => (mask ? v128.and(e, mask) : e);
          return { zero: masked(v128.and(a, b)), carry: masked(v128.andnot(b, a)) };
        });
        const none = (which: 'zero' | 'carry'): Expr =>
          i32.eqz(v128.anyTrue(parts.map((p) => p[which]).reduce((x, y) => v128.or(x, y))));
        const zf = i32.mul(none('zero'), i32.const(RFLAGS.ZF));
        m.flagsExplicit(i64.extendI32U(i32.or(zf, i32.mul(none('carry'), i32.const(RFLAGS.CF)))));
      },
    );
  });

const SIGN32 = vector(lanes32(() => 0x8000_0000));
const SIGN64 = vector(lanes8((i) => ((i & 7) === 7 ? 0x80 : 0)));

/** Masks of 256 bits in a general register. */
const moveMask = (
  name: string,
  prefix: string,
  opcode: string,
  bits: number,
  mask: (v: Expr) => Expr,
  feature: string,
): Instruction =>
  row(name, 'Extract Sign Mask', { [`VEX.256${prefix}.0F.WIG ${opcode} /r:r`]: `${name} rd, ymm` }, feature, (m) => {
    const high = i32.shl(mask(loadHalf(m, 1, 1)), i32.const(bits));
    m.store(0, i64.extendI32U(i32.or(mask(loadHalf(m, 1, 0)), high)));
  });

/** Loads and stores of the elements whose mask element has its sign bit set; others are not touched and cannot fault. */
const maskedMove = (name: string, load: string, store: string, bytes: 4 | 8, feature: string): Instruction[] =>
  EITHER.flatMap((wide) => {
    const v = wide ? 'ymm' : 'xmm';
    const size = wide ? 256 : 128;
    const w = name.endsWith('Q') ? 'W1' : 'W0';
    const perHalf = 16 / bytes;
    const element = (
      m: Semantics,
      mask: readonly Expr[],
      i: number,
      write: boolean,
      then: (linear: ReturnType<Semantics['let']>) => void,
    ): void => {
      const bitmask = bytes === 4 ? v128.i32x4Bitmask : v128.i64x2Bitmask;
      const bit = i32.and(bitmask(mask[Math.floor(i / perHalf)]!), i32.const(1 << (i % perHalf)));
      m.f.if(bit, () => then(m.elementAddress(i64.const(i * bytes), bytes, write, true)));
    };
    const maskOf = (m: Semantics): Expr[] => [loadHalf(m, 1, 0), loadHalf(m, 1, 1)];
    return [
      row(
        name,
        'Conditional Packed Loads and Stores',
        { [`VEX.${size}.66.0F38.${w} ${load} /r:m`]: `${name} ${v}, ${v}V, m${size}` },
        feature,
        (m) => {
          const mask = maskOf(m);
          const result = [m.f.local(V128), m.f.local(V128)];
          for (const half of result) m.f.set(half, ZERO_VECTOR);
          for (let i = 0; i < (wide ? 2 : 1) * perHalf; i++) {
            element(m, mask, i, false, (linear) => {
              const part = result[Math.floor(i / perHalf)]!;
              const value = m.loadElement(linear, bytes);
              m.f.set(part, withLane(bytes === 4 ? SINGLE : DOUBLE, part.get, i % perHalf, value));
            });
          }
          storeYmm(m, result[0]!.get, result[1]!.get);
        },
      ),
      row(
        name,
        'Conditional Packed Loads and Stores',
        { [`VEX.${size}.66.0F38.${w} ${store} /r:m`]: `${name} m${size}, ${v}V, ${v}` },
        feature,
        (m) => {
          const mask = maskOf(m);
          const data = [loadHalf(m, 2, 0), loadHalf(m, 2, 1)];
          const count = (wide ? 2 : 1) * perHalf;
          // MEASURED on AMD family 25: if an element cannot be written, none is
          for (let i = 0; i < count; i++) element(m, mask, i, true, (linear) => m.probeElement(linear, bytes));
          for (let i = 0; i < count; i++) {
            element(m, mask, i, true, (linear) => {
              const value = lane(bytes === 4 ? SINGLE : DOUBLE, data[Math.floor(i / perHalf)]!, i % perHalf);
              m.storeElement(linear, value, bytes);
            });
          }
        },
      ),
    ];
  });

const REST: readonly Instruction[] = [
  row(
    'VDPPS',
    'Dot Product of Packed Single Precision Values',
    { 'VEX.256.66.0F3A.WIG 40 /r ib': 'VDPPS ymm, ymmV, ymm/m256, imm8' },
    'avx',
    (m) => {
      const [a, b, c, d] = [loadHalf(m, 1, 0), loadHalf(m, 2, 0), loadHalf(m, 1, 1), loadHalf(m, 2, 1)];
      const low = bind(m, call(m.lib.byName('f32x4.wideDot'), a, b, c, d, imm8(m, 3)));
      commit(m);
      storeYmm(m, low, v128.load(i32.const(0), S.WIDE));
    },
  ),
  ...blendVariable('VPBLENDVB', '4C', signs8),
  ...blendVariable('VBLENDVPS', '4A', signs32),
  ...blendVariable('VBLENDVPD', '4B', signs64),
  ...both('VPBLENDD', 'Blend Packed Dwords', '0F3A.W0 02 /r ib', 'xmm, xmmV, xmm/m128, imm8', 'avx2', (m, wide) => {
    const imm = imm8(m, 3);
    halves(m, wide, [1, 2], (half, a, b) => v128.bitselect(b!, a!, maskDwords(i32.shrU(imm, i32.const(4 * half)))));
  }),
  ...variableShift('VPSLLVD', '47', 4, 'left'),
  ...variableShift('VPSLLVQ', '47', 8, 'left'),
  ...variableShift('VPSRLVD', '45', 4, 'right'),
  ...variableShift('VPSRLVQ', '45', 8, 'right'),
  ...variableShift('VPSRAVD', '46', 4, 'arithmetic'),
  ...testRow('VPTEST', '17', undefined, [true]),
  ...testRow('VTESTPS', '0E', SIGN32, EITHER),
  ...testRow('VTESTPD', '0F', SIGN64, EITHER),
  moveMask('VMOVMSKPS', '', '50', 4, v128.i32x4Bitmask, 'avx'),
  moveMask('VMOVMSKPD', '.66', '50', 2, v128.i64x2Bitmask, 'avx'),
  moveMask('VPMOVMSKB', '.66', 'D7', 16, v128.i8x16Bitmask, 'avx2'),
  ...maskedMove('VMASKMOVPS', '2C', '2E', 4, 'avx'),
  ...maskedMove('VMASKMOVPD', '2D', '2F', 8, 'avx'),
  ...maskedMove('VPMASKMOVD', '8C', '8E', 4, 'avx2'),
  ...maskedMove('VPMASKMOVQ', '8C', '8E', 8, 'avx2'),
];

// ---- conversions between 128 and 256 bits -----------------------------------------------------------------------

const convert = (name: string, opcode: string, operands: string, execute: (m: Semantics) => void): Instruction =>
  row(name, 'Convert', { [`VEX.256${opcode}`]: `${name} ${operands}` }, 'avx', execute);
const rcOf = (truncate: boolean): Expr =>
  truncate ? i32.const(RC.ZERO) : i32.and(i32.shrU(i32.load(i32.const(0), S.MXCSR), i32.const(13)), i32.const(3));

/** Four doubles to four elements of 32 bits. */
function narrowing(m: Semantics, function_: string, ...rest: Expr[]): void {
  const sources = [loadHalf(m, 1, 0), loadHalf(m, 1, 1)];
  let result = ZERO_VECTOR;
  for (let i = 0; i < 4; i++) {
    result = withLane(SINGLE, result, i, call(m.lib.byName(function_), lane(DOUBLE, sources[i >> 1]!, i & 1), ...rest));
  }
  const value = bind(m, result);
  commit(m);
  storeYmm(m, value);
}

const CONVERSIONS: readonly Instruction[] = [
  convert('VCVTPS2PD', '.0F.WIG 5A /r', 'ymm, xmm/m128', (m) => {
    const source = loadHalf(m, 1, 0);
    const half = (k: number): Expr => {
      let result = ZERO_VECTOR;
      for (let i = 0; i < 2; i++) {
        result = withLane(DOUBLE, result, i, call(m.lib.byName('f32.to.f64'), lane(SINGLE, source, 2 * k + i)));
      }
      return bind(m, result);
    };
    const low = half(0);
    const high = half(1);
    commit(m);
    storeYmm(m, low, high);
  }),
  convert('VCVTDQ2PD', '.F3.0F.WIG E6 /r', 'ymm, xmm/m128', (m) => {
    const source = loadHalf(m, 1, 0);
    const high = v128.f64x2ConvertLowI32x4S(shuffle(source, source, (i) => i | 8));
    storeYmm(m, v128.f64x2ConvertLowI32x4S(source), high);
  }),
  convert('VCVTPD2PS', '.66.0F.WIG 5A /r', 'xmm, ymm/m256', (m) => narrowing(m, 'f64.to.f32')),
  convert('VCVTPD2DQ', '.F2.0F.WIG E6 /r', 'xmm, ymm/m256', (m) => narrowing(m, 'f64.toI32', rcOf(false))),
  convert('VCVTTPD2DQ', '.66.0F.WIG E6 /r', 'xmm, ymm/m256', (m) => narrowing(m, 'f64.toI32', rcOf(true))),
  row(
    'VMOVDDUP',
    'Replicate Double Precision Values',
    { 'VEX.256.F2.0F.WIG 12 /r': 'VMOVDDUP ymm, ymm/m256' },
    'avx',
    (m) => halves(m, true, [1], (_half, a) => v128.i64x2Splat(lowHalf(a!))),
  ),
];

/** VPMOVSXxx, VPMOVZXxx to 256 bits: each half widens its part of the source. */
const EXTENSIONS: readonly Instruction[] = (['S', 'Z'] as const).flatMap((kind) => {
  const base = kind === 'S' ? 0x20 : 0x30;
  const bw = kind === 'S' ? v128.i16x8ExtendLowI8x16S : v128.i16x8ExtendLowI8x16U;
  const wd = kind === 'S' ? v128.i32x4ExtendLowI16x8S : v128.i32x4ExtendLowI16x8U;
  const dq = kind === 'S' ? v128.i64x2ExtendLowI32x4S : v128.i64x2ExtendLowI32x4U;
  const steps = [
    ['BW', 0, 16, bw],
    ['BD', 1, 8, (v: Expr) => wd(bw(v))],
    ['BQ', 2, 4, (v: Expr) => dq(wd(bw(v)))],
    ['WD', 3, 16, wd],
    ['WQ', 4, 8, (v: Expr) => dq(wd(v))],
    ['DQ', 5, 16, dq],
  ] as const;
  return steps.map(([suffix, offset, bytes, widen]) => {
    const name = `VPMOV${kind}X${suffix}`;
    const opcode = (base + offset).toString(16).toUpperCase();
    return row(
      name,
      'Packed Move With Extend',
      { [`VEX.256.66.0F38.WIG ${opcode} /r`]: `${name} ymm, xmm/m${8 * bytes}` },
      'avx2',
      (m) => {
        const source = bytes === 16 ? loadHalf(m, 1, 0) : bind(m, lowVector(loadLow(m, 1, bytes)));
        const high = shuffle(source, source, (i) => (i + bytes / 2) & 15);
        storeYmm(m, bind(m, widen(source)), widen(high));
      },
    );
  });
});

export const AVX: readonly Instruction[] = [...DERIVED, ...PERMUTE, ...HALVES, ...REST, ...CONVERSIONS, ...EXTENSIONS];
