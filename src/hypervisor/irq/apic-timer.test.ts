import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { APIC, divisorOf } from '../../arch/apic/registers.ts';
import { type Bench, type BenchOptions, bench } from './testbed.ts';

const write = (b: Bench, offset: number, value: number): void => b.chip.apics[0]!.writeMmio(offset, 4, value >>> 0);
const read = (b: Bench, offset: number): number => b.chip.apics[0]!.readMmio(offset, 4);

const ONE_SHOT = 0xee;
const PERIODIC = 0x2_00ee;
const DEADLINE = 0x4_00ee;
const MASKED = 0x1_0000;
const BY_1 = 0xb;

function timer(lvt: number, divide = BY_1, options: BenchOptions = {}): Bench {
  const b = bench(options);
  write(b, APIC.SVR, 0x1ff);
  write(b, APIC.LVT_TIMER, lvt);
  write(b, APIC.DIVIDE_CONFIG, divide);
  return b;
}

/** How many timer interrupts wait or are taken until `ns`, each ended at once. */
function expiriesUntil(b: Bench, ns: number, stepNs: number): number {
  let count = 0;
  while (b.clock.now < ns) {
    b.clock.to(Math.min(ns, b.clock.now + stepNs));
    while (b.chip.acknowledge(0) >= 0) {
      count++;
      write(b, APIC.EOI, 0);
    }
  }
  return count;
}

describe('APIC timer in one-shot mode', () => {
  it('expires after exactly count × divisor bus clocks, and stays at 0', () => {
    for (const config of [0, 1, 2, 3, 8, 9, 10, 11]) {
      const b = timer(ONE_SHOT, config);
      b.clock.to(12_345);
      write(b, APIC.INITIAL_COUNT, 1000);
      const expiry = 12_345 + 1000 * divisorOf(config);
      b.clock.to(expiry - 1);
      expect(read(b, APIC.CURRENT_COUNT)).toBe(1);
      expect(b.chip.hasInterrupt(0)).toBe(false);
      b.clock.to(expiry);
      expect(read(b, APIC.CURRENT_COUNT)).toBe(0);
      expect(b.chip.acknowledge(0)).toBe(0xee);
      write(b, APIC.EOI, 0);
      b.clock.to(expiry * 3);
      expect(b.chip.hasInterrupt(0)).toBe(false);
      expect(read(b, APIC.INITIAL_COUNT)).toBe(1000);
    }
  });

  it('counts down once per divided clock', () => {
    const b = timer(ONE_SHOT, 3); // by 16
    write(b, APIC.INITIAL_COUNT, 10);
    const seen = [];
    for (const ns of [0, 15, 16, 31, 32, 159, 160]) {
      b.clock.to(ns);
      seen.push(read(b, APIC.CURRENT_COUNT));
    }
    expect(seen).toEqual([10, 10, 9, 9, 8, 1, 0]);
  });

  it('starts anew with each write, and stops with 0', () => {
    const b = timer(ONE_SHOT);
    write(b, APIC.INITIAL_COUNT, 100);
    b.clock.to(50);
    write(b, APIC.INITIAL_COUNT, 100);
    b.clock.to(149);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    write(b, APIC.INITIAL_COUNT, 0);
    b.clock.to(1000);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(b.clock.armed).toBe(0);
  });

  it('counts while masked, wakes no one, and is delivered if it is unmasked in time', () => {
    const b = timer(ONE_SHOT | MASKED);
    write(b, APIC.INITIAL_COUNT, 100);
    expect(b.clock.armed).toBe(0);
    b.clock.to(60);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(40);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    b.clock.to(100);
    expect(b.chip.acknowledge(0)).toBe(0xee);

    write(b, APIC.EOI, 0);
    write(b, APIC.LVT_TIMER, ONE_SHOT | MASKED);
    write(b, APIC.INITIAL_COUNT, 100);
    b.clock.to(300);
    write(b, APIC.LVT_TIMER, ONE_SHOT); // too late: the expiry found it masked
    b.clock.to(1000);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('keeps the remaining count when the divisor changes', () => {
    const b = timer(ONE_SHOT);
    write(b, APIC.INITIAL_COUNT, 100);
    b.clock.to(40);
    write(b, APIC.DIVIDE_CONFIG, 0); // by 2
    expect(read(b, APIC.CURRENT_COUNT)).toBe(60);
    b.clock.to(40 + 119);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    b.clock.to(40 + 120);
    expect(b.chip.hasInterrupt(0)).toBe(true);
  });

  it('holds the largest count at the largest divisor', () => {
    const b = timer(ONE_SHOT, 10); // by 128
    write(b, APIC.INITIAL_COUNT, 0xffff_ffff);
    b.clock.to(0xffff_ffff * 128 - 1);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(1);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    b.clock.to(0xffff_ffff * 128);
    expect(b.chip.hasInterrupt(0)).toBe(true);
  });
});

describe('APIC timer in periodic mode', () => {
  it('expires at every multiple of its period, without drift', () => {
    const b = timer(PERIODIC, 0); // by 2
    write(b, APIC.INITIAL_COUNT, 500);
    expect(expiriesUntil(b, 1_000_500, 250)).toBe(1000);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(250);
  });

  it('makes one interrupt of the periods that a late run loop missed, and keeps its phase', () => {
    const b = timer(PERIODIC);
    write(b, APIC.INITIAL_COUNT, 1000);
    b.clock.jump(5_300);
    expect(b.chip.acknowledge(0)).toBe(0xee);
    write(b, APIC.EOI, 0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(700);
    b.clock.to(5_999);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    b.clock.to(6_000);
    expect(b.chip.hasInterrupt(0)).toBe(true);
  });

  it('stops at the end of the running period when it becomes one-shot, and the reverse', () => {
    // The sequence of kvm-unit-tests' "apic change mode", at exact times.
    const b = timer(PERIODIC);
    write(b, APIC.INITIAL_COUNT, 1000);
    b.clock.to(1600);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(400);
    b.clock.to(2000);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(0);
    write(b, APIC.LVT_TIMER, PERIODIC);
    b.clock.to(5000);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(0); // an expired count does not start again by itself

    write(b, APIC.LVT_TIMER, ONE_SHOT);
    write(b, APIC.INITIAL_COUNT, 1000);
    b.clock.to(5600);
    write(b, APIC.LVT_TIMER, PERIODIC);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(400);
    b.clock.to(6001);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(999);
  });

  it('keeps time at a bus frequency that is no divisor of 1 GHz', () => {
    const b = timer(PERIODIC, BY_1, { busHertz: 24_000_000 });
    write(b, APIC.INITIAL_COUNT, 24_000); // 1 ms
    expect(expiriesUntil(b, 1_000_000_000, 999_983)).toBe(1000);
  });
});

describe('APIC timer in TSC-deadline mode', () => {
  const MSR = 0x6e0;
  const deadline = (b: Bench): number => {
    b.chip.apics[0]!.readMsr(MSR);
    return b.chip.apics[0]!.msrHi * 2 ** 32 + b.chip.apics[0]!.msrLo;
  };

  it('expires when the counter reaches the deadline, and clears the MSR', () => {
    const b = timer(DEADLINE);
    b.clock.to(1000);
    expect(b.chip.apics[0]!.writeMsr(MSR, 5000, 0)).toBe(true);
    expect(deadline(b)).toBe(5000);
    b.clock.to(4999);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    b.clock.to(5000);
    expect(b.chip.acknowledge(0)).toBe(0xee);
    expect(deadline(b)).toBe(0);
  });

  it('expires within the write if the deadline has passed', () => {
    const b = timer(DEADLINE);
    b.clock.to(1000);
    b.chip.apics[0]!.writeMsr(MSR, 1000, 0);
    expect(b.chip.acknowledge(0)).toBe(0xee);
    expect(deadline(b)).toBe(0);
  });

  it('is disarmed by a write of 0', () => {
    const b = timer(DEADLINE);
    b.chip.apics[0]!.writeMsr(MSR, 5000, 0);
    b.chip.apics[0]!.writeMsr(MSR, 0, 0);
    b.clock.to(10_000);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('ignores INITIAL_COUNT, and the other modes ignore the MSR', () => {
    const b = timer(DEADLINE);
    write(b, APIC.INITIAL_COUNT, 1000);
    expect(read(b, APIC.INITIAL_COUNT)).toBe(0);
    expect(read(b, APIC.CURRENT_COUNT)).toBe(0);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    b.chip.apics[0]!.writeMsr(MSR, 5000, 0);
    expect(deadline(b)).toBe(0);
    b.clock.to(10_000);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('is disarmed by leaving the mode, as a count is by entering it', () => {
    const b = timer(DEADLINE);
    b.chip.apics[0]!.writeMsr(MSR, 5000, 0);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    write(b, APIC.LVT_TIMER, DEADLINE);
    expect(deadline(b)).toBe(0);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    write(b, APIC.INITIAL_COUNT, 100);
    write(b, APIC.LVT_TIMER, DEADLINE);
    write(b, APIC.LVT_TIMER, ONE_SHOT);
    b.clock.to(10_000);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('clears the MSR at a deadline that finds the entry masked, and interrupts no one', () => {
    const b = timer(DEADLINE | MASKED);
    b.chip.apics[0]!.writeMsr(MSR, 5000, 0);
    b.clock.to(6000);
    expect(deadline(b)).toBe(0);
    expect(b.chip.hasInterrupt(0)).toBe(false);
  });

  it('follows the counter when the guest writes it', () => {
    const b = timer(DEADLINE);
    b.clock.to(1000);
    b.chip.apics[0]!.writeMsr(MSR, 50_000, 0);
    b.tsc[0]!.write(49_000, 0);
    b.chip.apics[0]!.tscChanged();
    b.clock.to(1999);
    expect(b.chip.hasInterrupt(0)).toBe(false);
    b.clock.to(2000);
    expect(b.chip.hasInterrupt(0)).toBe(true);
  });

  it('is #GP where CPUID does not offer it', () => {
    const apic = bench({ features: { tscDeadline: false } }).chip.apics[0]!;
    expect(apic.readMsr(MSR)).toBe(false);
    expect(apic.writeMsr(MSR, 1, 0)).toBe(false);
  });
});

describe('virtual TSC', () => {
  it('agrees with 64-bit arithmetic, before and after writes', () => {
    const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 45 }),
        u64,
        fc.integer({ min: 0, max: 2 ** 45 }),
        (at, value, later) => {
          const { clock, tsc } = bench();
          clock.now = at;
          tsc[0]!.write(Number(value & 0xffff_ffffn), Number(value >> 32n));
          clock.now = at + later;
          tsc[0]!.read();
          const expected = BigInt.asUintN(64, value + BigInt(later));
          expect((BigInt(tsc[0]!.hi) << 32n) | BigInt(tsc[0]!.lo)).toBe(expected);
        },
      ),
    );
  });

  it('names the first ns at which a value is reached', () => {
    const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 40 }),
        u32,
        u32,
        fc.integer({ min: -100, max: 2 ** 40 }),
        (at, lo, hi, ahead) => {
          const { clock, tsc } = bench();
          const counter = tsc[0]!;
          clock.now = at;
          counter.write(lo, hi);
          const start = (BigInt(hi) << 32n) | BigInt(lo);
          const target = start + BigInt(ahead);
          fc.pre(target >= 0n && target < 1n << 64n);
          const ns = counter.reachedAtNs(Number(target & 0xffff_ffffn), Number(target >> 32n));
          expect(ns).toBe(at + Math.max(ahead, 0));
        },
      ),
    );
  });

  it('says -1 of what lies beyond 2^53 ns', () => {
    const { tsc } = bench();
    expect(tsc[0]!.reachedAtNs(0xffff_ffff, 0xffff_ffff)).toBe(-1);
  });
});
