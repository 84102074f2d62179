/**
 * Which encodings exist: every opcode of the two-byte and three-byte maps and of the VEX maps, with every mandatory
 * prefix, W, L, used and unused VEX.vvvv, with memory and with registers, is #UD here where it is #UD on the processor of this
 * machine.
 */
import { describe, expect, test } from 'vitest';
import { EngineMachine } from './engine-machine.ts';
import { Oracle } from './oracle.ts';
import { type CpuCase, freshState, PAGES } from './protocol.ts';

const UD = 6;
const START = PAGES.CODE + 0x800;
const BATCH = 4096;

interface Encoding {
  readonly name: string;
  readonly code: readonly number[];
}

const hex = (value: number): string => value.toString(16).toUpperCase().padStart(2, '0');

/** ModRM, and what follows it: [RAX] and registers; the immediate is there in any case. */
function* operands(digits: boolean): Generator<{ readonly name: string; readonly bytes: readonly number[] }> {
  for (let reg = 0; reg < (digits ? 8 : 1); reg += 1) {
    yield { name: `/${reg}:m`, bytes: [reg << 3, 0, 0, 0, 0] };
    // r/m is RCX, XMM1
    yield { name: `/${reg}:r`, bytes: [0xc1 | (reg << 3), 0, 0, 0, 0] };
  }
}
/** [RAX + 1 * XMM2]; destination XMM1 */
const VSIB = { name: 'vsib', bytes: [0x0c, 0x10, 0, 0, 0] } as const;

/** VEX opcodes to which ModRM.reg matters. */
const isGroup = (map: number, opcode: number): boolean =>
  map === 1 ? (opcode >= 0x71 && opcode <= 0x73) || opcode === 0xae : map === 2 && opcode === 0xf3;

function* vexEncodings(): Generator<Encoding> {
  for (const map of [1, 2, 3])
    for (let pp = 0; pp < 4; pp += 1)
      for (const w of [0, 1])
        for (const l of [0, 1])
          for (const vvvv of [0, 3])
            for (let opcode = 0; opcode < 256; opcode += 1)
              for (const operand of [...operands(isGroup(map, opcode)), VSIB]) {
                const code = [
                  0xc4,
                  0xe0 | map,
                  (w << 7) | ((~vvvv & 15) << 3) | (l << 2) | pp,
                  opcode,
                  ...operand.bytes,
                ];
                const prefix = ['NP', '66', 'F3', 'F2'][pp];
                const parts = ['VEX', l ? '256' : '128', prefix, ['0F', '0F38', '0F3A'][map - 1], `W${w}`];
                yield { name: `${parts.join('.')} ${hex(opcode)} ${operand.name} vvvv=${vvvv}`, code };
              }
}

function* legacyEncodings(): Generator<Encoding> {
  for (const map of [[0x0f], [0x0f, 0x38], [0x0f, 0x3a]])
    for (const prefix of [[], [0x66], [0xf3], [0xf2]])
      for (const rex of [[], [0x48]])
        for (let opcode = 0; opcode < 256; opcode += 1) {
          if (map.length === 1 && (opcode === 0x38 || opcode === 0x3a)) continue;
          for (const operand of operands(true)) {
            const code = [...prefix, ...rex, ...map, opcode, ...operand.bytes];
            yield { name: `${[...prefix, ...rex, ...map, opcode].map(hex).join(' ')} ${operand.name}`, code };
          }
        }
}

function caseOf({ code }: Encoding): CpuCase {
  const before = freshState();
  before.rip = BigInt(START);
  before.gpr.fill(BigInt(PAGES.DATA + 0x800));
  before.gpr[4] = BigInt(PAGES.STACK + 0x800);
  return { mode: 64, code: Uint8Array.from(code), before, memory: [], fp: false, ymm: false };
}

/** What leaves to L0 exists. */
function isUndefined(machine: EngineMachine, one: CpuCase): boolean {
  try {
    return machine.run(one).vector === UD;
  } catch {
    return false;
  }
}

/** What exists only here or only there, by opcode. */
async function compare(
  encodings: Iterable<Encoding>,
  ignored: (name: string) => boolean,
): Promise<Map<string, string[]>> {
  const oracle = Oracle.start();
  const machine = new EngineMachine(() => true);
  const found = new Map<string, string[]>();
  let batch: Encoding[] = [];
  const flush = async (): Promise<void> => {
    const cases = batch.map(caseOf);
    const outcomes = await oracle.run(cases);
    cases.forEach((one, i) => {
      const real = outcomes[i]!.vector === UD;
      const ours = isUndefined(machine, one);
      const { name } = batch[i]!;
      if (real === ours || ignored(name)) return;
      const key = `${ours ? 'missing here' : 'only here'}: ${name.split(' /')[0]!.split(' vsib')[0]}`;
      found.set(key, [...(found.get(key) ?? []), name]);
    });
    batch = [];
  };
  for (const encoding of encodings) {
    batch.push(encoding);
    if (batch.length === BATCH) await flush();
  }
  await flush();
  await oracle.stop();
  return found;
}

/** Encodings that processors of one vendor or generation have, or treat, in a way of their own. */
const OWN_WAYS: readonly [encoding: RegExp, why: string][] = [
  [/^VEX\.\w+\.\w+\.0F\.W\d (4[1-7AB]|9[012389])/, 'AVX-512 mask registers'],
  [/^VEX.*0F3A\.W\d 3[0-3]/, 'AVX-512 mask registers'],
  [/^VEX.*0F38\.W0 CF|^VEX.*0F3A\.W1 C[EF]|^(66 )?(48 )?0F 3(8|A) C[EF]/, 'GFNI'],
  [/^VEX\.256\.66\.0F38\.W\d D[C-F]/, 'VAES'],
  [/^VEX\.\w+\.66\.0F38\.W0 5[0-3]/, 'AVX-VNNI'],
  [/^(48 )?0F 38 F9|^66 (48 )?0F 38 F8/, 'MOVDIRI and MOVDIR64B'],
  [/^VEX\.256\.66\.0F3A\.W\d 44/, 'VPCLMULQDQ'],
  [/^VEX\.256\.66\.0F3A\.W0 0[01]/, 'AMD ignores W of VPERMQ and VPERMPD'],
  [/ 77 /, 'VZEROUPPER and VZEROALL have no ModRM: what is behind them runs too'],
  [/0F 0D \/\d:r/, 'PREFETCHW of a register is #UD on AMD and does nothing on Intel'],
  [/^(66|F2) (48 )?0F 7[89]|^F[23] (48 )?0F 2B/, 'SSE4A'],
  [/^(66|F[23]) (48 )?0F 01 \/0:r/, 'prefixes before VMCALL: the hypervisor of this machine sees it'],
];
const ownWay = (name: string): boolean => OWN_WAYS.some(([encoding]) => encoding.test(name));

const report = (found: Map<string, string[]>): string =>
  [...found].map(([key, names]) => `${key}: ${names.length} (${names.slice(0, 4).join(', ')})`).join('\n');

describe.skipIf(Oracle.missing())('the opcode maps', () => {
  test('of VEX have what the processor has', async () => {
    const found = await compare(vexEncodings(), ownWay);
    expect(report(found)).toBe('');
  });

  test('of two and three bytes have what the processor has', async () => {
    const found = await compare(legacyEncodings(), ownWay);
    expect(report(found)).toBe('');
  });
});
