/**
 * One instruction with the state before it, and what a processor made of it: the types, and their binary form.
 *
 * Owns    the record layouts that native/oracle.c reads and writes, and that vector files keep; the addresses of the
 *         pages that every case runs in, and what untouched memory holds.
 * Knows   nothing of where an outcome comes from: the real processor, the interpreter or the compiler.
 */

/** The pages of a case. Each exists a second time at HIGH + address, except that 32-bit code cannot reach it. */
export const PAGES = {
  /** Two pages, readable, writable, executable, full of INT3. */
  CODE: 0x1000_0000,
  /** Two pages, readable and writable; the pages before and after are not mapped. */
  DATA: 0x2000_0000,
  /** One page, read-only; the pages around it are not mapped. */
  RODATA: 0x2000_3000,
  /** One page, readable and writable; the pages around it are not mapped. */
  STACK: 0x3000_0000,
  HIGH: 0x7e00_0000_0000n,
} as const;

/** Page, its length in bytes and the seed of its pattern; DATA and STACK share one run of the generator. */
const DATA_BYTES = 8192;
const PAGE_BYTES = 4096;

/** What memory holds where a case's windows do not say otherwise: `fill_pattern` of native/oracle.c. */
export function untouchedMemory(): {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly writable: boolean;
}[] {
  const fill = (count: number, start: number) => {
    let seed = start;
    return Uint8Array.from({ length: count }, () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed >>> 24;
    });
  };
  const writable = fill(DATA_BYTES + PAGE_BYTES, 1);
  return [
    { address: PAGES.DATA, bytes: writable.subarray(0, DATA_BYTES), writable: true },
    { address: PAGES.STACK, bytes: writable.subarray(DATA_BYTES), writable: true },
    { address: PAGES.RODATA, bytes: fill(PAGE_BYTES, 2), writable: false },
  ];
}

/** A user program's registers. */
export interface CpuState {
  /** RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15: the encoding's order. */
  readonly gpr: BigUint64Array;
  rip: bigint;
  rflags: number;
  fsBase: bigint;
  gsBase: bigint;
  /** FXSAVE image, 512 bytes (the 64-bit format without REX.W: FIP and FDP do not count). */
  readonly fxsave: Uint8Array;
  /** Bits 255:128 of YMM0–YMM15. */
  readonly ymmHigh: Uint8Array;
}

export interface MemoryWindow {
  /** In DATA or STACK (below 4 GiB); the window ends in the same region. */
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface CpuCase {
  readonly mode: 64 | 32;
  /** One instruction at `before.rip`, which lies in CODE or HIGH + CODE. Bytes past CODE's end are not there. */
  readonly code: Uint8Array;
  /** `code` is a sequence of so many instructions, 64 bytes at most, without branches. */
  readonly instructions?: number;
  readonly before: CpuState;
  readonly memory: readonly MemoryWindow[];
  /** Which parts of the state the case sets and compares; without them the FP state is FNINIT's, with XMM zero. */
  readonly fp: boolean;
  readonly ymm: boolean;
}

/** No fault: the instruction ended and the INT3 at `after.rip` was met, or fetching at `after.rip` failed. */
export const DONE = -1;
export const TIMEOUT = 254;
export const SYSTEM_CALL = 255;

export interface CpuOutcome {
  /** DONE, an exception vector, TIMEOUT or SYSTEM_CALL. */
  vector: number;
  /** Meaningless without an exception. For #PF as the processor pushed it. */
  errorCode: number;
  /** Faulting address if `vector` is 14, else 0. */
  cr2: bigint;
  /** For a fault, `rip` is the instruction's own; for a trap (INT3, INTO, INT1) the next one's. */
  after: CpuState;
  memory: MemoryWindow[];
  /** Memory outside the windows changed: the case cannot be compared. */
  stray: boolean;
  /** The FP state changed although the case has none: it cannot be compared. */
  fpChanged: boolean;
}

const FLAG = { MODE_32: 1, FP: 2, YMM: 4 } as const;
/** Above the flags of a case: `instructions`, which the oracle need not know. */
const INSTRUCTIONS_SHIFT = 8;
const OUTCOME_FLAG = { STRAY: 1, FP: 2, YMM: 4, FP_CHANGED: 8 } as const;
const GPRS = 16;
const CODE_BYTES = 64;
const CASE_HEAD = 8 + 8 + GPRS * 8 + 3 * 8 + CODE_BYTES;
const OUTCOME_HEAD = 8 + 8 + 16 + GPRS * 8 + 3 * 8;
const FXSAVE_BYTES = 512;
const YMMH_BYTES = 256;

/** Little-endian, as the host is where this runs. */
const bytesOf = (words: BigUint64Array) => new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

/** FNINIT, MXCSR at its reset value, XMM zero, all general registers zero. */
export function freshState(): CpuState {
  const fxsave = new Uint8Array(FXSAVE_BYTES);
  const view = new DataView(fxsave.buffer);
  view.setUint16(0, 0x37f, true);
  view.setUint32(24, 0x1f80, true);
  view.setUint32(28, 0xffff, true);
  return {
    gpr: new BigUint64Array(GPRS),
    rip: BigInt(PAGES.CODE),
    rflags: 0x202,
    fsBase: 0n,
    gsBase: 0n,
    fxsave,
    ymmHigh: new Uint8Array(YMMH_BYTES),
  };
}

const FRESH = freshState();

/** A state with the general registers at `at`. FP parts that a record does not carry are shared by all: do not write. */
function decodedState(bytes: Uint8Array, at: number, fp: boolean, ymm: boolean): CpuState {
  const start = bytes.byteOffset + at;
  return {
    gpr: new BigUint64Array(bytes.buffer.slice(start, start + GPRS * 8)),
    rip: 0n,
    rflags: 0,
    fsBase: 0n,
    gsBase: 0n,
    fxsave: fp ? new Uint8Array(FXSAVE_BYTES) : FRESH.fxsave,
    ymmHigh: ymm ? new Uint8Array(YMMH_BYTES) : FRESH.ymmHigh,
  };
}

const partsBytes = (fp: boolean, ymm: boolean, windows: readonly MemoryWindow[]) =>
  (fp ? FXSAVE_BYTES : 0) + (ymm ? YMMH_BYTES : 0) + windows.reduce((sum, { bytes }) => sum + 8 + bytes.length, 0);

export function encodeCase(one: CpuCase): Uint8Array {
  const size = CASE_HEAD + partsBytes(one.fp, one.ymm, one.memory);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true);
  const flags = (one.mode === 32 ? FLAG.MODE_32 : 0) | (one.fp ? FLAG.FP : 0) | (one.ymm ? FLAG.YMM : 0);
  view.setUint16(4, flags | ((one.instructions ?? 0) << INSTRUCTIONS_SHIFT), true);
  view.setUint8(6, one.code.length);
  view.setUint8(7, one.memory.length);
  view.setBigUint64(8, one.before.rip, true);
  bytes.set(bytesOf(one.before.gpr), 16);
  view.setBigUint64(144, BigInt(one.before.rflags), true);
  view.setBigUint64(152, one.before.fsBase, true);
  view.setBigUint64(160, one.before.gsBase, true);
  bytes.set(one.code, 168);
  putParts(bytes, CASE_HEAD, one.fp, one.ymm, one.before, one.memory);
  return bytes;
}

/** @param at  Where the record starts in `bytes`. */
export function decodeCase(bytes: Uint8Array, at: number): CpuCase {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at);
  const flags = view.getUint16(4, true);
  const fp = (flags & FLAG.FP) !== 0;
  const ymm = (flags & FLAG.YMM) !== 0;
  const before = decodedState(bytes, at + 16, fp, ymm);
  before.rip = view.getBigUint64(8, true);
  before.rflags = view.getUint32(144, true);
  before.fsBase = view.getBigUint64(152, true);
  before.gsBase = view.getBigUint64(160, true);
  const code = Uint8Array.from(bytes.subarray(at + 168, at + 168 + view.getUint8(6)));
  const memory = takeParts(bytes, at + CASE_HEAD, fp, ymm, before, view.getUint8(7));
  const instructions = flags >>> INSTRUCTIONS_SHIFT;
  const one: CpuCase = { mode: flags & FLAG.MODE_32 ? 32 : 64, code, before, memory, fp, ymm };
  return instructions > 0 ? { ...one, instructions } : one;
}

/** The record as the oracle writes it. `one` says what the INT3 after the instruction means. */
export function encodeOutcome(one: CpuCase, outcome: CpuOutcome): Uint8Array {
  const size = OUTCOME_HEAD + partsBytes(one.fp, one.ymm, outcome.memory);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  const done = outcome.vector === DONE;
  const flags =
    (outcome.stray ? OUTCOME_FLAG.STRAY : 0) |
    (one.fp ? OUTCOME_FLAG.FP : 0) |
    (one.ymm ? OUTCOME_FLAG.YMM : 0) |
    (outcome.fpChanged ? OUTCOME_FLAG.FP_CHANGED : 0);
  view.setUint32(0, size, true);
  view.setUint16(4, flags, true);
  view.setUint8(6, done ? 3 : outcome.vector);
  view.setUint8(7, outcome.memory.length);
  view.setUint32(8, outcome.errorCode, true);
  view.setBigUint64(16, outcome.cr2, true);
  view.setBigUint64(24, done ? (outcome.after.rip + 1n) & 0xffff_ffff_ffff_ffffn : outcome.after.rip, true);
  bytes.set(bytesOf(outcome.after.gpr), 32);
  view.setBigUint64(160, BigInt(outcome.after.rflags), true);
  view.setBigUint64(168, outcome.after.fsBase, true);
  view.setBigUint64(176, outcome.after.gsBase, true);
  putParts(bytes, OUTCOME_HEAD, one.fp, one.ymm, outcome.after, outcome.memory);
  return bytes;
}

export const outcomeSize = (bytes: Uint8Array, at: number): number =>
  at + 4 <= bytes.length ? new DataView(bytes.buffer, bytes.byteOffset + at).getUint32(0, true) : 0;
export const caseSize = outcomeSize;

export function decodeOutcome(one: CpuCase, bytes: Uint8Array, at: number): CpuOutcome {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at);
  const flags = view.getUint16(4, true);
  const after = decodedState(bytes, at + 32, one.fp, one.ymm);
  after.rip = view.getBigUint64(24, true);
  after.rflags = view.getUint32(160, true);
  after.fsBase = view.getBigUint64(168, true);
  after.gsBase = view.getBigUint64(176, true);
  const memory = takeParts(bytes, at + OUTCOME_HEAD, one.fp, one.ymm, after, view.getUint8(7));
  const outcome: CpuOutcome = {
    vector: view.getUint8(6),
    errorCode: view.getUint32(8, true),
    cr2: view.getBigUint64(16, true),
    after,
    memory,
    stray: (flags & OUTCOME_FLAG.STRAY) !== 0,
    fpChanged: (flags & OUTCOME_FLAG.FP_CHANGED) !== 0,
  };
  settle(one, outcome);
  return outcome;
}

/**
 * Tells how the instruction ended from how the case ended: an INT3 behind it, or a failing fetch at a branch's
 * target, is no event of the instruction.
 */
function settle(one: CpuCase, outcome: CpuOutcome): void {
  const { after, vector } = outcome;
  const start = one.before.rip;
  // INT3 is a trap: RIP is after it. The tested instruction itself can be one only where it starts.
  const length = after.rip - start;
  const ownInt3 = one.code.includes(0xcc) && length > 0n && length <= BigInt(one.code.length);
  if (vector === 3 && !ownInt3) {
    outcome.vector = DONE;
    after.rip -= 1n;
  }
  settleFetch(one, outcome);
}

/** A #PF with another RIP than the instruction's is the fetch at a branch's target: the branch is done. */
export function settleFetch(one: CpuCase, outcome: CpuOutcome): void {
  const isTarget = one.instructions === undefined && outcome.after.rip !== one.before.rip;
  if (outcome.vector === 14 && isTarget) outcome.vector = DONE;
  if (outcome.vector === DONE) outcome.errorCode = 0;
  if (outcome.vector !== 14) outcome.cr2 = 0n;
}

function putParts(
  bytes: Uint8Array,
  start: number,
  fp: boolean,
  ymm: boolean,
  state: CpuState,
  windows: readonly MemoryWindow[],
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = start;
  if (fp) {
    bytes.set(state.fxsave, at);
    at += FXSAVE_BYTES;
  }
  if (ymm) {
    bytes.set(state.ymmHigh, at);
    at += YMMH_BYTES;
  }
  for (const window of windows) {
    view.setUint32(at, window.address, true);
    view.setUint32(at + 4, window.bytes.length, true);
    bytes.set(window.bytes, at + 8);
    at += 8 + window.bytes.length;
  }
}

function takeParts(
  bytes: Uint8Array,
  start: number,
  fp: boolean,
  ymm: boolean,
  state: CpuState,
  count: number,
): MemoryWindow[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = start;
  if (fp) {
    state.fxsave.set(bytes.subarray(at, at + FXSAVE_BYTES));
    at += FXSAVE_BYTES;
  }
  if (ymm) {
    state.ymmHigh.set(bytes.subarray(at, at + YMMH_BYTES));
    at += YMMH_BYTES;
  }
  const windows: MemoryWindow[] = [];
  for (let i = 0; i < count; i++) {
    const length = view.getUint32(at + 4, true);
    windows.push({
      address: view.getUint32(at, true),
      bytes: Uint8Array.from(bytes.subarray(at + 8, at + 8 + length)),
    });
    at += 8 + length;
  }
  return windows;
}
