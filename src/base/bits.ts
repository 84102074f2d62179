/** One-bit fields of a register of at most 32 bits. Positions are written here and nowhere else. */
export function bits<const P extends Readonly<Record<string, number>>>(positions: P) {
  const masks = Object.entries(positions).map(([name, at]) => [name, 2 ** at]);
  return Object.freeze(Object.fromEntries(masks)) as { readonly [Name in keyof P]: number };
}

/** The same for 64-bit registers. For tables and set-up; hot paths use u32 halves. */
export function bits64<const P extends Readonly<Record<string, number>>>(positions: P) {
  const masks = Object.entries(positions).map(([name, at]) => [name, 1n << BigInt(at)]);
  return Object.freeze(Object.fromEntries(masks)) as { readonly [Name in keyof P]: bigint };
}

/** `!== 0`, not `> 0`: with bit 31 set, `value & mask` is negative. */
export const has = (value: number, mask: number): boolean => (value & mask) !== 0;
export const has64 = (value: bigint, mask: bigint): boolean => (value & mask) !== 0n;

/** 2^32, for splitting and joining the halves of a number of at most 53 bits. */
export const TWO_32 = 0x1_0000_0000;
/** Low 32 bits, unsigned, of a non-negative number of at most 53 bits. */
export const low32 = (value: number): number => value >>> 0;
/** Bits 52:32 of a non-negative number of at most 53 bits. `>> 32` would be `>> 0`. */
export const high32 = (value: number): number => Math.floor(value / TWO_32);
/** Joins two halves; exact while `high` has at most 21 bits. */
export const join64 = (low: number, high: number): number => (high >>> 0) * TWO_32 + (low >>> 0);

/**
 * First value of a field that will hold numbers beyond 31 bits: V8 gives it room for doubles at once, instead of
 * throwing away all code that has the object's shape when the first such number comes. MEASURED on Node 20.
 */
export const BORN_DOUBLE = 0.5;
