import { gpr, S } from '../../core/layout.ts';
import type { TestMachine } from '../../core/machine-testbed.ts';

/**
 * What tiers must agree in, as one line that a failing test can show: registers, flags, RIP, instructions, `more`, and a sum of
 * memory.
 *
 * @param xmmWords  How many words of XMM0, XMM1, ….
 * @param memory    Ranges of RAM, from and to in bytes, summed in this order.
 */
export function stateText(
  m: TestMachine,
  xmmWords: number,
  memory: readonly (readonly [from: number, to: number])[],
  more: readonly string[] = [],
): string {
  const { cpu } = m;
  const words: string[] = [];
  for (let i = 0; i < 16; i += 1) {
    words.push(`r${i}=${cpu.get(gpr(i) + 4).toString(16)}:${cpu.get(gpr(i)).toString(16)}`);
  }
  words.push(`rip=${m.rip.toString(16)} flags=${cpu.rflags().toString(16)} n=${m.vcpu.instructions}`);
  for (let i = 0; i < xmmWords; i += 1) words.push(cpu.get(S.XMM + 4 * i).toString(16));
  let sum = 0;
  for (const [from, to] of memory) for (let at = from; at < to; at += 4) sum = (Math.imul(sum, 31) + m.read32(at)) | 0;
  words.push(...more, `memory=${sum}`);
  return words.join(' ');
}
