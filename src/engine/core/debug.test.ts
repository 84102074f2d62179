import { describe, expect, it } from 'vitest';
import { CR4, DR6, DR7, RFLAGS } from '../../arch/registers.ts';
import { INTERCEPT } from './cpu.ts';
import { EXIT } from './exits.ts';
import { S } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';

/** Debug registers and traps. SDM 3B 17.2, 17.3. */

const dr = (m: TestMachine, n: number): number => m.cpu.get(S.DR + 8 * n);
const arm = (m: TestMachine, n: number, at: number, type: number, length: number): void => {
  m.cpu.set64(S.DR + 8 * n, at, 0);
  m.cpu.set(S.DR + 56, (dr(m, 7) | (2 << (2 * n)) | (type << (16 + 4 * n)) | (length << (18 + 4 * n))) >>> 0);
};

describe('single step', () => {
  it('traps behind the instruction after the one that sets TF', () => {
    const m = new TestMachine().longMode();
    m.code('9d 90 90 90'); // popfq; nop; nop; nop
    m.setReg(4, AT.STACK - 8);
    m.write32(AT.STACK - 8, RFLAGS.TF | 2, 0);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 2);
    expect(m.read32(m.reg(4) + 16) & RFLAGS.TF).toBe(RFLAGS.TF);
    expect(dr(m, 6) & DR6.BS).toBe(DR6.BS);
    expect(m.cpu.rflags() & RFLAGS.TF).toBe(0);
  });

  it('traps right behind a SYSRET that sets TF', () => {
    const m = new TestMachine().longMode();
    m.code('480f07'); // sysretq
    m.cpu.set64(S.STAR, 0, SEL.USER32 << 16);
    m.setReg(1, AT.CODE + 0x100);
    m.setReg(11, RFLAGS.TF | 2);
    m.code('90 90', AT.CODE + 0x100);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 0x100);
    expect(m.read32(m.reg(4) + 8) & 3).toBe(3);
    expect(dr(m, 6) & DR6.BS).toBe(DR6.BS);
  });

  it('does not trap behind a fault or INT n, and MOV SS loses its trap', () => {
    const m = new TestMachine().longMode();
    m.code('cd40');
    m.setFlags(RFLAGS.TF);
    m.runOn();
    expect(m.stoppedAt).toBe(0x40);

    const n = new TestMachine().longMode();
    n.code('8ed0 90 90'); // mov ss,eax; nop
    n.setReg(0, SEL.DATA);
    n.setFlags(RFLAGS.TF);
    n.runOn();
    expect(n.stoppedAt).toBe(1);
    expect(n.read32(n.reg(4))).toBe(AT.CODE + 3);
  });
});

describe('breakpoints', () => {
  it('a data breakpoint that MOV SS holds back comes with INT1 as one exception', () => {
    const m = new TestMachine().longMode();
    m.code('8e10 f1 90 f4'); // mov ss,[rax]; int1; nop; hlt
    m.write32(AT.DATA, SEL.DATA);
    m.setReg(0, AT.DATA);
    arm(m, 1, AT.DATA, 3, 1);
    m.runOn();
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 3);
    expect(dr(m, 6) & 15).toBe(2);
    m.code('48cf', AT.HLTS + 0x10);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 4);
  });

  it('an instruction breakpoint faults before the instruction, and RF lets it run', () => {
    const m = new TestMachine().longMode();
    m.code('90 90 ffc0 f4'); // nop; nop; inc eax; hlt
    arm(m, 1, AT.CODE + 2, 0, 0);
    m.runOn();
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 2);
    expect(m.read32(m.reg(4) + 16) & RFLAGS.RF).toBe(0);
    expect(dr(m, 6) & 15).toBe(2);
    expect(m.reg(0)).toBe(0);
    // The handler sets RF in the image and returns
    m.write32(m.reg(4) + 16, RFLAGS.RF | 2);
    m.code('48cf', AT.HLTS + 0x10);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 4);
    expect(m.reg(0)).toBe(1);
    expect(m.cpu.rflags() & RFLAGS.RF).toBe(0);
  });

  it.each([
    { name: 'a write', type: 1, code: '8905', hits: true },
    { name: 'a read where only writes count', type: 1, code: '8b05', hits: false },
    { name: 'a read', type: 3, code: '8b05', hits: true },
    { name: 'a read-modify-write', type: 1, code: '0105', hits: true },
  ])('a data breakpoint traps behind $name', ({ type, code, hits }) => {
    const m = new TestMachine().longMode();
    // An access beside the breakpoint fills the TLB first
    m.code(`8b0425 04000200 8b0425 04000200 ${code.slice(0, 2)} 0425 00000200 90 f4`);
    arm(m, 0, AT.DATA + 2, type, 1);
    m.runOn();
    expect(m.stoppedAt).toBe(hits ? 1 : -1);
    if (hits) {
      expect(m.read32(m.reg(4))).toBe(AT.CODE + 21);
      expect(dr(m, 6) & 15).toBe(1);
    }
  });

  it('a data breakpoint sees an access through a TLB entry that was there before', () => {
    const m = new TestMachine().longMode();
    // mov eax,[20000]; mov dr0,rcx; mov dr7,rdx; mov [20000],eax; hlt
    m.code('8b0425 00000200 0f23c1 0f23fa 890425 00000200 f4');
    m.setReg(1, AT.DATA);
    m.setReg(2, 0xd_0402); // G0, write, 4 bytes
    m.runOn();
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 20);
  });

  it('an I/O breakpoint needs CR4.DE', () => {
    for (const de of [0, CR4.DE]) {
      const m = new TestMachine().longMode();
      m.cpu.set(S.CR4, m.cpu.cr4 | de);
      m.code('e680 90 f4'); // out 0x80,al
      arm(m, 3, 0x80, 2, 0);
      expect(m.runOn()).toBe(EXIT.IO);
      expect(m.engine.step(m.vcpu, 2)).toBe(EXIT.BUDGET);
      m.runOn();
      expect(m.stoppedAt).toBe(de === 0 ? -1 : 1);
    }
  });
});

describe('MOV DR', () => {
  it('reads and writes with the fixed bits', () => {
    const m = new TestMachine().longMode();
    m.code('0f23f8 0f23f0 0f21f9 0f21f2 f4'); // mov dr7,rax; mov dr6,rax; mov rcx,dr7; mov rdx,dr6
    m.setReg(0, 0xff00_0000);
    m.runOn();
    expect(m.reg(1)).toBe(0xff00_0400);
    expect(m.reg(2)).toBe(0xffff_0ff0);
  });

  it('DR4 is DR6, or #UD with CR4.DE; upper bits of DR7 are #GP(0); level 3 is #GP(0)', () => {
    const m = new TestMachine().longMode();
    m.code('0f21e0 f4'); // mov rax,dr4
    m.runOn();
    expect(m.reg(0)).toBe(0xffff_0ff0);

    const ud = new TestMachine().longMode();
    ud.cpu.set(S.CR4, ud.cpu.cr4 | CR4.DE);
    ud.code('0f21e0');
    ud.run();
    expect(ud.stoppedAt).toBe(6);

    const gp = new TestMachine().longMode();
    gp.code('0f23f8');
    gp.setReg(0, 0x400, 1);
    gp.run();
    expect(gp.stoppedAt).toBe(13);

    const user = new TestMachine().longMode(3);
    user.code('0f23f8');
    user.run();
    expect(user.stoppedAt).toBe(13);
  });

  it('DR7.GD makes an access #DB with BD and is cleared', () => {
    const m = new TestMachine().longMode();
    m.cpu.set(S.DR + 56, DR7.GD | 0x400);
    m.code('0f21f0');
    m.runOn();
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE);
    expect(dr(m, 6) & DR6.BD).toBe(DR6.BD);
    expect(dr(m, 7)).toBe(0x400);
  });

  it('leaves with the register numbers where L0 wants it', () => {
    const m = new TestMachine().longMode();
    m.vcpu.intercepts.instructions = INTERCEPT.MOV_DR;
    m.code('410f21fb'); // mov r11,dr7
    expect(m.runOn()).toBe(EXIT.DR_ACCESS);
    expect(m.exit.qualification).toBe(7 | (1 << 4) | (11 << 8));
  });
});
