import { expect, test } from 'vitest';
import { CR0 } from '../../arch/registers.ts';
import { EXIT } from '../core/exits.ts';
import { S } from '../core/layout.ts';
import { AT, TestMachine } from '../core/machine-testbed.ts';

/** x87 instructions on the whole engine: decoded, in each mode, with memory that is not where one would like it. */

const hexAt = (m: TestMachine, at: number, bytes: number): string =>
  Array.from({ length: bytes }, (_, i) =>
    m
      .read8(at + i)
      .toString(16)
      .padStart(2, '0'),
  ).join('');
const hex16 = (...words: number[]): string =>
  words.map((w) => [w & 255, w >> 8].map((b) => b.toString(16).padStart(2, '0')).join('')).join('');

/** disp32 addressing of AT.DATA in 64-bit mode: ModRM.rm 4 and SIB 25h. */
const DATA64 = '25 00000200';
const at64 = (opcode: string, reg: number): string =>
  `${opcode} ${(4 | (reg << 3)).toString(16).padStart(2, '0')} ${DATA64}`;

test('64-bit mode: a computation through memory of all widths', () => {
  const m = new TestMachine().longMode();
  m.code(`
    dbe3            ; fninit
    d9eb            ; fldpi
    d9e8            ; fld1
    dec1            ; faddp st1, st0
    ${at64('db', 7)} ; fstp m80
    ${at64('db', 5)} ; fld m80
    ${at64('dd', 3)} ; fstp m64
    ${at64('dd', 0)} ; fld m64
    ${at64('d9', 2)} ; fst m32
    dfe0            ; fnstsw ax
    f4`);
  expect(m.run()).toBe(EXIT.HLT);
  const pi = new DataView(new ArrayBuffer(4));
  pi.setFloat32(0, Math.PI + 1);
  expect(m.read32(AT.DATA)).toBe(pi.getUint32(0));
  expect(m.reg(0)).toBe(0x3820); // TOP 7, PE, rounded down
});

test('an 80-bit store across a page border arrives whole, and a load brings it back', () => {
  const m = new TestMachine().longMode();
  const at = AT.DATA + 0xffb;
  m.setReg(0, at);
  m.code('dbe3 d9eb db38 db28 d9e8 ded9 dfe0 f4'); // fninit; fldpi; fstp [rax]; fld [rax]; fld1; fcompp; fnstsw ax
  expect(m.run()).toBe(EXIT.HLT);
  expect(hexAt(m, at, 10)).toBe('35c26821a2da0fc90040');
  expect(m.reg(0) & 0x4500).toBe(0x0100); // 1 < π
});

test('a store to a page that is not there changes neither stack nor status word', () => {
  const m = new TestMachine().longMode();
  m.setReg(0, 0x4000_0000);
  m.code('dbe3 d9eb db38'); // fninit; fldpi; fstp m80
  m.run();
  expect(m.stoppedAt).toBe(14);
  expect(m.cpu.get(S.FTOP)).toBe(7);
  expect(m.cpu.u8[S.FEMPTY + 7]).toBe(0);
});

test('an unmasked exception is delivered as #MF at the next waiting instruction, which has not run', () => {
  const m = new TestMachine().longMode();
  m.write16(AT.DATA, 0x37b);
  m.code(`dbe3 ${at64('d9', 5)} d9ee d9e8 d8f1 90 d9e8 f4`); // fninit; fldcw; fldz; fld1; fdiv; nop; fld1
  expect(m.run()).toBe(EXIT.HLT);
  expect(m.stoppedAt).toBe(16);
  expect(m.read32(m.reg(4))).toBe(AT.CODE + 16); // no error code
  expect(m.cpu.get(S.FIP)).toBe(AT.CODE + 13);
  expect(m.cpu.u16[S.FOP >>> 1]).toBe(0x0f1);
  expect(m.cpu.get(S.FTOP)).toBe(6);
});

test('CR0.EM and CR0.TS make x87 instructions #NM, and FWAIT with MP and TS', () => {
  for (const [bits, code, vector] of [
    [CR0.EM, 'd9e8', 7],
    [CR0.TS, 'd9e8', 7],
    [CR0.TS, '9bf4', -1],
    [CR0.TS | CR0.MP, '9b', 7],
    [CR0.EM, '9bf4', -1],
  ] as const) {
    const m = new TestMachine().longMode();
    m.cpu.set(S.CR0, (m.cpu.get(S.CR0) | bits) >>> 0);
    m.cpu.modeChanged();
    m.code(code);
    m.run();
    expect(m.stoppedAt, `${code} with CR0 ${bits.toString(16)}`).toBe(vector);
  }
});

test('64-bit mode: FNSTENV has 28 bytes, with an operand-size prefix 14', () => {
  const m = new TestMachine().longMode();
  m.fill(AT.DATA, 64, 0xee);
  m.code(`dbe3 d9e8 ${at64('d9', 6)} f4`);
  expect(m.run()).toBe(EXIT.HLT);
  expect(hexAt(m, AT.DATA, 30)).toBe(
    `${hex16(0x37f, 0xffff, 0x3800, 0xffff, 0x3fff, 0xffff, AT.CODE + 2, 0, 0, 0, 0, 0, 0, 0xffff)}eeee`,
  );
  m.rip = AT.CODE + 0x100;
  m.fill(AT.DATA, 64, 0xee);
  m.code(`dbe3 d9e8 66 ${at64('d9', 6)} f4`, AT.CODE + 0x100);
  expect(m.run()).toBe(EXIT.HLT);
  expect(hexAt(m, AT.DATA, 16)).toBe(`${hex16(0x37f, 0x3800, 0x3fff, AT.CODE + 0x102, 0, 0, 0)}eeee`);
});

test('protected mode: a 32-bit guest computes, saves and restores', () => {
  const m = new TestMachine().protectedMode();
  const data = '05 00000200'; // ModRM.rm 5: disp32
  const at = (opcode: string, reg: number): string =>
    `${opcode} ${(5 | (reg << 3)).toString(16).padStart(2, '0')} ${data.slice(3)}`;
  m.write32(AT.DATA, 7);
  m.code(`
    dbe3
    ${at('db', 0)} ; fild m32
    ${at('da', 1)} ; fimul m32
    ${at('dd', 6)} ; fnsave
    ${at('dd', 4)} ; frstor
    ${at('db', 3)} ; fistp m32
    f4`);
  expect(m.run()).toBe(EXIT.HLT);
  expect(m.read32(AT.DATA)).toBe(49);
});

test('real mode: images hold linear pointers and the opcode', () => {
  const m = new TestMachine().realMode();
  // fninit; fld1; fldz; fdivp: 1/0, ZE masked; fnstenv [2000h]; the 32-bit image too
  m.fill(0x2000, 64, 0xee);
  m.code('dbe3 d9e8 d9ee def9 d936 0020 66 d936 2020 f4');
  m.cpu.set64(S.FDP, 0x1_2345, 0);
  expect(m.run()).toBe(EXIT.HLT);
  expect(hexAt(m, 0x2000, 16)).toBe(`${hex16(0x37f, 0x3804, 0xbfff, AT.CODE + 6, 0, 0, 0)}eeee`);
  m.rip = AT.CODE + 0x100;
  m.code('d936 2020 f4', AT.CODE + 0x100);
  m.cpu.set64(S.FIP, 0xa_5432, 0);
  m.cpu.set64(S.FDP, 0x1_2345, 0);
  m.cpu.u16[S.FOP >>> 1] = 0x0f1;
  expect(m.run()).toBe(EXIT.HLT);
  expect(hexAt(m, 0x2020 + 6, 8)).toBe(hex16(0x5432, 0xa0f1, 0x2345, 0x1000));
  m.rip = AT.CODE + 0x200;
  m.code('d926 2020 66 d936 4020 f4', AT.CODE + 0x200); // fldenv, 16 bits; fnstenv, 32 bits
  m.cpu.set64(S.FIP, 0, 0);
  expect(m.run()).toBe(EXIT.HLT);
  expect(m.read32(0x2040 + 12)).toBe(0xffff_5432);
  expect(m.read32(0x2040 + 16)).toBe(0x0000_a0f1);
  expect(m.read32(0x2040 + 20)).toBe(0xffff_2345);
  expect(m.read32(0x2040 + 24)).toBe(0x0000_1000);
});
