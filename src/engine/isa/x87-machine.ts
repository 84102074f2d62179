import { call, type Expr, I32, I64, i32, i64 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { REC, S } from '../core/layout.ts';
import { callPair, clearStatus, EXC, exc, FSW, PRE_EXCEPTIONS, type Value } from '../float/f80-format.ts';
import { isEmpty, physical, registerAddress } from '../float/f80-stack.ts';
import type { Semantics } from './semantics.ts';

/**
 * The words x87 instructions are written in, on top of Semantics. ST(i) of a form comes from ModRM as the record keeps
 * it, because which register that is depends on TOP when the instruction runs.
 *
 * Pointers: FIP is that of the last instruction that is no control instruction; FDP and FOP only move when the
 * instruction raises an unmasked exception, FCS and FDS stay 0. CPUID says so on Intel (leaf 7, EBX bits 6
 * FDP_EXCPTN_ONLY and 13, FCS and FDS deprecated; AMD has no such bits). SDM 1 8.1.8 "x87 FPU Instruction and Data
 * (Operand) Pointers", 8.1.9 "Last Instruction Opcode".
 */
export class X87Semantics {
  readonly m: Semantics;

  /** `wait`: a pending unmasked exception is raised first. SDM 1 8.6 "x87 FPU Exception Synchronization". */
  constructor(m: Semantics, wait = true) {
    this.m = m;
    // With CR0.NE clear it becomes EXIT.FERR where exceptions are delivered
    if (wait) m.rarely(i32.and(i32.load16U(ZERO, S.FSW), i32.const(FSW.ES)), () => m.raise(16));
  }

  // ---- registers ----

  /** i of ST(i), as ModRM has it. */
  get index(): Expr {
    return i32.and(this.m.field32(REC.EXTRA), i32.const(7));
  }

  /** Number of the physical register that ST(i) is, in a local. */
  register(i: Expr | number): Local {
    return this.m.let(physical(typeof i === 'number' ? i32.const(i) : i));
  }

  read(register: Local): Value {
    const address = this.m.let(registerAddress(register.get));
    return {
      sig: this.m.let(i64.load(address.get, S.FPR)),
      se: this.m.let(i32.load16U(address.get, S.FPR + 8)),
    };
  }

  write(register: Local, value: Value): void {
    const address = this.m.let(registerAddress(register.get));
    this.m.f.do(i64.store(address.get, value.sig.get, S.FPR));
    this.m.f.do(i32.store16(address.get, value.se.get, S.FPR + 8));
  }

  empty(register: Local): Expr {
    return isEmpty(register.get);
  }

  fill(register: Local): void {
    this.m.f.do(i32.store8(register.get, ZERO, S.FEMPTY));
  }

  pop(): void {
    this.m.f.do(this.call('x87.pop'));
  }

  // ---- when nothing is unusual: no stack fault, no exception that is not masked ----

  /** C1 cleared, FIP noted, `pops` registers popped from `top`, which is ST(0). */
  settle(top: Local, pops = 0): void {
    clearStatus(this.m.f, FSW.C1);
    this.settleRest(top, pops);
  }

  /** The same with what is in EXC added to the status word. */
  settleExceptions(top: Local, pops = 0): void {
    const now = i32.and(i32.load16U(ZERO, S.FSW), i32.const(~FSW.C1));
    this.m.f.do(i32.store16(ZERO, i32.or(now, exc()), S.FSW));
    this.settleRest(top, pops);
  }

  /** The same without the status word. */
  settleRest(top: Local, pops: number): void {
    const { f } = this.m;
    this.instructionPointer();
    for (let i = 0; i < pops; i++) {
      const number = i === 0 ? top.get : i32.and(i32.add(top.get, i32.const(i)), i32.const(7));
      f.do(i32.store8(number, i32.const(1), S.FEMPTY));
    }
    if (pops > 0) f.do(i32.store(ZERO, i32.and(i32.add(top.get, i32.const(pops)), i32.const(7)), S.FTOP));
  }

  // ---- the library ----

  call(name: string, ...args: Expr[]): Expr {
    return call(this.m.lib.byName(name), ...args);
  }

  pair(name: string, ...args: Expr[]): Value {
    const value = { sig: this.m.f.local(I64), se: this.m.f.local(I32) };
    callPair(this.m.f, value, this.m.lib.byName(name), ...args);
    return value;
  }

  assign(value: Value, name: string, ...args: Expr[]): void {
    callPair(this.m.f, value, this.m.lib.byName(name), ...args);
  }

  /** No exceptions so far. */
  begin(): void {
    this.m.f.do(i32.store(ZERO, ZERO, EXC));
  }

  raise(what: number): void {
    this.m.f.do(i32.store(ZERO, i32.const(what), EXC));
  }

  // ---- ends ----

  /** FIP, and FDP and FOP after an unmasked exception; then pops if the instruction has happened. */
  finish(status: Local, pops = 0): void {
    const { f } = this.m;
    this.instructionPointer();
    f.if(status.get, () => {
      const opcode = this.m.field16(REC.EXTRA);
      // ModRM is the low byte of FOP, the opcode's low three bits are its bits 8–10.
      f.do(i32.store16(ZERO, i32.and(opcode, i32.const(0x7ff)), S.FOP));
      if (this.m.operands.some(({ kind }) => kind === 'mem')) {
        const offset = i64.sub(this.m.address().get, this.segmentBase());
        f.do(i64.store(ZERO, this.m.long ? offset : i64.and(offset, i64.halves(-1, 0)), S.FDP));
      }
    });
    if (pops > 0) {
      f.if(i32.eqz(i32.and(status.get, i32.const(PRE_EXCEPTIONS))), () => {
        for (let i = 0; i < pops; i++) this.pop();
      });
    }
  }

  instructionPointer(): void {
    const linear = i64.add(i64.load(ZERO, S.RIP_PAGE), i64.extendI32U(this.m.field16(REC.OFFSET)));
    const pointer = i64.sub(linear, i64.load(ZERO, S.SEG_BASE + 8));
    this.m.f.do(i64.store(ZERO, this.m.long ? pointer : i64.and(pointer, i64.halves(-1, 0)), S.FIP));
  }

  segmentBase(): Expr {
    return i64.load(this.m.field16(REC.SEG));
  }

  /** Binds a status so that it can be tested twice. */
  status(): Local {
    return this.m.f.local(I32);
  }

  /** `linear + offset`, wrapped where addresses have 32 bits. */
  beyond(linear: Local, offset: number): Local {
    const sum = i64.add(linear.get, i64.const(offset));
    return this.m.let(this.m.long ? sum : i64.and(sum, i64.halves(-1, 0)));
  }
}

export const ZERO = i32.const(0);

/** What ten bytes of memory hold, in locals. */
export function loadTen(m: Semantics, x: X87Semantics): Value {
  const linear = m.address();
  const sig = m.let(m.loadMemory(linear, 8));
  const se = m.let(i32.wrap(m.loadMemory(x.beyond(linear, 8), 2)));
  return { sig, se };
}

/** Writes ten bytes, all or none. */
export function storeTen(m: Semantics, value: Value): void {
  const host = m.writable(m.address(), 10);
  m.f.do(i64.store(host.get, value.sig.get));
  m.f.do(i32.store16(host.get, value.se.get, 8));
  m.commit(host);
}
