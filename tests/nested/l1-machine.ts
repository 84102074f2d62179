import { parseCpu } from '../../src/arch/cpu-models.ts';
import { CR0, CR4, EFER } from '../../src/arch/registers.ts';
import { FIELD } from '../../src/arch/vmx/fields.ts';
import type { L1Physical } from '../../src/base/address.ts';
import { gpr, S, SEG, segment } from '../../src/engine/core/layout.ts';
import { NestedVmx } from '../../src/hypervisor/nested/vmx/nested-vmx.ts';
import type { Vcpu } from '../../src/hypervisor/vcpu/vcpu.ts';
import { Vm } from '../../src/hypervisor/vm/vm.ts';

/** Where things lie in L1's memory. */
export const AT = {
  CODE: 0x1_0000,
  STACK: 0x2_0000,
  /** Handler of vector n: HLT at HANDLERS + 16 n. */
  HANDLERS: 0x3_0000,
  /** Where a VM exit goes: HLT. */
  HOST: 0x3_8000,
  IDT: 0x4_0000,
  GDT: 0x4_1000,
  TSS: 0x4_2000,
  PML4: 0x5_0000,
  VMXON: 0x6_0000,
  VMCS: 0x6_1000,
  OTHER_VMCS: 0x6_2000,
  OPERAND: 0x7_0000,
  L2: 0x8_0000,
} as const;
export const RAM_BYTES = 4 << 20;
/** A linear address that no table maps, and one that is not canonical. */
export const UNMAPPED = 0x4000_0000;
export const USER_PAGE = 0x20_0000;

const NO_DEVICES = {
  portRead: (_port: number, bytes: number) => 2 ** (8 * bytes) - 1,
  portWrite(_port: number, _bytes: number, _value: number) {},
  mmioRead: (_at: number, bytes: number) => 2 ** (8 * bytes) - 1,
  mmioWrite(_at: number, _bytes: number, _value: number) {},
};

export interface Outcome {
  /** Vector of the exception that came, or -1. */
  readonly vector: number;
  readonly error: number;
  /** CF and ZF as the conventions have them. */
  readonly result: 'succeed' | 'fail invalid' | 'fail valid';
  /** Number in the current VMCS, if there is one. */
  readonly instructionError: number;
  /** L1 is where a VM exit leads. */
  readonly exited: boolean;
}

/** A vCPU of L0 in 64-bit mode with identity-mapped memory, for one instruction at a time. */
export class L1Machine {
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  readonly nested: NestedVmx;
  readonly #start: Uint8Array;

  constructor({ tdp = true, devices = NO_DEVICES, force = true, cpu = 'intel,+vmx' } = {}) {
    this.vm = new Vm({
      cpu: parseCpu(cpu),
      cpus: 1,
      ram: [{ base: 0, bytes: RAM_BYTES }],
      devices,
      mode: 'split',
      tdp,
      force,
      nsPerInstruction: 1,
      tscHertz: 1_000_000_000,
      deviceNs: 0,
      tripleFault() {},
      plan: { contexts: 16, codeBytes: 4 << 20 },
    } as ConstructorParameters<typeof Vm>[0]);
    this.vcpu = this.vm.vcpus[0]!;
    const { nested } = this.vcpu;
    if (!(nested instanceof NestedVmx)) throw new Error('this CPU has VMX');
    this.nested = nested;
    this.#layOut();
    this.#start = this.vcpu.state.bytes().slice();
  }

  write32(at: number, value: number): void {
    this.vm.ram.write32(at as L1Physical, value >>> 0);
  }
  write64(at: number, lo: number, hi = 0): void {
    this.write32(at, lo);
    this.write32(at + 4, hi);
  }
  read32(at: number): number {
    return this.vm.ram.read32(at as L1Physical);
  }
  bytes(at: number, bytes: readonly number[]): void {
    this.vm.ram.copyIn(at as L1Physical, Uint8Array.from(bytes));
  }

  #layOut(): void {
    const { state, engine, core, mmu } = this.vcpu;
    this.write64(AT.PML4, AT.PML4 + 0x1007);
    this.write64(AT.PML4 + 0x1000, AT.PML4 + 0x2007);
    this.write64(AT.PML4 + 0x2000, 0x83);
    this.write64(AT.PML4 + 0x2008, USER_PAGE + 0x87);
    for (let vector = 0; vector < 256; vector += 1) {
      const handler = AT.HANDLERS + 16 * vector;
      this.bytes(handler, [0xf4]);
      this.write32(AT.IDT + 16 * vector, (handler & 0xffff) | (8 << 16));
      this.write32(AT.IDT + 16 * vector + 4, (handler & 0xffff_0000) | 0x8e00);
      this.write64(AT.IDT + 16 * vector + 8, 0);
    }
    this.bytes(AT.HOST, [0xf4]);
    this.bytes(AT.L2, [0x0f, 0x01, 0xc1, 0xf4]); // vmcall; hlt
    this.write64(AT.GDT, 0);
    this.write64(AT.GDT + 8, 0x0000_ffff, 0x00af_9b00);
    this.write64(AT.GDT + 16, 0x0000_ffff, 0x00cf_9300);
    // RSP0 for exceptions at level 3
    this.write64(AT.TSS + 4, AT.STACK - 0x1000);

    engine.activate(core);
    state.setU32(S.CR0, (CR0.PE | CR0.NE | CR0.ET | CR0.PG | CR0.WP) >>> 0);
    state.setU64(S.CR3, AT.PML4, 0);
    state.setU32(S.CR4, CR4.PAE | CR4.VMXE);
    state.setU32(S.EFER, EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE);
    for (let seg: number = SEG.ES; seg <= SEG.GS; seg += 1)
      this.#segment(seg, seg === SEG.CS ? 8 : 16, seg === SEG.CS ? 0xa09b : 0xc093);
    this.#segment(SEG.TR, 0x18, 0x8b, AT.TSS, 0x67);
    this.#segment(SEG.LDTR, 0, 0x1_0000, 0, 0);
    state.setU64(S.GDTR_BASE, AT.GDT, 0);
    state.setU32(S.GDTR_LIMIT, 0xffff);
    state.setU64(S.IDTR_BASE, AT.IDT, 0);
    state.setU32(S.IDTR_LIMIT, 0xfff);
    state.setU64(gpr(4), AT.STACK, 0);
    this.vcpu.msrs.write(0x3a, 5, 0);
    mmu.initMmu();
    engine.processor.contextChanged();
  }

  #segment(seg: number, selector: number, access: number, base = 0, limit = 0xffff_ffff): void {
    const { state } = this.vcpu;
    const at = segment(seg);
    state.setU16(at + SEG.SELECTOR, selector);
    state.setU32(at + SEG.ACCESS, access);
    state.setU32(at + SEG.LIMIT, limit);
    state.setU64(at + SEG.BASE, base, 0);
  }

  /** Registers as after construction; not in VMX operation. Memory and MSRs stay. */
  restart(): void {
    const { vcpu } = this;
    vcpu.engine.activate(vcpu.core);
    this.nested.reset();
    vcpu.mmu.nestedEptUninit();
    this.restoreRegisters();
  }

  /** The same while L1 runs, and it stays in VMX operation with its current VMCS. */
  restoreRegisters(): void {
    const { vcpu } = this;
    vcpu.state.bytes().set(this.#start);
    vcpu.pendingEvent = 0;
    vcpu.activity = 'running';
    vcpu.core.context = -1;
    this.vm.stopped = false;
    vcpu.mmu.initMmu();
    vcpu.mmu.newPgd(AT.PML4, 0);
  }

  /** In VMX root operation, with VMCS the current one. */
  restartInVmx(current = true): void {
    this.restart();
    const { revision } = this.nested.caps.offer;
    for (const region of [AT.VMXON, AT.VMCS, AT.OTHER_VMCS]) this.write32(region, revision);
    this.nested.enterVmxOperation(AT.VMXON);
    if (current) this.nested.setCurrent(this.nested.cache.take(AT.VMCS));
  }

  set(register: number, lo: number, hi = 0): void {
    this.vcpu.state.setGpr(register, lo, hi);
  }

  /** Ring 3, on the page that rings 3 may use. */
  toUserMode(): void {
    const { state } = this.vcpu;
    state.setU32(S.CPL, 3);
    this.#segment(SEG.CS, 0x0b, 0xa0fb);
    this.#segment(SEG.SS, 0x13, 0xc0f3);
  }

  /** Runs code at `at` until the vCPU halts; at most `budget` ns. */
  run(code: readonly number[], at: number = AT.CODE, budget = 100_000): Outcome {
    this.bytes(at, [...code, 0xf4]);
    return this.go(at, budget);
  }

  /** Runs what is at `at`. */
  go(at: number, budget: number): Outcome {
    const { vcpu, vm, nested } = this;
    vcpu.state.setU64(S.RIP, at, 0);
    const end = vm.clock.roundNs + budget;
    vcpu.activity = 'running';
    while (vm.clock.roundNs < end && vcpu.activity === 'running') {
      if (vm.run(Math.min(end, vm.clock.roundNs + 1000)) !== 'time') break;
    }
    const rip = vcpu.state.number(S.RIP) - 1;
    const inHandler = rip >= AT.HANDLERS && rip < AT.HANDLERS + 0x1000;
    const vector = inHandler ? (rip - AT.HANDLERS) >>> 4 : -1;
    const stack = vcpu.state.number(gpr(4));
    const flags = vcpu.engine.processor.rflags();
    return {
      vector,
      error: vector >= 0 ? this.read32(stack) : 0,
      result: flags & 1 ? 'fail invalid' : flags & 0x40 ? 'fail valid' : 'succeed',
      instructionError: nested.v.lo(FIELD.VM_INSTRUCTION_ERROR),
      exited: rip === AT.HOST,
    };
  }
}
