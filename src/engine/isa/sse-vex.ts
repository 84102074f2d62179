import { assert } from '../../base/assert.ts';
import { type Expr, i32, i64, v128 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import { type Instruction, instruction, type Operand } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { deferCommits, ZERO_VECTOR } from './sse-operands.ts';

/**
 * VEX-encoded forms of the legacy vector instructions, made from their rows.
 *
 * A legacy row says `dst = op(dst, src)`. Its VEX forms say `dst = op(src1, src2)`, clear what lies above the result,
 * and with VEX.256 do so on each half. So the same `execute` runs once for each half against a view of Semantics: what
 * it reads as operand 0 is src1, what it writes goes to dst, all of it at the end.
 *
 * Sources  SDM 1 14.1 "Intel AVX Overview"; SDM 2A 2.3 "Intel Advanced Vector Extensions (Intel AVX)".
 */

/** Distance from an XMM register to the upper half of its YMM register. */
export const UPPER = S.YMMH - S.XMM;

export interface VexSpec {
  /** The legacy destination is a source of its own, VEX.vvvv. */
  readonly three: boolean;
  /** VEX.256 exists, with this CPUID feature. */
  readonly wide?: 'avx' | 'avx2';
  /** How far the immediate moves for the upper half. */
  readonly immediateShift?: number;
  /** Legacy operands of which both halves read the low 16 bytes (shift counts). */
  readonly shared?: readonly number[];
  /** Memory operands must be aligned. */
  readonly aligned?: boolean;
  /** VEX.L does not matter: scalars. */
  readonly ignoresLength?: boolean;
}

/** Writes all 32 bytes of the YMM register of operand 0, or 16 and zeros. */
export function storeYmm(m: Semantics, low: Expr, high: Expr = ZERO_VECTOR): void {
  const address = m.registerAddress(0);
  m.f.do(v128.store(address, low));
  m.f.do(v128.store(address, high, UPPER));
}

/** Writes 32 bytes of memory, or faults and writes nothing. */
export function storeMemoryYmm(m: Semantics, linear: Local, low: Expr, high: Expr): void {
  const first = m.let(low);
  const second = m.let(high);
  const last = i64.add(linear.get, i64.const(31));
  const crosses = i64.ne(i64.and(i64.xor(linear.get, last), i64.const(-4096)), i64.const(0));
  m.f.if(
    crosses,
    () => {
      m.f.do(v128.store(i32.const(0), first.get, S.WIDE));
      m.f.do(v128.store(i32.const(0), second.get, S.WIDE + 16));
      m.storeWide(linear, 32);
    },
    () => {
      m.storeMemoryV(linear, first.get);
      m.storeMemoryV(m.let(i64.add(linear.get, i64.const(16))), second.get);
    },
  );
}

/** Half `half` of operand `i`, XMM, YMM or memory. */
export function loadHalf(m: Semantics, i: number, half: 0 | 1): Expr {
  if (!m.isMemory(i)) return m.let(v128.load(m.registerAddress(i), half ? UPPER : 0)).get;
  const linear = m.address();
  return m.loadMemoryV(half ? m.let(i64.add(linear.get, i64.const(16))) : linear);
}

export function requireAlignment(m: Semantics, bytes: 16 | 32): void {
  m.raiseIf(i64.ne(i64.and(m.address().get, i64.const(bytes - 1)), i64.const(0)), 13);
}

/** What the passes over the halves wrote, and the memory operand, of which the first pass reads both halves. */
interface Passes {
  readonly written: Partial<Record<0 | 1, Expr>>;
  readonly memory: Partial<Record<0 | 1, Expr>>;
}

/** Semantics as the legacy row sees it. Only while code is generated, so a Proxy's cost does not matter. */
function viewOf(m: Semantics, spec: VexSpec, half: 0 | 1, wide: boolean, passes: Passes): Semantics {
  const role = (i: number): number => (spec.three ? i + 1 : i);
  const destination = m.operands[0]!;
  const operands: Operand[] = m.operands.slice(spec.three ? 1 : 0);
  const words: Partial<Record<keyof Semantics, unknown>> = {
    operands,
    loadV: (i: number): Expr => {
      const shared = spec.shared?.includes(i);
      if (!m.isMemory(role(i))) return loadHalf(m, role(i), shared ? 0 : half);
      if (half === 0) {
        // Both at once: a fault must come before the first half's arithmetic has raised anything
        if (spec.aligned) requireAlignment(m, wide ? 32 : 16);
        passes.memory[0] = loadHalf(m, role(i), 0);
        passes.memory[1] = wide && !shared ? loadHalf(m, role(i), 1) : passes.memory[0];
      }
      return passes.memory[half]!;
    },
    storeV: (_i: number, value: Expr): void => {
      passes.written[half] = m.let(value).get;
    },
    load: (i: number): Expr => {
      const value = m.load(role(i));
      return half && spec.immediateShift && m.operands[role(i)]!.kind === 'imm'
        ? i64.shrU(i64.and(value, i64.const(0xff)), i64.const(spec.immediateShift))
        : value;
    },
    loadU: (i: number): Expr => m.loadU(role(i)),
    store: (i: number, value: Expr): void => m.store(i, value),
    // As a source; as a destination only general registers and memory are written by address
    registerAddress: (i: number): Expr => m.registerAddress(i === 0 && destination.kind === 'gpr' ? 0 : role(i)),
    isMemory: (i: number): boolean => m.isMemory(role(i)),
    sizeOf: (i: number): number => m.sizeOf(role(i)),
  };
  return new Proxy(m, {
    get(target, name): unknown {
      if (name in words) return words[name as keyof Semantics];
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
    },
  });
}

function executeVex(m: Semantics, legacy: Instruction, spec: VexSpec, wide: boolean): void {
  const passes: Passes = { written: {}, memory: {} };
  const halves: (0 | 1)[] = wide ? [0, 1] : [0];
  const finish = deferCommits(m, wide, () => {
    for (const half of halves) legacy.execute(viewOf(m, spec, half, wide, passes));
  });
  finish();
  const { written } = passes;
  const low = written[0];
  if (low === undefined) return;
  if (!m.isMemory(0)) {
    storeYmm(m, low, written[1] ?? ZERO_VECTOR);
    return;
  }
  const linear = m.address(true);
  if (spec.aligned) requireAlignment(m, wide ? 32 : 16);
  if (written[1]) storeMemoryYmm(m, linear, low, written[1]);
  else m.storeMemoryV(linear, low);
}

/** `66 0F 38 00 /r` → `VEX.128.66.0F38.WIG 00 /r`. */
export function vexOpcode(opcode: string, length: string): string {
  const tokens = opcode.split(' ');
  const prefix = ['66', 'F2', 'F3'].includes(tokens[0]!) ? `.${tokens[0]}` : '';
  const w = tokens.includes('REX.W') ? 'W1' : tokens.includes('W0') ? 'W0' : 'WIG';
  const at = tokens.indexOf('0F');
  assert(at >= 0, `${opcode} is a two-byte opcode at least`);
  const second = tokens[at + 1] === '38' || tokens[at + 1] === '3A' ? tokens[at + 1]! : '';
  const rest = tokens.slice(at + (second ? 2 : 1)).filter((token) => token !== 'REX.W' && token !== 'W0');
  return `VEX.${length}${prefix}.0F${second}.${w} ${rest.join(' ')}`;
}

function vexText(text: string, spec: VexSpec, wide: boolean): string {
  const space = text.indexOf(' ');
  const operands = text.slice(space + 1).split(', ');
  if (spec.three) {
    // A shift by an immediate writes the register in vvvv; all others read it
    if (operands[1] === 'imm8') operands.unshift('xmmV');
    else operands.splice(1, 0, 'xmmV');
  }
  const widen = (operand: string, i: number): string =>
    wide && !spec.shared?.includes(i - (spec.three ? 1 : 0))
      ? operand.replace('xmm', 'ymm').replace('m128', 'm256')
      : operand;
  return `V${text.slice(0, space)} ${operands.map(widen).join(', ')}`;
}

/** The VEX rows of a legacy row: one for VEX.128 (or LIG), one for VEX.256 if there is one. */
export function vexRows(legacy: Instruction, spec: VexSpec): Instruction[] {
  const make = (wide: boolean): Instruction =>
    instruction({
      name: `V${legacy.name}`,
      source: legacy.source,
      forms: Object.fromEntries(
        Object.entries(legacy.forms).map(([opcode, text]) => [
          vexOpcode(opcode, wide ? '256' : spec.ignoresLength ? 'LIG' : '128'),
          vexText(text, spec, wide),
        ]),
      ),
      needs: 'avx',
      // AES and PCLMULQDQ have no feature bit of their own for VEX: theirs, and `needs` asks for AVX
      feature: wide ? spec.wide! : /^(aes|pclmulqdq)$/.test(legacy.feature ?? '') ? legacy.feature! : 'avx',
      execute: (m) => executeVex(m, legacy, spec, wide),
    });
  return spec.wide ? [make(false), make(true)] : [make(false)];
}
