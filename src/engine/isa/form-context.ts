import type { Callee } from '../../wasm/expr.ts';
import type { Operand } from './instruction.ts';

/**
 * How addresses and stacks work where the form runs. `long`: 64-bit mode. `flat32`: 32-bit code and stack, CS SS DS ES
 * flat. `general`: everything else; every access goes through the segment checks in TypeScript.
 */
export type AddressMode = 'long' | 'flat32' | 'general';

/** Functions of the core module that instruction code calls. */
export interface Library {
  /** (linear, bytes) → value, zero-extended; S.ACCESS_STATUS tells whether it worked. */
  readonly loadSlow: Callee;
  /** (linear, value, bytes) → status */
  readonly storeSlow: Callee;
  /** (linear, bytes) → host address for reading and writing, or 0 with S.ACCESS_STATUS. May be SCRATCH: then commit. */
  readonly modifySlow: Callee;
  readonly commit: Callee;
  /** (linear, bytes) → status; bytes come to S.WIDE. */
  readonly loadWide: Callee;
  /** (linear, bytes) → status; bytes are taken from S.WIDE. */
  readonly storeWide: Callee;
  /** () → the six status flags as in RFLAGS */
  readonly flags: Callee;
  /** (condition 0–15) → 0 or 1 */
  readonly condition: Callee;
  /** () → CF as 0 or 1 */
  readonly carry: Callee;
  /** (helper number, record) → status: TypeScript. */
  readonly helper: Callee;
  /** (a, b) → high 64 bits of the unsigned, signed product */
  readonly mulHighU: Callee;
  readonly mulHighS: Callee;
  /** (record, access: bytes | write << 8) → status, linear address in S.EA: segment checks, all address sizes. */
  readonly linear: Callee;
  /** Others by name: divide, floating point, … */
  readonly byName: (name: string) => Callee;
}

/** What the dispatcher has to know of a form besides its code. */
export interface FormContext {
  readonly operands: readonly Operand[];
  /** Operand size in bytes: 1, 2, 4 or 8. */
  readonly size: number;
  readonly mode: AddressMode;
  /** The memory operand's address needs the general calculation (16-bit, 67h, FS/GS outside 64-bit mode …). */
  readonly generalAddress: boolean;
  /** The form's full name, for messages. */
  readonly form: string;
  /** Low bits of the opcode byte: the condition of Jcc, SETcc, CMOVcc. */
  readonly opcode: number;
}
