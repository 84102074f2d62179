import { EFER } from '../../arch/registers.ts';
import { I32, i32 } from '../../wasm/expr.ts';
import type { EngineVcpu } from '../core/cpu.ts';
import { EXIT, X } from '../core/exits.ts';
import { AUX, JUMP_CACHE, LOOKUPS_ARE_SEEN, REC, S, SEEN_BY, SEG, STATUS, segment } from '../core/layout.ts';
import type { Processor } from '../core/processor.ts';
import { BREAK_SLOT, PSEUDO } from '../decode/decoder.ts';
import type { CodeCache, CodePage, DecodedWatcher } from './code-cache.ts';
import type { Interpreter } from './interpreter.ts';

interface Place {
  readonly low: number;
  readonly high: number;
}

/** Where a vCPU has stopped, or has been told to go on, last. */
interface Passed extends Place {
  low: number;
  high: number;
  instructions: number;
}

/**
 * Breakpoints of L0's debugger at linear addresses, in whichever address space and level the code runs. No byte of the
 * guest changes: decoded records get a handler that leaves, and all other code runs as ever.
 *
 * Code is kept by physical page, breakpoints are linear. Code of a linear page begins to run through a jump cache or a
 * look-up, so the pages that a breakpoint's address may mean are those that a jump cache has for it now, and those that a
 * look-up finds later (`entered`). In pages that are mapped elsewhere, too, the record stops for nothing: the engine sees
 * that the address is another, and runs the instruction by itself.
 *
 * Owns    which records have the handler, and what they had before.
 * Never   decodes: which pages hold code decides how much of a REP string instruction counts as one.
 */
export class Breakpoints implements DecodedWatcher {
  readonly #cpu: Processor;
  readonly #code: CodeCache;
  readonly #interpreter: Interpreter;
  #wanted: readonly Place[] = [];
  /** What the records have been made for. */
  #planted: readonly Place[] = [];
  /** Handlers of the records that have BREAK_SLOT. */
  readonly #originals = new Map<number, number>();
  readonly #pages = new Set<CodePage>();
  readonly #passed: Passed[] = [];
  #handlerMade = false;

  constructor(cpu: Processor, code: CodeCache, interpreter: Interpreter) {
    this.#cpu = cpu;
    this.#code = code;
    this.#interpreter = interpreter;
  }

  /** Those there are from the next run on. */
  set(places: readonly Place[]): void {
    this.#wanted = places;
  }

  /** Before code runs: makes the records right if something has changed. Debuggers take all away and put all back. */
  settle(): void {
    if (this.#wanted === this.#planted || same(this.#wanted, this.#planted)) return;
    const { u16 } = this.#cpu;
    for (const [record, handler] of this.#originals) {
      if (u16[record >>> 1] === BREAK_SLOT) u16[record >>> 1] = handler;
    }
    for (const page of this.#pages) page.breaks = undefined;
    this.flushed();
    this.#planted = this.#wanted;
    const others = this.#cpu.get(LOOKUPS_ARE_SEEN) & ~SEEN_BY.DEBUGGER;
    this.#cpu.set(LOOKUPS_ARE_SEEN, others | (this.#planted.length > 0 ? SEEN_BY.DEBUGGER : 0));
    if (this.#planted.length === 0) return;
    this.#makeHandler();
    this.#searchJumpCaches();
  }

  /** Code at a linear address is about to run from a host page, as a look-up has found. */
  entered(low: number, high: number, hostPage: number, mode: number): void {
    if (this.#isNear(low, high)) this.#plantIn(low, high, this.#code.pageAt(hostPage, mode));
  }

  decoded(page: CodePage): void {
    const { u16 } = this.#cpu;
    for (const offset of page.breaks!) {
      const record = page.entries[offset]!;
      if (record === 0 || u16[record >>> 1] === BREAK_SLOT) continue;
      if (page.region) this.#code.regions!.release(page);
      this.#code.unfuse(record);
      this.#originals.set(record, this.#interpreter.plain(u16[record >>> 1]!));
      u16[record >>> 1] = BREAK_SLOT;
    }
  }

  flushed(): void {
    this.#originals.clear();
    this.#pages.clear();
  }

  // ---- a record with the handler has been met --------------------------------------------------------------------------

  /**
   * Is the processor, in front of the instruction `record`, to stop? Not if the address is another one, nor if it stopped
   * here already, nor between two parts of a REP string instruction.
   */
  stops(record: number): boolean {
    const { vcpu, i32: words } = this.#cpu;
    const { low, high } = linearRip(vcpu);
    if (!this.#planted.some((place) => place.low === low && place.high === high)) return false;
    const instructions = vcpu.instructions + vcpu.slice - words[S.BUDGET >>> 2]!;
    const passed = this.#passedBy(vcpu);
    const isThere = passed.low === low && passed.high === high;
    const repeats = (this.#cpu.aux(record) & (AUX.REP | AUX.REPNE)) !== 0;
    const goesOn =
      isThere && (passed.instructions === instructions || (repeats && passed.instructions + 1 === instructions));
    passed.low = low;
    passed.high = high;
    passed.instructions = instructions;
    return !goesOn;
  }

  /** Whatever is at the instruction pointer of a parked vCPU, it need not stop there any more. */
  pass(vcpu: EngineVcpu): void {
    Object.assign(this.#passedBy(vcpu), linearRip(vcpu), { instructions: vcpu.instructions });
  }

  /** Linear address of the instruction that a vCPU is to run next. */
  address(vcpu: EngineVcpu): bigint {
    const { low, high } = linearRip(vcpu);
    return (BigInt(high) << 32n) | BigInt(low);
  }

  /** The handler that a record had. It may be a copy of the one that was planted, made for a counted run. */
  original(record: number): number {
    const { u16, u32 } = this.#cpu;
    const known = this.#originals.get(record);
    if (known !== undefined) return known;
    const page = this.#code.pageAt(u32[(record + REC.PLACE) >>> 2]! & 0xf_ffff, u32[S.MODE >>> 2]!);
    const planted = page?.entries[u16[(record + REC.OFFSET) >>> 1]!];
    // Unless the counted run itself has changed it
    return (planted && this.#originals.get(planted)) ?? PSEUDO.STALE;
  }

  #passedBy({ index }: EngineVcpu): Passed {
    return (this.#passed[index] ??= { low: 0, high: 0, instructions: -1 });
  }

  // ---- planting --------------------------------------------------------------------------------------------------------

  /** Has the page of a linear address breakpoints? */
  #isNear(low: number, high: number): boolean {
    for (const place of this.#planted) if (((place.low ^ low) & ~0xfff) === 0 && place.high === high) return true;
    return false;
  }

  #plantIn(low: number, high: number, page: CodePage | undefined): void {
    if (!page) return;
    const near = this.#planted.filter((place) => ((place.low ^ low) & ~0xfff) === 0 && place.high === high);
    page.breaks = new Set([...(page.breaks ?? []), ...near.map((place) => place.low & 0xfff)]);
    this.#pages.add(page);
    this.decoded(page);
  }

  #searchJumpCaches(): void {
    const { u32, tlb } = this.#cpu;
    for (const { context } of tlb.names()) {
      for (const user of [false, true]) {
        const first = tlb.jumps(context, user) >>> 2;
        for (let at = first; at < first + JUMP_CACHE.BYTES / 4; at += JUMP_CACHE.ENTRY_BYTES / 4) {
          const tag = u32[at + JUMP_CACHE.TAG / 4]!;
          if (tag === 0xffff_ffff || !this.#isNear(u32[at]!, u32[at + 1]!)) continue;
          const record = u32[at + JUMP_CACHE.RECORD / 4]!;
          const hostPage = u32[(record + REC.PLACE) >>> 2]! & 0xf_ffff;
          this.#plantIn(u32[at]!, u32[at + 1]!, this.#code.pageAt(hostPage, tag & 0xfff));
        }
      }
    }
  }

  /** The handler: leaves in front of the instruction. */
  #makeHandler(): void {
    if (this.#handlerMade) return;
    this.#handlerMade = true;
    const exports = this.#interpreter.module((m) => {
      const f = m.func('leave', [I32], [I32], true);
      f.do(i32.store(i32.const(0), i32.const(EXIT.DEBUGGER), X.REASON));
      f.ret(i32.const(STATUS.EXIT_BEFORE));
    });
    this.#interpreter.setHandler(BREAK_SLOT, exports['leave']);
  }
}

const same = (a: readonly Place[], b: readonly Place[]): boolean =>
  a.length === b.length && a.every(({ low, high }) => b.some((other) => other.low === low && other.high === high));

/** Linear address of the instruction that a vCPU is to run next. */
function linearRip({ state }: EngineVcpu): { low: number; high: number } {
  const long = (state.u32(S.EFER) & EFER.LMA) !== 0 && (state.access(SEG.CS) & 0x2000) !== 0;
  if (long) return { low: state.u32(S.RIP), high: state.high(S.RIP) };
  return { low: (state.u32(S.RIP) + state.u32(segment(SEG.CS) + SEG.BASE)) >>> 0, high: 0 };
}
