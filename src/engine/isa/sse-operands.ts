import { call, type Expr, i32, i64, v128 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { RAISED } from '../float/format.ts';
import type { Semantics } from './semantics.ts';

/** Words that the vector instructions share: parts of XMM registers, MMX registers, constants, immediates. */

/** Bytes of a vector constant, lane by lane. */
export const lanes8 = (byte: (i: number) => number): Uint8Array => Uint8Array.from({ length: 16 }, (_, i) => byte(i));
export const lanes16 = (word: (i: number) => number): Uint8Array => lanes8((i) => word(i >> 1) >>> (8 * (i & 1)));
export const lanes32 = (dword: (i: number) => number): Uint8Array => lanes8((i) => dword(i >> 2) >>> (8 * (i & 3)));
export const vector = (bytes: Uint8Array): Expr => v128.const(bytes);
export const ZERO_VECTOR = vector(new Uint8Array(16));
export const IOTA = vector(lanes8((i) => i));

/** Leaves if what the floating-point operations raised is unmasked. Before the first write. */
export function commit(m: Semantics): void {
  if (deferring) {
    owed = true;
    return;
  }
  m.f.if(i32.load(i32.const(0), RAISED), () => {
    const status = m.let(call(m.lib.byName('float.commit')));
    m.f.if(status.get, () => m.leave(status.get));
    m.f.release(status);
  });
}

/** While a VEX form is generated from a legacy row: see sse-vex.ts. */
let generatingVex = false;
let deferring = false;
let owed = false;

/**
 * Generates `body` for a VEX form. With `defer` the exceptions of all its parts are judged together, by the function
 * returned.
 */
export function deferCommits(m: Semantics, defer: boolean, body: () => void): () => void {
  generatingVex = true;
  deferring = defer;
  owed = false;
  body();
  generatingVex = false;
  deferring = false;
  const due = owed;
  return () => {
    if (due) commit(m);
  };
}

export const isVex = (): boolean => generatingVex;

/** Low `bytes` of an XMM operand, or as many of memory: zero-extended, in a local. */
export function loadLow(m: Semantics, i: number, bytes: number): Expr {
  if (m.isMemory(i)) return m.loadMemory(m.address(), bytes);
  return m.let(m.fixedLoad(m.registerAddress(i), 0, bytes)).get;
}

/** Writes the low `bytes` of an XMM register and leaves the rest as it is, or writes memory. */
export function storeLow(m: Semantics, i: number, value: Expr, bytes: 4 | 8): void {
  if (m.isMemory(i)) m.storeMemory(m.address(), value, bytes);
  else if (generatingVex) {
    // The rest is that of the first source
    const rest = m.loadV(i);
    m.storeV(i, bytes === 4 ? v128.i32x4Replace(rest, 0, i32.wrap(value)) : v128.i64x2Replace(rest, 0, value));
  } else m.f.do((bytes === 4 ? i64.store32 : i64.store)(m.registerAddress(i), value));
}

/** An i64 as a vector whose upper half is zero. */
export const lowVector = (value: Expr): Expr => v128.i64x2Replace(ZERO_VECTOR, 0, value);
export const lowHalf = (v: Expr): Expr => v128.i64x2Extract(v, 0);

// ---- MMX --------------------------------------------------------------------------------------------------------

/**
 * What every MMX instruction but EMMS does to the x87 state: TOP becomes 0 and all tags valid. After all accesses that
 * may fault. SDM 1 9.5.1 "MMX Instructions and the x87 FPU Tag Word".
 */
export function enterMmx(m: Semantics): void {
  m.f.do(i32.store(i32.const(0), i32.const(0), S.FTOP));
  m.f.do(i64.store(i32.const(0), i64.const(0), S.FEMPTY));
}

/** Writes an MMX register; sign and exponent of the x87 register it lies in become ones. SDM 1 9.2.1. */
export function storeMm(m: Semantics, i: number, value: Expr): void {
  m.f.do(i64.store(m.registerAddress(i), value));
  m.f.do(i64.store16(m.registerAddress(i), i64.const(0xffff), 8));
}

/** An MMX operand (or 8 bytes of memory) in both halves of a vector. */
export const loadMm = (m: Semantics, i: number, bytes = 8): Expr => m.let(v128.i64x2Splat(loadLow(m, i, bytes))).get;

// ---- immediates -------------------------------------------------------------------------------------------------

/** The low eight bits of an immediate operand: an i32 in a local. */
export const imm8 = (m: Semantics, i: number): Expr => m.let(i32.and(i32.wrap(m.load(i)), i32.const(0xff))).get;

/**
 * A byte selection for `swizzle` out of two bits of the immediate for each dword: byte 4k+j selects 4·sel(k)+j, as
 * PSHUFD has it. `first`: the two bits of the immediate with which dword 0 starts.
 */
export function selectDwords(imm: Expr): Expr {
  // Spread the four fields over four bytes, times four; each byte goes to its dword; then the byte within.
  const fields = i32.or(
    i32.or(imm, i32.shl(imm, i32.const(6))),
    i32.or(i32.shl(imm, i32.const(12)), i32.shl(imm, i32.const(18))),
  );
  const starts = i32.shl(i32.and(fields, i32.const(0x0303_0303)), i32.const(2));
  const spread = v128.swizzle(v128.i32x4Splat(starts), vector(lanes8((i) => i >> 2)));
  return v128.i8x16Add(spread, vector(lanes8((i) => i & 3)));
}

/** The same for words: word k of four selects word sel(k); the upper eight bytes of the selection repeat the lower. */
export function selectWords(imm: Expr): Expr {
  const fields = i32.or(
    i32.or(imm, i32.shl(imm, i32.const(6))),
    i32.or(i32.shl(imm, i32.const(12)), i32.shl(imm, i32.const(18))),
  );
  const starts = i32.shl(i32.and(fields, i32.const(0x0303_0303)), i32.const(1));
  const spread = v128.swizzle(v128.i32x4Splat(starts), vector(lanes8((i) => (i >> 1) & 3)));
  return v128.i8x16Add(spread, vector(lanes8((i) => i & 1)));
}

/** Lane masks from the low bits of an i32: lane k is ones if bit k is set. */
export const maskDwords = (bits: Expr): Expr => {
  const weights = vector(lanes32((i) => 1 << i));
  return v128.i32x4Eq(v128.and(v128.i32x4Splat(bits), weights), weights);
};
export const maskWords = (bits: Expr): Expr => {
  const weights = vector(lanes16((i) => 1 << i));
  return v128.i16x8Eq(v128.and(v128.i16x8Splat(bits), weights), weights);
};

export const bind = (m: Semantics, value: Expr): Expr => m.let(value).get;
