/** Tells in words how two outcomes of one case differ; what is undefined, or each vendor's own, does not count. */
import { type CpuCase, type CpuOutcome, DONE } from './protocol.ts';

const NAMES = 'RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15'.split(' ');
/** CF PF AF ZF SF DF OF AC. Not RF, which only says that a fault was pushed; not TF, IF, IOPL, which user code cannot set. */
const RFLAGS_COMPARED = 0x4_0cd5;
const hex = (value: bigint | number) => `0x${value.toString(16)}`;

/** What need not be equal. */
export interface Leeway {
  /** RFLAGS bits, x87 status bits that are undefined after completion. */
  readonly undefinedFlags?: number;
  readonly undefinedStatus?: number;
  /** They are undefined after a fault too: of a later instruction. */
  readonly sequence?: boolean;
  /**
   * The instruction makes several accesses in an order of the processor's own: of a fault, CR2,
   * the error code's W and what was written before it do not count.
   */
  readonly ownOrder?: boolean;
  /** An MMX instruction: if it faults, TOP and the tags may have become MMX's already. MEASURED on AMD family 25. */
  readonly mmx?: boolean;
}

/**
 * @returns  One line a difference, the expected value first; empty if they agree.
 */
export function differences(
  one: CpuCase,
  expected: CpuOutcome,
  actual: CpuOutcome,
  { undefinedFlags = 0, undefinedStatus = 0, sequence = false, ownOrder = false, mmx = false }: Leeway,
): string[] {
  const found: string[] = [];
  const check = (what: string, a: bigint | number, b: bigint | number) => {
    if (a !== b) found.push(`${what}: ${hex(a)}, not ${hex(b)}`);
  };
  check('vector', expected.vector, actual.vector);
  if (found.length > 0) {
    const name = (vector: number) => (vector === DONE ? 'none' : `#${vector}`);
    return [`exception: ${name(expected.vector)} is right, ${name(actual.vector)} came`];
  }
  const W = ownOrder ? 2 : 0; // whether the load or the store came first
  check('error code', expected.errorCode & ~W, actual.errorCode & ~W);
  if (!ownOrder) check('CR2', expected.cr2, actual.cr2);
  check('RIP', expected.after.rip, actual.after.rip);
  for (const [i, name] of NAMES.entries()) {
    if (one.mode === 32 && i >= 8) break;
    const mask = one.mode === 32 ? 0xffff_ffffn : 0xffff_ffff_ffff_ffffn;
    check(name, expected.after.gpr[i]! & mask, actual.after.gpr[i]! & mask);
  }
  // Flags are "undefined" after completion only; a fault leaves them as they were.
  const ran = expected.vector === DONE || sequence;
  const flagMask = RFLAGS_COMPARED & ~(ran ? undefinedFlags : 0);
  check('RFLAGS', expected.after.rflags & flagMask, actual.after.rflags & flagMask);
  if (one.mode === 64) {
    check('FS base', expected.after.fsBase, actual.after.fsBase);
    check('GS base', expected.after.gsBase, actual.after.gsBase);
  }
  const x87 = !(mmx && expected.vector !== DONE);
  if (one.fp) compareFp(expected.after.fxsave, actual.after.fxsave, ran ? undefinedStatus : 0, one.mode, x87, check);
  if (one.ymm) {
    const a = new DataView(expected.after.ymmHigh.buffer, expected.after.ymmHigh.byteOffset);
    const b = new DataView(actual.after.ymmHigh.buffer, actual.after.ymmHigh.byteOffset);
    for (let i = 0; i < 32; i++)
      check(`YMM${i >> 1} ${128 + (i & 1) * 64}+`, a.getBigUint64(i * 8, true), b.getBigUint64(i * 8, true));
  }
  if (ownOrder && expected.vector !== DONE) return found;
  for (const [i, window] of expected.memory.entries()) {
    const other = actual.memory[i]!.bytes;
    window.bytes.forEach((byte, at) => {
      if (byte !== other[at] && found.length < 40) check(`[${hex(window.address + at)}]`, byte, other[at]!);
    });
  }
  return found;
}

type Check = (what: string, a: bigint | number, b: bigint | number) => void;

/** Not FOP, FIP, FDP: AMD keeps them only with an exception pending, Intel drops some by CPUID. */
function compareFp(
  a: Uint8Array,
  b: Uint8Array,
  undefinedStatus: number,
  mode: 32 | 64,
  x87: boolean,
  check: Check,
): void {
  const x = new DataView(a.buffer, a.byteOffset);
  const y = new DataView(b.buffer, b.byteOffset);
  check('MXCSR', x.getUint32(24, true), y.getUint32(24, true));
  if (x87) compareX87(x, y, undefinedStatus, check);
  for (let i = 0; i < (mode === 64 ? 16 : 8); i++) {
    check(`XMM${i} low`, x.getBigUint64(160 + i * 16, true), y.getBigUint64(160 + i * 16, true));
    check(`XMM${i} high`, x.getBigUint64(168 + i * 16, true), y.getBigUint64(168 + i * 16, true));
  }
}

function compareX87(x: DataView, y: DataView, undefinedStatus: number, check: Check): void {
  check('FCW', x.getUint16(0, true), y.getUint16(0, true));
  check('FSW', x.getUint16(2, true) & ~undefinedStatus, y.getUint16(2, true) & ~undefinedStatus);
  check('FTW', x.getUint8(4), y.getUint8(4));
  for (let i = 0; i < 8; i++) {
    check(`ST${i} mantissa`, x.getBigUint64(32 + i * 16, true), y.getBigUint64(32 + i * 16, true));
    check(`ST${i} exponent`, x.getUint16(40 + i * 16, true), y.getUint16(40 + i * 16, true));
  }
}
