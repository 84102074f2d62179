import { i32 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { FSW } from '../float/f80-format.ts';
import type { Instruction } from './instruction.ts';
import { AVX } from './sse-avx.ts';
import { SSE_COMPARE } from './sse-compare.ts';
import { SSE_CONVERT } from './sse-convert.ts';
import { CRYPTO } from './sse-crypto.ts';
import { SSE_ARITHMETIC, SSE3_ARITHMETIC, SSE41_ARITHMETIC } from './sse-float.ts';
import { MMX_INTEGER, SSE2_INTEGER, SSE41_INTEGER, SSE42_INTEGER, SSSE3_INTEGER } from './sse-integer.ts';
import { CACHE_CONTROL, MMX_MOVE, SSE_MOVE } from './sse-move.ts';
import { SSE_SHUFFLE, SSE41_SHUFFLE, SSE42_TEXT } from './sse-shuffle.ts';

/**
 * What uses MMX registers waits, as x87 instructions do: an unmasked exception that is pending there is #MF first. Not so
 * CVTPI2Px from memory (MEASURED on AMD family 25). SDM 2, the instructions' pages: "#MF If there is a pending x87 FPU
 * exception."
 */
const waits = (row: Instruction): Instruction =>
  row.needs === 'mmx'
    ? {
        ...row,
        execute(m) {
          const pending = i32.and(i32.load16U(i32.const(0), S.FSW), i32.const(FSW.ES));
          if (m.operands.length === 0 || m.operands.some(({ kind }) => kind === 'mm')) m.raiseIf(pending, 16);
          row.execute(m);
        },
      }
    : row;

/** The vector instructions by where they are defined; which extension a row belongs to, its `feature` says. */
export const MMX: readonly Instruction[] = [...MMX_INTEGER, ...MMX_MOVE];
export const SSE: readonly Instruction[] = [
  ...SSE_MOVE,
  ...SSE_ARITHMETIC,
  ...SSE_COMPARE,
  ...SSE_CONVERT,
  ...SSE_SHUFFLE,
  ...SSE2_INTEGER,
  ...SSE3_ARITHMETIC,
];
export const SSSE3: readonly Instruction[] = SSSE3_INTEGER;
export const SSE4: readonly Instruction[] = [
  ...SSE41_ARITHMETIC,
  ...SSE41_INTEGER,
  ...SSE41_SHUFFLE,
  ...SSE42_INTEGER,
  ...SSE42_TEXT,
];

/** All of them, with AES, carry-less multiplication, SHA, prefetches, cache line flushes and fences. */
export const VECTOR: readonly Instruction[] = [
  ...[...MMX, ...SSE, ...SSSE3].map(waits),
  ...SSE4,
  ...CRYPTO,
  ...CACHE_CONTROL,
  ...AVX,
];
