import { VECTOR } from '../../arch/exceptions.ts';
import { DR6, EFER, RFLAGS } from '../../arch/registers.ts';
import type { Helper } from './helpers.ts';
import { AUX, gpr, S, SEG } from './layout.ts';
import { PENDING } from './pending-debug.ts';
import type { Processor } from './processor.ts';
import { setSegment } from './segments.ts';
import { loadFlags } from './transfers.ts';

/**
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: transfers to segments that are flat by definition.
 *
 * Source  SDM 2B "SYSCALL—Fast System Call" to "SYSRET—Return From Fast System Call", "Operation";
 *         APM 3 "SYSCALL", "SYSRET", "SYSENTER", "SYSEXIT".
 */

const [RCX, RDX, RSP, R11] = [gpr(1), gpr(2), gpr(4), gpr(11)];

/** Access rights: present, S, accessed; execute/read or read/write; 4-KByte granularity; L or D/B. */
export const CODE64 = 0xa09b;
const CODE32 = 0xc09b;
export const DATA32 = 0xc093;

/** Flat CS and SS of level `cpl`. `long`: 64-bit code. */
function loadFlat(cpu: Processor, cs: number, ss: number, cpl: number, long: boolean): void {
  const level = cpl << 5;
  setSegment(cpu, SEG.CS, cs, 0, 0, 0xffff_ffff, (long ? CODE64 : CODE32) | level);
  setSegment(cpu, SEG.SS, ss, 0, 0, 0xffff_ffff, DATA32 | level);
  cpu.set(S.CPL, cpl);
}

/** Whether SYSCALL and SYSRET are single-stepped, TF behind them decides, unlike with POPF and IRET. */
function stepByNewFlags(cpu: Processor): void {
  const note = cpu.get(S.RFLAGS) & RFLAGS.TF ? DR6.BS : PENDING.NO_STEP;
  cpu.set(S.PENDING_DEBUG, cpu.get(S.PENDING_DEBUG) | note);
}

export const syscall: Helper = (cpu, record) => {
  const intel = cpu.features.vendor === 'intel';
  if (!(cpu.efer & EFER.SCE) || !cpu.protectedMode || cpu.vm86 || (intel && !cpu.long)) return cpu.fault(VECTOR.UD);
  const fromLong = cpu.long;
  cpu.nextRip(record);
  const selector = cpu.u16[(S.STAR + 4) >>> 1]! & 0xfffc;
  cpu.set64(RCX, cpu.low, cpu.high);
  if (!cpu.ia32e) {
    // AMD, legacy mode: EIP from STAR, only IF, VM and RF change
    loadFlat(cpu, selector, selector + 8, 0, false);
    cpu.setRflags(cpu.rflags() & ~(RFLAGS.VM | RFLAGS.IF | RFLAGS.RF));
    cpu.modeChanged();
    return cpu.goTo(cpu.get(S.STAR), 0);
  }
  const flags = cpu.rflags();
  cpu.set64(R11, flags & ~RFLAGS.RF, 0);
  loadFlat(cpu, selector, selector + 8, 0, true);
  cpu.setRflags(flags & ~(cpu.get(S.FMASK) | RFLAGS.RF | RFLAGS.VM));
  stepByNewFlags(cpu);
  cpu.modeChanged();
  const target = fromLong ? S.LSTAR : S.CSTAR;
  return cpu.goTo(cpu.get(target), cpu.get(target + 4));
};

/** What SYSRET takes from R11. SDM 2B: (R11 & 3C7FD7H) | 2. */
export const SYSRET_FLAGS = 0x3c_7fd7;

export const sysret: Helper = (cpu, record) => {
  const intel = cpu.features.vendor === 'intel';
  if (!(cpu.efer & EFER.SCE) || !cpu.protectedMode || cpu.vm86 || (intel && !cpu.long)) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  const toLong = (cpu.aux(record) & AUX.REX_W) !== 0;
  const low = cpu.get(RCX);
  const high = toLong ? cpu.get(RCX + 4) : 0;
  // Intel checks while still at level 0; AMD lets the fetch at level 3 fault
  if (toLong && intel && !cpu.isCanonical(low, high)) return cpu.fault(VECTOR.GP, 0);
  const base = cpu.u16[(S.STAR + 6) >>> 1]!;
  const wasLong = cpu.ia32e;
  loadFlat(cpu, ((base + (toLong ? 16 : 0)) | 3) & 0xffff, ((base + 8) | 3) & 0xffff, 3, toLong);
  if (wasLong) {
    loadFlags(cpu, cpu.get(R11) & SYSRET_FLAGS, SYSRET_FLAGS | RFLAGS.RF | RFLAGS.VM);
    stepByNewFlags(cpu);
  } else cpu.setRflags(cpu.rflags() | RFLAGS.IF);
  cpu.modeChanged();
  return cpu.goTo(low, high);
};

export const sysenter: Helper = (cpu) => {
  if (cpu.features.vendor === 'amd' && cpu.ia32e) return cpu.fault(VECTOR.UD);
  const selector = cpu.get(S.SYSENTER_CS) & 0xfffc;
  if (!cpu.protectedMode || selector === 0) return cpu.fault(VECTOR.GP, 0);
  const long = cpu.ia32e;
  loadFlat(cpu, selector, (selector + 8) & 0xffff, 0, long);
  cpu.setRflags(cpu.rflags() & ~(RFLAGS.VM | RFLAGS.IF | RFLAGS.RF));
  cpu.set64(RSP, cpu.get(S.SYSENTER_ESP), long ? cpu.get(S.SYSENTER_ESP + 4) : 0);
  cpu.modeChanged();
  return cpu.goTo(cpu.get(S.SYSENTER_EIP), long ? cpu.get(S.SYSENTER_EIP + 4) : 0);
};

/** On AMD there is none in long mode; MEASURED on family 25: level 3 is #GP(0) all the same. */
export const sysexit: Helper = (cpu, record) => {
  if (cpu.protectedMode && cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  if (cpu.features.vendor === 'amd' && cpu.ia32e) return cpu.fault(VECTOR.UD);
  const base = cpu.get(S.SYSENTER_CS) & 0xffff;
  if (!cpu.protectedMode || (base & 0xfffc) === 0 || cpu.cpl !== 0 || cpu.vm86) return cpu.fault(VECTOR.GP, 0);
  const toLong = cpu.long && (cpu.aux(record) & AUX.REX_W) !== 0;
  const ripLow = cpu.get(RDX);
  const ripHigh = toLong ? cpu.get(RDX + 4) : 0;
  const spLow = cpu.get(RCX);
  const spHigh = toLong ? cpu.get(RCX + 4) : 0;
  if (toLong && !(cpu.isCanonical(ripLow, ripHigh) && cpu.isCanonical(spLow, spHigh))) return cpu.fault(VECTOR.GP, 0);
  const offset = toLong ? 32 : 16;
  loadFlat(cpu, ((base + offset) | 3) & 0xffff, ((base + offset + 8) | 3) & 0xffff, 3, toLong);
  cpu.set64(RSP, spLow, spHigh);
  cpu.modeChanged();
  return cpu.goTo(ripLow, ripHigh);
};
