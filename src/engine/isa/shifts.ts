import { type Expr, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/**
 * Shifts and rotates, and bit instructions. SDM 1 5.1.5 "Shift and Rotate Instructions", 5.1.6 "Bit and Byte
 * Instructions". A count of zero changes nothing, not even flags; the count is masked to 5 or 6 bits.
 */

const group = (name: string, digit: number): Record<string, string> => ({
  [`C0 /${digit} ib`]: `${name} r/m8, imm8`,
  [`C1 /${digit} ib`]: `${name} r/mv, imm8`,
  [`D0 /${digit}`]: `${name} r/m8, 1`,
  [`D1 /${digit}`]: `${name} r/mv, 1`,
  [`D2 /${digit}`]: `${name} r/m8, CL`,
  [`D3 /${digit}`]: `${name} r/mv, CL`,
});

const one = i64.const(1);
/** A condition (i32) as the bit `mask` of an i64. */
const bitIf = (condition: Expr, mask: number): Expr => i64.mul(i64.extendI32U(condition), i64.const(mask));
/** Bit `at` of `value` as 0 or 1. */
const bit = (value: Expr, at: Expr | number): Expr =>
  i64.and(i64.shrU(value, typeof at === 'number' ? i64.const(at) : at), one);

function count(m: Semantics, operand: number): Local {
  return m.let(i64.and(m.loadU(operand), i64.const(m.size === 8 ? 63 : 31)));
}

/**
 * Runs `compute` unless the count is 0. With a 0 count a memory operand is still read and written (it may fault).
 */
function shift(m: Semantics, counted: Local, compute: (a: Expr) => { result: Expr; flags: () => void }): void {
  m.modify(0, (a) => {
    const r = m.let(a);
    m.f.if(i64.ne(counted.get, i64.const(0)), () => {
      const { result, flags } = compute(a);
      m.f.set(r, result);
      flags();
    });
    return r.get;
  });
}

export const SHL = instruction({
  name: 'SHL',
  source: 'SDM 2B 4.3 "SAL/SAR/SHL/SHR—Shift"',
  forms: { ...group('SHL', 4), ...group('SAL', 6) },
  execute(m) {
    const bits = m.size * 8;
    const n = count(m, 1);
    shift(m, n, (a) => {
      const r = m.let(m.signExtend(i64.shl(a, n.get), m.size));
      return {
        result: r.get,
        flags: () => {
          // CF: the last bit shifted out; 0 when the count is beyond the width (31 at most, on 8 and 16 bits)
          const carry = m.let(bit(m.zeroExtend(a, m.size), i64.sub(i64.const(bits), n.get)));
          if (bits < 32) m.f.set(carry, select(i64.leU(n.get, i64.const(bits)), carry.get, i64.const(0)));
          const overflow = i64.shl(i64.xor(carry.get, bit(r.get, bits - 1)), i64.const(11));
          m.flagsResult(r.get, i64.or(carry.get, overflow));
        },
      };
    });
  },
});

export const SHR = instruction({
  name: 'SHR',
  source: 'SDM 2B 4.3 "SAL/SAR/SHL/SHR—Shift"',
  forms: group('SHR', 5),
  execute(m) {
    const n = count(m, 1);
    shift(m, n, (a) => {
      const u = m.let(m.zeroExtend(a, m.size));
      const r = m.let(m.signExtend(i64.shrU(u.get, n.get), m.size));
      return {
        result: r.get,
        flags: () => {
          const carry = bit(u.get, i64.sub(n.get, one));
          const overflow = i64.shl(bit(u.get, m.size * 8 - 1), i64.const(11));
          m.flagsResult(r.get, i64.or(carry, overflow));
        },
      };
    });
  },
});

export const SAR = instruction({
  name: 'SAR',
  source: 'SDM 2B 4.3 "SAL/SAR/SHL/SHR—Shift"',
  forms: group('SAR', 7),
  execute(m) {
    const n = count(m, 1);
    shift(m, n, (a) => {
      const r = m.let(i64.shrS(a, n.get));
      return { result: r.get, flags: () => m.flagsResult(r.get, bit(a, i64.sub(n.get, one))) };
    });
  },
});

/** Flags of a rotate: CF and OF replaced in what there is. */
function rotateFlags(m: Semantics, carry: Expr, overflow: Expr): void {
  m.flagsReplace(RFLAGS.CF | RFLAGS.OF, i64.or(carry, i64.shl(overflow, i64.const(11))));
}

function rotate(m: Semantics, left: boolean): void {
  const bits = m.size * 8;
  const n = count(m, 1);
  shift(m, n, (a) => {
    const by = m.let(i64.and(n.get, i64.const(bits - 1)));
    const u = m.let(m.zeroExtend(a, m.size));
    const r = m.f.local(I64);
    if (bits === 64) m.f.set(r, (left ? i64.rotl : i64.rotr)(u.get, by.get));
    else if (bits === 32) {
      m.f.set(r, i64.extendI32U((left ? i32.rotl : i32.rotr)(i32.wrap(u.get), i32.wrap(by.get))));
    } else {
      const back = i64.and(i64.sub(i64.const(bits), by.get), i64.const(bits - 1));
      const value = left
        ? i64.or(i64.shl(u.get, by.get), i64.shrU(u.get, back))
        : i64.or(i64.shrU(u.get, by.get), i64.shl(u.get, back));
      m.f.set(r, m.zeroExtend(value, m.size));
    }
    return {
      result: r.get,
      flags: () => {
        const top = bit(r.get, bits - 1);
        if (left) rotateFlags(m, bit(r.get, 0), i64.xor(top, bit(r.get, 0)));
        else rotateFlags(m, top, i64.xor(top, bit(r.get, bits - 2)));
      },
    };
  });
}

export const ROL = instruction({
  name: 'ROL',
  source: 'SDM 2B 4.3 "RCL/RCR/ROL/ROR—Rotate"',
  forms: group('ROL', 0),
  execute: (m) => rotate(m, true),
});

export const ROR = instruction({
  name: 'ROR',
  source: 'SDM 2B 4.3 "RCL/RCR/ROL/ROR—Rotate"',
  forms: group('ROR', 1),
  execute: (m) => rotate(m, false),
});

/** Rotates through CF, a bit at a time: rare. The count is modulo width + 1 for 8 and 16 bits. */
function rotateThroughCarry(m: Semantics, left: boolean): void {
  const bits = m.size * 8;
  const n = m.let(i64.and(m.loadU(1), i64.const(m.size === 8 ? 63 : 31)));
  if (bits < 32) m.f.set(n, i64.remU(n.get, i64.const(bits + 1)));
  const carry = m.let(m.carry());
  shift(m, n, (a) => {
    const r = m.let(m.zeroExtend(a, m.size));
    const left64 = m.let(n.get);
    const out = m.f.local(I64);
    m.f.loop((top) => {
      if (left) {
        m.f.set(out, bit(r.get, bits - 1));
        m.f.set(r, m.zeroExtend(i64.or(i64.shl(r.get, one), carry.get), m.size));
      } else {
        m.f.set(out, bit(r.get, 0));
        m.f.set(r, i64.or(i64.shrU(r.get, one), i64.shl(carry.get, i64.const(bits - 1))));
      }
      m.f.set(carry, out.get);
      m.f.set(left64, i64.sub(left64.get, one));
      m.f.brIf(top, i64.ne(left64.get, i64.const(0)));
    });
    return {
      result: r.get,
      flags: () => {
        const top = bit(r.get, bits - 1);
        rotateFlags(m, carry.get, left ? i64.xor(top, carry.get) : i64.xor(top, bit(r.get, bits - 2)));
      },
    };
  });
}

export const RCL = instruction({
  name: 'RCL',
  source: 'SDM 2B 4.3 "RCL/RCR/ROL/ROR—Rotate"',
  forms: group('RCL', 2),
  execute: (m) => rotateThroughCarry(m, true),
});

export const RCR = instruction({
  name: 'RCR',
  source: 'SDM 2B 4.3 "RCL/RCR/ROL/ROR—Rotate"',
  forms: group('RCR', 3),
  execute: (m) => rotateThroughCarry(m, false),
});

/** SHLD and SHRD. For 16 bits and counts above 16 the result is undefined: MEASURED, AMD shifts dst:src:dst. */
function doubleShift(m: Semantics, left: boolean): void {
  const bits = m.size * 8;
  const n = m.let(i64.and(m.loadU(2), i64.const(m.size === 8 ? 63 : 31)));
  const filler = m.let(m.loadU(1));
  shift(m, n, (a) => {
    const u = m.let(m.zeroExtend(a, m.size));
    const r = m.f.local(I64);
    const carry = m.f.local(I64);
    if (bits === 16) {
      // 48 bits: dst src dst, from the top for SHLD, from the bottom for SHRD
      const three = m.let(
        left
          ? i64.or(i64.or(i64.shl(u.get, i64.const(32)), i64.shl(filler.get, i64.const(16))), u.get)
          : i64.or(i64.or(i64.shl(u.get, i64.const(32)), i64.shl(filler.get, i64.const(16))), u.get),
      );
      if (left) {
        m.f.set(r, i64.and(i64.shrU(i64.shl(three.get, n.get), i64.const(32)), i64.const(0xffff)));
        m.f.set(carry, bit(three.get, i64.sub(i64.const(48), n.get)));
      } else {
        m.f.set(r, i64.and(i64.shrU(three.get, n.get), i64.const(0xffff)));
        m.f.set(carry, bit(three.get, i64.sub(n.get, one)));
      }
    } else {
      const back = i64.sub(i64.const(bits), n.get);
      if (left) {
        m.f.set(r, m.zeroExtend(i64.or(i64.shl(u.get, n.get), i64.shrU(filler.get, back)), m.size));
        m.f.set(carry, bit(u.get, back));
      } else {
        m.f.set(r, m.zeroExtend(i64.or(i64.shrU(u.get, n.get), i64.shl(filler.get, back)), m.size));
        m.f.set(carry, bit(u.get, i64.sub(n.get, one)));
      }
    }
    return {
      result: r.get,
      flags: () => {
        const overflow = i64.shl(i64.xor(bit(r.get, bits - 1), bit(u.get, bits - 1)), i64.const(11));
        m.flagsResult(m.let(m.signExtend(r.get, m.size)).get, i64.or(carry.get, overflow));
      },
    };
  });
}

export const SHLD = instruction({
  name: 'SHLD',
  source: 'SDM 2B 4.3 "SHLD—Double Precision Shift Left"',
  forms: { '0F A4 /r ib': 'SHLD r/mv, rv, imm8', '0F A5 /r': 'SHLD r/mv, rv, CL' },
  execute: (m) => doubleShift(m, true),
});

export const SHRD = instruction({
  name: 'SHRD',
  source: 'SDM 2B 4.3 "SHRD—Double Precision Shift Right"',
  forms: { '0F AC /r ib': 'SHRD r/mv, rv, imm8', '0F AD /r': 'SHRD r/mv, rv, CL' },
  execute: (m) => doubleShift(m, false),
});

/** BT BTS BTR BTC: with a register index and memory, the index reaches beyond the operand. */
function bitTest(name: string, second: number, digit: number, change?: (a: Expr, mask: Expr) => Expr): Instruction {
  return instruction({
    name,
    source: `SDM 2 "${name}—Bit Test${change ? ' and Modify' : ''}"`,
    forms: {
      [`0F ${second.toString(16).toUpperCase()} /r`]: `${name} r/mv, rv`,
      [`0F BA /${digit} ib`]: `${name} r/mv, imm8`,
    },
    lockable: change !== undefined,
    execute(m) {
      const bits = m.size * 8;
      const index = m.let(m.load(1));
      if (m.isMemory(0) && m.operands[1]!.kind === 'gpr') {
        const unit = i64.mul(i64.shrS(index.get, i64.const(Math.log2(bits))), i64.const(m.size));
        m.displacedAddress(unit, change !== undefined);
      }
      const at = m.let(i64.and(index.get, i64.const(bits - 1)));
      const flags = (a: Expr): void => {
        m.flagsReplace(RFLAGS.CF, bit(a, at.get));
      };
      if (change) {
        m.modify(0, (a) => {
          flags(a);
          return change(a, i64.shl(one, at.get));
        });
      } else {
        const a = m.let(m.load(0));
        flags(a.get);
      }
    },
  });
}

export const BT = bitTest('BT', 0xa3, 4);
export const BTS = bitTest('BTS', 0xab, 5, i64.or);
export const BTR = bitTest('BTR', 0xb3, 6, (a, mask) => i64.and(a, i64.xor(mask, i64.const(-1))));
export const BTC = bitTest('BTC', 0xbb, 7, i64.xor);

/** BSF, BSR: a zero source leaves the destination (MEASURED on Intel and AMD alike) and sets ZF. */
function scan(m: Semantics, forward: boolean): void {
  const source = m.let(m.loadU(1));
  m.flagsResult(source.get, bitIf(i32.const(0), 1));
  m.f.if(i64.ne(source.get, i64.const(0)), () => {
    m.store(0, forward ? i64.ctz(source.get) : i64.sub(i64.const(63), i64.clz(source.get)));
  });
}

export const BSF = instruction({
  name: 'BSF',
  source: 'SDM 2A 3.2 "BSF—Bit Scan Forward"',
  forms: { '0F BC /r': 'BSF rv, r/mv' },
  execute: (m) => scan(m, true),
});

export const BSR = instruction({
  name: 'BSR',
  source: 'SDM 2A 3.2 "BSR—Bit Scan Reverse"',
  forms: { '0F BD /r': 'BSR rv, r/mv' },
  execute: (m) => scan(m, false),
});

/** TZCNT, LZCNT: CF if the source is zero, ZF if the result is. */
function countZeros(m: Semantics, forward: boolean): void {
  const bits = m.size * 8;
  const source = m.let(m.loadU(1));
  const zeros = forward
    ? m.let(i64.ctz(bits === 64 ? source.get : i64.or(source.get, i64.const(2 ** bits))))
    : m.let(i64.sub(i64.clz(source.get), i64.const(64 - bits)));
  m.flagsResult(zeros.get, bitIf(i64.eqz(source.get), RFLAGS.CF));
  m.store(0, zeros.get);
}

export const TZCNT = instruction({
  name: 'TZCNT',
  source: 'SDM 2B 4.3 "TZCNT—Count the Number of Trailing Zero Bits"',
  forms: { 'F3 0F BC /r': 'TZCNT rv, r/mv' },
  feature: 'bmi1',
  execute: (m) => countZeros(m, true),
});

export const LZCNT = instruction({
  name: 'LZCNT',
  source: 'SDM 2A 3.2 "LZCNT—Count the Number of Leading Zero Bits"',
  forms: { 'F3 0F BD /r': 'LZCNT rv, r/mv' },
  feature: 'abm',
  execute: (m) => countZeros(m, false),
});

export const POPCNT = instruction({
  name: 'POPCNT',
  source: 'SDM 2B 4.3 "POPCNT—Return the Count of Number of Bits Set to 1"',
  forms: { 'F3 0F B8 /r': 'POPCNT rv, r/mv' },
  feature: 'popcnt',
  execute(m) {
    const source = m.let(m.loadU(1));
    m.flagsExplicit(bitIf(i64.eqz(source.get), RFLAGS.ZF));
    m.store(0, i64.popcnt(source.get));
  },
});

export const BSWAP = instruction({
  name: 'BSWAP',
  source: 'SDM 2A 3.2 "BSWAP—Byte Swap"',
  forms: { '0F C8+r': 'BSWAP rv' },
  execute(m) {
    const v = m.let(m.loadU(0));
    m.store(0, swapped(m, v.get, m.size));
  },
});

/** Bytes reversed. For 16 bits BSWAP is undefined: MEASURED, the result is 0; MOVBE swaps. */
export function swapped(m: Semantics, v: Expr, bytes: number): Expr {
  if (bytes === 2) return i64.const(0);
  const byteMask = bytes === 4 ? i64.const(0x00ff_00ff) : i64.halves(0x00ff_00ff, 0x00ff_00ff);
  const eights = m.let(
    i64.or(i64.shl(i64.and(v, byteMask), i64.const(8)), i64.and(i64.shrU(v, i64.const(8)), byteMask)),
  );
  if (bytes === 4) {
    const low = i64.and(i64.shrU(eights.get, i64.const(16)), i64.const(0xffff));
    return i64.or(i64.and(i64.shl(eights.get, i64.const(16)), i64.halves(-0x1_0000, 0)), low);
  }
  const wordMask = i64.halves(0xffff, 0xffff);
  const words = m.let(
    i64.or(
      i64.shl(i64.and(eights.get, wordMask), i64.const(16)),
      i64.and(i64.shrU(eights.get, i64.const(16)), wordMask),
    ),
  );
  return i64.rotl(words.get, i64.const(32));
}

export const MOVBE = instruction({
  name: 'MOVBE',
  source: 'SDM 2B 4.3 "MOVBE—Move Data After Swapping Bytes"',
  forms: { 'NP 0F 38 F0 /r:m': 'MOVBE rv, mv', 'NP 0F 38 F1 /r:m': 'MOVBE mv, rv' },
  feature: 'movbe',
  execute(m) {
    const v = m.let(m.loadU(1));
    if (m.size === 2) {
      m.store(0, i64.or(i64.shl(v.get, i64.const(8)), i64.shrU(v.get, i64.const(8))));
    } else m.store(0, swapped(m, v.get, m.size));
  },
});

export const SHIFTS: readonly Instruction[] = [
  SHL,
  SHR,
  SAR,
  ROL,
  ROR,
  RCL,
  RCR,
  SHLD,
  SHRD,
  BT,
  BTS,
  BTR,
  BTC,
  BSF,
  BSR,
  TZCNT,
  LZCNT,
  POPCNT,
  BSWAP,
  MOVBE,
];
