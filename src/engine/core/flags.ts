import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, RFLAGS, RFLAGS_IOPL } from '../../arch/registers.ts';
import type { Helper } from './helpers.ts';
import { S, STATUS } from './layout.ts';
import type { Processor } from './processor.ts';
import { dropBytes, peekValue, pushValue } from './stack.ts';
import { loadFlags } from './transfers.ts';

/**
 * PUSHF, POPF, CLI, STI: who may see and change IF, IOPL and their virtual twins; interrupt shadows.
 *
 * Source  SDM 2B "PUSHF/PUSHFD/PUSHFQ", "POPF/POPFD/POPFQ" with Table 4-16, "STI—Set Interrupt Flag" with Table 4-19;
 *         2A "CLI—Clear Interrupt Flag"; 3A 6.8.3 "Masking Exceptions and Interrupts When Switching Stacks".
 */

export const SHADOW = { NONE: 0, STI: 1, MOV_SS: 2 } as const;

/** Blocks interrupts behind `record` until one more instruction has run. */
export function setShadow(cpu: Processor, record: number, kind: number): void {
  const after = cpu.instructionsAt(record) + 1;
  cpu.set64(S.SHADOW_AT, after >>> 0, Math.floor(after / 0x1_0000_0000));
  cpu.set(S.SHADOW_KIND, kind);
}

/** Kind of the shadow in force when `instructions` have retired: SHADOW. */
export function shadowAt(cpu: Processor, instructions: number): number {
  const at = cpu.get(S.SHADOW_AT) + cpu.get(S.SHADOW_AT + 4) * 0x1_0000_0000;
  return instructions <= at ? cpu.get(S.SHADOW_KIND) : SHADOW.NONE;
}

export const pushFlags: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  let flags = cpu.rflags() & ~(RFLAGS.VM | RFLAGS.RF);
  if (cpu.vm86 && cpu.iopl < 3) {
    if (!(cpu.cr4 & CR4.VME) || bytes !== 2) return cpu.fault(VECTOR.GP, 0);
    flags = (flags & ~RFLAGS.IF) | RFLAGS_IOPL | (flags & RFLAGS.VIF ? RFLAGS.IF : 0);
  }
  return pushValue(cpu, flags, 0, bytes) ? STATUS.NEXT : cpu.accessStatus;
};

const POPF16 =
  RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.TF | RFLAGS.DF | RFLAGS.OF | RFLAGS.NT;

/** Flags whose change the generated code or the run loop has to hear of. */
const NOTICED = RFLAGS.TF | RFLAGS.AC | RFLAGS.IF;

export const popFlags: Helper = (cpu, record) => {
  const bytes = cpu.operandSize(record);
  const { cpl, iopl, vm86 } = cpu;
  if (vm86 && iopl < 3 && (!(cpu.cr4 & CR4.VME) || bytes !== 2)) return cpu.fault(VECTOR.GP, 0);
  if (!peekValue(cpu, 0, bytes)) return cpu.accessStatus;
  let image = cpu.low;
  let mask = POPF16 | (bytes === 2 ? 0 : RFLAGS.AC | RFLAGS.ID | RFLAGS.RF);
  image &= ~RFLAGS.RF;
  if (vm86 && iopl < 3) {
    // VME: IF goes to VIF; with VIP set, or TF in the image, it is the monitor's
    const pending = (cpu.get(S.RFLAGS) & RFLAGS.VIP) !== 0;
    if ((image & RFLAGS.IF && pending) || image & RFLAGS.TF) return cpu.fault(VECTOR.GP, 0);
    mask |= RFLAGS.VIF;
    image = (image & ~RFLAGS.VIF) | (image & RFLAGS.IF ? RFLAGS.VIF : 0);
  } else {
    if (cpl <= iopl) mask |= RFLAGS.IF;
    if (cpl === 0 && !vm86) mask |= RFLAGS_IOPL;
  }
  const before = cpu.get(S.RFLAGS);
  dropBytes(cpu, bytes);
  loadFlags(cpu, image, mask);
  if (!((before ^ cpu.get(S.RFLAGS)) & NOTICED)) return STATUS.ENTER;
  cpu.modeChanged();
  return cpu.goOn(record);
};

/** What CLI and STI act on: IF, VIF, or nothing (#GP). */
function interruptFlag(cpu: Processor): number {
  if (!cpu.protectedMode || cpu.iopl >= cpu.cpl) return RFLAGS.IF;
  if (cpu.vm86 ? cpu.cr4 & CR4.VME : cpu.cr4 & CR4.PVI && cpu.cpl === 3) return RFLAGS.VIF;
  return 0;
}

export const cli: Helper = (cpu) => {
  const flag = interruptFlag(cpu);
  if (flag === 0) return cpu.fault(VECTOR.GP, 0);
  cpu.set(S.RFLAGS, cpu.get(S.RFLAGS) & ~flag);
  return STATUS.NEXT;
};

export const sti: Helper = (cpu, record) => {
  const flag = interruptFlag(cpu);
  const before = cpu.get(S.RFLAGS);
  if (flag === 0 || (flag === RFLAGS.VIF && before & RFLAGS.VIP)) return cpu.fault(VECTOR.GP, 0);
  if (before & flag) return STATUS.ENTER;
  cpu.set(S.RFLAGS, before | flag);
  if (flag === RFLAGS.IF) setShadow(cpu, record, SHADOW.STI);
  return cpu.goOn(record);
};
