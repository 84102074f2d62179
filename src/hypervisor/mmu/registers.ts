/**
 * The register bits that feed a role. Nothing else of CR0, CR4 or EFER concerns the MMU (nested-mmu.md 3.2).
 *
 * Source  SDM 3A 2.5 "Control Registers", 2.2.1 "Extended Feature Enable Register".
 */
import { bits } from '../../base/bits.ts';

export const CR0 = bits({ PE: 0, WP: 16, NW: 29, CD: 30, PG: 31 });
export const CR4 = bits({ PSE: 4, PAE: 5, PGE: 7, LA57: 12, PCIDE: 17, SMEP: 20, SMAP: 21, PKE: 22 });
export const EFER = bits({ LME: 8, LMA: 10, NXE: 11 });
