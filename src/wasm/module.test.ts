import { expect, test } from 'vitest';
import { call, I32, I64, i32, i64, V128, v128 } from './expr.ts';
import { ModuleBuilder } from './module.ts';

test('a module with a loop, a branch table, an import, SIMD and an indirect call runs as written', async () => {
  const m = new ModuleBuilder();
  const twice = m.importFunction('env', 'twice', [I32], [I32]);
  m.importMemory('env', 'memory', 1);
  const sum = m.func('sum', [I32], [I64], true);
  const [n] = sum.parameters;
  const total = sum.local(I64);
  sum.loop((top) => {
    sum.set(total, i64.add(total.get, i64.extendI32U(call(twice, n!.get))));
    sum.set(n!, i32.sub(n!.get, i32.const(1)));
    sum.brIf(top, n!.get);
  });
  sum.ret(total.get);
  const pick = m.func('pick', [I32], [I32], true);
  pick.block((other) => {
    pick.block((one) => {
      pick.block((zero) => pick.brTable(pick.parameters[0]!.get, [zero, one], other));
      pick.ret(i32.const(-100));
    });
    pick.ret(i32.const(0x7fff_ffff));
  });
  pick.ret(i32.const(7));
  const lanes = m.func('lanes', [], [I32], true);
  const v = lanes.local(V128);
  lanes.set(v, v128.i32x4Splat(i32.const(5)));
  lanes.do(v128.store(i32.const(16), v128.i32x4Mul(v.get, v.get)));
  lanes.ret(i32.load(i32.const(0), 28));
  const memory = new WebAssembly.Memory({ initial: 1 });
  const module = new WebAssembly.Module(m.finish());
  const { exports } = new WebAssembly.Instance(module, { env: { memory, twice: (x: number) => 2 * x } });
  expect((exports['sum'] as (n: number) => bigint)(10)).toBe(110n);
  expect([0, 1, 2, 9].map((i) => (exports['pick'] as (n: number) => number)(i))).toEqual([-100, 0x7fff_ffff, 7, 7]);
  expect((exports['lanes'] as () => number)()).toBe(25);
});
