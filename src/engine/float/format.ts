import { bits } from '../../base/bits.ts';
import { Expr, F64, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';

/** MXCSR. SDM 1 10.2.3 "MXCSR Control and Status Register". */
export const MXCSR = bits({
  IE: 0, //   invalid operation
  DE: 1, //   denormal operand
  ZE: 2, //   divide by zero
  OE: 3, //   overflow
  UE: 4, //   underflow
  PE: 5, //   precision
  DAZ: 6, //  denormals are zeros
  IM: 7, //   the masks, in the order of the flags
  DM: 8,
  ZM: 9,
  OM: 10,
  UM: 11,
  PM: 12,
  FTZ: 15, // flush to zero
});
export const MXCSR_MASK_SHIFT = 7;
export const MXCSR_RC_SHIFT = 13;
/** Rounding control as in MXCSR.RC, FCW.RC and the immediate of ROUNDxx. SDM 1 4.8.4 "Rounding". */
export const RC = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;
/** Bits that may be set; LDMXCSR, FXRSTOR and XRSTOR of others are #GP(0). As FXSAVE reports in MXCSR_MASK. */
export const MXCSR_VALID = 0xffff;
/** SDM 1 10.2.3: after reset and as the System V ABI wants it. */
export const MXCSR_INITIAL = 0x1f80;

/** Exceptions raised by the operations since the last `float.commit`: bits as in MXCSR. u32, in the state's scratch. */
export const RAISED = S.FLOAT_SCRATCH + 0xb8;

/**
 * A binary interchange format. Values travel as i64 in both: a single has its bits in the low half, zero above.
 * SDM 1 4.2.2 "Floating-Point Data Types".
 */
export interface Binary {
  readonly name: 'f16' | 'f32' | 'f64';
  /** Bits of the stored fraction. */
  readonly fraction: number;
  /** Largest biased exponent: infinities and NaNs. */
  readonly exponentMax: number;
  readonly bias: number;
  readonly signBit: number;
}

/** A format that there is arithmetic in. */
export interface Format extends Binary {
  readonly name: 'f32' | 'f64';
}

/** For conversions only. */
export const HALF: Binary = { name: 'f16', fraction: 10, exponentMax: 0x1f, bias: 15, signBit: 15 };
export const SINGLE: Format = { name: 'f32', fraction: 23, exponentMax: 0xff, bias: 127, signBit: 31 };
export const DOUBLE: Format = { name: 'f64', fraction: 52, exponentMax: 0x7ff, bias: 1023, signBit: 63 };

export const fractionMask = (format: Binary): bigint => (1n << BigInt(format.fraction)) - 1n;
export const infinity = (format: Binary): bigint => BigInt(format.exponentMax) << BigInt(format.fraction);
export const quietBit = (format: Binary): bigint => 1n << BigInt(format.fraction - 1);
export const signMask = (format: Binary): bigint => 1n << BigInt(format.signBit);
/** QNaN floating-point indefinite: SDM 1 4.8.3.7. */
export const indefinite = (format: Binary): bigint => signMask(format) | infinity(format) | quietBit(format);

export const c = (value: bigint): Expr => i64.big(value);
export const n = (value: number): Expr => i32.const(value);
export const STATE_BASE = n(0);

export const loadMxcsr = (): Expr => i32.load(STATE_BASE, S.MXCSR);
/** MXCSR.RC of a value of MXCSR. */
export const rounding = (mxcsr: Expr): Expr => i32.and(i32.shrU(mxcsr, n(MXCSR_RC_SHIFT)), n(3));

/** Notes exceptions (an i32 or a constant, bits as in MXCSR). */
export function raise(f: FunctionBuilder, flags: number | Expr): void {
  const value = typeof flags === 'number' ? n(flags) : flags;
  f.do(i32.store(STATE_BASE, i32.or(i32.load(STATE_BASE, RAISED), value), RAISED));
}

/** A shift's sticky form: what falls out at the right is or'ed into bit 0. `distance` ≥ 0, any size. */
export function shiftRightJam(value: Local, distance: Local): Expr {
  const lost = i64.ne(
    i64.and(value.get, i64.sub(i64.shl(i64.const(1), i64.extendI32U(distance.get)), i64.const(1))),
    i64.const(0),
  );
  const near = i64.or(i64.shrU(value.get, i64.extendI32U(distance.get)), i64.extendI32U(lost));
  const far = i64.extendI32U(i64.ne(value.get, i64.const(0)));
  return selectI64(i32.gtU(distance.get, n(63)), far, near);
}

const selectI64 = (condition: Expr, a: Expr, b: Expr): Expr => new Expr(I64, 0x1b, 0, a, b, condition);

/** Conversions without trap. WebAssembly 2.0 4.3.2 "trunc_sat_s". */
export const truncSatI64 = (a: Expr): Expr => new Expr(I64, a.type === F64 ? 0xfc_0006 : 0xfc_0004, 0, a);
export const truncSatI32 = (a: Expr): Expr => new Expr(I32, a.type === F64 ? 0xfc_0002 : 0xfc_0000, 0, a);
