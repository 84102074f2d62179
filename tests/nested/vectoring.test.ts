/**
 * A page fault on the way to an event's handler in L2 that L1 takes: L1 hears of both, and injects the event once more.
 * With a second stage the engine finds the fault; without TDP L0 does, in the shadow's place.
 *
 * Found by the scenario `tdp-off`: KVM in L1, which shadows L2, never heard of the timer interrupt whose way led through an
 * IDT that was not shadowed yet. L2 waited for ever.
 *
 * Source  SDM 3C 27.2.4 "Information for VM Exits That Occur During Event Delivery".
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { EXIT_REASONS as R } from '../../src/arch/vmx/exit-reasons.ts';
import { FIELD, type VmcsField } from '../../src/arch/vmx/fields.ts';
import { AT, L1Machine, UNMAPPED } from './l1-machine.ts';
import { fillValid } from './valid-vmcs12.ts';

const VMLAUNCH = [0x0f, 0x01, 0xc2];
const EVENTS = [
  ['an external interrupt', 0x8000_0021, 0, 0],
  ['an NMI', 0x8000_0202, 0, 0],
  ['INT 80H', 0x8000_0480, 0, 2],
  ['a general-protection exception', 0x8000_0b0d, 0x1234, 0],
] as const;

describe.each([true, false])('TDP: %s', (tdp) => {
  const m = new L1Machine({ tdp });
  const set = (field: VmcsField, value: number): void => m.nested.v.set(FIELD[field], value >>> 0, 0);
  const get = (field: VmcsField): number => m.nested.v.number(FIELD[field]);

  beforeEach(() => {
    m.restartInVmx();
    fillValid(m);
    m.bytes(AT.L2, [0x0f, 0x01, 0xc1]);
    set('GUEST_IDTR_BASE', UNMAPPED);
    set('GUEST_RFLAGS', 0x202);
  });

  test.each(EVENTS)(
    '%s on its way when the #PF leaves is in the IDT-vectoring information',
    (_name, info, error, length) => {
      set('ENTRY_INTERRUPTION_INFO', info);
      set('ENTRY_EXCEPTION_ERROR_CODE', error);
      set('ENTRY_INSTRUCTION_LENGTH', length);
      expect(m.run(VMLAUNCH).exited).toBe(true);
      expect(get('EXIT_REASON')).toBe(R.EXCEPTION_OR_NMI);
      expect(get('EXIT_INTERRUPTION_INFO')).toBe(0x8000_0b0e);
      expect(get('EXIT_QUALIFICATION')).toBe(UNMAPPED + 16 * (info & 0xff));
      expect(get('IDT_VECTORING_INFO')).toBe(info);
      if ((info & 0x800) !== 0) expect(get('IDT_VECTORING_ERROR_CODE')).toBe(error);
      if (length !== 0) expect(get('EXIT_INSTRUCTION_LENGTH')).toBe(length);
    },
  );

  test('a #PF of an instruction has none, also behind one that had', () => {
    set('ENTRY_INTERRUPTION_INFO', 0x8000_0021);
    m.run(VMLAUNCH);
    m.restoreRegisters();
    m.nested.v.launched = false;
    m.bytes(AT.L2, [0xa1, 0, 0, 0, UNMAPPED >>> 24, 0, 0, 0, 0]);
    m.run(VMLAUNCH);
    expect(get('EXIT_INTERRUPTION_INFO')).toBe(0x8000_0b0e);
    expect(get('IDT_VECTORING_INFO')).toBe(0);
  });

  test('a #PF on the way to the handler of a #PF makes a double fault, which came on the way of nothing', () => {
    set('EXCEPTION_BITMAP', 1 << 8);
    set('ENTRY_INTERRUPTION_INFO', 0x8000_0b0e);
    m.run(VMLAUNCH);
    expect(get('EXIT_INTERRUPTION_INFO')).toBe(0x8000_0b08);
    expect(get('IDT_VECTORING_INFO')).toBe(0);
  });
});
