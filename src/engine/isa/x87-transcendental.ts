import { i32 } from '../../wasm/expr.ts';
import { clearStatus, EXC, FSW } from '../float/f80-format.ts';
import { type Instruction, instruction } from './instruction.ts';
import { pushCopy, pushIfHappened } from './x87-arithmetic.ts';
import { X87Semantics, ZERO } from './x87-machine.ts';

/** SDM 1 5.2.4 "x87 FPU Transcendental Instructions". */

/** ST(0) ← name(ST(0)); C2 tells whether the argument was out of range. */
function unary(name: string, opcode: string, title: string, reduces: boolean): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      const a = x.read(st0);
      const status = x.status();
      if (reduces) clearStatus(m.f, FSW.C2);
      m.f.if(
        x.empty(st0),
        () => m.f.set(status, x.call('x87.underflow', ZERO)),
        () => {
          x.begin();
          const r = x.pair(`f80.${name.toLowerCase()}`, a.sig.get, a.se.get);
          m.f.set(status, x.call('x87.result', ZERO, r.sig.get, r.se.get));
        },
      );
      x.finish(status);
    },
  });
}

/** ST(1) ← name(ST(1), ST(0)), and pops. */
function binary(name: string, opcode: string, title: string): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      const st1 = x.register(1);
      const a = x.read(st1);
      const b = x.read(st0);
      const status = x.status();
      m.f.if(
        i32.or(x.empty(st0), x.empty(st1)),
        () => m.f.set(status, x.call('x87.underflow', i32.const(1))),
        () => {
          x.begin();
          const r = x.pair(`f80.${name.toLowerCase()}`, a.sig.get, a.se.get, b.sig.get, b.se.get);
          m.f.set(status, x.call('x87.result', i32.const(1), r.sig.get, r.se.get));
        },
      );
      x.finish(status, 1);
    },
  });
}

/** ST(0) ← first result, and the second is pushed: FSINCOS, FPTAN. Out of range, neither. */
function pushing(name: string, opcode: string, title: string): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms: { [opcode]: name },
    execute(m) {
      const x = new X87Semantics(m);
      const { f } = m;
      const st0 = x.register(0);
      const above = x.register(-1);
      const a = x.read(st0);
      const status = x.status();
      clearStatus(f, FSW.C2);
      f.if(
        x.empty(st0),
        () => {
          f.set(status, x.call('x87.underflow', ZERO));
          pushCopy(x, status);
        },
        () =>
          f.if(
            i32.eqz(x.empty(above)),
            () => {
              f.set(status, x.call('x87.overflow', ZERO));
              pushCopy(x, status);
            },
            () => {
              x.begin();
              const first = x.pair(`f80.${name.toLowerCase()}`, a.sig.get, a.se.get);
              const outOfRange = m.let(i32.and(i32.load(ZERO, EXC), i32.const(FSW.C2)));
              const second = x.pair('f80.extracted');
              f.set(status, x.call('x87.result', ZERO, first.sig.get, first.se.get));
              f.if(i32.eqz(outOfRange.get), () => pushIfHappened(x, status, second));
            },
          ),
      );
      x.finish(status);
    },
  });
}

export const X87_TRANSCENDENTAL: readonly Instruction[] = [
  unary('F2XM1', 'D9 F0', 'F2XM1—Compute 2^x–1', false),
  binary('FYL2X', 'D9 F1', 'FYL2X—Compute y * log2x'),
  binary('FYL2XP1', 'D9 F9', 'FYL2XP1—Compute y * log2(x +1)'),
  binary('FPATAN', 'D9 F3', 'FPATAN—Partial Arctangent'),
  pushing('FPTAN', 'D9 F2', 'FPTAN—Partial Tangent'),
  unary('FSIN', 'D9 FE', 'FSIN—Sine', true),
  unary('FCOS', 'D9 FF', 'FCOS—Cosine', true),
  pushing('FSINCOS', 'D9 FB', 'FSINCOS—Sine and Cosine'),
];
