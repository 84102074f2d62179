import { assert } from '../../base/assert.ts';
import type { Instruction, OperandKind } from '../isa/instruction.ts';
import { type Shape, shapeOf } from './shape.ts';

/**
 * The instruction rows' notation, parsed: from `'0F AF /r': 'IMUL rv, r/mv'` to what the decoder matches and extracts.
 *
 * Owns    the meaning of the notation (documented at Instruction.forms).
 * Source  SDM 2A 3.1.1 "Instruction Format"; Appendix A "Opcode Map".
 */

/** Size of an operand: bytes, or by operand size (`v` 2/4/8, `z` 2/4, `y` 4/8), or none. */
export type SizeRule = number | 'v' | 'z' | 'y';

export type Encoding = 'modrm.reg' | 'modrm.rm' | 'opcode' | 'fixed' | 'imm' | 'moffs' | 'vvvv' | 'is4';

export interface OperandForm {
  readonly kind: OperandKind;
  readonly encoding: Encoding;
  readonly size: SizeRule;
  /** `r/m`: register or memory by ModRM.mod. */
  readonly either: boolean;
  /** Bytes of the memory form if it differs from the register form (`xmm/m32`). */
  readonly memorySize: SizeRule;
  /** Number of a register that the form names, or -1. */
  readonly register: number;
}

export interface Form {
  readonly index: number;
  readonly instruction: Instruction;
  readonly opcodeText: string;
  readonly text: string;
  readonly mnemonic: string;
  readonly operands: readonly OperandForm[];
  /** 0 one-byte, 1 0F, 2 0F 38, 3 0F 3A. */
  readonly map: number;
  readonly opcode: number;
  /** +r: the low three bits of the opcode are a register. */
  readonly plusR: boolean;
  /** Mandatory prefix: -1 any, 0 none, 0x66, 0xf2, 0xf3. */
  readonly prefix: number;
  readonly modrm: boolean;
  /** ModRM.reg must be this, or -1. */
  readonly digit: number;
  /** 'm' memory only, 'r' register only, '' both. */
  readonly rm: '' | 'm' | 'r';
  /** ModRM byte that must match whole (`0F 01 C8`), or -1. */
  readonly modrmByte: number;
  /** -1 any. */
  readonly w: number;
  readonly vex: boolean;
  /** VEX.L: 0, 1, or -1 ignored. */
  readonly l: number;
  /** VEX.vvvv names an operand; where it does not, it must be 1111b. */
  readonly vvvv: boolean;
  /** The memory operand has a vector of indices: SDM 2A 2.3.12 "Vector SIB (VSIB) Memory Addressing". */
  readonly vsib: boolean;
  /** VEX.W is a general register's width: outside 64-bit mode it is ignored. */
  readonly vexGpr: boolean;
  readonly immediates: readonly string[];
  readonly only64: boolean;
  /** REX.B must be clear. */
  readonly noRexB: boolean;
  readonly not64: boolean;
  /** '' or 'd64' (64-bit by default) or 'f64' (always). */
  readonly wide: '' | 'd64' | 'f64';
  /** A size that the operand-size attribute decides, or undefined for a fixed one. */
  readonly sized: boolean;
  /** 66 is an operand size to it and no other instruction's prefix. */
  readonly takes66: boolean;
}

const FIXED: Record<string, [register: number, size: SizeRule]> = {
  AL: [0, 1],
  CL: [1, 1],
  AX: [0, 2],
  DX: [2, 2],
  EAX: [0, 4],
  rAX: [0, 'v'],
  eAX: [0, 'z'],
  AH: [-2, 1],
  RAX: [0, 8],
  ECX: [1, 4],
  EDX: [2, 4],
};

const LETTER: Record<string, SizeRule> = {
  '8': 1,
  '16': 2,
  '32': 4,
  '64': 8,
  v: 'v',
  z: 'z',
  y: 'y',
  w: 2,
  d: 4,
  q: 8,
  b: 1,
};

/** What operands mean, by text and by what of `operand`'s other arguments counts. They are few, and forms are many. */
const OPERANDS = new Map<string, { readonly operand: OperandForm; readonly takesReg: boolean }>();

function operand(
  text: string,
  context: string,
  hasModRm: boolean,
  plusR: boolean,
  reg: { taken: boolean },
): OperandForm {
  const key = `${text}${hasModRm ? 'm' : ''}${plusR ? '+' : ''}${reg.taken ? 't' : ''}`;
  let known = OPERANDS.get(key);
  if (!known) {
    const after = { taken: reg.taken };
    known = { operand: parseOperand(text, context, hasModRm, plusR, after), takesReg: after.taken };
    OPERANDS.set(key, known);
  }
  reg.taken = known.takesReg;
  return known.operand;
}

function parseOperand(
  text: string,
  context: string,
  hasModRm: boolean,
  plusR: boolean,
  reg: { taken: boolean },
): OperandForm {
  const make = (
    kind: OperandKind,
    encoding: Encoding,
    size: SizeRule,
    either = false,
    memorySize: SizeRule = size,
    register = -1,
  ): OperandForm => ({ kind, encoding, size, either, memorySize, register });
  const fixed = FIXED[text];
  if (fixed) return make('gpr', 'fixed', fixed[1], false, fixed[1], fixed[0]);
  if (text === '1') return make('one', 'fixed', 1);
  let match = /^r\/m(8|16|32|64|v|z|y)$/.exec(text);
  if (match) return make('gpr', 'modrm.rm', LETTER[match[1]!]!, true);
  match = /^r(8|16|32|64)?\/m(8|16|32|64)$/.exec(text) ?? /^r(v|y|32|64)\/m(8|16|32|64)$/.exec(text);
  if (match) return make('gpr', 'modrm.rm', LETTER[match[1] ?? '32']!, true, LETTER[match[2]!]!);
  match = /^r(8|16|32|64|v|z|y|w|d|q)$/.exec(text);
  if (match) {
    const size = LETTER[match[1]!]!;
    if (plusR) return make('gpr', 'opcode', size);
    // The first `r` operand is ModRM.reg; where the form says register only (`/r:r`, digits), the other is ModRM.rm
    if (hasModRm && !reg.taken) {
      reg.taken = true;
      return make('gpr', 'modrm.reg', size);
    }
    return make('gpr', 'modrm.rm', size);
  }
  match = /^imm(8|16|32|64|z|v)$/.exec(text);
  if (match) return make('imm', 'imm', LETTER[match[1]!]!);
  match = /^rel(8|z)$/.exec(text);
  if (match) return make('rel', 'imm', LETTER[match[1]!]!);
  match = /^moffs(8|v)$/.exec(text);
  if (match) return make('mem', 'moffs', LETTER[match[1]!]!);
  match = /^m(8|16|32|64|80|128|256|512|v|z|y|w|d|q)?$/.exec(text);
  if (match) {
    const bits = match[1];
    const size: SizeRule = bits === undefined ? 0 : /^\d+$/.test(bits) ? Number(bits) / 8 : LETTER[bits]!;
    return make('mem', 'modrm.rm', size);
  }
  if (/^vm(32|64)[xy]$/.test(text)) return make('mem', 'modrm.rm', 0);
  if (/^m(14|28|94|108|16:\w+|\d+(int|fp|bcd|byte))$/.test(text)) {
    const bits = /^m(\d+)(int|fp|bcd)$/.exec(text);
    return make('mem', 'modrm.rm', bits ? Number(bits[1]) / 8 : 0);
  }
  match =
    /^(xmm|ymm|mm)(?:\/m(8|16|32|64|128|256))?$/.exec(text) ??
    /^(xmm|ymm|mm)[123](?:\/m(8|16|32|64|128|256))?$/.exec(text);
  if (match) {
    const kind = match[1] === 'mm' ? 'mm' : 'xmm';
    const size = match[1] === 'ymm' ? 32 : kind === 'mm' ? 8 : 16;
    if (match[2]) return make(kind, 'modrm.rm', size, true, Number(match[2]) / 8);
    if (hasModRm && !reg.taken) {
      reg.taken = true;
      return make(kind, 'modrm.reg', size);
    }
    return make(kind, 'modrm.rm', size);
  }
  if (/^[xy]mmV$/.test(text)) return make('xmm', 'vvvv', text[0] === 'y' ? 32 : 16);
  if (/^[xy]mmI$/.test(text)) return make('xmm', 'is4', text[0] === 'y' ? 32 : 16);
  if (/^r[yv]V$/.test(text)) return make('gpr', 'vvvv', text[1] as SizeRule);
  if (text === 'XMM0' || text === '<XMM0>') return make('xmm', 'fixed', 16, false, 16, 0);
  if (text === 'Sreg') return make('sreg', 'modrm.reg', 2);
  if (['ES', 'CS', 'SS', 'DS', 'FS', 'GS'].includes(text)) {
    return make('sreg', 'fixed', 2, false, 2, ['ES', 'CS', 'SS', 'DS', 'FS', 'GS'].indexOf(text));
  }
  if (text === 'CRn') return make('cr', 'modrm.reg', 8);
  if (text === 'DRn') return make('dr', 'modrm.reg', 8);
  if (text === 'ST0' || text === 'ST') return make('sti', 'fixed', 10, false, 10, 0);
  if (text === 'STi') return make('sti', 'modrm.rm', 10);
  if (text === 'ptr16:z' || text === 'far') return make('far', 'imm', 'z');
  assert(false, `${context}: operand ${text} has a meaning`);
}

/** Parses one form. */
export function parseForm(instruction: Instruction, opcodeText: string, text: string, index: number): Form {
  const context = `${instruction.name} '${opcodeText}': '${text}'`;
  let map = 0;
  let opcode = -1;
  let plusR = false;
  let prefix = -1;
  let modrm = false;
  let digit = -1;
  let rm: '' | 'm' | 'r' = '';
  let modrmByte = -1;
  let w = -1;
  let noRexB = false;
  let only64 = false;
  let not64 = false;
  let wide: '' | 'd64' | 'f64' = '';
  let vex = false;
  let l = -1;
  const immediates: string[] = [];
  const bytes: number[] = [];
  for (const token of opcodeText.split(/\s+/)) {
    const vexed = /^VEX\.(.*)$/.exec(token);
    if (vexed) {
      vex = true;
      prefix = 0;
      for (const part of vexed[1]!.split('.')) {
        if (part === '128' || part === 'L0' || part === 'LZ') l = 0;
        else if (part === '256' || part === 'L1') l = 1;
        else if (part === 'LIG') l = -1;
        else if (part === '66' || part === 'F2' || part === 'F3') prefix = Number.parseInt(part, 16);
        else if (part === '0F') map = 1;
        else if (part === '0F38') map = 2;
        else if (part === '0F3A') map = 3;
        else if (part === 'W0') w = 0;
        else if (part === 'W1') w = 1;
        else assert(['WIG', 'NDS', 'NDD', 'DDS', 'NP'].includes(part), `${context}: VEX part ${part} has a meaning`);
      }
    } else if (token === 'NP') prefix = 0;
    else if (token === 'REX.W' || token === 'W1') w = 1;
    else if (token === 'W0') w = 0;
    else if (token === 'b0') noRexB = true;
    else if (token === 'o64') only64 = true;
    else if (token === 'i64') not64 = true;
    else if (token === 'd64' || token === 'f64') wide = token;
    else if (/^(ib|iw|id|iz|iv|io|cb|cz|cd|is4|far)$/.test(token)) immediates.push(token);
    else if (/^\/[r0-7](:[mr])?$/.test(token)) {
      modrm = true;
      if (token[1] !== 'r') digit = Number(token[1]);
      if (token.length > 2) rm = token[3] as 'm' | 'r';
    } else if (/^[0-9A-F]{2}(\+r)?$/.test(token)) {
      const byte = Number.parseInt(token.slice(0, 2), 16);
      if (
        bytes.length === 0 &&
        map === 0 &&
        prefix === -1 &&
        (byte === 0x66 || byte === 0xf2 || byte === 0xf3) &&
        opcodeText.length > 5 &&
        !vex
      ) {
        prefix = byte;
      } else bytes.push(byte);
      plusR ||= token.length > 2;
    } else if (/^\+r$/.test(token)) plusR = true;
    else assert(false, `${context}: opcode token ${token} has a meaning`);
  }
  if (!vex && bytes[0] === 0x0f && bytes.length > 1) {
    bytes.shift();
    map = 1;
    const second: number | undefined = bytes[0];
    if ((second === 0x38 || second === 0x3a) && bytes.length > 1) map = bytes.shift() === 0x38 ? 2 : 3;
  }
  opcode = bytes.shift()!;
  if (bytes.length > 0) {
    modrm = true;
    modrmByte = bytes.shift()!;
  }
  assert(bytes.length === 0 && opcode !== undefined, `${context}: an opcode and at most a ModRM byte`);
  const space = text.indexOf(' ');
  const mnemonic = space < 0 ? text : text.slice(0, space);
  const reg = { taken: digit >= 0 };
  const operands =
    space < 0
      ? []
      : text
          .slice(space + 1)
          .split(',')
          .map((part) => operand(part.trim(), context, modrm, plusR, reg));
  // `r32, xmm` under `/r`: the first register operand is ModRM.reg. `xmm/m64, xmm`: r/m was taken, the other is reg
  const sized =
    operands.some(({ size, memorySize }) => typeof size !== 'number' || typeof memorySize !== 'number') ||
    operands.length === 0 ||
    wide !== '';
  return {
    index,
    instruction,
    opcodeText,
    text,
    mnemonic,
    operands,
    map,
    opcode,
    plusR,
    prefix,
    modrm,
    digit,
    rm,
    modrmByte,
    w,
    vex,
    l,
    vvvv: operands.some(({ encoding }) => encoding === 'vvvv'),
    vsib: /\bvm(32|64)[xy]\b/.test(text),
    vexGpr: vex && operands.some(({ kind }) => kind === 'gpr'),
    immediates,
    only64,
    noRexB,
    not64,
    wide,
    sized,
    takes66:
      !vex && operands.some(({ size, memorySize }) => [size, memorySize].some((one) => one === 'v' || one === 'z')),
  };
}

/** Every form of the rows, and the candidates for each (VEX, map, opcode): more demanding forms first. */
export class FormTable {
  readonly forms: readonly Form[];
  readonly #byOpcode: (Form[] | undefined)[] = new Array<Form[] | undefined>(8 * 256);
  readonly #byName = new Map<string, Form>();
  readonly #modrm = new Uint8Array(8 * 256);
  readonly #shapes: (Shape | undefined)[];

  constructor(instructions: readonly Instruction[], has: (feature: string) => boolean) {
    const forms: Form[] = [];
    for (const instruction of instructions) {
      if (instruction.feature !== undefined && !has(instruction.feature)) continue;
      for (const [opcodeText, text] of Object.entries(instruction.forms)) {
        const form = parseForm(instruction, opcodeText, text, forms.length);
        forms.push(form);
        for (let i = 0; i < (form.plusR ? 8 : 1); i += 1) {
          const key = (form.vex ? 1024 : 0) + form.map * 256 + form.opcode + i;
          if (form.modrm) this.#modrm[key] = 1;
          const list = this.#byOpcode[key];
          if (list) list.push(form);
          else this.#byOpcode[key] = [form];
        }
      }
    }
    const demands = (form: Form): number =>
      (form.modrmByte >= 0 ? 16 : 0) +
      (form.prefix > 0 ? 8 : form.prefix === 0 ? 2 : 0) +
      (form.w >= 0 ? 4 : 0) +
      (form.rm !== '' || form.noRexB ? 1 : 0);
    for (const list of this.#byOpcode) list?.sort((a, b) => demands(b) - demands(a));
    this.forms = forms;
    for (const form of forms) this.#byName.set(form.opcodeText, form);
    this.#shapes = new Array<Shape | undefined>(12 * forms.length).fill(undefined);
  }

  /** The form with this opcode column. */
  named(opcodeText: string): Form | undefined {
    return this.#byName.get(opcodeText);
  }

  candidates(vex: boolean, map: number, opcode: number): readonly Form[] | undefined {
    return this.#byOpcode[(vex ? 1024 : 0) + map * 256 + opcode];
  }

  /** A form of that opcode has a ModRM byte. */
  hasModRm(vex: boolean, map: number, opcode: number): boolean {
    return this.#modrm[(vex ? 1024 : 0) + map * 256 + opcode] !== 0;
  }

  shape(form: Form, v: number, wide: boolean, isMemory: boolean): Shape {
    const key = form.index * 12 + (v === 8 ? 8 : v === 4 ? 4 : 0) + (wide ? 2 : 0) + (isMemory ? 1 : 0);
    let shape = this.#shapes[key];
    if (!shape) {
      shape = shapeOf(form, v, wide, isMemory);
      this.#shapes[key] = shape;
    }
    return shape;
  }
}
