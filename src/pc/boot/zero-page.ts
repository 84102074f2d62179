import { UserError } from '../../base/assert.ts';
import { high32, low32 } from '../../base/bits.ts';
import { ByteWriter, writeLittleEndian } from '../bytes.ts';
import { BOOT } from '../layout.ts';
import type { BootRequest } from './boot-state.ts';
import { BOOT_FLAG, E820_ENTRIES_MAX, HEADER_MAGIC, LOADER_UNDEFINED, ZERO_PAGE } from './linux-header.ts';
import { place } from './placement.ts';

/** Fields a loader fills in, besides the memory map, the RSDP and setup_data. */
export interface ZeroPageFields {
  /** The image's own setup header, bytes 0x1f1 and on; empty for kernels that have none. */
  readonly header: Uint8Array;
  readonly commandLineAt: number;
  readonly initrd: { readonly at: number; readonly bytes: number };
  readonly code32Start: number;
  readonly loadflags: number;
}

/** Builds Linux's boot_params at `BOOT.INFO` and returns their address. */
export function placeZeroPage(request: BootRequest, fields: ZeroPageFields): number {
  const page = new Uint8Array(ZERO_PAGE.BYTES);
  const put = (offset: number, size: number, value: number) => writeLittleEndian(page, offset, size, value);
  page.set(fields.header, ZERO_PAGE.HEADER);
  put(ZERO_PAGE.BOOT_FLAG, 2, BOOT_FLAG);
  put(ZERO_PAGE.HEADER_MAGIC, 4, HEADER_MAGIC);
  put(ZERO_PAGE.TYPE_OF_LOADER, 1, LOADER_UNDEFINED);
  put(ZERO_PAGE.LOADFLAGS, 1, fields.loadflags);
  put(ZERO_PAGE.CODE32_START, 4, fields.code32Start);
  put(ZERO_PAGE.VID_MODE, 2, 0xffff); // "normal"
  put(ZERO_PAGE.CMD_LINE_PTR, 4, fields.commandLineAt);
  put(ZERO_PAGE.RAMDISK_IMAGE, 4, low32(fields.initrd.at));
  put(ZERO_PAGE.RAMDISK_SIZE, 4, low32(fields.initrd.bytes));
  put(ZERO_PAGE.EXT_RAMDISK_IMAGE, 4, high32(fields.initrd.at));
  put(ZERO_PAGE.EXT_RAMDISK_SIZE, 4, high32(fields.initrd.bytes));
  if (request.rsdp !== undefined) put(ZERO_PAGE.ACPI_RSDP_ADDR, 4, request.rsdp);

  if (request.e820.length > E820_ENTRIES_MAX) {
    throw new UserError(
      `the memory map has ${request.e820.length} entries, but Linux's zero page holds ${E820_ENTRIES_MAX}: merge some.`,
    );
  }
  put(ZERO_PAGE.E820_ENTRIES, 1, request.e820.length);
  const table = new ByteWriter();
  for (const entry of request.e820) table.u64(entry.base).u64(entry.bytes).u32(entry.type);
  page.set(table.done(), ZERO_PAGE.E820_TABLE);

  put(ZERO_PAGE.SETUP_DATA, 4, placeSetupData(request));
  put(ZERO_PAGE.SETUP_DATA + 4, 4, 0);
  place(request, 'the zero page', BOOT.INFO, page);
  return BOOT.INFO;
}

/** A linked list of {u64 next, u32 type, u32 len, data}; boot.rst, "setup_data". Returns the first, or 0. */
function placeSetupData(request: BootRequest): number {
  const entries = request.setupData ?? [];
  let at: number = BOOT.SETUP_DATA;
  entries.forEach((entry, index) => {
    const end = Math.ceil((at + 16 + entry.bytes.length) / 16) * 16;
    if (end > BOOT.SETUP_DATA_END) {
      throw new UserError(
        `setup_data of type ${entry.type} is ${entry.bytes.length} bytes, but only ` +
          `${BOOT.SETUP_DATA_END - at - 16} are free for it: make it smaller.`,
      );
    }
    const next = index === entries.length - 1 ? 0 : end;
    const node = new ByteWriter().u64(next).u32(entry.type).u32(entry.bytes.length).bytes(entry.bytes);
    place(request, 'setup_data', at, node.done());
    at = end;
  });
  return entries.length > 0 ? BOOT.SETUP_DATA : 0;
}
