/**
 * The registers of a vCPU as plain data, whether it is the engine's current one or parked. A reader: nothing changes.
 */
import { CR0, EFER, RFLAGS } from '../arch/registers.ts';
import { gpr, S, SEG, segment } from '../engine/core/layout.ts';
import { Processor } from '../engine/core/processor.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';

export const SEGMENT_NAMES = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDT', 'TR'] as const;

export interface SegmentSnapshot {
  readonly name: (typeof SEGMENT_NAMES)[number];
  readonly selector: number;
  readonly base: bigint;
  readonly limit: number;
  /** As VMCS fields hold it: SDM 3C 24.4.1; bit 16 is "unusable". */
  readonly access: number;
}

export interface RegisterSnapshot {
  readonly cpu: number;
  readonly activity: Vcpu['activity'];
  /** Who runs on it: L1, or L2 while the guest is in VMX non-root operation or in an SVM guest. */
  readonly level: 'L1' | 'L2';
  readonly mode: 'real' | 'virtual-8086' | 'protected' | 'compatibility' | '64-bit';
  /** RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15: the manual's numbering. */
  readonly gpr: readonly bigint[];
  readonly rip: bigint;
  readonly rflags: number;
  readonly cpl: number;
  /** Interrupts held off by STI or MOV SS. */
  readonly interruptShadow: boolean;
  readonly segments: readonly SegmentSnapshot[];
  readonly gdtr: { readonly base: bigint; readonly limit: number };
  readonly idtr: { readonly base: bigint; readonly limit: number };
  readonly cr0: number;
  readonly cr2: bigint;
  readonly cr3: bigint;
  readonly cr4: number;
  readonly efer: number;
  readonly xcr0: number;
  readonly pkru: number;
  readonly dr: readonly bigint[];
  readonly fcw: number;
  /** With TOP. */
  readonly fsw: number;
  /** Bit n: physical register n holds something. */
  readonly ftw: number;
  readonly mxcsr: number;
  /** Physical x87 registers. */
  readonly fpr: readonly { readonly significand: bigint; readonly signExponent: number }[];
  readonly xmm: readonly { readonly low: bigint; readonly high: bigint }[];
  readonly instructions: number;
}

export function snapshotRegisters(vcpu: Vcpu): RegisterSnapshot {
  const { state } = vcpu;
  const array = (first: number, count: number) => Array.from({ length: count }, (_, i) => state.big(first + 8 * i));
  const cr0 = state.u32(S.CR0);
  const efer = state.u32(S.EFER);
  const rflags = (state.u32(S.RFLAGS) | statusFlags(vcpu)) >>> 0;
  return {
    cpu: vcpu.index,
    activity: vcpu.activity,
    level: vcpu.nested?.guestMode ? 'L2' : 'L1',
    mode: modeOf(cr0, efer, rflags, state.access(SEG.CS)),
    gpr: array(gpr(0), 16),
    rip: state.big(S.RIP),
    rflags,
    cpl: state.cpl,
    interruptShadow: state.u32(S.SHADOW_KIND) !== 0 && state.number(S.SHADOW_AT) === vcpu.core.instructions,
    segments: SEGMENT_NAMES.map((name, index) => ({
      name,
      selector: state.selector(index),
      base: state.big(segment(index) + SEG.BASE),
      limit: state.limit(index),
      access: state.access(index),
    })),
    gdtr: { base: state.big(S.GDTR_BASE), limit: state.u32(S.GDTR_LIMIT) },
    idtr: { base: state.big(S.IDTR_BASE), limit: state.u32(S.IDTR_LIMIT) },
    cr0,
    cr2: state.big(S.CR2),
    cr3: state.big(S.CR3),
    cr4: state.u32(S.CR4),
    efer,
    xcr0: state.u32(S.XCR0),
    pkru: state.u32(S.PKRU),
    dr: array(S.DR, 8),
    fcw: state.u16(S.FCW),
    fsw: (state.u16(S.FSW) & ~0x3800) | (state.u32(S.FTOP) << 11),
    ftw: Array.from({ length: 8 }, (_, i) => (state.u8(S.FEMPTY + i) === 0 ? 1 << i : 0)).reduce((a, b) => a | b),
    mxcsr: state.u32(S.MXCSR),
    fpr: Array.from({ length: 8 }, (_, i) => ({
      significand: state.big(S.FPR + 16 * i),
      signExponent: state.u16(S.FPR + 16 * i + 8),
    })),
    xmm: Array.from({ length: 16 }, (_, i) => ({
      low: state.big(S.XMM + 16 * i),
      high: state.big(S.XMM + 16 * i + 8),
    })),
    instructions: vcpu.core.instructions,
  };
}

function modeOf(cr0: number, efer: number, rflags: number, cs: number): RegisterSnapshot['mode'] {
  if ((cr0 & CR0.PE) === 0) return 'real';
  if (efer & EFER.LMA) return cs & 0x2000 ? '64-bit' : 'compatibility';
  return rflags & RFLAGS.VM ? 'virtual-8086' : 'protected';
}

/** CF PF AF ZF SF OF: they are lazy (isa/flags.ts), and the processor that works them out looks at STATE only. */
function statusFlags(vcpu: Vcpu): number {
  const { memory } = vcpu.engine;
  const words = vcpu.state.delta >>> 2;
  const view = { u32: memory.u32.subarray(words), i32: memory.i32.subarray(words) };
  return Processor.prototype.statusFlags.call(view as Processor);
}
