import { type Expr, i64, v128 } from '../../wasm/expr.ts';
import type { Instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { ZERO_VECTOR } from './sse-operands.ts';
import { UPPER } from './sse-vex.ts';
import { row } from './sse-vex-words.ts';

/**
 * AVX2's gathers.
 *
 * Elements are loaded from the lowest up. Each that is done is in its place and its mask element is clear before the
 * next one is looked at: a fault in between leaves an instruction that goes on where it was, when it is run again. Of the
 * mask, what lies above the element that faults is then as it was (MEASURED on AMD family 25; the manual's pseudocode
 * spreads the sign bits over their elements first).
 *
 * Source  SDM 2D 6.1 "VGATHERDPS/VGATHERDPD…", "VPGATHERDD/VPGATHERQD…"; SDM 2A 2.3.12 "Vector SIB (VSIB) Memory
 *         Addressing".
 */

/** Where byte `at` of a YMM register is, from its address on. */
const place = (at: number): number => (at < 16 ? at : UPPER + at - 16);

function gather(m: Semantics, index: 4 | 8, bytes: 4 | 8, count: number): void {
  const [destination, mask] = [m.registerAddress(0), m.registerAddress(2)];
  const load = bytes === 4 ? i64.load32S : i64.load;
  const store = bytes === 4 ? i64.store32 : i64.store;
  const indexOf = (i: number): Expr => (index === 4 ? i64.load32S : i64.load)(m.vectorIndex(), place(i * index));
  for (let i = 0; i < count; i++) {
    m.f.if(i64.ltS(load(mask, place(i * bytes)), i64.const(0)), () => {
      const linear = m.elementAddress(i64.shl(indexOf(i), m.scale()), bytes);
      const value = m.loadElement(linear, bytes);
      m.f.do(store(destination, value, place(i * bytes)));
    });
    m.f.do(store(mask, i64.const(0), place(i * bytes)));
  }
  m.f.do(v128.store(mask, ZERO_VECTOR));
  m.f.do(v128.store(mask, ZERO_VECTOR, UPPER));
  const end = count * bytes;
  if (end === 8) m.f.do(i64.store(destination, i64.const(0), 8));
  if (end <= 16) m.f.do(v128.store(destination, ZERO_VECTOR, UPPER));
}

const TITLES = {
  VG: 'Gather Packed Single, Packed Double With Signed Indices',
  VP: 'Gather Packed Dword, Packed Qword With Signed Indices',
} as const;

/** @param index  Bytes of an index; `bytes`: of an element. */
const rows = (name: string, opcode: string, w: string, index: 4 | 8, bytes: 4 | 8): Instruction[] =>
  [16, 32].map((length) => {
    // The vector's length is that of the wider of indices and elements
    const count = length / Math.max(index, bytes);
    const register = count * bytes === 32 ? 'ymm' : 'xmm';
    const indices = `vm${8 * index}${count * index === 32 ? 'y' : 'x'}`;
    return row(
      name,
      TITLES[name.slice(0, 2) as 'VG'],
      { [`VEX.${8 * length}.66.0F38.${w} ${opcode} /r:m`]: `${name} ${register}, ${indices}, ${register}V` },
      'avx2',
      (m) => gather(m, index, bytes, count),
    );
  });

export const GATHER: readonly Instruction[] = [
  ...rows('VPGATHERDD', '90', 'W0', 4, 4),
  ...rows('VPGATHERDQ', '90', 'W1', 4, 8),
  ...rows('VPGATHERQD', '91', 'W0', 8, 4),
  ...rows('VPGATHERQQ', '91', 'W1', 8, 8),
  ...rows('VGATHERDPS', '92', 'W0', 4, 4),
  ...rows('VGATHERDPD', '92', 'W1', 4, 8),
  ...rows('VGATHERQPS', '93', 'W0', 8, 4),
  ...rows('VGATHERQPD', '93', 'W1', 8, 8),
];
