import { beforeAll, describe, expect, test } from 'vitest';
import { FIELD } from '../../src/arch/vmx/fields.ts';
import { EXIT } from '../../src/engine/core/exits.ts';
import { S } from '../../src/engine/core/layout.ts';
import { rowAddress } from '../../src/hypervisor/nested/vmx/vmcs12.ts';
import { AT, L1Machine, type Outcome, UNMAPPED, USER_PAGE } from './l1-machine.ts';
import { field, fillValid } from './valid-vmcs12.ts';

/** SDM 3C 30.3: instruction bytes with the memory operand at [RAX], or registers. */
const CODE = {
  VMXON: [0xf3, 0x0f, 0xc7, 0x30],
  VMCLEAR: [0x66, 0x0f, 0xc7, 0x30],
  VMPTRLD: [0x0f, 0xc7, 0x30],
  VMPTRST: [0x0f, 0xc7, 0x38],
  /** vmread [rax], rcx */
  VMREAD: [0x0f, 0x78, 0x08],
  /** vmread rdx, rcx */
  VMREAD_REGISTER: [0x0f, 0x78, 0xca],
  /** vmwrite rcx, [rax] */
  VMWRITE: [0x0f, 0x79, 0x08],
  VMWRITE_REGISTER: [0x0f, 0x79, 0xca],
  VMLAUNCH: [0x0f, 0x01, 0xc2],
  VMRESUME: [0x0f, 0x01, 0xc3],
  VMXOFF: [0x0f, 0x01, 0xc4],
  VMCALL: [0x0f, 0x01, 0xc1],
  VMFUNC: [0x0f, 0x01, 0xd4],
  /** invept rcx, [rax] */
  INVEPT: [0x66, 0x0f, 0x38, 0x80, 0x08],
  INVVPID: [0x66, 0x0f, 0x38, 0x81, 0x08],
} as const;
const WITH_MEMORY = ['VMCLEAR', 'VMPTRLD', 'VMPTRST', 'VMREAD', 'VMWRITE', 'INVEPT', 'INVVPID'] as const;
const VMX_ONLY = [...WITH_MEMORY, 'VMLAUNCH', 'VMRESUME', 'VMXOFF'] as const;

const UD = 6;
const SS = 12;
const GP = 13;
const PF = 14;

let m: L1Machine;
beforeAll(() => {
  m = new L1Machine();
});

const OPERAND = AT.OPERAND;
/** Registers as the instructions above want them: RAX the operand, RCX `rcx`. */
function run(
  name: keyof typeof CODE,
  rcx = 1,
  operandLo = 0,
  operandHi = 0,
  second: readonly [number, number] = [0, 0],
): Outcome {
  m.write64(OPERAND, operandLo, operandHi);
  m.write64(OPERAND + 8, ...second);
  m.set(0, OPERAND);
  m.set(1, rcx);
  return m.run(CODE[name]);
}
const exception = (vector: number, error = 0): Partial<Outcome> => ({ vector, error });
const SUCCEED: Partial<Outcome> = { vector: -1, result: 'succeed' };
const INVALID: Partial<Outcome> = { vector: -1, result: 'fail invalid' };
const valid = (instructionError: number): Partial<Outcome> => ({ vector: -1, result: 'fail valid', instructionError });

describe('outside VMX operation', () => {
  test.each(VMX_ONLY)('%s is #UD', (name) => {
    m.restart();
    expect(run(name)).toMatchObject({ vector: UD });
  });

  test.each([...VMX_ONLY, 'VMXON'] as const)('%s with CR4.VMXE = 0 is #UD', (name) => {
    m.restart();
    m.vcpu.state.setU32(S.CR4, 0x20);
    expect(run(name)).toMatchObject({ vector: UD });
  });
});

describe('VMXON', () => {
  const on = (lo: number = AT.VMXON, hi = 0): Outcome => run('VMXON', 1, lo, hi);

  test('succeeds', () => {
    m.restartInVmx();
    m.restart();
    expect(on()).toMatchObject(SUCCEED);
    expect(m.nested.vmxOn).toBe(true);
  });
  test('at level 3 is #GP(0)', () => {
    m.restart();
    m.toUserMode();
    m.set(0, OPERAND);
    expect(m.run(CODE.VMXON, USER_PAGE)).toMatchObject(exception(GP));
  });
  test('with CR0.NE = 0 is #GP(0)', () => {
    m.restart();
    m.vcpu.state.setU32(S.CR0, 0x8001_0011);
    expect(on()).toMatchObject(exception(GP));
  });
  test.each([[1], [4], [0]])('with IA32_FEATURE_CONTROL = %i is #GP(0)', (value) => {
    const fresh = new L1Machine();
    fresh.vcpu.msrs.reset();
    fresh.vcpu.msrs.write(0x3a, value, 0);
    fresh.write32(AT.VMXON, fresh.nested.caps.offer.revision);
    fresh.write64(OPERAND, AT.VMXON);
    fresh.set(0, OPERAND);
    expect(fresh.run(CODE.VMXON)).toMatchObject(exception(GP));
  });
  test('once locked, IA32_FEATURE_CONTROL cannot be written', () => {
    expect(m.vcpu.msrs.write(0x3a, 5, 0)).toBe(false);
  });
  test('misaligned, beyond the physical-address width, or of another revision: VMfailInvalid', () => {
    m.restart();
    expect(on(AT.VMXON + 8)).toMatchObject(INVALID);
    m.restart();
    expect(on(AT.VMXON, 1 << 20)).toMatchObject(INVALID);
    m.restart();
    expect(on(OPERAND)).toMatchObject(INVALID);
  });
  test('in VMX operation: VMfail(15), without a current VMCS VMfailInvalid', () => {
    m.restartInVmx();
    expect(on()).toMatchObject(valid(15));
    m.restartInVmx(false);
    expect(on()).toMatchObject(INVALID);
  });
});

describe('in VMX operation', () => {
  test.each([...VMX_ONLY, 'VMXON', 'VMCALL'] as const)('%s at level 3 is #GP(0)', (name) => {
    m.restartInVmx();
    m.toUserMode();
    m.set(0, OPERAND);
    expect(m.run(CODE[name], USER_PAGE)).toMatchObject(exception(GP));
  });

  test.each([...WITH_MEMORY])('%s with an operand that is not mapped is #PF', (name) => {
    m.restartInVmx();
    m.set(0, UNMAPPED);
    m.set(1, name === 'VMWRITE' || name === 'VMREAD' ? 0x6000 : 1);
    expect(m.run(CODE[name])).toMatchObject({ vector: PF, error: name === 'VMPTRST' || name === 'VMREAD' ? 2 : 0 });
    expect(m.vcpu.state.number(S.CR2)).toBe(UNMAPPED);
  });

  test.each([...WITH_MEMORY])('%s with a non-canonical operand is #GP(0)', (name) => {
    m.restartInVmx();
    m.set(0, 0, 0x8000_0000);
    m.set(1, name === 'VMWRITE' || name === 'VMREAD' ? 0x6000 : 1);
    expect(m.run(CODE[name])).toMatchObject(exception(GP));
  });

  test('a non-canonical operand on the stack is #SS(0)', () => {
    m.restartInVmx();
    m.set(5, 0, 0x8000_0000);
    expect(m.run([0x0f, 0xc7, 0x75, 0x00])).toMatchObject(exception(SS)); // vmptrld [rbp]
  });

  test.each([
    ['CR0.PE and PG', [0x0f, 0x22, 0xc0], 0x11],
    ['CR0.NE', [0x0f, 0x22, 0xc0], 0x8001_0011],
    ['CR4.VMXE', [0x0f, 0x22, 0xe0], 0x20],
  ] as const)('clearing %s is #GP(0)', (_what, code, value) => {
    m.restartInVmx();
    m.set(0, value);
    expect(m.run([...code])).toMatchObject(exception(GP));
  });

  test('VMCALL is VMfail(1)', () => {
    m.restartInVmx();
    expect(run('VMCALL')).toMatchObject(valid(1));
  });

  test('VMFUNC is #UD', () => {
    m.restartInVmx();
    expect(run('VMFUNC')).toMatchObject({ vector: UD });
  });

  test('VMXOFF leaves VMX operation', () => {
    m.restartInVmx();
    expect(run('VMXOFF')).toMatchObject(SUCCEED);
    expect(m.nested.vmxOn).toBe(false);
    m.set(0, 0x20);
    expect(m.run([0x0f, 0x22, 0xe0])).toMatchObject(SUCCEED);
  });
});

describe('VMCLEAR, VMPTRLD, VMPTRST', () => {
  test.each([
    ['VMCLEAR', 2, 3],
    ['VMPTRLD', 9, 10],
  ] as const)('%s of a bad address is VMfail(%i), of the VMXON pointer VMfail(%i)', (name, address, pointer) => {
    m.restartInVmx();
    expect(run(name, 1, AT.VMCS + 4)).toMatchObject(valid(address));
    expect(run(name, 1, AT.VMCS, 1 << 20)).toMatchObject(valid(address));
    expect(run(name, 1, AT.VMXON)).toMatchObject(valid(pointer));
    m.restartInVmx(false);
    expect(run(name, 1, AT.VMCS + 4)).toMatchObject(INVALID);
  });
  test('VMPTRLD of another revision is VMfail(11)', () => {
    m.restartInVmx();
    m.write32(AT.OTHER_VMCS, 1);
    expect(run('VMPTRLD', 1, AT.OTHER_VMCS)).toMatchObject(valid(11));
    expect(m.nested.v.address).toBe(AT.VMCS);
  });
  test('VMPTRST gives what VMPTRLD took, and all ones when there is none', () => {
    m.restartInVmx(false);
    run('VMPTRST');
    expect([m.read32(OPERAND), m.read32(OPERAND + 4)]).toEqual([0xffff_ffff, 0xffff_ffff]);
    expect(run('VMPTRLD', 1, AT.OTHER_VMCS)).toMatchObject(SUCCEED);
    run('VMPTRST');
    expect([m.read32(OPERAND), m.read32(OPERAND + 4)]).toEqual([AT.OTHER_VMCS, 0]);
    expect(run('VMCLEAR', 1, AT.OTHER_VMCS)).toMatchObject(SUCCEED);
    run('VMPTRST');
    expect(m.read32(OPERAND)).toBe(0xffff_ffff);
  });
  test('fields survive VMCLEAR and VMPTRLD', () => {
    m.restartInVmx();
    m.set(2, 0x1234_5678, 0x9abc_def0);
    expect(run('VMWRITE_REGISTER', 0x681e)).toMatchObject(SUCCEED);
    run('VMPTRLD', 1, AT.OTHER_VMCS);
    run('VMPTRLD', 1, AT.VMCS);
    m.set(2, 0);
    expect(run('VMREAD_REGISTER', 0x681e)).toMatchObject(SUCCEED);
    expect([m.vcpu.state.gprLow(2), m.vcpu.state.gprHigh(2)]).toEqual([0x1234_5678, 0x9abc_def0]);
  });
  test('more VMCSs are active than L0 keeps by itself: each has its fields, launch state and region', () => {
    m.restartInVmx(false);
    const regions = Array.from({ length: 12 }, (_, i) => 0x10_0000 + 0x1000 * i);
    const pointTo = (region: number): void => {
      expect(run('VMPTRLD', 1, region)).toMatchObject(SUCCEED);
    };
    for (const region of regions) {
      m.write32(region, m.nested.caps.offer.revision);
      expect(run('VMCLEAR', 1, region)).toMatchObject(SUCCEED);
      pointTo(region);
      fillValid(m);
      run('VMWRITE', 0x6c14, AT.STACK - region / 0x1000);
      run('VMWRITE', 0x681c, region);
    }
    for (const [i, region] of regions.entries()) {
      if (i % 3 !== 0) continue;
      pointTo(region);
      expect(run('VMLAUNCH')).toMatchObject({ exited: true });
      expect(m.vcpu.state.gprLow(4)).toBe(AT.STACK - region / 0x1000);
    }
    for (const [i, region] of regions.entries()) {
      pointTo(region);
      expect(field(m, 'GUEST_RSP')).toBe(region);
      expect(m.nested.v.launched).toBe(i % 3 === 0);
    }
    // VMCLEAR of one that is not the current one puts it into its region, as a clear VMCS
    const [first, second] = [regions[0]!, regions[1]!];
    pointTo(first);
    pointTo(second);
    expect(run('VMCLEAR', 1, first)).toMatchObject(SUCCEED);
    expect(m.nested.v.address).toBe(second);
    expect(m.read32(rowAddress(first, FIELD.GUEST_RSP))).toBe(first);
    m.write32(rowAddress(first, FIELD.GUEST_RSP), 0x1234);
    pointTo(first);
    expect([field(m, 'GUEST_RSP'), m.nested.v.launched]).toEqual([0x1234, false]);
    // VMXOFF puts all into their regions
    run('VMWRITE', 0x681c, 0x5678);
    run('VMXOFF');
    expect(m.read32(rowAddress(first, FIELD.GUEST_RSP))).toBe(0x5678);
  });
});

describe('VMREAD and VMWRITE', () => {
  test('without a current VMCS: VMfailInvalid', () => {
    m.restartInVmx(false);
    expect(run('VMREAD', 0x681e)).toMatchObject(INVALID);
    expect(run('VMWRITE', 0x681e)).toMatchObject(INVALID);
  });
  test.each([[0x1_0000], [0x6c20], [0x0006], [0x4001], [0x6801]])('of field %i: VMfail(12)', (encoding) => {
    m.restartInVmx();
    expect(run('VMREAD', encoding)).toMatchObject(valid(12));
    expect(run('VMWRITE', encoding)).toMatchObject(valid(12));
  });
  test('with bits 63:32 of the encoding set: VMfail(12)', () => {
    m.restartInVmx();
    m.set(0, OPERAND);
    m.set(1, 0x681e, 1);
    expect(m.run(CODE.VMREAD)).toMatchObject(valid(12));
  });
  test('keep the width of the field, and reach the upper half by an odd encoding', () => {
    m.restartInVmx();
    run('VMWRITE', 0x0800, 0x1234_5678);
    run('VMREAD', 0x0800, 0xffff_ffff, 0xffff_ffff);
    expect([m.read32(OPERAND), m.read32(OPERAND + 4)]).toEqual([0x5678, 0]);
    run('VMWRITE', 0x2800, 0x1111_1111, 0x2222_2222);
    run('VMWRITE', 0x2801, 0x3333_3333, 0x4444_4444);
    run('VMREAD', 0x2800);
    expect([m.read32(OPERAND), m.read32(OPERAND + 4)]).toEqual([0x1111_1111, 0x3333_3333]);
    run('VMREAD', 0x2801);
    expect([m.read32(OPERAND), m.read32(OPERAND + 4)]).toEqual([0x3333_3333, 0]);
  });
  test('of every encoding do the same in the engine as in L0, flags and all', () => {
    const tried = (encoding: number, opened: boolean) => {
      m.restartInVmx();
      if (!opened) m.vcpu.state.setU32(S.VMCS, 0);
      const exits = m.vcpu.exits[EXIT.VMREAD]! + m.vcpu.exits[EXIT.VMWRITE]!;
      const written = run('VMWRITE', encoding, 0x89ab_cdef, 0x0123_4567);
      if (!opened) m.vcpu.state.setU32(S.VMCS, 0);
      const read = run('VMREAD', encoding, 0x5555_5555, 0x5555_5555);
      const left = m.vcpu.exits[EXIT.VMREAD]! + m.vcpu.exits[EXIT.VMWRITE]! - exits;
      return { left, all: [written, read, m.read32(OPERAND), m.read32(OPERAND + 4), [...m.nested.v.image.words]] };
    };
    let inEngine = 0;
    for (let encoding = 0; encoding < 0x8100; encoding += 1) {
      // Any index up to where fields end, a few beyond
      if ((encoding & 0x3fe) > 0x60 && (encoding & 0x7f) !== 0) continue;
      const engine = tried(encoding, true);
      const l0 = tried(encoding, false);
      expect(engine.all, `encoding ${encoding.toString(16)}`).toEqual(l0.all);
      expect(l0.left).toBe(2);
      if (engine.left === 0) inEngine += 1;
    }
    expect(inEngine).toBe(m.nested.fieldExists.reduce((sum, exists) => sum + exists, 0));
  });
  test('a field that VMWRITE changed in the engine is checked by the next VM entry', () => {
    m.restartInVmx();
    fillValid(m);
    expect(run('VMLAUNCH')).toMatchObject({ exited: true });
    const exits = m.vcpu.exits[EXIT.VMWRITE];
    run('VMWRITE', 0x6c16, 0, 0x8000);
    expect(m.vcpu.exits[EXIT.VMWRITE]).toBe(exits);
    expect(run('VMRESUME')).toMatchObject(valid(8));
  });
  test('exit-information fields can be written: IA32_VMX_MISC[29]', () => {
    m.restartInVmx();
    expect(run('VMWRITE', 0x4402, 7)).toMatchObject(SUCCEED);
    expect(field(m, 'EXIT_REASON')).toBe(7);
  });
});

describe('INVEPT and INVVPID', () => {
  test.each([
    ['INVEPT', 0, [0, 0], [0, 0]],
    ['INVEPT', 3, [0, 0], [0, 0]],
    ['INVEPT', 1, [AT.PML4 + 0x5e, 0], [0, 0]],
    ['INVEPT', 1, [AT.PML4 + 0x1e, 1 << 20], [0, 0]],
    ['INVVPID', 4, [1, 0], [0, 0]],
    ['INVVPID', 0, [0, 0], [0, 0]],
    ['INVVPID', 1, [0, 0], [0, 0]],
    ['INVVPID', 3, [0, 0], [0, 0]],
    ['INVVPID', 1, [0x1_0001, 0], [0, 0]],
    ['INVVPID', 2, [0, 1], [0, 0]],
    ['INVVPID', 0, [1, 0], [0, 0x8000_0000]],
  ] as const)('%s type %i of %j %j: as the manual says', (name, type, first, second) => {
    m.restartInVmx();
    const isLegal = name === 'INVEPT' && type === 1 && first[1] === 0;
    expect(run(name, type, first[0], first[1], second)).toMatchObject(isLegal ? SUCCEED : valid(28));
  });
  test.each([
    ['INVEPT', 1, [AT.PML4 + 0x1e, 0]],
    ['INVEPT', 2, [0xffff, 0xffff]],
    ['INVVPID', 0, [1, 0]],
    ['INVVPID', 1, [0xffff, 0]],
    ['INVVPID', 2, [0, 0]],
    ['INVVPID', 3, [7, 0]],
  ] as const)('%s type %i succeeds', (name, type, first) => {
    m.restartInVmx();
    expect(run(name, type, ...first)).toMatchObject(SUCCEED);
  });
});

describe('VMLAUNCH and VMRESUME', () => {
  const enter = (name: 'VMLAUNCH' | 'VMRESUME'): Outcome => run(name);

  test('without a current VMCS: VMfailInvalid', () => {
    m.restartInVmx(false);
    expect(enter('VMLAUNCH')).toMatchObject(INVALID);
  });
  test('VMRESUME of a clear VMCS: VMfail(5); VMLAUNCH of a launched one: VMfail(4)', () => {
    m.restartInVmx();
    fillValid(m);
    expect(enter('VMRESUME')).toMatchObject(valid(5));
    expect(enter('VMLAUNCH')).toMatchObject({ exited: true });
    expect(field(m, 'EXIT_REASON')).toBe(18);
    m.vcpu.activity = 'running';
    expect(enter('VMLAUNCH')).toMatchObject(valid(4));
    expect(enter('VMRESUME')).toMatchObject({ exited: true });
  });
  test('behind MOV SS: VMfail(26)', () => {
    m.restartInVmx();
    fillValid(m);
    m.set(0, 16);
    expect(m.run([0x8e, 0xd0, ...CODE.VMLAUNCH])).toMatchObject(valid(26));
  });
  test('of a shadow VMCS: VMfailInvalid', () => {
    m.restartInVmx();
    m.write32(AT.OTHER_VMCS, (m.nested.caps.offer.revision | 0x8000_0000) >>> 0);
    expect(run('VMPTRLD', 1, AT.OTHER_VMCS)).toMatchObject(SUCCEED);
    expect(enter('VMLAUNCH')).toMatchObject(INVALID);
  });
  test('VMCLEAR makes it launchable again', () => {
    m.restartInVmx();
    fillValid(m);
    enter('VMLAUNCH');
    m.vcpu.activity = 'running';
    expect(run('VMCLEAR', 1, AT.VMCS)).toMatchObject(SUCCEED);
    run('VMPTRLD', 1, AT.VMCS);
    expect(enter('VMLAUNCH')).toMatchObject({ exited: true });
  });
});

describe('where L1 is offered less', () => {
  const on = (less: string, test: () => void): void => {
    const whole = m;
    m = new L1Machine({ cpu: `intel,+vmx,${less}` });
    m.restartInVmx();
    test();
    m = whole;
  };
  test('VMWRITE of an exit-information field is VMfail(13), which VMREAD then reads unchanged', () => {
    on('-vmx-vmwrite-vmexit-fields', () => {
      expect(run('VMWRITE', 0x4402, 7)).toMatchObject(valid(13));
      expect(run('VMWRITE_REGISTER', 0x4402)).toMatchObject(valid(13));
      expect(field(m, 'EXIT_REASON')).toBe(0);
      expect(run('VMWRITE', 0x4002, 7)).toMatchObject(SUCCEED);
    });
  });
  test('VMPTRLD of a shadow VMCS is VMfail(11) without VMCS shadowing', () => {
    const load = () => {
      m.write32(AT.OTHER_VMCS, m.nested.caps.offer.revision | 0x8000_0000);
      return run('VMPTRLD', 1, AT.OTHER_VMCS);
    };
    m.restartInVmx();
    expect(load()).toMatchObject(SUCCEED);
    on('-vmx-shadow-vmcs', () => expect(load()).toMatchObject(valid(11)));
  });
  test('INVEPT and INVVPID of a type that is not there are VMfail(28), and #UD if none is', () => {
    on('-vmx-invept-single-context,-vmx-invvpid-single-addr', () => {
      expect(run('INVEPT', 1, AT.PML4 | 0x1e)).toMatchObject(valid(28));
      expect(run('INVEPT', 2)).toMatchObject(SUCCEED);
      expect(run('INVVPID', 0, 1)).toMatchObject(valid(28));
      expect(run('INVVPID', 2)).toMatchObject(SUCCEED);
    });
    on('-vmx-invept,-vmx-invvpid', () => {
      expect(run('INVEPT', 2)).toMatchObject({ vector: UD });
      expect(run('INVVPID', 2)).toMatchObject({ vector: UD });
      for (const name of ['INVEPT', 'INVVPID'] as const) {
        m.restartInVmx();
        fillValid(m);
        m.bytes(AT.L2, [...CODE[name], ...CODE.VMCALL]);
        expect(run('VMLAUNCH')).toMatchObject({ exited: true });
        expect([field(m, 'EXIT_REASON'), field(m, 'EXIT_INTERRUPTION_INFO') & 0xff]).toEqual([0, UD]);
      }
    });
  });
  test('a field of a control that is not offered does not exist: VMfail(12)', () => {
    m.restartInVmx();
    expect(run('VMREAD', 0x202c)).toMatchObject(SUCCEED); // XSS-exiting bitmap
    on('-xsaves', () => expect(run('VMREAD', 0x202c)).toMatchObject(valid(12)));
    on('-vmx-xsaves', () => expect(run('VMWRITE', 0x202c)).toMatchObject(valid(12)));
  });
});
