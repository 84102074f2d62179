import { type Expr, I32, i32, i64 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { EXC, exc, FSW, raise, type Value } from '../float/f80-format.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { loadInteger, loadReal } from './x87-arithmetic.ts';
import { X87Semantics, ZERO } from './x87-machine.ts';

/** SDM 1 5.2.3 "x87 FPU Comparison Instructions". */

const CONDITION_BITS = FSW.C0 | FSW.C1 | FSW.C2 | FSW.C3;
const UNORDERED = FSW.C0 | FSW.C2 | FSW.C3;

/** Compares; conditions go to the status word, or to RFLAGS. `top`: the register that ST(0) is. */
function compare(
  x: X87Semantics,
  top: Local,
  b: Value,
  empty: Expr,
  quiet: boolean,
  pops: number,
  toFlags = false,
): void {
  const { m } = x;
  const a = x.read(top);
  const conditions = m.f.local(I32);
  m.rarely(
    empty,
    () => {
      x.raise(FSW.IE | FSW.SF);
      m.f.set(conditions, i32.const(UNORDERED));
    },
    () => {
      x.begin();
      m.f.set(conditions, x.call('f80.compare', a.sig.get, a.se.get, b.sig.get, b.se.get, i32.const(quiet ? 1 : 0)));
    },
  );
  // C3 → ZF, C2 → PF, C0 → CF; OF SF AF clear. SDM 2A table 3-21
  const setFlags = (): void => m.flagsExplicit(i64.extendI32U(i32.shrU(conditions.get, i32.const(8))));
  m.rarely(
    exc(),
    () => {
      const status = x.status();
      if (toFlags) {
        // MEASURED on AMD Zen 4: C1 stays unless the stack underflows, and flags are set even if the exception is unmasked.
        m.f.set(status, x.call('x87.merge', i32.shl(i32.and(exc(), i32.const(FSW.SF)), i32.const(3))));
        setFlags();
      } else {
        raise(m.f, conditions.get);
        m.f.set(status, x.call('x87.merge', i32.const(CONDITION_BITS)));
      }
      x.finish(status, pops);
    },
    () => {
      if (toFlags) setFlags();
      else {
        const now = i32.and(i32.load16U(ZERO, S.FSW), i32.const(~CONDITION_BITS));
        m.f.do(i32.store16(ZERO, i32.or(now, conditions.get), S.FSW));
      }
      x.settleRest(top, pops);
    },
  );
}

function withRegister(
  name: string,
  forms: Readonly<Record<string, string>>,
  title: string,
  quiet: boolean,
  pops: number,
  toFlags = false,
): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms,
    execute(m) {
      const x = new X87Semantics(m);
      const st0 = x.register(0);
      const other = x.register(pops === 2 ? 1 : x.index);
      compare(x, st0, x.read(other), i32.or(x.empty(st0), x.empty(other)), quiet, pops, toFlags);
    },
  });
}

function withMemory(
  name: string,
  forms: Readonly<Record<string, string>>,
  title: string,
  pops: number,
  load: (m: Semantics) => Value,
): Instruction {
  return instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms,
    execute(m) {
      const x = new X87Semantics(m);
      const b = load(m);
      const st0 = x.register(0);
      compare(x, st0, b, x.empty(st0), false, pops);
    },
  });
}

const FCOM = 'FCOM/FCOMP/FCOMPP—Compare Floating-Point Values';
const FUCOM = 'FUCOM/FUCOMP/FUCOMPP—Unordered Compare Floating-Point Values';
const FICOM = 'FICOM/FICOMP—Compare Integer';
const FCOMI = 'FCOMI/FCOMIP/FUCOMI/FUCOMIP—Compare Floating-Point Values and Set EFLAGS';

const FTST = instruction({
  name: 'FTST',
  source: 'SDM 2A 3.2 "FTST—TEST"',
  needs: 'x87',
  forms: { 'D9 E4': 'FTST' },
  execute(m) {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const zero = { sig: m.let(i64.const(0)), se: m.let(ZERO) };
    compare(x, st0, zero, x.empty(st0), false, 0);
  },
});

const FXAM = instruction({
  name: 'FXAM',
  source: 'SDM 2A 3.2 "FXAM—Examine Floating-Point"',
  needs: 'x87',
  forms: { 'D9 E5': 'FXAM' },
  execute(m) {
    const x = new X87Semantics(m);
    const st0 = x.register(0);
    const a = x.read(st0);
    m.f.do(i32.store(ZERO, x.call('f80.examine', a.sig.get, a.se.get, x.empty(st0)), EXC));
    m.f.drop(x.call('x87.merge', i32.const(CONDITION_BITS)));
    x.instructionPointer();
  },
});

export const X87_COMPARE: readonly Instruction[] = [
  withMemory('FCOM', { 'D8 /2:m': 'FCOM m32', 'DC /2:m': 'FCOM m64' }, FCOM, 0, loadReal),
  withMemory('FCOMP', { 'D8 /3:m': 'FCOMP m32', 'DC /3:m': 'FCOMP m64' }, FCOM, 1, loadReal),
  // DC and DE are aliases that the opcode map leaves reserved.
  withRegister('FCOM', { 'D8 /2:r': 'FCOM STi', 'DC /2:r': 'FCOM STi' }, FCOM, false, 0),
  withRegister('FCOMP', { 'D8 /3:r': 'FCOMP STi', 'DC /3:r': 'FCOMP STi', 'DE /2:r': 'FCOMP STi' }, FCOM, false, 1),
  withRegister('FCOMPP', { 'DE D9': 'FCOMPP' }, FCOM, false, 2),
  withRegister('FUCOM', { 'DD /4:r': 'FUCOM STi' }, FUCOM, true, 0),
  withRegister('FUCOMP', { 'DD /5:r': 'FUCOMP STi' }, FUCOM, true, 1),
  withRegister('FUCOMPP', { 'DA E9': 'FUCOMPP' }, FUCOM, true, 2),
  withMemory('FICOM', { 'DA /2:m': 'FICOM m32', 'DE /2:m': 'FICOM m16' }, FICOM, 0, loadInteger),
  withMemory('FICOMP', { 'DA /3:m': 'FICOMP m32', 'DE /3:m': 'FICOMP m16' }, FICOM, 1, loadInteger),
  withRegister('FCOMI', { 'DB /6:r': 'FCOMI ST0, STi' }, FCOMI, false, 0, true),
  withRegister('FCOMIP', { 'DF /6:r': 'FCOMIP ST0, STi' }, FCOMI, false, 1, true),
  withRegister('FUCOMI', { 'DB /5:r': 'FUCOMI ST0, STi' }, FCOMI, true, 0, true),
  withRegister('FUCOMIP', { 'DF /5:r': 'FUCOMIP ST0, STi' }, FCOMI, true, 1, true),
  FTST,
  FXAM,
];
