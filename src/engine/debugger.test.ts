import { describe, expect, test } from 'vitest';
import { RFLAGS } from '../arch/registers.ts';
import { EXIT } from './core/exits.ts';
import { S, SEG } from './core/layout.ts';
import { AT, TestMachine } from './core/machine-testbed.ts';
import type { Accelerator } from './core/memory.ts';
import type { EngineDebug } from './engine.ts';

/** Breakpoints and watchpoints of L0's debugger: the guest, its counts and its TLBs are what they are without. */

const TIERS: readonly Accelerator[] = ['interpreter', 'compiler'];

function machine(accel: Accelerator, code: string, at: number = AT.CODE): { m: TestMachine; debug: EngineDebug } {
  const plan = accel === 'interpreter' ? { accel } : { accel, jitThreshold: 2, jitBatch: 1 };
  const m = new TestMachine({ plan }).longMode();
  m.code(code, at);
  m.rip = at;
  return { m, debug: m.engine.attachDebugger() };
}

const at = (...addresses: number[]) => addresses.map((low) => ({ low, high: 0 }));
const watch = (low: number, bytes: number, kind: 'read' | 'write' | 'access' = 'write') => ({
  low,
  high: 0,
  bytes,
  reads: kind !== 'write',
  writes: kind !== 'read',
});

/** mov ecx,COUNT; L: inc eax; mov [rdi],eax; dec ecx; jnz L; hlt */
const loop = (count: number): string => `b9 ${hex32(count)} ffc0 8907 ffc9 75f8 f4`;
const LOOP = { start: AT.CODE + 5, store: AT.CODE + 7, behindStore: AT.CODE + 9 };
const hex32 = (value: number): string =>
  [0, 8, 16, 24].map((shift) => ((value >>> shift) & 255).toString(16).padStart(2, '0')).join('');

/** Instructions that a program takes to its HLT, and what it leaves in RAX. */
function plain(accel: Accelerator, code: string, prepare: (m: TestMachine) => void, start: number = AT.CODE): number[] {
  const { m } = machine(accel, code, start);
  m.engine.detachDebugger();
  prepare(m);
  let reason: number = EXIT.BUDGET;
  while (reason === EXIT.BUDGET) reason = m.run(100_000);
  expect(reason).toBe(EXIT.HLT);
  return [m.vcpu.instructions, m.reg(0)];
}

describe.each(TIERS)('a breakpoint (%s)', (accel) => {
  test('stops in front of the instruction, and the next run passes it', () => {
    const { m, debug } = machine(accel, 'ffc0 ffc0 ffc0 f4');
    debug.breakpoints.set(at(AT.CODE + 2));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect([m.rip, m.reg(0), m.vcpu.instructions]).toEqual([AT.CODE + 2, 1, 1]);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(0), m.vcpu.instructions]).toEqual([3, 3]);
  });

  test('stops each time that its instruction comes again', () => {
    const { m, debug } = machine(accel, loop(3));
    m.setReg(7, AT.DATA);
    debug.breakpoints.set(at(LOOP.start));
    const seen: number[] = [];
    while (m.run() === EXIT.DEBUGGER) seen.push(m.reg(1));
    expect(seen).toEqual([3, 2, 1]);
    expect([m.vcpu.instructions, m.reg(0)]).toEqual(plain(accel, loop(3), (n) => n.setReg(7, AT.DATA)));
  });

  test('that comes while its page runs hot is found, and gone when it is taken away', () => {
    const { m, debug } = machine(accel, loop(1000));
    m.setReg(7, AT.DATA);
    expect(m.run(2001)).toBe(EXIT.BUDGET);
    debug.breakpoints.set(at(LOOP.store));
    expect(m.run(2000)).toBe(EXIT.DEBUGGER);
    expect([m.rip, m.reg(0)]).toEqual([LOOP.store, 501]);
    expect(m.run(2000)).toBe(EXIT.DEBUGGER);
    expect(m.reg(0)).toBe(502);
    debug.breakpoints.set([]);
    expect(m.run(2000)).toBe(EXIT.HLT);
    expect([m.vcpu.instructions, m.reg(0)]).toEqual(plain(accel, loop(1000), (n) => n.setReg(7, AT.DATA)));
  });

  test('stops between two instructions that otherwise run as one, also when it has come and gone', () => {
    const code = 'b9 05000000 ffc0 39c8 75fa f4'; // mov ecx,5; L: inc eax; cmp eax,ecx; jne L
    const jne = AT.CODE + 9;
    const { m, debug } = machine(accel, code);
    expect(m.run(3)).toBe(EXIT.BUDGET);
    debug.breakpoints.set(at(jne));
    for (let round = 1; round <= 5; round += 1) {
      expect(m.run()).toBe(EXIT.DEBUGGER);
      expect([m.rip, m.reg(0), m.vcpu.instructions]).toEqual([jne, round, 3 * round]);
    }
    expect(m.run()).toBe(EXIT.HLT);
    debug.breakpoints.set([]);
    m.setReg(0, 0);
    m.rip = AT.CODE;
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(0), m.vcpu.instructions]).toEqual([5, 32]);
  });

  test('is linear: the same code at another address does not stop, nor does it count otherwise', () => {
    const alias = 0x4000_0000;
    const mapped = (m: TestMachine): void => {
      m.write32(AT.PDPT + 8, AT.PD | 7, 0);
      m.setReg(7, AT.DATA);
    };
    const { m, debug } = machine(accel, loop(50));
    mapped(m);
    debug.breakpoints.set(at(LOOP.store));
    // Once here, so that the record is known to have the breakpoint
    expect(m.run()).toBe(EXIT.DEBUGGER);
    const before = m.vcpu.instructions;
    m.rip = alias + AT.CODE;
    expect(m.run()).toBe(EXIT.HLT);
    const [instructions] = plain(accel, loop(50), mapped);
    expect(m.vcpu.instructions - before).toBe(instructions);
    debug.breakpoints.set(at(alias + LOOP.store));
    m.rip = AT.CODE;
    expect(m.run()).toBe(EXIT.HLT);
    m.rip = alias + AT.CODE;
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(alias + LOOP.store);
  });

  test('is found in a page whose code is known from another address, when it is entered by its own', () => {
    const alias = 0x4000_0000;
    const { m, debug } = machine(accel, loop(50));
    // Accessed already: a walk by generated code finds nothing to do
    m.write32(AT.PDPT + 8, AT.PD | 0x27, 0);
    m.setReg(7, AT.DATA);
    debug.breakpoints.set(at(alias + LOOP.store));
    expect(m.run()).toBe(EXIT.HLT);
    m.rip = alias + AT.CODE;
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(alias + LOOP.store);
  });

  test('holds for code that is written later', () => {
    const { m, debug } = machine(accel, 'ffc0 ffc0 f4');
    debug.breakpoints.set(at(AT.CODE + 2));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    m.code('ffc3', AT.CODE + 2); // inc ebx
    m.rip = AT.CODE;
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(AT.CODE + 2);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(0), m.reg(3)]).toEqual([2, 1]);
  });

  test('holds for an instruction that crosses into another page, and for one behind a budget of its own', () => {
    const start = AT.CODE + 0xff9;
    const code = 'ffc0 b8 78563412 ffc0 f4'; // mov eax,12345678h at ffbh … over 1000h
    const { m, debug } = machine(accel, `90 90 ${code}`, start);
    debug.breakpoints.set(at(start + 4, start + 9));
    for (let round = 0; round < 3; round += 1) {
      m.rip = start;
      expect(m.run(2)).toBe(EXIT.BUDGET);
      expect(m.run(1)).toBe(EXIT.BUDGET);
      expect(m.run(1)).toBe(EXIT.DEBUGGER);
      expect(m.rip).toBe(start + 4);
      expect(m.run()).toBe(EXIT.DEBUGGER);
      expect([m.rip, m.reg(0)]).toEqual([start + 9, 0x1234_5678]);
      expect(m.run()).toBe(EXIT.HLT);
      expect(m.reg(0)).toBe(0x1234_5679);
      expect(m.vcpu.instructions).toBe(5 * (round + 1));
    }
  });

  test('stops a REP string instruction once, over however many pages it goes', () => {
    const code = 'f3a4 f4'; // rep movsb
    const prepare = (m: TestMachine): void => {
      m.setReg(1, 10_000);
      m.setReg(6, AT.DATA);
      m.setReg(7, AT.DATA + 0x1_0800);
    };
    const { m, debug } = machine(accel, code);
    prepare(m);
    debug.breakpoints.set(at(AT.CODE));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.reg(1)).toBe(10_000);
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.vcpu.instructions).toBe(plain(accel, code, prepare)[0]);
    expect(m.vcpu.instructions).toBeGreaterThan(3);
  });

  test('counts from the base of CS in real mode', () => {
    const m = new TestMachine({ plan: { accel } }).realMode();
    m.code('90 90 f4');
    m.setSegment(SEG.CS, 0x800, AT.CODE, 0xffff, 0x9b);
    m.rip = 0;
    m.engine.attachDebugger().breakpoints.set(at(AT.CODE + 1));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(1);
    expect(m.run()).toBe(EXIT.HLT);
  });

  test('comes after the one that the guest has at the same place', () => {
    const { m, debug } = machine(accel, '90 90 f4');
    m.code('814c241000000100 48cf', AT.HLTS + 0x10); // or dword [rsp+10h],RF; iretq
    m.cpu.set64(S.DR, AT.CODE + 1, 0);
    m.cpu.set(S.DR + 56, 0x402);
    debug.breakpoints.set(at(AT.CODE + 1, AT.HLTS + 0x10));
    expect(m.runOn()).toBe(EXIT.DEBUGGER);
    expect(m.stoppedAt).toBe(1);
    expect(m.runOn()).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(AT.CODE + 1);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.rip).toBe(AT.CODE + 2);
  });

  test('leaves the single-step trap of the guest as it is', () => {
    const { m, debug } = machine(accel, '9d 90 90 90'); // popfq; nop; nop; nop
    m.setReg(4, AT.STACK - 8);
    m.write32(AT.STACK - 8, RFLAGS.TF | 2, 0);
    debug.breakpoints.set(at(AT.CODE + 1));
    let reason = m.run();
    if (reason === EXIT.BUDGET) reason = m.run();
    expect(reason).toBe(EXIT.DEBUGGER);
    expect(m.rip).toBe(AT.CODE + 1);
    expect(m.runOn()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(1);
    expect(m.read32(m.reg(4))).toBe(AT.CODE + 2);
  });
});

describe.each(TIERS)('a watchpoint (%s)', (accel) => {
  test('stops behind the instruction that writes into its range, and nowhere else', () => {
    const { m, debug } = machine(accel, loop(40));
    m.setReg(7, AT.DATA);
    debug.watchpoints.add(watch(AT.DATA + 3, 2));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect([m.rip, m.read32(AT.DATA)]).toEqual([LOOP.behindStore, 1]);
    expect(debug.watchpoints.hit?.low).toBe(AT.DATA + 3);
    debug.watchpoints.hit = null;
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.read32(AT.DATA)).toBe(2);
    debug.watchpoints.hit = null;
    // The same page, other bytes
    m.setReg(7, AT.DATA + 5);
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.vcpu.instructions, m.reg(0)]).toEqual(plain(accel, loop(40), (n) => n.setReg(7, AT.DATA)));
  });

  test('tells reads from writes, and sees both halves of an access over a page border', () => {
    const code = '8b07 ff07 890f f4'; // mov eax,[rdi]; inc dword [rdi]; mov [rdi],ecx
    const stops = (kind: 'read' | 'write' | 'access', from: number, bytes: number): number[] => {
      const { m, debug } = machine(accel, code);
      m.setReg(7, AT.DATA + 0xffe);
      debug.watchpoints.add(watch(from, bytes, kind));
      const found: number[] = [];
      while (m.run() === EXIT.DEBUGGER) {
        found.push(m.rip - AT.CODE);
        debug.watchpoints.hit = null;
      }
      expect(m.vcpu.instructions).toBe(3);
      return found;
    };
    expect(stops('read', AT.DATA + 0xffe, 1)).toEqual([2, 4]);
    expect(stops('write', AT.DATA + 0x1001, 1)).toEqual([4, 6]);
    expect(stops('access', AT.DATA + 0xfff, 2)).toEqual([2, 4, 6]);
    expect(stops('access', AT.DATA + 0x1002, 8)).toEqual([]);
    expect(stops('access', AT.DATA, 0xffe)).toEqual([]);
  });

  test('counts a REP string instruction as ever, and stops behind the part that hits', () => {
    const code = 'f3aa f4'; // rep stosb
    const prepare = (m: TestMachine): void => {
      m.setReg(1, 10_000);
      m.setReg(7, AT.DATA + 0x800);
    };
    const { m, debug } = machine(accel, code);
    prepare(m);
    debug.watchpoints.add(watch(AT.DATA + 0x1234, 1));
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.reg(7)).toBe(AT.DATA + 0x2000);
    debug.watchpoints.hit = null;
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.vcpu.instructions).toBe(plain(accel, code, prepare)[0]);
  });

  test('sees what an exception pushes, and nothing of an instruction that faults', () => {
    const { m, debug } = machine(accel, '8b04250000ffff f4'); // mov eax,[ffffffffffff0000h]: not mapped
    debug.watchpoints.add(watch(AT.STACK - 8, 8));
    debug.watchpoints.add({ low: 0xffff_0000, high: 0xffff_ffff, bytes: 4, reads: true, writes: true });
    expect(m.run()).toBe(EXIT.DEBUGGER);
    expect(m.stoppedAt).toBe(14);
    expect(debug.watchpoints.hit?.low).toBe(AT.STACK - 8);
  });

  test('keeps translations that the guest has not invalidated', () => {
    const { m, debug } = machine(accel, '8b07 90 8b1f f4'); // mov eax,[rdi]; nop; mov ebx,[rdi]
    const linear = 0x20_0000 + AT.DATA;
    m.write32(linear, 0x77);
    m.setReg(7, linear);
    expect(m.run(1)).toBe(EXIT.BUDGET);
    m.write32(AT.PD + 8, 0, 0);
    debug.watchpoints.add(watch(linear + 0x100, 4, 'access'));
    expect(m.run()).toBe(EXIT.HLT);
    expect([m.reg(0), m.reg(3), m.vcpu.instructions]).toEqual([0x77, 0x77, 3]);
    // … and drops those that it has
    m.code('0f013f 8b1f f4'); // invlpg [rdi]; mov ebx,[rdi]
    m.rip = AT.CODE;
    expect(m.run()).toBe(EXIT.HLT);
    expect(m.stoppedAt).toBe(14);
  });

  test('is gone when the last of its page is taken away, and what the TLB has is found again', () => {
    const { m, debug } = machine(accel, loop(40));
    m.setReg(7, AT.DATA);
    const first = watch(AT.DATA, 4);
    const second = watch(AT.DATA + 0xffe, 4);
    debug.watchpoints.add(first);
    debug.watchpoints.add(second);
    expect(m.run()).toBe(EXIT.DEBUGGER);
    debug.watchpoints.hit = null;
    debug.watchpoints.remove(first);
    expect(m.cpu.known(AT.DATA, 0, 0)).toBe(0);
    debug.watchpoints.remove(second);
    expect(m.cpu.known(AT.DATA, 0, 0)).toBeGreaterThan(0);
    expect(m.run()).toBe(EXIT.HLT);
  });
});

test('generated code walks tables by itself again when a debugger that watched has gone', () => {
  const { m, debug } = machine('interpreter', '90 90 90 f4');
  m.run(1);
  const step = () => m.engine.run(m.vcpu, 1);
  const quick = m.cpu.get(S.QUICK);
  expect(quick).not.toBe(0);
  const range = watch(AT.DATA, 4);
  debug.watchpoints.add(range);
  step();
  expect(m.cpu.get(S.QUICK)).toBe(0);
  debug.watchpoints.remove(range);
  m.engine.detachDebugger();
  step();
  expect(m.cpu.get(S.QUICK)).toBe(quick);
});
