import { bits } from '../../base/bits.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ByteWriter } from '../bytes.ts';
import { BOOT, type E820Entry, physical } from '../layout.ts';

const CR0 = bits({ PE: 0, ET: 4, PG: 31 });
const CR4 = bits({ PAE: 5 });
const EFER = bits({ LME: 8, LMA: 10 });

/**
 * A segment register with its hidden part. `accessRights` has the VMCS's format, SDM 3C 24.4.1 "Guest Register State":
 * type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
 */
export interface BootSegment {
  readonly selector: number;
  readonly base: number;
  /** In bytes, last one that is inside. */
  readonly limit: number;
  readonly accessRights: number;
}

/**
 * The boot processor's state when the kernel's first instruction runs. Registers not named here are zero; the other
 * processors wait for INIT and SIPI. All values fit a `number`; interrupts are off.
 */
export interface BootState {
  readonly mode: 'long' | 'protected32';
  readonly rip: number;
  readonly rflags: number;
  readonly rsp: number;
  readonly rax: number;
  readonly rbx: number;
  readonly rcx: number;
  readonly rdx: number;
  readonly rsi: number;
  readonly rdi: number;
  readonly rbp: number;
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
  readonly gdt: { readonly base: number; readonly limit: number };
  readonly idt: { readonly base: number; readonly limit: number };
  readonly cs: BootSegment;
  /** DS, ES, FS, GS and SS alike. */
  readonly ds: BootSegment;
  readonly tr: BootSegment;
  readonly ldtr: BootSegment;
}

/** A file that is handed to the kernel besides itself. */
export interface BootModule {
  readonly bytes: Uint8Array;
  /** What the kernel is told about it: Multiboot's module string, usually the file's name and arguments. */
  readonly commandLine: string;
}

/** What every loader gets. */
export interface BootRequest {
  readonly memory: GuestMemory;
  readonly ramBytes: number;
  readonly e820: readonly E820Entry[];
  /** `-append`. */
  readonly commandLine: string;
  /** Name of the kernel's file: in messages, and what Multiboot puts in front of the command line. */
  readonly kernelName: string;
  /** `-initrd`: one file, or for Multiboot any number. */
  readonly modules: readonly BootModule[];
  /** Where the ACPI root pointer is, if there is one. */
  readonly rsdp?: number;
  /** Linux `struct setup_data` entries to be linked in, by type. */
  readonly setupData?: readonly { readonly type: number; readonly bytes: Uint8Array }[];
}

export type KernelFormat = 'bzimage' | 'multiboot' | 'pvh' | 'elf';

export interface LoadedKernel {
  readonly format: KernelFormat;
  readonly state: BootState;
  /** First byte of the loaded kernel and the first one after it, for messages and debuggers. */
  readonly start: number;
  readonly end: number;
}

/**
 * Selectors of the GDT that loaders leave in low memory. 0x10 and 0x18 are Linux's __BOOT_CS and __BOOT_DS.
 *
 *   0x08  code, 64 bits       0x10  code, 64 or 32 bits as booted    0x18  data, flat    0x20  task (a 32-bit TSS)
 */
const SELECTOR = { CODE64: 0x08, CODE: 0x10, DATA: 0x18, TASK: 0x20 } as const;

const ACCESS = {
  CODE32: 0xc09b, // G, D, present, code, readable, accessed
  CODE64: 0xa09b, // G, L
  DATA: 0xc093, //   G, B, present, data, writable, accessed
  TSS: 0x008b, //    present, 32-bit TSS, busy
  UNUSABLE: 0x1_0000,
} as const;

/** SDM 3A 3.4.5 "Segment Descriptors": base 0, limit 4 GiB or `limit`. */
function descriptor(accessRights: number, limit: number): ByteWriter {
  const units = accessRights & 0x8000 ? Math.floor(limit / 4096) : limit;
  return new ByteWriter()
    .u16(units & 0xffff)
    .u16(0)
    .u8(0, accessRights & 0xff, ((accessRights >> 8) & 0xf0) | (units >> 16), 0);
}

type Registers = Partial<Pick<BootState, 'rax' | 'rbx' | 'rcx' | 'rdx' | 'rsi' | 'rdi' | 'rbp' | 'rsp'>>;

const FLAT_LIMIT = 0xffff_ffff;
const TSS_LIMIT = 0x67;

function writeGdt(memory: GuestMemory, code: number, at: number): BootState['gdt'] {
  const gdt = new ByteWriter()
    .zeros(8)
    .bytes(descriptor(ACCESS.CODE64, FLAT_LIMIT).done())
    .bytes(descriptor(code, FLAT_LIMIT).done())
    .bytes(descriptor(ACCESS.DATA, FLAT_LIMIT).done())
    .bytes(descriptor(ACCESS.TSS, TSS_LIMIT).done())
    .done();
  memory.copyIn(physical(at), gdt);
  return { base: at, limit: gdt.length - 1 };
}

function stateOf(mode: BootState['mode'], gdt: BootState['gdt'], entry: number, registers: Registers): BootState {
  const long = mode === 'long';
  return {
    mode,
    rip: entry,
    rflags: 2,
    rsp: BOOT.STACK_TOP,
    rax: 0,
    rbx: 0,
    rcx: 0,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    rbp: 0,
    ...registers,
    cr0: (CR0.PE | CR0.ET | (long ? CR0.PG : 0)) >>> 0,
    cr3: long ? BOOT.PAGE_TABLES : 0,
    cr4: long ? CR4.PAE : 0,
    efer: long ? EFER.LME | EFER.LMA : 0,
    gdt,
    idt: { base: 0, limit: 0 },
    cs: {
      selector: SELECTOR.CODE,
      base: 0,
      limit: FLAT_LIMIT,
      accessRights: long ? ACCESS.CODE64 : ACCESS.CODE32,
    },
    ds: { selector: SELECTOR.DATA, base: 0, limit: FLAT_LIMIT, accessRights: ACCESS.DATA },
    tr: { selector: SELECTOR.TASK, base: 0, limit: TSS_LIMIT, accessRights: ACCESS.TSS },
    ldtr: { selector: 0, base: 0, limit: 0, accessRights: ACCESS.UNUSABLE },
  };
}

/** 32-bit protected mode, flat segments, no paging: what Multiboot, PVH and Linux's 32-bit protocol want. */
export function protectedModeState(
  memory: GuestMemory,
  entry: number,
  registers: Registers,
  gdtAt: number = BOOT.GDT,
): BootState {
  return stateOf('protected32', writeGdt(memory, ACCESS.CODE32, gdtAt), entry, registers);
}

/**
 * Long mode with the first 4 GiB identity-mapped in 2 MiB pages. Linux's 64-bit protocol wants the kernel, the
 * zero page and the command line mapped one to one; all of them are below 4 GiB here.
 */
export function longModeState(memory: GuestMemory, entry: number, registers: Registers): BootState {
  const present = 0x3; // P, RW
  const pageDirectories = BOOT.PAGE_TABLES + 2 * 4096;
  const tables = new ByteWriter().u64((BOOT.PAGE_TABLES + 4096) | present).zeros(4096 - 8);
  for (let gib = 0; gib < 4; gib += 1) tables.u64((pageDirectories + gib * 4096) | present);
  tables.zeros(4096 - 32);
  for (let page = 0; page < 4 * 512; page += 1) tables.u64(page * 0x20_0000 + 0x83); // PS
  memory.copyIn(physical(BOOT.PAGE_TABLES), tables.done());
  return stateOf('long', writeGdt(memory, ACCESS.CODE64, BOOT.GDT), entry, registers);
}
