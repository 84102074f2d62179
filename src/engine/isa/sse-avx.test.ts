import { describe, expect, it } from 'vitest';
import { EXIT, X } from '../core/exits.ts';
import { S } from '../core/layout.ts';
import { TestMachine } from '../core/machine-testbed.ts';

/** What the recorded vectors of sse.test.ts have no address for. */
describe('VMASKMOVPD', () => {
  // MEASURED on AMD family 26
  it('wraps the address of its operand to 32 bits, and not those of the elements behind', () => {
    const m = new TestMachine().longMode();
    m.code('67c4e2752d3b f4'); // vmaskmovpd ymm7, ymm1, [ebx]
    m.setReg(3, 0xffff_fffe, 0xffff_ffff);
    m.cpu.set64(S.XMM + 16, 0, 0);
    m.cpu.set64(S.XMM + 16 + 8, 0, 0x8000_0000); // element 1 alone
    m.vcpu.intercepts.exceptions = 1 << 14;
    expect(m.run()).toBe(EXIT.EXCEPTION);
    expect([m.cpu.get(X.QUALIFICATION), m.cpu.get(X.QUALIFICATION + 4)]).toEqual([6, 1]);
  });
});
