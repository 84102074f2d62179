import type { FeatureName } from '../../arch/cpuid-features.ts';
import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { SPTE } from '../../contracts/second-stage.ts';
import { Engine } from '../engine.ts';
import type { EngineHost, EngineVcpu } from './cpu.ts';
import { EXIT, X } from './exits.ts';
import { gpr, S, SEG, segment } from './layout.ts';
import type { MemoryPlan } from './memory.ts';
import type { Processor } from './processor.ts';

/**
 * For tests: an engine with a few megabytes of RAM, an identity second stage and a host that only notes. The guest is
 * machine code that tests put into RAM; every interrupt vector leads to an HLT of its own.
 *
 *   0x01000  page tables (PML4, PDPT, PD of 2-MByte pages, all user, all writable)
 *   0x04000  GDT          0x05000  IDT           0x06000  TSS          0x07000  second TSS
 *   0x08000  code         0x0a000  HLTs, 16 bytes apart, one a vector (real mode: 0a00:vector * 16)
 *   0x10000  stack top of the code, 0x12000 of level 0 by the TSS, 0x14000, 0x16000 ISTs, 0x18000 of level 3
 */
export const AT = {
  PML4: 0x1000,
  PDPT: 0x2000,
  PD: 0x3000,
  GDT: 0x4000,
  IDT: 0x5000,
  TSS: 0x6000,
  TSS2: 0x7000,
  CODE: 0x8000,
  HLTS: 0xa000,
  STACK: 0x1_0000,
  STACK0: 0x1_2000,
  IST1: 0x1_4000,
  USER_STACK: 0x1_8000,
  DATA: 0x2_0000,
} as const;

/** Selectors of the flat GDT. */
export const SEL = {
  CODE64: 0x08,
  DATA: 0x10,
  CODE32: 0x18,
  USER32: 0x23,
  USER_DATA: 0x2b,
  USER64: 0x33,
  TSS: 0x38,
  /** For tests: 0x50 and on */
  FREE: 0x50,
} as const;

const RAM_BYTES = 4 << 20;

export class TestMachine implements EngineHost {
  readonly engine: Engine;
  readonly cpu: Processor;
  readonly vcpu: EngineVcpu;
  readonly ports: string[] = [];
  portValue = 0;
  tscHigh = 0;
  readonly msrRead = (): boolean => false;
  readonly msrWrite = (): boolean => false;
  readonly msrLow = 0;
  readonly msrHigh = 0;
  tscRate = 0;
  readonly ticks = (instructions: number): number => instructions;
  readonly #ram: number;

  constructor(
    options: { vendor?: 'intel' | 'amd'; without?: readonly FeatureName[]; plan?: Partial<MemoryPlan> } = {},
  ) {
    const without = new Set<string>(options.without ?? []);
    this.engine = new Engine(
      { contexts: 8, codeBytes: 1 << 20, ramBytes: RAM_BYTES, vcpus: 1, ...options.plan },
      {
        physicalBits: 40,
        gigabytePages: true,
        cr4: Object.values(CR4).reduce((all, bit) => (all | bit) >>> 0, 0) & ~(CR4.KL | CR4.CET),
        efer: EFER.SCE | EFER.LME | EFER.NXE | EFER.SVME,
        xcr0: 0x207,
        vendor: options.vendor ?? 'intel',
        has: (feature) => !without.has(feature),
      },
      this,
    );
    this.cpu = this.engine.processor;
    this.#ram = this.engine.memory.ram;
    // Table 0 has one entry: table 1, of 2-MByte pages
    const lo = new Uint32Array(1024);
    const hi = new Uint32Array(1024);
    const all = SPTE.R | SPTE.W | SPTE.X | SPTE.U;
    lo[0] = all;
    hi[0] = 1;
    for (let i = 0; i < RAM_BYTES >>> 21; i += 1) {
      lo[512 + i] = all | SPTE.LEAF;
      hi[512 + i] = (this.#ram >>> 12) + 512 * i;
    }
    this.engine.tables = { lo, hi };
    this.vcpu = this.engine.createVcpu(0);
    this.vcpu.intercepts.instructions = 0;
    this.engine.loadRoot(this.vcpu, { table: 0, id: 1, levels: 3, accessedDirty: false, mbec: false, linear: false });
    this.engine.activate(this.vcpu);
    this.#reset();
  }

  // ---- the host -----------------------------------------------------------------------------------------------------

  mmioRead(): number {
    return 0xffff_ffff;
  }
  mmioWrite(): void {}
  portRead(port: number, bytes: number): number {
    this.ports.push(`in ${port.toString(16)} ${bytes}`);
    return this.portValue;
  }
  portWrite(port: number, bytes: number, value: number): void {
    this.ports.push(`out ${port.toString(16)} ${bytes} ${value.toString(16)}`);
  }
  opensPort(): boolean {
    return false;
  }
  closesPort(): number {
    return 0;
  }
  trackWrite(): void {}
  pdptesLegal(): boolean {
    return true;
  }
  tsc(instructions: number): number {
    return instructions;
  }

  // ---- memory -------------------------------------------------------------------------------------------------------

  write(at: number, bytes: readonly number[] | Uint8Array): void {
    this.engine.memory.u8.set(bytes, this.#ram + at);
    this.engine.code.written(this.#ram + at, bytes.length);
  }
  write32(at: number, ...values: number[]): void {
    for (const [i, value] of values.entries()) {
      this.write16(at + 4 * i, value & 0xffff, value >>> 16);
    }
  }
  write16(at: number, ...values: number[]): void {
    for (const [i, value] of values.entries()) this.write(at + 2 * i, [value & 255, (value >>> 8) & 255]);
  }
  read32(at: number): number {
    return this.engine.memory.u32[(this.#ram + at) >>> 2]!;
  }
  read16(at: number): number {
    return this.engine.memory.u16[(this.#ram + at) >>> 1]!;
  }
  read8(at: number): number {
    return this.engine.memory.u8[this.#ram + at]!;
  }
  fill(at: number, bytes: number, value: number): void {
    this.engine.memory.u8.fill(value, this.#ram + at, this.#ram + at + bytes);
  }

  /** Machine code at AT.CODE, in hex; spaces and line ends are ignored, `;` starts a comment. */
  code(text: string, at: number = AT.CODE): void {
    const hex = text.replace(/;[^\n]*/g, '').replace(/\s+/g, '');
    this.write(
      at,
      Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16)),
    );
  }

  // ---- registers ----------------------------------------------------------------------------------------------------

  reg(index: number): number {
    return this.cpu.get(gpr(index));
  }
  setReg(index: number, low: number, high = 0): void {
    this.cpu.set64(gpr(index), low, high);
  }
  get rip(): number {
    return this.cpu.get(S.RIP);
  }
  set rip(value: number) {
    this.cpu.set64(S.RIP, value, 0);
  }
  selector(seg: number): number {
    return this.cpu.u16[(segment(seg) + SEG.SELECTOR) >>> 1]!;
  }
  rights(seg: number): number {
    return this.cpu.get(segment(seg) + SEG.ACCESS);
  }
  setSegment(seg: number, selector: number, base: number, limit: number, rights: number): void {
    const at = segment(seg);
    this.cpu.u16[(at + SEG.SELECTOR) >>> 1] = selector;
    this.cpu.set64(at + SEG.BASE, base, 0);
    this.cpu.set(at + SEG.LIMIT, limit);
    this.cpu.set(at + SEG.ACCESS, rights);
  }
  setFlags(value: number): void {
    this.cpu.setRflags(value | 2);
  }
  get exit(): { reason: number; qualification: number; interruption: number; error: number; vectoring: number } {
    return {
      reason: this.cpu.get(X.REASON),
      qualification: this.cpu.get(X.QUALIFICATION),
      interruption: this.cpu.get(X.INTERRUPTION),
      error: this.cpu.get(X.INTERRUPTION_ERROR),
      vectoring: this.cpu.get(X.VECTORING),
    };
  }

  // ---- states -------------------------------------------------------------------------------------------------------

  #reset(): void {
    const { cpu } = this;
    cpu.set(S.CR0, CR0.ET);
    cpu.set(S.CANONICAL_SHIFT, 16);
    cpu.set64(S.DR + 48, 0xffff_0ff0, 0);
    cpu.set64(S.DR + 56, 0x400, 0);
    cpu.set(S.XCR0, 1);
    cpu.u16[S.FCW >>> 1] = 0x37f;
    cpu.u8.fill(1, S.FEMPTY, S.FEMPTY + 8);
    cpu.set(S.MXCSR, 0x1f80);
    this.setFlags(2);
    for (let seg = 0; seg < 6; seg += 1) this.setSegment(seg, 0, 0, 0xffff, seg === SEG.CS ? 0x9b : 0x93);
    this.setSegment(SEG.LDTR, 0, 0, 0, 0x1_0082);
    this.setSegment(SEG.TR, 0, 0, 0xffff, 0x8b);
    cpu.set64(S.GDTR_BASE, 0, 0);
    cpu.set(S.GDTR_LIMIT, 0xffff);
    cpu.set64(S.IDTR_BASE, 0, 0);
    cpu.set(S.IDTR_LIMIT, 0x3ff);
    for (let vector = 0; vector < 256; vector += 1) this.write(AT.HLTS + 16 * vector, [0xf4]);
    this.setReg(4, AT.STACK);
    this.rip = AT.CODE;
    cpu.modeChanged();
  }

  /** Vector of the HLT at which the guest stopped, or -1. */
  get stoppedAt(): number {
    const at = this.rip + this.cpu.get(segment(SEG.CS) + SEG.BASE) * (this.cpu.long ? 0 : 1) - AT.HLTS;
    return at >= 0 && at < 4096 && at % 16 === 0 ? at / 16 : -1;
  }

  /** Real mode, IVT to the HLTs, CS base 0. */
  realMode(): this {
    for (let vector = 0; vector < 256; vector += 1) this.write16(4 * vector, 16 * vector, AT.HLTS >>> 4);
    this.setReg(4, 0xf000);
    return this;
  }

  descriptor(selector: number, low: number, high: number, base: number = AT.GDT): void {
    this.write32(base + (selector & 0xfff8), low, high);
  }

  #flatGdt(long: boolean): void {
    this.descriptor(SEL.CODE64, 0x0000_ffff, 0x00af_9b00);
    this.descriptor(SEL.DATA, 0x0000_ffff, 0x00cf_9300);
    this.descriptor(SEL.CODE32, 0x0000_ffff, 0x00cf_9b00);
    this.descriptor(SEL.USER32, 0x0000_ffff, 0x00cf_fb00);
    this.descriptor(SEL.USER_DATA, 0x0000_ffff, 0x00cf_f300);
    this.descriptor(SEL.USER64, 0x0000_ffff, 0x00af_fb00);
    this.descriptor(SEL.TSS, (AT.TSS << 16) | 0x2067, long ? 0x0000_8b00 : 0x0000_8b00);
    this.cpu.set64(S.GDTR_BASE, AT.GDT, 0);
    this.cpu.set(S.GDTR_LIMIT, 0xfff);
    this.cpu.set64(S.IDTR_BASE, AT.IDT, 0);
    this.cpu.set(S.IDTR_LIMIT, long ? 0xfff : 0x7ff);
    this.setSegment(SEG.TR, SEL.TSS, AT.TSS, 0x2067, 0x8b);
    const handler = long ? SEL.CODE64 : SEL.CODE32;
    for (let vector = 0; vector < 256; vector += 1) this.gate(vector, handler, AT.HLTS + 16 * vector, 0x8e00, long);
  }

  /** An IDT entry; `rights` is bits 47:32: type, DPL, P, and in IA-32e mode the IST. */
  gate(vector: number, selector: number, offset: number, rights: number, long = this.cpu.ia32e): void {
    const at = AT.IDT + vector * (long ? 16 : 8);
    this.write32(at, ((selector << 16) | (offset & 0xffff)) >>> 0, ((offset & 0xffff_0000) | rights) >>> 0);
    if (long) this.write32(at + 8, 0, 0);
  }

  /** 64-bit mode at level `cpl`, identity-mapped with 2-MByte user pages, RIP at AT.CODE. */
  longMode(cpl: 0 | 3 = 0): this {
    const { cpu } = this;
    this.write32(AT.PML4, AT.PDPT | 7, 0);
    this.write32(AT.PDPT, AT.PD | 7, 0);
    for (let i = 0; i < RAM_BYTES >>> 21; i += 1) this.write32(AT.PD + 8 * i, (i << 21) | 0x87, 0);
    cpu.set64(S.CR3, AT.PML4, 0);
    cpu.set(S.CR4, CR4.PAE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.OSXSAVE | CR4.FSGSBASE);
    cpu.set(S.EFER, EFER.LME | EFER.LMA | EFER.SCE | EFER.NXE);
    cpu.set(S.CR0, (CR0.PE | CR0.PG | CR0.ET | CR0.NE | CR0.WP) >>> 0);
    cpu.set(S.XCR0, 7);
    this.#flatGdt(true);
    // TSS: RSP0, IST1, no I/O map
    this.write32(AT.TSS + 4, AT.STACK0, 0);
    this.write32(AT.TSS + 0x24, AT.IST1, 0);
    this.write16(AT.TSS + 102, 0x2068);
    this.#flatSegments(cpl, cpl === 0 ? SEL.CODE64 : SEL.USER64, 0xa09b);
    return this;
  }

  /** Flat 32-bit protected mode at level `cpl`, paging off. */
  protectedMode(cpl: 0 | 3 = 0): this {
    const { cpu } = this;
    cpu.set(S.CR0, CR0.PE | CR0.ET | CR0.NE);
    cpu.set(S.CR4, CR4.OSFXSR);
    this.#flatGdt(false);
    // TSS: ESP0, SS0, I/O map beyond the first bytes
    this.write32(AT.TSS + 4, AT.STACK0, SEL.DATA);
    this.write16(AT.TSS + 102, 104);
    this.fill(AT.TSS + 104, 0x2000, 0xff);
    this.#flatSegments(cpl, cpl === 0 ? SEL.CODE32 : SEL.USER32, 0xc09b);
    return this;
  }

  #flatSegments(cpl: number, code: number, rights: number): void {
    const level = cpl << 5;
    const data = cpl === 0 ? SEL.DATA : SEL.USER_DATA;
    for (let seg = 0; seg < 6; seg += 1) this.setSegment(seg, data, 0, 0xffff_ffff, 0xc093 | level);
    this.setSegment(SEG.CS, code, 0, 0xffff_ffff, rights | level);
    this.cpu.set(S.CPL, cpl);
    this.setReg(4, cpl === 0 ? AT.STACK : AT.USER_STACK);
    this.cpu.contextChanged();
  }

  /** Runs until something besides the budget leaves: a run also ends early where single-stepping begins or ends. */
  runOn(): number {
    for (let i = 0; i < 8; i += 1) {
      const reason = this.run();
      if (reason !== EXIT.BUDGET) return reason;
    }
    return EXIT.BUDGET;
  }

  /** Runs until something leaves, at most `budget` instructions. */
  run(budget = 1000): number {
    this.cpu.contextChanged();
    return this.engine.run(this.vcpu, budget);
  }
}
