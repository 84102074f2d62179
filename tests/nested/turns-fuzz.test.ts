/**
 * Random L1s and L2s whose levels change at every other instruction, once as they are and once watched: a watched vCPU takes no
 * turns (hypervisor/nested/vmx/turns.ts). Between two switches either level does something that a turn must notice, or must not
 * be disturbed by.
 */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { ENTRY, PIN, PRIMARY, SECONDARY } from '../../src/arch/vmx/controls.ts';
import { FIELD, fieldEncoding, type VmcsField } from '../../src/arch/vmx/fields.ts';
import { S } from '../../src/engine/core/layout.ts';
import { snapshotRegisters } from '../../src/inspect/registers.ts';
import { AT, L1Machine } from './l1-machine.ts';
import { fillValid } from './valid-vmcs12.ts';

const PROGRAMS = Number(process.env['TERRARIUM_TURNS'] ?? 150);
const SWITCHES = 40;
const EPT = 0xa_0000;
/** By number of the exit: where L1 goes on. */
const STEPS = 0x9_0000;
const CODE = 0x10_0000;
const VIRTUAL_APIC = 0x12_0000;
const BITMAP = 0x13_0000;

class Random {
  #x: number;
  constructor(seed: number) {
    this.#x = (seed * 0x9e37_79b9 + 1) >>> 0;
  }
  below(n: number): number {
    this.#x ^= this.#x << 13;
    this.#x ^= this.#x >>> 17;
    this.#x ^= this.#x << 5;
    return (this.#x >>> 0) % n;
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

const u32 = (value: number) => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, (value >>> 24) & 255];
const moveTo = (register: number, value: number) => [0xb8 | register, ...u32(value)];
const vmwrite = (field: VmcsField, value: number) => [
  ...moveTo(0, value),
  ...moveTo(1, fieldEncoding(FIELD[field])),
  ...[0x0f, 0x79, 0xc8], // vmwrite rcx, rax
];
const wrmsr = (msr: number, low: number, high = 0) => [
  ...moveTo(0, low),
  ...moveTo(1, msr),
  ...moveTo(2, high),
  0x0f,
  0x30,
];
const dr7 = (value: number) => [...moveTo(0, value), 0x0f, 0x23, 0xf8];
const PAT = 0x277;
const DEFAULT_PAT = 0x0007_0406;

/** GUEST_RIP behind the instruction that left; and the next VMRESUME. */
const ADVANCE = [
  ...moveTo(1, fieldEncoding(FIELD.EXIT_INSTRUCTION_LENGTH)),
  ...[0x0f, 0x78, 0xca], // vmread rdx, rcx
  ...moveTo(1, fieldEncoding(FIELD.GUEST_RIP)),
  ...[0x0f, 0x78, 0xc8], // vmread rax, rcx
  ...[0x48, 0x01, 0xd0], // add rax, rdx
  ...[0x0f, 0x79, 0xc8], // vmwrite rcx, rax
];
const VMRESUME = [0x0f, 0x01, 0xc3];

const FLAGS = [2, 2, 0x202, 0xad7, 0x402, 0x4_0002, 0x102, 0x3002, 0x20_0002, 0];

function actionOfL1(r: Random, often: number, primary: number): number[] {
  const actions: (() => number[])[] = [
    () => vmwrite('GUEST_RFLAGS', r.of(FLAGS)),
    () => vmwrite('GUEST_RSP', AT.STACK - 0x3000 - 8 * r.below(9)),
    () => vmwrite('GUEST_INTERRUPTIBILITY_STATE', r.of([0, 0, 1, 2, 8])),
    () => vmwrite('GUEST_PENDING_DEBUG_EXCEPTIONS', r.of([0, 0, 0x4000])),
    () => vmwrite('GUEST_FS_BASE', r.of([0, 0x1000])),
    () => vmwrite('GUEST_DR7', r.of([0x400, 0x400, 0x402])),
    () => vmwrite('GUEST_CR4', r.of([0x2020, 0x2020, 0x20a0])),
    () => vmwrite('HOST_FS_BASE', r.of([0, 0x2000])),
    () => vmwrite('HOST_RSP', AT.STACK - 8 * r.below(9)),
    () => vmwrite('HOST_CR4', r.of([0x2020, 0x2020, 0x20a0])),
    () => vmwrite('PRIMARY_CONTROLS', r.of([primary, primary, primary | PRIMARY.RDTSC_EXITING])),
    () => vmwrite('PIN_CONTROLS', r.of([0x16, 0x16 | PIN.PREEMPTION_TIMER])),
    () => vmwrite('PREEMPTION_TIMER_VALUE', r.of([0xffff_ffff, 0, 1, 5, 20, 40])),
    () => vmwrite('TPR_THRESHOLD', r.of([0, 2, 5])),
    () => vmwrite('TSC_OFFSET', r.below(1000)),
    () => vmwrite('EXCEPTION_BITMAP', r.of([0xffff_ffff, 0])),
    () => vmwrite('ENTRY_CONTROLS', r.of([0x93fb, 0x93fb | ENTRY.LOAD_DEBUG_CONTROLS])),
    () => [0xc7, 0x04, 0x25, ...u32(VIRTUAL_APIC + 0x80), ...u32(r.of([0x10, 0x30]))], // mov dword [VTPR], …
    () => dr7(r.of([0x400, 0x402])),
    () => wrmsr(PAT, DEFAULT_PAT, r.of([DEFAULT_PAT, 0x0107_0406])),
    () => wrmsr(0x1d9, r.of([0, 1])),
    () => [0xfb, 0x90], // sti; nop
    () => [0xfb, 0xfa],
    () => [0xf9], // stc
    () => [0x0f, 0x31], // rdtsc
    () => [0xfc], // cld
    () => (r.below(3) === 0 ? [0x66, 0xb8, 16, 0, 0x8e, 0xd0] : []), // mov ax, 16; mov ss, ax
    () => [...moveTo(0, r.of([0x2020, 0x20a0])), 0x0f, 0x22, 0xe0], // mov cr4, rax
  ];
  return r.below(often) === 0 ? r.of(actions)() : [];
}

function actionOfL2(r: Random, often: number): number[] {
  const actions: (() => number[])[] = [
    () => [0xf9],
    () => [0x48, 0x31, 0xdb], // xor rbx, rbx
    () => [0x48, 0xff, 0xc3], // inc rbx
    () => [0xfb, 0x90],
    () => [0xfb],
    () => [0xfa],
    () => [0x54, 0x5e], // push rsp; pop rsi
    () => [0x56], // push rsi
    () => [0x0f, 0x31],
    () => [...moveTo(1, r.below(60)), 0xe2, 0xfe], // loop
    () => dr7(r.of([0x400, 0x402])),
    () => wrmsr(0x174, r.below(8)),
    () => wrmsr(PAT, DEFAULT_PAT, 0x0107_0406),
    () => [0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8], // mov rax, cr3; mov cr3, rax
    () => [0x66, 0xb8, 16, 0, 0x8e, 0xe0], // mov ax, 16; mov fs, ax
    () => [0x66, 0xb8, 16, 0, 0x8e, 0xd0], // mov ss, ax
    () => [0xfd, 0xfc],
    () => [0x44, 0x0f, 0x20, 0xc0, 0x44, 0x0f, 0x22, 0xc0], // mov rax, cr8; mov cr8, rax
    () => [0x9c, 0x58, 0x50, 0x9d], // pushf; pop rax; push rax; popf
    () => [0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf8, 7, 0x0f, 0x22, 0xe0], // CR4.PGE turned
  ];
  return r.below(often) === 0 ? r.of(actions)() : [];
}
/** VMCALL, PAUSE, CPUID, INVD, XSETBV, RDMSR, IN. */
const LEAVING = [
  [0x0f, 0x01, 0xc1],
  [0xf3, 0x90],
  [0x0f, 0xa2],
  [0x0f, 0xa2],
  [0x0f, 0x08],
  [0x0f, 0x01, 0xd1],
  [0x0f, 0x32],
  [...moveTo(1, 0x174), 0x0f, 0x32],
  [0xe4, 0x80],
];

function prepare(m: L1Machine, seed: number): void {
  const r = new Random(seed);
  m.restartInVmx();
  fillValid(m);
  const set = (field: VmcsField, value: number): void => m.nested.v.set(FIELD[field], value >>> 0, 0);
  m.write64(EPT, (EPT + 0x1000) | 0x407);
  m.write64(EPT + 0x1000, (EPT + 0x2000) | 0x407);
  m.write64(EPT + 0x2000, 0xb7);
  m.write64(EPT + 0x2008, 0x20_00b7);
  set('EPT_POINTER', EPT | 0x1e);
  set('VPID', 1);
  set('PIN_CONTROLS', r.of([0x16, 0x16 | PIN.PREEMPTION_TIMER]));
  set('PREEMPTION_TIMER_VALUE', r.of([0xffff_ffff, 7, 8, 9]));
  const uses = [PRIMARY.USE_TPR_SHADOW, PRIMARY.USE_MSR_BITMAPS, PRIMARY.USE_IO_BITMAPS];
  const primary = uses.reduce((word, mask) => (r.below(2) === 0 ? word | mask : word), 0x8400_61f2);
  set('PRIMARY_CONTROLS', primary);
  set('VIRTUAL_APIC_ADDRESS', VIRTUAL_APIC);
  m.write32(VIRTUAL_APIC + 0x80, 0x30);
  set('TPR_THRESHOLD', r.of([0, 2]));
  set('MSR_BITMAP', BITMAP);
  set('IO_BITMAP_A', BITMAP);
  set('IO_BITMAP_B', BITMAP);
  // Reads of MSR 174H, and port 80H
  m.bytes(BITMAP, new Array(4096).fill(0));
  m.bytes(BITMAP + (0x174 >>> 3), [r.of([0, 0x10])]);
  m.bytes(BITMAP + (0x80 >>> 3), [r.of([0, 1])]);
  set('SECONDARY_CONTROLS', SECONDARY.ENABLE_EPT | SECONDARY.ENABLE_VPID | SECONDARY.ENABLE_RDTSCP);
  set('ENTRY_CONTROLS', r.of([0x93fb, 0x93fb | ENTRY.LOAD_DEBUG_CONTROLS]));
  set('EXIT_CONTROLS', r.of([0x33_effb, 0x33_efff]));
  // inc r15d; mov rax, [STEPS + 8 * r15]; jmp rax
  m.bytes(AT.HOST, [0x41, 0xff, 0xc7, 0x4a, 0x8b, 0x04, 0xfd, ...u32(STEPS), 0xff, 0xe0]);
  const l2: number[] = [];
  const often = r.of([2, 10, 60]);
  for (let i = 0; i <= SWITCHES; i += 1) {
    const at = CODE + 256 * i;
    m.write64(STEPS + 8 * i, at);
    m.bytes(at, [...actionOfL1(r, often, primary), ...ADVANCE, ...actionOfL1(r, often, primary), ...VMRESUME, 0xf4]);
    l2.push(...actionOfL2(r, often), ...r.of(LEAVING));
  }
  m.write64(STEPS + 8 * SWITCHES, AT.HANDLERS);
  m.bytes(AT.L2, [...l2, 0xf4]);
  m.vcpu.exits.fill(0);
  m.nested.exitsToL1.fill(0);
  m.nested.exitsKept.fill(0);
}

/** What no snapshot of registers shows. */
const CELLS = [S.SHADOW_KIND, S.NMI_BLOCKED, S.PENDING_DEBUG, S.DEBUGCTL, S.PAT, S.PAT + 4, S.SYSENTER_CS, S.VMCS];

function outcome(m: L1Machine): unknown {
  const { vcpu, nested, vm } = m;
  const { memory } = vcpu.engine;
  const ram = createHash('sha1')
    .update(memory.u8.subarray(memory.ram, memory.ram + 0x20_0000))
    .digest('hex');
  const fields = Object.entries(FIELD).map(([name, row]) => `${name} ${nested.v.hi(row)} ${nested.v.lo(row)}`);
  const { vpid: _, ...counters } = { vpid: 0, ...vm.mmu.counters };
  return {
    registers: snapshotRegisters(vcpu),
    cells: CELLS.map((cell) => vcpu.state.u32(cell)),
    ram,
    fields,
    counters: { ...counters, rootHitPrevAt: [...counters.rootHitPrevAt] },
    instructions: vcpu.core.instructions,
    now: vm.clock.nowNs(),
    exits: [...vcpu.exits],
    toL1: [...nested.exitsToL1],
    kept: [...nested.exitsKept],
    state: [nested.guestMode, vcpu.activity, vcpu.pendingEvent, nested.entries, nested.preemptionTimer.deadlineNs],
  };
}

test(`${PROGRAMS} random programs end as they do when every switch is seen`, { timeout: 300_000 }, () => {
  const machines = [new L1Machine({ force: false }), new L1Machine({ force: false })] as const;
  machines[1].vm.watcher = { limit: () => Number.POSITIVE_INFINITY, left() {} };
  let total = 0;
  for (let seed = 1; seed <= PROGRAMS; seed += 1) {
    const ends = machines.map((m) => {
      prepare(m, seed);
      m.set(15, 0xffff_ffff);
      m.run([0x0f, 0x01, 0xc2], AT.CODE, 20_000);
      return outcome(m);
    });
    total += machines[0].nested.exitsToL1.reduce((sum, n) => sum + n, 0);
    expect(ends[0], `seed ${seed}`).toEqual(ends[1]);
  }
  // Both kinds of switches were there
  expect(machines[0].nested.turns).toBeGreaterThan(total / 15);
  expect(machines[0].nested.turns).toBeLessThan(total);
  expect(machines[1].nested.turns).toBe(0);
});
