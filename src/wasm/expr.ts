import { assert } from '../base/assert.ts';
import type { Bytes } from './bytes.ts';

/**
 * WebAssembly expressions as values: small immutable nodes that know their type and are written to bytes when a
 * statement uses them. An expression is evaluated where (and as often as) it is used: put what is used twice, or what
 * must be read before a store, into a local.
 *
 * Source  WebAssembly Core Specification 2.0, 5.4 "Instructions".
 */

export const I32 = 0x7f;
export const I64 = 0x7e;
export const F32 = 0x7d;
export const F64 = 0x7c;
export const V128 = 0x7b;
export type ValType = typeof I32 | typeof I64 | typeof F32 | typeof F64 | typeof V128;

/** How a node's immediate is written. */
const SHAPE = {
  NONE: 0,
  U32: 1,
  S32: 2,
  S64: 3,
  MEM: 4,
  F64: 5,
  F32: 6,
  CALL: 7,
  CALL_INDIRECT: 8,
  LANE: 9,
  V128: 10,
  MEM_LANE: 11,
  SHUFFLE: 12,
};

/** Anything a function can be called by: its index is known when the module is written. */
export interface Callee {
  readonly index: number;
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
}

export class Expr {
  readonly type: ValType;
  /** Opcode; prefixed ones as prefix * 65536 + sub-opcode. */
  readonly op: number;
  readonly shape: number;
  readonly a: Expr | undefined;
  readonly b: Expr | undefined;
  readonly c: Expr | undefined;
  /** Immediate: constant's low half, local index, memory offset, lane … */
  readonly imm: number;
  /** Second immediate: constant's high half, alignment … */
  readonly imm2: number;
  readonly extra: Callee | readonly Expr[] | Uint8Array | undefined;
  readonly args: readonly Expr[] | undefined;

  constructor(
    type: ValType,
    op: number,
    shape: number,
    a?: Expr,
    b?: Expr,
    c?: Expr,
    imm = 0,
    imm2 = 0,
    extra?: Callee | Uint8Array,
    args?: readonly Expr[],
  ) {
    this.type = type;
    this.op = op;
    this.shape = shape;
    this.a = a;
    this.b = b;
    this.c = c;
    this.imm = imm;
    this.imm2 = imm2;
    this.extra = extra;
    this.args = args;
  }

  get isConst(): boolean {
    return this.op === 0x41 || this.op === 0x42;
  }
}

/** Stands where there is no value: it must not be used. */
export const NO_EXPR = new Expr(I32, 0, -1);

function opcode(out: Bytes, op: number): void {
  if (op < 0x10000) out.byte(op);
  else {
    out.byte(op >>> 16);
    out.u32(op & 0xffff);
  }
}

/** Writes `expr` so that its value is on the stack. */
export function emit(out: Bytes, expr: Expr): void {
  assert(expr.shape >= 0, 'there is a value to write');
  if (expr.a) emit(out, expr.a);
  if (expr.b) emit(out, expr.b);
  if (expr.c) emit(out, expr.c);
  if (expr.args) for (const arg of expr.args) emit(out, arg);
  opcode(out, expr.op);
  switch (expr.shape) {
    case SHAPE.NONE:
      break;
    case SHAPE.U32:
      out.u32(expr.imm);
      break;
    case SHAPE.S32:
      out.s32(expr.imm);
      break;
    case SHAPE.S64:
      out.s64(expr.imm, expr.imm2);
      break;
    case SHAPE.MEM:
      out.u32(expr.imm2);
      out.u32(expr.imm);
      break;
    case SHAPE.F64:
      out.f64(expr.imm);
      break;
    case SHAPE.F32:
      out.f32(expr.imm);
      break;
    case SHAPE.CALL:
      out.u32((expr.extra as Callee).index);
      break;
    case SHAPE.CALL_INDIRECT:
      out.u32(expr.imm);
      out.u32(expr.imm2);
      break;
    case SHAPE.LANE:
      out.byte(expr.imm);
      break;
    case SHAPE.MEM_LANE:
      out.u32(expr.imm2);
      out.u32(expr.imm & 0xffffff);
      out.byte(expr.imm >>> 24);
      break;
    default:
      out.raw(expr.extra as Uint8Array);
  }
}

const unary =
  (type: ValType, op: number) =>
  (a: Expr): Expr =>
    new Expr(type, op, 0, a);
const binary =
  (type: ValType, op: number) =>
  (a: Expr, b: Expr): Expr =>
    new Expr(type, op, 0, a, b);
const loader =
  (type: ValType, op: number, align: number) =>
  (address: Expr, offset = 0): Expr =>
    new Expr(type, op, SHAPE.MEM, address, undefined, undefined, offset, align);
const lane =
  (type: ValType, op: number) =>
  (a: Expr, index: number): Expr =>
    new Expr(type, op, SHAPE.LANE, a, undefined, undefined, index);
const replace =
  (op: number) =>
  (a: Expr, index: number, value: Expr): Expr =>
    new Expr(V128, op, SHAPE.LANE, a, value, undefined, index);

/** `condition ? a : b`, both evaluated. */
export const select = (condition: Expr, a: Expr, b: Expr): Expr => new Expr(a.type, 0x1b, 0, a, b, condition);

/** `call f(args)`, for functions with one result. */
export function call(callee: Callee, ...args: Expr[]): Expr {
  const { params } = callee;
  assert(args.length === params.length, 'a call passes as many arguments as the callee has parameters');
  for (let i = 0; i < args.length; i += 1) {
    assert(args[i]!.type === params[i], "an argument of a call has the parameter's type");
  }
  return new Expr(callee.results[0] ?? I32, 0x10, SHAPE.CALL, undefined, undefined, undefined, 0, 0, callee, args);
}

/** `call_indirect` of function type `typeIndex` through `table`. */
export const callIndirect = (result: ValType, typeIndex: number, table: number, slot: Expr, ...args: Expr[]): Expr =>
  new Expr(result, 0x11, SHAPE.CALL_INDIRECT, undefined, undefined, undefined, typeIndex, table, undefined, [
    ...args,
    slot,
  ]);

/** Nodes that code is full of are made once: constants, and what reads a local. */
function shared(first: number, end: number, make: (value: number) => Expr): (value: number) => Expr {
  const known: (Expr | undefined)[] = new Array(end - first).fill(undefined);
  return (value) => {
    if (!(value >= first && value < end)) return make(value);
    const i = value - first;
    return (known[i] ??= make(value));
  };
}

const readsOf = (type: ValType): ((index: number) => Expr) =>
  shared(0, 256, (index) => new Expr(type, 0x20, SHAPE.U32, undefined, undefined, undefined, index));
const READS = {
  [I32]: readsOf(I32),
  [I64]: readsOf(I64),
  [F32]: readsOf(F32),
  [F64]: readsOf(F64),
  [V128]: readsOf(V128),
};
export const localGet = (type: ValType, index: number): Expr => READS[type](index);
export const globalGet = (type: ValType, index: number): Expr =>
  new Expr(type, 0x23, SHAPE.U32, undefined, undefined, undefined, index);
/** `local.tee`: sets and gives the value. */
export const tee = (local: { index: number; type: ValType }, value: Expr): Expr =>
  new Expr(local.type, 0x22, SHAPE.U32, value, undefined, undefined, local.index);

/** A store as a node without a value; only `FunctionBuilder.do` may use it. */
const storer =
  (op: number, align: number) =>
  (address: Expr, value: Expr, offset = 0): Expr =>
    new Expr(I32, op, SHAPE.MEM, address, value, undefined, offset, align);
export const memorySize = (): Expr => new Expr(I32, 0x3f, SHAPE.LANE);
export const memoryCopy = (to: Expr, from: Expr, bytes: Expr): Expr =>
  new Expr(I32, 0xfc_000a, 12, to, from, bytes, 0, 0, Uint8Array.of(0, 0));
export const memoryFill = (to: Expr, value: Expr, bytes: Expr): Expr =>
  new Expr(I32, 0xfc_000b, SHAPE.LANE, to, value, bytes);

export const i32 = {
  const: shared(-128, 8192, (value) => new Expr(I32, 0x41, SHAPE.S32, undefined, undefined, undefined, value | 0)),
  add: binary(I32, 0x6a),
  sub: binary(I32, 0x6b),
  mul: binary(I32, 0x6c),
  divS: binary(I32, 0x6d),
  divU: binary(I32, 0x6e),
  remS: binary(I32, 0x6f),
  remU: binary(I32, 0x70),
  and: binary(I32, 0x71),
  or: binary(I32, 0x72),
  xor: binary(I32, 0x73),
  shl: binary(I32, 0x74),
  shrS: binary(I32, 0x75),
  shrU: binary(I32, 0x76),
  rotl: binary(I32, 0x77),
  rotr: binary(I32, 0x78),
  eq: binary(I32, 0x46),
  ne: binary(I32, 0x47),
  ltS: binary(I32, 0x48),
  ltU: binary(I32, 0x49),
  gtS: binary(I32, 0x4a),
  gtU: binary(I32, 0x4b),
  leS: binary(I32, 0x4c),
  leU: binary(I32, 0x4d),
  geS: binary(I32, 0x4e),
  geU: binary(I32, 0x4f),
  clz: unary(I32, 0x67),
  ctz: unary(I32, 0x68),
  popcnt: unary(I32, 0x69),
  eqz: unary(I32, 0x45),
  extend8S: unary(I32, 0xc0),
  extend16S: unary(I32, 0xc1),
  wrap: unary(I32, 0xa7),
  reinterpretF32: unary(I32, 0xbc),
  truncF64S: unary(I32, 0xaa),
  load: loader(I32, 0x28, 0),
  load8S: loader(I32, 0x2c, 0),
  load8U: loader(I32, 0x2d, 0),
  load16S: loader(I32, 0x2e, 0),
  load16U: loader(I32, 0x2f, 0),
  store: storer(0x36, 0),
  store8: storer(0x3a, 0),
  store16: storer(0x3b, 0),
};

export const i64 = {
  /** From a safe integer. */
  const: shared(
    -128,
    1024,
    (value) =>
      new Expr(I64, 0x42, SHAPE.S64, undefined, undefined, undefined, value | 0, Math.floor(value / 0x1_0000_0000) | 0),
  ),
  halves: (low: number, high: number): Expr =>
    new Expr(I64, 0x42, SHAPE.S64, undefined, undefined, undefined, low | 0, high | 0),
  /** For tables written by hand; not on hot paths. */
  big: (value: bigint): Expr => i64.halves(Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n))),
  add: binary(I64, 0x7c),
  sub: binary(I64, 0x7d),
  mul: binary(I64, 0x7e),
  divS: binary(I64, 0x7f),
  divU: binary(I64, 0x80),
  remS: binary(I64, 0x81),
  remU: binary(I64, 0x82),
  and: binary(I64, 0x83),
  or: binary(I64, 0x84),
  xor: binary(I64, 0x85),
  shl: binary(I64, 0x86),
  shrS: binary(I64, 0x87),
  shrU: binary(I64, 0x88),
  rotl: binary(I64, 0x89),
  rotr: binary(I64, 0x8a),
  eq: binary(I32, 0x51),
  ne: binary(I32, 0x52),
  ltS: binary(I32, 0x53),
  ltU: binary(I32, 0x54),
  gtS: binary(I32, 0x55),
  gtU: binary(I32, 0x56),
  leS: binary(I32, 0x57),
  leU: binary(I32, 0x58),
  geS: binary(I32, 0x59),
  geU: binary(I32, 0x5a),
  clz: unary(I64, 0x79),
  ctz: unary(I64, 0x7a),
  popcnt: unary(I64, 0x7b),
  extend8S: unary(I64, 0xc2),
  extend16S: unary(I64, 0xc3),
  extend32S: unary(I64, 0xc4),
  eqz: unary(I32, 0x50),
  extendI32S: unary(I64, 0xac),
  extendI32U: unary(I64, 0xad),
  reinterpretF64: unary(I64, 0xbd),
  load: loader(I64, 0x29, 0),
  load8S: loader(I64, 0x30, 0),
  load8U: loader(I64, 0x31, 0),
  load16S: loader(I64, 0x32, 0),
  load16U: loader(I64, 0x33, 0),
  load32S: loader(I64, 0x34, 0),
  load32U: loader(I64, 0x35, 0),
  store: storer(0x37, 0),
  store8: storer(0x3c, 0),
  store16: storer(0x3d, 0),
  store32: storer(0x3e, 0),
};

export const f32 = {
  const: (value: number): Expr => new Expr(F32, 0x43, SHAPE.F32, undefined, undefined, undefined, value),
  add: binary(F32, 0x92),
  sub: binary(F32, 0x93),
  mul: binary(F32, 0x94),
  div: binary(F32, 0x95),
  min: binary(F32, 0x96),
  max: binary(F32, 0x97),
  copysign: binary(F32, 0x98),
  eq: binary(I32, 0x5b),
  ne: binary(I32, 0x5c),
  lt: binary(I32, 0x5d),
  gt: binary(I32, 0x5e),
  le: binary(I32, 0x5f),
  ge: binary(I32, 0x60),
  abs: unary(F32, 0x8b),
  neg: unary(F32, 0x8c),
  ceil: unary(F32, 0x8d),
  floor: unary(F32, 0x8e),
  trunc: unary(F32, 0x8f),
  nearest: unary(F32, 0x90),
  sqrt: unary(F32, 0x91),
  reinterpretI32: unary(F32, 0xbe),
  demote: unary(F32, 0xb6),
  convertI32S: unary(F32, 0xb2),
  convertI64S: unary(F32, 0xb4),
  load: loader(F32, 0x2a, 0),
  store: storer(0x38, 0),
};

export const f64 = {
  const: (value: number): Expr => new Expr(F64, 0x44, SHAPE.F64, undefined, undefined, undefined, value),
  add: binary(F64, 0xa0),
  sub: binary(F64, 0xa1),
  mul: binary(F64, 0xa2),
  div: binary(F64, 0xa3),
  min: binary(F64, 0xa4),
  max: binary(F64, 0xa5),
  copysign: binary(F64, 0xa6),
  eq: binary(I32, 0x61),
  ne: binary(I32, 0x62),
  lt: binary(I32, 0x63),
  gt: binary(I32, 0x64),
  le: binary(I32, 0x65),
  ge: binary(I32, 0x66),
  abs: unary(F64, 0x99),
  neg: unary(F64, 0x9a),
  ceil: unary(F64, 0x9b),
  floor: unary(F64, 0x9c),
  trunc: unary(F64, 0x9d),
  nearest: unary(F64, 0x9e),
  sqrt: unary(F64, 0x9f),
  reinterpretI64: unary(F64, 0xbf),
  promote: unary(F64, 0xbb),
  convertI32S: unary(F64, 0xb7),
  convertI32U: unary(F64, 0xb8),
  convertI64S: unary(F64, 0xb9),
  convertI64U: unary(F64, 0xba),
  load: loader(F64, 0x2b, 0),
  store: storer(0x39, 0),
};

/** Vector instructions: 5.4.8. Names carry the lane shape. */
export const v128 = {
  load: loader(V128, 0xfd_0000, 0),
  load8Splat: loader(V128, 0xfd_0007, 0),
  load16Splat: loader(V128, 0xfd_0008, 0),
  load32Splat: loader(V128, 0xfd_0009, 0),
  load64Splat: loader(V128, 0xfd_000a, 0),
  load32Zero: loader(V128, 0xfd_005c, 0),
  load64Zero: loader(V128, 0xfd_005d, 0),
  store: storer(0xfd_000b, 0),
  const: (bytes: Uint8Array): Expr =>
    new Expr(V128, 0xfd_000c, SHAPE.V128, undefined, undefined, undefined, 0, 0, bytes),
  shuffle: (a: Expr, b: Expr, lanes: Uint8Array): Expr =>
    new Expr(V128, 0xfd_000d, SHAPE.SHUFFLE, a, b, undefined, 0, 0, lanes),
  bitselect: (a: Expr, b: Expr, mask: Expr): Expr => new Expr(V128, 0xfd_0052, 0, a, b, mask),
  swizzle: binary(V128, 0xfd_000e),
  i8x16Splat: unary(V128, 0xfd_000f),
  i16x8Splat: unary(V128, 0xfd_0010),
  i32x4Splat: unary(V128, 0xfd_0011),
  i64x2Splat: unary(V128, 0xfd_0012),
  f32x4Splat: unary(V128, 0xfd_0013),
  f64x2Splat: unary(V128, 0xfd_0014),
  i8x16ExtractS: lane(I32, 0xfd_0015),
  i8x16ExtractU: lane(I32, 0xfd_0016),
  i16x8ExtractS: lane(I32, 0xfd_0018),
  i16x8ExtractU: lane(I32, 0xfd_0019),
  i32x4Extract: lane(I32, 0xfd_001b),
  i64x2Extract: lane(I64, 0xfd_001d),
  f32x4Extract: lane(F32, 0xfd_001f),
  f64x2Extract: lane(F64, 0xfd_0021),
  i8x16Replace: replace(0xfd_0017),
  i16x8Replace: replace(0xfd_001a),
  i32x4Replace: replace(0xfd_001c),
  i64x2Replace: replace(0xfd_001e),
  f32x4Replace: replace(0xfd_0020),
  f64x2Replace: replace(0xfd_0022),
  i8x16Eq: binary(V128, 0xfd_0023),
  i8x16Ne: binary(V128, 0xfd_0024),
  i8x16LtS: binary(V128, 0xfd_0025),
  i8x16LtU: binary(V128, 0xfd_0026),
  i8x16GtS: binary(V128, 0xfd_0027),
  i8x16GtU: binary(V128, 0xfd_0028),
  i8x16LeS: binary(V128, 0xfd_0029),
  i8x16LeU: binary(V128, 0xfd_002a),
  i8x16GeS: binary(V128, 0xfd_002b),
  i8x16GeU: binary(V128, 0xfd_002c),
  i16x8Eq: binary(V128, 0xfd_002d),
  i16x8Ne: binary(V128, 0xfd_002e),
  i16x8LtS: binary(V128, 0xfd_002f),
  i16x8LtU: binary(V128, 0xfd_0030),
  i16x8GtS: binary(V128, 0xfd_0031),
  i16x8GtU: binary(V128, 0xfd_0032),
  i16x8LeS: binary(V128, 0xfd_0033),
  i16x8LeU: binary(V128, 0xfd_0034),
  i16x8GeS: binary(V128, 0xfd_0035),
  i16x8GeU: binary(V128, 0xfd_0036),
  i32x4Eq: binary(V128, 0xfd_0037),
  i32x4Ne: binary(V128, 0xfd_0038),
  i32x4LtS: binary(V128, 0xfd_0039),
  i32x4LtU: binary(V128, 0xfd_003a),
  i32x4GtS: binary(V128, 0xfd_003b),
  i32x4GtU: binary(V128, 0xfd_003c),
  i32x4LeS: binary(V128, 0xfd_003d),
  i32x4LeU: binary(V128, 0xfd_003e),
  i32x4GeS: binary(V128, 0xfd_003f),
  i32x4GeU: binary(V128, 0xfd_0040),
  f32x4Eq: binary(V128, 0xfd_0041),
  f32x4Ne: binary(V128, 0xfd_0042),
  f32x4Lt: binary(V128, 0xfd_0043),
  f32x4Gt: binary(V128, 0xfd_0044),
  f32x4Le: binary(V128, 0xfd_0045),
  f32x4Ge: binary(V128, 0xfd_0046),
  f64x2Eq: binary(V128, 0xfd_0047),
  f64x2Ne: binary(V128, 0xfd_0048),
  f64x2Lt: binary(V128, 0xfd_0049),
  f64x2Gt: binary(V128, 0xfd_004a),
  f64x2Le: binary(V128, 0xfd_004b),
  f64x2Ge: binary(V128, 0xfd_004c),
  and: binary(V128, 0xfd_004e),
  andnot: binary(V128, 0xfd_004f),
  or: binary(V128, 0xfd_0050),
  xor: binary(V128, 0xfd_0051),
  i8x16NarrowS: binary(V128, 0xfd_0065),
  i8x16NarrowU: binary(V128, 0xfd_0066),
  i16x8NarrowS: binary(V128, 0xfd_0085),
  i16x8NarrowU: binary(V128, 0xfd_0086),
  i8x16Add: binary(V128, 0xfd_006e),
  i8x16AddSatS: binary(V128, 0xfd_006f),
  i8x16AddSatU: binary(V128, 0xfd_0070),
  i8x16Sub: binary(V128, 0xfd_0071),
  i8x16SubSatS: binary(V128, 0xfd_0072),
  i8x16SubSatU: binary(V128, 0xfd_0073),
  i8x16MinS: binary(V128, 0xfd_0076),
  i8x16MinU: binary(V128, 0xfd_0077),
  i8x16MaxS: binary(V128, 0xfd_0078),
  i8x16MaxU: binary(V128, 0xfd_0079),
  i8x16AvgrU: binary(V128, 0xfd_007b),
  i16x8Add: binary(V128, 0xfd_008e),
  i16x8AddSatS: binary(V128, 0xfd_008f),
  i16x8AddSatU: binary(V128, 0xfd_0090),
  i16x8Sub: binary(V128, 0xfd_0091),
  i16x8SubSatS: binary(V128, 0xfd_0092),
  i16x8SubSatU: binary(V128, 0xfd_0093),
  i16x8Mul: binary(V128, 0xfd_0095),
  i16x8MinS: binary(V128, 0xfd_0096),
  i16x8MinU: binary(V128, 0xfd_0097),
  i16x8MaxS: binary(V128, 0xfd_0098),
  i16x8MaxU: binary(V128, 0xfd_0099),
  i16x8AvgrU: binary(V128, 0xfd_009b),
  i16x8Q15MulrSatS: binary(V128, 0xfd_0082),
  i16x8ExtMulLowS: binary(V128, 0xfd_009c),
  i16x8ExtMulHighS: binary(V128, 0xfd_009d),
  i16x8ExtMulLowU: binary(V128, 0xfd_009e),
  i16x8ExtMulHighU: binary(V128, 0xfd_009f),
  i32x4Add: binary(V128, 0xfd_00ae),
  i32x4Sub: binary(V128, 0xfd_00b1),
  i32x4Mul: binary(V128, 0xfd_00b5),
  i32x4MinS: binary(V128, 0xfd_00b6),
  i32x4MinU: binary(V128, 0xfd_00b7),
  i32x4MaxS: binary(V128, 0xfd_00b8),
  i32x4MaxU: binary(V128, 0xfd_00b9),
  i32x4DotI16x8S: binary(V128, 0xfd_00ba),
  i32x4ExtMulLowS: binary(V128, 0xfd_00bc),
  i32x4ExtMulHighS: binary(V128, 0xfd_00bd),
  i32x4ExtMulLowU: binary(V128, 0xfd_00be),
  i32x4ExtMulHighU: binary(V128, 0xfd_00bf),
  i64x2Add: binary(V128, 0xfd_00ce),
  i64x2Sub: binary(V128, 0xfd_00d1),
  i64x2Mul: binary(V128, 0xfd_00d5),
  i64x2Eq: binary(V128, 0xfd_00d6),
  i64x2Ne: binary(V128, 0xfd_00d7),
  i64x2LtS: binary(V128, 0xfd_00d8),
  i64x2GtS: binary(V128, 0xfd_00d9),
  i64x2ExtMulLowS: binary(V128, 0xfd_00dc),
  i64x2ExtMulHighS: binary(V128, 0xfd_00dd),
  i64x2ExtMulLowU: binary(V128, 0xfd_00de),
  i64x2ExtMulHighU: binary(V128, 0xfd_00df),
  f32x4Add: binary(V128, 0xfd_00e4),
  f32x4Sub: binary(V128, 0xfd_00e5),
  f32x4Mul: binary(V128, 0xfd_00e6),
  f32x4Div: binary(V128, 0xfd_00e7),
  f32x4Min: binary(V128, 0xfd_00e8),
  f32x4Max: binary(V128, 0xfd_00e9),
  f32x4Pmin: binary(V128, 0xfd_00ea),
  f32x4Pmax: binary(V128, 0xfd_00eb),
  f64x2Add: binary(V128, 0xfd_00f0),
  f64x2Sub: binary(V128, 0xfd_00f1),
  f64x2Mul: binary(V128, 0xfd_00f2),
  f64x2Div: binary(V128, 0xfd_00f3),
  f64x2Min: binary(V128, 0xfd_00f4),
  f64x2Max: binary(V128, 0xfd_00f5),
  f64x2Pmin: binary(V128, 0xfd_00f6),
  f64x2Pmax: binary(V128, 0xfd_00f7),
  i8x16Shl: binary(V128, 0xfd_006b),
  i8x16ShrS: binary(V128, 0xfd_006c),
  i8x16ShrU: binary(V128, 0xfd_006d),
  i16x8Shl: binary(V128, 0xfd_008b),
  i16x8ShrS: binary(V128, 0xfd_008c),
  i16x8ShrU: binary(V128, 0xfd_008d),
  i32x4Shl: binary(V128, 0xfd_00ab),
  i32x4ShrS: binary(V128, 0xfd_00ac),
  i32x4ShrU: binary(V128, 0xfd_00ad),
  i64x2Shl: binary(V128, 0xfd_00cb),
  i64x2ShrS: binary(V128, 0xfd_00cc),
  i64x2ShrU: binary(V128, 0xfd_00cd),
  not: unary(V128, 0xfd_004d),
  i8x16Abs: unary(V128, 0xfd_0060),
  i8x16Neg: unary(V128, 0xfd_0061),
  i8x16Popcnt: unary(V128, 0xfd_0062),
  i16x8Abs: unary(V128, 0xfd_0080),
  i16x8Neg: unary(V128, 0xfd_0081),
  i32x4Abs: unary(V128, 0xfd_00a0),
  i32x4Neg: unary(V128, 0xfd_00a1),
  i64x2Abs: unary(V128, 0xfd_00c0),
  i64x2Neg: unary(V128, 0xfd_00c1),
  i16x8ExtAddPairwiseI8x16S: unary(V128, 0xfd_007c),
  i16x8ExtAddPairwiseI8x16U: unary(V128, 0xfd_007d),
  i32x4ExtAddPairwiseI16x8S: unary(V128, 0xfd_007e),
  i32x4ExtAddPairwiseI16x8U: unary(V128, 0xfd_007f),
  i16x8ExtendLowI8x16S: unary(V128, 0xfd_0087),
  i16x8ExtendHighI8x16S: unary(V128, 0xfd_0088),
  i16x8ExtendLowI8x16U: unary(V128, 0xfd_0089),
  i16x8ExtendHighI8x16U: unary(V128, 0xfd_008a),
  i32x4ExtendLowI16x8S: unary(V128, 0xfd_00a7),
  i32x4ExtendHighI16x8S: unary(V128, 0xfd_00a8),
  i32x4ExtendLowI16x8U: unary(V128, 0xfd_00a9),
  i32x4ExtendHighI16x8U: unary(V128, 0xfd_00aa),
  i64x2ExtendLowI32x4S: unary(V128, 0xfd_00c7),
  i64x2ExtendHighI32x4S: unary(V128, 0xfd_00c8),
  i64x2ExtendLowI32x4U: unary(V128, 0xfd_00c9),
  i64x2ExtendHighI32x4U: unary(V128, 0xfd_00ca),
  f32x4Abs: unary(V128, 0xfd_00e0),
  f32x4Neg: unary(V128, 0xfd_00e1),
  f32x4Sqrt: unary(V128, 0xfd_00e3),
  f64x2Abs: unary(V128, 0xfd_00ec),
  f64x2Neg: unary(V128, 0xfd_00ed),
  f64x2Sqrt: unary(V128, 0xfd_00ef),
  f32x4Ceil: unary(V128, 0xfd_0067),
  f32x4Floor: unary(V128, 0xfd_0068),
  f32x4Trunc: unary(V128, 0xfd_0069),
  f32x4Nearest: unary(V128, 0xfd_006a),
  f64x2Ceil: unary(V128, 0xfd_0074),
  f64x2Floor: unary(V128, 0xfd_0075),
  f64x2Trunc: unary(V128, 0xfd_007a),
  f64x2Nearest: unary(V128, 0xfd_0094),
  i32x4TruncSatF32x4S: unary(V128, 0xfd_00f8),
  i32x4TruncSatF64x2SZero: unary(V128, 0xfd_00fc),
  f32x4ConvertI32x4S: unary(V128, 0xfd_00fa),
  f64x2ConvertLowI32x4S: unary(V128, 0xfd_00fe),
  f64x2PromoteLowF32x4: unary(V128, 0xfd_005f),
  f32x4DemoteZeroF64x2: unary(V128, 0xfd_005e),
  anyTrue: unary(I32, 0xfd_0053),
  i8x16AllTrue: unary(I32, 0xfd_0063),
  i8x16Bitmask: unary(I32, 0xfd_0064),
  i16x8AllTrue: unary(I32, 0xfd_0083),
  i16x8Bitmask: unary(I32, 0xfd_0084),
  i32x4AllTrue: unary(I32, 0xfd_00a3),
  i32x4Bitmask: unary(I32, 0xfd_00a4),
  i64x2AllTrue: unary(I32, 0xfd_00c3),
  i64x2Bitmask: unary(I32, 0xfd_00c4),
};
