/**
 * Task switches whose new task has other tables than the old one: with a second stage of L0's, and with L0 shadowing the
 * tables, which it hears of in the middle of the switch.
 *
 * Found by kvm-unit-tests' taskswitch2 under `-machine tdp=off`. What a guest sees otherwise is in guests/privileged-32.
 */
import { describe, expect, test } from 'vitest';
import { CR0, CR4 } from '../../src/arch/registers.ts';
import { EXIT } from '../../src/engine/core/exits.ts';
import { gpr, S, SEG, segment } from '../../src/engine/core/layout.ts';
import { AT, L1Machine } from './l1-machine.ts';

const SEL = { CODE: 0x08, DATA: 0x10, OLD_TASK: 0x18, TASK: 0x20, LDT: 0x28 } as const;
const GDT = 0x5_3000;
const IDT = 0x5_4000;
const OLD_TSS = 0x5_5000;
const TSS = 0x5_6000;
const [DIRECTORY, OTHER_DIRECTORY, TABLE] = [0x9_0000, 0x9_1000, 0x9_2000];
/** Linear page that the new task alone has, at PAGE: its LDT, and the top of its stack. */
const [OWN, PAGE] = [0x80_0000, 0x9_3000];
const TASK_CODE = 0x6_0000;
const P = 1 | 2;

/** 32-bit protected mode with 4 MiB pages; the task at TASK has its LDT and its stack where only its tables lead. */
function machine(tdp: boolean): L1Machine {
  const m = new L1Machine({ tdp });
  const { state, engine, mmu } = m.vcpu;
  m.restart();
  for (const directory of [DIRECTORY, OTHER_DIRECTORY]) m.write32(directory, 0x80 | P);
  m.write32(OTHER_DIRECTORY + 8, TABLE | P);
  m.write32(TABLE, PAGE | P);
  const descriptor = (at: number, base: number, limit: number, rights: number) => {
    m.write32(at, ((base << 16) | (limit & 0xffff)) >>> 0);
    m.write32(at + 4, (base & 0xff00_0000) | (rights << 8) | (limit & 0xf_0000) | ((base >>> 16) & 0xff));
  };
  descriptor(GDT + SEL.CODE, 0, 0xf_ffff, 0xc09b);
  descriptor(GDT + SEL.DATA, 0, 0xf_ffff, 0xc093);
  descriptor(GDT + SEL.OLD_TASK, OLD_TSS, 0x67, 0x8b);
  descriptor(GDT + SEL.TASK, TSS, 0x67, 0x89);
  descriptor(GDT + SEL.LDT, OWN, 0xff, 0x82);
  descriptor(PAGE, 0, 0xf_ffff, 0xc093);
  for (let vector = 0; vector < 32; vector += 1) {
    const handler = AT.HANDLERS + 16 * vector;
    m.write32(IDT + 8 * vector, (SEL.CODE << 16) | (handler & 0xffff));
    m.write32(IDT + 8 * vector + 4, (handler & 0xffff_0000) | 0x8e00);
  }
  m.write32(TSS + 28, OTHER_DIRECTORY);
  m.write32(TSS + 32, TASK_CODE);
  m.write32(TSS + 36, 2);
  m.write32(TSS + 56, OWN + 0x1000);
  const selectors = [SEL.DATA, SEL.CODE, SEL.DATA, SEL.DATA, SEL.DATA, 4, SEL.LDT];
  for (const [i, selector] of selectors.entries()) m.write32(TSS + 72 + 4 * i, selector);
  m.bytes(TASK_CODE, [0xf4]);

  state.setU32(S.CR0, (CR0.PE | CR0.NE | CR0.ET | CR0.PG | CR0.WP) >>> 0);
  state.setU64(S.CR3, DIRECTORY, 0);
  state.setU32(S.CR4, CR4.PSE);
  state.setU32(S.EFER, 0);
  const load = (seg: number, selector: number, rights: number, base = 0, limit = 0xffff_ffff) => {
    state.setU16(segment(seg) + SEG.SELECTOR, selector);
    state.setU32(segment(seg) + SEG.ACCESS, rights);
    state.setU32(segment(seg) + SEG.LIMIT, limit);
    state.setU64(segment(seg) + SEG.BASE, base, 0);
  };
  load(SEG.CS, SEL.CODE, 0xc09b);
  load(SEG.TR, SEL.OLD_TASK, 0x8b, OLD_TSS, 0x67);
  state.setU64(S.GDTR_BASE, GDT, 0);
  state.setU64(S.IDTR_BASE, IDT, 0);
  engine.processor.contextChanged();
  mmu.initMmu();
  mmu.newPgd(DIRECTORY, 0);
  return m;
}

const JMP_TASK = [0xea, 0, 0, 0, 0, SEL.TASK, 0];

describe.each([true, false])('TDP: %s', (tdp) => {
  test('the LDT of the new task is read through its own tables', () => {
    const m = machine(tdp);
    m.run(JMP_TASK);
    const { state } = m.vcpu;
    expect(state.u32(S.RIP)).toBe(TASK_CODE + 1);
    expect([state.u32(S.CR3), state.selector(SEG.GS), state.access(SEG.GS) & 0x9f]).toEqual([OTHER_DIRECTORY, 4, 0x93]);
  });

  test.each([
    [0, 0],
    [9, 9],
  ])('an LDT that they do not have is a page fault of the new task (page entry %d)', (entry, error) => {
    const m = machine(tdp);
    // Not present; or present and reserved: what 32-bit paging has reserved is in large pages
    if (entry === 0) m.write32(TABLE, 0);
    else m.write32(OTHER_DIRECTORY + 8, 0x20_0080 | P);
    m.write32(TSS + 56, AT.STACK);
    expect(m.run(JMP_TASK)).toMatchObject({ vector: 14, error });
    const { state } = m.vcpu;
    expect([state.u32(S.CR2), state.u32(S.TASK)]).toEqual([OWN + 0, 0]);
    expect(m.read32(state.u32(gpr(4)) + 4)).toBe(TASK_CODE);
  });

  test('a fault of the new task on the way of a double fault is a triple fault', () => {
    const m = machine(tdp);
    const exits = m.vcpu.exits;
    m.write32(TABLE, 0);
    m.write32(IDT + 8 * 8, SEL.TASK << 16);
    m.write32(IDT + 8 * 8 + 4, 0x8500);
    m.write32(IDT + 8 * 13 + 4, 0); // #GP cannot be delivered
    m.run([0x66, 0xb8, 0xf8, 0xff, 0x8e, 0xd8]); // mov ax, fff8h; mov ds, ax
    expect(exits[EXIT.TRIPLE_FAULT]).toBe(1);
  });
});

test('an NMI that comes while L0 loads CR3 waits for the end of the switch', () => {
  const m = machine(false);
  const { vcpu } = m;
  const handle = vcpu.handle.bind(vcpu);
  vcpu.handle = (reason) => {
    if (reason === EXIT.TASK_CR3) vcpu.nmiPending = true;
    handle(reason);
  };
  expect(m.run(JMP_TASK)).toMatchObject({ vector: 2 });
  const sp = vcpu.state.u32(gpr(4));
  expect(sp).toBe(OWN + 0x1000 - 12);
  // The new task's EIP and CS are on its own stack
  expect([m.read32(PAGE + 0x1000 - 12), m.read32(PAGE + 0x1000 - 8)]).toEqual([TASK_CODE, SEL.CODE]);
  expect(vcpu.state.selector(SEG.GS)).toBe(4);
});

/** PAE paging with PDPTEs at POINTERS; the new task's CR3 is `cr3`. */
const [POINTERS, PAE_DIRECTORY] = [0x9_4000, 0x9_5000];
function paeMachine(tdp: boolean, cr3: number): L1Machine {
  const m = machine(tdp);
  const { state, mmu, engine } = m.vcpu;
  m.write64(POINTERS, PAE_DIRECTORY | 1);
  m.write64(PAE_DIRECTORY, 0x80 | P);
  m.write64(PAE_DIRECTORY + 32, TABLE | P); // OWN
  m.write32(TSS + 28, cr3);
  state.setU32(S.CR4, CR4.PAE);
  state.setU64(S.CR3, POINTERS, 0);
  for (let i = 0; i < 4; i += 1) state.setU64(S.PDPTE + 8 * i, i === 0 ? PAE_DIRECTORY | 1 : 0, 0);
  engine.processor.contextChanged();
  mmu.initMmu();
  mmu.newPgd(POINTERS, 0);
  return m;
}

describe.each([true, false])('PAE, TDP: %s', (tdp) => {
  test('legal PDPTEs of the new task are loaded', () => {
    const m = paeMachine(tdp, POINTERS + 32);
    m.write64(POINTERS + 32, PAE_DIRECTORY | 1);
    m.run(JMP_TASK);
    const { state } = m.vcpu;
    expect([state.u32(S.CR3), state.u32(S.RIP), state.selector(SEG.GS)]).toEqual([POINTERS + 32, TASK_CODE + 1, 4]);
  });

  test('PDPTEs with a reserved bit are #GP(0) of the JMP, in the old task, and nothing is saved or busy', () => {
    const m = paeMachine(tdp, POINTERS + 32);
    m.write64(POINTERS + 32, PAE_DIRECTORY | P); // bit 1 is reserved
    expect(m.run(JMP_TASK)).toMatchObject({ vector: 13, error: 0 });
    const { state } = m.vcpu;
    expect([state.u32(S.CR3), state.selector(SEG.TR), state.u32(S.TASK)]).toEqual([POINTERS, SEL.OLD_TASK, 0]);
    expect(m.read32(state.u32(gpr(4)) + 4)).toBe(AT.CODE);
    expect([m.read32(OLD_TSS + 32), m.read32(GDT + SEL.OLD_TASK + 4), m.read32(GDT + SEL.TASK + 4)]).toEqual([
      0, 0x8b05, 0x8905,
    ]);
  });

  test('through a task gate they are a double fault, like every #GP on the way of a #GP', () => {
    const m = paeMachine(tdp, POINTERS + 32);
    m.write64(POINTERS + 32, PAE_DIRECTORY | P);
    m.write32(IDT + 8 * 13, SEL.TASK << 16);
    m.write32(IDT + 8 * 13 + 4, 0x8500);
    expect(m.run([0x66, 0xb8, 0xf8, 0xff, 0x8e, 0xd8])).toMatchObject({ vector: 8, error: 0 });
  });

  test('a CR3 that does not change is not loaded: nobody looks at the PDPTEs', () => {
    const m = paeMachine(tdp, POINTERS);
    m.write64(POINTERS, PAE_DIRECTORY | P);
    m.run(JMP_TASK);
    const { state } = m.vcpu;
    expect([state.u32(S.RIP), state.u32(S.PDPTE), state.selector(SEG.GS)]).toEqual([
      TASK_CODE + 1,
      PAE_DIRECTORY | 1,
      4,
    ]);
  });

  test('PDPTEs that the save of the old task overwrites are #GP(0) in the new task, which has no stack yet', () => {
    const m = paeMachine(tdp, OLD_TSS + 32); // EIP and EFLAGS
    m.run(JMP_TASK);
    const { state } = m.vcpu;
    expect([state.u32(S.CR3), state.u32(S.RIP), state.u32(S.TASK)]).toEqual([POINTERS, TASK_CODE, 0]);
    expect(m.vcpu.exits[EXIT.TRIPLE_FAULT]).toBe(1);
  });
});
