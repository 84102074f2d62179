import { UserError } from '../../base/assert.ts';
import { has } from '../../base/bits.ts';
import { byteSize, hex } from '../../base/format.ts';
import { cString, readLittleEndian } from '../bytes.ts';
import { lowRamBytes, PHYSICAL } from '../layout.ts';
import { type BootRequest, type LoadedKernel, longModeState, protectedModeState } from './boot-state.ts';
import {
  BOOT_FLAG,
  ENTRY_64_OFFSET,
  HEADER_MAGIC,
  LOADFLAG,
  OLD_CMDLINE_SIZE,
  OLD_INITRD_ADDR_MAX,
  XLOADFLAG,
  ZERO_PAGE,
} from './linux-header.ts';
import { place, placeCommandLine, placeInitrd, requireRam } from './placement.ts';
import { placeZeroPage } from './zero-page.ts';

export const isBzImage = (image: Uint8Array): boolean =>
  readLittleEndian(image, ZERO_PAGE.HEADER_MAGIC, 4) === HEADER_MAGIC &&
  readLittleEndian(image, ZERO_PAGE.BOOT_FLAG, 2) === BOOT_FLAG;

const version = (number: number): string => `${number >> 8}.${String(number & 0xff).padStart(2, '0')}`;

/** The image's own description of itself, checked. */
interface Header {
  readonly version: number;
  readonly protectedModeAt: number; // offset in the file
  readonly bytes: Uint8Array; // from 0x1f1 on, as long as the image says
  readonly relocatable: boolean;
  readonly alignment: number;
  readonly prefAddress: number;
  readonly initSize: number;
  readonly initrdAddrMax: number;
  readonly cmdlineSize: number;
  readonly has64BitEntry: boolean;
}

function readHeader(name: string, image: Uint8Array): Header {
  const u = (offset: number, size: number) => readLittleEndian(image, offset, size);
  if (image.length < ZERO_PAGE.INIT_SIZE + 4) {
    throw new UserError(
      `${name} is not a whole bzImage: expected a header up to ${hex(ZERO_PAGE.INIT_SIZE + 4)}, found ` +
        `${image.length} bytes. Was the download cut off?`,
    );
  }
  const protocol = u(ZERO_PAGE.VERSION, 2);
  if (protocol < 0x0200 || !has(u(ZERO_PAGE.LOADFLAGS, 1), LOADFLAG.LOADED_HIGH)) {
    throw new UserError(
      `${name} is a zImage of boot protocol ${version(protocol)}, expected a bzImage of 2.00 or later: ` +
        'build it with "make bzImage".',
    );
  }
  const setupSectors = u(ZERO_PAGE.SETUP_SECTS, 1) || 4; // "for backwards compatibility, 0 means 4"
  const protectedModeAt = (setupSectors + 1) * 512;
  if (protectedModeAt >= image.length) {
    throw new UserError(
      `${name} is not a whole bzImage: its header puts the kernel at ${hex(protectedModeAt)}, but the file ends at ` +
        `${hex(image.length)}. Was the download cut off?`,
    );
  }
  const sizeInParagraphs = u(0x1f4, 4); // syssize; 16-byte units, the CRC at the end included
  if (protocol >= 0x0204 && sizeInParagraphs * 16 > image.length - protectedModeAt + 15) {
    throw new UserError(
      `${name} is not a whole bzImage: its header tells of ${byteSize(sizeInParagraphs * 16)}, but only ` +
        `${byteSize(image.length - protectedModeAt)} follow the setup code. Was the download cut off?`,
    );
  }
  const headerEnd = Math.min(ZERO_PAGE.HEADER_MAGIC + image[ZERO_PAGE.JUMP + 1]!, ZERO_PAGE.E820_TABLE - 1);
  const since = (minor: number, value: number, before: number) => (protocol >= 0x0200 + minor ? value : before);
  const prefHigh = u(ZERO_PAGE.PREF_ADDRESS + 4, 4);
  return {
    version: protocol,
    protectedModeAt,
    bytes: image.subarray(ZERO_PAGE.HEADER, Math.max(headerEnd, ZERO_PAGE.HEADER_MAGIC)),
    relocatable: since(5, u(ZERO_PAGE.RELOCATABLE_KERNEL, 1), 0) !== 0,
    alignment: Math.max(4096, since(5, u(ZERO_PAGE.KERNEL_ALIGNMENT, 4), 4096)),
    prefAddress: since(10, prefHigh * 2 ** 32 + u(ZERO_PAGE.PREF_ADDRESS, 4), PHYSICAL.HIGH_MEMORY),
    initSize: since(10, u(ZERO_PAGE.INIT_SIZE, 4), 0),
    initrdAddrMax: since(3, u(ZERO_PAGE.INITRD_ADDR_MAX, 4), OLD_INITRD_ADDR_MAX),
    cmdlineSize: since(6, u(ZERO_PAGE.CMDLINE_SIZE, 4), OLD_CMDLINE_SIZE),
    has64BitEntry: since(12, u(ZERO_PAGE.XLOADFLAGS, 2) & XLOADFLAG.KERNEL_64, 0) !== 0,
  };
}

/**
 * Loads a bzImage, which decompresses itself. By the 64-bit boot protocol if `xloadflags` offers it, by the 32-bit
 * protocol otherwise; the real-mode setup code never runs.
 * Source: Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", "32-bit Boot Protocol".
 *
 * The kernel goes to its preferred address if there is room for `init_size` bytes, and if it can be relocated and
 * there is not, to the lowest aligned address from 1 MiB. The initrd goes as high as RAM and `initrd_addr_max` allow.
 *
 * @throws UserError for an image that is broken, and for anything that does not fit.
 */
export function loadBzImage(image: Uint8Array, request: BootRequest): LoadedKernel {
  const header = readHeader(request.kernelName, image);
  const payload = image.subarray(header.protectedModeAt);
  const needed = Math.max(header.initSize, payload.length);
  const preferred = header.has64BitEntry ? header.prefAddress : PHYSICAL.HIGH_MEMORY;
  const lowest = Math.ceil(PHYSICAL.HIGH_MEMORY / header.alignment) * header.alignment;
  const fits = preferred + needed <= lowRamBytes(request.ramBytes) && preferred >= PHYSICAL.HIGH_MEMORY;
  const start = fits || !header.relocatable ? preferred : lowest;
  requireRam(request, request.kernelName, start, start + needed);

  place(request, request.kernelName, start, payload);
  const initrd = placeInitrd(request, start + needed, header.initrdAddrMax);
  const commandLineAt = placeCommandLine(request, cString(request.commandLine), header.cmdlineSize);
  const zeroPage = placeZeroPage(request, {
    header: header.bytes,
    commandLineAt,
    initrd,
    code32Start: start,
    loadflags: LOADFLAG.LOADED_HIGH,
  });
  const state = header.has64BitEntry
    ? longModeState(request.memory, start + ENTRY_64_OFFSET, { rsi: zeroPage })
    : protectedModeState(request.memory, start, { rsi: zeroPage });
  return { format: 'bzimage', state, start, end: start + needed };
}
