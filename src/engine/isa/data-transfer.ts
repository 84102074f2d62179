import { call, type Expr, i32, i64, select } from '../../wasm/expr.ts';
import { gpr, REC, S } from '../core/layout.ts';
import { leaveGeneral, popGeneral, popOperandGeneral, pushGeneral, xlat } from '../core/legacy-stack.ts';
import { CONDITIONS, RFLAGS } from './flags.ts';
import { type Instruction, instruction } from './instruction.ts';

/** Moves, exchanges, conversions, the stack. SDM 1 5.1.1 "Data Transfer Instructions". */

const opcode = (base: number, offset: number): string => (base + offset).toString(16).toUpperCase().padStart(2, '0');

export const MOV = instruction({
  name: 'MOV',
  source: 'SDM 2B 4.3 "MOV—Move"',
  forms: {
    '88 /r': 'MOV r/m8, r8',
    '89 /r': 'MOV r/mv, rv',
    '8A /r': 'MOV r8, r/m8',
    '8B /r': 'MOV rv, r/mv',
    A0: 'MOV AL, moffs8',
    A1: 'MOV rAX, moffsv',
    A2: 'MOV moffs8, AL',
    A3: 'MOV moffsv, rAX',
    'B0+r ib': 'MOV r8, imm8',
    'B8+r iv': 'MOV rv, immv',
    'C6 /0 ib': 'MOV r/m8, imm8',
    'C7 /0 iz': 'MOV r/mv, immz',
  },
  execute(m) {
    m.store(0, m.loadU(1));
  },
});

export const MOVZX = instruction({
  name: 'MOVZX',
  source: 'SDM 2B 4.3 "MOVZX—Move With Zero-Extend"',
  forms: { '0F B6 /r': 'MOVZX rv, r/m8', '0F B7 /r': 'MOVZX rv, r/m16' },
  execute(m) {
    m.store(0, m.loadU(1));
  },
});

export const MOVSX = instruction({
  name: 'MOVSX',
  source: 'SDM 2B 4.3 "MOVSX/MOVSXD—Move With Sign-Extension"',
  forms: { '0F BE /r': 'MOVSX rv, r/m8', '0F BF /r': 'MOVSX rv, r/m16', '63 /r o64': 'MOVSXD rv, r/m32' },
  execute(m) {
    m.store(0, m.load(1));
  },
});

export const LEA = instruction({
  name: 'LEA',
  source: 'SDM 2A 3.2 "LEA—Load Effective Address"',
  forms: { '8D /r:m': 'LEA rv, m' },
  execute(m) {
    if (m.generalAddress) {
      // (record) → offset, by the record's address size, without segment
      m.store(0, call(m.lib.byName('effective'), m.record));
    } else m.store(0, m.effectiveAddress());
  },
});

export const XCHG = instruction({
  name: 'XCHG',
  source: 'SDM 2D 6.1 "XCHG—Exchange Register/Memory With Register"',
  forms: { '86 /r': 'XCHG r/m8, r8', '87 /r': 'XCHG r/mv, rv', '90+r': 'XCHG rAX, rv' },
  lockable: true,
  execute(m) {
    const other = m.let(m.loadU(1));
    m.modify(0, (old) => {
      m.store(1, old);
      return other.get;
    });
  },
});

/** F3 90 is PAUSE (isa/system.ts); 90 without REX.B is NOP, with it XCHG R8, RAX. */
export const NOP = instruction({
  name: 'NOP',
  source: 'SDM 2B 4.3 "NOP—No Operation"',
  forms: {
    '90 b0': 'NOP',
    '0F 1F /r': 'NOP r/mv',
    '0F 1E /r': 'NOP r/mv',
    '0F 1D /r': 'NOP r/mv',
    '0F 1C /r': 'NOP r/mv',
    '0F 1B /r': 'NOP r/mv',
    '0F 1A /r': 'NOP r/mv',
    '0F 19 /r': 'NOP r/mv',
    '0F 18 /r': 'NOP r/mv',
    '0F 0D /r': 'NOP r/mv',
  },
  execute() {},
});

export const XADD = instruction({
  name: 'XADD',
  source: 'SDM 2D 6.1 "XADD—Exchange and Add"',
  forms: { '0F C0 /r': 'XADD r/m8, r8', '0F C1 /r': 'XADD r/mv, rv' },
  lockable: true,
  execute(m) {
    const addend = m.let(m.load(1));
    // Operands may be one register: it ends as the sum
    m.modify(0, (old) => {
      const sum = m.let(m.signExtend(i64.add(old, addend.get), m.size));
      m.flagsAdd(sum.get, old);
      m.store(1, old);
      return sum.get;
    });
  },
});

export const CMPXCHG = instruction({
  name: 'CMPXCHG',
  source: 'SDM 2A 3.2 "CMPXCHG—Compare and Exchange"',
  forms: { '0F B0 /r': 'CMPXCHG r/m8, r8', '0F B1 /r': 'CMPXCHG r/mv, rv' },
  lockable: true,
  execute(m) {
    const accumulator = m.let(m.regPart(0, m.size, true));
    const source = m.let(m.loadU(1));
    if (m.isMemory(0)) {
      // Memory is always written: with its own value when the comparison fails
      m.modify(0, (old) => {
        m.flagsSub(accumulator.get, old);
        const equal = m.let(i64.eq(accumulator.get, old));
        m.f.if(i32.eqz(equal.get), () => m.setReg(0, old, m.size));
        return select(equal.get, source.get, old);
      });
      return;
    }
    // A register destination keeps its upper half when the comparison fails
    const old = m.let(m.load(0));
    m.flagsSub(accumulator.get, old.get);
    m.f.if(
      i64.eq(accumulator.get, old.get),
      () => m.store(0, source.get),
      () => m.setReg(0, old.get, m.size),
    );
  },
});

/** CMPXCHG8B, CMPXCHG16B: the halves are two accesses, both checked before either is written. */
export const CMPXCHG8B = instruction({
  name: 'CMPXCHG8B',
  source: 'SDM 2A 3.2 "CMPXCHG8B/CMPXCHG16B—Compare and Exchange Bytes"',
  forms: { '0F C7 /1:m W0': 'CMPXCHG8B m64', 'REX.W 0F C7 /1:m': 'CMPXCHG16B m128' },
  lockable: true,
  execute(m) {
    const wide = m.form.startsWith('REX.W');
    const bytes = wide ? 8 : 4;
    const address = m.address(true);
    if (wide) m.raiseIf(i64.ne(i64.and(address.get, i64.const(15)), i64.const(0)), 13, 0);
    const setZero = (condition: Expr): void => {
      const kept = i64.and(m.flags(), i64.const(0x8d5 & ~RFLAGS.ZF));
      m.flagsExplicit(i64.or(kept, i64.shl(i64.extendI32U(condition), i64.const(6))));
    };
    if (!wide) {
      const host = m.writable(address, 8);
      const old = m.let(i64.load(host.get));
      const expected = i64.or(m.regPart(0, 4), i64.shl(m.regPart(2, 4), i64.const(32)));
      const equal = m.let(i64.eq(old.get, expected));
      m.f.if(
        equal.get,
        () => m.f.do(i64.store(host.get, i64.or(m.regPart(3, 4), i64.shl(m.regPart(1, 4), i64.const(32))))),
        () => {
          m.f.do(i64.store(host.get, old.get));
          m.setReg(0, old.get, bytes);
          m.setReg(2, i64.shrU(old.get, i64.const(32)), bytes);
        },
      );
      setZero(equal.get);
      m.commit(host);
      return;
    }
    const host = m.writable(address, 16);
    const low = m.let(i64.load(host.get));
    const high = m.let(i64.load(host.get, 8));
    const equal = m.let(i32.and(i64.eq(low.get, m.reg(0)), i64.eq(high.get, m.reg(2))));
    m.f.if(
      equal.get,
      () => {
        m.f.do(i64.store(host.get, m.reg(3)));
        m.f.do(i64.store(host.get, m.reg(1), 8));
      },
      () => {
        m.f.do(i64.store(host.get, low.get));
        m.setReg(0, low.get);
        m.setReg(2, high.get);
      },
    );
    setZero(equal.get);
    m.commit(host);
  },
});

export const CBW = instruction({
  name: 'CBW',
  source: 'SDM 2A 3.2 "CBW/CWDE/CDQE—Convert Byte to Word/Convert Word to Doubleword/Convert Doubleword to Quadword"',
  forms: { '98': 'CBW rAX' },
  execute(m) {
    m.setReg(0, m.regPart(0, m.size / 2, true), m.size);
  },
});

export const CWD = instruction({
  name: 'CWD',
  source: 'SDM 2A 3.2 "CWD/CDQ/CQO—Convert Word to Doubleword/Convert Doubleword to Quadword"',
  forms: { '99': 'CWD rAX' },
  execute(m) {
    m.setReg(2, i64.shrS(m.regPart(0, m.size, true), i64.const(63)), m.size);
  },
});

const conditional = (
  name: string,
  base: number,
  operands: (cc: string) => string,
  head: string,
): Record<string, string> =>
  Object.fromEntries(CONDITIONS.map((cc, i) => [head.replace('*', opcode(base, i)), `${name}${cc} ${operands(cc)}`]));

export const CMOV = instruction({
  name: 'CMOVcc',
  source: 'SDM 2A 3.2 "CMOVcc—Conditional Move"',
  forms: conditional('CMOV', 0x40, () => 'rv, r/mv', '0F * /r'),
  execute(m) {
    // Memory is read, and a 32-bit destination cleared above, whatever the condition
    const source = m.let(m.loadU(1));
    m.store(0, select(m.condition(m.opcode & 15), source.get, m.loadU(0)));
  },
});

export const SET = instruction({
  name: 'SETcc',
  source: 'SDM 2B 4.3 "SETcc—Set Byte on Condition"',
  forms: conditional('SET', 0x90, () => 'r/m8', '0F * /r'),
  execute(m) {
    m.store(0, i64.extendI32U(m.condition(m.opcode & 15)));
  },
});

// ---- stack ----------------------------------------------------------------------------------------------------------

export const PUSH = instruction({
  name: 'PUSH',
  source: 'SDM 2B 4.3 "PUSH—Push Word, Doubleword, or Quadword Onto the Stack"',
  forms: {
    '50+r d64': 'PUSH rv',
    'FF /6 d64': 'PUSH r/mv',
    '6A ib d64': 'PUSH imm8',
    '68 iz d64': 'PUSH immz',
  },
  execute(m) {
    const value = m.let(m.load(0));
    if (m.mode === 'general') {
      m.f.do(i64.store(i32.const(0), value.get, S.VALUE));
      m.helper(pushGeneral);
    } else m.push(value.get, m.size);
  },
});

export const POP = instruction({
  name: 'POP',
  source: 'SDM 2B 4.3 "POP—Pop a Value From the Stack"',
  forms: { '58+r d64': 'POP rv', '8F /0 d64': 'POP r/mv' },
  execute(m) {
    if (m.isMemory(0)) {
      if (m.mode !== 'long' || m.generalAddress) {
        m.helper(popOperandGeneral);
        return;
      }
      // An address from RSP is computed with RSP already moved
      m.f.if(i32.eq(m.field16(REC.BASE), i32.const(gpr(4))), () => m.helperInstead(popOperandGeneral));
      const popped = m.let(m.peek(m.size));
      m.store(0, popped.get);
      m.drop(m.size);
      return;
    }
    if (m.mode === 'general') {
      m.helper(popGeneral);
      return;
    }
    const value = m.let(m.peek(m.size));
    m.drop(m.size);
    m.store(0, value.get); // after RSP has moved: POP RSP leaves the value
  },
});

export const LEAVE = instruction({
  name: 'LEAVE',
  source: 'SDM 2A 3.2 "LEAVE—High Level Procedure Exit"',
  forms: { 'C9 d64': 'LEAVE' },
  execute(m) {
    if (m.mode === 'general') {
      m.helper(leaveGeneral);
      return;
    }
    const frame = m.let(m.long ? m.reg(5) : m.regPart(5, 4));
    const value = m.let(m.loadMemory(frame, m.size, false, true));
    m.setReg(4, i64.add(frame.get, i64.const(m.size)), m.long ? 8 : 4);
    m.setReg(5, value.get, m.size);
  },
});

export const XLAT = instruction({
  name: 'XLAT',
  source: 'SDM 2D 6.1 "XLAT/XLATB—Table Look-up Translation"',
  forms: { D7: 'XLAT' },
  execute(m) {
    m.helper(xlat);
  },
});

// ---- flags ----------------------------------------------------------------------------------------------------------

export const LAHF = instruction({
  name: 'LAHF',
  source: 'SDM 2A 3.2 "LAHF—Load Status Flags Into AH Register"',
  forms: { '9F': 'LAHF' },
  execute(m) {
    const flags = i64.or(i64.and(m.flags(), i64.const(0xd5)), i64.const(2));
    m.f.do(i64.store8(i32.const(0), flags, gpr(0) + 1));
  },
});

export const SAHF = instruction({
  name: 'SAHF',
  source: 'SDM 2B 4.3 "SAHF—Store AH Into Flags"',
  forms: { '9E': 'SAHF' },
  execute(m) {
    const ah = i64.and(i64.load8U(i32.const(0), gpr(0) + 1), i64.const(0xd5));
    m.flagsExplicit(i64.or(i64.and(m.flags(), i64.const(RFLAGS.OF)), ah));
  },
});

const carryFlag = (name: string, code: string, change: (flags: Expr) => Expr): Instruction =>
  instruction({
    name,
    source: `SDM 2 "${name}"`,
    forms: { [code]: name },
    execute(m) {
      m.flagsExplicit(change(m.flags()));
    },
  });

export const CMC = carryFlag('CMC', 'F5', (flags) => i64.xor(flags, i64.const(1)));
export const CLC = carryFlag('CLC', 'F8', (flags) => i64.and(flags, i64.const(-2)));
export const STC = carryFlag('STC', 'F9', (flags) => i64.or(flags, i64.const(1)));

/** RFLAGS.DF is kept as a bit and, for string instructions, as the direction 1 or -1. */
const direction = (name: string, code: string, down: boolean): Instruction =>
  instruction({
    name,
    source: `SDM 2 "${name}"`,
    forms: { [code]: name },
    execute(m) {
      const flags = i32.load(i32.const(0), S.RFLAGS);
      const changed = down ? i32.or(flags, i32.const(RFLAGS.DF)) : i32.and(flags, i32.const(~RFLAGS.DF));
      m.f.do(i32.store(i32.const(0), changed, S.RFLAGS));
      m.f.do(i64.store(i32.const(0), i64.const(down ? -1 : 1), S.DIRECTION));
    },
  });

export const CLD = direction('CLD', 'FC', false);
export const STD = direction('STD', 'FD', true);

export const DATA_TRANSFER: readonly Instruction[] = [
  MOV,
  MOVZX,
  MOVSX,
  LEA,
  XCHG,
  NOP,
  XADD,
  CMPXCHG,
  CMPXCHG8B,
  CBW,
  CWD,
  CMOV,
  SET,
  PUSH,
  POP,
  LEAVE,
  XLAT,
  LAHF,
  SAHF,
  CMC,
  CLC,
  STC,
  CLD,
  STD,
];
