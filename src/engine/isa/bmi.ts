import { call, type Expr, I64, i64, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/**
 * BMI1 and BMI2: bit manipulation on general registers, VEX-encoded. TZCNT and LZCNT, which are not, are in shifts.ts.
 *
 * They need neither CR4.OSXSAVE nor XCR0. VEX.W is the operand size in 64-bit mode and ignored elsewhere.
 *
 * Source  SDM 1 5.1.16 "BMI1 and BMI2 Instructions"; SDM 2A 2.4 "VEX Encoding Support for GPR Instructions"
 *         (VEX.L other than 0 is #UD); undefined flags are left as the result makes them.
 */
const row = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  feature: 'bmi1' | 'bmi2',
  execute: (m: Semantics) => void,
): Instruction => instruction({ name, source: `SDM 2 "${name}—${title}"`, forms, feature, execute });

const one = i64.const(1);
const flagIf = (condition: Expr, mask: number): Expr => i64.mul(i64.extendI32U(condition), i64.const(mask));

/** Stores `result` (zero-extended) with ZF and SF of it, CF as given, OF clear. */
function storeWithFlags(m: Semantics, result: Local, carry: Expr): void {
  m.flagsResult(m.signExtend(result.get, m.size), carry);
  m.store(0, result.get);
}

/** BLSR, BLSMSK, BLSI: destination in VEX.vvvv, one source. */
const lowestBit = (
  name: string,
  title: string,
  digit: number,
  compute: (source: Expr) => Expr,
  carryIf: 'zero' | 'not zero',
): Instruction =>
  row(name, title, { [`VEX.LZ.0F38.WIG F3 /${digit}`]: `${name} ryV, r/my` }, 'bmi1', (m) => {
    const source = m.let(m.loadU(1));
    const result = m.let(m.zeroExtend(compute(source.get), m.size));
    const carry = (carryIf === 'zero' ? i64.eq : i64.ne)(source.get, i64.const(0));
    storeWithFlags(m, result, flagIf(carry, RFLAGS.CF));
  });

/** SARX, SHLX, SHRX: no flags; the count's low five or six bits. */
const shift = (name: string, prefix: string, compute: (m: Semantics, count: Expr) => Expr): Instruction =>
  row(
    name,
    'Shift Without Affecting Flags',
    { [`VEX.LZ.${prefix}.0F38.WIG F7 /r`]: `${name} ry, r/my, ryV` },
    'bmi2',
    (m) => {
      const count = m.let(i64.and(m.loadU(2), i64.const(m.size * 8 - 1)));
      m.store(0, compute(m, count.get));
    },
  );

/** Goes through the mask's bits from the lowest; `place` is one bit, moved up by one for each of them. */
function forEachMaskBit(m: Semantics, mask: Local, body: (low: Expr, place: Expr) => void): void {
  const place = m.let(one);
  const low = m.f.local(I64);
  m.f.block((done) => {
    m.f.loop((top) => {
      m.f.brIf(done, i64.eqz(mask.get));
      m.f.set(low, i64.and(mask.get, i64.sub(i64.const(0), mask.get)));
      body(low.get, place.get);
      m.f.set(place, i64.shl(place.get, one));
      m.f.set(mask, i64.xor(mask.get, low.get));
      m.f.br(top);
    });
  });
}

/** PDEP and PEXT: a bit of the source is `from`, and becomes the bit `to` of the result. */
const parallel = (name: string, title: string, prefix: string, deposit: boolean): Instruction =>
  row(name, title, { [`VEX.LZ.${prefix}.0F38.WIG F5 /r`]: `${name} ry, ryV, r/my` }, 'bmi2', (m) => {
    const mask = m.let(m.loadU(2));
    const source = m.let(m.loadU(1));
    const result = m.let(i64.const(0));
    forEachMaskBit(m, mask, (low, place) => {
      const [from, to] = deposit ? [place, low] : [low, place];
      const set = i64.ne(i64.and(source.get, from), i64.const(0));
      m.f.set(result, i64.or(result.get, select(set, to, i64.const(0))));
    });
    m.store(0, result.get);
  });

export const BMI: readonly Instruction[] = [
  row('ANDN', 'Logical AND NOT', { 'VEX.LZ.0F38.WIG F2 /r': 'ANDN ry, ryV, r/my' }, 'bmi1', (m) => {
    const b = m.let(m.load(2));
    const result = m.let(i64.and(i64.xor(m.load(1), i64.const(-1)), b.get));
    m.flagsLogic(result.get);
    m.store(0, result.get);
  }),
  row('BEXTR', 'Bit Field Extract', { 'VEX.LZ.0F38.WIG F7 /r': 'BEXTR ry, r/my, ryV' }, 'bmi1', (m) => {
    const source = m.let(m.loadU(1));
    const control = m.let(m.loadU(2));
    const start = m.let(i64.and(control.get, i64.const(0xff)));
    const length = m.let(i64.and(i64.shrU(control.get, i64.const(8)), i64.const(0xff)));
    const moved = select(i64.gtU(start.get, i64.const(63)), i64.const(0), i64.shrU(source.get, start.get));
    const mask = i64.sub(i64.shl(one, length.get), one);
    const result = m.let(i64.and(moved, select(i64.gtU(length.get, i64.const(63)), i64.const(-1), mask)));
    m.flagsExplicit(flagIf(i64.eqz(result.get), RFLAGS.ZF));
    m.store(0, result.get);
  }),
  lowestBit('BLSI', 'Extract Lowest Set Isolated Bit', 3, (x) => i64.and(x, i64.sub(i64.const(0), x)), 'not zero'),
  lowestBit('BLSMSK', 'Get Mask Up to Lowest Set Bit', 2, (x) => i64.xor(x, i64.sub(x, one)), 'zero'),
  lowestBit('BLSR', 'Reset Lowest Set Bit', 1, (x) => i64.and(x, i64.sub(x, one)), 'zero'),
  row(
    'BZHI',
    'Zero High Bits Starting with Specified Bit Position',
    { 'VEX.LZ.0F38.WIG F5 /r': 'BZHI ry, r/my, ryV' },
    'bmi2',
    (m) => {
      const source = m.let(m.loadU(1));
      const index = m.let(i64.and(m.loadU(2), i64.const(0xff)));
      const beyond = m.let(i64.gtU(index.get, i64.const(m.size * 8 - 1)));
      const kept = i64.and(source.get, i64.sub(i64.shl(one, index.get), one));
      const result = m.let(select(beyond.get, source.get, kept));
      storeWithFlags(m, result, flagIf(beyond.get, RFLAGS.CF));
    },
  ),
  row(
    'MULX',
    'Unsigned Multiply Without Affecting Flags',
    { 'VEX.LZ.F2.0F38.WIG F6 /r': 'MULX ry, ryV, r/my' },
    'bmi2',
    (m) => {
      const b = m.let(m.loadU(2));
      const a = m.let(m.regPart(2, m.size));
      const low = m.let(i64.mul(a.get, b.get));
      const high = m.let(m.size === 8 ? call(m.lib.mulHighU, a.get, b.get) : i64.shrU(low.get, i64.const(32)));
      // "If the first and second operand are identical, it will contain the high half of the multiplication result."
      m.store(1, low.get);
      m.store(0, high.get);
    },
  ),
  parallel('PDEP', 'Parallel Bits Deposit', 'F2', true),
  parallel('PEXT', 'Parallel Bits Extract', 'F3', false),
  row(
    'RORX',
    'Rotate Right Logical Without Affecting Flags',
    { 'VEX.LZ.F2.0F3A.WIG F0 /r ib': 'RORX ry, r/my, imm8' },
    'bmi2',
    (m) => {
      const source = m.let(m.loadU(1));
      const count = m.let(i64.and(m.loadU(2), i64.const(m.size * 8 - 1)));
      if (m.size === 8) m.store(0, i64.rotr(source.get, count.get));
      else {
        const twice = i64.or(source.get, i64.shl(source.get, i64.const(32)));
        m.store(0, i64.shrU(twice, count.get));
      }
    },
  ),
  shift('SARX', 'F3', (m, count) => i64.shrS(m.load(1), count)),
  shift('SHLX', '66', (m, count) => i64.shl(m.loadU(1), count)),
  shift('SHRX', 'F2', (m, count) => i64.shrU(m.loadU(1), count)),
];
