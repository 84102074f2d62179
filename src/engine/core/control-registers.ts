import { VECTOR } from '../../arch/exceptions.ts';
import { CR0, CR0_DEFINED, CR3_HIGH, CR3_PCID, CR4, EFER } from '../../arch/registers.ts';
import { AR } from './address.ts';
import { EXIT, X } from './exits.ts';
import type { Helper } from './helpers.ts';
import { AUX, gpr, REC, S, SEG, STATUS, WALKS } from './layout.ts';
import type { Processor } from './processor.ts';
import { rightsOf } from './segments.ts';

/**
 * CR0, CR3, CR4 and EFER: which values are legal, what a change activates, and what it does to the TLBs.
 *
 * Owns    the rules between these registers: SDM 3A 2.5, 4.1.2 "Paging-Mode Enabling", 9.8.5 "Initializing IA-32e Mode".
 * Never   intercepts in `set…`: those are also L0's way to load the registers with the guest's checks. The instructions
 *         below them look at masks, shadows and targets first (SDM 3C 25.1.3, 25.3).
 */

/** CR4 bits whose change flushes what is cached of linear addresses. SDM 3A 4.10.4.1. */
const CR4_FLUSHES = CR4.PSE | CR4.PAE | CR4.PGE | CR4.PCIDE | CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.LA57;
/** A change of these loads the PDPTEs under PAE paging. SDM 3A 4.4.1 "PDPTE Registers". */
const CR0_LOADS_PDPTES = CR0.CD | CR0.NW | CR0.PG;
const CR4_LOADS_PDPTES = CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP;

/** Drops linear translations of the running vCPU and VPID. `pcid` -1: of all PCIDs. */
export function flushLinear(cpu: Processor, pcid = -1): void {
  cpu.tlb.flushMatching(cpu.vcpu.index, cpu.vcpu.vpid, -1, pcid);
}

const pdptes = new Uint32Array(8);

/**
 * Reads and checks the four PDPTEs at `cr3` into `pdptes`. Under a linear (shadow) root L0 loads them itself: it sees
 * every write to CR3.
 */
function fetchPdptes(cpu: Processor, cr3: number): number {
  if (cpu.vcpu.root.linear) {
    for (let i = 0; i < 8; i += 1) pdptes[i] = cpu.get(S.PDPTE + 4 * i);
    return STATUS.NEXT;
  }
  const reservedHigh = 0xffff_ffff & ~(2 ** (cpu.features.physicalBits - 32) - 1);
  const base = (cr3 & ~0x1f) >>> 0;
  for (let i = 0; i < 4; i += 1) {
    const host = cpu.walker.readPhysical(cpu.vcpu, base + 8 * i);
    if (host < 0) return cpu.accessStatus;
    const low = cpu.get(host);
    const high = cpu.get(host + 4);
    if (low & 1 && (low & 0x1e6 || high & reservedHigh)) return cpu.fault(VECTOR.GP, 0);
    pdptes[2 * i] = low;
    pdptes[2 * i + 1] = high;
  }
  return STATUS.NEXT;
}

/**
 * Could a task switch load this CR3? The PDPTEs are looked at, not loaded. NEXT, #GP(0), or an exit of the read.
 * SDM 3A 4.4.1 "PDPTE Registers".
 */
export function checkTaskCr3(cpu: Processor, cr3: number): number {
  if (!(cpu.cr4 & CR4.PAE)) return STATUS.NEXT;
  if (!cpu.vcpu.root.linear) return fetchPdptes(cpu, cr3);
  return cpu.host.pdptesLegal(cr3) ? STATUS.NEXT : cpu.fault(VECTOR.GP, 0);
}

function commitPdptes(cpu: Processor): void {
  for (let i = 0; i < 8; i += 1) cpu.set(S.PDPTE + 4 * i, pdptes[i]!);
}

/** MOV to CR0 without interception. NEXT, #GP(0), or an exit of the PDPTE load. */
export function setCr0(cpu: Processor, low: number, high = 0): number {
  const old = cpu.cr0;
  if (high !== 0) return cpu.fault(VECTOR.GP, 0);
  const value = ((low & CR0_DEFINED) | CR0.ET) >>> 0;
  if (value & CR0.PG && !(value & CR0.PE)) return cpu.fault(VECTOR.GP, 0);
  if (value & CR0.NW && !(value & CR0.CD)) return cpu.fault(VECTOR.GP, 0);
  const changed = value ^ old;
  let { efer } = cpu;
  let pdptesLoaded = false;
  if (changed & CR0.PG) {
    if (value & CR0.PG) {
      if (efer & EFER.LME) {
        if (!(cpu.cr4 & CR4.PAE) || rightsOf(cpu, SEG.CS) & AR.L) return cpu.fault(VECTOR.GP, 0);
        efer |= EFER.LMA;
      }
    } else {
      if (cpu.long || cpu.cr4 & CR4.PCIDE) return cpu.fault(VECTOR.GP, 0);
      efer &= ~EFER.LMA;
    }
  }
  if (changed & CR0_LOADS_PDPTES && value & CR0.PG && cpu.cr4 & CR4.PAE && !(efer & EFER.LMA)) {
    const status = fetchPdptes(cpu, cpu.get(S.CR3));
    if (status !== STATUS.NEXT) return status;
    pdptesLoaded = true;
  }
  if (pdptesLoaded) commitPdptes(cpu);
  cpu.set(S.CR0, value);
  cpu.set(S.EFER, efer);
  // Rights are cached as they were at the fill. Without WP there are more of them: nothing cached becomes wrong
  if (changed & (CR0.PG | CR0.PE) || changed & value & CR0.WP) flushLinear(cpu);
  cpu.contextChanged();
  return STATUS.NEXT;
}

/** MOV to CR3 without interception. Under CR4.PCIDE bit 63 of the source keeps the TLB. */
export function setCr3(cpu: Processor, low: number, high: number): number {
  const { cr4 } = cpu;
  const pcide = (cr4 & CR4.PCIDE) !== 0;
  let keep = false;
  let upper = high >>> 0;
  if (pcide && upper & CR3_HIGH.NOFLUSH) {
    keep = true;
    upper = (upper & ~CR3_HIGH.NOFLUSH) >>> 0;
  }
  if (cpu.ia32e) {
    if (upper >>> (cpu.features.physicalBits - 32)) return cpu.fault(VECTOR.GP, 0);
  } else if (cpu.cr0 & CR0.PG && cr4 & CR4.PAE) {
    const status = fetchPdptes(cpu, low);
    if (status !== STATUS.NEXT) return status;
    commitPdptes(cpu);
  }
  cpu.set64(S.CR3, low, upper);
  if (!keep) cpu.tlb.flushLocal(cpu.vcpu.index, cpu.vcpu.vpid, pcide ? low & CR3_PCID : 0);
  cpu.contextChanged();
  return STATUS.NEXT;
}

/** MOV to CR4 without interception. */
export function setCr4(cpu: Processor, low: number, high = 0): number {
  const value = low >>> 0;
  const old = cpu.cr4;
  if (high !== 0 || value & ~cpu.features.cr4) return cpu.fault(VECTOR.GP, 0);
  const changed = value ^ old;
  if (cpu.ia32e && (!(value & CR4.PAE) || changed & CR4.LA57)) return cpu.fault(VECTOR.GP, 0);
  if (changed & value & CR4.PCIDE && (!cpu.ia32e || cpu.get(S.CR3) & CR3_PCID)) return cpu.fault(VECTOR.GP, 0);
  if (changed & CR4_LOADS_PDPTES && value & CR4.PAE && cpu.cr0 & CR0.PG && !cpu.ia32e) {
    const status = fetchPdptes(cpu, cpu.get(S.CR3));
    if (status !== STATUS.NEXT) return status;
    commitPdptes(cpu);
  }
  cpu.set(S.CR4, value);
  cpu.set(S.CANONICAL_SHIFT, value & CR4.LA57 ? 7 : 16);
  if (changed & CR4_FLUSHES) flushLinear(cpu);
  cpu.contextChanged();
  return STATUS.NEXT;
}

/** WRMSR of IA32_EFER. LMA is kept whatever is written. SDM 4 Table 2-2; APM 2 3.1.7. */
export function setEfer(cpu: Processor, low: number, high: number): number {
  const old = cpu.efer;
  if (high !== 0 || low & ~(cpu.features.efer | EFER.LMA)) return cpu.fault(VECTOR.GP, 0);
  const value = ((low & ~EFER.LMA) | (old & EFER.LMA)) >>> 0;
  const changed = value ^ old;
  if (changed & EFER.LME && cpu.cr0 & CR0.PG) return cpu.fault(VECTOR.GP, 0);
  cpu.set(S.EFER, value);
  if (changed & EFER.NXE) flushLinear(cpu);
  cpu.contextChanged();
  return STATUS.NEXT;
}

/**
 * TLB entries hold rights with PKRU applied: a new one empties them, unless no page has had a key whose rights change.
 */
export function setPkru(cpu: Processor, value: number): void {
  const changed = cpu.get(S.PKRU) ^ value;
  cpu.set(S.PKRU, value);
  if (!(cpu.cr4 & CR4.PKE)) return;
  const keys = cpu.get(WALKS.KEYS);
  for (let key = 0; key < 16; key += 1) {
    if ((keys >>> key) & (changed >>> (2 * key)) & 1 || (keys >>> key) & (changed >>> (2 * key + 1)) & 1) {
      flushLinear(cpu);
      return;
    }
  }
}

// ---- instructions ----------------------------------------------------------------------------------------------------

/** Bits 0–3 of `InterceptControls.crAccess`. */
export const CR_ACCESS = { CR3_LOAD: 1, CR3_STORE: 2, CR8_LOAD: 4, CR8_STORE: 8 } as const;

/** Exit qualification for control-register accesses: SDM 3C Table 27-3. */
const QUALIFICATION = { TO: 0, FROM: 1 << 4, CLTS: 2 << 4, LMSW: 3 << 4, LMSW_MEMORY: 1 << 6 } as const;

const crOf = (cpu: Processor, record: number): number => (cpu.aux(record) >>> AUX.REG_SHIFT) & 15;
const gprOf = (cpu: Processor, record: number): number => (cpu.aux(record) >>> AUX.RM_SHIFT) & 15;

/** Exit for a MOV CR, with its number, direction and general register. */
function crExit(cpu: Processor, record: number, direction: number): number {
  return cpu.exitBefore(EXIT.CR_ACCESS, record, crOf(cpu, record) | direction | (gprOf(cpu, record) << 8));
}

/** After a register changed: go on behind the instruction, or leave with what `set…` says. */
const finish = (cpu: Processor, record: number, status: number): number =>
  status === STATUS.NEXT ? cpu.goOn(record) : leave(cpu, record, status);

/** An EPT violation of a PDPTE load is an exit of this instruction. */
function leave(cpu: Processor, record: number, status: number): number {
  if (status === STATUS.EXIT_BEFORE) {
    cpu.set(X.LENGTH, cpu.u8[record + REC.LENGTH]!);
    cpu.set(X.LINEAR_VALID, 0);
  }
  return status;
}

function isTarget(cpu: Processor, low: number, high: number): boolean {
  const { cr3Targets, cr3TargetCount } = cpu.vcpu.intercepts;
  for (let i = 0; i < cr3TargetCount; i += 1) {
    if (cr3Targets[2 * i] === low >>> 0 && cr3Targets[2 * i + 1] === high >>> 0) return true;
  }
  return false;
}

/** MOV CRn, r. SDM 2B "MOV—Move to/from Control Registers". */
export const movToCr: Helper = (cpu, record) => {
  const number = crOf(cpu, record);
  if (number !== 0 && number !== 2 && number !== 3 && number !== 4 && number !== 8) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  const register = gpr(gprOf(cpu, record));
  const low = cpu.get(register);
  const high = cpu.long ? cpu.get(register + 4) : 0;
  const { intercepts } = cpu.vcpu;
  switch (number) {
    case 0: {
      if ((low ^ intercepts.cr0Shadow) & intercepts.cr0Mask) return crExit(cpu, record, QUALIFICATION.TO);
      const value = (low & ~intercepts.cr0Mask) | (cpu.cr0 & intercepts.cr0Mask);
      return finish(cpu, record, setCr0(cpu, value, high));
    }
    case 2:
      cpu.set64(S.CR2, low, high);
      return STATUS.ENTER;
    case 3:
      if (intercepts.crAccess & CR_ACCESS.CR3_LOAD && !isTarget(cpu, low, high)) {
        return crExit(cpu, record, QUALIFICATION.TO);
      }
      return finish(cpu, record, setCr3(cpu, low, high));
    case 4: {
      if ((low ^ intercepts.cr4Shadow) & intercepts.cr4Mask) return crExit(cpu, record, QUALIFICATION.TO);
      const value = (low & ~intercepts.cr4Mask) | (cpu.cr4 & intercepts.cr4Mask);
      return finish(cpu, record, setCr4(cpu, value, high));
    }
    default:
      return crExit(cpu, record, QUALIFICATION.TO);
  }
};

/** CR0 and CR4 as the guest reads them. SDM 3C 25.3 "Changes to Instruction Behavior". */
export const visibleCr0 = (cpu: Processor): number => {
  const { cr0Mask, cr0Shadow } = cpu.vcpu.intercepts;
  return ((cpu.cr0 & ~cr0Mask) | (cr0Shadow & cr0Mask)) >>> 0;
};
export const visibleCr4 = (cpu: Processor): number => {
  const { cr4Mask, cr4Shadow } = cpu.vcpu.intercepts;
  return ((cpu.cr4 & ~cr4Mask) | (cr4Shadow & cr4Mask)) >>> 0;
};

/** MOV r, CRn. */
export const movFromCr: Helper = (cpu, record) => {
  const number = crOf(cpu, record);
  if (number !== 0 && number !== 2 && number !== 3 && number !== 4 && number !== 8) return cpu.fault(VECTOR.UD);
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  const register = gpr(gprOf(cpu, record));
  switch (number) {
    case 0:
      cpu.set64(register, visibleCr0(cpu), 0);
      break;
    case 2:
      cpu.set64(register, cpu.get(S.CR2), cpu.long ? cpu.get(S.CR2 + 4) : 0);
      break;
    case 3:
      if (cpu.vcpu.intercepts.crAccess & CR_ACCESS.CR3_STORE) {
        return crExit(cpu, record, QUALIFICATION.FROM);
      }
      cpu.set64(register, cpu.get(S.CR3), cpu.long ? cpu.get(S.CR3 + 4) : 0);
      break;
    case 4:
      cpu.set64(register, visibleCr4(cpu), 0);
      break;
    default:
      return crExit(cpu, record, QUALIFICATION.FROM);
  }
  return STATUS.NEXT;
};

/** CLTS. */
export const clts: Helper = (cpu, record) => {
  if (cpu.cpl !== 0) return cpu.fault(VECTOR.GP, 0);
  const { cr0Mask, cr0Shadow } = cpu.vcpu.intercepts;
  if (cr0Mask & CR0.TS) {
    if (cr0Shadow & CR0.TS) return cpu.exitBefore(EXIT.CR_ACCESS, record, QUALIFICATION.CLTS);
    return STATUS.ENTER;
  }
  cpu.set(S.CR0, cpu.cr0 & ~CR0.TS);
  cpu.modeChanged();
  return cpu.goOn(record);
};

/**
 * LMSW of `value`: bits 3:0 of CR0, and PE can only be set. `memory`: the operand's linear address is in S.EA.
 * SDM 2A "LMSW—Load Machine Status Word"; SDM 3C 25.1.3.
 */
export function loadMachineStatusWord(cpu: Processor, record: number, value: number, memory: boolean): number {
  const { cr0Mask, cr0Shadow } = cpu.vcpu.intercepts;
  const raisesPe = cr0Mask & CR0.PE && value & CR0.PE && !(cr0Shadow & CR0.PE);
  if (raisesPe || (value ^ cr0Shadow) & cr0Mask & (CR0.MP | CR0.EM | CR0.TS)) {
    const qualification = QUALIFICATION.LMSW | (memory ? QUALIFICATION.LMSW_MEMORY : 0) | ((value & 0xffff) << 16);
    const status = cpu.exitBefore(EXIT.CR_ACCESS, record, qualification);
    if (memory) {
      cpu.copy64(X.LINEAR, S.EA);
      cpu.set(X.LINEAR_VALID, 1);
    }
    return status;
  }
  const takes = (CR0.MP | CR0.EM | CR0.TS | (value & CR0.PE)) & ~cr0Mask;
  return finish(cpu, record, setCr0(cpu, ((cpu.cr0 & ~takes) | (value & takes)) >>> 0));
}
