import { UserError } from '../../base/assert.ts';
import { high32, low32 } from '../../base/bits.ts';
import { hex64 } from '../../base/format.ts';
import { ByteWriter, cString, readLittleEndian } from '../bytes.ts';
import { BOOT, lowRamBytes } from '../layout.ts';
import {
  type BootRequest,
  type BootState,
  type LoadedKernel,
  longModeState,
  protectedModeState,
} from './boot-state.ts';
import { difference, type ElfFile, type Halves, readElf } from './elf-file.ts';
import { LOADFLAG } from './linux-header.ts';
import { place, placeCommandLine, placeInitrd, requireRam } from './placement.ts';
import { placeZeroPage } from './zero-page.ts';

/** Xen public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY, the note of a kernel that can be entered by PVH. */
const NOTE_PHYS32_ENTRY = 18;
/** Xen public/arch-x86/hvm/start_info.h: XEN_HVM_START_MAGIC_VALUE ("xEn3" with bit 7 of "E" set), version 1. */
const START_INFO_MAGIC = 0x336e_c578;
const START_INFO_BYTES = 56;
const MODULE_BYTES = 32;

/** The PVH entry point, or undefined for a kernel without one. */
export function pvhEntry(elf: ElfFile): number | undefined {
  const note = elf.notes.find((one) => one.name === 'Xen' && one.type === NOTE_PHYS32_ENTRY);
  return note && note.content.length >= 4 ? readLittleEndian(note.content, 0, 4) : undefined;
}

/** Copies the segments to their physical addresses and zeroes what files leave out. */
export function placeSegments(
  request: BootRequest,
  elf: ElfFile,
  require: typeof requireRam = requireRam,
): { start: number; end: number } {
  let start = Number.POSITIVE_INFINITY;
  let end = 0;
  for (const segment of elf.segments) {
    require(request, request.kernelName, segment.physical, segment.physical + segment.memoryBytes);
    start = Math.min(start, segment.physical);
    end = Math.max(end, segment.physical + segment.memoryBytes);
  }
  const zeros = new Uint8Array(0x1_0000);
  for (const segment of elf.segments) {
    place(request, request.kernelName, segment.physical, segment.content);
    let at = segment.physical + segment.content.length;
    const segmentEnd = segment.physical + segment.memoryBytes;
    while (at < segmentEnd) {
      const bytes = Math.min(zeros.length, segmentEnd - at);
      place(request, request.kernelName, at, zeros.subarray(0, bytes));
      at += bytes;
    }
  }
  return { start, end };
}

/**
 * Loads an ELF executable: by PVH if it has Xen's PHYS32_ENTRY note, plainly otherwise.
 * Source: Xen docs/misc/pvh.pandoc "x86/HVM direct boot ABI".
 *
 *   format   entered at       in                                      with
 *   pvh      the note's       32-bit protected mode, no paging        EBX → hvm_start_info
 *   elf 64   e_entry          long mode, first 4 GiB one to one       RSI → boot_params, RBX → hvm_start_info
 *   elf 32   e_entry          32-bit protected mode, no paging        ESI → boot_params, EBX → hvm_start_info
 *
 * NON-SPEC  Plain ELF: QEMU refuses a 64-bit one. Here a vmlinux without PVH finds Linux's 64-bit boot protocol, and
 *           anything else may use either structure or none. An entry at a virtual address is translated through the
 *           segment that holds it.
 *
 * @throws UserError for an image that is broken, and for anything that does not fit.
 */
export function loadElf(image: Uint8Array, request: BootRequest): LoadedKernel {
  const elf = readElf(request.kernelName, image);
  const pvh = pvhEntry(elf);
  const { start, end } = placeSegments(request, elf);
  const entry = pvh ?? physicalEntry(request.kernelName, elf);
  const initrd = placeInitrd(request, end, lowRamBytes(request.ramBytes) - 1);
  const commandLineAt = placeCommandLine(request, cString(request.commandLine), Number.POSITIVE_INFINITY);
  const startInfo = placeStartInfo(request, initrd, commandLineAt);
  let state: BootState;
  if (pvh !== undefined) {
    state = protectedModeState(request.memory, entry, { rbx: startInfo });
  } else {
    const zeroPage = placeZeroPage(request, {
      header: new Uint8Array(),
      commandLineAt,
      initrd,
      code32Start: entry,
      loadflags: LOADFLAG.LOADED_HIGH,
    });
    const enter = elf.bits === 64 ? longModeState : protectedModeState;
    state = enter(request.memory, entry, { rsi: zeroPage, rbx: startInfo });
  }
  return { format: pvh !== undefined ? 'pvh' : 'elf', state, start, end };
}

/** `e_entry` is a virtual address; before paging is set up by the kernel itself, it runs at the physical one. */
export function physicalEntry(name: string, elf: ElfFile): number {
  for (const by of ['physical', 'virtual'] as const) {
    for (const segment of elf.segments) {
      const start: Halves = by === 'virtual' ? segment.virtual : [low32(segment.physical), high32(segment.physical)];
      const offset = difference(elf.entry, start);
      if (offset >= 0 && offset < segment.memoryBytes) return segment.physical + offset;
    }
  }
  throw new UserError(
    `${name} starts at 0x${hex64(...elf.entry)}, which is in none of its segments: expected the entry point of a kernel, ` +
      "check the linker script's ENTRY.",
  );
}

/** Xen public/arch-x86/hvm/start_info.h: struct hvm_start_info, its module list and memory map. */
function placeStartInfo(request: BootRequest, initrd: { at: number; bytes: number }, commandLineAt: number): number {
  const modules = initrd.bytes > 0 ? 1 : 0;
  const modulesAt = BOOT.PVH + START_INFO_BYTES;
  const mapAt = modulesAt + modules * MODULE_BYTES;
  const info = new ByteWriter()
    .u32(START_INFO_MAGIC)
    .u32(1) // version: has a memory map
    .u32(0) // flags
    .u32(modules)
    .u64(modules > 0 ? modulesAt : 0)
    .u64(commandLineAt)
    .u64(request.rsdp ?? 0)
    .u64(mapAt)
    .u32(request.e820.length)
    .u32(0);
  if (modules > 0) info.u64(initrd.at).u64(initrd.bytes).u64(0).u64(0);
  for (const entry of request.e820) info.u64(entry.base).u64(entry.bytes).u32(entry.type).u32(0);
  if (info.length > BOOT.PVH_END - BOOT.PVH) {
    throw new UserError(
      `the memory map has ${request.e820.length} entries, which do not fit the ` +
        `${BOOT.PVH_END - BOOT.PVH} bytes for the PVH start info: merge some.`,
    );
  }
  place(request, 'the PVH start info', BOOT.PVH, info.done());
  return BOOT.PVH;
}
