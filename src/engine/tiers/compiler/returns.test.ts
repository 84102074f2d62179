import { describe, expect, test } from 'vitest';
import { RETURNS } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import type { Accelerator } from '../../core/memory.ts';

/** Code is in two pages, so that calls and returns go from region to region. */
const SUBROUTINES = 0x10_0000;
const STACK = 0x3_0000;
/** Code in linear pages that are mapped by their 2 MiB to the first or the second ones of RAM. */
const MOVED_AT = 0x5_0000;
const MOVED = 0x40_0000 + MOVED_AT;
const MOVED_ENTRY = AT.PD + 16;

function machine(accel: Accelerator): TestMachine {
  const m = new TestMachine({ plan: { accel, jitThreshold: 3, jitBatch: 1 } });
  m.longMode();
  m.setReg(4, STACK);
  m.setReg(12, SUBROUTINES);
  m.rip = AT.CODE;
  return m;
}

/** What there is to see after so many runs of `instructions`. */
function outcome(m: TestMachine, runs = 40, instructions = 97): Record<string, unknown> {
  for (let i = 0; i < runs; i += 1) m.engine.run(m.vcpu, instructions);
  return {
    rip: m.rip,
    instructions: m.vcpu.instructions,
    registers: Array.from({ length: 16 }, (_, i) => m.reg(i)),
    stack: Array.from({ length: 64 }, (_, i) => m.read32(STACK - 0x100 + 4 * i)),
  };
}

const entriesOf = (m: TestMachine): number => {
  const { u32 } = m.engine.memory;
  let count = 0;
  for (let i = 0; i < RETURNS.ENTRIES; i += 1) {
    const at = RETURNS.AT + i * RETURNS.ENTRY_BYTES;
    const isOfNow = u32[(at + RETURNS.EPOCH) >>> 2] === u32[RETURNS.EPOCH_AT >>> 2];
    if (u32[(at + RETURNS.UNDER) >>> 2] !== 0 && isOfNow) count += 1;
  }
  return count;
};

describe.each(['compiler', 'lockstep'] as const)('returns from calls in regions: %s', (accel) => {
  test.each([
    [
      'where the subroutine has moved its return address to',
      `
        41ffd4     ; next: call r12
        ffc3       ; inc ebx
        ffc1       ; inc ecx
        ebf7       ; jmp next
      `,
      `
        ffc2       ; inc edx
        f6c203     ; test dl, 3
        7505       ; jnz out
        4883042402 ; add qword [rsp], 2
        c3         ; out: ret
      `,
    ],
    [
      'out of more calls than there are entries',
      `
        b964000000 ; next: mov ecx, 100
        41ffd4     ; call r12
        ffc3       ; inc ebx
        ebf4       ; jmp next
      `,
      `
        ffc9       ; dec ecx
        7405       ; jz out
        41ffd4     ; call r12
        ffc2       ; inc edx
        c3         ; out: ret
      `,
    ],
    [
      'to another stack than the call was made on',
      `
        4889e5     ; next: mov rbp, rsp
        41ffd4     ; call r12
        ffc3       ; inc ebx
        4889ec     ; mov rsp, rbp
        ebf3       ; jmp next
      `,
      `
        58           ; pop rax
        4881ec00020000 ; sub rsp, 512: the same entry
        50           ; push rax
        f6c301       ; test bl, 1
        7505         ; jnz out
        4883042400   ; add qword [rsp], 0
        c3           ; out: ret
      `,
    ],
  ])('%s', (_, code, subroutine) => {
    const of = (tier: Accelerator): unknown => {
      const m = machine(tier);
      m.code(code);
      m.code(subroutine, SUBROUTINES);
      const seen = outcome(m);
      if (tier === 'compiler') {
        expect(m.engine.compiler!.alive.regions).toBeGreaterThan(0);
        expect(entriesOf(m)).toBeGreaterThan(0);
      }
      return seen;
    };
    expect(of(accel)).toEqual(of('interpreter'));
  });

  test('to what is at the return address now: the subroutine has mapped another page there', () => {
    const of = (tier: Accelerator): Record<string, unknown> => {
      const m = machine(tier);
      m.write32(MOVED_ENTRY, 0x20_00e7, 0);
      const caller = (inc: string): string => `
        41ffd4     ; next: call r12
        ${inc}
        ebf9       ; jmp next
      `;
      m.code(caller('ffc3'), 0x20_0000 + MOVED_AT); // inc ebx
      m.code(caller('ffc1'), MOVED_AT); // inc ecx
      m.code(
        `
          ffc2             ; inc edx
          f6c207           ; test dl, 7
          750c             ; jnz out
          41813600002000 ; xor dword [r14], 0x200000
          410f017d00       ; invlpg [r13]
          c3               ; out: ret
        `,
        SUBROUTINES,
      );
      m.setReg(13, MOVED);
      m.setReg(14, MOVED_ENTRY);
      m.rip = MOVED;
      return outcome(m, 60, 101);
    };
    const known = of('interpreter');
    expect(of(accel)).toEqual(known);
    const [, ecx, , ebx] = known['registers'] as number[];
    expect(Math.abs(ecx! - ebx!)).toBeLessThan(20);
  });
});

test('what returns are looked for by goes with the region, and with the translations', () => {
  const m = machine('compiler');
  m.code('41ffd4 ffc3 ebf9'); // next: call r12; inc ebx; jmp next
  m.code('ffc2 c3', SUBROUTINES); // inc edx; ret
  outcome(m);
  expect(entriesOf(m)).toBe(1);
  m.cpu.tlb.flushAddress(0, -1, -1, 0x1234_5000, 0);
  expect(entriesOf(m)).toBe(0);
  outcome(m);
  expect(entriesOf(m)).toBe(1);
  m.code('ffca', SUBROUTINES); // dec edx
  expect(entriesOf(m)).toBe(0);
});
