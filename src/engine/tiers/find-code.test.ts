import { describe, expect, it, vi } from 'vitest';
import { S, SEG } from '../core/layout.ts';
import { AT, SEL, TestMachine } from '../core/machine-testbed.ts';

/** Code that is known already is found without TypeScript: what must be found anew all the same. */

const [PT, PAGES] = [0x10_0000, 0x11_0000];
/** Two pages of 4 KBytes, which the table at PT maps. */
const LINEAR = 0x20_0000;

/** 64-bit mode; page n of LINEAR is page n of PAGES. */
function machine(): TestMachine {
  const m = new TestMachine().longMode();
  m.write32(AT.PD + 8, PT | 7, 0);
  for (let i = 0; i < 8; i += 1) m.write32(PT + 8 * i, (PAGES + 4096 * i) | 7, 0);
  m.setReg(3, LINEAR);
  return m;
}

function run(m: TestMachine, code: string): TestMachine {
  m.code(code);
  m.rip = AT.CODE;
  m.runOn();
  return m;
}

/** Calls RBX so often that every cache knows the way. */
const CALL_RBX_OFTEN = 'b900010000 ffd3 ffc9 75fa';
/** PTE at RDX becomes RSI, then what follows. */
const CHANGE_PTE = '488932';
const INVLPG_RBX = '0f013b';
const MOV_CR3_RDI = '0f22df';

describe('a jump to an address whose page is another one by now', () => {
  it.each([
    { name: 'after MOV to CR3', flush: MOV_CR3_RDI },
    { name: 'after INVLPG', flush: INVLPG_RBX },
  ])('runs the code of that page: $name', ({ flush }) => {
    const m = machine();
    m.code('b801000000 c3', PAGES);
    m.code('b802000000 c3', PAGES + 0x4000);
    m.setReg(2, PT);
    m.setReg(6, (PAGES + 0x4000) | 7);
    m.setReg(7, AT.PML4);
    // Again, so that the other page's code is known when the way back to the first one is asked for
    run(m, `${CALL_RBX_OFTEN} 4189c0 ${CHANGE_PTE} ${flush} ${CALL_RBX_OFTEN} f4`);
    expect([m.reg(8), m.reg(0)]).toEqual([1, 2]);
    m.setReg(6, PAGES | 7);
    run(m, `${CHANGE_PTE} ${flush} ${CALL_RBX_OFTEN} f4`);
    expect(m.reg(0)).toBe(1);
  });

  it('faults if there is none', () => {
    const m = machine();
    m.code('b801000000 c3', PAGES);
    m.setReg(2, PT);
    m.setReg(6, 0);
    run(m, `${CALL_RBX_OFTEN} ${CHANGE_PTE} ${INVLPG_RBX} ${CALL_RBX_OFTEN} f4`);
    expect(m.stoppedAt).toBe(14);
    expect(m.cpu.get(S.CR2)).toBe(LINEAR);
  });
});

describe('an instruction over a page end', () => {
  // mov eax, imm32; ret, of which three bytes of the immediate are on the second page
  const at = LINEAR + 0xffe;
  const crossing = (): TestMachine => {
    const m = machine();
    m.code('b811 223344 c3', PAGES + 0xffe);
    m.setReg(3, at);
    run(m, `${CALL_RBX_OFTEN} f4`);
    expect(m.reg(0)).toBe(0x4433_2211);
    return m;
  };

  it('has the bytes of the second page that is there now', () => {
    const m = crossing();
    m.code('556677 c3', PAGES + 0x5000);
    m.setReg(2, PT + 8);
    m.setReg(6, (PAGES + 0x5000) | 7);
    m.setReg(5, LINEAR + 0x1000);
    run(m, `${CHANGE_PTE} 0f017d00 ${CALL_RBX_OFTEN} f4`);
    expect(m.reg(0)).toBe(0x7766_5511);
  });

  it('has bytes that were written to the second page', () => {
    const m = crossing();
    m.setReg(2, LINEAR + 0x1000);
    m.setReg(6, 0xc3aa_bbcc);
    // mov [rdx], esi
    run(m, `8932 ${CALL_RBX_OFTEN} f4`);
    expect(m.reg(0)).toBe(0xaabb_cc11);
  });

  it('faults at the second page if that is gone', () => {
    const m = crossing();
    m.setReg(2, PT + 8);
    m.setReg(6, 0);
    m.setReg(5, LINEAR + 0x1000);
    run(m, `${CHANGE_PTE} 0f017d00 ${CALL_RBX_OFTEN} f4`);
    expect(m.stoppedAt).toBe(14);
    expect(m.cpu.get(S.CR2)).toBe(LINEAR + 0x1000);
  });
});

it('a page that is run as 64-bit code and as 32-bit code is both', () => {
  const m = machine();
  // 64-bit: inc rax; hlt. 32-bit: dec eax; inc eax; hlt
  m.code('48ffc0 f4', PAGES);
  const start = (selector: number, rights: number): number => {
    m.setSegment(SEG.CS, selector, 0, 0xffff_ffff, rights);
    m.cpu.modeChanged();
    m.setReg(0, 10);
    m.rip = LINEAR;
    m.runOn();
    return m.reg(0);
  };
  for (let i = 0; i < 3; i += 1) {
    expect(start(SEL.CODE64, 0xa09b)).toBe(11);
    expect(start(SEL.CODE32, 0xc09b)).toBe(10);
  }
});

describe('a store to a page that holds code', () => {
  const AT_CODE = 0x100;
  // mov eax, 44332211; ret, and INT3 around it
  const called = (): TestMachine => {
    const m = machine();
    m.fill(PAGES, 4096, 0xcc);
    m.code('b811223344 c3', PAGES + AT_CODE);
    m.setReg(3, LINEAR + AT_CODE);
    return m;
  };
  const STORES: Readonly<Record<number, string>> = { 1: '408832', 2: '668932', 4: '8932', 8: '488932' };
  const places = Object.keys(STORES).flatMap((bytes) =>
    Array.from({ length: Number(bytes) + 8 }, (_, i) => ({
      bytes: Number(bytes),
      place: AT_CODE - Number(bytes) - 1 + i,
    })),
  );

  it.each(places)('changes the code where it overlaps, and only there: $bytes bytes at $place', ({ bytes, place }) => {
    const m = called();
    m.setReg(2, LINEAR + place);
    m.setReg(6, 0xc3c3_c3c3, 0xc3c3_c3c3);
    run(m, `${CALL_RBX_OFTEN} ${STORES[bytes]} ${CALL_RBX_OFTEN} f4`);
    const fresh = called();
    fresh.fill(PAGES + place, bytes, 0xc3);
    fresh.setReg(0, 0x4433_2211);
    run(fresh, `${CALL_RBX_OFTEN} f4`);
    expect([m.reg(0), m.stoppedAt]).toEqual([fresh.reg(0), fresh.stoppedAt]);
    expect(m.engine.code.counters.stale > 0).toBe(place + bytes > AT_CODE && place < AT_CODE + 6);
  });

  it('needs no TypeScript beside the code, and drops it all the same when it comes too often', () => {
    const storing = (times: number): TestMachine => {
      const m = called();
      m.setReg(2, LINEAR + 0x800);
      m.setReg(5, times);
      const write = vi.spyOn(m.cpu, 'write');
      // mov ecx, ebp; and as often: mov [rdx], esi
      run(m, `${CALL_RBX_OFTEN} 89e9 8932 ffc9 75fa ${CALL_RBX_OFTEN} f4`);
      expect(m.reg(0)).toBe(0x4433_2211);
      // Dirty flags, and the last one
      expect(write.mock.calls.length).toBeLessThan(5);
      return m;
    };
    expect(storing(256).engine.code.counters.droppedPages).toBe(0);
    expect(storing(257).engine.code.counters.droppedPages).toBe(1);
  });
});
