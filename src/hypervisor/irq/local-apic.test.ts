import { describe, expect, it } from 'vitest';
import { APIC, APIC_SLOTS, DELIVERY, ESR, LVT, LVT_REGISTERS, SVR } from '../../arch/apic/registers.ts';
import { type Bench, type BenchOptions, bench } from './testbed.ts';

const write = (b: Bench, offset: number, value: number, cpu = 0): void =>
  b.chip.apics[cpu]!.writeMmio(offset, 4, value >>> 0);
const read = (b: Bench, offset: number, cpu = 0): number => b.chip.apics[cpu]!.readMmio(offset, 4);

/** Software-enabled, as every kernel does first. */
function enabled(options: BenchOptions = {}): Bench {
  const b = bench(options);
  for (const apic of b.chip.apics) apic.writeMmio(APIC.SVR, 4, 0x1ff);
  return b;
}

const SELF = 0x0004_0000;

describe('local APIC after reset', () => {
  it('has the state of SDM 3A 10.4.7.1', () => {
    const b = bench({ cpus: 2 });
    expect(read(b, APIC.ID, 1)).toBe(0x0100_0000);
    expect(read(b, APIC.VERSION)).toBe(0x0105_0014);
    expect(read(b, APIC.DFR)).toBe(0xffff_ffff);
    expect(read(b, APIC.SVR)).toBe(0xff);
    for (const name of LVT_REGISTERS) expect(read(b, APIC[name]), name).toBe(LVT.MASKED);
    for (const name of [
      'TPR',
      'PPR',
      'APR',
      'LDR',
      'ESR',
      'ICR',
      'ICR_HIGH',
      'INITIAL_COUNT',
      'CURRENT_COUNT',
    ] as const) {
      expect(read(b, APIC[name]), name).toBe(0);
    }
    for (let word = 0; word < 8; word++) {
      for (const name of ['ISR', 'TMR', 'IRR'] as const) expect(read(b, APIC[name] + word * 16)).toBe(0);
    }
    expect(b.chip.apics[0]!.isBsp).toBe(true);
    expect(b.chip.apics[1]!.isBsp).toBe(false);
    expect(b.chip.apics[0]!.mmioBase).toBe(0xfee0_0000);
  });

  it('keeps its ID and base through INIT, and loses the rest', () => {
    const b = enabled({ cpus: 2 });
    const apic = b.chip.apics[1]!;
    write(b, APIC.ID, 0x7700_0000, 1);
    write(b, APIC.LDR, 0x0200_0000, 1);
    apic.writeMsr(0x1b, 0xfed4_0800, 0);
    apic.accept(0x51, false);
    apic.init();
    expect(read(b, APIC.ID, 1)).toBe(0x7700_0000);
    expect(apic.mmioBase).toBe(0xfed4_0000);
    expect(read(b, APIC.LDR, 1)).toBe(0);
    expect(read(b, APIC.SVR, 1)).toBe(0xff);
    expect(b.chip.hasInterrupt(1)).toBe(false);
    apic.reset();
    expect(read(b, APIC.ID, 1)).toBe(0x0100_0000);
    expect(apic.mmioBase).toBe(0xfee0_0000);
  });
});

describe('local APIC registers through MMIO', () => {
  it.each([
    ['ID', 0xffff_ffff, 0xff00_0000],
    ['TPR', 0xffff_ffff, 0x0000_00ff],
    ['LDR', 0xffff_ffff, 0xff00_0000],
    ['DFR', 0x0000_0000, 0x0fff_ffff],
    ['DFR', 0xffff_ffff, 0xffff_ffff],
    ['SVR', 0xffff_ffff, 0x0000_13ff],
    ['ICR_HIGH', 0xffff_ffff, 0xff00_0000],
    ['LVT_THERMAL', 0xffff_ffff, 0x0001_07ff],
    ['LVT_PERFORMANCE', 0xffff_ffff, 0x0001_07ff],
    ['LVT_LINT0', 0xffff_ffff, 0x0001_a7ff],
    ['LVT_LINT1', 0xffff_ffff, 0x0001_a7ff],
    ['LVT_ERROR', 0xffff_ffff, 0x0001_00ff],
    ['LVT_TIMER', 0xffff_ffff, 0x0007_00ff],
    ['DIVIDE_CONFIG', 0xffff_ffff, 0x0000_000b],
    ['INITIAL_COUNT', 0xffff_ffff, 0xffff_ffff],
    ['VERSION', 0xffff_ffff, 0x0105_0014],
    ['PPR', 0xffff_ffff, 0],
    ['IRR', 0xffff_ffff, 0],
    ['ISR', 0xffff_ffff, 0],
    ['TMR', 0xffff_ffff, 0],
    ['CURRENT_COUNT', 0xffff_ffff, 0],
  ] as const)('%s written with %#x reads its own bits', (name, value, expected) => {
    const b = enabled();
    write(b, APIC[name], value);
    expect(read(b, APIC[name])).toBe(expected);
  });

  it('leaves out TSC-deadline mode and EOI suppression where CPUID does not offer them', () => {
    const b = enabled({ features: { tscDeadline: false, suppressEoiBroadcast: false } });
    write(b, APIC.LVT_TIMER, 0xffff_ffff);
    write(b, APIC.SVR, 0xffff_ffff);
    expect(read(b, APIC.LVT_TIMER)).toBe(0x0003_00ff);
    expect(read(b, APIC.SVR)).toBe(0x3ff);
    expect(read(b, APIC.VERSION)).toBe(0x0005_0014);
  });

  it('answers bytes and words inside a register, and drops narrow or unaligned writes', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    expect(apic.readMmio(APIC.VERSION, 1)).toBe(0x14);
    expect(apic.readMmio(APIC.VERSION + 2, 2)).toBe(0x0105);
    expect(apic.readMmio(APIC.VERSION + 4, 4)).toBe(0);
    expect(apic.readMmio(APIC.VERSION + 2, 4)).toBe(0);
    apic.writeMmio(APIC.TPR, 1, 0x50);
    apic.writeMmio(APIC.TPR + 4, 4, 0x50);
    expect(read(b, APIC.TPR)).toBe(0);
  });

  it('logs an illegal register address, and shows it once ESR is written', () => {
    const b = enabled();
    write(b, APIC.LVT_ERROR, 0xfe);
    read(b, 0x040);
    expect(read(b, APIC.ESR)).toBe(0);
    expect(b.chip.acknowledge(0)).toBe(0xfe);
    write(b, APIC.ESR, 0);
    expect(read(b, APIC.ESR)).toBe(ESR.ILLEGAL_REGISTER);
    write(b, APIC.ESR, 0);
    expect(read(b, APIC.ESR)).toBe(0);
  });

  it('never throws, whatever a guest reads or writes', () => {
    const b = enabled({ cpus: 2 });
    for (let offset = 0; offset < 4096; offset += 4) {
      for (const value of [0, 1, 0xffff_ffff, 0x000c_4500, 0x0000_00f1]) {
        write(b, offset, value);
        expect(read(b, offset)).toBeGreaterThanOrEqual(0);
      }
    }
  });
});

describe('local APIC priorities', () => {
  it('delivers a self-IPI, holds it in service, and ends it with EOI', () => {
    const b = enabled();
    write(b, APIC.ICR, SELF | 0xf1);
    expect(b.wakes[0]).toBeGreaterThan(0);
    expect(read(b, APIC.IRR + 0x70)).toBe(1 << 17);
    expect(b.chip.acknowledge(0)).toBe(0xf1);
    expect(read(b, APIC.IRR + 0x70)).toBe(0);
    expect(read(b, APIC.ISR + 0x70)).toBe(1 << 17);
    expect(read(b, APIC.PPR)).toBe(0xf0);
    write(b, APIC.EOI, 0);
    expect(read(b, APIC.ISR + 0x70)).toBe(0);
    expect(read(b, APIC.PPR)).toBe(0);
    expect(b.chip.acknowledge(0)).toBe(-1);
  });

  it('blocks a request whose class is not above TPR, through TPR and through CR8', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    apic.accept(0x51, false);
    for (const [tpr, open] of [
      [0x4f, true],
      [0x50, false],
      [0xf0, false],
      [0x40, true],
    ] as const) {
      write(b, APIC.TPR, tpr);
      expect(apic.cr8).toBe(tpr >> 4);
      expect(apic.pendingVector()).toBe(open ? 0x51 : -1);
    }
    for (const [cr8, open] of [
      [5, false],
      [4, true],
      [15, false],
      [0, true],
    ] as const) {
      apic.cr8 = cr8;
      expect(read(b, APIC.TPR)).toBe(cr8 << 4);
      expect(apic.pendingVector()).toBe(open ? 0x51 : -1);
    }
  });

  it('nests a higher class and holds an equal one until EOI', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    apic.accept(0x41, false);
    expect(b.chip.acknowledge(0)).toBe(0x41);
    apic.accept(0x4f, false);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    apic.accept(0x50, false);
    expect(b.chip.acknowledge(0)).toBe(0x50);
    write(b, APIC.EOI, 0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    write(b, APIC.EOI, 0);
    expect(b.chip.acknowledge(0)).toBe(0x4f);
  });

  it('keeps one more request of a vector that is in service', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    apic.accept(0x41, false);
    b.chip.acknowledge(0);
    apic.accept(0x41, false);
    apic.accept(0x41, false);
    write(b, APIC.EOI, 0);
    expect(b.chip.acknowledge(0)).toBe(0x41);
    write(b, APIC.EOI, 0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });
});

describe('local APIC errors', () => {
  it('raises the error interrupt once until ESR is written', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    write(b, APIC.LVT_ERROR, 0xfe);
    apic.accept(5, false);
    expect(b.chip.acknowledge(0)).toBe(0xfe);
    write(b, APIC.EOI, 0);
    apic.accept(6, false);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    write(b, APIC.ESR, 0);
    expect(read(b, APIC.ESR)).toBe(ESR.RECEIVE_ILLEGAL_VECTOR);
    apic.accept(7, false);
    expect(b.chip.acknowledge(0)).toBe(0xfe);
  });

  it('logs an illegal vector at the sender and at the receiver', () => {
    const b = enabled({ cpus: 2 });
    write(b, APIC.ICR_HIGH, 0x0100_0000);
    write(b, APIC.ICR, 0x0f);
    write(b, APIC.ESR, 0);
    write(b, APIC.ESR, 0, 1);
    expect(read(b, APIC.ESR)).toBe(ESR.SEND_ILLEGAL_VECTOR);
    expect(read(b, APIC.ESR, 1)).toBe(ESR.RECEIVE_ILLEGAL_VECTOR);
    expect(b.chip.hasInterrupt(1)).toBe(false);
  });

  it('does not call the error entry again for its own illegal vector', () => {
    const b = enabled();
    write(b, APIC.LVT_ERROR, 0x03);
    b.chip.apics[0]!.accept(5, false);
    write(b, APIC.ESR, 0);
    expect(read(b, APIC.ESR)).toBe(ESR.RECEIVE_ILLEGAL_VECTOR);
  });
});

describe('local APIC while software-disabled', () => {
  it('masks every LVT entry and keeps it masked', () => {
    const b = enabled();
    write(b, APIC.LVT_LINT0, 0x700);
    write(b, APIC.SVR, 0xff);
    for (const name of LVT_REGISTERS) {
      expect(read(b, APIC[name]) & LVT.MASKED, name).not.toBe(0);
      write(b, APIC[name], 0x20);
      expect(read(b, APIC[name]), name).toBe(LVT.MASKED | 0x20);
    }
  });

  it('takes no fixed interrupts, but NMI, INIT and start-up', () => {
    const b = enabled({ cpus: 2 });
    write(b, APIC.SVR, 0xff, 1);
    write(b, APIC.ICR_HIGH, 0x0100_0000);
    write(b, APIC.ICR, 0x51);
    expect(b.chip.hasInterrupt(1)).toBe(false);
    write(b, APIC.ICR, 0x400);
    write(b, APIC.ICR, 0x4500);
    write(b, APIC.ICR, 0x69f);
    expect(b.events).toEqual(['nmi 1', 'init 1', 'startup 1 0x9f']);
  });

  it('still holds what was requested before', () => {
    const b = enabled();
    b.chip.apics[0]!.accept(0x51, false);
    write(b, APIC.SVR, 0xff);
    expect(b.chip.acknowledge(0)).toBe(0x51);
  });
});

describe('local interrupts', () => {
  it('masks LVT_PERFORMANCE when it delivers, as an NMI if so programmed', () => {
    const b = enabled();
    write(b, APIC.LVT_PERFORMANCE, DELIVERY.NMI << 8);
    b.chip.apics[0]!.raisePerformance();
    b.chip.apics[0]!.raisePerformance();
    expect(b.events).toEqual(['nmi 0']);
    expect(read(b, APIC.LVT_PERFORMANCE)).toBe(LVT.MASKED | 0x400);
  });

  it('delivers thermal interrupts as fixed ones', () => {
    const b = enabled();
    b.chip.apics[0]!.raiseThermal();
    expect(b.chip.hasInterrupt(0)).toBe(false);
    write(b, APIC.LVT_THERMAL, 0xfa);
    b.chip.apics[0]!.raiseThermal();
    expect(b.chip.acknowledge(0)).toBe(0xfa);
  });

  it('takes NMI through LINT1 on its rising edge, on the processors that allow it', () => {
    const b = enabled({ cpus: 2 });
    write(b, APIC.LVT_LINT1, 0x400);
    b.chip.setNmi(true);
    b.chip.setNmi(true);
    b.chip.setNmi(false);
    b.chip.setNmi(true);
    expect(b.events).toEqual(['nmi 0', 'nmi 0']);
  });

  it('takes no NMI while port 70H masks it, and one when the mask goes and the line is still asserted', () => {
    const b = enabled();
    write(b, APIC.LVT_LINT1, 0x400);
    b.chip.maskNmi(true);
    b.chip.setNmi(true);
    b.chip.setNmi(false);
    expect(b.events).toEqual([]);
    b.chip.setNmi(true);
    b.chip.maskNmi(false);
    b.chip.maskNmi(false);
    expect(b.events).toEqual(['nmi 0']);
  });

  it('repeats a level LINT0 while it is asserted, once per EOI', () => {
    const b = enabled();
    const apic = b.chip.apics[0]!;
    write(b, APIC.LVT_LINT0, LVT.LEVEL | 0x61);
    apic.setLint(0, true);
    expect(read(b, APIC.LVT_LINT0)).toBe(LVT.LEVEL | LVT.REMOTE_IRR | 0x61);
    apic.setLint(0, false);
    write(b, APIC.LVT_LINT0, LVT.LEVEL | 0x61); // Remote IRR is read-only
    expect(read(b, APIC.LVT_LINT0)).toBe(LVT.LEVEL | LVT.REMOTE_IRR | 0x61);
    apic.setLint(0, true);
    expect(b.chip.acknowledge(0)).toBe(0x61);
    write(b, APIC.EOI, 0);
    expect(b.chip.acknowledge(0)).toBe(0x61);
    apic.setLint(0, false);
    write(b, APIC.EOI, 0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(read(b, APIC.LVT_LINT0)).toBe(LVT.LEVEL | 0x61);
  });
});

describe('x2APIC mode', () => {
  function x2apic(options: BenchOptions = {}): Bench {
    const b = enabled(options);
    for (const apic of b.chip.apics) {
      apic.readMsr(0x1b);
      expect(apic.writeMsr(0x1b, apic.msrLo | 0x400, 0)).toBe(true);
    }
    return b;
  }
  const msr = (b: Bench, index: number, cpu = 0): number | '#GP' => {
    const apic = b.chip.apics[cpu]!;
    return apic.readMsr(index) ? apic.msrLo : '#GP';
  };

  it('allows exactly the accesses of SDM 3A Table 10-6', () => {
    for (let index = 0x800; index <= 0x8ff; index++) {
      const b = x2apic();
      const slot = APIC_SLOTS[index - 0x800];
      const access = slot?.x2apic ?? '-';
      expect(msr(b, index) !== '#GP', `read ${index.toString(16)}`).toBe(access.includes('r'));
      expect(b.chip.apics[0]!.writeMsr(index, 0, 0), `write ${index.toString(16)}`).toBe(access.includes('w'));
    }
  });

  it('raises #GP for every reserved bit, and for none that exists', () => {
    const allowed: Record<number, number> = {
      2056: 0xff,
      2059: 0,
      2063: 0x13ff,
      2088: 0,
      2096: 0x000c_dfff,
      2098: 0x0007_10ff,
      2099: 0x0001_17ff,
      2100: 0x0001_17ff,
      2101: 0x0001_f7ff,
      2102: 0x0001_f7ff,
      2103: 0x0001_10ff,
      2104: 0xffff_ffff,
      2110: 0xb,
      2111: 0xff,
    };
    for (const [index, mask] of Object.entries(allowed)) {
      for (let bit = 0; bit < 64; bit++) {
        const b = x2apic();
        const lo = bit < 32 ? (1 << bit) >>> 0 : 0;
        const hi = bit < 32 ? 0 : (1 << (bit - 32)) >>> 0;
        const legal = bit < 32 ? (mask & lo) !== 0 : Number(index) === 0x830;
        expect(b.chip.apics[0]!.writeMsr(Number(index), lo, hi), `${Number(index).toString(16)} bit ${bit}`).toBe(
          legal,
        );
      }
    }
  });

  it('has no MSRs in xAPIC mode and no page in x2APIC mode', () => {
    const xapic = enabled();
    expect(msr(xapic, 0x803)).toBe('#GP');
    expect(xapic.chip.apics[0]!.writeMsr(0x80b, 0, 0)).toBe(false);
    const b = x2apic();
    expect(b.chip.apics[0]!.mmioBase).toBe(-1);
    write(b, APIC.TPR, 0x20);
    expect(read(b, APIC.TPR)).toBe(0xffff_ffff);
    expect(msr(b, 0x808)).toBe(0);
  });

  it('has the 32-bit ID and the logical ID that follows from it, whatever the xAPIC ID was', () => {
    const b = enabled({ cpus: 2, apicIds: [0, 0x123] });
    write(b, APIC.ID, 0x5500_0000, 1);
    write(b, APIC.LDR, 0x0200_0000, 1);
    b.chip.apics[1]!.writeMsr(0x1b, 0xfee0_0c00, 0);
    expect(msr(b, 0x802, 1)).toBe(0x123);
    expect(msr(b, 0x80d, 1)).toBe(0x0012_0008);
    b.chip.apics[1]!.init();
    expect(msr(b, 0x802, 1)).toBe(0x123);
    expect(msr(b, 0x80d, 1)).toBe(0x0012_0008);
  });

  it('keeps requests and TPR when it is entered from xAPIC mode', () => {
    const b = enabled();
    write(b, APIC.TPR, 0x20);
    b.chip.apics[0]!.accept(0x51, false);
    b.chip.apics[0]!.writeMsr(0x1b, 0xfee0_0d00, 0);
    expect(msr(b, 0x808)).toBe(0x20);
    expect(b.chip.acknowledge(0)).toBe(0x51);
  });

  it('sends itself a vector through SELF IPI', () => {
    const b = x2apic({ cpus: 2 });
    expect(b.chip.apics[1]!.writeMsr(0x83f, 0xf1, 0)).toBe(true);
    expect(b.chip.acknowledge(1)).toBe(0xf1);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('reads ICR back as 64 bits, with delivery status clear', () => {
    const b = x2apic();
    expect(b.chip.apics[0]!.writeMsr(0x830, 0x10f1, 0x1234_5678)).toBe(true);
    expect(msr(b, 0x830)).toBe(0xf1);
    expect(b.chip.apics[0]!.msrHi).toBe(0x1234_5678);
  });
});

describe('IA32_APIC_BASE', () => {
  const EN = 0x800;
  const X2 = 0xc00;
  const INVALID = 0x400;

  /** SDM 3A Figure 10-27. Rows: from; columns: to. */
  const LEGAL: Record<number, readonly number[]> = { 0: [0, EN], [EN]: [0, EN, X2], [X2]: [0, X2] };

  it('moves between modes only as SDM 3A Figure 10-27 draws', () => {
    for (const from of [0, EN, X2]) {
      for (const to of [0, EN, X2, INVALID]) {
        const apic = bench().chip.apics[0]!;
        if (from === 0) apic.writeMsr(0x1b, 0xfee0_0100, 0);
        if (from === X2) apic.writeMsr(0x1b, 0xfee0_0d00, 0);
        const legal = LEGAL[from]!.includes(to);
        expect(apic.writeMsr(0x1b, (0xfee0_0100 | to) >>> 0, 0), `${from.toString(16)} to ${to.toString(16)}`).toBe(
          legal,
        );
        apic.readMsr(0x1b);
        expect(apic.msrLo & X2).toBe(legal ? to : from);
      }
    }
  });

  it('raises #GP for reserved bits and for addresses beyond the physical width', () => {
    const apic = bench({ features: { physicalAddressBits: 40 } }).chip.apics[0]!;
    for (const bit of [0, 1, 2, 3, 4, 5, 6, 7, 9]) {
      expect(apic.writeMsr(0x1b, (0xfee0_0900 | (1 << bit)) >>> 0, 0), `bit ${bit}`).toBe(false);
    }
    expect(apic.writeMsr(0x1b, 0xfee0_0900, 0x100)).toBe(false);
    expect(apic.writeMsr(0x1b, 0xfee0_0900, 0xff)).toBe(true);
    expect(apic.mmioBase).toBe(0xff_fee0_0000);
    const without = bench({ features: { x2apic: false } }).chip.apics[0]!;
    expect(without.writeMsr(0x1b, 0xfee0_0d00, 0)).toBe(false);
  });

  it('silences the page while disabled, keeps CR8, and comes back as after reset', () => {
    const b = enabled({ cpus: 2 });
    const apic = b.chip.apics[1]!;
    write(b, APIC.ID, 0x0900_0000, 1);
    write(b, APIC.LDR, 0x0400_0000, 1);
    apic.cr8 = 3;
    apic.writeMsr(0x1b, 0xfee0_0000, 0);
    expect(apic.isEnabled).toBe(false);
    for (let offset = 0; offset < 4096; offset += 4) write(b, offset, 0xffff_ffff, 1);
    expect(read(b, APIC.VERSION, 1)).toBe(0xffff_ffff);
    expect(apic.cr8).toBe(3);
    apic.cr8 = 12;
    expect(apic.cr8).toBe(12);
    apic.writeMsr(0x1b, 0xfee0_0800, 0);
    expect(read(b, APIC.TPR, 1)).toBe(0xc0);
    expect(read(b, APIC.ID, 1)).toBe(0x0100_0000);
    expect(read(b, APIC.LDR, 1)).toBe(0);
    expect(read(b, APIC.SVR, 1)).toBe(0xff);
  });

  it('makes the LINT pins NMI and INTR again while disabled', () => {
    const b = bench();
    b.chip.apics[0]!.writeMsr(0x1b, 0xfee0_0100, 0);
    b.chip.setNmi(true);
    expect(b.events).toEqual(['nmi 0']);
    expect(b.chip.apics[0]!.acceptsExternal()).toBe(true);
  });
});

describe('EOI broadcast', () => {
  it('does not follow the EOI of an edge, even of the vector of a level entry', () => {
    const b = enabled({ cpus: 2 });
    b.chip.ioApic.writeMmio(0, 4, 0x10 + 2 * 14);
    b.chip.ioApic.writeMmio(0x10, 4, 0x8077);
    const line = b.chip.line(14);
    line.set(true);
    line.set(false);
    write(b, APIC.ICR_HIGH, 0x0100_0000);
    write(b, APIC.ICR, 0x77);
    expect(b.chip.acknowledge(1)).toBe(0x77);
    write(b, APIC.EOI, 0, 1);
    expect(b.chip.ioApic.entryLow(14) & 0x4000).toBe(0x4000);
  });

  it('ends the level interrupt of the I/O APIC, unless SVR bit 12 suppresses it', () => {
    for (const suppress of [false, true]) {
      const b = enabled();
      if (suppress) write(b, APIC.SVR, 0x1ff | SVR.SUPPRESS_EOI_BROADCAST);
      b.chip.ioApic.writeMmio(0, 4, 0x10 + 2 * 14);
      b.chip.ioApic.writeMmio(0x10, 4, 0x8077);
      const line = b.chip.line(14);
      line.set(true);
      expect(b.chip.acknowledge(0)).toBe(0x77);
      line.set(false);
      write(b, APIC.EOI, 0);
      expect(b.chip.ioApic.entryLow(14) & 0x4000).toBe(suppress ? 0x4000 : 0);
      b.chip.ioApic.writeMmio(0x40, 4, 0x77); // directed EOI
      expect(b.chip.ioApic.entryLow(14) & 0x4000).toBe(0);
    }
  });
});
