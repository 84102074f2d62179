import { AUX } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import type { Form, FormTable } from './forms.ts';
import { MODE } from './mode.ts';
import { CELL, IMMEDIATE, type Shape, SPECIAL } from './shape.ts';

/**
 * What the decoder has found out about encodings of 64-bit mode, for quick-decode.ts: prefixes, opcode and ModRM make a key,
 * and a template says what a record of that key consists of.
 *
 * Owns    which encodings are simple enough, and the tables in linear memory.
 * Never   decides what an encoding means: the decoder does, once for each key.
 */

/** The tables, from EngineMemory.templates on. */
export const TEMPLATES = {
  /** By byte: PREFIX. u8 */
  PREFIXES: 0,
  /** By map and opcode: MODRM. u8 */
  MODRM: 0x100,
  /** By key: number of a template, or 0. u16 */
  KEYS: 0x1000,
  KEYS_COUNT: 1 << 18,
  AT: 0x1000 + 2 * (1 << 18),
  COUNT: 8192,
  BYTES: 0x1000 + 2 * (1 << 18) + 8192 * 32,
} as const;

export const MODRM = { UNKNOWN: 0, NO: 1, YES: 2 } as const;

/** A template. Offsets in it. */
export const TEMPLATE = {
  BYTES: 32,
  HANDLER: 0, // u16
  /** DECODED. u8 */
  RESULT: 2,
  /** TEMPLATE_IMMEDIATE. u8 */
  IMMEDIATE: 3,
  /** TEMPLATE_FLAG bits. u32 */
  FLAGS: 4,
  /** What AUX always has. u32 */
  AUX: 8,
  /** Bits of the mode word that are looked at, and what they must be. u16 each */
  MODE_MASK: 12,
  MODE_VALUE: 14,
  /** Register operands, in the order of the record's fields: SOURCE, and CELL << 2; 0: none. u8 each */
  REGISTERS: 16,
} as const;

export const TEMPLATE_FLAG = {
  /** ModRM names memory. */
  MEMORY: 1,
  RELATIVE: 2,
  LOCKABLE: 4,
  /** REX.B would choose another form. */
  NO_REX_B: 8,
  /** The instruction names no operand: its segment is DS. */
  BARE: 16,
  /** The register in AUX is the opcode's. */
  PLUS_R: 32,
} as const;

export const TEMPLATE_IMMEDIATE = { NONE: 0, BYTE: 1, WORD: 2, UNSIGNED_WORD: 3, DWORD: 4, QWORD: 5 } as const;

/** Prefixes that matter to the key. */
export const KEY = { REP: 1, REPNE: 2, OPERAND16: 4, REX_W: 8, PREFIX_BITS: 4, MODRM_BITS: 4 } as const;

/** ModRM in a key: reg, and 8 if mod is 3. */
export const keyOf = (map: number, opcode: number, prefixes: number, modrm: number): number =>
  (((map << 8) | opcode) << (KEY.PREFIX_BITS + KEY.MODRM_BITS)) | (prefixes << KEY.MODRM_BITS) | modrm;
export const keyModRm = (modrm: number): number => ((modrm >>> 3) & 7) | (modrm >= 0xc0 ? 8 : 0);

/** What the decoder knows of an instruction that it has decoded. */
export interface Lesson {
  readonly map: number;
  readonly opcode: number;
  readonly modrm: number;
  /** KEY bits. */
  readonly prefixes: number;
  readonly rexB: boolean;
  /** Operand size that the prefixes give. */
  readonly v: number;
}

export class Templates {
  readonly #memory: EngineMemory;
  readonly #forms: FormTable;
  #count = 1;

  constructor(memory: EngineMemory, forms: FormTable, prefixes: Uint8Array) {
    this.#memory = memory;
    this.#forms = forms;
    const { u8, templates } = memory;
    u8.set(prefixes, templates + TEMPLATES.PREFIXES);
    for (let map = 0; map < 4; map += 1) {
      for (let opcode = 0; opcode < 256; opcode += 1) {
        const has = forms.hasModRm(false, map, opcode) ? MODRM.YES : MODRM.NO;
        if (forms.candidates(false, map, opcode)) u8[templates + TEMPLATES.MODRM + (map << 8) + opcode] = has;
      }
    }
  }

  /** Keeps what a form in 64-bit mode is made of, if that depends on nothing but the key. */
  learn(form: Form, shape: Shape, handler: number, lesson: Lesson): void {
    const { map, opcode, modrm, prefixes, v } = lesson;
    if (this.#count === TEMPLATES.COUNT || !this.#isPlain(form, shape, lesson)) return;
    const needs = NEEDS[form.instruction.needs ?? 'nothing'];
    const immediate = shape.immediates.length === 0 ? TEMPLATE_IMMEDIATE.NONE : immediateOf(shape.immediates[0]!, v);
    if (needs === undefined || immediate < 0) return;
    const { u8, u16, u32, templates } = this.#memory;
    const number = this.#count++;
    const at = templates + TEMPLATES.AT + number * TEMPLATE.BYTES;
    u16[(at + TEMPLATE.HANDLER) >>> 1] = handler;
    u8[at + TEMPLATE.RESULT] = shape.result;
    u8[at + TEMPLATE.IMMEDIATE] = immediate;
    u32[(at + TEMPLATE.FLAGS) >>> 2] =
      (shape.memory ? TEMPLATE_FLAG.MEMORY : 0) |
      (shape.relative ? TEMPLATE_FLAG.RELATIVE : 0) |
      (shape.lockable ? TEMPLATE_FLAG.LOCKABLE : 0) |
      (form.noRexB ? TEMPLATE_FLAG.NO_REX_B : 0) |
      (form.operands.length === 0 ? TEMPLATE_FLAG.BARE : 0) |
      (form.plusR ? TEMPLATE_FLAG.PLUS_R : 0);
    u32[(at + TEMPLATE.AUX) >>> 2] =
      (2 << AUX.ADDRESS_SIZE_SHIFT) | (shape.log << AUX.OPERAND_SIZE_SHIFT) | (shape.addresses ? AUX.MEMORY : 0);
    u16[(at + TEMPLATE.MODE_MASK) >>> 1] = needs[0];
    u16[(at + TEMPLATE.MODE_VALUE) >>> 1] = needs[1];
    for (let i = 0; i < 3; i += 1) {
      const register = shape.registers[i];
      u8[at + TEMPLATE.REGISTERS + i] = register ? register.source | (register.cell << 2) : 0;
    }
    const key = keyOf(map, opcode, prefixes, form.modrm ? keyModRm(modrm) : 0);
    u16[((templates + TEMPLATES.KEYS) >>> 1) + key] = number;
  }

  #isPlain(form: Form, shape: Shape, { map, opcode, modrm, rexB }: Lesson): boolean {
    if (form.vex || form.vsib || form.vvvv || shape.moffs || shape.special !== SPECIAL.NONE) return false;
    if (shape.immediates.length > 1 || shape.registers.length > 3) return false;
    if (shape.registers.some(({ cell }) => cell === CELL.SEGMENT || cell === CELL.NONE)) return false;
    // Some forms of the opcode have ModRM, and others look at all of it, or at REX.B
    if (form.modrm !== this.#forms.hasModRm(false, map, opcode)) return false;
    const candidates = this.#forms.candidates(false, map, opcode)!;
    if (modrm >= 0xc0 && candidates.some(({ modrmByte }) => modrmByte >= 0)) return false;
    return form.noRexB ? !rexB : !candidates.some(({ noRexB }) => noRexB);
  }
}

/** By what a form needs: bits of the mode word, and what they are if it can run. */
const NEEDS: Readonly<Record<string, readonly [mask: number, value: number] | undefined>> = {
  nothing: [0, 0],
  x87: [MODE.EM | MODE.TS, 0],
  mmx: [MODE.EM | MODE.TS, 0],
  sse: [MODE.EM | MODE.TS | MODE.OSFXSR, MODE.OSFXSR],
};

function immediateOf(kind: number, v: number): number {
  switch (kind) {
    case IMMEDIATE.BYTE:
      return TEMPLATE_IMMEDIATE.BYTE;
    case IMMEDIATE.WORD:
      return TEMPLATE_IMMEDIATE.UNSIGNED_WORD;
    case IMMEDIATE.DWORD:
      return TEMPLATE_IMMEDIATE.DWORD;
    case IMMEDIATE.Z:
      return v === 2 ? TEMPLATE_IMMEDIATE.WORD : TEMPLATE_IMMEDIATE.DWORD;
    case IMMEDIATE.V:
      return v === 8 ? TEMPLATE_IMMEDIATE.QWORD : v === 2 ? TEMPLATE_IMMEDIATE.WORD : TEMPLATE_IMMEDIATE.DWORD;
    default:
      return -1;
  }
}
