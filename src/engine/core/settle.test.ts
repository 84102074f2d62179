import { expect, it } from 'vitest';
import { CR0 } from '../../arch/registers.ts';
import { gpr, S, SEG, segment } from './layout.ts';
import { AT, TestMachine } from './machine-testbed.ts';

/** Between two runs L0 writes registers; what the engine derives from them is made anew then, and only then. */

it('CR0.TS that L0 sets between two runs makes the next SSE instruction #NM', () => {
  const m = new TestMachine().longMode();
  m.code('90 0f28c1 f4'); // nop; movaps xmm0, xmm1; hlt
  m.run(1);
  m.vcpu.state.setU32(S.CR0, m.vcpu.state.u32(S.CR0) | CR0.TS);
  m.runOn();
  expect(m.stoppedAt).toBe(7);
});

it('a base that L0 gives FS between two runs is what FS: means in the next instruction', () => {
  const m = new TestMachine().longMode();
  m.write32(AT.DATA + 8, 0x1234);
  m.code('90 648b042508000000 f4'); // nop; mov eax, fs:[8]; hlt
  m.run(1);
  m.vcpu.state.setU64(segment(SEG.FS) + SEG.BASE, AT.DATA, 0);
  m.runOn();
  expect(m.reg(0)).toBe(0x1234);
});

it('general registers and RIP are nothing to derive from', () => {
  const m = new TestMachine().longMode();
  m.code('90 90 f4');
  m.run(1);
  m.vcpu.state.setU64(gpr(3), 1, 2);
  m.vcpu.state.setU64(S.RIP, AT.CODE, 0);
  expect(m.vcpu.state.touched).toBe(false);
  m.vcpu.state.setU32(S.CPL, 0);
  expect(m.vcpu.state.touched).toBe(true);
});
