/**
 * The registers of a vCPU as gdb numbers and names them: one row each, from which the target description, `g` and `p` are
 * made. The numbers are the rows' places.
 *
 * Source  Debugging with GDB, G.5.5 "i386 Features" (which names each feature must have, in which order); the names of
 *         segment bases and control registers are those of QEMU's description of x86-64.
 */
import { CR0, CR4, EFER, MXCSR, MXCSR_MASK, RFLAGS } from '../../arch/registers.ts';
import { gpr, S, SEG, segment } from '../../engine/core/layout.ts';
import type { Vcpu } from '../../hypervisor/vcpu/vcpu.ts';
import { type RegisterSnapshot, snapshotRegisters } from '../../inspect/registers.ts';

type Feature = 'core' | 'sse' | 'avx' | 'segments' | 'system';

export interface Register {
  readonly name: string;
  readonly feature: Feature;
  readonly bits: 32 | 64 | 80 | 128;
  readonly type: string;
  readonly group?: 'float' | 'vector' | 'system';
  read(r: RegisterSnapshot, vcpu: Vcpu): bigint;
  /** False: the value is none that it can have. Without it the register is only for reading. */
  write?(vcpu: Vcpu, value: bigint): boolean;
}

const LOW_64 = (1n << 64n) - 1n;

function set64({ state }: Vcpu, address: number, value: bigint): true {
  state.setU64(address, Number(value & 0xffff_ffffn), Number((value >> 32n) & 0xffff_ffffn));
  return true;
}

/** The manual's numbers of the registers in gdb's order: RAX RBX RCX RDX RSI RDI RBP RSP, then R8 to R15. */
const GENERAL: readonly (readonly [name: string, number: number])[] = [
  ['rax', 0],
  ['rbx', 3],
  ['rcx', 1],
  ['rdx', 2],
  ['rsi', 6],
  ['rdi', 7],
  ['rbp', 5],
  ['rsp', 4],
  ...Array.from({ length: 8 }, (_, n): [string, number] => [`r${n + 8}`, n + 8]),
];

const general: readonly Register[] = GENERAL.map(([name, number]) => ({
  name,
  feature: 'core',
  bits: 64,
  type: name === 'rsp' || name === 'rbp' ? 'data_ptr' : 'int64',
  read: (r) => r.gpr[number]!,
  write: (vcpu, value) => set64(vcpu, gpr(number), value),
}));

/** All of it but VM, which belongs to a task switch or an IRET. */
function writeFlags({ engine, core, state }: Vcpu, value: bigint): boolean {
  const flags = Number(value);
  if (((flags ^ state.u32(S.RFLAGS)) & RFLAGS.VM) !== 0) return false;
  engine.activate(core);
  engine.processor.setRflags(flags);
  return true;
}

const base = (name: string, index: number): Register => ({
  name,
  feature: 'segments',
  bits: 64,
  type: 'uint64',
  read: (r) => r.segments[index]!.base,
  write: (vcpu, value) => set64(vcpu, segment(index) + SEG.BASE, value),
});

const selector = (name: string, index: number): Register => ({
  name,
  feature: 'core',
  bits: 32,
  type: 'int32',
  read: (r) => BigInt(r.segments[index]!.selector),
});

/** ST(n) is a register that the top of the stack chooses. */
const physical = (r: { readonly fsw: number }, n: number): number => (((r.fsw >>> 11) & 7) + n) & 7;

const stack: readonly Register[] = Array.from({ length: 8 }, (_, n) => ({
  name: `st${n}`,
  feature: 'core',
  bits: 80,
  type: 'i387_ext',
  read: (r) => {
    const { significand, signExponent } = r.fpr[physical(r, n)]!;
    return (BigInt(signExponent) << 64n) | significand;
  },
  write: (vcpu, value) => {
    const at = S.FPR + 16 * physical(snapshotRegisters(vcpu), n);
    vcpu.state.setU16(at + 8, Number(value >> 64n));
    return set64(vcpu, at, value & LOW_64);
  },
}));

/** SDM 1 8.1.7 "x87 FPU Tag Word": 0 valid, 1 zero, 2 special, 3 empty; by physical register. */
function tagWord({ ftw, fpr }: RegisterSnapshot): number {
  return fpr.reduce((all, { significand, signExponent }, n) => {
    const exponent = signExponent & 0x7fff;
    const isSpecial = exponent === 0x7fff || significand >> 63n === 0n;
    let tag = 3;
    if (ftw & (1 << n)) tag = exponent === 0 && significand === 0n ? 1 : isSpecial ? 2 : 0;
    return all | (tag << (2 * n));
  }, 0);
}

interface FloatControl {
  read(r: RegisterSnapshot, vcpu: Vcpu): number;
  write(vcpu: Vcpu, value: number): void;
}

const FLOAT_CONTROLS: Readonly<Record<string, FloatControl>> = {
  fctrl: { read: (r) => r.fcw, write: ({ state }, value) => state.setU16(S.FCW, (value & 0x1f7f) | 0x40) },
  fstat: {
    read: (r) => r.fsw,
    write: ({ state }, value) => {
      state.setU16(S.FSW, value & 0xc7ff);
      state.setU32(S.FTOP, (value >>> 11) & 7);
    },
  },
  ftag: {
    read: tagWord,
    write: ({ state }, value) => {
      for (let n = 0; n < 8; n += 1) state.setU8(S.FEMPTY + n, ((value >>> (2 * n)) & 3) === 3 ? 1 : 0);
    },
  },
  fiseg: { read: (_r, { state }) => state.u16(S.FCS), write: ({ state }, value) => state.setU16(S.FCS, value) },
  fioff: { read: (_r, { state }) => state.u32(S.FIP), write: ({ state }, value) => state.setU64(S.FIP, value, 0) },
  foseg: { read: (_r, { state }) => state.u16(S.FDS), write: ({ state }, value) => state.setU16(S.FDS, value) },
  fooff: { read: (_r, { state }) => state.u32(S.FDP), write: ({ state }, value) => state.setU64(S.FDP, value, 0) },
  fop: { read: (_r, { state }) => state.u16(S.FOP), write: ({ state }, value) => state.setU16(S.FOP, value & 0x7ff) },
};

const floatControls: readonly Register[] = Object.entries(FLOAT_CONTROLS).map(([name, { read, write }]) => ({
  name,
  feature: 'core',
  bits: 32,
  type: 'int',
  group: 'float',
  read: (r, vcpu) => BigInt(read(r, vcpu)),
  write: (vcpu, value) => {
    write(vcpu, Number(value));
    return true;
  },
}));

const vectors = (feature: 'sse' | 'avx', first: number, name: (n: number) => string): Register[] =>
  Array.from({ length: 16 }, (_, n) => ({
    name: name(n),
    feature,
    bits: 128,
    type: feature === 'sse' ? 'vec128' : 'uint128',
    ...(feature === 'sse' ? { group: 'vector' as const } : {}),
    read: (_r, { state }) => (state.big(first + 16 * n + 8) << 64n) | state.big(first + 16 * n),
    write: (vcpu, value) =>
      set64(vcpu, first + 16 * n, value & LOW_64) && set64(vcpu, first + 16 * n + 8, value >> 64n),
  }));

/** What decides the meaning of memory is only for reading: a change of it has rules that are the guest's to follow. */
const SYSTEM: readonly Register[] = [
  {
    name: 'k_gs_base',
    feature: 'system',
    bits: 64,
    type: 'uint64',
    read: (_r, { state }) => state.big(S.KERNEL_GS_BASE),
    write: (vcpu, value) => set64(vcpu, S.KERNEL_GS_BASE, value),
  },
  { name: 'cr0', feature: 'system', bits: 64, type: 'x64_cr0', read: (r) => BigInt(r.cr0) },
  {
    name: 'cr2',
    feature: 'system',
    bits: 64,
    type: 'uint64',
    read: (r) => r.cr2,
    write: (vcpu, value) => set64(vcpu, S.CR2, value),
  },
  { name: 'cr3', feature: 'system', bits: 64, type: 'uint64', read: (r) => r.cr3 },
  { name: 'cr4', feature: 'system', bits: 64, type: 'x64_cr4', read: (r) => BigInt(r.cr4) },
  { name: 'cr8', feature: 'system', bits: 64, type: 'uint64', read: (_r, { apic }) => BigInt(apic.cr8) },
  { name: 'efer', feature: 'system', bits: 64, type: 'x64_efer', read: (r) => BigInt(r.efer) },
];

export const REGISTERS: readonly Register[] = [
  ...general,
  {
    name: 'rip',
    feature: 'core',
    bits: 64,
    type: 'code_ptr',
    read: (r) => r.rip,
    write: (vcpu, value) => set64(vcpu, S.RIP, value),
  },
  {
    name: 'eflags',
    feature: 'core',
    bits: 32,
    type: 'x64_eflags',
    read: (r) => BigInt(r.rflags),
    write: writeFlags,
  },
  selector('cs', SEG.CS),
  selector('ss', SEG.SS),
  selector('ds', SEG.DS),
  selector('es', SEG.ES),
  selector('fs', SEG.FS),
  selector('gs', SEG.GS),
  ...stack,
  ...floatControls,
  ...vectors('sse', S.XMM, (n) => `xmm${n}`),
  {
    name: 'mxcsr',
    feature: 'sse',
    bits: 32,
    type: 'x64_mxcsr',
    group: 'vector',
    read: (r) => BigInt(r.mxcsr),
    write: ({ state }, value) => {
      if ((Number(value) & ~MXCSR_MASK) !== 0) return false;
      state.setU32(S.MXCSR, Number(value));
      return true;
    },
  },
  ...vectors('avx', S.YMMH, (n) => `ymm${n}h`),
  base('fs_base', SEG.FS),
  base('gs_base', SEG.GS),
  ...SYSTEM,
];

const byteCount = ({ bits }: Register): number => bits / 8;

/** Little-endian, as gdb wants it. */
export function registerBytes(register: Register, r: RegisterSnapshot, vcpu: Vcpu): Uint8Array {
  let value = register.read(r, vcpu);
  return Uint8Array.from({ length: byteCount(register) }, () => {
    const byte = Number(value & 0xffn);
    value >>= 8n;
    return byte;
  });
}

/** Every register, one behind the other: `g`. */
export function allRegisters(vcpu: Vcpu): Uint8Array {
  const snapshot = snapshotRegisters(vcpu);
  return Uint8Array.from(REGISTERS.flatMap((register) => [...registerBytes(register, snapshot, vcpu)]));
}

/** Writes a register, unless it has the value already. False: it cannot have it. */
export function writeRegister(vcpu: Vcpu, register: Register, bytes: Uint8Array): boolean {
  if (bytes.length !== byteCount(register)) return false;
  const value = bytes.reduceRight((all, byte) => (all << 8n) | BigInt(byte), 0n);
  if (register.read(snapshotRegisters(vcpu), vcpu) === value) return true;
  if (!register.write?.(vcpu, value)) return false;
  vcpu.interfere();
  return true;
}

/** `G`. False: too short, or one of them refused; those before it are written. */
export function writeAllRegisters(vcpu: Vcpu, bytes: Uint8Array): boolean {
  let at = 0;
  for (const register of REGISTERS) {
    const count = byteCount(register);
    if (!writeRegister(vcpu, register, bytes.subarray(at, at + count))) return false;
    at += count;
  }
  return true;
}

// ---- the target description ------------------------------------------------------------------------------------------

const FEATURE_NAMES: Readonly<Record<Feature, string>> = {
  core: 'org.gnu.gdb.i386.core',
  sse: 'org.gnu.gdb.i386.sse',
  avx: 'org.gnu.gdb.i386.avx',
  segments: 'org.gnu.gdb.i386.segments',
  system: 'org.terrarium.system',
};

function flagsType(id: string, bytes: number, masks: Readonly<Record<string, number>>): string {
  const fields = Object.entries(masks)
    .filter(([name]) => name !== 'FIXED1')
    .map(([name, mask]) => `<field name="${name}" start="${Math.log2(mask)}" end="${Math.log2(mask)}"/>`);
  return `<flags id="${id}" size="${bytes}">${fields.join('')}</flags>`;
}

const TYPES: Readonly<Partial<Record<Feature, string>>> = {
  core: flagsType('x64_eflags', 4, RFLAGS),
  sse:
    [
      ['v4_float', 'ieee_single', 4],
      ['v2_double', 'ieee_double', 2],
      ['v16_int8', 'int8', 16],
      ['v8_int16', 'int16', 8],
      ['v4_int32', 'int32', 4],
      ['v2_int64', 'int64', 2],
    ]
      .map(([id, type, count]) => `<vector id="${id}" type="${type}" count="${count}"/>`)
      .join('') +
    `<union id="vec128">${['v4_float', 'v2_double', 'v16_int8', 'v8_int16', 'v4_int32', 'v2_int64', 'uint128']
      .map((type) => `<field name="${type}" type="${type}"/>`)
      .join('')}</union>${flagsType('x64_mxcsr', 4, MXCSR)}`,
  system: flagsType('x64_cr0', 8, CR0) + flagsType('x64_cr4', 8, CR4) + flagsType('x64_efer', 8, EFER),
};

/** Debugging with GDB, appendix G "Target Descriptions". */
export function targetDescription(): string {
  const features = (Object.keys(FEATURE_NAMES) as Feature[]).map((feature) => {
    const rows = REGISTERS.map((register, number) => ({ register, number }))
      .filter(({ register }) => register.feature === feature)
      .map(({ register: { name, bits, type, group }, number }) => {
        const inGroup = group ? ` group="${group}"` : '';
        return `<reg name="${name}" bitsize="${bits}" type="${type}" regnum="${number}"${inGroup}/>`;
      });
    return `<feature name="${FEATURE_NAMES[feature]}">${TYPES[feature] ?? ''}${rows.join('')}</feature>`;
  });
  return (
    '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">' +
    `<architecture>i386:x86-64</architecture>${features.join('')}</target>`
  );
}
