import { expect, test } from 'vitest';
import { formatFloatRegisters, formatRegisters } from './register-text.ts';
import { type RegisterSnapshot, SEGMENT_NAMES } from './registers.ts';

const flat = { selector: 0, base: 0n, limit: 0, access: 0x1_0000 };
const snapshot = (more: Partial<RegisterSnapshot>): RegisterSnapshot => ({
  cpu: 1,
  activity: 'running',
  level: 'L1',
  mode: '64-bit',
  gpr: Array.from({ length: 16 }, (_, n) => BigInt(n) << 60n),
  rip: 0xffff_ffff_8100_0000n,
  rflags: 0x246,
  cpl: 0,
  interruptShadow: true,
  segments: SEGMENT_NAMES.map((name) => ({ name, ...flat })),
  gdtr: { base: 0xffff_fe00_0000_1000n, limit: 0x7f },
  idtr: { base: 0n, limit: 0xfff },
  cr0: 0x8005_0033,
  cr2: 0n,
  cr3: 0x1000n,
  cr4: 0xb0,
  efer: 0xd01,
  xcr0: 3,
  pkru: 0,
  dr: Array.from({ length: 8 }, () => 0n),
  fcw: 0x37f,
  fsw: 0x3800,
  ftw: 0x80,
  mxcsr: 0x1f80,
  fpr: Array.from({ length: 8 }, (_, n) => ({ significand: BigInt(n), signExponent: 0x3fff })),
  xmm: Array.from({ length: 16 }, () => ({ low: 1n, high: 2n })),
  instructions: 42,
  ...more,
});
const segment = (name: (typeof SEGMENT_NAMES)[number], more: object) =>
  SEGMENT_NAMES.map((each) => ({ name: each, ...flat, ...(each === name ? more : {}) }));

test('64-bit mode has sixteen registers of sixteen digits', () => {
  const lines = formatRegisters(snapshot({})).split('\n');
  expect(lines[0]).toBe('CPU#1 L1, 64-bit mode, running, 42 instructions');
  expect(lines[1]).toBe('RAX=0000000000000000 RBX=3000000000000000 RCX=1000000000000000 RDX=2000000000000000');
  expect(lines[2]).toBe('RSI=6000000000000000 RDI=7000000000000000 RBP=5000000000000000 RSP=4000000000000000');
  expect(lines[3]).toMatch(/^R8 =8000000000000000 R9 =9000000000000000 R10=a/);
  expect(lines[5]).toBe('RIP=ffffffff81000000 RFL=00000246 [---Z-P-] CPL=0 II=1 A20=1 SMM=0 HLT=0');
  expect(lines).toContain('GDT=     fffffe0000001000 0000007f');
  expect(lines).toContain('CR0=80050033 CR2=0000000000000000 CR3=0000000000001000 CR4=000000b0');
});

test('outside of it there are eight of eight digits', () => {
  const text = formatRegisters(snapshot({ mode: 'protected', efer: 0, rip: 0x10_0000n, activity: 'halted' }));
  expect(text).toContain('EIP=00100000 EFL=00000246 [---Z-P-] CPL=0 II=1 A20=1 SMM=0 HLT=1');
  expect(text).not.toContain('R8 =');
  expect(text).toContain('CR0=80050033 CR2=00000000 CR3=00001000 CR4=000000b0');
});

test('a segment shows what its descriptor says', () => {
  const line = (name: (typeof SEGMENT_NAMES)[number], more: object, of: Partial<RegisterSnapshot> = {}) =>
    formatRegisters(snapshot({ segments: segment(name, more), ...of }))
      .split('\n')
      .find((each) => each.startsWith(name));
  expect(line('CS', { selector: 0x10, limit: 0xffff_ffff, access: 0xa09b })).toBe(
    'CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]',
  );
  expect(line('SS', { selector: 0x2b, limit: 0xffff_ffff, access: 0xc0f3 })).toBe(
    'SS =002b 0000000000000000 ffffffff 00cff300 DPL=3 DS   [-WA]',
  );
  expect(line('TR', { selector: 0x40, limit: 0x4087, access: 0x8b })).toBe(
    'TR =0040 0000000000000000 00004087 00008b00 DPL=0 TSS64-busy',
  );
  expect(line('TR', { selector: 0x40, limit: 0x67, access: 0x8b }, { efer: 0 })).toContain('TSS32-busy');
  expect(line('DS', {})).toBe('DS =0000 0000000000000000 00000000 00000000');
  expect(line('CS', { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, access: 0x9b }, { cr0: 0, efer: 0 })).toBe(
    'CS =f000 ffff0000 0000ffff 00009b00',
  );
});

test('x87 and SSE registers stand two in a line', () => {
  const lines = formatFloatRegisters(snapshot({})).split('\n');
  expect(lines[0]).toBe('FCW=037f FSW=3800 [ST=7] FTW=80 MXCSR=00001f80');
  expect(lines[1]).toBe('FPR0=0000000000000000 3fff FPR1=0000000000000001 3fff');
  expect(lines).toHaveLength(1 + 4 + 8);
  expect(lines.at(-1)).toBe('XMM14=00000000000000020000000000000001 XMM15=00000000000000020000000000000001');
});
