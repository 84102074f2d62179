import type { CpuidPolicy } from '../../arch/cpuid.ts';
import { secondException } from '../../arch/exceptions.ts';
import { DR6, DR7, EFER, RFLAGS } from '../../arch/registers.ts';
import { assert } from '../../base/assert.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import type { CpuState, EngineVcpu } from '../../engine/core/cpu.ts';
import { EXIT, X } from '../../engine/core/exits.ts';
import { ALLOW, gpr, S, SEG, STATUS, segment, TASK } from '../../engine/core/layout.ts';
import { engineMsrRead, engineMsrWrite } from '../../engine/core/msrs.ts';
import type { Engine } from '../../engine/engine.ts';
import { ACCESS } from '../../engine/paging/access.ts';
import type { LocalApic } from '../irq/local-apic.ts';
import type { VirtualTsc } from '../irq/virtual-tsc.ts';
import { PFEC } from '../mmu/access.ts';
import { type EngineViolation, type NestedPort, noViolation } from '../mmu/ports.ts';
import { REQUEST } from '../mmu/requests.ts';
import { VcpuMmu } from '../mmu/vcpu-mmu.ts';
import type { Vm } from '../vm/vm.ts';
import { crAccess, shadowIntercepts, taskLoadsCr3 } from './control-registers.ts';
import { hypercall } from './hypercalls.ts';
import { VcpuMsrs } from './msrs.ts';
import type { NestedLayer } from './nested-layer.ts';
import { MmuRegisters } from './registers.ts';
import { resetState } from './reset-state.ts';
import { EngineTlb } from './tlb-port.ts';

/** What a vCPU is doing. SDM 3C 24.4.2 "Guest Non-Register State", activity state. */
export type Activity = 'running' | 'halted' | 'wait for SIPI' | 'shutdown';

/** Event injection: VM-entry interruption-information format. SDM 3C 24.8.3. */
const EVENT = { VALID: 0x8000_0000, ERROR: 1 << 11, EXTERNAL: 0 << 8, NMI: 2 << 8, EXCEPTION: 3 << 8 } as const;

/**
 * One virtual processor of L0: runs the engine, and deals with what leaves it.
 *
 * Owns    the order in which events are delivered, the L0 side of every exit, activity states.
 * Knows   devices only through `Vm.devices`, the MMU through `mmu`, nested virtualization through `nested`.
 *
 * Source  SDM 3A 6.9 "Priority Among Simultaneous Exceptions and Interrupts"; nested-mmu.md 4.14.
 */
export class Vcpu {
  readonly index: number;
  readonly vm: Vm;
  readonly engine: Engine;
  readonly core: EngineVcpu;
  readonly state: CpuState;
  readonly apic: LocalApic;
  readonly tsc: VirtualTsc;
  readonly policy: CpuidPolicy;
  readonly msrs: VcpuMsrs;
  readonly regs: MmuRegisters;
  readonly mmu: VcpuMmu;
  nested: NestedLayer | null = null;
  activity: Activity = 'running';
  nmiPending = false;
  initPending = false;
  sipiVector = -1;
  /** An event whose delivery was interrupted, to be delivered again. Interruption-information format, or 0. */
  pendingEvent = BORN_DOUBLE;
  pendingError = 0;
  pendingLength = 0;
  /** It is an exception that L0 has found: L1 may intercept it. */
  pendingIsNew = false;
  /** What a new #PF puts into CR2, a new #DB into DR6. */
  pendingPayloadLo = 0;
  pendingPayloadHi = 0;
  /** The event on whose way to its handler it was found, or 0: L1 hears of it with the exit. */
  overtakenEvent = 0;
  overtakenError = 0;
  overtakenLength = 0;
  /** Exits by reason: EXIT number → count. */
  readonly exits = new Float64Array(0x200);
  /** Virtual time in this part of the round that went by without instructions: waiting for devices. */
  stallNs = 0;
  /** Something came that a halted vCPU must look at. */
  woken = false;
  /** Events that L0 has delivered. */
  deliveries = 0;
  /** Of its part of the round: nanoseconds. */
  #lengthNs = BORN_DOUBLE;
  /** What a run of the engine still has when a debugger's stop has cut it short: instructions. */
  #rest = 0;
  /** ALLOW bits of the instruction that `step` runs. */
  #allowed = 0;
  readonly #violation: EngineViolation = noViolation();

  constructor(vm: Vm, index: number, policy: CpuidPolicy, apic: LocalApic, tsc: VirtualTsc, nested: NestedPort) {
    this.vm = vm;
    this.index = index;
    this.engine = vm.engine;
    this.core = vm.engine.createVcpu(index);
    this.state = this.core.state;
    this.apic = apic;
    this.tsc = tsc;
    this.policy = policy;
    this.regs = new MmuRegisters(this.state);
    const { engine, core } = this;
    const cpu = engine.processor;
    this.msrs = new VcpuMsrs(policy, apic, tsc, {
      read: (msr) => {
        engine.activate(core);
        return engineMsrRead(cpu, msr);
      },
      write: (msr, lo, hi) => {
        engine.activate(core);
        return engineMsrWrite(cpu, msr, lo, hi) !== STATUS.FAULT;
      },
      get lo() {
        return cpu.low;
      },
      get hi() {
        return cpu.high;
      },
    });
    this.resetRegisters();
    this.mmu = new VcpuMmu(vm.mmu, this.regs, new EngineTlb(engine, core), nested);
  }

  // ---- reset ---------------------------------------------------------------------------------------------------------

  resetRegisters(init = false): void {
    resetState(this.state, this.policy, init);
    this.pendingEvent = 0;
    this.nmiPending = false;
  }

  /** RESET: as after power-on. `boot`: this vCPU runs, the others wait for a SIPI. */
  reset(boot: boolean): void {
    this.vm.log?.reset?.(this, false);
    this.engine.activate(this.core);
    this.nested?.reset();
    this.resetRegisters();
    this.msrs.reset();
    this.apic.reset();
    this.mmu.reset();
    this.engine.processor.contextChanged();
    this.shadowIntercepts();
    this.activity = boot ? 'running' : 'wait for SIPI';
    this.#rest = 0;
    this.initPending = false;
    this.sipiVector = -1;
  }

  #init(): void {
    this.initPending = false;
    this.vm.log?.reset?.(this, true);
    this.engine.activate(this.core);
    this.nested?.reset();
    this.resetRegisters(true);
    this.apic.init();
    this.mmu.reset();
    this.engine.processor.contextChanged();
    this.shadowIntercepts();
    this.activity = this.apic.isBsp ? 'running' : 'wait for SIPI';
  }

  #startup(): void {
    const vector = this.sipiVector;
    this.sipiVector = -1;
    if (this.nested?.takesStartup(vector)) return;
    if (this.activity !== 'wait for SIPI') return;
    const { state } = this;
    state.setU16(segment(SEG.CS) + SEG.SELECTOR, vector << 8);
    state.setU64(segment(SEG.CS) + SEG.BASE, vector << 12, 0);
    state.setU64(S.RIP, 0, 0);
    this.activity = 'running';
  }

  // ---- running -------------------------------------------------------------------------------------------------------

  /** Is there anything for this vCPU to do now? */
  get runnable(): boolean {
    if (this.activity === 'running') return true;
    if (this.nested?.wakes) return true;
    if (this.activity === 'shutdown') return this.initPending;
    if (this.initPending || (this.sipiVector >= 0 && this.activity === 'wait for SIPI')) return true;
    if (this.activity !== 'halted') return false;
    return this.#hasNmi() || this.pendingEvent !== 0 || (this.woken && this.#interruptible());
  }

  /** An NMI that is blocked ends no HLT; for an L2 with virtual NMIs it is not blocked, and leaves. */
  #hasNmi(): boolean {
    return this.nmiPending && (this.state.u32(S.NMI_BLOCKED) === 0 || this.nested?.nmisLeave === true);
  }

  #interruptible(): boolean {
    if (this.nested?.interruptsLeave) return this.vm.irq.hasInterrupt(this.index);
    return (this.state.u32(S.RFLAGS) & RFLAGS.IF) !== 0 && this.vm.irq.hasInterrupt(this.index);
  }

  /**
   * Runs until `lengthNs` of virtual time have passed, or it halts, or the VM must stop; or until the VM's debugger says
   * stop: then its part of the round is not over.
   *
   * @param goesOn  With the part that the debugger has stopped.
   * @returns       Nanoseconds that passed for this vCPU.
   */
  run(lengthNs: number, goesOn = false): number {
    const { core, engine, vm } = this;
    engine.activate(core);
    if (!goesOn) {
      vm.running = this;
      vm.runStart = core.instructions;
      this.stallNs = 0;
      this.#lengthNs = lengthNs;
      // Who watches or logs is to see every exit
      if (vm.watcher || vm.log) this.state.setU32(S.TURNS, 0);
    }
    for (;;) {
      if (!vm.stopped) {
        if (vm.debugger?.pauses(this)) return vm.elapsedNs();
        if (this.#rest > 0) {
          this.#runRest();
          continue;
        }
      }
      vm.clock.fireDue();
      if (vm.stopped) break;
      if (this.initPending && !this.nested?.takesInit()) this.#init();
      if (this.sipiVector >= 0) this.#startup();
      if (!this.runnable) break;
      const left = vm.instructionsIn(lengthNs - vm.elapsedNs());
      if (left <= 0 && !this.switchesTask) break;
      if (!this.#deliverEvents()) continue;
      if (this.activity !== 'running') break;
      const untilTimer = vm.instructionsUntil(vm.clock.nextDeadlineNs);
      let slice = Math.min(left, untilTimer, MAX_SLICE, this.nested?.instructionLimit ?? MAX_SLICE);
      const { watcher } = vm;
      if (watcher) slice = Math.min(slice, watcher.limit(this));
      if (vm.debugger) {
        // It may have come to a stop already: at the handler of what was delivered
        this.#rest = Math.max(1, slice);
        continue;
      }
      assert(this.mmu.reload(), 'the shadow-page quota has room for one root');
      for (let count = Math.max(1, slice); count > 0; count = this.#goesOn()) {
        const reason = engine.run(core, count);
        this.nested?.afterRun();
        if (watcher) watcher.left(this, reason);
        if (reason === EXIT.BUDGET) break;
        this.handle(reason);
      }
    }
    return this.leave();
  }

  /**
   * Behind an exit where none of what `run` looks at is there to be looked at: instructions that may run now, and the rest
   * is as `run` would have it. 0: it is to look.
   */
  #goesOn(): number {
    const { vm, nested } = this;
    if (!this.#isQuiet() || vm.watcher || vm.debugger) return 0;
    if (nested?.guestMode === true && !nested.isQuiet) return 0;
    // One that waits for its window, and it cannot be now
    const waits = vm.irq.hasInterrupt(this.index);
    if (waits && (nested?.interruptsLeave === true || this.#mayBeOpen())) return 0;
    const slice = Math.min(vm.instructionsBefore(this.#lengthNs), MAX_SLICE);
    if (slice <= 0) return 0;
    const { intercepts } = this.core;
    intercepts.nmiWindow = false;
    intercepts.interruptWindow = waits;
    if (!waits) this.woken = false;
    assert(this.mmu.reload(), 'the shadow-page quota has room for one root');
    return slice;
  }

  /** A task switch has left for L0 in its middle: that is no boundary between two instructions. */
  get switchesTask(): boolean {
    return this.state.u32(S.TASK) !== 0;
  }

  /** Nothing is to be delivered but interrupts, it runs, and is not in the middle of a task switch. */
  #isQuiet(): boolean {
    if (this.pendingEvent !== 0 || this.nmiPending || this.initPending || this.sipiVector >= 0) return false;
    if (this.switchesTask) return false;
    return this.activity === 'running' && !this.vm.stopped;
  }

  /** IN and OUT need not leave: nobody is to hear of exits, and no level is between this one and L0. */
  get opensPorts(): boolean {
    const { vm } = this;
    return !vm.watcher && !vm.debugger && !vm.log?.exit && this.nested?.guestMode !== true;
  }

  /** Behind such an access, in the middle of a run of the engine: instructions until `run` is to look at something. */
  instructionsLeft(): number {
    const { vm, mmu } = this;
    if (!this.#isQuiet() || mmu.requests !== 0 || vm.mmu.weakened) return 0;
    if (vm.irq.hasInterrupt(this.index) !== this.core.intercepts.interruptWindow) return 0;
    return vm.instructionsBefore(this.#lengthNs);
  }

  /** Interrupts are let through, now or behind the next instruction. */
  #mayBeOpen(): boolean {
    return (this.state.u32(S.RFLAGS) & RFLAGS.IF) !== 0 || this.state.u32(S.SHADOW_KIND) !== 0;
  }

  /** Ends its part of the round. Nanoseconds that passed. */
  leave(): number {
    const { vm } = this;
    this.#rest = 0;
    const done = vm.elapsedNs();
    vm.running = null;
    return done;
  }

  /**
   * A run of the engine, or what is left of it, as far as the debugger lets it go. However often that stops it, the end
   * is where the run would have ended: timers and interrupts come when they would have come.
   */
  #runRest(): void {
    const { core, engine, vm } = this;
    const limit = vm.debugger?.limit(this) ?? Number.POSITIVE_INFINITY;
    const before = core.instructions;
    assert(this.mmu.reload(), 'the shadow-page quota has room for one root');
    const reason = engine.run(core, Math.min(this.#rest, limit));
    const isStop = reason === EXIT.DEBUGGER;
    const left = Math.min(this.#rest - (core.instructions - before), engine.runEnd - core.instructions);
    this.#rest = isStop || reason === EXIT.BUDGET ? Math.max(0, left) : 0;
    if (isStop) vm.debugger!.reached(this);
    if (this.#rest > 0) return;
    vm.watcher?.left(this, isStop ? EXIT.BUDGET : reason);
    if (!isStop && reason !== EXIT.BUDGET) this.handle(reason);
  }

  /** Someone outside has changed registers: what was decided for the run under way is to be decided anew. */
  interfere(): void {
    this.#rest = 0;
  }

  /** Delivers what is pending. False: something changed, begin again. */
  #deliverEvents(): boolean {
    const { state, vm, core } = this;
    const { nested } = this;
    if (nested?.beforeEvents()) return false;
    if (this.switchesTask) return true;
    const { intercepts } = core;
    if (this.pendingEvent !== 0) {
      const event = this.pendingEvent;
      this.pendingEvent = 0;
      // The single-step trap behind a HLT ends it
      if (this.activity === 'halted') this.activity = 'running';
      if (this.pendingIsNew) this.#loadPayload(event & 0xff);
      // What follows an injection, L1's controls decide again
      return this.#inject(event, this.pendingError, this.pendingLength) && !nested?.guestMode;
    }
    const shadow = this.shadow();
    if (this.nmiPending) {
      if (shadow === 0 && state.u32(S.NMI_BLOCKED) === 0) {
        this.nmiPending = false;
        this.activity = 'running';
        return this.#inject(EVENT.VALID | EVENT.NMI | 2, 0, 0);
      }
      intercepts.nmiWindow = true;
    } else intercepts.nmiWindow = nested?.wantsNmiWindow ?? false;
    if (vm.irq.hasInterrupt(this.index)) {
      if (shadow === 0 && (state.u32(S.RFLAGS) & RFLAGS.IF) !== 0) {
        const vector = vm.irq.acknowledge(this.index);
        if (vector >= 0) {
          this.activity = 'running';
          return this.#inject((EVENT.VALID | EVENT.EXTERNAL | vector) >>> 0, 0, 0);
        }
      }
      intercepts.interruptWindow = true;
    } else {
      intercepts.interruptWindow = nested?.wantsInterruptWindow ?? false;
      this.woken = false;
    }
    return true;
  }

  /** ALLOW bits of the next injection: its descriptor table or stack is where L0 has found a device. */
  #injectionAllows = 0;

  #inject(information: number, error: number, length: number): boolean {
    assert(this.mmu.reload(), 'the shadow-page quota has room for one root');
    this.state.setU32(S.ALLOW, this.#injectionAllows);
    this.#injectionAllows = 0;
    const reason = this.engine.inject(this.core, information >>> 0, error, length);
    this.state.setU32(S.ALLOW, 0);
    this.deliveries += 1;
    // As for a fault that the engine delivers itself: a handler that faults at once must not stop the clock
    if ((information & 0x700) === EVENT.EXCEPTION) this.stallNs += 1;
    if (reason === EXIT.BUDGET) return true;
    this.stallNs += 1;
    this.handle(reason);
    return false;
  }

  /** Interrupts held off by STI (1) or MOV SS (2), or 0. */
  shadow(): number {
    const { state } = this;
    const kind = state.u32(S.SHADOW_KIND);
    if (kind === 0) return 0;
    if (state.number(S.SHADOW_AT) === this.core.instructions) return kind;
    state.setU32(S.SHADOW_KIND, 0);
    return 0;
  }

  /** Raises an exception in the running level at the current instruction. */
  raise(vector: number, error = 0, withError = true): void {
    this.pendingEvent =
      (EVENT.VALID | EVENT.EXCEPTION | vector | (withError && HAS_ERROR.has(vector) ? EVENT.ERROR : 0)) >>> 0;
    this.pendingError = error;
    this.pendingLength = 0;
    this.pendingIsNew = true;
    this.pendingPayloadLo = 0;
    this.pendingPayloadHi = 0;
    this.overtakenEvent = 0;
  }

  /**
   * A page fault that L0 found in the guest's tables. On the way to another exception's handler the two are one, as the
   * engine does where no exit comes between: SDM 3A 6.15 "Interrupt 8—Double Fault Exception (#DF)", Table 6-5.
   */
  raisePageFault(error: number, linearLo: number, linearHi: number): void {
    const task = this.state.u32(S.TASK);
    this.state.setU32(S.TASK, 0);
    let first = this.pendingIsNew ? 0 : this.pendingEvent;
    // It has come through a task gate, and the new task's segments cannot be loaded
    if (task & TASK.BY_EVENT) first = (EVENT.VALID | (task & TASK.EVENT)) >>> 0;
    const { pendingError, pendingLength } = this;
    const onTheWay = first !== 0 && (first & 0x700) === EVENT.EXCEPTION;
    // If L1 takes page faults, it learns of both by itself
    const takenByL1 = this.nested?.guestMode === true && (this.core.intercepts.exceptions & (1 << 14)) !== 0;
    if (onTheWay && !takenByL1) {
      const becomes = secondException(first & 0xff, 14);
      if (becomes === 2) {
        const { state } = this;
        this.pendingEvent = 0;
        state.setU32(X.VECTORING, 0);
        state.setU32(X.LENGTH, 0);
        state.setU64(X.QUALIFICATION, 0, 0);
        this.handle(EXIT.TRIPLE_FAULT);
        return;
      }
      if (becomes === 1) {
        this.raise(8);
        return;
      }
    }
    this.raise(14, error);
    this.pendingPayloadLo = linearLo;
    this.pendingPayloadHi = linearHi;
    this.overtakenEvent = first;
    this.overtakenError = pendingError;
    this.overtakenLength = pendingLength;
  }

  /** @param dr6  Bits of DR6 that say why. */
  raiseDebug(dr6: number): void {
    this.raise(1, 0, false);
    this.pendingPayloadLo = dr6;
  }

  /** Raises the fault that a helper of the engine has recorded: S.FAULT_*. */
  raiseFault(): void {
    const { state } = this;
    const vector = state.u32(S.FAULT_VECTOR);
    if (vector === 14) {
      this.raisePageFault(state.u32(S.FAULT_ERROR), state.u32(S.FAULT_ADDRESS), state.high(S.FAULT_ADDRESS));
    } else this.raise(vector, state.u32(S.FAULT_ERROR));
  }

  /** CR2 of #PF, DR6 of #DB: set when the exception is delivered, not when it is an exit. SDM 3C 27.1. */
  #loadPayload(vector: number): void {
    const { state } = this;
    if (vector === 14) state.setU64(S.CR2, this.pendingPayloadLo, this.pendingPayloadHi);
    else if (vector === 1) {
      const dr6 = S.DR + 48;
      state.setU32(dr6, ((state.u32(dr6) & ~0xf) | this.pendingPayloadLo) >>> 0);
      const dr7 = S.DR + 56;
      state.setU32(dr7, state.u32(dr7) & ~DR7.GD);
    }
  }

  /** L0 has carried out the instruction that left, wherever it leads. */
  retire(): void {
    this.state.setU32(S.SHADOW_KIND, 0);
    this.core.instructions += 1;
  }

  /** Goes on behind the instruction that left. */
  skip(): void {
    const { state } = this;
    const low = state.u32(S.RIP) + state.u32(X.LENGTH);
    const long = (state.u32(S.EFER) & EFER.LMA) !== 0 && (state.access(SEG.CS) & 0x2000) !== 0;
    if (long) state.setU64(S.RIP, low, state.high(S.RIP) + (low >= 0x1_0000_0000 ? 1 : 0));
    else state.setU64(S.RIP, state.access(SEG.CS) & 0x4000 ? low >>> 0 : low & 0xffff, 0);
    this.retire();
    // The trap flag counts instructions that L0 carried out too
    if (state.u32(S.RFLAGS) & RFLAGS.TF) this.raiseDebug(DR6.BS);
  }

  // ---- exits ---------------------------------------------------------------------------------------------------------

  handle(reason: number): void {
    const { state, vm } = this;
    this.exits[reason] = this.exits[reason]! + 1;
    vm.log?.exit?.(this, reason);
    const vectoring = state.u32(X.VECTORING);
    if (this.nested?.exit(reason)) return;
    if (vectoring & EVENT.VALID && reason !== EXIT.TRIPLE_FAULT && reason !== EXIT.TASK_SWITCH) {
      this.pendingEvent = vectoring;
      this.pendingError = state.u32(X.VECTORING_ERROR);
      this.pendingLength = state.u32(X.LENGTH);
      this.pendingIsNew = false;
    }
    switch (reason) {
      case EXIT.EPT_VIOLATION:
      case EXIT.EPT_MISCONFIG:
        this.#physicalFault(reason === EXIT.EPT_MISCONFIG);
        return;
      case EXIT.SHADOW_FAULT:
        this.#shadowFault();
        return;
      case EXIT.IO:
        this.step(ALLOW.PORT);
        return;
      case EXIT.CPUID:
        this.#cpuid();
        return;
      case EXIT.RDMSR:
        if (!this.msrs.read(state.gprLow(1))) {
          vm.unknownMsr(this, state.gprLow(1), false);
          this.raise(13, 0);
          return;
        }
        state.setGpr(0, this.msrs.lo, 0);
        state.setGpr(2, this.msrs.hi, 0);
        this.skip();
        return;
      case EXIT.WRMSR: {
        const old = state.u32(S.EFER);
        if (!this.msrs.write(state.gprLow(1), state.gprLow(0), state.gprLow(2))) {
          vm.unknownMsr(this, state.gprLow(1), true);
          this.raise(13, 0);
          return;
        }
        if (state.u32(S.EFER) !== old) this.mmu.eferWritten(old);
        this.skip();
        return;
      }
      case EXIT.HLT:
        this.skip();
        this.activity = 'halted';
        this.woken = true;
        return;
      case EXIT.FERR:
        // RIP stays: SDM 1 8.7.2, "the processor freezes just before executing the next floating-point instruction"
        vm.irq.coprocessor.error();
        state.setU32(S.SHADOW_KIND, 0); // an STI before it: the processor waits for an interrupt, and would for ever
        this.activity = 'halted';
        this.woken = true;
        return;
      case EXIT.CR_ACCESS:
        crAccess(this);
        return;
      case EXIT.TASK_CR3:
        taskLoadsCr3(this);
        return;
      case EXIT.INVLPG:
        this.mmu.invlpg(state.u32(X.QUALIFICATION), state.high(X.QUALIFICATION));
        this.skip();
        return;
      case EXIT.INVPCID:
        // Single-address and single-context forms only drop more here than they must
        this.step(ALLOW.INTERCEPT);
        this.mmu.requests |= REQUEST.FLUSH_GUEST;
        return;
      case EXIT.XSETBV:
        if (!this.policy.xcr0IsLegal(state.gprLow(0), state.gprLow(2)) || state.gprLow(1) !== 0) this.raise(13, 0);
        else {
          state.setU32(S.XCR0, state.gprLow(0));
          this.skip();
        }
        return;
      case EXIT.WBINVD:
      case EXIT.INVD:
      case EXIT.PAUSE:
        this.skip();
        return;
      case EXIT.RDRAND:
      case EXIT.RDSEED:
        vm.random(this, reason === EXIT.RDSEED);
        return;
      case EXIT.TRIPLE_FAULT:
        vm.tripleFault(this);
        return;
      case EXIT.VMCALL:
      case EXIT.VMMCALL:
        hypercall(this);
        return;
      case EXIT.MONITOR:
      case EXIT.MWAIT:
      case EXIT.RDPMC:
        this.raise(6, 0, false);
        return;
      case EXIT.BUDGET:
      case EXIT.STEPPED:
        return;
      default:
        // Virtualization instructions that the nested layer did not take
        this.raise(6, 0, false);
    }
  }

  /** RDMSR without leaving: nothing but the value comes of it. */
  readsMsr(index: number): boolean {
    if (!VcpuMsrs.readIsPlain(index) || this.nested?.leavesForMsr(index, false)) return false;
    return this.msrs.read(index);
  }

  writesMsr(index: number, lo: number, hi: number): boolean {
    if (!VcpuMsrs.writeIsPlain(index) || this.nested?.leavesForMsr(index, true)) return false;
    return this.msrs.write(index, lo, hi);
  }

  /** Runs the instruction that left, with what it may now do; handles what comes of it. */
  step(allow: number): void {
    // It may leave again for another reason: INS from a port to a device's page
    const before = this.#allowed;
    this.#allowed |= allow;
    assert(this.mmu.reload(), 'the shadow-page quota has room for one root');
    const reason = this.engine.step(this.core, this.#allowed);
    if (reason !== EXIT.BUDGET) this.handle(reason);
    this.#allowed = before;
  }

  #physicalFault(mmio: boolean): void {
    const { state } = this;
    const v = this.#violation;
    v.gpa = state.number(X.PHYSICAL);
    v.qualification = state.u32(X.QUALIFICATION);
    v.linearLo = state.u32(X.LINEAR);
    v.linearHi = state.high(X.LINEAR);
    v.mmio = mmio;
    v.access = accessOf(state.u32(X.ACCESS));
    const result = this.mmu.handleEptViolation(v);
    this.vm.log?.pageFault?.(this, v.access, result);
    if (result === 'mmio') this.#allowDevice();
    else assert(result !== 'no-pages', 'the shadow-page quota has room for one fault');
  }

  /** What left for a device happens again and may reach it: the event under delivery, or else the instruction. */
  #allowDevice(): void {
    const { mmio } = this.mmu;
    if (this.nested?.deviceExit(mmio.gpa, mmio.write)) return;
    const allow = mmio.table ? ALLOW.MMIO | ALLOW.ROM_TABLE : ALLOW.MMIO;
    if (this.pendingEvent !== 0) this.#injectionAllows = allow;
    else {
      this.step(allow);
      this.nested?.deviceDone();
    }
  }

  #shadowFault(): void {
    const { state } = this;
    const access = accessOf(state.u32(X.QUALIFICATION));
    const result = this.mmu.handlePageFault(state.u32(X.LINEAR), state.high(X.LINEAR), access);
    this.vm.log?.pageFault?.(this, access, result);
    if (result === 'mmio') this.#allowDevice();
    else assert(result !== 'no-pages', 'the shadow-page quota has room for one fault');
  }

  #cpuid(): void {
    const { state, policy } = this;
    policy.setLive(state.u32(S.CR4), state.u32(S.XCR0), state.u32(S.XSS), this.apic.isEnabled);
    const row = 4 * policy.find(state.gprLow(0), state.gprLow(1));
    state.setGpr(0, policy.values[row]!, 0);
    state.setGpr(3, policy.values[row + 1]!, 0);
    state.setGpr(1, policy.values[row + 2]!, 0);
    state.setGpr(2, policy.values[row + 3]!, 0);
    this.skip();
  }

  /** After each change of level, CR0 or CR4 that does not come by an instruction of the guest. */
  shadowIntercepts(): void {
    shadowIntercepts(this);
  }

  /** General register cells, for nested code that names registers by number. */
  static readonly register = gpr;
}

/** The engine's ACCESS bits as the MMU has them. */
const accessOf = (access: number): number =>
  (access & (ACCESS.WRITE | ACCESS.USER | ACCESS.FETCH)) | (access & ACCESS.IMPLICIT ? PFEC.IMPLICIT : 0);

/** Longest stretch without looking at anything: V8 has no on-stack replacement (wasm-engine.md A). */
const MAX_SLICE = 1_000_000;
const HAS_ERROR: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21]);
