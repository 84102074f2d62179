import { hex, hex64 } from '../../../base/format.ts';
import { gpr, REC, S, SEG, STATE, STATUS, segment } from '../../core/layout.ts';
import type { Processor } from '../../core/processor.ts';
import { PSEUDO, REGION_SLOT } from '../../decode/decoder.ts';
import type { CodeCache } from '../code-cache.ts';
import { listingLine } from '../disassembly.ts';
import type { Interpreter } from '../interpreter.ts';
import type { ByteDifference } from './journal.ts';
import type { RunEnd } from './lockstep.ts';

/** What is told of a difference. */
export interface Difference {
  readonly what: string;
  /** The region's entry. */
  readonly record: number;
  /** Instructions of the vCPU when the region was entered; and that it ran. */
  readonly instructions: number;
  readonly executed: number;
  readonly before: Uint32Array;
  readonly first: RunEnd;
  readonly second: RunEnd;
}

const REGISTERS = [
  'RAX',
  'RCX',
  'RDX',
  'RBX',
  'RSP',
  'RBP',
  'RSI',
  'RDI',
  ...Array.from({ length: 8 }, (_, i) => `R${8 + i}`),
];
const LINES_MAX = 120;

/** Everything that is needed to find the mistake: call before anything is taken back. */
export function reportDifference(
  cpu: Processor,
  code: CodeCache,
  interpreter: Interpreter,
  difference: Difference,
  bytes: readonly ByteDifference[],
): string {
  const { record, instructions, executed, what, before, first, second } = difference;
  const { u32 } = cpu;
  const page = hex64(u32[S.RIP_PAGE >>> 2]!, u32[(S.RIP_PAGE + 4) >>> 2]!);
  const offset = cpu.u16[(record + REC.OFFSET) >>> 1]!;
  const lines = [
    `the tiers differ in ${what}`,
    `vCPU ${cpu.vcpu.index}, region at page offset ${hex(offset, 3)} of linear page 0x${pageOf(before)} (now 0x${page}), ` +
      `CPL ${before[(S.CPL - STATE) >>> 2]}, CS base 0x${word64(before, segment(SEG.CS) + SEG.BASE)}, ` +
      `entered after ${instructions} instructions, ran ${executed}.`,
    `To see it again, run the same command with -accel lockstep,from=${Math.max(0, instructions - 1000)}.`,
    '',
    `${''.padEnd(14)}${'at the entry'.padEnd(18)}${'compiled'.padEnd(18)}interpreted`,
  ];
  const row = (name: string, a: string, b: string, c: string): void => {
    lines.push(`${name.padEnd(14)}${a.padEnd(18)}${b.padEnd(18)}${c}${b === c ? '' : '  <<<'}`);
  };
  REGISTERS.forEach((name, i) => {
    row(name, word64(before, gpr(i)), word64(first.state, gpr(i)), word64(second.state, gpr(i)));
  });
  row('RIP', '', hex64(first.low, first.high), hex64(second.low, second.high));
  row('RFLAGS', '', first.flags.toString(16), second.flags.toString(16));
  lines.push(
    `${'ends with'.padEnd(14)}${''.padEnd(18)}${statusName(first.status).padEnd(18)}${statusName(second.status)}`,
  );
  const fault = (end: RunEnd): string =>
    end.status === STATUS.FAULT
      ? `#${end.state[(S.FAULT_VECTOR - STATE) >>> 2]}(${hex(end.state[(S.FAULT_ERROR - STATE) >>> 2]!)})`
      : '-';
  row('exception', '', fault(first), fault(second));
  for (let i = 0; i < first.state.length; i += 1) {
    const at = STATE + 4 * i;
    if (at < S.ZERO || first.state[i] === second.state[i]) continue;
    row(stateName(at), hex(before[i]!, 8), hex(first.state[i]!, 8), hex(second.state[i]!, 8));
  }
  if (bytes.length > 0)
    lines.push('', 'memory (offset in guest RAM as it lies in the host): before, compiled, interpreted');
  for (const { host, before: was, first: a, second: b } of bytes)
    lines.push(`  ${hex(host - cpu.memory.ram, 8)}: ${hex(was, 2)} ${hex(a, 2)} ${hex(b, 2)}`);
  lines.push('', 'The page as far as it is decoded; > is where the region was entered:');
  lines.push(...listing(cpu, code, interpreter, record));
  return lines.join('\n');
}

function listing(cpu: Processor, code: CodeCache, interpreter: Interpreter, entry: number): string[] {
  const { u8, u16, u32 } = cpu;
  const hostPage = u32[(entry + REC.PLACE) >>> 2]! & 0xf_ffff;
  const page = code.pageAt(hostPage, cpu.get(S.MODE));
  if (!page) return ['  (it is dropped)'];
  const lines: string[] = [];
  for (let at = 0; at < 4096; at += 1) {
    const record = page.entries[at]!;
    if (record === 0) continue;
    let handler = u16[record >>> 1]!;
    const isEntry = handler >= REGION_SLOT;
    if (isEntry) handler = code.regions?.original(record) ?? handler;
    const length = handler < PSEUDO.COUNT ? 0 : u8[record + REC.LENGTH]!;
    const bytes = u8.subarray(hostPage * 4096 + at, hostPage * 4096 + at + length);
    const mark = record === entry ? '>' : isEntry ? '*' : ' ';
    lines.push(`${mark} ${listingLine(cpu.memory, record, interpreter.variant(handler), bytes, 0n)}`);
  }
  if (lines.length <= LINES_MAX) return lines;
  const here = lines.findIndex((line) => line.startsWith('>'));
  const from = Math.max(0, Math.min(here - LINES_MAX / 2, lines.length - LINES_MAX));
  return ['  …', ...lines.slice(from, from + LINES_MAX), '  …'];
}

const word64 = (state: Uint32Array, address: number): string =>
  hex64(state[(address - STATE) >>> 2]!, state[(address + 4 - STATE) >>> 2]!);

const pageOf = (state: Uint32Array): string => word64(state, S.RIP_PAGE);

const statusName = (status: number): string =>
  Object.entries(STATUS).find(([, number]) => number === status)?.[0] ?? `${status}`;

/** The field that a word of the state belongs to. */
function stateName(address: number): string {
  let best = 'state';
  let distance = Number.POSITIVE_INFINITY;
  for (const [name, at] of Object.entries(S)) {
    if (at > address || address - at >= distance) continue;
    best = name;
    distance = address - at;
  }
  return distance === 0 ? best : `${best}+${hex(distance)}`;
}
