import { describe, expect, it } from 'vitest';
import { CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { EVENT, INTERRUPTION } from './events.ts';
import { EXIT, X } from './exits.ts';
import { S, SEG } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';

/** Delivery of events and return from them. SDM 3A 6, SDM 3C 26.6.1 and 27.2. */

describe('64-bit mode', () => {
  it('an invalid opcode at level 0 pushes SS RSP RFLAGS CS RIP on an aligned stack and sets RF in the image', () => {
    const m = new TestMachine().longMode();
    m.code('0f0b'); // ud2
    m.setReg(4, AT.STACK - 4);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(6);
    expect(m.reg(4)).toBe(AT.STACK - 16 - 40);
    const top = m.reg(4);
    expect(m.read32(top)).toBe(AT.CODE);
    expect(m.read32(top + 8)).toBe(SEL.CODE64);
    expect(m.read32(top + 16) & (RFLAGS.RF | 2)).toBe(RFLAGS.RF | 2);
    expect(m.read32(top + 24)).toBe(AT.STACK - 4);
    expect(m.read32(top + 32)).toBe(SEL.DATA);
    expect(m.selector(SEG.SS)).toBe(SEL.DATA);
  });

  it('an interrupt from level 3 takes RSP0, a null SS, and IRETQ brings everything back', () => {
    const m = new TestMachine().longMode(3);
    m.code('cd40 90'); // int 0x40; nop
    m.gate(0x40, SEL.CODE64, AT.HLTS + 0x400, 0xee00);
    m.code('48cf', AT.HLTS + 0x400); // iretq
    m.setFlags(RFLAGS.IF);
    expect(m.run(2)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.CODE + 2);
    expect(m.cpu.cpl).toBe(3);
    expect(m.selector(SEG.CS)).toBe(SEL.USER64);
    expect(m.selector(SEG.SS)).toBe(SEL.USER_DATA);
    expect(m.reg(4)).toBe(AT.USER_STACK);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(RFLAGS.IF);
    // What the interrupt had pushed
    expect(m.read32(AT.STACK0 - 40)).toBe(AT.CODE + 2);
    expect(m.read32(AT.STACK0 - 16)).toBe(AT.USER_STACK);
  });

  it('in the handler SS is null, CPL 0 and IF clear', () => {
    const m = new TestMachine().longMode(3);
    m.code('cd40');
    m.gate(0x40, SEL.CODE64, AT.HLTS + 0x400, 0xee00);
    m.setFlags(RFLAGS.IF | (RFLAGS.TF * 0));
    m.run();
    expect(m.stoppedAt).toBe(0x40);
    expect(m.selector(SEG.SS)).toBe(0);
    expect(m.rights(SEG.SS) & 0x1_0000).not.toBe(0);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(0);
  });

  it('INT n through a gate of lower DPL is #GP with the vector in the error code', () => {
    const m = new TestMachine().longMode(3);
    m.code('cd41');
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(AT.STACK0 - 48)).toBe(0x41 * 8 + 2);
    expect(m.read32(AT.STACK0 - 40)).toBe(AT.CODE);
  });

  it('a page fault sets CR2 and pushes its error code; a gate with an IST takes that stack', () => {
    const m = new TestMachine().longMode(3);
    m.code('8904 2500 0040 00'); // mov [0x400000], eax: not mapped
    m.gate(14, SEL.CODE64, AT.HLTS + 14 * 16, 0x8e01);
    m.run();
    expect(m.stoppedAt).toBe(14);
    expect(m.cpu.get(S.CR2)).toBe(0x40_0000);
    expect(m.read32(AT.IST1 - 48)).toBe(6);
  });

  it('a fault in the delivery of #PF becomes #DF, and one in that a triple fault', () => {
    const m = new TestMachine().longMode();
    m.code('8b04 2500 0040 00');
    m.gate(14, SEL.CODE64, AT.HLTS, 0x0e00); // not present
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(8);
    expect(m.read32(m.reg(4))).toBe(0);

    const n = new TestMachine().longMode();
    n.code('8b04 2500 0040 00');
    n.gate(14, SEL.CODE64, AT.HLTS, 0x0e00);
    n.gate(8, SEL.CODE64, AT.HLTS, 0x0e00);
    expect(n.run()).toBe(EXIT.TRIPLE_FAULT);
    expect(n.rip).toBe(AT.CODE);
  });

  it('a fault in the delivery of an external interrupt has EXT set in its error code', () => {
    const m = new TestMachine().longMode();
    m.code('f4');
    m.gate(0x80, SEL.CODE64, AT.HLTS, 0x0e00);
    m.cpu.contextChanged();
    expect(m.engine.inject(m.vcpu, (INTERRUPTION.VALID | 0x80) >>> 0, 0, 0)).toBe(EXIT.BUDGET);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(11);
    expect(m.read32(m.reg(4))).toBe(0x80 * 8 + 3);
  });

  it('an intercepted exception leaves with its information and changes nothing', () => {
    const m = new TestMachine().longMode(3);
    m.code('8904 2500 0040 00');
    m.vcpu.intercepts.exceptions = 1 << 14;
    m.cpu.set64(S.CR2, 0x1234, 0);
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect(m.exit.qualification).toBe(0x40_0000);
    expect(m.exit.interruption).toBe(
      (INTERRUPTION.VALID | INTERRUPTION.ERROR_VALID | (EVENT.EXCEPTION << 8) | 14) >>> 0,
    );
    expect(m.exit.error).toBe(6);
    expect(m.exit.vectoring).toBe(0);
    expect(m.cpu.get(S.CR2)).toBe(0x1234);
    expect(m.rip).toBe(AT.CODE);
    expect(m.reg(4)).toBe(AT.USER_STACK);
  });

  it.each([
    { mask: 4, match: 4, bit: 1, leaves: true },
    { mask: 4, match: 0, bit: 1, leaves: false },
    { mask: 4, match: 0, bit: 0, leaves: true },
    { mask: 4, match: 4, bit: 0, leaves: false },
  ])('the page-fault mask $mask and match $match with exception bit $bit', ({ mask, match, bit, leaves }) => {
    const m = new TestMachine().longMode(3);
    m.code('8b04 2500 0040 00');
    m.vcpu.intercepts.exceptions = bit << 14;
    m.vcpu.intercepts.pageFaultMask = mask;
    m.vcpu.intercepts.pageFaultMatch = match;
    expect(m.run()).toBe(leaves ? EXIT.EXCEPTION : EXIT.HLT);
  });

  it('an intercepted fault in the delivery of another reports that one as IDT-vectoring information', () => {
    const m = new TestMachine().longMode(3);
    m.code('cd40');
    m.gate(0x40, SEL.CODE64, AT.HLTS, 0x6e00); // not present
    m.vcpu.intercepts.exceptions = 1 << 11;
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect(m.exit.interruption & 0xff).toBe(11);
    expect(m.exit.error).toBe(0x40 * 8 + 2);
    expect(m.exit.vectoring).toBe((INTERRUPTION.VALID | (EVENT.SOFTWARE_INTERRUPT << 8) | 0x40) >>> 0);
  });

  it('INT3 is a software exception: the saved RIP is behind it, and an exit knows its length', () => {
    const m = new TestMachine().longMode();
    m.code('cc');
    m.run();
    expect(m.stoppedAt).toBe(3);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 1);

    const n = new TestMachine().longMode();
    n.code('cc');
    n.vcpu.intercepts.exceptions = 1 << 3;
    expect(n.run()).toBe(EXIT.EXCEPTION);
    expect(n.exit.interruption).toBe((INTERRUPTION.VALID | (EVENT.SOFTWARE_EXCEPTION << 8) | 3) >>> 0);
    expect(n.cpu.get(X.LENGTH)).toBe(1);
    expect(n.rip).toBe(AT.CODE);
  });

  it('IRET with NT set is #GP(0)', () => {
    const m = new TestMachine().longMode();
    m.code('48cf');
    m.setFlags(RFLAGS.NT);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4))).toBe(0);
  });

  it('IRETQ to a non-canonical address is #GP(0) at the IRET', () => {
    const m = new TestMachine().longMode();
    m.code('48cf');
    m.setReg(4, AT.STACK - 40);
    m.write32(AT.STACK - 40, 0, 0x8000, SEL.CODE64, 0, 2, 0, AT.STACK, 0, SEL.DATA, 0);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4) + 8)).toBe(AT.CODE);
  });

  it('IRETQ to compatibility mode runs 32-bit code', () => {
    const m = new TestMachine().longMode();
    m.code('48cf');
    m.setReg(4, AT.STACK - 40);
    m.write32(AT.STACK - 40, AT.DATA, 0, SEL.USER32, 0, 2, 0, AT.USER_STACK, 0, SEL.USER_DATA, 0);
    m.code('40 cd40', AT.DATA); // inc eax (a REX prefix in 64-bit mode); int 0x40
    m.gate(0x40, SEL.CODE64, AT.HLTS + 0x400, 0xee00);
    m.run();
    expect(m.stoppedAt).toBe(0x40);
    expect(m.reg(0)).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.DATA + 3);
    expect(m.read32(m.reg(4) + 8)).toBe(SEL.USER32);
  });
});

describe('SYSCALL and SYSRET', () => {
  const prepare = (m: TestMachine): void => {
    // STAR: SYSCALL 08/10, SYSRET 20 + 16 = 30, + 8 = 28
    m.cpu.set64(S.STAR, 0, 0x0020_0008);
    m.cpu.set64(S.LSTAR, AT.DATA, 0);
    m.cpu.set(S.FMASK, RFLAGS.IF);
  };

  it('go to LSTAR and back, with RCX and R11', () => {
    const m = new TestMachine().longMode(3);
    prepare(m);
    m.code('0f05 90');
    m.code('480f07', AT.DATA); // sysretq
    m.setFlags(RFLAGS.IF | RFLAGS.CF);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.DATA);
    expect(m.cpu.cpl).toBe(0);
    expect(m.reg(1)).toBe(AT.CODE + 2);
    expect(m.reg(11)).toBe(RFLAGS.IF | RFLAGS.CF | 2);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(0);
    expect([m.selector(SEG.CS), m.selector(SEG.SS)]).toEqual([8, 0x10]);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.CODE + 2);
    expect(m.cpu.cpl).toBe(3);
    expect(m.cpu.rflags()).toBe(RFLAGS.IF | RFLAGS.CF | 2);
    expect([m.selector(SEG.CS), m.selector(SEG.SS)]).toEqual([0x33, 0x2b]);
    expect(m.rights(SEG.CS)).toBe(0xa0fb);
    expect(m.rights(SEG.SS)).toBe(0xc0f3);
  });

  it('SYSRET to a non-canonical RCX is #GP(0) at level 0 on Intel', () => {
    const m = new TestMachine().longMode();
    prepare(m);
    m.code('480f07');
    m.setReg(1, 0, 0x8000);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4) + 16)).toBe(SEL.CODE64);
  });

  it('SYSCALL without EFER.SCE is #UD', () => {
    const m = new TestMachine().longMode(3);
    m.cpu.set(S.EFER, m.cpu.efer & ~EFER.SCE);
    m.code('0f05');
    m.run();
    expect(m.stoppedAt).toBe(6);
  });
});

describe('real mode', () => {
  it('INT pushes FLAGS CS IP of 16 bits, clears IF, and IRET returns', () => {
    const m = new TestMachine().realMode();
    m.code('cd21 f4');
    m.code('cf', AT.HLTS + 0x210);
    m.setFlags(RFLAGS.IF | RFLAGS.CF);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect(m.stoppedAt).toBe(0x21);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(0);
    expect(m.reg(4)).toBe(0xf000 - 6);
    expect([m.read16(0xeffa), m.read16(0xeffc), m.read16(0xeffe)]).toEqual([AT.CODE + 2, 0, 0x203]);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 2);
    expect(m.reg(4)).toBe(0xf000);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(RFLAGS.IF);
  });

  it('a vector beyond the IDT limit is #GP, and without room for that a triple fault', () => {
    const m = new TestMachine().realMode();
    m.code('cd21');
    m.cpu.set(S.IDTR_LIMIT, 4 * 14 - 1);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read16(0xeffa)).toBe(AT.CODE);

    const n = new TestMachine().realMode();
    n.code('cd21');
    n.cpu.set(S.IDTR_LIMIT, 3);
    expect(n.run()).toBe(EXIT.TRIPLE_FAULT);
  });
});

describe('32-bit protected mode', () => {
  it('an exception at level 3 switches to SS0:ESP0; IRETD returns and drops inner data segments', () => {
    const m = new TestMachine().protectedMode(3);
    m.code('cd40 90');
    m.gate(0x40, SEL.CODE32, AT.HLTS + 0x400, 0xee00);
    m.code('66b81000 8ed8 cf', AT.HLTS + 0x400); // mov ax,0x10; mov ds,ax; iretd
    expect(m.run(4)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.CODE + 2);
    expect(m.cpu.cpl).toBe(3);
    expect(m.reg(4)).toBe(AT.USER_STACK);
    expect(m.selector(SEG.SS)).toBe(SEL.USER_DATA);
    expect(m.selector(SEG.DS)).toBe(0);
    expect(m.rights(SEG.DS) & 0x1_0000).not.toBe(0);
    expect(m.selector(SEG.ES)).toBe(SEL.USER_DATA);
    expect(m.read32(AT.STACK0 - 20)).toBe(AT.CODE + 2);
    expect(m.read32(AT.STACK0 - 4)).toBe(SEL.USER_DATA);
  });

  it('a 16-bit gate pushes words and clears the upper half of EIP', () => {
    const m = new TestMachine().protectedMode();
    m.code('cd40');
    m.gate(0x40, SEL.CODE32, 0x1234_0000 | (AT.HLTS + 0x400), 0x8600);
    m.run();
    expect(m.stoppedAt).toBe(0x40);
    expect(m.reg(4)).toBe(AT.STACK - 6);
    expect([0, 2].map((at) => m.read16(AT.STACK - 6 + at))).toEqual([AT.CODE + 2, SEL.CODE32]);
  });

  it('a trap gate leaves IF as it is', () => {
    const m = new TestMachine().protectedMode();
    m.code('cd40');
    m.gate(0x40, SEL.CODE32, AT.HLTS + 0x400, 0x8f00);
    m.setFlags(RFLAGS.IF);
    m.run();
    expect(m.stoppedAt).toBe(0x40);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(RFLAGS.IF);
  });

  it('a bad SS0 is #TS, delivered where it can be', () => {
    const m = new TestMachine().protectedMode(3);
    m.code('cd40');
    m.gate(0x40, SEL.CODE32, AT.HLTS + 0x400, 0xee00);
    m.write32(AT.TSS + 8, SEL.CODE32);
    // #TS cannot switch stacks either: #DF cannot: triple fault
    expect(m.run()).toBe(EXIT.TRIPLE_FAULT);
  });

  it('virtual-8086 mode: IRETD enters it, INT with IOPL 0 is #GP and leaves it with ten words pushed', () => {
    const m = new TestMachine().protectedMode();
    m.code('cf');
    m.setReg(4, AT.STACK - 36);
    m.write32(AT.STACK - 36, 0x10, AT.DATA >>> 4, RFLAGS.VM | 2, 0xfff0, 0x1000, 0x1111, 0x2222, 0x3333, 0x4444);
    m.code('cd21', AT.DATA + 0x10);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    expect(m.cpu.vm86).toBe(true);
    expect(m.cpu.cpl).toBe(3);
    expect(m.selector(SEG.ES)).toBe(0x1111);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(13);
    const top = AT.STACK0 - 40;
    expect(m.reg(4)).toBe(top);
    expect([0, 4, 8].map((at) => m.read32(top + at))).toEqual([0, 0x10, AT.DATA >>> 4]);
    expect(m.read32(top + 12)).toBe(RFLAGS.VM | RFLAGS.RF | 2);
    expect([16, 20, 24, 28, 32, 36].map((at) => m.read32(top + at))).toEqual([
      0xfff0, 0x1000, 0x1111, 0x2222, 0x3333, 0x4444,
    ]);
    expect(m.cpu.vm86).toBe(false);
    expect(m.selector(SEG.DS)).toBe(0);
  });

  it('virtual-8086 mode with VME: a redirected INT goes through the 8086 program’s own vectors', () => {
    const m = new TestMachine().protectedMode();
    m.code('cf');
    m.cpu.set(S.CR4, CR4.VME);
    m.setReg(4, AT.STACK - 36);
    m.write32(AT.STACK - 36, 0x10, AT.DATA >>> 4, RFLAGS.VM | RFLAGS.VIF | 2, 0xfff0, 0x1000, 0, 0, 0, 0);
    m.code('cd21', AT.DATA + 0x10);
    m.write16(AT.TSS + 102, 104 + 32);
    m.fill(AT.TSS + 104, 32, 0);
    m.write16(0x21 * 4, 0x1234, 0x2000);
    m.run(2);
    expect(m.cpu.vm86).toBe(true);
    expect(m.rip).toBe(0x1234);
    expect(m.selector(SEG.CS)).toBe(0x2000);
    // IF is pushed as VIF was, IOPL as 3, and VIF is cleared
    expect(m.read16(0x1_ffee) & 0x3200).toBe(0x3200);
    expect(m.cpu.rflags() & RFLAGS.VIF).toBe(0);
  });
});

describe('an exit on the way', () => {
  it('an EPT violation of the handler’s stack reports the event, and nothing but CR2 has changed', () => {
    const m = new TestMachine().longMode(3);
    m.code('8904 2500 0060 00'); // mov [0x600000],eax: not mapped
    m.write32(AT.PD + 8, 0x4000_0087, 0); // linear 2 MiB is beyond the second stage
    m.write32(AT.TSS + 4, 0x20_1000, 0);
    expect(m.run()).toBe(EXIT.EPT_VIOLATION);
    expect(m.exit.vectoring).toBe((INTERRUPTION.VALID | INTERRUPTION.ERROR_VALID | (EVENT.EXCEPTION << 8) | 14) >>> 0);
    expect(m.cpu.get(X.VECTORING_ERROR)).toBe(6);
    expect([m.cpu.get(X.PHYSICAL), m.cpu.get(X.LINEAR)]).toEqual([0x4000_0ff8, 0x20_0ff8]);
    expect(m.exit.qualification & 0x1ff).toBe(0x182);
    expect([m.rip, m.reg(4), m.cpu.cpl, m.cpu.get(S.CR2)]).toEqual([AT.CODE, AT.USER_STACK, 3, 0x60_0000]);
    // L0 maps it and injects the event again
    m.write32(AT.TSS + 4, AT.STACK0, 0);
    expect(m.engine.inject(m.vcpu, m.exit.vectoring, 6, 0)).toBe(EXIT.BUDGET);
    expect(m.stoppedAt).toBe(14);
    expect(m.read32(AT.STACK0 - 48)).toBe(6);
  });

  it('an intercepted page fault while an event is injected is that exit, with the event in the vectoring fields', () => {
    const m = new TestMachine().longMode(3);
    m.code('90');
    m.write32(AT.TSS + 4, 0x60_1000, 0); // the handler's stack: not mapped
    m.vcpu.intercepts.exceptions = 1 << 14;
    m.cpu.contextChanged();
    const event = (INTERRUPTION.VALID | INTERRUPTION.ERROR_VALID | (EVENT.EXCEPTION << 8) | 14) >>> 0;
    expect(m.engine.inject(m.vcpu, event, 6, 0)).toBe(EXIT.EXCEPTION);
    expect([m.exit.vectoring, m.cpu.get(X.VECTORING_ERROR)]).toEqual([event, 6]);
    expect([m.exit.interruption, m.cpu.get(X.INTERRUPTION_ERROR), m.exit.qualification]).toEqual([event, 2, 0x60_0ff8]);
  });

  it('the third fault of an injection is a triple fault, and nothing is under delivery then', () => {
    const m = new TestMachine().longMode(3);
    m.code('90');
    m.write32(AT.TSS + 4, 0x60_1000, 0);
    m.cpu.contextChanged();
    const event = (INTERRUPTION.VALID | INTERRUPTION.ERROR_VALID | (EVENT.EXCEPTION << 8) | 14) >>> 0;
    expect(m.engine.inject(m.vcpu, event, 6, 0)).toBe(EXIT.TRIPLE_FAULT);
    expect(m.exit.vectoring).toBe(0);
  });

  it('a software interrupt keeps its length for the next injection', () => {
    const m = new TestMachine().longMode(3);
    m.code('cd40');
    m.gate(0x40, SEL.CODE64, AT.HLTS + 0x400, 0xee00);
    m.write32(AT.PD + 8, 0x4000_0087, 0);
    m.write32(AT.TSS + 4, 0x20_1000, 0);
    expect(m.run()).toBe(EXIT.EPT_VIOLATION);
    expect(m.cpu.get(X.LENGTH)).toBe(2);
    m.write32(AT.TSS + 4, AT.STACK0, 0);
    expect(m.engine.inject(m.vcpu, m.exit.vectoring, 0, m.cpu.get(X.LENGTH))).toBe(EXIT.BUDGET);
    expect(m.read32(AT.STACK0 - 40)).toBe(AT.CODE + 2);
  });
});

describe('NMI', () => {
  it('an IRET that faults has unblocked it, and an exit for the fault says so', () => {
    const m = new TestMachine().longMode();
    m.code('48cf');
    m.setReg(4, 0x40_0000); // not mapped
    m.cpu.set(S.NMI_BLOCKED, 1);
    m.vcpu.intercepts.exceptions = 1 << 14;
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect(m.exit.interruption & INTERRUPTION.NMI_UNBLOCKED).toBe(INTERRUPTION.NMI_UNBLOCKED);
    expect(m.cpu.get(S.NMI_BLOCKED)).toBe(0);
  });

  it('is blocked from its delivery to the next IRET', () => {
    const m = new TestMachine().longMode();
    m.code('f4');
    m.code('48cf', AT.HLTS + 0x20);
    m.cpu.contextChanged();
    expect(m.engine.inject(m.vcpu, (INTERRUPTION.VALID | (EVENT.NMI << 8) | 2) >>> 0, 0, 0)).toBe(EXIT.BUDGET);
    expect(m.cpu.get(S.NMI_BLOCKED)).toBe(1);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.cpu.get(S.NMI_BLOCKED)).toBe(0);
    expect(m.rip).toBe(AT.CODE);
  });
});
