import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../arch/registers.ts';
import { EXIT } from '../core/exits.ts';
import { S, SEG } from '../core/layout.ts';
import { AT, SEL, TestMachine } from '../core/machine-testbed.ts';

/** PUSHA, POPA, ENTER, PUSHF, POPF and segment pushes on all stack widths. SDM 1 6.2. */

describe('real mode, 16-bit stack', () => {
  it('PUSHA stores SP as it was, POPA skips it', () => {
    const m = new TestMachine().realMode();
    m.code('60 31c0 31db 61 f4'); // pusha; xor ax,ax; xor bx,bx; popa
    for (let i = 0; i < 8; i += 1) if (i !== 4) m.setReg(i, 0xaaaa_0000 + i);
    m.setReg(4, 0x5555_f000);
    m.run(1);
    expect(Array.from({ length: 8 }, (_, i) => m.read16(0xf000 - 2 - 2 * i))).toEqual([0, 1, 2, 3, 0xf000, 5, 6, 7]);
    expect(m.reg(4)).toBe(0x5555_eff0);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(0), m.reg(3), m.reg(4)]).toEqual([0xaaaa_0000, 0xaaaa_0003, 0x5555_f000]);
  });

  it('a push at SP 0 wraps to FFFE; at SP 1 it is #SS', () => {
    const m = new TestMachine().realMode();
    m.code('50 f4');
    m.setReg(4, 0);
    m.setReg(0, 0x1234);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(4), m.read16(0xfffe)]).toEqual([0xfffe, 0x1234]);

    const n = new TestMachine().realMode();
    n.code('50');
    n.setReg(4, 1);
    // Neither the #SS nor what follows can be pushed
    expect(n.run()).toBe(EXIT.TRIPLE_FAULT);
  });

  it('ENTER with a display copies the outer frames', () => {
    const m = new TestMachine().realMode();
    m.code('c8 1000 03 f4'); // enter 16,3
    m.setReg(5, 0xe000);
    m.write16(0xe000 - 4, 0x2222, 0x1111); // outer frame pointers below BP
    m.run();
    expect([-2, -4, -6, -8].map((at) => m.read16(0xf000 + at))).toEqual([0xe000, 0x1111, 0x2222, 0xeffe]);
    expect([m.reg(5), m.reg(4)]).toEqual([0xeffe, 0xf000 - 8 - 16]);
  });

  it('POP SS changes the stack and shadows; PUSH DS pushes 16 bits', () => {
    const m = new TestMachine().realMode();
    m.code('6800 20 17 1e f4'); // push 0x2000; pop ss; push ds
    m.setSegment(SEG.DS, 0x1234, 0x1_2340, 0xffff, 0x93);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.selector(SEG.SS)).toBe(0x2000);
    expect(m.read16(0x2_0000 + 0xeffe)).toBe(0x1234);
  });
});

describe('32-bit code', () => {
  it('PUSH of a segment leaves the upper half of its slot', () => {
    const m = new TestMachine().protectedMode();
    m.code('1e f4');
    m.write32(AT.STACK - 4, 0xaaaa_aaaa);
    m.run();
    expect(m.read32(AT.STACK - 4)).toBe(0xaaaa_0000 + SEL.DATA);
  });

  it('a 16-bit stack segment moves SP only', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0x0000_ffff, 0x0000_9302); // base 0x20000, 64 KiB, B clear
    m.code('8ed0 50 59 f4'); // mov ss,eax; push eax; pop ecx
    m.setReg(0, SEL.FREE);
    m.setReg(4, 0x7777_0000);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(4), m.reg(1), m.read32(0x2_fffc)]).toEqual([0x7777_0000, SEL.FREE, SEL.FREE]);
  });

  it('a push below the limit of an expand-down stack is #SS(0)', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0x0000_fff0, 0x0040_9700); // expand-down, B set, above 0xfff0
    m.code('8ed0 bcf8ff0000 50 50'); // mov ss,eax; mov esp,0xfff8; push; push
    m.setReg(0, SEL.FREE);
    m.vcpu.intercepts.exceptions = 1 << 12;
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect([m.exit.error, m.rip, m.reg(4)]).toEqual([0, AT.CODE + 8, 0xfff4]);
  });
});

describe('64-bit code', () => {
  it('PUSHFQ hides RF and VM; POPF of 16 bits keeps the upper flags', () => {
    const m = new TestMachine().longMode();
    m.code('9c 669d f4'); // pushfq; popfw
    m.setFlags(RFLAGS.ID | RFLAGS.CF);
    m.cpu.set(S.RFLAGS, m.cpu.get(S.RFLAGS) | RFLAGS.RF);
    m.run(1);
    expect(m.read32(AT.STACK - 8)).toBe(RFLAGS.ID | RFLAGS.CF | 2);
    m.write32(AT.STACK - 8, 0xffff_0000 | RFLAGS.ZF);
    m.run();
    expect(m.cpu.rflags() & ~RFLAGS.RF).toBe(RFLAGS.ID | RFLAGS.ZF | 2);
    expect(m.reg(4)).toBe(AT.STACK - 6);
  });

  it('ENTER and LEAVE are inverse', () => {
    const m = new TestMachine().longMode();
    m.code('c8 2000 00 c9 f4');
    m.setReg(5, 0x1234, 0x5678);
    m.run(1);
    expect([m.reg(4), m.reg(5)]).toEqual([AT.STACK - 8 - 32, AT.STACK - 8]);
    m.run();
    expect([m.reg(4), m.reg(5), m.cpu.get(S.RIP)]).toEqual([AT.STACK, 0x1234, AT.CODE + 5]);
  });

  // MEASURED on AMD family 26
  it('ENTER pushes RBP before it reads the display: of two pages that are not there the stack is the one that faults', () => {
    const m = new TestMachine().longMode();
    m.code('c8 2000 02 f4'); // enter 32,2
    m.setReg(4, 0x40_0000 + 0x1000);
    m.setReg(5, 0x50_0000);
    m.vcpu.intercepts.exceptions = 1 << 14;
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect(m.exit.qualification).toBe(0x40_0ff8);
  });
});
