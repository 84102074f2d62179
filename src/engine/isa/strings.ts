import { call, type Expr, i32, i64, select } from '../../wasm/expr.ts';
import type { Helper } from '../core/helpers.ts';
import { AUX, REC, S } from '../core/layout.ts';
import { cmps, lods, movs, scas, stos } from '../core/strings.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/** String instructions: SDM 1 5.1.8. Port strings are in isa/system-io.ts. */
const row = (name: string, source: string, opcode: number, helper: Helper, inline?: Inline): Instruction =>
  instruction({
    name,
    source,
    forms: {
      // The byte form's operand size does not follow the prefixes
      [`${opcode.toString(16).toUpperCase()}`]: `${name}B m8`,
      [`${(opcode + 1).toString(16).toUpperCase()}`]: name,
    },
    execute(m) {
      if (m.long && inline) inline(m, helper);
      else m.helper(helper);
    },
  });

/** What needs no TypeScript of a string instruction in 64-bit mode: the rest is `helper`'s. */
type Inline = (m: Semantics, helper: Helper) => void;

const [RCX, RSI, RDI] = [1, 6, 7];
const AX = 0;
const ADDRESS64 = 2 << AUX.ADDRESS_SIZE_SHIFT;
const LOG: Readonly<Record<number, number>> = { 1: 0, 2: 1, 4: 2, 8: 3 };

/**
 * Upwards with 64-bit addresses, as far as `step` gets in one go: it gives how many of `count` elements are done, an i64.
 * The rest is the same instruction again; where nothing is done it is the helper's.
 */
function inSteps(m: Semantics, helper: Helper, pointers: readonly number[], step: (count: Expr) => Expr): void {
  const aux = m.let(m.field32(REC.AUX));
  const isOther = i32.or(
    i32.ne(i32.and(aux.get, i32.const(3 << AUX.ADDRESS_SIZE_SHIFT)), i32.const(ADDRESS64)),
    i64.ne(i64.load(i32.const(0), S.DIRECTION), i64.const(1)),
  );
  m.f.if(isOther, () => m.helperInstead(helper));
  const repeats = m.let(i32.and(aux.get, i32.const(AUX.REP | AUX.REPNE)));
  const count = m.let(select(repeats.get, m.reg(RCX), i64.const(1)));
  m.f.if(i64.ne(count.get, i64.const(0)), () => {
    const done = m.let(step(count.get));
    m.f.if(i64.eqz(done.get), () => m.helperInstead(helper));
    const bytes = m.let(i64.shl(done.get, i64.const(LOG[m.size]!)));
    for (const register of pointers) m.setReg(register, i64.add(m.reg(register), bytes.get));
    m.f.if(repeats.get, () => {
      m.f.set(count, i64.sub(count.get, done.get));
      m.setReg(RCX, count.get);
      m.f.if(i64.ne(count.get, i64.const(0)), () => m.again());
    });
  });
}

const inlineStos: Inline = (m, helper) =>
  inSteps(m, helper, [RDI], (count) =>
    call(m.lib.byName('quickFill'), m.reg(RDI), m.reg(AX), count, i32.const(LOG[m.size]!)),
  );

const inlineMovs: Inline = (m, helper) =>
  inSteps(m, helper, [RSI, RDI], (count) =>
    call(m.lib.byName('quickMove'), m.withSegment(m.reg(RSI)), m.reg(RDI), count, i32.const(LOG[m.size]!)),
  );

export const STRINGS: readonly Instruction[] = [
  row('MOVS', 'SDM 2B 4.3 "MOVS/MOVSB/MOVSW/MOVSD/MOVSQ—Move Data From String to String"', 0xa4, movs, inlineMovs),
  row('STOS', 'SDM 2B 4.3 "STOS/STOSB/STOSW/STOSD/STOSQ—Store String"', 0xaa, stos, inlineStos),
  row('LODS', 'SDM 2A 3.2 "LODS/LODSB/LODSW/LODSD/LODSQ—Load String"', 0xac, lods),
  row('CMPS', 'SDM 2A 3.2 "CMPS/CMPSB/CMPSW/CMPSD/CMPSQ—Compare String Operands"', 0xa6, cmps),
  row('SCAS', 'SDM 2B 4.3 "SCAS/SCASB/SCASW/SCASD—Scan String"', 0xae, scas),
];
