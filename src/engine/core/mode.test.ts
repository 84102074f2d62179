import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { MODE } from '../decode/mode.ts';
import { JUMP_CACHE, S, SEG, segment, TLB, TLB_EMPTY } from './layout.ts';
import { EngineMemory } from './memory.ts';
import { deriveMode } from './mode.ts';

const memory = new EngineMemory({ contexts: 2, codeBytes: 0x1_0000, ramBytes: 0x1000, vcpus: 1 });
const { u32 } = memory;
const CONTEXT = memory.contexts;
const derive = deriveMode(memory.memory, 0xffff);
const set = (cell: number, value: number): void => {
  u32[cell >>> 2] = value;
};
const get = (cell: number): number => u32[cell >>> 2]!;

const anyOf = (...masks: number[]) =>
  fc.subarray(masks).map((chosen) => chosen.reduce((all, mask) => (all | mask) >>> 0, 0));
/** Rights of a segment: mostly what a flat program has. */
const rights = fc.oneof(fc.constantFrom(0xc09b, 0xa09b, 0xc093, 0x93, 0x1_0000), fc.nat(0x1_ffff));
const registers = fc.record({
  cr0: anyOf(CR0.PE, CR0.MP, CR0.EM, CR0.TS, CR0.AM, CR0.PG),
  cr4: anyOf(CR4.OSFXSR, CR4.OSXSAVE, CR4.SMAP, CR4.LA57, CR4.PAE),
  efer: anyOf(EFER.LMA, EFER.LME),
  rflags: anyOf(RFLAGS.VM, RFLAGS.AC, RFLAGS.IF),
  xcr0: fc.constantFrom(1, 3, 7),
  cpl: fc.constantFrom(0, 3),
  segments: fc.array(
    fc.record({ rights, limit: fc.constantFrom(0xffff_ffff, 0xffff), base: fc.constantFrom(0, 0, 0x1000) }),
    { minLength: 6, maxLength: 6 },
  ),
});

it('the mode word, the TLB set, the jump cache and the segment bases are those of the registers', () => {
  fc.assert(
    fc.property(registers, fc.nat(0xffff), ({ cr0, cr4, efer, rflags, xcr0, cpl, segments }, generation) => {
      for (const [cell, value] of [
        [S.CR0, cr0],
        [S.CR4, cr4],
        [S.EFER, efer],
        [S.RFLAGS, rflags],
        [S.XCR0, xcr0],
        [S.CPL, cpl],
      ] as const)
        set(cell, value);
      segments.forEach((each, seg) => {
        set(segment(seg) + SEG.ACCESS, each.rights);
        set(segment(seg) + SEG.LIMIT, each.limit);
        set(segment(seg) + SEG.BASE, each.base);
      });
      const user = cpl === 3;
      const jumps = CONTEXT + TLB.SETS * TLB.SET_BYTES + (user ? 0 : JUMP_CACHE.STRIDE);
      set(jumps + JUMP_CACHE.GENERATION, generation);

      const aligns = user && (cr0 & CR0.AM) !== 0 && (rflags & RFLAGS.AC) !== 0;
      expect(derive(CONTEXT) !== 0).toBe(aligns);

      const code = segments[SEG.CS]!.rights;
      const isLong = (efer & EFER.LMA) !== 0 && (code & 0x2000) !== 0;
      const isFlat = [SEG.ES, SEG.CS, SEG.SS, SEG.DS].every((seg) => {
        const { rights: has, limit, base } = segments[seg]!;
        const isUsable = (has & 0x1_0000) === 0 && (has & 0x80) !== 0;
        const isRight = seg === SEG.CS ? (has & 8) !== 0 : (has & 0xe) === 2;
        return isUsable && isRight && limit === 0xffff_ffff && base === 0 && (seg !== SEG.SS || (has & 0x4000) !== 0);
      });
      const mode =
        (isLong ? MODE.LONG : 0) |
        (isLong || (code & 0x4000) !== 0 ? MODE.DEFAULT32 : 0) |
        (!isLong && (code & 0x4000) !== 0 && isFlat ? MODE.FLAT32 : 0) |
        (cr0 & CR0.PE ? 0 : MODE.REAL) |
        (rflags & RFLAGS.VM ? MODE.VM86 : 0) |
        (user ? MODE.USER : 0) |
        (cr0 & CR0.EM ? MODE.EM : 0) |
        (cr0 & CR0.TS ? MODE.TS : 0) |
        (cr0 & CR0.MP ? MODE.MP : 0) |
        (cr4 & CR4.OSFXSR ? MODE.OSFXSR : 0) |
        (cr4 & CR4.OSXSAVE && xcr0 === 7 ? MODE.AVX : 0);
      expect(get(S.MODE)).toBe(mode);
      expect(get(S.CANONICAL_SHIFT)).toBe(cr4 & CR4.LA57 ? 7 : 16);
      expect(get(S.NO_X87_SELECTORS)).toBe(0xffff);
      const kernel = cr4 & CR4.SMAP && !(rflags & RFLAGS.AC) ? TLB.SUPERVISOR_SMAP : TLB.SUPERVISOR;
      expect(get(S.TLB)).toBe(aligns ? TLB_EMPTY : CONTEXT + (user ? TLB.USER : kernel) * TLB.SET_BYTES);
      expect(get(S.CONTEXT)).toBe(CONTEXT);
      expect(get(S.EXECUTE)).toBe(CONTEXT + (user ? TLB.USER : TLB.SUPERVISOR) * TLB.SET_BYTES + TLB.EXECUTE);
      expect(get(S.JUMP_CACHE)).toBe(jumps);
      expect(get(S.JUMP_TAG)).toBe((mode | (generation << 12)) >>> 0);
      segments.forEach(({ base }, seg) => {
        const inForce = isLong && seg !== SEG.FS && seg !== SEG.GS ? 0 : base;
        expect(get(S.SEG_BASE + 8 * seg)).toBe(inForce);
      });
    }),
    { numRuns: 3000 },
  );
});
