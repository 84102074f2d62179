/**
 * All VM-entry checks, in the order in which they are made, and the MSR-load area's.
 *
 *   VMX_CHECKS     controls, then host state: VMfail 7 or 8, nothing has changed      SDM 3C 26.2
 *   GUEST_CHECKS   guest state: exit reason 33, L1's host state is loaded             SDM 3C 26.3
 *   msrLoad…       one MSR of the list each: exit reason 34, qualification 1, 2, …    SDM 3C 26.4
 *
 * `vmEntryChecks` is for the inspector and the trace; the hot path keeps a suspects array per VMCS and calls
 * `VMX_CHECKS.firstFailureAmong` (checks.ts).
 */
import { type MsrModel, msrExists, msrRow, msrWriteIsLegal } from '../msrs.ts';
import { CheckList, type EntryContext } from './checks.ts';
import { ENTRY_CONTROL_CHECKS, EXECUTION_CONTROL_CHECKS, EXIT_CONTROL_CHECKS } from './checks-controls.ts';
import {
  GUEST_CONTROL_REGISTER_CHECKS,
  GUEST_DESCRIPTOR_TABLE_CHECKS,
  GUEST_NON_REGISTER_CHECKS,
  GUEST_PDPTE_CHECKS,
  GUEST_RIP_RFLAGS_CHECKS,
} from './checks-guest-registers.ts';
import { GUEST_SEGMENT_CHECKS } from './checks-guest-segments.ts';
import { HOST_ADDRESS_SPACE_CHECKS, HOST_REGISTER_CHECKS, HOST_SEGMENT_CHECKS } from './checks-host.ts';
import type { VmcsReader } from './fields.ts';

export const VMX_CHECKS = new CheckList([
  EXECUTION_CONTROL_CHECKS,
  EXIT_CONTROL_CHECKS,
  ENTRY_CONTROL_CHECKS,
  HOST_REGISTER_CHECKS,
  HOST_SEGMENT_CHECKS,
  HOST_ADDRESS_SPACE_CHECKS,
]);

export const GUEST_CHECKS = new CheckList([
  GUEST_CONTROL_REGISTER_CHECKS,
  GUEST_SEGMENT_CHECKS,
  GUEST_DESCRIPTOR_TABLE_CHECKS,
  GUEST_RIP_RFLAGS_CHECKS,
  GUEST_NON_REGISTER_CHECKS,
  GUEST_PDPTE_CHECKS,
]);

export type EntryCheckName =
  | keyof typeof EXECUTION_CONTROL_CHECKS.rows
  | keyof typeof EXIT_CONTROL_CHECKS.rows
  | keyof typeof ENTRY_CONTROL_CHECKS.rows
  | keyof typeof HOST_REGISTER_CHECKS.rows
  | keyof typeof HOST_SEGMENT_CHECKS.rows
  | keyof typeof HOST_ADDRESS_SPACE_CHECKS.rows
  | keyof typeof GUEST_CONTROL_REGISTER_CHECKS.rows
  | keyof typeof GUEST_SEGMENT_CHECKS.rows
  | keyof typeof GUEST_DESCRIPTOR_TABLE_CHECKS.rows
  | keyof typeof GUEST_RIP_RFLAGS_CHECKS.rows
  | keyof typeof GUEST_NON_REGISTER_CHECKS.rows
  | keyof typeof GUEST_PDPTE_CHECKS.rows;

export interface JudgedCheck {
  readonly name: string;
  readonly section: string;
  readonly holds: boolean;
}

/** Every check with a tick or a cross. Allocates: for people. */
export const vmEntryChecks = (v: VmcsReader, c: EntryContext): readonly JudgedCheck[] =>
  [...VMX_CHECKS.checks, ...GUEST_CHECKS.checks].map((row) => ({
    name: row.name,
    section: row.section,
    holds: row.holds(v, c),
  }));

/** One entry of an MSR-load area: SDM 3C Table 24-15 "Format of an MSR Entry". */
export interface MsrEntry {
  readonly index: number;
  /** Bits 63:32 of the first quadword. */
  readonly reserved: number;
  readonly lo: number;
  readonly hi: number;
}

type MsrEntryCheck = (entry: MsrEntry, model: MsrModel) => boolean;

const FS_BASE = 0xc000_0100;
const GS_BASE = 0xc000_0101;
const isX2apic = (index: number): boolean => index >>> 8 === 8;

/** SDM 3C 26.4 "Loading MSRs"; the same of VM exit, 27.6, where a failure is a VMX abort. */
export const MSR_LOAD_CHECKS = {
  'MSR load: bits 63:32 of the index are 0': ({ reserved }) => reserved === 0,
  'MSR load: not IA32_FS_BASE or IA32_GS_BASE': ({ index }) => index !== FS_BASE && index !== GS_BASE,
  'MSR load: not a local-APIC register of x2APIC mode': ({ index }) => !isX2apic(index),
  'MSR load: not IA32_SMM_MONITOR_CTL': ({ index }) => index !== 0x9b,
  'MSR load: not the microcode-update trigger': ({ index }) => index !== 0x79,
  'MSR load: WRMSR would not fault': ({ index, lo, hi }, model) => {
    const row = msrRow(index);
    return row !== undefined && msrWriteIsLegal(row, lo, hi, model);
  },
} as const satisfies Record<string, MsrEntryCheck>;

/** SDM 3C 27.4 "Saving MSRs": a failure is a VMX abort. */
export const MSR_STORE_CHECKS = {
  'MSR store: bits 63:32 of the index are 0': ({ reserved }) => reserved === 0,
  'MSR store: not a local-APIC register of x2APIC mode': ({ index }) => !isX2apic(index),
  'MSR store: not IA32_SMBASE': ({ index }) => index !== 0x9e,
  'MSR store: RDMSR would not fault': ({ index }, model) => {
    const row = msrRow(index);
    return row !== undefined && row.writable !== 'write-only' && msrExists(row, model);
  },
} as const satisfies Record<string, MsrEntryCheck>;

/** Name of the first broken rule, or `undefined`. `owner decides` rows of MSRs have a last word of their own. */
export function msrEntryFailure(
  checks: Readonly<Record<string, MsrEntryCheck>>,
  entry: MsrEntry,
  model: MsrModel,
): string | undefined {
  for (const name in checks) if (!checks[name]!(entry, model)) return name;
  return undefined;
}
