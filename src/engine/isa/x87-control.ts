import { type Expr, i32, i64, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { AUX, S } from '../core/layout.ts';
import { FSW } from '../float/f80-format.ts';
import { IMAGE, IMAGE_REAL } from '../float/f80-stack.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { X87Semantics, ZERO } from './x87-machine.ts';

/** SDM 1 5.2.6 "x87 FPU Control Instructions". */

type Body = (m: Semantics, x: X87Semantics) => void;

const row = (
  name: string,
  title: string,
  forms: Readonly<Record<string, string>>,
  wait: boolean,
  body: Body,
): Instruction =>
  instruction({
    name,
    source: `SDM 2A 3.2 "${title}"`,
    needs: 'x87',
    forms,
    execute(m) {
      body(m, new X87Semantics(m, wait));
    },
  });

const clearC1 = (m: Semantics): void =>
  m.f.do(i32.store16(ZERO, i32.and(i32.load16U(ZERO, S.FSW), i32.const(~FSW.C1)), S.FSW));

const rotate =
  (step: number): Body =>
  (m, x) => {
    m.f.do(i32.store(ZERO, i32.and(i32.add(i32.load(ZERO, S.FTOP), i32.const(step)), i32.const(7)), S.FTOP));
    clearC1(m);
    x.instructionPointer();
  };

const free =
  (pops: number): Body =>
  (m, x) => {
    const sti = x.register(x.index);
    m.f.do(i32.store8(sti.get, i32.const(1), S.FEMPTY));
    if (pops > 0) x.pop();
    clearC1(m);
    x.instructionPointer();
  };

// ---- images in memory -------------------------------------------------------------------------------------------

/** 1 if the operand size is not 16 bits. */
const wide = (m: Semantics): Local => m.let(i32.ne(m.aux(AUX.OPERAND_SIZE_SHIFT, 2), i32.const(1)));

/** Which of the four layouts: by operand size, and real-address or virtual-8086 mode against the rest. */
function format(m: Semantics, isWide: Local): Local {
  if (m.long) return isWide;
  const real = i32.or(
    i32.eqz(i32.and(i32.load(ZERO, S.CR0), i32.const(1))),
    i32.and(i32.load(ZERO, S.RFLAGS), i32.const(1 << 17)),
  );
  return m.let(i32.or(isWide.get, select(real, i32.const(IMAGE_REAL), ZERO)));
}

/** Copies between memory and IMAGE, two bytes at a time: all lengths are even. */
function copy(m: Semantics, x: X87Semantics, isWide: Local, bytes: Expr, toMemory: boolean): void {
  const { f } = m;
  const linear = m.let(m.address(toMemory).get);
  // The 32-bit format is to be aligned on 4 bytes where alignment is checked: SDM 3A 6.15, table 6-7
  f.if(isWide.get, () => {
    if (toMemory) f.drop(m.writable(linear, 4).get);
    else f.drop(m.loadMemory(linear, 4));
  });
  const at = m.let(ZERO);
  f.loop((again) => {
    if (toMemory) {
      m.storeMemory(linear, m.let(i64.load16U(at.get, IMAGE)).get, 2);
    } else {
      f.do(i64.store16(at.get, m.loadMemory(linear, 2), IMAGE));
    }
    f.set(linear, x.beyond(linear, 2).get);
    f.set(at, i32.add(at.get, i32.const(2)));
    f.brIf(again, i32.ltU(at.get, bytes));
  });
}

const environmentBytes = (isWide: Local): Expr => select(isWide.get, i32.const(28), i32.const(14));
const stateBytes = (isWide: Local): Expr => select(isWide.get, i32.const(108), i32.const(94));

const storeEnvironment: Body = (m, x) => {
  m.address(true);
  const isWide = wide(m);
  m.f.do(x.call('x87.storeEnvironment', format(m, isWide).get));
  copy(m, x, isWide, environmentBytes(isWide), true);
  // all exceptions are masked after it has been stored
  m.f.do(i32.store16(ZERO, i32.or(i32.load16U(ZERO, S.FCW), i32.const(0x3f)), S.FCW));
  m.f.do(x.call('x87.summarize'));
};

const loadEnvironment: Body = (m, x) => {
  m.address();
  const isWide = wide(m);
  copy(m, x, isWide, environmentBytes(isWide), false);
  m.f.do(x.call('x87.loadEnvironment', format(m, isWide).get));
};

const save: Body = (m, x) => {
  m.address(true);
  const isWide = wide(m);
  m.f.do(x.call('x87.storeEnvironment', format(m, isWide).get));
  m.f.do(x.call('x87.storeRegisters', environmentBytes(isWide)));
  copy(m, x, isWide, stateBytes(isWide), true);
  m.f.do(x.call('x87.initialize'));
};

const restore: Body = (m, x) => {
  m.address();
  const isWide = wide(m);
  copy(m, x, isWide, stateBytes(isWide), false);
  m.f.do(x.call('x87.loadEnvironment', format(m, isWide).get));
  m.f.do(x.call('x87.loadRegisters', environmentBytes(isWide)));
};

// ---- rows -------------------------------------------------------------------------------------------------------

const NO_OPERATION = 'FNOP—No Operation';

const FWAIT = instruction({
  name: 'FWAIT',
  source: 'SDM 2C "WAIT/FWAIT—Wait"',
  needs: 'fwait',
  forms: { '9B': 'FWAIT' },
  execute(m) {
    void new X87Semantics(m);
  },
});

const FNSTSW_AX = instruction({
  name: 'FNSTSW',
  source: 'SDM 2A 3.2 "FSTSW/FNSTSW—Store x87 FPU Status Word"',
  needs: 'x87',
  forms: { 'DF E0': 'FNSTSW' },
  execute(m) {
    const x = new X87Semantics(m, false);
    m.setReg(0, i64.extendI32U(x.call('x87.statusWord')), 2);
  },
});

export const X87_CONTROL: readonly Instruction[] = [
  row('FLDCW', 'FLDCW—Load x87 FPU Control Word', { 'D9 /5:m': 'FLDCW m16' }, true, (m, x) => {
    const word = i32.wrap(m.let(m.loadU(0)).get);
    // Bit 6 reads as one, reserved bits as zero.
    m.f.do(i32.store16(ZERO, i32.or(i32.and(word, i32.const(0x1f3f)), i32.const(0x40)), S.FCW));
    m.f.do(x.call('x87.summarize'));
  }),
  row('FNSTCW', 'FSTCW/FNSTCW—Store x87 FPU Control Word', { 'D9 /7:m': 'FNSTCW m16' }, false, (m) => {
    m.store(0, i64.load16U(ZERO, S.FCW));
  }),
  row('FNSTSW', 'FSTSW/FNSTSW—Store x87 FPU Status Word', { 'DD /7:m': 'FNSTSW m16' }, false, (m, x) => {
    m.store(0, i64.extendI32U(x.call('x87.statusWord')));
  }),
  FNSTSW_AX,
  row('FLDENV', 'FLDENV—Load x87 FPU Environment', { 'D9 /4:m': 'FLDENV m' }, true, loadEnvironment),
  row('FNSTENV', 'FSTENV/FNSTENV—Store x87 FPU Environment', { 'D9 /6:m': 'FNSTENV m' }, false, storeEnvironment),
  row('FRSTOR', 'FRSTOR—Restore x87 FPU State', { 'DD /4:m': 'FRSTOR m' }, true, restore),
  row('FNSAVE', 'FSAVE/FNSAVE—Store x87 FPU State', { 'DD /6:m': 'FNSAVE m' }, false, save),
  row('FNINIT', 'FINIT/FNINIT—Initialize Floating-Point Unit', { 'DB E3': 'FNINIT' }, false, (m, x) =>
    m.f.do(x.call('x87.initialize')),
  ),
  row('FNCLEX', 'FCLEX/FNCLEX—Clear Exceptions', { 'DB E2': 'FNCLEX' }, false, (m) =>
    m.f.do(i32.store16(ZERO, i32.and(i32.load16U(ZERO, S.FSW), i32.const(0x4700)), S.FSW)),
  ),
  row('FNOP', NO_OPERATION, { 'D9 D0': 'FNOP' }, true, (_, x) => x.instructionPointer()),
  // Of the 8087 and 80287: without effect. SDM 3B 22.18.9 "Obsolete Instructions"
  row('FNENI', NO_OPERATION, { 'DB E0': 'FNENI' }, false, () => {}),
  row('FNDISI', NO_OPERATION, { 'DB E1': 'FNDISI' }, false, () => {}),
  row('FNSETPM', NO_OPERATION, { 'DB E4': 'FNSETPM' }, false, () => {}),
  row('FINCSTP', 'FINCSTP—Increment Stack-Top Pointer', { 'D9 F7': 'FINCSTP' }, true, rotate(1)),
  row('FDECSTP', 'FDECSTP—Decrement Stack-Top Pointer', { 'D9 F6': 'FDECSTP' }, true, rotate(-1)),
  row('FFREE', 'FFREE—Free Floating-Point Register', { 'DD /0:r': 'FFREE STi' }, true, free(0)),
  // FFREEP is not in the manual's instruction pages, but in its opcode map's footnotes and in every processor.
  row('FFREEP', 'FFREE—Free Floating-Point Register', { 'DF /0:r': 'FFREEP STi' }, true, free(1)),
  FWAIT,
];
