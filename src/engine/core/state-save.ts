import { XSAVE_COMPONENTS, XSAVE_LEGACY_AND_HEADER_BYTES } from '../../arch/cpuid-features.ts';
import { VECTOR } from '../../arch/exceptions.ts';
import { CR0, CR4, EFER, FCW_INIT, FSW_TOP_SHIFT, MXCSR_MASK, MXCSR_RESET, XCR0 } from '../../arch/registers.ts';
import { ACCESS, TRANSLATE } from '../paging/access.ts';
import { linear } from './address.ts';
import { setPkru } from './control-registers.ts';
import { INTERCEPT } from './cpu.ts';
import type { Helper } from './helpers.ts';
import { AUX, gpr, REC, S, STATUS } from './layout.ts';
import type { Processor } from './processor.ts';

/**
 * FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS.
 *
 * Owns    the memory images. An image is read, or its pages are probed, whole before anything changes.
 *
 * Source  SDM 1 10.5 "FXSAVE and FXRSTOR Instructions", 13 "Managing State Using the XSAVE Feature Set";
 *         SDM 2A "FXSAVE—Save x87 FPU, MMX Technology, and SSE State", Tables 3-43, 3-46.
 */

const componentAt = (name: string): number => {
  const row = XSAVE_COMPONENTS.find((component) => component.name === name);
  return row === undefined ? 0 : row.offset;
};
const AVX_OFFSET = componentAt('AVX');
const PKRU_OFFSET = componentAt('PKRU');
const HEADER = 512;
const AREA_BYTES = 1024;
const COMPACT = 0x8000_0000;

/** The image under construction, or as read. */
const area = new Uint8Array(AREA_BYTES);
const area16 = new Uint16Array(area.buffer);
const area32 = new Uint32Array(area.buffer);
const chunk = new Uint8Array(64);

// ---- memory ----------------------------------------------------------------------------------------------------------

let baseLow = 0;
let baseHigh = 0;

/** Bytes at an end of the operand, whose segment must allow it: as `linear` takes them. */
const END = { READ: 1, WRITE: 0x101 } as const;

/** Address of the operand, aligned to `alignment` or #GP(0), into base…. */
function operandAddress(cpu: Processor, record: number, access: number, bytes: number, alignment: number): number {
  // A limit is checked at both ends: more than 255 bytes do not fit the access word
  let status = linear(cpu, record, access);
  if (status !== STATUS.NEXT) return status;
  baseLow = cpu.get(S.EA);
  baseHigh = cpu.get(S.EA + 4);
  if (baseLow & (alignment - 1)) return cpu.fault(VECTOR.GP, 0);
  if (!cpu.long) {
    cpu.set(record + REC.DISP, cpu.get(record + REC.DISP) + bytes - 1);
    status = linear(cpu, record, access);
    cpu.set(record + REC.DISP, cpu.get(record + REC.DISP) - bytes + 1);
  }
  return status;
}

function addressAt(cpu: Processor, offset: number): void {
  const sum = baseLow + offset;
  cpu.low = sum >>> 0;
  cpu.high = cpu.long ? (baseHigh + (sum > 0xffff_ffff ? 1 : 0)) >>> 0 : 0;
}

/** Bytes that a device, or an access that is watched, gets at a time. */
const PIECE = 16;

/** Copies part of the image in, a page at a time. False: S.ACCESS_STATUS has the status. */
function readArea(cpu: Processor, from: number, to: number): boolean {
  let at = from;
  while (at < to) {
    addressAt(cpu, at);
    let count = Math.min(to - at, 4096 - (cpu.low & 0xfff));
    const host = cpu.walker.watching ? TRANSLATE.MMIO : cpu.translate(cpu.low, cpu.high, cpu.dataAccess);
    if (host === TRANSLATE.FAULT) return false;
    if (host >= 0) {
      area.set(cpu.u8.subarray(host, host + count), at);
      cpu.walker.watchpoints?.note(cpu.low, cpu.high, count, false);
    } else {
      count = Math.min(count, PIECE);
      if (!cpu.copyFrom(cpu.low, cpu.high, count, chunk)) return false;
      area.set(chunk.subarray(0, count), at);
    }
    at += count;
  }
  return true;
}

/** Copies part of the image out; its pages have been probed. */
function writeArea(cpu: Processor, from: number, to: number): void {
  let at = from;
  while (at < to) {
    addressAt(cpu, at);
    let count = Math.min(to - at, 4096 - (cpu.low & 0xfff));
    const access = cpu.dataAccess | ACCESS.WRITE;
    const host = cpu.walker.watching ? TRANSLATE.MMIO : cpu.translate(cpu.low, cpu.high, access);
    if (host >= 0) {
      cpu.walker.watchpoints?.note(cpu.low, cpu.high, count, true);
      cpu.u8.set(area.subarray(at, at + count), host);
      if (cpu.walker.oddPage) cpu.walker.stored(host, count);
    } else {
      count = Math.min(count, PIECE);
      chunk.set(area.subarray(at, at + count));
      cpu.copyTo(cpu.low, cpu.high, count, chunk);
    }
    at += count;
  }
}

/** Can all of the area be written? */
function probeArea(cpu: Processor, bytes: number): boolean {
  addressAt(cpu, 0);
  if (!cpu.probeWrite(cpu.low, cpu.high, 1)) return false;
  addressAt(cpu, bytes - 1);
  // A fault on the second page is reported at its first byte
  if ((cpu.low ^ baseLow) >>> 12 === 0) return true;
  return cpu.probeWrite((cpu.low & ~0xfff) >>> 0, cpu.high, 1);
}

// ---- images of the components ----------------------------------------------------------------------------------------

const xmmCount = (cpu: Processor): number => (cpu.long ? 16 : 8);

/** Bytes 0–23 and 32–159. `wide`: REX.W, 64-bit instruction and data pointers. */
function putX87(cpu: Processor, wide: boolean): void {
  const top = cpu.get(S.FTOP) & 7;
  area16[0] = cpu.u16[S.FCW >>> 1]!;
  area16[1] = (cpu.u16[S.FSW >>> 1]! & ~(7 << FSW_TOP_SHIFT)) | (top << FSW_TOP_SHIFT);
  let tags = 0;
  for (let i = 0; i < 8; i += 1) if (cpu.u8[S.FEMPTY + i] === 0) tags |= 1 << i;
  area[4] = tags;
  area[5] = 0;
  area16[3] = cpu.u16[S.FOP >>> 1]!;
  area32[2] = cpu.get(S.FIP);
  area32[3] = wide ? cpu.get(S.FIP + 4) : cpu.u16[S.FCS >>> 1]!;
  area32[4] = cpu.get(S.FDP);
  area32[5] = wide ? cpu.get(S.FDP + 4) : cpu.u16[S.FDS >>> 1]!;
  for (let i = 0; i < 8; i += 1) {
    const from = S.FPR + 16 * ((top + i) & 7);
    const to = 32 + 16 * i;
    for (let b = 0; b < 10; b += 1) area[to + b] = cpu.u8[from + b]!;
    area.fill(0, to + 10, to + 16);
  }
}

function takeX87(cpu: Processor, wide: boolean): void {
  const top = (area16[1]! >>> FSW_TOP_SHIFT) & 7;
  cpu.u16[S.FCW >>> 1] = (area16[0]! & 0x1f7f) | 0x40;
  // ES and B follow the unmasked exceptions
  let fsw = area16[1]! & 0x477f;
  if (fsw & ~area16[0]! & 0x3f) fsw |= 0x8080;
  cpu.u16[S.FSW >>> 1] = fsw;
  cpu.set(S.FTOP, top);
  for (let i = 0; i < 8; i += 1) cpu.u8[S.FEMPTY + i] = (area[4]! >>> i) & 1 ? 0 : 1;
  cpu.u16[S.FOP >>> 1] = area16[3]! & 0x7ff;
  cpu.set64(S.FIP, area32[2]!, wide ? area32[3]! : 0);
  cpu.set64(S.FDP, area32[4]!, wide ? area32[5]! : 0);
  const kept = wide ? 0 : ~cpu.get(S.NO_X87_SELECTORS);
  cpu.u16[S.FCS >>> 1] = area16[6]! & kept;
  cpu.u16[S.FDS >>> 1] = area16[10]! & kept;
  for (let i = 0; i < 8; i += 1) {
    const to = S.FPR + 16 * ((top + i) & 7);
    for (let b = 0; b < 10; b += 1) cpu.u8[to + b] = area[32 + 16 * i + b]!;
  }
}

/** FNINIT's state and empty, zero registers. */
function initX87(cpu: Processor): void {
  cpu.u16[S.FCW >>> 1] = FCW_INIT;
  cpu.u16[S.FSW >>> 1] = 0;
  cpu.set(S.FTOP, 0);
  cpu.u8.fill(1, S.FEMPTY, S.FEMPTY + 8);
  for (const cell of [S.FOP, S.FCS, S.FDS]) cpu.u16[cell >>> 1] = 0;
  cpu.set64(S.FIP, 0, 0);
  cpu.set64(S.FDP, 0, 0);
  cpu.u8.fill(0, S.FPR, S.FPR + 128);
}

function putMxcsr(cpu: Processor): void {
  area32[6] = cpu.get(S.MXCSR);
  area32[7] = MXCSR_MASK;
}

/** XMM or upper YMM halves between the state and the area. */
function putVector(cpu: Processor, cell: number, offset: number): void {
  area.set(cpu.u8.subarray(cell, cell + 16 * xmmCount(cpu)), offset);
}
function takeVector(cpu: Processor, cell: number, offset: number): void {
  cpu.u8.set(area.subarray(offset, offset + 16 * xmmCount(cpu)), cell);
}

const isZero = (cpu: Processor, from: number, bytes: number): boolean => {
  for (let at = from; at < from + bytes; at += 4) if (cpu.get(at) !== 0) return false;
  return true;
};

/** XINUSE: components that are not in their initial configuration. SDM 1 13.6 "Processor Tracking of XSAVE-Managed State". */
export function inUse(cpu: Processor): number {
  let use = 0;
  const initial =
    cpu.u16[S.FCW >>> 1] === FCW_INIT &&
    cpu.u16[S.FSW >>> 1] === 0 &&
    cpu.get(S.FTOP) === 0 &&
    cpu.get(S.FEMPTY) === 0x0101_0101 &&
    cpu.get(S.FEMPTY + 4) === 0x0101_0101 &&
    cpu.u16[S.FOP >>> 1] === 0 &&
    cpu.u16[S.FCS >>> 1] === 0 &&
    cpu.u16[S.FDS >>> 1] === 0 &&
    isZero(cpu, S.FIP, 16) &&
    isZero(cpu, S.FPR, 128);
  if (!initial) use |= XCR0.X87;
  if (!isZero(cpu, S.XMM, 16 * xmmCount(cpu))) use |= XCR0.SSE;
  if (!isZero(cpu, S.YMMH, 16 * xmmCount(cpu))) use |= XCR0.AVX;
  if (cpu.get(S.PKRU) !== 0) use |= XCR0.PKRU;
  return use;
}

// ---- FXSAVE, FXRSTOR -------------------------------------------------------------------------------------------------

/** AMD's fast FXSAVE: XMM registers stay out at level 0 in 64-bit mode. APM 2 3.1.7 "FFXSR". */
const skipsXmm = (cpu: Processor): boolean => (cpu.efer & EFER.FFXSR) !== 0 && cpu.long && cpu.cpl === 0;

const isWide = (cpu: Processor, record: number): boolean => (cpu.aux(record) & AUX.REX_W) !== 0;

export const fxsave: Helper = (cpu, record) => {
  const status = operandAddress(cpu, record, END.WRITE, 512, 16);
  if (status !== STATUS.NEXT) return status;
  if (!probeArea(cpu, 512)) return cpu.accessStatus;
  putX87(cpu, isWide(cpu, record));
  putMxcsr(cpu);
  const withXmm = !skipsXmm(cpu);
  if (withXmm) putVector(cpu, S.XMM, 160);
  writeArea(cpu, 0, withXmm ? 160 + 16 * xmmCount(cpu) : 160);
  return STATUS.NEXT;
};

export const fxrstor: Helper = (cpu, record) => {
  const status = operandAddress(cpu, record, END.READ, 512, 16);
  if (status !== STATUS.NEXT) return status;
  if (!readArea(cpu, 0, 512)) return cpu.accessStatus;
  if (area32[6]! & ~MXCSR_MASK) return cpu.fault(VECTOR.GP, 0);
  takeX87(cpu, isWide(cpu, record));
  cpu.set(S.MXCSR, area32[6]!);
  if (!skipsXmm(cpu)) takeVector(cpu, S.XMM, 160);
  return STATUS.NEXT;
};

// ---- XSAVE, XRSTOR ---------------------------------------------------------------------------------------------------

/**
 * RFBM: components asked for and enabled. For XSAVES and XRSTORS, too: IA32_XSS has no bit here, since there is no supervisor
 * state component. Nor can the XSS-exiting bitmap find one: SDM 3C 25.1.3.
 */
const requested = (cpu: Processor): number => cpu.get(S.XCR0) & cpu.get(gpr(0));

/** End of the standard area that XCR0 enables. */
function standardBytes(mask: number): number {
  let end = XSAVE_LEGACY_AND_HEADER_BYTES;
  if (mask & XCR0.AVX) end = Math.max(end, AVX_OFFSET + 256);
  if (mask & XCR0.PKRU) end = Math.max(end, PKRU_OFFSET + 8);
  return end;
}

/** #UD without CR4.OSXSAVE, #NM with CR0.TS. NEXT if the family may run. */
function checkEnabled(cpu: Processor): number {
  if (!(cpu.cr4 & CR4.OSXSAVE)) return cpu.fault(VECTOR.UD);
  return cpu.cr0 & CR0.TS ? cpu.fault(VECTOR.NM) : STATUS.NEXT;
}

/** XSAVE and XSAVEOPT. The latter leaves out what is in its initial configuration. SDM 1 13.7, 13.9. */
function save(cpu: Processor, record: number, optimize: boolean): number {
  let status = checkEnabled(cpu);
  if (status !== STATUS.NEXT) return status;
  const mask = requested(cpu);
  const bytes = standardBytes(mask);
  status = operandAddress(cpu, record, END.WRITE, bytes, 64);
  if (status !== STATUS.NEXT) return status;
  if (!probeArea(cpu, bytes)) return cpu.accessStatus;
  if (!readArea(cpu, HEADER, HEADER + 8)) return cpu.accessStatus;
  const use = inUse(cpu);
  const written = optimize ? mask & use : mask;
  if (written & XCR0.X87) {
    putX87(cpu, isWide(cpu, record));
    writeArea(cpu, 0, 24);
    writeArea(cpu, 32, 160);
  }
  if (mask & (XCR0.SSE | XCR0.AVX)) {
    putMxcsr(cpu);
    writeArea(cpu, 24, 32);
  }
  if (written & XCR0.SSE) {
    putVector(cpu, S.XMM, 160);
    writeArea(cpu, 160, 160 + 16 * xmmCount(cpu));
  }
  if (written & XCR0.AVX) {
    putVector(cpu, S.YMMH, AVX_OFFSET);
    writeArea(cpu, AVX_OFFSET, AVX_OFFSET + 16 * xmmCount(cpu));
  }
  if (written & XCR0.PKRU) {
    area32[PKRU_OFFSET / 4] = cpu.get(S.PKRU);
    area32[PKRU_OFFSET / 4 + 1] = 0;
    writeArea(cpu, PKRU_OFFSET, PKRU_OFFSET + 8);
  }
  area32[HEADER / 4] = (area32[HEADER / 4]! & ~mask) | (mask & use);
  writeArea(cpu, HEADER, HEADER + 8);
  return STATUS.NEXT;
}

/** In the compacted format XSTATE_BV[1] is 1 too if MXCSR is not as after reset. SDM 1 13.10, 13.11. */
const mxcsrUse = (cpu: Processor, mask: number): number =>
  mask & XCR0.SSE && cpu.get(S.MXCSR) !== MXCSR_RESET ? XCR0.SSE : 0;

export const xsave: Helper = (cpu, record) => save(cpu, record, false);
export const xsaveopt: Helper = (cpu, record) => save(cpu, record, true);

/**
 * XSAVES and XRSTORS behind the checks that they share with the others: level 0, and where L0 lets its guest have them.
 * NEXT, or the status to leave with.
 */
function checkSupervisor(cpu: Processor): number {
  if (cpu.vcpu.intercepts.instructions & INTERCEPT.XSAVES_UD) return cpu.fault(VECTOR.UD);
  const status = checkEnabled(cpu);
  return status === STATUS.NEXT && cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : status;
}

export const xsavec: Helper = (cpu, record) => {
  const status = checkEnabled(cpu);
  return status === STATUS.NEXT ? saveCompact(cpu, record) : status;
};

/** SDM 1 13.11 "Operation of XSAVES". DEVIATION: the modified optimization, which it permits, is not made. */
export const xsaves: Helper = (cpu, record) => {
  const status = checkSupervisor(cpu);
  return status === STATUS.NEXT ? saveCompact(cpu, record) : status;
};

/** The compacted format, initial components left out. SDM 1 13.10 "Operation of XSAVEC". */
function saveCompact(cpu: Processor, record: number): number {
  const mask = requested(cpu);
  const avxAt = XSAVE_LEGACY_AND_HEADER_BYTES;
  const pkruAt = avxAt + (mask & XCR0.AVX ? 256 : 0);
  const bytes = pkruAt + (mask & XCR0.PKRU ? 8 : 0);
  const status = operandAddress(cpu, record, END.WRITE, bytes, 64);
  if (status !== STATUS.NEXT) return status;
  if (!probeArea(cpu, bytes)) return cpu.accessStatus;
  const use = (inUse(cpu) & mask) | mxcsrUse(cpu, mask);
  if (use & XCR0.X87) {
    putX87(cpu, isWide(cpu, record));
    writeArea(cpu, 0, 24);
    writeArea(cpu, 32, 160);
  }
  if (use & XCR0.SSE) {
    putMxcsr(cpu);
    writeArea(cpu, 24, 32);
    putVector(cpu, S.XMM, 160);
    writeArea(cpu, 160, 160 + 16 * xmmCount(cpu));
  }
  if (use & XCR0.AVX) {
    putVector(cpu, S.YMMH, avxAt);
    writeArea(cpu, avxAt, avxAt + 16 * xmmCount(cpu));
  }
  if (use & XCR0.PKRU) {
    area32[pkruAt / 4] = cpu.get(S.PKRU);
    area32[pkruAt / 4 + 1] = 0;
    writeArea(cpu, pkruAt, pkruAt + 8);
  }
  // The rest of the header is the program's. MEASURED on AMD family 26
  area32[HEADER / 4] = use;
  area32[HEADER / 4 + 1] = 0;
  area32[HEADER / 4 + 2] = mask;
  area32[HEADER / 4 + 3] = COMPACT;
  writeArea(cpu, HEADER, HEADER + 16);
  return STATUS.NEXT;
}

/** Header checks of XRSTOR. SDM 1 13.8 "Operation of XRSTOR". */
function headerIsLegal(cpu: Processor, compact: boolean): boolean {
  const header = HEADER / 4;
  const enabled = cpu.get(S.XCR0);
  const present = area32[header]!;
  if (area32[header + 1] !== 0 || present & ~enabled) return false;
  if (compact) {
    const has = area32[header + 2]!;
    if (area32[header + 3] !== COMPACT || has & ~enabled || present & ~has) return false;
    for (let i = 4; i < 16; i += 1) if (area32[header + i] !== 0) return false;
    return true;
  }
  for (let i = 2; i < 6; i += 1) if (area32[header + i] !== 0) return false;
  return true;
}

export const xrstor: Helper = (cpu, record) => {
  const status = checkEnabled(cpu);
  return status === STATUS.NEXT ? restore(cpu, record, false) : status;
};

/** SDM 1 13.12 "Operation of XRSTORS". */
export const xrstors: Helper = (cpu, record) => {
  const status = checkSupervisor(cpu);
  return status === STATUS.NEXT ? restore(cpu, record, true) : status;
};

/** @param onlyCompact  The standard form is #GP(0). */
function restore(cpu: Processor, record: number, onlyCompact: boolean): number {
  const mask = requested(cpu);
  const status = operandAddress(cpu, record, END.READ, XSAVE_LEGACY_AND_HEADER_BYTES, 64);
  if (status !== STATUS.NEXT) return status;
  if (!readArea(cpu, 0, XSAVE_LEGACY_AND_HEADER_BYTES)) return cpu.accessStatus;
  const compact = (area32[HEADER / 4 + 3]! & COMPACT) !== 0;
  if (compact ? !cpu.features.has('xsavec') : onlyCompact) return cpu.fault(VECTOR.GP, 0);
  if (!headerIsLegal(cpu, compact)) return cpu.fault(VECTOR.GP, 0);
  const present = area32[HEADER / 4]!;
  const format = area32[HEADER / 4 + 2]!;
  const avxAt = compact ? XSAVE_LEGACY_AND_HEADER_BYTES : AVX_OFFSET;
  const pkruAt = compact ? avxAt + (format & XCR0.AVX ? 256 : 0) : PKRU_OFFSET;
  const loaded = mask & present;
  if (loaded & XCR0.AVX && !readArea(cpu, avxAt, avxAt + 16 * xmmCount(cpu))) return cpu.accessStatus;
  if (loaded & XCR0.PKRU && !readArea(cpu, pkruAt, pkruAt + 8)) return cpu.accessStatus;
  // The standard form loads MXCSR with SSE or AVX whatever XSTATE_BV says, the compacted one with SSE
  const withMxcsr = compact ? loaded & XCR0.SSE : mask & (XCR0.SSE | XCR0.AVX);
  if (withMxcsr && area32[6]! & ~MXCSR_MASK) return cpu.fault(VECTOR.GP, 0);

  if (mask & XCR0.X87) {
    if (loaded & XCR0.X87) takeX87(cpu, isWide(cpu, record));
    else initX87(cpu);
  }
  if (withMxcsr) cpu.set(S.MXCSR, area32[6]!);
  else if (compact && mask & XCR0.SSE) cpu.set(S.MXCSR, MXCSR_RESET);
  if (mask & XCR0.SSE) {
    if (loaded & XCR0.SSE) takeVector(cpu, S.XMM, 160);
    else cpu.u8.fill(0, S.XMM, S.XMM + 16 * xmmCount(cpu));
  }
  if (mask & XCR0.AVX) {
    if (loaded & XCR0.AVX) takeVector(cpu, S.YMMH, avxAt);
    else cpu.u8.fill(0, S.YMMH, S.YMMH + 16 * xmmCount(cpu));
  }
  if (mask & XCR0.PKRU) setPkru(cpu, loaded & XCR0.PKRU ? area32[pkruAt / 4]! : 0);
  return STATUS.NEXT;
}
