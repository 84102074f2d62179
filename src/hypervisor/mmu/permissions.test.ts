import { describe, expect, test } from 'vitest';
import { CR0, CR4, EFER } from '../../arch/registers.ts';
import { ACC, PFEC } from './access.ts';
import { computeFormat, formatKey, permissionFault } from './format.ts';
import { computePermissions, computePkruMask } from './permissions.ts';
import { calcCpuRole, eptRole, type RoleWords } from './role.ts';

const CAPS = {
  physicalAddressBits: 40,
  linearAddressBits: 48,
  gbPages: true,
  amd: false,
  ept: 0x0633_4141,
  vpid: 0xf01,
};

/** nested-mmu.md 3.8, "Golden vectors", 4-bit encoding, verbatim. */
const GOLDEN_4 = [
  ['0 0 0 0', '5555 0000 5f5f 3f3f 5555 0000 5f5f 3f3f 0000 0000 0f0f 3f3f 0000 0000 0f0f 3f3f'],
  ['0 1 0 0', '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f 0000 3333 0f0f 3f3f 0000 3333 0f0f 3f3f'],
  ['1 1 0 0', '5555 3333 5f5f 3f3f 5555 3333 5f5f 3f3f 00ff 33ff 0fff 3fff 00ff 33ff 0fff 3fff'],
  ['1 1 1 1', 'f5f5 f3f3 5f5f 3f3f 5555 3333 5f5f 3f3f f0ff f3ff 0fff 3fff f0ff f3ff 0fff 3fff'],
  ['1 0 1 1', 'f5f5 f0f0 5f5f 3f3f 5555 0000 5f5f 3f3f f0ff f0ff 0fff 3fff f0ff f0ff 0fff 3fff'],
  ['EPT', '5555 3333 5555 3333 5555 3333 5555 3333 00ff 33ff 00ff 33ff 00ff 33ff 00ff 33ff'],
  ['EPT + MBEC', '5555 3333 5555 3333 5555 3333 5555 3333 00ff 33ff 0f0f 3f3f 00ff 33ff 0f0f 3f3f'],
] as const;

/** The same for the 3-bit encoding of 6.19 (X=1, W=2, U=4), verbatim. */
const GOLDEN_3 = [
  ['0 0 0 0', '00 00 0f 3f 00 00 0f 3f 00 00 0f 3f 00 00 0f 3f'],
  ['0 1 0 0', '00 33 0f 3f 00 33 0f 3f 00 33 0f 3f 00 33 0f 3f'],
  ['1 1 0 0', '00 33 0f 3f 00 33 0f 3f 55 77 5f 7f 55 77 5f 7f'],
  ['1 1 1 1', 'f0 f3 0f 3f 00 33 0f 3f f5 f7 5f 7f f5 f7 5f 7f'],
  ['1 0 1 1', 'f0 f0 0f 3f 00 00 0f 3f f5 f5 5f 7f f5 f5 5f 7f'],
  ['EPT', '00 33 0f 3f 00 33 0f 3f 55 77 5f 7f 55 77 5f 7f'],
] as const;

function controls(name: string) {
  const bit = (at: number): boolean => name.split(' ')[at] === '1';
  const ept = name.startsWith('EPT');
  return ept
    ? { ept, mbec: name.includes('MBEC'), gmet: false, nx: false, wp: false, smep: false, smap: false }
    : { ept, mbec: false, gmet: false, nx: bit(0), wp: bit(1), smep: bit(2), smap: bit(3) };
}

const hexWords = (text: string): number[] => text.split(' ').map((word) => Number.parseInt(word, 16));

describe('permission tables', () => {
  test.each(GOLDEN_4)('of NX WP SMEP SMAP = %s are the golden vector', (name, vector) => {
    expect([...computePermissions(controls(name))]).toEqual(hexWords(vector));
  });

  test.each(GOLDEN_3)('of %s, seen through the 3-bit encoding, are the golden vector', (name, vector) => {
    const table = computePermissions(controls(name));
    const faults4 = (index: number, acc: number): boolean => ((table[index]! >> acc) & 1) !== 0;
    const projected = Array.from({ length: 16 }, (_, index) => {
      let mask = 0;
      for (let acc3 = 0; acc3 < 8; acc3 += 1) {
        const w = (acc3 & 2) !== 0 ? ACC.WRITE : 0;
        const x = (acc3 & 1) !== 0 ? ACC.EXEC : 0;
        const u = (acc3 & 4) !== 0;
        let fault: boolean;
        if (name === 'EPT') {
          // U of an access means "read" there, and no bit at all means that nothing is checked.
          const acc = (u ? ACC.READ : 0) | w | x;
          fault = ((index & 2) !== 0 && faults4(0, acc)) || ((index & 9) !== 0 && faults4(index & 9, acc));
        } else {
          fault = faults4(index, ACC.READ | w | (u ? ACC.USER : 0) | x);
        }
        if (fault) mask |= 1 << acc3;
      }
      return mask;
    });
    expect(projected).toEqual(hexWords(vector));
  });
});

describe('the PKRU mask', () => {
  test('is 0xdd00 with CR0.WP, 0xd500 without, and 0 without CR4.PKE', () => {
    expect(computePkruMask(true, true)).toBe(0x0000_dd00);
    expect(computePkruMask(true, false)).toBe(0x0000_d500);
    expect(computePkruMask(false, true)).toBe(0);
  });
});

/** SDM 3A 4.6.1 "Determination of Access Rights", sentence by sentence, with no table and no mask. */
function mayAccess(a: {
  cr0Wp: boolean;
  smep: boolean;
  smap: boolean;
  nx: boolean;
  user: boolean;
  write: boolean;
  fetch: boolean;
  implicit: boolean;
  ac: boolean;
  pageUser: boolean;
  pageWrite: boolean;
  pageNx: boolean;
}): boolean {
  if (a.user) {
    if (!a.pageUser) return false;
    if (a.fetch) return !(a.nx && a.pageNx);
    if (a.write) return a.pageWrite;
    return true;
  }
  if (a.fetch) {
    if (a.pageUser && a.smep) return false;
    return !(a.nx && a.pageNx);
  }
  if (a.pageUser && a.smap && (a.implicit || !a.ac)) return false;
  if (a.write && a.cr0Wp && !a.pageWrite) return false;
  return true;
}

describe('permissionFault', () => {
  test('agrees with the sentences of SDM 4.6.1 for every access, page and control bit', () => {
    const role: RoleWords = { base: 0, ext: 0 };
    let compared = 0;
    for (let control = 0; control < 16; control += 1) {
      const [nx, wp, smep, smap] = [1, 2, 4, 8].map((bit) => (control & bit) !== 0);
      calcCpuRole(
        role,
        CR0.PG | (wp ? CR0.WP : 0),
        CR4.PAE | (smep ? CR4.SMEP : 0) | (smap ? CR4.SMAP : 0),
        EFER.LMA | EFER.LME | (nx ? EFER.NXE : 0),
        false,
        false,
      );
      const format = computeFormat(formatKey(role.base, role.ext), CAPS);
      for (let access = 0; access < 32; access += 1) {
        const [write, user, fetch, ac, implicit] = [1, 2, 4, 8, 16].map((bit) => (access & bit) !== 0);
        if ((write && fetch) || (implicit && (user || fetch))) continue;
        for (let acc = 0; acc < 16; acc += 1) {
          if ((acc & ACC.READ) === 0) continue; // a present IA-32 entry is readable
          const pfec =
            (write ? PFEC.W : 0) | (user ? PFEC.U : 0) | (fetch ? PFEC.F : 0) | (implicit ? PFEC.IMPLICIT : 0);
          // SMAP is suspended for explicit supervisor data accesses only; user accesses never look at it.
          const fault = permissionFault(format, acc, 0, pfec, 0, ac!) !== 0;
          const expected = mayAccess({
            cr0Wp: wp!,
            smep: smep!,
            smap: smap!,
            nx: nx!,
            user: user!,
            write: write!,
            fetch: fetch!,
            implicit: implicit!,
            ac: ac!,
            pageUser: (acc & ACC.USER) !== 0,
            pageWrite: (acc & ACC.WRITE) !== 0,
            pageNx: (acc & ACC.EXEC) === 0,
          });
          expect(fault, `control ${control} access ${access} rights ${acc}`).toBe(!expected);
          compared += 1;
        }
      }
    }
    expect(compared).toBeGreaterThan(2000);
  });

  test('lets a protection key refuse what it disables, on user pages only, and never a fetch', () => {
    const role: RoleWords = { base: 0, ext: 0 };
    for (const wp of [false, true]) {
      calcCpuRole(role, CR0.PG | (wp ? CR0.WP : 0), CR4.PAE | CR4.PKE, EFER.LMA, false, false);
      const format = computeFormat(formatKey(role.base, role.ext), CAPS);
      for (let key = 0; key < 16; key += 1) {
        for (const [ad, wd] of [
          [0, 0],
          [0, 1],
          [1, 0],
          [1, 1],
        ] as const) {
          const pkru = ((ad | (wd << 1)) << (2 * key)) >>> 0;
          for (const pfec of [0, PFEC.W, PFEC.U, PFEC.U | PFEC.W, PFEC.F, PFEC.F | PFEC.U]) {
            for (const page of [ACC.ALL, ACC.ALL & ~ACC.USER]) {
              if ((pfec & PFEC.U) !== 0 && (page & ACC.USER) === 0) continue;
              const counts = (pfec & PFEC.F) === 0 && (page & ACC.USER) !== 0;
              const writeCounts = (pfec & PFEC.W) !== 0 && ((pfec & PFEC.U) !== 0 || wp);
              const expected = counts && (ad === 1 || (wd === 1 && writeCounts)) ? PFEC.P | PFEC.PK : 0;
              expect(permissionFault(format, page, key, pfec, pkru, false)).toBe(expected);
              expect(permissionFault(format, page, (key + 1) & 15, pfec, pkru, false)).toBe(0);
            }
          }
        }
      }
    }
  });

  test('of EPT with MBEC asks XU for user-mode linear addresses and X for the others', () => {
    const role: RoleWords = { base: 0, ext: 0 };
    eptRole(role, 0x1e, true, true);
    const format = computeFormat(formatKey(role.base, role.ext), CAPS);
    const faults = (rights: number, pfec: number) => permissionFault(format, rights, 0, pfec, 0xffff_ffff, false) !== 0;
    expect(faults(ACC.READ | ACC.EXEC, PFEC.F)).toBe(false);
    expect(faults(ACC.READ | ACC.EXEC, PFEC.F | PFEC.U)).toBe(true);
    expect(faults(ACC.READ | ACC.USER, PFEC.F)).toBe(true);
    expect(faults(ACC.READ | ACC.USER, PFEC.F | PFEC.U)).toBe(false);
  });
});
