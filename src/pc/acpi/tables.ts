import { assert } from '../../base/assert.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ByteWriter } from '../bytes.ts';
import { checksum } from '../checksum.ts';
import { BLOCK_ID, PERIODIC_TICKS_MIN } from '../hpet/registers.ts';
import { ACPI_VALUES, IRQ, PHYSICAL, PORTS, physical } from '../layout.ts';
import { dsdtBody } from './dsdt.ts';
import { PM } from './registers.ts';

const OEM = { ID: 'TERRAR', TABLE: 'TERRARIU', CREATOR: 'TERR' } as const;
const HEADER_BYTES = 36;

export interface AcpiOptions {
  readonly cpus: number;
  readonly serialPorts: readonly number[];
  readonly timerBits: 24 | 32;
  readonly hpet: boolean;
  readonly suspendToRam: boolean;
}

/** ACPI 6.4, 5.2.6 "System Description Table Header". */
export function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new ByteWriter()
    .text(signature, 4)
    .u32(HEADER_BYTES + body.length)
    .u8(revision, 0)
    .text(OEM.ID, 6, 0x20)
    .text(OEM.TABLE, 8, 0x20)
    .u32(1)
    .text(OEM.CREATOR, 4)
    .u32(1)
    .bytes(body)
    .done();
  bytes[9] = checksum(bytes);
  return bytes;
}

/** 5.2.3.2 "Generic Address Structure". Spaces: 0 memory, 1 ports. */
function genericAddress(out: ByteWriter, space: 0 | 1, bits: number, address: number): ByteWriter {
  const accessSize = bits === 8 ? 1 : 0; // bytes, or whatever fits the register
  return out.u8(space, bits, 0, accessSize).u64(address);
}

/** 5.2.9, table 5-34 "Fixed ACPI Description Table Fixed Feature Flags". */
const FADT_FLAG = {
  WBINVD: 1 << 0,
  PROC_C1: 1 << 2,
  SLP_BUTTON: 1 << 5, // no fixed one
  TMR_VAL_EXT: 1 << 8,
  RESET_REG_SUP: 1 << 10,
} as const;
/** 5.2.9.3 "IA-PC Boot Architecture Flags": ISA devices and an 8042. */
const BOOT_ARCH = { LEGACY_DEVICES: 1 << 0, I8042: 1 << 1, VGA_NOT_PRESENT: 1 << 2 } as const;

/** 5.2.9 "Fixed ACPI Description Table", revision 6 (ACPI 6.4: FADT major version 6, minor 4). */
function fadt(options: AcpiOptions, facsAt: number, dsdtAt: number): Uint8Array {
  const pm = PORTS.ACPI.first;
  const out = new ByteWriter()
    .u32(facsAt)
    .u32(dsdtAt)
    .u8(0, 1) // reserved; preferred profile: desktop
    .u16(IRQ.SCI)
    .u32(PORTS.SMI.first)
    .u8(ACPI_VALUES.ENABLE, ACPI_VALUES.DISABLE, 0, 0)
    .u32(pm + PM.PM1_STS)
    .u32(0)
    .u32(pm + PM.PM1_CNT)
    .u32(0)
    .u32(0)
    .u32(pm + PM.PM_TMR)
    .u32(pm + PM.GPE_STS)
    .u32(0)
    .u8(4, 2, 0, 4, 4, 0, 0, 0) // lengths of PM1 event, PM1 control, PM2, timer, GPE0, GPE1; GPE1 base; no _CST
    .u16(0xfff) // C2 and C3 are not there
    .u16(0xfff)
    .u16(0)
    .u16(0)
    .u8(0, 0) // duty cycle
    .u8(0, 0, 0x32) // in the CMOS: no day alarm, no month alarm, the century
    .u16(BOOT_ARCH.LEGACY_DEVICES | BOOT_ARCH.I8042 | BOOT_ARCH.VGA_NOT_PRESENT)
    .u8(0)
    .u32(
      FADT_FLAG.WBINVD |
        FADT_FLAG.PROC_C1 |
        FADT_FLAG.SLP_BUTTON |
        FADT_FLAG.RESET_REG_SUP |
        (options.timerBits === 32 ? FADT_FLAG.TMR_VAL_EXT : 0),
    );
  genericAddress(out, 1, 8, 0xcf9).u8(ACPI_VALUES.RESET);
  out.u16(0).u8(4); // ARM flags; minor version
  out.u64(0).u64(dsdtAt); // X_FIRMWARE_CTRL stays 0: only one of the two may be given
  genericAddress(out, 1, 32, pm + PM.PM1_STS);
  genericAddress(out, 0, 0, 0);
  genericAddress(out, 1, 16, pm + PM.PM1_CNT);
  genericAddress(out, 0, 0, 0);
  genericAddress(out, 0, 0, 0);
  genericAddress(out, 1, 32, pm + PM.PM_TMR);
  genericAddress(out, 1, 32, pm + PM.GPE_STS);
  genericAddress(out, 0, 0, 0);
  genericAddress(out, 0, 0, 0); // sleep control and status: not hardware-reduced
  genericAddress(out, 0, 0, 0);
  out.u64(0); // hypervisor vendor identity
  assert(HEADER_BYTES + out.length === 276, 'an ACPI 6.4 FADT is 276 bytes long');
  return table('FACP', 6, out.done());
}

/** 5.2.10 "Firmware ACPI Control Structure": no header, no checksum. */
function facs(): Uint8Array {
  return new ByteWriter().text('FACS', 4).u32(64).zeros(24).u8(2).zeros(31).done();
}

/** Active high, level-triggered: MPS INTI flags, table 5-61. */
const LEVEL_HIGH = 0x0d;
/** x2APIC ids from 255 on have structures of their own. */
const XAPIC_IDS = 255;

/** 5.2.12 "Multiple APIC Description Table". */
function madt(options: AcpiOptions): Uint8Array {
  const out = new ByteWriter().u32(PHYSICAL.LOCAL_APIC).u32(1); // there are 8259s as well
  for (let id = 0; id < options.cpus; id += 1) {
    if (id < XAPIC_IDS) out.u8(0, 8, id, id).u32(1);
    else out.u8(9, 16).u16(0).u32(id).u32(1).u32(id);
  }
  out.u8(1, 12, IO_APIC_ID, 0).u32(PHYSICAL.IO_APIC).u32(0);
  const override = (irq: number, gsi: number, flags: number) => out.u8(2, 10, 0, irq).u32(gsi).u16(flags);
  override(IRQ.PIT, 2, 0); // conforms to the bus: edge, high
  for (const irq of new Set([IRQ.SCI, ...IRQ.PCI_LINKS])) override(irq, irq, LEVEL_HIGH);
  out.u8(4, 6, 0xff).u16(0).u8(1); // NMI at LINT1 of every local APIC
  if (options.cpus > XAPIC_IDS) out.u8(10, 12).u16(0).u32(0xffff_ffff).u8(1, 0, 0, 0);
  return table('APIC', 5, out.done());
}

/** As in QEMU. A local APIC may have the same: they are different buses since the Pentium 4. */
const IO_APIC_ID = 0;

/** IA-PC HPET Specification 1.0a, 3.2.4 "The ACPI 2.0 HPET Description Table". */
function hpet(): Uint8Array {
  const out = new ByteWriter().u32(BLOCK_ID);
  genericAddress(out, 0, 0, PHYSICAL.HPET);
  return table('HPET', 1, out.u8(0).u16(PERIODIC_TICKS_MIN).u8(0).done());
}

/**
 * Writes all tables into the area at 0xe0000 and returns the address of the root pointer.
 *
 *   0xe0000  RSDP    0xe0040  FACS (64-byte-aligned)    then DSDT, FADT, MADT, HPET, RSDT, XSDT
 */
export function writeAcpiTables(memory: GuestMemory, options: AcpiOptions): number {
  const rsdpAt = PHYSICAL.ACPI_TABLES;
  let free = rsdpAt + 0x40;
  const put = (bytes: Uint8Array): number => {
    const at = free;
    assert(at + bytes.length <= PHYSICAL.ACPI_TABLES_END, 'the ACPI tables fit their 64 KiB');
    const copied = memory.copyIn(physical(at), bytes);
    assert(copied === bytes.length, 'there is RAM where the ACPI tables go');
    free = Math.ceil((at + bytes.length) / 64) * 64;
    return at;
  };

  const facsAt = put(facs());
  const dsdtAt = put(table('DSDT', 2, dsdtBody(options)));
  const roots = [put(fadt(options, facsAt, dsdtAt)), put(madt(options))];
  if (options.hpet) roots.push(put(hpet()));
  const rsdt = new ByteWriter();
  const xsdt = new ByteWriter();
  for (const root of roots) {
    rsdt.u32(root);
    xsdt.u64(root);
  }
  const rsdtAt = put(table('RSDT', 1, rsdt.done()));
  const xsdtAt = put(table('XSDT', 1, xsdt.done()));
  const copied = memory.copyIn(physical(rsdpAt), rsdp(rsdtAt, xsdtAt));
  assert(copied > 0, 'there is RAM where the ACPI tables go');
  return rsdpAt;
}

/** 5.2.5.3 "Root System Description Pointer Structure": one checksum over the first 20 bytes, one over all. */
function rsdp(rsdtAt: number, xsdtAt: number): Uint8Array {
  const bytes = new ByteWriter()
    .text('RSD PTR ', 8)
    .u8(0)
    .text(OEM.ID, 6, 0x20)
    .u8(2)
    .u32(rsdtAt)
    .u32(36)
    .u64(xsdtAt)
    .u8(0, 0, 0, 0)
    .done();
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[32] = checksum(bytes);
  return bytes;
}
