import { describe, expect, it } from 'vitest';
import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { SPTE } from '../../contracts/second-stage.ts';
import { setCr0, setCr3, setCr4, setEfer } from './control-registers.ts';
import { INTERCEPT } from './cpu.ts';
import { EXIT, X } from './exits.ts';
import { SHADOW, shadowAt } from './flags.ts';
import { ALLOW, S, SEG, STATUS } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';
import { engineMsrRead, engineMsrWrite } from './msrs.ts';

/** Control registers, segment loads, ports, interception. SDM 3A 2.5, 3.4; SDM 3C 25.1, 27.2.1. */

const gp = (m: TestMachine, status: number): void => {
  expect(status).toBe(STATUS.FAULT);
  expect([m.cpu.get(S.FAULT_VECTOR), m.cpu.get(S.FAULT_ERROR)]).toEqual([13, 0]);
};

describe('paging structures that cannot be written', () => {
  it('leave at the first accessed bit, and with leave from L0 stay as they are while the access goes on', () => {
    const m = new TestMachine().longMode();
    m.code('8b03 f4'); // mov eax, [rbx]
    m.setReg(3, 0x20_0000);
    m.write32(0x20_0000, 0x1234_5678);
    const { lo } = m.engine.processor.walker.secondStage.tables;
    for (const at of [512, 513]) lo[at] = lo[at]! & ~SPTE.W;
    expect(m.run()).toBe(EXIT.EPT_VIOLATION);
    // Without leave it is the same exit again
    expect(m.engine.step(m.vcpu, ALLOW.MMIO)).toBe(EXIT.EPT_VIOLATION);
    expect(m.engine.step(m.vcpu, ALLOW.MMIO | ALLOW.ROM_TABLE)).toBe(EXIT.BUDGET);
    expect([m.reg(0), m.read32(AT.PML4) & 0x20, m.read32(AT.PD + 8) & 0x20]).toEqual([0x1234_5678, 0, 0]);
  });
});

describe('rules between control registers', () => {
  it.each([
    { name: 'PG without PE', value: CR0.PG },
    { name: 'NW without CD', value: CR0.PE | CR0.NW },
  ])('CR0 with $name is #GP(0) and changes nothing', ({ value }) => {
    const m = new TestMachine().protectedMode();
    const before = m.cpu.cr0;
    gp(m, setCr0(m.cpu, value >>> 0));
    expect(m.cpu.cr0).toBe(before);
  });

  it('paging with EFER.LME needs PAE and a code segment without L', () => {
    const m = new TestMachine().protectedMode();
    m.cpu.set(S.EFER, EFER.LME);
    gp(m, setCr0(m.cpu, (m.cpu.cr0 | CR0.PG) >>> 0));
    m.cpu.set(S.CR4, CR4.PAE);
    m.setSegment(SEG.CS, 8, 0, 0xffff_ffff, 0xa09b);
    gp(m, setCr0(m.cpu, (m.cpu.cr0 | CR0.PG) >>> 0));
    m.setSegment(SEG.CS, 8, 0, 0xffff_ffff, 0xc09b);
    expect(setCr0(m.cpu, (m.cpu.cr0 | CR0.PG) >>> 0)).toBe(STATUS.NEXT);
    expect(m.cpu.efer).toBe(EFER.LME | EFER.LMA);
    expect(setCr0(m.cpu, (m.cpu.cr0 & ~CR0.PG) >>> 0)).toBe(STATUS.NEXT);
    expect(m.cpu.efer).toBe(EFER.LME);
  });

  it('in 64-bit mode: no clearing of PG or PAE, no change of LME', () => {
    const m = new TestMachine().longMode();
    gp(m, setCr0(m.cpu, m.cpu.cr0 & ~CR0.PG));
    gp(m, setCr4(m.cpu, m.cpu.cr4 & ~CR4.PAE));
    gp(m, setEfer(m.cpu, m.cpu.efer & ~EFER.LME, 0));
    gp(m, setCr4(m.cpu, 1 << 15));
    gp(m, setCr3(m.cpu, 0, 1 << 8)); // bit 40 with 40 physical bits
    expect(setCr3(m.cpu, AT.PML4, 0)).toBe(STATUS.NEXT);
  });

  it('PCIDE needs long mode and PCID 0; bit 63 then keeps the TLB and is not stored', () => {
    const m = new TestMachine().longMode();
    m.cpu.set64(S.CR3, AT.PML4 | 1, 0);
    gp(m, setCr4(m.cpu, m.cpu.cr4 | CR4.PCIDE));
    m.cpu.set64(S.CR3, AT.PML4, 0);
    expect(setCr4(m.cpu, m.cpu.cr4 | CR4.PCIDE)).toBe(STATUS.NEXT);
    const { flushes } = m.cpu.tlb.counters;
    expect(setCr3(m.cpu, AT.PML4 | 5, 0x8000_0000)).toBe(STATUS.NEXT);
    expect(m.cpu.tlb.counters.flushes).toBe(flushes);
    expect([m.cpu.get(S.CR3), m.cpu.get(S.CR3 + 4)]).toEqual([AT.PML4 | 5, 0]);
    gp(m, setCr0(m.cpu, (m.cpu.cr0 & ~CR0.PG) >>> 0));
  });

  it('PAE paging loads the PDPTEs; a reserved bit is #GP(0)', () => {
    const m = new TestMachine().protectedMode();
    m.cpu.set(S.CR4, CR4.PAE);
    m.write32(0x2_8020, AT.PD | 1, 0, 0, 0, 0, 0, 0, 0);
    m.cpu.set64(S.CR3, 0x2_8020, 0);
    expect(setCr0(m.cpu, (m.cpu.cr0 | CR0.PG) >>> 0)).toBe(STATUS.NEXT);
    expect(m.cpu.get(S.PDPTE)).toBe(AT.PD | 1);
    m.write32(0x2_8020, AT.PD | 3, 0);
    gp(m, setCr3(m.cpu, 0x2_8020, 0));
    expect(m.cpu.get(S.PDPTE)).toBe(AT.PD | 1);
  });

  it('a table that the second stage does not map is an exit of the MOV to CR3', () => {
    const m = new TestMachine().protectedMode();
    m.cpu.set(S.CR4, CR4.PAE);
    m.write32(0x2_8020, AT.PD | 1, 0, 0, 0, 0, 0, 0, 0);
    m.cpu.set64(S.CR3, 0x2_8020, 0);
    for (let i = 0; i < 2; i += 1) m.write32(AT.PD + 8 * i, (i << 21) | 0x87, 0);
    setCr0(m.cpu, (m.cpu.cr0 | CR0.PG) >>> 0);
    m.code('0f22d8'); // mov cr3,eax
    m.setReg(0, 0x4000_0000);
    expect(m.run()).toBe(EXIT.EPT_VIOLATION);
    expect(m.exit.qualification & 0x187).toBe(1);
    expect(m.cpu.get(X.LINEAR_VALID)).toBe(0);
    expect(m.cpu.get(X.PHYSICAL)).toBe(0x4000_0000);
    expect(m.rip).toBe(AT.CODE);
    expect(m.cpu.get(S.CR3)).toBe(0x2_8020);
  });
});

describe('interception of control registers', () => {
  it('MOV to CR0 leaves if a masked bit differs from the shadow, else keeps masked bits', () => {
    const m = new TestMachine().longMode();
    m.vcpu.intercepts.cr0Mask = CR0.TS | CR0.NE;
    m.vcpu.intercepts.cr0Shadow = 0;
    m.code('0f22c0 0f20c1 f4'); // mov cr0,rax; mov rcx,cr0; hlt
    m.setReg(0, (m.cpu.cr0 | CR0.TS) >>> 0);
    expect(m.run()).toBe(EXIT.CR_ACCESS);
    expect(m.exit.qualification).toBe(0);
    m.setReg(0, (m.cpu.cr0 & ~CR0.NE) >>> 0);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.cpu.cr0 & CR0.NE).toBe(CR0.NE);
    expect(m.reg(1) & CR0.NE).toBe(0);
  });

  it('CR3 targets let a load pass; CR8 leaves always', () => {
    const m = new TestMachine().longMode();
    m.vcpu.intercepts.crAccess = 1;
    m.code('410f22d9 f4'); // mov cr3,r9
    m.setReg(9, AT.PML4);
    expect(m.run()).toBe(EXIT.CR_ACCESS);
    expect(m.exit.qualification).toBe(3 | (9 << 8));
    m.vcpu.intercepts.cr3Targets.set([0, 0, AT.PML4, 0]);
    m.vcpu.intercepts.cr3TargetCount = 2;
    expect(m.run()).toBe(EXIT.HLT);

    const n = new TestMachine().longMode();
    n.code('440f20c0'); // mov rax,cr8
    expect(n.run()).toBe(EXIT.CR_ACCESS);
    expect(n.exit.qualification).toBe(8 | (1 << 4));
  });

  it('LMSW cannot clear PE; its exit has the source and CLTS its own type', () => {
    const m = new TestMachine().protectedMode();
    m.code('0f01f0 f4'); // lmsw ax
    m.setReg(0, 0xe);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.cpu.cr0 & 0xf).toBe(0xf);

    const n = new TestMachine().protectedMode();
    n.vcpu.intercepts.cr0Mask = CR0.TS;
    n.vcpu.intercepts.cr0Shadow = 0;
    n.code('0f01f0');
    n.setReg(0, 0x9);
    expect(n.run()).toBe(EXIT.CR_ACCESS);
    expect(n.exit.qualification).toBe((9 << 16) | (3 << 4));
    n.vcpu.intercepts.cr0Shadow = CR0.TS;
    n.code('0f06', AT.CODE);
    expect(n.run()).toBe(EXIT.CR_ACCESS);
    expect(n.exit.qualification).toBe(2 << 4);
  });

  it('step with ALLOW.INTERCEPT runs the instruction that left', () => {
    const m = new TestMachine().longMode();
    m.vcpu.intercepts.instructions = INTERCEPT.INVLPG;
    m.code('0f0138 f4'); // invlpg [rax]
    m.setReg(0, 0x1234_5678, 0x9);
    expect(m.run()).toBe(EXIT.INVLPG);
    expect(m.exit.qualification).toBe(0x1234_5678);
    expect(m.cpu.get(X.QUALIFICATION + 4)).toBe(9);
    expect(m.engine.step(m.vcpu, ALLOW.INTERCEPT)).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.CODE + 3);
  });
});

describe('privilege', () => {
  it.each([
    ['hlt', 'f4'],
    ['mov cr0,rax', '0f22c0'],
    ['mov rax,cr3', '0f20d8'],
    ['clts', '0f06'],
    ['lgdt [rax]', '0f0110'],
    ['lidt [rax]', '0f0118'],
    ['lldt ax', '0f00d0'],
    ['ltr ax', '0f00d8'],
    ['lmsw ax', '0f01f0'],
    ['invlpg [rax]', '0f0138'],
    ['wbinvd', '0f09'],
    ['invd', '0f08'],
    ['rdmsr', '0f32'],
    ['wrmsr', '0f30'],
    ['swapgs', '0f01f8'],
    ['xsetbv', '0f01d1'],
    ['cli', 'fa'],
    ['sti', 'fb'],
    ['in al,dx', 'ec'],
    ['sysret', '480f07'],
  ])('%s at level 3 is #GP(0)', (_, code) => {
    const m = new TestMachine().longMode(3);
    m.code(code);
    m.setReg(0, AT.DATA);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4))).toBe(0);
  });

  it.each([
    ['ud2', '0f0b'],
    ['rsm', '0faa'],
    ['clac at level 3', '0f01ca'],
    ['vmptrld without CR4.VMXE', '0fc730'],
    ['vmrun without EFER.SVME', '0f01d8'],
    ['lock mov cr0', 'f00f22c0'],
    ['mov cr1', '0f22c8'],
    ['mov cs', '8ec8'],
    ['pusha', '60'],
    ['lds', 'c500'],
  ])('%s is #UD', (_, code) => {
    const m = new TestMachine().longMode(3);
    m.code(code);
    m.setReg(0, AT.DATA);
    m.run();
    expect(m.stoppedAt).toBe(6);
  });
});

describe('segment loads', () => {
  it.each([
    { name: 'data above the CPL', cpl: 3 as const, selector: SEL.DATA, vector: 13 },
    { name: 'a conforming code segment', cpl: 3 as const, selector: SEL.FREE, vector: -1 },
    { name: 'null', cpl: 3 as const, selector: 3, vector: -1 },
    { name: 'a TSS', cpl: 0 as const, selector: SEL.TSS, vector: 13 },
  ])('DS at level $cpl with $name', ({ cpl, selector, vector }) => {
    const m = new TestMachine().protectedMode(cpl);
    m.descriptor(SEL.FREE, 0xffff, 0x00cf_9e00);
    m.code('8ed8 cd80');
    m.gate(0x80, SEL.CODE32, AT.HLTS + 0x800, 0xee00);
    m.setReg(0, selector);
    m.run();
    expect(m.stoppedAt).toBe(vector < 0 ? 0x80 : vector);
    if (vector < 0) expect(m.selector(SEG.DS)).toBe(selector);
  });

  it('sets the accessed bit in the table', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0xffff, 0x00cf_9200);
    m.code('8ec0 f4');
    m.setReg(0, SEL.FREE);
    m.run();
    expect(m.read8(AT.GDT + SEL.FREE + 5)).toBe(0x93);
    expect(m.rights(SEG.ES)).toBe(0xc093);
  });

  it('a null DS faults only when it is used; a limit is kept', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0x0000_0fff, 0x0040_9302); // base 0x20000, limit 0xfff
    m.code('8ed8 a1 fc0f0000 a1 fd0f0000'); // mov ds,eax; mov eax,[0xffc]; mov eax,[0xffd]
    m.setReg(0, SEL.FREE);
    m.write32(0x2_0ffc, 0x1234_5678);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.reg(0)).toBe(0x1234_5678);
    expect(m.read32(m.reg(4) + 4)).toBe(AT.CODE + 7);

    const n = new TestMachine().protectedMode();
    n.code('8ed8 90 a1 00000200');
    n.run();
    expect(n.stoppedAt).toBe(13);
    expect(n.read32(n.reg(4) + 4)).toBe(AT.CODE + 3);
  });

  it('an expand-down segment allows what lies above its limit', () => {
    const m = new TestMachine().protectedMode();
    m.descriptor(SEL.FREE, 0x0000_1fff, 0x0040_9700);
    m.code('8ed8 a1 00200000 a1 ff1f0000');
    m.setReg(0, SEL.FREE);
    m.run();
    expect(m.stoppedAt).toBe(13);
    expect(m.read32(m.reg(4) + 4)).toBe(AT.CODE + 7);
  });

  it('LAR, LSL, VERR and VERW answer by ZF', () => {
    const m = new TestMachine().protectedMode(3);
    m.code('0f02c8 0f03d0 0f00e0 9c 0f00e8 9c cd80'); // lar ecx,eax; lsl edx,eax; verr ax; pushf; verw ax; pushf
    m.gate(0x80, SEL.CODE32, AT.HLTS + 0x800, 0xee00);
    m.setReg(0, SEL.USER_DATA);
    m.run();
    expect(m.stoppedAt).toBe(0x80);
    expect([m.reg(1), m.reg(2)]).toEqual([0x00cf_f300, 0xffff_ffff]);
    expect([m.read32(AT.USER_STACK - 4) & 0x40, m.read32(AT.USER_STACK - 8) & 0x40]).toEqual([0x40, 0x40]);

    const n = new TestMachine().protectedMode(3);
    n.code('0f02c8 9c cd80');
    n.gate(0x80, SEL.CODE32, AT.HLTS + 0x800, 0xee00);
    n.setReg(0, SEL.DATA);
    n.setReg(1, 7);
    n.run();
    expect([n.reg(1), n.read32(AT.USER_STACK - 4) & 0x40]).toEqual([7, 0]);
  });

  it('LTR in IA-32e mode reads 16 bytes and sets the busy bit', () => {
    const m = new TestMachine().longMode();
    m.descriptor(SEL.FREE, (AT.TSS << 16) | 0x67, 0x0000_8900);
    m.write32(AT.GDT + SEL.FREE + 8, 0xffff_8000, 0);
    m.code('0f00d8 f4');
    m.setReg(0, SEL.FREE);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.cpu.get(S.SEGMENTS + 7 * SEG.BYTES + SEG.BASE + 4)).toBe(0xffff_8000);
    expect(m.rights(SEG.TR)).toBe(0x8b);
    expect(m.read8(AT.GDT + SEL.FREE + 5)).toBe(0x8b);
  });

  it('LGDT and SGDT move ten bytes in 64-bit mode', () => {
    const m = new TestMachine().longMode();
    m.code('0f0110 0f0101 f4'); // lgdt [rax]; sgdt [rcx]
    m.write16(AT.DATA, 0x7f, 0x4000, 0, 0x8000, 0xffff);
    m.setReg(0, AT.DATA);
    m.setReg(1, AT.DATA + 0x100);
    m.run();
    expect([0, 2, 4, 6, 8].map((at) => m.read16(AT.DATA + 0x100 + at))).toEqual([0x7f, 0x4000, 0, 0x8000, 0xffff]);
  });

  it('a base may be as wide as the processor is, whatever CR4.LA57 says; to use it takes LA57', () => {
    for (const [high, vector] of [
      [0xffaa_aaaa, -1],
      [0x00aa_aaaa, -1],
      [0xaaaa_aaaa, 13],
      [0x0100_0000, 13],
    ] as const) {
      for (const code of ['0f0110', 'f3480faed9']) {
        const m = new TestMachine().longMode();
        m.code(`${code} f4`); // lgdt [rax]; wrgsbase rcx
        m.write16(AT.DATA, 0x7f, 0, 0, high & 0xffff, high >>> 16);
        m.setReg(0, AT.DATA);
        m.setReg(1, 0, high);
        m.run();
        expect([high, code, m.stoppedAt]).toEqual([high, code, vector]);
      }
    }
    const m = new TestMachine().longMode();
    m.code('f3480faed9 658b01'); // wrgsbase rcx; mov eax,gs:[rcx]
    m.setReg(1, 0, 0xffaa_aaaa);
    m.run();
    expect(m.stoppedAt).toBe(13);
  });

  it('SWAPGS and WRGSBASE move the base that GS accesses use', () => {
    const m = new TestMachine().longMode();
    // wrgsbase rax; mov ecx,gs:[0]; swapgs; mov edx,gs:[0]
    m.code('f3480faed8 658b0c25 00000000 0f01f8 658b1425 00000000 f4');
    m.setReg(0, AT.DATA);
    m.cpu.set64(S.KERNEL_GS_BASE, AT.DATA + 0x100, 0);
    m.write32(AT.DATA, 0x1111);
    m.write32(AT.DATA + 0x100, 0x2222);
    m.run();
    expect([m.reg(1), m.reg(2), m.cpu.get(S.KERNEL_GS_BASE)]).toEqual([0x1111, 0x2222, AT.DATA]);
  });
});

describe('interrupt flag and shadows', () => {
  it('STI blocks one more instruction, MOV SS as well; a second STI does not', () => {
    const m = new TestMachine().longMode();
    m.code('fb fb 90');
    m.run(1);
    expect(shadowAt(m.cpu, m.vcpu.instructions)).toBe(SHADOW.STI);
    m.run(1);
    expect(shadowAt(m.cpu, m.vcpu.instructions)).toBe(SHADOW.NONE);

    const n = new TestMachine().longMode();
    n.code('90 8ed0 90');
    n.setReg(0, SEL.DATA);
    n.run(2);
    expect(shadowAt(n.cpu, n.vcpu.instructions)).toBe(SHADOW.MOV_SS);
    n.run(1);
    expect(shadowAt(n.cpu, n.vcpu.instructions)).toBe(SHADOW.NONE);
  });

  it('an interrupt window opens behind the shadow', () => {
    const m = new TestMachine().longMode();
    m.code('90 fb 90 90 90 f4');
    m.vcpu.intercepts.interruptWindow = true;
    expect(m.run()).toBe(EXIT.BUDGET);
    expect(m.rip).toBe(AT.CODE + 3);
  });

  it('POPF at level 3 with IOPL 0 changes neither IF nor IOPL', () => {
    const m = new TestMachine().longMode(3);
    m.code('9d cd80');
    m.gate(0x80, SEL.CODE64, AT.HLTS + 0x800, 0xee00);
    m.setFlags(RFLAGS.IF);
    m.setReg(4, AT.USER_STACK - 8);
    m.write32(AT.USER_STACK - 8, 0x3000 | RFLAGS.ID | RFLAGS.CF | RFLAGS.VM | RFLAGS.RF, 0);
    m.run();
    expect(m.read32(m.reg(4) + 16)).toBe(RFLAGS.IF | RFLAGS.ID | RFLAGS.CF | 2);
  });

  it('CLI with IOPL 3 works at level 3', () => {
    const m = new TestMachine().longMode(3);
    m.setFlags(RFLAGS.IF | 0x3000);
    m.code('fa 90');
    m.run(2);
    expect(m.cpu.rflags() & RFLAGS.IF).toBe(0);
  });
});

describe('ports', () => {
  it('leave with size, direction and port, and step lets them happen', () => {
    const m = new TestMachine().longMode();
    m.code('66ed f4'); // in ax,dx
    m.setReg(2, 0xcf8);
    m.setReg(0, 0xffff_ffff, 0xffff_ffff);
    expect(m.run()).toBe(EXIT.IO);
    expect(m.exit.qualification).toBe((0xcf8 << 16) | 8 | 1);
    expect(m.cpu.get(X.SIZE)).toBe(2);
    m.portValue = 0x1234;
    expect(m.engine.step(m.vcpu, ALLOW.PORT)).toBe(EXIT.BUDGET);
    expect(m.ports).toEqual(['in cf8 2']);
    expect([m.reg(0), m.rip]).toEqual([0xffff_1234, AT.CODE + 2]);
  });

  it('REP OUTSB moves the string and leaves RCX 0', () => {
    const m = new TestMachine().longMode();
    m.code('f36e f4');
    m.write(AT.DATA, [1, 2, 3]);
    m.setReg(1, 3);
    m.setReg(2, 0x402);
    m.setReg(6, AT.DATA);
    expect(m.run()).toBe(EXIT.IO);
    expect(m.exit.qualification).toBe(((0x402 << 16) | 0x30) >>> 0);
    expect(m.engine.step(m.vcpu, ALLOW.PORT)).toBe(EXIT.BUDGET);
    expect(m.ports).toEqual(['out 402 1 1', 'out 402 1 2', 'out 402 1 3']);
    expect([m.reg(1), m.reg(6), m.rip]).toEqual([0, AT.DATA + 3, AT.CODE + 2]);
  });

  it('REP INSB of more than a batch goes on where it stopped', () => {
    const m = new TestMachine().longMode();
    m.code('f36c f4');
    m.setReg(1, 300);
    m.setReg(7, AT.DATA);
    m.portValue = 0xab;
    expect(m.run()).toBe(EXIT.IO);
    m.engine.step(m.vcpu, ALLOW.PORT);
    expect([m.reg(1), m.reg(7), m.rip]).toEqual([44, AT.DATA + 256, AT.CODE]);
    expect(m.run()).toBe(EXIT.IO);
    m.engine.step(m.vcpu, ALLOW.PORT);
    expect([m.reg(1), m.read8(AT.DATA + 299), m.read8(AT.DATA + 300), m.rip]).toEqual([0, 0xab, 0, AT.CODE + 2]);
  });

  it('above IOPL the bit map of the TSS decides', () => {
    const m = new TestMachine().protectedMode(3);
    m.code('e680');
    m.fill(AT.TSS + 104 + 0x10, 1, 0xfe); // port 0x80
    expect(m.run()).toBe(EXIT.IO);
    const n = new TestMachine().protectedMode(3);
    n.code('e780'); // four ports
    n.fill(AT.TSS + 104 + 0x10, 1, 0xfe);
    n.run();
    expect(n.stoppedAt).toBe(13);
  });
});

describe('MSRs that the engine keeps', () => {
  it('a base is canonical and at once in force; EFER keeps LMA', () => {
    const m = new TestMachine().longMode();
    expect(engineMsrWrite(m.cpu, 0xc000_0101, AT.DATA, 0xffff_8000)).toBe(STATUS.NEXT);
    expect(m.cpu.get(S.SEG_BASE + 8 * SEG.GS + 4)).toBe(0xffff_8000);
    gp(m, engineMsrWrite(m.cpu, 0xc000_0101, 0, 0x0100_0000));
    gp(m, engineMsrWrite(m.cpu, 0x277, 0x02, 0));
    expect(engineMsrWrite(m.cpu, 0xc000_0080, EFER.SCE | EFER.LME, 0)).toBe(STATUS.NEXT);
    expect(engineMsrRead(m.cpu, 0xc000_0080)).toBe(true);
    expect(m.cpu.low).toBe(EFER.SCE | EFER.LME | EFER.LMA);
    expect(engineMsrRead(m.cpu, 0x1b)).toBe(false);
  });
});

describe('protection keys', () => {
  // SDM 3A 4.7 "Page-Fault Exceptions": PK says what PKRU forbids, whatever R/W forbids as well
  it.each([
    { name: 'WD and a read-only page', rights: 0x85, pkru: 8, error: 0x27 },
    { name: 'WD and a writable page', rights: 0x87, pkru: 8, error: 0x27 },
    { name: 'AD', rights: 0x87, pkru: 4, error: 0x27 },
    { name: 'another key', rights: 0x85, pkru: 0x20, error: 7 },
  ])('a user write: $name', ({ rights, pkru, error }) => {
    const m = new TestMachine().longMode(3);
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.PKE);
    m.cpu.set(S.PKRU, pkru);
    m.write32(AT.PD + 8, 0x20_0000 | rights, 1 << 27); // key 1
    m.code('8900'); // mov [rax],eax
    m.setReg(0, 0x20_0000);
    m.run();
    expect([m.stoppedAt, m.read32(m.reg(4))]).toEqual([14, error]);
  });
});

describe('exits with operands', () => {
  it('VMREAD describes its operands, and the displacement is the qualification', () => {
    const m = new TestMachine().longMode();
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.VMXE);
    m.code('420f787cad f0'); // vmread [rbp+r13*4-16],rdi
    m.setReg(5, 0x1000);
    m.setReg(13, 0x10);
    expect(m.run()).toBe(EXIT.VMREAD);
    expect([m.exit.qualification, m.cpu.get(X.QUALIFICATION + 4)]).toEqual([0xffff_fff0, 0xffff_ffff]);
    expect(m.cpu.get(X.LINEAR)).toBe(0x1030);
    // scale 2, address size 2, memory, SS, index 13, base 5, Reg2 7
    expect(m.cpu.get(X.INFO)).toBe(((7 << 28) | (5 << 23) | (13 << 18) | (2 << 15) | (2 << 7) | 2) >>> 0);
  });

  it('SLDT to a register says so', () => {
    const m = new TestMachine().longMode();
    m.vcpu.intercepts.instructions = INTERCEPT.DESCRIPTOR_TABLE;
    m.code('0f00c3'); // sldt ebx
    expect(m.run()).toBe(EXIT.LDTR_TR);
    expect(m.cpu.get(X.INFO) & 0x3000_0478).toBe((1 << 10) | (3 << 3));
  });
});
