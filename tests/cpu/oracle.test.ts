import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Oracle } from './oracle.ts';
import { type CpuCase, type CpuState, DONE, freshState, PAGES, SYSTEM_CALL, TIMEOUT } from './protocol.ts';
import { decodeVectors, encodeVectors } from './vectors.ts';

const missing = Oracle.missing();
if (missing) console.log(`the real processor is not asked: ${missing}`);

const CF = 1;
const ZF = 1 << 6;
const DF = 1 << 10;
const OF = 1 << 11;

function caseOf(code: number[], change: (state: CpuState) => void = () => {}, rest: Partial<CpuCase> = {}): CpuCase {
  const before = freshState();
  before.rip = BigInt(PAGES.CODE + 0x100);
  before.gpr[4] = BigInt(PAGES.STACK + 0x800);
  change(before);
  return { mode: 64, code: Uint8Array.from(code), before, memory: [], fp: false, ymm: false, ...rest };
}

describe.skipIf(missing)('the real processor', () => {
  let oracle: Oracle;
  beforeAll(() => {
    oracle = Oracle.start();
  });
  afterAll(() => oracle.stop());
  const one = async (given: CpuCase) => (await oracle.run([given]))[0]!;

  test('adds, sets flags and stops behind the instruction', async () => {
    const given = caseOf([0x48, 0x01, 0xd8], (s) => {
      s.gpr[0] = 0xffff_ffff_ffff_ffffn;
      s.gpr[3] = 1n;
    });
    const { vector, after } = await one(given);
    expect(vector).toBe(DONE);
    expect(after.rip).toBe(BigInt(PAGES.CODE + 0x103));
    expect(after.gpr[0]).toBe(0n);
    expect(after.rflags & (CF | ZF | OF)).toBe(CF | ZF);
  });

  test('runs 32-bit code: 48h is DEC EAX there', async () => {
    const { vector, after } = await one(caseOf([0x48], (s) => (s.gpr[0] = 5n), { mode: 32 }));
    expect(vector).toBe(DONE);
    expect(after.gpr[0]).toBe(4n);
    expect(after.rip).toBe(BigInt(PAGES.CODE + 0x101));
  });

  test('a store across the end of mapped memory faults and changes nothing', async () => {
    const address = PAGES.DATA + 0x2000 - 4;
    const bytes = Uint8Array.of(1, 2, 3, 4);
    const given = caseOf([0x48, 0x89, 0x18], (s) => (s.gpr[0] = BigInt(address)), { memory: [{ address, bytes }] });
    const outcome = await one(given);
    expect(outcome.vector).toBe(14);
    expect(outcome.errorCode).toBe(6);
    expect(outcome.cr2).toBe(BigInt(PAGES.DATA + 0x2000));
    expect(outcome.after.rip).toBe(given.before.rip);
    expect(outcome.memory[0]!.bytes).toEqual(bytes);
    expect(outcome.stray).toBe(false);
  });

  test.each([
    ['UD2', [0x0f, 0x0b], 6, 0],
    ['DIV by zero', [0xf7, 0xf1], 0, 0],
    ['HLT in user mode', [0xf4], 13, 0],
    ['INT 80h: the gate exists, but the sandbox says no', [0xcd, 0x80], SYSTEM_CALL, undefined],
    ['SYSCALL', [0x0f, 0x05], SYSTEM_CALL, undefined],
    ['INT 33h', [0xcd, 0x33], 13, 0x33 * 8 + 2],
    ['JMP to itself', [0xeb, 0xfe], TIMEOUT, undefined],
    ['INT3', [0xcc], 3, 0],
  ])('%s ends with its vector', async (_name, code, vector, error) => {
    const outcome = await one(caseOf(code));
    expect(outcome.vector).toBe(vector);
    if (error !== undefined) expect(outcome.errorCode).toBe(error);
  });

  test('a branch to unmapped memory is done, with RIP there', async () => {
    const { vector, after } = await one(caseOf([0xff, 0xe0], (s) => (s.gpr[0] = 0x1234_5678n)));
    expect(vector).toBe(DONE);
    expect(after.rip).toBe(0x1234_5678n);
  });

  test('fetching across the end of the code page faults at the next page', async () => {
    const rip = BigInt(PAGES.CODE + 0x2000 - 2);
    const outcome = await one(caseOf([0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], (s) => (s.rip = rip)));
    expect(outcome.vector).toBe(14);
    expect(outcome.cr2).toBe(BigInt(PAGES.CODE + 0x2000));
    expect(outcome.after.rip).toBe(rip);
  });

  test('code and data above 4 GiB are the same pages', async () => {
    const address = PAGES.DATA + 0x40;
    const given = caseOf(
      [0xff, 0x10], // CALL [RAX]
      (s) => {
        s.rip = PAGES.HIGH + BigInt(PAGES.CODE);
        s.gpr[0] = PAGES.HIGH + BigInt(address);
        s.gpr[4] = PAGES.HIGH + BigInt(PAGES.STACK + 0x108);
      },
      {
        memory: [
          { address, bytes: new Uint8Array(new BigUint64Array([BigInt(PAGES.CODE + 0x800)]).buffer) },
          { address: PAGES.STACK + 0x100, bytes: new Uint8Array(8) },
        ],
      },
    );
    const outcome = await one(given);
    expect(outcome.vector).toBe(DONE);
    expect(outcome.after.rip).toBe(BigInt(PAGES.CODE + 0x800));
    expect(new DataView(outcome.memory[1]!.bytes.buffer).getBigUint64(0, true)).toBe(
      PAGES.HIGH + BigInt(PAGES.CODE + 2),
    );
  });

  test('x87, MXCSR, XMM and YMM go in and come out; DF and the FS base too', async () => {
    const given = caseOf(
      [0xc5, 0xfc, 0x58, 0xc1], // VADDPS YMM0, YMM0, YMM1
      (s) => {
        const view = new DataView(s.fxsave.buffer);
        view.setUint32(24, 0x1fa0, true); // MXCSR with PE set
        view.setUint16(0, 0x27f, true);
        s.fxsave.fill(0x3f, 160, 192); // XMM0, XMM1
        s.ymmHigh.fill(0x40, 0, 32);
        s.rflags |= DF;
        s.fsBase = 0x1234_5678_9an;
      },
      { fp: true, ymm: true },
    );
    const { vector, after } = await one(given);
    expect(vector).toBe(DONE);
    const f = Math.fround;
    const sum = (byte: number) => {
      const x = new DataView(new Uint8Array(4).fill(byte).buffer).getFloat32(0, true);
      return f(x + x);
    };
    expect(new DataView(after.fxsave.buffer).getFloat32(160, true)).toBe(sum(0x3f));
    expect(new DataView(after.ymmHigh.buffer).getFloat32(0, true)).toBe(sum(0x40));
    expect(new DataView(after.fxsave.buffer).getUint16(0, true)).toBe(0x27f);
    expect(after.rflags & DF).toBe(DF);
    expect(after.fsBase).toBe(0x1234_5678_9an);
  });

  test('an unmasked SSE exception is #XM', async () => {
    const unmasked = (s: CpuState) => new DataView(s.fxsave.buffer).setUint32(24, 0x1d80, true); // ZM clear
    const given = caseOf([0x0f, 0x5e, 0xc1], unmasked, { fp: true }); // DIVPS XMM0, XMM1: 0 / 0 is invalid, masked
    expect((await one(given)).vector).toBe(DONE);
    given.before.fxsave.set([0, 0, 0x80, 0x3f], 160);
    expect((await one(given)).vector).toBe(19);
  });

  test('writes outside the windows and changes of an FP state that the case has not are told', async () => {
    const stray = await one(caseOf([0x88, 0x00], (s) => (s.gpr[0] = BigInt(PAGES.DATA))));
    expect(stray.stray).toBe(true);
    expect((await one(caseOf([0xd9, 0xe8]))).fpChanged).toBe(true);
    const clean = await one(caseOf([0x8a, 0x00], (s) => (s.gpr[0] = BigInt(PAGES.DATA))));
    expect(clean.stray || clean.fpChanged).toBe(false);
  });

  test('vectors survive their file', async () => {
    const cases = [
      caseOf([0x48, 0x01, 0xd8]),
      caseOf([0x0f, 0x0b]),
      caseOf([0xcc]),
      caseOf([0xd9, 0xe8], () => {}, { fp: true }),
    ];
    const outcomes = await oracle.run(cases);
    const vectors = cases.map((given, i) => ({
      form: `form ${i}`,
      undefinedFlags: i,
      undefinedStatus: 2 * i,
      case: given,
      outcome: outcomes[i]!,
    }));
    const header = { version: 1, processor: 'x', recorded: '2026-01-01', seed: 1 } as const;
    const back = decodeVectors(encodeVectors(header, vectors));
    expect(back.vectors).toEqual(vectors);
    expect(back.header).toEqual(header);
  });

  test('100,000 cases take about a second', async () => {
    const cases = Array.from({ length: 100_000 }, (_, i) => caseOf([0x48, 0x01, 0xd8], (s) => (s.gpr[0] = BigInt(i))));
    const start = performance.now();
    const outcomes = await oracle.run(cases);
    const seconds = (performance.now() - start) / 1000;
    console.log(`${Math.round(100 / seconds)}k cases/s`);
    expect(outcomes.every(({ after }, i) => after.gpr[0] === BigInt(i))).toBe(true);
  });
});
