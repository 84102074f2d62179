import { type Expr, I64, i32, i64, v128 } from '../../wasm/expr.ts';
import { AUX, REC, S } from '../core/layout.ts';
import { MXCSR_VALID } from '../float/format.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import {
  bind,
  enterMmx,
  lanes8,
  loadLow,
  loadMm,
  lowHalf,
  lowVector,
  storeLow,
  storeMm,
  vector,
} from './sse-operands.ts';

/** Moves between vector registers, general registers and memory; MXCSR; hints and fences. */

const row = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  feature: string,
  execute: (m: Semantics) => void,
  needs: 'sse' | 'mmx' | null = 'sse',
): Instruction =>
  instruction({ name, source: `SDM 2 "${name}—${title}"`, forms, feature, ...(needs ? { needs } : {}), execute });

const shuffle = (a: Expr, b: Expr, byte: (i: number) => number): Expr => v128.shuffle(a, b, lanes8(byte));

// ---- whole registers --------------------------------------------------------------------------------------------

const whole = (name: string, prefix: string, load: string, store: string, aligned: boolean): Instruction =>
  row(
    name,
    aligned ? 'Move Aligned Packed Values' : 'Move Unaligned Packed Values',
    { [`${prefix} 0F ${load} /r`]: `${name} xmm, xmm/m128`, [`${prefix} 0F ${store} /r`]: `${name} xmm/m128, xmm` },
    prefix === 'NP' ? 'sse' : 'sse2',
    (m) => m.storeV(0, m.loadV(1, aligned), aligned),
  );

/** Non-temporal stores: stores. */
const streaming = (name: string, opcode: string, feature: string): Instruction =>
  row(name, 'Store Using Non-Temporal Hint', { [opcode]: `${name} m128, xmm` }, feature, (m) =>
    m.storeV(0, m.loadV(1)),
  );

// ---- scalars ----------------------------------------------------------------------------------------------------

/** MOVSS, MOVSD: from memory the rest is cleared, between registers it stays. */
const scalar = (name: 'MOVSS' | 'MOVSD', prefix: string, bytes: 4 | 8): Instruction =>
  row(
    name,
    'Move or Merge Scalar Floating-Point Value',
    {
      [`${prefix} 0F 10 /r`]: `${name} xmm, xmm/m${8 * bytes}`,
      [`${prefix} 0F 11 /r`]: `${name} xmm/m${8 * bytes}, xmm`,
    },
    bytes === 4 ? 'sse' : 'sse2',
    (m) => {
      const value = loadLow(m, 1, bytes);
      if (m.isMemory(1)) m.storeV(0, lowVector(value));
      else storeLow(m, 0, value, bytes);
    },
  );

/** MOVLPx, MOVHPx: 8 bytes between memory and one half. */
const half = (name: string, prefix: string, opcode: number, which: 0 | 1): Instruction => {
  const hex = (n: number): string => n.toString(16).toUpperCase();
  return row(
    name,
    `Move ${which ? 'High' : 'Low'} Packed Floating-Point Values`,
    {
      [`${prefix} 0F ${hex(opcode)} /r:m`]: `${name} xmm, m64`,
      [`${prefix} 0F ${hex(opcode + 1)} /r:m`]: `${name} m64, xmm`,
    },
    prefix === 'NP' ? 'sse' : 'sse2',
    (m) => {
      if (m.isMemory(1)) {
        const value = m.loadMemory(m.address(), 8);
        m.storeV(0, v128.i64x2Replace(m.loadV(0), which, value));
      } else {
        m.storeMemory(m.address(), bind(m, v128.i64x2Extract(m.loadV(1), which)), 8);
      }
    },
  );
};

const MOVES: readonly Instruction[] = [
  whole('MOVUPS', 'NP', '10', '11', false),
  whole('MOVUPD', '66', '10', '11', false),
  whole('MOVAPS', 'NP', '28', '29', true),
  whole('MOVAPD', '66', '28', '29', true),
  whole('MOVDQA', '66', '6F', '7F', true),
  whole('MOVDQU', 'F3', '6F', '7F', false),
  streaming('MOVNTPS', 'NP 0F 2B /r:m', 'sse'),
  streaming('MOVNTPD', '66 0F 2B /r:m', 'sse2'),
  streaming('MOVNTDQ', '66 0F E7 /r:m', 'sse2'),
  row(
    'MOVNTI',
    'Store Doubleword Using Non-Temporal Hint',
    { 'NP W0 0F C3 /r:m': 'MOVNTI m32, rd', 'NP REX.W 0F C3 /r:m': 'MOVNTI m64, rq' },
    'sse2',
    (m) => m.store(0, m.load(1)),
    null,
  ),
  row(
    'MOVNTDQA',
    'Load Double Quadword Non-Temporal Aligned Hint',
    { '66 0F 38 2A /r:m': 'MOVNTDQA xmm, m128' },
    'sse4_1',
    (m) => m.storeV(0, m.loadV(1)),
  ),
  row('LDDQU', 'Load Unaligned Integer 128 Bits', { 'F2 0F F0 /r:m': 'LDDQU xmm, m128' }, 'pni', (m) =>
    m.storeV(0, m.loadV(1, false)),
  ),
  scalar('MOVSS', 'F3', 4),
  scalar('MOVSD', 'F2', 8),
  half('MOVLPS', 'NP', 0x12, 0),
  half('MOVLPD', '66', 0x12, 0),
  half('MOVHPS', 'NP', 0x16, 1),
  half('MOVHPD', '66', 0x16, 1),
  row(
    'MOVHLPS',
    'Move Packed Single Precision Values High to Low',
    { 'NP 0F 12 /r:r': 'MOVHLPS xmm, xmm' },
    'sse',
    (m) => m.storeV(0, v128.i64x2Replace(m.loadV(0), 0, v128.i64x2Extract(m.loadV(1), 1))),
  ),
  row(
    'MOVLHPS',
    'Move Packed Single Precision Values Low to High',
    { 'NP 0F 16 /r:r': 'MOVLHPS xmm, xmm' },
    'sse',
    (m) => m.storeV(0, v128.i64x2Replace(m.loadV(0), 1, lowHalf(m.loadV(1)))),
  ),
  row('MOVDDUP', 'Replicate Double Precision Values', { 'F2 0F 12 /r': 'MOVDDUP xmm, xmm/m64' }, 'pni', (m) =>
    m.storeV(0, v128.i64x2Splat(loadLow(m, 1, 8))),
  ),
  row(
    'MOVSLDUP',
    'Replicate Single Precision Values (even)',
    { 'F3 0F 12 /r': 'MOVSLDUP xmm, xmm/m128' },
    'pni',
    (m) => {
      const a = m.loadV(1);
      m.storeV(
        0,
        shuffle(a, a, (i) => i & ~4),
      );
    },
  ),
  row(
    'MOVSHDUP',
    'Replicate Single Precision Values (odd)',
    { 'F3 0F 16 /r': 'MOVSHDUP xmm, xmm/m128' },
    'pni',
    (m) => {
      const a = m.loadV(1);
      m.storeV(
        0,
        shuffle(a, a, (i) => i | 4),
      );
    },
  ),
  row(
    'MOVD/MOVQ',
    'Move Doubleword/Move Quadword',
    { '66 W0 0F 6E /r': 'MOVD xmm, r/m32', '66 REX.W 0F 6E /r': 'MOVQ xmm, r/m64' },
    'sse2',
    (m) => m.storeV(0, lowVector(bind(m, m.loadU(1)))),
  ),
  row(
    'MOVD/MOVQ',
    'Move Doubleword/Move Quadword',
    { '66 W0 0F 7E /r': 'MOVD r/m32, xmm', '66 REX.W 0F 7E /r': 'MOVQ r/m64, xmm' },
    'sse2',
    (m) => m.store(0, bind(m, lowHalf(m.loadV(1)))),
  ),
  row('MOVQ', 'Move Quadword', { 'F3 0F 7E /r': 'MOVQ xmm, xmm/m64' }, 'sse2', (m) =>
    m.storeV(0, lowVector(loadLow(m, 1, 8))),
  ),
  row('MOVQ', 'Move Quadword', { '66 0F D6 /r': 'MOVQ xmm/m64, xmm' }, 'sse2', (m) => {
    const value = loadLow(m, 1, 8);
    if (m.isMemory(0)) m.storeMemory(m.address(), value, 8);
    else m.storeV(0, lowVector(value));
  }),
  row('MOVMSKPS', 'Extract Packed Single Precision Sign Mask', { 'NP 0F 50 /r:r': 'MOVMSKPS rd, xmm' }, 'sse', (m) =>
    m.store(0, i64.extendI32U(v128.i32x4Bitmask(m.loadV(1)))),
  ),
  row('MOVMSKPD', 'Extract Packed Double Precision Sign Mask', { '66 0F 50 /r:r': 'MOVMSKPD rd, xmm' }, 'sse2', (m) =>
    m.store(0, i64.extendI32U(v128.i64x2Bitmask(m.loadV(1)))),
  ),
  row('PMOVMSKB', 'Move Byte Mask', { '66 0F D7 /r:r': 'PMOVMSKB rd, xmm' }, 'sse2', (m) =>
    m.store(0, i64.extendI32U(v128.i8x16Bitmask(m.loadV(1)))),
  ),
];

// ---- MMX --------------------------------------------------------------------------------------------------------

const mmx = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  execute: (m: Semantics) => void,
  feature = 'mmx',
): Instruction => row(name, title, forms, feature, execute, 'mmx');

/** Loads into MM, or stores from it to a general register or memory. */
const mmxMove = (name: string, forms: Readonly<Record<string, string>>, toMm: boolean, feature = 'mmx'): Instruction =>
  mmx(
    name,
    'Move Doubleword/Move Quadword',
    forms,
    (m) => {
      const value = bind(m, m.loadU(1));
      if (toMm) {
        enterMmx(m);
        storeMm(m, 0, value);
      } else {
        m.store(0, value);
        enterMmx(m);
      }
    },
    feature,
  );

const MMX_MOVES: readonly Instruction[] = [
  mmxMove('MOVD/MOVQ', { 'NP W0 0F 6E /r': 'MOVD mm, r/m32', 'NP REX.W 0F 6E /r': 'MOVQ mm, r/m64' }, true),
  mmx(
    'MOVD/MOVQ',
    'Move Doubleword/Move Quadword',
    { 'NP W0 0F 7E /r': 'MOVD r/m32, mm', 'NP REX.W 0F 7E /r': 'MOVQ r/m64, mm' },
    (m) => {
      m.store(0, loadLow(m, 1, 8));
      enterMmx(m);
    },
  ),
  mmxMove('MOVQ', { 'NP 0F 6F /r': 'MOVQ mm, mm/m64' }, true),
  mmx('MOVQ', 'Move Quadword', { 'NP 0F 7F /r': 'MOVQ mm/m64, mm' }, (m) => {
    const value = loadLow(m, 1, 8);
    if (m.isMemory(0)) m.storeMemory(m.address(), value, 8);
    else storeMm(m, 0, value);
    enterMmx(m);
  }),
  mmxMove('MOVNTQ', { 'NP 0F E7 /r:m': 'MOVNTQ m64, mm' }, false, 'sse'),
  mmx(
    'PMOVMSKB',
    'Move Byte Mask',
    { 'NP 0F D7 /r:r': 'PMOVMSKB rd, mm' },
    (m) => {
      const mask = bind(m, i32.and(v128.i8x16Bitmask(loadMm(m, 1)), i32.const(0xff)));
      enterMmx(m);
      m.store(0, i64.extendI32U(mask));
    },
    'sse',
  ),
  mmx(
    'MOVQ2DQ',
    'Move Quadword from MMX Technology to XMM Register',
    { 'F3 0F D6 /r:r': 'MOVQ2DQ xmm, mm' },
    (m) => {
      m.storeV(0, lowVector(loadLow(m, 1, 8)));
      enterMmx(m);
    },
    'sse2',
  ),
  mmx(
    'MOVDQ2Q',
    'Move Quadword from XMM to MMX Technology Register',
    { 'F2 0F D6 /r:r': 'MOVDQ2Q mm, xmm' },
    (m) => {
      const value = loadLow(m, 1, 8);
      enterMmx(m);
      storeMm(m, 0, value);
    },
    'sse2',
  ),
  mmx('EMMS', 'Empty MMX Technology State', { 'NP 0F 77': 'EMMS' }, (m) => {
    m.f.do(i64.store(i32.const(0), i64.halves(0x0101_0101, 0x0101_0101), S.FEMPTY));
    m.f.do(i32.store(i32.const(0), i32.const(0), S.FTOP));
  }),
];

/**
 * MASKMOVQ, MASKMOVDQU: the bytes whose mask byte has bit 7 set go to (DS:rDI). Byte by byte: where a fault comes
 * between, what was stored is stored again after it. SDM 2A 4 "MASKMOVDQU": implementations may store in any order.
 */
function maskedStore(m: Semantics, bytes: 8 | 16, value: Expr, mask: Expr): void {
  const size = bind(m, m.aux(AUX.ADDRESS_SIZE_SHIFT, 2));
  const rdi = m.let(m.reg(7));
  m.f.if(i32.eq(size, i32.const(1)), () => m.f.set(rdi, i64.and(rdi.get, i64.halves(-1, 0))));
  m.f.if(i32.eqz(size), () => m.f.set(rdi, i64.and(rdi.get, i64.const(0xffff))));
  const linear = m.f.local(I64);
  if (m.long) m.f.set(linear, i64.add(i64.load(m.field16(REC.SEG)), rdi.get));
  else m.implicitAddress(linear, rdi.get, true);
  const left = m.let(i32.and(v128.i8x16Bitmask(mask), i32.const(2 ** bytes - 1)));
  // Byte 0 of `rest` is the next one; rotating by a byte per turn keeps the loop free of indices.
  const rest = m.let(value);
  const rotate = vector(lanes8((i) => (i + 1) & 15));
  m.f.block((done) => {
    m.f.loop((top) => {
      m.f.brIf(done, i32.eqz(left.get));
      m.f.if(i32.and(left.get, i32.const(1)), () =>
        m.storeMemory(linear, i64.extendI32U(v128.i8x16ExtractU(rest.get, 0)), 1),
      );
      m.f.set(left, i32.shrU(left.get, i32.const(1)));
      m.f.set(rest, v128.swizzle(rest.get, rotate));
      m.f.set(linear, i64.add(linear.get, i64.const(1)));
      if (!m.long) m.f.set(linear, i64.and(linear.get, i64.halves(-1, 0)));
      m.f.br(top);
    });
  });
}

const MASKED: readonly Instruction[] = [
  row(
    'MASKMOVDQU',
    'Store Selected Bytes of Double Quadword',
    { '66 0F F7 /r:r': 'MASKMOVDQU xmm, xmm' },
    'sse2',
    (m) => maskedStore(m, 16, m.loadV(0), m.loadV(1)),
  ),
  mmx(
    'MASKMOVQ',
    'Store Selected Bytes of Quadword',
    { 'NP 0F F7 /r:r': 'MASKMOVQ mm, mm' },
    (m) => {
      maskedStore(m, 8, loadMm(m, 0), loadMm(m, 1));
      enterMmx(m);
    },
    'sse',
  ),
];

// ---- MXCSR ------------------------------------------------------------------------------------------------------

const CONTROL: readonly Instruction[] = [
  row('LDMXCSR', 'Load MXCSR Register', { 'NP 0F AE /2:m': 'LDMXCSR m32' }, 'sse', (m) => {
    const value = bind(m, i32.wrap(m.load(0)));
    m.raiseIf(i32.and(value, i32.const(~MXCSR_VALID)), 13);
    m.f.do(i32.store(i32.const(0), value, S.MXCSR));
  }),
  row('STMXCSR', 'Store MXCSR Register State', { 'NP 0F AE /3:m': 'STMXCSR m32' }, 'sse', (m) =>
    m.store(0, i64.load32U(i32.const(0), S.MXCSR)),
  ),
];

// ---- hints and fences -------------------------------------------------------------------------------------------

const nothing = (): void => {};
/** Faults as a load of a byte would, and no more: there is no cache to flush. */
const touch = (m: Semantics): void => m.f.drop(m.loadMemory(m.address(), 1));

const HINTS: readonly Instruction[] = [
  row(
    'PREFETCHh',
    'Prefetch Data Into Caches',
    {
      '0F 18 /0:m': 'PREFETCHNTA m8',
      '0F 18 /1:m': 'PREFETCHT0 m8',
      '0F 18 /2:m': 'PREFETCHT1 m8',
      '0F 18 /3:m': 'PREFETCHT2 m8',
    },
    'sse',
    nothing,
    null,
  ),
  row(
    'PREFETCHW',
    'Prefetch Data Into Caches in Anticipation of a Write',
    {
      '0F 0D /0:m': 'PREFETCH m8',
      '0F 0D /1:m': 'PREFETCHW m8',
      '0F 0D /2:m': 'PREFETCHWT1 m8',
    },
    '3dnowprefetch',
    nothing,
    null,
  ),
  row('CLFLUSH', 'Flush Cache Line', { 'NP 0F AE /7:m': 'CLFLUSH m8' }, 'clflush', touch, null),
  row('CLFLUSHOPT', 'Flush Cache Line Optimized', { '66 0F AE /7:m': 'CLFLUSHOPT m8' }, 'clflushopt', touch, null),
  row('CLWB', 'Cache Line Write Back', { '66 0F AE /6:m': 'CLWB m8' }, 'clwb', touch, null),
  row('SFENCE', 'Store Fence', { 'NP 0F AE /7:r': 'SFENCE' }, 'sse', nothing, null),
  row('LFENCE', 'Load Fence', { 'NP 0F AE /5:r': 'LFENCE' }, 'sse2', nothing, null),
  row('MFENCE', 'Memory Fence', { 'NP 0F AE /6:r': 'MFENCE' }, 'sse2', nothing, null),
];

export const SSE_MOVE: readonly Instruction[] = [...MOVES, ...MASKED.slice(0, 1), ...CONTROL];
export const MMX_MOVE: readonly Instruction[] = [...MMX_MOVES, ...MASKED.slice(1)];
export const CACHE_CONTROL: readonly Instruction[] = HINTS;
