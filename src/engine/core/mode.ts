import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { type Expr, I32, i32, i64, select } from '../../wasm/expr.ts';
import { type FunctionBuilder, ModuleBuilder } from '../../wasm/module.ts';
import { MODE } from '../decode/mode.ts';
import { AR } from './address.ts';
import { JUMP_CACHE, S, SEG, segment, TLB, TLB_EMPTY } from './layout.ts';

/**
 * What generated code wants to know of the registers at every instruction, derived from them where they change: the mode
 * word, the TLB set, the jump cache, the segment bases. In WebAssembly, for every change of level comes here.
 *
 * @returns  (address of the TLB context) → whether data accesses must be aligned: CR0.AM and RFLAGS.AC at CPL 3.
 */
export type DeriveMode = (context: number) => number;

const zero = i32.const(0);
const load = (cell: number): Expr => i32.load(zero, cell);
const store = (f: FunctionBuilder, cell: number, value: Expr): void => f.do(i32.store(zero, value, cell));
const any = (value: Expr, mask: number): Expr => i32.ne(i32.and(value, i32.const(mask)), zero);
/** `flag` of the mode word if the condition, which is 0 or 1, holds. */
const flag = (condition: Expr, mask: number): Expr => i32.shl(condition, i32.const(31 - Math.clz32(mask)));

/** @param noX87Selectors  S.NO_X87_SELECTORS: a matter of the processor. */
export function deriveMode(memory: WebAssembly.Memory, noX87Selectors: number): DeriveMode {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', 1);
  const f = m.func('derive', [I32], [I32], true);
  const context = f.parameters[0]!.get;
  const cr0 = f.let(load(S.CR0));
  const cr4 = f.let(load(S.CR4));
  const rflags = f.let(load(S.RFLAGS));
  const code = f.let(load(segment(SEG.CS) + SEG.ACCESS));
  const user = f.let(i32.eq(load(S.CPL), i32.const(3)));
  const isLong = f.let(i32.and(any(load(S.EFER), EFER.LMA), any(code.get, AR.L)));

  const mode = f.let(flag(isLong.get, MODE.LONG));
  const add = (bits: Expr): void => f.set(mode, i32.or(mode.get, bits));
  const isDefault32 = f.let(any(code.get, AR.DB));
  add(flag(i32.or(isLong.get, isDefault32.get), MODE.DEFAULT32));
  f.if(i32.and(i32.eqz(isLong.get), isDefault32.get), () => add(flag(isFlat(), MODE.FLAT32)));
  add(flag(i32.eqz(any(cr0.get, CR0.PE)), MODE.REAL));
  add(flag(any(rflags.get, RFLAGS.VM), MODE.VM86));
  add(flag(user.get, MODE.USER));
  add(flag(any(cr0.get, CR0.EM), MODE.EM));
  add(flag(any(cr0.get, CR0.TS), MODE.TS));
  add(flag(any(cr0.get, CR0.MP), MODE.MP));
  add(flag(any(cr4.get, CR4.OSFXSR), MODE.OSFXSR));
  const hasAvx = i32.eq(i32.and(load(S.XCR0), i32.const(6)), i32.const(6));
  add(flag(i32.and(any(cr4.get, CR4.OSXSAVE), hasAvx), MODE.AVX));
  store(f, S.MODE, mode.get);

  store(f, S.CANONICAL_SHIFT, select(any(cr4.get, CR4.LA57), i32.const(7), i32.const(16)));
  store(f, S.NO_X87_SELECTORS, i32.const(noX87Selectors));

  const isOpen = i32.or(i32.eqz(any(cr4.get, CR4.SMAP)), any(rflags.get, RFLAGS.AC));
  const setOf = (number: number): Expr => i32.const(number * TLB.SET_BYTES);
  const supervisor = select(isOpen, setOf(TLB.SUPERVISOR), setOf(TLB.SUPERVISOR_SMAP));
  const set = i32.add(context, select(user.get, setOf(TLB.USER), supervisor));
  const aligning = f.let(i32.and(user.get, i32.and(any(cr0.get, CR0.AM), any(rflags.get, RFLAGS.AC))));
  store(f, S.TLB, select(aligning.get, i32.const(TLB_EMPTY), set));
  store(f, S.CONTEXT, context);
  const fetches = select(user.get, setOf(TLB.USER), setOf(TLB.SUPERVISOR));
  store(f, S.EXECUTE, i32.add(i32.add(context, fetches), i32.const(TLB.EXECUTE)));
  const jumps = f.let(i32.add(i32.add(context, setOf(TLB.SETS)), select(user.get, zero, i32.const(JUMP_CACHE.STRIDE))));
  store(f, S.JUMP_CACHE, jumps.get);
  const generation = i32.load(jumps.get, JUMP_CACHE.GENERATION);
  store(f, S.JUMP_TAG, i32.or(mode.get, i32.shl(generation, i32.const(JUMP_CACHE.GENERATION_SHIFT))));

  for (let seg = SEG.ES as number; seg <= SEG.GS; seg += 1) {
    const base = i64.load(zero, segment(seg) + SEG.BASE);
    const hasBase = seg === SEG.FS || seg === SEG.GS;
    f.do(i64.store(zero, hasBase ? base : select(isLong.get, i64.const(0), base), S.SEG_BASE + 8 * seg));
  }
  f.ret(aligning.get);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
  return exports['derive'] as DeriveMode;
}

/** CS SS DS ES are what a flat program has: present, of 4 GiB from 0, CS code, the others to be written; a 32-bit stack. */
function isFlat(): Expr {
  let flat = i32.const(1);
  for (const seg of [SEG.ES, SEG.CS, SEG.SS, SEG.DS]) {
    const at = segment(seg);
    const rights = load(at + SEG.ACCESS);
    const isCode = seg === SEG.CS;
    let mask: number = AR.UNUSABLE | AR.P | AR.CODE | (isCode ? 0 : AR.EXPAND_DOWN | AR.WRITABLE);
    let wanted: number = AR.P | (isCode ? AR.CODE : AR.WRITABLE);
    if (seg === SEG.SS) {
      mask |= AR.DB;
      wanted |= AR.DB;
    }
    flat = i32.and(flat, i32.eq(i32.and(rights, i32.const(mask)), i32.const(wanted)));
    flat = i32.and(flat, i32.eqz(load(at + SEG.BASE)));
    flat = i32.and(flat, i32.eq(load(at + SEG.LIMIT), i32.const(-1)));
  }
  return flat;
}
