import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PIT_HERTZ, Pit } from './pit.ts';
import { PitCounter } from './pit-counter.ts';
import { BenchClock } from './testbed.ts';
import { TickScale } from './ticks.ts';

/**
 * The 82C54 clock by clock, from the data sheet's prose and independent of `PitCounter`: the state is what the chip
 * has (CR, CE, OUT), and `clock()` is one CLK pulse. Gate and writes come between pulses.
 */
class ReferenceCounter {
  ce = 0;
  out: boolean;
  gate = true;
  #count = 0;
  #loaded = false;
  /** CR has a count that goes to CE at the next pulse. */
  #transfer = false;
  #written = false;
  #trigger = false;
  #strobed = false;
  #oddPause = false;
  readonly mode: number;

  constructor(mode: number) {
    this.mode = mode;
    this.out = mode !== 0;
  }

  write(count: number): void {
    this.#count = count === 0 ? 65_536 : count;
    this.#written = true;
    if (this.mode === 0) {
      this.out = false;
      this.#transfer = true;
    } else if (this.mode === 4) {
      this.out = true; // a new count ends a strobe: the data sheet leaves open when
      this.#transfer = true;
    } else if ((this.mode === 2 || this.mode === 3) && !this.#loaded && this.gate) {
      this.#transfer = true;
    }
  }

  setGate(level: boolean): void {
    if (level && !this.gate) this.#trigger = true;
    if (!level && (this.mode === 2 || this.mode === 3)) {
      this.out = true;
      this.#loaded = false;
      this.#transfer = false;
      this.#trigger = false;
    }
    this.gate = level;
  }

  clock(): void {
    const triggered = this.#trigger && this.#written;
    this.#trigger = false;
    switch (this.mode) {
      case 0:
        if (this.#transfer) this.#load();
        else if (this.#loaded && this.gate) {
          this.#decrement();
          if (this.ce === 0) this.out = true;
        }
        return;
      case 1:
        if (triggered) {
          this.#load();
          this.out = false;
        } else if (this.#loaded) {
          this.#decrement();
          if (this.ce === 0) this.out = true;
        }
        return;
      case 2:
        if (this.#transfer || triggered) this.#load();
        else if (this.#loaded && this.gate) {
          if (this.ce === 1) {
            this.#load();
            this.out = true;
          } else {
            this.ce -= 1;
            if (this.ce === 1) this.out = false;
          }
        }
        return;
      case 3:
        if (this.#transfer || triggered) this.#loadEven();
        else if (this.#loaded && this.gate) this.#square();
        return;
      case 4:
        if (this.#transfer) {
          this.#load();
          this.#strobed = false;
          this.out = true;
        } else if (this.#loaded && this.gate) {
          this.#strobe();
        }
        return;
      case 5:
        if (triggered) {
          this.#load();
          this.#strobed = false;
          this.out = true;
        } else if (this.#loaded) {
          this.#strobe();
        }
    }
  }

  #load(): void {
    this.ce = this.#count;
    this.#loaded = true;
    this.#transfer = false;
  }

  /** "The initial count minus one (an even number) is loaded" if it is odd. */
  #loadEven(): void {
    this.#load();
    this.ce -= this.#count % 2;
    this.#oddPause = this.#count % 2 === 1 && this.out;
  }

  #square(): void {
    if (this.ce > 2 || (this.ce === 2 && this.#oddPause)) {
      this.ce -= 2;
      return;
    }
    this.out = !this.out;
    this.#loadEven();
  }

  #strobe(): void {
    this.#decrement();
    this.out = !(this.ce === 0 && !this.#strobed);
    if (this.ce === 0) this.#strobed = true;
  }

  #decrement(): void {
    this.ce = this.ce === 0 ? 0xffff : this.ce - 1;
  }
}

type Step = { do: 'run'; ticks: number } | { do: 'write'; count: number } | { do: 'gate'; level: boolean };

const step = (smallest: number, gate: boolean): fc.Arbitrary<Step> =>
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('run' as const), ticks: fc.integer({ min: 1, max: 60 }) }) },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant('write' as const), count: fc.integer({ min: smallest, max: 40 }) }),
    },
    ...(gate ? [{ weight: 1, arbitrary: fc.record({ do: fc.constant('gate' as const), level: fc.boolean() }) }] : []),
  );

/** `expect` on each of a million clocks would be most of the test's time. */
function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected) expect(actual, what).toBe(expected);
}

describe('8254 counter', () => {
  for (const mode of [0, 1, 2, 3, 4, 5]) {
    it(`has the OUT and the count of a clock-by-clock 82C54 in mode ${mode}`, () => {
      const smallest = mode === 2 || mode === 3 ? 2 : 1;
      fc.assert(
        fc.property(
          fc.array(step(smallest, true), { maxLength: 12 }),
          fc.integer({ min: smallest, max: 40 }),
          (steps, first) => {
            const counter = new PitCounter();
            counter.program(mode, false);
            const reference = new ReferenceCounter(mode);
            let now = 1000;
            let changed = counter.nextChange(now);
            const all: Step[] = [
              { do: 'write', count: first },
              { do: 'run', ticks: 5 },
              ...steps,
              { do: 'run', ticks: 100 },
            ];
            for (const s of all) {
              if (s.do === 'write') {
                counter.load(s.count, now);
                reference.write(s.count);
              } else if (s.do === 'gate') {
                counter.setGate(s.level, now);
                reference.setGate(s.level);
              }
              if (s.do !== 'run') {
                // The chip acts at the next pulse: two commands without a pulse between them are not compared.
                changed = counter.nextChange(now);
                const before = reference.out;
                now++;
                reference.clock();
                same(counter.output(now), reference.out, `OUT at ${now} after ${s.do}`);
                if (before !== reference.out) same(changed, now, `change after ${s.do}`);
                continue;
              }
              for (let i = 0; i < s.ticks; i++) {
                const before = reference.out;
                const predicted = counter.nextChange(now);
                now++;
                reference.clock();
                same(counter.output(now), reference.out, `OUT at ${now}`);
                if (before !== reference.out) same(predicted, now, `change at ${now}`);
                if (!counter.isNull(now)) same(counter.value(now), reference.ce % 65_536, `count at ${now}`);
              }
            }
          },
        ),
        { numRuns: 400 },
      );
    });
  }
});

const CONTROL = 3;

interface Board {
  clock: BenchClock;
  pit: Pit;
  /** Rising edges of IRQ0, in ns. */
  edges: number[];
  level: boolean;
}

function board(): Board {
  const clock = new BenchClock();
  const b: Board = { clock, edges: [], level: false, pit: undefined as unknown as Pit };
  b.pit = new Pit({
    clock,
    irq0: {
      set(level) {
        if (level && !b.level) b.edges.push(clock.now);
        b.level = level;
      },
    },
  });
  return b;
}
const scale = new TickScale(PIT_HERTZ);
const out = (b: Board, port: number, ...bytes: number[]): void => {
  for (const byte of bytes) b.pit.writePort(port, 1, byte);
};
const count = (b: Board, port: number): number => b.pit.readPort(port, 1) | (b.pit.readPort(port, 1) << 8);

describe('8254 counter 0', () => {
  it('ticks at HZ=1000 as Linux programs it, without drift over an hour', () => {
    const b = board();
    const latch = 1193;
    out(b, CONTROL, 0x34);
    out(b, 0, latch & 0xff, latch >> 8);
    const edges = b.edges.length;
    b.clock.jump(3_600_000_000_000 - 10_000_000);
    const start = b.edges.length;
    b.clock.to(3_600_000_000_000);
    expect(start - edges).toBe(1); // one edge for the hour that a run loop slept through
    const all = b.edges.slice(start);
    expect(all.length).toBeGreaterThan(8);
    for (const ns of all) expect(scale.nsAt(scale.ticksAt(ns))).toBe(ns);
    for (const ns of all) expect((scale.ticksAt(ns) - 1) % latch).toBe(0); // loaded by tick 1
  });

  it('has the rate that its count says', () => {
    for (const [mode, latch] of [
      [2, 11932],
      [3, 11932],
      [3, 11931],
      [2, 65_536],
      [3, 65_536],
    ] as const) {
      const b = board();
      out(b, CONTROL, 0x30 | (mode << 1));
      out(b, 0, latch & 0xff, (latch >> 8) & 0xff);
      b.edges.length = 0;
      b.clock.to(1_000_000_000);
      expect(b.edges.length).toBe(Math.floor((PIT_HERTZ - 1) / latch));
      const second = b.edges[1]! - b.edges[0]!;
      expect(Math.abs(second - (latch * 1e9) / PIT_HERTZ)).toBeLessThan(2);
    }
  });

  it('interrupts once in mode 0, N + 1 ticks after the write', () => {
    const b = board();
    out(b, CONTROL, 0x30);
    out(b, 0, 100, 0);
    b.clock.to(1_000_000_000);
    expect(b.edges).toEqual([scale.nsAt(101)]);
    out(b, 0, 100); // the first byte of a new count takes OUT down
    expect(b.level).toBe(false);
    b.clock.to(2_000_000_000);
    expect(b.edges).toHaveLength(1);
    out(b, 0, 0);
    b.clock.to(3_000_000_000);
    expect(b.edges).toHaveLength(2);
  });

  it('stops when a control word comes', () => {
    const b = board();
    out(b, CONTROL, 0x34);
    out(b, 0, 0, 16);
    b.clock.to(10_000_000);
    out(b, CONTROL, 0x30); // how Linux shuts the PIT down: mode 0, then a count of 0
    b.edges.length = 0;
    b.clock.to(1_000_000_000);
    expect(b.edges).toEqual([]);
    expect(b.level).toBe(false);
  });
});

describe('8254 latches', () => {
  const running = (control: number, latch = 50_000): Board => {
    const b = board();
    out(b, CONTROL, control);
    if ((control & 0x30) !== 0x20) out(b, 0, latch & 0xff);
    if ((control & 0x30) !== 0x10) out(b, 0, latch >> 8);
    return b;
  };
  const tick = (b: Board, ticks: number): void => b.clock.to(scale.nsAt(ticks));

  it('freeze a count until both bytes are read, and ignore a second latch before that', () => {
    const b = running(0x34);
    tick(b, 1001);
    out(b, CONTROL, 0x00);
    tick(b, 2001);
    out(b, CONTROL, 0x00);
    expect(count(b, 0)).toBe(49_000);
    expect(count(b, 0)).toBe(48_000);
  });

  it('read low and high byte in turn, or one of them alone', () => {
    const lsb = running(0x14, 200);
    tick(lsb, 51);
    expect([lsb.pit.readPort(0, 1), lsb.pit.readPort(0, 1)]).toEqual([150, 150]);
    const msb = running(0x24, 0x8000);
    tick(msb, 1 + 0x100);
    expect([msb.pit.readPort(0, 1), msb.pit.readPort(0, 1)]).toEqual([0x7f, 0x7f]);
  });

  it('answer a read-back with status first, then the count', () => {
    const b = running(0x34);
    tick(b, 1001);
    out(b, CONTROL, 0xc2); // count and status of counter 0
    tick(b, 3001);
    expect(b.pit.readPort(0, 1)).toBe(0xb4); // OUT high, loaded, both bytes, mode 2
    expect(count(b, 0)).toBe(49_000);
    expect(count(b, 0)).toBe(47_000);
  });

  it('show the null count until the clock has loaded it', () => {
    const b = board();
    out(b, CONTROL, 0x34, 0xe2);
    expect(b.pit.readPort(0, 1) & 0x40).toBe(0x40);
    out(b, 0, 0, 0);
    out(b, CONTROL, 0xe2);
    expect(b.pit.readPort(0, 1) & 0x40).toBe(0x40);
    tick(b, 1);
    out(b, CONTROL, 0xe2);
    expect(b.pit.readPort(0, 1)).toBe(0xb4);
    out(b, 0, 0, 0x80); // a new count waits for the end of the period
    out(b, CONTROL, 0xe2);
    expect(b.pit.readPort(0, 1) & 0x40).toBe(0x40);
    tick(b, 65_537);
    out(b, CONTROL, 0xe2);
    expect(b.pit.readPort(0, 1) & 0x40).toBe(0);
  });

  it('read back several counters at once', () => {
    const b = running(0x34);
    out(b, CONTROL, 0xb6);
    out(b, 2, 0x00, 0x10);
    tick(b, 501);
    out(b, CONTROL, 0xda); // count of counters 0 and 2 (and not 1)
    tick(b, 900);
    expect(count(b, 0)).toBe(49_500);
    expect(count(b, 2)).toBe(0x1000); // its gate is low
  });

  it('count in BCD', () => {
    const b = board();
    out(b, CONTROL, 0x35);
    out(b, 0, 0x00, 0x10); // 1000
    tick(b, 1 + 1);
    expect(count(b, 0)).toBe(0x0999);
    tick(b, 1 + 998);
    expect(count(b, 0)).toBe(0x0002);
    tick(b, 1 + 1000);
    expect(count(b, 0)).toBe(0x1000);
    out(b, CONTROL, 0x31);
    out(b, 0, 0x00, 0x00); // 10000
    b.clock.to(scale.nsAt(scale.ticksAt(b.clock.now) + 2));
    expect(count(b, 0)).toBe(0x9999);
  });

  it('let port 43H be read as an open bus', () => {
    expect(board().pit.readPort(3, 1)).toBe(0xff);
  });
});

describe('port 61H', () => {
  it('gates counter 2 and shows its output: how Linux measures the TSC', () => {
    const b = board();
    // pit_calibrate_tsc: gate on, speaker off, mode 0, 50 ms.
    const latch = Math.round(PIT_HERTZ / 20);
    b.pit.port61.writePort(0, 1, 0x01);
    out(b, CONTROL, 0xb0);
    out(b, 2, latch & 0xff, latch >> 8);
    expect(b.pit.port61.readPort(0, 1) & 0x20).toBe(0);
    b.clock.to(scale.nsAt(latch));
    expect(b.pit.port61.readPort(0, 1) & 0x20).toBe(0);
    b.clock.to(scale.nsAt(latch + 1));
    expect(b.pit.port61.readPort(0, 1) & 0x20).toBe(0x20);
  });

  it('holds the count of counter 2 while the gate is low', () => {
    const b = board();
    b.pit.port61.writePort(0, 1, 0x01);
    out(b, CONTROL, 0xb0);
    out(b, 2, 0x00, 0x10);
    b.clock.to(scale.nsAt(101));
    b.pit.port61.writePort(0, 1, 0x00);
    b.clock.to(scale.nsAt(5000));
    expect(count(b, 2)).toBe(0x1000 - 100);
    b.pit.port61.writePort(0, 1, 0x01);
    b.clock.to(scale.nsAt(5010));
    expect(count(b, 2)).toBe(0x1000 - 110);
  });

  it('keeps bits 3:0, and toggles the refresh bit every 18 ticks', () => {
    const b = board();
    b.pit.port61.writePort(0, 1, 0xff);
    expect(b.pit.port61.readPort(0, 1) & 0xcf).toBe(0x0f);
    b.pit.port61.writePort(0, 1, 0);
    let toggles = 0;
    let last = b.pit.port61.readPort(0, 1) & 0x10;
    for (let ns = 0; ns < 1_000_000; ns += 1000) {
      b.clock.to(ns);
      const bit = b.pit.port61.readPort(0, 1) & 0x10;
      if (bit !== last) toggles++;
      last = bit;
    }
    expect(toggles).toBe(66); // 1 ms / 15.086 µs
  });

  it('lets the speaker hear counter 2 in mode 3', () => {
    const b = board();
    out(b, CONTROL, 0xb6);
    out(b, 2, 0xa9, 0x04); // 1 kHz
    b.pit.port61.writePort(0, 1, 0x03);
    const heard = [];
    for (const ns of [100_000, 600_000, 1_100_000]) {
      b.clock.to(ns);
      heard.push(b.pit.speakerLevel);
    }
    expect(heard).toEqual([true, false, true]);
    b.pit.port61.writePort(0, 1, 0x01);
    expect(b.pit.speakerLevel).toBe(false);
  });
});
