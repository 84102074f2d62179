/**
 * What L1 is offered (DESIGN.md 5), each part seen at work from end to end: L1 sets it, enters an L2 of a few bytes, and
 * reads what came of it. Without the part the same L2 goes on to its VMCALL.
 *
 * Source  SDM 3C 24.6 "VM-Execution Control Fields", 25 "VMX Non-Root Operation", 28, 29.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { CR4 } from '../../src/arch/registers.ts';
import { type ControlName, controlMask, ENTRY, VMFUNC } from '../../src/arch/vmx/controls.ts';
import { EXIT_REASONS as R } from '../../src/arch/vmx/exit-reasons.ts';
import { FIELD, VMCS_FIELD_COUNT, type VmcsField } from '../../src/arch/vmx/fields.ts';
import { S, SEG, segment } from '../../src/engine/core/layout.ts';
import { rowAddress } from '../../src/hypervisor/nested/vmx/vmcs12.ts';
import { AT, L1Machine, USER_PAGE } from './l1-machine.ts';
import { fillValid } from './valid-vmcs12.ts';

const m = new L1Machine();
const VMLAUNCH = [0x0f, 0x01, 0xc2];
const VMCALL = [0x0f, 0x01, 0xc1];
/** Pages that a test may use. The first two are an EPT12 of 2 MiB pages, one to one. */
const PAGE = { EPT: 0xa_0000, EPT2: 0xb_0000, A: 0x10_0000, B: 0x10_1000, DATA: 0x12_0000 } as const;
const UD = { reason: R.EXCEPTION_OR_NMI, vector: 6 };
const WORD: Record<string, VmcsField> = {
  PIN: 'PIN_CONTROLS',
  PRIMARY: 'PRIMARY_CONTROLS',
  SECONDARY: 'SECONDARY_CONTROLS',
  EXIT: 'EXIT_CONTROLS',
  ENTRY: 'ENTRY_CONTROLS',
};

const set = (field: VmcsField, lo: number, hi = 0): void => m.nested.v.set(FIELD[field], lo >>> 0, hi >>> 0);
const get = (field: VmcsField): number => m.nested.v.number(FIELD[field]);
const registerOf = (i: number): number => m.vcpu.state.gprLow(i);

function turnOn(...controls: ControlName[]): void {
  for (const name of controls) {
    const [word = ''] = name.split('.');
    set(WORD[word]!, get(WORD[word]!) | controlMask(name));
    if (word === 'SECONDARY') turnOn('PRIMARY.ACTIVATE_SECONDARY_CONTROLS');
  }
}

/** The VMCS as L1 had it before the entry. */
let written: (readonly [number, number])[] = [];

function afresh(): void {
  m.restartInVmx();
  fillValid(m);
}

/** L1 before its VMLAUNCH once more, with all that it has written. */
function again(): void {
  const { v } = m.nested;
  m.restartInVmx();
  written.forEach(([lo, hi], row) => {
    v.set(row, lo, hi);
  });
  v.launched = false;
}

/** Enters L2 with this code, and a VMCALL behind it. What L1 then reads. */
function enter(code: readonly number[]) {
  const { v } = m.nested;
  written = Array.from({ length: VMCS_FIELD_COUNT }, (_, row) => [v.lo(row), v.hi(row)] as const);
  m.bytes(AT.L2, [...code, ...VMCALL]);
  const { exited } = m.run(VMLAUNCH);
  const vector = get('EXIT_INTERRUPTION_INFO') & 0xff;
  return { exited, reason: get('EXIT_REASON'), qualification: get('EXIT_QUALIFICATION'), vector };
}
const reasonOf = (code: readonly number[]): number => enter(code).reason;
const went = (reason: number) => ({ exited: true, reason });

/** One-to-one EPT12 by two 2 MiB pages, each with rights of its own. Returns the EPTP. */
function ept(at: number, first = 7, second = 7, toSecond = 0x20_0000): number {
  m.write64(at, (at + 0x1000) | 0x407);
  m.write64(at + 0x1000, (at + 0x2000) | 0x407);
  m.write64(at + 0x2000, 0xb0 | first);
  m.write64(at + 0x2008, toSecond | 0xb0 | second);
  return at | 0x1e;
}

beforeEach(() => {
  afresh();
  for (const page of [PAGE.A, PAGE.B, PAGE.DATA]) m.bytes(page, new Array(4096).fill(0));
});

describe('an instruction leaves if its control says so, and only then', () => {
  const rows: readonly (readonly [ControlName, string, number[], number])[] = [
    ['PRIMARY.INVLPG_EXITING', 'INVLPG', [0x0f, 0x01, 0x38], R.INVLPG],
    ['PRIMARY.RDTSC_EXITING', 'RDTSC', [0x0f, 0x31], R.RDTSC],
    ['PRIMARY.CR3_LOAD_EXITING', 'MOV to CR3', [0xb8, 0, 0, 5, 0, 0x0f, 0x22, 0xd8], R.CR_ACCESS],
    ['PRIMARY.CR3_STORE_EXITING', 'MOV from CR3', [0x0f, 0x20, 0xd8], R.CR_ACCESS],
    ['PRIMARY.CR8_LOAD_EXITING', 'MOV to CR8', [0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0], R.CR_ACCESS],
    ['PRIMARY.CR8_STORE_EXITING', 'MOV from CR8', [0x44, 0x0f, 0x20, 0xc0], R.CR_ACCESS],
    ['PRIMARY.MOV_DR_EXITING', 'MOV from DR0', [0x0f, 0x21, 0xc0], R.DR_ACCESS],
    ['PRIMARY.UNCONDITIONAL_IO_EXITING', 'IN', [0xe4, 0x80], R.IO_INSTRUCTION],
    ['PRIMARY.MONITOR_TRAP_FLAG', 'any instruction', [0x90], R.MONITOR_TRAP_FLAG],
    ['PRIMARY.PAUSE_EXITING', 'PAUSE', [0xf3, 0x90], R.PAUSE],
    ['SECONDARY.DESCRIPTOR_TABLE_EXITING', 'SGDT', [0x0f, 0x01, 0x04, 0x24], R.GDTR_IDTR_ACCESS],
    ['SECONDARY.DESCRIPTOR_TABLE_EXITING', 'SLDT', [0x0f, 0x00, 0xc0], R.LDTR_TR_ACCESS],
    ['SECONDARY.WBINVD_EXITING', 'WBINVD', [0x0f, 0x09], R.WBINVD],
    ['SECONDARY.RDRAND_EXITING', 'RDRAND', [0x0f, 0xc7, 0xf0], R.RDRAND],
    ['SECONDARY.RDSEED_EXITING', 'RDSEED', [0x0f, 0xc7, 0xf8], R.RDSEED],
  ];
  test.each(rows)('%s: %s', (control, _name, code, reason) => {
    expect(enter(code)).toMatchObject(went(R.VMCALL));
    afresh();
    turnOn(control);
    expect(enter(code)).toMatchObject(went(reason));
    expect(get('GUEST_RIP')).toBe(control === 'PRIMARY.MONITOR_TRAP_FLAG' ? AT.L2 + 1 : AT.L2 + instructionAt(code));
  });

  test('RDTSCP and INVPCID do not exist in L2 unless L1 says so, and leave by the controls of RDTSC and INVLPG', () => {
    const rdtscp = [0x0f, 0x01, 0xf9];
    const invpcid = [0x66, 0x0f, 0x38, 0x82, 0x04, 0x24];
    expect(enter(rdtscp)).toMatchObject(UD);
    again();
    expect(enter(invpcid)).toMatchObject(UD);
    afresh();
    turnOn('SECONDARY.ENABLE_RDTSCP', 'SECONDARY.ENABLE_INVPCID', 'PRIMARY.RDTSC_EXITING', 'PRIMARY.INVLPG_EXITING');
    expect(reasonOf(rdtscp)).toBe(R.RDTSCP);
    again();
    expect(reasonOf(invpcid)).toBe(R.INVPCID);
  });

  test('XSAVES and XRSTORS do not exist in L2 unless L1 says so; there is no bit of IA32_XSS that they could leave for', () => {
    const xsaves = [0x0f, 0xc7, 0x2c, 0x24]; // xsaves [rsp]
    const xrstors = [0x0f, 0xc7, 0x1c, 0x24];
    const enabled = [0x48, 0x83, 0xe4, 0xc0, 0x31, 0xc0, 0x31, 0xd2]; // and rsp, -64; xor eax, eax; xor edx, edx
    const prepare = () => {
      afresh();
      set('GUEST_CR4', get('GUEST_CR4') | CR4.OSXSAVE);
      set('GUEST_RSP', AT.STACK - 0x1000);
    };
    for (const code of [xsaves, xrstors]) {
      prepare();
      expect(enter([...enabled, ...code])).toMatchObject(UD);
    }
    prepare();
    turnOn('SECONDARY.ENABLE_XSAVES');
    set('XSS_EXITING_BITMAP', 0xffff_ffff, 0xffff_ffff);
    expect(reasonOf([...enabled, ...xsaves, ...xrstors])).toBe(R.VMCALL);
  });

  test('RDPMC is #GP where there are no counters, and leaves before that', () => {
    expect(enter([0x0f, 0x33])).toMatchObject({ reason: R.EXCEPTION_OR_NMI, vector: 13 });
    again();
    turnOn('PRIMARY.RDPMC_EXITING');
    expect(reasonOf([0x0f, 0x33])).toBe(R.RDPMC);
  });

  test('PAUSE in a loop leaves when the loop has taken longer than its window', () => {
    turnOn('SECONDARY.PAUSE_LOOP_EXITING');
    set('PLE_GAP', 100);
    set('PLE_WINDOW', 4000);
    expect(reasonOf([0xf3, 0x90])).toBe(R.VMCALL);
    again();
    expect(reasonOf([0xf3, 0x90, 0xeb, 0xfc])).toBe(R.PAUSE);
  });

  test.each([false, true])('a loop of PAUSE is timed by the TSC of the processor (scaled for L2: %s)', (isScaled) => {
    turnOn('SECONDARY.PAUSE_LOOP_EXITING', 'PRIMARY.USE_TSC_OFFSETTING');
    if (isScaled) {
      turnOn('SECONDARY.USE_TSC_SCALING');
      set('TSC_MULTIPLIER', 0, 1 << 20); // 2^52: sixteen times as fast
    }
    set('TSC_OFFSET', 0xffff_0000, 0xffff_ffff);
    set('PLE_GAP', 100);
    set('PLE_WINDOW', 4000);
    // Three instructions a turn, one a ns: 1,300 turns are within the window, and 200 with much between them are no loop
    const turns = (count: number, between: number[]): number[] => [
      ...[0xb9, count & 255, count >>> 8, 0, 0], // mov ecx, count
      ...[0xf3, 0x90, ...between, 0xff, 0xc9, 0x75, 256 - between.length - 6], // pause; …; dec ecx; jnz
    ];
    const nops = new Array(100).fill(0x90);
    expect(reasonOf(turns(1300, []))).toBe(R.VMCALL);
    again();
    expect(reasonOf(turns(1400, []))).toBe(R.PAUSE);
    expect(registerOf(1)).toBe(1400 - 1334); // turn 1334 is 4,002 ns behind the first
    again();
    expect(reasonOf(turns(200, nops))).toBe(R.VMCALL);
  });
});

/** Where in the code the instruction of interest begins: behind what loads its operand. */
const instructionAt = (code: readonly number[]): number => (code[0] === 0xb8 ? 5 : code[0] === 0x31 ? 2 : 0);

describe('bitmaps', () => {
  test('of ports: a set bit leaves, a clear one does not', () => {
    turnOn('PRIMARY.USE_IO_BITMAPS');
    set('IO_BITMAP_A', PAGE.A);
    set('IO_BITMAP_B', PAGE.B);
    m.bytes(PAGE.A + 0x80 / 8, [1]);
    expect(enter([0xe4, 0x80])).toMatchObject({ ...went(R.IO_INSTRUCTION), qualification: 0x80_0048 });
    again();
    expect(reasonOf([0xe4, 0x81])).toBe(R.VMCALL);
  });

  // IA32_SYSENTER_CS is asked of L0, the others are laid open to generated code
  test.each([0x174, 0x48, 0x1d9])('of MSRs: reads and writes have bits of their own (%#x)', (msr) => {
    const bits = (offset: number) => {
      m.bytes(PAGE.A, new Array(4096).fill(0));
      m.bytes(PAGE.A + offset + (msr >>> 3), [1 << (msr & 7)]);
    };
    turnOn('PRIMARY.USE_MSR_BITMAPS');
    set('MSR_BITMAP', PAGE.A);
    const read = [0xb9, msr & 255, msr >>> 8, 0, 0, 0x0f, 0x32];
    const write = [0xb9, msr & 255, msr >>> 8, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30];
    const reasons = () =>
      [read, write].map((code) => {
        const reason = reasonOf(code);
        again();
        return reason;
      });
    bits(0);
    expect(reasons()).toEqual([R.RDMSR, R.VMCALL]);
    bits(2048);
    expect(reasons()).toEqual([R.VMCALL, R.WRMSR]);
    bits(1024); // of another MSR
    expect(reasons()).toEqual([R.VMCALL, R.VMCALL]);
    // A page in a hole reads as ones
    set('MSR_BITMAP', 0x8000_0000);
    expect(reasons()).toEqual([R.RDMSR, R.WRMSR]);
    set('MSR_BITMAP', PAGE.A);
    set('PRIMARY_CONTROLS', get('PRIMARY_CONTROLS') & ~controlMask('PRIMARY.USE_MSR_BITMAPS'));
    expect(reasons()).toEqual([R.RDMSR, R.WRMSR]);
  });

  test('IA32_SPEC_CTRL is one for both levels, is written without an exit, and refuses other bits', () => {
    const SPEC_CTRL = 0x48;
    const write = (value: number) => [0xb9, SPEC_CTRL, 0, 0, 0, 0xb8, value, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30];
    const { exits } = m.vcpu;
    const before = [exits[R.RDMSR], exits[R.WRMSR]];
    expect(m.run(write(1)).vector).toBe(-1);
    expect(m.vcpu.msrs.read(SPEC_CTRL) && m.vcpu.msrs.lo).toBe(1);
    afresh();
    turnOn('PRIMARY.USE_MSR_BITMAPS');
    set('MSR_BITMAP', PAGE.A);
    m.vcpu.msrs.write(SPEC_CTRL, 1, 0);
    expect(reasonOf([0xb9, SPEC_CTRL, 0, 0, 0, 0x0f, 0x32, 0x89, 0xc3, ...write(4)])).toBe(R.VMCALL);
    expect(registerOf(3)).toBe(1);
    expect(m.vcpu.msrs.read(SPEC_CTRL) && m.vcpu.msrs.lo).toBe(4);
    expect([exits[R.RDMSR], exits[R.WRMSR]]).toEqual(before);
    afresh();
    expect(m.run(write(0x40)).vector).toBe(13);
    m.toUserMode();
    expect(m.run(write(0), USER_PAGE).vector).toBe(13);
  });

  test('of VMCS shadowing: a clear bit reaches the linked VMCS, a set one leaves', () => {
    const vmread = [0xb8, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xc1]; // mov eax, GUEST_RIP; vmread rcx, rax
    expect(reasonOf(vmread)).toBe(R.VMREAD);
    again();
    turnOn('SECONDARY.VMCS_SHADOWING');
    set('VMREAD_BITMAP', PAGE.A);
    set('VMWRITE_BITMAP', PAGE.B);
    set('VMCS_LINK_POINTER', AT.OTHER_VMCS);
    m.nested.v.flush();
    // The linked VMCS: another with its shadow bit set
    const main = AT.VMCS;
    m.nested.v.load(AT.OTHER_VMCS);
    set('GUEST_RIP', 0x1234_5678);
    m.nested.v.isShadow = true;
    m.nested.v.flush();
    m.nested.v.load(main);
    expect(reasonOf(vmread)).toBe(R.VMCALL);
    expect(registerOf(1)).toBe(0x1234_5678);
    m.bytes(PAGE.A + (0x681e >>> 3), [1 << (0x681e & 7)]);
    again();
    m.write32(AT.OTHER_VMCS, m.nested.caps.offer.revision | 0x8000_0000);
    expect(reasonOf(vmread)).toBe(R.VMREAD);
  });

  describe('VMCS shadowing without an exit', () => {
    const { revision } = m.nested.caps.offer;
    const VMREAD_RIP = [0xb8, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xc1]; // mov eax, GUEST_RIP; vmread rcx, rax
    const VMWRITE_RSP = [0xb8, 0x1c, 0x68, 0, 0, 0x0f, 0x79, 0xc1]; // mov eax, GUEST_RSP; vmwrite rax, rcx
    const left = (): number => m.vcpu.exits[R.VMREAD]! + m.vcpu.exits[R.VMWRITE]!;
    const shadow = () => m.nested.cache.take(AT.OTHER_VMCS);

    const markShadow = (): void => m.write32(AT.OTHER_VMCS, (revision | 0x8000_0000) >>> 0);
    const onceMore = (): void => {
      again();
      markShadow();
    };

    beforeEach(() => {
      markShadow();
      turnOn('SECONDARY.VMCS_SHADOWING');
      set('VMREAD_BITMAP', PAGE.A);
      set('VMWRITE_BITMAP', PAGE.B);
      set('VMCS_LINK_POINTER', AT.OTHER_VMCS);
      shadow().set(FIELD.GUEST_RIP, 0x1234_5678, 0x9abc);
      shadow().set(FIELD.GUEST_RSP, 0);
    });

    test('VMREAD and VMWRITE of L2 reach the shadow VMCS, which is in its region', () => {
      const before = left();
      expect(reasonOf([...VMREAD_RIP, ...VMWRITE_RSP])).toBe(R.VMCALL);
      expect(registerOf(1)).toBe(0x1234_5678);
      expect(left()).toBe(before);
      expect([shadow().lo(FIELD.GUEST_RSP), shadow().hi(FIELD.GUEST_RSP)]).toEqual([0x1234_5678, 0x9abc]);
      expect(m.read32(rowAddress(AT.OTHER_VMCS, FIELD.GUEST_RSP))).toBe(0x1234_5678);
      expect(get('GUEST_RIP')).toBe(AT.L2 + VMREAD_RIP.length + VMWRITE_RSP.length);
    });

    test('each bitmap is looked at when the instruction runs, and stands for its own instruction', () => {
      m.bytes(PAGE.B + (0x681c >>> 3), [1 << (0x681c & 7)]);
      expect(reasonOf(VMREAD_RIP)).toBe(R.VMCALL);
      onceMore();
      expect(reasonOf([...VMREAD_RIP, ...VMWRITE_RSP])).toBe(R.VMWRITE);
      onceMore();
      m.bytes(PAGE.B, new Array(4096).fill(0));
      m.bytes(PAGE.A + (0x681e >>> 3), [1 << (0x681e & 7)]);
      expect(reasonOf(VMWRITE_RSP)).toBe(R.VMCALL);
      onceMore();
      expect(reasonOf([...VMWRITE_RSP, ...VMREAD_RIP])).toBe(R.VMREAD);
    });

    test('a bitmap where there is no memory has all bits set', () => {
      set('VMREAD_BITMAP', 0xf000_0000);
      expect(reasonOf(VMREAD_RIP)).toBe(R.VMREAD);
    });

    test('what is no field fails, and a link pointer of ones is no VMCS', () => {
      const outcome = (code: number[]): number => {
        expect(reasonOf([...code, 0x9c, 0x59])).toBe(R.VMCALL); // pushf; pop rcx
        return registerOf(1) & 0x8d5;
      };
      expect(outcome([0xb8, 0xfe, 0x6f, 0, 0, 0x0f, 0x78, 0xc1])).toBe(0x40); // VMfailValid
      onceMore();
      set('VMCS_LINK_POINTER', 0xffff_ffff, 0xffff_ffff);
      expect(outcome(VMREAD_RIP)).toBe(1); // VMfailInvalid
    });

    test('L1 reads what L2 wrote, and L2 what L1 wrote, when L1 has let the shadow VMCS go', () => {
      expect(reasonOf([...VMREAD_RIP, ...VMWRITE_RSP])).toBe(R.VMCALL);
      const v = shadow();
      expect(v.lo(FIELD.GUEST_RSP)).toBe(0x1234_5678);
      v.set(FIELD.GUEST_RIP, 0x2222);
      onceMore();
      expect(reasonOf(VMREAD_RIP)).toBe(R.VMCALL);
      expect(registerOf(1)).toBe(0x2222);
      // As an ordinary VMCS it has the same fields
      m.write32(AT.OTHER_VMCS, revision);
      expect(shadow().lo(FIELD.GUEST_RIP)).toBe(0x2222);
      expect(shadow().isShadow).toBe(false);
    });
  });
});

describe('EPT', () => {
  const read = [0xa1, ...[0, 0, 0x20, 0, 0, 0, 0, 0]]; // mov eax, [USER_PAGE]
  const write = [0xa3, ...[0, 0, 0x20, 0, 0, 0, 0, 0]];

  test('refuses what EPT12 refuses, and says what was asked and what there was', () => {
    turnOn('SECONDARY.ENABLE_EPT');
    set('EPT_POINTER', ept(PAGE.EPT, 7, 5));
    expect(reasonOf(read)).toBe(R.VMCALL);
    again();
    expect(enter(write)).toMatchObject({ ...went(R.EPT_VIOLATION) });
    expect(get('EXIT_QUALIFICATION') & 0x1ff).toBe(0x1aa);
    expect(get('GUEST_PHYSICAL_ADDRESS')).toBe(USER_PAGE);
  });

  test('write without read is a misconfiguration; execute-only is not', () => {
    turnOn('SECONDARY.ENABLE_EPT');
    set('EPT_POINTER', ept(PAGE.EPT, 7, 2));
    expect(reasonOf(read)).toBe(R.EPT_MISCONFIGURATION);
    again();
    set('EPT_POINTER', ept(PAGE.EPT2, 7, 4));
    m.bytes(USER_PAGE, VMCALL);
    expect(reasonOf([0xb8, 0, 0, 0x20, 0, 0xff, 0xe0])).toBe(R.VMCALL); // jmp there
    again();
    expect(reasonOf(read)).toBe(R.EPT_VIOLATION);
  });

  test('sets A and D with EPTP bit 6; PML logs the page, and leaves when the log is full', () => {
    turnOn('SECONDARY.ENABLE_EPT', 'SECONDARY.ENABLE_PML');
    set('EPT_POINTER', ept(PAGE.EPT) | 0x40);
    set('PML_ADDRESS', PAGE.A);
    set('PML_INDEX', 5);
    expect(reasonOf(write)).toBe(R.VMCALL);
    const logged = [5, 4, 3].map((entry) => m.read32(PAGE.A + 8 * entry));
    expect(logged).toContain(USER_PAGE);
    expect(m.read32(PAGE.EPT + 0x2008) & 0x300).toBe(0x300);
    again();
    set('EPT_POINTER', ept(PAGE.EPT2) | 0x40);
    set('PML_INDEX', 0xffff);
    expect(reasonOf(write)).toBe(R.PML_FULL);
  });

  test('mode-based execute control: pages of the user need XU', () => {
    m.bytes(USER_PAGE, VMCALL);
    const jump = [0xb8, 0, 0, 0x20, 0, 0xff, 0xe0];
    turnOn('SECONDARY.ENABLE_EPT');
    set('EPT_POINTER', ept(PAGE.EPT, 0x407, 7)); // X, not XU
    expect(reasonOf(jump)).toBe(R.VMCALL);
    again();
    turnOn('SECONDARY.MODE_BASED_EXECUTE_CONTROL');
    set('EPT_POINTER', ept(PAGE.EPT2, 0x407, 7));
    expect(enter(jump)).toMatchObject(went(R.EPT_VIOLATION));
    expect(get('EXIT_QUALIFICATION') & 0x7f).toBe(4 | (7 << 3));
  });

  test('VMFUNC switches EPTPs by L1 list; any other function leaves; without the control it is #UD', () => {
    const vmfunc = (leaf: number, entry: number) => [0xb8, leaf, 0, 0, 0, 0xb9, entry, 0, 0, 0, 0x0f, 0x01, 0xd4];
    expect(enter(vmfunc(0, 1))).toMatchObject(UD);
    afresh();
    turnOn('SECONDARY.ENABLE_EPT', 'SECONDARY.ENABLE_VM_FUNCTIONS');
    set('VM_FUNCTION_CONTROLS', VMFUNC.EPTP_SWITCHING);
    set('EPTP_LIST_ADDRESS', PAGE.A);
    const [first, second] = [ept(PAGE.EPT), ept(PAGE.EPT2, 7, 7, 0)];
    m.write64(PAGE.A, first);
    m.write64(PAGE.A + 8, second);
    m.write32(USER_PAGE, 0x1111);
    m.write32(0, 0x2222); // where the second EPT12 maps that page
    set('EPT_POINTER', first);
    expect(reasonOf([...vmfunc(0, 1), ...read])).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x2222);
    expect(get('EPT_POINTER')).toBe(second);
    again();
    expect(reasonOf(vmfunc(1, 0))).toBe(R.VMFUNC);
    again();
    expect(reasonOf(vmfunc(0, 2))).toBe(R.VMFUNC); // entry 2 of the list is no EPTP
  });

  test('an unrestricted guest may be in real mode, any other may not', () => {
    set('GUEST_CR0', 0x30);
    set('GUEST_IA32_EFER', 0);
    set('ENTRY_CONTROLS', get('ENTRY_CONTROLS') & ~ENTRY.IA32E_MODE_GUEST);
    set('GUEST_RFLAGS', 2);
    for (const name of ['ES', 'SS', 'DS', 'FS', 'GS', 'CS'] as const) {
      set(`GUEST_${name}_SELECTOR`, AT.L2 >>> 4);
      set(`GUEST_${name}_BASE`, AT.L2);
      set(`GUEST_${name}_LIMIT`, 0xffff);
      set(`GUEST_${name}_ACCESS_RIGHTS`, name === 'CS' ? 0x9b : 0x93);
    }
    set('GUEST_TR_ACCESS_RIGHTS', 0x8b);
    set('GUEST_RIP', 0);
    turnOn('SECONDARY.ENABLE_EPT');
    set('EPT_POINTER', ept(PAGE.EPT));
    expect(reasonOf([0x90])).toBe(0x8000_0000 + R.INVALID_GUEST_STATE);
    again();
    turnOn('SECONDARY.UNRESTRICTED_GUEST');
    expect(reasonOf([0x90])).toBe(R.VMCALL);
    expect(get('GUEST_RIP')).toBe(1);
  });
});

describe('time', () => {
  test('TSC offset and scaling are what L2 reads', () => {
    const rdtsc = [0x0f, 0x31];
    turnOn('PRIMARY.USE_TSC_OFFSETTING');
    set('TSC_OFFSET', 0, 0x100);
    expect(reasonOf(rdtsc)).toBe(R.VMCALL);
    expect(registerOf(2)).toBe(0x100);
    again();
    turnOn('SECONDARY.USE_TSC_SCALING');
    set('TSC_OFFSET', 0, 0);
    set('TSC_MULTIPLIER', 0, 4 << 16); // 4, with 48 bits of fraction
    const before = m.vm.clock.roundNs;
    expect(reasonOf(rdtsc)).toBe(R.VMCALL);
    const read = registerOf(2) * 2 ** 32 + registerOf(0);
    expect(read).toBeGreaterThanOrEqual(4 * before);
    expect(read).toBeLessThanOrEqual(4 * m.vm.clock.roundNs);
  });

  test.each([1, 4])('L2 that reads the TSC again sees its own clock, %i ticks an instruction', (ticks) => {
    turnOn('PRIMARY.USE_TSC_OFFSETTING');
    if (ticks !== 1) {
      turnOn('SECONDARY.USE_TSC_SCALING');
      set('TSC_MULTIPLIER', 0, ticks << 16);
    }
    set('TSC_OFFSET', 0x8000_0000, 0x100);
    // rdtsc; mov ecx, eax; nop; nop; rdtsc; sub ecx, eax: four instructions from one reading to the next
    expect(reasonOf([0x0f, 0x31, 0x89, 0xc1, 0x90, 0x90, 0x0f, 0x31, 0x29, 0xc1])).toBe(R.VMCALL);
    expect(registerOf(1)).toBe((-4 * ticks) >>> 0);
    expect(registerOf(2)).toBe(0x100);
  });

  test('the preemption timer ends a loop', () => {
    turnOn('PIN.PREEMPTION_TIMER');
    set('PREEMPTION_TIMER_VALUE', 10);
    expect(enter([0xeb, 0xfe])).toMatchObject(went(R.PREEMPTION_TIMER));
  });

  test('windows open as soon as L2 could take the event', () => {
    turnOn('PRIMARY.INTERRUPT_WINDOW_EXITING');
    expect(reasonOf([0x90])).toBe(R.VMCALL);
    again();
    expect(reasonOf([0xfb, 0x90])).toBe(R.INTERRUPT_WINDOW); // sti
    afresh();
    turnOn('PIN.NMI_EXITING', 'PIN.VIRTUAL_NMIS', 'PRIMARY.NMI_WINDOW_EXITING');
    expect(reasonOf([0x90])).toBe(R.NMI_WINDOW);
  });
});

describe('the virtual APIC', () => {
  const VTPR = PAGE.A + 0x80;
  beforeEach(() => {
    turnOn('PRIMARY.USE_TPR_SHADOW');
    set('VIRTUAL_APIC_ADDRESS', PAGE.A);
  });

  test('TPR shadow: CR8 is VTPR, and a fall below the threshold leaves', () => {
    m.write32(VTPR, 0x50);
    set('TPR_THRESHOLD', 3);
    expect(reasonOf([0x44, 0x0f, 0x20, 0xc0])).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(5);
    again();
    expect(reasonOf([0xb8, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0])).toBe(R.TPR_BELOW_THRESHOLD);
    expect(m.read32(VTPR)).toBe(0x20);
  });

  test('x2APIC mode: RDMSR of the TPR reads VTPR', () => {
    turnOn('SECONDARY.VIRTUALIZE_X2APIC_MODE', 'PRIMARY.USE_MSR_BITMAPS');
    set('MSR_BITMAP', PAGE.B);
    m.write32(VTPR, 0x70);
    expect(reasonOf([0xb9, 8, 8, 0, 0, 0x0f, 0x32])).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x70);
  });

  const at = (offset: number) => [offset & 0xff, (offset >>> 8) & 0xff, 0x12, 0, 0, 0, 0, 0];
  const readAt = (offset: number) => [0xa1, ...at(offset)];
  const writeAt = (offset: number) => [0xb8, 1, 0, 0, 0, 0xa3, ...at(offset)];

  test('APIC accesses: TPR is virtual, everything else leaves', () => {
    turnOn('SECONDARY.VIRTUALIZE_APIC_ACCESSES');
    set('APIC_ACCESS_ADDRESS', PAGE.DATA);
    m.write32(VTPR, 0x60);
    expect(reasonOf(readAt(0x80))).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x60);
    again();
    expect(enter(readAt(0x300))).toMatchObject({ ...went(R.APIC_ACCESS), qualification: 0x300 });
    again();
    expect(enter(writeAt(0x300))).toMatchObject({ ...went(R.APIC_ACCESS), qualification: 0x1300 });
  });

  test.each([
    ['EPT', true],
    ['no EPT', false],
  ])('a page that was an APIC-access page is memory for an L2 that has another one: %s', (_, withEpt) => {
    const target = PAGE.DATA;
    turnOn('SECONDARY.VIRTUALIZE_APIC_ACCESSES');
    if (withEpt) {
      turnOn('SECONDARY.ENABLE_EPT');
      set('EPT_POINTER', ept(PAGE.EPT));
    }
    set('APIC_ACCESS_ADDRESS', target);
    expect(enter(readAt(0x300))).toMatchObject(went(R.APIC_ACCESS));
    // KVM frees the page with its VM, and the next one gets it as RAM, with code in it
    again();
    set('APIC_ACCESS_ADDRESS', PAGE.B);
    m.bytes(target, [0xb8, 0x77, 0, 0, 0, 0xc3]); // mov eax, 77h; ret
    const call = [0x48, 0xb8, ...at(0), 0xff, 0xd0]; // mov rax, DATA; call rax
    expect(reasonOf(call)).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x77);
  });

  test('and an APIC-access page again for an L2 whose VMCS has named it all the time', () => {
    turnOn('SECONDARY.VIRTUALIZE_APIC_ACCESSES');
    set('APIC_ACCESS_ADDRESS', PAGE.DATA);
    expect(enter(readAt(0x300))).toMatchObject({ ...went(R.APIC_ACCESS), qualification: 0x300 });
    const first = m.nested.v;
    m.nested.setCurrent(m.nested.cache.take(AT.OTHER_VMCS));
    fillValid(m);
    m.restoreRegisters();
    m.write32(PAGE.DATA + 0x300, 0x1234);
    expect(reasonOf(readAt(0x300))).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x1234);
    m.nested.setCurrent(first);
    m.restoreRegisters();
    m.bytes(AT.L2, readAt(0x310));
    const { merges } = m.nested;
    expect(m.run([0x0f, 0x01, 0xc3]).exited).toBe(true); // VMRESUME
    // Another vCPU would come here with the VMCS that it entered last, and would not look at it otherwise
    expect(m.nested.merges).toBe(merges + 1);
    expect([get('EXIT_REASON'), get('EXIT_QUALIFICATION')]).toEqual([R.APIC_ACCESS, 0x310]);
  });

  test('APIC-register virtualization: reads are of the page, writes leave behind them', () => {
    turnOn('SECONDARY.VIRTUALIZE_APIC_ACCESSES', 'SECONDARY.APIC_REGISTER_VIRTUALIZATION');
    set('APIC_ACCESS_ADDRESS', PAGE.DATA);
    m.write32(PAGE.A + 0x20, 0x0700_0000);
    expect(reasonOf(readAt(0x20))).toBe(R.VMCALL);
    expect(registerOf(0)).toBe(0x0700_0000);
    again();
    expect(enter(writeAt(0x320))).toMatchObject({ ...went(R.APIC_WRITE), qualification: 0x320 });
    expect(m.read32(PAGE.A + 0x320)).toBe(1);
  });

  test('virtual-interrupt delivery: RVI is delivered through the IDT of L2, and an EOI leaves if its bit says so', () => {
    turnOn('SECONDARY.VIRTUALIZE_APIC_ACCESSES', 'SECONDARY.VIRTUAL_INTERRUPT_DELIVERY');
    turnOn('PIN.EXTERNAL_INTERRUPT_EXITING');
    set('APIC_ACCESS_ADDRESS', PAGE.DATA);
    set('GUEST_INTERRUPT_STATUS', 0x51);
    set('EOI_EXIT_BITMAP1', 1 << 17);
    // Handler of vector 0x51: EOI
    m.bytes(AT.HANDLERS + 16 * 0x51, [0xa3, ...at(0xb0), 0x90]);
    m.write32(PAGE.A + 0x200 + 0x20, 1 << 17); // VIRR
    const result = enter([0xfb, 0x90, 0x90]);
    m.bytes(AT.HANDLERS + 16 * 0x51, [0xf4]);
    expect(result).toMatchObject({ ...went(R.VIRTUALIZED_EOI), qualification: 0x51 });
    expect(get('GUEST_INTERRUPT_STATUS')).toBe(0);
  });
});

test('posted interrupts: the notification exits no more, and what was posted is pending in L2', () => {
  const NOTIFICATION = 0xe0;
  const POSTED = 0x61;
  const DESCRIPTOR = PAGE.B;
  m.vcpu.msrs.write(0x1b, 0xfee0_0d00, 0); // x2APIC mode
  m.vcpu.msrs.write(0x80f, 0x1ff, 0); // software-enabled
  const notify = (): void => {
    m.bytes(DESCRIPTOR, new Array(64).fill(0));
    m.write32(DESCRIPTOR + 4 * (POSTED >>> 5), 1 << (POSTED & 31));
    m.write32(DESCRIPTOR + 32, 1); // ON
    m.vm.irq.deliverMsi(0xfee0_0000, 0, NOTIFICATION);
  };
  turnOn('PIN.EXTERNAL_INTERRUPT_EXITING', 'EXIT.ACKNOWLEDGE_INTERRUPT_ON_EXIT', 'PRIMARY.USE_TPR_SHADOW');
  turnOn('SECONDARY.VIRTUAL_INTERRUPT_DELIVERY');
  set('VIRTUAL_APIC_ADDRESS', PAGE.A);
  set('POSTED_INTERRUPT_NOTIFICATION_VECTOR', NOTIFICATION);
  set('POSTED_INTERRUPT_DESCRIPTOR', DESCRIPTOR);
  notify();
  expect(reasonOf([0x90])).toBe(R.EXTERNAL_INTERRUPT);
  m.vcpu.msrs.write(0x80b, 0, 0); // L1's EOI
  again();
  turnOn('PIN.PROCESS_POSTED_INTERRUPTS');
  notify();
  expect(reasonOf([0x90])).toBe(R.VMCALL);
  expect(get('GUEST_INTERRUPT_STATUS') & 0xff).toBe(POSTED);
  expect(m.read32(PAGE.A + 0x200 + 16 * (POSTED >>> 5))).toBe(1 << (POSTED & 31));
  expect(m.read32(DESCRIPTOR + 4 * (POSTED >>> 5))).toBe(0);
  expect(m.read32(DESCRIPTOR + 32)).toBe(0);
});

describe('registers that L1 watches', () => {
  test('CR0 and CR4: a masked bit reads as its shadow, and leaves when it is written otherwise', () => {
    set('CR0_GUEST_HOST_MASK', 8); // TS
    set('CR0_READ_SHADOW', 8);
    expect(reasonOf([0x0f, 0x20, 0xc0])).toBe(R.VMCALL);
    expect(registerOf(0) & 8).toBe(8);
    expect(get('GUEST_CR0') & 8).toBe(0);
    again();
    expect(reasonOf([0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0])).toBe(R.VMCALL); // as the shadow has it
    again();
    expect(reasonOf([0x0f, 0x20, 0xc0, 0x83, 0xe0, 0xf7, 0x0f, 0x22, 0xc0])).toBe(R.CR_ACCESS);
    again();
    expect(reasonOf([0x0f, 0x06])).toBe(R.CR_ACCESS); // CLTS
    afresh();
    set('CR4_GUEST_HOST_MASK', 4); // TSD
    expect(reasonOf([0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x04, 0x0f, 0x22, 0xe0])).toBe(R.CR_ACCESS);
  });

  test('a CR3 target may be loaded', () => {
    const load = [0xb8, 0, 0, 5, 0, 0x0f, 0x22, 0xd8];
    turnOn('PRIMARY.CR3_LOAD_EXITING');
    set('CR3_TARGET_COUNT', 1);
    set('CR3_TARGET_VALUE0', AT.PML4);
    expect(reasonOf(load)).toBe(R.VMCALL);
    again();
    set('CR3_TARGET_COUNT', 0);
    expect(reasonOf(load)).toBe(R.CR_ACCESS);
  });

  test('the MSR areas: loaded on entry, stored and loaded on exit', () => {
    const KERNEL_GS_BASE = 0xc000_0102;
    m.write64(PAGE.A, KERNEL_GS_BASE);
    m.write64(PAGE.A + 8, 0x1234);
    m.write64(PAGE.B, KERNEL_GS_BASE);
    m.write64(PAGE.DATA, KERNEL_GS_BASE);
    m.write64(PAGE.DATA + 8, 0x5678);
    set('ENTRY_MSR_LOAD_ADDRESS', PAGE.A);
    set('EXIT_MSR_STORE_ADDRESS', PAGE.B);
    set('EXIT_MSR_LOAD_ADDRESS', PAGE.DATA);
    for (const count of ['ENTRY_MSR_LOAD_COUNT', 'EXIT_MSR_STORE_COUNT', 'EXIT_MSR_LOAD_COUNT'] as const) set(count, 1);
    expect(reasonOf([0x90])).toBe(R.VMCALL);
    expect(m.read32(PAGE.B + 8)).toBe(0x1234);
    const { msrs } = m.vcpu;
    expect(msrs.read(KERNEL_GS_BASE) && msrs.lo).toBe(0x5678);
    again();
    m.write64(PAGE.A, 0xc000_0100); // FS_BASE may not be in the list
    expect(reasonOf([0x90])).toBe(0x8000_0000 + R.MSR_LOADING);
    expect(get('EXIT_QUALIFICATION')).toBe(1);
  });
});

test('what a guest sees of itself at level 3 is what UMIP and the descriptor-table control leave', () => {
  turnOn('SECONDARY.DESCRIPTOR_TABLE_EXITING');
  set('GUEST_CR4', 0x2820); // UMIP
  set('GUEST_CS_SELECTOR', 0x0b);
  set('GUEST_CS_ACCESS_RIGHTS', 0xa0fb);
  set('GUEST_SS_SELECTOR', 0x13);
  set('GUEST_SS_ACCESS_RIGHTS', 0xc0f3);
  set('GUEST_RIP', USER_PAGE);
  m.bytes(USER_PAGE, [0x0f, 0x00, 0xc0, ...VMCALL]); // sldt eax
  // #GP(0) by UMIP comes first: SDM 3C 25.1.1
  expect(enter([])).toMatchObject({ reason: R.EXCEPTION_OR_NMI, vector: 13 });
  again();
  set('GUEST_CR4', 0x2020);
  expect(reasonOf([])).toBe(R.LDTR_TR_ACCESS);
  expect(m.vcpu.state.u32(S.CPL)).toBe(0);
  expect(m.vcpu.state.u32(segment(SEG.CS) + SEG.ACCESS)).toBe(0xa09b);
});
