import { DR6, RFLAGS } from '../arch/registers.ts';
import { assert } from '../base/assert.ts';
import { BORN_DOUBLE } from '../base/bits.ts';
import type { SecondStageRoot, SecondStageTables } from '../contracts/second-stage.ts';
import type { FunctionBuilder, ModuleBuilder } from '../wasm/module.ts';
import { linear } from './core/address.ts';
import { CpuState, type EngineHost, type EngineVcpu, noIntercepts } from './core/cpu.ts';
import { debugAfter, debugArmed, debugBefore, watchData } from './core/debug.ts';
import { deliverFault, injectEvent, resumeTaskSwitch } from './core/events.ts';
import { EXIT, X } from './core/exits.ts';
import { SHADOW, shadowAt } from './core/flags.ts';
import { HELPERS } from './core/helpers.ts';
import {
  AUX,
  JUMP_CACHE,
  PROBE_ACCESS,
  REC,
  S,
  SCRATCH,
  SEG,
  STACK_ACCESS,
  STATE,
  STATE_BYTES,
  STATUS,
  segment,
  UNALIGNED_ACCESS,
} from './core/layout.ts';
import { EngineMemory, type MemoryPlan } from './core/memory.ts';
import { Processor, type ProcessorFeatures } from './core/processor.ts';
import { turnFunction } from './core/turn.ts';
import { Decoder, PSEUDO, type QuickDecode, TURN_SLOT, type Variant } from './decode/decoder.ts';
import { FormTable } from './decode/forms.ts';
import { defineFloatLibrary } from './float/index.ts';
import { INSTRUCTIONS } from './isa/index.ts';
import { ACCESS, TRANSLATE } from './paging/access.ts';
import { Watchpoints } from './paging/watchpoints.ts';
import { Breakpoints } from './tiers/breakpoints.ts';
import { CodeCache } from './tiers/code-cache.ts';
import { COMPILER_DEFAULTS, Compiler } from './tiers/compiler/compiler.ts';
import { type Fusion, RUN_BUDGET } from './tiers/core-module.ts';
import { FUSED, FUSED_JCC, HOT } from './tiers/hot.ts';
import { Interpreter } from './tiers/interpreter.ts';
import { Lockstep } from './tiers/lockstep/lockstep.ts';
import type { StringKernels } from './tiers/string-kernels.ts';
import { WARM } from './tiers/warm.ts';

/** No second stage: what a vCPU has before L0 loads a root. */
const NO_ROOT: SecondStageRoot = {
  table: 0,
  id: 0,
  levels: 4,
  accessedDirty: false,
  mbec: false,
  linear: false,
};

/**
 * The processor, for L0: `run` a vCPU until something leaves, `step` one instruction that L0 has decided about, load
 * roots and tags, drop TLB entries.
 *
 * Owns    the linear memory, the run loop around the generated code, precise state at every exit.
 * Knows   nothing of VMX, SVM, devices or time.
 */
export class Engine {
  readonly memory: EngineMemory;
  readonly processor: Processor;
  readonly code: CodeCache;
  readonly forms: FormTable;
  readonly interpreter: Interpreter;
  readonly compiler: Compiler | undefined;
  readonly lockstep: Lockstep | undefined;
  #current: EngineVcpu | undefined;
  #commitLow = 0;
  #commitHigh = 0;
  #commitBytes = 0;
  #stopRequested = false;
  #debug: EngineDebug | undefined;
  /** An instruction runs by itself, for L0's debugger. */
  #alone = false;
  /** Instructions retired when the run is to end, if something in it has said so; it may be behind the budget's end. */
  #cut = Number.POSITIVE_INFINITY;

  constructor(
    plan: MemoryPlan,
    features: ProcessorFeatures,
    host: EngineHost,
    library: (m: ModuleBuilder) => Record<string, FunctionBuilder> = defineFloatLibrary,
  ) {
    this.memory = new EngineMemory(plan);
    this.code = new CodeCache(this.memory);
    this.processor = new Processor(this.memory, host, features, this.code);
    this.code.tlb = this.processor.tlb;
    this.forms = new FormTable(INSTRUCTIONS, features.has);
    const cpu = this.processor;
    const compiles = (plan.accel ?? 'interpreter') !== 'interpreter';
    const threshold = plan.jitThreshold ?? COMPILER_DEFAULTS.threshold;
    this.interpreter = new Interpreter(
      this.memory,
      {
        load: (access) => {
          const { aligning } = cpu;
          if (access & UNALIGNED_ACCESS) cpu.aligning = false;
          const done = cpu.read(cpu.get(S.EA), cpu.get(S.EA + 4), access & 0xff);
          cpu.aligning = aligning;
          if (!done) {
            if (access & STACK_ACCESS) cpu.outsideStack();
            return cpu.accessStatus;
          }
          cpu.set64(S.VALUE, cpu.low, cpu.high);
          return STATUS.NEXT;
        },
        store: (access) => {
          const { aligning } = cpu;
          if (access & UNALIGNED_ACCESS) cpu.aligning = false;
          const bytes = access & 0xff;
          const done = cpu.write(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, cpu.get(S.VALUE), cpu.get(S.VALUE + 4));
          cpu.aligning = aligning;
          if (done) return STATUS.NEXT;
          if (access & STACK_ACCESS) cpu.outsideStack();
          return cpu.accessStatus;
        },
        modify: (access) => {
          const bytes = access & 0xff;
          return access & PROBE_ACCESS ? this.#probe(bytes) : this.#modify(bytes);
        },
        commit: () => this.#commit(),
        loadWide: (bytes) =>
          cpu.copyFrom(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, this.#wide) ? STATUS.NEXT : cpu.accessStatus,
        storeWide: (bytes) =>
          cpu.copyTo(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, this.#wide) ? STATUS.NEXT : cpu.accessStatus,
        helper: (number, record) => {
          const status = HELPERS[number]!(cpu, record);
          const { intercepts } = cpu.vcpu;
          if (intercepts.interruptWindow || intercepts.nmiWindow) this.#checkWindows(status, record);
          // Something was armed: the rest of this run is for #runStepping
          if (status === STATUS.JUMP && debugArmed(cpu)) this.#shorten(0);
          return status;
        },
        linear: (record, access) => linear(cpu, record, access),
        lookup: () => this.#lookup(),
        stepTo: (record) => this.#stepTo(record),
        // A WebAssembly number has a sign here
        decode: (record, host, mode) => this.code.decode(record, host >>> 0, mode),
        cross: (record) => this.#cross(record),
        hot: (record) => {
          if (this.lockstep?.replaying) this.memory.i32[(record + REC.HEAT) >>> 2] = threshold - 1;
          else this.compiler?.hot(record);
        },
        redo: (record) => this.code.redo(record),
      },
      variantsOf(this.forms, HOT),
      fusionsOf(this.forms),
      variantsOf(this.forms, WARM),
      library,
      compiles ? threshold : 0,
      plan.accel === 'lockstep' ? undefined : plan.jitModules,
    );
    this.code.fusions = this.interpreter;
    cpu.strings = this.interpreter.exports as unknown as StringKernels;
    if (compiles) {
      this.compiler = new Compiler(this.memory, this.interpreter, this.code, {
        threshold,
        batch: plan.jitBatch ?? COMPILER_DEFAULTS.batch,
        bytesMax: plan.jitBytes ?? COMPILER_DEFAULTS.bytesMax,
      });
      this.code.regions = this.compiler;
      const notes = plan.accel === 'lockstep' ? undefined : plan.jitModules?.pages;
      if (notes) {
        this.code.noting = this.compiler.noting(notes);
        notes.beforeKeeping(() => this.code.tell());
      }
    }
    if (this.compiler && plan.accel === 'lockstep') {
      const lockstep = new Lockstep(cpu, this.code, this.interpreter, { from: plan.lockstepFrom ?? 0 });
      this.compiler.guard = (slot, f) => lockstep.guard(slot, f);
      this.compiler.mayCall = false;
      this.lockstep = lockstep;
    }
    this.#wide = this.memory.u8.subarray(S.WIDE, S.WIDE + 64);
    this.code.decoder = new Decoder(
      this.memory,
      this.forms,
      (variant) => this.interpreter.handler(variant),
      features.vendor,
      this.interpreter.exports as unknown as QuickDecode,
    );
  }

  readonly #wide: Uint8Array;

  // ---- vCPUs --------------------------------------------------------------------------------------------------------

  createVcpu(index: number): EngineVcpu {
    const vcpu: EngineVcpu = {
      index,
      state: new CpuState(this.memory, index),
      intercepts: noIntercepts(),
      root: { ...NO_ROOT },
      vpid: 0,
      context: -1,
      instructions: BORN_DOUBLE,
      slice: 0,
    };
    vcpu.instructions = 0;
    return vcpu;
  }

  /** Makes `vcpu` the one whose state is at STATE. */
  activate(vcpu: EngineVcpu): void {
    if (this.#current === vcpu) return;
    const { u8 } = this.memory;
    const old = this.#current;
    if (old) {
      u8.copyWithin(old.state.home, STATE, STATE + STATE_BYTES);
      old.state.delta = old.state.home - STATE;
    }
    u8.copyWithin(STATE, vcpu.state.home, vcpu.state.home + STATE_BYTES);
    vcpu.state.delta = 0;
    this.#current = vcpu;
    this.processor.vcpu = vcpu;
    vcpu.context = -1;
    this.#settle(vcpu);
  }

  // ---- L0's debugger --------------------------------------------------------------------------------------------------

  /** Breakpoints and watchpoints, from now on until `detachDebugger`. */
  attachDebugger(): EngineDebug {
    if (this.#debug) return this.#debug;
    const cpu = this.processor;
    const breakpoints = new Breakpoints(cpu, this.code, this.interpreter);
    this.#debug = { breakpoints, watchpoints: new Watchpoints(cpu.tlb) };
    this.code.watcher = breakpoints;
    cpu.walker.watchpoints = this.#debug.watchpoints;
    return this.#debug;
  }

  /** With none of either left. */
  detachDebugger(): void {
    if (!this.#debug) return;
    assert(!this.#debug.watchpoints.any, 'a debugger takes its watchpoints away');
    this.#debug.breakpoints.set([]);
    this.#debug.breakpoints.settle();
    this.code.watcher = undefined;
    this.processor.walker.watchpoints = undefined;
    this.#debug = undefined;
    // Generated code may walk tables again
    if (this.#current) this.#current.state.touched = true;
  }

  /** Instructions retired when the last run was to end although its budget might reach farther; Infinity: it was not. */
  get runEnd(): number {
    return this.#cut;
  }

  // ---- running ------------------------------------------------------------------------------------------------------

  /**
   * Runs `vcpu` for at most `budget` instructions.
   *
   * A task switch that has left in the middle is ended first, and then it comes back.
   *
   * @returns  EXIT.*: why it came back; details in the exit record (core/exits.ts). RIP is the next instruction to run,
   *           or the instruction that left.
   */
  run(vcpu: EngineVcpu, budget: number): number {
    this.activate(vcpu);
    const cpu = this.processor;
    this.#settle(vcpu);
    this.#cut = Number.POSITIVE_INFINITY;
    if (cpu.get(S.TASK) !== 0) return resumeTaskSwitch(cpu) === STATUS.JUMP ? EXIT.BUDGET : cpu.get(X.REASON);
    cpu.goTo(cpu.get(S.RIP), cpu.get(S.RIP + 4));
    cpu.setSlice(budget);
    cpu.beginRun();
    this.memory.i32[S.BUDGET >>> 2] = budget;
    this.#stopRequested = false;
    this.#debug?.breakpoints.settle();
    if (this.compiler?.due) this.compiler.compile();
    if (cpu.walker.watching) watchData(cpu);
    const isStepping = debugArmed(cpu);
    // Where someone looks after each instruction, or L0 has decided about this one, none is offered to it once more
    if (isStepping || this.#debug || cpu.get(S.ALLOW) !== 0) cpu.set(S.TURNS, 0);
    const reason = isStepping ? this.#runStepping() : this.#run();
    vcpu.instructions += vcpu.slice - this.memory.i32[S.BUDGET >>> 2]!;
    vcpu.slice = 0;
    this.memory.i32[S.BUDGET >>> 2] = 0;
    return reason === EXIT.BUDGET && this.#debug?.watchpoints.hit ? EXIT.DEBUGGER : reason;
  }

  /** Brings up to date what depends on registers that L0 has written, and on the names of root and tag. */
  #settle(vcpu: EngineVcpu): void {
    const { state } = vcpu;
    if (vcpu.context < 0) this.processor.contextChanged();
    // Between two runs a debugger may have set a watchpoint: generated code then may not walk tables by itself
    else if (state.touched || this.#debug) this.processor.modeChanged();
    state.touched = false;
  }

  /** Runs the one instruction at RIP with what L0 allows it (ALLOW bits). EXIT.BUDGET if it is done. */
  step(vcpu: EngineVcpu, allow: number): number {
    this.activate(vcpu);
    this.processor.set(S.ALLOW, allow);
    // It has left L0's debugger behind already
    this.#debug?.breakpoints.pass(vcpu);
    const reason = this.run(vcpu, 1);
    this.processor.set(S.ALLOW, 0);
    return reason === EXIT.DEBUGGER ? EXIT.BUDGET : reason;
  }

  /** Delivers an event through the guest's IDT. EXIT.BUDGET if it is delivered, else the EXIT that came of it. */
  inject(vcpu: EngineVcpu, information: number, error: number, length: number): number {
    this.activate(vcpu);
    const cpu = this.processor;
    this.#settle(vcpu);
    return injectEvent(cpu, information, error, length) === STATUS.JUMP ? EXIT.BUDGET : cpu.get(X.REASON);
  }

  /** Makes `run` come back after the instruction under way. For callbacks from inside it. */
  requestStop(): void {
    this.#stopRequested = true;
    this.processor.set(S.TURNS, 0);
    this.#shorten(0);
  }

  /** At most `count` more instructions in this run. */
  #shorten(count: number): void {
    const { i32 } = this.memory;
    const budget = i32[S.BUDGET >>> 2]!;
    const { vcpu } = this.processor;
    this.#cut = Math.min(this.#cut, vcpu.instructions + vcpu.slice - (budget - count));
    if (budget <= count) return;
    this.processor.setSlice(this.processor.vcpu.slice - (budget - count));
    i32[S.BUDGET >>> 2] = count;
  }

  /** The generated code and what it leaves for, until L0 has to know; its debugger is served on the way. */
  #run(): number {
    for (;;) {
      const reason = this.#loop();
      if (reason !== EXIT.DEBUGGER && reason !== EXIT.WATCHED) return reason;
      const { breakpoints, watchpoints } = this.#debug!;
      const record = reason === EXIT.DEBUGGER ? this.processor.get(S.EXIT_RECORD) : 0;
      if (record !== 0 && breakpoints.stops(record)) return reason;
      const after = this.#runAlone(record);
      if (after !== EXIT.BUDGET || watchpoints.hit || this.memory.i32[S.BUDGET >>> 2]! <= 0) return after;
    }
  }

  /**
   * Runs the one instruction at RIP, whatever L0's debugger has set for it, and notes its accesses.
   *
   * @param record  Its record if that has a breakpoint, else 0.
   */
  #runAlone(record: number): number {
    const cpu = this.processor;
    const { i32, u32 } = this.memory;
    const { vcpu } = cpu;
    const end = vcpu.instructions + vcpu.slice;
    const before = end - i32[S.BUDGET >>> 2]!;
    cpu.setSlice(before + 1 - vcpu.instructions);
    i32[S.BUDGET >>> 2] = 1;
    cpu.goTo(cpu.get(S.RIP), cpu.get(S.RIP + 4));
    const slot = this.#jumpSlot(cpu.get(S.NEXT_LINEAR), cpu.get(S.NEXT_LINEAR + 4)) >>> 2;
    const saved = u32.slice(slot, slot + JUMP_CACHE.ENTRY_BYTES / 4);
    if (record !== 0) {
      const copy = this.code.aloneRecord(record, this.#debug!.breakpoints.original(record));
      this.#cacheJump(cpu.get(S.NEXT_LINEAR), cpu.get(S.NEXT_LINEAR + 4), copy);
    }
    this.#alone = true;
    const reason = this.#loop();
    this.#alone = false;
    if (record !== 0) u32.set(saved, slot);
    const now = vcpu.instructions + vcpu.slice - i32[S.BUDGET >>> 2]!;
    // It has left before it was done
    if (now === before) this.#debug!.watchpoints.hit = null;
    const last = Math.max(now, Math.min(end, this.#cut));
    cpu.setSlice(last - vcpu.instructions);
    i32[S.BUDGET >>> 2] = last - now;
    return reason;
  }

  /** The generated code alone. Where data are watched it leaves for each access to a page of theirs. */
  #interpret(): number {
    const watchpoints = this.#debug?.watchpoints;
    if (!watchpoints?.any) return this.interpreter.run();
    watchpoints.trapping = !this.#alone;
    const status = this.interpreter.run();
    watchpoints.trapping = false;
    // An instruction that faults has accessed nothing
    if (status === STATUS.FAULT) watchpoints.hit = null;
    return status;
  }

  #loop(): number {
    const cpu = this.processor;
    const { i32, u16 } = this.memory;
    for (;;) {
      const status = this.#interpret();
      const record = cpu.get(S.EXIT_RECORD);
      if (status === RUN_BUDGET) {
        if (record !== 0) {
          cpu.ripOf(record);
          cpu.goTo(cpu.low, cpu.high);
        }
        // Only the lookup's end is a run of nothing: let the caller see what it asked for
        return EXIT.BUDGET;
      }
      if (record !== 0) {
        const refund = u16[(record + REC.REMAINING) >>> 1]! - (status === STATUS.EXIT ? 1 : 0);
        i32[S.BUDGET >>> 2] = i32[S.BUDGET >>> 2]! + refund;
        if (status !== STATUS.EXIT) {
          cpu.ripOf(record);
          cpu.set64(S.RIP, cpu.low, cpu.high);
        }
      }
      if (status !== STATUS.FAULT) return cpu.get(X.REASON);
      if (cpu.outside) {
        if (record !== 0 && (cpu.aux(record) & AUX_SEGMENT) === SEG.SS) cpu.outsideStack();
        cpu.outside = false;
      }
      if (deliverFault(cpu) !== STATUS.JUMP) return cpu.get(X.REASON);
      // The T bit of a task that the fault has come to
      if (cpu.get(S.PENDING_DEBUG) & DR6.BT) this.#shorten(1);
      // Progress, even if every delivery faults again
      i32[S.BUDGET >>> 2] = i32[S.BUDGET >>> 2]! - 1;
      if (i32[S.BUDGET >>> 2]! <= 0 || this.#debug?.watchpoints.hit) return EXIT.BUDGET;
    }
  }

  /** The trap flag or a breakpoint is armed: one instruction at a time, with the debug checks around it. */
  #runStepping(): number {
    const cpu = this.processor;
    const { i32 } = this.memory;
    const { vcpu } = cpu;
    let left = vcpu.slice;
    let reason: number = EXIT.BUDGET;
    while (left > 0) {
      const before = debugBefore(cpu);
      if (before !== STATUS.NEXT) {
        if (before !== STATUS.JUMP) {
          reason = cpu.get(X.REASON);
          break;
        }
        left -= 1;
        vcpu.instructions += 1;
        if (this.#debug?.watchpoints.hit) break;
        continue;
      }
      const trap = (cpu.get(S.RFLAGS) & RFLAGS.TF) !== 0;
      cpu.setSlice(1);
      i32[S.BUDGET >>> 2] = 1;
      cpu.goTo(cpu.get(S.RIP), cpu.get(S.RIP + 4));
      reason = this.#run();
      const ran = vcpu.slice - i32[S.BUDGET >>> 2]!;
      left -= Math.max(ran, 1);
      vcpu.instructions += ran;
      i32[S.BUDGET >>> 2] = 0;
      vcpu.slice = 0;
      if (reason !== EXIT.BUDGET) break;
      const after = debugAfter(cpu, trap);
      if (after !== STATUS.NEXT && after !== STATUS.JUMP) {
        reason = cpu.get(X.REASON);
        break;
      }
      if (this.#debug?.watchpoints.hit) break;
      if (this.#stopRequested || !debugArmed(cpu)) {
        this.#cut = Math.min(this.#cut, vcpu.instructions);
        break;
      }
    }
    vcpu.slice = 0;
    i32[S.BUDGET >>> 2] = 0;
    return reason;
  }

  /** L0 waits for a moment when it can deliver something: end the run there. */
  #checkWindows(status: number, record: number): void {
    if (status === STATUS.FAULT || status === STATUS.EXIT_BEFORE) return;
    const cpu = this.processor;
    const { intercepts } = cpu.vcpu;
    const open = intercepts.nmiWindow || (cpu.get(S.RFLAGS) & RFLAGS.IF) !== 0;
    if (!open) return;
    const remaining = this.memory.u16[(record + REC.REMAINING) >>> 1]!;
    if (remaining > 1) return; // cannot change what it depends on
    this.#shorten(shadowAt(cpu, cpu.instructionsAt(record) + 1) !== SHADOW.NONE ? 1 : 0);
  }

  // ---- imports of the generated code ----------------------------------------------------------------------------------

  #lookup(): number {
    const cpu = this.processor;
    const { u32 } = this.memory;
    const low = cpu.get(S.NEXT_LINEAR);
    const high = cpu.get(S.NEXT_LINEAR + 4);
    const { long } = cpu;
    cpu.set64(S.RIP_PAGE, (low & ~0xfff) >>> 0, high);
    const base = cpu.get(segment(SEG.CS) + SEG.BASE);
    const eip = (low - base) >>> 0;
    if (long) cpu.set64(S.RIP, low, high);
    else cpu.set64(S.RIP, eip, 0);
    const link = cpu.get(S.PENDING_LINK);
    cpu.set(S.PENDING_LINK, 0);
    if (!long && eip > cpu.get(segment(SEG.CS) + SEG.LIMIT)) {
      cpu.set(S.ACCESS_STATUS, cpu.fault(13, 0));
      return 0;
    }
    const user = cpu.cpl === 3;
    const host = cpu.translate(low, high, ACCESS.FETCH | (user ? ACCESS.USER : 0));
    if (host < 0) {
      if (host === TRANSLATE.MMIO) this.#fetchFromDevice();
      return 0;
    }
    const { flushes } = this.code.counters;
    const mode = cpu.get(S.MODE);
    const record = this.code.entry(host, mode);
    this.#debug?.breakpoints.entered(low, high, host >>> 12, mode);
    if (link !== 0 && flushes === this.code.counters.flushes) {
      u32[link >>> 2] = record;
      const owner = (link - REC.LINK) >>> 1;
      if (this.memory.u16[owner] === PSEUDO.STALE) this.memory.u16[owner] = PSEUDO.GOTO;
    }
    this.#cacheJump(low, high, record);
    cpu.tlb.touchJumps(cpu.vcpu.context, user, low);
    return record;
  }

  /** Address of the entry of the jump cache in force for a linear address. */
  #jumpSlot(low: number, high: number): number {
    return (
      this.processor.get(S.JUMP_CACHE) + ((foldLinear(low, high) & (JUMP_CACHE.ENTRIES - 1)) << JUMP_CACHE.ENTRY_SHIFT)
    );
  }

  #cacheJump(low: number, high: number, record: number): void {
    const { u32 } = this.memory;
    const slot = this.#jumpSlot(low, high) >>> 2;
    u32[slot] = low;
    u32[slot + 1] = high;
    u32[slot + 2] = record;
    u32[slot + 3] = this.processor.get(S.JUMP_TAG);
    u32[slot + (JUMP_CACHE.REGIONS >>> 2)] = 0;
  }

  /** DEVIATION: no device gives instructions. Where nothing is, a PC reads FF FF, which is #UD. */
  #fetchFromDevice(): void {
    this.processor.set(S.ACCESS_STATUS, this.processor.fault(6));
  }

  #stepTo(record: number): number {
    const { i32 } = this.memory;
    const count = i32[S.BUDGET >>> 2]!;
    if (count <= 0) return 0;
    i32[S.BUDGET >>> 2] = 0;
    return this.code.stepRecords(record, count);
  }

  #cross(record: number): number {
    const cpu = this.processor;
    const user = cpu.cpl === 3 ? ACCESS.USER : 0;
    const offset = this.memory.u16[(record + REC.OFFSET) >>> 1]!;
    const low = cpu.get(S.RIP_PAGE);
    const high = cpu.get(S.RIP_PAGE + 4);
    const host = cpu.translate(low + offset, high, ACCESS.FETCH | user);
    if (host === TRANSLATE.MMIO) this.#fetchFromDevice();
    if (host < 0) return cpu.accessStatus;
    const next = (low + 4096) >>> 0;
    const second = cpu.translate(next, next === 0 ? (high + 1) >>> 0 : high, ACCESS.FETCH | user);
    if (second === TRANSLATE.MMIO) this.#fetchFromDevice();
    if (second < 0) return cpu.accessStatus;
    this.code.cross(record, host, second, cpu.get(S.MODE));
    return STATUS.NEXT;
  }

  /** Not 0 if `bytes` at S.EA can be written, whatever their alignment. */
  #probe(bytes: number): number {
    const cpu = this.processor;
    const { aligning } = cpu;
    cpu.aligning = false;
    const writable = cpu.probeWrite(cpu.get(S.EA), cpu.get(S.EA + 4), bytes);
    cpu.aligning = aligning;
    return writable ? SCRATCH : 0;
  }

  #modify(bytes: number): number {
    const cpu = this.processor;
    const low = cpu.get(S.EA);
    const high = cpu.get(S.EA + 4);
    const access = cpu.dataAccess;
    if (cpu.aligning && cpu.misaligned(low, high, bytes, access)) return 0;
    if ((low & 0xfff) + bytes <= 4096) {
      const host = cpu.translate(low, high, access | ACCESS.WRITE);
      if (host === TRANSLATE.FAULT) return 0;
      if (host >= 0 && !cpu.walker.oddPage && !cpu.walker.watching) {
        cpu.walker.watchpoints?.note(low, high, bytes, false);
        cpu.walker.watchpoints?.note(low, high, bytes, true);
        return host;
      }
    } else if (!cpu.probeWrite(low, high, bytes, access)) return 0;
    // A device, a page with code, a tracked page, two pages: work on a copy
    this.#commitLow = low;
    this.#commitHigh = high;
    this.#commitBytes = bytes;
    if (bytes <= 8) {
      if (!cpu.read(low, high, bytes)) return 0;
      cpu.set64(SCRATCH, cpu.low, cpu.high);
    } else if (!cpu.copyFrom(low, high, bytes, this.memory.u8.subarray(SCRATCH, SCRATCH + 64))) return 0;
    return SCRATCH;
  }

  #commit(): void {
    const cpu = this.processor;
    const bytes = this.#commitBytes;
    if (bytes <= 8) cpu.write(this.#commitLow, this.#commitHigh, bytes, cpu.get(SCRATCH), cpu.get(SCRATCH + 4));
    else cpu.copyTo(this.#commitLow, this.#commitHigh, bytes, this.memory.u8.subarray(SCRATCH, SCRATCH + 64));
  }

  /** Puts L0's function behind TURN_SLOT. */
  installTurn(build: Parameters<typeof turnFunction>[2], ask: (what: number) => number): void {
    const { flags } = this.interpreter.exports;
    const functions = { flags, derive: this.processor.deriveMode, ask };
    this.interpreter.setHandler(TURN_SLOT, turnFunction(this.memory.memory, functions, build));
  }

  // ---- what L0 does with the TLB --------------------------------------------------------------------------------------

  set tables(tables: SecondStageTables) {
    this.processor.walker.secondStage.tables = tables;
  }

  /** Puts a root in force from the next `run` on. Nothing is flushed: TLB entries carry the root's id. */
  loadRoot(vcpu: EngineVcpu, root: SecondStageRoot): void {
    const r = vcpu.root;
    r.table = root.table;
    r.id = root.id;
    r.levels = root.levels;
    r.accessedDirty = root.accessedDirty;
    r.mbec = root.mbec;
    r.linear = root.linear;
    vcpu.context = -1;
  }

  setVpid(vcpu: EngineVcpu, vpid: number): void {
    vcpu.vpid = vpid;
    vcpu.context = -1;
  }
}

/** What L0's debugger sets. */
export interface EngineDebug {
  readonly breakpoints: Breakpoints;
  readonly watchpoints: Watchpoints;
}

const AUX_SEGMENT = 7 << AUX.SEGMENT_SHIFT;

/** Jump cache index hash: as in tiers/interpreter.ts. */
const foldLinear = (low: number, high: number): number => low ^ ((low >>> 12) | (high << 20));

/** The fusions of tiers/hot.ts: what they consist of has its place in the main switch. */
function fusionsOf(table: FormTable): Fusion[] {
  const hot = new Set(HOT);
  const find = (name: string): Variant | undefined => (hot.has(name) ? variantsOf(table, [name])[0] : undefined);
  const fusions: Fusion[] = [];
  for (const [name, codes] of Object.entries(FUSED_JCC)) {
    const first = find(name);
    if (first) for (const second of codes) fusions.push({ first, second });
  }
  for (const [name, other] of FUSED) {
    const first = find(name);
    const second = find(other);
    if (first && second) fusions.push({ first, second });
  }
  return fusions;
}

/** The variants with these names that the table has, in the names' order. */
function variantsOf(table: FormTable, names: readonly string[]): Variant[] {
  const variants: Variant[] = [];
  for (const name of names) {
    const [opcode, rest] = name.split('|');
    const form = table.named(opcode!);
    if (!form) continue;
    variants.push({
      form,
      size: Number.parseInt(rest!, 10),
      memory: rest!.endsWith('m'),
      mode: 'long',
      generalAddress: false,
    });
  }
  return variants;
}
