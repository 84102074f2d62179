import { describe, expect, test } from 'vitest';
import { EXIT } from '../../core/exits.ts';
import { gpr, PLACE, POOL, REC, S, STATUS } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import { LockstepDifference } from './lockstep.ts';

const ADDING = `
  b964000000        ; mov ecx, 100
  31db              ; xor ebx, ebx
  4801cb            ; next: add rbx, rcx
  48891c2500000200  ; mov [0x20000], rbx
  ffc9              ; dec ecx
  75f1              ; jnz next
  f4                ; hlt
`;

/** What comes between a region and lockstep, with the address of the PLACE left at: another status, or undefined. */
type Tamper = (m: TestMachine, call: number, status: number, place: number) => number | undefined;

/** A loop that adds to RBX and stores it, compiled in its second round; `tamper` runs behind each call of its region. */
function machine(tamper: Tamper, from = 0, code = ADDING): TestMachine {
  const plan = { accel: 'lockstep', jitThreshold: 2, jitBatch: 1, lockstepFrom: from } as const;
  const m = new TestMachine({ plan });
  const { compiler } = m.engine;
  const guard = compiler!.guard!;
  let calls = 0;
  compiler!.guard = (slot, f) =>
    guard(slot, (pool: number, number: number) => {
      const status = (f as (pool: number, number: number) => number)(pool, number);
      calls += 1;
      return tamper(m, calls, status, pool + ((status >>> STATUS.PLACE_SHIFT) << POOL.UNIT_SHIFT)) ?? status;
    });
  m.longMode();
  m.code(code);
  m.rip = AT.CODE;
  return m;
}

/** Runs in slices, so that the region is entered again and again. */
function run(m: TestMachine): void {
  for (let slice = 0; slice < 40; slice += 1) if (m.engine.run(m.vcpu, 17) !== EXIT.BUDGET) return;
}

function difference(m: TestMachine): string {
  try {
    run(m);
  } catch (error) {
    if (error instanceof LockstepDifference) return error.message;
    throw error;
  }
  return 'none';
}

describe('lockstep', () => {
  test('runs each region twice and changes nothing that the guest can see', () => {
    const m = machine(() => undefined);
    run(m);
    expect(m.reg(3)).toBe(5050);
    expect(m.read32(AT.DATA)).toBe(5050);
    const { compared, instructions } = m.engine.lockstep!.counters;
    expect(compared).toBeGreaterThan(15);
    expect(instructions).toBeGreaterThan(250);
    expect(m.vcpu.instructions).toBe(2 + 4 * 100);
  });

  test('names the register, the code and how to see it again, when a register differs', () => {
    const m = machine(({ cpu }, call) => {
      if (call === 4) cpu.set(gpr(3), cpu.get(gpr(3)) ^ 0x100);
      return undefined;
    });
    const text = difference(m);
    expect(text).toMatch(/^the tiers differ in state\n/);
    expect(text).toMatch(/RBX +[0-9a-f]{16} {2}[0-9a-f]{16} {2}[0-9a-f]{16} {2}<<</);
    expect(text).not.toMatch(/RAX.*<<</);
    expect(text).toMatch(/> 0x00[0-9a-f]: 48 01 cb +add rbx, rcx\n/);
    expect(text).toContain('mov qword [0x20000], rbx');
    expect(text).toMatch(/-accel lockstep,from=\d+/);
  });

  test.each<[string, (m: TestMachine, status: number, place: number) => number | undefined]>([
    ['RFLAGS', (m) => void m.cpu.setRflags(m.cpu.rflags() ^ 0x80)],
    ['memory', (m) => void m.write(AT.DATA + 2, [0x55])],
    [
      'RIP',
      (m, status, place) => {
        m.cpu.set(S.EXIT_RECORD, m.cpu.get(place + PLACE.RECORD) + REC.BYTES);
        return status & ((1 << STATUS.PLACE_SHIFT) - 1);
      },
    ],
    ['RFLAGS', (m) => void m.cpu.set(S.BUDGET, m.cpu.get(S.BUDGET) - 4)],
    ['state', (m) => void m.cpu.set(S.XMM + 32, 1)],
  ])('notices that %s differs, and leaves the machine as it was when the region was entered', (what, tamper) => {
    const m = machine((self, call, status, place) => {
      return call === 6 ? tamper(self, status, place) : undefined;
    });
    const text = difference(m);
    expect(text).toContain(`the tiers differ in ${what}\n`);
    // At the loop's head, where the region is entered, RBX is what was stored
    expect(m.reg(3)).toBe(Number.parseInt(/RBX +([0-9a-f]{16})/.exec(text)![1]!, 16));
    expect(m.read32(AT.DATA)).toBe(m.reg(3));
  });

  test('lets regions run alone before the instruction from which it compares', () => {
    let calls = 0;
    const m = machine((self, call) => {
      calls = call;
      if (call === 3) self.cpu.set(gpr(0), 1);
      return undefined;
    }, 300);
    expect(difference(m)).toBe('none');
    expect(calls).toBeGreaterThan(10);
    expect(m.engine.lockstep!.counters.compared).toBeGreaterThan(3);
    expect(m.engine.lockstep!.counters.compared).toBeLessThan(calls);
  });

  // Mutant: no leftBefore(). Seen: "the tiers differ in memory"
  test('what a region walked for a store that it leaves to the interpreter is no difference', () => {
    // Each store lies across two large pages that were not written before: no TLB entry serves
    const m = machine(
      () => undefined,
      0,
      `
        bf feff3f00  ; mov edi, 0x3ffffe
        b9 04000000  ; mov ecx, 4
        893f         ; next: mov [rdi], edi
        81c7 00002000 ; add edi, 0x200000
        ffc9         ; dec ecx
        75f4         ; jnz next
        f4           ; hlt
      `,
    );
    const entry = (page: number) => AT.PD + 8 * page;
    for (let page = 2; page < 8; page += 1) m.write32(entry(page), 0x20_0087, 0);
    expect(difference(m)).toBe('none');
    const marks = [1, 2, 3, 4, 5, 6].map((page) => m.read32(entry(page)) & 0x60);
    expect(marks).toEqual([0x60, 0x60, 0x60, 0x60, 0x60, 0]);
    expect(m.engine.lockstep!.counters.compared).toBeGreaterThan(0);
  });
});
