import type { CpuidPolicy } from '../../arch/cpuid.ts';
import { CR0, RFLAGS } from '../../arch/registers.ts';
import type { CpuState } from '../../engine/core/cpu.ts';
import { S, SEG, segment } from '../../engine/core/layout.ts';
import { layOpenMsrs } from '../../engine/core/msrs.ts';

/**
 * The registers behind RESET, or behind INIT, which keeps FPU, MSRs and caches.
 *
 * Source  SDM 3A 9.1.1 "Processor State After Reset", Table 9-1.
 */
export function resetState(state: CpuState, policy: CpuidPolicy, init: boolean): void {
  if (!init) state.bytes().fill(0);
  for (let i = 0; i < 16; i += 1) state.setGpr(i, 0, 0);
  // Family, model and stepping
  state.setGpr(2, policy.values[4 * policy.find(1, 0)]!, 0);
  for (let seg = 0; seg < 8; seg += 1) {
    const at = segment(seg);
    state.setU16(at + SEG.SELECTOR, seg === SEG.CS ? 0xf000 : 0);
    state.setU32(at + SEG.ACCESS, seg === SEG.CS ? 0x9b : seg === SEG.LDTR ? 0x82 : seg === SEG.TR ? 0x8b : 0x93);
    state.setU32(at + SEG.LIMIT, 0xffff);
    state.setU64(at + SEG.BASE, seg === SEG.CS ? 0xffff_0000 : 0, 0);
  }
  state.setU64(S.RIP, 0xfff0, 0);
  state.setU32(S.RFLAGS, RFLAGS.FIXED1);
  state.setU32(S.CC_KIND, 0);
  state.setU64(S.CC_B, 0, 0);
  state.setU64(S.DIRECTION, 1, 0);
  const oldCr0 = init ? state.u32(S.CR0) : 0;
  state.setU32(S.CR0, ((init ? oldCr0 & (CR0.CD | CR0.NW) : CR0.CD | CR0.NW) | CR0.ET) >>> 0);
  state.setU64(S.CR2, 0, 0);
  state.setU64(S.CR3, 0, 0);
  state.setU32(S.CR4, 0);
  state.setU32(S.EFER, 0);
  state.setU32(S.CPL, 0);
  for (const limit of [S.GDTR_LIMIT, S.IDTR_LIMIT]) state.setU32(limit, 0xffff);
  state.setU64(S.GDTR_BASE, 0, 0);
  state.setU64(S.IDTR_BASE, 0, 0);
  for (let i = 0; i < 4; i += 1) state.setU64(S.DR + 8 * i, 0, 0);
  state.setU64(S.DR + 48, 0xffff_0ff0, 0);
  state.setU64(S.DR + 56, 0x400, 0);
  state.setU32(S.SHADOW_KIND, 0);
  state.setU32(S.TASK, 0);
  if (init) return;
  state.setU32(S.XCR0, 1);
  state.setU16(S.FCW, 0x40);
  for (let i = 0; i < 8; i += 1) state.setU8(S.FEMPTY + i, 0);
  state.setU32(S.MXCSR, 0x1f80);
  state.setU64(S.PAT, 0x0007_0406, 0x0007_0406);
  layOpenMsrs(state, policy);
}
