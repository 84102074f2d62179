import { expect, test } from 'vitest';
import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { SPTE } from '../../contracts/second-stage.ts';
import { FILLS, S, SEG, TLB, WALKS } from '../core/layout.ts';
import { AT, SEL, TestMachine } from '../core/machine-testbed.ts';
import { Random } from '../isa/sse-cases.ts';

/**
 * Walks that generated code makes against walk.ts: two machines do the same, one of which may not walk by itself, and all
 * that either leaves must be equal, down to the TLB.
 */

/** Tables that any entry may name, and pages for data: the second MByte of RAM, which large pages map, too. */
const POOL = 0x10_0000;
const POOL_TABLES = 6;
const DATA = 0x11_0000;
const DATA_PAGES = 24;

/** Bits of entries, and how often in 16 each is set. */
const BITS: readonly (readonly [bit: number, odds: number])[] = [
  [1, 15], // P
  [2, 13], // W
  [4, 8], // U
  [0x20, 13], // A
  [0x40, 12], // D
  [0x100, 4], // G
];

class Pair {
  readonly quick = new TestMachine();
  readonly slow = new TestMachine();
  readonly both = [this.quick, this.slow];
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
    const { walker } = this.slow.cpu;
    const original = walker.modeChanged.bind(walker);
    walker.modeChanged = (vcpu, careful): void => {
      original(vcpu, careful);
      this.slow.cpu.set(S.QUICK, 0);
    };
    for (const m of this.both) m.longMode();
    this.#secondStage();
  }

  /** 4-KByte pages from POOL on, some of which lack a right, are tracked, a device's, or not there. */
  #secondStage(): void {
    const entries = Array.from({ length: 512 }, () => {
      const rights = SPTE.R | SPTE.W | SPTE.X;
      const kind = this.#random.below(12);
      return kind === 0
        ? SPTE.R
        : kind === 1
          ? rights | SPTE.TRACKED
          : kind === 2
            ? SPTE.MMIO
            : kind === 3
              ? 0
              : rights;
    });
    for (const m of this.both) {
      const lo = new Uint32Array(1536);
      const hi = new Uint32Array(1536);
      const { lo: oldLo, hi: oldHi } = m.cpu.walker.secondStage.tables;
      lo.set(oldLo);
      hi.set(oldHi);
      const first = hi[512]!;
      lo[512] = SPTE.R | SPTE.W | SPTE.X;
      hi[512] = 2;
      for (let i = 0; i < 512; i += 1) {
        lo[1024 + i] = i < POOL >>> 12 || i < (POOL >>> 12) + POOL_TABLES ? SPTE.R | SPTE.W | SPTE.X : entries[i]!;
        hi[1024 + i] = first + i;
      }
      m.engine.tables = { lo, hi };
      m.cpu.walker.flushPhysical();
    }
  }

  /** Makes a table of the pool anew: entries 0–7, whose address bits lead to other tables or to data. */
  table(number: number): void {
    const random = this.#random;
    for (let i = 0; i < 8; i += 1) {
      let low = 0;
      for (const [bit, odds] of BITS) if (random.below(16) < odds) low |= bit;
      if (random.below(10) === 0) low |= 0x80;
      const isTable = random.below(3) > 0;
      low |= isTable ? POOL + 4096 * random.below(POOL_TABLES) : DATA + 4096 * random.below(DATA_PAGES);
      let high = random.below(6) === 0 ? 0x8000_0000 : 0;
      if (random.below(12) === 0) high |= random.below(16) << 27;
      if (random.below(40) === 0) high |= 0x100;
      for (const m of this.both) m.write32(POOL + 4096 * number + 8 * i, low, high >>> 0);
    }
  }

  controls(): void {
    const random = this.#random;
    const flag = (bit: number): number => (random.below(2) === 0 ? bit : 0);
    const cr4 = flag(CR4.SMEP) | flag(CR4.SMAP) | flag(CR4.PGE) | flag(CR4.PKE) | flag(CR4.PCIDE);
    const wp = flag(CR0.WP);
    const nxe = random.below(4) > 0 ? EFER.NXE : 0;
    const ac = flag(RFLAGS.AC);
    const pkru = random.below(2) === 0 ? 0x5555_5554 : 0xc;
    const user = random.below(2) === 0;
    const accessedDirty = random.below(4) === 0;
    for (const m of this.both) {
      const { cpu } = m;
      cpu.set(S.CR4, (cpu.cr4 & ~(CR4.SMEP | CR4.SMAP | CR4.PGE | CR4.PKE | CR4.PCIDE)) | cr4);
      cpu.set(S.CR0, ((cpu.cr0 & ~CR0.WP) | wp) >>> 0);
      cpu.set(S.EFER, (cpu.efer & ~EFER.NXE) | nxe);
      cpu.set(S.PKRU, pkru);
      m.setFlags(ac);
      const level = user ? 3 : 0;
      cpu.set(S.CPL, level);
      m.setSegment(SEG.CS, user ? SEL.USER64 : SEL.CODE64, 0, 0xffff_ffff, 0xa09b | (level << 5));
      m.setSegment(SEG.SS, user ? SEL.USER_DATA : SEL.DATA, 0, 0xffff_ffff, 0xc093 | (level << 5));
      m.vcpu.root.accessedDirty = accessedDirty;
      cpu.tlb.flushMatching(0, -1, -1, -1);
      cpu.walker.flushPhysical();
      cpu.contextChanged();
    }
  }

  /** One instruction at AT.CODE with RBX = an address. */
  step(low: number, high: number, value: number): void {
    for (const m of this.both) {
      m.setReg(3, low, high);
      m.setReg(0, value, ~value >>> 0);
      m.rip = AT.CODE;
      m.cpu.set(S.FAULT_ERROR, 0);
      m.run(1);
    }
  }

  /** What the two differ in. */
  difference(): string | undefined {
    const [a, b] = [this.quick, this.slow];
    for (const [name, at] of Object.entries({ RIP: S.RIP, RAX: S.ZERO - 0x80, CR2: S.CR2, error: S.FAULT_ERROR })) {
      if (a.cpu.get(at) !== b.cpu.get(at) || a.cpu.get(at + 4) !== b.cpu.get(at + 4)) return name;
    }
    for (const field of ['reason', 'qualification'] as const) if (a.exit[field] !== b.exit[field]) return field;
    const ram = a.engine.memory.ram;
    const bytes = (m: TestMachine, from: number, length: number): Buffer =>
      Buffer.from(m.engine.memory.u8.buffer, from, length);
    if (bytes(a, ram, 0x20_0000).compare(bytes(b, ram, 0x20_0000)) !== 0) return 'memory';
    const context = a.cpu.get(S.CONTEXT);
    const tlb = TLB.SETS * TLB.SET_BYTES;
    if (bytes(a, context, tlb).compare(bytes(b, context, tlb)) !== 0) return 'TLB';
    const fills = FILLS.GLOBAL_ENTRIES + 4 * FILLS.MAX - FILLS.DIRTY;
    if (bytes(a, context + FILLS.DIRTY, fills).compare(bytes(b, context + FILLS.DIRTY, fills)) !== 0) return 'FILLS';
    const { writers, codeHeads } = a.engine.memory;
    if (bytes(a, writers, writers - codeHeads).compare(bytes(b, writers, writers - codeHeads)) !== 0) return 'writers';
    return undefined;
  }
}

/** Instructions that read, write, modify and fetch at RBX, 1 to 16 bytes. */
const INSTRUCTIONS = [
  '488b03', // mov rax, [rbx]
  '8a03', // mov al, [rbx]
  '668b03',
  '8b03',
  '488903', // mov [rbx], rax
  '8803',
  '668903',
  '8903',
  '480103', // add [rbx], rax
  '0f1003', // movups xmm0, [rbx]
  '0f1103', // movups [rbx], xmm0
  'ffe3', // jmp rbx
];

test.each([1, 2, 3, 4, 5, 6])('a walk in generated code leaves what walk.ts leaves (seed %i)', (seed) => {
  const random = new Random(seed);
  const pair = new Pair(random);
  for (const m of pair.both) {
    // What is jumped to ends there
    m.fill(DATA, 4096 * DATA_PAGES, 0xf4);
    for (let i = 1; i < 8; i += 1) m.write32(AT.PML4 + 8 * i, (POOL + 4096 * (i % POOL_TABLES)) | 0x27, 0);
  }
  for (let number = 0; number < POOL_TABLES; number += 1) pair.table(number);
  let quickWalks = 0;
  for (let step = 0; step < 1200; step += 1) {
    if (step % 40 === 0) pair.controls();
    if (random.below(12) === 0) pair.table(random.below(POOL_TABLES));
    const code = INSTRUCTIONS[random.below(INSTRUCTIONS.length)]!;
    for (const m of pair.both) m.code(code);
    const [l4, l3, l2, l1] = [1 + random.below(7), random.below(8), random.below(8), random.below(8)];
    const offset = random.below(4) === 0 ? 4096 - random.below(9) : random.below(4096);
    const low = ((l3 << 30) | (l2 << 21) | (l1 << 12)) + offset;
    const before = pair.quick.cpu.get(WALKS.FILLS);
    const isSlow = pair.slow.cpu.get(S.QUICK) === 0;
    pair.step(low >>> 0, (l4 << 7) | (l3 >>> 2), random.below(0x8000_0000));
    expect([seed, step, code, pair.difference(), isSlow]).toEqual([seed, step, code, undefined, true]);
    if (pair.quick.cpu.get(WALKS.FILLS) !== before) quickWalks += 1;
  }
  expect(quickWalks).toBeGreaterThan(100);
});
