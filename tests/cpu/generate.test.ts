import { Decoder, Mnemonic } from 'iced-x86';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Form, type FormRow, parseForm } from './forms.ts';
import { type GeneratedCase, generateCases, leftOut } from './generate.ts';
import { Oracle } from './oracle.ts';
import { DONE, TIMEOUT } from './protocol.ts';
import { Random } from './random.ts';

/** A sample of each kind of notation; the real lists come from the ISA tables. */
const SAMPLE: Record<string, string> = {
  '00 /r': 'ADD r/m8, r8',
  '01 /r': 'ADD r/mv, rv',
  '83 /7 ib': 'CMP r/mv, imm8',
  '81 /4 iz': 'AND r/mv, immz',
  '05 iz': 'ADD rAX, immz',
  'D3 /4': 'SHL r/mv, CL',
  'C0 /2 ib': 'RCL r/m8, imm8',
  '0F A4 /r ib': 'SHLD r/mv, rv, imm8',
  'F7 /6': 'DIV r/mv',
  'F6 /7': 'IDIV r/m8',
  'F7 /4': 'MUL r/mv',
  '69 /r iz': 'IMUL rv, r/mv, immz',
  '0F A3 /r': 'BT r/mv, rv',
  '0F AB /r': 'BTS r/mv, rv',
  '0F BC /r': 'BSF rv, r/mv',
  '0F B1 /r': 'CMPXCHG r/mv, rv',
  '0F C7 /1:m W0': 'CMPXCHG8B m64',
  'REX.W 0F C7 /1:m': 'CMPXCHG16B m128',
  '0F C1 /r': 'XADD r/mv, rv',
  '87 /r': 'XCHG r/mv, rv',
  '8D /r:m': 'LEA rv, m',
  '0F B6 /r': 'MOVZX rv, r/m8',
  '63 /r o64': 'MOVSXD rv, r/m32',
  A1: 'MOV rAX, moffsv',
  A2: 'MOV moffs8, AL',
  'B8+r iv': 'MOV rv, immv',
  '0F C8+r': 'BSWAP rv',
  '0F 38 F0 /r:m': 'MOVBE rv, mv',
  'F3 0F B8 /r': 'POPCNT rv, r/mv',
  '27 i64': 'DAA',
  'D4 ib i64': 'AAM imm8',
  '98': 'CBW rAX',
  '50+r d64': 'PUSH rv',
  'FF /6 d64': 'PUSH r/mv',
  '58+r d64': 'POP rv',
  '8F /0 d64': 'POP r/mv',
  '9C d64': 'PUSHF',
  'C8 iw ib d64': 'ENTER imm16, imm8',
  'C9 d64': 'LEAVE',
  'E8 cz f64': 'CALL relz',
  'FF /2 f64': 'CALL r/mv',
  'FF /4 f64': 'JMP r/mv',
  'C3 f64': 'RET',
  'C2 iw f64': 'RET imm16',
  '74 cb': 'JE rel8',
  '0F 85 cz f64': 'JNE relz',
  'E2 cb f64': 'LOOP rel8',
  '0F 95 /r': 'SETNE r/m8',
  '0F 44 /r': 'CMOVE rv, r/mv',
  A4: 'MOVSB',
  AB: 'STOSD rAX',
  AE: 'SCASB AL',
  A7: 'CMPSD rAX',
  D7: 'XLAT',
  'CD ib': 'INT imm8',
  F4: 'HLT',
  'NP 0F 58 /r': 'ADDPS xmm, xmm/m128',
  'F3 0F 58 /r': 'ADDSS xmm, xmm/m32',
  'F2 0F 5E /r': 'DIVSD xmm, xmm/m64',
  '66 0F 51 /r': 'SQRTPD xmm, xmm/m128',
  'F2 0F 2D /r': 'CVTSD2SI ry, xmm/m64',
  'NP 0F 2E /r': 'UCOMISS xmm, xmm/m32',
  '66 0F 6F /r': 'MOVDQA xmm, xmm/m128',
  'F3 0F 7F /r': 'MOVDQU xmm/m128, xmm',
  '66 0F 38 00 /r': 'PSHUFB xmm, xmm/m128',
  '66 0F 3A 14 /r ib': 'PEXTRB r/m8, xmm, imm8',
  '66 0F D7 /r:r': 'PMOVMSKB rd, xmm',
  '66 0F 73 /3:r ib': 'PSRLDQ xmm, imm8',
  '66 0F F7 /r:r': 'MASKMOVDQU xmm, xmm',
  'NP 0F FC /r': 'PADDB mm, mm/m64',
  'NP 0F AE /2:m': 'LDMXCSR m32',
  'NP 0F AE /3:m': 'STMXCSR m32',
  'NP 0F AE /0:m': 'FXSAVE m512byte',
  'NP 0F AE /4:m': 'XSAVE m',
  'NP 0F AE /5:m': 'XRSTOR m',
  'NP 0F C7 /4:m': 'XSAVEC m',
  'D8 /0:m': 'FADD m32fp',
  'DC C8+r': 'FMUL STi, ST0',
  'DB /5:m': 'FLD m80fp',
  'DB /7:m': 'FSTP m80fp',
  'DF /7:m': 'FISTP m64int',
  'DF /6:m': 'FBSTP m80bcd',
  'D9 FA': 'FSQRT',
  'D9 F8': 'FPREM',
  'D9 E5': 'FXAM',
  'D9 /5:m': 'FLDCW m16',
  'VEX.256.66.0F.WIG FE /r': 'VPADDD ymm, ymm, ymm/m256',
  'VEX.128.0F.WIG 58 /r': 'VADDPS xmm, xmm, xmm/m128',
};

const rows: FormRow[] = Object.entries(SAMPLE).map(([opcode, instruction]) => ({
  opcode,
  instruction,
  lockable: /^(ADD|AND|BTS|CMPXCHG|XADD|XCHG)/.test(instruction) && !/rAX|^ADD[PS]/.test(instruction),
}));

function parsed(row: FormRow): Form {
  const form = parseForm(row);
  if (typeof form === 'string') throw new Error(`${row.opcode} ${row.instruction}: ${form}`);
  return form;
}

test('what the notation does not know is told, and what cannot be compared is left out with a reason', () => {
  expect(parseForm({ opcode: '0F 01 /q', instruction: 'X' })).toBe('/q is no part of the notation');
  expect(leftOut(parsed({ opcode: '0F A2', instruction: 'CPUID' }))).toMatch(/differs/);
  expect(leftOut(parsed({ opcode: '8E /r', instruction: 'MOV Sreg, r/m16' }))).toMatch(/segments/);
  expect(rows.map(parsed).filter(leftOut)).toEqual([]);
});

describe('generated code', () => {
  test.each(rows.map((row) => [`${row.opcode}  ${row.instruction}`, row] as const))(
    '%s is what iced-x86 reads',
    (_, row) => {
      const form = parsed(row);
      for (const { case: one } of generateCases(form, 60, new Random(7))) {
        const decoder = new Decoder(one.mode, one.code, 0);
        decoder.ip = one.before.rip;
        const read = decoder.decode();
        const name = Mnemonic[read.mnemonic]!.toUpperCase();
        const text = `${Buffer.from(one.code).toString('hex')} in ${one.mode}-bit mode`;
        expect(read.length, text).toBe(one.code.length);
        const wanted = form.mnemonic.replace(/^(MOVS|STOS|SCAS|CMPS)[BD]$/, '$1');
        expect(name.replace('CWDE', 'CBW').replace('CDQE', 'CBW'), text).toContain(wanted);
        read.free();
        decoder.free();
      }
    },
  );

  test('is the same for the same seed', () => {
    const make = () => rows.map(parsed).map((form) => generateCases(form, 5, new Random(3)));
    expect(make()).toEqual(make());
  });
});

describe.skipIf(Oracle.missing())('on the real processor', () => {
  let oracle: Oracle;
  beforeAll(() => {
    oracle = Oracle.start();
  });
  afterAll(() => oracle.stop());

  test('every sample form ends well in most cases, faults in some, and writes where a window is', async () => {
    const poor: string[] = [];
    let faults = 0;
    for (const row of rows) {
      const cases: GeneratedCase[] = generateCases(parsed(row), 300, new Random(11));
      const outcomes = await oracle.run(cases.map((one) => one.case));
      const done = outcomes.filter(({ vector }) => vector === DONE).length;
      const stray = outcomes.filter((outcome) => outcome.stray || outcome.fpChanged).length;
      const late = outcomes.filter(({ vector }) => vector === TIMEOUT).length;
      const undefinedOpcodes = outcomes.filter(({ vector }) => vector === 6).length;
      faults += outcomes.filter(({ vector }) => vector === 14).length;
      const privileged = /^(HLT|INT)\b/.test(row.instruction);
      if ((done < 120 && !privileged) || stray > 20 || late > 3 || undefinedOpcodes > 20) {
        poor.push(`${row.instruction}: ${done} of 300 done, ${stray} stray, ${late} late, ${undefinedOpcodes} #UD`);
      }
    }
    expect(poor).toEqual([]);
    expect(faults).toBeGreaterThan(1000);
  });

  test('a fault changes no register and no byte', async () => {
    // REP string instructions keep what they have done; POPF-like ones and branches do not fault late.
    const single = rows.filter(({ instruction }) => !/^(MOVS|STOS|SCAS|CMPS|ENTER|MASKMOV)/.test(instruction));
    const broken: string[] = [];
    for (const row of single) {
      const cases = generateCases(parsed(row), 200, new Random(5)).map((one) => one.case);
      const outcomes = await oracle.run(cases);
      cases.forEach((one, i) => {
        const { vector, after, memory } = outcomes[i]!;
        if (vector !== 14) return;
        const same = after.gpr.every((value, r) => value === one.before.gpr[r]) && after.rip === one.before.rip;
        const untouched = memory.every(({ bytes }, w) => Buffer.compare(bytes, one.memory[w]!.bytes) === 0);
        if (!same || !untouched) broken.push(`${row.instruction} ${Buffer.from(one.code).toString('hex')}`);
      });
    }
    expect(broken).toEqual([]);
  });
});
