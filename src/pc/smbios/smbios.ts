/**
 * SMBIOS: what the machine is made of, for software that shows it to people or looks up quirks.
 *
 *   0xf0000  entry point of 2.8, "_SM_"     found by a scan of the F segment in steps of 16
 *   0xf0020  entry point of 3.0, "_SM3_"    both tell of the same table
 *   0xf0040  the table
 *
 * Source: DMTF DSP0134 3.0 "System Management BIOS (SMBIOS) Reference Specification". The same two pieces are files of
 * fw_cfg, as QEMU's docs/specs/fw_cfg.rst has them.
 */
import { assert } from '../../base/assert.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ByteWriter } from '../bytes.ts';
import { checksum } from '../checksum.ts';
import { PHYSICAL, physical } from '../layout.ts';
import { type SmbiosOptions, structures } from './structures.ts';

const ENTRY_2_8_AT = PHYSICAL.SMBIOS;
const ENTRY_3_0_AT = PHYSICAL.SMBIOS + 0x20;
const TABLE_AT = PHYSICAL.SMBIOS + 0x40;

export interface Smbios {
  /** 5.2.1, at `PHYSICAL.SMBIOS`. */
  readonly anchor: Uint8Array;
  readonly anchor3: Uint8Array;
  readonly table: Uint8Array;
}

export function buildSmbios(options: SmbiosOptions): Smbios {
  const all = structures(options);
  const table = Uint8Array.from(all.flatMap((bytes) => [...bytes]));
  const longest = Math.max(...all.map((bytes) => bytes.length));
  return {
    table,
    anchor: entry28(table.length, all.length, longest),
    anchor3: entry30(table.length),
  };
}

/** 5.2.1 "SMBIOS 2.1 (32-bit) Entry Point". */
function entry28(tableBytes: number, count: number, longest: number): Uint8Array {
  const bytes = new ByteWriter()
    .text('_SM_', 4)
    .u8(0, 0x1f, 2, 8)
    .u16(longest)
    .zeros(6)
    .text('_DMI_', 5)
    .u8(0)
    .u16(tableBytes)
    .u32(TABLE_AT)
    .u16(count)
    .u8(0x28)
    .done();
  bytes[0x15] = checksum(bytes.subarray(0x10));
  bytes[0x04] = checksum(bytes);
  return bytes;
}

/** 5.2.2 "SMBIOS 3.0 (64-bit) Entry Point". */
function entry30(tableBytes: number): Uint8Array {
  const bytes = new ByteWriter().text('_SM3_', 5).u8(0, 0x18, 3, 0, 0, 1, 0).u32(tableBytes).u64(TABLE_AT).done();
  bytes[0x05] = checksum(bytes);
  return bytes;
}

export function writeSmbios(memory: GuestMemory, smbios: Smbios): void {
  assert(TABLE_AT + smbios.table.length <= PHYSICAL.SMBIOS_END, 'the SMBIOS table ends before the BIOS routines');
  const put = (at: number, bytes: Uint8Array) => {
    const copied = memory.copyIn(physical(at), bytes);
    assert(copied === bytes.length, 'there is RAM where the SMBIOS table goes');
  };
  put(ENTRY_2_8_AT, smbios.anchor);
  put(ENTRY_3_0_AT, smbios.anchor3);
  put(TABLE_AT, smbios.table);
}
