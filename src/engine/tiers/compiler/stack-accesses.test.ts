import { describe, expect, test } from 'vitest';
import { S } from '../../core/layout.ts';
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
