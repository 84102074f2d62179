import { i32, i64, memoryCopy, memoryFill, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
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
/** Up to here a loop is quicker than a call of memory.fill. MEASURED on Node 20. */
const SHORT = 64;
const ADDRESS64 = 2 << AUX.ADDRESS_SIZE_SHIFT;

/**
 * Bytes that the instruction moves, if it goes up, has 64-bit addresses and is not longer than a page; 0 if RCX is.
 * Otherwise it is the helper's.
 */
function bytesUpwards(m: Semantics, helper: Helper): Local {
  const aux = m.let(m.field32(REC.AUX));
  const repeats = i32.and(aux.get, i32.const(AUX.REP | AUX.REPNE));
  const count = m.let(select(repeats, m.reg(RCX), i64.const(1)));
  const isOther = i32.or(
    i32.ne(i32.and(aux.get, i32.const(3 << AUX.ADDRESS_SIZE_SHIFT)), i32.const(ADDRESS64)),
    i32.or(i64.ne(i64.load(i32.const(0), S.DIRECTION), i64.const(1)), i64.gtU(count.get, i64.const(4096 / m.size))),
  );
  m.f.if(isOther, () => m.helperInstead(helper));
  return m.let(i32.mul(i32.wrap(count.get), i32.const(m.size)));
}

/** Moves a pointer behind what was done. */
const advance = (m: Semantics, register: number, bytes: Local): void =>
  m.setReg(register, i64.add(m.reg(register), i64.extendI32U(bytes.get)));

/** RCX is used up, if it counts. */
function finish(m: Semantics): void {
  m.f.if(m.auxHas(AUX.REP | AUX.REPNE), () => m.setReg(RCX, i64.const(0)));
}

const inlineStos: Inline = (m, helper) => {
  const bytes = bytesUpwards(m, helper);
  m.f.if(bytes.get, () => {
    const to = m.let(m.withinPage(m.let(m.reg(RDI)), bytes, true, () => m.helperInstead(helper)));
    const value = m.let(m.regPart(AX, m.size));
    const byte = m.let(i32.and(i32.wrap(value.get), i32.const(0xff)));
    const all = m.zeroExtend(i64.halves(0x0101_0101, 0x0101_0101), m.size);
    const storeFrom = (at: Local, end: Local): void => {
      m.f.loop((again) => {
        m.storeHost(at, value.get, m.size);
        m.f.set(at, i32.add(at.get, i32.const(m.size)));
        m.f.brIf(again, i32.ltU(at.get, end.get));
      });
    };
    const end = m.let(i32.add(to.get, bytes.get));
    const isShort = i32.leU(bytes.get, i32.const(SHORT));
    if (m.size === 1)
      m.f.if(
        isShort,
        () => storeFrom(to, end),
        () => m.f.do(memoryFill(to.get, byte.get, bytes.get)),
      );
    else {
      const isSame = i64.eq(i64.mul(i64.extendI32U(byte.get), all), value.get);
      m.f.if(
        i32.or(isShort, i32.eqz(isSame)),
        () => storeFrom(to, end),
        () => m.f.do(memoryFill(to.get, byte.get, bytes.get)),
      );
    }
    advance(m, RDI, bytes);
    finish(m);
  });
};

const inlineMovs: Inline = (m, helper) => {
  const bytes = bytesUpwards(m, helper);
  m.f.if(bytes.get, () => {
    const other = (): void => m.helperInstead(helper);
    const from = m.let(m.withinPage(m.let(m.withSegment(m.reg(RSI))), bytes, false, other));
    const to = m.let(m.withinPage(m.let(m.reg(RDI)), bytes, true, other));
    // Upwards over itself, what was written is read again
    m.f.if(i32.ltU(i32.sub(i32.sub(to.get, from.get), i32.const(1)), i32.sub(bytes.get, i32.const(1))), other);
    m.f.do(memoryCopy(to.get, from.get, bytes.get));
    advance(m, RSI, bytes);
    advance(m, RDI, bytes);
    finish(m);
  });
};

export const STRINGS: readonly Instruction[] = [
  row('MOVS', 'SDM 2B 4.3 "MOVS/MOVSB/MOVSW/MOVSD/MOVSQ—Move Data From String to String"', 0xa4, movs, inlineMovs),
  row('STOS', 'SDM 2B 4.3 "STOS/STOSB/STOSW/STOSD/STOSQ—Store String"', 0xaa, stos, inlineStos),
  row('LODS', 'SDM 2A 3.2 "LODS/LODSB/LODSW/LODSD/LODSQ—Load String"', 0xac, lods),
  row('CMPS', 'SDM 2A 3.2 "CMPS/CMPSB/CMPSW/CMPSD/CMPSQ—Compare String Operands"', 0xa6, cmps),
  row('SCAS', 'SDM 2B 4.3 "SCAS/SCASB/SCASW/SCASD—Scan String"', 0xae, scas),
];
