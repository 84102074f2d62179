import { ACPI_VALUES, IRQ, PCI_SLOTS, PHYSICAL, PORTS, pciLinkOf } from '../layout.ts';
import * as aml from './aml.ts';

/** What of the platform the guest is told in AML. */
export interface DsdtOptions {
  readonly cpus: number;
  /** COM ports that exist, 1..4. */
  readonly serialPorts: readonly number[];
  readonly hpet: boolean;
  /** S3 is only offered if somebody suspends the CPUs. */
  readonly suspendToRam: boolean;
}

const SERIAL = {
  1: { ports: PORTS.COM1, irq: IRQ.COM1 },
  2: { ports: PORTS.COM2, irq: IRQ.COM2 },
  3: { ports: PORTS.COM3, irq: IRQ.COM1 },
  4: { ports: PORTS.COM4, irq: IRQ.COM2 },
} as const;

const LINKS = ['LNKA', 'LNKB', 'LNKC', 'LNKD'] as const;
const PRESENT_AND_WORKING = 0x0f;

const isaDevice = (name: string, id: string, ...resources: aml.Aml[]): aml.Aml =>
  aml.device(name, aml.name('_HID', aml.eisaId(id)), aml.name('_CRS', aml.resources(...resources)));

const ports = (range: { readonly first: number; readonly count: number }): aml.Aml =>
  aml.ioPorts(range.first, range.count);

/**
 * A PCI interrupt link that is wired: `_SRS` has nothing to set. Links rather than plain numbers in `_PRT`, because
 * only a link can say "active high" (ACPI 6.4, 6.2.13 "_PRT": a number means level, active low).
 */
function interruptLink(index: number): aml.Aml {
  const irq = aml.resources(aml.levelInterrupt(IRQ.PCI_LINKS[index]!));
  return aml.device(
    LINKS[index]!,
    aml.name('_HID', aml.eisaId('PNP0C0F')),
    aml.name('_UID', aml.integer(index)),
    aml.name('_STA', aml.integer(0x0b)), // present, enabled, working; not shown
    aml.name('_PRS', irq),
    aml.name('_CRS', irq),
    aml.method('_DIS', 0),
    aml.method('_SRS', 1),
  );
}

function routing(): aml.Aml {
  const rows: aml.Aml[] = [];
  for (let slot = 0; slot < PCI_SLOTS; slot += 1) {
    for (let pin = 0; pin < 4; pin += 1) {
      const link = aml.nameString(LINKS[pciLinkOf(slot, pin)]!);
      rows.push(aml.pack(aml.integer(slot * 0x1_0000 + 0xffff), aml.integer(pin), link, aml.integer(0)));
    }
  }
  return aml.pack(...rows);
}

function pciRoot(): aml.Aml {
  const before = PORTS.PCI_CONFIG.first - 1;
  const after = PORTS.PCI_CONFIG.first + PORTS.PCI_CONFIG.count;
  return aml.device(
    'PCI0',
    aml.name('_HID', aml.eisaId('PNP0A03')),
    aml.name('_UID', aml.integer(0)),
    aml.name(
      '_CRS',
      aml.resources(
        aml.busNumbers(0, 0xff),
        aml.ioPorts(PORTS.PCI_CONFIG.first, PORTS.PCI_CONFIG.count),
        aml.portWindow(0, before),
        aml.portWindow(after, 0xffff),
        aml.memoryWindow(PHYSICAL.VGA_WINDOW, PHYSICAL.ROM_AREA - 1),
        aml.memoryWindow(PHYSICAL.PCI_WINDOW, PHYSICAL.PCI_WINDOW_END - 1),
      ),
    ),
    aml.name('_PRT', routing()),
    isaBridge(),
  );
}

function isaBridge(): aml.Aml {
  return aml.device(
    'ISA',
    aml.name('_ADR', aml.integer(0x0001_0000)), // slot 1, function 0
    isaDevice('RTC', 'PNP0B00', ports(PORTS.CMOS), aml.isaIrq(IRQ.RTC)),
    isaDevice('KBD', 'PNP0303', ports(PORTS.KEYBOARD_DATA), ports(PORTS.KEYBOARD_COMMAND), aml.isaIrq(IRQ.KEYBOARD)),
    isaDevice('MOU', 'PNP0F13', aml.isaIrq(IRQ.MOUSE)), // the port: nothing is plugged in
    isaDevice('PIC', 'PNP0000', aml.ioPorts(0x20, 2), aml.ioPorts(0xa0, 2), aml.isaIrq(2)),
    isaDevice('TIMR', 'PNP0100', aml.ioPorts(0x40, 4), aml.isaIrq(IRQ.PIT)),
    isaDevice('SPKR', 'PNP0800', aml.ioPorts(0x61, 1)),
  );
}

function serialPort(number: number): aml.Aml {
  const { ports: range, irq } = SERIAL[number as keyof typeof SERIAL];
  return aml.device(
    `COM${number}`,
    aml.name('_HID', aml.eisaId('PNP0501')),
    aml.name('_UID', aml.integer(number)),
    aml.name('_STA', aml.integer(PRESENT_AND_WORKING)),
    aml.name('_CRS', aml.resources(ports(range), aml.isaIrq(irq))),
  );
}

/** Everything at fixed places that belongs to no device: so that nobody puts a BAR there. */
function motherboard(): aml.Aml {
  return aml.device(
    'MB',
    aml.name('_HID', aml.eisaId('PNP0C02')),
    aml.name(
      '_CRS',
      aml.resources(
        ports(PORTS.POST),
        ports(PORTS.SYSTEM_CONTROL_A),
        ports(PORTS.SMI),
        ports(PORTS.FW_CFG),
        ports(PORTS.ACPI),
        aml.fixedMemory(PHYSICAL.IO_APIC, 0x1000, true),
        aml.fixedMemory(PHYSICAL.LOCAL_APIC, 0x1000, true),
      ),
    ),
  );
}

function hpetDevice(): aml.Aml {
  return aml.device(
    'HPET',
    aml.name('_HID', aml.eisaId('PNP0103')),
    aml.name('_UID', aml.integer(0)),
    aml.name('_CRS', aml.resources(aml.fixedMemory(PHYSICAL.HPET, 0x400, false))),
  );
}

function processor(index: number): aml.Aml {
  return aml.device(
    `C${index.toString(16).toUpperCase().padStart(3, '0')}`,
    aml.name('_HID', aml.string('ACPI0007')),
    aml.name('_UID', aml.integer(index)),
  );
}

const sleepState = (type: number): aml.Aml =>
  aml.pack(aml.integer(type), aml.integer(type), aml.integer(0), aml.integer(0));

/** The body of the DSDT: the definition block without its header. */
export function dsdtBody(options: DsdtOptions): Uint8Array {
  const system = [
    ...LINKS.map((_, index) => interruptLink(index)), // before _PRT names them
    pciRoot(),
    ...options.serialPorts.map(serialPort),
    ...(options.hpet ? [hpetDevice()] : []),
    motherboard(),
    ...Array.from({ length: options.cpus }, (_, index) => processor(index)),
  ];
  return Uint8Array.from([
    ...(options.suspendToRam ? aml.name('\\_S3', sleepState(ACPI_VALUES.SLEEP_S3)) : []),
    ...aml.name('\\_S5', sleepState(ACPI_VALUES.SLEEP_S5)),
    ...aml.scope('\\_SB', ...system),
  ]);
}
