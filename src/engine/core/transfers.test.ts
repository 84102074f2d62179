import { describe, expect, it } from 'vitest';
import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { INTERCEPT } from './cpu.ts';
import { EXIT } from './exits.ts';
import { S, SEG } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';

/** Far transfers, privilege changes, task switches. SDM 3A 5.8, 7.3. */

/** A gate in the GDT. */
const gateLow = (selector: number, offset: number): number => ((selector << 16) | (offset & 0xffff)) >>> 0;
const gateHigh = (offset: number, rights: number): number => ((offset & 0xffff_0000) | rights) >>> 0;

describe('far JMP, CALL and RET', () => {
  it('real mode: CALL far pushes CS and IP, RETF imm16 drops parameters', () => {
    const m = new TestMachine().realMode();
    m.code('9a 0000 0020'); // call 2000:0000
    m.code('ca 0400', AT.DATA);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect([m.selector(SEG.CS), m.rip, m.reg(4)]).toEqual([0x2000, 0, 0xf000 - 4]);
    expect([m.read16(0xeffc), m.read16(0xeffe)]).toEqual([AT.CODE + 5, 0]);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect([m.selector(SEG.CS), m.rip, m.reg(4)]).toEqual([0, AT.CODE + 5, 0xf000 + 4]);
  });

  it('64-bit mode: a far JMP through memory reaches 32-bit code', () => {
    const m = new TestMachine().longMode();
    m.code('ff2c25 00000200'); // jmp far [0x20000]
    m.write32(AT.DATA, AT.DATA + 0x100);
    m.write16(AT.DATA + 4, SEL.CODE32);
    m.code('40 f4', AT.DATA + 0x100); // inc eax; hlt
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.reg(0)).toBe(1);
    expect(m.selector(SEG.CS)).toBe(SEL.CODE32);
    expect(m.cpu.long).toBe(false);
  });

  it.each([
    { name: 'a data segment', selector: SEL.DATA, error: SEL.DATA },
    { name: 'a null selector', selector: 0, error: 0 },
    { name: 'a code segment of another level', selector: SEL.USER32 & ~3, error: SEL.USER32 & ~3 },
    { name: 'a selector beyond the table', selector: 0xfff8, error: 0xfff8 },
  ])('protected mode: a far JMP to $name is #GP', ({ selector, error }) => {
    const m = new TestMachine().protectedMode();
    m.code(`ea 00000200 ${hex16(selector)}`);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4))).toBe(error);
    expect(m.read32(m.reg(4) + 4)).toBe(AT.CODE);
  });

  it('protected mode: a segment that is not present is #NP', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0xffff, 0x00cf_1b00);
    m.code(`ea 00000200 ${hex16(SEL.FREE)}`);
    m.run();
    expect(m.stoppedAt).toBe(11);
    expect(m.read32(m.reg(4))).toBe(SEL.FREE);
  });

  it('a call gate to level 0 copies its parameters, and RETF n returns to level 3 and drops them', () => {
    const m = new TestMachine().protectedMode(3);
    // push 0x11111111; push 0x22222222; call 50:0
    m.code(`68 11111111 68 22222222 9a 00000000 ${hex16(SEL.FREE | 3)}`);
    m.descriptor(SEL.FREE, gateLow(SEL.CODE32, AT.DATA), gateHigh(AT.DATA, 0xec02));
    m.code('ca 0800', AT.DATA);
    m.run(3);
    expect(m.cpu.cpl).toBe(0);
    expect(m.reg(4)).toBe(AT.STACK0 - 24);
    expect([0, 4, 8, 12, 16, 20].map((at) => m.read32(m.reg(4) + at))).toEqual([
      AT.CODE + 17,
      SEL.USER32,
      0x2222_2222,
      0x1111_1111,
      AT.USER_STACK - 8,
      SEL.USER_DATA,
    ]);
    m.run(1);
    expect([m.cpu.cpl, m.rip, m.reg(4)]).toEqual([3, AT.CODE + 17, AT.USER_STACK]);
  });

  it('a 64-bit call gate pushes 8-byte values on RSP0', () => {
    const m = new TestMachine().longMode(3);
    m.code('48ff1c25 00000200'); // call far qword [0x20000]
    m.write32(AT.DATA, 0, 0, SEL.FREE | 3);
    m.descriptor(SEL.FREE, gateLow(SEL.CODE64, AT.DATA + 0x100), gateHigh(AT.DATA, 0xec00));
    m.write32(AT.GDT + SEL.FREE + 8, 0, 0);
    m.code('48cb', AT.DATA + 0x100); // retfq
    m.run(1);
    expect([m.cpu.cpl, m.rip, m.reg(4)]).toEqual([0, AT.DATA + 0x100, AT.STACK0 - 32]);
    expect([0, 8, 16, 24].map((at) => m.read32(m.reg(4) + at))).toEqual([
      AT.CODE + 8,
      SEL.USER64,
      AT.USER_STACK,
      SEL.USER_DATA,
    ]);
    m.run(1);
    expect([m.cpu.cpl, m.rip, m.reg(4)]).toEqual([3, AT.CODE + 8, AT.USER_STACK]);
  });

  it('conforming code is reached from level 3 without a change of level', () => {
    const m = new TestMachine().protectedMode(3);
    m.descriptor(SEL.FREE, 0xffff, 0x00cf_9f00);
    m.code(`ea ${hex32(AT.DATA)} ${hex16(SEL.FREE)}`);
    m.code('90', AT.DATA);
    m.run(2);
    expect([m.cpu.cpl, m.selector(SEG.CS)]).toEqual([3, SEL.FREE | 3]);
  });
});

describe('SYSENTER and SYSEXIT', () => {
  it('go to level 0 and back', () => {
    const m = new TestMachine().longMode(3);
    m.descriptor(0x60, 0xffff, 0x00af_9b00);
    m.cpu.set(S.SYSENTER_CS, 0x60);
    m.cpu.set64(S.SYSENTER_ESP, AT.STACK0, 0);
    m.cpu.set64(S.SYSENTER_EIP, AT.DATA, 0);
    m.code('0f34');
    m.code('480f35', AT.DATA);
    m.setReg(1, AT.USER_STACK);
    m.setReg(2, AT.CODE + 2);
    m.run(1);
    expect([m.cpu.cpl, m.rip, m.reg(4), m.selector(SEG.CS), m.selector(SEG.SS)]).toEqual([
      0,
      AT.DATA,
      AT.STACK0,
      0x60,
      0x68,
    ]);
    m.run(1);
    expect([m.cpu.cpl, m.rip, m.reg(4), m.selector(SEG.CS), m.selector(SEG.SS)]).toEqual([
      3,
      AT.CODE + 2,
      AT.USER_STACK,
      0x83,
      0x8b,
    ]);
  });
});

describe('task switches', () => {
  const TSS2 = 0x58;
  /** A second 32-bit TSS, at level 0. */
  const prepare = (): TestMachine => {
    const m = new TestMachine().protectedMode();
    m.descriptor(TSS2, gateLow(AT.TSS2, 0x67), 0x0000_8900);
    m.write32(AT.TSS2 + 32, AT.DATA, 2, 0x1, 0x2, 0x3, 0x4, AT.IST1, 0x6, 0x7, 0x8);
    m.write32(AT.TSS2 + 72, SEL.DATA, SEL.CODE32, SEL.DATA, SEL.DATA, 0, 0, 0, 0);
    return m;
  };
  const busy = (m: TestMachine, selector: number): number => (m.read8(AT.GDT + selector + 5) >>> 1) & 1;

  it('CALL to a TSS saves the old task, nests, and IRET comes back', () => {
    const m = prepare();
    m.code(`9a 00000000 ${hex16(TSS2)} f4`);
    m.code('cf', AT.DATA);
    m.setReg(0, 0x1234);
    m.setFlags(RFLAGS.CF);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.DATA);
    expect([m.reg(0), m.reg(1), m.reg(4)]).toEqual([1, 2, AT.IST1]);
    expect(m.selector(SEG.TR)).toBe(TSS2);
    expect(m.rights(SEG.TR) & 15).toBe(11);
    expect(m.read16(AT.TSS2)).toBe(SEL.TSS);
    expect(m.cpu.rflags() & RFLAGS.NT).toBe(RFLAGS.NT);
    expect(m.cpu.cr0 & CR0.TS).toBe(CR0.TS);
    expect([busy(m, SEL.TSS), busy(m, TSS2)]).toEqual([1, 1]);
    expect([m.read32(AT.TSS + 32), m.read32(AT.TSS + 36), m.read32(AT.TSS + 40)]).toEqual([AT.CODE + 7, 3, 0x1234]);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 7);
    expect(m.reg(0)).toBe(0x1234);
    expect([busy(m, SEL.TSS), busy(m, TSS2)]).toEqual([1, 0]);
    expect(m.cpu.rflags() & (RFLAGS.NT | RFLAGS.CF)).toBe(RFLAGS.CF);
    // NT was cleared in the image of the task that returned
    expect(m.read32(AT.TSS2 + 36) & RFLAGS.NT).toBe(0);
  });

  it('JMP to a TSS frees the old one; a busy TSS is #GP', () => {
    const m = prepare();
    m.code(`ea 00000000 ${hex16(TSS2)}`);
    m.code(`ea 00000000 ${hex16(TSS2)}`, AT.DATA);
    m.run(1);
    expect([busy(m, SEL.TSS), busy(m, TSS2)]).toEqual([0, 1]);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4))).toBe(TSS2);
  });

  it('a task gate in the IDT pushes the error code on the new task’s stack', () => {
    const m = prepare();
    m.code(`66b8 ${hex16(0x800)} 8ed8`); // mov ax,0x800; mov ds,ax: beyond nothing, but not a data segment
    m.gate(13, TSS2, 0, 0x8500);
    m.code('f4', AT.DATA);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.DATA);
    expect(m.reg(4)).toBe(AT.IST1 - 4);
    expect(m.read32(AT.IST1 - 4)).toBe(0x800);
    expect(m.read32(AT.TSS + 32)).toBe(AT.CODE + 4);
    expect(m.read32(AT.TSS + 36) & RFLAGS.RF).toBe(RFLAGS.RF);
  });

  it('the T bit of a task that an exception has come to traps before its first instruction', () => {
    const m = prepare();
    m.write16(AT.TSS2 + 100, 1);
    m.code('0f0b');
    m.gate(6, TSS2, 0, 0x8500);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.DATA);
  });

  it('leaves in the new task where L0 loads CR3, and is ended by the next run', () => {
    const m = prepare();
    m.write32(AT.PML4, 0x83, 0x40_0083);
    m.cpu.set64(S.CR3, AT.PML4, 0);
    m.cpu.set(S.CR4, CR4.PSE);
    m.cpu.set(S.CR0, (m.cpu.cr0 | CR0.PG) >>> 0);
    m.write32(AT.TSS2 + 28, AT.PDPT);
    m.write32(AT.PDPT, 0x83, 0x40_0083);
    m.vcpu.intercepts.crAccess = 1;
    m.code(`ea 00000000 ${hex16(TSS2)}`);
    m.code('f4', AT.DATA);
    expect(m.run()).toBe(EXIT.TASK_CR3);
    expect([m.exit.qualification, m.rip, m.reg(1), m.selector(SEG.TR)]).toEqual([AT.PDPT, AT.DATA, 2, TSS2]);
    expect([m.vcpu.instructions, m.cpu.get(S.CR3)]).toEqual([1, AT.PML4]);
    m.cpu.set64(S.CR3, AT.PDPT, 0);
    expect(m.run()).toBe(EXIT.BUDGET);
    expect([m.vcpu.instructions, m.rights(SEG.CS) & 0x1_009f]).toEqual([1, 0x9b]);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.DATA);
  });

  const LDT = 0x60;
  const FAR = 0x20_0000; // under another entry of the second stage than the rest
  it.each(['JMP', 'a task gate'])(
    '%s: what L0 must fetch first for the new task does not bring the old one back',
    (how) => {
      const m = prepare();
      const { lo } = m.cpu.walker.secondStage.tables;
      const entry = lo[513]!;
      m.descriptor(LDT, gateLow(FAR, 0xff), 0x0000_8220);
      m.write16(AT.TSS2 + 96, LDT);
      m.write32(AT.TSS2 + 72 + 4 * SEG.GS, 0x0c);
      m.write32(FAR + 8, 0x0000_ffff, 0x00cf_9300);
      if (how === 'JMP') m.code(`ea 00000000 ${hex16(TSS2)}`);
      else {
        m.gate(13, TSS2, 0, 0x8500);
        m.code(`66b8 ${hex16(0x800)} 8ed8`);
      }
      m.code('f4', AT.DATA);
      lo[513] = 0;
      expect(m.run()).toBe(EXIT.EPT_VIOLATION);
      expect([m.rip, m.exit.vectoring, m.selector(SEG.TR)]).toEqual([AT.DATA, 0, TSS2]);
      lo[513] = entry;
      expect(m.run()).toBe(EXIT.BUDGET);
      expect(m.run()).toBe(EXIT.HLT);
      expect([m.rip, m.selector(SEG.GS), m.rights(SEG.GS) & 0x9f]).toEqual([AT.DATA, 0x0c, 0x93]);
      expect(m.reg(4)).toBe(how === 'JMP' ? AT.IST1 : AT.IST1 - 4);
      expect(m.read32(AT.IST1 - 4)).toBe(how === 'JMP' ? 0 : 0x800);
    },
  );

  it('a bad segment of the new task is its own #TS', () => {
    const m = prepare();
    m.write32(AT.TSS2 + 72 + 12, SEL.CODE64 + 0x200);
    m.code(`ea 00000000 ${hex16(TSS2)}`);
    m.run();
    expect(m.stoppedAt).toBe(10);
    expect(m.read32(m.reg(4))).toBe(SEL.CODE64 + 0x200);
    expect(m.read32(m.reg(4) + 4)).toBe(AT.DATA);
    expect(m.selector(SEG.TR)).toBe(TSS2);
  });

  it('the T bit of the new task traps before its first instruction', () => {
    const m = prepare();
    m.write16(AT.TSS2 + 100, 1);
    m.code(`ea 00000000 ${hex16(TSS2)}`);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.DATA);
    expect(m.cpu.get(S.DR + 48) & 0x8000).toBe(0x8000);
  });

  it('a 16-bit TSS saves and loads words', () => {
    const m = prepare();
    m.descriptor(TSS2, gateLow(AT.TSS2, 0x2b), 0x0000_8100);
    m.fill(AT.TSS2, 0x68, 0);
    m.write16(AT.TSS2 + 14, 0x100, 2, 1, 2, 3, 4, 0x8888, 6, 7, 8, SEL.DATA, SEL.FREE, SEL.DATA, SEL.DATA, 0);
    m.descriptor(SEL.FREE, 0x0000_ffff, 0x0000_9b02); // 16-bit code at 0x20000
    m.code(`9a 00000000 ${hex16(TSS2)} f4`);
    m.code('cf', AT.DATA + 0x100);
    m.run(1);
    expect([m.rip, m.reg(0), m.reg(4), m.selector(SEG.CS)]).toEqual([0x100, 0xffff_0001, 0xffff_8888, SEL.FREE]);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 7);
    expect(m.read16(AT.TSS2 + 14)).toBe(0x101);
  });

  it('leaves with EXIT.TASK_SWITCH where L0 wants it, before anything changes', () => {
    const m = prepare();
    m.vcpu.intercepts.instructions = INTERCEPT.TASK_SWITCH;
    m.code(`ea 00000000 ${hex16(TSS2)}`);
    expect(m.run()).toBe(EXIT.TASK_SWITCH);
    expect(m.exit.qualification).toBe((TSS2 | (2 << 30)) >>> 0);
    expect(busy(m, TSS2)).toBe(0);
    expect(m.rip).toBe(AT.CODE);
  });

  it('in IA-32e mode a far JMP to a TSS is #GP', () => {
    const m = new TestMachine().longMode();
    m.code('ff2c25 00000200');
    m.write32(AT.DATA, 0, TSS2);
    m.descriptor(TSS2, gateLow(AT.TSS2, 0x67), 0x0000_8900);
    m.run();
    expect(m.stoppedAt).toBe(13);
  });
});

describe('a return to an outer level', () => {
  it('makes inner data segments null, and keeps the base of GS for 64-bit code', () => {
    const m = new TestMachine().longMode();
    m.code('48cf'); // iretq
    m.setReg(4, AT.STACK - 40);
    m.write32(AT.STACK - 40, AT.DATA, 0, SEL.USER64, 0, 2, 0, AT.USER_STACK, 0, SEL.USER_DATA, 0);
    m.setSegment(SEG.GS, SEL.DATA, AT.DATA + 0x800, 0xffff_ffff, 0xc093);
    m.setSegment(SEG.ES, SEL.USER_DATA, 0, 0xffff_ffff, 0xc0f3);
    m.code('658b042510000000 0f0b', AT.DATA); // mov eax,gs:[0x10]; ud2
    m.write32(AT.DATA + 0x810, 0x1234_5678);
    m.run();
    expect(m.stoppedAt).toBe(6);
    expect([m.selector(SEG.GS), m.selector(SEG.DS), m.selector(SEG.ES)]).toEqual([0, 0, SEL.USER_DATA]);
    expect(m.reg(0)).toBe(0x1234_5678);
  });
});

describe('from real mode to 64-bit mode and back', () => {
  it('by CR0.PE, a far JMP, CR4.PAE, CR3, EFER.LME and CR0.PG', () => {
    const m = new TestMachine().realMode();
    const long = new TestMachine().longMode();
    // Tables of the long-mode machine, then GDTR from memory
    for (let at = AT.PML4; at < AT.GDT + 0x100; at += 4) m.write32(at, long.read32(at));
    m.write16(0x7f00, 0xff, AT.GDT, 0);
    m.code(`
      0f0116 007f        ; lgdt [0x7f00]
      0f20c0 0c01 0f22c0 ; mov eax,cr0; or al,1; mov cr0,eax
      ea 2080 1800       ; jmp 18:8020
    `);
    m.code(
      `
      b820000000 0f22e0  ; mov eax,0x20; mov cr4,eax
      b800100000 0f22d8  ; mov eax,0x1000; mov cr3,eax
      b9800000c0 0f32    ; mov ecx,0xc0000080; rdmsr
    `,
      AT.CODE + 0x20,
    );
    expect(m.run()).toBe(EXIT.RDMSR);
    expect(m.cpu.protectedMode).toBe(true);
    m.cpu.set(S.EFER, EFER.LME);
    m.code('0f20c0 0d00000080 0f22c0 ea 00000200 0800'); // or eax,0x80000000; jmp 08:20000
    m.code('48ffc0 f4', AT.DATA); // inc rax; hlt
    m.setReg(4, AT.STACK);
    m.rip = AT.CODE;
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.DATA + 3);
    expect(m.cpu.long).toBe(true);
    expect(m.cpu.efer).toBe(EFER.LME | EFER.LMA);
    expect(m.cpu.cr4).toBe(CR4.PAE);
  });
});

function hex16(value: number): string {
  return [value & 0xff, (value >>> 8) & 0xff].map((b) => b.toString(16).padStart(2, '0')).join('');
}
function hex32(value: number): string {
  return hex16(value & 0xffff) + hex16(value >>> 16);
}
