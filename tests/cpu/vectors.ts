/**
 * Recorded cases with the real processor's outcomes, so that CI checks against it on any machine.
 *
 * A file is gzip of: u32 length and JSON of the header; then for each vector u32 number of its form in the header's
 * list, u32 undefined flags, u32 undefined x87 status bits, the case's record and the outcome's record (protocol.ts).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import {
  type CpuCase,
  type CpuOutcome,
  caseSize,
  decodeCase,
  decodeOutcome,
  encodeCase,
  encodeOutcome,
  outcomeSize,
} from './protocol.ts';

export interface Vector {
  /** Opcode and instruction column as in the ISA table: `REX.W 01 /r  ADD r/m64, r64`. */
  readonly form: string;
  /** RFLAGS bits that the manual leaves undefined: not compared. */
  readonly undefinedFlags: number;
  /** The same of the x87 status word. */
  readonly undefinedStatus: number;
  readonly case: CpuCase;
  readonly outcome: CpuOutcome;
}

export interface VectorHeader {
  readonly version: 1;
  /** Which processor gave the outcomes. */
  readonly processor: string;
  /** ISO day of the recording. */
  readonly recorded: string;
  readonly seed: number;
}

export function encodeVectors(header: VectorHeader, vectors: readonly Vector[]): Uint8Array {
  const forms = [...new Set(vectors.map(({ form }) => form))];
  const numbers = new Map(forms.map((form, i) => [form, i]));
  const json = Buffer.from(JSON.stringify({ ...header, count: vectors.length, forms }));
  const parts: Uint8Array[] = [words(json.length), json];
  for (const { form, undefinedFlags, undefinedStatus, case: one, outcome } of vectors) {
    parts.push(
      words(numbers.get(form)!, undefinedFlags, undefinedStatus),
      encodeCase(one),
      encodeOutcome(one, outcome),
    );
  }
  return gzipSync(Buffer.concat(parts), { level: 9 });
}

export function decodeVectors(file: Uint8Array): { header: VectorHeader; vectors: Vector[] } {
  const bytes = gunzipSync(file);
  const jsonEnd = 4 + bytes.readUInt32LE(0);
  const { count, forms, ...header } = JSON.parse(bytes.toString('utf8', 4, jsonEnd)) as VectorHeader & {
    count: number;
    forms: string[];
  };
  if (header.version !== 1) throw new Error(`vectors: version ${header.version} is unknown; record them again`);
  const vectors: Vector[] = [];
  let at = jsonEnd;
  for (let i = 0; i < count; i++) {
    const form = forms[bytes.readUInt32LE(at)]!;
    const undefinedFlags = bytes.readUInt32LE(at + 4);
    const undefinedStatus = bytes.readUInt32LE(at + 8);
    at += 12;
    const one = decodeCase(bytes, at);
    at += caseSize(bytes, at);
    const outcome = decodeOutcome(one, bytes, at);
    at += outcomeSize(bytes, at);
    vectors.push({ form, undefinedFlags, undefinedStatus, case: one, outcome });
  }
  return { header, vectors };
}

export const writeVectors = (path: string, header: VectorHeader, vectors: readonly Vector[]): void =>
  writeFileSync(path, encodeVectors(header, vectors));
export const readVectors = (path: string) => decodeVectors(readFileSync(path));

const words = (...values: number[]) => new Uint8Array(new Uint32Array(values).buffer);
