import { UserError } from '../../base/assert.ts';
import { hex } from '../../base/format.ts';
import { readLittleEndian } from '../bytes.ts';

/** ELF-64 Object File Format, version 1.5, and the i386 and x86-64 psABIs: the values that matter here. */
const CLASS = { 1: 32, 2: 64 } as const;
const DATA_LITTLE_ENDIAN = 1;
const MACHINE = { 3: 'i386', 62: 'x86-64' } as const;
const OTHER_MACHINES: Readonly<Record<number, string>> = {
  8: 'MIPS',
  20: 'PowerPC',
  21: 'PowerPC64',
  22: 's390',
  40: 'ARM',
  183: 'AArch64',
  243: 'RISC-V',
  258: 'LoongArch',
};
const TYPE = { EXECUTABLE: 2, SHARED: 3 } as const;
const SEGMENT = { LOAD: 1, NOTE: 4 } as const;

/** A 64-bit value as unsigned halves: kernels are linked at addresses that a `number` does not hold. */
export type Halves = readonly [lo: number, hi: number];

/** `a - b`, exact if they are less than 2^53 apart. */
export const difference = (a: Halves, b: Halves): number => (a[1] - b[1]) * 2 ** 32 + (a[0] - b[0]);

/** A loadable segment: `fileBytes` of content, then zeros up to `memoryBytes`. */
export interface ElfSegment {
  readonly physical: number;
  readonly virtual: Halves;
  readonly content: Uint8Array;
  readonly memoryBytes: number;
}

export interface ElfFile {
  readonly bits: 32 | 64;
  readonly entry: Halves;
  readonly segments: readonly ElfSegment[];
  readonly notes: readonly { readonly name: string; readonly type: number; readonly content: Uint8Array }[];
}

export const isElf = (image: Uint8Array): boolean => readLittleEndian(image, 0, 4) === 0x464c_457f;

/**
 * Reads headers, loadable segments and notes of an executable for this machine.
 *
 * @throws UserError for anything that is not one: another architecture, an object file, a file cut off.
 */
export function readElf(name: string, image: Uint8Array): ElfFile {
  const u = (offset: number, size: number) => readLittleEndian(image, offset, size);
  const bits = CLASS[image[4] as 1 | 2];
  if (image.length < 0x34 || bits === undefined) {
    throw new UserError(
      `${name} is not a whole ELF file: expected a header of 52 or 64 bytes, found ${image.length} bytes of class ` +
        `${image[4] ?? 'none'}. Was the download cut off?`,
    );
  }
  const machine = u(18, 2);
  if (image[5] !== DATA_LITTLE_ENDIAN || MACHINE[machine as 3 | 62] === undefined) {
    throw new UserError(
      `${name} is built for ${OTHER_MACHINES[machine] ?? `machine ${machine}`}` +
        `${image[5] === DATA_LITTLE_ENDIAN ? '' : ' (big-endian)'}, expected i386 or x86-64: build it for this machine.`,
    );
  }
  if (u(16, 2) !== TYPE.EXECUTABLE && u(16, 2) !== TYPE.SHARED) {
    throw new UserError(
      `${name} is an ELF file of type ${u(16, 2)}, expected an executable (2): link it, or give the linked file.`,
    );
  }
  const wide = bits === 64;
  const address = (offset: number) => (wide ? u(offset, 4) + u(offset + 4, 4) * 2 ** 32 : u(offset, 4));
  const halves = (offset: number): Halves => [u(offset, 4), wide ? u(offset + 4, 4) : 0];
  const headersAt = address(wide ? 32 : 28);
  const headerBytes = u(wide ? 54 : 42, 2);
  const headers = u(wide ? 56 : 44, 2);
  if (headersAt + headerBytes * headers > image.length || (headers > 0 && headerBytes < (wide ? 56 : 32))) {
    throw new UserError(
      `${name} is not a whole ELF file: its ${headers} program headers end at ${hex(headersAt + headerBytes * headers)}, ` +
        `but the file at ${hex(image.length)}. Was the download cut off?`,
    );
  }

  const segments: ElfSegment[] = [];
  const notes: { name: string; type: number; content: Uint8Array }[] = [];
  for (let i = 0; i < headers; i += 1) {
    const at = headersAt + i * headerBytes;
    const type = u(at, 4);
    if (type !== SEGMENT.LOAD && type !== SEGMENT.NOTE) continue;
    const fileAt = address(at + (wide ? 8 : 4));
    const fileBytes = address(at + (wide ? 32 : 16));
    if (fileAt + fileBytes > image.length) {
      throw new UserError(
        `${name} is not a whole ELF file: segment ${i} ends at ${hex(fileAt + fileBytes)}, but the file at ` +
          `${hex(image.length)}. Was the download cut off?`,
      );
    }
    const content = image.subarray(fileAt, fileAt + fileBytes);
    if (type === SEGMENT.NOTE) {
      notes.push(...readNotes(content));
      continue;
    }
    const memoryBytes = Math.max(address(at + (wide ? 40 : 20)), fileBytes);
    if (memoryBytes > 0) {
      segments.push({
        physical: address(at + (wide ? 24 : 12)),
        virtual: halves(at + (wide ? 16 : 8)),
        content,
        memoryBytes,
      });
    }
  }
  if (segments.length === 0) {
    throw new UserError(`${name} has no loadable segments, expected at least one: give a linked kernel.`);
  }
  return { bits, entry: halves(24), segments, notes };
}

function readNotes(content: Uint8Array): { name: string; type: number; content: Uint8Array }[] {
  const notes: { name: string; type: number; content: Uint8Array }[] = [];
  const padded = (bytes: number) => Math.ceil(bytes / 4) * 4;
  for (let at = 0; at + 12 <= content.length; ) {
    const nameBytes = readLittleEndian(content, at, 4);
    const bytes = readLittleEndian(content, at + 4, 4);
    const contentAt = at + 12 + padded(nameBytes);
    if (contentAt + bytes > content.length) break; // nonsense: what came before still counts
    const name = String.fromCharCode(...content.subarray(at + 12, at + 12 + Math.max(0, Math.min(nameBytes, 64) - 1)));
    notes.push({
      name,
      type: readLittleEndian(content, at + 8, 4),
      content: content.subarray(contentAt, contentAt + bytes),
    });
    at = contentAt + padded(bytes);
  }
  return notes;
}
