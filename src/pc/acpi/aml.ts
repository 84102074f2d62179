import { assert } from '../../base/assert.ts';
import { ascii } from '../bytes.ts';

/**
 * Builds ACPI Machine Language: each function returns the bytes of one term, and takes the bytes of those inside it.
 * Source: ACPI 6.4, 20.2 "AML Grammar Definition"; resource descriptors 6.4 "Resource Data Types for ACPI".
 */
export type Aml = readonly number[];

const OP = {
  ZERO: 0x00,
  ONE: 0x01,
  NAME: 0x08,
  BYTE: 0x0a,
  WORD: 0x0b,
  DWORD: 0x0c,
  STRING: 0x0d,
  SCOPE: 0x10,
  BUFFER: 0x11,
  PACKAGE: 0x12,
  METHOD: 0x14,
  DUAL_NAME: 0x2e,
  MULTI_NAME: 0x2f,
  EXTENDED: 0x5b,
  EXTENDED_DEVICE: 0x82,
  RETURN: 0xa4,
  ONES: 0xff,
} as const;

/** 20.2.4 "Package Length Encoding": the length counts itself. */
function packageLength(contentBytes: number): number[] {
  for (let lengthBytes = 1; lengthBytes <= 4; lengthBytes += 1) {
    const total = contentBytes + lengthBytes;
    if (lengthBytes === 1) {
      if (total < 0x40) return [total];
      continue;
    }
    if (total >= 2 ** (4 + 8 * (lengthBytes - 1))) continue;
    const bytes = [((lengthBytes - 1) << 6) | (total & 0xf)];
    for (let i = 0; i < lengthBytes - 1; i += 1) bytes.push((total >> (4 + 8 * i)) & 0xff);
    return bytes;
  }
  assert(false, 'an AML package is shorter than 2^28 bytes');
}

const sized = (content: Aml): Aml => [...packageLength(content.length), ...content];

/** 20.2.2 "Name Objects Encoding". `\_SB.PCI0`, `^LNKA` or `_HID`; short segments are filled up with `_`. */
export function nameString(path: string): Aml {
  const prefix = /^[\\^]*/.exec(path)![0];
  const rest = path.slice(prefix.length);
  const segments = rest === '' ? [] : rest.split('.');
  const bytes = [...ascii(prefix)];
  if (segments.length === 0) return [...bytes, 0];
  if (segments.length === 2) bytes.push(OP.DUAL_NAME);
  if (segments.length > 2) bytes.push(OP.MULTI_NAME, segments.length);
  for (const segment of segments) {
    assert(/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment), `"${segment}" is an AML name segment`);
    bytes.push(...ascii(segment.padEnd(4, '_')));
  }
  return bytes;
}

/** The shortest encoding of an unsigned integer of at most 32 bits. */
export function integer(value: number): Aml {
  if (value === 0) return [OP.ZERO];
  if (value === 1) return [OP.ONE];
  if (value <= 0xff) return [OP.BYTE, value];
  if (value <= 0xffff) return [OP.WORD, value & 0xff, value >> 8];
  return [OP.DWORD, ...little(value, 4)];
}

export const string = (text: string): Aml => [OP.STRING, ...ascii(text), 0];
export const scope = (path: string, ...terms: Aml[]): Aml => [
  OP.SCOPE,
  ...sized([...nameString(path), ...terms.flat()]),
];
export const name = (path: string, value: Aml): Aml => [OP.NAME, ...nameString(path), ...value];
export const pack = (...elements: Aml[]): Aml => [OP.PACKAGE, ...sized([elements.length, ...elements.flat()])];
export const buffer = (bytes: Aml): Aml => [OP.BUFFER, ...sized([...integer(bytes.length), ...bytes])];
export const giveBack = (value: Aml): Aml => [OP.RETURN, ...value];

export const device = (path: string, ...terms: Aml[]): Aml => [
  OP.EXTENDED,
  OP.EXTENDED_DEVICE,
  ...sized([...nameString(path), ...terms.flat()]),
];

export const method = (path: string, parameters: number, ...terms: Aml[]): Aml => [
  OP.METHOD,
  ...sized([...nameString(path), parameters, ...terms.flat()]),
];

/** 19.6.38 "EISAID": `PNP0A03` as the number it is compressed to. */
export function eisaId(id: string): Aml {
  assert(/^[A-Z]{3}[0-9A-F]{4}$/.test(id), `${id} is an EISA id`);
  const letter = (at: number) => id.charCodeAt(at) - 0x40;
  const maker = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return [OP.DWORD, maker >> 8, maker & 0xff, product >> 8, product & 0xff];
}

const little = (value: number, bytes: number): number[] =>
  Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);

/** 6.4.2.5 "I/O Port Descriptor": a fixed range, 16-bit decode. */
export const ioPorts = (first: number, count: number): Aml => [
  0x47,
  0x01,
  ...little(first, 2),
  ...little(first, 2),
  1,
  count,
];

/** 6.4.2.1 "IRQ Descriptor": edge-triggered, active high, exclusive: an ISA interrupt. */
export const isaIrq = (irq: number): Aml => [0x22, ...little(1 << irq, 2)];

/** 6.4.3.6 "Extended Interrupt Descriptor": level, active high, shared, this device consumes it. */
export const levelInterrupt = (gsi: number): Aml => [0x89, ...little(6, 2), 0x09, 1, ...little(gsi, 4)];

/** 6.4.3.4 "32-Bit Fixed Memory Range Descriptor". */
export const fixedMemory = (base: number, bytes: number, writable: boolean): Aml => [
  0x86,
  ...little(9, 2),
  writable ? 1 : 0,
  ...little(base, 4),
  ...little(bytes, 4),
];

const ADDRESS_SPACE = { MEMORY: 0, IO: 1, BUS: 2 } as const;
/** Minimum and maximum are fixed, positive decode, and the bridge produces what is behind it. */
const FIXED_PRODUCER = 0x0c;

function addressSpace(bytes: 2 | 4, kind: number, typeFlags: number, first: number, last: number): Aml {
  const fields = [0, first, last, 0, last - first + 1].flatMap((value) => little(value, bytes));
  return [bytes === 2 ? 0x88 : 0x87, ...little(3 + fields.length, 2), kind, FIXED_PRODUCER, typeFlags, ...fields];
}

/** 6.4.3.5.3 "Word Address Space Descriptor" for bus numbers. */
export const busNumbers = (first: number, last: number): Aml => addressSpace(2, ADDRESS_SPACE.BUS, 0, first, last);
/** The same for ports; both ISA and non-ISA addresses. */
export const portWindow = (first: number, last: number): Aml => addressSpace(2, ADDRESS_SPACE.IO, 3, first, last);
/** 6.4.3.5.2 "DWord Address Space Descriptor": read-write, not cacheable. */
export const memoryWindow = (first: number, last: number): Aml => addressSpace(4, ADDRESS_SPACE.MEMORY, 1, first, last);

/** A resource template: the descriptors and an end tag whose checksum 0 means "do not check" (6.4.2.9). */
export const resources = (...descriptors: Aml[]): Aml => buffer([...descriptors.flat(), 0x79, 0x00]);
