import type { Form, OperandForm, SizeRule } from './forms.ts';

/**
 * A form under one choice of operand size and of register or memory: what of a record does not depend on the bytes, so
 * that decoding does not work it out again each time.
 */
export interface Shape {
  /** Operand size in bytes, and its logarithm. */
  readonly size: number;
  readonly log: number;
  /** ModRM names memory. */
  readonly memory: boolean;
  /** The instruction has a memory operand: that, an offset in the instruction, or XLAT's. */
  readonly addresses: boolean;
  /** Register operands, in the order of the record's fields. */
  readonly registers: readonly RegisterOperand[];
  readonly moffs: boolean;
  /** IMMEDIATE, in the order of the bytes. */
  readonly immediates: readonly number[];
  /** The immediate is a branch's distance. */
  readonly relative: boolean;
  readonly special: number;
  /** LOCK is allowed. */
  readonly lockable: boolean;
  /** DECODED */
  readonly result: number;
  /** Numbers of handlers by address mode (long, flat32, general) and whether the address is a general one; -1: none yet. */
  readonly handlers: Int32Array;
}

/** Answers of `decode`. */
export const DECODED = {
  NEXT: 0,
  TERMINATOR: 1,
  CROSSES: 2,
  /** Ends a run, but goes on behind it if not taken. */
  BRANCH: 3,
} as const;

/** Where a register's number stands. */
export const SOURCE = { REG: 0, RM: 1, OPCODE: 2, VVVV: 3 } as const;
/** How a number becomes the address of a register. */
export const CELL = { NONE: 0, GPR: 1, BYTE: 2, XMM: 3, MM: 4, SEGMENT: 5 } as const;
export const IMMEDIATE = { BYTE: 0, WORD: 1, DWORD: 2, Z: 3, FAR: 4, V: 5 } as const;
/** A register in an immediate's upper half; LOOP keeps its opcode; XLAT's base is RBX. */
export const SPECIAL = { NONE: 0, IS4: 1, XLAT: 2 } as const;

export interface RegisterOperand {
  readonly source: number;
  readonly cell: number;
}

const SOURCES: Partial<Record<OperandForm['encoding'], number>> = {
  'modrm.reg': SOURCE.REG,
  'modrm.rm': SOURCE.RM,
  opcode: SOURCE.OPCODE,
  vvvv: SOURCE.VVVV,
};
const IMMEDIATES: Readonly<Record<string, number>> = {
  ib: IMMEDIATE.BYTE,
  cb: IMMEDIATE.BYTE,
  is4: IMMEDIATE.BYTE,
  iw: IMMEDIATE.WORD,
  id: IMMEDIATE.DWORD,
  cd: IMMEDIATE.DWORD,
  iz: IMMEDIATE.Z,
  cz: IMMEDIATE.Z,
  far: IMMEDIATE.FAR,
};

function sizeOf(rule: SizeRule, v: number, wide: boolean): number {
  if (typeof rule === 'number') return rule;
  if (rule === 'v') return v;
  if (rule === 'z') return Math.min(v, 4);
  return wide || v === 8 ? 8 : 4;
}

function cellOf({ kind }: OperandForm, bytes: number): number {
  switch (kind) {
    case 'gpr':
      return bytes === 1 ? CELL.BYTE : CELL.GPR;
    case 'xmm':
      return CELL.XMM;
    case 'mm':
      return CELL.MM;
    case 'sreg':
      return CELL.SEGMENT;
    default:
      return CELL.NONE;
  }
}

function operandSize(form: Form, v: number, wide: boolean): number {
  for (const { kind, size } of form.operands) {
    if (typeof size !== 'number' && kind !== 'imm' && kind !== 'rel' && kind !== 'far') return sizeOf(size, v, wide);
  }
  const first = form.operands[0];
  if (first?.kind === 'xmm' || first?.kind === 'mm' || first?.kind === 'mem')
    return Math.min(8, sizeOf(first.memorySize, v, wide) || v);
  if (!form.sized && first && typeof first.size === 'number' && first.kind !== 'imm' && first.kind !== 'rel')
    return first.size;
  return v;
}

/**
 * @param v         Operand size that the prefixes give.
 * @param wide      REX.W or VEX.W.
 * @param isMemory  ModRM.mod is not 3.
 */
export function shapeOf(form: Form, v: number, wide: boolean, isMemory: boolean): Shape {
  const { instruction, operands } = form;
  const memory =
    form.modrm && form.modrmByte < 0 && isMemory && !operands.some(({ kind }) => kind === 'cr' || kind === 'dr');
  const registers = operands.flatMap((operand) => {
    const source = SOURCES[operand.encoding];
    if (source === undefined || (operand.encoding === 'modrm.rm' && memory)) return [];
    return [{ source, cell: cellOf(operand, sizeOf(operand.size, v, wide)) }];
  });
  const moffs = operands.some(({ encoding }) => encoding === 'moffs');
  const isXlat = instruction.name === 'XLAT/XLATB' || form.mnemonic === 'XLAT';
  const addresses = memory || moffs || isXlat;
  const size = operandSize(form, v, wide);
  return {
    size,
    log: [0, 0, 1, 0, 2, 0, 0, 0, 3][size] ?? 0,
    memory,
    addresses,
    registers,
    moffs,
    immediates: form.immediates.map((kind) => IMMEDIATES[kind] ?? IMMEDIATE.V),
    relative: operands.some(({ kind }) => kind === 'rel'),
    special: form.immediates.includes('is4') ? SPECIAL.IS4 : isXlat ? SPECIAL.XLAT : SPECIAL.NONE,
    lockable: instruction.lockable === true && addresses && operands[0]?.encoding === 'modrm.rm',
    result: !instruction.terminator ? DECODED.NEXT : instruction.name === 'Jcc' ? DECODED.BRANCH : DECODED.TERMINATOR,
    handlers: new Int32Array(6).fill(-1),
  };
}
