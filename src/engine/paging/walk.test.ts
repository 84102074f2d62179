import { describe, expect, it } from 'vitest';
import { CR4 } from '../../arch/registers.ts';
import { S } from '../core/layout.ts';
import { AT, TestMachine } from '../core/machine-testbed.ts';

/** Walks that begin in the middle, as paging-structure caches let them: SDM 3A 4.10.3, 4.10.4. */

/** A table of level 1, below the 2-MByte page of addresses from 0x20_0000 on; pages there. */
const [PT, OTHER_PT, PAGE, OTHER_PAGE] = [0x30_0000, 0x30_1000, 0x31_0000, 0x32_0000];
const LINEAR = 0x20_0000;

/** 64-bit mode where 0x20_0000 to 0x3f_ffff are pages of 4 KBytes that map PAGE on. */
function machine(cpl: 0 | 3 = 0, pde = 7, pte = 7): TestMachine {
  const m = new TestMachine().longMode(cpl);
  m.write32(AT.PD + 8, PT | pde, 0);
  for (let i = 0; i < 8; i += 1) m.write32(PT + 8 * i, (PAGE + 4096 * i) | pte, 0);
  for (let i = 0; i < 8; i += 1) {
    m.write32(PAGE + 4096 * i, 0x1000 + i);
    m.write32(OTHER_PAGE + 4096 * i, 0x2000 + i);
  }
  return m;
}

/** mov eax, [rbx] with RBX = `at`: EAX, or the vector of the fault as a negative number. */
function load(m: TestMachine, at: number, code = '8b03 f4'): number {
  m.code(code);
  m.rip = AT.CODE;
  m.setReg(3, at);
  m.runOn();
  return m.stoppedAt >= 0 && m.rip !== AT.CODE + 2 ? -m.stoppedAt : m.reg(0);
}

const INVLPG_RCX = '0f0139 8b03 f4';

describe('a walk from the level-1 table that the last one found', () => {
  it('reads each page of the region, and sets accessed bits of its entries only', () => {
    const m = machine();
    for (let i = 0; i < 8; i += 1) expect(load(m, LINEAR + 4096 * i)).toBe(0x1000 + i);
    for (const at of [AT.PML4, AT.PDPT, AT.PD + 8, PT, PT + 56]) expect(m.read32(at) & 0x60).toBe(0x20);
  });

  it('sees a page that became present without INVLPG', () => {
    const m = machine();
    m.write32(PT + 8, 0, 0);
    expect(load(m, LINEAR)).toBe(0x1000);
    expect(load(m, LINEAR + 4096)).toBe(-14);
    m.write32(PT + 8, OTHER_PAGE | 7, 0);
    expect(load(m, LINEAR + 4096)).toBe(0x2000);
  });

  it('goes by another table after INVLPG of any address', () => {
    const m = machine();
    expect(load(m, LINEAR)).toBe(0x1000);
    for (let i = 0; i < 8; i += 1) m.write32(OTHER_PT + 8 * i, (OTHER_PAGE + 4096 * i) | 7, 0);
    m.write32(AT.PD + 8, OTHER_PT | 7, 0);
    m.setReg(1, 0x1000);
    expect(load(m, LINEAR + 0x2000, INVLPG_RCX)).toBe(0x2002);
  });

  it('goes by another table after MOV to CR3', () => {
    const m = machine();
    expect(load(m, LINEAR)).toBe(0x1000);
    for (let i = 0; i < 8; i += 1) m.write32(OTHER_PT + 8 * i, (OTHER_PAGE + 4096 * i) | 7, 0);
    m.write32(AT.PD + 8, OTHER_PT | 7, 0);
    m.setReg(1, AT.PML4);
    expect(load(m, LINEAR + 0x2000, '0f22d9 8b03 f4')).toBe(0x2002);
  });

  it.each([
    { name: 'not for users', pde: 3, code: '8b03 f4', cpl: 3 as const },
    { name: 'not for writing', pde: 5, code: '8903 f4', cpl: 3 as const },
  ])('keeps what the entry above allows: $name', ({ pde, code, cpl }) => {
    const m = machine(cpl, pde);
    // Level 0 reads the region first, so that the table is known
    m.cpu.set(S.CPL, 0);
    m.cpu.modeChanged();
    expect(m.cpu.read(LINEAR, 0, 4, 0)).toBe(true);
    m.cpu.set(S.CPL, 3);
    m.cpu.modeChanged();
    expect(load(m, LINEAR + 4096, code)).toBe(-14);
    expect(m.cpu.get(S.FAULT_ERROR) & 5).toBe(5);
  });

  it('is of one PCID', () => {
    const m = machine();
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.PCIDE);
    expect(load(m, LINEAR)).toBe(0x1000);
    for (let i = 0; i < 8; i += 1) m.write32(OTHER_PT + 8 * i, (OTHER_PAGE + 4096 * i) | 7, 0);
    m.write32(AT.PD + 8, OTHER_PT | 7, 0);
    // Another PCID without a flush knows nothing of the first
    m.cpu.set64(S.CR3, AT.PML4 | 1, 0);
    m.cpu.contextChanged();
    expect(load(m, LINEAR + 4096)).toBe(0x2001);
  });
});
