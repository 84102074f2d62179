import { expect, test } from 'vitest';
import { REC } from '../core/layout.ts';
import { TestMachine } from '../core/machine-testbed.ts';
import { Random } from '../isa/sse-cases.ts';
import { DECODED, PSEUDO, type QuickDecode } from './decoder.ts';
import { MODE } from './mode.ts';

/** Records that generated code makes against those of the decoder, which it learns from: the same bytes are decoded twice. */

const AT = 0x2_0000;
const PREFIXES = [0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x2e, 0x3e, 0x67];

function randomInstruction(random: Random): number[] {
  const bytes: number[] = [];
  while (random.below(3) === 0) bytes.push(random.pick(PREFIXES));
  if (random.below(2) === 0) bytes.push(0x40 | random.below(16));
  if (random.below(12) === 0) bytes.push(random.pick(PREFIXES));
  const map = random.below(5);
  if (map >= 3) bytes.push(0x0f);
  if (map === 4 && random.below(2) === 0) bytes.push(random.pick([0x38, 0x3a]));
  bytes.push(random.below(256));
  for (let i = 0; i < 14; i += 1) bytes.push(random.below(256));
  return bytes;
}

/** What the decoder makes: HEAT and PLACE are others' to fill in. */
const COLD_FIELDS = [REC.AUX, REC.EXTRA, REC.UPPER];

function fill(u8: Uint8Array, record: number, byte: number): void {
  u8.fill(byte, record, record + REC.BYTES);
  u8.fill(byte, record + REC.COLD, record + REC.COLD + REC.COLD_BYTES);
}

const recordOf = (u8: Uint8Array, record: number): Uint8Array =>
  Uint8Array.from([
    ...u8.subarray(record, record + REC.BYTES),
    ...COLD_FIELDS.flatMap((field) => [...u8.subarray(record + field, record + field + 4)]),
  ]);

test.each(['intel', 'amd'] as const)(
  'a record that generated code makes is the one that the decoder makes (%s)',
  (vendor) => {
    const random = new Random(3);
    const m = new TestMachine({ vendor });
    const { u8, ram, code } = m.engine.memory;
    const { decoder } = m.engine.code;
    const { quickDecode } = m.engine.interpreter.exports as unknown as QuickDecode;
    const [at, other] = [code + REC.BYTES * 10, code + REC.BYTES * 20];
    const seen = { quick: 0, legal: 0 };
    const differences: string[] = [];
    for (let round = 0; round < 60_000 && differences.length === 0; round += 1) {
      const mode =
        (random.below(16) === 0 ? MODE.DEFAULT32 | MODE.FLAT32 : MODE.LONG | MODE.DEFAULT32) |
        (random.below(16) === 0 ? 0 : MODE.OSFXSR | MODE.AVX) |
        (random.below(32) === 0 ? MODE.TS : 0);
      const bytes = randomInstruction(random);
      const offset = random.below(8) === 0 ? 4096 - random.below(20) : random.below(4000);
      u8.set(bytes.slice(0, 4096 - offset), ram + AT + offset);
      const [start, end] = [ram + AT + offset, ram + AT + 4096];
      const copy = u8.slice(start, Math.min(end, start + 32));
      fill(u8, at, 0xaa);
      const quick = quickDecode(other, start, end, offset, mode);
      const a = decoder.decode(at, copy, 0, copy.length, offset, mode);
      const { length } = decoder;
      const made = recordOf(u8, at);
      fill(u8, at, 0x55);
      const b = decoder.decode(at, u8, start, end, offset, mode);
      const same = a === b && (a === DECODED.CROSSES || length === decoder.length);
      if (!same) differences.push(`result or length, round ${round}: ${bytes}, mode ${mode}`);
      if (a === DECODED.CROSSES) continue;
      if (made[0]! + 256 * made[1]! === PSEUDO.RAISE) {
        if (quick !== -1) differences.push(`raises, round ${round}: ${bytes}, mode ${mode}`);
        continue;
      }
      seen.legal += 1;
      if (quick >= 0) seen.quick += 1;
      if (Buffer.compare(made, recordOf(u8, at)) !== 0) {
        differences.push(`record, round ${round}: ${bytes}, mode ${mode}`);
      }
    }
    expect(differences).toEqual([]);
    expect(seen.quick / seen.legal).toBeGreaterThan(0.3);
  },
);
