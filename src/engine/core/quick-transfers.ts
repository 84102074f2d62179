import { CR0, CR4, DR7_ENABLES, EFER, RFLAGS, RFLAGS_IOPL, RFLAGS_STATUS } from '../../arch/registers.ts';
import { type Callee, call, type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Label, Local, ModuleBuilder } from '../../wasm/module.ts';
import { MODE } from '../decode/mode.ts';
import { CC } from '../isa/flags.ts';
import { ACCESS } from '../paging/access.ts';
import { AR } from './address.ts';
import { NMI_WINDOW, WINDOW } from './cpu.ts';
import { CODE64, DATA32, SYSRET_FLAGS } from './fast-calls.ts';
import { gpr, JUMP_CACHE, S, SEG, segment, TLB } from './layout.ts';
import { PENDING } from './pending-debug.ts';
import { IRET32 } from './transfers.ts';

/**
 * SYSCALL, SYSRET and IRET between 64-bit code of levels 0 and 3, in WebAssembly: everything present, accessed and legal, no
 * debugging, no window opening that L0 waits for. Each function answers 0 if it is the helper's case, and has changed nothing then.
 *
 * Owns    nothing: fast-calls.ts and transfers.ts say what the instructions do.
 */

const zero = i32.const(0);
const [RCX, RSP, R11] = [gpr(1), gpr(4), gpr(11)];

const word = (at: number): Expr => i32.load(zero, at);
const has = (value: Expr, bits: number): Expr => i32.and(value, i32.const(bits));

/** What setRflags keeps in S.RFLAGS. */
const KEPT = 0x3f_7700;

/** Processor.setRflags. */
function setFlags(f: FunctionBuilder, value: Local): void {
  f.do(i64.store(zero, i64.extendI32U(has(value.get, RFLAGS_STATUS)), S.CC_B));
  f.do(i32.store(zero, i32.const(CC.EXPLICIT), S.CC_KIND));
  f.do(i32.store(zero, i32.or(has(value.get, KEPT), i32.const(RFLAGS.FIXED1)), S.RFLAGS));
  f.do(i64.store(zero, select(has(value.get, RFLAGS.DF), i64.const(-1), i64.const(1)), S.DIRECTION));
}

/** Processor.modeChanged, where 64-bit code goes on at level 0 or 3: S.CPL and S.RFLAGS are the new ones. */
function defineLevelChanged(m: ModuleBuilder): Callee {
  const f = m.func('levelChanged', [], []);
  const user = f.let(i32.eq(word(S.CPL), i32.const(3)));
  const context = f.let(word(S.CONTEXT));
  const mode = f.let(i32.or(has(word(S.MODE), ~MODE.USER), i32.mul(user.get, i32.const(MODE.USER))));
  f.do(i32.store(zero, mode.get, S.MODE));
  const set = (number: number): number => number * TLB.SET_BYTES;
  const supervisor = f.let(i32.const(set(TLB.SUPERVISOR)));
  f.if(has(word(S.CR4), CR4.SMAP), () =>
    f.if(i32.eqz(has(word(S.RFLAGS), RFLAGS.AC)), () => f.set(supervisor, i32.const(set(TLB.SUPERVISOR_SMAP)))),
  );
  const sets = select(user.get, i32.const(set(TLB.USER)), supervisor.get);
  f.do(i32.store(zero, i32.add(context.get, sets), S.TLB));
  const execute = (number: number): Expr => i32.const(set(number) + TLB.EXECUTE);
  f.do(i32.store(zero, i32.add(context.get, select(user.get, execute(TLB.USER), execute(TLB.SUPERVISOR))), S.EXECUTE));
  const jumps = select(user.get, i32.const(set(TLB.SETS)), i32.const(set(TLB.SETS) + JUMP_CACHE.STRIDE));
  const cache = f.let(i32.add(context.get, jumps));
  f.do(i32.store(zero, cache.get, S.JUMP_CACHE));
  const generation = i32.shl(i32.load(cache.get, JUMP_CACHE.GENERATION), i32.const(JUMP_CACHE.GENERATION_SHIFT));
  f.do(i32.store(zero, i32.or(mode.get, generation), S.JUMP_TAG));
  return f;
}

/** Flat CS and SS of `cpl`: loadFlat of fast-calls.ts for 64-bit code. Selectors are i32. */
function loadFlat(f: FunctionBuilder, cs: Expr, ss: Expr, cpl: number): void {
  for (const [seg, selector, rights] of [
    [SEG.CS, cs, CODE64],
    [SEG.SS, ss, DATA32],
  ] as const) {
    const at = segment(seg);
    f.do(i32.store16(zero, selector, at + SEG.SELECTOR));
    f.do(i32.store(zero, i32.const(rights | (cpl << AR.DPL_SHIFT)), at + SEG.ACCESS));
    f.do(i32.store(zero, i32.const(-1), at + SEG.LIMIT));
    f.do(i64.store(zero, i64.const(0), at + SEG.BASE));
  }
  f.do(i32.store(zero, i32.const(cpl), S.CPL));
}

/** The boundary behind SYSCALL or SYSRET has no single-step trap, TF being clear. */
const noStep = (f: FunctionBuilder): void =>
  f.do(i32.store(zero, i32.or(word(S.PENDING_DEBUG), i32.const(PENDING.NO_STEP)), S.PENDING_DEBUG));

const unlessCanonical = (f: FunctionBuilder, no: Label, address: Local): void => {
  const unused = i64.load32U(zero, S.CANONICAL_SHIFT);
  f.brIf(no, i64.ne(i64.shrS(i64.shl(address.get, unused), unused), address.get));
};

/** L0 waits for a window, and it opens with these flags. */
const unlessShut = (f: FunctionBuilder, no: Label, flags: Local): void => {
  const wanted = select(has(flags.get, RFLAGS.IF), i32.const(WINDOW), i32.const(NMI_WINDOW));
  f.brIf(no, i32.and(word(S.INTERCEPTED), wanted));
};

/** CR0.AM and RFLAGS.AC: accesses of level 3 are checked, and the TLB in force is another. */
const unlessAligning = (f: FunctionBuilder, no: Label, flags: Local): void =>
  f.if(has(flags.get, RFLAGS.AC), () => f.brIf(no, has(word(S.CR0), CR0.AM)));

type Define = (
  name: string,
  params: readonly (typeof I32 | typeof I64)[],
  results: readonly (typeof I32 | typeof I64)[],
) => FunctionBuilder;

/**
 * Defines quickSyscall (next RIP), quickSysret () and quickIret ().
 *
 * @param flags  () → status flags
 * @param page   (linear, ACCESS) → host address or 0, by the TLB set in force
 * @param walk   (linear, ACCESS) → host address or 0
 */
export function defineQuickTransfers(
  define: Define,
  m: ModuleBuilder,
  flags: Callee,
  page: Callee,
  walk: Callee,
): void {
  const levelChanged = defineLevelChanged(m);
  const descriptor = defineDescriptor(m, walk);

  const syscall = define('quickSyscall', [I64], [I32]);
  {
    const f = syscall;
    f.block((no) => {
      f.brIf(no, i32.eqz(has(word(S.EFER), EFER.SCE)));
      const old = f.let(i32.or(word(S.RFLAGS), call(flags)));
      const cleared = i32.or(word(S.FMASK), i32.const(RFLAGS.RF | RFLAGS.VM));
      const value = f.let(i32.and(old.get, i32.xor(cleared, i32.const(-1))));
      f.brIf(no, has(value.get, RFLAGS.TF));
      unlessShut(f, no, value);
      unlessAligning(f, no, old);
      f.do(i64.store(zero, f.parameters[0]!.get, RCX));
      f.do(i64.store(zero, i64.extendI32U(has(old.get, ~RFLAGS.RF)), R11));
      const selector = f.let(has(i32.load16U(zero, S.STAR + 4), 0xfffc));
      loadFlat(f, selector.get, i32.add(selector.get, i32.const(8)), 0);
      setFlags(f, value);
      noStep(f);
      f.do(call(levelChanged));
      f.do(i64.store(zero, i64.load(zero, S.LSTAR), S.NEXT_LINEAR));
      f.ret(i32.const(1));
    });
    f.ret(zero);
  }

  const sysret = define('quickSysret', [], [I32]);
  {
    const f = sysret;
    f.block((no) => {
      f.brIf(no, i32.eqz(has(word(S.EFER), EFER.SCE)));
      f.brIf(no, word(S.CPL));
      const target = f.let(i64.load(zero, RCX));
      unlessCanonical(f, no, target);
      const value = f.let(has(word(R11), SYSRET_FLAGS));
      f.brIf(no, has(value.get, RFLAGS.TF));
      unlessShut(f, no, value);
      unlessAligning(f, no, value);
      const base = f.let(i32.load16U(zero, S.STAR + 6));
      const selector = (offset: number): Expr => i32.or(i32.add(base.get, i32.const(offset)), i32.const(3));
      loadFlat(f, selector(16), selector(8), 3);
      setFlags(f, value);
      noStep(f);
      f.do(call(levelChanged));
      f.do(i64.store(zero, target.get, S.NEXT_LINEAR));
      f.ret(i32.const(1));
    });
    f.ret(zero);
  }

  const iret = define('quickIret', [], [I32]);
  {
    const f = iret;
    f.block((no) => {
      const old = f.let(word(S.RFLAGS));
      f.brIf(no, has(old.get, RFLAGS.NT));
      unlessAligning(f, no, old);
      f.brIf(no, i32.or(word(S.NMI_BLOCKED), has(word(S.DR + 56), DR7_ENABLES)));
      // RIP, CS, RFLAGS, RSP, SS
      const rsp = f.let(i64.load(zero, RSP));
      f.brIf(no, i32.gtU(has(i32.wrap(rsp.get), 0xfff), i32.const(4096 - 40)));
      const cpl = f.let(word(S.CPL));
      const access = select(i32.eq(cpl.get, i32.const(3)), i32.const(ACCESS.USER), zero);
      const top = f.let(call(page, rsp.get, access));
      f.brIf(no, i32.eqz(top.get));
      const rip = f.let(i64.load(top.get));
      const cs = f.let(i32.load16U(top.get, 8));
      const ss = f.let(i32.load16U(top.get, 32));
      const rpl = f.let(has(cs.get, 3));
      f.brIf(no, i32.ltU(rpl.get, cpl.get));
      // Levels 1 and 2
      f.brIf(no, has(i32.add(rpl.get, i32.const(1)), 2));
      unlessCanonical(f, no, rip);

      const mask = f.let(i32.const(IRET32 & ~RFLAGS.RF));
      const iopl = i32.shrU(has(old.get, RFLAGS_IOPL), i32.const(12));
      f.if(i32.leU(cpl.get, iopl), () => f.set(mask, i32.or(mask.get, i32.const(RFLAGS.IF))));
      f.if(i32.eqz(cpl.get), () => f.set(mask, i32.or(mask.get, i32.const(RFLAGS_IOPL | RFLAGS.VIF | RFLAGS.VIP))));
      const kept = i32.and(
        i32.or(old.get, call(flags)),
        i32.xor(i32.or(mask.get, i32.const(RFLAGS.RF)), i32.const(-1)),
      );
      const value = f.let(i32.or(kept, i32.and(i32.load(top.get, 16), mask.get)));
      f.brIf(no, has(value.get, RFLAGS.TF));
      unlessShut(f, no, value);
      f.if(rpl.get, () => unlessAligning(f, no, value));

      const code = f.let(call(descriptor, cs.get));
      unless(f, no, code, LONG_CODE, rpl);
      const stack = f.let(i64.const(0));
      f.if(
        has(ss.get, 0xfffc),
        () => {
          f.set(stack, call(descriptor, ss.get));
          unless(f, no, stack, WRITABLE_DATA, rpl);
        },
        () => f.brIf(no, rpl.get),
      );
      f.brIf(no, i32.ne(has(ss.get, 3), rpl.get));
      f.if(i32.ne(rpl.get, cpl.get), () => {
        for (const seg of [SEG.ES, SEG.DS, SEG.FS, SEG.GS]) unlessOuter(f, no, seg, rpl);
      });

      f.do(i64.store(zero, i64.load(top.get, 24), RSP));
      loadDescriptor(f, SEG.CS, cs, code);
      f.if(
        has(ss.get, 0xfffc),
        () => loadDescriptor(f, SEG.SS, ss, stack),
        () => {
          const at = segment(SEG.SS);
          f.do(i32.store16(zero, ss.get, at + SEG.SELECTOR));
          f.do(i32.store(zero, i32.const(AR.UNUSABLE), at + SEG.ACCESS));
          f.do(i32.store(zero, zero, at + SEG.LIMIT));
          f.do(i64.store(zero, i64.const(0), at + SEG.BASE));
        },
      );
      setFlags(f, value);
      f.do(i32.store(zero, rpl.get, S.CPL));
      f.do(call(levelChanged));
      f.do(i64.store(zero, rip.get, S.NEXT_LINEAR));
      f.ret(i32.const(1));
    });
    f.ret(zero);
  }
}

/** Bits of a descriptor's upper half that are looked at, and what they must be. SDM 3A 3.4.5, 3.4.5.1. */
interface Kind {
  readonly mask: number;
  readonly value: number;
}
const [P, CODE_DATA, ACCESSED, L, D] = [0x8000, 0x1000, 0x100, 0x20_0000, 0x40_0000];
/** Code, not conforming, L set and D clear. */
const LONG_CODE: Kind = { mask: P | CODE_DATA | 0xc00 | ACCESSED | L | D, value: P | CODE_DATA | 0x800 | ACCESSED | L };
const WRITABLE_DATA: Kind = { mask: P | CODE_DATA | 0xa00 | ACCESSED, value: P | CODE_DATA | 0x200 | ACCESSED };

/** To `no` unless the descriptor is of that kind and its DPL is `level`. */
function unless(f: FunctionBuilder, no: Label, descriptor: Local, { mask, value }: Kind, level: Local): void {
  const high = f.let(i32.wrap(i64.shrU(descriptor.get, i64.const(32))));
  f.brIf(no, i32.ne(has(high.get, mask), i32.const(value)));
  f.brIf(no, i32.ne(has(i32.shrU(high.get, i32.const(13)), 3), level.get));
}

/** To `no` if a data segment register would have to become null on the way to `level`: dropInnerSegments. */
function unlessOuter(f: FunctionBuilder, no: Label, seg: number, level: Local): void {
  const rights = f.let(word(segment(seg) + SEG.ACCESS));
  f.if(i32.eqz(has(rights.get, AR.UNUSABLE)), () => {
    const dpl = i32.shrU(has(rights.get, AR.DPL), i32.const(AR.DPL_SHIFT));
    const isConforming = i32.eq(has(rights.get, AR.CODE | AR.CONFORMING), i32.const(AR.CODE | AR.CONFORMING));
    f.brIf(no, i32.and(i32.ltU(dpl, level.get), i32.eqz(isConforming)));
  });
}

/** (selector) → its descriptor in the GDT, or 0. */
function defineDescriptor(m: ModuleBuilder, walk: Callee): Callee {
  const f = m.func('descriptor', [I32], [I64]);
  const selector = f.parameters[0]!;
  f.block((no) => {
    f.brIf(no, has(selector.get, 4));
    f.brIf(no, i32.eqz(has(selector.get, 0xfffc)));
    f.brIf(no, i32.gtU(i32.or(selector.get, i32.const(7)), word(S.GDTR_LIMIT)));
    const offset = i64.extendI32U(has(selector.get, 0xfff8));
    const linear = f.let(i64.add(i64.load(zero, S.GDTR_BASE), offset));
    f.brIf(no, i32.gtU(has(i32.wrap(linear.get), 0xfff), i32.const(4096 - 8)));
    const smap = has(word(S.CR4), CR4.SMAP);
    const set = select(smap, i32.const(TLB.SUPERVISOR_SMAP * TLB.SET_BYTES), i32.const(TLB.SUPERVISOR * TLB.SET_BYTES));
    const index = has(i32.wrap(i64.shrU(linear.get, i64.const(8))), (TLB.ENTRIES - 1) * TLB.ENTRY_BYTES);
    const entry = f.let(i32.add(i32.add(word(S.CONTEXT), set), index));
    f.if(i64.eq(i64.load(entry.get), i64.and(linear.get, i64.const(-4096))), () =>
      f.ret(i64.load(i32.add(i32.wrap(linear.get), i32.load(entry.get, TLB.ADDEND)))),
    );
    const host = f.let(call(walk, linear.get, i32.const(ACCESS.IMPLICIT)));
    f.brIf(no, i32.eqz(host.get));
    f.ret(i64.load(host.get));
  });
  f.ret(i64.const(0));
  return f;
}

/** loadSegment of segments.ts. */
function loadDescriptor(f: FunctionBuilder, seg: number, selector: Local, descriptor: Local): void {
  const at = segment(seg);
  const low = f.let(i32.wrap(descriptor.get));
  const high = f.let(i32.wrap(i64.shrU(descriptor.get, i64.const(32))));
  f.do(i32.store16(zero, selector.get, at + SEG.SELECTOR));
  f.do(i32.store(zero, has(i32.shrU(high.get, i32.const(8)), 0xf0ff), at + SEG.ACCESS));
  const limit = f.let(i32.or(has(low.get, 0xffff), has(high.get, 0xf_0000)));
  f.if(has(high.get, 0x80_0000), () => f.set(limit, i32.or(i32.shl(limit.get, i32.const(12)), i32.const(0xfff))));
  f.do(i32.store(zero, limit.get, at + SEG.LIMIT));
  const middle = i32.shl(has(high.get, 0xff), i32.const(16));
  const base = i32.or(i32.or(i32.shrU(low.get, i32.const(16)), middle), has(high.get, 0xff00_0000));
  f.do(i64.store(zero, i64.extendI32U(base), at + SEG.BASE));
}
