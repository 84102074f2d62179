import { type Expr, I32, i32, i64 } from '../../wasm/expr.ts';
import { ModuleBuilder } from '../../wasm/module.ts';
import { TLB } from '../core/layout.ts';

/** Entries looked at between two branches. */
const UNROLLED = 8;

/**
 * Empties each entry of a write array that leads to a host page. Several linear pages may, and a search through 4096 entries
 * is worth its own code: Linux's text is written through one mapping, and run through another.
 *
 * @param array     Address of the write array.
 * @param hostPage  Number of the host page.
 */
export type WriterScan = (array: number, hostPage: number) => void;

export function writerScan(memory: WebAssembly.Memory): WriterScan {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', 1);
  const f = m.func('scan', [I32, I32], [], true);
  const [at, hostPage] = f.parameters;
  const end = f.let(i32.add(at!.get, i32.const(TLB.ARRAY_BYTES)));
  const wanted = f.let(i32.shl(hostPage!.get, i32.const(12)));
  // An empty entry has ones where offsets are: it never fits
  const fits = (i: number): Expr => {
    const page = i32.and(i32.load(at!.get, i * TLB.ENTRY_BYTES), i32.const(~TLB.WATCHED));
    return i32.eq(i32.add(page, i32.load(at!.get, i * TLB.ENTRY_BYTES + TLB.ADDEND)), wanted.get);
  };
  f.loop((again) => {
    let any = fits(0);
    for (let i = 1; i < UNROLLED; i += 1) any = i32.or(any, fits(i));
    f.if(
      any,
      () => {
        for (let i = 0; i < UNROLLED; i += 1) {
          f.if(fits(i), () => f.do(i64.store(at!.get, i64.const(-1), i * TLB.ENTRY_BYTES)));
        }
      },
      undefined,
      false,
    );
    f.set(at!, i32.add(at!.get, i32.const(UNROLLED * TLB.ENTRY_BYTES)));
    f.brIf(again, i32.ltU(at!.get, end.get));
  });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
  return exports['scan'] as WriterScan;
}
