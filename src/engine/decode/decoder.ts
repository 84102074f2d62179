import { AUX, gpr, REC, S, SEG, segment } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import type { AddressMode } from '../isa/semantics.ts';
import type { Form, FormTable, SizeRule } from './forms.ts';
import { MODE } from './mode.ts';

/** One choice of everything static about a form: what a handler is made for. */
export interface Variant {
  readonly form: Form;
  /** Operand size in bytes. */
  readonly size: number;
  readonly memory: boolean;
  readonly mode: AddressMode;
  readonly generalAddress: boolean;
}

/** Handlers that are not instructions. */
export const PSEUDO = {
  /** The bytes here have changed, or were never decoded: look again. */
  STALE: 0,
  /** Go on at LINK: this place was decoded before. */
  GOTO: 1,
  /** The counted instructions are done. */
  END: 2,
  /** Raise exception IMM. */
  RAISE: 3,
  /** The page ends: go on at RIP_PAGE + OFFSET. */
  PAGE_END: 4,
  /** The instruction crosses into the next page: the next record holds it if its bytes are still the same. */
  CROSS: 5,
  COUNT: 6,
} as const;

/** Handler numbers from here on are regions of compiled code, not forms. */
export const REGION_SLOT = 8192;

/** Answers of `decode`. */
export const DECODED = {
  NEXT: 0,
  TERMINATOR: 1,
  CROSSES: 2,
  /** Ends a run, but goes on behind it if not taken. */ BRANCH: 3,
} as const;

const UD = 6;
const NM = 7;
const GP = 13;

/**
 * Bytes → record.
 *
 * Owns    prefixes, ModRM, SIB, displacements and immediates, which form an encoding is, and the #UD and #NM that do not
 *         depend on operands.
 * Knows   nothing of what instructions do.
 *
 * Source  SDM 2A 2 "Instruction Format".
 */
export class Decoder {
  readonly #memory: EngineMemory;
  readonly #forms: FormTable;
  /** Number of the handler for a variant: made on first use by the tier. */
  readonly #handler: (variant: Variant) => number;
  readonly #handlers = new Map<number, number>();

  // Input: the bytes
  #bytes: Uint8Array;
  #at = 0;
  #end = 0;
  #short = false;

  // What was found
  length = 0;

  /** 66 makes near branches of 64-bit mode 16 bits wide. */
  readonly #shortBranches: boolean;

  /** @param vendor  AMD honours 66 before near branches in 64-bit mode (APM 3 table B-4), Intel ignores it. */
  constructor(
    memory: EngineMemory,
    forms: FormTable,
    handler: (variant: Variant) => number,
    vendor: 'intel' | 'amd' = 'intel',
  ) {
    this.#memory = memory;
    this.#forms = forms;
    this.#handler = handler;
    this.#shortBranches = vendor === 'amd';
    this.#bytes = memory.u8;
  }

  #byte(): number {
    if (this.#at >= this.#end) {
      this.#short = true;
      return 0;
    }
    return this.#bytes[this.#at++]!;
  }

  #word(): number {
    const low = this.#byte();
    return low | (this.#byte() << 8);
  }

  #dword(): number {
    const low = this.#word();
    return low | (this.#word() << 16);
  }

  /**
   * Decodes the instruction at `start` of `bytes` into the record at `record`.
   *
   * @param end     First byte that may not be read: a page end.
   * @param offset  Offset of the instruction in its page, for the record.
   * @param mode    MODE word.
   * @returns       DECODED.CROSSES if bytes up to `end` are not enough; nothing is written then.
   */
  decode(record: number, bytes: Uint8Array, start: number, end: number, offset: number, mode: number): number {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = Math.min(end, start + 15);
    this.#short = false;
    this.#second = false;
    const result = this.#decode(record, start, offset, mode);
    if (this.#short) {
      if (this.#end - start < 15) return DECODED.CROSSES;
      // 15 bytes are not enough: SDM 2A 2.3.11 "AVX Instruction Length" and #GP for over-long instructions
      this.#raise(record, GP, 15, offset);
      return DECODED.TERMINATOR;
    }
    return result;
  }

  #raise(record: number, vector: number, length: number, offset: number): void {
    const { u32, u16, u8 } = this.#memory;
    u16[record >>> 1] = PSEUDO.RAISE;
    u16[(record + REC.OFFSET) >>> 1] = offset;
    u8[record + REC.LENGTH] = length;
    u32[(record + REC.IMM) >>> 2] = vector;
    u32[(record + REC.IMM + 4) >>> 2] = 0;
    this.length = length;
  }

  #fail(record: number, vector: number, start: number, offset: number): number {
    this.#raise(record, vector, this.#at - start, offset);
    return DECODED.TERMINATOR;
  }

  #decode(record: number, start: number, offset: number, mode: number): number {
    const long = (mode & MODE.LONG) !== 0;
    let operand16 = false;
    let addressOverride = false;
    let rep = 0;
    let lock = false;
    let segmentOverride = -1;
    let rex = 0;
    let opcode: number;
    for (;;) {
      opcode = this.#byte();
      if (this.#short) return DECODED.NEXT;
      if (opcode === 0x66) operand16 = true;
      else if (opcode === 0x67) addressOverride = true;
      else if (opcode === 0xf2 || opcode === 0xf3) rep = opcode;
      else if (opcode === 0xf0) lock = true;
      else if (opcode === 0x2e || opcode === 0x36 || opcode === 0x3e || opcode === 0x26) {
        if (!long) segmentOverride = (opcode >>> 3) & 3;
      } else if (opcode === 0x64 || opcode === 0x65) segmentOverride = opcode - 0x60;
      else if (long && (opcode & 0xf0) === 0x40) {
        rex = opcode;
        opcode = this.#byte();
        // A REX that is not right before the opcode is ignored
        if (this.#isPrefix(opcode)) {
          this.#at -= 1;
          rex = 0;
          continue;
        }
        break;
      } else break;
    }
    let map = 0;
    let vex = false;
    let vvvv = 0;
    let vexL = 0;
    let prefix = rep !== 0 ? rep : operand16 ? 0x66 : 0;
    if (opcode === 0x0f) {
      opcode = this.#byte();
      map = 1;
      if (opcode === 0x38) {
        opcode = this.#byte();
        map = 2;
      } else if (opcode === 0x3a) {
        opcode = this.#byte();
        map = 3;
      }
    } else if ((opcode === 0xc4 || opcode === 0xc5) && !(mode & (MODE.REAL | MODE.VM86)) && this.#isVex(long)) {
      if (rex !== 0 || operand16 || rep !== 0 || lock) return this.#fail(record, UD, start, offset);
      vex = true;
      let second = this.#byte();
      map = 1;
      rex = 0x40 | (second & 0x80 ? 0 : 4);
      if (opcode === 0xc4) {
        rex |= (second & 0x40 ? 0 : 2) | (second & 0x20 ? 0 : 1);
        map = second & 31;
        second = this.#byte();
        if (second & 0x80) rex |= 8;
        if (map < 1 || map > 3) return this.#fail(record, UD, start, offset);
      }
      if (!long) rex &= ~7;
      vvvv = (~second >>> 3) & 15;
      vexL = (second >>> 2) & 1;
      prefix = [0, 0x66, 0xf3, 0xf2][second & 3]!;
      opcode = this.#byte();
    }
    const candidates = this.#forms.candidates(vex, map, opcode);
    if (!candidates) return this.#fail(record, UD, start, offset);
    const modrmAt = this.#at;
    const modrm = candidates.some((form) => form.modrm) ? this.#byte() : 0;
    const isMemory = modrm < 0xc0;
    const rexW = (rex & 8) !== 0;
    const form = this.#choose(candidates, prefix, modrm, rexW, long, vexL, rep, (rex & 1) !== 0);
    // SDM 2A 2.3.5.6: a VEX.vvvv that is no operand must be 1111b; vvvv is complemented here
    if (!form || (vvvv !== 0 && !form.vvvv)) return this.#fail(record, UD, start, offset);
    if (!form.modrm) this.#at = modrmAt;
    if (this.#short) return DECODED.NEXT;
    // Outside 64-bit mode only VEX.W can be set: it may choose a form, but widens nothing
    const wide = rexW && long;

    const why = this.#unavailable(form, mode);
    // A mandatory 66 is not an operand size
    const narrow = operand16 && form.prefix !== 0x66;
    const default32 = (mode & MODE.DEFAULT32) !== 0;
    let v: number;
    if (long) {
      if (form.wide === 'f64') v = narrow && !wide && this.#shortBranches ? 2 : 8;
      else if (wide) v = 8;
      else if (form.wide === 'd64') v = narrow ? 2 : 8;
      else v = narrow ? 2 : 4;
    } else v = default32 !== narrow ? 4 : 2;
    const addressSize = long ? (addressOverride ? 4 : 8) : default32 !== addressOverride ? 4 : 2;

    const { u8, u16, u32, i32 } = this.#memory;
    u16[(record + REC.OFFSET) >>> 1] = offset;
    u16[(record + REC.REMAINING) >>> 1] = 1;
    u8[record + REC.SCALE] = 0;
    for (let field = REC.RA; field < REC.BYTES; field += 4) u32[(record + field) >>> 2] = 0;
    u32[(record + REC.BASE) >>> 2] = S.ZERO;
    u32[(record + REC.INDEX) >>> 2] = S.ZERO;
    u32[(record + REC.SEG) >>> 2] = S.ZERO;

    const regNumber = ((modrm >>> 3) & 7) | (rex & 4 ? 8 : 0);
    const rmNumber = (modrm & 7) | (rex & 1 ? 8 : 0);
    const opNumber = (opcode & 7) | (rex & 1 ? 8 : 0);
    let seg = SEG.DS as number;
    let ripRelative = false;
    const hasMemory =
      form.modrm && form.modrmByte < 0 && isMemory && !form.operands.some(({ kind }) => kind === 'cr' || kind === 'dr');
    // VSIB needs a SIB byte, of which 16-bit addresses have none: SDM 2A 2.3.12
    if (form.vsib && (addressSize === 2 || (modrm & 7) !== 4)) return this.#fail(record, UD, start, offset);
    let vectorIndex = 0;
    if (hasMemory) {
      if (addressSize === 2) seg = this.#address16(record, modrm);
      else {
        const mod = modrm >>> 6;
        let base = modrm & 7;
        if (base === 4) {
          const sib = this.#byte();
          const index = ((sib >>> 3) & 7) | (rex & 2 ? 8 : 0);
          vectorIndex = index;
          if (form.vsib) u8[record + REC.SCALE] = sib >>> 6;
          else if (index !== 4) {
            u32[(record + REC.INDEX) >>> 2] = gpr(index);
            u8[record + REC.SCALE] = sib >>> 6;
          }
          base = sib & 7;
          if (base === 5 && mod === 0) i32[(record + REC.DISP) >>> 2] = this.#dword();
          else {
            u32[(record + REC.BASE) >>> 2] = gpr(base | (rex & 1 ? 8 : 0));
            if ((base === 4 || base === 5) && !(rex & 1)) seg = SEG.SS;
          }
        } else if (base === 5 && mod === 0) {
          i32[(record + REC.DISP) >>> 2] = this.#dword();
          if (long) {
            ripRelative = true;
            u32[(record + REC.BASE) >>> 2] = S.RIP_PAGE;
          }
        } else {
          u32[(record + REC.BASE) >>> 2] = gpr(base | (rex & 1 ? 8 : 0));
          if (base === 5 && !(rex & 1)) seg = SEG.SS;
        }
        if (mod === 1) i32[(record + REC.DISP) >>> 2] = (this.#byte() << 24) >> 24;
        else if (mod === 2) i32[(record + REC.DISP) >>> 2] = this.#dword();
      }
    }

    // Operands
    let registers = 0;
    let size = 0;
    let memory = hasMemory;
    for (const operand of form.operands) {
      const rule = operand.encoding === 'modrm.rm' && hasMemory ? operand.memorySize : operand.size;
      const bytes = sizeOf(rule, v, wide);
      let address = -1;
      switch (operand.encoding) {
        case 'modrm.reg':
          address = registerCell(operand.kind, regNumber, bytes, rex);
          if (operand.kind === 'sreg') address = regNumber < 6 || !form.modrm ? segment(regNumber & 7) : -2;
          break;
        case 'modrm.rm':
          if (!hasMemory) address = registerCell(operand.kind, rmNumber, bytes, rex);
          break;
        case 'opcode':
          address = registerCell(operand.kind, opNumber, bytes, rex);
          break;
        case 'vvvv':
          address = registerCell(operand.kind, vvvv, bytes, 0x40);
          break;
        case 'moffs':
          memory = true;
          this.#moffs(record, addressSize);
          break;
        default:
      }
      if (address === -2) return this.#fail(record, UD, start, offset);
      if (address >= 0) {
        u32[(record + [REC.RA, REC.RB, REC.RC][registers]!) >>> 2] = address;
        registers += 1;
      }
      if (
        typeof operand.size !== 'number' &&
        operand.kind !== 'imm' &&
        operand.kind !== 'rel' &&
        operand.kind !== 'far' &&
        size === 0
      )
        size = sizeOf(operand.size, v, wide);
    }
    if (size === 0) {
      const first = form.operands[0];
      size = form.sized
        ? v
        : first && typeof first.size === 'number' && first.kind !== 'imm' && first.kind !== 'rel'
          ? first.size
          : v;
      if (first?.kind === 'xmm' || first?.kind === 'mm' || first?.kind === 'mem')
        size = Math.min(8, sizeOf(first.memorySize, v, wide) || v);
    }

    if (form.vsib) {
      // Destination, mask and index must be three registers: SDM 2D 6.1 "VGATHERDPS/VGATHERDPD"
      const distinct = regNumber !== vvvv && regNumber !== vectorIndex && vvvv !== vectorIndex;
      if (!distinct) return this.#fail(record, UD, start, offset);
      u32[(record + REC.RC) >>> 2] = S.XMM + 16 * vectorIndex;
    }

    // Immediates
    for (const immediate of form.immediates) this.#immediate(record, immediate, v);
    if (form.immediates.includes('is4')) {
      const number = u32[(record + REC.IMM) >>> 2]! >>> 4;
      u32[(record + REC.RC) >>> 2] = S.XMM + 16 * (number & 15);
    }
    if (this.#short) return DECODED.NEXT;
    const length = this.#at - start;
    this.length = length;
    u8[record + REC.LENGTH] = length;
    if (ripRelative) i32[(record + REC.DISP) >>> 2] = i32[(record + REC.DISP) >>> 2]! + offset + length;
    const relative = form.operands.find(({ kind }) => kind === 'rel');
    if (relative) i32[(record + REC.EXTRA) >>> 2] = offset + length + i32[(record + REC.IMM) >>> 2]!;
    else u32[(record + REC.EXTRA) >>> 2] = modrm | (opcode << 8) | (map << 16);
    if (form.instruction.name === 'LOOPcc') u32[(record + REC.EXTRA) >>> 2] = opcode << 8;
    if (form.instruction.name === 'XLAT/XLATB' || form.mnemonic === 'XLAT') {
      u32[(record + REC.BASE) >>> 2] = gpr(3);
      memory = true;
    }

    if (segmentOverride >= 0) seg = segmentOverride;
    const stringy = form.operands.length === 0 && segmentOverride < 0;
    if (stringy) seg = SEG.DS;
    if (!long || seg >= SEG.FS) u32[(record + REC.SEG) >>> 2] = S.SEG_BASE + 8 * seg;
    const log = [0, 0, 1, 0, 2, 0, 0, 0, 3][size] ?? 0;
    u32[(record + REC.AUX) >>> 2] =
      (seg << AUX.SEGMENT_SHIFT) |
      ((addressSize === 2 ? 0 : addressSize === 4 ? 1 : 2) << AUX.ADDRESS_SIZE_SHIFT) |
      (log << AUX.OPERAND_SIZE_SHIFT) |
      (rep === 0xf3 ? AUX.REP : rep === 0xf2 ? AUX.REPNE : 0) |
      (lock ? AUX.LOCK : 0) |
      (operand16 ? AUX.OPERAND16 : 0) |
      (wide ? AUX.REX_W : 0) |
      (memory ? AUX.MEMORY : 0) |
      (regNumber << AUX.REG_SHIFT) |
      ((form.plusR ? opNumber : rmNumber) << AUX.RM_SHIFT);

    if (lock && !(form.instruction.lockable && memory && form.operands[0]?.encoding === 'modrm.rm')) {
      return this.#fail(record, UD, start, offset);
    }
    if (why !== 0) return this.#fail(record, why, start, offset);

    const addressMode: AddressMode = long ? 'long' : mode & MODE.FLAT32 ? 'flat32' : 'general';
    const general =
      memory &&
      (long ? addressSize !== 8 : addressMode === 'general' || addressSize !== 4 || seg >= SEG.FS || seg === SEG.CS);
    const key =
      (((form.index * 4 + log) * 2 + (memory ? 1 : 0)) * 3 + (long ? 0 : addressMode === 'flat32' ? 1 : 2)) * 2 +
      (general ? 1 : 0);
    let handler = this.#handlers.get(key);
    if (handler === undefined) {
      handler = this.#handler({ form, size, memory, mode: addressMode, generalAddress: general });
      this.#handlers.set(key, handler);
    }
    u16[record >>> 1] = handler;
    if (!form.instruction.terminator) return DECODED.NEXT;
    return form.instruction.name === 'Jcc' ? DECODED.BRANCH : DECODED.TERMINATOR;
  }

  #isPrefix(byte: number): boolean {
    return (
      byte === 0x66 ||
      byte === 0x67 ||
      byte === 0xf0 ||
      byte === 0xf2 ||
      byte === 0xf3 ||
      byte === 0x2e ||
      byte === 0x36 ||
      byte === 0x3e ||
      byte === 0x26 ||
      byte === 0x64 ||
      byte === 0x65 ||
      (byte & 0xf0) === 0x40
    );
  }

  /** C4 and C5 are LES and LDS outside 64-bit mode unless ModRM.mod would be 3. */
  #isVex(long: boolean): boolean {
    if (long) return true;
    if (this.#at >= this.#end) {
      this.#short = true;
      return false;
    }
    return this.#bytes[this.#at]! >= 0xc0;
  }

  #choose(
    candidates: readonly Form[],
    prefix: number,
    modrm: number,
    rexW: boolean,
    long: boolean,
    vexL: number,
    rep: number,
    rexB: boolean,
  ): Form | undefined {
    const memory = modrm < 0xc0;
    for (const form of candidates) {
      if (form.modrmByte >= 0 && form.modrmByte !== modrm) continue;
      if (form.modrm && form.digit >= 0 && ((modrm >>> 3) & 7) !== form.digit) continue;
      if (form.rm === 'm' ? !memory : form.rm === 'r' && memory) continue;
      if (form.w >= 0 && (form.w === 1) !== (rexW && (long || !form.vexGpr))) continue;
      if (long ? form.not64 : form.only64) continue;
      if (form.noRexB && rexB) continue;
      if (form.vex && form.l >= 0 && form.l !== vexL) continue;
      if (form.prefix >= 0 && form.prefix !== prefix) {
        // 66 with F2 or F3: the form may want 66 only as operand size
        if (!(form.prefix === 0 && prefix === 0x66 && form.sized && rep === 0 && !form.vex)) continue;
      }
      return form;
    }
    return undefined;
  }

  /** Vector of the exception that the form raises under this mode whatever its operands, or 0. */
  #unavailable(form: Form, mode: number): number {
    switch (form.instruction.needs) {
      case 'x87':
        return mode & (MODE.EM | MODE.TS) ? NM : 0;
      case 'fwait':
        return (mode & (MODE.MP | MODE.TS)) === (MODE.MP | MODE.TS) ? NM : 0;
      case 'mmx':
        return mode & MODE.EM ? UD : mode & MODE.TS ? NM : 0;
      case 'sse':
        return mode & MODE.EM || !(mode & MODE.OSFXSR) ? UD : mode & MODE.TS ? NM : 0;
      case 'avx':
        return !(mode & MODE.AVX) ? UD : mode & MODE.TS ? NM : 0;
      default:
        return 0;
    }
  }

  /** SDM 2A Table 2-1 "16-Bit Addressing Forms with the ModR/M Byte". Returns the default segment. */
  #address16(record: number, modrm: number): number {
    const { u32, i32 } = this.#memory;
    const mod = modrm >>> 6;
    const rm = modrm & 7;
    const bases = [3, 3, 5, 5, 6, 7, 5, 3];
    let seg: number = SEG.DS;
    if (rm === 6 && mod === 0) {
      i32[(record + REC.DISP) >>> 2] = this.#word();
      return seg;
    }
    u32[(record + REC.BASE) >>> 2] = gpr(bases[rm]!);
    if (rm < 4) u32[(record + REC.INDEX) >>> 2] = gpr(rm & 1 ? 7 : 6);
    if (rm === 2 || rm === 3 || rm === 6) seg = SEG.SS;
    if (mod === 1) i32[(record + REC.DISP) >>> 2] = (this.#byte() << 24) >> 24;
    else if (mod === 2) i32[(record + REC.DISP) >>> 2] = (this.#word() << 16) >> 16;
    return seg;
  }

  /** A full-size offset: kept in the immediate field, which serves as the base register. */
  #moffs(record: number, addressSize: number): void {
    const { u32 } = this.#memory;
    const low = addressSize === 2 ? this.#word() : this.#dword();
    u32[(record + REC.IMM) >>> 2] = low;
    u32[(record + REC.IMM + 4) >>> 2] = addressSize === 8 ? this.#dword() : 0;
    u32[(record + REC.BASE) >>> 2] = record + REC.IMM;
  }

  #immediate(record: number, kind: string, v: number): void {
    const { u32, i32 } = this.#memory;
    const at = (record + REC.IMM) >>> 2;
    const set = (value: number): void => {
      i32[at] = value;
      i32[at + 1] = value >> 31;
    };
    switch (kind) {
      case 'ib':
      case 'cb':
      case 'is4': {
        const byte = this.#byte();
        // ENTER imm16, imm8: the second immediate stands in bits 23:16
        if (kind === 'ib' && this.#second) u32[at] = (u32[at]! & 0xffff) | (byte << 16);
        else set((byte << 24) >> 24);
        break;
      }
      case 'iw':
        u32[at] = this.#word();
        u32[at + 1] = 0;
        break;
      case 'id':
      case 'cd':
        set(this.#dword());
        break;
      case 'iz':
      case 'cz':
        set(v === 2 ? (this.#word() << 16) >> 16 : this.#dword());
        break;
      case 'far':
        u32[at] = v === 2 ? this.#word() : this.#dword();
        u32[at + 1] = this.#word();
        break;
      default:
        if (v === 8) {
          u32[at] = this.#dword();
          u32[at + 1] = this.#dword();
        } else set(v === 2 ? (this.#word() << 16) >> 16 : this.#dword());
    }
    this.#second = kind === 'iw';
  }
  #second = false;
}

function sizeOf(rule: SizeRule, v: number, rexW: boolean): number {
  if (typeof rule === 'number') return rule;
  if (rule === 'v') return v;
  if (rule === 'z') return Math.min(v, 4);
  return rexW || v === 8 ? 8 : 4;
}

/** State address of a register. */
function registerCell(kind: string, number: number, bytes: number, rex: number): number {
  switch (kind) {
    case 'gpr':
      if (bytes === 1 && rex === 0 && number >= 4) return gpr(number - 4) + 1;
      return gpr(number);
    case 'xmm':
      return S.XMM + 16 * number;
    case 'mm':
      return S.FPR + 16 * (number & 7);
    case 'sreg':
      return segment(number & 7);
    default:
      return 0;
  }
}
