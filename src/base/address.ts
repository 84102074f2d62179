declare const space: unique symbol;
type In<Space extends string, Raw> = Raw & { readonly [space]: Space };

/** Physical address in L1's space, what memory slots are indexed by. At most 52 bits, so a `number` holds it exactly. */
export type L1Physical = In<'L1 physical', number>;
/** Physical address in L2's space. Only a walk of EPT12 or NPT12 makes it an `L1Physical`. */
export type L2Physical = In<'L2 physical', number>;
/** Byte offset into the engine's linear memory: what a host-physical address is on hardware. */
export type HostOffset = In<'host', number>;

export const PAGE_BYTES = 4096;
export const PAGE_SHIFT = 12;

/** Page number. Division, because `>>` keeps 32 bits: `0x2_0000_0000 >> 12` is 0. */
export const pageOf = (address: number): number => Math.floor(address / PAGE_BYTES);
/** First byte of the page that holds `address`. */
export const pageStart = (address: number): number => address - (address % PAGE_BYTES);
