import { UserError } from '../../base/assert.ts';
import { has } from '../../base/bits.ts';
import { byteSize, hex } from '../../base/format.ts';
import { ByteWriter, cString, readLittleEndian } from '../bytes.ts';
import { BOOT, lowRamBytes, PHYSICAL } from '../layout.ts';
import { type BootRequest, type LoadedKernel, protectedModeState } from './boot-state.ts';
import { physicalEntry, placeSegments } from './elf.ts';
import { isElf, readElf } from './elf-file.ts';
import { place, requireRam, requireRamOrConventional } from './placement.ts';

/** Multiboot Specification 0.6.96, 3.1 "OS image format": within the first 8192 bytes, 4-byte-aligned. */
const HEADER_MAGIC = 0x1bad_b002;
const SEARCH_BYTES = 8192;
/** 3.1.2 "The magic fields of Multiboot header". Bits 15:0 that a loader does not know make it refuse. */
const HEADER_FLAG = { PAGE_ALIGN: 0x1, MEMORY_INFO: 0x2, VIDEO_MODE: 0x4, AOUT_KLUDGE: 0x1_0000 } as const;
const REQUIREMENTS_KNOWN = 0x7;

/** 3.2 "Machine state": what EAX says. */
const BOOT_MAGIC = 0x2bad_b002;
/** 3.3 "Boot information format": which fields are valid. */
const INFO_FLAG = { MEMORY: 0x1, COMMAND_LINE: 0x4, MODULES: 0x8, MEMORY_MAP: 0x40, LOADER_NAME: 0x200 } as const;
const INFO_BYTES = 120;
const MODULE_BYTES = 16;
/** Bytes kept for the GDT in front of an information structure in the spare place. */
const GDT_ROOM = 0x100;

/** Offset of the header, or -1 if the file has none with a correct checksum. */
export function findMultibootHeader(image: Uint8Array): number {
  const end = Math.min(image.length, SEARCH_BYTES) - 12;
  for (let at = 0; at <= end; at += 4) {
    if (readLittleEndian(image, at, 4) !== HEADER_MAGIC) continue;
    const sum = HEADER_MAGIC + readLittleEndian(image, at + 4, 4) + readLittleEndian(image, at + 8, 4);
    if (sum >>> 0 === 0) return at;
  }
  return -1;
}

/**
 * Loads a Multiboot 1 kernel: an ELF executable, or any file whose header says where it goes (the "a.out kludge").
 * Modules follow the kernel, page-aligned, in the order given; the information structure with everything it points
 * at is below 640 KiB.
 * Source: Multiboot Specification 0.6.96.
 *
 * As in QEMU, the command line starts with the kernel's name. A 64-bit ELF file is accepted, as GRUB does: its first
 * instructions must be 32-bit code all the same.
 *
 * @throws UserError for an image that is broken, and for anything that does not fit.
 */
export function loadMultiboot(image: Uint8Array, request: BootRequest): LoadedKernel {
  const header = findMultibootHeader(image);
  const flags = readLittleEndian(image, header + 4, 4);
  const unknown = flags & 0xffff & ~REQUIREMENTS_KNOWN;
  if (header < 0 || unknown !== 0) {
    throw new UserError(
      `${request.kernelName} asks in its Multiboot header for ${hex(unknown)}, expected only page alignment, memory ` +
        'and video information (0x7): clear the other bits.',
    );
  }
  const loaded = has(flags, HEADER_FLAG.AOUT_KLUDGE)
    ? placeByHeader(image, header, request)
    : placeByElf(image, request);
  const low = loaded.start < BOOT.INFO_END; // the kernel lies where the information usually is
  const modules = placeModules(request, Math.max(loaded.end, PHYSICAL.HIGH_MEMORY));
  const [infoAt, infoEnd] = low ? [BOOT.SPARE + GDT_ROOM, BOOT.SPARE_END] : [BOOT.INFO, BOOT.INFO_END];
  placeInformation(request, modules, infoAt, infoEnd);
  const registers = { rax: BOOT_MAGIC, rbx: infoAt };
  const state = protectedModeState(request.memory, loaded.entry, registers, low ? BOOT.SPARE : BOOT.GDT);
  return { format: 'multiboot', state, start: loaded.start, end: loaded.end };
}

interface Placed {
  readonly start: number;
  readonly end: number;
  readonly entry: number;
}

function placeByElf(image: Uint8Array, request: BootRequest): Placed {
  if (!isElf(image)) {
    throw new UserError(
      `${request.kernelName} has a Multiboot header but is no ELF file, expected one or load addresses in the header ` +
        '(flag 0x10000): link it as ELF.',
    );
  }
  const elf = readElf(request.kernelName, image);
  return { ...placeSegments(request, elf, requireRamOrConventional), entry: physicalEntry(request.kernelName, elf) };
}

/** 3.1.3 "The address fields of Multiboot header". */
function placeByHeader(image: Uint8Array, header: number, request: BootRequest): Placed {
  const u32 = (at: number) => readLittleEndian(image, header + at, 4);
  const [headerAddr, loadAddr, loadEnd, bssEnd, entry] = [u32(12), u32(16), u32(20), u32(24), u32(28)];
  const fileAt = header - (headerAddr - loadAddr);
  const bytes = loadEnd === 0 ? image.length - fileAt : loadEnd - loadAddr;
  if (loadAddr > headerAddr || fileAt < 0 || bytes <= 0 || fileAt + bytes > image.length) {
    throw new UserError(
      `${request.kernelName} says it is loaded at ${hex(loadAddr)}..${hex(loadEnd)} with its header at ${hex(headerAddr)}, ` +
        `which does not fit a file of ${byteSize(image.length)}: correct the Multiboot header, or was the file cut off?`,
    );
  }
  const end = Math.max(loadAddr + bytes, bssEnd);
  requireRamOrConventional(request, request.kernelName, loadAddr, end);
  place(request, request.kernelName, loadAddr, image.subarray(fileAt, fileAt + bytes));
  place(request, request.kernelName, loadAddr + bytes, new Uint8Array(end - loadAddr - bytes));
  return { start: loadAddr, end, entry };
}

interface PlacedModule {
  readonly start: number;
  readonly end: number;
  readonly commandLine: string;
}

function placeModules(request: BootRequest, kernelEnd: number): PlacedModule[] {
  let free = Math.ceil(kernelEnd / 4096) * 4096;
  return request.modules.map((module) => {
    const start = free;
    const end = start + module.bytes.length;
    requireRam(request, `module ${module.commandLine}`, start, end);
    place(request, `module ${module.commandLine}`, start, module.bytes);
    free = Math.ceil(end / 4096) * 4096;
    return { start, end, commandLine: module.commandLine };
  });
}

/** 3.3 "Boot information format". Strings and lists follow the structure. */
function placeInformation(request: BootRequest, modules: readonly PlacedModule[], at: number, end: number): void {
  const map = new ByteWriter();
  for (const entry of request.e820) map.u32(20).u64(entry.base).u64(entry.bytes).u32(entry.type);
  const mapAt = at + INFO_BYTES;
  const modulesAt = mapAt + map.length;
  let nextString = modulesAt + modules.length * MODULE_BYTES;
  const strings = new ByteWriter();
  const string = (text: string): number => {
    const bytes = cString(text);
    const stringAt = nextString;
    strings.bytes(bytes);
    nextString += bytes.length;
    return stringAt;
  };

  const list = new ByteWriter();
  for (const module of modules) list.u32(module.start).u32(module.end).u32(string(module.commandLine)).u32(0);
  const commandLine = request.commandLine === '' ? request.kernelName : `${request.kernelName} ${request.commandLine}`;
  const info = new ByteWriter()
    .u32(INFO_FLAG.MEMORY | INFO_FLAG.COMMAND_LINE | INFO_FLAG.MODULES | INFO_FLAG.MEMORY_MAP | INFO_FLAG.LOADER_NAME)
    .u32(640) // mem_lower, KiB
    .u32((lowRamBytes(request.ramBytes) - PHYSICAL.HIGH_MEMORY) / 1024) // mem_upper, KiB
    .u32(0) // boot_device
    .u32(string(commandLine))
    .u32(modules.length)
    .u32(modulesAt)
    .zeros(16) // syms
    .u32(map.length)
    .u32(mapAt)
    .zeros(12) // drives, config_table
    .u32(string('terrarium'));
  info.zeros(INFO_BYTES - info.length);

  const all = info.bytes(map.done()).bytes(list.done()).bytes(strings.done()).done();
  if (at + all.length > end) {
    throw new UserError(
      `the Multiboot information takes ${all.length} bytes, but there is room for ${end - at}: ` +
        "shorten -append or the modules' arguments.",
    );
  }
  place(request, 'the Multiboot information', at, all);
}
