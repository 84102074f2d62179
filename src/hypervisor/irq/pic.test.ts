import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PicPair } from './pic.ts';

interface Board {
  pic: PicPair;
  /** Every change of INTR. */
  output: boolean[];
}

function board(): Board {
  const output: boolean[] = [];
  return { pic: new PicPair((level) => output.push(level)), output };
}

/** Linux init_8259A: vectors 30H and 38H, edge mode, normal EOI, everything unmasked afterwards. */
function linux(masks: readonly [number, number] = [0, 0], icw4 = 0x01): Board {
  const b = board();
  const { master, slave } = b.pic;
  master.writePort(1, 1, 0xff);
  master.writePort(0, 1, 0x11);
  master.writePort(1, 1, 0x30);
  master.writePort(1, 1, 0x04);
  master.writePort(1, 1, icw4);
  slave.writePort(0, 1, 0x11);
  slave.writePort(1, 1, 0x38);
  slave.writePort(1, 1, 0x02);
  slave.writePort(1, 1, 0x01);
  master.writePort(1, 1, masks[0]);
  slave.writePort(1, 1, masks[1]);
  return b;
}

const pulse = (b: Board, irq: number): void => {
  b.pic.setLine(irq, true);
  b.pic.setLine(irq, false);
};
/** What Linux writes at the end of IRQ `irq`: specific EOIs, slave first (mask_and_ack_8259A). */
const specificEoi = (b: Board, irq: number): void => {
  if (irq >= 8) {
    b.pic.slave.writePort(0, 1, 0x60 | (irq & 7));
    b.pic.master.writePort(0, 1, 0x62);
  } else {
    b.pic.master.writePort(0, 1, 0x60 | irq);
  }
};
const isr = (b: Board): [number, number] => {
  b.pic.master.writePort(0, 1, 0x0b);
  b.pic.slave.writePort(0, 1, 0x0b);
  return [b.pic.master.readPort(0, 1), b.pic.slave.readPort(0, 1)];
};
const irr = (b: Board): [number, number] => {
  b.pic.master.writePort(0, 1, 0x0a);
  b.pic.slave.writePort(0, 1, 0x0a);
  return [b.pic.master.readPort(0, 1), b.pic.slave.readPort(0, 1)];
};

describe('8259 pair as Linux programs it', () => {
  it('gives each line its vector, and ends it with specific EOIs', () => {
    const b = linux();
    for (const irq of [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]) {
      pulse(b, irq);
      expect(b.pic.intr).toBe(true);
      expect(b.pic.acknowledge()).toBe(0x30 + irq);
      expect(isr(b)).toEqual(irq < 8 ? [1 << irq, 0] : [4, 1 << (irq - 8)]);
      expect(b.pic.intr).toBe(false);
      specificEoi(b, irq);
      expect(isr(b)).toEqual([0, 0]);
    }
  });

  it('passes the probe that writes a mask and reads it back', () => {
    const b = linux();
    b.pic.slave.writePort(1, 1, 0xff);
    b.pic.master.writePort(1, 1, 0xfb);
    expect(b.pic.master.readPort(1, 1)).toBe(0xfb);
    expect(b.pic.slave.readPort(1, 1)).toBe(0xff);
  });

  it('holds requests while masked and raises INTR when unmasked', () => {
    const b = linux([0xff, 0xff]);
    pulse(b, 4);
    pulse(b, 12);
    expect(b.pic.intr).toBe(false);
    expect(irr(b)).toEqual([0x10, 0x10]);
    b.pic.slave.writePort(1, 1, 0xef);
    expect(b.pic.intr).toBe(false); // the cascade is still masked
    b.pic.master.writePort(1, 1, 0xfb);
    expect(b.pic.acknowledge()).toBe(0x3c);
    specificEoi(b, 12);
    b.pic.master.writePort(1, 1, 0xef);
    expect(b.pic.acknowledge()).toBe(0x34);
  });
});

describe('8259 priorities', () => {
  it('serve the lowest line first, the slave between IR1 and IR3', () => {
    const b = linux();
    for (const irq of [15, 3, 8, 1, 0]) pulse(b, irq);
    const order = [];
    while (b.pic.intr) {
      const irq = b.pic.acknowledge() - 0x30;
      order.push(irq);
      specificEoi(b, irq);
    }
    expect(order).toEqual([0, 1, 8, 15, 3]);
  });

  it('let a higher line interrupt a lower one, not the reverse', () => {
    const b = linux();
    pulse(b, 4);
    b.pic.acknowledge();
    pulse(b, 5);
    expect(b.pic.intr).toBe(false);
    pulse(b, 4);
    expect(b.pic.intr).toBe(false);
    pulse(b, 3);
    expect(b.pic.acknowledge()).toBe(0x33);
    b.pic.master.writePort(0, 1, 0x20); // non-specific: ends IR3
    expect(isr(b)[0]).toBe(0x10);
    b.pic.master.writePort(0, 1, 0x20);
    expect(b.pic.acknowledge()).toBe(0x34);
  });

  it('hold back the slave while it is served, unless the master is specially fully nested', () => {
    for (const nested of [false, true]) {
      const b = linux([0, 0], nested ? 0x11 : 0x01);
      pulse(b, 12);
      b.pic.acknowledge();
      pulse(b, 9);
      expect(b.pic.intr).toBe(nested);
    }
  });

  it('rotate: the line that was served becomes the last', () => {
    const b = linux();
    pulse(b, 4);
    b.pic.acknowledge();
    b.pic.master.writePort(0, 1, 0xa0); // rotate on non-specific EOI
    for (const irq of [3, 4, 5]) pulse(b, irq);
    expect(b.pic.acknowledge()).toBe(0x35);
    b.pic.master.writePort(0, 1, 0xe0 | 5); // rotate on specific EOI
    for (const irq of [5, 6]) pulse(b, irq);
    expect(b.pic.acknowledge()).toBe(0x36);
    b.pic.master.writePort(0, 1, 0x66);
    b.pic.master.writePort(0, 1, 0xc7); // set priority: IR7 last, IR0 first
    expect(b.pic.acknowledge()).toBe(0x33);
  });

  it('let what is masked block nothing in special mask mode', () => {
    const b = linux();
    pulse(b, 1);
    b.pic.acknowledge();
    pulse(b, 5);
    b.pic.master.writePort(1, 1, 0x02);
    expect(b.pic.intr).toBe(false);
    b.pic.master.writePort(0, 1, 0x68); // OCW3: ESMM, SMM
    expect(b.pic.acknowledge()).toBe(0x35);
    b.pic.master.writePort(0, 1, 0x20); // ends IR5: IR1 is masked
    expect(isr(b)[0]).toBe(0x02);
    b.pic.master.writePort(0, 1, 0x48); // back to normal
    pulse(b, 5);
    expect(b.pic.intr).toBe(false);
  });

  it('agree with a search through the rotated list, for any state', () => {
    const byte = fc.integer({ min: 0, max: 255 });
    fc.assert(
      fc.property(byte, byte, byte, fc.integer({ min: 0, max: 7 }), (requests, mask, inService, last) => {
        const b = linux();
        const state = b.pic.save();
        const lines = requests & ~4;
        state.master = { ...state.master, irr: lines, imr: mask, isr: inService, highest: (last + 1) & 7 };
        b.pic.load(state);
        let expected = -1;
        for (let i = 1; i <= 8 && expected < 0; i++) {
          const line = (last + i) & 7;
          if ((inService >> line) & 1) break;
          if ((lines >> line) & ~(mask >> line) & 1) expected = line;
        }
        expect(b.pic.intr).toBe(expected >= 0);
        if (expected >= 0) expect(b.pic.acknowledge()).toBe(0x30 + expected);
      }),
      { numRuns: 500 },
    );
  });
});

describe('8259 modes', () => {
  it('automatic EOI leaves nothing in service, and can rotate', () => {
    const b = linux([0, 0], 0x03);
    pulse(b, 0);
    pulse(b, 1);
    expect(b.pic.acknowledge()).toBe(0x30);
    expect(isr(b)[0]).toBe(0);
    expect(b.pic.acknowledge()).toBe(0x31);
    pulse(b, 3);
    pulse(b, 1);
    expect([b.pic.acknowledge(), b.pic.acknowledge()]).toEqual([0x31, 0x33]);
    b.pic.master.writePort(0, 1, 0x80); // rotate in automatic EOI mode: set
    pulse(b, 0);
    expect(b.pic.acknowledge()).toBe(0x30);
    pulse(b, 0);
    pulse(b, 1);
    expect(b.pic.acknowledge()).toBe(0x31);
  });

  it('poll acknowledges the highest request, and reads 0 without one', () => {
    const b = linux();
    pulse(b, 12);
    b.pic.master.writePort(0, 1, 0x0c);
    expect(b.pic.master.readPort(0, 1)).toBe(0x82);
    b.pic.slave.writePort(0, 1, 0x0c);
    expect(b.pic.slave.readPort(0, 1)).toBe(0x84);
    expect(isr(b)).toEqual([0x04, 0x10]);
    b.pic.slave.writePort(0, 1, 0x0c);
    expect(b.pic.slave.readPort(0, 1)).toBe(0);
    expect(b.pic.slave.readPort(0, 1)).toBe(0x10); // one read per poll command
  });

  it('ICW1 clears masks, service and edges, and needs its lines to rise again', () => {
    const b = linux([0xff, 0xff]);
    b.pic.setLine(4, true);
    b.pic.master.writePort(0, 1, 0x11);
    b.pic.master.writePort(1, 1, 0x40);
    b.pic.master.writePort(1, 1, 0x04);
    b.pic.master.writePort(1, 1, 0x01);
    expect(b.pic.master.readPort(1, 1)).toBe(0);
    expect(irr(b)[0]).toBe(0);
    expect(b.pic.intr).toBe(false);
    b.pic.setLine(4, false);
    b.pic.setLine(4, true);
    expect(b.pic.acknowledge()).toBe(0x44);
  });

  it('skips ICW3 for a single chip and ICW4 where ICW1 says none comes', () => {
    const b = board();
    b.pic.master.writePort(0, 1, 0x12);
    b.pic.master.writePort(1, 1, 0x50);
    b.pic.master.writePort(1, 1, 0xfe); // OCW1 already
    expect(b.pic.master.readPort(1, 1)).toBe(0xfe);
    pulse(b, 0);
    expect(b.pic.acknowledge()).toBe(0x50);
  });
});

describe('8259 level lines', () => {
  const level = (): Board => {
    const b = linux();
    b.pic.elcr.writePort(0, 1, 0xff);
    b.pic.elcr.writePort(1, 1, 0xff);
    return b;
  };

  it('cannot be IRQ 0, 1, 2, 8 and 13', () => {
    const b = level();
    expect([b.pic.elcr.readPort(0, 1), b.pic.elcr.readPort(1, 1)]).toEqual([0xf8, 0xde]);
  });

  it('request as long as they are asserted', () => {
    const b = level();
    b.pic.setLine(11, true);
    expect(b.pic.acknowledge()).toBe(0x3b);
    specificEoi(b, 11);
    expect(b.pic.acknowledge()).toBe(0x3b);
    b.pic.setLine(11, false);
    specificEoi(b, 11);
    expect(b.pic.intr).toBe(false);
  });

  it('answer with IR7 when the request has gone before the acknowledge, and serve nothing', () => {
    const b = level();
    b.pic.setLine(5, true);
    b.pic.setLine(5, false);
    expect(b.pic.intr).toBe(false);
    expect(b.pic.acknowledge()).toBe(0x37);
    expect(isr(b)).toEqual([0, 0]);
  });

  it('answer with IR15 when only the slave has lost its request: the master serves the cascade', () => {
    const b = level();
    b.pic.setLine(11, true);
    const state = b.pic.save();
    state.slave = { ...state.slave, irr: 0, lines: 0 };
    b.pic.load(state);
    expect(b.pic.acknowledge()).toBe(0x3f);
    expect(isr(b)).toEqual([4, 0]);
  });
});

describe('8259 output', () => {
  it('falls and rises again between two requests, so that an edge input sees both', () => {
    const b = linux();
    pulse(b, 4);
    pulse(b, 3);
    b.output.length = 0;
    b.pic.acknowledge(); // IR3; IR4 waits behind it
    pulse(b, 1);
    b.pic.acknowledge();
    b.pic.master.writePort(0, 1, 0x20);
    b.pic.master.writePort(0, 1, 0x20);
    expect(b.output).toEqual([false, true, false, true]);
    expect(b.pic.acknowledge()).toBe(0x34);
  });
});
