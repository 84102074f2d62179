import type { Helper } from '../core/helpers.ts';
import type { Semantics } from './semantics.ts';

/**
 * One instruction, defined once. The decoder's tables, the interpreter's handlers, the compiler's code, the
 * disassembly and the coverage page come from these rows.
 */
export interface Instruction {
  /** The manual's mnemonic. */
  readonly name: string;
  /** Volume, section number and title. */
  readonly source: string;
  /**
   * Opcode column → instruction column, in the SDM's notation, one entry a form.
   *
   * Opcode column: `66`, `F2`, `F3` mandatory prefixes, `NP` none allowed; `REX.W`, `W0`; opcode bytes `0F 38 F1`;
   * `+r` register in the opcode's low bits; `/r`, `/0`–`/7`; `/r:m` and `/r:r` (also `/3:m`) memory or register only;
   * `ib iw id iz io` immediates (iz: 16 or 32 bits by operand size); `cb cz` relative; `i64` not in 64-bit mode;
   * `o64` only there; `d64` 64-bit operand by default there; `f64` always there; `b0` REX.B clear.
   *
   * Instruction column: mnemonic and operands. `r/m8`, `r/mv`, `r8`, `rv` (v: 16, 32 or 64 bits by operand size, a
   * form for each), `ry` (32 or 64), `rd`, `rq`, `rw`, `imm8`, `immz`, `rel8`, `AL`, `rAX`, `CL`, `DX`, `1`, `m`,
   * `m8` … `m512`, `vm32x` … `vm64y` (a vector of indices), `moffs8`, `xmm`, `xmm/m128`, `mm`, `mm/m64`, `xmmV`, `ryV` (in VEX.vvvv), `Sreg`, `CRn`, `DRn`, `ST0`, `STi`, `eAX`.
   */
  readonly forms: Readonly<Record<string, string>>;
  /** LOCK is allowed when the destination is memory. */
  readonly lockable?: boolean;
  /** What must be enabled, else #UD or #NM: looked up by the decoder. */
  readonly needs?: 'x87' | 'mmx' | 'sse' | 'avx' | 'fwait';
  /** CPUID feature (name as in arch/cpuid.ts) without which the form is #UD. */
  readonly feature?: string;
  /** Ends a run of instructions: a branch, or it may change what the following ones mean. */
  readonly terminator?: boolean;
  /** Emits the meaning. Called once for each form, operand width, kind of operand and mode. */
  execute(m: Semantics): void;
}

export const instruction = <const I extends Instruction>(definition: I): Instruction => definition;

/** An instruction that is all TypeScript: rare, or intricate. */
export const helperInstruction = (
  name: string,
  source: string,
  forms: Readonly<Record<string, string>>,
  helper: Helper,
  more: Pick<Instruction, 'terminator'> = {},
): Instruction =>
  instruction({
    name,
    source,
    forms,
    ...more,
    execute(m) {
      m.helper(helper);
    },
  });

export type OperandKind =
  | 'gpr' // general register named by ModRM, opcode or fixed
  | 'mem'
  | 'imm'
  | 'rel'
  | 'xmm'
  | 'mm'
  | 'sreg'
  | 'cr'
  | 'dr'
  | 'sti'
  | 'one'
  | 'far';

/** A static operand of a form under one choice of width and of register or memory. */
export interface Operand {
  readonly kind: OperandKind;
  /** Bytes. 0 for `m` without a size. */
  readonly size: number;
  /** Which record field names the register: RA, RB, RC; or -1 with `fixed`. */
  readonly slot: number;
  /** Absolute address of a register that the form itself names (AL, CL, ST0 …), or 0. */
  readonly fixed: number;
  /** Immediate or full-size offset of 64 bits: REC.UPPER is a part of it. */
  readonly whole?: boolean;
}
