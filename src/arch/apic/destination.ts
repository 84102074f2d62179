/**
 * Whether a message's destination names a local APIC. Pure: the caller passes the target's registers.
 *
 * Source  SDM 3A 10.6.2 "Determining IPI Destination"; 10.12.10 "Determining IPI Destination in x2APIC Mode".
 */
import { DFR_MODEL } from './registers.ts';

export const XAPIC_BROADCAST = 0xff;
export const X2APIC_BROADCAST = 0xffff_ffff;

/** All ones in a destination field of 8 or of 32 bits, in physical and in logical mode: everyone. */
export const isBroadcast = (destination: number, wide: boolean): boolean =>
  destination === (wide ? X2APIC_BROADCAST : XAPIC_BROADCAST);

/** SDM 3A 10.12.10.2 "Deriving Logical x2APIC ID from the Local x2APIC ID". */
export const logicalX2apicId = (id: number): number => ((id & 0xffff_fff0) << 12) | (1 << (id & 0xf));

/** SDM 3A 10.12.10.1 "Logical Destination Mode in x2APIC Mode": cluster in bits 31:16, members in 15:0. */
export const matchesX2apicLogical = (ldr: number, destination: number): boolean =>
  ldr >>> 16 === destination >>> 16 && (ldr & destination & 0xffff) !== 0;

/** SDM 3A 10.6.2.2 "Logical Destination Mode": eight members, or clusters of four. */
export function matchesXapicLogical(ldr: number, dfr: number, destination: number): boolean {
  const id = ldr >>> 24;
  if (dfr >>> 28 === DFR_MODEL.FLAT) return (id & destination & 0xff) !== 0;
  return id >>> 4 === ((destination >>> 4) & 0xf) && (id & destination & 0xf) !== 0;
}
