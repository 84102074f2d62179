import { expect, test } from 'vitest';
import { CR4 } from '../registers.ts';
import { allows, FULL_OFFER, vmxCapabilities } from './capabilities.ts';
import {
  CONTROL_NAMES,
  CONTROL_WORDS,
  controlMask,
  DEFAULT1,
  DEFAULT1_NAMED,
  PIN,
  PRIMARY,
  SECONDARY,
} from './controls.ts';
import { EPT_CAP, eptpIsLegal, eptpLevels, inveptTypeIsOffered, invvpidTypeIsOffered } from './ept.ts';
import {
  describeQualification,
  EXIT_REASONS,
  exitReasonName,
  QUALIFICATION_LAYOUTS,
  qualificationField,
  VM_INSTRUCTION_ERRORS,
} from './exit-reasons.ts';
import { L2_EXIT_ROUTES } from './exit-routes.ts';
import {
  FIELD,
  fieldEncoding,
  fieldExists,
  fieldKind,
  fieldRow,
  fieldWidth,
  VMCS_FIELD_COUNT,
  VMCS_FIELD_NAMES,
  VMCS_FIELDS,
  VmcsImage,
} from './fields.ts';
import { offers, offerWithout, VMX_PART_NAMES } from './offer-names.ts';

const offered = vmxCapabilities(FULL_OFFER, CR4.PAE | CR4.PGE);

test('every VMCS encoding carries the width and the kind its row declares', () => {
  // SDM 3C 24.11.2: width in bits 14:13, kind in 11:10; bits 31:15 and 12 are reserved, bit 0 is the access type.
  const widths = ['u16', 'u64', 'u32', 'natural'];
  const kinds = ['control', 'exit information', 'guest', 'host'];
  for (const [name, [encoding, width, kind]] of Object.entries(VMCS_FIELDS)) {
    expect([name, widths[(encoding >> 13) & 3], kinds[(encoding >> 10) & 3]]).toEqual([name, width, kind]);
    expect([name, encoding & ~0x6fff, encoding & 1]).toEqual([name, 0, 0]);
  }
});

test('names say the kind too: GUEST_ and HOST_ fields are of that area', () => {
  for (const [name, [, , kind]] of Object.entries(VMCS_FIELDS)) {
    if (name.startsWith('HOST_')) expect([name, kind]).toEqual([name, 'host']);
    if (kind === 'host') expect(name).toMatch(/^HOST_/);
    if (name.startsWith('GUEST_') && !/^GUEST_(PHYSICAL|LINEAR)_ADDRESS$/.test(name)) {
      expect([name, kind]).toEqual([name, 'guest']);
    }
  }
});

test('encodings ascend, are unique and lead back to their row', () => {
  const encodings = VMCS_FIELD_NAMES.map((name) => VMCS_FIELDS[name][0]);
  expect(encodings).toEqual([...new Set(encodings)].sort((a, b) => a - b));
  for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) expect(fieldRow(fieldEncoding(row))).toBe(row);
});

test('the access type selects the high half of 64-bit fields and of no other', () => {
  expect(fieldRow(0x201b)).toBe(FIELD.EPT_POINTER);
  expect(fieldRow(0x4003)).toBe(-1);
  expect(fieldRow(0x0001)).toBe(-1);
  expect(fieldRow(0x6801)).toBe(-1);
  expect([fieldRow(0x2003 + 0x1000), fieldRow(0x8000), fieldRow(-1), fieldRow(0x6fff)]).toEqual([-1, -1, -1, -1]);
});

test('the counts of Appendix B: guest and host segment fields are complete', () => {
  const count = (kind: string, width: string) =>
    VMCS_FIELD_NAMES.filter((_, row) => fieldKind(row) === kind && fieldWidth(row) === width).length;
  expect(count('guest', 'u16')).toBe(11);
  expect(count('host', 'u16')).toBe(7);
  expect(count('guest', 'u32')).toBe(23);
  expect(count('exit information', 'u32')).toBe(8);
  expect(count('exit information', 'natural')).toBe(6);
  expect(count('host', 'natural')).toBe(15);
});

test('a field exists with any of the controls that use it', () => {
  expect(fieldExists(FIELD.GUEST_CR0, new Set())).toBe(true);
  expect(fieldExists(FIELD.EPT_POINTER, new Set())).toBe(false);
  expect(fieldExists(FIELD.GUEST_IA32_PAT, new Set(['EXIT.SAVE_PAT'] as const))).toBe(true);
  expect(fieldExists(FIELD.EPTP_LIST_ADDRESS, offered.exists)).toBe(true);
  expect(fieldExists(FIELD.HLAT_POINTER, offered.exists)).toBe(false);
  expect(fieldExists(FIELD.SECONDARY_CONTROLS, offered.exists)).toBe(true);
});

test('a VMCS keeps what the width of a field holds', () => {
  const image = new VmcsImage();
  image.write(FIELD.VPID, 0x1_2345, 7);
  image.write(FIELD.EXCEPTION_BITMAP, 0xffff_ffff, 7);
  image.write(FIELD.GUEST_RIP, -1, -2);
  expect([image.lo(FIELD.VPID), image.hi(FIELD.VPID)]).toEqual([0x2345, 0]);
  expect([image.lo(FIELD.EXCEPTION_BITMAP), image.hi(FIELD.EXCEPTION_BITMAP)]).toEqual([0xffff_ffff, 0]);
  expect([image.lo(FIELD.GUEST_RIP), image.hi(FIELD.GUEST_RIP)]).toEqual([0xffff_ffff, 0xffff_fffe]);
});

test('no control that has a name is a reserved default1 bit, but for the named ones', () => {
  for (const word of ['PIN', 'PRIMARY', 'EXIT', 'ENTRY'] as const) {
    const named = Object.values(CONTROL_WORDS[word]).reduce((all, bit) => (all | bit) >>> 0, 0);
    expect([word, (named & DEFAULT1[word]) >>> 0]).toEqual([word, DEFAULT1_NAMED[word]]);
  }
});

test('capability MSRs: allowed-0 is within allowed-1, and the TRUE ones are the looser', () => {
  for (const index of [0x481, 0x482, 0x483, 0x484, 0x48b, 0x48d, 0x48e, 0x48f, 0x490]) {
    const [may, must] = offered.msr(index)!;
    expect([index, (must & ~may) >>> 0]).toEqual([index, 0]);
  }
  for (const [old, now] of [
    [0x481, 0x48d],
    [0x482, 0x48e],
    [0x483, 0x48f],
    [0x484, 0x490],
  ] as const) {
    const [oldMay, oldMust] = offered.msr(old)!;
    const [may, must] = offered.msr(now)!;
    expect([oldMay, (must & ~oldMust) >>> 0]).toEqual([may, 0]);
  }
  // Values every VT-x processor has.
  expect([0x481, 0x482, 0x483, 0x484].map((index) => offered.msr(index)![1])).toEqual([
    0x16, 0x0401_e172, 0x3_6dff, 0x11ff,
  ]);
  expect([0x48d, 0x48e, 0x48f, 0x490].map((index) => offered.msr(index)![1])).toEqual([
    0x16, 0x0400_6172, 0x3_6dfb, 0x11fb,
  ]);
});

test('exactly the offered controls can be set', () => {
  const words = {
    PIN: offered.pin,
    PRIMARY: offered.primary,
    SECONDARY: offered.secondary,
    TERTIARY: offered.tertiary,
    EXIT: offered.exit,
    ENTRY: offered.entry,
  };
  for (const name of CONTROL_NAMES) {
    const word = words[name.split('.')[0] as keyof typeof words];
    const isOffered = FULL_OFFER.controls.has(name) || name === 'PRIMARY.ACTIVATE_SECONDARY_CONTROLS';
    expect([name, allows((word.must | controlMask(name)) >>> 0, word)]).toEqual([name, isOffered]);
  }
});

test('BASIC, MISC, FIXED and VMCS_ENUM', () => {
  expect(offered.msr(0x480)).toEqual([0x00d8_1000, FULL_OFFER.revision]);
  expect(offered.msr(0x485)).toEqual([0, 0x6004_01e5]);
  expect(offered.msr(0x486)![1]).toBe(0x8000_0021);
  expect(offered.msr(0x488)![1]).toBe(CR4.VMXE);
  expect(offered.msr(0x489)![1]).toBe(CR4.VMXE | CR4.PAE | CR4.PGE);
  // TSC_MULTIPLIER, 0x2032, has the highest index of the offered fields: 0x19.
  expect(offered.msr(0x48a)![1]).toBe(0x19 << 1);
  expect(offered.msr(0x48c)![1]! & EPT_CAP.ADVANCED_EXIT_INFO).not.toBe(0);
});

test('an MSR that describes nothing does not exist', () => {
  expect([0x491, 0x492, 0x493].map((index) => offered.msr(index))).toEqual([[0, 1], undefined, undefined]);
  const bare = vmxCapabilities({ ...FULL_OFFER, controls: new Set() }, 0);
  expect([0x48b, 0x48c, 0x491].map((index) => bare.msr(index))).toEqual([undefined, undefined, undefined]);
  expect(bare.primary.may & PRIMARY.ACTIVATE_SECONDARY_CONTROLS).toBe(0);
  // Not offered, so they stay what they always were: 1.
  expect(bare.primary.must & PRIMARY.CR3_LOAD_EXITING).not.toBe(0);
});

test('an offer without a part has neither it nor what needs it, for every part that has a name', () => {
  for (const name of VMX_PART_NAMES) {
    const left = offerWithout(FULL_OFFER, [name]);
    expect(offers(left, name), name).toBe(false);
    // Does not throw: nothing in it needs what was taken away
    vmxCapabilities(left, CR4.PAE);
  }
  const noEpt = offerWithout(FULL_OFFER, ['vmx-ept']);
  expect(noEpt.controls.has('SECONDARY.MODE_BASED_EXECUTE_CONTROL')).toBe(false);
  expect(noEpt.controls.has('SECONDARY.ENABLE_VPID')).toBe(true);
  const noTpr = vmxCapabilities(offerWithout(FULL_OFFER, ['vmx-flexpriority']), CR4.PAE);
  expect(noTpr.pin.may & PIN.PROCESS_POSTED_INTERRUPTS).toBe(0);
});

test('offering a control without what it needs is refused', () => {
  const controls = new Set(['SECONDARY.UNRESTRICTED_GUEST'] as const);
  expect(() => vmxCapabilities({ ...FULL_OFFER, controls }, 0)).toThrow(/only together with SECONDARY.ENABLE_EPT/);
  expect(SECONDARY.UNRESTRICTED_GUEST).toBe(0x80);
});

test('EPTPs', () => {
  const legal = (lo: number, hi = 0) => eptpIsLegal(lo, hi, FULL_OFFER.eptCap, 46);
  expect([legal(0x101e), legal(0x1018), legal(0x105e), legal(0x101e, 0x3fff)]).toEqual([true, true, true, true]);
  // Types 1–5 and 7; three levels; five levels; bit 7; one bit past the width.
  const bad = [0x1019, 0x101c, 0x101f, 0x1016, 0x1026, 0x109e].map((lo) => legal(lo));
  expect(bad.some(Boolean)).toBe(false);
  expect(legal(0x101e, 0x4000)).toBe(false);
  expect(eptpLevels(0x101e)).toBe(4);
  expect([0, 1, 2, 3].map((type) => inveptTypeIsOffered(type, FULL_OFFER.eptCap))).toEqual([false, true, true, false]);
  expect([-1, 0, 1, 2, 3, 4].map((type) => invvpidTypeIsOffered(type, FULL_OFFER.vpidCap))).toEqual([
    false,
    true,
    true,
    true,
    true,
    false,
  ]);
});

test('exit reasons 0 to 77 are complete but for the four that Appendix C leaves out', () => {
  const missing = Array.from({ length: 78 }, (_, number) => number).filter((number) => !exitReasonName(number));
  expect(missing).toEqual([35, 38, 42, 71]);
  expect(exitReasonName(0x8000_0021)).toBe('INVALID_GUEST_STATE');
  expect(new Set(Object.values(EXIT_REASONS)).size).toBe(Object.keys(EXIT_REASONS).length);
  const errors = Array.from({ length: 28 }, (_, at) => at + 1).filter((number) => !(number in VM_INSTRUCTION_ERRORS));
  expect(errors).toEqual([14, 21, 27]);
});

test('fields of an exit qualification do not overlap', () => {
  for (const [reason, layout] of Object.entries(QUALIFICATION_LAYOUTS)) {
    let used = 0n;
    for (const { lsb, width } of Object.values(layout) as { lsb: number; width: number }[]) {
      const mask = ((1n << BigInt(width)) - 1n) << BigInt(lsb);
      expect([reason, used & mask]).toEqual([reason, 0n]);
      used |= mask;
    }
  }
  expect(qualificationField(0x03f8_0048, QUALIFICATION_LAYOUTS.IO_INSTRUCTION.PORT)).toBe(0x3f8);
  expect(describeQualification('IO_INSTRUCTION', 0x03f8_0048)).toBe('IN IMMEDIATE PORT=1016');
  expect(describeQualification('EPT_VIOLATION', 0x181)).toBe('READ LINEAR_VALID FINAL');
});

test('every route names controls that exist', () => {
  for (const [reason, route] of Object.entries(L2_EXIT_ROUTES)) {
    expect([reason, route.because.length > 5]).toEqual([reason, true]);
    if (route.to === 'L1 if any') for (const name of route.controls) expect(CONTROL_NAMES).toContain(name);
  }
});
