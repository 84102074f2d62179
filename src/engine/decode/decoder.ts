import { BORN_DOUBLE } from '../../base/bits.ts';
import { AUX, gpr, REC, S, SEG, segment } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import type { AddressMode } from '../isa/form-context.ts';
import type { Form, FormTable } from './forms.ts';
import { MODE } from './mode.ts';
import { PREFIX, PREFIXES } from './prefixes.ts';
import { CELL, DECODED, IMMEDIATE, type Shape, SOURCE, SPECIAL } from './shape.ts';
import { KEY, Templates } from './templates.ts';

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
/** The handler number of instructions with a breakpoint of L0's debugger: tiers/breakpoints.ts. */
export const BREAK_SLOT = REGION_SLOT - 1;
/** Behind it: (record) → TURN, what L0 would do about an exit, if it has prepared anything: S.TURNS. */
export const TURN_SLOT = BREAK_SLOT - 1;
export const TURN = {
  /** Nothing has changed: it leaves. */
  NO: 0,
  /** Done; go on at S.NEXT_LINEAR. */
  DONE: 1,
  /** Done, and the budget is used up; S.RIP is the next instruction. */
  OVER: 2,
} as const;

export { DECODED };

/** A function of the core: quick-decode.ts. */
export interface QuickDecode {
  quickDecode(record: number, start: number, end: number, offset: number, mode: number): number;
  decodeRun(table: number, mode: number, host: number): number;
}

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

  // Input: the bytes
  #bytes: Uint8Array;
  #at = BORN_DOUBLE;
  #end = 0;
  #short = false;

  // What was found
  length = BORN_DOUBLE;

  /** 66 makes near branches of 64-bit mode 16 bits wide. */
  readonly #shortBranches: boolean;

  readonly #quick: QuickDecode;
  readonly #templates: Templates;

  /**
   * @param vendor  AMD honours 66 before near branches in 64-bit mode (APM 3 table B-4), Intel ignores it.
   * @param quick   What generated code decodes by itself.
   */
  constructor(
    memory: EngineMemory,
    forms: FormTable,
    handler: (variant: Variant) => number,
    vendor: 'intel' | 'amd',
    quick: QuickDecode,
  ) {
    this.#quick = quick;
    this.#templates = new Templates(memory, forms, PREFIXES);
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

  /** See decodeRun of quick-decode.ts. */
  run(table: number, mode: number, host: number): number {
    return this.#quick.decodeRun(table, mode, host);
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
    if (bytes === this.#memory.u8) {
      const quick = this.#quick.quickDecode(record, start, end, offset, mode);
      if (quick >= 0) {
        this.length = quick >>> 8;
        return quick & 0xff;
      }
    }
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
    this.length = length;
  }

  #fail(record: number, vector: number, start: number, offset: number): number {
    this.#raise(record, vector, this.#at - start, offset);
    return DECODED.TERMINATOR;
  }

  // Prefixes and opcode of the instruction under way, as far as what follows wants to know
  #operand16 = false;
  #addressOverride = false;
  #rep = 0;
  #lock = false;
  #segmentOverride = -1;
  #rex = 0;
  #map = 0;
  #vvvv = 0;
  #opcode = 0;
  #modrm = 0;

  #decode(record: number, start: number, offset: number, mode: number): number {
    const long = (mode & MODE.LONG) !== 0;
    this.#operand16 = false;
    this.#addressOverride = false;
    this.#rep = 0;
    this.#lock = false;
    this.#segmentOverride = -1;
    this.#rex = 0;
    let opcode = this.#prefixes(long);
    if (this.#short) return DECODED.NEXT;
    let map = 0;
    let vex = false;
    let vexL = 0;
    this.#vvvv = 0;
    let prefix = this.#rep !== 0 ? this.#rep : this.#operand16 ? 0x66 : 0;
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
      if (this.#rex !== 0 || this.#operand16 || this.#rep !== 0 || this.#lock)
        return this.#fail(record, UD, start, offset);
      vex = true;
      let second = this.#byte();
      map = 1;
      let rex = 0x40 | (second & 0x80 ? 0 : 4);
      if (opcode === 0xc4) {
        rex |= (second & 0x40 ? 0 : 2) | (second & 0x20 ? 0 : 1);
        map = second & 31;
        second = this.#byte();
        if (second & 0x80) rex |= 8;
        if (map < 1 || map > 3) return this.#fail(record, UD, start, offset);
      }
      this.#rex = long ? rex : rex & ~7;
      this.#vvvv = (~second >>> 3) & 15;
      vexL = (second >>> 2) & 1;
      prefix = VEX_PREFIX[second & 3]!;
      opcode = this.#byte();
    }
    const candidates = this.#forms.candidates(vex, map, opcode);
    if (!candidates) return this.#fail(record, UD, start, offset);
    const modrmAt = this.#at;
    const modrm = this.#forms.hasModRm(vex, map, opcode) ? this.#byte() : 0;
    const form = this.#choose(candidates, prefix, modrm, long, vexL);
    // SDM 2A 2.3.5.6: a VEX.vvvv that is no operand must be 1111b; vvvv is complemented here
    if (!form || (this.#vvvv !== 0 && !form.vvvv)) return this.#fail(record, UD, start, offset);
    if (!form.modrm) this.#at = modrmAt;
    if (this.#short) return DECODED.NEXT;
    this.#map = map;
    this.#opcode = opcode;
    this.#modrm = modrm;
    return this.#operands(record, start, offset, mode, form);
  }

  /** Reads the legacy prefixes and REX; the byte behind them. */
  #prefixes(long: boolean): number {
    for (;;) {
      const byte = this.#byte();
      switch (PREFIXES[byte]) {
        case PREFIX.NONE:
          return byte;
        case PREFIX.REX: {
          if (!long) return byte;
          const next = this.#byte();
          const kind = PREFIXES[next];
          if (kind === PREFIX.NONE) {
            this.#rex = byte;
            return next;
          }
          // A REX that is not right before the opcode is ignored
          this.#at -= 1;
          break;
        }
        case PREFIX.OPERAND:
          this.#operand16 = true;
          break;
        case PREFIX.ADDRESS:
          this.#addressOverride = true;
          break;
        case PREFIX.REP:
          this.#rep = byte;
          break;
        case PREFIX.LOCK:
          this.#lock = true;
          break;
        case PREFIX.SEGMENT:
          if (!long) this.#segmentOverride = (byte >>> 3) & 3;
          break;
        default:
          this.#segmentOverride = byte - 0x60;
      }
    }
  }

  /** Everything behind opcode and ModRM, and the record. */
  #operands(record: number, start: number, offset: number, mode: number, form: Form): number {
    const long = (mode & MODE.LONG) !== 0;
    const rex = this.#rex;
    const modrm = this.#modrm;
    // Outside 64-bit mode only VEX.W can be set: it may choose a form, but widens nothing
    const wide = (rex & 8) !== 0 && long;
    const why = form.instruction.needs === undefined ? 0 : this.#unavailable(form, mode);
    // A mandatory 66 is not an operand size
    const narrow = this.#operand16 && form.prefix !== 0x66;
    const default32 = (mode & MODE.DEFAULT32) !== 0;
    let v: number;
    if (long) {
      if (form.wide === 'f64') v = narrow && !wide && this.#shortBranches ? 2 : 8;
      else if (wide) v = 8;
      else if (form.wide === 'd64') v = narrow ? 2 : 8;
      else v = narrow ? 2 : 4;
    } else v = default32 !== narrow ? 4 : 2;
    const override = this.#addressOverride;
    const addressSize = long ? (override ? 4 : 8) : default32 !== override ? 4 : 2;
    const shape = this.#forms.shape(form, v, wide, modrm < 0xc0);

    const { u8, u16, u32, i32 } = this.#memory;
    u16[(record + REC.OFFSET) >>> 1] = offset;
    u16[(record + REC.REMAINING) >>> 1] = 1;
    u8[record + REC.SCALE] = 0;
    for (let at = (record + REC.RA) >>> 2; at < (record + REC.BYTES) >>> 2; at += 1) u32[at] = 0;
    u32[(record + REC.UPPER) >>> 2] = 0;
    u16[(record + REC.BASE) >>> 1] = S.ZERO;
    u16[(record + REC.INDEX) >>> 1] = S.ZERO;
    u16[(record + REC.SEG) >>> 1] = S.ZERO;

    this.#vectorIndex = 0;
    // VSIB needs a SIB byte, of which 16-bit addresses have none: SDM 2A 2.3.12
    if (form.vsib && (addressSize === 2 || (modrm & 7) !== 4)) return this.#fail(record, UD, start, offset);
    let seg = SEG.DS as number;
    if (shape.memory) seg = addressSize === 2 ? this.#address16(record, modrm) : this.#address(record, form.vsib);
    const ripRelative = shape.memory && long && (modrm & 0xc7) === 5;
    if (ripRelative) u16[(record + REC.BASE) >>> 1] = S.RIP_PAGE;

    const regNumber = ((modrm >>> 3) & 7) | (rex & 4 ? 8 : 0);
    const rmNumber = (modrm & 7) | (rex & 1 ? 8 : 0);
    const opNumber = (this.#opcode & 7) | (rex & 1 ? 8 : 0);
    const { registers } = shape;
    for (let i = 0; i < registers.length; i += 1) {
      const { source, cell } = registers[i]!;
      const number =
        source === SOURCE.REG
          ? regNumber
          : source === SOURCE.RM
            ? rmNumber
            : source === SOURCE.VVVV
              ? this.#vvvv
              : opNumber;
      let address: number;
      if (cell === CELL.GPR) address = gpr(number);
      // A byte register without REX, in VEX.vvvv never
      else if (cell === CELL.BYTE)
        address = rex === 0 && number >= 4 && source !== SOURCE.VVVV ? gpr(number - 4) + 1 : gpr(number);
      else if (cell === CELL.XMM) address = S.XMM + 16 * number;
      else if (cell === CELL.MM) address = S.FPR + 16 * (number & 7);
      else if (cell === CELL.SEGMENT) {
        if (number >= 6 && source === SOURCE.REG) return this.#fail(record, UD, start, offset);
        address = segment(number & 7);
      } else address = 0;
      u16[(record + REGISTER_FIELDS[i]!) >>> 1] = address;
    }
    if (shape.moffs) this.#moffs(record, addressSize);
    if (form.vsib) {
      // Destination, mask and index must be three registers: SDM 2D 6.1 "VGATHERDPS/VGATHERDPD"
      const index = this.#vectorIndex;
      const distinct = regNumber !== this.#vvvv && regNumber !== index && this.#vvvv !== index;
      if (!distinct) return this.#fail(record, UD, start, offset);
      u16[(record + REC.RC) >>> 1] = S.XMM + 16 * index;
    }

    const { immediates } = shape;
    for (let i = 0; i < immediates.length; i += 1) this.#immediate(record, immediates[i]!, v);
    if (this.#short) return DECODED.NEXT;
    const length = this.#at - start;
    this.length = length;
    u8[record + REC.LENGTH] = length;
    if (ripRelative) i32[(record + REC.DISP) >>> 2]! += offset + length;
    if (shape.relative) i32[(record + REC.TARGET) >>> 2] = offset + length + i32[(record + REC.IMM) >>> 2]!;
    u32[(record + REC.EXTRA) >>> 2] = modrm | (this.#opcode << 8) | (this.#map << 16);
    if (shape.special !== SPECIAL.NONE) this.#special(record, shape.special);

    if (this.#segmentOverride >= 0) seg = this.#segmentOverride;
    else if (form.operands.length === 0) seg = SEG.DS;
    if (!long || seg >= SEG.FS) u16[(record + REC.SEG) >>> 1] = S.SEG_BASE + 8 * seg;
    u32[(record + REC.AUX) >>> 2] =
      (seg << AUX.SEGMENT_SHIFT) |
      ((addressSize === 2 ? 0 : addressSize === 4 ? 1 : 2) << AUX.ADDRESS_SIZE_SHIFT) |
      (shape.log << AUX.OPERAND_SIZE_SHIFT) |
      (this.#rep === 0xf3 ? AUX.REP : this.#rep === 0xf2 ? AUX.REPNE : 0) |
      (this.#lock ? AUX.LOCK : 0) |
      (this.#operand16 ? AUX.OPERAND16 : 0) |
      (wide ? AUX.REX_W : 0) |
      (shape.addresses ? AUX.MEMORY : 0) |
      (regNumber << AUX.REG_SHIFT) |
      ((form.plusR ? opNumber : rmNumber) << AUX.RM_SHIFT);

    if (this.#lock && !shape.lockable) return this.#fail(record, UD, start, offset);
    if (why !== 0) return this.#fail(record, why, start, offset);

    const modeIndex = long ? 0 : mode & MODE.FLAT32 ? 1 : 2;
    const general =
      shape.addresses &&
      (long ? addressSize !== 8 : modeIndex === 2 || addressSize !== 4 || seg >= SEG.FS || seg === SEG.CS);
    const which = 2 * modeIndex + (general ? 1 : 0);
    let handler = shape.handlers[which]!;
    if (handler < 0) {
      handler = this.#handlerOf(shape, form, which);
      shape.handlers[which] = handler;
    }
    u16[record >>> 1] = handler;
    if (which === 0) this.#learn(form, shape, handler, v);
    return shape.result;
  }

  /** Lets generated code decode what is like the instruction under way. */
  #learn(form: Form, shape: Shape, handler: number, v: number): void {
    this.#templates.learn(form, shape, handler, {
      map: this.#map,
      opcode: this.#opcode,
      modrm: this.#modrm,
      prefixes:
        (this.#rep === 0xf3 ? KEY.REP : this.#rep === 0xf2 ? KEY.REPNE : 0) |
        (this.#operand16 ? KEY.OPERAND16 : 0) |
        (this.#rex & 8 ? KEY.REX_W : 0),
      rexB: (this.#rex & 1) !== 0,
      v,
    });
  }

  /** Shapes that differ in what does not matter to a form share its handler. */
  #handlerOf({ size, log, addresses }: Shape, form: Form, which: number): number {
    const key = ((form.index * 4 + log) * 2 + (addresses ? 1 : 0)) * 6 + which;
    const known = this.#handlers.get(key);
    if (known !== undefined) return known;
    const mode = ADDRESS_MODES[which >>> 1]!;
    const handler = this.#handler({ form, size, memory: addresses, mode, generalAddress: (which & 1) !== 0 });
    this.#handlers.set(key, handler);
    return handler;
  }
  readonly #handlers = new Map<number, number>();

  #special(record: number, special: number): void {
    const { u16, u32 } = this.#memory;
    if (special === SPECIAL.IS4) {
      u16[(record + REC.RC) >>> 1] = S.XMM + 16 * ((u32[(record + REC.IMM) >>> 2]! >>> 4) & 15);
    } else u16[(record + REC.BASE) >>> 1] = gpr(3);
  }

  /** ModRM.rm and SIB with 32- and 64-bit addresses: SDM 2A Tables 2-2, 2-3. Returns the default segment. */
  #address(record: number, vsib: boolean): number {
    const { u8, u16, i32 } = this.#memory;
    const modrm = this.#modrm;
    const rex = this.#rex;
    const mod = modrm >>> 6;
    let base = modrm & 7;
    let seg = SEG.DS as number;
    if (base === 4) {
      const sib = this.#byte();
      const index = ((sib >>> 3) & 7) | (rex & 2 ? 8 : 0);
      this.#vectorIndex = index;
      if (vsib) u8[record + REC.SCALE] = sib >>> 6;
      else if (index !== 4) {
        u16[(record + REC.INDEX) >>> 1] = gpr(index);
        u8[record + REC.SCALE] = sib >>> 6;
      }
      base = sib & 7;
      if (base === 5 && mod === 0) {
        i32[(record + REC.DISP) >>> 2] = this.#dword();
        return seg;
      }
      if ((base === 4 || base === 5) && !(rex & 1)) seg = SEG.SS;
    } else if (base === 5) {
      if (mod === 0) {
        i32[(record + REC.DISP) >>> 2] = this.#dword();
        return seg;
      }
      if (!(rex & 1)) seg = SEG.SS;
    }
    u16[(record + REC.BASE) >>> 1] = gpr(base | (rex & 1 ? 8 : 0));
    if (mod === 1) i32[(record + REC.DISP) >>> 2] = (this.#byte() << 24) >> 24;
    else if (mod === 2) i32[(record + REC.DISP) >>> 2] = this.#dword();
    return seg;
  }
  #vectorIndex = 0;

  /** C4 and C5 are LES and LDS outside 64-bit mode unless ModRM.mod would be 3. */
  #isVex(long: boolean): boolean {
    if (long) return true;
    if (this.#at >= this.#end) {
      this.#short = true;
      return false;
    }
    return this.#bytes[this.#at]! >= 0xc0;
  }

  #choose(candidates: readonly Form[], prefix: number, modrm: number, long: boolean, vexL: number): Form | undefined {
    const memory = modrm < 0xc0;
    const rexW = (this.#rex & 8) !== 0;
    const rexB = (this.#rex & 1) !== 0;
    for (let i = 0; i < candidates.length; i += 1) {
      const form = candidates[i]!;
      if (form.modrmByte >= 0 && form.modrmByte !== modrm) continue;
      if (form.digit >= 0 && form.modrm && ((modrm >>> 3) & 7) !== form.digit) continue;
      if (form.rm === 'm' ? !memory : form.rm === 'r' && memory) continue;
      if (form.w >= 0 && (form.w === 1) !== (rexW && (long || !form.vexGpr))) continue;
      if (long ? form.not64 : form.only64) continue;
      if (form.noRexB && rexB) continue;
      if (form.vex && form.l >= 0 && form.l !== vexL) continue;
      const fits = form.prefix < 0 || form.prefix === prefix || (form.prefix === 0 && prefix === 0x66 && form.takes66);
      if (!fits) continue;
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
    const { u16, i32 } = this.#memory;
    const mod = modrm >>> 6;
    const rm = modrm & 7;
    const bases = [3, 3, 5, 5, 6, 7, 5, 3];
    let seg: number = SEG.DS;
    if (rm === 6 && mod === 0) {
      i32[(record + REC.DISP) >>> 2] = this.#word();
      return seg;
    }
    u16[(record + REC.BASE) >>> 1] = gpr(bases[rm]!);
    if (rm < 4) u16[(record + REC.INDEX) >>> 1] = gpr(rm & 1 ? 7 : 6);
    if (rm === 2 || rm === 3 || rm === 6) seg = SEG.SS;
    if (mod === 1) i32[(record + REC.DISP) >>> 2] = (this.#byte() << 24) >> 24;
    else if (mod === 2) i32[(record + REC.DISP) >>> 2] = (this.#word() << 16) >> 16;
    return seg;
  }

  /** A full-size offset. */
  #moffs(record: number, addressSize: number): void {
    const { u32 } = this.#memory;
    u32[(record + REC.DISP) >>> 2] = addressSize === 2 ? this.#word() : this.#dword();
    if (addressSize === 8) u32[(record + REC.UPPER) >>> 2] = this.#dword();
  }

  #immediate(record: number, kind: number, v: number): void {
    const { u32, i32 } = this.#memory;
    const at = (record + REC.IMM) >>> 2;
    const upper = (record + REC.UPPER) >>> 2;
    const second = this.#second;
    this.#second = kind === IMMEDIATE.WORD;
    let value: number;
    switch (kind) {
      case IMMEDIATE.BYTE:
        value = (this.#byte() << 24) >> 24;
        if (!second) break;
        // ENTER imm16, imm8: the second immediate stands in bits 23:16
        u32[at] = (u32[at]! & 0xffff) | ((value & 0xff) << 16);
        return;
      case IMMEDIATE.WORD:
        u32[at] = this.#word();
        return;
      case IMMEDIATE.DWORD:
        value = this.#dword();
        break;
      case IMMEDIATE.Z:
        value = v === 2 ? (this.#word() << 16) >> 16 : this.#dword();
        break;
      case IMMEDIATE.FAR:
        u32[at] = v === 2 ? this.#word() : this.#dword();
        u32[upper] = this.#word();
        return;
      default:
        if (v === 8) {
          u32[at] = this.#dword();
          u32[upper] = this.#dword();
          return;
        }
        value = v === 2 ? (this.#word() << 16) >> 16 : this.#dword();
    }
    i32[at] = value;
  }
  #second = false;
}

const VEX_PREFIX = [0, 0x66, 0xf3, 0xf2];
/** Fields of a record's register operands. */
const REGISTER_FIELDS = [REC.RA, REC.RB, REC.RC];
const ADDRESS_MODES: readonly AddressMode[] = ['long', 'flat32', 'general'];
