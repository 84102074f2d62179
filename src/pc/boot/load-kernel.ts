import { UserError } from '../../base/assert.ts';
import { byteSize, hexBytes } from '../../base/format.ts';
import { RAM_MIN } from '../layout.ts';
import type { BootRequest, KernelFormat, LoadedKernel } from './boot-state.ts';
import { isBzImage, loadBzImage } from './bzimage.ts';
import { loadElf, pvhEntry } from './elf.ts';
import { isElf, readElf } from './elf-file.ts';
import { findMultibootHeader, loadMultiboot } from './multiboot.ts';

/** What users take for a kernel and is none, by its first bytes. */
const NOT_KERNELS: readonly (readonly [magic: string, what: string])[] = [
  ['1f 8b', 'a gzip archive: unpack it first'],
  ['fd 37 7a 58', 'an xz archive: unpack it first'],
  ['28 b5 2f fd', 'a zstd archive: unpack it first'],
  ['42 5a 68', 'a bzip2 archive: unpack it first'],
  ['04 22 4d 18', 'an LZ4 archive: unpack it first'],
  ['02 21 4c 18', 'an LZ4 archive: unpack it first'],
  ['5d 00 00', 'an LZMA archive: unpack it first'],
  ['89 4c 5a 4f', 'an LZO archive: unpack it first'],
  ['30 37 30 37', 'a cpio archive: give it as -initrd'],
  ['21 3c 61 72', 'a Debian package or ar archive: unpack it, the kernel is boot/vmlinuz-* in it'],
  ['cf fa ed fe', 'a Mach-O file: build the kernel as ELF'],
  ['51 46 49 fb', 'a qcow2 disk: give it as -drive'],
];

/**
 * Which loader a file is for. A bzImage is told by its header, then Multiboot wins over ELF, as in QEMU.
 *
 * @throws UserError for a file that is no kernel this machine can start.
 */
export function detectKernel(image: Uint8Array, name = 'the kernel'): KernelFormat {
  if (image.length === 0) {
    throw new UserError(`${name} is empty, expected a bzImage, an ELF file or a Multiboot kernel: check the path.`);
  }
  if (isBzImage(image)) return 'bzimage';
  const elf = isElf(image);
  if (findMultibootHeader(image) >= 0) {
    // A 64-bit ELF that offers both is better served by PVH, which says how to enter it.
    return elf && image[4] === 2 && pvhEntry(readElf(name, image)) !== undefined ? 'pvh' : 'multiboot';
  }
  if (elf) return pvhEntry(readElf(name, image)) !== undefined ? 'pvh' : 'elf';
  const start = hexBytes(image.subarray(0, 4));
  const known = NOT_KERNELS.find(([magic]) => start.startsWith(magic));
  throw new UserError(
    `${name} is not a kernel: expected a bzImage, an ELF file or a Multiboot header, found ${byteSize(image.length)} ` +
      `starting with ${start}${known ? `, ${known[1]}.` : '. Give a file such as vmlinuz or vmlinux.'}`,
  );
}

const LOADERS: Readonly<Record<KernelFormat, (image: Uint8Array, request: BootRequest) => LoadedKernel>> = {
  bzimage: loadBzImage,
  multiboot: loadMultiboot,
  pvh: loadElf,
  elf: loadElf,
};

/**
 * Puts a kernel and what it is handed into guest memory, and says in which state the boot processor starts.
 *
 * @throws UserError if the file is no kernel, is broken, or does not fit the machine's memory.
 */
export function loadKernel(image: Uint8Array, request: BootRequest): LoadedKernel {
  const format = detectKernel(image, request.kernelName);
  if (request.ramBytes < RAM_MIN) {
    throw new UserError(
      `the machine has ${byteSize(request.ramBytes)} of RAM, but starting a kernel takes at least ${byteSize(RAM_MIN)}: use a larger -m.`,
    );
  }
  return LOADERS[format](image, request);
}
