import { call, type Expr, i32, i64, v128 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { NEGATE } from '../float/fma.ts';
import { DOUBLE, type Format, SINGLE } from '../float/format.ts';
import { lane, shape, withLane } from '../float/vector.ts';
import type { Instruction } from './instruction.ts';
import { bind, commit, imm8, loadLow, lowHalf, lowVector, ZERO_VECTOR } from './sse-operands.ts';
import { loadHalf, storeYmm } from './sse-vex.ts';
import { row } from './sse-vex-words.ts';

/**
 * FMA and F16C.
 *
 * Source  SDM 1 14.4 "Half-Precision Floating-Point Conversion", 14.5 "Fused-Multiply-ADD (FMA) Extensions".
 */

/** Digits of the mnemonic: multiplicand, multiplier, addend. Row of the opcode map: 90, A0, B0. */
const ORDERS = [
  { name: '132', opcode: 0x90, operands: [0, 2, 1] },
  { name: '213', opcode: 0xa0, operands: [1, 0, 2] },
  { name: '231', opcode: 0xb0, operands: [1, 2, 0] },
] as const;
type Order = (typeof ORDERS)[number];

/** What is negated in even and in odd elements; the scalar form has the next opcode. */
const OPERATIONS = [
  { name: 'VFMADDSUB', opcode: 6, even: NEGATE.ADDEND, odd: 0, scalar: false },
  { name: 'VFMSUBADD', opcode: 7, even: 0, odd: NEGATE.ADDEND, scalar: false },
  { name: 'VFMADD', opcode: 8, even: 0, odd: 0, scalar: true },
  { name: 'VFMSUB', opcode: 0xa, even: NEGATE.ADDEND, odd: NEGATE.ADDEND, scalar: true },
  { name: 'VFNMADD', opcode: 0xc, even: NEGATE.PRODUCT, odd: NEGATE.PRODUCT, scalar: true },
  {
    name: 'VFNMSUB',
    opcode: 0xe,
    even: NEGATE.PRODUCT | NEGATE.ADDEND,
    odd: NEGATE.PRODUCT | NEGATE.ADDEND,
    scalar: true,
  },
] as const;
type Operation = (typeof OPERATIONS)[number];

const hex = (value: number): string => value.toString(16).toUpperCase();

function packed(order: Order, operation: Operation, format: Format, wide: boolean): Instruction {
  const name = `${operation.name}${order.name}P${format === DOUBLE ? 'D' : 'S'}`;
  const v = wide ? 'ymm' : 'xmm';
  const opcode = `VEX.${wide ? 256 : 128}.66.0F38.${format === DOUBLE ? 'W1' : 'W0'} ${hex(order.opcode + operation.opcode)} /r`;
  const forms = { [opcode]: `${name} ${v}, ${v}V, ${v}/m${wide ? 256 : 128}` };
  return row(name, 'Fused Multiply-Add of Packed Values', forms, 'fma', (m) => {
    // Both halves of memory at once: a fault must come before anything was raised
    const [low, high] = ([0, 1] as const).map((half) =>
      half === 0 || wide ? order.operands.map((i) => loadHalf(m, i, half)) : undefined,
    );
    const compute = ([x, y, z]: Expr[]): Expr =>
      bind(
        m,
        call(m.lib.byName(`${shape(format)}.fma`), x!, y!, z!, i32.const(operation.even), i32.const(operation.odd)),
      );
    const first = compute(low!);
    const second = high ? compute(high) : ZERO_VECTOR;
    commit(m);
    storeYmm(m, first, second);
  });
}

function scalar(order: Order, operation: Operation, format: Format): Instruction {
  const bytes = format === DOUBLE ? 8 : 4;
  const name = `${operation.name}${order.name}S${format === DOUBLE ? 'D' : 'S'}`;
  const opcode = `VEX.LIG.66.0F38.${format === DOUBLE ? 'W1' : 'W0'} ${hex(order.opcode + operation.opcode + 1)} /r`;
  const forms = { [opcode]: `${name} xmm, xmmV, xmm/m${8 * bytes}` };
  return row(name, 'Fused Multiply-Add of Scalar Values', forms, 'fma', (m) => {
    const [x, y, z] = order.operands.map((i) => loadLow(m, i, bytes));
    const value = bind(m, call(m.lib.byName(`${format.name}.fma`), x!, y!, z!, i32.const(operation.even)));
    commit(m);
    storeYmm(m, withLane(format, v128.load(m.registerAddress(0)), 0, value));
  });
}

const FMA: readonly Instruction[] = ORDERS.flatMap((order) =>
  OPERATIONS.flatMap((operation) =>
    [SINGLE, DOUBLE].flatMap((format) => [
      packed(order, operation, format, false),
      packed(order, operation, format, true),
      ...(operation.scalar ? [scalar(order, operation, format)] : []),
    ]),
  ),
);

// ---- half precision ---------------------------------------------------------------------------------------------

const HALF_BYTES = 2;

const fromHalf = (wide: boolean): Instruction =>
  row(
    'VCVTPH2PS',
    'Convert Packed FP16 Values to Single Precision Floating-Point Values',
    { [`VEX.${wide ? 256 : 128}.66.0F38.W0 13 /r`]: `VCVTPH2PS ${wide ? 'ymm, xmm/m128' : 'xmm, xmm/m64'}` },
    'f16c',
    (m) => {
      const source = wide ? loadHalf(m, 1, 0) : bind(m, lowVector(loadLow(m, 1, 4 * HALF_BYTES)));
      const half = (k: number): Expr => {
        let result = ZERO_VECTOR;
        for (let i = 0; i < 4; i++) {
          const bits = call(m.lib.byName('f16.to.f32'), i64.extendI32U(v128.i16x8ExtractU(source, 4 * k + i)));
          result = withLane(SINGLE, result, i, bits);
        }
        return bind(m, result);
      };
      const low = half(0);
      const high = wide ? half(1) : ZERO_VECTOR;
      commit(m);
      storeYmm(m, low, high);
    },
  );

const toHalf = (wide: boolean): Instruction =>
  row(
    'VCVTPS2PH',
    'Convert Single Precision FP Value to 16-Bit FP Value',
    { [`VEX.${wide ? 256 : 128}.66.0F3A.W0 1D /r ib`]: `VCVTPS2PH ${wide ? 'xmm/m128, ymm' : 'xmm/m64, xmm'}, imm8` },
    'f16c',
    (m) => {
      // The store's fault comes before anything is raised: MXCSR is then as before
      const bytes = wide ? 16 : 8;
      const host = m.isMemory(0) ? m.writable(m.address(true), bytes) : undefined;
      const imm = imm8(m, 2);
      const current = i32.and(i32.shrU(i32.load(i32.const(0), S.MXCSR), i32.const(13)), i32.const(3));
      const rc = m.let(i32.and(imm, i32.const(3)));
      m.f.if(i32.and(imm, i32.const(4)), () => m.f.set(rc, current));
      const sources = [loadHalf(m, 1, 0), ...(wide ? [loadHalf(m, 1, 1)] : [])];
      let result = ZERO_VECTOR;
      sources.forEach((source, k) => {
        for (let i = 0; i < 4; i++) {
          const bits = call(m.lib.byName('f32.to.f16'), lane(SINGLE, source, i), rc.get);
          result = v128.i16x8Replace(result, 4 * k + i, i32.wrap(bits));
        }
      });
      const value = bind(m, result);
      commit(m);
      if (!host) {
        storeYmm(m, value);
        return;
      }
      m.f.do(wide ? v128.store(host.get, value) : i64.store(host.get, lowHalf(value)));
      m.commit(host);
    },
  );

export const FMA_F16C: readonly Instruction[] = [...FMA, fromHalf(false), fromHalf(true), toHalf(false), toHalf(true)];
