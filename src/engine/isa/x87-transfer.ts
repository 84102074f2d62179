import { type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import { S } from '../core/layout.ts';
import { EXPONENT, exc, FSW, masked, NARROW_DENORMAL, PRE_EXCEPTIONS, type Value } from '../float/f80-format.ts';
import { unmasked } from '../float/f80-stack.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { loadInteger, loadReal } from './x87-arithmetic.ts';
import { loadTen, storeTen, X87Semantics, ZERO } from './x87-machine.ts';

/** SDM 1 5.2.1 "x87 FPU Data Transfer Instructions", 5.2.5 "x87 FPU Load Constants Instructions". */

/**
 * Pushes a value. `trouble` (an i32): its exceptions are in EXC, or its source was empty; else it has none. `prepare` tells
 * the rare way which.
 */
function push(x: X87Semantics, v: Value, trouble?: Expr, prepare: () => void = () => x.begin()): void {
  const { m } = x;
  const top = x.register(-1);
  const full = i32.eqz(x.empty(top));
  m.rarely(
    trouble ? i32.or(full, trouble) : full,
    () => {
      prepare();
      const status = m.let(x.call('x87.push', v.sig.get, v.se.get));
      x.finish(status);
    },
    () => {
      m.f.do(i32.store(ZERO, top.get, S.FTOP));
      x.write(top, v);
      x.fill(top);
      x.settle(top);
    },
  );
}

const FLD = instruction({
  name: 'FLD',
  source: 'SDM 2A 3.2 "FLD—Load Floating-Point Value"',
  needs: 'x87',
  forms: { 'D9 /0:m': 'FLD m32', 'DD /0:m': 'FLD m64' },
  execute(m) {
    const x = new X87Semantics(m);
    const v = loadReal(m);
    x.begin();
    // Denormals and SNaNs
    const odd = i32.or(
      i32.and(v.se.get, i32.const(NARROW_DENORMAL)),
      i32.eq(i32.and(v.se.get, i32.const(EXPONENT)), i32.const(EXPONENT)),
    );
    m.f.if(odd, () => x.assign(v, 'f80.load', v.sig.get, v.se.get));
    push(x, v, exc(), () => {});
  },
});

const FLD80 = instruction({
  name: 'FLD',
  source: 'SDM 2A 3.2 "FLD—Load Floating-Point Value"',
  needs: 'x87',
  forms: { 'DB /5:m': 'FLD m80' },
  execute(m) {
    const x = new X87Semantics(m);
    push(x, loadTen(m, x));
  },
});

const FLD_REGISTER = instruction({
  name: 'FLD',
  source: 'SDM 2A 3.2 "FLD—Load Floating-Point Value"',
  needs: 'x87',
  forms: { 'D9 /0:r': 'FLD STi' },
  execute(m) {
    const x = new X87Semantics(m);
    const from = x.register(x.index);
    const v = x.read(from);
    push(x, v, x.empty(from), () => {
      x.begin();
      m.f.if(x.empty(from), () => {
        x.raise(FSW.IE | FSW.SF);
        m.f.set(v.sig, i64.halves(0, 0xc000_0000));
        m.f.set(v.se, i32.const(0xffff));
      });
    });
  },
});

const FILD = instruction({
  name: 'FILD',
  source: 'SDM 2A 3.2 "FILD—Load Integer"',
  needs: 'x87',
  forms: { 'DF /0:m': 'FILD m16', 'DB /0:m': 'FILD m32', 'DF /5:m': 'FILD m64' },
  execute(m) {
    const x = new X87Semantics(m);
    push(x, loadInteger(m));
  },
});

const FBLD = instruction({
  name: 'FBLD',
  source: 'SDM 2A 3.2 "FBLD—Load Binary Coded Decimal"',
  needs: 'x87',
  forms: { 'DF /4:m': 'FBLD m80' },
  execute(m) {
    const x = new X87Semantics(m);
    const v = loadTen(m, x);
    x.assign(v, 'f80.fromBcd', v.sig.get, v.se.get);
    push(x, v);
  },
});

/**
 * A store to memory: `convert` gives the bits and leaves its exceptions in EXC. Memory is written, the stack popped
 * and the status word changed only if no exception that keeps the result back is unmasked.
 */
function storing(
  m: Semantics,
  pops: number,
  indefinite: Value | (() => Value),
  convert: (x: X87Semantics, v: Value) => Value,
): void {
  const x = new X87Semantics(m);
  const { f } = m;
  m.address(true);
  const st0 = x.register(0);
  const v = x.read(st0);
  const result: Value = { sig: f.local(I64), se: f.local(I32) };
  m.rarely(
    x.empty(st0),
    () => {
      x.raise(FSW.IE | FSW.SF);
      const none = typeof indefinite === 'function' ? indefinite() : indefinite;
      f.set(result.sig, none.sig.get);
      f.set(result.se, none.se.get);
    },
    () => {
      x.begin();
      const r = convert(x, v);
      f.set(result.sig, r.sig.get);
      f.set(result.se, r.se.get);
    },
  );
  const write = (): void => {
    if (m.sizeOf(0) === 10) storeTen(m, result);
    else m.storeMemory(m.address(), result.sig.get, m.sizeOf(0));
  };
  m.rarely(
    unmasked(exc()),
    () => {
      const heldBack = m.let(unmasked(i32.and(exc(), i32.const(PRE_EXCEPTIONS | FSW.OE | FSW.UE))));
      // A place that cannot be written is told even so: MEASURED on AMD family 25
      f.if(i32.eqz(heldBack.get), write, () => f.drop(m.writable(m.address(), m.sizeOf(0)).get));
      const status = m.let(x.call('x87.merge', i32.const(FSW.C1)));
      x.finish(status);
      if (pops > 0) f.if(i32.eqz(heldBack.get), () => x.pop());
    },
    () => {
      write();
      x.settleExceptions(st0, pops);
    },
  );
}

const constant =
  (m: Semantics, sig: Expr, se: Expr = ZERO): (() => Value) =>
  () => ({ sig: m.let(sig), se: m.let(se) });

function storeReal(name: string, title: string, reg: number, pops: number): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [`D9 /${reg}:m`]: `${name} m32`, [`DD /${reg}:m`]: `${name} m64` },
    execute(m) {
      const single = m.sizeOf(0) === 4;
      const indefinite = single ? i64.halves(0xffc0_0000, 0) : i64.halves(0, 0xfff8_0000);
      storing(m, pops, constant(m, indefinite), (x, v) => ({
        sig: m.let(x.call(single ? 'f80.toF32' : 'f80.toF64', v.sig.get, v.se.get)),
        se: v.se,
      }));
    },
  });
}

const FSTP80 = instruction({
  name: 'FSTP',
  source: 'SDM 2A 3.2 "FST/FSTP—Store Floating-Point Value"',
  needs: 'x87',
  forms: { 'DB /7:m': 'FSTP m80' },
  execute(m) {
    storing(m, 1, constant(m, i64.halves(0, 0xc000_0000), i32.const(0xffff)), (_, v) => v);
  },
});

const FBSTP = instruction({
  name: 'FBSTP',
  source: 'SDM 2A 3.2 "FBSTP—Store BCD Integer and Pop"',
  needs: 'x87',
  forms: { 'DF /6:m': 'FBSTP m80' },
  execute(m) {
    storing(m, 1, constant(m, i64.halves(0, 0xc000_0000), i32.const(0xffff)), (x, v) =>
      x.pair('f80.toBcd', v.sig.get, v.se.get),
    );
  },
});

function storeInteger(
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  pops: number,
  truncate: boolean,
): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms,
    execute(m) {
      const width = 8 * m.sizeOf(0);
      const control = truncate ? i32.const(3) : i32.and(i32.shrU(masked(0xc00), i32.const(10)), i32.const(3));
      storing(m, pops, constant(m, i64.shl(i64.const(-1), i64.const(width - 1))), (x, v) => ({
        sig: m.let(x.call('f80.toInteger', v.sig.get, v.se.get, i32.const(width), control)),
        se: v.se,
      }));
    },
  });
}

function storeRegister(name: string, forms: Readonly<Record<string, string>>, pops: number): Instruction {
  return instruction({
    name,
    source: 'SDM 2A 3.2 "FST/FSTP—Store Floating-Point Value"',
    needs: 'x87',
    forms,
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      m.rarely(
        x.empty(st0),
        () => x.finish(m.let(x.call('x87.underflow', x.index)), pops),
        () => {
          const sti = x.register(x.index);
          x.write(sti, x.read(st0));
          x.fill(sti);
          x.settle(st0, pops);
        },
      );
    },
  });
}

/** MEASURED on AMD Zen 4: like FSTP, but an empty ST(0) is only popped. XED's name for it. */
const FSTPNCE = instruction({
  name: 'FSTPNCE',
  source: 'SDM 2A 3.2 "FST/FSTP—Store Floating-Point Value"',
  needs: 'x87',
  forms: { 'D9 /3:r': 'FSTPNCE STi' },
  execute(m) {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const v = x.read(st0);
    const status = x.status();
    x.begin();
    m.f.if(
      x.empty(st0),
      () => m.f.set(status, x.call('x87.merge', i32.const(FSW.C1))),
      () => m.f.set(status, x.call('x87.result', x.index, v.sig.get, v.se.get)),
    );
    x.finish(status, 1);
  },
});

const FXCH = instruction({
  name: 'FXCH',
  source: 'SDM 2A 3.2 "FXCH—Exchange Register Contents"',
  needs: 'x87',
  // The last two are aliases that the opcode map leaves reserved.
  forms: { 'D9 /1:r': 'FXCH STi', 'DD /1:r': 'FXCH STi', 'DF /1:r': 'FXCH STi' },
  execute(m) {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const sti = x.register(x.index);
    const a = x.read(st0);
    const b = x.read(sti);
    const indefinite = (v: Value): void => {
      m.f.set(v.sig, i64.halves(0, 0xc000_0000));
      m.f.set(v.se, i32.const(0xffff));
    };
    m.rarely(
      i32.or(x.empty(st0), x.empty(sti)),
      () => {
        m.f.if(x.empty(st0), () => indefinite(a));
        m.f.if(x.empty(sti), () => indefinite(b));
        x.raise(FSW.IE | FSW.SF);
        const status = m.let(x.call('x87.result', ZERO, b.sig.get, b.se.get));
        m.f.if(i32.eqz(status.get), () => m.f.set(status, x.call('x87.result', x.index, a.sig.get, a.se.get)));
        x.finish(status);
      },
      () => {
        x.write(st0, b);
        x.write(sti, a);
        x.settle(st0);
      },
    );
  },
});

const CONSTANTS = [
  ['FLDPI', 'D9 EB', 0],
  ['FLDL2T', 'D9 E9', 1],
  ['FLDL2E', 'D9 EA', 2],
  ['FLDLG2', 'D9 EC', 3],
  ['FLDLN2', 'D9 ED', 4],
  ['FLD1', 'D9 E8', 5],
  ['FLDZ', 'D9 EE', 6],
] as const;

const constants = CONSTANTS.map(([name, opcode, which]) =>
  instruction({
    name,
    source: 'SDM 2A 3.2 "FLD1/FLDL2T/FLDL2E/FLDPI/FLDLG2/FLDLN2/FLDZ—Load Constant"',
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      push(x, x.pair('x87.constant', i32.const(which)));
    },
  }),
);

/** SDM 2A "FCMOVcc—Floating-Point Conditional Move": condition codes in the order of the opcodes. */
const MOVES = [
  ['FCMOVB', 'DA /0:r', 2],
  ['FCMOVE', 'DA /1:r', 4],
  ['FCMOVBE', 'DA /2:r', 6],
  ['FCMOVU', 'DA /3:r', 10],
  ['FCMOVNB', 'DB /0:r', 3],
  ['FCMOVNE', 'DB /1:r', 5],
  ['FCMOVNBE', 'DB /2:r', 7],
  ['FCMOVNU', 'DB /3:r', 11],
] as const;

const moves = MOVES.map(([name, opcode, condition]) =>
  instruction({
    name,
    source: 'SDM 2A 3.2 "FCMOVcc—Floating-Point Conditional Move"',
    needs: 'x87',
    forms: { [opcode]: `${name} ST0, STi` },
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      const sti = x.register(x.index);
      const v = x.read(sti);
      const status = x.status();
      // MEASURED on AMD Zen 4: C1 stays unless the stack underflows.
      m.f.if(
        i32.or(x.empty(st0), x.empty(sti)),
        () => m.f.set(status, x.call('x87.underflow', ZERO)),
        () => m.f.if(m.condition(condition), () => x.write(st0, v)),
      );
      x.finish(status);
    },
  }),
);

export const X87_TRANSFER: readonly Instruction[] = [
  FLD,
  FLD80,
  FLD_REGISTER,
  FILD,
  FBLD,
  storeReal('FST', 'FST/FSTP—Store Floating-Point Value', 2, 0),
  storeReal('FSTP', 'FST/FSTP—Store Floating-Point Value', 3, 1),
  FSTP80,
  FBSTP,
  storeInteger('FIST', 'FIST/FISTP—Store Integer', { 'DF /2:m': 'FIST m16', 'DB /2:m': 'FIST m32' }, 0, false),
  storeInteger(
    'FISTP',
    'FIST/FISTP—Store Integer',
    { 'DF /3:m': 'FISTP m16', 'DB /3:m': 'FISTP m32', 'DF /7:m': 'FISTP m64' },
    1,
    false,
  ),
  storeInteger(
    'FISTTP',
    'FISTTP—Store Integer with Truncation',
    { 'DF /1:m': 'FISTTP m16', 'DB /1:m': 'FISTTP m32', 'DD /1:m': 'FISTTP m64' },
    1,
    true,
  ),
  storeRegister('FST', { 'DD /2:r': 'FST STi' }, 0),
  // DF and D9 are aliases that the opcode map leaves reserved.
  storeRegister('FSTP', { 'DD /3:r': 'FSTP STi', 'DF /2:r': 'FSTP STi', 'DF /3:r': 'FSTP STi' }, 1),
  FSTPNCE,
  FXCH,
  ...constants,
  ...moves,
];
