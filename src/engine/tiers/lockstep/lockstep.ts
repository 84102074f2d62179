import { assert } from '../../../base/assert.ts';
import { call, I32 } from '../../../wasm/expr.ts';
import { ModuleBuilder } from '../../../wasm/module.ts';
import { JUMP_CACHE, PLACE, POOL, REC, S, SEG, STATE, STATUS, segment, VMCS_CELLS } from '../../core/layout.ts';
import { LOCKSTEP, LOCKSTEP_PAGES } from '../../core/memory.ts';
import type { Processor } from '../../core/processor.ts';
import { REGION_SLOT } from '../../decode/decoder.ts';
import { MODE } from '../../decode/mode.ts';
import type { CodeCache } from '../code-cache.ts';
import { RUN_BUDGET } from '../core-module.ts';
import type { Interpreter } from '../interpreter.ts';
import { Journal } from './journal.ts';
import { type LockstepKernel, lockstepKernel, STATE_USED } from './kernel.ts';
import { reportDifference } from './report.ts';

/**
 * Most instructions of a region's call: each writes two pages at most, and there are images for so many. A long loop goes
 * back to its region.
 */
const CALL_MAX = LOCKSTEP_PAGES / 2;
/** Room in the code cache for what a second run may decode besides what the first one ran: a run behind its last jump. */
const ROOM_RECORDS = 1024;

/**
 * Words of the state that two tiers may leave different: [first, bytes, why].
 */
const OWN_WAYS: readonly (readonly [first: number, bytes: number, why: string])[] = [
  [S.RIP, 8, 'exact only outside generated code: compared as computed from the record'],
  [S.RIP_PAGE, 8, 'the page last entered: the interpreter looks up where a jump goes before it stops there'],
  [S.NEXT_LINEAR, 8, 'written by jumps and look-ups as they go'],
  [S.CC_KIND, 24, 'lazy flags: compared as the flags they stand for'],
  [S.BUDGET, 4, 'the second run gets exactly what the first one used'],
  [S.RETIRED_AT_END, 8, 'goes with the budget'],
  [S.PENDING_LINK, 4, 'of the last look-up'],
  [S.EA, 16, 'handed to and from helpers'],
  [S.ACCESS_STATUS, 8, 'of the last slow access, and COMMIT'],
  [S.FAULT_VECTOR, 16, 'means something after STATUS.FAULT only, and is compared then'],
  [S.EXIT, 0x50, 'means something after STATUS.EXIT_BEFORE only, and is compared then'],
  [S.WIDE, 64, 'scratch'],
  [S.FLOAT_SCRATCH, S.NMI_BLOCKED - S.FLOAT_SCRATCH, 'scratch'],
];

/** Words of the exit record that are compared: all but RECORD, which is an address of this run. */
const EXIT_WORDS = [0, 4, 8, 12, 16, 20, 24, 28] as const;

export interface LockstepOptions {
  /** Instructions of a vCPU before which regions run alone. */
  readonly from: number;
}

/** The tiers disagree: our mistake. The vCPU and its memory are as they were when the region was entered. */
export class LockstepDifference extends Error {
  override readonly name = 'LockstepDifference';
}

/** Where a run ended. */
export interface RunEnd {
  readonly status: number;
  /** RIP, as halves. */
  readonly low: number;
  readonly high: number;
  readonly flags: number;
  /** The state block. */
  readonly state: Uint32Array;
}

/** A region's function: (address of its POOL, number + 1 of the block to enter) → status. */
type Region = (pool: number, number: number) => number;

/**
 * Interpreter and compiler together: each call of a region is taken back and run once more by the interpreter, for as many
 * instructions, and both must have done the same to registers, flags, RIP, memory, and in how they leave.
 *
 * Owns    the order of the two runs, and what "the same" means.
 * Knows   nothing of how regions are made; they run as they are, on guest memory itself.
 *
 * Regions reach no device (they leave in front of such an access), and where the interpreter comes to a region's entry in
 * the second run it is told to run that instruction itself (STATUS.REDO).
 */
export class Lockstep {
  readonly #cpu: Processor;
  readonly #code: CodeCache;
  readonly #interpreter: Interpreter;
  readonly #options: LockstepOptions;
  readonly #journal: Journal;
  /** By slot: the regions' functions. */
  readonly #regions: Region[] = [];
  readonly #kernel: LockstepKernel;
  readonly #before: Uint32Array;
  readonly #first: Uint32Array;
  readonly #state: Uint32Array;
  #enter: unknown;
  /** The second run is under way. */
  replaying = false;
  readonly counters = { compared: 0, instructions: 0, faults: 0 };

  constructor(cpu: Processor, code: CodeCache, interpreter: Interpreter, options: LockstepOptions) {
    this.#cpu = cpu;
    this.#code = code;
    this.#interpreter = interpreter;
    this.#options = options;
    const { memory } = cpu;
    this.#kernel = lockstepKernel(memory);
    this.#journal = new Journal(memory, this.#kernel);
    cpu.walker.journal = this.#journal;
    const words = (at: number): Uint32Array => cpu.u32.subarray(at >>> 2, (at + STATE_USED) >>> 2);
    this.#state = words(STATE);
    this.#before = words(memory.lockstep + LOCKSTEP.STATE_BEFORE);
    this.#first = words(memory.lockstep + LOCKSTEP.STATE_FIRST);
    const mask = words(memory.lockstep + LOCKSTEP.STATE_MASK).fill(0xffff_ffff);
    for (const [first, bytes] of OWN_WAYS) mask.fill(0, (first - STATE) >>> 2, (first + bytes - STATE + 3) >>> 2);
  }

  /** What stands behind a region's slot in the handler table, in place of `region`. */
  guard(slot: number, region: unknown): unknown {
    this.#regions[slot - REGION_SLOT] = region as Region;
    this.#enter ??= exported((pool, number) => this.#run(pool, number));
    return this.#enter;
  }

  /** What region-loop.ts does with the PLACE that a region leaves at, for what looks at S.EXIT_RECORD here. */
  #settle(pool: number, status: number): number {
    const cpu = this.#cpu;
    const place = status >>> STATUS.PLACE_SHIFT;
    if (place !== 0) {
      const at = pool + (place << POOL.UNIT_SHIFT);
      cpu.set(S.EXIT_RECORD, cpu.get(at + PLACE.RECORD));
      cpu.i32[S.BUDGET >>> 2] = cpu.i32[S.BUDGET >>> 2]! - cpu.u16[(at + PLACE.TAIL) >>> 1]!;
    }
    return status & ((1 << STATUS.PLACE_SHIFT) - 1);
  }

  #run(pool: number, number: number): number {
    const cpu = this.#cpu;
    const { u16, i32 } = cpu;
    const first = pool + (cpu.get(pool + POOL.FIRST) << POOL.UNIT_SHIFT);
    const record = cpu.get(first + ((number - 1) << POOL.UNIT_SHIFT) + PLACE.RECORD);
    const rest = u16[(record + REC.REMAINING) >>> 1]!;
    if (this.replaying) {
      cpu.set(S.EXIT_RECORD, record);
      i32[S.BUDGET >>> 2] = i32[S.BUDGET >>> 2]! - rest;
      return STATUS.REDO | STATUS.REGION;
    }
    const region = this.#regions[u16[(pool + POOL.SLOT) >>> 1]! - REGION_SLOT];
    assert(region !== undefined, 'a slot in use has its region');
    const { vcpu } = cpu;
    const slice = vcpu.slice;
    const available = i32[S.BUDGET >>> 2]!;
    if (vcpu.instructions + slice - available < this.#options.from) return region(pool, number);
    if (this.#code.freeRecords < ROOM_RECORDS) return this.#flush(record, available);

    // First run: the region's
    const journal = this.#journal;
    this.#kernel.saveBefore();
    journal.begin();
    // VMWRITE reaches fields that L0 has laid open, outside guest memory
    const vmcs = cpu.get(S.VMCS);
    if (vmcs !== 0) {
      journal.page(vmcs);
      journal.page(vmcs + VMCS_CELLS.GUEST - 1);
    }
    const beyond = Math.max(0, available - CALL_MAX);
    if (beyond > 0) {
      i32[S.BUDGET >>> 2] = i32[S.BUDGET >>> 2]! - beyond;
      cpu.setSlice(slice - beyond);
    }
    const raw = this.#settle(pool, region(pool, number));
    const shortened = vcpu.slice !== slice - beyond;
    const uncharged = this.#uncharged(raw & (STATUS.REGION - 1));
    const executed = vcpu.slice - uncharged - (slice - available);
    if (beyond > 0 && !shortened) {
      i32[S.BUDGET >>> 2] = i32[S.BUDGET >>> 2]! + beyond;
      cpu.setSlice(slice);
    }
    const sliceAfter = vcpu.slice;
    const end = this.#endOfRegion(raw & (STATUS.REGION - 1));
    const { outside } = cpu;
    journal.again();

    // Second run: the interpreter's
    const faults = end.status === STATUS.FAULT || end.status === STATUS.EXIT_BEFORE;
    const budget = executed + (faults ? 1 : 0);
    this.#kernel.loadBefore();
    cpu.outside = false;
    const { flushes } = this.#code.counters;
    const other = budget === 0 ? this.#endOf(STATUS.NEXT, record) : this.#interpret(record, budget, slice - available);
    this.counters.compared += 1;
    this.counters.instructions += executed;
    if (faults) this.counters.faults += 1;

    if (end.status === STATUS.REDO) journal.leftBefore();
    const what = this.#difference(end, other, faults);
    if (what !== undefined || journal.differs()) {
      const done = vcpu.instructions + slice - available;
      const report = reportDifference(
        cpu,
        this.#code,
        this.#interpreter,
        {
          record,
          executed,
          instructions: done,
          what: what ?? 'memory',
          before: this.#before,
          first: end,
          second: other,
        },
        journal.differences(16),
      );
      journal.takeBack();
      this.#kernel.loadBefore();
      cpu.setSlice(slice);
      throw new LockstepDifference(report);
    }
    this.#kernel.loadFirst();
    cpu.setSlice(sliceAfter);
    cpu.outside = outside;
    assert(flushes === this.#code.counters.flushes, 'there was room for what the second run decodes');
    return raw;
  }

  /** Instructions that the budget would still allow, nothing being charged in advance. */
  #uncharged(status: number): number {
    const { u16, i32 } = this.#cpu;
    const rest = u16[(this.#cpu.get(S.EXIT_RECORD) + REC.REMAINING) >>> 1]!;
    const budget = i32[S.BUDGET >>> 2]!;
    switch (status) {
      case STATUS.GO:
      case STATUS.FOUND:
        return budget;
      case STATUS.LINKED:
      case STATUS.ACROSS:
      case STATUS.JUMP:
      case STATUS.EXIT:
        return budget + rest - 1;
      default:
        return budget + rest;
    }
  }

  // ---- the ends of the two runs -------------------------------------------------------------------------------------

  #endOfRegion(status: number): RunEnd {
    const cpu = this.#cpu;
    const record = cpu.get(S.EXIT_RECORD);
    if (status === STATUS.JUMP) this.#ripOfLinear(cpu.get(S.NEXT_LINEAR), cpu.get(S.NEXT_LINEAR + 4));
    else if (status === STATUS.LINKED || status === STATUS.ACROSS) {
      const extra = cpu.i32[(record + REC.TARGET) >>> 2]!;
      this.#addToPage(extra);
      this.#ripOfLinear(this.#low, this.#high);
    } else this.#ripOf(record);
    const end = { status, low: this.#low, high: this.#high, flags: cpu.rflags(), state: this.#first };
    this.#kernel.saveFirst();
    return end;
  }

  #interpret(record: number, budget: number, retired: number): RunEnd {
    const cpu = this.#cpu;
    const { u32, i32, vcpu } = cpu;
    this.#addToPage(cpu.u16[(record + REC.OFFSET) >>> 1]!);
    cpu.set64(S.NEXT_LINEAR, this.#low, this.#high);
    // There is no need to look: the dispatcher came here without
    const folded = this.#low ^ ((this.#low >>> 12) | (this.#high << 20));
    const slot = (cpu.get(S.JUMP_CACHE) + ((folded & (JUMP_CACHE.ENTRIES - 1)) << JUMP_CACHE.ENTRY_SHIFT)) >>> 2;
    u32[slot] = this.#low;
    u32[slot + 1] = this.#high;
    u32[slot + 2] = record;
    u32[slot + 3] = cpu.get(S.JUMP_TAG);
    u32[slot + (JUMP_CACHE.REGIONS >>> 2)] = 0;
    cpu.tlb.touchJumps(vcpu.context, cpu.cpl === 3, this.#low);
    i32[S.BUDGET >>> 2] = budget;
    cpu.setSlice(retired + budget);
    this.replaying = true;
    const status = this.#interpreter.run();
    this.replaying = false;
    return this.#endOf(status, cpu.get(S.EXIT_RECORD));
  }

  #endOf(status: number, record: number): RunEnd {
    const cpu = this.#cpu;
    if (record !== 0) this.#ripOf(record);
    else {
      // What is behind the last jump cannot be fetched: that is for whoever goes on
      this.#low = cpu.get(S.RIP);
      this.#high = cpu.get(S.RIP + 4);
    }
    const ended = status === RUN_BUDGET || record === 0 ? STATUS.NEXT : status;
    return { status: ended, low: this.#low, high: this.#high, flags: cpu.rflags(), state: this.#state };
  }

  /** What differs besides memory. */
  #difference(first: RunEnd, second: RunEnd, faults: boolean): string | undefined {
    if (second.status !== (faults ? first.status : STATUS.NEXT)) return 'how the run ends';
    if (first.low !== second.low || first.high !== second.high) return 'RIP';
    if (first.flags !== second.flags) return 'RFLAGS';
    if (this.#kernel.stateDiffers()) return 'state';
    const a = first.state;
    const b = second.state;
    if (first.status === STATUS.FAULT) {
      const at = (S.FAULT_VECTOR - STATE) >>> 2;
      if (a[at] !== b[at] || a[at + 1] !== b[at + 1]) return 'the exception';
      if (a[at] === 14 && (a[at + 2] !== b[at + 2] || a[at + 3] !== b[at + 3])) return "the page fault's address";
    }
    if (first.status === STATUS.EXIT_BEFORE) {
      const at = (S.EXIT - STATE) >>> 2;
      for (const offset of EXIT_WORDS) if (a[at + (offset >>> 2)] !== b[at + (offset >>> 2)]) return 'the exit record';
    }
    return undefined;
  }

  /** There may be too little room for what the second run decodes: empties the cache, and has the region looked up anew. */
  #flush(record: number, available: number): number {
    const cpu = this.#cpu;
    this.#addToPage(cpu.u16[(record + REC.OFFSET) >>> 1]!);
    cpu.set64(S.NEXT_LINEAR, this.#low, this.#high);
    this.#code.flush();
    // A jump: its record is the last of its run
    const { stepRecords } = cpu.memory;
    cpu.u16[(stepRecords + REC.REMAINING) >>> 1] = 1;
    cpu.set(S.EXIT_RECORD, stepRecords);
    cpu.i32[S.BUDGET >>> 2] = available;
    return STATUS.JUMP | STATUS.REGION;
  }

  // ---- addresses ----------------------------------------------------------------------------------------------------

  #low = 0;
  #high = 0;

  /** Linear address in the page that runs. */
  #addToPage(offset: number): void {
    const cpu = this.#cpu;
    const sum = cpu.get(S.RIP_PAGE) + offset;
    this.#low = sum >>> 0;
    this.#high = 0;
    if (cpu.get(S.MODE) & MODE.LONG) {
      const carry = sum < 0 ? -1 : sum >= 0x1_0000_0000 ? 1 : 0;
      this.#high = (cpu.get(S.RIP_PAGE + 4) + carry) >>> 0;
    }
  }

  #ripOf(record: number): void {
    this.#addToPage(this.#cpu.u16[(record + REC.OFFSET) >>> 1]!);
    this.#ripOfLinear(this.#low, this.#high);
  }

  #ripOfLinear(low: number, high: number): void {
    const cpu = this.#cpu;
    this.#low = low;
    this.#high = high;
    if (cpu.get(S.MODE) & MODE.LONG) return;
    this.#low = (low - cpu.get(segment(SEG.CS) + SEG.BASE)) >>> 0;
    this.#high = 0;
  }
}

/** A function that WebAssembly tables take. */
function exported(f: Region): unknown {
  const m = new ModuleBuilder();
  const imported = m.importFunction('env', 'f', [I32, I32], [I32]);
  const body = m.func('enter', [I32, I32], [I32], true);
  const [pool, number] = body.parameters;
  body.ret(call(imported, pool!.get, number!.get));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { f } as never });
  return exports['enter'];
}
