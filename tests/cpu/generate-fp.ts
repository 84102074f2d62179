/** x87, SSE and AVX state of a generated case: register contents by the instruction's kind, control words, tags. */
import type { Form } from './forms.ts';
import type { CpuState } from './protocol.ts';
import { extended, FLOAT_32, FLOAT_64, float, integer, type Random } from './random.ts';

/** Offsets in the FXSAVE image: SDM 1 table 10-2 "Format of an FXSAVE Area". */
export const FX = { FCW: 0, FSW: 2, FTW: 4, MXCSR: 24, ST: 32, XMM: 160 } as const;
const MXCSR_DEFAULT = 0x1f80;
const MASKS_87 = 0x3f;

export function floatingState(form: Form, state: CpuState, random: Random): void {
  const view = new DataView(state.fxsave.buffer);
  const names = form.operands.join(' ');
  const x87 = /^F/.test(form.mnemonic) || /ST[0i(]/.test(names);
  const mmx = /\bmm\b|mm\//.test(names) && !/\bx?ymm/.test(names);
  if (x87) x87State(view, random);
  else if (mmx) {
    for (let i = 0; i < 8; i++) {
      view.setBigUint64(FX.ST + i * 16, integer(random), true);
      view.setUint16(FX.ST + i * 16 + 8, 0xffff, true);
    }
    view.setUint8(FX.FTW, random.pick([0xff, 0, random.below(256)]));
    view.setUint16(FX.FSW, random.below(8) << 11, true);
    // An exception that is pending in the x87 is #MF here too
    if (random.chance(5)) {
      view.setUint16(FX.FCW, 0x37e, true);
      view.setUint16(FX.FSW, (random.below(8) << 11) | 0x8081, true);
    }
  }
  const single = /[SP]S$|PS2|SS2|2PS|2SS/.test(form.mnemonic);
  const double = /[SP]D$|PD2|SD2|2PD|2SD/.test(form.mnemonic);
  for (let i = 0; i < 16; i++) {
    for (const [target, base] of [
      [view, FX.XMM + i * 16],
      [new DataView(state.ymmHigh.buffer), i * 16],
    ] as const) {
      for (let lane = 0; lane < 2; lane++)
        target.setBigUint64(base + lane * 8, laneValue(random, single, double), true);
    }
  }
  view.setUint32(FX.MXCSR, mxcsr(random), true);
}

function laneValue(random: Random, single: boolean, double: boolean): bigint {
  if (single && random.chance(80)) return (float(random, FLOAT_32) << 32n) | float(random, FLOAT_32);
  if (double && random.chance(80)) return float(random, FLOAT_64);
  if (random.chance(40)) {
    // Bytes and words at their ends, for saturation and comparison.
    let value = 0n;
    for (let i = 0; i < 8; i++)
      value = (value << 8n) | BigInt(random.pick([0, 1, 0x7f, 0x80, 0x81, 0xfe, 0xff, random.below(256)]));
    return value;
  }
  return integer(random);
}

/** Rounding, DAZ, FTZ, sticky bits, and sometimes unmasked exceptions. SDM 1 10.2.3 "MXCSR Control and Status Register". */
export function mxcsr(random: Random): number {
  let value = MXCSR_DEFAULT | (random.below(4) << 13);
  if (random.chance(20)) value |= 1 << 15; // FTZ
  if (random.chance(20)) value |= 1 << 6; // DAZ
  if (random.chance(25)) value |= random.below(64); // sticky
  if (random.chance(15)) value &= ~(random.below(64) << 7); // unmasked
  return value;
}

export function x87State(view: DataView, random: Random): void {
  const masked = random.chance(85) ? MASKS_87 : random.below(64);
  const control = masked | 0x40 | (random.pick([0, 2, 3, 3, 3]) << 8) | (random.below(4) << 10);
  // Pending unmasked exceptions make the next waiting instruction #MF: seldom, for nothing else happens then.
  const sticky = random.chance(30) ? random.below(64) : 0;
  const flags = random.chance(5) ? sticky : sticky & masked;
  const summary = flags & ~masked & 0x3f ? 0x8080 : 0;
  const top = random.below(8);
  const codes = (random.below(8) << 8) | (random.below(2) << 14);
  view.setUint16(FX.FCW, control, true);
  view.setUint16(FX.FSW, flags | (flags & 0x40 ? 0 : 0) | summary | (top << 11) | codes, true);
  view.setUint8(FX.FTW, random.pick([0xff, 0xff, 0xff, random.below(256), 0]));
  for (let i = 0; i < 8; i++) {
    const { mantissa, signExponent } = extended(random);
    view.setBigUint64(FX.ST + i * 16, mantissa, true);
    view.setUint16(FX.ST + i * 16 + 8, signExponent, true);
  }
}
