import { describe, expect, test } from 'vitest';
import { gpr, S } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import type { Accelerator } from '../../core/memory.ts';

/** Linear pages of 2 MiB: the one before UPPER is `lower` (a page directory entry), UPPER is RAM from 2 MiB on. */
const UPPER = 0x40_0000;
const LOWER_ENTRY = AT.PD + 8;
const UPPER_ENTRY = AT.PD + 16;
const PRESENT = 0x20_0087;

/** Rounds of stack accesses from RDX (and at first RSP) down, with RSI's memory read in the middle. */
const CODE = `
  50           ; next: push rax
  6a11         ; push 0x11
  488b3e       ; mov rdi, [rsi]
  53           ; push rbx
  4803442408   ; add rax, [rsp + 8]
  0fb64c2403   ; movzx ecx, byte [rsp + 3]
  48015c2410   ; add [rsp + 16], rbx
  4883ec10     ; sub rsp, 16
  44894c2404   ; mov [rsp + 4], r9d
  4883c410     ; add rsp, 16
  5d           ; pop rbp
  ff0424       ; inc dword [rsp]
  4158         ; pop r8
  e802000000   ; call over
  eb04         ; jmp on
  4c01c3       ; over: add rbx, r8
  c3           ; ret
  4889d4       ; on: mov rsp, rdx
  41ffca       ; dec r10d
  75c4         ; jnz next
  f4           ; hlt
`;

function machine(accel: Accelerator, lower: number): TestMachine {
  const m = new TestMachine({ plan: { accel, jitThreshold: 3, jitBatch: 1 } });
  m.longMode();
  m.code(CODE);
  m.write32(UPPER_ENTRY, PRESENT, 0);
  m.write32(LOWER_ENTRY, PRESENT, 0);
  // #PF has a stack of its own
  m.write(AT.IDT + 16 * 14 + 4, [1]);
  m.setReg(0, 0x1234_5678);
  m.setReg(2, UPPER + 0x800);
  m.setReg(4, UPPER + 0x800);
  m.setReg(3, 0x9abc_def0);
  m.setReg(6, AT.DATA);
  m.setReg(9, 0x5151_5151);
  m.setReg(10, 1000);
  m.rip = AT.CODE;
  m.engine.run(m.vcpu, 400);
  m.write32(UPPER_ENTRY, PRESENT, 0);
  m.write32(LOWER_ENTRY, lower, 0);
  m.engine.processor.tlb.flushMatching(-1, -1, -1, -1);
  return m;
}

/** Goes on with RDX and RSI, and tells all that can be seen. */
function outcome(accel: Accelerator, lower: number, rdx: number, rsi: number): Record<string, unknown> {
  const m = machine(accel, lower);
  m.setReg(2, rdx);
  m.setReg(4, rdx);
  m.setReg(6, rsi);
  m.rip = AT.CODE;
  const exits: number[] = [];
  for (let i = 0; i < 6; i += 1) exits.push(m.engine.run(m.vcpu, 97));
  if (accel !== 'interpreter') expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
  return {
    exits,
    rip: m.rip,
    instructions: m.vcpu.instructions,
    registers: Array.from({ length: 16 }, (_, i) => m.reg(i)),
    stack: Array.from({ length: 64 }, (_, i) => m.read32(0x20_0000 + 4 * i)),
    middle: Array.from({ length: 64 }, (_, i) => m.read32(0x20_0780 + 4 * i)),
    behind: Array.from({ length: 64 }, (_, i) => m.read32(0x3f_ff00 + 4 * i)),
    entries: [m.read32(UPPER_ENTRY), m.read32(LOWER_ENTRY)],
    fault: m.cpu.get(S.CR2),
  };
}

describe.each(['compiler', 'lockstep'] as const)('stack accesses that share a look into the TLB: %s', (accel) => {
  const depths = [0x800, 0x803, 0x40, 0x30, 0x2c, 0x28, 0x21, 0x20, 0x18, 0x14, 0x10, 0x0c, 0x08, 0x04, 0];
  test.each(depths)('do the same %i bytes above a page end', (depth) => {
    const of = (tier: Accelerator) => outcome(tier, PRESENT, UPPER + depth, AT.DATA);
    expect(of(accel)).toEqual(of('interpreter'));
  });

  test.each(depths)('fault where they have to, %i bytes above a page that is not there', (depth) => {
    const of = (tier: Accelerator) => outcome(tier, 0, UPPER + depth, AT.DATA);
    const known = of('interpreter');
    expect(of(accel)).toEqual(known);
    expect(known['fault'] !== 0).toBe(depth < 0x28);
  });

  test.each([0x20, 0x18, 0x10])('mark no page that was not reached: %i bytes above it, and a fault before', (depth) => {
    const of = (tier: Accelerator) => outcome(tier, PRESENT, UPPER + depth, 0x4000_0000);
    const known = of('interpreter');
    expect(of(accel)).toEqual(known);
    expect(known['entries']).toEqual([PRESENT | 0x60, PRESENT]);
  });
});

/** Bits of a string at the stack: their index leads to another page, which is mapped elsewhere. */
function bits(accel: Accelerator, opcode: string, wrong: number): unknown {
  const m = new TestMachine({ plan: { accel, jitThreshold: 3, jitBatch: 1 } });
  m.longMode();
  m.code(`
    6a11               ; next: push 0x11
    6a22               ; push 0x22
    48${opcode}442408  ; bt [rsp + 8], rax, or its like
    83d100             ; adc ecx, 0
    5a                 ; pop rdx
    5a                 ; pop rdx
    41ffca             ; dec r10d
    75ec               ; jnz next
    f4                 ; hlt
  `);
  m.write32(UPPER_ENTRY, PRESENT, 0);
  m.engine.processor.tlb.flushMatching(-1, -1, -1, -1);
  m.write32(UPPER - 8, 1, 0);
  // Where it would be if all were mapped as UPPER is
  m.write32(0x1f_fff8, wrong, 0);
  m.setReg(4, UPPER + 0x800);
  const seen: unknown[] = [];
  for (const bit of [4, -8 * 0x800]) {
    m.setReg(0, bit);
    m.cpu.set(gpr(0) + 4, bit < 0 ? 0xffff_ffff : 0);
    m.setReg(10, 41);
    m.rip = AT.CODE;
    for (let i = 0; i < 6; i += 1) m.engine.run(m.vcpu, 50);
    seen.push(m.reg(1), m.read32(UPPER - 8), m.read32(0x20_07f8), m.read32(0x1f_fff8));
  }
  if (accel !== 'interpreter') expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
  return seen;
}

describe.each(['compiler', 'lockstep'] as const)('a bit that an index finds far from the stack: %s', (accel) => {
  test.each([
    ['BT', '0fa3'],
    ['BTS', '0fab'],
    ['BTR', '0fb3'],
    ['BTC', '0fbb'],
  ])('%s takes it from its own page', (_name, opcode) => {
    for (const wrong of [0, 1]) expect(bits(accel, opcode, wrong)).toEqual(bits('interpreter', opcode, wrong));
  });
});
