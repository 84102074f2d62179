/**
 * An L2 that changes its own CR0, CR3, CR4 and EFER, of which L1 hears nothing: with a second stage of L0's, and with L0
 * shadowing L2's tables, where each of them changes what the shadow must be (nested-mmu.md 1.3 states d and e, 4.7, 4.8).
 *
 * Found by kvm-unit-tests' `vmx_pf_vpid_test` under `-machine tdp=off` and by reading around it: without TDP L0 watched L1's
 * registers, and not L2's.
 *
 * "Mutant:" says which part of the fix was undone, singly, and that the test was then seen to fail without TDP. Without
 * shadowIntercepts() at the entry (which is the old code) those of CR0.WP, CR3, CR3 targets and INVLPG fail, and that of
 * SMEP does not end.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { CR0, CR4, EFER } from '../../src/arch/registers.ts';
import { type ControlName, controlMask } from '../../src/arch/vmx/controls.ts';
import { EXIT_REASONS as R } from '../../src/arch/vmx/exit-reasons.ts';
import { FIELD, type VmcsField } from '../../src/arch/vmx/fields.ts';
import { AT, L1Machine } from './l1-machine.ts';
import { fillValid } from './valid-vmcs12.ts';

const VMLAUNCH = [0x0f, 0x01, 0xc2];
const VMCALL = [0x0f, 0x01, 0xc1];
const CALLED = { reason: R.VMCALL };
const pageFault = (error: number) => ({ reason: R.EXCEPTION_OR_NMI, vector: 14, error });

/** A page of L2's own tables: LINEAR → DATA; OTHER_PML4 maps LINEAR to OTHER_DATA. */
const LINEAR = 0x40_0000;
const TABLE = 0x9_0000;
const OTHER = { PML4: 0xa_0000, PDPT: 0xa_1000, PD: 0xa_2000, TABLE: 0xa_3000 } as const;
const DATA = 0x30_0000;
const OTHER_DATA = 0x30_1000;
const MSR_BITMAP = 0x10_0000;
const MSR_LIST = 0x10_1000;

const u32 = (value: number) => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, (value >>> 24) & 255];
/** rax = CRn, with some bits cleared and others set, back to CRn. */
const change = (cr: number, clear: number, set: number): number[] => [
  ...[0x0f, 0x20, 0xc0 | (cr << 3)],
  ...[0x25, ...u32(~clear)], // and eax
  ...[0x0d, ...u32(set)], // or eax
  ...[0x0f, 0x22, 0xc0 | (cr << 3)],
];
const store = (value: number): number[] => [0xc7, 0x04, 0x25, ...u32(LINEAR), ...u32(value)];
const load = [0x8b, 0x1c, 0x25, ...u32(LINEAR)]; // mov ebx, [LINEAR]
const setCr3 = (cr3: number): number[] => [0xb8, ...u32(cr3), 0x0f, 0x22, 0xd8];
const wrmsr = (msr: number, value: number): number[] => [
  0xb9,
  ...u32(msr),
  0xb8,
  ...u32(value),
  0x31,
  0xd2,
  0x0f,
  0x30,
];

describe.each([true, false])('TDP: %s', (tdp) => {
  const m = new L1Machine({ tdp });
  const set = (field: VmcsField, lo: number, hi = 0): void => m.nested.v.set(FIELD[field], lo >>> 0, hi >>> 0);
  const get = (field: VmcsField): number => m.nested.v.number(FIELD[field]);
  const turn = (name: ControlName, on: boolean): void => {
    const field = `${name.split('.')[0]}_CONTROLS` as VmcsField;
    set(field, on ? get(field) | controlMask(name) : get(field) & ~controlMask(name));
  };
  const ebx = (): number => m.vcpu.state.gprLow(3);

  function enter(code: readonly number[]) {
    m.bytes(AT.L2, [...code, ...VMCALL]);
    expect(m.run(VMLAUNCH).exited).toBe(true);
    const vector = get('EXIT_INTERRUPTION_INFO') & 0xff;
    return { reason: get('EXIT_REASON'), vector, error: get('EXIT_INTERRUPTION_ERROR_CODE') };
  }

  /** L1 enters L2 once more, at its entry point. */
  function again(code: readonly number[]) {
    m.restoreRegisters();
    m.nested.v.launched = false;
    set('GUEST_RIP', AT.L2);
    return enter(code);
  }

  beforeEach(() => {
    m.restartInVmx();
    for (const page of [OTHER.PML4, OTHER.PDPT, OTHER.PD, OTHER.TABLE, TABLE, MSR_BITMAP]) {
      m.bytes(page, new Array(4096).fill(0));
    }
    m.write64(AT.PML4 + 0x2010, TABLE | 7);
    m.write64(TABLE, DATA | 7);
    m.write64(OTHER.PML4, OTHER.PDPT | 7);
    m.write64(OTHER.PDPT, OTHER.PD | 7);
    m.write64(OTHER.PD, 0x83);
    m.write64(OTHER.PD + 0x10, OTHER.TABLE | 7);
    m.write64(OTHER.TABLE, OTHER_DATA | 7);
    m.write32(DATA, 0x1111);
    m.write32(OTHER_DATA, 0x2222);
    fillValid(m);
    turn('PRIMARY.CR3_LOAD_EXITING', false);
    turn('PRIMARY.CR3_STORE_EXITING', false);
    turn('PRIMARY.USE_MSR_BITMAPS', true);
    set('MSR_BITMAP', MSR_BITMAP);
  });

  // Mutant: writePaging() does not tell the MMU of CR0.
  test('CR0.WP: a read-only page is written without it, and not with it', () => {
    m.write64(TABLE, DATA | 5);
    expect(enter([...store(1), ...store(2)])).toMatchObject(pageFault(3));
    expect(again([...load, ...change(0, CR0.WP, 0), ...store(7), ...load])).toMatchObject(CALLED);
    expect(ebx()).toBe(7);
    const both = [...change(0, CR0.WP, 0), ...store(8), ...load, ...change(0, 0, CR0.WP), ...store(9)];
    expect(again(both)).toMatchObject(pageFault(3));
    expect(ebx()).toBe(8);
    expect(m.read32(DATA)).toBe(8);
    expect(get('GUEST_CR0') & CR0.WP).toBe(CR0.WP);
  });

  // Mutant: shadowIntercepts() does not watch CR3.
  test('CR3: each of two address spaces has its own page, and L2 reads the register as it wrote it', () => {
    const code = [...load, ...setCr3(OTHER.PML4), ...load];
    expect(enter(code)).toMatchObject(CALLED);
    expect(ebx()).toBe(0x2222);
    expect(get('GUEST_CR3')).toBe(OTHER.PML4);
    set('GUEST_CR3', AT.PML4);
    expect(again([...code, ...setCr3(AT.PML4), ...load, 0x0f, 0x20, 0xd8])).toMatchObject(CALLED);
    expect(ebx()).toBe(0x1111);
    expect(m.vcpu.state.gprLow(0)).toBe(AT.PML4);
  });

  // Mutants: CR3-target values do not leave; isCr3Target() is never true.
  test('a load of a CR3-target value is no exit, and takes effect', () => {
    turn('PRIMARY.CR3_LOAD_EXITING', true);
    expect(enter([...load, ...setCr3(OTHER.PML4)])).toMatchObject({ reason: R.CR_ACCESS });
    set('CR3_TARGET_COUNT', 2);
    set('CR3_TARGET_VALUE1', OTHER.PML4);
    expect(again([...load, ...setCr3(OTHER.PML4), ...load])).toMatchObject(CALLED);
    expect(ebx()).toBe(0x2222);
  });

  // Mutant: crAccess() goes on whatever writeCr3() says.
  test('a CR3 with reserved bits is #GP, and stays what it was', () => {
    const code = [...load, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 8, 0, 0x0f, 0x22, 0xd8]; // bit 51
    expect(enter(code)).toMatchObject({ reason: R.EXCEPTION_OR_NMI, vector: 13, error: 0 });
    expect(get('GUEST_CR3')).toBe(AT.PML4);
  });

  // Mutant: shadowIntercepts() does not watch INVLPG.
  test('INVLPG: what L2 has mapped elsewhere is found there', () => {
    // L2's own table, seen in the supervisor page at its identity
    const remap = [0xc7, 0x04, 0x25, ...u32(TABLE), ...u32(OTHER_DATA | 7)];
    expect(enter([...load, ...remap, 0x0f, 0x01, 0x3c, 0x25, ...u32(LINEAR), ...load])).toMatchObject(CALLED);
    expect(ebx()).toBe(0x2222);
  });

  // Mutant: a WRMSR of EFER does not reach the MMU.
  test('EFER.NXE: bit 63 of an entry is reserved without it', () => {
    m.write64(TABLE, DATA | 7, 0x8000_0000);
    const msr = 0xc000_0080;
    set('GUEST_IA32_EFER', EFER.LME | EFER.LMA | EFER.NXE);
    expect(enter([...load, ...wrmsr(msr, EFER.LME | EFER.LMA), ...load])).toMatchObject(pageFault(9));
    expect(ebx()).toBe(0x1111);
    set('GUEST_IA32_EFER', EFER.LME | EFER.LMA);
    expect(again([...wrmsr(msr, EFER.LME | EFER.LMA | EFER.NXE), ...load])).toMatchObject(CALLED);
  });

  // Mutant: loadMsrs() does not tell the MMU.
  test('EFER.NXE by the MSR-load list of the entry counts as that of a WRMSR', () => {
    m.write64(TABLE, DATA | 7, 0x8000_0000);
    turn('ENTRY.LOAD_EFER', false);
    m.write64(MSR_LIST, 0xc000_0080);
    m.write64(MSR_LIST + 8, EFER.LME | EFER.LMA | EFER.SCE);
    set('ENTRY_MSR_LOAD_COUNT', 1);
    set('ENTRY_MSR_LOAD_ADDRESS', MSR_LIST);
    expect(enter(load)).toMatchObject(pageFault(9));
    expect(m.vcpu.mmu.translate(LINEAR, 0, 0)).toBe(true); // L1 has NXE again
    m.write64(MSR_LIST + 8, EFER.LME | EFER.LMA | EFER.SCE | EFER.NXE);
    expect(again(load)).toMatchObject(CALLED);
  });

  // Mutant: writePaging() does not tell the MMU of CR4: the fetch is tried for ever.
  test('CR4.SMEP: a user page is not fetched from with it, and is without it', () => {
    m.bytes(DATA, [0xc3]);
    const call = [0xb8, ...u32(LINEAR), 0xff, 0xd0];
    expect(enter([...call, ...change(4, 0, CR4.SMEP), ...call])).toMatchObject(pageFault(0x11));
    set('GUEST_CR4', get('GUEST_CR4') | CR4.SMEP);
    expect(again([...change(4, CR4.SMEP, 0), ...call])).toMatchObject(CALLED);
  });

  // Mutants: writePaging() does not keep them; either read shadow leaves them out.
  test('bits that L1 owns keep their value and read as its shadow, whatever L2 does to the others', () => {
    m.write64(TABLE, DATA | 5);
    set('CR0_GUEST_HOST_MASK', CR0.WP | CR0.NE);
    set('CR0_READ_SHADOW', CR0.NE);
    set('CR4_GUEST_HOST_MASK', CR4.PAE);
    set('CR4_READ_SHADOW', 0);
    const code = [...change(0, 0, CR0.MP), ...change(4, 0, CR4.PGE), 0x0f, 0x20, 0xc3, 0x0f, 0x20, 0xe1, ...store(1)];
    expect(enter(code)).toMatchObject(pageFault(3));
    expect(ebx() & (CR0.WP | CR0.NE | CR0.MP)).toBe(CR0.NE | CR0.MP);
    expect(m.vcpu.state.gprLow(1) & (CR4.PAE | CR4.PGE)).toBe(CR4.PGE);
    expect(get('GUEST_CR0') & (CR0.WP | CR0.MP)).toBe(CR0.WP | CR0.MP);
    expect(get('GUEST_CR4') & (CR4.PAE | CR4.PGE)).toBe(CR4.PAE | CR4.PGE);
    // And a change of one of them is L1's
    expect(again(change(0, 0, CR0.WP))).toMatchObject({ reason: R.CR_ACCESS });
  });

  // Mutants: loadedByLmsw() gives CR0 as it is; each LMSW is L1's.
  test('LMSW and CLTS of bits that are not L1’s change them', () => {
    set('GUEST_CR0', get('GUEST_CR0') | CR0.TS);
    const code = [0xb8, ...u32(CR0.PE | CR0.MP | CR0.EM | CR0.TS), 0x0f, 0x01, 0xf0, 0x0f, 0x06];
    expect(enter(code)).toMatchObject(CALLED);
    expect(get('GUEST_CR0') & 0xf).toBe(CR0.PE | CR0.MP | CR0.EM);
  });

  // Mutant: the route never raises #GP; fails with TDP, too.
  test('what VMX operation fixes L2 cannot clear', () => {
    for (const code of [change(0, CR0.NE, 0), change(0, CR0.PG, 0), change(4, CR4.VMXE, 0)]) {
      expect(again(code)).toMatchObject({ reason: R.EXCEPTION_OR_NMI, vector: 13, error: 0 });
      expect(get('GUEST_RIP')).toBe(AT.L2 + code.length - 3);
    }
  });

  // Mutant: no shadowIntercepts() at the exit.
  test('after the exit L1 reads the CR0 and CR4 of its host state', () => {
    set('HOST_CR0', get('HOST_CR0') | CR0.MP);
    set('HOST_CR4', get('HOST_CR4') | CR4.PGE);
    m.bytes(AT.HOST, [0x0f, 0x20, 0xc3, 0x0f, 0x20, 0xe1, 0xf4]);
    m.bytes(AT.L2, [...change(0, 0, CR0.EM), ...VMCALL]);
    m.run(VMLAUNCH);
    m.bytes(AT.HOST, [0xf4]);
    expect(ebx() & (CR0.MP | CR0.EM)).toBe(CR0.MP);
    expect(m.vcpu.state.gprLow(1) & (CR4.PGE | CR4.PAE)).toBe(CR4.PGE | CR4.PAE);
  });
});
