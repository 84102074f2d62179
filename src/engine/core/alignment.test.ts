import { describe, expect, test } from 'vitest';
import { CR0, RFLAGS } from '../../arch/registers.ts';
import { S } from './layout.ts';
import { AT, TestMachine } from './machine-testbed.ts';

/** SDM 3A 6.15 "Interrupt 17—Alignment Check Exception (#AC)"; for YMM operands as AMD family 26 does it (MEASURED). */
describe('alignment checks of a 32-byte operand', () => {
  const FORMS = [
    ['vmovups [rsi], ymm0', 'c5fc1106'],
    ['vmovups ymm0, [rsi]', 'c5fc1006'],
  ] as const;

  test.each(FORMS)('%s: on 16 bytes it is aligned, within a page and over its end', (_, code) => {
    const vectorAt = (address: number): number => {
      const m = new TestMachine().longMode(3);
      m.cpu.set(S.CR0, (m.cpu.cr0 | CR0.AM) >>> 0);
      m.code(`${code} cd40`); // and int 0x40
      m.gate(0x40, 0x08, AT.HLTS + 0x40 * 16, 0xee00);
      m.setFlags(RFLAGS.AC);
      m.setReg(6, address);
      m.run();
      return m.stoppedAt;
    };
    const offsets = [0, 16, 48, 4080, 8, 24, 4072, 4088];
    expect(offsets.map((offset) => vectorAt(AT.DATA + offset))).toEqual([64, 64, 64, 64, 17, 17, 17, 17]);
  });
});
