import { CC } from '../isa/flags.ts';
import { ACCESS } from '../paging/access.ts';
import { FIXED, SEEK_EQUAL } from '../tiers/string-kernels.ts';
import { segmentLinear } from './address.ts';
import type { Helper } from './helpers.ts';
import { AUX, gpr, S, SEG, STATUS } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * String instructions. SDM 1 7.3.9 "String Operations"; REP: SDM 2B 4.3 "REP/REPE/REPZ/REPNE/REPNZ—Repeat String
 * Operation Prefix".
 *
 * A repeated instruction does as many iterations at once as stay within a page on both sides, then counts as one
 * retired instruction and begins again: interrupts, the budget and faults fall between such chunks, with the registers
 * telling how far it got.
 */

const RCX = 1;
const RSI = 6;
const RDI = 7;

const OPERATION = { MOVS: 0, STOS: 1, LODS: 2, CMPS: 3, SCAS: 4 } as const;
type Operation = (typeof OPERATION)[keyof typeof OPERATION];

/** Adds to a register, in the width of the address size: 0 16-bit, 1 32-bit, 2 64-bit. */
function advance(cpu: Processor, register: number, by: number, size: number): void {
  const at = gpr(register);
  if (size === 0) {
    cpu.u16[at >>> 1] = cpu.u16[at >>> 1]! + by;
    return;
  }
  const low = cpu.get(at) + by;
  if (size === 1) cpu.set64(at, low >>> 0, 0);
  else cpu.set64(at, low >>> 0, cpu.get(at + 4) + Math.floor(low / 0x1_0000_0000));
}

/** Linear address of a string operand, into S.EA. False: the status is in S.ACCESS_STATUS. */
function address(cpu: Processor, register: number, seg: number, size: number, bytes: number, write: boolean): boolean {
  const at = gpr(register);
  const low = size === 0 ? cpu.u16[at >>> 1]! : cpu.get(at);
  const high = size === 2 ? cpu.get(at + 4) : 0;
  const status = segmentLinear(cpu, seg, low, high, bytes, write);
  if (status !== STATUS.NEXT) {
    cpu.set(S.ACCESS_STATUS, status);
    return false;
  }
  return !(cpu.aligning && cpu.misaligned(cpu.get(S.EA), cpu.get(S.EA + 4), bytes, cpu.dataAccess));
}

function compare(cpu: Processor, bytes: number, aLow: number, aHigh: number, bLow: number, bHigh: number): void {
  const log = bytes === 1 ? 0 : bytes === 2 ? 1 : bytes === 4 ? 2 : 3;
  const shift = 32 - 8 * Math.min(bytes, 4);
  const a = (aLow << shift) >> shift;
  const b = (bLow << shift) >> shift;
  cpu.set64(S.CC_A, a, bytes === 8 ? aHigh : a >> 31);
  cpu.set64(S.CC_B, b, bytes === 8 ? bHigh : b >> 31);
  cpu.set(S.CC_KIND, CC.SUB | (log << CC.SIZE_SHIFT));
}

function string(operation: Operation): Helper {
  const hasSource = operation === 0 || operation === 2 || operation === 3;
  const hasTarget = operation !== 2;
  const writes = operation <= 1;
  return (cpu, record) => {
    const aux = cpu.aux(record);
    const bytes = cpu.operandSize(record);
    const size = (aux >>> AUX.ADDRESS_SIZE_SHIFT) & 3;
    const repeat = (aux & (AUX.REP | AUX.REPNE)) !== 0;
    const counter = gpr(RCX);
    const step = cpu.get(S.DIRECTION + 4) === 0 ? bytes : -bytes;
    let count = 1;
    if (repeat) {
      count = size === 0 ? cpu.u16[counter >>> 1]! : cpu.get(counter);
      if (size === 2 && cpu.get(counter + 4) !== 0) count = 0xffff_ffff;
      if (count === 0) {
        // A 32-bit counter is written even so: MEASURED, the upper half of RCX is cleared only by 64-bit code's 67h form
        return STATUS.NEXT;
      }
    }
    const source = (aux >>> AUX.SEGMENT_SHIFT) & 7;
    const access = cpu.dataAccess;
    const { u8 } = cpu;
    let fromLow = 0;
    let fromHigh = 0;
    let toLow = 0;
    let toHigh = 0;
    if (hasSource) {
      if (!address(cpu, RSI, source, size, bytes, false)) return cpu.accessStatus;
      fromLow = cpu.get(S.EA);
      fromHigh = cpu.get(S.EA + 4);
    }
    if (hasTarget) {
      if (!address(cpu, RDI, SEG.ES, size, bytes, writes)) return cpu.accessStatus;
      toLow = cpu.get(S.EA);
      toHigh = cpu.get(S.EA + 4);
    }

    // How many iterations stay in the page, and in the offset's width
    let most = count;
    const fit = (low: number): number =>
      step > 0 ? Math.floor((4096 - (low & 0xfff)) / bytes) : Math.floor(((low & 0xfff) + bytes) / bytes);
    if (repeat) {
      if (hasSource) most = Math.min(most, fit(fromLow));
      if (hasTarget) most = Math.min(most, fit(toLow));
      // Segments with limits and 16-bit offsets are checked one element at a time
      if (!cpu.long && (size === 0 || !cpu.flat)) most = 1;
      // So is what data breakpoints watch
      if (cpu.walker.watching) most = 1;
    }
    let done = 0;
    let stop = false;
    const inPage = (low: number): boolean => (low & 0xfff) + bytes <= 4096;
    if (most >= 1 && (!hasSource || inPage(fromLow)) && (!hasTarget || inPage(toLow))) {
      let from = 0;
      let to = 0;
      let direct = !cpu.walker.watching;
      // MEASURED on AMD family 25: MOVS faults on its source first, CMPS on its destination
      if (operation === OPERATION.CMPS && cpu.translate(toLow, toHigh, access) === -1) return cpu.accessStatus;
      if (hasSource) {
        from = cpu.translate(fromLow, fromHigh, access);
        if (from === -1) return cpu.accessStatus;
        direct &&= from >= 0;
      }
      if (hasTarget) {
        to = cpu.translate(toLow, toHigh, writes ? access | ACCESS.WRITE : access);
        if (to === -1) return cpu.accessStatus;
        direct &&= to >= 0 && !(writes && cpu.walker.oddPage);
      }
      if (direct) {
        if (operation === OPERATION.MOVS) {
          done = most;
          copyElements(u8, to, from, most, step);
        } else if (operation === OPERATION.STOS) {
          done = most;
          const start = step > 0 ? to : to - (most - 1) * bytes;
          fill(cpu, start, most, bytes);
        } else if (operation === OPERATION.LODS) {
          // Only the last one stays
          done = most;
          cpu.low = 0;
          const at = from + (most - 1) * step;
          setAccumulator(cpu, at, bytes);
        } else {
          const first = hasSource ? from : gpr(0);
          const seek = aux & AUX.REP ? 0 : SEEK_EQUAL;
          done = repeat ? cpu.strings.compareElements(first, to, most, step, seek | (hasSource ? 0 : FIXED)) : 1;
          const left = hasSource ? from + (done - 1) * step : first;
          const right = to + (done - 1) * step;
          const [a, b] = [word(u8, left, bytes), word(u8, right, bytes)];
          const aHigh = bytes === 8 ? word(u8, left + 4, 4) : 0;
          const bHigh = bytes === 8 ? word(u8, right + 4, 4) : 0;
          stop = repeat && (a === b && aHigh === bHigh) === (seek !== 0);
          compare(cpu, bytes, a, aHigh, b, bHigh);
        }
      }
    }
    if (done === 0) {
      // One element the careful way: a device, a page with code, two pages
      let low = cpu.get(gpr(0));
      let high = cpu.get(gpr(0) + 4);
      let rightLow = 0;
      let rightHigh = 0;
      if (!writes && hasTarget) {
        if (!cpu.read(toLow, toHigh, bytes)) return cpu.accessStatus;
        rightLow = cpu.low;
        rightHigh = cpu.high;
      }
      if (hasSource) {
        if (!cpu.read(fromLow, fromHigh, bytes)) return cpu.accessStatus;
        ({ low, high } = cpu);
      }
      if (writes) {
        if (!cpu.write(toLow, toHigh, bytes, low, high)) return cpu.accessStatus;
      } else if (operation === OPERATION.LODS) {
        if (bytes === 1) u8[gpr(0)] = low;
        else if (bytes === 2) cpu.u16[gpr(0) >>> 1] = low;
        else cpu.set64(gpr(0), low, high);
      } else {
        compare(cpu, bytes, low, high, rightLow, rightHigh);
        const equal = (cpu.statusFlags() & 0x40) !== 0;
        stop = repeat && equal !== ((aux & AUX.REP) !== 0);
      }
      done = 1;
    } else if (cpu.walker.watchpoints) {
      const first = step > 0 ? 0 : (done - 1) * bytes;
      if (hasSource) cpu.walker.watchpoints.note(fromLow - first, fromHigh, done * bytes, false);
      if (hasTarget) cpu.walker.watchpoints.note(toLow - first, toHigh, done * bytes, writes);
    }
    if (hasSource) advance(cpu, RSI, done * step, size);
    if (hasTarget) advance(cpu, RDI, done * step, size);
    if (!repeat) return STATUS.NEXT;
    advance(cpu, RCX, -done, size);
    if (stop) return STATUS.NEXT;
    const left = size === 0 ? cpu.u16[counter >>> 1]! : cpu.get(counter) | (size === 2 ? cpu.get(counter + 4) : 0);
    if (left === 0) return STATUS.NEXT;
    cpu.ripOf(record);
    return cpu.goTo(cpu.low, cpu.high);
  };
}

const word = (u8: Uint8Array, at: number, bytes: number): number =>
  bytes === 1
    ? u8[at]!
    : bytes === 2
      ? u8[at]! | (u8[at + 1]! << 8)
      : u8[at]! | (u8[at + 1]! << 8) | (u8[at + 2]! << 16) | (u8[at + 3]! << 24);

function setAccumulator(cpu: Processor, at: number, bytes: number): void {
  const { u8 } = cpu;
  if (bytes === 1) u8[gpr(0)] = u8[at]!;
  else if (bytes === 2) cpu.u16[gpr(0) >>> 1] = word(u8, at, 2);
  else cpu.set64(gpr(0), word(u8, at, 4), bytes === 8 ? word(u8, at + 4, 4) : 0);
}

/** `count` elements one after the other, of |step| bytes: where they overlap, what was written is read again. */
function copyElements(u8: Uint8Array, to: number, from: number, count: number, step: number): void {
  const bytes = Math.abs(step);
  const total = count * bytes;
  if (step < 0) {
    const low = to - total + bytes;
    const source = from - total + bytes;
    if (to >= from || to + bytes <= source) u8.copyWithin(low, source, source + total);
    else for (let i = 0; i < total; i += bytes) u8.copyWithin(to - i, from - i, from - i + bytes);
    return;
  }
  const distance = to - from;
  if (distance <= 0 || distance >= total) u8.copyWithin(to, from, from + total);
  else if (distance < bytes) {
    for (let i = 0; i < total; i += bytes) u8.copyWithin(to + i, from + i, from + i + bytes);
  } else {
    // The first `distance` bytes over and over
    for (let filled = 0; filled < total; ) {
      const now = Math.min(total - filled, filled + distance);
      u8.copyWithin(to + filled, from, from + now);
      filled += now;
    }
  }
}

/** `count` copies of the accumulator. */
function fill(cpu: Processor, start: number, count: number, bytes: number): void {
  const { u8 } = cpu;
  const a = gpr(0);
  let same = true;
  for (let i = 1; i < bytes; i += 1) same &&= u8[a + i] === u8[a];
  if (same) {
    u8.fill(u8[a]!, start, start + count * bytes);
    return;
  }
  u8.copyWithin(start, a, a + bytes);
  // Doubling: each copy takes what the ones before have written
  let filled = bytes;
  const total = count * bytes;
  while (filled < total) {
    const now = Math.min(filled, total - filled);
    u8.copyWithin(start + filled, start, start + now);
    filled += now;
  }
}

export const movs = string(OPERATION.MOVS);
export const stos = string(OPERATION.STOS);
export const lods = string(OPERATION.LODS);
export const cmps = string(OPERATION.CMPS);
export const scas = string(OPERATION.SCAS);
