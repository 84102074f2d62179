import { UserError } from '../../base/assert.ts';
import { byteSize, hex } from '../../base/format.ts';
import { BOOT, lowRamBytes, PHYSICAL, physical } from '../layout.ts';
import type { BootRequest } from './boot-state.ts';

/** Copies into RAM that is known to be there; a hole is the user's mistake, told in one sentence. */
export function place(request: BootRequest, what: string, at: number, bytes: Uint8Array): void {
  const copied = request.memory.copyIn(physical(at), bytes);
  if (copied === bytes.length) return;
  throw new UserError(
    `${what} needs ${byteSize(bytes.length)} of RAM at ${hex(at)}, but the machine has RAM only up to ` +
      `${hex(at + copied)} there: give it more memory with -m.`,
  );
}

/** Checks that [start, end) is RAM above 1 MiB and below the PCI hole. */
export function requireRam(request: BootRequest, what: string, start: number, end: number): void {
  const top = lowRamBytes(request.ramBytes);
  if (start < PHYSICAL.HIGH_MEMORY) {
    throw new UserError(
      `${what} wants to be loaded at ${hex(start)}, but only addresses from ${hex(PHYSICAL.HIGH_MEMORY)} on are ` +
        'free for it: link it for 1 MiB or above.',
    );
  }
  if (end <= top) return;
  const lower = end > PHYSICAL.PCI_WINDOW ? ', or link it lower' : '';
  throw new UserError(
    `${what} needs RAM up to ${hex(end)} (${byteSize(end)}), but the machine's RAM below 4 GiB ends at ` +
      `${hex(top)} (${byteSize(top)}): give it more memory with -m${lower}.`,
  );
}

/** The same, but conventional memory will do as well, from 4 KiB on and below what the loader itself keeps there. */
export function requireRamOrConventional(request: BootRequest, what: string, start: number, end: number): void {
  if (start >= LOWEST_KERNEL && end <= BOOT.SPARE) return;
  if (start < PHYSICAL.HIGH_MEMORY) {
    throw new UserError(
      `${what} wants to be loaded at ${hex(start)}..${hex(end)}, but only ${hex(LOWEST_KERNEL)}..${hex(BOOT.SPARE)} and ` +
        `addresses from ${hex(PHYSICAL.HIGH_MEMORY)} on are free for it: link it there.`,
    );
  }
  requireRam(request, what, start, end);
}

/** Below are the real-mode interrupt vectors and the BIOS data area. */
const LOWEST_KERNEL = 0x1000;

/** As high as allowed and page-aligned, above `floor`. Returns the address; 0 if there are no bytes to place. */
export function placeInitrd(request: BootRequest, floor: number, highestByte: number): { at: number; bytes: number } {
  if (request.modules.length > 1) {
    throw new UserError(
      `${request.kernelName} takes one -initrd file, but ${request.modules.length} were given: ` +
        'concatenate the archives, or use a Multiboot kernel.',
    );
  }
  const module = request.modules[0];
  if (!module || module.bytes.length === 0) return { at: 0, bytes: 0 };
  const bytes = module.bytes.length;
  const top = Math.min(lowRamBytes(request.ramBytes), highestByte + 1);
  const at = Math.floor((top - bytes) / 4096) * 4096;
  if (at < floor) {
    throw new UserError(
      `the initrd is ${byteSize(bytes)}, but between the kernel's end at ${hex(floor)} and ${hex(top)} there is room ` +
        `for ${byteSize(Math.max(0, top - floor))}: give the machine more memory with -m, or a smaller initrd.`,
    );
  }
  place(request, 'the initrd', at, module.bytes);
  return { at, bytes };
}

/** Puts the command line where all loaders put it. `bytes` includes the terminating zero. */
export function placeCommandLine(request: BootRequest, bytes: Uint8Array, most: number): number {
  const room = Math.min(most, BOOT.COMMAND_LINE_END - BOOT.COMMAND_LINE - 1);
  if (bytes.length - 1 > room) {
    throw new UserError(
      `the command line is ${bytes.length - 1} bytes long, but ${request.kernelName} takes at most ${room}: shorten -append.`,
    );
  }
  place(request, 'the command line', BOOT.COMMAND_LINE, bytes);
  return BOOT.COMMAND_LINE;
}
