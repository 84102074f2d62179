/**
 * How a VM-entry check is written down, and how a list of them is run.
 *
 * Owns    the shape of a row and the order of judgement: the first row that fails names the failure.
 * Knows   no rule of the manual: those are rows of `checks-*.ts`, in the order of its sections.
 * Never   allocates while checking. Values stay in u32 halves.
 *
 * Source  SDM 3C 26.2 "Checks on VMX Controls and Host-State Area", 26.3 "Checking and Loading Guest State". The manual
 *         lets a processor check in any order within a stage; ours is the order of the tables, so that a failing entry
 *         always names the same culprit.
 */

import { isCanonical } from '../msrs.ts';
import { CR0, CR4 } from '../registers.ts';
import type { VmxCapabilities } from './capabilities.ts';
import { ENTRY, PIN, PRIMARY, SECONDARY } from './controls.ts';
import { EXIT_REASONS } from './exit-reasons.ts';
import { FIELD, VMCS_FIELD_COUNT, type VmcsField, type VmcsReader } from './fields.ts';

/** What a check may ask besides the VMCS. Mutable: L0 keeps one and brings it up to date before each entry. */
export interface EntryContext {
  readonly vmx: VmxCapabilities;
  readonly physicalAddressBits: number;
  readonly linearAddressBits: number;
  /** Bits of EFER and of IA32_DEBUGCTL that are not reserved. */
  readonly eferAllowed: number;
  readonly debugctlAllowed: number;
  /** IA32_EFER.LMA of L1 at VM entry. */
  lma: boolean;
  /** Address of the current VMCS. */
  currentVmcs: number;
  /** Reads L1's memory, little-endian, 4-byte aligned; a hole reads as all ones. Addresses have at most 52 bits. */
  readPhysical32(address: number): number;
}

export type CheckFailure =
  | { readonly kind: 'VMfail'; readonly error: 7 | 8 }
  | { readonly kind: 'entry failure'; readonly reason: number; readonly qualification: number };

type Predicate = (v: VmcsReader, c: EntryContext) => boolean;

/**
 * One sentence of the manual. `alsoReads`: what can change while every field stays the same: the mode at VM entry, or
 * memory, as long as the fields in `reads` say so.
 */
export interface CheckRow {
  readonly reads: readonly VmcsField[];
  readonly alsoReads: 'nothing' | 'mode' | { readonly memoryIf: (v: VmcsReader) => boolean };
  readonly holds: Predicate;
  /** Exit qualification, where it is not the section's. */
  readonly qualification?: number;
}

/** The control words are read by nearly every row: `['ENTRY_CONTROLS', …]` lists what the row depends on, all of it. */
export const check = (
  reads: readonly VmcsField[],
  holds: Predicate,
  more: { readonly alsoReads?: CheckRow['alsoReads']; readonly qualification?: number } = {},
): CheckRow => ({ alsoReads: 'nothing', ...more, reads, holds });

export interface CheckSection {
  /** Number and title in the manual. */
  readonly section: string;
  readonly failure: CheckFailure;
  readonly rows: Readonly<Record<string, CheckRow>>;
}

export const FAILURE = {
  CONTROLS: { kind: 'VMfail', error: 7 },
  HOST: { kind: 'VMfail', error: 8 },
  GUEST: { kind: 'entry failure', reason: EXIT_REASONS.INVALID_GUEST_STATE, qualification: 0 },
} as const satisfies Record<string, CheckFailure>;

/** Fields of the control words, for `reads`. */
export const SECONDARY_WORDS = ['PRIMARY_CONTROLS', 'SECONDARY_CONTROLS'] as const;

/** "If the 'activate secondary controls' control is 0, the processor operates as if all secondary controls were 0." */
export const secondary = (v: VmcsReader): number =>
  (v.lo(FIELD.PRIMARY_CONTROLS) & PRIMARY.ACTIVATE_SECONDARY_CONTROLS) !== 0 ? v.lo(FIELD.SECONDARY_CONTROLS) : 0;

export const hasPin = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.PIN_CONTROLS) & mask) !== 0;
export const hasPrimary = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.PRIMARY_CONTROLS) & mask) !== 0;
export const hasSecondary = (v: VmcsReader, mask: number): boolean => (secondary(v) & mask) !== 0;
export const hasExit = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.EXIT_CONTROLS) & mask) !== 0;
export const hasEntry = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.ENTRY_CONTROLS) & mask) !== 0;

export const isIa32eGuest = (v: VmcsReader): boolean => hasEntry(v, ENTRY.IA32E_MODE_GUEST);
export const isUnrestricted = (v: VmcsReader): boolean => hasSecondary(v, SECONDARY.UNRESTRICTED_GUEST);
export const hasVirtualInterruptDelivery = (v: VmcsReader): boolean =>
  hasSecondary(v, SECONDARY.VIRTUAL_INTERRUPT_DELIVERY);
export const hasVirtualNmis = (v: VmcsReader): boolean => hasPin(v, PIN.VIRTUAL_NMIS);
export const hasGuestCr0 = (v: VmcsReader, mask: number): boolean => (v.lo(FIELD.GUEST_CR0) & mask) !== 0;
/** PAE paging: CR0.PG and CR4.PAE, outside IA-32e mode. */
export const isPaeGuest = (v: VmcsReader): boolean =>
  hasGuestCr0(v, CR0.PG) && (v.lo(FIELD.GUEST_CR4) & CR4.PAE) !== 0 && !isIa32eGuest(v);

/** A check with its place: what the trace prints and the inspector ticks. */
export interface NumberedCheck extends CheckRow {
  readonly name: string;
  readonly section: string;
  readonly failure: CheckFailure;
  /** Place in its list. */
  readonly number: number;
}

/** Sections laid end to end, with the row's own qualification put in. */
export function numbered(sections: readonly CheckSection[]): readonly NumberedCheck[] {
  return sections
    .flatMap(({ section, failure, rows }) =>
      Object.entries(rows).map(([name, row]) => ({
        ...row,
        name,
        section,
        failure:
          row.qualification !== undefined && failure.kind === 'entry failure'
            ? { ...failure, qualification: row.qualification }
            : failure,
      })),
    )
    .map((row, number) => ({ ...row, number }));
}

/**
 * A list of checks that can skip rows whose fields have not changed since they last passed. Which rows are due is a
 * bit set, 32 rows to a word, lowest row first: an entry after a write of GUEST_RIP looks at a handful of words.
 */
export class CheckList {
  readonly checks: readonly NumberedCheck[];
  readonly #words: number;
  /** Words of field f start at `f * #words`: the checks that read it. */
  readonly #readers: Uint32Array;
  /** The checks that read the mode. */
  readonly #readMode: Uint32Array;
  /** By check, of those that read memory: when. */
  readonly #memoryIf: readonly (((v: VmcsReader) => boolean) | null)[];

  constructor(sections: readonly CheckSection[]) {
    this.checks = numbered(sections);
    this.#words = Math.ceil(this.checks.length / 32);
    this.#readMode = new Uint32Array(this.#words);
    this.#memoryIf = this.checks.map(({ alsoReads }) => (typeof alsoReads === 'object' ? alsoReads.memoryIf : null));
    this.#readers = new Uint32Array(VMCS_FIELD_COUNT * this.#words);
    for (const { number, reads, alsoReads } of this.checks) {
      const bit = 1 << (number & 31);
      if (alsoReads === 'mode') this.#readMode[number >>> 5]! |= bit;
      for (const name of reads) this.#readers[FIELD[name] * this.#words + (number >>> 5)]! |= bit;
    }
  }

  /** Suspects for one VMCS: everything, until it has passed once. */
  suspects(): Uint32Array {
    const suspects = new Uint32Array(this.#words);
    this.suspectAll(suspects);
    return suspects;
  }

  suspectAll(suspects: Uint32Array): void {
    for (let number = 0; number < this.checks.length; number += 1) suspects[number >>> 5]! |= 1 << (number & 31);
  }

  /** A field was written: the checks that read it are due again. */
  suspect(suspects: Uint32Array, field: number): void {
    const words = this.#words;
    const readers = this.#readers;
    for (let word = 0; word < words; word += 1) suspects[word]! |= readers[field * words + word]!;
  }

  /** The first check that fails, or `undefined`. Looks at every row. */
  firstFailure(v: VmcsReader, c: EntryContext): NumberedCheck | undefined {
    const { checks } = this;
    for (let at = 0; at < checks.length; at += 1) {
      if (!checks[at]!.holds(v, c)) return checks[at];
    }
    return undefined;
  }

  /**
   * The same answer, looking only at suspects. Rows that pass stop being suspects, but for those that read memory now;
   * one that fails stays, with all behind it that were.
   *
   * @param sameMode  The mode is what it was when these suspects passed, so that rows which read it need not be looked at.
   */
  firstFailureAmong(
    suspects: Uint32Array,
    v: VmcsReader,
    c: EntryContext,
    sameMode = false,
  ): NumberedCheck | undefined {
    const words = this.#words;
    for (let word = 0; word < words; word += 1) {
      const due = sameMode ? suspects[word]! : suspects[word]! | this.#readMode[word]!;
      if (due === 0) continue;
      const failed = this.#judge(suspects, word, due, v, c);
      if (failed !== undefined) return failed;
    }
    return undefined;
  }

  #judge(suspects: Uint32Array, word: number, all: number, v: VmcsReader, c: EntryContext): NumberedCheck | undefined {
    const { checks } = this;
    let due = all;
    let kept = 0;
    while (due !== 0) {
      const bit = due & -due;
      const number = word * 32 + 31 - Math.clz32(bit);
      if (!checks[number]!.holds(v, c)) {
        suspects[word] = due | kept;
        return checks[number];
      }
      if (this.#memoryIf[number]?.(v)) kept |= bit;
      due ^= bit;
    }
    suspects[word] = kept;
    return undefined;
  }
}

/** The same sentence for several registers: rows named `CS base is canonical`, `SS base is canonical` … */
export const forEach = <const R extends string, const S extends string>(
  registers: readonly R[],
  sentence: S,
  row: (register: R) => CheckRow,
): { readonly [Name in `${R} ${S}`]: CheckRow } =>
  Object.fromEntries(registers.map((register) => [`${register} ${sentence}`, row(register)])) as {
    readonly [Name in `${R} ${S}`]: CheckRow;
  };

// Words that the rows share.

export const isCanonicalField = (v: VmcsReader, c: EntryContext, field: number): boolean =>
  isCanonical(v.hi(field), c.linearAddressBits);

/** A row that says of one natural-width field that it is canonical. */
export const canonical = (field: VmcsField): CheckRow => {
  const row = FIELD[field];
  return check([field], (v, c) => isCanonicalField(v, c, row));
};

/** Bits 11:0 are 0. */
export const isPageAligned = (v: VmcsReader, field: number): boolean => (v.lo(field) & 0xfff) === 0;
