import { describe, expect, it, test } from 'vitest';
import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { Random } from '../isa/sse-cases.ts';
import { syscall, sysret } from './fast-calls.ts';
import { HELPERS, type Helper, helperNumber } from './helpers.ts';
import { gpr, S, SEG, STATE, WALKS } from './layout.ts';
import { AT, SEL, TestMachine } from './machine-testbed.ts';
import type { Processor } from './processor.ts';
import { iret } from './transfers.ts';

/**
 * What generated code does of SYSCALL, SYSRET and IRET against the helpers: two machines in the same state, one of which L0
 * wants to know of an NMI window from, so that each instruction is the helper's.
 */

/** Words that say how a machine got where it is. */
const OWN_WAYS = new Set<number>();
for (const [first, bytes] of [
  [S.BUDGET, 4],
  [S.PENDING_LINK, 4],
  [S.EA, 16],
  [S.ACCESS_STATUS, 4],
  [S.FAULT_VECTOR, 16],
  [S.EXIT, 0x50],
  [S.RETIRED_AT_END, 8],
  [S.INTERCEPTED, 4],
] as const) {
  for (let at = first; at < first + bytes; at += 4) OWN_WAYS.add(at);
}
const END = Math.max(...Object.values(S)) + 8;

class Pair {
  readonly quick = new TestMachine().longMode();
  readonly slow = new TestMachine().longMode();
  readonly both = [this.quick, this.slow];

  constructor() {
    this.slow.vcpu.intercepts.nmiWindow = true;
  }

  difference(): string | undefined {
    const [a, b] = [this.quick, this.slow];
    for (let at = STATE; at < END; at += 4) {
      if (OWN_WAYS.has(at) || a.cpu.get(at) === b.cpu.get(at)) continue;
      const name = Object.entries(S).findLast(([, cell]) => cell <= at)?.[0];
      return `${name} (${at.toString(16)}): ${a.cpu.get(at).toString(16)}, helper ${b.cpu.get(at).toString(16)}`;
    }
    const { ram } = a.engine.memory;
    const bytes = (m: TestMachine): Uint8Array => m.engine.memory.u8.subarray(ram, ram + 0x2_0000);
    return Buffer.compare(bytes(a), bytes(b)) === 0 ? undefined : 'memory';
  }
}

/** Calls of a helper by one processor. */
function countCalls(helper: Helper, cpu: Processor): { count: number } {
  const calls = { count: 0 };
  HELPERS[helperNumber(helper)] = (who, record): number => {
    if (who === cpu) calls.count += 1;
    return helper(who, record);
  };
  return calls;
}

const CODES = [
  { name: 'SYSCALL', code: '0f05', helper: syscall },
  { name: 'SYSRETQ', code: '480f07', helper: sysret },
  { name: 'IRETQ', code: '48cf', helper: iret },
];
/** Selectors in the GDT, one beyond its limit, LDT and null ones. */
const SELECTORS = [
  SEL.CODE64,
  SEL.DATA,
  SEL.USER64,
  SEL.USER_DATA,
  SEL.CODE32,
  SEL.USER32,
  0x50,
  0x53,
  0x1003,
  0xf,
  0,
  3,
];

test.each(CODES)('$name in generated code does what the helper does', ({ name, code, helper }) => {
  const random = new Random(7);
  const pair = new Pair();
  const calls = countCalls(helper, pair.quick.cpu);
  let transfers = 0;
  for (let round = 0; round < 1500; round += 1) {
    // Mostly what an operating system does, now and then something else
    const odd = (odds: number): boolean => random.below(odds) === 0;
    const toUser = random.below(2) === 0;
    const cpl = name === 'SYSCALL' || (name.startsWith('IRET') && toUser && odd(3)) ? 3 : odd(20) ? 3 : 0;
    const descriptors = [0x00af_9b00, 0x00af_fb00, 0x00cf_f300, 0x00cf_9300].map((high) =>
      odd(12) ? (high ^ (1 << random.below(24))) >>> 0 : high,
    );
    const cs = odd(8) ? random.pick(SELECTORS) : toUser ? SEL.USER64 : SEL.CODE64;
    const ss = odd(8) ? random.pick(SELECTORS) : toUser ? SEL.USER_DATA : odd(3) ? 0 : SEL.DATA;
    const image = random.next() & (odd(3) ? 0xffff_ffff : 0x0028_0ed7) & (odd(6) ? 0xffff_ffff : ~RFLAGS.TF);
    const target = odd(12) ? [0, 0x8000_0000 >>> random.below(20)] : [AT.CODE + 0x400 + random.below(64), 0];
    const flags = random.next() & (odd(8) ? 0x25_4dd5 : 0x24_0cd5);
    const rsp = AT.STACK - 64 + (odd(10) ? random.below(0x1000) : 0);
    const words = { fmask: odd(3) ? random.next() : 0x4_7700, cr0: odd(6) ? CR0.AM : 0 };
    const [sce, nmi, data] = [odd(16) ? 0 : EFER.SCE, odd(20) ? 1 : 0, odd(8) ? random.below(4) : -1];
    const star = [(odd(8) ? random.pick(SELECTORS) : SEL.CODE64) & 0xffff, odd(8) ? random.pick(SELECTORS) : 0x23];
    for (const m of pair.both) {
      const { cpu } = m;
      m.descriptor(SEL.CODE64, 0xffff, descriptors[0]!);
      m.descriptor(SEL.USER64, 0xffff, descriptors[1]!);
      m.descriptor(SEL.USER_DATA, 0xffff, descriptors[2]!);
      m.descriptor(SEL.DATA, 0xffff, descriptors[3]!);
      m.code(code);
      m.fill(AT.CODE + 0x400, 256, 0x90);
      cpu.set(S.CR0, ((cpu.cr0 & ~CR0.AM) | words.cr0) >>> 0);
      cpu.set(S.EFER, (cpu.efer & ~EFER.SCE) | sce);
      cpu.set(S.FMASK, words.fmask);
      cpu.set64(S.STAR, 0, ((star[1]! << 16) | star[0]!) >>> 0);
      cpu.set64(S.LSTAR, target[0]!, target[1]!);
      cpu.set(S.NMI_BLOCKED, nmi);
      cpu.set(S.PENDING_DEBUG, 0);
      cpu.set64(S.CC_A, 0, 0);
      for (let i = 0; i < 16; i += 1) m.setReg(i, 0x1111 * i);
      m.setReg(1, target[0]!, target[1]!);
      m.setReg(11, image >>> 0);
      m.setReg(4, rsp);
      m.write32(rsp, target[0]!, target[1]!, cs, 0, image >>> 0, 0, AT.USER_STACK, 0, ss, 0);
      m.setFlags(flags & ~RFLAGS.TF);
      m.setSegment(SEG.CS, cpl === 3 ? SEL.USER64 : SEL.CODE64, 0, 0xffff_ffff, 0xa09b | (cpl << 5));
      m.setSegment(SEG.SS, cpl === 3 ? SEL.USER_DATA : SEL.DATA, 0, 0xffff_ffff, 0xc093 | (cpl << 5));
      for (const seg of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) m.setSegment(seg, 0, 0, 0, 0x1_0000);
      if (data >= 0) m.setSegment([SEG.ES, SEG.DS, SEG.FS, SEG.GS][data]!, 0x13, 0, 0xffff_ffff, 0xc093);
      cpu.set(S.CPL, cpl);
      m.rip = AT.CODE;
      m.run(1);
    }
    const { cpu } = pair.quick;
    if (cpu.get(S.RIP) >= AT.CODE + 0x400 && cpu.get(S.RIP) < AT.CODE + 0x500) transfers += 1;
    expect([round, pair.difference()]).toEqual([round, undefined]);
  }
  expect(transfers - calls.count).toBeGreaterThan(0);
});

describe('IRETQ while L0 waits for an interrupt window', () => {
  function run(image: number) {
    const m = new TestMachine().longMode();
    m.code('48cf');
    m.fill(AT.CODE + 0x400, 256, 0x90);
    m.setReg(4, AT.STACK);
    m.write32(AT.STACK, AT.CODE + 0x400, 0, SEL.CODE64, 0, image, 0, AT.STACK - 64, 0, SEL.DATA, 0);
    m.rip = AT.CODE;
    m.run(0); // descriptors are accessed from here on
    m.vcpu.intercepts.interruptWindow = true;
    const calls = countCalls(iret, m.cpu);
    m.run(20);
    return { calls: calls.count, instructions: m.vcpu.instructions };
  }

  test('is in generated code where it leaves interrupts off, and the run goes on', () => {
    expect(run(RFLAGS.FIXED1)).toEqual({ calls: 0, instructions: 20 });
  });

  test('ends the run where it lets them through', () => {
    expect(run(RFLAGS.FIXED1 | RFLAGS.IF)).toEqual({ calls: 1, instructions: 1 });
  });
});

describe('the TLB set in force', () => {
  it.each([
    { name: 'STAC', code: '0f01cb', ac: 0, set: 2 },
    { name: 'CLAC', code: '0f01ca', ac: RFLAGS.AC, set: 1 },
  ])('is the one that $name makes it', ({ code, ac, set }) => {
    const m = new TestMachine().longMode();
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.SMAP);
    // What is at AT.CODE must not be a user page's under SMAP
    for (const at of [AT.PML4, AT.PDPT, AT.PD]) m.write32(at, m.read32(at) & ~4);
    m.setFlags(ac);
    m.code(`${code} f4`);
    m.run();
    expect(m.cpu.get(S.TLB) - m.cpu.tlb.set(m.vcpu.context, set)).toBe(0);
    expect(m.cpu.get(S.RFLAGS) & RFLAGS.AC).toBe(ac ^ RFLAGS.AC);
  });
});

it('MOV from CR2 in 64-bit mode gives all of it without REX.W', () => {
  const m = new TestMachine().longMode();
  m.cpu.set64(S.CR2, 0x1234_5678, 0xffff_8880);
  m.code('0f20d3 f4'); // mov rbx, cr2
  m.run();
  expect([m.reg(3), m.cpu.get(gpr(3) + 4)]).toEqual([0x1234_5678, 0xffff_8880]);
});

describe('WRPKRU', () => {
  /** Level 3, protection keys on; the page of AT.DATA has key 3. */
  function keyed(): TestMachine {
    const m = new TestMachine().longMode(3);
    m.cpu.set(S.CR4, m.cpu.cr4 | CR4.PKE);
    m.write32(AT.PD + 8, (1 << 21) | 0x87, 3 << 27);
    m.setReg(3, 0x20_0000);
    return m;
  }

  it('takes effect at once on pages of a key whose rights change', () => {
    const m = keyed();
    // mov eax, [rbx]; mov eax, 1 << 6; xor ecx, ecx; xor edx, edx; wrpkru; mov eax, [rbx]
    m.code('8b03 b840000000 31c9 31d2 0f01ef 8b03 f4');
    m.runOn();
    expect(m.stoppedAt).toBe(14);
    expect(m.read32(AT.STACK0 - 48)).toBe(0x25);
  });

  it('leaves the TLB alone if no page has had such a key', () => {
    const m = keyed();
    // The page of the stack has key 0: rights of keys 4 and 5 change
    m.code('8b03 b800050000 31c9 31d2 0f01ef 8b03 f4');
    m.run(1);
    const { fills } = m.cpu.tlb.counters;
    m.run(5);
    expect([m.cpu.get(S.PKRU), m.cpu.tlb.counters.fills - fills]).toEqual([0x500, 0]);
    expect(m.cpu.get(WALKS.KEYS)).toBe(1 | (1 << 3));
  });
});
