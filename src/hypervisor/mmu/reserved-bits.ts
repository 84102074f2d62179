/**
 * Reserved bits of paging-structure entries: bits that must be zero in a present entry.
 *
 * Owns    the masks per mode, level and bit 7. Not the rule of PDPTE *registers*, which is `pdpteReserved` here too.
 * Uses    BigInt: tables are made once per format, never on a walk.
 *
 * Source  nested-mmu.md 3.10; SDM 3A 4.3 "32-Bit Paging", 4.4 "PAE Paging", 4.5 "4-Level Paging and 5-Level Paging";
 *         SDM 3C 28.2.2 "EPT Translation Mechanism".
 */
import { KIND, type Kind } from './role.ts';

export interface ReservedBitControls {
  readonly kind: Kind;
  /** Levels of the guest's tables: 2, 3, 4 or 5. */
  readonly level: number;
  readonly physicalAddressBits: number;
  readonly nx: boolean;
  readonly pse: boolean;
  readonly gbPages: boolean;
  /** AMD-compatible: bit 8 of the upper levels must be zero too. */
  readonly amd: boolean;
  /** EPT: page sizes that L1 was offered. */
  readonly ept2m: boolean;
  readonly ept1g: boolean;
}

/** Bits a to b, both included. */
export const bitRange = (a: number, b: number): bigint => ((1n << BigInt(b - a + 1)) - 1n) << BigInt(a);

/** `[bit 7 of the entry * 5 + level - 1]`, in two halves. */
export interface ReservedBits {
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
}

export function computeReservedBits(c: ReservedBitControls): ReservedBits {
  const masks: bigint[] = new Array<bigint>(10).fill(0n);
  const set = (bit7: number, level: number, mask: bigint): void => {
    masks[bit7 * 5 + level - 1] = mask;
  };
  const beyondPhysical = bitRange(c.physicalAddressBits, 63);
  if (c.kind === KIND.EPT) setEpt(c, beyondPhysical & bitRange(0, 51), set);
  else if (c.level === 2) set(1, 2, c.pse ? bitRange(17, 21) : 0n);
  else if (c.level === 3) setPae(c, beyondPhysical, set);
  else setLong(c, beyondPhysical & bitRange(0, 51), set);
  const lo = new Uint32Array(10);
  const hi = new Uint32Array(10);
  masks.forEach((mask, i) => {
    lo[i] = Number(mask & 0xffff_ffffn);
    hi[i] = Number(mask >> 32n);
  });
  return { lo, hi };
}

type Setter = (bit7: number, level: number, mask: bigint) => void;

function setPae(c: ReservedBitControls, beyondPhysical: bigint, set: Setter): void {
  const nxBit = c.nx ? 0n : bitRange(63, 63);
  const high = (beyondPhysical & bitRange(0, 62)) | nxBit;
  for (const bit7 of [0, 1]) {
    // A PDPTE has neither NX nor a size bit; bit 7 lies in 8:5.
    set(bit7, 3, bitRange(63, 63) | high | bitRange(5, 8) | bitRange(1, 2));
    set(bit7, 1, high);
  }
  set(0, 2, high);
  set(1, 2, high | bitRange(13, 20));
}

function setLong(c: ReservedBitControls, beyondPhysical: bigint, set: Setter): void {
  const high = beyondPhysical | (c.nx ? 0n : bitRange(63, 63));
  const upper = high | bitRange(7, 7) | (c.amd ? bitRange(8, 8) : 0n);
  const no1g = c.gbPages ? 0n : bitRange(7, 7);
  for (const bit7 of [0, 1]) {
    set(bit7, 5, upper);
    set(bit7, 4, upper);
    set(bit7, 1, high);
  }
  set(0, 3, high | no1g);
  set(1, 3, high | no1g | bitRange(13, 29));
  set(0, 2, high);
  set(1, 2, high | bitRange(13, 20));
}

function setEpt(c: ReservedBitControls, high: bigint, set: Setter): void {
  for (const bit7 of [0, 1]) {
    set(bit7, 5, high | bitRange(3, 7));
    set(bit7, 4, high | bitRange(3, 7));
    set(bit7, 1, high);
  }
  set(0, 3, high | bitRange(3, 6));
  set(1, 3, high | bitRange(12, 29) | (c.ept1g ? 0n : bitRange(7, 7)));
  set(0, 2, high | bitRange(3, 6));
  set(1, 2, high | bitRange(12, 20) | (c.ept2m ? 0n : bitRange(7, 7)));
}

/**
 * Is this PDPTE *register* value refused? SDM 3A 4.4.1 "PDPTE Registers": only a present one is looked at; it has no
 * rights, and bit 63 is reserved whatever EFER.NXE says.
 */
export function pdpteReserved(lo: number, hi: number, physicalAddressBits: number): boolean {
  if ((lo & 1) === 0) return false;
  const highBits = physicalAddressBits >= 64 ? 0 : ~((2 ** (physicalAddressBits - 32) - 1) >>> 0);
  return (lo & 0x1e6) !== 0 || (hi & highBits) !== 0;
}
