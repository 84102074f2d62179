/**
 * Reads an instruction form in the ISA tables' notation (src/engine/isa/instruction.ts) and encodes it with operands
 * of the caller's choice.
 *
 * Knows   the notation, prefixes, ModRM, SIB and VEX: an encoder, written apart from the decoder it will test.
 * Never   chooses anything: generate.ts does.
 */

import { INSTRUCTIONS } from '../../src/engine/isa/index.ts';

/** What a generator needs of a row of the ISA tables. */
export interface FormRow {
  /** Opcode column: `REX.W 01 /r`. */
  readonly opcode: string;
  /** Instruction column: `ADD r/mv, rv`. */
  readonly instruction: string;
  readonly lockable?: boolean | undefined;
  /** CPUID feature by Linux's name, if the form has one. */
  readonly feature?: string | undefined;
}

/** Every row of the ISA tables that matches. */
export const rowsOf = (wanted: RegExp): FormRow[] =>
  INSTRUCTIONS.flatMap(({ forms, lockable, feature }) =>
    Object.entries(forms).map(([opcode, instruction]) => ({ opcode, instruction, lockable, feature })),
  ).filter(({ opcode, instruction }) => wanted.test(`${opcode} ${instruction}`));

export interface Vex {
  /** Undefined: ignored. */
  readonly length: 0 | 1 | undefined;
  /** 0 none, 1 66, 2 F3, 3 F2. */
  readonly pp: number;
  /** 1 0F, 2 0F38, 3 0F3A. */
  readonly map: number;
  /** Undefined: ignored, or the operand size. */
  readonly w: 0 | 1 | undefined;
}

export interface Form {
  readonly row: FormRow;
  readonly mnemonic: string;
  readonly operands: readonly string[];
  readonly mandatory: number | undefined;
  /** Neither 66 nor F2 nor F3 may stand before it. */
  readonly noPrefix: boolean;
  readonly rexW: boolean;
  readonly vex: Vex | undefined;
  readonly bytes: readonly number[];
  readonly plusRegister: boolean;
  readonly modrm: { readonly digit: number | undefined; readonly only: 'm' | 'r' | undefined } | undefined;
  /** `ib`, `iw`, `id`, `iz`, `iv`, `io`, `cb`, `cz` in order. */
  readonly immediates: readonly string[];
  readonly modes: readonly (32 | 64)[];
  /** Operand sizes in bits that the notation allows in each mode; empty if the size plays no part. */
  sizes(mode: 32 | 64): readonly number[];
}

const PREFIX = new Set(['66', 'F2', 'F3']);

/** @returns  The form, or a sentence why this notation is not understood. */
export function parseForm(row: FormRow): Form | string {
  const tokens = row.opcode.trim().split(/\s+/);
  const [mnemonic = '', ...rest] = row.instruction.trim().split(/\s+/);
  const operands = rest
    .join(' ')
    .split(',')
    .map((text) => text.trim())
    .filter(Boolean);
  let mandatory: number | undefined;
  let noPrefix = false;
  let rexW = false;
  let fixedSize: number | undefined;
  let vex: Vex | undefined;
  let plusRegister = false;
  let modrm: Form['modrm'];
  const bytes: number[] = [];
  const immediates: string[] = [];
  const modes = new Set<32 | 64>([32, 64]);
  let default64 = false;
  let forced64 = false;

  for (const [i, token] of tokens.entries()) {
    const next = tokens[i + 1];
    if (
      PREFIX.has(token) &&
      bytes.length === 0 &&
      next !== undefined &&
      /^([0-9A-F]{2}(\+r)?|REX\.W|W[01])$/.test(next)
    ) {
      mandatory = Number.parseInt(token, 16);
    } else if (/^[0-9A-F]{2}$/.test(token)) bytes.push(Number.parseInt(token, 16));
    else if (/^[0-9A-F]{2}\+(r|i|rb|rw|rd|ro)$/.test(token)) {
      bytes.push(Number.parseInt(token, 16));
      plusRegister = true;
    } else if (/^\+(r|i|rb|rw|rd|ro)$/.test(token)) plusRegister = true;
    else if (token === 'NP') noPrefix = true;
    else if (token === 'REX.W' || (token === 'W1' && !vex)) rexW = true;
    else if (token === 'W0') fixedSize ??= 32;
    else if (token === 'o16') fixedSize = 16;
    else if (token === 'o32') fixedSize = 32;
    else if (token.startsWith('VEX.')) {
      const read = parseVex(token);
      if (!read) return `${token} is no VEX prefix that is understood`;
      vex = read;
    } else if (/^\/([0-7r])(:[mr])?$/.test(token)) {
      const digit = token[1] === 'r' ? undefined : Number(token[1]);
      modrm = { digit, only: token.endsWith(':m') ? 'm' : token.endsWith(':r') ? 'r' : undefined };
    } else if (/^(ib|iw|id|iz|iv|io|cb|cz|cw|cd|\/is4)$/.test(token)) immediates.push(token);
    else if (token === 'i64') modes.delete(64);
    else if (token === 'o64') modes.delete(32);
    else if (token === 'd64') default64 = true;
    else if (token === 'f64') forced64 = true;
    else if (token === 'b0' || token === 'far')
      continue; // without REX.B, as an operand of its own: nothing to encode
    else return `${token} is no part of the notation`;
  }
  if (bytes.length === 0) return 'there is no opcode byte';
  const text = operands.join(' ');
  // VEX.W chooses the form in every mode, unless it is the width of a general register
  if (rexW || (vex?.w === 1 && namesGeneralRegister(text))) modes.delete(32);

  const variable = /\b(r|r\/m|m|imm)?v\b|\brv|\br\/mv|immz|relz|\b[re]AX\b|\biz\b/.test(
    `${text} ${immediates.join(' ')}`,
  );
  const yWide = /\bryV?\b|r\/my\b/.test(text);
  const sizes = (mode: 32 | 64): readonly number[] => {
    if (rexW) return [64];
    if (fixedSize !== undefined) return [fixedSize];
    if (forced64 && mode === 64) return [64];
    if (yWide) return mode === 64 ? [32, 64] : [32];
    if (!variable && !default64) return [];
    if (mode === 32) return immediates.includes('cz') ? [32] : [16, 32];
    return default64 ? [16, 64] : [16, 32, 64];
  };
  const found = { row, mnemonic, operands, mandatory, noPrefix, rexW, vex, bytes, plusRegister, modrm, immediates };
  return { ...found, modes: [...modes], sizes };
}

/** Operands among which is a general register. */
export const namesGeneralRegister = (operands: string): boolean =>
  /\br[ydqvw]?V?\b|\br(8|16|32|64)\b|\br(32|y)?\/m/.test(operands);

function parseVex(token: string): Vex | undefined {
  const parts = token.split('.').slice(1);
  const has = (...names: string[]) => names.some((name) => parts.includes(name));
  const map = has('0F38') ? 2 : has('0F3A') ? 3 : has('0F') ? 1 : 0;
  if (map === 0) return undefined;
  return {
    length: has('LIG') ? undefined : has('256', 'L1') ? 1 : 0,
    pp: has('66') ? 1 : has('F3') ? 2 : has('F2') ? 3 : 0,
    map,
    w: has('W1') ? 1 : has('W0') ? 0 : undefined,
  };
}

/** The memory operand's size in bytes; undefined if the form has none, 0 if the notation does not say. */
export function memoryBytes(form: Form, size: number): number | undefined {
  for (const operand of form.operands) {
    if (/^vm(32|64)[xy]$/.test(operand)) return form.vex?.w ? 8 : 4;
    if (operand.startsWith('moffs')) return operand === 'moffsv' ? size / 8 : Number(operand.slice(5)) / 8;
    const match = /(?:^|\/)m(\d+|v|y|z)?(?:fp|int|bcd|dec|ptr)?$/.exec(operand);
    if (!match) continue;
    if (match[1] === undefined) return 0;
    return /\d/.test(match[1]) ? Number(match[1]) / 8 : size / 8;
  }
  return undefined;
}

export interface Memory {
  readonly base: number | undefined;
  /** A vector register's number with VSIB. */
  readonly index: number | undefined;
  /** 0–3. */
  readonly scale: number;
  readonly displacement: number;
  readonly ripRelative: boolean;
  readonly displacementBytes: 0 | 1 | 4;
}

export interface Choice {
  readonly mode: 32 | 64;
  /** Operand size in bits; 0 where it plays no part. */
  readonly size: number;
  readonly reg: number;
  /** Register in ModRM.rm or in the opcode; or memory. */
  readonly rm: number | Memory;
  /** Four bits: an operand, or what should be 0 (1111b as encoded). */
  readonly vvvv: number;
  /** VEX.W and VEX.L where the form ignores them, and C4 where C5 would do. */
  readonly vex: { readonly w: 0 | 1; readonly length: 0 | 1; readonly long: boolean };
  /** Prefix bytes before everything else: segment overrides, LOCK, REP, 67h. */
  readonly prefixes: readonly number[];
  readonly redundantRex: boolean;
  readonly addressSizeOverride: boolean;
  /** One value for each of `form.immediates`. */
  readonly immediates: readonly bigint[];
  /** Absolute address for `moffs` operands. */
  readonly moffs: bigint | undefined;
}

/** The instruction's bytes. RIP-relative displacements are taken as they are. */
export function encode(form: Form, choice: Choice): Uint8Array {
  const { mode, size } = choice;
  const memory = typeof choice.rm === 'object' ? choice.rm : undefined;
  const rmRegister = typeof choice.rm === 'number' ? choice.rm : 0;
  const w = form.rexW || (size === 64 && form.vex === undefined && wideByRex(form));
  const regField = form.modrm?.digit ?? choice.reg;
  const r = form.modrm?.digit === undefined && form.modrm ? regField >> 3 : 0;
  const x = (memory?.index ?? 0) >> 3;
  const b = (memory ? (memory.base ?? 0) : rmRegister) >> 3;

  const out: number[] = [...choice.prefixes];
  if (choice.addressSizeOverride) out.push(0x67);
  if (size === 16 && form.mandatory !== 0x66 && !form.vex) out.push(0x66);
  if (form.vex) out.push(...vexPrefix(form.vex, r, x, b, choice));
  else {
    if (form.mandatory !== undefined) out.push(form.mandatory);
    const rex = (w ? 8 : 0) | (r << 2) | (x << 1) | b;
    if (mode === 64 && (rex !== 0 || choice.redundantRex)) out.push(0x40 | rex);
  }
  const opcode = [...form.bytes];
  if (form.plusRegister) opcode[opcode.length - 1]! += rmRegister & 7;
  out.push(...opcode);

  if (form.modrm) {
    if (memory) out.push(...memoryModrm(regField & 7, memory, mode));
    else out.push(0xc0 | ((regField & 7) << 3) | (rmRegister & 7));
  }
  if (choice.moffs !== undefined) {
    out.push(
      ...little(
        choice.moffs,
        mode === 64 && !choice.addressSizeOverride ? 8 : mode === 32 && choice.addressSizeOverride ? 2 : 4,
      ),
    );
  }
  form.immediates.forEach((kind, i) => {
    out.push(...little(choice.immediates[i]!, immediateBytes(kind, size)));
  });
  return Uint8Array.from(out);
}

export function immediateBytes(kind: string, size: number): number {
  switch (kind) {
    case 'iw':
    case 'cw':
      return 2;
    case 'id':
    case 'cd':
      return 4;
    case 'io':
      return 8;
    case 'iz':
    case 'cz':
      return size === 16 ? 2 : 4;
    case 'iv':
      return size / 8;
    default:
      return 1;
  }
}

/** 64-bit by default needs no REX.W. */
const wideByRex = (form: Form) => !/\b[df]64\b/.test(form.row.opcode);

function vexPrefix(vex: Vex, r: number, x: number, b: number, { vvvv, vex: free }: Choice): number[] {
  const w = vex.w ?? free.w;
  const tail = ((~vvvv & 15) << 3) | ((vex.length ?? free.length) << 2) | vex.pp;
  if (x === 0 && b === 0 && w === 0 && vex.map === 1 && !free.long) return [0xc5, ((r ^ 1) << 7) | tail];
  return [0xc4, ((r ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | vex.map, (w << 7) | tail];
}

function memoryModrm(reg: number, memory: Memory, mode: 32 | 64): number[] {
  const { base, index, scale, displacement, displacementBytes } = memory;
  const field = reg << 3;
  const bytes4 = little(BigInt(displacement), 4);
  if (memory.ripRelative) return [field | 5, ...bytes4];
  if (base === undefined && index === undefined)
    return mode === 64 ? [field | 4, 0x25, ...bytes4] : [field | 5, ...bytes4];
  if (base === undefined) return [field | 4, (scale << 6) | ((index! & 7) << 3) | 5, ...bytes4];
  const mod = displacementBytes === 0 ? 0 : displacementBytes === 1 ? 0x40 : 0x80;
  const tail = displacementBytes === 0 ? [] : little(BigInt(displacement), displacementBytes);
  if (index === undefined && (base & 7) !== 4) return [mod | field | (base & 7), ...tail];
  return [mod | field | 4, (scale << 6) | ((index === undefined ? 4 : index & 7) << 3) | (base & 7), ...tail];
}

export function little(value: bigint, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(i * 8)) & 255n));
}
