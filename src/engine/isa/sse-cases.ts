import { CASE } from './sse-testbed.ts';

/** For tests: operands worth trying, from a seed. Layout of a case: sse-testbed.ts. */

/** xorshift32: the same numbers everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  below(limit: number): number {
    return this.next() % limit;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

/** Zero, denormals, the smallest and largest normals, one and its neighbours, limits of integers, NaNs … */
const DOUBLES: readonly bigint[] = [
  0n,
  1n,
  0xfffffffffffffn,
  0x10000000000000n,
  0x10000000000001n,
  0x1fffffffffffffn,
  0x20000000000000n,
  0x3ff0000000000000n,
  0x3ff0000000000001n,
  0x3fefffffffffffffn,
  0x4000000000000000n,
  0x3fe0000000000000n,
  0x3fe0000000000001n,
  0x3fdfffffffffffffn,
  0x4330000000000000n,
  0x4340000000000000n,
  0x43e0000000000000n,
  0x43dfffffffffffffn,
  0x41e0000000000000n,
  0x41dfffffffc00000n,
  0x41dfffffffe00000n,
  0x41e0000000100000n,
  0x41e0000000200000n,
  0x7fe0000000000000n,
  0x7fefffffffffffffn,
  0x7ff0000000000000n,
  0x7ff0000000000001n,
  0x7ff8000000000000n,
  0x7ff8000000001234n,
  0x7ff4000012345678n,
  0x8000000000000n,
  0x3800000000000000n,
  0x380fffffffffffffn,
  0x36a0000000000000n,
  0x3690000000000000n,
  0x47efffffe0000000n,
  0x47effffff0000000n,
  0x47f0000000000000n,
  0x3ff8000000000000n,
  0x3ca0000000000000n,
  0x4008000000000000n,
  0x1ff8000000000000n,
  0x2000000000000000n,
  0x5ff0000000000000n,
  0x381000000fffffffn,
  0x380fffffe0000000n,
  0x380ffffff0000000n,
];
const SINGLES: readonly number[] = [
  0, 1, 0x7fffff, 0x800000, 0x800001, 0xffffff, 0x1000000, 0x3f800000, 0x3f800001, 0x3f7fffff, 0x40000000, 0x3f000000,
  0x3f000001, 0x3effffff, 0x4b000000, 0x4b800000, 0x5f000000, 0x5effffff, 0x4f000000, 0x4effffff, 0x7f000000,
  0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fc01234, 0x7fa00001, 0x400000, 0x3fc00000, 0x40400000, 0x33800000,
  0x20000000, 0x1ff00000, 0x5f800000, 0x1f800000,
];

function fillVector(random: Random, view: DataView, at: number): void {
  switch (random.below(10)) {
    case 0:
    case 1:
      for (let i = 0; i < 16; i += 4) view.setUint32(at + i, random.next(), true);
      break;
    case 2:
      for (let i = 0; i < 16; i++) view.setUint8(at + i, random.pick([0, 0x80, 0x7f, 0xff, 1, random.below(256)]));
      break;
    case 3:
      for (let i = 0; i < 16; i += 2) {
        view.setUint16(at + i, random.pick([0, 0x8000, 0x7fff, 0xffff, 1, random.below(65536)]), true);
      }
      break;
    case 4:
    case 5:
      for (let i = 0; i < 16; i += 4)
        view.setUint32(at + i, random.pick(SINGLES) | (random.next() & 0x8000_0000), true);
      break;
    case 6:
    case 7:
      for (let i = 0; i < 16; i += 8) {
        view.setBigUint64(at + i, random.pick(DOUBLES) | (BigInt(random.below(2)) << 63n), true);
      }
      break;
    case 8: {
      // Doubles of near exponents, some with few bits and some with a run of ones at the end
      const exponent = 0x3f0 + random.below(0x20);
      for (let i = 0; i < 16; i += 8) {
        let value = (BigInt(random.next()) << 32n) | BigInt(random.next());
        if (random.below(2)) value &= ~((1n << BigInt(random.below(52))) - 1n);
        if (random.below(4) === 0) value |= (1n << BigInt(random.below(52))) - 1n;
        value = (value & 0x800fffffffffffffn) | (BigInt(exponent + random.below(3)) << 52n);
        view.setBigUint64(at + i, value, true);
      }
      break;
    }
    default: {
      const exponent = random.below(3) ? 0x70 + random.below(0x20) : random.pick([0, 1, 2, 24, 100, 150, 253, 254]);
      for (let i = 0; i < 16; i += 4) {
        let value = random.next();
        if (random.below(2)) value &= ~((1 << random.below(23)) - 1);
        view.setUint32(at + i, (value & 0x807fffff) | (((exponent + random.below(3)) & 0xff) << 23), true);
      }
    }
  }
}

/** Fills a case of zeros. */
export function fillCase(random: Random, one: Uint8Array): void {
  const view = new DataView(one.buffer, one.byteOffset);
  for (let at = CASE.XMM; at < CASE.XMM + 48; at += 16) fillVector(random, view, at);
  if (random.below(16) === 0) one.copyWithin(CASE.XMM + 32, CASE.XMM + 16, CASE.XMM + 32);
  for (let i = 0; i < 6; i++) {
    // MM0–2, RAX, RCX, RDX: the second eight bytes are overwritten by the next
    fillVector(random, view, CASE.MM + 8 * i);
    if (i >= 3 && random.below(3) === 0) view.setBigInt64(CASE.MM + 8 * i, BigInt(random.below(41) - 20), true);
  }
  fillVector(random, view, CASE.MEMORY);
  fillVector(random, view, CASE.MEMORY + 16);
  if (random.below(4) === 0) {
    // Text, for the string instructions
    for (const at of [CASE.XMM + 16, CASE.XMM + 32, CASE.MEMORY]) {
      const letters = random.pick([2, 3, 20]);
      for (let i = 0; i < 16; i++) one[at + i] = random.below(5) === 0 ? 0 : 0x60 + random.below(letters);
    }
  }
  let mxcsr = random.next() & 0xe07f;
  if (random.below(3)) mxcsr &= ~0x8040;
  mxcsr |= random.below(3) ? 0x1f80 : random.next() & 0x1f80;
  if (random.below(4) === 0) mxcsr = 0x1fa0;
  view.setUint32(CASE.MXCSR, mxcsr, true);
  view.setUint32(CASE.FLAGS, random.next() & 0x8d5, true);
  one[CASE.IMM] = random.next();
  for (let at: number = CASE.XMM3; at < CASE.UPPER + 64; at += 16) fillVector(random, view, at);
}

/** What of a case is compared: all but the immediate and what surrounds it. */
const COMPARED = [
  [0, 140],
  [CASE.XMM3, CASE.UPPER + 64],
] as const;

/** FNV-1a by words over the compared part of each case: what is recorded of the real CPU. */
export function digest(cases: Uint8Array): number {
  const view = new DataView(cases.buffer, cases.byteOffset);
  let value = 0x811c9dc5;
  for (let one = 0; one < cases.length; one += CASE.BYTES) {
    for (const [from, to] of COMPARED) {
      for (let at = one + from; at < one + to; at += 4) value = Math.imul(value ^ view.getInt32(at, true), 0x01000193);
    }
  }
  return value >>> 0;
}

/** `count` cases of a form: the same for a form whatever other forms there are. */
export function casesOf(form: string, count: number): Uint8Array {
  let seed = 0x811c9dc5;
  for (let i = 0; i < form.length; i++) seed = Math.imul(seed ^ form.charCodeAt(i), 0x01000193);
  const random = new Random(seed);
  const cases = new Uint8Array(count * CASE.BYTES);
  for (let i = 0; i < count; i++) fillCase(random, cases.subarray(i * CASE.BYTES, (i + 1) * CASE.BYTES));
  return cases;
}
