/**
 * VM-entry checks on guest segment registers. A failure is a VM exit with reason 33 and bit 31 set.
 *
 * Source  SDM 3C 26.3.1.2 "Checks on Guest Segment Registers". "Unusable" is access-rights bit 16; CS has no such bit
 *         to speak of, and TR may not have it.
 */
import { CR0, RFLAGS } from '../registers.ts';
import {
  type CheckSection,
  canonical,
  check,
  FAILURE,
  forEach,
  hasGuestCr0,
  isCanonicalField,
  isIa32eGuest,
  isUnrestricted,
  SECONDARY_WORDS,
} from './checks.ts';
import { ACCESS_RIGHTS, ACCESS_RIGHTS_RESERVED, accessDpl, accessType } from './controls.ts';
import { FIELD, type VmcsReader } from './fields.ts';

type Segment = 'CS' | 'SS' | 'DS' | 'ES' | 'FS' | 'GS';
type System = 'TR' | 'LDTR';

/** Fields of one register: rows for speed, names for `reads`. */
function fieldsOf<const R extends Segment | System>(register: R) {
  const names = {
    selector: `GUEST_${register}_SELECTOR`,
    base: `GUEST_${register}_BASE`,
    limit: `GUEST_${register}_LIMIT`,
    rights: `GUEST_${register}_ACCESS_RIGHTS`,
  } as const;
  return {
    names,
    selector: FIELD[names.selector],
    base: FIELD[names.base],
    limit: FIELD[names.limit],
    rights: FIELD[names.rights],
  };
}

const ALL = ['CS', 'SS', 'DS', 'ES', 'FS', 'GS'] as const;
const DATA = ['DS', 'ES', 'FS', 'GS'] as const;
const ALL_BUT_CS = ['SS', ...DATA] as const;

const isVirtual8086 = (v: VmcsReader): boolean => (v.lo(FIELD.GUEST_RFLAGS) & RFLAGS.VM) !== 0;
const isUsable = (v: VmcsReader, rights: number): boolean => (v.lo(rights) & ACCESS_RIGHTS.UNUSABLE) === 0;
const rpl = (v: VmcsReader, selector: number): number => v.lo(selector) & 3;
const typeOf = (v: VmcsReader, rights: number): number => accessType(v.lo(rights));
const dplOf = (v: VmcsReader, rights: number): number => accessDpl(v.lo(rights));
const SS_RIGHTS = FIELD.GUEST_SS_ACCESS_RIGHTS;
const CS_RIGHTS = FIELD.GUEST_CS_ACCESS_RIGHTS;

/** "If any bit in 11:0 of the limit is 0, G must be 0; if any bit in 31:20 is 1, G must be 1." */
const granularityFits = (v: VmcsReader, limit: number, rights: number): boolean => {
  const hasG = (v.lo(rights) & ACCESS_RIGHTS.G) !== 0;
  if (hasG) return (v.lo(limit) & 0xfff) === 0xfff;
  return v.lo(limit) <= 0xf_ffff;
};
const reservedAreZero = (v: VmcsReader, rights: number): boolean => (v.lo(rights) & ACCESS_RIGHTS_RESERVED) === 0;

/** A sentence about the access rights of a segment register that is in use outside virtual-8086 mode. */
const usable = (register: (typeof ALL_BUT_CS)[number], holds: (rights: number) => boolean) => {
  const { names, rights } = fieldsOf(register);
  return check(['GUEST_RFLAGS', names.rights], (v) => isVirtual8086(v) || !isUsable(v, rights) || holds(v.lo(rights)));
};
/** The same about CS, which is always in use. */
const code = (holds: (rights: number) => boolean) =>
  check(['GUEST_RFLAGS', 'GUEST_CS_ACCESS_RIGHTS'], (v) => isVirtual8086(v) || holds(v.lo(CS_RIGHTS)));

export const GUEST_SEGMENT_CHECKS = {
  section: '26.3.1.2 "Checks on Guest Segment Registers"',
  failure: FAILURE.GUEST,
  rows: {
    // Selector fields.
    'TR selector has TI 0': check(['GUEST_TR_SELECTOR'], (v) => (v.lo(FIELD.GUEST_TR_SELECTOR) & 4) === 0),
    'LDTR selector has TI 0 if usable': check(
      ['GUEST_LDTR_SELECTOR', 'GUEST_LDTR_ACCESS_RIGHTS'],
      (v) => !isUsable(v, FIELD.GUEST_LDTR_ACCESS_RIGHTS) || (v.lo(FIELD.GUEST_LDTR_SELECTOR) & 4) === 0,
    ),
    'SS selector has the RPL of CS unless unrestricted': check(
      [...SECONDARY_WORDS, 'GUEST_RFLAGS', 'GUEST_SS_SELECTOR', 'GUEST_CS_SELECTOR'],
      (v) =>
        isVirtual8086(v) || isUnrestricted(v) || rpl(v, FIELD.GUEST_SS_SELECTOR) === rpl(v, FIELD.GUEST_CS_SELECTOR),
    ),
    // Base-address fields.
    ...forEach(ALL, 'base is the selector times 16 in virtual-8086 mode', (register) => {
      const { names, selector, base } = fieldsOf(register);
      return check(
        ['GUEST_RFLAGS', names.selector, names.base],
        (v) => !isVirtual8086(v) || (v.lo(base) === v.lo(selector) << 4 && v.hi(base) === 0),
      );
    }),
    ...forEach(['TR', 'FS', 'GS'], 'base is canonical', (register) => canonical(`GUEST_${register}_BASE`)),
    'LDTR base is canonical if usable': check(
      ['GUEST_LDTR_BASE', 'GUEST_LDTR_ACCESS_RIGHTS'],
      (v, c) => !isUsable(v, FIELD.GUEST_LDTR_ACCESS_RIGHTS) || isCanonicalField(v, c, FIELD.GUEST_LDTR_BASE),
    ),
    'CS base has bits 63:32 0': check(['GUEST_CS_BASE'], (v) => v.hi(FIELD.GUEST_CS_BASE) === 0),
    ...forEach(['SS', 'DS', 'ES'], 'base has bits 63:32 0 if usable', (register) => {
      const { names, base, rights } = fieldsOf(register);
      return check([names.base, names.rights], (v) => !isUsable(v, rights) || v.hi(base) === 0);
    }),
    // Limit fields.
    ...forEach(ALL, 'limit is 0xffff in virtual-8086 mode', (register) => {
      const { names, limit } = fieldsOf(register);
      return check(['GUEST_RFLAGS', names.limit], (v) => !isVirtual8086(v) || v.lo(limit) === 0xffff);
    }),
    // Access-rights fields.
    ...forEach(ALL, 'access rights are 0xf3 in virtual-8086 mode', (register) => {
      const { names, rights } = fieldsOf(register);
      return check(['GUEST_RFLAGS', names.rights], (v) => !isVirtual8086(v) || v.lo(rights) === 0xf3);
    }),
    'CS type is accessed code; an unrestricted guest may have 3': check(
      [...SECONDARY_WORDS, 'GUEST_RFLAGS', 'GUEST_CS_ACCESS_RIGHTS'],
      (v) => {
        if (isVirtual8086(v)) return true;
        const type = typeOf(v, CS_RIGHTS);
        return (type & 9) === 9 || (type === 3 && isUnrestricted(v));
      },
    ),
    'SS type is accessed writable data if usable': usable('SS', (rights) => (rights & 0xb) === 3),
    ...forEach(DATA, 'type is accessed if usable', (register) => usable(register, (rights) => (rights & 1) !== 0)),
    ...forEach(DATA, 'type is readable if code and usable', (register) =>
      usable(register, (rights) => (rights & 8) === 0 || (rights & 2) !== 0),
    ),
    'CS is a code or data descriptor': code((rights) => (rights & ACCESS_RIGHTS.S) !== 0),
    ...forEach(ALL_BUT_CS, 'is a code or data descriptor if usable', (register) =>
      usable(register, (rights) => (rights & ACCESS_RIGHTS.S) !== 0),
    ),
    'CS DPL is 0 for type 3': code((rights) => accessType(rights) !== 3 || accessDpl(rights) === 0),
    'CS DPL is that of SS for non-conforming code': check(
      ['GUEST_RFLAGS', 'GUEST_CS_ACCESS_RIGHTS', 'GUEST_SS_ACCESS_RIGHTS'],
      (v) => isVirtual8086(v) || (typeOf(v, CS_RIGHTS) & 0xd) !== 9 || dplOf(v, CS_RIGHTS) === dplOf(v, SS_RIGHTS),
    ),
    'CS DPL is at most that of SS for conforming code': check(
      ['GUEST_RFLAGS', 'GUEST_CS_ACCESS_RIGHTS', 'GUEST_SS_ACCESS_RIGHTS'],
      (v) => isVirtual8086(v) || (typeOf(v, CS_RIGHTS) & 0xd) !== 0xd || dplOf(v, CS_RIGHTS) <= dplOf(v, SS_RIGHTS),
    ),
    'SS DPL is its RPL unless unrestricted': check(
      [...SECONDARY_WORDS, 'GUEST_RFLAGS', 'GUEST_SS_SELECTOR', 'GUEST_SS_ACCESS_RIGHTS'],
      (v) => isVirtual8086(v) || isUnrestricted(v) || dplOf(v, SS_RIGHTS) === rpl(v, FIELD.GUEST_SS_SELECTOR),
    ),
    'SS DPL is 0 if CS has type 3 or CR0.PE is 0': check(
      ['GUEST_RFLAGS', 'GUEST_CR0', 'GUEST_CS_ACCESS_RIGHTS', 'GUEST_SS_ACCESS_RIGHTS'],
      (v) => isVirtual8086(v) || (typeOf(v, CS_RIGHTS) !== 3 && hasGuestCr0(v, CR0.PE)) || dplOf(v, SS_RIGHTS) === 0,
    ),
    ...forEach(DATA, 'DPL is at least its RPL unless conforming or unrestricted', (register) => {
      const { names, selector, rights } = fieldsOf(register);
      return check(
        [...SECONDARY_WORDS, 'GUEST_RFLAGS', names.selector, names.rights],
        (v) =>
          isVirtual8086(v) ||
          isUnrestricted(v) ||
          !isUsable(v, rights) ||
          typeOf(v, rights) > 11 ||
          dplOf(v, rights) >= rpl(v, selector),
      );
    }),
    'CS is present': code((rights) => (rights & ACCESS_RIGHTS.P) !== 0),
    ...forEach(ALL_BUT_CS, 'is present if usable', (register) =>
      usable(register, (rights) => (rights & ACCESS_RIGHTS.P) !== 0),
    ),
    'CS access rights: reserved bits are 0': code((rights) => (rights & ACCESS_RIGHTS_RESERVED) === 0),
    ...forEach(ALL_BUT_CS, 'access rights: reserved bits are 0 if usable', (register) =>
      usable(register, (rights) => (rights & ACCESS_RIGHTS_RESERVED) === 0),
    ),
    'CS D/B is 0 in 64-bit code': check(
      ['ENTRY_CONTROLS', 'GUEST_RFLAGS', 'GUEST_CS_ACCESS_RIGHTS'],
      (v) =>
        isVirtual8086(v) ||
        !isIa32eGuest(v) ||
        (v.lo(CS_RIGHTS) & ACCESS_RIGHTS.L) === 0 ||
        (v.lo(CS_RIGHTS) & ACCESS_RIGHTS.DB) === 0,
    ),
    'CS granularity fits its limit': check(
      ['GUEST_RFLAGS', 'GUEST_CS_LIMIT', 'GUEST_CS_ACCESS_RIGHTS'],
      (v) => isVirtual8086(v) || granularityFits(v, FIELD.GUEST_CS_LIMIT, CS_RIGHTS),
    ),
    ...forEach(ALL_BUT_CS, 'granularity fits its limit if usable', (register) => {
      const { names, limit, rights } = fieldsOf(register);
      return check(
        ['GUEST_RFLAGS', names.limit, names.rights],
        (v) => isVirtual8086(v) || !isUsable(v, rights) || granularityFits(v, limit, rights),
      );
    }),
    // TR.
    'TR type is a busy TSS, of 64 bits in IA-32e mode': check(['ENTRY_CONTROLS', 'GUEST_TR_ACCESS_RIGHTS'], (v) => {
      const type = typeOf(v, FIELD.GUEST_TR_ACCESS_RIGHTS);
      return type === 11 || (type === 3 && !isIa32eGuest(v));
    }),
    'TR is a system descriptor': system('TR', (rights) => (rights & ACCESS_RIGHTS.S) === 0),
    'TR is present': system('TR', (rights) => (rights & ACCESS_RIGHTS.P) !== 0),
    'TR access rights: reserved bits are 0': check(['GUEST_TR_ACCESS_RIGHTS'], (v) =>
      reservedAreZero(v, FIELD.GUEST_TR_ACCESS_RIGHTS),
    ),
    'TR granularity fits its limit': check(['GUEST_TR_LIMIT', 'GUEST_TR_ACCESS_RIGHTS'], (v) =>
      granularityFits(v, FIELD.GUEST_TR_LIMIT, FIELD.GUEST_TR_ACCESS_RIGHTS),
    ),
    'TR is usable': check(['GUEST_TR_ACCESS_RIGHTS'], (v) => isUsable(v, FIELD.GUEST_TR_ACCESS_RIGHTS)),
    // LDTR.
    'LDTR type is 2 if usable': system('LDTR', (rights) => accessType(rights) === 2),
    'LDTR is a system descriptor if usable': system('LDTR', (rights) => (rights & ACCESS_RIGHTS.S) === 0),
    'LDTR is present if usable': system('LDTR', (rights) => (rights & ACCESS_RIGHTS.P) !== 0),
    'LDTR access rights: reserved bits are 0 if usable': system(
      'LDTR',
      (rights) => (rights & ACCESS_RIGHTS_RESERVED) === 0,
    ),
    'LDTR granularity fits its limit if usable': check(
      ['GUEST_LDTR_LIMIT', 'GUEST_LDTR_ACCESS_RIGHTS'],
      (v) =>
        !isUsable(v, FIELD.GUEST_LDTR_ACCESS_RIGHTS) ||
        granularityFits(v, FIELD.GUEST_LDTR_LIMIT, FIELD.GUEST_LDTR_ACCESS_RIGHTS),
    ),
  },
} as const satisfies CheckSection;

/** A sentence about TR, or about LDTR if it is usable. */
function system(register: System, holds: (rights: number) => boolean) {
  const { names, rights } = fieldsOf(register);
  return check([names.rights], (v) => (register === 'LDTR' && !isUsable(v, rights)) || holds(v.lo(rights)));
}
