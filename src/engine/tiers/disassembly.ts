import { hex, hexBytes } from '../../base/format.ts';
import { AUX, GPR, REC, S, SEG } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { PSEUDO, type Variant } from '../decode/decoder.ts';
import type { Operand } from '../isa/instruction.ts';
import { contextOf } from './variants.ts';

const NAMES64 = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const;
const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;

/**
 * A decoded instruction in Intel's syntax, for reports: names and operands are those of its row and its record.
 *
 * @param page  Linear address of its page, or 0 where that is not known.
 */
export function disassemble(memory: EngineMemory, record: number, variant: Variant, page: bigint): string {
  const { u32 } = memory;
  const { form } = variant;
  const context = contextOf(variant);
  const aux = u32[(record + REC.AUX) >>> 2]!;
  const operands = form.operands.map((_, i): string => {
    const operand = context.operands[i]!;
    switch (operand.kind) {
      case 'mem':
        return memoryOperand(memory, record, operand, page);
      case 'imm':
        return wholeOrSigned(memory, record + REC.IMM, record, operand);
      case 'one':
        return '1';
      case 'rel': {
        const behind = memory.u16[(record + REC.OFFSET) >>> 1]! + memory.u8[record + REC.LENGTH]!;
        return hex(BigInt.asUintN(64, page + BigInt(behind + memory.i32[(record + REC.IMM) >>> 2]!)));
      }
      case 'far': {
        const [offset, selector] = [u32[(record + REC.IMM) >>> 2]!, u32[(record + REC.UPPER) >>> 2]!];
        return `${hex(selector & 0xffff)}:${hex(offset)}`;
      }
      case 'cr':
      case 'dr':
        return `${operand.kind}${(aux >>> AUX.REG_SHIFT) & 15}`;
      default: {
        const cell =
          operand.slot < 0 ? operand.fixed : memory.u16[(record + [REC.RA, REC.RB, REC.RC][operand.slot]!) >>> 1]!;
        return registerName(operand.kind, cell, operand.size);
      }
    }
  });
  const prefix = aux & AUX.LOCK ? 'lock ' : aux & AUX.REP ? 'rep ' : aux & AUX.REPNE ? 'repne ' : '';
  return `${prefix}${form.mnemonic.toLowerCase()} ${operands.join(', ')}`.trimEnd();
}

/** One line of a listing: place, bytes, instruction. `variant`: what the record's handler stands for. */
export function listingLine(
  memory: EngineMemory,
  record: number,
  variant: Variant | undefined,
  bytes: Uint8Array,
  page: bigint,
): string {
  const offset = memory.u16[(record + REC.OFFSET) >>> 1]!;
  const handler = memory.u16[record >>> 1]!;
  const text = variant ? disassemble(memory, record, variant, page) : (pseudoName(handler) ?? `handler ${handler}`);
  return `${hex(page + BigInt(offset), page === 0n ? 3 : 8)}: ${hexBytes(bytes).padEnd(32)}  ${text}`;
}

const pseudoName = (handler: number): string | undefined =>
  Object.entries(PSEUDO).find(([name, number]) => name !== 'COUNT' && number === handler)?.[0];

function registerName(kind: string, cell: number, bytes: number): string {
  if (kind === 'gpr') {
    const index = (cell - GPR) >>> 3;
    if (cell & 7) return `${'acdb'[index] ?? '?'}h`;
    if (index >= 8) return `r${index}${bytes === 8 ? '' : bytes === 4 ? 'd' : bytes === 2 ? 'w' : 'b'}`;
    const name = NAMES64[index]!;
    if (bytes === 8) return name;
    if (bytes === 4) return `e${name.slice(1)}`;
    if (bytes === 2) return name.slice(1);
    return index < 4 ? `${name[1]}l` : `${name.slice(1)}l`;
  }
  if (kind === 'xmm') return `${bytes === 32 ? 'ymm' : 'xmm'}${(cell - S.XMM) >>> 4}`;
  if (kind === 'mm') return `mm${(cell - S.FPR) >>> 4}`;
  if (kind === 'sreg') return SEGMENTS[(cell - S.SEGMENTS) / SEG.BYTES] ?? 'sreg';
  return kind;
}

function memoryOperand(memory: EngineMemory, record: number, operand: Operand, page: bigint): string {
  const { u32, u16, u8, i32 } = memory;
  const addressBytes = 2 << ((u32[(record + REC.AUX) >>> 2]! >>> AUX.ADDRESS_SIZE_SHIFT) & 3);
  const name = (cell: number): string =>
    cell === S.RIP_PAGE ? 'page' : cell === S.ZERO ? '' : registerName('gpr', cell, addressBytes);
  const parts: string[] = [];
  const base = u16[(record + REC.BASE) >>> 1]!;
  if (operand.whole) parts.push(wholeOrSigned(memory, record + REC.DISP, record, operand));
  else if (base !== S.ZERO) parts.push(name(base));
  const index = u16[(record + REC.INDEX) >>> 1]!;
  if (index !== S.ZERO) parts.push(`${name(index)}*${1 << u8[record + REC.SCALE]!}`);
  const displacement = operand.whole ? 0 : i32[(record + REC.DISP) >>> 2]!;
  const sign = displacement < 0 ? '-' : '+';
  let text =
    base === S.RIP_PAGE && page !== 0n ? hex(BigInt.asUintN(64, page + BigInt(displacement))) : parts.join('+');
  if (text === parts.join('+') && (displacement !== 0 || text === ''))
    text += text === '' ? hex(displacement) : `${sign}${hex(Math.abs(displacement))}`;
  const segment = u16[(record + REC.SEG) >>> 1]!;
  const number = (segment - S.SEG_BASE) / 8;
  const over = number === SEG.FS || number === SEG.GS ? `${SEGMENTS[number]}:` : '';
  return `${{ 1: 'byte ', 2: 'word ', 4: 'dword ', 8: 'qword ', 16: 'xmmword ' }[operand.size] ?? ''}${over}[${text}]`;
}

/** An immediate or displacement, at `address` in its record. */
function wholeOrSigned({ u32, i32 }: EngineMemory, address: number, record: number, { whole }: Operand): string {
  const at = address >>> 2;
  const upper = BigInt(u32[(record + REC.UPPER) >>> 2]!) << 32n;
  const value = whole ? BigInt.asIntN(64, upper | BigInt(u32[at]!)) : BigInt(i32[at]!);
  return value < 0n ? `-${hex(-value)}` : hex(value);
}
