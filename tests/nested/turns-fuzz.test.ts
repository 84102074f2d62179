/**
 * Random L1s and L2s whose levels change at every other instruction, once as they are and once watched: a watched vCPU takes no
 * turns (hypervisor/nested/vmx/turns.ts). Between two switches either level does something that a turn must notice, or must not
 * be disturbed by.
 */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { ENTRY, PIN, PRIMARY, SECONDARY } from '../../src/arch/vmx/controls.ts';
import { EXIT_REASONS } from '../../src/arch/vmx/exit-reasons.ts';
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
/** VMCSs of L1: two that it enters, and a shadow VMCS, as operands in memory. */
const REGIONS = [AT.VMCS, AT.OTHER_VMCS] as const;
const SHADOW = 0x14_0000;
const POINTERS = 0x14_1000;

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
/** rdtsc; add r14, rax: nothing else is done to R14. */
const TIME = [0x0f, 0x31, 0x49, 0x01, 0xc6];
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
const VMLAUNCH = [0x0f, 0x01, 0xc2];
const VMRESUME = [0x0f, 0x01, 0xc3];
const SHADOW_NUMBER = REGIONS.length;
const vmptrld = (number: number) => [0x0f, 0xc7, 0x34, 0x25, ...u32(POINTERS + 8 * number)];
const vmclear = (number: number) => [0x66, ...vmptrld(number)];
const vmread = (field: VmcsField) => [...moveTo(1, fieldEncoding(FIELD[field])), 0x0f, 0x78, 0xca]; // vmread rdx, rcx

/** What L1 does with its VMCSs from exit to exit. Which is current, and which are launched, is known beforehand. */
class Juggler {
  readonly #r: Random;
  readonly #often: number;
  current = 0;
  readonly #launched = REGIONS.map(() => true);

  constructor(r: Random) {
    this.#r = r;
    this.#often = r.of([1, 3, 1000]);
  }

  /** As KVM does where it is L1 of an L1: looks into a shadow VMCS on its way, and comes back. */
  detour(): number[] {
    if (this.#r.below(this.#often + 1) !== 0) return [];
    const { current } = this;
    const inShadow = this.#r.below(2) === 0 ? vmread('GUEST_RSP') : vmwrite('GUEST_RSP', this.#r.below(100));
    const leaves = this.#r.of([vmclear(SHADOW_NUMBER), []]);
    return [...vmptrld(SHADOW_NUMBER), ...inShadow, ...leaves, ...vmptrld(current)];
  }

  /** The next guest to enter, and how. */
  turnTo(): number[] {
    const r = this.#r;
    const code: number[] = [];
    if (r.below(this.#often) === 0) {
      this.current = r.below(REGIONS.length);
      if (r.below(12) === 0) {
        code.push(...vmclear(this.current));
        this.#launched[this.current] = false;
      }
      code.push(...vmptrld(this.current));
    }
    const enters = this.#launched[this.current] ? VMRESUME : VMLAUNCH;
    this.#launched[this.current] = true;
    // Changed, and changed back
    if (r.below(4) === 0) code.push(...vmwrite('CR4_READ_SHADOW', 1), ...vmwrite('CR4_READ_SHADOW', 0));
    return [...code, ...enters];
  }
}

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
    () => vmwrite('PREEMPTION_TIMER_VALUE', r.of([0xffff_ffff, 0, 1, 5, 20, 28, 30, 31, 33, 36, 40])),
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
    () => TIME,
    () => [0xfc], // cld
    () => (r.below(3) === 0 ? [0x66, 0xb8, 16, 0, 0x8e, 0xd0] : []), // mov ax, 16; mov ss, ax
    () => [...moveTo(0, r.of([0x2020, 0x20a0])), 0x0f, 0x22, 0xe0], // mov cr4, rax
  ];
  return r.below(often) === 0 ? r.of(actions)() : [];
}

const spin = (rounds: number) => [...moveTo(1, rounds), 0xe2, 0xfe]; // loop

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
    () => TIME,
    () => [...TIME, ...TIME],
    () => spin(r.below(60)),
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
  m.write32(SHADOW, (m.nested.caps.offer.revision | 0x8000_0000) >>> 0);
  m.write32(SHADOW + 8, 0);
  for (const [i, region] of [...REGIONS, SHADOW].entries()) m.write64(POINTERS + 8 * i, region);
  const common = { seed: r.below(1 << 30) };
  for (const region of REGIONS.toReversed()) {
    m.nested.setCurrent(m.nested.cache.take(region));
    fill(m, region === REGIONS[0] ? r : new Random(common.seed), region);
    m.nested.v.launched = region !== REGIONS[0];
  }
  // Both levels look at the clock between any two switches
  const time = r.below(4) === 0 ? TIME : [];
  // L2 runs as long as the VMX-preemption timer does, and a run of the engine
  const isTimed = r.below(4) === 0;
  if (isTimed) {
    const { v } = m.nested;
    v.set(FIELD.PIN_CONTROLS, 0x16 | PIN.PREEMPTION_TIMER);
    v.set(FIELD.PREEMPTION_TIMER_VALUE, 26 + r.below(20));
  }
  const primary = m.nested.v.lo(FIELD.PRIMARY_CONTROLS);
  m.write32(VIRTUAL_APIC + 0x80, 0x30);
  // Reads of MSR 174H, and port 80H
  m.bytes(BITMAP, new Array(4096).fill(0));
  m.bytes(BITMAP + (0x174 >>> 3), [r.of([0, 0x10])]);
  m.bytes(BITMAP + (0x80 >>> 3), [r.of([0, 1])]);
  // inc r15d; mov rax, [STEPS + 8 * r15]; jmp rax
  m.bytes(AT.HOST, [0x41, 0xff, 0xc7, 0x4a, 0x8b, 0x04, 0xfd, ...u32(STEPS), 0xff, 0xe0]);
  const l2: number[] = [];
  const often = r.of([2, 10, 60]);
  const juggler = new Juggler(r);
  for (let i = 0; i <= SWITCHES; i += 1) {
    const at = CODE + 256 * i;
    m.write64(STEPS + 8 * i, at);
    const before = [...time, ...juggler.detour(), ...actionOfL1(r, often, primary), ...ADVANCE];
    m.bytes(at, [...before, ...actionOfL1(r, often, primary), ...juggler.detour(), ...juggler.turnTo(), 0xf4]);
    l2.push(...time, ...actionOfL2(r, often), ...(isTimed ? spin(r.below(2000)) : []), ...r.of(LEAVING));
  }
  m.write64(STEPS + 8 * SWITCHES, AT.HANDLERS);
  m.bytes(AT.L2, [...l2, 0xf4]);
  m.vcpu.exits.fill(0);
  m.nested.exitsToL1.fill(0);
  m.nested.exitsKept.fill(0);
}

/** The VMCS at `region`, which is current, for an L2 on tables of its own. */
function fill(m: L1Machine, r: Random, region: number): void {
  fillValid(m);
  const isFirst = region === REGIONS[0];
  const set = (field: VmcsField, value: number): void => m.nested.v.set(FIELD[field], value >>> 0, 0);
  const root = isFirst ? EPT : EPT + 0x3000;
  m.write64(root, (root + 0x1000) | 0x407);
  m.write64(root + 0x1000, (root + 0x2000) | 0x407);
  m.write64(root + 0x2000, 0xb7);
  m.write64(root + 0x2008, 0x20_00b7);
  set('EPT_POINTER', root | (isFirst ? 0x1e : r.of([0x1e, 0x1e, 0x5e])));
  set('VPID', isFirst ? 1 : r.of([1, 2, 2]));
  set('GUEST_CR4', isFirst ? 0x2020 : r.of([0x2020, 0x20a0]));
  set('PIN_CONTROLS', r.of([0x16, 0x16 | PIN.PREEMPTION_TIMER]));
  set('PREEMPTION_TIMER_VALUE', r.of([0xffff_ffff, 7, 8, 9, 27, 29, 31, 32]));
  const uses = [PRIMARY.USE_TPR_SHADOW, PRIMARY.USE_MSR_BITMAPS, PRIMARY.USE_IO_BITMAPS];
  const primary = uses.reduce((word, mask) => (r.below(2) === 0 ? word | mask : word), 0x8400_61f2);
  set('PRIMARY_CONTROLS', isFirst ? primary : primary | r.of([0, PRIMARY.USE_TSC_OFFSETTING]));
  set('VIRTUAL_APIC_ADDRESS', VIRTUAL_APIC);
  set('TPR_THRESHOLD', r.of([0, 2]));
  set('MSR_BITMAP', BITMAP);
  set('IO_BITMAP_A', BITMAP);
  set('IO_BITMAP_B', BITMAP);
  set('TSC_OFFSET', isFirst ? 0 : 12_345);
  const scaling = r.of([0, SECONDARY.USE_TSC_SCALING]);
  set('SECONDARY_CONTROLS', SECONDARY.ENABLE_EPT | SECONDARY.ENABLE_VPID | SECONDARY.ENABLE_RDTSCP | scaling);
  m.nested.v.set(FIELD.TSC_MULTIPLIER, 0, r.of([0x1_0000, 0x1_8000]));
  set('ENTRY_CONTROLS', r.of([0x93fb, 0x93fb | ENTRY.LOAD_DEBUG_CONTROLS]));
  set('EXIT_CONTROLS', r.of([0x33_effb, 0x33_efff]));
}

/** What no snapshot of registers shows. */
const CELLS = [S.SHADOW_KIND, S.NMI_BLOCKED, S.PENDING_DEBUG, S.DEBUGCTL, S.PAT, S.PAT + 4, S.SYSENTER_CS, S.VMCS];
/** VMCSs that L1 has not let go of. */
const active = ({ nested: { cache } }: L1Machine) => REGIONS.flatMap((region) => cache.find(region) ?? []);

/** VMCLEAR and VMPTRLD. */
const POINTER_EXITS: readonly number[] = [EXIT_REASONS.VMCLEAR, EXIT_REASONS.VMPTRLD];
const counted = (counts: Float64Array) => Object.fromEntries(Object.entries([...counts]).filter(([, n]) => n !== 0));

function outcome(m: L1Machine): unknown {
  const { vcpu, nested, vm } = m;
  const { memory } = vcpu.engine;
  const ram = createHash('sha1')
    .update(memory.u8.subarray(memory.ram, memory.ram + 0x20_0000))
    .digest('hex');
  const fields = active(m).map((v) => Object.entries(FIELD).map(([name, row]) => `${name} ${v.hi(row)} ${v.lo(row)}`));
  const { vpid: _, ...counters } = { vpid: 0, ...vm.mmu.counters };
  return {
    registers: snapshotRegisters(vcpu),
    cells: CELLS.map((cell) => vcpu.state.u32(cell)),
    ram,
    fields,
    current: nested.v.address,
    launched: active(m).map(({ launched }) => launched),
    counters: { ...counters, rootHitPrevAt: [...counters.rootHitPrevAt] },
    instructions: vcpu.core.instructions,
    now: vm.clock.nowNs(),
    exits: counted(vcpu.exits.map((n, reason) => (POINTER_EXITS.includes(reason) ? 0 : n))),
    toL1: counted(nested.exitsToL1),
    kept: counted(nested.exitsKept),
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
      m.run(VMLAUNCH, AT.CODE, 80_000);
      return outcome(m);
    });
    total += machines[0].nested.exitsToL1.reduce((sum, n) => sum + n, 0);
    expect(ends[0], `seed ${seed}`).toEqual(ends[1]);
    // One that leaves does so once more if L0's own tables do not have its operand yet
    const [unseen, seen] = machines.map(({ vcpu }) =>
      POINTER_EXITS.reduce((sum, reason) => sum + vcpu.exits[reason]!, 0),
    );
    expect(unseen, `seed ${seed}`).toBeLessThanOrEqual(seen!);
    expect(unseen, `seed ${seed}`).toBeGreaterThanOrEqual(seen! - machines[1].vcpu.exits[EXIT_REASONS.EPT_VIOLATION]!);
  }
  // Both kinds of switches were there
  expect(machines[0].nested.turns).toBeGreaterThan(total / 15);
  expect(machines[0].nested.turns).toBeLessThan(total);
  expect(machines[1].nested.turns).toBe(0);
});
