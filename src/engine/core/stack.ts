import { VECTOR } from '../../arch/exceptions.ts';
import { BORN_DOUBLE, TWO_32 } from '../../base/bits.ts';
import { ACCESS, TRANSLATE } from '../paging/access.ts';
import { AR, inLimit, segmentLinear } from './address.ts';
import { gpr, S, SEG, STATUS, segment } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * The stack in every mode: widths of SP, limits, and frames of several values that are written whole or not at all.
 *
 * Owns    how RSP moves.  Never  decides what is pushed.
 *
 * Source  SDM 1 6.2 "Stacks"; SDM 3A 5.3 "Limit Checking"; 6.12.1 "Exception- or Interrupt-Handler Procedures".
 */

const RSP = gpr(4);

/** Bytes of the stack pointer that count: 8 in 64-bit mode, else 4 or 2 as SS.B says. */
export function stackWidth(cpu: Processor): number {
  if (cpu.long) return 8;
  return cpu.get(segment(SEG.SS) + SEG.ACCESS) & AR.DB ? 4 : 2;
}

/** Writes the stack pointer: SP keeps the upper bits of RSP, ESP clears them. */
export function setStackPointer(cpu: Processor, width: number, low: number, high: number): void {
  if (width === 2) cpu.u16[RSP >>> 1] = low;
  else cpu.set64(RSP, low, width === 8 ? high : 0);
}

/** RSP plus `delta` (may be negative) as the width wraps it, into `low` and `high`. */
export function stackAt(cpu: Processor, width: number, delta: number): void {
  const sum = cpu.get(RSP) + delta;
  cpu.low = sum >>> 0;
  cpu.high = 0;
  if (width === 2) cpu.low &= 0xffff;
  else if (width === 8) cpu.high = (cpu.get(RSP + 4) + Math.floor(sum / TWO_32)) >>> 0;
}

/** Pushes 2, 4 or 8 bytes through SS. False: nothing has changed, S.ACCESS_STATUS has the status. */
export function pushValue(cpu: Processor, low: number, high: number, bytes: number): boolean {
  const width = stackWidth(cpu);
  stackAt(cpu, width, -bytes);
  const spLow = cpu.low;
  const spHigh = cpu.high;
  if (segmentLinear(cpu, SEG.SS, spLow, spHigh, bytes, true) !== STATUS.NEXT) return false;
  if (!cpu.write(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, low, high)) return false;
  setStackPointer(cpu, width, spLow, spHigh);
  return true;
}

/** Reads `bytes` that lie `offset` bytes above the top of the stack into `low`, `high`; RSP stays. */
export function peekValue(cpu: Processor, offset: number, bytes: number): boolean {
  stackAt(cpu, stackWidth(cpu), offset);
  if (segmentLinear(cpu, SEG.SS, cpu.low, cpu.high, bytes, false) !== STATUS.NEXT) return false;
  return cpu.read(cpu.get(S.EA), cpu.get(S.EA + 4), bytes);
}

/**
 * Host address of the `bytes` on top of the 64-bit stack, if they lie in one page of memory and need no further check;
 * else 0, and nothing has happened.
 */
export function topOfStack(cpu: Processor, bytes: number): number {
  const low = cpu.get(RSP);
  if (!cpu.long || (low & 0xfff) + bytes > 4096 || !cpu.accessesAreFree) return 0;
  const high = cpu.get(RSP + 4);
  return cpu.isCanonical(low, high) ? cpu.known(low, high, cpu.dataAccess) : 0;
}

/** Moves RSP up by `bytes`. */
export function dropBytes(cpu: Processor, bytes: number): void {
  const width = stackWidth(cpu);
  stackAt(cpu, width, bytes);
  setStackPointer(cpu, width, cpu.low, cpu.high);
}

/** Pops 2, 4 or 8 bytes into `low`, `high`. False: nothing has changed. */
export function popValue(cpu: Processor, bytes: number): boolean {
  if (!peekValue(cpu, 0, bytes)) return false;
  const { low, high } = cpu;
  dropBytes(cpu, bytes);
  cpu.low = low;
  cpu.high = high;
  return true;
}

/**
 * Several pushes as one: far calls, interrupts. `begin…`, `push` in order, `prepare` (all checks, nothing written),
 * `write` (cannot fail); `spLow`, `spHigh` are then the new stack pointer, for the caller to load.
 */
class StackFrame {
  width = 8;
  spLow = BORN_DOUBLE;
  spHigh = BORN_DOUBLE;
  #baseLow = BORN_DOUBLE;
  #baseHigh = BORN_DOUBLE;
  #limit = BORN_DOUBLE;
  /** Host address less linear address, modulo 2^32, of a frame in one page of memory; else -1. */
  #delta = BORN_DOUBLE;
  /** All values have 8 bytes. */
  #quads = true;
  #rights = 0;
  #checked = false;
  #access = 0;
  #error = 0;
  #count = 0;
  readonly #values = new Uint32Array(2 * 48);
  readonly #linear = new Uint32Array(2 * 48);
  readonly #bytes = new Uint8Array(48);
  /** Where each value goes in linear memory if that is known, else -1; and what is special about its page. */
  readonly #hosts = new Float64Array(48);
  readonly #odd = new Uint8Array(48);

  /** On the stack in force. */
  beginCurrent(cpu: Processor): void {
    const at = segment(SEG.SS);
    const width = stackWidth(cpu);
    stackAt(cpu, width, 0);
    this.begin(width, cpu.get(at + SEG.BASE), 0, cpu.get(at + SEG.LIMIT), cpu.get(at + SEG.ACCESS), cpu.low, cpu.high);
    this.#checked = cpu.protectedMode && !cpu.vm86;
    this.#access = cpu.dataAccess;
    if (cpu.long) this.#baseLow = 0;
  }

  /** On a stack that is about to come into force. `error`: error code of the #SS. Set `cpl` for whose it is. */
  begin(
    width: number,
    baseLow: number,
    baseHigh: number,
    limit: number,
    rights: number,
    spLow: number,
    spHigh: number,
    cpl = 0,
    error = 0,
  ): void {
    this.width = width;
    this.#baseLow = baseLow;
    this.#baseHigh = baseHigh;
    this.#limit = limit;
    this.#rights = rights;
    this.#checked = true;
    this.spLow = spLow;
    this.spHigh = spHigh;
    this.#access = cpl === 3 ? ACCESS.USER : 0;
    this.#error = error;
    this.#count = 0;
    this.#quads = true;
  }

  /** 64-bit mode: flat, RSP as given. */
  begin64(spLow: number, spHigh: number, cpl: number): void {
    this.begin(8, 0, 0, 0xffff_ffff, 0, spLow, spHigh, cpl, 0);
  }

  push(low: number, high: number, bytes: number): void {
    const i = this.#count;
    this.#values[2 * i] = low;
    this.#values[2 * i + 1] = high;
    this.#bytes[i] = bytes;
    if (bytes !== 8) this.#quads = false;
    this.#count = i + 1;
  }

  /** Checks everything. NEXT, or the status to leave with. */
  prepare(cpu: Processor): number {
    this.#delta = -1;
    const total = 8 * this.#count;
    // In one page values fault together or not at all, the first one first
    if (
      this.width === 8 &&
      this.#quads &&
      ((this.spLow - 1) & 0xfff) >= total - 1 &&
      this.spLow !== 0 &&
      cpu.accessesAreFree
    ) {
      const first = this.spLow - 8;
      if (!cpu.isCanonical(first, this.spHigh)) return cpu.fault(VECTOR.SS, this.#error);
      const host = cpu.translate(first, this.spHigh, this.#access | ACCESS.WRITE);
      if (host === TRANSLATE.FAULT) return cpu.accessStatus;
      if (host >= 0 && cpu.walker.oddPage === 0) {
        this.#delta = (host - first) >>> 0;
        for (let i = 0; i < this.#count; i += 1) this.#linear[2 * i] = first - 8 * i;
        this.spLow -= total;
        return STATUS.NEXT;
      }
    }
    for (let i = 0; i < this.#count; i += 1) {
      const bytes = this.#bytes[i]!;
      const sum = this.spLow - bytes;
      let low = sum >>> 0;
      let high = 0;
      if (this.width === 8) {
        high = (this.spHigh - (sum < 0 ? 1 : 0)) >>> 0;
        if (!cpu.isCanonical(low, high)) return cpu.fault(VECTOR.SS, this.#error);
      } else {
        if (this.width === 2) low &= 0xffff;
        const down = this.#checked && (this.#rights & (AR.CODE | AR.EXPAND_DOWN)) === AR.EXPAND_DOWN;
        if (this.#checked && this.#rights & AR.UNUSABLE) return cpu.fault(VECTOR.SS, this.#error);
        if (!inLimit(this.#limit, this.#rights, down, low, bytes)) return cpu.fault(VECTOR.SS, this.#error);
      }
      this.spLow = low;
      this.spHigh = high;
      const linear = low + this.#baseLow;
      const linearLow = linear >>> 0;
      const linearHigh = this.width === 8 ? (high + this.#baseHigh + (linear >= TWO_32 ? 1 : 0)) >>> 0 : 0;
      this.#linear[2 * i] = linearLow;
      this.#linear[2 * i + 1] = linearHigh;
      if (!cpu.probeWrite(linearLow, linearHigh, bytes, this.#access)) return cpu.accessStatus;
      this.#hosts[i] =
        cpu.accessesAreFree && (linearLow & 0xfff) + bytes <= 4096
          ? cpu.translate(linearLow, linearHigh, this.#access | ACCESS.WRITE)
          : -1;
      this.#odd[i] = cpu.walker.oddPage;
    }
    return STATUS.NEXT;
  }

  #note(cpu: Processor, i: number): void {
    // The frame of one page keeps the low halves only
    const high = this.#delta >= 0 ? this.spHigh : this.#linear[2 * i + 1]!;
    cpu.walker.watchpoints!.note(this.#linear[2 * i]!, high, this.#bytes[i]!, true);
  }

  /** Gives a value that was pushed as `i` another one, before it is written. */
  replace(i: number, low: number, high: number): void {
    this.#values[2 * i] = low;
    this.#values[2 * i + 1] = high;
  }

  /**
   * Writes what was pushed as `from` to `to - 1`, or all. L0 hears of stores to a page that it tracks when they are all
   * done: what it does then may take the mapping away that the next one would need.
   */
  write(cpu: Processor, from = 0, to = this.#count): void {
    for (let i = from; i < to; i += 1) {
      const low = this.#values[2 * i]!;
      const high = this.#values[2 * i + 1]!;
      if (cpu.walker.watchpoints && (this.#delta >= 0 || this.#hosts[i]! >= 0)) this.#note(cpu, i);
      if (this.#delta >= 0) cpu.writeHost((this.#linear[2 * i]! + this.#delta) >>> 0, 8, low, high);
      else if (this.#hosts[i]! >= 0) cpu.writeHost(this.#hosts[i]!, this.#bytes[i]!, low, high);
      else cpu.write(this.#linear[2 * i]!, this.#linear[2 * i + 1]!, this.#bytes[i]!, low, high, this.#access);
    }
    if (this.#delta >= 0) return;
    for (let i = from; i < to; i += 1) {
      if (this.#hosts[i]! < 0 || this.#odd[i] === 0) continue;
      cpu.walker.oddPage = this.#odd[i]!;
      cpu.walker.stored(this.#hosts[i]!, this.#bytes[i]!);
    }
  }
}

/** The one frame under construction: no transfer builds two. */
export const frame = new StackFrame();

/**
 * Near jump where the code segment has a limit: #GP(0) behind it. The caller has masked the target to the operand size;
 * in 64-bit mode the target must be canonical.
 */
export function nearJump(cpu: Processor, _record: number, low: number, high: number): number {
  if (!codeTargetIsLegal(cpu, low, high)) return cpu.fault(VECTOR.GP, 0);
  return cpu.goTo(low, high);
}

/** Is the offset inside the code segment in force, or canonical in 64-bit mode? */
export function codeTargetIsLegal(cpu: Processor, low: number, high: number): boolean {
  if (cpu.long) return cpu.isCanonical(low, high);
  return low >>> 0 <= cpu.get(segment(SEG.CS) + SEG.LIMIT);
}
