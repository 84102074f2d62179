import { ByteWriter, utf8 } from '../bytes.ts';
import { highRamBytes, lowRamBytes, PHYSICAL } from '../layout.ts';

/** What the tables tell of the machine. */
export interface SmbiosOptions {
  readonly ramBytes: number;
  readonly cpus: number;
  /** 16 bytes in the order of their text. */
  readonly uuid?: Uint8Array;
  readonly processor?: Processor;
}

export interface Processor {
  readonly manufacturer: string;
  readonly version: string;
  /** CPUID leaf 1: EAX and EDX. */
  readonly signature: number;
  readonly features: number;
  readonly megahertz: number;
}

export const PRODUCT = { MANUFACTURER: 'Terrarium', NAME: 'Terrarium PC', VERSION: '1' } as const;
/** Of the firmware that this machine does not have: there is one version of what it leaves behind. */
const FIRMWARE = { VERSION: '1', DATE: '01/01/2026', ROM_BYTES: 0x2_0000 } as const;

/** Strings are named by number: the first one behind a structure is 1, and 0 is none. */
type Body = (string: (text: string) => number) => ByteWriter;

const NO_HANDLE = 0xfffe;
const UNKNOWN_HANDLE = 0xffff;
const KIB = 1024;
const MIB = 1024 * KIB;
const MEMORY_DEVICE_BYTES = 16 * 1024 * MIB;

/** DSP0134 6.1.2 "Structure header format", 6.1.3 "Text strings". */
function structure(type: number, handle: number, body: Body): Uint8Array {
  const strings: string[] = [];
  const formatted = body((text) => strings.push(text)).done();
  const out = new ByteWriter()
    .u8(type, 4 + formatted.length)
    .u16(handle)
    .bytes(formatted);
  for (const text of strings) out.bytes(utf8(text)).u8(0);
  if (strings.length === 0) out.u8(0);
  return out.u8(0).done();
}

/** 7.1 "BIOS Information (Type 0)". */
const bios = (): Uint8Array =>
  structure(
    0,
    0x0000,
    (string) =>
      new ByteWriter()
        .u8(string(PRODUCT.MANUFACTURER), string(FIRMWARE.VERSION))
        .u16(PHYSICAL.ACPI_TABLES / 16)
        .u8(string(FIRMWARE.DATE), FIRMWARE.ROM_BYTES / 0x1_0000 - 1)
        .u64(1 << 3) // characteristics are not told
        .u8(1 << 0, 1 << 4) // ACPI; a virtual machine
        .u8(1, 0, 0xff, 0xff), // release; no embedded controller
  );

/** 7.2.1 "System — UUID": the first three fields are little-endian. All zeros: there is none. */
function uuidField(uuid: Uint8Array = new Uint8Array(16)): Uint8Array {
  const part = (from: number, end: number) => [...uuid.subarray(from, end)].reverse();
  return Uint8Array.from([...part(0, 4), ...part(4, 6), ...part(6, 8), ...uuid.subarray(8)]);
}

/** 7.2 "System Information (Type 1)". */
const system = ({ uuid }: SmbiosOptions): Uint8Array =>
  structure(
    1,
    0x0100,
    (string) =>
      new ByteWriter()
        .u8(string(PRODUCT.MANUFACTURER), string(PRODUCT.NAME), string(PRODUCT.VERSION), 0)
        .bytes(uuidField(uuid))
        .u8(6, 0, 0), // woken by the power switch; no SKU, no family
  );

/** 7.4 "System Enclosure or Chassis (Type 3)". */
const chassis = (): Uint8Array =>
  structure(
    3,
    0x0300,
    (string) =>
      new ByteWriter()
        .u8(string(PRODUCT.MANUFACTURER), 1, string(PRODUCT.VERSION), 0, 0) // "other"
        .u8(3, 3, 3, 2) // boot-up, power supply and thermal states are safe; security unknown
        .u32(0)
        .u8(0, 0, 0, 0, 0), // height, cords, contained elements, SKU
  );

/** 7.5 "Processor Information (Type 4)": all CPUs in one package. */
const processor = ({ cpus, processor: cpu }: SmbiosOptions): Uint8Array =>
  structure(4, 0x0400, (string) => {
    const short = Math.min(cpus, 0xff);
    return new ByteWriter()
      .u8(string('CPU 0'), 3, 1, string(cpu?.manufacturer ?? PRODUCT.MANUFACTURER)) // a CPU; family "other"
      .u32(cpu?.signature ?? 0)
      .u32(cpu?.features ?? 0)
      .u8(string(cpu?.version ?? PRODUCT.NAME), 0)
      .u16(0)
      .u16(cpu?.megahertz ?? 0)
      .u16(cpu?.megahertz ?? 0)
      .u8(0x41, 1) // populated and enabled; upgrade "other"
      .u16(UNKNOWN_HANDLE)
      .u16(UNKNOWN_HANDLE)
      .u16(UNKNOWN_HANDLE)
      .u8(0, 0, 0, short, short, short)
      .u16((1 << 2) | (cpus > 1 ? 1 << 3 : 0)) // 64-bit capable, several cores
      .u16(1)
      .u16(cpus)
      .u16(cpus)
      .u16(cpus);
  });

const MEMORY_ARRAY = 0x1000;

/** 7.17 "Physical Memory Array (Type 16)". */
const memoryArray = ({ ramBytes }: SmbiosOptions, devices: number): Uint8Array =>
  structure(16, MEMORY_ARRAY, () =>
    new ByteWriter()
      .u8(3, 3, 3) // on the board, system memory, no error correction
      .u32(Math.ceil(ramBytes / KIB))
      .u16(NO_HANDLE)
      .u16(devices)
      .u64(0),
  );

/** 7.18 "Memory Device (Type 17)". */
const memoryDevice = (index: number, bytes: number): Uint8Array =>
  structure(17, 0x1100 + index, (string) => {
    const mib = Math.floor(bytes / MIB);
    const extended = mib >= 0x7fff;
    return new ByteWriter()
      .u16(MEMORY_ARRAY)
      .u16(NO_HANDLE)
      .u16(64)
      .u16(64)
      .u16(extended ? 0x7fff : mib)
      .u8(9, 0, string(`DIMM ${index}`), 0, 7) // DIMM; RAM
      .u16(1 << 1) // detail "other"
      .u16(0)
      .u8(string(PRODUCT.MANUFACTURER), 0, 0, 0, 0)
      .u32(extended ? mib : 0)
      .u16(0)
      .u16(0)
      .u16(0)
      .u16(0);
  });

/** 7.20 "Memory Array Mapped Address (Type 19)". Addresses in KiB, the last one inclusive. */
const mappedAddress = (index: number, base: number, bytes: number): Uint8Array =>
  structure(19, 0x1300 + index, () =>
    new ByteWriter()
      .u32(base / KIB)
      .u32((base + bytes) / KIB - 1)
      .u16(MEMORY_ARRAY)
      .u8(1)
      .u64(0)
      .u64(0),
  );

/** 7.33 "System Boot Information (Type 32)": no errors detected. */
const bootInformation = (): Uint8Array => structure(32, 0x2000, () => new ByteWriter().zeros(7));

/** 7.45 "End-of-Table (Type 127)". */
const endOfTable = (): Uint8Array => structure(127, 0x7f00, () => new ByteWriter());

/** Every structure, in the order of the table. */
export function structures(options: SmbiosOptions): readonly Uint8Array[] {
  const { ramBytes } = options;
  const devices = Array.from({ length: Math.ceil(ramBytes / MEMORY_DEVICE_BYTES) }, (_, index) =>
    memoryDevice(index, Math.min(ramBytes - index * MEMORY_DEVICE_BYTES, MEMORY_DEVICE_BYTES)),
  );
  const ranges = [
    { base: 0, bytes: lowRamBytes(ramBytes) },
    { base: PHYSICAL.RAM_ABOVE_4G, bytes: highRamBytes(ramBytes) },
  ].filter(({ bytes }) => bytes > 0);
  return [
    bios(),
    system(options),
    chassis(),
    processor(options),
    memoryArray(options, devices.length),
    ...devices,
    ...ranges.map(({ base, bytes }, index) => mappedAddress(index, base, bytes)),
    bootInformation(),
    endOfTable(),
  ];
}
