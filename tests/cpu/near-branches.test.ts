/** 66 before near branches of 64-bit mode: AMD honours it (APM 3 table B-4), Intel ignores it (SDM 2A "Jcc", "CALL"). */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { differences } from './compare.ts';
import { EngineMachine } from './engine-machine.ts';
import { Oracle } from './oracle.ts';
import { type CpuCase, freshState, PAGES, settleFetch } from './protocol.ts';

const START = PAGES.CODE + 0x800;
const ZF = 0x40;

/** JMP, Jcc, CALL, RET, indirect ones by register and memory, LOOPcc, JrCXZ; with REX.W the 66 has no say. */
const CODES = [
  '66eb10',
  '6675f0',
  '660f851000',
  '66e91000',
  '66e9f0ff',
  '66e81000',
  '66c3',
  '66c20800',
  '66ffe0',
  '66ffd0',
  '66ff20',
  '66ff10',
  '66e205',
  '66e305',
  '66e005',
  '66480f8510000000',
  '6648e910000000',
  '6648c3',
  '6648ffe0',
];

function caseOf(code: string, zf: number, base: bigint): CpuCase {
  const before = freshState();
  before.rip = BigInt(START) + base;
  before.rflags |= zf;
  before.gpr[0] = BigInt(PAGES.DATA + 0x100);
  before.gpr[1] = 5n;
  before.gpr[4] = BigInt(PAGES.STACK + 0x800);
  const memory = [PAGES.STACK + 0x7e0, PAGES.DATA + 0x100].map((address) => ({
    address,
    bytes: new Uint8Array(64).fill(0x12),
  }));
  return { mode: 64, code: Uint8Array.from(Buffer.from(code, 'hex')), before, memory, fp: false, ymm: false };
}

const isAmd = () => /AuthenticAMD/.test(readFileSync('/proc/cpuinfo', 'utf8'));

describe('66 before a near branch in 64-bit mode', () => {
  test.skipIf(Oracle.missing())('does what the processor of this machine does', async () => {
    const cases = CODES.flatMap((code) =>
      [0, ZF].flatMap((zf) => [0n, PAGES.HIGH].map((base) => caseOf(code, zf, base))),
    );
    const oracle = Oracle.start();
    const outcomes = await oracle.run(cases);
    await oracle.stop();
    const machine = new EngineMachine(() => true, { vendor: isAmd() ? 'amd' : 'intel' });
    const found = cases.map((one, i) => {
      const actual = machine.run(one);
      settleFetch(one, actual);
      return [Buffer.from(one.code).toString('hex'), ...differences(one, outcomes[i]!, actual, {})];
    });
    expect(found.filter(({ length }) => length > 1)).toEqual([]);
  });

  test.each([
    { vendor: 'intel', code: '66eb10', rip: START + 0x13 },
    { vendor: 'amd', code: '66eb10', rip: (START + 0x13) & 0xffff },
    { vendor: 'intel', code: '66e910000000', rip: START + 0x16 },
    { vendor: 'amd', code: '66e91000', rip: (START + 0x14) & 0xffff },
    { vendor: 'intel', code: '66ffe0', rip: PAGES.DATA + 0x100 },
    { vendor: 'amd', code: '66ffe0', rip: 0x100 },
  ] as const)('$vendor goes from $code to $rip', ({ vendor, code, rip }) => {
    const actual = new EngineMachine(() => true, { vendor }).run(caseOf(code, 0, 0n));
    expect(actual.after.rip).toBe(BigInt(rip));
  });
});
