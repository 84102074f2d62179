import type { IrqLine } from '../contracts/device.ts';

/**
 * Lets several devices pull one interrupt line: it is high while any of them holds it high. PCI devices share
 * lines, and the test device may raise anybody's.
 */
export class WiredOr {
  readonly #line: IrqLine;
  #high = 0;

  constructor(line: IrqLine) {
    this.#line = line;
  }

  /** One more device on the line. */
  source(): IrqLine {
    let mine = false;
    return {
      set: (level) => {
        if (level === mine) return;
        mine = level;
        this.#high += level ? 1 : -1;
        this.#line.set(this.#high > 0);
      },
    };
  }
}

/** Gives out sources of the lines 0..23, each line wrapped once. */
export function sharedLines(irq: (gsi: number) => IrqLine): (gsi: number) => IrqLine {
  const lines = new Map<number, WiredOr>();
  return (gsi) => {
    let line = lines.get(gsi);
    if (!line) lines.set(gsi, (line = new WiredOr(irq(gsi))));
    return line.source();
  };
}
