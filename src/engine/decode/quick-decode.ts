import { type Callee, call, type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local } from '../../wasm/module.ts';
import { AUX, CODE_TABLE, DECODING, FUSIONS, GPR, REC, S, SEG, STRETCH } from '../core/layout.ts';
import { type EngineMemory, RUN_MAX } from '../core/memory.ts';
import { PSEUDO } from './decoder.ts';
import { MODE } from './mode.ts';
import { PREFIX } from './prefixes.ts';
import { CELL, DECODED, SOURCE } from './shape.ts';
import { KEY, MODRM, TEMPLATE, TEMPLATE_FLAG, TEMPLATE_IMMEDIATE, TEMPLATES } from './templates.ts';

/**
 * Decodes instructions whose like the decoder has decoded before, in WebAssembly: 64-bit mode, 64-bit addresses, no VEX.
 *
 * Owns    nothing: a record comes out as decoder.ts would have made it, or none does.
 * Source  SDM 2A 2 "Instruction Format"; Tables 2-2, 2-3 for ModRM and SIB.
 */

const zero = i32.const(0);
/** Bytes that are looked at without asking whether they are there: more than an instruction has. */
const REACH = 24;
const PREFIXES_MAX = 4;

const has = (word: Expr, bits: number): Expr => i32.and(word, i32.const(bits));

/**
 * Defines quickDecode (record, host address, end of the page, offset in the page, mode word) → DECODED and, from bit 8 on,
 * the length; -1 if the decoder is to be asked.
 */
export function buildQuickDecode(f: FunctionBuilder, memory: EngineMemory): void {
  const [record, start, end, offset, mode] = f.parameters as [Local, Local, Local, Local, Local];
  f.block((no) => {
    f.brIf(no, i32.eqz(has(mode.get, MODE.LONG)));
    f.brIf(no, i32.ltU(i32.sub(end.get, start.get), i32.const(REACH)));
    const at = f.let(start.get);
    const rex = f.let(zero);
    /** KEY bits. */
    const prefixes = f.let(zero);
    const lock = f.let(zero);
    const override = f.let(zero);
    const opcode = readPrefixes(f, memory, no, { at, start, rex, prefixes, lock, override });
    f.if(has(rex.get, 8), () => f.set(prefixes, i32.or(prefixes.get, i32.const(KEY.REX_W))));
    const map = f.let(zero);
    f.if(i32.eq(opcode.get, i32.const(0x0f)), () => {
      const next = (): void => {
        f.set(opcode, i32.load8U(at.get));
        f.set(at, i32.add(at.get, i32.const(1)));
      };
      f.set(map, i32.const(1));
      next();
      // 38 and 3A
      f.if(i32.eq(has(opcode.get, ~2), i32.const(0x38)), () => {
        f.set(map, i32.add(i32.const(2), i32.shrU(has(opcode.get, 2), i32.const(1))));
        next();
      });
    });

    const which = f.let(i32.or(i32.shl(map.get, i32.const(8)), opcode.get));
    const form = f.let(i32.load8U(which.get, memory.templates + TEMPLATES.MODRM));
    f.brIf(no, i32.eq(form.get, i32.const(MODRM.UNKNOWN)));
    const modrm = f.let(zero);
    f.set(which, i32.or(i32.shl(which.get, i32.const(KEY.PREFIX_BITS)), prefixes.get));
    f.set(which, i32.shl(which.get, i32.const(KEY.MODRM_BITS)));
    f.if(i32.eq(form.get, i32.const(MODRM.YES)), () => {
      f.set(modrm, i32.load8U(at.get));
      f.set(at, i32.add(at.get, i32.const(1)));
      const register = i32.shl(i32.geU(modrm.get, i32.const(0xc0)), i32.const(3));
      f.set(which, i32.or(which.get, i32.or(has(i32.shrU(modrm.get, i32.const(3)), 7), register)));
    });
    const number = f.let(i32.load16U(i32.shl(which.get, i32.const(1)), memory.templates + TEMPLATES.KEYS));
    f.brIf(no, i32.eqz(number.get));
    const template = f.let(
      i32.add(i32.const(memory.templates + TEMPLATES.AT), i32.mul(number.get, i32.const(TEMPLATE.BYTES))),
    );
    const flags = f.let(i32.load(template.get, TEMPLATE.FLAGS));
    f.if(lock.get, () => f.brIf(no, i32.eqz(has(flags.get, TEMPLATE_FLAG.LOCKABLE))));
    f.brIf(no, i32.and(has(flags.get, TEMPLATE_FLAG.NO_REX_B), i32.shl(has(rex.get, 1), i32.const(3))));
    const looked = i32.and(mode.get, i32.load16U(template.get, TEMPLATE.MODE_MASK));
    f.brIf(no, i32.ne(looked, i32.load16U(template.get, TEMPLATE.MODE_VALUE)));

    // The record: offset, length and so on are stored when they are known
    const put = (field: number, value: Expr): void => f.do(i32.store(record.get, value, field));
    const put16 = (field: number, value: Expr): void => f.do(i32.store16(record.get, value, field));
    f.do(i32.store16(record.get, i32.load16U(template.get, TEMPLATE.HANDLER), REC.HANDLER));
    f.do(i32.store16(record.get, offset.get, REC.OFFSET));
    f.do(i32.store8(record.get, zero, REC.SCALE));
    f.do(i32.store16(record.get, i32.const(1), REC.REMAINING));
    for (let field: number = REC.RA; field < REC.BYTES; field += 8) f.do(i64.store(record.get, i64.const(0), field));
    put(REC.UPPER, zero);
    for (const field of [REC.BASE, REC.INDEX, REC.SEG]) put16(field, i32.const(S.ZERO));

    const segment = f.let(i32.const(SEG.DS));
    const ripRelative = f.let(zero);
    f.if(has(flags.get, TEMPLATE_FLAG.MEMORY), () => readAddress(f, { record, at, rex, modrm, segment, ripRelative }));
    const reg = f.let(i32.or(has(i32.shrU(modrm.get, i32.const(3)), 7), i32.shl(has(rex.get, 4), i32.const(1))));
    const rm = f.let(i32.or(has(modrm.get, 7), i32.shl(has(rex.get, 1), i32.const(3))));
    const low = f.let(i32.or(has(opcode.get, 7), i32.shl(has(rex.get, 1), i32.const(3))));
    [REC.RA, REC.RB, REC.RC].forEach((field, i) => {
      const register = f.let(i32.load8U(template.get, TEMPLATE.REGISTERS + i));
      f.if(register.get, () => {
        const source = f.let(has(register.get, 3));
        const which = f.let(low.get);
        f.if(i32.eq(source.get, i32.const(SOURCE.REG)), () => f.set(which, reg.get));
        f.if(i32.eq(source.get, i32.const(SOURCE.RM)), () => f.set(which, rm.get));
        f.set(register, i32.shrU(register.get, i32.const(2)));
        put16(field, registerCell(f, register, which, rex));
      });
    });

    readImmediate(f, record, at, template);
    const length = f.let(i32.sub(at.get, start.get));
    f.brIf(no, i32.gtU(length.get, i32.const(15)));
    f.do(i32.store8(record.get, length.get, REC.LENGTH));
    const behind = f.let(i32.add(offset.get, length.get));
    f.if(ripRelative.get, () => put(REC.DISP, i32.add(i32.load(record.get, REC.DISP), behind.get)));
    f.if(has(flags.get, TEMPLATE_FLAG.RELATIVE), () =>
      put(REC.TARGET, i32.add(behind.get, i32.load(record.get, REC.IMM))),
    );
    const code = i32.or(i32.shl(opcode.get, i32.const(8)), i32.shl(map.get, i32.const(16)));
    put(REC.EXTRA, i32.or(modrm.get, code));
    f.if(
      override.get,
      () => {
        f.set(segment, override.get);
        put16(REC.SEG, i32.add(i32.const(S.SEG_BASE), i32.shl(override.get, i32.const(3))));
      },
      () => f.if(has(flags.get, TEMPLATE_FLAG.BARE), () => f.set(segment, i32.const(SEG.DS))),
    );
    const aux = f.let(i32.or(i32.load(template.get, TEMPLATE.AUX), i32.shl(segment.get, i32.const(AUX.SEGMENT_SHIFT))));
    const also = (condition: Expr, bits: number): void =>
      f.if(condition, () => f.set(aux, i32.or(aux.get, i32.const(bits))));
    also(has(prefixes.get, KEY.REP), AUX.REP);
    also(has(prefixes.get, KEY.REPNE), AUX.REPNE);
    also(has(prefixes.get, KEY.OPERAND16), AUX.OPERAND16);
    also(has(prefixes.get, KEY.REX_W), AUX.REX_W);
    also(lock.get, AUX.LOCK);
    f.if(has(flags.get, TEMPLATE_FLAG.PLUS_R), () => f.set(rm, low.get));
    const numbers = i32.or(i32.shl(reg.get, i32.const(AUX.REG_SHIFT)), i32.shl(rm.get, i32.const(AUX.RM_SHIFT)));
    put(REC.AUX, i32.or(aux.get, numbers));
    f.ret(i32.or(i32.load8U(template.get, TEMPLATE.RESULT), i32.shl(length.get, i32.const(8))));
  });
  f.ret(i32.const(-1));
}

/**
 * Defines decodeRun (CODE_TABLE, mode word, host address) → first of the records that it has decoded, or 0: there is no room. It
 * goes on behind branches, which may not be taken, to the end of the page, code decoded before, a jump, or RUN_MAX.
 *
 * @param ask  (record, host address, mode word) → as quickDecode, by the decoder; an instruction over the page end comes as
 *             three records, of which the last ends the stretch.
 */
export function buildDecodeRun(f: FunctionBuilder, memory: EngineMemory, quick: Callee, ask: Callee): void {
  const [table, mode, host] = f.parameters as [Local, Local, Local];
  const first = f.let(i32.load(zero, DECODING.TOP));
  // Room for a whole run, and the parts of a crossing instruction
  const most = f.let(i32.add(first.get, i32.const(RUN_MAX * REC.BYTES)));
  f.if(i32.gtU(i32.add(most.get, i32.const(4 * REC.BYTES)), i32.const(memory.codeEnd)), () => f.ret(zero));
  const record = f.let(first.get);
  /** Where the run that is under way begins: behind a branch there is another. */
  const start = f.let(first.get);
  const offset = f.let(has(host.get, 4095));
  const page = f.let(i32.shrU(host.get, i32.const(12)));
  const end = f.let(i32.shl(i32.add(page.get, i32.const(1)), i32.const(12)));
  const heat = f.let(i32.load(table.get, CODE_TABLE.HEAT));
  const at = f.local(I32);
  const count = f.let(zero);
  const decoded = f.local(I32);
  const put16 = (field: number, value: Expr): void => f.do(i32.store16(record.get, value, field));
  const next = (local: Local): void => f.set(local, i32.add(local.get, i32.const(REC.BYTES)));
  /** `at` := where the table has the record of what is next. */
  const find = (): void => f.set(at, i32.add(table.get, i32.shl(offset.get, i32.const(2))));
  const isPageEnd = i32.geU(offset.get, i32.const(4096));
  /** The run ends in front of `record`. */
  const close = (): void => {
    f.set(at, record.get);
    const left = f.let(zero);
    f.block((done) =>
      f.loop((again) => {
        f.brIf(done, i32.eq(at.get, start.get));
        f.set(at, i32.sub(at.get, i32.const(REC.BYTES)));
        f.set(left, i32.add(left.get, i32.const(1)));
        f.do(i32.store16(at.get, left.get, REC.REMAINING));
        f.br(again);
      }),
    );
    f.release(left);
    f.set(start, record.get);
  };
  f.block((ended) => {
    f.block((behind) => {
      f.loop((again) => {
        f.brIf(behind, isPageEnd);
        find();
        f.brIf(behind, i32.load(at.get, CODE_TABLE.ENTRIES));
        f.brIf(behind, i32.eq(record.get, most.get));
        f.set(decoded, call(quick, record.get, host.get, end.get, offset.get, mode.get));
        f.if(i32.ltS(decoded.get, zero), () => f.set(decoded, call(ask, record.get, host.get, mode.get)));
        f.do(i32.store(record.get, page.get, REC.PLACE));
        f.do(i32.store(record.get, heat.get, REC.HEAT));
        f.do(i32.store(at.get, record.get, CODE_TABLE.ENTRIES));
        f.if(i32.ne(record.get, start.get), () => fuse(f, memory, record));
        f.set(count, i32.add(count.get, i32.const(1)));
        next(record);
        f.if(i32.eq(has(decoded.get, 0xff), i32.const(DECODED.CROSSES)), () => {
          close();
          next(record);
          f.br(ended);
        });
        f.set(host, i32.add(host.get, i32.shrU(decoded.get, i32.const(8))));
        f.set(offset, i32.add(offset.get, i32.shrU(decoded.get, i32.const(8))));
        f.set(decoded, has(decoded.get, 0xff));
        f.brIf(again, i32.eq(decoded.get, i32.const(DECODED.NEXT)));
        f.brIf(behind, i32.ne(decoded.get, i32.const(DECODED.BRANCH)));
        f.brIf(behind, i32.eq(record.get, most.get));
        close();
        f.br(again);
      });
    });
    close();
    put16(REC.OFFSET, offset.get);
    put16(REC.REMAINING, zero);
    put16(REC.HANDLER, i32.const(PSEUDO.PAGE_END));
    f.do(i32.store(record.get, zero, REC.LINK));
    f.brIf(ended, isPageEnd);
    find();
    f.set(decoded, i32.load(at.get, CODE_TABLE.ENTRIES));
    f.do(i32.store(record.get, decoded.get, REC.LINK));
    put16(REC.HANDLER, select(decoded.get, i32.const(PSEUDO.GOTO), i32.const(PSEUDO.STALE)));
  });
  f.do(i32.store(record.get, first.get, STRETCH.FIRST));
  f.do(i32.store(record.get, i32.load(table.get, CODE_TABLE.STRETCHES), STRETCH.NEXT));
  f.do(i32.store(table.get, record.get, CODE_TABLE.STRETCHES));
  next(record);
  f.do(i32.store(zero, record.get, DECODING.TOP));
  f.do(i32.store(zero, i32.add(i32.load(zero, DECODING.COUNT), count.get), DECODING.COUNT));
  f.ret(first.get);
}

/** A record and the one before it may run as one: if so, that gets the handler for both. */
function fuse(f: FunctionBuilder, memory: EngineMemory, record: Local): void {
  const before = f.let(i32.sub(record.get, i32.const(REC.BYTES)));
  const first = f.let(i32.load8U(i32.load16U(before.get), memory.fusions + FUSIONS.FIRST));
  f.if(first.get, () => {
    const second = i32.load8U(i32.load16U(record.get), memory.fusions + FUSIONS.SECOND);
    const index = i32.or(i32.shl(first.get, i32.const(FUSIONS.FIRST_SHIFT)), second);
    const pair = f.let(i32.load16U(i32.shl(index, i32.const(1)), memory.fusions + FUSIONS.PAIRS));
    f.if(pair.get, () => f.do(i32.store16(before.get, pair.get, REC.HANDLER)));
    f.release(pair);
  });
  f.release(first);
  f.release(before);
}

interface Prefixes {
  readonly at: Local;
  readonly start: Local;
  readonly rex: Local;
  readonly prefixes: Local;
  readonly lock: Local;
  readonly override: Local;
}

/** Legacy prefixes and a REX right before the opcode; the byte behind them, a local. */
function readPrefixes(f: FunctionBuilder, memory: EngineMemory, no: Label, p: Prefixes): Local {
  const { at, start, rex, prefixes, lock, override } = p;
  const byte = f.local(I32);
  const kind = f.local(I32);
  const read = (): void => {
    f.set(byte, i32.load8U(at.get));
    f.set(at, i32.add(at.get, i32.const(1)));
    f.set(kind, i32.load8U(byte.get, memory.templates + TEMPLATES.PREFIXES));
  };
  f.block((done) => {
    f.loop((next) => {
      read();
      f.brIf(done, i32.eqz(kind.get));
      f.if(i32.eq(kind.get, i32.const(PREFIX.REX)), () => {
        f.set(rex, byte.get);
        read();
        f.brIf(no, kind.get);
        f.br(done);
      });
      f.brIf(no, i32.eq(kind.get, i32.const(PREFIX.ADDRESS)));
      f.brIf(no, i32.gtU(i32.sub(at.get, start.get), i32.const(PREFIXES_MAX)));
      f.if(i32.eq(kind.get, i32.const(PREFIX.OPERAND)), () =>
        f.set(prefixes, i32.or(prefixes.get, i32.const(KEY.OPERAND16))),
      );
      f.if(i32.eq(kind.get, i32.const(PREFIX.REP)), () => {
        // The last one counts: F3 has bit 0 set
        const rep = i32.add(i32.eqz(has(byte.get, 1)), i32.const(1));
        f.set(prefixes, i32.or(has(prefixes.get, ~(KEY.REP | KEY.REPNE)), rep));
      });
      f.if(i32.eq(kind.get, i32.const(PREFIX.LOCK)), () => f.set(lock, i32.const(1)));
      f.if(i32.eq(kind.get, i32.const(PREFIX.FS_GS)), () => f.set(override, i32.sub(byte.get, i32.const(0x60))));
      f.br(next);
    });
  });
  return byte;
}

interface Address {
  readonly record: Local;
  readonly at: Local;
  readonly rex: Local;
  readonly modrm: Local;
  readonly segment: Local;
  readonly ripRelative: Local;
}

/** ModRM.rm and SIB: the record's base, index, scale and displacement, and the default segment. */
function readAddress(f: FunctionBuilder, a: Address): void {
  const { record, at, rex, modrm, segment, ripRelative } = a;
  const put = (field: number, value: Expr): void => f.do(i32.store(record.get, value, field));
  const put16 = (field: number, value: Expr): void => f.do(i32.store16(record.get, value, field));
  const cell = (number: Expr): Expr => i32.add(i32.const(GPR), i32.shl(number, i32.const(3)));
  const mod = f.let(i32.shrU(modrm.get, i32.const(6)));
  const base = f.let(has(modrm.get, 7));
  const displacement = (): void => {
    put(REC.DISP, i32.load(at.get));
    f.set(at, i32.add(at.get, i32.const(4)));
  };
  f.block((done) => {
    f.if(
      i32.eq(base.get, i32.const(4)),
      () => {
        const sib = f.let(i32.load8U(at.get));
        f.set(at, i32.add(at.get, i32.const(1)));
        const index = f.let(i32.or(has(i32.shrU(sib.get, i32.const(3)), 7), i32.shl(has(rex.get, 2), i32.const(2))));
        f.if(i32.ne(index.get, i32.const(4)), () => {
          put16(REC.INDEX, cell(index.get));
          f.do(i32.store8(record.get, i32.shrU(sib.get, i32.const(6)), REC.SCALE));
        });
        f.set(base, has(sib.get, 7));
        f.if(i32.and(i32.eq(base.get, i32.const(5)), i32.eqz(mod.get)), () => {
          displacement();
          f.br(done);
        });
      },
      () =>
        f.if(i32.and(i32.eq(base.get, i32.const(5)), i32.eqz(mod.get)), () => {
          displacement();
          put16(REC.BASE, i32.const(S.RIP_PAGE));
          f.set(ripRelative, i32.const(1));
          f.br(done);
        }),
    );
    // RSP and RBP
    f.if(i32.and(i32.eq(has(base.get, ~1), i32.const(4)), i32.eqz(has(rex.get, 1))), () =>
      f.set(segment, i32.const(SEG.SS)),
    );
    put16(REC.BASE, cell(i32.or(base.get, i32.shl(has(rex.get, 1), i32.const(3)))));
    f.if(i32.eq(mod.get, i32.const(1)), () => {
      put(REC.DISP, i32.load8S(at.get));
      f.set(at, i32.add(at.get, i32.const(1)));
    });
    f.if(i32.eq(mod.get, i32.const(2)), displacement);
  });
}

/** Address of the register that a number means as CELL says. */
function registerCell(f: FunctionBuilder, cell: Local, number: Local, rex: Local): Expr {
  const address = f.let(i32.add(i32.const(GPR), i32.shl(number.get, i32.const(3))));
  f.if(i32.eq(cell.get, i32.const(CELL.XMM)), () =>
    f.set(address, i32.add(i32.const(S.XMM), i32.shl(number.get, i32.const(4)))),
  );
  f.if(i32.eq(cell.get, i32.const(CELL.MM)), () =>
    f.set(address, i32.add(i32.const(S.FPR), i32.shl(has(number.get, 7), i32.const(4)))),
  );
  f.if(i32.eq(cell.get, i32.const(CELL.BYTE)), () =>
    // AH, CH, DH, BH without REX
    f.if(i32.and(i32.eqz(rex.get), i32.geU(number.get, i32.const(4))), () =>
      f.set(address, i32.sub(address.get, i32.const(8 * 4 - 1))),
    ),
  );
  return address.get;
}

function readImmediate(f: FunctionBuilder, record: Local, at: Local, template: Local): void {
  const kind = f.let(i32.load8U(template.get, TEMPLATE.IMMEDIATE));
  const kinds: readonly [kind: number, bytes: number, value: Expr][] = [
    [TEMPLATE_IMMEDIATE.BYTE, 1, i32.load8S(at.get)],
    [TEMPLATE_IMMEDIATE.WORD, 2, i32.load16S(at.get)],
    [TEMPLATE_IMMEDIATE.UNSIGNED_WORD, 2, i32.load16U(at.get)],
    [TEMPLATE_IMMEDIATE.DWORD, 4, i32.load(at.get)],
    [TEMPLATE_IMMEDIATE.QWORD, 8, i32.load(at.get)],
  ];
  f.if(kind.get, () =>
    f.block((done) => {
      for (const [number, bytes, value] of kinds) {
        f.if(i32.eq(kind.get, i32.const(number)), () => {
          f.do(i32.store(record.get, value, REC.IMM));
          if (bytes === 8) f.do(i32.store(record.get, i32.load(at.get, 4), REC.UPPER));
          f.set(at, i32.add(at.get, i32.const(bytes)));
          f.br(done);
        });
      }
    }),
  );
}
