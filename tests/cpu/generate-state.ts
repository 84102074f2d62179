/**
 * FXSAVE, FXRSTOR and the XSAVE family: an area in memory, the components that are asked for, components that are in their
 * initial state.
 *
 * Never   asks for a component that the engine's machine has not: what XCR0 the host's kernel chose must not matter.
 *         FIP, FDP and FOP are zero in what is saved: vendors keep them differently.
 */
import type { Form } from './forms.ts';
import { FX, mxcsr, x87State } from './generate-fp.ts';
import { type CpuOutcome, type CpuState, DONE, freshState, PAGES } from './protocol.ts';
import { integer, type Random } from './random.ts';

export const isStateForm = (form: Form): boolean => /^F?X(SAVE|RSTOR)/.test(form.mnemonic);
const isFx = (form: Form): boolean => form.mnemonic.startsWith('F');

/** Offsets in the XSAVE area. SDM 1 13.4 "XSAVE Area"; the AVX component lies where every processor has it. */
const XS = { BV: 512, COMP: 520, HEADER_END: 576, AVX: 576 } as const;
const FX_BYTES = 512;
const MXCSR_MASK = 28;
const XSAVE_BYTES = 832;
const X87_STATE = 1;
const SSE_STATE = 2;
const AVX_STATE = 4;
const ALL = X87_STATE | SSE_STATE | AVX_STATE;

export const areaBytes = (form: Form): number => (isFx(form) ? FX_BYTES : XSAVE_BYTES);

/** Mostly aligned and inside; sometimes over an edge, unaligned, or where nothing can be written. */
export function areaPlace(form: Form, random: Random): number {
  const bytes = areaBytes(form);
  const step = isFx(form) ? 16 : 64;
  const end = PAGES.DATA + 0x2000;
  const kind = random.below(100);
  if (kind < 50) return PAGES.DATA + step * random.below((0x2000 - bytes) / step);
  if (kind < 70) return PAGES.DATA + 0x1000 - step * random.below(bytes / step); // over the border of two mapped pages
  if (kind < 78) return end - bytes; // ends with the last mapped byte
  // Goes on where nothing is mapped, and the header does so: whether XRSTOR reads a component that it initializes is the
  // vendor's choice
  if (kind < 86) return end - step * (1 + random.below(FX_BYTES / step));
  if (kind < 92) return PAGES.DATA + random.below(0x2000 - bytes);
  if (kind < 96) return PAGES.RODATA + step * random.below((0x1000 - bytes) / step);
  return random.pick([end + 0x40, PAGES.DATA - 0x40, 0x5000]);
}

/** Registers and components before the instruction. */
export function stateBefore(state: CpuState, random: Random): void {
  const view = new DataView(state.fxsave.buffer);
  const fresh = freshState().fxsave;
  if (random.chance(30)) state.fxsave.set(fresh.subarray(0, 24));
  else x87State(view, random);
  if (random.chance(30)) state.fxsave.fill(0, FX.ST, FX.XMM);
  if (random.chance(30)) state.fxsave.fill(0, FX.XMM, FX.XMM + 256);
  if (random.chance(30)) state.ymmHigh.fill(0);
  view.setUint32(FX.MXCSR, random.chance(40) ? 0x1f80 : mxcsr(random), true);
  const wild = random.chance(20) ? random.u32() & 0x7ff0_0000 : 0;
  state.gpr[0] = BigInt((random.chance(40) ? ALL : random.below(8)) | wild) | (random.u64() & ~0xffff_ffffn);
  state.gpr[2] = random.chance(50) ? 0n : random.u64();
}

/**
 * Takes AMD's bit 17 out of MXCSR_MASK, which the engine has not. False: the host's kernel has come between. It saves
 * compacted, which says that SSE is in use if MXCSR is not as after reset, and what it restores then is so.
 */
export function settleArea(form: string, before: CpuState, outcome: CpuOutcome, area: number): boolean {
  let present = 0;
  for (const { address, bytes } of outcome.memory) {
    const mask = area + MXCSR_MASK + 2 - address;
    if (mask >= 0 && mask < bytes.length) bytes[mask]! &= ~2;
    present |= bytes[area + XS.BV - address] ?? 0;
  }
  if (!/ XSAVE(OPT)? /.test(form) || outcome.vector !== DONE) return true;
  const isInitial = before.fxsave.subarray(FX.XMM, FX.XMM + 256).every((value) => value === 0);
  const asksForSse = (before.gpr[0]! & BigInt(SSE_STATE)) !== 0n;
  return !(isInitial && asksForSse && present & SSE_STATE);
}

/** What the area holds before: an image that can be restored, mostly. */
export function areaBefore(form: Form, random: Random): Uint8Array {
  const area = new Uint8Array(areaBytes(form));
  const view = new DataView(area.buffer);
  for (let at = 0; at < area.length; at += 8) view.setBigUint64(at, integer(random), true);
  x87State(view, random);
  // Bit 17 is AMD's misaligned exception mask: no other processor has it
  const illegal = random.chance(8) ? random.pick([1 << 16, 1 << 18, 1 << 31]) : 0;
  view.setUint32(FX.MXCSR, (mxcsr(random) | illegal) >>> 0, true);
  // So that AMD's bit 17 of MXCSR_MASK, which is not looked at, is clear before, too
  area[MXCSR_MASK + 2]! &= ~2;
  if (isFx(form)) return area;
  area.fill(0, XS.BV, XS.HEADER_END);
  const compact = /^X(RSTORS|SAVE[CS])$/.test(form.mnemonic) ? random.chance(80) : random.chance(30);
  const format = compact ? (random.chance(60) ? ALL : random.below(8)) : 0;
  const present = (random.chance(40) ? ALL : random.below(8)) & (compact && random.chance(92) ? format : ALL);
  area[XS.BV] = present;
  area[XS.COMP] = format;
  if (compact) area[XS.COMP + 7] = 0x80;
  // What is not to be there: a component that nobody has, a bit that must be zero
  if (random.chance(8)) area[XS.BV + 2 + random.below(6)]! |= random.pick([0x80, 0x40]);
  if (random.chance(4)) area[XS.COMP]! ^= 1 << random.below(3);
  if (random.chance(8)) area[XS.COMP + 3 + random.below(XS.HEADER_END - XS.COMP - 3)]! ^= 1 << random.below(8);
  return area;
}
