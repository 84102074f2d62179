/** Registers as QEMU's `info registers` prints them, so that eyes and scripts used to it find their way. */
import { CR0, EFER, RFLAGS } from '../arch/registers.ts';
import type { RegisterSnapshot, SegmentSnapshot } from './registers.ts';

const GPR_ORDER = [0, 3, 1, 2, 6, 7, 5, 4] as const;
const GPR_NAMES = ['AX', 'CX', 'DX', 'BX', 'SP', 'BP', 'SI', 'DI'] as const;

const digits = (value: number | bigint, count: number): string =>
  BigInt.asUintN(4 * count, BigInt(value))
    .toString(16)
    .padStart(count, '0');

export function formatRegisters(r: RegisterSnapshot): string {
  const wide = r.mode === '64-bit';
  const longMode = (r.efer & EFER.LMA) !== 0;
  const word = wide ? 16 : 8;
  const lines = [`CPU#${r.cpu} ${r.level}, ${r.mode} mode, ${r.activity}, ${r.instructions} instructions`];
  const prefix = wide ? 'R' : 'E';
  const named = GPR_ORDER.map((n) => `${prefix}${GPR_NAMES[n]}=${digits(r.gpr[n]!, word)}`);
  lines.push(named.slice(0, 4).join(' '), named.slice(4).join(' '));
  if (wide) {
    const high = r.gpr.slice(8).map((value, n) => `R${`${n + 8}`.padEnd(2)}=${digits(value, word)}`);
    lines.push(high.slice(0, 4).join(' '), high.slice(4).join(' '));
  }
  const flags = (
    [
      ['D', RFLAGS.DF],
      ['O', RFLAGS.OF],
      ['S', RFLAGS.SF],
      ['Z', RFLAGS.ZF],
      ['A', RFLAGS.AF],
      ['P', RFLAGS.PF],
      ['C', RFLAGS.CF],
    ] as const
  ).map(([letter, bit]) => (r.rflags & bit ? letter : '-'));
  lines.push(
    `${prefix}IP=${digits(r.rip, word)} ${wide ? 'RFL' : 'EFL'}=${digits(r.rflags, 8)} [${flags.join('')}] CPL=${r.cpl} ` +
      `II=${r.interruptShadow ? 1 : 0} A20=1 SMM=0 HLT=${r.activity === 'halted' ? 1 : 0}`,
  );
  const base = longMode ? 16 : 8;
  for (const segment of r.segments) lines.push(segmentLine(segment, base, longMode, (r.cr0 & CR0.PE) !== 0));
  lines.push(`GDT=     ${digits(r.gdtr.base, base)} ${digits(r.gdtr.limit, 8)}`);
  lines.push(`IDT=     ${digits(r.idtr.base, base)} ${digits(r.idtr.limit, 8)}`);
  lines.push(
    `CR0=${digits(r.cr0, 8)} CR2=${digits(r.cr2, base)} CR3=${digits(r.cr3, base)} CR4=${digits(r.cr4, 8)}`,
    [0, 1, 2, 3].map((n) => `DR${n}=${digits(r.dr[n]!, 16)}`).join(' '),
    `DR6=${digits(r.dr[6]!, 16)} DR7=${digits(r.dr[7]!, 16)}`,
    `EFER=${digits(r.efer, 16)} XCR0=${digits(r.xcr0, 8)} PKRU=${digits(r.pkru, 8)}`,
  );
  return lines.join('\n');
}

/** The x87 and SSE part. */
export function formatFloatRegisters(r: RegisterSnapshot): string {
  const lines = [
    `FCW=${digits(r.fcw, 4)} FSW=${digits(r.fsw, 4)} [ST=${(r.fsw >>> 11) & 7}] FTW=${digits(r.ftw, 2)} MXCSR=${digits(r.mxcsr, 8)}`,
  ];
  const pairs = (cells: readonly string[]) => {
    for (let at = 0; at < cells.length; at += 2) lines.push(`${cells[at]} ${cells[at + 1]}`);
  };
  pairs(
    r.fpr.map(({ significand, signExponent }, n) => `FPR${n}=${digits(significand, 16)} ${digits(signExponent, 4)}`),
  );
  pairs(r.xmm.map(({ low, high }, n) => `XMM${`${n}`.padStart(2, '0')}=${digits(high, 16)}${digits(low, 16)}`));
  return lines.join('\n');
}

/** Names of system descriptors: SDM 3A 3.5, Table 3-2. */
const SYSTEM_TYPES = (
  'Reserved TSS16-avl LDT TSS16-busy CallGate16 TaskGate IntGate16 TrapGate16 ' +
  'Reserved TSS32-avl Reserved TSS32-busy CallGate32 Reserved IntGate32 TrapGate32'
).split(' ');
const SYSTEM_TYPES_64 = (
  'Reserved Reserved LDT Reserved Reserved Reserved Reserved Reserved ' +
  'Reserved TSS64-avl Reserved TSS64-busy CallGate64 Reserved IntGate64 TrapGate64'
).split(' ');

function segmentLine(segment: SegmentSnapshot, base: number, longMode: boolean, protectedMode: boolean): string {
  const { name, selector, limit, access } = segment;
  const unusable = (access & 0x1_0000) !== 0;
  const scaled = access & 0x8000 ? limit >>> 12 : limit;
  // As the descriptor's second word has it: QEMU prints that
  const word = unusable ? 0 : ((access & 0xff) << 8) | ((access & 0xf000) << 8) | (scaled & 0xf_0000);
  const line = `${name.padEnd(3)}=${digits(selector, 4)} ${digits(segment.base, base)} ${digits(limit, 8)} ${digits(word, 8)}`;
  if (!protectedMode || unusable || (access & 0x80) === 0) return line;
  const dpl = ` DPL=${(access >>> 5) & 3}`;
  const type = access & 15;
  if ((access & 0x10) === 0) return `${line}${dpl} ${(longMode ? SYSTEM_TYPES_64 : SYSTEM_TYPES)[type]}`;
  const letter = (bit: number, on: string) => (type & bit ? on : '-');
  if (type & 8) {
    const size = access & 0x2000 ? 'CS64' : access & 0x4000 ? 'CS32' : 'CS16';
    return `${line}${dpl} ${size} [${letter(4, 'C')}${letter(2, 'R')}${letter(1, 'A')}]`;
  }
  const size = access & 0x4000 || longMode ? 'DS  ' : 'DS16';
  return `${line}${dpl} ${size} [${letter(4, 'E')}${letter(2, 'W')}${letter(1, 'A')}]`;
}
