import { call, type Expr, I32, i32, memoryCopy, v128 } from '../../../wasm/expr.ts';
import { type FunctionBuilder, type Local, ModuleBuilder } from '../../../wasm/module.ts';
import { S, STATE } from '../../core/layout.ts';
import { type EngineMemory, LOCKSTEP } from '../../core/memory.ts';

/** Bytes of a state block that are in use, in whole vectors. */
export const STATE_USED = (Math.max(...Object.values(S)) + 8 - STATE + 15) & ~15;

/** Copies and comparisons of lockstep, in WebAssembly: they run at every region's end. */
export interface LockstepKernel {
  /** The state block goes to LOCKSTEP.STATE_BEFORE; to STATE_FIRST. */
  saveBefore(): void;
  saveFirst(): void;
  loadBefore(): void;
  loadFirst(): void;
  /** Does the state differ from STATE_FIRST in bits of STATE_MASK? */
  stateDiffers(): number;
  /** Makes the image of page `number` in BEFORE; its address stands in HOSTS. */
  note(number: number): void;
  /** Pages 0 … count - 1 go to FIRST, and become what they are in BEFORE. */
  takeBack(count: number): void;
  /** Does one of the first `first` pages differ from its image in FIRST, or one of the others, up to `count`, from BEFORE? */
  pagesDiffer(first: number, count: number): number;
}

export function lockstepKernel(memory: EngineMemory): LockstepKernel {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', 1);
  const at = (offset: number): Expr => i32.const(memory.lockstep + offset);
  const copyState = (name: string, to: Expr, from: Expr): void => {
    m.func(name, [], [], true).do(memoryCopy(to, from, i32.const(STATE_USED)));
  };
  copyState('saveBefore', at(LOCKSTEP.STATE_BEFORE), i32.const(STATE));
  copyState('saveFirst', at(LOCKSTEP.STATE_FIRST), i32.const(STATE));
  copyState('loadBefore', i32.const(STATE), at(LOCKSTEP.STATE_BEFORE));
  copyState('loadFirst', i32.const(STATE), at(LOCKSTEP.STATE_FIRST));

  const stateDiffers = m.func('stateDiffers', [], [I32], true);
  const word = (address: Expr, offset: number): Expr => v128.load(address, offset);
  forEach(stateDiffers, i32.const(0), i32.const(STATE_USED), 16, (offset) => {
    const changed = v128.xor(word(offset.get, STATE), word(i32.add(offset.get, at(LOCKSTEP.STATE_FIRST)), 0));
    const counts = v128.and(changed, word(i32.add(offset.get, at(LOCKSTEP.STATE_MASK)), 0));
    stateDiffers.if(v128.anyTrue(counts), () => stateDiffers.ret(i32.const(1)));
  });
  stateDiffers.ret(i32.const(0));

  const host = (number: Expr): Expr => i32.load(i32.add(at(LOCKSTEP.HOSTS), i32.shl(number, i32.const(2))));
  const image = (area: number, number: Expr): Expr => i32.add(at(area), i32.shl(number, i32.const(12)));
  const page = i32.const(4096);

  const note = m.func('note', [I32], [], true);
  const which = note.parameters[0]!.get;
  note.do(memoryCopy(image(LOCKSTEP.BEFORE, which), host(which), page));

  const takeBack = m.func('takeBack', [I32], [], true);
  forEach(takeBack, i32.const(0), takeBack.parameters[0]!.get, 1, (number) => {
    takeBack.do(memoryCopy(image(LOCKSTEP.FIRST, number.get), host(number.get), page));
    takeBack.do(memoryCopy(host(number.get), image(LOCKSTEP.BEFORE, number.get), page));
  });

  const pageDiffers = m.func('pageDiffers', [I32, I32], [I32]);
  const [a, b] = pageDiffers.parameters as [Local, Local];
  forEach(pageDiffers, i32.const(0), page, 64, (offset) => {
    const pair = (more: number): Expr =>
      v128.xor(word(i32.add(a.get, offset.get), more), word(i32.add(b.get, offset.get), more));
    const any = v128.or(v128.or(pair(0), pair(16)), v128.or(pair(32), pair(48)));
    pageDiffers.if(v128.anyTrue(any), () => pageDiffers.ret(i32.const(1)));
  });
  pageDiffers.ret(i32.const(0));

  const pagesDiffer = m.func('pagesDiffer', [I32, I32], [I32], true);
  const [first, count] = pagesDiffer.parameters as [Local, Local];
  const compare = (from: Expr, to: Expr, area: number): void =>
    forEach(pagesDiffer, from, to, 1, (number) => {
      pagesDiffer.if(call(pageDiffers, host(number.get), image(area, number.get)), () => pagesDiffer.ret(i32.const(1)));
    });
  compare(i32.const(0), first.get, LOCKSTEP.FIRST);
  compare(first.get, count.get, LOCKSTEP.BEFORE);
  pagesDiffer.ret(i32.const(0));

  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), {
    env: { memory: memory.memory } as never,
  });
  return exports as unknown as LockstepKernel;
}

/** `body` for from, from + step, … below `to`. */
function forEach(f: FunctionBuilder, from: Expr, to: Expr, step: number, body: (at: Local) => void): void {
  const at = f.let(from);
  f.block((done) => {
    f.loop((top) => {
      f.brIf(done, i32.geU(at.get, to));
      body(at);
      f.set(at, i32.add(at.get, i32.const(step)));
      f.br(top);
    });
  });
}
