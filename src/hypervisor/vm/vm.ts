import { BASE_CAPABILITIES, type CpuChoice } from '../../arch/cpu-models.ts';
import { CpuidPolicy } from '../../arch/cpuid.ts';
import type { Capability } from '../../arch/cpuid-features.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import type { EngineHost } from '../../engine/core/cpu.ts';
import { EXIT } from '../../engine/core/exits.ts';
import { S } from '../../engine/core/layout.ts';
import type { MemoryPlan } from '../../engine/core/memory.ts';
import { Engine } from '../../engine/engine.ts';
import { IrqChip } from '../irq/irq-chip.ts';
import { VirtualTsc } from '../irq/virtual-tsc.ts';
import type { NestedPort } from '../mmu/ports.ts';
import { addSlot } from '../mmu/slots.ts';
import { type ComparisonMode, DEFAULT_CONFIG, VmMmu } from '../mmu/vm-mmu.ts';
import { NestedVmx } from '../nested/vmx/nested-vmx.ts';
import { nestedCapabilities, partsWithout } from '../nested/vmx/offer.ts';
import { installTurns } from '../nested/vmx/turns.ts';
import { Vcpu } from '../vcpu/vcpu.ts';
import type { VcpuWatcher } from '../vcpu/watcher.ts';
import type { VmDebugger } from './debugger.ts';
import { GuestRam } from './guest-ram.ts';
import type { DeviceSpace } from './io.ts';
import { VirtualClock } from './virtual-clock.ts';
import type { VmLog } from './vm-log.ts';

export interface VmOptions {
  readonly cpu: CpuChoice;
  readonly cpus: number;
  /** RAM as slots: L1-physical ranges in ascending order. */
  readonly ram: readonly { readonly base: number; readonly bytes: number }[];
  readonly devices: DeviceSpace;
  readonly mode: ComparisonMode;
  readonly tdp: boolean;
  readonly force: boolean;
  /** Virtual nanoseconds per retired instruction. */
  readonly nsPerInstruction: number;
  /** Virtual nanoseconds that an access to a device takes. */
  readonly deviceNs: number;
  /** Frequency of the time-stamp counter. */
  readonly tscHertz: number;
  /** Something unrecoverable for the guest: what the machine does about it. */
  readonly tripleFault: (vcpu: Vcpu) => void;
  readonly plan: Omit<MemoryPlan, 'ramBytes' | 'vcpus'>;
  readonly capabilities?: ReadonlySet<Capability>;
}

/** What the engine can do, and what L0 adds. */
export const CAPABILITIES: ReadonlySet<Capability> = new Set<Capability>([...BASE_CAPABILITIES, 'vmx', 'la57']);

/** Without nesting, nothing is nested; page faults that L0's shadow paging finds are the guest's own. */
const notNested = (vcpu: () => Vcpu): NestedPort => ({
  guestMode: false,
  usesEpt: false,
  usesMbec: false,
  usesVpid: false,
  vpid: 0,
  eptPointerLo: 0,
  eptPointerHi: 0,
  setEptPointer() {},
  eptpSwitching: false,
  eptpListAddress: 0,
  usesPml: false,
  pmlAddress: 0,
  pmlIndex: 0,
  exitForEpt() {},
  injectPageFault: (errorCode, low, high) => vcpu().raisePageFault(errorCode, low, high),
});

/** A key of an IA-32 page cannot be put into a shadow entry: without TDP there are no protection keys, as in KVM. */
const withoutTdp = (cpu: CpuChoice): CpuChoice => ({
  ...cpu,
  add: cpu.add.filter((name) => name !== 'pku'),
  remove: [...cpu.remove, 'pku'],
});

/**
 * One virtual machine of L0: memory, vCPUs, interrupt hardware, virtual time.
 *
 * Owns    the interleaving of the vCPUs, which is a function of the guest alone: equal input, equal trace.
 * Knows   devices only as `DeviceSpace`.
 */
export class Vm {
  readonly engine: Engine;
  readonly mmu: VmMmu;
  readonly ram: GuestRam;
  readonly clock = new VirtualClock();
  readonly irq: IrqChip;
  readonly vcpus: Vcpu[] = [];
  readonly devices: DeviceSpace;
  readonly options: VmOptions;
  /** vCPU that runs now. */
  running: Vcpu | null = null;
  /** Its instruction count when its part of the round began. */
  runStart = BORN_DOUBLE;
  /** The machine is over or being reset: `run` comes back. */
  stopped = false;
  /** Whoever debugs the VM. */
  debugger: VmDebugger | undefined;
  /** The round that its stop has interrupted, while there is one: how long, whose part, and the longest part so far. */
  #interrupted = false;
  #roundLength = BORN_DOUBLE;
  #roundAt = 0;
  #roundLongest = 0;
  /** Whoever watches the vCPUs. */
  watcher: VcpuWatcher | undefined;
  log: VmLog | undefined;
  /** MSR accesses that were refused, by index: for `info` and for finding out what a guest wanted. */
  readonly refusedMsrs = new Map<number, number>();
  #seed = 0x9e37_79b9;
  #tscHigh = 0;
  /** Ticks of L1's time-stamp counter an instruction, if whole. */
  readonly #tscRate: number;
  #extra = BORN_DOUBLE;
  readonly #nsPerInstruction: number;

  constructor(options: VmOptions) {
    this.options = options;
    this.#extra = 0;
    this.devices = options.devices;
    this.#nsPerInstruction = options.nsPerInstruction;
    const ticks = (options.nsPerInstruction * options.tscHertz) / 1e9;
    this.#tscRate = Number.isInteger(options.nsPerInstruction) && Number.isInteger(ticks) ? ticks : 0;
    const capabilities = options.capabilities ?? CAPABILITIES;
    const cpu = options.tdp ? options.cpu : withoutTdp(options.cpu);
    const policies = Array.from(
      { length: options.cpus },
      (_, apicId) => new CpuidPolicy(cpu, { cpus: options.cpus, apicId, capabilities }),
    );
    const policy = policies[0]!;
    const without = [...(options.cpu.vmxRemove ?? []), ...partsWithout((feature) => policy.has(feature))];
    const vmx = policy.has('vmx') ? nestedCapabilities(options.tdp, policy.cr4Allowed, without) : null;
    const ramBytes = options.ram.reduce((sum, { bytes }) => sum + bytes, 0);
    this.engine = new Engine(
      { ...options.plan, ramBytes, vcpus: options.cpus },
      {
        physicalBits: policy.physicalAddressBits,
        gigabytePages: policy.has('pdpe1gb'),
        cr4: policy.cr4Allowed,
        efer: policy.eferAllowed,
        xcr0: policy.xcr0Allowed,
        vendor: policy.vendor,
        has: (feature) => policy.features.has(feature as never),
      },
      this.#host(),
    );
    const { memory } = this.engine;
    this.mmu = new VmMmu(
      {
        ...DEFAULT_CONFIG,
        mode: options.mode,
        tdp: options.tdp,
        force: options.force,
        capabilities: {
          physicalAddressBits: policy.physicalAddressBits,
          gbPages: policy.has('pdpe1gb'),
          linearAddressBits: policy.linearAddressBits,
          amd: policy.vendor === 'amd',
          ept: vmx?.eptCap ?? 0,
          vpid: vmx?.vpidCap ?? 0,
        },
      },
      memory,
      {
        flushVmWide: () => {
          this.engine.processor.tlb.flushMatching(-1, -1, -1, -1);
          this.engine.processor.walker.flushPhysical();
        },
        stored: (host, bytes) => this.#stored(host, bytes),
        kick: () => {},
      },
    );
    this.engine.tables = this.mmu.tables;
    let host = memory.ram >>> 12;
    options.ram.forEach(({ base, bytes }, id) => {
      const pages = bytes / 4096;
      addSlot(this.mmu, { id, baseGfn: base / 4096, pages, hostBase: host, readOnly: false, dirtyLog: false });
      host += pages;
    });
    this.ram = new GuestRam(this.mmu, (host, bytes) => this.#stored(host, bytes));
    this.clock.elapsedNs = () => this.elapsedNs();
    const tsc = policies.map(() => new VirtualTsc(this.clock, options.tscHertz));
    this.irq = new IrqChip({
      cpus: options.cpus,
      clock: this.clock,
      sink: {
        nmi: (cpu) => {
          this.vcpus[cpu]!.nmiPending = true;
        },
        init: (cpu) => {
          this.vcpus[cpu]!.initPending = true;
        },
        startup: (cpu, vector) => {
          this.vcpus[cpu]!.sipiVector = vector;
        },
        wake: (cpu) => {
          const vcpu = this.vcpus[cpu];
          if (vcpu) vcpu.woken = true;
        },
      },
      features: {
        x2apic: policy.has('x2apic'),
        tscDeadline: policy.has('tsc_deadline_timer'),
        suppressEoiBroadcast: false,
        physicalAddressBits: policy.physicalAddressBits,
      },
      tsc,
    });
    policies.forEach((each, index) => {
      const nested = vmx === null ? null : new NestedVmx(this, index, each, vmx);
      const vcpu = new Vcpu(
        this,
        index,
        each,
        this.irq.apics[index]!,
        tsc[index]!,
        nested ?? notNested(() => this.vcpus[index]!),
      );
      nested?.attach(vcpu);
      this.vcpus.push(vcpu);
    });
    if (vmx !== null) installTurns(this.engine, () => this.running!);
    for (const vcpu of this.vcpus) if (vcpu.index > 0) vcpu.activity = 'wait for SIPI';
  }

  /** Someone else than the guest's instructions has stored to RAM. */
  #stored(host: number, bytes: number): void {
    if (this.engine.code.holds(host >>> 12)) this.engine.code.written(host, bytes);
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  /** Instructions that a vCPU has retired: in the middle of a run, too, when its devices or its clock are asked. */
  retiredBy(vcpu: Vcpu): number {
    return vcpu.core.instructions + (vcpu === this.running ? this.#extra : 0);
  }

  /** How far the running vCPU is into its part of the round. */
  elapsedNs(): number {
    const { running } = this;
    if (!running) return 0;
    const instructions = this.retiredBy(running) - this.runStart;
    return Math.floor(instructions * this.#nsPerInstruction) + running.stallNs;
  }

  /** Instructions that take `ns`; 0 if none is left. */
  instructionsIn(ns: number): number {
    return ns <= 0 ? 0 : Math.ceil(ns / this.#nsPerInstruction);
  }

  /** Instructions that the running vCPU may run before a moment; at least 1. */
  instructionsUntil(ns: number): number {
    if (ns === Number.POSITIVE_INFINITY) return Number.POSITIVE_INFINITY;
    return Math.max(1, Math.ceil((ns - this.clock.nowNs()) / this.#nsPerInstruction));
  }

  /** Instructions that the running vCPU may run before its part of the round, of `lengthNs`, and the next timer; 0: none. */
  instructionsBefore(lengthNs: number): number {
    const { clock } = this;
    const ns = Math.min(lengthNs, clock.nextDeadlineNs - clock.roundNs) - this.elapsedNs();
    return ns <= 0 ? 0 : Math.ceil(ns / this.#nsPerInstruction);
  }

  /**
   * Runs all vCPUs to `untilNs`.
   *
   * @returns  'time' when it is reached; 'idle' when every vCPU waits and no timer comes before it; 'stopped'; 'paused' by
   *           the debugger in the middle: to go on, call it again with the same time.
   */
  run(untilNs: number): 'time' | 'idle' | 'stopped' | 'paused' {
    const { clock, vcpus } = this;
    const quantum = vcpus.length === 1 ? SOLE_QUANTUM_NS : SHARED_QUANTUM_NS;
    if (this.debugger) this.debugger.stop = null;
    while (!this.stopped || this.#interrupted) {
      if (!this.#interrupted) {
        clock.fireDue();
        if (clock.roundNs >= untilNs) return 'time';
        if (!vcpus.some((vcpu) => this.#mayRun(vcpu))) {
          const next = clock.nextDeadlineNs;
          if (next > untilNs) return 'idle';
          clock.roundNs = Math.max(clock.roundNs, next);
          continue;
        }
        const roundEnd = Math.min(clock.roundNs + quantum, untilNs);
        this.#roundLength = roundEnd - clock.roundNs;
        this.#roundAt = 0;
        this.#roundLongest = 0;
      }
      if (!this.#runRound()) return 'paused';
      // All halted before the round's end: it ends when the last of them did
      const busy = vcpus.some((vcpu) => vcpu.runnable);
      const longest = this.#roundLongest;
      clock.roundNs += Math.max(1, busy && vcpus.length > 1 ? Math.max(longest, this.#roundLength) : longest);
    }
    return 'stopped';
  }

  /** Every vCPU's part of the round. False: the debugger has stopped in one of them, which goes on at the next call. */
  #runRound(): boolean {
    const { vcpus } = this;
    while (this.#roundAt < vcpus.length) {
      const vcpu = vcpus[this.#roundAt]!;
      const goesOn = this.#interrupted;
      this.#interrupted = false;
      let passed = 0;
      if (goesOn && this.debugger?.isHeld(vcpu)) passed = vcpu.leave();
      else if (goesOn || this.#mayRun(vcpu)) passed = vcpu.run(this.#roundLength, goesOn);
      if (this.debugger?.stop && !this.stopped) {
        this.#interrupted = true;
        return false;
      }
      this.#roundLongest = Math.max(this.#roundLongest, passed);
      this.#roundAt += 1;
      if (this.stopped) break;
    }
    return true;
  }

  #mayRun(vcpu: Vcpu): boolean {
    return vcpu.runnable && !this.debugger?.isHeld(vcpu);
  }

  // ---- what the engine and vCPUs ask --------------------------------------------------------------------------------

  #host(): EngineHost {
    const vm = this;
    const apicPage = (physical: number): boolean => {
      const { running } = vm;
      const base = running ? running.apic.mmioBase : -1;
      return base !== -1 && physical >= base && physical < base + 4096;
    };
    return {
      mmioRead: (physical, bytes) => {
        const nested = vm.running?.nested;
        if (nested?.ownsDevicePage(physical)) return nested.mmioRead(physical, bytes);
        vm.#stall();
        if (apicPage(physical)) return vm.running!.apic.readMmio(physical % 4096, bytes as 1 | 2 | 4);
        return vm.devices.mmioRead(physical, bytes);
      },
      mmioWrite: (physical, bytes, value) => {
        const nested = vm.running?.nested;
        if (nested?.ownsDevicePage(physical)) {
          nested.mmioWrite(physical, bytes, value >>> 0);
          return;
        }
        vm.#stall();
        if (apicPage(physical)) vm.running!.apic.writeMmio(physical % 4096, bytes as 1 | 2 | 4, value >>> 0);
        else vm.devices.mmioWrite(physical, bytes, value >>> 0);
      },
      opensPort: (instructions) => {
        const vcpu = vm.running;
        if (!vcpu?.opensPorts) return false;
        vcpu.exits[EXIT.IO] = vcpu.exits[EXIT.IO]! + 1;
        vm.#extra = instructions - vcpu.core.instructions;
        return true;
      },
      closesPort: () => {
        vm.#extra += 1;
        const left = vm.running!.instructionsLeft();
        vm.#extra = 0;
        return left;
      },
      portRead: (port, bytes) => {
        vm.#stall();
        return vm.devices.portRead(port, bytes);
      },
      portWrite: (port, bytes, value) => {
        vm.#stall();
        vm.devices.portWrite(port, bytes, value >>> 0);
      },
      trackWrite: (host, bytes) => vm.running?.mmu.trackWriteHost(host, bytes),
      pdptesLegal: (cr3) => vm.running!.mmu.readPdptrs(cr3) === 'ok',
      tsc: (instructions) => {
        const vcpu = vm.running!;
        vm.#extra = instructions - vcpu.core.instructions;
        vcpu.tsc.read();
        vcpu.nested?.adjustTsc(vcpu.tsc);
        vm.#extra = 0;
        vm.#tscHigh = vcpu.tsc.hi;
        return vcpu.tsc.lo;
      },
      get tscHigh() {
        return vm.#tscHigh;
      },
      msrRead: (index) => vm.running!.readsMsr(index),
      get msrLow() {
        return vm.running!.msrs.lo;
      },
      get msrHigh() {
        return vm.running!.msrs.hi;
      },
      msrWrite: (index, low, high) => vm.running!.writesMsr(index, low, high),
      ticks: (instructions) => {
        vm.#extra = instructions - vm.running!.core.instructions;
        const ticks = Math.floor(vm.clock.nowNs() * (vm.options.tscHertz / 1e9));
        vm.#extra = 0;
        return ticks;
      },
      get tscRate() {
        return vm.running?.nested?.scalesTsc ? 0 : vm.#tscRate;
      },
    };
  }

  /** A device answers slower than memory: time passes, as it does on the bus of a PC. */
  #stall(): void {
    if (this.running) this.running.stallNs += this.options.deviceNs;
  }

  unknownMsr(vcpu: Vcpu, index: number, write: boolean): void {
    this.log?.msrRefused?.(vcpu, index, write);
    this.refusedMsrs.set(index, (this.refusedMsrs.get(index) ?? 0) + 1);
  }

  /** RDRAND, RDSEED: a generator of our own, so that a run can be repeated. xorshift32 twice. */
  random(vcpu: Vcpu, _seed: boolean): void {
    const next = (): number => {
      let x = this.#seed;
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      this.#seed = x >>> 0;
      return this.#seed;
    };
    const info = vcpu.state.u32(S.EXIT + 0x20);
    const register = (info >>> 3) & 15;
    const size = (info >>> 11) & 3;
    const low = next();
    const high = next();
    if (size === 0) vcpu.state.setU16(S.ZERO - 0x80 + 8 * register, low);
    else vcpu.state.setGpr(register, low, size === 2 ? high : 0);
    vcpu.state.setU32(S.CC_KIND, 0);
    vcpu.state.setU64(S.CC_B, 1, 0);
    vcpu.skip();
  }

  tripleFault(vcpu: Vcpu): void {
    this.log?.tripleFault?.(vcpu);
    vcpu.activity = 'shutdown';
    this.options.tripleFault(vcpu);
  }
}

/** How far one vCPU runs before the others: alone, and with others. */
const SOLE_QUANTUM_NS = 1_000_000;
const SHARED_QUANTUM_NS = 20_000;
