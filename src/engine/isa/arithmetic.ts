import { call, type Expr, f64, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/** Binary integer arithmetic and logic. SDM 1 5.1.2 "Binary Arithmetic Instructions", 5.1.4 "Logical Instructions". */

/** The eight encodings that ADD, OR, ADC, SBB, AND, SUB, XOR, CMP share. SDM 2D Table B-13. */
function eight(name: string, base: number, digit: number): Record<string, string> {
  const op = (offset: number): string => (base + offset).toString(16).toUpperCase().padStart(2, '0');
  return {
    [`${op(0)} /r`]: `${name} r/m8, r8`,
    [`${op(1)} /r`]: `${name} r/mv, rv`,
    [`${op(2)} /r`]: `${name} r8, r/m8`,
    [`${op(3)} /r`]: `${name} rv, r/mv`,
    [`${op(4)} ib`]: `${name} AL, imm8`,
    [`${op(5)} iz`]: `${name} rAX, immz`,
    [`80 /${digit} ib`]: `${name} r/m8, imm8`,
    [`82 /${digit} ib i64`]: `${name} r/m8, imm8`,
    [`81 /${digit} iz`]: `${name} r/mv, immz`,
    [`83 /${digit} ib`]: `${name} r/mv, imm8`,
  };
}

/** `dst = f(dst, src)` with the flags set by `flags(m, old, operand, result)`; result is sign-extended. */
function binary(
  compute: (a: Expr, b: Expr) => Expr,
  flags: (m: Semantics, a: Expr, b: Expr, result: Expr) => void,
): (m: Semantics) => void {
  return (m) => {
    const b = m.let(m.load(1));
    m.modify(0, (a) => {
      const result = m.let(m.signExtend(compute(a, b.get), m.size));
      flags(m, a, b.get, result.get);
      return result.get;
    });
  };
}

const logic = (compute: (a: Expr, b: Expr) => Expr) => binary(compute, (m, _a, _b, result) => m.flagsLogic(result));

export const ADD = instruction({
  name: 'ADD',
  source: 'SDM 2A 3.2 "ADD—Add"',
  forms: eight('ADD', 0x00, 0),
  lockable: true,
  execute: binary(i64.add, (m, a, _b, result) => m.flagsAdd(result, a)),
});

export const SUB = instruction({
  name: 'SUB',
  source: 'SDM 2B 4.3 "SUB—Subtract"',
  forms: eight('SUB', 0x28, 5),
  lockable: true,
  execute: binary(i64.sub, (m, a, b) => m.flagsSub(a, b)),
});

export const AND = instruction({
  name: 'AND',
  source: 'SDM 2A 3.2 "AND—Logical AND"',
  forms: eight('AND', 0x20, 4),
  lockable: true,
  execute: logic(i64.and),
});

export const OR = instruction({
  name: 'OR',
  source: 'SDM 2B 4.3 "OR—Logical Inclusive OR"',
  forms: eight('OR', 0x08, 1),
  lockable: true,
  execute: logic(i64.or),
});

export const XOR = instruction({
  name: 'XOR',
  source: 'SDM 2D 6.1 "XOR—Logical Exclusive OR"',
  forms: eight('XOR', 0x30, 6),
  lockable: true,
  execute: logic(i64.xor),
});

export const CMP = instruction({
  name: 'CMP',
  source: 'SDM 2A 3.2 "CMP—Compare Two Operands"',
  forms: eight('CMP', 0x38, 7),
  execute(m) {
    const a = m.let(m.load(0));
    const b = m.load(1);
    m.flagsSub(a.get, b);
  },
});

export const TEST = instruction({
  name: 'TEST',
  source: 'SDM 2B 4.3 "TEST—Logical Compare"',
  forms: {
    'A8 ib': 'TEST AL, imm8',
    'A9 iz': 'TEST rAX, immz',
    'F6 /0 ib': 'TEST r/m8, imm8',
    'F6 /1 ib': 'TEST r/m8, imm8',
    'F7 /0 iz': 'TEST r/mv, immz',
    'F7 /1 iz': 'TEST r/mv, immz',
    '84 /r': 'TEST r/m8, r8',
    '85 /r': 'TEST r/mv, rv',
  },
  execute(m) {
    const a = m.let(m.load(0));
    m.flagsLogic(i64.and(a.get, m.load(1)));
  },
});

/** CF, AF and OF of `result = a ± b ± carry`, as bits: the carries in and out of each bit tell all three. */
function carryFlags(m: Semantics, carries: Expr): Expr {
  const bits = m.size * 8;
  const c = m.let(carries);
  const carry = i64.and(i64.shrU(c.get, i64.const(bits - 1)), i64.const(1));
  const adjust = i64.shl(i64.and(i64.shrU(c.get, i64.const(3)), i64.const(1)), i64.const(4));
  const into = i64.and(i64.shrU(c.get, i64.const(bits - 2)), i64.const(1));
  return i64.or(i64.or(carry, adjust), i64.shl(i64.xor(into, carry), i64.const(11)));
}

/** Carries out of each bit of a + b + c = r. */
const carriesOfAdd = (a: Expr, b: Expr, r: Expr): Expr =>
  i64.or(i64.and(a, b), i64.and(i64.or(a, b), i64.xor(r, i64.const(-1))));
/** Borrows out of each bit of a - b - c = r. */
const borrowsOfSub = (a: Expr, b: Expr, r: Expr): Expr =>
  i64.or(i64.and(i64.xor(a, i64.const(-1)), b), i64.and(i64.or(i64.xor(a, i64.const(-1)), b), r));

export const ADC = instruction({
  name: 'ADC',
  source: 'SDM 2A 3.2 "ADC—Add With Carry"',
  forms: eight('ADC', 0x10, 2),
  lockable: true,
  execute(m) {
    const b = m.let(m.load(1));
    const carry = m.let(m.carry());
    m.modify(0, (a) => {
      const r = m.let(m.signExtend(i64.add(i64.add(a, b.get), carry.get), m.size));
      m.flagsResult(r.get, carryFlags(m, carriesOfAdd(a, b.get, r.get)));
      return r.get;
    });
  },
});

export const SBB = instruction({
  name: 'SBB',
  source: 'SDM 2B 4.3 "SBB—Integer Subtraction With Borrow"',
  forms: eight('SBB', 0x18, 3),
  lockable: true,
  execute(m) {
    const b = m.let(m.load(1));
    const carry = m.let(m.carry());
    m.modify(0, (a) => {
      const r = m.let(m.signExtend(i64.sub(i64.sub(a, b.get), carry.get), m.size));
      m.flagsResult(r.get, carryFlags(m, borrowsOfSub(a, b.get, r.get)));
      return r.get;
    });
  },
});

/** INC and DEC: CF stays. */
function step(m: Semantics, by: 1 | -1): void {
  const carry = m.let(m.carry());
  m.modify(0, (a) => {
    const r = m.let(m.signExtend(i64.add(a, i64.const(by)), m.size));
    const edge = by === 1 ? 2 ** (m.size * 8 - 1) : 2 ** (m.size * 8 - 1) - 1;
    // Overflow exactly when the result is the most negative (INC) or the most positive (DEC) value
    const limit =
      m.size === 8
        ? by === 1
          ? i64.halves(0, 0x8000_0000)
          : i64.halves(-1, 0x7fff_ffff)
        : i64.const(by === 1 ? -edge : edge);
    const overflow = i64.shl(i64.extendI32U(i64.eq(r.get, limit)), i64.const(11));
    const adjust = i64.and(i64.xor(i64.xor(a, r.get), i64.const(1)), i64.const(RFLAGS.AF));
    m.flagsResult(r.get, i64.or(i64.or(carry.get, overflow), adjust));
    return r.get;
  });
}

export const INC = instruction({
  name: 'INC',
  source: 'SDM 2A 3.2 "INC—Increment by 1"',
  forms: { 'FE /0': 'INC r/m8', 'FF /0': 'INC r/mv', '40+r i64': 'INC rv' },
  lockable: true,
  execute: (m) => step(m, 1),
});

export const DEC = instruction({
  name: 'DEC',
  source: 'SDM 2A 3.2 "DEC—Decrement by 1"',
  forms: { 'FE /1': 'DEC r/m8', 'FF /1': 'DEC r/mv', '48+r i64': 'DEC rv' },
  lockable: true,
  execute: (m) => step(m, -1),
});

export const NEG = instruction({
  name: 'NEG',
  source: 'SDM 2B 4.3 "NEG—Two\'s Complement Negation"',
  forms: { 'F6 /3': 'NEG r/m8', 'F7 /3': 'NEG r/mv' },
  lockable: true,
  execute(m) {
    m.modify(0, (a) => {
      m.flagsSub(i64.const(0), a);
      return i64.sub(i64.const(0), a);
    });
  },
});

export const NOT = instruction({
  name: 'NOT',
  source: 'SDM 2B 4.3 "NOT—One\'s Complement Negation"',
  forms: { 'F6 /2': 'NOT r/m8', 'F7 /2': 'NOT r/mv' },
  lockable: true,
  execute(m) {
    m.modify(0, (a) => i64.xor(a, i64.const(-1)));
  },
});

/** CF = OF = the product does not fit; SF as the result's (MEASURED on AMD EPYC; the manual leaves SF ZF AF PF undefined). */
function multiplyFlags(m: Semantics, low: Expr, overflow: Expr): void {
  const both = i64.extendI32U(i32.mul(overflow, i32.const(RFLAGS.CF | RFLAGS.OF)));
  m.flagsResult(low, both);
}

/** 2^63, and how far a product of two rounded factors may be off: three roundings of 2^-53 each. */
const [BELOW, ABOVE] = [2 ** 63 * (1 - 2 ** -50), 2 ** 63 * (1 + 2 ** -50)];

/**
 * Does a signed product not fit 64 bits? Of two halves, as long multiplications have them, its sign tells; otherwise it is found
 * in floating point unless that is too close to tell. An i32.
 */
function overflowS(m: Semantics, a: Local, b: Local, low: Local): Expr {
  const result = m.f.local(I32);
  m.f.if(
    i64.eqz(i64.shrU(i64.or(a.get, b.get), i64.const(32))),
    () => m.f.set(result, i64.ltS(low.get, i64.const(0))),
    () => {
      const about = m.let(f64.abs(f64.mul(f64.convertI64S(a.get), f64.convertI64S(b.get))));
      m.f.set(result, f64.gt(about.get, f64.const(BELOW)));
      m.f.if(i32.and(result.get, f64.lt(about.get, f64.const(ABOVE))), () => {
        m.f.set(result, i64.ne(call(m.lib.mulHighS, a.get, b.get), i64.shrS(low.get, i64.const(63))));
      });
    },
  );
  return result.get;
}

/** RDX:RAX (or AX) = RAX × operand. */
function multiplyWide(m: Semantics, signed: boolean): void {
  const bytes = m.size;
  const b = m.let(signed ? m.load(0) : m.loadU(0));
  const a = m.let(m.regPart(0, bytes, signed));
  if (bytes === 8) {
    const low = m.let(i64.mul(a.get, b.get));
    const high = m.let(call(signed ? m.lib.mulHighS : m.lib.mulHighU, a.get, b.get));
    m.setReg(0, low.get);
    m.setReg(2, high.get);
    multiplyFlags(m, low.get, i64.ne(high.get, signed ? i64.shrS(low.get, i64.const(63)) : i64.const(0)));
    return;
  }
  const product = m.let(i64.mul(a.get, b.get));
  if (bytes === 1) m.setReg(0, product.get, 2);
  else {
    m.setReg(0, product.get, bytes);
    m.setReg(2, i64.shrU(product.get, i64.const(bytes * 8)), bytes);
  }
  const low = m.let(m.signExtend(product.get, bytes));
  multiplyFlags(m, low.get, i64.ne(product.get, signed ? low.get : m.zeroExtend(product.get, bytes)));
}

export const MUL = instruction({
  name: 'MUL',
  source: 'SDM 2B 4.3 "MUL—Unsigned Multiply"',
  forms: { 'F6 /4': 'MUL r/m8', 'F7 /4': 'MUL r/mv' },
  execute: (m) => multiplyWide(m, false),
});

export const IMUL_WIDE = instruction({
  name: 'IMUL',
  source: 'SDM 2A 3.2 "IMUL—Signed Multiply"',
  forms: { 'F6 /5': 'IMUL r/m8', 'F7 /5': 'IMUL r/mv' },
  execute: (m) => multiplyWide(m, true),
});

export const IMUL = instruction({
  name: 'IMUL',
  source: 'SDM 2A 3.2 "IMUL—Signed Multiply"',
  forms: { '0F AF /r': 'IMUL rv, r/mv', '6B /r ib': 'IMUL rv, r/mv, imm8', '69 /r iz': 'IMUL rv, r/mv, immz' },
  execute(m) {
    const three = m.operands.length === 3;
    const a = m.let(m.load(three ? 1 : 0));
    const b = m.let(m.load(three ? 2 : 1));
    const product = m.let(i64.mul(a.get, b.get));
    const result = m.let(m.signExtend(product.get, m.size));
    if (!m.flagsAreUnseen) {
      const overflow = m.size === 8 ? overflowS(m, a, b, product) : i64.ne(product.get, result.get);
      multiplyFlags(m, result.get, overflow);
    }
    m.store(0, result.get);
  },
});

/** Divides RDX:RAX (AX for bytes). #DE if the divisor is 0 or the quotient does not fit. Flags stay (undefined). */
function divide(m: Semantics, signed: boolean): void {
  const bytes = m.size;
  const divisor = m.let(signed ? m.load(0) : m.loadU(0));
  m.raiseIf(i64.eqz(divisor.get), 0);
  if (bytes === 8) {
    // (low, high, divisor) → status; quotient in S.VALUE, remainder in S.EA
    const fits = m.let(call(m.lib.byName(signed ? 'divide128S' : 'divide128U'), m.reg(0), m.reg(2), divisor.get));
    m.raiseIf(i32.eqz(fits.get), 0);
    m.setReg(0, call(m.lib.byName('quotient')));
    m.setReg(2, call(m.lib.byName('remainder')));
    return;
  }
  const dividend = m.f.local(I64);
  const shift = i64.const(bytes * 8);
  if (bytes === 1) m.f.set(dividend, m.regPart(0, 2, signed));
  else {
    const high = m.regPart(2, bytes, signed);
    m.f.set(dividend, i64.or(i64.shl(high, shift), m.regPart(0, bytes)));
  }
  const quotient = m.f.local(I64);
  if (signed) {
    // -2^63 / -1 traps in WebAssembly: it can only be a 32-bit division that does not fit
    if (bytes === 4) {
      const worst = i32.and(i64.eq(dividend.get, i64.halves(0, 0x8000_0000)), i64.eq(divisor.get, i64.const(-1)));
      m.raiseIf(worst, 0);
    }
    m.f.set(quotient, i64.divS(dividend.get, divisor.get));
    m.raiseIf(i64.ne(quotient.get, m.signExtend(quotient.get, bytes)), 0);
  } else {
    m.f.set(quotient, i64.divU(dividend.get, divisor.get));
    m.raiseIf(i64.ne(i64.shrU(quotient.get, shift), i64.const(0)), 0);
  }
  const remainder = m.let((signed ? i64.remS : i64.remU)(dividend.get, divisor.get));
  if (bytes === 1) {
    const both = i64.or(i64.and(quotient.get, i64.const(0xff)), i64.shl(remainder.get, i64.const(8)));
    m.setReg(0, both, 2);
  } else {
    m.setReg(0, quotient.get, bytes);
    m.setReg(2, remainder.get, bytes);
  }
}

export const DIV = instruction({
  name: 'DIV',
  source: 'SDM 2A 3.2 "DIV—Unsigned Divide"',
  forms: { 'F6 /6': 'DIV r/m8', 'F7 /6': 'DIV r/mv' },
  execute: (m) => divide(m, false),
});

export const IDIV = instruction({
  name: 'IDIV',
  source: 'SDM 2A 3.2 "IDIV—Signed Divide"',
  forms: { 'F6 /7': 'IDIV r/m8', 'F7 /7': 'IDIV r/mv' },
  execute: (m) => divide(m, true),
});

export const ADCX = instruction({
  name: 'ADCX',
  source: 'SDM 2A 3.2 "ADCX—Unsigned Integer Addition of Two Operands With Carry Flag"',
  forms: { '66 0F 38 F6 /r': 'ADCX ry, r/my' },
  feature: 'adx',
  execute: (m) => addWithFlag(m, RFLAGS.CF),
});

export const ADOX = instruction({
  name: 'ADOX',
  source: 'SDM 2A 3.2 "ADOX—Unsigned Integer Addition of Two Operands With Overflow Flag"',
  forms: { 'F3 0F 38 F6 /r': 'ADOX ry, r/my' },
  feature: 'adx',
  execute: (m) => addWithFlag(m, RFLAGS.OF),
});

function addWithFlag(m: Semantics, flag: number): void {
  const b = m.let(m.loadU(1));
  const a = m.let(m.loadU(0));
  const flags = m.let(m.flags());
  const carry = i64.extendI32U(i64.ne(i64.and(flags.get, i64.const(flag)), i64.const(0)));
  const r = m.let(i64.add(i64.add(a.get, b.get), carry));
  const out = i64.and(i64.shrU(carriesOfAdd(a.get, b.get, r.get), i64.const(m.size * 8 - 1)), i64.const(1));
  const kept = i64.and(flags.get, i64.const(0x8d5 & ~flag));
  m.flagsExplicit(i64.or(kept, i64.mul(out, i64.const(flag))));
  m.store(0, r.get);
}

export const ARITHMETIC: readonly Instruction[] = [
  ADD,
  OR,
  ADC,
  SBB,
  AND,
  SUB,
  XOR,
  CMP,
  TEST,
  INC,
  DEC,
  NEG,
  NOT,
  MUL,
  IMUL_WIDE,
  IMUL,
  DIV,
  IDIV,
  ADCX,
  ADOX,
];
