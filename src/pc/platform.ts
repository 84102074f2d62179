import type { L1Physical } from '../base/address.ts';
import { assert, UserError } from '../base/assert.ts';
import { byteSize } from '../base/format.ts';
import type { Clock, WallTime } from '../contracts/clock.ts';
import type { Bus, IrqLine, PortDevice, PowerControl } from '../contracts/device.ts';
import type { GuestMemory } from '../contracts/memory.ts';
import { PowerManagement } from './acpi/power-management.ts';
import { writeAcpiTables } from './acpi/tables.ts';
import { writeFirmwareRemains } from './boot/firmware.ts';
import { ByteWriter, cString } from './bytes.ts';
import {
  DebugConsole,
  DebugExit,
  PostPort,
  TEST_MEMORY_BYTES,
  TestEcho,
  TestIrqLines,
  TestMemory,
  TestUnmap,
} from './debug/ports.ts';
import { FW_CFG, FwCfg } from './fw-cfg/fw-cfg.ts';
import { Hpet } from './hpet/hpet.ts';
import { HPET } from './hpet/registers.ts';
import { I8042, SystemControlPortA } from './keyboard/i8042.ts';
import { CPUS_MAX, type E820Entry, e820Map, IO_APIC_PINS, IRQ, PHYSICAL, PORTS, physical, RAM_MIN } from './layout.ts';
import { PciAddressSpace } from './pci/address-space.ts';
import { PciBus } from './pci/bus.ts';
import { hostBridge, isaBridge, powerManagementFunction } from './pci/chipset.ts';
import { Mc146818 } from './rtc/mc146818.ts';
import { Uart16550 } from './serial/uart16550.ts';
import { buildSmbios, writeSmbios } from './smbios/smbios.ts';
import type { Processor } from './smbios/structures.ts';
import { type BlockStore, VirtioBlock } from './virtio/block.ts';
import type { VirtioDevice } from './virtio/device.ts';
import { VirtioPci } from './virtio/pci-transport.ts';
import { VirtioRandom } from './virtio/random.ts';
import { sharedLines } from './wired-or.ts';

/** What the platform is plugged into. */
export interface PlatformWires {
  readonly bus: Bus;
  /**
   * The line of an ISA IRQ (0..15: at the 8259 pair and at the I/O APIC, IRQ 0 at its pin 2) or of a GSI (16..23).
   * Asked for once per line; several devices on one line are joined here.
   */
  readonly irq: (gsi: number) => IrqLine;
  readonly clock: Clock;
  readonly wallTime: WallTime;
  readonly memory: GuestMemory;
  readonly power: PowerControl;
  /** A message-signalled interrupt: a write of `data` to an address at 0xfeexxxxx. */
  readonly deliverMsi: (addressLo: number, addressHi: number, data: number) => void;
  /** The HPET takes IRQ 0 from the PIT, or gives it back. */
  readonly pitBlocked?: (blocked: boolean) => void;
  /** Port 70H bit 7: the NMI line reaches no processor. */
  readonly maskNmi?: (masked: boolean) => void;
  /** pc-testdev wants the page at this address unmapped in L0. */
  readonly unmapPage?: (page: L1Physical) => void;
  /** The guest enters S3: stop its CPUs until `Platform.wakeUp` says so. Left out, S3 is not offered. */
  readonly suspend?: () => void;
}

/** What the machine is made of. Every default is here. */
export interface PlatformOptions {
  readonly ramBytes: number;
  readonly cpus: number;
  /** For fw_cfg: CPUs there could be. Default: `cpus`. */
  readonly maxCpus?: number;
  /** COM1 first, at most four: where each byte goes. Default: COM1, to nowhere. */
  readonly serial?: readonly ((byte: number) => void)[];
  /** Bytes written to ports 0xe9 and 0x402. Default: dropped. */
  readonly debugText?: (byte: number) => void;
  /** `-device isa-debug-exit,iobase=,iosize=`. Default: none. */
  readonly debugExit?: { readonly iobase: number; readonly iosize: number };
  /** `-device pc-testdev`. Default: absent. */
  readonly testDevice?: boolean;
  /** Default: present. */
  readonly hpet?: boolean;
  /** Width of the ACPI timer. Default: 24 bits, as the PIIX4's. */
  readonly pmTimerBits?: 24 | 32;
  /** Off: no tables are written. Default: on. */
  readonly acpi?: boolean;
  /** 16 bytes in the order of their text. Default: all zeros, which means none. */
  readonly uuid?: Uint8Array;
  /** What SMBIOS says of the CPUs. */
  readonly processor?: Processor;
  /** `-fw_cfg name=,file=`. */
  readonly fwCfgFiles?: readonly { readonly name: string; readonly bytes: Uint8Array }[];
  /** `-drive if=virtio`: one virtio-blk each, in slots from 2 on. Default: none. */
  readonly drives?: readonly { readonly store: BlockStore; readonly serial?: string }[];
  /** `-device virtio-rng-pci`: where its bytes come from. Default: absent. */
  readonly random?: (into: Uint8Array) => void;
  /** For fw_cfg readers; loaders put the kernel into memory themselves. */
  readonly commandLine?: string;
  readonly kernel?: Uint8Array;
  readonly initrd?: Uint8Array;
}

export interface Platform {
  /** COM1 first. `receive` is the host's end of the cable. */
  readonly serial: readonly Uart16550[];
  readonly keyboard: I8042;
  readonly fwCfg: FwCfg;
  readonly pci: PciBus;
  /** Bit 20 of addresses reaches memory. Nothing masks it here; firmware-less machines start with it on. */
  readonly a20: { enabled: boolean };
  readonly e820: readonly E820Entry[];
  /** Address of the ACPI root pointer, or undefined without ACPI. */
  readonly rsdp: number | undefined;
  pressPowerButton(): void;
  /** Suspended in S3: has an event come that ends it? Then call `wakeUp`. */
  readonly wakePending: boolean;
  /** Ends S3; the FACS says where the guest goes on. Returns the real-mode address, 0 if the guest left none. */
  wakeUp(): number;
  /**
   * All devices back to power-on, BARs assigned, vectors and ACPI tables written anew. What the host sent to COM ports
   * waits.
   *
   * @returns  `null`: boot again. Otherwise the guest had left a shutdown code in the CMOS (byte 0x0f: 5 or 0xa), as a
   *           80286 does to come back from protected mode: memory is as it was, and the boot processor goes on in real
   *           mode at this address, which the guest stored at 0040:0067.
   */
  reset(): { readonly segment: number; readonly offset: number } | null;
}

const COM = [
  { ports: PORTS.COM1, irq: IRQ.COM1 },
  { ports: PORTS.COM2, irq: IRQ.COM2 },
  { ports: PORTS.COM3, irq: IRQ.COM1 },
  { ports: PORTS.COM4, irq: IRQ.COM2 },
] as const;

/** Passes on a line unless it is blocked; remembers what it would have said. */
function gated(line: IrqLine): { line: IrqLine; block: (blocked: boolean) => void } {
  let wanted = false;
  let blocked = false;
  return {
    line: {
      set: (level) => {
        wanted = level;
        if (!blocked) line.set(level);
      },
    },
    block: (now) => {
      blocked = now;
      line.set(!blocked && wanted);
    },
  };
}

/**
 * Puts the whole platform onto a bus, in its state after power-on, and writes into memory what firmware leaves there:
 * real-mode vectors, data areas, ACPI tables. The memory's first MiB, without 0xa0000..0xdffff, must be RAM by then.
 *
 * @throws UserError for less RAM than `RAM_MIN`, for a number of CPUs that is not 1..`CPUS_MAX`.
 *
 * Not here: the 8259s, the 8254, ELCR and port 0x61. For these, play `SELF_TEST_PORT_WRITES` on the bus.
 */
export function createPlatform(wires: PlatformWires, options: PlatformOptions): Platform {
  const { bus, clock, memory, power } = wires;
  const { ramBytes, cpus } = options;
  if (ramBytes < RAM_MIN) {
    throw new UserError(
      `the machine has ${byteSize(ramBytes)} of RAM, but it takes at least ${byteSize(RAM_MIN)}: use a larger -m.`,
    );
  }
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > CPUS_MAX) {
    throw new UserError(`the machine has ${cpus} CPUs, expected 1 to ${CPUS_MAX}: change -smp.`);
  }
  const line = sharedLines(wires.irq);
  const a20 = { enabled: true };
  const reset = (reason: string) => power.reset(reason);
  const put = (range: { first: number; count: number }, device: PortDevice, name: string) =>
    bus.addPorts(range.first, range.count, device, name);

  const sinks = options.serial ?? [() => {}];
  assert(sinks.length <= COM.length, 'there are at most four COM ports');
  const serial = sinks.map((transmit, index) => {
    const { ports, irq } = COM[index]!;
    const uart = new Uart16550({ irq: line(irq), transmit });
    put(ports, uart, `COM${index + 1}`);
    return uart;
  });

  const pm = new PowerManagement({
    clock,
    sci: line(IRQ.SCI),
    power,
    timerBits: options.pmTimerBits ?? 24,
    suspend: wires.suspend,
  });
  put(PORTS.ACPI, pm, 'ACPI fixed hardware');
  put(PORTS.SMI, smiPorts(pm), 'SMI command');

  const rtcLine = gated(line(IRQ.RTC));
  let rtcLevel = false;
  const rtcIrq: IrqLine = {
    set: (level) => {
      if (level && !rtcLevel) pm.rtcAlarm();
      rtcLevel = level;
      rtcLine.line.set(level);
    },
  };
  const { wallTime } = wires;
  const maskNmi = (masked: boolean) => wires.maskNmi?.(masked);
  const rtc = new Mc146818({ clock, wallTime, irq: rtcIrq, ramBytes, cpus, maskNmi });
  put(PORTS.CMOS, rtc, 'RTC and CMOS');

  const withHpet = options.hpet ?? true;
  const hpet = new Hpet({
    clock,
    line,
    legacyLines: [line(IRQ.PIT), line(IRQ.RTC)],
    deliverMsi: (address, data) => wires.deliverMsi(address, 0, data),
    onLegacyReplacement: (on) => {
      rtcLine.block(on);
      wires.pitBlocked?.(on);
    },
  });
  if (withHpet) bus.addMmio(PHYSICAL.HPET, HPET.BYTES, hpet, 'HPET');

  const keyboard = new I8042({ irq: line(IRQ.KEYBOARD), auxIrq: line(IRQ.MOUSE), reset, a20 });
  put(PORTS.KEYBOARD_DATA, keyboard.data, '8042 data');
  put(PORTS.KEYBOARD_COMMAND, keyboard.command, '8042 command');
  const portA = new SystemControlPortA({ reset, a20 });
  put(PORTS.SYSTEM_CONTROL_A, portA, 'system control port A');

  const space = new PciAddressSpace(bus, ramBytes);
  const pci = new PciBus({ space, irq: line, reset });
  pci.add(0, 0, hostBridge());
  pci.add(1, 0, isaBridge());
  pci.add(1, 3, powerManagementFunction());
  put(PORTS.PCI_CONFIG, pci, 'PCI configuration');
  const virtio: VirtioPci[] = [];
  const plug = (device: VirtioDevice) => {
    const transport = new VirtioPci(device, memory, wires.deliverMsi);
    pci.add(pci.freeSlot(), 0, transport.pci);
    virtio.push(transport);
  };
  for (const drive of options.drives ?? []) plug(new VirtioBlock({ memory, ...drive }));
  if (options.random) plug(new VirtioRandom({ memory, fill: options.random }));

  const e820 = e820Map(ramBytes);
  const fwCfg = new FwCfg(memory);
  describeMachine(fwCfg, options, e820);
  const smbios = buildSmbios(options);
  fwCfg.addFile('etc/smbios/smbios-anchor', smbios.anchor);
  fwCfg.addFile('etc/smbios/smbios-tables', smbios.table);
  put(PORTS.FW_CFG, fwCfg, 'fw_cfg');

  const print = options.debugText ?? (() => {});
  put(PORTS.POST, new PostPort(), 'POST');
  put(PORTS.DEBUG_BOCHS, new DebugConsole(0xe9, print), 'debug console');
  put(PORTS.DEBUG_SEABIOS, new DebugConsole(0xe9, print), 'firmware debug console');
  if (options.debugExit) {
    const { iobase, iosize } = options.debugExit;
    bus.addPorts(iobase, iosize, new DebugExit(power), 'isa-debug-exit');
  }
  if (options.testDevice) {
    put(PORTS.TEST_ECHO, new TestEcho(), 'test device echo');
    put(PORTS.TEST_UNMAP, new TestUnmap(wires.unmapPage ?? (() => {})), 'test device unmap');
    const lines = Array.from({ length: IO_APIC_PINS }, (_, gsi) => line(gsi));
    put(PORTS.TEST_IRQ, new TestIrqLines(lines), 'test device lines');
    bus.addMmio(PHYSICAL.TEST_DEVICE, TEST_MEMORY_BYTES, new TestMemory(), 'test device memory');
  }

  const prepareMemory = (): number | undefined => {
    writeFirmwareRemains(memory, serial.length);
    writeSmbios(memory, smbios);
    return (options.acpi ?? true)
      ? writeAcpiTables(memory, {
          cpus,
          serialPorts: serial.map((_, index) => index + 1),
          timerBits: options.pmTimerBits ?? 24,
          hpet: withHpet,
          suspendToRam: wires.suspend !== undefined,
        })
      : undefined;
  };
  const rsdp = prepareMemory();
  pci.assignResources();

  return {
    serial,
    keyboard,
    fwCfg,
    pci,
    a20,
    e820,
    rsdp,
    pressPowerButton: () => pm.pressPowerButton(),
    get wakePending() {
      return pm.wakePending;
    },
    wakeUp: () => {
      pm.wake();
      return rsdp === undefined ? 0 : memory.read32(physical(rsdp + 0x40 + 12)); // FACS: waking vector
    },
    reset: () => {
      for (const device of [...serial, pm, rtc, hpet, keyboard, portA, fwCfg, ...virtio]) device.reset();
      a20.enabled = true;
      pci.reset();
      const code = rtc.takeShutdownCode();
      if (code === 0x05 || code === 0x0a) {
        return { offset: memory.read16(physical(0x467)), segment: memory.read16(physical(0x469)) };
      }
      prepareMemory();
      return null;
    },
  };
}

/** 0xb2 takes the commands of the FADT; 0xb3 is a status byte that software keeps for itself. */
function smiPorts(pm: PowerManagement): PortDevice {
  const bytes = [0, 0];
  return {
    readPort: (offset, size) => (size === 1 ? (bytes[offset] ?? 0xff) : bytes[0]! | (bytes[1]! << 8)),
    writePort: (offset, size, value) => {
      bytes[offset] = value & 0xff;
      if (size > 1) bytes[1] = (value >>> 8) & 0xff;
      if (offset === 0) pm.smiCommand(value & 0xff);
    },
  };
}

/** What fw_cfg says of the machine: sizes, counts, the memory map, and the files given on the command line. */
function describeMachine(fwCfg: FwCfg, options: PlatformOptions, e820: readonly E820Entry[]): void {
  const { ramBytes, cpus } = options;
  const u16 = (value: number) => new ByteWriter().u16(value).done();
  const u32 = (value: number) => new ByteWriter().u32(value).done();
  fwCfg.set(FW_CFG.RAM_SIZE, new ByteWriter().u64(ramBytes).done());
  fwCfg.set(FW_CFG.NB_CPUS, u16(cpus));
  fwCfg.set(FW_CFG.MAX_CPUS, u16(options.maxCpus ?? cpus));
  fwCfg.set(FW_CFG.NOGRAPHIC, u16(1));
  fwCfg.set(FW_CFG.BOOT_MENU, u16(0));
  fwCfg.set(FW_CFG.UUID, options.uuid ?? new Uint8Array(16));
  fwCfg.set(FW_CFG.NUMA, new Uint8Array(8));
  if (options.commandLine !== undefined) {
    const bytes = cString(options.commandLine);
    fwCfg.set(FW_CFG.CMDLINE_SIZE, u32(bytes.length));
    fwCfg.set(FW_CFG.CMDLINE_DATA, bytes);
  }
  if (options.kernel) {
    fwCfg.set(FW_CFG.KERNEL_SIZE, u32(options.kernel.length));
    fwCfg.set(FW_CFG.KERNEL_DATA, options.kernel);
  }
  if (options.initrd) {
    fwCfg.set(FW_CFG.INITRD_SIZE, u32(options.initrd.length));
    fwCfg.set(FW_CFG.INITRD_DATA, options.initrd);
  }
  const map = new ByteWriter();
  for (const entry of e820) map.u64(entry.base).u64(entry.bytes).u32(entry.type);
  fwCfg.addFile('etc/e820', map.done());
  for (const file of options.fwCfgFiles ?? []) fwCfg.addFile(file.name, file.bytes);
}
