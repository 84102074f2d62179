import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, XCR0 } from '../../arch/registers.ts';
import { TWO_32 } from '../../base/bits.ts';
import { type Expr, i32, i64, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { setPkru } from '../core/control-registers.ts';
import { INTERCEPT } from '../core/cpu.ts';
import { EXIT, type ExitReason, X } from '../core/exits.ts';
import type { Helper } from '../core/helpers.ts';
import { intercepts } from '../core/intercepts.ts';
import { gpr, OPEN_MSR, OPEN_MSRS, S, STATUS } from '../core/layout.ts';
import { rmField, setEdxEax } from '../core/operands.ts';
import type { Processor } from '../core/processor.ts';
import { inUse } from '../core/state-save.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/**
 * Instructions that ask the processor who it is, what time it is, or that wait: most of them are L0's to answer.
 * SDM 1 5.20 "System Instructions"; interception: SDM 3C 25.1.2, 25.1.3.
 */

const [RAX, RCX, RDX] = [0, 1, 2];
const ECX = gpr(RCX);

/** Leaves always, and only level 0 may. */
const privileged =
  (reason: ExitReason): Helper =>
  (cpu, record) =>
    cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : cpu.exitBefore(reason, record);

const rdmsr: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (!cpu.host.msrRead(cpu.get(gpr(1)))) return cpu.exitBefore(EXIT.RDMSR, record);
  setEdxEax(cpu, cpu.host.msrLow, cpu.host.msrHigh);
  return STATUS.NEXT;
};

const wrmsr: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (!cpu.host.msrWrite(cpu.get(gpr(1)), cpu.get(gpr(0)), cpu.get(gpr(2)))) return cpu.exitBefore(EXIT.WRMSR, record);
  return STATUS.NEXT;
};

/** S.MSR_BITMAP has the bit of an MSR, at CPL 0: SDM 3C 24.6.9 "MSR-Bitmap Address". */
function isAskedFor(index: Local, access: number): Expr {
  const zero = i32.const(0);
  const bitmap = i32.load(zero, S.MSR_BITMAP);
  // Low MSRs, or those from C000_0000H on, behind which the second KiB is
  const low = i32.and(index.get, i32.const(0x1fff));
  const isInRange = i32.eqz(i32.and(index.get, i32.const(0x3fff_e000)));
  const isHalf = i32.eqz(i32.and(i32.xor(index.get, i32.shl(index.get, i32.const(1))), i32.const(0x8000_0000)));
  const kib = i32.and(i32.shrU(index.get, i32.const(21)), i32.const(1024));
  const at = i32.add(i32.add(bitmap, kib), i32.shrU(low, i32.const(3)));
  const byte = i32.load8U(at, access === OPEN_MSR.READ ? 0 : 2048);
  const bit = i32.and(i32.shrU(byte, i32.and(index.get, i32.const(7))), i32.const(1));
  const isOpen = i32.and(
    i32.and(isInRange, isHalf),
    i32.and(i32.gtU(bitmap, i32.const(1)), i32.eqz(i32.load(zero, S.CPL))),
  );
  return i32.and(isOpen, bit);
}

/**
 * RDMSR or WRMSR of one of OPEN_MSRS, where neither the level nor a bitmap forbids it; else `helper`.
 *
 * @returns  The address of its slot.
 */
function openMsr(m: Semantics, helper: Helper, access: number): Local {
  const zero = i32.const(0);
  const leaves = (): void => m.exitBefore(access === OPEN_MSR.READ ? EXIT.RDMSR : EXIT.WRMSR);
  const index = m.let(i32.wrap(m.reg(RCX)));
  const fold = i32.and(i32.xor(index.get, i32.shrU(index.get, i32.const(3))), i32.const(OPEN_MSRS.SLOTS - 1));
  const slot = m.let(i32.add(i32.const(OPEN_MSRS.AT), i32.mul(fold, i32.const(OPEN_MSRS.SLOT_BYTES))));
  const isOpen = i32.and(
    i32.eq(i32.load(slot.get, OPEN_MSRS.INDEX), index.get),
    i32.ne(i32.and(i32.load(slot.get, OPEN_MSRS.ACCESS), i32.const(access)), zero),
  );
  m.f.if(i32.or(i32.load(zero, S.CPL), i32.eqz(isOpen)), () => {
    m.rarely(isAskedFor(index, access), leaves);
    m.helperInstead(helper);
  });
  const bitmap = m.let(i32.load(zero, S.MSR_BITMAP));
  m.f.if(bitmap.get, () => {
    // 1 is no page: what is looked at there does not count
    const first = access === OPEN_MSR.READ ? 0 : 2048;
    const byte = i32.load8U(i32.add(bitmap.get, i32.shrU(index.get, i32.const(3))), first);
    const bit = i32.and(i32.shrU(byte, i32.and(index.get, i32.const(7))), i32.const(1));
    m.rarely(i32.or(bit, i32.eq(bitmap.get, i32.const(1))), leaves);
  });
  return slot;
}

/** Asks L0 for the time. `timeLow`, and the host's `tscHigh`. */
function readTime(cpu: Processor, record: number): void {
  const instructions = cpu.instructionsAt(record);
  timeLow = cpu.host.tsc(instructions);
  cpu.layOpenTsc(instructions, timeLow, cpu.host.tscHigh);
}
let timeLow = 0;

function readTsc(cpu: Processor, record: number): void {
  readTime(cpu, record);
  setEdxEax(cpu, timeLow, cpu.host.tscHigh);
}

/** The time-stamp counter as S.TSC_RATE and S.TSC_BASE have it. */
const openTime = (m: Semantics, rate: Local): Expr =>
  i64.add(i64.load(i32.const(0), S.TSC_BASE), i64.mul(m.retired(), i64.extendI32U(rate.get)));

/** EDX:EAX, if nothing forbids it and no one has to be asked; else `helper`. */
function timeStamp(m: Semantics, helper: Helper, intercept: number): void {
  const zero = i32.const(0);
  const rate = m.let(i32.load(zero, S.TSC_RATE));
  const isUser = i32.and(i32.load(zero, S.CR4), select(i32.load(zero, S.CPL), i32.const(CR4.TSD), zero));
  m.f.if(i32.or(i32.or(i32.eqz(rate.get), isUser), m.intercepted(intercept)), () => m.helperInstead(helper));
  const now = m.let(openTime(m, rate));
  m.setReg(0, now.get, 4);
  m.setReg(2, i64.shrU(now.get, i64.const(32)));
}

/** The part of `pause` that goes on, where generated code knows the time. */
function countPause(m: Semantics): void {
  const zero = i32.const(0);
  const rate = m.let(i32.load(zero, S.TSC_RATE));
  m.f.if(i32.or(i32.eqz(rate.get), m.intercepted(INTERCEPT.PAUSE)), () => m.helperInstead(pause));
  const now = m.let(openTime(m, rate));
  const begun = m.let(i64.load(zero, S.PAUSE_FIRST));
  const since = i64.sub(now.get, i64.load(zero, S.PAUSE_LAST));
  const isNew = i32.or(i64.eqz(begun.get), i64.gtU(since, i64.load32U(zero, S.PLE_GAP)));
  const first = m.let(select(isNew, now.get, begun.get));
  const isLong = i64.gtU(i64.sub(now.get, first.get), i64.load32U(zero, S.PLE_WINDOW));
  m.f.if(i32.or(isLong, i32.load(zero, S.CPL)), () => m.helperInstead(pause));
  m.f.do(i64.store(zero, first.get, S.PAUSE_FIRST));
  m.f.do(i64.store(zero, now.get, S.PAUSE_LAST));
}

const tscIsRefused = (cpu: Processor): boolean => (cpu.cr4 & CR4.TSD) !== 0 && cpu.cpl !== 0;

const rdtsc: Helper = (cpu, record) => {
  if (tscIsRefused(cpu)) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.RDTSC)) return cpu.exitBefore(EXIT.RDTSC, record);
  readTsc(cpu, record);
  return STATUS.NEXT;
};

const rdtscp: Helper = (cpu, record) => {
  if (cpu.vcpu.intercepts.instructions & INTERCEPT.RDTSCP_UD) return cpu.fault(VECTOR.UD);
  if (tscIsRefused(cpu)) return cpu.fault(VECTOR.GP, 0);
  if (intercepts(cpu, INTERCEPT.RDTSCP)) return cpu.exitBefore(EXIT.RDTSCP, record);
  readTsc(cpu, record);
  cpu.set64(ECX, cpu.get(S.TSC_AUX), 0);
  return STATUS.NEXT;
};

/** RDPID goes with RDTSCP: SDM 3C 25.3. The row is there without the feature too: F3 is not a prefix of RDSEED. */
const rdpid: Helper = (cpu, record) => {
  if (!cpu.features.has('rdpid')) return cpu.fault(VECTOR.UD);
  if (cpu.vcpu.intercepts.instructions & INTERCEPT.RDTSCP_UD) return cpu.fault(VECTOR.UD);
  cpu.set64(gpr(rmField(cpu, record)), cpu.get(S.TSC_AUX), 0);
  return STATUS.NEXT;
};

/** There are no counters: past the checks it is #GP(0). */
const rdpmc: Helper = (cpu, record) => {
  if (!(cpu.cr4 & CR4.PCE) && cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  return intercepts(cpu, INTERCEPT.RDPMC) ? cpu.exitBefore(EXIT.RDPMC, record) : cpu.fault(VECTOR.GP, 0);
};

/** SDM 3C 25.1.3 "PAUSE": by the one control always, by the other when a loop at level 0 has taken longer than its window. */
const pause: Helper = (cpu, record) => {
  if (intercepts(cpu, INTERCEPT.PAUSE)) return cpu.exitBefore(EXIT.PAUSE, record);
  if (!intercepts(cpu, INTERCEPT.PAUSE_LOOP) || cpu.cpl !== 0) return STATUS.NEXT;
  let low: number;
  let high: number;
  if (cpu.host.tscRate === 0) {
    const ticks = cpu.host.ticks(cpu.instructionsAt(record));
    low = ticks % TWO_32;
    high = Math.floor(ticks / TWO_32);
  } else {
    readTime(cpu, record);
    low = timeLow;
    high = cpu.host.tscHigh;
  }
  // An earlier time, of another clock, is far away too
  const isWithin = (cell: number, ticks: number): boolean => {
    const since = (high - cpu.get(cell + 4)) * TWO_32 + low - cpu.get(cell);
    return since >= 0 && since <= ticks;
  };
  const isNone = cpu.get(S.PAUSE_FIRST) === 0 && cpu.get(S.PAUSE_FIRST + 4) === 0;
  if (isNone || !isWithin(S.PAUSE_LAST, cpu.get(S.PLE_GAP))) cpu.set64(S.PAUSE_FIRST, low, high);
  cpu.set64(S.PAUSE_LAST, low, high);
  return isWithin(S.PAUSE_FIRST, cpu.get(S.PLE_WINDOW)) ? STATUS.NEXT : cpu.exitBefore(EXIT.PAUSE, record);
};

/** Without interception MONITOR only checks, and MWAIT does not wait: SDM 2B "MWAIT" allows it to end at any time. */
const monitor: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.UD);
  if (cpu.get(ECX) !== 0) return cpu.fault(VECTOR.GP, 0);
  return intercepts(cpu, INTERCEPT.MONITOR) ? cpu.exitBefore(EXIT.MONITOR, record) : STATUS.NEXT;
};
const mwait: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.UD);
  if (cpu.get(ECX) & ~1) return cpu.fault(VECTOR.GP, 0);
  return intercepts(cpu, INTERCEPT.MWAIT) ? cpu.exitBefore(EXIT.MWAIT, record) : STATUS.NEXT;
};

const xgetbv: Helper = (cpu) => {
  if (!(cpu.cr4 & CR4.OSXSAVE)) return cpu.fault(VECTOR.UD);
  const index = cpu.get(ECX);
  if (index === 0) setEdxEax(cpu, cpu.get(S.XCR0), 0);
  else if (index === 1 && cpu.features.has('xgetbv1')) setEdxEax(cpu, cpu.get(S.XCR0) & inUse(cpu), 0);
  else return cpu.fault(VECTOR.GP, 0);
  return STATUS.NEXT;
};

/** Leaves to L0, which calls `setXcr0` or injects. */
const xsetbv: Helper = (cpu, record) => {
  if (!(cpu.cr4 & CR4.OSXSAVE)) return cpu.fault(VECTOR.UD);
  return cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : cpu.exitBefore(EXIT.XSETBV, record);
};

/** XSETBV's effect on XCR0 with its checks. SDM 2D "XSETBV—Set Extended Control Register", SDM 1 13.3. */
export function setXcr0(cpu: Processor, low: number, high: number): number {
  const bad =
    high !== 0 ||
    (low & ~cpu.features.xcr0) !== 0 ||
    !(low & XCR0.X87) ||
    ((low & XCR0.AVX) !== 0 && !(low & XCR0.SSE));
  if (bad) return cpu.fault(VECTOR.GP, 0);
  cpu.set(S.XCR0, low);
  cpu.modeChanged();
  return STATUS.NEXT;
}

const wrpkru: Helper = (cpu) => {
  setPkru(cpu, cpu.get(gpr(0)));
  return STATUS.NEXT;
};

/** #UD and #GP(0) of RDPKRU and WRPKRU: `registers` must be 0. */
function checkPkru(m: Semantics, ...registers: number[]): void {
  m.raiseIf(i32.eqz(i32.and(i32.load(i32.const(0), S.CR4), i32.const(CR4.PKE))), VECTOR.UD);
  for (const register of registers) m.raiseIf(i32.wrap(m.reg(register)), VECTOR.GP);
}

/** RDRAND, RDSEED: L0 gives the number, so that runs repeat. Destination register and operand size in X.INFO. */
const random =
  (reason: ExitReason): Helper =>
  (cpu, record) => {
    const status = cpu.exitBefore(reason, record);
    const size = cpu.operandSize(record);
    // SDM 3C Table 27-12: destination 6:3, operand size 12:11 (0: 16, 1: 32, 2: 64)
    cpu.set(X.INFO, (rmField(cpu, record) << 3) | ((size === 2 ? 0 : size === 4 ? 1 : 2) << 11));
    return status;
  };

/** UD0, UD1, UD2, RSM outside SMM. */
const undefinedOpcode: Helper = (cpu) => cpu.fault(VECTOR.UD);

const row = (
  name: string,
  source: string,
  forms: Readonly<Record<string, string>>,
  helper: Helper,
  feature?: string,
): Instruction =>
  instruction({
    name,
    source,
    forms,
    ...(feature === undefined ? {} : { feature }),
    execute(m) {
      m.helper(helper);
    },
  });

export const IDENTIFICATION: readonly Instruction[] = [
  instruction({
    name: 'CPUID',
    source: 'SDM 2A 3.2 "CPUID—CPU Identification"',
    forms: { '0F A2': 'CPUID' },
    execute(m) {
      m.exitBefore(EXIT.CPUID);
    },
  }),
  instruction({
    name: 'RDMSR',
    source: 'SDM 2B 4.3 "RDMSR—Read from Model Specific Register"',
    forms: { '0F 32': 'RDMSR' },
    execute(m) {
      if (!m.long) {
        m.helper(rdmsr);
        return;
      }
      const slot = openMsr(m, rdmsr, OPEN_MSR.READ);
      m.setReg(RAX, i64.load32U(i32.load(slot.get, OPEN_MSRS.CELL)));
      m.setReg(RDX, i64.const(0));
    },
  }),
  instruction({
    name: 'WRMSR',
    source: 'SDM 2D 6.1 "WRMSR—Write to Model Specific Register"',
    forms: { '0F 30': 'WRMSR' },
    execute(m) {
      if (!m.long) {
        m.helper(wrmsr);
        return;
      }
      const slot = openMsr(m, wrmsr, OPEN_MSR.WRITE);
      const low = m.let(i32.wrap(m.reg(RAX)));
      const others = i32.and(low.get, i32.xor(i32.load(slot.get, OPEN_MSRS.WRITABLE), i32.const(-1)));
      m.f.if(i32.or(others, i32.wrap(m.reg(RDX))), () => m.helperInstead(wrmsr));
      m.f.do(i32.store(i32.load(slot.get, OPEN_MSRS.CELL), low.get));
    },
  }),
  row('HLT', 'SDM 2A 3.2 "HLT—Halt"', { F4: 'HLT' }, privileged(EXIT.HLT)),
  instruction({
    name: 'RDTSC',
    source: 'SDM 2B 4.3 "RDTSC—Read Time-Stamp Counter"',
    forms: { '0F 31': 'RDTSC' },
    execute: (m) => timeStamp(m, rdtsc, INTERCEPT.RDTSC),
  }),
  instruction({
    name: 'RDTSCP',
    source: 'SDM 2B 4.3 "RDTSCP—Read Time-Stamp Counter and Processor ID"',
    forms: { '0F 01 F9': 'RDTSCP' },
    feature: 'rdtscp',
    execute(m) {
      timeStamp(m, rdtscp, INTERCEPT.RDTSCP | INTERCEPT.RDTSCP_UD);
      m.setReg(1, i64.load32U(i32.const(0), S.TSC_AUX));
    },
  }),
  row('RDPID', 'SDM 2B 4.3 "RDPID—Read Processor ID"', { 'F3 0F C7 /7:r': 'RDPID rd' }, rdpid),
  row('RDPMC', 'SDM 2B 4.3 "RDPMC—Read Performance-Monitoring Counters"', { '0F 33': 'RDPMC' }, rdpmc),
  instruction({
    name: 'PAUSE',
    source: 'SDM 2B 4.3 "PAUSE—Spin Loop Hint"',
    forms: { 'F3 90 b0': 'PAUSE' },
    execute(m) {
      m.f.if(m.intercepted(INTERCEPT.PAUSE | INTERCEPT.PAUSE_LOOP), () => countPause(m));
    },
  }),
  row('MONITOR', 'SDM 2B 4.3 "MONITOR—Set Up Monitor Address"', { '0F 01 C8': 'MONITOR' }, monitor, 'monitor'),
  row('MWAIT', 'SDM 2B 4.3 "MWAIT—Monitor Wait"', { '0F 01 C9': 'MWAIT' }, mwait, 'monitor'),
  row(
    'XGETBV',
    'SDM 2D 6.1 "XGETBV—Get Value of Extended Control Register"',
    { 'NP 0F 01 D0': 'XGETBV' },
    xgetbv,
    'xsave',
  ),
  row('XSETBV', 'SDM 2D 6.1 "XSETBV—Set Extended Control Register"', { 'NP 0F 01 D1': 'XSETBV' }, xsetbv, 'xsave'),
  instruction({
    name: 'RDPKRU',
    source: 'SDM 2B 4.3 "RDPKRU—Read Protection Key Rights for User Pages"',
    forms: { 'NP 0F 01 EE': 'RDPKRU' },
    feature: 'pku',
    execute(m) {
      checkPkru(m, RCX);
      m.setReg(RAX, i64.load32U(i32.const(0), S.PKRU));
      m.setReg(RDX, i64.const(0));
    },
  }),
  instruction({
    name: 'WRPKRU',
    source: 'SDM 2B 4.3 "WRPKRU—Write Data to User Page Key Register"',
    forms: { 'NP 0F 01 EF': 'WRPKRU' },
    feature: 'pku',
    execute(m) {
      checkPkru(m, RCX, RDX);
      m.f.if(i32.ne(i32.wrap(m.reg(RAX)), i32.load(i32.const(0), S.PKRU)), () => m.helperInstead(wrpkru));
    },
  }),
  row(
    'RDRAND',
    'SDM 2B 4.3 "RDRAND—Read Random Number"',
    { 'NP 0F C7 /6:r': 'RDRAND r/mv' },
    random(EXIT.RDRAND),
    'rdrand',
  ),
  row(
    'RDSEED',
    'SDM 2B 4.3 "RDSEED—Read Random SEED"',
    { 'NP 0F C7 /7:r': 'RDSEED r/mv' },
    random(EXIT.RDSEED),
    'rdseed',
  ),
  row(
    'UD',
    'SDM 2B 4.3 "UD—Undefined Instruction"',
    { '0F 0B': 'UD2', '0F B9 /r': 'UD1 rv, r/mv', '0F FF /r': 'UD0 rv, r/mv' },
    undefinedOpcode,
  ),
  row('RSM', 'SDM 2B 4.3 "RSM—Resume from System Management Mode"', { '0F AA': 'RSM' }, undefinedOpcode),
];
