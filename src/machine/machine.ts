import { parseCpu } from '../arch/cpu-models.ts';
import { gpr, S, SEG, segment } from '../engine/core/layout.ts';
import type { Accelerator } from '../engine/core/memory.ts';
import type { ModuleSource } from '../engine/core/module-source.ts';
import type { Engine } from '../engine/engine.ts';
import type { ComparisonMode } from '../hypervisor/mmu/vm-mmu.ts';
import { zapAllFast } from '../hypervisor/mmu/zap.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';
import { Vm } from '../hypervisor/vm/vm.ts';
import type { BootModule, BootSegment, BootState } from '../pc/boot/boot-state.ts';
import { SELF_TEST_PORT_WRITES, selfTestMsrWrites } from '../pc/boot/firmware.ts';
import { loadKernel } from '../pc/boot/load-kernel.ts';
import { highRamBytes, lowRamBytes, PHYSICAL } from '../pc/layout.ts';
import { createPlatform, type Platform } from '../pc/platform.ts';
import type { Processor } from '../pc/smbios/structures.ts';
import type { BlockStore } from '../pc/virtio/block.ts';
import { MachineBus } from './bus.ts';

export interface MachineOptions {
  /** As `-cpu` has it. */
  readonly cpu: string;
  readonly ramBytes: number;
  readonly cpus: number;
  readonly kernel?: { readonly name: string; readonly bytes: Uint8Array };
  readonly modules?: readonly BootModule[];
  readonly commandLine?: string;
  /** COM1 first. */
  readonly serial?: readonly ((byte: number) => void)[];
  readonly debugText?: (byte: number) => void;
  readonly debugExit?: { readonly iobase: number; readonly iosize: number };
  readonly testDevice?: boolean;
  readonly drives?: readonly { readonly store: BlockStore; readonly serial?: string }[];
  readonly random?: boolean;
  /** 16 bytes in the order of their text. */
  readonly uuid?: Uint8Array;
  /** Time of day at power-on, in ms since 1970. */
  readonly epochMs: number;
  /** Virtual nanoseconds per instruction; 1 by default. */
  readonly nsPerInstruction?: number;
  /** Virtual nanoseconds that an access to a device's port or page takes; 500 by default, about a PC's. */
  readonly deviceNs?: number;
  /** false: a reset ends the machine, and so does a triple fault. */
  readonly reboot?: boolean;
  /** What a triple fault is to a machine that may reboot; `reset` by default. */
  readonly tripleFault?: 'reset' | 'end';
  /** A sentence, without a full stop, about what happened to the machine and did not end it. */
  readonly note?: (sentence: string) => void;
  readonly hpet?: boolean;
  readonly acpi?: boolean;
  /** Count executions by handler, for bench/hot-forms. */
  readonly profile?: boolean;
  /** What runs hot code. */
  readonly accel?: Accelerator;
  /** Lockstep: instructions of a CPU before which nothing is compared. */
  readonly lockstepFrom?: number;
  /** Times a run of instructions is entered before it is compiled. */
  readonly jitThreshold?: number;
  /** Most bytes of compiled code alive. */
  readonly jitBytes?: number;
  /** Has generated modules from earlier runs; by default nobody has. */
  readonly jitModules?: ModuleSource;
  readonly nestedMmu?: ComparisonMode;
  readonly tdp?: boolean;
  readonly force?: boolean;
  readonly fwCfgFiles?: readonly { readonly name: string; readonly bytes: Uint8Array }[];
}

export type EndingKind = 'power-off' | 'debug-exit' | 'reset' | 'triple-fault';
export interface Ending {
  readonly kind: EndingKind;
  /** Process exit status. */
  readonly status: number;
  readonly message: string;
}

const TSC_HERTZ = 1_000_000_000;
/** Exit status when the guest shut itself down by a triple fault or, with reboot off, reset itself. */
export const STATUS_TRIPLE_FAULT = 4;

/**
 * A machine, put together: RAM, vCPUs and interrupt chip from hypervisor/, devices and loaders from pc/.
 *
 * Owns  which device is where on the bus, what reset and power-off mean.
 */
export class Machine {
  readonly vm: Vm;
  readonly bus = new MachineBus();
  readonly platform: Platform;
  ending: Ending | null = null;
  readonly #options: MachineOptions;
  #resetWanted: string | null = null;
  /** Instructions of all CPUs when the machine started or was reset. */
  #startedAt = 0;
  #lastTripleFault: { readonly rip: bigint; readonly instructions: number } | null = null;
  /** In S3: no CPU runs until the platform has something that wakes it. */
  #suspended = false;

  constructor(options: MachineOptions) {
    this.#options = options;
    const low = lowRamBytes(options.ramBytes);
    const high = highRamBytes(options.ramBytes);
    this.vm = new Vm({
      cpu: parseCpu(options.cpu),
      cpus: options.cpus,
      ram: [{ base: 0, bytes: low }, ...(high > 0 ? [{ base: PHYSICAL.RAM_ABOVE_4G, bytes: high }] : [])],
      devices: this.bus,
      mode: options.nestedMmu ?? 'split',
      tdp: options.tdp ?? true,
      force: options.force ?? false,
      nsPerInstruction: options.nsPerInstruction ?? 1,
      deviceNs: options.deviceNs ?? 500,
      tscHertz: TSC_HERTZ,
      tripleFault: (vcpu) => this.#tripleFault(vcpu),
      plan: {
        contexts: 16 * options.cpus + 16,
        codeBytes: 96 << 20,
        profile: options.profile ?? false,
        accel: options.accel ?? 'interpreter',
        ...(options.jitThreshold === undefined ? {} : { jitThreshold: options.jitThreshold }),
        ...(options.jitBytes === undefined ? {} : { jitBytes: options.jitBytes }),
        ...(options.jitModules ? { jitModules: options.jitModules } : {}),
        ...(options.lockstepFrom === undefined ? {} : { lockstepFrom: options.lockstepFrom }),
      },
    });
    const { irq, clock, ram } = this.vm;
    irq.attachTo(this.bus);
    let seed = 0x2545_f491;
    this.platform = createPlatform(
      {
        bus: this.bus,
        irq: (gsi) => irq.line(gsi),
        clock,
        wallTime: { epochMs: options.epochMs },
        memory: ram,
        power: {
          powerOff: (status) =>
            status === 0
              ? this.#end('power-off', 0, 'the guest switched the machine off')
              : this.#end('debug-exit', status, `the guest left through isa-debug-exit with status ${status}`),
          reset: (reason) => this.#reset(reason),
        },
        pitBlocked: (blocked) => irq.blockPit(blocked),
        maskNmi: (masked) => irq.maskNmi(masked),
        // Every mapping goes; the next access of each page brings it back
        unmapPage: () => zapAllFast(this.vm.mmu),
        suspend: () => this.#suspend(),
        deliverMsi: (addressLow, addressHigh, data) => {
          irq.deliverMsi(addressLow, addressHigh, data);
        },
      },
      {
        ramBytes: options.ramBytes,
        cpus: options.cpus,
        processor: this.#processor(),
        ...(options.uuid ? { uuid: options.uuid } : {}),
        ...(options.serial ? { serial: options.serial } : {}),
        ...(options.debugText ? { debugText: options.debugText } : {}),
        ...(options.debugExit ? { debugExit: options.debugExit } : {}),
        ...(options.testDevice ? { testDevice: true } : {}),
        ...(options.drives ? { drives: options.drives } : {}),
        ...(options.hpet === undefined ? {} : { hpet: options.hpet }),
        ...(options.acpi === undefined ? {} : { acpi: options.acpi }),
        ...(options.fwCfgFiles ? { fwCfgFiles: options.fwCfgFiles } : {}),
        ...(options.commandLine === undefined ? {} : { commandLine: options.commandLine }),
        ...(options.random
          ? {
              random: (into: Uint8Array) => {
                for (let i = 0; i < into.length; i += 1) {
                  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
                  into[i] = seed >>> 24;
                }
              },
            }
          : {}),
      },
    );
    this.#boot();
  }

  /** The boot processor, as SMBIOS tells of it. */
  #processor(): Processor {
    const { policy } = this.vcpus[0]!;
    const one = 4 * policy.find(1, 0);
    return {
      manufacturer: policy.model.vendorString,
      version: policy.model.brand,
      signature: policy.values[one]!,
      features: policy.values[one + 3]!,
      megahertz: TSC_HERTZ / 1e6,
    };
  }

  get engine(): Engine {
    return this.vm.engine;
  }

  get vcpus(): readonly Vcpu[] {
    return this.vm.vcpus;
  }

  /** Virtual time since power-on. */
  get nowNs(): number {
    return this.vm.clock.roundNs;
  }

  /** When the next timer fires, or -1. */
  get nextDeadlineNs(): number {
    const next = this.vm.clock.nextDeadlineNs;
    return next === Number.POSITIVE_INFINITY ? -1 : next;
  }

  /**
   * Runs to a point in virtual time. 'idle': every vCPU waits, and no timer comes before `untilNs`. 'paused': the VM's
   * debugger has stopped; to go on, call it again with the same time.
   */
  run(untilNs: number): 'time' | 'idle' | 'ended' | 'paused' {
    for (;;) {
      if (this.ending) return 'ended';
      if (this.#suspended && !this.#awaitWake(untilNs)) return 'idle';
      const result = this.vm.run(untilNs);
      if (this.#resetWanted !== null) {
        this.#resetWanted = null;
        this.vm.stopped = false;
        this.#resetProcessors();
        const resume = this.platform.reset();
        this.#boot(resume);
        continue;
      }
      if (this.#suspended) continue;
      return result === 'stopped' ? 'ended' : result;
    }
  }

  /** Lets virtual time pass while nothing runs: the caller has waited on the host's clock. */
  advanceTo(ns: number): void {
    this.vm.clock.roundNs = Math.max(this.vm.clock.roundNs, ns);
  }

  serialInput(port: number, bytes: Uint8Array): void {
    this.platform.serial[port]?.receive(bytes);
  }

  pressPowerButton(): void {
    this.platform.pressPowerButton();
  }

  reset(reason = 'asked for from outside'): void {
    this.#reset(reason);
  }

  #end(kind: EndingKind, status: number, message: string): void {
    this.ending ??= { kind, status, message };
    this.vm.stopped = true;
    this.engine.requestStop();
  }

  #reset(reason: string): void {
    if (this.#options.reboot === false) {
      this.#end('reset', 0, `the guest reset the machine (${reason})`);
      return;
    }
    this.#resetWanted = reason;
    this.vm.stopped = true;
    this.engine.requestStop();
  }

  #resetProcessors(): void {
    for (const vcpu of this.vcpus) vcpu.reset(vcpu.index === 0);
    this.vm.irq.reset();
  }

  #suspend(): void {
    this.#suspended = true;
    this.vm.stopped = true;
    this.engine.requestStop();
  }

  /** S3 until `untilNs` or an event that ends it. The processors come out of reset: ACPI 16.1.3 "S3 Sleeping State". */
  #awaitWake(untilNs: number): boolean {
    const { clock } = this.vm;
    for (;;) {
      clock.fireDue();
      if (this.platform.wakePending) break;
      const next = clock.nextDeadlineNs;
      if (clock.roundNs >= untilNs || next > untilNs) return false;
      clock.roundNs = Math.max(clock.roundNs, next);
    }
    this.#suspended = false;
    this.vm.stopped = false;
    this.#resetProcessors();
    const vector = this.platform.wakeUp();
    // ACPI 5.2.10: the firmware jumps there in real mode, CS = vector / 16, IP = its low four bits
    if (vector !== 0) this.#boot({ segment: (vector >>> 4) & 0xffff, offset: vector & 15 });
    else this.reset('S3 ended, and the guest had left no waking vector');
    return true;
  }

  /**
   * The processor shuts down, and a PC's chipset resets it: how a 286 left protected mode, and how some kernels reboot.
   *
   * One that comes back to the same place after as many instructions as the time before would do so for ever: it ends.
   */
  #tripleFault(vcpu: Vcpu): void {
    const rip = vcpu.state.big(S.RIP);
    const instructions = this.#instructions - this.#startedAt;
    const what = `vCPU ${vcpu.index} shut down by a triple fault at RIP 0x${rip.toString(16)}`;
    const last = this.#lastTripleFault;
    this.#lastTripleFault = { rip, instructions };
    const { reboot, tripleFault } = this.#options;
    if (reboot === false || tripleFault === 'end') this.#end('triple-fault', STATUS_TRIPLE_FAULT, what);
    else if (last?.rip === rip && last.instructions === instructions) {
      this.#end('triple-fault', STATUS_TRIPLE_FAULT, `${what}, after a reset at the same instruction again`);
    } else {
      this.#options.note?.(`${what}: the machine is reset (-no-reboot ends it instead)`);
      this.#reset('triple fault');
    }
  }

  get #instructions(): number {
    return this.vcpus.reduce((sum, vcpu) => sum + this.vm.retiredBy(vcpu), 0);
  }

  /** @param resume  Where a guest asked to go on after its own reset (CMOS shutdown code), instead of booting. */
  #boot(resume: { readonly segment: number; readonly offset: number } | null = null): void {
    this.#startedAt = this.#instructions;
    const { kernel, modules, commandLine } = this.#options;
    this.vm.irq.leaveAsFirmware();
    for (const [port, value] of SELF_TEST_PORT_WRITES) this.bus.portWrite(port, 1, value);
    for (const { msrs, policy } of this.vcpus) {
      // A model without MTRRs refuses
      for (const [index, hi, lo] of selfTestMsrWrites(policy.physicalAddressBits)) msrs.write(index, lo, hi);
    }
    if (resume) {
      const { state } = this.vcpus[0]!;
      state.setU16(segment(SEG.CS) + SEG.SELECTOR, resume.segment);
      state.setU64(segment(SEG.CS) + SEG.BASE, resume.segment << 4, 0);
      state.setU64(S.RIP, resume.offset, 0);
      return;
    }
    if (!kernel) return;
    const { platform } = this;
    const loaded = loadKernel(kernel.bytes, {
      memory: this.vm.ram,
      ramBytes: this.#options.ramBytes,
      e820: platform.e820,
      commandLine: commandLine ?? '',
      kernelName: kernel.name,
      modules: modules ?? [],
      ...(platform.rsdp === undefined ? {} : { rsdp: platform.rsdp }),
    });
    applyBootState(this.vcpus[0]!, loaded.state);
  }
}

/** Puts the boot processor into the state that the loader wants. */
export function applyBootState(vcpu: Vcpu, boot: BootState): void {
  const { state, engine } = vcpu;
  engine.activate(vcpu.core);
  const registers = [boot.rax, boot.rcx, boot.rdx, boot.rbx, boot.rsp, boot.rbp, boot.rsi, boot.rdi];
  registers.forEach((value, i) => {
    state.setU64(gpr(i), value % 2 ** 32, Math.floor(value / 2 ** 32));
  });
  state.setU64(S.RIP, boot.rip % 2 ** 32, Math.floor(boot.rip / 2 ** 32));
  engine.processor.setRflags(boot.rflags);
  state.setU32(S.CR0, boot.cr0);
  state.setU64(S.CR3, boot.cr3, 0);
  state.setU32(S.CR4, boot.cr4);
  state.setU32(S.EFER, boot.efer);
  const load = (index: number, from: BootSegment): void => {
    const at = segment(index);
    state.setU16(at + SEG.SELECTOR, from.selector);
    state.setU32(at + SEG.ACCESS, from.accessRights);
    state.setU32(at + SEG.LIMIT, from.limit);
    state.setU64(at + SEG.BASE, from.base, 0);
  };
  load(SEG.CS, boot.cs);
  for (const index of [SEG.DS, SEG.ES, SEG.FS, SEG.GS, SEG.SS]) load(index, boot.ds);
  load(SEG.TR, boot.tr);
  load(SEG.LDTR, boot.ldtr);
  state.setU64(S.GDTR_BASE, boot.gdt.base, 0);
  state.setU32(S.GDTR_LIMIT, boot.gdt.limit);
  state.setU64(S.IDTR_BASE, boot.idt.base, 0);
  state.setU32(S.IDTR_LIMIT, boot.idt.limit);
  vcpu.mmu.initMmu();
  vcpu.shadowIntercepts();
  engine.processor.contextChanged();
}
