import { type Expr, I32, i32 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { widened } from '../float/f80-convert.ts';
import { clearStatus, FSW, type Value } from '../float/f80-format.ts';
import { fromInteger } from '../float/f80-remainder.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { X87Semantics, ZERO } from './x87-machine.ts';

/** SDM 1 5.2.2 "x87 FPU Basic Arithmetic Instructions". */
const ARITHMETIC = [
  // name, source, ModRM.reg with memory and with ST(0) as destination, with ST(i), function, operands exchanged
  ['ADD', 'FADD/FADDP/FIADD—Add', 0, 0, 'add', false],
  ['MUL', 'FMUL/FMULP/FIMUL—Multiply', 1, 1, 'mul', false],
  ['SUB', 'FSUB/FSUBP/FISUB—Subtract', 4, 5, 'sub', false],
  ['SUBR', 'FSUBR/FSUBRP/FISUBR—Reverse Subtract', 5, 4, 'sub', true],
  ['DIV', 'FDIV/FDIVP/FIDIV—Divide', 6, 7, 'div', false],
  ['DIVR', 'FDIVR/FDIVRP/FIDIVR—Reverse Divide', 7, 6, 'div', true],
] as const;

/** Value of the memory operand: m32 and m64 real, m16 and m32 integer. */
export function loadReal(m: Semantics): Value {
  const bits = m.let(m.loadU(0));
  const bytes = m.sizeOf(0);
  return widened(m.f, bits, bytes, m.lib.byName(bytes === 4 ? 'f80.fromF32' : 'f80.fromF64'));
}
export const loadInteger = (m: Semantics): Value => fromInteger(m.f, m.let(m.load(0)));

/** `destination ← name(a, b)`, unless an operand is empty. `number`: the register that it is; `top`: that of ST(0). */
function compute(
  x: X87Semantics,
  name: string,
  destination: Expr,
  number: Local,
  top: Local,
  empty: Expr,
  [a, b]: readonly [Value, Value],
  exchanged: boolean,
  pops: number,
): void {
  const { m } = x;
  const [p, q] = exchanged ? [b, a] : [a, b];
  const operands = [p.sig.get, p.se.get, q.sig.get, q.se.get];
  const done = m.f.ifValue(
    empty,
    () => ZERO,
    () => x.call(`x87.${name}`, number.get, ...operands),
    I32,
  );
  m.rarely(
    i32.eqz(done.get),
    () => {
      const status = x.status();
      m.f.if(
        empty,
        () => m.f.set(status, x.call('x87.underflow', destination)),
        () => {
          x.begin();
          const r = x.pair(`f80.${name}`, ...operands);
          m.f.set(status, x.call('x87.result', destination, r.sig.get, r.se.get));
        },
      );
      x.finish(status, pops);
    },
    () => x.settleRest(top, pops),
  );
}

const arithmetic = ARITHMETIC.flatMap(([name, title, direct, reverse, operation, exchanged]): Instruction[] => {
  const source = `SDM 2A 3.2 "${title}"`;
  const withMemory = (load: (m: Semantics) => Value) => (m: Semantics) => {
    const x = new X87Semantics(m);
    const b = load(m);
    const st0 = x.register(0);
    compute(x, operation, ZERO, st0, st0, x.empty(st0), [x.read(st0), b], exchanged, 0);
  };
  const withRegister = (toIndex: boolean, pops: number) => (m: Semantics) => {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const sti = x.register(x.index);
    const empty = i32.or(x.empty(st0), x.empty(sti));
    const [a, b] = toIndex ? [sti, st0] : [st0, sti];
    compute(x, operation, toIndex ? x.index : ZERO, a, st0, empty, [x.read(a), x.read(b)], exchanged, pops);
  };
  return [
    instruction({
      name: `F${name}`,
      source,
      needs: 'x87',
      forms: { [`D8 /${direct}:m`]: `F${name} m32`, [`DC /${direct}:m`]: `F${name} m64` },
      execute: withMemory(loadReal),
    }),
    instruction({
      name: `F${name}`,
      source,
      needs: 'x87',
      forms: { [`D8 /${direct}:r`]: `F${name} ST0, STi` },
      execute: withRegister(false, 0),
    }),
    instruction({
      name: `F${name}`,
      source,
      needs: 'x87',
      forms: { [`DC /${reverse}:r`]: `F${name} STi, ST0` },
      execute: withRegister(true, 0),
    }),
    instruction({
      name: `F${name}P`,
      source,
      needs: 'x87',
      forms: { [`DE /${reverse}:r`]: `F${name}P STi, ST0` },
      execute: withRegister(true, 1),
    }),
    instruction({
      name: `FI${name}`,
      source,
      needs: 'x87',
      forms: { [`DA /${direct}:m`]: `FI${name} m32`, [`DE /${direct}:m`]: `FI${name} m16` },
      execute: withMemory(loadInteger),
    }),
  ];
});

/** ST(0) ← name(ST(0)) or name(ST(0), ST(1)) */
function onTop(name: string, opcode: string, title: string, operation: string, binary: boolean): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      const a = x.read(st0);
      const more: Expr[] = [];
      let empty = x.empty(st0);
      if (binary) {
        const st1 = x.register(1);
        const b = x.read(st1);
        more.push(b.sig.get, b.se.get);
        empty = i32.or(empty, x.empty(st1));
      }
      if (operation === 'f80.remainder') more.push(i32.const(name === 'FPREM1' ? 1 : 0));
      const status = x.status();
      if (operation === 'f80.remainder') clearStatus(m.f, FSW.C2);
      m.f.if(
        empty,
        () => m.f.set(status, x.call('x87.underflow', i32.const(0))),
        () => {
          x.begin();
          const r = x.pair(operation, a.sig.get, a.se.get, ...more);
          m.f.set(status, x.call('x87.result', i32.const(0), r.sig.get, r.se.get));
        },
      );
      x.finish(status);
    },
  });
}

const FXTRACT = instruction({
  name: 'FXTRACT',
  source: 'SDM 2A 3.2 "FXTRACT—Extract Exponent and Significand"',
  needs: 'x87',
  forms: { 'D9 F4': 'FXTRACT' },
  execute(m) {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const above = x.register(-1);
    const a = x.read(st0);
    const status = x.status();
    m.f.if(
      x.empty(st0),
      () => {
        // both results are the indefinite
        m.f.set(status, x.call('x87.underflow', i32.const(0)));
        pushCopy(x, status);
      },
      () => {
        m.f.if(
          i32.eqz(x.empty(above)),
          () => {
            m.f.set(status, x.call('x87.overflow', i32.const(0)));
            pushCopy(x, status);
          },
          () => {
            x.begin();
            const significand = x.pair('f80.extract', a.sig.get, a.se.get);
            const exponent = x.pair('f80.extracted');
            m.f.set(status, x.call('x87.result', i32.const(0), exponent.sig.get, exponent.se.get));
            pushIfHappened(x, status, significand);
          },
        );
      },
    );
    x.finish(status);
  },
});

/** After an instruction with two results has written the first: the second goes on top, with no more to signal. */
export function pushIfHappened(x: X87Semantics, status: { get: Expr }, value: Value): void {
  x.m.f.if(i32.eqz(i32.and(status.get, i32.const(FSW.IE | FSW.DE | FSW.ZE))), () =>
    x.m.f.do(x.call('x87.pushQuietly', value.sig.get, value.se.get)),
  );
}
/** The same with a copy of ST(0). */
export function pushCopy(x: X87Semantics, status: { get: Expr }): void {
  pushIfHappened(x, status, x.read(x.register(0)));
}

/** FCHS and FABS: the sign bit only, whatever the value is. */
function signBit(name: string, opcode: string, title: string, change: (se: Expr) => Expr): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      m.rarely(
        x.empty(st0),
        () => x.finish(m.let(x.call('x87.underflow', ZERO))),
        () => {
          const { sig, se } = x.read(st0);
          x.write(st0, { sig, se: m.let(change(se.get)) });
          x.settle(st0);
        },
      );
    },
  });
}

export const X87_ARITHMETIC: readonly Instruction[] = [
  ...arithmetic,
  onTop('FSQRT', 'D9 FA', 'FSQRT—Square Root', 'f80.sqrt', false),
  onTop('FRNDINT', 'D9 FC', 'FRNDINT—Round to Integer', 'f80.roundToInteger', false),
  onTop('FSCALE', 'D9 FD', 'FSCALE—Scale', 'f80.scale', true),
  onTop('FPREM', 'D9 F8', 'FPREM—Partial Remainder', 'f80.remainder', true),
  onTop('FPREM1', 'D9 F5', 'FPREM1—Partial Remainder', 'f80.remainder', true),
  FXTRACT,
  signBit('FCHS', 'D9 E0', 'FCHS—Change Sign', (se) => i32.xor(se, i32.const(0x8000))),
  signBit('FABS', 'D9 E1', 'FABS—Absolute Value', (se) => i32.and(se, i32.const(0x7fff))),
];
